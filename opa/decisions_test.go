package opa_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/trustgate/trustgate/opa"
	"github.com/trustgate/trustgate/policy"
)

// logged is an event of OPA's decision log, as far as it matters here.
type logged struct {
	DecisionID string            `json:"decision_id"`
	Path       string            `json:"path"`
	Labels     map[string]string `json:"labels"`
	Bundles    map[string]struct {
		Revision string `json:"revision"`
	} `json:"bundles"`
	Input       json.RawMessage   `json:"input"`
	Result      policy.Decision   `json:"result"`
	Erased      []string          `json:"erased"`
	RequestedBy string            `json:"requested_by"`
	Timestamp   time.Time         `json:"timestamp"`
	Custom      map[string]string `json:"custom"`
}

func TestDecisionsAreLoggedMaskedAndDropped(t *testing.T) {
	t.Parallel()
	shelf := newShelf(t)
	shelf.put("acme.tar.gz", build(t, "one", map[string]string{
		"acme/rule.rego": rule("acme.one"),
		"system/mask.rego": `package system.log

mask contains "/input/request/client/address"
`,
		"system/drop.rego": `package system.log

drop if input.input.image.repository == "library/health"
`,
	}))
	r := start(t, options(t, shelf.section(map[string]any{
		"labels":        map[string]any{"region": "eu"},
		"decision_logs": map[string]any{"service": "shelf", "reporting": map[string]any{"min_delay_seconds": 1, "max_delay_seconds": 1}},
	}), t.TempDir()))
	await(t, r)
	engine, err := policy.Load(t.Context(), policy.Options{Bundles: r.Current()})
	if err != nil {
		t.Fatal(err)
	}
	log := r.Decisions(engine.Revision(), r.Current())
	at := time.Date(2026, 6, 1, 12, 0, 0, 5, time.UTC)
	decide := func(id, repository string) {
		input := &policy.Input{
			Request: policy.Request{Client: policy.Client{Address: "192.0.2.7", UserAgent: "docker"}, Route: "docker.io", Time: at},
			Image:   policy.Image{Kind: "image", Registry: "docker.io", Repository: repository},
		}
		made, err := engine.Decide(t.Context(), input)
		if err != nil {
			t.Fatal(err)
		}
		log.Decided(id, at, input, made)
	}
	decide("tg-dropped", "library/health")
	decide("tg-kept", "library/nginx")

	events := uploaded(t, shelf, 1)
	e := events[0]
	if e.DecisionID != "tg-kept" || e.Path != "trustgate/decision" || !e.Timestamp.Equal(at) || e.Labels["region"] != "eu" {
		t.Errorf("the event is %+v", e)
	}
	if e.Bundles["acme"].Revision != "one" || e.Custom["policy_revision"] != engine.Revision() {
		t.Errorf("it names the bundles %v and the policy %v", e.Bundles, e.Custom)
	}
	if e.Result.Action != policy.Block || !strings.Contains(string(e.Input), `"user_agent":"docker"`) {
		t.Errorf("its result is %+v, its input %s", e.Result, e.Input)
	}
	if strings.Contains(string(e.Input), "192.0.2.7") || len(e.Erased) != 1 || e.RequestedBy != "" {
		t.Errorf("it is not masked: %s, erased %v", e.Input, e.Erased)
	}
}

// uploaded waits for so many events.
func uploaded(t testing.TB, s *shelf, n int) []logged {
	t.Helper()
	var events []logged
	patience := time.After(time.Minute)
	for len(events) < n {
		select {
		case p := <-s.posted:
			if p.path != "/logs" {
				continue
			}
			unpacked, err := gzip.NewReader(bytes.NewReader(p.body))
			if err != nil || p.header.Get("Content-Encoding") != "gzip" {
				t.Fatalf("an upload with %v: %v", p.header, err)
			}
			var some []logged
			if err := json.NewDecoder(unpacked).Decode(&some); err != nil {
				t.Fatal(err)
			}
			events = append(events, some...)
		case <-patience:
			t.Fatalf("only %d events were uploaded", len(events))
		}
	}
	return events
}

func TestDecisionsAreUploadedBeforeTheEnd(t *testing.T) {
	t.Parallel()
	shelf := newShelf(t)
	r, err := opa.Start(t.Context(), options(t, map[string]any{
		"services":      map[string]any{"shelf": map[string]any{"url": shelf.URL}},
		"decision_logs": map[string]any{"service": "shelf", "reporting": map[string]any{"min_delay_seconds": 3000, "max_delay_seconds": 3600}},
	}, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	await(t, r) // for nothing: there are no bundles
	log := r.Decisions("sha256:one", r.Current())
	for _, id := range []string{"tg-a", "tg-b"} {
		log.Decided(id, time.Now(), &policy.Input{}, policy.Decision{Action: policy.Serve})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if events := uploaded(t, shelf, 2); events[0].DecisionID != "tg-a" || events[1].DecisionID != "tg-b" {
		t.Errorf("it uploads %+v", events)
	}
}

func TestDecisionsNeverWaitForTheLog(t *testing.T) {
	t.Parallel()
	shelf := newShelf(t)
	shelf.put("acme.tar.gz", build(t, "one", map[string]string{
		"acme/rule.rego": rule("acme.one"),
		// It takes longer than any test.
		"system/mask.rego": "package system.log\n\nmask contains \"/input\" if {\n\tr := numbers.range(1, 2000)\n\tcount([1 | some i in r; some j in r; some k in r; i + j + k < 0]) > 0\n}\n",
	}))
	o := options(t, shelf.section(map[string]any{"decision_logs": map[string]any{"service": "shelf"}}), t.TempDir())
	r, err := opa.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	await(t, r)
	log := r.Decisions("sha256:one", r.Current())
	for range 2000 {
		log.Decided("tg-a", time.Now(), &policy.Input{}, policy.Decision{})
	}
	if metric(t, o, "trustgate_decision_log_dropped_total") == 0 {
		t.Error("it is said that none was dropped")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = r.Close(ctx) // it cannot end in order
}
