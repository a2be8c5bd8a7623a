package gate_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// another is a policy with one rule more, about the repositories of a Rego set.
func another(set, repositories string) string {
	return fmt.Sprintf(`package trustgate.policies.team

# METADATA
# title: Another policy
# custom:
#   code: team.another
%s contains {"code": "team.another", "msg": "under another policy"} if %s
`, set, repositories)
}

// fetched counts what a warm pull would not ask for: it looks at most what a tag
// names.
func fetched(s *stage.Stage) int { return s.Upstream.Count("") - s.Upstream.Count("HEAD ") }

// reloaded are the images that TestPolicyReload pulls, and reloaders its clients.
var reloaded, reloaders = 200, 64

// TestPolicyReload: two hundred images that were judged are pulled by everybody
// right after the policy has changed. None of that reaches the upstream or waits
// for a place among the judgements that do.
func TestPolicyReload(t *testing.T) {
	s := stage.New(t)
	images, clients := reloaded, reloaders
	// Signing all of them would be most of the test: exceptions serve them as well.
	o := stage.Options{}
	for _, code := range []string{"signature.missing", "provenance.missing", "source.unknown", "parents.unknown"} {
		o.Exceptions = append(o.Exceptions, policy.Exception{
			ID: "ex-" + code, Code: code, Repository: "**", Owner: "ops", Reason: "a test", Expires: s.Now().Add(time.Hour),
		})
	}
	base := s.Image("base/os", nil)
	var all []*shipyard.Image
	for i := range images {
		all = append(all, s.Image(fmt.Sprintf("app%d", i), base))
	}
	slow := s.Image("slow", nil)
	before := s.Gate(o)
	s.Pull(before, base.Reference()) // by whose layers it is found
	old := map[string]gate.Verdict{}
	for _, image := range all {
		a := s.Pull(before, image.Reference())
		expect(t, a, policy.Serve, "")
		if len(a.Parents) != 1 {
			t.Fatalf("the parents of %s are %+v", image.Repository, a.Parents)
		}
		old[image.Repository] = a.Verdict
	}

	o.Rego, o.Judgements, o.Succeeds = another("deny", `endswith(input.image.repository, "7")`), 1, before
	after := s.Gate(o)
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
	var busy, wg sync.WaitGroup
	busy.Go(func() { _, _ = s.TryPull(after, slow.Reference()) }) // it has the only place
	<-reached
	s.Upstream.Reset()
	decisions := make([]map[string]string, clients)
	for c := range clients {
		decisions[c] = map[string]string{}
		wg.Go(func() {
			for i := range all {
				image := all[(i+c*7)%len(all)]
				a, err := s.TryPull(after, image.Reference())
				if err != nil {
					t.Errorf("%s: %v", image.Repository, err)
					return
				}
				if want := map[bool]policy.Action{true: policy.Block, false: policy.Serve}[strings.HasSuffix(image.Repository, "7")]; a.Verdict.Action != want {
					t.Errorf("%s: %s, want %s", image.Repository, a.Verdict.Action, want)
				}
				if was := old[image.Repository]; a.Verdict.ID == was.ID || a.Verdict.ExpiresAt.After(was.ExpiresAt) || a.Verdict.Stale {
					t.Errorf("%s: %+v was %+v", image.Repository, a.Verdict, was)
				}
				decisions[c][image.Repository] = a.Verdict.ID
			}
		})
	}
	wg.Wait()
	if n := fetched(s) - s.Upstream.Count("GET /v2/slow/"); n != 0 {
		t.Errorf("%d requests reach the upstream", n)
	}
	close(release)
	busy.Wait()
	for c := range clients {
		for repository, id := range decisions[c] {
			if id != decisions[0][repository] {
				t.Fatalf("%s was judged more than once", repository)
			}
		}
	}
}

// TestBlobsAfterAReload: who has the manifest from before the policy changed goes on
// with its blobs, or does not, by the new one.
func TestBlobsAfterAReload(t *testing.T) {
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	a := s.Pull(s.Gate(stage.Options{}), app.Reference())
	layer := a.Manifest.Layers[0].Digest
	s.Upstream.Reset()
	if _, err := s.Gate(stage.Options{Rego: another("warn", "true")}).Blob(t.Context(), a.Reference.InRepository(), layer, policy.Client{}); err != nil {
		t.Error(err)
	}
	if n := s.Upstream.Count(""); n != 0 {
		t.Errorf("%d requests reach the upstream", n)
	}
	var blocked *gate.BlockedError
	if _, err := s.Gate(stage.Options{Rego: another("deny", "true")}).Blob(t.Context(), a.Reference.InRepository(), layer, policy.Client{}); !errors.As(err, &blocked) {
		t.Errorf("under a policy that blocks it: %v", err)
	}
}

// What a parent is worth under the new policy counts for its children, and a
// policy that is taken back brings their verdicts back.
func TestParentsAreJudgedAgain(t *testing.T) {
	s := stage.New(t)
	debian := s.Trusted(s.Image("base/debian", nil))
	runtime := s.Trusted(s.Image("base/runtime", debian), debian)
	app := s.Trusted(s.Image("app", runtime), runtime)
	expect(t, s.Pull(s.Gate(stage.Options{}), app.Reference()), policy.Serve, "")
	s.Upstream.Reset()

	closed := s.Gate(stage.Options{Rego: another("deny", `input.image.repository == "base/debian"`)})
	a := s.Pull(closed, app.Reference())
	expect(t, a, policy.Block, "parents.untrusted")
	if said := stage.Messages(a); !inOrder(said, "app", "base/runtime", "base/debian", "under another policy") {
		t.Errorf("the message does not name the path:\n%s", said)
	}
	if len(a.Parents) != 2 || a.Parents[1].Verdict.Action != policy.Block || a.Parents[1].Depth != 2 {
		t.Errorf("the parents are %+v", a.Parents)
	}
	expect(t, s.Pull(s.Gate(stage.Options{Rego: another("warn", `input.image.repository == "base/debian"`)}), app.Reference()), policy.Serve, "")
	if n := fetched(s); n != 0 {
		t.Errorf("%d requests reach the upstream", n)
	}
}

func TestIndexIsJudgedAgain(t *testing.T) {
	s := stage.New(t)
	var listed []v1.Image
	for _, content := range []string{"one", "two"} {
		image, err := shipyard.Build(nil, map[string]string{"bin/" + content: content})
		s.Must(err)
		listed = append(listed, image)
	}
	index, err := s.Registry.PushIndex(t.Context(), "app", "1", []string{"linux/amd64", "linux/arm64"}, listed...)
	s.Must(err)
	s.Trusted(index)
	o := stage.Options{}
	expect(t, s.Pull(s.Gate(o), index.Reference()), policy.Serve, "")
	s.Upstream.Reset()
	o.Rego = another("deny", `input.image.index`)
	a := s.Pull(s.Gate(o), index.Reference())
	expect(t, a, policy.Block, "team.another")
	if len(a.Children) != 1 || a.Children[0].Action != policy.Block || fetched(s) != 0 {
		t.Errorf("children %+v, %d requests", a.Children, fetched(s))
	}
}

// TestGatheredAnew: whatever else than the policy has changed, the evidence is
// looked for as at a first pull.
func TestGatheredAnew(t *testing.T) {
	rego := another("warn", "true")
	for name, tc := range map[string]struct {
		change func(*stage.Stage, *gate.Gate, *shipyard.Image) // after the first verdict
		then   stage.Options
		fresh  bool
		again  bool // judged from the record
	}{
		"only the policy has changed":         {then: stage.Options{Rego: rego}, again: true},
		"the client asks for a fresh verdict": {then: stage.Options{Rego: rego}, fresh: true},
		"evidence is looked for elsewhere":    {then: stage.Options{Rego: rego, Gathering: "a further store"}},
		"packages are examined":               {then: stage.Options{Rego: rego, Packages: true}},
		"the verdict has ended": {
			change: func(s *stage.Stage, _ *gate.Gate, _ *shipyard.Image) { s.Pass(11 * time.Minute) }, then: stage.Options{Rego: rego},
		},
		"the clock was set back": {
			change: func(s *stage.Stage, _ *gate.Gate, _ *shipyard.Image) { s.Pass(-time.Hour) }, then: stage.Options{Rego: rego},
		},
		"an index lists it now": {
			change: func(s *stage.Stage, g *gate.Gate, image *shipyard.Image) {
				index, err := s.Registry.PushIndex(s.Context(), image.Repository, "all", []string{"linux/amd64"}, image.Content)
				s.Must(err)
				s.Pull(g, index.Reference())
			},
			then: stage.Options{Rego: rego},
		},
		"a signature was pushed just before": {
			change: func(s *stage.Stage, g *gate.Gate, image *shipyard.Image) {
				_, err := g.Push(s.Context(), pushOf(s, image, "sha256-"+image.Digest.Encoded()+".sbom"))
				s.Must(err)
			},
			then: stage.Options{Rego: rego},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := stage.New(t)
			app := s.Trusted(s.Image("app", nil))
			before := s.Gate(stage.Options{})
			expect(t, s.Pull(before, app.Reference()), policy.Serve, "")
			if tc.change != nil {
				tc.change(s, before, app)
			}
			tc.then.Succeeds = before
			after := s.Gate(tc.then)
			s.Upstream.Reset()
			ref, err := oci.ParseReference(app.Reference())
			s.Must(err)
			a, err := after.Admit(t.Context(), gate.Request{Reference: ref, Fresh: tc.fresh})
			s.Must(err)
			expect(t, a, policy.Annotate, "team.another")
			if again := s.Upstream.Count("GET ") == 0; again != tc.again {
				t.Errorf("judged from the record: %v, want %v", again, tc.again)
			}
		})
	}
}

// What could not be had is looked for again, and what is not to be had at all is
// not.
func TestMissingEvidenceIsLookedForAgain(t *testing.T) {
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	s.Upstream.Interpose(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/referrers/") {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	expect(t, s.Pull(s.Gate(stage.Options{}), app.Reference()), policy.Block, "evidence.errors")
	s.Upstream.Interpose(nil)
	expect(t, s.Pull(s.Gate(stage.Options{Rego: another("warn", "true")}), app.Reference()), policy.Annotate, "team.another")

	claims, err := shipyard.Build(nil, map[string]string{"bin/claims": "claims"})
	s.Must(err)
	orphan := s.Trusted(s.Push("orphan", "1", shipyard.Annotate(claims, map[string]string{"org.opencontainers.image.base.name": "elsewhere.example/base:1"})))
	s.Pull(s.Gate(stage.Options{}), orphan.Reference())
	s.Upstream.Reset()
	s.Pull(s.Gate(stage.Options{Rego: another("deny", "true")}), orphan.Reference())
	if n := s.Upstream.Count("GET "); n != 0 {
		t.Errorf("a parent that no route serves costs %d requests", n)
	}
}

// While the upstream is away, a verdict from the record is worth what the evidence
// under it is, and the summary of it is the new policy's.
func TestJudgedAgainWithoutUpstream(t *testing.T) {
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	first := s.Pull(s.Gate(stage.Options{}), app.Reference())
	s.Pass(5 * time.Minute)
	g := s.Gate(stage.Options{Rego: another("warn", "true")})
	s.Upstream.Down.Store(true)
	a := s.Pull(g, app.Reference())
	expect(t, a, policy.Annotate, "team.another")
	if a.Verdict.Stale || !a.Verdict.ExpiresAt.Equal(first.Verdict.ExpiresAt) || !a.Verdict.JudgedAt.After(first.Verdict.JudgedAt.Add(4*time.Minute)) {
		t.Errorf("%+v was %+v", a.Verdict, first.Verdict)
	}
	s.Pass(24*time.Hour - 6*time.Minute)
	if a := s.Pull(g, app.Reference()); !a.Verdict.Stale {
		t.Errorf("23 h 59 min after the evidence was gathered: %+v", a.Verdict)
	}
	s.Pass(2 * time.Minute)
	if a, err := s.TryPull(g, app.Reference()); err == nil {
		t.Errorf("a day after the evidence was gathered it is served by %+v", a.Verdict)
	}
}

func TestSummaryIsOfTheNewVerdict(t *testing.T) {
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	s.Pull(s.Gate(stage.Options{}), app.Reference())
	g := s.Gate(stage.Options{Rego: another("deny", "true")})
	a := s.Pull(g, app.Reference())
	expect(t, a, policy.Block, "team.another")
	if result, _ := summary(t, g, app.Name(), app.Digest); result != "FAILED" {
		t.Errorf("the summary says %q", result)
	}
}

// TestExaminationJoins: what is pending in the record has been examined since.
func TestExaminationJoins(t *testing.T) {
	s := stage.New(t)
	tampered := debian(s, "tampered", "tool", "t00l")
	o := stage.Options{Packages: true, Rego: reporting}
	g := s.Gate(o)
	s.Pull(g, tampered.Reference())
	s.Must(g.Close(context.Background())) // which waits for the examination
	o.Rego += "\n# another revision of the rules\n"
	if said := stage.Messages(s.Pull(s.Gate(o), tampered.Reference())); !strings.Contains(said, "modified /usr/bin/tool") {
		t.Errorf("it says %s", said)
	}
}

// A client whom the rules begin to look at is judged as himself, by the evidence
// that there is.
func TestRulesThatBeginToReadTheClient(t *testing.T) {
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	s.Pull(s.Gate(stage.Options{}), app.Reference())
	s.Upstream.Reset()
	g := s.Gate(stage.Options{Rego: another("deny", `input.request.client.address == "192.0.2.66"`)})
	ref, err := oci.ParseReference(app.Reference())
	s.Must(err)
	for address, want := range map[string]policy.Action{"192.0.2.66": policy.Block, "192.0.2.1": policy.Serve, "192.0.2.2": policy.Serve} {
		a, err := g.Admit(t.Context(), gate.Request{Reference: ref, Client: policy.Client{Address: address}})
		s.Must(err)
		if a.Verdict.Action != want {
			t.Errorf("%s: %s", address, a.Verdict.Action)
		}
	}
	if n := fetched(s); n != 0 {
		t.Errorf("%d requests reach the upstream", n)
	}
}

// TestExceptionIsNamed: the decision names the exception that it used, and the
// ledger counts it.
func TestExceptionIsNamed(t *testing.T) {
	s := stage.New(t)
	unsigned := s.Attested(s.Image("unsigned", nil))
	g := s.Gate(stage.Options{Exceptions: []policy.Exception{{
		ID: "ex-one", Code: "signature.missing", Repository: s.Registry.Addr + "/unsigned", Owner: "ops", Reason: "a test", Expires: s.Now().Add(time.Hour),
	}}})
	for range 3 {
		expect(t, s.Pull(g, unsigned.Reference()), policy.Serve, "signature.missing")
	}
	a := s.Pull(g, unsigned.Reference())
	if i := slices.IndexFunc(a.Verdict.Reasons, func(r policy.Reason) bool { return r.Exception == "ex-one" }); i < 0 {
		t.Errorf("the reasons are %+v", a.Verdict.Reasons)
	}
	uses, err := g.Ledger.ExceptionUses(t.Context())
	if err != nil || len(uses) != 1 || uses["ex-one"].Judgements != 1 || uses["ex-one"].Last.IsZero() {
		t.Errorf("the uses are %+v, %v", uses, err)
	}
}
