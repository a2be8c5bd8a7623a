package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/trustgate/trustgate/oci"
)

// Repository is a client of one repository. Its errors match oci.ErrNotFound,
// ErrUnauthorized, ErrUnavailable, oci.ErrManifest or oci.ErrSchema1.
type Repository struct {
	registry *Registry
	path     string
	client   *remote.Repository // remembers whether the referrers API is there
}

func (p *Repository) name(reference string) string {
	if strings.Contains(reference, ":") {
		return p.registry.name + "/" + p.path + "@" + reference
	}
	return p.registry.name + "/" + p.path + ":" + reference
}

// Resolve asks with a HEAD what a tag or digest names. The answer is the
// registry's word; only fetching the digest proves it.
func (p *Repository) Resolve(ctx context.Context, reference string) (oci.Descriptor, error) {
	resp, err := p.get(ctx, http.MethodHead, "manifests/"+reference, http.Header{"Accept": {acceptManifests}})
	if err != nil {
		return oci.Descriptor{}, p.registry.explain("resolving "+p.name(reference), err)
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		if d, err := oci.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil {
			return oci.Descriptor{MediaType: resp.Header.Get("Content-Type"), Digest: d, Size: resp.ContentLength}, nil
		}
	}
	if resp.StatusCode == http.StatusNotFound {
		return oci.Descriptor{}, fmt.Errorf("%s: %w", p.name(reference), oci.ErrNotFound)
	}
	// No digest in the header, or no HEAD at all: the bytes have one.
	m, err := p.Manifest(ctx, reference)
	if err != nil {
		return oci.Descriptor{}, err
	}
	return m.Descriptor(), nil
}

var acceptManifests = strings.Join(oci.ManifestMediaTypes, ", ")

// Manifest fetches a manifest by tag or digest. Its digest is that of the bytes
// that came, and the one that was asked for if one was.
func (p *Repository) Manifest(ctx context.Context, reference string) (*oci.Manifest, error) {
	var asked digest.Digest
	if strings.Contains(reference, ":") {
		var err error
		if asked, err = oci.ParseDigest(reference); err != nil {
			return nil, err
		}
	}
	doing := "fetching " + p.name(reference)
	resp, err := p.get(ctx, http.MethodGet, "manifests/"+reference, http.Header{"Accept": {acceptManifests}})
	if err != nil {
		return nil, p.registry.explain(doing, err)
	}
	defer resp.Body.Close()
	if err := p.registry.status(doing, resp); err != nil {
		return nil, err
	}
	raw, err := readAll(resp.Body, p.registry.limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	m, err := oci.ParseManifest(raw, resp.Header.Get("Content-Type"), asked)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if claimed := resp.Header.Get("Docker-Content-Digest"); asked == "" && claimed != "" {
		d, err := oci.ParseDigest(claimed)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: Docker-Content-Digest: %w", doing, oci.ErrManifest, err)
		}
		if got := oci.DigestOf(raw, d); got != d {
			return nil, fmt.Errorf("%s: %w: the header says %s, the bytes are %s", doing, oci.ErrManifest, d, got)
		}
	}
	return m, nil
}

// maxReferrers bounds the referrers of one manifest.
const maxReferrers = 4096

// Referrers lists the manifests that refer to d, by the referrers API or, where
// there is none, by its tag. artifactType narrows the list unless it is empty.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers
func (p *Repository) Referrers(ctx context.Context, d digest.Digest, artifactType string) ([]oci.Descriptor, error) {
	doing := "listing what refers to " + p.name(d.String())
	var all []oci.Descriptor
	err := p.client.Referrers(ctx, oci.Descriptor{Digest: d}, artifactType, func(page []oci.Descriptor) error {
		for _, r := range page {
			if _, err := oci.ParseDigest(r.Digest.String()); err != nil {
				return fmt.Errorf("%w: %w", oci.ErrManifest, err)
			}
		}
		if all = append(all, page...); len(all) > maxReferrers {
			return fmt.Errorf("%w: more than %d referrers", oci.ErrManifest, maxReferrers)
		}
		return nil
	})
	if err != nil {
		return nil, p.registry.explain(doing, err)
	}
	return all, nil
}

// Blob streams a blob from offset on; size is that of the whole blob, or -1.
// The caller hashes what it reads.
func (p *Repository) Blob(ctx context.Context, d digest.Digest, offset int64) (body io.ReadCloser, size int64, err error) {
	doing := "fetching the blob " + p.name(d.String())
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	resp, err := p.get(ctx, http.MethodGet, "blobs/"+d.String(), header)
	if err != nil {
		return nil, 0, p.registry.explain(doing, err)
	}
	if offset > 0 && resp.StatusCode == http.StatusPartialContent {
		size = -1
		if resp.ContentLength >= 0 {
			size = offset + resp.ContentLength
		}
		return resp.Body, size, nil
	}
	if err := p.registry.status(doing, resp); err != nil {
		resp.Body.Close()
		return nil, 0, err
	}
	if offset > 0 {
		resp.Body.Close()
		return nil, 0, fmt.Errorf("%s: %w: it does not serve ranges", doing, ErrUnavailable)
	}
	return resp.Body, resp.ContentLength, nil
}

// Tags lists at most n tags in the registry's order, those after last.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-tags
func (p *Repository) Tags(ctx context.Context, n int, last string) ([]string, error) {
	client := p.registry.newClient(p.path)
	client.TagListPageSize = n
	var all []string
	enough := errors.New("enough")
	err := client.Tags(ctx, last, func(page []string) error {
		if all = append(all, page...); len(all) >= n {
			return enough
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		return nil, p.registry.explain("listing the tags of "+p.registry.name+"/"+p.path, err)
	}
	return all[:min(len(all), n)], nil
}

// maxSignatures bounds the answer of the signature extension, in bytes.
const maxSignatures = 4 << 20

// SignatureExtension fetches the OpenPGP signatures that registries with
// X-Registry-Supports-Signatures keep, as their JSON document.
func (p *Repository) SignatureExtension(ctx context.Context, d digest.Digest) ([]byte, error) {
	doing := "asking for the signatures of " + p.name(d.String())
	resp, err := p.request(ctx, http.MethodGet, "extensions/v2/"+p.path+"/signatures/"+d.String(), nil)
	if err != nil {
		return nil, p.registry.explain(doing, err)
	}
	defer resp.Body.Close()
	if err := p.registry.status(doing, resp); err != nil {
		return nil, err
	}
	raw, err := readAll(resp.Body, maxSignatures)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return raw, nil
}

func (p *Repository) get(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	return p.request(ctx, method, "v2/"+p.path+"/"+path, header)
}

func (p *Repository) request(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	ctx = auth.AppendRepositoryScope(ctx, p.client.Reference, auth.ActionPull)
	req, err := http.NewRequestWithContext(ctx, method, p.registry.base.String(), nil)
	if err != nil {
		return nil, err
	}
	req.URL = p.registry.base.JoinPath(path)
	for name, values := range header {
		req.Header[name] = slices.Clone(values)
	}
	return p.registry.client.Do(req)
}

func readAll(body io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: the answer broke off: %v", ErrUnavailable, err)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", oci.ErrManifest, limit)
	}
	return raw, nil
}
