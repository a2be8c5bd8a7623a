package proxy

import (
	"crypto/sha256"
	"encoding"
	"hash"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// steady is how long a client may send nothing of a body.
const steady = time.Minute

// steadyBody reads a request's body for as long as it comes steadily: blobs
// take longer than any other request may.
type steadyBody struct {
	io.Reader
	control *http.ResponseController
}

func newSteadyBody(w http.ResponseWriter, r *http.Request) *steadyBody {
	return &steadyBody{r.Body, http.NewResponseController(w)}
}

// Read implements io.Reader.
func (b *steadyBody) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(time.Now().Add(steady)) // where it is not supported there is none to extend
	return b.Reader.Read(p)
}

// content is a part of a blob on its way to the upstream, hashed as it passes.
// With a digest the last byte is held back until all bytes are known to hash to
// it, so that the upstream never has the whole of something else.
type content struct {
	body io.Reader
	hash hash.Hash     // over the blob up to here; nil when nobody knows
	want digest.Digest // of the whole blob, when this is its last part

	held     [1]byte
	holds    bool
	ended    bool // nothing more comes from body
	passed   atomic.Int64
	finished atomic.Bool // all of it was handed on
	differs  atomic.Bool
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.want == "" || c.hash == nil {
		n, err := c.body.Read(p)
		if c.hash != nil {
			c.hash.Write(p[:n])
		}
		c.passed.Add(int64(n))
		if err == io.EOF {
			c.finished.Store(true)
		}
		return n, err
	}
	for !c.ended {
		room := p
		if len(p) > 1 {
			room = p[:len(p)-1]
		}
		n, err := c.body.Read(room)
		c.hash.Write(room[:n])
		c.passed.Add(int64(n))
		if err != nil && err != io.EOF {
			return 0, err
		}
		c.ended = err == io.EOF
		if n == 0 {
			continue
		}
		last := room[n-1]
		out := n - 1
		if c.holds {
			copy(p[1:n], p[:n-1])
			p[0] = c.held[0]
			out = n
		}
		c.held[0], c.holds = last, true
		if out > 0 {
			return out, nil
		}
	}
	if digest.NewDigest(c.want.Algorithm(), c.hash) != c.want {
		c.differs.Store(true)
		return 0, errDiffers
	}
	if c.holds {
		c.holds = false
		p[0] = c.held[0]
		c.finished.Store(true)
		return 1, nil // with no more to come, however the reader finds out
	}
	c.finished.Store(true)
	return 0, io.EOF
}

// hashOf goes on with the hash of the bytes that the upstream has already. It is
// nil when that is not known: then the upstream's own check must do, and the
// bytes are hashed when they are pulled.
func (s session) hashOf(d digest.Digest) hash.Hash {
	switch {
	case s.Bytes == 0 && d != "":
		return d.Algorithm().Hash()
	case s.Bytes == 0:
		return sha256.New()
	case s.Bytes < 0 || len(s.Hash) == 0 || (d != "" && d.Algorithm() != digest.SHA256):
		return nil
	}
	h := sha256.New()
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(s.Hash); err != nil {
		return nil
	}
	return h
}

// after is the session once the part has been sent. has is how many bytes the
// upstream says that it has, or -1.
func (s session) after(c *content, has int64) session {
	if s.Bytes >= 0 {
		s.Bytes += c.passed.Load()
	}
	if has >= 0 && has != s.Bytes {
		s.Bytes, c.hash = has, nil
	}
	s.Hash = nil
	if c.hash != nil {
		if state, err := c.hash.(encoding.BinaryMarshaler).MarshalBinary(); err == nil {
			s.Hash = state
		}
	}
	return s
}
