package packages_test

import (
	"strings"
	"testing"

	"github.com/trustgate/trustgate/evidence/packages"
)

func TestDistribution(t *testing.T) {
	for name, tc := range map[string]struct {
		entries []entry
		want    packages.Distribution
	}{
		"none":             {nil, packages.Distribution{}},
		"quoted":           {[]entry{file("etc/os-release", "# comment\nID='Alpine'\nVERSION_ID=\"3.19\"\nPRETTY_NAME=\"A \\\"B\\\" \\$C\"\n")}, packages.Distribution{ID: "alpine", VersionID: "3.19", PrettyName: `A "B" $C`}},
		"a link":           {[]entry{symlink("etc/os-release", "../usr/lib/os-release"), file("usr/lib/os-release", "ID=debian")}, packages.Distribution{ID: "debian"}},
		"two":              {[]entry{file("etc/os-release", "ID=a"), file("usr/lib/os-release", "ID=b")}, packages.Distribution{ID: "a"}},
		"too large":        {[]entry{file("etc/os-release", "ID=a\n"+strings.Repeat("#\n", 64<<10))}, packages.Distribution{}},
		"a value too long": {[]entry{file("etc/os-release", "ID="+strings.Repeat("a", 300)+"\nVERSION_ID=1\n")}, packages.Distribution{VersionID: "1"}},
		"unclosed quotes":  {[]entry{file("etc/os-release", "ID=\"\nVERSION_ID='\nPRETTY_NAME=\\\n")}, packages.Distribution{ID: `"`, VersionID: "'", PrettyName: `\`}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := examine(t, 0, layer(t, tc.entries...)).Distribution; got != tc.want {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestSourceURL(t *testing.T) {
	for _, tc := range []struct {
		id, version string
		p           packages.Package
		want        string
	}{
		{"debian", "12", packages.Package{}, "https://snapshot.debian.org/"},
		{"debian", "12", packages.Package{Source: "openssh", SourceVersion: "1:9.2p1-2+deb12u3"}, "https://snapshot.debian.org/package/openssh/1:9.2p1-2+deb12u3/"},
		{"ubuntu", "24.04", packages.Package{Source: "bash", SourceVersion: "5.2.21-2ubuntu4"}, "https://launchpad.net/ubuntu/+source/bash/5.2.21-2ubuntu4"},
		{"alpine", "3.19.1", packages.Package{Source: "musl"}, "https://pkgs.alpinelinux.org/packages?name=musl"},
		{"alpine", "3.19.1", packages.Package{Source: "musl", Commit: "abc"}, "https://gitlab.alpinelinux.org/alpine/aports/-/commit/abc"},
		{"wolfi", "20230201", packages.Package{Source: "glibc", Commit: "abc"}, "https://github.com/wolfi-dev/os/blob/abc/glibc.yaml"},
		{"fedora", "40", packages.Package{Source: "bash", SourceVersion: "5.2.26-3.fc40"}, "https://kojipkgs.fedoraproject.org/packages/bash/5.2.26/3.fc40/src/bash-5.2.26-3.fc40.src.rpm"},
		{"centos", "7", packages.Package{Source: "bash", SourceVersion: "4.2.46-35.el7"}, "https://git.centos.org/rpms/bash/branches?branchname=c7"},
		{"centos", "9", packages.Package{Source: "bash", SourceVersion: "5.1.8-9.el9"}, "https://gitlab.com/redhat/centos-stream/rpms/bash/-/tree/c9s"},
		{"rocky", "9.3", packages.Package{Source: "bash", SourceVersion: "5.1.8-6.el9"}, "https://git.rockylinux.org/staging/rpms/bash/-/tree/r9"},
		{"almalinux", "9.3", packages.Package{Source: "bash", SourceVersion: "5.1.8-6.el9"}, "https://git.almalinux.org/rpms/bash/src/branch/a9"},
		{"opensuse-leap", "15.5", packages.Package{Source: "bash", SourceVersion: "4.4-1"}, "https://build.opensuse.org/package/show/openSUSE:Leap:15.5/bash"},
		{"debian", "12", packages.Package{Source: "../../evil?x=", SourceVersion: "1"}, "https://snapshot.debian.org/"},
		{"debian", "12", packages.Package{Source: "a?b#c", SourceVersion: "1/../2"}, "https://snapshot.debian.org/package/a%3Fb%23c/1%2F..%2F2/"},
		{"debian", "12", packages.Package{Source: "{version}", SourceVersion: "{name}"}, "https://snapshot.debian.org/package/%7Bversion%7D/%7Bname%7D/"},
		{"unheard-of", "1", packages.Package{Source: "bash", SourceVersion: "1"}, ""},
	} {
		t.Run(tc.id+" "+tc.p.Source, func(t *testing.T) {
			if got := packages.SourceURL(packages.Distribution{ID: tc.id, VersionID: tc.version}, tc.p); got != tc.want {
				t.Errorf("got %s", got)
			}
		})
	}
}
