package proxy_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/internal/stage"
	"github.com/trustgate/trustgate/policy"
)

func (f *front) signaturesOf(repository string, d digest.Digest) (list []struct {
	SchemaVersion int
	Name, Type    string
	Content       []byte
}) {
	f.Helper()
	a := f.do(http.MethodGet, "/extensions/v2/"+f.registry+"/"+repository+"/signatures/"+d.String())
	var answer struct{ Signatures json.RawMessage }
	if err := json.Unmarshal(a.body, &answer); err != nil || a.StatusCode != http.StatusOK {
		f.Fatalf("%s: %s, %v", a.Status, a.body, err)
	}
	if err := json.Unmarshal(answer.Signatures, &list); err != nil || list == nil {
		f.Fatalf("%s: %v", answer.Signatures, err)
	}
	return list
}

// put adds a signature as a client of the extension does.
func (f *front) put(repository string, d digest.Digest, body []byte) (status int, said string) {
	f.Helper()
	req, err := http.NewRequest(http.MethodPut, f.base+"/extensions/v2/"+f.registry+"/"+repository+"/signatures/"+d.String(), bytes.NewReader(body))
	if err != nil {
		f.Fatal(err)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		f.Fatal(err)
	}
	defer resp.Body.Close()
	var out bytes.Buffer
	if _, err := out.ReadFrom(resp.Body); err != nil {
		f.Fatal(err)
	}
	return resp.StatusCode, out.String()
}

func entry(content []byte) []byte {
	raw, _ := json.Marshal(map[string]any{"schemaVersion": 2, "type": "atomic", "name": "x@y", "content": content})
	return raw
}

func TestSignaturesExtension(t *testing.T) {
	s := stage.New(t)
	app, other := s.Image("app", nil), s.Image("other", nil)
	s.Must(s.Lookaside.Sign(s.Release, app))
	f := open(s, stage.Options{})

	if a := f.do(http.MethodGet, "/v2/"); a.Header.Get("X-Registry-Supports-Signatures") != "1" {
		t.Error("/v2/ does not say that there are signatures")
	}
	if list := f.signaturesOf("other", other.Digest); len(list) != 0 {
		t.Errorf("an unsigned image has %v", list)
	}
	list := f.signaturesOf("app", app.Digest)
	if len(list) != 1 || list[0].SchemaVersion != 2 || list[0].Type != "atomic" ||
		!strings.HasPrefix(list[0].Name, app.Digest.String()+"@") || len(list[0].Content) == 0 {
		t.Fatalf("the signature of the lookaside is served as %+v", list)
	}

	stranger, err := shipyard.NewPGP("Stranger", "stranger@example")
	s.Must(err)
	sign := func(key *shipyard.PGP, of *shipyard.Image, reference string) []byte {
		t.Helper()
		raw, err := key.Sign(of.Digest, reference)
		s.Must(err)
		return raw
	}
	for name, tc := range map[string]struct {
		body   []byte
		status int
		says   string
	}{
		"by a stranger":          {entry(sign(stranger, other, other.Reference())), http.StatusForbidden, "which no signer in trust.signers holds"},
		"of another image":       {entry(sign(s.Release, app, other.Reference())), http.StatusForbidden, "it was copied from another one"},
		"for another repository": {entry(sign(s.Release, other, app.Reference())), http.StatusForbidden, "not for "},
		"not a signature":        {entry([]byte("hello")), http.StatusForbidden, ""},
		"not an entry":           {[]byte("hello"), http.StatusBadRequest, "not a signature entry"},
		"of another version":     {[]byte(`{"schemaVersion":1,"type":"atomic","content":"aGk="}`), http.StatusBadRequest, "schemaVersion 2"},
		"too long":               {entry(make([]byte, 1<<17)), http.StatusBadRequest, "more than"},
	} {
		t.Run("refuses one "+name, func(t *testing.T) {
			if status, said := f.in(t).put("other", other.Digest, tc.body); status != tc.status || !strings.Contains(said, tc.says) {
				t.Errorf("got %d: %s", status, said)
			}
		})
	}
	if list := f.signaturesOf("other", other.Digest); len(list) != 0 {
		t.Fatalf("a refused signature was kept: %v", list)
	}

	good := sign(s.Release, other, other.Reference())
	for range 2 { // the second time it is there already
		if status, said := f.put("other", other.Digest, entry(good)); status != http.StatusCreated {
			t.Fatalf("got %d: %s", status, said)
		}
	}
	// Another one by the same signer for the same name is the same word again.
	if status, said := f.put("other", other.Digest, entry(sign(s.Release, other, other.Reference()))); status != http.StatusCreated {
		t.Fatalf("got %d: %s", status, said)
	}
	if list := f.signaturesOf("other", other.Digest); len(list) != 1 || !bytes.Equal(list[0].Content, good) {
		t.Errorf("what was added is served as %+v", list)
	}
	a := s.Pull(s.Gate(stage.Options{Mode: policy.AnnotateOnly}), other.Reference())
	if strings.Contains(stage.Codes(a), "signature.") {
		t.Errorf("the signature that was added does not count: %s", stage.Messages(a))
	}
	if a := f.do(http.MethodDelete, "/extensions/v2/"+f.registry+"/app/signatures/"+app.Digest.String()); a.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("DELETE: %s", a.Status)
	}
}

// TestSummaries: the gate's own verdict is among the referrers, and is pulled as
// any other evidence.
func TestSummaries(t *testing.T) {
	s := stage.New(t)
	app := s.Trusted(s.Image("app", nil))
	bad := s.Image("bad", nil)
	f := open(s, stage.Options{})
	for _, tc := range []struct {
		image  *shipyard.Image
		status int
		result string
	}{{app, http.StatusOK, "PASSED"}, {bad, http.StatusForbidden, "FAILED"}} {
		t.Run(tc.result, func(t *testing.T) {
			f := f.in(t)
			if a := f.do(http.MethodGet, f.path(tc.image.Repository, "manifests", "1")); a.StatusCode != tc.status {
				t.Fatalf("%s: %s", a.Status, a.body)
			}
			var found bool
			for _, d := range f.referrersOf(tc.image.Repository, tc.image.Digest) {
				if d.Annotations["dev.sigstore.bundle.predicateType"] != "https://slsa.dev/verification_summary/v1" {
					continue
				}
				found = true
				m := f.do(http.MethodGet, f.path(tc.image.Repository, "manifests", d.Digest.String()))
				var manifest struct {
					Layers []struct{ Digest string }
				}
				if err := json.Unmarshal(m.body, &manifest); err != nil || m.StatusCode != http.StatusOK || digest.FromBytes(m.body) != d.Digest {
					t.Fatalf("%s: %s, %v", m.Status, m.body, err)
				}
				bundle := f.do(http.MethodGet, f.path(tc.image.Repository, "blobs", manifest.Layers[0].Digest))
				var b struct {
					DsseEnvelope struct{ Payload []byte }
				}
				if err := json.Unmarshal(bundle.body, &b); err != nil || !strings.Contains(string(b.DsseEnvelope.Payload), `"verificationResult":"`+tc.result+`"`) ||
					!strings.Contains(string(b.DsseEnvelope.Payload), tc.image.Digest.Encoded()) {
					t.Errorf("%s: %s, %v", bundle.Status, bundle.body, err)
				}
			}
			if !found {
				t.Error("no summary among the referrers")
			}
		})
	}
}

func (f *front) referrersOf(repository string, d digest.Digest) (list []struct {
	Digest      digest.Digest
	Annotations map[string]string
}) {
	f.Helper()
	a := f.do(http.MethodGet, f.path(repository, "referrers", d.String()))
	var index struct{ Manifests json.RawMessage }
	if err := json.Unmarshal(a.body, &index); err != nil || a.StatusCode != http.StatusOK {
		f.Fatalf("%s: %s, %v", a.Status, a.body, err)
	}
	if err := json.Unmarshal(index.Manifests, &list); err != nil {
		f.Fatal(err)
	}
	return list
}
