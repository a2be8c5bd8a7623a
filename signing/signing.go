// Package signing makes the signatures that a person puts on an image, as one
// signs a git tag: an OpenPGP message that names registry, repository, tag and
// digest, in the form that podman, skopeo and CRI-O verify.
//
// It signs with the person's own gpg or with an exported key. It must never
// sign a digest that it was not given, never keep a key or a passphrase, and
// never say that a signature is good: that is what package evidence/openpgp is
// for.
//
// https://github.com/containers/image/blob/main/docs/containers-signature.5.md
package signing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	evidence "github.com/trustgate/trustgate/evidence/openpgp"
	"github.com/trustgate/trustgate/oci"
)

// Signer makes an OpenPGP signed message around a document.
type Signer interface {
	Sign(ctx context.Context, document []byte) ([]byte, error)
}

// ErrReference reports a reference that a signature cannot be bound to.
var ErrReference = errors.New("a signature names a tag and a digest")

// Image signs ref, which has a tag and the digest that the tag names.
func Image(ctx context.Context, signer Signer, ref oci.Reference, creator string, now time.Time) ([]byte, error) {
	if ref.Tag() == "" || ref.Digest() == "" {
		return nil, fmt.Errorf("%w; write IMAGE:TAG", ErrReference)
	}
	document, err := json.Marshal(map[string]any{
		"critical": map[string]any{
			"type":     "atomic container signature",
			"image":    map[string]string{"docker-manifest-digest": ref.Digest().String()},
			"identity": map[string]string{"docker-reference": ref.WithDigest("").String()},
		},
		"optional": map[string]any{"creator": creator, "timestamp": now.Unix()},
	})
	if err != nil {
		return nil, err
	}
	signature, err := signer.Sign(ctx, document)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", ref, err)
	}
	return signature, nil
}

// GnuPG signs with the person's own gpg, whose agent asks for passphrases and
// talks to smart cards.
type GnuPG struct {
	Program string // "gpg" when empty
	Key     string // a fingerprint, key ID or user ID; gpg's default key when empty
}

// Sign implements Signer.
func (g GnuPG) Sign(ctx context.Context, document []byte) ([]byte, error) {
	program := g.Program
	if program == "" {
		program = "gpg"
	}
	args := []string{"--quiet", "--no-armor", "--output", "-"}
	if g.Key != "" {
		args = append(args, "--local-user", g.Key)
	}
	cmd := exec.CommandContext(ctx, program, append(args, "--sign")...) // #nosec G204 -- whoever signs names the program and the key
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(document), &out, &said
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s; 'gpg --list-secret-keys' shows the keys that can sign", program, err, strings.Join(strings.Fields(said.String()), " "))
	}
	if out.Len() == 0 {
		return nil, fmt.Errorf("%s wrote no signature: %s", program, said.String())
	}
	return out.Bytes(), nil
}

// maxKey bounds an exported key, in bytes.
const maxKey = 1 << 20

// Exported is a secret key in memory.
type Exported struct{ entity *openpgp.Entity }

// OpenExported reads what 'gpg --export-secret-keys' writes, armored or not: one
// key. passphrase is asked for only if the key is locked.
func OpenExported(raw []byte, passphrase func() ([]byte, error)) (*Exported, error) {
	if len(raw) > maxKey {
		return nil, fmt.Errorf("the key has more than %d bytes", maxKey)
	}
	var packets io.Reader = bytes.NewReader(raw)
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("-----BEGIN ")) {
		block, err := armor.Decode(packets)
		if err != nil {
			return nil, fmt.Errorf("the key's armor is damaged: %w", err)
		}
		packets = block.Body
	}
	entities, err := openpgp.ReadKeyRing(packets)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the key: %w; export one with 'gpg --export-secret-keys --armor NAME'", err)
	case len(entities) != 1:
		return nil, fmt.Errorf("the file holds %d keys; export the one that signs", len(entities))
	case entities[0].PrivateKey == nil:
		return nil, errors.New("it is a public key; export the secret one with 'gpg --export-secret-keys --armor NAME'")
	}
	e := &Exported{entities[0]}
	if !e.locked() {
		return e, nil
	}
	secret, err := passphrase()
	if err != nil {
		return nil, err
	}
	if err := e.entity.DecryptPrivateKeys(secret); err != nil {
		return nil, errors.New("the passphrase does not open the key")
	}
	return e, nil
}

func (e *Exported) locked() bool {
	// A primary key that stays at home is a stub, which nothing unlocks.
	if e.entity.PrivateKey.Encrypted && !e.entity.PrivateKey.Dummy() {
		return true
	}
	for _, s := range e.entity.Subkeys {
		if s.PrivateKey != nil && s.PrivateKey.Encrypted && !s.PrivateKey.Dummy() {
			return true
		}
	}
	return false
}

// Sign implements Signer.
func (e *Exported) Sign(_ context.Context, document []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := openpgp.Sign(&out, []*openpgp.Entity{e.entity}, nil, &packet.Config{})
	if err != nil {
		return nil, fmt.Errorf("with the key %X: %w", e.entity.PrimaryKey.Fingerprint, err)
	}
	if _, err := w.Write(document); err != nil {
		return nil, err
	}
	// The writer's end is part of the bytes.
	err = w.Close()
	return out.Bytes(), err
}

// Referrer is a signature as an artifact whose subject is the image. Its blobs
// are, in the manifest's order, the config and the signature.
func Referrer(signature []byte, subject oci.Descriptor, now time.Time) (*oci.Manifest, [][]byte, error) {
	config := ocispec.DescriptorEmptyJSON
	raw, err := json.Marshal(ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: evidence.MediaType,
		Config:       oci.Descriptor{MediaType: config.MediaType, Digest: config.Digest, Size: config.Size},
		Layers:       []oci.Descriptor{{MediaType: evidence.MediaType, Digest: oci.DigestOf(signature, ""), Size: int64(len(signature))}},
		Subject:      &oci.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations:  map[string]string{ocispec.AnnotationCreated: now.UTC().Format(time.RFC3339)},
	})
	if err != nil {
		return nil, nil, err
	}
	m, err := oci.ParseManifest(raw, "", "")
	return m, [][]byte{config.Data, signature}, err
}

// ExtensionEntry is a signature as a registry with the signatures extension
// takes it. The name's second half only has to differ between signatures.
//
// https://github.com/containers/image/blob/main/docs/signature-protocols.md
func ExtensionEntry(signature []byte, ref oci.Reference) ([]byte, error) {
	return json.Marshal(map[string]any{
		"schemaVersion": 2, "type": "atomic",
		"name":    ref.Digest().String() + "@" + oci.DigestOf(signature, "").Encoded()[:32],
		"content": signature,
	})
}
