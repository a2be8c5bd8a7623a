package gate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/upstream"
)

var (
	// ErrPush reports a manifest that the gate does not hand on, since it could
	// never serve it.
	ErrPush = errors.New("the gate could never serve it")

	// ErrIncomplete reports a manifest that cannot be judged yet: the upstream
	// lacks what it refers to.
	ErrIncomplete = errors.New("push what it refers to first")
)

// Push is a manifest on its way to the upstream.
type Push struct {
	Reference oci.Reference // with a tag, or with the digest that the bytes must have
	Tags      []string      // further ones, beside a digest
	MediaType string
	Raw       []byte
	Client    policy.Client
	Judge     bool // hand it on only if it could be pulled
}

// Pushed is a manifest that the upstream has taken.
type Pushed struct {
	upstream.Pushed
	Digest    digest.Digest
	Admission *Admission // the verdict, if there was to be one
}

// Push hands a manifest on to the upstream. What is to be judged is judged as a
// pull of it would be, before the upstream has it; the verdict is recorded.
//
// Errors are those of Admit, or match ErrPush or ErrIncomplete, or are a
// *BlockedError or an *upstream.RefusedError.
func (g *Gate) Push(ctx context.Context, p Push) (*Pushed, error) {
	route, err := g.route(p.Reference)
	if err != nil {
		return nil, err
	}
	src, err := g.origin(route, p.Reference)
	if err != nil {
		return nil, err
	}
	want := p.Reference.Digest()
	if got := oci.DigestOf(p.Raw, want); want != "" && got != want {
		return nil, fmt.Errorf("%w: %w: the manifest hashes to %s, not to %s", ErrPush, cache.ErrDigest, got, want)
	}
	m, err := oci.ParseManifest(p.Raw, p.MediaType, want)
	if err == nil {
		err = refuseDetours(m)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPush, err)
	}
	pushed := &Pushed{Digest: m.Digest}
	names, under := []oci.Reference{p.Reference.WithDigest(m.Digest)}, p.Reference.Tag()
	if under == "" {
		under = m.Digest.String()
	}
	for _, tag := range p.Tags {
		ref, err := p.Reference.InRepository().WithTag(tag)
		if err != nil {
			return nil, err
		}
		names = append(names, ref.WithDigest(m.Digest))
	}
	if p.Judge {
		for _, ref := range names {
			a, err := g.judgePush(ctx, route, ref, m, p.Client)
			if err != nil {
				return nil, err
			}
			if a.Verdict.Blocked() {
				return nil, &BlockedError{a}
			}
			if pushed.Admission == nil || policy.Stricter(a.Verdict.Action, pushed.Admission.Verdict.Action) == a.Verdict.Action {
				pushed.Admission = a
			}
		}
	}
	taken, err := src.repository.PutManifest(ctx, under, p.Tags, m)
	// An upstream that does not answer may have taken it all the same.
	if forgetErr := g.forgetTags(ctx, names); forgetErr != nil && err == nil {
		err = forgetErr
	}
	if err != nil {
		return nil, err
	}
	g.forgetEvidence(ctx, src, p.Reference, m)
	pushed.Pushed = taken
	return pushed, nil
}

// judgePush judges a manifest that the upstream does not have yet. Its blobs,
// the images of an index and the evidence, which may all come first, are looked
// for where they will be.
func (g *Gate) judgePush(ctx context.Context, route *Route, ref oci.Reference, m *oci.Manifest, client policy.Client) (*Admission, error) {
	n := newNode(route, ref, g.clientFor(client), g.Limits.Nodes)
	n.given = m
	var err error
	if n.indexes, err = g.listed(ctx, ref); err != nil {
		return nil, err
	}
	// Whoever was refused signs and tries again: what was found a moment ago
	// does not count.
	g.outdate(ref)
	key := g.key(n)
	a, err := g.fly(ctx, "push "+key, 0, func(ctx context.Context) (*Admission, error) { return g.judge(ctx, n, key, nil) })
	if errors.Is(err, oci.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	return a, err
}

// Uploads opens the repository at its upstream, for blobs that are pushed.
func (g *Gate) Uploads(repository oci.Reference) (*upstream.Repository, error) {
	route, err := g.route(repository)
	if err != nil {
		return nil, err
	}
	return route.Upstream.Repository(repository.Repository())
}

// arrival is a blob that a client has pushed, and that no manifest refers to
// yet.
type arrival struct {
	client string
	size   int64
	until  time.Time
}

// arrivalKept is how long a client may read back what it has pushed.
const arrivalKept = time.Hour

// Arrived lets the client who has pushed a blob, and nobody else, read it back
// before a manifest refers to it: clients look whether a blob is there before
// they push it, and again before they push the manifest.
func (g *Gate) Arrived(repository oci.Reference, d digest.Digest, size int64, client policy.Client) {
	key := repository.Name() + "@" + d.String()
	g.arrivals.Add(key, arrival{pullClient(client), size, g.Now().Add(arrivalKept)})
}

// arrived returns what Arrived let this client read.
func (g *Gate) arrived(ctx context.Context, repository oci.Reference, d digest.Digest, client policy.Client) (oci.Descriptor, bool, error) {
	a, ok := g.arrivals.Get(repository.Name() + "@" + d.String())
	if !ok || a.client != pullClient(client) || !g.Now().Before(a.until) {
		return oci.Descriptor{}, false, nil
	}
	// Bytes that are a manifest are pulled as one, or not at all.
	manifest, err := g.Ledger.HasManifest(ctx, repository.Name(), d)
	return oci.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: a.size}, err == nil && !manifest, err
}

// Delete removes a tag from the upstream, or a manifest with all its tags.
func (g *Gate) Delete(ctx context.Context, ref oci.Reference) error {
	src, err := g.originOf(ref)
	if err != nil {
		return err
	}
	if ref.Digest() == "" {
		err = src.repository.DeleteManifest(ctx, ref.Tag())
		return errors.Join(err, g.forgetTags(ctx, []oci.Reference{ref}))
	}
	err = src.repository.DeleteManifest(ctx, ref.Digest().String())
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return err
	}
	return errors.Join(err, g.forgetManifest(ctx, ref))
}

// DeleteBlob removes a blob from the upstream's repository.
func (g *Gate) DeleteBlob(ctx context.Context, repository oci.Reference, d digest.Digest) error {
	src, err := g.originOf(repository)
	if err != nil {
		return err
	}
	g.arrivals.Remove(repository.Name() + "@" + d.String())
	return src.repository.DeleteBlob(ctx, d)
}

// forgetEvidence has the subject judged anew when a signature or an attestation
// of it has been pushed, with the images that inherit what an index has.
func (g *Gate) forgetEvidence(ctx context.Context, src *origin, pushed oci.Reference, m *oci.Manifest) {
	subject := digest.Digest("")
	if m.Subject != nil {
		subject = m.Subject.Digest
	} else if algorithm, hex, ok := strings.Cut(strings.SplitN(pushed.Tag(), ".", 2)[0], "-"); ok {
		// https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md#tag-based-discovery
		subject = digest.Digest(algorithm + ":" + hex)
	}
	if _, err := oci.ParseDigest(subject.String()); err != nil {
		return
	}
	g.outdate(pushed.InRepository().WithDigest(subject))
	here, err := g.Ledger.HasManifest(ctx, pushed.Name(), subject)
	if err != nil || !here {
		return
	}
	index, err := src.Manifest(ctx, subject)
	if err != nil {
		return
	}
	for _, child := range index.Manifests {
		g.outdate(pushed.InRepository().WithDigest(child.Digest))
	}
}
