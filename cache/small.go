package cache

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

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

// small is the content of a blob, and when its file was looked at last.
type small struct {
	content []byte
	seen    atomic.Int64 // Unix time in nanoseconds
}

// seenFor is for how long a file is taken to be as it was seen. What is served
// from memory is right in any case; looking at the file costs a system call.
const seenFor = 10 * time.Millisecond

// openSmall opens a blob from memory, or returns nil.
func (c *Cache) openSmall(d oci.Descriptor, known stamp) *Blob {
	if d.Size > smallSize || d.Size != known.size {
		return nil
	}
	kept, ok := c.small.Get(d.Digest)
	if !ok {
		return nil
	}
	now := time.Now().UnixNano()
	if since := now - kept.seen.Load(); since < 0 || since > int64(seenFor) {
		info, err := os.Stat(c.filePath(blobDataPath(d.Digest)))
		if err != nil || !fileStamp(info).equal(known) {
			return nil // whoever opens the file sees what has become of it
		}
		kept.seen.Store(now)
	}
	return &Blob{size: d.Size, stored: inMemory(known, kept.content)}
}

func inMemory(known stamp, content []byte) *stored {
	return &stored{stamp: known, small: content, content: bytes.NewReader(content)}
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
	c.small.Add(d, &small{content: content})
	found.file.Close()
	*found = *inMemory(found.stamp, content)
	return nil
}
