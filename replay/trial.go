package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/policy"
)

// Trials is where what a candidate would have decided otherwise is recorded.
type Trials interface {
	Ledger
	Trials(ctx context.Context, revision string, since time.Time) (map[string]ledger.Trial, error)
	TrialCounts(ctx context.Context, revision string) (ledger.TrialCounts, error)
}

// Trial is what a candidate policy would have decided otherwise about live pulls.
type Trial struct {
	Candidate string    `json:"candidate"` // its revision
	Tried     int64     `json:"tried"`     // judgements since First, whatever the report is narrowed to
	Failed    int64     `json:"failed"`
	Missed    int64     `json:"missed"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Changes   Groups    `json:"changes"`
}

// Tried sums up what is recorded of a candidate, about what was judged since then.
// What it was not asked about counts as decided as it was.
func Tried(ctx context.Context, from Trials, revision string, since time.Time) (*Trial, error) {
	counts, err := from.TrialCounts(ctx, revision)
	if err != nil {
		return nil, err
	}
	differences, err := from.Trials(ctx, revision, since)
	if err != nil {
		return nil, err
	}
	report := &Trial{
		Candidate: revision, Tried: counts.Tried, Failed: counts.Failed, Missed: counts.Missed, First: counts.First, Last: counts.Last,
	}
	var past []ledger.Past
	byID := map[string]*outcome{}
	if len(differences) > 0 {
		err = from.Since(ctx, since, func(p ledger.Past) error {
			one := &outcome{Decision: policy.Decision{Action: policy.Action(p.Action)}}
			if d, differs := differences[p.ID]; differs {
				one.Action, one.failed = policy.Action(d.Action), d.Failed
				if err := json.Unmarshal(d.Reasons, &one.Reasons); err != nil {
					return fmt.Errorf("reading what the candidate would decide about %s: %w", p.ID, err)
				}
			}
			one.index = bytes.Contains(p.Detail, []byte(`"children":[`))
			past, byID[p.ID] = append(past, p), one
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	report.Changes, err = compare(ctx, from, past, byID)
	return report, err
}
