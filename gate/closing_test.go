package gate_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
)

// TestJudgementOnAClosingGate: a gate that ends asks for no parent any more. Its
// block rests on that, and no later gate judges the image by what was gathered then.
func TestJudgementOnAClosingGate(t *testing.T) {
	s := stage.New(t)
	base := s.Trusted(s.Image("base/os", nil))
	app := s.Trusted(s.Image("app", base), base)
	reached, release := make(chan struct{}), make(chan struct{})
	s.Upstream.Interpose(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/app/referrers/") {
				close(reached)
				<-release
			}
			next.ServeHTTP(w, r)
		})
	})
	closing := s.Gate(stage.Options{})
	judged, closed := make(chan *gate.Admission, 1), make(chan error, 1)
	go func() {
		a, _ := s.TryPull(closing, app.Reference())
		judged <- a
	}()
	<-reached
	go func() { closed <- closing.Close(t.Context()) }()
	for {
		if _, err := s.TryPull(closing, s.Registry.Addr+"/missing:1"); errors.Is(err, gate.ErrClosed) {
			break
		}
	}
	s.Upstream.Interpose(nil)
	close(release)
	a := <-judged
	s.Must(<-closed)
	if a == nil || a.Verdict.Action != policy.Block || len(a.Parents) != 1 || !strings.Contains(a.Parents[0].Error, gate.ErrClosed.Error()) {
		t.Fatalf("the closing gate says %+v", a)
	}
	if a.Evidence != nil {
		t.Error("its evidence counts as gathered")
	}
	// Under another policy, so that the verdict itself is not the next gate's.
	expect(t, s.Pull(s.Gate(stage.Options{Rego: another("warn", "true")}), app.Reference()), policy.Annotate, "team.another")
}
