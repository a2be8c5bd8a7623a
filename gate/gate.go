// Package gate answers the one question that TrustGate exists for: may this
// image be pulled?
//
// Admit resolves a reference once, gathers the evidence about its digest,
// admits its parents in the same way, lets the policy judge, and remembers the
// verdict. Everything else in the program is a face of it. The gate knows
// nothing of HTTP and nothing of Rego; it never weakens a verdict, and it
// never serves a byte that no verdict admits.
package gate

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/gittag"
	"github.com/trustgate/trustgate/evidence/provenance"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/upstream"
)

// ErrUnknownRegistry reports a reference to a registry that no route serves.
var ErrUnknownRegistry = errors.New("no route serves this registry")

// Judge decides about one input document.
type Judge interface {
	// Decide returns a blocking decision together with every error.
	Decide(ctx context.Context, input *policy.Input) (policy.Decision, error)
	// Revision changes whenever a decision could.
	Revision() string
	// RequestFields names the members of input.request that decisions depend on; it
	// does not change.
	RequestFields() []string
}

// TagFinder says who signed a git tag at a revision, and the revision itself. The
// first of the paths at which there is a file is read along.
type TagFinder interface {
	Find(ctx context.Context, repository, revision, ref string, paths ...string) (gittag.Result, error)
}

// Route is one registry that the gate stands in front of.
type Route struct {
	Registry   string // the name that references carry
	Upstream   *upstream.Registry
	Collectors []evidence.Collector
	Signatures Signatures
}

// Trust is what the configuration vouches for.
type Trust struct {
	Builders []provenance.Builder
	Sources  []string // patterns of source repositories
	Roots    []Root
	Revision string // changes whenever any of it or any signer's key does
}

// Root is where trust may end: a digest, or a repository with the signers of
// whom it needs one.
type Root struct {
	Digest     digest.Digest
	Repository string // registry/repository
	Signers    []string
}

// Lifetimes bounds verdicts in time and depth.
type Lifetimes struct {
	Serve    time.Duration // how long an image that is served stays judged
	Block    time.Duration // how long a block stands before it is judged again
	Tag      time.Duration // how long a resolved tag is taken as fresh
	Stale    time.Duration // how long a serving verdict outlives an upstream that does not answer
	Deadline time.Duration // of one judgement, parents included
	Turn     time.Duration // how long a judgement waits for a place; half of Deadline when zero
	Depth    int           // of the tree of parents
}

// Limits bounds what one pull can make the gate do.
type Limits struct {
	Evidence evidence.Limits
	Config   int64 // bytes of an image config
	Parents  int   // direct parents of one image
	Nodes    int   // images judged for one pull
	// Judgements at once, parents not counted; no bound when zero. Who comes when
	// there are so many waits, and gets ErrBusy after Lifetimes.Turn.
	Judgements int
}

// Options are a gate's parts.
type Options struct {
	Routes    []Route
	Judge     Judge
	Trust     Trust
	Cache     *cache.Cache
	Ledger    *ledger.Ledger
	Platforms []oci.Platform // judged at once when an index is pulled
	Summaries Summaries
	Decisions DecisionLog // nil tells nobody
	Source    TagFinder   // who releases revisions; nil asks nobody
	// Gathering changes with whatever else of the configuration decides what
	// evidence is found.
	Gathering string
	Trial     *Trial // a policy that is only tried; nil tries none
	Succeeds  *Gate  // the gate whose place this one takes: what it was told to forget stays so
	Packages  Packages
	Lifetimes Lifetimes
	Limits    Limits
	Log       *zap.Logger
	Now       func() time.Time // nil means time.Now
}

// Gate admits pulls. It is safe for concurrent use.
type Gate struct {
	Options
	routes map[string]*Route

	flights   flights
	memo      *memo
	reads     []string // of a request, what the rules read
	warmth    *warmth
	findings  *findingsMemo
	tags      *lru.Cache[string, resolved]
	resolving singleflight.Group
	holders   *lru.Cache[string, []ledger.Holder] // of a blob in a repository
	listings  *lru.Cache[string, []digest.Digest] // the indexes that list a manifest
	linked    *lru.Cache[string, linked]          // what the cache's repositories hold already
	seen      *lru.Cache[string, time.Time]       // when a manifest was last seen upstream
	arrivals  *lru.Cache[string, arrival]         // blobs that were pushed
	forgotten *forgotten

	gathering string // the revision of everything that decides what evidence is found
	trial     *trial

	summarized *lru.Cache[string, summarized] // of decisions, by id

	background context.Context
	stop       context.CancelFunc
	work       sync.WaitGroup

	judging      chan struct{} // a slot for each judgement; nil without a bound
	deciding     chan struct{} // a slot for each decision from the record
	revalidating chan struct{} // a slot for each judgement in the background
	examining    struct {
		sync.Mutex
		waiting map[examinee]map[string]node // and who waits for it, by the memo's key
		slots   chan struct{}
	}
}

// New makes a gate of its parts.
func New(options Options) (*Gate, error) {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Log == nil {
		options.Log = zap.NewNop()
	}
	if options.Lifetimes.Turn == 0 {
		options.Lifetimes.Turn = options.Lifetimes.Deadline / 2
	}
	g := &Gate{Options: options, routes: map[string]*Route{}}
	for i := range g.Routes {
		route := &g.Routes[i]
		if _, twice := g.routes[route.Registry]; twice {
			return nil, fmt.Errorf("two routes serve %s", route.Registry)
		}
		g.routes[route.Registry] = route
	}
	g.reads = g.Judge.RequestFields()
	g.warmth = newWarmth()
	g.memo = newMemo(memoEntries, g.changed)
	g.findings = newFindingsMemo(memoEntries, min(5*time.Second, g.Lifetimes.Block/2), g.Now)
	g.tags, _ = lru.New[string, resolved](memoEntries)
	g.holders, _ = lru.New[string, []ledger.Holder](memoEntries)
	g.listings, _ = lru.New[string, []digest.Digest](memoEntries)
	g.linked, _ = lru.New[string, linked](memoEntries)
	g.seen, _ = lru.New[string, time.Time](memoEntries)
	g.arrivals, _ = lru.New[string, arrival](memoEntries)
	if g.Succeeds != nil {
		g.forgotten, g.Succeeds = g.Succeeds.forgotten, nil // and no chain of all gates that were
	} else {
		g.forgotten = &forgotten{}
		g.forgotten.manifests, _ = lru.New[string, time.Time](memoEntries)
		g.forgotten.named, _ = lru.New[string, time.Time](memoEntries)
	}
	var err error
	if g.gathering, err = g.gatheringRevision(); err != nil {
		return nil, err
	}
	g.summarized, _ = lru.New[string, summarized](memoEntries)
	g.revalidating, g.deciding = make(chan struct{}, 4), make(chan struct{}, max(2, runtime.GOMAXPROCS(0)))
	if g.Limits.Judgements > 0 {
		g.judging = make(chan struct{}, g.Limits.Judgements)
	}
	g.examining.waiting, g.examining.slots = map[examinee]map[string]node{}, make(chan struct{}, examiners)
	g.background, g.stop = context.WithCancel(context.Background())
	g.flights.init()
	g.startTrial()
	return g, nil
}

// Close waits for the judgements that are under way, until ctx ends.
func (g *Gate) Close(ctx context.Context) error {
	g.flights.close()
	g.trial.end()
	done := make(chan struct{})
	go func() { g.work.Wait(); close(done) }()
	select {
	case <-done:
		g.stop()
		return nil
	case <-ctx.Done():
		g.stop()
		<-done
		return ctx.Err()
	}
}

// Request is one pull of a manifest.
type Request struct {
	Reference oci.Reference // with a tag, a digest or both
	Client    policy.Client
	Fresh     bool // resolve and judge anew, parents included, whatever stands
}

// Admit says whether the manifest that the reference names may be pulled, and
// returns its bytes with the verdict on them. A block is an Admission too.
//
// Errors match ErrUnknownRegistry, oci.ErrNotFound, oci.ErrSchema1,
// oci.ErrManifest, upstream.ErrUnauthorized or upstream.ErrUnavailable, and
// mean that there is no verdict: nothing may be served.
func (g *Gate) Admit(ctx context.Context, req Request) (*Admission, error) {
	key := warmKey{req.Reference, g.clientFor(req.Client)}
	if !req.Fresh {
		now := g.Now()
		if admission := g.standing(key, now); admission != nil {
			g.pulled(admission, req.Client, now)
			return admission, nil
		}
	}
	changes := g.forgotten.changes.Load()
	route, err := g.route(req.Reference)
	if err != nil {
		return nil, err
	}
	ref, err := g.resolve(ctx, route, req.Reference, req.Fresh)
	if err != nil {
		return nil, err
	}
	n := newNode(route, ref, key.client, g.Limits.Nodes)
	if req.Fresh {
		n.since = g.Now()
	}
	admission, err := g.admit(ctx, n)
	if err != nil {
		return nil, err
	}
	if err := g.link(ctx, admission, req.Reference.Tag()); err != nil {
		return nil, err
	}
	g.keepWarm(key, admission, changes)
	g.pulled(admission, req.Client, g.Now())
	return admission, nil
}

func (g *Gate) pulled(a *Admission, by policy.Client, at time.Time) {
	g.Cache.Used(a.Reference.Digest(), at) // whose bytes came from memory
	if a.Verdict.ID != "" {
		g.Ledger.CountPull(a.Verdict.ID, pullClient(by), at)
	}
	g.trial.offer(a) // what found no place is offered again
}

func (g *Gate) route(ref oci.Reference) (*Route, error) {
	if route, ok := g.routes[ref.Registry()]; ok {
		return route, nil
	}
	return nil, fmt.Errorf("%s: %w; add it under routes", ref.Registry(), ErrUnknownRegistry)
}

func pullClient(c policy.Client) string {
	if c.Identity != "" {
		return c.Identity
	}
	return c.Address
}
