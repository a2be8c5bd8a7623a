package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/trustgate/trustgate/oci"
)

// ErrNoExtension reports a registry that does not keep OpenPGP signatures
// itself.
var ErrNoExtension = errors.New("the registry does not serve the signatures extension")

// Attach writes an artifact with a subject into the repository: its blobs
// first, then the manifest, then, where the registry has no referrers API, its
// entry under the tag that stands in for it.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pushing-manifests-with-subject
func (p *Repository) Attach(ctx context.Context, m *oci.Manifest, blobs ...[]byte) error {
	ctx, done, err := p.registry.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	c := p.call("attaching a referrer to", m.Subject.Digest.String())
	repository, _ := p.remote(c)
	repository.Client = p.registry.client // pages are for lists
	// An older list that nothing points at any more is the registry's to
	// collect; removing it takes a right that few signers have.
	repository.SkipReferrersGC = true
	for i, b := range m.References() {
		if i >= len(blobs) || digest.FromBytes(blobs[i]) != b.Digest {
			return fmt.Errorf("attaching a referrer to %s: its blob %s is not the one that is given", m.Subject.Digest, b.Digest)
		}
		there, err := repository.Blobs().Exists(ctx, b)
		if err == nil && !there {
			err = repository.Blobs().Push(ctx, b, bytes.NewReader(blobs[i]))
		}
		if err != nil {
			return c.transport(ctx, err)
		}
	}
	described := oci.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw))}
	if err := repository.Manifests().Push(ctx, described, bytes.NewReader(m.Raw)); err != nil {
		return c.transport(ctx, err)
	}
	return nil
}

// PutSignature adds one entry to the OpenPGP signatures that the registry keeps
// of d. The error matches ErrNoExtension where it keeps none.
//
// https://github.com/containers/image/blob/main/docs/signature-protocols.md
func (p *Repository) PutSignature(ctx context.Context, d digest.Digest, entry []byte) error {
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return err
	}
	ctx, done, err := p.registry.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	serves, err := p.registry.servesSignatures(ctx)
	if err != nil {
		return err
	}
	if !serves {
		return fmt.Errorf("%s: %w", p.registry.name, ErrNoExtension)
	}
	c := p.call("adding a signature to", d.String())
	req, err := http.NewRequestWithContext(p.scoped(ctx, auth.ActionPush), http.MethodPut,
		p.registry.base.String()+"/extensions/v2/"+p.name.Repository()+"/signatures/"+d.String(), bytes.NewReader(entry))
	if err != nil {
		return c.transport(ctx, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.registry.client.Do(req)
	if err != nil {
		return c.transport(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return c.answered(ctx, resp)
	}
	return nil
}
