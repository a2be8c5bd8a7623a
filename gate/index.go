package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// maxChildren bounds how many images of an index are judged when it is pulled.
// The others are judged when they are pulled themselves.
const maxChildren = 32

// examineIndex judges an index by its images: blocked when all of them are,
// annotated when some are. No rule runs over the index itself.
func (g *Gate) examineIndex(ctx context.Context, n node, src *origin, a *examined) error {
	index := a.Manifest
	chosen := g.choose(index)
	if len(chosen) == 0 {
		// A referrers list of an image without referrers, or a manifest list
		// that lists nothing: there is nothing to run.
		a.serveAsEvidence(g.Now(), g.Lifetimes.Block)
		a.evidenceOnly = true
		return nil
	}
	children := make([]*Admission, len(chosen))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i, d := range chosen {
		group.Go(func() error {
			child := n
			child.ref, child.index, child.depth, child.given = n.ref.WithDigest(d.Digest), index, n.depth+1, nil
			admission, err := g.admitChild(groupCtx, child)
			if errors.Is(err, oci.ErrNotFound) && n.given == nil {
				return nil // a sparse index: what is not there cannot be pulled
			}
			children[i] = admission
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("judging the images of %s: %w", n.ref, err)
	}

	var judged []*Admission
	var descriptors []oci.Descriptor
	evidenceOnly := true
	for i, child := range children {
		if child == nil {
			continue
		}
		judged, descriptors = append(judged, child), append(descriptors, chosen[i])
		evidenceOnly = evidenceOnly && child.Verdict.ID == "" && !child.truncated
	}
	if len(judged) == 0 {
		return fmt.Errorf("%s lists %d images and the upstream has none of them: %w", n.ref, len(chosen), oci.ErrNotFound)
	}
	if evidenceOnly {
		a.serveAsEvidence(g.Now(), g.Lifetimes.Block)
		a.evidenceOnly = true
		return nil
	}
	g.combine(a, judged, descriptors)

	f := facts{manifest: index, findings: g.gather(ctx, n.route, n.ref, src, index, nil)}
	a.input = f.input(n)
	a.input.Request = policy.Request{Client: n.client, Route: n.route.Registry}
	return nil
}

func (g *Gate) admitChild(ctx context.Context, n node) (*Admission, error) {
	if n.depth > g.Lifetimes.Depth {
		return nil, fmt.Errorf("%s: the indexes are nested more than %d deep: %w", n.ref, g.Lifetimes.Depth, oci.ErrManifest)
	}
	return g.admit(ctx, n)
}

// choose picks the configured platforms, or everything when none is there.
func (g *Gate) choose(index *oci.Manifest) []oci.Descriptor {
	var all, matching []oci.Descriptor
	for _, d := range index.Manifests {
		if _, is := oci.IsAttestationManifest(d); is {
			continue
		}
		all = append(all, d)
		if slices.ContainsFunc(g.Platforms, func(p oci.Platform) bool { return platformFits(p, d.Platform) }) {
			matching = append(matching, d)
		}
	}
	if len(matching) == 0 {
		matching = all
	}
	return matching[:min(len(matching), maxChildren)]
}

// platformFits says whether an entry is for the platform that is wanted; a
// wanted platform without a variant takes any.
func platformFits(wanted oci.Platform, has *oci.Platform) bool {
	return has != nil && wanted.OS == has.OS && wanted.Architecture == has.Architecture &&
		(wanted.Variant == "" || wanted.Variant == has.Variant)
}

func (g *Gate) combine(a *examined, children []*Admission, descriptors []oci.Descriptor) {
	actions := func(of func(Verdict) policy.Action) policy.Action {
		blocked, worst := 0, policy.Serve
		for _, c := range children {
			action := policy.Stricter(policy.Serve, of(c.Verdict))
			if action == policy.Block {
				blocked++
			}
			worst = policy.Stricter(worst, action)
		}
		if worst == policy.Block && blocked < len(children) {
			return policy.Annotate // the images that may be pulled can be
		}
		return worst
	}
	v := &a.Verdict
	v.Action = actions(func(v Verdict) policy.Action { return v.Action })
	v.BeforeMode = actions(func(v Verdict) policy.Action { return v.BeforeMode })

	for i, c := range children {
		platform := c.Platform
		if platform == "" {
			platform = oci.FormatPlatform(descriptors[i].Platform)
		}
		a.Children = append(a.Children, Child{
			Digest: c.Reference.Digest(), Platform: platform,
			Decision: c.Verdict.ID, Action: c.Verdict.Action, Before: c.Verdict.BeforeMode,
			Level: buildLevel(c.Build), Reasons: c.Verdict.Reasons,
		})
		a.truncated = a.truncated || c.truncated
		if a.notAfter.IsZero() || c.Verdict.ExpiresAt.Before(a.notAfter) {
			a.notAfter = c.Verdict.ExpiresAt
		}
		a.Until = earlier(a.Until, c.Until)
		if a.Source == nil {
			a.Source, a.Build = c.Source, c.Build
		}
	}
	v.Reasons = sharedReasons(a.Children)
	for _, c := range children {
		for key, value := range c.Verdict.Annotations {
			if v.Annotations == nil {
				v.Annotations = map[string]string{}
			}
			v.Annotations[key] = value
		}
	}
}

// sharedReasons lists each reason once; one that does not hold for every
// platform says for which it does.
func sharedReasons(children []Child) []policy.Reason {
	var reasons []policy.Reason
	same := func(r policy.Reason) func(policy.Reason) bool {
		return func(o policy.Reason) bool {
			return o.Code == r.Code && o.Msg == r.Msg && o.Effect == r.Effect && o.Exception == r.Exception
		}
	}
	for _, child := range children {
		for _, r := range child.Reasons {
			if slices.ContainsFunc(reasons, same(r)) {
				continue
			}
			everywhere := true
			for _, other := range children {
				everywhere = everywhere && slices.ContainsFunc(other.Reasons, same(r))
			}
			if !everywhere && child.Platform != "" {
				r.Msg = child.Platform + ": " + r.Msg
			}
			if !slices.ContainsFunc(reasons, same(r)) {
				reasons = append(reasons, r)
			}
		}
	}
	return reasons
}
