package upstream_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

// once is a body as a client of the gate sends it: nobody can rewind it.
func once(content []byte) upstream.Part {
	return upstream.Part{Body: io.MultiReader(bytes.NewReader(content)), Length: int64(len(content))}
}

func random(t testing.TB, size int) ([]byte, digest.Digest) {
	t.Helper()
	content := make([]byte, size)
	_, _ = rand.Read(content)
	return content, digest.FromBytes(content)
}

// holds demands that the repository has the blob.
func holds(t testing.TB, p *upstream.Repository, content []byte) {
	t.Helper()
	body, _, err := p.Blob(t.Context(), digest.FromBytes(content), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("the registry has %d bytes, %v; %d were pushed", len(got), err, len(content))
	}
}

func TestUpload(t *testing.T) {
	for name, harbour := range map[string]func(testing.TB) *harbour{"distribution": openHarbour, "go-containerregistry": openReferrers} {
		t.Run(name, func(t *testing.T) {
			p := app(t, harbour(t).Addr, nil)
			t.Run("whole", func(t *testing.T) {
				content, d := random(t, 300_000)
				begun, err := p.BeginUpload(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := p.FinishUpload(t.Context(), begun.Location, d, once(content)); err != nil {
					t.Fatal(err)
				}
				holds(t, p, content)
			})
			t.Run("in chunks, and of a length that nobody knows", func(t *testing.T) {
				content, d := random(t, 300_000)
				begun, err := p.BeginUpload(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				first := once(content[:100_000])
				first.Range = "0-99999"
				if begun, err = p.SendChunk(t.Context(), begun.Location, first); err != nil || begun.Offset != 100_000 {
					t.Fatalf("the registry has %d bytes, %v", begun.Offset, err)
				}
				second := once(content[100_000:])
				second.Length, second.Range = -1, "100000-299999"
				if begun, err = p.SendChunk(t.Context(), begun.Location, second); err != nil || begun.Offset != 300_000 {
					t.Fatalf("the registry has %d bytes, %v", begun.Offset, err)
				}
				if err := p.FinishUpload(t.Context(), begun.Location, d, upstream.Part{}); err != nil {
					t.Fatal(err)
				}
				holds(t, p, content)
			})
		})
	}
}

func TestUploadThatIsRefused(t *testing.T) {
	p := app(t, openHarbour(t).Addr, nil)
	content, _ := random(t, 1000)
	_, other := random(t, 1000)
	begun, err := p.BeginUpload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(begun.Location)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		err    func() error
		status int
		code   string
		kind   error
	}{
		{"a chunk that is not the next one", func() error {
			part := once(content)
			part.Range = "5000-5999"
			_, err := p.SendChunk(t.Context(), begun.Location, part)
			return err
		}, http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID", upstream.ErrRange},
		{"another digest", func() error { return p.FinishUpload(t.Context(), begun.Location, other, once(content)) }, http.StatusBadRequest, "DIGEST_INVALID", nil},
		{"an upload that is not there", func() error {
			gone, err := p.BeginUpload(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := p.CancelUpload(t.Context(), gone.Location); err != nil {
				t.Fatal(err)
			}
			_, err = p.UploadStatus(t.Context(), gone.Location)
			return err
		}, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", oci.ErrNotFound},
		{"a blob that is not there", func() error { return p.DeleteBlob(t.Context(), other) }, http.StatusNotFound, "BLOB_UNKNOWN", oci.ErrNotFound},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.err()
			var refused *upstream.RefusedError
			if !errors.As(err, &refused) || refused.Status != tc.status || refused.Code != tc.code {
				t.Fatalf("got %+v, want %d %s", err, tc.status, tc.code)
			}
			if tc.kind != nil && !errors.Is(err, tc.kind) {
				t.Errorf("%v is not %v", err, tc.kind)
			}
			keepsQuiet(t, err, u.Query().Get("_state"))
		})
	}
}

// A blob cannot be read twice: its token must be right before it is sent.
func TestUploadWithTokens(t *testing.T) {
	h := newHub(t)
	p := h.app(t, h.alice(t))
	content, d := random(t, 2_000_000)
	begun, err := p.BeginUpload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if asked := h.tokens.asked(); len(asked) != 1 || !strings.Contains(asked[0], "push") {
		t.Fatalf("the token server was asked %q", asked)
	}
	handler := h.find("registry-1.docker.io")
	revoked := "Bearer " + h.tokens.tokens()[0]
	h.host("registry-1.docker.io", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == revoked {
			r.Header.Del("Authorization") // it has run out
		}
		handler.ServeHTTP(w, r)
	}))
	if err := p.FinishUpload(t.Context(), begun.Location, d, once(content)); err != nil {
		t.Fatalf("the body was lost to a token that had run out: %v", err)
	}
	holds(t, p, content)
	if n := len(h.tokens.tokens()); n < 2 {
		t.Errorf("%d tokens were issued: none had run out", n)
	}
}

// elsewhere is a server that takes uploads for the registry behind it, as a
// cloud's storage does.
func elsewhere(t testing.TB, asked *journal, registry string) string {
	t.Helper()
	to := &url.URL{Scheme: "http", Host: registry}
	return serve(t, asked.keep(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}))
}

func TestUploadToAnotherOrigin(t *testing.T) {
	h := openHarbour(t)
	asked := &journal{}
	storage := elsewhere(t, asked, h.Addr)
	h.behave(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "alice" || password != "open sesame" {
				w.Header().Set("WWW-Authenticate", `Basic realm="acme"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			recorded := httptest.NewRecorder()
			next.ServeHTTP(recorded, r)
			for key, values := range recorded.Header() {
				w.Header()[key] = values
			}
			if location := recorded.Header().Get("Location"); location != "" {
				w.Header().Set("Location", strings.Replace(location, r.Host, storage, 1))
			}
			w.WriteHeader(recorded.Code)
			_, _ = w.Write(recorded.Body.Bytes())
		})
	})
	p := app(t, h.Addr, func(o *upstream.Options) {
		o.Credentials = upstream.Credentials{Username: "alice", PasswordFile: writeFile(t, t.TempDir()+"/password", "open sesame")}
	})
	content, d := random(t, 100_000)
	begun, err := p.BeginUpload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(begun.Location, "http://"+storage+"/") {
		t.Fatalf("the upload goes on at %s, not at %s", begun.Location, storage)
	}
	// The storage is not the registry: nobody there asks who it is.
	h.behave(nil)
	if err := p.FinishUpload(t.Context(), begun.Location, d, once(content)); err != nil {
		t.Fatal(err)
	}
	if got := asked.header("Authorization"); !slices.Equal(got, []string{""}) {
		t.Errorf("another origin was sent %q", got)
	}
	holds(t, p, content)
}

func TestUploadWhereNoRegistryMayLead(t *testing.T) {
	h := newHub(t)
	asked := &journal{}
	inside := elsewhere(t, asked, "127.0.0.1:1")
	handler := h.find("registry-1.docker.io")
	for _, target := range []string{"http://" + inside + "/v2/", "https://" + inside + "/v2/", "https://169.254.169.254/latest", "file:///etc/passwd", "https://u:p@registry-1.docker.io/v2/", ""} {
		h.host("registry-1.docker.io", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost {
				handler.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Location", target)
			w.WriteHeader(http.StatusAccepted)
		}))
		p := h.app(t, h.alice(t))
		content, d := random(t, 1000)
		begun, err := p.BeginUpload(t.Context())
		if err == nil {
			err = p.FinishUpload(t.Context(), begun.Location, d, once(content))
		}
		if err == nil {
			t.Errorf("the blob went to %q", target)
		}
	}
	if got := asked.asked(); len(got) > 0 {
		t.Errorf("this machine was asked %q", got)
	}
}

func TestMount(t *testing.T) {
	h := openHarbour(t)
	r := open(t, h.Addr, nil)
	from, err := r.Repository("acme/from")
	if err != nil {
		t.Fatal(err)
	}
	content, d := random(t, 1000)
	begun, err := from.BeginUpload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := from.FinishUpload(t.Context(), begun.Location, d, once(content)); err != nil {
		t.Fatal(err)
	}
	p := repository(t, r)
	if mounted, _, err := p.Mount(t.Context(), d, "acme/from"); err != nil || !mounted {
		t.Fatalf("mounted is %v, %v", mounted, err)
	}
	holds(t, p, content)
	_, missing := random(t, 10)
	if mounted, begun, err := p.Mount(t.Context(), missing, "acme/from"); err != nil || mounted || begun.Location == "" {
		t.Errorf("what is not there is mounted: %v, and goes on at %q, %v", mounted, begun.Location, err)
	}
}

func TestMountAsksForBothRepositories(t *testing.T) {
	h := newHub(t)
	p := h.app(t, h.alice(t))
	_, d := random(t, 10)
	if _, _, err := p.Mount(t.Context(), d, "library/base"); err != nil {
		t.Fatal(err)
	}
	asked := h.tokens.asked()
	if len(asked) != 1 || !strings.Contains(asked[0], url.QueryEscape("repository:acme/app:pull,push")) || !strings.Contains(asked[0], url.QueryEscape("repository:library/base:pull")) {
		t.Errorf("the token server was asked %q", asked)
	}
}

func TestPutAndDeleteManifest(t *testing.T) {
	h := openHarbour(t)
	p := app(t, h.Addr, nil)
	m, err := p.Manifest(t.Context(), "1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.PutManifest(t.Context(), "again", nil, m); err != nil {
		t.Fatal(err)
	}
	if d, err := p.Resolve(t.Context(), "again"); err != nil || d.Digest != m.Digest {
		t.Fatalf("the tag names %s, %v", d.Digest, err)
	}
	if err := p.DeleteManifest(t.Context(), "again"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Resolve(t.Context(), "again"); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("the tag is still there: %v", err)
	}
	if err := p.DeleteManifest(t.Context(), m.Digest.String()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Resolve(t.Context(), m.Digest.String()); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("the manifest is still there: %v", err)
	}
	_, missing := random(t, 10)
	m.Digest = missing
	if _, err := p.PutManifest(t.Context(), missing.String(), nil, m); err == nil {
		t.Error("a manifest was taken under a digest that it does not have")
	}
}
