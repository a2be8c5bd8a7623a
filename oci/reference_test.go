package oci_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

func parse(t testing.TB, s string) oci.Reference {
	t.Helper()
	ref, err := oci.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestParseReference(t *testing.T) {
	for _, tc := range []struct {
		from                        string
		registry, repository        string
		tag, digest, full, familiar string
	}{
		{"nginx", "docker.io", "library/nginx", "", "", "docker.io/library/nginx", "nginx"},
		{"nginx:1.27", "docker.io", "library/nginx", "1.27", "", "docker.io/library/nginx:1.27", "nginx:1.27"},
		{"acme/app:1", "docker.io", "acme/app", "1", "", "docker.io/acme/app:1", "acme/app:1"},
		{"docker.io/nginx", "docker.io", "library/nginx", "", "", "docker.io/library/nginx", "nginx"},
		{"index.docker.io/library/nginx", "docker.io", "library/nginx", "", "", "docker.io/library/nginx", "nginx"},
		{"library/nginx", "docker.io", "library/nginx", "", "", "docker.io/library/nginx", "nginx"},
		{"ghcr.io/acme/app:1", "ghcr.io", "acme/app", "1", "", "ghcr.io/acme/app:1", "ghcr.io/acme/app:1"},
		{"ghcr.io/app", "ghcr.io", "app", "", "", "ghcr.io/app", "ghcr.io/app"},
		{"ghcr.io/app@" + emptySHA256, "ghcr.io", "app", "", emptySHA256, "ghcr.io/app@" + emptySHA256, "ghcr.io/app@" + emptySHA256},
		{"ghcr.io/app@" + emptySHA512, "ghcr.io", "app", "", emptySHA512, "ghcr.io/app@" + emptySHA512, "ghcr.io/app@" + emptySHA512},
		{"app:1@" + emptySHA256, "docker.io", "library/app", "1", emptySHA256, "docker.io/library/app:1@" + emptySHA256, "app:1@" + emptySHA256},

		// What stands behind a colon is a port where a slash follows, else a tag.
		{"localhost/app", "localhost", "app", "", "", "localhost/app", "localhost/app"},
		{"localhost:5000", "docker.io", "library/localhost", "5000", "", "docker.io/library/localhost:5000", "localhost:5000"},
		{"localhost:5000/app", "localhost:5000", "app", "", "", "localhost:5000/app", "localhost:5000/app"},
		{"host:5000/app:5000", "host:5000", "app", "5000", "", "host:5000/app:5000", "host:5000/app:5000"},
		{"host/app", "docker.io", "host/app", "", "", "docker.io/host/app", "host/app"},
		{"127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000", "a/b/c", "x", "", "127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x"},
		{"[::1]:5000/app", "[::1]:5000", "app", "", "", "[::1]:5000/app", "[::1]:5000/app"},

		// Names of docker.io that would name a registry without it.
		{"docker.io/localhost/app", "docker.io", "localhost/app", "", "", "docker.io/localhost/app", "docker.io/localhost/app"},
		{"docker.io/ghcr.io/app:1", "docker.io", "ghcr.io/app", "1", "", "docker.io/ghcr.io/app:1", "docker.io/ghcr.io/app:1"},

		// Tags that look like something else stay tags.
		{"app:sha256-" + emptySHA256[7:] + ".sig", "docker.io", "library/app", "sha256-" + emptySHA256[7:] + ".sig", "", "docker.io/library/app:sha256-" + emptySHA256[7:] + ".sig", "app:sha256-" + emptySHA256[7:] + ".sig"},
		{"ghcr.io/app:" + emptySHA256[7:], "ghcr.io", "app", emptySHA256[7:], "", "ghcr.io/app:" + emptySHA256[7:], "ghcr.io/app:" + emptySHA256[7:]},
		{emptySHA256, "docker.io", "library/sha256", emptySHA256[7:], "", "docker.io/library/" + emptySHA256, emptySHA256}, // as docker pull reads it
		{"app:_", "docker.io", "library/app", "_", "", "docker.io/library/app:_", "app:_"},
		{"app:a..b", "docker.io", "library/app", "a..b", "", "docker.io/library/app:a..b", "app:a..b"},
		{"app:" + strings.Repeat("x", 128), "docker.io", "library/app", strings.Repeat("x", 128), "", "docker.io/library/app:" + strings.Repeat("x", 128), "app:" + strings.Repeat("x", 128)},

		// Another spelling of a registry is another registry: the routes are a
		// closed world and do not know it.
		{"Docker.IO/library/nginx", "Docker.IO", "library/nginx", "", "", "Docker.IO/library/nginx", "Docker.IO/library/nginx"},
		{"docker.io:443/library/nginx", "docker.io:443", "library/nginx", "", "", "docker.io:443/library/nginx", "docker.io:443/library/nginx"},
		{"docker.io.evil.example/nginx", "docker.io.evil.example", "nginx", "", "", "docker.io.evil.example/nginx", "docker.io.evil.example/nginx"},
	} {
		t.Run(tc.from, func(t *testing.T) {
			ref := parse(t, tc.from)
			if ref.Registry() != tc.registry || ref.Repository() != tc.repository || ref.Tag() != tc.tag || ref.Digest().String() != tc.digest {
				t.Errorf("got registry %q, repository %q, tag %q, digest %q", ref.Registry(), ref.Repository(), ref.Tag(), ref.Digest())
			}
			if ref.String() != tc.full || ref.Familiar() != tc.familiar || ref.Name() != tc.registry+"/"+tc.repository {
				t.Errorf("got %q, %q and %q", ref, ref.Familiar(), ref.Name())
			}
			if again := parse(t, ref.Familiar()); again != ref {
				t.Errorf("%q reads back as %q", ref.Familiar(), again)
			}
		})
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	hex := emptySHA256[7:]
	for name, s := range map[string]string{
		"nothing":                        "",
		"a space":                        " ",
		"a space in front":               " nginx",
		"a newline behind":               "nginx\n",
		"a tag alone":                    ":1",
		"hex alone":                      hex,
		"a digest without a name":        "@" + emptySHA256,
		"a tag without text":             "nginx:",
		"two tags":                       "nginx:1:2",
		"a tag behind the digest":        "nginx@" + emptySHA256 + ":1",
		"two digests":                    "nginx@" + emptySHA256 + "@" + emptySHA256,
		"a short digest":                 "nginx@sha256:e3b0c442",
		"a digest in capitals":           "nginx@sha256:" + strings.ToUpper(hex),
		"an algorithm nobody computes":   "nginx@sha384:38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b",
		"md5":                            "nginx@md5:d41d8cd98f00b204e9800998ecf8427e",
		"a tag that is too long":         "nginx:" + strings.Repeat("x", 129),
		"a tag that begins with a dot":   "nginx:.1",
		"a tag that begins with a dash":  "nginx:-1",
		"a tag with a slash":             "nginx:a/b",
		"a tag of another script":        "nginx:\u0661",
		"a name in capitals":             "ghcr.io/Acme/app",
		"a name of another script":       "ghcr.io/\u0430cme/app",
		"a dot segment":                  "ghcr.io/../app",
		"an empty segment":               "ghcr.io//app",
		"a slash at the end":             "ghcr.io/app/",
		"a name that is too long":        "ghcr.io/" + strings.Repeat("x", 256),
		"a scheme":                       "https://ghcr.io/app",
		"user info":                      "user@ghcr.io/app",
		"a query":                        "ghcr.io/app?tag=1",
		"a percent sign":                 "ghcr.io/app%2F1",
		"a backslash":                    `ghcr.io\app`,
		"a port that is no number":       "ghcr.io:https/app",
		"the transport of another tool":  "docker://nginx",
		"a folder":                       "./nginx",
		"an escape sequence of terminal": "nginx\x1b[31m",
	} {
		t.Run(name, func(t *testing.T) {
			ref, err := oci.ParseReference(s)
			if !errors.Is(err, oci.ErrReference) || !ref.IsZero() {
				t.Errorf("%q is read as %q, %v", s, ref, err)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("the error passes on a control character: %q", err)
			}
		})
	}
}

func TestNewReference(t *testing.T) {
	for _, tc := range []struct{ registry, repository, want string }{
		{"docker.io", "nginx", "docker.io/library/nginx"},
		{"docker.io", "library/nginx", "docker.io/library/nginx"},
		{"ghcr.io", "acme/app", "ghcr.io/acme/app"},
		{"localhost", "app", "localhost/app"},
		{"localhost:5000", "a/b/c", "localhost:5000/a/b/c"},
		{"127.0.0.1:5000", "app", "127.0.0.1:5000/app"},
	} {
		if ref, err := oci.NewReference(tc.registry, tc.repository); err != nil || ref.String() != tc.want {
			t.Errorf("%s and %s make %q, %v", tc.registry, tc.repository, ref, err)
		}
	}
	for _, tc := range []struct{ name, registry, repository string }{
		{"no registry", "", "nginx"},
		{"no repository", "docker.io", ""},
		{"a registry that is a word", "acme", "app"}, // docker.io/acme/app to every client
		{"an alias of a registry", "index.docker.io", "library/nginx"},
		{"a registry with a path", "ghcr.io/acme", "app"},
		{"a tag in the repository", "ghcr.io", "app:1"},
		{"a digest in the repository", "ghcr.io", "app@" + emptySHA256},
		{"a registry in the repository", "ghcr.io", "evil.example:5000/app"},
		{"a dot segment", "ghcr.io", "../app"},
		{"an empty segment", "ghcr.io", "/app"},
		{"a slash at the end", "ghcr.io", "app/"},
		{"capitals", "ghcr.io", "Acme/app"},
		{"an escape", "ghcr.io", "acme%2Fapp"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if ref, err := oci.NewReference(tc.registry, tc.repository); !errors.Is(err, oci.ErrReference) || !ref.IsZero() {
				t.Errorf("%q and %q make %q, %v", tc.registry, tc.repository, ref, err)
			}
		})
	}
}

func TestWithTag(t *testing.T) {
	ref := parse(t, "ghcr.io/acme/app:1@"+emptySHA256)
	if tagged, err := ref.WithTag("2"); err != nil || tagged.String() != "ghcr.io/acme/app:2" {
		t.Errorf("got %q, %v: a tag must not keep another tag's digest", tagged, err)
	}
	for name, tag := range map[string]string{
		"no tag":            "",
		"a digest":          emptySHA256,
		"a digest behind":   "1@" + emptySHA256,
		"a second tag":      "1:2",
		"a path":            "1/../../x",
		"a newline":         "1\n",
		"two lines":         "1\n2",
		"a space in front":  " 1",
		"a dot in front":    ".1",
		"too long":          strings.Repeat("x", 129),
		"an escaped slash":  "a%2Fb",
		"of another script": "\u00e9",
	} {
		t.Run(name, func(t *testing.T) {
			if tagged, err := ref.WithTag(tag); !errors.Is(err, oci.ErrReference) || !tagged.IsZero() {
				t.Errorf("%q makes %q, %v", tag, tagged, err)
			}
		})
	}
}

func TestReferenceKeepsAndDrops(t *testing.T) {
	ref := parse(t, "ghcr.io/acme/app:1")
	pinned := ref.WithDigest(emptySHA256)
	for name, tc := range map[string]struct{ got, want string }{
		"nothing is familiar about nothing": {oci.Reference{}.Familiar(), ""},
		"a digest keeps the tag":            {pinned.String(), "ghcr.io/acme/app:1@" + emptySHA256},
		"no digest drops the digest":        {pinned.WithDigest("").String(), "ghcr.io/acme/app:1"},
		"without its tag it keeps a digest": {pinned.WithoutTag().String(), "ghcr.io/acme/app@" + emptySHA256},
		"in its repository it has neither":  {pinned.InRepository().String(), "ghcr.io/acme/app"},
		"its name has neither":              {pinned.Name(), "ghcr.io/acme/app"},
		"the first is unchanged":            {ref.String(), "ghcr.io/acme/app:1"},
		"the zero Reference names nothing":  {oci.Reference{}.String(), ""},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: got %q, want %q", name, tc.got, tc.want)
		}
	}
	if ref.IsZero() || !(oci.Reference{}).IsZero() {
		t.Error("IsZero")
	}
}

func TestReferenceInJSON(t *testing.T) {
	type document struct{ Image, None oci.Reference }
	raw, err := json.Marshal(document{Image: parse(t, "nginx:1")})
	if err != nil || string(raw) != `{"Image":"docker.io/library/nginx:1","None":""}` {
		t.Fatalf("got %s, %v", raw, err)
	}
	back := document{None: parse(t, "left/over")}
	if err := json.Unmarshal(raw, &back); err != nil || back.Image != parse(t, "nginx:1") || !back.None.IsZero() {
		t.Errorf("got %+v, %v", back, err)
	}
	kept := back.Image
	if err := json.Unmarshal([]byte(`{"Image":"nginx:1:2"}`), &back); !errors.Is(err, oci.ErrReference) || back.Image != kept {
		t.Errorf("got %+v, %v", back, err)
	}
}

// FuzzParseReference: every form of a reference reads back as the same one, and
// its parts joined anew make it again.
func FuzzParseReference(f *testing.F) {
	for _, s := range []string{
		"nginx", "nginx:1", "acme/app:1", "localhost:5000", "localhost:5000/app:1", "index.docker.io/nginx",
		"ghcr.io/acme/app:1@" + emptySHA256, "[::1]:5000/app", "Docker.IO/library/nginx", "docker.io/library/library/nginx",
		"app:sha256-" + emptySHA256[7:] + ".sig", "nginx@sha256:E3B0", emptySHA256[7:], "a__b/c--d", "docker.io/localhost/app", "library/index.docker.io/x",
	} {
		f.Add(s)
	}
	for _, tag := range []string{"v1.2-rc_3", ".v1", "-v1", "_", "v1\n", "é", strings.Repeat("a", 128), strings.Repeat("a", 129)} {
		f.Add(tag)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, err := oci.Reference{}.WithTag(s)
		if is := s != "" && reference.TagRegexp.FindString(s) == s; is != (err == nil) {
			t.Fatalf("%q as a tag: %v", s, err)
		}
		ref, err := oci.ParseReference(s)
		if err != nil {
			if !ref.IsZero() || !errors.Is(err, oci.ErrReference) {
				t.Fatalf("got %q, %v", ref, err)
			}
			return
		}
		if ref.IsZero() || ref.Registry() == "" || ref.Repository() == "" {
			t.Fatalf("%q names nothing: %+v", s, ref)
		}
		for _, form := range []string{ref.String(), ref.Familiar()} {
			if again, err := oci.ParseReference(form); err != nil || again != ref {
				t.Fatalf("%q: %q reads back as %q, %v", s, form, again, err)
			}
		}
		joined, err := oci.NewReference(ref.Registry(), ref.Repository())
		if err != nil || joined != ref.InRepository() {
			t.Fatalf("%q: its parts make %q, %v", s, joined, err)
		}
		if ref.Tag() != "" {
			if joined, err = joined.WithTag(ref.Tag()); err != nil {
				t.Fatal(err)
			}
		}
		if ref.Digest() != "" {
			if d, err := oci.ParseDigest(ref.Digest().String()); err != nil || d == digest.Digest("") {
				t.Fatal(err)
			}
		}
		if joined.WithDigest(ref.Digest()) != ref {
			t.Fatalf("%q: its parts make %q", s, joined.WithDigest(ref.Digest()))
		}
	})
}
