package provenance

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/giturl"
)

// TypeReproduction is the predicate type of a statement that somebody built the
// image again from the same source, and what came of it:
//
//	{"builder":    {"id": "https://rebuilder.example/"},
//	 "source":     {"repository": "https://…", "revision": "…"},
//	 "identical":  true,
//	 "rebuilt":    {"sha256": "…"},
//	 "differences": ["…"],
//	 "finishedOn": "2026-11-24T00:00:00Z"}
//
// Its subject is the image that was to be reproduced.
const TypeReproduction = "https://github.com/trustgate/trustgate/reproduction/v1"

// Reproduction is what such a statement says.
type Reproduction struct {
	BuilderID  string
	Repository string
	Revision   string
	Identical  bool
}

// ParseReproduction reads a predicate of TypeReproduction. Every error matches
// ErrProvenance.
func ParseReproduction(predicate []byte) (*Reproduction, error) {
	if len(predicate) > maxPredicate {
		return nil, fmt.Errorf("%w: it has %d bytes, more than %d", ErrProvenance, len(predicate), maxPredicate)
	}
	var failed error
	top := openObject(predicate, "predicate", &failed)
	source := top.object("source")
	r := &Reproduction{
		BuilderID:  top.object("builder").text("id"),
		Repository: source.text("repository"), Revision: source.text("revision"),
	}
	if !top.decode("identical", &r.Identical) && failed == nil {
		failed = errors.New("predicate.identical is missing")
	}
	if failed != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvenance, failed)
	}
	// As in a provenance: one repository is spelled in many ways.
	if parsed, err := giturl.Parse(r.Repository); err == nil {
		r.Repository = parsed.Repository
	}
	return r, nil
}

// Reproduced is which independent builders came to this digest, and which to
// another, from the source that build names.
type Reproduced struct {
	By       []string // builder IDs that agree, sorted
	Agree    int      // how many of them are independent
	Disagree []string // builder IDs that do not
}

// CountReproductions asks every verified statement: provenance by a trusted
// builder for the same source and revision agrees, since it is about this very
// digest; a reproduction says so itself. A builder counts once and only when
// its signer may speak for it, as in Choose. One that says both disagrees. Many
// builders behind one signer's key are one: whoever has the key is all of them.
func CountReproductions(build *Build, attestations []evidence.Attestation, builders []Builder) Reproduced {
	var r Reproduced
	if build == nil || !build.Trusted || build.Repository == "" || build.Revision == "" {
		return r
	}
	agree, disagree, keys := map[string]bool{}, map[string]bool{}, map[evidence.Signer]bool{}
	count := func(p *Provenance, by evidence.Voucher, identical bool) {
		if p.Repository != build.Repository || p.Revision != build.Revision ||
			!slices.ContainsFunc(builders, func(b Builder) bool { return b.trusts(p, by) }) {
			return
		}
		if identical {
			agree[p.BuilderID], keys[by.Signer()] = true, true
		} else {
			disagree[p.BuilderID] = true
		}
	}
	for _, a := range attestations {
		switch {
		case a.Err != "" || !a.By.Verified():
		case IsProvenance(a.PredicateType):
			if p, err := Parse(a.PredicateType, a.Predicate); err == nil {
				count(p, a.By, true)
			}
		case a.PredicateType == TypeReproduction:
			if p, err := ParseReproduction(a.Predicate); err == nil {
				count(&Provenance{BuilderID: p.BuilderID, Repository: p.Repository, Revision: p.Revision}, a.By, p.Identical)
			}
		}
	}
	for id := range disagree {
		delete(agree, id)
		r.Disagree = append(r.Disagree, id)
	}
	for id := range agree {
		r.By = append(r.By, id)
	}
	r.Agree = min(len(r.By), len(keys))
	slices.Sort(r.By)
	slices.Sort(r.Disagree)
	return r
}

// ReproductionPredicate is what ParseReproduction reads, with what it passes
// over: the digest of the other build and where it differs.
func ReproductionPredicate(r Reproduction, rebuilt digest.Digest, differences []string, finished time.Time) map[string]any {
	return map[string]any{
		"builder":     map[string]string{"id": r.BuilderID},
		"source":      map[string]string{"repository": r.Repository, "revision": r.Revision},
		"identical":   r.Identical,
		"rebuilt":     map[string]string{rebuilt.Algorithm().String(): rebuilt.Encoded()},
		"differences": differences,
		"finishedOn":  finished.UTC().Format(time.RFC3339),
	}
}
