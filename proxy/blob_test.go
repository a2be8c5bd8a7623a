package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
)

// noise is what no compression shortens.
func noise(size int, seed byte) []byte {
	raw := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(raw)
	return raw
}

// carrying publishes a trusted image with the given bytes as its layer.
func carrying(s *stage.Stage, repository string, raw []byte) (*shipyard.Image, digest.Digest) {
	s.Helper()
	image, d := laden(s, repository, raw)
	return s.Trusted(image), d
}

// laden is carrying, without any evidence.
func laden(s *stage.Stage, repository string, raw []byte) (*shipyard.Image, digest.Digest) {
	s.Helper()
	var image v1.Image = mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	image, err := mutate.AppendLayers(image, static.NewLayer(raw, types.OCILayer))
	s.Must(err)
	config, err := image.ConfigFile()
	s.Must(err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	image, err = mutate.ConfigFile(image, config)
	s.Must(err)
	return s.Push(repository, "1", image), digest.FromBytes(raw)
}

func TestBlob(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	raw := noise(100<<10, 1)
	app, d := carrying(s, "app", raw)
	config, _ := digests(s, app.Content)
	g := s.Gate(stage.Options{})
	for _, protocol := range protocols {
		f := serve(s, protocol, handlerFor(s, g))
		f.get(f.path("app", "manifests", "1")).served(app.Digest)
		path := f.path("app", "blobs", d.String())
		t.Run(protocol, func(t *testing.T) {
			f := f.in(t)
			if head := f.head(path); head.StatusCode != http.StatusOK || head.ContentLength != int64(len(raw)) || len(head.body) > 0 ||
				head.Header.Get("Docker-Content-Digest") != d.String() || head.Header.Get("Accept-Ranges") != "bytes" {
				t.Errorf("HEAD: %s, %v, %d bytes", head.Status, head.Header, len(head.body))
			}
			whole := f.get(path).served(d)
			if whole.Proto != protocol {
				t.Errorf("it was spoken in %s", whole.Proto)
			}
			for name, want := range map[string]string{
				"Content-Type": "application/octet-stream", "Etag": `"` + d.String() + `"`, "Accept-Ranges": "bytes",
			} {
				if got := whole.Header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			f.get(f.path("app", "blobs", config.String())).served(config)
		})
		for _, tc := range []struct {
			name   string
			header []string
			status int
			body   []byte
		}{
			{"the first bytes", []string{"Range", "bytes=0-9"}, http.StatusPartialContent, raw[:10]},
			{"from an offset on, as a pull goes on", []string{"Range", "bytes=90000-"}, http.StatusPartialContent, raw[90000:]},
			{"the last bytes", []string{"Range", "bytes=-7"}, http.StatusPartialContent, raw[len(raw)-7:]},
			{"more than there is", []string{"Range", "bytes=100-999999999"}, http.StatusPartialContent, raw[100:]},
			{"behind the end", []string{"Range", "bytes=102400-"}, http.StatusRequestedRangeNotSatisfiable, nil},
			{"nonsense", []string{"Range", "bytes=a-b"}, http.StatusRequestedRangeNotSatisfiable, nil},
			{"if it is still that", []string{"Range", "bytes=0-0", "If-Range", `"` + d.String() + `"`}, http.StatusPartialContent, raw[:1]},
			{"if it is still something else", []string{"Range", "bytes=0-0", "If-Range", `"x"`}, http.StatusOK, raw},
			{"which the client has", []string{"If-None-Match", `"` + d.String() + `"`}, http.StatusNotModified, nil},
			{"of which the client has another", []string{"If-None-Match", `"x"`}, http.StatusOK, raw},
		} {
			t.Run(protocol+" "+tc.name, func(t *testing.T) {
				a := f.in(t).get(path, tc.header...)
				if a.StatusCode != tc.status || (tc.body != nil && !bytes.Equal(a.body, tc.body)) {
					t.Fatalf("%s with %d bytes", a.Status, len(a.body))
				}
				if tc.status == http.StatusPartialContent && a.Header.Get("Content-Range") == "" {
					t.Error("no Content-Range")
				}
				if tc.status == http.StatusNotModified && (len(a.body) > 0 || a.Header.Get("Etag") == "") {
					t.Errorf("304 with %d bytes and %v", len(a.body), a.Header)
				}
			})
		}
	}
	if n := s.Upstream.Count("GET /v2/app/blobs/" + d.String()); n != 1 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

func TestNoBlobIsFetchedForHeadersAlone(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	_, d := carrying(s, "app", noise(1000, 2))
	f := open(s, stage.Options{})
	f.get(f.path("app", "manifests", "1"))
	path := f.path("app", "blobs", d.String())
	if a := f.head(path); a.StatusCode != http.StatusOK {
		t.Errorf("HEAD: %s", a.Status)
	}
	if a := f.get(path, "If-None-Match", `"`+d.String()+`"`); a.StatusCode != http.StatusNotModified {
		t.Errorf("If-None-Match: %s", a.Status)
	}
	if n := s.Upstream.Count("GET /v2/app/blobs/" + d.String()); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// held stops the upstream in the middle of a blob.
type held struct {
	reached chan struct{} // closed when that many bytes have been sent
	release chan struct{} // close it to let the rest follow, and
	cut     chan struct{} // this one to have no rest
}

func hold(s *stage.Stage, d digest.Digest, after int) held {
	h := held{reached: make(chan struct{}), release: make(chan struct{}), cut: make(chan struct{})}
	var once sync.Once
	s.Upstream.Interpose(func(registry http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+d.String()) {
				w = &holding{ResponseWriter: w, left: after, wait: func() {
					once.Do(func() { close(h.reached) })
					select {
					case <-h.release:
					case <-h.cut:
						panic(http.ErrAbortHandler)
					}
				}}
			}
			registry.ServeHTTP(w, r)
		})
	})
	return h
}

type holding struct {
	http.ResponseWriter
	left int
	wait func()
}

func (h *holding) Write(p []byte) (int, error) {
	if h.left < 0 || len(p) <= h.left {
		h.left -= len(p)
		return h.ResponseWriter.Write(p)
	}
	n, err := h.ResponseWriter.Write(p[:h.left])
	if err != nil {
		return n, err
	}
	if err := http.NewResponseController(h.ResponseWriter).Flush(); err != nil {
		return n, err
	}
	h.wait()
	h.left = -1
	rest, err := h.ResponseWriter.Write(p[n:])
	return n + rest, err
}

// Clients read what has come while the rest is on its way, and all of them
// share the one fetch.
func TestManyClientsReadABlobWhileItIsFetched(t *testing.T) {
	t.Parallel()
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			s := stage.New(t)
			raw := noise(512<<10, 3)
			_, d := carrying(s, "app", raw)
			f := serve(s, protocol, handlerFor(s, s.Gate(stage.Options{})))
			f.get(f.path("app", "manifests", "1"))
			h := hold(s, d, 256<<10)

			const clients, early = 16, 128 << 10
			var first, all sync.WaitGroup
			first.Add(clients)
			for range clients {
				all.Go(func() {
					arrived := sync.OnceFunc(first.Done)
					defer arrived()
					resp, err := f.client.Get(f.base + f.path("app", "blobs", d.String()))
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					got := make([]byte, early)
					if _, err := io.ReadFull(resp.Body, got); err != nil {
						t.Error(err)
						return
					}
					arrived()
					rest, err := io.ReadAll(resp.Body)
					if err != nil || !bytes.Equal(append(got, rest...), raw) {
						t.Errorf("%d bytes, %v", len(got)+len(rest), err)
					}
				})
			}
			first.Wait() // every client has a part, and the upstream has not sent all
			<-h.reached
			close(h.release)
			all.Wait()
			if n := s.Upstream.Count("GET /v2/app/blobs/" + d.String()); n != 1 {
				t.Errorf("the upstream was asked %d times", n)
			}
		})
	}
}

// A part is served only of a whole that has been hashed.
func TestARangeWaitsForTheWhole(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	raw := noise(256<<10, 4)
	_, d := carrying(s, "app", raw)
	f := open(s, stage.Options{})
	f.get(f.path("app", "manifests", "1"))
	path := f.path("app", "blobs", d.String())

	tamper(s, d.String(), func(_ http.Header, body []byte) []byte {
		body[len(body)-1] ^= 1
		return body
	})
	f.get(path, "Range", "bytes=0-9").refused(http.StatusBadGateway, "MANIFEST_INVALID")

	h := hold(s, d, 128<<10)
	part := make(chan *answer)
	go func() { part <- f.get(path, "Range", "bytes=5-14") }()
	<-h.reached // the bytes that are asked for have come
	select {
	case a := <-part:
		t.Errorf("it did not wait: %s", a.Status)
	default:
	}
	close(h.release)
	if a := <-part; a.StatusCode != http.StatusPartialContent || !bytes.Equal(a.body, raw[5:15]) {
		t.Errorf("%s, %x", a.Status, a.body)
	}
}

// blobFile is where the cache keeps a blob.
func blobFile(s *stage.Stage, d digest.Digest) string {
	return filepath.Join(s.Folder, "cache", "docker", "registry", "v2", "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), "data")
}

func TestWrongBytesFromTheUpstream(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	g := s.Gate(stage.Options{Mode: policy.Audit})
	seed := byte(10)
	for _, protocol := range protocols {
		f := serve(s, protocol, handlerFor(s, g))
		for _, size := range []int{2000, 300 << 10} { // all of it held back, and not
			if size == 2000 && protocol == "HTTP/2.0" {
				continue // the same answers
			}
			for _, tc := range []struct {
				name   string
				change func(http.Header, []byte) []byte
				status int
			}{
				{"one bit", func(_ http.Header, b []byte) []byte { b[len(b)-1] ^= 1; return b }, http.StatusBadGateway},
				{"something else of that length", func(_ http.Header, b []byte) []byte { return noise(len(b), 99) }, http.StatusBadGateway},
				{"one byte less", func(_ http.Header, b []byte) []byte { return b[:len(b)-1] }, http.StatusBadGateway},
				{"one byte more", func(_ http.Header, b []byte) []byte { return append(b, 0) }, http.StatusBadGateway},
				{"one byte less, unannounced", func(h http.Header, b []byte) []byte {
					h.Set("Content-Length", unannounced)
					return b[:len(b)-1]
				}, http.StatusBadGateway},
				{"one byte more, unannounced", func(h http.Header, b []byte) []byte {
					h.Set("Content-Length", unannounced)
					return append(b, 0)
				}, http.StatusBadGateway},
				{"nothing", func(http.Header, []byte) []byte { return nil }, http.StatusBadGateway},
				{"an end before the announced one", func(h http.Header, b []byte) []byte {
					h.Set("Content-Length", strconv.Itoa(len(b)))
					return b[:len(b)-1000]
				}, http.StatusServiceUnavailable},
			} {
				seed++
				raw, repository := noise(size, seed), "wrong/"+strconv.Itoa(int(seed))
				t.Run(protocol+" "+strconv.Itoa(size)+" bytes, "+tc.name, func(t *testing.T) {
					s, f := s.For(t), f.in(t)
					image, d := laden(s, repository, raw)
					f.get(f.path(repository, "manifests", "1")).served(image.Digest)
					tamper(s, d.String(), tc.change)
					defer s.Upstream.Interpose(nil)

					a, err := f.try(http.MethodGet, f.path(repository, "blobs", d.String()))
					switch {
					case err != nil && size > 2000: // HTTP/2 may end a stream before its headers were read
					case err != nil:
						t.Error(err)
					case a.StatusCode == http.StatusOK:
						if a.err == nil || len(a.body) >= len(raw) {
							t.Errorf("a whole answer of %d bytes, %v", len(a.body), a.err)
						}
						if size == 2000 {
							t.Error("a blob that is held back as a whole was begun")
						}
					case a.StatusCode != tc.status || a.err != nil:
						t.Errorf("%s, %v: %s", a.Status, a.err, a.body)
					}
					if _, err := os.Stat(blobFile(s, d)); !errors.Is(err, os.ErrNotExist) {
						t.Errorf("it was kept: %v", err)
					}
					config, _ := digests(s, image.Content)
					if _, err := os.Stat(blobFile(s, config)); err != nil {
						t.Errorf("the config is not where this test looks: %v", err)
					}

					s.Upstream.Interpose(nil)
					f.get(f.path(repository, "blobs", d.String())).served(d)
				})
			}
		}
	}
}

// A blob that is complete reaches the connection as a file, which the kernel
// copies.
func TestACompleteBlobIsSentAsAFile(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	raw := noise(64<<10, 5)
	_, d := carrying(s, "app", raw)
	h := handlerFor(s, s.Gate(stage.Options{}))
	f := serve(s, "HTTP/1.1", h)
	f.get(f.path("app", "manifests", "1"))
	f.get(f.path("app", "blobs", d.String())).served(d)

	w := &connection{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, f.path("app", "blobs", d.String()), nil))
	if !bytes.Equal(w.Body.Bytes(), raw) {
		t.Fatalf("%d: %d bytes", w.Code, w.Body.Len())
	}
	if !w.file {
		t.Error("it was copied through the program")
	}
}

// connection looks at what it is given to send, as a TCP connection does.
type connection struct {
	*httptest.ResponseRecorder
	file bool
}

func (c *connection) ReadFrom(src io.Reader) (int64, error) {
	if limited, ok := src.(*io.LimitedReader); ok {
		if conn, ok := limited.R.(syscall.Conn); ok {
			_, err := conn.SyscallConn()
			c.file = err == nil
		}
	}
	return io.Copy(c.ResponseRecorder, src)
}
