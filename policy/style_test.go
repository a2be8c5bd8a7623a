package policy_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/policy"
)

// foreign loads one set of another tool's rules and nothing else.
func foreign(t *testing.T, set policy.RuleSet, files map[string]string) (*policy.Engine, error) {
	t.Helper()
	set.Paths = []string{write(t, files)}
	return policy.Load(t.Context(), policy.Options{Rules: []policy.RuleSet{set}})
}

// says lists the findings of a decision: effect, code and message.
func says(d policy.Decision) []string {
	all := []string{}
	for _, r := range d.Reasons {
		all = append(all, string(r.Effect)+" "+r.Code+": "+r.Msg)
	}
	return all
}

// latest is the trusted image of the tests, pulled by a tag that moves.
func latest() *policy.Input {
	input := trusted()
	input.Image.Tag, input.Image.Reference = "latest", registry+"/acme/app:latest"
	return input
}

func TestConftestRules(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		version string
		rego    string
		want    []string
	}{
		{"texts, in Rego v1", "", `package main
deny contains msg if { input.image.tag == "latest"; msg := "no latest" }
warn contains "says nothing of its licence" if not input.image.labels.licence
`, []string{"block conftest.main: no latest", "annotate conftest.main: says nothing of its licence"}},
		{"texts, in Rego v0", "v0", `package main
deny[msg] { input.image.tag == "latest"; msg := "no latest" }
violation[{"msg": msg, "details": {"tag": input.image.tag}}] { msg := "no latest either" }
`, []string{"block conftest.main: no latest", "block conftest.main: no latest either"}},
		{"Rego v1 among Rego v0", "v0", `package main
import rego.v1
deny contains "no latest" if input.image.tag == "latest"
`, []string{"block conftest.main: no latest"}},
		{"suffixes and packages", "", `package kubernetes.images
deny_latest contains "no latest" if true
violation_a_b contains {"msg": "no", "code": "own.code"} if true
warn_1 contains "beware" if true
denying contains "is not read" if true
`, []string{"block conftest.kubernetes.images.latest: no latest", "block own.code: no", "annotate conftest.kubernetes.images.1: beware"}},
		{"exceptions", "v0", `package main
deny_latest[msg] { msg := "no latest" }
warn_latest[msg] { msg := "no latest at all" }
deny_other[msg] { msg := "nor another" }
deny[msg] { msg := "nor any" }
exception[rules] { input.image.tag == "latest"; rules := ["latest", ""] }
exception[rules] { input.image.tag == "old"; rules := ["other"] }
`, []string{"block conftest.main.other: nor another"}},
		{"what is no finding", "", `package main
deny contains 7 if true
warn contains {"text": "no"} if true
`, []string{
			`block policy.malformed: an entry of trustgate.policies.conftest.main.deny is neither a string nor an object with msg: 7`,
			`block policy.malformed: an entry of trustgate.policies.conftest.main.warn is neither a string nor an object with msg: {"code":"conftest.main"}`,
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			engine, err := foreign(t, policy.RuleSet{Style: policy.Conftest, RegoVersion: tc.version}, map[string]string{"a.rego": tc.rego})
			if err != nil {
				t.Fatal(err)
			}
			if got := says(decide(t, engine, latest())); !slices.Equal(got, tc.want) {
				t.Errorf("it says\n%s", strings.Join(got, "\n"))
			}
		})
	}
}

const conformaRules = `#
# METADATA
# title: Labels
# description: What labels must say.
#
package policy.release.labels

import rego.v1

import data.lib

# METADATA
# title: A maintainer is named
# custom:
#   short_name: maintainer
#   failure_msg: The label %q of %s is missing
#   solution: Say who maintains it.
#   collections: [minimal, acme]
#   effective_on: 2026-06-02T00:00:00Z
deny contains result if {
	not input.image.config.Labels.maintainer
	result := lib.result_helper(rego.metadata.chain(), ["maintainer", input.image.ref])
}

# METADATA
# title: The predicate is known
# custom:
#   short_name: predicate
#   failure_msg: Predicate type %s is not known
#   collections: [acme]
#   depends_on: [labels.strict]
deny contains result if {
	some att in input.attestations
	att.statement.predicateType != "https://slsa.dev/provenance/v1"
	result := lib.result_helper_with_term(rego.metadata.chain(), [att.statement.predicateType], att.statement.subject[0].digest.sha256)
}

# METADATA
# title: Nothing is good enough
# custom:
#   short_name: strict
#   failure_msg: no
#   collections: [redhat]
deny contains lib.result_helper(rego.metadata.chain(), []) if true

# METADATA
# custom:
#   short_name: careful
#   failure_msg: beware
#   severity: warning
deny contains lib.result_helper(rego.metadata.chain(), []) if true

# METADATA
# custom:
#   short_name: graver
#   failure_msg: "%s"
warn contains lib.result_helper_with_severity(rego.metadata.chain(), ["not so"], "failure") if true

deny contains {"code": "labels.later", "msg": "not yet", "effective_on": "2030-01-01T00:00:00Z"} if true
`

func TestConformaRules(t *testing.T) {
	t.Parallel()
	ref := registry + "/acme/app@" + latest().Image.Digest.String()
	maintainer := `annotate labels.maintainer: The label "maintainer" of ` + ref + " is missing (blocks from 2026-06-02T00:00:00Z)"
	others := []string{
		"annotate labels.careful: beware",
		"annotate labels.later: not yet (blocks from 2030-01-01T00:00:00Z)",
	}
	for _, tc := range []struct {
		name        string
		collections []string
		want        []string
	}{
		{"all of them, without what depends on one that blocks", nil,
			append([]string{"block labels.graver: not so", "block labels.strict: no"}, others[0], others[1], maintainer)},
		{"those of two collections", []string{"acme", "minimal"},
			append([]string{"block labels.graver: not so", "block labels.predicate: Predicate type https://spdx.dev/Document is not known"}, others[0], others[1], maintainer)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			engine, err := foreign(t, policy.RuleSet{Style: policy.Conforma, Collections: tc.collections}, map[string]string{"labels/labels.rego": conformaRules})
			if err != nil {
				t.Fatal(err)
			}
			input := latest()
			input.Attestations = []policy.Attestation{
				{PredicateType: "https://spdx.dev/Document", Verified: true, Signer: &policy.Signer{Name: "ci"}, Subject: input.Image.Digest, Predicate: json.RawMessage(`{}`)},
				{PredicateType: "https://evil.example/", Subject: input.Image.Digest, Predicate: json.RawMessage(`{}`)},
			}
			if got := says(decide(t, engine, input)); !slices.Equal(got, tc.want) {
				t.Errorf("it says\n%s", strings.Join(got, "\n"))
			}
		})
	}
}

func TestConformaRulesAskNothingOfSilence(t *testing.T) {
	t.Parallel()
	engine, err := foreign(t, policy.RuleSet{Style: policy.Conforma, Repositories: []string{registry + "/acme/*"}}, map[string]string{"a.rego": `package policy.release.a
import rego.v1
deny contains {"code": "a.b", "msg": "no"} if { some att in input.attestations; att.statement.predicateType == "x" }
`})
	if err != nil {
		t.Fatal(err)
	}
	input := latest()
	input.Attestations, input.Signatures = nil, nil
	want := []string{
		"block builtin.attestation.signature_check: Image attestation check failed: no attestation by a named signer",
		"block builtin.image.signature_check: Image signature check failed: no signature by a named signer",
	}
	if got := says(decide(t, engine, input)); !slices.Equal(got, want) {
		t.Errorf("of an image without signatures it says\n%s", strings.Join(got, "\n"))
	}
	input.Image.Repository = "other/app"
	if got := says(decide(t, engine, input)); len(got) != 0 {
		t.Errorf("of a repository that the set is not for it says\n%s", strings.Join(got, "\n"))
	}
}

func TestConformaRulesBringTheirOwnLibrary(t *testing.T) {
	t.Parallel()
	engine, err := foreign(t, policy.RuleSet{Style: policy.Conforma}, map[string]string{
		"release/a.rego": `package policy.release.a
import rego.v1
import data.lib
# METADATA
# custom: {short_name: b, failure_msg: no}
deny contains lib.result_helper(rego.metadata.chain(), ["own"]) if true
`,
		"lib/result_helper.rego": `package lib
import rego.v1
result_helper(chain, values) := {"code": "policy.release.a.b", "msg": values[0], "rank": count(chain)}
`})
	if err != nil {
		t.Fatal(err)
	}
	if got := says(decide(t, engine, latest())); !slices.Contains(got, "block a.b: own") {
		t.Errorf("it says\n%s", strings.Join(got, "\n"))
	}
}

func TestCosignPolicies(t *testing.T) {
	t.Parallel()
	vuln := func(signer, predicate string) policy.Attestation {
		a := policy.Attestation{PredicateType: policy.PredicateTypes["vuln"], Predicate: json.RawMessage(predicate), Subject: trusted().Image.Digest}
		if signer != "" {
			a.Verified, a.Signer = true, &policy.Signer{Name: signer}
		}
		return a
	}
	const none = "block cosign.p: no signer that counts attests https://cosign.sigstore.dev/attestation/vuln/v1"
	const refused = "block cosign.p: the policy does not allow what ci attests as https://cosign.sigstore.dev/attestation/vuln/v1"
	for _, tc := range []struct {
		name    string
		signers []string
		found   []policy.Attestation
		want    []string
	}{
		{"nothing attested", nil, nil, []string{none}},
		{"allowed", nil, []policy.Attestation{vuln("ci", `{"scanner": {"uri": "trivy"}}`)}, []string{}},
		{"not allowed", nil, []policy.Attestation{vuln("ci", `{"scanner": {"uri": "other"}}`)}, []string{refused}},
		{"nothing to decide on", nil, []policy.Attestation{vuln("ci", `null`)}, []string{refused}},
		{"one of two not allowed", nil, []policy.Attestation{vuln("release", `{"scanner": {"uri": "trivy"}}`), vuln("ci", `{}`)}, []string{refused}},
		{"not verified", nil, []policy.Attestation{vuln("", `{"scanner": {"uri": "trivy"}}`)}, []string{none}},
		{"by a signer who does not count", []string{"release"}, []policy.Attestation{vuln("ci", `{"scanner": {"uri": "trivy"}}`)}, []string{none}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := write(t, map[string]string{"p.rego": `package signature
default allow = false
allow { trivy; input.predicateType == "https://cosign.sigstore.dev/attestation/vuln/v1" }
trivy { input.predicate.scanner.uri == "trivy" }
`, "q.rego": `package signature
allow { true }
`})
			// The second policy allows everything of its own type, and nothing of another.
			engine := mustLoad(t, policy.Options{Rules: []policy.RuleSet{
				{Style: policy.Cosign, Paths: []string{dir + "/p.rego"}, PredicateType: "vuln", Signers: tc.signers},
				{Style: policy.Cosign, Paths: []string{dir + "/q.rego"}, PredicateType: "https://spdx.dev/Document"},
			}})
			input := trusted()
			input.Attestations = append(tc.found, policy.Attestation{
				PredicateType: "https://spdx.dev/Document", Verified: true, Signer: &policy.Signer{Name: "ci"}, Subject: input.Image.Digest, Predicate: json.RawMessage(`{}`),
			})
			if got := says(decide(t, engine, input)); !slices.Equal(got, tc.want) {
				t.Errorf("it says\n%s", strings.Join(got, "\n"))
			}
		})
	}
}

func TestForeignRulesThatWouldBeSilentDoNotLoad(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		set  policy.RuleSet
		rego string
		want string
	}{
		{"a misspelt field of the input", policy.RuleSet{Style: policy.Conftest}, "package main\ndeny contains \"x\" if input.image.tga == \"a\"\n", "there is no input.image.tga; did you mean tag?"},
		{"Rego v0 for v1", policy.RuleSet{Style: policy.Conftest}, "package main\ndeny[msg] { msg := \"x\" }\n", "a.rego is Rego v0: write rego_version: v0 at its entry of policy.rules"},
		{"a boolean", policy.RuleSet{Style: policy.Conftest}, "package main\ndeny if input.image.tag == \"a\"\n", "deny must be a set: conftest passes over anything else"},
		{"a function", policy.RuleSet{Style: policy.Conftest}, "package main\ndeny(x) := x\n", "deny must be a set"},
		{"the file that conftest judges", policy.RuleSet{Style: policy.Conftest}, "package main\ndeny contains \"x\" if data.conftest.file.name == \"a\"\n", "data.conftest.file.name: an image is judged"},
		{"the network", policy.RuleSet{Style: policy.Conftest}, "package main\ndeny contains \"x\" if http.send({\"url\": \"http://a\", \"method\": \"get\"})\n", "rules have no access to the network"},
		{"no rule at all", policy.RuleSet{Style: policy.Conftest}, "package main\nallow if true\n", "there is nothing in"},
		{"a package of TrustGate's", policy.RuleSet{Style: policy.Conftest}, "package trustgate.policies.acme\ndeny contains \"x\" if true\n", "name its file under policy.paths"},
		{"a function of Conforma's own", policy.RuleSet{Style: policy.Conforma}, "package a\nimport rego.v1\ndeny contains \"x\" if ec.oci.image_manifest(input.image.ref)\n", "undefined function ec.oci.image_manifest"},
		{"the files of an image", policy.RuleSet{Style: policy.Conforma}, "package a\nimport rego.v1\ndeny contains \"x\" if input.image.files.a\n", "there is no input.image.files"},
		{"the certificate of a signature", policy.RuleSet{Style: policy.Conforma}, "package a\nimport rego.v1\ndeny contains \"x\" if { some s in input.image.signatures; s.certificate }\n", "certificate"},
		{"the version of a statement", policy.RuleSet{Style: policy.Conforma}, "package a\nimport rego.v1\ndeny contains \"x\" if { some a in input.attestations; a.statement._type }\n", "_type"},
		{"the snapshot", policy.RuleSet{Style: policy.Conforma}, "package a\nimport rego.v1\ndeny contains \"x\" if input.snapshot.components\n", "there is no input.snapshot"},
		{"rule data that nobody brought", policy.RuleSet{Style: policy.Conforma}, "package a\nimport rego.v1\nimport data.lib\ndeny contains \"x\" if lib.rule_data(\"y\")\n", "lib.rule_data"},
		{"a collection that no rule is in", policy.RuleSet{Style: policy.Conforma, Collections: []string{"none"}}, "package a\nimport rego.v1\ndeny contains \"x\" if true\n", `no loaded rule belongs to "none"`},
		{"a code of two rules in other collections, one without a title", policy.RuleSet{Style: policy.Conforma, Collections: []string{"acme"}}, `package a
import rego.v1
# METADATA
# title: First
# custom: {short_name: x, failure_msg: no, collections: [redhat]}
deny contains {"code": "a.x", "msg": "first"} if false
# METADATA
# custom: {short_name: x, failure_msg: no, collections: [acme]}
deny contains {"code": "a.x", "msg": "second"} if true
# METADATA
# custom: {short_name: y, failure_msg: no, collections: [acme]}
deny contains {"code": "a.y", "msg": "other"} if false
`, "the code a.x has other metadata at"},
		{"a severity that Conforma has not", policy.RuleSet{Style: policy.Conforma}, "package a\nimport rego.v1\n# METADATA\n# custom: {short_name: b, severity: deny}\ndeny contains \"x\" if true\n", "Conforma has failure and warning"},
		{"a date that is none", policy.RuleSet{Style: policy.Conforma}, "package a\nimport rego.v1\n# METADATA\n# custom: {short_name: b, effective_on: soon}\ndeny contains \"x\" if true\n", "custom.effective_on"},
		{"another package than signature", policy.RuleSet{Style: policy.Cosign, PredicateType: "vuln"}, "package main\nallow { true }\n", "a cosign policy is the package signature"},
		{"a cosign policy that names itself", policy.RuleSet{Style: policy.Cosign, PredicateType: "vuln"}, "package signature\nallow { data.signature.ok }\nok { true }\n", "name it without the package that it is in"},
		{"a cosign policy that asks for the signature", policy.RuleSet{Style: policy.Cosign, PredicateType: "vuln"}, "package signature\nallow { input.critical.identity }\n", "there is no input.critical"},
		{"an unknown type of predicate", policy.RuleSet{Style: policy.Cosign, PredicateType: "sbom"}, "package signature\nallow { true }\n", "predicate_type: a cosign policy judges"},
		{"an unknown style", policy.RuleSet{Style: "kyverno"}, "package a\n", `"kyverno" is not one of conftest, conforma, cosign`},
		{"keys of another style", policy.RuleSet{Style: policy.Conftest, RegoVersion: "v2", Collections: []string{"a"}, Signers: []string{"ci"}}, "package a\n", "predicate_type and signers are for cosign rules"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := foreign(t, tc.set, map[string]string{"a.rego": tc.rego})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("it says %v", err)
			}
		})
	}
}

func TestForeignRulesAreExplained(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"conftest/a.rego": "package main\n\ndeny_latest contains \"no latest\" if {\n\tinput.image.tag == \"latest\"\n}\n\nwarn contains \"old\" if {\n\tinput.image.tag == \"old\"\n}\n",
		"conforma/a.rego": conformaRules,
	})
	engine := mustLoad(t, policy.Options{Rules: []policy.RuleSet{
		{Style: policy.Conftest, Paths: []string{dir + "/conftest"}},
		{Style: policy.Conforma, Paths: []string{dir + "/conforma"}, Collections: []string{"minimal"}},
	}})
	x, err := engine.Explain(t.Context(), latest(), policy.ExplainOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantFacts(t, facts(t, x, "conftest.main.latest"), map[string]string{"input.image.tag": `"latest"`})
	for _, f := range x.Findings {
		if f.Code == "conftest.main.latest" && (f.Rules[0].File != dir+"/conftest/a.rego" || f.Rules[0].Line != 3) {
			t.Errorf("the rule is said to stand at %s:%d", f.Rules[0].File, f.Rules[0].Line)
		}
	}
	wantFacts(t, facts(t, x, "labels.maintainer"), map[string]string{"input.image.config.Labels.maintainer": "missing"})
	silent := map[string]string{}
	for _, s := range x.Silent {
		silent[s.Code] = s.Why + " " + s.Condition
	}
	if got := silent["conftest.main"]; got != `a condition does not hold input.image.tag == "old"` {
		t.Errorf("of the warning it says %q in %v", got, silent)
	}
	if got := silent["labels.strict"]; !strings.HasPrefix(got, "it objects, and its entry of policy.rules") {
		t.Errorf("of the rule of another collection it says %q in %v", got, silent)
	}
}

// Modes and exceptions hold for rules of other tools as for all others, a change of one
// is another policy, and what they do not read of the request is in no key.
func TestForeignRulesGoThroughTheAggregator(t *testing.T) {
	t.Parallel()
	load := func(rego string, config map[string]any) *policy.Engine {
		return mustLoad(t, policy.Options{Config: config, Rules: []policy.RuleSet{{
			Style: policy.Conftest, Paths: []string{write(t, map[string]string{"a.rego": rego})},
		}}})
	}
	const rego = "package main\ndeny contains \"no latest\" if input.image.tag == \"latest\"\n"
	plain := load(rego, nil)
	d := decide(t, load(rego, map[string]any{"exceptions": []map[string]any{{
		"code": "conftest.main", "repository": "**", "owner": "ops", "reason": "soon", "expires": "2099-01-01",
	}}}), latest())
	if d.Action != policy.Serve || !strings.HasPrefix(d.Reasons[0].Because, "exception by ops") {
		t.Errorf("with an exception: %+v", d)
	}
	d = decide(t, load(rego, map[string]any{"routes": map[string]any{registry: map[string]any{"mode": "annotate"}}}), latest())
	if d.Action != policy.Annotate || d.BeforeMode != policy.Block {
		t.Errorf("in the mode annotate: %+v", d)
	}
	if plain.Revision() == load(rego+"# more\n", nil).Revision() || plain.Revision() != load(rego, nil).Revision() {
		t.Error("the revision does not tell the rules")
	}
	if fields := plain.RequestFields(); len(fields) > 1 {
		t.Errorf("it reads %v of the request", fields)
	}
	reading := load("package main\ndeny contains \"x\" if input.request.client.identity == \"\"\n", nil)
	if !slices.Contains(reading.RequestFields(), "client.identity") {
		t.Errorf("it reads %v of the request", reading.RequestFields())
	}
	conforma, err := foreign(t, policy.RuleSet{Style: policy.Conforma}, map[string]string{"a.rego": "package a\nimport rego.v1\ndeny contains \"x\" if object.get(input, [\"image\", \"ref\"], \"\") == \"\"\n"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(conforma.RequestFields(), plain.RequestFields()) {
		t.Errorf("a document without the request reads %v of it", conforma.RequestFields())
	}
}

func TestPackagesOfForeignRulesAreTheirOwn(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"one/a.rego":     "package main\ndeny contains \"x\" if true\n",
		"two/a.rego":     "package main\ndeny contains \"y\" if true\n",
		"own/a.rego":     "package trustgate.policies.acme\ndeny contains {\"code\": \"acme.x\", \"msg\": data.main.lib.text} if true\n",
		"own/b.rego":     "package main.lib\ntext := \"x\"\n",
		"taken/a.rego":   "package trustgate.policies[\"conftest.main\"]\ndeny contains \"x\" if true\n",
		"p/policy.rego":  "package signature\nallow { true }\n",
		"q/policy.rego":  "package signature\nallow { true }\n",
		"data/own.yaml":  "limits: {size: 5}\n",
		"data/grab.yaml": "trustgate: {config: {}}\n",
		"data/null.yaml": "trustgate:\nother: 1\n",
		"four/base.rego": "package base\ndeny contains \"base\" if true\n",
		"four/more.rego": "package more\ndeny contains \"more\" if true\n",
		"three/a.rego":   "package main\ndeny contains \"too large\" if input.image.size > data.limits.size\n",
	})
	conftest := func(folder string, data ...string) policy.RuleSet {
		return policy.RuleSet{Style: policy.Conftest, Paths: []string{dir + "/" + folder}, Data: data}
	}
	cosign := func(folder string) policy.RuleSet {
		return policy.RuleSet{Style: policy.Cosign, Paths: []string{dir + "/" + folder + "/policy.rego"}, PredicateType: "vuln"}
	}
	for _, tc := range []struct {
		name string
		o    policy.Options
		want string
	}{
		{"one package in two sets", policy.Options{Rules: []policy.RuleSet{conftest("one"), conftest("two")}}, "package main is in two entries of policy.rules"},
		{"a file in two sets", policy.Options{Rules: []policy.RuleSet{
			{Style: policy.Conftest, Paths: []string{dir + "/four/base.rego"}, Repositories: []string{"elsewhere.example/**"}}, conftest("four"),
		}}, "loading policy.rules[1]: " + dir + "/four: " + dir + "/four/base.rego is in policy.rules[0] too"},
		{"a file that is among TrustGate's rules", policy.Options{Paths: []string{dir + "/one"}, Rules: []policy.RuleSet{{Style: policy.Conftest, Paths: []string{dir + "/one/a.rego"}}}},
			"a.rego is in policy.paths too"},
		{"a helper of TrustGate's rules below it", policy.Options{Paths: []string{dir + "/own"}, Rules: []policy.RuleSet{conftest("one")}}, "has the package main to itself"},
		{"the name of an adapter", policy.Options{Paths: []string{dir + "/taken"}, Rules: []policy.RuleSet{conftest("one")}}, "a shipped package has that name"},
		{"two cosign policies of one name", policy.Options{Rules: []policy.RuleSet{cosign("p"), cosign("q")}}, "would be called cosign.policy"},
		{"data of TrustGate's", policy.Options{Rules: []policy.RuleSet{conftest("one", dir+"/data/grab.yaml")}}, "name it under policy.data"},
		{"nothing in the place of TrustGate's data", policy.Options{Builtin: true, Rules: []policy.RuleSet{conftest("one", dir+"/data/null.yaml")}}, "name it under policy.data"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := policy.Load(t.Context(), tc.o); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("it says %v", err)
			}
		})
	}
	engine := mustLoad(t, policy.Options{Rules: []policy.RuleSet{conftest("three", dir+"/data/own.yaml")}})
	twice := conftest("four")
	twice.Paths = append(twice.Paths, dir+"/four/base.rego")
	if got := says(decide(t, mustLoad(t, policy.Options{Rules: []policy.RuleSet{twice}}), latest())); !slices.Equal(got, []string{"block conftest.base: base", "block conftest.more: more"}) {
		t.Errorf("with a file that is named twice in one set it says %v", got)
	}
	large := latest()
	large.Image.Size = 6
	if got := says(decide(t, engine, large)); !slices.Equal(got, []string{"block conftest.main: too large"}) {
		t.Errorf("with data of its own it says %v", got)
	}
}

func TestCheckListsForeignRulesAndIsNotStrictWithThem(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"a.rego": "package main\nimport data.unused\n# METADATA\n# title: No latest\ndeny_latest contains \"x\" if { y := 1; input.image.tag == \"latest\" }\n",
		"b.rego": "package trustgate.policies.acme\nimport data.unused\n# METADATA\n# title: T\n# custom: {code: acme.x}\ndeny contains {\"code\": \"acme.x\", \"msg\": \"m\"} if true\n",
	})
	o := policy.Options{Rules: []policy.RuleSet{{Style: policy.Conftest, Paths: []string{dir + "/a.rego"}}}}
	rules, err := policy.Check(t.Context(), o)
	if err != nil || len(rules) != 1 || rules[0].Code != "conftest.main.latest" || rules[0].Title != "No latest" || rules[0].Line != 5 {
		t.Errorf("%+v, %v", rules, err)
	}
	o.Paths = []string{dir + "/b.rego"}
	if _, err := policy.Check(t.Context(), o); err == nil || strings.Count(err.Error(), ".rego:2:1") != 1 {
		t.Errorf("of an unused import beside it says %v", err)
	}
}
