package giturl_test

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/evidence/internal/giturl"
	"github.com/trustgate/trustgate/evidence/internal/pattern"
)

func TestParse(t *testing.T) {
	const app = "https://github.com/acme/app"
	for _, tc := range []struct{ from, repository, ref, dir string }{
		{"https://github.com/acme/app", app, "", ""},
		{"https://github.com/acme/app.git", app, "", ""},
		{"https://github.com/acme/app/", app, "", ""},
		{"https://github.com/acme/app.git/", app, "", ""},
		{"https://GitHub.COM/acme/app", app, "", ""},
		{"HTTPS://github.com/acme/app", app, "", ""},
		{"https://github.com:443/acme/app", app, "", ""},
		{"https://user:secret@github.com/acme/app", app, "", ""},
		{"https://x-access-token@github.com/acme/app.git", app, "", ""},

		// in-toto, pip and npm
		{"git+https://github.com/acme/app@refs/heads/main", app, "refs/heads/main", ""},
		{"git+https://github.com/acme/app.git@v1.2.3", app, "v1.2.3", ""},
		{"git+https://github.com/acme/app@a@b", app, "a@b", ""},
		{"git+ssh://git@github.com/acme/app.git#v1", app, "v1", ""},

		// BuildKit
		{"https://github.com/acme/app.git#main", app, "main", ""},
		{"https://github.com/acme/app.git#main:services/api", app, "main", "services/api"},
		{"https://github.com/acme/app.git#:services/api", app, "", "services/api"},
		{"https://github.com/acme/app.git#", app, "", ""},
		{"https://github.com/acme/app@v1#v2", app, "v2", ""}, // what follows the # is what BuildKit builds
		{"git://127.0.0.1:5918/acme/app#main", "git://127.0.0.1:5918/acme/app", "main", ""},
		{"git://git.example:9418/app", "git://git.example/app", "", ""},

		// SSH: the user git is how forges serve what they also serve over HTTPS.
		{"git@github.com:acme/app.git", app, "", ""},
		{"git@github.com:acme/app.git#v1:dir", app, "v1", "dir"},
		{"ssh://git@github.com/acme/app.git", app, "", ""},
		{"ssh://git@github.com:22/acme/app", app, "", ""},
		{"ssh://git:secret@github.com/acme/app", app, "", ""},
		{"ssh://git@ssh.github.com:443/acme/app", "ssh://ssh.github.com:443/acme/app", "", ""},
		{"ssh://alice@github.com/acme/app", "ssh://github.com/acme/app", "", ""},
		{"alice@git.example:app", "ssh://git.example/app", "", ""},
		{"git.example:acme/app", "ssh://git.example/acme/app", "", ""},
		{"ssh://git.example/acme/app", "ssh://git.example/acme/app", "", ""},
		{"git@git.example:2222/app", "https://git.example/2222/app", "", ""}, // git has no port in this form

		// What looks alike stays apart.
		{"http://github.com/acme/app", "http://github.com/acme/app", "", ""},
		{"https://github.com:8443/acme/app", "https://github.com:8443/acme/app", "", ""},
		{"https://github.com:22/acme/app", "https://github.com:22/acme/app", "", ""},
		{"https://github.com/Acme/app", "https://github.com/Acme/app", "", ""},
		{"https://github.com/acme/app.github", "https://github.com/acme/app.github", "", ""},
		{"https://github.com/acme/app.git.example", "https://github.com/acme/app.git.example", "", ""},
		{"https://github.com@evil.example/acme/app", "https://evil.example/acme/app", "", ""},
		{"https://github.com:acme@evil.example/app", "https://evil.example/app", "", ""},
		{"git@evil.example:github.com/acme/app", "https://evil.example/github.com/acme/app", "", ""},
		{"https://git.example/~alice/app", "https://git.example/~alice/app", "", ""},
		{"https://git.example/@scope/app@v1", "https://git.example/@scope/app", "v1", ""},
		{"https://git.example/@scope", "https://git.example/@scope", "", ""},
		{"https://git.example/a%20b", "https://git.example/a%20b", "", ""},
		{"https://[::1]:8443/app", "https://[::1]:8443/app", "", ""},
		{"https://[::1]:443/app", "https://[::1]/app", "", ""},
	} {
		t.Run(tc.from, func(t *testing.T) {
			u, err := giturl.Parse(tc.from)
			if err != nil {
				t.Fatal(err)
			}
			if u.Repository != tc.repository || u.Ref != tc.ref || u.Dir != tc.dir {
				t.Errorf("got %+v", u)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"nothing":                           "",
		"a word":                            "app",
		"a path":                            "/srv/git/app",
		"a path behind a colon":             "git.example:/srv/git/app",
		"a folder":                          "./app",
		"a URL without a path":              "https://github.com",
		"a URL with an empty path":          "https://github.com/",
		"a URL of nothing but .git":         "https://github.com/.git",
		"a repository without a name":       "https://github.com/acme/.git",
		".git twice":                        "https://github.com/acme/app.git.git",
		"a URL without a host":              "https:///acme/app",
		"a URL without a host but a port":   "https://:443/acme/app",
		"a file":                            "file:///srv/git/app",
		"FTP":                               "ftp://git.example/app",
		"a transport helper":                "ext::sh -c id",
		"a transport helper with a URL":     "ext+https://git.example/app",
		"a package URL with two slashes":    "pkg://docker/nginx",
		"a script":                          "javascript://github.com/%0aalert(1)",
		"a query":                           "https://github.com/acme/app?x=1",
		"an empty query":                    "https://github.com/acme/app?",
		"an encoded slash":                  "https://github.com/acme%2Fapp",
		"an encoded dot":                    "https://github.com/acme/%2e%2e/evil",
		"an encoded letter":                 "https://github.com/%61cme/app",
		"an encoded NUL":                    "https://github.com/acme/app%00",
		"half an escape":                    "https://github.com/acme/app%2",
		"an encoded host":                   "https://github%2ecom/acme/app",
		"a dot segment":                     "https://github.com/acme/../evil/app",
		"a single dot":                      "https://github.com/acme/./app",
		"a dot segment at the end":          "https://github.com/acme/..",
		"a dot segment before a ref":        "https://github.com/acme/..@v1",
		"an empty segment":                  "https://github.com//acme/app",
		"an empty segment at the end":       "https://github.com/acme/app//",
		"a backslash":                       `https://github.com\acme/app`,
		"a backslash before an at sign":     `https://evil.example\@github.com/acme/app`,
		"a space":                           "https://github.com/acme/a b",
		"a space in front":                  " https://github.com/acme/app",
		"a newline":                         "https://github.com/acme/app\nhttps://evil.example/app",
		"a tab":                             "https://git\thub.com/acme/app",
		"a NUL":                             "https://github.com/acme/app\x00",
		"another script":                    "https://github.com/acme/\u0430pp",
		"a host of another script":          "https://g\u0456thub.com/acme/app",
		"a host with a dot at the end":      "https://github.com./acme/app",
		"a host with an empty label":        "https://github..com/acme/app",
		"a host with a comma":               "https://github.com,evil.example/acme/app",
		"an IPv6 zone":                      "https://[fe80::1%25eth0]/app",
		"a port that is no number":          "https://github.com:https/acme/app",
		"a port without digits":             "https://github.com:/acme/app",
		"a quote":                           `https://github.com/acme/app"onload="x`,
		"a tag of HTML":                     "https://github.com/acme/<b>app",
		"a brace":                           "https://github.com/acme/{app,evil}",
		"a circumflex":                      "https://github.com/acme/app^1",
		"a bar":                             "https://github.com/acme/app|id",
		"a ref with a character to escape":  "https://github.com/acme/app@v1^{}",
		"two hosts of the short form":       "git@github.com@evil.example:app",
		"an option in place of a host":      "-oProxyCommand:app",
		"an option in a URL's host":         "ssh://-oProxyCommand=id/app",
		"an option of letters alone":        "ssh://git@-oproxycommand/app",
		"more bytes than a URL may have":    "https://github.com/" + strings.Repeat("a", 2048),
		"a password that must not be shown": "https://user:hunter2@git hub.com/app",
		"a password before a broken port":   "https://user:hunter2@github.com:x/app",
		"a password before a broken scheme": "ftp://user:hunter2@github.com/app",
	} {
		t.Run(name, func(t *testing.T) {
			u, err := giturl.Parse(s)
			if !errors.Is(err, giturl.ErrURL) || u != (giturl.URL{}) {
				t.Fatalf("%q is read as %+v, %v", s, u, err)
			}
			if strings.Contains(err.Error(), "hunter2") || len(err.Error()) > 300 {
				t.Errorf("says %q", err)
			}
		})
	}
}

// FuzzParse: a repository has one spelling, which reads back as itself, and
// which the patterns of trust.sources can be held against.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"https://github.com/acme/app.git#main:dir", "git+https://github.com/acme/app@refs/heads/main", "git@github.com:acme/app.git",
		"ssh://git@github.com:22/acme/app", "ssh://alice:secret@host:2222/~/app", "git://127.0.0.1:5918/acme/app#main",
		"https://git.example/@scope/a%20b@v1", "https://[::1]:443/app", "https://user:pa@ss@host/a@b@c", "host:a:b", "https://h/a.git@x.git",
		`https://github.com/a"b`, "https://github.com/a[b]", "https://h/.git/", "https://h:0443/a", "git+git+https://h/a", "https://h/*",
	} {
		f.Add(s)
	}
	anything, err := pattern.Compile("**")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := giturl.Parse(s)
		if err != nil {
			if u != (giturl.URL{}) || !errors.Is(err, giturl.ErrURL) {
				t.Fatalf("got %+v, %v", u, err)
			}
			return
		}
		if again, err := giturl.Parse(u.Repository); err != nil || again != (giturl.URL{Repository: u.Repository}) {
			t.Fatalf("%q: %q reads back as %+v, %v", s, u.Repository, again, err)
		}
		if !anything.Match(u.Repository) {
			t.Fatalf("%q: no pattern can match %q", s, u.Repository)
		}
		parsed, err := url.Parse(u.Repository)
		if err != nil || parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" || parsed.Host != strings.ToLower(parsed.Host) ||
			!slices.Contains([]string{"https", "http", "ssh", "git"}, parsed.Scheme) || strings.HasSuffix(parsed.Path, ".git") {
			t.Fatalf("%q became %q, %v", s, u.Repository, err)
		}
		if strings.ContainsAny(u.Repository+u.Ref+u.Dir, " \r\n\t\x00") {
			t.Fatalf("%q became %+v", s, u)
		}
	})
}
