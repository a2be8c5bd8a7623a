// Package pattern matches builder IDs and repository URLs against the globs
// that the configuration trusts.
//
// It must never match more than a reader of the pattern expects: text that two
// programs could read as two addresses matches nothing at all.
package pattern

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/gobwas/glob"
)

// maxSubject bounds the text that is matched, in bytes.
const maxSubject = 4096

// Pattern is a glob over URLs. `*` and `?` stay within one path segment, `**`
// crosses segments, `{a,b}` and `[a-z]` are as in a shell. The scheme and the
// host are compared without case, the path with it. The zero Pattern matches
// nothing.
type Pattern struct{ glob *glob.Pattern }

// Compile reads a pattern.
func Compile(s string) (Pattern, error) {
	if s == "" {
		return Pattern{}, errors.New("an empty pattern matches nothing: leave it out or write what it should match")
	}
	if len(s) > maxSubject {
		return Pattern{}, fmt.Errorf("a pattern of %d bytes is longer than %d", len(s), maxSubject)
	}
	compiled, err := glob.Compile(foldHost(s), '/')
	if err != nil {
		return Pattern{}, fmt.Errorf("reading the pattern %.200q: %w", s, err)
	}
	return Pattern{compiled}, nil
}

// CompilePrefix reads a pattern whose last `*` stands for anything that
// follows, slashes included: "https://github.com/acme/ci*" matches
// "https://github.com/acme/ci/.github/workflows/build.yml@refs/heads/main", and
// "https://github.com/acme/ci-tools" too. A `*` in the host stays in the host.
func CompilePrefix(s string) (Pattern, error) {
	_, rest, isURL := strings.Cut(s, "://")
	inPath := !isURL || strings.Contains(rest, "/")
	if inPath && strings.HasSuffix(s, "*") && !strings.HasSuffix(s, "**") && !strings.HasSuffix(s, `\*`) {
		s += "*"
	}
	return Compile(s)
}

// Match says whether the pattern covers the whole of s. User info, dot
// segments, empty segments and escapes other than that of a space never match.
func (p Pattern) Match(s string) bool {
	return p.glob != nil && plain(s) && p.glob.Match(foldHost(s))
}

var (
	scheme    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*$`)
	authority = regexp.MustCompile(`^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)(:[0-9]+)?$`)
)

// plain says whether s can be read in one way only.
func plain(s string) bool {
	if s == "" || len(s) > maxSubject {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ', c >= 0x7f, c == '\\':
			return false
		case c == '%' && !strings.HasPrefix(s[i:], "%20"):
			return false
		}
	}
	path := s
	if before, rest, isURL := strings.Cut(s, "://"); isURL {
		host, below, hasPath := strings.Cut(rest, "/")
		if !scheme.MatchString(before) || !authority.MatchString(host) {
			return false
		}
		if !hasPath {
			return true
		}
		path = below
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		if segment == "." || segment == ".." || (segment == "" && i < len(segments)-1) {
			return false
		}
	}
	return true
}

// foldHost lowers the scheme and the host of a URL.
func foldHost(s string) string {
	before, rest, isURL := strings.Cut(s, "://")
	if !isURL {
		return s
	}
	host, path, hasPath := strings.Cut(rest, "/")
	folded := strings.ToLower(before + "://" + host)
	if hasPath {
		folded += "/" + path
	}
	return folded
}
