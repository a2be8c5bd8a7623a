package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/tester"
)

// TestOptions choose among the tests of a policy.
type TestOptions struct {
	Run     string // a regular expression over package and name; empty means all
	Shipped bool   // the shipped library's tests too
}

// TestResult is the outcome of one rule test_… of a *_test.rego file.
type TestResult struct {
	Package  string
	Name     string
	File     string
	Line     int
	Passed   bool
	Skipped  bool
	Output   string // what it printed, and why it failed
	Duration time.Duration
}

// Test runs the tests that lie beside the rules, in the setting that the rules
// judge in: the same schema, capabilities, configuration and metadata, and
// errors of built-in functions are errors.
func Test(ctx context.Context, o Options, choice TestOptions) ([]TestResult, error) {
	c, err := compile(ctx, o, true)
	if err != nil {
		return nil, err
	}
	modules := map[string]*ast.Module{}
	for _, m := range c.modules {
		if !m.test || !m.shipped || choice.Shipped {
			modules[m.file] = m.parsed
		}
	}
	compiler, err := newCompiler(capabilities(o.AllowNetwork), c.material.data)
	if err != nil {
		return nil, err
	}
	txn, err := c.store.NewTransaction(ctx, storage.TransactionParams{})
	if err != nil {
		return nil, err
	}
	defer c.store.Abort(ctx, txn)
	results, err := tester.NewRunner().
		SetCompiler(compiler.WithEnablePrintStatements(true)).
		SetStore(c.store).
		SetModules(modules).
		SetTimeout(o.deadline()).
		RaiseBuiltinErrors(true).
		CapturePrintOutput(true).
		Filter(choice.Run).
		RunTests(ctx, txn)
	if err != nil {
		return nil, fmt.Errorf("compiling the tests: %w", diagnose(err))
	}
	var all []TestResult
	for r := range results {
		result := TestResult{
			Package: strings.TrimPrefix(r.Package, "data."), Name: r.Name,
			Passed: r.Pass(), Skipped: r.Skip, Output: strings.TrimSpace(string(r.Output)), Duration: r.Duration,
		}
		if r.Location != nil {
			result.File, result.Line = r.Location.File, r.Location.Row
		}
		if r.Error != nil {
			result.Output = strings.TrimSpace(result.Output + "\n" + diagnose(r.Error).Error())
		}
		all = append(all, result)
	}
	slices.SortFunc(all, func(a, b TestResult) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Name, b.Name))
	})
	if len(all) == 0 {
		return nil, errors.New("there are no tests: write rules test_… in files *_test.rego beside the rules")
	}
	return all, ctx.Err()
}
