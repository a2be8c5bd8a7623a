package packages_test

import (
	"archive/tar"
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence/packages"
)

// TestDebootstrap takes a real Debian, as base images are made:
//
//	debootstrap --variant=minbase bookworm rootfs
//	tar -C rootfs --numeric-owner -cf rootfs.tar .
//	TRUSTGATE_DEBOOTSTRAP=$PWD/rootfs.tar go test ./evidence/packages/
func TestDebootstrap(t *testing.T) {
	name := os.Getenv("TRUSTGATE_DEBOOTSTRAP")
	if name == "" {
		t.Skip("TRUSTGATE_DEBOOTSTRAP names no archive of a Debian root")
	}
	debian := packages.Layer{
		Digest: digest.FromString(name),
		Open:   func(context.Context) (io.ReadCloser, error) { return os.Open(name) },
	}
	r := examine(t, 1, debian)
	// debootstrap copies these from the machine that it runs on, mode and all.
	host := func(l packages.Paths) (left []string) {
		for _, p := range l.List {
			if p != "/etc/hostname" && p != "/etc/resolv.conf" {
				left = append(left, p)
			}
		}
		return left
	}
	if r.Distribution.ID != "debian" || r.Count < 50 || r.Files < 1000 {
		t.Errorf("%s with %d packages and %d files", r.Distribution, r.Count, r.Files)
	}
	for _, p := range r.Packages {
		if p.SourceVersion == "" || !strings.HasPrefix(p.SourceURL, "https://snapshot.debian.org/package/"+p.Source+"/") {
			t.Errorf("%s %s has the source %s %s at %q", p.Name, p.Version, p.Source, p.SourceVersion, p.SourceURL)
		}
	}
	r.UnownedExecutables = packages.Paths{List: host(r.UnownedExecutables)}
	if len(r.UnownedExecutables.List) > 0 {
		t.Errorf("executables of nobody: %q", r.UnownedExecutables.List)
	}
	want(t, r)

	was := contents(t, name, "usr/bin/passwd", "usr/bin/sort", "usr/bin/bash", "bin/bash", "etc/bash.bashrc", "var/lib/dpkg/info/coreutils.md5sums")
	bash := was["usr/bin/bash"] + was["bin/bash"]
	record := strings.Replace(was["var/lib/dpkg/info/coreutils.md5sums"], md5Of(was["usr/bin/sort"]), md5Of(was["usr/bin/sort"]+"!"), 1)
	r = examine(t, 1, debian, layer(t,
		mode(file("usr/bin/passwd", was["usr/bin/passwd"]+"!"), 0o4755),
		file("usr/bin/.wh.tac", ""),
		executable("usr/bin/sort", was["usr/bin/sort"]+"!"), file("var/lib/dpkg/info/coreutils.md5sums", record),
		mode(file("bin/bash", bash), 0o4755),
		file("etc/bash.bashrc", was["etc/bash.bashrc"]+"!"),
		mode(file("usr/local/bin/root", bash), 0o4755),
	))
	r.UnownedExecutables = packages.Paths{Total: 1, List: host(r.UnownedExecutables)}
	want(t, r,
		"modified /usr/bin/passwd",
		"missing /usr/bin/tac",
		"conffiles /etc/bash.bashrc",
		"replaced /usr/bin/bash /usr/bin/passwd /usr/bin/sort",
		"executables /usr/local/bin/root",
		"setuid /usr/local/bin/root",
	)
}

// contents reads some files of an archive that is not compressed.
func contents(t *testing.T, name string, files ...string) map[string]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := map[string]string{}
	for archive := tar.NewReader(f); ; {
		h, err := archive.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range files {
			if strings.TrimPrefix(h.Name, "./") != want {
				continue
			}
			b, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			found[want] = string(b)
		}
	}
}
