package gate_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
)

// TestContentThatGrew: a file of the cache that became larger than anything of
// its kind may be is fetched again like any other damage, and not refused for
// ever for its size.
func TestContentThatGrew(t *testing.T) {
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	config, err := app.Content.ConfigName()
	s.Must(err)
	expect(t, s.Pull(s.Gate(stage.Options{}), app.Reference()), policy.Serve, "")
	for _, d := range []digest.Digest{app.Digest, digest.Digest(config.String())} {
		path := filepath.Join(s.Folder, "cache", "docker", "registry", "v2", "blobs", "sha256", d.Encoded()[:2], d.Encoded(), "data")
		good, err := os.ReadFile(path)
		s.Must(err)
		s.Must(os.WriteFile(path, append(good, make([]byte, 17<<20)...), 0o600))
		s.Pass(time.Hour)
		expect(t, s.Pull(s.Gate(stage.Options{}), app.Reference()), policy.Serve, "") // which has it from the disk
		now, err := os.ReadFile(path)
		s.Must(err)
		if digest.FromBytes(now) != d {
			t.Errorf("%s is not mended: %d bytes", d, len(now))
		}
	}
}
