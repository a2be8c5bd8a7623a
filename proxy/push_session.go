package proxy

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	"github.com/trustgate/trustgate/oci"
)

const (
	// sessionLife is how long a client may wait before it sends more of a blob.
	sessionLife = time.Hour

	// maxSession bounds a sealed session as clients hand it back, in bytes.
	maxSession = 16 << 10

	sealerKeySize = 32 // AES-256
)

// session is a blob upload that is under way. The upstream says where it goes
// on, in an URL that may be anywhere and whose query may be a credential; no
// client may read that, or choose it.
type session struct {
	ID       string `json:"id"`
	Location string `json:"location"`
	Until    int64  `json:"until"`          // seconds since 1970
	Bytes    int64  `json:"bytes"`          // that the upstream has; -1 when nobody knows
	Hash     []byte `json:"hash,omitempty"` // the state of SHA-256 over them, if it is known
}

// sealer seals sessions. Gates that share a key go on with each other's uploads.
type sealer struct{ aead cipher.AEAD }

// newSealer takes a key of its own out of the gate's; nil makes one that lasts
// as long as the process.
func newSealer(key []byte) (*sealer, error) {
	if key == nil {
		key = make([]byte, sealerKeySize)
		_, _ = rand.Read(key) // it never fails
	}
	raw, err := hkdf.Key(sha256.New, key, nil, "trustgate uploads", sealerKeySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &sealer{aead}, nil
}

// errSession says nothing of why: whoever forges one learns nothing.
var errSession = errors.New("there is no such upload here, or it has expired; begin it again")

func (k *sealer) seal(repository oci.Reference, s session, now time.Time) (string, error) {
	s.Until = now.Add(sessionLife).Unix()
	raw, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(k.aead.Seal(nil, nil, raw, boundTo(repository))), nil
}

func (k *sealer) open(repository oci.Reference, id, sealed string, now time.Time) (session, error) {
	if len(sealed) > maxSession {
		return session{}, errSession
	}
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		return session{}, errSession
	}
	plain, err := k.aead.Open(nil, nil, raw, boundTo(repository))
	if err != nil {
		return session{}, errSession
	}
	var s session
	if err := json.Unmarshal(plain, &s); err != nil || s.ID != id || now.Unix() >= s.Until {
		return session{}, errSession
	}
	return s, nil
}

// boundTo is what a session holds for and nothing else. Its first words keep
// the key from sealing anything that could be taken for a session.
func boundTo(repository oci.Reference) []byte {
	return []byte("trustgate upload session 1\x00" + repository.Name())
}
