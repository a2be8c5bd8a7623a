package cache

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/oci"
)

// What became of an image in an export.
const (
	Exported   = "exported"
	Incomplete = "incomplete" // the cache lacks some of it
	Damaged    = "damaged"    // what the cache has is wrong; the scrub will drop it
	Refused    = "refused"    // whoever was asked did not want it
)

// containerdName is the annotation by which `ctr images import` names an image.
const containerdName = "io.containerd.image.name"

// Copied is one image of an export and what became of it.
type Copied struct {
	Reference oci.Reference // with its digest, and its tag if one names it
	MediaType string
	State     string
	Detail    string // why it is not there, or which of its images are not
	Bytes     int64  // that were written for it and for no image before it
}

// Choice says whether an image is to be exported, and if not, why.
type Choice func(ref oci.Reference, kind oci.Kind) (refusal string, err error)

// Export copies images that are complete, and that choose wants, into an OCI
// image layout: a new or empty folder or, if its name ends in .tar, a file. only
// narrows them down, unless it is empty. Every byte is hashed on the way. An
// index comes with those of its images that are complete and wanted.
//
// told, which may be nil, is called with the bytes of each blob as it is
// written.
//
// https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
func (c *Cache) Export(ctx context.Context, to string, only []Pin, choose Choice, told func(int64)) ([]Copied, error) {
	found, err := Survey(ctx, c.driver)
	if err != nil {
		return nil, err
	}
	layout, err := createLayout(to)
	if err != nil {
		return nil, fmt.Errorf("exporting the cache: %w", err)
	}
	e := export{
		cache: c, Inventory: found, layout: layout, only: only, choose: choose, told: told,
		written: map[digest.Digest]bool{}, wrong: map[digest.Digest]bool{}, index: []ocispec.Descriptor{},
	}
	list, err := e.run(ctx)
	if closeErr := layout.close(err == nil); err == nil && closeErr != nil {
		err = closeErr
	}
	if err != nil {
		return list, fmt.Errorf("exporting the cache: %w", err)
	}
	return list, nil
}

type export struct {
	*Inventory
	cache   *Cache
	layout  layout
	only    []Pin
	choose  Choice
	told    func(int64)
	written map[digest.Digest]bool
	wrong   map[digest.Digest]bool
	index   []ocispec.Descriptor
}

func (e *export) run(ctx context.Context) (list []Copied, err error) {
	for _, r := range e.Repositories {
		repository, err := repositoryReference(r.Name)
		if err != nil {
			continue // nothing that TrustGate made
		}
		for _, top := range tops(r) {
			if !e.meant(r, top) {
				continue
			}
			ref := repository
			if top.tag != "" {
				if ref, err = repository.WithTag(top.tag); err != nil {
					return list, err
				}
			}
			copied, err := e.image(ctx, r, ref.WithDigest(top.digest))
			if err != nil {
				return list, err
			}
			if copied.State == Exported {
				e.name(copied)
			}
			list = append(list, copied)
		}
	}
	return list, e.finish()
}

func (e *export) meant(r *Repository, t top) bool {
	return len(e.only) == 0 || slices.ContainsFunc(e.only, func(p Pin) bool {
		return p.matches(r.Name) && (p.tag == nil || p.tag.Match(t.tag))
	})
}

// name puts an image into the layout's index.
func (e *export) name(c Copied) {
	name := c.Reference.Name() + ":" + c.Reference.Tag()
	if c.Reference.Tag() == "" {
		name = c.Reference.String()
	}
	e.index = append(e.index, ocispec.Descriptor{
		MediaType: c.MediaType, Digest: c.Reference.Digest(), Size: e.Content[c.Reference.Digest()].Size,
		Annotations: map[string]string{ocispec.AnnotationRefName: name, containerdName: name},
	})
}

type top struct {
	tag    string
	digest digest.Digest
}

// tops lists what a person would ask the repository for: its tags, and the
// manifests that neither a tag nor an index leads to.
func tops(r *Repository) (list []top) {
	led := map[digest.Digest]bool{}
	for _, tag := range slices.Sorted(maps.Keys(r.Tags)) {
		list = append(list, top{tag, r.Tags[tag]})
		led[r.Tags[tag]] = true
	}
	for _, m := range r.Manifests {
		for _, child := range m.Manifests {
			led[child.Digest] = true
		}
	}
	for _, d := range slices.Sorted(maps.Keys(r.Manifests)) {
		if !led[d] {
			list = append(list, top{"", d})
		}
	}
	return list
}

func (e *export) image(ctx context.Context, r *Repository, ref oci.Reference) (Copied, error) {
	m := r.Manifests[ref.Digest()]
	if m == nil || m.MediaType == "" {
		return Copied{Reference: ref, State: Incomplete, Detail: "not pulled, or not served"}, nil
	}
	out := Copied{Reference: ref, MediaType: m.MediaType}
	refusal, err := e.choose(ref, m.Kind)
	if err != nil {
		return out, err
	}
	if refusal != "" {
		out.State, out.Detail = Refused, refusal
		return out, nil
	}
	if m.Kind == oci.KindIndex {
		err = e.indexed(ctx, r, m, &out)
	} else {
		err = e.plain(ctx, m, &out)
	}
	return out, err
}

// indexed copies an index with what it can have of its images.
func (e *export) indexed(ctx context.Context, r *Repository, m *Linked, out *Copied) error {
	var lacking []string
	images := 0
	for _, d := range m.Manifests {
		child, err := e.image(ctx, r, out.Reference.WithDigest(d.Digest))
		if err != nil {
			return err
		}
		out.Bytes += child.Bytes
		if _, is := oci.IsAttestationManifest(d); is {
			continue // nobody misses it who runs the image
		}
		images++
		if child.State != Exported {
			name := oci.FormatPlatform(d.Platform)
			if name == "" {
				name = d.Digest.Encoded()[:12]
			}
			lacking = append(lacking, fmt.Sprintf("%s (%s)", name, child.Detail))
		}
	}
	switch {
	case images > 0 && len(lacking) == images:
		out.State, out.Detail = Incomplete, "none of its images is complete: "+strings.Join(lacking, ", ")
		return nil
	case len(lacking) > 0:
		out.Detail = "without " + strings.Join(lacking, ", ")
	}
	return e.put(ctx, m, nil, out)
}

func (e *export) plain(ctx context.Context, m *Linked, out *Copied) error {
	missing := 0
	for _, b := range m.Blobs {
		if s, here := e.Content[b.Digest]; (!here || s.Size != b.Size) && !isInline(b) {
			missing++
		}
	}
	if missing > 0 {
		out.State, out.Detail = Incomplete, fmt.Sprintf("%d of its %d blobs are not in the cache; pull it once through the gate", missing, len(m.Blobs))
		return nil
	}
	return e.put(ctx, m, m.Blobs, out)
}

// put writes blobs and then the manifest.
func (e *export) put(ctx context.Context, m *Linked, blobs []oci.Descriptor, out *Copied) error {
	own := oci.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size}
	for _, d := range append(slices.Clone(blobs), own) {
		n, err := e.blob(ctx, d)
		switch {
		case errors.Is(err, ErrDigest) || errors.Is(err, ErrLength):
			out.State, out.Detail = Damaged, err.Error()
			return nil
		case isPathNotFound(err):
			out.State, out.Detail = Incomplete, "some of it was evicted during the export"
			return nil
		case err != nil:
			return fmt.Errorf("copying %s of %s: %w", d.Digest, out.Reference, err)
		}
		out.Bytes += n
	}
	out.State = Exported
	return nil
}

// blob copies content that is not there yet. It is hashed before a byte of it
// is written, since a tar cannot take one back, and again while it is.
func (e *export) blob(ctx context.Context, d oci.Descriptor) (int64, error) {
	if e.written[d.Digest] {
		return 0, nil
	}
	if e.wrong[d.Digest] {
		return 0, fmt.Errorf("%w: %s", ErrDigest, d.Digest)
	}
	if isInline(d) {
		return d.Size, e.add(d, bytes.NewReader(d.Data))
	}
	found, err := e.cache.openStored(ctx, d.Digest)
	if err != nil {
		return 0, err
	}
	defer found.Close()
	if found.stamp.size != d.Size {
		return 0, wrongSize(d, found.stamp.size)
	}
	verifier := d.Digest.Verifier()
	if _, err := io.Copy(verifier, readerWithContext{ctx, found}); err != nil {
		return 0, err
	}
	if !verifier.Verified() {
		e.wrong[d.Digest] = true
		return 0, fmt.Errorf("%w: %s", ErrDigest, d.Digest)
	}
	if _, err := found.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	verifier = d.Digest.Verifier()
	if err := e.add(d, io.TeeReader(readerWithContext{ctx, found}, verifier)); err != nil {
		return 0, err
	}
	if !verifier.Verified() {
		return 0, fmt.Errorf("%s changed while it was copied; export again", d.Digest)
	}
	return d.Size, nil
}

func (e *export) add(d oci.Descriptor, content io.Reader) error {
	name := "blobs/" + d.Digest.Algorithm().String() + "/" + d.Digest.Encoded()
	if err := e.layout.add(name, d.Size, content); err != nil {
		return err
	}
	e.written[d.Digest] = true
	if e.told != nil {
		e.told(d.Size)
	}
	return nil
}

// finish writes what makes a folder of blobs a layout, the index last: without
// it nobody takes a part for the whole.
func (e *export) finish() error {
	for _, file := range []struct {
		name    string
		content any
	}{
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
		{ocispec.ImageIndexFile, ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: e.index,
		}},
	} {
		raw, err := json.Marshal(file.content)
		if err != nil {
			return err
		}
		if err := e.layout.add(file.name, int64(len(raw)), strings.NewReader(string(raw))); err != nil {
			return err
		}
	}
	return nil
}

// layout takes the files of an image layout.
type layout interface {
	add(name string, size int64, content io.Reader) error
	close(complete bool) error
}

func createLayout(to string) (layout, error) {
	if strings.HasSuffix(to, ".tar") {
		file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return nil, err
		}
		return &tarLayout{file, tar.NewWriter(file)}, nil
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(to)
	if err != nil {
		return nil, err
	}
	if len(entries) > 0 {
		return nil, fmt.Errorf("%s is not empty; name a new folder", to)
	}
	return folderLayout(to), nil
}

type folderLayout string

func (f folderLayout) add(name string, _ int64, content io.Reader) error {
	path := filepath.Join(string(f), filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

func (f folderLayout) close(bool) error { return nil }

type tarLayout struct {
	file   *os.File
	writer *tar.Writer
}

func (t *tarLayout) add(name string, size int64, content io.Reader) error {
	// No times and no owners: the same images make the same file.
	if err := t.writer.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}); err != nil {
		return err
	}
	_, err := io.Copy(t.writer, content)
	return err
}

func (t *tarLayout) close(complete bool) error {
	if !complete {
		return errors.Join(t.file.Close(), os.Remove(t.file.Name()))
	}
	return errors.Join(t.writer.Close(), t.file.Sync(), t.file.Close())
}
