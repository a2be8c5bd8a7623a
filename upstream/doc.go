// Package upstream reads from the registries that TrustGate stands in front of.
//
// It authenticates, retries, follows redirects and lists referrers through
// oras-go, and adds what a gate needs of a client that a person does not: bytes
// are hashed here and never believed to be what a header says, everything that
// is held in memory has a bound, and a registry cannot make TrustGate send
// credentials or requests to places of its choosing.
//
// The package never decides whether anything is trusted, writes nothing to a
// registry but what a person attaches or a client pushes, and never puts
// credentials, tokens or signed URLs into an error.
//
// # Where requests may go
//
// A registry names three kinds of places to go to: the token server of its
// challenge, the targets of its redirects, and where a blob is to be sent. All
// are held to these rules, however the names resolve at the moment of dialing:
//
//   - Credentials go to the configured host, and to token servers of the same
//     site (registry-1.docker.io and auth.docker.io) or those that the
//     configuration names. Redirects to another origin lose them, and blobs
//     are sent to other origins without them.
//   - A registry that is reached over https cannot lead to plain http, unless
//     its route is insecure.
//   - Addresses of this machine and of private networks may be dialed only when
//     the registry was itself reached on such an address: a registry in a
//     private network may lead to other hosts of private networks, one on
//     loopback to these and to loopback, and a public one to public addresses
//     alone.
//   - Link-local, multicast and cloud metadata addresses are never dialed, but
//     for a registry that is configured to be there.
//
// Through an HTTP proxy the proxy resolves names, so only addresses that are
// written as such can be refused here; the proxy's own rules must do the rest.
//
// The first two rules add to those of oras-go 2.7.0, which refuses plain-http
// and unsafe token servers (CVE-2026-48978) and upload locations on other hosts
// (CVE-2026-50151; blobs that clients push are sent without it, see above), and
// drops credentials on redirects to another origin.
package upstream
