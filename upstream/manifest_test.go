package upstream_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

func TestManifest(t *testing.T) {
	h := openHarbour(t)
	p := app(t, h.Addr, nil)
	docker := func() v1.Image {
		content, err := shipyard.Build(nil, map[string]string{"bin/app": "for docker"})
		if err != nil {
			t.Fatal(err)
		}
		return mutate.ConfigMediaType(mutate.MediaType(content, types.DockerManifestSchema2), types.DockerConfigJSON)
	}
	var published []*shipyard.Image
	h.behind(func() {
		index, err := h.PushIndex(t.Context(), "acme/app", "index", []string{"linux/amd64", "linux/arm64"}, h.image.Content, h.image.Content)
		if err != nil {
			t.Fatal(err)
		}
		published = []*shipyard.Image{h.image, push(t, h.Registry, "docker", docker()), index}
	})
	for k, mediaType := range []string{oci.MediaTypeImageManifest, oci.MediaTypeDockerManifest, oci.MediaTypeImageIndex} {
		want := published[k]
		for _, name := range []string{want.Tag, want.Digest.String()} {
			t.Run(mediaType+" by "+name, func(t *testing.T) {
				m, err := p.Manifest(t.Context(), name)
				if err != nil {
					t.Fatal(err)
				}
				if m.Digest != want.Digest || m.MediaType != mediaType || digest.FromBytes(m.Raw) != want.Digest {
					t.Errorf("got %s of type %s, bytes of %s", m.Digest, m.MediaType, digest.FromBytes(m.Raw))
				}
				h.forget()
				d, err := p.Resolve(t.Context(), name)
				if err != nil {
					t.Fatal(err)
				}
				if d.Digest != want.Digest || d.MediaType != mediaType || d.Size != int64(len(m.Raw)) {
					t.Errorf("resolved to %+v", d)
				}
				if got := h.asked(); !slices.Equal(got, []string{"HEAD /v2/acme/app/manifests/" + name}) {
					t.Errorf("asked %q", got)
				}
			})
		}
	}
	for name, missing := range map[string]string{"tag": "gone", "digest": digest.FromString("gone").String()} {
		t.Run("a "+name+" that is not there", func(t *testing.T) {
			_, err := p.Manifest(t.Context(), missing)
			wants(t, err, oci.ErrNotFound, false)
			says(t, err, "registry.example.com/acme/app", missing, "manifest_unknown")
			_, err = p.Resolve(t.Context(), missing)
			wants(t, err, oci.ErrNotFound, false)
		})
	}
	for _, name := range []string{"", ".hidden", "a/b", "../../etc", "1?a=b", strings.Repeat("a", 129), "sha256:abc", "md5:" + strings.Repeat("0", 32), "sha256:" + strings.Repeat("A", 64)} {
		t.Run(fmt.Sprintf("%.20q is never asked for", name), func(t *testing.T) {
			h.forget()
			if _, err := p.Manifest(t.Context(), name); err == nil {
				t.Error("fetched")
			}
			if _, err := p.Resolve(t.Context(), name); err == nil {
				t.Error("resolved")
			}
			if got := h.asked(); len(got) > 0 {
				t.Errorf("asked %q", got)
			}
		})
	}
}

func TestManifestsThatAreNotWhatTheyAreSaidToBe(t *testing.T) {
	h := openHarbour(t)
	p := app(t, h.Addr, func(o *upstream.Options) { o.ManifestLimit = 2048 })
	other := digest.FromString("something else").String()
	schema1 := `{"schemaVersion":1,"name":"acme/app","tag":"1","architecture":"amd64","fsLayers":[],"history":[],"signatures":[]}`
	for _, tc := range []struct {
		name   string
		change func(header http.Header, body []byte) []byte
		kind   error // nil where all is well
		says   string
	}{
		{"as it is", func(_ http.Header, b []byte) []byte { return b }, nil, ""},
		{"no digest in the header", func(h http.Header, b []byte) []byte { h.Del("Docker-Content-Digest"); return b }, nil, ""},
		{"another digest in the header", func(h http.Header, b []byte) []byte { h.Set("Docker-Content-Digest", other); return b }, oci.ErrManifest, other},
		{"no digest but something in the header", func(h http.Header, b []byte) []byte { h.Set("Docker-Content-Digest", "latest"); return b }, oci.ErrManifest, "latest"},
		{"an algorithm that is not supported", func(h http.Header, b []byte) []byte {
			h.Set("Docker-Content-Digest", "sha384:"+digest.SHA384.FromBytes(b).Encoded())
			return b
		}, oci.ErrManifest, "sha384"},
		{"a digest of another algorithm in the header", func(h http.Header, b []byte) []byte {
			h.Set("Docker-Content-Digest", digest.SHA512.FromBytes(b).String())
			return b
		}, nil, ""},
		{"a wrong digest of another algorithm in the header", func(h http.Header, b []byte) []byte {
			h.Set("Docker-Content-Digest", digest.SHA512.FromString("something else").String())
			return b
		}, oci.ErrManifest, "sha512:"},
		{"other bytes", func(_ http.Header, b []byte) []byte { return bytes.Replace(b, []byte(`"size"`), []byte(`"Size"`), 1) }, oci.ErrManifest, "hash to"},
		{"a digest that fits other bytes", func(h http.Header, b []byte) []byte {
			b = bytes.Replace(b, []byte("{"), []byte("{ "), 1)
			h.Set("Docker-Content-Digest", digest.FromBytes(b).String())
			h.Set("X-Fits", "by tag")
			return b
		}, oci.ErrManifest, "hash to"},
		{"application/json", func(h http.Header, b []byte) []byte { h.Set("Content-Type", "application/json"); return b }, nil, ""},
		{"a type with parameters", func(h http.Header, b []byte) []byte {
			h.Set("Content-Type", oci.MediaTypeImageManifest+"; charset=utf-8")
			return b
		}, nil, ""},
		{"the type of an index", func(h http.Header, b []byte) []byte { h.Set("Content-Type", oci.MediaTypeImageIndex); return b }, oci.ErrManifest, oci.MediaTypeImageIndex},
		{"a type that cannot be read", func(h http.Header, b []byte) []byte { h.Set("Content-Type", "a b/c"); return b }, oci.ErrManifest, "content type"},
		{"a page of HTML", func(h http.Header, b []byte) []byte {
			h.Set("Content-Type", "text/html")
			h.Del("Docker-Content-Digest")
			return []byte("<html>please log in</html>")
		}, oci.ErrManifest, ""},
		{"nothing", func(h http.Header, b []byte) []byte { h.Del("Docker-Content-Digest"); return nil }, oci.ErrManifest, ""},
		{"schema 1 by its type", func(h http.Header, b []byte) []byte {
			h.Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
			h.Set("Docker-Content-Digest", other)
			return []byte(schema1)
		}, oci.ErrSchema1, "push the image again"},
		{"schema 1 by its content", func(h http.Header, b []byte) []byte {
			h.Set("Content-Type", "application/json")
			h.Set("Docker-Content-Digest", other)
			return []byte(schema1)
		}, oci.ErrSchema1, "push the image again"},
		{"more than is allowed", func(h http.Header, b []byte) []byte {
			h.Del("Docker-Content-Digest")
			h.Set("Content-Length", "2049")
			return append(b, make([]byte, 2049-len(b))...)
		}, oci.ErrManifest, "2049 bytes, more than the 2048 allowed"},
		{"more than is allowed, in pieces", func(h http.Header, b []byte) []byte {
			h.Del("Docker-Content-Digest")
			return append(b, make([]byte, 1<<20)...)
		}, oci.ErrManifest, "more than the 2048 bytes allowed"},
		{"as much as is allowed", func(h http.Header, b []byte) []byte {
			b = append(b, bytes.Repeat([]byte(" "), 2048-len(b))...)
			h.Set("Docker-Content-Digest", digest.FromBytes(b).String())
			h.Set("X-Fits", "by tag")
			return b
		}, oci.ErrManifest, "hash to"},
		{"less than announced", func(h http.Header, b []byte) []byte {
			h.Set("Content-Length", fmt.Sprint(len(b)+1))
			return b
		}, upstream.ErrUnavailable, "connection broke"},
	} {
		fits := false // by tag, though not by digest
		h.behave(tamper(http.MethodGet, "/manifests/", func(header http.Header, body []byte) []byte {
			header.Del("Content-Length")
			body = tc.change(header, body)
			fits = header.Get("X-Fits") != ""
			return body
		}))
		for by, name := range map[string]string{"tag": "1", "digest": h.image.Digest.String()} {
			t.Run(tc.name+", by "+by, func(t *testing.T) {
				m, err := p.Manifest(t.Context(), name)
				if tc.kind == nil || (fits && by == "tag") {
					if err != nil {
						t.Fatal(err)
					}
					if m.Digest.Algorithm().FromBytes(m.Raw) != m.Digest || m.MediaType != oci.MediaTypeImageManifest {
						t.Errorf("got %s of type %s", m.Digest, m.MediaType)
					}
					return
				}
				// A schema 1 manifest is named as one, whatever its digest is of.
				wants(t, err, tc.kind, tc.kind == upstream.ErrUnavailable)
				says(t, err, tc.says)
			})
		}
	}
}

func TestResolveWhereHEADDoesNotHelp(t *testing.T) {
	h := openHarbour(t)
	p := app(t, h.Addr, nil)
	// head makes the registry answer HEAD with f, which says whether it did.
	head := func(f func(w http.ResponseWriter, r *http.Request) bool) {
		h.behave(answer(func(w http.ResponseWriter, r *http.Request) bool { return r.Method == http.MethodHead && f(w, r) }))
	}
	other := digest.FromString("something else").String()
	for _, tc := range []struct {
		name   string
		change func(w http.ResponseWriter, r *http.Request) bool
	}{
		{"is not known", func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return true
		}},
		{"is taken for something else", func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(http.StatusNotFound); return true }},
		{"fails", func(w http.ResponseWriter, r *http.Request) bool { status(500, "0")(w, r); return true }},
		{"names no digest", header("Docker-Content-Digest", "")},
		{"names no digest that can be read", header("Docker-Content-Digest", "sha256:f00")},
		{"names no length", header("Content-Length", "")},
		{"names no type", header("Content-Type", "")},
		{"names a type that says nothing", header("Content-Type", "application/octet-stream")},
		{"has the length of nothing", header("Content-Length", "0")},
	} {
		head(tc.change)
		for by, name := range map[string]string{"tag": "1", "digest": h.image.Digest.String()} {
			t.Run(tc.name+", by "+by, func(t *testing.T) {
				h.forget()
				d, err := p.Resolve(t.Context(), name)
				if err != nil || d.Digest != h.image.Digest || d.MediaType != oci.MediaTypeImageManifest || d.Size == 0 {
					t.Errorf("resolved to %+v, %v", d, err)
				}
				if got := h.asked(); got[len(got)-1] != "GET /v2/acme/app/manifests/"+name {
					t.Errorf("asked %q", got)
				}
			})
		}
	}
	for code, kind := range map[int]error{401: upstream.ErrUnauthorized, 403: upstream.ErrUnauthorized, 429: upstream.ErrUnavailable} {
		t.Run(fmt.Sprintf("%d is an answer", code), func(t *testing.T) {
			head(func(w http.ResponseWriter, r *http.Request) bool { status(code, "3600")(w, r); return true })
			_, err := p.Resolve(t.Context(), "1")
			wants(t, err, kind, kind == upstream.ErrUnavailable)
			if got := h.asked(); len(got) != 1 {
				t.Errorf("asked %q", got)
			}
		})
	}
	t.Run("another digest than was asked for is a lie", func(t *testing.T) {
		head(header("Docker-Content-Digest", other))
		_, err := p.Resolve(t.Context(), h.image.Digest.String())
		wants(t, err, oci.ErrManifest, false)
		says(t, err, other)
	})
	t.Run("a digest of another algorithm is not", func(t *testing.T) {
		head(header("Docker-Content-Digest", digest.SHA512.FromString("x").String()))
		d, err := p.Resolve(t.Context(), h.image.Digest.String())
		if err != nil || d.Digest != h.image.Digest {
			t.Errorf("resolved to %s, %v", d.Digest, err)
		}
	})
	t.Run("schema 1 is named as such", func(t *testing.T) {
		addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+json")
			w.Header().Set("Docker-Content-Digest", other)
			_, _ = io.WriteString(w, `{"schemaVersion":1,"fsLayers":[]}`)
		}))
		_, err := app(t, addr, nil).Resolve(t.Context(), "1")
		wants(t, err, oci.ErrSchema1, false)
	})
}

// header answers HEAD as a registry does, with one header that is another, or
// that is missing.
func header(key, value string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", oci.MediaTypeImageManifest)
		w.Header().Set("Content-Length", "400")
		w.Header().Set("Docker-Content-Digest", digest.FromString("a digest that nobody must believe").String())
		if value != "" {
			w.Header().Set(key, value)
		} else {
			w.Header()[key] = nil // and none that is made up for it
		}
		return true
	}
}

// What is asked for with sha512 is checked with sha512.
func TestManifestBySHA512(t *testing.T) {
	want := digest.SHA512.FromBytes(content)
	p := app(t, serve(t, http.HandlerFunc(manifest)), nil)
	if m, err := p.Manifest(t.Context(), want.String()); err != nil || m.Digest != want {
		t.Errorf("got %+v, %v", m, err)
	}
	_, err := p.Manifest(t.Context(), digest.SHA512.FromString("something else").String())
	wants(t, err, oci.ErrManifest, false)
}

// Registries with both forms of an image send the one that is asked for first.
func TestAccept(t *testing.T) {
	h := openHarbour(t)
	if _, err := app(t, h.Addr, nil).Manifest(t.Context(), "1"); err != nil {
		t.Fatal(err)
	}
	accept := h.header("Accept")[0]
	last := -1
	for _, mediaType := range append(slices.Clone(oci.ManifestMediaTypes), "application/vnd.docker.distribution.manifest.v1+prettyjws", "application/vnd.docker.distribution.manifest.v1+json") {
		at := strings.Index(accept, mediaType)
		if at <= last {
			t.Errorf("%s is not where it should be in %q", mediaType, accept)
		}
		last = at
	}
	if got := h.header("Accept-Encoding"); got[0] != "" {
		t.Errorf("asked for the encoding %q", got)
	}
}
