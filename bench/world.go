package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/trustgate/trustgate/internal/loopback"
	"github.com/trustgate/trustgate/internal/shipyard"
)

const (
	mib     = 1 << 20
	builder = "https://ci.example/builder"
	source  = "https://git.example/acme/app"
	commit  = "4a5b6c7d8e9f00112233445566778899aabbccdd"
)

// server is one that answers for a registry.
type server struct {
	name, address string
	*process

	admin string        // of TrustGate: the other listener
	ready time.Duration // how long it took to be
}

func (s *server) url(path string) string { return "http://" + s.address + path }

// world is the upstream with what is pulled from it, and the servers before it.
type world struct {
	dir, trustgate, tools string

	upstream *server
	images   *shipyard.Registry // the same
	key      *shipyard.Key

	gate, distribution, nginx, bare *server

	app         *shipyard.Image // signed, built from signed parents
	large, many *shipyard.Image
	small       []string // digests of many's layers
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

// newWorld builds and starts everything. What it returns must be closed, also
// beside an error.
func newWorld(ctx context.Context) (*world, error) {
	dir, err := os.MkdirTemp("", "tg-bench-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, trustgate: filepath.Join(dir, "bin", "trustgate")}
	if w.tools, err = filepath.Abs("../e2e/.cache/bin"); err != nil {
		return w, err
	}
	for _, tool := range []string{"registry", "cosign"} {
		if _, err := os.Stat(filepath.Join(w.tools, tool)); err != nil {
			return w, fmt.Errorf("%w; run ../e2e/tools.sh first", err)
		}
	}
	if err := os.WriteFile(w.file("wrk.lua"), []byte(script), 0o600); err != nil {
		return w, err
	}
	progress("building trustgate")
	build := exec.CommandContext(ctx, "go", "build", "-o", w.trustgate, "./cmd/trustgate")
	build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return w, fmt.Errorf("building trustgate: %w\n%s", err, out)
	}
	if w.upstream, err = w.registry(ctx, "upstream", ""); err != nil {
		return w, err
	}
	w.images = &shipyard.Registry{Addr: w.upstream.address}
	progress("publishing the images")
	if err := w.publish(ctx); err != nil {
		return w, fmt.Errorf("publishing the images: %w", err)
	}
	progress("starting the servers")
	if w.distribution, err = w.registry(ctx, "distribution", fmt.Sprintf("proxy: {remoteurl: %q}\n", "http://"+w.upstream.address)); err != nil {
		return w, err
	}
	if w.gate, err = w.startGate(ctx, "trustgate", w.upstream.address); err != nil {
		return w, err
	}
	return w, w.startStatic(ctx)
}

func (w *world) close() {
	for _, s := range []*server{w.gate, w.distribution, w.nginx, w.bare, w.upstream} {
		if s != nil {
			s.stop()
		}
	}
	_ = os.RemoveAll(w.dir)
}

// registry starts a distribution registry; more is added to its configuration.
func (w *world) registry(ctx context.Context, name, more string) (*server, error) {
	address, err := loopback.Address()
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %s}
  cache: {blobdescriptor: inmemory}
  maintenance: {uploadpurging: {enabled: false}}
http: {addr: %q}
%s`, w.file(name), address, more)
	if err := os.WriteFile(w.file(name+".yml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	p, _, err := start(ctx, w.dir, name, "http://"+address+"/v2/", filepath.Join(w.tools, "registry"), "serve", w.file(name+".yml"))
	return &server{name: name, address: address, process: p}, err
}

// publish fills the upstream.
func (w *world) publish(ctx context.Context) (err error) {
	if w.key, err = shipyard.NewKey(); err != nil {
		return err
	}
	public, err := w.key.PublicPEM()
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.file("ci.pub"), public, 0o600); err != nil {
		return err
	}
	if w.app, err = w.family(ctx, "app"); err != nil {
		return err
	}
	if w.large, err = w.noise(ctx, "large", 50*mib, 1); err != nil {
		return err
	}
	if w.many, err = w.noise(ctx, "many", 4<<10, 200); err != nil {
		return err
	}
	layers, err := w.many.Content.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			return err
		}
		w.small = append(w.small, d.String())
	}
	return nil
}

// family is an image with three parents, all signed and with provenance.
func (w *world) family(ctx context.Context, name string) (*shipyard.Image, error) {
	var parents []*shipyard.Image
	for i := range 3 {
		content, err := shipyard.Build(nil, map[string]string{"/etc/os-release": fmt.Sprintf("NAME=%s-%d", name, i)})
		if err != nil {
			return nil, err
		}
		parent, err := w.vouched(ctx, fmt.Sprintf("base/%s-%d", name, i), content)
		if err != nil {
			return nil, err
		}
		parents = append(parents, parent)
	}
	content, err := shipyard.Build(parents[0], map[string]string{"/bin/app": "#!/bin/sh\necho " + name})
	if err != nil {
		return nil, err
	}
	return w.vouched(ctx, "acme/"+name, content, parents...)
}

// noise is an image of layers that nothing can compress.
func (w *world) noise(ctx context.Context, name string, size, layers int) (*shipyard.Image, error) {
	random := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32.32s", name))))
	var content v1.Image = mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	for range layers {
		raw := make([]byte, size)
		_, _ = random.Read(raw)
		var err error
		if content, err = mutate.AppendLayers(content, static.NewLayer(raw, types.OCILayer)); err != nil {
			return nil, err
		}
	}
	config, err := content.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	if content, err = mutate.ConfigFile(content, config); err != nil {
		return nil, err
	}
	return w.vouched(ctx, "acme/"+name, content)
}

// vouched publishes an image with a signature and a signed provenance.
func (w *world) vouched(ctx context.Context, repository string, content v1.Image, parents ...*shipyard.Image) (*shipyard.Image, error) {
	image, err := w.images.Push(ctx, repository, "1", content)
	if err != nil {
		return nil, err
	}
	if err := w.images.Sign(ctx, w.key, image); err != nil {
		return nil, err
	}
	return image, w.images.Attest(ctx, w.key, image, shipyard.ProvenanceType, shipyard.Provenance(builder, source, commit, parents...))
}

// startGate starts TrustGate with every shipped rule loaded, those of the
// collections that the images can satisfy active, and everything enforced. A
// name that was used before is the same data again.
func (w *world) startGate(ctx context.Context, name, upstream string) (*server, error) {
	address, err := loopback.Address()
	if err != nil {
		return nil, err
	}
	admin, err := loopback.Address()
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`listen: %q
admin: %q
data: %s
routes:
  - registry: %s
    upstream: http://%s
    insecure: true
    default: true
    mode: enforce
    credentials: {anonymous: true}
    scopes:
      - {repositories: ["unsigned/*"], mode: annotate}
platforms: [linux/amd64]
trust:
  signers:
    - {name: ci, cosign: {key: ci.pub}}
  builders:
    - {id: %q, signers: [ci]}
  sources: [%q]
policy: {builtin: true, collections: [minimal, trusted-builds, slsa3]}
cache: {max_size: 50GB}
log: {level: warn}
`, address, admin, w.file(name), w.upstream.address, upstream, builder, source)
	file := w.file(name + ".yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	p, took, err := start(ctx, w.dir, name, "http://"+admin+"/readyz", w.trustgate, "serve", "--config", file)
	return &server{name: name, address: address, process: p, admin: admin, ready: took}, err
}

// startStatic lays the same bytes out for nginx and for a bare handler.
func (w *world) startStatic(ctx context.Context) (err error) {
	root := w.file("static")
	for _, image := range []*shipyard.Image{w.app, w.large, w.many} {
		manifest, err := image.Content.RawManifest()
		if err != nil {
			return err
		}
		for _, reference := range []string{image.Tag, image.Digest.String()} {
			if err := write(root+manifestPath(image, reference), manifest); err != nil {
				return err
			}
		}
		layers, err := image.Content.Layers()
		if err != nil {
			return err
		}
		for _, l := range layers {
			d, err := l.Digest()
			if err != nil {
				return err
			}
			blob, err := l.Compressed()
			if err != nil {
				return err
			}
			raw, err := io.ReadAll(blob)
			if err != nil {
				return err
			}
			if err := write(root+blobPath(image, d.String()), raw); err != nil {
				return err
			}
		}
	}
	address, err := loopback.Address()
	if err != nil {
		return err
	}
	config := fmt.Sprintf(`daemon off;
worker_processes auto;
pid nginx.pid;
error_log stderr error;
events { worker_connections 4096; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  open_file_cache max=1000;
  keepalive_requests 1000000000;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  types {}
  server {
    listen %s;
    root %s;
    location ~ /manifests/ { default_type application/vnd.oci.image.manifest.v1+json; }
    location / { default_type application/octet-stream; }
  }
}
`, address, root)
	if os.Geteuid() == 0 {
		config = "user root;\n" + config
	}
	if err := os.WriteFile(w.file("nginx.conf"), []byte(config), 0o600); err != nil {
		return err
	}
	p, _, err := start(ctx, w.dir, "nginx", "http://"+address+manifestPath(w.app, w.app.Tag), "nginx", "-p", w.dir, "-c", w.file("nginx.conf"))
	if err != nil {
		return err
	}
	w.nginx = &server{name: "nginx", address: address, process: p}
	if address, err = loopback.Address(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p, _, err = start(ctx, w.dir, "bare", "http://"+address+manifestPath(w.app, w.app.Tag), self, "handler", address, root)
	w.bare = &server{name: "net/http", address: address, process: p}
	return err
}

func write(path string, raw []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o644)
}

func manifestPath(image *shipyard.Image, reference string) string {
	return "/v2/" + image.Repository + "/manifests/" + reference
}

// layerPath is where the first layer of an image is.
func layerPath(image *shipyard.Image) (string, error) {
	layers, err := image.Content.Layers()
	if err != nil {
		return "", err
	}
	d, err := layers[0].Digest()
	return blobPath(image, d.String()), err
}

func blobPath(image *shipyard.Image, digest string) string {
	return "/v2/" + image.Repository + "/blobs/" + digest
}

// serveBare is the least that a Go server can do: the manifests below root, from
// memory, with the headers of a registry.
func serveBare(address, root string) error {
	held := map[string][]byte{}
	digests := map[string]string{}
	manifests, err := filepath.Glob(filepath.Join(root, "v2/*/*/manifests/*"))
	if err != nil {
		return err
	}
	for _, file := range manifests {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		held[strings.TrimPrefix(file, root)] = raw
		if digest := filepath.Base(file); strings.HasPrefix(digest, "sha256:") {
			digests[filepath.Dir(file)] = digest
		}
	}
	return http.ListenAndServe(address, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		raw, ok := held[r.URL.Path]
		if !ok {
			http.NotFound(rw, r)
			return
		}
		h := rw.Header()
		h["Content-Type"] = []string{"application/vnd.oci.image.manifest.v1+json"}
		h["Docker-Content-Digest"] = []string{digests[filepath.Dir(root+r.URL.Path)]}
		_, _ = rw.Write(raw)
	}))
}

// fetch reads all of url and says what was answered.
func fetch(ctx context.Context, url string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, raw, err
}

// serves makes sure that a server gives what it should before it is measured.
func serves(ctx context.Context, on *server, path string) error {
	status, raw, err := fetch(ctx, on.url(path))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s answers %d to %s: %.300s", on.name, status, path, raw)
	}
	return err
}

// download reads url and throws away what it gets, which must be of the size.
func download(ctx context.Context, url string, size int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && n != size {
		err = fmt.Errorf("%s: %s, %d of %d bytes", url, resp.Status, n, size)
	}
	return err
}
