package policy

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Bundles are the rules and data that OPA has taken from bundles of a server, all
// of them together. Whether they may judge is what Load and Check find out.
//
// https://www.openpolicyagent.org/docs/management-bundles
type Bundles struct {
	Modules   map[string][]byte // Rego, by the bundle's name and the path in it
	Data      map[string]any    // the root of their data
	Revisions map[string]string // of each bundle, as its manifest says
}

// opaRoot is where OPA keeps what it needs itself: in modules, how its decision
// log masks. They do not judge.
var opaRoot = ast.MustParseRef("data.system")

// readBundles reads them after all else. A module that is a shipped one to the
// byte is left out: opa build asks for the functions that rules call.
func (m *material) readBundles(o Options, origin map[string]string) error {
	var failures []error
	size := 0
	for _, id := range slices.Sorted(maps.Keys(o.Bundles.Modules)) {
		raw := o.Bundles.Modules[id]
		if size += len(raw); len(raw) > maxModule || size > maxBundle {
			return fmt.Errorf("the bundles of the policy: %s has more than %d bytes, or all modules together more than %d", id, maxModule, maxBundle)
		}
		if slices.ContainsFunc(m.modules, func(mod module) bool { return mod.shipped && bytes.Equal(mod.raw, raw) }) {
			continue
		}
		file := "bundle:" + id
		parsed, err := ast.ParseModuleWithOpts(file, string(raw), ast.ParserOptions{RegoVersion: ast.RegoV1})
		switch {
		case err != nil:
			failures = append(failures, diagnose(err))
		case parsed.Package.Path.HasPrefix(opaRoot):
			if !o.AllowNetwork {
				failures = append(failures, checkOwn(parsed))
			}
		case strings.HasSuffix(id, "_test.rego"):
			// By its name it is taken for a test, and OPA takes it for rules.
			failures = append(failures, fmt.Errorf("%s: it has the name of a test and would not judge, though OPA runs it; build the bundle with --ignore '*_test.rego', or rename it", file))
		default:
			failures = append(failures, checkIndependent(parsed))
			m.add(file, raw, false)
		}
	}
	data, err := plainJSON(o.Bundles.Data)
	if err != nil {
		return fmt.Errorf("reading the data of the policy's bundles: %w", err)
	}
	delete(data, "system")
	if err := m.mergeBundled(data, "a bundle of policy.opa", origin); err != nil {
		failures = append(failures, fmt.Errorf("the bundles of the policy: %w", err))
	}
	return errors.Join(failures...)
}

// checkOwn refuses a module of OPA's own that reaches the network: OPA runs it
// without the bounds that rules have.
func checkOwn(m *ast.Module) error {
	var failures []error
	ast.WalkRefs(m, func(r ast.Ref) bool {
		if name := r.String(); offNetwork(name) || strings.HasPrefix(name, "json.") && strings.HasSuffix(name, "_schema") {
			failures = append(failures, problem(r[0].Location, "%s in package %s: it could reach the network, which rules must not", name, dotted(m.Package.Path)))
		}
		return false
	})
	return errors.Join(failures...)
}

// checkIndependent refuses a rule that reads what only OPA has: it would be
// undefined where images are judged, and find nothing.
func checkIndependent(m *ast.Module) error {
	var failures []error
	ast.WalkRefs(m, func(r ast.Ref) bool {
		if r.HasPrefix(opaRoot) {
			failures = append(failures, problem(r[0].Location, "%s: what is below data.system is there for OPA only; move it elsewhere", r))
		}
		return false
	})
	return errors.Join(failures...)
}
