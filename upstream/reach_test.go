package upstream

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/trustgate/trustgate/internal/reach"
)

// What a registry on one kind of address may lead to cannot be seen from outside
// on a machine that has but a few of them.
func TestWhereRegistriesMayLead(t *testing.T) {
	addresses := map[reach.Reach]netip.Addr{
		reach.Public: netip.MustParseAddr("8.8.8.8"), reach.Private: netip.MustParseAddr("10.0.0.1"),
		reach.Loopback: netip.MustParseAddr("127.0.0.1"), reach.Nowhere: netip.MustParseAddr("169.254.169.254"),
	}
	for from, allowed := range map[reach.Reach][]reach.Reach{
		reach.Public:   {reach.Public},
		reach.Private:  {reach.Public, reach.Private},
		reach.Loopback: {reach.Public, reach.Private, reach.Loopback},
		reach.Nowhere:  {reach.Public, reach.Private, reach.Loopback}, // a registry that is configured to be there
	} {
		e := &egress{upstream: &url.URL{Scheme: "https", Host: "registry.example.com"}}
		e.reached.Store(int32(from))
		for to, addr := range addresses {
			err := e.checkAddr(addr)
			var refused *refusal
			switch may := contains(allowed, to); {
			case may && err != nil:
				t.Errorf("%s may not lead to %s: %v", from, to, err)
			case !may && !errors.As(err, &refused):
				t.Errorf("%s may lead to %s: %v", from, to, err)
			}
		}
	}
}

func contains(list []reach.Reach, r reach.Reach) bool {
	for _, one := range list {
		if one == r {
			return true
		}
	}
	return false
}

// What the configuration and the environment name is dialed wherever it is; what
// the registry names is judged by the address that the name has when it is
// dialed.
func TestDial(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, upstream, proxy, to string
		reached                   reach.Reach
		refused                   bool
	}{
		{"the upstream", "https://LOCALHOST:" + port, "", "localhost:" + port, reach.Public, false},
		{"the proxy", "https://registry.example.com", "localhost:" + port, "localhost:" + port, reach.Public, false},
		{"a name that the registry leads to", "https://registry.example.com", "", "localhost:" + port, reach.Public, true},
		{"an address that the registry leads to", "https://registry.example.com", "", "127.0.0.1:" + port, reach.Public, true},
		{"a reach.Private registry's name", "https://registry.example.com", "", "localhost:" + port, reach.Private, true},
		{"a neighbour's name", "https://registry.example.com", "", "localhost:" + port, reach.Loopback, false},
		{"another port than the upstream's", "https://localhost:1", "", "localhost:" + port, reach.Public, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u, err := url.Parse(tc.upstream)
			if err != nil {
				t.Fatal(err)
			}
			e := &egress{upstream: u, proxies: map[string]bool{tc.proxy: true}}
			e.reached.Store(int32(tc.reached))
			conn, err := e.dial(t.Context(), "tcp4", tc.to)
			if err == nil {
				conn.Close()
			}
			var refused *refusal
			if errors.As(err, &refused) != tc.refused || (!tc.refused && err != nil) {
				t.Errorf("refused is %v: %v", !tc.refused, err)
			}
		})
	}
}

func TestHostPort(t *testing.T) {
	for from, want := range map[string]string{
		"https://Registry.Example.com": "registry.example.com:443",
		"HTTP://registry.example.com":  "registry.example.com:80",
		"http://registry.example.com:": "registry.example.com:80",
		"https://[2001:DB8::1]:5000":   "[2001:db8::1]:5000",
		"socks5://proxy.example.com":   "proxy.example.com:1080",
		"socks5h://proxy.example.com":  "proxy.example.com:1080",
	} {
		u, err := url.Parse(from)
		if err != nil {
			t.Fatal(err)
		}
		if got := reach.HostPort(u); got != want {
			t.Errorf("%s is %s, not %s", from, got, want)
		}
	}
}

// Errors of networks that a test cannot bring about in time.
func TestConnectionFailures(t *testing.T) {
	late, cancel := context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	_, overdue := (&net.Dialer{Timeout: time.Nanosecond}).Dial("tcp", "127.0.0.1:1")
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"a connection refused":              {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, true},
		"a connection reset":                {&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, true},
		"a dial that took too long":         {overdue, true},
		"an end":                            {io.EOF, true},
		"an end in the middle":              {fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), true},
		"a name server that did not answer": {&net.OpError{Op: "dial", Err: &net.DNSError{IsTimeout: true, IsTemporary: true}}, true},
		"a name that is not":                {&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, false},
		"an address that is refused":        {&net.OpError{Op: "dial", Err: &refusal{what: "no"}}, false},
		"nobody waits":                      {context.Canceled, false},
		"the time is over":                  {late.Err(), false},
		"a certificate":                     {x509.UnknownAuthorityError{}, false},
		"something else":                    {errors.New("malformed HTTP response"), false},
	} {
		if tc.err == nil {
			t.Errorf("%s: no error", name)
		}
		if got := isConnectionFailure(tc.err); got != tc.want {
			t.Errorf("%s (%v): %v", name, tc.err, got)
		}
	}
}
