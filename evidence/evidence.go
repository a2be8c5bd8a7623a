// Package evidence gathers what can be known about one digest: signatures,
// attestations and what they say about build, source and parents.
//
// It reports facts and never decides. What an image or its registry says of
// itself is a claim; it becomes verified only when a verifier below this
// package checks it against a key that the configuration names, and the two
// are different types: a Voucher cannot be made outside evidence/.
//
// Evidence that could not be fetched is a Problem, never an absence.
package evidence

import (
	"context"
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence/internal/seal"
	"github.com/trustgate/trustgate/oci"
)

// Source reads from the one repository that the subject lives in. Every
// method answers with an error that matches oci.ErrNotFound when the registry
// says that there is no such thing, and with any other error when it could not
// say.
type Source interface {
	// Manifest fetches by digest and has checked the bytes against it.
	Manifest(ctx context.Context, d digest.Digest) (*oci.Manifest, error)
	// Tagged fetches whatever the tag names now.
	Tagged(ctx context.Context, tag string) (*oci.Manifest, error)
	// Referrers lists the manifests whose subject is d; an empty list is no error.
	Referrers(ctx context.Context, d digest.Digest) ([]oci.Descriptor, error)
	// Blob fetches at most limit bytes and has checked them against d.
	Blob(ctx context.Context, d oci.Descriptor, limit int64) ([]byte, error)
}

// Limits bounds what strangers can make TrustGate read about one digest. Gather
// puts DefaultLimits in place of what is zero; a collector called by itself
// takes zero as nothing at all.
type Limits struct {
	Attestation int64 // bytes of one signature, envelope or bundle
	Signatures  int   // items that one collector looks at per digest
	Referrers   int   // referrers looked at per digest
}

// DefaultLimits is generous to every image that is signed by people.
var DefaultLimits = Limits{Attestation: 16 << 20, Signatures: 64, Referrers: 256}

func (l Limits) orDefault() Limits {
	if l.Attestation <= 0 {
		l.Attestation = DefaultLimits.Attestation
	}
	if l.Signatures <= 0 {
		l.Signatures = DefaultLimits.Signatures
	}
	if l.Referrers <= 0 {
		l.Referrers = DefaultLimits.Referrers
	}
	return l
}

// Subject is the manifest that evidence is gathered about.
type Subject struct {
	Repository oci.Reference // without tag or digest
	Manifest   *oci.Manifest
	Index      *oci.Manifest // the index that lists Manifest, when one is known
	Source     Source
	Limits     Limits
}

// Collector finds one kind of evidence. Partial results are returned together
// with a Problem for each part that could not be had.
type Collector interface {
	Name() string
	Collect(ctx context.Context, subject Subject) Findings
}

// Findings is what collectors found.
type Findings struct {
	Signatures   []Signature
	Attestations []Attestation
	Problems     []Problem
}

// Problem is evidence that could not be had. It is not the same as evidence
// that is absent, nor as evidence that is there and does not verify.
type Problem struct {
	Collector string
	Message   string
	Temporary bool // asking again may help
}

// Signer is a party that the configuration names.
type Signer struct {
	Name        string // as in trust.signers
	Fingerprint string // of the key that was used; for OpenPGP, of its primary key
	Identity    string // keyless: the certificate's subject
	Issuer      string // keyless: who vouched for the identity
}

// Voucher says that the cryptography holds and which signer made it. The zero
// Voucher vouches for nothing.
type Voucher struct {
	signer   Signer
	verified bool
}

// Vouch makes a Voucher; only a verifier has the key.
func Vouch(_ seal.Key, signer Signer) Voucher { return Voucher{signer: signer, verified: true} }

// Verified says whether there is a signer.
func (v Voucher) Verified() bool { return v.verified }

// Signer is who vouches; the zero Signer when nobody does.
func (v Voucher) Signer() Signer { return v.signer }

// Binding is how much of a reference a signature names.
type Binding int

const (
	BindsDigest     Binding = iota // nothing but the digest
	BindsRepository                // registry and repository
	BindsTag                       // registry, repository and tag
)

// The kinds of signature.
const (
	KindOpenPGP  = "openpgp"
	KindCosign   = "cosign"
	KindSigstore = "sigstore"
	KindNotation = "notation"
)

// Signature is one signature over the subject's digest, verified or not.
type Signature struct {
	Kind      string
	By        Voucher
	Binds     Binding
	Reference string // as the signature names it; foreign text
	SignedAt  time.Time
	ExpiresAt time.Time
	Location  string // where it was found: a referrer, a tag, a lookaside URL
	Inherited bool   // it covers the index that lists the subject
	Err       string // why it is not verified
}

// Attestation is one statement about the subject's digest, verified or not.
type Attestation struct {
	PredicateType string
	By            Voucher
	Subject       digest.Digest // as the statement names it
	Predicate     json.RawMessage
	Location      string
	InIndex       digest.Digest // the index whose attestation manifest carries it, or ""
	Inherited     bool
	Err           string // why it is not verified, or not even read
}

// Matches says whether the name in the signature fits the reference that was
// pulled, or nil when it names nothing.
//
// A signature that names a tag follows containers/image's
// matchRepoDigestOrExact: a pull by tag needs that very tag, a pull by digest
// the repository. One that names a repository needs the repository.
//
// https://github.com/containers/image/blob/main/docs/containers-policy.json.5.md
func (s Signature) Matches(pulled oci.Reference) *bool {
	if s.Binds == BindsDigest {
		return nil
	}
	matches := false
	if named, err := oci.ParseReference(s.Reference); err == nil && named.Name() == pulled.Name() {
		switch {
		case s.Binds == BindsRepository:
			matches = true
		case pulled.Tag() == "":
			matches = true
		default:
			matches = named.Tag() == pulled.Tag() && (named.Digest() == "" || named.Digest() == pulled.Digest())
		}
	}
	return &matches
}
