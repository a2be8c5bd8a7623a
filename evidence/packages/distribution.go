package packages

import (
	"net/url"
	"strings"
)

// Distribution is what the image says it is made from.
//
// https://www.freedesktop.org/software/systemd/man/latest/os-release.html
type Distribution struct {
	ID         string `json:"id"`
	VersionID  string `json:"version_id"`
	PrettyName string `json:"pretty_name"`
}

// String is the distribution as people name it in commands: "debian 12".
func (d Distribution) String() string { return strings.TrimSpace(d.ID + " " + d.VersionID) }

const (
	maxOSRelease = 64 << 10
	maxField     = 256 // of a value in it
)

// distribution reads os-release; the zero Distribution when there is none that
// can be read, which some images leave out.
func distribution(t *tree) Distribution {
	var d Distribution
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		n := t.find(name, true)
		if !n.is(regular) || n.size > maxOSRelease {
			continue
		}
		content, err := t.content(name)
		if err != nil || content == nil {
			continue
		}
		lines(content, name, func(line string) error {
			key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if !ok {
				return nil
			}
			if value = unquote(value); len(value) > maxField {
				return nil
			}
			switch key {
			case "ID":
				d.ID = strings.ToLower(value)
			case "VERSION_ID":
				d.VersionID = value
			case "PRETTY_NAME":
				d.PrettyName = value
			}
			return nil
		})
		break
	}
	return d
}

// unquote reads a value as a shell would that expands nothing.
func unquote(s string) string {
	if len(s) >= 2 && s[0] == '\'' && s[len(s)-1] == '\'' {
		return s[1 : len(s)-1]
	}
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// SourceURL is where the distribution serves the source of a package: the very
// version where it keeps every one, else the place where its versions are. For
// the zero Package it is where all of its sources are. It is "" for a
// distribution that TrustGate does not know.
//
// The link is made from the image's own word and proves nothing.
func SourceURL(d Distribution, p Package) string {
	known, ok := sources[d.ID]
	if !ok {
		return ""
	}
	if p.Source == "" || strings.ContainsAny(p.Source, "/\\") || strings.HasPrefix(p.Source, ".") {
		return known.all
	}
	major, _, _ := strings.Cut(d.VersionID, ".")
	version, release, _ := strings.Cut(p.SourceVersion, "-")
	return strings.NewReplacer(
		"{name}", url.PathEscape(p.Source),
		"{version}", url.PathEscape(p.SourceVersion),
		"{upstream}", url.PathEscape(version),
		"{release}", url.PathEscape(release),
		"{commit}", url.PathEscape(p.Commit),
		"{major}", url.PathEscape(major),
		"{distribution}", url.PathEscape(d.VersionID),
	).Replace(known.one(p, major))
}

// sources are the distributions that serve the source of every package.
var sources = map[string]struct {
	all string
	one func(p Package, major string) string
}{
	"debian": {"https://snapshot.debian.org/", always("https://snapshot.debian.org/package/{name}/{version}/")},
	"ubuntu": {"https://launchpad.net/ubuntu/", always("https://launchpad.net/ubuntu/+source/{name}/{version}")},
	"alpine": {"https://gitlab.alpinelinux.org/alpine/aports", func(p Package, _ string) string {
		if p.Commit == "" {
			return "https://pkgs.alpinelinux.org/packages?name={name}"
		}
		return "https://gitlab.alpinelinux.org/alpine/aports/-/commit/{commit}"
	}},
	"wolfi":      {"https://github.com/wolfi-dev/os", wolfi},
	"chainguard": {"https://github.com/wolfi-dev/os", wolfi},
	"fedora":     {"https://src.fedoraproject.org/", always("https://kojipkgs.fedoraproject.org/packages/{name}/{upstream}/{release}/src/{name}-{version}.src.rpm")},
	"centos": {"https://git.centos.org/", func(_ Package, major string) string {
		if major == "7" || major == "8" {
			return "https://git.centos.org/rpms/{name}/branches?branchname=c{major}"
		}
		return "https://gitlab.com/redhat/centos-stream/rpms/{name}/-/tree/c{major}s"
	}},
	"rocky":               {"https://git.rockylinux.org/staging/rpms", always("https://git.rockylinux.org/staging/rpms/{name}/-/tree/r{major}")},
	"almalinux":           {"https://git.almalinux.org/rpms", always("https://git.almalinux.org/rpms/{name}/src/branch/a{major}")},
	"opensuse-leap":       {"https://code.opensuse.org/", always("https://build.opensuse.org/package/show/openSUSE:Leap:{distribution}/{name}")},
	"opensuse-tumbleweed": {"https://code.opensuse.org/", always("https://build.opensuse.org/package/show/openSUSE:Factory/{name}")},
}

func always(pattern string) func(Package, string) string {
	return func(Package, string) string { return pattern }
}

func wolfi(p Package, _ string) string {
	if p.Commit == "" {
		return "https://github.com/wolfi-dev/os/blob/main/{name}.yaml"
	}
	return "https://github.com/wolfi-dev/os/blob/{commit}/{name}.yaml"
}
