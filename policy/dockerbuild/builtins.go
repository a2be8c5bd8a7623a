package dockerbuild

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/types"
	"github.com/opencontainers/go-digest"
)

//go:embed builtins.rego
var helpers string

const helpersFile = "trustgate:policy/dockerbuild/builtins.rego"

const (
	loadJSON = "load_json"
	pinImage = "pin_image"
)

// unfulfilled are the functions of buildx whose answer needs what is not there
// when an image is pulled: the objects of a git repository, the bytes of a
// download, a service on the network.
var unfulfilled = map[string]*types.Function{
	"verify_git_signature":      types.NewFunction(types.Args(types.A, types.S), types.B),
	"verify_http_pgp_signature": types.NewFunction(types.Args(types.A, types.S, types.S), types.B),
	"artifact_attestation":      types.NewFunction(types.Args(types.A, types.S), types.A),
	"github_attestation":        types.NewFunction(types.Args(types.A, types.S), types.A),
}

// UnknownFunctions names the functions that no pull can answer.
func UnknownFunctions() []string {
	var names []string
	for name := range unfulfilled {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// capabilities are OPA's without what reaches the network or the process, and
// the functions of buildx.
var capabilities = sync.OnceValue(func() *ast.Capabilities { return withFunctions() })

// withFunctions are those, and some that no policy may call.
func withFunctions(more ...*ast.Builtin) *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	c.AllowNet = []string{}
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		return b.Name == "http.send" || b.Name == "opa.runtime" ||
			strings.HasPrefix(b.Name, "net.") && !strings.HasPrefix(b.Name, "net.cidr_")
	})
	c.Builtins = append(c.Builtins,
		&ast.Builtin{Name: loadJSON, Decl: types.NewFunction(types.Args(types.S), types.A)},
		&ast.Builtin{Name: pinImage, Decl: types.NewFunction(types.Args(types.A, types.S), types.B)})
	for name, decl := range unfulfilled {
		c.Builtins = append(c.Builtins, &ast.Builtin{Name: name, Decl: decl})
	}
	c.Builtins = append(c.Builtins, more...)
	return c
}

// functions are the implementations for one policy.
func (p *Policy) functions() []func(*rego.Rego) {
	all := []func(*rego.Rego){
		rego.Function1(&rego.Function{Name: loadJSON, Decl: types.NewFunction(types.Args(types.S), types.A)}, p.loadJSON),
		rego.Function1(&rego.Function{Name: known, Decl: types.NewFunction(types.Args(types.A), types.A)},
			func(_ rego.BuiltinContext, value *ast.Term) (*ast.Term, error) { return value, nil }),
		rego.Function2(&rego.Function{Name: pinImage, Decl: types.NewFunction(types.Args(types.A, types.S), types.B)}, pin),
	}
	for name, decl := range unfulfilled {
		all = append(all, rego.FunctionDyn(&rego.Function{Name: name, Decl: decl},
			func(rego.BuiltinContext, []*ast.Term) (*ast.Term, error) {
				return nil, rego.NewHaltError(errors.New("it cannot be answered when an image is pulled"))
			}))
	}
	return all
}

// loadJSON answers from what was read when the policy was loaded.
func (p *Policy) loadJSON(_ rego.BuiltinContext, name *ast.Term) (*ast.Term, error) {
	file, ok := name.Value.(ast.String)
	if !ok {
		return nil, errors.New("the name of the file is no text")
	}
	if read, ok := p.read[string(file)]; ok {
		return read.value, nil
	}
	return nil, rego.NewHaltError(fmt.Errorf("%q was not read with the policy, which only happens to files that it names in so many words", string(file)))
}

// asked is what functions know of the evaluation under way, by its context.
type asked struct {
	image ast.Value // nil for other sources
	pins  []digest.Digest
}

type askedKey struct{}

// pin notes that a build would be given another image in place of this one.
func pin(bctx rego.BuiltinContext, image, to *ast.Term) (*ast.Term, error) {
	a, _ := bctx.Context.Value(askedKey{}).(*asked)
	if a == nil || a.image == nil {
		return ast.BooleanTerm(false), nil
	}
	if image.Value.Compare(a.image) != 0 {
		return nil, errors.New("the first argument is not input.image")
	}
	text, ok := to.Value.(ast.String)
	if !ok {
		return nil, errors.New("the digest is no text")
	}
	d, err := digest.Parse(string(text))
	if err != nil {
		return nil, err
	}
	a.pins = append(a.pins, d)
	return ast.BooleanTerm(true), nil
}

func withAsked(ctx context.Context, a *asked) context.Context {
	return context.WithValue(ctx, askedKey{}, a)
}
