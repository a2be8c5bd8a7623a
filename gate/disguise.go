package gate

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/oci"
)

// refuseDetours refuses descriptors through which a client gets content without
// asking here. containerd takes whatever a descriptor carries in data, and
// fetches from its urls before it asks the registry: an index could hand out an
// image for a platform that nobody judged. What an image manifest carries is
// covered by its own verdict, and the rules judge its layers.
func refuseDetours(m *oci.Manifest) error {
	for i, d := range m.Manifests {
		if len(d.URLs) > 0 || len(d.Data) > 0 {
			return fmt.Errorf("%w: manifests[%d] brings its content with it or has it fetched from elsewhere, past this gate; push the index without urls and data", oci.ErrManifest, i)
		}
	}
	if m.Config != nil && len(m.Config.URLs) > 0 {
		return fmt.Errorf("%w: the config is to be fetched from elsewhere, past this gate; push the image without urls", oci.ErrManifest)
	}
	return nil
}

// inertConfigs are configs of OCI manifests that no runtime takes for an
// image's, whatever the layers are.
var inertConfigs = []string{ocispec.MediaTypeEmptyJSON, "application/vnd.cncf.notary.signature"}

// isInert says whether what calls itself evidence is nothing that could be run.
// Docker and podman go by the config alone and unpack layers of any media type,
// and cosign's evidence has an ordinary image config; so the layers must be text
// that nobody can unpack. Evidence is small: more than the limits is no evidence.
func (g *Gate) isInert(ctx context.Context, src *origin, m *oci.Manifest) (bool, error) {
	if m.MediaType == oci.MediaTypeImageManifest && slices.Contains(inertConfigs, m.Config.MediaType) {
		return true, nil
	}
	limits := g.Limits.Evidence
	if len(m.Layers) > limits.Signatures {
		return false, nil
	}
	for _, l := range m.Layers {
		if l.Size > limits.Attestation {
			return false, nil
		}
		raw, err := src.Blob(ctx, l, limits.Attestation)
		if err != nil {
			return false, fmt.Errorf("reading the evidence: %w", err)
		}
		if unpacks(raw) {
			return false, nil
		}
	}
	return true, nil
}

// unpacks says whether the bytes could be an archive for anyone. Compressed ones
// are no text; a tar can be all text, and valid JSON as well, but has a checksum
// in each header.
func unpacks(raw []byte) bool {
	if !utf8.Valid(raw) || bytes.HasPrefix(raw, []byte("BZh")) {
		return true
	}
	if bytes.ContainsFunc(raw, func(r rune) bool { return (r < ' ' && r != '\t' && r != '\n' && r != '\r') || r == 0x7f }) {
		return true
	}
	for block := range slices.Chunk(raw, tarBlock) {
		if isTarHeader(block) {
			return true
		}
	}
	return false
}

const tarBlock = 512

// isTarHeader says whether the checksum of a header fits its block.
//
// https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_06
func isTarHeader(block []byte) bool {
	if len(block) < tarBlock {
		return false
	}
	field := block[148:156]
	said, err := strconv.ParseInt(string(bytes.Trim(field, " \x00")), 8, 64)
	if err != nil {
		return false
	}
	unsigned, signed := int64(0), int64(0)
	for i, b := range block {
		if i >= 148 && i < 156 {
			b = ' '
		}
		unsigned += int64(b)
		signed += int64(int8(b))
	}
	return said == unsigned || said == signed
}
