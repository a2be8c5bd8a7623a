package cache_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
)

// shop is an upstream with images that a test makes, and a storage in front of
// it that can be opened again and again, as processes do.
type shop struct {
	testing.TB
	driver  storagedriver.StorageDriver
	root    string
	blobs   map[digest.Digest][]byte
	fetched map[digest.Digest]*atomic.Int32
	ledger  *ledger.Ledger
	clock   atomic.Int64 // nanoseconds that a test let pass
	damage  chan cache.Damage
}

func newShop(t testing.TB, driver string) *shop {
	s := &shop{TB: t, blobs: map[digest.Digest][]byte{}, fetched: map[digest.Digest]*atomic.Int32{}, damage: make(chan cache.Damage, 100)}
	parameters := map[string]any{}
	if driver == "filesystem" {
		s.root = filepath.Join(t.TempDir(), "cache")
		parameters["rootdirectory"] = s.root
	}
	var err error
	s.driver, err = cache.OpenDriver(driver, parameters)
	s.must(err)
	return s
}

// forget begins a new ledger, as open does the first time.
func (s *shop) forget() {
	s.Helper()
	book, err := ledger.Open(context.Background(), "sqlite:"+filepath.Join(s.TempDir(), "ledger.db"))
	s.must(err)
	s.Cleanup(func() { book.Close() })
	s.ledger = book
}

// everywhere runs a test on each driver.
func everywhere(t *testing.T, test func(t *testing.T, s *shop)) {
	for _, driver := range []string{"filesystem", "inmemory"} {
		t.Run(driver, func(t *testing.T) { test(t, newShop(t, driver)) })
	}
}

func (s *shop) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *shop) now() time.Time { return time.Now().Add(time.Duration(s.clock.Load())) }

func (s *shop) pass(d time.Duration) { s.clock.Add(int64(d)) }

// open opens the storage as one more process does.
func (s *shop) open(o cache.Options) *cache.Cache {
	s.Helper()
	o.Driver, o.Root, o.Spool = s.driver, s.root, filepath.Join(s.TempDir(), "spool")
	if s.ledger == nil {
		s.forget()
	}
	o.Records, o.Now = s.ledger, s.now
	o.Damaged = func(ctx context.Context, d cache.Damage) {
		s.must(s.ledger.RecordEvent(ctx, ledger.Event{At: d.Time, Kind: "cache.damage." + d.Found, Digest: d.Digest, Detail: d.Detail}))
		s.damage <- d
	}
	c, err := cache.Open(s.Context(), o)
	s.must(err)
	s.Cleanup(func() { c.Close() })
	return c
}

// blob is content of so many bytes that nothing else has.
func (s *shop) blob(name string, size int) oci.Descriptor {
	raw := make([]byte, size)
	rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(raw)
	return s.put("application/vnd.oci.image.layer.v1.tar", raw)
}

func (s *shop) put(mediaType string, raw []byte) oci.Descriptor {
	d := oci.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if s.blobs[d.Digest] == nil {
		s.blobs[d.Digest], s.fetched[d.Digest] = raw, &atomic.Int32{}
	}
	return d
}

// image is an image of the layers, with a config of its own.
func (s *shop) image(layers ...oci.Descriptor) *oci.Manifest {
	s.Helper()
	config, err := json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "author": fmt.Sprint(len(s.blobs))})
	s.must(err)
	return s.manifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: s.put(ocispec.MediaTypeImageConfig, config), Layers: layers,
	})
}

// index lists images, the first for linux/amd64 and the next for linux/arm64.
func (s *shop) index(images ...*oci.Manifest) *oci.Manifest {
	s.Helper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for i, image := range images {
		d := image.Descriptor()
		d.Platform = &oci.Platform{OS: "linux", Architecture: []string{"amd64", "arm64"}[i]}
		index.Manifests = append(index.Manifests, d)
	}
	return s.manifest(ocispec.MediaTypeImageIndex, index)
}

func (s *shop) manifest(mediaType string, document any) *oci.Manifest {
	s.Helper()
	raw, err := json.Marshal(document)
	s.must(err)
	m, err := oci.ParseManifest(raw, mediaType, "")
	s.must(err)
	s.put(mediaType, raw)
	return m
}

// pull does what the gate does: link what was admitted, and hand out its blobs.
// It returns when they are kept.
func (s *shop) pull(c *cache.Cache, repository, tag string, m *oci.Manifest) {
	s.Helper()
	s.must(c.Link(s.Context(), repository, m, tag))
	for _, d := range m.References() {
		raw, err := s.read(c, d)
		if err != nil || digest.FromBytes(raw) != d.Digest {
			s.Errorf("%s: %d bytes, %v", d.Digest, len(raw), err)
		}
	}
	s.must(c.AwaitIdle(s.Context()))
	s.pass(time.Minute)
}

func (s *shop) read(c *cache.Cache, d oci.Descriptor) ([]byte, error) {
	blob, err := c.Blob(s.Context(), d, s.fetch(d))
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	return io.ReadAll(blob)
}

func (s *shop) fetch(d oci.Descriptor) cache.Fetch {
	return func(context.Context) (io.ReadCloser, int64, error) {
		s.fetched[d.Digest].Add(1)
		return io.NopCloser(bytes.NewReader(s.blobs[d.Digest])), d.Size, nil
	}
}

// served is what a stock registry over the same storage serves: its tags, and
// its manifests by digest. Each of them must lead to everything that it needs.
func (s *shop) served() (list []string) {
	s.Helper()
	ctx := s.Context()
	stock, err := storage.NewRegistry(ctx, s.driver)
	s.must(err)
	names := make([]string, 100)
	n, err := stock.Repositories(ctx, names, "")
	if err != nil && !errors.Is(err, io.EOF) && !errors.As(err, new(storagedriver.PathNotFoundError)) {
		s.Fatal(err)
	}
	for _, name := range names[:n] {
		named, err := reference.WithName(name)
		s.must(err)
		repository, err := stock.Repository(ctx, named)
		s.must(err)
		tags, err := repository.Tags(ctx).All(ctx)
		if err != nil && !errors.As(err, new(distribution.ErrRepositoryUnknown)) {
			s.Fatal(err)
		}
		before := len(list)
		for _, tag := range tags {
			d, err := repository.Tags(ctx).Get(ctx, tag)
			s.must(err)
			list = append(list, name+":"+tag)
			s.whole(repository, d.Digest)
		}
		manifests, err := repository.Manifests(ctx)
		s.must(err)
		enumerator, ok := manifests.(distribution.ManifestEnumerator)
		if !ok {
			s.Fatal("a stock registry cannot list its manifests")
		}
		err = enumerator.Enumerate(ctx, func(d digest.Digest) error {
			list = append(list, name+"@"+d.String())
			s.whole(repository, d)
			return nil
		})
		if err != nil && !errors.As(err, new(storagedriver.PathNotFoundError)) {
			s.Fatal(err)
		}
		if len(list) == before {
			s.Errorf("a stock registry lists %s, which has nothing", name)
		}
	}
	return list
}

func (s *shop) whole(r distribution.Repository, d digest.Digest) {
	s.Helper()
	manifests, err := r.Manifests(s.Context())
	s.must(err)
	m, err := manifests.Get(s.Context(), d)
	if err != nil {
		s.Errorf("%s@%s is served and is not there: %v", r.Named(), d, err)
		return
	}
	_, raw, err := m.Payload()
	s.must(err)
	parsed, err := oci.ParseManifest(raw, "", d)
	s.must(err)
	for _, b := range parsed.References() {
		content, err := r.Blobs(s.Context()).Get(s.Context(), b.Digest)
		if err != nil || digest.FromBytes(content) != b.Digest {
			s.Errorf("%s@%s is served without its blob %s: %v", r.Named(), d, b.Digest, err)
		}
	}
	for _, child := range parsed.Manifests {
		s.whole(r, child.Digest)
	}
}

// serves checks what a stock registry serves.
func (s *shop) serves(want ...string) {
	s.Helper()
	got := s.served()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.Errorf("a stock registry serves\n%q, not\n%q", got, want)
	}
}

// content is how many bytes the storage has.
func (s *shop) content() int64 {
	s.Helper()
	found, err := cache.Survey(s.Context(), s.driver)
	s.must(err)
	return found.Bytes()
}

func (s *shop) has(d digest.Digest) bool {
	s.Helper()
	found, err := cache.Survey(s.Context(), s.driver)
	s.must(err)
	return slices.Contains(slices.Collect(maps.Keys(found.Content)), d)
}

func at(repository string, m *oci.Manifest) string { return repository + "@" + m.Digest.String() }
