package packages_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence/packages"
)

// headOf is the header of a file of n bytes.
func headOf(t testing.TB, n int64) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Mode: 0o644, Size: n}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sparse is an archive of 3 KiB with one file of n bytes, all of them a hole,
// in the form of PAX 1.0.
//
// https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html
func sparse(t testing.TB, n int64) []byte {
	t.Helper()
	record := func(key, value string) string {
		for size := len(key) + len(value) + 3; ; size++ {
			if s := fmt.Sprintf("%d %s=%s\n", size, key, value); len(s) == size {
				return s
			}
		}
	}
	records := record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.name", "holes") +
		record("GNU.sparse.realsize", fmt.Sprint(n))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "PaxHeaders/holes", Size: int64(len(records)), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, records)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "holes", Size: 512, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, fmt.Sprintf("%-512s", "1\n"+fmt.Sprint(n)+"\n0\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out := bytes.Clone(b.Bytes())
	out[156] = tar.TypeXHeader
	sum(out[:512])
	return out
}

// sum writes a header's checksum.
func sum(head []byte) {
	copy(head[148:156], "        ")
	n := 0
	for _, b := range head {
		n += int(b)
	}
	copy(head[148:156], fmt.Sprintf("%06o\x00 ", n))
}

// bomb is n megabytes of zeros after an archive, in zstd.
func bomb(t testing.TB, megabytes int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(headOf(t, int64(megabytes)<<20))
	for range megabytes {
		w.Write(make([]byte, 1<<20))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHostileArchives(t *testing.T) {
	typed := func(flag byte, size int64) []byte {
		b := append(headOf(t, size), make([]byte, size+1024)...)
		b[156] = flag
		sum(b[:512])
		return b
	}
	deep := strings.Repeat("d/", 2000) + "f"
	var manyLinks []entry
	for i := range 50 {
		manyLinks = append(manyLinks, symlink(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d", i+1)))
	}
	for _, tc := range []struct {
		name   string
		layer  []byte
		limits packages.Limits
		is     error
		says   string
	}{
		{"a name with ..", archive(t, file("a/../../etc/passwd", "x")), packages.Limits{}, packages.ErrArchive, `".."`},
		{"a folder ..", archive(t, dir("..")), packages.Limits{}, packages.ErrArchive, `".."`},
		{"a whiteout with ..", archive(t, file("../.wh.etc", "")), packages.Limits{}, packages.ErrArchive, `".."`},
		{"a whiteout of ..", archive(t, file(".wh...", "")), packages.Limits{}, packages.ErrArchive, "whiteout of nothing"},
		{"a whiteout of nothing", archive(t, file("a/.wh.", "")), packages.Limits{}, packages.ErrArchive, "whiteout of nothing"},
		{"a file below a whiteout", archive(t, file("a/.wh.b/c", "")), packages.Limits{}, packages.ErrArchive, "below a whiteout"},
		{"a hard link with ..", archive(t, file("a", ""), hardlink("b", "../a")), packages.Limits{}, packages.ErrArchive, `".."`},
		{"a hard link to nothing", archive(t, hardlink("b", "a")), packages.Limits{}, packages.ErrArchive, "no file"},
		{"a hard link to a folder", archive(t, dir("a"), hardlink("b", "a")), packages.Limits{}, packages.ErrArchive, "no file"},
		{"a link out of the image", archive(t, symlink("a/b", "../../etc")), packages.Limits{}, packages.ErrArchive, "out of the image"},
		{"an absolute link out of the image", archive(t, symlink("a/b", "/../etc")), packages.Limits{}, packages.ErrArchive, "out of the image"},
		{"a link to nothing", archive(t, symlink("a", "")), packages.Limits{}, packages.ErrArchive, "without a target"},
		{"links in a circle", archive(t, symlink("a", "b"), symlink("b", "a"), file("a/c", "")), packages.Limits{}, packages.ErrArchive, "circles"},
		{"a chain of links", archive(t, append(manyLinks, file("l0/x", ""))...), packages.Limits{}, packages.ErrArchive, "circles"},
		{"a name of 300 bytes", archive(t, file(strings.Repeat("n", 300), "")), packages.Limits{}, packages.ErrArchive, "more than 255"},
		{"a path of 5000 bytes", archive(t, file(strings.Repeat("nnnn/", 1000)+"n", "")), packages.Limits{}, packages.ErrArchive, "no file system"},
		{"the root as a file", archive(t, file(".", "x")), packages.Limits{}, packages.ErrArchive, "root"},
		{"an attribute of overlayfs", archive(t, withXattr(file("a", ""), "trusted.overlay.redirect")), packages.Limits{}, packages.ErrArchive, "overlay"},
		{"an entry of an unknown type", typed('Z', 0), packages.Limits{}, packages.ErrArchive, "type"},
		{"a contiguous file", typed(tar.TypeCont, 0), packages.Limits{}, packages.ErrArchive, "type"},
		{"a huge header", archive(t, withXattr(file("a", ""), "user."+strings.Repeat("x", 80<<10))), packages.Limits{Header: 64 << 10}, packages.ErrArchive, "header"},
		{"headers without end", bytes.Repeat(archive(t, withXattr(file("a", ""), "user.x"))[:1024], 3000), packages.Limits{Header: 64 << 10}, packages.ErrArchive, "header"},
		{"a header beyond tar's own bound", typed(tar.TypeXHeader, 3<<20), packages.Limits{Header: 8 << 20}, packages.ErrArchive, "header"},
		{"a whiteout with content", archive(t, file(".wh.a", strings.Repeat("x", 2<<20))), packages.Limits{}, packages.ErrArchive, "header"},
		{"a file that ends early", archive(t, file("a", strings.Repeat("x", 5000)))[:3000], packages.Limits{}, packages.ErrArchive, "unexpected EOF"},
		{"no archive", bytes.Repeat([]byte("x"), 4096), packages.Limits{}, packages.ErrArchive, "header"},
		{"gzip that breaks off", gzipped(t, archive(t, bookworm()...))[:300], packages.Limits{}, packages.ErrArchive, "unexpected EOF"},
		{"gzip with a wrong checksum", flipped(gzipped(t, archive(t)), -6), packages.Limits{}, packages.ErrArchive, "checksum"},
		{"bytes after gzip", append(gzipped(t, archive(t)), "garbage"...), packages.Limits{}, packages.ErrArchive, ""},
		{"xz", []byte("\xfd7zXZ\x00 and so on"), packages.Limits{}, packages.ErrArchive, "xz"},
		{"zstd with a huge window", []byte("\x28\xb5\x2f\xfd\x00\xb8\x01\x00\x00\x00\x00\x00"), packages.Limits{}, packages.ErrArchive, "window"},
		{"a bomb by its absolute size", bomb(t, 4), packages.Limits{Bytes: 1 << 20}, packages.ErrLimit, "1048576"},
		{"a bomb after the archive's end", zstandard(t, append(archive(t), make([]byte, 4<<20)...)), packages.Limits{Bytes: 1 << 20}, packages.ErrLimit, "1048576"},
		{"a bomb by its ratio", bomb(t, 80), packages.Limits{}, packages.ErrArchive, "grow"},
		{"a sparse bomb by its absolute size", sparse(t, 1<<40), packages.Limits{Bytes: 1 << 20}, packages.ErrLimit, "1048576"},
		{"a sparse bomb by its ratio", sparse(t, 1<<40), packages.Limits{}, packages.ErrArchive, "grow"},
		{"too many files", archive(t, file("a", ""), file("b/c", ""), file("d", "")), packages.Limits{Files: 3}, packages.ErrLimit, "files"},
		{"too many folders that are only implied", archive(t, file(deep, "")), packages.Limits{Files: 1000}, packages.ErrLimit, "files"},
		{"too large a database", archive(t, file("var/lib/dpkg/status", strings.Repeat("x\n", 600))), packages.Limits{Database: 1000}, packages.ErrLimit, "databases"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := stored(tc.layer)
			spool := t.TempDir()
			tc.limits.Spool = spool
			r, err := packages.Examine(context.Background(), []packages.Layer{layer(t), l}, 0, tc.limits)
			if !errors.Is(err, tc.is) || !strings.Contains(fmt.Sprint(err), tc.says) {
				t.Fatalf("got %+v, %v", r, err)
			}
			if !strings.Contains(err.Error(), "layer 2 of 2 ("+l.Digest.String()) {
				t.Errorf("the error does not name the layer: %v", err)
			}
			if left, err := os.ReadDir(spool); err != nil || len(left) > 0 {
				t.Errorf("it left %v behind, %v", left, err)
			}
		})
	}
	t.Run("a layer that is not what the config says", func(t *testing.T) {
		l := layer(t, file("a", ""))
		l.DiffID = digest.FromString("another")
		if r, err := packages.Examine(context.Background(), []packages.Layer{l}, 0, packages.Limits{}); !errors.Is(err, packages.ErrArchive) {
			t.Errorf("got %+v, %v", r, err)
		}
	})
	t.Run("an encrypted layer", func(t *testing.T) {
		l := layer(t, file("a", ""))
		l.MediaType = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
		if r, err := packages.Examine(context.Background(), []packages.Layer{l}, 0, packages.Limits{}); !errors.Is(err, packages.ErrArchive) {
			t.Errorf("got %+v, %v", r, err)
		}
	})
	t.Run("a layer that never ends", func(t *testing.T) {
		l := packages.Layer{Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(headOf(t, 1<<40)), zero{})), nil
		}}
		r, err := packages.Examine(context.Background(), []packages.Layer{l}, 0, packages.Limits{Duration: 20 * time.Millisecond, Bytes: 1 << 50})
		if !errors.Is(err, packages.ErrLimit) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %+v, %v", r, err)
		}
	})
}

// flipped changes one byte, counted from the end when negative.
func flipped(b []byte, at int) []byte {
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0xff
	return b
}

func TestHostileDatabases(t *testing.T) {
	status := func(s string) entry { return file("var/lib/dpkg/status", s) }
	const ok = "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n"
	for _, tc := range []struct {
		name    string
		entries []entry
		says    string
	}{
		{"a status that is no list of fields", []entry{status("nonsense\n")}, "without a field"},
		{"a package without a status", []entry{status("Package: a\nVersion: 1\n")}, "status"},
		{"a package that leads elsewhere", []entry{status(strings.ReplaceAll(ok, "Package: a", "Package: ../../x"))}, "name"},
		{"a line without end", []entry{status(ok + "Depends: " + strings.Repeat("x", 1<<20))}, "too long"},
		{"digests that are none", []entry{status(ok), file("var/lib/dpkg/info/a.md5sums", "zz  usr/bin/a\n")}, "md5sum"},
		{"a status that is a link to elsewhere", []entry{symlink("var/lib/dpkg/status", "/opt/status"), file("opt/status", ok)}, "usual place"},
		{"a folder of lists that is a link", []entry{status(ok), symlink("var/lib/dpkg/info", "/opt"), file("opt/a.md5sums", "")}, "usual place"},
		{"too many patterns", []entry{status(ok), file("etc/dpkg/dpkg.cfg", strings.Repeat("path-exclude=/x\n", 300))}, "patterns"},
		{"a list of apk that is none", []entry{file("lib/apk/db/installed", "P:a\nnonsense\n")}, "field"},
		{"files before a package", []entry{file("lib/apk/db/installed", "F:bin\nR:sh\n")}, "before"},
		{"a digest that is none", []entry{file("lib/apk/db/installed", "P:a\nF:bin\nR:sh\nZ:Q1###\n")}, "digest"},
		{"a digest that is too short", []entry{file("lib/apk/db/installed", "P:a\nF:bin\nR:sh\nZ:Q1YWJj\n")}, "digest"},
		{"attributes that are none", []entry{file("lib/apk/db/installed", "P:a\nF:bin\nR:sh\na:0:0:zzz\n")}, "attributes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := packages.Examine(context.Background(), []packages.Layer{layer(t, tc.entries...)}, 0, packages.Limits{})
			if !errors.Is(err, packages.ErrDatabase) || !strings.Contains(fmt.Sprint(err), tc.says) {
				t.Errorf("got %+v, %v", r, err)
			}
		})
	}
}
