package proxy_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/trustgate/trustgate/access"
	"github.com/trustgate/trustgate/api"
	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/proxy"
	"github.com/trustgate/trustgate/upstream"
)

// guard is a registry as clients see it who come with credentials of their own.
// The gate reaches what is behind it without being asked.
type guard struct {
	mu        sync.Mutex
	passwords map[string]string   // by user name
	may       map[string][]string // the repositories of a user; "" is nobody
	lists     []string            // repositories whose tags everybody may list
	nameless  bool                // the password alone counts
	asked     []string            // method and path
	shown     []string            // Authorization headers
}

func (g *guard) change(f func(*guard)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g)
}

// requests are those that came since the last time that somebody asked.
func (g *guard) requests() (asked, shown []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	asked, shown = g.asked, g.shown
	g.asked, g.shown = nil, nil
	return asked, shown
}

func (g *guard) lets(r *http.Request) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, r.Method+" "+r.URL.Path)
	g.shown = append(g.shown, r.Header.Values("Authorization")...)
	username, password, given := r.BasicAuth()
	known := given && g.passwords[username] == password
	if given && g.nameless {
		for name, p := range g.passwords {
			if p == password {
				username, known = name, true
			}
		}
	}
	if given && !known {
		return false
	}
	if r.URL.Path == "/v2/" {
		return known
	}
	for _, repository := range append(slices.Clone(g.may[username]), g.may[""]...) {
		if strings.HasPrefix(r.URL.Path, "/v2/"+repository+"/") {
			return true
		}
	}
	return slices.ContainsFunc(g.lists, func(repository string) bool { return r.URL.Path == "/v2/"+repository+"/tags/list" })
}

// The routes of the house. Both registries decide about their clients
// themselves; what is on the open one is for everybody.
const (
	otherHost = "other.example.com"
	openHost  = "open.example.com"
)

// house is a gate before two registries that decide themselves, with a client
// and everything that clients reach.
type house struct {
	*stage.Stage
	f            *front
	here, there  *guard // of the registry, and of otherHost
	app, another *shipyard.Image
}

// Who may read private/app, and who private/another.
var alice, bob = []string{"alice", "of the registry"}, []string{"bob", "of the registry too"}

func openHouse(t *testing.T, o stage.Options) *house {
	t.Helper()
	s := stage.New(t)
	h := &house{Stage: s, here: &guard{
		passwords: map[string]string{alice[0]: alice[1], bob[0]: bob[1]},
		may:       map[string][]string{"": {"public/app"}, alice[0]: {"private/app", "listed/app"}, bob[0]: {"private/another"}},
		lists:     []string{"listed/app"},
	}, there: &guard{}}
	for _, repository := range []string{"public/app", "listed/app"} {
		s.Trusted(s.Image(repository, nil))
	}
	h.app, h.another = s.Trusted(s.Image("private/app", nil)), s.Trusted(s.Image("private/another", nil))

	o.Names = []string{otherHost, openHost}
	g := s.Gate(o)
	routes := []proxy.Route{{Registry: s.Registry.Addr, Hosts: []string{registryHost}}, {Registry: otherHost}, {Registry: openHost}}
	repository, err := proxy.Repositories(routes)
	s.Must(err)
	key := make([]byte, access.KeySize)
	rand.Read(key)
	clients, err := access.New(access.Options{
		Upstreams: map[string]*upstream.Registry{s.Registry.Addr: h.here.open(s, s.Registry.Addr), otherHost: h.there.open(s, otherHost)},
		Recheck:   time.Minute, Stale: time.Hour, Repository: repository, Key: key, Now: s.Now,
	})
	s.Must(err)
	registry := handlerFor(s, g, func(o *proxy.Options) { o.Routes, o.Access = routes, clients })
	documents := api.HTTP{API: api.API{Gate: g, Ledger: g.Ledger}, Access: clients, Log: zap.NewNop()}.Handler()
	h.f = serve(s, "HTTP/1.1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, api.Prefix):
			documents.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, access.TokenPath):
			clients.ServeHTTP(w, r)
		default:
			registry.ServeHTTP(w, r)
		}
	}))
	return h
}

// open starts the guard, and makes the client of it that asks for clients.
func (g *guard) open(s *stage.Stage, name string) *upstream.Registry {
	s.Helper()
	behind := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.Registry.Addr})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.lets(r) {
			w.Header().Set("WWW-Authenticate", `Basic realm="guard"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		behind.ServeHTTP(w, r)
	}))
	s.Cleanup(server.Close)
	u, err := upstream.New(upstream.Options{Registry: name, URL: server.URL, Insecure: true})
	s.Must(err)
	s.Cleanup(u.Close)
	return u
}

// login is the header of somebody with a token, or with a name and a password.
func login(credentials ...string) []string {
	if len(credentials) == 1 {
		return []string{"Authorization", "Bearer " + credentials[0]}
	}
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(credentials[0], credentials[1])
	return []string{"Authorization", r.Header.Get("Authorization")}
}

// token is what the gate gives out below there.
func (h *house) token(there string, header ...string) string {
	h.Helper()
	answer := h.f.get(access.TokenPath+there, header...)
	var document struct{ Token string }
	if err := json.Unmarshal(answer.body, &document); err != nil || document.Token == "" {
		h.Fatalf("no token: %s %s", answer.Status, answer.body)
	}
	return document.Token
}

// tokenHere is one for the registry of the private images.
func (h *house) tokenHere(header ...string) string {
	h.Helper()
	return h.token("/"+url.PathEscape(h.Registry.Addr), header...)
}

// doors are all ways to something of the private image.
func (h *house) doors() map[string]string {
	config, layers := digests(h.Stage, h.app.Content)
	d := h.app.Digest.String()
	return map[string]string{
		"its tag":              h.f.path("private/app", "manifests", "1"),
		"its digest":           h.f.path("private/app", "manifests", d),
		"its config":           h.f.path("private/app", "blobs", config.String()),
		"a layer":              h.f.path("private/app", "blobs", layers[0].String()),
		"its tags":             h.f.path("private/app", "tags", "list"),
		"its referrers":        h.f.path("private/app", "referrers", d),
		"a signature's tag":    h.f.path("private/app", "manifests", evidenceTag(h.app.Digest, ".sig")),
		"its signatures":       "/extensions" + h.f.path("private/app", "signatures", d),
		"its report":           api.Prefix + "image?image=" + h.app.Reference(),
		"its report by digest": api.Prefix + "image?image=" + h.app.Name() + "@" + d,
		"its source":           api.Prefix + "source?packages=true&image=" + h.app.Reference(),
	}
}

// warm has alice go through every door, so that everything is at hand.
func (h *house) warm() {
	h.Helper()
	h.f.get(h.f.path("private/app", "manifests", "1"), login(alice...)...).served(h.app.Digest) // blobs come after their manifest
	for name, path := range h.doors() {
		if answer := h.f.get(path, login(alice...)...); answer.StatusCode != http.StatusOK {
			h.Fatalf("%s for alice: %s %s", name, answer.Status, answer.body)
		}
	}
}

// shut demands that nothing of the private image comes out for this header.
func (h *house) shut(header ...string) {
	h.Helper()
	for name, path := range h.doors() {
		h.f.get(path, header...).nothing(name)
		h.f.head(path, header...).nothing(name)
		h.f.get(path, append(slices.Clone(header), "Range", "bytes=0-0", "If-None-Match", "*")...).nothing(name)
	}
}

// nothing demands an answer that refuses and says nothing of an image.
func (a *answer) nothing(what string) {
	a.Helper()
	if a.StatusCode < 400 || a.StatusCode >= 500 {
		a.Errorf("%s %s: %s %.300q", a.method(), what, a.Status, a.body)
		return
	}
	for _, name := range []string{"Docker-Content-Digest", "Etag", "TrustGate-Verdict", "Link"} {
		if v := a.Header.Get(name); v != "" && (name != "TrustGate-Verdict" || v != "block") {
			a.Errorf("%s %s: the refusal has the header %s: %s", a.method(), what, name, v)
		}
	}
	if bytes.Contains(a.body, []byte(stage.Source)) || bytes.Contains(a.body, []byte(`"verdict"`)) {
		a.Errorf("%s %s: the refusal says %s", a.method(), what, a.body)
	}
}

// TestBypassAccess holds the ways to an image that the gate has, and that the
// registry behind it would not hand to this client.
func TestBypassAccess(t *testing.T) {
	t.Parallel()
	h := openHouse(t, stage.Options{})
	h.warm()
	for _, tc := range []struct {
		name string
		try  func(*testing.T, *house)
	}{
		{"a cached private image for nobody", privateForNobody},
		{"a cached private image for somebody else", privateForAnother},
		{"a private image by consent for another repository", consentForAnotherRepository},
		{"a private image by the right to list its tags", listingIsNotReading},
		{"a token for another registry", tokenOfAnotherRegistry},
		{"a token of another gate", tokenOfAnotherGate},
		{"two Authorization headers", twoAuthorizations},
		{"a registry that is named in several ways at once", namedTwice},
		{"credentials for one registry shown to another", credentialsElsewhere},
		{"a reference that leads elsewhere at the registry", referenceLeadsElsewhere},
		{"a token that is asked for in confusing ways", confusingTokens},
		{"a report on an image elsewhere", reportElsewhere},
		{"a private image as the parent of an open one", privateParent},
		{"the verdicts of others", othersVerdicts},
		{"a private image after its registry has changed its mind", consentEnds}, // the last: it ends alice's
	} {
		t.Run(tc.name, func(t *testing.T) {
			h.here.requests()
			h.there.requests()
			inner := *h
			inner.TB, inner.f = t, h.f.in(t)
			tc.try(t, &inner)
		})
	}
}

func privateForNobody(t *testing.T, h *house) {
	h.shut()
	answer := h.f.get(h.f.path("private/app", "manifests", "1"))
	answer.refused(http.StatusUnauthorized, "UNAUTHORIZED")
	if challenge := answer.Header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge, "Bearer ") || !strings.Contains(challenge, url.PathEscape(h.Registry.Addr)) {
		t.Errorf("the challenge is %q", challenge)
	}
	h.shut(login(h.tokenHere())...)
	// Nobody may read another repository: that consent is not for this one.
	if answer := h.f.get(h.f.path("public/app", "manifests", "1")); answer.StatusCode != http.StatusOK {
		t.Fatalf("what is public: %s", answer.Status)
	}
	h.shut()
}

func privateForAnother(_ *testing.T, h *house) {
	for _, who := range [][]string{bob, {"alice", "of another registry"}, {"alice", ""}, {"", alice[1]}, {"", ""}, {"Alice", alice[1]}} {
		h.shut(login(who...)...)
		h.shut(login(h.tokenHere(login(who...)...))...)
	}
}

func consentForAnotherRepository(_ *testing.T, h *house) {
	h.f.get(h.f.path("private/another", "manifests", "1"), login(bob...)...).served(h.another.Digest)
	h.shut(login(bob...)...)
	// Nor does the repository that bob may read hand out what is of the other.
	config, layers := digests(h.Stage, h.app.Content)
	for _, d := range append(layers, config) {
		h.f.get(h.f.path("private/another", "blobs", d.String()), login(bob...)...).nothing("a blob")
	}
	h.f.get(h.f.path("private/another", "manifests", h.app.Digest.String()), login(bob...)...).nothing("a manifest")
}

// Some registries have rights on metadata apart from those on content.
func listingIsNotReading(t *testing.T, h *house) {
	image := h.f.get(h.f.path("listed/app", "manifests", "1"), login(alice...)...)
	if image.StatusCode != http.StatusOK {
		t.Fatalf("for alice: %s", image.Status)
	}
	if answer := h.f.get(h.f.path("listed/app", "tags", "list")); answer.StatusCode != http.StatusOK {
		t.Fatalf("its tags for nobody: %s", answer.Status)
	}
	for _, reference := range []string{"1", image.Header.Get("Docker-Content-Digest")} {
		h.f.get(h.f.path("listed/app", "manifests", reference)).refused(http.StatusUnauthorized, "UNAUTHORIZED")
	}
	h.f.get(api.Prefix + "image?image=" + h.Registry.Addr + "/listed/app:1").nothing("its report")
}

func consentEnds(_ *testing.T, h *house) {
	token := h.tokenHere(login(alice...)...)
	h.f.get(h.f.path("private/app", "manifests", "1"), login(token)...).served(h.app.Digest)
	h.here.change(func(g *guard) { g.may[alice[0]] = nil })
	h.Pass(time.Minute + time.Second)
	h.shut(login(alice...)...)
	h.shut(login(token)...)
}

func tokenOfAnotherRegistry(t *testing.T, h *house) {
	for _, who := range [][]string{alice, {"", alice[1]}} {
		token := h.token("/"+otherHost, login(who...)...)
		h.shut(login(token)...)
		if _, shown := h.here.requests(); len(shown) > 0 {
			t.Errorf("the registry was shown %q", shown)
		}
		token = h.tokenHere(login(who...)...)
		h.f.get("/v2/"+otherHost+"/private/app/manifests/1", login(token)...).nothing("there")
		if _, shown := h.there.requests(); len(shown) > 0 {
			t.Errorf("the other registry was shown %q", shown)
		}
	}
}

func tokenOfAnotherGate(t *testing.T, h *house) {
	other := openHouse(t, stage.Options{})
	// It is for a registry of the same name.
	h.shut(login(other.token("/"+otherHost, login(alice...)...))...)
	h.shut(login(other.tokenHere(login(alice...)...))...)
	token := h.tokenHere(login(alice...)...)
	h.shut(login(token[:len(token)-4] + "AAAA")...)
	h.shut(login("eyJhbGciOiJub25lIn0.eyJyZWciOiJhIn0.")...)
	h.shut(login("eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIn0....")...)
}

// What stands in front of the gate may look at the one, and the gate at the
// other.
func twoAuthorizations(t *testing.T, h *house) {
	for _, both := range [][]string{
		append(login(alice...), login(bob...)...), append(login(bob...), login(alice...)...),
		append(login(alice...), "Authorization", ""), append([]string{"Authorization", ""}, login(alice...)...),
		append(login(alice...), login(alice...)...),
	} {
		h.shut(both...)
		for _, path := range []string{access.TokenPath, "/v2/"} {
			if answer := h.f.get(path, both...); answer.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s: %s %s", path, answer.Status, answer.body)
			}
		}
	}
	h.shut("Authorization", login(alice...)[1]+", "+login(bob...)[1])
}

func namedTwice(_ *testing.T, h *house) {
	for _, ns := range []string{"", registryHost, strings.ToUpper(registryHost), h.Registry.Addr, otherHost, openHost, registryHost + "%00", "%20" + registryHost} {
		for _, host := range []string{gateHost, registryHost, otherHost, h.Registry.Addr} {
			for _, first := range []string{"", registryHost + "/", otherHost + "/", registryHost + "/" + openHost + "/", openHost + "/" + registryHost + "/"} {
				if ns == openHost && first == "" {
					continue // this is the open one's
				}
				path := "/v2/" + first + "private/app/manifests/1"
				if ns != "" {
					path += "?ns=" + ns
				}
				h.f.get(path, "Host", host).nothing(host + " " + path)
			}
		}
	}
	h.f.get("/v2/private/app/manifests/1?ns=" + registryHost + "&ns=" + openHost).nothing("two namespaces")
	h.f.get("/v2/private/app/manifests/1?ns=" + openHost + "&ns=" + registryHost).nothing("two namespaces")
}

func credentialsElsewhere(t *testing.T, h *house) {
	for _, path := range []string{
		h.f.path("private/app", "manifests", "1"), "/v2/private/app/manifests/1?ns=" + registryHost,
		"/v2/" + otherHost + "/private/app/manifests/1?ns=" + registryHost, h.f.path(otherHost, "private/app/manifests/1"),
		api.Prefix + "image?image=" + h.app.Reference(),
	} {
		for _, more := range [][]string{{"Host", registryHost}, {"X-Forwarded-Host", otherHost}, {"X-Original-Url", "/v2/" + otherHost + "/private/app/manifests/1"}} {
			h.f.get(path, append(login(alice...), more...)...)
		}
		if asked, shown := h.there.requests(); len(asked)+len(shown) > 0 {
			t.Errorf("%s: the other registry was asked %q and shown %q", path, asked, shown)
		}
	}
}

// A client chooses the reference, and the gate asks the registry about it: what
// everybody may read there must not stand for what they may not.
func referenceLeadsElsewhere(t *testing.T, h *house) {
	for _, reference := range []string{
		"..", ".", "..%3b", "%3f", "1%3Fns=x", "%23", "1%231", "%00", "%0a", "1%20HTTP", "-1", "sha256:1", strings.Repeat("a", 200),
	} {
		for _, kind := range []string{"manifests", "blobs"} {
			for _, header := range [][]string{nil, login(bob...)} {
				h.f.get(h.f.path("private/app", kind, reference), header...).nothing(reference)
			}
			if asked, _ := h.here.requests(); len(asked) > 0 {
				t.Errorf("%s %s: the registry was asked %q", kind, reference, asked)
			}
		}
		h.f.get(api.Prefix + "image?image=" + h.app.Name() + ":" + reference).nothing(reference)
	}
}

func confusingTokens(t *testing.T, h *house) {
	here, there := "repository:"+registryHost+"/private/app:pull", "repository:"+otherHost+"/private/app:pull"
	for name, path := range map[string]string{
		"two scopes":           "?" + url.Values{"scope": {here, there}}.Encode(),
		"a scope in the scope": "?scope=" + url.QueryEscape("repository:"+here+":pull"),
		"many scopes":          "?" + url.Values{"scope": slices.Repeat([]string{there}, 500)}.Encode(),
		"a huge scope":         "?scope=repository:" + strings.Repeat("a/", 10000) + ":pull",
		"a scope of nothing":   "?scope=" + url.QueryEscape("repository::pull"),
		"another scope below":  "/" + otherHost + "?scope=" + url.QueryEscape(here),
		"a path that climbs":   "/" + otherHost + "/../" + registryHost,
		"a slash that hides":   "/" + otherHost + "%2f..%2f" + registryHost,
		"a registry unknown":   "/169.254.169.254",
		"another name":         "s/" + registryHost,
		"two namespaces":       "?ns=" + otherHost + "&ns=" + registryHost,
	} {
		answer := h.f.get(access.TokenPath+path, login(alice...)...)
		var document struct{ Token string }
		_ = json.Unmarshal(answer.body, &document)
		if (answer.StatusCode == http.StatusOK) != (document.Token != "") || bytes.Contains(answer.body, []byte(alice[1])) {
			t.Errorf("%s: %s %s", name, answer.Status, answer.body)
		}
		if document.Token == "" {
			continue
		}
		h.f.get("/v2/"+otherHost+"/private/app/manifests/1", login(document.Token)...).nothing(name)
		h.f.get(h.f.path("private/app", "manifests", "2"), login(document.Token)...).nothing(name)
		_, shownHere := h.here.requests()
		if _, shownThere := h.there.requests(); len(shownHere) > 0 && len(shownThere) > 0 {
			t.Errorf("%s: one token is good for both registries", name)
		}
	}
	for _, method := range []string{http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
		if answer := h.f.do(method, access.TokenPath, login(alice...)...); answer.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %s", method, answer.Status)
		}
	}
	// Who chooses the Host chooses where he is sent himself, and nobody else.
	answer := h.f.get(h.f.path("private/app", "manifests", "1"), "Host", "evil.example", "X-Forwarded-Host", "worse.example", "X-Forwarded-Proto", "gopher")
	challenge := answer.Header.Get("WWW-Authenticate")
	if !strings.HasPrefix(challenge, `Bearer realm="http://evil.example/auth/token/`) || answer.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("the challenge is %q, to be kept by %q", challenge, answer.Header.Get("Cache-Control"))
	}
	raw := h.f.raw("GET "+h.f.path("private/app", "manifests", "1")+" HTTP/1.1\r\nHost: a\",realm=\"http://evil.example\r\n\r\n", false)
	if raw.StatusCode != http.StatusBadRequest {
		t.Errorf("a Host with a quote: %s %s", raw.Status, raw.Header.Get("WWW-Authenticate"))
	}
}

func reportElsewhere(t *testing.T, h *house) {
	var dialed atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { dialed.Add(1) }))
	defer elsewhere.Close()
	h.Upstream.Reset()
	host := elsewhere.Listener.Addr().String()
	for _, image := range []string{
		host + "/app:1", "http://" + host + "/app", "169.254.169.254/latest/meta-data", "localhost/app", "[::1]:5000/app", registryHost + "@" + host + "/app",
		registryHost + "/../" + host + "/app", host + "/app@" + h.app.Digest.String(), "private/app", registryHost + "/private/app:1", "",
	} {
		for _, document := range []string{"image", "source"} {
			h.f.get(api.Prefix+document+"?image="+url.QueryEscape(image), login(alice...)...).nothing(image)
			h.f.get(api.Prefix+document+"?ns="+registryHost+"&image="+url.QueryEscape(image), login(alice...)...).nothing(image)
		}
	}
	if dialed.Load() > 0 || h.Upstream.Count("") > 0 {
		t.Errorf("%d requests elsewhere, %d to the upstream", dialed.Load(), h.Upstream.Count(""))
	}
	if _, shown := h.here.requests(); len(shown) > 0 {
		t.Errorf("the registry was shown %q", shown)
	}
}

// Anybody can name any image as a parent. What the gate finds out about it with
// its own credentials is for those who may read it.
func privateParent(t *testing.T, h *house) {
	child := h.Trusted(h.Image("open/child", h.app), h.app)
	grandchild := h.Trusted(h.Image("open/grandchild", child), child)
	report := func(reference string, header ...string) ([]policy.Parent, []byte) {
		t.Helper()
		answer := h.f.get(api.Prefix+"image?image="+reference, header...)
		var document api.Image
		if err := json.Unmarshal(answer.body, &document); err != nil || answer.StatusCode != http.StatusOK || len(document.Input.Parents) == 0 {
			t.Fatalf("%s: %s %s", reference, answer.Status, answer.body)
		}
		return document.Input.Parents, answer.body
	}
	bare := func(p policy.Parent) bool {
		return p.Digest == "" && p.Build == nil && p.Source == nil && p.Verdict != nil && len(p.Verdict.Reasons) == 0 && p.Error != ""
	}
	// The open route asks nobody who they are: what they show there is not for
	// the parent's registry.
	for _, header := range [][]string{nil, login(alice...)} {
		if found, raw := report(openHost+"/open/child:1", header...); len(found) != 1 || !bare(found[0]) {
			t.Errorf("%q is told %s", header, raw)
		}
		if found, raw := report(openHost+"/open/grandchild:1", header...); len(found) != 1 || !bare(found[0]) {
			t.Errorf("%q is told of the grandchild %s", header, raw)
		}
	}
	if _, shown := h.here.requests(); len(shown) > 0 {
		t.Errorf("the parent's registry was shown %q", shown)
	}
	// Where one registry has both, whoever may read both is told of both.
	h.here.change(func(g *guard) {
		for _, who := range [][]string{alice, bob} {
			g.may[who[0]] = append(g.may[who[0]], "open/child", "open/grandchild")
		}
	})
	for _, header := range [][]string{login(bob...), login(h.tokenHere(login(bob...)...))} {
		if found, raw := report(child.Reference(), header...); !bare(found[0]) {
			t.Errorf("bob is told %s", raw)
		}
		if found, raw := report(grandchild.Reference(), header...); len(found) != 2 || found[0].Digest != child.Digest || !bare(found[1]) {
			t.Errorf("bob is told of the grandchild %s", raw)
		}
	}
	if found, raw := report(child.Reference(), login(alice...)...); found[0].Digest != h.app.Digest || found[0].Build == nil {
		t.Errorf("alice is told %s", raw)
	}
}

func othersVerdicts(t *testing.T, h *house) {
	for _, path := range []string{"verdicts", "verdicts?image=" + h.app.Name(), "verdicts/tg-1", "image?fresh=true&image=" + h.app.Reference(), "%2e%2e/v1/verdicts", "Verdicts"} {
		for _, header := range [][]string{nil, login(bob...), login(alice...)} {
			h.f.get(api.Prefix+path, header...).nothing(path)
		}
	}
	h.f.get(h.f.path("private/app", "manifests", "1"), append(login(alice...), "User-Agent", "alices-engine/1")...).served(h.app.Digest)
	answer := h.f.get(api.Prefix+"image?image="+h.app.Reference(), login(alice...)...)
	for _, told := range []string{"alices-engine", `"pulls"`, ":alice", "127.0.0.1\""} {
		if bytes.Contains(answer.body, []byte(told)) {
			t.Errorf("the report tells %s: %s", told, answer.body)
		}
	}
}

// teamRules read who asks.
const teamRules = `package trustgate.policies.team
import rego.v1
deny contains {"code": "team.client", "msg": "not for you"} if not endswith(input.request.client.identity, ":alice")
`

// Where the password alone counts, whoever has one could take anybody's name.
func TestBypassByName(t *testing.T) {
	t.Parallel()
	for _, nameless := range []bool{false, true} {
		h := openHouse(t, stage.Options{Rego: teamRules})
		h.here.change(func(g *guard) { g.nameless, g.may[bob[0]] = nameless, []string{"private/app"} })
		path := h.f.path("private/app", "manifests", "1")
		for range 2 {
			h.f.get(path, login("alice", bob[1])...).nothing("bob under the name of alice")
			h.f.get(path, login(bob...)...).refused(http.StatusForbidden, "DENIED")
			if answer := h.f.get(path, login(alice...)...); nameless {
				answer.refused(http.StatusForbidden, "DENIED")
			} else {
				answer.served(h.app.Digest)
			}
			h.Pass(2 * time.Minute)
		}
	}
}

// One client's verdict is not another's, whoever comes first or at the same
// time, on what is private and on what everybody may read.
func TestBypassByAnothersVerdict(t *testing.T) {
	t.Parallel()
	h := openHouse(t, stage.Options{Rego: teamRules})
	h.here.change(func(g *guard) { g.may[bob[0]] = []string{"private/app"} })
	public := h.Trusted(h.Push("public/app", "1", build(h.Stage, "public")))
	for _, image := range []*shipyard.Image{public, h.app} {
		path := h.f.path(image.Repository, "manifests", "1")
		var all sync.WaitGroup
		for range 4 {
			for _, header := range [][]string{login(alice...), login(bob...), nil} {
				all.Go(func() {
					answer, err := h.f.try(http.MethodGet, path, header...)
					if err != nil {
						t.Error(err)
					} else if is := slices.Equal(header, login(alice...)); is != (answer.StatusCode == http.StatusOK) {
						t.Errorf("%s for %q: %s", image.Repository, header, answer.Status)
					}
				})
			}
		}
		all.Wait()
		config, _ := digests(h.Stage, image.Content)
		blob := h.f.path(image.Repository, "blobs", config.String())
		for range 2 {
			h.f.get(blob, login(bob...)...).nothing("the config for bob")
			h.f.get(blob, login(alice...)...).served(config)
			h.f.get(blob).nothing("the config for nobody")
		}
		// A summary would carry alice's verdict to bob.
		if answer := h.f.get(h.f.path(image.Repository, "referrers", image.Digest.String()), login(bob...)...); answer.StatusCode != http.StatusOK || bytes.Contains(answer.body, []byte("verification_summary")) {
			t.Errorf("%s: the referrers are %s %s", image.Repository, answer.Status, answer.body)
		}
	}
}
