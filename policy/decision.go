package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Action is what happens to a pull. The order is that of strictness.
type Action string

const (
	Serve    Action = "serve"
	Annotate Action = "annotate" // served, with the findings attached
	Block    Action = "block"
)

// Stricter returns the stricter of two actions. Anything that is not one of
// the three counts as Block.
func Stricter(a, b Action) Action {
	if a.rank() >= b.rank() {
		return a.known()
	}
	return b.known()
}

func (a Action) rank() int {
	switch a {
	case Serve:
		return 0
	case Annotate:
		return 1
	}
	return 2
}

func (a Action) known() Action {
	if a.rank() == 2 {
		return Block
	}
	return a
}

// Mode is how far a verdict bites.
type Mode string

const (
	Enforce      Mode = "enforce"
	AnnotateOnly Mode = "annotate" // a block becomes an annotation
	Audit        Mode = "audit"    // recorded, never shown
)

// The severities of a finding: which of the two sets it came from, or what the
// rule's metadata says instead.
const (
	SeverityDeny = "deny"
	SeverityWarn = "warn"
)

// Reason is one finding of a rule.
type Reason struct {
	Code     string `json:"code"` // stable; what exceptions name
	Title    string `json:"title,omitempty"`
	Msg      string `json:"msg"` // one line for a person: what and why
	Solution string `json:"solution,omitempty"`
	Package  string `json:"package,omitempty"` // the part of the Rego package's name below trustgate.policies
	Severity string `json:"severity"`
	// Effect is what became of the finding; Serve means that it is only
	// recorded. Where it is not the severity's own (deny blocks, warn
	// annotates), Because says why and begins with "mode", "exception" or
	// "not yet effective".
	Effect  Action `json:"effect"`
	Because string `json:"because,omitempty"`
	// Exception is the id of the one that let the finding pass, or "".
	Exception string `json:"exception,omitempty"`
	// Path leads from the image to the parent at fault.
	Path []string `json:"path,omitempty"`
}

// Decision is what the rules say about one input.
type Decision struct {
	Action Action `json:"action"`
	// BeforeMode is the action after exceptions and effective dates, and
	// before the mode. A parent is judged by this one: that its own route only
	// watches does not make it trustworthy.
	BeforeMode Action   `json:"before_mode"`
	Reasons    []Reason `json:"reasons"`
	// Annotations are the findings that annotate, by code.
	Annotations map[string]string `json:"annotations"`
	// Until is when an exception that was used ends or a rule that was announced
	// bites; nil where neither is.
	Until *time.Time `json:"until,omitempty"`
}

// CodeError is the code of the one reason of a decision that could not be made.
const CodeError = "policy.error"

// failed is the decision for an input that could not be judged. The cause
// stays with the operator: it can name files of the policy.
func failed(what string) Decision {
	return Decision{
		Action: Block, BeforeMode: Block,
		Reasons: []Reason{{
			Code: CodeError, Title: "The policy could not be evaluated", Msg: what,
			Solution: "Ask whoever runs TrustGate: its log tells the cause.",
			Severity: SeverityDeny, Effect: Block,
		}},
		Annotations: map[string]string{},
	}
}

const (
	maxDecision = 4 << 20 // bytes of a decision as the rules return it
	maxMessage  = 2000    // characters of each text in a reason
)

// parseDecision reads what data.trustgate.decision returned. It accepts only
// what the contract allows, and no action that is weaker than the effect of one
// of its reasons.
func parseDecision(raw []byte) (Decision, error) {
	if len(raw) > maxDecision {
		return Decision{}, fmt.Errorf("the decision has %d bytes, more than %d", len(raw), maxDecision)
	}
	var d Decision
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return Decision{}, fmt.Errorf("the decision is not of the form that the contract asks for: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Decision{}, errors.New("the decision is followed by something else")
	}
	if !d.Action.valid() || !d.BeforeMode.valid() {
		return Decision{}, fmt.Errorf("the decision's action is %.40q (%.40q before the mode), which is none of serve, annotate and block", d.Action, d.BeforeMode)
	}
	for i := range d.Reasons {
		r := &d.Reasons[i]
		for _, text := range []*string{&r.Code, &r.Title, &r.Msg, &r.Solution, &r.Package, &r.Because, &r.Exception} {
			*text = oneLine(*text)
		}
		for j := range r.Path {
			r.Path[j] = oneLine(r.Path[j])
		}
		switch {
		case r.Code == "" || r.Msg == "":
			return Decision{}, fmt.Errorf("reason %d has no code or no msg", i)
		case r.Severity != SeverityDeny && r.Severity != SeverityWarn:
			return Decision{}, fmt.Errorf("reason %d (%.40s) has the severity %.40q, which is neither deny nor warn", i, r.Code, r.Severity)
		case !r.Effect.valid():
			return Decision{}, fmt.Errorf("reason %d (%.40s) has the effect %.40q, which is none of serve, annotate and block", i, r.Code, r.Effect)
		}
		d.Action = Stricter(d.Action, r.Effect)
	}
	d.BeforeMode = Stricter(d.BeforeMode, d.Action)
	if d.Reasons == nil {
		d.Reasons = []Reason{}
	}
	annotations := make(map[string]string, len(d.Annotations))
	for key, value := range d.Annotations {
		annotations[oneLine(key)] = oneLine(value)
	}
	d.Annotations = annotations
	return d, nil
}

func (a Action) valid() bool { return a == Serve || a == Annotate || a == Block }

// oneLine makes text fit for headers, terminals and logs: findings quote what
// strangers wrote.
func oneLine(s string) string {
	clean := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "\uFFFD"))
	clean = strings.Join(strings.Fields(clean), " ")
	if utf8.RuneCountInString(clean) > maxMessage {
		clean = string([]rune(clean)[:maxMessage-1]) + "…"
	}
	return clean
}
