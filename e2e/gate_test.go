package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"text/template"
)

// gate is one running trustgate.
type gate struct {
	*process
	addr   string
	admin  string
	data   string // its cache, ledger and everything else it writes
	tmp    string // its TMPDIR, which must stay empty
	config string
}

// gateOptions is what the tests vary in a gate's configuration. The zero value
// enforces everything straight before the two registries.
type gateOptions struct {
	Upstream string // dialled in place of the registry of apps
	Serve    string // lifetime of a serving verdict
	Block    string // lifetime of a block
	Git      bool   // ask the git server for signed tags
	Second   string // the public key of a second builder
	Scrub    string // from one pass over the cache to the next
	Data     string // the data folder, when not one of its own
}

var gateConfig = template.Must(template.New("trustgate.yaml").Parse(`listen: {{.Listen}}
admin: {{.Admin}}
data: {{.Data}}
routes:
  - registry: {{.World.Apps.Addr}}
    hosts: [{{.World.Apps.Host}}]
    upstream: {{.Upstream}}
    insecure: true
    mode: enforce
    lookaside: ["{{.World.Lookaside}}"]
    scopes:
      - repositories: ["observed/*"]
        mode: annotate
  - registry: {{.World.Bases.Addr}}
    hosts: [{{.World.Bases.Host}}]
    upstream: http://{{.World.Bases.Addr}}
    insecure: true
    mode: enforce
    lookaside: ["{{.World.Lookaside}}"]
platforms: [linux/{{.Arch}}]
trust:
  signers:
    - {name: release, openpgp: {keyring: {{.World.Keyring}}}}
    - {name: ci, cosign: {key: {{.World.CosignKey}}}}
{{- if .Second}}
    - {name: second, cosign: {key: {{.Second}}}}
{{- end}}
  builders:
    - {id: "https://ci.example/*", signers: [ci]}
{{- if .Second}}
    - {id: "https://second.example/*", signers: [second]}
{{- end}}
  sources: ["git://{{.World.Git}}/**"]
{{- if .Tags}}
  git: {hosts: ["git://{{.World.Git}}/**"], insecure: true, private: true}
{{- end}}
policy:
  builtin: true
  collections: [trusted-builds]
verdicts: {serve: {{.Serve}}, block: {{.Block}}, stale: 24h, deadline: 30s, depth: 16}
cache: {driver: {filesystem: {rootdirectory: {{.Data}}/cache}}{{if .Scrub}}, scrub: {every: {{.Scrub}}, rate: 0}{{end}}}
log: {level: info, format: json}
`))

// startGate runs trustgate before the two registries.
func startGate(t testing.TB, options gateOptions) *gate {
	t.Helper()
	if options.Upstream == "" {
		options.Upstream = "http://" + the.apps.addr
	}
	if options.Serve == "" {
		options.Serve = "10m"
	}
	if options.Block == "" {
		options.Block = "2s"
	}
	type side struct{ Addr, Host string }
	return launch(t, gateConfig, map[string]any{
		"Arch": runtime.GOARCH, "Tags": options.Git, "Second": options.Second, "Scrub": options.Scrub, "Data": options.Data, "Upstream": options.Upstream, "Serve": options.Serve, "Block": options.Block,
		"World": map[string]any{
			"Apps": side{the.apps.addr, the.apps.host}, "Bases": side{the.bases.addr, the.bases.host},
			"Lookaside": the.lookaside(), "Keyring": the.pgp.keyring, "CosignKey": the.cosign.public, "Git": the.gitAddr,
		},
	})
}

// launch runs trustgate with a configuration and folders of its own. It is
// stopped with the test, and its log printed if the test failed.
func launch(t testing.TB, configuration *template.Template, values map[string]any) *gate {
	t.Helper()
	dir, err := os.MkdirTemp(the.dir, "gate-")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{data: filepath.Join(dir, "data"), tmp: filepath.Join(dir, "tmp"), config: filepath.Join(dir, "trustgate.yaml")}
	if err := os.Mkdir(g.tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, address := range []*string{&g.addr, &g.admin} {
		if *address, err = freeAddress(); err != nil {
			t.Fatal(err)
		}
	}
	if folder, _ := values["Data"].(string); folder != "" {
		g.data = folder
	}
	values["Listen"], values["Admin"], values["Data"] = g.addr, g.admin, g.data
	var config bytes.Buffer
	if err := configuration.Execute(&config, values); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.config, config.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if g.process == nil {
			return
		}
		select {
		case <-g.done:
		default:
			if err := g.stop(); err != nil {
				t.Errorf("trustgate did not end cleanly on SIGTERM: %v", err)
			}
		}
		if t.Failed() {
			t.Logf("the last lines of trustgate's log:\n%s", g.tail(80))
		}
	})
	g.start(t)
	return g
}

// start runs the gate, again after a stop, on the same configuration and data.
func (g *gate) start(t testing.TB) {
	t.Helper()
	env := append([]string(nil), the.env...)
	env = append(env, "TMPDIR="+g.tmp)
	p, err := start(filepath.Dir(g.config), "trustgate", env, answers("http://"+g.addr+"/v2/", http.StatusOK, http.StatusUnauthorized),
		the.trustgate, "serve", "--config", g.config)
	if err != nil {
		t.Fatal(err)
	}
	g.process = p
}

// name is what a client writes to pull the image by its tag through the gate.
func (g *gate) name(of image) string { return g.repo(of) + ":" + of.tag }

// pinned is what a client writes to pull it by digest.
func (g *gate) pinned(of image) string { return g.repo(of) + "@" + of.digest }

func (g *gate) repo(of image) string { return g.addr + "/" + of.registry.host + "/" + of.repo }

// url is the address of something in the image's repository.
func (g *gate) url(of image, kind, reference string) string {
	return "http://" + g.addr + "/v2/" + of.registry.host + "/" + of.repo + "/" + kind + "/" + reference
}

// refusal is the error body of the distribution API.
type refusal struct {
	Errors []struct {
		Code    string          `json:"code"`
		Message string          `json:"message"`
		Detail  json.RawMessage `json:"detail"`
	} `json:"errors"`
}

// pull asks the gate for the manifest of a tag and says what came of it: the
// status and, if it is a refusal, the message.
func (g *gate) pull(t testing.TB, of image) (int, string) {
	t.Helper()
	resp, body := get(t, http.MethodGet, g.url(of, "manifests", of.tag))
	if resp.StatusCode == http.StatusOK {
		if got := digestOf(body); got != of.digest {
			t.Fatalf("the gate served %s for %s, want %s", got, of, of.digest)
		}
		return resp.StatusCode, ""
	}
	var r refusal
	if err := json.Unmarshal(body, &r); err != nil || len(r.Errors) == 0 {
		t.Fatalf("the gate answers %s with a body that is no distribution error: %s", resp.Status, body)
	}
	return resp.StatusCode, r.Errors[0].Message
}

// leftovers lists everything in the gate's folders that is not finished
// content: the cache may hold links and blobs whose bytes hash to their name,
// and the ledger its files. Half-written uploads, spools and temporary files
// are what a crash must not leave.
func (g *gate) leftovers(t testing.TB) []string {
	t.Helper()
	var found []string
	for _, root := range []string{g.data, g.tmp} {
		err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			parts := strings.Split(path, string(filepath.Separator))
			base := parts[len(parts)-1]
			switch {
			case root == g.tmp, strings.Contains(path, "/_uploads/"):
			case base == "data" && len(parts) > 2:
				raw, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				if digestOf(raw) == "sha256:"+parts[len(parts)-2] {
					return nil
				}
			case base == "link":
				return nil
			case strings.HasPrefix(base, "ledger.db"):
				return nil
			case info.Size() < 64<<10:
				// Keys, lock files and the like are the program's own business;
				// no fill of the tests is that small.
				return nil
			}
			found = append(found, fmt.Sprintf("%s (%d bytes)", strings.TrimPrefix(path, filepath.Dir(g.data)), info.Size()))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// cached says whether the cache holds a blob's bytes.
func (g *gate) cached(t testing.TB, digest string) bool {
	t.Helper()
	hex := strings.TrimPrefix(digest, "sha256:")
	found := false
	err := filepath.WalkDir(filepath.Join(g.data, "cache"), func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.HasSuffix(path, "/"+hex+"/data") {
			found = true
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return found
}
