package dockerbuild

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/package-url/packageurl-go"
)

// Material is one thing that a provenance lists. All of it is foreign text.
type Material struct {
	URI    string
	Digest map[string]string // algorithm to hex
}

// maxURI bounds what a material may be called, in bytes.
const maxURI = 4096

// FromMaterial describes a material as the source that buildx would have asked
// about. It is nil for what no build takes in as a source of its own, such as a
// package of a language. What is unknown of it stays unknown: a material is
// described by its name and its digest.
func FromMaterial(m Material, platform string) (*Source, error) {
	s, err := describe(m, platform)
	if err != nil {
		return nil, fmt.Errorf("the material %.300q cannot be read: %w", m.URI, err)
	}
	if s != nil {
		s.unknown = append(s.unknown, envUnknown...)
	}
	return s, nil
}

func describe(m Material, platform string) (*Source, error) {
	if len(m.URI) > maxURI {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(m.URI), maxURI)
	}
	scheme, rest, found := strings.Cut(m.URI, ":")
	switch scheme = strings.ToLower(scheme); {
	case !found:
		return nil, nil
	case scheme == "pkg":
		return packageMaterial(m, platform)
	case scheme == "docker-image":
		return imageMaterial(strings.TrimPrefix(rest, "//"), m, platform)
	case strings.HasPrefix(scheme, "git+"), scheme == "git", scheme == "ssh", m.Digest["gitCommit"] != "", scpStyle.MatchString(m.URI):
		return gitMaterial(m)
	case scheme == "http", scheme == "https":
		if u, err := url.Parse(m.URI); err == nil && strings.HasSuffix(strings.ToLower(u.Path), ".git") {
			return gitMaterial(m)
		}
		return httpMaterial(m)
	}
	return nil, nil
}

// scpStyle is git's own short form: user@host:path.
var scpStyle = regexp.MustCompile(`^[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:[^/].*$`)

// packageMaterial reads a package URL as BuildKit writes it: of the type docker,
// with the registry in the namespace and the digest in a qualifier.
//
// https://github.com/package-url/purl-spec/blob/main/types-doc/docker-definition.md
func packageMaterial(m Material, platform string) (*Source, error) {
	kind, _, _ := strings.Cut(strings.TrimLeft(m.URI[len("pkg:"):], "/"), "/")
	if kind = strings.ToLower(kind); kind != packageurl.TypeDocker && kind != packageurl.TypeOCI {
		return nil, nil
	}
	purl, err := packageurl.FromString(m.URI)
	if err != nil {
		return nil, err
	}
	qualifiers := purl.Qualifiers.Map()
	name := purl.Name
	if purl.Namespace != "" {
		name = purl.Namespace + "/" + name
	}
	if base := strings.TrimSuffix(qualifiers["repository_url"], "/"); base != "" {
		base = strings.TrimPrefix(strings.TrimPrefix(base, "https://"), "http://")
		if base == name || strings.HasSuffix(base, "/"+name) {
			name = base
		} else {
			name = base + "/" + name
		}
	}
	digests := qualifiers["digest"]
	switch version := purl.Version; {
	case strings.Contains(version, ":"):
		if digests != "" && digests != version {
			return nil, errors.New("it names two digests")
		}
		digests = version
	case version != "":
		name += ":" + version
	case qualifiers["tag"] != "":
		name += ":" + qualifiers["tag"]
	case digests == "":
		name += ":latest"
	}
	if digests != "" {
		name += "@" + digests
	}
	if p := qualifiers["platform"]; p != "" {
		platform = p
	}
	return imageMaterial(name, m, platform)
}

func imageMaterial(ref string, m Material, platform string) (*Source, error) {
	beside := digest.Digest("")
	if encoded := m.Digest["sha256"]; encoded != "" {
		beside = digest.NewDigestFromEncoded(digest.SHA256, strings.TrimPrefix(encoded, "sha256:"))
		if err := beside.Validate(); err != nil {
			return nil, err
		}
		if !strings.Contains(ref, "@") {
			ref += "@" + beside.String()
		}
	}
	s, err := imageSource(ref, platform)
	if err != nil {
		return nil, err
	}
	switch {
	case beside != "" && s.Image.Checksum != beside.String():
		return nil, errors.New("another digest stands beside it")
	case s.Image.Checksum == "":
		s.unknown = append(s.unknown, "image.checksum")
	}
	s.unknown = append(s.unknown, configUnknown...)
	s.unknown = append(s.unknown, evidenceUnknown...)
	return s, nil
}

var commit = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)

func gitMaterial(m Material) (*Source, error) {
	g := &Git{FullURL: m.URI}
	text, fragment, _ := strings.Cut(m.URI, "#")
	ref, folder, _ := strings.Cut(fragment, ":")
	if scpStyle.MatchString(text) {
		user, _, _ := strings.Cut(text, ":")
		g.Schema, g.Remote = "ssh", text
		_, g.Host, _ = strings.Cut(user, "@")
	} else {
		plain := text
		if tail := strings.TrimPrefix(strings.ToLower(text), "git+"); len(tail) < len(text) {
			// pip, npm and in-toto write the ref behind an @.
			plain = text[len("git+"):]
			if at := strings.LastIndexByte(plain, '@'); at > strings.Index(plain, "://")+2 && strings.Contains(plain[:at], "/") && strings.Count(plain[:at], "/") > 2 {
				plain, ref = plain[:at], plain[at+1:]
			}
		}
		u, err := url.Parse(plain)
		if err != nil {
			return nil, errors.New("it is no URL")
		}
		switch u.Scheme {
		case "https", "http", "ssh", "git":
		default:
			return nil, fmt.Errorf("the scheme %.40q is none of https, http, ssh and git", u.Scheme)
		}
		if u.Host == "" {
			return nil, errors.New("it names no host")
		}
		g.Schema, g.Host = u.Scheme, u.Host
		u.RawQuery, u.Fragment = "", ""
		g.Remote = u.String()
	}
	if g.Subdir = folder; path.Clean(folder) == "/" || path.Clean(folder) == "." {
		g.Subdir = ""
	}
	s := &Source{Git: g}
	s.setRevision(ref, m.Digest)
	s.unknown = append(s.unknown, gitUnknown...)
	return s, nil
}

// setRevision fills in what the ref and the recorded commit say together.
func (s *Source) setRevision(ref string, digests map[string]string) {
	g := s.Git
	recorded := ""
	for _, algorithm := range []string{"gitCommit", "sha1", "sha256"} {
		if recorded == "" && commit.MatchString(digests[algorithm]) {
			recorded = digests[algorithm]
		}
	}
	unknown := func(fields ...string) {
		for _, field := range fields {
			s.unknown = append(s.unknown, "git."+field)
		}
	}
	tag, isTag := strings.CutPrefix(ref, "refs/tags/")
	branch, isBranch := strings.CutPrefix(ref, "refs/heads/")
	switch {
	case commit.MatchString(ref):
		g.IsCommitRef, g.Ref, recorded = true, ref, ref
	case isTag:
		g.TagName, g.Ref = tag, ref
	case isBranch:
		g.Branch, g.Ref = branch, ref
	default:
		// A branch or a tag: only the host could tell.
		unknown("tagName", "branch", "ref")
	}
	switch {
	case recorded == "":
		unknown("checksum", "commitChecksum", "isSHA256", "isAnnotatedTag")
		return
	case g.IsCommitRef, isBranch:
		g.Checksum = recorded
	default:
		// Of an annotated tag it is the tag's own.
		unknown("checksum", "isAnnotatedTag")
	}
	g.CommitChecksum, g.IsSHA256 = recorded, len(recorded) == 64
}

// Tagged says that the source's revision is what the tag points at, which a
// verifier found: a ref that is the tag's name is the tag's then.
func (s *Source) Tagged(name, revision string) {
	g := s.Git
	if g == nil || name == "" || g.CommitChecksum == "" || g.CommitChecksum != revision {
		return
	}
	text, fragment, _ := strings.Cut(g.FullURL, "#")
	ref, _, _ := strings.Cut(fragment, ":")
	if g.Ref != "" || (ref != name && !strings.HasSuffix(text, "@"+name)) {
		return
	}
	g.TagName, g.Ref = name, "refs/tags/"+name
	known := map[string]bool{"git.tagName": true, "git.branch": true, "git.ref": true}
	kept := s.unknown[:0]
	for _, field := range s.unknown {
		if !known[field] {
			kept = append(kept, field)
		}
	}
	s.unknown = kept
}

func httpMaterial(m Material) (*Source, error) {
	u, err := url.Parse(m.URI)
	if err != nil {
		return nil, errors.New("it is no URL")
	}
	host, err := httpHost(u)
	if err != nil {
		return nil, err
	}
	h := &HTTP{URL: m.URI, Schema: strings.ToLower(u.Scheme), Host: host, Path: u.Path, Query: u.Query()}
	s := &Source{HTTP: h, unknown: append([]string{}, httpUnknown...)}
	d := digest.NewDigestFromEncoded(digest.SHA256, m.Digest["sha256"])
	if d.Validate() == nil {
		h.Checksum = d.String()
	} else {
		s.unknown = append(s.unknown, "http.checksum")
	}
	return s, nil
}

// httpHost brings a host into the form that policies compare with: lower case,
// addresses in their plainest form, no port that the scheme has anyway.
func httpHost(u *url.URL) (string, error) {
	host, port := u.Hostname(), u.Port()
	address, err := netip.ParseAddr(host)
	switch {
	case err == nil:
		host = address.String()
	case host == "":
		return "", errors.New("it names no host")
	default:
		for _, c := range []byte(host) {
			if c >= 0x80 {
				return "", errors.New("its host is not written in ASCII")
			}
		}
		host = strings.TrimSuffix(strings.ToLower(host), ".")
	}
	if scheme := strings.ToLower(u.Scheme); port == "80" && scheme == "http" || port == "443" && scheme == "https" {
		port = ""
	}
	switch {
	case port != "":
		return net.JoinHostPort(host, port), nil
	case strings.Contains(host, ":"):
		return "[" + host + "]", nil
	}
	return host, nil
}
