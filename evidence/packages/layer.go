package packages

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/md5"  // #nosec G501 -- what dpkg records of files
	"crypto/sha1" // #nosec G505 -- what apk records of files
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// How whiteouts are written.
//
// https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md#whiteouts
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // of AUFS, at the root; runtimes pass over it
)

const (
	// maxRatio is how many times its stored size a layer may grow to, once it
	// has grown past freeGrowth. Gzip reaches a thousand for zeros alone.
	maxRatio   = 200
	freeGrowth = 64 << 20

	// maxWindow is what zstd's own command allows without being told.
	maxWindow = 128 << 20
)

// sums are the digests of one file, in the algorithms that databases record.
type sums struct {
	sha256 [sha256.Size]byte
	sha1   [sha1.Size]byte
	md5    [md5.Size]byte
}

// layerReader applies layers to the tree.
type layerReader struct {
	tree   *tree
	spool  *spool
	limits Limits
	buffer []byte
	hashes struct{ sha256, sha1, md5 hash.Hash }

	bytes int64 // of all layers, uncompressed
}

func (r *layerReader) read(ctx context.Context, index int, layer Layer) (err error) {
	if strings.HasSuffix(layer.MediaType, "+encrypted") {
		return fmt.Errorf("%w: it is encrypted", ErrArchive)
	}
	stored, err := layer.Open(ctx)
	if err != nil {
		return err
	}
	defer stored.Close()
	in := &counted{ctx: ctx, r: stored}
	plain, done, err := decompress(in)
	if err != nil {
		return refused(ctx, in, err)
	}
	defer done()

	var diff digest.Digester
	if layer.DiffID != "" {
		if _, err := oci.ParseDigest(layer.DiffID.String()); err != nil {
			return err
		}
		diff = layer.DiffID.Algorithm().Digester()
		plain = io.TeeReader(plain, diff.Hash())
	}
	out := &metered{r: plain, in: in, total: &r.bytes, limit: r.limits.Bytes}
	if err := r.archive(out, int16(index)); err != nil {
		return refused(ctx, in, err)
	}
	// What follows the archive is read by nobody, yet belongs to the diff ID.
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{out}, r.buffer); err != nil {
		return refused(ctx, in, err)
	}
	if diff != nil && diff.Digest() != layer.DiffID {
		return fmt.Errorf("%w: its uncompressed bytes hash to %s, the image's config says %s", ErrArchive, diff.Digest(), layer.DiffID)
	}
	return nil
}

// refused tells what is wrong with the bytes from not getting them.
func refused(ctx context.Context, in *counted, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case in.err != nil:
		return in.err
	case errors.Is(err, ErrLimit), errors.Is(err, ErrArchive), errors.Is(err, errSpool):
		return err
	}
	return fmt.Errorf("%w: %w", ErrArchive, err)
}

// errSpool reports a spool that cannot be written: not the layer's fault.
var errSpool = errors.New("keeping a package database")

// decompress looks at the bytes and not at the media type, as runtimes do.
func decompress(in io.Reader) (io.Reader, func(), error) {
	buffered := bufio.NewReaderSize(in, 64<<10)
	magic, err := buffered.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrArchive, err)
		}
		return z, func() { z.Close() }, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) > 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrArchive, err)
		}
		return z, z.Close, nil
	case bytes.HasPrefix(magic, []byte("BZh")), bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return nil, nil, fmt.Errorf("%w: it is compressed with bzip2 or xz; the image specification has gzip and zstd", ErrArchive)
	}
	return buffered, func() {}, nil
}

// counted counts the stored bytes and stops with the context.
type counted struct {
	ctx context.Context
	r   io.Reader
	n   int64
	err error // why no more could be had
}

func (c *counted) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		c.err = context.Cause(c.ctx)
		return 0, c.err
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// metered counts the uncompressed bytes, and those of a sparse file that its
// archive leaves out.
type metered struct {
	r      io.Reader
	in     *counted
	n      int64 // of this layer
	total  *int64
	limit  int64
	inHead bool  // what is read is an entry's headers
	header int64 // bytes that they may still have
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if m.inHead {
		if m.header -= int64(n); m.header < 0 {
			return 0, fmt.Errorf("%w: an entry with too large a header", ErrArchive)
		}
	}
	if spent := m.spend(int64(n)); spent != nil {
		return 0, spent
	}
	return n, err
}

func (m *metered) spend(n int64) error {
	m.n += n
	*m.total += n
	if *m.total > m.limit {
		return fmt.Errorf("%w: more than %d bytes uncompressed", ErrLimit, m.limit)
	}
	if m.n > freeGrowth && m.n/maxRatio > m.in.n {
		return fmt.Errorf("%w: %d stored bytes grow to more than %d", ErrArchive, m.in.n, m.n)
	}
	return nil
}

// archive reads a tar archive.
//
// https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md
func (r *layerReader) archive(out *metered, layer int16) error {
	archive := tar.NewReader(out)
	for {
		out.inHead, out.header = true, r.limits.Header
		header, err := archive.Next()
		out.inHead = false
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if out.in.ctx.Err() != nil {
			return context.Cause(out.in.ctx)
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		name, err := clean(header.Name)
		if err == nil {
			err = r.entry(out, archive, header, name, layer)
		}
		if err != nil {
			return fmt.Errorf("%.200q: %w", header.Name, err)
		}
	}
}

// clean normalises an entry's name. Runtimes read one with ".." in different
// ways, so no image needs it.
func clean(name string) (string, error) {
	if len(name) > maxPath || strings.Contains(name, "\x00") {
		return "", fmt.Errorf("%w: a name that no file system has", ErrArchive)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%w: a name with \"..\" in it", ErrArchive)
		}
		if len(part) > maxName {
			return "", fmt.Errorf("%w: a name of more than %d bytes", ErrArchive, maxName)
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

func (r *layerReader) entry(out *metered, content io.Reader, header *tar.Header, name string, layer int16) error {
	dir, base := path.Split(name)
	if strings.HasPrefix(name, whiteoutMeta) && name != whiteoutOpaque {
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{content}, r.buffer)
		return err
	}
	for part := range strings.SplitSeq(strings.TrimSuffix(dir, "/"), "/") {
		if strings.HasPrefix(part, whiteoutPrefix) {
			return fmt.Errorf("%w: a file below a whiteout", ErrArchive)
		}
	}
	switch {
	case base == whiteoutOpaque:
		r.tree.empty(dir, layer)
		return nil
	case strings.HasPrefix(base, whiteoutPrefix):
		hidden := strings.TrimPrefix(base, whiteoutPrefix)
		if hidden == "" || hidden == "." || hidden == ".." {
			return fmt.Errorf("%w: a whiteout of nothing", ErrArchive)
		}
		r.tree.remove(dir+hidden, layer)
		return nil
	}
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "SCHILY.xattr.trusted.overlay.") || strings.HasPrefix(key, "SCHILY.xattr.user.overlay.") {
			return fmt.Errorf("%w: an attribute that belongs to the overlay file system", ErrArchive)
		}
	}
	if header.Typeflag == tar.TypeLink {
		return r.hardLink(header, name, layer)
	}

	i := &inode{layer: layer}
	switch header.Typeflag {
	case tar.TypeDir:
		return r.folder(name, i)
	case tar.TypeSymlink:
		i.kind, i.link = symlink, strings.Clone(header.Linkname)
		if err := checkLink(dir, i.link); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		i.kind = other
	case tar.TypeReg:
		i.kind, i.size = regular, header.Size
		i.setuid, i.executable = header.Mode&0o6000 != 0, header.Mode&0o111 != 0
		_, i.capabilities = header.PAXRecords["SCHILY.xattr.security.capability"]
	default:
		return fmt.Errorf("%w: an entry of type %q", ErrArchive, header.Typeflag)
	}
	n, err := r.place(name, layer)
	if err != nil {
		return err
	}
	if i.kind == regular {
		if err := r.content(out, content, i); err != nil {
			return err
		}
	}
	n.inode, n.children = i, nil
	return nil
}

// checkLink refuses what Docker and Podman refuse: a link that climbs out of
// the root, which other runtimes end there.
func checkLink(dir, link string) error {
	if link == "" || len(link) > maxPath || strings.Contains(link, "\x00") {
		return fmt.Errorf("%w: a symbolic link without a target that a file system has", ErrArchive)
	}
	depth := strings.Count(dir, "/")
	if strings.HasPrefix(link, "/") {
		depth = 0
	}
	for part := range strings.SplitSeq(link, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return fmt.Errorf("%w: a symbolic link out of the image", ErrArchive)
			}
		default:
			depth++
		}
	}
	return nil
}

// place finds the node for an entry.
func (r *layerReader) place(name string, layer int16) (*node, error) {
	if name == "" {
		return nil, fmt.Errorf("%w: the root is not a folder", ErrArchive)
	}
	n, err := r.tree.make(name, layer)
	if errors.Is(err, errLoop) {
		err = fmt.Errorf("%w: %w", ErrArchive, err)
	}
	return n, err
}

// folder keeps what is in a folder that is there already.
func (r *layerReader) folder(name string, i *inode) error {
	if name == "" {
		r.tree.root.inode = i
		return nil
	}
	n, err := r.place(name, i.layer)
	if err != nil {
		return err
	}
	if !n.is(folder) {
		n.children = nil
	}
	n.inode = i
	return nil
}

func (r *layerReader) hardLink(header *tar.Header, name string, layer int16) error {
	target, err := clean(header.Linkname)
	if err != nil {
		return fmt.Errorf("linked to %.200q: %w", header.Linkname, err)
	}
	to := r.tree.find(target, false)
	if to == nil || to.kind == folder {
		return fmt.Errorf("%w: a hard link to %.200q, which is no file", ErrArchive, header.Linkname)
	}
	linked := to.inode
	n, err := r.place(name, layer)
	if err != nil {
		return err
	}
	if linked.layer != layer {
		// The name belongs to this layer, whichever the content came with.
		copied := *linked
		copied.layer = layer
		linked = &copied
	}
	n.inode, n.children = linked, nil
	return nil
}

// content hashes a file on its way past, and keeps it if a database needs it.
func (r *layerReader) content(out *metered, content io.Reader, i *inode) (err error) {
	if r.hashes.sha256 == nil {
		r.hashes.sha256, r.hashes.sha1, r.hashes.md5 = sha256.New(), sha1.New(), md5.New() // #nosec G401 -- what the distributions' databases record
	}
	for _, h := range []hash.Hash{r.hashes.sha256, r.hashes.sha1, r.hashes.md5} {
		h.Reset()
	}
	var kept *capture
	if at := r.tree.path(); wanted(at) {
		if kept, err = r.spool.create(at); err != nil {
			return fmt.Errorf("%w: %w", errSpool, err)
		}
		defer kept.Close()
		i.database = kept.captured
	}
	read, before := int64(0), out.n
	for read < i.size {
		b := r.buffer[:min(int64(len(r.buffer)), i.size-read)]
		if _, err := io.ReadFull(content, b); err != nil {
			return err
		}
		if read == 0 {
			i.elf = bytes.HasPrefix(b, []byte("\x7fELF"))
		}
		r.hashes.sha256.Write(b)
		r.hashes.sha1.Write(b)
		r.hashes.md5.Write(b)
		if kept != nil {
			if _, err := kept.Write(b); err != nil {
				return fmt.Errorf("%w: %w", errSpool, err)
			}
		}
		read += int64(len(b))
		if sparse := read - (out.n - before); sparse > 0 {
			// The archive leaves out zeros; they cost as much as others.
			if err := out.spend(sparse); err != nil {
				return err
			}
		}
	}
	i.sums = new(sums)
	r.hashes.sha256.Sum(i.sums.sha256[:0])
	r.hashes.sha1.Sum(i.sums.sha1[:0])
	r.hashes.md5.Sum(i.sums.md5[:0])
	return nil
}
