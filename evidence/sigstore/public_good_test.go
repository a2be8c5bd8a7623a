package sigstore

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/oci"
)

// The identities behind what is kept in testdata/public-good.
var (
	aPerson   = Identity{Subject: "*@soyland.com", Issuer: "https://github.com/login/oauth"}
	aWorkflow = Identity{
		Subject:          "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/*",
		Issuer:           "https://token.actions.githubusercontent.com",
		SourceRepository: "https://github.com/sigstore/sigstore-js",
		SourceRef:        "refs/heads/main",
	}
)

func publicGood(t testing.TB, identities ...Identity) *Collector {
	t.Helper()
	var signers []Signer
	for _, id := range identities {
		s, err := LoadKeyless("public", stored(t, "public-good/trusted_root.json"), id, KeylessOptions{})
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, s)
	}
	return New(signers)
}

func emptyImage(t testing.TB) *oci.Manifest {
	t.Helper()
	m, err := oci.ParseManifest(stored(t, "public-good/empty-image.manifest.json"), "", "")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// npmPackage stands for what the provenance of sigstore.js is about: a digest
// that no manifest of an image has.
func npmPackage(t testing.TB) *oci.Manifest {
	t.Helper()
	d, err := digest.Parse("sha512:46d4e2f74c4877316640000a6fdf8a8b59f1e0847667973e9859f774dd31b8f1e0937813b777fb66a2ac67d50540fe34640966eee9fc2ccca387082b4c85cd3c")
	if err != nil {
		t.Fatal(err)
	}
	return &oci.Manifest{Digest: d}
}

// TestPublicGood verifies what the public instance of sigstore vouched for.
func TestPublicGood(t *testing.T) {
	for name, tc := range map[string]struct {
		file          string
		about         *oci.Manifest
		id            Identity
		predicateType string
		by            evidence.Signer
	}{
		"a person's attestation to an image": {
			"oci-attestation.bundle.json", emptyImage(t), aPerson, "https://cosign.sigstore.dev/attestation/v1",
			evidence.Signer{Name: "public", Identity: "cody@soyland.com", Issuer: "https://github.com/login/oauth"},
		},
		"a workflow's provenance": {
			"sigstore-js-provenance.bundle.json", npmPackage(t), aWorkflow, "https://slsa.dev/provenance/v1",
			evidence.Signer{
				Name: "public", Identity: "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/main",
				Issuer: "https://token.actions.githubusercontent.com",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			raw := stored(t, "public-good/"+tc.file)
			_, a := publicGood(t, tc.id).bundled(tc.about, raw)
			if a == nil || a.Err != "" || a.By.Signer() != tc.by || a.PredicateType != tc.predicateType || a.Subject != tc.about.Digest {
				t.Fatalf("got %+v", a)
			}

			envelope, annotations := older(t, raw)
			if a := publicGood(t, tc.id).attestation(tc.about.Digest, envelope, annotations); a.Err != "" || a.By.Signer() != tc.by {
				t.Errorf("in the older layout: %+v", a)
			}

			for name, id := range map[string]Identity{
				"of another subject": {Subject: "https://github.com/sigstore/sigstore-js-evil/**", Issuer: tc.id.Issuer},
				"of another issuer":  {Subject: tc.id.Subject, Issuer: "https://accounts.google.com"},
				"of another source":  {Subject: tc.id.Subject, Issuer: tc.id.Issuer, SourceRepository: "https://github.com/sigstore/sigstore"},
				"of another ref":     {Subject: tc.id.Subject, Issuer: tc.id.Issuer, SourceRef: "refs/tags/*"},
			} {
				_, a := publicGood(t, id).bundled(tc.about, raw)
				if a.By.Verified() || !strings.Contains(a.Err, "made by ") || !strings.Contains(a.Err, tc.by.Identity) || !strings.Contains(a.Err, "trust.signers names public") {
					t.Errorf("%s: %+v", name, a)
				}
			}
		})
	}
	// The time is the log's, years before the test runs.
	all, err := ofEnvelopeFile(t)
	if err != nil {
		t.Fatal(err)
	}
	by, err := publicGood(t, aPerson).anySigner(all...)
	if want := time.Unix(1740770291, 0); err != nil || !by.at.Equal(want) || !by.until.IsZero() {
		t.Errorf("made at %v until %v (%v), want %v", by.at, by.until, err, want)
	}
}

func ofEnvelopeFile(t *testing.T) ([]*signed, error) {
	raw, annotations := older(t, stored(t, "public-good/oci-attestation.bundle.json"))
	e, err := parseEnvelope(raw)
	if err != nil {
		return nil, err
	}
	payload, err := e.DecodeB64Payload()
	if err != nil {
		return nil, err
	}
	return ofEnvelope(e, payload, emptyImage(t).Digest, raw, annotations)
}

// older is the layer and its annotations as cosign wrote them before there were
// bundles, with what a bundle holds.
func older(t testing.TB, raw []byte) ([]byte, map[string]string) {
	t.Helper()
	b, err := parseBundle(raw)
	if err != nil {
		t.Fatal(err)
	}
	marshal := func(v any) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	e := b.GetDsseEnvelope()
	envelope := marshal(map[string]any{
		"payloadType": e.GetPayloadType(), "payload": base64.StdEncoding.EncodeToString(e.GetPayload()),
		"signatures": []any{map[string]any{"keyid": "", "sig": base64.StdEncoding.EncodeToString(e.GetSignatures()[0].GetSig())}},
	})
	entry := b.GetVerificationMaterial().GetTlogEntries()[0]
	return envelope, map[string]string{
		annotationSignature: "",
		annotationCertificate: string(pem.EncodeToMemory(&pem.Block{
			Type: "CERTIFICATE", Bytes: b.GetVerificationMaterial().GetCertificate().GetRawBytes(),
		})),
		annotationLogEntry: string(marshal(map[string]any{
			"SignedEntryTimestamp": entry.GetInclusionPromise().GetSignedEntryTimestamp(),
			"Payload": map[string]any{
				"body": entry.GetCanonicalizedBody(), "integratedTime": entry.GetIntegratedTime(),
				"logIndex": entry.GetLogIndex(), "logID": hex.EncodeToString(entry.GetLogId().GetKeyId()),
			},
		})),
	}
}

// FuzzKeylessBundle mutates what the public instance vouched for.
func FuzzKeylessBundle(f *testing.F) {
	c, image := publicGood(f, aPerson, aWorkflow), emptyImage(f)
	good := stored(f, "public-good/oci-attestation.bundle.json")
	_, attested := c.bundled(image, good)
	if attested == nil || !attested.By.Verified() {
		f.Fatalf("got %+v", attested)
	}
	f.Add(good)
	f.Add(stored(f, "public-good/sigstore-js-provenance.bundle.json"))
	f.Add(stored(f, "cosign-certificate/attestation.bundle.json"))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle+json;version=0.2","verificationMaterial":{"x509CertificateChain":{"certificates":[{"rawBytes":"AA=="}]},"tlogEntries":[{"logIndex":"1","logId":{"keyId":"AA=="},"kindVersion":{"kind":"intoto","version":"0.0.2"},"canonicalizedBody":"e30="}]},"dsseEnvelope":{"payload":"","payloadType":"","signatures":[{}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, a := c.bundled(image, raw)
		switch {
		case (s == nil) == (a == nil):
			t.Fatal("it must be a signature or an attestation")
		case s != nil && s.By.Verified():
			t.Fatalf("verified %+v, which was never signed", s)
		case a != nil && a.By.Verified() != (a.Err == ""):
			t.Fatalf("verified %v and says %q", a.By.Verified(), a.Err)
		case a != nil && a.By.Verified() && (string(a.Predicate) != string(attested.Predicate) || a.By != attested.By):
			t.Fatalf("verified %+v, which was never signed", a)
		}
	})
}

// FuzzAnnotations mutates them beside an envelope that was not changed.
func FuzzAnnotations(f *testing.F) {
	c, image := publicGood(f, aPerson), emptyImage(f)
	envelope, good := older(f, stored(f, "public-good/oci-attestation.bundle.json"))
	attested := c.attestation(image.Digest, envelope, good)
	if !attested.By.Verified() {
		f.Fatal(attested.Err)
	}
	f.Add(good[annotationCertificate], "", good[annotationLogEntry], "")
	f.Add(good[annotationCertificate], good[annotationCertificate], good[annotationLogEntry], `{"SignedRFC3161Timestamp":"MAA="}`)
	f.Add("", "", "", "")
	f.Add("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "x", "{}", "null")
	f.Add(good[annotationCertificate], "", `{"SignedEntryTimestamp":"AA==","Payload":{"body":"e30=","integratedTime":1,"logIndex":1,"logID":"00"}}`, "{}")
	f.Fuzz(func(t *testing.T, certificate, chain, entry, stamp string) {
		annotations := map[string]string{
			annotationCertificate: certificate, annotationChain: chain, annotationLogEntry: entry, annotationTimestamp: stamp,
		}
		a := c.attestation(image.Digest, envelope, annotations)
		if a.By.Verified() != (a.Err == "") {
			t.Fatalf("verified %v and says %q", a.By.Verified(), a.Err)
		}
		if a.By.Verified() && a.By != attested.By {
			t.Fatalf("verified for %+v, who never signed it", a.By.Signer())
		}
		// The same annotations beside what they were never made for.
		if s := c.simpleSigning(image.Digest, simplePayload(image), withSignature(annotations)); s.By.Verified() {
			t.Fatalf("verified %+v, which was never signed", s)
		}
	})
}

func simplePayload(m *oci.Manifest) []byte {
	return []byte(`{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":"` + m.Digest.String() + `"},"type":"cosign container image signature"},"optional":null}`)
}

func withSignature(annotations map[string]string) map[string]string {
	annotations[annotationSignature] = "MEUCIQDIgcWm5sXPh52rA/3BLyvfymD4RLEze5cx0WrDCF7tXAIgDtDq9wgYo8Z6RQ/LIaMRY/clocjCbX1qZTI9EVrGbzQ="
	return annotations
}

// FuzzTrustedRoot reads what a folder or a mirror could hold in its place.
func FuzzTrustedRoot(f *testing.F) {
	f.Add(stored(f, "public-good/trusted_root.json"))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[{}],"certificateAuthorities":[{}],"ctlogs":[{}],"timestampAuthorities":[{"certChain":{"certificates":[{}]}}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s, err := LoadKeyless("public", raw, aPerson, KeylessOptions{}); (err == nil) != (s.by != nil) {
			t.Fatalf("%v and %v", s.by, err)
		}
	})
}
