package provenance_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/seal"
	"github.com/trustgate/trustgate/evidence/provenance"
)

const ci = "https://ci.example/builder"

var builders = []provenance.Builder{{ID: ci + "*", Signers: []string{"ci", "release"}}}

func by(signer string) evidence.Voucher {
	return evidence.Vouch(seal.Key{}, evidence.Signer{Name: signer})
}

// attestation is one that names the builder and is told from others by its
// location.
func attestation(location, builder string, by evidence.Voucher) evidence.Attestation {
	return evidence.Attestation{
		PredicateType: provenance.TypeV1, By: by, Location: location,
		Predicate: json.RawMessage(fmt.Sprintf(`{"runDetails":{"builder":{"id":%q}}}`, builder)),
	}
}

func inherited(a evidence.Attestation) evidence.Attestation {
	a.Inherited = true
	return a
}

func TestChoose(t *testing.T) {
	var nobody evidence.Voucher
	trusted, verified, claim := attestation("trusted", ci, by("ci")), attestation("verified", ci, by("stranger")), attestation("claim", ci, nobody)
	broken := evidence.Attestation{PredicateType: provenance.TypeV1, Location: "broken", By: by("ci"), Predicate: json.RawMessage(`[]`)}
	brokenClaim := evidence.Attestation{PredicateType: provenance.TypeV1, Location: "broken", Predicate: json.RawMessage(`[]`)}
	unverified := attestation("unverified", ci, nobody)
	unverified.Err = "the signature does not fit"
	sbom := evidence.Attestation{PredicateType: "https://spdx.dev/Document", By: by("ci"), Predicate: json.RawMessage(`{"runDetails":{"builder":{"id":"x"}}}`)}
	old := evidence.Attestation{PredicateType: provenance.TypeV02, Location: "0.2", By: by("ci"), Predicate: json.RawMessage(`{"builder":{"id":"` + ci + `"}}`)}

	for name, tc := range map[string]struct {
		among    []evidence.Attestation
		chosen   string // its location, or "" for none
		trusted  bool
		verified bool
		problems int
	}{
		"none of none":                                 {nil, "", false, false, 0},
		"none where none is a provenance":              {[]evidence.Attestation{sbom}, "", false, false, 0},
		"a claim where there is nothing else":          {[]evidence.Attestation{claim}, "claim", false, false, 0},
		"a claim names a trusted builder in vain":      {[]evidence.Attestation{claim, sbom}, "claim", false, false, 0},
		"any signer's before a claim":                  {[]evidence.Attestation{claim, verified}, "verified", false, true, 0},
		"any signer's of the index before a claim":     {[]evidence.Attestation{claim, inherited(verified)}, "verified", false, true, 0},
		"the trusted one before any signer's":          {[]evidence.Attestation{claim, verified, trusted}, "trusted", true, true, 0},
		"the trusted one of the index before the rest": {[]evidence.Attestation{verified, claim, inherited(trusted)}, "trusted", true, true, 0},
		"the image's own before its index's":           {[]evidence.Attestation{inherited(attestation("index", ci, by("ci"))), trusted}, "trusted", true, true, 0},
		"the image's own claim before its index's":     {[]evidence.Attestation{inherited(attestation("index", ci, nobody)), claim}, "claim", false, false, 0},
		"the first among equals":                       {[]evidence.Attestation{attestation("first", ci, by("release")), trusted}, "first", true, true, 0},
		"version 0.2 as well":                          {[]evidence.Attestation{claim, old}, "0.2", true, true, 0},
		"not what does not verify":                     {[]evidence.Attestation{unverified}, "", false, false, 0},
		"not what cannot be read, and it is a problem": {[]evidence.Attestation{broken, claim}, "claim", false, false, 1},
		"not a claim that cannot be read":              {[]evidence.Attestation{brokenClaim, claim}, "claim", false, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			build, problems := provenance.Choose(tc.among, builders)
			if len(problems) != tc.problems {
				t.Errorf("the problems are %+v", problems)
			}
			for _, p := range problems {
				if p.Collector != "provenance" || p.Temporary || !strings.Contains(p.Message, "ci signed, at broken") {
					t.Errorf("the problem is %+v", p)
				}
			}
			if build == nil {
				if tc.chosen != "" {
					t.Fatal("nothing was chosen")
				}
				return
			}
			if build.Location != tc.chosen || build.Trusted != tc.trusted || build.By.Verified() != tc.verified || build.BuilderID != ci {
				t.Errorf("got %+v", build)
			}
		})
	}
}

func TestBuilderTrusts(t *testing.T) {
	for name, tc := range map[string]struct {
		builder provenance.Builder
		id      string
		by      evidence.Voucher
		want    bool
	}{
		"its signer and its ID":               {provenance.Builder{ID: ci, Signers: []string{"ci"}}, ci, by("ci"), true},
		"one of its signers":                  {provenance.Builder{ID: ci, Signers: []string{"x", "ci"}}, ci, by("ci"), true},
		"a workflow below its ID":             {provenance.Builder{ID: ci + "/*", Signers: []string{"ci"}}, ci + "/.github/workflows/a.yml@refs/heads/main", by("ci"), true},
		"another signer":                      {provenance.Builder{ID: ci, Signers: []string{"ci"}}, ci, by("stranger"), false},
		"a signer of another case":            {provenance.Builder{ID: ci, Signers: []string{"ci"}}, ci, by("CI"), false},
		"no signer":                           {provenance.Builder{ID: ci, Signers: []string{"ci"}}, ci, evidence.Voucher{}, false},
		"a signer without a name":             {provenance.Builder{ID: ci, Signers: []string{""}}, ci, evidence.Voucher{}, false},
		"a builder that names no signers":     {provenance.Builder{ID: ci}, ci, by("ci"), false},
		"another ID":                          {provenance.Builder{ID: ci, Signers: []string{"ci"}}, ci + "2", by("ci"), false},
		"an ID with a dot segment":            {provenance.Builder{ID: ci + "*", Signers: []string{"ci"}}, ci + "/../../evil", by("ci"), false},
		"no ID, and any will do":              {provenance.Builder{ID: "**", Signers: []string{"ci"}}, "", by("ci"), false},
		"a pattern that cannot be read":       {provenance.Builder{ID: "https://[", Signers: []string{"ci"}}, "https://[", by("ci"), false},
		"an empty pattern and no ID":          {provenance.Builder{Signers: []string{"ci"}}, "", by("ci"), false},
		"an ID of two hosts":                  {provenance.Builder{ID: "https://ci.example*", Signers: []string{"ci"}}, "https://ci.example@evil.example", by("ci"), false},
		"a host that begins like the builder": {provenance.Builder{ID: "https://ci.example*", Signers: []string{"ci"}}, "https://ci.example.evil.example/x", by("ci"), false},
	} {
		t.Run(name, func(t *testing.T) {
			build, _ := provenance.Choose([]evidence.Attestation{attestation("here", tc.id, tc.by)}, []provenance.Builder{tc.builder})
			if build == nil || build.Trusted != tc.want {
				t.Errorf("got %+v", build)
			}
		})
	}
}

func TestBuilderValidate(t *testing.T) {
	if err := builders[0].Validate(); err != nil {
		t.Error(err)
	}
	for name, tc := range map[string]struct {
		builder provenance.Builder
		says    string
	}{
		"without signers":                 {provenance.Builder{ID: ci}, "names no signers"},
		"without an ID":                   {provenance.Builder{Signers: []string{"ci"}}, "an empty pattern matches nothing"},
		"with an ID that cannot be read":  {provenance.Builder{ID: "https://[", Signers: []string{"ci"}}, "reading the pattern"},
		"with an ID that is far too long": {provenance.Builder{ID: strings.Repeat("x", 10000), Signers: []string{"ci"}}, "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tc.builder.Validate(); err == nil || !strings.Contains(err.Error(), tc.says) || len(err.Error()) > 1000 {
				t.Errorf("says %v", err)
			}
		})
	}
}
