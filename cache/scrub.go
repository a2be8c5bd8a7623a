package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

// Schedule says when everything that is stored is hashed again.
type Schedule struct {
	Every time.Duration // from the end of one pass to the next; 0 is never
	Rate  int64         // bytes a second; 0 is as fast as it goes
}

// Scrubbed is how far a pass is, or how it ended.
type Scrubbed struct {
	Started    time.Time
	Content    int // blobs and manifests that were hashed
	Bytes      int64
	Damaged    int // and dropped
	Unreadable int // and left alone: a read that fails proves nothing
	At         digest.Digest
}

// progressEvery is how much may be hashed twice after a crash.
const progressEvery = 30 * time.Second

// Scrub hashes everything that is stored and drops what is wrong, in order of
// digests and behind the given one. It finds what no use would: bytes that
// changed while the file looked the same, and damage in what nobody asks for.
// progress, which may be nil, is called for each content.
func (c *Cache) Scrub(ctx context.Context, behind digest.Digest, rate int64, progress func(Scrubbed)) (Scrubbed, error) {
	pass := Scrubbed{Started: c.options.Now()}
	pace := newPace(rate)
	err := eachContent(ctx, c.driver, behind, func(d digest.Digest, _ storagedriver.FileInfo) error {
		hashed, wrong, err := c.scrub(ctx, d, pace)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		pass.At = d
		pass.Bytes += hashed
		c.counts.scrubbedBytes.Add(hashed)
		switch {
		case isPathNotFound(err):
			return nil // evicted meanwhile
		case err != nil:
			pass.Unreadable++
			c.log.Error("cached content cannot be read; look at the disk", zap.Stringer("digest", d), zap.Error(err))
		case wrong:
			pass.Damaged++
		}
		pass.Content++
		if progress != nil {
			progress(pass)
		}
		return nil
	})
	if err != nil {
		return pass, fmt.Errorf("scrubbing the cache: %w", err)
	}
	return pass, nil
}

// scrub hashes what is stored under the digest.
func (c *Cache) scrub(ctx context.Context, d digest.Digest, pace *pace) (hashed int64, wrong bool, err error) {
	if c.root == "" && c.busy(d) {
		return 0, false, nil // half of it may be there
	}
	found, err := c.openStored(ctx, d)
	if err != nil {
		return 0, false, err
	}
	defer found.Close()
	verifier := d.Verifier()
	buf := make([]byte, chunk)
	for {
		n, err := found.Read(buf)
		verifier.Write(buf[:n])
		hashed += int64(n)
		if err := pace.wait(ctx, int64(n)); err != nil {
			return hashed, false, err
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return hashed, false, err
		}
	}
	if verifier.Verified() {
		if c.verified.Len() < verifiedKept {
			c.verified.Add(d, found.stamp) // its first use need not hash it again
		}
		return hashed, false, nil
	}
	// What is there now may be a good copy that somebody has just put there.
	now, err := c.openStored(ctx, d)
	if err != nil {
		return hashed, false, err
	}
	defer now.Close()
	if !now.stamp.equal(found.stamp) || (c.root == "" && c.busy(d)) {
		return hashed, false, nil
	}
	detail := fmt.Sprintf("its %d bytes do not hash to it", hashed)
	return hashed, true, c.drop(ctx, Damage{Digest: d, Found: FoundByScrub, Detail: detail})
}

// pace holds a reader to a number of bytes a second.
type pace struct {
	rate  int64
	began time.Time
	bytes int64
}

func newPace(rate int64) *pace { return &pace{rate: rate, began: time.Now()} }

func (p *pace) wait(ctx context.Context, n int64) error {
	if p.rate <= 0 {
		return ctx.Err()
	}
	p.bytes += n
	ahead := time.Duration(float64(p.bytes)/float64(p.rate)*float64(time.Second)) - time.Since(p.began)
	if ahead < 0 {
		// It was slower than it may be. That is no credit for later.
		p.began, p.bytes = time.Now(), 0
		return ctx.Err()
	}
	return sleep(ctx, ahead)
}

// sleep waits, and says why if it was cut short.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// scrubs runs a pass when one is due, and goes on with one that a restart has
// cut short.
func (c *Cache) scrubs(ctx context.Context) {
	every := c.options.Scrub.Every
	if every <= 0 {
		return
	}
	var started, finished time.Time
	var at digest.Digest
	if c.options.Records != nil {
		var err error
		if started, finished, at, err = c.options.Records.Scrub(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("how far the last scrub was is not known; a new one begins", zap.Error(err))
		}
	}
	for {
		if !started.After(finished) { // none is under way
			if sleep(ctx, finished.Add(every).Sub(c.options.Now())) != nil {
				return
			}
			started, at = c.options.Now(), ""
		}
		recorded := c.options.Now()
		pass, err := c.Scrub(ctx, at, c.options.Scrub.Rate, func(s Scrubbed) {
			if now := c.options.Now(); now.Sub(recorded) >= progressEvery {
				recorded = now
				c.recordScrub(ctx, started, finished, s.At)
			}
		})
		if ctx.Err() != nil {
			c.recordScrub(context.WithoutCancel(ctx), started, finished, firstOf(pass.At, at))
			return
		}
		if err != nil {
			c.log.Error("a scrub did not come to its end; it goes on in an hour", zap.Error(err))
			at = firstOf(pass.At, at)
			if sleep(ctx, time.Hour) != nil {
				return
			}
			continue
		}
		finished = c.options.Now()
		c.recordScrub(ctx, started, finished, "")
		c.counts.scrubbed.Store(finished.UnixNano())
		c.log.Info("scrubbed the cache", zap.Int("content", pass.Content), zap.Int64("bytes", pass.Bytes),
			zap.Int("damaged", pass.Damaged), zap.Int("unreadable", pass.Unreadable), zap.Duration("took", finished.Sub(started)))
	}
}

func firstOf(a, b digest.Digest) digest.Digest {
	if a != "" {
		return a
	}
	return b
}

func (c *Cache) recordScrub(ctx context.Context, started, finished time.Time, at digest.Digest) {
	if c.options.Records == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, recordTime)
	defer cancel()
	if err := c.options.Records.RecordScrub(ctx, started, finished, at); err != nil && ctx.Err() == nil {
		c.log.Warn("how far the scrub is could not be recorded", zap.Error(err))
	}
}
