package packages_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/trustgate/trustgate/evidence/packages"
)

// database is one of the real databases that the package rpmdb has for its
// tests.
func database(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("internal/rpmdb/testdata/" + name + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// el9 has the files of hello.spec and libs.spec.
func el9(database ...entry) []entry {
	return append([]entry{
		file("etc/os-release", "ID=\"centos\"\nVERSION_ID=\"9\"\n"),
		executable("usr/bin/hello", "#!/bin/sh\necho hello\n"), mode(file("usr/bin/hello-su", "suid\n"), 0o4755),
		symlink("usr/bin/hi", "hello"), file("etc/hello.conf", "greeting=hello\n"),
		file("usr/share/doc/hello/README", "read me\n"), file("usr/lib/hello/state", "changes\n"),
		file("usr/lib/libtg.so.0", "library\n"),
	}, database...)
}

func TestRPM(t *testing.T) {
	for _, db := range []struct {
		name string
		el9  []entry
	}{
		{"SQLite", el9(file("var/lib/rpm/rpmdb.sqlite", database(t, "rpmdb.sqlite")))},
		{"Berkeley DB", el9(file("var/lib/rpm/Packages", database(t, "Packages")))},
		{"SQLite in the new place", el9(
			symlink("var/lib/rpm", "../../usr/lib/sysimage/rpm"), file("usr/lib/sysimage/rpm/rpmdb.sqlite", database(t, "rpmdb.sqlite")))},
	} {
		for _, tc := range []struct {
			name   string
			change []entry
			want   []string
		}{
			{"untouched", nil, nil},
			{"a changed file", []entry{executable("usr/bin/hello", "evil")}, []string{"modified /usr/bin/hello"}},
			{"a link to elsewhere", []entry{symlink("usr/bin/hi", "/tmp/hi")}, []string{"modified /usr/bin/hi"}},
			{"a link that became a file", []entry{file("usr/bin/hi", "x")}, []string{"modified /usr/bin/hi"}},
			{"a file that became setuid", []entry{mode(file("usr/bin/hello", "#!/bin/sh\necho hello\n"), 0o4755)}, []string{"modified /usr/bin/hello"}},
			{"a changed configuration file", []entry{file("etc/hello.conf", "x")}, []string{"conffiles /etc/hello.conf"}},
			{"a ghost appears", []entry{file("var/log/hello.log", "x")}, nil},
		} {
			t.Run(db.name+", "+tc.name, func(t *testing.T) {
				r := examine(t, 0, layer(t, slices.Concat(db.el9, tc.change)...))
				unchecked := "unchecked /usr/lib/hello/state"
				if tc.name == "a ghost appears" {
					unchecked += " /var/log/hello.log"
				}
				want(t, r, append(tc.want, unchecked)...)
			})
		}
	}
}

func TestRPMPackages(t *testing.T) {
	r := examine(t, 0, layer(t, el9(file("usr/lib/sysimage/rpm/rpmdb.sqlite", database(t, "rpmdb.sqlite")))...))
	if r.Count != 2 || !slices.Equal(r.Managers, []string{packages.ManagerRPM}) {
		t.Fatalf("got %+v", r)
	}
	p := r.Packages[0]
	if p.Name != "tg-hello" || p.Version != "1:2.12-3.el9" || p.Arch != "noarch" || p.Source != "tg-hello" || p.SourceVersion != "2.12-3.el9" ||
		!slices.Equal(p.Licences, []string{"GPL-3.0-or-later AND MIT"}) {
		t.Errorf("got %+v", p)
	}
	if p.SourceURL != "https://gitlab.com/redhat/centos-stream/rpms/tg-hello/-/tree/c9s" {
		t.Errorf("source %s", p.SourceURL)
	}
}

func TestRPMDigestsInMD5(t *testing.T) {
	image := el9(file("var/lib/rpm/Packages", database(t, "Packages-md5")))
	// tg-libs is not in this one, and its file says nothing about itself.
	want(t, examine(t, 0, layer(t, image...)), "unchecked /usr/lib/hello/state")
	image = append(image, executable("usr/bin/hello", "evil"))
	want(t, examine(t, 0, layer(t, image...)), "modified /usr/bin/hello", "unchecked /usr/lib/hello/state")
}

// TestRPMLog has a package removed in the write-ahead log alone, as an image
// has it whose build was cut short.
func TestRPMLog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "rpmdb.sqlite")
	if err := os.WriteFile(name, []byte(database(t, "rpmdb.sqlite")), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", name)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, q := range []string{"PRAGMA journal_mode = wal", "PRAGMA wal_autocheckpoint = 0", "DELETE FROM Packages WHERE hnum = 1"} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	main, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(name + "-wal")
	if err != nil || len(log) == 0 {
		t.Fatalf("a log of %d bytes, %v", len(log), err)
	}
	const at = "var/lib/rpm/rpmdb.sqlite"
	withLog := layer(t, el9(file(at, string(main)), file(at+"-wal", string(log)))...)
	if r := examine(t, 1, withLog); r.Count != 1 || r.Packages[0].Name != "tg-hello" {
		t.Errorf("with its log: %+v", r.Packages)
	}
	r := examine(t, 1, withLog, layer(t, file("var/lib/rpm/.wh.rpmdb.sqlite-wal", "")))
	if r.Count != 2 {
		t.Errorf("after the log was removed: %+v", r.Packages)
	}
}

func TestRPMWhoseOldFileHasAnotherName(t *testing.T) {
	layers := []packages.Layer{
		layer(t, file("var/lib/rpm/Packages", database(t, "Packages")), hardlink("usr/share/rpm/Packages", "var/lib/rpm/Packages")),
		layer(t, file("var/lib/rpm/Packages", database(t, "Packages-md5"))),
	}
	if r := examine(t, 0, layers[:1]...); r.Count != 2 {
		t.Errorf("one database with two names has %d packages", r.Count)
	}
	r, err := packages.Examine(context.Background(), layers, 0, packages.Limits{})
	if !errors.Is(err, packages.ErrDatabase) || !strings.Contains(err.Error(), "/usr/share/rpm/Packages") {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestRPMThatCannotBeRead(t *testing.T) {
	for name, tc := range map[string]struct {
		entries []entry
		says    string
	}{
		"an unknown form":       {[]entry{file("var/lib/rpm/Packages", strings.Repeat("x", 4096))}, "neither SQLite, NDB nor a Berkeley DB"},
		"LMDB":                  {[]entry{file("var/lib/rpm/data.mdb", "x")}, "LMDB"},
		"empty":                 {[]entry{file("var/lib/rpm/rpmdb.sqlite", "")}, "0 bytes"},
		"cut short":             {[]entry{file("var/lib/rpm/rpmdb.sqlite", database(t, "rpmdb.sqlite")[:8192])}, "rpmdb.sqlite"},
		"a link to elsewhere":   {[]entry{file("opt/db", "x"), symlink("var/lib/rpm/rpmdb.sqlite", "/opt/db")}, "usual place"},
		"a hard link elsewhere": {[]entry{file("opt/db", "x"), hardlink("var/lib/rpm/rpmdb.sqlite", "opt/db")}, "usual place"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := packages.Examine(context.Background(), []packages.Layer{layer(t, tc.entries...)}, 0, packages.Limits{})
			if !errors.Is(err, packages.ErrDatabase) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %+v, %v", r, err)
			}
		})
	}
}
