package sigstore

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/trustgate/trustgate/oci"
)

// What cosign writes beside a signature or an envelope.
//
// https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md#properties
const (
	annotationSignature   = "dev.cosignproject.cosign/signature"
	annotationCertificate = "dev.sigstore.cosign/certificate"
	annotationChain       = "dev.sigstore.cosign/chain"
	annotationLogEntry    = "dev.sigstore.cosign/bundle"
	annotationTimestamp   = "dev.sigstore.cosign/rfc3161timestamp"
)

const (
	maxCertificates = 8         // in one chain
	maxChain        = 64 << 10  // bytes of PEM
	maxLogEntry     = 512 << 10 // bytes of JSON
	maxTimestamp    = 64 << 10  // bytes of JSON
)

// signed is one signature in the form in which sigstore-go verifies it, whatever
// form it came in. Nothing in it is true yet.
type signed struct {
	byKey         verify.SignedEntity // nil when it names a certificate instead
	byCertificate verify.SignedEntity // nil when it comes with none
	unreadable    error               // what is wrong with the certificate that it comes with
	artifact      func() verify.ArtifactPolicyOption
	isMessage     bool   // over the artifact's bytes; else over an envelope
	envelope      []byte // the layer around it, which time stamps may be over
}

// certified says whether the signature claims to be made with a certificate.
func (s *signed) certified() bool { return s.byCertificate != nil || s.unreadable != nil }

// ofPayload is a signature over a payload.
func ofPayload(payload, sig []byte, annotations map[string]string) *signed {
	sum := sha256.Sum256(payload)
	s := annotated(&protobundle.Bundle{Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
		MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]},
		Signature:     sig,
	}}}, annotations)
	s.isMessage = true
	s.artifact = func() verify.ArtifactPolicyOption { return verify.WithArtifact(bytes.NewReader(payload)) }
	return s
}

// ofEnvelope is each of an envelope's signatures; raw is the whole layer.
func ofEnvelope(e *dsse.Envelope, payload []byte, d digest.Digest, raw []byte, annotations map[string]string) ([]*signed, error) {
	var all []*signed
	for i, sig := range e.Signatures {
		sigBytes, err := decodeBase64(sig.Sig)
		if err != nil {
			return nil, fmt.Errorf("the envelope's signature %d is not base64: %w", i+1, err)
		}
		s := annotated(&protobundle.Bundle{Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			PayloadType: e.PayloadType, Payload: payload, Signatures: []*protodsse.Signature{{Sig: sigBytes}},
		}}}, annotations)
		s.envelope = raw
		s.artifact = func() verify.ArtifactPolicyOption { return withDigest(d) }
		all = append(all, s)
	}
	return all, nil
}

// decodeBase64 reads both alphabets, as DSSE asks for.
func decodeBase64(s string) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return base64.URLEncoding.DecodeString(s)
	}
	return raw, nil
}

// ofBundle is the signature in a bundle over the manifest or a statement on it.
func ofBundle(b *chained, m *oci.Manifest) *signed {
	s := &signed{isMessage: b.GetDsseEnvelope() == nil}
	if b.GetVerificationMaterial().GetPublicKey() != nil {
		s.byKey = b
	} else {
		s.byCertificate = b
	}
	// What was signed is compared with the manifest here too; the caller's own
	// comparison is what the error messages come from.
	s.artifact = func() verify.ArtifactPolicyOption {
		if s.isMessage {
			return verify.WithArtifact(bytes.NewReader(m.Raw))
		}
		return withDigest(m.Digest)
	}
	return s
}

func withDigest(d digest.Digest) verify.ArtifactPolicyOption {
	sum, err := hex.DecodeString(d.Encoded())
	if err != nil {
		return func(*verify.PolicyConfig) error { return err }
	}
	return verify.WithArtifactDigest(d.Algorithm().String(), sum)
}

// annotated adds what a layer's annotations say of a signature, as a bundle of
// the version whose rules they follow: a promise by the log, and no proof.
func annotated(content *protobundle.Bundle, annotations map[string]string) *signed {
	bundled := func(material *protobundle.VerificationMaterial) (*bundle.Bundle, error) {
		return bundle.NewBundle(&protobundle.Bundle{
			MediaType: mediaTypeBundle + "+json;version=0.1", Content: content.Content, VerificationMaterial: material,
		})
	}
	s := new(signed)
	// A key may have signed what has a certificate too, which then is of no use.
	if b, err := bundled(&protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{
		PublicKey: &protocommon.PublicKeyIdentifier{},
	}}); err == nil {
		s.byKey = &chained{Bundle: b}
	}
	if annotations[annotationCertificate] == "" {
		return s
	}
	material, chain, err := annotatedMaterial(annotations)
	if err != nil {
		s.unreadable = err
		return s
	}
	b, err := bundled(material)
	if err != nil {
		s.unreadable = fmt.Errorf("what its layer's annotations say cannot be verified: %w", err)
		return s
	}
	s.byCertificate = &chained{Bundle: b, beside: chain}
	return s
}

func annotatedMaterial(annotations map[string]string) (*protobundle.VerificationMaterial, []*x509.Certificate, error) {
	leaf, err := parseCertificates(annotations[annotationCertificate])
	if err != nil {
		return nil, nil, fmt.Errorf("the annotation %s: %w", annotationCertificate, err)
	}
	if len(leaf) != 1 {
		return nil, nil, fmt.Errorf("the annotation %s holds %d certificates, not one", annotationCertificate, len(leaf))
	}
	chain, err := parseCertificates(annotations[annotationChain])
	if err != nil {
		return nil, nil, fmt.Errorf("the annotation %s: %w", annotationChain, err)
	}
	material := &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_Certificate{
		Certificate: &protocommon.X509Certificate{RawBytes: leaf[0].Raw},
	}}
	if entry := annotations[annotationLogEntry]; entry != "" && entry != "null" {
		parsed, err := parseLogEntry(entry)
		if err != nil {
			return nil, nil, fmt.Errorf("the annotation %s: %w", annotationLogEntry, err)
		}
		material.TlogEntries = []*protorekor.TransparencyLogEntry{parsed}
	}
	if stamp := annotations[annotationTimestamp]; stamp != "" && stamp != "null" {
		parsed, err := parseTimestamp(stamp)
		if err != nil {
			return nil, nil, fmt.Errorf("the annotation %s: %w", annotationTimestamp, err)
		}
		material.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: parsed}},
		}
	}
	return material, chain, nil
}

// parseCertificates reads certificates in PEM, of which there may be none.
func parseCertificates(text string) ([]*x509.Certificate, error) {
	if len(text) > maxChain {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(text), maxChain)
	}
	var all []*x509.Certificate
	for rest := bytes.TrimSpace([]byte(text)); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		if len(all) == maxCertificates {
			return nil, fmt.Errorf("it has more than %d certificates", maxCertificates)
		}
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("it is not PEM; a certificate starts with -----BEGIN CERTIFICATE-----")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a %.40q, not a certificate", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, certificate)
	}
	return all, nil
}

// parseLogEntry reads Rekor's promise to take an entry up.
//
// https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md#properties
func parseLogEntry(text string) (*protorekor.TransparencyLogEntry, error) {
	if len(text) > maxLogEntry {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(text), maxLogEntry)
	}
	var promise struct {
		SignedEntryTimestamp []byte
		Payload              struct {
			Body           []byte `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		}
	}
	if err := json.Unmarshal([]byte(text), &promise); err != nil {
		return nil, fmt.Errorf("it is no log entry: %w", err)
	}
	logID, err := hex.DecodeString(promise.Payload.LogID)
	if err != nil {
		return nil, fmt.Errorf("its log's ID: %w", err)
	}
	var entry struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(promise.Payload.Body, &entry); err != nil {
		return nil, fmt.Errorf("the log entry's body: %w", err)
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex:          promise.Payload.LogIndex,
		LogId:             &protocommon.LogId{KeyId: logID},
		KindVersion:       &protorekor.KindVersion{Kind: entry.Kind, Version: entry.APIVersion},
		IntegratedTime:    promise.Payload.IntegratedTime,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: promise.SignedEntryTimestamp},
		CanonicalizedBody: promise.Payload.Body,
	}, nil
}

// parseTimestamp reads a time stamp as RFC 3161 has it.
func parseTimestamp(text string) ([]byte, error) {
	if len(text) > maxTimestamp {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(text), maxTimestamp)
	}
	var stamp struct{ SignedRFC3161Timestamp []byte }
	if err := json.Unmarshal([]byte(text), &stamp); err != nil {
		return nil, fmt.Errorf("it is no time stamp: %w", err)
	}
	return stamp.SignedRFC3161Timestamp, nil
}

// chained is a bundle and the certificates that came beside the signer's own.
// They are on no list of anybody's; a chain may lead through them, that is all.
type chained struct {
	*bundle.Bundle
	beside []*x509.Certificate

	content verify.SignatureContent // kept, since each step asks for it and it is long
}

// SignatureContent implements verify.SignatureProvider.
func (c *chained) SignatureContent() (verify.SignatureContent, error) {
	if c.content == nil {
		content, err := c.Bundle.SignatureContent()
		if err != nil {
			return nil, err
		}
		c.content = content
	}
	return c.content, nil
}

// VerificationContent implements verify.VerificationProvider.
func (c *chained) VerificationContent() (verify.VerificationContent, error) {
	content, err := c.Bundle.VerificationContent()
	if err != nil || len(c.beside) == 0 {
		return content, err
	}
	return besides{content, c.beside}, nil
}

type besides struct {
	verify.VerificationContent
	beside []*x509.Certificate
}

// Intermediates implements verify.VerificationContent.
func (b besides) Intermediates() []*x509.Certificate { return b.beside }

// parseBundle reads a bundle of version 0.1 to 0.3.
//
// https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto
func parseBundle(raw []byte) (*chained, error) {
	pb := new(protobundle.Bundle)
	if err := protojson.Unmarshal(raw, pb); err != nil {
		return nil, fmt.Errorf("not a sigstore bundle: %w", err)
	}
	beside, err := separate(pb.GetVerificationMaterial())
	if err != nil {
		return nil, fmt.Errorf("not a sigstore bundle: %w", err)
	}
	b, err := bundle.NewBundle(pb)
	if err != nil {
		return nil, fmt.Errorf("not a sigstore bundle: %w", err)
	}
	// As in an envelope: hints are not to be believed.
	for _, s := range b.GetDsseEnvelope().GetSignatures() {
		if s != nil {
			s.Keyid = ""
		}
	}
	return &chained{Bundle: b, beside: beside}, nil
}

// separate leaves the signer's own certificate in the material and returns the
// rest of the chain, which each version of bundles has other rules for.
func separate(material *protobundle.VerificationMaterial) ([]*x509.Certificate, error) {
	chain, ok := material.GetContent().(*protobundle.VerificationMaterial_X509CertificateChain)
	if !ok {
		return nil, nil
	}
	certificates := chain.X509CertificateChain.GetCertificates()
	switch n := len(certificates); {
	case n == 0:
		return nil, errors.New("its certificate chain is empty")
	case n > maxCertificates:
		return nil, fmt.Errorf("its chain has %d certificates, more than %d", n, maxCertificates)
	}
	var beside []*x509.Certificate
	for _, c := range certificates[1:] {
		certificate, err := x509.ParseCertificate(c.GetRawBytes())
		if err != nil {
			return nil, fmt.Errorf("its certificate chain: %w", err)
		}
		beside = append(beside, certificate)
	}
	material.Content = &protobundle.VerificationMaterial_Certificate{Certificate: certificates[0]}
	return beside, nil
}
