package gate_test

import (
	"testing"
	"time"

	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
)

// TestClock sets the clock of a gate forwards and back, while it runs and while
// it is down. The image loses its signature after the first pull, so that a
// verdict which stands too long shows.
func TestClock(t *testing.T) {
	for name, tc := range map[string]struct {
		jump    time.Duration // after the first pull
		restart bool
		then    time.Duration // that passes
		down    bool          // the upstream
		serves  bool
	}{
		"a minute passes":                        {time.Minute, false, 0, false, true},
		"forwards beyond the verdict":            {time.Hour, false, 0, false, false},
		"forwards, and a restart":                {time.Hour, true, 0, false, false},
		"back by a day":                          {-24 * time.Hour, false, 0, false, false},
		"back by a day, and a restart":           {-24 * time.Hour, true, 0, false, false},
		"back by a day, then on for minutes":     {-24 * time.Hour, false, 5 * time.Minute, false, false},
		"forwards, while the upstream is away":   {time.Hour, false, 0, true, true},
		"forwards by days, and it is away":       {72 * time.Hour, false, 0, true, false},
		"back by a day, and it is away":          {-24 * time.Hour, false, 0, true, false},
		"back by a day, it is away, and restart": {-24 * time.Hour, true, 0, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := stage.New(t)
			app := s.Attested(s.Image("app", nil))
			s.Must(s.Lookaside.Sign(s.Release, app))
			g := s.Gate(stage.Options{})
			expect(t, warmed(t, s, g, app.Reference()), policy.Serve, "")
			s.Must(s.Lookaside.Withdraw(app))
			s.Pass(tc.jump)
			if tc.restart {
				g = s.Gate(stage.Options{})
			}
			s.Upstream.Down.Store(tc.down)
			for range 2 {
				a, err := s.TryPull(g, app.Reference())
				if served := err == nil && !a.Verdict.Blocked(); served != tc.serves {
					t.Fatalf("served is %v, want %v (%v)", served, tc.serves, err)
				}
				s.Pass(tc.then)
			}
			if tc.serves {
				return
			}
			// It comes back by itself, and so does the image.
			s.Upstream.Down.Store(false)
			s.Must(s.Lookaside.Sign(s.Release, app))
			s.Pass(time.Minute)
			expect(t, s.Pull(g, app.Reference()), policy.Serve, "")
		})
	}
}
