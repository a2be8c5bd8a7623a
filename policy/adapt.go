package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/trustgate/trustgate/policies"
)

// adapted is a package of another tool's rules. Beside it an adapter is loaded, a
// package trustgate.policies[Name] whose findings are what the rules say.
type adapted struct {
	Name       string // and the code of findings that have none
	Set        *RuleSet
	Path       ast.Ref
	Rules      []string // the names of those that judge
	Exceptions bool     // it has conftest's rule exception
	Predicate  string   // a URI; of a Cosign set
}

// adapt adds an adapter for each package of another tool's rules, and says what such
// packages take for the input.
func (m *material) adapt(o Options, capabilities *ast.Capabilities) error {
	if len(o.Rules) == 0 {
		return nil
	}
	var failures []error
	for i := range o.Rules {
		failures = append(failures, m.moveCosign(i, &o.Rules[i]))
	}
	packages, err := m.foreign()
	if err := errors.Join(append(failures, err)...); err != nil {
		return err
	}
	before := len(m.modules)
	if slices.ContainsFunc(o.Rules, func(s RuleSet) bool { return s.Style == Conforma }) {
		if err := m.readConforma(); err != nil {
			return err
		}
	}
	for _, p := range packages {
		if p.Set.Style != Conftest {
			m.add("trustgate:rules/"+p.Name+"/input", execute(bindInput, p), true)
		}
		if len(p.Rules) > 0 {
			m.add("trustgate:rules/"+p.Name, execute(adapters[p.Set.Style], p), true)
			m.adapted = append(m.adapted, p)
		}
	}
	for i := range o.Rules {
		if set := &o.Rules[i]; !slices.ContainsFunc(m.adapted, func(p *adapted) bool { return p.Set == set }) {
			failures = append(failures, fmt.Errorf("policy.rules[%d]: there is nothing in %s that %s would read: %s",
				i, strings.Join(set.Paths, ", "), set.Style, judging[set.Style]))
		}
	}
	for i := range m.modules[before:] {
		mod := &m.modules[before+i]
		if mod.parsed, err = ast.ParseModuleWithOpts(mod.file, string(mod.raw), mod.parserOptions(capabilities)); err != nil {
			failures = append(failures, diagnose(err))
		}
	}
	return errors.Join(failures...)
}

var judging = map[string]string{
	Conftest: "sets deny, violation or warn, perhaps with a suffix as in deny_root",
	Conforma: "sets deny or warn",
	Cosign:   "allow in the package signature",
}

// foreign lists the packages of other tools' rules. Each belongs to one set alone,
// with what is below it: it may read another input.
func (m *material) foreign() ([]*adapted, error) {
	found := map[string]*adapted{}
	var failures []error
	for _, mod := range m.modules {
		if mod.set == nil {
			continue
		}
		pkg := mod.parsed.Package
		p := found[pkg.Path.String()]
		switch {
		case pkg.Path.HasPrefix(ownRoot):
			failures = append(failures, problem(pkg.Location, "package %s belongs to TrustGate; name its file under policy.paths", dotted(pkg.Path)))
			continue
		case p == nil:
			p = newAdapted(mod.set, pkg.Path)
			found[pkg.Path.String()] = p
		case p.Set != mod.set:
			failures = append(failures, problem(pkg.Location, "package %s is in two entries of policy.rules; put its files into one", dotted(pkg.Path)))
		}
		failures = append(failures, p.read(mod.parsed))
	}
	names := map[string]bool{}
	list := slices.SortedFunc(maps.Values(found), func(a, b *adapted) int { return a.Path.Compare(b.Path) })
	for _, p := range list {
		if names[p.Name] {
			failures = append(failures, fmt.Errorf("the findings of two entries of policy.rules would be called %s; give the files other names", p.Name))
		}
		names[p.Name] = true
		for _, mod := range m.modules {
			if pkg := mod.parsed; mod.set == nil && pkg != nil && pkg.Package.Path.HasPrefix(p.Path) {
				failures = append(failures, problem(pkg.Package.Location, "package %s: an entry of policy.rules has the package %s to itself; rename one of the two", dotted(pkg.Package.Path), dotted(p.Path)))
			}
		}
	}
	return list, errors.Join(failures...)
}

func newAdapted(set *RuleSet, pkg ast.Ref) *adapted {
	p := &adapted{Set: set, Path: pkg, Name: set.Style + "." + words(pkg)}
	if set.Style == Cosign {
		base := path.Base(filepath.ToSlash(filepath.Clean(set.Paths[0])))
		p.Name = Cosign + "." + strings.TrimSuffix(base, ".rego")
		p.Predicate = set.PredicateType
		if uri, ok := PredicateTypes[set.PredicateType]; ok {
			p.Predicate = uri
		}
	}
	return p
}

// words are the parts of a package's name, with dots in between.
func words(pkg ast.Ref) string {
	var all []string
	for _, term := range pkg[1:] {
		if s, ok := term.Value.(ast.String); ok {
			all = append(all, string(s))
		}
	}
	return strings.Join(all, ".")
}

var conftestData = ast.MustParseRef("data.conftest")

// read notes the rules that judge. It refuses what the tool itself would pass over
// without a word.
func (p *adapted) read(parsed *ast.Module) error {
	var failures []error
	for _, r := range parsed.Rules {
		name := ruleName(r)
		severity, _ := severityOf(name)
		switch {
		case p.Set.Style == Cosign && name != "allow", p.Set.Style != Cosign && severity == "":
			p.Exceptions = p.Exceptions || p.Set.Style == Conftest && name == "exception"
			continue
		case p.Set.Style != Cosign && (r.Default || len(r.Head.Args) > 0 || len(r.Head.Ref()) != 1 || r.Head.RuleKind() != ast.MultiValue):
			failures = append(failures, problem(r.Location, "%s must be a set: %s passes over anything else without a word; write “%s contains msg if …”", name, p.Set.Style, name))
		}
		if !slices.Contains(p.Rules, name) {
			p.Rules = append(p.Rules, name)
		}
	}
	slices.Sort(p.Rules)
	ast.WalkRefs(parsed, func(r ast.Ref) bool {
		if r.HasPrefix(conftestData) {
			failures = append(failures, problem(r[0].Location, "%s: an image is judged, and no file that this could name", r))
		}
		return false
	})
	return errors.Join(failures...)
}

var signaturePackage = ast.MustParseRef("data.signature")

// moveCosign gives the package signature of a Cosign set a place of its own: two
// that share one would allow what either of them allows.
func (m *material) moveCosign(number int, set *RuleSet) error {
	if set.Style != Cosign {
		return nil
	}
	own := ast.MustParseRef("data.cosign_policy").Append(ast.StringTerm(fmt.Sprint(number)))
	var failures []error
	for i := range m.modules {
		mod := &m.modules[i]
		if mod.set != set {
			continue
		}
		pkg := mod.parsed.Package
		if !pkg.Path.Equal(signaturePackage) {
			failures = append(failures, problem(pkg.Location, "package %s: a cosign policy is the package signature and nothing beside it", dotted(pkg.Path)))
			continue
		}
		pkg.Path = own
		ast.WalkRefs(mod.parsed, func(r ast.Ref) bool {
			if r.HasPrefix(signaturePackage) {
				failures = append(failures, problem(r[0].Location, "%s: name it without the package that it is in", r))
			}
			return false
		})
	}
	return errors.Join(failures...)
}

// readConforma loads what is always on where Conforma's rules are, and of the library
// that they expect what they do not bring.
func (m *material) readConforma() error {
	brought := slices.ContainsFunc(m.modules, func(mod module) bool {
		return mod.set != nil && mod.parsed.Package.Path.Equal(conformaLibrary) &&
			slices.ContainsFunc(mod.parsed.Rules, func(r *ast.Rule) bool { return ruleName(r) == "result_helper" })
	})
	for _, name := range []string{"builtin.rego", "lib.rego"} {
		if name == "lib.rego" && brought {
			continue
		}
		raw, err := readFile(policies.Files, path.Join("conforma", name), maxModule)
		if err != nil {
			return err
		}
		m.add("trustgate:policies/conforma/"+name, raw, true)
	}
	return nil
}

var conformaLibrary = ast.MustParseRef("data.lib")

// readForeign collects the metadata of other tools' rules, and of each adapter the
// codes that no chosen collection asks for.
func (m *material) readForeign(compiler *ast.Compiler) (rules []Rule, inactive map[string]any, err error) {
	inactive = map[string]any{}
	known := map[[2]string]Rule{}
	bySet := map[*RuleSet][]Rule{}
	var failures []error
	for _, p := range m.adapted {
		off := []any{}
		for _, mod := range m.modules {
			if mod.set != p.Set || !mod.parsed.Package.Path.Equal(p.Path) {
				continue
			}
			for _, rule := range compiler.Modules[mod.file].Rules {
				name := ruleName(rule)
				if !slices.Contains(p.Rules, name) {
					continue
				}
				r, err := p.rule(name, rule, ownAnnotations(inside(compiler.GetAnnotationSet().Chain(rule))))
				failures = append(failures, err)
				key := [2]string{p.Name, r.Code}
				other, twice := known[key]
				switch {
				case twice && p.Set.Style == Conforma && (r.Title != "" || r.Code != p.Code(name)) && !other.alike(r):
					// Of a code with two lists of collections, one would silence the other's rule.
					failures = append(failures, problem(rule.Location, "the code %s has other metadata at %s:%d; give each rule a short_name of its own", r.Code, other.File, other.Line))
				case twice:
					// What only one of several rules says is not said of the code.
					if p.Set.Style != Conforma && !other.alike(r) {
						other.Title, other.Description, other.Solution = "", "", ""
						known[key] = other
					}
				default:
					known[key] = r
					bySet[p.Set] = append(bySet[p.Set], r)
					if !chosen(p.Set.Collections, r.Collections) {
						off = append(off, r.Code)
					}
				}
			}
		}
		inactive[p.Name] = off
	}
	for set, of := range bySet {
		failures = append(failures, checkCollections("collections of the "+set.Style+" rules in "+strings.Join(set.Paths, ", "), set.Collections, of))
	}
	rules = slices.SortedFunc(maps.Values(known), func(a, b Rule) int {
		return cmp.Or(cmp.Compare(a.Package, b.Package), cmp.Compare(a.Code, b.Code))
	})
	return rules, inactive, errors.Join(failures...)
}

// chosen says whether a rule judges: one in no collection does always.
func chosen(asked, of []string) bool {
	return len(asked) == 0 || len(of) == 0 || slices.ContainsFunc(of, func(c string) bool { return slices.Contains(asked, c) })
}

// rule is what the metadata of one rule say in its style. conftest has none, so of
// its rules they only help to understand a finding.
//
// https://conforma.dev/docs/policy/authoring.html
func (p *adapted) rule(name string, rule *ast.Rule, own *ast.Annotations) (Rule, error) {
	r := Rule{
		Package: p.Name, Code: p.Code(name), Severity: cmp.Or(p.Severity(name), SeverityDeny), Collections: []string{},
		File: rule.Location.File, Line: rule.Location.Row, foreign: true,
	}
	if own == nil {
		return r, nil
	}
	r.Title, r.Description = own.Title, own.Description
	r.Solution, _ = own.Custom["solution"].(string)
	shortName, _ := own.Custom["short_name"].(string)
	if p.Set.Style != Conforma || shortName == "" {
		return r, nil
	}
	last, _ := p.Path[len(p.Path)-1].Value.(ast.String)
	r.Code = string(last) + "." + shortName
	var failures []error
	fail := func(format string, args ...any) { failures = append(failures, problem(own.Location, format, args...)) }
	var err error
	if value := own.Custom["collections"]; value != nil {
		if r.Collections, err = textList(value); err != nil {
			fail("custom.collections: %v", err)
		}
	}
	if value := own.Custom["depends_on"]; value != nil {
		if r.DependsOn, err = textList(value); err != nil {
			fail("custom.depends_on: %v", err)
		}
	}
	switch value := own.Custom["severity"]; value {
	case nil:
	case "failure":
		r.Severity, r.declared = SeverityDeny, true
	case "warning":
		r.Severity, r.declared = SeverityWarn, true
	default:
		fail("custom.severity is %v; Conforma has failure and warning", value)
	}
	if value := own.Custom["effective_on"]; value != nil {
		if r.EffectiveOn, err = instantIn(value); err != nil {
			fail("custom.effective_on: %v", err)
		}
	}
	return r, errors.Join(failures...)
}

// adaptedDocument is what the aggregator and the adapters read of the sets: the style
// by adapter, and the repositories that each Conforma set judges.
func (m *material) adaptedDocument() (styles map[string]any, conforma []any) {
	styles, conforma = map[string]any{}, []any{}
	seen := map[*RuleSet]bool{}
	for _, p := range m.adapted {
		styles[p.Name] = p.Set.Style
		if p.Set.Style != Conforma || seen[p.Set] {
			continue
		}
		seen[p.Set] = true
		patterns := []any{"**"}
		if len(p.Set.Repositories) > 0 {
			patterns = patterns[:0]
			for _, pattern := range p.Set.Repositories {
				patterns = append(patterns, pattern)
			}
		}
		conforma = append(conforma, patterns)
	}
	return styles, conforma
}

// readers are the modules that read the input document itself.
func (c *compiled) readers() map[string]*ast.Module {
	modules := maps.Clone(c.compiler.Modules)
	for _, mod := range c.modules {
		if mod.set != nil && mod.set.Style != Conftest {
			delete(modules, mod.file)
		}
	}
	return modules
}

// checkStrict compiles in OPA's strict mode what is written for TrustGate.
func checkStrict(o Options, live []module) error {
	compiler, err := newCompiler(o, nil)
	if err != nil {
		return err
	}
	modules := map[string]*ast.Module{}
	for _, mod := range live {
		if mod.set == nil {
			modules[mod.file] = mod.parsed
		}
	}
	if compiler.WithStrict(true).SetErrorLimit(0).Compile(modules); compiler.Failed() {
		return diagnose(compiler.Errors)
	}
	return nil
}

func execute(t *template.Template, p *adapted) []byte {
	var b strings.Builder
	if err := t.Execute(&b, p); err != nil {
		panic(err) // what the templates ask for is there
	}
	return []byte(b.String())
}

// Code is that of the findings of a rule that have none of their own.
func (p *adapted) Code(rule string) string {
	if _, suffix := severityOf(rule); suffix != "" && p.Set.Style == Conftest {
		return p.Name + "." + suffix
	}
	return p.Name
}

// Severity is the set that the findings of a rule belong to.
func (p *adapted) Severity(rule string) string {
	severity, _ := severityOf(rule)
	return severity
}

// Suffix is what conftest's exceptions call a rule.
func (p *adapted) Suffix(rule string) string {
	_, suffix := severityOf(rule)
	return suffix
}

// Ref is where a rule of the package lies.
func (p *adapted) Ref(rule string) string { return p.Path.Append(ast.StringTerm(rule)).String() }

// Package is the name of the package as Rego writes it.
func (p *adapted) Package() string { return dotted(p.Path) }

// bindInput says what a package takes for the input. A member that is not in the
// schema does not load, so that no rule waits in vain for it.
var bindInput = adapter("input", `# METADATA
# scope: subpackages
# schemas:
# - input: schema.{{.Set.Style}}
package {{.Package}}
`)

var adapters = map[string]*template.Template{
	Conftest: adapter(Conftest, `package trustgate.policies[{{rego .Name}}]
{{$p := .}}{{range .Rules}}
{{$p.Severity .}} contains finding if {
	{{template "scope" $p}}
	{{- if $p.Exceptions}}
	not excepted({{rego ($p.Suffix .)}})
	{{- end}}
	some entry in {{$p.Ref .}}
	finding := data.trustgate.lib.styles.coded(entry, {{rego ($p.Code .)}})
}
{{end}}{{if .Exceptions}}
excepted(rule) if {{.Ref "exception"}}[_][_] == rule
{{end}}`),

	Conforma: adapter(Conforma, `package trustgate.policies[{{rego .Name}}]
{{$p := .}}{{range .Rules}}
{{$p.Severity .}} contains finding if {
	{{template "scope" $p}}
	some entry in {{$p.Ref .}} with input as data.trustgate.lib.styles.conforma
	finding := data.trustgate.lib.styles.result(entry)
	not off(finding)
}
{{end}}
off(finding) if finding.code in data.trustgate.inactive[{{rego .Name}}]
`),

	// As “cosign verify-attestation” does: there must be an attestation, and each
	// must be allowed.
	Cosign: adapter(Cosign, `package trustgate.policies[{{rego .Name}}]

attestations := [attestation |
	some attestation in data.trustgate.lib.vouched(input.attestations)
	attestation.predicate_type == {{rego .Predicate}}
	{{- if .Set.Signers}}
	attestation.signer.name in {{rego .Set.Signers}}
	{{- end}}
]

deny contains {"code": {{rego .Name}}, "msg": msg} if {
	{{template "scope" .}}
	count(attestations) == 0
	msg := concat(" ", ["no signer that counts attests", {{rego .Predicate}}])
}

deny contains {"code": {{rego .Name}}, "msg": msg} if {
	{{template "scope" .}}
	some attestation in attestations
	not allowed(attestation)
	msg := sprintf("the policy does not allow what %s attests as %s", [attestation.signer.name, attestation.predicate_type])
}

allowed(attestation) if {
	statement := data.trustgate.lib.styles.statement(attestation)
	{{.Ref "allow"}} == true with input as statement
}
`),
}

// adapter parses a template of Rego. What is put into one is written as a literal.
func adapter(name, text string) *template.Template {
	t := template.New(name).Funcs(template.FuncMap{"rego": literal})
	template.Must(t.New("scope").Parse(`{{if .Set.Repositories}}data.trustgate.lib.matches({{rego .Set.Repositories}}, data.trustgate.lib.name){{else}}true{{end}}`))
	return template.Must(t.Parse(text))
}

// literal writes a text or a list of texts as Rego does.
func literal(v any) (string, error) {
	value, err := ast.InterfaceToValue(v)
	if err != nil {
		return "", err
	}
	return value.String(), nil
}
