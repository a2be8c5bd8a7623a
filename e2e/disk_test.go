package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFullDisk fills the gate's disk. What is in the cache and stands is served,
// everything else is refused with what an operator has to do, and once that is
// done the same gate goes on.
func TestFullDisk(t *testing.T) {
	needRoot(t)
	disk := makeDisk(t)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatalf("mounting a small disk: %v", err)
	}
	known, begun, unknown, layer := diskImages(t)
	g := startGate(t, gateOptions{Data: filepath.Join(disk, "data"), Serve: "10m"})
	pullOnce(t, g, known, begun)

	filler := filepath.Join(disk, "filler")
	file, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 4096); err == nil; {
		_, err = file.Write(block)
	}
	file.Close()
	if !pullWhole(t.Context(), t, g, known) {
		t.Error("what is in the cache and stands is not served")
	}
	refusedForDisk(t, g, unknown, begun, layer)

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for _, of := range []image{unknown, begun, known} {
		eventually(t, 20*time.Second, "the same gate goes on", func() (bool, string) {
			return pullWhole(t.Context(), t, g, of), of.String()
		})
	}
	eventually(t, 10*time.Second, "nothing half-written is left", func() (bool, string) {
		left := g.leftovers(t)
		return len(left) == 0, joined(left)
	})
}

// TestReadOnlyDisk has the kernel make the gate's disk read-only under it, as
// it does after an error of the disk.
func TestReadOnlyDisk(t *testing.T) {
	needRoot(t)
	disk := makeDisk(t)
	device := disk + ".ext4"
	mount := func() {
		t.Helper()
		if seen := the.run(t, "mount", "-o", "loop,errors=remount-ro", device, disk); seen.err != nil {
			t.Skipf("SKIPPED: no disk can be made of a file here: %s", seen.output)
		}
	}
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(device, 64<<20); err != nil {
		t.Fatal(err)
	}
	if seen := the.run(t, "mkfs.ext4", "-q", "-F", device); seen.err != nil {
		t.Skipf("SKIPPED: no disk can be made here: %s", seen.output)
	}
	mount()
	known, begun, unknown, layer := diskImages(t)
	g := startGate(t, gateOptions{Data: filepath.Join(disk, "data"), Serve: "10m"})
	pullOnce(t, g, known, begun)

	the.run(t, "mount", "-o", "remount,abort", disk).ok(t)
	if !pullWhole(t.Context(), t, g, known) {
		t.Error("what is in the cache and stands is not served")
	}
	refusedForDisk(t, g, unknown, begun, layer)
	g.kill() // it could not write its last counts anyway

	seen := the.run(t, the.trustgate, "serve", "--config", g.config)
	if seen.code != 1 || !strings.Contains(seen.output, disk) || !strings.Contains(seen.output, "read-only file system") {
		t.Errorf("starting upon it: exit code %d: %s", seen.code, seen.output)
	}
	t.Logf("a person sees: %s", seen.output)

	the.run(t, "umount", disk).ok(t)
	if seen := the.run(t, "e2fsck", "-fy", device); seen.code > 1 {
		t.Fatalf("the disk cannot be repaired: %s", seen.output)
	}
	mount()
	g.start(t)
	for _, of := range []image{unknown, begun, known} {
		if !pullWhole(t.Context(), t, g, of) {
			t.Errorf("after the repair, %s is not served whole", of)
		}
	}
}

// makeDisk makes a folder to mount something on; it is unmounted after
// everything that the test registers later.
func makeDisk(t *testing.T) string {
	t.Helper()
	disk, err := os.MkdirTemp(the.dir, "disk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	return disk
}

func diskImages(t *testing.T) (known, begun, unknown image, layer string) {
	t.Helper()
	known, _ = big(t, "observed/disk-known", 1<<20)
	begun, layer = big(t, "observed/disk-begun", 1<<20)
	unknown, _ = big(t, "observed/disk-unknown", 1<<20)
	return known, begun, unknown, layer
}

func pullOnce(t *testing.T, g *gate, known, begun image) {
	t.Helper()
	if !pullWhole(t.Context(), t, g, known) {
		t.Fatal("not served")
	}
	m, _ := known.registry.manifestOf(t, known.repo, known.tag)
	eventually(t, 10*time.Second, "it is in the cache", func() (bool, string) { return g.cached(t, m.Layers[0].Digest), "" })
	if status, message := g.pull(t, begun); status != http.StatusOK {
		t.Fatal(message)
	}
}

// refusedForDisk pulls what would have to be written.
func refusedForDisk(t *testing.T, g *gate, unknown, begun image, layer string) {
	t.Helper()
	status, message := g.pull(t, unknown)
	if status != http.StatusServiceUnavailable || !(strings.Contains(message, "the gate's disk is full or cannot be written") || strings.Contains(message, "cannot use its ledger")) {
		t.Errorf("a new image: %d %s", status, message)
	}
	t.Logf("a person sees: %s", message)
	resp, err := http.Get(g.url(begun, "blobs", layer))
	if err != nil {
		return // cut short
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil && resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a layer that cannot be kept: %s", fmt.Sprintf("%s, %d bytes, %.300s", resp.Status, len(body), body))
	}
}
