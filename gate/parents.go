package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/lineage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// maxTree bounds the edges of the whole tree that one input carries.
const maxTree = 256

// followParents finds the images that this one was built from and admits each
// of them as if it had been pulled. A parent that cannot be judged is an edge
// with an error, never a missing edge.
func (g *Gate) followParents(ctx context.Context, n node, f *facts) {
	candidates := lineage.Candidates(f.build, f.labels(), f.annotations()...)
	if len(candidates) == 0 && (f.build == nil || !f.build.By.Verified()) {
		// Nobody says what it was built from: its layers may.
		discovered, err := g.discover(ctx, n, f.diffIDs())
		if err != nil {
			f.findings.Problems = append(f.findings.Problems, evidence.Problem{Collector: "lineage", Message: err.Error(), Temporary: true})
		}
		candidates = discovered
	}
	if len(candidates) > g.Limits.Parents {
		f.findings.Problems = append(f.findings.Problems, evidence.Problem{
			Collector: "lineage",
			Message:   fmt.Sprintf("%d images went into the build, more than the %d that are followed", len(candidates), g.Limits.Parents),
		})
		candidates = candidates[:g.Limits.Parents]
	}

	admissions := make([]*Admission, len(candidates))
	resolved := make([]lineage.Resolved, len(candidates))
	var all together
	for i, c := range candidates {
		all.do(func() {
			admission, err := g.admitParent(ctx, n, c, f.platform())
			resolved[i] = lineage.Resolved{Candidate: c, Err: err}
			if err == nil {
				admissions[i] = admission
				resolved[i].DiffIDs = admission.DiffIDs
			}
		})
	}
	all.wait()

	for i, e := range lineage.Edges(f.diffIDs(), resolved) {
		f.addEdge(n, e, admissions[i], resolved[i].Err)
	}
}

// addEdge puts a parent and everything above it into the facts.
func (f *facts) addEdge(n node, e lineage.Edge, a *Admission, err error) {
	self, name := n.ref.WithDigest("").String(), parentName(e.Candidate)
	parent := policy.Parent{
		Reference: name, Digest: e.Digest, Stage: e.Stage, Known: string(e.Known),
		Depth: 1, Path: []string{self, name}, Error: e.Err,
	}
	if err != nil {
		f.parentFailed = f.parentFailed || passing(err)
		f.truncated = f.truncated || errors.Is(err, errDepth) || errors.Is(err, errBudget)
	}
	f.addParent(parent, a)
}

// passing says whether the parent may well be judged when it is asked for again: it
// is the upstream that was away, or the gate that had no time for it or was ending.
func passing(err error) bool {
	return evidence.Temporary(err) || errors.Is(err, ErrClosed) || errors.Is(err, ErrBusy)
}

// addParent adds the edge to a direct parent with the verdict on it, and those
// above.
func (f *facts) addParent(parent policy.Parent, a *Admission) {
	admitted := ""
	if a != nil {
		admitted = a.Reference.String()
		parent.Digest, parent.Root = a.Reference.Digest(), a.Root
		parent.Verdict = &policy.ParentVerdict{Action: a.Verdict.BeforeMode, Reasons: a.Verdict.Reasons}
		parent.Build, parent.Source = a.Build, a.Source
		f.truncated = f.truncated || a.truncated
		f.below = max(f.below, below(parent, a.DiffIDs))
		if f.notAfter.IsZero() || a.Verdict.ExpiresAt.Before(f.notAfter) {
			f.notAfter = a.Verdict.ExpiresAt
		}
		f.until = earlier(f.until, a.Until)
	}
	f.admitted = append(f.admitted, admitted)
	var above []policy.Parent
	if a != nil {
		above = a.Parents
	}
	f.parents = Ancestry(f.parents, parent, above)
}

// Ancestry adds the edge to a direct parent to those of an image, and the parent's
// own edges behind it, as they are seen from the image.
func Ancestry(list []policy.Parent, direct policy.Parent, above []policy.Parent) []policy.Parent {
	list = append(list, direct)
	for _, edge := range above {
		if len(list) >= maxTree {
			break // the direct parents' own verdicts cover what is left out
		}
		edge.Depth++
		edge.Path = append(slices.Clone(direct.Path), edge.Path[1:]...)
		list = append(list, edge)
	}
	return list
}

// parentName is how people read the parent in a path.
func parentName(c lineage.Candidate) string {
	if c.Reference.IsZero() {
		return c.Digest.String()
	}
	if c.Reference.Tag() != "" || c.Digest == "" {
		return c.Reference.WithDigest("").String()
	}
	return c.Reference.Name() + "@" + shortDigest(c.Digest)
}

func shortDigest(d digest.Digest) string {
	algorithm, hex, _ := strings.Cut(d.String(), ":")
	return algorithm + ":" + hex[:min(12, len(hex))]
}

// errDepth reports a tree of parents that is deeper than verdicts.depth.
var errDepth = errors.New("the tree of parents is deeper than verdicts.depth allows")

// admitParent admits one parent, on whichever route it lives. A parent that is
// an index counts as its image for the child's platform.
func (g *Gate) admitParent(ctx context.Context, child node, c lineage.Candidate, platform *ocispec.Platform) (*Admission, error) {
	if child.depth+1 > g.Lifetimes.Depth {
		return nil, fmt.Errorf("%s: %w (%d)", parentName(c), errDepth, g.Lifetimes.Depth)
	}
	route, err := g.route(c.Reference)
	if err != nil {
		return nil, fmt.Errorf("its parent %s cannot be judged: %w", parentName(c), err)
	}
	ref := c.Reference.WithDigest(c.Digest)
	if c.Digest == "" && ref.Tag() == "" {
		if ref, err = ref.WithTag("latest"); err != nil {
			return nil, err
		}
	}
	if ref, err = g.resolve(ctx, route, ref, !child.since.IsZero()); err != nil {
		return nil, fmt.Errorf("resolving the parent %s: %w", parentName(c), err)
	}
	parent := node{route: route, ref: ref, client: child.client, depth: child.depth + 1, budget: child.budget, since: child.since}

	src, err := g.origin(route, ref)
	if err != nil {
		return nil, err
	}
	m, err := src.Manifest(ctx, ref.Digest())
	if err != nil {
		return nil, fmt.Errorf("fetching the parent %s: %w", parentName(c), err)
	}
	if m.Kind == oci.KindIndex {
		image, err := imageFor(m, platform)
		if err != nil {
			return nil, fmt.Errorf("the parent %s: %w", parentName(c), err)
		}
		parent.index, parent.ref = m, ref.WithDigest(image)
	} else if m.Kind != oci.KindImage {
		return nil, fmt.Errorf("the parent %s is no image but an %s", parentName(c), m.Kind)
	}
	admission, err := g.admit(ctx, parent)
	if err != nil {
		return nil, fmt.Errorf("the parent %s: %w", parentName(c), err)
	}
	return admission, nil
}

// imageFor picks the entry of an index that a build for the platform used.
func imageFor(index *oci.Manifest, platform *ocispec.Platform) (digest.Digest, error) {
	var images []oci.Descriptor
	for _, d := range index.Manifests {
		if _, is := oci.IsAttestationManifest(d); !is {
			images = append(images, d)
		}
	}
	if platform != nil {
		for _, d := range images {
			if platformFits(*platform, d.Platform) {
				return d.Digest, nil
			}
		}
	}
	if len(images) == 1 && images[0].Platform == nil {
		return images[0].Digest, nil
	}
	return "", fmt.Errorf("the index has no image for %s", oci.FormatPlatform(platform))
}

// discover looks for images that were judged before and whose layers are the
// first layers of this one: the longest such stack is the base.
func (g *Gate) discover(ctx context.Context, n node, diffIDs []digest.Digest) ([]lineage.Candidate, error) {
	if len(diffIDs) < 2 {
		return nil, nil
	}
	chains := make([]digest.Digest, 0, len(diffIDs)-1)
	for i := 1; i < len(diffIDs); i++ {
		chains = append(chains, oci.ChainID(diffIDs[:i]))
	}
	found, err := g.Ledger.Chains(ctx, chains)
	if err != nil {
		return nil, fmt.Errorf("looking for a base by its layers: %w", err)
	}
	var best lineage.Candidate
	depth, served := 0, false
	for _, c := range found {
		name, err := oci.ParseReference(c.Name)
		if err != nil || c.Digest == n.ref.Digest() {
			continue
		}
		ref := name.WithDigest(c.Digest)
		stands := g.memo.served(ref, n.client, g.Now(), g.outdated(ref)) != nil
		if c.Depth > depth || (c.Depth == depth && stands && !served) {
			best = lineage.Candidate{Reference: name, Digest: c.Digest, Known: lineage.Claimed, Via: lineage.ViaLayers}
			depth, served = c.Depth, stands
		}
	}
	if depth == 0 {
		return nil, nil
	}
	return []lineage.Candidate{best}, nil
}
