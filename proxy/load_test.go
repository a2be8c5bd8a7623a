package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sync/errgroup"

	"github.com/trustgate/trustgate/access"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/proxy"
)

// impatient is a front that soon cuts off whoever takes nothing. The blob at the path
// was served by it once.
func impatient(s *stage.Stage, g proxy.Gate, repository string, raw []byte, limit int) (f *front, path string, d digest.Digest) {
	s.Helper()
	_, d = carrying(s, repository, raw)
	f = serve(s, "HTTP/1.1", handlerFor(s, g), func(server *httptest.Server) {
		server.Listener = (&proxy.Connections{Limit: limit, Patience: 300 * time.Millisecond}).Attach(server.Config, server.Listener)
	})
	f.get(f.path(repository, "manifests", "1"))
	path = f.path(repository, "blobs", d.String())
	f.get(path).served(d)
	return f, path, d
}

type countingListener struct {
	net.Listener
	written *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return countingConn{conn, l.written}, err
}

type countingConn struct {
	net.Conn
	written *atomic.Int64
}

func (c countingConn) Write(p []byte) (int, error) {
	c.written.Add(1)
	return c.Conn.Write(p)
}

// Each limit has an answer of its own that says which one it was and what to do.
// That two thousand clients get by within them is shown in e2e.
func TestLimits(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	slow := s.Trusted(s.Image("slow", nil))
	g := s.Gate(stage.Options{Judgements: 1, Deadline: 4 * time.Second})

	t.Run("connections", func(t *testing.T) {
		s := s.For(t)
		for _, protocol := range protocols {
			t.Run(protocol, func(t *testing.T) {
				s := s.For(t)
				const limit = 3
				f := serve(s, protocol, handlerFor(s, g), func(server *httptest.Server) {
					server.Listener = (&proxy.Connections{Limit: limit}).Attach(server.Config, server.Listener)
				})
				path := f.path("app", "manifests", "1")
				var inside []*http.Transport
				another := func() *front {
					other := *f
					transport := f.client.Transport.(*http.Transport).Clone()
					other.client = &http.Client{Transport: transport}
					inside = append(inside, transport)
					s.Cleanup(transport.CloseIdleConnections)
					return &other
				}
				for range limit {
					another().get(path).served(app.Digest)
				}
				for range 2 { // and who is turned away holds nothing
					a := another().get(path)
					if message := a.refused(http.StatusServiceUnavailable, "TOOMANYREQUESTS").Message; !strings.Contains(message, "all 3 connections") ||
						!strings.Contains(message, "limits.connections") || a.Header.Get("Retry-After") == "" {
						t.Errorf("Retry-After %q, %s", a.Header.Get("Retry-After"), message)
					}
				}
				inside[0].CloseIdleConnections()
				// The server hears of it when it hears of it.
				for try := 0; ; try++ {
					a := another().get(path)
					if a.StatusCode == http.StatusOK {
						break
					}
					if try > 1000 {
						t.Fatalf("a place that was left is not taken: %s", a.Status)
					}
				}
			})
		}
	})

	// What net/http would send in parts goes out at once, and is the same.
	t.Run("small answers", func(t *testing.T) {
		s := s.For(t)
		for _, protocol := range append(slices.Clone(protocols), unencrypted) {
			t.Run(protocol, func(t *testing.T) {
				s := s.For(t)
				var written atomic.Int64
				f := serve(s, protocol, handlerFor(s, g), func(server *httptest.Server) {
					server.Listener = (&proxy.Connections{Limit: 100}).Attach(server.Config, countingListener{server.Listener, &written})
				})
				for i, size := range []int{1, 2047, 2048, 4096, 16 << 10, 16<<10 + 1, 40_000} {
					repository := fmt.Sprintf("sized/%d", size)
					_, d := carrying(s, repository, noise(size, byte(70+i)))
					f.get(f.path(repository, "manifests", "1"))
					path := f.path(repository, "blobs", d.String())
					f.get(path).served(d)
					if a := f.get(path, "Range", "bytes=0-0"); a.StatusCode != http.StatusPartialContent || len(a.body) != 1 {
						t.Errorf("%d bytes, the first of them: %s, %q", size, a.Status, a.body)
					}
					f.head(path)
					// From memory, once its file is where it belongs.
					for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
						before := written.Load()
						f.get(path).served(d)
						parts := written.Load() - before
						if parts == 1 || size > 16<<10 || protocol != "HTTP/1.1" {
							break
						}
						if time.Now().After(deadline) {
							t.Fatalf("%d bytes are sent in %d parts", size, parts)
						}
					}
					var together errgroup.Group
					for range 16 { // on one connection of HTTP/2
						together.Go(func() error {
							a, err := f.try(http.MethodGet, path)
							if err == nil {
								a.served(d)
							}
							return err
						})
					}
					s.Must(together.Wait())
				}
			})
		}
	})

	t.Run("a client that does not take its answer", func(t *testing.T) {
		s := s.For(t)
		f, path, _ := impatient(s, g, "large", noise(16<<20, 60), 1)
		f.client.CloseIdleConnections()
		conn, err := net.Dial("tcp", f.server.Listener.Addr().String())
		s.Must(err)
		defer conn.Close()
		_, err = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		s.Must(err)
		// It reads nothing, and has the only place. Somebody else gets it.
		deadline := time.Now().Add(30 * time.Second)
		for f.get(f.path("large", "manifests", "1")).StatusCode != http.StatusOK {
			if time.Now().After(deadline) {
				t.Fatal("it keeps its place")
			}
			time.Sleep(20 * time.Millisecond)
		}
	})

	t.Run("a client that asks again and does not take its answers", func(t *testing.T) {
		s := s.For(t)
		f, path, d := impatient(s, g, "piped", noise(16<<10, 62), 2)
		conn, err := net.Dial("tcp", f.server.Listener.Addr().String())
		s.Must(err)
		defer conn.Close()
		go io.WriteString(conn, strings.Repeat("GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n", 4000))
		time.Sleep(time.Second) // longer than anybody's patience
		whole := 0
		for answers := bufio.NewReader(conn); ; whole++ {
			resp, err := http.ReadResponse(answers, nil)
			if err != nil {
				break
			}
			raw, err := io.ReadAll(resp.Body)
			if err != nil {
				break
			}
			if got := digest.FromBytes(raw); resp.StatusCode != http.StatusOK || got != d {
				t.Fatalf("after %d answers: %s with %s", whole, resp.Status, got)
			}
		}
		if whole == 4000 {
			t.Error("it got everything: it was never cut off")
		}
	})

	t.Run("a stream that is not read", func(t *testing.T) {
		s := s.For(t)
		_, d := carrying(s, "streamed", noise(16<<20, 61))
		for name, reads := range map[string]bool{"by a client that reads others": true, "by a client that reads nothing": false} {
			t.Run(name, func(t *testing.T) {
				s := s.For(t)
				ended := make(chan struct{})
				inner := handlerFor(s, g)
				f := serve(s, "HTTP/1.1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					inner.ServeHTTP(w, r)
					if r.ProtoMajor == 2 {
						close(ended)
					}
				}), func(server *httptest.Server) {
					server.Config.Protocols = new(http.Protocols)
					server.Config.Protocols.SetHTTP1(true)
					server.Config.Protocols.SetUnencryptedHTTP2(true)
					server.Listener = (&proxy.Connections{Limit: 4, Patience: 300 * time.Millisecond}).Attach(server.Config, server.Listener)
				})
				f.get(f.path("streamed", "manifests", "1"))
				path := f.path("streamed", "blobs", d.String())
				f.get(path).served(d)

				conn, err := net.Dial("tcp", f.server.Listener.Addr().String())
				s.Must(err)
				defer conn.Close()
				_, err = io.WriteString(conn, http2.ClientPreface)
				s.Must(err)
				frames := http2.NewFramer(conn, conn)
				window := uint32(64 << 10)
				if !reads { // and has promised to take everything
					window = 1 << 30
				}
				s.Must(frames.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}))
				s.Must(frames.WriteWindowUpdate(0, 1<<30))
				var fields bytes.Buffer
				encoder := hpack.NewEncoder(&fields)
				for _, field := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", path}} {
					s.Must(encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
				}
				s.Must(frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fields.Bytes(), EndStream: true, EndHeaders: true}))
				for reads {
					frame, err := frames.ReadFrame()
					s.Must(err)
					if reset, ok := frame.(*http2.RSTStreamFrame); ok && reset.StreamID == 1 {
						break
					}
				}
				select {
				case <-ended:
				case <-time.After(30 * time.Second):
					t.Fatal("its answer is still being written")
				}
			})
		}
	})

	t.Run("a client that sends its request byte by byte", func(t *testing.T) {
		s := s.For(t)
		f := serve(s, "HTTP/1.1", handlerFor(s, g), func(server *httptest.Server) { server.Config.ReadHeaderTimeout = 200 * time.Millisecond })
		conn, err := net.Dial("tcp", f.server.Listener.Addr().String())
		s.Must(err)
		defer conn.Close()
		_, err = io.WriteString(conn, "GET /v2/ HTTP/1.1\r\nHost: x\r\nX")
		s.Must(err)
		s.Must(conn.SetReadDeadline(time.Now().Add(30 * time.Second)))
		if answer, err := io.ReadAll(conn); err != nil {
			t.Errorf("it is still connected: %q, %v", answer, err)
		}
	})

	t.Run("judgements", func(t *testing.T) {
		s := s.For(t)
		f := serve(s, "HTTP/1.1", handlerFor(s, g)).in(t)
		reached, release := make(chan struct{}), make(chan struct{})
		s.Upstream.Interpose(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/slow/referrers/") {
					close(reached)
					<-release
				}
				next.ServeHTTP(w, r)
			})
		})
		done := make(chan *answer)
		go func() { done <- f.get(f.path("slow", "manifests", "1")) }()
		<-reached
		other := s.Trusted(s.Image("other", nil))
		a := f.get(f.path("other", "manifests", "1"))
		if message := a.refused(http.StatusTooManyRequests, "TOOMANYREQUESTS").Message; !strings.Contains(message, "too many images are being judged; try again") || a.Header.Get("Retry-After") == "" {
			t.Errorf("Retry-After %q, %s", a.Header.Get("Retry-After"), message)
		}
		f.get(f.path("app", "manifests", "1")).served(app.Digest) // what stands needs no judgement
		close(release)
		(<-done).served(slow.Digest)
		s.Upstream.Interpose(nil)
		f.get(f.path("other", "manifests", "1")).served(other.Digest)
	})

	t.Run("requests of one client", func(t *testing.T) {
		s := s.For(t)
		now := time.Now()
		limits, err := access.New(access.Options{Rate: access.Rate{PerSecond: 0.5, Burst: 2}, Key: make([]byte, 32), Now: func() time.Time { return now }})
		s.Must(err)
		f := serve(s, "HTTP/1.1", handlerFor(s, g, func(o *proxy.Options) { o.Access = limits })).in(t)
		path := f.path("app", "manifests", "1")
		for range 2 {
			f.get(path).served(app.Digest)
		}
		a := f.get(path)
		message := a.refused(http.StatusTooManyRequests, "TOOMANYREQUESTS").Message
		if a.Header.Get("Retry-After") != "2" {
			t.Errorf("Retry-After %q, %s", a.Header.Get("Retry-After"), message)
		}
		t.Log(message)
		now = now.Add(2 * time.Second)
		f.get(path).served(app.Digest)
	})

	t.Run("sizes", func(t *testing.T) {
		s := s.For(t)
		f := serve(s, "HTTP/1.1", handlerFor(s, g, func(o *proxy.Options) {
			o.Routes[0].Push, o.ManifestLimit = proxy.PushPass, 4096
		}), func(server *httptest.Server) { server.Config.MaxHeaderBytes = 64 << 10 }).in(t)
		if a := f.raw("GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Long: "+strings.Repeat("x", 80<<10)+"\r\n\r\n", false); a.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a header: %s", a.Status)
		}
		put := func(path string, size int) *answer {
			req, err := http.NewRequestWithContext(context.Background(), http.MethodPut, f.base+path, bytes.NewReader(make([]byte, size)))
			s.Must(err)
			resp, err := f.client.Do(req)
			s.Must(err)
			return f.read(resp)
		}
		if message := put(f.path("app", "manifests", "big"), 4097).refused(http.StatusRequestEntityTooLarge, "MANIFEST_INVALID").Message; !strings.Contains(message, "limits.manifest") {
			t.Errorf("a manifest: %s", message)
		}
		signature := put("/extensions/v2/"+f.registry+"/app/signatures/"+app.Digest.String(), 1<<20)
		if message := signature.refused(signature.StatusCode, "NAME_INVALID").Message; signature.StatusCode/100 != 4 || !strings.Contains(message, strconv.Itoa(64<<10)) {
			t.Errorf("a signature: %s, %s", signature.Status, message)
		}
	})
}
