package shipyard

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
)

// Image is an image or an index that was published.
type Image struct {
	Registry   string
	Repository string
	Tag        string
	Digest     digest.Digest
	Content    v1.Image      // nil for an index
	Index      v1.ImageIndex // nil for an image
}

// Reference is registry/repository:tag.
func (i *Image) Reference() string { return i.Registry + "/" + i.Repository + ":" + i.Tag }

// Name is registry/repository.
func (i *Image) Name() string { return i.Registry + "/" + i.Repository }

// Build stacks one layer with the given files upon base, or upon nothing.
func Build(base *Image, files map[string]string) (v1.Image, error) {
	var below v1.Image = mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	if base != nil {
		below = base.Content
	}
	layer, err := Layer(files)
	if err != nil {
		return nil, err
	}
	built, err := mutate.AppendLayers(below, layer)
	if err != nil {
		return nil, err
	}
	config, err := built.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Config.Cmd = []string{"/bin/app"}
	return mutate.ConfigFile(built, config)
}

// Layer packs files, by path and content, in a fixed order.
func Layer(files map[string]string) (v1.Layer, error) {
	var packed bytes.Buffer
	tw := tar.NewWriter(&packed)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if err := tw.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(files[path]))}); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(tw, files[path]); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
}

// Annotate returns the image with manifest annotations.
func Annotate(image v1.Image, annotations map[string]string) v1.Image {
	return mutate.Annotations(image, annotations).(v1.Image)
}

// Push publishes an image under repository:tag.
func (r *Registry) Push(ctx context.Context, repository, tag string, image v1.Image) (*Image, error) {
	ref, err := r.tag(repository, tag)
	if err != nil {
		return nil, err
	}
	if err := remote.Write(ref, image, remote.WithContext(ctx)); err != nil {
		return nil, fmt.Errorf("publishing %s: %w", ref, err)
	}
	d, err := image.Digest()
	if err != nil {
		return nil, err
	}
	return &Image{Registry: r.Addr, Repository: repository, Tag: tag, Digest: digest.Digest(d.String()), Content: image}, nil
}

// PushIndex publishes an index of the images, in turn for the given platforms.
func (r *Registry) PushIndex(ctx context.Context, repository, tag string, platforms []string, images ...v1.Image) (*Image, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for i, image := range images {
		platform, err := v1.ParsePlatform(platforms[i])
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
	}
	return r.WriteIndex(ctx, repository, tag, index)
}

// WriteIndex publishes an index as it is.
func (r *Registry) WriteIndex(ctx context.Context, repository, tag string, index v1.ImageIndex) (*Image, error) {
	ref, err := r.tag(repository, tag)
	if err != nil {
		return nil, err
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(ctx)); err != nil {
		return nil, fmt.Errorf("publishing %s: %w", ref, err)
	}
	d, err := index.Digest()
	if err != nil {
		return nil, err
	}
	return &Image{Registry: r.Addr, Repository: repository, Tag: tag, Digest: digest.Digest(d.String()), Index: index}, nil
}

func (r *Registry) tag(repository, tag string) (name.Tag, error) {
	return name.NewTag(r.Addr+"/"+repository+":"+tag, name.Insecure, name.StrictValidation)
}
