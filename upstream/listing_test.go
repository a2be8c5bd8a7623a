package upstream_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

// attach publishes an artifact whose subject is the harbour's image, as
// go-containerregistry does: where there is no referrers API, it keeps the tag
// that stands in for it.
func (h *harbour) attach(t testing.TB, tag, artifactType string) digest.Digest {
	t.Helper()
	content, err := shipyard.Build(nil, map[string]string{"statement": tag})
	if err != nil {
		t.Fatal(err)
	}
	subject, err := partial.Descriptor(h.image.Content)
	if err != nil {
		t.Fatal(err)
	}
	content = mutate.ConfigMediaType(content, types.MediaType(artifactType))
	var attached *shipyard.Image
	h.behind(func() { attached = push(t, h.Registry, tag, mutate.Subject(content, *subject).(v1.Image)) })
	return attached.Digest
}

const sbom, attestation = "application/vnd.acme.sbom+json", "application/vnd.acme.attestation+json"

func digests(list []oci.Descriptor) []digest.Digest {
	var found []digest.Digest
	for _, d := range list {
		found = append(found, d.Digest)
	}
	slices.Sort(found)
	return found
}

func sorted(d ...digest.Digest) []digest.Digest {
	slices.Sort(d)
	return d
}

func TestReferrers(t *testing.T) {
	referrersPath := func(d digest.Digest) string { return "GET /v2/acme/app/referrers/" + d.String() }
	for kind, tc := range map[string]struct {
		open       func(testing.TB) *harbour
		tag        bool // stands in for the API
		behaviours map[string]func(http.Handler) http.Handler
	}{
		"by the API": {openReferrers, false, map[string]func(http.Handler) http.Handler{
			"":                                   nil,
			", in pages":                         paged(1),
			", of a type with parameters":        tamper("GET", "/referrers/", set("Content-Type", oci.MediaTypeImageIndex+"; charset=utf-8")),
			", which are claimed to be filtered": tamper("GET", "/referrers/", set("OCI-Filters-Applied", "artifactType")),
		}},
		"by the tag": {openHarbour, true, map[string]func(http.Handler) http.Handler{
			"":                                  nil,
			", where the method is not allowed": referrersAnswer(http.StatusMethodNotAllowed, "", ""),
			", where it is not implemented":     referrersAnswer(http.StatusNotImplemented, "", ""),
			", where something else answers":    referrersAnswer(http.StatusOK, "text/html", "<html>"),
		}},
	} {
		h := tc.open(t)
		p := app(t, h.Addr, nil)
		none, err := p.Referrers(t.Context(), h.image.Digest, "")
		if err != nil || len(none) != 0 {
			t.Fatalf("listed %v, %v", none, err)
		}
		first, second, third := h.attach(t, "sbom-1", sbom), h.attach(t, "sbom-2", sbom), h.attach(t, "attestation", attestation)
		for name, behaviour := range tc.behaviours {
			t.Run(kind+name, func(t *testing.T) {
				h.behave(behaviour)
				all, err := p.Referrers(t.Context(), h.image.Digest, "")
				if err != nil || !slices.Equal(digests(all), sorted(first, second, third)) {
					t.Errorf("listed %v, %v", all, err)
				}
				got := h.asked()
				if !slices.Contains(got, referrersPath(h.image.Digest)) {
					t.Errorf("asked %q", got)
				}
				if fallback := "GET /v2/acme/app/manifests/sha256-" + h.image.Digest.Encoded(); slices.Contains(got, fallback) != tc.tag {
					t.Errorf("asked %q", got)
				}
				h.forget()
				some, err := p.Referrers(t.Context(), h.image.Digest, sbom)
				if err != nil || !slices.Equal(digests(some), sorted(first, second)) {
					t.Errorf("listed %v, %v", some, err)
				}
				if got := h.asked(); !slices.Contains(got, referrersPath(h.image.Digest)+"?artifactType="+url.QueryEscape(sbom)) {
					t.Errorf("asked %q", got)
				}
				for _, d := range some {
					if d.ArtifactType != sbom || d.Size == 0 || d.MediaType != oci.MediaTypeImageManifest {
						t.Errorf("listed %+v", d)
					}
				}
				none, err := p.Referrers(t.Context(), h.image.Digest, "application/vnd.acme.nothing")
				if err != nil || len(none) != 0 {
					t.Errorf("listed %v, %v", none, err)
				}
			})
		}
	}
	t.Run("of what is no digest are never asked for", func(t *testing.T) {
		h := openReferrers(t)
		if _, err := app(t, h.Addr, nil).Referrers(t.Context(), "latest", ""); err == nil {
			t.Error("listed")
		}
		if got := h.asked(); len(got) > 0 {
			t.Errorf("asked %q", got)
		}
	})
}

func set(key, value string) func(http.Header, []byte) []byte {
	return func(h http.Header, body []byte) []byte {
		h.Set(key, value)
		return body
	}
}

func referrersAnswer(code int, contentType, body string) func(http.Handler) http.Handler {
	return answer(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			return false
		}
		if contentType != "" {
			w.Header().Set("Content-Type", contentType)
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
		return true
	})
}

// paged stands in front of a registry and hands out its referrers n at a time.
func paged(n int) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/referrers/") {
				next.ServeHTTP(w, r)
				return
			}
			recorded := httptest.NewRecorder()
			next.ServeHTTP(recorded, r)
			var index v1.IndexManifest
			if err := json.NewDecoder(recorded.Body).Decode(&index); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			// Its order differs from one answer to the next.
			slices.SortFunc(index.Manifests, func(a, b v1.Descriptor) int { return strings.Compare(a.Digest.Hex, b.Digest.Hex) })
			query := r.URL.Query()
			from, _ := strconv.Atoi(query.Get("from")) // the first page has none
			to := min(from+n, len(index.Manifests))
			if to < len(index.Manifests) {
				query.Set("from", strconv.Itoa(to))
				w.Header().Set("Link", "<"+r.URL.Path+"?"+query.Encode()+`>; rel="next"`)
			}
			index.Manifests = index.Manifests[from:to]
			w.Header().Set("Content-Type", oci.MediaTypeImageIndex)
			_ = json.NewEncoder(w).Encode(index) // a client that hangs up is no error of ours
		})
	}
}

// entries is a list of n referrers.
func entries(n int) string {
	var list []string
	for k := range n {
		list = append(list, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1}`, oci.MediaTypeImageManifest, digest.FromString(strconv.Itoa(k))))
	}
	return `{"schemaVersion":2,"manifests":[` + strings.Join(list, ",") + `]}`
}

func TestReferrersThatCannotBeTrusted(t *testing.T) {
	subject := digest.FromString("an image")
	entry := func(descriptor string) string { return `{"schemaVersion":2,"manifests":[` + descriptor + `]}` }
	for _, tc := range []struct {
		name, body string
		header     map[string]string
		code       int
		kind       error
		temporary  bool
		says       string
	}{
		{name: "nothing", body: "", kind: oci.ErrManifest, says: "cannot be read"},
		{name: "a page of HTML", body: "<html>", kind: oci.ErrManifest, says: "cannot be read"},
		{name: "an array", body: "[]", kind: oci.ErrManifest, says: "cannot be read"},
		{name: "manifests that are none", body: `{"manifests":"none"}`, kind: oci.ErrManifest, says: "cannot be read"},
		{name: "an end in the middle", body: `{"manifests":[{"digest":"sha`, kind: oci.ErrManifest, says: "cannot be read"},
		{name: "an entry without a digest", body: entry(`{"mediaType":"a/b","size":1}`), kind: oci.ErrManifest, says: "without a usable digest"},
		{name: "a digest that climbs", body: entry(`{"digest":"sha256:../../../etc/passwd","size":1}`), kind: oci.ErrManifest, says: "without a usable digest"},
		{name: "a digest that nobody can check", body: entry(`{"digest":"md5:d41d8cd98f00b204e9800998ecf8427e","size":1}`), kind: oci.ErrManifest, says: "without a usable digest"},
		{name: "a size below zero", body: entry(`{"digest":"` + subject.String() + `","size":-1}`), kind: oci.ErrManifest, says: "without a usable digest"},
		{name: "a size that is too large to count", body: entry(`{"digest":"` + subject.String() + `","size":99999999999999999999}`), kind: oci.ErrManifest, says: "cannot be read"},
		{name: "too many", body: entries(2049), kind: oci.ErrManifest, says: "more than 2048 referrers"},
		{name: "a page that is too long", body: `{"manifests":[` + strings.Repeat(" ", 1<<20) + `]}`, kind: oci.ErrManifest, says: "more bytes than the 1048576 allowed"},
		{name: "pages without end", body: entry(""), header: map[string]string{"Link": `<?page=again>; rel="next"`}, kind: oci.ErrManifest, says: "too many pages"},
		{name: "a next page elsewhere", body: entry(""), header: map[string]string{"Link": `<http://169.254.169.254/?signature=f00dfeed>; rel="next"`}, kind: oci.ErrManifest, says: "not the same origin"},
		{name: "a next page nowhere", body: entry(""), header: map[string]string{"Link": `next`}, kind: oci.ErrManifest, says: "invalid next link"},
		{name: "less than announced", body: `{"manifests":[`, header: map[string]string{"Content-Length": "100"}, kind: upstream.ErrUnavailable, temporary: true, says: "connection broke"},
		{name: "no permission", code: 403, body: `{"errors":[{"code":"DENIED","message":"requested access is denied"}]}`, kind: upstream.ErrUnauthorized, says: "denied: requested access is denied"},
		{name: "a bad request", code: 400, kind: oci.ErrManifest, says: "400"},
		{name: "a failure", code: 503, header: map[string]string{"Retry-After": "0"}, kind: upstream.ErrUnavailable, temporary: true, says: "503"},
		{name: "a limit", code: 429, header: map[string]string{"Retry-After": "3600"}, kind: upstream.ErrUnavailable, temporary: true, says: "429"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			seen := &journal{}
			addr := serve(t, seen.keep(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", oci.MediaTypeImageIndex)
				for key, value := range tc.header {
					w.Header().Set(key, value)
				}
				if tc.code != 0 {
					w.WriteHeader(tc.code)
				}
				_, _ = io.WriteString(w, tc.body)
			})))
			list, err := app(t, addr, func(o *upstream.Options) { o.ManifestLimit = 1 << 20 }).Referrers(t.Context(), subject, "")
			if len(list) > 0 {
				t.Errorf("listed %d", len(list))
			}
			wants(t, err, tc.kind, tc.temporary)
			says(t, err, tc.says, "registry.example.com/acme/app@"+subject.String())
			keepsQuiet(t, err, "f00dfeed")
			if got := referrersOnly(seen.asked()); len(got) > 64 {
				t.Errorf("asked %d times", len(got))
			}
		})
	}
	t.Run("as many as are allowed", func(t *testing.T) {
		addr := serve(t, referrersAnswer(http.StatusOK, oci.MediaTypeImageIndex, entries(2048))(http.NotFoundHandler()))
		if list, err := app(t, addr, nil).Referrers(t.Context(), subject, ""); err != nil || len(list) != 2048 {
			t.Errorf("listed %d, %v", len(list), err)
		}
	})
	t.Run("too many in all, in pages", func(t *testing.T) {
		seen := &journal{}
		addr := serve(t, seen.keep(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", oci.MediaTypeImageIndex)
			w.Header().Set("Link", `<?page=again>; rel="next"`)
			_, _ = io.WriteString(w, entries(1000))
		})))
		_, err := app(t, addr, nil).Referrers(t.Context(), subject, "")
		wants(t, err, oci.ErrManifest, false)
		if got := referrersOnly(seen.asked()); len(got) != 3 {
			t.Errorf("asked %d times", len(got))
		}
	})
}

// referrersOnly leaves out the tag that is asked for at the same time.
func referrersOnly(asked []string) []string {
	return slices.DeleteFunc(asked, func(request string) bool { return !strings.Contains(request, "/referrers/") })
}

// A registry whose replicas do not all have the referrers API must not lose
// what the first page held to a tag that is not there.
func TestReferrersThatBreakOff(t *testing.T) {
	subject := digest.FromString("an image")
	for _, first := range []string{entries(1), entries(0)} {
		for name, second := range map[string]http.HandlerFunc{
			"a page that is not there": http.NotFound,
			"a repository that is unknown": func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(404)
				_, _ = io.WriteString(w, `{"errors":[{"code":"NAME_UNKNOWN"}]}`)
			},
			"a method that is not allowed": status(http.StatusMethodNotAllowed, ""),
			"a page of HTML":               func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "<html>") },
		} {
			t.Run(fmt.Sprintf("after %d bytes, in %s", len(first), name), func(t *testing.T) {
				seen := &journal{}
				addr := serve(t, seen.keep(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !strings.Contains(r.URL.Path, "/referrers/") {
						w.WriteHeader(http.StatusNotFound)
						_, _ = io.WriteString(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`)
						return
					}
					if r.URL.RawQuery != "" {
						second(w, r)
						return
					}
					w.Header().Set("Content-Type", oci.MediaTypeImageIndex)
					w.Header().Set("Link", `<?page=2>; rel="next"`)
					_, _ = io.WriteString(w, first)
				})))
				_, err := app(t, addr, nil).Referrers(t.Context(), subject, "")
				wants(t, err, upstream.ErrUnavailable, true)
				says(t, err, "breaks off")
				if got := referrersOnly(seen.asked()); len(got) != 2 {
					t.Errorf("asked %q", got)
				}
			})
		}
	}
}

// That nothing refers to an image may only be said by a registry.
func TestReferrersOfRegistriesThatAreNotThere(t *testing.T) {
	subject := digest.FromString("an image")
	t.Run("a load balancer that has lost its registry", func(t *testing.T) {
		p := app(t, serve(t, http.NotFoundHandler()), nil)
		_, err := p.Referrers(t.Context(), subject, "")
		wants(t, err, upstream.ErrUnavailable, true)
		says(t, err, "does not look like a registry")
		_, err = p.Tags(t.Context(), 0, "")
		wants(t, err, upstream.ErrUnavailable, true)
		_, _, err = p.Blob(t.Context(), subject, 0)
		wants(t, err, upstream.ErrUnavailable, true)
		_, err = p.Manifest(t.Context(), "1")
		wants(t, err, upstream.ErrUnavailable, true)
	})
	t.Run("a page that answers everything", func(t *testing.T) {
		addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "<html>please log in</html>") }))
		_, err := app(t, addr, nil).Referrers(t.Context(), subject, "")
		wants(t, err, oci.ErrManifest, false)
	})
	h := openHarbour(t)
	fallback := "/manifests/sha256-"
	for name, tc := range map[string]struct {
		tag       http.HandlerFunc
		kind      error // nil where there are none
		temporary bool
	}{
		"a tag that fails":           {status(http.StatusBadGateway, "0"), upstream.ErrUnavailable, true},
		"a tag that may not be read": {status(http.StatusForbidden, ""), upstream.ErrUnauthorized, false},
		"a tag without a manifest":   {func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "{}") }, oci.ErrManifest, false},
		"a tag with a wrong digest": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Docker-Content-Digest", subject.String())
			manifest(w, r)
		}, oci.ErrManifest, false},
		"a tag that names a list of Docker's": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", oci.MediaTypeDockerList)
			_, _ = io.WriteString(w, entries(1))
		}, nil, false},
		"a tag that names an image": {manifest, nil, false},
		"a tag with a broken entry": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", oci.MediaTypeImageIndex)
			_, _ = io.WriteString(w, `{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"latest","size":1}]}`)
		}, oci.ErrManifest, false},
		"a tag with too many entries": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", oci.MediaTypeImageIndex)
			_, _ = io.WriteString(w, entries(2049))
		}, oci.ErrManifest, false},
	} {
		t.Run(name, func(t *testing.T) {
			h.behave(answer(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, fallback) {
					tc.tag(w, r)
				}
				return strings.Contains(r.URL.Path, fallback)
			}))
			list, err := app(t, h.Addr, nil).Referrers(t.Context(), h.image.Digest, "")
			if len(list) > 0 {
				t.Errorf("listed %v", list)
			}
			if tc.kind == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wants(t, err, tc.kind, tc.temporary)
		})
	}
	t.Run("a tag that names the index itself", func(t *testing.T) {
		h.behave(nil)
		var index *shipyard.Image
		h.behind(func() {
			var err error
			if index, err = h.PushIndex(t.Context(), "acme/app", "index", []string{"linux/amd64"}, h.image.Content); err != nil {
				t.Fatal(err)
			}
			if _, err = h.WriteIndex(t.Context(), "acme/app", "sha256-"+index.Digest.Encoded(), index.Index); err != nil {
				t.Fatal(err)
			}
		})
		if list, err := app(t, h.Addr, nil).Referrers(t.Context(), index.Digest, ""); err != nil || len(list) != 0 {
			t.Errorf("listed %v, %v", list, err)
		}
	})
}

func TestTags(t *testing.T) {
	var all []string
	for k := range 25 {
		all = append(all, fmt.Sprintf("v%02d", k))
	}
	// A registry that gives three at a time, whatever it is asked for.
	threes := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if query := r.URL.Query(); strings.HasSuffix(r.URL.Path, "/tags/list") {
				query.Set("n", "3")
				r.URL.RawQuery = query.Encode()
			}
			next.ServeHTTP(w, r)
		})
	}
	h := openHarbour(t)
	h.behind(func() {
		for _, tag := range all {
			push(t, h.Registry, tag, h.image.Content)
		}
	})
	p := app(t, h.Addr, nil)
	for name, wrap := range map[string]func(http.Handler) http.Handler{"from distribution": nil, "from distribution, three at a time": threes} {
		h.behave(wrap)
		for _, tc := range []struct {
			n    int
			last string
			want []string
		}{
			{0, "", append([]string{"1"}, all...)},
			{-1, "", append([]string{"1"}, all...)},
			{1 << 30, "", append([]string{"1"}, all...)},
			{0, "v20", all[21:]},
			{1, "", []string{"1"}},
			{10, "1", all[:10]},
			{10, "v09", all[10:20]},
			{10, "v19", all[20:]},
			{10, "v24", nil},
			{10, "v03&n=1#", all[4:14]},
			{25, "1", all},
			{26, "1", all},
		} {
			t.Run(fmt.Sprintf("%s: %d after %q", name, tc.n, tc.last), func(t *testing.T) {
				got, err := p.Tags(t.Context(), tc.n, tc.last)
				if err != nil || got == nil || !slices.Equal(got, tc.want) {
					t.Errorf("listed %q, %v", got, err)
				}
			})
		}
		t.Run(name+": of a repository that is not there", func(t *testing.T) {
			r := open(t, h.Addr, nil)
			gone, err := r.Repository("acme/gone")
			if err != nil {
				t.Fatal(err)
			}
			_, err = gone.Tags(t.Context(), 0, "")
			wants(t, err, oci.ErrNotFound, false)
			says(t, err, "registry.example.com/acme/gone", "name_unknown")
		})
	}
	t.Run("from go-containerregistry", func(t *testing.T) {
		h := openReferrers(t)
		if got, err := app(t, h.Addr, nil).Tags(t.Context(), 0, ""); err != nil || !slices.Equal(got, []string{"1"}) {
			t.Errorf("listed %q, %v", got, err)
		}
	})
}

func TestTagsThatCannotBeTrusted(t *testing.T) {
	tags := func(n int) string {
		var out bytes.Buffer
		out.WriteString(`{"tags":["0"`)
		for k := range n - 1 {
			fmt.Fprintf(&out, `,"%d"`, k+1)
		}
		out.WriteString("]}")
		return out.String()
	}
	for _, tc := range []struct {
		name, body string
		header     map[string]string
		kind       error
		temporary  bool
		says       string
	}{
		{name: "a page of HTML", body: "<html>", kind: oci.ErrManifest, says: "cannot be read"},
		{name: "an end in the middle", body: `{"tags":["1",`, kind: oci.ErrManifest, says: "cannot be read"},
		{name: "tags that are none", body: `{"tags":{"1":2}}`, kind: oci.ErrManifest, says: "cannot be read"},
		{name: "too many", body: tags(65537), kind: oci.ErrManifest, says: "more than 65536 tags"},
		{name: "a page that is too long", body: `{"tags":[` + strings.Repeat(" ", 1<<20), kind: oci.ErrManifest, says: "more bytes"},
		{name: "pages without end", body: `{"tags":[]}`, header: map[string]string{"Link": `<?again>; rel="next"`}, kind: oci.ErrManifest, says: "too many pages"},
		{name: "a next page elsewhere", body: `{"tags":[]}`, header: map[string]string{"Link": `<http://localhost/?signature=f00dfeed>; rel="next"`}, kind: oci.ErrManifest, says: "not the same origin"},
		{name: "less than announced", body: `{"tags":[`, header: map[string]string{"Content-Length": "100"}, kind: upstream.ErrUnavailable, temporary: true, says: "connection broke"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for key, value := range tc.header {
					w.Header().Set(key, value)
				}
				_, _ = io.WriteString(w, tc.body)
			}))
			_, err := app(t, addr, func(o *upstream.Options) { o.ManifestLimit = 1 << 20 }).Tags(t.Context(), 0, "")
			wants(t, err, tc.kind, tc.temporary)
			says(t, err, tc.says, "registry.example.com/acme/app")
			keepsQuiet(t, err, "f00dfeed")
		})
	}
	t.Run("what is no tag is left out", func(t *testing.T) {
		addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"tags":["1","","../2","sha256:3","a b","4\u0000",`+`"`+strings.Repeat("5", 129)+`","6"]}`)
		}))
		if got, err := app(t, addr, nil).Tags(t.Context(), 0, ""); err != nil || !slices.Equal(got, []string{"1", "6"}) {
			t.Errorf("listed %q, %v", got, err)
		}
	})
	t.Run("more than were asked for are cut", func(t *testing.T) {
		addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, tags(100)) }))
		if got, err := app(t, addr, nil).Tags(t.Context(), 7, ""); err != nil || len(got) != 7 {
			t.Errorf("listed %q, %v", got, err)
		}
	})
	t.Run("none is an empty list", func(t *testing.T) {
		addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{"tags":null}`) }))
		if got, err := app(t, addr, nil).Tags(t.Context(), 0, ""); err != nil || got == nil || len(got) != 0 {
			t.Errorf("listed %q, %v", got, err)
		}
	})
}
