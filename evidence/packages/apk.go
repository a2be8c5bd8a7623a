package packages

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// apkDatabases are the places that apk's list has had.
var apkDatabases = []string{"lib/apk/db/installed", "usr/lib/apk/db/installed"}

// readApk reads apk's list of packages and their files.
//
// https://wiki.alpinelinux.org/wiki/Apk_spec#Installed_Database_V2
func readApk(ctx context.Context, t *tree, s sink) error {
	var read []*inode
	for _, name := range apkDatabases {
		content, err := t.content(name)
		if err != nil {
			return err
		}
		if content == nil {
			continue
		}
		n := t.find(name, true)
		if len(read) > 0 && read[0] == n.inode {
			continue // one place is a link to the other
		}
		read = append(read, n.inode)
		if err := (&apk{ctx: ctx, sink: s}).read(content, name); err != nil {
			return err
		}
	}
	return nil
}

type apk struct {
	ctx  context.Context
	sink sink

	pkg   Package
	added bool
	dir   string
	file  record
	known bool // a file is at hand
}

// read goes through fields of one letter each: a package, then its folders, and
// in each folder its files with their attributes behind them.
func (a *apk) read(r io.Reader, name string) error {
	err := lines(r, name, func(line string) error {
		if line == "" {
			a.end()
			return context.Cause(a.ctx)
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok || len(key) != 1 {
			return fmt.Errorf("not a field of apk: %.80q", line)
		}
		return a.field(key[0], value)
	})
	if err != nil {
		return err
	}
	a.end()
	return nil
}

func (a *apk) field(key byte, value string) error {
	switch key {
	case 'P':
		if a.pkg.Name != "" {
			a.end()
		}
		a.pkg = Package{Manager: ManagerApk, Name: value}
	case 'V':
		a.pkg.Version = value
	case 'A':
		a.pkg.Arch = value
	case 'L':
		a.pkg.Licences = []string{value}
	case 'o':
		a.pkg.Source = value
	case 'c':
		a.pkg.Commit = value
	case 'F', 'R':
		a.flush()
		if a.pkg.Name == "" {
			return fmt.Errorf("files before a package")
		}
		if !a.added {
			a.add()
		}
		if key == 'F' {
			a.dir = value
			break
		}
		name := strings.TrimPrefix(a.dir+"/"+value, "/")
		a.file, a.known = record{path: name, config: apkProtects(name), either: true}, true
	case 'a':
		// The mode is the last of user:group:mode; folders have theirs as M.
		mode, err := strconv.ParseUint(value[strings.LastIndexByte(value, ':')+1:], 8, 16)
		if err != nil {
			return fmt.Errorf("not the attributes of a file: %.80q", value)
		}
		a.file.elevates = mode&0o6000 != 0
	case 'Z':
		sum, err := apkDigest(value)
		if err != nil {
			return err
		}
		a.file.digest = sum
	}
	return nil
}

func (a *apk) add() {
	if a.pkg.Source == "" {
		a.pkg.Source = a.pkg.Name
	}
	a.pkg.SourceVersion = a.pkg.Version
	a.sink.add(a.pkg)
	a.added = true
}

func (a *apk) flush() {
	if a.known {
		a.sink.file(a.file)
	}
	a.file, a.known = record{}, false
}

func (a *apk) end() {
	a.flush()
	if a.pkg.Name != "" && !a.added {
		a.add()
	}
	a.pkg, a.added, a.dir = Package{}, false, ""
}

// apkProtects says where apk expects changes, unless it was told otherwise.
//
// https://gitlab.alpinelinux.org/alpine/apk-tools/-/blob/v2.14.0/src/database.c
func apkProtects(name string) bool {
	return strings.HasPrefix(name, "etc/") && !strings.HasPrefix(name, "etc/init.d/")
}

// apkDigest reads Q1 with base64 for SHA-1, Q2 for SHA-256, and the hexadecimal
// MD5 of old lists.
func apkDigest(value string) ([]byte, error) {
	var sum []byte
	var err error
	want := 0
	switch {
	case strings.HasPrefix(value, "Q1"):
		want = 20
		sum, err = base64.StdEncoding.DecodeString(value[2:])
	case strings.HasPrefix(value, "Q2"):
		want = 32
		sum, err = base64.StdEncoding.DecodeString(value[2:])
	default:
		want = 16
		sum, err = hex.DecodeString(value)
	}
	if err != nil || len(sum) != want {
		return nil, fmt.Errorf("not a digest of apk: %.80q", value)
	}
	return sum, nil
}
