package proxy_test

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/proxy"
)

func TestBlockSaysWhatWhyAndWhatToDo(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	image := s.Image("acme/unsigned", nil)
	g := s.Gate(stage.Options{})
	for _, protocol := range protocols {
		f := serve(s, protocol, handlerFor(s, g))
		for _, reference := range []string{"1", image.Digest.String()} {
			t.Run(protocol+" "+reference, func(t *testing.T) {
				f := f.in(t)
				path := f.path("acme/unsigned", "manifests", reference)
				a := f.get(path)
				refusal := a.refused(http.StatusForbidden, "DENIED")
				id := a.Header.Get("TrustGate-Decision-Id")
				if id == "" || a.Header.Get("TrustGate-Verdict") != "block" || a.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("headers: %v", a.Header)
				}
				for part, want := range map[string]string{
					"what":       "TrustGate blocked " + image.Name(),
					"why":        "no signature",
					"what to do": " To do: ",
					"decision":   " (decision " + id + ")",
				} {
					if !strings.Contains(refusal.Message, want) {
						t.Errorf("the message does not say %s (%q): %s", part, want, refusal.Message)
					}
				}
				if !strings.HasPrefix(refusal.Detail, id+": ") || !strings.Contains(refusal.Detail, "signature.missing") || len(refusal.Detail) > 300 {
					t.Errorf("detail is %q", refusal.Detail)
				}

				head := f.head(path)
				head.refused(http.StatusForbidden, "DENIED")
				if head.Header.Get("TrustGate-Decision-Id") != id {
					t.Errorf("HEAD is another decision: %s", head.Header.Get("TrustGate-Decision-Id"))
				}
				if text := warnings(t, head.Header); len(text) != 1 || !strings.Contains(text[0], id) {
					t.Errorf("HEAD warns %q", text)
				}
			})
		}
	}
}

// quoted is the value of a Warning header as the specification wants it: the
// code 299, the agent "-", a quoted string, no date.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#warnings
var quoted = regexp.MustCompile(`^299 - "((?:[ !#-\[\]-~]|\\["\\])*)"$`)

// warnings checks the form of every warning and their length together, and
// returns the texts.
func warnings(t *testing.T, header http.Header) []string {
	t.Helper()
	var texts []string
	size := 0
	for _, value := range header.Values("Warning") {
		found := quoted.FindStringSubmatch(value)
		if found == nil {
			t.Fatalf("not a warning that clients read: %q", value)
		}
		size += len(value)
		texts = append(texts, strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(found[1]))
	}
	if size > 4096 {
		t.Errorf("the warnings have %d bytes together", size)
	}
	return texts
}

// wordy is a team's module with more to say than fits, in every kind of
// character.
func wordy(set string) string {
	return `package trustgate.policies.wordy
import rego.v1
` + set + ` contains {"code": sprintf("wordy.%d", [n]), "msg": msg, "solution": solution} if {
	some n in numbers.range(1, 40)
	text := "say \"hello\" \\ and\n\tgo → on… für immer \\"
	msg := sprintf("%d %s", [n, concat("", [text | some _ in numbers.range(1, 40)])])
	solution := sprintf("do %d\r\n\"now\" \\", [n])
}
`
}

func TestMuchToSay(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	s.Trusted(s.Image("app", nil))
	path := []string{"app", "manifests", "1"}
	t.Run("in a block", func(t *testing.T) {
		f := open(s.For(t), stage.Options{Rego: wordy("deny")})
		a := f.get(f.path(path...))
		refusal := a.refused(http.StatusForbidden, "DENIED")
		if id := a.Header.Get("TrustGate-Decision-Id"); len(refusal.Message) > 1500 || !strings.HasSuffix(refusal.Message, " (decision "+id+")") {
			t.Errorf("%d bytes: %s", len(refusal.Message), refusal.Message)
		}
		if len(refusal.Detail) > 300 {
			t.Errorf("detail has %d bytes", len(refusal.Detail))
		}
		if texts := warnings(t, f.head(f.path(path...)).Header); len(texts) != 1 {
			t.Errorf("HEAD warns %q", texts)
		}
	})
	t.Run("in annotations", func(t *testing.T) {
		f := open(s.For(t), stage.Options{Rego: wordy("warn")})
		a := f.get(f.path(path...))
		id := a.Header.Get("TrustGate-Decision-Id")
		texts := warnings(t, a.Header)
		if a.StatusCode != http.StatusOK || len(texts) < 2 {
			t.Fatalf("%s with %d warnings", a.Status, len(texts))
		}
		for _, text := range texts {
			if !strings.HasPrefix(text, "TrustGate: ") || !strings.Contains(text, `say "hello" \ and go -> on... f?r immer \`) || !strings.HasSuffix(text, ", "+id+")") {
				t.Errorf("a warning reads %s", text)
			}
		}
	})
}

func TestAnnotated(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	app := s.Image("app", nil)
	s.Must(s.Registry.Attest(t.Context(), s.CI, app, shipyard.ProvenanceType,
		shipyard.Provenance(stage.Builder, "https://github.com/acme/app", stage.Revision)))
	g := s.Gate(stage.Options{Mode: policy.AnnotateOnly})
	for _, protocol := range protocols {
		f := serve(s, protocol, handlerFor(s, g))
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			t.Run(protocol+" "+method, func(t *testing.T) {
				a := f.in(t).do(method, f.path("app", "manifests", "1"))
				if method == http.MethodGet {
					a.served(app.Digest) // unchanged
				}
				id := a.Header.Get("Trustgate-Decision-Id")
				if a.StatusCode != http.StatusOK || a.Header.Get("Trustgate-Verdict") != "annotate" || id == "" {
					t.Errorf("%s, %v", a.Status, a.Header)
				}
				if got, want := a.Header.Get("Link"), "<https://github.com/acme/app/tree/"+stage.Revision+`>; rel="source"`; got != want {
					t.Errorf("Link is %q, want %q", got, want)
				}
				texts := strings.Join(warnings(t, a.Header), "\n")
				for _, want := range []string{"TrustGate: " + app.Reference() + ": ", "(signature.missing, " + id + ")"} {
					if !strings.Contains(texts, want) {
						t.Errorf("no warning says %q:\n%s", want, texts)
					}
				}
			})
		}
	}
}

func TestServedHasNothingToSay(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	f := open(s, stage.Options{})
	a := f.get(f.path("app", "manifests", "1")).served(app.Digest)
	if a.Header.Get("Trustgate-Verdict") != "serve" || a.Header.Get("Trustgate-Decision-Id") == "" || a.Header.Get("Warning") != "" {
		t.Errorf("%v", a.Header)
	}
	if got := a.Header.Get("Link"); got != "<"+stage.Source+`>; rel="source"` {
		t.Errorf("Link is %q", got)
	}
}

func TestUpstreamOff(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	raw := noise(1000, 7)
	app, layer := carrying(s, "app", raw)
	config, _ := digests(s, app.Content)
	s.Trusted(s.Image("new", nil))
	f := open(s, stage.Options{})
	for _, reference := range []string{"1", app.Digest.String()} { // as clients ask
		f.get(f.path("app", "manifests", reference)).served(app.Digest)
	}
	f.get(f.path("app", "blobs", layer.String())).served(layer)

	s.Upstream.Down.Store(true)
	s.Pass(time.Hour) // tag and verdict are long past their terms
	for _, path := range []string{
		f.path("new", "manifests", "1"),
		f.path("new", "tags", "list"),
		f.path("app", "referrers", app.Digest.String()),
	} {
		t.Run("new, "+path, func(t *testing.T) {
			a := f.in(t).get(path)
			refusal := a.refused(http.StatusServiceUnavailable, "DENIED")
			if a.Header.Get("Retry-After") == "" || !strings.Contains(refusal.Message, "cannot be judged now") {
				t.Errorf("Retry-After %q, %s", a.Header.Get("Retry-After"), refusal.Message)
			}
		})
	}
	t.Run("what was admitted is served", func(t *testing.T) {
		f := f.in(t)
		f.get(f.path("app", "manifests", "1")).served(app.Digest)
		f.get(f.path("app", "manifests", app.Digest.String())).served(app.Digest)
		if a := f.head(f.path("app", "manifests", "1")); a.StatusCode != http.StatusOK {
			t.Errorf("HEAD: %s", a.Status)
		}
		f.get(f.path("app", "blobs", layer.String())).served(layer)
		f.get(f.path("app", "blobs", config.String())).served(config)
	})
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	_, d := carrying(s, "app", noise(512<<10, 8))
	s.Image("unsigned", nil)
	registry := prometheus.NewRegistry()
	f := serve(s, "HTTP/1.1", handlerFor(s, s.Gate(stage.Options{}), func(o *proxy.Options) { o.Metrics = proxy.NewMetrics(registry) }))
	f.get("/v2/")
	f.get(f.path("app", "manifests", "1"))
	f.get(f.path("app", "manifests", "1"))
	f.get(f.path("unsigned", "manifests", "1"))
	f.get("/elsewhere")

	h := hold(s, d, 256<<10) // a blob that is cut short
	resp, err := f.client.Get(f.base + f.path("app", "blobs", d.String()))
	s.Must(err)
	defer resp.Body.Close()
	_, err = io.ReadFull(resp.Body, make([]byte, 64<<10))
	s.Must(err)
	close(h.cut)
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the blob is whole")
	}
	f.server.Close() // which waits until it has been counted

	families, err := registry.Gather()
	s.Must(err)
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			key := family.GetName() + " " + strings.ReplaceAll(strings.Join(labels, " "), s.Registry.Addr, "registry")
			if h := m.GetHistogram(); h != nil {
				got[key] = float64(h.GetSampleCount())
			} else {
				got[key] = m.GetCounter().GetValue()
			}
		}
	}
	for key, want := range map[string]float64{
		"trustgate_requests_total base 200":     1,
		"trustgate_requests_total manifest 200": 2,
		"trustgate_requests_total manifest 403": 1,
		"trustgate_requests_total unknown 404":  1,
		"trustgate_requests_total blob 200":     1,
		"trustgate_request_seconds manifest":    3,
		"trustgate_request_seconds blob":        1,
		"trustgate_pulls_total serve registry":  2,
		"trustgate_pulls_total block registry":  1,
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
}
