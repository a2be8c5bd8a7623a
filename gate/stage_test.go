package gate_test

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/buildkit"
	"github.com/trustgate/trustgate/evidence/openpgp"
	"github.com/trustgate/trustgate/evidence/provenance"
	"github.com/trustgate/trustgate/evidence/sigstore"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/upstream"
)

const (
	builder  = "https://ci.example/builder"
	source   = "https://git.example/acme/app"
	revision = "0123456789abcdef0123456789abcdef01234567"
)

// stage is a real registry, keys, and gates in front of it that share a folder,
// as one program does before and after a restart.
type stage struct {
	testing.TB
	registry  *shipyard.Registry
	ci        *shipyard.Key // signs images and provenance
	stranger  *shipyard.Key // known to nobody
	release   *shipyard.PGP
	lookaside shipyard.Lookaside
	requests  *requests
	folder    string
	offset    atomic.Int64 // of the gate's clock
}

func newStage(t testing.TB) *stage {
	t.Helper()
	s := &stage{TB: t, requests: &requests{}, folder: t.TempDir()}
	registry, err := shipyard.OpenRegistry(context.Background(), s.requests.watch)
	s.must(err)
	s.registry = registry
	t.Cleanup(func() { registry.Close() })
	s.ci, err = shipyard.NewKey()
	s.must(err)
	s.stranger, err = shipyard.NewKey()
	s.must(err)
	s.release, err = shipyard.NewPGP("Release", "release@acme.example")
	s.must(err)
	s.lookaside = shipyard.Lookaside{Folder: filepath.Join(s.folder, "lookaside")}
	return s
}

func (s *stage) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *stage) now() time.Time { return time.Now().Add(time.Duration(s.offset.Load())) }

// pass lets time pass for the gate.
func (s *stage) pass(d time.Duration) { s.offset.Add(int64(d)) }

// options may change the parts of the gate that a test is about.
type options struct {
	mode      policy.Mode
	rego      string // a team's own module
	roots     []gate.Root
	depth     int
	nodes     int
	platforms []oci.Platform
	log       *zap.Logger
}

// gate opens a gate over the stage's folder.
func (s *stage) gate(o options) *gate.Gate {
	s.Helper()
	ctx := context.Background()
	if o.mode == "" {
		o.mode = policy.Enforce
	}
	if o.depth == 0 {
		o.depth = 16
	}
	if o.nodes == 0 {
		o.nodes = 256
	}
	if o.log == nil {
		o.log = zaptest.NewLogger(s, zaptest.Level(zap.WarnLevel))
	}
	if o.platforms == nil {
		o.platforms = []oci.Platform{{OS: "linux", Architecture: "amd64"}}
	}

	pem, err := s.ci.PublicPEM()
	s.must(err)
	ci, err := sigstore.LoadKey("ci", pem)
	s.must(err)
	keyring, err := s.release.Public()
	s.must(err)
	release, err := openpgp.LoadSigner("release", keyring)
	s.must(err)
	limits := evidence.Limits{Attestation: 1 << 20, Signatures: 64, Referrers: 256}
	lookaside, err := openpgp.NewLookaside("file://"+s.lookaside.Folder, nil, limits)
	s.must(err)

	up, err := upstream.New(upstream.Options{Registry: s.registry.Addr, URL: "http://" + s.registry.Addr, Insecure: true})
	s.must(err)
	driver, err := cache.OpenDriver("filesystem", map[string]any{"rootdirectory": filepath.Join(s.folder, "cache")})
	s.must(err)
	content, err := cache.Open(ctx, cache.Options{Driver: driver, Root: filepath.Join(s.folder, "cache"), Spool: filepath.Join(s.folder, "spool")})
	s.must(err)
	book, err := ledger.Open(ctx, "sqlite:"+filepath.Join(s.folder, "ledger.db"))
	s.must(err)

	engineOptions := policy.Options{Builtin: true, Config: map[string]any{
		"routes": map[string]any{s.registry.Addr: map[string]any{"mode": string(o.mode)}},
	}}
	if o.rego != "" {
		engineOptions.Paths = []string{s.write("team.rego", o.rego)}
	}
	engine, err := policy.Load(ctx, engineOptions)
	s.must(err)

	g, err := gate.New(gate.Options{
		Routes: []gate.Route{{Registry: s.registry.Addr, Upstream: up, Collectors: []evidence.Collector{
			sigstore.New([]sigstore.Signer{ci}),
			openpgp.New([]openpgp.Signer{release}, []openpgp.Store{lookaside}, nil),
			buildkit.New(),
		}}},
		Judge: engine,
		Trust: gate.Trust{
			Builders: []provenance.Builder{{ID: builder, Signers: []string{"ci"}}},
			Sources:  []string{"https://git.example/acme/*"},
			Roots:    o.roots, Revision: "test",
		},
		Cache: content, Ledger: book, Platforms: o.platforms,
		Lifetimes: gate.Lifetimes{
			Serve: 10 * time.Minute, Block: 30 * time.Second, Tag: 30 * time.Second, Stale: 24 * time.Hour,
			Deadline: 20 * time.Second, Depth: o.depth,
		},
		Limits: gate.Limits{Evidence: limits, Config: 1 << 20, Parents: 32, Nodes: o.nodes},
		Log:    o.log, Now: s.now,
	})
	s.must(err)
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.must(g.Close(ctx))
		s.must(content.Close())
		s.must(book.Close())
	})
	return g
}

func (s *stage) write(name, content string) string {
	path := filepath.Join(s.TempDir(), name)
	s.must(writeFile(path, content))
	return path
}

// image publishes an image with one layer of its own on top of base.
func (s *stage) image(repository string, base *shipyard.Image) *shipyard.Image {
	s.Helper()
	built, err := shipyard.Build(base, map[string]string{"bin/" + strings.ReplaceAll(repository, "/", "-"): "content of " + repository})
	s.must(err)
	return s.push(repository, "1", built)
}

func (s *stage) push(repository, tag string, image v1.Image) *shipyard.Image {
	s.Helper()
	pushed, err := s.registry.Push(context.Background(), repository, tag, image)
	s.must(err)
	return pushed
}

// trusted signs the image and attests how it was built.
func (s *stage) trusted(image *shipyard.Image, materials ...*shipyard.Image) *shipyard.Image {
	s.Helper()
	s.must(s.registry.Sign(context.Background(), s.ci, image))
	return s.attested(image, materials...)
}

func (s *stage) attested(image *shipyard.Image, materials ...*shipyard.Image) *shipyard.Image {
	s.Helper()
	s.must(s.registry.Attest(context.Background(), s.ci, image, shipyard.ProvenanceType,
		shipyard.Provenance(builder, source, revision, materials...)))
	return image
}

// pull admits registry/repository:tag or @digest.
func (s *stage) pull(g *gate.Gate, reference string) *gate.Admission {
	s.Helper()
	a, err := s.tryPull(g, reference)
	s.must(err)
	if !a.Verdict.Blocked() && digest.FromBytes(a.Manifest.Raw) != a.Reference.Digest() {
		s.Fatalf("the bytes of %s are not those that were judged", reference)
	}
	return a
}

func (s *stage) tryPull(g *gate.Gate, reference string) (*gate.Admission, error) {
	s.Helper()
	ref, err := oci.ParseReference(reference)
	s.must(err)
	return g.Admit(context.Background(), gate.Request{Reference: ref, Client: policy.Client{Address: "192.0.2.1"}})
}

func codes(a *gate.Admission) string {
	var list []string
	for _, r := range a.Verdict.Reasons {
		list = append(list, r.Code)
	}
	return strings.Join(list, " ")
}

func messages(a *gate.Admission) string {
	var list []string
	for _, r := range a.Verdict.Reasons {
		list = append(list, r.Msg)
	}
	return strings.Join(list, "\n")
}

// requests counts what reaches the upstream, and can cut it off.
type requests struct {
	mu    sync.Mutex
	paths map[string]int
	down  atomic.Bool
}

func (q *requests) watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q.down.Load() {
			panic(http.ErrAbortHandler)
		}
		q.mu.Lock()
		if q.paths == nil {
			q.paths = map[string]int{}
		}
		q.paths[r.Method+" "+r.URL.Path]++
		q.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

func (q *requests) count(prefix string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for path, times := range q.paths {
		if strings.HasPrefix(path, prefix) {
			n += times
		}
	}
	return n
}

func (q *requests) reset() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paths = nil
}
