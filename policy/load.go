package policy

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/trustgate/trustgate/policies"
	"github.com/trustgate/trustgate/policy/dockerbuild"
)

const (
	maxModule = 4 << 20   // bytes of one .rego file
	maxData   = 64 << 20  // bytes of one data file
	maxBundle = 256 << 20 // bytes of a bundle, unpacked
)

// module is one file of Rego.
type module struct {
	file    string // as messages name it
	raw     []byte
	parsed  *ast.Module
	shipped bool
	test    bool
	set     *RuleSet // of another tool's rules; nil for TrustGate's own
}

// material is everything that Options name, read and parsed.
type material struct {
	modules []module
	config  map[string]any // data.trustgate.config
	data    map[string]any // what bundles and sets add beside data.trustgate
	adapted []*adapted
	docker  []*dockerbuild.Policy
}

// forget drops what only compiling needed. An engine is read again at each
// collection of the heap, which is what the slowest decisions wait for.
func (m *material) forget() {
	for i := range m.modules {
		if parsed := m.modules[i].parsed; parsed != nil {
			m.modules[i].parsed = &ast.Module{Package: parsed.Package}
		}
	}
}

// read leaves tests unparsed unless they are asked for: one that is broken
// does not keep the rules from judging.
func read(ctx context.Context, o Options, capabilities *ast.Capabilities, tests bool) (*material, error) {
	m := &material{data: map[string]any{}}
	var err error
	if m.config, err = plainJSON(o.Config); err != nil {
		return nil, fmt.Errorf("reading the policy's configuration: %w", err)
	}
	folders := []string{"lib"}
	if o.Builtin {
		folders = append(folders, "trustgate")
	}
	for _, folder := range folders {
		if err := m.readFolder(policies.Files, folder, "trustgate:policies", true); err != nil {
			return nil, err
		}
	}
	bound, err := configSchemas(o.Builtin)
	if err != nil {
		return nil, err
	}
	m.add("trustgate:policies/schema/config.rego", bindSchemas(bound), true)
	origin := map[string]string{} // of each key of config
	for _, p := range o.Paths {
		if err := m.readPath(p, origin, tests); err != nil {
			return nil, fmt.Errorf("loading the policy %s: %w", p, err)
		}
	}
	for _, p := range o.Data {
		if err := m.readData(p, origin); err != nil {
			return nil, fmt.Errorf("loading the policy data %s: %w", p, err)
		}
	}
	if err := m.readDockerBuild(ctx, o.DockerBuild); err != nil {
		return nil, err
	}
	if o.Bundles != nil {
		if err := m.readBundles(o, origin); err != nil {
			return nil, err
		}
	}
	for i := range o.Rules {
		if err := m.readSet(o.Rules, i, origin); err != nil {
			return nil, fmt.Errorf("loading policy.rules[%d]: %w", i, err)
		}
	}
	if err := m.parse(capabilities, tests); err != nil {
		return nil, err
	}
	return m, m.adapt(o, capabilities)
}

// configSchemas is what the schema of the configuration says of each member that
// TrustGate knows, by the member. OPA takes an object of which a schema names
// members for one that has no others, so the objects that teams may add to are not
// bound as a whole. Without the shipped rules their names below rules are free.
func configSchemas(builtin bool) (map[string]map[string]any, error) {
	var schema struct {
		Definitions any                       `json:"definitions"`
		Properties  map[string]map[string]any `json:"properties"`
	}
	if err := util.UnmarshalJSON(policies.ConfigSchema, &schema); err != nil {
		return nil, fmt.Errorf("reading the schema of the configuration: %w", err)
	}
	bound := map[string]map[string]any{}
	for name, member := range schema.Properties {
		if name != "rules" {
			bound["data.trustgate.config."+name] = member
			continue
		}
		rules, _ := member["properties"].(map[string]any)
		for rule, settings := range rules {
			if of, ok := settings.(map[string]any); ok && builtin {
				bound["data.trustgate.config.rules."+rule] = of
			}
		}
	}
	for _, member := range bound {
		member["definitions"] = schema.Definitions
	}
	return bound, nil
}

// bindSchemas is a module that binds every package below trustgate to them, by
// name: a schema that stands in the annotation itself is compiled for each rule.
func bindSchemas(bound map[string]map[string]any) []byte {
	var rego strings.Builder
	rego.WriteString("# METADATA\n# scope: subpackages\n# schemas:\n")
	for _, at := range slices.Sorted(maps.Keys(bound)) {
		fmt.Fprintf(&rego, "# - %s: %s\n", at, schemaName(at))
	}
	rego.WriteString("package trustgate\n")
	return []byte(rego.String())
}

// schemaName is what a schema is called in the compiler's set.
func schemaName(at string) ast.Ref {
	return ast.SchemaRootRef.Append(ast.StringTerm(strings.ReplaceAll(strings.TrimPrefix(at, "data.trustgate."), ".", "_")))
}

func (m *material) readPath(name string, origin map[string]string, tests bool) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	before := len(m.modules)
	switch {
	case info.IsDir():
		err = m.readFolder(os.DirFS(name), ".", name, false)
	case strings.HasSuffix(name, ".tar.gz"), strings.HasSuffix(name, ".tgz"):
		err = m.readBundle(name, origin)
	case strings.HasSuffix(name, ".rego"):
		var raw []byte
		if raw, err = readFile(os.DirFS(filepath.Dir(name)), filepath.Base(name), maxModule); err == nil {
			m.add(name, raw, false)
			err = m.readTestOf(name)
		}
	default:
		err = errors.New("it is neither a folder, nor a .rego file, nor a bundle (.tar.gz)")
	}
	if err == nil && !slices.ContainsFunc(m.modules[before:], func(mod module) bool { return tests || !mod.test }) {
		err = errors.New("there are no rules in it (no .rego file that is not a test)")
	}
	return err
}

// readTestOf adds the test beside a file that is named by itself, if there is one.
func (m *material) readTestOf(name string) error {
	test := strings.TrimSuffix(name, ".rego") + "_test.rego"
	raw, err := readFile(os.DirFS(filepath.Dir(test)), filepath.Base(test), maxModule)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		m.add(test, raw, false)
	}
	return err
}

func (m *material) readFolder(fsys fs.FS, root, name string, shipped bool) error {
	return fs.WalkDir(fsys, root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		file := path.Join(filepath.ToSlash(name), p)
		switch base := path.Base(p); {
		case d.IsDir() && strings.HasPrefix(base, ".") && p != root:
			// Mounted Kubernetes volumes keep their content twice.
			return fs.SkipDir
		case d.IsDir() || strings.HasPrefix(base, "."):
			return nil
		case base == "data.json", base == "data.yaml", base == "data.yml":
			return fmt.Errorf("%s: data files are not read from policy folders; name it under policy.data", file)
		case d.Type()&fs.ModeSymlink != 0 && path.Ext(base) != ".rego":
			if info, err := fs.Stat(fsys, p); err == nil && info.IsDir() {
				return fmt.Errorf("%s is a link to a folder, which is not followed; name it under policy.paths", file)
			}
			return nil
		case path.Ext(base) != ".rego":
			return nil
		}
		raw, err := readFile(fsys, p, maxModule)
		if err != nil {
			return err
		}
		m.add(file, raw, shipped)
		return nil
	})
}

func (m *material) add(file string, raw []byte, shipped bool) {
	if slices.ContainsFunc(m.modules, func(mod module) bool { return mod.file == file }) {
		return // two of the paths lead to it
	}
	m.modules = append(m.modules, module{file: file, raw: raw, shipped: shipped, test: strings.HasSuffix(file, "_test.rego")})
}

// readBundle reads an OPA bundle. Its signatures are not checked: whoever may
// write the file may also write the configuration that names it.
//
// https://www.openpolicyagent.org/docs/management-bundles
func (m *material) readBundle(name string, origin map[string]string) error {
	raw, err := readFile(os.DirFS(filepath.Dir(name)), filepath.Base(name), maxBundle)
	if err != nil {
		return err
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(unpacked, maxBundle+1)); err != nil {
		return err
	} else if n > maxBundle {
		return fmt.Errorf("it unpacks to more than %d bytes", maxBundle)
	}
	b, err := bundle.NewReader(bytes.NewReader(raw)).
		WithBundleName(name).
		WithSkipBundleVerification(true).
		WithSizeLimitBytes(maxData).
		WithRegoVersion(ast.RegoV1).
		Read()
	if err != nil {
		return diagnose(err)
	}
	if len(b.WasmModules) > 0 || len(b.PlanModules) > 0 {
		return errors.New("it holds compiled policies (WebAssembly or plans); only Rego can be checked and is loaded")
	}
	for _, mod := range b.Modules {
		m.add(path.Join(filepath.ToSlash(name), mod.Path), mod.Raw, false)
	}
	data, err := plainJSON(b.Data)
	if err != nil {
		return err
	}
	return m.mergeBundled(data, name, origin)
}

// mergeBundled adds the data of a bundle. Of those that TrustGate has itself only
// the settings of rules are open to others: modes and exceptions are for whoever
// runs the gate.
func (m *material) mergeBundled(data map[string]any, name string, origin map[string]string) error {
	if own, ok := data["trustgate"]; ok {
		members, _ := own.(map[string]any)
		for key := range members {
			if key != "config" {
				return fmt.Errorf("it holds data at trustgate.%s; bundles may add to trustgate.config only", key)
			}
		}
		config, ok := members["config"].(map[string]any)
		if !ok {
			return errors.New("its data at trustgate is not an object with the member config")
		}
		for _, key := range []string{"routes", "exceptions"} {
			if _, there := config[key]; there {
				return fmt.Errorf("it holds data at trustgate.config.%s, which only the configuration sets; bundles may add to trustgate.config.rules, and members of their own", key)
			}
		}
		if err := merge(m.config, config, "", name, origin); err != nil {
			return err
		}
		delete(data, "trustgate")
	}
	return merge(m.data, data, "data.", name, origin)
}

func (m *material) readData(name string, origin map[string]string) error {
	data, err := readDataFile(name)
	if err != nil {
		return err
	}
	return merge(m.config, data, "", name, origin)
}

func readDataFile(name string) (map[string]any, error) {
	raw, err := readFile(os.DirFS(filepath.Dir(name)), filepath.Base(name), maxData)
	if err != nil {
		return nil, err
	}
	if !json.Valid(raw) {
		if raw, err = yaml.YAMLToJSON(raw); err != nil {
			return nil, err
		}
	}
	var doc any
	if err := util.UnmarshalJSON(raw, &doc); err != nil || doc == nil {
		return nil, err
	}
	data, ok := doc.(map[string]any)
	if !ok {
		return nil, errors.New("it must be a mapping: its members become data.trustgate.config.… (of policy.data) or data.… (of policy.rules)")
	}
	return data, nil
}

// merge adds the members of from to into. Only objects merge; anything else
// that is there already is a clash.
func merge(into, from map[string]any, prefix, name string, origin map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(from)) {
		at := prefix + key
		was, there := into[key]
		if !there {
			into[key] = from[key]
			origin[at] = name
			continue
		}
		below, ok := from[key].(map[string]any)
		there2, ok2 := was.(map[string]any)
		if !ok || !ok2 {
			return fmt.Errorf("%s sets %s, which %s sets too; remove one of them", name, at, whoSet(at, origin))
		}
		if err := merge(there2, below, at+".", name, origin); err != nil {
			return err
		}
	}
	return nil
}

func whoSet(key string, origin map[string]string) string {
	for {
		if name, ok := origin[key]; ok {
			return name
		}
		i := strings.LastIndexByte(key, '.')
		if i < 0 {
			return "the configuration file"
		}
		key = key[:i]
	}
}

func (m *material) parse(capabilities *ast.Capabilities, tests bool) error {
	var failures []error
	for i := range m.modules {
		mod := &m.modules[i]
		if mod.test && !tests {
			continue
		}
		parsed, err := ast.ParseModuleWithOpts(mod.file, string(mod.raw), mod.parserOptions(capabilities))
		if err != nil {
			failures = append(failures, diagnose(err), mod.oldRego())
		}
		mod.parsed = parsed
	}
	return errors.Join(failures...)
}

// live lists the modules that judge.
func (m *material) live() []module {
	return slices.DeleteFunc(slices.Clone(m.modules), func(mod module) bool { return mod.test })
}

// plainJSON returns a deep copy that consists of nothing but JSON.
func plainJSON(v map[string]any) (map[string]any, error) {
	if v == nil {
		return map[string]any{}, nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var plain map[string]any
	return plain, util.UnmarshalJSON(raw, &plain)
}

func readFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return raw, err
}
