package rpmdb_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/evidence/packages/internal/rpmdb"
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// read renders every package of a database.
func read(t testing.TB, b []byte) ([]string, error) {
	t.Helper()
	var all []string
	err := rpmdb.Read(context.Background(), write(t, b), func(h *rpmdb.Header) error {
		all = append(all, fmt.Sprintf("%s|%s|%s|%s|%s|%s|%s|%d", h.Name, h.Epoch, h.Version, h.Release, h.Arch, h.Source, h.License, h.DigestAlgorithm))
		for f := range h.Files() {
			all = append(all, fmt.Sprintf("%s|%s|%o|%d|%x|%d|%s", f.Path, f.Digest, f.Mode, f.Flags, f.VerifyFlags, f.State, f.Link))
		}
		return nil
	})
	return all, err
}

// What rpm itself says of the packages, by
//
//	rpm -qa --qf '%{NAME}|%{EPOCH}|…[%{FILENAMES}|%{FILEDIGESTS}|%{FILEMODES:octal}|…'
var (
	hello = []string{
		"tg-hello|1|2.12|3.el9|noarch|tg-hello-2.12-3.el9.src.rpm|GPL-3.0-or-later AND MIT|8",
		"/etc/hello.conf|3b6a5e83064c150d750ab23cda5897779da4dd38c898c280b0a4145ba17484dd|100644|17|ffffffff|0|",
		"/usr/bin/hello|bfdeaeb08cffb6a36438bcd12dda25417e3cdd36f1e7e482a2849d539225288b|100755|0|ffffffff|0|",
		"/usr/bin/hello-su|3efa6038b87ba6c3a43c670192609994a4c8a7403efb26cea1a8cfb929df987b|104755|0|ffffffff|0|",
		"/usr/bin/hi||120777|0|ffffffff|0|hello",
		"/usr/lib/hello||40755|0|ffffffff|0|",
		"/usr/lib/hello/state|37f14515bf86b9020b42e4a10c94ae7a3f90065242f7dbbcaeeb6aba98fa7ff8|100644|0|ffffffdc|0|",
		"/usr/share/doc/hello/README|65ce01fcc3e22e78b63419ef0f4493b0950daac7cee97329b428f5cafd395cda|100644|2|ffffffff|0|",
		"/var/log/hello.log||100644|64|ffffffd8|0|",
	}
	libs = []string{
		"tg-libs||0.1|1|noarch|tg-libs-0.1-1.src.rpm|MIT|8",
		"/usr/lib/libtg.so.0|b5e0dfe3c2b269568c488e74fdc56495a5729538ebc6ef36488c85a7d7a1730e|100644|0|ffffffff|0|",
	}
)

// headers are the packages' headers as the database has them.
func headers(t testing.TB) [][]byte {
	t.Helper()
	db, err := sql.Open("sqlite", write(t, fixture(t, "rpmdb.sqlite")))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("SELECT blob FROM Packages ORDER BY hnum")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var all [][]byte
	for rows.Next() {
		var b []byte
		if err := rows.Scan(&b); err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// ndb writes headers in the form of NDB: a page of slots, then the blobs.
func ndb(headers ...[]byte) []byte {
	le := binary.LittleEndian
	page := make([]byte, 4096)
	copy(page, "RpmP")
	le.PutUint32(page[12:], 1)
	for i := 32; i < len(page); i += 16 {
		copy(page[i:], "Slot")
	}
	for i, h := range headers {
		slot := page[32+16*(2*i+1):] // with free slots between
		le.PutUint32(slot[4:], uint32(i+1))
		le.PutUint32(slot[8:], uint32(len(page)/16))
		head := make([]byte, 16)
		copy(head, "BlbS")
		le.PutUint32(head[4:], uint32(i+1))
		le.PutUint32(head[12:], uint32(len(h)))
		page = append(append(page, head...), h...)
		page = append(page, make([]byte, 16-len(page)%16)...)
	}
	return page
}

// header writes a header from tags with their type, count and data.
func header(tags ...tag) []byte {
	var index, data []byte
	for _, t := range tags {
		index = binary.BigEndian.AppendUint32(index, t.tag)
		index = binary.BigEndian.AppendUint32(index, t.kind)
		index = binary.BigEndian.AppendUint32(index, uint32(len(data)))
		index = binary.BigEndian.AppendUint32(index, t.count)
		data = append(data, t.data...)
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(tags)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(append(b, index...), data...)
}

type tag struct {
	tag, kind, count uint32
	data             string
}

var name = tag{1000, 6, 1, "a\x00"}

func TestRead(t *testing.T) {
	both, hashed := slices.Concat(libs, hello), slices.Concat(hello, libs)
	for name, tc := range map[string]struct {
		db   []byte
		want []string
	}{
		"SQLite":      {fixture(t, "rpmdb.sqlite"), both},
		"Berkeley DB": {fixture(t, "Packages"), hashed},
		"NDB":         {ndb(headers(t)...), both},
		"NDB, empty":  {ndb(), nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(t, tc.db)
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	t.Run("Berkeley DB with digests in MD5", func(t *testing.T) {
		got, err := read(t, fixture(t, "Packages-md5"))
		if err != nil || len(got) != 9 || !strings.HasSuffix(got[0], "|1") || !strings.HasPrefix(got[2], "/usr/bin/hello|d604a220708aa59433ba410986cd4ffa|") {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("Berkeley DB of a machine with the other byte order", func(t *testing.T) {
		got, err := read(t, swapped(fixture(t, "Packages")))
		if err != nil || !slices.Equal(got, hashed) {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("a visitor that has seen enough", func(t *testing.T) {
		enough := errors.New("enough")
		seen := 0
		err := rpmdb.Read(context.Background(), write(t, fixture(t, "rpmdb.sqlite")), func(*rpmdb.Header) error { seen++; return enough })
		if !errors.Is(err, enough) || seen != 1 {
			t.Errorf("%d, %v", seen, err)
		}
	})
	t.Run("a context that ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		for _, db := range [][]byte{fixture(t, "rpmdb.sqlite"), fixture(t, "Packages"), ndb(headers(t)...)} {
			err := rpmdb.Read(ctx, write(t, db), func(*rpmdb.Header) error { return nil })
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
}

// swapped turns the numbers of a Berkeley DB of 4096-byte pages round.
func swapped(b []byte) []byte {
	turn := func(p []byte) { slices.Reverse(p) }
	for page := b; len(page) > 0; page = page[4096:] {
		items := int(binary.LittleEndian.Uint16(page[20:]))
		if page[25] == 13 {
			for i := range items {
				if at := int(binary.LittleEndian.Uint16(page[26+2*i:])); page[at] == 3 {
					turn(page[at+4 : at+8])
					turn(page[at+8 : at+12])
				}
				turn(page[26+2*i : 28+2*i])
			}
		}
		for _, at := range []int{8, 12, 16} {
			turn(page[at : at+4])
		}
		if page[25] == 8 {
			turn(page[20:24])
			turn(page[32:36])
			continue
		}
		turn(page[20:22])
		turn(page[22:24])
	}
	return b
}

// pages applies a change to every page of a kind.
func pages(b []byte, kind byte, change func(n int, page []byte)) []byte {
	for i := 0; i < len(b); i += 4096 {
		if b[i+25] == kind {
			change(i/4096, b[i:i+4096])
		}
	}
	return b
}

// share fills a page with pairs whose values all lie in the one chain that it
// had.
func share(_ int, page []byte) {
	le := binary.LittleEndian
	item := bytes.Clone(page[le.Uint16(page[28:]):][:12])
	if item[0] != 3 {
		return
	}
	const items = 200
	le.PutUint16(page[20:], items)
	for i := range items {
		at := len(page) - 12*(i+1)
		copy(page[at:], item)
		le.PutUint16(page[26+2*i:], uint16(at))
	}
}

func TestHostile(t *testing.T) {
	le := binary.LittleEndian
	berkeley := func() []byte { return fixture(t, "Packages") }
	// chains changes where values say which chain of pages holds them.
	chains := func(change func(item []byte)) []byte {
		return pages(berkeley(), 13, func(_ int, p []byte) {
			if item := p[le.Uint16(p[28:]):]; item[0] == 3 {
				change(item)
			}
		})
	}
	files := func(tags ...tag) []byte {
		return ndb(header(append([]tag{name, {1116, 4, 1, "\x00\x00\x00\x00"}, {1117, 8, 1, "f\x00"}, {1118, 8, 1, "/\x00"}}, tags...)...))
	}
	for _, tc := range []struct {
		name string
		db   []byte
		says string
	}{
		{"nothing", nil, "0 bytes"},
		{"an unknown form", bytes.Repeat([]byte("x"), 100), "neither"},

		{"a chain of pages that goes round", pages(berkeley(), 7, func(n int, p []byte) { le.PutUint32(p[16:], uint32(n)) }), "no part"},
		{"a chain of pages of another kind", pages(berkeley(), 7, func(_ int, p []byte) { p[25] = 5 }), "no part"},
		{"a chain that leads out of the file", pages(berkeley(), 7, func(_ int, p []byte) { le.PutUint32(p[16:], 1<<31) }), "no page"},
		{"a chain that ends early", chains(func(item []byte) { le.PutUint32(item[8:], 4000) }), "ends after"},
		{"a header larger than the file", chains(func(item []byte) { le.PutUint32(item[8:], 60<<20) }), "bytes"},
		{"more items than fit", pages(berkeley(), 13, func(_ int, p []byte) { le.PutUint16(p[20:], 8192) }), "items"},
		{"half a pair", pages(berkeley(), 13, func(_ int, p []byte) { le.PutUint16(p[20:], 1) }), "items"},
		{"an item outside of its page", pages(berkeley(), 13, func(_ int, p []byte) { le.PutUint16(p[26:], 60000) }), "lies at"},
		{"an item in its page's header", pages(berkeley(), 13, func(_ int, p []byte) { le.PutUint16(p[28:], 2) }), "lies at"},
		{"an item of an unknown kind", chains(func(item []byte) { item[0] = 9 }), "kind"},
		{"a chain that many values share", pages(berkeley(), 13, share), "a header of"},
		{"pages of three bytes", pages(berkeley(), 8, func(_ int, p []byte) { le.PutUint32(p[20:], 3) }), "pages of 3"},
		{"more pages than the file has", pages(berkeley(), 8, func(_ int, p []byte) { le.PutUint32(p[32:], 1<<31) }), "pages of"},
		{"encrypted", pages(berkeley(), 8, func(_ int, p []byte) { p[24] = 1 }), "encrypted"},
		{"a Berkeley DB that is no hash", pages(berkeley(), 8, func(_ int, p []byte) { p[25] = 9 }), "not a hash"},

		{"more slots than the file has", func() []byte { b := ndb(); le.PutUint32(b[12:], 1<<31); return b }(), "slot pages"},
		{"a slot without magic", func() []byte { b := ndb(); b[100*16] = 'x'; return b }(), "magic"},
		{"a slot that leads out of the file", func() []byte { b := ndb(header(name)); le.PutUint32(b[48+8:], 1<<31); return b }(), "EOF"},
		{"a slot that leads nowhere", func() []byte { b := ndb(header(name)); le.PutUint32(b[48+8:], 7); return b }(), "no blob"},
		{"a blob larger than the file", func() []byte { b := ndb(header(name)); le.PutUint32(b[4096+12:], 1<<31); return b }(), "bytes"},
		{"two slots with one large blob", func() []byte {
			b := ndb(append(header(name), make([]byte, 8192)...))
			copy(b[64:], b[48:64])
			return b
		}(), "bytes"},

		{"a header of four bytes", ndb([]byte("head")), "4 bytes"},
		{"a header with too many entries", ndb([]byte("\x7f\xff\xff\xff\x00\x00\x00\x01")), "entries"},
		{"a header with too much data", ndb([]byte("\x00\x00\x00\x01\xff\xff\xff\xff")), "entries"},
		{"a package without a name", ndb(header(tag{1001, 6, 1, "1\x00"})), "no name"},
		{"a name without an end", ndb(header(tag{1000, 6, 1, "a"})), "tag 1000"},
		{"a name that is a number", ndb(header(tag{1000, 4, 1, "\x00\x00\x00\x01"})), "tag 1000"},
		{"two names", ndb(header(name, name)), "twice"},
		{"a tag outside of its header", func() []byte {
			h := header(name)
			binary.BigEndian.PutUint32(h[16:], 99)
			return ndb(h)
		}(), "outside"},
		{"four thousand million strings", files(tag{1035, 8, 1<<32 - 1, "\x00"}), "tag 1035"},
		{"four thousand million numbers", files(tag{1030, 3, 1<<32 - 1, "\x00\x00"}), "tag 1030"},
		{"fewer modes than files", ndb(header(name, tag{1116, 4, 2, "\x00\x00\x00\x00\x00\x00\x00\x00"}, tag{1117, 8, 2, "f\x00g\x00"},
			tag{1118, 8, 1, "/\x00"}, tag{1030, 3, 1, "\x81\xa4"})), "says something of 1"},
		{"a file in no folder", files(tag{1, 6, 1, "\x00"})[:0], "0 bytes"},
		{"a file in a folder that is not there", ndb(header(name, tag{1116, 4, 1, "\x00\x00\x00\x09"}, tag{1117, 8, 1, "f\x00"}, tag{1118, 8, 1, "/\x00"})), "folder that it does not have"},
		{"more files than folders for them", ndb(header(name, tag{1117, 8, 1, "f\x00"})), "in 0 folders"},
		{"a package of rpm 3", ndb(header(name, tag{1027, 8, 1, "/f\x00"})), "rpm 3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := read(t, tc.db)
			if !errors.Is(err, rpmdb.ErrDatabase) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestHostileSQLite(t *testing.T) {
	make := func(t *testing.T, statements ...string) []byte {
		name := filepath.Join(t.TempDir(), "made")
		db, err := sql.Open("sqlite", name)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range statements {
			if _, err := db.Exec(s); err != nil {
				t.Fatal(s, err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, tc := range map[string]struct {
		statements []string
		says       string
	}{
		"no table": {[]string{"CREATE TABLE x (y)"}, "no table Packages"},
		"a view that never ends": {[]string{
			"CREATE VIEW Packages AS WITH RECURSIVE n(hnum) AS (SELECT 1 UNION ALL SELECT hnum + 1 FROM n) SELECT hnum, zeroblob(1000) AS blob FROM n",
		}, "no plain table"},
		"a value that is computed": {[]string{
			"CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob AS (zeroblob(100000000)))", "INSERT INTO Packages (hnum) VALUES (1)",
		}, "too big"},
		"no column":                    {[]string{"CREATE TABLE Packages (x)", "INSERT INTO Packages VALUES (1)"}, "blob"},
		"a value larger than the file": {[]string{"CREATE TABLE Packages (blob AS (zeroblob(1000000)), x)", "INSERT INTO Packages (x) VALUES (1)"}, "more bytes"},
		"a null":                       {[]string{"CREATE TABLE Packages (blob)", "INSERT INTO Packages VALUES (NULL)"}, "0 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(t, make(t, tc.statements...))
			if !errors.Is(err, rpmdb.ErrDatabase) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add(fixture(f, "rpmdb.sqlite"))
	f.Add(fixture(f, "Packages"))
	f.Add(ndb(headers(f)...))
	f.Add(ndb(header(name)))
	f.Add(fixture(f, "Packages-md5"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := read(t, b)
		if err != nil && !errors.Is(err, rpmdb.ErrDatabase) {
			t.Fatal(err)
		}
		if len(all) > len(b) {
			t.Fatalf("%d files and packages out of %d bytes", len(all), len(b))
		}
	})
}

func FuzzHeader(f *testing.F) {
	for _, h := range headers(f) {
		f.Add(h)
	}
	f.Add(header(name, tag{1116, 4, 1, "\x00\x00\x00\x00"}, tag{1117, 8, 1, "f\x00"}, tag{1118, 8, 1, "/\x00"}))
	f.Fuzz(func(t *testing.T, h []byte) {
		if _, err := read(t, ndb(h)); err != nil && !errors.Is(err, rpmdb.ErrDatabase) {
			t.Fatal(err)
		}
	})
}
