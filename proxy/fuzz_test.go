package proxy_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/proxy"
)

// FuzzHandler asks a whole gate anything. Whatever is asked, it answers, and
// nothing that was not admitted leaves: every answer with content is of the one
// trusted image or of evidence, and every other one is a list or a refusal.
func FuzzHandler(f *testing.F) {
	s := stage.New(f)
	served, blocked, unasked := s.Trusted(s.Image("served", nil)), s.Image("blocked", nil), s.Trusted(s.Image("unasked", nil))
	h := handlerFor(s, s.Gate(stage.Options{Log: zap.NewNop()}), func(o *proxy.Options) { o.Routes[0].Default = true })
	ask := func(method, target, host string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return nil // no request of that kind reaches a handler
		}
		h.ServeHTTP(w, &http.Request{Method: method, URL: u, Host: host, RemoteAddr: "192.0.2.1:1", Header: http.Header{}})
		return w
	}
	for _, repository := range []string{"served", "blocked"} {
		ask(http.MethodGet, "/v2/"+repository+"/manifests/1", "")
	}

	admitted := map[digest.Digest]bool{served.Digest: true, unasked.Digest: true}
	with := func(image v1.Image) { // its blobs
		config, layers := digests(s, image)
		for _, d := range append(layers, config) {
			admitted[d] = true
		}
	}
	with(served.Content)
	for _, image := range []string{"served", "unasked"} {
		of := map[string]digest.Digest{"served": served.Digest, "unasked": unasked.Digest}[image]
		for _, suffix := range []string{".sig", ".att"} {
			evidence, err := remote.Image(at(s, image+":"+evidenceTag(of, suffix)))
			s.Must(err)
			d, err := evidence.Digest()
			s.Must(err)
			admitted[digest.Digest(d.String())] = true
			with(evidence)
		}
	}

	config, layers := digests(s, blocked.Content)
	good, _ := digests(s, served.Content)
	never, _ := digests(s, unasked.Content)
	for _, target := range []string{
		"/v2/", "/v2/served/manifests/1", "/v2/served/manifests/" + served.Digest.String(), "/v2/served/blobs/" + good.String(),
		"/v2/blocked/manifests/1", "/v2/blocked/manifests/" + blocked.Digest.String(), "/v2/blocked/blobs/" + config.String(),
		"/v2/blocked/blobs/" + layers[0].String(), "/v2/served/blobs/" + config.String(), "/v2/unasked/blobs/" + never.String(),
		"/v2/served/tags/list?n=1", "/v2/served/referrers/" + served.Digest.String(), "/v2/served/referrers/" + blocked.Digest.String(),
		"/v2/served/manifests/" + evidenceTag(served.Digest, ".sig"), "/v2/" + registryHost + "/blocked/manifests/1",
		"/v2/blocked/manifests/1?ns=" + registryHost, "/v2/served/../blocked/manifests/1", "/v2/served%2f..%2fblocked/manifests/1",
		"/v2//blocked/manifests/1", "/v2/blocked/blobs/uploads/", "/v2/blocked/manifests/" + strings.ToUpper(blocked.Digest.String()),
		"/v2/served/blobs/" + blocked.Digest.String(), "/v2/blocked/tags/list?last=%00", "*", "/v2/served/manifests/1?ns=169.254.169.254",
	} {
		f.Add(target, "", false)
		f.Add(target, registryHost, true)
	}
	f.Fuzz(func(t *testing.T, target, host string, head bool) {
		method := http.MethodGet
		if head {
			method = http.MethodHead
		}
		w := ask(method, target, host)
		if w == nil {
			return
		}
		said := digest.Digest(w.Header().Get("Docker-Content-Digest"))
		switch {
		case w.Code >= 400:
			if said != "" || (!head && !json.Valid(w.Body.Bytes())) {
				t.Errorf("%s %q: %d with %q: %s", method, target, w.Code, said, w.Body)
			}
		case w.Code != http.StatusOK:
			t.Errorf("%s %q: %d", method, target, w.Code)
		case said != "":
			if !admitted[said] || (!head && digest.FromBytes(w.Body.Bytes()) != said) {
				t.Errorf("%s %q: %s with %d bytes", method, target, said, w.Body.Len())
			}
			if said == unasked.Digest {
				with(unasked.Content) // from now on
			}
		case !head:
			var list struct {
				Name      *string
				Tags      []string
				Manifests []any
			}
			if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || (w.Body.String() != "{}" && list.Name == nil && list.Manifests == nil) {
				t.Errorf("%s %q: %s", method, target, w.Body)
			}
		}
	})
}
