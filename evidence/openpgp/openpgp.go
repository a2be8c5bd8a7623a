// Package openpgp finds and verifies the OpenPGP signatures of container
// images that podman, skopeo and CRI-O know as simple signing.
//
// It looks in lookaside stores, in the registry's signatures extension, among
// the referrers, and under the tag where cosign puts signatures. Nothing that it finds is verified but by a key of a
// signer that the configuration names, and it never looks for keys anywhere
// else: there is no web of trust and no key server.
//
// https://github.com/containers/image/blob/main/docs/containers-signature.5.md
package openpgp

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/attached"
	"github.com/trustgate/trustgate/oci"
)

// MediaType is the layer media type and the artifact type of a signature that
// is stored as a referrer.
const MediaType = "application/vnd.containers.simplesigning.v1+pgp"

// Found is one signature as a store has it.
type Found struct {
	Location string // for people
	Raw      []byte
}

// Store holds signatures outside the repository. What it could read is
// returned beside an error for what it could not; no signatures is no error.
type Store interface {
	Signatures(ctx context.Context, repository oci.Reference, d digest.Digest) ([]Found, error)
}

// Collector gathers OpenPGP signatures.
type Collector struct {
	signers []Signer
	stores  []Store
	clock   func() time.Time
}

var _ evidence.Collector = (*Collector)(nil)

// New makes a collector. It always looks among the referrers; stores are asked
// besides. Without signers it still reports what there is. A nil clock is
// time.Now.
func New(signers []Signer, stores []Store, clock func() time.Time) *Collector {
	if clock == nil {
		clock = time.Now
	}
	return &Collector{signers: signers, stores: stores, clock: clock}
}

// Name implements evidence.Collector.
func (c *Collector) Name() string { return evidence.KindOpenPGP }

// Collect implements evidence.Collector.
func (c *Collector) Collect(ctx context.Context, subject evidence.Subject) evidence.Findings {
	found, findings := c.find(ctx, subject)
	now := c.clock()
	for _, f := range found {
		s := Verify(f.Raw, subject.Manifest.Digest, c.signers, now)
		s.Location = f.Location
		findings.Signatures = append(findings.Signatures, s)
	}
	return findings
}

// Find returns the signatures as they are stored, wherever that is, and what
// could not be had. Nothing about them has been checked.
func (c *Collector) Find(ctx context.Context, subject evidence.Subject) ([]Found, []evidence.Problem) {
	found, findings := c.find(ctx, subject)
	return found, findings.Problems
}

// Verify checks one signature of d by the collector's signers.
func (c *Collector) Verify(raw []byte, d digest.Digest) evidence.Signature {
	return Verify(raw, d, c.signers, c.clock())
}

// find looks everywhere at once. The findings hold what is there and could not
// be read.
func (c *Collector) find(ctx context.Context, subject evidence.Subject) ([]Found, evidence.Findings) {
	var findings evidence.Findings
	problem := func(err error) {
		findings.Problems = append(findings.Problems, evidence.NewProblem(c.Name(), err))
	}

	type answer struct {
		found    []Found
		err      error
		panicked any
	}
	answers := make([]answer, len(c.stores))
	var wg sync.WaitGroup
	for i, store := range c.stores {
		wg.Go(func() {
			defer func() { answers[i].panicked = recover() }()
			answers[i].found, answers[i].err = store.Signatures(ctx, subject.Repository, subject.Manifest.Digest)
		})
	}
	items, problems := attached.Find(ctx, subject, attached.Query{
		Collector: c.Name(),
		Tags:      attached.Tags(subject.Manifest.Digest, ".sig"),
		Artifact:  func(t string) bool { return t == MediaType },
		Layer:     func(t string) bool { return t == MediaType },
	})
	wg.Wait()
	findings.Problems = problems

	var found []Found
	seen := map[digest.Digest]bool{}
	add := func(f Found) {
		// Stores mirror each other; the first place that has it is named.
		if id := digest.FromBytes(f.Raw); !seen[id] {
			seen[id] = true
			found = append(found, f)
		}
	}
	for _, a := range answers {
		if a.panicked != nil {
			panic(a.panicked)
		}
		for _, f := range a.found {
			add(f)
		}
		if a.err != nil {
			problem(a.err)
		}
	}
	for _, item := range items {
		if item.Err != nil {
			findings.Signatures = append(findings.Signatures, evidence.Signature{
				Kind: evidence.KindOpenPGP, Binds: evidence.BindsTag, Location: item.Location, Err: item.Err.Error(),
			})
			continue
		}
		add(Found{Location: item.Location, Raw: item.Raw})
	}
	if n := subject.Limits.Signatures; len(found) > n {
		problem(fmt.Errorf("%s has %d OpenPGP signatures, more than limits.signatures (%d)", subject.Manifest.Digest, len(found), n))
		found = found[:n]
	}
	return found, findings
}
