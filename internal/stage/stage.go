// Package stage sets up whole gates for tests: a real registry, real keys, and
// a gate in front with its cache, ledger and policy in a temporary folder.
package stage

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/trustgate/trustgate/attest"
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

// The builder, source and revision that Attested claims; the gate trusts the
// first two.
const (
	Builder  = "https://ci.example/builder"
	Source   = "https://git.example/acme/app"
	Revision = "0123456789abcdef0123456789abcdef01234567"
)

// releaseKey is made once, since RSA takes its time.
var releaseKey = sync.OnceValues(func() (*shipyard.PGP, error) { return shipyard.NewPGP("Release", "release@acme.example") })

// Stage is a real registry, keys, and gates in front of it that share a folder,
// as one program does before and after a restart.
type Stage struct {
	testing.TB
	Registry  *shipyard.Registry
	CI        *shipyard.Key // signs images and provenance
	Stranger  *shipyard.Key // known to nobody
	Release   *shipyard.PGP
	Lookaside shipyard.Lookaside
	Upstream  *Requests    // what reaches the registry
	Folder    string       // of cache, ledger and signatures
	offset    atomic.Int64 // of the gate's clock
}

// New starts the registry and makes the keys.
func New(t testing.TB) *Stage {
	t.Helper()
	s := &Stage{TB: t, Upstream: &Requests{}, Folder: t.TempDir()}
	registry, err := shipyard.OpenRegistry(context.Background(), s.Upstream.Watch)
	s.Must(err)
	s.Registry = registry
	t.Cleanup(func() { registry.Close() })
	s.CI, err = shipyard.NewKey()
	s.Must(err)
	s.Stranger, err = shipyard.NewKey()
	s.Must(err)
	s.Release, err = releaseKey()
	s.Must(err)
	s.Lookaside = shipyard.Lookaside{Folder: filepath.Join(s.Folder, "lookaside")}
	s.Must(os.Mkdir(s.Lookaside.Folder, 0o755))
	return s
}

// Must fails the test on an error.
func (s *Stage) Must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// Now is the gate's clock.
func (s *Stage) Now() time.Time { return time.Now().Add(time.Duration(s.offset.Load())) }

// Pass lets time pass for the gate.
func (s *Stage) Pass(d time.Duration) { s.offset.Add(int64(d)) }

// Options change the parts of the gate that a test is about.
type Options struct {
	Mode       policy.Mode
	Rego       string   // a team's own module
	Docker     string   // a build policy of Docker's
	Names      []string // further registries, whose upstream is the same one
	Through    string   // host:port that is dialled in place of the registry
	Roots      []gate.Root
	Depth      int
	Nodes      int
	Judgements int
	Deadline   time.Duration
	Turn       time.Duration
	Platforms  []oci.Platform
	Packages   bool // examine them
	Source     gate.TagFinder
	Decisions  gate.DecisionLog
	Candidate  string            // a team's module of a policy that is only tried
	Trial      func(*gate.Trial) // changes what the candidate is made of
	Succeeds   *gate.Gate
	Gathering  string
	Exceptions []policy.Exception
	Log        *zap.Logger
}

// Gate opens a gate over the stage's folder.
func (s *Stage) Gate(o Options) *gate.Gate {
	s.Helper()
	ctx := context.Background()
	if o.Mode == "" {
		o.Mode = policy.Enforce
	}
	if o.Depth == 0 {
		o.Depth = 16
	}
	if o.Nodes == 0 {
		o.Nodes = 256
	}
	if o.Deadline == 0 {
		o.Deadline = 20 * time.Second
	}
	if o.Log == nil {
		o.Log = zaptest.NewLogger(s, zaptest.Level(zap.WarnLevel))
	}
	if o.Platforms == nil {
		o.Platforms = []oci.Platform{{OS: "linux", Architecture: "amd64"}}
	}

	pem, err := s.CI.PublicPEM()
	s.Must(err)
	ci, err := sigstore.LoadKey("ci", pem)
	s.Must(err)
	keyring, err := s.Release.Public()
	s.Must(err)
	release, err := openpgp.LoadSigner("release", keyring)
	s.Must(err)
	limits := evidence.Limits{Attestation: 1 << 20, Signatures: 64, Referrers: 256}
	lookaside, err := openpgp.NewLookaside("file://"+s.Lookaside.Folder, nil, limits)
	s.Must(err)

	s.Must(os.MkdirAll(filepath.Join(s.Folder, "kept"), 0o755))
	kept, err := openpgp.NewLookaside("file://"+filepath.Join(s.Folder, "kept"), nil, limits)
	s.Must(err)
	signatures := openpgp.New([]openpgp.Signer{release}, []openpgp.Store{lookaside, kept}, nil)
	collectors := []evidence.Collector{sigstore.New([]sigstore.Signer{ci}), signatures, buildkit.New()}
	key, err := attest.OpenKey(filepath.Join(s.Folder, "verdicts.key"))
	s.Must(err)
	if o.Through == "" {
		o.Through = s.Registry.Addr
	}
	var routes []gate.Route
	modes := map[string]any{}
	for _, name := range append([]string{s.Registry.Addr}, o.Names...) {
		up, err := upstream.New(upstream.Options{Registry: name, URL: "http://" + o.Through, Insecure: true})
		s.Must(err)
		routes = append(routes, gate.Route{Registry: name, Upstream: up, Collectors: collectors, Signatures: gate.Signatures{Collector: signatures, Kept: kept}})
		if o.Mode != policy.Enforce { // which is the mode of a route without one
			modes[name] = map[string]any{"mode": string(o.Mode)}
		}
	}
	driver, err := cache.OpenDriver("filesystem", map[string]any{"rootdirectory": filepath.Join(s.Folder, "cache")})
	s.Must(err)
	content, err := cache.Open(ctx, cache.Options{Driver: driver, Root: filepath.Join(s.Folder, "cache"), Spool: filepath.Join(s.Folder, "spool")})
	s.Must(err)
	book, err := ledger.Open(ctx, "sqlite:"+filepath.Join(s.Folder, "ledger.db"))
	s.Must(err)

	engineOptions := policy.Options{Builtin: true, Collections: []string{"trusted-builds"}, Config: map[string]any{"routes": modes}, Exceptions: o.Exceptions}
	engine := s.engine(engineOptions, o.Rego, o.Docker)
	var candidate *gate.Trial
	if o.Candidate != "" {
		candidate = &gate.Trial{Judge: s.engine(engineOptions, o.Candidate, o.Docker)}
		if o.Trial != nil {
			o.Trial(candidate)
		}
	}

	g, err := gate.New(gate.Options{
		Routes: routes, Judge: engine,
		Trust: gate.Trust{
			Builders: []provenance.Builder{{ID: Builder, Signers: []string{"ci"}}},
			Sources:  []string{"https://git.example/acme/*"},
			Roots:    o.Roots, Revision: "test",
		},
		Source:    o.Source,
		Decisions: o.Decisions,
		Gathering: o.Gathering, Trial: candidate, Succeeds: o.Succeeds,
		Packages:  gate.Packages{Examine: o.Packages},
		Summaries: gate.Summaries{Key: key, Verifier: "https://gate.example/", Version: "test"},
		Cache:     content, Ledger: book, Platforms: o.Platforms,
		Lifetimes: gate.Lifetimes{
			Serve: 10 * time.Minute, Block: 30 * time.Second, Tag: 30 * time.Second, Stale: 24 * time.Hour,
			Deadline: o.Deadline, Turn: o.Turn, Depth: o.Depth,
		},
		Limits: gate.Limits{Evidence: limits, Config: 1 << 20, Parents: 32, Nodes: o.Nodes, Judgements: o.Judgements},
		Log:    o.Log, Now: s.Now,
	})
	s.Must(err)
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Must(g.Close(ctx))
		s.Must(content.Close())
		s.Must(book.Close())
	})
	return g
}

// SummaryKey is the public key of the gates' own verdicts, in PEM.
func (s *Stage) SummaryKey() []byte {
	s.Helper()
	key, err := attest.OpenKey(filepath.Join(s.Folder, "verdicts.key"))
	s.Must(err)
	return key.PublicPEM()
}

// engines are the last that were loaded, by what they are made of. Loading is most
// of what a gate costs, and gates may share one.
var engines, _ = lru.New[string, func() (*policy.Engine, error)](8)

func (s *Stage) engine(o policy.Options, team, docker string) *policy.Engine {
	s.Helper()
	key, err := json.Marshal([]any{o, team, docker})
	s.Must(err)
	load := sync.OnceValues(func() (*policy.Engine, error) {
		if team != "" {
			o.Paths = []string{s.write("team.rego", team)}
		}
		if docker != "" {
			o.DockerBuild = []string{s.write("Dockerfile.rego", docker)}
		}
		return policy.Load(context.Background(), o)
	})
	if shared, ok, _ := engines.PeekOrAdd(string(key), load); ok {
		load = shared
		engines.Get(string(key)) // it was of use just now
	}
	engine, err := load()
	s.Must(err)
	return engine
}

func (s *Stage) write(name, content string) string {
	path := filepath.Join(s.TempDir(), name)
	s.Must(os.WriteFile(path, []byte(content), 0o600))
	return path
}

// Image publishes an image with one layer of its own on top of base.
func (s *Stage) Image(repository string, base *shipyard.Image) *shipyard.Image {
	s.Helper()
	built, err := shipyard.Build(base, map[string]string{"bin/" + strings.ReplaceAll(repository, "/", "-"): "content of " + repository})
	s.Must(err)
	return s.Push(repository, "1", built)
}

// Push publishes an image.
func (s *Stage) Push(repository, tag string, image v1.Image) *shipyard.Image {
	s.Helper()
	pushed, err := s.Registry.Push(context.Background(), repository, tag, image)
	s.Must(err)
	return pushed
}

// Trusted signs the image and attests how it was built.
func (s *Stage) Trusted(image *shipyard.Image, materials ...*shipyard.Image) *shipyard.Image {
	s.Helper()
	s.Must(s.Registry.Sign(context.Background(), s.CI, image))
	return s.Attested(image, materials...)
}

// Attested attests how the image was built, and leaves it unsigned.
func (s *Stage) Attested(image *shipyard.Image, materials ...*shipyard.Image) *shipyard.Image {
	s.Helper()
	s.Must(s.Registry.Attest(context.Background(), s.CI, image, shipyard.ProvenanceType,
		shipyard.Provenance(Builder, Source, Revision, materials...)))
	return image
}

// Pull admits registry/repository:tag or @digest.
func (s *Stage) Pull(g *gate.Gate, reference string) *gate.Admission {
	s.Helper()
	a, err := s.TryPull(g, reference)
	s.Must(err)
	if !a.Verdict.Blocked() && digest.FromBytes(a.Manifest.Raw) != a.Reference.Digest() {
		s.Fatalf("the bytes of %s are not those that were judged", reference)
	}
	return a
}

// TryPull is Pull for a test that expects an error.
func (s *Stage) TryPull(g *gate.Gate, reference string) (*gate.Admission, error) {
	s.Helper()
	ref, err := oci.ParseReference(reference)
	s.Must(err)
	return g.Admit(context.Background(), gate.Request{Reference: ref, Client: policy.Client{Address: "192.0.2.1"}})
}

// Codes lists the codes of an admission's reasons.
func Codes(a *gate.Admission) string {
	var list []string
	for _, r := range a.Verdict.Reasons {
		list = append(list, r.Code)
	}
	return strings.Join(list, " ")
}

// Messages lists their messages, one a line.
func Messages(a *gate.Admission) string {
	var list []string
	for _, r := range a.Verdict.Reasons {
		list = append(list, r.Msg)
	}
	return strings.Join(list, "\n")
}

// Requests counts what reaches the upstream, and can cut it off.
type Requests struct {
	mu    sync.Mutex
	paths map[string]int
	front func(http.Handler) http.Handler
	Down  atomic.Bool
}

// Interpose puts a handler in front of the registry: to hold, to tamper, to
// take its place. nil leaves the registry to itself again.
func (q *Requests) Interpose(front func(registry http.Handler) http.Handler) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.front = front
}

// Watch stands in front of a registry.
func (q *Requests) Watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q.Down.Load() {
			panic(http.ErrAbortHandler)
		}
		q.mu.Lock()
		if q.paths == nil {
			q.paths = map[string]int{}
		}
		q.paths[r.Method+" "+r.URL.Path]++
		handler := next
		if q.front != nil {
			handler = q.front(next)
		}
		q.mu.Unlock()
		handler.ServeHTTP(w, r)
	})
}

// Count is how many requests began with the prefix, a method and a path.
func (q *Requests) Count(prefix string) int {
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

// Reset forgets them.
func (q *Requests) Reset() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.paths = nil
}

// For is the stage for a subtest: what it opens is closed with it.
func (s *Stage) For(t testing.TB) *Stage {
	return &Stage{
		TB: t, Registry: s.Registry, CI: s.CI, Stranger: s.Stranger, Release: s.Release,
		Lookaside: s.Lookaside, Upstream: s.Upstream, Folder: s.Folder,
	}
}
