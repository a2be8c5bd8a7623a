// Package policyjson reads the policy.json of containers/image, by which podman,
// skopeo, buildah and CRI-O decide which images they take, and writes a configuration
// of TrustGate that demands the same of every pull.
//
// What cannot be kept as strict as it was is an error. Nothing becomes weaker.
//
// https://github.com/containers/image/blob/main/docs/containers-policy.json.5.md
package policyjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/trustgate/trustgate/internal/jsonkey"
)

const maxPolicy = 1 << 20 // bytes of a policy.json

// Policy is a policy.json.
type Policy struct {
	Default    []Requirement
	Transports map[string]map[string][]Requirement // by transport and scope
}

// Requirement is one thing that is demanded of an image. Which members it has depends
// on Type; Parse has checked that it has no others.
type Requirement struct {
	Type string `json:"type"` // insecureAcceptAnything, reject, signedBy, sigstoreSigned

	KeyType  string   `json:"keyType"` // of signedBy: GPGKeys
	KeyPath  string   `json:"keyPath"`
	KeyPaths []string `json:"keyPaths"`
	KeyData  []byte   `json:"keyData"`
	KeyDatas [][]byte `json:"keyDatas"`
	Fulcio   *Fulcio  `json:"fulcio"`
	PKI      *PKI     `json:"pki"`

	RekorPublicKeyPath  string   `json:"rekorPublicKeyPath"`
	RekorPublicKeyPaths []string `json:"rekorPublicKeyPaths"`
	RekorPublicKeyData  []byte   `json:"rekorPublicKeyData"`
	RekorPublicKeyDatas [][]byte `json:"rekorPublicKeyDatas"`

	SignedIdentity *Identity `json:"signedIdentity"`
}

// Fulcio is an identity in short-lived certificates.
type Fulcio struct {
	CAPath       string `json:"caPath"`
	CAData       []byte `json:"caData"`
	OIDCIssuer   string `json:"oidcIssuer"`
	SubjectEmail string `json:"subjectEmail"`
}

// PKI is an identity in certificates of a private authority.
type PKI struct {
	CARootsPath         string `json:"caRootsPath"`
	CARootsData         []byte `json:"caRootsData"`
	CAIntermediatesPath string `json:"caIntermediatesPath"`
	CAIntermediatesData []byte `json:"caIntermediatesData"`
	SubjectEmail        string `json:"subjectEmail"`
	SubjectHostname     string `json:"subjectHostname"`
}

// Identity is what a signature must call the image.
type Identity struct {
	Type             string `json:"type"`
	DockerReference  string `json:"dockerReference"`  // of exactReference
	DockerRepository string `json:"dockerRepository"` // of exactRepository
	Prefix           string `json:"prefix"`           // of remapIdentity
	SignedPrefix     string `json:"signedPrefix"`
}

var (
	keySources   = []string{"keyPath", "keyPaths", "keyData", "keyDatas", "fulcio", "pki"}
	rekorSources = []string{"rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas"}

	requirementKeys = map[string][]string{
		"insecureAcceptAnything": {},
		"reject":                 {},
		"signedBy":               {"keyType", "keyPath", "keyPaths", "keyData", "signedIdentity"},
		"sigstoreSigned":         slices.Concat(keySources, rekorSources, []string{"signedIdentity"}),
	}
	identityKeys = map[string][]string{
		"matchExact":             {},
		"matchRepoDigestOrExact": {},
		"matchRepository":        {},
		"exactReference":         {"dockerReference"},
		"exactRepository":        {"dockerRepository"},
		"remapIdentity":          {"prefix", "signedPrefix"},
	}
)

// Parse reads a policy.json. It knows every key, and each counts once.
func Parse(raw []byte) (*Policy, error) {
	if len(raw) > maxPolicy {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(raw), maxPolicy)
	}
	if err := unambiguous(raw); err != nil {
		return nil, err
	}
	p := &Policy{Transports: map[string]map[string][]Requirement{}}
	top, err := members("policy.json", raw, "default", "transports")
	if err != nil {
		return nil, err
	}
	if top["default"] == nil {
		return nil, errors.New("it has no default: what is demanded of images that nothing else is said about?")
	}
	if p.Default, err = requirements("default", top["default"]); err != nil {
		return nil, err
	}
	var transports map[string]map[string]json.RawMessage
	if top["transports"] != nil {
		if err := json.Unmarshal(top["transports"], &transports); err != nil {
			return nil, fmt.Errorf("transports: %w", err)
		}
	}
	for transport, scopes := range transports {
		p.Transports[transport] = map[string][]Requirement{}
		for scope, list := range scopes {
			at := fmt.Sprintf("transports.%s[%q]", transport, scope)
			if p.Transports[transport][scope], err = requirements(at, list); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// unambiguous refuses a document that readers could read in two ways.
func unambiguous(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	var walk func(depth int) error
	walk = func(depth int) error {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		delim, nested := token.(json.Delim)
		if !nested {
			return nil
		}
		if depth > 16 {
			return errors.New("it is nested deeper than any policy.json")
		}
		// The keys of scopes differ in case only where repositories do, which they cannot.
		seen := map[string]bool{}
		for dec.More() {
			if delim == '{' {
				token, err := dec.Token()
				if err != nil {
					return err
				}
				key, _ := token.(string)
				if folded := jsonkey.Fold(key); seen[folded] {
					return fmt.Errorf("the key %.100q stands twice in one object", key)
				} else {
					seen[folded] = true
				}
			}
			if err := walk(depth + 1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
		return err
	}
	if err := walk(0); err != nil {
		return fmt.Errorf("it is no policy.json: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("it is followed by something else; a policy.json is one JSON object")
	}
	return nil
}

// members takes an object apart whose keys are known, in the very spelling.
func members(at string, raw []byte, known ...string) (map[string]json.RawMessage, error) {
	var of map[string]json.RawMessage
	if err := json.Unmarshal(raw, &of); err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	if of == nil {
		return nil, fmt.Errorf("%s: it must be an object", at)
	}
	for _, key := range slices.Sorted(maps.Keys(of)) {
		if !slices.Contains(known, key) {
			return nil, fmt.Errorf("%s: there is no key %.100q; there is %s", at, key, strings.Join(known, ", "))
		}
		if string(of[key]) == "null" {
			return nil, fmt.Errorf("%s.%s: it is null", at, key)
		}
	}
	return of, nil
}

func requirements(at string, raw []byte) ([]Requirement, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: it lists no requirement", at)
	}
	var all []Requirement
	for i, raw := range list {
		r, err := requirement(fmt.Sprintf("%s[%d]", at, i), raw)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func requirement(at string, raw []byte) (Requirement, error) {
	of, err := typed(at, raw, requirementKeys)
	if err != nil {
		return Requirement{}, err
	}
	var r Requirement
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("%s: %w", at, err)
	}
	given := func(keys []string) (n int) {
		for _, key := range keys {
			if of[key] != nil {
				n++
			}
		}
		return n
	}
	if r.signs() {
		if given(keySources) != 1 {
			return r, fmt.Errorf("%s: exactly one of %s must say whose signature counts", at, strings.Join(keySources, ", "))
		}
		if given(rekorSources) > 1 {
			return r, fmt.Errorf("%s: at most one of %s", at, strings.Join(rekorSources, ", "))
		}
		if r.KeyPath+strings.Join(r.KeyPaths, "") == "" && len(r.KeyData)+len(r.KeyDatas) == 0 && r.Fulcio == nil && r.PKI == nil {
			return r, fmt.Errorf("%s: it names no key", at)
		}
	}
	if r.Type == "signedBy" && r.KeyType != "GPGKeys" {
		return r, fmt.Errorf("%s.keyType: it is %.40q; GPGKeys is what containers/image can check", at, r.KeyType)
	}
	if r.Fulcio != nil {
		parts, err := members(at+".fulcio", of["fulcio"], "caPath", "caData", "oidcIssuer", "subjectEmail")
		if err != nil {
			return r, err
		}
		if (parts["caPath"] == nil) == (parts["caData"] == nil) || r.Fulcio.OIDCIssuer == "" || r.Fulcio.SubjectEmail == "" || given(rekorSources) == 0 {
			return r, fmt.Errorf("%s: fulcio needs one of caPath and caData, oidcIssuer, subjectEmail, and beside it the key of a Rekor", at)
		}
	}
	if r.PKI != nil {
		parts, err := members(at+".pki", of["pki"], "caRootsPath", "caRootsData", "caIntermediatesPath", "caIntermediatesData", "subjectEmail", "subjectHostname")
		if err != nil {
			return r, err
		}
		if (parts["caRootsPath"] == nil) == (parts["caRootsData"] == nil) || parts["caIntermediatesPath"] != nil && parts["caIntermediatesData"] != nil ||
			r.PKI.SubjectEmail+r.PKI.SubjectHostname == "" || given(rekorSources) > 0 {
			return r, fmt.Errorf("%s: pki needs one of caRootsPath and caRootsData, subjectEmail or subjectHostname, and no Rekor", at)
		}
	}
	if of["signedIdentity"] != nil {
		if err := r.SignedIdentity.check(at+".signedIdentity", of["signedIdentity"]); err != nil {
			return r, err
		}
	}
	if r.signs() && r.SignedIdentity == nil {
		r.SignedIdentity = &Identity{Type: "matchRepoDigestOrExact"}
	}
	return r, nil
}

func (r Requirement) signs() bool { return r.Type == "signedBy" || r.Type == "sigstoreSigned" }

// typed takes an object apart whose type says which keys it has.
func typed(at string, raw []byte, known map[string][]string) (map[string]json.RawMessage, error) {
	var t struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	keys, ok := known[t.Type]
	if !ok {
		return nil, fmt.Errorf("%s: the type %.40q cannot be kept; there is %s", at, t.Type, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	return members(at, raw, append([]string{"type"}, keys...)...)
}

// namespace is what an identity may be mapped from and to: a host, or what lies on it.
var namespace = regexp.MustCompile(`^` + reference.DomainRegexp.String() + `(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)

func (id *Identity) check(at string, raw []byte) error {
	if _, err := typed(at, raw, identityKeys); err != nil {
		return err
	}
	switch id.Type {
	case "exactReference":
		named, err := reference.ParseNormalizedNamed(id.DockerReference)
		if err != nil || reference.IsNameOnly(named) {
			return fmt.Errorf("%s.dockerReference: %.200q is no reference with a tag or a digest", at, id.DockerReference)
		}
		id.DockerReference = named.String()
	case "exactRepository":
		named, err := reference.ParseNormalizedNamed(id.DockerRepository)
		if err != nil || !reference.IsNameOnly(named) {
			return fmt.Errorf("%s.dockerRepository: %.200q is no repository", at, id.DockerRepository)
		}
		id.DockerRepository = named.Name()
	case "remapIdentity":
		for _, prefix := range []string{id.Prefix, id.SignedPrefix} {
			if !namespace.MatchString(prefix) {
				return fmt.Errorf("%s: %.200q is no prefix of a repository with its registry", at, prefix)
			}
		}
	}
	return nil
}

// absolute wants a path that means the same wherever it is read.
func absolute(at, path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s: %q is relative to wherever podman is started; write an absolute path", at, path)
	}
	return nil
}
