package gate_test

import (
	"errors"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// warmed pulls until nothing is left to look up, which it makes sure of.
func warmed(t *testing.T, s *stage.Stage, g *gate.Gate, reference string) *gate.Admission {
	t.Helper()
	var a *gate.Admission
	for range 3 {
		a = s.Pull(g, reference)
	}
	s.Upstream.Down.Store(true)
	defer s.Upstream.Down.Store(false)
	if again := s.Pull(g, reference); again != a {
		t.Fatalf("it is another admission: %+v", again)
	}
	return a
}

// TestWarmPullsSeeEveryChange: what is answered from one entry is what would be
// answered without it.
func TestWarmPullsSeeEveryChange(t *testing.T) {
	parsed := func(s *stage.Stage, reference string) oci.Reference {
		ref, err := oci.ParseReference(reference)
		s.Must(err)
		return ref
	}
	byDigest := func(image *shipyard.Image) string { return image.Name() + "@" + image.Digest.String() }
	names := func(t *testing.T, s *stage.Stage, g *gate.Gate, reference string, want digest.Digest) {
		t.Helper()
		if got := s.Pull(g, reference).Manifest.Digest; got != want {
			t.Errorf("it is %s, want %s", got, want)
		}
	}
	for name, change := range map[string]func(t *testing.T, s *stage.Stage, g *gate.Gate){
		"the tag moves upstream and is asked for anew": func(t *testing.T, s *stage.Stage, g *gate.Gate) {
			image := s.Image("app", nil)
			warmed(t, s, g, image.Reference())
			moved := s.Push("app", "1", unsigned(s, "moved"))
			names(t, s, g, image.Reference(), image.Digest)
			s.Pass(g.Lifetimes.Tag)
			names(t, s, g, image.Reference(), moved.Digest)
		},
		"somebody asks for the tag anew": func(t *testing.T, s *stage.Stage, g *gate.Gate) {
			image := s.Image("app", nil)
			warmed(t, s, g, image.Reference())
			moved := s.Push("app", "1", unsigned(s, "moved"))
			_, err := g.Admit(t.Context(), gate.Request{Reference: parsed(s, image.Reference()), Fresh: true})
			s.Must(err)
			names(t, s, g, image.Reference(), moved.Digest)
		},
		"the tag is pushed through the gate": func(t *testing.T, s *stage.Stage, g *gate.Gate) {
			image := s.Image("app", nil)
			warmed(t, s, g, image.Reference())
			other := s.Push("app", "other", unsigned(s, "other"))
			_, err := g.Push(t.Context(), pushOf(s, other, "1"))
			s.Must(err)
			names(t, s, g, image.Reference(), other.Digest)
		},
		"the image is deleted through the gate": func(t *testing.T, s *stage.Stage, g *gate.Gate) {
			image := s.Image("app", nil)
			warmed(t, s, g, image.Reference())
			warmed(t, s, g, byDigest(image))
			s.Must(g.Delete(t.Context(), parsed(s, byDigest(image))))
			for _, reference := range []string{image.Reference(), byDigest(image)} {
				if a, err := s.TryPull(g, reference); !errors.Is(err, oci.ErrNotFound) {
					t.Errorf("%s is still pulled: %+v, %v", reference, a, err)
				}
			}
		},
		"the image is deleted through the gate that this one succeeded": func(t *testing.T, s *stage.Stage, g *gate.Gate) {
			image := s.Image("app", nil)
			s.Pull(g, image.Reference())
			after := s.Gate(stage.Options{Succeeds: g})
			warmed(t, s, after, byDigest(image))
			s.Must(g.Delete(t.Context(), parsed(s, byDigest(image))))
			if a, err := s.TryPull(after, byDigest(image)); !errors.Is(err, oci.ErrNotFound) {
				t.Errorf("it is still pulled: %+v, %v", a, err)
			}
		},
		"the tag is pushed through the gate that this one succeeded": func(t *testing.T, s *stage.Stage, g *gate.Gate) {
			image := s.Image("app", nil)
			s.Pull(g, image.Reference())
			after := s.Gate(stage.Options{Succeeds: g})
			warmed(t, s, after, image.Reference())
			other := s.Push("app", "other", unsigned(s, "other"))
			_, err := g.Push(t.Context(), pushOf(s, other, "1"))
			s.Must(err)
			names(t, s, after, image.Reference(), other.Digest)
		},
		"an exception ends": func(t *testing.T, s *stage.Stage, _ *gate.Gate) {
			image := s.Attested(s.Image("app", nil))
			child := s.Trusted(s.Image("child", image), image)
			g := s.Gate(stage.Options{Exceptions: []policy.Exception{{
				ID: "ex-1", Code: "signature.missing", Repository: image.Name(), Owner: "ops", Reason: "soon", Expires: s.Now().Add(time.Minute),
			}}})
			for _, reference := range []string{image.Reference(), child.Reference()} {
				expect(t, warmed(t, s, g, reference), policy.Serve, "")
			}
			s.Pass(2 * time.Minute)
			s.Upstream.Down.Store(true) // nor is it stale then
			for _, reference := range []string{image.Reference(), child.Reference()} {
				if a, err := s.TryPull(g, reference); err == nil && !a.Verdict.Blocked() {
					t.Errorf("%s is still served: %+v", reference, a.Verdict)
				}
			}
			s.Upstream.Down.Store(false)
			expect(t, s.Pull(g, image.Reference()), policy.Block, "signature.missing")
		},
		"its verdict ends": func(t *testing.T, s *stage.Stage, g *gate.Gate) {
			image := s.Attested(s.Image("app", nil))
			s.Must(s.Lookaside.Sign(s.Release, image))
			expect(t, warmed(t, s, g, byDigest(image)), policy.Serve, "")
			s.Must(s.Lookaside.Withdraw(image))
			s.Pass(time.Hour)
			expect(t, s.Pull(g, byDigest(image)), policy.Block, "signature.missing")
		},
		"the clock is set back": func(t *testing.T, s *stage.Stage, g *gate.Gate) {
			image := s.Attested(s.Image("app", nil))
			s.Must(s.Lookaside.Sign(s.Release, image))
			expect(t, warmed(t, s, g, byDigest(image)), policy.Serve, "")
			s.Must(s.Lookaside.Withdraw(image))
			s.Pass(-24 * time.Hour)
			expect(t, s.Pull(g, byDigest(image)), policy.Block, "signature.missing")
		},
		"an index that lists it is pulled": func(t *testing.T, s *stage.Stage, g *gate.Gate) {
			child := s.Push("app", "child", unsigned(s, "child"))
			expect(t, warmed(t, s, g, byDigest(child)), policy.Block, "parents.unknown provenance.missing signature.missing source.unknown")
			index, err := s.Registry.PushIndex(t.Context(), "app", "1", []string{"linux/amd64"}, child.Content)
			s.Must(err)
			s.Trusted(index)
			expect(t, s.Pull(g, index.Reference()), policy.Serve, "")
			expect(t, s.Pull(g, byDigest(child)), policy.Serve, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := stage.New(t)
			change(t, s, s.Gate(stage.Options{}))
		})
	}
}
