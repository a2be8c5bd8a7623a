package gittag

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/trustgate/trustgate/internal/reach"
)

// refusal is a connection that TrustGate does not make, whoever asks for it.
type refusal struct {
	what, advice string
}

func (r *refusal) Error() string { return r.what + "; " + r.advice }

// egress decides, when a connection is dialled, whether its address may be
// reached. The rule is that of package upstream: names are not believed, only
// the addresses that they lead to.
type egress struct {
	private bool
	proxy   func(*url.URL) (*url.URL, error)
	proxies map[string]bool // host:port of the environment's proxies
}

func newEgress(private bool) *egress {
	environment := httpproxy.FromEnvironment()
	e := &egress{private: private, proxy: environment.ProxyFunc(), proxies: reach.Proxies(environment)}
	return e
}

func (e *egress) transport(config *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                  func(req *http.Request) (*url.URL, error) { return e.proxy(req.URL) },
		DialContext:            e.dial,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    10 * time.Second,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		ForceAttemptHTTP2:      true,
		// What a server compresses would not count against MaxBytes as it is.
		DisableCompression: true,
	}
}

// dial connects to addr, a host and port. What the environment names as its
// proxy may be anywhere.
func (e *egress) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	if !e.proxies[strings.ToLower(addr)] {
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return &refusal{fmt.Sprintf("%q is not an address", address), "use TCP"}
			}
			return e.checkAddr(to.Addr())
		}
	}
	return dialer.DialContext(ctx, network, addr)
}

// checkHost refuses an address that the URL itself names, which a proxy would
// dial for us.
func (e *egress) checkHost(u *url.URL) error {
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		return e.checkAddr(addr)
	}
	return nil
}

func (e *egress) checkAddr(addr netip.Addr) error {
	to := reach.Of(addr)
	switch {
	case to == reach.Public, to != reach.Nowhere && e.private:
		return nil
	case to == reach.Nowhere:
		return &refusal{fmt.Sprintf("it leads to %s, %s", addr, to), "TrustGate never asks there"}
	}
	return &refusal{fmt.Sprintf("it leads to %s, %s", addr, to), "allow private git hosts if that is meant to be"}
}
