// Package cache keeps verified content in distribution's own storage layout,
// through its storage drivers: a stock registry pointed at the same storage
// serves what was admitted.
//
// Bytes reach a caller in full only after their length and digest have been
// checked, on the way in and on the first use in every process. The package
// must never let unverified bytes be seen as a blob, not by a reader, not by
// another process and not after a crash. It never decides what may be served:
// a blob without a link is a blob that no repository has, and links are written
// for admissions only.
package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/oci"
)

var (
	// ErrDigest reports content that does not hash to its digest.
	ErrDigest = errors.New("the content does not match its digest")

	// ErrLength reports content that is longer or shorter than it must be.
	ErrLength = errors.New("the content does not have its length")

	// ErrStalled reports an upstream that does not go on with a blob.
	ErrStalled = errors.New("the upstream sent nothing")

	// ErrClosed reports the use of a cache that has been closed.
	ErrClosed = errors.New("the cache is closed")
)

const (
	// verifiedKept bounds what is remembered as verified. What falls out is
	// hashed once more.
	verifiedKept = 1 << 17

	// stallAfter is how long an upstream may take over stallBytes of a blob
	// before its fill is given up: half a kilobyte a second.
	stallAfter = 2 * time.Minute
	stallBytes = 64 << 10
)

// Options say where a Cache keeps its content, and how much of it.
type Options struct {
	Driver  storagedriver.StorageDriver
	Root    string   // the rootdirectory of a filesystem driver; "" with any other
	Spool   string   // local folder for content on its way in; "" puts it into Root
	MaxSize int64    // bytes of content that Maintain lets stay; 0 is no bound
	Pinned  []Pin    // what is never evicted
	Scrub   Schedule // of Maintain
	Records Records  // nil forgets with the process
	Damaged func(context.Context, Damage)
	Log     *zap.Logger
	Now     func() time.Time // nil means time.Now
}

// Cache is verified content. Its methods may be called from many goroutines.
type Cache struct {
	driver  storagedriver.StorageDriver
	root    string
	spool   *spool
	links   *links
	options Options
	log     *zap.Logger
	stall   time.Duration

	recent   *recent                           // small content
	verified *lru.Cache[digest.Digest, stamp]  // what this process has hashed, as it was then
	small    *lru.Cache[digest.Digest, *small] // of blobs whose files are as verified has them

	ctx    context.Context // of the fills
	cancel context.CancelCauseFunc
	owned  sync.WaitGroup
	close  func() error // of the spool, once

	uses    uses
	held    atomic.Int64  // bytes in the storage, as far as this process knows
	full    chan struct{} // more than there may be
	pruning sync.Mutex    // one pass at a time
	counts  counts

	mu      sync.Mutex
	fills   map[digest.Digest]*fill
	reading map[digest.Digest]int // readers of content that is not in files of this machine
}

// stamp tells one state of stored content from another without reading it.
type stamp struct {
	size     int64
	modified time.Time
	file     os.FileInfo // nil when the content is not in a file of this machine
}

func (s stamp) equal(t stamp) bool {
	return s.size == t.size && s.modified.Equal(t.modified) &&
		(s.file == nil) == (t.file == nil) && (s.file == nil || os.SameFile(s.file, t.file))
}

func fileStamp(info os.FileInfo) stamp {
	return stamp{size: info.Size(), modified: info.ModTime(), file: info}
}

// Open opens the storage and clears away what dead processes left in the spool.
// Processes may share one storage; each fills for itself.
func Open(ctx context.Context, o Options) (*Cache, error) {
	if o.Driver == nil {
		return nil, errors.New("opening the cache: no storage driver")
	}
	if (o.Driver.Name() == filesystemDriver) != (o.Root != "") {
		return nil, fmt.Errorf("opening the cache: a root folder belongs with the filesystem driver and no other, not with %s and %q", o.Driver.Name(), o.Root)
	}
	if o.Spool == "" && o.Root == "" {
		return nil, errors.New("opening the cache: no spool folder; name one on a local disk")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	verified, err := lru.New[digest.Digest, stamp](verifiedKept)
	if err != nil {
		return nil, fmt.Errorf("opening the cache: %w", err)
	}
	kept, _ := lru.New[digest.Digest, *small](smallKept)
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Cache{
		driver: o.Driver, root: o.Root, options: o, log: o.Log, stall: stallAfter,
		recent: newRecent(), verified: verified, small: kept, full: make(chan struct{}, 1),
		fills: map[digest.Digest]*fill{}, reading: map[digest.Digest]int{},
	}
	if c.spool, err = c.findSpool(ctx, o.Spool); err != nil {
		return nil, fmt.Errorf("opening the cache: %w", err)
	}
	if c.links, err = openLinks(o.Root); err != nil {
		return nil, fmt.Errorf("opening the cache: %w", errors.Join(err, c.spool.close()))
	}
	c.close = sync.OnceValue(c.spool.close)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c, nil
}

// findSpool opens the spool where a rename into the storage works: content
// becomes visible by rename, and there is none between two volumes.
func (c *Cache) findSpool(ctx context.Context, folder string) (*spool, error) {
	inside := filepath.Join(c.root, ".spool") // unseen by distribution, which looks below docker/ only
	if folder == "" {
		folder = inside
	}
	s, err := openSpool(folder, c.log)
	if err != nil || c.root == "" {
		return s, err
	}
	err = c.tryRename(ctx, s)
	if errors.Is(err, syscall.EXDEV) && folder != inside {
		c.log.Info("the spool is on another volume than the cache; using a folder inside the cache", zap.String("spool", folder), zap.String("instead", inside))
		if err := s.close(); err != nil {
			return nil, err
		}
		if s, err = openSpool(inside, c.log); err != nil {
			return nil, err
		}
		err = c.tryRename(ctx, s)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// tryRename moves a file from the spool into the storage and looks for it
// through the driver, which also shows whether the two mean the same folder.
func (c *Cache) tryRename(ctx context.Context, s *spool) error {
	if err := os.MkdirAll(c.root, 0o755); err != nil {
		return fmt.Errorf("making the cache folder: %w", err)
	}
	file, err := s.create()
	if err != nil {
		return err
	}
	defer file.Close()
	defer os.Remove(file.Name())
	path := "/" + ".probe-" + filepath.Base(s.folder)
	if err := os.Rename(file.Name(), c.filePath(path)); err != nil {
		return fmt.Errorf("moving a file from the spool into the cache: %w", err)
	}
	defer os.Remove(c.filePath(path))
	if _, err := c.driver.Stat(ctx, path); err != nil {
		return fmt.Errorf("the storage driver does not keep its files in %s: %w", c.root, err)
	}
	return nil
}

// Close gives up the fills, waits for them to end and empties the spool. Blobs
// that are still being filled fail; complete ones can be read on.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.cancel(ErrClosed)
	c.mu.Unlock()
	c.owned.Wait()
	return errors.Join(c.flushUses(context.Background()), c.links.close(), c.close())
}

// Bytes reads content that fits into memory, a manifest or a config, and checks
// its digest. Content that is not stored is oci.ErrNotFound, and so is content
// that no longer matches its digest: it is removed, to be fetched again. More
// than limit bytes are ErrLength.
func (c *Cache) Bytes(ctx context.Context, d digest.Digest, limit int64) ([]byte, error) {
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return nil, err
	}
	raw, ok := c.recent.get(d)
	if !ok {
		var err error
		if raw, err = c.load(ctx, d, limit); err != nil {
			return nil, err
		}
		c.recent.add(d, raw)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrLength, d, limit)
	}
	c.Used(d, c.options.Now())
	return bytes.Clone(raw), nil
}

// load reads d from the storage and hashes it.
func (c *Cache) load(ctx context.Context, d digest.Digest, limit int64) ([]byte, error) {
	path := blobDataPath(d)
	r, err := c.driver.Reader(ctx, path, 0)
	if isPathNotFound(err) {
		return nil, fmt.Errorf("%s in the cache: %w", d, oci.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s from the cache: %w", d, err)
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s from the cache: %w", d, err)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrLength, d, limit)
	}
	if oci.DigestOf(raw, d) != d {
		if err := c.drop(ctx, Damage{Digest: d, Found: FoundByUse, Detail: ErrDigest.Error()}); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s in the cache did not match and was removed: %w", d, oci.ErrNotFound)
	}
	return raw, nil
}

// PutBytes stores raw, which must hash to d. What is stored already and intact
// is left alone.
func (c *Cache) PutBytes(ctx context.Context, d digest.Digest, raw []byte) error {
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return err
	}
	if computed := oci.DigestOf(raw, d); computed != d {
		return fmt.Errorf("%w: storing %s: the bytes hash to %s", ErrDigest, d, computed)
	}
	stored, err := c.isStored(ctx, d, int64(len(raw)))
	if err != nil {
		return err
	}
	if !stored {
		if err := c.store(ctx, d, raw); err != nil {
			return fmt.Errorf("storing %s: %w", d, err)
		}
		c.grew(int64(len(raw)))
	}
	c.recent.add(d, bytes.Clone(raw))
	c.Used(d, c.options.Now())
	return nil
}

// isStored says whether d is there, intact as far as this process can know
// without reading what it has read before.
func (c *Cache) isStored(ctx context.Context, d digest.Digest, size int64) (bool, error) {
	info, err := c.driver.Stat(ctx, blobDataPath(d))
	if isPathNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for %s in the cache: %w", d, err)
	}
	if info.Size() != size {
		detail := fmt.Sprintf("it has %d bytes, not %d", info.Size(), size)
		return false, c.drop(ctx, Damage{Digest: d, Found: FoundByUse, Detail: detail})
	}
	if _, known := c.recent.get(d); known {
		return true, nil
	}
	_, err = c.load(ctx, d, size)
	if errors.Is(err, oci.ErrNotFound) || errors.Is(err, ErrLength) {
		return false, nil
	}
	return err == nil, err
}

// store writes bytes that have been checked.
func (c *Cache) store(ctx context.Context, d digest.Digest, raw []byte) error {
	if c.root == "" {
		return c.driver.PutContent(ctx, blobDataPath(d), raw)
	}
	file, err := c.spool.create()
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(raw); err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	if err := c.commitFile(file, d); err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// commitFile makes a spool file the content of d. Its bytes are on the disk
// before its name is, so no crash leaves a part of a blob behind.
func (c *Cache) commitFile(file *os.File, d digest.Digest) error {
	if err := file.Sync(); err != nil {
		return fmt.Errorf("writing to the disk: %w", err)
	}
	path := c.filePath(blobDataPath(d))
	folder := filepath.Dir(path)
	var err error
	for range 3 {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return fmt.Errorf("making the blob's folder: %w", err)
		}
		// An eviction takes empty folders away, this one too.
		if err = os.Rename(file.Name(), path); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("moving the blob into place: %w", err)
	}
	dir, err := os.Open(folder)
	if err != nil {
		return fmt.Errorf("opening the blob's folder: %w", err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("writing the blob's folder to the disk: %w", err)
	}
	return nil
}

// commitCopy makes a spool file the content of d where a rename cannot.
func (c *Cache) commitCopy(ctx context.Context, file *os.File, d digest.Digest, size int64) error {
	w, err := c.driver.Writer(ctx, blobDataPath(d), false)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, io.NewSectionReader(file, 0, size)); err != nil {
		// Not with ctx, which may be what ended the copy.
		return errors.Join(err, w.Cancel(context.WithoutCancel(ctx)), w.Close())
	}
	if err := w.Commit(ctx); err != nil {
		return errors.Join(err, w.Cancel(context.WithoutCancel(ctx)), w.Close())
	}
	return w.Close()
}

// remove takes d out of the storage. Links to it stay: they say what was
// admitted, and the next pull fetches it again.
func (c *Cache) remove(ctx context.Context, d digest.Digest) error {
	c.verified.Remove(d)
	c.recent.remove(d)
	if info, err := c.driver.Stat(ctx, blobDataPath(d)); err == nil {
		c.held.Add(-info.Size())
	}
	// Its folder stays: someone may be about to move a good copy into it.
	if err := c.driver.Delete(ctx, blobDataPath(d)); err != nil && !isPathNotFound(err) {
		return fmt.Errorf("removing %s from the cache: %w", d, err)
	}
	return nil
}

// Link files an admitted manifest under a repository: the manifest itself, links
// to its config and layers and, when tag is not empty, the tag. It may be
// called again with the same arguments. The blobs need not be there yet.
//
// The name is one that RepositoryName made.
func (c *Cache) Link(ctx context.Context, name string, m *oci.Manifest, tag string) (err error) {
	if err := checkName(name); err != nil {
		return err
	}
	if tag != "" {
		if err := checkTag(tag); err != nil {
			return err
		}
	}
	unlock, err := c.links.share()
	if err != nil {
		return fmt.Errorf("linking %s into %s: %w", m.Digest, name, err)
	}
	defer unlock()
	if err := c.PutBytes(ctx, m.Digest, m.Raw); err != nil {
		return err
	}
	wrote := false
	// Last: who has seen the mark before has not seen all links.
	defer func() {
		if wrote {
			err = errors.Join(err, c.links.change(linkedMark))
		}
	}()
	link := func(path string, to digest.Digest) error {
		fresh, err := c.link(ctx, path, to)
		wrote = wrote || fresh
		return err
	}
	// What points at something comes after it: a registry that reads along, or
	// a crash, finds nothing that leads nowhere.
	for _, d := range m.References() {
		if _, err := oci.ParseDigest(d.Digest.String()); err != nil {
			return fmt.Errorf("linking %s into %s: %w", m.Digest, name, err)
		}
		if err := link(layerLinkPath(name, d.Digest), d.Digest); err != nil {
			return err
		}
	}
	if err := link(revisionLinkPath(name, m.Digest), m.Digest); err != nil {
		return err
	}
	if tag == "" {
		return nil
	}
	if err := link(tagIndexPath(name, tag, m.Digest), m.Digest); err != nil {
		return err
	}
	return link(tagCurrentPath(name, tag), m.Digest)
}

// Removals is a number that is another one when content or links have been
// removed since, by this process or by another: whoever remembers what it has
// put here remembers this number too.
func (c *Cache) Removals() uint64 { return c.links.number(removedMark) }

// link says whether it had to be written.
func (c *Cache) link(ctx context.Context, path string, to digest.Digest) (fresh bool, err error) {
	present, err := c.driver.GetContent(ctx, path)
	if err == nil && string(present) == to.String() {
		return false, nil
	}
	if err != nil && !isPathNotFound(err) {
		return false, fmt.Errorf("reading the link %s: %w", path, err)
	}
	if err := c.driver.PutContent(ctx, path, []byte(to)); err != nil {
		return false, fmt.Errorf("writing the link %s: %w", path, err)
	}
	return true, nil
}

func isPathNotFound(err error) bool {
	var missing storagedriver.PathNotFoundError
	return errors.As(err, &missing)
}
