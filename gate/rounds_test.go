package gate_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/signing"
	"github.com/trustgate/trustgate/upstream"
)

// rounds counts how many requests had to wait for one another: a request comes
// one round after the last of those that had been answered before it was sent.
type rounds struct {
	delay time.Duration

	mu       sync.Mutex
	answered int
	asked    []string
}

func (r *rounds) watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		mine := r.answered + 1
		r.asked = append(r.asked, strings.Repeat("  ", mine)+req.Method+" "+req.URL.Path)
		r.mu.Unlock()
		time.Sleep(r.delay) // the distance to the registry
		next.ServeHTTP(w, req)
		r.mu.Lock()
		r.answered = max(r.answered, mine)
		r.mu.Unlock()
	})
}

func (r *rounds) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered, r.asked = 0, nil
}

// refer signs the image in a referrer, beside what else there is.
func refer(s *stage.Stage, image *shipyard.Image) {
	s.Helper()
	ctx := s.Context()
	up, err := upstream.New(upstream.Options{Registry: image.Registry, URL: "http://" + s.Registry.Addr, Insecure: true})
	s.Must(err)
	repository, err := up.Repository(image.Repository)
	s.Must(err)
	subject, err := repository.Manifest(ctx, image.Digest.String())
	s.Must(err)
	signature, err := s.Release.Sign(image.Digest, image.Reference())
	s.Must(err)
	artifact, blobs, err := signing.Referrer(signature, subject.Descriptor(), s.Now())
	s.Must(err)
	s.Must(repository.Attach(ctx, artifact, blobs...))
}

// TestRounds: whatever evidence there is, a cold admission waits for the upstream
// a bounded number of times in a row, and once more for each parent.
func TestRounds(t *testing.T) {
	s := stage.New(t)
	base := s.Trusted(s.Image("base/os", nil))
	app := s.Trusted(s.Image("app", base), base)
	s.Must(s.Lookaside.Sign(s.Release, app))
	listed, err := shipyard.Build(base, map[string]string{"bin/listed": "listed"})
	s.Must(err)
	index, err := s.Registry.PushIndex(t.Context(), "listed", "1", []string{"linux/amd64"}, []v1.Image{listed}...)
	s.Must(err)
	s.Trusted(index, base)
	for _, image := range []*shipyard.Image{base, app, index} {
		refer(s, image)
	}

	r := &rounds{delay: 100 * time.Millisecond}
	s.Upstream.Interpose(r.watch)
	for _, tc := range []struct {
		image *shipyard.Image
		most  int
	}{
		// The tag; the config beside the lists of evidence; what they list; its
		// blobs.
		{base, 4},
		{app, 6},   // two more for its parent, by digest
		{index, 5}, // one more for the image in it; its parent is judged already
	} {
		t.Run(tc.image.Repository, func(t *testing.T) {
			r.reset()
			g := s.For(t).Gate(stage.Options{})
			expect(t, s.Pull(g, tc.image.Reference()), policy.Serve, "")
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.answered > tc.most {
				t.Errorf("%d rounds, more than %d:\n%s", r.answered, tc.most, strings.Join(slices.Clone(r.asked), "\n"))
			}
			t.Logf("%d rounds:\n%s", r.answered, strings.Join(r.asked, "\n"))
		})
	}
}
