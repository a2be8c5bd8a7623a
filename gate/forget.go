package gate

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/oci"
)

// forgotten makes sure that what is forgotten stays so: a look-up or a
// judgement that was under way then must not bring it back.
type forgotten struct {
	sync.RWMutex
	tags      uint64                        // how often any tag was forgotten
	manifests *lru.Cache[string, time.Time] // when a verdict on it last became outdated
	named     *lru.Cache[string, time.Time] // when a tag was last forgotten

	changes atomic.Uint64 // of all that admissions rest on
}

// forgetTags forgets what the tags name, so that the next pull asks the
// upstream.
func (g *Gate) forgetTags(ctx context.Context, refs []oci.Reference) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	g.forgotten.Lock()
	defer g.forgotten.Unlock()
	defer g.changed()
	g.forgotten.tags++
	for _, ref := range refs {
		if ref.Tag() == "" {
			continue
		}
		key := ref.Name() + ":" + ref.Tag()
		g.tags.Remove(key)
		g.forgotten.named.Add(key, g.Now()) // for gates before and after this one
		g.resolving.Forget(key)             // who asks from now on does not wait for an answer from before
		g.linked.Remove(key)
		if err := g.Ledger.ForgetTag(ctx, ref.Name(), ref.Tag()); err != nil {
			return err
		}
		if err := g.Cache.UnlinkTag(ctx, cache.RepositoryName(ref), ref.Tag()); err != nil {
			return err
		}
	}
	return nil
}

// forgetManifest forgets that the repository has the manifest: by tag, by
// digest, for its blobs, and for pulls while the upstream does not answer.
func (g *Gate) forgetManifest(ctx context.Context, ref oci.Reference) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	g.forgotten.Lock()
	defer g.forgotten.Unlock()
	defer g.changed()
	g.forgotten.tags++
	prefix := ref.Name() + ":"
	for _, key := range g.tags.Keys() {
		if t, ok := g.tags.Peek(key); ok && t.digest == ref.Digest() && len(key) > len(prefix) && key[:len(prefix)] == prefix {
			g.tags.Remove(key)
			g.resolving.Forget(key)
		}
	}
	if err := g.Ledger.ForgetManifest(ctx, ref.Name(), ref.Digest()); err != nil {
		return err
	}
	if err := g.Cache.Unlink(ctx, cache.RepositoryName(ref), ref.Digest()); err != nil {
		return err
	}
	// With it go the gate's own summaries of the verdicts on it.
	recorded, err := g.Ledger.Served(ctx, ref.Name(), ref.Digest())
	if err != nil {
		return err
	}
	for _, j := range recorded {
		summary, ok := g.summarized.Peek(j.ID)
		if !ok {
			continue
		}
		g.summarized.Remove(j.ID)
		if err := g.Ledger.ForgetManifest(ctx, ref.Name(), summary.descriptor.Digest); err != nil {
			return err
		}
	}
	g.seen.Remove(manifestKey(ref))
	g.holders.Purge()
	g.listings.Purge()
	g.outdateLocked(ref)
	return nil
}

// outdate has the manifest judged anew when it is pulled next.
func (g *Gate) outdate(ref oci.Reference) {
	g.forgotten.Lock()
	defer g.forgotten.Unlock()
	g.outdateLocked(ref)
}

func (g *Gate) outdateLocked(ref oci.Reference) {
	g.forgotten.manifests.Add(manifestKey(ref), g.Now())
	g.memo.forget(ref)
}

// outdated is when verdicts on the manifest last lost their force, if ever.
func (g *Gate) outdated(ref oci.Reference) time.Time {
	at, _ := g.forgotten.manifests.Get(manifestKey(ref))
	return at
}

// tagForgotten is when the tag was last forgotten, if ever.
func (g *Gate) tagForgotten(key string) time.Time {
	at, _ := g.forgotten.named.Get(key)
	return at
}

// rememberTag keeps what a look-up has found, unless some tag was forgotten
// while it was under way.
func (g *Gate) rememberTag(since uint64, keep func() error) error {
	g.forgotten.RLock()
	defer g.forgotten.RUnlock()
	if g.forgotten.tags != since {
		return nil
	}
	return keep()
}

func (g *Gate) tagsForgotten() uint64 {
	g.forgotten.RLock()
	defer g.forgotten.RUnlock()
	return g.forgotten.tags
}

// stillThere says whether the upstream has what the cache was asked for, as
// far as it answers: what has been deleted there is not pulled from here. Only
// what nobody has seen there for a while, or what was forgotten before, is
// asked for.
func (g *Gate) stillThere(ctx context.Context, src *origin, ref oci.Reference) error {
	if at, ok := g.seen.Get(manifestKey(ref)); ok && within(g.Now(), at, at.Add(g.Lifetimes.Tag)) && g.outdated(ref).IsZero() {
		return nil
	}
	_, err := src.repository.Resolve(ctx, ref.Digest().String())
	switch {
	case err == nil:
		g.seen.Add(manifestKey(ref), g.Now())
	case errors.Is(err, oci.ErrNotFound):
		if forgetErr := g.forgetManifest(ctx, ref); forgetErr != nil {
			return forgetErr
		}
		return err
	}
	return nil // an upstream that does not answer has deleted nothing
}
