package e2e

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// TestStockRegistryServesTheCache points an ordinary registry at the cache
// folder: what was admitted can be pulled from it, what was blocked is not there.
func TestStockRegistryServesTheCache(t *testing.T) {
	needRoot(t)
	served := trusted(t, the.apps, "export/served", fromScratch(t))
	blocked := the.build(t, the.apps, "export/unsigned", fromScratch(t))
	g := startGate(t, gateOptions{})
	the.run(t, "crane", "pull", "--format", "oci", g.name(served), filepath.Join(t.TempDir(), "layout")).ok(t)
	if status, _ := g.pull(t, blocked); status != http.StatusForbidden {
		t.Fatalf("the unsigned image is answered with %d", status)
	}
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}

	stock, err := startRegistry(the, "export", "", filepath.Join(g.data, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	defer stock.stop()
	// How the gate names its repositories there is its own business.
	_, body := get(t, http.MethodGet, "http://"+stock.addr+"/v2/_catalog")
	var catalog struct {
		Repositories []string `json:"repositories"`
	}
	if err := json.Unmarshal(body, &catalog); err != nil {
		t.Fatal(err)
	}
	name := ""
	for _, repo := range catalog.Repositories {
		if strings.HasSuffix(repo, blocked.repo) {
			t.Errorf("the blocked image's repository is in the cache: %s", repo)
		}
		if strings.HasSuffix(repo, served.repo) {
			name = repo
		}
	}
	if name == "" {
		t.Fatalf("the cache has no repository %s, only %v", served.repo, catalog.Repositories)
	}
	layout := filepath.Join(t.TempDir(), "exported")
	the.run(t, "crane", "pull", "--format", "oci", stock.addr+"/"+name+"@"+served.digest, layout).ok(t)
	verifyLayout(t, layout, served.digest)
}
