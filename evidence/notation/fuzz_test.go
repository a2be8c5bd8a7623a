package notation

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/attached"
	"github.com/trustgate/trustgate/oci"
)

// The fuzz targets start from what a trusted signer made. A mutation that still
// verifies must say exactly what was signed.

func vector(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// fuzzed reads envelopes over the image in testdata.
type fuzzed struct {
	c         *Collector
	m         *oci.Manifest
	mediaType string
	good      evidence.Signature
}

func newFuzzed(f *testing.F, mediaType, name string, tsa bool) *fuzzed {
	o := Options{CA: vector(f, "ca.pem"), Identities: []string{"x509.subject: C=US, ST=WA, O=acme.example"}}
	if tsa {
		o.TSA = vector(f, "tsa.pem")
	}
	signer, err := LoadSigner("vendor", o)
	if err != nil {
		f.Fatal(err)
	}
	m, err := oci.ParseManifest(vector(f, "manifest.json"), "", "")
	if err != nil {
		f.Fatal(err)
	}
	z := &fuzzed{c: New([]Signer{signer}), m: m, mediaType: mediaType}
	good := vector(f, name)
	if z.good, err = z.look(f, good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	return z
}

func (z *fuzzed) look(t testing.TB, raw []byte) (evidence.Signature, error) {
	var s evidence.Signature
	err := z.c.look(t.Context(), &s, z.m, attached.Item{Layer: oci.Descriptor{MediaType: z.mediaType}, Raw: raw})
	return s, err
}

func (z *fuzzed) run(t *testing.T, raw []byte) {
	s, err := z.look(t, raw)
	if s.By.Verified() != (err == nil) {
		t.Fatalf("verified %v and says %v", s.By.Verified(), err)
	}
	if s.By.Verified() && (s.By != z.good.By || !s.SignedAt.Equal(z.good.SignedAt) || !s.ExpiresAt.Equal(z.good.ExpiresAt)) {
		t.Fatalf("verified %+v, which was never signed", s)
	}
}

func FuzzJWS(f *testing.F) {
	z := newFuzzed(f, jws.MediaTypeEnvelope, "signature.jws", false)
	f.Add([]byte(`{"payload":"e30","protected":"e30","header":{"x5c":["AAAA"]},"signature":"AAAA"}`))
	f.Add([]byte(`{"payload":null,"protected":null,"header":{},"signature":null}`))
	f.Fuzz(z.run)
}

func FuzzCOSE(f *testing.F) {
	z := newFuzzed(f, cose.MediaTypeEnvelope, "signature.cose", false)
	f.Add([]byte{0xd2, 0x84, 0x40, 0xa0, 0x40, 0x40})
	f.Add([]byte{0xd2, 0x84, 0x43, 0xa1, 0x01, 0x26, 0xa1, 0x18, 0x21, 0x81, 0x40, 0x40, 0x41, 0x00})
	f.Fuzz(z.run)
}

func FuzzStampedCOSE(f *testing.F) {
	f.Fuzz(newFuzzed(f, cose.MediaTypeEnvelope, "stamped.cose", true).run)
}

// FuzzTimestamp puts time stamps under a signature that holds: that is what
// whoever can push can change without being noticed.
func FuzzTimestamp(f *testing.F) {
	z := newFuzzed(f, jws.MediaTypeEnvelope, "stamped.jws", true)
	var e map[string]any
	if err := json.Unmarshal(vector(f, "stamped.jws"), &e); err != nil {
		f.Fatal(err)
	}
	header := e["header"].(map[string]any)
	token, err := base64.StdEncoding.DecodeString(header["io.cncf.notary.timestampSignature"].(string))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add(token[:len(token)/2])
	f.Add([]byte{0x30, 0x00})
	f.Fuzz(func(t *testing.T, token []byte) {
		envelope, changed := map[string]any{}, map[string]any{}
		for key, value := range e {
			envelope[key] = value
		}
		for key, value := range header {
			changed[key] = value
		}
		changed["io.cncf.notary.timestampSignature"], envelope["header"] = token, changed
		raw, err := json.Marshal(envelope)
		if err != nil {
			t.Fatal(err)
		}
		z.run(t, raw)
	})
}

func FuzzLoadSigner(f *testing.F) {
	f.Add(vector(f, "ca.pem"), "x509.subject: C=US, ST=WA, O=acme.example")
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"), "*")
	f.Add(vector(f, "tsa.pem"), `x509.subject: C=US, ST=WA, O=a\2Cb, CN=x`)
	f.Fuzz(func(t *testing.T, ca []byte, identity string) {
		s, err := LoadSigner("vendor", Options{CA: ca, TSA: ca, Identities: []string{identity}})
		if (err == nil) != (s.by != nil) {
			t.Fatalf("%v and %v", s.by, err)
		}
		if err == nil && s.by.anchors(nil) {
			t.Fatal("no chain is under it")
		}
	})
}
