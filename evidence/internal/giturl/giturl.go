// Package giturl brings the many ways in which builds and labels name a git
// repository into one form that can be compared.
//
// It must never guess: what cannot be read in one way only is an error.
package giturl

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// ErrURL reports text that does not name a git repository unambiguously.
var ErrURL = errors.New("not the URL of a git repository")

// maxLength bounds a URL, in bytes.
const maxLength = 2048

// URL is a repository and, where the text names them, a ref and a folder.
type URL struct {
	Repository string // scheme://host[:port]/path, without user info, ".git" and a slash at the end
	Ref        string // a branch, tag, full ref or commit, or ""
	Dir        string // the folder in the repository, or ""
}

var (
	// git's own short form: host:path, in which the path follows no "//".
	short = regexp.MustCompile(`^(?:([A-Za-z0-9._-]+)@)?([A-Za-z0-9.-]+):([^/].*)$`)
	host  = regexp.MustCompile(`^(\[[0-9a-f:.]+\]|[a-z0-9_][a-z0-9_-]*(\.[a-z0-9_-]+)*)(:[0-9]+)?$`)
	port  = map[string]string{"https": ":443", "http": ":80", "ssh": ":22", "git": ":9418"}
)

// Parse reads a URL as git, pip, npm, BuildKit and in-toto write it:
// "git+https://host/path@ref", "https://host/path.git#ref:folder",
// "git@host:path". User info is dropped, so that no password travels on.
//
// The user "git" over SSH is how forges serve what they also serve over HTTPS,
// so that such a URL becomes its https form. Other users' paths may be relative
// to their own home: those URLs stay ssh.
func Parse(s string) (URL, error) {
	if s == "" || len(s) > maxLength {
		return URL{}, fmt.Errorf("%w: it has %d bytes", ErrURL, len(s))
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ', c >= 0x7f, c == '\\', c == '%' && !strings.HasPrefix(s[i:], "%20"):
			return URL{}, fmt.Errorf("%w: it contains %q", ErrURL, c)
		}
	}
	var found URL
	s, fragment, _ := strings.Cut(s, "#")
	found.Ref, found.Dir, _ = strings.Cut(fragment, ":")

	if !strings.Contains(s, "://") {
		parts := short.FindStringSubmatch(s)
		if parts == nil {
			return URL{}, fmt.Errorf("%w: it has no scheme", ErrURL)
		}
		s = "ssh://" + parts[2] + "/" + parts[3]
		if parts[1] != "" {
			s = "ssh://" + parts[1] + "@" + parts[2] + "/" + parts[3]
		}
	}
	u, err := url.Parse(s)
	if err != nil {
		// The error would repeat the user info.
		return URL{}, fmt.Errorf("%w: it cannot be parsed", ErrURL)
	}
	if u.RawQuery != "" || u.ForceQuery {
		return URL{}, fmt.Errorf("%w: it has a query", ErrURL)
	}
	scheme := strings.TrimPrefix(strings.ToLower(u.Scheme), "git+")
	if _, known := port[scheme]; !known {
		return URL{}, fmt.Errorf("%w: the scheme %.40q is none of https, ssh, git and http", ErrURL, u.Scheme)
	}
	at := strings.TrimSuffix(strings.ToLower(u.Host), port[scheme])
	if !host.MatchString(at) {
		return URL{}, fmt.Errorf("%w: its host is no plain name", ErrURL)
	}
	if onDefaultPort := u.Port() == "" || ":"+u.Port() == port[scheme]; onDefaultPort && scheme == "ssh" && u.User != nil && u.User.Username() == "git" {
		scheme = "https"
	}

	path := strings.TrimPrefix(u.EscapedPath(), "/")
	if strings.Contains(strings.ReplaceAll(path, "%20", ""), "%") {
		return URL{}, fmt.Errorf("%w: its path has a character that must be escaped", ErrURL)
	}
	// An "@" that opens a segment belongs to its name.
	for i := 1; i < len(path); i++ {
		if path[i] == '@' && path[i-1] != '/' {
			if found.Ref == "" {
				found.Ref = path[i+1:]
			}
			path = path[:i]
			break
		}
	}
	path = strings.TrimSuffix(strings.TrimSuffix(path, "/"), ".git")
	for segment := range strings.SplitSeq(path, "/") {
		switch segment {
		case "", ".", "..":
			return URL{}, fmt.Errorf("%w: its path has an empty or dot segment", ErrURL)
		}
	}
	if strings.HasSuffix(path, ".git") {
		return URL{}, fmt.Errorf("%w: its path ends in .git twice", ErrURL)
	}
	found.Repository = scheme + "://" + at + "/" + path
	return found, nil
}
