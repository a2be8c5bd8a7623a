package policy_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trustgate/trustgate/internal/headroom"
	"github.com/trustgate/trustgate/policy"
)

// BenchmarkDecide judges an image with three signatures, six parents and a provenance of 4 KB by
// the rules of trusted-builds; “large” has one of 64 KB, as BuildKit's fullest.
// “every” is judged by all of the shipped rules and has an SBOM, a scan and an
// OpenVEX document beside; in “scanned” the scan has found 200 vulnerabilities.
func BenchmarkDecide(b *testing.B) {
	load := func(collections ...string) *policy.Engine {
		engine, err := policy.Load(b.Context(), policy.Options{Builtin: true, Collections: collections, Config: map[string]any{
			"routes": map[string]any{registry: map[string]any{"mode": "enforce", "scopes": []any{
				map[string]any{"repositories": []string{"tools/**"}, "mode": "annotate"},
			}}},
		}})
		if err != nil {
			b.Fatal(err)
		}
		return engine
	}
	input := trusted()
	about := input.Attestations
	provenance := func(size int) []policy.Attestation {
		return []policy.Attestation{{
			PredicateType: "https://slsa.dev/provenance/v1", Verified: true, Signer: &policy.Signer{Name: "ci"},
			Predicate: json.RawMessage(`{"dockerfile":"` + strings.Repeat("RUN make", size/8) + `"}`),
		}}
	}
	input.Attestations = provenance(4 << 10)
	claimed := policy.Signature{Kind: "cosign", Error: "made by an unknown key"}
	input.Signatures = append(input.Signatures, input.Signatures[0], claimed)
	for range 5 {
		input.Parents = append(input.Parents, input.Parents[0])
	}
	for _, kind := range []string{"served", "large", "blocked", "every", "scanned"} {
		b.Run(kind, func(b *testing.B) {
			judged, collections, want := *input, []string{"trusted-builds"}, policy.Serve
			switch kind {
			case "every":
				judged.Attestations, collections = append(provenance(4<<10), about...), nil
			case "scanned":
				judged.Attestations, collections = append(provenance(4<<10), about[0], scanned("2026-06-01T06:00:00Z", 200), about[2]), nil
			case "large":
				judged.Attestations = provenance(64 << 10)
			case "blocked":
				judged.Signatures, want = nil, policy.Block
				judged.Build.Verified = false
			}
			headroom.Keep() // as the program does
			engine := load(collections...)
			b.ReportAllocs()
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				d, err := engine.Decide(b.Context(), &judged)
				took = append(took, time.Since(began))
				if err != nil || d.Action != want {
					b.Fatal(d, err)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs/median")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs/p99")
		})
	}
}

const registry = "registry.example"

// trusted is an image that no shipped rule finds anything about.
func trusted() *policy.Input {
	yes := true
	ci, release := &policy.Signer{Name: "ci"}, &policy.Signer{Name: "release"}
	build := policy.Build{Verified: true, Trusted: true, BuilderID: "https://ci.example/builder", Signer: ci}
	source := policy.Source{Verified: true, Trusted: true, Repository: "https://git.example/acme/app", Revision: "4a5b6c", Via: "provenance"}
	reproduced, released := build, source
	reproduced.Reproduced = policy.Reproduced{By: []string{"a", "b"}, Agree: 2}
	released.Tag = &policy.SourceTag{Name: "v1", Verified: true, Signer: release}
	return &policy.Input{
		Request: policy.Request{Route: registry, Time: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)},
		Image: policy.Image{
			Reference: registry + "/acme/app:1", Registry: registry, Repository: "acme/app", Tag: "1",
			Digest: "sha256:7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730", Kind: "image", Platform: "linux/amd64",
			Layers: []policy.Layer{{Size: 1024}},
		},
		Signatures: []policy.Signature{{Kind: "openpgp", Verified: true, Signer: release, Reference: registry + "/acme/app:1", ReferenceMatches: &yes}},
		Attestations: []policy.Attestation{
			attested("https://spdx.dev/Document", `{"spdxVersion": "SPDX-2.3"}`),
			scanned("2026-06-01T06:00:00Z", 0),
			attested("https://openvex.dev/ns/v0.2.0", `{"timestamp": "2026-05-01T00:00:00Z", "statements": [
				{"vulnerability": {"name": "CVE-2026-0001"}, "status": "not_affected"}
			]}`),
		},
		Build:    reproduced,
		Source:   released,
		Packages: &policy.Packages{State: "done", Distribution: "debian 12", Managers: []string{"dpkg"}, Count: 88},
		Parents: []policy.Parent{{
			Reference: registry + "/base/node:20", Stage: "final", Known: "attested", Depth: 1,
			Path:    []string{registry + "/acme/app:1", registry + "/base/node:20"},
			Verdict: &policy.ParentVerdict{Action: policy.Serve}, Build: &build, Source: &source,
		}},
	}
}

// attested is an attestation by a named signer.
func attested(predicateType, predicate string) policy.Attestation {
	return policy.Attestation{
		PredicateType: predicateType, Verified: true, Signer: &policy.Signer{Name: "ci"}, Predicate: json.RawMessage(predicate),
	}
}

// scanned is the attestation of a scan as Trivy reports it, with so many
// vulnerabilities of severity HIGH.
func scanned(at string, vulnerabilities int) policy.Attestation {
	found := []string{}
	for i := range vulnerabilities {
		found = append(found, fmt.Sprintf(`{"VulnerabilityID": "CVE-2026-%04d", "PkgName": "openssl", "PkgIdentifier":
			{"PURL": "pkg:deb/debian/openssl@3.0.17-1~deb12u2?arch=amd64&distro=debian-12.12"}, "Severity": "HIGH"}`, i))
	}
	return attested("https://cosign.sigstore.dev/attestation/vuln/v1", `{
		"scanner": {"uri": "pkg:github/aquasecurity/trivy@0.68.2", "result": {"SchemaVersion": 2, "Results": [{"Vulnerabilities": [`+strings.Join(found, ",")+`]}]}},
		"metadata": {"scanFinishedOn": "`+at+`"}
	}`)
}
