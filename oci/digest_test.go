package oci_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

const (
	emptySHA256 = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	emptySHA512 = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
)

func TestParseDigest(t *testing.T) {
	for _, s := range []string{emptySHA256, emptySHA512} {
		if d, err := oci.ParseDigest(s); err != nil || d.String() != s {
			t.Errorf("%s: %q, %v", s, d, err)
		}
	}
	hex := strings.TrimPrefix(emptySHA256, "sha256:")
	for name, s := range map[string]string{
		"nothing":                      "",
		"the algorithm alone":          "sha256:",
		"no algorithm":                 ":" + hex,
		"no colon":                     "sha256" + hex,
		"hex alone":                    hex,
		"a short digest":               emptySHA256[:19],
		"one digit too few":            emptySHA256[:len(emptySHA256)-1],
		"one digit too many":           emptySHA256 + "0",
		"another algorithm's length":   "sha512:" + hex,
		"hex in capitals":              "sha256:" + strings.ToUpper(hex),
		"one capital":                  strings.Replace(emptySHA256, "e3b0", "E3b0", 1),
		"the algorithm in capitals":    "SHA256:" + hex,
		"not hex":                      strings.Replace(emptySHA256, "e3b0", "g3b0", 1),
		"digits of another script":     strings.Replace(emptySHA256, "e3b0", "e3b\uff10", 1),
		"a space in front":             " " + emptySHA256,
		"a newline behind":             emptySHA256 + "\n",
		"a NUL behind":                 emptySHA256 + "\x00",
		"a path behind":                emptySHA256 + "/../x",
		"a second digest behind":       emptySHA256 + "," + emptySHA256,
		"an algorithm nobody computes": "sha256+b64:" + hex,
		"md5":                          "md5:d41d8cd98f00b204e9800998ecf8427e",
		"sha384":                       "sha384:38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b",
		"a tag in its place":           "latest",
	} {
		t.Run(name, func(t *testing.T) {
			d, err := oci.ParseDigest(s)
			if !errors.Is(err, oci.ErrDigest) || d != "" {
				t.Errorf("%q is read as %q, %v", s, d, err)
			}
		})
	}
}

func TestErrorsOfDigestsAreBounded(t *testing.T) {
	if _, err := oci.ParseDigest("sha256:" + strings.Repeat("\x1b", 1<<20)); err == nil || len(err.Error()) > 1000 || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}

func TestDigestOf(t *testing.T) {
	for like, want := range map[digest.Digest]digest.Digest{"": emptySHA256, emptySHA256: emptySHA256, emptySHA512: emptySHA512} {
		if got := oci.DigestOf(nil, like); got != want {
			t.Errorf("like %q: %s", like, got)
		}
	}
}

// FuzzParseDigest: a digest has one spelling, so that comparing strings
// compares digests, and its name is safe in a path.
func FuzzParseDigest(f *testing.F) {
	f.Add(emptySHA256)
	f.Add(emptySHA512)
	f.Add(strings.ToUpper(emptySHA256))
	f.Add("sha384:38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b")
	f.Add("sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := oci.ParseDigest(s)
		if err != nil {
			if d != "" || !errors.Is(err, oci.ErrDigest) {
				t.Fatalf("got %q, %v", d, err)
			}
			return
		}
		if d.String() != s {
			t.Fatalf("%q became %q", s, d)
		}
		algorithm, hex, _ := strings.Cut(s, ":")
		if length := map[string]int{"sha256": 64, "sha512": 128}[algorithm]; length == 0 || len(hex) != length || strings.Trim(hex, "0123456789abcdef") != "" {
			t.Fatalf("%q was let in", s)
		}
		if oci.DigestOf(nil, d).Algorithm() != d.Algorithm() {
			t.Fatalf("%q cannot be computed", s)
		}
	})
}
