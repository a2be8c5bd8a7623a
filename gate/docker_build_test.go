package gate_test

import (
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
)

// labelled gives an image a label.
func labelled(t *testing.T, image v1.Image, key, value string) v1.Image {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config.Labels = map[string]string{key: value}
	config.Config.User = "1000"
	changed, err := mutate.ConfigFile(image, config)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// TestDockerBuildPolicies: one policy is asked about the image, about what its
// provenance lists, and about its parents where they are admitted.
func TestDockerBuildPolicies(t *testing.T) {
	s := stage.New(t)
	base, err := shipyard.Build(nil, map[string]string{"etc/os": "base"})
	s.Must(err)
	labelledBase := s.Trusted(s.Push("base/labelled", "1", labelled(t, base, "team", "platform")))
	bareBase := s.Trusted(s.Image("base/bare", nil))
	on := func(name string, below *shipyard.Image) *shipyard.Image {
		built, err := shipyard.Build(below, map[string]string{"bin/" + name: name})
		s.Must(err)
		return s.Trusted(s.Push(name, "1.4", labelled(t, built, "team", "shop")), below)
	}
	shop, cart := on("shop", labelledBase), on("cart", bareBase)
	s.Trusted(s.Push("lonely", "2.0", labelled(t, base, "team", "shop")))

	const (
		header = "package docker\n\ndefault allow := false\n\ndecision := {\"allow\": allow, \"deny_msg\": deny_msg}\n\n"
		labels = header + `
allow if input.image.labels.team

allow if not input.image

deny_msg contains msg if {
	input.image
	not input.image.labels.team
	msg := sprintf("%s has no team", [input.image.ref])
}`
	)
	registry := func(name string) string {
		return header + `
allow if not input.image

allow if input.image.host == "` + name + `"

deny_msg contains msg if {
	not allow
	msg := sprintf("images come from ` + name + `, and %s does not", [input.image.repo])
}`
	}
	for name, tc := range map[string]struct {
		policy string
		pull   string
		codes  string
		says   []string
	}{
		"images from the registry are served":               {registry(s.Registry.Addr), shop.Reference(), "", nil},
		"images from another registry are not":              {registry("docker.io"), cart.Name() + ":1.4", "docker_build.denied docker_build.denied docker_build.denied parents.untrusted", []string{"images come from docker.io, and " + cart.Name() + " does not", "base/bare:1@sha256:", "its parent "}},
		"an image with the label on one with it is served":  {labels, shop.Reference(), "", nil},
		"an image on one without the label is not":          {labels, cart.Reference(), "docker_build.denied parents.untrusted", []string{"its parent " + bareBase.Reference() + ": " + bareBase.Name() + "@" + bareBase.Digest.String() + " has no team"}},
		"a tag is not pinned":                               {header + "deny_msg := [\"pin it\"]\n\nallow if input.image.isCanonical\n\nallow if not input.image", shop.Reference(), "docker_build.denied", []string{"pin it"}},
		"a digest is, and so is a base in a provenance":     {header + "deny_msg := [\"pin it\"]\n\nallow if input.image.isCanonical\n\nallow if not input.image", shop.Name() + "@" + shop.Digest.String(), "", nil},
		"a policy without a message names itself":           {"package docker\n\ndecision := {\"allow\": false}\n", s.Registry.Addr + "/lonely:2.0", "docker_build.denied docker_build.denied", []string{"Dockerfile.rego does not allow " + s.Registry.Addr + "/lonely:2.0"}},
		"an unknown field denies, and is named":             {header + "deny_msg := []\n\nallow if input.env.target == \"release\"", s.Registry.Addr + "/lonely:2.0", "docker_build.unknown docker_build.unknown", []string{"Dockerfile.rego rests on what nobody knows when an image is pulled: input.env.target"}},
		"an unknown field that does not decide is harmless": {header + "deny_msg := []\n\nallow if input.env.target == \"release\"\n\nallow if true", shop.Reference(), "", nil},
		"what the image runs as counts":                     {header + "deny_msg := [\"root\"]\n\nallow if input.image.user == \"1000\"\n\nallow if not input.image", s.Registry.Addr + "/lonely:2.0", "", nil},
		"the git source is asked about too":                 {header + "deny_msg contains sprintf(\"no git from %s\", [input.git.host]) if input.git\n\nallow if not input.git", s.Registry.Addr + "/lonely:2.0", "docker_build.denied", []string{"no git from git.example"}},
		"a provenance by the builder is asked for":          {header + "deny_msg := []\n\nallow if not input.image\n\nallow if {\n\tinput.image.hasProvenance\n\tinput.image.provenance.builderID == \"" + stage.Builder + "\"\n}", s.Registry.Addr + "/lonely:2.0", "", nil},
		"a signature of a commit cannot be checked":         {header + "deny_msg := []\n\nallow if input.image\n\nallow if verify_git_signature(input.git.commit, \"key.asc\")", s.Registry.Addr + "/lonely:2.0", "docker_build.unknown", []string{"input.git.commit"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := s.For(t)
			s.Folder = t.TempDir()
			g := s.Gate(stage.Options{Docker: tc.policy})
			a := s.Pull(g, tc.pull)
			if got := stage.Codes(a); got != tc.codes {
				t.Fatalf("its reasons are %s\n%s", got, stage.Messages(a))
			}
			for _, text := range tc.says {
				if !strings.Contains(stage.Messages(a), text) {
					t.Errorf("it does not say %q:\n%s", text, stage.Messages(a))
				}
			}
		})
	}

	t.Run("a mode covers them as it covers every rule", func(t *testing.T) {
		s := s.For(t)
		s.Folder = t.TempDir()
		a := s.Pull(s.Gate(stage.Options{Docker: registry("docker.io"), Mode: policy.AnnotateOnly}), shop.Reference())
		if a.Verdict.Action != policy.Annotate || a.Verdict.BeforeMode != policy.Block {
			t.Errorf("got %+v", a.Verdict)
		}
	})
}
