package gate_test

import (
	"encoding/json"
	"io"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/attest"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// summary is what the gate's own referrer of a digest says, "" when there is none.
func summary(t *testing.T, g *gate.Gate, name string, d digest.Digest) (result string, levels []string) {
	t.Helper()
	repository, err := oci.ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	list, err := g.Referrers(t.Context(), repository, d, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if r.Annotations["dev.sigstore.bundle.predicateType"] != attest.SummaryType {
			continue
		}
		a, err := g.Admit(t.Context(), gate.Request{Reference: repository.WithDigest(r.Digest)})
		if err != nil {
			t.Fatal(err)
		}
		blob, err := g.Blob(t.Context(), repository, a.Manifest.Layers[0].Digest, policy.Client{})
		if err != nil {
			t.Fatal(err)
		}
		content, err := blob.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		raw, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		var bundle struct {
			DsseEnvelope struct{ Payload []byte }
		}
		var statement struct {
			Predicate struct {
				VerificationResult string
				VerifiedLevels     []string
			}
		}
		if err := json.Unmarshal(raw, &bundle); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(bundle.DsseEnvelope.Payload, &statement); err != nil {
			t.Fatal(err)
		}
		return statement.Predicate.VerificationResult, statement.Predicate.VerifiedLevels
	}
	return "", nil
}

// TestSummaryOfAnIndex: it speaks for every image that a client may take.
func TestSummaryOfAnIndex(t *testing.T) {
	s := stage.New(t)
	build := func(content string) v1.Image {
		image, err := shipyard.Build(nil, map[string]string{"bin/app": content})
		s.Must(err)
		return image
	}
	amd, arm := build("amd"), build("arm")
	platforms := []string{"linux/amd64", "linux/arm64"}
	both := []oci.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}
	covered, err := s.Registry.PushIndex(t.Context(), "covered", "1", platforms, amd, arm)
	s.Must(err)
	s.Trusted(covered)
	half, err := s.Registry.PushIndex(t.Context(), "half", "1", platforms, amd, arm)
	s.Must(err)
	child, err := amd.Digest()
	s.Must(err)
	s.Trusted(&shipyard.Image{Registry: half.Registry, Repository: half.Repository, Digest: digest.Digest(child.String())})

	for name, tc := range map[string]struct {
		index     *shipyard.Image
		platforms []oci.Platform
		result    string
	}{
		"every image served":     {covered, both, "PASSED"},
		"one image not judged":   {covered, both[:1], "FAILED"},
		"one image blocked":      {half, both, "FAILED"},
		"the served image alone": {half, both[:1], "FAILED"},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.For(t)
			s.Folder = t.TempDir()
			g := s.Gate(stage.Options{Platforms: tc.platforms})
			s.Pull(g, tc.index.Reference())
			result, levels := summary(t, g, tc.index.Name(), tc.index.Digest)
			if result != tc.result || (len(levels) > 0) != (result == "PASSED") {
				t.Errorf("%s at %v, want %s", result, levels, tc.result)
			}
		})
	}
}

// TestSummaryEnds with its verdict, and no older one comes back.
func TestSummaryEnds(t *testing.T) {
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	g := s.Gate(stage.Options{})
	if result, _ := summary(t, g, app.Name(), app.Digest); result != "" {
		t.Errorf("before any verdict: %s", result)
	}
	s.Pull(g, app.Reference())
	if result, levels := summary(t, g, app.Name(), app.Digest); result != "PASSED" || levels[0] != attest.Level2 {
		t.Errorf("%s at %v", result, levels)
	}
	s.Pass(11 * time.Minute)
	if result, _ := summary(t, g, app.Name(), app.Digest); result != "" {
		t.Errorf("after it has expired: %s", result)
	}
}
