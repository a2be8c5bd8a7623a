package cache

import (
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"
)

const (
	recentBytes = 32 << 20 // in all
	recentEntry = 1 << 20  // of one
)

// recent keeps small content that was read and checked a moment ago.
type recent struct {
	mu      sync.Mutex
	entries *simplelru.LRU[digest.Digest, []byte]
	bytes   int
}

func newRecent() *recent {
	r := &recent{}
	// Its own bound counts entries; ours is bytes. NewLRU fails for a size
	// below one only.
	r.entries, _ = simplelru.NewLRU(math.MaxInt, func(_ digest.Digest, raw []byte) { r.bytes -= len(raw) })
	return r
}

func (r *recent) get(d digest.Digest) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.entries.Get(d)
}

// add keeps raw, which nobody may change from here on.
func (r *recent) add(d digest.Digest, raw []byte) {
	if len(raw) > recentEntry {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.entries.Contains(d) {
		return // the same digest, the same bytes
	}
	r.entries.Add(d, raw)
	for r.bytes += len(raw); r.bytes > recentBytes; {
		r.entries.RemoveOldest()
	}
}

func (r *recent) remove(d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries.Remove(d)
}
