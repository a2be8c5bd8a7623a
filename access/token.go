package access

import (
	"cmp"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	lru "github.com/hashicorp/golang-lru/v2/expirable"
)

const (
	service = "trustgate"
	// TokenPath is where clients get the gate's tokens, with the registry that the
	// token is for below it.
	TokenPath = "/auth/token" // #nosec G101 -- a path

	sealedDots = 4 // in a token of the gate: a JWE
	issuedDots = 2 // in a token of an issuer: a JWT

	tokenLife    = 5 * time.Minute
	passwordLife = time.Minute // until bcrypt is asked again
	maxToken     = 16 << 10    // bytes
	remembered   = 4096        // tokens, and passwords
)

// token is what the gate seals and hands to a client, who cannot read it.
type token struct {
	Identity string `json:"sub,omitempty"`
	// Of a client whom a registry is to judge, the registry and what to show it.
	Registry string `json:"reg,omitempty"`
	Username string `json:"usr,omitempty"`
	Password string `json:"pwd,omitempty"`
	Expires  int64  `json:"exp"`
}

type tokens struct {
	seal   jose.Encrypter
	key    []byte
	opened *lru.LRU[string, token]
	// passwords are those that were right, by a keyed hash: bcrypt is slow by
	// design, and some clients send the password with each request.
	passwords *lru.LRU[[sha256.Size]byte, time.Time]
	pepper    [32]byte
}

func newTokens(key []byte) (*tokens, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("the key of what clients carry has %d bytes, not %d", len(key), KeySize)
	}
	key, err := hkdf.Key(sha256.New, key, nil, "trustgate tokens", KeySize)
	if err != nil {
		return nil, err
	}
	seal, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.DIRECT, Key: key}, nil)
	if err != nil {
		return nil, err
	}
	t := &tokens{
		seal: seal, key: key,
		opened:    lru.NewLRU[string, token](remembered, nil, tokenLife),
		passwords: lru.NewLRU[[sha256.Size]byte, time.Time](remembered, nil, passwordLife),
	}
	_, err = rand.Read(t.pepper[:])
	return t, err
}

func (t *tokens) issue(of token) (string, error) {
	return jwt.Encrypted(t.seal).Claims(of).Serialize()
}

var errToken = errors.New("the token is not one of this gate's, or has expired; log in again")

func (t *tokens) open(raw string, now time.Time) (token, error) {
	of, known := t.opened.Get(raw)
	if !known {
		if len(raw) > maxToken {
			return token{}, errToken
		}
		sealed, err := jwt.ParseEncrypted(raw, []jose.KeyAlgorithm{jose.DIRECT}, []jose.ContentEncryption{jose.A256GCM})
		if err != nil {
			return token{}, errToken
		}
		if err := sealed.Claims(t.key, &of); err != nil {
			return token{}, errToken
		}
		t.opened.Add(raw, of)
	}
	if now.Unix() >= of.Expires {
		return token{}, errToken
	}
	return of, nil
}

// remember asks check unless the same password was right a moment ago.
func (t *tokens) remember(username, password string, now time.Time, check func() error) error {
	mac := hmac.New(sha256.New, t.pepper[:])
	fmt.Fprintf(mac, "%d:%s%s", len(username), username, password)
	key := [sha256.Size]byte(mac.Sum(nil))
	if at, ok := t.passwords.Get(key); ok && now.Sub(at) < passwordLife {
		return nil
	}
	if err := check(); err != nil {
		return err
	}
	t.passwords.Add(key, now)
	return nil
}

// Challenge is the error for a client that has to prove itself first, or has
// failed to.
type Challenge struct {
	Header string // the WWW-Authenticate to answer with
	Reason string
}

// Error implements error.
func (c *Challenge) Error() string { return c.Reason }

// challenge sends the client to the gate's tokens, which every client of a
// registry knows how to get.
//
// https://distribution.github.io/distribution/spec/auth/token/
func (a *Access) challenge(r *http.Request, registry, reason string) error {
	base := a.URL
	if base == "" {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		base = (&url.URL{Scheme: scheme, Host: r.Host}).String()
	}
	realm := strings.TrimSuffix(base, "/") + TokenPath
	if registry == "" {
		if ref, err := a.Repository(r, "any"); err == nil && r.URL.Query().Has("ns") {
			registry = ref.Registry()
		}
	}
	if registry != "" {
		realm += "/" + url.PathEscape(registry)
	}
	return &Challenge{fmt.Sprintf("Bearer realm=%q,service=%q", realm, service), reason}
}

// ServeHTTP gives out tokens.
//
// https://distribution.github.io/distribution/spec/auth/token/
func (a *Access) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet {
		// What clients then do is ask with GET.
		w.Header().Set("Allow", http.MethodGet)
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if err := a.Limit(r); err != nil {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	raw, life, err := a.token(r)
	if err != nil {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Basic realm=%q", service))
		w.WriteHeader(http.StatusUnauthorized)
		answer(w, map[string]any{"errors": []any{map[string]string{"code": "UNAUTHORIZED", "message": err.Error()}}})
		return
	}
	answer(w, map[string]any{
		"token": raw, "access_token": raw, "expires_in": int(life.Seconds()), "issued_at": a.Now().UTC().Format(time.RFC3339),
	})
}

func answer(w http.ResponseWriter, document any) {
	_ = json.NewEncoder(w).Encode(document) // a client that hangs up is no error of ours
}

func (a *Access) token(r *http.Request) (raw string, life time.Duration, err error) {
	registry, err := a.wanted(r)
	if err != nil {
		return "", 0, err
	}
	now := a.Now()
	of := token{Expires: now.Add(tokenLife).Unix()}
	if _, err := shown(r); err != nil {
		return "", 0, err
	}
	username, password, given := r.BasicAuth()
	switch {
	case a.Upstreams[registry] != nil:
		of.Registry, of.Username, of.Password = registry, username, password
	case given && a.own():
		var until time.Time
		if of.Identity, until, err = a.verify(r.Context(), username, password); err != nil {
			return "", 0, err
		}
		if !until.IsZero() {
			of.Expires = min(of.Expires, until.Unix())
		}
	case !a.Anonymous && certified(r.TLS) == "" && a.own():
		return "", 0, errors.New("log in to the gate with a user name and a password")
	}
	raw, err = a.tokens.issue(of)
	return raw, time.Unix(of.Expires, 0).Sub(now), err
}

// wanted is the registry that a token is asked for: by the realm, or by the
// scope, such as repository:ghcr.io/acme/app:pull.
func (a *Access) wanted(r *http.Request) (string, error) {
	name := ""
	if scope := r.URL.Query().Get("scope"); strings.Count(scope, ":") >= 2 {
		_, rest, _ := strings.Cut(scope, ":")
		name = rest[:strings.LastIndex(rest, ":")]
	}
	if registry := strings.TrimPrefix(r.URL.Path, TokenPath+"/"); registry != r.URL.Path {
		return registry, nil // no other than one of the routes means anything
	}
	ref, err := a.Repository(r, cmp.Or(name, "any"))
	return ref.Registry(), err
}
