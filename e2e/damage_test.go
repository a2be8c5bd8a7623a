package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// blobs lists the files of the cache that hold content.
func (g *gate) blobs(t testing.TB) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(g.data, "cache", "docker", "registry", "v2", "blobs"), func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && filepath.Base(path) == "data" {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return paths
}

func (g *gate) blobFile(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return filepath.Join(g.data, "cache", "docker", "registry", "v2", "blobs", "sha256", hex[:2], hex, "data")
}

func parseManifest(t testing.TB, raw []byte) (m manifest) {
	t.Helper()
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Error(err)
	}
	return m
}

// adminGet reads from the administration listener.
func (g *gate) adminGet(t testing.TB, path string) (int, string) {
	t.Helper()
	resp, body := get(t, http.MethodGet, "http://"+g.admin+path)
	return resp.StatusCode, string(body)
}

// TestDamagedCache damages a layer in the cache in the three ways in which it
// can happen. None of it is ever served as whole, the layer is fetched again
// without anybody's doing, and the log, the metric and the ledger tell of it.
func TestDamagedCache(t *testing.T) {
	needRoot(t)
	flipped := func(t *testing.T, path string) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		one := make([]byte, 1)
		if _, err := file.ReadAt(one, info.Size()/2); err != nil {
			t.Fatal(err)
		}
		one[0] ^= 0xff
		if _, err := file.WriteAt(one, info.Size()/2); err != nil {
			t.Fatal(err)
		}
		// Rot leaves no trace in the file's times.
		if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		down   bool // while it happens
		damage func(*testing.T, string)
		found  string
	}{
		"cut short under a running gate": {false, func(t *testing.T, path string) {
			if err := os.Truncate(path, 1000); err != nil {
				t.Fatal(err)
			}
		}, "use"},
		"changed while the gate was down":        {true, flipped, "use"},
		"changed under a gate that is scrubbing": {false, flipped, "scrub"},
	} {
		t.Run(name, func(t *testing.T) {
			of, layer := big(t, "observed/damaged", 1<<20)
			options := gateOptions{}
			if tc.found == "scrub" {
				options.Scrub = "500ms"
			}
			g := startGate(t, options)
			if !pullWhole(t.Context(), t, g, of) {
				t.Fatal("not served")
			}
			kept := func(what string) {
				t.Helper()
				// A client has its bytes before the disk does.
				eventually(t, 10*time.Second, what, func() (bool, string) {
					raw, err := os.ReadFile(g.blobFile(layer))
					return err == nil && digestOf(raw) == layer, ""
				})
			}
			kept("the layer is in the cache")
			if tc.down {
				if err := g.stop(); err != nil {
					t.Fatal(err)
				}
			}
			tc.damage(t, g.blobFile(layer))
			if tc.down {
				g.start(t)
			}
			if tc.found == "scrub" {
				eventually(t, 20*time.Second, "the damage is found by nobody's asking", func() (bool, string) {
					_, metrics := g.adminGet(t, "/metrics")
					return strings.Contains(metrics, `trustgate_cache_damaged_total{found="scrub"} 1`), metrics
				})
			} else {
				// Found on this very use: whole from the upstream, or cut off.
				pullWhole(t.Context(), t, g, of)
			}
			// A moment later: while it is being put into the cache, it may be cut off again.
			eventually(t, 10*time.Second, "it is fetched again", func() (bool, string) {
				return pullWhole(t.Context(), t, g, of), ""
			})
			kept("the cache is mended")
			if _, metrics := g.adminGet(t, "/metrics"); !strings.Contains(metrics, `trustgate_cache_damaged_total{found="`+tc.found+`"} 1`) {
				t.Error("the metric does not count it")
			}
			if log := g.tail(1000); !strings.Contains(log, "cached content was damaged and has been dropped") || !strings.Contains(log, layer) {
				t.Error("the log does not tell of it")
			}
			if stats := g.trustgateRun(t, "cache", "stats", "-o", "json").ok(t); !strings.Contains(stats.output, layer) {
				t.Errorf("the ledger does not tell of it: %s", stats.output)
			}
		})
	}
}

// TestDamagedLedger damages the ledger of a gate that is down, and of one that
// runs. The gate never makes a new one by itself: it is the history of verdicts.
func TestDamagedLedger(t *testing.T) {
	needRoot(t)
	of, layer := big(t, "observed/ledger", 64<<10)
	other, _ := big(t, "observed/ledger2", 64<<10)

	t.Run("while the gate is down", func(t *testing.T) {
		g := startGate(t, gateOptions{})
		if !pullWhole(t.Context(), t, g, of) {
			t.Fatal("not served")
		}
		if err := g.stop(); err != nil {
			t.Fatal(err)
		}
		ledger := filepath.Join(g.data, "ledger.db")
		good, err := os.ReadFile(ledger)
		if err != nil {
			t.Fatal(err)
		}
		for name, bad := range map[string][]byte{
			"cut in half": good[:len(good)/2],
			"noise":       []byte(strings.Repeat("noise", len(good)/5)),
		} {
			if err := os.WriteFile(ledger, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			seen := the.run(t, the.trustgate, "serve", "--config", g.config)
			if seen.code != 1 || !strings.Contains(seen.output, ledger+" is damaged") || !strings.Contains(seen.output, "move it away") {
				t.Errorf("%s: exit code %d: %s", name, seen.code, seen.output)
			}
			if now, err := os.ReadFile(ledger); err != nil || string(now) != string(bad) {
				t.Errorf("%s: the file was touched", name)
			}
		}
		// As it says.
		for _, end := range []string{"", "-wal", "-shm"} {
			if err := os.Rename(ledger+end, ledger+".broken"+end); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
		g.start(t)
		if !pullWhole(t.Context(), t, g, of) {
			t.Error("not served with a new ledger")
		}
	})

	t.Run("under a running gate", func(t *testing.T) {
		g := startGate(t, gateOptions{Serve: "1s"})
		if !pullWhole(t.Context(), t, g, of) {
			t.Fatal("not served")
		}
		ledger := filepath.Join(g.data, "ledger.db")
		if err := g.stop(); err != nil { // which leaves everything in the one file
			t.Fatal(err)
		}
		good, err := os.ReadFile(ledger)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ledger+".backup", good, 0o600); err != nil {
			t.Fatal(err)
		}
		g.start(t)
		file, err := os.OpenFile(ledger, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt([]byte(strings.Repeat("x", len(good)-100)), 100); err != nil {
			t.Fatal(err)
		}
		file.Close()

		eventually(t, 20*time.Second, "nothing is served any more", func() (bool, string) {
			status, message := g.pull(t, of)
			return status == http.StatusServiceUnavailable && strings.Contains(message, "cannot use its ledger"), message
		})
		for _, url := range []string{g.url(other, "manifests", other.tag), g.url(of, "blobs", layer)} {
			resp, err := http.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
				t.Errorf("%s: %s %s", url, resp.Status, body)
			}
		}
		if log := g.tail(1000); !strings.Contains(log, ledger+" is damaged") || !strings.Contains(log, "move it away") {
			t.Error("the log does not say which file, and what to do")
		}
		if status, body := g.adminGet(t, "/readyz"); status != http.StatusServiceUnavailable {
			t.Errorf("it says that it is ready: %s", body)
		}

		// The way out that the log names: stop, the backup in its place, start.
		g.kill()
		for _, end := range []string{"-wal", "-shm"} {
			os.Remove(ledger + end)
		}
		if err := os.Rename(ledger+".backup", ledger); err != nil {
			t.Fatal(err)
		}
		g.start(t)
		if !pullWhole(t.Context(), t, g, other) {
			t.Error("not served from the backup")
		}
	})
}
