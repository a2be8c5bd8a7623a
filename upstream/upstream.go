// Package upstream talks to the registries behind the gate: credentials,
// tokens, retries, manifests, blobs, tags and referrers.
//
// What a registry says of its own content is not believed: a manifest is
// hashed here, a blob by whoever reads it. The package never decides about
// trust, and no error or log line of it carries a credential.
package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/trustgate/trustgate/oci"
)

var (
	// ErrUnauthorized reports a registry that refuses the gate's credentials,
	// or the lack of them.
	ErrUnauthorized = errors.New("the upstream refuses access")

	// ErrUnavailable reports a registry that gave no answer: asking again may
	// help.
	ErrUnavailable = errors.New("the upstream does not answer")
)

// Options describe one registry.
type Options struct {
	Registry      string // the name that people use: docker.io
	URL           string // where it is: https://registry-1.docker.io
	Insecure      bool   // plain HTTP, or TLS that is not checked
	CA            []byte // PEM certificates to trust beside the system's
	Credentials   Credentials
	ManifestLimit int64 // bytes; 0 means 4 MiB
	UserAgent     string
}

// Credentials say how the gate presents itself. The zero value is anonymous.
type Credentials struct {
	DockerConfig string // path of a docker config.json, with its credential helpers
	Username     string
	Password     string
}

// Registry is a client of one registry. It is safe for concurrent use.
type Registry struct {
	name      string
	base      *url.URL
	client    *auth.Client
	transport *http.Transport
	limit     int64

	repositories *lru.Cache[string, *Repository]
}

// New makes a client; it does not connect.
func New(options Options) (*Registry, error) {
	base, err := url.Parse(options.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the upstream of %s: %w", options.Registry, err)
	case base.Host == "" || (base.Scheme != "https" && base.Scheme != "http"):
		return nil, fmt.Errorf("the upstream of %s: %q is not an http or https URL", options.Registry, options.URL)
	case base.Path != "" && base.Path != "/":
		return nil, fmt.Errorf("the upstream of %s: %q has a path; a registry is at the root of its host", options.Registry, options.URL)
	case base.User != nil:
		return nil, fmt.Errorf("the upstream of %s has credentials in its URL; use routes[].credentials", options.Registry)
	case base.Scheme == "http" && !options.Insecure:
		return nil, fmt.Errorf("the upstream of %s is plain HTTP; say insecure: true if that is meant", options.Registry)
	}
	transport, err := newTransport(base, options)
	if err != nil {
		return nil, fmt.Errorf("the upstream of %s: %w", options.Registry, err)
	}
	credential, err := options.Credentials.source(base.Host)
	if err != nil {
		return nil, fmt.Errorf("the credentials for %s: %w", options.Registry, err)
	}
	r := &Registry{name: options.Registry, base: base, transport: transport, limit: options.ManifestLimit}
	if r.limit <= 0 {
		r.limit = 4 << 20
	}
	r.client = &auth.Client{
		Client:     &http.Client{Transport: &retry.Transport{Base: transport, Policy: func() retry.Policy { return patience }}},
		Cache:      auth.NewCache(),
		Credential: credential,
		Header:     http.Header{},
	}
	if options.UserAgent == "" {
		options.UserAgent = "trustgate"
	}
	r.client.SetUserAgent(options.UserAgent)
	r.repositories, _ = lru.New[string, *Repository](4096)
	return r, nil
}

func (c Credentials) source(host string) (auth.CredentialFunc, error) {
	switch {
	case c.Username != "" || c.Password != "":
		return auth.StaticCredential(host, auth.Credential{Username: c.Username, Password: c.Password}), nil
	case c.DockerConfig != "":
		store, err := credentials.NewStore(c.DockerConfig, credentials.StoreOptions{})
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", c.DockerConfig, err)
		}
		return credentials.Credential(store), nil
	}
	return nil, nil
}

func newTransport(base *url.URL, options Options) (*http.Transport, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: options.Insecure} //nolint:gosec // only as routes[].insecure says
	if len(options.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(options.CA) {
			return nil, errors.New("its CA file holds no PEM certificate")
		}
		tlsConfig.RootCAs = pool
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Control: refuseLinkLocal(base.Hostname())}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   64,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // digests are of the bytes as stored
	}, nil
}

// refuseLinkLocal keeps a redirect or a token realm from leading the gate to
// the metadata service of its own machine. The upstream itself may be there
// only when it was configured by address.
func refuseLinkLocal(configured string) func(network, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("dialling %s: %w", address, err)
		}
		ip := to.Addr().Unmap().WithZone("")
		if own, err := netip.ParseAddr(configured); err == nil && own.Unmap() == ip {
			return nil
		}
		if ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
			return fmt.Errorf("dialling %s is refused: a registry has no business leading there", address)
		}
		return nil
	}
}

// patience is how long a struggling registry is borne with: three more tries,
// with backoff and jitter, or after as long as the registry asks for.
var patience retry.Policy = &retry.GenericPolicy{
	Retryable: retry.DefaultPredicate,
	Backoff: func(attempt int, resp *http.Response) time.Duration {
		if resp != nil {
			if wait, ok := retryAfter(resp.Header.Get("Retry-After"), time.Now()); ok {
				return wait
			}
		}
		return retry.ExponentialBackoff(250*time.Millisecond, 2, 0.3)(attempt, nil)
	},
	MinWait:  100 * time.Millisecond,
	MaxWait:  20 * time.Second, // the deadline of the judgement cuts it shorter
	MaxRetry: 3,
}

// retryAfter reads either form of the header.
//
// https://www.rfc-editor.org/rfc/rfc9110#name-retry-after
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	if value == "" {
		return 0, false
	}
	if seconds, err := strconv.ParseInt(strings.TrimSpace(value), 10, 32); err == nil && seconds >= 0 {
		return time.Duration(seconds) * time.Second, true
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now)), true
	}
	return 0, false
}

// Ping says whether the registry answers at all. A demand for credentials is
// an answer.
func (r *Registry) Ping(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base.JoinPath("v2/").String(), nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: r.transport}).Do(req)
	if err != nil {
		return r.explain("asking "+r.name, err)
	}
	resp.Body.Close()
	if resp.StatusCode >= 500 {
		return fmt.Errorf("asking %s: %w: status %d", r.name, ErrUnavailable, resp.StatusCode)
	}
	return nil
}

// Repository is a client of one repository of the registry.
func (r *Registry) Repository(path string) (*Repository, error) {
	if known, ok := r.repositories.Get(path); ok {
		return known, nil
	}
	if _, err := oci.NewReference(r.name, path); err != nil {
		return nil, err
	}
	p := &Repository{registry: r, path: path, client: r.newClient(path)}
	r.repositories.Add(path, p)
	return p, nil
}

func (r *Registry) newClient(path string) *remote.Repository {
	return &remote.Repository{
		Client:             r.client,
		Reference:          registry.Reference{Registry: r.base.Host, Repository: path},
		PlainHTTP:          r.base.Scheme == "http",
		ManifestMediaTypes: oci.ManifestMediaTypes,
		MaxMetadataBytes:   r.limit,
	}
}

// Close drops idle connections.
func (r *Registry) Close() { r.transport.CloseIdleConnections() }
