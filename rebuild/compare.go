package rebuild

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// Image is one of the two that are compared.
type Image struct {
	Manifest *oci.Manifest
	Config   []byte
	// Layer opens a layer as it is stored. Its bytes are checked against the
	// digest by whoever provides them.
	Layer func(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error)
}

// Where a difference is.
const (
	InManifest = "manifest" // a field of the manifest
	InConfig   = "config"   // a field of the image config
	InLayer    = "layer"    // a layer as such: its number, or its compression
	InFile     = "file"     // a file's content, or that it is there
	InMetadata = "metadata" // a file's owner, mode, time or attributes
)

// Difference is one thing that two builds do not share.
type Difference struct {
	Where    string `json:"where"`
	Path     string `json:"path"` // of the field, or layer number and file
	Original string `json:"original"`
	Rebuilt  string `json:"rebuilt"`
}

// Bounds on a comparison.
const (
	maxDifferences = 200
	maxFiles       = 500_000  // of one layer
	maxLayerBytes  = 16 << 30 // of one layer, uncompressed, holes of sparse files included
	maxNames       = 64 << 20 // bytes of the names and attributes of one layer
	maxShown       = 120      // bytes of a value in a difference
)

// ErrCompare reports an image that cannot be taken apart.
var ErrCompare = errors.New("the images cannot be compared")

// Compare lists what differs, from the outside in. No differences means that
// the two are the same, bit for bit. At most 200 are listed.
func Compare(ctx context.Context, original, rebuilt Image) ([]Difference, error) {
	if original.Manifest.Digest == rebuilt.Manifest.Digest {
		return nil, nil
	}
	c := &comparison{}
	if err := c.documents(InManifest, original.Manifest.Raw, rebuilt.Manifest.Raw, "layers", "config"); err != nil {
		return nil, err
	}
	if !bytes.Equal(original.Config, rebuilt.Config) {
		if err := c.documents(InConfig, original.Config, rebuilt.Config, "rootfs"); err != nil {
			return nil, err
		}
	}
	if err := c.layers(ctx, original, rebuilt); err != nil {
		return nil, err
	}
	if len(c.found) == 0 {
		// Something that no reader sees: white space, or the order of keys.
		c.add(InManifest, "", original.Manifest.Digest.String(), rebuilt.Manifest.Digest.String())
	}
	return c.found, nil
}

type comparison struct{ found []Difference }

func (c *comparison) full() bool { return len(c.found) >= maxDifferences }

func (c *comparison) add(where, path, original, rebuilt string) {
	if !c.full() {
		c.found = append(c.found, Difference{where, path, shorten(original), shorten(rebuilt)})
	}
}

func shorten(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "…"
}

// documents compares two JSON objects field by field; besides names the fields
// that are compared elsewhere.
func (c *comparison) documents(where string, original, rebuilt []byte, besides ...string) error {
	var a, b map[string]any
	for raw, into := range map[*[]byte]*map[string]any{&original: &a, &rebuilt: &b} {
		if err := json.Unmarshal(*raw, into); err != nil {
			return fmt.Errorf("%w: the %s: %w", ErrCompare, where, err)
		}
	}
	for _, key := range besides {
		delete(a, key)
		delete(b, key)
	}
	c.values(where, "", a, b)
	return nil
}

func (c *comparison) values(where, path string, a, b any) {
	if reflect.DeepEqual(a, b) || c.full() {
		return
	}
	am, aIs := a.(map[string]any)
	bm, bIs := b.(map[string]any)
	if aIs && bIs {
		keys := maps.Clone(am)
		maps.Copy(keys, bm)
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			c.values(where, strings.TrimPrefix(path+"."+key, "."), am[key], bm[key])
		}
		return
	}
	al, aIs := a.([]any)
	bl, bIs := b.([]any)
	if aIs && bIs {
		for i := range max(len(al), len(bl)) {
			var x, y any
			if i < len(al) {
				x = al[i]
			}
			if i < len(bl) {
				y = bl[i]
			}
			c.values(where, fmt.Sprintf("%s[%d]", path, i), x, y)
		}
		return
	}
	c.add(where, path, written(a), written(b))
}

func written(v any) string {
	if v == nil {
		return "absent"
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(raw)
}

func (c *comparison) layers(ctx context.Context, original, rebuilt Image) error {
	a, b := original.Manifest.Layers, rebuilt.Manifest.Layers
	if len(a) != len(b) {
		c.add(InLayer, "", strconv.Itoa(len(a))+" layers", strconv.Itoa(len(b))+" layers")
	}
	for i := range min(len(a), len(b)) {
		if a[i].Digest == b[i].Digest || c.full() {
			continue
		}
		where := strconv.Itoa(i)
		x, err := list(ctx, original, a[i])
		if err != nil {
			return fmt.Errorf("%w: layer %d of the original: %w", ErrCompare, i, err)
		}
		y, err := list(ctx, rebuilt, b[i])
		if err != nil {
			return fmt.Errorf("%w: layer %d of the rebuilt image: %w", ErrCompare, i, err)
		}
		if x.diffID == y.diffID {
			c.add(InLayer, where, "stored as "+a[i].Digest.String(), "the same content, compressed otherwise")
			continue
		}
		before := len(c.found)
		c.files(where, x.files, y.files)
		if len(c.found) == before && !c.full() {
			c.add(InLayer, where, x.diffID, y.diffID+": the same files in another order or form")
		}
	}
	return nil
}

func (c *comparison) files(layer string, a, b map[string]file) {
	all := maps.Clone(a)
	maps.Copy(all, b)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		at := layer + ":/" + path
		x, inA := a[path]
		y, inB := b[path]
		switch {
		case !inA:
			c.add(InFile, at, "absent", y.String())
		case !inB:
			c.add(InFile, at, x.String(), "absent")
		case x.kind != y.kind || x.link != y.link || x.size != y.size || x.sum != y.sum:
			c.add(InFile, at, x.String(), y.String())
		}
		if !inA || !inB {
			continue
		}
		for _, m := range []struct{ name, x, y string }{
			{"mode", fmt.Sprintf("%04o", x.mode), fmt.Sprintf("%04o", y.mode)},
			{"owner", x.owner, y.owner}, {"time", x.modified, y.modified}, {"attributes", x.attributes, y.attributes},
		} {
			if m.x != m.y {
				c.add(InMetadata, at, m.name+" "+m.x, m.name+" "+m.y)
			}
		}
	}
}

// file is what a layer says of one name.
type file struct {
	kind       byte
	link       string
	size       int64
	sum        string
	mode       int64
	owner      string
	modified   string
	attributes string
}

func (f file) String() string {
	switch f.kind {
	case tar.TypeReg:
		return fmt.Sprintf("%d bytes, sha256:%.16s…", f.size, f.sum)
	case tar.TypeDir:
		return "folder"
	case tar.TypeSymlink, tar.TypeLink:
		return "link to " + f.link
	}
	return fmt.Sprintf("entry of type %q", f.kind)
}

type listing struct {
	diffID string
	files  map[string]file
}

// list reads a layer once, hashing each file and the whole.
func list(ctx context.Context, of Image, layer oci.Descriptor) (*listing, error) {
	stored, err := of.Layer(ctx, layer)
	if err != nil {
		return nil, err
	}
	defer stored.Close()
	plain, err := decompress(stored)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	whole := digest.SHA256.Digester()
	bounded := &io.LimitedReader{R: interruptible{ctx, plain}, N: maxLayerBytes}
	var names, logical int64
	source := io.TeeReader(bounded, whole.Hash())
	l := &listing{files: map[string]file{}}
	archive := tar.NewReader(source)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		names += int64(len(header.Name) + len(header.Linkname))
		for key, value := range header.PAXRecords {
			names += int64(len(key) + 2*len(value))
		}
		// The size of a sparse file is not that of what is stored of it.
		logical += header.Size
		switch {
		case len(l.files) >= maxFiles:
			return nil, fmt.Errorf("it has more than %d files", maxFiles)
		case names > maxNames:
			return nil, fmt.Errorf("its names and attributes have more than %d bytes", maxNames)
		case header.Size < 0 || logical > maxLayerBytes:
			return nil, fmt.Errorf("its files have more than %d bytes", int64(maxLayerBytes))
		}
		f := file{
			kind: header.Typeflag, link: header.Linkname, size: header.Size, mode: header.Mode,
			owner:    fmt.Sprintf("%d:%d", header.Uid, header.Gid),
			modified: header.ModTime.UTC().Format("2006-01-02T15:04:05.999999999Z"),
		}
		var attributes strings.Builder
		for _, key := range slices.Sorted(maps.Keys(header.PAXRecords)) {
			if name, is := strings.CutPrefix(key, "SCHILY.xattr."); is {
				fmt.Fprintf(&attributes, "%s=%x ", name, header.PAXRecords[key])
			}
		}
		f.attributes = attributes.String()
		if header.Typeflag == tar.TypeReg {
			sum := sha256.New()
			_, err := io.Copy(sum, archive) // #nosec G110 -- bounded above
			if err != nil {
				return nil, err
			}
			f.sum = hex.EncodeToString(sum.Sum(nil))
		}
		l.files[strings.Trim(header.Name, "/")] = f
	}
	if _, err := io.Copy(io.Discard, source); err != nil {
		return nil, err
	}
	if bounded.N <= 0 {
		return nil, fmt.Errorf("it has more than %d bytes, uncompressed", int64(maxLayerBytes))
	}
	l.diffID = whole.Digest().String()
	return l, nil
}

// interruptible ends with its context.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}

// decompress goes by the bytes; the two builds may name their types otherwise.
func decompress(r io.Reader) (io.ReadCloser, error) {
	head := make([]byte, 4)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
		return nil, err
	}
	head = head[:n]
	whole := io.MultiReader(bytes.NewReader(head), r)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(whole)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		decoder, err := zstd.NewReader(whole, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return decoder.IOReadCloser(), nil
	}
	return io.NopCloser(whole), nil
}
