package gate_test

import (
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// TestAfterAnEviction: what the gate remembers having put into the cache is put
// there again when another process has removed it.
func TestAfterAnEviction(t *testing.T) {
	s := stage.New(t)
	image := s.Trusted(s.Image("app", nil))
	g := s.Gate(stage.Options{Roots: []gate.Root{{Digest: image.Digest}}})
	name := s.Registry.Addr + "/app"
	repository, err := oci.ParseReference(name)
	s.Must(err)

	root := filepath.Join(s.Folder, "cache")
	driver, err := cache.OpenDriver("filesystem", map[string]any{"rootdirectory": root})
	s.Must(err)
	person, err := cache.Open(t.Context(), cache.Options{Driver: driver, Root: root, Spool: filepath.Join(s.Folder, "spool")})
	s.Must(err)
	defer person.Close()

	use := func() {
		t.Helper()
		s.Pass(time.Second) // the gate looks at the cache's links now and then
		a := warmed(t, s, g, name+":1")
		blob, err := g.Blob(t.Context(), repository, a.Manifest.Layers[0].Digest, policy.Client{Address: "192.0.2.1"})
		s.Must(err)
		content, err := blob.Open(t.Context())
		s.Must(err)
		defer content.Close()
		if _, err := io.ReadAll(content); err != nil {
			t.Error(err)
		}
		if result, _ := summary(t, g, name, image.Digest); result != "PASSED" {
			t.Errorf("its summary says %q", result)
		}
	}
	linked := func() int {
		t.Helper()
		found, err := cache.Survey(t.Context(), driver)
		s.Must(err)
		tags := 0
		for _, r := range found.Repositories {
			tags += len(r.Tags)
		}
		return tags
	}
	use()
	if n := linked(); n != 1 {
		t.Fatalf("%d tags are linked", n)
	}
	done, err := person.Prune(t.Context(), cache.Pruning{To: 0})
	s.Must(err)
	if n := linked(); n != 0 || len(done.Unlinked) == 0 {
		t.Fatalf("after the eviction %d tags are linked: %+v", n, done)
	}
	use()
	if n := linked(); n != 1 {
		t.Errorf("pulled again, %d tags are linked", n)
	}
}
