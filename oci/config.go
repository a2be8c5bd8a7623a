package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrConfig reports bytes that are no image config.
var ErrConfig = errors.New("not an image config")

// ImageConfig is the part of an image's configuration that evidence is read
// from. All of it is the image's own word.
//
// https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md
type ImageConfig struct {
	Platform Platform
	Created  time.Time // zero when the config says nothing
	Labels   map[string]string
	DiffIDs  []digest.Digest

	User       string
	WorkingDir string
	Env        []string
	Volumes    []string // sorted
}

// ParseImageConfig reads an OCI or Docker image config. The caller bounds the
// length of raw.
func ParseImageConfig(raw []byte) (*ImageConfig, error) {
	var doc ocispec.Image
	if err := json.Unmarshal(raw, &doc); err != nil {
		// The error may repeat a number or a time of any length.
		return nil, fmt.Errorf("%w: %s", ErrConfig, clip(err.Error(), 300))
	}
	if err := refuseDuplicateKeys(raw); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrConfig, err)
	}
	if n := len(doc.RootFS.DiffIDs); n > MaxManifestEntries {
		return nil, fmt.Errorf("%w: %d diff_ids, more than %d", ErrConfig, n, MaxManifestEntries)
	}
	for i, d := range doc.RootFS.DiffIDs {
		if _, err := ParseDigest(d.String()); err != nil {
			return nil, fmt.Errorf("%w: diff_ids[%d]: %w", ErrConfig, i, err)
		}
	}
	config := &ImageConfig{Platform: doc.Platform, Labels: doc.Config.Labels, DiffIDs: doc.RootFS.DiffIDs}
	config.User, config.WorkingDir, config.Env = doc.Config.User, doc.Config.WorkingDir, doc.Config.Env
	config.Volumes = slices.Sorted(maps.Keys(doc.Config.Volumes))
	if doc.Created != nil {
		config.Created = *doc.Created
	}
	return config, nil
}

// ChainID identifies a stack of layers by content, whatever their compression.
//
// https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md#layer-chainid
func ChainID(diffIDs []digest.Digest) digest.Digest {
	var chain digest.Digest
	for i, d := range diffIDs {
		if i == 0 {
			chain = d
			continue
		}
		chain = digest.FromString(chain.String() + " " + d.String())
	}
	return chain
}
