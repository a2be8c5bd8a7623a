package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/oci"
)

const (
	// heldBack is how many bytes at the end of a blob nobody gets before all of
	// it has been hashed: an answer that must fail never looks whole.
	heldBack = 32 << 10

	chunk = 256 << 10
)

// Fetch opens the upstream's copy of a blob. size is what the upstream says it
// will send, or -1. The context outlives the client that asked and ends with
// the cache; both the call and the body must heed it.
type Fetch func(ctx context.Context) (body io.ReadCloser, size int64, err error)

// fill is the one way of a blob from the upstream, or of a stored blob through
// its first check in this process, however many clients wait for it.
type fill struct {
	digest digest.Digest
	size   int64

	opened chan struct{} // closed when there is something to read, and at the end
	done   chan struct{} // closed when the outcome is known
	hashed stamp         // what a file was when all of it was; read after done

	mu       sync.Mutex
	file     *os.File      // what readers read; nil before opened
	temp     bool          // file is in the spool and no blob yet
	refs     int           // readers, and the goroutine that fills
	written  int64         // bytes in file that have been hashed
	started  bool          // a reader was given bytes
	verified bool          // all of it, as it must be
	err      error         // why not
	changed  chan struct{} // closed at the next change; nil when nobody waits
}

func newFill(d oci.Descriptor) *fill {
	return &fill{digest: d.Digest, size: d.Size, refs: 1, opened: make(chan struct{}), done: make(chan struct{})}
}

// run fills f and ends it. It holds one of the references.
func (c *Cache) run(f *fill, fetch Fetch) {
	commit, err := c.fillFrom(f, fetch)
	if err != nil {
		c.forget(f) // first: whoever has seen it fail and tries again starts anew
	}
	f.finish(err)
	if err == nil && commit {
		// Readers have their bytes already; a full disk is not their concern.
		if err := c.commit(f); err != nil && c.ctx.Err() == nil {
			c.log.Error("a blob could not be kept", zap.Stringer("digest", f.digest), zap.Error(err))
		}
	}
	if err == nil {
		c.forget(f) // last: until it is stored, it is found here
	}
	f.discard()
	f.release()
}

func (c *Cache) forget(f *fill) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.fills, f.digest)
}

// fillFrom uses the stored blob if it is good and the upstream otherwise; only
// the latter is left to be committed.
func (c *Cache) fillFrom(f *fill, fetch Fetch) (commit bool, err error) {
	checked, err := c.recheck(f)
	if checked || err != nil {
		return false, err
	}
	return true, c.pull(f, fetch)
}

// recheck hashes what the storage has under the digest. Content that is wrong is
// removed; if nobody has seen any of it, the fill goes on with the upstream's.
func (c *Cache) recheck(f *fill) (good bool, err error) {
	found, err := c.openStored(c.ctx, f.digest)
	if isPathNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("opening %s in the cache: %w", f.digest, err)
	}
	if found.stamp.size != f.size {
		return false, c.refuseLength(f, found)
	}
	if err = c.hashStored(f, found); err == nil {
		c.verified.Add(f.digest, found.stamp)
		return true, nil
	}
	if c.ctx.Err() != nil {
		return false, fmt.Errorf("checking %s in the cache: %w", f.digest, context.Cause(c.ctx))
	}
	if errors.Is(err, ErrDigest) || errors.Is(err, ErrLength) {
		if dropErr := c.drop(c.ctx, Damage{Digest: f.digest, Found: FoundByUse, Detail: err.Error()}); dropErr != nil {
			return false, errors.Join(err, dropErr)
		}
	} else {
		// A read that failed, or a full spool, proves nothing about the blob.
		c.log.Error("a cached blob cannot be used", zap.Stringer("digest", f.digest), zap.Error(err))
	}
	if !f.restart() {
		return false, fmt.Errorf("%s in the cache cannot be used; pull again: %w", f.digest, err)
	}
	return false, nil
}

// refuseLength removes content that was cut short. Where the content is right
// the descriptor is wrong: another image's good blob must not go because this
// one's manifest lies about its size.
func (c *Cache) refuseLength(f *fill, found *stored) error {
	defer found.Close()
	if c.matches(found, f.digest) {
		return wrongSize(oci.Descriptor{Digest: f.digest, Size: f.size}, found.stamp.size)
	}
	if c.ctx.Err() != nil {
		return fmt.Errorf("checking %s in the cache: %w", f.digest, context.Cause(c.ctx))
	}
	return c.drop(c.ctx, Damage{Digest: f.digest, Found: FoundByUse, Detail: fmt.Sprintf("it has %d bytes, not %d", found.stamp.size, f.size)})
}

// hashStored lets readers follow while a stored blob is hashed: in its own file,
// or in a copy when it is not in a file of this machine.
func (c *Cache) hashStored(f *fill, found *stored) error {
	quiet := func(int) {}
	if found.file != nil {
		f.open(found.file, false) // which closes it; readers do not move its offset
		f.hashed = found.stamp
		return f.pump(c.ctx, found, nil, quiet)
	}
	defer found.Close()
	file, err := c.spool.create()
	if err != nil {
		return err
	}
	f.open(file, true)
	return f.pump(c.ctx, found, file, quiet)
}

// matches hashes stored content of whatever length.
func (c *Cache) matches(found *stored, d digest.Digest) bool {
	if known, ok := c.verified.Get(d); ok && known.equal(found.stamp) {
		return true
	}
	verifier := d.Verifier()
	if _, err := io.Copy(verifier, readerWithContext{c.ctx, found}); err != nil || !verifier.Verified() {
		return false
	}
	c.verified.Add(d, found.stamp)
	return true
}

type readerWithContext struct {
	ctx context.Context
	r   io.Reader
}

func (r readerWithContext) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// pull fetches the blob from the upstream into the spool.
func (c *Cache) pull(f *fill, fetch Fetch) error {
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(nil)
	stalled := fmt.Errorf("%w: nothing of %s for %s, or next to nothing; try again", ErrStalled, f.digest, c.stall)
	watchdog := time.AfterFunc(c.stall, func() { cancel(stalled) })
	defer watchdog.Stop()
	var came int64
	alive := func(n int) {
		// A byte now and then is no life: everyone waits for this fill, and for
		// as long as it lasts it holds a connection and a file.
		if came += int64(n); came >= stallBytes {
			came = 0
			watchdog.Reset(c.stall)
		}
	}

	body, size, err := fetch(ctx)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(cause, err)
		}
		return fmt.Errorf("fetching %s: %w", f.digest, err)
	}
	if body == nil {
		return fmt.Errorf("fetching %s: the upstream has no body", f.digest)
	}
	// A body that does not know the context ends when it is closed.
	closeBody := sync.OnceFunc(func() { body.Close() })
	defer closeBody()
	defer context.AfterFunc(ctx, closeBody)()
	if size >= 0 && size != f.size {
		return fmt.Errorf("fetching %s: %w: the upstream announces %d bytes, the manifest %d", f.digest, ErrLength, size, f.size)
	}

	file, err := c.spool.create()
	if err != nil {
		return err
	}
	f.open(file, true)
	if err := f.pump(ctx, body, file, alive); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("fetching %s: %w", f.digest, err)
	}
	info, err := file.Stat() // before others can reach it: from then on it may change
	if err != nil {
		return fmt.Errorf("looking at the spool: %w", err)
	}
	f.hashed = fileStamp(info)
	return nil
}

// pump hashes src, writing it to sink on the way unless that is nil, and tells
// the readers how far it is. It returns nil only for the right content.
func (f *fill) pump(ctx context.Context, src io.Reader, sink *os.File, alive func(int)) error {
	verifier := f.digest.Verifier()
	buf := make([]byte, min(chunk, f.size+1)) // one more byte than there may be
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := src.Read(buf)
		if n > 0 {
			alive(n)
			if total += int64(n); total > f.size {
				return fmt.Errorf("%w: more than %d bytes", ErrLength, f.size)
			}
			if sink != nil {
				if _, err := sink.Write(buf[:n]); err != nil {
					return fmt.Errorf("writing to the spool: %w", err)
				}
			}
			verifier.Write(buf[:n]) // a hash does not fail
			f.advance(total)
		}
		switch {
		case err == io.EOF && total < f.size:
			return fmt.Errorf("%w: it ends after %d of %d bytes", ErrLength, total, f.size)
		case err == io.EOF && !verifier.Verified():
			return ErrDigest
		case err == io.EOF:
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("%w: it ends after %d of %d bytes: %w", ErrLength, total, f.size, err)
		case err != nil:
			return err
		}
	}
}

// commit makes the verified spool file a blob that everyone sees.
func (c *Cache) commit(f *fill) error {
	if bound := c.options.MaxSize; bound > 0 && f.size > lowWater(bound) {
		// Everything else would have to go for it, and then it would.
		c.log.Warn("a blob is larger than the cache and was not kept; raise cache.max_size",
			zap.Stringer("digest", f.digest), zap.Int64("bytes", f.size), zap.Int64("max_size", bound))
		return nil
	}
	if c.root != "" {
		if err := c.commitFile(f.file, f.digest); err != nil {
			return err
		}
		f.mu.Lock()
		f.temp = false
		f.mu.Unlock()
		c.verified.Add(f.digest, f.hashed)
		c.grew(f.size)
		return nil
	}
	if err := c.commitCopy(c.ctx, f.file, f.digest, f.size); err != nil {
		return err
	}
	info, err := c.driver.Stat(c.ctx, blobDataPath(f.digest))
	if err != nil {
		return err
	}
	if info.Size() != f.size {
		return fmt.Errorf("%w: the storage has %d of %d bytes", ErrLength, info.Size(), f.size)
	}
	c.verified.Add(f.digest, stamp{size: info.Size(), modified: info.ModTime()})
	c.grew(f.size)
	return nil
}

// open gives the readers a file to follow.
func (f *fill) open(file *os.File, temp bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.file, f.temp, f.written = file, temp, 0
	select {
	case <-f.opened:
	default:
		close(f.opened)
	}
}

// restart forgets the file unless a reader has seen some of it.
func (f *fill) restart() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.started {
		return false
	}
	f.drop()
	return true
}

func (f *fill) advance(to int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written = to
	f.announce()
}

func (f *fill) finish(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.verified, f.err = err == nil, err
	f.announce()
	close(f.done) // first: whoever was let go by opened asks whether it is done
	select {
	case <-f.opened:
	default:
		close(f.opened)
	}
}

// ended says whether the outcome is known.
func (f *fill) ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// wait returns the outcome.
func (f *fill) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err // not written again
	default:
	}
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *fill) announce() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// discard unlinks what did not become a blob. Readers that are at it read on.
func (f *fill) discard() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unlink()
}

func (f *fill) unlink() {
	if f.file != nil && f.temp {
		os.Remove(f.file.Name())
		f.temp = false
	}
}

func (f *fill) drop() {
	f.unlink()
	if f.file != nil {
		f.file.Close()
		f.file = nil
	}
	f.written = 0
}

func (f *fill) retain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refs++
}

func (f *fill) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refs--; f.refs == 0 {
		f.drop()
	}
}

// available is how far readers may read.
func (f *fill) available() int64 {
	if f.verified {
		return f.size
	}
	return min(f.written, f.size-heldBack)
}

// readAt waits until there is something at off.
func (f *fill) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	file, to, err := f.ahead(ctx, off)
	if err != nil {
		return 0, err
	}
	n, err := file.ReadAt(p[:min(int64(len(p)), to-off)], off)
	if n > 0 {
		return n, nil
	}
	if err == io.EOF { // it was there a moment ago
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

// ahead waits until there is something at off, and says in which file and up to
// where. Behind the last byte it is io.EOF.
func (f *fill) ahead(ctx context.Context, off int64) (file *os.File, to int64, err error) {
	for {
		f.mu.Lock()
		switch available := f.available(); {
		case f.err != nil:
			defer f.mu.Unlock()
			return nil, 0, f.err
		case off < available:
			defer f.mu.Unlock()
			f.started = true
			return f.file, available, nil
		case f.verified:
			f.mu.Unlock()
			return nil, 0, io.EOF
		}
		if f.changed == nil {
			f.changed = make(chan struct{})
		}
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
	}
}
