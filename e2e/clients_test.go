package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// client is one program that people and clusters pull with.
type client struct {
	name    string
	version func(t testing.TB) string
	// pull gets the image's tag from a gate, or from the registry itself if
	// gate is nil, and keeps a copy that arrived can look at.
	pull func(t testing.TB, from *gate, of image) (seen outcome, arrived func(t testing.TB))
	// pullAs is pull by a user, written user:password; containerd alone has it.
	pullAs func(t testing.TB, from *gate, of image, user string) (seen outcome, arrived func(t testing.TB))
	// showsReason says that the client prints the message of a refusal;
	// otherwise refused is all that a person sees of it.
	showsReason bool
	refused     string
	// showsWarning says that the client prints Warning headers.
	showsWarning bool
}

// source is what a client that takes whole references is given.
func source(from *gate, of image) string {
	if from == nil {
		return of.String()
	}
	return from.name(of)
}

// layoutClient is a client that copies an image into an OCI layout.
func layoutClient(name string, version func(testing.TB) string, command func(ref, dir string) []string) client {
	return client{
		name: name, version: version, showsReason: true,
		pull: func(t testing.TB, from *gate, of image) (outcome, func(testing.TB)) {
			dir := filepath.Join(t.TempDir(), "layout")
			args := command(source(from, of), dir)
			return the.run(t, args[0], args[1:]...), func(t testing.TB) { t.Helper(); verifyLayout(t, dir, of.digest) }
		},
	}
}

// lastWord gives the version out of a program's own words.
func lastWord(program string, args ...string) func(testing.TB) string {
	return func(t testing.TB) string {
		line, _, _ := strings.Cut(strings.TrimSpace(the.run(t, program, args...).ok(t).output), "\n")
		fields := strings.Fields(line)
		return strings.TrimPrefix(fields[len(fields)-1], "v")
	}
}

func moduleVersion(program, module string) func(testing.TB) string {
	return func(t testing.TB) string {
		for line := range strings.Lines(the.run(t, "go", "version", "-m", the.path(program)).ok(t).output) {
			fields := strings.Fields(line)
			if len(fields) > 2 && (fields[0] == "dep" || fields[0] == "mod") && fields[1] == module {
				return strings.TrimPrefix(fields[2], "v")
			}
		}
		t.Fatalf("%s was built without %s", program, module)
		return ""
	}
}

// clients are all that the gate is tested with. The containerd daemons run as
// long as the test.
func clients(t testing.TB) []client {
	t.Helper()
	imagecopy := layoutClient("containers/image (podman, skopeo, CRI-O of today)", moduleVersion("imagecopy", "go.podman.io/image/v5"),
		func(ref, dir string) []string { return []string{"imagecopy", "docker://" + ref, "oci:" + dir + ":1"} })
	imagecopy.showsWarning = true
	return []client{
		layoutClient("crane", moduleVersion("crane", "github.com/google/go-containerregistry"),
			func(ref, dir string) []string { return []string{"crane", "pull", "--format", "oci", ref, dir} }),
		layoutClient("skopeo", lastWord("skopeo", "--version"), func(ref, dir string) []string {
			return []string{"skopeo", "copy", "--all", "--preserve-digests", "--remove-signatures", "--src-tls-verify=false", "docker://" + ref, "oci:" + dir + ":1"}
		}),
		{name: "podman", version: lastWord("podman", "--version"), pull: pullPodman, showsReason: true},
		imagecopy,
		startContainerd(t, "containerd-debian", "/usr/bin/containerd", "/usr/bin/ctr", false),
		startContainerd(t, "containerd", filepath.Join(the.bin, "containerd"), filepath.Join(the.bin, "ctr"), true),
		layoutClient("oras", moduleVersion("oras", "oras.land/oras"), func(ref, dir string) []string {
			return []string{"oras", "copy", "--from-plain-http", ref, "--to-oci-layout", dir + ":1"}
		}),
	}
}

// pullPodman pulls into a storage of its own, so that no layer is there before.
func pullPodman(t testing.TB, from *gate, of image) (outcome, func(testing.TB)) {
	dir, err := os.MkdirTemp(the.dir, "p-") // podman wants short paths
	if err != nil {
		t.Fatal(err)
	}
	storage := []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}
	seen := the.run(t, "podman", append(storage, "pull", "--tls-verify=false", source(from, of))...)
	return seen, func(t testing.TB) {
		t.Helper()
		digests := the.run(t, "podman", append(storage, "image", "inspect", "--format", "{{json .RepoDigests}}", source(from, of))...).ok(t).output
		if !strings.Contains(digests, "@"+of.digest) {
			t.Fatalf("podman has %s, want %s", digests, of.digest)
		}
		index, _ := of.registry.manifestOf(t, of.repo, of.digest)
		m := index
		if len(index.Manifests) > 0 {
			m, _ = of.registry.manifestOf(t, of.repo, index.Manifests[0].Digest)
		}
		id := the.run(t, "podman", append(storage, "image", "inspect", "--format", "{{.Id}}", source(from, of))...).ok(t).output
		// An image's ID is the digest of its config, and the config commits to
		// the unpacked layers, which podman has checked.
		if want := strings.TrimPrefix(m.Config.Digest, "sha256:"); strings.TrimSpace(id) != want {
			t.Fatalf("podman has image %s, want %s", id, want)
		}
	}
}

// startContainerd runs a containerd with a folder and a socket of its own.
func startContainerd(t testing.TB, name, daemon, ctr string, showsReason bool) client {
	t.Helper()
	dir, err := os.MkdirTemp(the.dir, "ctr-")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "c.sock")
	config := filepath.Join(dir, "config.toml")
	err = os.WriteFile(config, fmt.Appendf(nil, `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
[grpc]
  address = %q
[ttrpc]
  address = %q
[plugins."io.containerd.transfer.v1.local"]
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/%s"
    snapshotter = "native"
    differ = "walking"
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket, socket+".ttrpc", runtime.GOARCH), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p, err := start(dir, name, the.env, func(ctx context.Context) error {
		if err := listens("unix", socket)(ctx); err != nil {
			return err
		}
		return run(ctx, dir, the.env, ctr, "-a", socket, "version").err
	}, daemon, "--config", config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.stop()
		unmountBelow(dir)
		if t.Failed() {
			t.Logf("the last lines of %s:\n%s", name, p.tail(20))
		}
	})
	c := client{
		name: "containerd",
		version: func(t testing.TB) string {
			fields := strings.Fields(the.run(t, daemon, "--version").ok(t).output)
			return strings.TrimPrefix(strings.FieldsFunc(fields[2], func(r rune) bool { return r == '~' || r == '+' })[0], "v")
		},
		showsReason: showsReason,
		refused:     "403 Forbidden",
		pullAs: func(t testing.TB, from *gate, of image, user string) (outcome, func(testing.TB)) {
			// A namespace of its own, so that nothing is there before.
			namespace := "n" + filepath.Base(filepath.Dir(t.TempDir())) + filepath.Base(t.TempDir())
			namespace = strings.Map(func(r rune) rune {
				if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
					return r
				}
				return -1
			}, strings.ToLower(namespace))
			namespace = namespace[:min(len(namespace), 60)]
			base := []string{"-a", socket, "-n", namespace}
			args := append(append([]string(nil), base...), "images", "pull", "--snapshotter", "native")
			if from == nil {
				args = append(args, "--plain-http")
			} else {
				args = append(args, "--hosts-dir", hostsDir(t, from, of))
			}
			if user != "" {
				args = append(args, "--user", user)
			}
			seen := the.run(t, ctr, append(args, of.String())...)
			return seen, func(t testing.TB) {
				t.Helper()
				if list := the.run(t, ctr, append(base, "images", "ls")...).ok(t).output; !strings.Contains(list, of.digest) {
					t.Fatalf("containerd has\n%s\nwant %s", list, of.digest)
				}
				verifyWhole(t, of.digest, false, func(digest string) ([]byte, error) {
					o := the.run(t, ctr, append(base, "content", "get", digest)...)
					return o.stdout, o.err
				})
			}
		},
	}
	c.pull = func(t testing.TB, from *gate, of image) (outcome, func(testing.TB)) { return c.pullAs(t, from, of, "") }
	return c
}

// hostsDir configures containerd so that there is only the gate: its server is
// the gate too, so a refusal has nothing to fall back to.
func hostsDir(t testing.TB, g *gate, of image) string {
	t.Helper()
	dir := t.TempDir()
	host := filepath.Join(dir, of.registry.addr)
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	content := fmt.Sprintf("server = \"http://%s\"\n\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", g.addr, g.addr)
	if err := os.WriteFile(filepath.Join(host, "hosts.toml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
