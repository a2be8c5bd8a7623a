// Package loopback finds addresses for servers that run as programs of their
// own, and so must be told where to listen before they do.
//
// It must never be used where a listener can be opened and handed on: an
// address is only a good guess until something listens there.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
)

// lowest is above the ports that well-known servers take.
const lowest = 10_000

var (
	mu   sync.Mutex
	next int
)

// Address returns host:port of a loopback address that nobody listens on, and a
// different one each time.
//
// A port that the kernel chooses (":0") may be that of an outgoing connection a
// moment later, and the server that wanted it does not start. These lie below
// the range that the kernel chooses from.
func Address() (string, error) {
	below := ephemeral()
	if below <= lowest {
		return "", fmt.Errorf("the kernel gives outgoing connections any port from %d up: raise net.ipv4.ip_local_port_range above %d", below, lowest)
	}
	mu.Lock()
	defer mu.Unlock()
	for range below - lowest {
		if next++; next < lowest || next >= below {
			next = lowest + rand.IntN(below-lowest)
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(next))
		if listener, err := net.Listen("tcp", address); err == nil {
			return address, listener.Close()
		}
	}
	return "", errors.New("every loopback port is taken")
}

// ephemeral is the lowest port that the kernel gives an outgoing connection.
func ephemeral() int {
	const usual = 32_768
	raw, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return usual // another system; theirs are at least as high
	}
	var low, high int
	if _, err := fmt.Sscan(string(raw), &low, &high); err != nil {
		return usual
	}
	return low
}
