package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/trustgate/trustgate/oci"
)

// status turns an answer that is not 200 into an error.
func (r *Registry) status(doing string, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be kept
	return r.statusError(doing, resp.StatusCode)
}

func (r *Registry) statusError(doing string, status int) error {
	switch {
	case status == http.StatusNotFound:
		return fmt.Errorf("%s: %w", doing, oci.ErrNotFound)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fmt.Errorf("%s: %w (%d); check that it exists and that routes[].credentials for %s may read it", doing, ErrUnauthorized, status, r.name)
	case status == http.StatusTooManyRequests:
		return fmt.Errorf("%s: %w: too many requests (429); credentials for %s raise its limit", doing, ErrUnavailable, r.name)
	case status >= 500 || status == http.StatusRequestTimeout:
		return fmt.Errorf("%s: %w: status %d", doing, ErrUnavailable, status)
	}
	return fmt.Errorf("%s: the upstream answers with status %d", doing, status)
}

// explain turns what the libraries return into the errors of this package.
// URLs are left out: those of redirects carry credentials in their query.
func (r *Registry) explain(doing string, err error) error {
	var answered *errcode.ErrorResponse
	if errors.As(err, &answered) {
		return r.statusError(doing, answered.StatusCode)
	}
	switch {
	case errors.Is(err, errdef.ErrNotFound), errors.Is(err, oci.ErrNotFound):
		return fmt.Errorf("%s: %w", doing, oci.ErrNotFound)
	case errors.Is(err, oci.ErrManifest), errors.Is(err, oci.ErrReference), errors.Is(err, oci.ErrDigest):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, errdef.ErrSizeExceedsLimit):
		return fmt.Errorf("%s: %w: %v", doing, oci.ErrManifest, errdef.ErrSizeExceedsLimit)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return fmt.Errorf("%s: %w: it wants a user name and a password; set routes[].credentials for %s", doing, ErrUnauthorized, r.name)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", doing, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, context.DeadlineExceeded)
	}
	var failed *url.Error
	if errors.As(err, &failed) {
		return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, failed.Err)
	}
	return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
}
