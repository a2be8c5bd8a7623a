package sigstore

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/trustgate/trustgate/oci"
)

// The fuzz targets start from what cosign made with a key that is trusted. A
// mutation that still verifies must say exactly what was signed.

func vector(t testing.TB, name string) []byte {
	t.Helper()
	return stored(t, "cosign/"+name)
}

func stored(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func vectors(t testing.TB) (*Collector, *oci.Manifest) {
	t.Helper()
	signer, err := LoadKey("ci", vector(t, "cosign.pub"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := oci.ParseManifest(vector(t, "manifest.json"), "", "")
	if err != nil {
		t.Fatal(err)
	}
	return New([]Signer{signer}), m
}

const (
	vectorPredicateType = "https://slsa.dev/provenance/v0.2"
	vectorPredicate     = `{"buildType":"x","builder":{"id":"https://ci"}}`
)

func samePredicate(t *testing.T, predicateType string, predicate json.RawMessage) {
	t.Helper()
	var compact bytes.Buffer
	if err := json.Compact(&compact, predicate); err != nil {
		t.Fatal(err)
	}
	if predicateType != vectorPredicateType || compact.String() != vectorPredicate {
		t.Fatalf("verified a %s that says %s, which was never signed", predicateType, predicate)
	}
}

func FuzzEnvelope(f *testing.F) {
	c, m := vectors(f)
	good := vector(f, "attestation.dsse.json")
	if a := c.attestation(m.Digest, good, nil); !a.By.Verified() {
		f.Fatal(a.Err)
	}
	f.Add(good)
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"sig":""}]}`))
	f.Add([]byte(`{"payload":null,"payloadType":null,"signatures":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		a := c.attestation(m.Digest, raw, nil)
		if a.By.Verified() != (a.Err == "") {
			t.Fatalf("verified %v and says %q", a.By.Verified(), a.Err)
		}
		if a.By.Verified() {
			samePredicate(t, a.PredicateType, a.Predicate)
		}
	})
}

func FuzzBundle(f *testing.F) {
	c, m := vectors(f)
	signature, attestation := vector(f, "signature.bundle.json"), vector(f, "attestation.bundle.json")
	if s, _ := c.bundled(m, signature); s == nil || !s.By.Verified() {
		f.Fatalf("got %+v", s)
	}
	if _, a := c.bundled(m, attestation); a == nil || !a.By.Verified() {
		f.Fatalf("got %+v", a)
	}
	f.Add(signature)
	f.Add(attestation)
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle+json;version=0.1","verificationMaterial":{"publicKey":{}},"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":""},"signature":""}}`))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"certificate":{"rawBytes":"AA=="},"tlogEntries":[{}]},"dsseEnvelope":{"payload":"","payloadType":"","signatures":[{}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, a := c.bundled(m, raw)
		switch {
		case (s == nil) == (a == nil):
			t.Fatal("it must be a signature or an attestation")
		case s != nil && s.By.Verified() != (s.Err == ""):
			t.Fatalf("verified %v and says %q", s.By.Verified(), s.Err)
		case s != nil && s.By.Verified() && s.Reference != "":
			t.Fatalf("verified for %q, which was never signed", s.Reference)
		case a != nil && a.By.Verified() != (a.Err == ""):
			t.Fatalf("verified %v and says %q", a.By.Verified(), a.Err)
		case a != nil && a.By.Verified():
			samePredicate(t, a.PredicateType, a.Predicate)
		}
	})
}

func FuzzSimpleSigning(f *testing.F) {
	c, m := vectors(f)
	payload, sig := vector(f, "signature.payload.json"), string(vector(f, "signature.b64"))
	if s := c.simpleSigning(m.Digest, payload, map[string]string{annotationSignature: sig}); !s.By.Verified() {
		f.Fatal(s.Err)
	}
	f.Add(payload, sig)
	f.Add(payload, "")
	f.Add([]byte("{}"), "AA==")
	f.Fuzz(func(t *testing.T, raw []byte, sig string) {
		s := c.simpleSigning(m.Digest, raw, map[string]string{annotationSignature: sig})
		if s.By.Verified() != (s.Err == "") {
			t.Fatalf("verified %v and says %q", s.By.Verified(), s.Err)
		}
		if s.By.Verified() && !bytes.Equal(raw, payload) {
			t.Fatalf("verified %q, which was never signed", raw)
		}
	})
}

func FuzzLoadKey(f *testing.F) {
	f.Add(vector(f, "cosign.pub"))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMA==\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte("-----BEGIN RSA PUBLIC KEY-----\nMAYCAQACAQM=\n-----END RSA PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s, err := LoadKey("ci", raw); (err == nil) != (s.by != nil) {
			t.Fatalf("%v and %v", s.by, err)
		}
	})
}
