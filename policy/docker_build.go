package policy

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/provenance"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy/dockerbuild"
)

// The codes of what Docker's build policies object to.
const (
	codeDockerDenied  = "docker_build.denied"
	codeDockerUnknown = "docker_build.unknown"
)

// maxDockerSources bounds how many things that went into one build the policies
// are asked about.
const maxDockerSources = 512

//go:embed docker_build.rego
var dockerBuildModule []byte

const dockerBuildFile = "trustgate:policy/docker_build.rego"

// dockerBuildDecl is the function through which the rules of dockerBuildModule
// ask. It gets what it reads of the input as an argument, so that it is seen
// that it reads nothing of the request.
var dockerBuildDecl = &ast.Builtin{
	Name: "trustgate.docker_build",
	Decl: types.NewFunction(types.Args(types.A), types.NewArray(nil, types.NewObject(
		[]*types.StaticProperty{types.NewStaticProperty("code", types.S), types.NewStaticProperty("msg", types.S)},
		types.NewDynamicProperty(types.S, types.A)))),
}

// readDockerBuild loads the build policies and adds the rules that ask them.
func (m *material) readDockerBuild(ctx context.Context, files []string) error {
	var failures []error
	for _, file := range files {
		p, err := dockerbuild.Load(ctx, file)
		if err != nil {
			if located := diagnose(err); located != err {
				failures = append(failures, located)
			} else {
				failures = append(failures, fmt.Errorf("loading the build policy %s: %w", file, err))
			}
			continue
		}
		m.docker = append(m.docker, p)
	}
	if len(files) > 0 {
		m.add(dockerBuildFile, dockerBuildModule, true)
	}
	return errors.Join(failures...)
}

// evaluations lets one evaluation that asks build policies run alone. OPA's partial
// evaluation writes into terms that every evaluation of a process reads: the same
// values as before, and a data race all the same.
var evaluations sync.RWMutex

// alone waits until the material may be evaluated. What it returns must be called.
func (m *material) alone() (done func()) {
	if len(m.docker) > 0 {
		evaluations.Lock()
		return evaluations.Unlock
	}
	evaluations.RLock()
	return evaluations.RUnlock
}

// dockerSums say which build policies judge, in their order.
func (m *material) dockerSums() []string {
	var sums []string
	for _, p := range m.docker {
		sums = append(sums, p.Name()+" "+p.Sum())
	}
	return sums
}

// dockerFunction lets an evaluation call the build policies.
func (m *material) dockerFunction() func(*rego.Rego) {
	if len(m.docker) == 0 {
		return func(*rego.Rego) {}
	}
	return rego.Function1(&rego.Function{Name: dockerBuildDecl.Name, Decl: dockerBuildDecl.Decl}, m.askDocker)
}

func (m *material) dockerBuiltins() map[string]*topdown.Builtin {
	if len(m.docker) == 0 {
		return nil
	}
	return map[string]*topdown.Builtin{dockerBuildDecl.Name: {Decl: dockerBuildDecl, Func: func(bctx topdown.BuiltinContext, terms []*ast.Term, iter func(*ast.Term) error) error {
		answer, err := m.askDocker(bctx, terms[0])
		if err != nil {
			return topdown.Halt{Err: err}
		}
		return iter(answer)
	}}}
}

func (m *material) dockerTestBuiltins() []*tester.Builtin {
	if len(m.docker) == 0 {
		return nil
	}
	return []*tester.Builtin{{Decl: dockerBuildDecl, Func: m.dockerFunction()}}
}

func (m *material) askDocker(bctx rego.BuiltinContext, document *ast.Term) (*ast.Term, error) {
	answer, err := func() (*ast.Term, error) {
		plain, err := ast.JSON(document.Value)
		if err != nil {
			return nil, err
		}
		raw, err := json.Marshal(plain)
		if err != nil {
			return nil, err
		}
		var input Input
		if err := json.Unmarshal(raw, &input); err != nil {
			return nil, err
		}
		ctx := bctx.Context
		if ctx == nil {
			ctx = context.Background()
		}
		objections, err := m.dockerObjections(ctx, &input, instantOf(bctx.Time))
		if err != nil {
			return nil, err
		}
		value, err := ast.InterfaceToValue(objections)
		return ast.NewTerm(value), err
	}()
	if err != nil {
		return nil, rego.NewHaltError(err) // undefined would be no objection
	}
	return answer, nil
}

// instantOf reads the time of an evaluation, in nanoseconds.
func instantOf(t *ast.Term) time.Time {
	if t != nil {
		if n, ok := t.Value.(ast.Number); ok {
			if ns, ok := n.Int64(); ok {
				return time.Unix(0, ns).UTC()
			}
		}
	}
	return time.Time{}
}

// objection is a finding of a build policy.
type objection struct {
	Code string   `json:"code"`
	Msg  string   `json:"msg"`
	Path []string `json:"path"`
}

// dockerObjections asks every build policy about the image, about each source
// that its provenance lists, and takes over what was found about its parents.
// At a root, trust ends: what it was made of is not asked about.
func (m *material) dockerObjections(ctx context.Context, in *Input, now time.Time) ([]objection, error) {
	image, err := pulledImage(in)
	if err != nil {
		return []objection{{codeDockerUnknown, err.Error(), []string{}}}, nil
	}
	found, err := m.askAbout(ctx, image, now, "", false)
	if err != nil || in.Image.Root {
		return found, err
	}
	if n := len(in.Build.Materials); n > maxDockerSources {
		return append(found, objection{codeDockerUnknown, fmt.Sprintf("%d things went into the build, more than the %d that are asked about", n, maxDockerSources), []string{}}), nil
	}
	for _, of := range in.Build.Materials {
		source, err := dockerbuild.FromMaterial(dockerbuild.Material(of), in.Image.Platform)
		if err != nil {
			found = append(found, objection{codeDockerUnknown, err.Error(), []string{}})
			continue
		}
		if source == nil {
			continue // nothing that a build policy is asked about
		}
		if t := in.Source.Tag; t != nil && t.Verified && in.Source.Verified {
			source.Tagged(t.Name, in.Source.Revision)
		}
		more, err := m.askAbout(ctx, source, now, source.Name(), judgedAsParent(in, of))
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	for _, p := range in.Parents {
		if p.Depth == 1 {
			found = append(found, inherited(p)...)
		}
	}
	slices.SortFunc(found, compareObjections)
	return slices.CompactFunc(found, func(a, b objection) bool { return compareObjections(a, b) == 0 }), nil
}

func compareObjections(a, b objection) int {
	return cmp.Or(strings.Compare(a.Code, b.Code), slices.Compare(a.Path, b.Path), strings.Compare(a.Msg, b.Msg))
}

// askAbout asks every policy about one source. A name says that it is not the
// image itself. Of one that was admitted by itself, all that is known was asked
// about there: here only what contradicts counts.
func (m *material) askAbout(ctx context.Context, s *dockerbuild.Source, now time.Time, name string, admitted bool) ([]objection, error) {
	found := []objection{}
	object := func(code, format string, args ...any) {
		msg := fmt.Sprintf(format, args...)
		if name != "" {
			msg = name + " went into the build: " + msg
		}
		found = append(found, objection{code, msg, []string{}})
	}
	for _, p := range m.docker {
		d, err := p.Decide(ctx, s, now)
		switch {
		case err != nil:
			return nil, err
		case d.Unknown != nil && !admitted:
			object(codeDockerUnknown, "%s rests on what nobody knows when an image is pulled: %s", p.Name(), strings.Join(d.Unknown, ", "))
		case d.Unknown != nil, d.Allow:
		case len(d.Messages) == 0:
			object(codeDockerDenied, "%s does not allow %s", p.Name(), s.Name())
		}
		for _, msg := range d.Messages {
			if !d.Allow {
				object(codeDockerDenied, "%s", msg)
			}
		}
	}
	return found, nil
}

// pulledImage describes the image as Docker's policies read it.
func pulledImage(in *Input) (*dockerbuild.Source, error) {
	f := dockerbuild.Facts{
		Name: in.Image.Registry + "/" + in.Image.Repository, Tag: in.Image.Tag, Digest: in.Image.Digest,
		Platform: in.Image.Platform, Incomplete: len(in.Errors) > 0, Provenance: statement(in),
	}
	if in.Image.Index != nil {
		f.Digest = in.Image.Index.Digest // of what the reference names
	}
	if c := in.Image.Config; c != nil {
		f.Config = &dockerbuild.Config{Env: c.Env, Labels: in.Image.Labels, User: c.User, Volumes: c.Volumes, WorkingDir: c.WorkingDir}
		if in.Image.Created != nil {
			f.Config.Created = in.Image.Created.Format(time.RFC3339)
		}
	}
	for _, s := range in.Signatures {
		// Docker's own verifier knows keyless signatures only, and needs nobody to name
		// the signer: what is not known to be made with a key could be one.
		keyless := s.Kind == evidence.KindCosign || s.Kind == evidence.KindSigstore
		if s.Verified && s.Signer != nil {
			keyless = s.Signer.Identity != ""
		}
		f.Signed = f.Signed || keyless
	}
	return dockerbuild.Pulled(f)
}

// statement is the attestation that input.build was read from.
func statement(in *Input) *dockerbuild.Statement {
	for _, a := range in.Attestations {
		if !provenance.IsProvenance(a.PredicateType) || a.Error != "" && !a.Verified || a.Verified != in.Build.Verified {
			continue
		}
		p, err := provenance.Parse(a.PredicateType, a.Predicate)
		if err != nil || p.BuilderID != in.Build.BuilderID || p.BuildType != in.Build.BuildType {
			continue
		}
		return &dockerbuild.Statement{PredicateType: a.PredicateType, Predicate: a.Predicate, Materials: len(in.Build.Materials) > 0}
	}
	return nil
}

// judgedAsParent says whether the material is an image that the gate admitted
// like a pull, by these policies too and with all that is known of it. An edge
// that was left out would be a problem of the lineage.
func judgedAsParent(in *Input, m Material) bool {
	if slices.ContainsFunc(in.Errors, func(p Problem) bool { return p.Collector == "lineage" }) {
		return false
	}
	source, err := dockerbuild.FromMaterial(dockerbuild.Material(m), "")
	if err != nil || source == nil || source.Image == nil {
		return false
	}
	named, err := oci.ParseReference(source.Image.Ref)
	if err != nil {
		return false
	}
	admitted := false
	for _, p := range in.Parents {
		// As the gate names it: with its tag, else with the beginning of its digest.
		name, short, byDigest := strings.Cut(p.Reference, "@")
		if byDigest && (name != named.Name() || named.Tag() != "" || !strings.HasPrefix(named.Digest().String(), short)) ||
			!byDigest && name != named.WithDigest("").String() || p.Depth != 1 {
			continue
		}
		if p.Verdict == nil {
			return false
		}
		admitted = true
	}
	return admitted
}

// inherited are the objections to a parent that stand there.
func inherited(p Parent) []objection {
	var found []objection
	if p.Verdict == nil {
		return found
	}
	for _, r := range p.Verdict.Reasons {
		if r.Code != codeDockerDenied && r.Code != codeDockerUnknown ||
			strings.HasPrefix(r.Because, "exception") || strings.HasPrefix(r.Because, "not yet effective") {
			continue
		}
		path := slices.Clone(p.Path)
		if len(r.Path) > 1 {
			path = append(path, r.Path[1:]...)
		}
		found = append(found, objection{r.Code, "its parent " + p.Reference + ": " + r.Msg, path})
	}
	return found
}
