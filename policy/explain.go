package policy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Explanation says why a decision is what it is.
type Explanation struct {
	Decision Decision  `json:"decision"`
	Findings []Finding `json:"findings"` // one for each reason of the decision
	Silent   []Silent  `json:"silent"`   // the rules that have no part in it
	Trace    string    `json:"trace,omitempty"`
}

// Finding is a reason with the rules that gave it.
type Finding struct {
	Reason
	Rules []Fired `json:"rules"`
}

// Fired is a rule that gave a reason, and what it read for that.
type Fired struct {
	Package string `json:"package"` // in full
	File    string `json:"file"`
	Line    int    `json:"line"`
	Facts   []Fact `json:"facts"`
}

// Fact is a part of the input or of the data that a rule read on its way to a
// finding.
type Fact struct {
	Path string `json:"path"` // as Rego writes it: input.signatures[0].verified
	// Value is null where there is nothing at the path, and then Missing is true.
	Value   json.RawMessage `json:"value"`
	Missing bool            `json:"missing,omitempty"`
}

// Silent is a rule that found nothing.
type Silent struct {
	Package string `json:"package"`
	Code    string `json:"code"`
	Title   string `json:"title"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Why     string `json:"why"`
	// Condition is the furthest of the rule's conditions that did not hold.
	Condition string `json:"condition,omitempty"`
	At        int    `json:"at,omitempty"` // its line
}

// ExplainOptions narrow an explanation down.
type ExplainOptions struct {
	Code  string // of the rules to explain; empty means all
	Trace bool   // add OPA's own trace of each rule that is explained
}

// Explain judges an input as Decide does and then runs every rule by itself,
// watching what it reads.
func (e *Engine) Explain(ctx context.Context, input *Input, o ExplainOptions) (*Explanation, error) {
	decision, err := e.Decide(ctx, input)
	if err != nil {
		return nil, err
	}
	value, err := input.value()
	if err != nil {
		return nil, fmt.Errorf("reading the input: %w", err)
	}
	txn, err := e.compiled.store.NewTransaction(ctx, storage.TransactionParams{})
	if err != nil {
		return nil, err
	}
	defer e.compiled.store.Abort(ctx, txn)
	defer e.compiled.alone()() // to the end: whoever watches reads terms too
	x := &explaining{Engine: e, input: ast.NewTerm(value), document: input, txn: txn, options: o, fired: map[string][]Fired{}}
	for _, m := range e.compiled.live() {
		if err := x.module(ctx, m); err != nil {
			return nil, err
		}
	}
	explained := &Explanation{Decision: decision, Findings: []Finding{}, Silent: x.silent(decision), Trace: x.trace.String()}
	for _, r := range decision.Reasons {
		if o.Code != "" && r.Code != o.Code {
			continue
		}
		f := Finding{Reason: r, Rules: x.fired[findingKey(r.Package, r.Code, r.Msg)]}
		if f.Rules == nil {
			f.Rules = []Fired{}
		}
		explained.Findings = append(explained.Findings, f)
	}
	return explained, nil
}

// findingKey tells findings apart as the decision shows them. What the aggregator adds
// to a message, when it is not yet effective, is no part of it.
func findingKey(pkg, code, msg string) string {
	msg, _, _ = strings.Cut(oneLine(msg), " (blocks from ")
	return strings.Join([]string{pkg, oneLine(code), msg}, "\x00")
}

type explaining struct {
	*Engine
	input    *ast.Term
	document *Input
	txn      storage.Transaction
	options  ExplainOptions
	fired    map[string][]Fired
	runs     []ran
	trace    strings.Builder
}

// ran is one rule that was run by itself.
type ran struct {
	pkg, file string // the package's name below trustgate.policies
	rule      *ast.Rule
	foreign   string   // the code of another tool's rule, where its findings have none
	codes     []string // that it found
	stopped   *ast.Expr
}

func (x *explaining) module(ctx context.Context, m module) error {
	if m.set != nil {
		return x.foreign(ctx, m)
	}
	name, _ := packageName(m.parsed.Package)
	if name == "" || x.stoodFor(name) {
		return nil
	}
	for _, rule := range x.compiled.compiler.Modules[m.file].Rules {
		set := ruleName(rule)
		if set != SeverityDeny && set != SeverityWarn || rule.Head.Key == nil {
			continue
		}
		if err := x.run(ctx, &ran{pkg: name, file: m.file, rule: rule}, x.input); err != nil {
			return err
		}
	}
	return nil
}

// stoodFor says whether an adapter only passes on what rules say that are run by
// themselves. The one of a cosign policy makes findings of its own.
func (x *explaining) stoodFor(name string) bool {
	return slices.ContainsFunc(x.compiled.adapted, func(p *adapted) bool { return p.Name == name && p.Set.Style != Cosign })
}

// foreign runs the rules of another tool on what they take for the input.
func (x *explaining) foreign(ctx context.Context, m module) error {
	for _, p := range x.compiled.adapted {
		if p.Set != m.set || p.Set.Style == Cosign || !p.Path.Equal(m.parsed.Package.Path) {
			continue
		}
		input := x.input
		if p.Set.Style == Conforma {
			var err error
			if input, err = x.converted(ctx); err != nil {
				return err
			}
		}
		for _, rule := range x.compiled.compiler.Modules[m.file].Rules {
			if name := ruleName(rule); slices.Contains(p.Rules, name) {
				described, _ := p.rule(name, rule, ownAnnotations(inside(x.compiled.compiler.GetAnnotationSet().Chain(rule))))
				if err := x.run(ctx, &ran{pkg: p.Name, file: m.file, rule: rule, foreign: described.Code}, input); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// converted is the input as Conforma has it.
func (x *explaining) converted(ctx context.Context) (*ast.Term, error) {
	var input *ast.Term
	err := topdown.NewQuery(ast.MustParseBody("converted = data.trustgate.lib.styles.conforma")).
		WithCompiler(x.compiled.compiler).WithStore(x.compiled.store).WithTransaction(x.txn).
		WithInput(x.input).WithStrictBuiltinErrors(true).
		Iter(ctx, func(result topdown.QueryResult) error {
			input = result["converted"]
			return nil
		})
	if err == nil && input == nil {
		err = errors.New("it is undefined")
	}
	if err != nil {
		return nil, fmt.Errorf("converting the input: %w", err)
	}
	return input, nil
}

// run evaluates the body of one rule. Nothing is cached between two runs, and
// no index skips a condition, so that everything that is read is seen.
func (x *explaining) run(ctx context.Context, one *ran, input *ast.Term) error {
	rule := one.rule
	pkg := dotted(rule.Module.Package.Path)
	body := rule.Body.Copy()
	body.Append(ast.Equality.Expr(ast.VarTerm("finding"), rule.Head.Key))
	w := newWatch(input, x.compiled.data)
	ctx, cancel := context.WithTimeout(ctx, x.deadline)
	defer cancel()
	stop := topdown.NewCancel()
	defer context.AfterFunc(ctx, stop.Cancel)()
	query := topdown.NewQuery(body).
		WithCompiler(x.compiled.compiler).WithStore(x.compiled.store).WithTransaction(x.txn).
		WithInput(input).WithCancel(stop).WithIndexing(false).WithStrictBuiltinErrors(true).
		WithQueryTracer(w).WithBuiltins(x.compiled.dockerBuiltins())
	if !x.document.Request.Time.IsZero() {
		query = query.WithTime(x.document.Request.Time)
	}
	steps := topdown.NewBufferTracer()
	if x.options.Trace {
		query = query.WithQueryTracer(steps)
	}
	err := query.Iter(ctx, func(result topdown.QueryResult) error {
		code, msg := cmp.Or(one.foreign, one.pkg), ""
		finding := result["finding"]
		if finding == nil {
			return nil
		}
		switch v := finding.Value.(type) {
		case ast.String:
			msg = string(v)
		case ast.Object:
			msg = textOf(v, "msg", "")
			code = textOf(v, "code", code)
		}
		if strings.HasPrefix(one.pkg, Conforma+".") && one.foreign != "" {
			parts := strings.Split(code, ".")
			code = strings.Join(parts[max(len(parts)-2, 0):], ".")
		}
		one.codes = append(one.codes, code)
		key := findingKey(one.pkg, code, msg)
		f := Fired{Package: pkg, File: one.file, Line: rule.Location.Row, Facts: w.result()}
		list := x.fired[key]
		for i := range list {
			if list[i].File == f.File && list[i].Line == f.Line {
				list[i].Facts = joinFacts(list[i].Facts, f.Facts)
				return nil
			}
		}
		x.fired[key] = append(list, f)
		return nil
	})
	if err != nil {
		return fmt.Errorf("explaining the rule at %s:%d: %w", one.file, rule.Location.Row, diagnose(err))
	}
	one.stopped = w.furthest
	x.runs = append(x.runs, *one)
	if x.options.Trace && (x.options.Code == "" || x.about(*one)) {
		fmt.Fprintf(&x.trace, "%s at %s:%d\n", pkg+"."+ruleName(rule), one.file, rule.Location.Row)
		topdown.PrettyTraceWithLocation(&x.trace, *steps)
		x.trace.WriteByte('\n')
	}
	return nil
}

func textOf(o ast.Object, key, otherwise string) string {
	if t := o.Get(ast.StringTerm(key)); t != nil {
		if s, ok := t.Value.(ast.String); ok {
			return string(s)
		}
	}
	return otherwise
}

// about says whether the run was that of a rule of the code that is asked for.
func (x *explaining) about(one ran) bool {
	return slices.Contains(one.codes, x.options.Code) || x.codeOf(one) == x.options.Code
}

// codeOf is the code that a rule would report, as far as it is written down.
func (x *explaining) codeOf(one ran) string {
	if one.foreign != "" {
		return one.foreign
	}
	if code, ok := codeIn(one.rule.Head.Key); ok {
		return code
	}
	if own := ownAnnotations(inside(x.compiled.compiler.GetAnnotationSet().Chain(one.rule))); own != nil {
		if code, ok := own.Custom["code"].(string); ok {
			return code
		}
	}
	return one.pkg
}

// silent lists the rules, by code, that gave no reason.
func (x *explaining) silent(decision Decision) []Silent {
	spoke := map[[2]string]bool{}
	for _, r := range decision.Reasons {
		spoke[[2]string{r.Package, r.Code}] = true
	}
	known := map[[2]string]Rule{}
	for _, r := range x.rules {
		known[[2]string{r.Package, r.Code}] = r
	}
	list := map[[2]string]Silent{}
	for _, one := range x.runs {
		codes := one.codes
		if len(codes) == 0 {
			codes = []string{x.codeOf(one)}
			if one.foreign == "" && x.passesOn(one, codes[0]) {
				continue
			}
		}
		for _, code := range codes {
			key := [2]string{one.pkg, code}
			if spoke[key] || x.options.Code != "" && code != x.options.Code {
				continue
			}
			s := Silent{Package: one.pkg, Code: code, Title: known[key].Title, File: one.file, Line: one.rule.Location.Row}
			switch {
			case len(one.codes) > 0 && one.foreign != "":
				s.Why = "it objects, and its entry of policy.rules (collections, repositories), an exception of its own or a finding that it depends on leaves it out"
			case len(one.codes) > 0:
				s.Why = "it objects, but no collection of policy.collections has it"
			case one.stopped != nil && one.stopped.Location != nil:
				s.Why, s.At = "a condition does not hold", one.stopped.Location.Row
				s.Condition = x.condition(one)
			default:
				s.Why = "it found nothing"
			}
			// Of several rules with one code the first tells.
			if was, there := list[key]; !there || len(one.codes) > 0 && was.Condition != "" {
				list[key] = s
			}
		}
	}
	keys := slices.SortedFunc(maps.Keys(list), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	silent := []Silent{}
	for _, key := range keys {
		silent = append(silent, list[key])
	}
	return silent
}

// passesOn says whether a rule reports what others in its package made, whose
// codes are described at a rule of their own.
func (x *explaining) passesOn(one ran, code string) bool {
	return code == one.pkg && slices.ContainsFunc(x.rules, func(r Rule) bool { return r.Package == one.pkg && r.Code != code })
}

// condition is the one that stopped a rule, as it is written.
func (x *explaining) condition(one ran) string {
	at := one.stopped.Location
	text, _, _ := strings.Cut(string(at.Text), "\n")
	if at.File != one.file || at.Row == one.rule.Location.Row {
		return text
	}
	for _, m := range x.compiled.modules {
		if lines := strings.Split(string(m.raw), "\n"); m.file == at.File && at.Row <= len(lines) {
			return strings.TrimSpace(lines[at.Row-1])
		}
	}
	return text
}
