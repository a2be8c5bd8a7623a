package dockerbuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

const (
	maxModule  = 4 << 20 // bytes of one .rego file
	maxJSON    = 4 << 20 // bytes of a file that load_json reads
	maxImports = 64      // files that one policy imports, in all
)

// Policy is one file with what it imports and loads. It is safe for concurrent
// use.
type Policy struct {
	name      string
	turn      chan struct{} // held while partial evaluates
	compiler  *ast.Compiler
	rewritten *ast.Compiler // for partial evaluation
	partial   rego.PreparedPartialQuery
	full      rego.PreparedEvalQuery
	read      map[string]loaded
	sum       string
}

// loaded is a file that load_json reads.
type loaded struct {
	raw   []byte
	value *ast.Term
}

// Name is the file's, without its folder.
func (p *Policy) Name() string { return p.name }

// Sum changes whenever an answer of the policy could.
func (p *Policy) Sum() string { return p.sum }

// Load reads and compiles a policy. Imports (data.a.b is a/b.rego) and the files
// that load_json names are looked for below the folder of the file, and nowhere
// else.
func Load(ctx context.Context, file string) (*Policy, error) {
	folder, err := os.OpenRoot(filepath.Dir(file))
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	raw, err := read(os.DirFS(filepath.Dir(file)), filepath.Base(file), maxModule)
	if err != nil {
		return nil, err
	}
	p := &Policy{name: filepath.Base(file), turn: make(chan struct{}, 1), read: map[string]loaded{}}
	module, err := parse(file, raw)
	if err != nil {
		return nil, err
	}
	if err := checkDecision(module); err != nil {
		return nil, err
	}
	shared, err := parse(helpersFile, []byte(helpers))
	if err != nil {
		return nil, err
	}
	sums := sha256.New()
	note := func(name string, raw []byte) { fmt.Fprintf(sums, "%q %x\n", name, sha256.Sum256(raw)) }
	note(p.name, raw)
	note(helpersFile, []byte(helpers))

	imports := &imports{folder: folder.FS(), modules: map[string]*ast.Module{}, note: note}
	modules := map[string]*ast.Module{file: module, helpersFile: shared}
	p.compiler = ast.NewCompiler().WithCapabilities(capabilities()).WithModuleLoader(imports.load)
	if p.compiler.Compile(modules); p.compiler.Failed() {
		return nil, p.compiler.Errors
	}
	maps.Copy(modules, imports.modules)
	p.rewritten = ast.NewCompiler().WithCapabilities(rewrittenCapabilities())
	if p.rewritten.Compile(modules); p.rewritten.Failed() {
		return nil, p.rewritten.Errors
	}
	rewriter := &rewriter{compiler: p.rewritten}
	for _, m := range p.rewritten.Modules {
		for _, r := range m.Rules {
			rewriter.rule(r)
		}
	}
	if err := p.readJSON(folder.FS(), note); err != nil {
		return nil, err
	}
	p.sum = hex.EncodeToString(sums.Sum(nil))
	return p, p.prepare(ctx)
}

func parse(name string, raw []byte) (*ast.Module, error) {
	module, err := ast.ParseModuleWithOpts(name, string(raw), ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities()})
	if err == nil && module == nil {
		err = fmt.Errorf("%s: it is empty", name)
	}
	return module, err
}

var dockerPackage = ast.MustParseRef("data.docker")

// checkDecision refuses a file that could not say anything.
func checkDecision(m *ast.Module) error {
	if !m.Package.Path.Equal(dockerPackage) {
		return fmt.Errorf("it is the package %s; a build policy is the package docker", strings.TrimPrefix(m.Package.Path.String(), "data."))
	}
	for _, r := range m.Rules {
		if head, ok := r.Head.Ref()[0].Value.(ast.Var); ok && head == "decision" {
			return nil
		}
	}
	return errors.New("it makes no decision: a build policy has a rule decision, such as decision := {\"allow\": allow, \"deny_msg\": deny_msg}")
}

// imports finds the modules that others import.
type imports struct {
	folder  fs.FS
	modules map[string]*ast.Module // by file
	note    func(name string, raw []byte)
}

// load implements ast.ModuleLoader. The package of an import is what it was
// imported as, whatever its file says.
func (i *imports) load(resolved map[string]*ast.Module) (map[string]*ast.Module, error) {
	found := map[string]*ast.Module{}
	for _, m := range resolved {
		for _, imported := range m.Imports {
			path, ok := imported.Path.Value.(ast.Ref)
			if !ok || !path[0].Equal(ast.DefaultRootDocument) {
				continue // rego.v1, future.keywords, input
			}
			name := strings.ReplaceAll(strings.TrimPrefix(path.String(), "data."), ".", "/") + ".rego"
			if i.modules[name] != nil {
				continue
			}
			if len(i.modules) == maxImports {
				return nil, fmt.Errorf("the policy imports more than %d files", maxImports)
			}
			raw, err := read(i.folder, name, maxModule)
			if err != nil {
				return nil, fmt.Errorf("reading the import %s: %w; put it below the folder of the policy", path, err)
			}
			module, err := parse(name, raw)
			if err != nil {
				return nil, fmt.Errorf("reading the import %s: %w", path, err)
			}
			module.Package = &ast.Package{Location: module.Package.Location, Path: path}
			found[name], i.modules[name] = module, module
			i.note(name, raw)
		}
	}
	return found, nil
}

// readJSON reads what load_json will be asked for, so that a decision does not
// depend on when a file changed.
func (p *Policy) readJSON(folder fs.FS, note func(string, []byte)) error {
	var failures []error
	for _, m := range p.compiler.Modules {
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			if !e.IsCall() || e.Operator().String() != loadJSON || len(e.Operands()) == 0 {
				return false
			}
			name, ok := e.Operand(0).Value.(ast.String)
			if _, done := p.read[string(name)]; !ok || done {
				return false
			}
			value, raw, err := readValue(folder, string(name))
			if err != nil {
				failures = append(failures, fmt.Errorf("%s: load_json(%s): %w", e.Location, name, err))
			}
			p.read[string(name)] = loaded{raw, value}
			return false
		})
	}
	for _, name := range slices.Sorted(maps.Keys(p.read)) {
		note(name, p.read[name].raw)
	}
	return errors.Join(failures...)
}

func readValue(folder fs.FS, name string) (*ast.Term, []byte, error) {
	raw, err := read(folder, name, maxJSON)
	if err != nil {
		return nil, nil, err
	}
	value, err := ast.ValueFromReader(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, err
	}
	return ast.NewTerm(value), raw, nil
}

func (p *Policy) prepare(ctx context.Context) error {
	options := append(p.functions(), rego.Query("data.docker.decision"))
	var err error
	if p.partial, err = rego.New(append(options, rego.Compiler(p.rewritten))...).PrepareForPartial(ctx); err != nil {
		return err
	}
	p.full, err = rego.New(append(options, rego.Compiler(p.compiler))...).PrepareForEval(ctx)
	return err
}

func read(folder fs.FS, name string, limit int64) ([]byte, error) {
	f, err := folder.Open(name)
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
