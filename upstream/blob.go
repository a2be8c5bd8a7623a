package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// Blob streams a blob from offset on. size is that of the whole blob, or -1
// when the registry does not say. The bytes are not checked: whoever reads all
// of them hashes them. The caller closes body, which must be read steadily; a
// registry that sends nothing for a minute has failed.
//
// The error matches ErrRange when the registry has no such part or does not
// serve parts.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-blobs
func (p *Repository) Blob(ctx context.Context, d digest.Digest, offset int64) (body io.ReadCloser, size int64, err error) {
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return nil, 0, err
	}
	if offset < 0 {
		return nil, 0, fmt.Errorf("%w: it starts at %d", ErrRange, offset)
	}
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	c := p.call("fetching the blob", d.String())
	ctx, cancel := context.WithCancelCause(ctx)
	resp, err := p.registry.send(p.scoped(ctx), c, http.MethodGet, p.path("blobs", d.String()), header)
	if err != nil {
		cancel(nil)
		return nil, 0, err
	}
	resp.Body = newStream(ctx, cancel, c, resp.Body)
	size, err = c.blobSize(ctx, resp, d, offset)
	if err != nil {
		resp.Body.Close()
		return nil, 0, err
	}
	return resp.Body, size, nil
}

func (c call) blobSize(ctx context.Context, resp *http.Response, d digest.Digest, offset int64) (int64, error) {
	claimed, err := oci.ParseDigest(resp.Header.Get(headerDigest))
	if err == nil && claimed.Algorithm() == d.Algorithm() && claimed != d && resp.StatusCode < 300 {
		return 0, c.broken("the registry says that it is %s", claimed)
	}
	switch {
	case resp.StatusCode == http.StatusOK && offset == 0:
		return resp.ContentLength, nil
	case resp.StatusCode == http.StatusOK:
		return 0, c.fail(ErrRange, false, "the registry ignores the range that was asked for", "")
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return 0, c.fail(ErrRange, false, fmt.Sprintf("it has nothing at byte %d", offset), "")
	case resp.StatusCode != http.StatusPartialContent:
		return 0, c.answered(ctx, resp)
	}
	sent, err := parseContentRange(resp.Header.Get("Content-Range"))
	length := sent.last - sent.first + 1
	if err != nil || sent.first != offset || (sent.size >= 0 && sent.last != sent.size-1) || (resp.ContentLength >= 0 && resp.ContentLength != length) {
		return 0, c.fail(ErrRange, false, fmt.Sprintf("the registry sent another range (%s) than was asked for", clip(printable(resp.Header.Get("Content-Range")), 80)), "")
	}
	return sent.size, nil
}

// contentRange is a part of a blob, by its first and its last byte. size is
// that of the blob, or -1.
type contentRange struct{ first, last, size int64 }

// parseContentRange reads "bytes 5-9/10" and "bytes 5-9/*".
//
// https://www.rfc-editor.org/rfc/rfc9110#section-14.4
func parseContentRange(s string) (contentRange, error) {
	within, size, whole := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	first, last, ranged := strings.Cut(within, "-")
	broken := !whole || !ranged || !strings.HasPrefix(s, "bytes ")
	number := func(digits string) int64 {
		n, err := strconv.ParseUint(digits, 10, 63)
		broken = broken || err != nil
		return int64(n)
	}
	r := contentRange{first: number(first), last: number(last), size: -1}
	if size != "*" {
		r.size = number(size)
	}
	if broken || r.last < r.first || (r.size >= 0 && r.last >= r.size) {
		return contentRange{}, fmt.Errorf("not a byte range: %q", clip(s, 80))
	}
	return r, nil
}

// errStalled reports a body that stood still.
var errStalled = fmt.Errorf("the registry sent nothing for %v", stallTimeout)

// stream is a body that ends when nothing arrives any more, and whose errors
// say what was being read.
type stream struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	call   call
	body   io.ReadCloser
	stall  *time.Timer
}

func newStream(ctx context.Context, cancel context.CancelCauseFunc, c call, body io.ReadCloser) *stream {
	stall := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
	stall.Stop()
	return &stream{ctx: ctx, cancel: cancel, call: c, body: body, stall: stall}
}

// Read implements io.Reader.
func (s *stream) Read(b []byte) (int, error) {
	// Only the registry's time counts, not that of a slow reader.
	s.stall.Reset(stallTimeout)
	n, err := s.body.Read(b)
	s.stall.Stop()
	if err != nil && err != io.EOF {
		err = s.call.transport(s.ctx, err)
	}
	return n, err
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.stall.Stop()
	err := s.body.Close()
	s.cancel(nil)
	return err
}
