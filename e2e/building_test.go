package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// builderID is what BuildKit is told to call itself in its provenance.
const builderID = "https://ci.example/buildkit"

// startGit serves the sources of the images over the git protocol, so that
// BuildKit fetches them and records where from.
func (w *world) startGit() error {
	var err error
	if w.gitAddr, err = freeAddress(); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(w.gitAddr)
	if err != nil {
		return err
	}
	w.gitRoot = filepath.Join(w.dir, "git")
	w.git, err = start(w.dir, "git-daemon", w.env, listens("tcp", w.gitAddr), "git", "daemon",
		"--base-path="+w.gitRoot, "--export-all", "--reuseaddr", "--listen="+host, "--port="+port, w.gitRoot)
	return err
}

// startBuildkit runs buildkitd with runc. The native snapshotter needs nothing
// of the kernel.
func (w *world) startBuildkit() error {
	w.bkSocket = "unix://" + filepath.Join(w.dir, "buildkit.sock")
	config := filepath.Join(w.dir, "buildkitd.toml")
	err := os.WriteFile(config, fmt.Appendf(nil, `root = %q
[grpc]
  address = [%q]
[worker.oci]
  enabled = true
  snapshotter = "native"
  networkMode = "host"
  gc = false
[worker.containerd]
  enabled = false
[registry.%q]
  http = true
[registry.%q]
  http = true
`, filepath.Join(w.dir, "buildkit"), w.bkSocket, w.apps.addr, w.bases.addr), 0o600)
	if err != nil {
		return err
	}
	w.buildkit, err = start(w.dir, "buildkitd", w.env, listens("unix", strings.TrimPrefix(w.bkSocket, "unix://")),
		w.path("buildkitd"), "--config", config)
	return err
}

// commit makes a git repository of the files and returns its URL.
func (w *world) commit(t testing.TB, name string, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(w.gitRoot, name+".git")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.run(t, "git", "-C", dir, "init", "-q", "-b", "main").ok(t)
	w.run(t, "git", "-C", dir, "add", ".").ok(t)
	w.run(t, "git", "-C", dir, "commit", "-q", "-m", "The image's source").ok(t)
	return "git://" + w.gitAddr + "/" + name + ".git"
}

// busybox is a static program for images that start from nothing.
func busybox(t testing.TB) string {
	t.Helper()
	raw, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("busybox-static is needed: %v", err)
	}
	return string(raw)
}

// fromScratch are the sources of an image that starts from nothing.
func fromScratch(t testing.TB) map[string]string {
	return map[string]string{
		"busybox":    busybox(t),
		"Dockerfile": "FROM scratch\nCOPY busybox /bin/busybox\nENV PATH=/bin\nENTRYPOINT [\"/bin/busybox\"]\n",
	}
}

// from are the sources of an image on top of another, with a step that runs.
func from(parent fmt.Stringer) map[string]string {
	return map[string]string{
		"Dockerfile": fmt.Sprintf("FROM %s\nRUN [\"/bin/busybox\", \"touch\", \"/built\"]\nCOPY Dockerfile /Dockerfile\n", parent),
	}
}

// build has BuildKit build the image from a git repository of its own and push
// it, with its provenance in the index.
func (w *world) build(t testing.TB, in *registry, repo string, files map[string]string) image {
	t.Helper()
	return w.buildFrom(t, in, repo, w.commit(t, repo, files), "")
}

// buildFrom builds from a git repository; exported is added to how the image is
// written, and further options go to the Dockerfile frontend.
func (w *world) buildFrom(t testing.TB, in *registry, repo, source, exported string, options ...string) image {
	t.Helper()
	built := image{registry: in, repo: repo, tag: "1"}
	metadata := filepath.Join(t.TempDir(), "metadata.json")
	args := []string{"--addr", w.bkSocket, "build", "--progress", "plain",
		"--frontend", "dockerfile.v0", "--opt", "context=" + source + "#main",
		"--opt", "attest:provenance=mode=max,builder-id=" + builderID,
		"--output", "type=image,name=" + built.String() + ",push=true,registry.insecure=true" + exported,
		"--metadata-file", metadata}
	for _, o := range options {
		args = append(args, "--opt", o)
	}
	w.run(t, "buildctl", args...).ok(t)
	raw, err := os.ReadFile(metadata)
	if err != nil {
		t.Fatal(err)
	}
	var said struct {
		Digest string `json:"containerimage.digest"`
	}
	if err := json.Unmarshal(raw, &said); err != nil {
		t.Fatal(err)
	}
	built.digest = said.Digest
	return built
}

// provenance reads the predicate that BuildKit put into the image's index and
// returns a file with it.
func (w *world) provenance(t testing.TB, of image) string {
	t.Helper()
	index, _ := of.registry.manifestOf(t, of.repo, of.digest)
	for _, entry := range index.Manifests {
		if entry.Annotations["vnd.docker.reference.type"] != "attestation-manifest" {
			continue
		}
		attestation, _ := of.registry.manifestOf(t, of.repo, entry.Digest)
		for _, layer := range attestation.Layers {
			var statement struct {
				Predicate json.RawMessage `json:"predicate"`
			}
			if err := json.Unmarshal(of.registry.blobOf(t, of.repo, layer.Digest), &statement); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "provenance.json")
			if err := os.WriteFile(path, statement.Predicate, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	t.Fatalf("BuildKit left no provenance in %s", of)
	return ""
}

// storage are the flags that keep podman and buildah within the world.
func (w *world) storage() []string {
	return []string{"--root", filepath.Join(w.dir, "containers"), "--runroot", filepath.Join(w.dir, "run", "containers"), "--storage-driver", "vfs"}
}

// buildah builds an image from nothing and leaves it in the local storage,
// under the name that it is to be pushed as.
func (w *world) buildah(t testing.TB, in *registry, repo string) image {
	t.Helper()
	dir := t.TempDir()
	for name, content := range fromScratch(t) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	built := image{registry: in, repo: repo, tag: "1"}
	w.run(t, "buildah", append(w.storage(), "bud", "--isolation", "chroot", "-t", built.String(), dir)...).ok(t)
	return built
}

// handWritten is the provenance of an image that buildah built from the git
// repository, in the words that a build system around buildah would use.
func (w *world) handWritten(t testing.TB, source string) string {
	t.Helper()
	name := strings.TrimPrefix(source, "git://"+w.gitAddr+"/")
	commit := strings.TrimSpace(w.run(t, "git", "-C", filepath.Join(w.gitRoot, name), "rev-parse", "main").ok(t).output)
	from := map[string]any{"uri": source + "#main", "digest": map[string]string{"sha1": commit}}
	raw, err := json.Marshal(map[string]any{
		"buildDefinition": map[string]any{
			"buildType":            "https://ci.example/buildah/v1",
			"externalParameters":   map[string]any{"configSource": from},
			"resolvedDependencies": []any{from},
		},
		"runDetails": map[string]any{
			"builder":  map[string]any{"id": "https://ci.example/buildah"},
			"metadata": map[string]any{"invocationId": "1", "startedOn": "2026-01-02T03:04:05Z", "finishedOn": "2026-01-02T03:04:06Z"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "provenance.json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
