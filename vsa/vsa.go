// Package vsa writes a verdict down as a signed SLSA Verification Summary
// Attestation: the gate's word, in a form that every verifier of sigstore
// bundles can check without knowing the gate.
//
// It repeats what has been decided. It must never decide, and never sign
// anything but a summary.
//
// https://slsa.dev/spec/v1.1/verification_summary
package vsa

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

// PredicateType is that of a summary.
const PredicateType = "https://slsa.dev/verification_summary/v1"

// The media types of the artifact that carries a summary.
//
// https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md
const (
	mediaTypeBundle    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	mediaTypeStatement = "application/vnd.in-toto+json"
	typeStatement      = "https://in-toto.io/Statement/v1"
)

// The levels that a build is found to have.
//
// https://slsa.dev/spec/v1.1/verification_summary#slsaresult
const (
	Level0 = "SLSA_BUILD_LEVEL_0" // no provenance that a named signer vouches for
	Level1 = "SLSA_BUILD_LEVEL_1" // provenance that a named signer vouches for
	Level2 = "SLSA_BUILD_LEVEL_2" // signed by one who may speak for the trusted builder that it names
)

// Summary is one verdict.
type Summary struct {
	Subject  oci.Descriptor // the manifest that was judged
	Resource string         // the reference that was pulled
	Verifier string         // who judged, as a URI
	Version  string         // of TrustGate
	Time     time.Time
	Policy   digest.Digest // of the rules in force
	Decision string        // its id
	Input    digest.Digest // of the document that was judged
	Passed   bool
	Level    string         // of the image's own build
	Parents  map[string]int // how many of its parents have each level
}

// Artifact is a referrer of the subject, with everything that it is made of.
type Artifact struct {
	Manifest *oci.Manifest
	Config   []byte
	Bundle   []byte
}

type predicate struct {
	Verifier struct {
		ID      string            `json:"id"`
		Version map[string]string `json:"version"`
	} `json:"verifier"`
	TimeVerified       string         `json:"timeVerified"`
	ResourceURI        string         `json:"resourceUri"`
	Policy             resource       `json:"policy"`
	InputAttestations  []resource     `json:"inputAttestations"`
	VerificationResult string         `json:"verificationResult"`
	VerifiedLevels     []string       `json:"verifiedLevels"`
	DependencyLevels   map[string]int `json:"dependencyLevels,omitempty"`
	SLSAVersion        string         `json:"slsaVersion"`
}

type resource struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest,omitempty"`
}

// Attest makes the artifact. The same summary and key give the same bytes.
func (k *Key) Attest(ctx context.Context, s Summary) (*Artifact, error) {
	statement, err := s.statement()
	if err != nil {
		return nil, err
	}
	bundle, err := k.bundle(ctx, statement)
	if err != nil {
		return nil, fmt.Errorf("signing the summary of decision %s: %w", s.Decision, err)
	}
	return pack(s, bundle)
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

func (s Summary) statement() ([]byte, error) {
	var p predicate
	p.Verifier.ID, p.Verifier.Version = s.Verifier, map[string]string{"trustgate": s.Version}
	p.TimeVerified = s.Time.UTC().Format(time.RFC3339)
	p.ResourceURI = s.Resource
	p.Policy = resource{URI: s.Verifier + "#policy", Digest: digestSet(s.Policy)}
	p.InputAttestations = []resource{{URI: "urn:trustgate:decision:" + s.Decision, Digest: digestSet(s.Input)}}
	p.VerificationResult = "FAILED"
	p.VerifiedLevels = []string{}
	if s.Passed {
		p.VerificationResult = "PASSED"
		p.VerifiedLevels = []string{s.Level}
	}
	p.DependencyLevels = s.Parents
	p.SLSAVersion = "1.1"
	return json.Marshal(map[string]any{
		"_type":         typeStatement,
		"predicateType": PredicateType,
		"subject":       []any{map[string]any{"name": s.Resource, "digest": digestSet(s.Subject.Digest)}},
		"predicate":     p,
	})
}

func digestSet(d digest.Digest) map[string]string {
	if d == "" {
		return nil
	}
	return map[string]string{d.Algorithm().String(): d.Encoded()}
}

func pack(s Summary, bundle []byte) (*Artifact, error) {
	config := ocispec.DescriptorEmptyJSON
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: mediaTypeBundle,
		Config:       oci.Descriptor{MediaType: config.MediaType, Digest: config.Digest, Size: config.Size},
		Layers:       []oci.Descriptor{{MediaType: mediaTypeBundle, Digest: digest.FromBytes(bundle), Size: int64(len(bundle))}},
		Subject:      &oci.Descriptor{MediaType: s.Subject.MediaType, Digest: s.Subject.Digest, Size: s.Subject.Size},
		Annotations: map[string]string{
			ocispec.AnnotationCreated:           s.Time.UTC().Format(time.RFC3339),
			"dev.sigstore.bundle.content":       "dsse-envelope",
			"dev.sigstore.bundle.predicateType": PredicateType,
			"io.github.trustgate.decision":      s.Decision,
			ocispec.AnnotationDescription:       "TrustGate's verdict on this image",
		},
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
