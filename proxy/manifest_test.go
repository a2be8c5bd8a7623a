package proxy_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// dockerImage is an image as Docker pushes it.
func dockerImage(s *stage.Stage, content string) v1.Image {
	s.Helper()
	image := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.DockerConfigJSON), types.DockerManifestSchema2)
	layer, err := shipyard.Layer(map[string]string{"bin/app": content})
	s.Must(err)
	image, err = mutate.Append(image, mutate.Addendum{Layer: layer, MediaType: types.DockerLayer})
	s.Must(err)
	config, err := image.ConfigFile()
	s.Must(err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	image, err = mutate.ConfigFile(image, config)
	s.Must(err)
	return image
}

// published is one manifest of each kind, by the repository that it is in.
func published(s *stage.Stage) map[string]*shipyard.Image {
	s.Helper()
	ctx := s.Context()
	kinds := map[string]*shipyard.Image{
		oci.MediaTypeImageManifest:  s.Push("kinds/oci", "1", build(s, "oci")),
		oci.MediaTypeDockerManifest: s.Push("kinds/docker", "1", dockerImage(s, "docker")),
	}
	index, err := s.Registry.PushIndex(ctx, "kinds/index", "1", []string{"linux/amd64", "linux/arm64"}, build(s, "amd"), build(s, "arm"))
	s.Must(err)
	kinds[oci.MediaTypeImageIndex] = index
	list, err := s.Registry.WriteIndex(ctx, "kinds/list", "1", mutate.AppendManifests(
		mutate.IndexMediaType(empty.Index, types.DockerManifestList),
		mutate.IndexAddendum{Add: dockerImage(s, "listed"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
	))
	s.Must(err)
	kinds[oci.MediaTypeDockerList] = list
	kinds["a Helm chart"] = s.Push("kinds/chart", "1", mutate.ConfigMediaType(build(s, "chart"), "application/vnd.cncf.helm.config.v1+json"))
	signed := s.Push("kinds/signed", "1", build(s, "signed"))
	s.Must(s.Registry.Sign(ctx, s.CI, signed))
	tag := evidenceTag(signed.Digest, ".sig")
	signature, err := remote.Get(at(s, "kinds/signed:"+tag))
	s.Must(err)
	kinds["a signature"] = &shipyard.Image{
		Registry: s.Registry.Addr, Repository: "kinds/signed", Tag: tag, Digest: digest.Digest(signature.Digest.String()),
	}
	return kinds
}

// evidenceTag is the tag that evidence about a digest has in cosign's layout.
func evidenceTag(d digest.Digest, suffix string) string {
	return d.Algorithm().String() + "-" + d.Encoded() + suffix
}

// at names something at the upstream itself.
func at(s *stage.Stage, rest string) name.Reference {
	s.Helper()
	ref, err := name.ParseReference(s.Registry.Addr + "/" + rest)
	s.Must(err)
	return ref
}

func TestManifest(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	kinds := published(s)
	g := s.Gate(stage.Options{Mode: policy.Audit})
	for _, protocol := range protocols {
		f := serve(s, protocol, handlerFor(s, g))
		for kind, image := range kinds {
			t.Run(protocol+" "+kind, func(t *testing.T) {
				f := f.in(t)
				mediaType := kind
				if !strings.HasPrefix(kind, "application/") {
					mediaType = oci.MediaTypeImageManifest
				}
				for _, reference := range []string{image.Tag, image.Digest.String()} {
					path := f.path(image.Repository, "manifests", reference)
					whole := f.get(path).served(image.Digest)
					if whole.Proto != protocol {
						t.Fatalf("it was spoken in %s", whole.Proto)
					}
					for name, want := range map[string]string{"Content-Type": mediaType, "Etag": `"` + image.Digest.String() + `"`} {
						if got := whole.Header.Get(name); got != want {
							t.Errorf("%s is %q, want %q", name, got, want)
						}
					}
					head := f.head(path)
					if head.StatusCode != http.StatusOK || len(head.body) > 0 || head.ContentLength != int64(len(whole.body)) {
						t.Errorf("HEAD: %s, Content-Length %d, body %q", head.Status, head.ContentLength, head.body)
					}
					for _, name := range []string{"Content-Type", "Etag", "Docker-Content-Digest", "Trustgate-Verdict", "Trustgate-Decision-Id"} {
						if got, want := head.Header.Get(name), whole.Header.Get(name); got != want {
							t.Errorf("HEAD has %s %q, GET %q", name, got, want)
						}
					}
				}
			})
		}
	}
}

func TestManifestThatTheClientHas(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	f := open(s, stage.Options{})
	path := f.path("app", "manifests", "1")
	tag := `"` + app.Digest.String() + `"`
	for _, tc := range []struct {
		ifNoneMatch string
		status      int
	}{
		{tag, http.StatusNotModified},
		{"W/" + tag, http.StatusNotModified},
		{`"something else", ` + tag, http.StatusNotModified},
		{"*", http.StatusNotModified},
		{app.Digest.String(), http.StatusNotModified},
		{`"sha256:` + strings.Repeat("0", 64) + `"`, http.StatusOK},
		{"", http.StatusOK},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			t.Run(method+" "+tc.ifNoneMatch, func(t *testing.T) {
				a := f.in(t).do(method, path, "If-None-Match", tc.ifNoneMatch)
				if a.StatusCode != tc.status {
					t.Fatalf("%s, want %d", a.Status, tc.status)
				}
				if a.StatusCode == http.StatusNotModified && (len(a.body) > 0 || a.Header.Get("Etag") != tag || a.Header.Get("Trustgate-Verdict") != "serve") {
					t.Errorf("304 with %q and %v", a.body, a.Header)
				}
			})
		}
	}
}

func TestManifestByWhatTheClientAccepts(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil)) // an OCI image manifest
	f := open(s, stage.Options{})
	path := f.path("app", "manifests", "1")
	const image, docker = oci.MediaTypeImageManifest, oci.MediaTypeDockerManifest
	for _, tc := range []struct {
		name   string
		accept []string
		served bool
	}{
		{"nothing said", nil, true},
		{"that very type", []string{image}, true},
		{"in other letters", []string{strings.ToUpper(image)}, true},
		{"with a parameter", []string{image + "; charset=utf-8"}, true},
		{"one of a list", []string{docker + ", " + image + ";q=0.5"}, true},
		{"in a second header", []string{docker, image}, true},
		{"everything", []string{"*/*"}, true},
		{"every application type", []string{"application/*"}, true},
		{"beside something unreadable", []string{"///, " + image}, true},
		{"another type", []string{docker}, false},
		{"another type alone in many", []string{docker, "text/html, application/json"}, false},
		{"never, by weight", []string{image + ";q=0"}, false},
		{"never, by a longer weight", []string{image + ";q=0.000"}, false},
		{"an empty header", []string{""}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := f.in(t)
			var header []string
			for _, value := range tc.accept {
				header = append(header, "Accept", value)
			}
			if tc.served {
				f.get(path, header...).served(app.Digest)
				return
			}
			// As registries answer, so that clients say the same of the gate.
			refusal := f.get(path, header...).refused(http.StatusNotFound, "MANIFEST_UNKNOWN")
			if !strings.Contains(refusal.Message, image) {
				t.Errorf("the message does not name the type: %s", refusal.Message)
			}
		})
	}
	t.Run("a block says so whatever the client accepts", func(t *testing.T) {
		s.For(t).Image("unsigned", nil)
		f := f.in(t)
		f.get(f.path("unsigned", "manifests", "1"), "Accept", docker).refused(http.StatusForbidden, "DENIED")
	})
}

func TestPullByRealClients(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	app := s.Trusted(s.Image("app", s.Trusted(s.Image("base/os", nil))))
	index, err := s.Registry.PushIndex(t.Context(), "multi", "1", []string{"linux/amd64", "linux/arm64"}, build(s, "amd"), build(s, "arm"))
	s.Must(err)
	s.Trusted(index)
	g := s.Gate(stage.Options{})
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			s := s.For(t)
			f := serve(s, protocol, handlerFor(s, g))

			image, err := remote.Image(f.reference("app:1"), f.puller()...)
			s.Must(err)
			readLayers(s, image)
			if d, err := image.Digest(); err != nil || d.String() != app.Digest.String() {
				t.Errorf("pulled %s, %v", d, err)
			}
			pulled, err := remote.Index(f.reference("multi@"+index.Digest.String()), f.puller()...)
			s.Must(err)
			manifest, err := pulled.IndexManifest()
			s.Must(err)
			for _, entry := range manifest.Manifests {
				image, err := pulled.Image(entry.Digest)
				s.Must(err)
				readLayers(s, image)
			}

			transport := crane.WithTransport(f.client.Transport)
			if d, err := crane.Digest(f.reference("multi:1").String(), transport); err != nil || d != index.Digest.String() {
				t.Errorf("crane digest: %s, %v", d, err)
			}
			if tags, err := crane.ListTags(f.reference("app:1").Context().String(), transport); err != nil || !strings.Contains(strings.Join(tags, " "), "1") {
				t.Errorf("crane ls: %v, %v", tags, err)
			}
			head, err := remote.Head(f.reference("app:1"), f.puller()...)
			s.Must(err)
			if head.Digest.String() != app.Digest.String() || head.Size == 0 || head.MediaType != types.OCIManifestSchema1 {
				t.Errorf("HEAD: %+v", head)
			}
		})
	}
	t.Run("a refused one shows the reason", func(t *testing.T) {
		s := s.For(t)
		s.Image("unsigned", nil)
		f := serve(s, "HTTP/1.1", handlerFor(s, g))
		_, err := crane.Manifest(f.reference("unsigned:1").String(), crane.WithTransport(f.client.Transport))
		if err == nil || !strings.Contains(err.Error(), "DENIED: TrustGate blocked") || !strings.Contains(err.Error(), "unsigned:1") {
			t.Errorf("the person reads: %v", err)
		}
		_, err = remote.Head(f.reference("unsigned:1"), f.puller()...)
		if err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("HEAD: %v", err)
		}
	})
}

// readLayers reads every layer, which the client checks against its digest.
func readLayers(s *stage.Stage, image v1.Image) {
	s.Helper()
	layers, err := image.Layers()
	s.Must(err)
	for _, layer := range layers {
		body, err := layer.Compressed()
		s.Must(err)
		if n, err := io.Copy(io.Discard, body); err != nil || n == 0 {
			s.Errorf("a layer of %d bytes: %v", n, err)
		}
		body.Close()
	}
}

// No registry of today keeps schema 1; the bytes stand in an index tag of one
// that checks nothing.
func TestSchema1IsRefused(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	library(s)
	document := map[string]any{
		"schemaVersion": 1, "name": "old", "tag": "1", "architecture": "amd64",
		"fsLayers":   []any{map[string]string{"blobSum": digest.FromString("layer").String()}},
		"history":    []any{map[string]string{"v1Compatibility": "{}"}},
		"signatures": []any{map[string]string{"signature": "x"}},
	}
	raw, err := json.Marshal(document)
	s.Must(err)
	for i, mediaType := range []string{
		"application/vnd.docker.distribution.manifest.v1+prettyjws",
		"application/vnd.docker.distribution.manifest.v1+json",
		"application/json",
		oci.MediaTypeImageManifest, // what it is not
	} {
		putManifest(s, "old", strconv.Itoa(i), mediaType, string(raw))
	}
	for _, mode := range []policy.Mode{policy.Enforce, policy.Audit} {
		f := open(s, stage.Options{Mode: mode})
		for i := range 4 {
			for _, reference := range []string{strconv.Itoa(i), digest.FromBytes(raw).String()} {
				path := f.path("old", "manifests", reference)
				refusal := f.get(path).refused(http.StatusForbidden, "DENIED")
				if !strings.Contains(refusal.Message, "schema 1") || !strings.Contains(refusal.Message, "push the image again") {
					t.Errorf("the message does not help: %s", refusal.Message)
				}
				f.head(path).refused(http.StatusForbidden, "DENIED")
			}
		}
		f.server.Close()
	}
}

func TestWhatIsNotThere(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	s.Trusted(s.Image("app", nil))
	f := open(s, stage.Options{})
	nothing := "sha256:" + strings.Repeat("0", 64)
	for _, tc := range []struct {
		path   string
		status int
		code   string
	}{
		{f.path("app", "manifests", "2"), http.StatusNotFound, "MANIFEST_UNKNOWN"},
		{f.path("app", "manifests", nothing), http.StatusNotFound, "MANIFEST_UNKNOWN"},
		{f.path("none", "manifests", "1"), http.StatusNotFound, "MANIFEST_UNKNOWN"},
		{f.path("none", "tags", "list"), http.StatusNotFound, "NAME_UNKNOWN"},
		{f.path("app", "blobs", nothing), http.StatusNotFound, "BLOB_UNKNOWN"},
		{f.path("app", "manifests", "a b"), http.StatusBadRequest, "NAME_INVALID"},
		{f.path("app", "manifests", strings.Repeat("t", 129)), http.StatusBadRequest, "NAME_INVALID"},
		{f.path("app", "referrers", "1"), http.StatusBadRequest, "DIGEST_INVALID"},
		{f.path("app", "blobs", "1"), http.StatusBadRequest, "DIGEST_INVALID"},
		{f.path("App", "manifests", "1"), http.StatusBadRequest, "NAME_INVALID"},
		{"/v2/_catalog", http.StatusNotFound, "UNSUPPORTED"},
		{"/v1/_ping", http.StatusNotFound, "UNSUPPORTED"},
		{"/", http.StatusNotFound, "UNSUPPORTED"},
	} {
		t.Run(tc.path, func(t *testing.T) {
			f := f.in(t)
			f.get(strings.ReplaceAll(tc.path, " ", "%20")).refused(tc.status, tc.code)
			f.head(strings.ReplaceAll(tc.path, " ", "%20")).refused(tc.status, tc.code)
		})
	}
}
