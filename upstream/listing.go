package upstream

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/trustgate/trustgate/oci"
)

const (
	maxReferrers = 2048  // of one digest
	maxTags      = 65536 // of one repository

	maxReferrerPages = 64
	maxTagPages      = 700 // some registries give a hundred at most, whatever they are asked for
)

// Referrers lists the manifests whose subject is d, from the referrers API or,
// where the registry has none, from the tag that stands in for it. Nothing to
// list is no error. With an artifactType only those are listed.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers
func (p *Repository) Referrers(ctx context.Context, d digest.Digest, artifactType string) ([]oci.Descriptor, error) {
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return nil, err
	}
	c := p.call("listing the referrers of", d.String())
	ctx, cancel := context.WithCancel(ctx)
	byTag := sync.OnceValues(func() ([]oci.Descriptor, error) { return p.referrersByTag(ctx, d) })
	// A registry that has not yet shown its API is asked in both ways at once: a
	// pull that waits should not wait for the one answer before the other.
	var early sync.WaitGroup
	defer early.Wait()
	defer cancel()
	if !p.registry.listsReferrers.Load() {
		early.Go(func() { byTag() })
	}
	list, err := p.referrersByAPI(ctx, c, d, artifactType)
	if errors.Is(err, errNoReferrersAPI) {
		list, err = byTag()
	} else if err == nil {
		p.registry.listsReferrers.Store(true)
	}
	if err != nil {
		return nil, err
	}
	if len(list) > maxReferrers {
		return nil, c.broken("it has more than %d referrers", maxReferrers)
	}
	for _, r := range list {
		if _, err := oci.ParseDigest(r.Digest.String()); err != nil || r.Size < 0 {
			return nil, c.broken("the list has an entry without a usable digest (%s)", clip(printable(r.Digest.String()), 160))
		}
	}
	if artifactType != "" {
		list = slices.DeleteFunc(list, func(r oci.Descriptor) bool { return r.ArtifactType != artifactType })
	}
	return list, nil
}

var errNoReferrersAPI = errors.New("the registry has no referrers API")

func (p *Repository) referrersByAPI(ctx context.Context, c call, d digest.Digest, artifactType string) ([]oci.Descriptor, error) {
	ctx, done, err := p.registry.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	repository, pages := p.remote(c)
	// Keeps oras-go from falling back by itself, where it would take a server
	// that has lost its registry for a registry that has no referrers.
	if err := repository.SetReferrersCapability(true); err != nil {
		return nil, err
	}
	var list []oci.Descriptor
	err = repository.Referrers(ctx, oci.Descriptor{Digest: d}, artifactType, func(page []oci.Descriptor) error {
		if list = append(list, page...); len(list) > maxReferrers {
			return errEnough
		}
		return nil
	})
	if err == nil || errors.Is(err, errEnough) {
		return list, nil
	}
	var answer *errcode.ErrorResponse
	switch {
	case errors.Is(err, errdef.ErrUnsupported),
		errors.As(err, &answer) && slices.Contains([]int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented}, answer.StatusCode):
		if pages.read > 0 {
			return nil, c.fail(ErrUnavailable, true, "the list breaks off after some of its pages", "try again")
		}
		return nil, errNoReferrersAPI
	}
	return nil, c.listing(ctx, err)
}

var errEnough = errors.New("enough")

// listing turns an error of oras-go's lists into a failure. Those of sending and
// of reading are failures already.
func (c call) listing(ctx context.Context, err error) error {
	var (
		mine   *failure
		answer *errcode.ErrorResponse
	)
	switch {
	case errors.As(err, &mine):
		return mine
	case errors.As(err, &answer):
		return c.status(ctx, answer.StatusCode, answer.Errors, "")
	case errors.Is(err, errdef.ErrTooManyPages):
		return c.broken("the list has too many pages")
	}
	return c.broken("the list cannot be read: %s", brief(err))
}

// pages is what oras-go asks for the pages of a list.
type pages struct {
	remote.Client
	call  call
	limit int64 // bytes of one page
	read  int   // pages of an index
}

// Do implements remote.Client.
func (p *pages) Do(req *http.Request) (*http.Response, error) {
	resp, err := p.Client.Do(req)
	if err != nil {
		return nil, p.call.asking(req.Context(), err)
	}
	// oras-go would take a list for something else if its type has parameters.
	if mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil {
		resp.Header.Set("Content-Type", mediaType)
		if resp.StatusCode == http.StatusOK && mediaType == oci.MediaTypeImageIndex {
			p.read++
		}
	}
	resp.Body = &page{resp.Body, req.Context(), p.call, p.limit}
	return resp, nil
}

// page tells a page that is too long from one that breaks off.
type page struct {
	io.ReadCloser
	ctx  context.Context
	call call
	left int64
}

// Read implements io.Reader.
func (p *page) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	if p.left -= int64(n); p.left < 0 {
		return 0, p.call.broken("a page of the list has more bytes than the %d allowed", p.call.registry.manifestLimit)
	}
	if err != nil && err != io.EOF {
		err = p.call.transport(p.ctx, err)
	}
	return n, err
}

// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#referrers-tag-schema
func (p *Repository) referrersByTag(ctx context.Context, d digest.Digest) ([]oci.Descriptor, error) {
	m, err := p.Manifest(ctx, d.Algorithm().String()+"-"+d.Encoded())
	if errors.Is(err, oci.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if m.MediaType != oci.MediaTypeImageIndex || m.Digest == d {
		// Some registries let the tag name the subject itself.
		return nil, nil
	}
	return m.Manifests, nil
}

// Tags lists at most n tags, in the registry's order, that come after last; all
// of them when n is 0.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-tags
func (p *Repository) Tags(ctx context.Context, n int, last string) ([]string, error) {
	ctx, done, err := p.registry.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c := p.call("listing the tags of", "")
	if n <= 0 || n > maxTags {
		n = 0
	}
	repository, _ := p.remote(c)
	repository.TagListPageSize = n
	tags := []string{}
	err = repository.Tags(ctx, last, func(page []string) error {
		if n == 0 && len(tags)+len(page) > maxTags {
			return c.broken("it has more than %d tags; ask for fewer with n and last", maxTags)
		}
		for _, tag := range page {
			if _, err := p.name.WithTag(tag); err != nil {
				continue // no client could ask for it
			}
			if tags = append(tags, tag); len(tags) == n {
				return errEnough
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, c.listing(ctx, err)
	}
	return tags, nil
}
