package policy

import (
	"context"
	"errors"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Check does what Load does and asks more of a team's own modules: OPA's strict
// mode, tests that parse, and metadata with title and custom.code at each rule.
// It returns the rules; Mistakes takes the error apart.
func Check(ctx context.Context, o Options) ([]Rule, error) {
	c, err := compile(ctx, o, stages{tests: true, strict: true})
	if err != nil {
		return nil, err
	}
	return withCode(c.rules), nil
}

// withCode leaves out what holds for a package as a whole.
func withCode(rules []Rule) []Rule {
	var all []Rule
	for _, r := range rules {
		if r.Code != "" {
			all = append(all, r)
		}
	}
	return all
}

// checkMetadata demands of each rule deny and warn of a team that whoever is
// blocked by it learns its name: a code that metadata describe, with a title.
func checkMetadata(compiler *ast.Compiler, modules []module, rules []Rule) error {
	described := map[[2]string]Rule{}
	for _, r := range rules {
		described[[2]string{r.Package, r.Code}] = r
	}
	annotations := compiler.GetAnnotationSet()
	var failures []error
	for _, m := range modules {
		name, below := packageName(m.parsed.Package)
		if m.shipped || name == "" || below > 0 {
			continue
		}
		for _, rule := range compiler.Modules[m.file].Rules {
			set := ruleName(rule)
			if set != SeverityDeny && set != SeverityWarn {
				continue
			}
			fail := func(format string, args ...any) {
				failures = append(failures, problem(rule.Location, format, args...))
			}
			own := ownAnnotations(inside(annotations.Chain(rule)))
			code, fixed := fixedCode(m.parsed, rule)
			switch {
			case own == nil && !fixed:
				fail("%s has no metadata: write “# METADATA” with “# title: …” and “# custom: {code: %s.…}” above it", set, name)
			case own == nil:
				if _, ok := described[[2]string{name, code}]; !ok {
					fail("%s reports %s, which no metadata describe: write “# METADATA” with “# title: …” and “# custom: {code: %s}” above it", set, code, code)
				}
			default:
				if own.Title == "" {
					fail("%s has metadata without a title: write “# title: …”, what the rule demands in a few words", set)
				}
				declared, _ := own.Custom["code"].(string)
				switch {
				case declared == "":
					fail("%s has metadata without custom.code: write “# custom: {code: %s.…}”, the name that exceptions and blocked clients get", set, name)
				case fixed && declared != code:
					fail("%s reports %s and its metadata describe %s; they must agree", set, code, declared)
				}
			}
		}
	}
	return errors.Join(failures...)
}

// ownAnnotations are those of the rule, without those of its package.
func ownAnnotations(chain []*ast.Annotations) *ast.Annotations {
	for _, a := range chain {
		if a.Scope == "rule" || a.Scope == "document" {
			return a
		}
	}
	return nil
}

// fixedCode is the code that the rule's head, as it was written, always reports.
func fixedCode(parsed *ast.Module, compiled *ast.Rule) (string, bool) {
	for _, written := range parsed.Rules {
		if written.Location != nil && compiled.Location != nil && written.Location.Row == compiled.Location.Row && written.Location.Col == compiled.Location.Col {
			return codeIn(written.Head.Key)
		}
	}
	return "", false
}

// codeIn is the member code of an object that is written out.
func codeIn(finding *ast.Term) (string, bool) {
	if finding == nil {
		return "", false
	}
	o, ok := finding.Value.(ast.Object)
	if !ok {
		return "", false
	}
	code := o.Get(ast.StringTerm("code"))
	if code == nil {
		return "", false
	}
	s, ok := code.Value.(ast.String)
	return string(s), ok
}
