// Package source says where an image's source is and how that is known.
//
// It must never take the image's own word for more than a claim: only a
// provenance that a signer vouches for makes a source verified, and only the
// patterns of the configuration make it trusted.
package source

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/evidence/internal/giturl"
	"github.com/trustgate/trustgate/evidence/internal/pattern"
	"github.com/trustgate/trustgate/evidence/provenance"
)

// Where a source is known from.
const (
	ViaProvenance = "provenance"
	ViaAnnotation = "annotation"
	ViaLabel      = "label"
)

// maxText bounds what is taken from annotations and labels, in bytes.
const maxText = 2048

// Source is where an image was built from.
type Source struct {
	// Verified says that a signer vouches for a provenance whose builder
	// fetched the source itself.
	Verified bool
	Trusted  bool // Verified, and a pattern of trust.sources covers Repository

	// Repository is the URL in its plainest form: no user info, no ".git", no
	// ref. Text that names no git repository stands as it is and is never
	// trusted.
	Repository string
	Revision   string
	Ref        string
	Via        string                 // ViaProvenance, ViaAnnotation, ViaLabel, or "" when nothing is known
	Dockerfile *provenance.Dockerfile // as the provenance carries it, or nil

	// Recipes are the paths in the repository at which the Dockerfile may be, the
	// first that is there before the others. Assumed says that they are only
	// where one usually is: nothing says from which file was built.
	Recipes []string
	Assumed bool

	// URL is a page for people, or "": always https, and free of characters
	// that mean something in a header or in HTML.
	URL string
}

// CheckPattern says what is wrong with a pattern of trust.sources. One that is
// wrong trusts nothing.
func CheckPattern(s string) error {
	if _, err := compile(s); err != nil {
		return fmt.Errorf("the source %.200q: %w", s, err)
	}
	return nil
}

// compile brings a pattern into the form in which repositories are compared.
func compile(s string) (pattern.Pattern, error) {
	s = strings.TrimSuffix(strings.TrimPrefix(s, "git+"), "/")
	return pattern.Compile(strings.TrimSuffix(s, ".git"))
}

// Find says what is known best: a verified provenance before all claims, and
// among the claims the provenance before the annotations before the labels.
// trusted are globs over repositories, in which `*` stays within one path
// segment and `**` crosses them.
func Find(build *provenance.Build, labels map[string]string, trusted []string, annotations ...map[string]string) Source {
	found := fromProvenance(build, trusted)
	if found.Via != "" {
		return found
	}
	for _, a := range annotations {
		if claim := fromClaims(a, build, ViaAnnotation); claim.Via != "" {
			claim.Dockerfile = found.Dockerfile
			return claim
		}
	}
	claim := fromClaims(labels, build, ViaLabel)
	claim.Dockerfile = found.Dockerfile
	return claim
}

// setRecipes lists where the Dockerfile may be: where the provenance says, or
// else at the usual names. folder is where the URL of the source points to.
func (s *Source) setRecipes(build *provenance.Build, folder string) {
	var said provenance.Recipe
	if build != nil {
		said = build.Recipe
	}
	if s.Assumed = !said.Stated; said.Folder == "" {
		said.Folder = folder
	}
	names := []string{said.Name}
	if said.Name == "" {
		names = []string{"Dockerfile", "Containerfile"}
	}
	for _, name := range names {
		if said.Folder != "" {
			name = said.Folder + "/" + name
		}
		s.Recipes = append(s.Recipes, name)
	}
}

func fromProvenance(build *provenance.Build, trusted []string) Source {
	if build == nil {
		return Source{}
	}
	found := Source{Dockerfile: build.Dockerfile}
	if build.Repository == "" {
		return found
	}
	found.Via, found.Repository, found.Revision, found.Ref = ViaProvenance, build.Repository, build.Revision, build.Ref
	found.Verified = build.By.Verified() && !build.SourceStated
	found.setRecipes(build, "")
	parsed, err := giturl.Parse(build.Repository)
	if err != nil {
		return found
	}
	found.Repository = parsed.Repository
	if found.Ref == "" {
		found.Ref = parsed.Ref
	}
	found.URL = page(found.Repository, found.Revision)
	for _, t := range trusted {
		if p, err := compile(t); err == nil && found.Verified && p.Match(found.Repository) {
			found.Trusted = true
		}
	}
	return found
}

// fromClaims reads the image specification's predefined keys.
//
// https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md
func fromClaims(claims map[string]string, build *provenance.Build, via string) Source {
	found := Source{
		Via: via, Repository: clip(claims[ocispec.AnnotationSource]), Revision: clip(claims[ocispec.AnnotationRevision]),
		URL: safe(claims[ocispec.AnnotationURL]),
	}
	folder := ""
	if parsed, err := giturl.Parse(claims[ocispec.AnnotationSource]); err == nil {
		found.Repository, found.Ref = parsed.Repository, parsed.Ref
		folder = strings.Trim(parsed.Dir, "/")
		if found.Revision == "" && commit.MatchString(parsed.Ref) {
			found.Revision = parsed.Ref
		}
		if p := page(found.Repository, found.Revision); p != "" {
			found.URL = p
		}
	}
	if found.Repository == "" && found.Revision == "" && found.URL == "" {
		return Source{}
	}
	found.setRecipes(build, folder)
	return found
}

var (
	commit   = regexp.MustCompile(`^[0-9a-f]{7,64}$`)
	safePath = regexp.MustCompile(`^(/[A-Za-z0-9._~+@-]*)*$`)
	safeHost = regexp.MustCompile(`^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]{1,5})?$`)
)

// safe is the URL if it is one that may stand in a header or a page, else "".
func safe(s string) string {
	if len(s) > maxText {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" ||
		!safeHost.MatchString(u.Host) || !safePath.MatchString(u.EscapedPath()) {
		return ""
	}
	return "https://" + u.Host + u.EscapedPath()
}

// page is where a person can look at the revision. A host whose paths are not
// known gets the repository's own page.
func page(repository, revision string) string {
	base := safe(repository)
	if base == "" || !commit.MatchString(revision) {
		return base
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(base, "https://"), "/")
	forge, _, _ := strings.Cut(host, ".")
	switch {
	case host == "git.sr.ht":
		return base + "/tree/" + revision
	case host == "codeberg.org":
		forge = "gitea"
	}
	switch forge {
	case "github":
		return base + "/tree/" + revision
	case "gitlab":
		return base + "/-/tree/" + revision
	case "bitbucket":
		return base + "/src/" + revision
	case "gitea", "forgejo":
		return base + "/src/commit/" + revision
	}
	return base
}

// clip bounds foreign text.
func clip(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}
