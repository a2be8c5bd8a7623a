package e2e

import (
	"bytes"
	"encoding/xml"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/template"
)

// report is what the OCI conformance suite says of a registry.
type report struct {
	cases    map[string]tally  // by the name of the case; the suite runs some more than once
	features map[string]string // of the API and of data: "Pass", "Skip" or "FAIL"
	output   string
}

type tally struct{ passed, others int }

func (r report) passed() (n int) {
	for _, c := range r.cases {
		n += c.passed
	}
	return n
}

// feature is a line of the summary that the suite prints.
var feature = regexp.MustCompile(`(?m)^  ([A-Za-z0-9 -]+?)\.*: +(Pass|Skip|FAIL|Error|Disabled|Unknown)$`)

// conform runs the suite against whatever answers at addr.
//
// https://github.com/opencontainers/distribution-spec/tree/main/conformance
func conform(t *testing.T, addr, repository string) report {
	t.Helper()
	results := t.TempDir()
	env := append([]string(nil), the.env...)
	env = append(env, "OCI_VERSION=1.1", "OCI_LOG=error", "OCI_TLS=disabled", "OCI_REGISTRY="+addr,
		"OCI_REPO1="+repository+"/one", "OCI_REPO2="+repository+"/two", "OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_RESULTS_DIR="+results)
	o := run(t.Context(), results, env, the.path("conformance")) // its exit status is that of the registry
	raw, err := os.ReadFile(filepath.Join(results, "junit.xml"))
	if err != nil {
		t.Fatalf("the suite did not come to its end: %v\n%s", err, o.output)
	}
	var document struct {
		Cases []struct {
			Name   string `xml:"name,attr"`
			Status string `xml:"status,attr"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.Unmarshal(raw, &document); err != nil {
		t.Fatal(err)
	}
	r := report{cases: map[string]tally{}, features: map[string]string{}, output: string(o.stdout)}
	for _, c := range document.Cases {
		counted := r.cases[c.Name]
		if c.Status == "passed" {
			counted.passed++
		} else {
			counted.others++
		}
		r.cases[c.Name] = counted
	}
	for _, match := range feature.FindAllStringSubmatch(r.output, -1) {
		r.features[match[1]] = match[2]
	}
	return r
}

var conformanceConfig = template.Must(template.New("trustgate.yaml").Parse(`listen: {{.Listen}}
admin: ""
data: {{.Data}}
clients: {push: [anonymous]}
routes:
  - {registry: registry.example, default: true, upstream: "http://{{.Upstream}}", insecure: true, mode: {{.Mode}}, push: {{.Push}}}
log: {level: warn, format: json}
`))

// TestConformance holds the gate to the OCI distribution specification: nothing
// that the suite finds right with a registry is worse through the gate.
//
// Two real registries stand behind it, since neither passes all of the suite.
func TestConformance(t *testing.T) {
	registry, err := startRegistry(the, "conformance", "conformance.example", filepath.Join(the.dir, "conformance"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.stop() })
	library, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	other, err := start(the.dir, "crane-registry", the.env, answers("http://"+library+"/v2/", 200), the.path("crane"), "registry", "serve", "--address", library)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.kill() }) // it knows no other end

	direct := map[string]report{registry.addr: conform(t, registry.addr, "direct"), library: conform(t, library, "direct")}
	// What the suite must find right through the gate, whatever it says of the
	// registry behind it.
	needed := []string{
		"Tag delete", "Tag delete atomic", "Blob upload cancel", "Blob push", "Blob post only", "Blob post put", "Blob chunked", "Blob streaming",
		"Blob mount", "Blob get", "Blob get range", "Blob head", "Blob delete", "Blob delete atomic", "Manifest delete", "Manifest delete atomic", "Ping",
	}
	for _, tc := range []struct {
		name, upstream, mode, push string
		needed                     []string
	}{
		{"distribution, pushes handed on", registry.addr, "audit", "pass", needed},
		{"distribution, pushes judged and annotated", registry.addr, "annotate", "judge", needed},
		{"go-containerregistry, pushes judged", library, "audit", "judge", []string{"Blob post only", "Blob get", "Blob get range", "Tag delete", "Ping"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := conformanceGate(t, tc.upstream, tc.mode, tc.push)
			through := conform(t, g.addr, "through/"+tc.push)
			before := direct[tc.upstream]
			t.Logf("directly %d cases pass, through the gate %d", before.passed(), through.passed())
			if before.passed() < 400 || through.passed() < before.passed() {
				t.Errorf("directly %d cases pass, through the gate %d\n%s", before.passed(), through.passed(), through.output)
			}
			for name, was := range before.cases {
				is, ran := through.cases[name]
				// Which way a blob goes is the suite's choice, by what has worked before.
				if chosen := strings.Contains(name[strings.LastIndex(name, "/")+1:], "blob-p"); !ran && !chosen && was.passed > 0 {
					t.Errorf("%s does not run", name)
				}
				if is.others > was.others {
					t.Errorf("%s: directly %d of %d runs do not pass, through the gate %d of %d", name, was.others, was.others+was.passed, is.others, is.others+is.passed)
				}
			}
			for name, was := range before.features {
				if is := through.features[name]; was == "Pass" && is != "Pass" {
					t.Errorf("%s: %s through the gate, and passes without it", name, is)
				}
			}
			for _, name := range tc.needed {
				if is := through.features[name]; is != "Pass" {
					t.Errorf("%s: %q", name, is)
				}
			}
		})
	}
}

// conformanceGate runs a gate that takes pushes.
func conformanceGate(t *testing.T, upstream, mode, push string) *gate {
	t.Helper()
	dir, err := os.MkdirTemp(the.dir, "gate-")
	if err != nil {
		t.Fatal(err)
	}
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{
		addr: address, data: filepath.Join(dir, "data"), tmp: filepath.Join(dir, "tmp"),
		config: filepath.Join(dir, "trustgate.yaml"),
	}
	if err := os.Mkdir(g.tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	var config bytes.Buffer
	err = conformanceConfig.Execute(&config, map[string]string{"Listen": g.addr, "Data": g.data, "Upstream": upstream, "Mode": mode, "Push": push})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.config, config.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	g.start(t)
	t.Cleanup(func() {
		if err := g.stop(); err != nil {
			t.Errorf("trustgate did not end cleanly on SIGTERM: %v", err)
		}
		if t.Failed() {
			t.Logf("the last lines of trustgate's log:\n%s", g.tail(40))
		}
	})
	return g
}
