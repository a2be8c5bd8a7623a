package provenance_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/seal"
	"github.com/trustgate/trustgate/evidence/provenance"
)

func TestCountReproductions(t *testing.T) {
	const repository, revision = "https://github.com/acme/app", "0123456789abcdef0123456789abcdef01234567"
	by := func(name string) evidence.Voucher { return evidence.Vouch(seal.Key{}, evidence.Signer{Name: name}) }
	said := func(signer, builder, repository string, identical bool) evidence.Attestation {
		predicate, err := json.Marshal(provenance.ReproductionPredicate(
			provenance.Reproduction{BuilderID: builder, Repository: repository, Revision: revision, Identical: identical},
			digest.FromString("rebuilt"), nil, time.Unix(0, 0)))
		if err != nil {
			t.Fatal(err)
		}
		return evidence.Attestation{PredicateType: provenance.TypeReproduction, By: by(signer), Predicate: predicate}
	}
	builders := []provenance.Builder{
		{ID: "https://a.example/*", Signers: []string{"a"}}, {ID: "https://b.example/*", Signers: []string{"b"}},
	}
	build := &provenance.Build{Provenance: provenance.Provenance{BuilderID: "https://a.example/1", Repository: repository, Revision: revision}, By: by("a"), Trusted: true}
	claim := said("a", "https://a.example/1", repository, true)
	claim.By = evidence.Voucher{}
	for name, tc := range map[string]struct {
		list     []evidence.Attestation
		agree    int
		disagree []string
	}{
		"two signers for two builders": {[]evidence.Attestation{said("a", "https://a.example/1", repository, true), said("b", "https://b.example/", repository, true)}, 2, nil},
		"one signer for two builders":  {[]evidence.Attestation{said("a", "https://a.example/1", repository, true), said("a", "https://a.example/2", repository, true)}, 1, nil},
		"one builder twice":            {[]evidence.Attestation{said("a", "https://a.example/1", repository, true), said("a", "https://a.example/1", repository, true)}, 1, nil},
		"a builder of somebody else's": {[]evidence.Attestation{said("b", "https://a.example/1", repository, true)}, 0, nil},
		"a claim":                      {[]evidence.Attestation{claim}, 0, nil},
		"another source":               {[]evidence.Attestation{said("b", "https://b.example/", "https://github.com/mallory/app", true)}, 0, nil},
		"one that disagrees, in another spelling": {
			[]evidence.Attestation{said("a", "https://a.example/1", repository, true), said("b", "https://b.example/", repository+".git", false)}, 1, []string{"https://b.example/"},
		},
		"one that says both": {[]evidence.Attestation{said("b", "https://b.example/", repository, true), said("b", "https://b.example/", repository, false)}, 0, []string{"https://b.example/"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := provenance.CountReproductions(build, tc.list, builders)
			if got.Agree != tc.agree || !slices.Equal(got.Disagree, tc.disagree) {
				t.Errorf("got %+v", got)
			}
		})
	}
	untrusted := *build
	untrusted.Trusted = false
	if got := provenance.CountReproductions(&untrusted, []evidence.Attestation{said("a", "https://a.example/1", repository, true)}, builders); got.Agree != 0 {
		t.Errorf("a build that is not trusted is reproduced: %+v", got)
	}
}

func FuzzParseReproduction(f *testing.F) {
	f.Add([]byte(`{"builder":{"id":"x"},"source":{"repository":"https://a/b.git","revision":"1"},"identical":false}`))
	f.Add([]byte(`{"identical":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if r, err := provenance.ParseReproduction(raw); (r == nil) == (err == nil) {
			t.Fatalf("%+v, %v", r, err)
		}
	})
}
