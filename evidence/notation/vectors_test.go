package notation_test

import (
	"bytes"
	"crypto/x509"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"

	"github.com/trustgate/trustgate/evidence/internal/evidencetest"
	"github.com/trustgate/trustgate/evidence/notation"
	"github.com/trustgate/trustgate/oci"
)

var update = flag.Bool("update", false, "sign the files in testdata again, with new keys")

// TestVectors: what an earlier notation-go signed stays good. The fuzz targets
// start from the same files.
func TestVectors(t *testing.T) {
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	m := r.PushImage(t, "the image")
	if *update {
		signVectors(t, m)
	}
	if !bytes.Equal(m.Raw, vector(t, "manifest.json")) {
		t.Fatal("testdata/manifest.json is another image")
	}
	made := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tc := range map[string]struct {
		mediaType string
		tsa       []byte
		at        time.Time
	}{
		"signature.jws":  {mediaJWS, nil, made},
		"signature.cose": {mediaCOSE, nil, made},
		"stamped.jws":    {mediaJWS, vector(t, "tsa.pem"), made.Add(time.Minute)},
		"stamped.cose":   {mediaCOSE, vector(t, "tsa.pem"), made.Add(time.Minute)},
	} {
		t.Run(name, func(t *testing.T) {
			m := r.PushImage(t, "the image")
			holder := attach(t, r, m, tc.mediaType, vector(t, name))
			signer, err := notation.LoadSigner("vendor", notation.Options{CA: vector(t, "ca.pem"), TSA: tc.tsa, Identities: []string{identity}})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range collect(t, r, m, signer).Signatures {
				if s.Location != "referrer "+holder.Digest.String()+", layer "+holder.Layers[0].Digest.String() {
					continue
				}
				if !s.By.Verified() || !s.SignedAt.Equal(tc.at) || !s.ExpiresAt.Equal(made.AddDate(50, 0, 0)) {
					t.Errorf("got %+v", s)
				}
				return
			}
			t.Error("it was not found")
		})
	}
}

func vector(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func signVectors(t *testing.T, m *oci.Manifest) {
	made := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	long := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = made.AddDate(-1, 0, 0), made.AddDate(100, 0, 0) }
	ca := newCA(t, "acme CA", long)
	vendor := ca.issue(t, "vendor", long)
	root := newCA(t, "time root", long)
	tsa := root.issueTSA(t, long)
	lasting := func(q *signature.SignRequest) { q.SigningTime, q.Expiry = made, made.AddDate(50, 0, 0) }
	stamp := stamped(root, tsa, made.Add(time.Minute))
	for name, raw := range map[string][]byte{
		"manifest.json":  m.Raw,
		"ca.pem":         ca.pem(),
		"tsa.pem":        root.pem(),
		"signature.jws":  vendor.sign(t, mediaJWS, m, lasting),
		"signature.cose": vendor.sign(t, mediaCOSE, m, lasting),
		"stamped.jws":    vendor.sign(t, mediaJWS, m, lasting, stamp),
		"stamped.cose":   vendor.sign(t, mediaCOSE, m, lasting, stamp),
	} {
		if err := os.WriteFile(filepath.Join("testdata", name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
