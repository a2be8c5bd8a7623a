package upstream

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// acceptManifests also names the schema 1 types, last: a registry that has
// nothing else then says so, and people are told what is wrong.
var acceptManifests = http.Header{"Accept": {strings.Join(append(append([]string{}, oci.ManifestMediaTypes...),
	"application/vnd.docker.distribution.manifest.v1+prettyjws",
	"application/vnd.docker.distribution.manifest.v1+json",
), ", ")}}

// Resolve asks what a tag names now, or whether a digest is there. It fetches
// the manifest where the registry does not tell without.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#checking-if-content-exists-in-the-registry
func (p *Repository) Resolve(ctx context.Context, tagOrDigest string) (oci.Descriptor, error) {
	d, err := p.head(ctx, tagOrDigest)
	if err != nil || d.Digest != "" {
		return d, err
	}
	m, err := p.Manifest(ctx, tagOrDigest)
	if err != nil {
		return oci.Descriptor{}, err
	}
	return m.Descriptor(), nil
}

// head returns no digest where GET must be tried.
func (p *Repository) head(ctx context.Context, tagOrDigest string) (oci.Descriptor, error) {
	_, want, err := p.parse(tagOrDigest)
	if err != nil {
		return oci.Descriptor{}, err
	}
	ctx, done, err := p.registry.begin(ctx)
	if err != nil {
		return oci.Descriptor{}, err
	}
	defer done()
	c := p.call("resolving", tagOrDigest)
	resp, err := p.registry.send(p.scoped(ctx), c, http.MethodHead, p.path("manifests", tagOrDigest), acceptManifests)
	if err != nil {
		return oci.Descriptor{}, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
		return oci.Descriptor{}, c.answered(ctx, resp)
	default:
		// The answer to GET has a body that says what is wrong, and some
		// servers do not know HEAD.
		return oci.Descriptor{}, nil
	}
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(oci.ManifestMediaTypes, mediaType) || resp.ContentLength <= 0 {
		return oci.Descriptor{}, nil
	}
	d, err := oci.ParseDigest(resp.Header.Get(headerDigest))
	if err != nil {
		return oci.Descriptor{}, nil
	}
	if want != "" && d.Algorithm() == want.Algorithm() && d != want {
		return oci.Descriptor{}, c.broken("the registry says that it is %s", d)
	}
	if want != "" {
		d = want
	}
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: resp.ContentLength}, nil
}

const headerDigest = "Docker-Content-Digest"

// Manifest fetches a manifest. Its digest is that of the bytes, and an error if
// these do not hash to what was asked for or to what the registry claims.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests
func (p *Repository) Manifest(ctx context.Context, tagOrDigest string) (*oci.Manifest, error) {
	_, want, err := p.parse(tagOrDigest)
	if err != nil {
		return nil, err
	}
	ctx, done, err := p.registry.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c := p.call("fetching the manifest of", tagOrDigest)
	resp, err := p.registry.send(p.scoped(ctx), c, http.MethodGet, p.path("manifests", tagOrDigest), acceptManifests)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, c.answered(ctx, resp)
	}
	raw, err := c.read(ctx, resp, p.registry.manifestLimit)
	if err != nil {
		return nil, err
	}
	return c.parseManifest(raw, resp.Header, want)
}

func (c call) parseManifest(raw []byte, header http.Header, want digest.Digest) (*oci.Manifest, error) {
	hash := want
	if claimed := header.Get(headerDigest); claimed != "" {
		d, err := oci.ParseDigest(claimed)
		if err != nil {
			return nil, c.broken("the registry claims the digest %q", clip(claimed, 160))
		}
		if hash == "" {
			hash = d
		}
		// A schema 1 manifest hashes to something else than its bytes.
		if _, err := oci.ParseManifest(raw, header.Get("Content-Type"), ""); errors.Is(err, oci.ErrSchema1) {
			return nil, c.refuse(err)
		}
		if got := oci.DigestOf(raw, d); got != d {
			return nil, c.broken("the registry claims the digest %s, but its bytes hash to %s", d, got)
		}
	}
	m, err := oci.ParseManifest(raw, header.Get("Content-Type"), hash)
	if err != nil {
		return nil, c.refuse(err)
	}
	return m, nil
}

// refuse passes on what package oci found wrong with the bytes.
func (c call) refuse(err error) error {
	kind := oci.ErrManifest
	if errors.Is(err, oci.ErrSchema1) {
		kind = oci.ErrSchema1
	}
	return c.fail(kind, false, printable(err.Error()), "")
}

// read takes a whole body of at most limit bytes.
func (c call) read(ctx context.Context, resp *http.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, c.broken("the answer has %d bytes, more than the %d allowed", resp.ContentLength, limit)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, c.transport(ctx, err)
	case int64(len(raw)) > limit:
		return nil, c.broken("the answer has more than the %d bytes allowed", limit)
	}
	return raw, nil
}

func (p *Repository) path(kind, name string) string {
	return "/v2/" + p.name.Repository() + "/" + kind + "/" + name
}
