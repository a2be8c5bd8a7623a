package provenance

import (
	"fmt"
	"slices"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/pattern"
)

// Builder says whose word counts for a builder.
type Builder struct {
	// ID is a glob over builder IDs. A `*` at its end stands for anything that
	// follows, slashes included: "https://github.com/acme/ci*" covers every
	// workflow of the repository ci, and those of ci-tools as well; write
	// "https://github.com/acme/ci/*" to keep to the one.
	ID string
	// Signers are the names in trust.signers that may sign for it; with none,
	// nobody may.
	Signers []string
}

// Validate says what is wrong with the builder. One that is wrong trusts
// nothing.
func (b Builder) Validate() error {
	if _, err := pattern.CompilePrefix(b.ID); err != nil {
		return fmt.Errorf("the builder %.200q: %w", b.ID, err)
	}
	if len(b.Signers) == 0 {
		return fmt.Errorf("the builder %.200q names no signers: list those that may sign its provenance", b.ID)
	}
	return nil
}

func (b Builder) trusts(p *Provenance, by evidence.Voucher) bool {
	if !by.Verified() || p.BuilderID == "" || !slices.Contains(b.Signers, by.Signer().Name) {
		return false
	}
	id, err := pattern.CompilePrefix(b.ID)
	return err == nil && id.Match(p.BuilderID)
}

// Build is the provenance that stands for an image.
type Build struct {
	Provenance
	By       evidence.Voucher
	Trusted  bool   // By may speak for this builder; never without By being verified
	Location string // where the attestation was found
}

// Choose picks the provenance to go by: one that a trusted builder's signer
// vouches for, else one that any signer vouches for, else a claim; the first
// among equals, and the image's own before that of its index. It is nil when
// there is none.
//
// A verified provenance that cannot be read is a Problem: it may be the one
// that mattered. An unreadable claim is nothing.
func Choose(attestations []evidence.Attestation, builders []Builder) (*Build, []evidence.Problem) {
	var best *Build
	var problems []evidence.Problem
	bestRank := -1
	for _, a := range attestations {
		if a.Err != "" || !IsProvenance(a.PredicateType) {
			continue
		}
		p, err := Parse(a.PredicateType, a.Predicate)
		if err != nil {
			if a.By.Verified() {
				problems = append(problems, evidence.NewProblem("provenance", fmt.Errorf("reading the provenance that %s signed, at %s: %w", a.By.Signer().Name, a.Location, err)))
			}
			continue
		}
		build := &Build{Provenance: *p, By: a.By, Location: a.Location}
		build.Trusted = slices.ContainsFunc(builders, func(b Builder) bool { return b.trusts(p, a.By) })
		if r := build.rank(a.Inherited); r > bestRank {
			best, bestRank = build, r
		}
	}
	return best, problems
}

func (b *Build) rank(inherited bool) int {
	r := 0
	switch {
	case b.Trusted:
		r = 4
	case b.By.Verified():
		r = 2
	}
	if !inherited {
		r++
	}
	return r
}
