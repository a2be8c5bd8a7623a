package proxy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/proxy"
	"github.com/trustgate/trustgate/upstream"
)

// attempt is one try to get past the gate. It shares registry and gate with the
// others, and has repositories of its own.
type attempt struct {
	*stage.Stage
	f     *front
	clock *stage.Stage // the gate's
}

// TestBypass holds every known way around a gate like this one, each under its
// name. In none of them may something leave that was not admitted.
func TestBypass(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	f := open(s, stage.Options{})
	for _, tc := range []struct {
		name string
		try  func(*testing.T, *attempt)
	}{
		{"a blob without an admitted manifest", blobWithoutManifest},
		{"a blob of a blocked image", blobOfBlocked},
		{"a blob of another repository", blobOfAnotherRepository},
		{"a manifest of another repository", manifestOfAnotherRepository},
		{"a manifest asked for as a blob", manifestAsBlob},
		{"a child of a blocked index by its digest", childOfBlockedIndex},
		{"an image that an index calls an attestation", childCalledAttestation},
		{"HEAD for what GET refuses", headLeaks},
		{"a tag that moves between the verdict and the fetch", movingTag},
		{"a manifest whose body does not match its digest", manifestBodyMismatch},
		{"a manifest whose header does not match its digest", manifestHeaderMismatch},
		{"a manifest that is cut short", manifestLengthMismatch},
		{"manifests and layers in one document", manifestsAndLayers},
		{"a header that says something else than the document", mediaTypeMismatch},
		{"a key that stands twice in a document", equalKeys},
		{"an image under a media type that nobody knows", unknownMediaType},
		{"an image that calls its layers evidence", imageCalledEvidence},
		{"an image pushed under the tag of a signature", imageUnderSignatureTag},
		{"an index that carries an image in its data", indexWithData},
		{"an index that has an image fetched from elsewhere", indexWithURLs},
		{"foreign layers", foreignLayers},
		{"a config that is fetched from elsewhere", foreignConfig},
		{"digests in a form that is not canonical", digestForms},
		{"the sha512 digest of a blocked manifest", sha512OfBlocked},
		{"a namespace that is not listed", unlistedNamespace},
		{"a token server elsewhere that asks for credentials", realmElsewhere},
		{"a redirect elsewhere that carries credentials along", redirectElsewhere},
		{"paths that mean two things", pathTricks},
		{"an image among the referrers of a blocked subject", hiddenAmongReferrers},
		{"an image in the tag of a blocked subject's referrers", hiddenInReferrersTag},
		{"headers that rewrite host or path or method", rewritingHeaders},
		{"requests that two servers read differently", smuggledRequests},
		{"a client that claims to be another one", claimedClient},
		{"a client's own TrustGate headers", clientHeaders},
		{"a verdict made for another client", anotherClientsVerdict},
		{"a verdict made for another tag", anotherTagsVerdict},
		{"a push that overwrites a judged tag", overwrittenTag},
		{"a foreign layer that is another repository's blob", foreignLayerOfAnother},
		{"a blob that was pushed and belongs to nothing that is served", pushedBlob},
		{"a verdict made under another policy", anotherPolicysVerdict},
		{"a signature copied from another repository", copiedSignature},
		{"a client that has stopped sending", halfClosed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer s.Upstream.Interpose(nil)
			tc.try(t, &attempt{Stage: s.For(t), f: f.in(t), clock: s})
		})
	}
}

// blocked demands a refusal of the manifest, by GET and by HEAD.
func (a *attempt) blocked(repository, reference, code string) {
	a.Helper()
	path := a.f.path(repository, "manifests", reference)
	if refusal := a.f.get(path).refused(http.StatusForbidden, "DENIED"); !strings.Contains(refusal.Detail, code) {
		a.Errorf("blocked for %s, want %s", refusal.Detail, code)
	}
	a.f.head(path).refused(http.StatusForbidden, "DENIED")
}

func (a *attempt) served(repository, reference string, d digest.Digest) {
	a.Helper()
	a.f.get(a.f.path(repository, "manifests", reference)).served(d)
}

// withheld demands that no blob of the image can be read.
func (a *attempt) withheld(repository string, image v1.Image, status int, code string) {
	a.Helper()
	config, layers := digests(a.Stage, image)
	for _, d := range append(layers, config) {
		path := a.f.path(repository, "blobs", d.String())
		a.f.get(path).refused(status, code)
		a.f.get(path, "Range", "bytes=0-0").refused(status, code)
		a.f.get(path, "If-None-Match", `"`+d.String()+`"`).refused(status, code)
		a.f.head(path).refused(status, code)
	}
}

func blobWithoutManifest(t *testing.T, a *attempt) {
	image := a.Trusted(a.Image("unasked", nil))
	a.Upstream.Reset()
	a.withheld("unasked", image.Content, http.StatusNotFound, "BLOB_UNKNOWN")
	if n := a.Upstream.Count(""); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

func blobOfBlocked(t *testing.T, a *attempt) {
	image := a.Image("blocked", nil)
	a.blocked("blocked", "1", "signature.missing")
	a.withheld("blocked", image.Content, http.StatusForbidden, "DENIED")
	config, _ := digests(a.Stage, image.Content)
	refusal := a.f.get(a.f.path("blocked", "blobs", config.String())).refused(http.StatusForbidden, "DENIED")
	if !strings.Contains(refusal.Message, "TrustGate blocked "+image.Name()) {
		t.Errorf("the message is %s", refusal.Message)
	}
}

func blobOfAnotherRepository(_ *testing.T, a *attempt) {
	image := a.Trusted(a.Image("mine", nil))
	a.served("mine", "1", image.Digest)
	config, _ := digests(a.Stage, image.Content)
	a.f.get(a.f.path("mine", "blobs", config.String())).served(config)
	a.withheld("yours", image.Content, http.StatusNotFound, "BLOB_UNKNOWN")
	a.withheld("mine/too", image.Content, http.StatusNotFound, "BLOB_UNKNOWN")

	// The same blobs, in an image that nobody signed for this repository.
	a.Push("yours", "1", image.Content)
	a.blocked("yours", "1", "signature.missing")
	a.withheld("yours", image.Content, http.StatusForbidden, "DENIED")
}

// manifestOfAnotherRepository is in the gate's cache, blocked or served, and not
// in the repository that it is asked of: it must not be judged there by that
// repository's rules.
func manifestOfAnotherRepository(_ *testing.T, a *attempt) {
	served := a.Trusted(a.Image("held/served", nil))
	a.served("held/served", "1", served.Digest)
	blocked := a.Image("held/blocked", nil)
	a.blocked("held/blocked", "1", "signature.missing")
	for _, d := range []digest.Digest{served.Digest, blocked.Digest} {
		a.f.get(a.f.path("held/elsewhere", "manifests", d.String())).refused(http.StatusNotFound, "MANIFEST_UNKNOWN")
	}
}

func manifestAsBlob(_ *testing.T, a *attempt) {
	served := a.Trusted(a.Image("asblob/served", nil))
	a.served("asblob/served", "1", served.Digest)
	blocked := a.Image("asblob/blocked", nil)
	a.blocked("asblob/blocked", "1", "")
	index, err := a.Registry.PushIndex(a.Context(), "asblob/index", "1", []string{"linux/amd64"}, build(a.Stage, "listed"))
	a.Must(err)
	a.Trusted(index)
	a.served("asblob/index", "1", index.Digest)
	listed, err := build(a.Stage, "listed").Digest()
	a.Must(err)
	for repository, d := range map[string]string{
		"asblob/served": served.Digest.String(), "asblob/blocked": blocked.Digest.String(), "asblob/index": listed.String(),
	} {
		path := a.f.path(repository, "blobs", d)
		a.f.get(path).refused(http.StatusNotFound, "BLOB_UNKNOWN")
		a.f.head(path).refused(http.StatusNotFound, "BLOB_UNKNOWN")
	}
	// A manifest that lists another one as a layer makes no blob of it, even
	// where the upstream has it as one.
	library(a.Stage)
	image := a.Push("asblob/layer", "1", build(a.Stage, "layer"))
	raw, err := image.Content.RawManifest()
	a.Must(err)
	putBlob(a.Stage, "asblob/layer", string(raw))
	config := putBlob(a.Stage, "asblob/layer", "{}")
	config.MediaType = ocispec.MediaTypeEmptyJSON
	layer := oci.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: image.Digest, Size: int64(len(raw))}
	outer := a.Trusted(&shipyard.Image{Registry: image.Registry, Repository: image.Repository, Digest: document(a, "asblob/layer", "outer", ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []oci.Descriptor{layer},
	})})
	a.served("asblob/layer", outer.Digest.String(), outer.Digest)
	a.f.get(a.f.path("asblob/layer", "blobs", image.Digest.String())).refused(http.StatusNotFound, "BLOB_UNKNOWN")

	// Nor does evidence that calls it its layer.
	raw, err = blocked.Content.RawManifest()
	a.Must(err)
	putBlob(a.Stage, "asblob/blocked", string(raw))
	bundle, _ := refer(a.Stage, "asblob/blocked", "", bundleType, served.Digest,
		oci.Descriptor{MediaType: bundleType, Digest: blocked.Digest, Size: int64(len(raw))})
	a.served("asblob/blocked", bundle.String(), bundle)
	a.f.get(a.f.path("asblob/blocked", "blobs", blocked.Digest.String())).refused(http.StatusNotFound, "BLOB_UNKNOWN")
}

// document publishes an OCI document as it is.
func document(a *attempt, repository, reference string, content any) digest.Digest {
	a.Helper()
	raw, err := json.Marshal(content)
	a.Must(err)
	var typed struct {
		MediaType string `json:"mediaType"`
	}
	a.Must(json.Unmarshal(raw, &typed))
	return putManifest(a.Stage, repository, reference, typed.MediaType, string(raw))
}

func childOfBlockedIndex(_ *testing.T, a *attempt) {
	amd, arm := build(a.Stage, "child amd"), build(a.Stage, "child arm")
	for _, platforms := range [][]string{{"linux/amd64", "linux/arm64"}, {"linux/s390x", "linux/riscv64"}} {
		repository := "children/" + strings.ReplaceAll(platforms[0], "/", "-")
		_, err := a.Registry.PushIndex(a.Context(), repository, "1", platforms, amd, arm)
		a.Must(err)
		a.blocked(repository, "1", "signature.missing")
		for _, image := range []v1.Image{amd, arm} { // of which one was not judged with the index
			d, err := image.Digest()
			a.Must(err)
			a.blocked(repository, d.String(), "signature.missing")
			a.withheld(repository, image, http.StatusForbidden, "DENIED")
		}
	}
}

func childCalledAttestation(_ *testing.T, a *attempt) {
	image := build(a.Stage, "no attestation")
	d, err := image.Digest()
	a.Must(err)
	for _, kind := range []types.MediaType{types.OCIImageIndex, types.DockerManifestList} {
		index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, kind), mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
			Platform:    &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": d.String()},
		}})
		_, err = a.Registry.WriteIndex(a.Context(), "called/attestation", "1", index)
		a.Must(err)
		a.f.get(a.f.path("called/attestation", "manifests", "1"))
		a.blocked("called/attestation", d.String(), "signature.missing")
		a.withheld("called/attestation", image, http.StatusForbidden, "DENIED")
	}
}

func headLeaks(t *testing.T, a *attempt) {
	image := a.Image("head", nil)
	for _, reference := range []string{"1", image.Digest.String()} {
		head := a.f.head(a.f.path("head", "manifests", reference)) // before any GET
		head.refused(http.StatusForbidden, "DENIED")
		for name, values := range head.Header {
			if strings.Contains(strings.Join(values, " "), image.Digest.Encoded()) {
				t.Errorf("%s tells the digest: %s", name, values)
			}
		}
	}
	config, _ := digests(a.Stage, image.Content)
	head := a.f.head(a.f.path("head", "blobs", config.String()))
	head.refused(http.StatusForbidden, "DENIED")
}

func movingTag(t *testing.T, a *attempt) {
	good, evil := a.Trusted(a.Image("moving", nil)), build(a.Stage, "evil")
	// The tag names the good one for the first request and another ever after.
	var asked atomic.Int32
	evilRaw, err := evil.RawManifest()
	a.Must(err)
	a.Push("moving", "evil", evil)
	a.Upstream.Interpose(func(registry http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/moving/manifests/1" && asked.Add(1) > 1 {
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				w.Header().Set("Docker-Content-Digest", digest.FromBytes(evilRaw).String())
				_, _ = w.Write(evilRaw)
				return
			}
			registry.ServeHTTP(w, r)
		})
	})
	path := a.f.path("moving", "manifests", "1")
	head := a.f.head(path)
	if head.Header.Get("Docker-Content-Digest") != good.Digest.String() {
		t.Fatalf("HEAD: %s %s", head.Status, head.Header.Get("Docker-Content-Digest"))
	}
	a.f.get(path).served(good.Digest)
	if n := asked.Load(); n != 1 {
		t.Errorf("the upstream was asked %d times what the tag means", n)
	}
	a.clock.Pass(31 * time.Second) // and then it is asked again
	a.blocked("moving", "1", "signature.missing")
	a.withheld("moving", evil, http.StatusForbidden, "DENIED")
}

// whole is a trusted image, and where to find its manifest by tag and digest.
func (a *attempt) whole(repository string) (*shipyard.Image, []string) {
	a.Helper()
	image := a.Trusted(a.Image(repository, nil))
	return image, []string{"1", image.Digest.String()}
}

func manifestBodyMismatch(_ *testing.T, a *attempt) {
	image, references := a.whole("mismatch/body")
	for _, reference := range references {
		tamper(a.Stage, "/manifests/"+reference, func(_ http.Header, body []byte) []byte { return append(body, ' ') })
		path := a.f.path("mismatch/body", "manifests", reference)
		a.f.get(path).refused(http.StatusBadGateway, "MANIFEST_INVALID")
		a.f.head(path).refused(http.StatusBadGateway, "MANIFEST_INVALID")

		// Changed along with the header: by tag it is another manifest, which
		// nobody signed; by digest it is the wrong one.
		tamper(a.Stage, "/manifests/"+reference, func(header http.Header, body []byte) []byte {
			body = append(body, ' ')
			header.Set("Docker-Content-Digest", digest.FromBytes(body).String())
			return body
		})
		if reference == "1" {
			a.f.get(path).refused(http.StatusForbidden, "DENIED")
			a.clock.Pass(31 * time.Second)
		} else {
			a.f.get(path).refused(http.StatusBadGateway, "MANIFEST_INVALID")
		}
	}
	a.Upstream.Interpose(nil)
	a.served("mismatch/body", image.Digest.String(), image.Digest)
}

func manifestHeaderMismatch(_ *testing.T, a *attempt) {
	_, references := a.whole("mismatch/header")
	for _, reference := range references {
		for _, claimed := range []string{
			digest.FromString("another").String(), "sha256:abc", strings.ToUpper(references[1]), digest.SHA512.FromString("another").String(),
		} {
			tamper(a.Stage, "/manifests/"+reference, func(header http.Header, body []byte) []byte {
				header.Set("Docker-Content-Digest", claimed)
				return body
			})
			a.f.get(a.f.path("mismatch/header", "manifests", reference)).refused(http.StatusBadGateway, "MANIFEST_INVALID")
		}
	}
}

func manifestLengthMismatch(_ *testing.T, a *attempt) {
	_, references := a.whole("mismatch/length")
	for _, reference := range references {
		path := a.f.path("mismatch/length", "manifests", reference)
		tamper(a.Stage, "/manifests/"+reference, func(header http.Header, body []byte) []byte {
			header.Set("Content-Length", strconv.Itoa(len(body)))
			return body[:len(body)/2]
		})
		a.f.get(path).refused(http.StatusServiceUnavailable, "DENIED")
		tamper(a.Stage, "/manifests/"+reference, func(_ http.Header, body []byte) []byte { return body[:len(body)/2] })
		a.f.get(path).refused(http.StatusBadGateway, "MANIFEST_INVALID")
		tamper(a.Stage, "/manifests/"+reference, func(_ http.Header, body []byte) []byte {
			return append(body, strings.Repeat(" ", 5<<20)...)
		})
		a.f.get(path).refused(http.StatusBadGateway, "MANIFEST_INVALID")
	}
}

// parts are descriptors of blobs that are there, as JSON.
func (a *attempt) parts(repository string) (config, layer, manifest string) {
	a.Helper()
	image := a.Push(repository, "whole", build(a.Stage, repository))
	m, err := image.Content.Manifest()
	a.Must(err)
	text := func(v any) string {
		raw, err := json.Marshal(v)
		a.Must(err)
		return string(raw)
	}
	return text(m.Config), text(m.Layers[0]), text(oci.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: image.Digest, Size: 500, Platform: &oci.Platform{OS: "linux", Architecture: "amd64"},
	})
}

// invalid demands that none of the documents is served, whatever it is called.
func (a *attempt) invalid(repository, mediaType string, documents ...string) {
	a.Helper()
	for i, raw := range documents {
		d := putManifest(a.Stage, repository, strconv.Itoa(i), mediaType, raw)
		for _, reference := range []string{strconv.Itoa(i), d.String()} {
			answer := a.f.get(a.f.path(repository, "manifests", reference))
			if answer.StatusCode != http.StatusBadGateway {
				a.Errorf("%s as %s: %s", raw, mediaType, answer.Status)
				continue
			}
			answer.refused(http.StatusBadGateway, "MANIFEST_INVALID")
		}
	}
}

func manifestsAndLayers(_ *testing.T, a *attempt) {
	library(a.Stage)
	config, layer, manifest := a.parts("confused/both")
	for _, mediaType := range []string{oci.MediaTypeImageManifest, oci.MediaTypeImageIndex, oci.MediaTypeDockerManifest, oci.MediaTypeDockerList} {
		a.invalid("confused/both", mediaType,
			`{"schemaVersion":2,"mediaType":"`+mediaType+`","config":`+config+`,"layers":[`+layer+`],"manifests":[`+manifest+`]}`,
			`{"schemaVersion":2,"config":`+config+`,"layers":[`+layer+`],"manifests":[`+manifest+`]}`,
			`{"schemaVersion":2,"layers":[`+layer+`],"manifests":[`+manifest+`]}`,
			`{"schemaVersion":2,"config":`+config+`,"manifests":[`+manifest+`]}`,
			`{"schemaVersion":2,"config":`+config+`,"layers":[],"manifests":[]}`,
		)
	}
}

func mediaTypeMismatch(_ *testing.T, a *attempt) {
	library(a.Stage)
	config, layer, manifest := a.parts("confused/header")
	image := `"config":` + config + `,"layers":[` + layer + `]}`
	index := `"manifests":[` + manifest + `]}`
	a.invalid("confused/header", oci.MediaTypeImageIndex,
		`{"schemaVersion":2,"mediaType":"`+oci.MediaTypeImageManifest+`",`+image,
		`{"schemaVersion":2,`+image,
	)
	a.invalid("confused/header", oci.MediaTypeDockerManifest,
		`{"schemaVersion":2,"mediaType":"`+oci.MediaTypeImageManifest+`",`+image,
		`{"schemaVersion":2,"mediaType":"`+oci.MediaTypeDockerList+`",`+index,
		`{"schemaVersion":2,`+index,
	)
	a.invalid("confused/header", "application/json",
		`{"schemaVersion":2,"mediaType":"text/html",`+image,
		`{"schemaVersion":3,`+image,
		`{`+image,
		`[]`,
		`{"schemaVersion":2,"blobs":[`+layer+`],"config":`+config+`,"layers":[]}`,
	)
}

func equalKeys(_ *testing.T, a *attempt) {
	library(a.Stage)
	config, layer, manifest := a.parts("confused/keys")
	head := `{"schemaVersion":2,"mediaType":"` + oci.MediaTypeImageManifest + `","config":` + config + `,"layers":[` + layer + `]`
	a.invalid("confused/keys", oci.MediaTypeImageManifest,
		head+`,"layers":[]}`,
		head+`,"LAYERS":[]}`,
		head+`,"l\u0061yers":[]}`,
		head+`,"mediaType":"`+oci.MediaTypeImageIndex+`"}`,
		head+`,"Config":{}}`,
		head+`,"Manifests":[`+manifest+`]}`,
		head+`}{"manifests":[`+manifest+`]}`,
	)
}

func unknownMediaType(_ *testing.T, a *attempt) {
	library(a.Stage)
	config, layer, _ := a.parts("confused/unknown")
	for i, mediaType := range []string{"application/vnd.evil.v1+json", "text/plain", "application/octet-stream", "application/vnd.in-toto+json"} {
		reference := strconv.Itoa(i)
		putManifest(a.Stage, "confused/unknown", reference, mediaType, `{"schemaVersion":2,"config":`+config+`,"layers":[`+layer+`],"annotations":{"n":"`+reference+`"}}`)
		a.blocked("confused/unknown", reference, "signature.missing")
	}
}

// Docker and podman unpack a layer whatever its media type is.
func imageCalledEvidence(_ *testing.T, a *attempt) {
	layer, err := shipyard.Layer(map[string]string{"bin/app": "evil"})
	a.Must(err)
	for i, mediaType := range []types.MediaType{
		"application/vnd.in-toto+json", "application/vnd.dev.cosign.simplesigning.v1+json", "application/vnd.dsse.envelope.v1+json",
		"application/spdx+json", "application/vnd.dev.sigstore.bundle.v0.3+json", "application/cose",
	} {
		for kind, base := range map[string]v1.Image{
			"oci":    mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1),
			"docker": mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.DockerConfigJSON), types.DockerManifestSchema2),
		} {
			image, err := mutate.Append(base, mutate.Addendum{Layer: layer, MediaType: mediaType})
			a.Must(err)
			repository := "called/evidence-" + kind
			reference := strconv.Itoa(i)
			pushed := a.Push(repository, reference, image)
			a.blocked(repository, reference, "signature.missing")
			a.blocked(repository, pushed.Digest.String(), "signature.missing")
			a.withheld(repository, image, http.StatusForbidden, "DENIED")
		}
	}
	// Nor does it help to be signed as what it is not.
	image, err := mutate.Append(empty.Image, mutate.Addendum{Layer: layer, MediaType: "application/vnd.in-toto+json"})
	a.Must(err)
	subject := a.Trusted(a.Image("called/subject", nil))
	a.served("called/subject", "1", subject.Digest)
	a.Push("called/subject", evidenceTag(subject.Digest, ".sbom"), image)
	a.blocked("called/subject", evidenceTag(subject.Digest, ".sbom"), "signature.missing")
}

func imageUnderSignatureTag(_ *testing.T, a *attempt) {
	image := a.Image("tagged", nil)
	for _, suffix := range []string{".sig", ".att", ".sbom", ""} {
		tag := evidenceTag(image.Digest, suffix)
		a.Push("tagged", tag, build(a.Stage, "runs as "+suffix))
		a.blocked("tagged", tag, "signature.missing")
	}
}

// hidden is an index of a trusted image for the platform that is judged and of
// an untrusted one for another; change lets the latter's entry bring it along.
func hidden(a *attempt, repository string, change func(entry *oci.Descriptor, raw []byte)) digest.Digest {
	a.Helper()
	library(a.Stage)
	good := a.Trusted(a.Image(repository, nil))
	evil := a.Push(repository, "evil", build(a.Stage, "evil "+repository))
	raw, err := evil.Content.RawManifest()
	a.Must(err)
	rawGood, err := good.Content.RawManifest()
	a.Must(err)
	entry := func(d digest.Digest, raw []byte, architecture string) oci.Descriptor {
		return oci.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(raw)),
			Platform: &oci.Platform{OS: "linux", Architecture: architecture},
		}
	}
	entries := []oci.Descriptor{entry(good.Digest, rawGood, "amd64"), entry(evil.Digest, raw, "arm64")}
	change(&entries[1], raw)
	return document(a, repository, "index", ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries,
	})
}

func indexWithData(_ *testing.T, a *attempt) {
	d := hidden(a, "carried/plain", func(*oci.Descriptor, []byte) {})
	a.served("carried/plain", "index", d) // as it is, it may be pulled

	hidden(a, "carried/data", func(entry *oci.Descriptor, raw []byte) { entry.Data = raw })
	a.f.get(a.f.path("carried/data", "manifests", "index")).refused(http.StatusBadGateway, "MANIFEST_INVALID")
}

func indexWithURLs(_ *testing.T, a *attempt) {
	d := hidden(a, "carried/urls", func(entry *oci.Descriptor, _ []byte) { entry.URLs = []string{"https://evil.example/manifest"} })
	for _, reference := range []string{"index", d.String()} {
		refusal := a.f.get(a.f.path("carried/urls", "manifests", reference)).refused(http.StatusBadGateway, "MANIFEST_INVALID")
		if !strings.Contains(refusal.Message, "manifests[1]") {
			a.Errorf("the message is %s", refusal.Message)
		}
	}
}

func foreignLayers(_ *testing.T, a *attempt) {
	library(a.Stage)
	config, layer, _ := a.parts("foreign")
	elsewhere := strings.TrimSuffix(layer, "}") + `,"urls":["https://evil.example/layer"]}`
	windows := strings.Replace(layer, ocispec.MediaTypeImageLayerGzip, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", 1)
	for reference, layer := range map[string]string{"elsewhere": elsewhere, "windows": windows} {
		d := putManifest(a.Stage, "foreign", reference, oci.MediaTypeImageManifest,
			`{"schemaVersion":2,"mediaType":"`+oci.MediaTypeImageManifest+`","config":`+config+`,"layers":[`+layer+`]}`)
		a.Trusted(&shipyard.Image{Registry: a.Registry.Addr, Repository: "foreign", Tag: reference, Digest: d})
		a.blocked("foreign", reference, "layers.foreign")
	}
}

func foreignConfig(_ *testing.T, a *attempt) {
	library(a.Stage)
	config, layer, _ := a.parts("foreign/config")
	config = strings.TrimSuffix(config, "}") + `,"urls":["https://evil.example/config"]}`
	d := putManifest(a.Stage, "foreign/config", "1", oci.MediaTypeImageManifest,
		`{"schemaVersion":2,"mediaType":"`+oci.MediaTypeImageManifest+`","config":`+config+`,"layers":[`+layer+`]}`)
	a.Trusted(&shipyard.Image{Registry: a.Registry.Addr, Repository: "foreign/config", Tag: "1", Digest: d})
	a.f.get(a.f.path("foreign/config", "manifests", "1")).refused(http.StatusBadGateway, "MANIFEST_INVALID")
}

func digestForms(_ *testing.T, a *attempt) {
	image := a.Trusted(a.Image("forms", nil))
	a.served("forms", image.Digest.String(), image.Digest)
	config, _ := digests(a.Stage, image.Content)
	for name, written := range map[string]func(digest.Digest) string{
		"upper-case hex":       func(d digest.Digest) string { return "sha256:" + strings.ToUpper(d.Encoded()) },
		"upper-case algorithm": func(d digest.Digest) string { return "SHA256:" + d.Encoded() },
		"too short":            func(d digest.Digest) string { return d.String()[:len(d.String())-1] },
		"too long":             func(d digest.Digest) string { return d.String() + "0" },
		"without hex":          func(digest.Digest) string { return "sha256:" },
		"without algorithm":    func(d digest.Digest) string { return ":" + d.Encoded() },
		"two of them":          func(d digest.Digest) string { return d.String() + ":" + d.String() },
		"a parameter":          func(d digest.Digest) string { return "sha256+b64:" + d.Encoded() },
		"another algorithm":    func(d digest.Digest) string { return "md5:" + d.Encoded()[:32] },
		"sha512 of that size":  func(d digest.Digest) string { return "sha512:" + d.Encoded() },
		"a newline":            func(d digest.Digest) string { return d.String() + "%0a" },
		"a zero byte":          func(d digest.Digest) string { return d.String() + "%00" },
		"a space":              func(d digest.Digest) string { return d.String() + "%20" },
		"a tag before it":      func(d digest.Digest) string { return "1@" + d.String() },
	} {
		for _, path := range []string{
			a.f.path("forms", "manifests", written(image.Digest)), a.f.path("forms", "blobs", written(config)), a.f.path("forms", "referrers", written(image.Digest)),
		} {
			if answer := a.f.get(path); answer.StatusCode != http.StatusBadRequest {
				a.Errorf("%s: %s: %s", name, path, answer.Status)
			} else {
				answer.refused(http.StatusBadRequest, "DIGEST_INVALID")
			}
		}
	}
}

// A digest by another algorithm is another name, which no signature is about.
func sha512OfBlocked(t *testing.T, a *attempt) {
	image := a.Image("sha512", nil)
	raw, err := image.Content.RawManifest()
	a.Must(err)
	d := digest.SHA512.FromBytes(raw)
	a.blocked("sha512", "1", "signature.missing")
	answer := a.f.get(a.f.path("sha512", "manifests", d.String()))
	if answer.StatusCode == http.StatusOK {
		t.Errorf("%s from a registry that does not know it", answer.Status)
	}
	a.Upstream.Interpose(func(registry http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = strings.Replace(r.URL.Path, d.String(), image.Digest.String(), 1)
			registry.ServeHTTP(w, r)
		})
	})
	a.blocked("sha512", d.String(), "signature.missing")
	a.f.get(a.f.path("sha512", "blobs", d.String())).refused(http.StatusNotFound, "BLOB_UNKNOWN")
}

func unlistedNamespace(t *testing.T, a *attempt) {
	image := a.Trusted(a.Image("namespaced", nil))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	a.Must(err)
	var dialled atomic.Int32
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			dialled.Add(1)
			conn.Close()
		}
	}()
	defer listener.Close()
	a.f.get("/v2/namespaced/manifests/1?ns=" + registryHost).served(image.Digest)
	a.Upstream.Reset()
	for _, ns := range []string{
		"quay.io", listener.Addr().String(), "http://" + listener.Addr().String(), "localhost", "127.0.0.1", "[::1]:80", "10.0.0.1", "192.168.1.1:5000",
		"169.254.169.254", "169.254.169.254:80", "http://169.254.169.254/latest/meta-data/", "[fe80::1]", "[::ffff:169.254.169.254]",
		"metadata.google.internal", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
		registryHost + "@169.254.169.254", registryHost + ".evil.example", "evil.example/" + registryHost, registryHost + "/../evil.example",
		registryHost + ":443", registryHost + ".", "reg%C4%B0stry.example.com", " " + registryHost, registryHost + "%20", registryHost + "%00", registryHost + "%0d%0aX: y", "*", "",
	} {
		ns = strings.ReplaceAll(ns, " ", "%20")
		for _, path := range []string{"/v2/namespaced/manifests/1", "/v2/namespaced/blobs/" + image.Digest.String(), "/v2/namespaced/tags/list"} {
			a.f.get(path+"?ns="+ns).refused(http.StatusNotFound, "NAME_UNKNOWN")
		}
	}
	a.f.get("/v2/namespaced/manifests/1?ns="+registryHost+"&ns=quay.io").refused(http.StatusBadRequest, "NAME_INVALID")
	a.f.get("/v2/namespaced/manifests/1?ns="+registryHost+";x").refused(http.StatusBadRequest, "NAME_INVALID")
	a.f.get("/v2/namespaced/manifests/1?%zz").refused(http.StatusBadRequest, "NAME_INVALID")
	if n := a.Upstream.Count(""); n != 0 || dialled.Load() != 0 {
		t.Errorf("the upstream was asked %d times, another address %d times", n, dialled.Load())
	}
}

// credentialed is a gate with a password for its upstream, and a server elsewhere
// with what that is shown.
func credentialed(a *attempt) (f *front, elsewhere *httptest.Server, shown func() []string) {
	a.Helper()
	var mu sync.Mutex
	var headers []string
	elsewhere = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		headers = append(headers, strings.Join(r.Header.Values("Authorization"), " ")+string(body)+r.URL.RawQuery)
		_, _ = io.WriteString(w, `{"token":"a"}`)
	}))
	a.Cleanup(elsewhere.Close)
	password := filepath.Join(a.TempDir(), "password")
	a.Must(os.WriteFile(password, []byte("hunter2"), 0o600))
	up, err := upstream.New(upstream.Options{
		Registry: a.Registry.Addr, URL: "http://" + a.Registry.Addr, Insecure: true,
		Credentials: upstream.Credentials{Username: "gate", PasswordFile: password},
	})
	a.Must(err)
	a.Cleanup(up.Close)
	s := stage.New(a)
	g := s.Gate(stage.Options{})
	for i := range g.Routes {
		g.Routes[i].Upstream = up
	}
	f = serve(s, "HTTP/1.1", handlerFor(s, g))
	return f, elsewhere, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return headers
	}
}

// https://github.com/advisories/GHSA-742w-89gc-8m9c (CVE-2020-15157)
func realmElsewhere(t *testing.T, a *attempt) {
	f, elsewhere, shown := credentialed(a)
	_, port, err := net.SplitHostPort(elsewhere.Listener.Addr().String())
	a.Must(err)
	// The upstream is 127.0.0.1 itself, on whose other ports a token server may be.
	for _, realm := range []string{"http://localhost:" + port, "http://[::ffff:127.0.0.1]:" + port, "http://127.0.0.2:" + port, "http://gate:hunter2@localhost:" + port} {
		a.Upstream.Interpose(func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="a"`, realm+"/token"))
				w.WriteHeader(http.StatusUnauthorized)
			})
		})
		for _, path := range []string{f.path("app", "manifests", "1"), f.path("app", "tags", "list")} {
			if answer := f.get(path); answer.StatusCode < 400 {
				t.Errorf("%s: %s", realm, answer.Status)
			}
		}
	}
	for _, s := range shown() {
		if strings.Contains(s, "hunter2") || strings.Contains(s, "Basic ") {
			t.Errorf("it was shown %q", s)
		}
	}
}

func redirectElsewhere(t *testing.T, a *attempt) {
	f, elsewhere, shown := credentialed(a)
	a.Upstream.Interpose(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, _, logged := r.BasicAuth(); !logged {
				w.Header().Set("WWW-Authenticate", `Basic realm="a"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
		})
	})
	for _, path := range []string{f.path("app", "manifests", "1"), f.path("app", "tags", "list")} {
		if answer := f.get(path); strings.Contains(path, "manifests") && answer.StatusCode < 400 {
			t.Errorf("%s: %s", path, answer.Status)
		}
	}
	if len(shown()) == 0 {
		t.Error("it was not followed, which then says nothing")
	}
	for _, s := range shown() {
		if s != "" {
			t.Errorf("it was shown %q", s)
		}
	}
}

func pathTricks(t *testing.T, a *attempt) {
	served := a.Trusted(a.Image("paths/served", nil))
	a.served("paths/served", "1", served.Digest)
	a.Image("paths/blocked", nil)
	const in = "/v2/" + registryHost
	if control := a.f.target(in + "/paths/served/manifests/1"); control.StatusCode != http.StatusOK {
		t.Fatalf("as it should be: %s", control.Status)
	}
	a.Upstream.Reset()
	for _, target := range []string{
		in + "/paths/served/../blocked/manifests/1",
		in + "/paths/served/manifests/../../blocked/manifests/1",
		in + "/paths/served/%2e%2e/blocked/manifests/1",
		in + "/paths/served/%2E./blocked/manifests/1",
		in + "/../" + registryHost + "/paths/served/manifests/1",
		"/v2/../v2/" + registryHost + "/paths/served/manifests/1",
		"/v2/./" + registryHost + "/paths/served/manifests/1",
		"/../v2/" + registryHost + "/paths/served/manifests/1",
		in + "/paths%2fserved/manifests/1",
		in + "/paths%2Fserved/manifests/1",
		in + "/paths/served%2fmanifests%2f1",
		in + "%2fpaths/served/manifests/1",
		in + "/paths%252fserved/manifests/1",
		in + "/paths%25252fserved/manifests/1",
		in + "/paths%5cserved/manifests/1",
		in + "/paths\\served/manifests/1",
		in + "/paths//served/manifests/1",
		in + "//paths/served/manifests/1",
		"/v2//" + registryHost + "/paths/served/manifests/1",
		"//v2/" + registryHost + "/paths/served/manifests/1",
		in + "/paths/served//manifests/1",
		in + "/paths/served/manifests//1",
		in + "/paths/served/manifests/1/",
		in + "/paths/served/manifests/1%2f",
		in + "/paths/served/manifests/1/.",
		in + "/paths/served/manifests/.",
		in + "/paths/served/manifests/..",
		in + "/paths/served/manifests/",
		in + "/paths/served;x/manifests/1",
		in + "/paths/served/manifests/1;x",
		in + "/paths/served%00/manifests/1",
		in + "/paths/served/manifests/1%00",
		in + "/paths/served/manifests/1%0d%0a",
		in + "/paths/served%20/manifests/1",
		in + "/paths/served/manifests/1%3f",
		in + "/paths/served:1/manifests/1",
		in + "/paths/served@" + served.Digest.String() + "/manifests/1",
		in + "/Paths/Served/manifests/1",
		in + "/paths/served/Manifests/1",
		"/V2/" + registryHost + "/paths/served/manifests/1",
		in + "/paths/s%D0%B5rved/manifests/1",                                // a Cyrillic e
		in + "/paths/served/manifests/%EF%BC%91",                             // a full-width 1
		in + "/paths/%EF%BC%8E%EF%BC%8E/served/manifests/1",                  // full-width dots
		in + "/paths%E2%88%95served/manifests/1",                             // a division slash
		"/v2/reg%C4%B0stry.example.com/paths/served/manifests/1",             // a dotted capital I, which Go makes an i
		in + "/paths/served/manifests/%ff",                                   // no UTF-8 at all
		in + "/paths/%c0%ae%c0%ae/served/manifests/1",                        // dots in an overlong form
		in + "/" + strings.Repeat("a/", 600) + "served/manifests/1",          // too long
		in + "/paths/served/manifests/" + strings.Repeat("1", 129),           // a tag too long
		in + "/paths/served/tags/list/",                                      //
		in + "/paths/served/tags/lists",                                      //
		in + "/paths/served/manifests/1#" + in + "/paths/served/manifests/1", // a fragment
	} {
		answer := a.f.target(target)
		if answer.StatusCode != http.StatusBadRequest && answer.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", target, answer.Status)
		}
		if location := answer.Header.Get("Location"); location != "" {
			t.Errorf("%s leads to %s", target, location)
		}
	}
	if n := a.Upstream.Count(""); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// hide publishes an image that says of itself to be a bundle about the subject,
// and a bundle.
func hide(a *attempt, repository string, subject digest.Digest) (image v1.Image, bundle oci.Descriptor) {
	a.Helper()
	image = mutate.Subject(build(a.Stage, "hidden in "+repository), v1.Descriptor{
		MediaType: types.OCIManifestSchema1, Digest: v1.Hash{Algorithm: "sha256", Hex: subject.Encoded()}, Size: 1,
	}).(v1.Image)
	layer := putBlob(a.Stage, repository, `{"dsseEnvelope":{}}`)
	layer.MediaType = bundleType
	d, raw := refer(a.Stage, repository, "", bundleType, subject, layer)
	return image, oci.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: bundleType, Digest: d, Size: int64(len(raw))}
}

func hiddenAmongReferrers(t *testing.T, a *attempt) {
	library(a.Stage)
	subject := a.Image("hidden/api", nil)
	a.blocked("hidden/api", "1", "signature.missing")
	image, bundle := hide(a, "hidden/api", subject.Digest)
	pushed := a.Push("hidden/api", "pushed", image)

	listed := a.f.get(a.f.path("hidden/api", "referrers", subject.Digest.String())).index().Manifests
	if len(listed) != 3 { // the third is the gate's own verdict
		t.Fatalf("%d referrers", len(listed))
	}
	a.served("hidden/api", bundle.Digest.String(), bundle.Digest)
	a.blocked("hidden/api", pushed.Digest.String(), "signature.missing")
	a.withheld("hidden/api", image, http.StatusForbidden, "DENIED")
}

func hiddenInReferrersTag(t *testing.T, a *attempt) {
	subject := a.Image("hidden/tag", nil)
	a.blocked("hidden/tag", "1", "signature.missing")
	image, bundle := hide(a, "hidden/tag", subject.Digest)
	pushed := a.Push("hidden/tag", "pushed", image)
	raw, err := image.RawManifest()
	a.Must(err)
	list := func(entries ...oci.Descriptor) digest.Digest {
		return document(a, "hidden/tag", evidenceTag(subject.Digest, ""), ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries,
		})
	}
	hiddenEntry := oci.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: bundleType, Digest: pushed.Digest, Size: int64(len(raw)),
		Platform: &oci.Platform{OS: "linux", Architecture: "amd64"},
	}
	// Evidence alone can be read, an image alone not, and beside evidence it is
	// the image that is refused.
	d := list(bundle)
	a.served("hidden/tag", d.String(), d)
	a.served("hidden/tag", bundle.Digest.String(), bundle.Digest)
	a.blocked("hidden/tag", list(hiddenEntry).String(), "signature.missing")
	list(bundle, hiddenEntry)
	if answer := a.f.get(a.f.path("hidden/tag", "manifests", evidenceTag(subject.Digest, ""))); answer.StatusCode == http.StatusOK && answer.Header.Get("Trustgate-Verdict") == "serve" {
		t.Errorf("an index with a blocked image is served without a word")
	}
	a.blocked("hidden/tag", pushed.Digest.String(), "signature.missing")
	a.withheld("hidden/tag", image, http.StatusForbidden, "DENIED")
}

func rewritingHeaders(t *testing.T, a *attempt) {
	image := a.Image("rewritten", nil)
	served := a.Trusted(a.Image("rewriting", nil))
	path := a.f.path("rewritten", "manifests", "1")
	elsewhere := a.f.path("rewriting", "manifests", "1")
	a.f.get(elsewhere).served(served.Digest)
	for _, header := range [][]string{
		{"X-Forwarded-Host", registryHost}, {"X-Forwarded-Host", "quay.io"}, {"Forwarded", "host=quay.io"}, {"X-Host", registryHost},
		{"X-Forwarded-Prefix", "/v2/" + registryHost + "/rewriting"}, {"X-Original-URL", elsewhere}, {"X-Rewrite-URL", elsewhere},
		{"X-Forwarded-Proto", "https"}, {"X-HTTP-Method-Override", "PUT"}, {"Host", registryHost + ":443"}, {"Host", "evil.example"},
	} {
		answer := a.f.get(path, header...)
		refusal := answer.refused(http.StatusForbidden, "DENIED")
		if !strings.Contains(refusal.Message, image.Reference()) {
			t.Errorf("%s: it is about something else: %s", header, refusal.Message)
		}
	}
	// A host that names the registry means the whole path.
	a.f.get(path, "Host", registryHost).refused(http.StatusNotFound, "MANIFEST_UNKNOWN")
	a.f.do(http.MethodPost, elsewhere, "X-HTTP-Method-Override", "GET").refused(http.StatusMethodNotAllowed, "UNSUPPORTED")
}

func smuggledRequests(t *testing.T, a *attempt) {
	image := a.Image("smuggled", nil)
	raw, err := image.Content.RawManifest()
	a.Must(err)
	path := a.f.path("smuggled", "manifests", "1")
	inner := "GET " + path + " HTTP/1.1\r\nHost: " + gateHost + "\r\n\r\n"
	for name, request := range map[string]string{
		"two hosts":               "GET " + path + " HTTP/1.1\r\nHost: " + gateHost + "\r\nHost: " + registryHost + "\r\n\r\n",
		"no host":                 "GET " + path + " HTTP/1.1\r\n\r\n",
		"a host with a space":     "GET " + path + " HTTP/1.1\r\nHost: " + gateHost + " " + registryHost + "\r\n\r\n",
		"a folded host":           "GET " + path + " HTTP/1.1\r\nHost: " + gateHost + "\r\n " + registryHost + "\r\n\r\n",
		"two lengths":             "GET /v2/ HTTP/1.1\r\nHost: " + gateHost + "\r\nContent-Length: 0\r\nContent-Length: " + strconv.Itoa(len(inner)) + "\r\n\r\n" + inner,
		"a length with a sign":    "GET /v2/ HTTP/1.1\r\nHost: " + gateHost + "\r\nContent-Length: +0\r\n\r\n" + inner,
		"an unknown coding":       "GET /v2/ HTTP/1.1\r\nHost: " + gateHost + "\r\nTransfer-Encoding: chunked, identity\r\n\r\n" + inner,
		"a space before a colon":  "GET /v2/ HTTP/1.1\r\nHost : " + gateHost + "\r\n\r\n",
		"a line feed in a header": "GET /v2/ HTTP/1.1\r\nHost: " + gateHost + "\r\nX: a\rb\r\n\r\n",
	} {
		if answer := a.f.raw(request, true); answer.StatusCode != http.StatusBadRequest && answer.StatusCode != http.StatusNotImplemented {
			t.Errorf("%s: %s", name, answer.Status)
		}
	}
	for name, request := range map[string]string{
		"a whole URL as target": "GET http://evil.example" + path + " HTTP/1.1\r\nHost: " + gateHost + "\r\nConnection: close\r\n\r\n",
		"HTTP/1.0":              "GET " + path + " HTTP/1.0\r\n\r\n",
		"a body that is a request": "GET " + path + " HTTP/1.1\r\nHost: " + gateHost + "\r\nConnection: close\r\nContent-Length: " +
			strconv.Itoa(len(inner)) + "\r\n\r\n" + inner,
	} {
		answer := a.f.raw(request, false)
		if refusal := answer.refused(http.StatusForbidden, "DENIED"); !strings.Contains(refusal.Message, image.Reference()) || strings.Contains(string(answer.body), string(raw)) {
			t.Errorf("%s: %s", name, answer.body)
		}
	}
}

func claimedClient(t *testing.T, a *attempt) {
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	f := open(s, stage.Options{Rego: `package trustgate.policies.team
import rego.v1
deny contains {"code": "team.address", "msg": "not from here"} if input.request.client.address != "203.0.113.9"
deny contains {"code": "team.identity", "msg": "not for you"} if input.request.client.identity != "CN=alice"
`})
	for _, header := range [][]string{
		nil, {"X-Forwarded-For", "203.0.113.9"}, {"X-Real-Ip", "203.0.113.9"}, {"Forwarded", "for=203.0.113.9"}, {"True-Client-Ip", "203.0.113.9"},
		{"X-Forwarded-Client-Cert", "Subject=\"CN=alice\""}, {"X-Ssl-Client-S-Dn", "CN=alice"}, {"X-Remote-User", "CN=alice"}, {"Authorization", "Basic YWxpY2U6"},
	} {
		refusal := f.get(f.path("app", "manifests", "1"), header...).refused(http.StatusForbidden, "DENIED")
		if !strings.Contains(refusal.Detail, "team.address") || !strings.Contains(refusal.Detail, "team.identity") {
			t.Errorf("%s: %s for %s", header, refusal.Detail, app.Digest)
		}
	}
}

func clientHeaders(t *testing.T, a *attempt) {
	a.Image("claims", nil)
	sent := []string{"TrustGate-Verdict", "serve", "TrustGate-Decision-Id", "tg-mine", "Warning", `299 - "mine"`, "Link", `<https://mine.example>; rel="source"`, "OCI-Namespace", "mine"}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		answer := a.f.do(method, a.f.path("claims", "manifests", "1"), sent...)
		answer.refused(http.StatusForbidden, "DENIED")
		if answer.Header.Get("TrustGate-Verdict") != "block" {
			t.Errorf("%s: the verdict is %q", method, answer.Header.Get("TrustGate-Verdict"))
		}
		for name, values := range answer.Header {
			if strings.Contains(strings.Join(values, " "), "mine") {
				t.Errorf("%s: %s comes back: %s", method, name, values)
			}
		}
	}
}

// certificates are those of clients, by their names, and the CA's.
func certificates(s *stage.Stage, names ...string) (map[string]tls.Certificate, *x509.CertPool) {
	s.Helper()
	made := map[string]tls.Certificate{}
	issue := func(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) []byte {
		template.SerialNumber = big.NewInt(int64(len(made) + 1))
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
		s.Must(err)
		return raw
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.Must(err)
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "clients"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root, err := x509.ParseCertificate(issue(ca, ca, caKey, caKey))
	s.Must(err)
	for _, name := range names {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		s.Must(err)
		raw := issue(&x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, root, key, caKey)
		made[name] = tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return made, pool
}

func anotherClientsVerdict(t *testing.T, _ *attempt) {
	s := stage.New(t)
	clients, ca := certificates(s, "alice", "bob")
	g := s.Gate(stage.Options{Rego: `package trustgate.policies.team
import rego.v1
deny contains {"code": "team.client", "msg": "not for you"} if {
	input.image.repository != "open"
	not input.request.client.identity in {"CN=alice", "CN=carol"}
}
`})
	f := serve(s, "HTTP/2.0", handlerFor(s, g), func(server *httptest.Server) {
		server.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: ca}
	})
	alice, bob := f.showing(clients["alice"]), f.showing(clients["bob"])
	for i, order := range [][]*front{{alice, bob, f, alice, bob}, {bob, f, alice, bob, alice}} {
		repository := "app" + strconv.Itoa(i)
		image := s.Trusted(s.Image(repository, nil))
		config, _ := digests(s, image.Content)
		for _, who := range order {
			for _, reference := range []string{"1", image.Digest.String()} {
				answer := who.get(who.path(repository, "manifests", reference))
				if who == alice {
					answer.served(image.Digest)
				} else {
					answer.refused(http.StatusForbidden, "DENIED")
					who.head(who.path(repository, "manifests", reference)).refused(http.StatusForbidden, "DENIED")
				}
			}
			answer := who.get(who.path(repository, "blobs", config.String()))
			if who == alice {
				answer.served(config)
			} else {
				answer.refused(http.StatusForbidden, "DENIED")
			}
		}
	}
}

func anotherTagsVerdict(_ *testing.T, a *attempt) {
	image := a.Attested(a.Image("tags", nil))
	a.Must(a.Lookaside.Sign(a.Release, image)) // for the tag 1
	a.Push("tags", "other", image.Content)
	a.blocked("tags", "other", "signature.reference")
	a.served("tags", "1", image.Digest)
	a.served("tags", image.Digest.String(), image.Digest)
	a.blocked("tags", "other", "signature.reference")
}

func overwrittenTag(_ *testing.T, a *attempt) {
	s := stage.New(a)
	trusted := s.Trusted(s.Image("app", nil))
	f := quay(s, proxy.PushPass, stage.Options{})
	own := &attempt{Stage: s, f: f, clock: s}
	own.served("app", "1", trusted.Digest)
	// Whatever stands on the tag, by whom and for how long, ends with the push.
	evil := build(s, "evil")
	s.Must(remote.Write(f.reference("app:1"), evil, f.puller()...))
	own.blocked("app", "1", "signature.missing")
	own.unreadable("app", evil)
	own.served("app", trusted.Digest.String(), trusted.Digest)
	s.Must(remote.Write(f.reference("app:1"), trusted.Content, f.puller()...))
	own.served("app", "1", trusted.Digest)
}

// Registries take manifests whose foreign layers they do not have, so that a
// manifest can name any blob of any repository as its own.
func foreignLayerOfAnother(_ *testing.T, a *attempt) {
	s := stage.New(a)
	f := open(s, stage.Options{Mode: policy.Audit})
	secret := s.Image("secret", nil)
	_, layers := digests(s, secret.Content)
	f.get(f.path("secret", "manifests", "1")).served(secret.Digest)
	f.get(f.path("secret", "blobs", layers[0].String())).served(layers[0]) // it is in the cache now
	of, err := secret.Content.Manifest()
	s.Must(err)
	size := of.Layers[0].Size
	own, err := build(s, "own").RawConfigFile()
	s.Must(err)
	config := putBlob(s, "mine", string(own))
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		oci.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, config.Digest, config.Size,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", layers[0], size)
	d := digest.FromString(manifest)
	s.Upstream.Interpose(func(registry http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/mine/manifests/"+d.String() {
				registry.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", oci.MediaTypeImageManifest)
			w.Header().Set("Docker-Content-Digest", d.String())
			_, _ = w.Write([]byte(manifest))
		})
	})
	f.get(f.path("mine", "manifests", d.String())).served(d)
	f.get(f.path("mine", "blobs", layers[0].String())).refused(http.StatusNotFound, "BLOB_UNKNOWN")
	f.head(f.path("mine", "blobs", layers[0].String())).refused(http.StatusNotFound, "")
	f.get(f.path("mine", "blobs", config.Digest.String())).served(config.Digest)
}

// unreadable demands that no blob of the blocked image can be read where pushes
// are taken: there HEAD says yes or no.
func (a *attempt) unreadable(repository string, image v1.Image) {
	a.Helper()
	config, layers := digests(a.Stage, image)
	for _, d := range append(layers, config) {
		a.f.get(a.f.path(repository, "blobs", d.String())).refused(http.StatusForbidden, "DENIED")
		a.f.head(a.f.path(repository, "blobs", d.String())).refused(http.StatusNotFound, "")
	}
}

func pushedBlob(_ *testing.T, a *attempt) {
	s := stage.New(a)
	f := quay(s, proxy.PushPass, stage.Options{})
	own := &attempt{Stage: s, f: f, clock: s}
	image := build(s, "pushed and blocked")
	s.Must(remote.Write(f.reference("app:1"), image, f.puller()...))
	victim := &attempt{Stage: s, f: f.from("127.0.0.2"), clock: s}
	victim.withheld("app", image, http.StatusNotFound, "BLOB_UNKNOWN")
	own.blocked("app", "1", "signature.missing")
	own.unreadable("app", image)
	victim.unreadable("app", image)

	// A manifest is no blob, whoever has pushed it as one.
	manifest, err := image.RawManifest()
	s.Must(err)
	d := f.upload("app", string(manifest))
	f.get(f.path("app", "blobs", d.String())).refused(http.StatusNotFound, "BLOB_UNKNOWN")
}

func anotherPolicysVerdict(t *testing.T, _ *attempt) {
	s := stage.New(t)
	image := s.Trusted(s.Image("app", nil))
	config, _ := digests(s, image.Content)
	run := func(name, rego string, check func(f *front)) {
		t.Run(name, func(t *testing.T) { check(open(s.For(t), stage.Options{Rego: rego})) })
	}
	const strict = `package trustgate.policies.team
import rego.v1
deny contains {"code": "team.closed", "msg": "closed"} if input.image.kind == "image"
`
	run("before", "", func(f *front) {
		f.get(f.path("app", "manifests", "1")).served(image.Digest)
		f.get(f.path("app", "manifests", image.Digest.String())).served(image.Digest)
		f.get(f.path("app", "blobs", config.String())).served(config)
	})
	run("after, the blob first", strict, func(f *front) {
		f.get(f.path("app", "blobs", config.String())).refused(http.StatusForbidden, "DENIED")
		f.get(f.path("app", "manifests", "1")).refused(http.StatusForbidden, "DENIED")
		f.get(f.path("app", "manifests", image.Digest.String())).refused(http.StatusForbidden, "DENIED")
	})
	run("as before again", "", func(f *front) {
		f.get(f.path("app", "manifests", "1")).served(image.Digest)
	})
}

func copiedSignature(_ *testing.T, a *attempt) {
	from := a.Trusted(a.Image("copied/from", nil))
	a.served("copied/from", "1", from.Digest)
	a.Push("copied/to", "1", from.Content)
	for _, suffix := range []string{".sig", ".att"} {
		tag := evidenceTag(from.Digest, suffix)
		evidence, err := remote.Image(at(a.Stage, "copied/from:"+tag))
		a.Must(err)
		a.Push("copied/to", tag, evidence)
	}
	a.blocked("copied/to", "1", "signature.reference")
	a.blocked("copied/to", from.Digest.String(), "signature.reference")
	a.withheld("copied/to", from.Content, http.StatusForbidden, "DENIED")
}

// net/http takes the end of a client's sending for the end of the client, and
// answers 200 for a handler that then answers nothing.
func halfClosed(t *testing.T, a *attempt) {
	a.Image("half", nil)
	arrived, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	a.Upstream.Interpose(func(registry http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			once.Do(func() { close(arrived) })
			<-release
			registry.ServeHTTP(w, r)
		})
	})
	defer close(release)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		answer := a.f.raw(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n\r\n", method, a.f.path("half", "manifests", "1"), gateHost), true)
		<-arrived
		if answer.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: %s", method, answer.Status)
		}
	}
}

// A mode that only watches serves images, and still nothing that cannot be
// judged.
func TestWatchingIsNoBypass(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	a := &attempt{Stage: s, clock: s, f: open(s, stage.Options{Mode: policy.Audit})}
	image := s.Image("watched", nil)
	a.withheld("watched", image.Content, http.StatusNotFound, "BLOB_UNKNOWN")
	a.served("watched", "1", image.Digest)
	for name, try := range map[string]func(*testing.T, *attempt){
		"manifests and layers in one document":       manifestsAndLayers,
		"an index that carries an image in its data": indexWithData,
		"an index that fetches an image elsewhere":   indexWithURLs,
		"paths that mean two things":                 pathTricks,
		"a namespace that is not listed":             unlistedNamespace,
	} {
		t.Run(name, func(t *testing.T) {
			defer s.Upstream.Interpose(nil)
			try(t, &attempt{Stage: s.For(t), f: a.f.in(t), clock: s})
		})
	}
}
