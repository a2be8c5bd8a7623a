// Package notation finds and verifies Notary Project signatures: the envelopes,
// JWS or COSE, that notation pushes as referrers of an image.
//
// The check is notation-go's own, with a trust policy and a trust store that
// are made in memory from what the configuration says of each signer. The
// package never reads the trust store, the policy or the plugins that notation
// may have on this machine, never runs a plugin, never trusts a certificate
// because an envelope carries it, and never passes what it does not understand:
// an attribute that the signer marked critical is refused. It uses the network
// for nothing but the revocation of certificates under a signer's own CA, and
// for that only when it is given a client.
//
// https://github.com/notaryproject/specifications/blob/v1.1.0/specs/signature-specification.md
// https://github.com/notaryproject/specifications/blob/v1.1.0/specs/trust-store-trust-policy.md
package notation

import (
	"context"
	"fmt"
	"time"

	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/notation-go/registry"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/attached"
	"github.com/trustgate/trustgate/evidence/internal/seal"
	"github.com/trustgate/trustgate/oci"
)

// Collector gathers Notary Project signatures.
type Collector struct{ signers []Signer }

var _ evidence.Collector = (*Collector)(nil)

// New makes a collector. Without signers it still reports what there is.
func New(signers []Signer) *Collector { return &Collector{signers: signers} }

// Name implements evidence.Collector.
func (c *Collector) Name() string { return evidence.KindNotation }

// Collect implements evidence.Collector.
func (c *Collector) Collect(ctx context.Context, subject evidence.Subject) evidence.Findings {
	subject.Source = signaturesOnly{subject.Source}
	items, problems := attached.Find(ctx, subject, attached.Query{
		Collector: c.Name(),
		Artifact:  func(t string) bool { return t == registry.ArtifactTypeNotation },
		Layer:     func(t string) bool { return t == jws.MediaTypeEnvelope || t == cose.MediaTypeEnvelope },
	})
	found := evidence.Findings{Problems: problems}
	seen := map[envelopeID]bool{}
	for _, item := range items {
		s := evidence.Signature{Kind: evidence.KindNotation, Binds: evidence.BindsDigest, Location: item.Location}
		err := item.Err
		if err == nil {
			id := envelopeID{item.Layer.MediaType, item.Layer.Digest}
			if seen[id] {
				continue // the same envelope in another manifest
			}
			seen[id] = true
			err = c.look(ctx, &s, subject.Manifest, item)
		}
		if err != nil {
			s.Err = err.Error()
			if evidence.Temporary(err) {
				found.Problems = append(found.Problems, evidence.NewProblem(c.Name(), fmt.Errorf("verifying the notation signatures of %s: %w", subject.Manifest.Digest, err)))
			}
		}
		found.Signatures = append(found.Signatures, s)
	}
	return found
}

// envelopeID tells envelopes apart. The media type is a part of it, since it is
// how the bytes are read, and whoever pushes can list them under any.
type envelopeID struct {
	mediaType string
	digest    digest.Digest
}

// signaturesOnly hides the referrers of every other artifact type: the media
// types of envelopes are not notation's alone.
type signaturesOnly struct{ evidence.Source }

func (s signaturesOnly) Manifest(ctx context.Context, d digest.Digest) (*oci.Manifest, error) {
	m, err := s.Source.Manifest(ctx, d)
	if err == nil && m.ArtifactType != registry.ArtifactTypeNotation {
		return nil, fmt.Errorf("%w: %s is no notation signature", oci.ErrNotFound, d)
	}
	return m, err
}

// look reads one envelope. It fills in what the signature claims of itself as
// far as it gets, and vouches for it only at the end.
func (c *Collector) look(ctx context.Context, s *evidence.Signature, m *oci.Manifest, item attached.Item) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("there was no time left to verify it: %w", err)
	}
	e, err := open(item.Layer.MediaType, item.Raw)
	if err != nil {
		return err
	}
	s.SignedAt, s.ExpiresAt = e.signedAt(), e.expiresAt()
	now := time.Now()
	if err := e.check(m, now); err != nil {
		return err
	}
	var refused error
	for _, signer := range c.signers {
		if signer.by == nil || !signer.by.anchors(e.chain()) {
			continue
		}
		signedAt, err := signer.by.verify(ctx, e, m, now)
		if err == nil {
			s.SignedAt = signedAt
			s.By = evidence.Vouch(seal.Key{}, e.signer(signer.by.name))
			return nil
		}
		if refused == nil || evidence.Temporary(err) {
			refused = fmt.Errorf("made under the CA of the signer %q: %w", signer.by.name, err)
		}
	}
	if refused != nil {
		return refused
	}
	return e.unknown()
}
