package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Issuer is an OpenID provider whose tokens clients show: a CI system, a cloud's
// workload identity, or the company's own.
type Issuer struct {
	Name     string // what identities begin with: "ci:repo:acme/app:ref:refs/heads/main"
	URL      string // as in the tokens' iss
	Audience string // what the tokens are for
	Identity string // the claim that says who it is; sub when empty
	// Claims must be there, each with one of its values.
	Claims map[string][]string
	// Client fetches the issuer's keys; http.DefaultClient when nil.
	Client *http.Client
}

const (
	issuerTime  = 10 * time.Second
	maxIssuer   = 1 << 20 // bytes of one answer
	issuerPause = 5 * time.Second
)

type issuer struct {
	Issuer
	now func() time.Time

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier
	failed   error
	at       time.Time // of the failure
}

func openIssuer(i Issuer, now func() time.Time) (*issuer, error) {
	switch {
	case i.Name == "" || i.URL == "":
		return nil, errors.New("it has no name or no URL")
	case i.Audience == "":
		return nil, errors.New("it has no audience: any token of the issuer would do, whoever it was made for")
	}
	if i.Identity == "" {
		i.Identity = "sub"
	}
	own := http.Client{}
	if i.Client != nil {
		own = *i.Client
	}
	own.Timeout, own.Transport = issuerTime, bounded{own.Transport}
	i.Client = &own
	return &issuer{Issuer: i, now: now}, nil
}

// discovered finds the issuer's keys at the first token, and again a while after
// it could not.
func (i *issuer) discovered(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.verifier != nil {
		return i.verifier, nil
	}
	if i.failed != nil && i.now().Sub(i.at) < issuerPause {
		return nil, i.failed
	}
	// The provider keeps the context for later: it must not end with the request.
	provider, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), i.Client), i.URL)
	if err != nil {
		i.failed, i.at = fmt.Errorf("the keys of the issuer %s cannot be had: %w", i.Name, err), i.now()
		return nil, i.failed
	}
	i.verifier = provider.Verifier(&oidc.Config{ClientID: i.Audience, Now: i.now})
	return i.verifier, nil
}

// byIssuer verifies a token of any of the issuers.
func (a *Access) byIssuer(ctx context.Context, raw string) (identity string, until time.Time, err error) {
	if len(raw) > maxToken {
		return "", time.Time{}, errors.New("the token is too long")
	}
	err = errors.New("no issuer of tokens is configured")
	for _, i := range a.issuers {
		verifier, why := i.discovered(ctx)
		var found *oidc.IDToken
		if why == nil {
			found, why = verifier.Verify(oidc.ClientContext(ctx, i.Client), raw)
		}
		if why == nil {
			if identity, why = i.identify(found); why == nil {
				return i.Name + ":" + identity, found.Expiry, nil
			}
		}
		err = fmt.Errorf("no token by %s: %w", i.Name, why)
	}
	return "", time.Time{}, err
}

func (i *issuer) identify(t *oidc.IDToken) (string, error) {
	var claims map[string]any
	if err := t.Claims(&claims); err != nil {
		return "", err
	}
	for name, wanted := range i.Claims {
		if text, ok := claims[name].(string); !ok || !slices.Contains(wanted, text) {
			return "", fmt.Errorf("its claim %s is %q, none of %q", name, clip(fmt.Sprint(claims[name]), 100), wanted)
		}
	}
	identity, _ := claims[i.Identity].(string)
	if identity == "" {
		return "", fmt.Errorf("it has no claim %s that says who it is", i.Identity)
	}
	return clip(identity, 256), nil
}

// bounded keeps an answer from being endless.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	next := b.next
	if next == nil {
		next = http.DefaultTransport
	}
	answer, err := next.RoundTrip(r)
	if err == nil {
		answer.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(answer.Body, maxIssuer), answer.Body}
	}
	return answer, err
}
