package proxy_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/proxy"
)

// Every way of naming a registry leads to the repository that it means, or
// nowhere. A block says which one it was.
func TestRouting(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	for _, repository := range []string{"library/nginx", "acme/app", "docker.io/library/nginx", "unknown.example/app"} {
		s.Image(repository, nil)
	}
	g := s.Gate(stage.Options{Names: []string{"docker.io", "ghcr.io"}})
	f := serve(s, "HTTP/1.1", handlerFor(s, g, func(o *proxy.Options) {
		o.Routes = []proxy.Route{{Registry: "docker.io", Hosts: []string{"Hub.example.com"}, Default: true}, {Registry: "ghcr.io"}}
	}))
	for _, tc := range []struct {
		name, path, host string
		means            string // or "" for nothing
	}{
		{"by namespace", "/v2/acme/app/manifests/1?ns=ghcr.io", "", "ghcr.io/acme/app:1"},
		{"by namespace in other letters", "/v2/acme/app/manifests/1?ns=GHCR.io", "", "ghcr.io/acme/app:1"},
		{"by namespace, of Docker Hub", "/v2/library/nginx/manifests/1?ns=docker.io", "", "nginx:1"},
		{"by namespace under another name", "/v2/library/nginx/manifests/1?ns=hub.example.com", "", "nginx:1"},
		{"by namespace before all else", "/v2/acme/app/manifests/1?ns=ghcr.io", "docker.io", "ghcr.io/acme/app:1"},
		{"by namespace, which leaves the path alone", "/v2/docker.io/library/nginx/manifests/1?ns=ghcr.io", "", "ghcr.io/docker.io/library/nginx:1"},
		{"by path", "/v2/ghcr.io/acme/app/manifests/1", "", "ghcr.io/acme/app:1"},
		{"by path, a short name", "/v2/docker.io/nginx/manifests/1", "", "nginx:1"},
		{"by path under another name", "/v2/hub.example.com/acme/app/manifests/1", "", "acme/app:1"},
		{"by host", "/v2/acme/app/manifests/1", "ghcr.io", "ghcr.io/acme/app:1"},
		{"by host in other letters", "/v2/acme/app/manifests/1", "GHCR.IO", "ghcr.io/acme/app:1"},
		{"by host, which leaves the path alone", "/v2/docker.io/library/nginx/manifests/1", "ghcr.io", "ghcr.io/docker.io/library/nginx:1"},
		{"by default", "/v2/library/nginx/manifests/1", "", "nginx:1"},
		{"by default, a short name", "/v2/nginx/manifests/1", "", "nginx:1"},
		{"by default for what looks like a registry", "/v2/unknown.example/app/manifests/1", "", "docker.io/unknown.example/app:1"},
		{"an unknown namespace", "/v2/acme/app/manifests/1?ns=quay.io", "", ""},
		{"an unknown namespace where the path would do", "/v2/ghcr.io/acme/app/manifests/1?ns=quay.io", "ghcr.io", ""},
		{"an empty namespace", "/v2/acme/app/manifests/1?ns=", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := f.in(t)
			var header []string
			if tc.host != "" {
				header = []string{"Host", tc.host}
			}
			if tc.means == "" {
				refusal := f.get(tc.path, header...).refused(http.StatusNotFound, "NAME_UNKNOWN")
				if !strings.Contains(refusal.Message, "docker.io, ghcr.io") {
					t.Errorf("it does not say what is known: %s", refusal.Message)
				}
				return
			}
			a := f.get(tc.path, header...)
			refusal := a.refused(http.StatusForbidden, "DENIED")
			if !strings.HasPrefix(refusal.Message, "TrustGate blocked "+tc.means+": ") {
				t.Errorf("it is about something else than %s: %s", tc.means, refusal.Message)
			}
			_, named, _ := strings.Cut(tc.path, "ns=")
			if got := a.Header.Get("OCI-Namespace"); (named != "") != (got != "") {
				t.Errorf("OCI-Namespace is %q", got)
			}
		})
	}
	t.Run("without a default route", func(t *testing.T) {
		f := serve(s.For(t), "HTTP/1.1", handlerFor(s, g, func(o *proxy.Options) {
			o.Routes = []proxy.Route{{Registry: "ghcr.io"}}
		}))
		f.get("/v2/acme/app/manifests/1").refused(http.StatusNotFound, "NAME_UNKNOWN")
		f.get("/v2/app/tags/list").refused(http.StatusNotFound, "NAME_UNKNOWN")
	})
}

func TestRoutesThatContradictEachOther(t *testing.T) {
	t.Parallel()
	for name, routes := range map[string][]proxy.Route{
		"two by one name":               {{Registry: "a.example", Hosts: []string{"x.example"}}, {Registry: "b.example", Hosts: []string{"X.example"}}},
		"one by the other's name":       {{Registry: "a.example"}, {Registry: "b.example", Hosts: []string{"a.example"}}},
		"two that names without belong": {{Registry: "a.example", Default: true}, {Registry: "b.example", Default: true}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := proxy.New(proxy.Options{Routes: routes}); err == nil || !strings.Contains(err.Error(), "both a.example and b.example") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestVersionCheck(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	g := s.Gate(stage.Options{})
	for _, protocol := range protocols {
		f := serve(s, protocol, handlerFor(s, g))
		for _, path := range []string{"/v2/", "/v2"} {
			a := f.get(path)
			if a.StatusCode != http.StatusOK || string(a.body) != "{}" || a.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
				t.Errorf("%s: %s %s %v", path, a.Status, a.body, a.Header)
			}
			if a := f.head(path); a.StatusCode != http.StatusOK {
				t.Errorf("HEAD %s: %s", path, a.Status)
			}
			f.do(http.MethodPost, path).refused(http.StatusMethodNotAllowed, "UNSUPPORTED")
		}
	}
	if n := s.Upstream.Count(""); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

func TestPushIsRefused(t *testing.T) {
	t.Parallel()
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	f := open(s, stage.Options{Mode: policy.Audit})
	s.Upstream.Reset()
	for _, tc := range []struct{ method, path string }{
		{http.MethodPost, f.path("app", "blobs", "uploads", "")},
		{http.MethodPost, f.path("app", "blobs", "uploads")},
		{http.MethodPost, f.path("app", "blobs", "uploads", "?mount="+app.Digest.String()+"&from=other")},
		{http.MethodPost, f.path("uploads", "of", "app", "blobs", "uploads", "")},
		{http.MethodPatch, f.path("app", "blobs", "uploads", "0123")},
		{http.MethodPut, f.path("app", "blobs", "uploads", "0123?digest="+app.Digest.String())},
		{http.MethodGet, f.path("app", "blobs", "uploads", "0123")},
		{http.MethodGet, f.path("app", "blobs", "uploads", "")},
		{http.MethodPut, f.path("app", "manifests", "1")},
		{http.MethodDelete, f.path("app", "manifests", app.Digest.String())},
		{http.MethodDelete, f.path("app", "blobs", app.Digest.String())},
		{"MKCOL", f.path("app", "manifests", "1")},
	} {
		t.Run(tc.method+" "+tc.path, func(t *testing.T) {
			a := f.in(t).do(tc.method, tc.path)
			refusal := a.refused(http.StatusMethodNotAllowed, "UNSUPPORTED")
			if a.Header.Get("Allow") != "GET, HEAD" || !strings.Contains(refusal.Message, "push to the registry behind it") {
				t.Errorf("Allow %q, %s", a.Header.Get("Allow"), refusal.Message)
			}
		})
	}
	if n := s.Upstream.Count(""); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}
