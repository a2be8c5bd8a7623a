package gate_test

import (
	"context"
	"testing"
	"time"

	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/replay"
)

// TestTrial: a candidate judges what is pulled and changes nothing of it.
func TestTrial(t *testing.T) {
	s := stage.New(t)
	base := s.Trusted(s.Image("base/os", nil))
	app := s.Trusted(s.Image("app", base), base)
	fine := s.Trusted(s.Image("fine", base), base)
	index, err := s.Registry.PushIndex(t.Context(), "listed", "1", []string{"linux/amd64"}, app.Content)
	s.Must(err)
	s.Trusted(index, base)
	standing := s.Gate(stage.Options{})
	s.Pull(standing, fine.Reference())

	results := make(chan string, 64)
	o := stage.Options{
		Candidate: another("deny", `input.image.repository in {"app", "listed"}`), Succeeds: standing,
		Trial: func(t *gate.Trial) { t.Count = func(result string) { results <- result } },
	}
	next := func(want ...string) {
		t.Helper()
		got := map[string]int{}
		for range want {
			select {
			case result := <-results:
				got[result]++
			case <-time.After(30 * time.Second):
				t.Fatalf("the candidate was asked %v, want %v", got, want)
			}
		}
		for _, w := range want {
			got[w]--
		}
		for result, n := range got {
			if n != 0 {
				t.Errorf("%s: %+d of %v", result, n, want)
			}
		}
	}
	g := s.Gate(o)
	for range 3 {
		expect(t, s.Pull(g, app.Reference()), policy.Serve, "")
	}
	next("stricter")
	for range 3 {
		expect(t, s.Pull(g, fine.Reference()), policy.Serve, "") // it stands from before, and so does its base, which nobody pulls
	}
	next("same")
	expect(t, s.Pull(g, index.Reference()), policy.Serve, "")
	next("stricter")
	s.Pass(11 * time.Minute)
	s.Pull(g, fine.Reference())
	next("same", "same") // a new judgement, and one of its base
	s.Must(g.Close(context.Background()))
	if len(results) != 0 {
		t.Errorf("it was asked %d times more", len(results))
	}

	report, err := replay.Tried(t.Context(), g.Ledger, g.Trial.Judge.Revision(), time.Time{})
	s.Must(err)
	var names []string
	for _, c := range report.Changes.Blocked.Images {
		names = append(names, c.Reference)
		if c.Was != policy.Serve || c.Now != policy.Block || c.Reasons[0].Code != "team.another" {
			t.Errorf("%+v", c)
		}
	}
	if report.Tried != 5 || report.Failed+report.Missed != 0 || len(names) != 3 || len(report.Changes.Served.Images)+len(report.Changes.Annotated.Images) != 0 {
		t.Errorf("newly blocked are %q of %+v", names, report) // the index, its image and app
	}
	if later, err := replay.Tried(t.Context(), g.Ledger, g.Trial.Judge.Revision(), s.Now()); err != nil || len(later.Changes.Blocked.Images) != 0 {
		t.Errorf("since now: %+v, %v", later, err)
	}
	if other, err := replay.Tried(t.Context(), g.Ledger, "sha256:of another", time.Time{}); err != nil || other.Tried != 0 {
		t.Errorf("of another candidate: %+v, %v", other, err)
	}
}

// TestTrialThatFails: a candidate that cannot judge serves and blocks nothing.
func TestTrialThatFails(t *testing.T) {
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	results := make(chan string, 8)
	g := s.Gate(stage.Options{
		Candidate: another("deny", "f(input.image.repository) == 3") + "\nf(x) := 1 if x == \"app\"\n\nf(x) := 2 if x == \"app\"\n",
		Trial:     func(t *gate.Trial) { t.Count = func(result string) { results <- result } },
	})
	expect(t, s.Pull(g, app.Reference()), policy.Serve, "")
	if result := <-results; result != "failed" {
		t.Errorf("it %s", result)
	}
	s.Must(g.Close(context.Background()))
	report, err := replay.Tried(t.Context(), g.Ledger, g.Trial.Judge.Revision(), time.Time{})
	if err != nil || report.Failed != 1 || len(report.Changes.Blocked.Images) != 1 || report.Changes.Blocked.Images[0].Reasons[0].Code != policy.CodeError {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestTrialThatIsSlow: pulls do not wait for a candidate. What it does not get to is
// counted, and offered again.
func TestTrialThatIsSlow(t *testing.T) {
	s := stage.New(t)
	first, second, third := s.Trusted(s.Image("first", nil)), s.Trusted(s.Image("second", nil)), s.Trusted(s.Image("third", nil))
	asked, release := make(chan struct{}, 8), make(chan struct{})
	results := make(chan string, 16)
	g := s.Gate(stage.Options{Candidate: another("deny", "true"), Trial: func(t *gate.Trial) {
		t.Judge, t.Queue, t.Count = tardy{t.Judge, asked, release}, 1, func(result string) { results <- result }
	}})
	s.Pull(g, first.Reference())
	<-asked // and it holds on to it
	for _, image := range []string{second.Reference(), third.Reference()} {
		expect(t, s.Pull(g, image), policy.Serve, "")
	}
	if result := <-results; result != "missed" {
		t.Errorf("the third is %s", result)
	}
	warmed(t, s, g, third.Reference()) // which is offered each time
	for len(results) > 0 {
		if result := <-results; result != "missed" {
			t.Errorf("the third is %s", result)
		}
	}
	close(release)
	for range 2 {
		if result := <-results; result != "stricter" {
			t.Errorf("it is %s", result)
		}
	}
	s.Pull(g, third.Reference())
	if result := <-results; result != "stricter" {
		t.Errorf("pulled again the third is %s", result)
	}
	s.Must(g.Close(context.Background()))
	report, err := replay.Tried(t.Context(), g.Ledger, g.Trial.Judge.Revision(), time.Time{})
	if err != nil || report.Tried != 3 || report.Missed == 0 || len(report.Changes.Blocked.Images) != 3 {
		t.Errorf("%+v, %v", report, err)
	}
}

// tardy lets a candidate take its time.
type tardy struct {
	gate.Judge
	asked   chan struct{}
	release chan struct{}
}

func (h tardy) Decide(ctx context.Context, input *policy.Input) (policy.Decision, error) {
	h.asked <- struct{}{}
	<-h.release
	return h.Judge.Decide(ctx, input)
}
