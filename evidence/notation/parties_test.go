package notation_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	notationgo "github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/registry"
	"github.com/notaryproject/notation-go/signer"
	"github.com/notaryproject/tspclient-go"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/evidencetest"
	"github.com/trustgate/trustgate/evidence/notation"
	"github.com/trustgate/trustgate/oci"
)

const (
	mediaJWS  = jws.MediaTypeEnvelope
	mediaCOSE = cose.MediaTypeEnvelope
	payloadV1 = "application/vnd.cncf.notary.payload.v1+json"
	identity  = "x509.subject: C=US, ST=WA, O=acme.example"
)

// party is somebody with a certificate: a CA, a signer, a TSA, a responder.
type party struct {
	key   *ecdsa.PrivateKey
	chain []*x509.Certificate // its own first, its root last
}

func named(cn string) pkix.Name {
	return pkix.Name{Country: []string{"US"}, Province: []string{"WA"}, Organization: []string{"acme.example"}, CommonName: cn}
}

// certificate makes a certificate for a public key under issuer, or a root when
// that is nil.
func certificate(t testing.TB, issuer *party, public any, private *ecdsa.PrivateKey, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	var err error
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		t.Fatal(err)
	}
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(24 * time.Hour)
	}
	parent := template
	if issuer != nil {
		parent, private = issuer.cert(), issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, private)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// certify makes a party with a key of its own.
func certify(t testing.TB, issuer *party, template *x509.Certificate) *party {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &party{key: key, chain: []*x509.Certificate{certificate(t, issuer, &key.PublicKey, key, template)}}
	if issuer != nil {
		p.chain = append(p.chain, issuer.chain...)
	}
	return p
}

// rsaKey is a public key of that length. Nobody has the private one.
func rsaKey(bits int) *rsa.PublicKey {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	return &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}
}

// newCA is a root that was there long before everything that it certifies.
func newCA(t testing.TB, cn string, change ...func(*x509.Certificate)) *party {
	template := &x509.Certificate{
		Subject: named(cn), NotBefore: time.Now().AddDate(-10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	for _, f := range change {
		f(template)
	}
	return certify(t, nil, template)
}

// issue makes a code signing certificate.
func (p *party) issue(t testing.TB, cn string, change ...func(*x509.Certificate)) *party {
	template := &x509.Certificate{
		Subject: named(cn), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	for _, f := range change {
		f(template)
	}
	return certify(t, p, template)
}

func (p *party) cert() *x509.Certificate { return p.chain[0] }

func (p *party) pem() []byte { return inPEM(p.cert()) }

func inPEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// as is the signer under the CA p with these options changed.
func (p *party) as(t testing.TB, name string, change ...func(*notation.Options)) notation.Signer {
	t.Helper()
	o := notation.Options{CA: p.pem(), Identities: []string{identity}}
	for _, f := range change {
		f(&o)
	}
	s, err := notation.LoadSigner(name, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// facts is what a signature of p says of its signer.
func (p *party) facts(name string) evidence.Signer {
	sum := sha256.Sum256(p.cert().Raw)
	return evidence.Signer{
		Name: name, Fingerprint: hex.EncodeToString(sum[:]),
		Identity: p.cert().Subject.String(), Issuer: p.cert().Issuer.String(),
	}
}

// signAndPush is 'notation sign'.
func (p *party) signAndPush(t testing.TB, r *evidencetest.Repository, m *oci.Manifest, o notationgo.SignerSignOptions) {
	t.Helper()
	s, err := signer.NewGenericSigner(p.key, p.chain)
	if err != nil {
		t.Fatal(err)
	}
	repository, err := remote.NewRepository(r.Name.Name())
	if err != nil {
		t.Fatal(err)
	}
	repository.PlainHTTP, repository.SkipReferrersGC = true, true
	if _, err := notationgo.Sign(t.Context(), s, registry.NewRepository(repository), notationgo.SignOptions{
		SignerSignOptions: o, ArtifactReference: r.Name.Name() + "@" + m.Digest.String(),
		UserMetadata: map[string]string{"pipeline": "release"},
	}); err != nil {
		t.Fatal(err)
	}
}

// sign makes an envelope over m and lets the request be changed, for what
// notation itself does not sign.
func (p *party) sign(t testing.TB, mediaType string, m *oci.Manifest, change ...func(*signature.SignRequest)) []byte {
	t.Helper()
	local, err := signature.NewLocalSigner(p.chain, p.key)
	if err != nil {
		t.Fatal(err)
	}
	request := &signature.SignRequest{
		Payload: target(t, oci.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw))}),
		Signer:  local, SigningTime: time.Now(), SigningScheme: signature.SigningSchemeX509, SigningAgent: "test/1",
	}
	for _, f := range change {
		f(request)
	}
	e, err := signature.NewEnvelope(mediaType)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := e.Sign(request)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func target(t testing.TB, d oci.Descriptor) signature.Payload {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"targetArtifact": d})
	if err != nil {
		t.Fatal(err)
	}
	return signature.Payload{ContentType: payloadV1, Content: raw}
}

func signedAt(at time.Time) func(*signature.SignRequest) {
	return func(r *signature.SignRequest) { r.SigningTime = at }
}

func critical(key, value any) func(*signature.SignRequest) {
	return func(r *signature.SignRequest) {
		r.ExtendedSignedAttributes = append(r.ExtendedSignedAttributes, signature.Attribute{Key: key, Critical: true, Value: value})
	}
}

// attach pushes an envelope as notation does.
func attach(t testing.TB, r *evidencetest.Repository, m *oci.Manifest, mediaType string, raw []byte) *oci.Manifest {
	t.Helper()
	return r.PushLayers(t, registry.ArtifactTypeNotation, []oci.Descriptor{r.PushBlob(t, mediaType, raw)}, m, "")
}

func collect(t testing.TB, r *evidencetest.Repository, m *oci.Manifest, signers ...notation.Signer) evidence.Findings {
	t.Helper()
	return notation.New(signers).Collect(t.Context(), r.Subject(m))
}

// newTSA is a time stamping authority with a root of its own.
func newTSA(t testing.TB, change ...func(*x509.Certificate)) (root, tsa *party) {
	t.Helper()
	root = newCA(t, "time root")
	return root, root.issueTSA(t, change...)
}

func (p *party) issueTSA(t testing.TB, change ...func(*x509.Certificate)) *party {
	t.Helper()
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		Subject: named("time"), NotBefore: p.cert().NotBefore, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}
	for _, f := range change {
		f(template)
	}
	return certify(t, p, template)
}

// clock stamps what it is asked to with one time.
type clock struct {
	tsa *party
	at  time.Time
}

// Timestamp implements tspclient.Timestamper with another implementation of
// RFC 3161 than the one that verifies.
func (c clock) Timestamp(_ context.Context, r *tspclient.Request) (*tspclient.Response, error) {
	der, err := r.MarshalBinary()
	if err != nil {
		return nil, err
	}
	asked, err := timestamp.ParseRequest(der)
	if err != nil {
		return nil, err
	}
	stamp := timestamp.Timestamp{
		HashAlgorithm: asked.HashAlgorithm, HashedMessage: asked.HashedMessage, Nonce: asked.Nonce,
		Time: c.at, Accuracy: time.Second, Policy: asn1.ObjectIdentifier{2, 4, 5, 6}, SerialNumber: big.NewInt(1),
		AddTSACertificate: true, Certificates: c.tsa.chain[1:],
	}
	if der, err = stamp.CreateResponseWithOpts(c.tsa.cert(), c.tsa.key, crypto.SHA256); err != nil {
		return nil, err
	}
	var response tspclient.Response
	return &response, response.UnmarshalBinary(der)
}

func stamped(root, tsa *party, at time.Time) func(*signature.SignRequest) {
	return func(r *signature.SignRequest) {
		r.Timestamper = clock{tsa, at}
		r.TSARootCAs = x509.NewCertPool()
		r.TSARootCAs.AddCert(root.cert())
	}
}

// edited changes a JWS envelope's members.
func edited(t testing.TB, raw []byte, change func(envelope, header map[string]any)) []byte {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	header, _ := e["header"].(map[string]any)
	change(e, header)
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// replaced changes the first old in raw, which must be there.
func replaced(t testing.TB, raw []byte, old, new string) []byte {
	t.Helper()
	if !bytes.Contains(raw, []byte(old)) {
		t.Fatalf("there is no %q in it", old)
	}
	return bytes.Replace(raw, []byte(old), []byte(new), 1)
}
