package policy_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/policy"
)

const onlyShop = `package docker

decision := {"allow": count(deny_msg) == 0, "deny_msg": deny_msg}

deny_msg contains sprintf("%s is not ours", [input.image.ref]) if not startswith(input.image.host, "registry.example")

deny_msg contains "no git but ours" if not startswith(input.git.remote, "https://git.example/")
`

// buildPolicy writes a build policy and returns the options that load it.
func buildPolicy(t *testing.T, rego string) policy.Options {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Dockerfile.rego")
	if err := os.WriteFile(file, []byte(rego), 0o600); err != nil {
		t.Fatal(err)
	}
	return policy.Options{DockerBuild: []string{file}, Config: map[string]any{"routes": map[string]any{"registry.example": map[string]any{"mode": "enforce"}}}}
}

// built is an image with a provenance that lists a base and a repository.
func built(change func(*policy.Input)) *policy.Input {
	in := &policy.Input{
		Request: policy.Request{Route: "registry.example", Time: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)},
		Image: policy.Image{
			Reference: "registry.example/shop:1@" + digest.FromString("shop").String(), Registry: "registry.example", Repository: "shop", Tag: "1",
			Digest: digest.FromString("shop"), Kind: "image", Platform: "linux/amd64", Config: &policy.Config{},
		},
		Build: policy.Build{Materials: []policy.Material{
			{URI: "pkg:docker/registry.example/base@1", Digest: map[string]string{"sha256": digest.FromString("base").Encoded()}},
			{URI: "https://git.example/shop.git#refs/heads/main", Digest: map[string]string{"sha1": strings.Repeat("a", 40)}},
			{URI: "pkg:npm/left-pad@1"},
		}},
		Parents: []policy.Parent{{
			Reference: "registry.example/base:1", Digest: digest.FromString("base"), Depth: 1, Stage: "final", Known: "attested",
			Path: []string{"registry.example/shop:1", "registry.example/base:1"}, Verdict: &policy.ParentVerdict{Action: policy.Serve},
		}},
	}
	if change != nil {
		change(in)
	}
	return in
}

func TestBuildPoliciesObject(t *testing.T) {
	const ours = `package docker

default allow := false

allow if input.image.host == "registry.example"

allow if startswith(input.git.remote, "https://git.example/")

decision := {"allow": allow, "deny_msg": [m | not allow; m := "not ours"]}
`
	const labelled = `package docker

default allow := false

allow if not input.image

allow if input.image.labels.team

decision := {"allow": allow, "deny_msg": ["no team"]}
`
	const unsigned = `package docker

default allow := false

allow if not input.image.signatures

decision := {"allow": allow}
`
	const signatures = "docker_build.unknown: Dockerfile.rego rests on what nobody knows when an image is pulled: input.image.signatures"
	signed := func(s policy.Signature) func(*policy.Input) {
		return func(in *policy.Input) { in.Signatures, in.Build.Materials = []policy.Signature{s}, nil }
	}
	withLabel := func(in *policy.Input) { in.Image.Labels = map[string]string{"team": "shop"} }
	for name, tc := range map[string]struct {
		rego   string
		change func(*policy.Input)
		want   []string // code: message, as far as it must begin
	}{
		"to nothing":                {ours, nil, nil},
		"to the image":              {ours, func(in *policy.Input) { in.Image.Registry = "evil.example" }, []string{"docker_build.denied: not ours"}},
		"to an image in the build":  {ours, func(in *policy.Input) { in.Build.Materials[0].URI = "pkg:docker/evil.example/base@1" }, []string{"docker_build.denied: evil.example/base:1@sha256:"}},
		"to a repository":           {ours, func(in *policy.Input) { in.Build.Materials[1].URI = "https://evil.example/shop.git" }, []string{"docker_build.denied: https://evil.example/shop.git went into the build: not ours"}},
		"to a download":             {ours, func(in *policy.Input) { in.Build.Materials[2].URI = "https://evil.example/x" }, []string{"docker_build.denied: https://evil.example/x went into the build: not ours"}},
		"to what cannot be read":    {ours, func(in *policy.Input) { in.Build.Materials[0].URI = "pkg:docker/%zz" }, []string{`docker_build.unknown: the material "pkg:docker/%zz" cannot be read: `}},
		"to more than can be asked": {ours, func(in *policy.Input) { in.Build.Materials = make([]policy.Material, 513) }, []string{"docker_build.unknown: 513 things went into the build"}},
		"not to what a root is from": {ours, func(in *policy.Input) {
			in.Build.Materials[1].URI, in.Image.Root = "https://evil.example/shop.git", true
		}, nil},
		"not to what is unknown of a parent that was admitted": {labelled, withLabel, nil},
		"to what is unknown of a parent that was not": {labelled, func(in *policy.Input) { withLabel(in); in.Parents[0].Verdict = nil },
			[]string{"docker_build.unknown: registry.example/base:1@sha256:"}},
		"to what is unknown of an image that is no parent": {labelled, func(in *policy.Input) { withLabel(in); in.Parents = nil },
			[]string{"docker_build.unknown: registry.example/base:1@sha256:"}},
		"to what is unknown where parents were cut off": {labelled, func(in *policy.Input) {
			withLabel(in)
			in.Errors = []policy.Problem{{Collector: "lineage", Message: "too many"}}
		}, []string{"docker_build.unknown: registry.example/base:1@sha256:"}},
		"to one of two tags of a parent": {labelled, func(in *policy.Input) { withLabel(in); in.Parents[0].Reference = "registry.example/base:2" },
			[]string{"docker_build.unknown: registry.example/base:1@sha256:"}},
		"to a parent, where that was judged": {labelled, func(in *policy.Input) {
			withLabel(in)
			in.Parents[0].Verdict.Reasons = []policy.Reason{{Code: "docker_build.denied", Msg: "no team", Severity: "deny", Effect: policy.Block}}
		}, []string{"docker_build.denied: its parent registry.example/base:1: no team"}},
		"to a parent whose route only watches": {labelled, func(in *policy.Input) {
			withLabel(in)
			in.Parents[0].Verdict.Reasons = []policy.Reason{{Code: "docker_build.unknown", Msg: "who knows", Severity: "deny", Effect: policy.Serve, Because: "mode audit"}}
		}, []string{"docker_build.unknown: its parent registry.example/base:1: who knows"}},
		"not to a parent with an exception": {labelled, func(in *policy.Input) {
			withLabel(in)
			in.Parents[0].Verdict.Reasons = []policy.Reason{{Code: "docker_build.denied", Msg: "no team", Severity: "deny", Effect: policy.Serve, Because: "exception by ops until 2027-01-01: soon"}}
		}, nil},
		"to a keyless signature by a named signer": {unsigned, signed(policy.Signature{Kind: "sigstore", Verified: true, Signer: &policy.Signer{Name: "ci", Identity: "ci@git.example"}}),
			[]string{signatures}},
		"to a signature that nobody named made":        {unsigned, signed(policy.Signature{Kind: "cosign", Error: "no signer fits"}), []string{signatures}},
		"to a bundle that nobody named made":           {unsigned, signed(policy.Signature{Kind: "sigstore", Error: "no signer fits"}), []string{signatures}},
		"not to a signature with a key":                {unsigned, signed(policy.Signature{Kind: "cosign", Verified: true, Signer: &policy.Signer{Name: "ci"}}), nil},
		"not to a signature of a kind without keyless": {unsigned, signed(policy.Signature{Kind: "openpgp", Error: "no signer fits"}), nil},
		"to an image without a config": {labelled, func(in *policy.Input) { withLabel(in); in.Image.Config = nil },
			[]string{"docker_build.unknown: Dockerfile.rego rests on what nobody knows when an image is pulled: input.image.labels"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			engine, err := policy.Load(t.Context(), buildPolicy(t, tc.rego))
			if err != nil {
				t.Fatal(err)
			}
			d, err := engine.Decide(t.Context(), built(tc.change))
			if err != nil {
				t.Fatal(err)
			}
			if len(d.Reasons) != len(tc.want) || (d.Action == policy.Serve) != (tc.want == nil) {
				t.Fatalf("it decides %+v", d)
			}
			for i, r := range d.Reasons {
				if !strings.HasPrefix(r.Code+": "+r.Msg, tc.want[i]) || r.Solution == "" || r.Package != "docker_build" {
					t.Errorf("it objects %+v", r)
				}
			}
		})
	}
}

func TestBuildPoliciesAreRulesLikeOthers(t *testing.T) {
	denies := func(in *policy.Input) { in.Image.Registry = "evil.example"; in.Build.Materials = nil }
	o := buildPolicy(t, strings.Replace(onlyShop, "deny_msg contains \"no git but ours\" if not startswith(input.git.remote, \"https://git.example/\")\n", "", 1))
	engine, err := policy.Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if fields := engine.RequestFields(); !slices.Equal(fields, []string{"route"}) { // for the mode
		t.Errorf("verdicts depend on %q of the request", fields)
	}
	var codes []string
	for _, r := range engine.Rules() {
		codes = append(codes, r.Code)
		if r.Title == "" || r.Description == "" || r.Solution == "" {
			t.Errorf("%+v is not described", r)
		}
	}
	if got := strings.Join(codes, " "); got != "docker_build.denied docker_build.unknown" {
		t.Errorf("the rules are %s", got)
	}

	t.Run("an exception covers them", func(t *testing.T) {
		t.Parallel()
		excepted := o
		excepted.Config = map[string]any{"exceptions": []any{map[string]any{
			"code": "docker_build.denied", "repository": "evil.example/shop", "owner": "ops", "reason": "soon", "expires": "2027-01-01",
		}}}
		engine, err := policy.Load(t.Context(), excepted)
		if err != nil {
			t.Fatal(err)
		}
		d, err := engine.Decide(t.Context(), built(denies))
		if err != nil || d.Action != policy.Serve || len(d.Reasons) != 1 {
			t.Errorf("it decides %+v, %v", d, err)
		}
	})
	t.Run("an explanation shows them", func(t *testing.T) {
		t.Parallel()
		x, err := engine.Explain(t.Context(), built(denies), policy.ExplainOptions{Code: "docker_build.denied"})
		if err != nil {
			t.Fatal(err)
		}
		if len(x.Findings) != 1 || len(x.Findings[0].Rules) != 1 || !strings.Contains(x.Findings[0].Msg, "evil.example/shop:1 is not ours") {
			t.Errorf("it explains %+v", x.Findings)
		}
	})
	t.Run("the revision changes with the policy and not with its folder", func(t *testing.T) {
		t.Parallel()
		revision := func(rego string) string {
			engine, err := policy.Load(t.Context(), buildPolicy(t, rego))
			if err != nil {
				t.Fatal(err)
			}
			return engine.Revision()
		}
		if a, b, c := revision(onlyShop), revision(onlyShop), revision(onlyShop+"# more\n"); a != b || a == c {
			t.Errorf("the revisions are %s, %s and %s", a, b, c)
		}
	})
	t.Run("one that fails blocks", func(t *testing.T) {
		t.Parallel()
		engine, err := policy.Load(t.Context(), buildPolicy(t, "package docker\n\ndecision := {\"allow\": \"yes\"}\n"))
		if err != nil {
			t.Fatal(err)
		}
		d, err := engine.Decide(t.Context(), built(nil))
		if err == nil || d.Action != policy.Block || !strings.Contains(err.Error(), "Dockerfile.rego: its decision.allow is neither true nor false") {
			t.Errorf("it decides %+v, %v", d, err)
		}
	})
	t.Run("one that takes for ever is stopped", func(t *testing.T) {
		t.Parallel()
		slow := buildPolicy(t, "package docker\n\ndecision := {\"allow\": true} if {\n\tcount([1 | some i in numbers.range(1, 4000); some j in numbers.range(1, 4000); i + j == 0]) == 0\n}\n")
		slow.Deadline = 50 * time.Millisecond
		engine, err := policy.Load(t.Context(), slow)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := engine.Decide(t.Context(), built(nil)); err == nil || d.Action != policy.Block {
			t.Errorf("it decides %+v, %v", d, err)
		}
	})
	t.Run("a mistake has its place", func(t *testing.T) {
		t.Parallel()
		_, err := policy.Load(t.Context(), buildPolicy(t, "package docker\n\ndecision := {\"allow\": magic(1)}\n"))
		found := policy.Mistakes(err)
		if len(found) != 1 || found[0].Line != 3 || filepath.Base(found[0].File) != "Dockerfile.rego" {
			t.Errorf("the mistakes are %v", err)
		}
	})
}
