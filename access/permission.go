package access

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/upstream"
)

const (
	maxLogins = 1024 // whose connections to an upstream are kept
	maxGrants = 65536

	askTime = 30 * time.Second
)

// grants remembers what registries have consented to.
type grants struct {
	recheck, stale time.Duration
	now            func() time.Time

	flight singleflight.Group
	mu     sync.Mutex
	logins *lru.Cache[[sha256.Size]byte, *login]
	given  *lru.Cache[grantKey, grant]
}

type grantKey struct {
	login      [sha256.Size]byte
	repository string
	// listing is apart from reading: registries with rights on metadata alone let
	// some list the tags of what they may not pull.
	listing bool
}

// login is how one client is seen by a registry.
type login struct {
	*upstream.Registry
	named atomic.Pointer[bool] // whether the registry checks the user name; nil until it was found out
}

type grant struct {
	at, until time.Time // of the consent, and when to ask again
	identity  string
}

func newGrants(recheck, stale time.Duration, now func() time.Time) *grants {
	g := &grants{recheck: recheck, stale: stale, now: now}
	g.logins, _ = lru.New[[sha256.Size]byte, *login](maxLogins) // fails for no size alone
	g.given, _ = lru.New[grantKey, grant](maxGrants)
	return g
}

// permitted has the registry itself say whether the client may read the object,
// by the credentials that the client brought or by none. Its consent for the
// repository then holds a while.
func (a *Access) permitted(r *http.Request, c *policy.Client, decides *upstream.Registry, repository oci.Reference, o upstream.Object) error {
	username, password, err := a.brought(r, repository.Registry())
	if err != nil {
		return a.challenge(r, repository.Registry(), err.Error())
	}
	g := a.grants
	key := grantKey{loginKey(repository.Registry(), username, password), repository.Name(), o.Kind == "tags"}
	known, before := g.given.Get(key)
	if before && g.now().Before(known.until) {
		c.Identity = cmp.Or(known.identity, c.Identity)
		return nil
	}
	asked, err, _ := g.flight.Do(fmt.Sprintf("%x %s %s", key.login, repository.Name(), o), func() (any, error) {
		// For everybody who waits for it, not only for who was first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), askTime)
		defer cancel()
		return g.ask(ctx, key, decides, username, password, repository, o)
	})
	switch {
	case err == nil:
		known = asked.(grant)
	case errors.Is(err, upstream.ErrUnavailable) && before && g.now().Sub(known.at) < g.stale:
		// It has consented before, and cannot be asked now; not for each pull.
		known.until = g.now().Add(g.recheck)
		g.given.Add(key, known)
	case errors.Is(err, upstream.ErrUnauthorized) && username == "":
		return a.challenge(r, repository.Registry(), "log in to the gate with your credentials for "+repository.Registry()+": "+err.Error())
	default:
		return err
	}
	c.Identity = cmp.Or(known.identity, c.Identity)
	return nil
}

// ask asks the registry, and remembers only its consent.
func (g *grants) ask(ctx context.Context, key grantKey, decides *upstream.Registry, username, password string, repository oci.Reference, o upstream.Object) (grant, error) {
	g.mu.Lock()
	as, ok := g.logins.Get(key.login)
	if !ok {
		as = &login{Registry: decides.As(username, password)}
		g.logins.Add(key.login, as)
	}
	g.mu.Unlock()
	given := grant{at: g.now(), until: g.now().Add(g.recheck)}
	from, err := as.Repository(repository.Repository())
	if err != nil {
		return given, err
	}
	if err := from.Permits(ctx, o); err != nil {
		return given, err
	}
	if username != "" {
		named, err := as.checksNames(ctx, decides, password)
		if err != nil {
			return given, err
		}
		if named {
			given.identity = repository.Registry() + ":" + clip(username, 256)
		}
	}
	g.given.Add(key, given)
	return given, nil
}

// checksNames says whether the registry's consent proves who it is. It proves
// nothing where nobody is asked to log in, nor where the password alone counts,
// as with the access tokens of some registries: anybody who has one could take
// anybody's name. It is found out once for a login, by a name that nobody has.
func (l *login) checksNames(ctx context.Context, decides *upstream.Registry, password string) (bool, error) {
	if known := l.named.Load(); known != nil {
		return *known, nil
	}
	named, err := l.ChecksLogins(ctx)
	if err != nil {
		return false, err
	}
	if named {
		switch err := decides.As("trustgate-"+strings.ToLower(rand.Text()), password).Ping(ctx); {
		case err == nil:
			named = false
		case !errors.Is(err, upstream.ErrUnauthorized):
			return false, nil // not known this time, which is no reason to refuse the pull
		}
	}
	l.named.Store(&named)
	return named, nil
}

// brought are the credentials for the registry that a request carries: in a
// token that the gate sealed for this very registry, or as they are. Both are
// empty where there are none.
func (a *Access) brought(r *http.Request, registry string) (username, password string, err error) {
	authorization, err := shown(r)
	if authorization == "" {
		return "", "", err
	}
	if username, password, ok := r.BasicAuth(); ok {
		return username, password, nil
	}
	scheme, raw, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "bearer") {
		return "", "", fmt.Errorf("the gate does not know the scheme %q", clip(scheme, 20))
	}
	t, err := a.tokens.open(strings.TrimSpace(raw), a.Now())
	switch {
	case err != nil:
		return "", "", err
	case t.Registry != registry && (t.Username != "" || t.Password != ""):
		return "", "", fmt.Errorf("the token is for %s, not for %s", t.Registry, registry)
	}
	return t.Username, t.Password, nil
}

func loginKey(registry, username, password string) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%d:%s%d:%s%s", len(registry), registry, len(username), username, password))
}
