package packages_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence/packages"
)

// entry makes an entry of a layer; its content follows the header.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content}
}

func executable(name, content string) entry { return mode(file(name, content), 0o755) }

func mode(e entry, m int64) entry {
	e.Mode = m
	return e
}

func dir(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}}
}

func symlink(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

func hardlink(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}}
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// stored makes a layer of bytes as a registry would have them.
func stored(b []byte) packages.Layer {
	return packages.Layer{
		Digest: digest.FromBytes(b),
		Open:   func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil },
	}
}

func layer(t testing.TB, entries ...entry) packages.Layer {
	t.Helper()
	b := archive(t, entries...)
	l := stored(b)
	l.DiffID = digest.FromBytes(b)
	return l
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstandard(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

func examine(t testing.TB, parents int, layers ...packages.Layer) *packages.Report {
	t.Helper()
	r, err := packages.Examine(context.Background(), layers, parents, packages.Limits{Spool: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// findings are a report's lists by name, those without entries left out.
func findings(r *packages.Report) string {
	var b strings.Builder
	for _, l := range []struct {
		name string
		packages.Paths
	}{
		{"modified", r.Modified}, {"missing", r.Missing}, {"conffiles", r.ModifiedConffiles}, {"unchecked", r.Unchecked},
		{"replaced", r.Replaced}, {"executables", r.UnownedExecutables}, {"setuid", r.UnownedSetuid},
	} {
		if l.Total > 0 {
			fmt.Fprintf(&b, "%s %s\n", l.name, strings.Join(l.List, " "))
		}
	}
	for _, u := range r.Upgraded {
		fmt.Fprintf(&b, "upgraded %s %s %s\n", u.Name, u.From, u.To)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func want(t testing.TB, r *packages.Report, lines ...string) {
	t.Helper()
	if got, want := findings(r), strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// deb is a package as dpkg has it once it is installed.
type deb struct {
	name, version, source string
	files                 []entry // with absolute names, as its list has them
	conffiles             []entry
}

// installed makes the database's files for some packages.
func installed(debs ...deb) []entry {
	var status strings.Builder
	var entries []entry
	for _, d := range debs {
		fmt.Fprintf(&status, "Package: %s\nStatus: install ok installed\nArchitecture: amd64\nVersion: %s\n", d.name, d.version)
		if d.source != "" {
			fmt.Fprintf(&status, "Source: %s\n", d.source)
		}
		if len(d.conffiles) > 0 {
			status.WriteString("Conffiles:\n")
		}
		var sums, list, conffiles strings.Builder
		list.WriteString("/.\n")
		for _, f := range d.conffiles {
			fmt.Fprintf(&status, " %s %s\n", f.Name, md5Of(f.content))
			fmt.Fprintln(&conffiles, f.Name)
			fmt.Fprintln(&list, f.Name)
		}
		for _, f := range d.files {
			fmt.Fprintln(&list, f.Name)
			if f.Typeflag == tar.TypeReg {
				fmt.Fprintf(&sums, "%s  %s\n", md5Of(f.content), strings.TrimPrefix(f.Name, "/"))
			}
		}
		status.WriteString("Description: a package\n of tests\n\n")
		base := "var/lib/dpkg/info/" + d.name
		entries = append(entries, file(base+".md5sums", sums.String()), file(base+".list", list.String()), file(base+".conffiles", conffiles.String()))
	}
	return append(entries, file("var/lib/dpkg/status", status.String()))
}

func md5Of(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// hello is a small package with a bit of everything.
var hello = deb{
	name: "hello", version: "2.10-3+b1", source: "hello-src (2.10-3)",
	files: []entry{
		executable("/usr/bin/hello", "#!/bin/sh\necho hello\n"),
		mode(file("/usr/bin/hello-su", "su"), 0o4755),
		file("/usr/share/doc/hello/README", "read me\n"),
		symlink("/usr/bin/hi", "hello"),
	},
	conffiles: []entry{file("/etc/hello.conf", "greeting=hello\n")},
}

// bookworm is an image with that package and nothing else.
func bookworm(debs ...deb) []entry {
	if debs == nil {
		debs = []deb{hello}
	}
	entries := []entry{
		dir("usr"), dir("usr/bin"), symlink("bin", "usr/bin"), symlink("etc/os-release", "../usr/lib/os-release"),
		file("usr/lib/os-release", "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID='12'\n"),
	}
	for _, d := range debs {
		entries = slices.Concat(entries, d.files, d.conffiles)
	}
	return slices.Concat(entries, installed(debs...))
}
