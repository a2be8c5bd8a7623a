// Package evidencetest gives the collectors' tests real registries to read
// from: distribution, which has no referrers API, and go-containerregistry's,
// which has. Both run in the test's own process and are spoken to over HTTP.
package evidencetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/oci"
)

// Kinds of registry.
const (
	WithReferrers    = "with the referrers API"
	WithoutReferrers = "without the referrers API"
)

// Kinds lists both, for tests that must hold with either.
var Kinds = []string{WithReferrers, WithoutReferrers}

// Repository is one repository of a registry. It implements evidence.Source
// and counts the requests that it makes.
type Repository struct {
	Host     string // address and port
	Name     oci.Reference
	Requests atomic.Int64

	remote *remote.Repository
}

var _ evidence.Source = (*Repository)(nil)

// Start runs a registry until the test ends and opens a repository in it.
func Start(t testing.TB, kind, name string) *Repository {
	t.Helper()
	var handler http.Handler
	switch kind {
	case WithReferrers:
		handler = ggcr.New(ggcr.WithReferrersSupport(true), ggcr.Logger(log.New(io.Discard, "", 0)))
	case WithoutReferrers:
		config := &configuration.Configuration{Storage: configuration.Storage{"inmemory": configuration.Parameters{}}}
		config.Catalog.MaxEntries = 100
		quiet()
		handler = handlers.NewApp(context.Background(), config)
	default:
		t.Fatalf("no registry %q", kind)
	}
	r := &Repository{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.Requests.Add(1)
		handler.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	r.Host = strings.TrimPrefix(server.URL, "http://")
	var err error
	if r.Name, err = oci.NewReference(r.Host, name); err != nil {
		t.Fatal(err)
	}
	if r.remote, err = remote.NewRepository(r.Name.Name()); err != nil {
		t.Fatal(err)
	}
	r.remote.PlainHTTP = true
	r.remote.SkipReferrersGC = true // distribution's default refuses to delete
	return r
}

// quiet silences distribution, which logs each request to logrus' global logger.
var quiet = sync.OnceFunc(func() { logrus.SetOutput(io.Discard) })

// Subject is the repository's manifest m to gather evidence about.
func (r *Repository) Subject(m *oci.Manifest) evidence.Subject {
	return evidence.Subject{Repository: r.Name, Manifest: m, Source: r, Limits: evidence.DefaultLimits}
}

// PushBlob stores a blob and describes it.
func (r *Repository) PushBlob(t testing.TB, mediaType string, raw []byte) oci.Descriptor {
	t.Helper()
	d := oci.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if exists, err := r.remote.Blobs().Exists(t.Context(), d); err != nil {
		t.Fatal(err)
	} else if exists {
		return d
	}
	if err := r.remote.Blobs().Push(t.Context(), d, bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	return d
}

// PushImage stores a small image that content tells from others.
func (r *Repository) PushImage(t testing.TB, content string) *oci.Manifest {
	t.Helper()
	layer := r.PushBlob(t, ocispec.MediaTypeImageLayer, []byte(content))
	config := r.PushBlob(t, ocispec.MediaTypeImageConfig, fmt.Appendf(nil,
		`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, layer.Digest))
	return r.Push(t, ocispec.Manifest{Config: config, Layers: []oci.Descriptor{layer}}, "")
}

// PushLayers stores a manifest of evidence: these layers, an empty config, a
// subject unless it is nil, under a tag unless that is empty.
func (r *Repository) PushLayers(t testing.TB, artifactType string, layers []oci.Descriptor, subject *oci.Manifest, tag string) *oci.Manifest {
	t.Helper()
	m := ocispec.Manifest{
		ArtifactType: artifactType,
		Config:       r.PushBlob(t, ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers:       layers,
	}
	if subject != nil {
		d := oci.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: int64(len(subject.Raw))}
		m.Subject = &d
	}
	return r.Push(t, m, tag)
}

// Push stores an ocispec.Manifest or ocispec.Index, its version filled in.
func (r *Repository) Push(t testing.TB, document any, tag string) *oci.Manifest {
	t.Helper()
	var mediaType string
	switch m := document.(type) {
	case ocispec.Manifest:
		m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
		document, mediaType = m, m.MediaType
	case ocispec.Index:
		m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageIndex
		document, mediaType = m, m.MediaType
	}
	raw, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	d := oci.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if tag == "" {
		err = r.remote.Push(t.Context(), d, bytes.NewReader(raw))
	} else {
		err = r.remote.PushReference(t.Context(), d, bytes.NewReader(raw), tag)
	}
	if err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		t.Fatal(err)
	}
	m, err := oci.ParseManifest(raw, mediaType, d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Manifest implements evidence.Source.
func (r *Repository) Manifest(ctx context.Context, d digest.Digest) (*oci.Manifest, error) {
	m, err := r.fetch(ctx, d.String())
	if err == nil && m.Digest != d {
		return nil, fmt.Errorf("asked for %s and got %s", d, m.Digest)
	}
	return m, err
}

// Tagged implements evidence.Source.
func (r *Repository) Tagged(ctx context.Context, tag string) (*oci.Manifest, error) {
	return r.fetch(ctx, tag)
}

func (r *Repository) fetch(ctx context.Context, reference string) (*oci.Manifest, error) {
	d, body, err := r.remote.FetchReference(ctx, reference)
	if err != nil {
		return nil, answered(err)
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, 4<<20))
	if err != nil {
		return nil, err
	}
	return oci.ParseManifest(raw, d.MediaType, d.Digest)
}

// Referrers implements evidence.Source.
func (r *Repository) Referrers(ctx context.Context, d digest.Digest) ([]oci.Descriptor, error) {
	var list []oci.Descriptor
	err := r.remote.Referrers(ctx, oci.Descriptor{MediaType: oci.MediaTypeImageManifest, Digest: d}, "", func(page []oci.Descriptor) error {
		list = append(list, page...)
		return nil
	})
	return list, answered(err)
}

// Blob implements evidence.Source.
func (r *Repository) Blob(ctx context.Context, d oci.Descriptor, limit int64) ([]byte, error) {
	body, err := r.remote.Blobs().Fetch(ctx, d)
	if err != nil {
		return nil, answered(err)
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(raw)) > limit:
		return nil, fmt.Errorf("%s has more than %d bytes", d.Digest, limit)
	case oci.DigestOf(raw, d.Digest) != d.Digest:
		return nil, fmt.Errorf("the bytes of %s do not hash to it", d.Digest)
	}
	return raw, nil
}

func answered(err error) error {
	if errors.Is(err, errdef.ErrNotFound) {
		return fmt.Errorf("%w: %w", oci.ErrNotFound, err)
	}
	return err
}
