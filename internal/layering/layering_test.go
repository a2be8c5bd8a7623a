// Package layering_test holds the imports to docs/architecture.md: they point
// down the list of packages there, or stay in the same row.
package layering_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	root = "../.."
	page = "docs/architecture.md"
)

// listed is the part of `go list -json` that matters here.
type listed struct {
	ImportPath string
	Module     struct{ Path string }
	GoFiles    []string
	Imports    []string // of GoFiles: tests may import what they like
}

func TestImportsPointDown(t *testing.T) {
	text, err := os.ReadFile(root + "/" + page)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := readRows(string(text))
	if err != nil {
		t.Fatal(err)
	}
	packages := goList(t)
	if len(packages) < len(rows) {
		t.Fatalf("go list names %d packages, fewer than %s has rows", len(packages), page)
	}
	for _, mistake := range check(rows, packages) {
		t.Error(mistake)
	}
}

func goList(t *testing.T) []listed {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Module,GoFiles,Imports", "./...")
	command.Dir, command.Stderr = root, os.Stderr
	out, err := command.Output()
	if err != nil {
		t.Fatal("go list: ", err)
	}
	var packages []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

var row = regexp.MustCompile("^\\| `([^`]+)` \\|")

// readRows lists the packages of the page's table, from the top.
func readRows(text string) ([]string, error) {
	_, section, found := strings.Cut(text, "\n## Packages\n")
	if !found {
		return nil, fmt.Errorf("%s has no section Packages", page)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var rows []string
	for line := range strings.Lines(section) {
		if cells := row.FindStringSubmatch(line); cells != nil {
			if slices.Contains(rows, cells[1]) {
				return nil, fmt.Errorf("%s lists %s twice", page, cells[1])
			}
			rows = append(rows, cells[1])
		} else if strings.HasPrefix(line, "| `") {
			return nil, fmt.Errorf("%s has a row that this test does not read: %s", page, line)
		}
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s has no table of packages", page)
	}
	return rows, nil
}

// check says what is wrong, in the order of the packages. Packages below a row
// belong to it.
func check(rows []string, packages []listed) []string {
	place := func(p, module string) int {
		path := strings.TrimPrefix(p, module+"/")
		best := -1
		for i, r := range rows {
			if (path == r || strings.HasPrefix(path, r+"/")) && (best < 0 || len(r) > len(rows[best])) {
				best = i
			}
		}
		return best
	}
	var mistakes []string
	filled := make([]bool, len(rows))
	for _, p := range packages {
		at := place(p.ImportPath, p.Module.Path)
		if at >= 0 {
			filled[at] = true
		}
		if len(p.GoFiles) == 0 {
			continue // nothing but tests
		}
		if at < 0 {
			mistakes = append(mistakes, fmt.Sprintf("%s has no row in %s: give it one at the height where it belongs", p.ImportPath, page))
			continue
		}
		for _, imported := range p.Imports {
			if !strings.HasPrefix(imported, p.Module.Path+"/") {
				continue
			}
			if to := place(imported, p.Module.Path); to >= 0 && to < at {
				mistakes = append(mistakes, fmt.Sprintf("%s imports %s, which is above it in %s (%s above %s)", p.ImportPath, imported, page, rows[to], rows[at]))
			}
		}
	}
	for i, r := range rows {
		if !filled[i] {
			mistakes = append(mistakes, fmt.Sprintf("%s has a row for %s, which is no package", page, r))
		}
	}
	return mistakes
}

func TestCheck(t *testing.T) {
	const table = "\n## Packages\n\n| package | what it is for |\n| --- | --- |\n| `cmd/x` | a |\n| `gate` | b |\n| `evidence` | c |\n| `oci` | d |\n\n## More\n\n| `nothing` | e |\n"
	rows, err := readRows(table)
	if err != nil || !slices.Equal(rows, []string{"cmd/x", "gate", "evidence", "oci"}) {
		t.Fatalf("got %q, %v", rows, err)
	}
	pkg := func(path string, imports ...string) listed {
		p := listed{ImportPath: "m/" + path, GoFiles: []string{"a.go"}}
		p.Module.Path = "m"
		for _, i := range imports {
			p.Imports = append(p.Imports, "m/"+i)
		}
		return p
	}
	good := []listed{pkg("cmd/x", "gate", "oci"), pkg("gate", "evidence/a"), pkg("evidence", "oci"), pkg("evidence/a", "evidence", "evidence/b"), pkg("evidence/b", "oci"), pkg("oci")}
	tests := pkg("internal/layering")
	tests.GoFiles = nil
	foreign := pkg("oci")
	foreign.Imports = []string{"gate", "n/gate", "mm/gate"}
	for name, tc := range map[string]struct {
		packages []listed
		says     []string
	}{
		"imports that point down":         {good, nil},
		"a package of tests alone":        {append([]listed{tests}, good...), nil},
		"imports of other modules":        {append([]listed{foreign}, good...), nil},
		"an import that points up":        {append([]listed{pkg("oci", "gate")}, good...), []string{"m/oci imports m/gate, which is above it"}},
		"a part that points up":           {append([]listed{pkg("evidence/c", "gate")}, good...), []string{"m/evidence/c imports m/gate, which is above it"}},
		"an import of a part above":       {append([]listed{pkg("oci", "evidence/a")}, good...), []string{"m/oci imports m/evidence/a, which is above it"}},
		"a part of the command":           {append([]listed{pkg("gate", "cmd/x/config")}, good...), []string{"m/gate imports m/cmd/x/config, which is above it"}},
		"a package without a row":         {append([]listed{pkg("util", "oci")}, good...), []string{"m/util has no row"}},
		"a package that begins like one":  {append([]listed{pkg("ocispec")}, good...), []string{"m/ocispec has no row"}},
		"a row without a package":         {good[:5], []string{"a row for oci, which is no package"}},
		"two mistakes of the same import": {append([]listed{pkg("oci", "gate", "evidence")}, good...), []string{"imports m/gate", "imports m/evidence"}},
	} {
		t.Run(name, func(t *testing.T) {
			mistakes := check(rows, tc.packages)
			if len(mistakes) != len(tc.says) {
				t.Fatalf("got %q", mistakes)
			}
			for i, says := range tc.says {
				if !strings.Contains(mistakes[i], says) {
					t.Errorf("says %q, not %q", mistakes[i], says)
				}
			}
		})
	}
	for name, text := range map[string]string{
		"without the section":        "\n## Other\n\n| `gate` | b |\n",
		"without the table":          "\n## Packages\n\nNone.\n",
		"with a row twice":           "\n## Packages\n\n| `gate` | b |\n| `gate` | b |\n",
		"with two packages in a row": "\n## Packages\n\n| `gate`, `oci` | b |\n",
	} {
		if rows, err := readRows(text); err == nil {
			t.Errorf("a page %s: %q", name, rows)
		}
	}
}
