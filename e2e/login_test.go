package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"text/template"

	"golang.org/x/crypto/bcrypt"
)

var loginConfig = template.Must(template.New("trustgate.yaml").Parse(`listen: {{.Listen}}
admin: {{.Admin}}
data: {{.Data}}
clients: {{.Clients}}
routes:
  - registry: {{.Registry.Addr}}
    hosts: [{{.Registry.Host}}]
    upstream: http://{{.Registry.Addr}}
    insecure: true
    mode: annotate
    clients: {{.Route}}
    credentials: {username: gate, password_file: {{.Password}}}
platforms: [linux/{{.Arch}}]
log: {level: info, format: json}
`))

// TestLogin has every client log in to the gate: with a password of the gate's,
// and with one of the registry behind it, which then decides.
func TestLogin(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	passwords := filepath.Join(dir, "htpasswd")
	var lines strings.Builder
	for _, user := range []string{"alice", "gate"} {
		hash, err := bcrypt.GenerateFromPassword([]byte(user+"-secret"), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "%s:%s\n", user, hash)
	}
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(passwords, lines.String())
	password := filepath.Join(dir, "password")
	write(password, "gate-secret")
	private, err := startRegistryWith(the, "private", "private.example", filepath.Join(dir, "registry"), fmt.Sprintf("auth: {htpasswd: {realm: private, path: %q}}\n", passwords))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = private.stop() })

	// config is where clients find who they are.
	config := func(user, secret string, hosts ...string) []string {
		auths := map[string]any{}
		for _, host := range hosts {
			if user != "" {
				auths[host] = map[string]any{"auth": []byte(user + ":" + secret)}
			}
		}
		raw, err := json.Marshal(map[string]any{"auths": auths})
		if err != nil {
			t.Fatal(err)
		}
		folder := t.TempDir()
		write(filepath.Join(folder, "config.json"), string(raw))
		return append(append([]string(nil), the.env...), "DOCKER_CONFIG="+folder, "REGISTRY_AUTH_FILE="+filepath.Join(folder, "config.json"))
	}
	app := the.build(t, the.apps, "login/app", fromScratch(t))
	app.registry = private
	owner := config("alice", "alice-secret", private.addr)
	run(t.Context(), the.dir, owner, the.path("crane"), "copy", "--insecure", the.apps.addr+"/login/app:1", app.String()).ok(t)

	ctr := startContainerd(t, "containerd-login", filepath.Join(the.bin, "containerd"), filepath.Join(the.bin, "ctr"), true)
	for route, clients := range map[string]string{
		"gate":     fmt.Sprintf("{htpasswd: %s}", passwords),
		"upstream": "{recheck: 1m}",
	} {
		g := launch(t, loginConfig, map[string]any{
			"Clients": clients, "Route": route, "Password": password, "Arch": runtime.GOARCH,
			"Registry": map[string]string{"Addr": private.addr, "Host": private.host},
		})
		for name, command := range map[string]func(dir string) []string{
			"crane": func(dir string) []string {
				return []string{"crane", "pull", "--insecure", "--format", "oci", g.name(app), dir}
			},
			"imagecopy": func(dir string) []string {
				return []string{"imagecopy", "docker://" + g.name(app), "oci:" + dir + ":1"}
			},
			"oras": func(dir string) []string {
				return []string{"oras", "copy", "--from-plain-http", g.name(app), "--to-oci-layout", dir + ":1"}
			},
			"skopeo": func(dir string) []string {
				return []string{"skopeo", "copy", "--all", "--preserve-digests", "--remove-signatures", "--src-tls-verify=false", "docker://" + g.name(app), "oci:" + dir + ":1"}
			},
			"podman": func(dir string) []string {
				return []string{"podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs", "pull", "--tls-verify=false", g.name(app)}
			},
		} {
			t.Run(name+", the "+route+" decides", func(t *testing.T) {
				pull := func(env []string) outcome {
					dir, err := os.MkdirTemp(the.dir, "l-")
					if err != nil {
						t.Fatal(err)
					}
					args := command(dir)
					seen := run(t.Context(), the.dir, env, the.path(args[0]), args[1:]...)
					if seen.err == nil && name != "podman" {
						verifyLayout(t, dir, app.digest)
					}
					return seen
				}
				pull(config("alice", "alice-secret", g.addr)).ok(t)
				for who, env := range map[string][]string{"a wrong password": config("alice", "wrong", g.addr), "nobody": config("", "")} {
					if seen := pull(env); seen.err == nil {
						t.Errorf("%s pulls:\n%s", who, seen.output)
					}
				}
			})
		}
		t.Run("containerd, the "+route+" decides", func(t *testing.T) {
			seen, arrived := ctr.pullAs(t, g, app, "alice:alice-secret")
			seen.ok(t)
			arrived(t)
			for _, user := range []string{"alice:wrong", ""} {
				if seen, _ := ctr.pullAs(t, g, app, user); seen.err == nil {
					t.Errorf("%q pulls:\n%s", user, seen.output)
				}
			}
		})
		resp, body := get(t, http.MethodGet, g.url(app, "manifests", app.tag))
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(resp.Header.Get("WWW-Authenticate"), "/auth/token") {
			t.Errorf("nobody is answered %s %q: %s", resp.Status, resp.Header.Get("WWW-Authenticate"), body)
		}
	}
}
