package packages_test

import (
	"crypto/sha1"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/evidence/packages"
)

func q1(s string) string {
	sum := sha1.Sum([]byte(s))
	return "Q1" + base64.StdEncoding.EncodeToString(sum[:])
}

// alpine is an image with two packages of one source, as apk 2.14 writes them.
func alpine() []entry {
	return []entry{
		file("etc/os-release", "ID=alpine\nVERSION_ID=3.19.1\n"),
		executable("bin/busybox", "busybox"), symlink("bin/sh", "/bin/busybox"), mode(file("bin/bbsuid", "bbsuid"), 0o4111),
		file("etc/securetty", "tty1\n"), executable("etc/init.d/cron", "cron"), file("usr/share/no-digest", "x"),
		file("lib/apk/db/installed", strings.Join([]string{
			"C:Q1abc=", "P:busybox", "V:1.36.1-r15", "A:x86_64", "S:1", "I:2", "T:tools", "L:GPL-2.0-only", "o:busybox",
			"c:d1b6f274f29076967826e0ecf6ebcaa5d360272f", "D:so:libc.musl-x86_64.so.1",
			"F:bin", "R:busybox", "a:0:0:755", "Z:" + q1("busybox"), "R:sh", "a:0:0:777", "Z:" + q1("/bin/busybox"),
			"F:etc", "M:0:0:1777", "R:securetty", "Z:" + q1("tty1\n"), "F:etc/init.d", "R:cron", "a:0:0:755", "Z:" + q1("cron"), "",
			"P:busybox-suid", "V:1.36.1-r15", "A:x86_64", "o:busybox", "F:bin", "R:bbsuid", "a:0:0:4111", "Z:" + q1("bbsuid"),
			"F:usr/share", "R:no-digest", "", "P:empty", "V:1", "", "",
		}, "\n")),
	}
}

func TestApk(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change []entry
		want   []string
	}{
		{"untouched", nil, nil},
		{"a changed file", []entry{executable("bin/busybox", "evil")}, []string{"modified /bin/busybox"}},
		{"a link to elsewhere", []entry{symlink("bin/sh", "/tmp/sh")}, []string{"modified /bin/sh"}},
		{"a link that became a file", []entry{executable("bin/sh", "sh")}, []string{"modified /bin/sh"}},
		{"a file that became setuid", []entry{mode(file("bin/busybox", "busybox"), 0o4755)}, []string{"modified /bin/busybox"}},
		{"a changed file in /etc", []entry{file("etc/securetty", "tty2\n")}, []string{"conffiles /etc/securetty"}},
		{"a changed service", []entry{executable("etc/init.d/cron", "evil")}, []string{"modified /etc/init.d/cron"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := examine(t, 0, layer(t, append(alpine(), tc.change...)...))
			want(t, r, append(tc.want, "unchecked /usr/share/no-digest")...)
		})
	}
}

func TestApkPackages(t *testing.T) {
	image := alpine()
	// Since 3.23 the list lies in /usr/lib, and the old place leads there.
	image[len(image)-1].Name = "usr/lib/apk/db/installed"
	image = append([]entry{symlink("lib", "usr/lib")}, image...)
	r := examine(t, 0, layer(t, image...))
	if r.Count != 3 || !slices.Equal(r.Managers, []string{packages.ManagerApk}) || r.Distribution.String() != "alpine 3.19.1" {
		t.Fatalf("got %+v", r)
	}
	p := r.Packages[1]
	if p.Name != "busybox-suid" || p.Source != "busybox" || p.SourceVersion != "1.36.1-r15" {
		t.Errorf("got %+v", p)
	}
	if p := r.Packages[0]; p.SourceURL != "https://gitlab.alpinelinux.org/alpine/aports/-/commit/d1b6f274f29076967826e0ecf6ebcaa5d360272f" || p.Licences[0] != "GPL-2.0-only" {
		t.Errorf("got %+v", p)
	}
}
