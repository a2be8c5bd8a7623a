package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

const (
	// atOnce is how much goes before those who link get their turn.
	atOnce = 64

	// patience is how often a pass that others have linked into looks again
	// before it keeps them waiting.
	patience = 3
)

// lowWater is how much a pass leaves of what there may be, so that not every
// fill starts one.
func lowWater(bound int64) int64 { return bound - bound/20 }

// Pruning says what a pass removes. What was used least recently goes first.
type Pruning struct {
	To     int64     // bytes that may stay; below 0 is no bound
	Unused time.Time // what was not used since goes whatever the size
	DryRun bool
}

// Pruned is what a pass has removed.
type Pruned struct {
	Before   int64 // bytes
	After    int64
	Pinned   int64 // of those, bytes that cannot go
	Content  int   // blobs and manifests removed
	Unlinked []Unlinked
}

// Unlinked is a manifest that its repository does not have any more.
type Unlinked struct {
	Repository string // as RepositoryName makes it
	Tags       []string
	Digest     digest.Digest
}

// Prune removes content until no more than there may be is left. Neither fills
// that are under way nor pinned images lose anything.
//
// An image goes as a whole, as far as a registry can see: with the first of its
// blobs the manifest is unlinked from every repository that has it, and so are
// its tags and the indexes that list it, before the blob itself goes. What else
// it had stays until its own turn comes, for other images or for its return.
//
// Processes may prune and link at once. Blobs that are being read can be read to
// their end.
func (c *Cache) Prune(ctx context.Context, p Pruning) (Pruned, error) {
	c.pruning.Lock()
	defer c.pruning.Unlock()
	pass := &pass{cache: c, Pruning: p}
	for try := 0; ; try++ {
		done, err := pass.run(ctx, try >= patience)
		if err != nil {
			return pass.result, fmt.Errorf("pruning the cache: %w", err)
		}
		if done {
			return pass.result, nil
		}
	}
}

// pass is one pass of eviction, over what the last survey has shown.
type pass struct {
	cache *Cache
	Pruning
	result Pruned

	*Inventory
	surveyed   bool
	pinned     map[digest.Digest]bool
	holders    map[digest.Digest][]holding // of a blob
	listers    map[digest.Digest][]holding // of a manifest
	candidates []candidate
	left       int64
	gone       []digest.Digest
}

// holding is a manifest in a repository.
type holding struct {
	repository *Repository
	manifest   digest.Digest
}

// candidate is content in the order in which it goes.
type candidate struct {
	digest digest.Digest
	used   time.Time
	size   int64
}

// run surveys the storage and removes what must go. It is not done when somebody
// has linked something meanwhile that the survey does not know. alone keeps
// others from it.
func (p *pass) run(ctx context.Context, alone bool) (done bool, err error) {
	c := p.cache
	if alone {
		unlock, err := c.links.exclude()
		if err != nil {
			return false, err
		}
		defer unlock()
	}
	surveyed := c.links.number(linkedMark)
	if err := p.survey(ctx); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, c.forgetUses(context.WithoutCancel(ctx), p.gone)) }()
	for len(p.candidates) > 0 && p.due(p.candidates[0]) {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if alone || p.DryRun {
			err = p.evict(ctx)
		} else {
			var unlock func()
			if unlock, err = c.links.exclude(); err != nil {
				return false, err
			}
			if c.links.number(linkedMark) != surveyed {
				unlock()
				return false, nil
			}
			err = p.evict(ctx)
			unlock()
		}
		if err != nil {
			return false, err
		}
	}
	p.result.After = p.left
	return true, nil
}

func (p *pass) due(next candidate) bool {
	return (p.To >= 0 && p.left > p.To) || next.used.Before(p.Unused)
}

// survey puts everything that may go into the order in which it goes.
func (p *pass) survey(ctx context.Context) (err error) {
	known := p.cache.held.Load()
	if p.Inventory, err = Survey(ctx, p.cache.driver); err != nil {
		return err
	}
	p.left = p.Bytes()
	p.cache.held.Add(p.left - known) // what came meanwhile may be counted twice, until the next time
	recorded, err := p.cache.lastUses(ctx)
	if err != nil {
		return err
	}
	p.gone = nil
	for d := range recorded {
		if _, here := p.Content[d]; !here {
			p.gone = append(p.gone, d)
		}
	}
	if !p.surveyed {
		p.surveyed, p.result.Before = true, p.left
	}
	p.pinned = p.Pinned(p.cache.options.Pinned)
	p.result.Pinned = 0
	for d := range p.pinned {
		p.result.Pinned += p.Content[d].Size
	}
	p.holders, p.listers = map[digest.Digest][]holding{}, map[digest.Digest][]holding{}
	for _, r := range p.Repositories {
		for d, m := range r.Manifests {
			for _, b := range m.Blobs {
				p.holders[b.Digest] = append(p.holders[b.Digest], holding{r, d})
			}
			for _, child := range m.Manifests {
				p.listers[child.Digest] = append(p.listers[child.Digest], holding{r, d})
			}
		}
	}

	// Who pulls an image uses its blobs, also those that he had already; and a
	// manifest goes after its blobs.
	used := map[digest.Digest]time.Time{}
	later := func(d digest.Digest, t time.Time) {
		if t.After(used[d]) {
			used[d] = t
		}
	}
	for d, s := range p.Content {
		later(d, s.Since)
		later(d, recorded[d])
	}
	for _, r := range p.Repositories {
		for _, m := range r.Manifests {
			for _, b := range m.Blobs {
				later(b.Digest, used[m.Digest])
			}
		}
	}
	for range 2 { // from blobs to images, and from images to indexes
		for _, r := range p.Repositories {
			for _, m := range r.Manifests {
				for _, d := range slices.Concat(m.Blobs, m.Manifests) {
					later(m.Digest, used[d.Digest])
				}
			}
		}
	}

	p.candidates = p.candidates[:0]
	for _, r := range p.Repositories {
		for d, m := range r.Manifests {
			if _, here := p.Content[d]; !here || m.MediaType == "" {
				// Nobody knows what it needs: if its bytes came back, it would
				// be a manifest that lacks something.
				p.candidates = append(p.candidates, candidate{digest: d, size: p.Content[d].Size})
			}
		}
	}
	for d, s := range p.Content {
		if !p.pinned[d] {
			p.candidates = append(p.candidates, candidate{d, used[d], s.Size})
		}
	}
	slices.SortFunc(p.candidates, func(a, b candidate) int {
		if order := a.used.Compare(b.used); order != 0 {
			return order
		}
		return int(max(-1, min(1, b.size-a.size))) // what needs room most; the manifest last
	})
	return nil
}

// evict removes the next few candidates. The links are locked.
func (p *pass) evict(ctx context.Context) error {
	if !p.DryRun {
		// First: whoever trusts its memory of links after a crash in between
		// would be wrong.
		if err := p.cache.links.change(removedMark); err != nil {
			return err
		}
	}
	for range atOnce {
		if len(p.candidates) == 0 || !p.due(p.candidates[0]) {
			return nil
		}
		next := p.candidates[0]
		p.candidates = p.candidates[1:]
		stored, here := p.Content[next.digest]
		if p.cache.busy(next.digest) {
			continue
		}
		if err := p.unlinkAll(ctx, next.digest); err != nil {
			return err
		}
		if !here {
			continue
		}
		if !p.DryRun {
			if err := p.cache.evict(ctx, next.digest); err != nil {
				return err
			}
			p.cache.counts.evicted.Add(1)
			p.cache.counts.evictedBytes.Add(stored.Size)
			p.gone = append(p.gone, next.digest)
		}
		delete(p.Content, next.digest)
		p.left -= stored.Size
		p.result.Content++
	}
	return nil
}

// busy says whether the content is on its way in, or read in a way that its
// removal would end.
func (c *Cache) busy(d digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fills[d] != nil || c.reading[d] > 0
}

// unlinkAll removes every link that leads to the content.
func (p *pass) unlinkAll(ctx context.Context, d digest.Digest) error {
	for _, holder := range p.holders[d] {
		if err := p.unlink(ctx, holder.repository, holder.manifest); err != nil {
			return err
		}
	}
	for _, r := range p.Repositories {
		if err := p.unlink(ctx, r, d); err != nil {
			return err
		}
		if err := p.removeBlobLink(ctx, r, d); err != nil {
			return err
		}
	}
	return nil
}

// unlink takes a manifest out of its repository: what points at it goes first,
// so that a registry that reads along never follows it to nothing.
func (p *pass) unlink(ctx context.Context, r *Repository, d digest.Digest) error {
	m := r.Manifests[d]
	if m == nil {
		return nil
	}
	delete(r.Manifests, d)
	for _, index := range p.listers[d] {
		if index.repository == r {
			if err := p.unlink(ctx, r, index.manifest); err != nil {
				return err
			}
		}
	}
	out := Unlinked{Repository: r.Name, Digest: d}
	for tag, named := range r.Tags {
		folder := path.Dir(tagIndexPath(r.Name, tag, d))
		if named == d {
			folder = path.Dir(path.Dir(tagCurrentPath(r.Name, tag)))
			out.Tags = append(out.Tags, tag)
			delete(r.Tags, tag)
		}
		if err := p.remove(ctx, folder); err != nil {
			return err
		}
	}
	slices.Sort(out.Tags)
	if err := p.remove(ctx, path.Dir(revisionLinkPath(r.Name, d))); err != nil {
		return err
	}
	p.result.Unlinked = append(p.result.Unlinked, out)
	for _, b := range m.Blobs {
		if !p.needed(r, b.Digest) {
			if err := p.removeBlobLink(ctx, r, b.Digest); err != nil {
				return err
			}
		}
	}
	if len(r.Manifests) > 0 {
		return nil
	}
	// A registry lists a repository as long as these are there. Those of others
	// may be below the same folder.
	clear(r.blobs)
	for _, part := range []string{"_manifests", "_layers"} {
		if err := p.remove(ctx, repositoriesRoot+"/"+r.Name+"/"+part); err != nil {
			return err
		}
	}
	return nil
}

// needed says whether a manifest of the repository refers to the blob.
func (p *pass) needed(r *Repository, blob digest.Digest) bool {
	return slices.ContainsFunc(p.holders[blob], func(h holding) bool {
		return h.repository == r && r.Manifests[h.manifest] != nil
	})
}

func (p *pass) removeBlobLink(ctx context.Context, r *Repository, d digest.Digest) error {
	if !r.blobs[d] {
		return nil
	}
	delete(r.blobs, d)
	return p.remove(ctx, path.Dir(layerLinkPath(r.Name, d)))
}

func (p *pass) remove(ctx context.Context, folder string) error {
	if p.DryRun {
		return nil
	}
	if err := p.cache.removeFolder(ctx, folder); err != nil {
		return fmt.Errorf("removing links: %w", err)
	}
	return nil
}

// evict removes content and the folder that was made for it.
func (c *Cache) evict(ctx context.Context, d digest.Digest) error {
	if err := c.remove(ctx, d); err != nil {
		return err
	}
	if c.root == "" {
		if err := c.driver.Delete(ctx, path.Dir(blobDataPath(d))); err != nil && !isPathNotFound(err) {
			return fmt.Errorf("removing %s from the cache: %w", d, err)
		}
		return nil
	}
	// Not if somebody has put a copy into it; commitFile makes it anew if it is
	// gone.
	_ = os.Remove(filepath.Dir(c.filePath(blobDataPath(d))))
	return nil
}

// grew counts content that was added, and wakes who makes room.
func (c *Cache) grew(size int64) {
	held := c.held.Add(size)
	if bound := c.options.MaxSize; bound <= 0 || held <= bound {
		return
	}
	select {
	case c.full <- struct{}{}:
	default:
	}
}

// makeRoom holds the cache to its bound. It says whether it could.
func (c *Cache) makeRoom(ctx context.Context) bool {
	bound := c.options.MaxSize
	if bound <= 0 || c.held.Load() <= bound {
		return true
	}
	done, err := c.Prune(ctx, Pruning{To: lowWater(bound)})
	switch {
	case ctx.Err() != nil:
		return true
	case err != nil:
		c.log.Error("the cache could not be held to its size", zap.Error(err))
		return false
	case done.Content > 0:
		c.log.Info("made room in the cache", zap.Int64("bytes", done.Before-done.After), zap.Int("content", done.Content),
			zap.Int("images", len(done.Unlinked)), zap.Int64("left", done.After), zap.Int64("max_size", bound))
	}
	if done.After > bound {
		c.log.Warn("the cache is larger than cache.max_size and nothing more can go; pin less, or raise it",
			zap.Int64("bytes", done.After), zap.Int64("pinned", done.Pinned), zap.Int64("max_size", bound))
		return false
	}
	return true
}
