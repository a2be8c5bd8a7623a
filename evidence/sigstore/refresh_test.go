package sigstore_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/trustgate/trustgate/evidence/sigstore"
)

// tufRepository is a repository such as a sigstore publishes, over HTTP.
type tufRepository struct {
	url  string
	key  signature.Signer
	root *metadata.Metadata[metadata.RootType]

	mu    sync.Mutex
	files map[string][]byte
}

func newTUFRepository(t testing.TB) *tufRepository {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &tufRepository{files: map[string][]byte{}, root: metadata.Root(time.Now().Add(time.Hour))}
	if r.key, err = signature.LoadSigner(private, crypto.Hash(0)); err != nil {
		t.Fatal(err)
	}
	key, err := metadata.KeyFromPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		if err := r.root.Signed.AddKey(key, role); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.root.Sign(r.key); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if raw, ok := r.files[strings.TrimPrefix(req.URL.Path, "/")]; ok {
			w.Write(raw)
			return
		}
		http.NotFound(w, req)
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *tufRepository) anchor(t testing.TB) []byte {
	t.Helper()
	raw, err := r.root.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// publish makes a version of the repository whose trusted root is this.
func (r *tufRepository) publish(t testing.TB, version int64, trustedRoot []byte, until time.Time) {
	t.Helper()
	target, err := metadata.TargetFile().FromBytes("trusted_root.json", trustedRoot, "sha256")
	if err != nil {
		t.Fatal(err)
	}
	targets, snapshot, timestamp := metadata.Targets(until), metadata.Snapshot(until), metadata.Timestamp(until)
	targets.Signed.Targets["trusted_root.json"] = target
	targets.Signed.Version, snapshot.Signed.Version, timestamp.Signed.Version = version, version, version
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(version)
	timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(version)

	r.mu.Lock()
	defer r.mu.Unlock()
	put := func(name string, sign func(signature.Signer) (*metadata.Signature, error), encode func(bool) ([]byte, error)) {
		if _, err := sign(r.key); err != nil {
			t.Fatal(err)
		}
		if r.files[name], err = encode(false); err != nil {
			t.Fatal(err)
		}
	}
	put(fmt.Sprintf("%d.targets.json", version), targets.Sign, targets.ToBytes)
	put(fmt.Sprintf("%d.snapshot.json", version), snapshot.Sign, snapshot.ToBytes)
	put("timestamp.json", timestamp.Sign, timestamp.ToBytes)
	r.files["1.root.json"] = r.anchor(t)
	r.files["targets/"+target.Hashes["sha256"].String()+".trusted_root.json"] = trustedRoot
}

func TestRefreshTrustedRoot(t *testing.T) {
	first, second := newInstance(t).trustedRoot(t), newInstance(t).trustedRoot(t)
	later := time.Now().Add(time.Hour)
	start := func(t *testing.T) (*tufRepository, sigstore.Mirror) {
		r := newTUFRepository(t)
		r.publish(t, 1, first, later)
		return r, sigstore.Mirror{URL: r.url, Root: r.anchor(t), Folder: t.TempDir()}
	}
	refresh := func(t *testing.T, m sigstore.Mirror, want []byte) {
		t.Helper()
		raw, err := sigstore.RefreshTrustedRoot(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(raw, want) {
			t.Fatalf("got %d bytes that are not the trusted root", len(raw))
		}
	}
	fails := func(t *testing.T, ctx context.Context, m sigstore.Mirror, says string) {
		t.Helper()
		if _, err := sigstore.RefreshTrustedRoot(ctx, m); err == nil || !strings.Contains(err.Error(), says) {
			t.Fatalf("got %v, want it to say %q", err, says)
		}
	}
	tamper := func(r *tufRepository, change func(files map[string][]byte)) {
		r.mu.Lock()
		defer r.mu.Unlock()
		change(r.files)
	}

	t.Run("a newer one replaces what the folder keeps", func(t *testing.T) {
		r, m := start(t)
		refresh(t, m, first)
		refresh(t, m, first)
		r.publish(t, 2, second, later)
		refresh(t, m, second)
		if _, err := sigstore.LoadKeyless("acme", second, acme, sigstore.KeylessOptions{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("the mirror cannot go back", func(t *testing.T) {
		r, m := start(t)
		r.publish(t, 2, second, later)
		refresh(t, m, second)
		r.publish(t, 1, first, later)
		fails(t, t.Context(), m, "version")
	})
	t.Run("one that expired is refused", func(t *testing.T) {
		r, m := start(t)
		r.publish(t, 2, second, time.Now().Add(-time.Hour))
		fails(t, t.Context(), m, "expired")
	})
	t.Run("another's repository is refused", func(t *testing.T) {
		_, m := start(t)
		m.Root = newTUFRepository(t).anchor(t)
		fails(t, t.Context(), m, "refreshing the trusted root from "+m.URL)
	})
	t.Run("a target that was changed is refused", func(t *testing.T) {
		r, m := start(t)
		tamper(r, func(files map[string][]byte) {
			for name, raw := range files {
				if strings.HasPrefix(name, "targets/") {
					files[name] = bytes.Replace(raw, []byte("fulcio"), []byte("Fulcio"), 1)
				}
			}
		})
		fails(t, t.Context(), m, "hash")
	})
	t.Run("a target that is no trusted root is refused", func(t *testing.T) {
		r, m := start(t)
		r.publish(t, 2, []byte("{}"), later)
		fails(t, t.Context(), m, "cosign trusted-root create")
	})
	t.Run("a mirror that is away is an error", func(t *testing.T) {
		r, m := start(t)
		refresh(t, m, first)
		tamper(r, func(files map[string][]byte) { clear(files) })
		fails(t, t.Context(), m, "404")
	})
	t.Run("it ends with its context", func(t *testing.T) {
		_, m := start(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		fails(t, ctx, m, "context canceled")
	})
	t.Run("a mirror without an anchor or a folder is refused", func(t *testing.T) {
		_, m := start(t)
		fails(t, t.Context(), sigstore.Mirror{URL: m.URL, Folder: m.Folder}, "root.json")
		fails(t, t.Context(), sigstore.Mirror{Root: m.Root, Folder: m.Folder}, "URL")
		fails(t, t.Context(), sigstore.Mirror{}, "name a folder")
	})
}

func TestCompareTrustedRoots(t *testing.T) {
	one, other := newInstance(t).trustedRoot(t), newInstance(t).trustedRoot(t)
	// edit changes the lists of a trusted root.
	edit := func(raw []byte, change func(map[string]any)) []byte {
		var members map[string]any
		if err := json.Unmarshal(raw, &members); err != nil {
			t.Fatal(err)
		}
		change(members)
		edited, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		return edited
	}
	var second map[string]any
	if err := json.Unmarshal(other, &second); err != nil {
		t.Fatal(err)
	}
	more := edit(one, func(m map[string]any) {
		for _, list := range []string{"tlogs", "ctlogs", "certificateAuthorities", "timestampAuthorities"} {
			m[list] = append(m[list].([]any), second[list].([]any)...)
		}
	})
	without := func(list string) []byte { return edit(one, func(m map[string]any) { delete(m, list) }) }
	for name, tc := range map[string]struct {
		earlier, current []byte
		added, removed   []string // what the keys begin with
		says             string
	}{
		"the same":                    {earlier: one, current: one},
		"one with more keys":          {earlier: one, current: more, added: []string{"certificate authority ", "certificate transparency log ", "time stamp authority ", "transparency log "}},
		"one with fewer":              {earlier: more, current: one, removed: []string{"certificate authority ", "certificate transparency log ", "time stamp authority ", "transparency log "}},
		"another instance's":          {earlier: one, current: other, says: "they have no key in common"},
		"one without logs":            {earlier: one, current: without("tlogs"), says: "it lists no transparency log"},
		"one without logs of issuing": {earlier: one, current: without("ctlogs"), says: "it lists no certificate transparency log"},
		"one without authorities":     {earlier: one, current: without("certificateAuthorities"), says: "it lists no certificate authority"},
		"one without time stamps":     {earlier: one, current: without("timestampAuthorities"), says: "it lists no time stamp authority"},
		"a file that is none":         {earlier: []byte("listen: :5000"), current: one, says: "reading what is there"},
		"a new one that is none":      {earlier: one, current: []byte("{}"), says: "reading what is new"},
	} {
		t.Run(name, func(t *testing.T) {
			change, err := sigstore.CompareTrustedRoots(tc.earlier, tc.current)
			if (err == nil) != (tc.says == "") || (err != nil && !strings.Contains(err.Error(), tc.says)) {
				t.Fatalf("got %v, want it to say %q", err, tc.says)
			}
			if err != nil {
				return
			}
			begin := func(what string, got, want []string) {
				seen := map[string]bool{}
				for _, key := range got {
					for _, prefix := range want {
						seen[prefix] = seen[prefix] || strings.HasPrefix(key, prefix)
					}
				}
				if len(seen) != len(want) || (len(got) == 0) != (len(want) == 0) || strings.Count(fmt.Sprint(seen), "true") != len(want) {
					t.Errorf("%s %q, want one of each of %q", what, got, want)
				}
			}
			begin("added", change.Added, tc.added)
			begin("removed", change.Removed, tc.removed)
			if change.Kept == 0 {
				t.Error("nothing was kept")
			}
		})
	}
}
