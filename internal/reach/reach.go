// Package reach tells how near an address is to this machine, so that a name
// that a stranger wrote cannot lead into a network that the stranger cannot
// reach.
//
// It classifies, and writes places the way in which they are dialed. Where a
// request may go is for whoever makes it, and must be asked for each address that
// is dialed, not for the name.
package reach

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Reach orders addresses by how near they are to this machine.
type Reach int32

const (
	Public   Reach = iota // the zero value
	Private               // private networks, shared address space
	Loopback              // this machine
	Nowhere               // link-local, multicast, metadata services: never led to
)

// String is how people are told.
func (r Reach) String() string {
	switch r {
	case Public:
		return "a public address"
	case Private:
		return "an address in a private network"
	case Loopback:
		return "an address of this machine"
	}
	return "a link-local or reserved address"
}

var (
	blocked = append(auth.DefaultBlockedRealmPrefixes(),
		netip.MustParsePrefix("192.0.0.0/24"), // protocol assignments, a metadata service among them
		netip.MustParsePrefix("240.0.0.0/4"),
		netip.MustParsePrefix("::/96"), // IPv4 in a form that was withdrawn
	)
	privates = append(auth.PrivateRealmPrefixes(),
		netip.MustParsePrefix("198.18.0.0/15"),  // benchmarks
		netip.MustParsePrefix("64:ff9b:1::/48"), // translation within a network
		netip.MustParsePrefix("fec0::/10"),      // site-local, withdrawn
	)
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
	sixToIV = netip.MustParsePrefix("2002::/16")
)

// Of classifies an address; one that an IPv6 address only carries counts as
// itself.
func Of(addr netip.Addr) Reach {
	addr = embedded(addr.WithZone("").Unmap())
	within := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	switch {
	case addr.IsLoopback():
		return Loopback
	case within(blocked) || addr.IsMulticast():
		return Nowhere
	case within(privates):
		return Private
	}
	return Public
}

// embedded is the IPv4 address that a translated IPv6 address leads to.
func embedded(addr netip.Addr) netip.Addr {
	if !addr.Is6() {
		return addr
	}
	b := addr.As16()
	switch {
	case nat64.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case sixToIV.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return addr
}

// HostPort is u's host and port in lower case, the port filled in.
func HostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		switch strings.ToLower(u.Scheme) {
		case "http":
			port = "80"
		case "git":
			port = "9418"
		case "socks5", "socks5h":
			port = "1080"
		default:
			port = "443"
		}
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// Proxies are the hosts and ports of the environment's proxies, which may be
// anywhere.
func Proxies(environment *httpproxy.Config) map[string]bool {
	proxies := map[string]bool{}
	for _, named := range []string{environment.HTTPProxy, environment.HTTPSProxy} {
		if u, err := url.Parse(named); err == nil && u.Host != "" {
			proxies[HostPort(u)] = true
		} else if u, err := url.Parse("http://" + named); err == nil && u.Host != "" {
			proxies[HostPort(u)] = true
		}
	}
	return proxies
}
