package upstream_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // by name in the configuration
	"github.com/distribution/distribution/v3/registry/auth/token"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // by name in the configuration
	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/crypto/bcrypt"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/upstream"
)

// harbour is a registry that runs in this process, with one image in it, and
// what was asked of it.
type harbour struct {
	*journal
	*shipyard.Registry
	handler http.Handler    // the registry itself
	image   *shipyard.Image // acme/app:1
	door    atomic.Pointer[http.Handler]
}

// openHarbour starts distribution with nobody at the door.
func openHarbour(t testing.TB) *harbour {
	t.Helper()
	h := &harbour{journal: &journal{}}
	var err error
	h.Registry, err = shipyard.OpenRegistry(t.Context(), h.stand)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Registry.Close() })
	h.open(t)
	return h
}

// openReferrers starts go-containerregistry's registry, which has the referrers
// API that distribution lacks.
func openReferrers(t testing.TB) *harbour {
	t.Helper()
	h := &harbour{journal: &journal{}}
	h.Registry = &shipyard.Registry{Addr: serve(t, h.stand(registry.New(registry.WithReferrersSupport(true), registry.Logger(quiet))))}
	h.open(t)
	return h
}

// stand puts the door in front of the registry.
func (h *harbour) stand(registry http.Handler) http.Handler {
	h.handler = registry
	h.behave(nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*h.door.Load()).ServeHTTP(w, r) })
}

// behave puts wrap, when it is not nil, between the registry and those who ask.
func (h *harbour) behave(wrap func(http.Handler) http.Handler) {
	front := h.handler
	if wrap != nil {
		front = wrap(front)
	}
	h.forget()
	front = h.journal.keep(front)
	h.door.Store(&front)
}

func (h *harbour) open(t testing.TB) {
	t.Helper()
	h.behind(func() { h.image = publish(t, h.Registry, "1", map[string]string{"bin/app": "the application"}) })
}

// behind does something to the registry that nobody at the door notices.
func (h *harbour) behind(f func()) {
	door := h.door.Swap(&h.handler)
	defer h.door.Store(door)
	f()
}

var quiet = log.New(io.Discard, "", 0)

// serve answers on a loopback port until the test ends.
func serve(t testing.TB, handler http.Handler) (addr string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = quiet
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func publish(t testing.TB, r *shipyard.Registry, tag string, files map[string]string) *shipyard.Image {
	t.Helper()
	content, err := shipyard.Build(nil, files)
	if err != nil {
		t.Fatal(err)
	}
	return push(t, r, tag, content)
}

func push(t testing.TB, r *shipyard.Registry, tag string, content v1.Image) *shipyard.Image {
	t.Helper()
	image, err := r.Push(t.Context(), "acme/app", tag, content)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// guarded is a distribution registry that asks who is there before it hands out
// acme/app:1, for a server of the caller's.
func guarded(t testing.TB, auth configuration.Auth) (http.Handler, *shipyard.Image) {
	t.Helper()
	config := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem":  configuration.Parameters{"rootdirectory": t.TempDir()},
		"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
	}}
	config.Log.Level = "panic"
	config.Log.AccessLog.Disabled = true
	config.HTTP.Secret = "not a secret: one process, one registry"
	open := &shipyard.Registry{Addr: serve(t, handlers.NewApp(t.Context(), config))}
	image := publish(t, open, "1", map[string]string{"bin/app": "the application"})
	closed := *config
	closed.Auth = auth
	return handlers.NewApp(t.Context(), &closed), image
}

// htpasswd is a file of one user for distribution.
type htpasswd struct {
	path    string
	changes int
}

func newHtpasswd(t testing.TB, user, password string) *htpasswd {
	t.Helper()
	h := &htpasswd{path: filepath.Join(t.TempDir(), "htpasswd")}
	h.set(t, user, password)
	return h
}

func (h *htpasswd) set(t testing.TB, user, password string) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, h.path, user+":"+string(hash)+"\n")
	// distribution looks at the file's time, which may be coarse.
	h.changes++
	at := time.Unix(1_700_000_000, 0).Add(time.Duration(h.changes) * time.Minute)
	if err := os.Chtimes(h.path, at, at); err != nil {
		t.Fatal(err)
	}
}

func (h *htpasswd) auth() configuration.Auth {
	return configuration.Auth{"htpasswd": configuration.Parameters{"realm": "acme", "path": h.path}}
}

// tokenServer issues the tokens that distribution's token authentication asks
// for: to its users for everything, to others for nothing.
//
// https://distribution.github.io/distribution/spec/auth/token/
// https://distribution.github.io/distribution/spec/auth/oauth/
type tokenServer struct {
	*journal
	realm   string
	users   map[string]string // passwords
	refresh map[string]string // users, by refresh token
	signer  jose.Signer
	jwks    string // path

	mu        sync.Mutex
	issued    []string
	anonymous bool                      // whether others may pull too
	fault     func(http.ResponseWriter) // answers instead
}

const tokenService, tokenIssuer = "registry.example.com", "auth.example.com"

func newTokenServer(t testing.TB, realm string) *tokenServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private := jose.JSONWebKey{Key: key, KeyID: "the test's", Algorithm: string(jose.ES256)}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: private}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{private.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	s := &tokenServer{
		journal: &journal{}, realm: realm, signer: signer, jwks: filepath.Join(t.TempDir(), "jwks.json"),
		users: map[string]string{"alice": "open sesame"}, refresh: map[string]string{"alice-refresh-token": "alice"},
	}
	writeFile(t, s.jwks, string(raw))
	return s
}

func (s *tokenServer) auth() configuration.Auth {
	return configuration.Auth{"token": configuration.Parameters{
		"realm": s.realm, "service": tokenService, "issuer": tokenIssuer, "jwks": s.jwks,
	}}
}

// breaks makes the server answer with f instead, or again as it should.
func (s *tokenServer) breaks(f func(http.ResponseWriter)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// welcome lets everybody pull, or not.
func (s *tokenServer) welcome(everybody bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.anonymous = everybody
}

// tokens are those that were issued.
func (s *tokenServer) tokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.issued)
}

// ServeHTTP implements http.Handler.
func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.journal.keep(http.HandlerFunc(s.answer)).ServeHTTP(w, r)
}

func (s *tokenServer) answer(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil {
		s.fault(w)
		return
	}
	user, password, given := r.BasicAuth()
	switch {
	case r.Method == http.MethodPost && s.refresh[r.FormValue("refresh_token")] != "":
		user = s.refresh[r.FormValue("refresh_token")]
	case r.Method == http.MethodPost, given && s.users[user] != password, r.FormValue("service") != tokenService:
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}`)
		return
	}
	claims := token.ClaimSet{
		Issuer: tokenIssuer, Subject: user, Audience: []string{tokenService}, JWTID: rand.Text(),
		Expiration: time.Now().Add(time.Hour).Unix(), NotBefore: time.Now().Add(-time.Minute).Unix(), IssuedAt: time.Now().Unix(),
	}
	for scope := range strings.FieldsSeq(strings.Join(r.Form["scope"], " ")) { // r.FormValue has read the form
		part := strings.Split(scope, ":")
		if len(part) == 3 && (user != "" || s.anonymous) {
			claims.Access = append(claims.Access, &token.ResourceActions{Type: part[0], Name: part[1], Actions: strings.Split(part[2], ",")})
		}
	}
	raw, err := json.Marshal(claims)
	if err == nil {
		var signed *jose.JSONWebSignature
		if signed, err = s.signer.Sign(raw); err == nil {
			var compact string
			if compact, err = signed.CompactSerialize(); err == nil {
				s.issued = append(s.issued, compact)
				err = json.NewEncoder(w).Encode(map[string]any{"token": compact, "access_token": compact, "expires_in": 3600})
			}
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// journal is what was asked of a server.
type journal struct {
	mu       sync.Mutex
	requests []*http.Request
}

// keep writes down what next is asked.
func (j *journal) keep(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		j.mu.Lock()
		j.requests = append(j.requests, r.Clone(r.Context()))
		j.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

func (j *journal) forget() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.requests = nil
}

// asked is what was asked, in order: "GET /v2/".
func (j *journal) asked() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var lines []string
	for _, r := range j.requests {
		lines = append(lines, r.Method+" "+r.URL.RequestURI())
	}
	return lines
}

// protocols lists what was spoken.
func (j *journal) protocols() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var values []string
	for _, r := range j.requests {
		values = append(values, r.Proto)
	}
	return values
}

// header lists what the requests had for the header.
func (j *journal) header(key string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var values []string
	for _, r := range j.requests {
		values = append(values, r.Header.Get(key))
	}
	return values
}

// sent says whether any request carried an Authorization header.
func (j *journal) sent(authorization string) bool {
	return slices.ContainsFunc(j.header("Authorization"), func(s string) bool { return strings.Contains(s, authorization) })
}

// open makes a client of the registry at addr, over plain HTTP.
func open(t testing.TB, addr string, change func(*upstream.Options)) *upstream.Registry {
	t.Helper()
	o := upstream.Options{Registry: "registry.example.com", URL: "http://" + addr, Insecure: true}
	if change != nil {
		change(&o)
	}
	r, err := upstream.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// app is acme/app of the registry at addr.
func app(t testing.TB, addr string, change func(*upstream.Options)) *upstream.Repository {
	t.Helper()
	return repository(t, open(t, addr, change))
}

func repository(t testing.TB, r *upstream.Registry) *upstream.Repository {
	t.Helper()
	p, err := r.Repository("acme/app")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// answer stands in front of a registry and answers some requests itself.
func answer(f func(w http.ResponseWriter, r *http.Request) bool) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !f(w, r) {
				next.ServeHTTP(w, r)
			}
		})
	}
}

// tamper stands in front of a registry and changes its successful answers to
// requests of the method that have part in their path.
func tamper(method, part string, change func(header http.Header, body []byte) []byte) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != method || !strings.Contains(r.URL.Path, part) {
				next.ServeHTTP(w, r)
				return
			}
			recorded := httptest.NewRecorder()
			next.ServeHTTP(recorded, r)
			body := recorded.Body.Bytes()
			if recorded.Code < 300 {
				body = change(recorded.Header(), bytes.Clone(body))
			}
			for key, values := range recorded.Header() {
				w.Header()[key] = values
			}
			w.WriteHeader(recorded.Code)
			_, _ = w.Write(body) // a client that hangs up is no error of ours
		})
	}
}

func writeFile(t testing.TB, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
