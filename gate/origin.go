package gate

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

// origin reads one repository for the collectors: content that the cache
// holds from there, the rest from the upstream. Tags and referrers always come
// from the upstream, since evidence appears and disappears.
type origin struct {
	gate       *Gate
	name       oci.Reference // of the repository
	repository *upstream.Repository
}

func (g *Gate) origin(route *Route, ref oci.Reference) (*origin, error) {
	repository, err := route.Upstream.Repository(ref.Repository())
	if err != nil {
		return nil, err
	}
	return &origin{gate: g, name: ref.InRepository(), repository: repository}, nil
}

// Manifest implements evidence.Source. The cache is one for all repositories;
// what it holds counts only where this repository is known to have it, so that
// nobody gets one repository's image judged, or served, as another's.
func (s *origin) Manifest(ctx context.Context, d digest.Digest) (*oci.Manifest, error) {
	here, err := s.gate.Ledger.HasManifest(ctx, s.name.Name(), d)
	if err != nil {
		return nil, err
	}
	if here {
		if raw, err := s.gate.Cache.Bytes(ctx, d, manifestLimit); err == nil {
			if m, err := oci.ParseManifest(raw, "", d); err == nil {
				return m, nil
			}
		}
	}
	m, err := s.repository.Manifest(ctx, d.String())
	if err != nil {
		return nil, err
	}
	return m, s.keep(ctx, m)
}

// Tagged implements evidence.Source.
func (s *origin) Tagged(ctx context.Context, tag string) (*oci.Manifest, error) {
	m, err := s.repository.Manifest(ctx, tag)
	if err != nil {
		return nil, err
	}
	return m, s.keep(ctx, m)
}

func (s *origin) keep(ctx context.Context, m *oci.Manifest) error {
	if err := s.gate.Cache.PutBytes(ctx, m.Digest, m.Raw); err != nil {
		return fmt.Errorf("keeping %s: %w", m.Digest, err)
	}
	s.gate.seen.Add(manifestKey(s.name.WithDigest(m.Digest)), s.gate.Now())
	return s.gate.know(ctx, s.name, m)
}

// Referrers implements evidence.Source.
func (s *origin) Referrers(ctx context.Context, d digest.Digest) ([]oci.Descriptor, error) {
	return s.repository.Referrers(ctx, d, "")
}

// Blob implements evidence.Source.
func (s *origin) Blob(ctx context.Context, d oci.Descriptor, limit int64) ([]byte, error) {
	if _, err := oci.ParseDigest(d.Digest.String()); err != nil {
		return nil, err
	}
	if d.Size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d allowed", d.Digest, d.Size, limit)
	}
	raw, err := s.gate.Cache.Bytes(ctx, d.Digest, limit)
	if err == nil {
		return raw, nil
	}
	if !errors.Is(err, oci.ErrNotFound) && !errors.Is(err, cache.ErrLength) {
		return nil, err
	}
	body, _, err := s.repository.Blob(ctx, d.Digest, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	raw, err = io.ReadAll(io.LimitReader(body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: reading %s: %w", upstream.ErrUnavailable, d.Digest, err)
	case int64(len(raw)) > limit:
		return nil, fmt.Errorf("%s has more than the %d bytes allowed", d.Digest, limit)
	case oci.DigestOf(raw, d.Digest) != d.Digest:
		return nil, fmt.Errorf("the upstream's bytes for %s do not hash to it", d.Digest)
	}
	return raw, s.gate.Cache.PutBytes(ctx, d.Digest, raw)
}
