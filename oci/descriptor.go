package oci

import (
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Descriptor is the image specification's content descriptor.
//
// https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md
type Descriptor = ocispec.Descriptor

// Platform is the image specification's platform.
type Platform = ocispec.Platform

// checkDescriptor holds a foreign descriptor to what TrustGate relies on: a
// digest it can compute and a size that is a size.
func checkDescriptor(where string, d Descriptor) error {
	if _, err := ParseDigest(d.Digest.String()); err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	if d.Size < 0 {
		return fmt.Errorf("%s: size %d is negative", where, d.Size)
	}
	if d.MediaType == "" {
		return fmt.Errorf("%s: no media type", where)
	}
	return nil
}

// FormatPlatform writes a platform as clients do: os/architecture[/variant].
func FormatPlatform(p *Platform) string {
	if p == nil || p.OS == "" {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// DigestOf hashes b with the algorithm of like, or sha256 when like is empty.
func DigestOf(b []byte, like digest.Digest) digest.Digest {
	if like == "" {
		return digest.FromBytes(b)
	}
	return like.Algorithm().FromBytes(b)
}
