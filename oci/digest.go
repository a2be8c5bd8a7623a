package oci

import (
	_ "crypto/sha256" // registers the algorithms that go-digest knows by name
	_ "crypto/sha512"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// ErrDigest reports a string that is not a digest TrustGate accepts.
var ErrDigest = errors.New("not a digest")

// ParseDigest accepts sha256 and sha512 digests in their one canonical form:
// a lower-case algorithm, a colon and the full lower-case hex.
//
// The image specification allows other algorithms; a gate that hashes every
// byte cannot admit one that it cannot compute.
//
// https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#digests
func ParseDigest(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	if isSHA256(s) {
		return d, nil
	}
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("%w: %q: %v", ErrDigest, clip(s, 160), err)
	}
	switch d.Algorithm() {
	case digest.SHA256, digest.SHA512:
		return d, nil
	}
	return "", fmt.Errorf("%w: %q: only sha256 and sha512 are supported", ErrDigest, clip(s, 160))
}

// isSHA256 says whether s is a digest of the kind that nearly all are. The parser of
// the others takes longer than all else that is done for a blob in memory.
func isSHA256(s string) bool {
	encoded, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(encoded) != 64 {
		return false
	}
	for i := range len(encoded) {
		if c := encoded[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// clip bounds foreign text that goes into an error message.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}

// ErrNotFound reports that a registry says there is no such manifest, blob or
// tag. It is an answer; failing to get one is another error.
var ErrNotFound = errors.New("not found")
