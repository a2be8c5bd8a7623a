package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Rule is what the metadata of one rule says.
type Rule struct {
	Package     string   `json:"package"` // below trustgate.policies
	Code        string   `json:"code"`
	Title       string   `json:"title"`
	Description string   `json:"description"`
	Solution    string   `json:"solution"`
	Severity    string   `json:"severity"`               // deny or warn
	EffectiveOn string   `json:"effective_on,omitempty"` // RFC 3339, or a date
	Collections []string `json:"collections"`            // empty: active whatever the configuration chooses
	DependsOn   []string `json:"depends_on,omitempty"`   // codes that say as much when they block
	File        string   `json:"file"`
	Line        int      `json:"line"`

	declared bool // Severity is the metadata's, not the set's
	foreign  bool // of another tool
}

// Packages that judge are trustgate.policies.<name>; all else below trustgate
// belongs to TrustGate.
var (
	ownRoot      = ast.MustParseRef("data.trustgate")
	policiesRoot = ast.MustParseRef("data.trustgate.policies")
)

// packageName returns the <name> of a package trustgate.policies.<name> and
// how far below it the package lies, or "".
func packageName(p *ast.Package) (name string, below int) {
	if !p.Path.HasPrefix(policiesRoot) || len(p.Path) <= len(policiesRoot) {
		return "", 0
	}
	s, ok := p.Path[len(policiesRoot)].Value.(ast.String)
	if !ok {
		return "", 0
	}
	return string(s), len(p.Path) - len(policiesRoot) - 1
}

// checkContract refuses modules whose findings the aggregator would miss, and
// modules that reach into what is not theirs.
func checkContract(modules []module) error {
	shipped := map[string]bool{}
	speaks := map[string]bool{}
	first := map[string]*ast.Location{}
	for _, m := range modules {
		if name, _ := packageName(m.parsed.Package); name != "" && m.shipped {
			shipped[name] = true
		}
	}
	var failures []error
	fail := func(at *ast.Location, format string, args ...any) {
		failures = append(failures, problem(at, format, args...))
	}
	for _, m := range modules {
		pkg := m.parsed.Package
		at := pkg.Location
		name, below := packageName(pkg)
		if !m.shipped && pkg.Path.HasPrefix(ownRoot) {
			if name == "" {
				fail(at, "package %s: what is not below trustgate.policies.<name> belongs to TrustGate; rules go to a package trustgate.policies.<name>, helpers to one outside trustgate", dotted(pkg.Path))
				continue
			}
			if shipped[name] {
				fail(at, "package %s: a shipped package has that name; choose another", dotted(pkg.Path))
				continue
			}
		}
		if name == "" {
			continue
		}
		if first[name] == nil {
			first[name] = at
		}
		for _, r := range m.parsed.Rules {
			set := ruleName(r)
			if set != SeverityDeny && set != SeverityWarn {
				if below == 0 && len(r.Head.Ref()) > 1 && (lastName(r) == SeverityDeny || lastName(r) == SeverityWarn) {
					fail(r.Location, "%s: nobody would read it; findings are the members of %s in a package trustgate.policies.<name>", r.Head.Ref(), lastName(r))
				}
				continue
			}
			switch {
			case below > 0:
				fail(r.Location, "%s in package %s: nobody would read it; findings are read from trustgate.policies.%s and not from packages below it", set, dotted(pkg.Path), name)
			case r.Default || len(r.Head.Args) > 0 || len(r.Head.Ref()) != 1 || r.Head.RuleKind() != ast.MultiValue:
				fail(r.Location, "%s must be a set of findings: write “%s contains {\"code\": …, \"msg\": …} if …”", set, set)
			default:
				speaks[name] = true
			}
		}
	}
	if len(failures) > 0 {
		return errors.Join(failures...)
	}
	for _, name := range slices.Sorted(maps.Keys(first)) {
		if !speaks[name] {
			fail(first[name], "package trustgate.policies.%s has neither deny nor warn, so it judges nothing; helpers go to a package outside trustgate", name)
		}
	}
	if len(speaks) == 0 && len(failures) == 0 {
		return errors.New("the policy has no rules: everything would be served; name a folder under policy.paths or set policy.builtin")
	}
	return errors.Join(failures...)
}

func dotted(r ast.Ref) string { return strings.TrimPrefix(r.String(), "data.") }

func ruleName(r *ast.Rule) string {
	if v, ok := r.Head.Ref()[0].Value.(ast.Var); ok {
		return string(v)
	}
	return ""
}

func lastName(r *ast.Rule) string {
	ref := r.Head.Ref().GroundPrefix()
	s, _ := ref[len(ref)-1].Value.(ast.String)
	return string(s)
}

// readRules collects the metadata of the rules, those of a package and of the
// package as a whole (which has the code "") after one another.
func readRules(compiler *ast.Compiler, modules []module) ([]Rule, error) {
	annotations := compiler.GetAnnotationSet()
	known := map[[2]string]Rule{}
	var failures []error
	for _, m := range modules {
		name, below := packageName(m.parsed.Package)
		if name == "" || below > 0 {
			continue
		}
		if of := annotations.GetPackageScope(m.parsed.Package); of != nil {
			r, err := readRule(name, "", of)
			failures = append(failures, err)
			known[[2]string{name, ""}] = r
		}
		// The compiler's copy is the one that the annotations hang on.
		for _, rule := range compiler.Modules[m.file].Rules {
			set := ruleName(rule)
			if set != SeverityDeny && set != SeverityWarn {
				continue
			}
			r, err := readRule(name, set, inside(annotations.Chain(rule))...)
			if err != nil {
				failures = append(failures, err)
				continue
			}
			if r.File == "" {
				continue // no metadata: the package's own hold
			}
			key := [2]string{name, r.Code}
			if other, twice := known[key]; twice && !other.alike(r) {
				failures = append(failures, fmt.Errorf("%s:%d:1: the code %s has other metadata at %s:%d; give each rule a custom.code of its own", r.File, r.Line, r.Code, other.File, other.Line))
				continue
			} else if !twice {
				known[key] = r
			}
		}
	}
	rules := slices.SortedFunc(maps.Values(known), func(a, b Rule) int {
		return cmp.Or(cmp.Compare(a.Package, b.Package), cmp.Compare(a.Code, b.Code))
	})
	return rules, errors.Join(failures...)
}

// inside lists the annotations of a rule, the closest first, without those
// that are no annotation of it.
func inside(chain ast.AnnotationsRefSet) []*ast.Annotations {
	var all []*ast.Annotations
	for _, ref := range chain {
		if ref.Annotations != nil {
			all = append(all, ref.Annotations)
		}
	}
	return all
}

func (r Rule) alike(o Rule) bool {
	return r.Severity == o.Severity && r.declared == o.declared && r.EffectiveOn == o.EffectiveOn &&
		r.Title == o.Title && r.Solution == o.Solution && slices.Equal(r.Collections, o.Collections)
}

// readRule merges annotations, the closest to the rule first. What only the
// package says leaves File empty.
func readRule(name, set string, chain ...*ast.Annotations) (Rule, error) {
	r := Rule{Package: name, Severity: set, Collections: []string{}}
	if set != "" {
		r.Code = name
	}
	own := func(a *ast.Annotations) bool { return a.Scope == "rule" || a.Scope == "document" }
	var failures []error
	for _, a := range slices.Backward(chain) {
		fail := func(format string, args ...any) { failures = append(failures, problem(a.Location, format, args...)) }
		if own(a) || set == "" {
			r.File, r.Line = a.Location.File, a.Location.Row
			r.Title, r.Description = cmp.Or(a.Title, r.Title), cmp.Or(a.Description, r.Description)
		}
		for key, value := range a.Custom {
			text, isText := value.(string)
			switch key {
			case "code":
				if !isText || text == "" || !own(a) {
					fail("custom.code must be a text at a rule")
					continue
				}
				r.Code = text
			case "solution":
				if !isText {
					fail("custom.solution must be a text")
				}
				r.Solution = text
			case "severity":
				if text != SeverityDeny && text != SeverityWarn {
					fail("custom.severity is %v; it must be deny or warn", value)
				}
				r.Severity, r.declared = text, true
			case "effective_on":
				var err error
				if r.EffectiveOn, err = instantIn(value); err != nil {
					fail("custom.effective_on: %v", err)
				}
			case "collections":
				names, err := textList(value)
				if err != nil {
					fail("custom.collections: %v", err)
				}
				r.Collections = names
			}
		}
	}
	return r, errors.Join(failures...)
}

// instantIn reads an instant of metadata: YAML has times of its own.
func instantIn(value any) (string, error) {
	text, _ := value.(string)
	if t, ok := value.(time.Time); ok {
		text = t.UTC().Format(time.RFC3339)
	}
	return text, checkInstant(text)
}

// checkInstant accepts what the aggregator can compare: RFC 3339 with a zone,
// or a date, which means its beginning in UTC.
func checkInstant(text string) error {
	t := readInstant(text)
	if t.IsZero() {
		return fmt.Errorf("%q is neither a date (2026-01-31) nor a time (2026-01-31T12:00:00Z)", text)
	}
	if t.Year() < 1970 || t.Year() > 2200 {
		return fmt.Errorf("%q lies outside of the years 1970 to 2200", text)
	}
	return nil
}

// readInstant reads what checkInstant accepts; the zero time is none.
func readInstant(text string) time.Time {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t
		}
	}
	return time.Time{}
}

func textList(value any) ([]string, error) {
	list, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("%v is not a list of names", value)
	}
	names := make([]string, 0, len(list))
	for _, v := range list {
		s, ok := v.(string)
		if !ok || s == "" {
			return nil, fmt.Errorf("%v is not a name", v)
		}
		names = append(names, s)
	}
	return names, nil
}

// rulesDocument is what the aggregator reads at data.trustgate.rules.
func rulesDocument(rules []Rule) map[string]any {
	doc := map[string]any{}
	for _, r := range rules {
		of, ok := doc[r.Package].(map[string]any)
		if !ok {
			of = map[string]any{}
			doc[r.Package] = of
		}
		collections := []any{}
		for _, c := range r.Collections {
			collections = append(collections, c)
		}
		entry := map[string]any{
			"title": r.Title, "solution": r.Solution, "effective_on": r.EffectiveOn, "collections": collections,
		}
		if len(r.DependsOn) > 0 {
			codes := []any{}
			for _, code := range r.DependsOn {
				codes = append(codes, code)
			}
			entry["depends_on"] = codes
		}
		if r.foreign {
			entry["collections"] = []any{} // its set has chosen
		}
		if r.declared {
			entry["severity"] = r.Severity
		}
		of[r.Code] = entry
	}
	return doc
}

// checkCollections refuses a name that no rule carries: it would silence rules
// without anybody noticing.
func checkCollections(at string, chosen []string, rules []Rule) error {
	var known []string
	for _, r := range rules {
		known = append(known, r.Collections...)
	}
	slices.Sort(known)
	known = slices.Compact(known)
	var failures []error
	for _, c := range chosen {
		if slices.Contains(known, c) {
			continue
		}
		err := fmt.Errorf("%s: no loaded rule belongs to %q; there is %s", at, c, cmp.Or(strings.Join(known, ", "), "none"))
		if near := nearest(c, known); near != "" {
			err = fmt.Errorf("%s: no loaded rule belongs to %q; did you mean %s?", at, c, near)
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}
