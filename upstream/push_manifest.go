package upstream

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/trustgate/trustgate/oci"
)

// Pushed is what a registry says of a manifest that it has taken.
type Pushed struct {
	Subject digest.Digest // whose referrers list it has put the manifest on, or ""
	Tags    []string      // of those beside the reference, which it has set
}

// PutManifest pushes a manifest under a tag or its digest, and further tags
// beside a digest where the registry can do that.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pushing-manifests
func (p *Repository) PutManifest(ctx context.Context, tagOrDigest string, tags []string, m *oci.Manifest) (Pushed, error) {
	_, want, err := p.parse(tagOrDigest)
	if err != nil {
		return Pushed{}, err
	}
	ctx, done, err := p.registry.begin(ctx)
	if err != nil {
		return Pushed{}, err
	}
	defer done()
	c := p.call("pushing the manifest of", tagOrDigest)
	if want != "" && want != m.Digest {
		return Pushed{}, c.broken("it hashes to %s", m.Digest)
	}
	target := p.registry.base.String() + p.path("manifests", tagOrDigest)
	if len(tags) > 0 {
		target += "?" + url.Values{"tag": tags}.Encode()
	}
	req, err := http.NewRequestWithContext(p.scoped(ctx, auth.ActionPush), http.MethodPut, target, bytes.NewReader(m.Raw))
	if err != nil {
		return Pushed{}, c.transport(ctx, err)
	}
	req.Header.Set("Content-Type", m.MediaType)
	resp, err := p.registry.client.Do(req)
	if err != nil {
		return Pushed{}, c.asking(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return Pushed{}, c.refused(ctx, resp)
	}
	claimed, err := oci.ParseDigest(resp.Header.Get(headerDigest))
	if err == nil && claimed.Algorithm() == m.Digest.Algorithm() && claimed != m.Digest {
		return Pushed{}, c.broken("the registry says that it has taken %s for %s", claimed, m.Digest)
	}
	var pushed Pushed
	if subject, err := oci.ParseDigest(resp.Header.Get("OCI-Subject")); err == nil {
		pushed.Subject = subject
	}
	for _, value := range resp.Header.Values("OCI-Tag") {
		for tag := range strings.SplitSeq(value, ",") {
			if _, err := p.name.WithTag(strings.TrimSpace(tag)); err == nil && len(pushed.Tags) < len(tags) {
				pushed.Tags = append(pushed.Tags, strings.TrimSpace(tag))
			}
		}
	}
	return pushed, nil
}

// DeleteManifest removes a tag, or a manifest with all its tags.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#content-management
func (p *Repository) DeleteManifest(ctx context.Context, tagOrDigest string) error {
	if _, _, err := p.parse(tagOrDigest); err != nil {
		return err
	}
	return p.remove(ctx, p.call("deleting", tagOrDigest), p.path("manifests", tagOrDigest))
}

// DeleteBlob removes a blob from the repository.
func (p *Repository) DeleteBlob(ctx context.Context, d digest.Digest) error {
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return err
	}
	return p.remove(ctx, p.call("deleting the blob", d.String()), p.path("blobs", d.String()))
}

func (p *Repository) remove(ctx context.Context, c call, path string) error {
	ctx, done, err := p.registry.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	resp, err := p.registry.send(p.scoped(ctx, auth.ActionPush, auth.ActionDelete), c, http.MethodDelete, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return c.refused(ctx, resp)
	}
	return nil
}
