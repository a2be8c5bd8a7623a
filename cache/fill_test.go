package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// source is an upstream that can be made to misbehave.
type source struct {
	raw       []byte
	announced int64         // when not 0
	err       error         // of the fetch
	after     error         // at the end of raw, instead of io.EOF
	gate      chan struct{} // holds the body at stopAt until it is closed
	stopAt    int
	fetched   atomic.Int32
	closed    atomic.Int32
}

func (s *source) fetch(ctx context.Context) (io.ReadCloser, int64, error) {
	s.fetched.Add(1)
	if s.err != nil {
		return nil, 0, s.err
	}
	size := s.announced
	if size == 0 {
		size = -1
	}
	return &sourceBody{source: s, ctx: ctx}, size, nil
}

type sourceBody struct {
	*source
	ctx context.Context
	off int
}

func (b *sourceBody) Read(p []byte) (int, error) {
	end := len(b.raw)
	if b.gate != nil && b.off < b.stopAt {
		end = b.stopAt
	} else if b.gate != nil {
		select {
		case <-b.gate:
		case <-b.ctx.Done():
			return 0, b.ctx.Err()
		}
	}
	if b.off == len(b.raw) {
		if b.after != nil {
			return 0, b.after
		}
		return 0, io.EOF
	}
	n := copy(p, b.raw[b.off:min(end, b.off+10_000)])
	b.off += n
	return n, nil
}

func (b *sourceBody) Close() error {
	b.closed.Add(1)
	return nil
}

func pull(t testing.TB, c *Cache, d oci.Descriptor, up *source) ([]byte, error) {
	t.Helper()
	blob, err := c.Blob(t.Context(), d, up.fetch)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	if blob.Size() != d.Size {
		t.Errorf("Size is %d, not %d", blob.Size(), d.Size)
	}
	return io.ReadAll(blob)
}

var sizes = map[string]int{"empty": 0, "one byte": 1, "all held back": heldBack, "one more": heldBack + 1, "large": 3*chunk + 17}

func TestBlob(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.open(t)
		for name, size := range sizes {
			raw, d := content(size)
			up := &source{raw: raw, announced: d.Size}
			for range 3 {
				got, err := pull(t, c, d, up)
				if err != nil || !bytes.Equal(got, raw) {
					t.Fatalf("%s: %d bytes, %v", name, len(got), err)
				}
			}
			if n := up.fetched.Load(); n != 1 {
				t.Errorf("%s: fetched %d times", name, n)
			}
			if up.closed.Load() == 0 {
				t.Errorf("%s: body not closed", name)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		again := p.open(t)
		for name, size := range sizes {
			raw, d := content(size)
			up := &source{err: errors.New("not needed")}
			for range 3 { // checked, then known
				if got, err := pull(t, again, d, up); err != nil || !bytes.Equal(got, raw) {
					t.Fatalf("%s, in a new process: %d bytes, %v", name, len(got), err)
				}
			}
		}
		again.Close()
		for _, path := range files(t, p.spool) {
			if !strings.HasSuffix(path, lockName) {
				t.Errorf("left in the spool: %s", path)
			}
		}
	})
}

func TestSHA512(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		raw, d := content(100_000)
		d.Digest = digest.SHA512.FromBytes(raw)
		c := p.open(t)
		if _, err := pull(t, c, d, &source{raw: flipped(raw, 0)}); !errors.Is(err, ErrDigest) {
			t.Fatal(err)
		}
		if got, err := pull(t, c, d, &source{raw: raw}); err != nil || !bytes.Equal(got, raw) {
			t.Fatal(err)
		}
	})
}

func TestOneFetchForAll(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.open(t)
		raw, d := content(1 << 20)
		up := &source{raw: raw, gate: make(chan struct{}), stopAt: 500_000}
		var halfway, all sync.WaitGroup
		for i := range 100 {
			halfway.Add(1)
			all.Go(func() {
				blob, err := c.Blob(t.Context(), d, up.fetch)
				if err != nil {
					t.Error(err)
					halfway.Done()
					return
				}
				defer blob.Close()
				got := make([]byte, 400_000)
				_, err = io.ReadFull(blob, got)
				halfway.Done()
				if err != nil {
					t.Error(err)
					return
				}
				if i%10 == 0 {
					return // leaves
				}
				rest, err := io.ReadAll(blob)
				if err != nil || !bytes.Equal(append(got, rest...), raw) {
					t.Errorf("reader %d: %v", i, err)
				}
			})
		}
		halfway.Wait()
		close(up.gate)
		all.Wait()
		if n := up.fetched.Load(); n != 1 {
			t.Errorf("fetched %d times", n)
		}
	})
}

// TestMisbehavingUpstreams: no reader gets the end of a blob that is not what
// it must be, and nothing of it is kept.
func TestMisbehavingUpstreams(t *testing.T) {
	broken := errors.New("connection reset")
	for name, size := range map[string]int{"small": 1000, "large": 300_000} {
		raw, d := content(size)
		cases := map[string]struct {
			up   *source
			want error
			atce bool // by Blob itself
		}{
			"unreachable":          {&source{err: broken}, broken, true},
			"announces less":       {&source{raw: raw, announced: d.Size - 1}, ErrLength, true},
			"announces more":       {&source{raw: raw, announced: d.Size + 1}, ErrLength, true},
			"breaks":               {&source{raw: raw[:size/2], after: broken}, broken, false},
			"breaks at the end":    {&source{raw: raw, after: broken}, broken, false},
			"short":                {&source{raw: raw[:size-1]}, ErrLength, false},
			"short of its word":    {&source{raw: raw[:size-1], announced: d.Size, after: io.ErrUnexpectedEOF}, ErrLength, false},
			"nothing":              {&source{}, ErrLength, false},
			"long":                 {&source{raw: append(bytes.Clone(raw), 0)}, ErrLength, false},
			"lies about the first": {&source{raw: flipped(raw, 0)}, ErrDigest, false},
			"lies about the last":  {&source{raw: flipped(raw, size-1)}, ErrDigest, false},
			"no body":              {nil, nil, true},
		}
		for what, tc := range cases {
			t.Run(name+" "+what, func(t *testing.T) {
				everywhere(t, func(t *testing.T, p *place) {
					c := p.open(t)
					fetch := func(context.Context) (io.ReadCloser, int64, error) { return nil, -1, nil }
					if tc.up != nil {
						fetch = tc.up.fetch
					}
					var readers sync.WaitGroup
					for range 8 {
						readers.Go(func() {
							blob, err := c.Blob(t.Context(), d, fetch)
							if err != nil {
								if tc.want != nil && !errors.Is(err, tc.want) {
									t.Errorf("Blob: %v, want %v", err, tc.want)
								}
								return
							}
							defer blob.Close()
							if tc.atce {
								t.Error("Blob reports nothing")
							}
							got, err := io.ReadAll(blob)
							if !errors.Is(err, tc.want) || int64(len(got)) > d.Size-heldBack {
								t.Errorf("%d of %d bytes, %v, want %v", len(got), d.Size, err, tc.want)
							}
							if err := blob.Wait(t.Context()); !errors.Is(err, tc.want) || blob.Complete() {
								t.Errorf("Wait: %v, Complete: %v", err, blob.Complete())
							}
						})
					}
					readers.Wait()
					if p.stored(t, d.Digest) != nil {
						t.Error("it is stored")
					}
					// The next one starts anew, and gets it.
					if got, err := pull(t, c, d, &source{raw: raw}); err != nil || !bytes.Equal(got, raw) {
						t.Errorf("afterwards: %v", err)
					}
					c.Close()
				})
			})
		}
	}
}

func TestTailIsHeldBack(t *testing.T) {
	c := filesystem(t).open(t)
	raw, d := content(200_000)
	up := &source{raw: raw, gate: make(chan struct{}), stopAt: len(raw)}
	blob, err := c.Blob(t.Context(), d, up.fetch)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	// The upstream has sent all and may still send more.
	if _, err := io.ReadFull(blob, make([]byte, len(raw)-heldBack)); err != nil {
		t.Fatal(err)
	}
	f := blob.fill
	f.mu.Lock()
	available := f.available()
	f.mu.Unlock()
	if available != d.Size-heldBack || blob.Complete() {
		t.Fatalf("%d of %d bytes are to be had", available, d.Size)
	}
	if _, err := blob.Seek(0, io.SeekStart); !errors.Is(err, errors.ErrUnsupported) {
		t.Fatalf("Seek: %v", err)
	}
	close(up.gate)
	if err := blob.Wait(t.Context()); err != nil || !blob.Complete() {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(blob) // from where it was
	if err != nil || !bytes.Equal(rest, raw[len(raw)-heldBack:]) {
		t.Fatalf("%d bytes, %v", len(rest), err)
	}
	if _, err := blob.Seek(-5, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(blob); err != nil || !bytes.Equal(rest, raw[len(raw)-5:]) {
		t.Fatalf("after Seek: %d bytes, %v", len(rest), err)
	}
}

func TestClientsLeave(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.open(t)
		raw, d := content(200_000)
		up := &source{raw: raw, gate: make(chan struct{}), stopAt: 50_000}
		ctx, leave := context.WithCancel(t.Context())
		blob, err := c.Blob(ctx, d, up.fetch)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(blob, make([]byte, 50_000)); err != nil {
			t.Fatal(err)
		}
		leave()
		if _, err := blob.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
			t.Fatalf("Read of one who left: %v", err)
		}
		if err := errors.Join(blob.Close(), blob.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := blob.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
			t.Fatalf("Read after Close: %v", err)
		}
		close(up.gate)
		if got, err := pull(t, c, d, up); err != nil || !bytes.Equal(got, raw) || up.fetched.Load() != 1 {
			t.Fatalf("the next: %v after %d fetches", err, up.fetched.Load())
		}
	})
}

func TestCloseEndsFills(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.open(t)
		raw, d := content(200_000)
		up := &source{raw: raw, gate: make(chan struct{}), stopAt: 50_000}
		blob, err := c.Blob(t.Context(), d, up.fetch)
		if err != nil {
			t.Fatal(err)
		}
		defer blob.Close()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(blob); !errors.Is(err, ErrClosed) {
			t.Fatalf("the reader gets %v", err)
		}
		if _, err := c.Blob(t.Context(), d, up.fetch); !errors.Is(err, ErrClosed) {
			t.Fatalf("Blob after Close: %v", err)
		}
		if p.stored(t, d.Digest) != nil {
			t.Fatal("a part is stored")
		}
	})
}

func TestStalledUpstream(t *testing.T) {
	p := filesystem(t)
	synctest.Test(t, func(t *testing.T) {
		c := p.open(t)
		raw, d := content(200_000)
		up := &source{raw: raw, gate: make(chan struct{}), stopAt: 50_000}
		began := time.Now()
		if _, err := pull(t, c, d, up); !errors.Is(err, ErrStalled) {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited != stallAfter {
			t.Fatalf("given up after %s", waited)
		}
		c.Close()
	})
}

// TestDrippingUpstream: bytes that come one by one do not keep a fill alive, and
// bytes that come slowly do.
func TestDrippingUpstream(t *testing.T) {
	p := filesystem(t)
	for name, tc := range map[string]struct {
		every time.Duration // for 10 000 bytes
		want  error
		after time.Duration
	}{
		"half of the least": {40 * time.Second, ErrStalled, stallAfter},
		"twice the least":   {8 * time.Second, nil, 20 * 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := p.open(t)
				defer c.Close()
				raw, _ := content(200_000)
				d := oci.Descriptor{Size: int64(len(raw))}
				raw = append([]byte(name), raw[len(name):]...) // another blob each
				d.Digest = digest.FromBytes(raw)
				began := time.Now()
				blob, err := c.Blob(t.Context(), d, func(ctx context.Context) (io.ReadCloser, int64, error) {
					return &slowBody{&sourceBody{source: &source{raw: raw}, ctx: ctx}, tc.every}, d.Size, nil
				})
				if err == nil {
					defer blob.Close()
					var got []byte
					if got, err = io.ReadAll(blob); err == nil && !bytes.Equal(got, raw) {
						t.Errorf("%d other bytes", len(got))
					}
				}
				if !errors.Is(err, tc.want) || time.Since(began) != tc.after {
					t.Errorf("%v after %s, want %v after %s", err, time.Since(began), tc.want, tc.after)
				}
			})
		})
	}
}

type slowBody struct {
	*sourceBody
	every time.Duration
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.off == len(b.raw) {
		return b.sourceBody.Read(p) // the end is known at once
	}
	select {
	case <-time.After(b.every):
		return b.sourceBody.Read(p)
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
}

func TestDamageAtRest(t *testing.T) {
	for name, size := range sizes {
		if size == 0 {
			continue
		}
		raw, d := content(size)
		for what, damaged := range map[string][]byte{
			"first byte": flipped(raw, 0), "last byte": flipped(raw, size-1),
			"cut short": raw[:size-1], "emptied": {}, "grown": append(bytes.Clone(raw), 0),
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				everywhere(t, func(t *testing.T, p *place) {
					first := p.open(t)
					if _, err := pull(t, first, d, &source{raw: raw}); err != nil {
						t.Fatal(err)
					}
					first.Close()
					p.overwrite(t, d.Digest, damaged)
					c := p.open(t)
					got, err := pull(t, c, d, &source{raw: raw})
					// Whole, or cut short: which of the two is up to the race
					// between the reader and the check.
					if err != nil && (!errors.Is(err, ErrDigest) || len(got) > size-heldBack) || err == nil && !bytes.Equal(got, raw) {
						t.Fatalf("%d bytes, %v", len(got), err)
					}
					if err != nil && int64(len(damaged)) != d.Size {
						t.Fatalf("noticed late: %v", err)
					}
					if got, err := pull(t, c, d, &source{raw: raw}); err != nil || !bytes.Equal(got, raw) {
						t.Fatalf("next: %d bytes, %v", len(got), err)
					}
					c.Close()
					if !bytes.Equal(p.stored(t, d.Digest), raw) {
						t.Fatal("not mended")
					}
				})
			})
		}
	}
}

// TestDamageUnderAReader: who has been given bytes of a damaged blob is cut off,
// and never gets the rest from somewhere else.
func TestDamageUnderAReader(t *testing.T) {
	c := filesystem(t).open(t)
	raw, d := content(100_000)
	f := newFill(d)
	file, err := c.spool.create()
	if err != nil {
		t.Fatal(err)
	}
	f.open(file, true)
	if _, err := file.Write(raw); err != nil {
		t.Fatal(err)
	}
	if f.advance(d.Size); !f.restart() {
		t.Fatal("an unread fill cannot begin anew")
	}
	if file, err = c.spool.create(); err != nil {
		t.Fatal(err)
	}
	f.open(file, true)
	if _, err := file.Write(raw); err != nil {
		t.Fatal(err)
	}
	f.advance(d.Size)
	if _, err := f.readAt(t.Context(), make([]byte, 1), 0); err != nil {
		t.Fatal(err)
	}
	if f.restart() {
		t.Fatal("begins anew under a reader")
	}
	f.discard()
	f.release()
}

// TestDamageInAVerifiedBlob: what is remembered as verified is the state that
// was hashed.
func TestDamageInAVerifiedBlob(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.open(t)
		raw, d := content(1000)
		up := &source{raw: raw}
		if _, err := pull(t, c, d, up); err != nil {
			t.Fatal(err)
		}
		c.Close()
		c = p.open(t)
		if _, err := pull(t, c, d, up); err != nil {
			t.Fatal(err)
		}
		c.owned.Wait() // or the next pull joins the check that has just ended
		p.overwrite(t, d.Digest, flipped(raw, 7))
		if got, err := pull(t, c, d, up); err != nil || !bytes.Equal(got, raw) || up.fetched.Load() != 2 {
			t.Fatalf("%v after %d fetches", err, up.fetched.Load())
		}
		c.Close()
		if err := p.driver.Delete(t.Context(), blobDataPath(d.Digest)); err != nil {
			t.Fatal(err)
		}
		c = p.open(t)
		if got, err := pull(t, c, d, up); err != nil || !bytes.Equal(got, raw) || up.fetched.Load() != 3 {
			t.Fatalf("after its removal: %v after %d fetches", err, up.fetched.Load())
		}
	})
}

// TestDamageWhileItIsKept: a file that is cut short as soon as it has its place is
// never taken for the whole.
func TestDamageWhileItIsKept(t *testing.T) {
	c := filesystem(t).open(t)
	for i := range 20 {
		raw, d := content(200_000 + i)
		damaged := make(chan struct{})
		go func() {
			defer close(damaged)
			for os.Truncate(c.filePath(blobDataPath(d.Digest)), 1000) != nil && t.Context().Err() == nil {
				runtime.Gosched()
			}
		}()
		for after := 0; after < 5; {
			select {
			case <-damaged:
				after++
			default:
			}
			blob, err := c.Blob(t.Context(), d, (&source{raw: raw}).fetch)
			if err != nil {
				t.Fatal(err)
			}
			if err := blob.Wait(t.Context()); err == nil {
				if end, err := blob.Seek(0, io.SeekEnd); end != d.Size {
					t.Fatalf("%d bytes end at %d, %v", d.Size, end, err)
				}
			}
			blob.Close()
		}
		c.owned.Wait() // or the next pull joins what has been cut short
		if got, err := pull(t, c, d, &source{raw: raw}); err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("afterwards: %d bytes, %v", len(got), err)
		}
	}
}

// TestLyingManifest names another image's blob with a wrong size; the blob and
// the other image must not suffer.
func TestLyingManifest(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.open(t)
		raw, d := content(200_000)
		lie := d
		lie.Size--
		never := &source{err: errors.New("not needed")}

		up := &source{raw: raw, gate: make(chan struct{}), stopAt: 100_000}
		honest, err := c.Blob(t.Context(), d, up.fetch)
		if err != nil {
			t.Fatal(err)
		}
		defer honest.Close()
		var joined sync.WaitGroup
		joined.Go(func() {
			if _, err := c.Blob(t.Context(), lie, never.fetch); !errors.Is(err, ErrLength) {
				t.Errorf("while it is filled: %v", err)
			}
		})
		close(up.gate)
		if got, err := io.ReadAll(honest); err != nil || !bytes.Equal(got, raw) {
			t.Fatal(err)
		}
		joined.Wait()
		if _, err := c.Blob(t.Context(), lie, never.fetch); !errors.Is(err, ErrLength) {
			t.Fatalf("when it is known: %v", err)
		}
		// An upstream that goes along with the lie does not get through either.
		honest.Close()
		if err := c.awaitIdle(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.Close()
		again := p.open(t)
		if _, err := again.Blob(t.Context(), lie, (&source{raw: raw[:len(raw)-1]}).fetch); !errors.Is(err, ErrLength) {
			t.Fatalf("before it is checked: %v", err)
		}
		if got, err := pull(t, again, d, never); err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("the honest one: %v", err)
		}

		lie.Size = -1
		if _, err := again.Blob(t.Context(), lie, never.fetch); !errors.Is(err, ErrLength) {
			t.Fatalf("a negative size: %v", err)
		}
		if _, err := again.Blob(t.Context(), oci.Descriptor{Digest: "sha256:../x"}, never.fetch); !errors.Is(err, oci.ErrDigest) {
			t.Fatalf("no digest: %v", err)
		}
	})
}

func TestServeContent(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		c := p.open(t)
		raw, d := content(300_000)
		up := &source{raw: raw}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			blob, err := c.Blob(r.Context(), d, up.fetch)
			if err == nil {
				defer blob.Close()
				err = blob.Wait(r.Context())
			}
			if err != nil {
				t.Error(err)
				return
			}
			w.Header().Set("Content-Type", "application/octet-stream")
			http.ServeContent(w, r, "", time.Time{}, blob)
		}))
		defer server.Close()
		for _, tc := range []struct {
			header string
			status int
			want   []byte
		}{
			{"bytes=1000-1999", 206, raw[1000:2000]}, // of one that is just being filled
			{"", 200, raw},
			{"bytes=0-0", 206, raw[:1]},
			{"bytes=-10", 206, raw[len(raw)-10:]},
			{"bytes=299999-", 206, raw[299999:]},
			{"bytes=300000-", 416, nil},
		} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			if tc.header != "" {
				r.Header.Set("Range", tc.header)
			}
			response, err := server.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil || response.StatusCode != tc.status || tc.want != nil && !bytes.Equal(got, tc.want) {
				t.Errorf("%q: %s, %d bytes, %v", tc.header, response.Status, len(got), err)
			}
		}
	})
}

// spyListener sees what net/http hands to the socket.
type spyListener struct {
	*net.TCPListener
	conn chan *spyConn
}

type spyConn struct {
	*net.TCPConn
	files atomic.Int32
}

func (l spyListener) Accept() (net.Conn, error) {
	conn, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	spy := &spyConn{TCPConn: conn}
	select {
	case l.conn <- spy:
	default:
	}
	return spy, nil
}

func (c *spyConn) ReadFrom(r io.Reader) (int64, error) {
	if limited, ok := r.(*io.LimitedReader); ok {
		// What net's sendfile looks for.
		if file, ok := limited.R.(syscall.Conn); ok {
			if _, err := file.SyscallConn(); err == nil {
				c.files.Add(1)
			}
		}
	}
	return c.TCPConn.ReadFrom(r)
}

// TestSendfile: a complete blob in a file reaches the socket as a file.
func TestSendfile(t *testing.T) {
	c := filesystem(t).open(t)
	raw, d := content(1 << 20)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spies := make(chan *spyConn, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		blob, err := c.Blob(r.Context(), d, (&source{raw: raw}).fetch)
		if err == nil {
			defer blob.Close()
			err = blob.Wait(r.Context())
		}
		if err != nil || blob.File() == nil {
			t.Errorf("no file: %v", err)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, blob)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(spyListener{listener.(*net.TCPListener), spies}) })
	defer serving.Wait()
	defer server.Close()
	for range 2 { // just filled, and found
		response, err := http.Get("http://" + listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	if n := (<-spies).files.Load(); n != 2 {
		t.Errorf("%d of 2 answers went out as a file", n)
	}
}

// TestUnwritableSpool: the upstream's bytes have nowhere to go.
func TestUnwritableSpool(t *testing.T) {
	p := filesystem(t)
	c := p.open(t)
	if err := os.RemoveAll(c.spool.folder); err != nil {
		t.Fatal(err)
	}
	raw, d := content(100_000)
	if _, err := pull(t, c, d, &source{raw: raw}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// awaitIdle waits until no fill is left.
func (c *Cache) awaitIdle(ctx context.Context) error {
	for {
		c.mu.Lock()
		var some *fill
		for _, f := range c.fills {
			some = f
		}
		c.mu.Unlock()
		if some == nil {
			return ctx.Err()
		}
		time.Sleep(time.Millisecond)
	}
}

func BenchmarkBlobHit(b *testing.B) {
	c := filesystem(b).open(b)
	raw, d := content(1 << 20)
	up := &source{raw: raw}
	if _, err := pull(b, c, d, up); err != nil {
		b.Fatal(err)
	}
	if err := c.awaitIdle(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		blob, err := c.Blob(b.Context(), d, up.fetch)
		if err != nil || blob.File() == nil {
			b.Fatal(err)
		}
		blob.Close()
	}
}
