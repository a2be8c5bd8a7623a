package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/http2"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/trustgate/trustgate/internal/reach"
)

const (
	// headerTimeout is how long a registry may think about one request.
	headerTimeout = 30 * time.Second
	// commitTimeout is how long a registry may think about a blob that it has
	// been sent; some read all of it again.
	commitTimeout = 10 * time.Minute
	// metadataTimeout bounds one whole question where the caller sets no
	// deadline, retries included.
	metadataTimeout = time.Minute
	// stallTimeout is how long the body of a blob may stand still.
	stallTimeout = time.Minute

	statusRetries     = 4 // after 429, 408 and 5xx: about 4 s in all
	connectionRetries = 2 // after a connection failed: less than 1 s in all

	// maxRetryAfter is the longest wait that a registry may ask for. A pull
	// that would wait longer had better fail and be told so.
	maxRetryAfter = 30 * time.Second
)

// newTransport builds everything below the authentication: retries, the rules
// on where requests may go, and the connections.
func newTransport(o Options, upstream *url.URL) (*egress, http.RoundTripper, error) {
	environment := httpproxy.FromEnvironment()
	e := &egress{
		upstream: upstream, insecure: o.Insecure,
		proxy: environment.ProxyFunc(), proxies: reach.Proxies(environment),
	}
	for _, host := range o.TokenHosts {
		e.tokens = append(e.tokens, strings.ToLower(host))
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.Insecure} // #nosec G402 -- for a route that the operator marks insecure
	if len(o.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(o.CA) {
			return nil, nil, errors.New("the CA holds no PEM certificate")
		}
		config.RootCAs = pool
	}
	e.base = &http.Transport{
		Proxy:                  func(req *http.Request) (*url.URL, error) { return e.proxy(req.URL) },
		DialContext:            e.dial,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  headerTimeout,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    64,
		MaxResponseHeaderBytes: 256 << 10,
		ForceAttemptHTTP2:      true,
		// Digests and ranges are about the bytes as they are stored.
		DisableCompression: true,
	}
	e.patient = e.base.Clone()
	e.patient.ResponseHeaderTimeout = commitTimeout
	return e, &retry.Transport{Base: e, Policy: func() retry.Policy { return patience{} }}, nil
}

// patience decides what is worth asking again, and when. oras-go's own policy
// waits at most three seconds whatever Retry-After says and gives up on a
// refused connection at once.
type patience struct{}

var backoff = retry.ExponentialBackoff(250*time.Millisecond, 2, 0.3)

// Retry implements retry.Policy. A negative duration means that the answer, or
// the error, stands.
func (patience) Retry(attempt int, resp *http.Response, err error) (time.Duration, error) {
	if err != nil {
		if attempt >= connectionRetries || !isConnectionFailure(err) {
			return -1, nil
		}
		return backoff(attempt, nil), nil
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return -1, nil
	default:
		if resp.StatusCode < 500 {
			return -1, nil
		}
	}
	if attempt >= statusRetries {
		return -1, nil
	}
	wait, asked := retryAfter(resp.Header.Get("Retry-After"))
	if !asked {
		wait = backoff(attempt, nil)
	}
	deadline, bounded := resp.Request.Context().Deadline()
	if wait > maxRetryAfter || (bounded && time.Until(deadline) < wait) {
		return -1, nil
	}
	return wait, nil
}

// retryAfter reads both forms of the header. More seconds than can be counted
// are a wait that nobody has the patience for.
//
// https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
func retryAfter(value string) (time.Duration, bool) {
	switch seconds, err := strconv.ParseUint(value, 10, 31); {
	case err == nil:
		return time.Duration(seconds) * time.Second, true
	case errors.Is(err, strconv.ErrRange):
		return math.MaxInt64, true
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(time.Until(at), 0), true
	}
	return 0, false
}

// isConnectionFailure says whether err is of the network, as opposed to a
// refusal, a certificate that does not fit, a name that does not exist, a
// registry that thinks for too long, or nobody waiting any more.
func isConnectionFailure(err error) bool {
	var (
		refused *refusal
		dns     *net.DNSError
		op      *net.OpError
		stream  http2.StreamError
		timeout net.Error
	)
	switch {
	case errors.As(err, &refused), errors.Is(err, context.Canceled):
		return false
	case errors.As(err, &dns):
		return dns.IsTemporary
	case errors.As(err, &op), errors.As(err, &stream), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		// A dial that timed out claims to be context.DeadlineExceeded; where
		// the caller's time is over too, the wait before the next ends at once.
		return true
	case errors.Is(err, context.DeadlineExceeded):
		return false
	}
	return errors.As(err, &timeout) && timeout.Timeout()
}
