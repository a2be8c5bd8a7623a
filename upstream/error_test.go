package upstream_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

// questions is everything that can be asked of a repository.
var questions = map[string]func(*testing.T, *upstream.Repository) error{
	"resolve":  func(t *testing.T, p *upstream.Repository) error { _, err := p.Resolve(t.Context(), "1"); return err },
	"manifest": func(t *testing.T, p *upstream.Repository) error { _, err := p.Manifest(t.Context(), "1"); return err },
	"tags":     func(t *testing.T, p *upstream.Repository) error { _, err := p.Tags(t.Context(), 0, ""); return err },
	"blob": func(t *testing.T, p *upstream.Repository) error {
		_, _, err := read(t, p, digest.FromString("x"), 0)
		return err
	},
	"signatures": func(t *testing.T, p *upstream.Repository) error {
		_, err := p.SignatureExtension(t.Context(), digest.FromString("x"))
		return err
	},
	"referrers": func(t *testing.T, p *upstream.Repository) error {
		_, err := p.Referrers(t.Context(), digest.FromString("x"), "")
		return err
	},
}

func TestErrorsKeepSecrets(t *testing.T) {
	strange := mailServer(t)
	location := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
		}
	}
	document := func(code int, message string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			_, _ = fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":%q}]}`, message)
		}
	}
	for name, handler := range map[string]http.HandlerFunc{
		"a signed URL of something else":         location("http://" + strange + "/blob?X-Amz-Signature=f00dfeed&x='f00dfeed'"),
		"a signed URL of a name that is not":     location("http://store.invalid/blob?X-Amz-Signature=f00dfeed"),
		"a signed URL that is refused":           location("http://169.254.169.254/blob?X-Amz-Signature=f00dfeed"),
		"a signed URL with another scheme":       location("ftp://store.example.com/blob?X-Amz-Signature=f00dfeed"),
		"a signed URL that cannot be read":       location("https://store.example.com/%zz?X-Amz-Signature=f00dfeed"),
		"a signed path that cannot be read":      location("/%zz?X-Amz-Signature=f00dfeed"),
		"a query alone that cannot be read":      location("%zz?X-Amz-Signature=f00dfeed"),
		"a signed URL with quotes":               location(`https://store.example.com/%zz?a="b"&X-Amz-Signature=f00dfeed`),
		"a URL with a password":                  location("http://alice:f00dfeed@" + strange + "/blob"),
		"a URL with a strange password":          location("http://alice:f00d@'f00dfeed@" + strange + "/blob"),
		"a URL with a password that is unread":   location("http://alice:f00dfeed@store.example.com:port/"),
		"the registry repeats a token":           document(403, "the token Bearer f00dfeedf00dfeed is not good enough"),
		"the registry repeats a password":        document(403, "no such user: Basic f00dfeedf00dfeed=="),
		"the registry repeats a web token":       document(400, "cannot parse eyJhbGciOiJFUzI1NiJ9.f00dfeed.f00dfeed"),
		"the registry repeats a signed URL":      document(403, "https://store.example.com/blob?X-Amz-Signature=f00dfeed has expired"),
		"the registry repeats a URL with a user": document(403, "see https://alice:f00dfeed@store.example.com/"),
		"a realm with a password": func(w http.ResponseWriter, r *http.Request) {
			challenge("http://alice:f00dfeed@"+strange+"/").ServeHTTP(w, r)
		},
		"a realm with a key": func(w http.ResponseWriter, r *http.Request) {
			challenge("http://"+strange+"/?key=f00dfeed").ServeHTTP(w, r)
		},
		"a realm that cannot be read": func(w http.ResponseWriter, r *http.Request) {
			challenge("http://alice:f00dfeed@%zz/?key=f00dfeed").ServeHTTP(w, r)
		},
		"a realm that leads in a circle": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				redirect("/token?key=f00dfeed").ServeHTTP(w, r)
				return
			}
			challenge("http://"+r.Host+"/token").ServeHTTP(w, r)
		},
	} {
		for what, ask := range questions {
			t.Run(what+", "+name, func(t *testing.T) {
				err := ask(t, app(t, serve(t, handler), nil))
				if err == nil {
					t.Fatal("no error")
				}
				keepsQuiet(t, err, "f00d")
				if strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
					t.Errorf("cannot be printed: %q", err.Error())
				}
			})
		}
	}
}

func TestWhatRegistriesSayOfTheirErrors(t *testing.T) {
	for _, tc := range []struct{ name, body, says, not string }{
		{"one error", `{"errors":[{"code":"DENIED","message":"pay first"}]}`, "403 Forbidden (denied: pay first);", ""},
		{"three errors of four", `{"errors":[{"code":"A"},{"code":"B","message":"b"},{"code":"C"},{"code":"D"}]}`, "(a; b: b; c);", ""},
		{"no message", `{"errors":[{"code":"DENIED"}]}`, "(denied)", ""},
		{"a long message", `{"errors":[{"code":"DENIED","message":"` + strings.Repeat("ä", 1000) + `"}]}`, "ä…", strings.Repeat("ä", 151)},
		{"lines", `{"errors":[{"code":"DENIED","message":"one\ntwo\r\u001b[31mthree\u2028four"}]}`, "one two  [31mthree four", "\x1b"},
		{"no document", `<html>denied</html>`, "403 Forbidden;", "html"},
		{"a document of something else", `{"errors":"denied"}`, "403 Forbidden;", ""},
		{"a document without an end", `{"errors":[{"code":"DENIED"`, "403 Forbidden;", "denied"},
		{"a document that is too long", `{"pad":"` + strings.Repeat(" ", 8<<10) + `","errors":[{"code":"DENIED"}]}`, "403 Forbidden;", "denied"},
		{"nothing", ``, "403 Forbidden;", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, tc.body)
			}))
			for what, ask := range questions {
				if what == "resolve" || what == "signatures" {
					continue // a HEAD's answer has no document; /v2/ may answer 403
				}
				err := ask(t, app(t, addr, nil))
				wants(t, err, upstream.ErrUnauthorized, false)
				says(t, err, tc.says)
				if tc.not != "" {
					keepsQuiet(t, err, tc.not)
				}
			}
		})
	}
}

// 404 means that there is none, if a registry says it.
func TestNotFound(t *testing.T) {
	for _, tc := range []struct {
		name, body string
		base       int // status of /v2/
		kind       error
	}{
		{"a registry's document", `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, 500, oci.ErrNotFound},
		{"a document without a code, of a registry", `{"errors":[{"status":404,"message":"File not found."}]}`, 200, oci.ErrNotFound},
		{"a document without a code, of a registry that asks who is there", `{"errors":[]}`, 401, oci.ErrNotFound},
		{"no document, of a registry that is not for everybody", ``, 403, oci.ErrNotFound},
		{"no document, of no registry", ``, 404, upstream.ErrUnavailable},
		{"a document without a code, of no registry", `{"errors":[{"status":404}]}`, 302, upstream.ErrUnavailable},
		{"no document, of a registry that fails", ``, 500, upstream.ErrUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v2/" {
					status(tc.base, "0")(w, r)
					return
				}
				w.WriteHeader(http.StatusNotFound)
				_, _ = io.WriteString(w, tc.body)
			}))
			for _, what := range []string{"resolve", "manifest", "tags", "blob"} {
				wants(t, questions[what](t, app(t, addr, nil)), tc.kind, tc.kind == upstream.ErrUnavailable)
			}
			err := questions["referrers"](t, app(t, addr, nil))
			if tc.kind == oci.ErrNotFound && err != nil {
				t.Errorf("that nothing refers to it is no error: %v", err)
			} else if tc.kind != oci.ErrNotFound {
				wants(t, err, tc.kind, true)
			}
		})
	}
}
