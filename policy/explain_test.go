package policy_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/policy"
)

// facts are what a finding's one rule read, by path.
func facts(t *testing.T, x *policy.Explanation, code string) map[string]string {
	t.Helper()
	for _, f := range x.Findings {
		if f.Code != code {
			continue
		}
		if len(f.Rules) != 1 {
			t.Fatalf("%s comes from %+v", code, f.Rules)
		}
		read := map[string]string{}
		for _, fact := range f.Rules[0].Facts {
			if read[fact.Path] = string(fact.Value); fact.Missing {
				read[fact.Path] = "missing"
			}
		}
		return read
	}
	t.Fatalf("there is no finding %s in %+v", code, x.Findings)
	return nil
}

// wantFacts wants these, and nothing else that begins as one of the prefixes.
func wantFacts(t *testing.T, read, want map[string]string, prefixes ...string) {
	t.Helper()
	for path, value := range want {
		if got, ok := read[path]; !ok || got != value {
			t.Errorf("%s is %q, want %s", path, got, value)
		}
	}
	for path := range read {
		for _, prefix := range prefixes {
			if _, wanted := want[path]; strings.HasPrefix(path, prefix) && !wanted {
				t.Errorf("it claims to have read %s", path)
			}
		}
	}
}

func TestExplainNamesTheFactsThatMadeARuleFire(t *testing.T) {
	t.Parallel()
	engine, err := policy.Load(t.Context(), policy.Options{Builtin: true})
	if err != nil {
		t.Fatal(err)
	}
	explain := func(t *testing.T, change func(*policy.Input)) *policy.Explanation {
		t.Helper()
		in := trusted()
		change(in)
		x, err := engine.Explain(t.Context(), in, policy.ExplainOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	t.Run("below not", func(t *testing.T) {
		x := explain(t, func(in *policy.Input) { in.Build.Trusted = false })
		wantFacts(t, facts(t, x, "provenance.builder"), map[string]string{
			"input.build.verified": "true", "input.build.trusted": "false", "input.image.root": "false", "input.image.kind": `"image"`,
			"input.build.builder_id": `"https://ci.example/builder"`, "input.build.signer.name": `"ci"`,
		}, "input.")
	})
	t.Run("an empty list", func(t *testing.T) {
		x := explain(t, func(in *policy.Input) { in.Signatures = nil })
		wantFacts(t, facts(t, x, "signature.missing"), map[string]string{"input.signatures": "[]"}, "input.signatures")
	})
	t.Run("each member of a list of which none will do", func(t *testing.T) {
		x := explain(t, func(in *policy.Input) {
			in.Signatures = []policy.Signature{{Kind: "cosign", Error: "made by an unknown key"}, {Kind: "notation", Error: "expired"}}
		})
		wantFacts(t, facts(t, x, "signature.missing"), map[string]string{
			"input.signatures[0].verified": "false", "input.signatures[1].verified": "false",
			"input.signatures[0].error": `"made by an unknown key"`, "input.signatures[1].error": `"expired"`,
		}, "input.signatures")
	})
	t.Run("the one member that counts, through the lists of other rules", func(t *testing.T) {
		no := false
		x := explain(t, func(in *policy.Input) {
			in.Signatures = append([]policy.Signature{{Kind: "cosign"}}, in.Signatures...)
			in.Signatures[1].ReferenceMatches = &no
		})
		read := facts(t, x, "signature.reference")
		wantFacts(t, read, map[string]string{
			"input.signatures[1].verified": "true", "input.signatures[1].reference_matches": "false",
			"input.signatures[1].signer.name": `"release"`, "input.signatures[1].reference": `"registry.example/acme/app:1"`,
		}, "input.signatures")
		wantFacts(t, read, map[string]string{"data.trustgate.config.rules.signature.signers": "missing"}, "data.")
	})
	t.Run("the parent at fault and no other", func(t *testing.T) {
		x := explain(t, func(in *policy.Input) {
			bad := in.Parents[0]
			bad.Error, bad.Path = "not found", []string{"registry.example/acme/app:1", "registry.example/gone:1"}
			in.Parents = []policy.Parent{in.Parents[0], bad, in.Parents[0]}
		})
		wantFacts(t, facts(t, x, "parents.untrusted"), map[string]string{
			"input.parents[1].error":   `"not found"`,
			"input.parents[1].path[0]": `"registry.example/acme/app:1"`,
			"input.parents[1].path[1]": `"registry.example/gone:1"`,
		}, "input.parents[0]", "input.parents[2]")
	})
	t.Run("of rules that found nothing the condition", func(t *testing.T) {
		x := explain(t, func(in *policy.Input) { in.Signatures = nil })
		silent := map[string]policy.Silent{}
		for _, s := range x.Silent {
			silent[s.Code] = s
		}
		if _, spoke := silent["signature.missing"]; spoke {
			t.Error("signature.missing is silent and has a finding")
		}
		if s := silent["provenance.missing"]; s.Condition != "not input.build.verified" || s.At == 0 || s.Title != "Verified provenance" {
			t.Errorf("provenance.missing: %+v", s)
		}
		if got, want := len(silent)+1, len(engine.Rules()); got != want {
			t.Errorf("it accounts for %d of %d rules", got, want)
		}
	})
}

// Explaining must not tell another story than the decision.
func TestExplainAgreesWithTheDecision(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"acme.rego": `package trustgate.policies.acme

# METADATA
# title: Not yet
# custom: {code: acme.later, effective_on: 2030-01-01}
deny contains {"code": "acme.later", "msg": "later"} if input.image.tag == "1"

# METADATA
# title: Not chosen
# custom: {code: acme.other, collections: [reproducible]}
deny contains {"code": "acme.other", "msg": "other"} if input.image.tag == "1"

warn contains "plain text" if input.image.size == 0

deny contains 7 if input.image.size == 0
`})
	engine, err := policy.Load(t.Context(), policy.Options{
		Builtin: true, Paths: []string{dir}, Collections: []string{"trusted-builds"},
		Config: map[string]any{"routes": map[string]any{registry: map[string]any{"mode": "annotate"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	in := trusted()
	in.Signatures = nil
	decision, err := engine.Decide(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	x, err := engine.Explain(t.Context(), in, policy.ExplainOptions{Trace: true})
	if err != nil {
		t.Fatal(err)
	}
	had, _ := json.Marshal(decision)
	got, _ := json.Marshal(x.Decision)
	if !bytes.Equal(had, got) || len(x.Findings) != len(decision.Reasons) {
		t.Errorf("the decision is\n%s, explained is\n%s", had, got)
	}
	for _, f := range x.Findings {
		if malformed := f.Code == "policy.malformed"; len(f.Rules) == 0 != malformed {
			t.Errorf("%s (%s) comes from %+v", f.Code, f.Msg, f.Rules)
		}
	}
	why := ""
	for _, s := range x.Silent {
		if s.Code == "acme.other" {
			why = s.Why
		}
	}
	if !strings.Contains(why, "no collection") {
		t.Errorf("acme.other: %q", why)
	}
	if !strings.Contains(x.Trace, "trustgate.policies.acme.deny at "+dir) || !strings.Contains(x.Trace, "Eval ") {
		t.Errorf("the trace is %.200s", x.Trace)
	}
	one, err := engine.Explain(t.Context(), in, policy.ExplainOptions{Code: "acme.later", Trace: true})
	if err != nil || len(one.Findings) != 1 || len(one.Silent) != 0 || strings.Count(one.Trace, " at ") != 1 {
		t.Errorf("of one code: %+v, %v", one, err)
	}
}

func FuzzReadInput(f *testing.F) {
	whole, err := json.Marshal(trusted())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	for _, seed := range []string{"{}", "null", "[]", `{"image":{"labels":null}}`, `{"imge":{}}`, `{} {}`, ""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		in, err := policy.ReadInput(bytes.NewReader(raw))
		if err != nil {
			return
		}
		written, err := json.Marshal(in)
		if err != nil {
			return // a predicate that is no JSON cannot have been read
		}
		again, err := policy.ReadInput(bytes.NewReader(written))
		if err != nil {
			t.Fatalf("it does not read what it writes: %v\n%s", err, written)
		}
		if second, err := json.Marshal(again); err != nil || !bytes.Equal(written, second) {
			t.Errorf("it reads another document than it writes: %v\n%s\n%s", err, written, second)
		}
	})
}

func TestReadInputIsStrict(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ document, says string }{
		{`{"imge": {}}`, `unknown field "imge"`},
		{`null`, "the input is null"},
		{`{} {}`, "followed by something else"},
		{`[]`, "cannot unmarshal array"},
		{strings.Repeat(" ", 33<<20), "more than"},
	} {
		if _, err := policy.ReadInput(strings.NewReader(tc.document)); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%.20s: %v", tc.document, err)
		}
	}
}
