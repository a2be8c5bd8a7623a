package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	orasregistry "oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/trustgate/trustgate/oci"
)

// Options says where a registry is and how to speak to it. Registry and URL are
// required.
type Options struct {
	Registry string // the name that people use: "docker.io"
	URL      string // where it is: "https://registry-1.docker.io"
	Insecure bool   // allow plain HTTP, and do not check certificates
	CA       []byte // PEM certificates to trust beside the system's

	Credentials Credentials
	// TokenHosts are hosts, or hosts with ports, that the credentials may be
	// sent to beside the registry's own site.
	TokenHosts []string

	ManifestLimit int64  // bytes of one manifest; 4 MiB when zero
	Concurrency   int    // questions at once, blobs not counted; 64 when zero
	UserAgent     string // "trustgate" when empty
}

// DefaultManifestLimit is what registries accept at least, in bytes.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pushing-manifests
const DefaultManifestLimit = 4 << 20

// Registry is one upstream registry. It is safe for concurrent use.
type Registry struct {
	name          string
	base          *url.URL
	host          string // as in base
	credentials   Credentials
	manifestLimit int64

	egress *egress
	plain  *http.Client // without authentication
	client *auth.Client
	slots  chan struct{}

	listsReferrers atomic.Bool // its referrers API has answered

	probed struct {
		sync.Mutex
		at         time.Time
		signatures bool
	}
}

// New makes a client. It sends nothing yet.
func New(o Options) (*Registry, error) {
	base, err := parseBase(o)
	if err != nil {
		return nil, fmt.Errorf("the upstream of %s: %w", o.Registry, err)
	}
	if _, err := oci.NewReference(o.Registry, "a"); err != nil {
		return nil, fmt.Errorf("the registry name %q is not a host that a reference can carry: %w", o.Registry, err)
	}
	if err := o.Credentials.check(); err != nil {
		return nil, fmt.Errorf("the upstream of %s: %w", o.Registry, err)
	}
	if o.ManifestLimit <= 0 {
		o.ManifestLimit = DefaultManifestLimit
	}
	if o.Concurrency <= 0 {
		o.Concurrency = 64
	}
	if o.UserAgent == "" {
		o.UserAgent = "trustgate"
	}
	egress, transport, err := newTransport(o, base)
	if err != nil {
		return nil, fmt.Errorf("the upstream of %s: %w", o.Registry, err)
	}
	r := &Registry{
		name: o.Registry, base: base, host: base.Host, credentials: o.Credentials,
		manifestLimit: o.ManifestLimit, egress: egress,
		plain: &http.Client{Transport: transport},
		slots: make(chan struct{}, o.Concurrency),
	}
	r.client = &auth.Client{
		Client:     r.plain,
		Header:     http.Header{"User-Agent": {o.UserAgent}},
		Credential: o.Credentials.source(base.Host),
		Cache:      &tokens{},
		ClientID:   "trustgate",
		// Addresses are checked where they are dialed, which this list could
		// not do for names that resolve to something else the next time.
		BlockedRealmPrefixes: []netip.Prefix{},
	}
	return r, nil
}

// As is the same registry, asked with a client's own user name and password, or
// without any when both are empty. Connections are shared, tokens are not.
func (r *Registry) As(username, password string) *Registry {
	own := &Registry{
		name: r.name, base: r.base, host: r.host, credentials: Credentials{client: true},
		manifestLimit: r.manifestLimit, egress: r.egress, plain: r.plain, slots: r.slots,
	}
	own.client = &auth.Client{
		Client: r.plain, Header: r.client.Header, Cache: &tokens{}, ClientID: r.client.ClientID,
		BlockedRealmPrefixes: r.client.BlockedRealmPrefixes,
		Credential: func(_ context.Context, asked string) (auth.Credential, error) {
			if asked != r.host {
				return auth.EmptyCredential, nil
			}
			return auth.Credential{Username: username, Password: password}, nil
		},
	}
	return own
}

func parseBase(o Options) (*url.URL, error) {
	base, err := url.Parse(o.URL)
	switch {
	case err != nil:
		return nil, errors.New("the URL cannot be read")
	case base.User != nil:
		return nil, errors.New("the URL carries a user name; put it under credentials")
	case base.Scheme != "https" && base.Scheme != "http":
		// Without the scheme, "user:password@host" reads as an URL too.
		return nil, errors.New("the URL begins neither with https:// nor with http://")
	case base.Scheme == "http" && !o.Insecure:
		return nil, fmt.Errorf("http://%s is plain http; use https, or mark the route insecure", base.Host)
	case base.Hostname() == "" || strings.Trim(base.Path, "/") != "" || base.RawQuery != "" || base.Fragment != "":
		return nil, errors.New("the URL must be a scheme and a host alone, such as https://registry.example.com; paths before /v2/ are not supported")
	}
	if err := (orasregistry.Reference{Registry: base.Host}).ValidateRegistry(); err != nil {
		return nil, fmt.Errorf("%q is not the host of a registry", base.Host)
	}
	return &url.URL{Scheme: base.Scheme, Host: strings.ToLower(base.Host)}, nil
}

// Name is the name that people use for the registry.
func (r *Registry) Name() string { return r.name }

// Close ends idle connections.
func (r *Registry) Close() {
	r.egress.base.CloseIdleConnections()
	r.egress.patient.CloseIdleConnections()
}

// Ping asks the registry, with the route's credentials, whether it is there.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#determining-support
func (r *Registry) Ping(ctx context.Context) error {
	ctx, done, err := r.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	c := call{r, "asking for /v2/"}
	resp, err := r.send(ctx, c, http.MethodGet, "/v2/", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.answered(ctx, resp)
	}
	// A body that was not read costs the connection.
	_, err = io.CopyN(io.Discard, resp.Body, maxErrorBody)
	if err != nil && err != io.EOF {
		return c.transport(ctx, err)
	}
	return nil
}

// Repository opens a repository by its path in the registry. On docker.io a
// single word is below "library/".
func (r *Registry) Repository(path string) (*Repository, error) {
	name, err := oci.NewReference(r.name, path)
	if err != nil {
		return nil, err
	}
	return &Repository{registry: r, name: name}, nil
}

// Repository is one repository of a registry.
type Repository struct {
	registry *Registry
	name     oci.Reference
}

// begin takes a slot and bounds the time of one question.
func (r *Registry) begin(ctx context.Context) (context.Context, func(), error) {
	cancel := func() {}
	if _, bounded := ctx.Deadline(); !bounded {
		ctx, cancel = context.WithTimeout(ctx, metadataTimeout)
	}
	select {
	case r.slots <- struct{}{}:
		return ctx, func() { <-r.slots; cancel() }, nil
	case <-ctx.Done():
		defer cancel()
		return nil, nil, call{r, "waiting for a turn to read"}.transport(ctx, ctx.Err())
	}
}

// send makes one request to the registry itself. The caller closes the body.
func (r *Registry) send(ctx context.Context, c call, method, path string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.base.String()+path, nil)
	if err != nil {
		return nil, c.transport(ctx, err)
	}
	for key, values := range header {
		req.Header[key] = values
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, c.asking(ctx, err)
	}
	return resp, nil
}

// probe asks, without credentials, whether a registry answers at all and
// whether it serves signatures.
func (r *Registry) probe(ctx context.Context) (signatures bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, headerTimeout)
	defer cancel()
	c := call{r, "asking for /v2/"}
	resp, err := r.anonymously(ctx, c)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK, http.StatusUnauthorized, http.StatusForbidden:
		return resp.Header.Get("X-Registry-Supports-Signatures") == "1", nil
	}
	return false, c.fail(ErrUnavailable, true, fmt.Sprintf("it answered %d", resp.StatusCode), "")
}

// anonymously asks for /v2/ without credentials. The caller closes the body.
func (r *Registry) anonymously(ctx context.Context, c call) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base.String()+"/v2/", nil)
	if err != nil {
		return nil, c.transport(ctx, err)
	}
	req.Header = r.client.Header.Clone()
	resp, err := r.plain.Do(req)
	if err != nil {
		return nil, c.transport(ctx, err)
	}
	return resp, nil
}

func (r *Registry) alive(ctx context.Context) error {
	_, err := r.probe(ctx)
	return err
}

func (r *Registry) loginAdvice() string { return r.credentials.advice(r.host) }

// remote is oras-go's view of p. It is made for one question: what oras-go
// learns of a repository's capabilities from one digest must not decide where
// the evidence about another is looked for.
func (p *Repository) remote(c call) (*remote.Repository, *pages) {
	pages := &pages{Client: p.registry.client, call: c, limit: p.registry.manifestLimit}
	return &remote.Repository{
		Client:               pages,
		Reference:            orasregistry.Reference{Registry: p.registry.host, Repository: p.name.Repository()},
		PlainHTTP:            p.registry.base.Scheme == "http",
		ManifestMediaTypes:   oci.ManifestMediaTypes,
		MaxMetadataBytes:     p.registry.manifestLimit + 1, // pages has the say
		ReferrerListMaxPages: maxReferrerPages,
		TagListMaxPages:      maxTagPages,
	}, pages
}

// scoped tells oras-go which token the requests of ctx need: one that may pull,
// and whatever more is wanted.
func (p *Repository) scoped(ctx context.Context, more ...string) context.Context {
	ref := orasregistry.Reference{Registry: p.registry.host, Repository: p.name.Repository()}
	return auth.AppendRepositoryScope(ctx, ref, append([]string{auth.ActionPull}, more...)...)
}

func (p *Repository) call(doing, reference string) call {
	name := p.name.Name()
	switch {
	case strings.Contains(reference, ":"):
		name += "@" + reference
	case reference != "":
		name += ":" + reference
	}
	return call{p.registry, doing + " " + name}
}

// parse reads a tag or a digest; exactly one of the two is returned.
func (p *Repository) parse(tagOrDigest string) (tag string, d digest.Digest, err error) {
	if strings.Contains(tagOrDigest, ":") {
		d, err = oci.ParseDigest(tagOrDigest)
		return "", d, err
	}
	_, err = p.name.WithTag(tagOrDigest)
	return tagOrDigest, "", err
}
