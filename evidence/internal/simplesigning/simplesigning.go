// Package simplesigning reads the JSON payload that both OpenPGP and cosign
// signatures of container images cover.
//
// It reads and never verifies: a Payload is a claim until the caller has
// checked a signature over the very bytes that it was parsed from.
//
// https://github.com/containers/image/blob/main/docs/containers-signature.5.md
// https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
package simplesigning

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence/internal/strictjson"
	"github.com/trustgate/trustgate/oci"
)

// The types of payload.
const (
	TypeAtomic = "atomic container signature"       // signed with OpenPGP
	TypeCosign = "cosign container image signature" // signed by cosign
)

// ErrPayload reports bytes that are no simple signing payload.
var ErrPayload = errors.New("not a simple signing payload")

// maxReference bounds the name that a payload claims: the registry's part is
// bounded by DNS, the repository's by 255, the tag's by 128, and a digest may
// follow.
const maxReference = 1024

// Payload is what a signature says.
type Payload struct {
	Digest    digest.Digest // critical.image.docker-manifest-digest
	Reference string        // critical.identity.docker-reference; foreign text, may be empty
}

// Parse reads a payload of the given type. A member of critical that TrustGate
// does not know is refused, since the signer made it a condition. The caller
// bounds the length of raw.
func Parse(raw []byte, wantType string) (*Payload, error) {
	payload, err := parse(raw, wantType)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPayload, err)
	}
	return payload, nil
}

func parse(raw []byte, wantType string) (*Payload, error) {
	document, err := strictjson.Exactly(raw, "critical", "optional")
	if err != nil {
		return nil, err
	}
	// cosign writes null for no annotations.
	if wantType != TypeCosign || !bytes.Equal(document["optional"], []byte("null")) {
		if _, err := strictjson.Object(document["optional"]); err != nil {
			return nil, fmt.Errorf("optional: %w", err)
		}
	}
	critical, err := strictjson.Exactly(document["critical"], "type", "image", "identity")
	if err != nil {
		return nil, fmt.Errorf("critical: %w", err)
	}
	if got, err := strictjson.String(critical["type"]); err != nil {
		return nil, fmt.Errorf("critical.type: %w", err)
	} else if got != wantType {
		return nil, fmt.Errorf("critical.type is %.80q, not %q", got, wantType)
	}
	image, err := strictjson.Exactly(critical["image"], "docker-manifest-digest")
	if err != nil {
		return nil, fmt.Errorf("critical.image: %w", err)
	}
	named, err := strictjson.String(image["docker-manifest-digest"])
	if err != nil {
		return nil, fmt.Errorf("critical.image.docker-manifest-digest: %w", err)
	}
	d, err := oci.ParseDigest(named)
	if err != nil {
		return nil, fmt.Errorf("critical.image.docker-manifest-digest: %w", err)
	}
	identity, err := strictjson.Exactly(critical["identity"], "docker-reference")
	if err != nil {
		return nil, fmt.Errorf("critical.identity: %w", err)
	}
	reference, err := strictjson.String(identity["docker-reference"])
	if err != nil {
		return nil, fmt.Errorf("critical.identity.docker-reference: %w", err)
	}
	if len(reference) > maxReference {
		return nil, fmt.Errorf("critical.identity.docker-reference has %d bytes, more than %d", len(reference), maxReference)
	}
	return &Payload{Digest: d, Reference: reference}, nil
}
