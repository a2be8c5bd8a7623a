package proxy_test

import (
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/proxy"
)

// unpublished is an image as the upstream will know it, before it is there:
// it can be signed already.
func unpublished(s *stage.Stage, repository string, image v1.Image) *shipyard.Image {
	s.Helper()
	d, err := image.Digest()
	s.Must(err)
	return &shipyard.Image{Registry: s.Registry.Addr, Repository: repository, Tag: "1", Digest: digest.Digest(d.String()), Content: image}
}

// blobs pushes an image's config and layers.
func (f *front) blobs(s *stage.Stage, repository string, image v1.Image) {
	f.Helper()
	config, err := image.RawConfigFile()
	s.Must(err)
	f.upload(repository, string(config))
	layers, err := image.Layers()
	s.Must(err)
	for _, l := range layers {
		repo := f.reference(repository + ":1").Context()
		s.Must(remote.WriteLayer(repo, l, f.puller()...))
	}
}

// absent demands that the upstream does not have the manifest.
func absent(s *stage.Stage, repository, reference string) {
	s.Helper()
	resp, err := http.Head("http://" + s.Registry.Addr + "/v2/" + repository + "/manifests/" + reference)
	s.Must(err)
	if resp.StatusCode != http.StatusNotFound {
		s.Errorf("the upstream has %s of %s: %s", reference, repository, resp.Status)
	}
}

func TestPushIsJudged(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	gates := map[policy.Mode]*front{}
	for _, mode := range []policy.Mode{policy.Enforce, policy.AnnotateOnly, policy.Audit} {
		own := s.For(t)
		own.Folder = t.TempDir()
		gates[mode] = quay(own, proxy.PushJudge, stage.Options{Mode: mode})
	}
	f := gates[policy.Enforce]

	t.Run("what would be blocked is refused, and the upstream never has it", func(t *testing.T) {
		f := f.in(t)
		image := build(s, "unsigned")
		d := unpublished(s, "unsigned", image).Digest
		f.blobs(s, "unsigned", image)
		for _, reference := range []string{"1", d.String()} {
			a := f.send(http.MethodPut, f.path("unsigned", "manifests", reference), raw(s, image), "Content-Type", ociManifest)
			refusal := a.refused(http.StatusForbidden, "DENIED")
			if !strings.Contains(refusal.Detail, "signature.missing") || !strings.Contains(refusal.Message, "TrustGate blocked") || a.Header.Get("TrustGate-Decision-Id") == "" {
				t.Errorf("%+v %s", refusal, a.Header.Get("TrustGate-Decision-Id"))
			}
			absent(s, "unsigned", reference)
			f.get(f.path("unsigned", "manifests", reference)).refused(http.StatusNotFound, "MANIFEST_UNKNOWN")
		}
	})
	t.Run("a library is told why", func(t *testing.T) {
		f := f.in(t)
		err := remote.Write(f.reference("library:1"), build(s, "by a library"), f.puller()...)
		if err == nil || !strings.Contains(err.Error(), "DENIED") || !strings.Contains(err.Error(), "signature") {
			t.Errorf("got %v", err)
		}
		absent(s, "library", "1")
	})
	t.Run("what is signed before it is pushed passes", func(t *testing.T) {
		f := f.in(t)
		image := build(s, "signed")
		signed := s.Trusted(unpublished(s, "signed", image))
		f.blobs(s, "signed", image)
		a := f.send(http.MethodPut, f.path("signed", "manifests", "1"), raw(s, image), "Content-Type", ociManifest)
		if location := a.is(http.StatusCreated); location != f.path("signed", "manifests", signed.Digest.String()) {
			t.Errorf("it is at %s", location)
		}
		if a.Header.Get("TrustGate-Verdict") != "serve" || a.Header.Get("Docker-Content-Digest") != signed.Digest.String() {
			t.Errorf("the answer has %v", a.Header)
		}
		pulled := f.get(f.path("signed", "manifests", "1")).served(signed.Digest)
		if pulled.Header.Get("TrustGate-Decision-Id") != a.Header.Get("TrustGate-Decision-Id") {
			t.Error("it was judged twice within a verdict's lifetime")
		}
	})
	t.Run("its signatures pass whatever becomes of it", func(t *testing.T) {
		f := f.in(t)
		image := unpublished(s, "evidence", build(s, "evidence"))
		elsewhere := *image
		elsewhere.Repository = "workshop"
		s.Trusted(&elsewhere)
		for _, suffix := range []string{".sig", ".att"} {
			evidence, err := remote.Image(at(s, "workshop:"+evidenceTag(image.Digest, suffix)))
			s.Must(err)
			s.Must(remote.Write(f.reference("evidence:"+evidenceTag(image.Digest, suffix)), evidence, f.puller()...))
		}
	})
	t.Run("an image that calls its layers evidence is judged", func(t *testing.T) {
		f := f.in(t)
		image := mutate.MediaType(build(s, "disguised"), ociManifest)
		layers, err := image.Layers()
		s.Must(err)
		disguised, err := mutate.Append(mutate.MediaType(empty.Image, ociManifest), mutate.Addendum{Layer: layers[0], MediaType: "application/vnd.dev.cosign.simplesigning.v1+json"})
		s.Must(err)
		if err := remote.Write(f.reference("disguised:sha256-"+strings.Repeat("0", 64)+".sig"), disguised, f.puller()...); err == nil || !strings.Contains(err.Error(), "DENIED") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an index is judged by its images, which come first", func(t *testing.T) {
		f := f.in(t)
		good, bad := build(s, "good"), build(s, "bad")
		s.Trusted(unpublished(s, "index", good))
		platform := v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}
		index := func(image v1.Image) string {
			return raw(s, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image, Descriptor: platform}))
		}
		put := func(image v1.Image) *answer {
			return f.send(http.MethodPut, f.path("index", "manifests", "1"), index(image), "Content-Type", oci.MediaTypeImageIndex)
		}
		put(good).refused(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
		s.Must(remote.Write(f.reference("index:amd64"), good, f.puller()...))
		put(good).is(http.StatusCreated)
		s.Push("index", "bad", bad) // past the gate
		put(bad).refused(http.StatusForbidden, "DENIED")
		f.get(f.path("index", "manifests", "1")).served(digest.FromString(index(good)))
	})
	t.Run("where blocks only annotate it passes with warnings", func(t *testing.T) {
		f := gates[policy.AnnotateOnly].in(t)
		image := build(s, "annotated")
		f.blobs(s, "annotated", image)
		a := f.send(http.MethodPut, f.path("annotated", "manifests", "1"), raw(s, image), "Content-Type", ociManifest)
		a.is(http.StatusCreated)
		if a.Header.Get("TrustGate-Verdict") != "annotate" || !strings.Contains(strings.Join(a.Header.Values("Warning"), " "), "signature.missing") {
			t.Errorf("the answer has %v", a.Header)
		}
	})
	t.Run("where verdicts are only recorded it passes", func(t *testing.T) {
		f := gates[policy.Audit].in(t)
		image := build(s, "audited")
		f.blobs(s, "audited", image)
		a := f.send(http.MethodPut, f.path("audited", "manifests", "1"), raw(s, image), "Content-Type", ociManifest)
		a.is(http.StatusCreated)
		if a.Header.Get("TrustGate-Decision-Id") == "" || len(a.Header.Values("Warning")) > 0 {
			t.Errorf("the answer has %v", a.Header)
		}
	})
	t.Run("what cannot be judged now does not pass", func(t *testing.T) {
		f := f.in(t)
		image := build(s, "undecided")
		s.Trusted(unpublished(s, "undecided", image))
		f.blobs(s, "undecided", image)
		s.Upstream.Interpose(func(registry http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/manifests/sha256-") {
					w.Header().Set("Retry-After", "3600") // do not wait for it
					w.WriteHeader(http.StatusTooManyRequests)
					return
				}
				registry.ServeHTTP(w, r)
			})
		})
		defer s.Upstream.Interpose(nil)
		a := f.send(http.MethodPut, f.path("undecided", "manifests", "1"), raw(s, image), "Content-Type", ociManifest)
		a.refused(http.StatusForbidden, "DENIED")
		absent(s, "undecided", "1")
	})
}

// A signature that is pushed through the gate counts at once, whatever verdict
// stands.
func TestPushedSignatureCounts(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	f := quay(s, proxy.PushPass, stage.Options{})
	image := s.Attested(s.Image("app", nil))
	f.get(f.path("app", "manifests", "1")).refused(http.StatusForbidden, "DENIED")
	elsewhere := *image
	elsewhere.Repository = "workshop"
	s.Must(s.Registry.Sign(t.Context(), s.CI, &elsewhere))
	evidence, err := remote.Image(at(s, "workshop:"+evidenceTag(image.Digest, ".sig")))
	s.Must(err)
	f.get(f.path("app", "manifests", "1")).refused(http.StatusForbidden, "DENIED")
	s.Must(remote.Write(f.reference("app:"+evidenceTag(image.Digest, ".sig")), evidence, f.puller()...))
	// It was made for another repository.
	refusal := f.get(f.path("app", "manifests", "1")).refused(http.StatusForbidden, "DENIED")
	if strings.Contains(refusal.Detail, "signature.missing") {
		t.Errorf("the verdict is from before the signature: %s", refusal.Detail)
	}
	// One that fits, put beside it past the gate, counts when the block has had
	// its time; handed on by the gate, at once.
	s.Must(s.Registry.Sign(t.Context(), s.CI, image))
	f.get(f.path("app", "manifests", "1")).refused(http.StatusForbidden, "DENIED")
	evidence, err = remote.Image(at(s, "app:"+evidenceTag(image.Digest, ".sig")))
	s.Must(err)
	mediaType, err := evidence.MediaType()
	s.Must(err)
	f.send(http.MethodPut, f.path("app", "manifests", evidenceTag(image.Digest, ".sig")), raw(s, evidence), "Content-Type", string(mediaType)).is(http.StatusCreated)
	f.get(f.path("app", "manifests", "1")).served(image.Digest)
}

// Who pushes looks first, and needs yes or no.
func TestHeadOfWithheldBlobs(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	image := s.Image("blocked", nil)
	config, layers := digests(s, image.Content)
	f := quay(s, proxy.PushPass, stage.Options{})
	f.get(f.path("blocked", "manifests", "1")).refused(http.StatusForbidden, "DENIED")
	for _, d := range append(layers, config) {
		f.get(f.path("blocked", "blobs", d.String())).refused(http.StatusForbidden, "DENIED")
		f.head(f.path("blocked", "blobs", d.String())).refused(http.StatusNotFound, "")
	}
	s.Must(remote.Write(f.reference("blocked:1"), image.Content, f.puller()...))
	// What was pushed belongs to a blocked image now, also for who has pushed it.
	for _, d := range append(layers, config) {
		f.get(f.path("blocked", "blobs", d.String())).refused(http.StatusForbidden, "DENIED")
	}
}
