package openpgp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

const (
	// maxKeyring bounds a keyring, in bytes; a distribution's has some 100 kB.
	maxKeyring = 4 << 20
	// maxKeys bounds the keys of one keyring.
	maxKeys = 256
)

// Signer is a named party and the keys that it signs with. The zero Signer has
// none.
type Signer struct {
	Name string // as in trust.signers
	keys []key
}

// key is one OpenPGP certificate. It is kept as bytes and parsed for each
// signature: the library remembers in a parsed key which of its
// self-signatures held at the time that was asked about, and that time comes
// out of packets that strangers made.
type key struct {
	fingerprint string
	ids         []uint64 // of the primary key and its subkeys
	raw         []byte
}

// LoadSigner reads a keyring, armored or binary, with one key or several. It
// refuses what it cannot use rather than skip it: a key that silently does not
// count is found out when a release does not deploy.
//
// Keys that have expired or were revoked load, since a keyring that rotates
// holds such; Verify refuses what they signed and says why.
func LoadSigner(name string, keyring []byte) (Signer, error) {
	signer := Signer{Name: name}
	fail := func(err error) (Signer, error) {
		return Signer{}, fmt.Errorf("reading the OpenPGP keyring of the signer %q: %w", name, err)
	}
	if len(keyring) > maxKeyring {
		return fail(fmt.Errorf("it has %d bytes, more than %d", len(keyring), maxKeyring))
	}
	blocks, err := unarmor(keyring)
	if err != nil {
		return fail(err)
	}
	for _, block := range blocks {
		packets := packet.NewReader(bytes.NewReader(block))
		for {
			entity, err := openpgp.ReadEntity(packets)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fail(fmt.Errorf("key number %d: %w; remove it from the keyring, or export the ring again with 'gpg --export'", len(signer.keys)+1, err))
			}
			k, err := newKey(entity)
			if err != nil {
				return fail(err)
			}
			if slices.ContainsFunc(signer.keys, func(o key) bool { return o.fingerprint == k.fingerprint }) {
				return fail(fmt.Errorf("the key %s is in it twice; keep the newer copy", k.fingerprint))
			}
			if signer.keys = append(signer.keys, k); len(signer.keys) > maxKeys {
				return fail(fmt.Errorf("it has more than %d keys", maxKeys))
			}
		}
	}
	if len(signer.keys) == 0 {
		return fail(errors.New("there is no key in it; export one with 'gpg --export --armor NAME'"))
	}
	return signer, nil
}

// Fingerprints lists the primary keys, in the keyring's order.
func (s Signer) Fingerprints() []string {
	var list []string
	for _, k := range s.keys {
		list = append(list, k.fingerprint)
	}
	return list
}

// unarmor returns the packets of each armored block, or of the whole when it
// is binary.
func unarmor(keyring []byte) ([][]byte, error) {
	trimmed := bytes.TrimLeft(keyring, " \t\r\n")
	switch {
	case len(trimmed) == 0:
		return nil, errors.New("it is empty")
	case len(keyring) > 12 && string(keyring[8:12]) == "KBXf":
		return nil, errors.New("it is a GnuPG keybox; export its keys with 'gpg --export'")
	case keyring[0]&0x80 != 0:
		return [][]byte{keyring}, nil
	case !bytes.Contains(trimmed, []byte("-----BEGIN ")):
		return nil, errors.New("it holds neither an armored nor a binary OpenPGP key; export one with 'gpg --export --armor NAME'")
	}
	var blocks [][]byte
	// One reader for all: the decoder reads ahead of the block's end.
	in := bufio.NewReader(bytes.NewReader(trimmed))
	for {
		block, err := armor.Decode(in)
		if errors.Is(err, io.EOF) {
			return blocks, nil
		}
		if err != nil {
			return nil, fmt.Errorf("its armor is damaged: %w", err)
		}
		switch block.Type {
		case openpgp.PublicKeyType:
		case openpgp.PrivateKeyType:
			return nil, errPrivate
		default:
			return nil, fmt.Errorf("it holds a %q, not a public key", block.Type)
		}
		body, err := io.ReadAll(block.Body)
		if err != nil {
			return nil, fmt.Errorf("its armor is damaged: %w", err)
		}
		blocks = append(blocks, body)
	}
}

var errPrivate = errors.New("it holds a private key, which must not be on this machine; export the public one with 'gpg --export --armor NAME'")

func newKey(entity *openpgp.Entity) (key, error) {
	if entity.PrivateKey != nil || slices.ContainsFunc(entity.Subkeys, func(s openpgp.Subkey) bool { return s.PrivateKey != nil }) {
		return key{}, errPrivate
	}
	var raw bytes.Buffer
	if err := entity.Serialize(&raw); err != nil {
		return key{}, err
	}
	k := key{fingerprint: fingerprint(entity.PrimaryKey), ids: []uint64{entity.PrimaryKey.KeyId}, raw: raw.Bytes()}
	for _, subkey := range entity.Subkeys {
		k.ids = append(k.ids, subkey.PublicKey.KeyId)
	}
	// What cannot be read back would fail at the first signature.
	_, err := k.entity()
	return k, err
}

func (k key) entity() (*openpgp.Entity, error) {
	return openpgp.ReadEntity(packet.NewReader(bytes.NewReader(k.raw)))
}

// fingerprint is in capitals, as gpg prints it.
func fingerprint(k *packet.PublicKey) string {
	return strings.ToUpper(fmt.Sprintf("%x", k.Fingerprint))
}
