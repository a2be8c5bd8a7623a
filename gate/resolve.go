package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/oci"
)

// resolved is what a tag names, and from when until when nobody asks again.
type resolved struct {
	digest digest.Digest
	from   time.Time
	until  time.Time
}

// resolve pins ref to a digest. Whatever follows, verdict and bytes, is about
// that digest; the tag stays in the reference because signatures may name it.
//
// When the upstream does not answer, the digest that the tag named last is
// taken for as long as verdicts may be stale. fresh asks the upstream whatever
// is remembered.
func (g *Gate) resolve(ctx context.Context, route *Route, ref oci.Reference, fresh bool) (oci.Reference, error) {
	if ref.Digest() != "" {
		// As every client: a digest beside a tag is what is pulled.
		return ref.WithoutTag(), nil
	}
	if ref.Tag() == "" {
		return oci.Reference{}, fmt.Errorf("%w: %s has neither tag nor digest", oci.ErrReference, ref)
	}
	key := ref.Name() + ":" + ref.Tag()
	since := g.tagsForgotten()
	if t, ok := g.tags.Get(key); ok && !fresh && within(g.Now(), t.from, t.until) && !t.from.Before(g.tagForgotten(key)) {
		return ref.WithDigest(t.digest), nil
	}
	result := g.resolving.DoChan(key, func() (t any, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("resolving %s failed: %v", ref, p)
				g.Log.Error("resolving panicked", panicFields(p)...)
			}
		}()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.Lifetimes.Deadline)
		defer cancel()
		if !g.begin() {
			return nil, ErrClosed
		}
		defer g.work.Done()
		defer context.AfterFunc(g.background, cancel)()
		return g.lookUp(ctx, route, ref, fresh, g.tagsForgotten())
	})
	select {
	case r := <-result:
		if r.Err != nil {
			g.tags.Remove(key)
			g.changed()
			return oci.Reference{}, r.Err
		}
		t := r.Val.(resolved)
		_ = g.rememberTag(since, func() error {
			g.tags.Add(key, t)
			g.changed()
			return nil
		})
		return ref.WithDigest(t.digest), nil
	case <-ctx.Done():
		return oci.Reference{}, context.Cause(ctx)
	}
}

func (g *Gate) lookUp(ctx context.Context, route *Route, ref oci.Reference, fresh bool, since uint64) (resolved, error) {
	last, at, err := g.Ledger.Tag(ctx, ref.Name(), ref.Tag())
	known := err == nil
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return resolved{}, fmt.Errorf("reading what %s named last: %w", ref, err)
	}
	now := g.Now()
	if until := at.Add(g.Lifetimes.Tag); known && !fresh && within(now, at, until) {
		return resolved{last, now, until}, nil
	}
	d, err := g.ask(ctx, route, ref, known)
	if err == nil {
		g.seen.Add(manifestKey(ref.WithDigest(d)), now)
		if err := g.rememberTag(since, func() error { return g.Ledger.SetTag(ctx, ref.Name(), ref.Tag(), d, now) }); err != nil {
			return resolved{}, fmt.Errorf("recording what %s names: %w", ref, err)
		}
		return resolved{d, now, now.Add(g.Lifetimes.Tag)}, nil
	}
	if known && evidence.Temporary(err) && within(now, at, at.Add(g.Lifetimes.Stale)) {
		g.Log.Warn("the upstream does not answer; the tag is taken as it was",
			zap.Stringer("reference", ref), zap.Stringer("digest", last), zap.Time("resolved", at), zap.Error(err))
		return resolved{last, now, now.Add(min(g.Lifetimes.Tag, 5*time.Second))}, nil
	}
	return resolved{}, err
}

// ask spends one request: a HEAD when the content is probably here already, a
// GET when it is not.
func (g *Gate) ask(ctx context.Context, route *Route, ref oci.Reference, known bool) (digest.Digest, error) {
	src, err := g.origin(route, ref)
	if err != nil {
		return "", err
	}
	if known {
		d, err := src.repository.Resolve(ctx, ref.Tag())
		return d.Digest, err
	}
	m, err := src.Tagged(ctx, ref.Tag())
	if err != nil {
		return "", err
	}
	return m.Digest, nil
}
