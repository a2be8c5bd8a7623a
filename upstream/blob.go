package upstream

import (
	"context"
	"errors"
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
	size, err = c.blobSize(ctx, resp, d, offset)
	if err != nil {
		resp.Body.Close()
		cancel(nil)
		return nil, 0, err
	}
	return newStream(ctx, cancel, c, resp.Body), size, nil
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
	start, size, err := parseContentRange(resp.Header.Get("Content-Range"))
	if err != nil || start != offset {
		return 0, c.fail(ErrRange, false, fmt.Sprintf("the registry sent another range (%s) than was asked for", clip(printable(resp.Header.Get("Content-Range")), 80)), "")
	}
	return size, nil
}

// parseContentRange reads "bytes 5-9/10"; size is -1 for "bytes 5-9/*".
//
// https://www.rfc-editor.org/rfc/rfc9110#section-14.4
func parseContentRange(s string) (start, size int64, err error) {
	within, total, ok := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	first, last, ranged := strings.Cut(within, "-")
	if !ok || !ranged || !strings.HasPrefix(s, "bytes ") {
		return 0, 0, fmt.Errorf("not a byte range: %q", clip(s, 80))
	}
	start, err = strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0, 0, err
	}
	end, err := strconv.ParseInt(last, 10, 64)
	if err != nil {
		return 0, 0, err
	}
	size = -1
	if total != "*" {
		if size, err = strconv.ParseInt(total, 10, 64); err != nil {
			return 0, 0, err
		}
	}
	if start < 0 || end < start || (size >= 0 && end >= size) {
		return 0, 0, fmt.Errorf("not a byte range: %q", clip(s, 80))
	}
	return start, size, nil
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
		if cause := context.Cause(s.ctx); errors.Is(cause, errStalled) {
			err = cause
		}
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
