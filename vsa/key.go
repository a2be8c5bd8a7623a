package vsa

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// maxKey bounds a key file, in bytes.
const maxKey = 64 << 10

// Key is the private key that the gate's word is signed with: ECDSA on P-256,
// the kind that cosign makes and that every verifier knows.
type Key struct {
	private *ecdsa.PrivateKey
	public  []byte // PEM
	hint    string // by which a bundle tells keys apart
}

// OpenKey reads an unencrypted PKCS #8 key in PEM. Where there is no file it
// makes one, with the public half beside it as path.pub: the gate has a word of
// its own from its first start on.
func OpenKey(path string) (*Key, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the gate's key: %w", err)
	}
	if len(raw) > maxKey {
		return nil, fmt.Errorf("reading the gate's key: %s has more than %d bytes", path, maxKey)
	}
	parsed, err := cryptoutils.UnmarshalPEMToPrivateKey(raw, cryptoutils.SkipPassword)
	if err != nil {
		return nil, fmt.Errorf("reading the gate's key %s: %w; it must be an unencrypted PKCS #8 key in PEM, readable by the gate alone", path, err)
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, fmt.Errorf("the gate's key %s is a %T; make one with 'openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256'", path, parsed)
	}
	return newKey(private)
}

func makeKey(path string) (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	k, err := newKey(private)
	if err != nil {
		return nil, err
	}
	raw, err := cryptoutils.MarshalPrivateKeyToPEM(private)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("keeping the gate's new key: %w", err)
	}
	// Of two gates that start at once on one folder, both use the first one's.
	file, err := os.CreateTemp(filepath.Dir(path), ".key-")
	if err != nil {
		return nil, fmt.Errorf("keeping the gate's new key: %w", err)
	}
	defer os.Remove(file.Name())
	_, err = file.Write(raw)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return nil, fmt.Errorf("keeping the gate's new key: %w", err)
	}
	switch err := os.Link(file.Name(), path); {
	case errors.Is(err, fs.ErrExist):
		return OpenKey(path)
	case err != nil:
		return nil, fmt.Errorf("keeping the gate's new key: %w", err)
	}
	if err := os.WriteFile(path+".pub", k.public, 0o644); err != nil {
		return nil, fmt.Errorf("writing the gate's public key: %w", err)
	}
	return k, nil
}

func newKey(private *ecdsa.PrivateKey) (*Key, error) {
	public, err := cryptoutils.MarshalPublicKeyToPEM(private.Public())
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return &Key{private: private, public: public, hint: base64.StdEncoding.EncodeToString(sum[:])}, nil
}

// PublicPEM is the public half, as cosign.pub holds one.
func (k *Key) PublicPEM() []byte { return k.public }

var _ dsse.Signer = (*Key)(nil)

// Sign implements dsse.Signer. It signs without randomness (RFC 6979): the same
// verdict gives the same artifact, before and after a restart and on every
// replica.
func (k *Key) Sign(_ context.Context, data []byte) ([]byte, error) {
	sum := sha256.Sum256(data)
	return k.private.Sign(nil, sum[:], crypto.SHA256)
}

// KeyID implements dsse.Signer. Nothing protects it, so it says nothing.
func (k *Key) KeyID() (string, error) { return "", nil }
