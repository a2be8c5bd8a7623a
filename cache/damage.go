package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

// How damage was found.
const (
	FoundByUse   = "use"   // somebody asked for the content
	FoundByScrub = "scrub" // nobody had to
)

// Damage is stored content that was not what its digest says. It has been
// dropped, and is fetched again when somebody asks for it.
type Damage struct {
	Time   time.Time
	Digest digest.Digest
	Found  string // FoundByUse or FoundByScrub
	Detail string
}

// drop removes damaged content and tells of it. Links to it stay.
func (c *Cache) drop(ctx context.Context, found Damage) error {
	found.Time = c.options.Now()
	c.log.Error("cached content was damaged and has been dropped; it is fetched again when it is asked for",
		zap.Stringer("digest", found.Digest), zap.String("found", found.Found), zap.String("detail", found.Detail))
	c.counts.damaged.Add(1)
	err := errors.Join(c.links.change(removedMark), c.remove(ctx, found.Digest))
	if err != nil {
		err = fmt.Errorf("dropping damaged content: %w", err)
	}
	if c.options.Damaged != nil {
		c.options.Damaged(context.WithoutCancel(ctx), found)
	}
	return err
}
