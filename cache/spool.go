package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"go.uber.org/zap"
)

const (
	spoolPrefix = "fills-" // of the folder that belongs to one process
	lockName    = "lock"
)

// spool is the folder for content that has not been verified. It belongs to one
// process for as long as that process holds the lock in it; the kernel lets go
// of the lock however the process ends.
type spool struct {
	folder string
	lock   *os.File
	files  atomic.Int64
}

// openSpool makes a folder of its own under parent and removes those of
// processes that are no more. Folders that it did not make it leaves alone.
func openSpool(parent string, log *zap.Logger) (*spool, error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("making the spool folder: %w", err)
	}
	// Without this a process that starts could take a folder for abandoned
	// that another one has made and not locked yet.
	door, err := lockFile(filepath.Join(parent, lockName), true)
	if err != nil {
		return nil, err
	}
	defer door.Close()
	if err := removeAbandoned(parent, log); err != nil {
		return nil, err
	}

	folder, err := os.MkdirTemp(parent, spoolPrefix)
	if err != nil {
		return nil, fmt.Errorf("making a spool folder: %w", err)
	}
	lock, err := lockFile(filepath.Join(folder, lockName), false)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	return &spool{folder: folder, lock: lock}, nil
}

func removeAbandoned(parent string, log *zap.Logger) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("listing the spool folder: %w", err)
	}
	for _, entry := range entries {
		if !entry.IsDir() || !strings.HasPrefix(entry.Name(), spoolPrefix) {
			continue
		}
		folder := filepath.Join(parent, entry.Name())
		lock, err := lockFile(filepath.Join(folder, lockName), false)
		if err != nil {
			if !errors.Is(err, syscall.EWOULDBLOCK) {
				log.Warn("a spool folder could not be looked at", zap.String("folder", folder), zap.Error(err))
			}
			continue
		}
		if err := os.RemoveAll(folder); err != nil {
			log.Warn("a dead process's spool folder could not be removed", zap.String("folder", folder), zap.Error(err))
		} else {
			log.Info("removed a dead process's spool folder", zap.String("folder", folder))
		}
		lock.Close()
	}
	return nil
}

// lockFile opens and locks a file. Unless it may wait, a lock that is held
// elsewhere is an error that matches syscall.EWOULDBLOCK.
func lockFile(path string, wait bool) (*os.File, error) {
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	return openLock(path, how)
}

func openLock(path string, how int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening a lock: %w", err)
	}
	for {
		if err = syscall.Flock(int(file.Fd()), how); err == nil {
			return file, nil
		}
		if !errors.Is(err, syscall.EINTR) {
			file.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
	}
}

// create makes an empty file that nobody else has. It is readable by the world
// like a registry's own blobs, which it becomes.
func (s *spool) create() (*os.File, error) {
	name := strconv.FormatInt(s.files.Add(1), 10)
	file, err := os.OpenFile(filepath.Join(s.folder, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("making a spool file: %w", err)
	}
	return file, nil
}

// close removes the folder and then lets go of it.
func (s *spool) close() error {
	return errors.Join(os.RemoveAll(s.folder), s.lock.Close())
}
