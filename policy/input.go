package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

// Input is the document that rules read. Its JSON form is a contract with
// everybody who writes Rego: policies/schema/input.json describes it, rules
// are compiled against that schema, and a test holds the two together.
//
// Every list is present even when empty and every object that can be missing
// is null, so that a rule tells "none" from a misspelt name.
type Input struct {
	Request      Request       `json:"request"`
	Image        Image         `json:"image"`
	Signatures   []Signature   `json:"signatures"`
	Attestations []Attestation `json:"attestations"`
	Build        Build         `json:"build"`
	Source       Source        `json:"source"`
	Parents      []Parent      `json:"parents"`
	Packages     *Packages     `json:"packages"`
	Errors       []Problem     `json:"errors"`
}

// Request is who asks, where and when.
type Request struct {
	Client Client    `json:"client"`
	Route  string    `json:"route"` // the registry's name, as the configuration has it
	Time   time.Time `json:"time"`
}

// Client is who asks. Identity is empty unless the listener authenticated it.
type Client struct {
	Identity  string `json:"identity"`
	Address   string `json:"address"`
	UserAgent string `json:"user_agent"`
}

// Image is what was asked for and what it turned out to be. Annotations,
// labels and creation time are the image's own word.
type Image struct {
	Reference   string            `json:"reference"`
	Registry    string            `json:"registry"`
	Repository  string            `json:"repository"`
	Tag         string            `json:"tag"`
	Digest      digest.Digest     `json:"digest"`
	MediaType   string            `json:"media_type"`
	Kind        string            `json:"kind"` // image, index, artifact
	Platform    string            `json:"platform"`
	Annotations map[string]string `json:"annotations"`
	Labels      map[string]string `json:"labels"`
	Created     *time.Time        `json:"created"`
	Size        int64             `json:"size"` // bytes, of config and layers as stored
	Layers      []Layer           `json:"layers"`
	Index       *Index            `json:"index"`
	Root        bool              `json:"root"` // a configured root: trusted by digest or by its required signer
	Config      *Config           `json:"config"`
}

// Config is the rest of how the image asks to be run. It is null when there is
// none, or when it could not be read.
type Config struct {
	User       string   `json:"user"`
	WorkingDir string   `json:"working_dir"`
	Env        []string `json:"env"`
	Volumes    []string `json:"volumes"`
}

// Layer is one layer; DiffID is the digest of its uncompressed form, as the
// config claims it.
type Layer struct {
	Digest    digest.Digest `json:"digest"`
	DiffID    digest.Digest `json:"diff_id"`
	Size      int64         `json:"size"`
	MediaType string        `json:"media_type"`
	Foreign   bool          `json:"foreign"`
}

// Index is the index through which an image was pulled.
type Index struct {
	Digest    digest.Digest `json:"digest"`
	Reference string        `json:"reference"`
}

// Signer is a party that the configuration names.
type Signer struct {
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint"`
	Identity    string `json:"identity"`
	Issuer      string `json:"issuer"`
}

// Signature is one signature. Signer is null unless it is verified.
type Signature struct {
	Kind             string     `json:"kind"`
	Verified         bool       `json:"verified"`
	Signer           *Signer    `json:"signer"`
	Reference        string     `json:"reference"`
	ReferenceMatches *bool      `json:"reference_matches"`
	SignedAt         *time.Time `json:"signed_at"`
	ExpiresAt        *time.Time `json:"expires_at"`
	Location         string     `json:"location"`
	Inherited        bool       `json:"inherited"`
	Error            string     `json:"error"`
}

// Attestation is one statement. Signer is null unless it is verified.
type Attestation struct {
	PredicateType string          `json:"predicate_type"`
	Verified      bool            `json:"verified"`
	Signer        *Signer         `json:"signer"`
	Subject       digest.Digest   `json:"subject"`
	Predicate     json.RawMessage `json:"predicate"`
	Location      string          `json:"location"`
	Inherited     bool            `json:"inherited"`
	Error         string          `json:"error"`
}

// Build is how the image was built. Verified says that a named signer made the
// provenance; Trusted that the signer may speak for this builder.
type Build struct {
	Verified   bool            `json:"verified"`
	Trusted    bool            `json:"trusted"`
	BuilderID  string          `json:"builder_id"`
	BuildType  string          `json:"build_type"`
	Signer     *Signer         `json:"signer"`
	StartedOn  *time.Time      `json:"started_on"`
	FinishedOn *time.Time      `json:"finished_on"`
	Parameters json.RawMessage `json:"parameters"`
	Materials  []Material      `json:"materials"`
	Reproduced Reproduced      `json:"reproduced"`
}

// Material is one thing that went into the build.
type Material struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest"` // algorithm to hex
}

// Reproduced says which independent builders came to the same digest.
type Reproduced struct {
	By       []string `json:"by"`
	Agree    int      `json:"agree"`
	Disagree int      `json:"disagree"`
}

// Source is where the image was built from. Verified says that it comes from
// verified provenance, Trusted that it is also one of trust.sources.
type Source struct {
	Verified   bool          `json:"verified"`
	Trusted    bool          `json:"trusted"`
	Repository string        `json:"repository"`
	Revision   string        `json:"revision"`
	Ref        string        `json:"ref"`
	Via        string        `json:"via"` // provenance, annotation, label or ""
	Dockerfile *Dockerfile   `json:"dockerfile"`
	Tag        *SourceTag    `json:"tag"`
	Commit     *SourceCommit `json:"commit"`
	URL        string        `json:"url"` // a web page, where the forge is known
}

// Dockerfile is the build's recipe. Out of git it is what the revision holds, and
// so as good as the source's word for the revision; Assumed says that nothing
// says which file it was, and that it lies where one usually does.
type Dockerfile struct {
	Path    string `json:"path"`
	Content string `json:"content"` // "" when there is an Error
	Via     string `json:"via"`     // provenance or git
	Assumed bool   `json:"assumed"`
	Error   string `json:"error"` // why it could not be read
}

// SourceTag is a git tag that points at the revision. Signer is null unless it
// is verified; SignedAt is the tag's own word.
type SourceTag struct {
	Name     string     `json:"name"`
	Verified bool       `json:"verified"`
	Signer   *Signer    `json:"signer"`
	SignedAt *time.Time `json:"signed_at"`
	Error    string     `json:"error"`
}

// SourceCommit is the git commit that the revision names. Signer is null unless it is
// verified.
type SourceCommit struct {
	Verified bool    `json:"verified"`
	Signer   *Signer `json:"signer"`
	Error    string  `json:"error"`
}

// Parent is one edge of the trust tree and everything below it that matters:
// a parent's own parents appear here too, with their depth.
type Parent struct {
	Reference string         `json:"reference"`
	Digest    digest.Digest  `json:"digest"`
	Stage     string         `json:"stage"` // final or build
	Known     string         `json:"known"` // claimed, attested or proven
	Depth     int            `json:"depth"` // 1 for a direct parent
	Path      []string       `json:"path"`  // references from the image, itself first, to this parent
	Root      bool           `json:"root"`  // a configured root: trust ends here
	Verdict   *ParentVerdict `json:"verdict"`
	Build     *Build         `json:"build"`
	Source    *Source        `json:"source"`
	Error     string         `json:"error"`
}

// ParentVerdict is what the gate decided about the parent.
type ParentVerdict struct {
	Action  Action   `json:"action"`
	Reasons []Reason `json:"reasons"`
}

// Packages is what a comparison of the image's files with its package databases
// found. Examining takes longer than a pull: State is pending until it is done.
type Packages struct {
	State              string   `json:"state"` // pending, done, failed
	Error              string   `json:"error"`
	Distribution       string   `json:"distribution"` // as os-release has it: debian 12
	Managers           []string `json:"managers"`     // dpkg, apk, rpm
	Count              int      `json:"count"`
	Modified           []string `json:"modified"` // without configuration files
	Missing            []string `json:"missing"`
	Replaced           []string `json:"replaced"` // of a parent's package, by a later layer
	ModifiedConffiles  []string `json:"modified_conffiles"`
	UnownedExecutables []string `json:"unowned_executables"`
	UnownedSetuid      []string `json:"unowned_setuid"` // setuid, setgid or with file capabilities
	Truncated          bool     `json:"truncated"`      // a list of findings names fewer than there are
	SourceURL          string   `json:"source_url"`
}

// Problem is evidence that could not be had.
type Problem struct {
	Collector string `json:"collector"`
	Message   string `json:"message"`
	Temporary bool   `json:"temporary"`
}

// ReadInput reads an input document, as “trustgate policy input” writes it or as
// somebody edited it. What it leaves out is empty; what the schema does not
// know is an error. It reads no more than an input may have.
func ReadInput(r io.Reader) (*Input, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("reading the input: %w", err)
	}
	if len(raw) > maxInput {
		return nil, fmt.Errorf("the input has more than %d bytes", maxInput)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var in *Input
	if err := dec.Decode(&in); err != nil {
		return nil, fmt.Errorf("the input is not of the form that policies/schema/input.json describes: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("the input is followed by something else; it must be one JSON document")
	}
	if in == nil {
		return nil, errors.New("the input is null; 'trustgate policy input IMAGE' writes one")
	}
	return in, nil
}
