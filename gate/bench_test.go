package gate_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
)

// BenchmarkColdAdmissionTwoParents pulls an image for the first time whose base
// and whose builder image are new as well: three images are fetched with their
// evidence, verified, judged and recorded, from a registry that is so far away.
// The registry is in the same process, and so is most of the memory.
func BenchmarkColdAdmissionTwoParents(b *testing.B) {
	for _, distance := range []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond} {
		b.Run(distance.String(), func(b *testing.B) { benchmarkCold(b, distance) })
	}
}

func benchmarkCold(b *testing.B, distance time.Duration) {
	s := stage.New(b)
	g := s.Gate(stage.Options{})
	away := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(distance)
			next.ServeHTTP(w, r)
		})
	}
	n := 0
	publish := func() *shipyard.Image {
		n++
		base := s.Trusted(s.Image(fmt.Sprintf("base/%d", n), nil))
		tools := s.Trusted(s.Image(fmt.Sprintf("tools/%d", n), nil))
		return s.Trusted(s.Image(fmt.Sprintf("app/%d", n), base), base, tools)
	}
	requests := 0
	for b.Loop() {
		b.StopTimer()
		app := publish()
		s.Upstream.Reset()
		s.Upstream.Interpose(away)
		b.StartTimer()
		a := s.Pull(g, app.Reference())
		b.StopTimer()
		if a.Verdict.Action != policy.Serve || len(a.Parents) != 2 {
			b.Fatalf("%s with %d parents\n%s", a.Verdict.Action, len(a.Parents), stage.Messages(a))
		}
		requests += s.Upstream.Count("")
		s.Upstream.Interpose(nil)
		b.StartTimer()
	}
	b.ReportMetric(float64(requests)/float64(b.N), "requests/op")
}
