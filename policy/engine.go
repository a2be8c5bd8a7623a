package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/util"
	"github.com/open-policy-agent/opa/v1/version"

	"github.com/trustgate/trustgate/policies"
)

const (
	defaultDeadline = 5 * time.Second
	maxInput        = 32 << 20 // bytes of an input document
)

// Options say which rules judge, and with what beside the input.
type Options struct {
	// Builtin loads the rules that TrustGate ships. Their aggregator is
	// loaded always.
	Builtin bool
	// Paths are folders of .rego files, such files, and OPA bundles (.tar.gz).
	// Tests, *_test.rego, do not judge.
	Paths []string
	// Collections choose among the rules that belong to one; a rule that
	// belongs to none is always active. Empty means all.
	Collections []string
	// Config becomes data.trustgate.config.
	Config map[string]any
	// Exceptions join those of Config, whatever sets these.
	Exceptions []Exception
	// Data are YAML or JSON files that are merged into Config. No key may be
	// set twice.
	Data []string
	// DockerBuild are build policies of Docker's buildx, each of which must allow
	// the image and what went into it.
	DockerBuild []string
	// Bundles are what a server has sent; nil is nothing. They are checked as
	// files are.
	Bundles *Bundles
	// AllowNetwork gives rules http.send, net.lookup_ip_addr, opa.runtime and
	// remote JSON schemas. They can then tell strangers what is pulled.
	AllowNetwork bool
	// Partial says that not all of the configured rules are loaded: settings and
	// collections of the others are no mistakes.
	Partial bool
	// Rules are sets of rules that were written for other tools.
	Rules []RuleSet
	// Deadline of one evaluation; 0 means 5 s.
	Deadline time.Duration
}

// Engine evaluates one set of rules. It is safe for concurrent use.
type Engine struct {
	query      rego.PreparedEvalQuery
	compiled   *compiled
	rules      []Rule
	exceptions []Exception
	fields     []string
	revision   string
	deadline   time.Duration
}

// Load reads, checks and compiles the rules. Its errors name file, line and
// column; several are joined.
func Load(ctx context.Context, o Options) (*Engine, error) {
	evaluations.RLock() // compiling reads what an evaluation may write
	defer evaluations.RUnlock()
	c, err := compile(ctx, o, stages{})
	if err != nil {
		return nil, err
	}
	query, err := rego.New(
		rego.Query("data.trustgate.decision"),
		rego.Compiler(c.compiler),
		rego.Store(c.store),
		rego.StrictBuiltinErrors(true),
		c.dockerFunction(),
	).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("preparing the policy: %w", diagnose(err))
	}
	e := &Engine{
		query:      query,
		compiled:   c,
		exceptions: readExceptions(c.config),
		fields:     reachedFields(c.readers()),
		revision:   c.revision(o),
		deadline:   o.deadline(),
	}
	e.rules = withCode(c.rules)
	c.forget()
	return e, nil
}

func (o Options) deadline() time.Duration {
	if o.Deadline > 0 {
		return o.Deadline
	}
	return defaultDeadline
}

// compiled is a policy that has passed every check.
type compiled struct {
	*material
	compiler *ast.Compiler
	rules    []Rule
	data     map[string]any // of the store
	store    storage.Store
}

// stages are what compiling does beside what every policy must pass.
type stages struct {
	tests  bool // parse the tests
	strict bool // OPA's strict mode, and metadata at every rule of a team
}

// compile reports the mistakes of every stage that does not rest on one that failed.
func compile(ctx context.Context, o Options, s stages) (*compiled, error) {
	m, err := read(ctx, o, capabilities(o), s.tests)
	if err != nil {
		return nil, err
	}
	addExceptions(m.config, o.Exceptions)
	live := m.live()
	c := &compiled{material: m}
	modules := map[string]*ast.Module{}
	packages := map[string]bool{} // whether each is a shipped one
	for _, mod := range live {
		modules[mod.file] = mod.parsed
		if name, _ := packageName(mod.parsed.Package); name != "" {
			packages[name] = mod.shipped
		}
	}
	failures := []error{checkContract(live), checkSettings(m.config, packages, o.Partial)}
	if s.strict && len(o.Rules) > 0 {
		if err := checkStrict(o, live); err != nil {
			return nil, errors.Join(append(failures, err)...)
		}
	}
	if c.compiler, err = newCompiler(o, m.data); err != nil {
		return nil, err
	}
	c.compiler.WithStrict(s.strict && len(o.Rules) == 0).SetErrorLimit(0)
	if c.compiler.Compile(modules); c.compiler.Failed() {
		return nil, errors.Join(append(failures, diagnose(c.compiler.Errors))...)
	}
	if c.rules, err = readRules(c.compiler, live); err != nil {
		failures = append(failures, err)
	} else if !o.Partial {
		failures = append(failures, checkCollections("policy.collections", o.Collections, c.rules))
	}
	foreign, inactive, err := m.readForeign(c.compiler)
	failures = append(failures, err)
	if s.strict {
		failures = append(failures, checkMetadata(c.compiler, live, c.rules))
	}
	if err := errors.Join(failures...); err != nil {
		return nil, err
	}
	collections := []any{}
	for _, name := range o.Collections {
		collections = append(collections, name)
	}
	adapted, conforma := m.adaptedDocument()
	c.rules = append(c.rules, foreign...)
	c.data = map[string]any{"trustgate": map[string]any{
		"config": m.config, "rules": rulesDocument(c.rules), "collections": collections,
		"adapted": adapted, "inactive": inactive, "conforma": conforma,
	}}
	for key, value := range m.data {
		if _, own := c.data[key]; own {
			// What is read refuses it. Here it would switch off every rule.
			return nil, fmt.Errorf("%s is set below data, where only TrustGate sets it; name the file under policy.data", key)
		}
		c.data[key] = value
	}
	c.store = inmem.NewFromObjectWithOpts(c.data, inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	return c, ctx.Err()
}

// newCompiler makes a compiler that knows the input's schema and where the
// given data lie.
func newCompiler(o Options, data map[string]any) (*ast.Compiler, error) {
	var schema any
	if err := util.UnmarshalJSON(policies.InputSchema, &schema); err != nil {
		return nil, fmt.Errorf("reading the schema of the input: %w", err)
	}
	schemas := ast.NewSchemaSet()
	schemas.Put(ast.SchemaRootRef, schema)
	bound, err := configSchemas(o.Builtin)
	if err != nil {
		return nil, err
	}
	for at, member := range bound {
		schemas.Put(schemaName(at), member)
	}
	for _, style := range []string{Conforma, Cosign} {
		raw, err := policies.StyleSchemas.ReadFile("schema/" + style + ".json")
		if err == nil {
			err = util.UnmarshalJSON(raw, &schema)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the schema of the input of %s rules: %w", style, err)
		}
		schemas.Put(ast.SchemaRootRef.Append(ast.StringTerm(style)), schema)
	}
	return ast.NewCompiler().
		WithCapabilities(capabilities(o)).
		WithSchemas(schemas).
		WithUseTypeCheckAnnotations(true).
		WithPathConflictsCheck(func(path []string) (bool, error) { return holds(data, path), nil }), nil
}

// holds says whether there are data at the path, where a rule would hide them.
func holds(data any, path []string) bool {
	for _, key := range path {
		members, ok := data.(map[string]any)
		if !ok {
			return false
		}
		if data, ok = members[key]; !ok {
			return false
		}
	}
	return true
}

// capabilities are OPA's without what reaches the network or the process. The
// net.cidr_… functions only calculate and stay.
func capabilities(o Options) *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	if len(o.DockerBuild) > 0 {
		c.Builtins = append(c.Builtins, dockerBuildDecl)
	}
	if !o.AllowNetwork {
		c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool { return offNetwork(b.Name) })
		c.AllowNet = []string{}
	}
	return c
}

func offNetwork(name string) bool {
	return name == "http.send" || name == "opa.runtime" ||
		strings.HasPrefix(name, "net.") && !strings.HasPrefix(name, "net.cidr_")
}

// revision hashes everything that decisions depend on beside the input. Where
// the files lie is not among it.
func (c *compiled) revision(o Options) string {
	var sums []string
	for _, m := range c.live() {
		sum := sha256.Sum256(m.raw)
		sums = append(sums, hex.EncodeToString(sum[:]))
	}
	slices.Sort(sums)
	all := map[string]any{
		"opa": version.Version, "modules": slices.Compact(sums), "data": c.data, "schema": policies.InputSchema,
		"network": o.AllowNetwork, "deadline": o.deadline(),
	}
	if docker := c.dockerSums(); docker != nil {
		all["docker_build"] = docker
	}
	// Maps are written in the order of their keys.
	raw, err := json.Marshal(all)
	if err != nil {
		panic(err) // it was read from JSON
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Revision changes whenever a decision could, and not when only files move.
func (e *Engine) Revision() string { return e.revision }

// RequestFields names the members of input.request that decisions may depend
// on, the time excepted. Callers may keep a decision for pulls that agree in
// these.
func (e *Engine) RequestFields() []string { return slices.Clone(e.fields) }

// Rules lists the rules that carry metadata, by package and code.
func (e *Engine) Rules() []Rule { return slices.Clone(e.rules) }

// Decide judges one input. With every error comes a decision that blocks: the
// rules failed, were too slow, or returned nothing or nonsense.
func (e *Engine) Decide(ctx context.Context, input *Input) (Decision, error) {
	d, err := e.decide(ctx, input)
	if err != nil {
		return failed("the policy could not be evaluated" + cause(err)), fmt.Errorf("judging %s: %w", input.name(), err)
	}
	return d, nil
}

func (in *Input) name() string {
	if in == nil {
		return "nothing"
	}
	return in.Image.Reference
}

// errIndex reports an input that is not for rules.
var errIndex = errors.New("an index is judged through its images, not by rules")

func cause(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return " in time"
	case errors.Is(err, context.Canceled):
		return ": it was cancelled"
	}
	var failed *ruleError
	if errors.As(err, &failed) {
		return ": the rule " + failed.rule + " failed"
	}
	return ""
}

// ruleError is an error inside of a rule.
type ruleError struct {
	rule string // its code, or its name in full where it has none
	err  error  // with file, line and column
}

func (e *ruleError) Error() string { return fmt.Sprintf("the rule %s failed: %v", e.rule, e.err) }
func (e *ruleError) Unwrap() error { return e.err }

// blame names the rule that an error of the evaluation lies in.
func (e *Engine) blame(err error) error {
	var running *topdown.Error
	if !errors.As(err, &running) || running.Location == nil {
		return fmt.Errorf("evaluating the rules: %w", diagnose(err))
	}
	m := e.compiled.compiler.Modules[running.Location.File]
	if m == nil {
		return fmt.Errorf("evaluating the rules: %w", diagnose(err))
	}
	var in *ast.Rule
	for _, r := range m.Rules {
		if r.Location.Row <= running.Location.Row && (in == nil || r.Location.Row >= in.Location.Row) {
			in = r
		}
	}
	if in == nil {
		return fmt.Errorf("evaluating the rules: %w", diagnose(err))
	}
	name := dotted(in.Ref().GroundPrefix())
	if own := ownAnnotations(inside(e.compiled.compiler.GetAnnotationSet().Chain(in))); own != nil {
		if code, ok := own.Custom["code"].(string); ok {
			name = code
		}
	}
	return fmt.Errorf("evaluating the rules: %w", &ruleError{oneLine(name), diagnose(err)})
}

func (e *Engine) decide(ctx context.Context, input *Input) (_ Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the evaluation panicked: %v", p)
		}
	}()
	if input == nil {
		return Decision{}, errors.New("there is no input")
	}
	if input.Image.Kind == "index" {
		return Decision{}, errIndex
	}
	if err := ctx.Err(); err != nil {
		// The evaluation could be over before it noticed.
		return Decision{}, fmt.Errorf("evaluating the rules: %w", err)
	}
	defer e.compiled.alone()()
	value, err := input.value()
	if err != nil {
		return Decision{}, fmt.Errorf("reading the input: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.deadline)
	defer cancel()
	options := []rego.EvalOption{rego.EvalParsedInput(value)}
	if !input.Request.Time.IsZero() {
		// time.now_ns tells the same, so that a decision can be made again.
		options = append(options, rego.EvalTime(input.Request.Time))
	}
	results, err := e.query.Eval(ctx, options...)
	if err != nil {
		if topdown.IsCancel(err) && ctx.Err() != nil {
			return Decision{}, fmt.Errorf("evaluating the rules (deadline %s): %w", e.deadline, ctx.Err())
		}
		return Decision{}, e.blame(err)
	}
	if len(results) != 1 || len(results[0].Expressions) != 1 {
		return Decision{}, errors.New("data.trustgate.decision is undefined")
	}
	raw, err := json.Marshal(results[0].Expressions[0].Value)
	if err != nil {
		return Decision{}, fmt.Errorf("reading the decision: %w", err)
	}
	return parseDecision(raw)
}
