package upstream_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

func TestNew(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options upstream.Options
		says    string // "" where it is right
	}{
		{"https", upstream.Options{Registry: "docker.io", URL: "https://registry-1.docker.io"}, ""},
		{"https with a slash", upstream.Options{Registry: "docker.io", URL: "https://registry-1.docker.io/"}, ""},
		{"https with a port", upstream.Options{Registry: "registry.example.com:5000", URL: "HTTPS://Registry.Example.com:5000"}, ""},
		{"an address", upstream.Options{Registry: "registry.example.com", URL: "https://[2001:db8::1]:5000"}, ""},
		{"http on an insecure route", upstream.Options{Registry: "localhost:5000", URL: "http://localhost:5000", Insecure: true}, ""},
		{"http", upstream.Options{Registry: "localhost:5000", URL: "http://localhost:5000"}, "mark the route insecure"},
		{"no URL", upstream.Options{Registry: "docker.io"}, "begins neither with"},
		{"no scheme", upstream.Options{Registry: "docker.io", URL: "registry-1.docker.io"}, "begins neither with"},
		{"no scheme, but credentials", upstream.Options{Registry: "docker.io", URL: "alice:opensesame@registry-1.docker.io"}, "begins neither with"},
		{"another scheme", upstream.Options{Registry: "docker.io", URL: "ftp://registry-1.docker.io"}, "begins neither with"},
		{"no host", upstream.Options{Registry: "docker.io", URL: "https://"}, "scheme and a host alone"},
		{"a port alone", upstream.Options{Registry: "docker.io", URL: "https://:5000"}, "scheme and a host alone"},
		{"an address of one link", upstream.Options{Registry: "docker.io", URL: "https://[fe80::1%25eth0]"}, "is not the host of a registry"},
		{"a user name", upstream.Options{Registry: "docker.io", URL: "https://alice:opensesame@registry-1.docker.io"}, "put it under credentials"},
		{"what cannot be read", upstream.Options{Registry: "docker.io", URL: "https://alice:opensesame@%zz"}, "cannot be read"},
		{"a path", upstream.Options{Registry: "docker.io", URL: "https://registry.example.com/v2/"}, "paths before /v2/ are not supported"},
		{"a query", upstream.Options{Registry: "docker.io", URL: "https://registry.example.com?token=opensesame"}, "scheme and a host alone"},
		{"a fragment", upstream.Options{Registry: "docker.io", URL: "https://registry.example.com#opensesame"}, "scheme and a host alone"},
		{"no name", upstream.Options{URL: "https://registry.example.com"}, "registry name"},
		{"a name that is a path", upstream.Options{Registry: "registry.example.com/acme", URL: "https://registry.example.com"}, "registry name"},
		{"a name that is no host", upstream.Options{Registry: "acme", URL: "https://registry.example.com"}, "registry name"},
		{"two kinds of credentials", upstream.Options{Registry: "docker.io", URL: "https://registry-1.docker.io", Credentials: upstream.Credentials{DockerConfig: "config.json", Username: "alice", PasswordFile: "password"}}, "give one of"},
		{"credentials and none", upstream.Options{Registry: "docker.io", URL: "https://registry-1.docker.io", Credentials: upstream.Credentials{DockerConfig: "config.json", Anonymous: true}}, "give one of"},
		{"a user name without a password", upstream.Options{Registry: "docker.io", URL: "https://registry-1.docker.io", Credentials: upstream.Credentials{Username: "alice"}}, "go together"},
		{"a password without a user name", upstream.Options{Registry: "docker.io", URL: "https://registry-1.docker.io", Credentials: upstream.Credentials{PasswordFile: "password"}}, "go together"},
		{"a CA that is none", upstream.Options{Registry: "docker.io", URL: "https://registry-1.docker.io", CA: []byte("-----BEGIN opensesame-----")}, "no PEM certificate"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := upstream.New(tc.options)
			switch {
			case tc.says == "" && err != nil:
				t.Fatal(err)
			case tc.says == "":
				if r.Name() != tc.options.Registry {
					t.Errorf("is called %q", r.Name())
				}
			case err == nil:
				t.Fatal("made a client")
			default:
				says(t, err, tc.says, tc.options.Registry)
				keepsQuiet(t, err, "opensesame")
			}
		})
	}
}

func TestPing(t *testing.T) {
	h := openHarbour(t)
	if err := open(t, h.Addr, nil).Ping(t.Context()); err != nil {
		t.Error(err)
	}
	users := newHtpasswd(t, "alice", "open sesame")
	handler, _ := guarded(t, users.auth())
	err := open(t, serve(t, handler), nil).Ping(t.Context())
	wants(t, err, upstream.ErrUnauthorized, false)
	err = open(t, serve(t, http.NotFoundHandler()), nil).Ping(t.Context())
	wants(t, err, upstream.ErrUnavailable, true)
	says(t, err, "asking for /v2/", "does not look like a registry")
}

func TestRepository(t *testing.T) {
	r, err := upstream.New(upstream.Options{Registry: "docker.io", URL: "https://registry-1.docker.io"})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"nginx", "library/nginx", "acme/team/app"} {
		if _, err := r.Repository(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{"", "/nginx", "nginx/", "Nginx", "nginx:1", "nginx@sha256:" + strings.Repeat("0", 64), "../nginx", "nginx?a=b", "nginx%2f", "a//b"} {
		if _, err := r.Repository(path); err == nil {
			t.Errorf("%q is a repository", path)
		}
	}
}

// On docker.io a single word is below "library/", in what is asked for too.
func TestLibrary(t *testing.T) {
	seen := &journal{}
	r := open(t, serve(t, seen.keep(http.HandlerFunc(manifest))), func(o *upstream.Options) { o.Registry = "docker.io" })
	p, err := r.Repository("nginx")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Manifest(t.Context(), "1"); err != nil {
		t.Fatal(err)
	}
	if got := seen.asked(); got[0] != "GET /v2/library/nginx/manifests/1" {
		t.Errorf("asked %q", got)
	}
	if got := seen.header("Accept"); !strings.Contains(got[0], oci.MediaTypeImageIndex) {
		t.Errorf("accepts %q", got)
	}
}
