package gate_test

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/trustgate/trustgate/evidence/gittag"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// reporting is a team's rule that tells what it sees of the packages.
const reporting = `package trustgate.policies.reporting

warn contains {"code": "seen", "msg": msg} if {
	not is_null(input.packages)
	msg := trim_space(sprintf("%s, modified %s", [input.packages.state, concat(" ", input.packages.modified)]))
}
`

// debian is an image whose one package says that its file holds content.
func debian(s *stage.Stage, repository, recorded, content string) *shipyard.Image {
	s.Helper()
	built, err := shipyard.Build(nil, map[string]string{
		"usr/bin/tool":                   content,
		"etc/os-release":                 "ID=debian\nVERSION_ID=\"12\"\n",
		"var/lib/dpkg/status":            "Package: tool\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n\n",
		"var/lib/dpkg/info/tool.list":    "/.\n/usr\n/usr/bin\n/usr/bin/tool\n",
		"var/lib/dpkg/info/tool.md5sums": fmt.Sprintf("%x  usr/bin/tool\n", md5.Sum([]byte(recorded))), // as dpkg does
	})
	s.Must(err)
	return s.Trusted(s.Push(repository, "1", built))
}

// TestPackagesArriveLater: the first pull is judged without them, and the image
// again when they have been examined.
func TestPackagesArriveLater(t *testing.T) {
	s := stage.New(t)
	clean, tampered := debian(s, "clean", "tool", "tool"), debian(s, "tampered", "tool", "t00l")
	g := s.Gate(stage.Options{Packages: true, Rego: reporting})
	for image, want := range map[*shipyard.Image]string{clean: "done, modified", tampered: "done, modified /usr/bin/tool"} {
		expect(t, s.Pull(g, image.Reference()), policy.Annotate, "seen")
		eventually(t, func() (bool, string) {
			said := stage.Messages(s.Pull(g, image.Reference()))
			return strings.HasSuffix(said, want), said
		})
	}
	if n := s.Upstream.Count("GET /v2/clean/blobs/" + digestOfLayer(s, clean).String()); n != 1 {
		t.Errorf("the layer was fetched %d times", n)
	}

	// What was found outlives the gate.
	again := s.Gate(stage.Options{Packages: true, Rego: reporting + "\n# another revision of the rules\n"})
	if said := stage.Messages(s.Pull(again, tampered.Reference())); !strings.Contains(said, "modified /usr/bin/tool") {
		t.Errorf("after a restart: %s", said)
	}
}

// TestExamineNow is what the command line asks for, whatever the gate does by
// itself.
func TestExamineNow(t *testing.T) {
	s := stage.New(t)
	image := debian(s, "tampered", "tool", "t00l")
	g := s.Gate(stage.Options{})
	a := s.Pull(g, image.Reference())
	report, err := g.Examine(t.Context(), a)
	s.Must(err)
	if report.Count != 1 || report.Modified.Total != 1 || report.Modified.List[0] != "/usr/bin/tool" || report.Distribution.String() != "debian 12" {
		t.Errorf("got %+v", report)
	}
}

// eventually waits for the gate's background work.
func eventually(t *testing.T, ok func() (bool, string)) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		done, last := ok()
		if done {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("not in 30 s; last: %s", last)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// forge answers for a git host.
type forge func() (gittag.Result, error)

func (f forge) Find(context.Context, string, string, string, ...string) (gittag.Result, error) {
	return f()
}

// TestSourceWithoutATag: what the git host cannot say is part of the source, and
// no error of the image's.
func TestSourceWithoutATag(t *testing.T) {
	s := stage.New(t)
	image := s.Trusted(s.Image("app", nil))
	g := s.Gate(stage.Options{Source: forge(func() (gittag.Result, error) { return gittag.Result{}, errors.New("the host is down") })})
	a := s.Pull(g, image.Reference())
	expect(t, a, policy.Serve, "")
	if a.Source.Tag == nil || a.Source.Tag.Verified || a.Source.Tag.Error != "the host is down" {
		t.Errorf("the tag is %+v", a.Source.Tag)
	}
}

// TestFresh judges again what stands.
func TestFresh(t *testing.T) {
	s := stage.New(t)
	image := s.Attested(s.Image("app", nil))
	g := s.Gate(stage.Options{})
	expect(t, s.Pull(g, image.Reference()), policy.Block, "signature.missing")
	s.Must(s.Registry.Sign(t.Context(), s.CI, image))
	s.Pass(6 * time.Second) // what was found a moment ago is not looked for again
	expect(t, s.Pull(g, image.Reference()), policy.Block, "signature.missing")
	ref, err := oci.ParseReference(image.Reference())
	s.Must(err)
	a, err := g.Admit(t.Context(), gate.Request{Reference: ref, Fresh: true})
	s.Must(err)
	expect(t, a, policy.Serve, "")
	expect(t, s.Pull(g, image.Reference()), policy.Serve, "")
}
