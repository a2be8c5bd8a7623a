// Package replay says what another policy would have decided about what was
// judged before.
//
// It looks back and changes nothing: no verdict, no record, no memory of the gate.
// It must never reach an upstream: the evidence is that of then. Parents are judged
// first, by the same policy, so that what it makes of them counts for their children.
package replay

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// Ledger is where the past is.
type Ledger interface {
	Since(ctx context.Context, since time.Time, visit func(ledger.Past) error) error
	InputOf(ctx context.Context, d digest.Digest) ([]byte, error)
	InputsOf(ctx context.Context, digests []digest.Digest) (map[digest.Digest][]byte, error)
	PullsOf(ctx context.Context, ids []string) (map[string][]ledger.Pulls, error)
}

// Judge decides about one input document.
type Judge interface {
	Decide(ctx context.Context, input *policy.Input) (policy.Decision, error)
}

// Options narrow a replay.
type Options struct {
	Since time.Time
	// At is when the other policy judges: rules that take effect later do not
	// count before.
	At time.Time
	// Progress is told how many of how many documents have been judged.
	Progress func(done, all int)
}

// Report is what would be different.
type Report struct {
	Judgements int    `json:"judgements"` // that were looked at
	Inputs     int    `json:"inputs"`     // different documents among them
	Pulls      int64  `json:"pulls"`      // under those judgements
	Changes    Groups `json:"changes"`
	// NotJudged are inputs that the policy failed on; they count as blocked, as
	// they would at a pull. Unreadable are those that could not be read back.
	NotJudged  int `json:"not_judged"`
	Unreadable int `json:"unreadable"`
}

// Groups are the changes by what becomes of the image.
type Groups struct {
	Blocked   Group `json:"newly_blocked"`
	Annotated Group `json:"newly_annotated"` // that were served without
	Served    Group `json:"newly_served"`    // that were blocked
}

// Group is what changes in one way.
type Group struct {
	Images       []Change `json:"images"` // most pulled first
	Pulls        int64    `json:"pulls"`
	ByRule       []Count  `json:"by_rule"`
	ByRepository []Count  `json:"by_repository"`
	ByClient     []Count  `json:"by_client"`
}

// Change is one image whose verdict would be another.
type Change struct {
	Reference string          `json:"reference"`
	Digest    digest.Digest   `json:"digest"`
	Decision  string          `json:"decision"` // the newest about it
	Was       policy.Action   `json:"was"`
	Now       policy.Action   `json:"now"`
	Reasons   []policy.Reason `json:"reasons"` // what makes the difference: the new findings, or those that fall away
	Pulls     int64           `json:"pulls"`

	judgements []string // under which it was pulled
	clients    map[string]int64
}

// Count is how much one rule, repository or client has to do with a group.
type Count struct {
	Name   string `json:"name"`
	Images int    `json:"images"`
	Pulls  int64  `json:"pulls"`
}

// Run judges every recorded input again. An index has no input of its own: it is
// what its images would be.
func Run(ctx context.Context, from Ledger, judge Judge, o Options) (*Report, error) {
	var past []ledger.Past
	report := &Report{}
	all := outcomes{byID: map[string]*outcome{}, questions: map[string]*outcome{}, latest: map[string]*outcome{}}
	err := from.Since(ctx, o.Since, func(p ledger.Past) error {
		report.Judgements++
		report.Pulls += p.Pulls
		past = append(past, p)
		return all.add(p)
	})
	if err != nil {
		return nil, err
	}
	report.Inputs = len(all.order)
	if err := judgeAll(ctx, from, judge, o, all.order); err != nil {
		return nil, err
	}
	for _, one := range all.order {
		if one.failed {
			report.NotJudged++
		}
		if one.unreadable {
			report.Unreadable++
		}
	}
	report.Changes, err = compare(ctx, from, past, all.byID)
	return report, err
}

// outcomes are one for each different question: an input, and the parents as they
// had been judged by then.
type outcomes struct {
	order     []*outcome
	byID      map[string]*outcome // of judgements
	questions map[string]*outcome
	latest    map[string]*outcome // of references, while judgements are added
}

// add takes a judgement in, oldest first.
func (all *outcomes) add(p ledger.Past) error {
	var known struct {
		Admitted []string `json:"admitted"`
	}
	if bytes.Contains(p.Detail, []byte(`"admitted":[`)) { // most have no parents to read
		if err := json.Unmarshal(p.Detail, &known); err != nil {
			return fmt.Errorf("reading decision %s: %w", p.ID, err)
		}
	}
	question := p.Input.String()
	parents := make([]*outcome, len(known.Admitted))
	for i, name := range known.Admitted {
		if parents[i] = all.latest[name]; parents[i] != nil {
			parents[i].parent = true
			question += fmt.Sprintf(" %d", parents[i].number)
		} else {
			question += " -"
		}
	}
	one := all.questions[question]
	if one == nil {
		one = &outcome{number: len(all.order), input: p.Input, parents: parents}
		all.questions[question], all.order = one, append(all.order, one)
	}
	all.byID[p.ID] = one
	name := p.Name
	if p.Tag != "" {
		name += ":" + p.Tag
	}
	all.latest[name+"@"+p.Digest.String()] = one
	return nil
}

// outcome is what the other policy makes of one input.
type outcome struct {
	number  int
	input   digest.Digest
	parents []*outcome // the direct ones, all of them older; nil is one that is not looked at

	once sync.Once
	err  error
	policy.Decision
	parent     bool            // of another
	ancestry   []policy.Parent // of a parent
	index      bool
	failed     bool
	unreadable bool
}

func judgeAll(ctx context.Context, from Ledger, judge Judge, o Options, order []*outcome) error {
	workers, ctx := errgroup.WithContext(ctx)
	var next, done atomic.Int64
	var telling sync.Mutex
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() error {
			for {
				start := int(next.Add(inputsAtOnce)) - inputsAtOnce
				if start >= len(order) {
					return nil
				}
				part := order[start:min(start+inputsAtOnce, len(order))]
				inputs, err := read(ctx, from, part)
				if err != nil {
					return err
				}
				for _, one := range part {
					if ctx.Err() != nil {
						return context.Cause(ctx)
					}
					if err := one.judge(ctx, from, inputs, judge, o.At); err != nil {
						return err
					}
					if n := done.Add(1); o.Progress != nil {
						telling.Lock()
						o.Progress(int(n), len(order))
						telling.Unlock()
					}
				}
			}
		})
	}
	return workers.Wait()
}

// inputsAtOnce is how many inputs a worker reads before it judges them.
const inputsAtOnce = 64

func read(ctx context.Context, from Ledger, part []*outcome) (map[digest.Digest][]byte, error) {
	digests := make([]digest.Digest, len(part))
	for i, one := range part {
		digests[i] = one.input
	}
	return from.InputsOf(ctx, digests)
}

// judge has the parents judged first. Each is judged once, by whoever comes first.
func (one *outcome) judge(ctx context.Context, from Ledger, inputs map[digest.Digest][]byte, judge Judge, at time.Time) error {
	one.once.Do(func() {
		for _, p := range one.parents {
			if p == nil {
				continue
			}
			if one.err = p.judge(ctx, from, inputs, judge, at); one.err != nil {
				return
			}
		}
		one.err = one.decide(ctx, from, inputs, judge, at)
	})
	return one.err
}

func (one *outcome) decide(ctx context.Context, from Ledger, inputs map[digest.Digest][]byte, judge Judge, at time.Time) error {
	raw, err := inputs[one.input], error(nil)
	if raw == nil { // a parent is seldom read along, and what is not there says so
		raw, err = from.InputOf(ctx, one.input)
	}
	if errors.Is(err, oci.ErrNotFound) {
		one.unreadable = true
		return nil
	}
	if err != nil {
		return err
	}
	var input policy.Input
	if err := json.Unmarshal(raw, &input); err != nil {
		one.unreadable = true // it was written by another version
		return nil
	}
	if input.Image.Kind == string(oci.KindIndex) {
		one.index = true
		return nil
	}
	input.Request.Time = at
	input.Parents = one.judged(input.Parents)
	if one.parent {
		one.ancestry = input.Parents
	}
	one.Decision, err = judge.Decide(ctx, &input)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		one.failed = true // and the decision is a block
	}
	return nil
}

// judged are the edges of an input with what the other policy makes of the parents
// in the place of what was decided then, as the gate does after a change of policy.
func (one *outcome) judged(edges []policy.Parent) []policy.Parent {
	var list []policy.Parent
	direct := 0
	replaced := false
	for _, edge := range edges {
		if edge.Depth > 1 {
			if !replaced {
				list = append(list, edge)
			}
			continue
		}
		var parent *outcome
		if direct < len(one.parents) {
			parent = one.parents[direct]
		}
		direct++
		if replaced = parent != nil && edge.Verdict != nil && !parent.unreadable && !parent.index; !replaced {
			list = append(list, edge)
			continue
		}
		edge.Verdict = &policy.ParentVerdict{Action: parent.BeforeMode, Reasons: parent.Reasons}
		list = gate.Ancestry(list, edge, parent.ancestry)
	}
	if list == nil {
		return edges
	}
	return list
}

// compare sums up what is different, once for each image under each name.
func compare(ctx context.Context, from Ledger, past []ledger.Past, byID map[string]*outcome) (Groups, error) {
	var sums Groups
	type image struct {
		name, tag string
		digest    digest.Digest
	}
	changes := map[image]*Change{}
	groups := map[*Change]*Group{}
	for _, p := range past { // oldest first: the newest has the say
		key := image{p.Name, p.Tag, p.Digest}
		now, known := decide(p, byID)
		if !known {
			continue
		}
		before := changes[key]
		group := sums.of(policy.Action(p.Action), now.Action)
		if group == nil {
			delete(groups, before)
			delete(changes, key)
			continue
		}
		c := &Change{
			Reference: reference(p), Digest: p.Digest, Decision: p.ID, Was: policy.Action(p.Action), Now: now.Action,
			Reasons: telling(now.Reasons, now.Action), Pulls: p.Pulls,
		}
		if c.Was == policy.Block {
			var was []policy.Reason
			if err := json.Unmarshal(p.Reasons, &was); err != nil {
				return sums, fmt.Errorf("reading decision %s: %w", p.ID, err)
			}
			c.Reasons = telling(was, policy.Block)
		}
		if before != nil {
			c.Pulls += before.Pulls
			c.judgements = before.judgements
			delete(groups, before)
		}
		if p.Pulls > 0 {
			c.judgements = append(c.judgements, p.ID)
		}
		changes[key], groups[c] = c, group
	}
	if err := countClients(ctx, from, groups); err != nil {
		return sums, err
	}
	for c, group := range groups {
		group.Images = append(group.Images, *c)
		group.Pulls += c.Pulls
	}
	for _, group := range []*Group{&sums.Blocked, &sums.Annotated, &sums.Served} {
		group.sum()
	}
	return sums, nil
}

// countClients finds out who pulled what has changed, for all of it at once.
func countClients(ctx context.Context, from Ledger, groups map[*Change]*Group) error {
	var ids []string
	for c := range groups {
		ids = append(ids, c.judgements...)
	}
	pulls, err := from.PullsOf(ctx, ids)
	if err != nil {
		return err
	}
	for c := range groups {
		c.clients = map[string]int64{}
		for _, id := range c.judgements {
			for _, one := range pulls[id] {
				c.clients[one.Client] += one.Count
			}
		}
	}
	return nil
}

// decide is what becomes of one judgement. What an index was judged by may not be
// among what is looked at.
func decide(p ledger.Past, byID map[string]*outcome) (policy.Decision, bool) {
	one := byID[p.ID]
	if one.unreadable {
		return policy.Decision{}, false
	}
	if !one.index {
		return one.Decision, true
	}
	var known gate.Detail
	if err := json.Unmarshal(p.Detail, &known); err != nil || len(known.Children) == 0 {
		return policy.Decision{}, false
	}
	sum := policy.Decision{Action: policy.Serve}
	blocked := 0
	for _, child := range known.Children {
		judged := byID[child.Decision]
		if judged == nil || judged.unreadable {
			return policy.Decision{}, false
		}
		if judged.Action != policy.Serve {
			sum.Action = policy.Annotate
			sum.Reasons = append(sum.Reasons, judged.Reasons...)
		}
		if judged.Action == policy.Block {
			blocked++
		}
	}
	if blocked == len(known.Children) {
		sum.Action = policy.Block
	}
	return sum, true
}

// of is the group of what changes in this way, or nil.
func (g *Groups) of(was, now policy.Action) *Group {
	switch {
	case was != policy.Block && now == policy.Block:
		return &g.Blocked
	case was == policy.Block && now != policy.Block:
		return &g.Served
	case was == policy.Serve && now == policy.Annotate:
		return &g.Annotated
	}
	return nil
}

// telling are the findings that made a decision what it is.
func telling(reasons []policy.Reason, action policy.Action) []policy.Reason {
	list := []policy.Reason{}
	seen := map[string]bool{}
	for _, r := range reasons {
		if r.Effect == action && !seen[r.Code+r.Msg] {
			seen[r.Code+r.Msg] = true
			list = append(list, r)
		}
	}
	return list
}

func reference(p ledger.Past) string {
	if p.Tag != "" {
		return p.Name + ":" + p.Tag
	}
	return p.Name + "@" + p.Digest.String()
}

func (g *Group) sum() {
	slices.SortFunc(g.Images, func(a, b Change) int {
		return cmp.Or(cmp.Compare(b.Pulls, a.Pulls), cmp.Compare(a.Reference, b.Reference), cmp.Compare(a.Digest, b.Digest))
	})
	if g.Images == nil {
		g.Images = []Change{}
	}
	rules, repositories, clients := counts{}, counts{}, counts{}
	for _, c := range g.Images {
		codes := map[string]bool{}
		for _, reason := range c.Reasons {
			codes[reason.Code] = true
		}
		for code := range codes {
			rules.add(code, c.Pulls)
		}
		ref, err := oci.ParseReference(c.Reference)
		if err == nil {
			repositories.add(ref.Name(), c.Pulls)
		}
		for client, pulls := range c.clients {
			clients.add(client, pulls)
		}
	}
	g.ByRule, g.ByRepository, g.ByClient = rules.list(), repositories.list(), clients.list()
}

type counts map[string]*Count

func (c counts) add(name string, pulls int64) {
	if c[name] == nil {
		c[name] = &Count{Name: name}
	}
	c[name].Images++
	c[name].Pulls += pulls
}

func (c counts) list() []Count {
	list := []Count{}
	for _, one := range c {
		list = append(list, *one)
	}
	slices.SortFunc(list, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.Pulls, a.Pulls), cmp.Compare(b.Images, a.Images), cmp.Compare(a.Name, b.Name))
	})
	return list
}
