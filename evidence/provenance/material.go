package provenance

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/package-url/packageurl-go"

	"github.com/trustgate/trustgate/oci"
)

// Material is something that went into the build.
type Material struct {
	URI    string
	Digest map[string]string // algorithm to encoded value; foreign text unless Image is set

	// Image is the container image that URI names, with its tag and without
	// its digest; zero for every other kind of material.
	Image    oci.Reference
	Platform string // of the image, as "linux/arm64/v8", or ""
}

// ImageDigest is the digest of the image that the material names, or "".
func (m Material) ImageDigest() digest.Digest {
	if m.Image.IsZero() {
		return ""
	}
	for _, algorithm := range []string{"sha256", "sha512"} {
		if d, err := oci.ParseDigest(algorithm + ":" + m.Digest[algorithm]); err == nil {
			return d
		}
	}
	return ""
}

// readImage fills in Image, Platform and the digests that the URI itself
// carries. An image that cannot be read is an error, not another material: it
// would be a parent that nobody looks at.
func (m *Material) readImage() error {
	named, err := m.imageName()
	if err != nil || named == "" {
		return err
	}
	ref, err := oci.ParseReference(named)
	if err != nil {
		return err
	}
	if d := ref.Digest(); d != "" {
		if err := m.pin(d); err != nil {
			return err
		}
	}
	for _, algorithm := range []string{"sha256", "sha512"} {
		if encoded, ok := m.Digest[algorithm]; ok {
			if _, err := oci.ParseDigest(algorithm + ":" + encoded); err != nil {
				return err
			}
		}
	}
	m.Image = ref.WithDigest("")
	return nil
}

// imageName is the reference that the URI stands for, or "" when it names no
// image.
func (m *Material) imageName() (string, error) {
	kind, rest, _ := strings.Cut(m.URI, ":")
	switch strings.ToLower(kind) {
	case "docker-image":
		if rest = strings.TrimPrefix(rest, "//"); rest == "" {
			return "", errors.New("the URI of an image without its name")
		}
		return rest, nil
	case "pkg":
	default:
		return "", nil
	}
	// Only these two types are read: the errors of all others are nobody's
	// business here.
	kind, _, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
	if kind = strings.ToLower(kind); kind != packageurl.TypeDocker && kind != packageurl.TypeOCI {
		return "", nil
	}
	purl, err := packageurl.FromString(m.URI)
	if err != nil {
		return "", fmt.Errorf("the package URL %.200q: %w", m.URI, err)
	}
	qualifiers := purl.Qualifiers.Map()
	if qualifiers["ref_type"] == "blob" {
		return "", nil // one blob of a registry, as BuildKit writes it
	}
	m.Platform = qualifiers["platform"]
	return m.purlName(purl, qualifiers)
}

// purlName joins the parts of a package URL. BuildKit writes the registry into
// the namespace; the specification wants it in repository_url, for the type oci
// together with the repository.
//
// https://github.com/package-url/purl-spec/blob/main/types-doc/oci-definition.md
func (m *Material) purlName(purl packageurl.PackageURL, qualifiers map[string]string) (string, error) {
	name := purl.Name
	if purl.Namespace != "" {
		name = purl.Namespace + "/" + name
	}
	if base := strings.TrimSuffix(qualifiers["repository_url"], "/"); base != "" {
		base = strings.TrimPrefix(strings.TrimPrefix(base, "https://"), "http://")
		if purl.Type == packageurl.TypeOCI && (base == name || strings.HasSuffix(base, "/"+name)) {
			name = base
		} else {
			name = base + "/" + name
		}
	}
	tag := qualifiers["tag"]
	if strings.Contains(purl.Version, ":") {
		d, err := oci.ParseDigest(purl.Version)
		if err != nil {
			return "", err
		}
		if err := m.pin(d); err != nil {
			return "", err
		}
	} else if purl.Version != "" {
		tag = purl.Version
	}
	if q := qualifiers["digest"]; q != "" {
		d, err := oci.ParseDigest(q)
		if err != nil {
			return "", err
		}
		if err := m.pin(d); err != nil {
			return "", err
		}
	}
	if tag != "" {
		if strings.ContainsAny(tag, "/@:") {
			return "", fmt.Errorf("%.80q is not a tag", tag)
		}
		name += ":" + tag
	}
	if strings.ContainsAny(name, "@ ") {
		return "", errors.New("the name of the image contains an @ or a space")
	}
	return name, nil
}

// pin adds a digest that the URI carries to those beside it.
func (m *Material) pin(d digest.Digest) error {
	algorithm := d.Algorithm().String()
	if beside, ok := m.Digest[algorithm]; ok && beside != d.Encoded() {
		return fmt.Errorf("the image %.200q has another digest beside it: %s:%.140s", m.URI, algorithm, beside)
	}
	m.Digest[algorithm] = d.Encoded()
	return nil
}
