package sigstore_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	sigdsse "github.com/sigstore/sigstore/pkg/signature/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/evidencetest"
	"github.com/trustgate/trustgate/evidence/sigstore"
	"github.com/trustgate/trustgate/oci"
)

const (
	typeSimple   = "application/vnd.dev.cosign.simplesigning.v1+json"
	typeEnvelope = "application/vnd.dsse.envelope.v1+json"
	typeBundle   = "application/vnd.dev.sigstore.bundle.v0.3+json"
	annotation   = "dev.cosignproject.cosign/signature"

	provenance = "https://slsa.dev/provenance/v1"
	signV1     = "https://sigstore.dev/cosign/sign/v1"
)

// party is somebody who signs, with the sigstore library.
type party struct {
	name string
	pem  []byte
	raw  signature.Signer
	hash protocommon.HashAlgorithm // of message signatures
}

func newParty(t testing.TB, name string, private crypto.Signer, hash crypto.Hash) *party {
	t.Helper()
	public, err := cryptoutils.MarshalPublicKeyToPEM(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.LoadSigner(private, hash)
	if err != nil {
		t.Fatal(err)
	}
	return &party{name: name, pem: public, raw: signer, hash: map[crypto.Hash]protocommon.HashAlgorithm{
		crypto.SHA256: protocommon.HashAlgorithm_SHA2_256,
		crypto.SHA384: protocommon.HashAlgorithm_SHA2_384,
		crypto.SHA512: protocommon.HashAlgorithm_SHA2_512,
	}[hash]}
}

func newP256(t testing.TB, name string) *party {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newParty(t, name, private, crypto.SHA256)
}

func (p *party) signer(t testing.TB) sigstore.Signer {
	t.Helper()
	s, err := sigstore.LoadKey(p.name, p.pem)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (p *party) fingerprint() string {
	block, _ := pem.Decode(p.pem)
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

// sign is a signature over a message, in base64.
func (p *party) sign(t testing.TB, message []byte) string {
	t.Helper()
	sig, err := p.raw.SignMessage(bytes.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(sig)
}

// envelope is a signed DSSE envelope around a statement.
func (p *party) envelope(t testing.TB, payload string, more ...*party) *dsse.Envelope {
	t.Helper()
	var signers []dsse.Signer
	for _, p := range append([]*party{p}, more...) {
		signers = append(signers, &sigdsse.SignerAdapter{SignatureSigner: p.raw, PubKeyID: p.name + "-key"})
	}
	s, err := dsse.NewEnvelopeSigner(signers...)
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.SignPayload(t.Context(), "application/vnd.in-toto+json", []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// bundle is a bundle of version 0.3 with the key's hint, as cosign writes it.
func (p *party) bundle(t testing.TB, content *protobundle.Bundle) []byte {
	t.Helper()
	content.MediaType = typeBundle
	content.VerificationMaterial = &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{
		PublicKey: &protocommon.PublicKeyIdentifier{Hint: "a hint that means nothing"},
	}}
	raw, err := protojson.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// attest is a bundle around a statement.
func (p *party) attest(t testing.TB, payload string) []byte {
	t.Helper()
	e := p.envelope(t, payload)
	sig, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	if err != nil {
		t.Fatal(err)
	}
	return p.bundle(t, &protobundle.Bundle{Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
		PayloadType: e.PayloadType, Payload: []byte(payload), Signatures: []*protodsse.Signature{{Sig: sig, Keyid: e.Signatures[0].KeyID}},
	}}})
}

// over is a bundle around a signature over the bytes themselves.
func (p *party) over(t testing.TB, message []byte) []byte {
	t.Helper()
	sig, err := p.raw.SignMessage(bytes.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	hash := map[protocommon.HashAlgorithm]crypto.Hash{
		protocommon.HashAlgorithm_SHA2_256: crypto.SHA256,
		protocommon.HashAlgorithm_SHA2_384: crypto.SHA384,
		protocommon.HashAlgorithm_SHA2_512: crypto.SHA512,
	}[p.hash].New()
	hash.Write(message)
	return p.bundle(t, &protobundle.Bundle{Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
		MessageDigest: &protocommon.HashOutput{Algorithm: p.hash, Digest: hash.Sum(nil)}, Signature: sig,
	}}})
}

func asJSON(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func simple(d fmt.Stringer, reference string) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, reference, d.String())
}

func statement(m *oci.Manifest, predicateType string) string {
	return fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"app","digest":{"sha256":%q}}],"predicateType":%q,"predicate":{"a":1}}`, m.Digest.Encoded(), predicateType)
}

func tag(m *oci.Manifest, suffix string) string { return "sha256-" + m.Digest.Encoded() + suffix }

// attachSimple pushes cosign's .sig manifest.
func attachSimple(t testing.TB, r *evidencetest.Repository, m *oci.Manifest, layers ...oci.Descriptor) {
	t.Helper()
	config := r.PushBlob(t, ocispec.MediaTypeImageConfig, []byte(`{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]}}`))
	r.Push(t, ocispec.Manifest{Config: config, Layers: layers}, tag(m, ".sig"))
}

func attachBundle(t testing.TB, r *evidencetest.Repository, m *oci.Manifest, raw []byte) {
	t.Helper()
	r.PushLayers(t, typeBundle, []oci.Descriptor{r.PushBlob(t, typeBundle, raw)}, m, "")
}

func collect(t testing.TB, r *evidencetest.Repository, m *oci.Manifest, signers ...sigstore.Signer) evidence.Findings {
	t.Helper()
	return sigstore.New(signers).Collect(t.Context(), r.Subject(m))
}

func withAnnotation(d oci.Descriptor, key, value string) oci.Descriptor {
	if d.Annotations = map[string]string{}; value != "" {
		d.Annotations[key] = value
	}
	return d
}

// TestCollect finds each form in each place, from one signer and from a
// stranger.
func TestCollect(t *testing.T) {
	for _, kind := range evidencetest.Kinds {
		t.Run(kind, func(t *testing.T) {
			r := evidencetest.Start(t, kind, "acme/app")
			m := r.PushImage(t, "the image")
			ci, stranger := newP256(t, "ci"), newP256(t, "stranger")
			bundler := newP256(t, "bundler")
			name := r.Name.Name()

			payload := simple(m.Digest, name)
			layer := r.PushBlob(t, typeSimple, payload)
			attachSimple(t, r, m,
				withAnnotation(layer, annotation, ci.sign(t, payload)),
				withAnnotation(layer, annotation, stranger.sign(t, payload)))
			r.PushLayers(t, "", []oci.Descriptor{
				r.PushBlob(t, typeEnvelope, asJSON(t, ci.envelope(t, statement(m, provenance)))),
				r.PushBlob(t, typeEnvelope, asJSON(t, stranger.envelope(t, statement(m, "https://spdx.dev/Document")))),
			}, nil, tag(m, ".att"))
			attachBundle(t, r, m, bundler.attest(t, statement(m, signV1)))
			attachBundle(t, r, m, bundler.attest(t, statement(m, "https://cyclonedx.org/bom")))
			attachBundle(t, r, m, bundler.over(t, m.Raw))
			r.PushLayers(t, "text/spdx", []oci.Descriptor{r.PushBlob(t, "text/spdx", []byte("another referrer"))}, m, "")

			r.Requests.Store(0)
			found := collect(t, r, m, ci.signer(t), bundler.signer(t))
			requests := r.Requests.Load()
			if len(found.Problems) != 0 {
				t.Fatalf("problems: %+v", found.Problems)
			}

			by := func(p *party) evidence.Signer {
				return evidence.Signer{Name: p.name, Fingerprint: p.fingerprint()}
			}
			type signatureFacts struct {
				kind, reference string
				binds           evidence.Binding
				by              evidence.Signer
				place           string
			}
			var signatures []signatureFacts
			for _, s := range found.Signatures {
				if s.By.Verified() != (s.Err == "") {
					t.Errorf("verified %v, says %q", s.By.Verified(), s.Err)
				}
				signatures = append(signatures, signatureFacts{s.Kind, s.Reference, s.Binds, s.By.Signer(), strings.Fields(s.Location)[0]})
			}
			if want := []signatureFacts{
				{evidence.KindCosign, name, evidence.BindsRepository, by(ci), "tag"},
				{evidence.KindCosign, name, evidence.BindsRepository, evidence.Signer{}, "tag"},
				{evidence.KindSigstore, "", evidence.BindsDigest, by(bundler), "referrer"},
				{evidence.KindSigstore, "", evidence.BindsDigest, by(bundler), "referrer"},
			}; !sameInAnyOrder(signatures, want) {
				t.Errorf("signatures:\n got %+v\nwant %+v", signatures, want)
			}
			type attestationFacts struct {
				predicateType string
				by            evidence.Signer
				place         string
			}
			var attestations []attestationFacts
			for _, a := range found.Attestations {
				if a.By.Verified() != (a.Err == "") || a.Subject != m.Digest || string(a.Predicate) != `{"a":1}` || a.InIndex != "" {
					t.Errorf("attestation %+v", a)
				}
				attestations = append(attestations, attestationFacts{a.PredicateType, a.By.Signer(), strings.Fields(a.Location)[0]})
			}
			if want := []attestationFacts{
				{provenance, by(ci), "tag"},
				{"https://spdx.dev/Document", evidence.Signer{}, "tag"},
				{"https://cyclonedx.org/bom", by(bundler), "referrer"},
			}; !sameInAnyOrder(attestations, want) {
				t.Errorf("attestations:\n got %+v\nwant %+v", attestations, want)
			}
			// Two tags, the list of referrers (and its fallback), each manifest
			// that may matter, each blob once.
			manifests := int64(3)
			if kind == evidencetest.WithReferrers {
				manifests = 4 // it does not tell artifact types, so all are looked at
			}
			if limit := 2 + 2 + manifests + 1 + 2 + 3; requests > limit {
				t.Errorf("%d requests, more than %d", requests, limit)
			}

			// The same attachments say nothing about another image.
			if found := collect(t, r, r.PushImage(t, "another"), ci.signer(t)); len(found.Signatures)+len(found.Attestations)+len(found.Problems) != 0 {
				t.Errorf("about another image: %+v", found)
			}
		})
	}
}

func sameInAnyOrder[T comparable](a, b []T) bool {
	count := func(list []T, v T) int {
		n := 0
		for _, o := range list {
			if o == v {
				n++
			}
		}
		return n
	}
	return len(a) == len(b) && !slices.ContainsFunc(a, func(v T) bool { return count(a, v) != count(b, v) })
}

// TestKeys verifies by each kind of key that cosign makes or imports.
func TestKeys(t *testing.T) {
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	m := r.PushImage(t, "the image")
	payload := simple(m.Digest, r.Name.Name())
	layer := r.PushBlob(t, typeSimple, payload)
	generate := func(curve elliptic.Curve) crypto.Signer {
		private, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return private
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var signers []sigstore.Signer
	var layers []oci.Descriptor
	parties := []*party{
		newParty(t, "P-256", generate(elliptic.P256()), crypto.SHA256),
		newParty(t, "P-384", generate(elliptic.P384()), crypto.SHA384),
		newParty(t, "P-384 with SHA-256", generate(elliptic.P384()), crypto.SHA256),
		newParty(t, "P-521", generate(elliptic.P521()), crypto.SHA512),
		newParty(t, "P-521 with SHA-256", generate(elliptic.P521()), crypto.SHA256),
		newParty(t, "RSA", rsaKey, crypto.SHA256),
		newParty(t, "Ed25519", edKey, crypto.SHA256),
	}
	for _, p := range parties {
		signers = append(signers, p.signer(t))
		layers = append(layers, withAnnotation(layer, annotation, p.sign(t, payload)))
		r.PushLayers(t, typeEnvelope, []oci.Descriptor{r.PushBlob(t, typeEnvelope, asJSON(t, p.envelope(t, statement(m, provenance))))}, m, "")
		attachBundle(t, r, m, p.attest(t, statement(m, signV1)))
		attachBundle(t, r, m, p.over(t, m.Raw))
	}
	attachSimple(t, r, m, layers...)
	prehashed, err := signature.LoadED25519phSigner(edKey)
	if err != nil {
		t.Fatal(err)
	}
	ed25519ph := &party{raw: prehashed, hash: protocommon.HashAlgorithm_SHA2_512}
	attachBundle(t, r, m, ed25519ph.over(t, m.Raw))

	found := collect(t, r, m, signers...)
	if len(found.Problems) != 0 || len(found.Signatures) != 3*len(parties)+1 || len(found.Attestations) != len(parties) {
		t.Fatalf("%d signatures, %d attestations, problems %+v", len(found.Signatures), len(found.Attestations), found.Problems)
	}
	by := map[string]int{}
	for _, s := range found.Signatures {
		if !s.By.Verified() {
			t.Errorf("%s: %s", s.Location, s.Err)
		}
		by[s.By.Signer().Name]++
	}
	for _, a := range found.Attestations {
		if !a.By.Verified() {
			t.Errorf("%s: %s", a.Location, a.Err)
		}
		by[a.By.Signer().Name]++
	}
	if len(by) != len(signers) {
		t.Errorf("verified by %v", by)
	}
}

// TestCosign verifies what the real cosign made, kept in testdata.
func TestCosign(t *testing.T) {
	read := func(name string) []byte {
		raw, err := os.ReadFile("testdata/cosign/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	m, err := oci.ParseManifest(read("manifest.json"), "", "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sigstore.LoadKey("ci", read("cosign.pub"))
	if err != nil {
		t.Fatal(err)
	}
	attachSimple(t, r, m, withAnnotation(r.PushBlob(t, typeSimple, read("signature.payload.json")), annotation, string(read("signature.b64"))))
	r.PushLayers(t, "", []oci.Descriptor{r.PushBlob(t, typeEnvelope, read("attestation.dsse.json"))}, nil, tag(m, ".att"))
	attachBundle(t, r, m, read("signature.bundle.json"))
	attachBundle(t, r, m, read("attestation.bundle.json"))

	found := collect(t, r, m, signer)
	if len(found.Problems) != 0 || len(found.Signatures) != 2 || len(found.Attestations) != 2 {
		t.Fatalf("got %+v", found)
	}
	pulled, err := oci.ParseReference("127.0.0.1:5917/acme/app:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range found.Signatures {
		fits := s.Matches(pulled)
		switch {
		case !s.By.Verified():
			t.Errorf("%s: %s", s.Location, s.Err)
		case s.Kind == evidence.KindCosign && (s.Binds != evidence.BindsRepository || fits == nil || !*fits):
			t.Errorf("the older layout: %+v", s)
		case s.Kind == evidence.KindSigstore && (s.Binds != evidence.BindsDigest || fits != nil):
			// cosign 3 writes the digest alone.
			t.Errorf("the bundle: %+v", s)
		}
	}
	for _, a := range found.Attestations {
		if !a.By.Verified() || a.PredicateType != "https://slsa.dev/provenance/v0.2" || !strings.Contains(string(a.Predicate), "https://ci") {
			t.Errorf("got %+v", a)
		}
	}
}

// TestReferences says how much of a name each signature binds.
func TestReferences(t *testing.T) {
	r := evidencetest.Start(t, evidencetest.WithoutReferrers, "acme/app")
	m := r.PushImage(t, "the image")
	ci := newP256(t, "ci")
	for i, tc := range []struct {
		reference string
		binds     evidence.Binding
		pulled    string
		fits      string
	}{
		{"", evidence.BindsDigest, "example.com/app:1", "nil"},
		{"example.com/app", evidence.BindsRepository, "example.com/app:1", "true"},
		{"example.com/app", evidence.BindsRepository, "example.com/other:1", "false"},
		{"index.docker.io/library/nginx", evidence.BindsRepository, "nginx:1", "true"},
		{"example.com/app:1", evidence.BindsTag, "example.com/app:1", "true"},
		{"example.com/app:1", evidence.BindsTag, "example.com/app:2", "false"},
		{"NOT a name", evidence.BindsRepository, "example.com/app:1", "false"},
	} {
		payload := simple(m.Digest, tc.reference)
		attachSimple(t, r, m, withAnnotation(r.PushBlob(t, typeSimple, payload), annotation, ci.sign(t, payload)))
		found := collect(t, r, m, ci.signer(t))
		if len(found.Signatures) != 1 {
			t.Fatalf("%d: got %+v", i, found)
		}
		s := found.Signatures[0]
		pulled, err := oci.ParseReference(tc.pulled)
		if err != nil {
			t.Fatal(err)
		}
		fits := "nil"
		if f := s.Matches(pulled); f != nil {
			fits = fmt.Sprint(*f)
		}
		if !s.By.Verified() || s.Reference != tc.reference || s.Binds != tc.binds || fits != tc.fits {
			t.Errorf("%q pulled as %s: %+v, fits %s", tc.reference, tc.pulled, s, fits)
		}
	}
	// A bundle's statement may name its subject, which is free text.
	bundler := newP256(t, "bundler")
	for name, want := range map[string]evidence.Binding{
		"app": evidence.BindsDigest, "acme/app": evidence.BindsDigest, "My App": evidence.BindsDigest,
		"example.com/app": evidence.BindsRepository, "example.com/app:1": evidence.BindsTag,
	} {
		r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
		m := r.PushImage(t, "the image")
		attachBundle(t, r, m, bundler.attest(t, strings.Replace(statement(m, signV1), `"name":"app"`, fmt.Sprintf(`"name":%q`, name), 1)))
		found := collect(t, r, m, bundler.signer(t))
		if len(found.Signatures) != 1 || !found.Signatures[0].By.Verified() || found.Signatures[0].Binds != want {
			t.Errorf("%q: got %+v", name, found)
		}
	}
}

// TestRefuses says why what is found is not verified.
func TestRefuses(t *testing.T) {
	ci, stranger := newP256(t, "ci"), newP256(t, "stranger")
	bundler := newP256(t, "bundler")
	otherBundler := newP256(t, "other")
	signers := []sigstore.Signer{ci.signer(t), bundler.signer(t), {}}
	const unknown = "made by a key that no signer in trust.signers holds"
	const copied = "it was copied from another one"

	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	other := r.PushImage(t, "another")
	replace := func(raw []byte, old, new string) []byte {
		t.Helper()
		if !bytes.Contains(raw, []byte(old)) {
			t.Fatalf("%q is not in %s", old, raw)
		}
		return bytes.Replace(raw, []byte(old), []byte(new), 1)
	}
	attach := func(mediaType string, raw []byte, sig string) func(*evidencetest.Repository, *oci.Manifest) {
		return func(r *evidencetest.Repository, m *oci.Manifest) {
			r.PushLayers(t, mediaType, []oci.Descriptor{withAnnotation(r.PushBlob(t, mediaType, raw), annotation, sig)}, m, "")
		}
	}
	m := r.PushImage(t, "the image")
	good := simple(m.Digest, "example.com/app")
	goodSig := ci.sign(t, good)
	signedBy := func(p *party, payload []byte) func(*evidencetest.Repository, *oci.Manifest) {
		return attach(typeSimple, payload, p.sign(t, payload))
	}
	envelope := asJSON(t, ci.envelope(t, statement(m, provenance)))
	bundle := bundler.attest(t, statement(m, provenance))
	signatureBundle := bundler.attest(t, statement(m, signV1))
	message := bundler.over(t, m.Raw)
	manySigs := ci.envelope(t, statement(m, provenance))
	for range 20 {
		manySigs.Signatures = append(manySigs.Signatures, manySigs.Signatures[0])
	}
	unsigned := *ci.envelope(t, statement(m, provenance))
	unsigned.Signatures = []dsse.Signature{}
	otherType := *ci.envelope(t, statement(m, provenance))
	otherType.PayloadType = "application/json"

	for name, tc := range map[string]struct {
		attach func(*evidencetest.Repository, *oci.Manifest)
		says   string
	}{
		"unknown key":                     {signedBy(stranger, good), unknown},
		"changed payload":                 {attach(typeSimple, simple(m.Digest, "example.com/evil"), goodSig), unknown},
		"another image":                   {signedBy(ci, simple(other.Digest, "example.com/app")), copied},
		"OpenPGP's type":                  {signedBy(ci, replace(good, "cosign container image signature", "atomic container signature")), "critical.type"},
		"unknown critical":                {signedBy(ci, replace(good, `"critical":{`, `"critical":{"x":1,`)), `the member "x"`},
		"no signature":                    {attach(typeSimple, good, ""), "carries no signature"},
		"signature not base64":            {attach(typeSimple, good, "***"), "not base64"},
		"truncated signature":             {attach(typeSimple, good, goodSig[:len(goodSig)-8]), unknown},
		"not a payload":                   {signedBy(ci, []byte("hello")), "not a simple signing payload"},
		"envelope, unknown key":           {attach(typeEnvelope, asJSON(t, stranger.envelope(t, statement(m, provenance))), ""), unknown},
		"envelope, another image":         {attach(typeEnvelope, asJSON(t, ci.envelope(t, statement(other, provenance))), ""), copied},
		"envelope, changed":               {attach(typeEnvelope, replace(envelope, base64.StdEncoding.EncodeToString([]byte(statement(m, provenance))), base64.StdEncoding.EncodeToString([]byte(statement(m, "https://spdx.dev/Document")))), ""), unknown},
		"envelope, not JSON":              {attach(typeEnvelope, []byte("<html>"), ""), "not a DSSE envelope"},
		"envelope, not signed":            {attach(typeEnvelope, asJSON(t, unsigned), ""), "not signed"},
		"envelope, too many signatures":   {attach(typeEnvelope, asJSON(t, manySigs), ""), "21 signatures, more than 16"},
		"envelope, payload twice":         {attach(typeEnvelope, replace(envelope, "{", `{"payload":"e30=",`), ""), "appears twice"},
		"envelope, another type":          {attach(typeEnvelope, asJSON(t, otherType), ""), `holds a "application/json"`},
		"envelope, not a statement":       {attach(typeEnvelope, asJSON(t, ci.envelope(t, `{"_type":"x"}`)), ""), "not an in-toto statement"},
		"envelope, no subject":            {attach(typeEnvelope, asJSON(t, ci.envelope(t, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"x"}`)), ""), "names no digest"},
		"bundle, unknown key":             {attach(typeBundle, otherBundler.attest(t, statement(m, provenance)), ""), unknown},
		"bundle, unknown key, signature":  {attach(typeBundle, otherBundler.attest(t, statement(m, signV1)), ""), unknown},
		"bundle, another image":           {attach(typeBundle, bundler.attest(t, statement(other, provenance)), ""), copied},
		"bundle, another image signature": {attach(typeBundle, bundler.attest(t, statement(other, signV1)), ""), copied},
		"bundle, another image, message":  {attach(typeBundle, bundler.over(t, other.Raw), ""), copied},
		"bundle, message of unknown key":  {attach(typeBundle, otherBundler.over(t, m.Raw), ""), unknown},
		"bundle, message hash lies":       {attach(typeBundle, lie(t, message, m, bundler, other), ""), unknown},
		"bundle, not JSON":                {attach(typeBundle, []byte("hello"), ""), "not a sigstore bundle"},
		"bundle, empty":                   {attach(typeBundle, []byte("{}"), ""), "not a sigstore bundle"},
		"bundle, unknown field":           {attach(typeBundle, replace(bundle, "{", `{"x":1,`), ""), "not a sigstore bundle"},
		"bundle, future version":          {attach(typeBundle, replace(bundle, "bundle.v0.3", "bundle.v0.9"), ""), "not a sigstore bundle"},
		"bundle, two signatures":          {attach(typeBundle, twice(t, bundle), ""), "2 signatures, not one"},
		"bundle, certificate":             {attach(typeBundle, certified(t, signatureBundle), ""), "made with a certificate (keyless)"},
	} {
		t.Run(name, func(t *testing.T) {
			r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
			m := r.PushImage(t, "the image")
			tc.attach(r, m)
			found := collect(t, r, m, signers...)
			if len(found.Problems) != 0 || len(found.Signatures)+len(found.Attestations) != 1 {
				t.Fatalf("got %+v", found)
			}
			for _, s := range found.Signatures {
				if s.By.Verified() || !strings.Contains(s.Err, tc.says) || s.Location == "" {
					t.Errorf("got %+v, want it to say %q", s, tc.says)
				}
			}
			for _, a := range found.Attestations {
				if a.By.Verified() || !strings.Contains(a.Err, tc.says) || a.Location == "" {
					t.Errorf("got %+v, want it to say %q", a, tc.says)
				}
			}
			if isSignature := strings.Contains(name, "signature") && strings.HasPrefix(name, "bundle, unknown") || strings.Contains(name, "message"); isSignature && len(found.Signatures) != 1 {
				t.Errorf("it is a signature, and was taken for an attestation: %+v", found)
			}
		})
	}
	// All of the above hang on these being good.
	for name, attach := range map[string]func(*evidencetest.Repository, *oci.Manifest){
		"payload": signedBy(ci, good), "envelope": attach(typeEnvelope, envelope, ""), "bundle": attach(typeBundle, bundle, ""),
		"signature": attach(typeBundle, signatureBundle, ""), "message": attach(typeBundle, message, ""),
		"one of two signatures": attach(typeEnvelope, asJSON(t, stranger.envelope(t, statement(m, provenance), ci)), ""),
	} {
		r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
		m := r.PushImage(t, "the image")
		attach(r, m)
		found := collect(t, r, m, signers...)
		if len(found.Signers()) != 1 && (len(found.Attestations) != 1 || !found.Attestations[0].By.Verified()) {
			t.Errorf("the good %s: %+v", name, found)
		}
	}
}

// edit changes a bundle as generic JSON.
func edit(t testing.TB, raw []byte, change func(map[string]any)) []byte {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	change(doc)
	return asJSON(t, doc)
}

// lie takes the signature over another manifest and claims it is over m.
func lie(t testing.TB, message []byte, m *oci.Manifest, p *party, other *oci.Manifest) []byte {
	sig := p.sign(t, other.Raw)
	return edit(t, message, func(doc map[string]any) { doc["messageSignature"].(map[string]any)["signature"] = sig })
}

func twice(t testing.TB, raw []byte) []byte {
	return edit(t, raw, func(doc map[string]any) {
		e := doc["dsseEnvelope"].(map[string]any)
		sigs := e["signatures"].([]any)
		e["signatures"] = append(sigs, sigs[0])
	})
}

// certified puts a certificate where the key's hint was.
func certified(t testing.TB, raw []byte) []byte {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	return edit(t, raw, func(doc map[string]any) {
		doc["verificationMaterial"] = map[string]any{"certificate": map[string]any{"rawBytes": base64.StdEncoding.EncodeToString(der)}}
	})
}

// TestLimits reports what is not looked at.
func TestLimits(t *testing.T) {
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	m := r.PushImage(t, "the image")
	ci := newP256(t, "ci")
	payload := simple(m.Digest, "example.com/app")
	layer := withAnnotation(r.PushBlob(t, typeSimple, payload), annotation, ci.sign(t, payload))
	attachSimple(t, r, m, layer, layer, layer)

	collect := func(limits evidence.Limits) evidence.Findings {
		subject := r.Subject(m)
		subject.Limits = limits
		return sigstore.New([]sigstore.Signer{ci.signer(t)}).Collect(t.Context(), subject)
	}
	found := collect(evidence.Limits{Attestation: 1000, Signatures: 2, Referrers: 1})
	if len(found.Signatures) != 2 || !found.Signatures[0].By.Verified() || len(found.Problems) != 1 ||
		!strings.Contains(found.Problems[0].Message, "more than limits.signatures (2)") || found.Problems[0].Temporary {
		t.Errorf("too many: %+v", found)
	}
	found = collect(evidence.Limits{Attestation: 10, Signatures: 10, Referrers: 1})
	if len(found.Signatures) != 3 || !strings.Contains(found.Signatures[0].Err, "more than limits.attestation (10)") || len(found.Problems) != 0 {
		t.Errorf("too long: %+v", found)
	}
	for i := range 6 {
		attachBundle(t, r, m, bytes.Repeat([]byte{byte('0' + i)}, 10))
	}
	found = collect(evidence.Limits{Attestation: 10, Signatures: 20, Referrers: 20})
	if len(found.Problems) != 2 || !strings.Contains(found.Problems[0].Message, "more bytes together") {
		t.Errorf("too long together: %+v", found.Problems)
	}
	found = collect(evidence.Limits{Attestation: 10, Signatures: 20, Referrers: 5})
	if !slices.ContainsFunc(found.Problems, func(p evidence.Problem) bool {
		return strings.Contains(p.Message, "more than limits.referrers (5)")
	}) {
		t.Errorf("too many referrers: %+v", found.Problems)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	found = sigstore.New(nil).Collect(ctx, r.Subject(m))
	if len(found.Problems) != 3 || !found.Problems[0].Temporary {
		t.Errorf("without a registry: %+v", found.Problems)
	}
}

func TestLoadKeyRefuses(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	public := func(key any) []byte {
		der, err := x509.MarshalPKIXPublicKey(key)
		return encode("PUBLIC KEY", der, err)
	}
	t.Setenv("GODEBUG", "rsa1024min=0")
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, pkcs8Err := x509.MarshalPKCS8PrivateKey(private)
	for name, tc := range map[string]struct {
		raw  []byte
		says string
	}{
		"empty":            {nil, "not PEM"},
		"text":             {[]byte("hello"), "not PEM"},
		"private":          {encode("PRIVATE KEY", pkcs8, pkcs8Err), "a private key"},
		"cosign's private": {encode("ENCRYPTED SIGSTORE PRIVATE KEY", []byte("x"), nil), "cosign public-key"},
		"certificate":      {encode("CERTIFICATE", []byte("x"), nil), "a certificate"},
		"OpenPGP":          {encode("PGP PUBLIC KEY BLOCK", []byte("x"), nil), `a "PGP PUBLIC KEY BLOCK"`},
		"garbage":          {encode("PUBLIC KEY", []byte("x"), nil), "asn1"},
		"two keys":         {slices.Concat(public(private.Public()), public(private.Public())), "name a signer for each key"},
		"short RSA":        {public(short.Public()), "RSA key of 1024 bits, less than 2048"},
		"P-224":            {public(p224.Public()), "P-224"},
		"too long":         {bytes.Repeat([]byte("x"), 70<<10), "more than 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := sigstore.LoadKey("ci", tc.raw)
			if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), `"ci"`) {
				t.Errorf("got %v, want an error that says %q", err, tc.says)
			}
		})
	}
	if _, err := sigstore.LoadKey("ci", encode("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&mustRSA(t).PublicKey), nil)); err != nil {
		t.Errorf("PKCS#1: %v", err)
	}
}

func mustRSA(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
