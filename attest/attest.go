// Package attest signs in-toto statements and packs them as artifacts that
// refer to an image: sigstore bundles, which every verifier of such can check
// with the public key. The gate's own verdicts are among them.
//
// It repeats what has been decided or found. It must never decide, and never
// sign a statement about anything but the one digest that it is given.
package attest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/trustgate/trustgate/oci"
)

// The media types of an artifact that carries a statement.
//
// https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md
const (
	mediaTypeBundle    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	mediaTypeStatement = "application/vnd.in-toto+json"
)

// Statement says something about one manifest.
//
// https://github.com/in-toto/attestation/blob/v1.1.1/spec/v1/statement.md
type Statement struct {
	Subject       oci.Descriptor
	Name          string // of the subject, for people
	PredicateType string
	Predicate     any // written as JSON
	Time          time.Time
	Annotations   map[string]string // of the artifact
}

// Artifact is a referrer of the subject, with everything that it is made of.
type Artifact struct {
	Manifest *oci.Manifest
	Config   []byte
	Bundle   []byte
}

// Attest signs a statement. The same statement and key give the same bytes.
func (k *Key) Attest(ctx context.Context, s Statement) (*Artifact, error) {
	raw, err := json.Marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"predicateType": s.PredicateType,
		"subject":       []any{map[string]any{"name": s.Name, "digest": digestSet(s.Subject.Digest)}},
		"predicate":     s.Predicate,
	})
	if err != nil {
		return nil, fmt.Errorf("writing a statement about %s: %w", s.Subject.Digest, err)
	}
	bundle, err := k.bundle(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("signing a statement about %s: %w", s.Subject.Digest, err)
	}
	return s.pack(bundle)
}

func digestSet(d digest.Digest) map[string]string {
	if d == "" {
		return nil
	}
	return map[string]string{d.Algorithm().String(): d.Encoded()}
}

// bundle signs a statement.
//
// https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto
func (k *Key) bundle(ctx context.Context, statement []byte) ([]byte, error) {
	signer, err := dsse.NewEnvelopeSigner(k)
	if err != nil {
		return nil, err
	}
	envelope, err := signer.SignPayload(ctx, mediaTypeStatement, statement)
	if err != nil {
		return nil, err
	}
	signature, err := base64.StdEncoding.DecodeString(envelope.Signatures[0].Sig)
	if err != nil {
		return nil, err
	}
	loose, err := protojson.Marshal(&protobundle.Bundle{
		MediaType: mediaTypeBundle,
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: k.hint}},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: statement, PayloadType: mediaTypeStatement, Signatures: []*protodsse.Signature{{Sig: signature}},
		}},
	})
	if err != nil {
		return nil, err
	}
	// The library varies its white space on purpose.
	var compact bytes.Buffer
	err = json.Compact(&compact, loose)
	return compact.Bytes(), err
}

func (s Statement) pack(bundle []byte) (*Artifact, error) {
	annotations := map[string]string{
		ocispec.AnnotationCreated:           s.Time.UTC().Format(time.RFC3339),
		"dev.sigstore.bundle.content":       "dsse-envelope",
		"dev.sigstore.bundle.predicateType": s.PredicateType,
	}
	for key, value := range s.Annotations {
		annotations[key] = value
	}
	config := ocispec.DescriptorEmptyJSON
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: mediaTypeBundle,
		Config:       oci.Descriptor{MediaType: config.MediaType, Digest: config.Digest, Size: config.Size},
		Layers:       []oci.Descriptor{{MediaType: mediaTypeBundle, Digest: digest.FromBytes(bundle), Size: int64(len(bundle))}},
		Subject:      &oci.Descriptor{MediaType: s.Subject.MediaType, Digest: s.Subject.Digest, Size: s.Subject.Size},
		Annotations:  annotations,
	})
	if err != nil {
		return nil, err
	}
	m, err := oci.ParseManifest(manifest, "", "")
	if err != nil {
		return nil, err
	}
	return &Artifact{Manifest: m, Config: config.Data, Bundle: bundle}, nil
}
