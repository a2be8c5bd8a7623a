package upstream

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

const (
	maxSignatures = 1 << 20 // bytes of the extension's answer
	// capabilityAge is how long what a registry said of its abilities holds.
	capabilityAge = 10 * time.Minute
)

// SignatureExtension fetches what a registry that serves OpenPGP signatures
// itself has about d. The error matches oci.ErrNotFound where the registry does
// not say that it does.
//
// https://github.com/containers/image/blob/main/docs/signature-protocols.md
func (p *Repository) SignatureExtension(ctx context.Context, d digest.Digest) ([]byte, error) {
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return nil, err
	}
	ctx, done, err := p.registry.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	serves, err := p.registry.servesSignatures(ctx)
	if err != nil {
		return nil, err
	}
	if !serves {
		return nil, fmt.Errorf("%s serves no signatures: %w", p.registry.name, oci.ErrNotFound)
	}
	c := p.call("fetching the signatures of", d.String())
	path := "/extensions/v2/" + p.name.Repository() + "/signatures/" + d.String()
	resp, err := p.registry.send(p.scoped(ctx), c, http.MethodGet, path, http.Header{"Accept": {"application/json"}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, c.answered(ctx, resp)
	}
	return c.read(ctx, resp, maxSignatures)
}

func (r *Registry) servesSignatures(ctx context.Context) (bool, error) {
	r.probed.Lock()
	at, signatures := r.probed.at, r.probed.signatures
	r.probed.Unlock()
	if !at.IsZero() && time.Since(at) < capabilityAge {
		return signatures, nil
	}
	signatures, err := r.probe(ctx)
	if err != nil {
		return false, err
	}
	r.probed.Lock()
	r.probed.at, r.probed.signatures = time.Now(), signatures
	r.probed.Unlock()
	return signatures, nil
}
