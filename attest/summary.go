package attest

import (
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// SummaryType is the predicate type of a verification summary.
//
// https://slsa.dev/spec/v1.1/verification_summary
const SummaryType = "https://slsa.dev/verification_summary/v1"

// The levels that a build is found to have.
//
// https://slsa.dev/spec/v1.1/verification_summary#slsaresult
const (
	Level0 = "SLSA_BUILD_LEVEL_0" // no provenance that a named signer vouches for
	Level1 = "SLSA_BUILD_LEVEL_1" // provenance that a named signer vouches for
	Level2 = "SLSA_BUILD_LEVEL_2" // signed by one who may speak for the trusted builder that it names
)

// Summary is one verdict.
type Summary struct {
	Subject  oci.Descriptor // the manifest that was judged
	Resource string         // the reference that was pulled
	Verifier string         // who judged, as a URI
	Version  string         // of TrustGate
	Time     time.Time
	Policy   digest.Digest // of the rules in force
	Decision string        // its id
	Input    digest.Digest // of the document that was judged
	Passed   bool
	Level    string         // of the image's own build
	Parents  map[string]int // how many of its parents have each level
}

type summary struct {
	Verifier struct {
		ID      string            `json:"id"`
		Version map[string]string `json:"version"`
	} `json:"verifier"`
	TimeVerified       string         `json:"timeVerified"`
	ResourceURI        string         `json:"resourceUri"`
	Policy             resource       `json:"policy"`
	InputAttestations  []resource     `json:"inputAttestations"`
	VerificationResult string         `json:"verificationResult"`
	VerifiedLevels     []string       `json:"verifiedLevels"`
	DependencyLevels   map[string]int `json:"dependencyLevels,omitempty"`
	SLSAVersion        string         `json:"slsaVersion"`
}

type resource struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest,omitempty"`
}

// Statement writes the verdict down, for whoever does not know the gate.
func (s Summary) Statement() Statement {
	var p summary
	p.Verifier.ID, p.Verifier.Version = s.Verifier, map[string]string{"trustgate": s.Version}
	p.TimeVerified = s.Time.UTC().Format(time.RFC3339)
	p.ResourceURI = s.Resource
	p.Policy = resource{URI: s.Verifier + "#policy", Digest: digestSet(s.Policy)}
	p.InputAttestations = []resource{{URI: "urn:trustgate:decision:" + s.Decision, Digest: digestSet(s.Input)}}
	p.VerificationResult, p.VerifiedLevels = "FAILED", []string{}
	if s.Passed {
		p.VerificationResult, p.VerifiedLevels = "PASSED", []string{s.Level}
	}
	p.DependencyLevels = s.Parents
	p.SLSAVersion = "1.1"
	return Statement{
		Subject: s.Subject, Name: s.Resource, PredicateType: SummaryType, Predicate: p, Time: s.Time,
		Annotations: map[string]string{"io.github.trustgate.decision": s.Decision},
	}
}
