package notation_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/evidencetest"
	"github.com/trustgate/trustgate/evidence/notation"
)

// responder answers for a CA about everything that it certified, over OCSP
// under /ocsp and with a list at /crl.
type responder struct {
	url     string
	client  *http.Client
	asked   atomic.Int64
	ca      *party
	ocsp    int     // ocsp.Good, Revoked or Unknown; -1 answers 500
	revoked []int64 // serial numbers in the list; nil answers 500
}

func newResponder(t testing.TB) *responder {
	r := &responder{ocsp: -1}
	mux := http.NewServeMux()
	mux.HandleFunc("/ocsp/", func(w http.ResponseWriter, q *http.Request) {
		r.asked.Add(1)
		if r.ocsp < 0 {
			http.Error(w, "out of order", http.StatusInternalServerError)
			return
		}
		encoded, err := url.PathUnescape(strings.TrimPrefix(q.URL.EscapedPath(), "/ocsp/"))
		if err != nil {
			t.Error(err)
		}
		der, err := base64.StdEncoding.DecodeString(encoded)
		if q.Method == http.MethodPost {
			der, err = io.ReadAll(q.Body)
		}
		if err != nil {
			t.Error(err)
		}
		request, err := ocsp.ParseRequest(der)
		if err != nil {
			t.Error(err)
			return
		}
		now := time.Now()
		answer, err := ocsp.CreateResponse(r.ca.cert(), r.ca.cert(), ocsp.Response{
			Status: r.ocsp, SerialNumber: request.SerialNumber, ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour), RevokedAt: now.Add(-time.Hour),
		}, r.ca.key)
		if err != nil {
			t.Error(err)
		}
		w.Write(answer)
	})
	mux.HandleFunc("/crl", func(w http.ResponseWriter, _ *http.Request) {
		r.asked.Add(1)
		if r.revoked == nil {
			http.Error(w, "out of order", http.StatusInternalServerError)
			return
		}
		list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
		for _, serial := range r.revoked {
			list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(serial), RevocationTime: time.Now().Add(-time.Hour)})
		}
		der, err := x509.CreateRevocationList(rand.Reader, list, r.ca.cert(), r.ca.key)
		if err != nil {
			t.Error(err)
		}
		w.Write(der)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	r.url, r.client = server.URL, server.Client()
	return r
}

// forbidden is a network that must not be used.
type forbidden struct{ t testing.TB }

func (f forbidden) RoundTrip(q *http.Request) (*http.Response, error) {
	f.t.Errorf("it asked %s", q.URL)
	return nil, fmt.Errorf("%s is not to be asked", q.URL)
}

// TestRevocation says what each setting makes of each answer.
func TestRevocation(t *testing.T) {
	const (
		byOCSP = "OCSP"
		byCRL  = "a list"
		both   = "both"
		none   = "neither"
	)
	const (
		counts  = ""
		revoked = "was revoked"
		unheard = "that its CA's responder"
		unknown = "could not be learned"
	)
	for _, tc := range []struct {
		name               string
		names              string
		set                func(r *responder, serial int64)
		softFail, enforced string
		temporary, unasked bool
	}{
		{name: "OCSP says good", names: byOCSP, set: func(r *responder, _ int64) { r.ocsp = ocsp.Good }, softFail: counts, enforced: counts},
		{name: "OCSP says revoked", names: byOCSP, set: func(r *responder, _ int64) { r.ocsp = ocsp.Revoked }, softFail: revoked, enforced: revoked},
		{name: "OCSP says unknown", names: byOCSP, set: func(r *responder, _ int64) { r.ocsp = ocsp.Unknown }, softFail: unheard, enforced: unheard},
		{name: "OCSP is out of order", names: byOCSP, set: func(*responder, int64) {}, softFail: counts, enforced: unknown, temporary: true},
		{name: "the list is clean", names: byCRL, set: func(r *responder, _ int64) { r.revoked = []int64{1} }, softFail: counts, enforced: counts},
		{name: "the list has it", names: byCRL, set: func(r *responder, serial int64) { r.revoked = []int64{serial} }, softFail: revoked, enforced: revoked},
		{name: "the list is not there", names: byCRL, set: func(*responder, int64) {}, softFail: counts, enforced: unknown, temporary: true},
		{name: "OCSP is out of order and the list has it", names: both, set: func(r *responder, serial int64) { r.revoked = []int64{serial} }, softFail: revoked, enforced: revoked},
		{name: "OCSP is out of order and the list is clean", names: both, set: func(r *responder, _ int64) { r.revoked = []int64{1} }, softFail: counts, enforced: counts},
		{name: "it cannot be revoked", names: none, set: func(*responder, int64) {}, softFail: counts, enforced: counts, unasked: true},
	} {
		r := newResponder(t)
		r.ca = newCA(t, "acme CA")
		vendor := r.ca.issue(t, "vendor", func(c *x509.Certificate) {
			if tc.names == byOCSP || tc.names == both {
				c.OCSPServer = []string{r.url + "/ocsp"}
			}
			if tc.names == byCRL || tc.names == both {
				c.CRLDistributionPoints = []string{r.url + "/crl"}
			}
		})
		tc.set(r, vendor.cert().SerialNumber.Int64())
		repository := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
		m := repository.PushImage(t, "the image")
		attach(t, repository, m, mediaJWS, vendor.sign(t, mediaJWS, m))
		for _, setting := range []struct {
			name, revocation, want string
			client                 *http.Client
			asks                   bool
		}{
			{"by default", "", tc.softFail, r.client, !tc.unasked},
			{"soft-fail", notation.RevocationSoftFail, tc.softFail, r.client, !tc.unasked},
			{"enforce", notation.RevocationEnforce, tc.enforced, r.client, !tc.unasked},
			{"skip", notation.RevocationSkip, counts, &http.Client{Transport: forbidden{t}}, false},
			{"no client", "", counts, nil, false},
		} {
			t.Run(tc.name+", "+setting.name, func(t *testing.T) {
				r.asked.Store(0)
				signer := r.ca.as(t, "vendor", func(o *notation.Options) { o.Revocation, o.HTTP = setting.revocation, setting.client })
				found := collect(t, repository, m, signer)
				if len(found.Signatures) != 1 {
					t.Fatalf("got %+v", found)
				}
				s := found.Signatures[0]
				if s.By.Verified() != (setting.want == counts) || !strings.Contains(s.Err, setting.want) {
					t.Errorf("got %+v, want it to say %q", s, setting.want)
				}
				problems := 0
				if setting.want == unknown {
					problems = 1
				}
				if len(found.Problems) != problems || problems == 1 && (!found.Problems[0].Temporary || !tc.temporary) {
					t.Errorf("problems %+v", found.Problems)
				}
				first := r.asked.Load()
				if (first > 0) != setting.asks {
					t.Errorf("the responder was asked %d times", first)
				}
				// The answer is remembered for a while.
				again := collect(t, repository, m, signer)
				if n := r.asked.Load(); n != first || again.Signatures[0].By.Verified() != s.By.Verified() {
					t.Errorf("the responder was asked %d times more, and the answer is %+v", n-first, again)
				}
			})
		}
	}
}

// TestRevocationIsAskedLast: nobody but a holder of a certificate under a
// signer's CA can make TrustGate ask.
func TestRevocationIsAskedLast(t *testing.T) {
	const there = "http://responder.invalid"
	ca := newCA(t, "acme CA")
	revocable := func(c *x509.Certificate) { c.OCSPServer, c.CRLDistributionPoints = []string{there}, []string{there} }
	vendor := ca.issue(t, "vendor", revocable)
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	m, other := r.PushImage(t, "the image"), r.PushImage(t, "another image")
	for _, raw := range [][]byte{
		newCA(t, "acme CA").issue(t, "vendor", revocable).sign(t, mediaJWS, m),
		ca.issue(t, "vendor", revocable, func(c *x509.Certificate) { c.Subject.Organization = []string{"evil.example"} }).sign(t, mediaJWS, m),
		vendor.sign(t, mediaJWS, other),
		vendor.sign(t, mediaJWS, m, critical("com.example.x", "y")),
		replaced(t, vendor.sign(t, mediaJWS, m), `"signature":"`, `"signature":"AAAA`),
	} {
		attach(t, r, m, mediaJWS, raw)
	}
	found := collect(t, r, m, ca.as(t, "vendor", func(o *notation.Options) { o.HTTP = &http.Client{Transport: forbidden{t}} }))
	if len(found.Signatures) != 5 || len(found.Problems) != 0 {
		t.Errorf("got %+v", found)
	}
	for _, s := range found.Signatures {
		if s.By.Verified() {
			t.Errorf("verified %+v", s)
		}
	}
}

// hanging answers when the caller has given up.
type hanging struct{ end context.CancelFunc }

func (h hanging) RoundTrip(q *http.Request) (*http.Response, error) {
	h.end()
	<-q.Context().Done()
	return nil, q.Context().Err()
}

// TestOutOfTime: that TrustGate has no time left says nothing about the
// responder, so that even a lenient setting does not pass what was not asked.
func TestOutOfTime(t *testing.T) {
	ca := newCA(t, "acme CA")
	vendor := ca.issue(t, "vendor", func(c *x509.Certificate) { c.OCSPServer = []string{"http://responder.invalid"} })
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	m := r.PushImage(t, "the image")
	attach(t, r, m, mediaJWS, vendor.sign(t, mediaJWS, m))
	attach(t, r, m, mediaCOSE, vendor.sign(t, mediaCOSE, m))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	signer := ca.as(t, "vendor", func(o *notation.Options) { o.HTTP = &http.Client{Transport: hanging{cancel}} })
	found := notation.New([]notation.Signer{signer}).Collect(ctx, r.Subject(m))
	if len(found.Signatures) != 2 || len(found.Problems) == 0 {
		t.Fatalf("got %+v", found)
	}
	for _, s := range found.Signatures {
		if s.By.Verified() || s.Err == "" {
			t.Errorf("got %+v", s)
		}
	}
	for _, p := range found.Problems {
		if !p.Temporary || p.Collector != evidence.KindNotation {
			t.Errorf("got %+v", p)
		}
	}
}
