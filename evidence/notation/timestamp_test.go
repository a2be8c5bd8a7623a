package notation_test

import (
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/trustgate/trustgate/evidence/internal/evidencetest"
	"github.com/trustgate/trustgate/evidence/notation"
	"github.com/trustgate/trustgate/oci"
)

// TestTimestamps: where a TSA is named, its word for the time counts and
// nobody else's.
func TestTimestamps(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	before := now.Add(-36 * time.Hour)
	ca := newCA(t, "acme CA")
	vendor := ca.issue(t, "vendor")
	expired := ca.issue(t, "vendor", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-48*time.Hour), now.Add(-24*time.Hour) })
	root, tsa := newTSA(t)
	strangerRoot, stranger := newTSA(t)
	withTSA := func(o *notation.Options) { o.TSA = root.pem() }

	for _, tc := range []struct {
		name    string
		make    func(mediaType string, m *oci.Manifest) []byte
		options []func(*notation.Options)
		at      time.Time // of a verified one
		says    string
	}{
		{"stamped now", func(mt string, m *oci.Manifest) []byte { return vendor.sign(t, mt, m, stamped(root, tsa, now)) },
			[]func(*notation.Options){withTSA}, now, ""},
		{"the TSA's time, not the signer's", func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, signedAt(now.Add(-30*time.Minute)), stamped(root, tsa, now))
		}, []func(*notation.Options){withTSA}, now, ""},
		{"stamped before the certificate expired", func(mt string, m *oci.Manifest) []byte {
			return expired.sign(t, mt, m, signedAt(before), stamped(root, tsa, before))
		}, []func(*notation.Options){withTSA}, before, ""},
		{"stamped after the certificate expired", func(mt string, m *oci.Manifest) []byte {
			return expired.sign(t, mt, m, signedAt(before), stamped(root, tsa, now))
		}, []func(*notation.Options){withTSA}, time.Time{}, "its time stamp does not count"},
		{"no time stamp", func(mt string, m *oci.Manifest) []byte { return vendor.sign(t, mt, m) },
			[]func(*notation.Options){withTSA}, time.Time{}, "it has no time stamp"},
		{"stamped by a stranger", func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, stamped(strangerRoot, stranger, now))
		}, []func(*notation.Options){withTSA}, time.Time{}, "its time stamp does not count"},
		{"stamped, and no TSA is named", func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, signedAt(now), stamped(strangerRoot, stranger, before))
		}, nil, now, ""},
		{"expired and stamped, and no TSA is named", func(mt string, m *oci.Manifest) []byte {
			return expired.sign(t, mt, m, signedAt(before), stamped(root, tsa, before))
		}, nil, time.Time{}, "name its TSA in the configuration"},
		{"the TSA as a CA", func(mt string, m *oci.Manifest) []byte { return vendor.sign(t, mt, m, stamped(root, tsa, now)) },
			[]func(*notation.Options){withTSA, func(o *notation.Options) { o.CA = root.pem() }}, time.Time{}, "which no notation signer"},
	} {
		for _, mediaType := range []string{mediaJWS, mediaCOSE} {
			t.Run(tc.name+", "+mediaType, func(t *testing.T) {
				r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
				m := r.PushImage(t, "the image")
				attach(t, r, m, mediaType, tc.make(mediaType, m))
				found := collect(t, r, m, ca.as(t, "vendor", tc.options...))
				if len(found.Signatures) != 1 || len(found.Problems) != 0 {
					t.Fatalf("got %+v", found)
				}
				s := found.Signatures[0]
				if s.By.Verified() != (tc.says == "") || !strings.Contains(s.Err, tc.says) || s.By.Verified() && !s.SignedAt.Equal(tc.at) {
					t.Errorf("got %+v, want it to say %q or to be of %s", s, tc.says, tc.at)
				}
			})
		}
	}
}

// TestTimestampsThatAreNone: a time stamp is the one part of an envelope that
// whoever can push can change under a trusted signature.
func TestTimestampsThatAreNone(t *testing.T) {
	ca := newCA(t, "acme CA")
	vendor := ca.issue(t, "vendor")
	root, tsa := newTSA(t)
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	other := r.PushImage(t, "another image")
	token := func(raw []byte) (token string) {
		edited(t, raw, func(_, header map[string]any) { token, _ = header["io.cncf.notary.timestampSignature"].(string) })
		return token
	}
	deep := root
	for range 8 {
		deep = certify(t, deep, &x509.Certificate{Subject: named("deep"), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	}
	for name, tc := range map[string]struct {
		token func(m *oci.Manifest) string
		says  string
	}{
		"of another signature": {func(*oci.Manifest) string {
			return token(vendor.sign(t, mediaJWS, other, stamped(root, tsa, time.Now())))
		}, "its time stamp is not for this signature"},
		"not a token": {func(*oci.Manifest) string { return base64.StdEncoding.EncodeToString([]byte("hello")) }, "its time stamp cannot be read"},
		"truncated": {func(m *oci.Manifest) string {
			raw, err := base64.StdEncoding.DecodeString(token(vendor.sign(t, mediaJWS, m, stamped(root, tsa, time.Now()))))
			if err != nil {
				t.Fatal(err)
			}
			return base64.StdEncoding.EncodeToString(raw[:len(raw)/2])
		}, "its time stamp cannot be read"},
		"with too many certificates": {func(m *oci.Manifest) string {
			return token(vendor.sign(t, mediaJWS, m, stamped(root, deep.issueTSA(t), time.Now())))
		}, "certificates; it may have 1 and 8"},
	} {
		t.Run(name, func(t *testing.T) {
			m := r.PushImage(t, name)
			attach(t, r, m, mediaJWS, edited(t, vendor.sign(t, mediaJWS, m), func(_, header map[string]any) {
				header["io.cncf.notary.timestampSignature"] = tc.token(m)
			}))
			found := collect(t, r, m, ca.as(t, "vendor", func(o *notation.Options) { o.TSA = root.pem() }))
			if len(found.Signatures) != 1 || found.Signatures[0].By.Verified() || !strings.Contains(found.Signatures[0].Err, tc.says) {
				t.Errorf("got %+v, want it to say %q", found, tc.says)
			}
		})
	}
}

// TestTimestampRevocation: the TSA's certificates are asked about by the same
// setting as the signer's.
func TestTimestampRevocation(t *testing.T) {
	responder := newResponder(t)
	root, tsa := newTSA(t, func(c *x509.Certificate) { c.OCSPServer = []string{responder.url + "/ocsp"} })
	responder.ca = root
	ca := newCA(t, "acme CA")
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	m := r.PushImage(t, "the image")
	attach(t, r, m, mediaJWS, ca.issue(t, "vendor").sign(t, mediaJWS, m, stamped(root, tsa, time.Now())))
	for _, tc := range []struct {
		name, revocation string
		status           int
		client           *http.Client
		says             string
		problems         int
	}{
		{"good", notation.RevocationEnforce, ocsp.Good, responder.client, "", 0},
		{"revoked", notation.RevocationSoftFail, ocsp.Revoked, responder.client, "CN=time,O=acme.example,ST=WA,C=US\" was revoked", 0},
		{"out of order, soft-fail", notation.RevocationSoftFail, -1, responder.client, "", 0},
		{"out of order, enforce", notation.RevocationEnforce, -1, responder.client, "could not be learned", 1},
		{"revoked, skip", notation.RevocationSkip, ocsp.Revoked, &http.Client{Transport: forbidden{t}}, "", 0},
		{"revoked, no client", "", ocsp.Revoked, nil, "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			responder.ocsp = tc.status
			found := collect(t, r, m, ca.as(t, "vendor", func(o *notation.Options) {
				o.TSA, o.Revocation, o.HTTP = root.pem(), tc.revocation, tc.client
			}))
			if len(found.Signatures) != 1 || len(found.Problems) != tc.problems {
				t.Fatalf("got %+v", found)
			}
			if s := found.Signatures[0]; s.By.Verified() != (tc.says == "") || !strings.Contains(s.Err, tc.says) {
				t.Errorf("got %+v, want it to say %q", s, tc.says)
			}
		})
	}
}
