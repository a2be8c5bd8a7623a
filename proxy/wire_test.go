package proxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/trustgate/trustgate/internal/stage"
)

// wire is the network between the gate and its registry: it can be unplugged,
// and so can the name service.
type wire struct {
	testing.TB
	to, addr string // addr stays the same while it is unplugged
	name     string // and what the gate calls it

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
}

func lay(s *stage.Stage) *wire {
	s.Helper()
	w := &wire{TB: s.TB, to: s.Registry.Addr, addr: "127.0.0.1:0", conns: map[net.Conn]bool{}}
	w.plug()
	_, port, err := net.SplitHostPort(w.addr)
	s.Must(err)
	host := "registry-" + port + zone // a name of its own, whose answers it can change
	w.name = host + ":" + port
	resolves(host, dnsmessage.RCodeSuccess)
	s.Cleanup(w.unplug)
	return w
}

// plug lets connections through.
func (w *wire) plug() {
	w.Helper()
	listener, err := net.Listen("tcp", w.addr)
	if err != nil {
		w.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listener, w.addr = listener, listener.Addr().String()
	go w.carry(listener)
}

// unplug refuses connections and resets those that there are.
func (w *wire) unplug() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listener.Close()
	w.resetLocked()
}

func (w *wire) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resetLocked()
}

func (w *wire) resetLocked() {
	for conn := range w.conns {
		reset(conn)
		delete(w.conns, conn)
	}
}

// reset sends RST in place of FIN.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

func (w *wire) carry(listener net.Listener) {
	for {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.to)
		if err != nil {
			near.Close()
			continue
		}
		w.mu.Lock()
		w.conns[near], w.conns[far] = true, true
		w.mu.Unlock()
		pass := func(to, from net.Conn) {
			_, err := io.Copy(to, from)
			if errors.Is(err, net.ErrClosed) || err != nil {
				reset(to)
			}
			to.Close()
			w.mu.Lock()
			delete(w.conns, to)
			w.mu.Unlock()
		}
		go pass(near, far)
		go pass(far, near)
	}
}

// zone is below which names of these tests lie.
const zone = ".faults.test"

// answers is what the name service of this process says.
var answers struct {
	sync.Mutex
	codes map[string]dnsmessage.RCode
	asked atomic.Int64
}

// resolves has the name lead to this machine, or be answered with an error.
func resolves(host string, code dnsmessage.RCode) {
	answers.Lock()
	defer answers.Unlock()
	if answers.codes == nil {
		answers.codes = map[string]dnsmessage.RCode{}
	}
	answers.codes[host+"."] = code
}

// The resolver is set before any test runs; numbers and names in /etc/hosts do
// not come here.
func init() {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe() // a stream: each message has its length before it
		go nameService(far)
		return near, nil
	}}
}

// https://www.rfc-editor.org/rfc/rfc1035#section-4.2.2
func nameService(conn net.Conn) {
	defer conn.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		question := make([]byte, int(size[0])<<8|int(size[1]))
		if _, err := io.ReadFull(conn, question); err != nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(question); err != nil || len(m.Questions) == 0 {
			return
		}
		answers.asked.Add(1)
		q := m.Questions[0]
		answers.Lock()
		code, known := answers.codes[strings.ToLower(q.Name.String())]
		answers.Unlock()
		if !known {
			code = dnsmessage.RCodeNameError
		}
		m.Response, m.RCode, m.Additionals = true, code, nil
		if code == dnsmessage.RCodeSuccess && q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
				Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
			}}
		}
		raw, err := m.Pack()
		if err != nil {
			return
		}
		if _, err := conn.Write(append([]byte{byte(len(raw) >> 8), byte(len(raw))}, raw...)); err != nil {
			return
		}
	}
}
