package upstream_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

// within runs a test whose time passes at once. The registry is at the other
// end of pipes, since time does not pass while a socket is waited for.
func within(t *testing.T, handler http.HandlerFunc, change func(*upstream.Options), test func(*testing.T, *upstream.Repository)) {
	t.Helper()
	for _, key := range []string{"HTTP_PROXY", "http_proxy"} {
		t.Setenv(key, "")
	}
	synctest.Test(t, func(t *testing.T) {
		door := newDoorstep()
		server := &http.Server{Handler: handler, ErrorLog: quiet, ReadHeaderTimeout: time.Hour}
		go func() { _ = server.Serve(door) }()
		r := open(t, "registry.example.com", change)
		upstream.DialWith(r, func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go door.enter(far)
			return near, nil
		})
		test(t, repository(t, r))
		r.Close()
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// content is a manifest and its digest.
var content = []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
	`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`)

func manifest(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", oci.MediaTypeImageManifest)
	_, _ = w.Write(content)
}

func took(t *testing.T, since time.Time, atLeast, atMost time.Duration) {
	t.Helper()
	if d := time.Since(since); d < atLeast || d > atMost {
		t.Errorf("took %v, not %v to %v", d, atLeast, atMost)
	}
}

func TestPatience(t *testing.T) {
	t.Run("without Retry-After the waits grow, about four seconds in all", func(t *testing.T) {
		times := make(chan time.Time, 10)
		within(t, func(w http.ResponseWriter, r *http.Request) {
			times <- time.Now()
			w.WriteHeader(http.StatusBadGateway)
		}, nil, func(t *testing.T, p *upstream.Repository) {
			_, err := p.Manifest(t.Context(), "1")
			wants(t, err, upstream.ErrUnavailable, true)
			close(times)
			var at []time.Time
			for one := range times {
				at = append(at, one)
			}
			if len(at) != 5 {
				t.Fatalf("asked %d times", len(at))
			}
			for k, wait := range []time.Duration{250, 500, 1000, 2000} {
				wait *= time.Millisecond
				if d := at[k+1].Sub(at[k]); d < wait*7/10 || d > wait*13/10 {
					t.Errorf("wait %d was %v, not about %v", k, d, wait)
				}
			}
		})
	})
	for name, header := range map[string]func() string{
		"in seconds": func() string { return "20" },
		"as a date":  func() string { return time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat) },
	} {
		t.Run("Retry-After "+name+" is waited for", func(t *testing.T) {
			var asked atomic.Int32
			within(t, func(w http.ResponseWriter, r *http.Request) {
				if asked.Add(1) > 1 {
					manifest(w, r)
					return
				}
				w.Header().Set("Retry-After", header())
				w.WriteHeader(http.StatusTooManyRequests)
			}, nil, func(t *testing.T, p *upstream.Repository) {
				start := time.Now()
				if _, err := p.Manifest(t.Context(), "1"); err != nil || asked.Load() != 2 {
					t.Errorf("asked %d times, %v", asked.Load(), err)
				}
				took(t, start, 20*time.Second, 20*time.Second)
			})
		})
	}
	for seconds, want := range map[string]int{"30": 2, "31": 1} {
		t.Run("a wait of "+seconds+" seconds", func(t *testing.T) {
			var asked atomic.Int32
			within(t, func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				status(http.StatusServiceUnavailable, seconds)(w, r)
			}, nil, func(t *testing.T, p *upstream.Repository) {
				ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
				defer cancel()
				_, err := p.Manifest(ctx, "1")
				wants(t, err, upstream.ErrUnavailable, true)
				if asked.Load() != int32(want) {
					t.Errorf("asked %d times, not %d", asked.Load(), want)
				}
			})
		})
	}
	t.Run("a wait beyond the caller's deadline is not begun", func(t *testing.T) {
		within(t, status(http.StatusServiceUnavailable, "20"), nil, func(t *testing.T, p *upstream.Repository) {
			ctx, cancel := context.WithTimeout(t.Context(), 19*time.Second)
			defer cancel()
			start := time.Now()
			_, err := p.Manifest(ctx, "1")
			wants(t, err, upstream.ErrUnavailable, true)
			says(t, err, "503")
			took(t, start, 0, 0)
		})
	})
	t.Run("a wait ends when nobody waits for the answer", func(t *testing.T) {
		within(t, status(http.StatusServiceUnavailable, "20"), nil, func(t *testing.T, p *upstream.Repository) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(5*time.Second, cancel)
			start := time.Now()
			_, err := p.Manifest(ctx, "1")
			wants(t, err, context.Canceled, true)
			took(t, start, 5*time.Second, 5*time.Second)
		})
	})
	t.Run("a connection that breaks is tried three times within a second", func(t *testing.T) {
		var asked atomic.Int32
		within(t, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			panic(http.ErrAbortHandler)
		}, nil, func(t *testing.T, p *upstream.Repository) {
			start := time.Now()
			_, err := p.Manifest(t.Context(), "1")
			wants(t, err, upstream.ErrUnavailable, true)
			took(t, start, 500*time.Millisecond, time.Second)
			if asked.Load() != 3 {
				t.Errorf("asked %d times", asked.Load())
			}
		})
	})
	t.Run("a registry that thinks for half a minute is given up", func(t *testing.T) {
		var asked atomic.Int32
		within(t, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			<-r.Context().Done()
		}, nil, func(t *testing.T, p *upstream.Repository) {
			start := time.Now()
			_, err := p.Manifest(t.Context(), "1")
			wants(t, err, upstream.ErrUnavailable, true)
			says(t, err, "no answer in time")
			took(t, start, 30*time.Second, 30*time.Second)
			if asked.Load() != 1 {
				t.Errorf("asked %d times", asked.Load())
			}
		})
	})
	t.Run("a question that takes a minute is given up", func(t *testing.T) {
		within(t, drip(content), nil, func(t *testing.T, p *upstream.Repository) {
			start := time.Now()
			_, err := p.Manifest(t.Context(), "1")
			wants(t, err, upstream.ErrUnavailable, true)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("not a deadline: %v", err)
			}
			took(t, start, time.Minute, time.Minute)
		})
	})
	t.Run("the caller's deadline holds in place of the minute", func(t *testing.T) {
		within(t, drip(content), nil, func(t *testing.T, p *upstream.Repository) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			if _, err := p.Manifest(ctx, "1"); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("a reason for giving up is passed on", func(t *testing.T) {
		within(t, drip(content), nil, func(t *testing.T, p *upstream.Repository) {
			reason := errors.New("the cache is closed")
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(5*time.Second, func() { cancel(reason) })
			_, err := p.Manifest(ctx, "1")
			wants(t, err, upstream.ErrUnavailable, true)
			if !errors.Is(err, reason) {
				t.Errorf("not for that reason: %v", err)
			}
		})
	})
}

// drip sends a manifest, a byte a second.
func drip(raw []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", oci.MediaTypeImageManifest)
		w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
		for k := range raw {
			if _, err := w.Write(raw[k : k+1]); err != nil {
				return
			}
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}
}

func TestBlobsThatStandStill(t *testing.T) {
	d := digest.FromString("a layer")
	t.Run("a body from which nothing comes for a minute has failed", func(t *testing.T) {
		within(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "01234")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, nil, func(t *testing.T, p *upstream.Repository) {
			start := time.Now()
			body, size, err := p.Blob(t.Context(), d, 0)
			if err != nil || size != 10 {
				t.Fatalf("%d bytes, %v", size, err)
			}
			defer body.Close()
			raw, err := io.ReadAll(body)
			wants(t, err, upstream.ErrUnavailable, true)
			says(t, err, "nothing for 1m", d.String())
			took(t, start, time.Minute, time.Minute)
			if string(raw) != "01234" {
				t.Errorf("read %q", raw)
			}
		})
	})
	t.Run("a slow body is read for as long as it takes", func(t *testing.T) {
		within(t, func(w http.ResponseWriter, r *http.Request) {
			for range 10 {
				_, _ = io.WriteString(w, ".")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(59 * time.Second)
			}
		}, nil, func(t *testing.T, p *upstream.Repository) {
			body, _, err := p.Blob(t.Context(), d, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			if raw, err := io.ReadAll(body); err != nil || string(raw) != ".........." {
				t.Errorf("read %q, %v", raw, err)
			}
		})
	})
	t.Run("a slow reader is not the registry's fault", func(t *testing.T) {
		within(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(make([]byte, 1<<20)) // more than is held on the way
		}, nil, func(t *testing.T, p *upstream.Repository) {
			body, _, err := p.Blob(t.Context(), d, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			for k := range 4 {
				if _, err := io.ReadFull(body, make([]byte, 1<<18)); err != nil {
					t.Fatalf("part %d: %v", k, err)
				}
				time.Sleep(10 * time.Minute)
			}
		})
	})
	t.Run("an error document that stands still is not waited for", func(t *testing.T) {
		within(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"errors":[`)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, nil, func(t *testing.T, p *upstream.Repository) {
			start := time.Now()
			_, _, err := p.Blob(t.Context(), d, 0)
			wants(t, err, upstream.ErrUnauthorized, false)
			took(t, start, time.Minute, time.Minute)
		})
	})
	t.Run("a body ends when nobody waits for it", func(t *testing.T) {
		within(t, drip(content), nil, func(t *testing.T, p *upstream.Repository) {
			ctx, cancel := context.WithCancel(t.Context())
			body, _, err := p.Blob(ctx, d, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			time.AfterFunc(5*time.Second, cancel)
			_, err = io.ReadAll(body)
			wants(t, err, context.Canceled, true)
		})
	})
}

func TestSlots(t *testing.T) {
	var (
		release   chan struct{}
		mu        sync.Mutex
		now, most int
	)
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		now += n
		most = max(most, now)
	}
	within(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			_, _ = io.WriteString(w, "a layer")
			return
		}
		count(1)
		defer count(-1)
		<-release
		manifest(w, r)
	}, func(o *upstream.Options) { o.Concurrency = 2 }, func(t *testing.T, p *upstream.Repository) {
		release = make(chan struct{})
		var questions sync.WaitGroup
		for range 5 {
			questions.Go(func() {
				if _, err := p.Manifest(t.Context(), "1"); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		mu.Lock()
		if now != 2 {
			t.Errorf("%d questions at once, not 2", now)
		}
		mu.Unlock()

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Tags(ctx, 0, "")
		wants(t, err, upstream.ErrUnavailable, true)
		says(t, err, "waiting for a turn", "no answer in time")

		left, leave := context.WithCancel(t.Context())
		leave()
		_, err = p.Referrers(left, digest.FromBytes(content), "")
		wants(t, err, context.Canceled, true)

		body, _, err := p.Blob(t.Context(), digest.FromString("a layer"), 0)
		if err != nil {
			t.Errorf("a blob waited for a turn: %v", err)
		} else {
			body.Close()
		}
		close(release)
		questions.Wait()
		if most != 2 {
			t.Errorf("%d questions at once, not 2", most)
		}
	})
}

// Whatever asks twice gives its turn back in between.
func TestOneSlotIsEnough(t *testing.T) {
	h := openHarbour(t)
	h.behave(answer(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead && strings.HasSuffix(r.URL.Path, "/manifests/1") {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return true
		}
		if strings.HasSuffix(r.URL.Path, "/manifests/2") {
			http.NotFound(w, r) // no registry's document, so it is asked for /v2/
			return true
		}
		return false
	}))
	p := app(t, h.Addr, func(o *upstream.Options) { o.Concurrency = 1 })
	for range 2 {
		resolves(t, p, oci.Descriptor{Digest: h.image.Digest})
		if list, err := p.Referrers(t.Context(), h.image.Digest, ""); err != nil || len(list) != 0 {
			t.Errorf("listed %v, %v", list, err)
		}
		_, err := p.SignatureExtension(t.Context(), h.image.Digest)
		if !errors.Is(err, oci.ErrNotFound) {
			t.Error(err)
		}
		_, err = p.Manifest(t.Context(), "2")
		wants(t, err, oci.ErrNotFound, false)
	}
}
