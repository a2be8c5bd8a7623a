package policy_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/trustgate/trustgate/policy"
)

// BenchmarkDecide judges an image with eight parents and a provenance of 4 KB by
// all of the shipped rules; “large” has one of 64 KB, as BuildKit's fullest.
func BenchmarkDecide(b *testing.B) {
	engine, err := policy.Load(b.Context(), policy.Options{Builtin: true, Config: map[string]any{
		"routes": map[string]any{registry: map[string]any{"mode": "enforce", "scopes": []any{
			map[string]any{"repositories": []string{"tools/**"}, "mode": "annotate"},
		}}},
	}})
	if err != nil {
		b.Fatal(err)
	}
	input := trusted()
	provenance := func(size int) []policy.Attestation {
		return []policy.Attestation{{
			PredicateType: "https://slsa.dev/provenance/v1", Verified: true, Signer: &policy.Signer{Name: "ci"},
			Predicate: json.RawMessage(`{"dockerfile":"` + strings.Repeat("RUN make", size/8) + `"}`),
		}}
	}
	input.Attestations = provenance(4 << 10)
	for range 7 {
		input.Parents = append(input.Parents, input.Parents[0])
	}
	for _, kind := range []string{"served", "large", "blocked"} {
		b.Run(kind, func(b *testing.B) {
			judged := *input
			want := policy.Serve
			switch kind {
			case "large":
				judged.Attestations = provenance(64 << 10)
			case "blocked":
				judged.Signatures, want = nil, policy.Block
				judged.Build.Verified = false
			}
			b.ReportAllocs()
			for b.Loop() {
				d, err := engine.Decide(b.Context(), &judged)
				if err != nil || d.Action != want {
					b.Fatal(d, err)
				}
			}
		})
	}
}

const registry = "registry.example"

// trusted is an image that no shipped rule finds anything about.
func trusted() *policy.Input {
	yes := true
	ci := &policy.Signer{Name: "ci"}
	build := policy.Build{Verified: true, Trusted: true, BuilderID: "https://ci.example/builder", Signer: ci}
	source := policy.Source{Verified: true, Trusted: true, Repository: "https://git.example/acme/app", Revision: "4a5b6c", Via: "provenance"}
	return &policy.Input{
		Request: policy.Request{Route: registry, Time: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)},
		Image: policy.Image{
			Reference: registry + "/acme/app:1", Registry: registry, Repository: "acme/app", Tag: "1",
			Digest: "sha256:7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730", Kind: "image", Platform: "linux/amd64",
			Layers: []policy.Layer{{Size: 1024}},
		},
		Signatures: []policy.Signature{{Kind: "openpgp", Verified: true, Signer: &policy.Signer{Name: "release"}, Reference: registry + "/acme/app:1", ReferenceMatches: &yes}},
		Build:      build,
		Source:     source,
		Parents: []policy.Parent{{
			Reference: registry + "/base/node:20", Stage: "final", Known: "attested", Depth: 1,
			Path:    []string{registry + "/acme/app:1", registry + "/base/node:20"},
			Verdict: &policy.ParentVerdict{Action: policy.Serve}, Build: &build, Source: &source,
		}},
	}
}
