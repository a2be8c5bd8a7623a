package proxy_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/trustgate/trustgate/internal/loopback"
	"github.com/trustgate/trustgate/proxy"
)

// accepted is a connection as the server gets it, and the client's side.
func accepted() (served, client net.Conn, stop func(), err error) {
	address, err := loopback.Address()
	if err != nil {
		return nil, nil, nil, err
	}
	plain, err := net.Listen("tcp", address)
	if err != nil {
		return nil, nil, nil, err
	}
	listener := (&proxy.Connections{Limit: 1}).Attach(&http.Server{}, plain)
	defer listener.Close()
	if client, err = net.Dial("tcp", plain.Addr().String()); err != nil {
		return nil, nil, nil, err
	}
	served, err = listener.Accept()
	return served, client, func() { served.Close(); client.Close() }, err
}

// A connection of the server's behaves as any other, deadlines included.
func TestConnection(t *testing.T) { nettest.TestConn(t, accepted) }

// A deadline that is moved while somebody waits counts as it was moved.
func TestMovedDeadline(t *testing.T) {
	const soon, later = 50 * time.Millisecond, 400 * time.Millisecond
	for name, tc := range map[string]struct {
		first, then time.Duration // 0 is none
	}{
		"further away": {soon, later},
		"nearer":       {time.Hour, soon},
		"to be":        {0, soon},
	} {
		for _, side := range []string{"reading", "writing"} {
			t.Run(name+"/"+side, func(t *testing.T) {
				t.Parallel()
				served, _, stop, err := accepted()
				if err != nil {
					t.Fatal(err)
				}
				defer stop()
				set, wait := served.SetReadDeadline, func() error { _, err := served.Read(make([]byte, 1)); return err }
				if side == "writing" {
					set, wait = served.SetWriteDeadline, func() error { _, err := served.Write(make([]byte, 64<<20)); return err }
				}
				at := func(in time.Duration) time.Time {
					if in == 0 {
						return time.Time{}
					}
					return time.Now().Add(in)
				}
				began := time.Now()
				if err := set(at(tc.first)); err != nil {
					t.Fatal(err)
				}
				woken := make(chan error, 1)
				go func() { woken <- wait() }()
				time.Sleep(soon / 2)
				if err := set(at(tc.then)); err != nil {
					t.Fatal(err)
				}
				if err := <-woken; !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("woken by %v", err)
				}
				if took := time.Since(began); took < tc.then || took > tc.then+20*time.Second {
					t.Errorf("woken after %v", took)
				}
			})
		}
	}
}

// What is being written when an older deadline comes arrives whole.
func TestWriteAcrossDeadlines(t *testing.T) {
	t.Parallel()
	served, client, stop, err := accepted()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	sent := noise(32<<20, 7)
	_ = served.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	written := make(chan error, 1)
	go func() {
		n, err := served.Write(sent)
		if err == nil && n != len(sent) {
			err = io.ErrShortWrite
		}
		served.Close()
		written <- err
	}()
	time.Sleep(5 * time.Millisecond)
	_ = served.SetWriteDeadline(time.Now().Add(time.Minute))
	time.Sleep(50 * time.Millisecond) // the first has come
	got, err := io.ReadAll(client)
	if err = errors.Join(err, <-written); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes, %v", len(got), len(sent), err)
	}
}
