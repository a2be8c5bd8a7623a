package policies_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/policies"
	"github.com/trustgate/trustgate/policy"
)

func TestRego(t *testing.T) {
	tested, err := policy.Test(t.Context(), policy.Options{Builtin: true}, policy.TestOptions{Shipped: true, Coverage: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range tested.Results {
		t.Run(r.Package+"."+r.Name, func(t *testing.T) {
			if !r.Passed {
				t.Errorf("%s:%d: %s", r.File, r.Line, r.Output)
			}
		})
	}
	packages := map[string]bool{}
	for _, r := range tested.Results {
		packages[r.Package] = true
	}
	for _, r := range shipped(t) {
		if !packages["trustgate.policies."+r.Package+"_test"] {
			t.Errorf("package %s has no tests", r.Package)
		}
	}
	// A line that no test reaches could say anything.
	if tested.Coverage.Percent != 100 || len(tested.Coverage.Files) < 10 {
		t.Errorf("the tests reach %.1f %% of %d files", tested.Coverage.Percent, len(tested.Coverage.Files))
	}
	for _, f := range tested.Coverage.Files {
		for _, line := range f.Missed {
			t.Errorf("%s:%d: no test gets here", f.File, line)
		}
	}
}

func TestRegoIsFormattedAndStrict(t *testing.T) {
	modules := map[string]*ast.Module{}
	err := fs.WalkDir(policies.Files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if path.Ext(p) != ".rego" {
			t.Errorf("%s is embedded and no Rego", p)
			return nil
		}
		raw, err := fs.ReadFile(policies.Files, p)
		if err != nil {
			return err
		}
		formatted, err := format.Source(p, raw)
		if err != nil {
			return err
		}
		if !bytes.Equal(raw, formatted) {
			t.Errorf("%s is not formatted: opa fmt -w policies/%s", p, p)
		}
		modules[p], err = ast.ParseModule(p, string(raw))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	compiler := ast.NewCompiler().WithStrict(true)
	if compiler.Compile(modules); compiler.Failed() {
		t.Error(compiler.Errors)
	}
}

func shipped(t *testing.T) []policy.Rule {
	t.Helper()
	engine, err := policy.Load(t.Context(), policy.Options{Builtin: true})
	if err != nil {
		t.Fatal(err)
	}
	return engine.Rules()
}

func TestEveryShippedRuleIsDescribed(t *testing.T) {
	for _, r := range shipped(t) {
		if r.Title == "" || r.Description == "" || r.Solution == "" || !strings.HasPrefix(r.Code, r.Package+".") {
			t.Errorf("%s:%d: it lacks title, description, custom.solution or a custom.code that begins with its package: %+v", r.File, r.Line, r)
		}
	}
}

// Who chose minimal or trusted-builds gets no more rules without choosing more.
// signed is the name that minimal had first.
func TestCollections(t *testing.T) {
	got := map[string][]string{}
	for _, r := range shipped(t) {
		got[strings.Join(r.Collections, ", ")] = append(got[strings.Join(r.Collections, ", ")], r.Code)
	}
	want := map[string][]string{
		"minimal, signed, trusted-builds, slsa3": {"evidence.errors", "layers.foreign"},
		"minimal, signed, trusted-builds":        {"signature.missing", "signature.reference"},
		"trusted-builds, slsa3":                  {"provenance.builder", "provenance.missing", "source.unknown"},
		"trusted-builds":                         {"parents.unknown", "parents.untrusted", "source.untrusted"},
		"release-signed":                         {"source.tag"},
		"reproducible":                           {"build.reproduced"},
		"packages":                               {"packages.failed", "packages.modified", "packages.pending", "packages.replaced", "packages.setuid"},
		"vulnerabilities":                        {"sbom.missing", "vulnerability.affected", "vulnerability.format", "vulnerability.missing", "vulnerability.scan"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the collections are %v", got)
	}
}

// A code that a rule reports without metadata would have neither title nor
// collection; one with metadata that no rule reports would be a lie.
func TestCodesAndMetadataAgree(t *testing.T) {
	described := map[string]bool{}
	for _, r := range shipped(t) {
		described[r.Code] = true
	}
	reported := map[string]bool{}
	entries, err := fs.ReadDir(policies.Files, "trustgate")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), "_test.rego") {
			continue
		}
		raw, err := fs.ReadFile(policies.Files, path.Join("trustgate", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		ast.WalkTerms(ast.MustParseModule(string(raw)), func(term *ast.Term) bool {
			if o, ok := term.Value.(ast.Object); ok {
				if code := o.Get(ast.StringTerm("code")); code != nil {
					reported[string(code.Value.(ast.String))] = true
				}
			}
			return false
		})
	}
	if !reflect.DeepEqual(described, reported) {
		t.Errorf("metadata describe %v, rules report %v", described, reported)
	}
}

// concerns are the shipped packages in the order in which a reader meets them.
var concerns = []string{"signature", "provenance", "source", "parents", "evidence", "layers", "build", "packages", "sbom", "vulnerability"}

var collectionNames = []string{"minimal", "signed", "trusted-builds", "slsa3", "release-signed", "reproducible", "packages", "vulnerabilities"}

// TestRulesPage holds docs/rules.md to the rules' own metadata.
// UPDATE_DOCS=1 go test ./policies writes it.
func TestRulesPage(t *testing.T) {
	page := filepath.Join("..", "docs", "rules.md")
	var want strings.Builder
	want.WriteString(`# The shipped rules

This page is made of the rules' own metadata: ` + "`UPDATE_DOCS=1 go test ./policies`" + ` writes it.

A rule judges when ` + "`policy.collections`" + ` names one of its collections; an empty list means all rules. ` + "`signed`" + ` is the first name of
` + "`minimal`" + `. A **deny** blocks and a **warn** annotates, unless the mode of the scope, an exception or a date says otherwise.
The code is what exceptions name and what blocked clients see.

`)
	byPackage := map[string][]policy.Rule{}
	for _, r := range shipped(t) {
		byPackage[r.Package] = append(byPackage[r.Package], r)
	}
	collections := map[string][]string{}
	for _, concern := range concerns {
		for _, r := range byPackage[concern] {
			for _, c := range r.Collections {
				collections[c] = append(collections[c], "["+r.Code+"](#"+anchor(r.Code)+")")
			}
		}
	}
	want.WriteString("| collection | rules |\n| --- | --- |\n")
	for _, c := range collectionNames {
		if c != "signed" {
			fmt.Fprintf(&want, "| `%s` | %s |\n", c, strings.Join(collections[c], ", "))
		}
		if collections[c] == nil {
			t.Errorf("no rule is in the collection %s", c)
		}
		delete(collections, c)
	}
	for c := range collections {
		t.Errorf("the page has no place for the collection %s", c)
	}
	for _, concern := range concerns {
		about := described(t, concern)
		fmt.Fprintf(&want, "\n## %s\n\n%s\n", about.Title, about.Description)
		for _, r := range byPackage[concern] {
			severity := r.Severity
			if both[r.Code] {
				severity = "deny or warn, as the configuration says"
			}
			fmt.Fprintf(&want, "\n### %s\n\n**%s.** %s\n\n- severity: %s", r.Code, r.Title, r.Description, severity)
			if r.EffectiveOn != "" {
				fmt.Fprintf(&want, "\n- blocks from: %s", r.EffectiveOn)
			}
			fmt.Fprintf(&want, "\n- collections: %s\n- what to do: %s\n", strings.Join(r.Collections, ", "), r.Solution)
		}
		delete(byPackage, concern)
	}
	for name := range byPackage {
		t.Errorf("the page has no place for the package %s", name)
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(page, []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(raw) != want.String() {
		t.Error("docs/rules.md does not say what the rules' metadata say: UPDATE_DOCS=1 go test ./policies")
	}
}

// both are the codes that a deny and a warn report, by what the configuration says.
var both = map[string]bool{"evidence.errors": true, "packages.pending": true}

// anchor is the name that a heading gets where Markdown is shown.
func anchor(heading string) string { return strings.ReplaceAll(strings.ToLower(heading), ".", "") }

// described are the annotations of a shipped package.
func described(t *testing.T, name string) *ast.Annotations {
	t.Helper()
	raw, err := fs.ReadFile(policies.Files, path.Join("trustgate", name+".rego"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := ast.ParseModuleWithOpts(name, string(raw), ast.ParserOptions{ProcessAnnotation: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range m.Annotations {
		if a.Scope == "package" && a.Title != "" && a.Description != "" {
			return a
		}
	}
	t.Fatalf("the package %s is not described", name)
	return nil
}

func TestReadmeRuleLoads(t *testing.T) {
	raw, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "```rego\n")
	rule, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("README.md shows no rule")
	}
	if formatted, err := format.Source("README.md", []byte(rule)); err != nil || string(formatted) != rule {
		t.Errorf("the rule is not formatted as opa fmt does: %v\n%s", err, formatted)
	}
	file := path.Join(t.TempDir(), "acme.rego")
	if err := os.WriteFile(file, []byte(rule), 0o644); err != nil {
		t.Fatal(err)
	}
	engine, err := policy.Load(t.Context(), policy.Options{Paths: []string{file}})
	if err != nil {
		t.Fatal(err)
	}
	if len(engine.Rules()) != 1 || engine.Rules()[0].Code != "acme.latest" || engine.Rules()[0].EffectiveOn == "" {
		t.Errorf("its metadata are %+v", engine.Rules())
	}
	d, err := engine.Decide(t.Context(), &policy.Input{
		Request: policy.Request{Time: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)},
		Image:   policy.Image{Kind: "image", Reference: "registry.example/app:latest", Tag: "latest"},
	})
	if err != nil || d.Action != policy.Block || d.Reasons[0].Msg != "registry.example/app:latest can be another image tomorrow" {
		t.Errorf("it decides %+v, %v", d, err)
	}
}

// TestSchemaMirrorsInput derives the schema from the Go type and compares all
// of it but the words for people.
func TestSchemaMirrorsInput(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(policies.InputSchema, &schema); err != nil {
		t.Fatal(err)
	}
	definitions, _ := schema["definitions"].(map[string]any)
	delete(schema, "$schema")
	delete(schema, "definitions")
	used := map[string]bool{}
	have := plain(t, schema, definitions, used)
	want := derive(reflect.TypeFor[policy.Input]())
	compare(t, "input", have, want)
	for name := range definitions {
		if !used[name] {
			t.Errorf("nothing uses the definition %s", name)
		}
	}
}

func TestSchemaRefusesWhatIsNotItsOwn(t *testing.T) {
	// A mirror that compares nothing would pass: make sure that it does not.
	type other struct {
		Name string `json:"name"`
		More int    `json:"more,omitempty"`
	}
	if reflect.DeepEqual(derive(reflect.TypeFor[other]()), derive(reflect.TypeFor[policy.Dockerfile]())) {
		t.Error("two different types have one schema")
	}
}

// plain resolves references and drops the words.
func plain(t *testing.T, node any, definitions map[string]any, used map[string]bool) any {
	switch node := node.(type) {
	case map[string]any:
		if ref, ok := node["$ref"].(string); ok {
			name := strings.TrimPrefix(ref, "#/definitions/")
			used[name] = true
			if definitions[name] == nil || len(node) > 1 {
				t.Fatalf("%s leads nowhere, or has company that validators ignore", ref)
			}
			return plain(t, definitions[name], definitions, used)
		}
		out := map[string]any{}
		for key, value := range node {
			if text, ok := value.(string); ok && (key == "description" || key == "title" || key == "format") && text != "" {
				continue
			}
			out[key] = plain(t, value, definitions, used)
		}
		if required, ok := out["required"].([]any); ok {
			slices.SortFunc(required, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
		}
		return out
	case []any:
		out := make([]any, len(node))
		for i, value := range node {
			out[i] = plain(t, value, definitions, used)
		}
		return out
	}
	return node
}

func derive(typ reflect.Type) any {
	switch typ {
	case reflect.TypeFor[json.RawMessage]():
		return map[string]any{}
	case reflect.TypeFor[time.Time](), reflect.TypeFor[digest.Digest]():
		return map[string]any{"type": "string"}
	}
	switch typ.Kind() {
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": derive(typ.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": derive(typ.Elem())}
	case reflect.Pointer:
		of := derive(typ.Elem()).(map[string]any)
		if of["type"] == "object" {
			// OPA takes this for the object, and finds misspelt members of it.
			of["type"] = []any{"object", "null"}
			return of
		}
		return map[string]any{"anyOf": []any{of, map[string]any{"type": "null"}}}
	case reflect.Struct:
		properties, required := map[string]any{}, []any{}
		for i := range typ.NumField() {
			name, options, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			properties[name] = derive(typ.Field(i).Type)
			if options != "omitempty" {
				required = append(required, name)
			}
		}
		slices.SortFunc(required, func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
		return map[string]any{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
	}
	panic("the input has a member of kind " + typ.Kind().String())
}

func compare(t *testing.T, at string, have, want any) {
	h, ok := have.(map[string]any)
	w, ok2 := want.(map[string]any)
	if !ok || !ok2 {
		if !reflect.DeepEqual(have, want) {
			t.Errorf("%s: the schema has %v, the Go type %v", at, have, want)
		}
		return
	}
	for key := range w {
		if _, there := h[key]; !there {
			t.Errorf("%s: the schema lacks %s", at, key)
			continue
		}
		compare(t, at+"."+key, h[key], w[key])
	}
	for key := range h {
		if _, there := w[key]; !there {
			t.Errorf("%s: the Go type lacks %s", at, key)
		}
	}
}
