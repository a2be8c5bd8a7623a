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
)

// What addresses mean, and what a registry on one of them may lead to, cannot be
// seen from outside on a machine that has but a few of them.
func TestReach(t *testing.T) {
	for want, addresses := range map[reach][]string{
		public: {
			"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
			"169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255", "192.0.1.0", "192.167.255.255", "192.169.0.0",
			"198.17.255.255", "198.20.0.0", "223.255.255.255",
			"2606:4700::1111", "2001:db8::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
		},
		private: {
			"10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255", "198.18.0.1", "198.19.255.255",
			"fc00::1", "fdff::1", "fec0::1", "feff::1", "64:ff9b:1::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1",
		},
		loopback: {
			"127.0.0.1", "127.0.0.2", "127.255.255.255", "::1", "::1%lo", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1",
		},
		nowhere: {
			"0.0.0.0", "0.1.2.3", "100.100.100.200", "168.63.129.16", "169.254.0.0", "169.254.169.254", "169.254.255.255", "192.0.0.192",
			"224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
			"::", "::2", "::127.0.0.1", "::8.8.8.8", "fe80::1", "fe80::1%eth0", "febf::1", "ff02::1", "ff0e::1", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
			"::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
		},
	} {
		for _, address := range addresses {
			if got := reachOf(netip.MustParseAddr(address)); got != want {
				t.Errorf("%s is %s, not %s", address, got, want)
			}
		}
	}
}

func TestWhereRegistriesMayLead(t *testing.T) {
	addresses := map[reach]netip.Addr{
		public: netip.MustParseAddr("8.8.8.8"), private: netip.MustParseAddr("10.0.0.1"),
		loopback: netip.MustParseAddr("127.0.0.1"), nowhere: netip.MustParseAddr("169.254.169.254"),
	}
	for from, allowed := range map[reach][]reach{
		public:   {public},
		private:  {public, private},
		loopback: {public, private, loopback},
		nowhere:  {public, private, loopback}, // a registry that is configured to be there
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

func contains(list []reach, r reach) bool {
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
		reached                   reach
		refused                   bool
	}{
		{"the upstream", "https://LOCALHOST:" + port, "", "localhost:" + port, public, false},
		{"the proxy", "https://registry.example.com", "localhost:" + port, "localhost:" + port, public, false},
		{"a name that the registry leads to", "https://registry.example.com", "", "localhost:" + port, public, true},
		{"an address that the registry leads to", "https://registry.example.com", "", "127.0.0.1:" + port, public, true},
		{"a private registry's name", "https://registry.example.com", "", "localhost:" + port, private, true},
		{"a neighbour's name", "https://registry.example.com", "", "localhost:" + port, loopback, false},
		{"another port than the upstream's", "https://localhost:1", "", "localhost:" + port, public, true},
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
		if got := hostPort(u); got != want {
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
