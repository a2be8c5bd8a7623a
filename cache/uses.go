package cache

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Records is what a cache wants to know after a restart and its storage cannot
// tell. What there is, and how large, the storage itself says; a second copy of
// that could only be wrong.
type Records interface {
	// RecordUses remembers when content was used last, in one write for all of
	// it. A time before the recorded one changes nothing.
	RecordUses(ctx context.Context, at map[digest.Digest]time.Time) error
	// Uses returns when each content was used last.
	Uses(ctx context.Context) (map[digest.Digest]time.Time, error)
	// ForgetUses forgets content that is gone.
	ForgetUses(ctx context.Context, gone []digest.Digest) error

	// RecordScrub remembers how far a scrub is. A pass that is under way has
	// started after the last one finished.
	RecordScrub(ctx context.Context, started, finished time.Time, at digest.Digest) error
	// Scrub returns what was recorded last; zero times before the first pass.
	Scrub(ctx context.Context) (started, finished time.Time, at digest.Digest, err error)
}

const (
	// usesEvery is how long a use may be known to this process alone. A crash
	// forgets that much, which costs the order of an eviction its precision.
	usesEvery = 10 * time.Second

	recordTime = 15 * time.Second
)

// uses gathers when content was used, so that no pull waits for a write.
type uses struct {
	mu sync.Mutex
	at map[digest.Digest]int64 // nanoseconds since 1970
}

// Used says that somebody asked at that time for content which may be in the cache. Blob and
// Bytes say it themselves; whoever keeps content in memory says it for that.
func (c *Cache) Used(d digest.Digest, at time.Time) {
	u := &c.uses
	u.mu.Lock()
	if u.at == nil {
		u.at = map[digest.Digest]int64{}
	}
	u.at[d] = at.UnixNano()
	u.mu.Unlock()
}

// flushUses records what was gathered. What cannot be written now is tried
// again.
func (c *Cache) flushUses(ctx context.Context) error {
	records, u := c.options.Records, &c.uses
	if records == nil {
		return nil // they stay where they are; there are no more than digests
	}
	u.mu.Lock()
	gathered := u.at
	u.at = nil
	u.mu.Unlock()
	if len(gathered) == 0 {
		return nil
	}
	at := make(map[digest.Digest]time.Time, len(gathered))
	for d, n := range gathered {
		at[d] = time.Unix(0, n)
	}
	ctx, cancel := context.WithTimeout(ctx, recordTime)
	defer cancel()
	if err := records.RecordUses(ctx, at); err != nil {
		u.mu.Lock()
		defer u.mu.Unlock()
		for d, n := range u.at { // later ones
			gathered[d] = n
		}
		u.at = gathered
		return fmt.Errorf("recording what was used: %w", err)
	}
	return nil
}

// lastUses is when each content was used, as far as anybody remembers.
func (c *Cache) lastUses(ctx context.Context) (map[digest.Digest]time.Time, error) {
	if err := c.flushUses(ctx); err != nil {
		return nil, err
	}
	at := map[digest.Digest]time.Time{}
	if c.options.Records != nil {
		var err error
		if at, err = c.options.Records.Uses(ctx); err != nil {
			return nil, fmt.Errorf("reading what was used: %w", err)
		}
	}
	c.uses.mu.Lock()
	defer c.uses.mu.Unlock()
	for d, n := range c.uses.at {
		at[d] = time.Unix(0, n)
	}
	return at, nil
}

// forgetUses takes what is gone out of the records.
func (c *Cache) forgetUses(ctx context.Context, gone []digest.Digest) error {
	c.uses.mu.Lock()
	for _, d := range gone {
		delete(c.uses.at, d)
	}
	c.uses.mu.Unlock()
	if c.options.Records == nil || len(gone) == 0 {
		return nil
	}
	if err := c.options.Records.ForgetUses(ctx, gone); err != nil {
		return fmt.Errorf("forgetting the uses of what is gone: %w", err)
	}
	return nil
}
