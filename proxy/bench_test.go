package proxy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/trustgate/trustgate/internal/stage"
)

// discard is a connection that takes everything.
type discard struct {
	header http.Header
	status int
	n      int64
}

func (d *discard) Header() http.Header    { return d.header }
func (d *discard) WriteHeader(status int) { d.status = status }

func (d *discard) Write(p []byte) (int, error) {
	d.n += int64(len(p))
	return len(p), nil
}

func (d *discard) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(io.Discard, src)
	d.n += n
	return n, err
}

// benchmark asks a warm gate the same again and again. path is told the image's
// digest and its layer's.
func benchmark(b *testing.B, size int, path func(f *front, manifest, layer string) string) {
	s := stage.New(b)
	image, layer := carrying(s, "app", noise(size, 1))
	h := handlerFor(s, s.Gate(stage.Options{}))
	f := serve(s, "HTTP/1.1", h)
	f.get(f.path("app", "manifests", "1")).served(image.Digest)
	f.get(f.path("app", "manifests", image.Digest.String())).served(image.Digest)
	f.get(f.path("app", "blobs", layer.String())).served(layer)

	r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, path(f, image.Digest.String(), layer.String()), nil)
	b.ReportAllocs()
	for b.Loop() {
		w := discard{header: http.Header{}}
		h.ServeHTTP(&w, r)
		if (w.status != 0 && w.status != http.StatusOK) || w.n == 0 {
			b.Fatalf("%d, %d bytes", w.status, w.n)
		}
	}
}

func BenchmarkManifestByTag(b *testing.B) {
	benchmark(b, 1000, func(f *front, _, _ string) string { return f.path("app", "manifests", "1") })
}

func BenchmarkManifestByDigest(b *testing.B) {
	benchmark(b, 1000, func(f *front, manifest, _ string) string { return f.path("app", "manifests", manifest) })
}

// BenchmarkBlobHit serves a layer of 1 MiB from the cache. Over TCP the kernel
// would copy it.
func BenchmarkBlobHit(b *testing.B) {
	const size = 1 << 20
	b.SetBytes(size)
	benchmark(b, size, func(f *front, _, layer string) string { return f.path("app", "blobs", layer) })
}

// BenchmarkSmallBlobHit serves a config, or a layer of 4 KiB.
func BenchmarkSmallBlobHit(b *testing.B) {
	benchmark(b, 4<<10, func(f *front, _, layer string) string { return f.path("app", "blobs", layer) })
}
