package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPackages has a Debian, made by debootstrap, examined as it is and with a
// layer on top that tampers with it.
func TestPackages(t *testing.T) {
	needRoot(t)
	pristine := appended(t, "packages/debian", "--oci-empty-base", ".cache/debian.tar")
	was := contents(t, ".cache/debian.tar", "usr/bin/passwd", "usr/bin/sort", "usr/bin/bash", "bin/bash", "etc/bash.bashrc", "var/lib/dpkg/info/coreutils.md5sums")
	bash := was["usr/bin/bash"] + was["bin/bash"] // one of them is empty: where it is depends on the suite
	sum := func(content string) string { return fmt.Sprintf("%x", md5.Sum([]byte(content))) }
	tampered := appended(t, "packages/tampered", "--base="+pristine.String(), archive(t, map[string]entry{
		"usr/bin/passwd":  {was["usr/bin/passwd"] + "!", 0o4755},
		"usr/bin/.wh.tac": {"", 0o644},
		// This one's record is changed as well.
		"usr/bin/sort":                        {was["usr/bin/sort"] + "!", 0o755},
		"var/lib/dpkg/info/coreutils.md5sums": {strings.Replace(was["var/lib/dpkg/info/coreutils.md5sums"], sum(was["usr/bin/sort"]), sum(was["usr/bin/sort"]+"!"), 1), 0o644},
		"etc/bash.bashrc":                     {was["etc/bash.bashrc"] + "!", 0o644},
		"usr/local/bin/root":                  {bash, 0o4755},
	}))
	g := startGate(t, gateOptions{})

	seen, r := g.examine(t, pristine)
	if seen.code != 0 || r.Distribution.ID != "debian" || r.Count < 50 || r.Files < 1000 {
		t.Errorf("%d: %s with %d packages and %d files\n%s", seen.code, r.Distribution.ID, r.Count, r.Files, seen.output)
	}
	licensed := 0
	for _, p := range r.Packages {
		if p.SourceVersion == "" || !strings.HasPrefix(p.SourceURL, "https://snapshot.debian.org/package/"+p.Source+"/") {
			t.Errorf("%s %s has the source %s %s at %q", p.Name, p.Version, p.Source, p.SourceVersion, p.SourceURL)
		}
		if slices.ContainsFunc(p.Licences, func(l string) bool { return strings.Contains(l, "GPL") }) {
			licensed++
		}
	}
	if licensed < 20 {
		t.Errorf("only %d of %d packages are under some GPL", licensed, r.Count)
	}
	for name, list := range r.findings() {
		if len(list) > 0 {
			t.Errorf("%s: %q", name, list)
		}
	}

	seen, r = g.examine(t, tampered)
	want := map[string][]string{
		"modified":  {"/usr/bin/passwd"},
		"missing":   {"/usr/bin/tac"},
		"conffiles": {"/etc/bash.bashrc"},
		"setuid":    {"/usr/local/bin/root"},
		// The base that crane names shows through the forged record.
		"replaced": {"/usr/bin/passwd", "/usr/bin/sort"},
	}
	for name, list := range r.findings() {
		if !slices.Equal(list, want[name]) {
			t.Errorf("%s: %q, want %q", name, list, want[name])
		}
	}
	if seen.code != 3 {
		t.Errorf("%d: %s", seen.code, seen.output)
	}
}

// examined is what the tests read of the report on an image's packages.
type examined struct {
	Distribution struct{ ID string }
	Count, Files int
	Packages     []struct {
		Name, Version, Source string
		SourceVersion         string `json:"source_version"`
		SourceURL             string `json:"source_url"`
		Licences              []string
	}
	Modified, Missing, Replaced paths
	ModifiedConffiles           paths `json:"modified_conffiles"`
	UnownedSetuid               paths `json:"unowned_setuid"`
}

type paths struct{ List []string }

func (e examined) findings() map[string][]string {
	return map[string][]string{
		"modified": e.Modified.List, "missing": e.Missing.List, "replaced": e.Replaced.List,
		"conffiles": e.ModifiedConffiles.List, "setuid": e.UnownedSetuid.List,
	}
}

func (g *gate) examine(t testing.TB, of image) (outcome, examined) {
	t.Helper()
	seen := g.trustgateRun(t, "packages", "-o", "json", of.String())
	var r examined
	if err := json.Unmarshal(seen.stdout, &r); err != nil {
		t.Fatalf("%s: %v\n%s", seen.command, err, seen.output)
	}
	return seen, r
}

// appended pushes an image with the archive as its last layer.
func appended(t testing.TB, repo, base, layer string) image {
	t.Helper()
	of := image{registry: the.apps, repo: repo, tag: "1"}
	if !exists(layer) {
		t.Skipf("SKIPPED: there is no %s; debian.sh makes it", layer)
	}
	path, err := filepath.Abs(layer)
	if err != nil {
		t.Fatal(err)
	}
	the.run(t, "crane", "append", base, "--new_layer", path, "--new_tag", of.String()).ok(t)
	_, raw := the.apps.manifestOf(t, repo, of.tag)
	of.digest = digestOf(raw)
	return of
}

type entry struct {
	content string
	mode    int64
}

func archive(t testing.TB, files map[string]entry) string {
	t.Helper()
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	for name, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: f.mode, Size: int64(len(f.content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "layer.tar")
	if err := os.WriteFile(path, raw.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// contents reads some files of an archive that is not compressed.
func contents(t testing.TB, name string, files ...string) map[string]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := map[string]string{}
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		file := strings.TrimPrefix(header.Name, "./")
		if header.Typeflag != tar.TypeReg || !slices.Contains(files, file) {
			continue
		}
		raw, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		found[file] = string(raw)
	}
}
