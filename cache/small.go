package cache

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// Small blobs, which are configs for the most part, cost more to open than to
// send. Some of them are kept in memory, hashed, for as long as their files stay as
// they were.
const (
	smallSize = 16 << 10 // bytes
	smallKept = 512      // blobs
)

// openSmall opens a blob from memory, or returns nil.
func (c *Cache) openSmall(d oci.Descriptor, known stamp) *Blob {
	if d.Size > smallSize || d.Size != known.size {
		return nil
	}
	content, ok := c.small.Get(d.Digest)
	if !ok {
		return nil
	}
	info, err := os.Stat(c.filePath(blobDataPath(d.Digest)))
	if err != nil || !fileStamp(info).equal(known) {
		return nil // whoever opens the file sees what has become of it
	}
	return &Blob{size: d.Size, stored: &stored{stamp: known, content: bytes.NewReader(content)}}
}

// keepSmall reads an open file into memory. The error says that it is not what it
// was when it was hashed.
func (c *Cache) keepSmall(d digest.Digest, found *stored) error {
	content := make([]byte, found.stamp.size)
	if _, err := io.ReadFull(found.file, content); err != nil {
		return fmt.Errorf("reading %s from the cache: %w", d, err)
	}
	if d.Algorithm().FromBytes(content) != d {
		return fmt.Errorf("%w: %s in the cache", ErrDigest, d)
	}
	c.small.Add(d, content)
	found.file.Close()
	found.file, found.content = nil, bytes.NewReader(content)
	return nil
}
