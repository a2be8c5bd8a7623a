package upstream

import (
	"context"
	"net"
)

// DialWith makes the connections of r with dial. What dial returns counts as a
// public address.
func DialWith(r *Registry, dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	r.egress.base.DialContext = dial
}
