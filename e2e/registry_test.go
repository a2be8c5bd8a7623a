package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// registry is a stock distribution registry in a process of its own.
type registry struct {
	*process
	addr string // host:port; the name that signatures and provenance carry
	host string // the name that clients of the gate write for it
	root string
}

// startRegistry serves the folder root, which may be one that TrustGate filled.
func startRegistry(w *world, name, host, root string) (*registry, error) {
	return startRegistryWith(w, name, host, root, "")
}

// startRegistryWith adds lines to the registry's configuration.
func startRegistryWith(w *world, name, host, root, more string) (*registry, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	r := &registry{addr: address, host: host, root: root}
	config := filepath.Join(w.dir, name+".yml")
	err = os.WriteFile(config, fmt.Appendf(nil, `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %s}
  delete: {enabled: true}
  maintenance: {uploadpurging: {enabled: false}}
http: {addr: %q}
%s`, root, r.addr, more), 0o600)
	if err != nil {
		return nil, err
	}
	r.process, err = start(w.dir, name, w.env, answers("http://"+r.addr+"/v2/", http.StatusOK, http.StatusUnauthorized), w.path("registry"), "serve", config)
	return r, err
}

// image is one image in a registry, as a pull of its tag resolves it.
type image struct {
	registry *registry
	repo     string
	tag      string
	digest   string
}

func (i image) String() string { return i.registry.addr + "/" + i.repo + ":" + i.tag }

// pinned names the image by digest alone.
func (i image) pinned() string { return i.registry.addr + "/" + i.repo + "@" + i.digest }

// descriptor is the part of an OCI descriptor that the tests read.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
}

// manifest is an image manifest or an index.
type manifest struct {
	MediaType string       `json:"mediaType"`
	Manifests []descriptor `json:"manifests"`
	Config    *descriptor  `json:"config"`
	Layers    []descriptor `json:"layers"`
}

// children are the descriptors that a complete copy of the manifest needs.
func (m manifest) children() []descriptor {
	all := append([]descriptor(nil), m.Manifests...)
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	return append(all, m.Layers...)
}

// manifestOf reads a manifest from the registry itself, by tag or digest.
func (r *registry) manifestOf(t testing.TB, repo, reference string) (manifest, []byte) {
	t.Helper()
	resp, body := get(t, http.MethodGet, "http://"+r.addr+"/v2/"+repo+"/manifests/"+reference)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the upstream answers %s for %s %s: %s", resp.Status, repo, reference, body)
	}
	var m manifest
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	return m, body
}

// blobOf reads a blob from the registry itself.
func (r *registry) blobOf(t testing.TB, repo, digest string) []byte {
	t.Helper()
	resp, body := get(t, http.MethodGet, "http://"+r.addr+"/v2/"+repo+"/blobs/"+digest)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the upstream answers %s for blob %s of %s", resp.Status, digest, repo)
	}
	return body
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// verifyLayout checks that an OCI layout on disk holds exactly the image: the
// entry has its digest, and every manifest, config and layer below it hashes to
// the name it has.
func verifyLayout(t testing.TB, dir, want string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var top manifest
	if err := json.Unmarshal(raw, &top); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, d := range top.Manifests {
		found = found || d.Digest == want
	}
	if !found {
		t.Fatalf("the layout holds %+v, want %s", top.Manifests, want)
	}
	verifyWhole(t, want, true, func(digest string) ([]byte, error) {
		return os.ReadFile(filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:")))
	})
}

// verifyWhole reads an image from wherever a client put it and checks that
// every manifest, config and layer is there and hashes to the name it has. A
// client that unpacks takes only one platform's image from an index: all says
// that the copy is to have the others, and the attestation manifests, too.
func verifyWhole(t testing.TB, want string, all bool, read func(digest string) ([]byte, error)) {
	t.Helper()
	pending, blobs := []descriptor{{Digest: want, MediaType: "manifest"}}, 0
	for len(pending) > 0 {
		d := pending[0]
		pending = pending[1:]
		content, err := read(d.Digest)
		if err != nil {
			t.Fatalf("the copy is incomplete: %v", err)
		}
		blobs++
		if got := digestOf(content); got != d.Digest {
			t.Fatalf("the copy's %s hashes to %s", d.Digest, got)
		}
		if !strings.Contains(d.MediaType, "manifest") && !strings.Contains(d.MediaType, "index") {
			continue
		}
		var m manifest
		if err := json.Unmarshal(content, &m); err != nil {
			t.Fatalf("%s is no manifest: %v", d.Digest, err)
		}
		if len(m.Manifests) > 0 && !all {
			m.Manifests = m.Manifests[:1]
		}
		pending = append(pending, m.children()...)
	}
	if blobs < 3 {
		t.Fatalf("the copy holds only %d blobs, so it cannot be a whole image", blobs)
	}
}
