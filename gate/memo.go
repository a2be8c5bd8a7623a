package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// memoEntries bounds each of the gate's tables in memory.
const memoEntries = 16384

// memo holds the admissions that stand, so that a warm pull asks nobody.
type memo struct {
	byKey   *lru.Cache[string, *Admission]
	changed func() // is told of every change

	mu sync.Mutex
	// serving lists the keys under which a manifest was last served, so that
	// its blobs can be.
	serving *lru.Cache[string, map[string]*Admission]
}

func newMemo(size int, changed func()) *memo {
	m := &memo{changed: changed}
	m.byKey, _ = lru.New[string, *Admission](size)
	m.serving, _ = lru.New[string, map[string]*Admission](size)
	return m
}

func (m *memo) get(key string) *Admission {
	a, _ := m.byKey.Get(key)
	return a
}

func (m *memo) put(a *Admission) {
	defer m.changed()
	m.byKey.Add(a.key, a)
	m.mu.Lock()
	defer m.mu.Unlock()
	manifest := manifestKey(a.Reference)
	held, _ := m.serving.Get(manifest)
	next := map[string]*Admission{}
	for k, v := range held {
		if k != a.key && len(next) < 64 {
			next[k] = v
		}
	}
	if !a.Verdict.Blocked() {
		next[a.key] = a
	}
	m.serving.Add(manifest, next)
}

// served returns an admission of the manifest, under any tag, that stands, does
// not block this client and is no older than since.
func (m *memo) served(ref oci.Reference, client policy.Client, now, since time.Time) *Admission {
	m.mu.Lock()
	held, _ := m.serving.Get(manifestKey(ref))
	m.mu.Unlock()
	for _, a := range held {
		if a.client == client && a.live(now) && !a.began().Before(since) {
			return a
		}
	}
	return nil
}

// forget drops the admissions that serve the manifest.
func (m *memo) forget(ref oci.Reference) {
	defer m.changed()
	m.mu.Lock()
	held, _ := m.serving.Get(manifestKey(ref))
	m.serving.Remove(manifestKey(ref))
	m.mu.Unlock()
	for key := range held {
		m.byKey.Remove(key)
	}
}

func manifestKey(ref oci.Reference) string { return ref.Name() + "@" + ref.Digest().String() }

// key names everything that a verdict depends on and that can differ between
// two pulls: which manifest, under which tag, within which indexes, under which
// policy and trust, and what the rules read of the client.
func (g *Gate) key(n node) string { return g.keyUnder(n, g.Judge.Revision()) }

// keyUnder is the key under a policy that may be another than today's.
func (g *Gate) keyUnder(n node, policyRevision string) string {
	h := sha256.New()
	field := func(s string) {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	field(n.ref.Name())
	field(n.ref.Digest().String())
	field(n.ref.Tag())
	for _, index := range n.indexes {
		field(index.String())
	}
	field(policyRevision)
	field(g.Trust.Revision)
	field(n.client.Identity)
	field(n.client.Address)
	field(n.client.UserAgent)
	return hex.EncodeToString(h.Sum(nil))
}

// clientFor is the part of the client that the rules read; the rest stays out
// of the input, so that what is recorded is what was decided upon.
func (g *Gate) clientFor(c policy.Client) policy.Client {
	var seen policy.Client
	for _, name := range g.reads {
		switch name {
		case "client.identity":
			seen.Identity = c.Identity
		case "client.address":
			seen.Address = c.Address
		case "client.user_agent":
			seen.UserAgent = c.UserAgent
		}
	}
	return seen
}

// readsClient says whether two clients can get different verdicts.
func (g *Gate) readsClient() bool {
	return slices.ContainsFunc(g.reads, func(field string) bool { return strings.HasPrefix(field, "client") })
}

// findingsMemo shares evidence between the judgements of one pull: a client
// asks for a tag, then for its digest, then for a child. It is much shorter
// than any verdict's life.
type findingsMemo struct {
	entries *lru.Cache[string, gathered]
	ttl     time.Duration
	now     func() time.Time
}

type gathered struct {
	findings evidence.Findings
	at       time.Time
}

func newFindingsMemo(size int, ttl time.Duration, now func() time.Time) *findingsMemo {
	m := &findingsMemo{ttl: ttl, now: now}
	m.entries, _ = lru.New[string, gathered](size / 16)
	return m
}

func (m *findingsMemo) get(key string) (evidence.Findings, bool) {
	e, ok := m.entries.Get(key)
	if !ok || !within(m.now(), e.at, e.at.Add(m.ttl)) {
		return evidence.Findings{}, false
	}
	return e.findings, true
}

func (m *findingsMemo) put(key string, f evidence.Findings) {
	if len(f.Problems) == 0 {
		m.entries.Add(key, gathered{f, m.now()})
	}
}

func panicFields(p any) []zap.Field {
	return []zap.Field{zap.Any("panic", p), zap.ByteString("stack", debug.Stack())}
}
