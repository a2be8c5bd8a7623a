package gate_test

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/evidence/gittag"
	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
)

// gitServer is the real git over HTTP with one repository, and the revision in
// it.
func gitServer(t *testing.T, files map[string]string) (url, revision string) {
	t.Helper()
	folder := t.TempDir()
	git := func(args ...string) string {
		cmd := exec.Command("git", args...)
		cmd.Dir = filepath.Join(folder, "acme", "app")
		cmd.Env = append(os.Environ(), "HOME="+folder, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("git %s: %v; these tests need the real git", strings.Join(args, " "), err)
		}
		return strings.TrimSpace(string(out))
	}
	for path, content := range files {
		path = filepath.Join(folder, "acme", "app", path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git("init", "--quiet", "--initial-branch=main")
	git("add", "--all")
	git("commit", "--quiet", "--message", "all")
	server := httptest.NewServer(&cgi.Handler{
		Path:   filepath.Join(git("--exec-path"), "git-http-backend"),
		Env:    []string{"GIT_PROJECT_ROOT=" + folder, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=" + folder},
		Stderr: io.Discard, Logger: log.New(io.Discard, "", 0),
	})
	t.Cleanup(server.Close)
	return server.URL + "/acme/app", git("rev-parse", "HEAD")
}

// TestDockerfileOutOfGit: it is as good as the word for the revision, and one that
// cannot be read blocks nothing.
func TestDockerfileOutOfGit(t *testing.T) {
	s := stage.New(t)
	repository, revision := gitServer(t, map[string]string{"Dockerfile": "FROM scratch\n", "only/Containerfile": "FROM podman\n"})
	away := httptest.NewServer(http.NotFoundHandler())
	defer away.Close()
	host := strings.TrimSuffix(repository, "/acme/app")
	finder, err := gittag.New(gittag.Options{Hosts: []string{host, away.URL}, Private: true, Insecure: true})
	s.Must(err)

	g := s.Gate(stage.Options{Source: finder, Mode: policy.Audit})
	claims := func(name, source, revision string) *shipyard.Image {
		built, err := shipyard.Build(nil, map[string]string{name: name})
		s.Must(err)
		return s.Push(name, "1", shipyard.Annotate(built, map[string]string{ocispec.AnnotationSource: source, ocispec.AnnotationRevision: revision}))
	}
	attested := func(name, source, revision string) *shipyard.Image {
		image := s.Image(name, nil)
		s.Must(s.Registry.Attest(t.Context(), s.CI, image, shipyard.ProvenanceType, shipyard.Provenance(stage.Builder, source, revision)))
		return image
	}
	for name, tc := range map[string]struct {
		image    *shipyard.Image
		verified bool
		want     policy.Dockerfile
		none     bool
	}{
		"of a verified revision, where the provenance says":     {image: attested("verified", repository, revision), verified: true, want: policy.Dockerfile{Path: "Dockerfile", Content: "FROM scratch\n"}},
		"of a claimed revision, where one usually is":           {image: claims("claimed", repository, revision), want: policy.Dockerfile{Path: "Dockerfile", Content: "FROM scratch\n", Assumed: true}},
		"of a claimed revision, in a folder":                    {image: claims("folder", repository+".git#main:only", revision), want: policy.Dockerfile{Path: "only/Containerfile", Content: "FROM podman\n", Assumed: true}},
		"not of a revision that is not there":                   {image: claims("gone", repository, strings.Repeat("ab", 20)), want: policy.Dockerfile{Path: "Dockerfile", Assumed: true, Error: "hands out no other commits"}},
		"not of a repository that is not there":                 {image: attested("away", away.URL+"/acme/app", revision), verified: true, want: policy.Dockerfile{Path: "Dockerfile", Error: "there is no such repository"}},
		"nothing from a host that may not be asked":             {image: attested("unlisted", "https://git.example/acme/app", revision), verified: true, none: true},
		"nothing from a host that may not be asked, of a claim": {image: claims("unlisted/claim", "https://git.example/acme/app", revision), none: true},
		"nothing without a revision":                            {image: claims("unrevised", repository, ""), none: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.For(t)
			a := s.Pull(g, tc.image.Reference())
			raw, err := g.Ledger.Input(t.Context(), a.Verdict.ID)
			s.Must(err)
			var input policy.Input
			s.Must(json.Unmarshal(raw, &input))
			if input.Source.Verified != tc.verified || (input.Source.Tag != nil) != tc.verified {
				t.Errorf("the source is %+v", input.Source)
			}
			got := input.Source.Dockerfile
			if tc.none {
				if got != nil {
					t.Errorf("got %+v", got)
				}
				return
			}
			if got == nil || got.Via != "git" || got.Path != tc.want.Path || got.Content != tc.want.Content || got.Assumed != tc.want.Assumed ||
				(got.Error == "") != (tc.want.Error == "") || !strings.Contains(got.Error, tc.want.Error) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
			if len(input.Errors) > 0 {
				t.Errorf("the errors are %+v", input.Errors)
			}
		})
	}
}
