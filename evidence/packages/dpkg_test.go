package packages_test

import (
	"slices"
	"testing"

	"github.com/trustgate/trustgate/evidence/packages"
)

func TestDpkg(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change []entry // in the same layer, so as to be the last word
		want   []string
	}{
		{"untouched", nil, nil},
		{"a changed file", []entry{executable("usr/bin/hello", "#!/bin/sh\nexec evil\n")}, []string{"modified /usr/bin/hello"}},
		{"a changed conffile", []entry{file("etc/hello.conf", "greeting=hi\n")}, []string{"conffiles /etc/hello.conf"}},
		{"a file replaced by a link to other content", []entry{executable("opt/evil", "evil"), symlink("usr/bin/hello", "/opt/evil")},
			[]string{"modified /usr/bin/hello", "executables /opt/evil"}},
		{"a file moved and linked to", []entry{file("opt/README", "read me\n"), symlink("usr/share/doc/hello/README", "../../../../opt/README")}, nil},
		{"a file replaced by a folder", []entry{dir("usr/bin/hello")}, []string{"modified /usr/bin/hello"}},
		{"a file replaced by a dangling link", []entry{symlink("usr/bin/hello", "nowhere")}, []string{"modified /usr/bin/hello"}},
		{"an executable of nobody", []entry{executable("usr/local/bin/tool", "x"), file("srv/data", "x")}, []string{"executables /usr/local/bin/tool"}},
		{"a library of nobody without the executable bit", []entry{file("usr/lib/libevil.so", "\x7fELF and so on")}, []string{"executables /usr/lib/libevil.so"}},
		{"another name for a packaged file", []entry{hardlink("usr/local/bin/also", "usr/bin/hello")}, []string{"executables /usr/local/bin/also"}},
		{"setuid, setgid and capabilities of nobody", []entry{
			mode(file("a", "x"), 0o4755), mode(file("b", "x"), 0o2755), withXattr(executable("c", "x"), "security.capability"),
			mode(dir("d"), 0o2755),
		}, []string{"executables /a /b /c", "setuid /a /b /c"}},
		{"the packages' own scripts", []entry{executable("var/lib/dpkg/info/hello.postinst", "#!/bin/sh")}, nil},
		{"the script of a package that is not there", []entry{executable("var/lib/dpkg/info/other.postinst", "#!/bin/sh")},
			[]string{"executables /var/lib/dpkg/info/other.postinst"}},
		{"a name that plays tricks", []entry{executable("usr/bin/\x1b[2K", "x")}, []string{`executables "/usr/bin/\x1b[2K"`}},
		{"the digests of a package are gone", []entry{file("var/lib/dpkg/info/hello.md5sums", "")},
			[]string{"unchecked /usr/bin/hello /usr/bin/hello-su /usr/share/doc/hello/README"}},
		{"an executable that calls itself a conffile", []entry{
			executable("usr/bin/hello", "evil"), file("var/lib/dpkg/info/hello.conffiles", "/usr/bin/hello\n"),
		}, []string{"modified /usr/bin/hello"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want(t, examine(t, 0, layer(t, slices.Concat(bookworm(), tc.change)...)), tc.want...)
		})
	}
}

func withXattr(e entry, name string) entry {
	e.PAXRecords = map[string]string{"SCHILY.xattr." + name: "\x01\x00"}
	return e
}

func TestDpkgPackages(t *testing.T) {
	copyright := "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-3+\n text\n\nFiles: x\nLicense: MIT\n"
	r := examine(t, 0, layer(t, append(bookworm(), file("usr/share/doc/hello/copyright", copyright))...))
	if r.Count != 1 || len(r.Packages) != 1 || !slices.Equal(r.Managers, []string{packages.ManagerDpkg}) {
		t.Fatalf("got %+v", r)
	}
	p := r.Packages[0]
	if p.Name != "hello" || p.Version != "2.10-3+b1" || p.Arch != "amd64" || p.Source != "hello-src" || p.SourceVersion != "2.10-3" {
		t.Errorf("got %+v", p)
	}
	if !slices.Equal(p.Licences, []string{"GPL-3+", "MIT"}) {
		t.Errorf("licences %q", p.Licences)
	}
	if p.SourceURL != "https://snapshot.debian.org/package/hello-src/2.10-3/" {
		t.Errorf("source %s", p.SourceURL)
	}
	if d := r.Distribution; d.String() != "debian 12" || d.PrettyName != "Debian GNU/Linux 12 (bookworm)" {
		t.Errorf("distribution %+v", d)
	}
}

func TestDpkgMissing(t *testing.T) {
	without := hello
	without.files = slices.DeleteFunc(slices.Clone(hello.files), func(e entry) bool {
		return e.Name == "/usr/share/doc/hello/README" || e.Name == "/usr/bin/hello-su"
	})
	without.conffiles = nil
	image := append(bookworm(without), installed(hello)...)
	want(t, examine(t, 0, layer(t, image...)), "missing /usr/bin/hello-su /usr/share/doc/hello/README", "conffiles /etc/hello.conf")

	t.Run("what dpkg was told to leave out is not missing", func(t *testing.T) {
		slim := append(slices.Clone(image), file("etc/dpkg/dpkg.cfg.d/docker",
			"path-exclude /usr/share/doc/*\npath-include /usr/share/doc/*/copyright\npath-exclude=/usr/share/man/*\n"))
		want(t, examine(t, 0, layer(t, slim...)), "missing /usr/bin/hello-su", "conffiles /etc/hello.conf")
	})
	t.Run("what dpkg was told to keep is", func(t *testing.T) {
		slim := append(slices.Clone(image), file("etc/dpkg/dpkg.cfg.d/docker", "path-exclude=/usr/*\npath-include=/usr/bin/[!x]*\n"))
		want(t, examine(t, 0, layer(t, slim...)), "missing /usr/bin/hello-su", "conffiles /etc/hello.conf")
	})
}

func TestDpkgMerged(t *testing.T) {
	// The list says /bin, the file lies in /usr/bin, as everywhere since the
	// merge of the two.
	old := deb{name: "old", version: "1", files: []entry{executable("/bin/ls", "ls"), executable("/lib/x/../x/y", "y")}}
	image := slices.Concat(bookworm(), []entry{executable("usr/bin/ls", "ls"), symlink("lib", "usr/lib"), executable("usr/lib/x/y", "y")}, installed(hello, old))
	want(t, examine(t, 0, layer(t, image...)))
}

func TestDpkgDiverted(t *testing.T) {
	other := deb{name: "other", version: "1", files: []entry{executable("/usr/bin/hello", "other")}}
	image := slices.Concat(bookworm(),
		[]entry{executable("usr/bin/hello", "other"), executable("usr/bin/hello.real", "#!/bin/sh\necho hello\n")},
		installed(hello, other),
		[]entry{file("var/lib/dpkg/diversions", "/usr/bin/hello\n/usr/bin/hello.real\nother\n/lib64\n/lib64.merged\nhello\n")})
	want(t, examine(t, 0, layer(t, image...)))

	t.Run("a diversion that was only announced", func(t *testing.T) {
		const readme = "/usr/share/doc/hello/README"
		want(t, examine(t, 0, layer(t, append(bookworm(), file("var/lib/dpkg/diversions", readme+"\n"+readme+".merged\nother\n"))...)))
	})
	t.Run("a diversion does not excuse what lies in the old place", func(t *testing.T) {
		want(t, examine(t, 0, layer(t, append(image, executable("usr/bin/hello", "evil"))...)), "modified /usr/bin/hello")
	})
}

func TestDpkgForeignArchitecture(t *testing.T) {
	// Packages that can be installed for several architectures have theirs in
	// the name of their lists.
	d := deb{name: "libc6:amd64", version: "1", files: []entry{file("/usr/lib/libc.so.6", "\x7fELF")}}
	image := append(bookworm(d), file("var/lib/dpkg/status",
		"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nMulti-Arch: same\nVersion: 1\n\n"+
			"Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\nConffiles:\n /etc/gone.conf d41d8cd98f00b204e9800998ecf8427e\n"))
	r := examine(t, 0, layer(t, image...))
	want(t, r)
	if r.Count != 1 || r.Packages[0].Source != "libc6" {
		t.Errorf("got %+v", r.Packages)
	}
}

func TestDistroless(t *testing.T) {
	image := []entry{
		file("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
		file("usr/bin/hello", "hello"), executable("app", "x"),
		file("var/lib/dpkg/status.d/hello", "Package: hello\nVersion: 1\nArchitecture: amd64\n"),
		file("var/lib/dpkg/status.d/hello.md5sums", md5Of("hello")+"  usr/bin/hello\n"),
		file("var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 2\nArchitecture: all\n"),
		file("var/lib/dpkg/status.d/tzdata.md5sums", md5Of("zone")+"  ./usr/share/zone\n"),
	}
	r := examine(t, 0, layer(t, image...))
	want(t, r, "missing /usr/share/zone", "executables /app")
	if r.Count != 2 || r.Packages[1].Name != "tzdata" {
		t.Errorf("got %+v", r.Packages)
	}
}
