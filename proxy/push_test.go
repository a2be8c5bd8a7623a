package proxy_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/proxy"
)

// pushes opens the route for pushes.
func pushes(mode proxy.PushMode) func(*proxy.Options) {
	return func(o *proxy.Options) { o.Routes[0].Push = mode }
}

// quay is a whole gate that takes pushes.
func quay(s *stage.Stage, mode proxy.PushMode, o stage.Options) *front {
	s.Helper()
	return serve(s, "HTTP/1.1", handlerFor(s, s.Gate(o), pushes(mode)))
}

// send is do with a body.
func (f *front) send(method, path, body string, header ...string) *answer {
	f.Helper()
	return f.sendFrom(method, path, strings.NewReader(body), header...)
}

func (f *front) sendFrom(method, path string, body io.Reader, header ...string) *answer {
	f.Helper()
	req, err := http.NewRequest(method, f.base+path, body)
	if err != nil {
		f.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := f.client.Do(req)
	if err != nil {
		f.Fatal(err)
	}
	return f.read(resp)
}

// is demands a status, and returns the location.
func (a *answer) is(status int) string {
	a.Helper()
	if a.StatusCode != status {
		a.Fatalf("%s %s: %s, want %d\n%.600s", a.method(), a.Request.URL.Path, a.Status, status, a.body)
	}
	return a.Header.Get("Location")
}

// begin starts an upload.
func (f *front) begin(repository string) (location string) {
	f.Helper()
	return f.send(http.MethodPost, f.path(repository, "blobs", "uploads", ""), "").is(http.StatusAccepted)
}

// with adds a digest to an upload's location, as clients do.
func with(location string, d digest.Digest) string {
	u, err := url.Parse(location)
	if err != nil {
		panic(err)
	}
	query := u.Query()
	query.Set("digest", d.String())
	u.RawQuery = query.Encode()
	return u.String()
}

// upload pushes a blob.
func (f *front) upload(repository, content string) digest.Digest {
	f.Helper()
	d := digest.FromString(content)
	f.send(http.MethodPut, with(f.begin(repository), d), content).is(http.StatusCreated)
	return d
}

// from is f for a client at another address.
func (f *front) from(address string) *front {
	inner := *f
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	inner.client = &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}}
	f.Cleanup(inner.client.CloseIdleConnections)
	return &inner
}

// raw are the bytes of a manifest.
func raw(s *stage.Stage, image interface{ RawManifest() ([]byte, error) }) string {
	s.Helper()
	b, err := image.RawManifest()
	s.Must(err)
	return string(b)
}

const ociManifest = oci.MediaTypeImageManifest

func TestPushByALibrary(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	g := s.Gate(stage.Options{Mode: policy.Audit})
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			f := serve(s.For(t), protocol, handlerFor(s, g, pushes(proxy.PushPass)))
			repository := "library/" + strings.ToLower(strings.TrimSuffix(strings.ReplaceAll(protocol, "/", ""), ".0"))
			repository = strings.ReplaceAll(repository, ".", "")
			image := build(s, "pushed over "+protocol)
			index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
			for range 2 { // the second time everything is there
				s.Must(remote.Write(f.reference(repository+":1"), image, f.puller()...))
				s.Must(remote.WriteIndex(f.reference(repository+":all"), index, f.puller()...))
			}
			for _, from := range []func() (v1.Image, error){
				func() (v1.Image, error) { return remote.Image(at(s, repository+":1")) },
				func() (v1.Image, error) { return remote.Image(f.reference(repository+":1"), f.puller()...) },
				func() (v1.Image, error) { return remote.Image(f.reference(repository+":all"), f.puller()...) },
			} {
				got, err := from()
				s.Must(err)
				layers, err := got.Layers()
				s.Must(err)
				content, err := layers[0].Uncompressed()
				s.Must(err)
				all, err := io.ReadAll(content)
				s.Must(err)
				if !bytes.Contains(all, []byte("pushed over "+protocol)) {
					t.Error("the layer is not the one that was pushed")
				}
			}
			s.Must(remote.Delete(f.reference(repository+":1"), f.puller()...))
			f.get(f.path(repository, "manifests", "1")).refused(http.StatusNotFound, "MANIFEST_UNKNOWN")
		})
	}
}

func TestUploads(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	f := quay(s, proxy.PushPass, stage.Options{})
	for _, tc := range []struct {
		name string
		push func(f *front, content string, d digest.Digest) *answer
	}{
		{"a blob in one request", func(f *front, content string, d digest.Digest) *answer {
			return f.send(http.MethodPost, f.path("app", "blobs", "uploads", "?digest="+d.String()), content)
		}},
		{"a blob in two requests", func(f *front, content string, d digest.Digest) *answer {
			return f.send(http.MethodPut, with(f.begin("app"), d), content)
		}},
		{"a blob of a length that nobody knows", func(f *front, content string, d digest.Digest) *answer {
			return f.sendFrom(http.MethodPut, with(f.begin("app"), d), io.MultiReader(strings.NewReader(content)))
		}},
		{"a blob in a stream", func(f *front, content string, d digest.Digest) *answer {
			location := f.sendFrom(http.MethodPatch, f.begin("app"), io.MultiReader(strings.NewReader(content))).is(http.StatusAccepted)
			return f.send(http.MethodPut, with(location, d), "")
		}},
		{"a blob in chunks", func(f *front, content string, d digest.Digest) *answer {
			location := f.begin("app")
			half := len(content) / 2
			for _, part := range [][2]int{{0, half}, {half, len(content)}} {
				a := f.send(http.MethodPatch, location, content[part[0]:part[1]], "Content-Range", fmt.Sprintf("%d-%d", part[0], part[1]-1))
				location = a.is(http.StatusAccepted)
				if got := a.Header.Get("Range"); got != fmt.Sprintf("0-%d", part[1]-1) {
					f.Errorf("the range is %s", got)
				}
			}
			return f.send(http.MethodPut, with(location, d), "")
		}},
		{"a blob in chunks, the last one with its end", func(f *front, content string, d digest.Digest) *answer {
			half := len(content) / 2
			location := f.send(http.MethodPatch, f.begin("app"), content[:half], "Content-Range", fmt.Sprintf("0-%d", half-1)).is(http.StatusAccepted)
			return f.send(http.MethodPut, with(location, d), content[half:], "Content-Range", fmt.Sprintf("%d-%d", half, len(content)-1))
		}},
		{"a blob after a wrong chunk", func(f *front, content string, d digest.Digest) *answer {
			half := len(content) / 2
			location := f.send(http.MethodPatch, f.begin("app"), content[:half]).is(http.StatusAccepted)
			wrong := f.send(http.MethodPatch, location, content[:half], "Content-Range", fmt.Sprintf("0-%d", half-1))
			wrong.is(http.StatusRequestedRangeNotSatisfiable)
			a := f.get(location)
			if location = a.is(http.StatusNoContent); a.Header.Get("Range") != fmt.Sprintf("0-%d", half-1) {
				f.Errorf("the range is %s", a.Header.Get("Range"))
			}
			return f.send(http.MethodPut, with(location, d), content[half:])
		}},
		{"a blob with a sha512 digest", func(f *front, content string, d digest.Digest) *answer {
			return f.send(http.MethodPut, with(f.begin("app"), digest.SHA512.FromString(content)), content)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := f.in(t)
			content := strings.Repeat(rand.Text(), 5000)
			d := digest.FromString(content)
			a := tc.push(f, content, d)
			location := a.is(http.StatusCreated)
			if strings.Contains(tc.name, "sha512") {
				d = digest.SHA512.FromString(content)
			}
			if location != f.path("app", "blobs", d.String()) || a.Header.Get("Docker-Content-Digest") != d.String() {
				t.Errorf("it is at %s with digest %s", location, a.Header.Get("Docker-Content-Digest"))
			}
			// Who has pushed it may read it, and nobody else: no manifest refers to it.
			f.get(location).served(d)
			if head := f.head(location); head.StatusCode != http.StatusOK || head.ContentLength != int64(len(content)) {
				t.Errorf("HEAD: %s, %d bytes", head.Status, head.ContentLength)
			}
			if part := f.get(location, "Range", "bytes=10-19"); part.StatusCode != http.StatusPartialContent || string(part.body) != content[10:20] {
				t.Errorf("a part: %s %q", part.Status, part.body)
			}
			f.from("127.0.0.2").get(location).refused(http.StatusNotFound, "BLOB_UNKNOWN")
			f.get(f.path("other", "blobs", d.String())).refused(http.StatusNotFound, "BLOB_UNKNOWN")
		})
	}
	t.Run("an empty blob", func(t *testing.T) {
		f := f.in(t)
		d := f.upload("app", "")
		f.get(f.path("app", "blobs", d.String())).served(d)
	})
	t.Run("an upload that is given up", func(t *testing.T) {
		f := f.in(t)
		location := f.begin("app")
		f.send(http.MethodDelete, location, "").is(http.StatusNoContent)
		f.get(location).refused(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	})
	t.Run("a blob that is deleted", func(t *testing.T) {
		f := f.in(t)
		d := f.upload("app", "to be deleted")
		f.send(http.MethodDelete, f.path("app", "blobs", d.String()), "").is(http.StatusAccepted)
		f.get(f.path("app", "blobs", d.String())).refused(http.StatusNotFound, "BLOB_UNKNOWN")
		f.do(http.MethodDelete, f.path("app", "blobs", d.String())).refused(http.StatusNotFound, "BLOB_UNKNOWN")
	})
	t.Run("what is no range and no digest", func(t *testing.T) {
		f := f.in(t)
		f.send(http.MethodPatch, f.begin("app"), "x", "Content-Range", "bytes 0-0/1").refused(http.StatusBadRequest, "NAME_INVALID")
		f.send(http.MethodPut, f.begin("app")+"&digest=sha256:0", "x").refused(http.StatusBadRequest, "DIGEST_INVALID")
		f.send(http.MethodPut, f.begin("app"), "x").refused(http.StatusBadRequest, "DIGEST_INVALID")
		f.send(http.MethodPost, f.path("app", "blobs", "uploads", "?digest=md5:0"), "x").refused(http.StatusBadRequest, "DIGEST_INVALID")
	})
}

// taken is what an upstream got of a request's body, and how it ended.
type taken struct {
	sync.Mutex
	bodies map[string]error // the body's end, by what arrived
}

// watch has the upstream read the bodies of uploads before it looks at them.
func watch(s *stage.Stage) *taken {
	seen := &taken{bodies: map[string]error{}}
	s.Upstream.Interpose(func(registry http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/uploads/") {
				registry.ServeHTTP(w, r)
				return
			}
			body, err := io.ReadAll(r.Body)
			seen.Lock()
			seen.bodies[string(body)] = err
			seen.Unlock()
			if err == nil {
				w.Header().Set("Docker-Content-Digest", r.URL.Query().Get("digest"))
				w.WriteHeader(http.StatusCreated) // a registry that believes everything
			}
		})
	})
	return seen
}

func TestUploadOfSomethingElse(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	f := quay(s, proxy.PushPass, stage.Options{})
	seen := watch(s)
	content := strings.Repeat("not what it is called ", 10_000)
	other := digest.FromString("something else")
	for _, tc := range []struct {
		name string
		push func(f *front) *answer
	}{
		{"in one request", func(f *front) *answer {
			return f.send(http.MethodPost, f.path("app", "blobs", "uploads", "?digest="+other.String()), content)
		}},
		{"in two requests", func(f *front) *answer { return f.send(http.MethodPut, with(f.begin("app"), other), content) }},
		{"of a length that nobody knows", func(f *front) *answer {
			return f.sendFrom(http.MethodPut, with(f.begin("app"), other), io.MultiReader(strings.NewReader(content)))
		}},
		{"in chunks", func(f *front) *answer {
			location := f.send(http.MethodPatch, f.begin("app"), content[:1000]).is(http.StatusAccepted)
			location = f.send(http.MethodPatch, location, content[1000:]).is(http.StatusAccepted)
			return f.send(http.MethodPut, with(location, other), "")
		}},
		{"in chunks, the last one with its end", func(f *front) *answer {
			location := f.send(http.MethodPatch, f.begin("app"), content[:1000]).is(http.StatusAccepted)
			return f.send(http.MethodPut, with(location, other), content[1000:])
		}},
		{"of one byte", func(f *front) *answer { return f.send(http.MethodPut, with(f.begin("app"), other), "x") }},
		{"of none", func(f *front) *answer { return f.send(http.MethodPut, with(f.begin("app"), other), "") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := f.in(t)
			tc.push(f).refused(http.StatusBadRequest, "DIGEST_INVALID")
			f.get(f.path("app", "blobs", other.String())).refused(http.StatusNotFound, "BLOB_UNKNOWN")
		})
	}
	seen.Lock()
	defer seen.Unlock()
	for body, end := range seen.bodies {
		if end == nil {
			t.Errorf("the upstream has all of a blob that is not what it is called (%d bytes)", len(body))
		}
	}
}

// Whatever happens to a session on its way through a client, the gate sends
// nothing to where it did not want to.
func TestSession(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	var clock time.Duration
	g := s.Gate(stage.Options{Names: []string{"second.example"}})
	shared := bytes.Repeat([]byte{7}, 32)
	keyed := func(o *proxy.Options) {
		o.Key = shared
		o.Now = func() time.Time { return time.Now().Add(clock) }
		o.Routes = append(o.Routes, proxy.Route{Registry: "second.example", Hosts: []string{"second"}, Push: proxy.PushPass})
	}
	f := serve(s, "HTTP/1.1", handlerFor(s, g, pushes(proxy.PushPass), keyed))
	replica := serve(s, "HTTP/1.1", handlerFor(s, g, pushes(proxy.PushPass), keyed))
	stranger := serve(s, "HTTP/1.1", handlerFor(s, g, pushes(proxy.PushPass)))
	content := "the content"
	d := digest.FromString(content)

	location := f.begin("app")
	u, err := url.Parse(location)
	s.Must(err)
	sealed := u.Query().Get("session")
	t.Run("it shows nothing of the upstream", func(t *testing.T) {
		plain, err := base64.RawURLEncoding.DecodeString(sealed)
		s.Must(err)
		for _, text := range []string{location, string(plain)} {
			if strings.Contains(text, s.Registry.Addr) || strings.Contains(text, "_state") || strings.Contains(text, "http:") {
				t.Errorf("it is %q", text)
			}
		}
		if f.begin("app") == location {
			t.Error("two uploads are at the same place")
		}
	})
	flipped := []byte(sealed)
	flipped[len(flipped)/2] ^= 1
	for _, tc := range []struct {
		name string
		f    *front
		path string
		wait time.Duration
	}{
		{"in another repository", f, strings.Replace(location, "/app/", "/other/", 1), 0},
		{"of another registry", f, strings.Replace(location, f.registry, "second", 1), 0},
		{"under another id", f, strings.Replace(location, u.Path, u.Path+"A", 1), 0},
		{"with a bit flipped", f, strings.Replace(location, sealed, string(flipped), 1), 0},
		{"cut short", f, strings.Replace(location, sealed, sealed[:len(sealed)-4], 1), 0},
		{"without any", f, u.Path, 0},
		{"with an URL of the client's", f, u.Path + "?session=" + url.QueryEscape("http://127.0.0.1:1/"), 0},
		{"with more than anybody needs", f, u.Path + "?session=" + strings.Repeat("A", 32<<10), 0},
		{"of a gate with another key", stranger, location, 0},
		{"that has expired", f, location, time.Hour},
	} {
		t.Run(tc.name, func(t *testing.T) {
			clock = tc.wait
			defer func() { clock = 0 }()
			s.Upstream.Reset()
			f := tc.f.in(t)
			for _, method := range []string{http.MethodPatch, http.MethodPut, http.MethodGet, http.MethodDelete} {
				path := tc.path
				if method == http.MethodPut {
					path = with(path, d)
				}
				f.send(method, path, content).refused(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
			}
			if n := s.Upstream.Count(""); n != 0 {
				t.Errorf("the upstream was asked %d times", n)
			}
		})
	}
	t.Run("it holds for a gate with the same key", func(t *testing.T) {
		half := replica.in(t).send(http.MethodPatch, location, content[:5]).is(http.StatusAccepted)
		f.in(t).send(http.MethodPut, with(half, d), content[5:]).is(http.StatusCreated)
	})
}

// FuzzSession hands the gate sessions that it has not sealed.
func FuzzSession(f *testing.F) {
	s := stage.New(f)
	h := handlerFor(s, s.Gate(stage.Options{Log: zap.NewNop()}), pushes(proxy.PushPass))
	front := serve(s, "HTTP/1.1", h)
	u, err := url.Parse(front.begin("app"))
	s.Must(err)
	sealed := u.Query().Get("session")
	f.Add(sealed[:len(sealed)-1], "PUT")
	f.Add(sealed+"A", "PATCH")
	f.Add("", "GET")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"id":"x","location":"http://127.0.0.1:1/","until":9999999999,"bytes":0}`)), "PUT")
	f.Add("http://127.0.0.1/", "DELETE")
	s.Upstream.Reset()
	f.Fuzz(func(t *testing.T, session, method string) {
		if session == sealed || (method != "PUT" && method != "PATCH" && method != "GET" && method != "DELETE") {
			return
		}
		query := url.Values{"session": {session}, "digest": {digest.FromString("x").String()}}
		r := &http.Request{
			Method: method, URL: &url.URL{Path: u.Path, RawQuery: query.Encode()}, Host: gateHost, RemoteAddr: "192.0.2.1:1",
			Header: http.Header{}, Body: io.NopCloser(strings.NewReader("x")), ContentLength: 1,
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		// Unused bits of the last letter say nothing, so that another text may
		// be the same session.
		plain, _ := base64.RawURLEncoding.DecodeString(session)
		right, _ := base64.RawURLEncoding.DecodeString(sealed)
		if w.Code != http.StatusNotFound && !bytes.Equal(plain, right) {
			t.Errorf("%d for a session that nobody sealed", w.Code)
		}
		if n := s.Upstream.Count(""); n != 0 && !bytes.Equal(plain, right) {
			t.Errorf("the upstream was asked %d times", n)
		}
	})
}

func TestMountThroughTheGate(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	trusted := s.Trusted(s.Image("trusted", nil))
	secret := s.Image("secret", nil)
	unpulled := s.Trusted(s.Image("unpulled", nil))
	f := quay(s, proxy.PushPass, stage.Options{})
	f.get(f.path("trusted", "manifests", "1")).served(trusted.Digest)
	f.get(f.path("secret", "manifests", "1")).refused(http.StatusForbidden, "DENIED")
	layer := func(image v1.Image) digest.Digest {
		_, layers := digests(s, image)
		return layers[0]
	}
	mine := f.upload("mine", "my own")
	for _, tc := range []struct {
		name    string
		d       digest.Digest
		query   string
		mounted bool
	}{
		{"a layer of an image that is served", layer(trusted.Content), "&from=" + f.registry + "/trusted", true},
		{"what the client has pushed itself", mine, "&from=" + f.registry + "/mine", true},
		{"a layer of a blocked image", layer(secret.Content), "&from=" + f.registry + "/secret", false},
		{"a layer of an image that nobody has pulled", layer(unpulled.Content), "&from=" + f.registry + "/unpulled", false},
		{"from another repository than the one that has it", layer(trusted.Content), "&from=" + f.registry + "/mine", false},
		{"from a registry that is not known", layer(trusted.Content), "&from=trusted", false},
		{"from an URL", layer(trusted.Content), "&from=" + url.QueryEscape("http://127.0.0.1/x"), false},
		{"from anywhere", layer(trusted.Content), "", false},
		{"the manifest", trusted.Digest, "&from=" + f.registry + "/trusted", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := f.in(t)
			s.Upstream.Reset()
			into := "into/" + strconv.Itoa(len(tc.name))
			a := f.send(http.MethodPost, f.path(into, "blobs", "uploads", "?mount="+tc.d.String()+tc.query), "")
			if tc.mounted {
				if location := a.is(http.StatusCreated); location != f.path(into, "blobs", tc.d.String()) {
					t.Errorf("it is at %s", location)
				}
				f.get(f.path(into, "blobs", tc.d.String())).served(tc.d)
				f.from("127.0.0.2").get(f.path(into, "blobs", tc.d.String())).refused(http.StatusNotFound, "BLOB_UNKNOWN")
				return
			}
			location := a.is(http.StatusAccepted)
			f.get(f.path(into, "blobs", tc.d.String())).refused(http.StatusNotFound, "BLOB_UNKNOWN")
			if head, err := http.Head("http://" + s.Registry.Addr + "/v2/" + into + "/blobs/" + tc.d.String()); err != nil || head.StatusCode != http.StatusNotFound {
				t.Errorf("the upstream has mounted it: %v, %v", head.Status, err)
			}
			f.send(http.MethodPut, with(location, digest.FromString("the blob")), "the blob").is(http.StatusCreated)
		})
	}
}

func TestPushedManifestIsTooLarge(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	image := build(s, "large")
	manifest := raw(s, image)
	f := serve(s, "HTTP/1.1", handlerFor(s, s.Gate(stage.Options{}), pushes(proxy.PushPass), func(o *proxy.Options) { o.ManifestLimit = int64(len(manifest)) - 1 }))
	s.Upstream.Reset()
	f.send(http.MethodPut, f.path("app", "manifests", "1"), manifest, "Content-Type", ociManifest).refused(http.StatusRequestEntityTooLarge, "MANIFEST_INVALID")
	if n := s.Upstream.Count(""); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

func TestManifestsThatAreNotHandedOn(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	f := quay(s, proxy.PushPass, stage.Options{})
	manifest := raw(s, build(s, "manifest"))
	wrong := digest.FromString("another")
	s.Upstream.Reset()
	for _, tc := range []struct{ name, reference, mediaType, body, code string }{
		{"under another digest", wrong.String(), ociManifest, manifest, "DIGEST_INVALID"},
		{"under what is no digest", "sha256:baddigeststring", ociManifest, manifest, "DIGEST_INVALID"},
		{"under what is no tag", ".tag", ociManifest, manifest, "NAME_INVALID"},
		{"no JSON", "1", ociManifest, "manifest", "MANIFEST_INVALID"},
		{"a header that says something else", "1", oci.MediaTypeImageIndex, manifest, "MANIFEST_INVALID"},
		{"a key that stands twice", "1", ociManifest, `{"schemaVersion":2,"schemaVersion":2,"config":{},"layers":[]}`, "MANIFEST_INVALID"},
		{"an index that brings an image with it", "1", oci.MediaTypeImageIndex,
			`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"` + ociManifest + `","digest":"` + wrong.String() + `","size":2,"data":"e30="}]}`, "MANIFEST_INVALID"},
		{"schema 1", "1", "application/vnd.docker.distribution.manifest.v1+prettyjws", manifest, "MANIFEST_INVALID"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.in(t).send(http.MethodPut, f.path("app", "manifests", tc.reference), tc.body, "Content-Type", tc.mediaType).refused(http.StatusBadRequest, tc.code)
		})
	}
	if n := s.Upstream.Count(""); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
	t.Run("one whose blobs are not there is the upstream's to refuse", func(t *testing.T) {
		f.in(t).send(http.MethodPut, f.path("app", "manifests", "1"), manifest, "Content-Type", ociManifest).refused(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
	})
}

// Neither of the registries here says what it did with a subject, or takes tags
// beside a digest.
func TestWhatARegistrySaysOfAManifest(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	f := quay(s, proxy.PushPass, stage.Options{Mode: policy.Audit})
	image := build(s, "tagged")
	s.Push("app", "staged", image)
	manifest, subject := raw(s, image), digest.FromString("subject")
	d := digest.FromString(manifest)
	f.get(f.path("app", "manifests", "staged")).served(d)
	for _, tc := range []struct{ name, subject, tags, wantSubject, wantTags string }{
		{"what it has done is passed on", subject.String(), "1, 2", subject.String(), "1,2"},
		{"what it says nothing of is not", "", "", "", ""},
		{"what cannot be is not", "<script>", "/, ../..,1", "", "1"},
		{"more tags than were asked for are not", "", "1,2,3,4", "", "1,2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var asked atomic.Value
			s.Upstream.Interpose(func(registry http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPut {
						asked.Store(r.URL.RawQuery)
						w.Header().Set("OCI-Subject", tc.subject)
						w.Header().Set("OCI-Tag", tc.tags)
					}
					registry.ServeHTTP(w, r)
				})
			})
			defer s.Upstream.Interpose(nil)
			a := f.in(t).send(http.MethodPut, f.path("app", "manifests", d.String()+"?tag=1&tag=2"), manifest, "Content-Type", ociManifest)
			a.is(http.StatusCreated)
			if got := a.Header.Get("OCI-Subject"); got != tc.wantSubject {
				t.Errorf("OCI-Subject is %q", got)
			}
			if got := strings.Join(a.Header.Values("OCI-Tag"), ","); got != tc.wantTags {
				t.Errorf("OCI-Tag is %q", got)
			}
			if asked.Load() != "tag=1&tag=2" {
				t.Errorf("the upstream was asked for %q", asked.Load())
			}
		})
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	g := s.Gate(stage.Options{Mode: policy.Audit})
	f := serve(s, "HTTP/1.1", handlerFor(s, g, pushes(proxy.PushPass)))
	// published puts an image under two tags and pulls it in every way.
	published := func(f *front, repository string) (d, layer digest.Digest) {
		image := build(s, "in "+repository)
		s.Push(repository, "1", image)
		d = s.Push(repository, "2", image).Digest
		_, layers := digests(s, image)
		for _, reference := range []string{"1", "2", d.String()} {
			f.get(f.path(repository, "manifests", reference)).served(d)
		}
		f.get(f.path(repository, "blobs", layers[0].String())).served(layers[0])
		return d, layers[0]
	}
	t.Run("a tag", func(t *testing.T) {
		f := f.in(t)
		d, _ := published(f, "delete/tag")
		f.send(http.MethodDelete, f.path("delete/tag", "manifests", "1"), "").is(http.StatusAccepted)
		f.get(f.path("delete/tag", "manifests", "1")).refused(http.StatusNotFound, "MANIFEST_UNKNOWN")
		f.get(f.path("delete/tag", "manifests", "2")).served(d)
		f.get(f.path("delete/tag", "manifests", d.String())).served(d)
	})
	gone := func(f *front, repository string, d, layer digest.Digest) {
		f.Helper()
		for _, reference := range []string{d.String(), "1", "2"} {
			f.get(f.path(repository, "manifests", reference)).refused(http.StatusNotFound, "MANIFEST_UNKNOWN")
			f.head(f.path(repository, "manifests", reference)).refused(http.StatusNotFound, "")
		}
		f.get(f.path(repository, "blobs", layer.String())).refused(http.StatusNotFound, "BLOB_UNKNOWN")
	}
	t.Run("a manifest", func(t *testing.T) {
		f := f.in(t)
		d, layer := published(f, "delete/manifest")
		f.send(http.MethodDelete, f.path("delete/manifest", "manifests", d.String()), "").is(http.StatusAccepted)
		gone(f, "delete/manifest", d, layer)
		f.do(http.MethodDelete, f.path("delete/manifest", "manifests", d.String())).refused(http.StatusNotFound, "MANIFEST_UNKNOWN")

		// Neither does it come back when the upstream goes away, or the gate.
		s.Upstream.Down.Store(true)
		defer s.Upstream.Down.Store(false)
		f.get(f.path("delete/manifest", "manifests", d.String())).refused(http.StatusServiceUnavailable, "DENIED")
		again := open(s.For(t), stage.Options{Mode: policy.Audit})
		again.get(again.path("delete/manifest", "manifests", d.String())).refused(http.StatusServiceUnavailable, "DENIED")
		again.get(again.path("delete/manifest", "blobs", layer.String())).refused(http.StatusNotFound, "BLOB_UNKNOWN")
	})
	t.Run("a manifest that is pushed again", func(t *testing.T) {
		f := f.in(t)
		d, _ := published(f, "delete/again")
		f.send(http.MethodDelete, f.path("delete/again", "manifests", d.String()), "").is(http.StatusAccepted)
		f.get(f.path("delete/again", "manifests", d.String())).refused(http.StatusNotFound, "MANIFEST_UNKNOWN")
		published(f, "delete/again")
	})
	t.Run("a manifest, past the gate", func(t *testing.T) {
		f := f.in(t)
		d, layer := published(f, "delete/past")
		s.Must(remote.Delete(at(s, "delete/past@"+d.String())))
		s.Pass(time.Hour) // no verdict stands any more
		f.get(f.path("delete/past", "manifests", d.String())).refused(http.StatusNotFound, "MANIFEST_UNKNOWN")
		gone(f, "delete/past", d, layer)
	})
	t.Run("a manifest that is still there while the upstream is not", func(t *testing.T) {
		f := f.in(t)
		d, layer := published(f, "delete/not")
		s.Upstream.Down.Store(true)
		defer s.Upstream.Down.Store(false)
		s.Pass(time.Hour)
		f.get(f.path("delete/not", "manifests", d.String())).served(d)
		f.get(f.path("delete/not", "blobs", layer.String())).served(layer)
	})
	t.Run("what is no tag and no digest", func(t *testing.T) {
		f.in(t).do(http.MethodDelete, f.path("app", "manifests", "sha256:0")).refused(http.StatusBadRequest, "DIGEST_INVALID")
		f.in(t).do(http.MethodDelete, f.path("app", "blobs", "1")).refused(http.StatusBadRequest, "DIGEST_INVALID")
	})
}

func TestRouteThatTakesNoPushes(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	g := s.Gate(stage.Options{Names: []string{"writable.example"}})
	f := serve(s, "HTTP/1.1", handlerFor(s, g, func(o *proxy.Options) {
		o.Routes = append(o.Routes, proxy.Route{Registry: "writable.example", Push: proxy.PushPass})
	}))
	s.Upstream.Reset()
	for _, call := range []struct{ method, path string }{
		{http.MethodPost, f.path("app", "blobs", "uploads", "")},
		{http.MethodPut, f.path("app", "manifests", "1")},
		{http.MethodDelete, f.path("app", "manifests", "1")},
		{http.MethodDelete, f.path("app", "blobs", digest.FromString("x").String())},
	} {
		refusal := f.do(call.method, call.path).refused(http.StatusMethodNotAllowed, "UNSUPPORTED")
		if !strings.Contains(refusal.Message, "push to the registry behind it") {
			t.Error(refusal.Message)
		}
	}
	if n := s.Upstream.Count(""); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
	f.do(http.MethodPost, "/v2/unknown.example/app/blobs/uploads/").refused(http.StatusNotFound, "NAME_UNKNOWN")
	f.send(http.MethodPost, "/v2/writable.example/app/blobs/uploads/", "").is(http.StatusAccepted)
}

// A web page can have a browser send requests to a gate on the same machine.
func TestPushByAWebPage(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	f := quay(s, proxy.PushPass, stage.Options{})
	location := f.begin("app")
	s.Upstream.Reset()
	for _, origin := range []string{"https://evil.example", f.base, "null"} {
		f.send(http.MethodPost, f.path("app", "blobs", "uploads", "?digest="+digest.FromString("x").String()), "x", "Origin", origin).refused(http.StatusForbidden, "DENIED")
		f.send(http.MethodPut, with(location, digest.FromString("x")), "x", "Origin", origin).refused(http.StatusForbidden, "DENIED")
		f.do(http.MethodDelete, f.path("app", "manifests", "1"), "Origin", origin).refused(http.StatusForbidden, "DENIED")
	}
	if n := s.Upstream.Count(""); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

func TestNamespaceOfAnUpload(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	f := quay(s, proxy.PushPass, stage.Options{})
	location := f.send(http.MethodPost, "/v2/app/blobs/uploads/?ns="+registryHost, "").is(http.StatusAccepted)
	d := digest.FromString("content")
	location = f.send(http.MethodPut, with(location, d), "content").is(http.StatusCreated)
	f.get(location).served(d)
}

func TestPushWhileTheUpstreamIsAway(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	f := quay(s, proxy.PushPass, stage.Options{})
	location := f.begin("app")
	s.Upstream.Down.Store(true)
	f.send(http.MethodPut, with(location, digest.FromString("x")), "x").refused(http.StatusServiceUnavailable, "DENIED")
}
