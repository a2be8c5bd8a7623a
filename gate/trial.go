package gate

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// Trial is a candidate policy that judges what the policy in force has judged. It
// runs beside the pulls, records where it would decide otherwise, and changes
// nothing of what is served.
type Trial struct {
	Judge Judge
	// Count is told each result: same, stricter, weaker, failed or missed.
	Count func(result string)
	Queue int // judgements that wait for it; 0 means 1024
}

const (
	trialQueue   = 1024
	trialBatch   = 64 // results that are recorded at once
	trialRecords = 10 * time.Second
)

// trial is a Trial under way; nil tries nothing.
type trial struct {
	Trial
	gate  *Gate
	queue chan string                  // ids of judgements
	tried *lru.Cache[string, struct{}] // those that were queued
	stop  chan struct{}
	once  sync.Once

	mu     sync.Mutex
	missed int64 // since the last record
}

func (g *Gate) startTrial() {
	if g.Trial == nil {
		return
	}
	t := &trial{Trial: *g.Trial, gate: g, stop: make(chan struct{})}
	t.queue = make(chan string, cmp.Or(t.Queue, trialQueue))
	t.tried, _ = lru.New[string, struct{}](memoEntries)
	if t.Count == nil {
		t.Count = func(string) {}
	}
	g.trial = t
	g.work.Go(t.run)
}

// offer has the candidate judge what was admitted, an index by its images, once
// for each judgement. It does not wait.
func (t *trial) offer(a *Admission) {
	if t == nil {
		return
	}
	if a.Manifest.Kind != oci.KindIndex {
		t.offerDecision(a.Verdict.ID)
		return
	}
	for _, c := range a.Children {
		t.offerDecision(c.Decision)
	}
}

func (t *trial) offerDecision(id string) {
	if id == "" {
		return // of what is not judged, or in this tree only
	}
	if known, _ := t.tried.ContainsOrAdd(id, struct{}{}); known {
		return
	}
	select {
	case t.queue <- id:
	default:
		t.tried.Remove(id) // the next pull offers it again
		t.Count("missed")
		t.mu.Lock()
		t.missed++
		t.mu.Unlock()
	}
}

// end lets the one that is being judged be the last.
func (t *trial) end() {
	if t != nil {
		t.once.Do(func() { close(t.stop) })
	}
}

func (t *trial) run() {
	var batch trialRecord
	for {
		select {
		case <-t.stop:
			t.record(&batch)
			return
		case id := <-t.queue:
			t.judge(id, &batch)
			if len(t.queue) == 0 || len(batch.ids) >= trialBatch {
				t.record(&batch)
			}
		}
	}
}

// trialRecord is what has not been recorded yet.
type trialRecord struct {
	ids         []string
	results     []string
	differences []ledger.Trial
	counts      ledger.TrialCounts
}

func (t *trial) judge(id string, batch *trialRecord) {
	result, err := t.decide(id, batch)
	if err != nil {
		t.gate.Log.Warn("the candidate policy could not judge", zap.String("decision", id), zap.Error(err))
	}
	now := t.gate.Now()
	if batch.counts.First.IsZero() {
		batch.counts.First = now
	}
	batch.counts.Last = now
	batch.counts.Tried++
	if result == "failed" {
		batch.counts.Failed++
	}
	batch.ids, batch.results = append(batch.ids, id), append(batch.results, result)
}

// decide has the candidate judge as of when the policy in force did: what differs
// then is the policy.
func (t *trial) decide(id string, batch *trialRecord) (result string, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = "failed", fmt.Errorf("the candidate policy panicked: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(t.gate.background, decisionTime)
	defer cancel()
	j, err := t.gate.Ledger.Get(ctx, id)
	if err != nil {
		return "failed", err
	}
	raw, err := t.gate.Ledger.InputOf(ctx, j.InputDigest)
	if err != nil {
		return "failed", err
	}
	var input policy.Input
	if err := json.Unmarshal(raw, &input); err != nil {
		return "failed", err
	}
	input.Request.Time = j.JudgedAt
	decision, failure := t.Judge.Decide(ctx, &input)
	if failure != nil && ctx.Err() != nil {
		return "failed", failure // it says nothing about the candidate
	}
	result = compared(policy.Action(j.Action), decision.Action)
	if failure != nil {
		result = "failed"
	}
	if policy.Action(j.Action) == decision.Action {
		return result, failure
	}
	reasons, err := json.Marshal(decision.Reasons)
	if err != nil {
		return "failed", err
	}
	batch.differences = append(batch.differences, ledger.Trial{
		Judgement: id, Action: string(decision.Action), Reasons: reasons, Failed: failure != nil, At: t.gate.Now(),
	})
	return result, failure
}

func compared(inForce, candidate policy.Action) string {
	switch {
	case inForce == candidate:
		return "same"
	case policy.Stricter(inForce, candidate) == candidate:
		return "stricter"
	}
	return "weaker"
}

func (t *trial) record(batch *trialRecord) {
	t.mu.Lock()
	missed := t.missed
	t.mu.Unlock()
	if len(batch.ids) == 0 && missed == 0 {
		return
	}
	batch.counts.Missed = missed
	ctx, cancel := context.WithTimeout(context.Background(), trialRecords)
	defer cancel()
	if err := t.gate.Ledger.RecordTrials(ctx, t.Judge.Revision(), batch.differences, batch.counts); err != nil {
		t.gate.Log.Warn("what the candidate policy would decide was not recorded", zap.Error(err))
		for _, id := range batch.ids {
			t.tried.Remove(id) // it is tried again
		}
	} else {
		t.mu.Lock()
		t.missed -= missed
		t.mu.Unlock()
	}
	for _, result := range batch.results {
		t.Count(result) // who has seen the count finds the record
	}
	*batch = trialRecord{}
}
