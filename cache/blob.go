package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// Blob opens the cached blob, or joins or starts the one fill for it. The fill
// belongs to the cache and goes on when ctx ends or the Blob is closed.
//
// An upstream that cannot be fetched from is reported here, wrapped. So is
// everything about a blob of at most 32 KiB, since none of its bytes are given
// out before all are checked. ctx also bounds the reads of a blob that is not
// complete.
func (c *Cache) Blob(ctx context.Context, d oci.Descriptor, fetch Fetch) (*Blob, error) {
	if _, err := oci.ParseDigest(d.Digest.String()); err != nil {
		return nil, err
	}
	if d.Size < 0 {
		return nil, fmt.Errorf("%w: %s with %d bytes", ErrLength, d.Digest, d.Size)
	}
	for {
		blob, err := c.openVerified(ctx, d)
		if err != nil {
			return nil, err
		}
		if blob != nil {
			c.Used(d.Digest, c.options.Now())
			return blob, nil
		}
		f, err := c.join(d, fetch)
		if err != nil {
			return nil, err
		}
		if f.size != d.Size {
			// One of two manifests is wrong about this digest. Which one is
			// known when the fill has ended.
			err := f.wait(ctx)
			f.release()
			if err == nil {
				return nil, wrongSize(d, f.size)
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			continue
		}
		return follow(ctx, c, f)
	}
}

// join returns the fill for d with a reference held.
func (c *Cache) join(d oci.Descriptor, fetch Fetch) (*fill, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.fills[d.Digest]; f != nil {
		f.retain()
		return f, nil
	}
	if c.ctx.Err() != nil {
		return nil, ErrClosed
	}
	f := newFill(d)
	f.retain()
	c.fills[d.Digest] = f
	c.owned.Go(func() { c.run(f, fetch) })
	return f, nil
}

func wrongSize(d oci.Descriptor, size int64) error {
	return fmt.Errorf("%w: %s has %d bytes, the manifest says %d", ErrLength, d.Digest, size, d.Size)
}

// openVerified opens a blob that this process has hashed and that has not been
// touched since; nil when there is none.
func (c *Cache) openVerified(ctx context.Context, d oci.Descriptor) (*Blob, error) {
	known, ok := c.verified.Get(d.Digest)
	if !ok {
		return nil, nil
	}
	if blob := c.openSmall(d, known); blob != nil {
		return blob, nil
	}
	found, err := c.openStored(ctx, d.Digest)
	if isPathNotFound(err) {
		c.verified.Remove(d.Digest)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s in the cache: %w", d.Digest, err)
	}
	if !found.stamp.equal(known) {
		c.verified.Remove(d.Digest)
		found.Close()
		return nil, nil
	}
	if known.size != d.Size {
		found.Close()
		return nil, wrongSize(d, known.size)
	}
	if found.file == nil {
		c.read(d.Digest, found)
	} else if d.Size <= smallSize {
		if err := c.keepSmall(d.Digest, found); err != nil {
			c.verified.Remove(d.Digest) // the next look hashes it, and finds out
			found.Close()
			return nil, nil
		}
	}
	return &Blob{size: d.Size, stored: found}, nil
}

// read keeps content from being evicted while it is read. A file needs no such
// thing: it can be read to its end when it has been unlinked.
func (c *Cache) read(d digest.Digest, found *stored) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading[d]++
	found.release = sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.reading[d]--; c.reading[d] == 0 {
			delete(c.reading, d)
		}
	})
}

// follow reads along with a fill and takes over the reference to it.
func follow(ctx context.Context, c *Cache, f *fill) (*Blob, error) {
	b := &Blob{size: f.size, fill: f, cache: c, ctx: ctx}
	var err error
	if f.size > heldBack {
		select {
		case <-f.opened:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err == nil && (f.size <= heldBack || f.ended()) {
		err = b.Wait(ctx)
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	c.Used(f.digest, c.options.Now())
	return b, nil
}

// Blob is one reader of a blob, for one goroutine. It must be closed. The
// context that it was opened with ends a Read that waits.
type Blob struct {
	size   int64
	stored *stored // complete, from the storage

	// Following a fill, where stored is nil.
	fill   *fill
	cache  *Cache
	off    int64
	ctx    context.Context
	closed bool
}

var (
	_ io.ReadSeekCloser = (*Blob)(nil)
	_ syscall.Conn      = (*Blob)(nil)
)

// Size is the length of the whole blob in bytes.
func (b *Blob) Size() int64 { return b.size }

// Complete says whether all of the blob has been verified, so that any part of
// it can be read.
func (b *Blob) Complete() bool {
	if b.stored != nil {
		return true
	}
	return b.fill.ended() && b.fill.wait(b.ctx) == nil
}

// Wait returns when the blob is complete, or why it never will be.
func (b *Blob) Wait(ctx context.Context) error {
	if b.stored != nil {
		return nil
	}
	if b.closed {
		return fs.ErrClosed
	}
	if err := b.fill.wait(ctx); err != nil {
		return err
	}
	b.settle()
	return nil
}

// settle gives a complete blob a file of its own, for the sake of sendfile.
// Without one, or when it is not as it was hashed any more, it goes on reading the
// fill's, which ends with an error before it ends too soon.
func (b *Blob) settle() {
	file, stamp := b.openOwn(b.fill.file)
	switch {
	case file == nil:
	case stamp.equal(b.fill.hashed):
		b.stored = &stored{stamp: stamp, file: file}
	default:
		file.Close()
	}
}

// openOwn opens once more the file that a fill writes, at the place of this
// reader. It is nil when there is no such file any more.
func (b *Blob) openOwn(shared *os.File) (*os.File, stamp) {
	if b.cache.root == "" {
		return nil, stamp{}
	}
	info, err := shared.Stat()
	if err != nil {
		return nil, stamp{}
	}
	for _, path := range []string{shared.Name(), b.cache.filePath(blobDataPath(b.fill.digest))} {
		file, err := os.Open(path)
		if err != nil {
			continue // moved on, or removed
		}
		own, err := file.Stat()
		if err == nil && os.SameFile(info, own) {
			if _, err = file.Seek(b.off, io.SeekStart); err == nil {
				return file, fileStamp(own)
			}
		}
		file.Close()
	}
	return nil, stamp{}
}

// File is the file that a complete blob is read from, at the place that Seek
// set, or nil when the blob is not in a file of its own.
func (b *Blob) File() *os.File {
	if b.stored == nil {
		return nil
	}
	return b.stored.file
}

// SyscallConn lets the kernel copy a complete blob to a socket: net/http looks
// for it on what it is given to send.
func (b *Blob) SyscallConn() (syscall.RawConn, error) {
	if file := b.File(); file != nil {
		return file.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// Read waits for bytes that are on their way. The last of them come when all
// have been verified; an error that matches ErrDigest or ErrLength or comes from
// the fetch takes their place if they are not what they must be.
func (b *Blob) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if b.stored != nil {
		return b.stored.Read(p)
	}
	if b.closed {
		return 0, fs.ErrClosed
	}
	n, err := b.fill.readAt(b.ctx, p, b.off)
	b.off += int64(n)
	return n, err
}

// SendTo writes what Read would return, in the kernel where w can: a blob that is on
// its way has many readers, and a buffer for each of them is much.
func (b *Blob) SendTo(w io.Writer) (int64, error) {
	if b.stored != nil || b.closed {
		return io.Copy(w, b)
	}
	var own *os.File
	var sent int64
	for {
		shared, to, err := b.fill.ahead(b.ctx, b.off)
		if err == io.EOF {
			return sent, nil
		}
		if err != nil {
			return sent, err
		}
		if own == nil {
			if own, _ = b.openOwn(shared); own == nil {
				n, err := io.Copy(w, b)
				return sent + n, err
			}
			defer own.Close()
		}
		n, err := io.Copy(w, &io.LimitedReader{R: own, N: to - b.off})
		b.off += n
		sent += n
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF // it was there a moment ago
		}
		if err != nil {
			return sent, err
		}
	}
}

// Content is all of a blob that is kept in memory, or nil. It must not be changed.
func (b *Blob) Content() []byte {
	if b.stored == nil {
		return nil
	}
	return b.stored.small
}

// Seek moves in a complete blob. In another it reports errors.ErrUnsupported:
// Wait first.
func (b *Blob) Seek(offset int64, whence int) (int64, error) {
	if b.stored != nil {
		return b.stored.Seek(offset, whence)
	}
	if !b.Complete() {
		return 0, fmt.Errorf("seeking in a blob that is not complete: %w", errors.ErrUnsupported)
	}
	return seek(&b.off, b.size, offset, whence)
}

func seek(off *int64, size, offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += *off
	case io.SeekEnd:
		offset += size
	default:
		return 0, fs.ErrInvalid
	}
	if offset < 0 {
		return 0, fs.ErrInvalid
	}
	*off = offset
	return offset, nil
}

// Close ends this reader, but not the fill.
func (b *Blob) Close() error {
	if b.closed {
		return nil
	}
	b.closed = true
	if b.fill != nil {
		b.fill.release()
	}
	if b.stored != nil {
		return b.stored.Close()
	}
	return nil
}

// stored is content as the storage has it, with what tells its state.
type stored struct {
	stamp stamp
	file  *os.File // or

	small   []byte        // or
	content *bytes.Reader // of small; or, when all are nil:

	ctx    context.Context
	driver storagedriver.StorageDriver
	path   string
	off    int64
	body   io.ReadCloser // at off; nil before the first Read after a Seek

	release func() // or nil
}

// openStored opens what is stored under d, whether or not it is right. Nothing
// there is a storagedriver.PathNotFoundError.
func (c *Cache) openStored(ctx context.Context, d digest.Digest) (*stored, error) {
	path := blobDataPath(d)
	if c.root == "" {
		info, err := c.driver.Stat(ctx, path)
		if err != nil {
			return nil, err
		}
		return &stored{
			stamp: stamp{size: info.Size(), modified: info.ModTime()},
			ctx:   ctx, driver: c.driver, path: path,
		}, nil
	}
	file, err := os.Open(c.filePath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, storagedriver.PathNotFoundError{Path: path, DriverName: filesystemDriver}
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &stored{stamp: fileStamp(info), file: file}, nil
}

func (s *stored) Read(p []byte) (int, error) {
	if s.content != nil {
		return s.content.Read(p)
	}
	if s.file != nil {
		return s.file.Read(p)
	}
	if s.off >= s.stamp.size {
		return 0, io.EOF
	}
	if s.body == nil {
		body, err := s.driver.Reader(s.ctx, s.path, s.off)
		if err != nil {
			return 0, err
		}
		s.body = body
	}
	n, err := s.body.Read(p)
	s.off += int64(n)
	if err == io.EOF && s.off < s.stamp.size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (s *stored) Seek(offset int64, whence int) (int64, error) {
	if s.content != nil {
		return s.content.Seek(offset, whence)
	}
	if s.file != nil {
		if whence == io.SeekEnd { // which is where it was when it was hashed
			offset, whence = offset+s.stamp.size, io.SeekStart
		}
		return s.file.Seek(offset, whence)
	}
	before := s.off
	if _, err := seek(&s.off, s.stamp.size, offset, whence); err != nil {
		return 0, err
	}
	if s.off != before && s.body != nil {
		s.body.Close()
		s.body = nil
	}
	return s.off, nil
}

func (s *stored) Close() error {
	if s.file != nil {
		return s.file.Close()
	}
	if s.release != nil {
		s.release()
	}
	if s.body != nil {
		return s.body.Close()
	}
	return nil
}
