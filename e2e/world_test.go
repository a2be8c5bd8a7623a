package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// world is what all tests share: servers, keys and the programs under test. It
// is built once; tests keep to repositories of their own in it.
type world struct {
	dir       string // everything that is written lies below it
	bin       string // the programs that tools.sh built
	trustgate string // the program under test
	env       []string

	apps  *registry // holds the images that people pull
	bases *registry // holds the deepest base images, on another route

	git      *process
	gitAddr  string
	gitRoot  string
	buildkit *process
	bkSocket string

	pgp    pgpKey
	cosign cosignKey
}

var the *world

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	w, err := newWorld()
	if w != nil {
		defer w.close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: "+err.Error())
		return 1
	}
	the = w
	code := m.Run()
	if code != 0 {
		for _, p := range []*process{w.apps.process, w.bases.process, w.buildkit, w.git} {
			if p != nil {
				fmt.Fprintf(os.Stderr, "--- the last lines of %s\n%s\n", p.name, p.tail(4))
			}
		}
	}
	return code
}

// newWorld starts the shared servers. What it returns must be closed, also
// beside an error.
func newWorld() (*world, error) {
	here, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(here, ".cache", "bin")
	for _, tool := range []string{"registry", "crane", "cosign", "oras", "buildkitd", "buildctl", "containerd", "ctr", "imagecopy", "conformance", "buildx"} {
		if _, err := os.Stat(filepath.Join(bin, tool)); err != nil {
			return nil, fmt.Errorf("%s is missing: run e2e/tools.sh first", tool)
		}
	}
	for _, tool := range []string{"skopeo", "podman", "buildah", "containerd", "ctr", "runc", "gpg", "git", "busybox"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is missing: run e2e/install.sh first", tool)
		}
	}
	// Short, because gpg-agent's socket lies below it and such paths are bounded.
	dir, err := os.MkdirTemp("", "tg-e2e-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, bin: bin}
	for _, sub := range []string{"home/.config/containers/registries.d", "run", "tmp", "git", "lookaside", "gnupg"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return w, err
		}
	}
	w.env = w.environment()

	if w.trustgate, err = buildTrustgate(here, dir); err != nil {
		return w, err
	}
	if w.apps, err = startRegistry(w, "apps", "registry.example", filepath.Join(dir, "apps")); err != nil {
		return w, err
	}
	if w.bases, err = startRegistry(w, "bases", "base.example", filepath.Join(dir, "bases")); err != nil {
		return w, err
	}
	if err := w.containersConfig(); err != nil {
		return w, err
	}
	if err := w.makeKeys(); err != nil {
		return w, err
	}
	if os.Geteuid() != 0 {
		fmt.Fprint(os.Stderr, "\ne2e: NOT ROOT. BuildKit and containerd cannot run, so that nearly every test is skipped.\n"+
			"e2e: Run this as root (a container will do) before you trust a green result.\n\n")
		return w, nil
	}
	if err := w.startGit(); err != nil {
		return w, err
	}
	return w, w.startBuildkit()
}

// environment is what every program here runs with: the person's own keys,
// registries and proxies play no part.
func (w *world) environment() []string {
	env := []string{
		"PATH=" + w.bin + string(os.PathListSeparator) + os.Getenv("PATH"),
		"HOME=" + filepath.Join(w.dir, "home"),
		"TMPDIR=" + filepath.Join(w.dir, "tmp"),
		"XDG_RUNTIME_DIR=" + filepath.Join(w.dir, "run"),
		"GNUPGHOME=" + filepath.Join(w.dir, "gnupg"),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=e2e", "GIT_AUTHOR_EMAIL=e2e@trustgate.example",
		"GIT_COMMITTER_NAME=e2e", "GIT_COMMITTER_EMAIL=e2e@trustgate.example",
		"COSIGN_PASSWORD=", "OTEL_TRACES_EXPORTER=none", "NO_COLOR=1", "LANG=C.UTF-8",
	}
	return env
}

// close stops everything and leaves nothing behind.
func (w *world) close() {
	_ = w.buildkit.stop()
	_ = w.git.stop()
	for _, r := range []*registry{w.apps, w.bases} {
		if r != nil {
			_ = r.process.stop()
		}
	}
	agent := exec.Command("gpgconf", "--kill", "all")
	agent.Env = w.env
	_ = agent.Run()
	unmountBelow(w.dir)
	if os.Getenv("TRUSTGATE_E2E_KEEP") != "" {
		fmt.Fprintln(os.Stderr, "e2e: kept", w.dir)
		return
	}
	if err := os.RemoveAll(w.dir); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: cleaning up:", err)
	}
}

// unmountBelow detaches what a container tool that was killed left mounted, so
// that removing the folder cannot reach through it.
func unmountBelow(dir string) {
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return
	}
	lines := strings.Split(string(raw), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) > 1 && strings.HasPrefix(fields[1], dir+"/") {
			_ = syscall.Unmount(fields[1], syscall.MNT_DETACH)
		}
	}
}

// buildTrustgate builds the program from the repository around this folder, or
// takes the one that TRUSTGATE_E2E_BINARY names (one built with -race, say).
func buildTrustgate(here, dir string) (string, error) {
	if binary := os.Getenv("TRUSTGATE_E2E_BINARY"); binary != "" {
		return filepath.Abs(binary)
	}
	binary := filepath.Join(dir, "trustgate")
	build := exec.Command("go", "build", "-o", binary, "./cmd/trustgate")
	build.Dir = filepath.Dir(here)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building trustgate: %w\n%s", err, out)
	}
	return binary, nil
}

// run runs a program to its end in the world's environment.
func (w *world) run(t testing.TB, program string, args ...string) outcome {
	t.Helper()
	return run(t.Context(), w.dir, w.env, w.path(program), args...)
}

// path prefers the programs that tools.sh built. Names with a slash are kept.
func (w *world) path(program string) string {
	if strings.Contains(program, "/") {
		return program
	}
	if built := filepath.Join(w.bin, program); exists(built) {
		return built
	}
	return program
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// needRoot skips a test that builds or runs images. The reason was also printed
// when the tests began.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: BuildKit and containerd need root")
	}
}

// get fetches a URL with the Accept header of a container client.
func get(t testing.TB, method, url string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", strings.Join([]string{
		"application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
		"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json", "*/*",
	}, ", "))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: reading the body: %v", method, url, err)
	}
	return resp, body
}
