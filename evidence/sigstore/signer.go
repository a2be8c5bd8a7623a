package sigstore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/trustgate/trustgate/evidence"
)

const (
	maxKey     = 64 << 10 // bytes of PEM
	minRSABits = 2048     // NIST SP 800-131A
)

// Signer is a party that the configuration names and how its signatures are
// checked. The zero Signer verifies nothing.
type Signer struct{ by verifier }

// verifier checks a signature and answers with the signer only when it holds.
type verifier interface {
	verify(s *signed) (made, error)
}

// made is who made a signature and when, as far as that is proven.
type made struct {
	signer evidence.Signer
	at     time.Time // zero when nobody but the signer says when
	until  time.Time // zero when it holds for good
}

// errNotOurs says that a signature was not made by this signer.
var errNotOurs = errors.New("not made by this signer")

// LoadKey makes a signer of one public key in PEM, as cosign.pub holds it:
// ECDSA on P-256, P-384 or P-521, RSA of 2048 bits or more, or Ed25519.
//
// Who holds the key is trusted for whatever it signs at any time: no
// transparency log and no time stamp is asked for or looked at, and a key is
// taken out of use by taking it out of the configuration.
func LoadKey(name string, raw []byte) (Signer, error) {
	key, err := parseKey(raw)
	if err != nil {
		return Signer{}, fmt.Errorf("reading the public key of the signer %q: %w", name, err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return Signer{}, fmt.Errorf("reading the public key of the signer %q: %w", name, err)
	}
	sum := sha256.Sum256(der)
	k := &publicKey{signer: evidence.Signer{Name: name, Fingerprint: hex.EncodeToString(sum[:])}}
	if k.detached, err = verifiers(key, false); err != nil {
		return Signer{}, fmt.Errorf("reading the public key of the signer %q: %w", name, err)
	}
	if k.overArtifact, err = verifiers(key, true); err != nil {
		return Signer{}, fmt.Errorf("reading the public key of the signer %q: %w", name, err)
	}
	return Signer{by: k}, nil
}

func parseKey(raw []byte) (crypto.PublicKey, error) {
	if len(raw) > maxKey {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(raw), maxKey)
	}
	block, rest := pem.Decode(raw)
	switch {
	case block == nil:
		return nil, errors.New("it is not PEM; a public key starts with -----BEGIN PUBLIC KEY-----")
	case strings.HasSuffix(block.Type, "PRIVATE KEY"):
		return nil, errors.New("it is a private key, which must not be on this machine; 'cosign public-key --key cosign.key' prints the public one")
	case block.Type == "CERTIFICATE":
		return nil, errors.New("it is a certificate; 'openssl x509 -pubkey -noout' prints the key in it")
	case block.Type != "PUBLIC KEY" && block.Type != "RSA PUBLIC KEY":
		return nil, fmt.Errorf("it is a %q, not a public key", block.Type)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("something follows the key; name a signer for each key")
	}
	key, err := cryptoutils.UnmarshalPEMToPublicKey(pem.EncodeToMemory(block))
	if err != nil {
		return nil, err
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, k.Curve) {
			return nil, fmt.Errorf("it is on the curve %s; make one on P-256", k.Curve.Params().Name)
		}
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits {
			return nil, fmt.Errorf("it is an RSA key of %d bits, less than %d; make a new one", bits, minRSABits)
		}
	case ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("it is a %T, which TrustGate does not verify", key)
	}
	return key, nil
}

// publicKey verifies by one key and nothing else.
type publicKey struct {
	signer       evidence.Signer
	detached     anyOf // signatures over envelopes
	overArtifact anyOf // signatures over payloads and manifests
}

func (k *publicKey) verify(s *signed) (made, error) {
	if s.byKey == nil {
		return made{}, errNotOurs
	}
	key := k.detached
	if s.isMessage {
		key = k.overArtifact
	}
	if err := verifyIgnoringTransparencyLog(s.byKey, key, s.artifact()); err != nil {
		return made{}, errNotOurs
	}
	return made{signer: k.signer}, nil
}

// verifyIgnoringTransparencyLog checks a signature by key alone. The key is used
// whatever a bundle's hint says, which nothing protects.
func verifyIgnoringTransparencyLog(e verify.SignedEntity, key signature.Verifier, artifact verify.ArtifactPolicyOption) error {
	always := root.NewExpiringKey(key, time.Time{}, time.Time{})
	material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return always, nil })
	v, err := verify.NewVerifier(material, verify.WithNoObserverTimestamps(), verify.WithoutStatementPredicate())
	if err != nil {
		return err
	}
	_, err = v.Verify(e, verify.NewPolicy(artifact, verify.WithKey()))
	return err
}

// anyOf accepts what one of its verifiers accepts: one key, with each hash that
// cosign has used with such a key.
type anyOf []signature.Verifier

func verifiers(key crypto.PublicKey, overArtifact bool) (anyOf, error) {
	hashes := []crypto.Hash{crypto.SHA256}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P384():
			hashes = []crypto.Hash{crypto.SHA384, crypto.SHA256}
		case elliptic.P521():
			hashes = []crypto.Hash{crypto.SHA512, crypto.SHA256}
		}
	case ed25519.PublicKey:
		pure, err := signature.LoadED25519Verifier(k)
		if err != nil {
			return nil, err
		}
		if !overArtifact {
			return anyOf{pure}, nil
		}
		prehashed, err := signature.LoadED25519phVerifier(k)
		if err != nil {
			return nil, err
		}
		return anyOf{pure, prehashed}, nil
	}
	var all anyOf
	for _, hash := range hashes {
		v, err := signature.LoadVerifier(key, hash)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// PublicKey implements signature.Verifier.
func (a anyOf) PublicKey(opts ...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return a[0].PublicKey(opts...)
}

// VerifySignature implements signature.Verifier.
func (a anyOf) VerifySignature(sig, message io.Reader, opts ...signature.VerifyOption) error {
	sigBytes, err := io.ReadAll(sig)
	if err != nil {
		return err
	}
	messageBytes, err := io.ReadAll(message)
	if err != nil {
		return err
	}
	for _, v := range a {
		if err = v.VerifySignature(bytes.NewReader(sigBytes), bytes.NewReader(messageBytes), opts...); err == nil {
			return nil
		}
	}
	return err
}
