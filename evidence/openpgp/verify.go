package openpgp

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"time"

	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/seal"
	"github.com/trustgate/trustgate/evidence/internal/simplesigning"
)

// minRSABits is what NIST SP 800-131A has asked for since 2014.
const minRSABits = 2048

// strongHashes may be signed with.
var strongHashes = []crypto.Hash{
	crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA3_256, crypto.SHA3_512,
}

// Verify reads one signature and says who made it, or in Err why nobody whom
// the configuration names did. It is verified when one of the signers' keys
// made it, that key may sign and is neither expired nor revoked now, the
// signature itself stands now, and it is over d. Whether its reference is the
// one that was pulled is for Signature.Matches.
//
// A key counts as it stands now, not as it stood when the signature was made:
// the time in a signature is the signer's word, and whoever stole a key can
// write any. So what a key signed stops counting when the key expires, and
// counts again when its owner extends it.
func Verify(raw []byte, d digest.Digest, signers []Signer, now time.Time) evidence.Signature {
	s := evidence.Signature{Kind: evidence.KindOpenPGP, Binds: evidence.BindsTag}
	by, err := verify(&s, raw, d, signers, now)
	if err != nil {
		s.Err = err.Error()
		return s
	}
	s.By = evidence.Vouch(seal.Key{}, by)
	return s
}

// verify fills in what the signature claims of itself as far as it gets.
func verify(s *evidence.Signature, raw []byte, d digest.Digest, signers []Signer, now time.Time) (evidence.Signer, error) {
	m, err := openMessage(raw)
	if err != nil {
		return evidence.Signer{}, err
	}
	s.SignedAt, s.ExpiresAt = m.lifetime()
	payload, err := simplesigning.Parse(m.body, simplesigning.TypeAtomic)
	if err != nil {
		return evidence.Signer{}, err
	}
	s.Reference = payload.Reference

	by, err := m.madeBy(signers, now)
	if err != nil {
		return evidence.Signer{}, err
	}
	if err := m.stands(now); err != nil {
		return evidence.Signer{}, err
	}
	if payload.Digest != d {
		return evidence.Signer{}, fmt.Errorf("it is for %s, not for this image; it was copied from another one", payload.Digest)
	}
	return by, nil
}

// lifetime is when the signature was made and when it expires by its own
// account; the zero time is never.
func (m *message) lifetime() (madeAt, expiresAt time.Time) {
	madeAt = m.signature.CreationTime.UTC()
	if seconds := m.signature.SigLifetimeSecs; seconds != nil && *seconds != 0 {
		expiresAt = madeAt.Add(time.Duration(*seconds) * time.Second)
	}
	return madeAt, expiresAt
}

// stands says whether the signature counts now, whoever made it.
func (m *message) stands(now time.Time) error {
	madeAt, expiresAt := m.lifetime()
	switch {
	case madeAt.After(now):
		return fmt.Errorf("it was made at %s, which is in the future; compare the clocks of the signer and of TrustGate", madeAt.Format(time.RFC3339))
	case !expiresAt.IsZero() && now.After(expiresAt):
		return fmt.Errorf("it expired at %s; sign again", expiresAt.Format(time.RFC3339))
	}
	return nil
}

// madeBy finds the key that made the signature among those of the signers.
func (m *message) madeBy(signers []Signer, now time.Time) (evidence.Signer, error) {
	id := *m.signature.IssuerKeyId
	var refused error
	for _, signer := range signers {
		for _, k := range signer.keys {
			if !slices.Contains(k.ids, id) {
				continue
			}
			err := m.checkedWith(k, id, now)
			if err == nil {
				return evidence.Signer{Name: signer.Name, Fingerprint: k.fingerprint}, nil
			}
			if refused == nil {
				refused = fmt.Errorf("made with the key %s of the signer %q: %w", k.fingerprint, signer.Name, err)
			}
		}
	}
	if refused != nil {
		return evidence.Signer{}, refused
	}
	name := fmt.Sprintf("%016X", id)
	if f := m.signature.IssuerFingerprint; len(f) > 0 {
		name = fmt.Sprintf("%X", f)
	}
	return evidence.Signer{}, fmt.Errorf("made with the key %s, which no signer in trust.signers holds", name)
}

// checkedWith verifies the signature with the key of that id in k.
func (m *message) checkedWith(k key, id uint64, now time.Time) error {
	entity, err := k.entity()
	if err != nil {
		return err
	}
	public, err := signingKey(entity, id, now)
	if err != nil {
		return err
	}
	if !slices.Contains(strongHashes, m.signature.Hash) {
		return fmt.Errorf("the hash %s is not one to sign with", m.signature.Hash)
	}
	if m.signature.CreationTime.Before(public.CreationTime) {
		return errors.New("the signature is older than the key")
	}
	hash, err := m.signature.PrepareVerify()
	if err != nil {
		return err
	}
	hash.Write(m.body)
	if err := public.VerifySignature(hash, m.signature); err != nil {
		return errors.New("the signature does not fit the key and the signed document; one of them was changed")
	}
	return nil
}

// signingKey returns the key of that id, if it may sign now.
func signingKey(entity *openpgp.Entity, id uint64, now time.Time) (*packet.PublicKey, error) {
	config := &packet.Config{Time: func() time.Time { return now }, MinRSABits: minRSABits}
	binding, err := entity.VerifyPrimaryKey(now, config)
	if err != nil {
		return nil, unusable("the key", err, entity.PrimaryKey, binding, entity.Revocations)
	}
	if err := strong(entity.PrimaryKey, config); err != nil {
		return nil, fmt.Errorf("the key %w", err)
	}
	public, what := entity.PrimaryKey, "the key"
	if id != public.KeyId {
		i := slices.IndexFunc(entity.Subkeys, func(s openpgp.Subkey) bool { return s.PublicKey.KeyId == id })
		if i < 0 {
			return nil, fmt.Errorf("it has no key %016X", id)
		}
		subkey := entity.Subkeys[i]
		public, what = subkey.PublicKey, "its subkey "+fingerprint(subkey.PublicKey)
		if binding, err = subkey.Verify(now, config); err != nil {
			expired, _ := subkey.LatestValidBindingSignature(now, config)
			return nil, unusable(what, err, public, expired, subkey.Revocations)
		}
		if err := strong(public, config); err != nil {
			return nil, fmt.Errorf("%s %w", what, err)
		}
	}
	if !public.CanSign() || !binding.FlagsValid || !binding.FlagSign {
		return nil, fmt.Errorf("%s is not allowed to sign (its usage flags say otherwise)", what)
	}
	return public, nil
}

// unusable says why a key does not count now.
func unusable(what string, err error, public *packet.PublicKey, binding *packet.Signature, revocations []*packet.VerifiableSignature) error {
	switch {
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		for _, r := range revocations {
			if r.Valid != nil && *r.Valid && r.Packet.RevocationReasonText != "" {
				return fmt.Errorf("%s was revoked on %s (%.200q)", what, day(r.Packet.CreationTime), r.Packet.RevocationReasonText)
			}
		}
		return fmt.Errorf("%s was revoked", what)
	case errors.Is(err, pgperrors.ErrKeyExpired):
		if binding != nil && binding.KeyLifetimeSecs != nil && *binding.KeyLifetimeSecs != 0 {
			expiry := public.CreationTime.Add(time.Duration(*binding.KeyLifetimeSecs) * time.Second)
			return fmt.Errorf("%s expired on %s; if its owner extended it, export it again into the keyring", what, day(expiry))
		}
		return fmt.Errorf("%s expired", what)
	}
	return fmt.Errorf("%s does not hold: %w", what, err)
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// strong refuses keys that can be forged; the error continues a sentence.
func strong(public *packet.PublicKey, config *packet.Config) error {
	switch public.PubKeyAlgo {
	case packet.PubKeyAlgoDSA:
		return errors.New("is a DSA key, which is too weak; make a new one")
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly, packet.PubKeyAlgoRSAEncryptOnly:
		if bits, err := public.BitLength(); err != nil || bits < minRSABits {
			return fmt.Errorf("is an RSA key of %d bits, less than %d; make a new one", bits, minRSABits)
		}
	case packet.PubKeyAlgoECDSA, packet.PubKeyAlgoEdDSA:
		if curve, err := public.Curve(); err != nil || config.RejectCurve(curve) {
			return fmt.Errorf("is on the curve %q, which TrustGate does not accept", curve)
		}
	}
	return nil
}
