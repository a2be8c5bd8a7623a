// Package buildkit finds the attestations that BuildKit stores inside an index,
// beside the images that they are about.
//
// They are unsigned, so everything that it returns is a claim: it never
// verifies. Whoever signs the index commits to them, which is for
// evidence.Findings.Cover to say.
//
// https://github.com/moby/buildkit/blob/v0.24.0/docs/attestations/attestation-storage.md
package buildkit

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/attached"
	"github.com/trustgate/trustgate/oci"
)

const mediaTypeStatement = "application/vnd.in-toto+json"

// Collector gathers in-index attestations. Its zero value is ready for use.
type Collector struct{}

var _ evidence.Collector = Collector{}

// New makes a collector.
func New() Collector { return Collector{} }

// Name implements evidence.Collector.
func (Collector) Name() string { return "buildkit" }

// Collect implements evidence.Collector. An image that is not known to come
// out of an index has none, and neither has the index itself.
func (c Collector) Collect(ctx context.Context, subject evidence.Subject) evidence.Findings {
	var found evidence.Findings
	index, image := subject.Index, subject.Manifest.Digest
	if index == nil || subject.Manifest.Kind == oci.KindIndex {
		return found
	}
	problem := func(err error) { found.Problems = append(found.Problems, evidence.NewProblem(c.Name(), err)) }

	var holders []attached.Holder
	seen := map[digest.Digest]bool{}
	for _, entry := range index.Manifests {
		if about, ok := oci.IsAttestationManifest(entry); !ok || about != image.String() || seen[entry.Digest] {
			continue
		}
		seen[entry.Digest] = true
		if len(seen) > subject.Limits.Signatures {
			problem(fmt.Errorf("the index %s has more attestation manifests for %s than limits.signatures (%d)", index.Digest, image, subject.Limits.Signatures))
			break
		}
		location := fmt.Sprintf("index %s, attestation manifest %s", index.Digest, entry.Digest)
		m, err := subject.Source.Manifest(ctx, entry.Digest)
		switch {
		case errors.Is(err, oci.ErrNotFound):
			// An index that was copied for one platform leaves its others behind.
		case err != nil:
			problem(fmt.Errorf("fetching the %s: %w", location, err))
		case m.Kind != oci.KindEvidence:
			found.Attestations = append(found.Attestations, evidence.Attestation{
				Location: location, InIndex: index.Digest,
				Err: fmt.Sprintf("the index calls it an attestation manifest, and it is an %s", m.Kind),
			})
		default:
			holders = append(holders, attached.Holder{Manifest: m, Location: location})
		}
	}
	items, problems := attached.Read(ctx, subject, attached.Query{
		Collector: c.Name(),
		Layer:     func(t string) bool { return t == mediaTypeStatement },
	}, holders)
	found.Problems = append(found.Problems, problems...)
	for _, item := range items {
		found.Attestations = append(found.Attestations, claim(item, image, index.Digest))
	}
	return found
}

// claim reads one statement.
func claim(item attached.Item, image, index digest.Digest) evidence.Attestation {
	a := evidence.Attestation{Location: item.Location, InIndex: index}
	if item.Err != nil {
		a.Err = item.Err.Error()
		return a
	}
	statement, err := evidence.ParseStatement(item.Raw)
	if err != nil {
		a.Err = err.Error()
		return a
	}
	a.PredicateType = statement.PredicateType
	if !statement.Covers(image) {
		a.Err = "its statement is not about this image, though the index says so"
		return a
	}
	a.Subject, a.Predicate = image, statement.Predicate
	return a
}
