package packages_test

import (
	"archive/tar"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/evidence/packages"
)

// fuzzed examines what a fuzzer made and holds the answer to what is true of
// every one.
func fuzzed(t *testing.T, parents int, layers ...packages.Layer) *packages.Report {
	t.Helper()
	r, err := packages.Examine(context.Background(), layers, parents, packages.Limits{
		Bytes: 1 << 20, Files: 1000, Database: 64 << 10, List: 8, Packages: 8,
	})
	if err != nil {
		if r != nil || !errors.Is(err, packages.ErrArchive) && !errors.Is(err, packages.ErrLimit) && !errors.Is(err, packages.ErrDatabase) {
			t.Fatalf("got %+v, %v", r, err)
		}
		return nil
	}
	for _, l := range []packages.Paths{r.Modified, r.Missing, r.ModifiedConffiles, r.Unchecked, r.Replaced, r.UnownedExecutables, r.UnownedSetuid} {
		if len(l.List) > 8 || len(l.List) > l.Total {
			t.Fatalf("%d of %d", len(l.List), l.Total)
		}
		for _, p := range l.List {
			if !strings.HasPrefix(p, "/") && !strings.HasPrefix(p, `"/`) || strings.ContainsAny(p, "\n\x1b\x00") {
				t.Fatalf("the path %q", p)
			}
		}
	}
	if r.Count < len(r.Packages) || len(r.Packages) > 8 {
		t.Fatalf("%d packages of %d", len(r.Packages), r.Count)
	}
	return r
}

func FuzzArchive(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add(archive(f, bookworm()...), archive(f, file("usr/.wh.bin", ""), file(".wh..wh..opq", "")))
	f.Add(gzipped(f, archive(f, alpine()...)), zstandard(f, archive(f, hardlink("a", "bin/sh"), symlink("etc", "bin"))))
	f.Add(sparse(f, 4096), archive(f, withXattr(file("holes", ""), "user.x"), symlink("a", "a"), file("a/b", "")))
	f.Add(archive(f, entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null"}}), typedGlobal(f))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		fuzzed(t, 1, stored(lower), stored(upper))
	})
}

// typedGlobal is an archive with a global header, as git writes it.
func typedGlobal(f *testing.F) []byte {
	return archive(f, entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}})
}

func FuzzDpkgStatus(f *testing.F) {
	image := bookworm()
	f.Add(image[len(image)-1].content)
	f.Add("Package: hello\nStatus: install ok installed\nConffiles:\n /etc/hello.conf newconffile\n /x 0 obsolete\n\n\nPackage:\n")
	f.Add("Package: a\nStatus: deinstall ok config-files\nSource: b ()\nConffiles:\n /etc/x d41d8cd98f00b204e9800998ecf8427e\n")
	f.Fuzz(func(t *testing.T, status string) {
		fuzzed(t, 1, layer(t, append(bookworm(), file("var/lib/dpkg/status", status), file("var/lib/dpkg/status.d/a", status))...), layer(t))
	})
}

func FuzzMD5Sums(f *testing.F) {
	f.Add(md5Of("x")+"  usr/bin/hello\n", "/.\n/usr/bin\n/usr/bin/hello\n", "/usr/bin/hello\n/usr/bin/hi\nother\n")
	f.Add(`\`+md5Of("x")+`  usr/a\\b\nc`+"\n"+md5Of("y")+" *./x", "relative", "")
	f.Add("", "/../..\n//\n", "/\n\n\n")
	f.Fuzz(func(t *testing.T, sums, list, diversions string) {
		fuzzed(t, 1, layer(t, append(bookworm(), file("var/lib/dpkg/info/hello.md5sums", sums), file("var/lib/dpkg/info/hello.list", list),
			file("var/lib/dpkg/info/hello.conffiles", list), file("var/lib/dpkg/diversions", diversions), file("etc/dpkg/dpkg.cfg", sums))...),
			layer(t, file("usr/bin/hello", "x")))
	})
}

func FuzzApkInstalled(f *testing.F) {
	image := alpine()
	f.Add(image[len(image)-1].content)
	f.Add("P:a\nF:\nR:x\nZ:Q2" + strings.Repeat("A", 43) + "=\nR:y\nZ:" + md5Of("y") + "\nP:b\n")
	f.Add("P:a\nF:../..\nR:../x\na:::7\n\n\nP:")
	f.Fuzz(func(t *testing.T, installed string) {
		fuzzed(t, 1, layer(t, append(alpine(), file("lib/apk/db/installed", installed))...), layer(t))
	})
}

func FuzzOSRelease(f *testing.F) {
	f.Add("ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME='x'\n")
	f.Add("ID=\"\\\"\\\nVERSION_ID")
	f.Fuzz(func(t *testing.T, release string) {
		r := fuzzed(t, 0, layer(t, file("etc/os-release", release)))
		if r != nil && len(r.Distribution.ID)+len(r.Distribution.VersionID)+len(r.Distribution.PrettyName) > 3*1024 {
			t.Fatalf("got %+v", r.Distribution)
		}
	})
}
