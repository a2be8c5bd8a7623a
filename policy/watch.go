package policy

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// watch follows an evaluation and keeps what it read of the input and of the
// data on the way to each result. What was read on a way that led nowhere counts
// only where leading nowhere was the point: below not, or in a search that
// found nothing.
//
// It sees what the evaluator tells and infers nothing: a value that goes
// through a built-in function is named by where it was read before.
type watch struct {
	input  *ast.Term
	data   map[string]any
	frames map[uint64]*frame
	top    *frame
	// aliases are the places that variables were read from; a place can hold
	// variables in turn.
	aliases map[ast.Var]ast.Ref
	// parts are the places of the input's objects and lists, by identity: what went
	// through rules and lists of its own is still the same object.
	parts map[ast.Value]ast.Ref
	// kept are the facts of rules and calls that the evaluator remembers and
	// does not evaluate a second time.
	kept map[string]reads

	furthest *ast.Expr // of the outermost query, that did not hold
	depth    int
}

// reads are references without variables, by their text.
type reads map[string]ast.Ref

// frame is one query: a body, of a rule or of a part of it, with its variables.
type frame struct {
	event     topdown.Event // the last one, whose bindings are those of now
	steps     []*step
	succeeded reads // nil until it does
	failed    reads
	keep      string // under which its facts are kept
}

// step is one expression of a body that is being evaluated.
type step struct {
	expr     *ast.Expr
	children []*frame
}

func newWatch(input *ast.Term, data map[string]any) *watch {
	w := &watch{
		input: input, data: data,
		frames: map[uint64]*frame{}, aliases: map[ast.Var]ast.Ref{}, parts: map[ast.Value]ast.Ref{}, kept: map[string]reads{},
	}
	w.index(input, ast.Ref{ast.InputRootDocument})
	return w
}

// index remembers where each part of the input is.
func (w *watch) index(t *ast.Term, at ast.Ref) {
	switch v := t.Value.(type) {
	case ast.Object:
		w.parts[v] = at
		v.Foreach(func(key, value *ast.Term) { w.index(value, at.Append(key)) })
	case *ast.Array:
		w.parts[v] = at
		for i := range v.Len() {
			w.index(v.Elem(i), at.Append(ast.InternedTerm(i)))
		}
	}
}

// Enabled is part of topdown.QueryTracer.
func (*watch) Enabled() bool { return true }

// Config is part of topdown.QueryTracer.
func (*watch) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent is part of topdown.QueryTracer.
func (w *watch) TraceEvent(event topdown.Event) {
	f := w.frames[event.QueryID]
	if f == nil {
		f = &frame{failed: reads{}}
		w.frames[event.QueryID] = f
		if w.top == nil {
			w.top = f
		} else if parent := w.frames[event.ParentID]; parent != nil && len(parent.steps) > 0 {
			last := parent.steps[len(parent.steps)-1]
			last.children = append(last.children, f)
			if rule, ok := event.Node.(*ast.Rule); ok {
				w.enter(f, rule, parent, last.expr)
			}
		}
	}
	f.event = event
	switch event.Op {
	case topdown.EvalOp:
		expr, ok := event.Node.(*ast.Expr)
		if !ok {
			return
		}
		f.steps = f.before(expr)
		f.steps = append(f.steps, &step{expr: expr})
		w.alias(expr)
	case topdown.RedoOp:
		if expr, ok := event.Node.(*ast.Expr); ok {
			if kept := f.before(expr); len(kept) < len(f.steps) {
				f.steps = f.steps[:len(kept)+1]
			}
		}
	case topdown.FailOp:
		maps.Copy(f.failed, w.read(f))
		if expr, ok := event.Node.(*ast.Expr); ok && f == w.top && expr.Index >= w.depth {
			w.furthest, w.depth = expr, expr.Index
		}
	case topdown.ExitOp:
		if f.succeeded == nil {
			f.succeeded = reads{}
		}
		maps.Copy(f.succeeded, w.read(f))
		if f.keep != "" {
			w.kept[f.keep] = f.succeeded
		}
	}
}

// before are the steps that come before an expression.
func (f *frame) before(expr *ast.Expr) []*step {
	for i, s := range f.steps {
		if s.expr.Index >= expr.Index {
			return f.steps[:i:i]
		}
	}
	return f.steps
}

// enter learns where the arguments of a call come from.
func (w *watch) enter(f *frame, rule *ast.Rule, parent *frame, call *ast.Expr) {
	if len(rule.Head.Args) == 0 {
		f.keep = rule.Ref().GroundPrefix().String()
		return
	}
	operands := call.Operands()
	if len(operands) < len(rule.Head.Args) || !call.IsCall() || !rule.Ref().Equal(call.Operator()) {
		return
	}
	f.keep = w.callKey(parent, call)
	for i, arg := range rule.Head.Args {
		v, ok := arg.Value.(ast.Var)
		if !ok {
			continue
		}
		delete(w.aliases, v)
		if place := w.place(operands[i]); place != nil {
			if ground, ok := parent.event.Plug(ast.NewTerm(place)).Value.(ast.Ref); ok {
				w.aliases[v] = ground
			}
		}
	}
}

func (w *watch) callKey(f *frame, call *ast.Expr) string {
	var key strings.Builder
	key.WriteString(call.Operator().String())
	for _, operand := range call.Operands() {
		key.WriteByte(' ')
		key.WriteString(f.event.Plug(operand).String())
	}
	return key.String()
}

// alias learns from an equation where a variable comes from.
func (w *watch) alias(expr *ast.Expr) {
	if call, at := objectGet(expr); call != nil {
		if v, ok := call[3].Value.(ast.Var); ok && at != nil {
			if place := w.place(call[0]); place != nil {
				w.aliases[v] = place.Concat(at)
			}
		}
		return
	}
	if !expr.IsEquality() {
		return
	}
	for i := range 2 {
		v, ok := expr.Operand(i).Value.(ast.Var)
		if !ok {
			continue
		}
		if place := w.place(expr.Operand(1 - i)); place != nil && !place[0].Equal(expr.Operand(i)) {
			w.aliases[v] = place
			return
		}
	}
}

// objectGet takes object.get(object, path, otherwise, result) apart.
func objectGet(expr *ast.Expr) (operands []*ast.Term, at []*ast.Term) {
	operands = expr.Operands()
	if !expr.IsCall() || expr.Operator().String() != ast.ObjectGet.Name || len(operands) != 4 {
		return nil, nil
	}
	switch key := operands[1].Value.(type) {
	case ast.String:
		at = []*ast.Term{operands[1]}
	case *ast.Array:
		key.Foreach(func(t *ast.Term) { at = append(at, t) })
	}
	return operands, at
}

// place is where a term is read from: below input or data, or nil.
func (w *watch) place(t *ast.Term) ast.Ref {
	switch v := t.Value.(type) {
	case ast.Var:
		return w.aliases[v]
	case ast.Ref:
		switch {
		case v[0].Equal(ast.InputRootDocument):
			return v
		case v[0].Equal(ast.DefaultRootDocument):
			return v
		}
		if head, ok := v[0].Value.(ast.Var); ok {
			if from := w.aliases[head]; from != nil {
				return from.Concat(v[1:])
			}
		}
	}
	return nil
}

// placeNow is the place of a reference, also where its variable holds a part of the
// input that came through a rule.
func (w *watch) placeNow(f *frame, t *ast.Term) ast.Ref {
	r := t.Value.(ast.Ref)
	if head, ok := r[0].Value.(ast.Var); ok && !r[0].Equal(ast.InputRootDocument) && !r[0].Equal(ast.DefaultRootDocument) {
		switch v := f.event.Plug(ast.NewTerm(head)).Value.(type) {
		case ast.Object:
			if from := w.parts[v]; from != nil {
				return from.Concat(r[1:])
			}
		case *ast.Array:
			if from := w.parts[v]; from != nil {
				return from.Concat(r[1:])
			}
		}
	}
	return w.place(t)
}

// read is everything that led a frame to where it is.
func (w *watch) read(f *frame) reads {
	all := reads{}
	for _, s := range f.steps {
		w.own(f, s.expr, all)
		if len(s.children) == 0 {
			w.remembered(f, s.expr, all)
			continue
		}
		found := false
		for _, child := range s.children {
			if child.succeeded != nil {
				found = true
				maps.Copy(all, child.succeeded)
			}
		}
		for _, child := range s.children {
			if !found {
				maps.Copy(all, child.failed)
			}
		}
	}
	return all
}

// own adds what an expression reads itself. What is inside of a comprehension
// has a frame of its own.
func (w *watch) own(f *frame, expr *ast.Expr, all reads) {
	skip := map[*ast.Term]bool{}
	if call, at := objectGet(expr); call != nil && at != nil {
		if place := w.place(call[0]); place != nil {
			w.add(f, place.Concat(at), all)
			skip[call[0]] = true
		}
	}
	visit := ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.Every:
			return true
		case *ast.Term:
			if skip[x] {
				return true
			}
			if _, isRef := x.Value.(ast.Ref); isRef {
				if place := w.placeNow(f, x); place != nil {
					w.add(f, place, all)
				}
			}
		}
		return false
	})
	switch terms := expr.Terms.(type) {
	case *ast.Term:
		visit.Walk(terms)
	case []*ast.Term:
		for _, t := range terms[1:] {
			visit.Walk(t)
		}
	}
	// A variable that stands for a place is read where it is compared or handed
	// on, and not where it only gets its value.
	if expr.IsEquality() || !expr.IsCall() {
		return
	}
	for _, t := range expr.Operands() {
		if v, ok := t.Value.(ast.Var); ok && !skip[t] && w.aliases[v] != nil {
			w.add(f, w.aliases[v], all)
		}
	}
}

// remembered adds the facts of what the evaluator had evaluated before.
func (w *watch) remembered(f *frame, expr *ast.Expr, all reads) {
	if expr.IsCall() {
		if kept, ok := w.kept[w.callKey(f, expr)]; ok {
			maps.Copy(all, kept)
		}
	}
	ast.WalkRefs(expr, func(r ast.Ref) bool {
		for n := len(r); n > 1; n-- {
			if kept, ok := w.kept[r[:n].String()]; ok {
				maps.Copy(all, kept)
				break
			}
		}
		return false
	})
}

// add notes a place, as far as it is known and holds data.
func (w *watch) add(f *frame, place ast.Ref, all reads) {
	plugged, ok := f.event.Plug(ast.NewTerm(place)).Value.(ast.Ref)
	if !ok {
		return
	}
	ground := plugged.GroundPrefix()
	if ground[0].Equal(ast.DefaultRootDocument) && !w.isData(ground) {
		return
	}
	all[ground.String()] = ground
}

// isData tells data from rules.
func (w *watch) isData(r ast.Ref) bool {
	if len(r) < 2 {
		return false
	}
	if !r.HasPrefix(ownRoot) {
		key, ok := r[1].Value.(ast.String)
		_, there := w.data[string(key)]
		return ok && there
	}
	return r.HasPrefix(configRoot)
}

var configRoot = ast.MustParseRef("data.trustgate.config")

// result is what led the outermost query to its latest result.
func (w *watch) result() []Fact {
	all := w.read(w.top)
	var facts []Fact
	for _, text := range slices.Sorted(maps.Keys(all)) {
		if w.coarse(text, all) {
			continue
		}
		facts = append(facts, w.fact(text, all[text]))
	}
	return facts
}

// coarse says whether parts of the place were read one by one.
func (w *watch) coarse(text string, all reads) bool {
	for other := range all {
		if rest, below := strings.CutPrefix(other, text); below && rest != "" && (rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

func (w *watch) fact(text string, place ast.Ref) Fact {
	f := Fact{Path: text, Value: json.RawMessage("null")}
	value, err := w.find(place)
	if err != nil {
		f.Missing = true
		return f
	}
	plain, err := ast.JSON(value)
	if err != nil {
		f.Missing = true
		return f
	}
	if raw, err := json.Marshal(plain); err == nil {
		f.Value = raw
	}
	return f
}

func (w *watch) find(place ast.Ref) (ast.Value, error) {
	if place[0].Equal(ast.InputRootDocument) {
		return w.input.Value.Find(place[1:])
	}
	data, err := ast.InterfaceToValue(w.data)
	if err != nil {
		return nil, err
	}
	return data.Find(place[1:])
}

// joinFacts adds the facts that are not there yet.
func joinFacts(facts, more []Fact) []Fact {
	for _, f := range more {
		if !slices.ContainsFunc(facts, func(have Fact) bool { return have.Path == f.Path }) {
			facts = append(facts, f)
		}
	}
	slices.SortFunc(facts, func(a, b Fact) int { return strings.Compare(a.Path, b.Path) })
	return facts
}
