package notation

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/tspclient-go"
	gocose "github.com/veraison/go-cose"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/strictjson"
	"github.com/trustgate/trustgate/oci"
)

const (
	// maxEnvelope bounds an envelope, in bytes. One with four certificates of
	// 4096 bits and a time stamp has some 20 kB.
	maxEnvelope = 128 << 10

	// maxChain bounds the certificates of an envelope and of a time stamp, and
	// maxRSABits each of their keys: whoever can push can make TrustGate check
	// that many signatures before it knows whose they are.
	maxChain   = 8
	maxRSABits = 8192

	// clockSkew is how far ahead of TrustGate's clock a signer's may be: an
	// image is pulled in the second in which a pipeline signed it.
	clockSkew = 5 * time.Minute
)

// envelope is a signature that fits the certificates that it carries. Whose
// they are is not known yet.
type envelope struct {
	mediaType string
	raw       []byte
	info      *signature.SignerInfo
	target    oci.Descriptor
}

// open reads an envelope and checks its signature by its own certificates.
//
// https://github.com/notaryproject/specifications/blob/v1.1.0/specs/signature-envelope-jws.md
// https://github.com/notaryproject/specifications/blob/v1.1.0/specs/signature-envelope-cose.md
func open(mediaType string, raw []byte) (*envelope, error) {
	if len(raw) > maxEnvelope {
		return nil, fmt.Errorf("it has %d bytes, more than a notation signature may have (%d)", len(raw), maxEnvelope)
	}
	carried := coseChain
	if mediaType == jws.MediaTypeEnvelope {
		carried = jwsChain
	}
	chain, err := carried(raw)
	if err != nil {
		return nil, fmt.Errorf("not a notation signature: %w", err)
	}
	if err := bounded(chain); err != nil {
		return nil, err
	}
	parsed, err := signature.ParseEnvelope(mediaType, raw)
	if err != nil {
		return nil, fmt.Errorf("not a notation signature: %w", err)
	}
	content, err := parsed.Verify()
	var broken *signature.SignatureIntegrityError
	switch {
	case errors.As(err, &broken):
		return nil, errors.New("the signature does not fit its certificate and what it covers; one of them was changed")
	case err != nil:
		return nil, fmt.Errorf("not a valid notation signature: %w", err)
	}
	target, err := parsePayload(content.Payload)
	if err != nil {
		return nil, fmt.Errorf("not a notation signature of an image: %w", err)
	}
	return &envelope{mediaType: mediaType, raw: raw, info: &content.SignerInfo, target: target}, nil
}

// jwsChain counts and reads the certificates of a JWS envelope before anything
// is computed with them.
func jwsChain(raw []byte) ([]*x509.Certificate, error) {
	members, err := strictjson.Object(raw)
	if err != nil {
		return nil, err
	}
	for _, key := range []string{"payload", "protected", "header", "signature"} {
		if _, ok := members[key]; !ok {
			return nil, fmt.Errorf("the member %q is missing", key)
		}
	}
	header, err := strictjson.Object(members["header"])
	if err != nil {
		return nil, fmt.Errorf("the header: %w", err)
	}
	var encoded []string
	if x5c, ok := header["x5c"]; ok {
		if err := json.Unmarshal(x5c, &encoded); err != nil {
			return nil, fmt.Errorf("the certificate chain (x5c): %w", err)
		}
	}
	return parseChain(len(encoded), func(i int) ([]byte, error) { return base64.StdEncoding.DecodeString(encoded[i]) })
}

// coseChain is jwsChain for a COSE envelope.
func coseChain(raw []byte) ([]*x509.Certificate, error) {
	var message gocose.Sign1Message
	if err := message.UnmarshalCBOR(raw); err != nil {
		return nil, err
	}
	encoded, _ := message.Headers.Unprotected[gocose.HeaderLabelX5Chain].([]any)
	return parseChain(len(encoded), func(i int) ([]byte, error) {
		der, ok := encoded[i].([]byte)
		if !ok {
			return nil, errors.New("not a byte string")
		}
		return der, nil
	})
}

func parseChain(n int, der func(int) ([]byte, error)) ([]*x509.Certificate, error) {
	switch {
	case n == 0:
		return nil, errors.New("it carries no certificate chain")
	case n > maxChain:
		return nil, fmt.Errorf("its certificate chain has %d certificates, more than %d", n, maxChain)
	}
	chain := make([]*x509.Certificate, n)
	for i := range chain {
		raw, err := der(i)
		if err == nil {
			chain[i], err = x509.ParseCertificate(raw)
		}
		if err != nil {
			return nil, fmt.Errorf("certificate number %d: %w", i+1, err)
		}
	}
	return chain, nil
}

// bounded refuses keys that take long to check with.
func bounded(chain []*x509.Certificate) error {
	for _, cert := range chain {
		if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
			return fmt.Errorf("the certificate %s has an RSA key of %d bits, more than %d", subject(cert), key.N.BitLen(), maxRSABits)
		}
	}
	return nil
}

// parsePayload reads the descriptor that was signed.
func parsePayload(payload signature.Payload) (oci.Descriptor, error) {
	var target oci.Descriptor
	members, err := strictjson.Object(payload.Content)
	if err != nil {
		return target, err
	}
	if members, err = strictjson.Object(members["targetArtifact"]); err != nil {
		return target, fmt.Errorf("its targetArtifact: %w", err)
	}
	for key, into := range map[string]any{"mediaType": &target.MediaType, "digest": &target.Digest, "size": &target.Size} {
		if err := json.Unmarshal(members[key], into); err != nil {
			return target, fmt.Errorf("its targetArtifact.%s: %w", key, err)
		}
	}
	_, err = oci.ParseDigest(target.Digest.String())
	return target, err
}

func (e *envelope) chain() []*x509.Certificate { return e.info.CertificateChain }

func (e *envelope) signedAt() time.Time { return e.info.SignedAttributes.SigningTime.UTC() }

// expiresAt is zero for a signature that does not expire.
func (e *envelope) expiresAt() time.Time { return e.info.SignedAttributes.Expiry.UTC() }

// check refuses what no signer can make good.
func (e *envelope) check(m *oci.Manifest, now time.Time) error {
	switch {
	case e.target.Digest != m.Digest:
		return fmt.Errorf("it is for %s, not for this image; it was copied from another one", e.target.Digest)
	case e.target.Size != int64(len(m.Raw)) || e.target.MediaType != m.MediaType:
		return fmt.Errorf("it is for a %.120q of %d bytes, and this is a %q of %d", e.target.MediaType, e.target.Size, m.MediaType, len(m.Raw))
	}
	if err := e.critical(); err != nil {
		return err
	}
	if scheme := e.info.SignedAttributes.SigningScheme; scheme != signature.SigningSchemeX509 {
		// Under the other scheme the signer's word for the time counts, which
		// is for CAs that were trusted with that.
		return fmt.Errorf("its signing scheme is %q, and TrustGate verifies %q alone", scheme, signature.SigningSchemeX509)
	}
	switch leaf, at := e.chain()[0], e.signedAt(); {
	case at.After(now.Add(clockSkew)):
		return fmt.Errorf("it was made at %s, which is in the future; compare the clocks of the signer and of TrustGate", at.Format(time.RFC3339))
	case at.Before(leaf.NotBefore):
		return fmt.Errorf("it says it was made at %s, and its certificate is valid from %s; sign the image again", at.Format(time.RFC3339), leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// critical refuses the attributes that a verifier must understand: notation-go
// leaves those to the plugin that there is not.
//
// https://github.com/notaryproject/specifications/blob/v1.1.0/specs/signature-specification.md#extended-attributes
func (e *envelope) critical() error {
	if plugin, err := e.info.ExtendedAttribute(verifier.HeaderVerificationPlugin); err == nil {
		return fmt.Errorf("it asks to be verified by the plugin %s, and TrustGate runs no plugins; sign the image with a key that needs none", clip(plugin.Value))
	}
	var names []string
	for _, a := range e.info.SignedAttributes.ExtendedAttributes {
		if a.Critical {
			names = append(names, clip(a.Key))
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("it has the critical attribute %s, which TrustGate does not know", slices.Min(names))
	}
	return nil
}

// clip quotes foreign text and keeps it short.
func clip(v any) string { return fmt.Sprintf("%.120q", fmt.Sprint(v)) }

// subject names a certificate.
func subject(cert *x509.Certificate) string { return clip(cert.Subject) }

// signer is who made e, once it is known that the signer of that name did.
func (e *envelope) signer(name string) evidence.Signer {
	leaf := e.chain()[0]
	sum := sha256.Sum256(leaf.Raw)
	return evidence.Signer{Name: name, Fingerprint: hex.EncodeToString(sum[:]), Identity: leaf.Subject.String(), Issuer: leaf.Issuer.String()}
}

func (e *envelope) unknown() error {
	chain := e.chain()
	return fmt.Errorf("made with the certificate %s under the CA %s, which no notation signer in trust.signers names", subject(chain[0]), subject(chain[len(chain)-1]))
}

// stampedAt reads the time in e's time stamp, which nobody has verified yet,
// and bounds what verifying it will cost.
//
// https://www.rfc-editor.org/rfc/rfc3161#section-2.4.2
func (e *envelope) stampedAt() (time.Time, error) {
	raw := e.info.UnsignedAttributes.TimestampSignature
	if len(raw) == 0 {
		return time.Time{}, errors.New("it has no time stamp, and the signer's TSA is named; sign the image again with 'notation sign --timestamp-url'")
	}
	token, err := tspclient.ParseSignedToken(raw)
	if err != nil {
		return time.Time{}, fmt.Errorf("its time stamp cannot be read: %w", err)
	}
	if signers, certs := len(token.SignerInfos), len(token.Certificates); signers != 1 || certs > maxChain {
		return time.Time{}, fmt.Errorf("its time stamp has %d signatures and %d certificates; it may have 1 and %d", signers, certs, maxChain)
	}
	if err := bounded(token.Certificates); err != nil {
		return time.Time{}, fmt.Errorf("its time stamp: %w", err)
	}
	info, err := token.Info()
	if err != nil {
		return time.Time{}, fmt.Errorf("its time stamp cannot be read: %w", err)
	}
	stamp, err := info.Validate(e.info.Signature)
	if err != nil {
		return time.Time{}, fmt.Errorf("its time stamp is not for this signature: %w", err)
	}
	return stamp.Value.UTC(), nil
}
