package gate_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// held lets the upstream answer the first request of the method whose path ends
// so, and holds the answer back until it is released.
type held struct {
	reached, release chan struct{}
	once             sync.Once
}

func hold(s *stage.Stage, method, end string) *held {
	h := &held{reached: make(chan struct{}), release: make(chan struct{})}
	s.Upstream.Interpose(func(registry http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			first := false
			if r.Method == method && strings.HasSuffix(r.URL.Path, end) {
				h.once.Do(func() { first = true })
			}
			if !first {
				registry.ServeHTTP(w, r)
				return
			}
			recorded := httptest.NewRecorder()
			registry.ServeHTTP(recorded, r)
			close(h.reached)
			<-h.release
			for key, values := range recorded.Header() {
				w.Header()[key] = values
			}
			w.WriteHeader(recorded.Code)
			_, _ = bytes.NewReader(recorded.Body.Bytes()).WriteTo(w)
		})
	})
	return h
}

func unsigned(s *stage.Stage, content string) v1.Image {
	s.Helper()
	image, err := shipyard.Build(nil, map[string]string{"bin/app": content})
	s.Must(err)
	return image
}

// pushOf is a push of the image's manifest under its tag.
func pushOf(s *stage.Stage, image *shipyard.Image, tag string) gate.Push {
	s.Helper()
	ref, err := oci.ParseReference(image.Name() + ":" + tag)
	s.Must(err)
	raw, err := image.Content.RawManifest()
	s.Must(err)
	return gate.Push{Reference: ref, Raw: raw}
}

func TestPushWhileATagIsLookedUp(t *testing.T) {
	s := stage.New(t)
	g := s.Gate(stage.Options{Mode: policy.Audit})
	before, after := s.Image("app", nil), s.Push("app", "next", unsigned(s, "after"))
	h := hold(s, http.MethodGet, "/v2/app/manifests/1")
	done := make(chan digest.Digest)
	go func() {
		a, err := s.TryPull(g, before.Reference())
		if err != nil {
			close(done)
			return
		}
		done <- a.Reference.Digest()
	}()
	<-h.reached
	push := pushOf(s, after, "1")
	if _, err := g.Push(t.Context(), push); err != nil {
		t.Fatal(err)
	}
	close(h.release)
	if d := <-done; d != before.Digest {
		t.Errorf("the pull that had asked before the push got %q", d)
	}
	if a := s.Pull(g, before.Reference()); a.Reference.Digest() != after.Digest {
		t.Errorf("the tag names %s after the push, not %s", a.Reference.Digest(), after.Digest)
	}
}

func TestDeleteWhileAnImageIsJudged(t *testing.T) {
	s := stage.New(t)
	g := s.Gate(stage.Options{Mode: policy.Audit})
	image := s.Image("app", nil)
	ref, err := oci.ParseReference(image.Name() + "@" + image.Digest.String())
	s.Must(err)
	h := hold(s, http.MethodGet, "/manifests/sha256-"+image.Digest.Encoded()+".sig")
	done := make(chan error)
	go func() {
		_, err := s.TryPull(g, ref.String())
		done <- err
	}()
	<-h.reached
	if err := g.Delete(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	close(h.release)
	<-done // whatever that pull got, it had asked before
	if a, err := s.TryPull(g, ref.String()); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("the deleted image is pulled: %+v, %v", a, err)
	}
}

func TestJudgedPushLeavesNothingBehind(t *testing.T) {
	s := stage.New(t)
	g := s.Gate(stage.Options{})
	image := s.Push("app", "staged", unsigned(s, "unsigned"))
	push := pushOf(s, image, "1")
	push.Judge = true
	_, err := g.Push(t.Context(), push)
	var blocked *gate.BlockedError
	if !errors.As(err, &blocked) || blocked.Admission.Verdict.ID == "" {
		t.Fatalf("got %v", err)
	}
	expect(t, blocked.Admission, policy.Block, "signature.missing")
	if _, err := s.TryPull(g, image.Name()+":1"); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("the tag is there: %v", err)
	}
	recorded, err := g.Ledger.Get(t.Context(), blocked.Admission.Verdict.ID)
	if err != nil || recorded.Action != string(policy.Block) || recorded.Tag != "1" {
		t.Errorf("recorded is %+v, %v", recorded, err)
	}

	s.Trusted(image)
	pushed, err := g.Push(t.Context(), push)
	if err != nil {
		t.Fatal(err)
	}
	if a := s.Pull(g, image.Name()+":1"); a.Verdict.ID != pushed.Admission.Verdict.ID {
		t.Errorf("it was judged again: %s, %s", a.Verdict.ID, pushed.Admission.Verdict.ID)
	}
}
