package gate

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// archive is a tar of one file.
func archive(t testing.TB, name, content string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// polyglot is a tar of one file that is a JSON document too.
func polyglot(t testing.TB) []byte {
	t.Helper()
	field := func(s string, n int) string { return s + strings.Repeat(" ", n-len(s)) }
	name := `{"_":"`
	header := name + strings.Repeat("x", 100-len(name)) + // without an end, as a full name is
		field("0000755", 8) + field("0000000", 8) + field("0000000", 8) + // mode, owner, group
		field("00000001000", 12) + field("00000000000", 12) + // 512 bytes, no time
		strings.Repeat(" ", 8) + "0" + strings.Repeat(" ", 512-157)
	sum := 0
	for _, b := range []byte(header) {
		sum += int(b)
	}
	header = header[:148] + fmt.Sprintf("%07o ", sum) + header[156:]
	script := "echo owned; "
	return []byte(header + script + strings.Repeat("#", 512-len(script)-2) + `"}`)
}

func TestUnpacks(t *testing.T) {
	plain := archive(t, "bin/app", "content")
	var zipped bytes.Buffer
	gz := gzip.NewWriter(&zipped)
	if _, err := gz.Write(plain); err != nil || gz.Close() != nil {
		t.Fatal(err)
	}
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	both := polyglot(t)
	if header, err := tar.NewReader(bytes.NewReader(both)).Next(); err != nil || !json.Valid(both) {
		t.Fatalf("the document must be an archive and JSON: %v, %v, %v", header, err, json.Valid(both))
	}
	behind := append(bytes.Repeat([]byte(" "), 1024), both...) // as GNU tar finds it

	for _, tc := range []struct {
		name string
		raw  []byte
		want bool
	}{
		{"nothing", nil, false},
		{"a payload", []byte(`{"critical":{"type":"cosign container image signature"}}`), false},
		{"a long envelope", []byte(`{"payload":"` + strings.Repeat("AAAA1234", 1000) + `"}`), false},
		{"a text in many lines and letters", []byte("SPDXVersion: SPDX-2.3\r\n\tName: für\n"), false},
		{"a tar", plain, true},
		{"a tar with gzip", zipped.Bytes(), true},
		{"a tar with zstd", zw.EncodeAll(plain, nil), true},
		{"what bzip2 writes", []byte("BZh91AY&SY"), true},
		{"a tar that is JSON", both, true},
		{"a tar that is JSON, further on", behind, true},
		{"control characters", []byte("a\x18b"), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := unpacks(tc.raw); got != tc.want {
				t.Errorf("%v", got)
			}
		})
	}
}

// What Go's reader takes for an archive, as container engines do, is one.
func FuzzUnpacks(f *testing.F) {
	f.Add(archive(f, "a", "b"))
	f.Add(polyglot(f))
	f.Add([]byte(`{"payload":"AAAA"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := tar.NewReader(bytes.NewReader(raw)).Next(); err == nil && !unpacks(raw) {
			t.Errorf("an archive passes for text: %q", raw)
		}
	})
}
