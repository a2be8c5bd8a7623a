package gate

import (
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// warmth remembers how the last pull of each kind was admitted. A pull like it
// needs nothing but this, as long as nothing that went into it has changed since:
// which is whatever counts a change, the clock, and the cache's links.
type warmth struct {
	entries *lru.Cache[warmKey, warm]

	removals   atomic.Uint64 // of the cache's links, as of
	lookedUpAt atomic.Int64  // then, in nanoseconds
}

type warmKey struct {
	ref    oci.Reference
	client policy.Client // what the rules read of it
}

type warm struct {
	admission         *Admission
	tag               resolved // of a pull by tag
	policy, trust     string   // revisions
	changes, removals uint64
}

func newWarmth() *warmth {
	w := &warmth{}
	w.entries, _ = lru.New[warmKey, warm](memoEntries)
	return w
}

// changed counts for this gate and for those before and after it. It is called after a change of what admissions rest on: tags, verdicts,
// and which indexes list a manifest.
func (g *Gate) changed() { g.forgotten.changes.Add(1) }

// standing is the admission that a pull like this one got, if it would get it
// again, or nil.
func (g *Gate) standing(key warmKey, now time.Time) *Admission {
	w, ok := g.warmth.entries.Get(key)
	if !ok || w.changes != g.forgotten.changes.Load() ||
		w.policy != g.Judge.Revision() || w.trust != g.Trust.Revision ||
		key.ref.Tag() != "" && !within(now, w.tag.from, w.tag.until) ||
		!w.admission.live(now) || w.admission.shouldRevalidate(now) ||
		w.removals != g.removals(now) {
		return nil
	}
	return w.admission
}

// keepWarm remembers an admission that was made while changes were so many.
func (g *Gate) keepWarm(key warmKey, a *Admission, changes uint64) {
	if a.Verdict.Stale || g.memo.get(a.key) != a {
		return // it stands for this pull alone
	}
	w := warm{admission: a, policy: g.Judge.Revision(), trust: g.Trust.Revision, changes: changes, removals: g.Cache.Removals()}
	if key.ref.Digest() == "" {
		t, ok := g.tags.Get(key.ref.Name() + ":" + key.ref.Tag())
		if !ok || t.digest != a.Reference.Digest() {
			return
		}
		w.tag = t
	}
	g.warmth.entries.Add(key, w)
}

// removalsFor is for how long the count of removed links is taken for true. Looking
// costs a system call, and links that are missing longer by this hurt nobody.
const removalsFor = 10 * time.Millisecond

func (g *Gate) removals(now time.Time) uint64 {
	at := g.warmth.lookedUpAt.Load()
	if since := now.UnixNano() - at; since >= 0 && since < int64(removalsFor) {
		return g.warmth.removals.Load()
	}
	n := g.Cache.Removals()
	g.warmth.removals.Store(n)
	g.warmth.lookedUpAt.Store(now.UnixNano())
	return n
}
