package cache

import (
	"fmt"
	"strings"

	"github.com/gobwas/glob"
)

// Pin names images that are never evicted: a pattern of repositories with their
// registry, and perhaps one of tags.
type Pin struct {
	text       string
	repository *glob.Pattern
	tag        *glob.Pattern // nil is every manifest of the repository
}

// ParsePin reads registry/repository or registry/repository:tag, where * stands
// for anything but a slash and ** for anything, as in the scopes of a route.
func ParsePin(s string) (Pin, error) {
	repository, tag := s, ""
	if colon := strings.LastIndexByte(s, ':'); colon > strings.LastIndexByte(s, '/') {
		if repository, tag = s[:colon], s[colon+1:]; tag == "" {
			return Pin{}, fmt.Errorf("%q ends where its tag should be", s)
		}
	}
	registry, rest, found := strings.Cut(repository, "/")
	if !found || registry == "" || rest == "" || strings.Contains(rest, "@") {
		return Pin{}, fmt.Errorf("%q is not a repository with its registry and perhaps a tag, such as docker.io/library/debian:12 or registry.example/base/*", s)
	}
	p := Pin{text: s}
	var err error
	// As RepositoryName writes it; a pattern for an IPv6 address is one for the
	// address in full.
	registry = strings.ReplaceAll(strings.ToLower(registry), ":", "_")
	if p.repository, err = glob.Compile(registry+"/"+rest, '/'); err != nil {
		return Pin{}, fmt.Errorf("%q is not a pattern: %w", s, err)
	}
	if tag != "" {
		if p.tag, err = glob.Compile(tag); err != nil {
			return Pin{}, fmt.Errorf("%q is not a pattern: %w", s, err)
		}
	}
	return p, nil
}

func (p Pin) String() string { return p.text }

// matches says whether the cache's repository is meant at all.
func (p Pin) matches(name string) bool { return p.repository != nil && p.repository.Match(name) }
