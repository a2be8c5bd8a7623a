package evidence

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// Gather runs the collectors side by side and returns what they found, in the
// order of the collectors. Referrers are listed, and manifests fetched, once for
// all of them. A collector that panics on foreign bytes leaves a Problem, not a
// dead process.
func Gather(ctx context.Context, collectors []Collector, subject Subject) Findings {
	subject.Limits = subject.Limits.orDefault()
	subject.Source = share(subject.Source, subject.Limits)
	found := make([]Findings, len(collectors))
	var wg sync.WaitGroup
	for i, c := range collectors {
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					found[i] = Findings{Problems: []Problem{{Collector: c.Name(), Message: fmt.Sprintf("the collector failed: %v", p)}}}
				}
			}()
			found[i] = c.Collect(ctx, subject)
		})
	}
	wg.Wait()
	var all Findings
	for _, f := range found {
		all.Signatures = append(all.Signatures, f.Signatures...)
		all.Attestations = append(all.Attestations, f.Attestations...)
		for _, p := range f.Problems {
			// Collectors that read the same list fail for the same reason.
			if !slices.ContainsFunc(all.Problems, func(o Problem) bool { return o.Message == p.Message }) {
				all.Problems = append(all.Problems, p)
			}
		}
	}
	return all
}

// shared asks the source once for what several collectors want to know.
type shared struct {
	Source
	limit int // referrers of one digest

	mu        sync.Mutex
	referrers map[digest.Digest]func() ([]oci.Descriptor, error)
	manifests map[digest.Digest]func() (*oci.Manifest, error)
	tagged    map[string]func() (*oci.Manifest, error)
}

func share(source Source, limits Limits) *shared {
	return &shared{
		Source: source, limit: limits.Referrers,
		referrers: map[digest.Digest]func() ([]oci.Descriptor, error){},
		manifests: map[digest.Digest]func() (*oci.Manifest, error){},
		tagged:    map[string]func() (*oci.Manifest, error){},
	}
}

func (s *shared) Referrers(ctx context.Context, d digest.Digest) ([]oci.Descriptor, error) {
	return once(s, s.referrers, d, func() ([]oci.Descriptor, error) {
		list, err := s.Source.Referrers(ctx, d)
		if err == nil && len(list) > s.limit {
			// Looking at the first few would let a stranger push the real
			// ones out of sight.
			return nil, fmt.Errorf("%s has %d referrers, more than limits.referrers (%d)", d, len(list), s.limit)
		}
		return list, err
	})
}

func (s *shared) Manifest(ctx context.Context, d digest.Digest) (*oci.Manifest, error) {
	return once(s, s.manifests, d, func() (*oci.Manifest, error) { return s.Source.Manifest(ctx, d) })
}

func (s *shared) Tagged(ctx context.Context, tag string) (*oci.Manifest, error) {
	return once(s, s.tagged, tag, func() (*oci.Manifest, error) { return s.Source.Tagged(ctx, tag) })
}

func once[K comparable, V any](s *shared, asked map[K]func() (V, error), key K, ask func() (V, error)) (V, error) {
	s.mu.Lock()
	answer, ok := asked[key]
	if !ok {
		answer = sync.OnceValues(ask)
		asked[key] = answer
	}
	s.mu.Unlock()
	return answer()
}

// Inherit returns the verified items of f as evidence about a child of the
// index that f is about: the index commits to the child's digest. Claims are
// not inherited; each manifest makes its own.
func (f Findings) Inherit() Findings {
	var inherited Findings
	for _, s := range f.Signatures {
		if s.By.Verified() {
			s.Inherited = true
			inherited.Signatures = append(inherited.Signatures, s)
		}
	}
	for _, a := range f.Attestations {
		if a.By.Verified() {
			a.Inherited = true
			inherited.Attestations = append(inherited.Attestations, a)
		}
	}
	return inherited
}

// Cover turns the claims of f that arrived inside a signed index into
// attestations by its signers: whoever signs an index signs each digest in it,
// that of BuildKit's attestation manifest included. Statements found anywhere
// else stay claims.
func (f Findings) Cover(index digest.Digest, signers []Voucher) Findings {
	signers = slices.DeleteFunc(slices.Clone(signers), func(by Voucher) bool { return !by.Verified() })
	covered := f
	covered.Attestations = nil
	for _, a := range f.Attestations {
		if a.InIndex == "" || a.InIndex != index || a.By.Verified() || a.Err != "" || len(signers) == 0 {
			covered.Attestations = append(covered.Attestations, a)
			continue
		}
		for _, by := range signers {
			a.By, a.Inherited = by, true
			covered.Attestations = append(covered.Attestations, a)
		}
	}
	return covered
}

// Signers lists each signer that stands behind a signature of f once.
func (f Findings) Signers() []Voucher {
	var signers []Voucher
	for _, s := range f.Signatures {
		if s.By.Verified() && !slices.Contains(signers, s.By) {
			signers = append(signers, s.By)
		}
	}
	return signers
}
