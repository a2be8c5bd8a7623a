package notation_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	notationgo "github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/evidencetest"
	"github.com/trustgate/trustgate/evidence/notation"
	"github.com/trustgate/trustgate/oci"
)

// TestCollect: what notation signs and pushes is found and verified, on either
// kind of registry and in either envelope.
func TestCollect(t *testing.T) {
	for _, kind := range evidencetest.Kinds {
		for _, mediaType := range []string{mediaJWS, mediaCOSE} {
			t.Run(kind+", "+mediaType, func(t *testing.T) {
				r := evidencetest.Start(t, kind, "acme/app")
				m := r.PushImage(t, "the image")
				ca, strangerCA := newCA(t, "acme CA"), newCA(t, "stranger CA")
				vendor, stranger := ca.issue(t, "vendor"), strangerCA.issue(t, "stranger")
				before := time.Now().Truncate(time.Second)
				vendor.signAndPush(t, r, m, notationgo.SignerSignOptions{SignatureMediaType: mediaType, ExpiryDuration: time.Hour})
				stranger.signAndPush(t, r, m, notationgo.SignerSignOptions{SignatureMediaType: mediaType})

				found := collect(t, r, m, ca.as(t, "vendor"))
				if len(found.Problems) != 0 || len(found.Attestations) != 0 || len(found.Signatures) != 2 {
					t.Fatalf("got %+v", found)
				}
				verified := 0
				for _, s := range found.Signatures {
					if s.Kind != evidence.KindNotation || s.Binds != evidence.BindsDigest || s.Reference != "" || s.Matches(r.Name) != nil ||
						!strings.HasPrefix(s.Location, "referrer sha256:") || s.SignedAt.Before(before) || s.SignedAt.After(time.Now()) {
						t.Errorf("got %+v", s)
					}
					if !s.By.Verified() {
						if !strings.Contains(s.Err, "which no notation signer in trust.signers names") || !strings.Contains(s.Err, "CN=stranger CA") || !s.ExpiresAt.IsZero() {
							t.Errorf("the stranger's is %+v", s)
						}
						continue
					}
					verified++
					if s.By.Signer() != vendor.facts("vendor") || s.Err != "" || !s.ExpiresAt.Equal(s.SignedAt.Add(time.Hour)) {
						t.Errorf("the vendor's is %+v", s)
					}
				}
				if verified != 1 {
					t.Errorf("%d verified", verified)
				}
			})
		}
	}
}

// TestRefused: nothing that is wrong with a signature passes, and each says
// what is wrong in words.
func TestRefused(t *testing.T) {
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	other := r.PushImage(t, "another image")
	ca := newCA(t, "acme CA")
	vendor := ca.issue(t, "vendor")
	now := time.Now()
	expired := ca.issue(t, "vendor", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = now.Add(-48*time.Hour), now.Add(-24*time.Hour)
	})
	elsewhere := ca.issue(t, "vendor", func(c *x509.Certificate) { c.Subject.Organization = []string{"evil.example"} })
	short := ca.issue(t, "vendor", func(c *x509.Certificate) { c.Subject.Province = nil })
	intermediate := certify(t, ca, &x509.Certificate{Subject: named("intermediate"), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	early := ca.issue(t, "vendor", func(c *x509.Certificate) { c.NotBefore = now.Add(2 * time.Minute) })
	renewed := certificate(t, ca, &vendor.key.PublicKey, nil, &x509.Certificate{
		Subject: named("vendor"), NotBefore: now.Add(-time.Second), KeyUsage: x509.KeyUsageDigitalSignature,
	})
	heavy := certificate(t, ca, rsaKey(9000), nil, &x509.Certificate{Subject: named("vendor"), KeyUsage: x509.KeyUsageDigitalSignature})
	namesake := newCA(t, "acme CA").issue(t, "vendor")
	deep := ca
	for range 8 {
		deep = certify(t, deep, &x509.Certificate{Subject: named("deep"), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	}
	const (
		changed = "one of them was changed"
		copied  = "it was copied from another one"
		unnamed = "which no notation signer in trust.signers names"
	)
	type request = signature.SignRequest
	descriptor := func(change func(*oci.Descriptor)) func(*oci.Manifest) func(*request) {
		return func(m *oci.Manifest) func(*request) {
			return func(q *request) {
				d := oci.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw))}
				change(&d)
				q.Payload = target(t, d)
			}
		}
	}
	payload := func(contentType, content string) func(*request) {
		return func(q *request) { q.Payload = signature.Payload{ContentType: contentType, Content: []byte(content)} }
	}
	// Each case holds for both envelopes unless it is about one of them.
	both := []string{mediaJWS, mediaCOSE}
	for _, tc := range []struct {
		name       string
		mediaTypes []string
		make       func(mediaType string, m *oci.Manifest) []byte
		says       string
	}{
		{"another CA of the same name", both, func(mt string, m *oci.Manifest) []byte { return namesake.sign(t, mt, m) }, unnamed},
		{"an identity that is not named", both, func(mt string, m *oci.Manifest) []byte { return elsewhere.sign(t, mt, m) }, `none of the signer's identities`},
		{"a subject that notation does not compare", both, func(mt string, m *oci.Manifest) []byte { return short.sign(t, mt, m) }, "only subjects with C, ST and O"},
		{"an expired certificate", both, func(mt string, m *oci.Manifest) []byte {
			return expired.sign(t, mt, m, signedAt(now.Add(-36*time.Hour)))
		}, "CN=vendor,O=acme.example,ST=WA,C=US\" expired on " + now.Add(-24*time.Hour).UTC().Format(time.DateOnly)},
		{"an expired signature", both, func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, signedAt(now.Add(-30*time.Minute)), func(q *request) { q.Expiry = now.Add(-time.Minute) })
		}, "it expired at " + now.Add(-time.Minute).UTC().Format(time.RFC3339)},
		{"a certificate that is not valid yet", both, func(mt string, m *oci.Manifest) []byte {
			return early.sign(t, mt, m, signedAt(now.Add(3*time.Minute)))
		}, "compare the clocks of its CA and of TrustGate"},
		{"a certificate that is younger than the signature", []string{mediaJWS}, func(mt string, m *oci.Manifest) []byte {
			return edited(t, vendor.sign(t, mt, m, signedAt(now.Add(-time.Minute))), func(_, header map[string]any) {
				header["x5c"] = [][]byte{renewed.Raw, ca.cert().Raw}
			})
		}, "and its certificate is valid from"},
		{"a key that takes long to check with", []string{mediaJWS}, func(mt string, m *oci.Manifest) []byte {
			return edited(t, vendor.sign(t, mt, m), func(_, header map[string]any) {
				header["x5c"] = [][]byte{heavy.Raw, ca.cert().Raw}
			})
		}, "an RSA key of 9000 bits, more than 8192"},
		{"made in the future", both, func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, signedAt(now.Add(time.Hour)))
		}, "which is in the future"},
		{"of another image", both, func(mt string, m *oci.Manifest) []byte { return vendor.sign(t, mt, other) }, other.Digest.String() + ", not for this image; " + copied},
		{"of another size", both, func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, descriptor(func(d *oci.Descriptor) { d.Size++ })(m))
		}, `bytes, and this is a "` + ocispec.MediaTypeImageManifest},
		{"of another media type", both, func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, descriptor(func(d *oci.Descriptor) { d.MediaType = ocispec.MediaTypeImageIndex })(m))
		}, `it is for a "` + ocispec.MediaTypeImageIndex},
		{"another payload type", both, func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, func(q *request) { q.Payload.ContentType = "application/json" })
		}, "application/json"},
		{"a payload without a target", both, func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, payload(payloadV1, `{"x":{}}`))
		}, "not a notation signature of an image"},
		{"a digest that is none", both, func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, descriptor(func(d *oci.Descriptor) { d.Digest = "sha256:00" })(m))
		}, "not a notation signature of an image"},
		{"two targets", []string{mediaCOSE}, func(mt string, m *oci.Manifest) []byte {
			one := strings.Trim(string(target(t, m.Descriptor()).Content), "{}")
			return vendor.sign(t, mt, m, payload(payloadV1, "{"+one+"},"+one+"}}"))
		}, "appears twice"},
		{"a verification plugin", both, func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, critical("io.cncf.notary.verificationPlugin", "com.example.hsm"), critical("io.cncf.notary.verificationPluginMinVersion", "1.0.0"))
		}, `the plugin "com.example.hsm", and TrustGate runs no plugins`},
		{"an attribute that must be understood", both, func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, critical("com.example.only-on-fridays", "yes"))
		}, `the critical attribute "com.example.only-on-fridays"`},
		{"an attribute with a number for a name", []string{mediaCOSE}, func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, critical(int64(4711), "yes"))
		}, `the critical attribute "4711"`},
		{"the scheme of signing authorities", both, func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, func(q *request) { q.SigningScheme = signature.SigningSchemeX509SigningAuthority })
		}, `"notary.x509.signingAuthority"`},
		{"too many certificates", both, func(mt string, m *oci.Manifest) []byte { return deep.issue(t, "vendor").sign(t, mt, m) }, "10 certificates, more than 8"},
		{"too long", both, func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, mt, m, func(q *request) { q.SigningAgent = strings.Repeat("x", 200<<10) })
		}, "more than a notation signature may have"},
		{"truncated", both, func(mt string, m *oci.Manifest) []byte { return vendor.sign(t, mt, m)[:300] }, "not a notation signature"},
		{"not an envelope", both, func(mt string, m *oci.Manifest) []byte { return []byte("hello") }, "not a notation signature"},
		{"the other envelope", both, func(mt string, m *oci.Manifest) []byte {
			return vendor.sign(t, map[string]string{mediaJWS: mediaCOSE, mediaCOSE: mediaJWS}[mt], m)
		}, "not a notation signature"},
		{"a changed payload", []string{mediaJWS}, func(mt string, m *oci.Manifest) []byte {
			return edited(t, vendor.sign(t, mt, other), func(e, _ map[string]any) {
				e["payload"] = base64.RawURLEncoding.EncodeToString(target(t, m.Descriptor()).Content)
			})
		}, changed},
		{"a changed payload", []string{mediaCOSE}, func(mt string, m *oci.Manifest) []byte {
			return replaced(t, vendor.sign(t, mt, other), other.Digest.Encoded(), m.Digest.Encoded())
		}, changed},
		{"a changed signature", []string{mediaJWS}, func(mt string, m *oci.Manifest) []byte {
			return edited(t, vendor.sign(t, mt, m), func(e, _ map[string]any) { e["signature"] = strings.Repeat("A", 86) })
		}, changed},
		{"no signature", []string{mediaJWS}, func(mt string, m *oci.Manifest) []byte {
			return edited(t, vendor.sign(t, mt, m), func(e, _ map[string]any) { delete(e, "signature") })
		}, `the member "signature" is missing`},
		{"a member twice", []string{mediaJWS}, func(mt string, m *oci.Manifest) []byte {
			return replaced(t, vendor.sign(t, mt, m), "{", `{"Payload":"e30",`)
		}, "appears twice"},
		{"no certificates", []string{mediaJWS}, func(mt string, m *oci.Manifest) []byte {
			return edited(t, vendor.sign(t, mt, m), func(_, header map[string]any) { delete(header, "x5c") })
		}, "carries no certificate chain"},
		{"the certificate of somebody else", []string{mediaJWS}, func(mt string, m *oci.Manifest) []byte {
			return edited(t, namesake.sign(t, mt, m), func(_, header map[string]any) {
				header["x5c"] = [][]byte{vendor.cert().Raw, ca.cert().Raw}
			})
		}, changed},
		{"the root of somebody else at the end", []string{mediaJWS}, func(mt string, m *oci.Manifest) []byte {
			return edited(t, namesake.sign(t, mt, m), func(_, header map[string]any) {
				header["x5c"] = [][]byte{namesake.cert().Raw, ca.cert().Raw}
			})
		}, "is not issued by"},
		{"the root besides", []string{mediaJWS}, func(mt string, m *oci.Manifest) []byte {
			return edited(t, namesake.sign(t, mt, m), func(_, header map[string]any) {
				header["x5c"] = [][]byte{namesake.cert().Raw, namesake.chain[1].Raw, ca.cert().Raw}
			})
		}, "must not contain self-signed intermediate"},
		{"no root at the end", []string{mediaJWS}, func(mt string, m *oci.Manifest) []byte {
			return edited(t, intermediate.issue(t, "vendor").sign(t, mt, m), func(_, header map[string]any) {
				header["x5c"] = header["x5c"].([]any)[:2]
			})
		}, "must end with a valid self-signed root"},
		{"a certificate that is none", []string{mediaJWS}, func(mt string, m *oci.Manifest) []byte {
			return edited(t, vendor.sign(t, mt, m), func(_, header map[string]any) { header["x5c"] = []string{"AAAA"} })
		}, "certificate number 1"},
	} {
		for _, mediaType := range tc.mediaTypes {
			t.Run(tc.name+", "+mediaType, func(t *testing.T) {
				m := r.PushImage(t, t.Name())
				attach(t, r, m, mediaType, tc.make(mediaType, m))
				found := collect(t, r, m, ca.as(t, "vendor"))
				if len(found.Signatures) != 1 || len(found.Problems) != 0 {
					t.Fatalf("got %+v", found)
				}
				if s := found.Signatures[0]; s.By.Verified() || !strings.Contains(s.Err, tc.says) {
					t.Errorf("got %+v, want it to say %q", s, tc.says)
				}
			})
		}
	}
	// All of the above hang on these being good.
	for _, p := range []*party{vendor, intermediate.issue(t, "vendor")} {
		for _, mediaType := range both {
			t.Run("good, "+mediaType, func(t *testing.T) {
				m := r.PushImage(t, "good"+mediaType+p.cert().SerialNumber.String())
				attach(t, r, m, mediaType, p.sign(t, mediaType, m))
				if found := collect(t, r, m, ca.as(t, "vendor")); len(found.Signatures) != 1 || found.Signatures[0].By.Signer() != p.facts("vendor") {
					t.Errorf("got %+v", found)
				}
			})
		}
	}
}

// TestUnsignedAttributes: what no signature covers neither makes a signature
// good nor bad.
func TestUnsignedAttributes(t *testing.T) {
	ca := newCA(t, "acme CA")
	vendor := ca.issue(t, "vendor")
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	for name, change := range map[string]func(map[string]any){
		"an agent of another name":       func(h map[string]any) { h["io.cncf.notary.signingAgent"] = "\x00 evil" },
		"a time stamp that is none":      func(h map[string]any) { h["io.cncf.notary.timestampSignature"] = "AAAA" },
		"an attribute that nobody knows": func(h map[string]any) { h["io.cncf.notary.verificationPlugin"] = "evil" },
	} {
		t.Run(name, func(t *testing.T) {
			m := r.PushImage(t, name)
			attach(t, r, m, mediaJWS, edited(t, vendor.sign(t, mediaJWS, m), func(_, header map[string]any) { change(header) }))
			if found := collect(t, r, m, ca.as(t, "vendor")); len(found.Signatures) != 1 || !found.Signatures[0].By.Verified() {
				t.Errorf("got %+v", found)
			}
		})
	}
	for name, tc := range map[string]struct {
		value any
		says  string
	}{
		"an agent that is no string":         {map[string]any{"io.cncf.notary.signingAgent": 1}, "not a notation signature"},
		"a time stamp that is not base64":    {map[string]any{"io.cncf.notary.timestampSignature": "***"}, "not a notation signature"},
		"a header that is no object":         {"x", "not a notation signature"},
		"a chain that is no list of strings": {map[string]any{"x5c": []int{1}}, "the certificate chain (x5c)"},
	} {
		t.Run(name, func(t *testing.T) {
			m := r.PushImage(t, name)
			attach(t, r, m, mediaJWS, edited(t, vendor.sign(t, mediaJWS, m), func(e, header map[string]any) {
				members, ok := tc.value.(map[string]any)
				if !ok {
					e["header"] = tc.value
					return
				}
				for key, value := range members {
					header[key] = value
				}
			}))
			if found := collect(t, r, m, ca.as(t, "vendor")); len(found.Signatures) != 1 || !strings.Contains(found.Signatures[0].Err, tc.says) {
				t.Errorf("got %+v", found)
			}
		})
	}
}

// TestWhoseSignature: each signer answers for its own CA and identities.
func TestWhoseSignature(t *testing.T) {
	ca, otherCA := newCA(t, "acme CA"), newCA(t, "other CA")
	vendor := ca.issue(t, "vendor")
	named := func(identities ...string) func(*notation.Options) {
		return func(o *notation.Options) { o.Identities = identities }
	}
	for _, tc := range []struct {
		name    string
		signers []notation.Signer
		want    string
		says    string
	}{
		{"the second of two", []notation.Signer{otherCA.as(t, "other"), ca.as(t, "vendor")}, "vendor", ""},
		{"the first of two that fit", []notation.Signer{ca.as(t, "first"), ca.as(t, "second")}, "first", ""},
		{"two under one CA, one names it", []notation.Signer{ca.as(t, "not", named("x509.subject: C=DE, ST=BE, O=acme.example")), ca.as(t, "vendor")}, "vendor", ""},
		{"more than the least", []notation.Signer{ca.as(t, "vendor", named("x509.subject: CN=vendor, O=acme.example, ST=WA, C=US"))}, "vendor", ""},
		{"the second identity", []notation.Signer{ca.as(t, "vendor", named("x509.subject: C=DE, ST=BE, O=x", identity))}, "vendor", ""},
		{"everybody under the CA", []notation.Signer{ca.as(t, "all", named("*"))}, "all", ""},
		{"a CA among several", []notation.Signer{ca.as(t, "vendor", func(o *notation.Options) { o.CA = append(otherCA.pem(), o.CA...) })}, "vendor", ""},
		{"everybody under another CA", []notation.Signer{otherCA.as(t, "all", named("*"))}, "", "which no notation signer"},
		{"a part of a name", []notation.Signer{ca.as(t, "vendor", named("x509.subject: C=US, ST=WA, O=acme"))}, "", `made under the CA of the signer "vendor": its certificate "CN=vendor`},
		{"another common name", []notation.Signer{ca.as(t, "vendor", named(identity+", CN=build"))}, "", "none of the signer's identities"},
		{"a signer that is none", []notation.Signer{{}}, "", "which no notation signer"},
		{"no signers", nil, "", "which no notation signer"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
			m := r.PushImage(t, "the image")
			attach(t, r, m, mediaJWS, vendor.sign(t, mediaJWS, m))
			found := collect(t, r, m, tc.signers...)
			if len(found.Signatures) != 1 || len(found.Problems) != 0 {
				t.Fatalf("got %+v", found)
			}
			s := found.Signatures[0]
			if s.By.Signer().Name != tc.want || s.By.Verified() != (tc.want != "") || !strings.Contains(s.Err, tc.says) {
				t.Errorf("got %+v", s)
			}
		})
	}
}

// TestPlaces: only what notation's artifact type says is a signature is one,
// and one listing cannot hide another.
func TestPlaces(t *testing.T) {
	ca := newCA(t, "acme CA")
	vendor := ca.issue(t, "vendor")
	for name, tc := range map[string]struct {
		push     func(t *testing.T, r *evidencetest.Repository, m *oci.Manifest, raw []byte)
		verified int
		refused  []string
	}{
		"another artifact type": {func(t *testing.T, r *evidencetest.Repository, m *oci.Manifest, raw []byte) {
			r.PushLayers(t, "application/vnd.example.thing", []oci.Descriptor{r.PushBlob(t, mediaJWS, raw)}, m, "")
		}, 0, nil},
		"no artifact type": {func(t *testing.T, r *evidencetest.Repository, m *oci.Manifest, raw []byte) {
			r.PushLayers(t, "", []oci.Descriptor{r.PushBlob(t, mediaJWS, raw)}, m, "")
		}, 0, nil},
		"another layer type": {func(t *testing.T, r *evidencetest.Repository, m *oci.Manifest, raw []byte) {
			r.PushLayers(t, registry.ArtifactTypeNotation, []oci.Descriptor{r.PushBlob(t, "application/json", raw)}, m, "")
		}, 0, nil},
		"one envelope in two manifests": {func(t *testing.T, r *evidencetest.Repository, m *oci.Manifest, raw []byte) {
			layer := r.PushBlob(t, mediaJWS, raw)
			attach(t, r, m, mediaJWS, raw)
			r.PushLayers(t, registry.ArtifactTypeNotation, []oci.Descriptor{layer, layer}, m, "")
		}, 1, nil},
		"listed first as the other envelope": {func(t *testing.T, r *evidencetest.Repository, m *oci.Manifest, raw []byte) {
			layer := r.PushBlob(t, mediaJWS, raw)
			wrong := layer
			wrong.MediaType = mediaCOSE
			r.PushLayers(t, registry.ArtifactTypeNotation, []oci.Descriptor{wrong, layer}, m, "")
		}, 1, []string{"not a notation signature"}},
		"listed first as longer than it is": {func(t *testing.T, r *evidencetest.Repository, m *oci.Manifest, raw []byte) {
			layer := r.PushBlob(t, mediaJWS, raw)
			wrong := layer
			wrong.Size = evidence.DefaultLimits.Attestation + 1
			r.PushLayers(t, registry.ArtifactTypeNotation, []oci.Descriptor{wrong, layer}, m, "")
		}, 1, []string{"more than limits.attestation"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
			m := r.PushImage(t, "the image")
			tc.push(t, r, m, vendor.sign(t, mediaJWS, m))
			found := collect(t, r, m, ca.as(t, "vendor"))
			if len(found.Problems) != 0 || len(found.Signatures) != tc.verified+len(tc.refused) {
				t.Fatalf("got %+v", found)
			}
			verified, refused := 0, []string(nil)
			for _, s := range found.Signatures {
				if s.By.Verified() {
					verified++
				} else {
					refused = append(refused, s.Err)
				}
			}
			if verified != tc.verified {
				t.Errorf("%d verified: %+v", verified, found)
			}
			for i, says := range tc.refused {
				if !strings.Contains(refused[i], says) {
					t.Errorf("%q does not say %q", refused[i], says)
				}
			}
		})
	}
}

// TestThousandBogusReferrers: whoever can push cannot make TrustGate look at
// more than the limits say, and what it did not look at is no absence
// (CVE-2023-33958).
func TestThousandBogusReferrers(t *testing.T) {
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	m := r.PushImage(t, "the image")
	stranger := newCA(t, "stranger CA").issue(t, "stranger")
	raw := stranger.sign(t, mediaJWS, m)
	var layers []oci.Descriptor
	for i := range 2 * evidence.DefaultLimits.Signatures {
		bogus := edited(t, raw, func(_, header map[string]any) { header["io.cncf.notary.signingAgent"] = fmt.Sprint("agent ", i) })
		layers = append(layers, r.PushBlob(t, mediaJWS, bogus))
	}
	config, subject := r.PushBlob(t, registry.ArtifactTypeNotation, []byte("{}")), m.Descriptor()
	for i := range 1000 {
		raw, err := json.Marshal(ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: config, Subject: &subject, Layers: layers[i%len(layers) : i%len(layers)+1],
			Annotations: map[string]string{"n": fmt.Sprint(i)},
		})
		if err != nil {
			t.Fatal(err)
		}
		put(t, r, digest.FromBytes(raw), raw)
	}
	signer := newCA(t, "acme CA").as(t, "vendor")
	limits := evidence.DefaultLimits

	r.Requests.Store(0)
	found := collect(t, r, m, signer)
	if n := len(found.Signatures); n == 0 || n > limits.Signatures || len(found.Problems) != 2 {
		t.Errorf("%d signatures, problems %+v", n, found.Problems)
	}
	if requests, most := r.Requests.Load(), int64(1+limits.Referrers+limits.Signatures); requests > most {
		t.Errorf("%d requests, more than %d", requests, most)
	}

	r.Requests.Store(0)
	found = evidence.Gather(t.Context(), []evidence.Collector{notation.New([]notation.Signer{signer})}, r.Subject(m))
	if len(found.Signatures) != 0 || len(found.Problems) != 1 || !strings.Contains(found.Problems[0].Message, "limits.referrers (256)") {
		t.Errorf("gathered %+v", found)
	}
	if requests := r.Requests.Load(); requests > 1 {
		t.Errorf("%d requests", requests)
	}
}

// put pushes a manifest with nothing around it: a client that also keeps the
// referrers tag of registries without the API takes longer with each.
func put(t testing.TB, r *evidencetest.Repository, d digest.Digest, raw []byte) {
	t.Helper()
	url := fmt.Sprintf("http://%s/v2/%s/manifests/%s", r.Host, r.Name.Repository(), d)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", ocispec.MediaTypeImageManifest)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		t.Fatalf("the registry answered %s", response.Status)
	}
}

// unavailable is a registry that fails at one thing.
type unavailable struct {
	evidence.Source
	blobs bool
}

func (u unavailable) Blob(ctx context.Context, d oci.Descriptor, limit int64) ([]byte, error) {
	if u.blobs {
		return nil, context.DeadlineExceeded
	}
	return u.Source.Blob(ctx, d, limit)
}

func (u unavailable) Manifest(ctx context.Context, d digest.Digest) (*oci.Manifest, error) {
	if !u.blobs {
		return nil, context.DeadlineExceeded
	}
	return u.Source.Manifest(ctx, d)
}

// TestNotThere: a signature that could not be fetched is a problem, not an
// absence.
func TestNotThere(t *testing.T) {
	ca := newCA(t, "acme CA")
	vendor := ca.issue(t, "vendor")
	for name, blobs := range map[string]bool{"its manifest": false, "its envelope": true} {
		t.Run(name, func(t *testing.T) {
			r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
			m := r.PushImage(t, "the image")
			attach(t, r, m, mediaJWS, vendor.sign(t, mediaJWS, m))
			subject := r.Subject(m)
			subject.Source = unavailable{r, blobs}
			found := notation.New([]notation.Signer{ca.as(t, "vendor")}).Collect(t.Context(), subject)
			if len(found.Signatures) != 0 || len(found.Problems) != 1 || !found.Problems[0].Temporary || found.Problems[0].Collector != evidence.KindNotation {
				t.Errorf("got %+v", found)
			}
		})
	}
}

// TestSignersAreSharedSafely: one collector serves many pulls at once.
func TestSignersAreSharedSafely(t *testing.T) {
	r := evidencetest.Start(t, evidencetest.WithReferrers, "acme/app")
	ca := newCA(t, "acme CA")
	m := r.PushImage(t, "the image")
	attach(t, r, m, mediaJWS, ca.issue(t, "vendor").sign(t, mediaJWS, m))
	attach(t, r, m, mediaCOSE, ca.issue(t, "vendor").sign(t, mediaCOSE, m))
	c := notation.New([]notation.Signer{ca.as(t, "vendor")})
	verified := make(chan int)
	for range 8 {
		go func() {
			n := 0
			for _, s := range c.Collect(t.Context(), r.Subject(m)).Signatures {
				if s.By.Verified() {
					n++
				}
			}
			verified <- n
		}()
	}
	for range 8 {
		if n := <-verified; n != 2 {
			t.Errorf("%d verified", n)
		}
	}
}

func TestLoadSigner(t *testing.T) {
	ca := newCA(t, "acme CA")
	leaf := ca.issue(t, "vendor")
	selfSigned := certify(t, nil, &x509.Certificate{Subject: named("alone"), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}})
	small := certificate(t, ca, rsaKey(1024), nil, &x509.Certificate{Subject: named("small"), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	good := ca.pem()
	for name, tc := range map[string]struct {
		change func(*notation.Options)
		says   string // "" when it loads
	}{
		"good":                      {func(o *notation.Options) {}, ""},
		"several roots":             {func(o *notation.Options) { o.CA = append(newCA(t, "x").pem(), good...) }, ""},
		"text between the blocks":   {func(o *notation.Options) { o.CA = append([]byte("subject=acme CA\n"), good...) }, ""},
		"a self-signed certificate": {func(o *notation.Options) { o.CA = selfSigned.pem() }, ""},
		"everybody":                 {func(o *notation.Options) { o.Identities = []string{"*"} }, ""},
		"a state that is called S":  {func(o *notation.Options) { o.Identities = []string{"x509.subject: C=US, S=WA, O=x"} }, ""},
		"soft-fail by name":         {func(o *notation.Options) { o.Revocation = notation.RevocationSoftFail }, ""},
		"skip":                      {func(o *notation.Options) { o.Revocation = notation.RevocationSkip }, ""},
		"no CA":                     {func(o *notation.Options) { o.CA = nil }, "it is empty"},
		"white space":               {func(o *notation.Options) { o.CA = []byte(" \n") }, "it is empty"},
		"DER":                       {func(o *notation.Options) { o.CA = ca.cert().Raw }, "it is not PEM"},
		"a damaged block": {func(o *notation.Options) {
			o.CA = append(bytes.Replace(good, []byte("MI"), []byte("M*"), 1), newCA(t, "x").pem()...)
		}, "2 PEM blocks, and 1 of them"},
		"only a damaged block": {func(o *notation.Options) { o.CA = bytes.Replace(good, []byte("MI"), []byte("M*"), 1) }, "1 PEM blocks, and 0 of them"},
		"a private key": {func(o *notation.Options) {
			o.CA = bytes.ReplaceAll(good, []byte("CERTIFICATE"), []byte("EC PRIVATE KEY"))
		}, "private key, which must not be on this machine"},
		"a public key":               {func(o *notation.Options) { o.CA = bytes.ReplaceAll(good, []byte("CERTIFICATE"), []byte("PUBLIC KEY")) }, `"PUBLIC KEY", not a certificate`},
		"the same root twice":        {func(o *notation.Options) { o.CA = append(bytes.Clone(good), good...) }, "in it twice"},
		"a certificate under the CA": {func(o *notation.Options) { o.CA = leaf.pem() }, "neither a CA nor self-signed"},
		"a small key":                {func(o *notation.Options) { o.CA = inPEM(small) }, "an RSA key of 1024 bits; it must have 2048 to 8192"},
		"too many roots": {func(o *notation.Options) {
			for range 64 {
				o.CA = append(o.CA, newCA(t, "x").pem()...)
			}
		}, "more than 64 certificates"},
		"too long":                    {func(o *notation.Options) { o.CA = append(bytes.Clone(good), make([]byte, 1<<20)...) }, "more than 1048576"},
		"no identities":               {func(o *notation.Options) { o.Identities = nil }, "it names no identities"},
		"an empty identity":           {func(o *notation.Options) { o.Identities = []string{""} }, `its identity ""`},
		"a name without a prefix":     {func(o *notation.Options) { o.Identities = []string{"CN=vendor"} }, `one starts with "x509.subject:"`},
		"another kind of identity":    {func(o *notation.Options) { o.Identities = []string{"did:example:1"} }, "not one that TrustGate knows"},
		"a name with too few parts":   {func(o *notation.Options) { o.Identities = []string{"x509.subject: CN=vendor"} }, "it must contain 'C', 'ST' or 'S', and 'O'"},
		"a name that cannot be read":  {func(o *notation.Options) { o.Identities = []string{"x509.subject: vendor"} }, "parsing distinguished name"},
		"everybody and somebody":      {func(o *notation.Options) { o.Identities = []string{"*", identity} }, "wildcard"},
		"an identity inside another":  {func(o *notation.Options) { o.Identities = []string{identity, identity + ", CN=vendor"} }, "overlap"},
		"a TSA that is no root":       {func(o *notation.Options) { _, tsa := newTSA(t); o.TSA = tsa.pem() }, "its TSA"},
		"a TSA that is no PEM":        {func(o *notation.Options) { o.TSA = []byte("x") }, "its TSA: it is not PEM"},
		"a revocation that is none":   {func(o *notation.Options) { o.Revocation = "log" }, `"soft-fail", "enforce" or "skip"`},
		"enforce without the network": {func(o *notation.Options) { o.Revocation = notation.RevocationEnforce }, "there is no network to ask on"},
	} {
		t.Run(name, func(t *testing.T) {
			o := notation.Options{CA: good, Identities: []string{identity}}
			tc.change(&o)
			_, err := notation.LoadSigner("vendor", o)
			switch {
			case tc.says == "" && err != nil:
				t.Error(err)
			case tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), `the notation signer "vendor"`)):
				t.Errorf("got %v, want it to say %q", err, tc.says)
			}
		})
	}
}
