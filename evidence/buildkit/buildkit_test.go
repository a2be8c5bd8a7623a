package buildkit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/buildkit"
	"github.com/trustgate/trustgate/evidence/internal/evidencetest"
	"github.com/trustgate/trustgate/evidence/internal/seal"
	"github.com/trustgate/trustgate/oci"
)

const (
	typeStatement = "application/vnd.in-toto+json"
	provenance    = "https://slsa.dev/provenance/v1"
	spdx          = "https://spdx.dev/Document"
)

func statement(d digest.Digest, predicateType string) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"pkg:docker/app@1?platform=linux%%2Famd64","digest":{"sha256":%q}}],"predicateType":%q,"predicate":{"a":1}}`, d.Encoded(), predicateType)
}

// attestationManifest pushes BuildKit's manifest of these statements and
// describes it as an index does.
func attestationManifest(t testing.TB, r *evidencetest.Repository, about digest.Digest, statements ...[]byte) oci.Descriptor {
	t.Helper()
	var layers []oci.Descriptor
	for _, s := range statements {
		layers = append(layers, r.PushBlob(t, typeStatement, s))
	}
	return entry(r.PushLayers(t, "application/vnd.docker.attestation.manifest.v1+json", layers, nil, ""), about)
}

func entry(m *oci.Manifest, about digest.Digest) oci.Descriptor {
	return oci.Descriptor{
		MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw)), Platform: &ocispec.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": about.String()},
	}
}

func image(m *oci.Manifest) oci.Descriptor {
	return oci.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw)), Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}}
}

func collect(t testing.TB, r *evidencetest.Repository, m, index *oci.Manifest) evidence.Findings {
	t.Helper()
	subject := r.Subject(m)
	subject.Index = index
	return buildkit.New().Collect(t.Context(), subject)
}

func TestCollect(t *testing.T) {
	r := evidencetest.Start(t, evidencetest.WithoutReferrers, "acme/app")
	amd, arm := r.PushImage(t, "amd64"), r.PushImage(t, "arm64")
	first := attestationManifest(t, r, amd.Digest, statement(amd.Digest, provenance), statement(amd.Digest, spdx))
	second := attestationManifest(t, r, amd.Digest, statement(amd.Digest, "https://example.com/third"))
	others := attestationManifest(t, r, arm.Digest, statement(arm.Digest, provenance))
	index := r.Push(t, ocispec.Index{Manifests: []oci.Descriptor{image(amd), image(arm), first, second, others}}, "1")

	found := collect(t, r, amd, index)
	if len(found.Problems) != 0 || len(found.Signatures) != 0 || len(found.Attestations) != 3 {
		t.Fatalf("got %+v", found)
	}
	for i, want := range []struct {
		predicateType string
		manifest      digest.Digest
	}{{provenance, first.Digest}, {spdx, first.Digest}, {"https://example.com/third", second.Digest}} {
		a := found.Attestations[i]
		if a.By.Verified() || a.Err != "" || a.PredicateType != want.predicateType || a.Subject != amd.Digest ||
			string(a.Predicate) != `{"a":1}` || a.InIndex != index.Digest ||
			!strings.HasPrefix(a.Location, fmt.Sprintf("index %s, attestation manifest %s, layer sha256:", index.Digest, want.manifest)) {
			t.Errorf("attestation %d is %+v", i, a)
		}
	}
	if found := collect(t, r, arm, index); len(found.Attestations) != 1 || found.Attestations[0].Subject != arm.Digest {
		t.Errorf("the other platform: %+v", found)
	}
	if found := collect(t, r, amd, nil); len(found.Attestations)+len(found.Problems) != 0 {
		t.Errorf("without an index: %+v", found)
	}
	if found := collect(t, r, index, index); len(found.Attestations)+len(found.Problems) != 0 {
		t.Errorf("the index itself: %+v", found)
	}
}

// TestNothingBelievable returns what an index offers and says why it is not
// even a claim.
func TestNothingBelievable(t *testing.T) {
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	m, other := r.PushImage(t, "the image"), r.PushImage(t, "another")
	missing := digest.FromString("missing")
	lost := r.PushBlob(t, typeStatement, statement(m.Digest, provenance))
	lost.Digest = missing
	for name, tc := range map[string]struct {
		entry oci.Descriptor
		says  string // "" when there is nothing at all
	}{
		"an image":             {entry(other, m.Digest), "it is an image"},
		"an index":             {entry(r.Push(t, ocispec.Index{Manifests: []oci.Descriptor{}}, ""), m.Digest), "it is an index"},
		"about another":        {attestationManifest(t, r, m.Digest, statement(other.Digest, provenance)), "not about this image"},
		"not a statement":      {attestationManifest(t, r, m.Digest, []byte("hello")), "not an in-toto statement"},
		"its blob is missing":  {entry(pushLost(t, r, lost), m.Digest), "does not have it"},
		"itself missing":       {oci.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: missing, Size: 3, Annotations: entry(other, m.Digest).Annotations}, ""},
		"other evidence":       {entry(r.PushLayers(t, "", []oci.Descriptor{r.PushBlob(t, "text/spdx", []byte("x"))}, nil, ""), m.Digest), ""},
		"marked for another":   {attestationManifest(t, r, other.Digest, statement(m.Digest, provenance)), ""},
		"without a mark":       {image(other), ""},
		"with an empty mark":   {entry(other, ""), ""},
		"with a longer digest": {entry(other, m.Digest+"00"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			index := parseIndex(t, tc.entry)
			found := collect(t, r, m, index)
			if tc.says == "" {
				if len(found.Attestations)+len(found.Problems) != 0 {
					t.Errorf("got %+v", found)
				}
				return
			}
			if len(found.Problems) != 0 || len(found.Attestations) != 1 {
				t.Fatalf("got %+v", found)
			}
			a := found.Attestations[0]
			if !strings.Contains(a.Err, tc.says) || a.Predicate != nil || a.Subject != "" || a.Location == "" {
				t.Errorf("got %+v, want it to say %q", a, tc.says)
			}
			if covered := found.Cover(index.Digest, ci); covered.Attestations[0].By.Verified() {
				t.Error("a signature over the index would cover it")
			}
		})
	}
}

// ci stands for whoever signed the index.
var ci = []evidence.Voucher{evidence.Vouch(seal.Key{}, evidence.Signer{Name: "ci"})}

// parseIndex makes an index that no registry would take, since it lists what
// is not there.
func parseIndex(t testing.TB, entries ...oci.Descriptor) *oci.Manifest {
	t.Helper()
	raw, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries})
	if err != nil {
		t.Fatal(err)
	}
	index, err := oci.ParseManifest(raw, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// pushLost stores an attestation manifest whose layer nobody has.
func pushLost(t testing.TB, r *evidencetest.Repository, layer oci.Descriptor) *oci.Manifest {
	t.Helper()
	return r.PushLayers(t, "", []oci.Descriptor{layer}, nil, "")
}

func TestProblems(t *testing.T) {
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	m := r.PushImage(t, "the image")
	var entries []oci.Descriptor
	for i := range 3 {
		entries = append(entries, attestationManifest(t, r, m.Digest, statement(m.Digest, fmt.Sprint("https://example.com/", i))))
	}
	index := r.Push(t, ocispec.Index{Manifests: entries}, "")
	subject := r.Subject(m)
	subject.Index = index
	subject.Limits.Signatures = 2
	found := buildkit.New().Collect(t.Context(), subject)
	if len(found.Attestations) != 2 || len(found.Problems) != 1 || !strings.Contains(found.Problems[0].Message, "limits.signatures (2)") || found.Problems[0].Temporary {
		t.Errorf("too many: %+v", found)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	subject.Limits = evidence.DefaultLimits
	found = buildkit.New().Collect(ctx, subject)
	if len(found.Attestations) != 0 || len(found.Problems) != 3 || !found.Problems[0].Temporary {
		t.Errorf("without a registry: %+v", found)
	}
}

// TestCovered: who signs the index signs the attestations in it.
func TestCovered(t *testing.T) {
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	m := r.PushImage(t, "the image")
	index := r.Push(t, ocispec.Index{Manifests: []oci.Descriptor{
		image(m), attestationManifest(t, r, m.Digest, statement(m.Digest, provenance), bytes.Repeat([]byte("x"), 10)),
	}}, "")
	found := collect(t, r, m, index)
	for _, a := range found.Cover(digest.FromString("another index"), ci).Attestations {
		if a.By.Verified() {
			t.Errorf("covered by a signature over another index: %+v", a)
		}
	}
	covered := found.Cover(index.Digest, ci).Attestations
	if len(covered) != 2 || !covered[0].By.Verified() || covered[0].By.Signer().Name != "ci" || !covered[0].Inherited {
		t.Errorf("got %+v", covered)
	}
	if covered[1].By.Verified() {
		t.Errorf("what is no statement was covered: %+v", covered[1])
	}
}
