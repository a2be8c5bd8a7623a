package main

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// mirror is a TUF repository of one trusted root.
type mirror struct {
	url    string
	signer signature.Signer
	anchor []byte

	mu    sync.Mutex
	files map[string][]byte
}

func newMirror(t *testing.T) *mirror {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	m := &mirror{}
	if m.signer, err = signature.LoadSigner(private, crypto.Hash(0)); err != nil {
		t.Fatal(err)
	}
	key, err := metadata.KeyFromPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	root := metadata.Root(time.Now().Add(time.Hour))
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		if err := root.Signed.AddKey(key, role); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := root.Sign(m.signer); err != nil {
		t.Fatal(err)
	}
	if m.anchor, err = root.ToBytes(false); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if raw, ok := m.files[strings.TrimPrefix(r.URL.Path, "/")]; ok {
			w.Write(raw)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(server.Close)
	m.url = server.URL
	return m
}

// publish makes this the trusted root of the repository's version.
func (m *mirror) publish(t *testing.T, version int64, trustedRoot []byte) {
	t.Helper()
	const name = "trusted_root.json"
	until := time.Now().Add(time.Hour)
	target, err := metadata.TargetFile().FromBytes(name, trustedRoot, "sha256")
	if err != nil {
		t.Fatal(err)
	}
	targets, snapshot, timestamp := metadata.Targets(until), metadata.Snapshot(until), metadata.Timestamp(until)
	targets.Signed.Targets[name] = target
	targets.Signed.Version, snapshot.Signed.Version, timestamp.Signed.Version = version, version, version
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(version)
	timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(version)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files = map[string][]byte{"1.root.json": m.anchor, "targets/" + target.Hashes["sha256"].String() + "." + name: trustedRoot}
	put := func(name string, sign func(signature.Signer) (*metadata.Signature, error), encode func(bool) ([]byte, error)) {
		if _, err := sign(m.signer); err != nil {
			t.Fatal(err)
		}
		if m.files[name], err = encode(false); err != nil {
			t.Fatal(err)
		}
	}
	put(fmt.Sprintf("%d.targets.json", version), targets.Sign, targets.ToBytes)
	put(fmt.Sprintf("%d.snapshot.json", version), snapshot.Sign, snapshot.ToBytes)
	put("timestamp.json", timestamp.Sign, timestamp.ToBytes)
}

// TestTrustRefresh runs the command as a person does, against a repository that
// moves on, goes back and goes away.
func TestTrustRefresh(t *testing.T) {
	full, err := os.ReadFile("../../evidence/sigstore/testdata/public-good/trusted_root.json")
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(full, &members); err != nil {
		t.Fatal(err)
	}
	authorities := members["certificateAuthorities"].([]any)
	if len(authorities) < 2 {
		t.Fatal("the public trusted root has one authority; this test takes one away")
	}
	members["certificateAuthorities"] = authorities[:1]
	early, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}

	m := newMirror(t)
	folder := t.TempDir()
	in := func(name string) string { return filepath.Join(folder, name) }
	write := func(name string, content []byte) string {
		t.Helper()
		if err := os.WriteFile(in(name), content, 0o640); err != nil {
			t.Fatal(err)
		}
		return in(name)
	}
	anchor := write("root.json", m.anchor)
	config := write("trustgate.yaml", []byte(`data: data
trust:
  signers:
    - {name: actions, keyless: {issuer: "https://a.example", subject: "a", root: trusted_root.json}}
    - {name: more, keyless: {issuer: "https://a.example", subject: "b", root: trusted_root.json}}
`))
	write("trusted_root.json", early)
	refresh := func(args ...string) (code int, stdout, stderr string) {
		var out, problems bytes.Buffer
		code = run(t.Context(), append([]string{"trust", "refresh", "-c", config}, args...), strings.NewReader(""), &out, &problems)
		return code, out.String(), problems.String()
	}
	from := func(args ...string) []string { return append([]string{"--mirror", m.url, "--root", anchor}, args...) }
	holds := func(name string, want []byte) {
		t.Helper()
		got, err := os.ReadFile(in(name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s holds %d bytes, want %d; %v", name, len(got), len(want), err)
		}
	}
	expect := func(wantCode int, want string, args ...string) {
		t.Helper()
		code, stdout, stderr := refresh(args...)
		if said := stdout + stderr; code != wantCode || !strings.Contains(said, want) {
			t.Errorf("it ended with %d and said:\n%swant %d and %q", code, said, wantCode, want)
		}
	}

	m.publish(t, 1, early)
	expect(exitServed, in("trusted_root.json")+" unchanged", from()...)
	m.publish(t, 2, full)
	expect(exitServed, in("trusted_root.json")+" replaced\n  + certificate authority ", from()...)
	holds("trusted_root.json", full)
	if info, err := os.Stat(in("trusted_root.json")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	expect(exitServed, `"result": "unchanged"`, from("-o", "json")...)

	m.publish(t, 1, early)
	expect(exitError, "version", from()...)
	holds("trusted_root.json", full)

	m.publish(t, 3, early)
	expect(exitServed, "  - certificate authority ", from()...)
	holds("trusted_root.json", early)

	expect(exitServed, in("new.json")+" created", from(in("new.json"))...)
	holds("new.json", early)

	// One that cannot be replaced does not keep the others from it.
	m.publish(t, 4, full)
	expect(exitError, "trustgate.yaml is as it was: reading what is there", from(config, in("new.json"))...)
	holds("new.json", full)
	if raw, err := os.ReadFile(config); err != nil || !strings.HasPrefix(string(raw), "data: data") {
		t.Errorf("the configuration is %q, %v", raw, err)
	}

	if err := os.Symlink("new.json", in("link.json")); err != nil {
		t.Fatal(err)
	}
	m.publish(t, 5, early)
	expect(exitServed, in("link.json")+" replaced", from(in("link.json"))...)
	holds("new.json", early)
	if info, err := os.Lstat(in("link.json")); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link became %v, %v", info.Mode(), err)
	}

	if left, _ := filepath.Glob(in(".*")); len(left) > 0 {
		t.Errorf("it left %q", left)
	}
	other := write("other.json", newMirror(t).anchor)
	expect(exitError, "refreshing the trusted root from "+m.url, "--mirror", m.url, "--root", other, "--state", t.TempDir())
	expect(exitError, "no such file", "--mirror", m.url, "--root", in("missing.json"))
	expect(exitUsage, "--mirror and --root belong together", "--mirror", m.url)
	write("trustgate.yaml", []byte("data: data\n"))
	expect(exitError, "no signer has a trusted root; name the file to write", from()...)
}
