package policy_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"path"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/policies"
	"github.com/trustgate/trustgate/policy"
)

const bundled = `package trustgate.policies.acme

# METADATA
# title: X
# custom: {code: acme.x}
deny contains {"code": "acme.x", "msg": "no"} if input.image.tag == "x"
`

func TestBundlesAreHeldToWhatFilesAre(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		options policy.Options
		bundles policy.Bundles
		want    string // of the error; "" is none
	}{
		{"rules and data", policy.Options{Builtin: true}, policy.Bundles{
			Modules: map[string][]byte{"acme/x.rego": []byte(bundled)},
			Data:    map[string]any{"trustgate": map[string]any{"config": map[string]any{"rules": map[string]any{"acme": map[string]any{"a": 1}}}}, "teams": map[string]any{}},
		}, ""},
		{"rules alone", policy.Options{}, policy.Bundles{Modules: map[string][]byte{"acme/x.rego": []byte(bundled)}}, ""},
		{"nothing beside the shipped rules", policy.Options{Builtin: true}, policy.Bundles{}, ""},
		{"nothing at all", policy.Options{}, policy.Bundles{}, "the policy has no rules"},
		{"a syntax error", policy.Options{Builtin: true}, policy.Bundles{Modules: map[string][]byte{"acme/x.rego": []byte("package a\nx :=")}}, "bundle:acme/x.rego:2:"},
		{"a misspelt field", policy.Options{Builtin: true}, policy.Bundles{Modules: map[string][]byte{"acme/x.rego": []byte(strings.Replace(bundled, "tag", "tga", 1))}}, "did you mean tag?"},
		{"the network", policy.Options{Builtin: true}, policy.Bundles{Modules: map[string][]byte{"acme/x.rego": []byte(strings.Replace(bundled, `== "x"`, `== net.lookup_ip_addr("x")[_]`, 1))}}, "rules have no access to the network"},
		{"the decision", policy.Options{Builtin: true}, policy.Bundles{Modules: map[string][]byte{"acme/x.rego": []byte("package trustgate\n\ndecision := 1\n")}}, "belongs to TrustGate"},
		{"the library", policy.Options{}, policy.Bundles{Modules: map[string][]byte{"acme/x.rego": []byte("package trustgate.lib\n\nx := 1\n")}}, "belongs to TrustGate"},
		{"a shipped package", policy.Options{Builtin: true}, policy.Bundles{Modules: map[string][]byte{"acme/x.rego": []byte(strings.Replace(bundled, "acme", "signature", 1))}}, "a shipped package has that name"},
		{"the name of a shipped package that is not loaded", policy.Options{}, policy.Bundles{Modules: map[string][]byte{"acme/x.rego": []byte(strings.Replace(bundled, "acme", "signature", 1))}}, ""},
		{"data of the library", policy.Options{Builtin: true}, policy.Bundles{Data: map[string]any{"trustgate": map[string]any{"collections": []any{}}}}, "bundles may add to trustgate.config only"},
		{"a setting that the configuration has too", policy.Options{Builtin: true, Config: map[string]any{"rules": map[string]any{"packages": map[string]any{"pending": "block"}}}}, policy.Bundles{
			Data: map[string]any{"trustgate": map[string]any{"config": map[string]any{"rules": map[string]any{"packages": map[string]any{"pending": "ignore"}}}}},
		}, "a bundle of policy.opa sets rules.packages.pending, which the configuration file sets too"},
		{"a member that TrustGate does not know", policy.Options{Builtin: true}, policy.Bundles{
			Data: map[string]any{"trustgate": map[string]any{"config": map[string]any{"teams": []any{"acme"}}}},
		}, ""},
		{"a mode", policy.Options{Builtin: true, Config: map[string]any{"routes": map[string]any{"a.example": map[string]any{}}}}, policy.Bundles{
			Data: map[string]any{"trustgate": map[string]any{"config": map[string]any{"routes": map[string]any{"a.example": map[string]any{"mode": "audit"}}}}},
		}, "it holds data at trustgate.config.routes, which only the configuration sets"},
		{"the mode of a scope", policy.Options{Builtin: true, Config: map[string]any{"routes": map[string]any{"a.example": map[string]any{"mode": "enforce", "errors": "block"}}}}, policy.Bundles{
			Data: map[string]any{"trustgate": map[string]any{"config": map[string]any{"routes": map[string]any{"a.example": map[string]any{"scopes": []any{map[string]any{"repositories": []any{"**"}, "mode": "audit"}}}}}}},
		}, "it holds data at trustgate.config.routes"},
		{"an exception", policy.Options{Builtin: true}, policy.Bundles{
			Data: map[string]any{"trustgate": map[string]any{"config": map[string]any{"exceptions": []any{map[string]any{"code": "signature.missing", "repository": "**", "owner": "o", "reason": "r", "expires": "2199-01-01"}}}}},
		}, "it holds data at trustgate.config.exceptions, which only the configuration sets"},
		{"a misspelt setting", policy.Options{Builtin: true}, policy.Bundles{
			Data: map[string]any{"trustgate": map[string]any{"config": map[string]any{"rules": map[string]any{"sigature": map[string]any{}}}}},
		}, "did you mean signature?"},
		{"masking", policy.Options{Builtin: true}, policy.Bundles{Modules: map[string][]byte{"acme/m.rego": []byte("package system.log\n\nmask contains \"/input/image\" if input.input.image\n")}}, ""},
		{"masking that reaches the network", policy.Options{Builtin: true}, policy.Bundles{Modules: map[string][]byte{"acme/m.rego": []byte("package system.log\n\nmask contains x if x := http.send({})\n")}}, "bundle:acme/m.rego:3:25: http.send in package system.log"},
		{"masking that pretends to another function", policy.Options{Builtin: true}, policy.Bundles{Modules: map[string][]byte{"acme/m.rego": []byte("package system.log\n\nmask contains x if x := data.a.f(1) with data.a.f as http.send\n")}}, "http.send in package system.log"},
		{"a rule over OPA's own data", policy.Options{Builtin: true}, policy.Bundles{Modules: map[string][]byte{"acme/x.rego": []byte(strings.Replace(bundled, `"x"`, "data.system.x", 1))}}, "there for OPA only"},
		{"rules in a file that is named as a test", policy.Options{Builtin: true}, policy.Bundles{Modules: map[string][]byte{"acme/x_test.rego": []byte(bundled)}}, "bundle:acme/x_test.rego: it has the name of a test"},
		{"a module that is too large", policy.Options{Builtin: true}, policy.Bundles{Modules: map[string][]byte{"acme/x.rego": bytes.Repeat([]byte("#"), 4<<20+1)}}, "more than 4194304 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.options.Bundles = &tc.bundles
			_, err := policy.Load(t.Context(), tc.options)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("it says %v, want %q", err, tc.want)
			}
		})
	}
}

func TestBundleChangesTheRevision(t *testing.T) {
	t.Parallel()
	revision := func(rego string) string {
		engine, err := policy.Load(t.Context(), policy.Options{Builtin: true, Bundles: &policy.Bundles{Modules: map[string][]byte{"acme/x.rego": []byte(rego)}}})
		if err != nil {
			t.Fatal(err)
		}
		return engine.Revision()
	}
	if revision(bundled) == revision(strings.Replace(bundled, `"x"`, `"y"`, 1)) {
		t.Error("two policies have one revision")
	}
}

// TestBundleMayCarryTheShippedLibrary: opa build demands the functions that rules
// call.
func TestBundleMayCarryTheShippedLibrary(t *testing.T) {
	t.Parallel()
	modules := map[string][]byte{"acme/x.rego": []byte(strings.Replace(bundled, `if input.image.tag == "x"`, "if count(data.trustgate.lib.vouched(input.attestations)) == 0", 1))}
	err := fs.WalkDir(policies.Files, "lib", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(name, "_test.rego") {
			return err
		}
		modules[path.Join("acme", name)], err = fs.ReadFile(policies.Files, name)
		return err
	})
	if err != nil || len(modules) < 4 {
		t.Fatalf("%d modules, %v", len(modules), err)
	}
	load := func() error {
		_, err := policy.Load(t.Context(), policy.Options{Builtin: true, Bundles: &policy.Bundles{Modules: modules}})
		return err
	}
	if err := load(); err != nil {
		t.Error(err)
	}
	modules["acme/lib/main.rego"] = append(bytes.Clone(modules["acme/lib/main.rego"]), "\nmore := 1\n"...)
	if err := load(); err == nil || !strings.Contains(err.Error(), "belongs to TrustGate") {
		t.Errorf("one that was changed: %v", err)
	}
}

// FuzzBundle: no module and no data make an image pass that the shipped rules block.
func FuzzBundle(f *testing.F) {
	for _, data := range []string{
		`{"trustgate": null, "teams": {}}`,
		`{"trustgate": {"config": {"routes": {"a.example": {"mode": "audit"}}}}}`,
		`{"trustgate": {"config": {"routes": {"a.example": {"scopes": [{"repositories": ["**"], "mode": "audit"}]}}}}}`,
		`{"trustgate": {"config": {"exceptions": [{"code": "signature.missing", "repository": "**", "owner": "o", "reason": "r", "expires": "2199-01-01"}]}}}`,
		`{"trustgate": {"config": {"rules": {"signature": {"signers": ["ci"]}, "packages": {"pending": "ignore"}}, "acme": 1}}}`,
		`{"trustgate": {"policies": {"signature": {"deny": []}}}}`,
		`{"system": {"bundles": {}}}`,
	} {
		f.Add([]byte(bundled), []byte(data))
	}
	for _, module := range []string{
		bundled,
		"package trustgate\n\ndecision := {\"action\": \"serve\"}\n",
		"package trustgate.policies.signature\n\ndeny := set()\n",
		"package trustgate.policies\n\nsignature.deny := set()\n",
		"package data.trustgate\n",
		"package system.log\n\nmask contains \"/input\"\n",
		"package system.trustgate\n\nimport data.trustgate.config as c\n",
		"package a\n\nx[y] := z if { some y, z in data }\n",
		"package trustgate.policies.acme\n\ndeny contains 1\n\nwarn contains {\"msg\": 2, \"effect\": \"serve\"}\n",
	} {
		f.Add([]byte(module), []byte("{}"))
	}
	// As a configuration is loaded, of which a bundle must not change what it left open.
	config := map[string]any{"routes": map[string]any{"a.example": map[string]any{}}}
	input := &policy.Input{Request: policy.Request{Route: "a.example"}, Image: policy.Image{Kind: "image", Reference: "a.example/b:1", Registry: "a.example", Repository: "b", Tag: "1"}}
	f.Fuzz(func(t *testing.T, module, data []byte) {
		var root map[string]any
		if json.Unmarshal(data, &root) != nil {
			return
		}
		engine, err := policy.Load(t.Context(), policy.Options{Builtin: true, Config: config, Bundles: &policy.Bundles{Modules: map[string][]byte{"x.rego": module}, Data: root}})
		if err != nil {
			return
		}
		decision, err := engine.Decide(t.Context(), input)
		if decision.Action != policy.Block {
			raw, _ := json.Marshal(decision)
			t.Errorf("it passes by %q and %q: %s, %v", module, data, raw, err)
		}
	})
}
