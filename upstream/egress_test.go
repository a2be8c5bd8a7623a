package upstream_test

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

// spy is a host that wants to see what it is sent.
func spy() (*journal, http.Handler) {
	seen := &journal{}
	return seen, seen.keep(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"token":"from-the-spy"}`)
	}))
}

// challenge asks for a token of the realm.
func challenge(realm string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry"`, realm))
		w.WriteHeader(http.StatusUnauthorized)
	})
}

func redirect(to string) http.Handler { return http.RedirectHandler(to, http.StatusTemporaryRedirect) }

// A registry that could name its token server freely would be sent the
// credentials of another (CVE-2020-15157 and its kin).
func TestCredentialsGoToTheRegistrysSiteAlone(t *testing.T) {
	i := newInternet(t)
	alice := func(t *testing.T) upstream.Credentials {
		return upstream.Credentials{Username: "alice", PasswordFile: writeFile(t, filepath.Join(t.TempDir(), "password"), "open sesame")}
	}
	identity := func(t *testing.T) upstream.Credentials {
		return upstream.Credentials{DockerConfig: writeFile(t, filepath.Join(t.TempDir(), "config.json"),
			`{"auths":{"registry.acme.co.uk":{"identitytoken":"alice-refresh-token"},"registry.acme.github.io":{"identitytoken":"alice-refresh-token"}}}`)}
	}
	for _, tc := range []struct {
		name, registry, realm string
		trusted               []string
		sent                  bool
	}{
		{"the registry itself", "registry.acme.co.uk", "https://registry.acme.co.uk/token", nil, true},
		{"the registry on another port", "registry.acme.co.uk", "https://registry.acme.co.uk:8443/token", nil, true},
		{"a host beside it", "registry.acme.co.uk", "https://auth.acme.co.uk/token", nil, true},
		{"the host above it", "registry.acme.co.uk", "https://acme.co.uk/token", nil, true},
		{"a host that the configuration names", "registry.acme.co.uk", "https://auth.example.net/token", []string{"Auth.Example.net"}, true},
		{"a host and port that the configuration names", "registry.acme.co.uk", "https://auth.example.net:8443/token", []string{"auth.example.net:8443"}, true},
		{"a port that the configuration does not name", "registry.acme.co.uk", "https://auth.example.net/token", []string{"auth.example.net:8443"}, false},
		{"another site", "registry.acme.co.uk", "https://auth.example.net/token", nil, false},
		{"a neighbour under the same public suffix", "registry.acme.co.uk", "https://evil.co.uk/token", nil, false},
		{"the public suffix", "registry.acme.co.uk", "https://co.uk/token", nil, false},
		{"a neighbour under a suffix for everybody", "registry.acme.github.io", "https://evil.github.io/token", nil, false},
		{"a name that ends alike", "registry.acme.co.uk", "https://notacme.co.uk/token", nil, false},
		{"a name that begins alike", "registry.acme.co.uk", "https://registry.acme.co.uk.example.net/token", nil, false},
		{"a user that is called like it", "registry.acme.co.uk", "https://registry.acme.co.uk@auth.example.net/token", nil, false},
		{"below a name that is not its own", "registry.acme.co.uk", "https://auth.acme.co.uk./token", nil, false},
	} {
		for kind, credentials := range map[string]func(*testing.T) upstream.Credentials{"a password": alice, "an identity token": identity} {
			t.Run(kind+" and "+tc.name, func(t *testing.T) {
				seen, handler := spy()
				for _, host := range []string{"auth.acme.co.uk", "auth.acme.co.uk.", "acme.co.uk", "auth.example.net", "evil.co.uk", "co.uk", "notacme.co.uk", "evil.github.io", "registry.acme.co.uk.example.net"} {
					i.host(host, handler)
				}
				i.host(tc.registry, answer(func(w http.ResponseWriter, r *http.Request) bool {
					if r.URL.Path == "/token" {
						handler.ServeHTTP(w, r)
					}
					return r.URL.Path == "/token"
				})(challenge(tc.realm)))
				o := i.visit(tc.registry, "https://"+tc.registry)
				o.Credentials, o.TokenHosts = credentials(t), tc.trusted
				r, err := upstream.New(o)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				_, err = repository(t, r).Manifest(t.Context(), "1")
				if sent := len(seen.asked()) > 0; sent != tc.sent {
					t.Errorf("asked %q, sent %q: %v", seen.asked(), seen.header("Authorization"), err)
				}
				if tc.sent {
					wants(t, err, upstream.ErrUnauthorized, false) // the registry takes no token at all
				} else {
					wants(t, err, upstream.ErrUnavailable, false)
					says(t, err, "token server", "token hosts")
				}
			})
		}
	}
}

func TestTokenServersOfOtherSitesAreAskedForAnonymousTokens(t *testing.T) {
	i := newInternet(t)
	seen, handler := spy()
	i.host("auth.example.net", handler)
	i.host("registry.example.com", challenge("https://auth.example.net/token"))
	r, err := upstream.New(i.visit("registry.example.com", "https://registry.example.com"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, err = repository(t, r).Manifest(t.Context(), "1")
	wants(t, err, upstream.ErrUnauthorized, false)
	if got := seen.header("Authorization"); !slices.Equal(got, []string{""}) {
		t.Errorf("sent %q", got)
	}
}

func TestTokenServersDoNotPassCredentialsOn(t *testing.T) {
	h := newHub(t)
	seen, handler := spy()
	h.host("spy.example.net", handler)
	h.host("spy.docker.io", handler)
	entry := upstream.Credentials{DockerConfig: writeFile(t, filepath.Join(t.TempDir(), "config.json"), `{"auths":{"https://index.docker.io/v1/":{"identitytoken":"alice-refresh-token"}}}`)}
	for _, to := range []string{"https://spy.example.net/token", "https://spy.docker.io/token"} {
		for name, credentials := range map[string]upstream.Credentials{"a password": h.alice(t), "an identity token": entry} {
			t.Run(name+" to "+to, func(t *testing.T) {
				seen.forget()
				h.tokens.breaks(func(w http.ResponseWriter) {
					w.Header().Set("Location", to)
					w.WriteHeader(http.StatusTemporaryRedirect)
				})
				_, err := h.app(t, credentials).Manifest(t.Context(), "1")
				if err == nil {
					t.Fatal("pulled with the spy's token")
				}
				keepsQuiet(t, err, "open sesame", "alice-refresh-token")
				for k, sent := range seen.header("Authorization") {
					if sent != "" || strings.HasPrefix(seen.asked()[k], "POST") {
						t.Errorf("the spy was sent %q by %s", sent, seen.asked()[k])
					}
				}
			})
		}
	}
}

func TestRedirectsToOtherOriginsLoseAuthorization(t *testing.T) {
	users := newHtpasswd(t, "alice", "open sesame")
	handler, image := guarded(t, users.auth())
	layers, err := image.Content.Layers()
	if err != nil {
		t.Fatal(err)
	}
	hash, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	layer := digest.Digest(hash.String())

	// The store is the registry's open twin on another port of the same host.
	stored := openHarbour(t)
	addr := serve(t, answer(func(w http.ResponseWriter, r *http.Request) bool {
		if _, _, ok := r.BasicAuth(); !ok || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		redirect("http://"+stored.Addr+r.URL.Path+"?signature=f00dfeed").ServeHTTP(w, r)
		return true
	})(handler))
	p := app(t, addr, func(o *upstream.Options) {
		o.Credentials = upstream.Credentials{Username: "alice", PasswordFile: writeFile(t, filepath.Join(t.TempDir(), "password"), "open sesame")}
	})
	body, size, err := p.Blob(t.Context(), layer, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	raw, err := io.ReadAll(body)
	if err != nil || int64(len(raw)) != size || digest.FromBytes(raw) != layer {
		t.Errorf("read %d of %d bytes, %v", len(raw), size, err)
	}
	if got := stored.header("Authorization"); !slices.Equal(got, []string{""}) {
		t.Errorf("the store was sent %q", got)
	}
}

// The next page of a list is asked for where the page before came from.
func TestListsOfOtherHostsAreNotSentCredentials(t *testing.T) {
	i := newInternet(t)
	i.host("registry.example.com", redirect("https://lists.example.com/first"))
	for name, challenge := range map[string]string{
		"a password":      `Basic realm="lists"`,
		"a token for one": `Bearer realm="https://lists.example.com/token",service="lists"`,
	} {
		t.Run(name, func(t *testing.T) {
			seen := &journal{}
			i.host("lists.example.com", seen.keep(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/first":
					w.Header().Set("Content-Type", oci.MediaTypeImageIndex)
					w.Header().Set("Link", `</second>; rel="next"`)
					_, _ = io.WriteString(w, `{"manifests":[],"tags":[]}`)
				case "/second":
					w.Header().Set("WWW-Authenticate", challenge)
					w.WriteHeader(http.StatusUnauthorized)
				default:
					_, _ = io.WriteString(w, `{"token":"anonymous"}`)
				}
			})))
			o := i.visit("registry.example.com", "https://registry.example.com")
			o.Credentials = upstream.Credentials{Username: "alice", PasswordFile: writeFile(t, filepath.Join(t.TempDir(), "password"), "open sesame")}
			r, err := upstream.New(o)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			_, err = repository(t, r).Tags(t.Context(), 0, "")
			wants(t, err, upstream.ErrUnauthorized, false)
			_, err = repository(t, r).Referrers(t.Context(), digest.FromString("an image"), "")
			wants(t, err, upstream.ErrUnauthorized, false)
			if !slices.Contains(seen.asked(), "GET /second") || seen.sent("Basic") {
				t.Errorf("%q was sent %q", seen.asked(), seen.header("Authorization"))
			}
		})
	}
}

func TestRedirectsStayWithTLS(t *testing.T) {
	i := newInternet(t)
	h := openHarbour(t)
	content := &journal{}
	registry := content.keep(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://store.example.com"+r.URL.Path+"?signature=f00dfeed", http.StatusFound)
	}))
	i.host("registry.example.com", registry)
	stored, handler := spy()
	i.host("store.example.com", handler)

	blob := func(p *upstream.Repository) error {
		body, _, err := p.Blob(t.Context(), h.image.Digest, 0)
		if err == nil {
			body.Close()
		}
		return err
	}
	for name, ask := range map[string]func(*upstream.Repository) error{
		"for a blob":     blob,
		"for a manifest": func(p *upstream.Repository) error { _, err := p.Manifest(t.Context(), "1"); return err },
		"for a tag":      func(p *upstream.Repository) error { _, err := p.Resolve(t.Context(), "1"); return err },
		"for the tags":   func(p *upstream.Repository) error { _, err := p.Tags(t.Context(), 0, ""); return err },
		"for referrers":  func(p *upstream.Repository) error { _, err := p.Referrers(t.Context(), h.image.Digest, ""); return err },
		"for signatures": func(p *upstream.Repository) error {
			_, err := p.SignatureExtension(t.Context(), h.image.Digest)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := upstream.New(i.visit("registry.example.com", "https://registry.example.com"))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			err = ask(repository(t, r))
			wants(t, err, upstream.ErrUnavailable, false)
			says(t, err, "http://store.example.com", "not https", "insecure")
			keepsQuiet(t, err, "f00dfeed")
			if got := stored.asked(); len(got) > 0 {
				t.Errorf("asked %q", got)
			}
		})
	}
	t.Run("unless the route is insecure", func(t *testing.T) {
		o := i.visit("registry.example.com", "https://registry.example.com")
		o.Insecure = true
		r, err := upstream.New(o)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := blob(repository(t, r)); err != nil || len(stored.asked()) != 1 {
			t.Errorf("asked %q, %v", stored.asked(), err)
		}
	})
	t.Run("a token server over http is refused", func(t *testing.T) {
		i.host("registry.example.com", challenge("http://registry.example.com/token?account=f00dfeed"))
		r, err := upstream.New(i.visit("registry.example.com", "https://registry.example.com"))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		_, err = repository(t, r).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnauthorized, false)
		says(t, err, "uses http")
		keepsQuiet(t, err, "f00dfeed")
	})
}

// The registry answers through a proxy, so nothing is known of its address and
// it counts as public. What is on this machine is reached past the proxy.
func TestPublicRegistriesLeadToPublicAddresses(t *testing.T) {
	i := newInternet(t)
	seen, handler := spy()
	_, port, _ := strings.Cut(serve(t, handler), ":")
	for _, place := range []struct{ host, is string }{
		{"127.0.0.1:" + port, "of this machine"},
		{"localhost:" + port, "of this machine"},
		{"[::1]:" + port, "of this machine"},
		{"[::ffff:127.0.0.1]:" + port, "of this machine"},
		{"[64:ff9b::7f00:1]:" + port, "of this machine"},
		{"10.1.2.3", "private network"},
		{"192.168.0.1:8080", "private network"},
		{"172.31.255.255", "private network"},
		{"100.64.0.1", "private network"},
		{"[fd12:3456::1]", "private network"},
		{"169.254.169.254", "link-local"},
		{"[fe80::1]", "link-local"},
		{"[fd00:ec2::254]", "link-local"},
		{"100.100.100.200", "link-local"},
		{"192.0.0.192", "link-local"},
		{"0.0.0.0:" + port, "link-local"},
		{"[::]:" + port, "link-local"},
		{"[::127.0.0.1]:" + port, "link-local"},
		{"224.0.0.1", "link-local"},
		{"255.255.255.255", "link-local"},
	} {
		to := "https://" + place.host + "/latest/meta-data?token=f00dfeed"
		for name, registry := range map[string]http.Handler{
			"by a redirect":       redirect(to),
			"by its token server": challenge(to),
			"by a redirect of its token server": answer(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/token" {
					redirect(to).ServeHTTP(w, r)
				}
				return r.URL.Path == "/token"
			})(challenge("https://registry.example.com/token")),
		} {
			t.Run(place.host+" "+name, func(t *testing.T) {
				i.host("registry.example.com", registry)
				r, err := upstream.New(i.visit("registry.example.com", "https://registry.example.com"))
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				_, _, err = repository(t, r).Blob(t.Context(), digest.FromString("a layer"), 0)
				wants(t, err, upstream.ErrUnavailable, false)
				says(t, err, "leads to", place.is)
				keepsQuiet(t, err, "f00dfeed")
			})
		}
	}
	if got := seen.asked(); len(got) > 0 {
		t.Errorf("this machine was asked %q", got)
	}
	for _, reached := range i.reached() {
		if reached != "registry.example.com:443" {
			t.Errorf("the proxy was asked for %s", reached)
		}
	}
}

func TestRegistriesOnThisMachineLeadToThisMachine(t *testing.T) {
	stored := openHarbour(t)
	for name, to := range map[string]string{"by address": stored.Addr, "by name": strings.Replace(stored.Addr, "127.0.0.1", "localhost", 1)} {
		t.Run(name, func(t *testing.T) {
			addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { redirect("http://"+to+r.URL.Path).ServeHTTP(w, r) }))
			resolves(t, app(t, addr, nil), oci.Descriptor{Digest: stored.image.Digest})
		})
	}
	t.Run("but not to metadata services", func(t *testing.T) {
		_, err := app(t, serve(t, redirect("http://169.254.169.254/latest/")), nil).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnavailable, false)
		says(t, err, "169.254.169.254", "link-local")
	})
}

func TestProxiesOfTheEnvironment(t *testing.T) {
	h := openHarbour(t)
	i := newInternet(t)
	i.host("registry.example.com", h.handler)
	visit := func(t *testing.T, url string) *upstream.Repository {
		t.Helper()
		o := i.visit("registry.example.com", url)
		o.Insecure = strings.HasPrefix(url, "http://")
		r, err := upstream.New(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return repository(t, r)
	}
	for _, proxy := range []string{"http://" + i.proxy, i.proxy} {
		i.environment(t, proxy)
		t.Run("https goes through a tunnel of "+proxy, func(t *testing.T) {
			resolves(t, visit(t, "https://registry.example.com"), oci.Descriptor{Digest: h.image.Digest})
			if got := i.reached(); !slices.Contains(got, "registry.example.com:443") {
				t.Errorf("the proxy was asked for %q", got)
			}
		})
		t.Run("http goes through "+proxy, func(t *testing.T) {
			resolves(t, visit(t, "http://registry.example.com"), oci.Descriptor{Digest: h.image.Digest})
			if got := i.reached(); !slices.Contains(got, "http://registry.example.com/v2/acme/app/manifests/1") {
				t.Errorf("the proxy was asked for %q", got)
			}
		})
	}
	t.Run("a host that the proxy cannot reach is unavailable", func(t *testing.T) {
		_, err := visit(t, "https://gone.example.com").Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnavailable, true)
		says(t, err, "Bad Gateway")
	})
	t.Run("what NO_PROXY names does not go through it", func(t *testing.T) {
		t.Setenv("NO_PROXY", "registry.example.invalid")
		_, err := visit(t, "https://registry.example.invalid").Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnavailable, true)
		if got := i.reached(); slices.Contains(got, "registry.example.invalid:443") {
			t.Errorf("the proxy was asked for %q", got)
		}
	})
}
