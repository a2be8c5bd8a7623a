package upstream_test

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

// signing stands in front of a registry and adds the extension of OpenShift's
// registry to it, which serves f.
//
// https://github.com/containers/image/blob/main/docs/signature-protocols.md
func signing(f http.HandlerFunc) func(http.Handler) http.Handler {
	return answer(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/" {
			w.Header().Set("X-Registry-Supports-Signatures", "1")
		}
		if strings.HasPrefix(r.URL.Path, "/extensions/v2/") {
			f(w, r)
			return true
		}
		return false
	})
}

func TestSignatureExtension(t *testing.T) {
	h := openHarbour(t)
	const signatures = `{"signatures":[{"schemaVersion":2,"name":"x","type":"atomic","content":"eA=="}]}`
	t.Run("is read from a registry that says it has it", func(t *testing.T) {
		h.behave(signing(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, signatures) }))
		p := app(t, h.Addr, nil)
		for range 2 {
			if raw, err := p.SignatureExtension(t.Context(), h.image.Digest); err != nil || string(raw) != signatures {
				t.Errorf("read %q, %v", raw, err)
			}
		}
		path := "GET /extensions/v2/acme/app/signatures/" + h.image.Digest.String()
		if got := h.asked(); !slices.Equal(got, []string{"GET /v2/", path, path}) {
			t.Errorf("asked %q", got)
		}
	})
	t.Run("is not asked for where the registry does not say so", func(t *testing.T) {
		h.behave(nil)
		p := app(t, h.Addr, nil)
		for range 2 {
			if _, err := p.SignatureExtension(t.Context(), h.image.Digest); !errors.Is(err, oci.ErrNotFound) {
				t.Errorf("read, or %v", err)
			}
		}
		if got := h.asked(); !slices.Equal(got, []string{"GET /v2/"}) {
			t.Errorf("asked %q", got)
		}
	})
	t.Run("needs the credentials, while asking for it does not", func(t *testing.T) {
		users := newHtpasswd(t, "alice", "open sesame")
		handler, image := guarded(t, users.auth())
		addr := serve(t, signing(func(w http.ResponseWriter, r *http.Request) {
			if _, _, ok := r.BasicAuth(); ok {
				_, _ = io.WriteString(w, signatures)
				return
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="acme"`)
			w.WriteHeader(http.StatusUnauthorized)
		})(handler))
		raw, err := app(t, addr, func(o *upstream.Options) {
			o.Credentials = upstream.Credentials{Username: "alice", PasswordFile: writeFile(t, t.TempDir()+"/password", "open sesame")}
		}).SignatureExtension(t.Context(), image.Digest)
		if err != nil || string(raw) != signatures {
			t.Errorf("read %q, %v", raw, err)
		}
	})
	for name, tc := range map[string]struct {
		answer    http.HandlerFunc
		kind      error
		temporary bool
	}{
		"has none":        {http.NotFound, oci.ErrNotFound, false},
		"has too many":    {func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, 1<<20+1)) }, oci.ErrManifest, false},
		"fails":           {status(500, "0"), upstream.ErrUnavailable, true},
		"does not permit": {status(403, ""), upstream.ErrUnauthorized, false},
	} {
		t.Run("of a registry that "+name, func(t *testing.T) {
			h.behave(signing(tc.answer))
			_, err := app(t, h.Addr, nil).SignatureExtension(t.Context(), h.image.Digest)
			wants(t, err, tc.kind, tc.temporary)
			says(t, err, "fetching the signatures of registry.example.com/acme/app@"+h.image.Digest.String())
		})
	}
	for name, handler := range map[string]http.Handler{"is gone": http.NotFoundHandler(), "fails": status(500, "0"), "limits the rate": status(429, "3600")} {
		t.Run("of a registry that "+name+" is not known", func(t *testing.T) {
			seen := &journal{}
			p := app(t, serve(t, seen.keep(handler)), nil)
			for range 2 {
				_, err := p.SignatureExtension(t.Context(), digest.FromString("an image"))
				wants(t, err, upstream.ErrUnavailable, true)
			}
			if got := seen.asked(); len(got) < 2 || got[0] != got[len(got)-1] {
				t.Errorf("a failure was remembered: asked %q", got)
			}
		})
	}
	t.Run("of what is no digest is never asked for", func(t *testing.T) {
		h.behave(nil)
		if _, err := app(t, h.Addr, nil).SignatureExtension(t.Context(), "latest"); err == nil {
			t.Error("read")
		}
		if got := h.asked(); len(got) > 0 {
			t.Errorf("asked %q", got)
		}
	})
	t.Run("is looked for again after ten minutes", func(t *testing.T) {
		var asked atomic.Int32
		within(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" {
				_, _ = io.WriteString(w, signatures)
				return
			}
			if asked.Add(1) > 1 {
				w.Header().Set("X-Registry-Supports-Signatures", "1")
			}
		}, nil, func(t *testing.T, p *upstream.Repository) {
			for _, tc := range []struct {
				wait  time.Duration
				found bool
			}{{0, false}, {10*time.Minute - 1, false}, {1, true}, {time.Minute, true}} {
				time.Sleep(tc.wait)
				if _, err := p.SignatureExtension(t.Context(), digest.FromString("an image")); (err == nil) != tc.found {
					t.Errorf("%v later: %v", tc.wait, err)
				}
			}
			if asked.Load() != 2 {
				t.Errorf("asked %d times", asked.Load())
			}
		})
	})
}
