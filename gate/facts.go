package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/gittag"
	"github.com/trustgate/trustgate/evidence/provenance"
	"github.com/trustgate/trustgate/evidence/source"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// facts is everything that is known about one image before it is judged.
type facts struct {
	manifest *oci.Manifest
	config   *oci.ImageConfig // nil for what has none
	index    *oci.Manifest    // nil when no index lists the image
	findings evidence.Findings
	build    *provenance.Build

	reproduced provenance.Reproduced
	source     source.Source
	dockerfile *policy.Dockerfile
	root       bool
	parents    []policy.Parent
	admitted   []string // the direct ones
	below      int      // layers that are the final stage's parent's
	tagged     *gittag.Result
	untagged   string // why nobody could say
	packages   *policy.Packages

	parentFailed bool       // a parent could not be judged now, and may be later
	truncated    bool       // the tree of parents was cut off
	until        *time.Time // of the parents' verdicts
	notAfter     time.Time  // when the first parent's verdict or signature ends
}

// gatherFacts follows one image: its config, its evidence and that of the
// indexes that list it, then what follows from these: the build, the source and
// the parents. Whatever cannot be had becomes a problem among the facts.
func (g *Gate) gatherFacts(ctx context.Context, n node, src *origin, m *oci.Manifest) *facts {
	f := &facts{manifest: m}
	problem := func(collector string, err error) {
		f.findings.Problems = append(f.findings.Problems, evidence.NewProblem(collector, err))
	}

	indexes := n.indexes
	if f.index = n.index; f.index == nil && len(indexes) > 0 {
		index, err := src.Manifest(ctx, indexes[0])
		if err != nil {
			problem("index", fmt.Errorf("fetching the index %s: %w", indexes[0], err))
		}
		f.index = index
	}
	g.gatherAll(ctx, n, src, f)

	for _, s := range f.findings.Signatures {
		// A verdict does not outlive what it rests on.
		if s.By.Verified() && s.ExpiresAt.After(g.Now()) && (f.notAfter.IsZero() || s.ExpiresAt.Before(f.notAfter)) {
			f.notAfter = s.ExpiresAt
		}
	}
	build, problems := provenance.Choose(f.findings.Attestations, g.Trust.Builders)
	f.build = build
	f.reproduced = provenance.CountReproductions(build, f.findings.Attestations, g.Trust.Builders)
	f.findings.Problems = append(f.findings.Problems, problems...)
	f.source = source.Find(build, f.labels(), g.Trust.Sources, f.annotations()...)
	f.root = g.isRoot(n, f)
	if d := f.source.Dockerfile; d != nil {
		f.dockerfile = &policy.Dockerfile{Path: d.Path, Content: d.Content, Via: "provenance"}
	}
	var tags sync.WaitGroup
	tags.Go(func() { g.askSource(ctx, f) })
	if m.Kind == oci.KindImage && !f.root {
		g.followParents(ctx, n, f)
	}
	tags.Wait()
	var err error
	if f.packages, err = g.packagesOf(ctx, f); err != nil {
		problem("packages", err)
	}
	return f
}

// askSource asks the source's host who released the revision, and for the
// Dockerfile at it where the provenance carries none. What it cannot say is
// missing from the source and no error of the image's: rules that want a signed
// tag do not find one.
//
// Who released it matters only of a revision that somebody vouches for. The
// Dockerfile is shown for one that is claimed too, as the claim that it is.
func (g *Gate) askSource(ctx context.Context, f *facts) {
	s := &f.source
	var recipes []string
	if f.dockerfile == nil && f.manifest.Kind == oci.KindImage {
		recipes = s.Recipes
	}
	if g.Source == nil || s.Repository == "" || s.Revision == "" || (!s.Verified && len(recipes) == 0) {
		return
	}
	fail := func(why string, listed bool) {
		if s.Verified {
			f.untagged = why
		}
		if len(recipes) > 0 && listed {
			f.dockerfile = &policy.Dockerfile{Path: recipes[0], Via: "git", Assumed: s.Assumed, Error: why}
		}
	}
	defer func() {
		if p := recover(); p != nil {
			fail(fmt.Sprintf("the look-up failed: %v", p), true)
			g.Log.Error("asking a git host panicked", panicFields(p)...)
		}
	}()
	found, err := g.Source.Find(ctx, s.Repository, s.Revision, s.Ref, recipes...)
	if err != nil {
		// A host that may not be asked has no Dockerfile to miss.
		fail(err.Error(), !errors.Is(err, gittag.ErrNotListed))
		return
	}
	if s.Verified {
		f.tagged = &found
	}
	if len(recipes) > 0 {
		f.dockerfile = &policy.Dockerfile{Path: found.File.Path, Content: found.File.Content, Via: "git", Assumed: s.Assumed, Error: found.File.Err}
	}
}

// gatherAll looks at the config, at the evidence about the image and at that
// about each index that lists it, all at once: none of them needs another, and
// the upstream may be far away.
func (g *Gate) gatherAll(ctx context.Context, n node, src *origin, f *facts) {
	var others []digest.Digest
	for _, d := range n.indexes {
		if f.index == nil || d != f.index.Digest {
			others = append(others, d)
		}
	}
	var own, of evidence.Findings
	var unread error
	lists := make([]evidence.Findings, len(others))
	var all together
	all.do(func() { unread = f.readConfig(ctx, src, g.Limits.Config) })
	all.do(func() { own = g.gather(ctx, n.route, n.ref, src, f.manifest, f.index) })
	if f.index != nil {
		all.do(func() { of = g.gather(ctx, n.route, n.ref, src, f.index, nil) })
	}
	for i, d := range others {
		all.do(func() {
			index, err := src.Manifest(ctx, d)
			if err != nil {
				lists[i].Problems = []evidence.Problem{evidence.NewProblem("index", fmt.Errorf("fetching the index %s: %w", d, err))}
				return
			}
			lists[i] = g.gather(ctx, n.route, n.ref, src, index, nil)
		})
	}
	all.wait()

	before := f.findings.Problems
	if unread != nil {
		before = append(before, evidence.NewProblem("config", unread))
	}
	f.findings = own
	if f.index != nil {
		f.findings = own.Cover(f.index.Digest, of.Signers())
		f.inherit(of)
	}
	for _, list := range lists {
		f.inherit(list)
	}
	f.findings.Problems = append(before, f.findings.Problems...)
}

// together runs functions side by side. A panic in one surfaces in wait, where
// the judgement catches it.
type together struct {
	sync.WaitGroup
	once     sync.Once
	panicked any
}

func (t *together) do(fn func()) {
	t.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				t.once.Do(func() { t.panicked = p })
			}
		}()
		fn()
	})
}

func (t *together) wait() {
	t.Wait()
	if t.panicked != nil {
		panic(t.panicked)
	}
}

func (f *facts) inherit(of evidence.Findings) {
	inherited := of.Inherit()
	f.findings.Signatures = append(f.findings.Signatures, inherited.Signatures...)
	f.findings.Attestations = append(f.findings.Attestations, inherited.Attestations...)
	// Evidence about the index that could not be had is missing here too.
	f.findings.Problems = append(f.findings.Problems, of.Problems...)
}

func (f *facts) readConfig(ctx context.Context, src *origin, limit int64) error {
	config := f.manifest.Config
	if config == nil || f.manifest.Kind != oci.KindImage {
		return nil
	}
	raw, err := src.Blob(ctx, *config, limit)
	if err != nil {
		return fmt.Errorf("fetching the image config: %w", err)
	}
	f.config, err = oci.ParseImageConfig(raw)
	return err
}

func (f *facts) labels() map[string]string {
	if f.config == nil {
		return nil
	}
	return f.config.Labels
}

// annotations lists the image's own first, then those of the index.
func (f *facts) annotations() []map[string]string {
	all := []map[string]string{f.manifest.Annotations}
	if f.index != nil {
		all = append(all, f.index.Annotations)
	}
	return all
}

func (f *facts) diffIDs() []digest.Digest {
	if f.config == nil {
		return nil
	}
	return f.config.DiffIDs
}

// gather runs the route's collectors over one manifest, or takes what they
// found a moment ago.
func (g *Gate) gather(ctx context.Context, route *Route, ref oci.Reference, src *origin, m, index *oci.Manifest) evidence.Findings {
	key := ref.Name() + "@" + m.Digest.String()
	if since := g.outdated(ref.InRepository().WithDigest(m.Digest)); !since.IsZero() {
		key += since.Format(" after 2006-01-02T15:04:05.999999999")
	}
	if index != nil {
		key += " in " + index.Digest.String()
	}
	if found, ok := g.findings.get(key); ok {
		return found
	}
	found := evidence.Gather(ctx, route.Collectors, evidence.Subject{
		Repository: ref.InRepository(), Manifest: m, Index: index, Source: src, Limits: g.Limits.Evidence,
	})
	// Whoever takes them appends to them: to a copy, not into what is remembered.
	found.Signatures, found.Attestations = slices.Clip(found.Signatures), slices.Clip(found.Attestations)
	g.findings.put(key, found)
	return found
}

// isRoot says whether trust ends here: the configuration names the digest, or
// the repository and the image bears the signature that it asks for.
func (g *Gate) isRoot(n node, f *facts) bool {
	for _, root := range g.Trust.Roots {
		if root.Digest != "" {
			if root.Digest == n.ref.Digest() || slices.Contains(n.indexes, root.Digest) {
				return true
			}
			continue
		}
		if root.Repository != n.ref.Name() {
			continue
		}
		for _, s := range f.findings.Signatures {
			fits := s.Matches(n.ref)
			if s.By.Verified() && slices.Contains(root.Signers, s.By.Signer().Name) && (fits == nil || *fits) {
				return true
			}
		}
	}
	return false
}

// upstreamFailed says whether a fact is missing only because a registry did not
// answer.
func (f *facts) upstreamFailed() bool {
	return f.parentFailed || slices.ContainsFunc(f.findings.Problems, func(p evidence.Problem) bool { return p.Temporary })
}

// detail is what stays with the admission.
func (f *facts) detail() Detail {
	d := Detail{Root: f.root, DiffIDs: f.diffIDs(), Below: f.below, Parents: f.parents, Admitted: f.admitted, Until: f.until}
	if f.config != nil {
		d.Platform = oci.FormatPlatform(&f.config.Platform)
	}
	if f.index != nil {
		d.Index = f.index.Digest
	}
	if f.build != nil {
		build := inputBuild(f.build)
		build.Parameters = nil
		d.Build = &build
	}
	if f.source.Repository != "" || f.source.Revision != "" {
		found := f.inputSource()
		found.Dockerfile = nil
		d.Source = &found
	}
	return d
}

// input writes the facts down as the document that rules read. Here, and only
// here, verified facts and claims become JSON.
func (f *facts) input(n node) *policy.Input {
	input := &policy.Input{
		Image:        f.image(n),
		Signatures:   []policy.Signature{},
		Attestations: []policy.Attestation{},
		Build:        policy.Build{Materials: []policy.Material{}, Reproduced: policy.Reproduced{By: []string{}}},
		Source:       f.inputSource(),
		Parents:      f.parents,
		Packages:     f.packages,
		Errors:       []policy.Problem{},
	}
	if f.build != nil {
		input.Build = inputBuild(f.build)
	}
	input.Build.Reproduced = policy.Reproduced{
		By: append([]string{}, f.reproduced.By...), Agree: f.reproduced.Agree, Disagree: len(f.reproduced.Disagree),
	}
	if input.Parents == nil {
		input.Parents = []policy.Parent{}
	}
	for _, s := range f.findings.Signatures {
		input.Signatures = append(input.Signatures, policy.Signature{
			Kind: s.Kind, Verified: s.By.Verified(), Signer: inputSigner(s.By),
			Reference: s.Reference, ReferenceMatches: s.Matches(n.ref),
			SignedAt: instant(s.SignedAt), ExpiresAt: instant(s.ExpiresAt),
			Location: s.Location, Inherited: s.Inherited, Error: s.Err,
		})
	}
	for _, a := range f.findings.Attestations {
		input.Attestations = append(input.Attestations, policy.Attestation{
			PredicateType: a.PredicateType, Verified: a.By.Verified(), Signer: inputSigner(a.By),
			Subject: a.Subject, Predicate: a.Predicate,
			Location: a.Location, Inherited: a.Inherited, Error: a.Err,
		})
	}
	for _, p := range f.findings.Problems {
		input.Errors = append(input.Errors, policy.Problem(p))
	}
	return input
}

func (f *facts) image(n node) policy.Image {
	m := f.manifest
	image := policy.Image{
		Reference: n.ref.String(), Registry: n.ref.Registry(), Repository: n.ref.Repository(), Tag: n.ref.Tag(),
		Digest: m.Digest, MediaType: m.MediaType, Kind: string(m.Kind), Root: f.root,
		Annotations: m.Annotations, Labels: f.labels(), Layers: []policy.Layer{},
	}
	if image.Annotations == nil {
		image.Annotations = map[string]string{}
	}
	if image.Labels == nil {
		image.Labels = map[string]string{}
	}
	if f.config != nil {
		image.Platform = oci.FormatPlatform(&f.config.Platform)
		image.Created = instant(f.config.Created)
		image.Config = &policy.Config{
			User: f.config.User, WorkingDir: f.config.WorkingDir, Env: f.config.Env, Volumes: f.config.Volumes,
		}
	}
	for _, d := range m.References() {
		image.Size += d.Size
	}
	diffIDs := f.diffIDs()
	for i, l := range m.Layers {
		layer := policy.Layer{Digest: l.Digest, Size: l.Size, MediaType: l.MediaType, Foreign: oci.IsForeignLayer(l)}
		if i < len(diffIDs) && len(diffIDs) == len(m.Layers) {
			layer.DiffID = diffIDs[i]
		}
		image.Layers = append(image.Layers, layer)
	}
	if f.index != nil {
		image.Index = &policy.Index{Digest: f.index.Digest, Reference: n.ref.WithDigest(f.index.Digest).String()}
	}
	return image
}

func inputSigner(by evidence.Voucher) *policy.Signer {
	if !by.Verified() {
		return nil
	}
	signer := policy.Signer(by.Signer())
	return &signer
}

func inputBuild(b *provenance.Build) policy.Build {
	build := policy.Build{
		Verified: b.By.Verified(), Trusted: b.Trusted, Signer: inputSigner(b.By),
		BuilderID: b.BuilderID, BuildType: b.BuildType,
		StartedOn: instant(b.StartedOn), FinishedOn: instant(b.FinishedOn),
		Parameters: b.Parameters, Materials: []policy.Material{},
		Reproduced: policy.Reproduced{By: []string{}},
	}
	for _, m := range b.Materials {
		build.Materials = append(build.Materials, policy.Material{URI: m.URI, Digest: m.Digest})
	}
	return build
}

func (f *facts) inputSource() policy.Source {
	s := f.source
	found := policy.Source{
		Verified: s.Verified, Trusted: s.Trusted, Repository: s.Repository, Revision: s.Revision,
		Ref: s.Ref, Via: s.Via, URL: s.URL, Dockerfile: f.dockerfile,
	}
	switch {
	case f.tagged != nil:
		t, c := f.tagged.Tag, f.tagged.Commit
		found.Tag = &policy.SourceTag{Name: t.Name, Verified: t.By.Verified(), Signer: inputSigner(t.By), SignedAt: instant(t.SignedAt), Error: t.Err}
		found.Commit = &policy.SourceCommit{Verified: c.By.Verified(), Signer: inputSigner(c.By), Error: c.Err}
	case f.untagged != "":
		found.Tag = &policy.SourceTag{Error: f.untagged}
		found.Commit = &policy.SourceCommit{Error: f.untagged}
	}
	return found
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// platform is the one that an image's parents must have.
func (f *facts) platform() *ocispec.Platform {
	if f.config == nil || f.config.Platform.OS == "" {
		return nil
	}
	return &f.config.Platform
}
