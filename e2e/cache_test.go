package e2e

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strconv"
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
	name := stock.find(t, served.repo)
	if name == "" || stock.find(t, blocked.repo) != "" {
		t.Fatalf("the cache's repositories are %v", stock.catalog(t))
	}
	layout := filepath.Join(t.TempDir(), "exported")
	the.run(t, "crane", "pull", "--format", "oci", stock.addr+"/"+name+"@"+served.digest, layout).ok(t)
	verifyLayout(t, layout, served.digest)
}

// TestStockRegistryAfterEviction prunes beside the running gate: a stock
// registry over the folder, and an export, have all of what stayed and nothing
// of what went, which the gate then fetches again.
func TestStockRegistryAfterEviction(t *testing.T) {
	needRoot(t)
	files := fromScratch(t)
	filler := make([]byte, 1<<20) // larger than all evidence together, and no compression helps
	rand.NewChaCha8([32]byte{1}).Read(filler)
	files["filler"] = string(filler)
	files["Dockerfile"] += "COPY filler /filler\n"
	old := trusted(t, the.apps, "evict/old", files)
	kept := trusted(t, the.apps, "evict/kept", fromScratch(t))
	blocked := the.build(t, the.apps, "evict/unsigned", fromScratch(t))
	g := startGate(t, gateOptions{})
	pull := func(of image) {
		t.Helper()
		layout := filepath.Join(t.TempDir(), "layout")
		the.run(t, "crane", "pull", "--format", "oci", g.name(of), layout).ok(t)
		verifyLayout(t, layout, of.digest)
	}
	pull(old)
	pull(kept)
	if status, _ := g.pull(t, blocked); status != http.StatusForbidden {
		t.Fatalf("the unsigned image is answered with %d", status)
	}

	var before struct {
		Bytes int64 `json:"bytes"`
	}
	if err := json.Unmarshal(g.trustgateRun(t, "cache", "stats", "-o", "json").ok(t).stdout, &before); err != nil {
		t.Fatal(err)
	}
	pruned := g.trustgateRun(t, "cache", "prune", "--to", strconv.FormatInt(before.Bytes-1<<19, 10)).ok(t)
	if !strings.Contains(pruned.output, old.repo) || strings.Contains(pruned.output, kept.repo) {
		t.Fatalf("it did not remove the older image alone:\n%s", pruned.output)
	}

	stock, err := startRegistry(the, "evicted", "", filepath.Join(g.data, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	defer stock.stop()
	if gone := stock.find(t, old.repo); gone != "" {
		t.Errorf("the stock registry still has %s", gone)
	}
	layout := filepath.Join(t.TempDir(), "stock")
	the.run(t, "crane", "pull", "--format", "oci", stock.addr+"/"+stock.find(t, kept.repo)+":"+kept.tag, layout).ok(t)
	verifyLayout(t, layout, kept.digest)

	folder := filepath.Join(t.TempDir(), "export")
	export := g.trustgateRun(t, "cache", "export", folder).ok(t)
	if strings.Contains(export.output, old.repo) || strings.Contains(export.output, blocked.repo) {
		t.Errorf("it exports more than what is served and there:\n%s", export.output)
	}
	verifyLayout(t, folder, kept.digest)
	// As the help says: on to a registry that has no gate before it.
	moved := stock.addr + "/moved/kept"
	the.run(t, "skopeo", "copy", "--all", "--preserve-digests", "--dest-tls-verify=false",
		"oci:"+folder+":"+kept.String(), "docker://"+moved+":1").ok(t)
	if got := strings.TrimSpace(string(the.run(t, "crane", "digest", moved+":1").ok(t).stdout)); got != kept.digest {
		t.Errorf("from the export came %s, not %s", got, kept.digest)
	}

	pull(old)
	if stock.find(t, old.repo) == "" {
		t.Error("what was pulled again is not in the folder again")
	}
}

// catalog lists the repositories of the registry.
func (r *registry) catalog(t *testing.T) []string {
	t.Helper()
	_, body := get(t, http.MethodGet, "http://"+r.addr+"/v2/_catalog")
	var catalog struct {
		Repositories []string `json:"repositories"`
	}
	if err := json.Unmarshal(body, &catalog); err != nil {
		t.Fatal(err)
	}
	return catalog.Repositories
}

// find is the registry's repository for one of an upstream, or "". How the gate
// names its repositories in the cache is its own business.
func (r *registry) find(t *testing.T, repo string) string {
	t.Helper()
	for _, name := range r.catalog(t) {
		if strings.HasSuffix(name, repo) {
			return name
		}
	}
	return ""
}
