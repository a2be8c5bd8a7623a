package dockerbuild

import (
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// dependence finds what a partial evaluation could not decide without.
//
// OPA leaves in its result whatever rests on an unknown. A reference that does
// not reach one may stand in it too, and so may a call of a rule that was not
// evaluated: the result is searched for references that could lead to an
// unknown, through the rules that it calls. Too many are found sometimes, and
// never too few.
type dependence struct {
	compiler *ast.Compiler
	input    ast.Value
	unknown  []ast.Ref
	found    map[string]bool
	seen     map[*ast.Rule]bool
}

// of lists the unknown fields and functions, sorted.
func (d *dependence) of(left *rego.PartialQueries) []string {
	d.found, d.seen = map[string]bool{}, map[*ast.Rule]bool{}
	for _, body := range left.Queries {
		d.visit(body)
	}
	for _, module := range left.Support {
		for _, rule := range module.Rules {
			if !settled(rule, module.Rules) {
				d.visit(rule)
			}
		}
	}
	return slices.Sorted(maps.Keys(d.found))
}

// settled says whether another rule gives the same value without any condition,
// so that it does not matter whether this one does.
func settled(rule *ast.Rule, among []*ast.Rule) bool {
	value := func(r *ast.Rule) bool {
		return r.Head.RuleKind() == ast.SingleValue && len(r.Head.Args) == 0 && r.Else == nil && r.Head.Ref().IsGround() && r.Head.Value.IsGround()
	}
	if !value(rule) {
		return false
	}
	return slices.ContainsFunc(among, func(other *ast.Rule) bool {
		return other != rule && value(other) && !other.Default && always(other.Body) &&
			other.Head.Ref().Equal(rule.Head.Ref()) && (rule.Default || other.Head.Value.Equal(rule.Head.Value))
	})
}

// always says whether a body holds whatever is unknown.
func always(body ast.Body) bool {
	for _, e := range body {
		term, ok := e.Terms.(*ast.Term)
		if !ok || e.Negated || len(e.With) > 0 || !term.Equal(ast.BooleanTerm(true)) {
			return false
		}
	}
	return true
}

func (d *dependence) visit(x any) {
	var visitor *ast.GenericVisitor
	visitor = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr:
			if term, ok := x.Terms.(*ast.Term); ok && len(x.With) == 0 && d.isThere(term) {
				return true
			}
			if terms, ok := x.Terms.([]*ast.Term); ok && len(x.With) == 0 {
				return d.call(visitor, terms)
			}
		case ast.Call:
			return d.call(visitor, x)
		case ast.Ref:
			d.reference(x)
			for _, term := range x[1:] {
				visitor.Walk(term)
			}
			return true
		case ast.Var:
			if x.Equal(ast.InputRootDocument.Value) || x.Equal(ast.DefaultRootDocument.Value) {
				d.found[string(x)] = true
			}
		}
		return false
	})
	visitor.Walk(x)
}

// call says whether it has dealt with the terms of a call.
func (d *dependence) call(visitor *ast.GenericVisitor, terms []*ast.Term) bool {
	if len(terms) == 0 {
		return false
	}
	name := terms[0].Value.String()
	if name == pinImage && len(terms) > 2 && terms[1].Value.Compare(wholeImage) == 0 {
		// It compares its argument with the image itself.
		for _, term := range terms[2:] {
			visitor.Walk(term)
		}
		return true
	}
	return false
}

var (
	wholeImage  = ast.MustParseRef("input.image")
	partialRoot = ast.MustParseRef("data.partial")
)

// isThere says whether an expression asks for nothing but the presence of an
// object or a list of which only parts are unknown.
func (d *dependence) isThere(term *ast.Term) bool {
	ref, ok := term.Value.(ast.Ref)
	if !ok || !ref.IsGround() || !ref[0].Equal(ast.InputRootDocument) {
		return false
	}
	for _, unknown := range d.unknown {
		if ref.HasPrefix(unknown) {
			return false
		}
	}
	value, err := d.input.Find(ref[1:])
	if err != nil {
		return false
	}
	switch value.(type) {
	case ast.Object, *ast.Array:
		return true
	}
	return false
}

func (d *dependence) reference(ref ast.Ref) {
	switch {
	case ref[0].Equal(ast.InputRootDocument):
		for _, unknown := range d.unknown {
			if !overlap(ref, unknown) {
				continue
			}
			switch {
			case unknown.Equal(answers) && len(ref) > len(answers):
				name, _ := ref[len(answers)].Value.(ast.String)
				d.found[string(name)] = true
			case len(ref) >= len(unknown):
				d.found[unknown.String()] = true
			default:
				d.found[ref.String()+" as a whole"] = true
			}
		}
	case ref[0].Equal(ast.DefaultRootDocument) && !ref.HasPrefix(partialRoot):
		for _, rule := range d.compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{IncludeHiddenModules: true}) {
			if !d.seen[rule] {
				d.seen[rule] = true
				d.visit(rule)
			}
		}
	}
}

// overlap says whether two references could lead to the same place, or one to
// a place above the other.
func overlap(a, b ast.Ref) bool {
	for i := 1; i < min(len(a), len(b)); i++ {
		if a[i].IsGround() && b[i].IsGround() && !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}
