package gate

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/openpgp"
	"github.com/trustgate/trustgate/oci"
)

// ErrSignature reports a signature that the gate does not keep, and why.
var ErrSignature = errors.New("the signature is not accepted")

// Signatures is a route's OpenPGP signatures: where they are looked for, and
// where those go that clients hand to the gate.
type Signatures struct {
	Collector *openpgp.Collector // also among the route's Collectors
	Kept      *openpgp.Lookaside // one of the Collector's stores
}

// Signatures returns the OpenPGP signatures of d as they are stored, wherever
// that is, for clients that verify them by their own policy. What could not be
// had is missing, and logged: to such a client it is a missing signature.
func (g *Gate) Signatures(ctx context.Context, repository oci.Reference, d digest.Digest) ([][]byte, error) {
	route, err := g.route(repository)
	if err != nil {
		return nil, err
	}
	if route.Signatures.Collector == nil {
		return nil, nil
	}
	src, err := g.origin(route, repository)
	if err != nil {
		return nil, err
	}
	m, err := src.Manifest(ctx, d)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, g.Lifetimes.Deadline)
	defer cancel()
	found, problems := route.Signatures.Collector.Find(ctx, evidence.Subject{
		Repository: repository.InRepository(), Manifest: m, Source: src, Limits: g.Limits.Evidence,
	})
	for _, p := range problems {
		g.Log.Warn("signatures could not be had", zap.Stringer("repository", repository), zap.Stringer("digest", d), zap.String("problem", p.Message))
	}
	raw := make([][]byte, len(found))
	for i, f := range found {
		raw[i] = f.Raw
	}
	return raw, nil
}

// AddSignature keeps a signature of d. Only one that verifies is kept: made by
// a signer of the configuration, over d, for this repository. Anything else
// would let strangers fill the gate with noise. It counts in the next
// judgement.
//
// The error matches ErrSignature when the signature is refused.
func (g *Gate) AddSignature(ctx context.Context, repository oci.Reference, d digest.Digest, raw []byte) error {
	route, err := g.route(repository)
	if err != nil {
		return err
	}
	if route.Signatures.Kept == nil {
		return fmt.Errorf("%w: the gate keeps none for %s", ErrSignature, repository.Registry())
	}
	s := route.Signatures.Collector.Verify(raw, d)
	if !s.By.Verified() {
		return fmt.Errorf("%w: %s", ErrSignature, s.Err)
	}
	if named, err := oci.ParseReference(s.Reference); err != nil || named.Name() != repository.Name() {
		return fmt.Errorf("%w: it is for %.300q, not for %s", ErrSignature, s.Reference, repository.Name())
	}
	// One by each signer for each name is enough. More would be the same one in
	// other bytes, with which anybody could fill up what is looked at.
	kept, err := route.Signatures.Kept.Signatures(ctx, repository, d)
	if err != nil {
		return err
	}
	for _, k := range kept {
		have := route.Signatures.Collector.Verify(k.Raw, d)
		if have.By == s.By && have.Reference == s.Reference {
			return nil
		}
	}
	if err := route.Signatures.Kept.Add(repository, d, raw); err != nil {
		return err
	}
	g.outdate(repository.InRepository().WithDigest(d))
	g.Log.Info("signature added", zap.Stringer("repository", repository), zap.Stringer("digest", d),
		zap.String("reference", s.Reference), zap.String("signer", s.By.Signer().Name))
	return nil
}
