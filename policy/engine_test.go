package policy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/trustgate/trustgate/policies"
	"github.com/trustgate/trustgate/policy"
)

// write puts files into a new folder and returns it.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// team loads one file of rules, without the shipped ones.
func team(t *testing.T, rego string, config map[string]any) (*policy.Engine, error) {
	t.Helper()
	return policy.Load(t.Context(), policy.Options{Paths: []string{write(t, map[string]string{"acme.rego": rego})}, Config: config})
}

// engines are those of mustLoad that rest on no file, by their options. Loading is
// most of what a test costs.
var engines sync.Map

func mustLoad(t *testing.T, o policy.Options) *policy.Engine {
	t.Helper()
	load := func() (*policy.Engine, error) { return policy.Load(context.Background(), o) }
	if o.Paths == nil && o.Data == nil && o.DockerBuild == nil && o.Rules == nil && o.Bundles == nil {
		key, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		shared, _ := engines.LoadOrStore(string(key), sync.OnceValues(load))
		load = shared.(func() (*policy.Engine, error))
	}
	engine, err := load()
	if err != nil {
		t.Fatal(err)
	}
	return engine
}

func decide(t *testing.T, e *policy.Engine, input *policy.Input) policy.Decision {
	t.Helper()
	d, err := e.Decide(t.Context(), input)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func codes(d policy.Decision) []string {
	var all []string
	for _, r := range d.Reasons {
		all = append(all, r.Code)
	}
	return all
}

// mustBlock checks the decision that comes with an error.
func mustBlock(t *testing.T, d policy.Decision, err error) {
	t.Helper()
	if err == nil {
		t.Error("there is no error")
	}
	if d.Action != policy.Block || d.BeforeMode != policy.Block {
		t.Errorf("the action is %q, and %q before the mode", d.Action, d.BeforeMode)
	}
	if len(d.Reasons) != 1 || d.Reasons[0].Code != policy.CodeError || d.Reasons[0].Msg == "" || d.Reasons[0].Effect != policy.Block {
		t.Errorf("the reasons are %+v", d.Reasons)
	}
	if d.Annotations == nil {
		t.Error("the annotations are nil")
	}
}

func TestShippedRules(t *testing.T) {
	t.Parallel()
	engine := mustLoad(t, policy.Options{Builtin: true})
	if d := decide(t, engine, trusted()); d.Action != policy.Serve || len(d.Reasons) != 0 {
		t.Errorf("a trusted image: %+v", d)
	}
	nothing := &policy.Input{Request: trusted().Request, Image: policy.Image{Kind: "image", Layers: []policy.Layer{{}}}}
	want := []string{
		"build.reproduced", "packages.failed", "parents.unknown", "provenance.missing", "sbom.missing", "signature.missing",
		"source.tag", "source.unknown", "vulnerability.missing",
	}
	if d := decide(t, engine, nothing); d.Action != policy.Block || !slices.Equal(codes(d), want) {
		t.Errorf("an image about which nothing is known: %+v", d)
	}
	for _, r := range decide(t, engine, nothing).Reasons {
		if r.Title == "" || r.Solution == "" || r.Package == "" || r.Severity != policy.SeverityDeny {
			t.Errorf("the reason lacks something: %+v", r)
		}
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	unsigned := trusted()
	unsigned.Signatures = nil
	for mode, want := range map[string]struct {
		action  policy.Action
		because string
	}{
		"enforce":  {policy.Block, ""},
		"annotate": {policy.Annotate, "mode annotate"},
		"audit":    {policy.Serve, "mode audit"},
	} {
		engine := mustLoad(t, policy.Options{Builtin: true, Config: map[string]any{
			"routes": map[string]any{registry: map[string]any{"mode": mode}},
		}})
		d := decide(t, engine, unsigned)
		if d.Action != want.action || d.BeforeMode != policy.Block {
			t.Errorf("%s: %q, and %q before the mode", mode, d.Action, d.BeforeMode)
		}
		if r := d.Reasons[0]; r.Effect != want.action || r.Because != want.because || r.Severity != policy.SeverityDeny {
			t.Errorf("%s: %+v", mode, r)
		}
		if d := decide(t, engine, trusted()); d.Action != policy.Serve || d.BeforeMode != policy.Serve {
			t.Errorf("%s, trusted: %+v", mode, d)
		}
		elsewhere := *unsigned
		elsewhere.Request.Route = "other.example"
		if d := decide(t, engine, &elsewhere); d.Action != policy.Block {
			t.Errorf("%s, on a route that is not configured: %+v", mode, d)
		}
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	engine := mustLoad(t, policy.Options{Builtin: true, Config: map[string]any{
		"routes": map[string]any{registry: map[string]any{"mode": "enforce", "scopes": []map[string]any{
			{"repositories": []string{"acme/*"}, "mode": "annotate", "errors": "annotate"},
			{"repositories": []string{"**"}, "mode": "audit"},
		}}},
	}})
	input := trusted()
	input.Errors = []policy.Problem{{Collector: "cosign", Message: "the registry answered 500", Temporary: true}}
	d := decide(t, engine, input)
	if d.Action != policy.Annotate || d.BeforeMode != policy.Annotate || d.Reasons[0].Severity != policy.SeverityWarn || d.Reasons[0].Title == "" {
		t.Errorf("errors: annotate gives %+v", d)
	}
	if d.Annotations["evidence.errors"] != "could not gather all evidence: cosign: the registry answered 500" {
		t.Errorf("annotations are %v", d.Annotations)
	}
	input.Image.Repository = "tools/deep/make"
	if d := decide(t, engine, input); d.Action != policy.Serve || d.BeforeMode != policy.Block {
		t.Errorf("the second scope gives %+v", d)
	}
}

func TestEffectiveOn(t *testing.T) {
	t.Parallel()
	engine, err := team(t, `package trustgate.policies.acme

# METADATA
# title: Never
# custom:
#   code: acme.never
#   effective_on: 2026-06-01T12:00:00Z
deny contains {"code": "acme.never", "msg": "no"} if true

# METADATA
# custom:
#   code: acme.later
#   effective_on: 2027-01-01
deny contains {"code": "acme.later", "msg": "not then"} if true
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		at     string
		action policy.Action
	}{
		{"2026-06-01T11:59:59Z", policy.Annotate},
		{"2026-06-01T12:00:00Z", policy.Block},
		{"2026-06-01T13:59:59+02:00", policy.Annotate},
		{"2028-01-01T00:00:00Z", policy.Block},
	} {
		input := trusted()
		if input.Request.Time, err = time.Parse(time.RFC3339, tc.at); err != nil {
			t.Fatal(err)
		}
		if d := decide(t, engine, input); d.Action != tc.action || d.BeforeMode != tc.action {
			t.Errorf("at %s: %+v", tc.at, d)
		}
	}
	input := trusted()
	d := decide(t, engine, input)
	later := d.Reasons[slices.IndexFunc(d.Reasons, func(r policy.Reason) bool { return r.Code == "acme.later" })]
	if later.Effect != policy.Annotate || later.Severity != policy.SeverityDeny || !strings.Contains(later.Msg, "2027-01-01") || !strings.HasPrefix(later.Because, "not yet effective") {
		t.Errorf("what is announced: %+v", later)
	}
}

func TestRulesThatNeedTheTimeBlockWithoutIt(t *testing.T) {
	t.Parallel()
	engine, err := team(t, `package trustgate.policies.acme

# METADATA
# custom:
#   effective_on: 2027-01-01
deny contains "no" if true
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	input := trusted()
	input.Request.Time = time.Time{}
	d, err := engine.Decide(t.Context(), input)
	mustBlock(t, d, err)
}

func TestClockIsTheRequests(t *testing.T) {
	t.Parallel()
	engine, err := team(t, `package trustgate.policies.acme

deny contains msg if {
	time.now_ns() != time.parse_rfc3339_ns(input.request.time)
	msg := "two clocks"
}
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := decide(t, engine, trusted()); d.Action != policy.Serve {
		t.Errorf("%+v", d)
	}
}

func TestExceptions(t *testing.T) {
	t.Parallel()
	exception := func(change map[string]any) map[string]any {
		x := map[string]any{
			"code": "signature.missing", "repository": registry + "/acme/*",
			"owner": "ops", "reason": "key rotation", "expires": "2026-07-01",
		}
		for k, v := range change {
			if x[k] = v; v == nil {
				delete(x, k)
			}
		}
		return map[string]any{"exceptions": []any{x}}
	}
	unsigned := trusted()
	unsigned.Signatures = nil
	for name, tc := range map[string]struct {
		config map[string]any
		want   policy.Action
	}{
		"live":             {exception(nil), policy.Serve},
		"by digest":        {exception(map[string]any{"repository": nil, "digest": unsigned.Image.Digest}), policy.Serve},
		"expired":          {exception(map[string]any{"expires": "2026-06-01"}), policy.Block},
		"other code":       {exception(map[string]any{"code": "signature.reference"}), policy.Block},
		"other repository": {exception(map[string]any{"repository": registry + "/tools/*"}), policy.Block},
		"other digest":     {exception(map[string]any{"digest": "sha256:00"}), policy.Block},
	} {
		engine := mustLoad(t, policy.Options{Builtin: true, Config: tc.config})
		d := decide(t, engine, unsigned)
		if d.Action != tc.want || d.BeforeMode != tc.want || len(d.Reasons) != 1 {
			t.Errorf("%s: %+v", name, d)
		}
		if tc.want == policy.Serve && d.Reasons[0].Because != "exception by ops until 2026-07-01: key rotation" {
			t.Errorf("%s: because %q", name, d.Reasons[0].Because)
		}
	}
	for name, change := range map[string]map[string]any{
		"no code": {"code": nil}, "no owner": {"owner": ""}, "no reason": {"reason": nil},
		"no expiry": {"expires": nil}, "no date": {"expires": "soon"}, "far off": {"expires": "9999-12-31"},
		"no subject": {"repository": nil}, "misspelt": {"digset": "sha256:00"}, "bad pattern": {"repository": "a/[b"},
		"a number": {"code": 3},
	} {
		if _, err := policy.Load(t.Context(), policy.Options{Builtin: true, Config: exception(change)}); err == nil || !strings.Contains(err.Error(), "exceptions[0]") {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}

func TestCollections(t *testing.T) {
	t.Parallel()
	input := trusted()
	input.Signatures, input.Build.Verified = nil, false
	for _, tc := range []struct {
		chosen, want []string
	}{
		{nil, []string{"acme", "provenance.missing", "signature.missing"}},
		{[]string{"signed"}, []string{"acme", "signature.missing"}},
		{[]string{"trusted-builds"}, []string{"acme", "provenance.missing", "signature.missing"}},
		{[]string{"signed", "mine"}, []string{"acme", "acme.mine", "signature.missing"}},
	} {
		dir := write(t, map[string]string{"a/acme.rego": "package trustgate.policies.acme\n\ndeny contains \"always\" if true\n" + `
# METADATA
# custom:
#   code: acme.mine
#   collections: [mine]
warn contains {"code": "acme.mine", "msg": "mine"} if true
`})
		engine := mustLoad(t, policy.Options{Builtin: true, Paths: []string{dir}, Collections: tc.chosen})
		got := codes(decide(t, engine, input))
		slices.Sort(got)
		want := tc.want
		if tc.chosen == nil {
			want = append([]string{"acme.mine"}, want...)
			slices.Sort(want)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", tc.chosen, got, want)
		}
	}
	_, err := policy.Load(t.Context(), policy.Options{Builtin: true, Collections: []string{"trusted-build"}})
	if err == nil || !strings.Contains(err.Error(), "did you mean trusted-builds?") {
		t.Errorf("a misspelt collection: %v", err)
	}
}

// Evidence that most images lack is asked for only by those who choose so.
func TestCollectionsThatMustBeChosen(t *testing.T) {
	t.Parallel()
	bare := trusted()
	bare.Attestations, bare.Packages, bare.Source.Tag, bare.Source.Commit, bare.Build.Reproduced = nil, nil, nil, nil, policy.Reproduced{}
	for name, want := range map[string][]string{
		"signed":          nil,
		"trusted-builds":  nil,
		"release-signed":  {"source.tag"},
		"reproducible":    {"build.reproduced"},
		"packages":        {"packages.failed"},
		"vulnerabilities": {"sbom.missing", "vulnerability.missing"},
	} {
		t.Run(name, func(t *testing.T) {
			engine := mustLoad(t, policy.Options{Builtin: true, Collections: []string{"trusted-builds", name}})
			if d := decide(t, engine, bare); !slices.Equal(codes(d), want) || (d.Action == policy.Serve) != (want == nil) {
				t.Errorf("without the evidence: %+v", d)
			}
			if d := decide(t, engine, trusted()); d.Action != policy.Serve {
				t.Errorf("with it: %+v", d)
			}
		})
	}
}

func TestPendingPackages(t *testing.T) {
	t.Parallel()
	pending := trusted()
	pending.Packages = &policy.Packages{State: "pending"}
	for choice, want := range map[string]policy.Action{"": policy.Annotate, "annotate": policy.Annotate, "block": policy.Block, "ignore": policy.Serve} {
		config := map[string]any{}
		if choice != "" {
			config["rules"] = map[string]any{"packages": map[string]any{"pending": choice}}
		}
		d := decide(t, mustLoad(t, policy.Options{Builtin: true, Config: config}), pending)
		if d.Action != want {
			t.Errorf("%q: %+v", choice, d)
		}
		if want != policy.Serve && (!slices.Equal(codes(d), []string{"packages.pending"}) || d.Reasons[0].Title == "" || d.Reasons[0].Solution == "") {
			t.Errorf("%q: the reasons are %+v", choice, d.Reasons)
		}
	}
}

func TestVulnerabilitySettings(t *testing.T) {
	t.Parallel()
	input := trusted()
	input.Attestations[1] = scanned("2026-05-31T00:00:00Z", 2)
	for name, tc := range map[string]struct {
		settings map[string]any
		want     string
	}{
		"none":            {nil, ""},
		"a severity":      {map[string]any{"severity": "HIGH"}, "found of severity HIGH or graver: CVE-2026-0000"},
		"too few days":    {map[string]any{"max_age": "1d"}, "no scan of the last 1d (the last one is of 2026-05-31)"},
		"a duration":      {map[string]any{"max_age": "36h"}, ""},
		"the last moment": {map[string]any{"max_age": "0.5h"}, "no scan of the last 0.5h (the last one is of 2026-05-31)"},
	} {
		t.Run(name, func(t *testing.T) {
			config := map[string]any{"rules": map[string]any{"vulnerability": tc.settings}}
			d := decide(t, mustLoad(t, policy.Options{Builtin: true, Config: config}), input)
			if tc.want == "" && d.Action != policy.Serve || tc.want != "" && (len(d.Reasons) != 1 || d.Reasons[0].Msg != tc.want) {
				t.Errorf("%+v", d)
			}
		})
	}
}

func TestTeamPackageBesideTheShippedOnes(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"acme.rego": `package trustgate.policies.acme

import data.acme.helpers

# METADATA
# title: No :latest
# custom:
#   code: acme.latest
#   solution: Pull a version.
deny contains {"code": "acme.latest", "msg": helpers.say(input.image.tag), "tag": input.image.tag} if {
	input.image.tag == data.trustgate.config.forbidden_tag
}

warn contains "it comes with a warning" if input.image.tag == "latest"
`,
		"lib/helpers.rego":  "package acme.helpers\n\nsay(tag) := sprintf(\"the tag %s moves\", [tag])\n",
		"lib/x_test.rego":   "package acme.helpers_test\n\nthis does not even parse",
		".hidden/acme.rego": "nor does this",
		"notes.md":          "nor this",
	})
	engine := mustLoad(t, policy.Options{Builtin: true, Paths: []string{dir}, Config: map[string]any{"forbidden_tag": "latest"}})
	if d := decide(t, engine, trusted()); d.Action != policy.Serve {
		t.Errorf("%+v", d)
	}
	input := trusted()
	input.Image.Tag = "latest"
	d := decide(t, engine, input)
	want := []policy.Reason{
		{Code: "acme.latest", Title: "No :latest", Msg: "the tag latest moves", Solution: "Pull a version.", Package: "acme", Severity: "deny", Effect: policy.Block, Path: []string{}},
		{Code: "acme", Msg: "it comes with a warning", Package: "acme", Severity: "warn", Effect: policy.Annotate, Path: []string{}},
	}
	if d.Action != policy.Block || !reflect.DeepEqual(d.Reasons, want) {
		t.Errorf("%+v", d)
	}
}

func TestMalformedFindings(t *testing.T) {
	t.Parallel()
	for _, entry := range []string{`1`, `true`, `{"code": "x"}`, `{"msg": ["a"]}`, `["a"]`, `""`, `null`, `{"code": 1, "msg": "m"}`, `{1, 2}`} {
		engine, err := team(t, "package trustgate.policies.acme\n\nwarn contains "+entry+" if true\n", nil)
		if err != nil {
			t.Fatal(entry, err)
		}
		d := decide(t, engine, trusted())
		if d.Action != policy.Block || !slices.Equal(codes(d), []string{"policy.malformed"}) {
			t.Errorf("%s: %+v", entry, d)
		}
	}
}

// Whatever fails while rules run blocks, in every mode.
func TestFailuresBlock(t *testing.T) {
	t.Parallel()
	audit := map[string]any{"routes": map[string]any{registry: map[string]any{"mode": "audit"}}}
	for name, rego := range map[string]string{
		"a built-in function fails": `deny contains "x" if time.parse_rfc3339_ns(input.image.tag) > 0`,
		"division by zero":          `deny contains "x" if 1 / (count(input.image.layers) - 1) > 0`,
		"a conflict":                "value := 1 if input.image.tag == \"1\"\n\nvalue := 2 if input.image.kind == \"image\"\n\ndeny contains \"x\" if value == 3",
	} {
		engine, err := team(t, "package trustgate.policies.acme\n\n"+rego+"\n", audit)
		if err != nil {
			t.Fatal(name, err)
		}
		d, err := engine.Decide(t.Context(), trusted())
		mustBlock(t, d, err)
		if strings.Contains(d.Reasons[0].Msg, "acme.rego") {
			t.Errorf("%s: clients are told about files: %s", name, d.Reasons[0].Msg)
		}
		if !strings.Contains(err.Error(), "acme.rego:") || !strings.Contains(err.Error(), trusted().Image.Reference) {
			t.Errorf("%s: the operator is not told where: %v", name, err)
		}
	}
}

func TestUnusableInput(t *testing.T) {
	t.Parallel()
	engine := mustLoad(t, policy.Options{Builtin: true})
	big := trusted()
	big.Attestations = []policy.Attestation{{Predicate: json.RawMessage(`"` + strings.Repeat("x", 33<<20) + `"`)}}
	broken := trusted()
	broken.Build.Parameters = json.RawMessage(`{"a":`)
	index := trusted()
	index.Image.Kind = "index"
	for name, input := range map[string]*policy.Input{"none": nil, "too big": big, "not JSON": broken, "an index": index} {
		t.Run(name, func(t *testing.T) {
			d, err := engine.Decide(t.Context(), input)
			mustBlock(t, d, err)
		})
	}
}

func TestDeadline(t *testing.T) {
	slow := write(t, map[string]string{"slow.rego": `package trustgate.policies.slow

deny contains "slow" if {
	some i in numbers.range(1, 3000)
	some j in numbers.range(1, 3000)
	some k in numbers.range(1, 3000)
	i * j * k == -1
}
`})
	engine := mustLoad(t, policy.Options{Paths: []string{slow}, Deadline: 50 * time.Millisecond})
	started := time.Now()
	d, err := engine.Decide(t.Context(), trusted())
	mustBlock(t, d, err)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(d.Reasons[0].Msg, "in time") {
		t.Errorf("%v; %s", err, d.Reasons[0].Msg)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	engine = mustLoad(t, policy.Options{Builtin: true})
	d, err = engine.Decide(cancelled, trusted())
	mustBlock(t, d, err)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestLoadErrors(t *testing.T) {
	t.Parallel()
	const head = "package trustgate.policies.acme\n\n"
	const rule = "deny contains \"x\" if true\n"
	for _, tc := range []struct{ name, rego, want string }{
		{"misspelt member", head + "deny contains \"x\" if input.imgae.tag == \"latest\"\n", "acme.rego:3:22: rego_type_error: input.imgae.tag: there is no input.imgae; did you mean image?"},
		{"misspelt deeper", head + "deny contains \"x\" if {\n\tsome s in input.signatures\n\ts.verifed\n}\n", "did you mean verified?"},
		{"misspelt below what can be null", head + "deny contains \"x\" if input.packages.moddified != []\n", "did you mean modified?"},
		{"misspelt in a parent", head + "deny contains \"x\" if input.parents[_].build.builderid == \"\"\n", "did you mean builder_id?"},
		{"nothing near", head + "deny contains \"x\" if input.zzzzzzzzzzz\n", "there is attestations, build, errors"},
		{"wrong type", head + "deny contains \"x\" if input.image.tag == 1\n", "rego_type_error"},
		{"syntax", head + "deny contains if\n", "acme.rego:3:"},
		{"network", head + "deny contains \"x\" if http.send({\"method\": \"get\", \"url\": \"http://x\"}).status_code == 200\n", "undefined function http.send: rules have no access to the network"},
		{"name resolution", head + "deny contains \"x\" if net.lookup_ip_addr(\"x\")\n", "undefined function net.lookup_ip_addr"},
		{"the process", head + "deny contains \"x\" if opa.runtime().env.HOME\n", "undefined function opa.runtime"},
		{"unknown function", head + "deny contains \"x\" if nothing(1)\n", "undefined function nothing"},
		{"the decision", "package trustgate\n\ndecision := {\"action\": \"serve\"}\n", "acme.rego:1:1: package trustgate: what is not below"},
		{"the aggregator's helpers", "package trustgate.lib\n\nmode := \"audit\"\n", "belongs to TrustGate"},
		{"the metadata", "package trustgate.rules\n\nx := 1\n", "belongs to TrustGate"},
		{"the configuration", "package trustgate.config\n\nexceptions := []\n", "belongs to TrustGate"},
		{"all policies at once", "package trustgate.policies\n\nsignature.made := true\n", "belongs to TrustGate"},
		{"a shipped package", "package trustgate.policies.signature\n\nmay_sign(_) := true\n\ndeny contains \"x\" if false\n", "a shipped package has that name"},
		{"below a shipped package", "package trustgate.policies.signature.made\n\nx := 1\n", "a shipped package has that name"},
		{"the decision as an input", head + "deny contains \"x\" if data.trustgate.decision.action == \"serve\"\n", "rego_recursion_error"},
		{"deny is no set", head + "deny := \"x\" if true\n", "acme.rego:3:1: deny must be a set of findings"},
		{"deny is a truth", head + "deny if true\n", "deny must be a set of findings"},
		{"deny is a mapping", head + "deny[\"x\"] if true\n", "deny must be a set of findings"},
		{"deny is a function", head + "deny(x) if x\n", "deny must be a set of findings"},
		{"deny is an object of sets", head + "deny.acme contains \"x\" if true\n", "deny must be a set of findings"},
		{"deny has a default", head + "default deny := \"x\"\n", "deny must be a set of findings"},
		{"warn is no set", head + rule + "\nwarn if true\n", "warn must be a set of findings"},
		{"too deep", "package trustgate.policies.acme.images\n\n" + rule, "findings are read from trustgate.policies.acme"},
		{"too deep by reference", head + "images.deny contains \"x\" if true\n", "nobody would read it"},
		{"judges nothing", head + "dney contains \"x\" if true\n", "has neither deny nor warn"},
		{"no rules at all", "package acme\n\nx := 1\n", "the policy has no rules"},
		{"empty", "", "acme.rego:1:1: rego_parse_error: empty module"},
		{"bad date", head + "# METADATA\n# custom:\n#   effective_on: soon\n" + rule, "acme.rego:3:1: custom.effective_on: \"soon\" is neither a date"},
		{"bad severity", head + "# METADATA\n# custom:\n#   severity: low\n" + rule, "custom.severity is low; it must be deny or warn"},
		{"bad collections", head + "# METADATA\n# custom:\n#   collections: signed\n" + rule, "custom.collections: signed is not a list"},
		{"bad code", head + "# METADATA\n# custom:\n#   code: 3\n" + rule, "custom.code must be a text"},
		{"a code for the whole package", "# METADATA\n# custom:\n#   code: acme.all\n" + head + rule, "custom.code must be a text at a rule"},
		{"two metadata for one code", head + "# METADATA\n# title: A\n" + rule + "\n# METADATA\n# title: B\ndeny contains \"y\" if true\n", "give each rule a custom.code of its own"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := write(t, map[string]string{"acme.rego": tc.rego})
			shipped := strings.Contains(tc.name, "shipped") || tc.name == "all policies at once" // the others need none of them
			_, err := policy.Load(t.Context(), policy.Options{Builtin: shipped, Paths: []string{dir}})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the error is %v\nwant        %s", err, tc.want)
			}
		})
	}
}

func TestEveryErrorIsTold(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"a.rego": "package trustgate.policies.a\n\ndeny contains \"x\" if input.imgae\n",
		"b.rego": "package trustgate.policies.b\n\ndeny contains \"x\" if input.soruce\n",
	})
	_, err := policy.Load(t.Context(), policy.Options{Paths: []string{dir}})
	if err == nil || !strings.Contains(err.Error(), "a.rego:3:22") || !strings.Contains(err.Error(), "b.rego:3:22") {
		t.Error(err)
	}
}

func TestNetworkWhenAllowed(t *testing.T) {
	t.Parallel()
	rego := "package trustgate.policies.acme\n\ndeny contains \"x\" if http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1:1/\"}).status_code == 200\n"
	dir := write(t, map[string]string{"acme.rego": rego})
	engine := mustLoad(t, policy.Options{Paths: []string{dir}, AllowNetwork: true})
	d, err := engine.Decide(t.Context(), trusted())
	mustBlock(t, d, err) // nobody listens there

	// Calculating with addresses reaches nobody.
	engine, err = team(t, "package trustgate.policies.acme\n\ndeny contains \"x\" if net.cidr_contains(\"10.0.0.0/8\", input.request.client.address)\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	input := trusted()
	input.Request.Client.Address = "10.1.2.3"
	if d := decide(t, engine, input); d.Action != policy.Block {
		t.Errorf("%+v", d)
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	rule := "package trustgate.policies.acme\n\ndeny contains \"x\" if true\n"
	dir := write(t, map[string]string{
		"acme.rego": rule, "only/acme_test.rego": rule, "empty/x.txt": "", "data/a.rego": rule, "data/data.json": "{}",
		"volume/..1/acme.rego": rule, "linked/x.rego": rule,
	})
	// As Kubernetes mounts a ConfigMap.
	for link, target := range map[string]string{"volume/..data": "..1", "volume/acme.rego": "..data/acme.rego", "root": "volume", "linked/more": "../only"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"acme.rego": "", "volume": "", "root": "",
		"only": "there are no rules in it", "empty": "there are no rules in it", "missing": "no such file", "only/acme_test.rego": "there are no rules in it",
		"empty/x.txt": "neither a folder", "data": "name it under policy.data", "linked": "link to a folder",
	} {
		engine, err := policy.Load(t.Context(), policy.Options{Paths: []string{filepath.Join(dir, name)}})
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := decide(t, engine, trusted()); len(d.Reasons) != 1 {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if _, err := policy.Load(t.Context(), policy.Options{}); err == nil || !strings.Contains(err.Error(), "no rules") {
		t.Errorf("no rules at all: %v", err)
	}
}

func TestBundle(t *testing.T) {
	t.Parallel()
	pack := func(t *testing.T, rego string, data map[string]any) string {
		t.Helper()
		b := bundle.Bundle{Data: data, Modules: []bundle.ModuleFile{{
			URL: "/acme.rego", Path: "/acme.rego", Raw: []byte(rego), Parsed: ast.MustParseModule(rego),
		}, {
			URL: "/acme_test.rego", Path: "/acme_test.rego", Raw: []byte("package acme_test\n\ntest_x if false\n"), Parsed: ast.MustParseModule("package acme_test\n\ntest_x if false\n"),
		}}}
		b.Manifest.Init()
		var packed bytes.Buffer
		if err := bundle.NewWriter(&packed).UseModulePath(true).DisableFormat(true).Write(b); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "acme.tar.gz")
		if err := os.WriteFile(file, packed.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const rule = `package trustgate.policies.acme

# METADATA
# title: Listed
deny contains sprintf("%s is listed, limit %d", [name, data.trustgate.config.limit]) if {
	some name in data.listed
}
`
	engine := mustLoad(t, policy.Options{
		Paths:  []string{pack(t, rule, map[string]any{"listed": []any{"app"}, "trustgate": map[string]any{"config": map[string]any{"limit": 3}}})},
		Config: map[string]any{"routes": map[string]any{}},
	})
	d := decide(t, engine, trusted())
	if len(d.Reasons) != 1 || d.Reasons[0].Msg != "app is listed, limit 3" || d.Reasons[0].Title != "Listed" {
		t.Errorf("%+v", d)
	}

	for name, tc := range map[string]struct {
		rego string
		data map[string]any
		want string
	}{
		"data in the decision's place": {rule, map[string]any{"trustgate": map[string]any{"decision": map[string]any{"action": "serve"}}}, "may add to trustgate.config only"},
		"data as findings":             {rule, map[string]any{"trustgate": map[string]any{"policies": map[string]any{}}}, "may add to trustgate.config only"},
		"configuration set twice":      {rule, map[string]any{"trustgate": map[string]any{"config": map[string]any{"limit": 4}}}, "the configuration file sets too"},
		"a mode":                       {rule, map[string]any{"trustgate": map[string]any{"config": map[string]any{"routes": map[string]any{"a": map[string]any{"mode": "audit"}}}}}, "which only the configuration sets"},
		"somebody else's package":      {"package trustgate\n\ndecision := 1\n", map[string]any{}, "acme.rego:1:1"},
		"a misspelt member":            {"package trustgate.policies.acme\n\ndeny contains \"x\" if input.imgae\n", map[string]any{}, "acme.tar.gz/acme.rego:3:22"},
		"data where a rule is":         {"package listed\n\nx := 1\n", map[string]any{"listed": map[string]any{"x": 1}}, "conflict"},
	} {
		_, err := policy.Load(t.Context(), policy.Options{
			Builtin: true, Paths: []string{pack(t, tc.rego, tc.data)}, Config: map[string]any{"limit": 1, "routes": map[string]any{}},
		})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	garbage := filepath.Join(write(t, map[string]string{"x.tar.gz": "no archive"}), "x.tar.gz")
	if _, err := policy.Load(t.Context(), policy.Options{Paths: []string{garbage}}); err == nil || !strings.Contains(err.Error(), garbage) {
		t.Error(err)
	}
}

func TestData(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"acme.rego": "package trustgate.policies.acme\n\ndeny contains sprintf(\"%v\", [data.trustgate.config.acme]) if true\n",
		"a.yaml":    "acme:\n  tags: [latest, dev]\n",
		"b.json":    `{"acme": {"limit": 3}}`,
		"clash.yml": "acme:\n  limit: 4\n",
		"list.yaml": "- a\n", "empty.yaml": "", "twice.yaml": "a: 1\na: 2\n",
		"exceptions.yaml": "exceptions:\n  - {code: acme, repository: '**', owner: ops, reason: because, expires: 2026-07-01}\n",
	})
	load := func(config map[string]any, files ...string) (*policy.Engine, error) {
		o := policy.Options{Paths: []string{filepath.Join(dir, "acme.rego")}, Config: config}
		for _, f := range files {
			o.Data = append(o.Data, filepath.Join(dir, f))
		}
		return policy.Load(t.Context(), o)
	}
	engine, err := load(map[string]any{"acme": map[string]any{"own": true}}, "a.yaml", "b.json", "empty.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if d := decide(t, engine, trusted()); d.Reasons[0].Msg != `{"limit": 3, "own": true, "tags": ["latest", "dev"]}` {
		t.Errorf("%+v", d)
	}
	if engine, err = load(nil, "a.yaml", "exceptions.yaml"); err != nil {
		t.Fatal(err)
	}
	if d := decide(t, engine, trusted()); d.Action != policy.Serve {
		t.Errorf("an exception from a file: %+v", d)
	}
	for name, tc := range map[string]struct {
		config map[string]any
		files  []string
		want   []string
	}{
		"two files":       {nil, []string{"b.json", "clash.yml"}, []string{"clash.yml sets acme.limit", "b.json sets too"}},
		"file and config": {map[string]any{"acme": 1}, []string{"b.json"}, []string{"b.json sets acme", "the configuration file sets too"}},
		"a list":          {nil, []string{"list.yaml"}, []string{"list.yaml", "must be a mapping"}},
		"a key twice":     {nil, []string{"twice.yaml"}, []string{"twice.yaml"}},
		"missing":         {nil, []string{"none.yaml"}, []string{"none.yaml"}},
	} {
		_, err := load(tc.config, tc.files...)
		for _, want := range tc.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error is %v, want %s", name, err, want)
			}
		}
	}
}

func TestLoadLeavesTheConfigurationAlone(t *testing.T) {
	t.Parallel()
	config := map[string]any{"acme": map[string]any{}}
	file := filepath.Join(write(t, map[string]string{"a.json": `{"acme": {"limit": 3}}`}), "a.json")
	mustLoad(t, policy.Options{Builtin: true, Config: config, Data: []string{file}})
	if !reflect.DeepEqual(config, map[string]any{"acme": map[string]any{}}) {
		t.Errorf("it is %v now", config)
	}
}

func TestSettingsThatWouldBeMisread(t *testing.T) {
	t.Parallel()
	route := func(r map[string]any) map[string]any {
		return map[string]any{"routes": map[string]any{registry: r}}
	}
	rule := func(name, key string, v any) map[string]any {
		return map[string]any{"rules": map[string]any{name: map[string]any{key: v}}}
	}
	signers := func(v any) map[string]any { return rule("signature", "signers", v) }
	for name, tc := range map[string]struct {
		config map[string]any
		want   string
	}{
		"mode":                  {route(map[string]any{"mode": "enforced"}), `routes["registry.example"].mode: it is enforced; it must be one of enforce, annotate, audit`},
		"errors":                {route(map[string]any{"errors": "ignore"}), "must be one of block, annotate"},
		"scope's mode":          {route(map[string]any{"scopes": []any{map[string]any{"repositories": []any{"a"}, "mode": 1}}}), "scopes[0].mode"},
		"scope without pattern": {route(map[string]any{"scopes": []any{map[string]any{"mode": "audit"}}}), "scopes[0].repositories"},
		"scope's pattern":       {route(map[string]any{"scopes": []any{map[string]any{"repositories": []any{"a[", "b"}}}}), "the pattern"},
		"routes as a list":      {map[string]any{"routes": []any{}}, "routes: it must be a mapping"},
		"exceptions as mapping": {map[string]any{"exceptions": map[string]any{}}, "exceptions: it must be a list"},
		"unknown package":       {map[string]any{"rules": map[string]any{"signatures": map[string]any{}}}, "did you mean signature?"},
		"unknown key":           {map[string]any{"rules": map[string]any{"signature": map[string]any{"signer": []any{"a"}}}}, "did you mean signers?"},
		"nobody may sign":       {signers([]any{}), "it names nobody"},
		"half and half":         {signers([]any{"ci", map[string]any{"repositories": []any{"a"}, "signers": []any{"b"}}}), "it must be a name"},
		"half and half again":   {signers([]any{map[string]any{"repositories": []any{"a"}, "signers": []any{"b"}}, "ci"}), "must be a mapping"},
		"no signers there":      {signers([]any{map[string]any{"repositories": []any{"a"}}}), "signers[0].signers"},
		"a number":              {signers([]any{1}), "it must be a name, or a mapping"},
		"releasers":             {rule("source_tag", "signers", []any{}), "rules.source_tag.signers: it names nothing"},
		"a releaser's mapping":  {rule("source_tag", "signers", []any{map[string]any{}}), "is not a name"},
		"misspelt releasers":    {rule("source_tag", "signer", "ci"), "did you mean signers?"},
		"misspelt tag":          {rule("source_tags", "signers", []any{"ci"}), "did you mean source_tag?"},
		"no builders":           {rule("reproduced", "at_least", 0), "rules.reproduced.at_least: it is 0; it must be a number of at least 1"},
		"half a builder":        {rule("reproduced", "at_least", 1.5), "it must be a number"},
		"builders in a text":    {rule("reproduced", "at_least", "2"), "it must be a number"},
		"pending":               {rule("packages", "pending", "warn"), "rules.packages.pending: it is warn; it must be one of block, annotate, ignore"},
		"an age without unit":   {rule("vulnerability", "max_age", "7"), "rules.vulnerability.max_age: it is 7; it must be a duration"},
		"an age as a number":    {rule("vulnerability", "max_age", 7), "it must be a duration"},
		"an age of weeks":       {rule("vulnerability", "max_age", "1w"), "it must be a duration"},
		"no age":                {rule("vulnerability", "max_age", "0d"), "it must be a duration"},
		"an age that is past":   {rule("vulnerability", "max_age", "-1h"), "it must be a duration"},
		"an age of ages":        {rule("vulnerability", "max_age", "99999d"), "it must be a duration"},
		"a severity":            {rule("vulnerability", "severity", "critical"), "rules.vulnerability.severity: it is critical; it must be one of CRITICAL"},
		"settings in a list":    {map[string]any{"rules": map[string]any{"packages": []any{}}}, "rules.packages: it must be a mapping"},
	} {
		if _, err := policy.Load(t.Context(), policy.Options{Builtin: true, Config: tc.config}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, config := range []map[string]any{
		signers([]string{"ci"}), rule("source_tag", "signers", []string{"ci"}), rule("reproduced", "at_least", 3),
		rule("packages", "pending", "ignore"), rule("vulnerability", "max_age", "14d"), rule("vulnerability", "severity", "NEGLIGIBLE"),
	} {
		if _, err := policy.Load(t.Context(), policy.Options{Builtin: true, Config: config}); err != nil {
			t.Error(err)
		}
	}
}

// Without the shipped rules their names are the team's to use.
func TestSettingsOfATeamsPackage(t *testing.T) {
	t.Parallel()
	rego := "package trustgate.policies.packages\n\ndeny contains \"x\" if data.trustgate.config.rules.packages.limit == 3\n"
	engine, err := team(t, rego, map[string]any{"rules": map[string]any{"packages": map[string]any{"limit": 3}}})
	if err != nil {
		t.Fatal(err)
	}
	if d := decide(t, engine, trusted()); d.Action != policy.Block {
		t.Errorf("%+v", d)
	}
	if _, err := team(t, rego, map[string]any{"rules": map[string]any{"vulnerability": map[string]any{}}}); err == nil || !strings.Contains(err.Error(), "there is no vulnerability; there is packages") {
		t.Errorf("settings of a package that is not loaded: %v", err)
	}
}

func TestRevision(t *testing.T) {
	t.Parallel()
	rule := "package trustgate.policies.acme\n\ndeny contains \"x\" if true\n"
	files := map[string]string{"a/acme.rego": rule, "b/other.rego": rule, "b/acme_test.rego": "package x_test\n", "c/acme.rego": strings.Replace(rule, "x", "y", 1), "d.yaml": "acme: 1\n"}
	dir := write(t, files)
	at := func(names ...string) (paths []string) {
		for _, n := range names {
			paths = append(paths, filepath.Join(dir, n))
		}
		return paths
	}
	revision := func(o policy.Options) string { return mustLoad(t, o).Revision() }
	base := revision(policy.Options{Builtin: true, Paths: at("a"), Config: map[string]any{"x": 1, "y": []string{"z"}}})
	for name, o := range map[string]policy.Options{
		"again":               {Builtin: true, Paths: at("a"), Config: map[string]any{"y": []any{"z"}, "x": 1}},
		"moved, with a test":  {Builtin: true, Paths: at("b"), Config: map[string]any{"x": 1, "y": []string{"z"}}},
		"default spelled out": {Builtin: true, Paths: at("a"), Config: map[string]any{"x": 1, "y": []string{"z"}}, Deadline: 5 * time.Second, Collections: []string{}},
	} {
		if got := revision(o); got != base {
			t.Errorf("%s: it changed", name)
		}
	}
	seen := map[string]string{base: "the base"}
	for name, o := range map[string]policy.Options{
		"without the shipped rules": {Paths: at("a"), Config: map[string]any{"x": 1, "y": []string{"z"}}},
		"without the team's":        {Builtin: true, Config: map[string]any{"x": 1, "y": []string{"z"}}},
		"another rule":              {Builtin: true, Paths: at("c"), Config: map[string]any{"x": 1, "y": []string{"z"}}},
		"another configuration":     {Builtin: true, Paths: at("a"), Config: map[string]any{"x": 2, "y": []string{"z"}}},
		"no configuration":          {Builtin: true, Paths: at("a")},
		"data":                      {Builtin: true, Paths: at("a"), Config: map[string]any{"x": 1, "y": []string{"z"}}, Data: at("d.yaml")},
		"collections":               {Builtin: true, Paths: at("a"), Config: map[string]any{"x": 1, "y": []string{"z"}}, Collections: []string{"signed"}},
		"network":                   {Builtin: true, Paths: at("a"), Config: map[string]any{"x": 1, "y": []string{"z"}}, AllowNetwork: true},
		"deadline":                  {Builtin: true, Paths: at("a"), Config: map[string]any{"x": 1, "y": []string{"z"}}, Deadline: time.Second},
	} {
		got := revision(o)
		if other, twice := seen[got]; twice {
			t.Errorf("%s has the revision of %s", name, other)
		}
		seen[got] = name
	}
}

func TestRequestFields(t *testing.T) {
	t.Parallel()
	all := []string{"client.address", "client.identity", "client.user_agent", "route"}
	for name, tc := range map[string]struct {
		rego string
		want []string
	}{
		"nothing":             {`deny contains "x" if input.image.tag == "latest"`, []string{"route"}},
		"the time":            {`deny contains "x" if input.request.time == ""`, []string{"route"}},
		"one field":           {`deny contains "x" if input.request.client.identity == ""`, []string{"client.identity", "route"}},
		"in brackets":         {`deny contains "x" if input["request"]["client"]["user_agent"] == ""`, []string{"client.user_agent", "route"}},
		"through a variable":  {"deny contains \"x\" if {\n\tr := input.request\n\tr.client.identity == \"\"\n}", all},
		"the client":          {"deny contains \"x\" if {\n\tc := input.request.client\n\tc.identity == \"\"\n}", []string{"client.address", "client.identity", "client.user_agent", "route"}},
		"a dynamic field":     {"deny contains \"x\" if {\n\tsome key in [\"identity\"]\n\tinput.request.client[key] == \"\"\n}", all},
		"a dynamic member":    {"deny contains \"x\" if {\n\tsome key in [\"request\"]\n\tinput[key].route == \"\"\n}", all},
		"the whole input":     {`deny contains "x" if count(input) == 0`, all},
		"walking":             {"deny contains \"x\" if {\n\twalk(input, [_, value])\n\tvalue == \"x\"\n}", all},
		"to a function":       {"f(i) if i.request.route == \"\"\n\ndeny contains \"x\" if f(input)", all},
		"inside a reference":  {`deny contains "x" if data.trustgate.config.known[input.request.client.address]`, []string{"client.address", "route"}},
		"inside an input ref": {`deny contains "x" if input.image.labels[input.request.client.identity] == ""`, []string{"client.identity", "route"}},
		"in a comprehension":  {`deny contains "x" if count([c | c := input.request.client.address]) == 2`, []string{"client.address", "route"}},
		"in the head":         {`deny contains {"msg": input.request.client.user_agent} if true`, []string{"client.user_agent", "route"}},
		"in a helper":         {"who := input.request.client.identity\n\ndeny contains \"x\" if who == \"\"", []string{"client.identity", "route"}},
		"by import":           {"deny contains \"x\" if who.identity == \"\"", []string{"client.identity", "route"}},
	} {
		rego := "package trustgate.policies.acme\n\n"
		if name == "by import" {
			rego += "import input.request.client as who\n\n"
		}
		engine, err := team(t, rego+tc.rego+"\n", nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := engine.RequestFields(); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	if got := mustLoad(t, policy.Options{Builtin: true}).RequestFields(); !slices.Equal(got, []string{"route"}) {
		t.Errorf("the shipped rules: %v", got)
	}
}

func TestPackageMetadata(t *testing.T) {
	t.Parallel()
	engine, err := team(t, `# METADATA
# description: All of them
# custom:
#   effective_on: 2027-01-01
#   solution: Wait.
package trustgate.policies.acme

deny contains {"code": "acme.a", "msg": "a"} if input.image.tag != "2"

# METADATA
# title: B
# custom:
#   code: acme.b
#   effective_on: 2026-01-01
deny contains {"code": "acme.b", "msg": "b"} if input.image.tag == "1"

# METADATA
# custom:
#   code: acme.c
#   severity: warn
#   effective_on: 2026-01-01
deny contains {"code": "acme.c", "msg": "c"} if true
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := decide(t, engine, trusted())
	got := map[string]string{}
	for _, r := range d.Reasons {
		got[r.Code] = fmt.Sprintf("%s/%s/%s/%s", r.Severity, r.Effect, r.Title, r.Solution)
	}
	want := map[string]string{"acme.a": "deny/annotate//Wait.", "acme.b": "deny/block/B/Wait.", "acme.c": "warn/annotate//Wait."}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
	if rules := engine.Rules(); len(rules) != 2 || rules[0].Code != "acme.b" || rules[0].Line != 10 || rules[1].Severity != "warn" {
		t.Errorf("%+v", rules)
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	engine := mustLoad(t, policy.Options{Builtin: true, Collections: []string{"trusted-builds"}})
	unsigned := trusted()
	unsigned.Signatures = nil
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			input, want := trusted(), policy.Serve
			if i%2 == 0 {
				input, want = unsigned, policy.Block
			}
			for range 20 {
				if d, err := engine.Decide(t.Context(), input); err != nil || d.Action != want {
					t.Errorf("%+v, %v", d, err)
				}
			}
		})
	}
	wg.Wait()
}

// A stranger can have many parents claimed; judging them must not take so long
// that the deadline decides.
func TestLargestTree(t *testing.T) {
	t.Parallel()
	engine := mustLoad(t, policy.Options{Builtin: true, Deadline: time.Minute})
	input := trusted()
	input.Parents = nil
	way := []string{input.Image.Reference}
	for i := range 256 {
		if i%16 == 0 {
			way = way[:1]
		}
		way = append(slices.Clone(way), fmt.Sprintf("%s/base/%d:1", registry, i))
		input.Parents = append(input.Parents, policy.Parent{
			Reference: way[len(way)-1], Depth: len(way) - 1, Path: way,
			Verdict: &policy.ParentVerdict{Action: policy.Block, Reasons: []policy.Reason{
				{Code: "signature.missing", Msg: "no signature", Severity: "deny", Effect: policy.Block},
				{Code: "parents.untrusted", Msg: "a → b: no signature", Severity: "deny", Effect: policy.Block},
			}},
		})
	}
	if d := decide(t, engine, input); d.Action != policy.Block || len(d.Reasons) != 256 {
		t.Errorf("%s with %d reasons", d.Action, len(d.Reasons))
	}
	for i := range input.Parents {
		input.Parents[i].Verdict.Reasons = input.Parents[i].Verdict.Reasons[1:]
	}
	if d := decide(t, engine, input); d.Action != policy.Block || len(d.Reasons) != 16 {
		t.Errorf("%s with %d reasons", d.Action, len(d.Reasons))
	}
}

func TestDecisionsAreDeterministic(t *testing.T) {
	t.Parallel()
	engine := mustLoad(t, policy.Options{Builtin: true})
	input := trusted()
	input.Signatures, input.Build.Verified, input.Image.Layers[0].Foreign = nil, false, true
	input.Errors = []policy.Problem{{Collector: "b"}, {Collector: "a"}}
	first := decide(t, engine, input)
	for range 10 {
		if again := decide(t, engine, input); !reflect.DeepEqual(again, first) {
			t.Fatalf("%+v\n%+v", first, again)
		}
	}
}

// Rules rely on every list being there; an Input need not be filled for that.
func TestInputIsWrittenComplete(t *testing.T) {
	t.Parallel()
	empty := &policy.Input{
		Build:   policy.Build{Materials: []policy.Material{{}}},
		Parents: []policy.Parent{{Build: &policy.Build{}, Verdict: &policy.ParentVerdict{}}}, Packages: &policy.Packages{},
	}
	raw, err := json.Marshal(empty)
	if err != nil {
		t.Fatal(err)
	}
	byValue, err := json.Marshal(*empty)
	if err != nil || !bytes.Equal(raw, byValue) {
		t.Error("a value is written in another way than a pointer")
	}
	for _, member := range []string{
		`"signatures":[]`, `"attestations":[]`, `"errors":[]`, `"layers":[]`, `"annotations":{}`, `"labels":{}`, `"materials":[{"uri":"","digest":{}}]`,
		`"materials":[]`, `"by":[]`, `"path":[]`, `"reasons":[]`, `"managers":[]`, `"modified":[]`, `"missing":[]`, `"replaced":[]`,
		`"modified_conffiles":[]`, `"unowned_executables":[]`, `"unowned_setuid":[]`,
		`"parameters":null`, `"index":null`, `"dockerfile":null`, `"tag":null`, `"commit":null`,
	} {
		if !strings.Contains(string(raw), member) {
			t.Errorf("there is no %s in %s", member, raw)
		}
	}
	if empty.Signatures != nil || empty.Parents[0].Build.Materials != nil {
		t.Error("writing changed the input")
	}
	var back policy.Input
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Error(err)
	}
}

// The schema says what an input is, and not only what the compiler makes of it.
func TestInputFitsTheSchema(t *testing.T) {
	t.Parallel()
	engine, err := team(t, `package trustgate.policies.acme

deny contains sprintf("%v", [problem]) if {
	[fits, problems] := json.match_schema(input, data.trustgate.config.schema)
	not fits
	some problem in problems
}
`, map[string]any{"schema": json.RawMessage(policies.InputSchema)})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	full := trusted()
	full.Request.Time = now
	full.Image.Created, full.Image.Index = &now, &policy.Index{}
	full.Attestations = []policy.Attestation{{Predicate: json.RawMessage(`{"a": [1]}`)}}
	full.Packages = &policy.Packages{}
	full.Errors = []policy.Problem{{}}
	full.Source.Dockerfile, full.Source.Tag, full.Source.Commit = &policy.Dockerfile{}, &policy.SourceTag{SignedAt: &now}, &policy.SourceCommit{}
	full.Parents = append(full.Parents, policy.Parent{Verdict: &policy.ParentVerdict{Reasons: []policy.Reason{{Path: []string{"a"}}}}}, policy.Parent{})
	for name, input := range map[string]*policy.Input{"full": full, "empty": {Request: policy.Request{Time: now}}} {
		if d := decide(t, engine, input); d.Action != policy.Serve {
			t.Errorf("%s: %+v", name, d.Reasons)
		}
	}
}

// Evidence that forbids the image, with any one of its members another than it
// should be: the rules do not fail at it, and it does not become harmless.
func TestSpoiltPredicates(t *testing.T) {
	t.Parallel()
	engine := mustLoad(t, policy.Options{Builtin: true, Collections: []string{"vulnerabilities"}})
	for name, tc := range map[string]struct {
		replaces  int // which of the attestations of a trusted image
		predicate string
		harmless  []string // where leaving out what was found is a form of its own
	}{
		"Trivy": {1, `{"scanner": {"result": {"SchemaVersion": 2, "Results": [{"Target": "app", "Vulnerabilities": [
			{"VulnerabilityID": "CVE-2026-0002", "PkgIdentifier": {"PURL": "pkg:deb/debian/openssl@3"}, "Severity": "CRITICAL"}
		]}]}}, "metadata": {"scanFinishedOn": "2026-06-01T06:00:00Z"}}`,
			[]string{".scanner.result.Results", ".scanner.result.Results.0", ".scanner.result.Results.0.Vulnerabilities"}},
		"Grype": {1, `{"scanners": [{"result": {"matches": [
			{"vulnerability": {"id": "GHSA-2", "severity": "Critical"}, "relatedVulnerabilities": [{"id": "CVE-2026-0002"}], "artifact": {"purl": "pkg:deb/debian/openssl@3"}}
		]}}], "metadata": {"scanFinishedOn": "2026-06-01T06:00:00Z"}}`, []string{".scanners.0.result.matches"}},
		"OpenVEX": {2, `{"timestamp": "2026-06-01T06:00:00Z", "statements": [{
			"vulnerability": {"name": "CVE-2026-0001", "@id": "https://nvd.nist.gov/vuln/detail/CVE-2026-0001", "aliases": ["GHSA-1"]},
			"products": [{"@id": "pkg:oci/app?arch=amd64", "identifiers": {"purl": "pkg:oci/app"}, "subcomponents": [{"@id": "pkg:deb/debian/openssl"}]}],
			"timestamp": "2026-06-01T06:00:00Z", "status": "affected"
		}]}`, []string{".statements"}},
	} {
		t.Run(name, func(t *testing.T) {
			judge := func(predicate any) policy.Action {
				raw, err := json.Marshal(predicate)
				if err != nil {
					t.Fatal(err)
				}
				input := trusted()
				input.Attestations[tc.replaces].Predicate = raw
				return decide(t, engine, input).Action
			}
			var whole any
			if err := json.Unmarshal([]byte(tc.predicate), &whole); err != nil {
				t.Fatal(err)
			}
			if got := judge(whole); got != policy.Block {
				t.Fatalf("as it should be: %s", got)
			}
			everyMember("", whole, func(v any) { whole = v }, func(at string, put func(any)) {
				for _, odd := range []any{nil, 1e300, "x", []any{}, map[string]any{"a": nil}} {
					put(odd)
					if got := judge(whole); got != policy.Block && !slices.Contains(tc.harmless, at) {
						t.Errorf("with %v at %s: %s", odd, at, got)
					}
				}
			})
		})
	}
}

// everyMember visits a document and all that is in it, with what puts another
// value there.
func everyMember(at string, value any, put func(any), visit func(at string, put func(any))) {
	visit(at, put)
	put(value)
	switch of := value.(type) {
	case map[string]any:
		for key, member := range of {
			everyMember(at+"."+key, member, func(v any) { of[key] = v }, visit)
		}
	case []any:
		for i, member := range of {
			everyMember(fmt.Sprintf("%s.%d", at, i), member, func(v any) { of[i] = v }, visit)
		}
	}
}

// FuzzPredicates has a named signer attest whatever: the rules must not fail at
// it, and what they cannot read must not pass for a scan.
func FuzzPredicates(f *testing.F) {
	engine, err := policy.Load(f.Context(), policy.Options{Builtin: true})
	if err != nil {
		f.Fatal(err)
	}
	for _, a := range trusted().Attestations {
		f.Add([]byte(a.Predicate))
	}
	for _, predicate := range []string{
		`null`, `"x"`, `[[]]`, `{"scanner": {"result": {"SchemaVersion": 1e999}}}`,
		`{"scanner": {"result": {"SchemaVersion": 2, "Results": [{"Vulnerabilities": [{"VulnerabilityID": "CVE-1", "Severity": "CRITICAL", "PkgIdentifier": "x"}]}]}}, "metadata": {"scanFinishedOn": "2026-06-01T06:00:00Z"}}`,
		`{"scanners": [{"result": {"matches": [{"vulnerability": {"id": "GHSA-1", "severity": "Critical"}, "relatedVulnerabilities": 1, "artifact": []}]}}], "metadata": {"scanFinishedOn": "2026-02-30T06:00:00Z"}}`,
		`{"timestamp": "2026-06-01T06:00:00Z", "statements": [{"vulnerability": "CVE-1", "status": "affected", "products": [{"@id": "pkg:oci/app?arch=amd64", "subcomponents": [{"@id": "?#&="}], "identifiers": {"purl": 1}}]}]}`,
		`{"timestamp": 1, "statements": {"a": {"vulnerability": {"name": {}, "aliases": {}, "@id": "/"}, "status": [], "timestamp": {}}}}`,
	} {
		f.Add([]byte(predicate))
	}
	f.Fuzz(func(t *testing.T, predicate []byte) {
		if _, err := ast.ValueFromReader(bytes.NewReader(predicate)); err != nil || !json.Valid(predicate) {
			return // such an input does not reach the rules
		}
		input := trusted()
		for i := range input.Attestations {
			input.Attestations[i].Predicate = predicate
		}
		d, err := engine.Decide(t.Context(), input)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(d.Reasons, func(r policy.Reason) bool { return r.Package == "vulnerability" }) {
			return
		}
		var scan map[string]map[string]any
		_ = json.Unmarshal(predicate, &scan)
		text, _ := scan["metadata"]["scanFinishedOn"].(string)
		at, err := time.Parse(time.RFC3339, text)
		if age := input.Request.Time.Sub(at); err != nil || age > 7*24*time.Hour || age < -time.Hour {
			t.Errorf("the rules take this for a recent scan: %s", predicate)
		}
	})
}

func TestTeamTests(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"acme.rego": "package trustgate.policies.acme\n\ndeny contains \"x\" if input.image.tag == data.trustgate.config.forbidden\n",
		"acme_test.rego": `package trustgate.policies.acme_test

import data.trustgate.policies.acme

test_forbidden if acme.deny == {"x"} with input.image.tag as "latest"

test_wrong if {
	print("looking")
	acme.deny == {"x"} with input.image.tag as "1"
}

test_error if time.parse_rfc3339_ns("soon") > 0

todo_test_later if false
`,
	})
	o := policy.Options{Builtin: true, Paths: []string{dir}, Config: map[string]any{"forbidden": "latest"}}
	tested, err := policy.Test(t.Context(), o, policy.TestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range tested.Results {
		got[r.Name] = fmt.Sprintf("%t %t", r.Passed, r.Skipped)
		if r.Package != "trustgate.policies.acme_test" || !strings.HasSuffix(r.File, "acme_test.rego") || r.Line == 0 {
			t.Errorf("%+v", r)
		}
		switch r.Name {
		case "test_wrong":
			if !strings.Contains(r.Output, "looking") {
				t.Errorf("its output is %q", r.Output)
			}
		case "test_error":
			if !strings.Contains(r.Output, "acme_test.rego:12:15: eval_builtin_error") {
				t.Errorf("its output is %q", r.Output)
			}
		}
	}
	want := map[string]string{"test_forbidden": "true false", "test_wrong": "false false", "test_error": "false false", "todo_test_later": "false true"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
	if some, err := policy.Test(t.Context(), o, policy.TestOptions{Run: "forbidden"}); err != nil || len(some.Results) != 1 {
		t.Errorf("one by name: %v, %v", some, err)
	}
	if _, err := policy.Test(t.Context(), policy.Options{Builtin: true}, policy.TestOptions{}); err == nil || !strings.Contains(err.Error(), "no tests") {
		t.Error(err)
	}
}
