package access_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc/oidctest"
	"golang.org/x/crypto/bcrypt"

	"github.com/trustgate/trustgate/access"
	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

// door is an Access with a clock.
type door struct {
	testing.TB
	*access.Access
	offset atomic.Int64
}

func (d *door) pass(t time.Duration) { d.offset.Add(int64(t)) }

func open(t testing.TB, o access.Options) *door {
	t.Helper()
	d := &door{TB: t}
	o.Key = make([]byte, 32)
	rand.Read(o.Key)
	o.Now = func() time.Time { return time.Now().Add(time.Duration(d.offset.Load())) }
	o.Repository = func(r *http.Request, name string) (oci.Reference, error) {
		if registry, rest, ok := strings.Cut(name, "/"); ok && strings.Contains(registry, ".") {
			return oci.NewReference(registry, rest)
		}
		return oci.NewReference("registry.example", name)
	}
	var err error
	if d.Access, err = access.New(o); err != nil {
		t.Fatal(err)
	}
	return d
}

func request(path string, login ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://gate.example"+path, nil)
	switch len(login) {
	case 1:
		r.Header.Set("Authorization", "Bearer "+login[0])
	case 2:
		r.SetBasicAuth(login[0], login[1])
	}
	return r
}

// pull says who may pull the repository's tag 1, or why not.
func (d *door) pull(name string, login ...string) (string, error) {
	d.Helper()
	repository, err := d.Repository(nil, name)
	if err != nil {
		d.Fatal(err)
	}
	c, err := d.MayPull(request("/v2/"+name+"/manifests/1", login...), repository, upstream.Object{Kind: "manifests", Name: "1"})
	return c.Identity, err
}

func (d *door) push(name string, login ...string) error {
	d.Helper()
	repository, err := d.Repository(nil, name)
	if err != nil {
		d.Fatal(err)
	}
	_, err = d.MayPush(request("/v2/"+name+"/blobs/uploads/", login...), repository)
	return err
}

// token asks as a client does: where the challenge sends it.
func (d *door) token(t testing.TB, challenge error, scope string, login ...string) (string, int) {
	t.Helper()
	var c *access.Challenge
	if !errors.As(challenge, &c) {
		t.Fatalf("no challenge but %v", challenge)
	}
	_, rest, _ := strings.Cut(c.Header, `realm="`)
	realm, _, _ := strings.Cut(rest, `"`)
	u, err := url.Parse(realm)
	if err != nil || u.Host != "gate.example" || !strings.HasPrefix(u.Path, access.TokenPath) {
		t.Fatalf("the realm is %q", realm)
	}
	path := u.EscapedPath() + "?service=trustgate"
	if scope != "" {
		path += "&scope=" + url.QueryEscape(scope)
	}
	answer := httptest.NewRecorder()
	d.ServeHTTP(answer, request(path, login...))
	var got struct {
		Token   string
		Expires int `json:"expires_in"`
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if (answer.Code == http.StatusOK) != (got.Token != "" && got.Expires > 0) {
		t.Fatalf("%d: %s", answer.Code, answer.Body)
	}
	return got.Token, answer.Code
}

func htpasswd(t testing.TB, users ...string) string {
	t.Helper()
	var lines strings.Builder
	for _, user := range users {
		hash, err := bcrypt.GenerateFromPassword([]byte(user+"'s password"), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "%s:%s\n", user, hash)
	}
	path := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func challenged(err error) bool {
	var c *access.Challenge
	return errors.As(err, &c)
}

func TestPasswords(t *testing.T) {
	d := open(t, access.Options{Htpasswd: htpasswd(t, "alice", "bob"), Writers: []string{"bo*"}})
	if _, err := d.pull("app"); !challenged(err) {
		t.Errorf("nobody in particular: %v", err)
	}
	for _, wrong := range [][]string{{"alice", "bob's password"}, {"alice", ""}, {"", ""}, {"carol", "alice's password"}} {
		if who, err := d.pull("app", wrong...); !challenged(err) {
			t.Errorf("%q is %q: %v", wrong, who, err)
		}
	}
	for range 2 { // the second time from memory
		if who, err := d.pull("app", "alice", "alice's password"); err != nil || who != "alice" {
			t.Errorf("alice is %q: %v", who, err)
		}
	}
	token, _ := d.token(t, d.Enter(request("/v2/")), "repository:app:pull", "alice", "alice's password")
	if who, err := d.pull("app", token); err != nil || who != "alice" {
		t.Errorf("with a token alice is %q: %v", who, err)
	}
	if err := d.Enter(request("/v2/", token)); err != nil {
		t.Errorf("with a token: %v", err)
	}
	for _, status := range []int{0: http.StatusUnauthorized} {
		if _, got := d.token(t, d.Enter(request("/v2/")), "", "alice", "wrong"); got != status {
			t.Errorf("a token for the wrong password: %d", got)
		}
		if _, got := d.token(t, d.Enter(request("/v2/")), ""); got != status {
			t.Errorf("a token for nobody: %d", got)
		}
	}
	other := open(t, access.Options{Htpasswd: htpasswd(t, "alice")})
	for name, bad := range map[string]string{
		"another gate's": func() string {
			token, _ := other.token(t, other.Enter(request("/v2/")), "", "alice", "alice's password")
			return token
		}(),
		"a damaged":  token[:len(token)-3] + "AAA",
		"no":         "....",
		"an endless": strings.Repeat("a", 1<<20) + "....",
	} {
		if who, err := d.pull("app", bad); !challenged(err) {
			t.Errorf("%s token makes %q: %v", name, who, err)
		}
	}
	d.pass(time.Hour)
	if who, err := d.pull("app", token); !challenged(err) {
		t.Errorf("an old token makes %q: %v", who, err)
	}

	for who, want := range map[string]func(error) bool{
		"bob":   func(err error) bool { return err == nil },
		"alice": func(err error) bool { return errors.Is(err, access.ErrDenied) },
	} {
		if err := d.push("app", who, who+"'s password"); !want(err) {
			t.Errorf("%s pushes: %v", who, err)
		}
	}
	if err := d.push("app"); !challenged(err) {
		t.Errorf("nobody pushes: %v", err)
	}
}

func TestAnonymous(t *testing.T) {
	d := open(t, access.Options{Htpasswd: htpasswd(t, "alice"), Anonymous: true, Writers: []string{"*"}})
	// Whoever has a login must learn that there is a use for it.
	token, _ := d.token(t, d.Enter(request("/v2/")), "repository:app:pull")
	for name, login := range map[string][]string{"nothing": nil, "a token": {token}} {
		if who, err := d.pull("app", login...); err != nil || who != "" {
			t.Errorf("with %s: %q, %v", name, who, err)
		}
	}
	if who, err := d.pull("app", "alice", "wrong"); !challenged(err) {
		t.Errorf("a wrong password makes %q: %v", who, err)
	}
	if err := d.push("app", token); !challenged(err) {
		t.Errorf("everybody pushes: %v", err)
	}
	var closed *access.Access
	if _, err := closed.MayPull(request("/v2/app/manifests/1"), oci.Reference{}, upstream.Object{}); err != nil {
		t.Errorf("without clients: %v", err)
	}
}

// issuing is a real OpenID issuer.
func issuing(t testing.TB) (url string, sign func(claims map[string]any) string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := &oidctest.Server{PublicKeys: []oidctest.PublicKey{{PublicKey: key.Public(), KeyID: "1", Algorithm: "RS256"}}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.SetIssuer(server.URL)
	return server.URL, func(claims map[string]any) string {
		all := map[string]any{"iss": server.URL, "aud": "trustgate", "sub": "repo:acme/app", "exp": time.Now().Add(time.Hour).Unix(), "owner": "acme"}
		for name, value := range claims {
			all[name] = value
		}
		raw, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return oidctest.SignIDToken(key, "1", "RS256", string(raw))
	}
}

func TestIssuers(t *testing.T) {
	issuer, sign := issuing(t)
	_, strange := issuing(t)
	d := open(t, access.Options{
		Issuers: []access.Issuer{{Name: "ci", URL: issuer, Audience: "trustgate", Claims: map[string][]string{"owner": {"acme", "acme-labs"}}}},
		Writers: []string{"ci:repo:acme/*"},
	})
	good := sign(nil)
	if who, err := d.pull("app", good); err != nil || who != "ci:repo:acme/app" {
		t.Errorf("with the issuer's token: %q, %v", who, err)
	}
	if err := d.push("app", good); err != nil {
		t.Errorf("it pushes: %v", err)
	}
	token, _ := d.token(t, d.Enter(request("/v2/")), "", "token", good)
	if who, err := d.pull("app", token); err != nil || who != "ci:repo:acme/app" {
		t.Errorf("with the gate's token for it: %q, %v", who, err)
	}
	soon := sign(map[string]any{"exp": time.Now().Add(time.Minute).Unix()})
	short, _ := d.token(t, d.Enter(request("/v2/")), "", "token", soon)
	for name, bad := range map[string]string{
		"a stranger's":           strange(map[string]any{"iss": issuer}),
		"another issuer's":       strange(nil),
		"for somebody else":      sign(map[string]any{"aud": "sts"}),
		"that has expired":       sign(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}),
		"of another owner":       sign(map[string]any{"owner": "evil"}),
		"whose owner is a list":  sign(map[string]any{"owner": []string{"acme"}}),
		"without a subject":      sign(map[string]any{"sub": ""}),
		"with nothing in it":     "..",
		"whose signature is off": good[:len(good)-4] + "AAAA",
	} {
		if who, err := d.pull("app", bad); !challenged(err) {
			t.Errorf("a token %s makes %q: %v", name, who, err)
		}
		if _, status := d.token(t, d.Enter(request("/v2/")), "", "token", bad); status != http.StatusUnauthorized {
			t.Errorf("a token %s is taken as a password: %d", name, status)
		}
	}
	d.pass(2 * time.Minute)
	if who, err := d.pull("app", short); !challenged(err) {
		t.Errorf("the gate's token outlives the issuer's: %q, %v", who, err)
	}
	if _, err := access.New(access.Options{Issuers: []access.Issuer{{Name: "ci", URL: issuer}}, Key: make([]byte, 32)}); err == nil {
		t.Error("an issuer without an audience is taken")
	}
}

// private is a registry with a repository that alice may read, one that all may,
// and what it was shown.
type private struct {
	*shipyard.Registry
	asked        atomic.Int64 // with credentials
	closed, down atomic.Bool
}

func openPrivate(t testing.TB) *private {
	t.Helper()
	p := &private{}
	var err error
	p.Registry, err = shipyard.OpenRegistry(t.Context(), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if p.down.Load() {
				w.WriteHeader(http.StatusNotImplemented) // which nobody asks again
				return
			}
			username, password, given := r.BasicAuth()
			if given {
				p.asked.Add(1)
			}
			if p.closed.Load() && !strings.HasPrefix(r.URL.Path, "/v2/public/") && (username != "alice" || password != "of the registry") {
				w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	image, err := shipyard.Build(nil, map[string]string{"a": "b"})
	if err != nil {
		t.Fatal(err)
	}
	for _, repository := range []string{"public/app", "private/app", "private/other"} {
		if _, err := p.Push(t.Context(), repository, "1", image); err != nil {
			t.Fatal(err)
		}
	}
	p.closed.Store(true)
	return p
}

func (p *private) upstream(t testing.TB, name string) *upstream.Registry {
	t.Helper()
	u, err := upstream.New(upstream.Options{Registry: name, URL: "http://" + p.Addr, Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return u
}

func TestUpstreamDecides(t *testing.T) {
	p := openPrivate(t)
	other := openPrivate(t)
	d := open(t, access.Options{
		Upstreams: map[string]*upstream.Registry{
			"registry.example": p.upstream(t, "registry.example"), "other.example": other.upstream(t, "other.example"),
		},
		Recheck: time.Minute, Stale: time.Hour, Writers: []string{access.Anybody},
	})
	alice := []string{"alice", "of the registry"}
	if who, err := d.pull("public/app"); err != nil || who != "" {
		t.Errorf("nobody pulls what is public: %q, %v", who, err)
	}
	_, err := d.pull("private/app")
	if !challenged(err) {
		t.Errorf("nobody pulls what is private: %v", err)
	}
	token, _ := d.token(t, err, "repository:private/app:pull", alice...)
	for name, login := range map[string][]string{"a token": {token}, "a password": alice} {
		if who, err := d.pull("private/app", login...); err != nil || who != "registry.example:alice" {
			t.Errorf("with %s alice is %q: %v", name, who, err)
		}
	}
	asked := p.asked.Load()
	if _, err := d.pull("private/app", token); err != nil || p.asked.Load() != asked {
		t.Errorf("consent is asked for %d times more: %v", p.asked.Load()-asked, err)
	}
	if _, err := d.pull("private/other", token); err != nil || p.asked.Load() == asked {
		t.Errorf("consent for one repository holds for another: %v", err)
	}
	if who, err := d.pull("private/app", "alice", "wrong"); !errors.Is(err, upstream.ErrUnauthorized) {
		t.Errorf("a wrong password makes %q: %v", who, err)
	}
	if who, err := d.pull("public/app", "mallory", "wrong"); err == nil && who != "" {
		t.Errorf("a wrong password where none is needed makes %q", who)
	}
	if _, err := d.pull("private/missing", token); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}

	t.Run("no other registry sees the login", func(t *testing.T) {
		if who, err := d.pull("other.example/private/app", token); !challenged(err) {
			t.Errorf("%q: %v", who, err)
		}
		// The realm of the challenge has the registry, and the scope cannot change it.
		_, err := d.pull("private/app")
		token, _ := d.token(t, err, "repository:other.example/private/app:pull", alice...)
		if _, err := d.pull("other.example/private/app", token); !challenged(err) {
			t.Errorf("by its scope: %v", err)
		}
		if n := other.asked.Load(); n != 0 {
			t.Errorf("the other registry was shown a login %d times", n)
		}
		// A client that learns of the realm at /v2/ says by the scope what it wants.
		token, _ = d.token(t, d.Enter(request("/v2/")), "repository:other.example/private/app:pull", alice...)
		if who, err := d.pull("other.example/private/app", token); err != nil || who != "other.example:alice" {
			t.Errorf("asked for by its scope: %q, %v", who, err)
		}
	})
	t.Run("consent ends", func(t *testing.T) {
		asked := p.asked.Load()
		d.pass(2 * time.Minute)
		if _, err := d.pull("private/app", alice...); err != nil || p.asked.Load() == asked {
			t.Errorf("it is not asked for again: %v", err)
		}
	})
	t.Run("without the upstream", func(t *testing.T) {
		p.down.Store(true)
		defer p.down.Store(false)
		d.pass(2 * time.Minute)
		if who, err := d.pull("private/app", alice...); err != nil || who != "registry.example:alice" {
			t.Errorf("whoever it consented to: %q, %v", who, err)
		}
		if _, err := d.pull("private/app", "bob", "unknown"); !errors.Is(err, upstream.ErrUnavailable) {
			t.Errorf("whoever it did not: %v", err)
		}
		d.pass(2 * time.Hour)
		if _, err := d.pull("private/app", alice...); !errors.Is(err, upstream.ErrUnavailable) {
			t.Errorf("long after: %v", err)
		}
	})
	if err := d.push("public/app", alice...); !errors.Is(err, access.ErrDenied) {
		t.Errorf("alice pushes with the gate's credentials: %v", err)
	}
}

func TestRate(t *testing.T) {
	d := open(t, access.Options{Rate: access.Rate{PerSecond: 2, Burst: 3}})
	// Time stands still for the test, as far as the gate is concerned.
	frozen := time.Now()
	d.Now = func() time.Time { return frozen.Add(time.Duration(d.offset.Load())) }
	ask := func() error { return d.Limit(request("/v2/app/manifests/1")) }
	for i := range 3 {
		if err := ask(); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	err := ask()
	var many *access.TooManyError
	if !errors.As(err, &many) || many.After <= 0 || many.After > time.Second {
		t.Fatalf("the fourth: %v", err)
	}
	r := request("/v2/app/manifests/1")
	r.RemoteAddr = "192.0.2.7:1234"
	if err := d.Limit(r); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	r = request("/v2/app/manifests/1")
	for _, name := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded", "True-Client-Ip", "Cf-Connecting-Ip"} {
		r.Header.Set(name, "192.0.2.9")
	}
	if err := d.Limit(r); !errors.As(err, &many) {
		t.Errorf("the same client, by another name: %v", err)
	}
	d.pass(many.After)
	if err := ask(); err != nil {
		t.Errorf("after %s: %v", many.After, err)
	}
}

func TestKey(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "clients.key")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := access.OpenKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if left, err := filepath.Glob(filepath.Join(folder, "*")); err != nil || len(left) != 1 {
		t.Errorf("left are %q, %v", left, err)
	}
	if _, err := access.OpenKey(folder); err == nil {
		t.Error("a folder is a key")
	}
}

// Whoever has an IPv6 network has more addresses than anybody can count.
func TestRateOfNetwork(t *testing.T) {
	d := open(t, access.Options{Rate: access.Rate{PerSecond: 0.001, Burst: 2}})
	for _, tc := range []struct {
		address string
		passes  bool
	}{
		{"[2001:db8:1:2::1]:1", true},
		{"[2001:db8:1:2:ffff:ffff:ffff:ffff]:1", true},
		{"[2001:db8:1:2:3::]:1", false},
		{"[2001:db8:1:3::1]:1", true},
		{"[fe80::1%eth0]:1", true},
		{"[fe80::2%eth0]:1", true},
		{"[fe80::3%eth0]:1", false},
		{"[::ffff:192.0.2.1]:1", true}, // of IPv4 each address is somebody
		{"[::ffff:192.0.2.2]:1", true},
		{"192.0.2.3:1", true},
		{"192.0.2.3:2", true},
		{"192.0.2.3:3", false},
	} {
		r := request("/v2/app/manifests/1")
		r.RemoteAddr = tc.address
		if err := d.Limit(r); (err == nil) != tc.passes {
			t.Errorf("%s: %v", tc.address, err)
		}
	}
}

func FuzzIdentify(f *testing.F) {
	d := open(f, access.Options{Htpasswd: htpasswd(f, "alice"), Issuers: []access.Issuer{{Name: "ci", URL: "http://127.0.0.1:1", Audience: "a"}}})
	token, _ := d.token(f, d.Enter(request("/v2/")), "", "alice", "alice's password")
	for _, s := range []string{"", "Basic", "Basic !", "Basic YWxpY2U6", "Bearer", "Bearer ....", "Bearer a.b.c", "bearer " + token[:20], "Digest x", "Bearer eyJhbGciOiJub25lIn0.e30."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, authorization string) {
		r := request("/v2/app/manifests/1")
		r.Header.Set("Authorization", authorization)
		repository, err := oci.NewReference("registry.example", "app")
		if err != nil {
			t.Fatal(err)
		}
		if c, err := d.MayPull(r, repository, upstream.Object{Kind: "manifests", Name: "1"}); err == nil {
			t.Fatalf("%q makes %q", authorization, c.Identity)
		}
	})
}

// No question, however it is put, gets a token for somebody who has proven
// nothing.
func FuzzToken(f *testing.F) {
	d := open(f, access.Options{Htpasswd: htpasswd(f, "alice")})
	for _, s := range []string{
		"/auth/token", "/auth/token/", "/auth/token?service=trustgate&scope=repository:app:pull", "/auth/token/registry.example?scope=a:b:c&scope=d:e:f",
		"/auth/token/..%2f..?scope=::", "/auth/token?scope=repository:other.example/app:pull,push", "/auth/token?ns=a&ns=b", "/auth/token?scope=%zz", "/auth/tokens",
	} {
		f.Add(s, "")
		f.Add(s, "Basic YWxpY2U6d3Jvbmc=")
	}
	f.Fuzz(func(t *testing.T, target, authorization string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(u.Path, access.TokenPath) {
			t.Skip()
		}
		r := request("/")
		r.URL, r.RequestURI = u, target
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		answer := httptest.NewRecorder()
		d.ServeHTTP(answer, r)
		if answer.Code != http.StatusUnauthorized || strings.Contains(answer.Body.String(), `"token"`) {
			t.Fatalf("%q with %q: %d %s", target, authorization, answer.Code, answer.Body)
		}
	})
}
