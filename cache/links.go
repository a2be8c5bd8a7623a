package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
)

// linksName is the file in the root that processes which share one storage hold
// while they change links. Distribution does not see it: it looks below docker/.
const linksName = ".links"

// mark is a number that changes whenever something has happened to the storage,
// in whatever process.
type mark int64

const (
	linkedMark  mark = iota // something was linked
	removedMark             // content was removed, or a link
	marks
)

// links keeps those who link from those who remove: linking is shared, removing
// is exclusive. Without it a manifest could be linked while one of its blobs
// goes.
type links struct {
	mu      sync.RWMutex
	path    string   // "" when the storage is not in files of this machine
	file    *os.File // for the marks
	numbers [marks]atomic.Uint64
}

func openLinks(root string) (*links, error) {
	if root == "" {
		return &links{}, nil
	}
	l := &links{path: filepath.Join(root, linksName)}
	var err error
	if l.file, err = os.OpenFile(l.path, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, fmt.Errorf("opening the lock of the links: %w", err)
	}
	return l, nil
}

// share lets others link too, and nobody remove.
func (l *links) share() (unlock func(), err error) {
	l.mu.RLock()
	return l.flock(syscall.LOCK_SH, l.mu.RUnlock)
}

// exclude waits until nobody links.
func (l *links) exclude() (unlock func(), err error) {
	l.mu.Lock()
	return l.flock(syscall.LOCK_EX, l.mu.Unlock)
}

func (l *links) flock(how int, release func()) (unlock func(), err error) {
	if l.path == "" {
		return release, nil
	}
	// A description of its own for each: they are what the kernel tells apart.
	file, err := openLock(l.path, how)
	if err != nil {
		release()
		return nil, err
	}
	return func() { file.Close(); release() }, nil
}

// number is the mark as it is now. It costs one system call.
func (l *links) number(m mark) uint64 {
	if l.file == nil {
		return l.numbers[m].Load()
	}
	var raw [8]byte
	// A file that is shorter has no mark yet.
	if _, err := l.file.ReadAt(raw[:], int64(m)*8); err != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(raw[:])
}

// change makes the mark another number.
func (l *links) change(m mark) error {
	if l.file == nil {
		l.numbers[m].Store(rand.Uint64()) // #nosec G404 -- another number, not a secret
		return nil
	}
	var raw [8]byte
	// Not the next number: two who link at once could write the same one, and
	// whoever looks in between would miss the second.
	binary.LittleEndian.PutUint64(raw[:], rand.Uint64()) // #nosec G404 -- as above
	if _, err := l.file.WriteAt(raw[:], int64(m)*8); err != nil {
		return fmt.Errorf("marking the links as changed: %w", err)
	}
	return nil
}

func (l *links) close() error {
	if l.file == nil {
		return nil
	}
	if err := l.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
