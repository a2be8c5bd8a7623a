package replay_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/replay"
)

// another is a policy: the shipped rules, unless they are left out, and one more.
func another(s *stage.Stage, shipped bool, rule string) *policy.Engine {
	s.Helper()
	folder := s.TempDir()
	s.Must(os.WriteFile(filepath.Join(folder, "acme.rego"), []byte(`package trustgate.policies.acme

# METADATA
# title: A rule to try
# custom:
#   code: acme.rule
`+rule+"\n"), 0o600))
	o := policy.Options{
		Builtin: shipped, Paths: []string{folder},
		Config: map[string]any{"routes": map[string]any{s.Registry.Addr: map[string]any{"mode": "enforce"}}},
	}
	if shipped {
		o.Collections = []string{"trusted-builds"}
	}
	e, err := policy.Load(s.Context(), o)
	s.Must(err)
	return e
}

func run(s *stage.Stage, g *gate.Gate, judge *policy.Engine, since time.Time) *replay.Report {
	s.Helper()
	told := 0
	r, err := replay.Run(s.Context(), g.Ledger, judge, replay.Options{Since: since, At: time.Now(), Progress: func(done, _ int) { told = done }})
	s.Must(err)
	if told != r.Inputs {
		s.Errorf("progress ends at %d of %d", told, r.Inputs)
	}
	return r
}

func names(list []replay.Change) []string {
	var found []string
	for _, c := range list {
		found = append(found, c.Reference[len("127.0.0.1:00000/"):])
	}
	slices.Sort(found)
	return found
}

func TestReplay(t *testing.T) {
	s := stage.New(t)
	base := s.Trusted(s.Image("base/os", nil))
	app := s.Trusted(s.Image("app", base), base)
	listed, err := shipyard.Build(base, map[string]string{"bin/listed": "listed"})
	s.Must(err)
	index, err := s.Registry.PushIndex(t.Context(), "listed", "1", []string{"linux/amd64"}, []v1.Image{listed}...)
	s.Must(err)
	s.Trusted(index, base)
	unsigned := s.Image("unsigned", nil)
	g := s.Gate(stage.Options{})
	for range 3 {
		s.Pull(g, app.Reference())
	}
	for _, image := range []*shipyard.Image{index, unsigned} {
		s.Pull(g, image.Reference())
	}

	t.Run("the policy in force changes nothing", func(t *testing.T) {
		s := s.For(t)
		r := run(s, g, another(s, true, `deny contains {"code": "acme.rule", "msg": "never"} if input.image.repository == "no"`), time.Time{})
		if c := r.Changes; len(c.Blocked.Images)+len(c.Annotated.Images)+len(c.Served.Images) != 0 || r.NotJudged+r.Unreadable != 0 || r.Judgements < 5 || r.Inputs > r.Judgements {
			t.Errorf("%+v", r)
		}
	})
	t.Run("what a new rule would block", func(t *testing.T) {
		s := s.For(t)
		r := run(s, g, another(s, true, `deny contains {"code": "acme.rule", "msg": "not these"} if input.image.repository in {"app", "listed"}`), time.Time{})
		got := names(r.Changes.Blocked.Images)
		if len(got) != 3 || got[0] != "app:1" || got[1] != "listed:1" || len(r.Changes.Served.Images)+len(r.Changes.Annotated.Images) != 0 {
			t.Fatalf("newly blocked are %q\n%+v", got, r) // the index by its tag, and its image by its digest
		}
		blocked := r.Changes.Blocked
		if len(blocked.ByRule) != 1 || blocked.ByRule[0].Name != "acme.rule" || blocked.ByRule[0].Images != 3 || len(blocked.ByRepository) != 2 {
			t.Errorf("by rule %+v, by repository %+v", blocked.ByRule, blocked.ByRepository)
		}
		for _, c := range blocked.Images {
			if c.Was != policy.Serve || c.Now != policy.Block || len(c.Reasons) != 1 || c.Reasons[0].Msg != "not these" || c.Decision == "" {
				t.Errorf("%+v", c)
			}
		}
	})
	t.Run("what a new rule makes of a parent counts for its children", func(t *testing.T) {
		s := s.For(t)
		r := run(s, g, another(s, true, `deny contains {"code": "acme.rule", "msg": "not this base"} if input.image.repository == "base/os"`), time.Time{})
		blocked := r.Changes.Blocked
		i := slices.IndexFunc(blocked.Images, func(c replay.Change) bool { return c.Digest == app.Digest })
		if i < 0 || len(blocked.Images[i].Reasons) != 1 || blocked.Images[i].Reasons[0].Code != "parents.untrusted" || !slices.Contains(blocked.Images[i].Reasons[0].Path, base.Name()+":1") {
			t.Errorf("newly blocked are %+v", blocked.Images)
		}
	})
	t.Run("what a new rule would only announce", func(t *testing.T) {
		s := s.For(t)
		r := run(s, g, another(s, true, `warn contains {"code": "acme.rule", "msg": "soon"} if input.image.repository == "app"`), time.Time{})
		if got := names(r.Changes.Annotated.Images); !slices.Equal(got, []string{"app:1"}) || len(r.Changes.Blocked.Images) != 0 {
			t.Errorf("%+v", r.Changes)
		}
	})
	t.Run("what would be served at last", func(t *testing.T) {
		s := s.For(t)
		r := run(s, g, another(s, false, `deny contains {"code": "acme.rule", "msg": "never"} if input.image.repository == "no"`), time.Time{})
		if got := names(r.Changes.Served.Images); !slices.Equal(got, []string{"unsigned:1"}) || len(r.Changes.Blocked.Images) != 0 {
			t.Fatalf("%+v", r.Changes)
		}
		if c := r.Changes.Served; !slices.ContainsFunc(c.ByRule, func(n replay.Count) bool { return n.Name == "signature.missing" }) {
			t.Errorf("which rules no longer block: %+v", c.ByRule)
		}
	})
	t.Run("a policy that fails blocks", func(t *testing.T) {
		s := s.For(t)
		r := run(s, g, another(s, true, `deny contains {"code": "acme.rule", "msg": "two"} if f(input.image.repository) == 3

f(x) := 1 if x == "app"

f(x) := 2 if x == "app"`), time.Time{})
		if r.NotJudged == 0 || !slices.Contains(names(r.Changes.Blocked.Images), "app:1") {
			t.Errorf("%d not judged, newly blocked %q", r.NotJudged, names(r.Changes.Blocked.Images))
		}
	})
	t.Run("nothing since then", func(t *testing.T) {
		s := s.For(t)
		if r := run(s, g, another(s, true, `deny contains {"code": "acme.rule", "msg": "all"}`), time.Now().Add(time.Hour)); r.Judgements != 0 {
			t.Errorf("%+v", r)
		}
	})
}
