package policy

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// requestFields are the members of input.request on which a verdict can
// depend. The time is not among them: a verdict's lifetime bounds that.
var requestFields = []string{"client.address", "client.identity", "client.user_agent", "route"}

// reachedFields lists the members of input.request that the compiled modules
// can read. Where that cannot be told, it is all of them.
func reachedFields(modules map[string]*ast.Module) []string {
	reached := map[string]bool{}
	reach := func(prefix string) {
		for _, field := range requestFields {
			if prefix == "" || field == prefix || len(field) > len(prefix) && field[:len(prefix)+1] == prefix+"." {
				reached[field] = true
			}
		}
	}
	var visitor *ast.GenericVisitor
	visitor = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.With:
			visitor.Walk(x.Value) // the target is put in place, and not read
			return true
		case ast.Ref:
			if !x[0].Equal(ast.InputRootDocument) {
				return false
			}
			prefix, some := requestPrefix(x)
			if some {
				reach(prefix)
			}
			for _, term := range x[1:] {
				visitor.Walk(term)
			}
			return true
		case ast.Var:
			if x.Equal(ast.InputRootDocument.Value) {
				reach("")
			}
		}
		return false
	})
	for _, m := range modules {
		for _, r := range m.Rules {
			visitor.Walk(r)
		}
	}
	fields := []string{}
	for _, field := range requestFields {
		if reached[field] {
			fields = append(fields, field)
		}
	}
	slices.Sort(fields)
	return fields
}

// requestPrefix says whether a reference into the input reaches the request,
// and which part: "" for all of it.
func requestPrefix(r ast.Ref) (prefix string, reaches bool) {
	if len(r) == 1 {
		return "", true // the whole input
	}
	first, ok := r[1].Value.(ast.String)
	if !ok {
		return "", true
	}
	if first != "request" {
		return "", false
	}
	for _, term := range r[2:] {
		s, ok := term.Value.(ast.String)
		if !ok {
			break
		}
		if prefix != "" {
			prefix += "."
		}
		prefix += string(s)
	}
	return prefix, true
}
