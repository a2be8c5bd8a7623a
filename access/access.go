// Package access finds out who asks, and whether they may ask for it.
//
// A client proves itself with a certificate, a user name and a password, a token
// of an OpenID issuer, or, where a route passes them through, with credentials
// of the registry behind the gate, which then decides. It must never decide
// whether an image is good, and never hand a client's credentials to any other
// registry than the one that the client asks for.
package access

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/registry/auth"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // registers itself

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/upstream"
)

// ErrDenied reports a client that has proven itself and may not.
var ErrDenied = errors.New("not allowed")

// Options say how clients prove themselves. Without any of Htpasswd, Issuers and
// Upstreams nobody has to.
type Options struct {
	Htpasswd string   // the path of a file of user:bcrypt lines; read again when it changes
	Issuers  []Issuer // of tokens

	// Upstreams are the registries, by name, that decide themselves about the
	// credentials that their clients bring. Nobody else's are accepted there.
	Upstreams map[string]*upstream.Registry
	// Recheck is how long a registry's consent is taken for granted; Stale, how
	// long when the registry does not answer.
	Recheck, Stale time.Duration

	// Anonymous also lets those pull who prove nothing.
	Anonymous bool
	// Writers are patterns of identities that may push, where a route lets
	// anybody push; "*" is everybody who has proven to be somebody.
	Writers []string

	Rate Rate

	// Repository reads which repository a request means by a name.
	Repository func(r *http.Request, name string) (oci.Reference, error)
	// Key seals the tokens that the gate gives out; see OpenKey.
	Key []byte
	// URL is how clients reach the gate; what they write in Host when empty.
	URL string
	Now func() time.Time
}

// Access judges clients. A nil Access lets everybody do what routes let.
type Access struct {
	Options
	passwords auth.AccessController
	issuers   []*issuer
	tokens    *tokens
	grants    *grants
	limits    *limits
}

// New makes an Access. It sends nothing yet.
func New(o Options) (*Access, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &Access{Options: o, limits: newLimits(o.Rate)}
	if o.Htpasswd != "" {
		var err error
		if a.passwords, err = auth.GetAccessController("htpasswd", map[string]any{"realm": service, "path": o.Htpasswd}); err != nil {
			return nil, fmt.Errorf("opening the passwords of clients: %w", err)
		}
	}
	for _, i := range o.Issuers {
		opened, err := openIssuer(i, o.Now)
		if err != nil {
			return nil, fmt.Errorf("the issuer %s of clients' tokens: %w", i.Name, err)
		}
		a.issuers = append(a.issuers, opened)
	}
	var err error
	if a.tokens, err = newTokens(o.Key); err != nil {
		return nil, err
	}
	a.grants = newGrants(o.Recheck, o.Stale, o.Now)
	return a, nil
}

// MayPull says who asks, and whether they may read the object of the repository,
// good or bad. The error is a *Challenge, or what the repository's own
// registry says to the client.
func (a *Access) MayPull(r *http.Request, repository oci.Reference, o upstream.Object) (policy.Client, error) {
	c := connected(r)
	if a == nil {
		return c, nil
	}
	if decides := a.Upstreams[repository.Registry()]; decides != nil {
		err := a.permitted(r, &c, decides, repository, o)
		return c, err
	}
	if !a.own() {
		return c, nil
	}
	if err := a.proven(r, &c); err != nil {
		return c, err
	}
	if c.Identity == "" && !a.Anonymous {
		return c, a.challenge(r, repository.Registry(), "log in to the gate first")
	}
	return c, nil
}

// MayLearn says whether somebody who may pull one image may also be told what the
// gate found out about another, which was met on the way. What the client shows
// to the one's registry is not shown to the other's.
func (a *Access) MayLearn(r *http.Request, pulled, met oci.Reference) bool {
	if a == nil {
		return true
	}
	if met.Registry() != pulled.Registry() && (a.Upstreams[met.Registry()] != nil || a.Upstreams[pulled.Registry()] != nil) {
		r = r.Clone(r.Context())
		r.Header.Del("Authorization")
	}
	_, err := a.MayPull(r, met, upstream.Object{Kind: "manifests", Name: cmp.Or(string(met.Digest()), met.Tag())})
	return err == nil
}

// MayPush says who asks, and whether they may write to the repository, if its
// route lets anybody. The error is a *Challenge or matches ErrDenied.
func (a *Access) MayPush(r *http.Request, repository oci.Reference) (policy.Client, error) {
	c := connected(r)
	switch {
	case a == nil:
		return c, nil
	case a.Upstreams[repository.Registry()] != nil:
		// The gate would write with its own credentials, not with the client's.
		return c, fmt.Errorf("%w: %s decides about its clients itself; push to it directly", ErrDenied, repository.Registry())
	}
	if err := a.proven(r, &c); err != nil {
		return c, err
	}
	if slices.ContainsFunc(a.Writers, func(pattern string) bool { return fits(pattern, c.Identity) }) {
		return c, nil
	}
	if c.Identity == "" && a.own() {
		return c, a.challenge(r, repository.Registry(), "log in to the gate first")
	}
	return c, fmt.Errorf("%w: %q is not among the clients that may push", ErrDenied, c.Identity)
}

// Anybody is the pattern of writers that also fits those who prove nothing.
const Anybody = "anonymous"

func fits(pattern, identity string) bool {
	if pattern == Anybody {
		return true
	}
	if identity == "" {
		return false
	}
	ok, err := path.Match(pattern, identity)
	return pattern == "*" || ok && err == nil
}

// Enter says whether the client may see the API at all, which is where most
// clients look for how to log in. The error is a *Challenge.
func (a *Access) Enter(r *http.Request) error {
	if a == nil || !(a.own() || len(a.Upstreams) > 0) {
		return nil
	}
	c := connected(r)
	authorization, err := shown(r)
	if err != nil {
		return a.challenge(r, "", err.Error())
	}
	if authorization == "" {
		if c.Identity != "" {
			return nil // by its certificate
		}
		return a.challenge(r, "", "log in to the gate first")
	}
	if _, _, basic := r.BasicAuth(); basic && !a.own() {
		return nil // for a registry to judge, as soon as one is asked for
	}
	return a.proven(r, &c)
}

// own says whether the gate has clients of its own.
func (a *Access) own() bool { return a.passwords != nil || len(a.issuers) > 0 }

// shown is the Authorization header, "" if there is none. Of two, a proxy in
// front may have looked at the other one.
func shown(r *http.Request) (string, error) {
	values := r.Header.Values("Authorization")
	if len(values) > 1 {
		return "", errors.New("there are several Authorization headers; send one")
	}
	return strings.Join(values, ""), nil
}

// connected is who asks as far as the connection tells.
func connected(r *http.Request) policy.Client {
	c := policy.Client{Address: r.RemoteAddr, UserAgent: clip(r.UserAgent(), 256), Identity: certified(r.TLS)}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		c.Address = host
	}
	return c
}

// Limit counts a request. The error is a *TooManyError.
func (a *Access) Limit(r *http.Request) error {
	if a == nil || a.limits == nil {
		return nil
	}
	c := connected(r)
	return a.limits.take(cmp.Or(c.Identity, subscriber(c.Address)), a.Now())
}

// subscriber is what stands for the holder of an address. IPv6 hands out networks
// of 64 bits: whoever has one has more addresses than can be counted.
func subscriber(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil || ip.Unmap().Is4() {
		return address
	}
	network, _ := ip.WithZone("").Prefix(64) // fails for IPv4 alone
	return network.String()
}

// certified is the subject of the certificate that the connection has proven.
func certified(connection *tls.ConnectionState) string {
	if connection == nil || len(connection.VerifiedChains) == 0 {
		return ""
	}
	return connection.VerifiedChains[0][0].Subject.String()
}

// proven reads what a client of the gate's own shows.
func (a *Access) proven(r *http.Request, c *policy.Client) error {
	authorization, err := shown(r)
	if err != nil {
		return a.challenge(r, "", err.Error())
	}
	if authorization == "" {
		return nil
	}
	identity := ""
	scheme, token, _ := strings.Cut(authorization, " ")
	if username, password, basic := r.BasicAuth(); basic {
		identity, _, err = a.verify(r.Context(), username, password)
	} else if strings.EqualFold(scheme, "bearer") {
		identity, err = a.bearer(r.Context(), strings.TrimSpace(token))
	} else {
		err = fmt.Errorf("the gate does not know the scheme %q", clip(scheme, 20))
	}
	if err != nil {
		return a.challenge(r, "", err.Error())
	}
	c.Identity = cmp.Or(identity, c.Identity)
	return nil
}

// bearer reads a token that the gate gave out, or an issuer's.
func (a *Access) bearer(ctx context.Context, token string) (identity string, err error) {
	if strings.Count(token, ".") == sealedDots {
		t, err := a.tokens.open(token, a.Now())
		return t.Identity, err
	}
	identity, _, err = a.byIssuer(ctx, token)
	return identity, err
}

// verify checks a user name with its password. A token can be the password, since
// few clients can send one of somebody else's in another way: docker login
// --username token --password-stdin. until is zero unless it ends.
func (a *Access) verify(ctx context.Context, username, password string) (identity string, until time.Time, err error) {
	if strings.Count(password, ".") == issuedDots && len(a.issuers) > 0 {
		return a.byIssuer(ctx, password)
	}
	if a.passwords == nil {
		return "", time.Time{}, errors.New("the gate takes the token of an issuer as the password")
	}
	probe, err := http.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	if err != nil {
		return "", time.Time{}, err
	}
	probe.SetBasicAuth(username, password)
	if err := a.tokens.remember(username, password, a.Now(), func() error {
		_, err := a.passwords.Authorized(probe)
		return err
	}); err != nil {
		return "", time.Time{}, errors.New("the user name or the password is wrong")
	}
	return username, time.Time{}, nil
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
