package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	orasregistry "oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/trustgate/trustgate/oci"
)

// Upload is a blob upload that a registry has begun.
type Upload struct {
	// Location is where it goes on: an absolute URL of the registry's choosing,
	// whose query may be a credential.
	Location string
	Offset   int64 // bytes that the registry has; -1 when it does not say
	MinChunk int64 // bytes of a chunk, the last one excepted; 0 when any will do
}

// Part is bytes of a blob on their way to a registry. They are sent once: Body
// is never read again from its start.
type Part struct {
	Body   io.Reader
	Length int64  // bytes in Body; -1 when nobody knows
	Range  string // as in Content-Range: "0-1023"; may be empty
}

// maxLocation bounds an upload's location, in bytes.
const maxLocation = 8 << 10

// BeginUpload asks the registry for a place to send a blob to.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pushing-blobs
func (p *Repository) BeginUpload(ctx context.Context) (Upload, error) {
	_, upload, err := p.begin(ctx, "beginning an upload to", nil, "")
	return upload, err
}

// Mount asks for a blob of another repository of the same registry. Where the
// registry has rather begun an upload, mounted is false.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#mounting-a-blob-from-another-repository
func (p *Repository) Mount(ctx context.Context, d digest.Digest, from string) (mounted bool, upload Upload, err error) {
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return false, Upload{}, err
	}
	other, err := oci.NewReference(p.registry.name, from)
	if err != nil {
		return false, Upload{}, err
	}
	// The token must also read the other repository.
	ctx = auth.AppendRepositoryScope(ctx, orasregistry.Reference{Registry: p.registry.host, Repository: other.Repository()}, auth.ActionPull)
	return p.begin(ctx, "mounting a blob into", url.Values{"mount": {d.String()}, "from": {other.Repository()}}, d)
}

func (p *Repository) begin(ctx context.Context, doing string, query url.Values, mount digest.Digest) (mounted bool, upload Upload, err error) {
	ctx, done, err := p.registry.begin(ctx)
	if err != nil {
		return false, Upload{}, err
	}
	defer done()
	c := p.call(doing, "")
	path := p.path("blobs", "uploads/")
	if query != nil {
		path += "?" + query.Encode()
	}
	resp, err := p.write(ctx, c, http.MethodPost, p.registry.base.String()+path, Part{})
	if err != nil {
		return false, Upload{}, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusCreated && mount != "":
		return true, Upload{}, nil
	case resp.StatusCode == http.StatusAccepted:
		upload, err = c.upload(resp)
		return false, upload, err
	}
	return false, Upload{}, c.refused(ctx, resp)
}

// SendChunk sends a part of a blob, and says where the upload goes on.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pushing-a-blob-in-chunks
func (p *Repository) SendChunk(ctx context.Context, location string, part Part) (Upload, error) {
	c := p.call("sending a part of a blob to", "")
	resp, err := p.write(ctx, c, http.MethodPatch, location, part)
	if err != nil {
		return Upload{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusNoContent {
		return Upload{}, c.refused(ctx, resp)
	}
	return c.upload(resp)
}

// FinishUpload sends what is missing of a blob and has the registry keep it
// under its digest.
func (p *Repository) FinishUpload(ctx context.Context, location string, d digest.Digest, part Part) error {
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return err
	}
	c := p.call("pushing the blob", d.String())
	u, err := url.Parse(location)
	if err != nil {
		return c.broken("the place of the upload cannot be read")
	}
	// The location's own query is the registry's: its order and spelling stay.
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += "digest=" + url.QueryEscape(d.String())
	resp, err := p.write(ctx, c, http.MethodPut, u.String(), part)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusNoContent {
		return c.refused(ctx, resp)
	}
	return nil
}

// UploadStatus asks how far an upload has come.
func (p *Repository) UploadStatus(ctx context.Context, location string) (Upload, error) {
	ctx, done, err := p.registry.begin(ctx)
	if err != nil {
		return Upload{}, err
	}
	defer done()
	c := p.call("asking for an upload to", "")
	resp, err := p.write(ctx, c, http.MethodGet, location, Part{})
	if err != nil {
		return Upload{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusOK {
		return Upload{}, c.refused(ctx, resp)
	}
	if resp.Header.Get("Location") == "" {
		resp.Header.Set("Location", location)
	}
	return c.upload(resp)
}

// CancelUpload gives an upload up.
func (p *Repository) CancelUpload(ctx context.Context, location string) error {
	ctx, done, err := p.registry.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	c := p.call("cancelling an upload to", "")
	resp, err := p.write(ctx, c, http.MethodDelete, location, Part{})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return c.refused(ctx, resp)
	}
	return nil
}

// upload reads where an upload goes on.
func (c call) upload(resp *http.Response) (Upload, error) {
	location, err := resp.Location() // against the URL that answered
	if err != nil || location.Host == "" || (location.Scheme != "https" && location.Scheme != "http") || location.User != nil {
		return Upload{}, c.broken("the registry does not say where the upload goes on")
	}
	location.Fragment = ""
	upload := Upload{Location: location.String(), Offset: -1}
	if len(upload.Location) > maxLocation {
		return Upload{}, c.broken("the place where the upload goes on has more than %d bytes", maxLocation)
	}
	if last, ok := strings.CutPrefix(resp.Header.Get("Range"), "0-"); ok {
		if n, err := strconv.ParseInt(last, 10, 64); err == nil && n >= 0 {
			// "0-0" is what registries say of nothing, and of one byte.
			if upload.Offset = n + 1; n == 0 {
				upload.Offset = -1
			}
		}
	}
	if n, err := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64); err == nil && n > 0 {
		upload.MinChunk = n
	}
	return upload, nil
}

// uploadKey marks the context of requests that carry content to where the
// registry wants it.
type uploadKey struct{}

func carriesContent(ctx context.Context) bool { return ctx.Value(uploadKey{}) != nil }

// write makes one request of a push. A location of another origin, which the
// registry may name, gets neither the route's credentials nor a second chance.
func (p *Repository) write(ctx context.Context, c call, method, location string, part Part) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(p.scoped(context.WithValue(ctx, uploadKey{}, true), auth.ActionPush))
	req, err := http.NewRequestWithContext(ctx, method, location, nil)
	if err != nil {
		cancel(nil)
		return nil, c.broken("the place of the upload cannot be read")
	}
	if part.Body != nil && part.Length != 0 {
		sent := newOutgoing(part.Body, cancel)
		req.Body, _ = sent.again() // the first time
		req.GetBody, req.ContentLength = sent.again, part.Length
		req.Header.Set("Content-Type", "application/octet-stream")
		// A token that has run out is found out before the body is gone.
		req.Header.Set("Expect", "100-continue")
	} else if method != http.MethodGet && method != http.MethodDelete {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	if part.Range != "" {
		req.Header.Set("Content-Range", part.Range)
	}
	var resp *http.Response
	if p.registry.egress.isUpstream(req.URL) {
		resp, err = p.registry.client.Do(req)
	} else {
		req.Header.Set("User-Agent", p.registry.client.Header.Get("User-Agent"))
		resp, err = p.registry.plain.Do(req)
	}
	if err != nil {
		defer cancel(nil)
		return nil, c.asking(ctx, err)
	}
	resp.Body = &released{resp.Body, cancel}
	return resp, nil
}

// released ends the request's context with the body.
type released struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

// Close implements io.Closer.
func (r *released) Close() error {
	err := r.ReadCloser.Close()
	r.cancel(nil)
	return err
}

// outgoing is a body that is sent once, and that ends when the registry takes
// nothing of it any more.
type outgoing struct {
	body  io.Reader
	stall *time.Timer

	mu      sync.Mutex
	started bool
	current *attempt
}

// attempt is the body of one request. A transport may still read the body of a
// request that was answered early, while the next one is under way: only the
// newest attempt gets anything.
type attempt struct{ *outgoing }

func newOutgoing(body io.Reader, cancel context.CancelCauseFunc) *outgoing {
	o := &outgoing{body: body, stall: time.AfterFunc(stallTimeout, func() { cancel(errStalled) })}
	o.stall.Stop()
	return o
}

var errSent = errors.New("a part of the body is sent already")

// again is the body for a try, if nothing of it is gone.
func (o *outgoing) again() (io.ReadCloser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.started {
		return nil, errSent
	}
	o.current = &attempt{o}
	return o.current, nil
}

// Read implements io.Reader.
func (a *attempt) Read(b []byte) (int, error) {
	a.mu.Lock()
	if a.current != a {
		a.mu.Unlock()
		return 0, errSent
	}
	a.started = true
	a.mu.Unlock()
	// Only the registry's time counts, not that of a slow client.
	a.stall.Stop()
	n, err := a.body.Read(b)
	if err == nil {
		a.stall.Reset(stallTimeout)
	}
	return n, err
}

// Close implements io.Closer. The client's body is the server's to close.
func (a *attempt) Close() error {
	a.stall.Stop()
	return nil
}

// RefusedError is an answer by which a registry refuses what is pushed.
type RefusedError struct {
	*failure
	Status int    // 4xx
	Code   string // of the registry, or ""
}

// Unwrap keeps the kinds of the errors of this package.
func (e *RefusedError) Unwrap() error { return e.failure }

// refused is answered for a push: what the client did wrong is the client's to
// know, with the registry's own code.
func (c call) refused(ctx context.Context, resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusConflict, http.StatusLengthRequired,
		http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusRequestedRangeNotSatisfiable, http.StatusUnprocessableEntity:
	default:
		return c.answered(ctx, resp)
	}
	said := readErrors(resp.Body)
	e := &RefusedError{Status: resp.StatusCode}
	if len(said) > 0 {
		e.Code = said[0].Code
	}
	var kind error
	switch resp.StatusCode {
	case http.StatusNotFound:
		kind = oci.ErrNotFound
	case http.StatusRequestedRangeNotSatisfiable:
		kind = ErrRange
	}
	e.failure = c.fail(kind, false, fmt.Sprintf("the registry answered %s", describe(resp.StatusCode, said)), "")
	return e
}
