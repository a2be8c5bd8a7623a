package gate

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policies"
	"github.com/trustgate/trustgate/policy"
)

// errNotRecorded reports an image whose evidence must be gathered anew.
var errNotRecorded = errors.New("there is no record to judge again")

// gatheringRevision hashes what decides, beside trust, what evidence is found
// and how it is written down.
func (g *Gate) gatheringRevision() (string, error) {
	raw, err := json.Marshal([]any{
		g.Gathering, g.Limits.Evidence, g.Limits.Config, g.Limits.Parents, g.Limits.Nodes, g.Lifetimes.Depth, g.Platforms,
		g.Packages.Examine, g.Source != nil, digest.FromBytes(policies.InputSchema),
	})
	if err != nil {
		return "", fmt.Errorf("hashing what evidence is looked for: %w", err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(raw))[:32], nil
}

// recorded is admit for what needs nothing of an upstream: the standing verdict,
// or one that can be made of the record.
func (g *Gate) recorded(ctx context.Context, n node) (*Admission, error) {
	if n.depth > g.Lifetimes.Depth {
		return nil, errNotRecorded
	}
	var err error
	if n.indexes, err = g.listed(ctx, n.ref); err != nil {
		return nil, err
	}
	key := g.key(n)
	if a := g.memo.get(key); g.stands(a, n) {
		return a, nil
	}
	return g.admitRecorded(ctx, n, key)
}

// admitRecorded judges again what was judged before, when only the policy is
// another: by the input that the ledger has, with today's verdicts on the parents
// in it. It asks no upstream, and so takes no place among the judgements that do.
// Whatever does not fit together is errNotRecorded.
//
// It has flights of its own, since who shares one with a pull must get a verdict.
func (g *Gate) admitRecorded(ctx context.Context, n node, key string) (*Admission, error) {
	if !n.since.IsZero() || n.given != nil {
		return nil, errNotRecorded
	}
	return g.fly(ctx, "recorded "+key, n.depth, func(ctx context.Context) (*Admission, error) {
		if a, stands, err := g.last(ctx, n, key); err != nil || stands {
			return a, err
		}
		return g.rejudge(ctx, n, key)
	})
}

func (g *Gate) rejudge(ctx context.Context, n node, key string) (*Admission, error) {
	started := g.Now()
	old, input, err := g.record(ctx, n)
	if err != nil {
		return nil, err
	}
	a := &examined{
		Admission: &Admission{Reference: n.ref, Manifest: old.Manifest, key: key, client: n.client},
		input:     input, notAfter: old.Verdict.ExpiresAt, // the evidence gets no older
	}
	if old.Manifest.Kind == oci.KindIndex {
		err = g.rejudgeImages(ctx, n, a, old)
	} else {
		err = g.rejudgeImage(ctx, n, a, old)
	}
	if err != nil {
		return nil, err
	}
	if a.truncated || !g.Now().Before(a.notAfter) {
		return nil, errNotRecorded
	}
	a.Evidence = old.Evidence
	return g.remember(ctx, n, a, started)
}

// record is the newest judgement of the same question, whatever the policy, with
// its input. It stands still, and its evidence would be looked for in the same way
// today.
func (g *Gate) record(ctx context.Context, n node) (*Admission, *policy.Input, error) {
	j, err := g.Ledger.LatestOf(ctx, n.ref.Name(), n.ref.Tag(), n.ref.Digest())
	if errors.Is(err, oci.ErrNotFound) {
		return nil, nil, errNotRecorded
	}
	if err != nil {
		return nil, nil, err
	}
	old, err := g.remembered(ctx, n, j)
	if err != nil {
		return nil, nil, err
	}
	if old == nil || old.Evidence == nil || old.Evidence.Revision != g.gathering || !g.stands(old, n) {
		return nil, nil, errNotRecorded
	}
	raw, err := g.Ledger.InputOf(ctx, j.InputDigest)
	if err != nil {
		return nil, nil, err
	}
	var input policy.Input
	if err := json.Unmarshal(raw, &input); err != nil {
		return nil, nil, fmt.Errorf("reading the input of %s: %w", j.ID, err)
	}
	asked := n
	asked.client = input.Request.Client
	if g.keyUnder(asked, j.PolicyRevision) != j.Key {
		return nil, nil, errNotRecorded // under other trust, or within other indexes
	}
	input.Request = policy.Request{Client: n.client, Route: n.route.Registry}
	return old, &input, nil
}

func (g *Gate) rejudgeImage(ctx context.Context, n node, a *examined, old *Admission) error {
	parents, err := g.rejudgeParents(ctx, n, a.input.Parents, old.Admitted)
	if err != nil {
		return err
	}
	a.Detail = old.Detail
	a.Parents, a.Admitted = parents.parents, parents.admitted
	a.Until, a.truncated = parents.until, parents.truncated
	if a.input.Parents = parents.parents; a.input.Parents == nil {
		a.input.Parents = []policy.Parent{}
	}
	if ends := parents.notAfter; !ends.IsZero() && ends.Before(a.notAfter) {
		a.notAfter = ends
	}
	if a.input.Packages != nil {
		// They may have been examined since.
		if a.input.Packages, err = g.packagesAbove(ctx, n.ref.Digest(), old.Below); err != nil {
			return err
		}
		a.pending = a.input.Packages.State == "pending"
	}
	select {
	case g.deciding <- struct{}{}:
		defer func() { <-g.deciding }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	g.decide(ctx, n, a)
	return nil
}

// rejudgeParents has the direct parents judged as they were, and puts what is
// decided about them today in the place of what was decided then.
func (g *Gate) rejudgeParents(ctx context.Context, n node, edges []policy.Parent, admitted []string) (*facts, error) {
	var direct []policy.Parent
	for _, e := range edges {
		if e.Depth == 1 {
			direct = append(direct, e)
		}
	}
	if len(direct) != len(admitted) {
		return nil, errNotRecorded
	}
	admissions := make([]*Admission, len(direct))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, name := range admitted {
		if len(direct[i].Path) != 2 {
			return nil, errNotRecorded
		}
		if name == "" {
			continue // it could not be judged, and not for a while only
		}
		ref, err := oci.ParseReference(name)
		if err != nil {
			return nil, err
		}
		route, err := g.route(ref)
		if err != nil {
			return nil, err
		}
		parent := node{route: route, ref: ref, client: n.client, depth: n.depth + 1, budget: n.budget}
		group.Go(func() (err error) {
			admissions[i], err = g.recorded(groupCtx, parent)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	f := &facts{}
	for i, edge := range direct {
		f.addParent(edge, admissions[i])
	}
	return f, nil
}

func (g *Gate) rejudgeImages(ctx context.Context, n node, a *examined, old *Admission) error {
	listed := map[digest.Digest]oci.Descriptor{}
	for _, d := range old.Manifest.Manifests {
		listed[d.Digest] = d
	}
	children := make([]*Admission, len(old.Children))
	descriptors := make([]oci.Descriptor, len(old.Children))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i, c := range old.Children {
		d, ok := listed[c.Digest]
		if !ok || c.Decision == "" {
			return errNotRecorded
		}
		descriptors[i] = d
		child := n
		child.ref, child.index, child.depth = n.ref.WithDigest(c.Digest), old.Manifest, n.depth+1
		group.Go(func() (err error) {
			children[i], err = g.recorded(groupCtx, child)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if len(children) == 0 {
		return errNotRecorded
	}
	g.combine(a, children, descriptors)
	return nil
}
