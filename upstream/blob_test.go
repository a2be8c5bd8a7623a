package upstream_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

// layer is the only layer of the harbour's image.
func (h *harbour) layer(t testing.TB) ([]byte, digest.Digest) {
	t.Helper()
	layers, err := h.image.Content.Layers()
	if err != nil {
		t.Fatal(err)
	}
	compressed, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer compressed.Close()
	raw, err := io.ReadAll(compressed)
	if err != nil {
		t.Fatal(err)
	}
	return raw, digest.FromBytes(raw)
}

func read(t testing.TB, p *upstream.Repository, d digest.Digest, offset int64) ([]byte, int64, error) {
	t.Helper()
	body, size, err := p.Blob(t.Context(), d, offset)
	if err != nil {
		return nil, size, err
	}
	defer body.Close()
	raw, err := io.ReadAll(body)
	return raw, size, err
}

func TestBlob(t *testing.T) {
	h := openHarbour(t)
	p := app(t, h.Addr, nil)
	raw, d := h.layer(t)
	for _, offset := range []int64{0, 1, 17, int64(len(raw)) - 1} {
		t.Run(fmt.Sprintf("from byte %d on", offset), func(t *testing.T) {
			got, size, err := read(t, p, d, offset)
			if err != nil || size != int64(len(raw)) || !bytes.Equal(got, raw[offset:]) {
				t.Errorf("%d bytes of %d, %v", len(got), size, err)
			}
		})
	}
	for _, offset := range []int64{int64(len(raw)), int64(len(raw)) + 1000} {
		t.Run(fmt.Sprintf("from byte %d on there is nothing", offset), func(t *testing.T) {
			_, _, err := read(t, p, d, offset)
			wants(t, err, upstream.ErrRange, false)
			says(t, err, d.String())
		})
	}
	t.Run("what was not there is not found", func(t *testing.T) {
		_, _, err := read(t, p, digest.FromString("gone"), 0)
		wants(t, err, oci.ErrNotFound, false)
		says(t, err, "blob_unknown")
	})
	for _, tc := range []struct {
		d      digest.Digest
		offset int64
	}{{"sha256:f00", 0}, {"", 0}, {digest.Digest("sha256:" + strings.Repeat("0", 63) + "/"), 0}, {d, -1}} {
		t.Run(fmt.Sprintf("%s from byte %d on is never asked for", tc.d, tc.offset), func(t *testing.T) {
			h.forget()
			if _, _, err := p.Blob(t.Context(), tc.d, tc.offset); err == nil {
				t.Error("fetched")
			}
			if got := h.asked(); len(got) > 0 {
				t.Errorf("asked %q", got)
			}
		})
	}
}

func TestBlobsThatAreNotWhatTheyAreSaidToBe(t *testing.T) {
	const whole = "0123456789"
	d := digest.FromString(whole)
	for _, tc := range []struct {
		name   string
		offset int64
		header map[string]string
		code   int
		body   string
		size   int64
		want   string
		kind   error // of Blob
		broken error // of reading
	}{
		{name: "a length that is not told", code: 200, header: map[string]string{"Trailer": "X"}, // so it is sent in pieces
			body: whole, size: -1, want: whole},
		{name: "a part, as asked for", offset: 4, code: 206, header: map[string]string{"Content-Range": "bytes 4-9/10"}, body: "456789", size: 10, want: "456789"},
		{name: "a part of something of unknown size", offset: 4, code: 206, header: map[string]string{"Content-Range": "bytes 4-9/*"}, body: "456789", size: -1, want: "456789"},
		{name: "all of it as a part", code: 206, header: map[string]string{"Content-Range": "bytes 0-9/10"}, body: whole, size: 10, want: whole},
		{name: "a part that nobody asked for", code: 206, header: map[string]string{"Content-Range": "bytes 0-4/10"}, body: "01234", kind: upstream.ErrRange},
		{name: "all of it where a part was asked for", offset: 4, code: 200, body: whole, kind: upstream.ErrRange},
		{name: "a part that begins before", offset: 4, code: 206, header: map[string]string{"Content-Range": "bytes 3-9/10"}, body: "3456789", kind: upstream.ErrRange},
		{name: "a part that begins after", offset: 4, code: 206, header: map[string]string{"Content-Range": "bytes 5-9/10"}, body: "56789", kind: upstream.ErrRange},
		{name: "a part that ends before the end", offset: 4, code: 206, header: map[string]string{"Content-Range": "bytes 4-7/10"}, body: "4567", kind: upstream.ErrRange},
		{name: "a part that is shorter than it says", offset: 4, code: 206, header: map[string]string{"Content-Range": "bytes 4-9/10", "Content-Length": "4"}, body: "4567", kind: upstream.ErrRange},
		{name: "a part without its place", offset: 4, code: 206, body: "456789", kind: upstream.ErrRange},
		{name: "a place that cannot be read", offset: 4, code: 206, header: map[string]string{"Content-Range": "bytes four-nine/ten"}, body: "456789", kind: upstream.ErrRange},
		{name: "several parts", offset: 4, code: 206, header: map[string]string{"Content-Type": "multipart/byteranges; boundary=x"}, body: "--x", kind: upstream.ErrRange},
		{name: "no such part", offset: 40, code: 416, header: map[string]string{"Content-Range": "bytes */10"}, kind: upstream.ErrRange},
		{name: "another digest", code: 200, header: map[string]string{"Docker-Content-Digest": digest.FromString("x").String()}, body: whole, kind: oci.ErrManifest},
		{name: "another digest for a part", offset: 4, code: 206, header: map[string]string{"Content-Range": "bytes 4-9/10", "Docker-Content-Digest": digest.FromString("x").String()}, body: "456789", kind: oci.ErrManifest},
		{name: "a digest of another algorithm", code: 200, header: map[string]string{"Docker-Content-Digest": digest.SHA512.FromString("x").String()}, body: whole, size: 10, want: whole},
		{name: "a digest that is none", code: 200, header: map[string]string{"Docker-Content-Digest": "x"}, body: whole, size: 10, want: whole},
		{name: "less than announced", code: 200, header: map[string]string{"Content-Length": "10"}, body: "0123", size: 10, want: "0123", broken: upstream.ErrUnavailable},
		{name: "less of a part than announced", offset: 4, code: 206, header: map[string]string{"Content-Range": "bytes 4-9/10", "Content-Length": "6"}, body: "4", size: 10, want: "4", broken: upstream.ErrUnavailable},
		{name: "an answer that means nothing", code: 204, kind: oci.ErrManifest},
		{name: "no permission", code: 403, kind: upstream.ErrUnauthorized},
	} {
		t.Run(tc.name, func(t *testing.T) {
			seen := &journal{}
			addr := serve(t, seen.keep(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for key, value := range tc.header {
					w.Header().Set(key, value)
				}
				w.WriteHeader(tc.code)
				_, _ = io.WriteString(w, tc.body)
			})))
			raw, size, err := read(t, app(t, addr, nil), d, tc.offset)
			switch {
			case tc.kind != nil:
				wants(t, err, tc.kind, false)
				says(t, err, d.String())
			case tc.broken != nil:
				wants(t, err, tc.broken, true)
				says(t, err, d.String(), "connection broke")
			case err != nil:
				t.Fatal(err)
			}
			if tc.kind == nil && (string(raw) != tc.want || size != tc.size) {
				t.Errorf("read %q of %d bytes", raw, size)
			}
			want := ""
			if tc.offset > 0 {
				want = fmt.Sprintf("bytes=%d-", tc.offset)
			}
			if got := seen.header("Range"); got[0] != want {
				t.Errorf("asked for %q", got)
			}
		})
	}
}
