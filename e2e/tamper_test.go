package e2e

import (
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// TestTamperedBlobs has the upstream deliver a layer that is not what its
// digest says.
func TestTamperedBlobs(t *testing.T) {
	needRoot(t)
	const size = 3 << 20
	for name, with := range map[string]fault{
		"one byte early":    flip(100),
		"one byte late":     flip(size),
		"cut in the middle": cut(size / 2),
	} {
		t.Run(name, func(t *testing.T) {
			of, layer := big(t, "observed/tampered", size)
			upstream := startFaulty(t, the.apps)
			g := startGate(t, gateOptions{Upstream: upstream.url()})
			upstream.fail(layer, with)

			// Twice: what was refused once must not be served from a cache.
			for range 2 {
				if seen := the.run(t, "crane", "pull", "--format", "oci", g.name(of), filepath.Join(t.TempDir(), "layout")); seen.err == nil {
					t.Fatalf("crane pulled a damaged layer:\n%s", seen.output)
				}
			}
			// Without a client's own check: HTTP must not say that it is whole.
			resp, err := http.Get(g.url(of, "blobs", layer))
			if err == nil {
				n, err := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK && err == nil && n == resp.ContentLength {
					t.Errorf("the gate delivered %d damaged bytes as a complete body", n)
				}
			}
			eventually(t, 10*time.Second, "nothing of it is kept", func() (bool, string) {
				left := g.leftovers(t)
				return len(left) == 0, joined(left)
			})
			if g.cached(t, layer) {
				t.Error("the damaged layer is in the cache")
			}

			// The upstream is repaired, and so is the pull, without a restart.
			upstream.heal()
			layout := filepath.Join(t.TempDir(), "layout")
			eventually(t, 30*time.Second, "the healed layer is served", func() (bool, string) {
				seen := the.run(t, "crane", "pull", "--format", "oci", g.name(of), layout)
				return seen.err == nil, seen.output
			})
			verifyLayout(t, layout, of.digest)
		})
	}
}

// TestTamperedManifest has the upstream change a manifest on its way.
func TestTamperedManifest(t *testing.T) {
	needRoot(t)
	of, layer := big(t, "observed/manifest", 1<<10)
	other, _ := big(t, "observed/manifest2", 1<<10)
	m, _ := the.apps.manifestOf(t, other.repo, other.digest)
	upstream := startFaulty(t, the.apps)
	g := startGate(t, gateOptions{Upstream: upstream.url(), Block: "1s"})
	for _, reference := range []string{of.digest, of.tag} {
		for _, end := range []string{of.digest, of.tag} {
			upstream.fail("/manifests/"+end, swap(layer, m.Layers[0].Digest))
		}
		resp, body := get(t, http.MethodGet, g.url(of, "manifests", reference))
		if resp.StatusCode == http.StatusOK {
			t.Errorf("a changed manifest is served for %s: %s", reference, body)
		}
		upstream.heal()
	}
	eventually(t, 30*time.Second, "the healed manifest is served", func() (bool, string) {
		status, message := g.pull(t, of)
		return status == http.StatusOK, message
	})
}
