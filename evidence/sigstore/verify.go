package sigstore

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/seal"
	"github.com/trustgate/trustgate/evidence/internal/simplesigning"
	"github.com/trustgate/trustgate/evidence/internal/strictjson"
	"github.com/trustgate/trustgate/oci"
)

const (
	// predicateSignature makes a statement an ordinary signature.
	predicateSignature = "https://sigstore.dev/cosign/sign/v1"

	// maxEnvelopeSignatures bounds the signatures of one envelope.
	maxEnvelopeSignatures = 16
)

var (
	errUnknownKey  = errors.New("made by a key that no signer in trust.signers holds, or changed since it was made")
	errCertificate = errors.New("made with a certificate (keyless), and no signer in trust.signers is a key that made it too")
)

// simpleSigning verifies a payload by the signature in its layer's annotations.
func (c *Collector) simpleSigning(d digest.Digest, payload []byte, annotations map[string]string) evidence.Signature {
	s := evidence.Signature{Kind: evidence.KindCosign}
	by, err := c.verifySimpleSigning(&s, d, payload, annotations)
	return concluded(s, by, err)
}

// concluded puts down who made the signature, or why nobody is known to have.
func concluded(s evidence.Signature, by made, err error) evidence.Signature {
	if err != nil {
		s.Err = err.Error()
		return s
	}
	s.By = evidence.Vouch(seal.Key{}, by.signer)
	s.SignedAt, s.ExpiresAt = by.at, by.until
	return s
}

func (c *Collector) verifySimpleSigning(s *evidence.Signature, d digest.Digest, raw []byte, annotations map[string]string) (made, error) {
	payload, err := simplesigning.Parse(raw, simplesigning.TypeCosign)
	if err != nil {
		return made{}, err
	}
	s.Reference, s.Binds = payload.Reference, binds(payload.Reference)
	sig, err := base64.StdEncoding.DecodeString(annotations[annotationSignature])
	if err != nil {
		return made{}, fmt.Errorf("its signature is not base64: %w", err)
	}
	if len(sig) == 0 {
		return made{}, errors.New("its layer carries no signature")
	}
	if payload.Digest != d {
		return made{}, notFor(payload.Digest)
	}
	return c.anySigner(ofPayload(raw, sig, annotations))
}

func notFor(d digest.Digest) error {
	return fmt.Errorf("it is for %s, not for this image; it was copied from another one", d)
}

// binds says how much of a name the signer committed to. cosign writes the
// repository unless it is told otherwise; a tag is written on purpose.
func binds(reference string) evidence.Binding {
	if reference == "" {
		return evidence.BindsDigest
	}
	if named, err := oci.ParseReference(reference); err == nil && named.Tag() != "" {
		return evidence.BindsTag
	}
	// One that cannot be read names a repository that nobody pulls.
	return evidence.BindsRepository
}

// attestation verifies a DSSE envelope.
func (c *Collector) attestation(d digest.Digest, raw []byte, annotations map[string]string) evidence.Attestation {
	var a evidence.Attestation
	by, err := c.verifyEnvelope(&a, d, raw, annotations)
	if err != nil {
		a.Err = err.Error()
		return a
	}
	a.By = evidence.Vouch(seal.Key{}, by.signer)
	return a
}

func (c *Collector) verifyEnvelope(a *evidence.Attestation, d digest.Digest, raw []byte, annotations map[string]string) (made, error) {
	envelope, err := parseEnvelope(raw)
	if err != nil {
		return made{}, err
	}
	payload, err := envelope.DecodeB64Payload()
	if err != nil {
		return made{}, fmt.Errorf("the envelope's payload: %w", err)
	}
	if _, err := claims(a, envelope.PayloadType, payload, d); err != nil {
		return made{}, err
	}
	all, err := ofEnvelope(envelope, payload, d, raw, annotations)
	if err != nil {
		return made{}, err
	}
	return c.anySigner(all...)
}

// parseEnvelope reads a DSSE envelope.
//
// https://github.com/secure-systems-lab/dsse/blob/v1.0.2/envelope.md
func parseEnvelope(raw []byte) (*dsse.Envelope, error) {
	members, err := strictjson.Object(raw)
	if err != nil {
		return nil, fmt.Errorf("not a DSSE envelope: %w", err)
	}
	var e dsse.Envelope
	for key, into := range map[string]any{"payloadType": &e.PayloadType, "payload": &e.Payload, "signatures": &e.Signatures} {
		raw, ok := members[key]
		if !ok {
			return nil, fmt.Errorf("not a DSSE envelope: the member %q is missing", key)
		}
		if err := json.Unmarshal(raw, into); err != nil {
			return nil, fmt.Errorf("not a DSSE envelope: %s: %w", key, err)
		}
	}
	switch n := len(e.Signatures); {
	case n == 0:
		return nil, errors.New("the envelope is not signed")
	case n > maxEnvelopeSignatures:
		return nil, fmt.Errorf("the envelope has %d signatures, more than %d", n, maxEnvelopeSignatures)
	}
	// A key's ID is a hint that nothing protects; each key is tried.
	for i := range e.Signatures {
		e.Signatures[i].KeyID = ""
	}
	return &e, nil
}

// claims puts down what a statement about d says, before anybody has vouched
// for it.
func claims(a *evidence.Attestation, payloadType string, payload []byte, d digest.Digest) (*evidence.Statement, error) {
	if payloadType != mediaTypeStatement {
		return nil, fmt.Errorf("the envelope holds a %.80q, not an in-toto statement", payloadType)
	}
	statement, err := evidence.ParseStatement(payload)
	if err != nil {
		return nil, err
	}
	a.PredicateType = statement.PredicateType
	if !statement.Covers(d) {
		return nil, notAbout(statement)
	}
	a.Subject, a.Predicate = d, statement.Predicate
	return statement, nil
}

func notAbout(statement *evidence.Statement) error {
	for _, subject := range statement.Subjects {
		if d, err := oci.ParseDigest("sha256:" + subject.Digests["sha256"]); err == nil {
			return notFor(d)
		}
	}
	return errors.New("it names no digest of this image")
}

// bundled verifies a sigstore bundle, which is a signature or an attestation.
func (c *Collector) bundled(m *oci.Manifest, raw []byte) (*evidence.Signature, *evidence.Attestation) {
	s := &evidence.Signature{Kind: evidence.KindSigstore}
	b, err := parseBundle(raw)
	if err != nil {
		s.Err = err.Error()
		return s, nil
	}
	envelope := b.GetDsseEnvelope()
	if envelope == nil {
		by, err := c.verifyMessage(b, m)
		*s = concluded(*s, by, err)
		return s, nil
	}
	var a evidence.Attestation
	by, statement, err := c.verifyBundle(&a, b, envelope, m)
	if a.PredicateType == predicateSignature {
		*s = concluded(*s, by, err)
		if s.Reference = namedBy(statement, m.Digest); s.Reference != "" {
			s.Binds = binds(s.Reference)
		}
		return s, nil
	}
	if err != nil {
		a.Err = err.Error()
	} else {
		a.By = evidence.Vouch(seal.Key{}, by.signer)
	}
	return nil, &a
}

// verifyMessage checks a signature over the manifest's own bytes.
func (c *Collector) verifyMessage(b *chained, m *oci.Manifest) (made, error) {
	hash := b.GetMessageSignature().GetMessageDigest()
	if a := m.Digest.Algorithm(); hash.GetAlgorithm() == protoHashes[a] {
		if signed := digest.NewDigestFromBytes(a, hash.GetDigest()); signed != m.Digest {
			return made{}, notFor(signed)
		}
	}
	return c.anySigner(ofBundle(b, m))
}

var protoHashes = map[digest.Algorithm]protocommon.HashAlgorithm{
	digest.SHA256: protocommon.HashAlgorithm_SHA2_256,
	digest.SHA512: protocommon.HashAlgorithm_SHA2_512,
}

func (c *Collector) verifyBundle(a *evidence.Attestation, b *chained, envelope *protodsse.Envelope, m *oci.Manifest) (made, *evidence.Statement, error) {
	if n := len(envelope.GetSignatures()); n != 1 {
		return made{}, nil, fmt.Errorf("the bundle's envelope has %d signatures, not one", n)
	}
	statement, err := claims(a, envelope.GetPayloadType(), envelope.GetPayload(), m.Digest)
	if err != nil {
		return made{}, nil, err
	}
	by, err := c.anySigner(ofBundle(b, m))
	return by, statement, err
}

// namedBy is the image that the statement names beside d, when the name says
// which registry it is in: a subject's name is free text otherwise.
func namedBy(statement *evidence.Statement, d digest.Digest) string {
	if statement == nil {
		return ""
	}
	for _, subject := range statement.Subjects {
		only := evidence.Statement{Subjects: []evidence.StatementSubject{subject}}
		if !only.Covers(d) {
			continue
		}
		if named, err := oci.ParseReference(subject.Name); err == nil && len(subject.Name) >= len(named.Name()) {
			return subject.Name
		}
	}
	return ""
}

// anySigner finds a signer who made one of the signatures. When none did, the
// check that got furthest says the most about why.
func (c *Collector) anySigner(all ...*signed) (made, error) {
	certified := false
	var why refusals
	for _, s := range all {
		certified = certified || s.certified()
		for _, signer := range c.signers {
			if signer.by == nil {
				continue
			}
			by, err := signer.by.verify(s)
			if err == nil {
				return by, nil
			}
			why.add(err)
		}
	}
	switch {
	case why.furthest != nil:
		return made{}, why.reason()
	case certified:
		return made{}, errCertificate
	}
	return made{}, errUnknownKey
}
