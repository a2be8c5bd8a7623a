package openpgp_test

import (
	"bytes"
	"crypto"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/openpgp"
)

const document = "object 0000000000000000000000000000000000000000\n"

func TestVerifyDetached(t *testing.T) {
	for name, config := range map[string]packet.Config{
		"EdDSA":  {Algorithm: packet.PubKeyAlgoEdDSA, Curve: packet.Curve25519},
		"v6 key": {Algorithm: packet.PubKeyAlgoEd25519, V6Keys: true},
		"RSA":    {Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048},
	} {
		t.Run(name, func(t *testing.T) {
			key := newKey(t, config)
			other := load(t, ed25519Key(t))
			other.Name = "other"
			signers := []openpgp.Signer{other, load(t, key)}
			raw := sign(t, key.PrivateKey, document, signing{}).signature
			armoredRaw := armored(t, "PGP SIGNATURE", raw)
			for form, signature := range map[string][]byte{
				"binary": raw, "armored": armoredRaw, "armored, white space after": append(slices.Clone(armoredRaw), "\r\n \n"...),
			} {
				by, madeAt, err := openpgp.VerifyDetached([]byte(document), signature, signers, now)
				want := evidence.Signer{Name: "release", Fingerprint: strings.ToUpper(fmt.Sprintf("%x", key.PrimaryKey.Fingerprint))}
				if err != nil || !by.Verified() || by.Signer() != want || !madeAt.Equal(at) {
					t.Errorf("%s: got %+v at %s, %v", form, by, madeAt, err)
				}
			}
		})
	}
}

func TestVerifyDetachedRefuses(t *testing.T) {
	key, stranger := ed25519Key(t), ed25519Key(t)
	signer := load(t, key)
	good := sign(t, key.PrivateKey, document, signing{})
	detached := func(how signing) []byte { return sign(t, key.PrivateKey, document, how).signature }
	armor := func(raw []byte) []byte { return armored(t, "PGP SIGNATURE", raw) }
	goodArmor := string(armor(good.signature))
	weak := newKey(t, packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 1024})

	for name, tc := range map[string]struct {
		document  string
		signature []byte
		signers   []openpgp.Signer
		says      string
	}{
		"another document":    {document: document + "\n", signature: good.signature, says: "one of them was changed"},
		"unknown key":         {signature: sign(t, stranger.PrivateKey, document, signing{}).signature, says: fmt.Sprintf("made with the key %X, which no signer in trust.signers holds", stranger.PrimaryKey.Fingerprint)},
		"weak key":            {signature: sign(t, weak.PrivateKey, document, signing{}).signature, signers: []openpgp.Signer{load(t, weak)}, says: "an RSA key of 1024 bits"},
		"expired":             {signature: detached(signing{lifetime: time.Hour}), says: "it expired at 2025-01-02T13:00:00Z"},
		"from the future":     {signature: detached(signing{at: now.Add(time.Hour)}), says: "in the future"},
		"older than the key":  {signature: detached(signing{at: made.Add(-time.Hour)}), says: "older than the key"},
		"SHA-1":               {signature: detached(signing{hash: crypto.SHA1}), says: "made with SHA-1, which is too weak"},
		"text signature":      {signature: detached(signing{kind: packet.SigTypeText}), says: "type 0x01"},
		"critical notation":   {signature: detached(signing{notation: "until@example.com"}), says: `the critical notation "until@example.com"`},
		"empty":               {says: "it is empty"},
		"empty armor":         {signature: armor(nil), says: "it is empty"},
		"not OpenPGP":         {signature: []byte("hello"), says: "no OpenPGP message"},
		"truncated":           {signature: good.signature[:len(good.signature)-7], says: "EOF"},
		"a signed message":    {signature: good.message(), says: "its packets are [4 11 2]"},
		"two signatures":      {signature: slices.Concat(good.signature, good.signature), says: "more than one signature"},
		"many packets":        {signature: bytes.Repeat([]byte{0xc0 | 60, 0}, 1000), says: "more than 8 packets"},
		"armored message":     {signature: armored(t, "PGP MESSAGE", good.message()), says: `it begins with "-----BEGIN PGP MESSAGE-----"`},
		"armored key":         {signature: armored(t, "PGP PUBLIC KEY BLOCK", good.signature), says: "not with the armor of a detached signature"},
		"armor in armor":      {signature: []byte("-----BEGIN PGP SIGNATURE-----\nbad\n" + string(armored(t, "PGP MESSAGE", good.message()))), says: "its armor is damaged"},
		"armor without end":   {signature: []byte(strings.Split(goodArmor, "-----END")[0]), says: "it has no end"},
		"text in the armor":   {signature: []byte(strings.Replace(goodArmor, "-----END", "Reviewed-by: nobody\n-----END", 1)), says: "its armor is damaged"},
		"damaged armor":       {signature: []byte(strings.Replace(goodArmor, "\n\n", "\n\n!!!!", 1)), says: "its armor is damaged"},
		"text after":          {signature: []byte(goodArmor + "\nReviewed-by: nobody\n"), says: "text follows the end of its armor"},
		"two armored blocks":  {signature: []byte(goodArmor + "\n" + goodArmor), says: "text follows the end of its armor"},
		"text before":         {signature: []byte("hello\n" + goodArmor), says: "no OpenPGP message"},
		"longer than allowed": {signature: bytes.Repeat([]byte{0xc2}, 65<<10), says: "more than the 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.document == "" {
				tc.document = document
			}
			if tc.signers == nil {
				tc.signers = []openpgp.Signer{signer}
			}
			by, _, err := openpgp.VerifyDetached([]byte(tc.document), tc.signature, tc.signers, now)
			if err == nil || by.Verified() || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("verified %v, says %v, want it to say %q", by.Verified(), err, tc.says)
			}
		})
	}
	// All of the above hang on this one being good.
	if _, _, err := openpgp.VerifyDetached([]byte(document), good.signature, []openpgp.Signer{signer}, now); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// TestGPGDetached follows a key of the real program through its life, as
// TestGPGExtended does: the two kinds of signature stand and fall together.
func TestGPGDetached(t *testing.T) {
	h := newHome(t)
	then := []string{"--faked-system-time", "20240101T120000!"}
	fpr := h.newKey("release@example.com", "ed25519", "sign", "1y", then...)
	armoredRaw := h.gpg(document, append(then, "--local-user", fpr, "-bsa")...)
	binary := h.gpg(document, append(then, "--local-user", fpr, "-bs")...)
	verify := func(now time.Time) error {
		t.Helper()
		signers := []openpgp.Signer{h.signer(fpr)}
		_, _, err := openpgp.VerifyDetached([]byte(document), armoredRaw, signers, now)
		if _, _, other := openpgp.VerifyDetached([]byte(document), binary, signers, now); fmt.Sprint(err) != fmt.Sprint(other) {
			t.Errorf("armored: %v, binary: %v", err, other)
		}
		return err
	}
	soon, late := time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	if err := verify(soon); err != nil {
		t.Errorf("while the key lives: %v", err)
	}
	if err := verify(late); err == nil || !strings.Contains(err.Error(), "expired on 2024-12-31") {
		t.Errorf("after it expired: %v", err)
	}
	revocation, err := os.ReadFile(filepath.Join(h.dir, "openpgp-revocs.d", fpr+".rev"))
	if err != nil {
		t.Fatal(err)
	}
	h.gpg(strings.Replace(string(revocation), ":-----BEGIN", "-----BEGIN", 1), "--import")
	if err := verify(soon); err == nil || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("after it was revoked: %v", err)
	}
}

// FuzzVerifyDetached mutates a signature of a key that is trusted; what still
// verifies is over the document that was signed, so it must not verify another.
func FuzzVerifyDetached(f *testing.F) {
	signer, messages := fixtures(f)
	body := payload(image, "example.com/app:1")
	// A signed message that is not compressed ends in its signature packet.
	for _, name := range []string{"plain.sig", "rsa.sig"} {
		for i := range messages[name] {
			if _, _, err := openpgp.VerifyDetached([]byte(body), messages[name][i:], []openpgp.Signer{signer}, now); err == nil {
				f.Add(messages[name][i:])
				f.Add(armored(f, "PGP SIGNATURE", messages[name][i:]))
			}
		}
	}
	f.Add([]byte("-----BEGIN PGP SIGNATURE-----\n\n=AAAA\n-----END PGP SIGNATURE-----\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, signed := range []string{body, body + "\n"} {
			by, _, err := openpgp.VerifyDetached([]byte(signed), raw, []openpgp.Signer{signer}, now)
			if by.Verified() != (err == nil) {
				t.Fatalf("verified %v and says %v", by.Verified(), err)
			}
			if by.Verified() && signed != body {
				t.Fatal("verified what was never signed")
			}
		}
	})
}
