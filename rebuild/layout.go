package rebuild

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// maxDocument bounds a manifest or a config in a layout, in bytes.
const maxDocument = 4 << 20

// OpenLayout opens the one image of an OCI image layout.
//
// https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
func OpenLayout(folder string) (*Image, error) {
	raw, err := readBounded(filepath.Join(folder, "index.json"))
	if err != nil {
		return nil, fmt.Errorf("reading the layout: %w", err)
	}
	m, err := oci.ParseManifest(raw, oci.MediaTypeImageIndex, "")
	for err == nil && m.Config == nil {
		if len(m.Manifests) != 1 {
			return nil, fmt.Errorf("reading the layout: it has %d images, not one", len(m.Manifests))
		}
		entry := m.Manifests[0]
		if raw, err = readBounded(blobPath(folder, entry.Digest)); err == nil {
			m, err = oci.ParseManifest(raw, entry.MediaType, entry.Digest)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the layout: %w", err)
	}
	config, err := readBounded(blobPath(folder, m.Config.Digest))
	if err != nil {
		return nil, fmt.Errorf("reading the layout: %w", err)
	}
	return &Image{Manifest: m, Config: config, Layer: func(_ context.Context, d oci.Descriptor) (io.ReadCloser, error) {
		return os.Open(blobPath(folder, d.Digest))
	}}, nil
}

func blobPath(folder string, d digest.Digest) string {
	return filepath.Join(folder, "blobs", d.Algorithm().String(), d.Encoded())
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxDocument+1))
	if err == nil && len(raw) > maxDocument {
		err = fmt.Errorf("%s has more than %d bytes", path, maxDocument)
	}
	return raw, err
}
