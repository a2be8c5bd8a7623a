package gittag

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"

	"github.com/dustin/go-humanize"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

// failure is every error of this package that leaves it, but those of New.
type failure struct {
	text      string
	inner     error // a sentinel or a context's error, or nil
	temporary bool
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.inner }

// Temporary says whether asking again may help.
func (f *failure) Temporary() bool { return f.temporary }

func (s *search) fail(temporary bool, inner error, format string, args ...any) *failure {
	return &failure{
		text:  s.doing + ": " + fmt.Sprintf(format, args...),
		inner: inner, temporary: temporary,
	}
}

// broken reports an answer that is not what git's protocol allows.
func (s *search) broken(format string, args ...any) *failure {
	return s.fail(false, nil, "%s; the git server, or something before it, is broken or lies", fmt.Sprintf(format, args...))
}

// failed turns an error of a look-up into one that says what to do.
func (s *search) failed(ctx context.Context, err error) error {
	var (
		mine     *failure
		refused  *refusal
		said     *pktline.ErrorLine
		status   *githttp.Err
		odd      *packp.ErrUnexpectedData
		wrapped  *plumbing.UnexpectedError
		isStatus bool
	)
	if errors.As(err, &wrapped) {
		// It has no Unwrap.
		isStatus = errors.As(wrapped.Err, &status)
	}
	switch {
	case errors.As(err, &mine):
		return mine
	case errors.Is(err, errLongObject):
		return s.fail(false, nil, "it is larger than %d bytes", maxObject)
	case s.meter.spent, errors.Is(err, errLarge):
		return s.fail(false, nil, "it sends more than %s; raise the bound if the repository is that large", humanize.IBytes(uint64(s.maxBytes)))
	case errors.As(s.meter.err, &refused):
		return s.fail(false, nil, "%v", refused)
	case errors.Is(err, errCollision):
		return s.fail(false, nil, "%v", err)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return s.fail(true, context.DeadlineExceeded, "no answer within %s; try again later", s.timeout)
	case ctx.Err() != nil:
		return s.fail(true, ctx.Err(), "it was given up")
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return s.fail(false, nil, "it says that there is no such repository; check the URL, and that the repository is public")
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		return s.fail(false, nil, "it asks for a login: the repository is not public, or not there; TrustGate reads public repositories")
	case isStatus:
		code := status.StatusCode()
		again := code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500
		return s.fail(again, nil, "it answers %d %s%s", code, http.StatusText(code), map[bool]string{true: "; try again later"}[again])
	case errors.As(err, &said):
		return s.fail(false, nil, "it says %q; check the URL, and that the repository is public", plain(said.Text))
	case s.meter.err != nil:
		// The connection broke under whatever the library made of it.
		return s.fail(true, nil, "%s; check that it runs and can be reached from here", plain(s.meter.err.Error()))
	case errors.As(err, &odd), errors.Is(err, packp.ErrEmptyInput), errors.Is(err, pktline.ErrInvalidPktLen):
		return s.broken("it does not speak git's smart protocol (%s)", plain(err.Error()))
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, packfile.ErrEmptyPackfile):
		return s.fail(true, nil, "the connection broke in the middle of the answer; try again")
	case errors.Is(err, packfile.ErrMalformedPackFile):
		return s.broken("its pack is malformed")
	}
	return s.broken("%s", plain(err.Error()))
}

// plain is foreign text, bounded and on one line.
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return text
}
