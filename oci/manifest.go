package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of the manifests that TrustGate gates.
const (
	MediaTypeImageManifest  = ocispec.MediaTypeImageManifest
	MediaTypeImageIndex     = ocispec.MediaTypeImageIndex
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"

	mediaTypeSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	mediaTypeSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// MediaTypeDockerConfig is Docker's image config; the OCI one is
// ocispec.MediaTypeImageConfig.
const MediaTypeDockerConfig = "application/vnd.docker.container.image.v1+json"

// ManifestMediaTypes is what TrustGate asks upstreams for, in order of
// preference: OCI before Docker, an index before one of its images.
var ManifestMediaTypes = []string{
	MediaTypeImageIndex, MediaTypeDockerList, MediaTypeImageManifest, MediaTypeDockerManifest,
}

// MaxManifestEntries bounds the layers of an image and the manifests of an
// index. The most that real images carry is a few hundred.
const MaxManifestEntries = 2048

var (
	// ErrSchema1 reports a Docker schema 1 manifest: its signatures are by
	// throw-away keys and its layers carry no digests that bind the config.
	ErrSchema1 = errors.New("a Docker schema 1 manifest; push the image again with a client of this decade")

	// ErrManifest reports bytes that are no manifest TrustGate can judge.
	ErrManifest = errors.New("not a manifest TrustGate can judge")
)

// Kind tells what a manifest is, from its content alone.
type Kind string

const (
	KindImage    Kind = "image"    // something that a runtime can run
	KindIndex    Kind = "index"    // a list of manifests
	KindArtifact Kind = "artifact" // a chart, a model, a module: judged like an image
	KindEvidence Kind = "evidence" // signatures, attestations, by the types of its layers
)

// Manifest is a parsed manifest together with the bytes that were hashed.
type Manifest struct {
	Raw          []byte        // exactly as the upstream sent them
	Digest       digest.Digest // of Raw
	MediaType    string        // as checked against the content
	Kind         Kind
	ArtifactType string
	Config       *Descriptor // nil for an index
	Layers       []Descriptor
	Manifests    []Descriptor // of an index
	Subject      *Descriptor
	Annotations  map[string]string
}

// Descriptor describes m as an index or a referrers list would.
func (m *Manifest) Descriptor() Descriptor {
	return Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw)), ArtifactType: m.ArtifactType, Annotations: m.Annotations}
}

// References lists every blob that m commits to: its config and its layers.
func (m *Manifest) References() []Descriptor {
	if m.Config == nil {
		return m.Layers
	}
	return append([]Descriptor{*m.Config}, m.Layers...)
}

type manifestDocument struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *Descriptor       `json:"config"`
	Layers        *[]Descriptor     `json:"layers"`
	Manifests     *[]Descriptor     `json:"manifests"`
	Blobs         *[]Descriptor     `json:"blobs"`
	FSLayers      json.RawMessage   `json:"fsLayers"`
	Subject       *Descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// ParseManifest reads an OCI image manifest or index, or a Docker schema 2
// manifest or list. contentType is what the upstream's header said; it must
// agree with the document (CVE-2021-41190). An empty contentType trusts the
// document's own mediaType. d names the digest that raw must have; when empty
// it is computed with sha256.
//
// The caller bounds the length of raw.
//
// https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md
// https://github.com/opencontainers/image-spec/blob/v1.1.1/image-index.md
// https://distribution.github.io/distribution/spec/manifest-v2-2/
func ParseManifest(raw []byte, contentType string, d digest.Digest) (*Manifest, error) {
	if d != "" {
		if _, err := ParseDigest(d.String()); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrManifest, err)
		}
	}
	computed := DigestOf(raw, d)
	if d != "" && computed != d {
		return nil, fmt.Errorf("%w: its bytes hash to %s, not to %s", ErrManifest, computed, d)
	}
	declared := ""
	if contentType != "" {
		var err error
		if declared, _, err = mime.ParseMediaType(contentType); err != nil {
			return nil, fmt.Errorf("%w: content type %q: %v", ErrManifest, clip(contentType, 120), err)
		}
	}
	if declared == mediaTypeSchema1 || declared == mediaTypeSchema1Signed {
		return nil, ErrSchema1
	}
	doc, err := decodeManifest(raw)
	if err != nil {
		return nil, err
	}
	mediaType := doc.MediaType
	if mediaType == "" {
		if mediaType = declared; !slices.Contains(ManifestMediaTypes, mediaType) {
			// The OCI documents may leave mediaType out, and some servers
			// then answer application/json.
			if mediaType = MediaTypeImageManifest; doc.Manifests != nil {
				mediaType = MediaTypeImageIndex
			}
		}
	} else if slices.Contains(ManifestMediaTypes, declared) && declared != mediaType {
		return nil, fmt.Errorf("%w: the header says %s, the document %s", ErrManifest, declared, clip(mediaType, 120))
	}

	m := &Manifest{
		Raw: raw, Digest: computed, MediaType: mediaType,
		ArtifactType: doc.ArtifactType, Subject: doc.Subject, Annotations: doc.Annotations,
	}
	switch mediaType {
	case MediaTypeImageIndex, MediaTypeDockerList:
		if doc.Manifests == nil || doc.Config != nil || doc.Layers != nil {
			return nil, fmt.Errorf("%w: an index has manifests and neither config nor layers", ErrManifest)
		}
		m.Manifests = *doc.Manifests
	case MediaTypeImageManifest, MediaTypeDockerManifest:
		if doc.Config == nil || doc.Layers == nil || doc.Manifests != nil {
			return nil, fmt.Errorf("%w: an image manifest has config and layers and no manifests", ErrManifest)
		}
		m.Config, m.Layers = doc.Config, *doc.Layers
	default:
		return nil, fmt.Errorf("%w: media type %q", ErrManifest, clip(mediaType, 120))
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	m.Kind = m.classify()
	if m.ArtifactType == "" && m.Kind != KindImage && m.Config != nil {
		// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers
		m.ArtifactType = m.Config.MediaType
	}
	return m, nil
}

func decodeManifest(raw []byte) (*manifestDocument, error) {
	var doc manifestDocument
	if err := json.Unmarshal(raw, &doc); err != nil {
		// The error may repeat a number of any length.
		return nil, fmt.Errorf("%w: %s", ErrManifest, clip(err.Error(), 300))
	}
	if err := refuseDuplicateKeys(raw); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrManifest, err)
	}
	if doc.SchemaVersion == 1 || doc.FSLayers != nil || doc.MediaType == mediaTypeSchema1 || doc.MediaType == mediaTypeSchema1Signed {
		return nil, ErrSchema1
	}
	if doc.SchemaVersion != 2 {
		return nil, fmt.Errorf("%w: schemaVersion is %d, not 2", ErrManifest, doc.SchemaVersion)
	}
	if doc.Blobs != nil {
		return nil, fmt.Errorf("%w: the withdrawn artifact manifest; use an image manifest with an artifactType", ErrManifest)
	}
	return &doc, nil
}

func (m *Manifest) check() error {
	if n := max(len(m.Layers), len(m.Manifests)); n > MaxManifestEntries {
		return fmt.Errorf("%d entries, more than %d", n, MaxManifestEntries)
	}
	if m.Config != nil {
		if err := checkDescriptor("config", *m.Config); err != nil {
			return err
		}
	}
	for i, d := range m.Layers {
		if err := checkDescriptor(fmt.Sprintf("layers[%d]", i), d); err != nil {
			return err
		}
	}
	for i, d := range m.Manifests {
		if err := checkDescriptor(fmt.Sprintf("manifests[%d]", i), d); err != nil {
			return err
		}
	}
	if m.Subject != nil {
		return checkDescriptor("subject", *m.Subject)
	}
	return nil
}
