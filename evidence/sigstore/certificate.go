package sigstore

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/trustgate/trustgate/evidence"
)

const maxTrustedRoot = 4 << 20 // bytes of JSON

// KeylessOptions says which proofs a keyless signature does not need. The zero
// value asks for what sigstore's public instance gives: a certificate that a
// certificate transparency log has signed for, and an entry in a transparency
// log, with the time from the log's promise or from a signed time stamp.
type KeylessOptions struct {
	WithoutSCT bool // the certificate authority has no certificate transparency log
	WithoutLog bool // there is no transparency log: signed time stamps say when
	Timestamps int  // signed time stamps (RFC 3161) needed from different authorities; with WithoutLog at least one
}

// LoadKeyless makes a signer of an identity that certificate authorities vouch
// for. trustedRoot is the JSON that lists them, their logs and their time stamp
// authorities, as `cosign trusted-root create` writes it.
//
// The certificate is valid for minutes, so whether it was is judged by the time
// at which a log or a time stamp authority saw the signature.
//
// https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_trustroot.proto
func LoadKeyless(name string, trustedRoot []byte, id Identity, o KeylessOptions) (Signer, error) {
	c, err := loadKeyless(name, trustedRoot, id, o)
	if err != nil {
		return Signer{}, fmt.Errorf("reading the keyless signer %q: %w", name, err)
	}
	return Signer{by: c}, nil
}

func loadKeyless(name string, trustedRoot []byte, id Identity, o KeylessOptions) (*certificates, error) {
	who, err := id.compile(true)
	if err != nil {
		return nil, err
	}
	material, err := parseTrustedRoot(trustedRoot)
	if err != nil {
		return nil, err
	}
	if len(material.FulcioCertificateAuthorities()) == 0 {
		return nil, errors.New("its trusted root lists no certificate authority; make one with 'cosign trusted-root create --fulcio ...'")
	}
	n := needs{sct: !o.WithoutSCT, log: !o.WithoutLog, timestamps: o.Timestamps}
	if o.WithoutLog {
		n.timestamps = max(n.timestamps, 1)
	}
	return newCertificates(name, who, material, n)
}

// CertificateOptions says which proofs of the time a signature must come with.
// With none, a certificate counts as long as it is valid, and what was signed
// with it stops to verify when it expires.
type CertificateOptions struct {
	TrustedRoot []byte // JSON that lists the transparency logs and the time stamp authorities; its certificate authorities are not used
	Log         bool   // an entry in a transparency log is needed
	Timestamps  int    // signed time stamps (RFC 3161) needed from different authorities
}

// LoadCertificate makes a signer of an identity in certificates for code signing
// that a private authority issued. In ca, PEM, the self-signed certificates are
// what is trusted and the others complete chains; when none is self-signed, each
// is trusted by itself.
func LoadCertificate(name string, ca []byte, id Identity, o CertificateOptions) (Signer, error) {
	c, err := loadCertificate(name, ca, id, o)
	if err != nil {
		return Signer{}, fmt.Errorf("reading the certificate signer %q: %w", name, err)
	}
	return Signer{by: c}, nil
}

func loadCertificate(name string, ca []byte, id Identity, o CertificateOptions) (*certificates, error) {
	who, err := id.compile(false)
	if err != nil {
		return nil, err
	}
	authorities, err := parseAuthorities(ca)
	if err != nil {
		return nil, fmt.Errorf("its certificate authority: %w", err)
	}
	material := ownAuthorities{TrustedMaterial: &root.BaseTrustedMaterial{}, authorities: authorities}
	if len(o.TrustedRoot) > 0 {
		if material.TrustedMaterial, err = parseTrustedRoot(o.TrustedRoot); err != nil {
			return nil, err
		}
	}
	c, err := newCertificates(name, who, material, needs{log: o.Log, timestamps: o.Timestamps})
	if err != nil {
		return nil, err
	}
	c.longLived = true
	return c, nil
}

// ownAuthorities are private certificate authorities beside the logs and time
// stamp authorities of a trusted root.
type ownAuthorities struct {
	root.TrustedMaterial
	authorities []root.CertificateAuthority
}

// FulcioCertificateAuthorities implements root.TrustedMaterial.
func (o ownAuthorities) FulcioCertificateAuthorities() []root.CertificateAuthority {
	return o.authorities
}

func parseAuthorities(raw []byte) ([]root.CertificateAuthority, error) {
	all, err := parseCertificates(string(raw))
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("it is empty; a certificate starts with -----BEGIN CERTIFICATE-----")
	}
	var anchors, others []*x509.Certificate
	for _, c := range all {
		switch {
		case !c.IsCA:
			return nil, fmt.Errorf("%q is not the certificate of an authority; the signer's own comes with each signature", c.Subject)
		case bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignatureFrom(c) == nil:
			anchors = append(anchors, c)
		default:
			others = append(others, c)
		}
	}
	if len(anchors) == 0 {
		anchors, others = others, nil
	}
	var authorities []root.CertificateAuthority
	for _, anchor := range anchors {
		authorities = append(authorities, &root.FulcioCertificateAuthority{Root: anchor, Intermediates: others})
	}
	return authorities, nil
}

func parseTrustedRoot(raw []byte) (*root.TrustedRoot, error) {
	if len(raw) > maxTrustedRoot {
		return nil, fmt.Errorf("its trusted root has %d bytes, more than %d", len(raw), maxTrustedRoot)
	}
	parsed, err := root.NewTrustedRootFromJSON(raw)
	if err != nil {
		return nil, fmt.Errorf("its trusted root, which should be JSON such as 'cosign trusted-root create' writes: %w", err)
	}
	return parsed, nil
}

// needs is what a signature must come with.
type needs struct {
	sct, log   bool
	timestamps int
}

// certificates verifies by certificates of one identity.
type certificates struct {
	name      string
	who       identity
	material  root.TrustedMaterial
	needs     needs
	options   []verify.VerifierOption
	now       bool // nothing else says when
	longLived bool // the certificate's key is worth naming
}

func newCertificates(name string, who identity, material root.TrustedMaterial, n needs) (*certificates, error) {
	c := &certificates{name: name, who: who, material: material, needs: n}
	c.options = []verify.VerifierOption{verify.WithoutStatementPredicate()}
	if n.sct {
		if len(material.CTLogs()) == 0 {
			return nil, errors.New("its trusted root lists no certificate transparency log; add it, or say that there is none")
		}
		c.options = append(c.options, verify.WithSignedCertificateTimestamps(1))
	}
	if n.log {
		if len(material.RekorLogs()) == 0 {
			return nil, errors.New("its trusted root lists no transparency log; add it, or ask for signed time stamps instead")
		}
		c.options = append(c.options, verify.WithTransparencyLog(1))
	}
	if authorities := len(material.TimestampingAuthorities()); n.timestamps > authorities {
		return nil, fmt.Errorf("it needs %d signed time stamps, and its trusted root lists %d time stamp authorities", n.timestamps, authorities)
	}
	switch {
	case n.timestamps > 0:
		c.options = append(c.options, verify.WithSignedTimestamps(n.timestamps))
	case n.log:
		c.options = append(c.options, verify.WithObserverTimestamps(1))
	default:
		c.now = true
		c.options = append(c.options, verify.WithCurrentTime())
	}
	return c, nil
}

func (c *certificates) verify(s *signed) (made, error) {
	if s.byCertificate == nil {
		if s.unreadable != nil {
			return made{}, &refusal{at: reading, err: s.unreadable}
		}
		return made{}, errNotOurs
	}
	material := c.material
	if s.envelope != nil {
		material = stampedEnvelopes{material, s.envelope}
	}
	v, err := verify.NewVerifier(material, c.options...)
	if err != nil {
		return made{}, err
	}
	// sigstore-go knows no globs, so that whose certificate it is gets checked
	// below, once all else holds.
	result, err := v.Verify(s.byCertificate, verify.NewPolicy(s.artifact(), verify.WithoutIdentitiesUnsafe()))
	if err != nil {
		return made{}, c.why(v, material, s.byCertificate, err)
	}
	if result.Signature == nil || result.Signature.Certificate == nil {
		return made{}, errNotOurs
	}
	summary := *result.Signature.Certificate
	if !c.who.matches(summary) {
		return made{}, &refusal{at: identified, by: described(summary), wants: fmt.Sprintf("%s (%s)", c.name, c.who.text)}
	}
	by := made{signer: evidence.Signer{Name: c.name, Identity: summary.SubjectAlternativeName, Issuer: summary.Issuer}}
	content, err := s.byCertificate.VerificationContent()
	if err != nil {
		return made{}, err
	}
	leaf := content.Certificate()
	if c.longLived {
		sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
		by.signer.Fingerprint = hex.EncodeToString(sum[:])
		if by.signer.Issuer == "" {
			by.signer.Issuer = summary.CertificateIssuer
		}
	}
	if c.now {
		by.until = leaf.NotAfter
		return by, nil
	}
	for _, stamp := range result.VerifiedTimestamps {
		if by.at.IsZero() || stamp.Timestamp.Before(by.at) {
			by.at = stamp.Timestamp.UTC()
		}
	}
	return by, nil
}

// stampedEnvelopes lets a time stamp be over a whole envelope beside its
// signature: cosign has asked for both.
type stampedEnvelopes struct {
	root.TrustedMaterial
	envelope []byte
}

// TimestampingAuthorities implements root.TrustedMaterial.
func (m stampedEnvelopes) TimestampingAuthorities() []root.TimestampingAuthority {
	var all []root.TimestampingAuthority
	for _, authority := range m.TrustedMaterial.TimestampingAuthorities() {
		all = append(all, stampedEnvelope{authority, m.envelope})
	}
	return all
}

type stampedEnvelope struct {
	root.TimestampingAuthority
	envelope []byte
}

// Verify implements root.TimestampingAuthority.
func (a stampedEnvelope) Verify(stamp, sig []byte) (*root.Timestamp, error) {
	at, err := a.TimestampingAuthority.Verify(stamp, sig)
	if err == nil {
		return at, nil
	}
	if at, overEnvelope := a.TimestampingAuthority.Verify(stamp, a.envelope); overEnvelope == nil {
		return at, nil
	}
	return nil, err
}

// The checks, in the order in which sigstore-go makes them.
const (
	reading = iota + 1
	logged
	timed
	chainedUp
	transparent
	matching
	identified
)

// refusal is the check that a signature failed.
type refusal struct {
	at  int
	err error

	by, wants string // when it is by somebody else
}

func (r *refusal) Error() string {
	if r.at == identified {
		return fmt.Sprintf("made by %s; trust.signers names %s", r.by, r.wants)
	}
	return r.err.Error()
}

// refusals keeps the one that got furthest, and everybody whom a signature by
// somebody else was compared with.
type refusals struct {
	furthest *refusal
	wants    []string
}

func (r *refusals) add(err error) {
	var next *refusal
	if !errors.As(err, &next) {
		return
	}
	if next.wants != "" && !slices.Contains(r.wants, next.wants) {
		r.wants = append(r.wants, next.wants)
	}
	if r.furthest == nil || next.at > r.furthest.at {
		r.furthest = next
	}
}

func (r *refusals) reason() error {
	if r.furthest.at != identified {
		return r.furthest
	}
	return &refusal{at: identified, by: r.furthest.by, wants: strings.Join(r.wants, ", ")}
}

// why takes the steps of a verification that failed one by one, since
// sigstore-go's own answer does not tell them apart.
func (c *certificates) why(v *verify.Verifier, material root.TrustedMaterial, e verify.SignedEntity, failed error) error {
	refuse := func(at int, format string, a ...any) error {
		return &refusal{at: at, err: fmt.Errorf(format, a...)}
	}
	content, err := e.VerificationContent()
	if err != nil {
		return refuse(reading, "its certificate cannot be read: %w", brief(err))
	}
	leaf := content.Certificate()
	if leaf == nil {
		return errNotOurs
	}
	entries, err := e.TlogEntries()
	if err != nil {
		return refuse(reading, "its transparency log entry cannot be read: %w", brief(err))
	}
	times, err := v.VerifyTransparencyLogInclusion(e)
	if err != nil {
		switch at := outside(entries, content); {
		case len(entries) == 0:
			return refuse(logged, "it comes with no transparency log entry, which the signer %q asks for; sign again with the log, or ask for a signed time stamp instead", c.name)
		case !slices.ContainsFunc(entries, func(e *tlog.Entry) bool { return material.RekorLogs()[hex.EncodeToString([]byte(e.LogKeyID()))] != nil }):
			return refuse(logged, "its entry is in a transparency log that the trusted root of the signer %q does not list; refresh the trusted root if it should", c.name)
		case !at.IsZero():
			return refuse(logged, "its transparency log entry is of %s, when its certificate was not valid (%s)", at.UTC().Format(time.RFC3339), validity(leaf))
		}
		return refuse(logged, "its transparency log entry does not hold, or is that of another signature: %w", brief(err))
	}
	stamps, err := v.VerifyObserverTimestamps(e, times)
	if err != nil {
		cause := errors.New("it comes with no signed time stamp")
		if all, _ := e.Timestamps(); len(all) > 0 {
			cause = brief(err)
		}
		return refuse(timed, "nothing that the signer %q trusts says when it was signed, and its certificate was valid for a time only (%s): %w", c.name, validity(leaf), cause)
	}
	if _, err := certificate.SummarizeCertificate(leaf); err != nil {
		return refuse(chainedUp, "its certificate names no subject by URI or e-mail address: %w", brief(err))
	}
	var chains [][]*x509.Certificate
	for _, stamp := range stamps {
		switch valid := content.ValidAtTime(stamp.Timestamp, nil); {
		case !valid && c.now:
			return refuse(chainedUp, "its certificate is not valid now (%s), and the signer %q trusts nothing that says when it was signed; sign again, or name a log or time stamp authority", validity(leaf), c.name)
		case !valid:
			return refuse(chainedUp, "it was signed at %s, when its certificate was not valid (%s)", stamp.Timestamp.UTC().Format(time.RFC3339), validity(leaf))
		}
		if chains, err = chainsOf(leaf, content.Intermediates(), material, stamp.Timestamp); err != nil {
			return refuse(chainedUp, "its certificate, which %.200q issued, leads to no certificate authority of the signer %q: %w", leaf.Issuer, c.name, brief(err))
		}
	}
	if c.needs.sct {
		if err := verify.VerifySignedCertificateTimestamp(chains, 1, material); err != nil {
			return refuse(transparent, "no certificate transparency log that the trusted root of the signer %q lists has signed for its certificate (SCT): %w", c.name, brief(err))
		}
	}
	return refuse(matching, "the signature does not fit what it is attached to, which was changed since it was made: %w", brief(failed))
}

// outside is a time at which a log says that it saw the signature, and at which
// the certificate was not valid.
func outside(entries []*tlog.Entry, content verify.VerificationContent) time.Time {
	for _, e := range entries {
		if at := e.IntegratedTime(); !at.IsZero() && !content.ValidAtTime(at, nil) {
			return at
		}
	}
	return time.Time{}
}

func validity(c *x509.Certificate) string {
	return fmt.Sprintf("%s to %s", c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
}

// chainsOf repeats what sigstore-go does, which keeps the cause to itself.
func chainsOf(leaf *x509.Certificate, beside []*x509.Certificate, material root.TrustedMaterial, at time.Time) ([][]*x509.Certificate, error) {
	// crypto/x509 does not know names of other kinds, which sigstore-go reads.
	known := *leaf
	known.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(leaf.UnhandledCriticalExtensions), func(id asn1.ObjectIdentifier) bool {
		return id.Equal(cryptoutils.SANOID)
	})
	cause := errors.New("there is none")
	for _, authority := range material.FulcioCertificateAuthorities() {
		if own, ok := authority.(*root.FulcioCertificateAuthority); ok {
			with := *own
			with.Intermediates = slices.Concat(own.Intermediates, beside)
			authority = &with
		}
		chains, err := authority.Verify(&known, at)
		if err == nil {
			return chains, nil
		}
		// Of several, the authority that knows the issuer says more.
		var unknown x509.UnknownAuthorityError
		if !errors.As(cause, new(x509.CertificateInvalidError)) || !errors.As(err, &unknown) {
			cause = err
		}
	}
	return nil, cause
}

// brief makes one short line of what a library says, some of which dump hashes.
func brief(err error) error {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "..."
	}
	return errors.New(text)
}
