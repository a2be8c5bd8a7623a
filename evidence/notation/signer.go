package notation

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"

	"github.com/trustgate/trustgate/oci"
)

const (
	maxPEM     = 1 << 20 // bytes of certificates
	maxRoots   = 64
	minRSABits = 2048 // NIST SP 800-131A

	anyIdentity = "*"
	byName      = "x509.subject:"
)

// Options says whose signatures count.
type Options struct {
	// CA holds the certificates, in PEM, under which the signer's are. Each is
	// a certificate authority or a self-signed signing certificate.
	CA []byte

	// Identities names the signer's certificates as notation's trust policy
	// does: "x509.subject: C=US, ST=WA, O=acme.example", with at least those
	// three. A certificate whose subject has all parts of one of them is the
	// signer's. The single entry "*" stands for everybody under CA; leaving
	// the list empty does not.
	Identities []string

	// TSA holds the roots, in PEM, of the time stamping authorities that the
	// signer uses (RFC 3161). With it each signature must carry a time stamp
	// under one of them, and stays good when its certificate expires, for the
	// time stamp says that it was made before. Without it a signature counts as
	// long as its certificates do, and time stamps are not looked at.
	TSA []byte

	// Revocation is one of the constants below; the empty string is
	// RevocationSoftFail.
	Revocation string

	// HTTP reaches the OCSP responders and CRLs that the certificates under CA
	// and TSA name. Nothing else is fetched, and without it nothing at all.
	HTTP *http.Client
}

// What becomes of a signature when its certificates may have been revoked.
//
// They are notation's levels strict and strict with revocation skipped, and one
// in between. Its levels permissive and audit are not among them: they accept
// certificates that are known to be revoked.
const (
	// RevocationSoftFail refuses what is known to be revoked, and what a
	// responder says it never heard of. When none can be reached, or there is
	// no client to reach it with, the signature counts: so it works on a
	// network of its own, and somebody who can cut TrustGate off from the
	// responders can keep a revoked certificate in use.
	RevocationSoftFail = "soft-fail"

	// RevocationEnforce refuses besides what could not be asked about. That is
	// a temporary problem and asked again. Certificates that name neither a
	// responder nor a list cannot be revoked and count.
	RevocationEnforce = "enforce"

	// RevocationSkip asks nobody.
	RevocationSkip = "skip"
)

// Signer is a party that the configuration names and how its signatures are
// checked. The zero Signer verifies nothing.
type Signer struct{ by *authority }

// LoadSigner makes a signer. It refuses what it cannot use rather than skip it.
func LoadSigner(name string, o Options) (Signer, error) {
	a, err := newAuthority(name, o)
	if err != nil {
		return Signer{}, fmt.Errorf("reading the notation signer %q: %w", name, err)
	}
	return Signer{by: a}, nil
}

// authority is the trust store and the trust policy of one signer.
type authority struct {
	name       string
	roots      []*x509.Certificate
	tsa        []*x509.Certificate
	policy     *trustpolicy.Document
	revocation *revocations
}

var _ truststore.X509TrustStore = (*authority)(nil)

func newAuthority(name string, o Options) (*authority, error) {
	a := &authority{name: name}
	var err error
	if a.roots, err = parseRoots(o.CA); err != nil {
		return nil, fmt.Errorf("its CA: %w", err)
	}
	stores := []string{string(truststore.TypeCA) + ":ca"}
	if len(o.TSA) > 0 {
		if a.tsa, err = parseRoots(o.TSA); err != nil {
			return nil, fmt.Errorf("its TSA: %w", err)
		}
		for _, cert := range a.tsa {
			if cert.CheckSignatureFrom(cert) != nil || !bytes.Equal(cert.RawSubject, cert.RawIssuer) {
				return nil, fmt.Errorf("its TSA: the certificate %s is not a root; name the root that it is under", subject(cert))
			}
		}
		stores = append(stores, string(truststore.TypeTSA)+":tsa")
	}
	if err := checkIdentities(o.Identities); err != nil {
		return nil, err
	}
	if a.revocation, err = newRevocations(o.Revocation, o.HTTP); err != nil {
		return nil, err
	}
	a.policy = &trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{
		Name:              name,
		RegistryScopes:    []string{"*"},
		TrustStores:       stores,
		TrustedIdentities: slices.Clone(o.Identities),
		// Revocation is as strict as the answers that it is given; see inquiry.
		SignatureVerification: trustpolicy.SignatureVerification{
			VerificationLevel: trustpolicy.LevelStrict.Name,
			VerifyTimestamp:   trustpolicy.OptionAlways,
		},
	}}}
	// It reads the distinguished names.
	return a, a.policy.Validate()
}

// parseRoots reads certificates that can be trusted in.
func parseRoots(raw []byte) ([]*x509.Certificate, error) {
	if len(raw) > maxPEM {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(raw), maxPEM)
	}
	var roots []*x509.Certificate
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil, errors.New("it holds a private key, which must not be on this machine; leave the certificates alone in it")
		case block.Type != "CERTIFICATE":
			return nil, fmt.Errorf("it holds a %.80q, not a certificate", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate number %d: %w", len(roots)+1, err)
		}
		if err := checkRoot(cert); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(roots, cert.Equal) {
			return nil, fmt.Errorf("the certificate %s is in it twice; remove one", subject(cert))
		}
		if roots = append(roots, cert); len(roots) > maxRoots {
			return nil, fmt.Errorf("it has more than %d certificates", maxRoots)
		}
	}
	switch n := bytes.Count(raw, []byte("-----BEGIN ")); {
	case n > len(roots):
		// The decoder looks for the next block that is whole.
		return nil, fmt.Errorf("it has %d PEM blocks, and %d of them can be read; copy it again", n, len(roots))
	case n == 0 && len(bytes.TrimSpace(raw)) > 0:
		return nil, errors.New("it is not PEM; a certificate starts with -----BEGIN CERTIFICATE-----, and 'openssl x509 -inform der' makes one of DER")
	}
	if len(roots) == 0 {
		return nil, errors.New("it is empty; it takes the certificates in PEM")
	}
	return roots, nil
}

func checkRoot(cert *x509.Certificate) error {
	if err := truststore.ValidateCertificates([]*x509.Certificate{cert}); err != nil {
		return fmt.Errorf("the certificate %s is neither a CA nor self-signed; name the CA that it is under", subject(cert))
	}
	if key, ok := cert.PublicKey.(*rsa.PublicKey); ok && (key.N.BitLen() < minRSABits || key.N.BitLen() > maxRSABits) {
		return fmt.Errorf("the certificate %s has an RSA key of %d bits; it must have %d to %d", subject(cert), key.N.BitLen(), minRSABits, maxRSABits)
	}
	return nil
}

// checkIdentities refuses what notation would leave to a plugin or read
// otherwise than it looks.
func checkIdentities(identities []string) error {
	if len(identities) == 0 {
		return fmt.Errorf("it names no identities; write the subjects that sign, such as %q, or %q for every certificate under its CA", byName+" C=US, ST=WA, O=acme.example", anyIdentity)
	}
	for _, identity := range identities {
		if identity != anyIdentity && !strings.HasPrefix(identity, byName) {
			return fmt.Errorf("its identity %.200q is not one that TrustGate knows; one starts with %q, or is %q", identity, byName, anyIdentity)
		}
	}
	return nil
}

// GetCertificates implements truststore.X509TrustStore.
func (a *authority) GetCertificates(_ context.Context, store truststore.Type, _ string) ([]*x509.Certificate, error) {
	switch store {
	case truststore.TypeCA:
		return a.roots, nil
	case truststore.TypeTSA:
		return a.tsa, nil
	}
	return nil, fmt.Errorf("there is no trust store %q", store)
}

// anchors says whether the chain is under a's CA. Each link of it holds.
func (a *authority) anchors(chain []*x509.Certificate) bool {
	return slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return slices.ContainsFunc(a.roots, c.Equal) })
}

// verify has notation decide and says when the signature was made.
func (a *authority) verify(ctx context.Context, e *envelope, m *oci.Manifest, now time.Time) (time.Time, error) {
	signedAt := e.signedAt()
	if len(a.tsa) > 0 {
		var err error
		if signedAt, err = e.stampedAt(); err != nil {
			return time.Time{}, err
		}
	}
	asked := &inquiry{revocations: a.revocation}
	v, err := verifier.NewWithOptions(a.policy, a, nil, verifier.VerifierOptions{
		RevocationCodeSigningValidator:  asked.of(a.revocation.signing),
		RevocationTimestampingValidator: asked.of(a.revocation.stamping),
	})
	if err != nil {
		return time.Time{}, err
	}
	outcome, err := v.Verify(ctx, m.Descriptor(), e.raw, notation.VerifierVerifyOptions{
		// The policy holds for every repository, and not all names that can be
		// pulled are ones that it can read.
		ArtifactReference:  "registry.invalid/any@" + m.Digest.String(),
		SignatureMediaType: e.mediaType,
	})
	if err != nil {
		return time.Time{}, a.because(e, outcome, asked, err, now)
	}
	return signedAt, nil
}

// because puts notation's no into words.
func (a *authority) because(e *envelope, outcome *notation.VerificationOutcome, asked *inquiry, err error, now time.Time) error {
	if asked.refused != nil {
		return asked.refused
	}
	if outcome == nil {
		return err
	}
	leaf := e.chain()[0]
	for _, r := range outcome.VerificationResults {
		switch {
		case r.Error == nil:
		case r.Type == trustpolicy.TypeAuthenticity:
			hint := ""
			if n := leaf.Subject; len(n.Country) == 0 || len(n.Province) == 0 || len(n.Organization) == 0 {
				hint = "; notation compares only subjects with C, ST and O"
			}
			return fmt.Errorf("its certificate %s is none of the signer's identities%s", subject(leaf), hint)
		case r.Type == trustpolicy.TypeExpiry:
			return fmt.Errorf("it expired at %s; sign the image again", e.expiresAt().Format(time.RFC3339))
		case r.Type == trustpolicy.TypeAuthenticTimestamp:
			if len(a.tsa) > 0 {
				return fmt.Errorf("its time stamp does not count: %w", r.Error)
			}
			return outdated(e.chain(), now, r.Error)
		default:
			return r.Error
		}
	}
	return err
}

// outdated says which certificate is not valid now.
func outdated(chain []*x509.Certificate, now time.Time, err error) error {
	for _, cert := range chain {
		switch {
		case now.After(cert.NotAfter):
			return fmt.Errorf("the certificate %s expired on %s; sign the image again, or with a time stamp and name its TSA in the configuration", subject(cert), cert.NotAfter.UTC().Format(time.DateOnly))
		case now.Before(cert.NotBefore):
			return fmt.Errorf("the certificate %s is valid from %s; compare the clocks of its CA and of TrustGate", subject(cert), cert.NotBefore.UTC().Format(time.RFC3339))
		}
	}
	return err
}
