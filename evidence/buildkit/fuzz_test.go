package buildkit

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence/internal/attached"
	"github.com/trustgate/trustgate/oci"
)

// FuzzClaim: whatever lies in an attestation manifest is a claim about the image
// that it names, or says why it is not read.
func FuzzClaim(f *testing.F) {
	image, index := digest.FromString("image"), digest.FromString("index")
	f.Add(fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://slsa.dev/provenance/v1","subject":[{"name":"_","digest":{"sha256":%q}}],"predicate":{}}`, image.Encoded()))
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"x","subject":[{"digest":{"sha256":"00"}}]}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		a := claim(attached.Item{Raw: raw, Location: "index"}, image, index)
		if a.By.Verified() {
			t.Fatal("nobody signed it")
		}
		if (a.Err == "") != (a.Subject == image) || a.InIndex != index {
			t.Fatalf("got %+v", a)
		}
	})
}

// FuzzIsAttestationManifest: an entry is one only for a digest that it names.
func FuzzIsAttestationManifest(f *testing.F) {
	f.Add("attestation-manifest", "sha256:abc")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, kind, subject string) {
		about, ok := oci.IsAttestationManifest(oci.Descriptor{Annotations: map[string]string{
			"vnd.docker.reference.type": kind, "vnd.docker.reference.digest": subject,
		}})
		if ok != (kind == "attestation-manifest") || ok && about != subject {
			t.Fatalf("%q, %v", about, ok)
		}
	})
}
