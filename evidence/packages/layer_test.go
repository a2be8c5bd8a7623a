package packages_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence/packages"
)

// TestLayers has executables that belong to nobody say which files there are.
func TestLayers(t *testing.T) {
	x := func(name string) entry { return executable(name, name) }
	for _, tc := range []struct {
		name   string
		layers [][]entry
		want   string
	}{
		{"a later layer adds", [][]entry{{x("a")}, {x("b")}}, "/a /b"},
		{"a later layer replaces", [][]entry{{x("a")}, {file("a", "")}}, ""},
		{"a whiteout hides a file", [][]entry{{x("d/a"), x("d/b")}, {file("d/.wh.a", "")}}, "/d/b"},
		{"a whiteout hides a folder", [][]entry{{x("d/a"), x("d/e/b"), x("f")}, {file(".wh.d", "")}}, "/f"},
		{"a whiteout spares its own layer, before", [][]entry{{x("d/a")}, {x("d/b"), file(".wh.d", "")}}, "/d/b"},
		{"a whiteout spares its own layer, after", [][]entry{{x("d/a")}, {file(".wh.d", ""), x("d/b")}}, "/d/b"},
		{"a whiteout does not reach later layers", [][]entry{{x("a")}, {file(".wh.a", "")}, {x("a")}}, "/a"},
		{"a whiteout of nothing that is there", [][]entry{{x("a")}, {file("d/.wh.b", "")}}, "/a"},
		{"a whiteout below a linked folder", [][]entry{{x("usr/bin/a"), symlink("bin", "usr/bin")}, {file("bin/.wh.a", "")}}, ""},
		{"an opaque folder, at first", [][]entry{{x("d/a"), x("d/e/b")}, {dir("d"), file("d/.wh..wh..opq", ""), x("d/c")}}, "/d/c"},
		{"an opaque folder, at last", [][]entry{{x("d/a"), x("d/e/b")}, {dir("d"), x("d/e/c"), file("d/.wh..wh..opq", "")}}, "/d/e/c"},
		{"an opaque root", [][]entry{{x("a")}, {file(".wh..wh..opq", ""), x("b")}}, "/b"},
		{"opaque in two layers", [][]entry{{x("d/a")}, {file("d/.wh..wh..opq", ""), x("d/b")}, {file("d/.wh..wh..opq", ""), x("d/c")}}, "/d/c"},
		{"a file takes the place of a folder", [][]entry{{x("d/a")}, {x("d")}}, "/d"},
		{"a folder takes the place of a file", [][]entry{{x("d")}, {dir("d"), x("d/a")}}, "/d/a"},
		{"a folder that is only implied does so too", [][]entry{{x("d")}, {x("d/a")}}, "/d/a"},
		{"a link takes the place of a folder", [][]entry{{x("d/a"), x("e/b")}, {symlink("d", "e")}}, "/e/b"},
		{"a folder keeps what is in it", [][]entry{{x("d/a")}, {dir("d")}}, "/d/a"},
		{"a file through a linked folder", [][]entry{{dir("usr/bin"), symlink("bin", "usr/bin")}, {x("bin/a")}}, "/usr/bin/a"},
		{"a file through a link to nowhere yet", [][]entry{{symlink("var/run", "/run")}, {x("var/run/a")}}, "/run/a"},
		{"a link to the root", [][]entry{{symlink("a/b", ".."), x("a/b/c")}}, "/c"},
		{"a link whose target climbs after another", [][]entry{{symlink("a/b", "/x"), dir("x"), symlink("a/c", "b/../../y"), x("a/c/z")}}, "/y/z"},
		{"hard links", [][]entry{{x("a"), hardlink("b", "a")}, {hardlink("c", "/a"), file(".wh.a", "")}}, "/b /c"},
		{"a hard link to a lower layer's file", [][]entry{{x("d/a")}, {hardlink("d/b", "d/a"), file("d/.wh..wh..opq", "")}}, "/d/b"},
		{"absolute names", [][]entry{{x("/a"), x("./b")}}, "/a /b"},
		{"what AUFS left", [][]entry{{x(".wh..wh.plnk/12.3"), dir(".wh..wh.orph"), x("a")}}, "/a"},
		{"the same name twice", [][]entry{{x("a"), file("a", ""), x("b"), x("b")}}, "/b"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var layers []packages.Layer
			for _, l := range tc.layers {
				layers = append(layers, layer(t, l...))
			}
			if tc.want != "" {
				want(t, examine(t, 0, layers...), "executables "+tc.want)
			} else {
				want(t, examine(t, 0, layers...))
			}
		})
	}
}

func TestCompression(t *testing.T) {
	b := archive(t, bookworm()...)
	for name, form := range map[string][]byte{
		"none": b, "gzip": gzipped(t, b), "zstd": zstandard(t, b),
		"gzip in two members": append(gzipped(t, b[:5000]), gzipped(t, b[5000:])...),
	} {
		t.Run(name, func(t *testing.T) {
			l := stored(form)
			l.DiffID = digest.FromBytes(b)
			r := examine(t, 0, l)
			want(t, r)
			if r.Count != 1 || r.Bytes != int64(len(b)) {
				t.Errorf("%d packages in %d bytes, not in %d", r.Count, r.Bytes, len(b))
			}
		})
	}
	t.Run("an empty layer", func(t *testing.T) {
		want(t, examine(t, 0, stored(nil), stored(gzipped(t, nil)), layer(t)))
	})
	t.Run("a diff ID in SHA-512", func(t *testing.T) {
		l := stored(gzipped(t, b))
		l.DiffID = digest.SHA512.FromBytes(b)
		want(t, examine(t, 0, l))
	})
}

func TestParents(t *testing.T) {
	parent := bookworm()
	newer := hello
	newer.version = "2.10-4"
	newer.files = append([]entry{executable("/usr/bin/hello", "#!/bin/sh\necho hello, world\n")}, hello.files[1:]...)
	evil := hello
	evil.files = append([]entry{executable("/usr/bin/hello", "evil")}, hello.files[1:]...)

	for _, tc := range []struct {
		name  string
		child []entry
		want  []string
	}{
		{"nothing on top", []entry{executable("app", "x")}, []string{"executables /app"}},
		{"a changed file", []entry{executable("usr/bin/hello", "evil")}, []string{"modified /usr/bin/hello", "replaced /usr/bin/hello"}},
		{"a changed file whose record was changed as well", slices.Concat(evil.files[:1], installed(evil)), []string{"replaced /usr/bin/hello"}},
		{"a file that became setuid", []entry{mode(hello.files[0], 0o4755)}, []string{"replaced /usr/bin/hello"}},
		{"a link to something else", []entry{executable("opt/evil", "evil"), symlink("usr/bin/hello", "/opt/evil")},
			[]string{"modified /usr/bin/hello", "replaced /usr/bin/hello", "executables /opt/evil"}},
		{"a folder swapped for one with other files", []entry{
			file("usr/.wh.bin", ""), executable("opt/bin/hello", "evil"), mode(file("opt/bin/hello-su", "su"), 0o4755), symlink("usr/bin", "../opt/bin"), symlink("opt/bin/hi", "hello"),
		}, []string{"modified /opt/bin/hello", "replaced /usr/bin/hello"}},
		{"the same file again", []entry{hello.files[0]}, nil},
		{"a changed conffile", []entry{file("etc/hello.conf", "x")}, []string{"conffiles /etc/hello.conf"}},
		{"a removed file", []entry{file("usr/bin/.wh.hello", "")}, []string{"missing /usr/bin/hello"}},
		{"an upgrade", slices.Concat(newer.files, installed(newer)), []string{"upgraded hello 2.10-3+b1 2.10-4"}},
		{"an upgrade that does not fit its record", slices.Concat(newer.files, installed(newer), evil.files[:1]),
			[]string{"modified /usr/bin/hello", "replaced /usr/bin/hello", "upgraded hello 2.10-3+b1 2.10-4"}},
		{"a removed package", []entry{
			file("var/lib/dpkg/status", "\n"), file("usr/bin/.wh.hello", ""), file("usr/bin/.wh.hello-su", ""),
			file("usr/share/.wh.doc", ""), file("var/lib/dpkg/.wh.info", ""),
		}, []string{"upgraded hello 2.10-3+b1 "}},
		{"a removed package whose place is taken", []entry{file("var/lib/dpkg/status", "\n"), executable("usr/bin/hello", "evil")},
			[]string{"replaced /usr/bin/hello", "executables /usr/bin/hello /usr/bin/hello-su", "setuid /usr/bin/hello-su", "upgraded hello 2.10-3+b1 "}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want(t, examine(t, 1, layer(t, parent...), layer(t, tc.child...)), tc.want...)
		})
	}
	t.Run("all layers are the parent's", func(t *testing.T) {
		want(t, examine(t, 2, layer(t, parent...), layer(t, executable("usr/bin/hello", "evil"))), "modified /usr/bin/hello")
	})
	t.Run("the merge of /bin and /usr/bin in a later layer", func(t *testing.T) {
		old := []entry{executable("bin/ls", "ls"), file("bin/sh", "sh")}
		d := deb{name: "old", version: "1", files: []entry{executable("/bin/ls", "ls"), file("/bin/sh", "sh")}}
		r := examine(t, 1, layer(t, append(old, installed(d)...)...),
			layer(t, file(".wh.bin", ""), executable("usr/bin/ls", "ls"), file("usr/bin/sh", "evil"), symlink("bin", "usr/bin")))
		want(t, r, "modified /usr/bin/sh", "replaced /bin/sh")
	})
	t.Run("more parents than layers", func(t *testing.T) {
		if r, err := packages.Examine(context.Background(), nil, 1, packages.Limits{}); err == nil {
			t.Errorf("got %+v", r)
		}
	})
}

func TestDatabasesThatLayersReplaceAreNotCounted(t *testing.T) {
	status := file("var/lib/dpkg/status", strings.Repeat("\n", 600))
	layers := []packages.Layer{layer(t, status), layer(t, status), layer(t, status)}
	if _, err := packages.Examine(context.Background(), layers, 0, packages.Limits{Database: 1000}); err != nil {
		t.Error(err)
	}
}

func TestListsAreBounded(t *testing.T) {
	var image []entry
	for _, i := range rand.Perm(600) {
		image = append(image, mode(file(string(rune('a'+i/26))+string(rune('a'+i%26)), "x"), 0o4755))
	}
	r, err := packages.Examine(context.Background(), []packages.Layer{layer(t, image...)}, 0, packages.Limits{List: 3})
	if err != nil {
		t.Fatal(err)
	}
	if l := r.UnownedSetuid; l.Total != 600 || !slices.Equal(l.List, []string{"/aa", "/ab", "/ac"}) || !r.Truncated {
		t.Errorf("got %+v, truncated %t", l, r.Truncated)
	}
}

// zeros streams an archive with one file of n zeros, and counts what is read.
func zeros(t testing.TB, n int64) packages.Layer {
	t.Helper()
	e := file("zeros", "")
	head := archive(t, e)[:512]
	copy(head, headOf(t, n))
	return packages.Layer{
		Digest: digest.FromString("zeros"),
		Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(head), io.LimitReader(zero{}, n+1024))), nil
		},
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestMemoryDoesNotGrowWithTheStream(t *testing.T) {
	allocated := func(n int64) uint64 {
		l, spool := zeros(t, n), t.TempDir()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := packages.Examine(context.Background(), []packages.Layer{l}, 0, packages.Limits{Spool: spool})
		runtime.ReadMemStats(&after)
		if err != nil || r.Files != 1 || r.Bytes < n {
			t.Fatalf("got %+v, %v", r, err)
		}
		return after.TotalAlloc - before.TotalAlloc
	}
	small, large := allocated(1<<20), allocated(64<<20)
	if large > small+(256<<10) || large > 2<<20 {
		t.Errorf("%d bytes for a megabyte, %d bytes for 64", small, large)
	}
}

func BenchmarkExamine(b *testing.B) {
	const size = 64 << 20
	l := zeros(b, size)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := packages.Examine(context.Background(), []packages.Layer{l}, 0, packages.Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestErrorsOfTheRegistryStayWhatTheyAre(t *testing.T) {
	gone := errors.New("the upstream hung up")
	for name, l := range map[string]packages.Layer{
		"at the start": {Open: func(context.Context) (io.ReadCloser, error) { return nil, gone }},
		"half way": {Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(archive(t, bookworm()...)[:2000]), broken{gone})), nil
		}},
		"after the first bytes of gzip": {Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(gzipped(t, nil)[:8]), broken{gone})), nil
		}},
		"half way through gzip": {Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(gzipped(t, archive(t, bookworm()...))[:200]), broken{gone})), nil
		}},
		"half way through zstd": {Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(zstandard(t, archive(t, bookworm()...))[:200]), broken{gone})), nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := packages.Examine(context.Background(), []packages.Layer{l}, 0, packages.Limits{})
			if !errors.Is(err, gone) || errors.Is(err, packages.ErrArchive) {
				t.Errorf("got %+v, %v", r, err)
			}
		})
	}
	t.Run("a context that ends", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(gone)
		if r, err := packages.Examine(ctx, []packages.Layer{layer(t)}, 0, packages.Limits{}); !errors.Is(err, gone) {
			t.Errorf("got %+v, %v", r, err)
		}
	})
}

type broken struct{ error }

func (b broken) Read([]byte) (int, error) { return 0, b.error }
