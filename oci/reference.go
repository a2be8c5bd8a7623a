package oci

import (
	"encoding"
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// ErrReference reports a string that is not an image reference.
var ErrReference = errors.New("not an image reference")

// Reference names an image: a registry, a repository in it, and a tag, a
// digest, both or neither. It can only be made by the parsers of this package,
// so a Reference that is not zero is well-formed.
//
// The registry is the name that people write ("docker.io"), never the address
// that TrustGate dials.
type Reference struct {
	registry   string
	repository string
	tag        string
	digest     digest.Digest
}

var (
	_ encoding.TextMarshaler   = Reference{}
	_ encoding.TextUnmarshaler = (*Reference)(nil)
)

// ParseReference reads what a person types: "nginx", "ghcr.io/acme/app:1",
// "host:5000/app@sha256:…". A name without a registry belongs to docker.io, as
// in every container client; nothing is added for a missing tag.
func ParseReference(s string) (Reference, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Reference{}, fmt.Errorf("%w: %q: %v", ErrReference, clip(s, 300), err)
	}
	ref := Reference{registry: reference.Domain(named), repository: reference.Path(named)}
	if tagged, ok := named.(reference.Tagged); ok {
		ref.tag = tagged.Tag()
	}
	if digested, ok := named.(reference.Digested); ok {
		if ref.digest, err = ParseDigest(digested.Digest().String()); err != nil {
			return Reference{}, fmt.Errorf("%w: %q: %w", ErrReference, clip(s, 300), err)
		}
	}
	return ref, nil
}

// NewReference joins a registry and a repository path as they stand in a
// request. On docker.io a single-word repository gets its "library/".
func NewReference(registry, repository string) (Reference, error) {
	if registry == "" || repository == "" {
		return Reference{}, fmt.Errorf("%w: the registry and the repository must both be named", ErrReference)
	}
	ref, err := ParseReference(registry + "/" + repository)
	if err != nil {
		return Reference{}, err
	}
	if ref.registry != registry || ref.tag != "" || ref.digest != "" || !strings.HasSuffix(ref.repository, repository) {
		return Reference{}, fmt.Errorf("%w: %q is not a repository of %q", ErrReference, clip(repository, 300), clip(registry, 300))
	}
	return ref, nil
}

// Registry is the host, with its port if it has one.
func (r Reference) Registry() string { return r.registry }

// Repository is the path below the registry.
func (r Reference) Repository() string { return r.repository }

// Tag is the tag, or "".
func (r Reference) Tag() string { return r.tag }

// Digest is the digest, or "".
func (r Reference) Digest() digest.Digest { return r.digest }

// Name is registry/repository, without tag and digest.
func (r Reference) Name() string { return r.registry + "/" + r.repository }

// IsZero says whether r names nothing.
func (r Reference) IsZero() bool { return r == Reference{} }

// String is the full form, which ParseReference reads back.
func (r Reference) String() string {
	if r.IsZero() {
		return ""
	}
	s := r.Name()
	if r.tag != "" {
		s += ":" + r.tag
	}
	if r.digest != "" {
		s += "@" + r.digest.String()
	}
	return s
}

// Familiar is the form that people write for it: "nginx:1" for
// docker.io/library/nginx:1. Where leaving docker.io out would name another
// registry, as for docker.io/localhost/app, it is the full form.
func (r Reference) Familiar() string {
	named, err := reference.ParseNormalizedNamed(r.String())
	if err != nil {
		return r.String()
	}
	familiar := reference.FamiliarString(named)
	if again, err := ParseReference(familiar); err != nil || again != r {
		return r.String()
	}
	return familiar
}

// WithTag names another tag of the same repository and drops the digest.
func (r Reference) WithTag(tag string) (Reference, error) {
	if !isTag(tag) {
		return Reference{}, fmt.Errorf("%w: %q is not a tag", ErrReference, clip(tag, 160))
	}
	return Reference{registry: r.registry, repository: r.repository, tag: tag}, nil
}

// isTag says what [reference.TagRegexp] says of the whole, of every pull by tag.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests
func isTag(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_':
		case i > 0 && (c == '.' || c == '-'):
		default:
			return false
		}
	}
	return 0 < len(s) && len(s) <= 128
}

// WithDigest pins r to a digest and keeps its tag: the tag is how the person
// asked, the digest what it meant.
func (r Reference) WithDigest(d digest.Digest) Reference {
	r.digest = d
	return r
}

// WithoutTag drops the tag.
func (r Reference) WithoutTag() Reference {
	r.tag = ""
	return r
}

// InRepository keeps the registry and repository alone.
func (r Reference) InRepository() Reference {
	return Reference{registry: r.registry, repository: r.repository}
}

// MarshalText is String.
func (r Reference) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseReference; the empty text is the zero Reference.
func (r *Reference) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*r = Reference{}
		return nil
	}
	parsed, err := ParseReference(string(text))
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}
