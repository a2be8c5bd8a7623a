package e2e

import (
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"syscall"
	"testing"
)

// TestClientsWithoutTheGate is the control for everything else: the images are
// well made, and every client pulls them whole from the registry itself.
func TestClientsWithoutTheGate(t *testing.T) {
	needRoot(t)
	base := trusted(t, the.bases, "control/base", fromScratch(t))
	built := trusted(t, the.apps, "control/app", from(base))
	for _, c := range clients(t) {
		t.Run(c.name+" "+c.version(t), func(t *testing.T) {
			seen, arrived := c.pull(t, nil, built)
			seen.ok(t)
			arrived(t)
		})
	}
	pushed := the.pushSigned(t, the.buildah(t, the.apps, "control/buildah"))
	if !exists(the.signatureFile(pushed)) {
		t.Errorf("podman left no signature at %s", the.signatureFile(pushed))
	}
	of, _ := big(t, "control/big", 1<<20)
	layout := filepath.Join(t.TempDir(), "layout")
	the.run(t, "crane", "pull", "--format", "oci", of.String(), layout).ok(t)
	verifyLayout(t, layout, of.digest)
}

// TestFaults is the control for the tests with a bad upstream: each fault does
// to a plain client what it is named for.
func TestFaults(t *testing.T) {
	needRoot(t)
	const size = 1 << 20
	of, layer := big(t, "control/faults", size)
	upstream := startFaulty(t, the.apps)
	url := upstream.url() + "/v2/" + of.repo + "/blobs/" + layer
	fetch := func() (int64, string, error) {
		resp, err := http.Get(url)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		return resp.ContentLength, digestOf(raw), err
	}

	length, digest, err := fetch()
	if err != nil || digest != layer {
		t.Fatalf("without a fault: %v, %s", err, digest)
	}
	for _, at := range []int64{0, 100, size, length - 1} {
		upstream.fail(layer, flip(at))
		if n, digest, err := fetch(); err != nil || n != length || digest == layer {
			t.Errorf("flip(%d): %v, %d bytes announced, %s", at, err, n, digest)
		}
	}
	upstream.fail(layer, cut(size/2))
	if n, _, err := fetch(); !errors.Is(err, io.ErrUnexpectedEOF) || n != length {
		t.Errorf("cut: %v, %d bytes announced", err, n)
	}

	reached, release := make(chan struct{}), make(chan struct{})
	upstream.fail(layer, hold(size/2, reached, release))
	whole := make(chan error, 1)
	go func() {
		_, digest, err := fetch()
		if err == nil && digest != layer {
			err = errors.New("held and released, it hashes to " + digest)
		}
		whole <- err
	}()
	<-reached
	select {
	case err := <-whole:
		t.Errorf("hold held nothing: %v", err)
	default:
	}
	close(release)
	if err := <-whole; err != nil {
		t.Errorf("hold: %v", err)
	}

	upstream.heal()
	if _, digest, err := fetch(); err != nil || digest != layer {
		t.Errorf("healed: %v, %s", err, digest)
	}
	upstream.off()
	if _, _, err := fetch(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("off: %v", err)
	}
}
