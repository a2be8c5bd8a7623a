package gate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/upstream"
)

func writeFile(path, content string) error { return os.WriteFile(path, []byte(content), 0o600) }

func expect(t testing.TB, a *gate.Admission, action policy.Action, code string) {
	t.Helper()
	if a.Verdict.Action != action || !strings.Contains(codes(a), code) {
		t.Fatalf("%s: got %s (%s), want %s with %q\n%s", a.Reference, a.Verdict.Action, codes(a), action, code, messages(a))
	}
}

func TestTrustedAllTheWayDown(t *testing.T) {
	s := newStage(t)
	base := s.trusted(s.image("base/os", nil))
	app := s.trusted(s.image("app", base), base)
	a := s.pull(s.gate(options{}), app.Reference())
	expect(t, a, policy.Serve, "")
	if len(a.Parents) != 1 || a.Parents[0].Known != "proven" || a.Parents[0].Stage != "final" {
		t.Errorf("parents are %+v, want one proven final parent", a.Parents)
	}
	if a.Source == nil || !a.Source.Trusted || a.Source.Revision != revision {
		t.Errorf("source is %+v", a.Source)
	}
}

func TestWhatIsBlockedAndWhy(t *testing.T) {
	s := newStage(t)
	ctx := context.Background()
	base := s.trusted(s.image("base/os", nil))

	unsigned := s.attested(s.image("unsigned", base), base)

	byStranger := s.attested(s.image("stranger", base), base)
	s.must(s.registry.Sign(ctx, s.stranger, byStranger))

	transplanted := s.attested(s.image("transplanted", base), base)
	s.must(s.registry.Transplant(ctx, s.ci, base, transplanted))

	noProvenance := s.image("noprovenance", base)
	s.must(s.registry.Sign(ctx, s.ci, noProvenance))

	otherBuilder := s.image("otherbuilder", base)
	s.must(s.registry.Sign(ctx, s.ci, otherBuilder))
	s.must(s.registry.Attest(ctx, s.ci, otherBuilder, shipyard.ProvenanceType,
		shipyard.Provenance("https://laptop.example/", source, revision, base)))

	otherSource := s.image("othersource", base)
	s.must(s.registry.Sign(ctx, s.ci, otherSource))
	s.must(s.registry.Attest(ctx, s.ci, otherSource, shipyard.ProvenanceType,
		shipyard.Provenance(builder, "https://git.example/mallory/app", revision, base)))

	badParent := s.image("bad/parent", nil)
	orphan := s.trusted(s.image("orphan", badParent), badParent)

	g := s.gate(options{})
	for _, tc := range []struct {
		image *shipyard.Image
		code  string
	}{
		{unsigned, "signature.missing"},
		{byStranger, "signature.missing"},
		{transplanted, "signature.missing"},
		{noProvenance, "provenance.missing"},
		{otherBuilder, "provenance.builder"},
		{otherSource, "source.untrusted"},
		{orphan, "parents.untrusted"},
	} {
		t.Run(tc.image.Repository, func(t *testing.T) { expect(t, s.pull(g, tc.image.Reference()), policy.Block, tc.code) })
	}
}

func TestTheDeepestBaseLosesItsSignature(t *testing.T) {
	s := newStage(t)
	debian := s.image("base/debian", nil)
	s.attested(debian)
	s.must(s.lookaside.Sign(s.release, debian))
	runtime := s.trusted(s.image("base/runtime", debian), debian)
	node := s.trusted(s.image("base/node", runtime), runtime)
	app := s.trusted(s.image("app", node), node)
	g := s.gate(options{})
	expect(t, s.pull(g, app.Reference()), policy.Serve, "")

	s.must(s.lookaside.Withdraw(debian))
	s.pass(11 * time.Minute)
	a := s.pull(g, app.Reference())
	expect(t, a, policy.Block, "parents.untrusted")
	if got := messages(a); !strings.Contains(got, "app") || !inOrder(got, "app", "base/node", "base/runtime", "base/debian", "no signature by") {
		t.Errorf("the message does not name the path:\n%s", got)
	}

	s.must(s.lookaside.Sign(s.release, debian))
	s.pass(30 * time.Second)
	expect(t, s.pull(g, app.Reference()), policy.Serve, "")
}

func inOrder(text string, parts ...string) bool {
	for _, part := range parts {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return true
}

func TestModes(t *testing.T) {
	s := newStage(t)
	unsigned := s.image("unsigned", nil)
	for mode, want := range map[policy.Mode]policy.Action{
		policy.Enforce: policy.Block, policy.AnnotateOnly: policy.Annotate, policy.Audit: policy.Serve,
	} {
		t.Run(string(mode), func(t *testing.T) {
			a := s.pull(s.gate(options{mode: mode}), unsigned.Reference())
			if a.Verdict.Action != want || a.Verdict.BeforeMode != policy.Block {
				t.Errorf("got %s, before the mode %s", a.Verdict.Action, a.Verdict.BeforeMode)
			}
		})
	}
}

// A tag that moves is followed within its freshness, and what is served is
// always what was judged.
func TestMovedTag(t *testing.T) {
	s := newStage(t)
	first := s.trusted(s.image("app", nil))
	g := s.gate(options{})
	expect(t, s.pull(g, first.Reference()), policy.Serve, "")

	built, err := shipyard.Build(nil, map[string]string{"bin/app": "malicious"})
	s.must(err)
	moved := s.push("app", "1", built)
	if a := s.pull(g, first.Reference()); a.Reference.Digest() != first.Digest {
		t.Errorf("a fresh tag was resolved again, to %s", a.Reference.Digest())
	}
	s.pass(31 * time.Second)
	a := s.pull(g, first.Reference())
	expect(t, a, policy.Block, "signature.missing")
	if a.Reference.Digest() != moved.Digest {
		t.Errorf("judged %s, the tag names %s", a.Reference.Digest(), moved.Digest)
	}
}

// An OpenPGP signature is for a tag: a pull by another tag of the same digest
// does not fit it, a pull by digest does.
func TestSignatureBindsTheTag(t *testing.T) {
	s := newStage(t)
	app := s.attested(s.image("app", nil))
	s.must(s.lookaside.Sign(s.release, app))
	s.push("app", "other", app.Content)
	g := s.gate(options{})
	expect(t, s.pull(g, app.Reference()), policy.Serve, "")
	expect(t, s.pull(g, app.Name()+"@"+app.Digest.String()), policy.Serve, "")
	expect(t, s.pull(g, app.Name()+":other"), policy.Block, "signature.reference")
}

func TestParentsThatClaimEachOther(t *testing.T) {
	s := newStage(t)
	named := func(repository, base string) *shipyard.Image {
		built, err := shipyard.Build(nil, map[string]string{repository: repository})
		s.must(err)
		return s.push(repository, "1", shipyard.Annotate(built, map[string]string{
			"org.opencontainers.image.base.name": s.registry.Addr + "/" + base + ":1",
		}))
	}
	hen, egg := named("hen", "egg"), named("egg", "hen")
	g := s.gate(options{})
	var wg sync.WaitGroup
	for range 8 {
		for _, image := range []*shipyard.Image{hen, egg} {
			wg.Go(func() {
				a, err := s.tryPull(g, image.Reference())
				if err != nil || !a.Verdict.Blocked() {
					t.Errorf("%s: %v, %v", image.Repository, a, err)
				}
			})
		}
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		t.Fatal("images that claim each other as parents wait for each other")
	}
	if got := messages(s.pull(g, hen.Reference())); !strings.Contains(got, "leads back") {
		t.Errorf("the circle is not named:\n%s", got)
	}
}

func TestTreeIsBounded(t *testing.T) {
	s := newStage(t)
	var chain []*shipyard.Image
	var base *shipyard.Image
	for i := range 5 {
		image := s.image(fmt.Sprintf("chain/%d", i), base)
		if base == nil {
			s.trusted(image)
		} else {
			s.trusted(image, base)
		}
		chain, base = append(chain, image), image
	}
	t.Run("depth", func(t *testing.T) {
		g := s.gate(options{depth: 2})
		expect(t, s.pull(g, chain[4].Reference()), policy.Block, "parents.untrusted")
		// What was cut off there is whole when it is asked for itself.
		expect(t, s.pull(g, chain[2].Reference()), policy.Serve, "")
	})
	t.Run("count", func(t *testing.T) {
		g := s.gate(options{nodes: 3})
		expect(t, s.pull(g, chain[4].Reference()), policy.Block, "parents.untrusted")
	})
}

func TestBaseFoundByItsLayers(t *testing.T) {
	s := newStage(t)
	base := s.image("base/os", nil) // nobody signed it
	app := s.image("app", base)     // and says nothing of where it comes from
	s.must(s.registry.Sign(context.Background(), s.ci, app))
	g := s.gate(options{})
	s.pull(g, base.Reference())
	a := s.pull(g, app.Reference())
	if len(a.Parents) != 1 || a.Parents[0].Digest != base.Digest || a.Parents[0].Known != "proven" {
		t.Fatalf("parents are %+v, want %s, proven", a.Parents, base.Digest)
	}
	expect(t, a, policy.Block, "parents.untrusted")
}

func TestAnnotationThatContradictsTheLayers(t *testing.T) {
	s := newStage(t)
	good := s.trusted(s.image("base/good", nil))
	built, err := shipyard.Build(nil, map[string]string{"bin/app": "something else"})
	s.must(err)
	app := s.push("app", "1", shipyard.Annotate(built, map[string]string{
		"org.opencontainers.image.base.name":   good.Reference(),
		"org.opencontainers.image.base.digest": good.Digest.String(),
	}))
	s.must(s.registry.Sign(context.Background(), s.ci, app))
	a := s.pull(s.gate(options{}), app.Reference())
	expect(t, a, policy.Block, "parents.untrusted")
}

func TestIndex(t *testing.T) {
	s := newStage(t)
	ctx := context.Background()
	build := func(content string) v1.Image {
		image, err := shipyard.Build(nil, map[string]string{"bin/app": content})
		s.must(err)
		return image
	}
	amd, arm := build("amd"), build("arm")
	both := []oci.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}
	platforms := []string{"linux/amd64", "linux/arm64"}

	t.Run("its signature covers its images", func(t *testing.T) {
		index, err := s.registry.PushIndex(ctx, "covered", "1", platforms, amd, arm)
		s.must(err)
		s.trusted(index)
		g := s.gate(options{platforms: both})
		a := s.pull(g, index.Reference())
		expect(t, a, policy.Serve, "")
		if len(a.Children) != 2 {
			t.Fatalf("judged %d images, want 2", len(a.Children))
		}
		child, err := amd.Digest()
		s.must(err)
		expect(t, s.pull(g, index.Name()+"@"+child.String()), policy.Serve, "")
	})
	t.Run("blocked when every image is", func(t *testing.T) {
		index, err := s.registry.PushIndex(ctx, "bare", "1", platforms, amd, arm)
		s.must(err)
		a := s.pull(s.gate(options{platforms: both}), index.Reference())
		expect(t, a, policy.Block, "signature.missing")
	})
	t.Run("annotated when some are", func(t *testing.T) {
		index, err := s.registry.PushIndex(ctx, "half", "1", platforms, amd, arm)
		s.must(err)
		child, err := amd.Digest()
		s.must(err)
		s.trusted(&shipyard.Image{Registry: index.Registry, Repository: index.Repository, Digest: digest.Digest(child.String())})
		g := s.gate(options{platforms: both})
		a := s.pull(g, index.Reference())
		expect(t, a, policy.Annotate, "signature.missing")
		other, err := arm.Digest()
		s.must(err)
		expect(t, s.pull(g, index.Name()+"@"+other.String()), policy.Block, "signature.missing")
	})
}

func TestEvidenceStaysPullable(t *testing.T) {
	s := newStage(t)
	app := s.image("app", nil) // no provenance: blocked
	s.must(s.registry.Sign(context.Background(), s.ci, app))
	g := s.gate(options{})
	expect(t, s.pull(g, app.Reference()), policy.Block, "provenance.missing")
	tag := strings.Replace(app.Digest.String(), ":", "-", 1) + ".sig"
	a := s.pull(g, app.Name()+":"+tag)
	if a.Manifest.Kind != oci.KindEvidence || a.Verdict.Blocked() {
		t.Errorf("the signature is a %s and %s", a.Manifest.Kind, a.Verdict.Action)
	}
	if _, err := g.Blob(context.Background(), a.Reference.InRepository(), a.Manifest.Layers[0].Digest, policy.Client{}); err != nil {
		t.Errorf("its payload: %v", err)
	}

	// An image by the name of a signature is an image.
	s.push("app", "sha256-"+strings.Repeat("0", 64)+".sig", app.Content)
	expect(t, s.pull(g, app.Name()+":sha256-"+strings.Repeat("0", 64)+".sig"), policy.Block, "provenance.missing")
}

func TestBlobNeedsAServedManifest(t *testing.T) {
	s := newStage(t)
	ctx := context.Background()
	served := s.trusted(s.image("served", nil))
	blocked := s.image("blocked", nil)
	g := s.gate(options{})
	layer := func(i *shipyard.Image) digest.Digest {
		layers, err := i.Content.Layers()
		s.must(err)
		d, err := layers[0].Digest()
		s.must(err)
		return digest.Digest(d.String())
	}
	in := func(i *shipyard.Image) oci.Reference {
		ref, err := oci.ParseReference(i.Name())
		s.must(err)
		return ref
	}
	if _, err := g.Blob(ctx, in(served), layer(served), policy.Client{}); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("before its manifest was pulled: %v", err)
	}
	s.pull(g, served.Reference())
	s.pull(g, blocked.Reference())

	granted, err := g.Blob(ctx, in(served), layer(served), policy.Client{})
	s.must(err)
	blob, err := granted.Open(ctx)
	s.must(err)
	defer blob.Close()
	raw, err := io.ReadAll(blob)
	s.must(err)
	if digest.FromBytes(raw) != layer(served) {
		t.Error("the layer's bytes are wrong")
	}
	var refused *gate.BlockedError
	if _, err := g.Blob(ctx, in(blocked), layer(blocked), policy.Client{}); !errors.As(err, &refused) {
		t.Errorf("a layer of a blocked image: %v", err)
	}
	if _, err := g.Blob(ctx, in(blocked), layer(served), policy.Client{}); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("a layer of another repository: %v", err)
	}
	if _, err := g.Blob(ctx, in(served), served.Digest, policy.Client{}); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("a manifest as a blob: %v", err)
	}
}

func TestUpstreamOff(t *testing.T) {
	s := newStage(t)
	app := s.trusted(s.image("app", nil))
	other := s.trusted(s.image("other", nil))
	g := s.gate(options{})
	expect(t, s.pull(g, app.Reference()), policy.Serve, "")
	s.requests.down.Store(true)
	s.pass(time.Hour) // tag and verdict are long past their terms
	a := s.pull(g, app.Reference())
	expect(t, a, policy.Serve, "")
	if !a.Verdict.Stale {
		t.Error("the verdict does not say that it is stale")
	}
	if _, err := s.tryPull(g, other.Reference()); !errors.Is(err, upstream.ErrUnavailable) {
		t.Errorf("a new image: %v", err)
	}
	s.pass(24 * time.Hour)
	if a, err := s.tryPull(g, app.Reference()); err == nil && !a.Verdict.Blocked() {
		t.Error("a verdict outlived verdicts.stale")
	}
}

func TestRestartLosesNothing(t *testing.T) {
	s := newStage(t)
	base := s.trusted(s.image("base/os", nil))
	app := s.trusted(s.image("app", base), base)
	var before *gate.Admission
	t.Run("first run", func(t *testing.T) {
		inner := *s2(s, t)
		before = inner.pull(inner.gate(options{}), app.Reference())
	})
	s.requests.down.Store(true)
	g := s.gate(options{})
	after := s.pull(g, app.Reference())
	if after.Verdict.ID != before.Verdict.ID || after.Verdict.Action != policy.Serve || len(after.Parents) != 1 {
		t.Errorf("after the restart: %+v, before: %+v", after.Verdict, before.Verdict)
	}
	if _, err := g.Blob(context.Background(), after.Reference.InRepository(), after.Manifest.Layers[0].Digest, policy.Client{}); err != nil {
		t.Errorf("its layer: %v", err)
	}
}

// s2 is the stage for a subtest: what it opens is closed with it.
func s2(s *stage, t *testing.T) *stage {
	return &stage{
		TB: t, registry: s.registry, ci: s.ci, stranger: s.stranger, release: s.release,
		lookaside: s.lookaside, requests: s.requests, folder: s.folder,
	}
}

func TestRoots(t *testing.T) {
	s := newStage(t)
	debian := s.image("library/debian", nil) // signed by nobody
	app := s.trusted(s.image("app", debian), debian)
	expect(t, s.pull(s.gate(options{}), app.Reference()), policy.Block, "parents.untrusted")

	byDigest := options{roots: []gate.Root{{Digest: debian.Digest}}}
	t.Run("digest", func(t *testing.T) {
		s := s2(s, t)
		s.folder = t.TempDir()
		a := s.pull(s.gate(byDigest), app.Reference())
		expect(t, a, policy.Serve, "")
		if !a.Parents[0].Root {
			t.Error("the parent is not called a root")
		}
	})
	t.Run("repository and signer", func(t *testing.T) {
		s := s2(s, t)
		s.folder = t.TempDir()
		o := options{roots: []gate.Root{{Repository: s.registry.Addr + "/library/debian", Signers: []string{"release"}}}}
		g := s.gate(o)
		expect(t, s.pull(g, app.Reference()), policy.Block, "parents.untrusted")
		s.must(s.lookaside.Sign(s.release, debian))
		s.pass(30 * time.Second)
		expect(t, s.pull(g, app.Reference()), policy.Serve, "")
	})
}

func TestOneJudgementHoweverManyClients(t *testing.T) {
	s := newStage(t)
	base := s.trusted(s.image("base/os", nil))
	app := s.trusted(s.image("app", base), base)
	g := s.gate(options{})
	s.requests.reset()
	ids := make([]string, 64)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			if a, err := s.tryPull(g, app.Reference()); err == nil {
				ids[i] = a.Verdict.ID
			}
		})
	}
	wg.Wait()
	slices.Sort(ids)
	if ids = slices.Compact(ids); len(ids) != 1 || ids[0] == "" {
		t.Errorf("decisions %v, want one", ids)
	}
	if n := s.requests.count("GET /v2/app/manifests/1"); n != 1 {
		t.Errorf("the tag was fetched %d times", n)
	}
}

// A verdict that depends on who asks is not another client's.
func TestVerdictPerClient(t *testing.T) {
	s := newStage(t)
	app := s.trusted(s.image("app", nil))
	g := s.gate(options{rego: `package trustgate.policies.team
import rego.v1
deny contains {"code": "team.client", "msg": "not for you"} if input.request.client.identity != "CN=alice"
`})
	ref, err := oci.ParseReference(app.Reference())
	s.must(err)
	for identity, want := range map[string]policy.Action{"CN=alice": policy.Serve, "CN=bob": policy.Block} {
		a, err := g.Admit(context.Background(), gate.Request{Reference: ref, Client: policy.Client{Identity: identity}})
		s.must(err)
		if a.Verdict.Action != want {
			t.Errorf("%s: %s, want %s", identity, a.Verdict.Action, want)
		}
	}
	_, err = g.Blob(context.Background(), ref.InRepository(), digestOfLayer(s, app), policy.Client{Identity: "CN=bob"})
	if !errors.As(err, new(*gate.BlockedError)) {
		t.Errorf("bob reads a layer: %v", err)
	}
}

func digestOfLayer(s *stage, image *shipyard.Image) digest.Digest {
	manifest, err := image.Content.Manifest()
	s.must(err)
	return digest.Digest(manifest.Layers[0].Digest.String())
}

func TestArtifactsAreJudged(t *testing.T) {
	s := newStage(t)
	built, err := shipyard.Build(nil, map[string]string{"chart.yaml": "name: chart"})
	s.must(err)
	chart := s.push("chart", "1", mutate.ConfigMediaType(built, "application/vnd.cncf.helm.config.v1+json"))
	g := s.gate(options{})
	expect(t, s.pull(g, chart.Reference()), policy.Block, "signature.missing")
}
