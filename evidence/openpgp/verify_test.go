package openpgp_test

import (
	"bytes"
	"compress/zlib"
	"crypto"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	pgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/openpgp"
)

var (
	image = digest.FromString("the image")
	made  = time.Date(2025, 1, 1, 12, 0, 0, 0, time.UTC) // keys
	at    = made.Add(24 * time.Hour)                     // signatures
	now   = made.Add(48 * time.Hour)
)

func payload(d digest.Digest, reference string) string {
	return fmt.Sprintf(`{"critical":{"type":"atomic container signature","image":{"docker-manifest-digest":%q},"identity":{"docker-reference":%q}},"optional":{"creator":"test"}}`, d, reference)
}

// newKey makes a key whose primary certifies and signs and whose subkey
// encrypts, unless shape changes that before it is bound.
func newKey(t testing.TB, config packet.Config) *pgp.Entity {
	t.Helper()
	config.Time = func() time.Time { return made }
	entity, err := pgp.NewEntity("Release", "", "release@example.com", &config)
	if err != nil {
		t.Fatal(err)
	}
	return entity
}

func ed25519Key(t testing.TB) *pgp.Entity {
	return newKey(t, packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Curve: packet.Curve25519})
}

func load(t testing.TB, entities ...*pgp.Entity) openpgp.Signer {
	t.Helper()
	var raw bytes.Buffer
	for _, e := range entities {
		if err := e.Serialize(&raw); err != nil {
			t.Fatal(err)
		}
	}
	signer, err := openpgp.LoadSigner("release", raw.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// signing says how a message is made; the zero signing is an ordinary one.
type signing struct {
	hash     crypto.Hash
	kind     packet.SignatureType
	at       time.Time
	lifetime time.Duration
	notation string // critical
}

// parts are the packets of a signed message.
type parts struct{ onePass, literal, signature []byte }

func (p parts) message() []byte { return slices.Concat(p.onePass, p.literal, p.signature) }

func sign(t testing.TB, private *packet.PrivateKey, body string, how signing) parts {
	t.Helper()
	if how.hash == 0 {
		how.hash = crypto.SHA256
	}
	if how.at.IsZero() {
		how.at = at
	}
	s := &packet.Signature{
		Version: private.Version, SigType: how.kind, PubKeyAlgo: private.PubKeyAlgo, Hash: how.hash, CreationTime: how.at,
		IssuerKeyId: &private.KeyId, IssuerFingerprint: private.Fingerprint, IssuerKeyVersion: uint8(private.Version),
	}
	if how.lifetime != 0 {
		seconds := uint32(how.lifetime / time.Second)
		s.SigLifetimeSecs = &seconds
	}
	if how.notation != "" {
		s.Notations = []*packet.Notation{{Name: how.notation, Value: []byte("x"), IsHumanReadable: true, IsCritical: true}}
	}
	hash, err := s.PrepareSign(nil)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(hash, body)
	if err := s.Sign(hash, private, &packet.Config{NonDeterministicSignaturesViaNotation: packet.BoolPointer(false)}); err != nil {
		t.Fatal(err)
	}
	var signature, onePass bytes.Buffer
	if err := s.Serialize(&signature); err != nil {
		t.Fatal(err)
	}
	ops := &packet.OnePassSignature{
		Version: 3, SigType: how.kind, Hash: how.hash, PubKeyAlgo: private.PubKeyAlgo, KeyId: private.KeyId, IsLast: true,
	}
	if private.Version == 6 {
		ops.Version, ops.Salt, ops.KeyFingerprint = 6, s.Salt(), private.Fingerprint
	}
	if err := ops.Serialize(&onePass); err != nil {
		t.Fatal(err)
	}
	return parts{onePass.Bytes(), literal(t, body), signature.Bytes()}
}

func literal(t testing.TB, body string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := packet.SerializeLiteral(keepOpen{&buf}, true, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, body)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func compressed(t testing.TB, inner []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := packet.SerializeCompressed(keepOpen{&buf}, packet.CompressionZLIB, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(inner)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

func TestVerify(t *testing.T) {
	body := payload(image, "example.com/app:1")
	for name, config := range map[string]packet.Config{
		"EdDSA":   {Algorithm: packet.PubKeyAlgoEdDSA, Curve: packet.Curve25519},
		"Ed25519": {Algorithm: packet.PubKeyAlgoEd25519},
		"v6 key":  {Algorithm: packet.PubKeyAlgoEd25519, V6Keys: true},
		"P-384":   {Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP384},
		"RSA":     {Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048},
	} {
		t.Run(name, func(t *testing.T) {
			key := newKey(t, config)
			signer := load(t, key)
			p := sign(t, key.PrivateKey, body, signing{lifetime: 365 * 24 * time.Hour})
			for form, raw := range map[string][]byte{
				"one-pass":   p.message(),
				"old style":  slices.Concat(p.signature, p.literal),
				"compressed": compressed(t, p.message()),
			} {
				s := openpgp.Verify(raw, image, []openpgp.Signer{signer}, now)
				if s.Err != "" || !s.By.Verified() {
					t.Fatalf("%s: not verified: %s", form, s.Err)
				}
				want := evidence.Signer{Name: "release", Fingerprint: strings.ToUpper(fmt.Sprintf("%x", key.PrimaryKey.Fingerprint))}
				if s.By.Signer() != want {
					t.Errorf("%s: by %+v, want %+v", form, s.By.Signer(), want)
				}
				if s.Kind != evidence.KindOpenPGP || s.Binds != evidence.BindsTag || s.Reference != "example.com/app:1" ||
					!s.SignedAt.Equal(at) || !s.ExpiresAt.Equal(at.Add(365*24*time.Hour)) {
					t.Errorf("%s: got %+v", form, s)
				}
			}
		})
	}
}

// TestVerifyAmongSigners finds the one key of several signers with several
// keys each, and says whose it was.
func TestVerifyAmongSigners(t *testing.T) {
	first, second, third := ed25519Key(t), ed25519Key(t), ed25519Key(t)
	a := load(t, first)
	a.Name = "a"
	b := load(t, second, third)
	b.Name = "b"
	raw := sign(t, third.PrivateKey, payload(image, "example.com/app:1"), signing{}).message()
	s := openpgp.Verify(raw, image, []openpgp.Signer{a, b}, now)
	if s.Err != "" || s.By.Signer().Name != "b" || s.By.Signer().Fingerprint != b.Fingerprints()[1] {
		t.Errorf("got %+v", s)
	}
}

func TestVerifyRefuses(t *testing.T) {
	key := ed25519Key(t)
	signer := load(t, key)
	good := sign(t, key.PrivateKey, payload(image, "example.com/app:1"), signing{})
	other := ed25519Key(t)
	signed := func(body string, how signing) []byte { return sign(t, key.PrivateKey, body, how).message() }
	body := payload(image, "example.com/app:1")
	bomb := compressed(t, bytes.Repeat([]byte{0}, 64<<20))
	if len(bomb) > 1<<20 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	changed := bytes.Replace(good.message(), []byte("app:1"), []byte("app:2"), 1)
	if bytes.Equal(changed, good.message()) {
		t.Fatal("nothing was changed")
	}
	forged := sign(t, other.PrivateKey, body, signing{})
	forged.signature = bytes.ReplaceAll(forged.signature, other.PrimaryKey.Fingerprint, key.PrimaryKey.Fingerprint)
	forged.signature = bytes.ReplaceAll(forged.signature, other.PrimaryKey.Fingerprint[12:], key.PrimaryKey.Fingerprint[12:])
	md5 := slices.Clone(good.signature)
	md5[2+3] = 1 // the hash algorithm, after a two-byte header, version, type and key algorithm

	for name, tc := range map[string]struct {
		raw  []byte
		says string
	}{
		"another image":           {signed(payload(digest.FromString("another"), "example.com/app:1"), signing{}), "it was copied from another one"},
		"unknown key":             {sign(t, other.PrivateKey, body, signing{}).message(), fmt.Sprintf("made with the key %X, which no signer in trust.signers holds", other.PrimaryKey.Fingerprint)},
		"changed document":        {changed, "one of them was changed"},
		"another key's signature": {forged.message(), "one of them was changed"},
		"expired":                 {signed(body, signing{lifetime: time.Hour}), "it expired at 2025-01-02T13:00:00Z"},
		"from the future":         {signed(body, signing{at: now.Add(time.Hour)}), "in the future"},
		"older than the key":      {signed(body, signing{at: made.Add(-time.Hour)}), "older than the key"},
		"SHA-1":                   {signed(body, signing{hash: crypto.SHA1}), "made with SHA-1, which is too weak"},
		"MD5":                     {slices.Concat(good.literal, md5), "not a signed message"},
		"MD5, one-pass":           {slices.Concat(good.onePass, good.literal, md5), "made with MD5, which is too weak"},
		"text signature":          {signed(body, signing{kind: packet.SigTypeText}), "type 0x01"},
		"critical notation":       {signed(body, signing{notation: "until@example.com"}), `the critical notation "until@example.com"`},
		"not a payload":           {signed("hello", signing{}), "not a simple signing payload"},
		"cosign's payload":        {signed(strings.Replace(body, "atomic container signature", "cosign container image signature", 1), signing{}), "critical.type"},
		"unknown critical":        {signed(strings.Replace(body, `"critical":{`, `"critical":{"until":1,`, 1), signing{}), `the member "until"`},
		"key twice":               {signed(strings.Replace(body, `"critical":{`, `"critical":{"type":"x",`, 1), signing{}), "appears twice"},
		"empty":                   {nil, "it is empty"},
		"not OpenPGP":             {[]byte("hello"), "no OpenPGP message"},
		"HTML":                    {[]byte("<html><body>Not Found</body></html>"), "no OpenPGP message"},
		"truncated":               {good.message()[:len(good.message())-7], "EOF"},
		"detached":                {good.signature, "a detached signature"},
		"not signed":              {good.literal, "it is not signed"},
		"two documents":           {slices.Concat(good.onePass, good.literal, good.literal, good.signature), "2 documents"},
		"two signatures":          {slices.Concat(good.onePass, good.onePass, good.literal, good.signature, good.signature), "more than one signature"},
		"bytes after":             {append(good.message(), 'x'), "no OpenPGP message"},
		"packet after":            {slices.Concat(good.message(), []byte{0xc0 | 60, 1, 'x'}), "not a signed message"},
		"packet before":           {slices.Concat([]byte{0xca, 3, 'P', 'G', 'P'}, good.message()), "not a signed message"},
		"many packets":            {bytes.Repeat([]byte{0xc0 | 60, 0}, 1000), "more than 8 packets"},
		"compressed twice":        {compressed(t, compressed(t, good.message())), "compressed more than once"},
		"compressed and more":     {slices.Concat(compressed(t, good.message()), good.signature), "compressed more than once, or beside"},
		"compression bomb":        {bomb, "decompresses to more than"},
		"compression damaged":     {damaged(t, compressed(t, good.message())), "compression"},
		"endless":                 {bytes.Repeat([]byte{0x90}, 2<<20), "more than the 1048576"},
		"encrypted":               {encrypted(t, key), "it is encrypted"},
		"armored message":         {armored(t, "PGP MESSAGE", good.message()), "image signatures are binary"},
		"armored detached":        {armored(t, "PGP SIGNATURE", good.signature), "armored detached signature"},
		"clear-signed":            {[]byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n" + body), "clear-signed"},
		"sigstore in a lookaside": {[]byte("\x00sigstore-json\n{}"), "a sigstore signature"},
		"version 3 signature":     {slices.Concat(good.onePass, good.literal, []byte{0xc2, 22, 3, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 8, 0, 0, 0, 8, 1}), "version 3 signature"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openpgp.Verify(tc.raw, image, []openpgp.Signer{signer}, now)
			if s.By.Verified() || !strings.Contains(s.Err, tc.says) {
				t.Errorf("verified %v, says %q, want it to say %q", s.By.Verified(), s.Err, tc.says)
			}
		})
	}
	if s := openpgp.Verify(good.message(), image, nil, now); s.By.Verified() || !strings.Contains(s.Err, "no signer in trust.signers") {
		t.Errorf("without signers: %+v", s)
	}
	// All of the above hang on this one being good.
	if s := openpgp.Verify(good.message(), image, []openpgp.Signer{signer}, now); !s.By.Verified() {
		t.Errorf("the good one: %s", s.Err)
	}
}

func damaged(t testing.TB, raw []byte) []byte {
	t.Helper()
	raw = slices.Clone(raw)
	raw[len(raw)/2] ^= 0xff
	return raw
}

func armored(t testing.TB, kind string, raw []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := armor.Encode(&buf, kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(raw)
	w.Close()
	return buf.Bytes()
}

func encrypted(t testing.TB, to *pgp.Entity) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := pgp.Encrypt(&buf, []*pgp.Entity{to}, nil, []*pgp.Entity{to}, nil, &packet.Config{Time: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, payload(image, "example.com/app:1"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestVerifyKeys refuses what was signed with keys that do not count now.
func TestVerifyKeys(t *testing.T) {
	body := payload(image, "example.com/app:1")
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Curve: packet.Curve25519, Time: func() time.Time { return made }}
	withSubkey := func(t *testing.T) (*pgp.Entity, *packet.PrivateKey) {
		key := ed25519Key(t)
		if err := key.AddSigningSubkey(config); err != nil {
			t.Fatal(err)
		}
		return key, key.Subkeys[len(key.Subkeys)-1].PrivateKey
	}
	for name, tc := range map[string]struct {
		key  func(t *testing.T) (*pgp.Entity, *packet.PrivateKey)
		how  signing
		says string // "" when it verifies
	}{
		"signing subkey": {key: withSubkey},
		"expired": {
			key: func(t *testing.T) (*pgp.Entity, *packet.PrivateKey) {
				key := newKey(t, packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: 36 * 3600})
				return key, key.PrivateKey
			},
			says: "the key expired on 2025-01-03; if its owner extended it",
		},
		"revoked": {
			key: func(t *testing.T) (*pgp.Entity, *packet.PrivateKey) {
				key := ed25519Key(t)
				revoke := *config
				revoke.Time = func() time.Time { return now }
				if err := key.Revoke(packet.KeyRetired, "left the team", &revoke); err != nil {
					t.Fatal(err)
				}
				return key, key.PrivateKey
			},
			says: `the key was revoked on 2025-01-03 ("left the team")`,
		},
		"not revoked yet": {
			key: func(t *testing.T) (*pgp.Entity, *packet.PrivateKey) {
				key := ed25519Key(t)
				revoke := *config
				revoke.Time = func() time.Time { return now.Add(time.Hour) }
				if err := key.Revoke(packet.KeyRetired, "", &revoke); err != nil {
					t.Fatal(err)
				}
				return key, key.PrivateKey
			},
		},
		"made later": {
			key: func(t *testing.T) (*pgp.Entity, *packet.PrivateKey) {
				later := *config
				later.Time = func() time.Time { return now.Add(time.Hour) }
				key, err := pgp.NewEntity("Later", "", "", &later)
				if err != nil {
					t.Fatal(err)
				}
				return key, key.PrivateKey
			},
			says: "the key does not hold",
		},
		"revoked subkey": {
			key: func(t *testing.T) (*pgp.Entity, *packet.PrivateKey) {
				key, sub := withSubkey(t)
				if err := key.Subkeys[len(key.Subkeys)-1].Revoke(packet.KeyCompromised, "", config); err != nil {
					t.Fatal(err)
				}
				return key, sub
			},
			says: "was revoked",
		},
		"expired subkey": {
			key: func(t *testing.T) (*pgp.Entity, *packet.PrivateKey) {
				key := ed25519Key(t)
				short := *config
				short.KeyLifetimeSecs = 36 * 3600
				if err := key.AddSigningSubkey(&short); err != nil {
					t.Fatal(err)
				}
				return key, key.Subkeys[len(key.Subkeys)-1].PrivateKey
			},
			says: "expired on 2025-01-03",
		},
		"encryption only": {
			key: func(t *testing.T) (*pgp.Entity, *packet.PrivateKey) {
				key := newKey(t, packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048})
				return key, key.Subkeys[0].PrivateKey
			},
			says: "is not allowed to sign",
		},
		"certification only": {
			key: func(t *testing.T) (*pgp.Entity, *packet.PrivateKey) {
				key := ed25519Key(t)
				for _, identity := range key.Identities {
					for _, s := range identity.SelfCertifications {
						s.Packet.FlagSign = false
					}
					if err := identity.ReSign(config); err != nil {
						t.Fatal(err)
					}
				}
				return key, key.PrivateKey
			},
			says: "the key is not allowed to sign",
		},
		"short RSA": {
			key: func(t *testing.T) (*pgp.Entity, *packet.PrivateKey) {
				key := newKey(t, packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 1024, MinRSABits: 1024})
				return key, key.PrivateKey
			},
			says: "an RSA key of 1024 bits, less than 2048",
		},
		"secp256k1": {
			key: func(t *testing.T) (*pgp.Entity, *packet.PrivateKey) {
				key := newKey(t, packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveSecP256k1})
				return key, key.PrivateKey
			},
			says: "is on the curve",
		},
		"self-signature stripped": {
			key: func(t *testing.T) (*pgp.Entity, *packet.PrivateKey) {
				key := ed25519Key(t)
				for _, identity := range key.Identities {
					// One that was made over another name.
					if err := identity.SelfCertifications[0].Packet.SignUserId("Somebody", key.PrimaryKey, key.PrivateKey, config); err != nil {
						t.Fatal(err)
					}
				}
				return key, key.PrivateKey
			},
			says: "no valid self signature",
		},
		"stolen subkey": {
			// A subkey that another key claims as its own, without its consent.
			key: func(t *testing.T) (*pgp.Entity, *packet.PrivateKey) {
				victim, sub := withSubkey(t)
				key := ed25519Key(t)
				stolen := victim.Subkeys[len(victim.Subkeys)-1]
				stolen.Primary = key
				if err := stolen.Bindings[0].Packet.SignKey(stolen.PublicKey, key.PrivateKey, config); err != nil {
					t.Fatal(err)
				}
				key.Subkeys = append(key.Subkeys, stolen)
				return key, sub
			},
			says: "does not hold",
		},
	} {
		t.Run(name, func(t *testing.T) {
			key, private := tc.key(t)
			s := openpgp.Verify(sign(t, private, body, tc.how).message(), image, []openpgp.Signer{load(t, key)}, now)
			if tc.says == "" {
				if !s.By.Verified() {
					t.Errorf("not verified: %s", s.Err)
				}
				return
			}
			if s.By.Verified() || !strings.Contains(s.Err, tc.says) {
				t.Errorf("verified %v, says %q, want it to say %q", s.By.Verified(), s.Err, tc.says)
			}
		})
	}
}

func TestLoadSigner(t *testing.T) {
	a, b := ed25519Key(t), newKey(t, packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP256})
	serialize := func(e *pgp.Entity) []byte {
		var buf bytes.Buffer
		if err := e.Serialize(&buf); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	rawA, rawB := serialize(a), serialize(b)
	var private bytes.Buffer
	if err := a.SerializePrivateWithoutSigning(&private, nil); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		keyring []byte
		keys    int
	}{
		"binary":             {rawA, 1},
		"two, binary":        {slices.Concat(rawA, rawB), 2},
		"armored":            {armored(t, pgp.PublicKeyType, rawA), 1},
		"two in one armor":   {armored(t, pgp.PublicKeyType, slices.Concat(rawA, rawB)), 2},
		"two armored blocks": {slices.Concat(armored(t, pgp.PublicKeyType, rawA), []byte("\n"), armored(t, pgp.PublicKeyType, rawB), []byte("\n")), 2},
		"text before":        {slices.Concat([]byte("pub ed25519\n\n"), armored(t, pgp.PublicKeyType, rawA)), 1},
	} {
		t.Run(name, func(t *testing.T) {
			signer, err := openpgp.LoadSigner("release", tc.keyring)
			if err != nil || len(signer.Fingerprints()) != tc.keys {
				t.Errorf("got %v, %v, want %d keys", signer.Fingerprints(), err, tc.keys)
			}
		})
	}
	for name, tc := range map[string]struct {
		keyring []byte
		says    string
	}{
		"empty":            {nil, "it is empty"},
		"white space":      {[]byte(" \n"), "it is empty"},
		"text":             {[]byte("hello"), "neither an armored nor a binary"},
		"private":          {private.Bytes(), "a private key"},
		"private, armored": {armored(t, pgp.PrivateKeyType, private.Bytes()), "a private key"},
		"a message":        {armored(t, "PGP MESSAGE", literal(t, "x")), "not a public key"},
		"a signature":      {sign(t, a.PrivateKey, "x", signing{}).signature, "key number 1"},
		"truncated":        {rawA[:len(rawA)-9], "key number 1"},
		"the same twice":   {slices.Concat(rawA, rawA), "is in it twice"},
		"too long":         {bytes.Repeat([]byte{0x99}, 5<<20), "more than 4194304"},
		"keybox":           {[]byte("\x00\x00\x00\x20\x01\x01\x00\x02KBXf\x00\x00\x00\x00"), "GnuPG keybox"},
		"damaged armor":    {bytes.Replace(armored(t, pgp.PublicKeyType, rawA), []byte("\n\n"), []byte("\n\n!!!"), 1), "armor is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			signer, err := openpgp.LoadSigner("release", tc.keyring)
			if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), `"release"`) {
				t.Errorf("got %v, %v, want an error that says %q", signer.Fingerprints(), err, tc.says)
			}
		})
	}
}

var update = flag.Bool("update", false, "write the signed messages in testdata anew, with new keys")

// TestFixtures holds the signed messages in testdata to what FuzzVerify needs
// of them. They are kept because each of its processes must know the keys.
func TestFixtures(t *testing.T) {
	if *update {
		body := payload(image, "example.com/app:1")
		key, rsa := ed25519Key(t), newKey(t, packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048})
		var ring bytes.Buffer
		for _, e := range []*pgp.Entity{key, rsa} {
			if err := e.Serialize(&ring); err != nil {
				t.Fatal(err)
			}
		}
		p := sign(t, key.PrivateKey, body, signing{})
		for name, raw := range map[string][]byte{
			"release.asc":    armored(t, pgp.PublicKeyType, ring.Bytes()),
			"plain.sig":      p.message(),
			"compressed.sig": compressed(t, p.message()),
			"old-style.sig":  slices.Concat(p.signature, p.literal),
			"rsa.sig":        sign(t, rsa.PrivateKey, body, signing{}).message(),
		} {
			if err := os.WriteFile("testdata/"+name, raw, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	signer, messages := fixtures(t)
	for name, raw := range messages {
		if s := openpgp.Verify(raw, image, []openpgp.Signer{signer}, now); !s.By.Verified() {
			t.Errorf("%s: %s", name, s.Err)
		}
	}
}

func fixtures(t testing.TB) (openpgp.Signer, map[string][]byte) {
	t.Helper()
	read := func(name string) []byte {
		raw, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	signer, err := openpgp.LoadSigner("release", read("release.asc"))
	if err != nil {
		t.Fatal(err)
	}
	messages := map[string][]byte{}
	for _, name := range []string{"plain.sig", "compressed.sig", "old-style.sig", "rsa.sig"} {
		messages[name] = read(name)
	}
	return signer, messages
}

// FuzzVerify mutates signed messages. The key that signed them is trusted, so a
// message that still verifies must carry the payload that was signed.
func FuzzVerify(f *testing.F) {
	signer, messages := fixtures(f)
	for _, raw := range messages {
		f.Add(raw)
	}
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	w.Write([]byte{0xcb, 1, 'b'})
	w.Close()
	f.Add(append([]byte{0xa3, 2}, z.Bytes()...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := openpgp.Verify(raw, image, []openpgp.Signer{signer}, now)
		if s.By.Verified() == (s.Err != "") {
			t.Fatalf("verified %v and says %q", s.By.Verified(), s.Err)
		}
		if s.By.Verified() && s.Reference != "example.com/app:1" {
			t.Fatalf("verified for %q, which was never signed", s.Reference)
		}
	})
}

// FuzzLoadSigner reads foreign keyrings.
func FuzzLoadSigner(f *testing.F) {
	raw, err := os.ReadFile("testdata/release.asc")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n=AAAA\n-----END PGP PUBLIC KEY BLOCK-----\n"))
	f.Add([]byte{0x99, 1, 13, 4})
	f.Fuzz(func(t *testing.T, raw []byte) {
		signer, err := openpgp.LoadSigner("release", raw)
		if (err == nil) != (len(signer.Fingerprints()) > 0) {
			t.Fatalf("%d keys and %v", len(signer.Fingerprints()), err)
		}
	})
}
