package shipyard

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/signature"
)

// Key is an ECDSA key as cosign makes them.
type Key struct{ private *ecdsa.PrivateKey }

// NewKey makes a key.
func NewKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return &Key{private}, err
}

// PublicPEM is the public half, as cosign.pub.
func (k *Key) PublicPEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.private.Public())
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// PrivatePEM is the private half, without a password.
func (k *Key) PrivatePEM() ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(k.private)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// Pair is a new key in its two halves, as PEM.
func Pair() (public, private string, err error) {
	key, err := NewKey()
	if err != nil {
		return "", "", err
	}
	one, err := key.PublicPEM()
	if err != nil {
		return "", "", err
	}
	other, err := key.PrivatePEM()
	return string(one), string(other), err
}

// Sign and KeyID make Key a dsse.Signer.
func (k *Key) Sign(_ context.Context, data []byte) ([]byte, error) {
	signer, err := signature.LoadECDSASigner(k.private, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return signer.SignMessage(bytes.NewReader(data))
}

// KeyID implements dsse.Signer; cosign leaves it empty too.
func (k *Key) KeyID() (string, error) { return "", nil }

// Sign publishes a cosign signature of the image beside it, in the layout with
// a .sig tag.
//
// https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
func (r *Registry) Sign(ctx context.Context, key *Key, image *Image) error {
	payload, err := simpleSigning("cosign container image signature", image.Digest, image.Name())
	if err != nil {
		return err
	}
	return r.attach(ctx, key, image, payload)
}

// Transplant publishes the signature of one image beside another.
func (r *Registry) Transplant(ctx context.Context, key *Key, from, to *Image) error {
	payload, err := simpleSigning("cosign container image signature", from.Digest, from.Name())
	if err != nil {
		return err
	}
	return r.attach(ctx, key, to, payload)
}

func (r *Registry) attach(ctx context.Context, key *Key, image *Image, payload []byte) error {
	sig, err := key.Sign(ctx, payload)
	if err != nil {
		return err
	}
	return r.append(ctx, image, ".sig", mutate.Addendum{
		Layer: static.NewLayer(payload, "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{
			"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig),
		},
	})
}

// Attest publishes a DSSE-signed in-toto statement about the image, in the
// layout with an .att tag.
//
// https://github.com/sigstore/cosign/blob/main/specs/ATTESTATION_SPEC.md
func (r *Registry) Attest(ctx context.Context, key *Key, image *Image, predicateType string, predicate any) error {
	statement, err := json.Marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v0.1",
		"predicateType": predicateType,
		"subject": []any{map[string]any{
			"name": image.Name(), "digest": map[string]string{image.Digest.Algorithm().String(): image.Digest.Encoded()},
		}},
		"predicate": predicate,
	})
	if err != nil {
		return err
	}
	signer, err := dsse.NewEnvelopeSigner(key)
	if err != nil {
		return err
	}
	envelope, err := signer.SignPayload(ctx, "application/vnd.in-toto+json", statement)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(envelope)
	if err != nil {
		return err
	}
	return r.append(ctx, image, ".att", mutate.Addendum{
		Layer:       static.NewLayer(raw, "application/vnd.dsse.envelope.v1+json"),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": "", "predicateType": predicateType},
	})
}

// append adds a layer to the artifact under the image's evidence tag.
func (r *Registry) append(ctx context.Context, image *Image, suffix string, layer mutate.Addendum) error {
	ref, err := r.tag(image.Repository, strings.Replace(image.Digest.String(), ":", "-", 1)+suffix)
	if err != nil {
		return err
	}
	var artifact v1.Image = mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	switch existing, err := remote.Image(ref, remote.WithContext(ctx)); {
	case err == nil:
		artifact = existing
	case !isNotFound(err):
		return fmt.Errorf("reading %s: %w", ref, err)
	}
	if artifact, err = mutate.Append(artifact, layer); err != nil {
		return err
	}
	return remote.Write(ref, artifact, remote.WithContext(ctx))
}

func isNotFound(err error) bool {
	var t *transport.Error
	return errors.As(err, &t) && t.StatusCode == http.StatusNotFound
}

// Provenance is a SLSA provenance of version 1 by the given builder, from the
// given source, with the given images as materials.
//
// https://slsa.dev/spec/v1.0/provenance
func Provenance(builder, repository, revision string, materials ...*Image) map[string]any {
	dependencies := []any{map[string]any{
		"uri": "git+" + repository + "@refs/heads/main", "digest": map[string]string{"gitCommit": revision},
	}}
	for _, m := range materials {
		dependencies = append(dependencies, map[string]any{
			"uri":    "pkg:docker/" + m.Name() + "@" + m.Tag + "?platform=linux%2Famd64",
			"digest": map[string]string{m.Digest.Algorithm().String(): m.Digest.Encoded()},
		})
	}
	return map[string]any{
		"buildDefinition": map[string]any{
			"buildType": "https://mobyproject.org/buildkit@v1",
			"externalParameters": map[string]any{
				"configSource": map[string]any{"uri": repository + ".git#refs/heads/main", "digest": map[string]string{"sha1": revision}, "path": "Dockerfile"},
			},
			"resolvedDependencies": dependencies,
		},
		"runDetails": map[string]any{"builder": map[string]any{"id": builder}},
	}
}

// ProvenanceType is the predicate type of Provenance.
const ProvenanceType = "https://slsa.dev/provenance/v1"

// PGP is an OpenPGP key.
type PGP struct {
	mu     sync.Mutex // signing writes what it found out about the key into it
	entity *openpgp.Entity
}

// NewPGP makes a key for the user id.
func NewPGP(name, email string) (*PGP, error) {
	entity, err := openpgp.NewEntity(name, "", email, nil)
	return &PGP{entity: entity}, err
}

// Public is the armored public key.
func (p *PGP) Public() ([]byte, error) {
	var out bytes.Buffer
	w, err := armor.Encode(&out, openpgp.PublicKeyType, nil)
	if err != nil {
		return nil, err
	}
	if err := p.entity.Serialize(w); err != nil {
		return nil, err
	}
	// The writer's end is part of the bytes.
	err = w.Close()
	return out.Bytes(), err
}

// Sign makes a simple signature that names registry, repository, tag and digest.
//
// https://github.com/containers/image/blob/main/docs/containers-signature.5.md
func (p *PGP) Sign(d digest.Digest, reference string) ([]byte, error) {
	payload, err := simpleSigning("atomic container signature", d, reference)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var out bytes.Buffer
	w, err := openpgp.Sign(&out, []*openpgp.Entity{p.entity}, nil, nil)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(payload); err != nil {
		return nil, err
	}
	// The writer's end is part of the bytes.
	err = w.Close()
	return out.Bytes(), err
}

// Lookaside is a folder of OpenPGP signatures as skopeo and podman write it.
type Lookaside struct{ Folder string }

// Sign adds a signature of the image to the folder, as signature-1, -2, …
func (l Lookaside) Sign(key *PGP, image *Image) error {
	return l.SignAs(key, image, image.Reference())
}

// SignAs adds a signature of the image's digest that names another reference.
func (l Lookaside) SignAs(key *PGP, image *Image, reference string) error {
	raw, err := key.Sign(image.Digest, reference)
	if err != nil {
		return err
	}
	folder := filepath.Join(l.Folder, filepath.FromSlash(image.Repository)+"@"+image.Digest.Algorithm().String()+"="+image.Digest.Encoded())
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for n := 1; ; n++ {
		f, err := os.OpenFile(filepath.Join(folder, fmt.Sprintf("signature-%d", n)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if _, err := f.Write(raw); err != nil {
			f.Close()
			return err
		}
		return f.Close()
	}
}

// Withdraw removes every signature of the image from the folder.
func (l Lookaside) Withdraw(image *Image) error {
	return os.RemoveAll(filepath.Join(l.Folder, filepath.FromSlash(image.Repository)+"@"+image.Digest.Algorithm().String()+"="+image.Digest.Encoded()))
}

func simpleSigning(kind string, d digest.Digest, reference string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"critical": map[string]any{
			"identity": map[string]string{"docker-reference": reference},
			"image":    map[string]string{"docker-manifest-digest": d.String()},
			"type":     kind,
		},
		"optional": map[string]any{"creator": "shipyard"},
	})
}
