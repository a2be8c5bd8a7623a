package proxy

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/oci"
)

func TestParse(t *testing.T) {
	for path, want := range map[string]call{
		"/v2/":                           {operation: opBase},
		"/v2":                            {operation: opBase},
		"/v2/a/manifests/1":              {operation: opManifest, name: "a", reference: "1"},
		"/v2/a/b/c/manifests/sha256:x":   {operation: opManifest, name: "a/b/c", reference: "sha256:x"},
		"/v2/a/blobs/sha256:x":           {operation: opBlob, name: "a", reference: "sha256:x"},
		"/v2/a/tags/list":                {operation: opTags, name: "a", reference: "list"},
		"/v2/a/referrers/sha256:x":       {operation: opReferrers, name: "a", reference: "sha256:x"},
		"/v2/a/blobs/uploads/":           {operation: opUpload, name: "a"},
		"/v2/a/blobs/uploads":            {operation: opUpload, name: "a"},
		"/v2/a/b/blobs/uploads/id":       {operation: opUpload, name: "a/b", reference: "id"},
		"/v2/a/uploads/b/blobs/uploads/": {operation: opUpload, name: "a/uploads/b"},
		// Names may be made of the API's words.
		"/v2/manifests/manifests/1":         {operation: opManifest, name: "manifests", reference: "1"},
		"/v2/a/blobs/uploads/manifests/1":   {operation: opManifest, name: "a/blobs/uploads", reference: "1"},
		"/v2/blobs/blobs/sha256:x":          {operation: opBlob, name: "blobs", reference: "sha256:x"},
		"/v2/tags/list/tags/list":           {operation: opTags, name: "tags/list", reference: "list"},
		"/v2/referrers/manifests/referrers": {operation: opManifest, name: "referrers", reference: "referrers"},
	} {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parse(u); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", path, got, err, want)
		}
	}
}

// FuzzPath holds the parser to one reading of each path: what it accepts is put
// together again from its parts, with nothing left over, and a name that leads
// to a repository leads to that one alone.
func FuzzPath(f *testing.F) {
	for _, path := range []string{
		"/v2/", "/v2/library/nginx/manifests/1", "/v2/docker.io/nginx/blobs/sha256:0", "/v2/a/tags/list", "/v2/a/referrers/sha256:0",
		"/v2/a/blobs/uploads/", "/v2/a/../b/manifests/1", "/v2/a%2fb/manifests/1", "/v2//a/manifests/1", "/v2/a/manifests/%2e%2e",
		"/v2/a%252fb/manifests/1", "/v2/\u212a/manifests/1", "/v2/a/manifests/1?ns=b", "/v2/%ff/manifests/1", "/v2/a\\b/manifests/1",
		"/v2/docker.io/docker.io/manifests/1", "/v2/a/blobs/uploads/manifests/1", "/v1/", "/", "*",
	} {
		f.Add(path)
	}
	table, err := newRoutes([]Route{{Registry: "docker.io", Default: true}, {Registry: "ghcr.io", Hosts: []string{"alias.example"}}})
	if err != nil {
		f.Fatal(err)
	}
	words := map[operation]string{opManifest: "manifests", opBlob: "blobs", opTags: "tags", opReferrers: "referrers"}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		c, err := parse(u)
		if err != nil {
			if c.name != "" || c.reference != "" {
				t.Errorf("%q: %+v beside %v", target, c, err)
			}
			return
		}
		word, ok := words[c.operation]
		if !ok {
			again := "/v2/" + c.name + "/blobs/uploads/" + c.reference
			switch {
			case c.operation == opBase && c.reference == "":
			case c.operation == opUpload && (again == u.Path || again == u.Path+"/"):
			default:
				t.Errorf("%q: %+v", target, c)
			}
			return
		}
		if again := "/v2/" + c.name + "/" + word + "/" + c.reference; again != u.Path {
			t.Errorf("%q is read as %q", u.Path, again)
		}
		if strings.Count(u.EscapedPath(), "/") != strings.Count(u.Path, "/") {
			t.Errorf("%q hides a separator", u.EscapedPath())
		}
		ref, err := table.repository(&http.Request{URL: &url.URL{}}, c.name)
		if err != nil {
			return
		}
		written := c.name
		for _, name := range []string{"docker.io", "ghcr.io", "alias.example"} {
			if first, rest, ok := strings.Cut(c.name, "/"); ok && strings.EqualFold(first, name) {
				written = rest
			}
		}
		if ref.Repository() != written && ref.Repository() != "library/"+written {
			t.Errorf("%q leads to %s", c.name, ref)
		}
		if again, err := oci.ParseReference(ref.String()); err != nil || again != ref || strings.Contains(ref.Repository(), "..") {
			t.Errorf("%q leads to %s, which reads back as %s, %v", c.name, ref, again, err)
		}
	})
}
