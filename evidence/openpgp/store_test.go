package openpgp_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/evidencetest"
	"github.com/trustgate/trustgate/evidence/openpgp"
	"github.com/trustgate/trustgate/oci"
)

func repository(t testing.TB, s string) oci.Reference {
	t.Helper()
	ref, err := oci.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// TestLookaside reads one tree from disk and from a web server.
func TestLookaside(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"library/nginx@sha256=" + image.Encoded() + "/signature-1": "one",
		"library/nginx@sha256=" + image.Encoded() + "/signature-2": "two",
		"library/nginx@sha256=" + image.Encoded() + "/signature-4": "after a gap",
		"acme/big@sha256=" + image.Encoded() + "/signature-1":      strings.Repeat("x", 101),
		"acme/many@sha256=" + image.Encoded() + "/signature-1":     "1",
		"acme/many@sha256=" + image.Encoded() + "/signature-2":     "2",
		"acme/many@sha256=" + image.Encoded() + "/signature-3":     "3",
		"acme/many@sha256=" + image.Encoded() + "/signature-4":     "4",
	} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(http.StripPrefix("/sigs", http.FileServer(http.Dir(dir))))
	defer server.Close()
	limits := evidence.Limits{Attestation: 100, Signatures: 3}

	for _, base := range []string{"file://" + dir, "file://" + dir + "/", server.URL + "/sigs", server.URL + "/sigs/"} {
		store, err := openpgp.NewLookaside(base, server.Client(), limits)
		if err != nil {
			t.Fatal(err)
		}
		for name, tc := range map[string]struct {
			want []string
			says string
		}{
			"docker.io/library/nginx": {want: []string{"one", "two"}},
			"nginx":                   {want: []string{"one", "two"}},
			// The base tells registries apart, not the path.
			"other.example.com/library/nginx": {want: []string{"one", "two"}},
			"docker.io/library/none":          {},
			"example.com/acme/big":            {says: "more bytes than limits.attestation (100)"},
			"example.com/acme/many":           {want: []string{"1", "2", "3"}, says: "more signatures of " + image.String() + " than limits.signatures (3)"},
		} {
			t.Run(base+" "+name, func(t *testing.T) {
				found, err := store.Signatures(t.Context(), repository(t, name), image)
				if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
					t.Errorf("got %v, want an error that says %q", err, tc.says)
				}
				var got []string
				for i, f := range found {
					got = append(got, string(f.Raw))
					if want := fmt.Sprintf("@sha256=%s/signature-%d", image.Encoded(), i+1); !strings.HasSuffix(f.Location, want) || !strings.HasPrefix(f.Location, strings.TrimRight(base, "/")) {
						t.Errorf("found at %s", f.Location)
					}
				}
				if !slices.Equal(got, tc.want) {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			})
		}
	}
}

// TestLookasideLinks does not follow a link out of its folder.
func TestLookasideLinks(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "signature-1")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "acme"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "acme", "app@sha256="+image.Encoded())); err != nil {
		t.Fatal(err)
	}
	store, err := openpgp.NewLookaside("file://"+dir, nil, evidence.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	found, err := store.Signatures(t.Context(), repository(t, "example.com/acme/app"), image)
	if err == nil || len(found) != 0 {
		t.Errorf("got %v, %v", found, err)
	}
}

func TestLookasideAnswers(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, tc := range map[string]struct {
		status    int
		temporary bool
	}{
		"server error": {http.StatusInternalServerError, true},
		"overloaded":   {http.StatusServiceUnavailable, true},
		"rate limit":   {http.StatusTooManyRequests, true},
		"forbidden":    {http.StatusForbidden, false},
		"no content":   {http.StatusNoContent, false},
		"unreachable":  {0, true},
	} {
		t.Run(name, func(t *testing.T) {
			base := gone.URL
			if tc.status != 0 {
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(tc.status) }))
				defer server.Close()
				base = server.URL
			}
			base = strings.Replace(base, "http://", "http://user:hunter2@", 1)
			store, err := openpgp.NewLookaside(base, http.DefaultClient, evidence.DefaultLimits)
			if err != nil {
				t.Fatal(err)
			}
			found, err := store.Signatures(t.Context(), repository(t, "example.com/acme/app"), image)
			if err == nil || len(found) != 0 {
				t.Fatalf("got %v, %v", found, err)
			}
			if p := evidence.NewProblem("openpgp", err); p.Temporary != tc.temporary || strings.Contains(p.Message, "hunter2") {
				t.Errorf("got %+v", p)
			}
		})
	}
}

func TestNewLookasideRefuses(t *testing.T) {
	for base, says := range map[string]string{
		"":                             "scheme",
		"/var/lib/sigs":                "scheme",
		"ftp://example.com":            "scheme",
		"file://folder/x":              "file:///folder",
		"https://":                     "names no host",
		"https://example.com?x=1":      "a query",
		"https://example.com/#x":       "a fragment",
		"https://u:hunter2@h/%zz":      "is not a URL",
		"https://u:hunter2@h:port/":    "is not a URL",
		"https://u:hunter2@example/?q": "a query",
	} {
		_, err := openpgp.NewLookaside(base, http.DefaultClient, evidence.DefaultLimits)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want an error that says %q", base, err, says)
		}
	}
	if _, err := openpgp.NewLookaside("https://example.com", nil, evidence.DefaultLimits); err == nil {
		t.Error("no client was needed")
	}
	store, err := openpgp.NewLookaside("file:///no/such/folder", nil, evidence.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Signatures(t.Context(), repository(t, "example.com/acme/app"), image); err == nil {
		t.Error("a lookaside that does not exist is taken for one without signatures")
	}
}

func TestExtension(t *testing.T) {
	entry := func(version int, kind, content string) string {
		return fmt.Sprintf(`{"schemaVersion":%d,"name":"%s@1","type":%q,"content":%q,"more":1}`, version, image, kind, base64.StdEncoding.EncodeToString([]byte(content)))
	}
	for name, tc := range map[string]struct {
		body string
		err  error
		want []string
		says string
	}{
		"none":             {body: `{"signatures":[]}`},
		"null":             {body: `{"signatures":null}`},
		"not found":        {err: fmt.Errorf("asking: %w", oci.ErrNotFound)},
		"two":              {body: `{"signatures":[` + entry(2, "atomic", "one") + `,` + entry(2, "atomic", "two") + `],"next":""}`, want: []string{"one", "two"}},
		"others":           {body: `{"signatures":[` + entry(3, "atomic", "x") + `,` + entry(2, "other", "y") + `,` + entry(2, "atomic", "z") + `]}`, want: []string{"z"}},
		"unreachable":      {err: errors.New("connection refused"), says: "connection refused"},
		"no list":          {body: `{}`, says: "no list of signatures"},
		"not JSON":         {body: `<html>`, says: "invalid character"},
		"a bare list":      {body: `[]`, says: "not a JSON object"},
		"a number":         {body: `{"signatures":[1]}`, says: "signatures[0]"},
		"twice":            {body: `{"signatures":[],"signatures":[` + entry(2, "atomic", "x") + `]}`, says: "appears twice"},
		"content not base": {body: `{"signatures":[{"schemaVersion":2,"type":"atomic","content":"***"}]}`, says: "signatures[0].content"},
		"endless list":     {body: `{"signatures":[` + strings.Repeat("{},", 2000) + `{}]}`, says: "more than 1024"},
		"endless body":     {body: strings.Repeat(" ", 17<<20), says: "more than 16777216 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			store := openpgp.Extension(func(context.Context, oci.Reference, digest.Digest) ([]byte, error) { return []byte(tc.body), tc.err })
			found, err := store.Signatures(t.Context(), repository(t, "example.com/acme/app"), image)
			if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("got %v, want an error that says %q", err, tc.says)
			}
			var got []string
			for _, f := range found {
				got = append(got, string(f.Raw))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func FuzzExtension(f *testing.F) {
	f.Add([]byte(`{"signatures":[{"schemaVersion":2,"name":"x@1","type":"atomic","content":"eA=="}]}`))
	f.Add([]byte(`{"signatures":[{"schemaVersion":"2"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		store := openpgp.Extension(func(context.Context, oci.Reference, digest.Digest) ([]byte, error) { return body, nil })
		if found, err := store.Signatures(t.Context(), oci.Reference{}, image); err != nil && len(found) > 0 {
			t.Errorf("%d signatures beside %v", len(found), err)
		}
	})
}

// storeOf is a store that has what it is.
type storeOf struct {
	found []openpgp.Found
	err   error
}

func (s storeOf) Signatures(context.Context, oci.Reference, digest.Digest) ([]openpgp.Found, error) {
	return s.found, s.err
}

// TestCollect gathers from stores and referrers together.
func TestCollect(t *testing.T) {
	for _, kind := range evidencetest.Kinds {
		t.Run(kind, func(t *testing.T) {
			registry := evidencetest.Start(t, kind, "acme/app")
			m := registry.PushImage(t, "the image")
			key, stranger := ed25519Key(t), ed25519Key(t)
			name := registry.Name.Name() + ":1"
			inBoth := sign(t, key.PrivateKey, payload(m.Digest, name), signing{}).message()
			referred := sign(t, key.PrivateKey, payload(m.Digest, name+"2"), signing{}).message()
			unknown := sign(t, stranger.PrivateKey, payload(m.Digest, name), signing{}).message()

			for _, raw := range [][]byte{inBoth, referred} {
				layer := registry.PushBlob(t, openpgp.MediaType, raw)
				registry.PushLayers(t, openpgp.MediaType, []oci.Descriptor{layer}, m, "")
			}
			other := registry.PushBlob(t, "text/spdx", []byte("not a signature"))
			registry.PushLayers(t, "text/spdx", []oci.Descriptor{other}, m, "")

			collector := openpgp.New([]openpgp.Signer{load(t, key)}, []openpgp.Store{
				storeOf{found: []openpgp.Found{{Location: "first", Raw: inBoth}, {Location: "second", Raw: unknown}}},
				storeOf{err: context.DeadlineExceeded},
				storeOf{},
			}, func() time.Time { return now })
			found := collector.Collect(t.Context(), registry.Subject(m))

			if len(found.Signatures) != 3 || len(found.Attestations) != 0 {
				t.Fatalf("got %+v", found)
			}
			for i, want := range []struct {
				location, reference string
				verified            bool
			}{{"first", name, true}, {"second", name, false}, {"referrer sha256:", name + "2", true}} {
				s := found.Signatures[i]
				if !strings.HasPrefix(s.Location, want.location) || s.Reference != want.reference || s.By.Verified() != want.verified || (s.Err == "") != want.verified {
					t.Errorf("signature %d is %+v, want %+v", i, s, want)
				}
			}
			if len(found.Problems) != 1 || !found.Problems[0].Temporary || found.Problems[0].Collector != "openpgp" {
				t.Errorf("problems: %+v", found.Problems)
			}
		})
	}
}

// TestCollectLimits reports what it does not look at.
func TestCollectLimits(t *testing.T) {
	registry := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	m := registry.PushImage(t, "the image")
	var stored []openpgp.Found
	for i := range 3 {
		stored = append(stored, openpgp.Found{Location: "store", Raw: fmt.Append(nil, i)})
	}
	layer := registry.PushBlob(t, openpgp.MediaType, []byte("a long signature"))
	registry.PushLayers(t, openpgp.MediaType, []oci.Descriptor{layer}, m, "")
	subject := registry.Subject(m)
	subject.Limits = evidence.Limits{Attestation: 8, Signatures: 2, Referrers: 10}
	found := openpgp.New(nil, []openpgp.Store{storeOf{found: stored}}, time.Now).Collect(t.Context(), subject)
	if len(found.Problems) != 1 || !strings.Contains(found.Problems[0].Message, "has 3 OpenPGP signatures, more than limits.signatures (2)") || found.Problems[0].Temporary {
		t.Errorf("problems: %+v", found.Problems)
	}
	if len(found.Signatures) != 3 || !strings.Contains(found.Signatures[0].Err, "16 bytes, more than limits.attestation (8)") {
		t.Errorf("signatures: %+v", found.Signatures)
	}
	// The referrers' registry going away is a problem, not an absence.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	found = openpgp.New(nil, nil, time.Now).Collect(ctx, registry.Subject(m))
	if len(found.Problems) != 2 || !found.Problems[0].Temporary || !found.Problems[1].Temporary { // the tag and the referrers
		t.Errorf("problems: %+v", found.Problems)
	}
}
