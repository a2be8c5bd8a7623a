package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// answers is a registry whose every answer is the same, but that a list has
// three pages at most.
type answers struct {
	code   int
	header http.Header
	body   []byte
	pages  atomic.Int64
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	header := a.header.Clone()
	if a.pages.Add(1) >= 3 {
		header.Del("Link")
	}
	return &http.Response{
		StatusCode: a.code, Header: header, ContentLength: int64(len(a.body)), Body: io.NopCloser(bytes.NewReader(a.body)),
		Request: r, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

// opened is acme/app of that registry.
func opened(t testing.TB, from http.RoundTripper) *Repository {
	t.Helper()
	r, err := New(Options{Registry: "registry.example.com", URL: "https://registry.example.com", ManifestLimit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	r.plain.Transport = from
	p, err := r.Repository("acme/app")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// decent checks an error that foreign bytes led to.
func decent(t *testing.T, err error) {
	t.Helper()
	var mine *failure
	if !errors.As(err, &mine) || mine.kind == nil {
		t.Fatalf("an error of no kind: %v", err)
	}
	if text := err.Error(); len(text) > 4096 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Fatalf("an error that cannot be shown: %q", text)
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{
		"bytes 0-0/1", "bytes 5-9/10", "bytes 5-9/*", "bytes */10", "bytes 9-5/10", "bytes 5-10/10", "bytes -5-9/10", "bytes +5-9/10", "bytes 5-9", "5-9/10",
		"bytes 5-9/10/11", "bytes 9223372036854775806-9223372036854775807/*", "bytes 0-9223372036854775807/9223372036854775807", "bytes 0-9223372036854775808/*", "bytes  5-9/10", "items 5-9/10", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseContentRange(s)
		if err != nil {
			if r != (contentRange{}) {
				t.Fatalf("%q: %v and %+v", s, err, r)
			}
			return
		}
		if r.first < 0 || r.last < r.first || (r.size != -1 && r.last >= r.size) {
			t.Fatalf("%q is %+v", s, r)
		}
		written := fmt.Sprintf("bytes %d-%d/%d", r.first, r.last, r.size)
		if r.size == -1 {
			written = fmt.Sprintf("bytes %d-%d/*", r.first, r.last)
		}
		if again, err := parseContentRange(written); err != nil || again != r {
			t.Fatalf("%q is %+v, and %q is %+v, %v", s, r, written, again, err)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"0", "30", "31", "-1", "+1", "1.5", "4294967296", "99999999999999999999", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Friday, 31-Dec-99 23:59:59 GMT", "soon", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		wait, asked := retryAfter(s)
		if wait < 0 || (!asked && wait != 0) {
			t.Fatalf("%q is %v, %v", s, wait, asked)
		}
		digits := s != "" && strings.Trim(s, "0123456789") == ""
		if digits && !asked {
			t.Fatalf("%q was not understood", s)
		}
		if digits && len(strings.TrimLeft(s, "0")) > 5 && wait < time.Hour {
			t.Fatalf("%q is a wait of %v", s, wait)
		}
	})
}

func FuzzErrorDocument(f *testing.F) {
	for _, s := range []string{
		`{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"1"}}]}`,
		`{"errors":[{"code":"DENIED","message":"Bearer f00dfeedf00dfeed"},{"code":"A"},{"code":"B"},{"code":"C"}]}`,
		`{"errors":[{"status":404,"message":"File not found."}]}`, `{"errors":[{}]}`, `{"errors":null}`, `{"errors":{}}`, `{"errors":[[]]}`, `{"errors":[{"code":1}]}`,
		"{\"errors\":[{\"code\":\"\\u0000\",\"message\":\"\xff\\ud800\\u202e\"}]}", `[]`, `null`, `"`, `<html>`, ``,
	} {
		for _, code := range []int{400, 401, 404, 429, 500} {
			f.Add(code, []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, code int, body []byte) {
		if code < 400 || code > 599 {
			return
		}
		p := opened(t, &answers{code: code, header: http.Header{"Retry-After": {"0"}}, body: body})
		_, err := p.Manifest(t.Context(), "1")
		decent(t, err)
		// 404 is believed where it comes with a code; /v2/ is not there either.
		said := readErrors(bytes.NewReader(body))
		absent := code == http.StatusNotFound && len(said) > 0 && said[0].Code != ""
		if errors.Is(err, oci.ErrNotFound) != absent {
			t.Fatalf("%d with %q is %v", code, body, err)
		}
	})
}

func FuzzReferrers(f *testing.F) {
	valid := `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + digest.FromString("x").String() + `","size":1,"artifactType":"a/b"}`
	for _, s := range []string{
		`{"schemaVersion":2,"manifests":[` + valid + `]}`, `{"manifests":[` + valid + `,{"digest":"sha256:../..","size":1}]}`, `{"manifests":[{"digest":"md5:d41d8cd98f00b204e9800998ecf8427e"}]}`,
		`{"manifests":[{"digest":"` + digest.FromString("x").String() + `","size":-1}]}`, `{"manifests":null}`, `{"manifests":[null]}`, `{}`, `[]`, `null`, `{"manifests":[`, ``,
	} {
		f.Add([]byte(s), "a/b", `<?page=2>; rel="next"`)
		f.Add([]byte(s), "", "")
	}
	f.Fuzz(func(t *testing.T, body []byte, artifactType, link string) {
		header := http.Header{"Content-Type": {oci.MediaTypeImageIndex}, "Oci-Filters-Applied": {"artifactType"}}
		if link != "" {
			header.Set("Link", link)
		}
		list, err := opened(t, &answers{code: 200, header: header, body: body}).Referrers(t.Context(), digest.FromString("x"), artifactType)
		if err != nil {
			decent(t, err)
			return
		}
		if len(list) > maxReferrers {
			t.Fatalf("%d referrers", len(list))
		}
		for _, r := range list {
			if _, err := oci.ParseDigest(r.Digest.String()); err != nil || r.Size < 0 || (artifactType != "" && r.ArtifactType != artifactType) {
				t.Fatalf("listed %+v", r)
			}
		}
	})
}

func FuzzTags(f *testing.F) {
	for _, s := range []string{`{"name":"acme/app","tags":["1","latest"]}`, `{"tags":["../1","","a b","\u0000"]}`, `{"tags":null}`, `{"tags":[1]}`, `{"tags":{}}`, `{}`, `null`, `{"tags":[`, ``} {
		f.Add([]byte(s), 0, `<?page=2>; rel="next"`)
		f.Add([]byte(s), 1, "")
	}
	f.Fuzz(func(t *testing.T, body []byte, n int, link string) {
		header := http.Header{}
		if link != "" {
			header.Set("Link", link)
		}
		p := opened(t, &answers{code: 200, header: header, body: body})
		tags, err := p.Tags(t.Context(), n, "")
		if err != nil {
			decent(t, err)
			return
		}
		if n > 0 && len(tags) > n || len(tags) > maxTags {
			t.Fatalf("%d tags of %d", len(tags), n)
		}
		for _, tag := range tags {
			if _, err := p.name.WithTag(tag); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzManifestAnswer(f *testing.F) {
	manifest := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"a/b","digest":"` + digest.FromString("x").String() + `","size":2},"layers":[]}`)
	for _, claimed := range []string{digest.FromBytes(manifest).String(), digest.SHA512.FromBytes(manifest).String(), digest.FromString("x").String(), "latest", ""} {
		f.Add(manifest, oci.MediaTypeImageManifest, claimed)
	}
	for _, contentType := range []string{oci.MediaTypeImageIndex, "application/json; charset=utf-8", "/", ""} {
		f.Add(manifest, contentType, "")
	}
	for _, raw := range []string{`{"schemaVersion":2,"manifests":[]}`, `{"schemaVersion":1,"fsLayers":[]}`, `<html>`, ``} {
		f.Add([]byte(raw), "", digest.FromString(raw).String())
	}
	f.Fuzz(func(t *testing.T, raw []byte, contentType, claimed string) {
		p := opened(t, &answers{code: 200, header: http.Header{"Content-Type": {contentType}, headerDigest: {claimed}}, body: raw})
		for _, name := range []string{"1", digest.FromBytes(raw).String(), digest.SHA512.FromBytes(raw).String(), digest.FromString("another").String()} {
			m, err := p.Manifest(t.Context(), name)
			if err != nil {
				decent(t, err)
				continue
			}
			if !bytes.Equal(m.Raw, raw) || m.Digest.Algorithm().FromBytes(raw) != m.Digest || (name != "1" && name != m.Digest.String()) {
				t.Fatalf("asked for %s, got %s", name, m.Digest)
			}
			if claimed != "" && digest.Digest(claimed) != digest.Digest(claimed).Algorithm().FromBytes(raw) {
				t.Fatalf("the registry claims %s", claimed)
			}
		}
		// HEAD may be believed for a tag, never against a digest.
		want := digest.FromBytes(raw)
		if d, err := p.Resolve(t.Context(), want.String()); err == nil && d.Digest != want {
			t.Fatalf("%s resolved to %s", want, d.Digest)
		}
	})
}

// FuzzRedact plants a secret where registries and Go's errors have them.
func FuzzRedact(f *testing.F) {
	for _, s := range []string{"https://store.example.com/blob", "HTTP://[::1]:5000/", "s3://bucket/a'b", "", "see \"", "a?b "} {
		f.Add(s, "%zz", " has expired")
	}
	f.Fuzz(func(t *testing.T, before, middle, after string) {
		const secret = "f00dfeedf00dfeed"
		middle = strings.Map(func(r rune) rune {
			if r <= ' ' || strings.ContainsRune(`"@/?#\`, r) || unicode.IsSpace(r) || !unicode.IsPrint(r) {
				return '-'
			}
			return r
		}, middle)
		for _, planted := range []string{
			"https://store.example.com/" + middle + "?" + middle + "&signature=" + secret,
			"https://alice:" + middle + secret + "@store.example.com/",
			"https://" + secret + "@store.example.com/" + middle,
			"Bearer " + secret, "basic " + secret + "==", "eyJ" + secret + "." + secret + "." + secret,
		} {
			text := redact(before + " " + planted + " " + after)
			if strings.Contains(text, secret) && !strings.Contains(before+after, secret) {
				t.Fatalf("%q in %q", planted, text)
			}
		}
		if text := brief(fmt.Errorf("%s parse %q: %s", strings.ReplaceAll(before, `"`, ""), middle+"?signature="+secret, after)); strings.Contains(text, secret) && !strings.Contains(before+after, secret) {
			t.Fatalf("%q", text)
		}
	})
}
