package gate

import (
	"time"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// DecisionLog is told of each decision about an image once it is recorded.
type DecisionLog interface {
	// Decided must not wait: somebody is pulling. The input is the log's own.
	Decided(id string, at time.Time, input *policy.Input, made policy.Decision)
}

// tell hands a recorded verdict to the decision log. An index is judged through
// its images, each of which is told; asked is when the rules were.
func (g *Gate) tell(a *examined, asked time.Time) {
	if g.Decisions == nil || a.Manifest.Kind == oci.KindIndex {
		return
	}
	input := *a.input
	input.Request.Time = asked
	v := a.Verdict
	g.Decisions.Decided(v.ID, v.JudgedAt, &input, policy.Decision{
		Action: v.Action, BeforeMode: v.BeforeMode, Reasons: v.Reasons, Annotations: v.Annotations,
	})
}
