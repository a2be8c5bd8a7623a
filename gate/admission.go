package gate

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// Admission is the heart of the program: one manifest, the verdict on it, and
// what is worth telling about it.
type Admission struct {
	Reference oci.Reference // with the digest that was judged, and the tag if one was asked for
	Manifest  *oci.Manifest
	Verdict   Verdict
	Detail

	key    string        // of the memo
	client policy.Client // what the rules read of it
	// truncated says that the tree of parents was cut off at the depth at
	// which this admission was asked for; asked for directly, the image could
	// fare better.
	truncated bool
}

// Verdict is what was decided, when, and for how long it stands.
type Verdict struct {
	ID          string // in the ledger; "" for evidence, which is not judged
	Action      policy.Action
	BeforeMode  policy.Action // what it would be if every mode were enforce
	Reasons     []policy.Reason
	Annotations map[string]string
	Input       digest.Digest // of the input document that was judged
	JudgedAt    time.Time
	ExpiresAt   time.Time
	Took        time.Duration
	Stale       bool // the upstream did not answer, an earlier verdict stands
}

// Blocked says whether the pull is refused.
func (v Verdict) Blocked() bool { return policy.Stricter(v.Action, policy.Annotate) == policy.Block }

// Detail is what the gate knows about an admitted manifest beside its verdict;
// it is kept with the judgement, so that a restart loses nothing.
type Detail struct {
	Root     bool            `json:"root,omitempty"`
	Platform string          `json:"platform,omitempty"`
	DiffIDs  []digest.Digest `json:"diff_ids,omitempty"`
	Below    int             `json:"below,omitempty"` // layers of the final stage's parent
	Index    digest.Digest   `json:"index,omitempty"`
	Build    *policy.Build   `json:"build,omitempty"`
	Source   *policy.Source  `json:"source,omitempty"`
	Parents  []policy.Parent `json:"parents,omitempty"`
	Children []Child         `json:"children,omitempty"` // of an index
	// Until is when an exception ends, or a rule bites that was announced, here or in
	// what the verdict rests on. No verdict outlives that, however stale it may get.
	Until *time.Time `json:"until,omitempty"`
	// Admitted names the direct parents as they were judged, in the order of
	// Parents; "" is one that could not be.
	Admitted []string  `json:"admitted,omitempty"`
	Evidence *Gathered `json:"evidence,omitempty"` // nil where something was missing for a while
}

// Gathered says when the evidence under a verdict was looked for, and how.
type Gathered struct {
	Revision string    `json:"revision"` // changes with whatever else could be found
	At       time.Time `json:"at"`
}

// Child is one image of an index.
type Child struct {
	Digest   digest.Digest   `json:"digest"`
	Platform string          `json:"platform"`
	Decision string          `json:"decision"` // its own entry in the ledger
	Action   policy.Action   `json:"action"`
	Before   policy.Action   `json:"before_mode"`
	Level    string          `json:"level"` // of its build, as in the summaries
	Reasons  []policy.Reason `json:"reasons,omitempty"`
}

// began is when the judgement started to look, or the one from whose record it was
// made.
func (a *Admission) began() time.Time {
	if a.Evidence != nil {
		return a.Evidence.At
	}
	return a.Verdict.JudgedAt.Add(-a.Verdict.Took)
}

// live says whether the verdict still stands at the given time.
func (a *Admission) live(now time.Time) bool {
	return within(now, a.Verdict.JudgedAt, a.Verdict.ExpiresAt)
}

// earlier is the first of two times, either of which can be missing.
func earlier(a, b *time.Time) *time.Time {
	if a == nil || b != nil && b.Before(*a) {
		return b
	}
	return a
}

// within says whether now is between the two. What was decided later than now is
// of a clock that was set back since: it could stand for as long as the clock
// was wrong.
func within(now, from, until time.Time) bool { return !now.Before(from) && now.Before(until) }

func (a *Admission) judgement(g *Gate) (ledger.Judgement, error) {
	reasons, err := json.Marshal(a.Verdict.Reasons)
	if err != nil {
		return ledger.Judgement{}, err
	}
	annotations, err := json.Marshal(a.Verdict.Annotations)
	if err != nil {
		return ledger.Judgement{}, err
	}
	detail, err := json.Marshal(a.Detail)
	if err != nil {
		return ledger.Judgement{}, err
	}
	return ledger.Judgement{
		ID: a.Verdict.ID, Key: a.key,
		Route: a.Reference.Registry(), Name: a.Reference.Name(),
		Tag: a.Reference.Tag(), Digest: a.Reference.Digest(), Index: a.Index,
		PolicyRevision: g.Judge.Revision(), TrustRevision: g.Trust.Revision,
		InputDigest: a.Verdict.Input,
		Action:      string(a.Verdict.Action), BeforeMode: string(a.Verdict.BeforeMode),
		Reasons: reasons, Annotations: annotations, Detail: detail,
		JudgedAt: a.Verdict.JudgedAt, ExpiresAt: a.Verdict.ExpiresAt, Took: a.Verdict.Took,
		Exceptions: a.exceptions(),
	}, nil
}

// exceptions names those that let a finding pass, of an index those of its images
// too.
func (a *Admission) exceptions() []string {
	var used []string
	note := func(reasons []policy.Reason) {
		for _, r := range reasons {
			if r.Exception != "" && !slices.Contains(used, r.Exception) {
				used = append(used, r.Exception)
			}
		}
	}
	note(a.Verdict.Reasons)
	for _, c := range a.Children {
		note(c.Reasons)
	}
	return used
}

// restore makes an admission of what the ledger remembers and the bytes that
// the cache kept.
func restore(j ledger.Judgement, n node, m *oci.Manifest) (*Admission, error) {
	a := &Admission{
		Reference: n.ref, Manifest: m, key: j.Key, client: n.client,
		Verdict: Verdict{
			ID: j.ID, Action: policy.Action(j.Action), BeforeMode: policy.Action(j.BeforeMode),
			Input: j.InputDigest, JudgedAt: j.JudgedAt, ExpiresAt: j.ExpiresAt, Took: j.Took,
		},
	}
	for _, part := range []struct {
		raw  json.RawMessage
		into any
	}{{j.Reasons, &a.Verdict.Reasons}, {j.Annotations, &a.Verdict.Annotations}, {j.Detail, &a.Detail}} {
		if len(part.raw) == 0 {
			continue
		}
		if err := json.Unmarshal(part.raw, part.into); err != nil {
			return nil, fmt.Errorf("reading decision %s back: %w", j.ID, err)
		}
	}
	return a, nil
}
