package policy_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/trustgate/trustgate/policies"
	"github.com/trustgate/trustgate/policy"
)

func TestCheckFindsEveryMistakeAtItsPlace(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, rego string
		wants      []string // line:column: message
	}{
		{"no metadata", "deny contains \"no\" if input.image.tag == \"x\"", []string{"3:1: deny has no metadata"}},
		{"no title", "# METADATA\n# custom: {code: acme.x}\ndeny contains \"no\" if input.image.tag == \"x\"", []string{"5:1: deny has metadata without a title"}},
		{"no code", "# METADATA\n# title: X\ndeny contains \"no\" if input.image.tag == \"x\"", []string{"5:1: deny has metadata without custom.code"}},
		{"a code of which nobody says what it is", `deny contains {"code": "acme.x", "msg": "no"} if input.image.tag == "x"`, []string{"3:1: deny reports acme.x, which no metadata describe"}},
		{"two mistakes", "deny contains \"no\" if input.imge.tag == \"x\"\n\nwarn contains \"no\" if input.image.tga == \"x\"", []string{"3:23: ", "5:23: "}},
		{"strict mode", "import data.acme.unused\n\n# METADATA\n# title: X\n# custom: {code: acme.x}\ndeny contains \"no\" if input.image.tag == \"x\"", []string{"3:1: "}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := write(t, map[string]string{"acme.rego": "package trustgate.policies.acme\n\n" + tc.rego + "\n"})
			_, err := policy.Check(t.Context(), policy.Options{Builtin: true, Paths: []string{dir}})
			found := policy.Mistakes(err)
			if len(found) != len(tc.wants) {
				t.Fatalf("it finds %v", err)
			}
			for i, want := range tc.wants {
				if m := found[i]; !strings.HasPrefix(m.Error(), filepath.ToSlash(dir)+"/acme.rego:"+want) || m.Line == 0 {
					t.Errorf("it finds %v, want %s", m, want)
				}
			}
		})
	}
}

func TestCheckAcceptsTheShippedLibraryAndOneDescriptionForSeveralRules(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"acme.rego": `package trustgate.policies.acme

# METADATA
# title: X
# custom: {code: acme.x}
deny contains {"code": "acme.x", "msg": "no"} if input.image.tag == "x"

deny contains {"code": "acme.x", "msg": "no"} if input.image.tag == "y"
`})
	rules, err := policy.Check(t.Context(), policy.Options{Builtin: true, Paths: []string{dir}})
	if err != nil || len(rules) < 20 {
		t.Errorf("%d rules, %v", len(rules), err)
	}
}

// Of one folder alone, the settings and collections of other rules are no mistakes.
func TestPartial(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"acme.rego": "package trustgate.policies.acme\n\ndeny contains \"no\" if input.image.tag == \"x\"\n"})
	o := policy.Options{Builtin: true, Paths: []string{dir}, Collections: []string{"elsewhere"}, Config: map[string]any{"rules": map[string]any{"elsewhere": map[string]any{"x": 1}}}}
	if _, err := policy.Load(t.Context(), o); err == nil || len(policy.Mistakes(err)) != 2 {
		t.Errorf("as a whole it loads: %v", err)
	}
	o.Partial = true
	if _, err := policy.Load(t.Context(), o); err != nil {
		t.Error(err)
	}
	o.Config = map[string]any{"rules": map[string]any{"signature": map[string]any{"signer": "ci"}}}
	if _, err := policy.Load(t.Context(), o); err == nil || !strings.Contains(err.Error(), "did you mean signers?") {
		t.Errorf("a setting of a loaded rule: %v", err)
	}
}

func TestNewRulePassesCheckAndTest(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"acme", "base_images", "x9"} {
		dir := filepath.Join(t.TempDir(), "rules")
		rule, test, err := policy.NewRule(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		o := policy.Options{Builtin: true, Paths: []string{rule}}
		if _, err := policy.Check(t.Context(), o); err != nil {
			t.Error(err)
		}
		tested, err := policy.Test(t.Context(), o, policy.TestOptions{Coverage: true})
		if err != nil || tested.Failed() != 0 || len(tested.Results) != 2 || tested.Results[0].File != filepath.ToSlash(test) || tested.Coverage.Percent != 100 {
			t.Errorf("%s: %+v, %v", name, tested, err)
		}
		if _, _, err := policy.NewRule(dir, name); err == nil || !strings.Contains(err.Error(), "exists already") {
			t.Errorf("written over: %v", err)
		}
		if err := os.Remove(rule); err != nil {
			t.Fatal(err)
		}
		if _, _, err := policy.NewRule(dir, name); err == nil {
			t.Error("the test was written over")
		}
	}
	for _, name := range []string{"", "Acme", "a-b", "../x", "default", "import", "signature", "x_test", "9a"} {
		if _, _, err := policy.NewRule(t.TempDir(), name); err == nil {
			t.Errorf("%q is taken for a name", name)
		}
	}
}

func TestCoverageNamesTheLinesThatNoTestReaches(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"acme.rego": `package trustgate.policies.acme

deny contains "x" if input.image.tag == "x"

deny contains "y" if {
	input.image.tag == "y"
	input.image.size == 0
}
`,
		"acme_test.rego": `package trustgate.policies.acme_test

import data.trustgate.policies.acme
import data.trustgate_test.fixtures as f

test_x if acme.deny == {"x"} with input as f.with_changes({"/image/tag": "x"})
`,
	})
	tested, err := policy.Test(t.Context(), policy.Options{Builtin: true, Paths: []string{dir}}, policy.TestOptions{Coverage: true})
	if err != nil || tested.Failed() != 0 {
		t.Fatal(tested, err)
	}
	c := tested.Coverage
	if len(c.Files) != 1 || c.Percent >= 100 || c.Percent <= 0 || len(c.Files[0].Missed) == 0 {
		t.Fatalf("it is %+v", c)
	}
	for _, line := range c.Files[0].Missed {
		if line < 5 || line > 7 {
			t.Errorf("it says that no test reaches line %d", line)
		}
	}
}

// Rules are compiled against the schema of the configuration, and it says what
// loading says.
func TestConfigSchema(t *testing.T) {
	t.Parallel()
	for rego, says := range map[string]string{
		"some x in data.trustgate.config.exceptions\n\tx.ownr == \"me\"": "there is no x.ownr",
		"data.trustgate.config.rules.vulnerability.max_agee == \"1d\"":   "did you mean max_age?",
		"data.trustgate.config.rules.acme.anything == 1":                 "",
		"data.trustgate.config.own.thing == 1":                           "",
	} {
		dir := write(t, map[string]string{"acme.rego": "package trustgate.policies.acme\n\ndeny contains \"no\" if {\n\t" + rego + "\n}\n"})
		_, err := policy.Load(t.Context(), policy.Options{Builtin: true, Paths: []string{dir}})
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v", rego, err)
		}
	}

	schema := jsonschema.NewCompiler()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(policies.ConfigSchema))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.AddResource("config.json", document); err != nil {
		t.Fatal(err)
	}
	compiled, err := schema.Compile("config.json")
	if err != nil {
		t.Fatal(err)
	}
	for config, good := range map[string]bool{
		`{}`: true,
		`{"routes": {"a": {"mode": "audit", "errors": "block", "scopes": [{"repositories": ["x/*"], "mode": "annotate"}]}}}`: true,
		`{"routes": {"a": {"mode": "shout"}}}`:                                                                                     false,
		`{"routes": {"a": {"scopes": [{"mode": "audit"}]}}}`:                                                                       false,
		`{"exceptions": [{"code": "a", "owner": "b", "reason": "c", "repository": "d/*", "expires": "2030-01-01"}]}`:               true,
		`{"exceptions": [{"code": "a", "owner": "b", "reason": "c", "repository": "d/*", "expires": "2030-01-01", "until": "x"}]}`: false,
		`{"exceptions": [{"owner": "b", "reason": "c", "repository": "d/*", "expires": "2030-01-01"}]}`:                            false,
		`{"rules": {"signature": {"signers": ["a"]}}}`:                                                                             true,
		`{"rules": {"signature": {"signers": [{"repositories": ["a"], "signers": ["b"]}]}}}`:                                       true,
		`{"rules": {"signature": {"signers": []}}}`:                                                                                false,
		`{"rules": {"signature": {"signer": ["a"]}}}`:                                                                              false,
		`{"rules": {"source_tag": {"signers": ["a"]}}}`:                                                                            true,
		`{"rules": {"reproduced": {"at_least": 0}}}`:                                                                               false,
		`{"rules": {"reproduced": {"at_least": 3}}}`:                                                                               true,
		`{"rules": {"packages": {"pending": "wait"}}}`:                                                                             false,
		`{"rules": {"vulnerability": {"severity": "HIGH", "max_age": "36h"}}}`:                                                     true,
		`{"rules": {"vulnerability": {"severity": "high"}}}`:                                                                       false,
		`{"rules": {"vulnerability": {"max_age": 7}}}`:                                                                             false,
		`{"own": {"x": 1}}`: true,
	} {
		document, err := jsonschema.UnmarshalJSON(strings.NewReader(config))
		if err != nil {
			t.Fatal(err)
		}
		var settings map[string]any
		if err := json.Unmarshal([]byte(config), &settings); err != nil {
			t.Fatal(err)
		}
		if err := compiled.Validate(document); (err == nil) != good {
			t.Errorf("by the schema %s is: %v", config, err)
		}
		if _, err := policy.Load(t.Context(), policy.Options{Builtin: true, Config: settings}); (err == nil) != good {
			t.Errorf("%s loads with: %v", config, err)
		}
	}
}

// Whoever is blocked learns which rule failed; where it stands is for the operator.
func TestAnErrorNamesTheRuleAndItsPlace(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ rego, rule, at string }{
		"a rule with metadata": {"# METADATA\n# title: X\n# custom: {code: acme.x}\ndeny contains \"no\" if time.parse_rfc3339_ns(input.image.tag) > 0", "acme.x", "6:23: eval_builtin_error"},
		"a helper":             {"deny contains \"no\" if old\n\nold if {\n\ttime.parse_rfc3339_ns(input.image.tag) > 0\n}", "trustgate.policies.acme.old", "6:2: eval_builtin_error"},
		"two values":           {"deny contains \"no\" if size > 0\n\nsize := 1\n\nsize := 2 if input.image.tag == \"1\"", "trustgate.policies.acme.size", "7:1: eval_conflict_error"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, map[string]string{"acme.rego": "package trustgate.policies.acme\n\n" + tc.rego + "\n"})
			engine, err := policy.Load(t.Context(), policy.Options{Builtin: true, Paths: []string{dir}})
			if err != nil {
				t.Fatal(err)
			}
			d, err := engine.Decide(t.Context(), trusted())
			if d.Action != policy.Block || len(d.Reasons) != 1 || d.Reasons[0].Msg != "the policy could not be evaluated: the rule "+tc.rule+" failed" {
				t.Errorf("it decides %+v", d)
			}
			if err == nil || !strings.Contains(err.Error(), "the rule "+tc.rule+" failed: "+filepath.ToSlash(dir)+"/acme.rego:"+tc.at) {
				t.Errorf("the operator reads %v", err)
			}
		})
	}
}
