package access

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// KeySize is the size of the gate's key for what clients carry, in bytes.
const KeySize = 32

// OpenKey reads the key, and makes it where there is no file. Gates that serve the
// same clients share it.
func OpenKey(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw, err = makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key of what clients carry: %w", err)
	}
	if len(raw) != KeySize {
		return nil, fmt.Errorf("reading the key of what clients carry: %s has %d bytes, not %d; move it away, and a new one is made", path, len(raw), KeySize)
	}
	return raw, nil
}

// makeKey never leaves half a key, and takes that of a process that was faster.
func makeKey(path string) ([]byte, error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".key-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	raw := make([]byte, KeySize)
	_, _ = rand.Read(raw) // it never fails
	_, err = file.Write(raw)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(file.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}
