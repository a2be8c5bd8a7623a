package gittag

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/seal"
)

const (
	// maxSSHSignature bounds an SSH signature with its armor, in bytes. One by an
	// RSA key of 16384 bits has about 6 kB.
	maxSSHSignature = 32 << 10

	sshsigMagic   = "SSHSIG"
	sshsigVersion = 1
	endSSH        = "-----END SSH SIGNATURE-----"
)

// sshSignature is an SSHSIG blob taken apart.
type sshSignature struct {
	public    ssh.PublicKey
	namespace string
	hash      string
	signature ssh.Signature
}

// parseSSHSignature reads an armored SSH signature, and nothing beside it.
//
// https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig
func parseSSHSignature(armored []byte) (*sshSignature, error) {
	if len(armored) > maxSSHSignature {
		return nil, fmt.Errorf("it has %d bytes, more than the %d of any SSH signature", len(armored), maxSSHSignature)
	}
	text, ok := strings.CutPrefix(strings.TrimRight(strings.ReplaceAll(string(armored), "\r\n", "\n"), " \t\n"), beginSSH+"\n")
	if !ok {
		return nil, errors.New("its armor is damaged")
	}
	if text, ok = strings.CutSuffix(text, "\n"+endSSH); !ok {
		return nil, errors.New("its armor has no end, or text follows it")
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("its armor is damaged: %w", err)
	}
	blob, ok = bytes.CutPrefix(blob, []byte(sshsigMagic))
	if !ok {
		return nil, errors.New("it is not an SSH signature")
	}
	var outer struct {
		Version   uint32
		Public    []byte
		Namespace string
		Reserved  string
		Hash      string
		Signature []byte
	}
	if err := ssh.Unmarshal(blob, &outer); err != nil {
		return nil, fmt.Errorf("it is malformed: %w", err)
	}
	switch {
	case outer.Version != sshsigVersion:
		return nil, fmt.Errorf("it is an SSH signature of version %d, which TrustGate does not verify", outer.Version)
	case outer.Reserved != "":
		// Nobody signs what stands there.
		return nil, errors.New("it uses a field that is reserved")
	}
	s := &sshSignature{namespace: outer.Namespace, hash: outer.Hash}
	if s.public, err = ssh.ParsePublicKey(outer.Public); err != nil {
		return nil, fmt.Errorf("the key that it names: %w", err)
	}
	if err := ssh.Unmarshal(outer.Signature, &s.signature); err != nil {
		return nil, fmt.Errorf("it is malformed: %w", err)
	}
	return s, nil
}

// verifySSH says who made the SSH signature of an object. A key counts only
// while the allowed signers file says so, both now and at the time that the
// object claims: the second is the signer's word, and whoever stole a key can
// write any.
func verifySSH(o signedObject, signers []SSHSigner, now time.Time) (evidence.Voucher, error) {
	s, err := parseSSHSignature(o.signature)
	if err != nil {
		return evidence.Voucher{}, err
	}
	var refused error
	for _, signer := range signers {
		for _, k := range signer.keys {
			if !bytes.Equal(k.public.Marshal(), s.public.Marshal()) {
				continue
			}
			err := k.counts(o.claimedAt, now)
			if err == nil {
				err = s.verify(o.signed, k.public)
			}
			if err == nil {
				return evidence.Vouch(seal.Key{}, evidence.Signer{Name: signer.Name, Fingerprint: k.fingerprint}), nil
			}
			if refused == nil {
				refused = fmt.Errorf("made with the key %s of the signer %q: %w", k.fingerprint, signer.Name, err)
			}
		}
	}
	if refused != nil {
		return evidence.Voucher{}, refused
	}
	return evidence.Voucher{}, fmt.Errorf("made with the key %s, which no signer in trust.signers holds", ssh.FingerprintSHA256(s.public))
}

// counts says whether the allowed signers file lets the key sign.
func (k sshKey) counts(claimed, now time.Time) error {
	bounded := !k.after.IsZero() || !k.before.IsZero()
	switch {
	case !k.forGit:
		return fmt.Errorf("its namespaces do not include %q", namespace)
	case bounded && claimed.IsZero():
		return errors.New("the key is valid for a time, and the object does not say when it was made")
	case claimed.After(now):
		return fmt.Errorf("it was made at %s, which is in the future; compare the clocks of the signer and of TrustGate", claimed.Format(time.RFC3339))
	}
	for _, t := range []time.Time{now, claimed} {
		switch {
		case !k.after.IsZero() && t.Before(k.after):
			return fmt.Errorf("the key is not valid before %s", k.after.UTC().Format(time.RFC3339))
		case !k.before.IsZero() && t.After(k.before):
			return fmt.Errorf("the key is not valid after %s; if its owner extended it, set valid-before anew", k.before.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// verify checks the signature over signed.
func (s *sshSignature) verify(signed []byte, public ssh.PublicKey) error {
	if s.namespace != namespace {
		return fmt.Errorf("it was made for %.80q, not for git", s.namespace)
	}
	formats := []string{public.Type()}
	if public.Type() == ssh.KeyAlgoRSA {
		// ssh-rsa is with SHA-1.
		formats = []string{ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512}
	}
	if !slices.Contains(formats, s.signature.Format) {
		return fmt.Errorf("it was made with %.60q, which is too weak or does not fit the key", s.signature.Format)
	}
	if isSecurityKey := strings.HasPrefix(public.Type(), "sk-"); !isSecurityKey && len(s.signature.Rest) > 0 {
		return errors.New("it goes on after its end")
	}
	var digest []byte
	switch s.hash {
	case "sha256":
		sum := sha256.Sum256(signed)
		digest = sum[:]
	case "sha512":
		sum := sha512.Sum512(signed)
		digest = sum[:]
	default:
		return fmt.Errorf("it is over the hash %.40q, which is not one to sign with", s.hash)
	}
	message := append([]byte(sshsigMagic), ssh.Marshal(struct {
		Namespace, Reserved, Hash string
		Digest                    []byte
	}{s.namespace, "", s.hash, digest})...)
	if err := public.Verify(message, &s.signature); err != nil {
		return errors.New("the signature does not fit the key and the signed object; one of them was changed")
	}
	return nil
}
