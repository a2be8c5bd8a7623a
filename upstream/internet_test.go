package upstream_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/trustgate/trustgate/upstream"
)

// internet is hosts by name. They are reached as in many a company: through the
// proxy that the environment names, with certificates of a CA that the route
// trusts.
type internet struct {
	proxy string // host:port
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
	inner *doorstep // connections through CONNECT

	mu        sync.Mutex
	hosts     map[string]http.Handler
	connected []string // host:port, what CONNECT was asked for
	forwarded []string // URLs, what was asked for in the clear
}

// newInternet starts the proxy and puts it into the environment.
func newInternet(t *testing.T) *internet {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the test's CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	i := &internet{key: key, hosts: map[string]http.Handler{}, inner: newDoorstep()}
	if i.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler: http.HandlerFunc(i.dispatch), ErrorLog: quiet, ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return i.certificate(hello.ServerName) }},
	}
	go func() { _ = server.ServeTLS(i.inner, "", "") }()
	t.Cleanup(func() { server.Close() })
	i.proxy = serve(t, http.HandlerFunc(i.relay))
	i.environment(t, "http://"+i.proxy)
	return i
}

// environment names the proxy, and nothing that goes past it.
func (i *internet) environment(t *testing.T, proxy string) {
	for _, key := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(key, proxy)
	}
	t.Setenv("NO_PROXY", "")
	t.Setenv("no_proxy", "")
}

func (i *internet) caPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.ca.Raw})
}

func (i *internet) certificate(name string) (*tls.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, i.ca, i.key.Public(), i.key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: i.key}, err
}

// host opens a host. It answers on every port, over http and https.
func (i *internet) host(name string, handler http.Handler) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.hosts[name] = handler
}

// reached is what the proxy was asked for: "host:443" over TLS, URLs otherwise.
func (i *internet) reached() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Concat(i.connected, i.forwarded)
}

func (i *internet) find(hostport string) http.Handler {
	name, _, err := net.SplitHostPort(hostport)
	if err != nil {
		name = hostport
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.hosts[name]
}

func (i *internet) dispatch(w http.ResponseWriter, r *http.Request) {
	if handler := i.find(r.Host); handler != nil {
		handler.ServeHTTP(w, r)
		return
	}
	http.Error(w, "no such host", http.StatusBadGateway)
}

// relay is the proxy.
func (i *internet) relay(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		i.mu.Lock()
		i.forwarded = append(i.forwarded, r.URL.String())
		i.mu.Unlock()
		i.dispatch(w, r)
		return
	}
	i.mu.Lock()
	i.connected = append(i.connected, r.Host)
	i.mu.Unlock()
	if i.find(r.Host) == nil {
		http.Error(w, "no such host", http.StatusBadGateway)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		conn.Close()
		return
	}
	i.inner.enter(&readAhead{conn, buffered.Reader})
}

// readAhead is a connection whose first bytes were read already.
type readAhead struct {
	net.Conn
	from *bufio.Reader
}

func (c *readAhead) Read(b []byte) (int, error) { return c.from.Read(b) }

// visit is the options of a client of the registry at the URL.
func (i *internet) visit(registry, url string) upstream.Options {
	return upstream.Options{Registry: registry, URL: url, CA: i.caPEM()}
}

// doorstep is a net.Listener for connections that come from within.
type doorstep struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newDoorstep() *doorstep {
	d := &doorstep{conns: make(chan net.Conn), closed: make(chan struct{})}
	d.close = sync.OnceFunc(func() { close(d.closed) })
	return d
}

func (d *doorstep) enter(conn net.Conn) {
	select {
	case d.conns <- conn:
	case <-d.closed:
		conn.Close()
	}
}

// Accept implements net.Listener.
func (d *doorstep) Accept() (net.Conn, error) {
	select {
	case conn := <-d.conns:
		return conn, nil
	case <-d.closed:
		return nil, errors.Join(net.ErrClosed, http.ErrServerClosed)
	}
}

// Close implements net.Listener.
func (d *doorstep) Close() error {
	d.close()
	return nil
}

// Addr implements net.Listener.
func (d *doorstep) Addr() net.Addr { return &net.TCPAddr{} }
