package e2e

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// faulty is a reverse proxy before a real registry. What passes through it can
// be held, cut or changed, and it can be switched off.
type faulty struct {
	server *httptest.Server
	hits   atomic.Int64 // requests that reached it

	mu     sync.Mutex
	faults map[string]fault // by the end of the request path
	asked  map[string]int   // by method and path
}

// fault wraps one response body.
type fault func(body io.ReadCloser) io.ReadCloser

// startFaulty puts the proxy before a registry. It stops with the test.
func startFaulty(t testing.TB, before *registry) *faulty {
	t.Helper()
	f := &faulty{faults: map[string]fault{}, asked: map[string]int{}}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: before.addr})
		},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // the faults are meant
		ModifyResponse: func(resp *http.Response) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			for end, wrap := range f.faults {
				if resp.Request.Method == http.MethodGet && strings.HasSuffix(resp.Request.URL.Path, end) {
					resp.Body = wrap(resp.Body)
				}
			}
			return nil
		},
	}
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.hits.Add(1)
		f.mu.Lock()
		f.asked[r.Method+" "+r.URL.Path]++
		f.mu.Unlock()
		// A body that is cut short makes the proxy abort the connection, which
		// is the fault that is wanted.
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(f.server.Close)
	return f
}

func (f *faulty) url() string { return f.server.URL }

// fail makes every GET whose path ends so pass through the fault.
func (f *faulty) fail(end string, with fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[end] = with
}

// count is how often something was asked for.
func (f *faulty) count(method, path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[method+" "+path]
}

// heal lets everything pass as it is.
func (f *faulty) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.faults)
}

// off is a registry that is not there: connections are refused.
func (f *faulty) off() { f.server.CloseClientConnections(); f.server.Close() }

// hold lets n bytes pass, closes reached and then waits for release.
func hold(n int64, reached chan<- struct{}, release <-chan struct{}) fault {
	var once sync.Once
	return func(body io.ReadCloser) io.ReadCloser {
		closed := make(chan struct{})
		return &heldBody{ReadCloser: body, left: n, release: release, closed: closed, reached: func() { once.Do(func() { close(reached) }) }}
	}
}

type heldBody struct {
	io.ReadCloser
	left    int64
	reached func()
	release <-chan struct{}
	closed  chan struct{}
	once    sync.Once
}

func (b *heldBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		b.reached()
		select {
		case <-b.release:
		case <-b.closed:
			return 0, io.ErrUnexpectedEOF
		}
		return b.ReadCloser.Read(p)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

func (b *heldBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.ReadCloser.Close()
}

// cut ends the connection after n bytes, with the announced length unmet.
func cut(n int64) fault {
	return func(body io.ReadCloser) io.ReadCloser {
		return struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(body, n), brokenReader{}), body}
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// flip changes the byte at an offset and leaves the length as it was.
func flip(offset int64) fault {
	return func(body io.ReadCloser) io.ReadCloser {
		return &flippedBody{ReadCloser: body, at: offset}
	}
}

type flippedBody struct {
	io.ReadCloser
	at int64 // from the current position; negative once it has passed
}

func (b *flippedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.at >= 0 && b.at < int64(n) {
		p[b.at] ^= 0xff
	}
	b.at -= int64(n)
	return n, err
}

// swap replaces every occurrence of one text by another of the same length, so
// that what arrives is as well-formed as what was sent.
func swap(old, with string) fault {
	return func(body io.ReadCloser) io.ReadCloser {
		raw, err := io.ReadAll(body)
		if err != nil {
			raw = nil
		}
		return struct {
			io.Reader
			io.Closer
		}{bytes.NewReader(bytes.ReplaceAll(raw, []byte(old), []byte(with))), body}
	}
}
