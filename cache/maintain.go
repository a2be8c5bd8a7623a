package cache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// measureEvery is how often the size is taken from the storage itself:
	// other processes may share it.
	measureEvery = time.Hour

	// fullAgain is how long a cache that cannot be made smaller is left alone.
	fullAgain = time.Minute
)

// Maintain holds the cache to its bound, scrubs it and records what is used,
// until ctx ends or the cache is closed. The first thing it does is to measure
// the storage. A process that asks one question leaves it to the gate.
func (c *Cache) Maintain(ctx context.Context) {
	c.mu.Lock()
	if c.ctx.Err() != nil {
		c.mu.Unlock()
		return
	}
	c.owned.Add(1)
	c.mu.Unlock()
	defer c.owned.Done()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	var duties sync.WaitGroup
	duties.Go(func() { c.holdSize(ctx) })
	duties.Go(func() { c.scrubs(ctx) })
	duties.Go(func() { c.recordUses(ctx) })
	duties.Wait()
}

func (c *Cache) holdSize(ctx context.Context) {
	measure := time.NewTicker(measureEvery)
	defer measure.Stop()
	c.measure(ctx)
	for ctx.Err() == nil {
		if !c.makeRoom(ctx) && sleep(ctx, fullAgain) != nil {
			return
		}
		select {
		case <-c.full:
		case <-measure.C:
			c.measure(ctx)
		case <-ctx.Done():
		}
	}
}

func (c *Cache) measure(ctx context.Context) {
	c.pruning.Lock() // which takes away what is being counted
	defer c.pruning.Unlock()
	before := c.held.Load()
	found, err := Survey(ctx, c.driver)
	if err != nil {
		if ctx.Err() == nil {
			c.log.Warn("the cache could not be measured", zap.Error(err))
		}
		return
	}
	// What came meanwhile may be counted twice, until the next time.
	c.held.Add(found.Bytes() - before)
}

func (c *Cache) recordUses(ctx context.Context) {
	tick := time.NewTicker(usesEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := c.flushUses(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("what was used in the cache could not be recorded; it is tried again", zap.Error(err))
		}
	}
}

// counts are what a process has done to its cache.
type counts struct {
	evicted, evictedBytes, scrubbedBytes, damaged atomic.Int64
	scrubbed                                      atomic.Int64 // nanoseconds since 1970
}

// Counts are what this process knows of its cache without looking.
type Counts struct {
	Bytes         int64 // that are stored
	Evicted       int64 // blobs and manifests
	EvictedBytes  int64
	ScrubbedBytes int64
	Damaged       int64
	Scrubbed      time.Time // when a scrub ended last; zero if none has
}

// Counts returns the numbers as they are now.
func (c *Cache) Counts() Counts {
	n := Counts{
		Bytes: c.held.Load(), Evicted: c.counts.evicted.Load(), EvictedBytes: c.counts.evictedBytes.Load(),
		ScrubbedBytes: c.counts.scrubbedBytes.Load(), Damaged: c.counts.damaged.Load(),
	}
	if at := c.counts.scrubbed.Load(); at != 0 {
		n.Scrubbed = time.Unix(0, at)
	}
	return n
}
