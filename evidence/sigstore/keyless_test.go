package sigstore_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	virtual "github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/evidencetest"
	"github.com/trustgate/trustgate/evidence/sigstore"
	"github.com/trustgate/trustgate/oci"
)

const (
	certificateAnnotation = "dev.sigstore.cosign/certificate"
	chainAnnotation       = "dev.sigstore.cosign/chain"
	entryAnnotation       = "dev.sigstore.cosign/bundle"
	stampAnnotation       = "dev.sigstore.cosign/rfc3161timestamp"

	bundle01 = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	bundle02 = "application/vnd.dev.sigstore.bundle+json;version=0.2"
	bundle03 = typeBundle

	actions  = "https://token.actions.githubusercontent.com"
	workflow = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1"
)

var (
	acme = sigstore.Identity{Subject: "https://github.com/acme/**", Issuer: actions}

	// longAgo is when things were signed, since which each certificate for it
	// has expired.
	longAgo = time.Now().Add(-30 * 24 * time.Hour).Truncate(time.Second)
)

// instance is a sigstore of the test's own: sigstore-go's log and time stamp
// authority, and a certificate authority whose certificates may be of any time
// and are in a certificate transparency log.
type instance struct {
	*virtual.VirtualSigstore
	root, intermediate *authority
	ct                 *ecdsa.PrivateKey
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newInstance(t testing.TB) *instance {
	t.Helper()
	log, err := virtual.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	top := newAuthority(t, "root", nil)
	return &instance{log, top, newAuthority(t, "intermediate", top), newKey(t)}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newAuthority(t testing.TB, name string, parent *authority) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{"acme"}},
		NotBefore: longAgo.Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	if parent == nil {
		parent = &authority{template, a.key}
	} else {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	}
	a.certificate = newCertificate(t, template, parent, a.key)
	return a
}

func newCertificate(t testing.TB, template *x509.Certificate, by *authority, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, by.certificate, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// trustedRoot lists the instance's authorities and logs.
func (in *instance) trustedRoot(t testing.TB, edit ...func(*trusted)) []byte {
	t.Helper()
	ids := func(logs map[string]*root.TransparencyLog) map[string]*root.TransparencyLog {
		for id, log := range logs {
			log.ID, _ = hex.DecodeString(id)
			log.ValidityPeriodStart = longAgo.Add(-time.Hour)
		}
		return logs
	}
	public, err := x509.MarshalPKIXPublicKey(in.ct.Public())
	if err != nil {
		t.Fatal(err)
	}
	id := sha256.Sum256(public)
	lists := &trusted{
		authorities: []root.CertificateAuthority{&root.FulcioCertificateAuthority{
			Root: in.root.certificate, Intermediates: []*x509.Certificate{in.intermediate.certificate}, URI: "https://fulcio.example",
		}},
		ct: ids(map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): {
			BaseURL: "https://ct.example", PublicKey: in.ct.Public(), HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
		}}),
		logs:   ids(in.RekorLogs()),
		stamps: in.TimestampingAuthorities(),
	}
	for _, e := range edit {
		e(lists)
	}
	made, err := root.NewTrustedRoot(root.TrustedRootMediaType01, lists.authorities, lists.ct, lists.stamps, lists.logs)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := made.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

type trusted struct {
	authorities []root.CertificateAuthority
	ct, logs    map[string]*root.TransparencyLog
	stamps      []root.TimestampingAuthority
}

// signer is the identity's, by this instance.
func (in *instance) signer(t testing.TB, name string, id sigstore.Identity, o sigstore.KeylessOptions) sigstore.Signer {
	t.Helper()
	s, err := sigstore.LoadKeyless(name, in.trustedRoot(t), id, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// issued is a certificate and its key.
type issued struct {
	*instance
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	chain       []*x509.Certificate
}

// ask is what a certificate is asked for; the zero ask is the workflow's, as
// Fulcio gave it long ago.
type ask struct {
	uri, email, issuer, source, ref string

	from       time.Time // ten minutes of validity
	days       int       // or so many days
	withoutSCT bool
	by         *authority
	usage      x509.ExtKeyUsage
}

func (in *instance) issue(t testing.TB, a ask) *issued {
	t.Helper()
	if a.uri == "" && a.email == "" {
		a.uri = workflow
	}
	if a.issuer == "" {
		a.issuer = actions
	}
	if a.from.IsZero() {
		a.from = longAgo.Add(-time.Minute)
	}
	if a.by == nil {
		a.by = in.intermediate
	}
	if a.usage == 0 {
		a.usage = x509.ExtKeyUsageCodeSigning
	}
	extension := func(last int, value string) pkix.Extension {
		raw, err := asn1.MarshalWithParams(value, "utf8")
		if err != nil {
			t.Fatal(err)
		}
		return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, last}, Value: raw}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: a.from, NotAfter: a.from.Add(10*time.Minute + time.Duration(a.days)*24*time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{a.usage},
	}
	if a.issuer != "none" {
		template.ExtraExtensions = append(template.ExtraExtensions, extension(8, a.issuer))
	}
	if a.source != "" {
		template.ExtraExtensions = append(template.ExtraExtensions, extension(12, a.source), extension(14, a.ref))
	}
	if a.uri != "" {
		parsed, err := url.Parse(a.uri)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = []*url.URL{parsed}
	} else {
		template.EmailAddresses = []string{a.email}
	}
	key := newKey(t)
	certificate := newCertificate(t, template, a.by, key)
	if !a.withoutSCT {
		template.ExtraExtensions = append(template.ExtraExtensions, in.sct(t, certificate, a.by.certificate))
		certificate = newCertificate(t, template, a.by, key)
	}
	return &issued{in, certificate, key, []*x509.Certificate{a.by.certificate, in.root.certificate}}
}

// sct is the extension with which the certificate transparency log signs for a
// certificate that lacks it.
func (in *instance) sct(t testing.TB, before, by *x509.Certificate) pkix.Extension {
	t.Helper()
	must := func(raw []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	public := must(x509.MarshalPKIXPublicKey(in.ct.Public()))
	sct := ct.SignedCertificateTimestamp{
		SCTVersion: ct.V1, LogID: ct.LogID{KeyID: sha256.Sum256(public)}, Timestamp: uint64(before.NotBefore.UnixMilli()),
	}
	input := must(ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: ct.MerkleTreeLeaf{
		Version: ct.V1, LeafType: ct.TimestampedEntryLeafType,
		TimestampedEntry: &ct.TimestampedEntry{
			Timestamp: sct.Timestamp, EntryType: ct.PrecertLogEntryType,
			PrecertEntry: &ct.PreCert{IssuerKeyHash: sha256.Sum256(by.RawSubjectPublicKeyInfo), TBSCertificate: before.RawTBSCertificate},
		},
	}}))
	signed, err := tls.CreateSignature(*in.ct, tls.SHA256, input)
	if err != nil {
		t.Fatal(err)
	}
	sct.Signature = ct.DigitallySigned(signed)
	list := must(tls.Marshal(ctx509.SignedCertificateTimestampList{SCTList: []ctx509.SerializedSCT{{Val: must(tls.Marshal(sct))}}}))
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: must(asn1.Marshal(list))}
}

func (c *issued) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(message)
	sig, err := c.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func (c *issued) pem() string { return inPEM(c.certificate) }

func inPEM(all ...*x509.Certificate) string {
	var text []byte
	for _, c := range all {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return string(text)
}

// proofs is what comes with a signature; the zero proofs are a log entry of
// longAgo.
type proofs struct {
	at      time.Time
	noEntry bool
	stamp   []byte // is over this, the signature when it is empty and not nil
	chain   bool   // the certificates of the authorities too
	log     *instance
}

// entry is what the log says of a message's or an envelope's signature.
func (c *issued) entry(t testing.TB, p proofs, payload, sig []byte, envelope bool) *protorekor.TransparencyLogEntry {
	t.Helper()
	if p.log == nil {
		p.log = c.instance
	}
	if p.at.IsZero() {
		p.at = longAgo
	}
	sum := sha256.Sum256(payload)
	hash := map[string]any{"algorithm": "sha256", "value": hex.EncodeToString(sum[:])}
	kind, spec := "hashedrekord", map[string]any{
		"data":      map[string]any{"hash": hash},
		"signature": map[string]any{"content": sig, "publicKey": map[string]any{"content": []byte(c.pem())}},
	}
	if envelope {
		kind, spec = "dsse", map[string]any{
			"envelopeHash": hash, "payloadHash": hash,
			"signatures": []any{map[string]any{"signature": base64.StdEncoding.EncodeToString(sig), "verifier": []byte(c.pem())}},
		}
	}
	body := asJSON(t, map[string]any{"apiVersion": "0.0.1", "kind": kind, "spec": spec})
	logID, err := p.log.RekorLogID()
	if err != nil {
		t.Fatal(err)
	}
	rawID, err := hex.DecodeString(logID)
	if err != nil {
		t.Fatal(err)
	}
	promise, err := p.log.RekorSignPayload(tlog.RekorPayload{Body: body, IntegratedTime: p.at.Unix(), LogIndex: 7, LogID: logID})
	if err != nil {
		t.Fatal(err)
	}
	proof, err := p.log.GetInclusionProof(body)
	if err != nil {
		t.Fatal(err)
	}
	rootHash, err := hex.DecodeString(*proof.RootHash)
	if err != nil {
		t.Fatal(err)
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex: 7, LogId: &protocommon.LogId{KeyId: rawID}, IntegratedTime: p.at.Unix(),
		KindVersion:       &protorekor.KindVersion{Kind: kind, Version: "0.0.1"},
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: promise},
		InclusionProof:    &protorekor.InclusionProof{RootHash: rootHash, TreeSize: 1, Checkpoint: &protorekor.Checkpoint{Envelope: *proof.Checkpoint}},
		CanonicalizedBody: body,
	}
}

func (c *issued) stampOf(t testing.TB, p proofs, sig []byte) []byte {
	t.Helper()
	if len(p.stamp) > 0 {
		sig = p.stamp
	}
	stamp, err := c.TimestampResponse(sig)
	if err != nil {
		t.Fatal(err)
	}
	return stamp
}

// annotations is what cosign wrote beside a signature before there were bundles.
func (c *issued) annotations(t testing.TB, p proofs, payload, sig []byte, envelope bool) map[string]string {
	t.Helper()
	a := map[string]string{certificateAnnotation: c.pem()}
	if !envelope {
		a[annotation] = base64.StdEncoding.EncodeToString(sig)
	}
	if p.chain {
		a[chainAnnotation] = inPEM(c.chain...)
	}
	if !p.noEntry {
		e := c.entry(t, p, payload, sig, envelope)
		a[entryAnnotation] = string(asJSON(t, map[string]any{
			"SignedEntryTimestamp": e.GetInclusionPromise().GetSignedEntryTimestamp(),
			"Payload": map[string]any{
				"body": e.GetCanonicalizedBody(), "integratedTime": e.GetIntegratedTime(),
				"logIndex": e.GetLogIndex(), "logID": hex.EncodeToString(e.GetLogId().GetKeyId()),
			},
		}))
	}
	if p.stamp != nil {
		a[stampAnnotation] = string(asJSON(t, map[string]any{"SignedRFC3161Timestamp": c.stampOf(t, p, sig)}))
	}
	return a
}

// older is a layer with its annotations.
type older struct {
	mediaType   string
	raw         []byte
	annotations map[string]string
}

// payload is a signature as cosign attached it before there were bundles.
func (c *issued) payload(t testing.TB, raw []byte, p proofs) older {
	t.Helper()
	return older{typeSimple, raw, c.annotations(t, p, raw, c.sign(t, raw), false)}
}

// envelope is an attestation as cosign attached it before there were bundles.
func (c *issued) envelope(t testing.TB, statement string, p proofs) older {
	t.Helper()
	sig := c.sign(t, dsse.PAE("application/vnd.in-toto+json", []byte(statement)))
	raw := asJSON(t, dsse.Envelope{
		PayloadType: "application/vnd.in-toto+json", Payload: base64.StdEncoding.EncodeToString([]byte(statement)),
		Signatures: []dsse.Signature{{KeyID: "", Sig: base64.StdEncoding.EncodeToString(sig)}},
	})
	if p.stamp != nil && string(p.stamp) == "the envelope" {
		p.stamp = raw
	}
	return older{typeEnvelope, raw, c.annotations(t, p, []byte(statement), sig, true)}
}

func (o older) attach(t testing.TB, r *evidencetest.Repository, m *oci.Manifest) {
	t.Helper()
	d := r.PushBlob(t, o.mediaType, o.raw)
	d.Annotations = o.annotations
	if o.mediaType == typeSimple {
		attachSimple(t, r, m, d)
	} else {
		r.PushLayers(t, "", []oci.Descriptor{d}, nil, tag(m, ".att"))
	}
}

// with changes annotations.
func (o older) with(annotations map[string]string) older {
	o.annotations = maps.Clone(o.annotations)
	maps.Copy(o.annotations, annotations)
	return o
}

// bundled is a sigstore bundle.
type bundled []byte

func (b bundled) attach(t testing.TB, r *evidencetest.Repository, m *oci.Manifest) {
	t.Helper()
	attachBundle(t, r, m, b)
}

// attest is a bundle around a statement, over one around the bytes themselves.
func (c *issued) attest(t testing.TB, version, statement string, p proofs) bundled {
	t.Helper()
	sig := c.sign(t, dsse.PAE("application/vnd.in-toto+json", []byte(statement)))
	return c.bundle(t, version, p, []byte(statement), sig, &protobundle.Bundle{Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
		PayloadType: "application/vnd.in-toto+json", Payload: []byte(statement), Signatures: []*protodsse.Signature{{Sig: sig, Keyid: "a hint"}},
	}}})
}

func (c *issued) over(t testing.TB, version string, message []byte, p proofs) bundled {
	t.Helper()
	sig, sum := c.sign(t, message), sha256.Sum256(message)
	return c.bundle(t, version, p, message, sig, &protobundle.Bundle{Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
		MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]}, Signature: sig,
	}}})
}

func (c *issued) bundle(t testing.TB, version string, p proofs, payload, sig []byte, b *protobundle.Bundle) bundled {
	t.Helper()
	b.MediaType = version
	b.VerificationMaterial = &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_Certificate{
		Certificate: &protocommon.X509Certificate{RawBytes: c.certificate.Raw},
	}}
	if version != bundle03 || p.chain {
		list := []*protocommon.X509Certificate{{RawBytes: c.certificate.Raw}}
		if p.chain {
			for _, other := range c.chain {
				list = append(list, &protocommon.X509Certificate{RawBytes: other.Raw})
			}
		}
		b.VerificationMaterial.Content = &protobundle.VerificationMaterial_X509CertificateChain{
			X509CertificateChain: &protocommon.X509CertificateChain{Certificates: list},
		}
	}
	if !p.noEntry {
		e := c.entry(t, p, payload, sig, b.GetDsseEnvelope() != nil)
		if version == bundle01 {
			e.InclusionProof = nil
		}
		b.VerificationMaterial.TlogEntries = []*protorekor.TransparencyLogEntry{e}
	}
	if p.stamp != nil {
		b.VerificationMaterial.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: c.stampOf(t, p, sig)}},
		}
	}
	raw, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// attached is an older layer or a bundle.
type attached interface {
	attach(testing.TB, *evidencetest.Repository, *oci.Manifest)
}

// one attaches a signature to an image, collects, and returns what came of it.
func one(t *testing.T, r *evidencetest.Repository, m *oci.Manifest, a attached, signers ...sigstore.Signer) (evidence.Voucher, time.Time, string) {
	t.Helper()
	a.attach(t, r, m)
	found := collect(t, r, m, signers...)
	if len(found.Problems) != 0 || len(found.Signatures)+len(found.Attestations) != 1 {
		t.Fatalf("got %+v", found)
	}
	by, at, says := evidence.Voucher{}, time.Time{}, ""
	if len(found.Signatures) == 1 {
		s := found.Signatures[0]
		by, at, says = s.By, s.SignedAt, s.Err
	} else {
		by, says = found.Attestations[0].By, found.Attestations[0].Err
	}
	if by.Verified() != (says == "") {
		t.Errorf("verified %v and says %q", by.Verified(), says)
	}
	return by, at, says
}

// theImage is what everything below is attached to; each test case has a
// registry of its own, with the same image in it.
func theImage(t testing.TB) (*evidencetest.Repository, *oci.Manifest) {
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	return r, r.PushImage(t, "the image")
}

var (
	withoutLog = sigstore.KeylessOptions{WithoutLog: true}
	stamped    = []byte{}
)

// TestKeyless verifies each form, long after the certificates expired.
func TestKeyless(t *testing.T) {
	in := newInstance(t)
	_, m := theImage(t)
	payload, about := simple(m.Digest, "example.com/app"), statement(m, provenance)
	now := time.Now()
	long, fresh := in.issue(t, ask{}), in.issue(t, ask{from: now.Add(-time.Minute)})
	strict := sigstore.KeylessOptions{}
	for name, tc := range map[string]struct {
		attached attached
		options  sigstore.KeylessOptions
		at       time.Time // of signatures
	}{
		"a payload with a promise by the log":           {long.payload(t, payload, proofs{}), strict, longAgo},
		"a payload with a chain":                        {long.payload(t, payload, proofs{chain: true}), strict, longAgo},
		"a payload with a time stamp in place of a log": {fresh.payload(t, payload, proofs{noEntry: true, stamp: stamped}), withoutLog, now},
		"a payload with both":                           {fresh.payload(t, payload, proofs{at: now, stamp: stamped}), sigstore.KeylessOptions{Timestamps: 1}, now},
		"an envelope with a promise by the log":         {long.envelope(t, about, proofs{}), strict, longAgo},
		"an envelope with its signature stamped":        {fresh.envelope(t, about, proofs{noEntry: true, stamp: stamped}), withoutLog, now},
		"an envelope, itself stamped":                   {fresh.envelope(t, about, proofs{noEntry: true, stamp: []byte("the envelope")}), withoutLog, now},
		"an envelope in base64 for URLs":                {inURLs(t, long.envelope(t, about, proofs{})), strict, longAgo},
		"a bundle 0.1 with a promise":                   {long.attest(t, bundle01, about, proofs{}), strict, longAgo},
		"a bundle 0.1 with a chain":                     {long.attest(t, bundle01, about, proofs{chain: true}), strict, longAgo},
		"a bundle 0.2 with a proof":                     {long.attest(t, bundle02, about, proofs{}), strict, longAgo},
		"a bundle 0.3 with a proof":                     {long.attest(t, bundle03, about, proofs{}), strict, longAgo},
		"a proof and a time stamp in place of a promise": {bundled(edit(t, fresh.attest(t, bundle03, about, proofs{at: now, stamp: stamped}), func(doc map[string]any) {
			delete(doc["verificationMaterial"].(map[string]any)["tlogEntries"].([]any)[0].(map[string]any), "inclusionPromise")
		})), strict, now},
		"a bundle 0.3 with a time stamp":  {fresh.attest(t, bundle03, about, proofs{noEntry: true, stamp: stamped}), withoutLog, now},
		"a signature statement":           {long.attest(t, bundle03, statement(m, signV1), proofs{}), strict, longAgo},
		"a message 0.1":                   {long.over(t, bundle01, m.Raw, proofs{}), strict, longAgo},
		"a message 0.2":                   {long.over(t, bundle02, m.Raw, proofs{}), strict, longAgo},
		"a message 0.3":                   {long.over(t, bundle03, m.Raw, proofs{}), strict, longAgo},
		"a message 0.3 with a time stamp": {fresh.over(t, bundle03, m.Raw, proofs{noEntry: true, stamp: stamped}), withoutLog, now},
		"a certificate without an SCT":    {in.issue(t, ask{withoutSCT: true}).over(t, bundle03, m.Raw, proofs{}), sigstore.KeylessOptions{WithoutSCT: true}, longAgo},
		"GitHub's own instance": {
			in.issue(t, ask{withoutSCT: true, from: now.Add(-time.Minute)}).attest(t, bundle03, about, proofs{noEntry: true, stamp: stamped}),
			sigstore.KeylessOptions{WithoutSCT: true, WithoutLog: true}, now,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, m := theImage(t)
			by, at, says := one(t, r, m, tc.attached, newP256(t, "ci").signer(t), in.signer(t, "acme", acme, tc.options))
			if want := (evidence.Signer{Name: "acme", Identity: workflow, Issuer: actions}); says != "" || by.Signer() != want {
				t.Errorf("by %+v, says %q", by.Signer(), says)
			}
			if off := at.Sub(tc.at).Abs(); !at.IsZero() && off > time.Minute {
				t.Errorf("signed at %v, want %v", at, tc.at)
			} else if _, isBundle := tc.attached.(bundled); at.IsZero() && !isBundle && strings.HasPrefix(name, "a payload") {
				t.Error("it does not say when it was signed")
			}
		})
	}
}

// inURLs writes the signature in the other alphabet that DSSE allows.
func inURLs(t testing.TB, o older) older {
	t.Helper()
	o.raw = edit(t, o.raw, func(doc map[string]any) {
		sig := doc["signatures"].([]any)[0].(map[string]any)
		sig["sig"] = strings.NewReplacer("+", "-", "/", "_").Replace(sig["sig"].(string))
	})
	return o
}

// TestRekor2 verifies an entry of the second kind of log, which promises
// nothing, so that a time stamp says when.
func TestRekor2(t *testing.T) {
	in := newInstance(t)
	r, m := theImage(t)
	entity, err := in.AttestHashedRekordV2("ci@acme.example", actions, []byte(statement(m, provenance)))
	if err != nil {
		t.Fatal(err)
	}
	content, _ := entity.VerificationContent()
	signature, _ := entity.SignatureContent()
	entries, _ := entity.TlogEntries()
	stamps, _ := entity.Timestamps()
	encode := func(stamps ...[]byte) bundled {
		b := &protobundle.Bundle{
			MediaType: bundle03,
			VerificationMaterial: &protobundle.VerificationMaterial{
				Content:                   &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: content.Certificate().Raw}},
				TlogEntries:               []*protorekor.TransparencyLogEntry{entries[0].TransparencyLogEntry()},
				TimestampVerificationData: &protobundle.TimestampVerificationData{},
			},
			Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
				PayloadType: "application/vnd.in-toto+json", Payload: []byte(statement(m, provenance)),
				Signatures: []*protodsse.Signature{{Sig: signature.Signature()}},
			}},
		}
		for _, s := range stamps {
			b.VerificationMaterial.TimestampVerificationData.Rfc3161Timestamps = append(
				b.VerificationMaterial.TimestampVerificationData.Rfc3161Timestamps, &protocommon.RFC3161SignedTimestamp{SignedTimestamp: s})
		}
		raw, err := protojson.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	// sigstore-go's own authority has no certificate transparency log.
	trustedRoot := in.trustedRoot(t, func(l *trusted) { l.authorities = in.FulcioCertificateAuthorities() })
	signer, err := sigstore.LoadKeyless("acme", trustedRoot, sigstore.Identity{Subject: "*@acme.example", Issuer: actions}, sigstore.KeylessOptions{WithoutSCT: true})
	if err != nil {
		t.Fatal(err)
	}
	if by, _, says := one(t, r, m, encode(stamps[0]), signer); by.Signer().Identity != "ci@acme.example" {
		t.Errorf("by %+v, says %q", by.Signer(), says)
	}
	r, m = theImage(t)
	if by, _, says := one(t, r, m, encode(), signer); by.Verified() || !strings.Contains(says, `nothing that the signer "acme" trusts says when it was signed`) {
		t.Errorf("by %+v, says %q", by.Signer(), says)
	}
}

// TestKeylessRefuses says which check a signature failed.
func TestKeylessRefuses(t *testing.T) {
	in, elsewhere := newInstance(t), newInstance(t)
	r, m := theImage(t)
	other := r.PushImage(t, "another")
	payload, about := simple(m.Digest, "example.com/app"), statement(m, provenance)
	now := time.Now()
	long, fresh := in.issue(t, ask{}), in.issue(t, ask{from: now.Add(-time.Minute)})
	stranger := in.issue(t, ask{uri: "https://github.com/acme-evil/app/.github/workflows/release.yml@refs/tags/v1"})
	good, goodToo := long.payload(t, payload, proofs{}), in.issue(t, ask{}).payload(t, payload, proofs{})
	goodEnvelope, goodBundle := long.envelope(t, about, proofs{}), long.attest(t, bundle03, about, proofs{})
	edited := func(b bundled, change func(map[string]any)) bundled { return edit(t, b, change) }
	material := func(doc map[string]any) map[string]any { return doc["verificationMaterial"].(map[string]any) }
	entry := func(doc map[string]any) map[string]any {
		return material(doc)["tlogEntries"].([]any)[0].(map[string]any)
	}
	twiceSigned := func() older {
		var e dsse.Envelope
		if err := json.Unmarshal(goodEnvelope.raw, &e); err != nil {
			t.Fatal(err)
		}
		e.Signatures[0].Sig = "not base64!"
		return older{typeEnvelope, asJSON(t, e), goodEnvelope.annotations}
	}()

	const by = `made by "`
	const noEntry, noTime = "no transparency log entry", "says when it was signed"
	const otherEntry = "does not hold, or is that of another signature"
	const copied = "it was copied from another one"
	for name, tc := range map[string]struct {
		attached attached
		options  sigstore.KeylessOptions
		says     string
	}{
		"an organisation with a longer name, payload":  {stranger.payload(t, payload, proofs{}), sigstore.KeylessOptions{}, by + "https://github.com/acme-evil/app/"},
		"an organisation with a longer name, envelope": {stranger.envelope(t, about, proofs{}), sigstore.KeylessOptions{}, by + "https://github.com/acme-evil/app/"},
		"an organisation with a longer name, bundle":   {stranger.attest(t, bundle03, about, proofs{}), sigstore.KeylessOptions{}, by + "https://github.com/acme-evil/app/"},
		"an organisation with a longer name, message":  {stranger.over(t, bundle03, m.Raw, proofs{}), sigstore.KeylessOptions{}, by + "https://github.com/acme-evil/app/"},
		"a path that climbs out":                       {in.issue(t, ask{uri: "https://github.com/acme/../evil/x@refs/tags/v1"}).payload(t, payload, proofs{}), sigstore.KeylessOptions{}, by + "https://github.com/acme/../evil/"},
		"an escaped path":                              {in.issue(t, ask{uri: "https://github.com/acme/%2e%2e/evil"}).payload(t, payload, proofs{}), sigstore.KeylessOptions{}, by},
		"a host with a longer name":                    {in.issue(t, ask{uri: "https://github.com.evil.example/acme/app"}).payload(t, payload, proofs{}), sigstore.KeylessOptions{}, by},
		"the pattern in a query":                       {in.issue(t, ask{uri: "https://evil.example/?https://github.com/acme/app"}).payload(t, payload, proofs{}), sigstore.KeylessOptions{}, by},
		"user info":                                    {in.issue(t, ask{uri: "https://github.com@evil.example/acme/app"}).payload(t, payload, proofs{}), sigstore.KeylessOptions{}, by},
		"the subject in an e-mail address":             {in.issue(t, ask{email: "ci@acme.example"}).payload(t, payload, proofs{}), sigstore.KeylessOptions{}, by + "ci@acme.example"},
		"another issuer":                               {in.issue(t, ask{issuer: "https://accounts.example"}).payload(t, payload, proofs{}), sigstore.KeylessOptions{}, `via issuer "https://accounts.example"; trust.signers names acme ("https://github.com/acme/**" via "https://token.actions.githubusercontent.com")`},
		"an issuer with a longer name":                 {in.issue(t, ask{issuer: actions + ".evil.example"}).payload(t, payload, proofs{}), sigstore.KeylessOptions{}, by},
		"no issuer":                                    {in.issue(t, ask{issuer: "none"}).payload(t, payload, proofs{}), sigstore.KeylessOptions{}, by},

		"no log entry, payload":            {long.payload(t, payload, proofs{noEntry: true}), sigstore.KeylessOptions{}, noEntry},
		"no log entry, envelope":           {long.envelope(t, about, proofs{noEntry: true}), sigstore.KeylessOptions{}, noEntry},
		"no log entry, bundle":             {long.attest(t, bundle03, about, proofs{noEntry: true}), sigstore.KeylessOptions{}, noEntry},
		"no log entry but a time stamp":    {fresh.payload(t, payload, proofs{noEntry: true, stamp: stamped}), sigstore.KeylessOptions{}, noEntry},
		"a log entry but no time stamp":    {long.payload(t, payload, proofs{}), sigstore.KeylessOptions{Timestamps: 1}, noTime},
		"an entry where stamps are needed": {long.attest(t, bundle03, about, proofs{}), withoutLog, noTime},
		"a proof without a promise":        {edited(goodBundle, func(doc map[string]any) { delete(entry(doc), "inclusionPromise") }), sigstore.KeylessOptions{}, noTime},
		"a log of another instance":        {long.payload(t, payload, proofs{log: elsewhere}), sigstore.KeylessOptions{}, "does not list"},
		"a log entry of another signature": {good.with(map[string]string{entryAnnotation: goodToo.annotations[entryAnnotation]}), sigstore.KeylessOptions{}, otherEntry},
		"a time in the entry that was changed": {good.with(map[string]string{entryAnnotation: strings.Replace(good.annotations[entryAnnotation],
			fmt.Sprint(longAgo.Unix()), fmt.Sprint(longAgo.Unix()+1), 1)}), sigstore.KeylessOptions{}, otherEntry},
		"a proof that was changed": {edited(goodBundle, func(doc map[string]any) {
			entry(doc)["inclusionProof"].(map[string]any)["rootHash"] = base64.StdEncoding.EncodeToString(make([]byte, 32))
		}), sigstore.KeylessOptions{}, otherEntry},
		"a time stamp of another signature": {fresh.payload(t, payload, proofs{noEntry: true, stamp: []byte("something else")}), withoutLog, noTime},
		"a time stamp by another authority": {older{typeSimple, payload, func() map[string]string {
			a := fresh.payload(t, payload, proofs{noEntry: true, stamp: stamped}).annotations
			theirs := elsewhere.issue(t, ask{}).payload(t, payload, proofs{noEntry: true, stamp: stamped}).annotations
			a[stampAnnotation] = theirs[stampAnnotation]
			return a
		}()}, withoutLog, noTime},

		"a certificate without an SCT, payload":       {in.issue(t, ask{withoutSCT: true}).payload(t, payload, proofs{}), sigstore.KeylessOptions{}, "(SCT)"},
		"a certificate without an SCT, bundle":        {in.issue(t, ask{withoutSCT: true}).attest(t, bundle03, about, proofs{}), sigstore.KeylessOptions{}, "(SCT)"},
		"an SCT of another log":                       {(&instance{in.VirtualSigstore, in.root, in.intermediate, newKey(t)}).issue(t, ask{}).payload(t, payload, proofs{}), sigstore.KeylessOptions{}, "(SCT)"},
		"signed after the certificate expired":        {long.payload(t, payload, proofs{at: longAgo.Add(time.Hour)}), sigstore.KeylessOptions{}, "when its certificate was not valid"},
		"signed before the certificate was valid":     {long.attest(t, bundle03, about, proofs{at: longAgo.Add(-time.Hour)}), sigstore.KeylessOptions{}, "when its certificate was not valid"},
		"stamped after the certificate expired":       {long.payload(t, payload, proofs{noEntry: true, stamp: stamped}), withoutLog, "when its certificate was not valid"},
		"an expired certificate without a time stamp": {long.payload(t, payload, proofs{noEntry: true}), withoutLog, noTime},
		"an authority of another instance":            {(&instance{in.VirtualSigstore, elsewhere.root, elsewhere.intermediate, in.ct}).issue(t, ask{}).payload(t, payload, proofs{chain: true}), sigstore.KeylessOptions{}, "signed by unknown authority"},
		"a certificate for servers":                   {in.issue(t, ask{usage: x509.ExtKeyUsageServerAuth}).payload(t, payload, proofs{}), sigstore.KeylessOptions{}, "incompatible key usage"},

		"another certificate of the same identity": {good.with(map[string]string{certificateAnnotation: goodToo.annotations[certificateAnnotation]}), sigstore.KeylessOptions{}, otherEntry},
		"another certificate and its entry": {good.with(map[string]string{
			certificateAnnotation: goodToo.annotations[certificateAnnotation], entryAnnotation: goodToo.annotations[entryAnnotation],
		}), sigstore.KeylessOptions{}, otherEntry},
		"without a log, another certificate": {fresh.payload(t, payload, proofs{noEntry: true, stamp: stamped}).with(map[string]string{
			certificateAnnotation: in.issue(t, ask{from: now.Add(-time.Minute)}).pem(),
		}), withoutLog, "does not fit what it is attached to"},
		"a payload that was changed":               {older{typeSimple, simple(m.Digest, "example.com/evil"), good.annotations}, sigstore.KeylessOptions{}, otherEntry},
		"without a log, a payload that changed":    {older{typeSimple, simple(m.Digest, "example.com/evil"), fresh.payload(t, payload, proofs{noEntry: true, stamp: stamped}).annotations}, withoutLog, "does not fit what it is attached to"},
		"a payload for another image":              {long.payload(t, simple(other.Digest, "example.com/app"), proofs{}), sigstore.KeylessOptions{}, copied},
		"an envelope about another image":          {long.envelope(t, statement(other, provenance), proofs{}), sigstore.KeylessOptions{}, copied},
		"a bundle about another image":             {long.attest(t, bundle03, statement(other, provenance), proofs{}), sigstore.KeylessOptions{}, copied},
		"a message over another image":             {long.over(t, bundle03, other.Raw, proofs{}), sigstore.KeylessOptions{}, copied},
		"a message that lies about its digest":     {edited(long.over(t, bundle03, other.Raw, proofs{}), lieAbout(m)), sigstore.KeylessOptions{}, otherEntry},
		"an envelope with an unreadable signature": {twiceSigned, sigstore.KeylessOptions{}, "signature 1 is not base64"},

		"no certificate":                  {good.with(map[string]string{certificateAnnotation: ""}), sigstore.KeylessOptions{}, "made by a key that no signer"},
		"a certificate that is none":      {good.with(map[string]string{certificateAnnotation: "hello"}), sigstore.KeylessOptions{}, "not PEM"},
		"a key in place of a certificate": {good.with(map[string]string{certificateAnnotation: string(newP256(t, "x").pem)}), sigstore.KeylessOptions{}, `holds a "PUBLIC KEY"`},
		"a certificate cut short":         {good.with(map[string]string{certificateAnnotation: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: long.certificate.Raw[:99]}))}), sigstore.KeylessOptions{}, "certificate"},
		"two certificates":                {good.with(map[string]string{certificateAnnotation: inPEM(long.certificate, long.certificate)}), sigstore.KeylessOptions{}, "2 certificates, not one"},
		"a chain that is too long":        {good.with(map[string]string{chainAnnotation: strings.Repeat(long.pem(), 9)}), sigstore.KeylessOptions{}, "more than 8 certificates"},
		"a chain of too many bytes":       {good.with(map[string]string{chainAnnotation: strings.Repeat(" ", 65<<10)}), sigstore.KeylessOptions{}, "more than 65536"},
		"an entry that is none":           {good.with(map[string]string{entryAnnotation: "hello"}), sigstore.KeylessOptions{}, "no log entry"},
		"an entry of too many bytes":      {good.with(map[string]string{entryAnnotation: strings.Repeat(" ", 513<<10)}), sigstore.KeylessOptions{}, "more than 524288"},
		"an entry without a promise":      {good.with(map[string]string{entryAnnotation: strings.Replace(good.annotations[entryAnnotation], "SignedEntryTimestamp", "x", 1)}), sigstore.KeylessOptions{}, "inclusion promise"},
		"an entry of an unknown kind":     {good.with(map[string]string{entryAnnotation: `{"SignedEntryTimestamp":"AA==","Payload":{"body":"eyJhcGlWZXJzaW9uIjoiOSIsImtpbmQiOiJ4In0=","integratedTime":1,"logIndex":1,"logID":"00"}}`}), sigstore.KeylessOptions{}, "cannot be verified"},
		"a time stamp that is none":       {good.with(map[string]string{stampAnnotation: "hello"}), sigstore.KeylessOptions{}, "no time stamp"},
		"a time stamp of too many bytes":  {good.with(map[string]string{stampAnnotation: strings.Repeat(" ", 65<<10)}), sigstore.KeylessOptions{}, "more than 65536"},
		"a bundle with an empty chain": {edited(goodBundle, func(doc map[string]any) {
			material(doc)["x509CertificateChain"] = map[string]any{}
			delete(material(doc), "certificate")
		}), sigstore.KeylessOptions{}, "chain is empty"},
		"a bundle with a certificate of air": {edited(goodBundle, func(doc map[string]any) { material(doc)["certificate"] = map[string]any{"rawBytes": "AA=="} }), sigstore.KeylessOptions{}, "cannot be read"},
		"a bundle without a certificate":     {edited(goodBundle, func(doc map[string]any) { material(doc)["certificate"] = map[string]any{} }), sigstore.KeylessOptions{}, "cannot be read"},
		"a bundle whose statement changed": {edited(goodBundle, func(doc map[string]any) {
			doc["dsseEnvelope"].(map[string]any)["payload"] = base64.StdEncoding.EncodeToString([]byte(statement(m, "https://spdx.dev/Document")))
		}), sigstore.KeylessOptions{}, otherEntry},
	} {
		t.Run(name, func(t *testing.T) {
			r, m := theImage(t)
			signer, _, says := one(t, r, m, tc.attached, newP256(t, "ci").signer(t), in.signer(t, "acme", acme, tc.options))
			if signer.Verified() || !strings.Contains(says, tc.says) {
				t.Errorf("by %+v, says %q, want it to say %q", signer.Signer(), says, tc.says)
			}
			if strings.ContainsAny(says, "\n\r\t") {
				t.Errorf("it says more than a line: %q", says)
			}
		})
	}

	t.Run("all signers that were compared are named", func(t *testing.T) {
		r, m := theImage(t)
		_, _, says := one(t, r, m, stranger.payload(t, payload, proofs{}),
			in.signer(t, "acme", acme, sigstore.KeylessOptions{}),
			in.signer(t, "person", sigstore.Identity{Subject: "boss@acme.example", Issuer: "https://accounts.example"}, sigstore.KeylessOptions{}),
			elsewhere.signer(t, "elsewhere", acme, sigstore.KeylessOptions{}))
		if !strings.Contains(says, `acme ("https`) || !strings.Contains(says, `person ("boss@acme.example"`) || strings.Contains(says, "elsewhere") {
			t.Errorf("it says %q", says)
		}
	})
	t.Run("a key that signed what has a certificate too verifies it", func(t *testing.T) {
		r, m := theImage(t)
		ci := newP256(t, "ci")
		signed := good.with(map[string]string{annotation: ci.sign(t, payload)})
		if by, _, says := one(t, r, m, signed, in.signer(t, "acme", acme, sigstore.KeylessOptions{}), ci.signer(t)); by.Signer().Name != "ci" {
			t.Errorf("by %+v, says %q", by.Signer(), says)
		}
	})
}

func lieAbout(m *oci.Manifest) func(map[string]any) {
	sum := sha256.Sum256(m.Raw)
	return func(doc map[string]any) {
		doc["messageSignature"].(map[string]any)["messageDigest"].(map[string]any)["digest"] = base64.StdEncoding.EncodeToString(sum[:])
	}
}

// TestIdentities says which certificates each identity means.
func TestIdentities(t *testing.T) {
	in := newInstance(t)
	reusable := ask{
		uri:    "https://github.com/shared/workflows/.github/workflows/build.yml@refs/tags/v2",
		source: "https://github.com/acme/app", ref: "refs/tags/v1",
	}
	person := ask{email: "alice@acme.example", issuer: "https://accounts.example"}
	for name, tc := range map[string]struct {
		id   sigstore.Identity
		ask  ask
		want bool
	}{
		"a subject written out":                    {sigstore.Identity{Subject: workflow, Issuer: actions}, ask{}, true},
		"one star stays in its segment":            {sigstore.Identity{Subject: "https://github.com/acme/*", Issuer: actions}, ask{}, false},
		"a person":                                 {sigstore.Identity{Subject: "*@acme.example", Issuer: "https://accounts.example"}, person, true},
		"a person of another domain":               {sigstore.Identity{Subject: "*@acme.example", Issuer: "https://accounts.example"}, ask{email: "alice@acme.example.evil", issuer: "https://accounts.example"}, false},
		"a domain within another":                  {sigstore.Identity{Subject: "*@acme.example", Issuer: "https://accounts.example"}, ask{email: "alice@evil.acme.example", issuer: "https://accounts.example"}, false},
		"issuers by a glob":                        {sigstore.Identity{Subject: "**", Issuer: "https://*.actions.githubusercontent.com"}, ask{}, true},
		"an expression for the whole":              {sigstore.Identity{SubjectRegexp: `https://github\.com/acme/.*@refs/tags/v\d+`, IssuerRegexp: `https://token\..*`}, ask{}, true},
		"an expression for a part":                 {sigstore.Identity{SubjectRegexp: `github\.com/acme`, Issuer: actions}, ask{}, false},
		"an expression with alternatives":          {sigstore.Identity{SubjectRegexp: `https://github\.com/x|acme`, Issuer: actions}, ask{}, false},
		"an expression that ends too early":        {sigstore.Identity{SubjectRegexp: `https://github\.com/acme/app`, Issuer: actions}, ask{}, false},
		"an expression over lines":                 {sigstore.Identity{SubjectRegexp: `(?m)^https://github\.com/acme/app$`, Issuer: actions}, ask{}, false},
		"a shared workflow for a repository":       {sigstore.Identity{Subject: "https://github.com/shared/workflows/**", Issuer: actions, SourceRepository: "https://github.com/acme/*"}, reusable, true},
		"a shared workflow for another repository": {sigstore.Identity{Subject: "https://github.com/shared/workflows/**", Issuer: actions, SourceRepository: "https://github.com/widgets/*"}, reusable, false},
		"a shared workflow for a tag":              {sigstore.Identity{Subject: "https://github.com/shared/workflows/**", Issuer: actions, SourceRef: "refs/tags/v*"}, reusable, true},
		"a shared workflow for a branch":           {sigstore.Identity{Subject: "https://github.com/shared/workflows/**", Issuer: actions, SourceRef: "refs/heads/main"}, reusable, false},
		"a certificate that names no repository":   {sigstore.Identity{Subject: "https://github.com/acme/**", Issuer: actions, SourceRepository: "**"}, ask{}, false},
		"the host in another case":                 {sigstore.Identity{Subject: "https://GitHub.com/acme/**", Issuer: actions}, ask{}, true},
		"the organisation in another case":         {sigstore.Identity{Subject: "https://github.com/Acme/**", Issuer: actions}, ask{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r, m := theImage(t)
			by, _, says := one(t, r, m, in.issue(t, tc.ask).over(t, bundle03, m.Raw, proofs{}), in.signer(t, "acme", tc.id, sigstore.KeylessOptions{}))
			if by.Verified() != tc.want || (!tc.want && !strings.Contains(says, "trust.signers names acme")) {
				t.Errorf("verified %v, says %q", by.Verified(), says)
			}
		})
	}
}

// TestCertificate verifies by a private authority.
func TestCertificate(t *testing.T) {
	in := newInstance(t)
	_, m := theImage(t)
	payload, about := simple(m.Digest, "example.com/app"), statement(m, provenance)
	id := sigstore.Identity{Subject: "https://acme.example/release"}
	a := ask{uri: "https://acme.example/release", issuer: "none", withoutSCT: true}
	valid, expired := a, a
	valid.from, valid.days = time.Now().Add(-time.Hour), 1
	expired.from, expired.days = longAgo.Add(-time.Hour), 1
	now, past := in.issue(t, valid), in.issue(t, expired)
	rootOnly, both := []byte(inPEM(in.root.certificate)), []byte(inPEM(in.intermediate.certificate, in.root.certificate))
	subordinate := []byte(inPEM(in.intermediate.certificate))
	logs := in.trustedRoot(t, func(l *trusted) { l.authorities = nil })
	byNow := sigstore.CertificateOptions{}
	byLog, byStamp := sigstore.CertificateOptions{TrustedRoot: logs, Log: true}, sigstore.CertificateOptions{TrustedRoot: logs, Timestamps: 1}
	elsewhere := newInstance(t)
	noEntry := proofs{noEntry: true, chain: true}

	for name, tc := range map[string]struct {
		attached attached
		ca       []byte
		id       sigstore.Identity
		options  sigstore.CertificateOptions
		says     string
	}{
		"a payload with its chain":              {now.payload(t, payload, noEntry), rootOnly, id, byNow, ""},
		"an envelope with its chain":            {now.envelope(t, about, noEntry), rootOnly, id, byNow, ""},
		"a bundle 0.1 with its chain":           {now.attest(t, bundle01, about, noEntry), rootOnly, id, byNow, ""},
		"a bundle 0.3 with its chain":           {now.attest(t, bundle03, about, noEntry), rootOnly, id, byNow, ""},
		"a message with its chain":              {now.over(t, bundle02, m.Raw, noEntry), rootOnly, id, byNow, ""},
		"the chain in the configuration":        {now.payload(t, payload, proofs{noEntry: true}), both, id, byNow, ""},
		"a subordinate authority by itself":     {now.payload(t, payload, proofs{noEntry: true}), subordinate, id, byNow, ""},
		"logged before the certificate expired": {past.payload(t, payload, proofs{chain: true}), rootOnly, id, byLog, ""},
		"logged, in a bundle":                   {past.over(t, bundle03, m.Raw, proofs{chain: true}), rootOnly, id, byLog, ""},
		"stamped":                               {now.payload(t, payload, proofs{noEntry: true, chain: true, stamp: stamped}), rootOnly, id, byStamp, ""},
		"an entry that nobody asked for":        {now.payload(t, payload, proofs{chain: true, log: elsewhere}), rootOnly, id, byNow, ""},

		"an expired certificate without a time":                    {past.payload(t, payload, noEntry), rootOnly, id, byNow, "is not valid now"},
		"an expired certificate, bundle":                           {past.attest(t, bundle03, about, noEntry), rootOnly, id, byNow, "is not valid now"},
		"an expired certificate, logged, though no log is trusted": {past.payload(t, payload, proofs{chain: true}), rootOnly, id, byNow, "is not valid now"},
		"no entry":          {now.payload(t, payload, noEntry), rootOnly, id, byLog, "no transparency log entry"},
		"no time stamp":     {now.payload(t, payload, noEntry), rootOnly, id, byStamp, "says when it was signed"},
		"no chain":          {now.payload(t, payload, proofs{noEntry: true}), rootOnly, id, byNow, "unknown authority"},
		"another authority": {now.payload(t, payload, noEntry), []byte(inPEM(elsewhere.root.certificate)), id, byNow, `which "CN=intermediate,O=acme" issued`},
		"its intermediate beside another authority": {now.payload(t, payload, noEntry), []byte(inPEM(in.intermediate.certificate, elsewhere.root.certificate)), id, byNow, "unknown authority"},
		"another subject":         {now.payload(t, payload, noEntry), rootOnly, sigstore.Identity{Subject: "https://acme.example/rel"}, byNow, `made by "https://acme.example/release"; trust.signers names acme ("https://acme.example/rel")`},
		"an issuer it lacks":      {now.payload(t, payload, noEntry), rootOnly, sigstore.Identity{Subject: "**", Issuer: actions}, byNow, "trust.signers names acme"},
		"a self-made chain":       {elsewhere.issue(t, valid).payload(t, payload, noEntry), rootOnly, id, byNow, "unknown authority"},
		"signed by the authority": {now.payload(t, payload, noEntry).with(map[string]string{certificateAnnotation: inPEM(in.intermediate.certificate)}), rootOnly, id, byNow, "names no subject"},
	} {
		t.Run(name, func(t *testing.T) {
			r, m := theImage(t)
			signer, err := sigstore.LoadCertificate("acme", tc.ca, tc.id, tc.options)
			if err != nil {
				t.Fatal(err)
			}
			by, at, says := one(t, r, m, tc.attached, signer)
			if tc.says != "" {
				if by.Verified() || !strings.Contains(says, tc.says) {
					t.Errorf("by %+v, says %q, want it to say %q", by.Signer(), says, tc.says)
				}
				return
			}
			s := by.Signer()
			if !by.Verified() || s.Name != "acme" || s.Identity != "https://acme.example/release" || s.Issuer != "CN=intermediate,O=acme" || len(s.Fingerprint) != 64 {
				t.Errorf("by %+v, says %q", s, says)
			}
			if proven := tc.options.Log || tc.options.Timestamps > 0; at.IsZero() == proven {
				t.Errorf("signed at %v", at)
			}
		})
	}

	t.Run("a certificate that is judged now vouches until it expires", func(t *testing.T) {
		r, m := theImage(t)
		now.payload(t, payload, noEntry).attach(t, r, m)
		signer, err := sigstore.LoadCertificate("acme", rootOnly, id, byNow)
		if err != nil {
			t.Fatal(err)
		}
		found := collect(t, r, m, signer)
		if len(found.Signatures) != 1 || !found.Signatures[0].ExpiresAt.Equal(now.certificate.NotAfter) {
			t.Errorf("got %+v", found)
		}
	})
}

// TestCosignCertificate verifies what the real cosign made with a certificate of
// a private authority, kept in testdata.
func TestCosignCertificate(t *testing.T) {
	read := func(name string) []byte {
		raw, err := os.ReadFile("testdata/cosign-certificate/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	annotations := func(name string) (a map[string]string) {
		if err := json.Unmarshal(read(name), &a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	m, err := oci.ParseManifest(read("manifest.json"), "", "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := sigstore.LoadCertificate("acme", read("ca.pem"), sigstore.Identity{Subject: "https://acme.example/*"}, sigstore.CertificateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]attached{
		"a signature":                        bundled(read("signature.bundle.json")),
		"an attestation":                     bundled(read("attestation.bundle.json")),
		"a signature in the older layout":    older{typeSimple, read("signature.payload.json"), annotations("signature.annotations.json")},
		"an attestation in the older layout": older{typeEnvelope, read("attestation.dsse.json"), annotations("attestation.annotations.json")},
	} {
		t.Run(name, func(t *testing.T) {
			r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
			if by, _, says := one(t, r, m, a, signer); by.Signer().Identity != "https://acme.example/release" {
				t.Errorf("by %+v, says %q", by.Signer(), says)
			}
		})
	}
}

// TestLoadRefuses says what is wrong with a signer's configuration.
func TestLoadRefuses(t *testing.T) {
	in := newInstance(t)
	whole := in.trustedRoot(t)
	without := func(edit func(*trusted)) []byte { return in.trustedRoot(t, edit) }
	leaf := in.issue(t, ask{})
	keyless := func(raw []byte, id sigstore.Identity, o sigstore.KeylessOptions) func() error {
		return func() error { _, err := sigstore.LoadKeyless("acme", raw, id, o); return err }
	}
	certificate := func(ca string, id sigstore.Identity, o sigstore.CertificateOptions) func() error {
		return func() error { _, err := sigstore.LoadCertificate("acme", []byte(ca), id, o); return err }
	}
	ca := inPEM(in.root.certificate)
	for name, tc := range map[string]struct {
		load func() error
		says string
	}{
		"no subject":                    {keyless(whole, sigstore.Identity{Issuer: actions}, sigstore.KeylessOptions{}), "no subject"},
		"no issuer":                     {keyless(whole, sigstore.Identity{Subject: "**"}, sigstore.KeylessOptions{}), "no issuer"},
		"a subject in two spellings":    {keyless(whole, sigstore.Identity{Subject: "**", SubjectRegexp: ".*", Issuer: actions}, sigstore.KeylessOptions{}), "both a glob and a regular expression"},
		"a glob that is none":           {keyless(whole, sigstore.Identity{Subject: "[", Issuer: actions}, sigstore.KeylessOptions{}), "its subject"},
		"an expression that is none":    {keyless(whole, sigstore.Identity{Subject: "**", IssuerRegexp: "("}, sigstore.KeylessOptions{}), "its issuer"},
		"an expression out of brackets": {keyless(whole, sigstore.Identity{Subject: "**", IssuerRegexp: "a)|(b"}, sigstore.KeylessOptions{}), "its issuer"},
		"an expression too long":        {keyless(whole, sigstore.Identity{Subject: "**", IssuerRegexp: strings.Repeat("a", 5000)}, sigstore.KeylessOptions{}), "longer than 4096"},
		"a trusted root that is none":   {keyless([]byte("hello"), acme, sigstore.KeylessOptions{}), "cosign trusted-root create"},
		"a trusted root too long":       {keyless(bytes.Repeat([]byte(" "), 5<<20), acme, sigstore.KeylessOptions{}), "more than 4194304"},
		"no authority":                  {keyless(without(func(l *trusted) { l.authorities = nil }), acme, sigstore.KeylessOptions{}), "no certificate authority"},
		"no transparency log":           {keyless(without(func(l *trusted) { l.logs = nil }), acme, sigstore.KeylessOptions{}), "no transparency log"},
		"no certificate log":            {keyless(without(func(l *trusted) { l.ct = nil }), acme, sigstore.KeylessOptions{}), "no certificate transparency log"},
		"no time stamp authority":       {keyless(without(func(l *trusted) { l.stamps = nil }), acme, withoutLog), "needs 1 signed time stamps"},
		"too few of them":               {keyless(whole, acme, sigstore.KeylessOptions{Timestamps: 2}), "lists 1 time stamp authorities"},
		"no CA":                         {certificate("", acme, sigstore.CertificateOptions{}), "is empty"},
		"a CA that is none":             {certificate("hello", acme, sigstore.CertificateOptions{}), "not PEM"},
		"a signer's own certificate":    {certificate(leaf.pem(), acme, sigstore.CertificateOptions{}), "not the certificate of an authority"},
		"a CA without a subject":        {certificate(ca, sigstore.Identity{}, sigstore.CertificateOptions{}), "no subject"},
		"a CA with a log of nobody":     {certificate(ca, acme, sigstore.CertificateOptions{Log: true}), "no transparency log"},
		"a CA with stamps of nobody":    {certificate(ca, acme, sigstore.CertificateOptions{Timestamps: 1}), "needs 1 signed time stamps"},
		"a CA with a broken root":       {certificate(ca, acme, sigstore.CertificateOptions{TrustedRoot: []byte("x")}), "trusted root"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tc.load(); err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), `"acme"`) {
				t.Errorf("got %v, want it to say %q", err, tc.says)
			}
		})
	}
}
