package oci

import (
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// evidenceLayerTypes are the media types of layers that carry signatures and
// statements. Some runtimes unpack layers of any type, if the config is an
// image's: a media type is no proof that the bytes are harmless.
var evidenceLayerTypes = []string{
	"application/vnd.dev.cosign.simplesigning.v1+json",
	"application/vnd.dsse.envelope.v1+json",
	"application/vnd.in-toto+json",
	"application/jose+json", // notation, JWS
	"application/cose",      // notation, COSE
	"application/vnd.containers.simplesigning.v1+pgp",
	"application/spdx+json",
	"text/spdx+json",
	"text/spdx",
	"application/vnd.cyclonedx+json",
	"application/vnd.cyclonedx+xml",
	"application/vnd.syft+json",
}

// evidenceLayerPrefixes are evidence media types that carry a version.
var evidenceLayerPrefixes = []string{
	"application/vnd.dev.sigstore.bundle",
}

// IsEvidenceLayer says whether a layer of this media type is evidence about an
// image rather than a part of one.
func IsEvidenceLayer(mediaType string) bool {
	return slices.Contains(evidenceLayerTypes, mediaType) ||
		slices.ContainsFunc(evidenceLayerPrefixes, func(p string) bool { return strings.HasPrefix(mediaType, p) })
}

// classify goes by content, never by tag or client: an image that is pushed as
// sha256-….sig is an image. The config's media type is no help either, since
// cosign's signatures carry an ordinary image config.
func (m *Manifest) classify() Kind {
	if m.Config == nil {
		return KindIndex
	}
	if len(m.Layers) > 0 && !slices.ContainsFunc(m.Layers, func(l Descriptor) bool { return !IsEvidenceLayer(l.MediaType) }) {
		return KindEvidence
	}
	switch m.Config.MediaType {
	case ocispec.MediaTypeImageConfig, MediaTypeDockerConfig:
		// A runtime runs whatever has an image config, whatever it calls itself.
		return KindImage
	}
	return KindArtifact
}

// IsForeignLayer says whether a client would fetch the layer from somewhere
// else than the registry: a non-distributable media type or its own URLs
// (CVE-2020-15157).
func IsForeignLayer(d Descriptor) bool {
	return len(d.URLs) > 0 ||
		strings.Contains(d.MediaType, "nondistributable") ||
		strings.Contains(d.MediaType, ".foreign.")
}

// IsAttestationManifest says whether an index entry is BuildKit's attestation
// manifest for another entry, and for which.
//
// https://github.com/moby/buildkit/blob/v0.24.0/docs/attestations/attestation-storage.md
func IsAttestationManifest(d Descriptor) (subject string, ok bool) {
	if d.Annotations["vnd.docker.reference.type"] != "attestation-manifest" {
		return "", false
	}
	return d.Annotations["vnd.docker.reference.digest"], true
}
