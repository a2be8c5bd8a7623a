package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/proxy"
)

// The names that the servers of the tests are reached by. The client of a TLS
// server from httptest leads every name below example.com to it.
const (
	gateHost     = "gate.example.com"     // where the registry stands in the path
	registryHost = "registry.example.com" // a name of the upstream that may stand in a reference
)

// front is the handler behind a real server, and a client of it.
type front struct {
	testing.TB
	server   *httptest.Server
	client   *http.Client
	base     string // scheme and host
	registry string // a name of the upstream, first in the path
}

// protocols are how clients speak to the gate.
var protocols = []string{"HTTP/1.1", "HTTP/2.0"}

// unencrypted is another, of HTTP/2 without TLS.
const unencrypted = "h2c"

// handlerFor serves the stage's registry and nothing else.
func handlerFor(s *stage.Stage, g proxy.Gate, change ...func(*proxy.Options)) http.Handler {
	s.Helper()
	o := proxy.Options{Gate: g, Routes: []proxy.Route{{Registry: s.Registry.Addr, Hosts: []string{registryHost}}}}
	for _, c := range change {
		c(&o)
	}
	h, err := proxy.New(o)
	s.Must(err)
	return h
}

// serve starts a server: HTTP/1.1 in plain text, HTTP/2 over TLS.
func serve(s *stage.Stage, protocol string, handler http.Handler, change ...func(*httptest.Server)) *front {
	s.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	for _, c := range change {
		c(server)
	}
	f := &front{TB: s.TB, server: server, registry: registryHost}
	switch protocol {
	case "HTTP/2.0":
		server.EnableHTTP2 = true
		server.StartTLS()
		f.base = "https://" + gateHost
	case unencrypted:
		server.Config.Protocols = new(http.Protocols)
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
		f.base = server.URL
		server.Client().Transport.(*http.Transport).Protocols = server.Config.Protocols
	default:
		server.Start()
		f.base = server.URL
	}
	f.client = server.Client()
	s.Cleanup(server.Close)
	return f
}

// open is a whole gate with a server before it.
func open(s *stage.Stage, o stage.Options) *front {
	s.Helper()
	return serve(s, "HTTP/1.1", handlerFor(s, s.Gate(o)))
}

// in is f for a subtest.
func (f *front) in(t testing.TB) *front {
	inner := *f
	inner.TB = t
	return &inner
}

// path is below /v2/ and the registry's name: path("app", "manifests", "1").
func (f *front) path(parts ...string) string {
	return "/v2/" + f.registry + "/" + strings.Join(parts, "/")
}

// answer is all of an HTTP response.
type answer struct {
	testing.TB
	*http.Response
	body []byte
	err  error // of reading the body
}

// do sends a request; header is a list of names and values.
func (f *front) do(method, path string, header ...string) *answer {
	f.Helper()
	a, err := f.try(method, path, header...)
	if err != nil {
		f.Fatal(err)
	}
	return a
}

// try is do where there may be no answer at all.
func (f *front) try(method, path string, header ...string) (*answer, error) {
	f.Helper()
	req, err := http.NewRequest(method, f.base+path, nil)
	if err != nil {
		f.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	return f.read(resp), nil
}

func (f *front) read(resp *http.Response) *answer {
	defer resp.Body.Close()
	a := &answer{TB: f.TB, Response: resp}
	a.body, a.err = io.ReadAll(resp.Body)
	return a
}

func (f *front) get(path string, header ...string) *answer {
	f.Helper()
	return f.do(http.MethodGet, path, header...)
}

func (f *front) head(path string, header ...string) *answer {
	f.Helper()
	return f.do(http.MethodHead, path, header...)
}

// raw sends bytes as they are to a server without TLS, closes the sending half
// if told to, and reads one answer.
func (f *front) raw(request string, closeHalf bool) *answer {
	f.Helper()
	conn, err := net.Dial("tcp", f.server.Listener.Addr().String())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, request); err != nil {
		f.Fatal(err)
	}
	if closeHalf {
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			f.Fatal(err)
		}
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		f.Fatal(err)
	}
	return f.read(resp)
}

// target sends a GET whose request target is exactly this.
func (f *front) target(target string) *answer {
	f.Helper()
	return f.raw("GET "+target+" HTTP/1.1\r\nHost: "+gateHost+"\r\nConnection: close\r\n\r\n", false)
}

// served demands a whole manifest or blob with this digest.
func (a *answer) served(d digest.Digest) *answer {
	a.Helper()
	if a.StatusCode != http.StatusOK || a.err != nil || d.Algorithm().FromBytes(a.body) != d {
		a.Fatalf("%s %s: %s, %d bytes that hash to %s, %v; want %s\n%.400s",
			a.method(), a.Request.URL, a.Status, len(a.body), digest.FromBytes(a.body), a.err, d, a.body)
	}
	if got := a.Header.Get("Docker-Content-Digest"); got != d.String() {
		a.Errorf("Docker-Content-Digest is %q", got)
	}
	if a.ContentLength != int64(len(a.body)) {
		a.Errorf("Content-Length is %d for %d bytes", a.ContentLength, len(a.body))
	}
	return a
}

func (a *answer) method() string {
	if a.Request == nil {
		a.Request = &http.Request{Method: "raw", URL: &url.URL{}}
	}
	return a.Request.Method
}

// failure is the one entry of an error document. Detail is a string, or
// decoding fails: clients drop everything else.
type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Detail  string `json:"detail"`
}

// refused demands an error document with this status and code, nothing in the
// headers that only an answer which serves may have, and one line for people.
func (a *answer) refused(status int, code string) failure {
	a.Helper()
	if a.StatusCode != status {
		a.Fatalf("%s %s: %s, want %d\n%.600s", a.method(), a.Request.URL, a.Status, status, a.body)
	}
	for _, name := range []string{"Docker-Content-Digest", "Etag", "Accept-Ranges"} {
		if v := a.Header.Get(name); v != "" {
			a.Errorf("the refusal has the header %s: %s", name, v)
		}
	}
	if got := a.Header.Get("Content-Type"); got != "application/json" {
		a.Errorf("Content-Type is %q", got)
	}
	if a.method() == http.MethodHead {
		if len(a.body) > 0 {
			a.Errorf("HEAD has a body: %s", a.body)
		}
		return failure{}
	}
	var document struct {
		Errors []failure `json:"errors"`
	}
	dec := json.NewDecoder(bytes.NewReader(a.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&document); err != nil || len(document.Errors) != 1 {
		a.Fatalf("the error document is %s: %v", a.body, err)
	}
	one := document.Errors[0]
	if one.Code != code {
		a.Errorf("the code is %s, want %s (%s)", one.Code, code, one.Message)
	}
	if one.Message == "" || strings.ContainsAny(one.Message, "\r\n\t") {
		a.Errorf("the message is not one line: %q", one.Message)
	}
	return one
}

// puller is what go-containerregistry needs to pull through f.
func (f *front) puller() []remote.Option {
	return []remote.Option{remote.WithTransport(f.client.Transport), remote.WithContext(context.Background())}
}

// reference is an image as a client names it that goes through f.
func (f *front) reference(rest string) name.Reference {
	f.Helper()
	u, err := url.Parse(f.base)
	if err != nil {
		f.Fatal(err)
	}
	ref, err := name.ParseReference(u.Host+"/"+f.registry+"/"+rest, name.StrictValidation)
	if err != nil {
		f.Fatal(err)
	}
	return ref
}

// digests are those of an image's config and layers.
func digests(s *stage.Stage, image v1.Image) (config digest.Digest, layers []digest.Digest) {
	s.Helper()
	manifest, err := image.Manifest()
	s.Must(err)
	for _, l := range manifest.Layers {
		layers = append(layers, digest.Digest(l.Digest.String()))
	}
	return digest.Digest(manifest.Config.Digest.String()), layers
}

// build makes an image of one file.
func build(s *stage.Stage, content string) v1.Image {
	s.Helper()
	image, err := shipyard.Build(nil, map[string]string{"bin/app": content})
	s.Must(err)
	return image
}

// library puts another real registry in the place of the upstream: one that has
// the referrers API and takes every manifest, whatever is in it.
func library(s *stage.Stage) {
	handler := ggcr.New(ggcr.WithReferrersSupport(true), ggcr.Logger(log.New(io.Discard, "", 0)))
	s.Upstream.Interpose(func(http.Handler) http.Handler { return handler })
}

// putManifest publishes bytes as a manifest, past every check of a client.
func putManifest(s *stage.Stage, repository, reference, mediaType, raw string) digest.Digest {
	s.Helper()
	put(s, "/v2/"+repository+"/manifests/"+reference, mediaType, raw)
	return digest.FromString(raw)
}

// putBlob publishes bytes as a blob.
func putBlob(s *stage.Stage, repository, raw string) oci.Descriptor {
	s.Helper()
	d := digest.FromString(raw)
	resp, err := http.Post("http://"+s.Registry.Addr+"/v2/"+repository+"/blobs/uploads/", "", nil)
	s.Must(err)
	resp.Body.Close()
	location, err := resp.Location()
	s.Must(err)
	query := location.Query()
	query.Set("digest", d.String())
	put(s, location.Path+"?"+query.Encode(), "application/octet-stream", raw)
	return oci.Descriptor{Digest: d, Size: int64(len(raw))}
}

func put(s *stage.Stage, path, mediaType, raw string) {
	s.Helper()
	req, err := http.NewRequest(http.MethodPut, "http://"+s.Registry.Addr+path, strings.NewReader(raw))
	s.Must(err)
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	s.Must(err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		body, _ := io.ReadAll(resp.Body)
		s.Fatalf("PUT %s: %s %s", path, resp.Status, body)
	}
}

// tamper changes the upstream's answers to GET requests whose path ends so. The
// length is that of the changed body, unless the change announces another one,
// or unannounced, which leaves it open.
func tamper(s *stage.Stage, end string, change func(header http.Header, body []byte) []byte) {
	s.Upstream.Interpose(func(registry http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, end) {
				registry.ServeHTTP(w, r)
				return
			}
			recorded := httptest.NewRecorder()
			registry.ServeHTTP(recorded, r)
			header := recorded.Header().Clone()
			header.Del("Content-Length")
			body := change(header, bytes.Clone(recorded.Body.Bytes()))
			right := strconv.Itoa(len(body))
			switch header.Get("Content-Length") {
			case "":
				header.Set("Content-Length", right)
			case unannounced:
				header.Del("Content-Length")
			}
			for key, values := range header {
				w.Header()[key] = values
			}
			w.WriteHeader(recorded.Code)
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(body) // net/http refuses what exceeds the length that was announced
			if announced := header.Get("Content-Length"); announced != "" && announced != right {
				panic(http.ErrAbortHandler)
			}
		})
	})
}

const unannounced = "unannounced"

// showing is f with a client that shows a certificate.
func (f *front) showing(certificate tls.Certificate) *front {
	inner := *f
	transport := f.client.Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.Certificates = []tls.Certificate{certificate}
	inner.client = &http.Client{Transport: transport}
	f.Cleanup(transport.CloseIdleConnections)
	return &inner
}
