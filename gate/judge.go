package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// node is one manifest on its way through the gate.
type node struct {
	route   *Route
	ref     oci.Reference // with its digest
	client  policy.Client // what the rules read of it
	index   *oci.Manifest // through which it was reached, or nil
	indexes []digest.Digest
	depth   int           // 0 for what the client asked for
	given   *oci.Manifest // what is pushed: the upstream does not have it yet
	budget  *atomic.Int64 // images that this pull may still judge
	since   time.Time     // verdicts from before do not count; zero for a pull
}

func newNode(route *Route, ref oci.Reference, client policy.Client, budget int) node {
	n := node{route: route, ref: ref, client: client, budget: &atomic.Int64{}}
	n.budget.Store(int64(budget))
	return n
}

// admit returns the standing verdict on n, or makes one.
func (g *Gate) admit(ctx context.Context, n node) (*Admission, error) {
	var err error
	if n.indexes, err = g.listed(ctx, n.ref); err != nil {
		return nil, err
	}
	key := g.key(n)
	if a := g.memo.get(key); g.stands(a, n) {
		if a.shouldRevalidate(g.Now()) {
			g.revalidate(n, key)
		}
		return a, nil
	}
	judge := func(ctx context.Context) (*Admission, error) {
		previous, stands, err := g.last(ctx, n, key)
		if err != nil || stands {
			return previous, err
		}
		if again, err := g.admitRecorded(ctx, n, key); err == nil {
			return again, nil
		} else if !errors.Is(err, errNotRecorded) {
			g.Log.Debug("judging from the record failed; the evidence is gathered anew", zap.Stringer("reference", n.ref), zap.Error(err))
		}
		return g.judge(ctx, n, key, previous)
	}
	a, err := g.fly(ctx, key, n.depth, judge)
	if err == nil && a.began().Before(n.since) && !a.Verdict.Stale {
		// It was under way already, and had looked before what n wants seen.
		a, err = g.fly(ctx, key, n.depth, judge)
	}
	if err != nil {
		return nil, err
	}
	return a, g.link(ctx, a, "")
}

// stands says whether the verdict is still one, and as new as n wants it.
func (g *Gate) stands(a *Admission, n node) bool {
	return a != nil && a.live(g.Now()) && !a.began().Before(n.since) && !a.began().Before(g.outdated(n.ref))
}

// shouldRevalidate says whether a served image is so near the end of its
// verdict that the next one should be made before a client has to wait for it.
func (a *Admission) shouldRevalidate(now time.Time) bool {
	return !a.Verdict.Blocked() && a.Verdict.ID != "" && a.Verdict.ExpiresAt.Sub(now) < a.Verdict.ExpiresAt.Sub(a.Verdict.JudgedAt)/5
}

func (g *Gate) revalidate(n node, key string) {
	select {
	case g.revalidating <- struct{}{}:
	default:
		return // enough of them run; a later pull will ask again
	}
	if !g.begin() {
		<-g.revalidating
		return
	}
	n.depth, n.index = 0, nil
	n.budget = &atomic.Int64{}
	n.budget.Store(int64(g.Limits.Nodes))
	started := g.background
	go func() {
		defer g.work.Done()
		defer func() { <-g.revalidating }()
		_, err := g.fly(started, key, 0, func(ctx context.Context) (*Admission, error) {
			return g.judge(ctx, n, key, g.memo.get(key))
		})
		if err != nil && !errors.Is(err, ErrClosed) {
			g.Log.Warn("revalidation failed", zap.Stringer("reference", n.ref), zap.Error(err))
		}
	}()
}

// last returns the newest verdict under the key, in memory or recorded, or nil,
// and whether it stands.
func (g *Gate) last(ctx context.Context, n node, key string) (a *Admission, stands bool, err error) {
	if a := g.memo.get(key); g.stands(a, n) {
		return a, true, nil
	}
	if a, err = g.recall(ctx, n, key); err != nil {
		return nil, false, err
	}
	if stands = g.stands(a, n); stands {
		g.memo.put(a)
	}
	return a, stands, nil
}

// recall returns the newest recorded verdict under the key, expired or not,
// or nil.
func (g *Gate) recall(ctx context.Context, n node, key string) (*Admission, error) {
	j, err := g.Ledger.Latest(ctx, key)
	if errors.Is(err, oci.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("recalling the verdict on %s: %w", n.ref, err)
	}
	return g.remembered(ctx, n, j)
}

// remembered is a judgement with its manifest, or nil where that is gone.
func (g *Gate) remembered(ctx context.Context, n node, j ledger.Judgement) (*Admission, error) {
	here, err := g.Ledger.HasManifest(ctx, n.ref.Name(), n.ref.Digest())
	if err != nil {
		return nil, err
	}
	raw, err := g.Cache.Bytes(ctx, n.ref.Digest(), manifestLimit)
	if err != nil || !here {
		return nil, nil // judged before, but the bytes are gone, or deleted: start over
	}
	m, err := oci.ParseManifest(raw, "", n.ref.Digest())
	if err != nil {
		return nil, err
	}
	return restore(j, n, m)
}

// judge makes a verdict. previous is the last one, for the case that the
// upstream does not answer now.
func (g *Gate) judge(ctx context.Context, n node, key string, previous *Admission) (*Admission, error) {
	done, err := g.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if n.budget.Add(-1) < 0 {
		return nil, fmt.Errorf("%s: %w", n.ref, errBudget)
	}
	started := g.Now()
	a, err := g.examine(ctx, n, key)
	if n.given == nil && ((err != nil && evidence.Temporary(err)) || (err == nil && a.upstreamFailed)) {
		if previous == nil && n.ref.Tag() == "" {
			var lookErr error
			if previous, lookErr = g.underATag(ctx, n, key); lookErr != nil {
				return nil, lookErr
			}
		}
		if g.stillStands(previous) {
			kept := *previous
			kept.Verdict.Stale = true
			kept.Verdict.ExpiresAt = g.Now().Add(g.Lifetimes.Block)
			g.memo.put(&kept)
			g.Log.Warn("the upstream does not answer; an earlier verdict stands",
				zap.String("decision", kept.Verdict.ID), zap.Stringer("reference", n.ref), zap.Time("judged", kept.Verdict.JudgedAt), zap.Error(err))
			return &kept, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if a.Manifest.Kind == oci.KindEvidence || a.evidenceOnly {
		if n.given == nil {
			g.memo.put(a.Admission)
		}
		return a.Admission, nil
	}
	if n.given == nil && !a.upstreamFailed && !a.truncated {
		a.Evidence = &Gathered{Revision: g.gathering, At: started}
	}
	return g.remember(ctx, n, a, started)
}

// underATag is what was decided about the manifest when it was pulled by a tag:
// clients that ask for the tag and then for its digest must not be torn apart by
// an upstream that goes away in between.
func (g *Gate) underATag(ctx context.Context, n node, key string) (*Admission, error) {
	j, err := g.recordedAsServed(ctx, n.ref, true)
	if err != nil || j == nil {
		return nil, err
	}
	raw, err := g.Cache.Bytes(ctx, n.ref.Digest(), manifestLimit)
	if err != nil {
		return nil, nil // it cannot be served without its bytes
	}
	m, err := oci.ParseManifest(raw, "", n.ref.Digest())
	if err != nil {
		return nil, err
	}
	j.Key = key
	return restore(*j, n, m)
}

// stillStands says whether a serving verdict may outlive its term because the
// upstream does not answer.
func (g *Gate) stillStands(a *Admission) bool {
	return a != nil && !a.Verdict.Blocked() && within(g.Now(), a.Verdict.JudgedAt, a.began().Add(g.Lifetimes.Stale)) &&
		(a.Until == nil || g.Now().Before(*a.Until))
}

// examined is an admission that is not recorded yet.
type examined struct {
	*Admission
	input          *policy.Input
	upstreamFailed bool
	evidenceOnly   bool      // an index of nothing but evidence
	pending        bool      // its packages have not been examined
	notAfter       time.Time // verdicts that this one rests on end then
}

func (g *Gate) examine(ctx context.Context, n node, key string) (*examined, error) {
	src, err := g.origin(n.route, n.ref)
	if err != nil {
		return nil, err
	}
	if n.given != nil {
		return g.examineManifest(ctx, n, key, src, n.given)
	}
	m, err := src.Manifest(ctx, n.ref.Digest())
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", n.ref, err)
	}
	// The gate's own summaries are evidence that no upstream has.
	if n.depth > 0 || m.Kind == oci.KindEvidence {
		return g.examineManifest(ctx, n, key, src, m)
	}
	var gone error
	var looking together // beside the rest: a warm cache must not cost a round trip more
	looking.do(func() { gone = g.stillThere(ctx, src, n.ref) })
	a, err := g.examineManifest(ctx, n, key, src, m)
	if looking.wait(); gone != nil {
		return nil, fmt.Errorf("looking for %s: %w", n.ref, gone)
	}
	return a, err
}

func (g *Gate) examineManifest(ctx context.Context, n node, key string, src *origin, m *oci.Manifest) (*examined, error) {
	if err := refuseDetours(m); err != nil {
		return nil, fmt.Errorf("%s: %w", n.ref, err)
	}
	a := &examined{Admission: &Admission{Reference: n.ref, Manifest: m, key: key, client: n.client}}
	switch m.Kind {
	case oci.KindEvidence:
		inert, err := g.isInert(ctx, src, m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n.ref, err)
		}
		if !inert {
			m.Kind = oci.KindImage // somebody could run it
			return a, g.examineImage(ctx, n, src, a)
		}
		a.serveAsEvidence(g.Now(), g.Lifetimes.Serve)
		return a, nil
	case oci.KindIndex:
		return a, g.examineIndex(ctx, n, src, a)
	default:
		return a, g.examineImage(ctx, n, src, a)
	}
}

// serveAsEvidence admits signatures and attestations: they must stay readable
// for whoever verifies by other means, and nothing can run them.
func (a *Admission) serveAsEvidence(now time.Time, life time.Duration) {
	a.Verdict = Verdict{Action: policy.Serve, BeforeMode: policy.Serve, JudgedAt: now, ExpiresAt: now.Add(life)}
}

func (g *Gate) examineImage(ctx context.Context, n node, src *origin, a *examined) error {
	f := g.gatherFacts(ctx, n, src, a.Manifest)
	a.input = f.input(n)
	a.pending = f.packages != nil && f.packages.State == "pending"
	a.upstreamFailed = f.upstreamFailed()
	a.truncated, a.notAfter = f.truncated, f.notAfter
	a.Detail = f.detail()

	g.decide(ctx, n, a)
	return nil
}

// decide lets the policy judge the input, and blocks where it fails.
func (g *Gate) decide(ctx context.Context, n node, a *examined) {
	// The verdict must be made even when the time for evidence ran out.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), decisionTime)
	defer cancel()
	a.input.Request = policy.Request{Client: n.client, Route: n.route.Registry, Time: g.Now()}
	decision, err := g.Judge.Decide(ctx, a.input)
	if err != nil {
		g.Log.Error("the policy failed; the pull is blocked", zap.Stringer("reference", n.ref), zap.Error(err))
		decision.Action, decision.BeforeMode = policy.Block, policy.Block
	}
	a.Verdict = Verdict{
		Action: decision.Action, BeforeMode: decision.BeforeMode,
		Reasons: decision.Reasons, Annotations: decision.Annotations,
	}
	a.Until = earlier(a.Until, decision.Until)
}

// remember gives the verdict its id and its term, records it and lets it stand.
func (g *Gate) remember(ctx context.Context, n node, a *examined, started time.Time) (*Admission, error) {
	now := g.Now()
	v := &a.Verdict
	v.JudgedAt, v.Took = now, now.Sub(started)
	life := g.Lifetimes.Serve
	if policy.Stricter(v.Action, v.BeforeMode) == policy.Block {
		// What a signature could mend is looked at again soon, whatever the mode.
		life = g.Lifetimes.Block
	}
	v.ExpiresAt = now.Add(life)
	if !a.notAfter.IsZero() && a.notAfter.Before(v.ExpiresAt) {
		v.ExpiresAt = a.notAfter
	}
	if a.Until != nil && a.Until.Before(v.ExpiresAt) {
		v.ExpiresAt = *a.Until
	}
	if a.truncated && n.depth > 0 {
		return a.Admission, nil // true in this tree only
	}

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	asked := a.input.Request.Time
	a.input.Request.Time = time.Time{} // the judgement has it; equal inputs are stored once
	input, err := json.Marshal(a.input)
	if err != nil {
		return nil, fmt.Errorf("writing the input of %s: %w", n.ref, err)
	}
	v.ID, v.Input = ledger.NewID(), digest.FromBytes(input)
	j, err := a.judgement(g)
	if err != nil {
		return nil, err
	}
	if j.EvidenceDigest, err = evidenceDigest(a.input); err != nil {
		return nil, err
	}
	if err := g.Ledger.Record(ctx, j, input); err != nil {
		return nil, fmt.Errorf("recording the verdict on %s: %w", n.ref, err)
	}
	g.tell(a, asked)
	if n.given != nil {
		g.logDecision(a.Admission)
		return a.Admission, nil // nothing to pull yet
	}
	if len(a.DiffIDs) > 0 {
		if err := g.Ledger.PutChain(ctx, oci.ChainID(a.DiffIDs), len(a.DiffIDs), n.ref.Name(), n.ref.Digest()); err != nil {
			return nil, fmt.Errorf("recording the layers of %s: %w", n.ref, err)
		}
	}
	g.memo.put(a.Admission)
	g.logDecision(a.Admission)
	g.trial.offer(a.Admission)
	if a.pending {
		g.examineLater(n, a.Admission)
	}
	return a.Admission, nil
}

func evidenceDigest(input *policy.Input) (digest.Digest, error) {
	only := *input
	only.Request, only.Image.Tag, only.Image.Reference = policy.Request{}, "", ""
	raw, err := json.Marshal(only)
	return digest.FromBytes(raw), err
}

func (g *Gate) logDecision(a *Admission) {
	v := a.Verdict
	codes := make([]string, 0, len(v.Reasons))
	for _, r := range v.Reasons {
		codes = append(codes, r.Code)
	}
	g.Log.Info("decision",
		zap.String("decision", v.ID), zap.String("action", string(v.Action)),
		zap.Stringer("reference", a.Reference), zap.String("kind", string(a.Manifest.Kind)),
		zap.Strings("codes", codes), zap.Duration("took", v.Took), zap.Time("expires", v.ExpiresAt))
}

// linked is what was linked, and how the cache stood then: an eviction may have
// removed the links since.
type linked struct {
	digest   digest.Digest
	removals uint64
}

// link makes the admitted manifest part of the cache's repository, under tag
// if it is the one that the tag names. What is blocked is never linked.
func (g *Gate) link(ctx context.Context, a *Admission, tag string) error {
	if a.Verdict.Blocked() {
		return nil
	}
	key := manifestKey(a.Reference)
	if tag != "" {
		key = a.Reference.Name() + ":" + tag
	}
	now := linked{a.Reference.Digest(), g.Cache.Removals()}
	if held, _ := g.linked.Get(key); held == now {
		return nil
	}
	if err := g.Cache.Link(ctx, cache.RepositoryName(a.Reference), a.Manifest, tag); err != nil {
		return fmt.Errorf("linking %s into the cache: %w", a.Reference, err)
	}
	g.linked.Add(key, now)
	return nil
}

// know records what the manifest is made of: which blobs it may ask for, and
// which manifests it lists.
func (g *Gate) know(ctx context.Context, ref oci.Reference, m *oci.Manifest) error {
	if err := g.Ledger.PutManifest(ctx, ref.Name(), m); err != nil {
		return fmt.Errorf("recording the contents of %s: %w", ref, err)
	}
	g.holders.Remove(ref.Name() + "@" + m.Digest.String())
	for _, child := range m.Manifests {
		g.listings.Remove(ref.Name() + "@" + child.Digest.String())
	}
	if len(m.Manifests) > 0 {
		g.changed()
	}
	for _, blob := range m.References() {
		g.holders.Remove(ref.Name() + "@" + blob.Digest.String())
	}
	return nil
}

// listed returns the indexes of the repository that list the manifest, in a
// fixed order.
func (g *Gate) listed(ctx context.Context, ref oci.Reference) ([]digest.Digest, error) {
	key := manifestKey(ref)
	if indexes, ok := g.listings.Get(key); ok {
		return indexes, nil
	}
	found, err := g.Ledger.Indexes(ctx, ref.Name(), ref.Digest())
	if err != nil {
		return nil, fmt.Errorf("looking up the indexes that list %s: %w", ref, err)
	}
	indexes := make([]digest.Digest, 0, len(found))
	for _, l := range found {
		indexes = append(indexes, l.Index)
	}
	if len(indexes) > maxIndexes {
		indexes = indexes[:maxIndexes]
	}
	g.listings.Add(key, indexes)
	return indexes, nil
}

const (
	manifestLimit = 16 << 20         // bytes of a manifest that was let in under limits.manifest
	maxIndexes    = 8                // indexes whose evidence one image inherits
	decisionTime  = 10 * time.Second // the engine has a deadline of its own
	recordTime    = 10 * time.Second
)

// errBudget reports a tree of parents with more images than limits allow.
var errBudget = errors.New("the tree of parents has too many images")
