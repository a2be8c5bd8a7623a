package policy_test

import (
	"fmt"
	"testing"

	"github.com/trustgate/trustgate/policy"
)

func TestProbe(t *testing.T) {
	e, err := policy.Load(t.Context(), policy.Options{Builtin: true})
	if err != nil {
		t.Fatal(err)
	}
	in := trusted()
	in.Signatures = append(in.Signatures, in.Signatures[0])
	no := false
	in.Signatures[0].Verified = false
	in.Signatures[0].Signer = nil
	in.Signatures[1].ReferenceMatches = &no
	in.Build.Trusted = false
	p := in.Parents[0]
	p.Verdict = &policy.ParentVerdict{Action: policy.Block, Reasons: []policy.Reason{{Code: "signature.missing", Msg: "none", Severity: "deny", Effect: policy.Block}}}
	p.Path = []string{"registry.example/acme/app:1", "registry.example/bad:1"}
	in.Parents = append(in.Parents, p)
	in.Packages = nil
	x, err := e.Explain(t.Context(), in, policy.ExplainOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range x.Findings {
		fmt.Println(f.Code, f.Msg)
		for _, r := range f.Rules {
			fmt.Println("  ", r.Package, r.File, r.Line)
			for _, a := range r.Facts {
				fmt.Println("     ", a.Path, string(a.Value), a.Missing)
			}
		}
	}
	for _, s := range x.Silent {
		fmt.Println(s.Code, "|", s.Title, "|", s.File, s.At, s.Why, s.Condition)
	}
}
