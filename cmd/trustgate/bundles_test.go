package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/compile"

	"github.com/trustgate/trustgate/cmd/trustgate/demo"
	"github.com/trustgate/trustgate/internal/loopback"
	"github.com/trustgate/trustgate/internal/shipyard"
)

// TestPolicyFromAServer: a gate that runs waits for its bundle, judges by it and by
// the next, keeps it when a broken one comes, and logs what it decides.
func TestPolicyFromAServer(t *testing.T) {
	policies := newBundleServer(t)
	var public, admin string
	for _, address := range []*string{&public, &admin} {
		var err error
		if *address, err = loopback.Address(); err != nil {
			t.Fatal(err)
		}
	}
	scene, err := demo.Set(t.Context(), public, admin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { scene.Close() })
	policies.configure(scene.Config)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var log bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"serve", "-c", scene.Config}, strings.NewReader(""), io.Discard, &log)
	}()
	shop, ready := "http://"+public+"/v2/shop/manifests/1", "http://"+admin+"/readyz"
	expect(t, "http://"+admin+"/healthz", http.StatusOK, "ok")
	expect(t, ready, http.StatusServiceUnavailable, "waiting for the policy's bundles")

	policies.serve("one", "mallory")
	expect(t, shop, http.StatusOK, "")
	expect(t, ready, http.StatusOK, "ok")
	policies.serve("two", "shop")
	blocked := expect(t, shop, http.StatusForbidden, "closed for the night")
	policies.awaitDecision(blocked.Get("TrustGate-Decision-Id"), "two")

	policies.put(policies.build("broken", "package trustgate.lib\n\nx := 1\n"))
	expect(t, ready, http.StatusOK, "not in force: bundle acme: bundle:acme/rule.rego:1:1: package trustgate.lib: ")
	expect(t, "http://"+admin+"/metrics", http.StatusOK, "trustgate_policy_bundles_in_force 0")
	expect(t, shop, http.StatusForbidden, "closed for the night")
	policies.serve("three", "mallory")
	expect(t, shop, http.StatusOK, "")
	expect(t, "http://"+admin+"/metrics", http.StatusOK, "trustgate_policy_bundles_in_force 1")
	stop()
	if code := <-ended; code != exitServed {
		t.Errorf("it ends with %d: %s", code, &log)
	}
}

// TestCommandsLookAtTheServerOnce: what a command judges by is what the server has,
// or what it had.
func TestCommandsLookAtTheServerOnce(t *testing.T) {
	policies := newBundleServer(t)
	scene, err := demo.Set(t.Context(), "127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { scene.Close() })
	policies.configure(scene.Config)
	policies.serve("one", "shop")
	command := func(want int, says string, args ...string) {
		t.Helper()
		var out bytes.Buffer
		got := run(t.Context(), append([]string{"-c", scene.Config}, args...), strings.NewReader(""), &out, &out)
		if got != want || !strings.Contains(out.String(), says) {
			t.Errorf("%v ends with %d: %s", args, got, &out)
		}
	}
	command(exitBlocked, "policy of the bundles acme one\n", "inspect", "registry.acme.example/shop:1")
	command(exitBlocked, "closed for the night", "policy", "eval", "registry.acme.example/shop:1")
	command(exitServed, "acme.closed", "policy", "check")
	command(exitServed, "the bundles of policy.opa are not fetched", "config", "check")
	policies.Close()
	command(exitBlocked, "as they were persisted earlier", "policy", "eval", "registry.acme.example/shop:1")
	if err := os.RemoveAll(filepath.Join(filepath.Dir(scene.Config), "data", "opa")); err != nil {
		t.Fatal(err)
	}
	command(exitError, "policy.opa: the bundle acme of the policy: ", "policy", "eval", "registry.acme.example/shop:1")
}

// expect asks until the answer is as it must be, and returns its headers.
func expect(t testing.TB, url string, status int, text string) http.Header {
	t.Helper()
	seen := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		answer, err := http.Get(url)
		if err != nil {
			seen = err.Error()
			continue
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err == nil && answer.StatusCode == status && strings.Contains(string(body), text) {
			return answer.Header
		}
		seen = fmt.Sprintf("%s: %s", answer.Status, body)
	}
	t.Fatalf("%s: %s, want %d with %q", url, seen, status, text)
	return nil
}

// bundleServer serves a signed bundle as a storage service does, and takes OPA's
// decision log.
type bundleServer struct {
	*httptest.Server
	t               testing.TB
	public, private string

	mu      sync.Mutex
	bundle  []byte
	decided map[string]string // revisions of the bundle, by decision
}

func newBundleServer(t testing.TB) *bundleServer {
	t.Helper()
	public, private, err := shipyard.Pair()
	if err != nil {
		t.Fatal(err)
	}
	s := &bundleServer{t: t, decided: map[string]string{}, public: public, private: private}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// configure has the configuration take its policy from here.
func (s *bundleServer) configure(file string) {
	s.t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	with := strings.Replace(string(raw), "policy:\n", fmt.Sprintf(`policy:
  opa:
    services: {policies: {url: %q}}
    keys: {acme: {algorithm: ES256, key: acme.pub}}
    bundles:
      acme:
        service: policies
        resource: acme.tar.gz
        persist: true
        signing: {keyid: acme}
        polling: {min_delay_seconds: 1, max_delay_seconds: 1}
    decision_logs: {service: policies, reporting: {min_delay_seconds: 1, max_delay_seconds: 1}}
`, s.URL), 1)
	if with == string(raw) {
		s.t.Fatal("the scene's configuration has no policy")
	}
	for name, content := range map[string]string{file: with, filepath.Join(filepath.Dir(file), "acme.pub"): s.public} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// serve makes the bundle one that closes a repository.
func (s *bundleServer) serve(revision, closed string) {
	s.t.Helper()
	s.put(s.build(revision, `package trustgate.policies.closed

# METADATA
# title: Closed
# custom: {code: acme.closed}
deny contains {"code": "acme.closed", "msg": "closed for the night"} if input.image.repository == "`+closed+`"
`))
}

func (s *bundleServer) build(revision, rego string) []byte {
	s.t.Helper()
	var out bytes.Buffer
	err := compile.New().
		WithFS(fstest.MapFS{"bundle/rule.rego": &fstest.MapFile{Data: []byte(rego), Mode: 0o644}}).
		WithPaths("bundle").WithAsBundle(true).WithRevision(revision).WithOutput(&out).
		WithBundleSigningConfig(bundle.NewSigningConfig(s.private, "ES256", "")).WithBundleVerificationKeyID("acme").
		Build(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return out.Bytes()
}

func (s *bundleServer) put(raw []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bundle = raw
}

func (s *bundleServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/logs":
		unpacked, err := gzip.NewReader(r.Body)
		if err != nil {
			s.t.Errorf("a log that is not packed: %v", err)
			return
		}
		var events []struct {
			ID      string `json:"decision_id"`
			Path    string `json:"path"`
			Bundles map[string]struct {
				Revision string `json:"revision"`
			} `json:"bundles"`
		}
		if err := json.NewDecoder(unpacked).Decode(&events); err != nil {
			s.t.Errorf("a log that cannot be read: %v", err)
		}
		for _, e := range events {
			if e.Path != "trustgate/decision" {
				s.t.Errorf("a decision of %s", e.Path)
			}
			s.decided[e.ID] = e.Bundles["acme"].Revision
		}
	case r.Method == http.MethodGet && s.bundle != nil:
		sum := sha256.Sum256(s.bundle)
		w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.bundle))
	default:
		http.NotFound(w, r)
	}
}

// awaitDecision waits until the decision was logged, with the bundle's revision.
func (s *bundleServer) awaitDecision(id, revision string) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		s.mu.Lock()
		got, ok := s.decided[id]
		s.mu.Unlock()
		if ok {
			if got != revision {
				s.t.Errorf("the decision %s was made by the bundle %s, want %s", id, got, revision)
			}
			return
		}
	}
	s.t.Fatalf("the decision %q was not logged", id)
}
