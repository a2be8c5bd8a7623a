package upstream

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/trustgate/trustgate/internal/reach"
)

// refusal is a request that TrustGate does not make, whoever asks for it.
type refusal struct {
	what, advice string
}

func (r *refusal) Error() string { return r.what }

// egress is the innermost transport: whatever retries, redirects and challenges
// lead to passes through it.
type egress struct {
	base     *http.Transport
	patient  *http.Transport // for content on its way in: a registry may think long about a blob
	upstream *url.URL
	insecure bool
	tokens   []string // hosts that may be sent credentials beside the upstream's, in lower case
	proxy    func(*url.URL) (*url.URL, error)
	proxies  map[string]bool // host:port of the environment's proxies

	// reached is the reach of the address that the upstream answered from.
	reached atomic.Int32
}

// RoundTrip implements http.RoundTripper.
func (e *egress) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := e.check(req); err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	base := e.base
	if carriesContent(req.Context()) {
		base = e.patient
	}
	if !e.isUpstream(req.URL) || e.proxied(req.URL) {
		return base.RoundTrip(req)
	}
	// Only an address that has answered, and with a certificate of the
	// upstream's name, widens what the upstream may lead to. An address that
	// DNS merely names does not.
	var from net.Addr
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { from = info.Conn.RemoteAddr() },
	})
	resp, err := base.RoundTrip(req.WithContext(ctx))
	if err == nil {
		if tcp, ok := from.(*net.TCPAddr); ok {
			e.reached.Store(int32(reach.Of(tcp.AddrPort().Addr())))
		}
		resp.Request = req
	}
	return resp, err
}

func (e *egress) check(req *http.Request) error {
	u := req.URL
	if e.isUpstream(u) {
		return nil
	}
	host := u.Hostname()
	if u.Scheme != "https" && !e.insecure {
		return &refusal{
			fmt.Sprintf("the registry leads to %s://%s, which is not https", clip(u.Scheme, 20), clip(u.Host, 255)),
			"mark the route insecure if that is meant to be",
		}
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if err := e.checkAddr(addr); err != nil {
			return err
		}
	}
	carries := req.Header.Get("Authorization") != "" || (req.Body != nil && req.Body != http.NoBody)
	// What is pushed goes where the registry wants it, without credentials. A
	// token server is never asked by these methods.
	pushes := carriesContent(req.Context()) && (req.Method == http.MethodPatch || req.Method == http.MethodPut) && req.Header.Get("Authorization") == ""
	if carries && !pushes && !e.isTokenServer(u) {
		return &refusal{
			fmt.Sprintf("the registry names %s as its token server, which is not of its site and is not sent credentials", clip(u.Host, 255)),
			"add that host to the route's token hosts if it is right",
		}
	}
	return nil
}

func (e *egress) isUpstream(u *url.URL) bool {
	return strings.EqualFold(u.Scheme, e.upstream.Scheme) && reach.HostPort(u) == reach.HostPort(e.upstream)
}

// isTokenServer says whether u may be sent the route's credentials.
func (e *egress) isTokenServer(u *url.URL) bool {
	host, up := strings.ToLower(u.Hostname()), strings.ToLower(e.upstream.Hostname())
	if host == up || slices.Contains(e.tokens, host) || slices.Contains(e.tokens, reach.HostPort(u)) {
		return true
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	// A site is what one party registered: a domain right below a public suffix.
	site, err := publicsuffix.EffectiveTLDPlusOne(up)
	return err == nil && (host == site || strings.HasSuffix(host, "."+site))
}

func (e *egress) proxied(u *url.URL) bool {
	via, err := e.proxy(u)
	return err == nil && via != nil
}

// dial connects to addr, a host and port. What the configuration and the
// environment name may be anywhere.
func (e *egress) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	if named := strings.ToLower(addr); named != reach.HostPort(e.upstream) && !e.proxies[named] {
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return &refusal{what: fmt.Sprintf("%q is not an address", address)}
			}
			return e.checkAddr(to.Addr())
		}
	}
	return dialer.DialContext(ctx, network, addr)
}

func (e *egress) checkAddr(addr netip.Addr) error {
	if to := reach.Of(addr); to > reach.Reach(e.reached.Load()) || to == reach.Nowhere {
		return &refusal{
			fmt.Sprintf("the registry leads to %s, %s", addr, to),
			"a registry may lead there only when it is itself on such an address",
		}
	}
	return nil
}
