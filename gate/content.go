package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// BlockedError reports content that only blocked manifests refer to.
type BlockedError struct{ Admission *Admission }

func (e *BlockedError) Error() string {
	return fmt.Sprintf("%s is blocked (%s)", e.Admission.Reference, e.Admission.Verdict.ID)
}

// Blob is a blob that may be read.
type Blob struct {
	Descriptor oci.Descriptor // as the manifest that refers to it says
	open       func(context.Context) (*cache.Blob, error)
}

// Open returns the blob's bytes, from the cache or through a fill. The caller
// closes it.
func (b *Blob) Open(ctx context.Context) (*cache.Blob, error) { return b.open(ctx) }

// Blob grants a blob of the repository, if a manifest of that repository that
// refers to it may be pulled by this client.
//
// Errors are those of Admit, or a *BlockedError.
func (g *Gate) Blob(ctx context.Context, repository oci.Reference, d digest.Digest, client policy.Client) (*Blob, error) {
	route, err := g.route(repository)
	if err != nil {
		return nil, err
	}
	seen := g.clientFor(client)
	holders, err := g.holding(ctx, repository, d)
	if err != nil {
		return nil, err
	}
	if len(holders) == 0 {
		if pushed, ok, err := g.arrived(ctx, repository, d, client); err != nil {
			return nil, err
		} else if ok {
			return g.grant(route, repository, pushed), nil
		}
	}
	var refused error
	for _, h := range holders {
		if slices.Contains(oci.ManifestMediaTypes, h.Blob.MediaType) {
			continue // a manifest is pulled as one, or not at all
		}
		switch err := g.mayRead(ctx, route, repository.WithDigest(h.Manifest), seen); {
		case err == nil:
			if oci.IsForeignLayer(h.Blob) {
				// Registries take manifests whose foreign layers they do not have.
				// The cache is one for all repositories: it must not stand in.
				if err := g.isHeld(ctx, route, repository, d); err != nil {
					return nil, err
				}
			}
			return g.grant(route, repository, h.Blob), nil
		case refused == nil || errors.As(err, new(*BlockedError)):
			refused = err
		}
	}
	if refused != nil {
		return nil, refused
	}
	return nil, fmt.Errorf("no manifest that was pulled from %s refers to %s; pull the manifest first: %w", repository.Name(), d, oci.ErrNotFound)
}

// isHeld says whether the upstream's repository has the blob.
func (g *Gate) isHeld(ctx context.Context, route *Route, repository oci.Reference, d digest.Digest) error {
	from, err := route.Upstream.Repository(repository.Repository())
	if err != nil {
		return err
	}
	body, _, err := from.Blob(ctx, d, 0)
	if err != nil {
		return err
	}
	return body.Close()
}

func (g *Gate) holding(ctx context.Context, repository oci.Reference, d digest.Digest) ([]ledger.Holder, error) {
	key := repository.Name() + "@" + d.String()
	if holders, ok := g.holders.Get(key); ok {
		return holders, nil
	}
	// Whatever calls it a layer: a manifest is pulled as one, or not at all.
	manifest, err := g.Ledger.HasManifest(ctx, repository.Name(), d)
	if err != nil || manifest {
		return nil, err
	}
	holders, err := g.Ledger.Holders(ctx, repository.Name(), d)
	if err != nil {
		return nil, fmt.Errorf("looking up what refers to %s: %w", d, err)
	}
	if len(holders) > 0 {
		g.holders.Add(key, holders)
	}
	return holders, nil
}

// mayRead says whether the manifest, under any tag, stands as served for this
// client, and judges it when no verdict stands.
func (g *Gate) mayRead(ctx context.Context, route *Route, ref oci.Reference, client policy.Client) error {
	if g.memo.served(ref, client, g.Now(), g.outdated(ref)) != nil {
		return nil
	}
	if ok, err := g.mayReadAgain(ctx, route, ref, client); ok || err != nil {
		return err
	}
	a, err := g.admit(ctx, newNode(route, ref, client, g.Limits.Nodes))
	if err == nil && !a.Verdict.Blocked() {
		return nil
	}
	// Judged by digest alone it is refused or not to be had; the tag under
	// which it was pulled before the last restart may still serve it.
	if j, lookErr := g.recordedAsServed(ctx, ref, evidence.Temporary(err)); lookErr != nil {
		return lookErr
	} else if j != nil {
		return nil
	}
	if err != nil {
		return err
	}
	return &BlockedError{a}
}

// mayReadAgain says whether a tag under which the manifest was pulled before the
// policy changed, or before a restart, serves it still. Clients ask for blobs long
// after they asked for the tag.
func (g *Gate) mayReadAgain(ctx context.Context, route *Route, ref oci.Reference, client policy.Client) (bool, error) {
	recorded, err := g.Ledger.Served(ctx, ref.Name(), ref.Digest())
	if err != nil {
		return false, fmt.Errorf("looking up the verdicts on %s: %w", ref, err)
	}
	var looked []string // tags
	for _, j := range recorded {
		if j.Tag == "" || slices.Contains(looked, j.Tag) || !within(g.Now(), j.JudgedAt, j.ExpiresAt) {
			continue
		}
		looked = append(looked, j.Tag)
		tagged, err := ref.InRepository().WithTag(j.Tag)
		if err != nil {
			return false, err
		}
		a, err := g.recorded(ctx, newNode(route, tagged.WithDigest(ref.Digest()), client, g.Limits.Nodes))
		if err == nil && !a.Verdict.Blocked() {
			return true, nil
		}
	}
	return false, nil
}

// recordedAsServed is a judgement under any tag that serves the manifest and
// stands, or nil.
func (g *Gate) recordedAsServed(ctx context.Context, ref oci.Reference, upstreamFailed bool) (*ledger.Judgement, error) {
	if g.readsClient() {
		return nil, nil // whose verdict it was is not known here
	}
	here, err := g.Ledger.HasManifest(ctx, ref.Name(), ref.Digest())
	if err != nil || !here {
		return nil, err // it has been deleted
	}
	recorded, err := g.Ledger.Served(ctx, ref.Name(), ref.Digest())
	if err != nil {
		return nil, fmt.Errorf("looking up the verdicts on %s: %w", ref, err)
	}
	now := g.Now()
	var decided []string // tags, by their newest judgement
	for _, j := range recorded {
		if !g.inForce(j) || slices.Contains(decided, j.Tag) {
			continue
		}
		decided = append(decided, j.Tag)
		if policy.Stricter(policy.Action(j.Action), policy.Annotate) == policy.Block {
			continue
		}
		if within(now, j.JudgedAt, j.ExpiresAt) {
			return &j, nil
		}
		if !upstreamFailed {
			continue
		}
		if a, err := restore(j, node{ref: ref}, nil); err != nil {
			return nil, err
		} else if g.stillStands(a) {
			return &j, nil
		}
	}
	return nil, nil
}

func (g *Gate) grant(route *Route, repository oci.Reference, d oci.Descriptor) *Blob {
	fetch := func(ctx context.Context) (io.ReadCloser, int64, error) {
		from, err := route.Upstream.Repository(repository.Repository())
		if err != nil {
			return nil, 0, err
		}
		return from.Blob(ctx, d.Digest, 0)
	}
	return &Blob{Descriptor: d, open: func(ctx context.Context) (*cache.Blob, error) { return g.Cache.Blob(ctx, d, fetch) }}
}

// Tags lists the tags that the upstream has; n and last page through them.
func (g *Gate) Tags(ctx context.Context, repository oci.Reference, n int, last string) ([]string, error) {
	src, err := g.originOf(repository)
	if err != nil {
		return nil, err
	}
	return src.repository.Tags(ctx, n, last)
}

// Referrers lists the manifests that refer to d: the upstream's, and the gate's
// own verdicts on d. They are evidence, or are judged when they are pulled.
func (g *Gate) Referrers(ctx context.Context, repository oci.Reference, d digest.Digest, artifactType string) ([]oci.Descriptor, error) {
	src, err := g.originOf(repository)
	if err != nil {
		return nil, err
	}
	list, err := src.repository.Referrers(ctx, d, artifactType)
	if err != nil {
		return nil, err
	}
	return g.withSummaries(ctx, repository, d, artifactType, list)
}

func (g *Gate) originOf(ref oci.Reference) (*origin, error) {
	route, err := g.route(ref)
	if err != nil {
		return nil, err
	}
	return g.origin(route, ref)
}
