package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

const (
	manifestLimit = 16 << 20 // bytes; no route may let in a larger one
	linkLimit     = 256      // bytes of a link, which is one digest
	nameDepth     = 128      // parts of a repository's name, which has 255 letters
)

// Inventory is what a storage has, as a stock registry would find it.
type Inventory struct {
	Content      map[digest.Digest]Stored
	Repositories []*Repository // by name
}

// Stored is content in the storage, whatever it is.
type Stored struct {
	Size  int64
	Since time.Time
}

// Repository is one repository of the storage.
type Repository struct {
	Name      string // as RepositoryName makes it
	Manifests map[digest.Digest]*Linked
	Tags      map[string]digest.Digest
	blobs     map[digest.Digest]bool // that are linked
}

// Linked is a manifest that its repository has: it was admitted when it was
// pulled.
type Linked struct {
	Digest    digest.Digest
	MediaType string           // "" when the manifest's own bytes are gone
	Kind      oci.Kind         //
	Size      int64            // of the manifest itself
	Blobs     []oci.Descriptor // config and layers
	Manifests []oci.Descriptor // of an index
}

// Bytes is how much content there is.
func (i *Inventory) Bytes() (total int64) {
	for _, s := range i.Content {
		total += s.Size
	}
	return total
}

// Missing lists what a complete image would need and the storage does not have.
// An index is as complete as those of its images that are linked.
func (i *Inventory) Missing(r *Repository, m *Linked) []digest.Digest {
	var missing []digest.Digest
	for d, described := range reach(r, m.Digest) {
		if _, ok := i.Content[d]; !ok && !isInline(described) {
			missing = append(missing, d)
		}
	}
	slices.Sort(missing)
	return missing
}

// isInline says whether the descriptor brings the content along, as that of an
// empty config does. Clients then do not pull it.
//
// https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#embedded-content
func isInline(d oci.Descriptor) bool {
	return len(d.Data) > 0 && int64(len(d.Data)) == d.Size && oci.DigestOf(d.Data, d.Digest) == d.Digest
}

// reach describes everything that a manifest of the repository leads to, itself
// included. Of an index's manifests it follows those that are linked.
func reach(r *Repository, from digest.Digest) map[digest.Digest]oci.Descriptor {
	reached := map[digest.Digest]oci.Descriptor{}
	next := []digest.Digest{from}
	for len(next) > 0 {
		d := next[len(next)-1]
		next = next[:len(next)-1]
		m := r.Manifests[d]
		if _, seen := reached[d]; seen || m == nil {
			continue
		}
		reached[d] = oci.Descriptor{MediaType: m.MediaType, Digest: d, Size: m.Size}
		for _, b := range m.Blobs {
			reached[b.Digest] = b
		}
		for _, child := range m.Manifests {
			next = append(next, child.Digest)
		}
	}
	return reached
}

// Pinned lists everything that the pinned images lead to.
func (i *Inventory) Pinned(pins []Pin) map[digest.Digest]bool {
	pinned := map[digest.Digest]bool{}
	lead := func(r *Repository, from digest.Digest) {
		for d := range reach(r, from) {
			pinned[d] = true
		}
	}
	for _, r := range i.Repositories {
		for _, pin := range pins {
			if !pin.matches(r.Name) {
				continue
			}
			if pin.tag == nil {
				for d := range r.Manifests {
					lead(r, d)
				}
				continue
			}
			for tag, d := range r.Tags {
				if pin.tag.Match(tag) {
					lead(r, d)
				}
			}
		}
	}
	return pinned
}

// Survey reads what the storage has. It changes nothing, and needs no lock: what
// comes and goes meanwhile is in it or is not.
func Survey(ctx context.Context, driver storagedriver.StorageDriver) (*Inventory, error) {
	s := surveyor{driver: driver, Inventory: &Inventory{Content: map[digest.Digest]Stored{}}, read: map[digest.Digest]*Linked{}}
	// The links first: what is linked between the two is missing nothing.
	if err := s.repositories(ctx, repositoriesRoot, 0); err != nil {
		return nil, fmt.Errorf("looking through the cache: %w", err)
	}
	err := eachContent(ctx, driver, "", func(d digest.Digest, info storagedriver.FileInfo) error {
		s.Content[d] = Stored{Size: info.Size(), Since: info.ModTime()}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking through the cache: %w", err)
	}
	slices.SortFunc(s.Repositories, func(a, b *Repository) int { return strings.Compare(a.Name, b.Name) })
	return s.Inventory, nil
}

// eachContent visits all content behind the digest, in order of digests.
func eachContent(ctx context.Context, driver storagedriver.StorageDriver, behind digest.Digest, visit func(digest.Digest, storagedriver.FileInfo) error) error {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		shards, err := list(ctx, driver, blobsRoot+"/"+algorithm.String())
		if err != nil {
			return err
		}
		for _, shard := range shards {
			if algorithm.String()+":"+path.Base(shard)+"g" < behind.String() { // g is behind every digit
				continue
			}
			folders, err := list(ctx, driver, shard)
			if err != nil {
				return err
			}
			for _, folder := range folders {
				d, err := oci.ParseDigest(algorithm.String() + ":" + path.Base(folder))
				if err != nil || d <= behind {
					continue
				}
				info, err := driver.Stat(ctx, folder+"/data")
				if isPathNotFound(err) || (err == nil && info.IsDir()) {
					continue
				}
				if err != nil {
					return err
				}
				if err := visit(d, info); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// list is what a folder has, in order; nothing when it is none.
func list(ctx context.Context, driver storagedriver.StorageDriver, folder string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	paths, err := driver.List(ctx, folder)
	if isPathNotFound(err) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	slices.Sort(paths)
	return paths, err
}

type surveyor struct {
	*Inventory
	driver storagedriver.StorageDriver
	read   map[digest.Digest]*Linked
}

func (s *surveyor) repositories(ctx context.Context, folder string, depth int) error {
	paths, err := list(ctx, s.driver, folder)
	if err != nil || depth > nameDepth {
		return err
	}
	name := strings.TrimPrefix(strings.TrimPrefix(folder, repositoriesRoot), "/")
	isRepository := false
	for _, p := range paths {
		if strings.HasPrefix(path.Base(p), "_") {
			isRepository = isRepository || path.Base(p) == "_manifests" || path.Base(p) == "_layers"
			continue
		}
		if err := s.repositories(ctx, p, depth+1); err != nil {
			return err
		}
	}
	if !isRepository || checkName(name) != nil {
		return nil
	}
	return s.repository(ctx, name, folder)
}

func (s *surveyor) repository(ctx context.Context, name, folder string) error {
	r := &Repository{Name: name, Manifests: map[digest.Digest]*Linked{}, Tags: map[string]digest.Digest{}, blobs: map[digest.Digest]bool{}}
	err := s.digests(ctx, folder+"/_layers", func(d digest.Digest) error {
		r.blobs[d] = true
		return nil
	})
	if err != nil {
		return err
	}
	err = s.digests(ctx, folder+"/_manifests/revisions", func(d digest.Digest) error {
		r.Manifests[d], err = s.manifest(ctx, d)
		return err
	})
	if err != nil {
		return err
	}
	tags, err := list(ctx, s.driver, folder+"/_manifests/tags")
	if err != nil {
		return err
	}
	for _, p := range tags {
		tag := path.Base(p)
		if checkTag(tag) != nil {
			continue
		}
		raw, err := read(ctx, s.driver, tagCurrentPath(name, tag), linkLimit)
		if err != nil {
			return err
		}
		if d, err := oci.ParseDigest(string(raw)); err == nil {
			r.Tags[tag] = d
		}
	}
	s.Repositories = append(s.Repositories, r)
	return nil
}

// digests visits the digests for which the folder has a link.
func (s *surveyor) digests(ctx context.Context, folder string, visit func(digest.Digest) error) error {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		folders, err := list(ctx, s.driver, folder+"/"+algorithm.String())
		if err != nil {
			return err
		}
		for _, f := range folders {
			d, err := oci.ParseDigest(algorithm.String() + ":" + path.Base(f))
			if err != nil {
				continue
			}
			if _, err := s.driver.Stat(ctx, f+"/link"); isPathNotFound(err) {
				continue
			} else if err != nil {
				return err
			}
			if err := visit(d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *surveyor) manifest(ctx context.Context, d digest.Digest) (*Linked, error) {
	if m, ok := s.read[d]; ok {
		return m, nil
	}
	raw, err := read(ctx, s.driver, blobDataPath(d), manifestLimit)
	if err != nil {
		return nil, err
	}
	linked := &Linked{Digest: d, Size: int64(len(raw))}
	// What does not hash to its digest is no manifest here either.
	if m, err := oci.ParseManifest(raw, "", d); err == nil {
		linked.MediaType, linked.Kind, linked.Blobs, linked.Manifests = m.MediaType, m.Kind, m.References(), m.Manifests
	}
	s.read[d] = linked
	return linked, nil
}

// read is the content of a file, or of its first limit bytes; nil when there is
// none.
func read(ctx context.Context, driver storagedriver.StorageDriver, path string, limit int64) ([]byte, error) {
	r, err := driver.Reader(ctx, path, 0)
	if isPathNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, limit))
}
