package gate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/upstream"
)

func expect(t testing.TB, a *gate.Admission, action policy.Action, code string) {
	t.Helper()
	if a.Verdict.Action != action || !strings.Contains(stage.Codes(a), code) {
		t.Fatalf("%s: got %s (%s), want %s with %q\n%s", a.Reference, a.Verdict.Action, stage.Codes(a), action, code, stage.Messages(a))
	}
}

func TestTrustedAllTheWayDown(t *testing.T) {
	s := stage.New(t)
	base := s.Trusted(s.Image("base/os", nil))
	app := s.Trusted(s.Image("app", base), base)
	a := s.Pull(s.Gate(stage.Options{}), app.Reference())
	expect(t, a, policy.Serve, "")
	if len(a.Parents) != 1 || a.Parents[0].Known != "proven" || a.Parents[0].Stage != "final" {
		t.Errorf("parents are %+v, want one proven final parent", a.Parents)
	}
	if a.Source == nil || !a.Source.Trusted || a.Source.Revision != stage.Revision {
		t.Errorf("source is %+v", a.Source)
	}
}

func TestWhatIsBlockedAndWhy(t *testing.T) {
	s := stage.New(t)
	ctx := context.Background()
	base := s.Trusted(s.Image("base/os", nil))

	unsigned := s.Attested(s.Image("unsigned", base), base)

	byStranger := s.Attested(s.Image("stranger", base), base)
	s.Must(s.Registry.Sign(ctx, s.Stranger, byStranger))

	transplanted := s.Attested(s.Image("transplanted", base), base)
	s.Must(s.Registry.Transplant(ctx, s.CI, base, transplanted))

	noProvenance := s.Image("noprovenance", base)
	s.Must(s.Registry.Sign(ctx, s.CI, noProvenance))

	otherBuilder := s.Image("otherbuilder", base)
	s.Must(s.Registry.Sign(ctx, s.CI, otherBuilder))
	s.Must(s.Registry.Attest(ctx, s.CI, otherBuilder, shipyard.ProvenanceType,
		shipyard.Provenance("https://laptop.example/", stage.Source, stage.Revision, base)))

	otherSource := s.Image("othersource", base)
	s.Must(s.Registry.Sign(ctx, s.CI, otherSource))
	s.Must(s.Registry.Attest(ctx, s.CI, otherSource, shipyard.ProvenanceType,
		shipyard.Provenance(stage.Builder, "https://git.example/mallory/app", stage.Revision, base)))

	badParent := s.Image("bad/parent", nil)
	orphan := s.Trusted(s.Image("orphan", badParent), badParent)

	g := s.Gate(stage.Options{})
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
		t.Run(tc.image.Repository, func(t *testing.T) { expect(t, s.Pull(g, tc.image.Reference()), policy.Block, tc.code) })
	}
}

func TestTheDeepestBaseLosesItsSignature(t *testing.T) {
	s := stage.New(t)
	debian := s.Image("base/debian", nil)
	s.Attested(debian)
	s.Must(s.Lookaside.Sign(s.Release, debian))
	runtime := s.Trusted(s.Image("base/runtime", debian), debian)
	node := s.Trusted(s.Image("base/node", runtime), runtime)
	app := s.Trusted(s.Image("app", node), node)
	g := s.Gate(stage.Options{})
	expect(t, s.Pull(g, app.Reference()), policy.Serve, "")

	s.Must(s.Lookaside.Withdraw(debian))
	s.Pass(11 * time.Minute)
	a := s.Pull(g, app.Reference())
	expect(t, a, policy.Block, "parents.untrusted")
	if got := stage.Messages(a); !strings.Contains(got, "app") || !inOrder(got, "app", "base/node", "base/runtime", "base/debian", "no signature by") {
		t.Errorf("the message does not name the path:\n%s", got)
	}

	s.Must(s.Lookaside.Sign(s.Release, debian))
	s.Pass(30 * time.Second)
	expect(t, s.Pull(g, app.Reference()), policy.Serve, "")
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
	s := stage.New(t)
	unsigned := s.Image("unsigned", nil)
	for mode, want := range map[policy.Mode]policy.Action{
		policy.Enforce: policy.Block, policy.AnnotateOnly: policy.Annotate, policy.Audit: policy.Serve,
	} {
		t.Run(string(mode), func(t *testing.T) {
			a := s.Pull(s.Gate(stage.Options{Mode: mode}), unsigned.Reference())
			if a.Verdict.Action != want || a.Verdict.BeforeMode != policy.Block {
				t.Errorf("got %s, before the mode %s", a.Verdict.Action, a.Verdict.BeforeMode)
			}
		})
	}
}

// A tag that moves is followed within its freshness, and what is served is
// always what was judged.
func TestMovedTag(t *testing.T) {
	s := stage.New(t)
	first := s.Trusted(s.Image("app", nil))
	g := s.Gate(stage.Options{})
	expect(t, s.Pull(g, first.Reference()), policy.Serve, "")

	built, err := shipyard.Build(nil, map[string]string{"bin/app": "malicious"})
	s.Must(err)
	moved := s.Push("app", "1", built)
	if a := s.Pull(g, first.Reference()); a.Reference.Digest() != first.Digest {
		t.Errorf("a fresh tag was resolved again, to %s", a.Reference.Digest())
	}
	s.Pass(31 * time.Second)
	a := s.Pull(g, first.Reference())
	expect(t, a, policy.Block, "signature.missing")
	if a.Reference.Digest() != moved.Digest {
		t.Errorf("judged %s, the tag names %s", a.Reference.Digest(), moved.Digest)
	}
}

// An OpenPGP signature is for a tag: a pull by another tag of the same digest
// does not fit it, a pull by digest does.
func TestSignatureBindsTheTag(t *testing.T) {
	s := stage.New(t)
	app := s.Attested(s.Image("app", nil))
	s.Must(s.Lookaside.Sign(s.Release, app))
	s.Push("app", "other", app.Content)
	g := s.Gate(stage.Options{})
	expect(t, s.Pull(g, app.Reference()), policy.Serve, "")
	expect(t, s.Pull(g, app.Name()+"@"+app.Digest.String()), policy.Serve, "")
	expect(t, s.Pull(g, app.Name()+":other"), policy.Block, "signature.reference")
}

func TestParentsThatClaimEachOther(t *testing.T) {
	s := stage.New(t)
	named := func(repository, base string) *shipyard.Image {
		built, err := shipyard.Build(nil, map[string]string{repository: repository})
		s.Must(err)
		return s.Push(repository, "1", shipyard.Annotate(built, map[string]string{
			"org.opencontainers.image.base.name": s.Registry.Addr + "/" + base + ":1",
		}))
	}
	hen, egg := named("hen", "egg"), named("egg", "hen")
	g := s.Gate(stage.Options{})
	var wg sync.WaitGroup
	for range 8 {
		for _, image := range []*shipyard.Image{hen, egg} {
			wg.Go(func() {
				a, err := s.TryPull(g, image.Reference())
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
	if got := stage.Messages(s.Pull(g, hen.Reference())); !strings.Contains(got, "leads back") {
		t.Errorf("the circle is not named:\n%s", got)
	}
}

func TestTreeIsBounded(t *testing.T) {
	s := stage.New(t)
	var chain []*shipyard.Image
	var base *shipyard.Image
	for i := range 5 {
		image := s.Image(fmt.Sprintf("chain/%d", i), base)
		if base == nil {
			s.Trusted(image)
		} else {
			s.Trusted(image, base)
		}
		chain, base = append(chain, image), image
	}
	t.Run("depth", func(t *testing.T) {
		g := s.Gate(stage.Options{Depth: 2})
		expect(t, s.Pull(g, chain[4].Reference()), policy.Block, "parents.untrusted")
		// What was cut off there is whole when it is asked for itself.
		expect(t, s.Pull(g, chain[2].Reference()), policy.Serve, "")
	})
	t.Run("count", func(t *testing.T) {
		g := s.Gate(stage.Options{Nodes: 3})
		expect(t, s.Pull(g, chain[4].Reference()), policy.Block, "parents.untrusted")
	})
}

func TestBaseFoundByItsLayers(t *testing.T) {
	s := stage.New(t)
	base := s.Image("base/os", nil) // nobody signed it
	app := s.Image("app", base)     // and says nothing of where it comes from
	s.Must(s.Registry.Sign(context.Background(), s.CI, app))
	g := s.Gate(stage.Options{})
	s.Pull(g, base.Reference())
	a := s.Pull(g, app.Reference())
	if len(a.Parents) != 1 || a.Parents[0].Digest != base.Digest || a.Parents[0].Known != "proven" {
		t.Fatalf("parents are %+v, want %s, proven", a.Parents, base.Digest)
	}
	expect(t, a, policy.Block, "parents.untrusted")
}

func TestAnnotationThatContradictsTheLayers(t *testing.T) {
	s := stage.New(t)
	good := s.Trusted(s.Image("base/good", nil))
	built, err := shipyard.Build(nil, map[string]string{"bin/app": "something else"})
	s.Must(err)
	app := s.Push("app", "1", shipyard.Annotate(built, map[string]string{
		"org.opencontainers.image.base.name":   good.Reference(),
		"org.opencontainers.image.base.digest": good.Digest.String(),
	}))
	s.Must(s.Registry.Sign(context.Background(), s.CI, app))
	a := s.Pull(s.Gate(stage.Options{}), app.Reference())
	expect(t, a, policy.Block, "parents.untrusted")
}

func TestIndex(t *testing.T) {
	s := stage.New(t)
	ctx := context.Background()
	build := func(content string) v1.Image {
		image, err := shipyard.Build(nil, map[string]string{"bin/app": content})
		s.Must(err)
		return image
	}
	amd, arm := build("amd"), build("arm")
	both := []oci.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}
	platforms := []string{"linux/amd64", "linux/arm64"}

	t.Run("its signature covers its images", func(t *testing.T) {
		index, err := s.Registry.PushIndex(ctx, "covered", "1", platforms, amd, arm)
		s.Must(err)
		s.Trusted(index)
		g := s.Gate(stage.Options{Platforms: both})
		a := s.Pull(g, index.Reference())
		expect(t, a, policy.Serve, "")
		if len(a.Children) != 2 {
			t.Fatalf("judged %d images, want 2", len(a.Children))
		}
		child, err := amd.Digest()
		s.Must(err)
		expect(t, s.Pull(g, index.Name()+"@"+child.String()), policy.Serve, "")
	})
	t.Run("blocked when every image is", func(t *testing.T) {
		index, err := s.Registry.PushIndex(ctx, "bare", "1", platforms, amd, arm)
		s.Must(err)
		a := s.Pull(s.Gate(stage.Options{Platforms: both}), index.Reference())
		expect(t, a, policy.Block, "signature.missing")
	})
	t.Run("annotated when some are", func(t *testing.T) {
		index, err := s.Registry.PushIndex(ctx, "half", "1", platforms, amd, arm)
		s.Must(err)
		child, err := amd.Digest()
		s.Must(err)
		s.Trusted(&shipyard.Image{Registry: index.Registry, Repository: index.Repository, Digest: digest.Digest(child.String())})
		g := s.Gate(stage.Options{Platforms: both})
		a := s.Pull(g, index.Reference())
		expect(t, a, policy.Annotate, "signature.missing")
		other, err := arm.Digest()
		s.Must(err)
		expect(t, s.Pull(g, index.Name()+"@"+other.String()), policy.Block, "signature.missing")
	})
}

func TestEvidenceStaysPullable(t *testing.T) {
	s := stage.New(t)
	app := s.Image("app", nil) // no provenance: blocked
	s.Must(s.Registry.Sign(context.Background(), s.CI, app))
	g := s.Gate(stage.Options{})
	expect(t, s.Pull(g, app.Reference()), policy.Block, "provenance.missing")
	tag := strings.Replace(app.Digest.String(), ":", "-", 1) + ".sig"
	a := s.Pull(g, app.Name()+":"+tag)
	if a.Manifest.Kind != oci.KindEvidence || a.Verdict.Blocked() {
		t.Errorf("the signature is a %s and %s", a.Manifest.Kind, a.Verdict.Action)
	}
	if _, err := g.Blob(context.Background(), a.Reference.InRepository(), a.Manifest.Layers[0].Digest, policy.Client{}); err != nil {
		t.Errorf("its payload: %v", err)
	}

	// An image by the name of a signature is an image.
	s.Push("app", "sha256-"+strings.Repeat("0", 64)+".sig", app.Content)
	expect(t, s.Pull(g, app.Name()+":sha256-"+strings.Repeat("0", 64)+".sig"), policy.Block, "provenance.missing")
}

func TestBlobNeedsAServedManifest(t *testing.T) {
	s := stage.New(t)
	ctx := context.Background()
	served := s.Trusted(s.Image("served", nil))
	blocked := s.Image("blocked", nil)
	g := s.Gate(stage.Options{})
	layer := func(i *shipyard.Image) digest.Digest {
		layers, err := i.Content.Layers()
		s.Must(err)
		d, err := layers[0].Digest()
		s.Must(err)
		return digest.Digest(d.String())
	}
	in := func(i *shipyard.Image) oci.Reference {
		ref, err := oci.ParseReference(i.Name())
		s.Must(err)
		return ref
	}
	if _, err := g.Blob(ctx, in(served), layer(served), policy.Client{}); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("before its manifest was pulled: %v", err)
	}
	s.Pull(g, served.Reference())
	s.Pull(g, blocked.Reference())

	granted, err := g.Blob(ctx, in(served), layer(served), policy.Client{})
	s.Must(err)
	blob, err := granted.Open(ctx)
	s.Must(err)
	defer blob.Close()
	raw, err := io.ReadAll(blob)
	s.Must(err)
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
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	other := s.Trusted(s.Image("other", nil))
	g := s.Gate(stage.Options{})
	expect(t, s.Pull(g, app.Reference()), policy.Serve, "")
	s.Upstream.Down.Store(true)
	s.Pass(time.Hour) // tag and verdict are long past their terms
	a := s.Pull(g, app.Reference())
	expect(t, a, policy.Serve, "")
	if !a.Verdict.Stale {
		t.Error("the verdict does not say that it is stale")
	}
	if _, err := s.TryPull(g, other.Reference()); !errors.Is(err, upstream.ErrUnavailable) {
		t.Errorf("a new image: %v", err)
	}
	s.Pass(24 * time.Hour)
	if a, err := s.TryPull(g, app.Reference()); err == nil && !a.Verdict.Blocked() {
		t.Error("a verdict outlived verdicts.stale")
	}
}

// TestUpstreamOffBetweenTagAndDigest: the digest of an image that was served by
// its tag is pulled for the first time when the upstream is gone.
func TestUpstreamOffBetweenTagAndDigest(t *testing.T) {
	s := stage.New(t)
	image := s.Trusted(s.Image("app", nil))
	unknown := s.Image("unknown", nil)
	g := s.Gate(stage.Options{})
	expect(t, s.Pull(g, image.Reference()), policy.Serve, "")
	s.Pass(6 * time.Second) // what was found a moment ago is looked for again
	s.Upstream.Down.Store(true)
	a := s.Pull(g, image.Name()+"@"+image.Digest.String())
	expect(t, a, policy.Serve, "")
	if !a.Verdict.Stale {
		t.Error("the verdict does not say that it is an earlier one")
	}
	if _, err := s.TryPull(g, unknown.Name()+"@"+unknown.Digest.String()); err == nil {
		t.Error("an image that nobody has judged is admitted")
	}
}

// TestRevalidation: an image that is pulled near the end of its verdict is judged
// again in the background, so that no client waits for it.
func TestRevalidation(t *testing.T) {
	s := stage.New(t)
	image := s.Trusted(s.Image("app", nil))
	g := s.Gate(stage.Options{})
	first := s.Pull(g, image.Reference())
	s.Pass(7 * time.Minute)
	if a := s.Pull(g, image.Reference()); a.Verdict.ID != first.Verdict.ID {
		t.Errorf("judged again with three minutes to go: %s", a.Verdict.ID)
	}
	s.Pass(2 * time.Minute)
	if a := s.Pull(g, image.Reference()); a.Verdict.ID != first.Verdict.ID {
		t.Errorf("the pull waited for a new verdict: %s", a.Verdict.ID)
	}
	eventually(t, func() (bool, string) {
		a := s.Pull(g, image.Reference())
		return a.Verdict.ID != first.Verdict.ID && a.Verdict.ExpiresAt.After(first.Verdict.ExpiresAt), a.Verdict.ID
	})
}

func TestRestartLosesNothing(t *testing.T) {
	s := stage.New(t)
	base := s.Trusted(s.Image("base/os", nil))
	app := s.Trusted(s.Image("app", base), base)
	var before *gate.Admission
	t.Run("first run", func(t *testing.T) {
		inner := s.For(t)
		before = inner.Pull(inner.Gate(stage.Options{}), app.Reference())
	})
	s.Upstream.Down.Store(true)
	g := s.Gate(stage.Options{})
	after := s.Pull(g, app.Reference())
	if after.Verdict.ID != before.Verdict.ID || after.Verdict.Action != policy.Serve || len(after.Parents) != 1 {
		t.Errorf("after the restart: %+v, before: %+v", after.Verdict, before.Verdict)
	}
	if _, err := g.Blob(context.Background(), after.Reference.InRepository(), after.Manifest.Layers[0].Digest, policy.Client{}); err != nil {
		t.Errorf("its layer: %v", err)
	}
}

func TestRoots(t *testing.T) {
	s := stage.New(t)
	debian := s.Image("library/debian", nil) // signed by nobody
	app := s.Trusted(s.Image("app", debian), debian)
	expect(t, s.Pull(s.Gate(stage.Options{}), app.Reference()), policy.Block, "parents.untrusted")

	byDigest := stage.Options{Roots: []gate.Root{{Digest: debian.Digest}}}
	t.Run("digest", func(t *testing.T) {
		s := s.For(t)
		s.Folder = t.TempDir()
		a := s.Pull(s.Gate(byDigest), app.Reference())
		expect(t, a, policy.Serve, "")
		if !a.Parents[0].Root {
			t.Error("the parent is not called a root")
		}
	})
	t.Run("repository and signer", func(t *testing.T) {
		s := s.For(t)
		s.Folder = t.TempDir()
		o := stage.Options{Roots: []gate.Root{{Repository: s.Registry.Addr + "/library/debian", Signers: []string{"release"}}}}
		g := s.Gate(o)
		expect(t, s.Pull(g, app.Reference()), policy.Block, "parents.untrusted")
		s.Must(s.Lookaside.Sign(s.Release, debian))
		s.Pass(30 * time.Second)
		expect(t, s.Pull(g, app.Reference()), policy.Serve, "")
	})
}

func TestOneJudgementHoweverManyClients(t *testing.T) {
	s := stage.New(t)
	base := s.Trusted(s.Image("base/os", nil))
	app := s.Trusted(s.Image("app", base), base)
	g := s.Gate(stage.Options{})
	s.Upstream.Reset()
	ids := make([]string, 64)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			if a, err := s.TryPull(g, app.Reference()); err == nil {
				ids[i] = a.Verdict.ID
			}
		})
	}
	wg.Wait()
	slices.Sort(ids)
	if ids = slices.Compact(ids); len(ids) != 1 || ids[0] == "" {
		t.Errorf("decisions %v, want one", ids)
	}
	if n := s.Upstream.Count("GET /v2/app/manifests/1"); n != 1 {
		t.Errorf("the tag was fetched %d times", n)
	}
}

// A verdict that depends on who asks is not another client's.
func TestVerdictPerClient(t *testing.T) {
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	g := s.Gate(stage.Options{Rego: `package trustgate.policies.team
import rego.v1
deny contains {"code": "team.client", "msg": "not for you"} if input.request.client.identity != "CN=alice"
`})
	ref, err := oci.ParseReference(app.Reference())
	s.Must(err)
	for identity, want := range map[string]policy.Action{"CN=alice": policy.Serve, "CN=bob": policy.Block} {
		a, err := g.Admit(context.Background(), gate.Request{Reference: ref, Client: policy.Client{Identity: identity}})
		s.Must(err)
		if a.Verdict.Action != want {
			t.Errorf("%s: %s, want %s", identity, a.Verdict.Action, want)
		}
	}
	_, err = g.Blob(context.Background(), ref.InRepository(), digestOfLayer(s, app), policy.Client{Identity: "CN=bob"})
	if !errors.As(err, new(*gate.BlockedError)) {
		t.Errorf("bob reads a layer: %v", err)
	}
}

func digestOfLayer(s *stage.Stage, image *shipyard.Image) digest.Digest {
	manifest, err := image.Content.Manifest()
	s.Must(err)
	return digest.Digest(manifest.Layers[0].Digest.String())
}

func TestArtifactsAreJudged(t *testing.T) {
	s := stage.New(t)
	built, err := shipyard.Build(nil, map[string]string{"chart.yaml": "name: chart"})
	s.Must(err)
	chart := s.Push("chart", "1", mutate.ConfigMediaType(built, "application/vnd.cncf.helm.config.v1+json"))
	g := s.Gate(stage.Options{})
	expect(t, s.Pull(g, chart.Reference()), policy.Block, "signature.missing")
}

// TestClosedUnderAJudgement: a parent that is not judged, since the gate is ending,
// is no reason to block the child: nothing is recorded, and the next gate serves it.
func TestClosedUnderAJudgement(t *testing.T) {
	s := stage.New(t)
	base := s.Trusted(s.Image("base/os", nil))
	app := s.Trusted(s.Image("app", base), base)
	other := s.Image("other", nil)
	g := s.Gate(stage.Options{})
	expect(t, s.Pull(g, app.Reference()), policy.Serve, "")

	reached, release := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(reached) })
	s.Upstream.Interpose(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/v2/app/referrers/") {
				once()
				<-release
			}
			next.ServeHTTP(w, r)
		})
	})
	s.Pass(9 * time.Minute)
	s.Pull(g, app.Reference()) // which starts the next judgement
	<-reached
	s.Pass(2 * time.Minute) // and the parent must be judged anew for it
	closed := make(chan error, 1)
	go func() { closed <- g.Close(context.Background()) }()
	ref, err := oci.ParseReference(other.Reference())
	s.Must(err)
	eventually(t, func() (bool, string) {
		_, err := g.Admit(t.Context(), gate.Request{Reference: ref, Fresh: true})
		return errors.Is(err, gate.ErrClosed), fmt.Sprint(err)
	})
	close(release)
	s.Must(<-closed)
	expect(t, s.Pull(s.Gate(stage.Options{}), app.Reference()), policy.Serve, "")
}

// TestJudgementsAtOnce: parents and children need no slot of their own, and who
// waits too long for one is told to come back.
func TestJudgementsAtOnce(t *testing.T) {
	s := stage.New(t)
	base := s.Trusted(s.Image("base/os", nil))
	app := s.Trusted(s.Image("app", base), base)
	slow := s.Trusted(s.Image("slow", base), base)
	reached, release := make(chan struct{}), make(chan struct{})
	s.Upstream.Interpose(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/slow/referrers/") {
				close(reached)
				<-release
			}
			next.ServeHTTP(w, r)
		})
	})
	g := s.Gate(stage.Options{Judgements: 1, Deadline: time.Minute, Turn: 10 * time.Millisecond})
	waited := make(chan *gate.Admission, 1)
	go func() {
		a, _ := s.TryPull(g, slow.Reference())
		waited <- a
	}()
	<-reached
	if _, err := s.TryPull(g, app.Reference()); !errors.Is(err, gate.ErrBusy) {
		t.Errorf("while the only slot is taken: %v", err)
	}
	close(release)
	if a := <-waited; a == nil || a.Verdict.Action != policy.Serve {
		t.Errorf("who has the slot gets %+v", a)
	}
	expect(t, s.Pull(g, app.Reference()), policy.Serve, "")
}
