package upstream_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

// wants checks an error's kind, whether asking again may help, and that it says
// nothing that it must not.
func wants(t testing.TB, err, kind error, temporary bool) {
	t.Helper()
	var says interface{ Temporary() bool }
	switch {
	case !errors.Is(err, kind):
		t.Fatalf("the error is %v, not of the kind %v", err, kind)
	case !errors.As(err, &says):
		t.Errorf("%v does not say whether it is temporary", err)
	case says.Temporary() != temporary:
		t.Errorf("%v: temporary is %v", err, says.Temporary())
	}
	for _, other := range []error{oci.ErrNotFound, oci.ErrManifest, oci.ErrSchema1, upstream.ErrUnauthorized, upstream.ErrUnavailable, upstream.ErrRange} {
		if other != kind && errors.Is(err, other) {
			t.Errorf("%v is also %v", err, other)
		}
	}
	keepsQuiet(t, err, "open sesame", "alice-refresh-token", "eyJ")
}

func keepsQuiet(t testing.TB, err error, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error has %q in it: %v", secret, err)
		}
	}
}

func says(t testing.TB, err error, what ...string) {
	t.Helper()
	for _, s := range what {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("the error does not say %q: %v", s, err)
		}
	}
}

func resolves(t testing.TB, p *upstream.Repository, want oci.Descriptor) {
	t.Helper()
	if d, err := p.Resolve(t.Context(), "1"); err != nil || d.Digest != want.Digest {
		t.Fatalf("resolved to %s, %v; it is %s", d.Digest, err, want.Digest)
	}
}

func TestAnonymous(t *testing.T) {
	h := openHarbour(t)
	for name, change := range map[string]func(*upstream.Options){
		"by default":  nil,
		"spelled out": func(o *upstream.Options) { o.Credentials.Anonymous = true },
		"by a docker config that does not exist": func(o *upstream.Options) {
			o.Credentials.DockerConfig = filepath.Join(t.TempDir(), "config.json")
		},
	} {
		t.Run(name, func(t *testing.T) {
			resolves(t, app(t, h.Addr, change), oci.Descriptor{Digest: h.image.Digest})
		})
	}
	if got := h.header("Authorization"); !slices.Equal(got, []string{"", "", ""}) {
		t.Errorf("sent %q", got)
	}
}

func TestBasicAuthentication(t *testing.T) {
	users := newHtpasswd(t, "alice", "open sesame")
	handler, image := guarded(t, users.auth())
	asked := &journal{}
	addr := serve(t, asked.keep(handler))
	right := writeFile(t, filepath.Join(t.TempDir(), "password"), "open sesame\r\n")
	wrong := writeFile(t, filepath.Join(t.TempDir(), "password"), "open barley")

	t.Run("the password of the file opens the registry", func(t *testing.T) {
		asked.forget()
		p := app(t, addr, func(o *upstream.Options) {
			o.Credentials = upstream.Credentials{Username: "alice", PasswordFile: right}
		})
		for range 3 {
			resolves(t, p, oci.Descriptor{Digest: image.Digest})
		}
		basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:open sesame"))
		if got := asked.header("Authorization"); !slices.Equal(got, []string{"", basic, basic, basic}) {
			t.Errorf("sent %q", got)
		}
	})
	t.Run("another password does not", func(t *testing.T) {
		_, err := app(t, addr, func(o *upstream.Options) {
			o.Credentials = upstream.Credentials{Username: "alice", PasswordFile: wrong}
		}).Resolve(t.Context(), "1")
		wants(t, err, upstream.ErrUnauthorized, false)
		says(t, err, "401", "alice", wrong)
		keepsQuiet(t, err, "open barley")
	})
	t.Run("without credentials the error says what is missing", func(t *testing.T) {
		_, err := app(t, addr, nil).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnauthorized, false)
		says(t, err, "asks for credentials", "give the route some")
	})
	t.Run("a password file that is gone is said to be", func(t *testing.T) {
		_, err := app(t, addr, func(o *upstream.Options) {
			o.Credentials = upstream.Credentials{Username: "alice", PasswordFile: right + "-gone"}
		}).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnauthorized, false)
		says(t, err, right+"-gone")
	})
	for name, content := range map[string]string{"an empty": "\n", "an endless": strings.Repeat("a", 64<<10+1)} {
		t.Run(name+" password file is refused", func(t *testing.T) {
			path := writeFile(t, filepath.Join(t.TempDir(), "password"), content)
			_, _, err := app(t, addr, func(o *upstream.Options) {
				o.Credentials = upstream.Credentials{Username: "alice", PasswordFile: path}
			}).Blob(t.Context(), image.Digest, 0)
			wants(t, err, upstream.ErrUnauthorized, false)
			says(t, err, path+" is empty or has more than 65536 bytes")
		})
	}
}

func TestPasswordRotation(t *testing.T) {
	users := newHtpasswd(t, "alice", "open sesame")
	handler, image := guarded(t, users.auth())
	password := writeFile(t, filepath.Join(t.TempDir(), "password"), "open sesame")
	p := app(t, serve(t, handler), func(o *upstream.Options) {
		o.Credentials = upstream.Credentials{Username: "alice", PasswordFile: password}
	})
	resolves(t, p, oci.Descriptor{Digest: image.Digest})

	users.set(t, "alice", "close sesame")
	_, err := p.Resolve(t.Context(), "1")
	wants(t, err, upstream.ErrUnauthorized, false)

	writeFile(t, password, "close sesame")
	resolves(t, p, oci.Descriptor{Digest: image.Digest})
}

// hub is docker.io as it is: the registry on one host, its tokens on another.
type hub struct {
	*internet
	tokens   *tokenServer
	registry *journal
	image    oci.Descriptor
}

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{internet: newInternet(t), tokens: newTokenServer(t, "https://auth.docker.io/token"), registry: &journal{}}
	handler, image := guarded(t, h.tokens.auth())
	h.image.Digest = image.Digest
	h.host("auth.docker.io", h.tokens)
	h.host("registry-1.docker.io", h.registry.keep(handler))
	return h
}

func (h *hub) app(t testing.TB, credentials upstream.Credentials) *upstream.Repository {
	t.Helper()
	o := h.visit("docker.io", "https://registry-1.docker.io")
	o.Credentials = credentials
	r, err := upstream.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return repository(t, r)
}

func (h *hub) alice(t testing.TB) upstream.Credentials {
	return upstream.Credentials{Username: "alice", PasswordFile: writeFile(t, filepath.Join(t.TempDir(), "password"), "open sesame\n")}
}

func TestBearerAuthentication(t *testing.T) {
	h := newHub(t)
	t.Run("the token server gets the password, the registry the token", func(t *testing.T) {
		p := h.app(t, h.alice(t))
		for range 3 {
			resolves(t, p, h.image)
			if _, err := p.Manifest(t.Context(), "1"); err != nil {
				t.Fatal(err)
			}
		}
		if got := h.tokens.asked(); !slices.Equal(got, []string{"GET /token?scope=repository%3Aacme%2Fapp%3Apull&service=registry.example.com"}) {
			t.Errorf("the token server was asked %q", got)
		}
		if !h.tokens.sent("Basic ") || h.registry.sent("Basic ") {
			t.Errorf("the token server was sent %q, the registry %q", h.tokens.header("Authorization"), h.registry.header("Authorization"))
		}
		if !h.registry.sent("Bearer " + h.tokens.tokens()[0]) {
			t.Errorf("the registry was sent %q", h.registry.header("Authorization"))
		}
	})
	t.Run("a registry that hands out tokens to everybody needs no credentials", func(t *testing.T) {
		h.tokens.welcome(true)
		defer h.tokens.welcome(false)
		h.tokens.forget()
		resolves(t, h.app(t, upstream.Credentials{}), h.image)
		if got := h.tokens.header("Authorization"); !slices.Equal(got, []string{""}) {
			t.Errorf("the token server was sent %q", got)
		}
	})
	t.Run("a token that allows nothing is not authorized", func(t *testing.T) {
		_, err := h.app(t, upstream.Credentials{}).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnauthorized, false)
		says(t, err, "docker.io/acme/app:1", "401", "give the route some")
	})
	t.Run("a token that the registry no longer takes is replaced", func(t *testing.T) {
		p := h.app(t, h.alice(t))
		resolves(t, p, h.image)
		handler := h.find("registry-1.docker.io")
		defer h.host("registry-1.docker.io", handler)
		revoked := "Bearer " + h.tokens.tokens()[len(h.tokens.tokens())-1]
		h.host("registry-1.docker.io", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == revoked {
				r.Header.Del("Authorization")
			}
			handler.ServeHTTP(w, r)
		}))
		resolves(t, p, h.image)
	})
	t.Run("the token server does not know the password", func(t *testing.T) {
		path := writeFile(t, filepath.Join(t.TempDir(), "password"), "open barley")
		_, err := h.app(t, upstream.Credentials{Username: "alice", PasswordFile: path}).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnauthorized, false)
		says(t, err, "auth.docker.io answered 401", "incorrect username or password", path)
	})
	for _, tc := range []struct {
		name      string
		fault     func(http.ResponseWriter)
		kind      error
		temporary bool
		text      string
	}{
		{"is not there", func(w http.ResponseWriter) { http.NotFound(w, nil) }, upstream.ErrUnauthorized, false, "answered 404"},
		{"says that there is no such thing", func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`)
		}, upstream.ErrUnauthorized, false, "answered 404"},
		{"is broken", func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusInternalServerError)
		}, upstream.ErrUnavailable, true, "answered 500"},
		{"limits the rate", func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		}, upstream.ErrUnavailable, true, "answered 429"},
		{"gives no token", func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{}`) }, upstream.ErrUnauthorized, false, "empty token"},
		{"answers something else", func(w http.ResponseWriter) { _, _ = io.WriteString(w, `<html>`) }, upstream.ErrUnauthorized, false, "logging in failed"},
		{"breaks off", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"token":"eyJhbGciOiJFUzI1NiJ9`)
		}, upstream.ErrUnavailable, true, "connection broke"},
	} {
		t.Run("a token server that "+tc.name, func(t *testing.T) {
			h.tokens.breaks(tc.fault)
			defer h.tokens.breaks(nil)
			p := h.app(t, h.alice(t))
			_, err := p.Manifest(t.Context(), "1")
			wants(t, err, tc.kind, tc.temporary)
			says(t, err, tc.text)
			// What cannot be read is not what is not there.
			_, err = p.Referrers(t.Context(), h.image.Digest, "")
			wants(t, err, tc.kind, tc.temporary)
			_, err = p.Tags(t.Context(), 0, "")
			wants(t, err, tc.kind, tc.temporary)
		})
	}
}

func TestDockerConfig(t *testing.T) {
	h := newHub(t)
	config := func(t *testing.T, content string) upstream.Credentials {
		return upstream.Credentials{DockerConfig: writeFile(t, filepath.Join(t.TempDir(), "config.json"), content)}
	}
	alice := base64.StdEncoding.EncodeToString([]byte("alice:open sesame"))

	t.Run("docker login's entry for Docker Hub is found", func(t *testing.T) {
		h.tokens.forget()
		resolves(t, h.app(t, config(t, fmt.Sprintf(`{"auths":{"https://index.docker.io/v1/":{"auth":%q}}}`, alice))), h.image)
		if !h.tokens.sent("Basic " + alice) {
			t.Errorf("sent %q", h.tokens.header("Authorization"))
		}
	})
	t.Run("an identity token is exchanged for others", func(t *testing.T) {
		h.tokens.forget()
		entry := base64.StdEncoding.EncodeToString([]byte("00000000-0000-0000-0000-000000000000:"))
		resolves(t, h.app(t, config(t, fmt.Sprintf(`{"auths":{"https://index.docker.io/v1/":{"auth":%q,"identitytoken":"alice-refresh-token"}}}`, entry))), h.image)
		if got := h.tokens.asked(); !slices.Equal(got, []string{"POST /token"}) {
			t.Errorf("the token server was asked %q", got)
		}
	})
	t.Run("another registry's entry is not sent", func(t *testing.T) {
		h.tokens.forget()
		_, err := h.app(t, config(t, fmt.Sprintf(`{"auths":{"ghcr.io":{"auth":%q}}}`, alice))).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnauthorized, false)
		says(t, err, "docker login registry-1.docker.io")
		if got := h.tokens.header("Authorization"); !slices.Equal(got, []string{""}) {
			t.Errorf("sent %q", got)
		}
	})
	t.Run("a config that cannot be read is an error", func(t *testing.T) {
		credentials := config(t, `{"auths":{"https://index.docker.io/v1/":{"auth":"b3BlbiBzZXNhbWU`)
		_, err := h.app(t, credentials).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnauthorized, false)
		says(t, err, credentials.DockerConfig, "not valid")
		keepsQuiet(t, err, "b3BlbiBzZXNhbWU")
	})

	bin := t.TempDir()
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	helper := func(t *testing.T, name, script string) upstream.Credentials {
		t.Helper()
		path := writeFile(t, filepath.Join(bin, "docker-credential-"+name), "#!/bin/sh\n"+script)
		if err := os.Chmod(path, 0o700); err != nil {
			t.Fatal(err)
		}
		return config(t, fmt.Sprintf(`{"credHelpers":{"https://index.docker.io/v1/":%q}}`, name))
	}
	t.Run("a credential helper is asked, with the name that docker uses", func(t *testing.T) {
		resolves(t, h.app(t, helper(t, "right", `
			read server
			test "$1 $server" = "get https://index.docker.io/v1/" || exit 1
			echo '{"ServerURL":"https://index.docker.io/v1/","Username":"alice","Secret":"open sesame"}'`)), h.image)
	})
	t.Run("a credential helper may have nothing", func(t *testing.T) {
		_, err := h.app(t, helper(t, "empty", `echo "credentials not found in native keychain"; exit 1`)).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnauthorized, false)
		says(t, err, "401")
	})
	t.Run("what a credential helper prints when it fails is not shown", func(t *testing.T) {
		credentials := helper(t, "failing", `echo "cannot unlock with open sesame"; exit 1`)
		_, err := h.app(t, credentials).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnauthorized, false)
		says(t, err, "credential helper", credentials.DockerConfig)
	})
	t.Run("a credential helper that is not installed is an error", func(t *testing.T) {
		_, err := h.app(t, config(t, `{"credHelpers":{"https://index.docker.io/v1/":"missing"}}`)).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnauthorized, false)
		says(t, err, "credential helper")
	})
	t.Run("an identity token does not help where a password is asked for", func(t *testing.T) {
		users := newHtpasswd(t, "alice", "open sesame")
		handler, _ := guarded(t, users.auth())
		h.host("basic.example.com", handler)
		o := h.visit("basic.example.com", "https://basic.example.com")
		o.Credentials = config(t, `{"auths":{"basic.example.com":{"auth":"YWxpY2U6","identitytoken":"alice-refresh-token"}}}`)
		r, err := upstream.New(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		_, err = repository(t, r).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnauthorized, false)
		says(t, err, "missing username or password", "docker login basic.example.com")
	})
}
