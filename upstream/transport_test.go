package upstream_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

// failing stands in front of a registry and answers the first n requests itself.
func failing(n int, f http.HandlerFunc) func(http.Handler) http.Handler {
	var left atomic.Int32
	left.Store(int32(n))
	return answer(func(w http.ResponseWriter, r *http.Request) bool {
		if left.Add(-1) < 0 {
			return false
		}
		f(w, r)
		return true
	})
}

func status(code int, retryAfter string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(code)
	}
}

// reset breaks the connection as a machine does that knows nothing of it.
func reset(w http.ResponseWriter, r *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // sends RST
	}
	conn.Close()
}

// vacant is an address where nobody answers.
func vacant(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	return listener.Addr().String()
}

// mailServer is an address where somebody speaks, but not HTTP.
func mailServer(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := conn.Read(make([]byte, 1)); err != nil {
					return
				}
				_, _ = io.WriteString(conn, "220 mail.example.com ESMTP\r\n")
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
	return listener.Addr().String()
}

func TestRetry(t *testing.T) {
	h := openHarbour(t)
	for _, code := range []int{408, 429, 500, 502, 503, 504, 599} {
		t.Run(fmt.Sprintf("%d is asked again until it is over", code), func(t *testing.T) {
			seen := &journal{}
			addr := serve(t, seen.keep(failing(4, status(code, "0"))(h.handler)))
			if _, err := app(t, addr, nil).Manifest(t.Context(), "1"); err != nil {
				t.Fatal(err)
			}
			if got := seen.asked(); len(got) != 5 {
				t.Errorf("asked %q", got)
			}
		})
		t.Run(fmt.Sprintf("%d is given up after five times", code), func(t *testing.T) {
			seen := &journal{}
			_, err := app(t, serve(t, seen.keep(status(code, "0"))), nil).Manifest(t.Context(), "1")
			wants(t, err, upstream.ErrUnavailable, true)
			says(t, err, fmt.Sprint(code), "registry.example.com/acme/app:1")
			if got := seen.asked(); len(got) != 5 {
				t.Errorf("asked %q", got)
			}
		})
	}
	for code, kind := range map[int]error{
		400: oci.ErrManifest, 401: upstream.ErrUnauthorized, 403: upstream.ErrUnauthorized,
		405: oci.ErrManifest, 409: oci.ErrManifest, 416: oci.ErrManifest, 418: oci.ErrManifest, 421: oci.ErrManifest,
	} {
		t.Run(fmt.Sprintf("%d is an answer", code), func(t *testing.T) {
			seen := &journal{}
			_, err := app(t, serve(t, seen.keep(status(code, "0"))), nil).Manifest(t.Context(), "1")
			wants(t, err, kind, false)
			if got := seen.asked(); len(got) != 1 {
				t.Errorf("asked %q", got)
			}
		})
	}
	for _, code := range []int{501, 505} {
		t.Run(fmt.Sprintf("%d will not change", code), func(t *testing.T) {
			seen := &journal{}
			_, err := app(t, serve(t, seen.keep(status(code, "0"))), nil).Manifest(t.Context(), "1")
			wants(t, err, upstream.ErrUnavailable, true)
			if got := seen.asked(); len(got) != 1 {
				t.Errorf("asked %q", got)
			}
		})
	}
	for _, wait := range []string{"31", "86400", "99999999999", "99999999999999999999999", "Fri, 31 Dec 2999 23:59:59 GMT"} {
		t.Run("a wait of "+wait+" is too long", func(t *testing.T) {
			seen := &journal{}
			_, err := app(t, serve(t, seen.keep(status(http.StatusTooManyRequests, wait))), nil).Manifest(t.Context(), "1")
			wants(t, err, upstream.ErrUnavailable, true)
			says(t, err, "429", "Retry-After: "+wait, "credentials with a higher limit")
			if got := seen.asked(); len(got) != 1 {
				t.Errorf("asked %q", got)
			}
		})
	}
	t.Run("a date that has passed is no wait", func(t *testing.T) {
		addr := serve(t, failing(4, status(http.StatusServiceUnavailable, "Fri, 31 Dec 1999 23:59:59 GMT"))(h.handler))
		if _, err := app(t, addr, nil).Manifest(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBrokenConnections(t *testing.T) {
	h := openHarbour(t)
	t.Run("a connection that is reset is made again", func(t *testing.T) {
		seen := &journal{}
		addr := serve(t, seen.keep(failing(1, reset)(h.handler)))
		if _, err := app(t, addr, nil).Manifest(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
		if got := seen.asked(); len(got) != 2 {
			t.Errorf("asked %q", got)
		}
	})
	t.Run("a registry that resets them all is unavailable", func(t *testing.T) {
		seen := &journal{}
		_, err := app(t, serve(t, seen.keep(http.HandlerFunc(reset))), nil).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnavailable, true)
		says(t, err, "reset", "can be reached from here")
		if got := seen.asked(); len(got) != 3 {
			t.Errorf("asked %q", got)
		}
	})
	t.Run("a registry that is not there is unavailable", func(t *testing.T) {
		err := open(t, vacant(t), nil).Ping(t.Context())
		wants(t, err, upstream.ErrUnavailable, true)
		says(t, err, "refused", "can be reached from here")
	})
	t.Run("a server of something else is unavailable", func(t *testing.T) {
		err := open(t, mailServer(t), nil).Ping(t.Context())
		wants(t, err, upstream.ErrUnavailable, true)
		says(t, err, "malformed HTTP", "can be reached from here")
	})
	t.Run("redirects in a circle end", func(t *testing.T) {
		seen := &journal{}
		_, err := app(t, serve(t, seen.keep(redirect("/v2/acme/app/manifests/1?signature=f00dfeed"))), nil).Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnavailable, true)
		says(t, err, "redirects")
		if got := seen.asked(); len(got) != 10 {
			t.Errorf("asked %d times", len(got))
		}
	})
}

func TestTLS(t *testing.T) {
	h := openHarbour(t)
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		seen := &journal{}
		var fault atomic.Bool
		server := httptest.NewUnstartedServer(seen.keep(answer(func(http.ResponseWriter, *http.Request) bool {
			if fault.Swap(false) {
				panic(http.ErrAbortHandler)
			}
			return false
		})(h.handler)))
		server.Config.ErrorLog = quiet
		server.EnableHTTP2 = http2
		server.StartTLS()
		t.Cleanup(server.Close)
		ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
		visit := func(t *testing.T, change func(*upstream.Options)) *upstream.Registry {
			return open(t, server.Listener.Addr().String(), func(o *upstream.Options) {
				o.URL, o.Insecure = server.URL, false
				change(o)
			})
		}
		t.Run(name+" with a CA of the route's own", func(t *testing.T) {
			resolves(t, repository(t, visit(t, func(o *upstream.Options) { o.CA = ca })), oci.Descriptor{Digest: h.image.Digest})
			if got := seen.protocols(); !slices.Equal(got, []string{name}) {
				t.Errorf("spoke %q", got)
			}
		})
		t.Run(name+" with an answer that breaks off before it begins", func(t *testing.T) {
			seen.forget()
			fault.Store(true)
			resolves(t, repository(t, visit(t, func(o *upstream.Options) { o.CA = ca })), oci.Descriptor{Digest: h.image.Digest})
			if got := seen.asked(); len(got) != 2 {
				t.Errorf("asked %q", got)
			}
		})
		t.Run(name+" insecure", func(t *testing.T) {
			resolves(t, repository(t, visit(t, func(o *upstream.Options) { o.Insecure = true })), oci.Descriptor{Digest: h.image.Digest})
		})
		t.Run(name+" with a certificate that nobody vouches for", func(t *testing.T) {
			err := visit(t, func(*upstream.Options) {}).Ping(t.Context())
			wants(t, err, upstream.ErrUnavailable, true)
			says(t, err, "unknown authority", "give its route that CA")
		})
		t.Run(name+" with a certificate for another name", func(t *testing.T) {
			err := visit(t, func(o *upstream.Options) {
				o.CA, o.URL = ca, strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
			}).Ping(t.Context())
			wants(t, err, upstream.ErrUnavailable, true)
			says(t, err, "localhost", "certificate")
		})
		t.Run(name+" where http was expected", func(t *testing.T) {
			err := visit(t, func(o *upstream.Options) {
				o.Insecure, o.URL = true, strings.Replace(server.URL, "https", "http", 1)
			}).Ping(t.Context())
			if err == nil {
				t.Error("no error")
			}
		})
	}
	t.Run("where there is http", func(t *testing.T) {
		err := open(t, h.Addr, func(o *upstream.Options) { o.URL, o.Insecure = "https://"+h.Addr, false }).Ping(t.Context())
		wants(t, err, upstream.ErrUnavailable, true)
		says(t, err, "HTTP response to HTTPS client")
	})
}

func TestUserAgent(t *testing.T) {
	h := openHarbour(t)
	for name, tc := range map[string]struct{ given, want string }{
		"by default":       {"", "trustgate"},
		"as it was chosen": {"trustgate/1.2.3", "trustgate/1.2.3"},
	} {
		t.Run(name, func(t *testing.T) {
			h.forget()
			r := open(t, h.Addr, func(o *upstream.Options) { o.UserAgent = tc.given })
			p := repository(t, r)
			resolves(t, p, oci.Descriptor{Digest: h.image.Digest})
			if _, err := p.SignatureExtension(t.Context(), h.image.Digest); err == nil {
				t.Error("distribution serves no signatures")
			}
			if got := h.header("User-Agent"); !slices.Equal(got, []string{tc.want, tc.want}) {
				t.Errorf("called itself %q", got)
			}
		})
	}
}

func TestConnectionsAreKept(t *testing.T) {
	var made atomic.Int32
	h := openHarbour(t)
	server := httptest.NewUnstartedServer(h.handler)
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			made.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	r := open(t, server.Listener.Addr().String(), nil)
	for range 5 {
		if err := r.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := made.Load(); got != 1 {
		t.Errorf("made %d connections", got)
	}
	// Close gives the idle one up; the client can be used on.
	r.Close()
	if err := r.Ping(t.Context()); err != nil || made.Load() != 2 {
		t.Errorf("made %d connections, %v", made.Load(), err)
	}
}
