package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Connections bounds how many clients are connected at once, and how long one
// of them may keep an answer waiting.
type Connections struct {
	// Limit is how many connections are served. A quarter more are accepted to
	// be told so; who comes then waits in the kernel's queue.
	Limit int

	// Patience is how long a client may take over each MiB of an answer; a
	// minute when zero.
	Patience time.Duration

	slots chan struct{}
	spare chan struct{}
}

// Attach puts the bounds upon a server that has not begun and upon its
// listener, which the server must be given in place of the original.
func (c *Connections) Attach(server *http.Server, listener net.Listener) net.Listener {
	c.slots = make(chan struct{}, c.Limit)
	c.spare = make(chan struct{}, max(c.Limit/4, 16))
	before := server.ConnContext
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if before != nil {
			ctx = before(ctx, conn)
		}
		wrapped, encrypted := conn.(*tls.Conn)
		if encrypted {
			conn = wrapped.NetConn()
		}
		bounded, ok := conn.(*connection)
		if ok && !encrypted {
			ctx = context.WithValue(ctx, plainKey{}, bounded)
		}
		if ok && bounded.spare {
			ctx = context.WithValue(ctx, spareKey{}, c.Limit)
		}
		return ctx
	}
	if c.Patience == 0 {
		c.Patience = steady
	}
	server.Handler = c.steadily(turnAway(server.Handler))
	// A deadline resets a stream of HTTP/2, for which the client must still read.
	if server.HTTP2 == nil {
		server.HTTP2 = &http.HTTP2Config{}
	}
	server.HTTP2.WriteByteTimeout = c.Patience
	return &boundedListener{Listener: listener, c: c, closed: make(chan struct{})}
}

type (
	spareKey struct{}
	plainKey struct{}
)

// turnAway answers who is connected beyond the limit.
func turnAway(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit, beyond := r.Context().Value(spareKey{}).(int)
		if !beyond {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Retry-After", retryAfter)
		w.Header().Set("Connection", "close")
		writeError(w, r, http.StatusServiceUnavailable, codeTooManyRequests,
			"all "+strconv.Itoa(limit)+" connections of the gate are taken; try again, or raise limits.connections", "")
	})
}

type boundedListener struct {
	net.Listener
	c      *Connections
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	// A slot first, so that nothing is accepted that nobody can answer.
	var taken chan struct{}
	select {
	case l.c.slots <- struct{}{}:
		taken = l.c.slots
	default:
		select {
		case l.c.slots <- struct{}{}:
			taken = l.c.slots
		case l.c.spare <- struct{}{}:
			taken = l.c.spare
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-taken
		return nil, err
	}
	bounded := &connection{Conn: conn, spare: taken == l.c.spare}
	bounded.reads.arm, bounded.writes.arm = conn.SetReadDeadline, conn.SetWriteDeadline
	if bounded.spare {
		// Somebody may have left while this one was waited for.
		select {
		case l.c.slots <- struct{}{}:
			<-l.c.spare
			taken, bounded.spare = l.c.slots, false
		default:
		}
	}
	bounded.release = sync.OnceFunc(func() { <-taken })
	return bounded, nil
}

// Close implements net.Listener.
func (l *boundedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type connection struct {
	net.Conn
	spare   bool
	release func()

	reads, writes deadline

	gathered *bytes.Buffer // what waits for the rest of an answer of HTTP/1.1; mostly nil
}

var gathering = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// gather keeps what is written until send.
func (c *connection) gather() { c.gathered = gathering.Get().(*bytes.Buffer) }

// send writes what was gathered at once, or ends the connection: net/http, which
// takes it for written, would let another answer follow a part of this one.
func (c *connection) send() error {
	whole := c.gathered
	c.gathered = nil
	_, err := c.write(whole.Bytes())
	whole.Reset()
	gathering.Put(whole)
	if err != nil {
		c.Close()
	}
	return err
}

// Write implements net.Conn.
func (c *connection) Write(p []byte) (int, error) {
	if c.gathered != nil {
		return c.gathered.Write(p)
	}
	return c.write(p)
}

func (c *connection) write(p []byte) (int, error) {
	for sent := 0; ; {
		if err := c.writes.begin(); err != nil {
			return sent, err
		}
		n, err := c.Conn.Write(p[sent:])
		if sent += n; !c.writes.again(err) {
			return sent, err
		}
	}
}

// Read implements net.Conn.
func (c *connection) Read(p []byte) (int, error) {
	for {
		if err := c.reads.begin(); err != nil {
			return 0, err
		}
		if n, err := c.Conn.Read(p); !c.reads.again(err) {
			return n, err
		}
	}
}

// SetDeadline implements net.Conn.
func (c *connection) SetDeadline(t time.Time) error {
	return errors.Join(c.reads.set(t), c.writes.set(t))
}

// SetReadDeadline implements net.Conn.
func (c *connection) SetReadDeadline(t time.Time) error { return c.reads.set(t) }

// SetWriteDeadline implements net.Conn.
func (c *connection) SetWriteDeadline(t time.Time) error { return c.writes.set(t) }

// Close implements net.Conn.
func (c *connection) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// ReadFrom lets the kernel send files: net/http looks for it.
func (c *connection) ReadFrom(src io.Reader) (int64, error) {
	if err := c.writes.exact(); err != nil {
		return 0, err
	}
	defer c.writes.end()
	if direct, ok := c.Conn.(io.ReaderFrom); ok {
		return direct.ReadFrom(src)
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, src)
}

// CloseWrite lets net/http end an answer in an orderly way.
func (c *connection) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// atOnce is how much a client must take of an answer within its Patience.
const atOnce = 1 << 20

// steadily cuts off clients that do not take their answer: they hold a
// connection, and what it reads. Nothing bounds how long a whole answer takes.
func (c *Connections) steadily(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &steadyAnswer{ResponseWriter: w, control: http.NewResponseController(w), time: c.Patience}
		if r.ProtoMajor == 1 { // the streams of HTTP/2 share theirs
			s.plain, _ = r.Context().Value(plainKey{}).(*connection)
		}
		if r.ContentLength != 0 {
			// What the last answer on this connection left does not count while a
			// client waits to be told that it may send.
			_ = s.control.SetWriteDeadline(time.Time{})
		}
		next.ServeHTTP(s, r)
		s.extend() // net/http still has the end to send
	})
}

type steadyAnswer struct {
	http.ResponseWriter
	control *http.ResponseController
	time    time.Duration
	written int         // bytes since the last extension
	plain   *connection // unless it is encrypted
}

func (s *steadyAnswer) extend() {
	_ = s.control.SetWriteDeadline(time.Now().Add(s.time)) // every connection that is served has one
}

// held is less than what net/http gathers before it sends.
const held = 2 << 10

// gatherMost is the size in bytes of the answers that are not worth another copy.
const gatherMost = 64 << 10

// Write implements io.Writer. What net/http would send in two parts, since its
// buffer is small, is sent at once if it is all that there is.
func (s *steadyAnswer) Write(p []byte) (int, error) {
	if s.written += len(p); s.written >= held {
		s.written = 0
		s.extend()
	}
	whole := s.Header()["Content-Length"]
	if s.plain == nil || len(p) < held || len(p) > gatherMost || len(whole) != 1 || whole[0] != strconv.Itoa(len(p)) {
		return s.ResponseWriter.Write(p)
	}
	s.plain.gather()
	n, err := s.ResponseWriter.Write(p)
	if err == nil {
		err = s.control.Flush()
	}
	if sendErr := s.plain.send(); err == nil {
		err = sendErr
	}
	return n, err
}

// ReadFrom implements io.ReaderFrom, in parts.
func (s *steadyAnswer) ReadFrom(src io.Reader) (int64, error) {
	whole, ok := src.(*io.LimitedReader)
	if !ok {
		whole = &io.LimitedReader{R: src, N: 1<<63 - 1}
	}
	var sent int64
	for whole.N > 0 {
		s.extend()
		part := &io.LimitedReader{R: whole.R, N: min(whole.N, atOnce)}
		n, err := io.Copy(s.ResponseWriter, part)
		sent += n
		whole.N -= n
		if err != nil || part.N > 0 {
			return sent, err
		}
	}
	return sent, nil
}

// Unwrap lets http.ResponseController reach the connection.
func (s *steadyAnswer) Unwrap() http.ResponseWriter { return s.ResponseWriter }
