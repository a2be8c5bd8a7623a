package attest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// maxKey bounds a key file, in bytes.
const maxKey = 64 << 10

// Key is a private key: ECDSA on P-256, the kind that cosign makes and that
// every verifier knows.
type Key struct {
	private *ecdsa.PrivateKey
	public  []byte // PEM
	hint    string // by which a bundle tells keys apart
}

// OpenKey reads a key that LoadKey does. Where there is no file it makes one,
// unencrypted, with the public half beside it as path.pub: the gate has a word
// of its own from its first start on.
func OpenKey(path string) (*Key, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the gate's key: %w", err)
	}
	k, err := LoadKey(raw, func() ([]byte, error) {
		return nil, errors.New("it is encrypted, and nobody is there to type a passphrase")
	})
	if err != nil {
		return nil, fmt.Errorf("reading the gate's key %s: %w", path, err)
	}
	return k, nil
}

// encryptedType is how cosign.key begins.
const encryptedType = "ENCRYPTED SIGSTORE PRIVATE KEY"

// LoadKey reads a PKCS #8 key in PEM, or a cosign.key, for which passphrase is
// asked.
func LoadKey(raw []byte, passphrase func() ([]byte, error)) (*Key, error) {
	if len(raw) > maxKey {
		return nil, fmt.Errorf("it has more than %d bytes", maxKey)
	}
	if block, _ := pem.Decode(raw); block != nil && block.Type == encryptedType {
		secret, err := passphrase()
		if err != nil {
			return nil, err
		}
		der, err := encrypted.Decrypt(block.Bytes, secret)
		if err != nil {
			return nil, errors.New("the passphrase does not open the key")
		}
		raw = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	parsed, err := cryptoutils.UnmarshalPEMToPrivateKey(raw, cryptoutils.SkipPassword)
	if err != nil {
		return nil, fmt.Errorf("%w; it must be a cosign.key, or an unencrypted PKCS #8 key in PEM", err)
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, fmt.Errorf("it is a %T; make one with 'cosign generate-key-pair', or 'openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256'", parsed)
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
// statement gives the same artifact, before and after a restart and on every
// replica.
func (k *Key) Sign(_ context.Context, data []byte) ([]byte, error) {
	sum := sha256.Sum256(data)
	return k.private.Sign(nil, sum[:], crypto.SHA256)
}

// KeyID implements dsse.Signer. Nothing protects it, so it says nothing.
func (k *Key) KeyID() (string, error) { return "", nil }
