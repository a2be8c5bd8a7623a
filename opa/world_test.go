package opa_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/compile"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/opa"
	"github.com/trustgate/trustgate/policy"
)

// rule is a module that blocks by the code.
func rule(code string) string {
	return `package trustgate.policies.acme

# METADATA
# title: Not from acme
# custom: {code: ` + code + `}
deny contains {"code": "` + code + `", "msg": "not from acme"} if not startswith(input.image.repository, "acme/")
`
}

// build is what opa build makes of the files.
func build(t testing.TB, revision string, files map[string]string, more ...func(*compile.Compiler) *compile.Compiler) []byte {
	t.Helper()
	tree := fstest.MapFS{}
	for name, content := range files {
		tree["bundle/"+name] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	var out bytes.Buffer
	c := compile.New().WithFS(tree).WithPaths("bundle").WithAsBundle(true).WithRevision(revision).WithOutput(&out).WithRegoVersion(ast.RegoV1)
	for _, option := range more {
		c = option(c)
	}
	if err := c.Build(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// key is a pair for signatures on bundles.
type key struct{ public, private string }

func newKey(t testing.TB) key {
	t.Helper()
	public, private, err := shipyard.Pair()
	if err != nil {
		t.Fatal(err)
	}
	return key{public: public, private: private}
}

func (k key) sign(c *compile.Compiler) *compile.Compiler {
	return c.WithBundleSigningConfig(bundle.NewSigningConfig(k.private, "ES256", "")).WithBundleVerificationKeyID("acme")
}

// shelf serves files with an ETag, as a storage service does, and takes what is
// posted.
type shelf struct {
	*httptest.Server
	t     testing.TB
	token string // what Authorization must be; "" asks for nothing

	mu      sync.Mutex
	files   map[string][]byte
	matched int // requests that were answered with 304
	posted  chan post
}

type post struct {
	path   string
	header http.Header
	body   []byte
}

func newShelf(t testing.TB) *shelf {
	s := &shelf{t: t, files: map[string][]byte{}, posted: make(chan post, 64)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *shelf) put(name string, raw []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = raw
}

func (s *shelf) unchanged() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.matched
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		select {
		case s.posted <- post{r.URL.Path, r.Header.Clone(), body.Bytes()}:
		default: // nobody waits for it
		}
		return
	}
	if s.token != "" && r.Header.Get("Authorization") != s.token {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, ok := s.files[strings.TrimPrefix(r.URL.Path, "/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	sum := sha256.Sum256(raw)
	etag := `"` + hex.EncodeToString(sum[:]) + `"`
	w.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		s.matched++
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(raw))
}

// section is a configuration that takes the bundle acme from the shelf, once a
// second, with the given members beside it.
func (s *shelf) section(more map[string]any) map[string]any {
	section := map[string]any{
		"services": map[string]any{"shelf": map[string]any{"url": s.URL}},
		"bundles": map[string]any{"acme": map[string]any{
			"service": "shelf", "resource": "acme.tar.gz",
			"polling": map[string]any{"min_delay_seconds": 1, "max_delay_seconds": 1},
		}},
	}
	maps.Copy(section, more)
	return section
}

// signed demands a signature by the key of the bundle acme.
func signed(section map[string]any, by key) map[string]any {
	section["keys"] = map[string]any{"acme": map[string]any{"algorithm": "ES256", "key": by.public}}
	section["bundles"].(map[string]any)["acme"].(map[string]any)["signing"] = map[string]any{"keyid": "acme"}
	return section
}

func options(t testing.TB, section map[string]any, folder string) opa.Options {
	t.Helper()
	config, err := opa.Read(section, folder, folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	return opa.Options{Config: config, Accept: accept, Metrics: prometheus.NewRegistry()}
}

// accept demands what the program does without the shipped rules, which take their
// time.
func accept(ctx context.Context, b *policy.Bundles) error {
	_, err := policy.Load(ctx, policy.Options{Bundles: b})
	return err
}

// acceptBeside has the shipped rules judge too.
func acceptBeside(ctx context.Context, b *policy.Bundles) error {
	_, err := policy.Load(ctx, policy.Options{Builtin: true, Bundles: b})
	return err
}

func start(t testing.TB, o opa.Options) *opa.Remote {
	t.Helper()
	r, err := opa.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

func await(t testing.TB, r *opa.Remote) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.Await(ctx); err != nil {
		t.Fatal(err)
	}
}

// until waits for something that OPA does in the background.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen: " + what)
		}
	}
}

// codes are those of the rules that are not shipped.
func codes(t testing.TB, b *policy.Bundles) string {
	t.Helper()
	engine, err := policy.Load(t.Context(), policy.Options{Bundles: b})
	if err != nil {
		t.Fatal(err)
	}
	var own []string
	for _, r := range engine.Rules() {
		if !strings.HasPrefix(r.File, "trustgate:") {
			own = append(own, r.Code)
		}
	}
	return strings.Join(own, " ")
}

// metric is the value of one without labels.
func metric(t testing.TB, o opa.Options, name string) float64 {
	t.Helper()
	families, err := o.Metrics.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			one := f.GetMetric()[0]
			return one.GetGauge().GetValue() + one.GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}
