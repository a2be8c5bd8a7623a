package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"crypto/x509"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/trustgate/trustgate/oci"
)

var (
	// ErrUnauthorized reports that the registry wants other credentials than
	// those of the route, or does not tell whether the thing exists.
	ErrUnauthorized = errors.New("not authorized by the upstream registry")

	// ErrUnavailable reports that the registry gave no answer: it could not be
	// reached in time, limits the rate, or failed.
	ErrUnavailable = errors.New("the upstream registry is unavailable")

	// ErrRange reports that the registry does not serve a part of a blob.
	ErrRange = errors.New("the upstream registry does not serve this range")
)

// maxErrorBody bounds the error document of a registry, in bytes.
const maxErrorBody = 8 << 10

// failure is every error of this package that a request led to. Its text is
// made here and not from the errors beneath it, which carry URLs whose queries
// are credentials.
type failure struct {
	kind      error // one of the sentinels, or nil
	inner     error // a context's error, or nil
	temporary bool
	text      string
}

func (f *failure) Error() string { return f.text }

// Temporary says whether asking again may help.
func (f *failure) Temporary() bool { return f.temporary }

func (f *failure) Unwrap() []error {
	var chain []error
	for _, err := range []error{f.kind, f.inner} {
		if err != nil {
			chain = append(chain, err)
		}
	}
	return chain
}

// call is what is being done, for the person who reads the error.
type call struct {
	registry *Registry
	doing    string // "fetching the manifest of docker.io/library/nginx:1"
}

func (c call) fail(kind error, temporary bool, what, advice string) *failure {
	text := fmt.Sprintf("%s from %s: %s", c.doing, c.registry.host, what)
	if advice != "" {
		text += "; " + advice
	}
	return &failure{kind: kind, temporary: temporary, text: redact(text)}
}

// broken reports an answer that is not what the protocol allows.
func (c call) broken(format string, args ...any) error {
	return c.fail(oci.ErrManifest, false, fmt.Sprintf(format, args...), "the registry, or something before it, is broken or lies")
}

// asking turns an error of r.client into a failure.
func (c call) asking(ctx context.Context, err error) error {
	var (
		answer  *errcode.ErrorResponse
		sent    *url.Error
		network net.Error
	)
	switch {
	case errors.As(err, &answer):
		// r.client passes on the answers of the registry, whatever they are, so
		// this one is of the token server and says nothing of what was asked for.
		return c.tokenServer(answer)
	case !errors.As(err, &sent) && !errors.As(err, &network):
		err = &loginError{err}
	}
	return c.transport(ctx, err)
}

// loginError is what oras-go has to say of a challenge or of a token.
type loginError struct{ error }

func (e *loginError) Unwrap() error { return e.error }

func (c call) tokenServer(answer *errcode.ErrorResponse) error {
	what := fmt.Sprintf("its token server %s answered %s", clip(answer.URL.Host, 255), describe(answer.StatusCode, answer.Errors))
	switch status := answer.StatusCode; {
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		return c.fail(ErrUnavailable, true, what, "try again later")
	}
	return c.fail(ErrUnauthorized, false, what, c.registry.loginAdvice())
}

// transport turns an error of sending a request or of reading its answer into
// a failure.
func (c call) transport(ctx context.Context, err error) error {
	var (
		mine    *failure
		refused *refusal
		local   *credentialError
		login   *loginError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		dns     *net.DNSError
	)
	switch {
	case errors.As(err, &mine):
		return mine
	case errors.As(err, &refused):
		return c.fail(ErrUnavailable, false, refused.Error(), refused.advice)
	case errors.As(err, &local):
		return c.fail(ErrUnauthorized, false, local.Error(), "")
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return c.fail(ErrUnauthorized, false, "the registry asks for credentials", c.registry.loginAdvice())
	case errors.Is(context.Cause(ctx), errStalled):
		return c.fail(ErrUnavailable, true, errStalled.Error(), "try again")
	case errors.Is(ctx.Err(), context.Canceled):
		f := c.fail(nil, true, "nobody waits for it any more", "")
		if f.inner = context.Cause(ctx); f.inner != context.Canceled {
			f.kind = ErrUnavailable // somebody gave up on it for a reason of their own
		}
		return f
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded):
		f := c.fail(ErrUnavailable, true, "no answer in time", "try again")
		f.inner = context.DeadlineExceeded
		return f
	case errors.As(err, &unknown), errors.As(err, &name), errors.As(err, &invalid):
		return c.fail(ErrUnavailable, true, brief(err), "if the registry has a certificate of your own CA, give its route that CA")
	case errors.As(err, &dns) && dns.IsNotFound:
		return c.fail(ErrUnavailable, true, "the name "+clip(dns.Name, 255)+" does not resolve", "check the route's upstream and this machine's DNS")
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return c.fail(ErrUnavailable, true, "the connection broke in the middle of the answer", "try again")
	case errors.As(err, &login):
		return c.fail(ErrUnauthorized, false, "logging in failed: "+brief(err), c.registry.loginAdvice())
	}
	return c.fail(ErrUnavailable, true, brief(err), "check that the registry runs and can be reached from here")
}

// answered turns an answer that is not the one hoped for into a failure. It
// reads the body and leaves closing it to the caller.
func (c call) answered(ctx context.Context, resp *http.Response) error {
	return c.status(ctx, resp.StatusCode, readErrors(resp.Body), resp.Header.Get("Retry-After"))
}

// readErrors reads an error document; what is none has no errors.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes
func readErrors(body io.Reader) errcode.Errors {
	var document struct {
		Errors errcode.Errors `json:"errors"`
	}
	if err := json.NewDecoder(io.LimitReader(body, maxErrorBody)).Decode(&document); err != nil {
		return nil
	}
	return document.Errors
}

func (c call) status(ctx context.Context, status int, said errcode.Errors, retryAfter string) error {
	what := "the registry answered " + describe(status, said)
	switch {
	case status == http.StatusNotFound:
		if len(said) == 0 || said[0].Code == "" {
			// A load balancer without a registry behind it says 404 too, and
			// must not be taken for a registry that has no signatures.
			if err := c.registry.alive(ctx); err != nil {
				return c.fail(ErrUnavailable, true, what+" and does not look like a registry now", "check the route's upstream")
			}
		}
		return c.fail(oci.ErrNotFound, false, what, "")
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return c.fail(ErrUnauthorized, false, what, c.registry.loginAdvice())
	case status == http.StatusTooManyRequests:
		advice := "wait"
		if retryAfter != "" {
			advice += " (Retry-After: " + clip(retryAfter, 40) + ")"
		}
		return c.fail(ErrUnavailable, true, what, advice+", or give the route credentials with a higher limit")
	case status == http.StatusRequestTimeout || status >= 500:
		return c.fail(ErrUnavailable, true, what, "try again later")
	}
	return c.fail(oci.ErrManifest, false, what, "")
}

func describe(status int, said errcode.Errors) string {
	text := strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
	if quoted := quote(said); quoted != "" {
		text += " (" + quoted + ")"
	}
	return text
}

// quote is what a registry says of its own error, made safe to show.
func quote(said errcode.Errors) string {
	var parts []string
	for _, e := range said[:min(len(said), 3)] {
		text := strings.ToLower(clip(e.Code, 60))
		if e.Message != "" {
			text += ": " + clip(e.Message, 300)
		}
		parts = append(parts, printable(text))
	}
	return strings.Join(parts, "; ")
}

// brief is the innermost part of a transport error that still says what
// happened, without the URL.
func brief(err error) string {
	var at *url.Error
	for errors.As(err, &at) {
		err = at.Err
	}
	return printable(clip(quotedQuery.ReplaceAllString(err.Error(), `$1"`), 400))
}

// quotedQuery is an URL, or what is left of one, as Go's errors quote it.
var quotedQuery = regexp.MustCompile(`("[^"?]*)\?(?:[^"\\]|\\.)*"`)

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// secrets are the shapes in which credentials get into texts: user information
// and queries of URLs, Authorization values, and JSON web tokens.
var secrets = []struct {
	shape *regexp.Regexp
	shown string
}{
	{regexp.MustCompile(`(?i)(\b[a-z][a-z0-9+.-]*://)[^\s/?#"]*@`), "$1"},
	{regexp.MustCompile(`(?i)(\b[a-z][a-z0-9+.-]*://[^\s"?]*)\?[^\s"]*`), "$1"},
	{regexp.MustCompile(`(?i)\b(basic|bearer) +[A-Za-z0-9+/_.~-]{8,}=*`), "$1 …"},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*){0,2}`), "…"},
}

// redact is the last line of defence: what it looks for should not be there.
func redact(s string) string {
	for _, secret := range secrets {
		s = secret.shape.ReplaceAllString(s, secret.shown)
	}
	return s
}
