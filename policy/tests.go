package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/tester"
)

// TestOptions choose among the tests of a policy.
type TestOptions struct {
	Run      string // a regular expression over package and name; empty means all
	Shipped  bool   // the shipped library's tests too
	Coverage bool   // report the lines of the rules that no test reaches
}

// Tested is the outcome of the tests of a policy.
type Tested struct {
	Results  []TestResult `json:"results"`
	Coverage *Coverage    `json:"coverage,omitempty"`
}

// TestResult is the outcome of one rule test_… of a *_test.rego file.
type TestResult struct {
	Package  string        `json:"package"`
	Name     string        `json:"name"`
	File     string        `json:"file"`
	Line     int           `json:"line"`
	Passed   bool          `json:"passed"`
	Skipped  bool          `json:"skipped"`
	Output   string        `json:"output,omitempty"` // what it printed, and why it failed
	Duration time.Duration `json:"duration_ns"`
}

// Coverage is how much of the rules the tests reach: of the team's own, or of the
// shipped ones where their tests run.
type Coverage struct {
	Percent float64        `json:"percent"`
	Files   []FileCoverage `json:"files"`
}

// FileCoverage is that of one file.
type FileCoverage struct {
	File    string  `json:"file"`
	Percent float64 `json:"percent"`
	Missed  []int   `json:"missed"` // lines
}

// fixtures are inputs to start a test from. Teams may use them as the shipped
// tests do.
const fixtures = "lib/fixtures_test.rego"

// Test runs the tests that lie beside the rules, in the setting that the rules
// judge in: the same schema, capabilities, configuration and metadata, and
// errors of built-in functions are errors.
func Test(ctx context.Context, o Options, choice TestOptions) (*Tested, error) {
	c, err := compile(ctx, o, stages{tests: true})
	if err != nil {
		return nil, err
	}
	modules, judging := map[string]*ast.Module{}, map[string]*ast.Module{}
	for _, m := range c.modules {
		if !m.test || !m.shipped || choice.Shipped || strings.HasSuffix(m.file, fixtures) {
			modules[m.file] = m.parsed
		}
		if !m.test && m.shipped == choice.Shipped {
			judging[m.file] = m.parsed
		}
	}
	compiler, err := newCompiler(o, c.material.data)
	if err != nil {
		return nil, err
	}
	txn, err := c.store.NewTransaction(ctx, storage.TransactionParams{})
	if err != nil {
		return nil, err
	}
	defer c.store.Abort(ctx, txn)
	runner := tester.NewRunner().
		SetCompiler(compiler.WithEnablePrintStatements(true)).
		AddCustomBuiltins(c.dockerTestBuiltins()).
		SetStore(c.store).
		SetModules(modules).
		SetTimeout(o.deadline()).
		RaiseBuiltinErrors(true).
		CapturePrintOutput(true).
		Filter(choice.Run)
	covered := cover.New()
	if choice.Coverage {
		runner.SetCoverageQueryTracer(covered).SetCoverageRuns([]cover.Kind{})
	}
	results, err := runner.RunTests(ctx, txn)
	if err != nil {
		return nil, fmt.Errorf("compiling the tests: %w", diagnose(err))
	}
	tested := &Tested{}
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
		tested.Results = append(tested.Results, result)
	}
	slices.SortFunc(tested.Results, func(a, b TestResult) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Name, b.Name))
	})
	if len(tested.Results) == 0 {
		return nil, errors.New("there are no tests: write rules test_… in files *_test.rego beside the rules")
	}
	if choice.Coverage {
		tested.Coverage = coverage(covered.Report(judging), judging)
	}
	return tested, ctx.Err()
}

func coverage(report cover.Report, judging map[string]*ast.Module) *Coverage {
	c := &Coverage{Percent: 100, Files: []FileCoverage{}}
	reached, missed := 0, 0
	for _, file := range slices.Sorted(maps.Keys(judging)) {
		of := report.Files[file]
		if of == nil {
			continue // nothing in it can be evaluated
		}
		f := FileCoverage{File: file, Percent: of.Coverage, Missed: []int{}}
		for _, r := range of.NotCovered {
			for line := r.Start.Row; line <= r.End.Row; line++ {
				f.Missed = append(f.Missed, line)
			}
		}
		reached, missed = reached+of.CoveredLines, missed+of.NotCoveredLines
		slices.Sort(f.Missed)
		f.Missed = slices.Compact(f.Missed)
		c.Files = append(c.Files, f)
	}
	if reached+missed > 0 {
		c.Percent = 100 * float64(reached) / float64(reached+missed)
	}
	return c
}

// Failed counts the tests that ran and did not pass.
func (t *Tested) Failed() int {
	failed := 0
	for _, r := range t.Results {
		if !r.Passed && !r.Skipped {
			failed++
		}
	}
	return failed
}
