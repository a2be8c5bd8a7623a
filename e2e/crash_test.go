package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// big pushes an image with one layer of random bytes, which no compression and
// no pattern can hide damage in.
func big(t testing.TB, repo string, size int) (of image, layer string) {
	t.Helper()
	content := make([]byte, size)
	rand.Read(content)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "random", Mode: 0o644, Size: int64(size)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "layer.tar")
	if err := os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	of = image{registry: the.apps, repo: repo, tag: "1"}
	the.run(t, "crane", "append", "--oci-empty-base", "--new_layer", path, "--new_tag", of.String()).ok(t)
	m, raw := the.apps.manifestOf(t, repo, of.tag)
	of.digest = digestOf(raw)
	return of, m.Layers[0].Digest
}

// TestKillDuringFill kills the gate while a layer is half way through it.
func TestKillDuringFill(t *testing.T) {
	needRoot(t)
	const size, passed = 16 << 20, 4 << 20
	of, layer := big(t, "observed/killed", size)
	upstream := startFaulty(t, the.apps)
	g := startGate(t, gateOptions{Upstream: upstream.url()})
	if status, message := g.pull(t, of); status != http.StatusOK {
		t.Fatalf("blocked: %s", message)
	}

	reached, release := make(chan struct{}), make(chan struct{})
	upstream.fail(layer, hold(passed, reached, release))
	defer close(release)
	client := make(chan error, 1)
	go func() {
		resp, err := http.Get(g.url(of, "blobs", layer))
		if err != nil {
			client <- err
			return
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil && n == resp.ContentLength && resp.StatusCode == http.StatusOK {
			t.Errorf("the client believes that it has all %d bytes", n)
		}
		client <- err
	}()
	select {
	case <-reached:
	case <-time.After(startTimeout):
		t.Fatal("the gate never asked for the layer")
	}
	g.kill()
	if err := <-client; err == nil {
		t.Error("the client saw no error though the gate was killed in mid-body")
	}

	upstream.heal()
	g.start(t)
	layout := filepath.Join(t.TempDir(), "layout")
	the.run(t, "crane", "pull", "--format", "oci", g.name(of), layout).ok(t)
	verifyLayout(t, layout, of.digest)
	eventually(t, 10*time.Second, "the layer is in the cache and nothing half-written is left", func() (bool, string) {
		left := g.leftovers(t)
		return len(left) == 0 && g.cached(t, layer), joined(left)
	})
}

// TestUpstreamOff switches the upstream off after one image was pulled.
func TestUpstreamOff(t *testing.T) {
	needRoot(t)
	known := trusted(t, the.apps, "off/known", fromScratch(t))
	unknown := trusted(t, the.apps, "off/unknown", fromScratch(t))
	upstream := startFaulty(t, the.apps)
	// The verdict outlives its lifetime while the upstream is away.
	g := startGate(t, gateOptions{Upstream: upstream.url(), Serve: "1s", Block: "1s"})

	first := filepath.Join(t.TempDir(), "first")
	the.run(t, "crane", "pull", "--format", "oci", g.name(known), first).ok(t)
	verifyLayout(t, first, known.digest)
	upstream.off()

	for _, restarted := range []bool{false, true} {
		if restarted {
			if err := g.stop(); err != nil {
				t.Fatal(err)
			}
			g.start(t)
		}
		for _, name := range []string{g.name(known), g.pinned(known)} {
			again := filepath.Join(t.TempDir(), "again")
			the.run(t, "crane", "pull", "--format", "oci", name, again).ok(t)
			verifyLayout(t, again, known.digest)
		}
	}

	seen := the.run(t, "crane", "pull", "--format", "oci", g.name(unknown), filepath.Join(t.TempDir(), "new"))
	if seen.err == nil {
		t.Fatal("an image that was never pulled is served without its upstream")
	}
	resp, body := get(t, http.MethodGet, g.url(unknown, "manifests", unknown.tag))
	if resp.StatusCode < 500 || !bytes.Contains(body, []byte(`"errors"`)) {
		t.Errorf("an upstream that is away is reported as %s: %s", resp.Status, body)
	}
	t.Logf("a person sees: %s", seen.output)
}

func joined(list []string) string {
	var b bytes.Buffer
	for _, s := range list {
		b.WriteString(s + "\n")
	}
	return b.String()
}

// TestDrain stops the gate while a client is in the middle of a layer: the client
// gets all of it, and nobody else is let in.
func TestDrain(t *testing.T) {
	of, layer := big(t, "observed/drain", 64<<20)
	g := startGate(t, gateOptions{})
	if status, said := g.pull(t, of); status != http.StatusOK {
		t.Fatalf("%d: %s", status, said)
	}
	resp, err := http.Get(g.url(of, "blobs", layer))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	hash := sha256.New()
	if _, err := io.CopyN(hash, resp.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- g.stop() }()
	eventually(t, 10*time.Second, "the gate lets nobody else in", func() (bool, string) {
		c, err := net.DialTimeout("tcp", g.addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err != nil, "it does"
	})
	if _, err := io.Copy(hash, resp.Body); err != nil {
		t.Fatalf("the rest of the layer: %v", err)
	}
	if got := "sha256:" + hex.EncodeToString(hash.Sum(nil)); got != layer {
		t.Errorf("the client got %s, want %s", got, layer)
	}
	if err := <-stopped; err != nil {
		t.Errorf("it did not end cleanly: %v", err)
	}
}
