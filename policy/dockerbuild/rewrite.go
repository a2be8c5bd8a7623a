package dockerbuild

import (
	"fmt"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"
)

// known is a function that gives back its argument. OPA's partial evaluation
// takes input[k] apart member by member, and hands on the members without what
// is unknown in them; an argument in which anything is unknown it leaves alone.
const known = "trustgate.known"

var rewrittenCapabilities = sync.OnceValue(func() *ast.Capabilities {
	return withFunctions(&ast.Builtin{Name: known, Decl: types.NewFunction(types.Args(types.A), types.A)})
})

var (
	knownRef = ast.Ref{ast.VarTerm("trustgate"), ast.StringTerm("known")}
	// answers stand for what the unfulfilled functions would return. They are
	// unknown for every source.
	answers = ast.MustParseRef(`input["the answer of a function"]`)
)

// rewriter makes of compiled rules such whose partial evaluation leaves every
// unknown in the result. It changes nothing of what they mean.
type rewriter struct {
	compiler *ast.Compiler
	vars     int
}

func (w *rewriter) rule(r *ast.Rule) {
	w.closures(r.Head)
	r.Body = w.body(r.Body)
	if r.Else != nil {
		w.rule(r.Else)
	}
}

func (w *rewriter) body(body ast.Body) ast.Body {
	var out ast.Body
	for _, e := range body {
		for _, written := range w.expr(e) {
			out.Append(written)
		}
	}
	return out
}

func (w *rewriter) expr(e *ast.Expr) []*ast.Expr {
	if len(e.With) > 0 {
		return []*ast.Expr{e} // never evaluated partially
	}
	w.closures(e)
	if terms, ok := e.Terms.([]*ast.Term); ok {
		if decl := unfulfilled[terms[0].Value.String()]; decl != nil {
			answer := ast.NewTerm(answers.Append(ast.StringTerm(terms[0].Value.String())))
			if e.Terms = answer; len(terms)-1 > decl.Arity() {
				e.Terms = []*ast.Term{ast.NewTerm(ast.Equality.Ref()), terms[len(terms)-1], answer}
			}
			return []*ast.Expr{e}
		}
	}
	before := w.references(e)
	if len(before) == 0 {
		return []*ast.Expr{e}
	}
	if !e.Negated {
		return append(before, e)
	}
	// What is asked for inside of a negation may be absent.
	inner := e.Copy()
	inner.Negated = false
	found := w.fresh()
	none := ast.ArrayComprehensionTerm(ast.BooleanTerm(true), ast.NewBody(append(before, inner)...))
	return []*ast.Expr{
		located(e, ast.Equality.Expr(found, none)),
		located(e, ast.Equality.Expr(found, ast.ArrayTerm())),
	}
}

// closures rewrites the bodies inside of x.
func (w *rewriter) closures(x any) {
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension:
			x.Body = w.body(x.Body)
		case *ast.SetComprehension:
			x.Body = w.body(x.Body)
		case *ast.ObjectComprehension:
			x.Body = w.body(x.Body)
		case *ast.Every:
			x.Body = w.body(x.Body)
		default:
			return false
		}
		return true
	}).Walk(x)
}

// references lets every iteration of the expression go over a whole value, and
// returns what has to be evaluated before it.
func (w *rewriter) references(e *ast.Expr) []*ast.Expr {
	var before []*ast.Expr
	skip := map[*ast.Term]bool{}
	if terms, ok := e.Terms.([]*ast.Term); ok {
		skip[terms[0]] = true // the name of a function
	}
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.Every:
			return true
		case *ast.Term:
			ref, ok := x.Value.(ast.Ref)
			if !ok || skip[x] {
				return skip[x]
			}
			prefix := w.iterated(ref)
			if prefix == 0 {
				return false
			}
			whole, same := w.fresh(), w.fresh()
			from := ast.NewTerm(ref[:prefix].Copy())
			if prefix == 1 && !ref[0].Equal(ast.InputRootDocument) {
				from = ref[0]
			}
			before = append(before,
				located(e, ast.Equality.Expr(whole, from)),
				located(e, &ast.Expr{Terms: []*ast.Term{ast.NewTerm(knownRef), whole, same}}))
			x.Value = append(ast.Ref{same}, ref[prefix:]...)
		}
		return false
	}).Walk(e)
	return before
}

// iterated is the length of the part of a reference that is walked through, or
// 0. What rules make of several values is taken apart as those are made.
func (w *rewriter) iterated(ref ast.Ref) int {
	if _, ok := ref[0].Value.(ast.Var); !ok {
		return 0
	}
	prefix := 1
	for prefix < len(ref) && ref[prefix].IsGround() {
		prefix++
	}
	if prefix == len(ref) {
		return 0
	}
	if !ref[0].Equal(ast.DefaultRootDocument) {
		return prefix
	}
	for n := 2; n <= prefix; n++ {
		for _, rule := range w.compiler.GetRulesExact(ref[:n]) {
			if rule.Head.RuleKind() == ast.SingleValue {
				return prefix
			}
		}
	}
	return 0
}

func (w *rewriter) fresh() *ast.Term {
	w.vars++
	return ast.VarTerm(fmt.Sprintf("__whole%d__", w.vars))
}

func located(like, e *ast.Expr) *ast.Expr {
	e.Location = like.Location
	for _, t := range e.Terms.([]*ast.Term) {
		if t.Location == nil {
			t.Location = like.Location
		}
	}
	return e
}
