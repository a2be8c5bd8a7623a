// Package sigstore finds and verifies what cosign attaches to images:
// signatures and attestations under its tags (sha256-<hex>.sig, .att) and
// sigstore bundles among the referrers.
//
// Verification is by the signers that the configuration names: public keys,
// and identities in certificates, whose authorities and logs a trusted root
// lists. Whatever came with the signature must be enough: the package never
// goes to a transparency log, a certificate authority or a key server, and
// never takes the name in a bundle's hint for an identity.
//
// https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md
// https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md
package sigstore

import (
	"context"
	"strings"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/attached"
)

// The media types of layers that cosign attaches.
const (
	mediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	mediaTypeEnvelope      = "application/vnd.dsse.envelope.v1+json"
	mediaTypeStatement     = "application/vnd.in-toto+json"
	mediaTypeBundle        = "application/vnd.dev.sigstore.bundle" // and a version
)

// Collector gathers cosign signatures and attestations.
type Collector struct{ signers []Signer }

var _ evidence.Collector = (*Collector)(nil)

// New makes a collector. Without signers it still reports what there is.
func New(signers []Signer) *Collector { return &Collector{signers: signers} }

// Name implements evidence.Collector.
func (c *Collector) Name() string { return evidence.KindSigstore }

// Collect implements evidence.Collector.
func (c *Collector) Collect(ctx context.Context, subject evidence.Subject) evidence.Findings {
	items, problems := attached.Find(ctx, subject, attached.Query{
		Collector: c.Name(),
		Tags:      attached.Tags(subject.Manifest.Digest, ".sig", ".att"),
		Artifact: func(t string) bool {
			return isBundle(t) || t == mediaTypeSimpleSigning || t == mediaTypeEnvelope || t == mediaTypeStatement ||
				strings.HasPrefix(t, "application/vnd.dev.cosign.artifact.")
		},
		Layer: func(t string) bool {
			return isBundle(t) || t == mediaTypeSimpleSigning || t == mediaTypeEnvelope
		},
	})
	found := evidence.Findings{Problems: problems}
	for _, item := range items {
		signature, attestation := c.look(subject, item)
		if signature != nil {
			signature.Location = item.Location
			found.Signatures = append(found.Signatures, *signature)
		}
		if attestation != nil {
			attestation.Location = item.Location
			found.Attestations = append(found.Attestations, *attestation)
		}
	}
	return found
}

// look reads one layer, which is either a signature or an attestation.
func (c *Collector) look(subject evidence.Subject, item attached.Item) (*evidence.Signature, *evidence.Attestation) {
	var unread string
	if item.Err != nil {
		unread = item.Err.Error()
	}
	switch t := item.Layer.MediaType; {
	case t == mediaTypeSimpleSigning && unread != "":
		return &evidence.Signature{Kind: evidence.KindCosign, Err: unread}, nil
	case t == mediaTypeSimpleSigning:
		s := c.simpleSigning(subject.Manifest.Digest, item.Raw, item.Layer.Annotations)
		return &s, nil
	case unread != "":
		// What it is about can only be told from its content.
		return nil, &evidence.Attestation{Err: unread}
	case t == mediaTypeEnvelope:
		a := c.attestation(subject.Manifest.Digest, item.Raw, item.Layer.Annotations)
		return nil, &a
	}
	return c.bundled(subject.Manifest, item.Raw)
}

func isBundle(mediaType string) bool { return strings.HasPrefix(mediaType, mediaTypeBundle) }
