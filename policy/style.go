package policy

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// The styles of rules that were written for other tools.
const (
	// Conftest rules are sets deny, violation and warn, with or without a suffix, in
	// any package. They read the input as every rule does.
	//
	// https://www.conftest.dev/
	Conftest = "conftest"
	// Conforma rules are sets deny and warn whose metadata have a short_name. They
	// read the input of “ec validate image”, as far as it is known here.
	//
	// https://conforma.dev/docs/cli/policy_input.html
	Conforma = "conforma"
	// Cosign rules are those of “cosign verify-attestation --policy”: allow in the
	// package signature says yes to one statement.
	//
	// https://docs.sigstore.dev/cosign/verifying/attestation/
	Cosign = "cosign"
)

// Styles lists them.
var Styles = []string{Conftest, Conforma, Cosign}

// RuleSet is rules of another tool. They judge as they are: adapters make findings
// of what they say.
type RuleSet struct {
	Style string
	// Paths are folders and .rego files. Tests in them are left to their own tool.
	Paths []string
	// Data are YAML or JSON files that lie below data as their rules expect them.
	Data []string
	// Repositories are patterns of the registry/repository of the images that the
	// set judges; empty means all.
	Repositories []string
	// RegoVersion is that of conftest rules, v0 or v1; empty means v1, as conftest
	// has it. In v0 a file with “import rego.v1” is of v1.
	RegoVersion string
	// Collections choose among Conforma rules that belong to one; empty means all.
	Collections []string
	// PredicateType is what a Cosign set judges: a URI, or one of cosign's names.
	PredicateType string
	// Signers are those whose attestations a Cosign set judges; empty means every
	// signer of trust.signers.
	Signers []string
}

// PredicateTypes are cosign's names for them.
//
// https://github.com/sigstore/cosign/blob/main/specs/COSIGN_PREDICATE_SPEC.md
var PredicateTypes = map[string]string{
	"custom":           "https://cosign.sigstore.dev/attestation/v1",
	"slsaprovenance":   "https://slsa.dev/provenance/v0.2",
	"slsaprovenance02": "https://slsa.dev/provenance/v0.2",
	"slsaprovenance1":  "https://slsa.dev/provenance/v1",
	"spdx":             "https://spdx.dev/Document",
	"spdxjson":         "https://spdx.dev/Document",
	"cyclonedx":        "https://cyclonedx.org/bom",
	"link":             "https://in-toto.io/Link/v1",
	"vuln":             "https://cosign.sigstore.dev/attestation/vuln/v1",
	"openvex":          "https://openvex.dev/ns",
}

// Check says what is wrong with the set as it is configured.
func (s RuleSet) Check() error {
	var failures []error
	fail := func(format string, args ...any) { failures = append(failures, fmt.Errorf(format, args...)) }
	if !slices.Contains(Styles, s.Style) {
		fail("style: %q is not one of %s", s.Style, strings.Join(Styles, ", "))
	}
	if len(s.Paths) == 0 {
		fail("paths: name the folders or .rego files of the rules")
	}
	if s.RegoVersion != "" && (s.Style != Conftest || s.RegoVersion != "v0" && s.RegoVersion != "v1") {
		fail("rego_version: it is v0 or v1, and for conftest rules")
	}
	if len(s.Collections) > 0 && s.Style != Conforma {
		fail("collections: only conforma rules have them")
	}
	switch isURI := strings.Contains(s.PredicateType, ":"); {
	case s.Style != Cosign && (s.PredicateType != "" || len(s.Signers) > 0):
		fail("predicate_type and signers are for cosign rules")
	case s.Style == Cosign && !isURI && PredicateTypes[s.PredicateType] == "":
		fail("predicate_type: a cosign policy judges attestations of one type: a URI, or one of %s",
			strings.Join(slices.Sorted(maps.Keys(PredicateTypes)), ", "))
	}
	return errors.Join(failures...)
}

// readSet reads the rules of another tool, one of the sets. They are parsed with the
// others.
func (m *material) readSet(sets []RuleSet, number int, origin map[string]string) error {
	set := &sets[number]
	if err := set.Check(); err != nil {
		return err
	}
	for _, name := range set.Paths {
		if strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz") {
			return fmt.Errorf("%s is a bundle; %s rules are read from folders and .rego files", name, set.Style)
		}
		read := &material{}
		if err := read.readPath(name, origin, false); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, mod := range read.live() {
			i := slices.IndexFunc(m.modules, func(other module) bool { return other.file == mod.file })
			switch {
			case i < 0:
				mod.set = set
				m.modules = append(m.modules, mod)
			case m.modules[i].set != set:
				return fmt.Errorf("%s: %s is in %s too, and a file judges in one place only; take it out of one of them", name, mod.file, m.modules[i].entry(sets))
			}
		}
	}
	for _, name := range set.Data {
		data, err := readDataFile(name)
		if _, there := data["trustgate"]; err == nil && there {
			err = errors.New("it sets trustgate, which belongs to TrustGate; name it under policy.data")
		}
		if err == nil {
			err = merge(m.data, data, "data.", name, origin)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// entry is what of the configuration names the module.
func (mod *module) entry(sets []RuleSet) string {
	for i := range sets {
		if mod.set == &sets[i] {
			return fmt.Sprintf("policy.rules[%d]", i)
		}
	}
	return "policy.paths"
}

// parserOptions are those of a module in the style of its set.
func (mod *module) parserOptions(capabilities *ast.Capabilities) ast.ParserOptions {
	o := ast.ParserOptions{ProcessAnnotation: true, RegoVersion: ast.RegoV1, Capabilities: capabilities}
	if mod.set != nil && (mod.set.Style == Cosign || mod.set.RegoVersion == "v0") {
		o.RegoVersion = ast.RegoV0 // what cosign takes every policy for
	}
	return o
}

// oldRego says what to do where a module of conftest rules fails to parse and would
// not, were it of the version that conftest once had.
func (mod *module) oldRego() error {
	if mod.set == nil || mod.set.Style != Conftest || mod.set.RegoVersion == "v0" {
		return nil
	}
	if _, err := ast.ParseModuleWithOpts(mod.file, string(mod.raw), ast.ParserOptions{RegoVersion: ast.RegoV0}); err != nil {
		return nil
	}
	return fmt.Errorf("%s is Rego v0: write rego_version: v0 at its entry of policy.rules", mod.file)
}

// foreignRule is the name of a rule that conftest reads. Conforma runs on conftest.
//
// https://www.conftest.dev/#evaluating-policies
var foreignRule = regexp.MustCompile(`^(deny|violation|warn)(?:_([a-zA-Z0-9_]*[a-zA-Z0-9]))?$`)

// severityOf tells of the name of another tool's rule what its findings are, or "",
// and the name's suffix.
func severityOf(name string) (severity, suffix string) {
	switch m := foreignRule.FindStringSubmatch(name); {
	case m == nil:
		return "", ""
	case m[1] == "warn":
		return SeverityWarn, m[2]
	default:
		return SeverityDeny, m[2]
	}
}
