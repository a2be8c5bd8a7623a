package policy

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

// Reason is one finding of a rule.
type Reason struct {
	Code     string `json:"code"`
	Msg      string `json:"msg"`
	Solution string `json:"solution,omitempty"`
	Package  string `json:"package,omitempty"` // the Rego package that said it
	Severity string `json:"severity"`          // deny or warn
	// Effect is what became of the finding: block, annotate, none; and why it
	// is not its severity's: "mode", "not yet effective", "exception".
	Effect  Action `json:"effect"`
	Because string `json:"because,omitempty"`
	// Path leads from the image to the parent at fault.
	Path []string `json:"path,omitempty"`
}

// Decision is what the rules say about one input.
type Decision struct {
	Action      Action            `json:"action"`
	Reasons     []Reason          `json:"reasons"`
	Annotations map[string]string `json:"annotations"`
}
