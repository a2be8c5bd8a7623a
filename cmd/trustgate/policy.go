package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/policy"
)

func newPolicy() *cobra.Command {
	c := &cobra.Command{
		Use:   "policy",
		Short: "Write, test and explain rules in Rego",
		Long: `The workbench of a security team. A rule goes from an idea to production in
these steps:

  trustgate policy new acme              a rule with its test, ready to edit
  trustgate policy check rules/          does it compile, and is it complete?
  trustgate policy test rules/           does it do what its tests say?
  trustgate policy eval --policy rules/ IMAGE     what would become of a real pull?
  trustgate policy explain --policy rules/ IMAGE  why?
  trustgate policy replay --policy rules/         what would have become of past pulls?
  trustgate policy trial                          and what of those to come?

Name the folder under policy.paths of the configuration, and the gate judges by
it. docs/policy.md walks through all of it; docs/rules.md lists the shipped rules.`,
	}
	c.AddCommand(newPolicyNew(), newPolicyCheck(), newPolicyTest(), newPolicyInput(), newPolicyEval(), newPolicyExplain(),
		newPolicyReplay(), newPolicyTrial(), newPolicyImport())
	return c
}

// regoPaths completes folders and files of Rego.
func regoPaths(_ *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return []string{"rego"}, cobra.ShellCompDirectiveFilterFileExt
}

// workbench are the rules that a command is about: those of the configuration,
// or those of the given paths beside the shipped library. What the
// configuration says to rules holds for both.
func workbench(c *cobra.Command, cfg *config.Config, paths []string) (policy.Options, error) {
	o := policyOptions(cfg)
	if len(paths) > 0 {
		o.Paths, o.Rules, o.DockerBuild, o.Collections, o.Partial = cleaned(paths), nil, nil, nil, true
		return o, nil
	}
	var err error
	o.Bundles, err = fetchBundles(c, cfg)
	return o, err
}

func cleaned(paths []string) []string {
	var all []string
	for _, p := range paths {
		all = append(all, filepath.Clean(p))
	}
	return all
}

func newPolicyNew() *cobra.Command {
	c := &cobra.Command{
		Use:   "new NAME",
		Short: "Write a rule with its test, ready to edit",
		Long: `Write NAME.rego and NAME_test.rego: a rule with its metadata in the package
trustgate.policies.NAME, and tests that start from a trusted image. Both pass
'trustgate policy check' and 'trustgate policy test' as they are.`,
		Example: `  trustgate policy new acme
  trustgate policy new --dir policies/images base_images`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	folder := c.Flags().String("dir", "rules", "the folder to write into; it is made when it is not there")
	_ = c.MarkFlagDirname("dir")
	c.RunE = func(c *cobra.Command, args []string) error {
		rule, test, err := policy.NewRule(*folder, args[0])
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), `%s
%s
next: edit them, then
  trustgate policy check %[3]s
  trustgate policy test %[3]s
`, rule, test, *folder)
		return err
	}
	return c
}

func newPolicyCheck() *cobra.Command {
	c := &cobra.Command{
		Use:   "check [PATH...]",
		Short: "Compile rules and check that they are complete",
		Long: `Compile the rules of the configuration, or those of the given folders, .rego files
and bundles beside the shipped library. Every mistake is named with file, line and
column:

  - what does not compile: against the schema of the input, where a misspelt field
    is a mistake, against that of the configuration, in OPA's strict mode, and
    without functions that reach the network;
  - findings that nobody would read;
  - rules without metadata: each deny and warn has a title and a custom.code, the
    name that exceptions and blocked clients get.

Nothing is sent or judged.`,
		Example: `  trustgate policy check
  trustgate policy check rules/
  trustgate policy check -o json rules/acme.rego | jq .problems`,
		ValidArgsFunction: regoPaths,
	}
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := loadConfig(c)
		if err != nil {
			return err
		}
		o, err := workbench(c, cfg, args)
		if err != nil {
			return err
		}
		rules, err := policy.Check(c.Context(), o)
		result := policyChecked{OK: err == nil, Rules: orEmpty(rules), Problems: orEmpty(policy.Mistakes(err))}
		if out.json() {
			if err := writeJSON(c.OutOrStdout(), result); err != nil {
				return err
			}
		}
		if err != nil {
			return manyMistakes(err)
		}
		if out.json() {
			return nil
		}
		return writeRules(c.OutOrStdout(), rules)
	}
	return c
}

type policyChecked struct {
	OK       bool              `json:"ok"`
	Rules    []policy.Rule     `json:"rules"`
	Problems []*policy.Mistake `json:"problems"`
}

// manyMistakes says first how many there are.
func manyMistakes(err error) error {
	found := policy.Mistakes(err)
	if len(found) == 1 {
		return found[0]
	}
	lines := []string{fmt.Sprintf("%d mistakes in the policy", len(found))}
	for _, m := range found {
		lines = append(lines, "  "+m.Error())
	}
	return errors.New(strings.Join(lines, "\n"))
}

// writeRules lists the rules of a team, and counts the shipped ones.
func writeRules(w io.Writer, rules []policy.Rule) error {
	shipped := 0
	for _, r := range rules {
		if isShipped(r) {
			shipped++
		}
	}
	fmt.Fprintf(w, "%s rules: %d of your own, %d shipped\n", paint(w).green("ok"), len(rules)-shipped, shipped)
	if len(rules) == shipped {
		return nil
	}
	t := table(w, "CODE", "SEVERITY", "EFFECTIVE", "TITLE", "AT")
	for _, r := range rules {
		if !isShipped(r) {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s:%d\n", plain(r.Code), r.Severity, firstOf(r.EffectiveOn, "now"), plain(r.Title), r.File, r.Line)
		}
	}
	return t.Flush()
}

func isShipped(r policy.Rule) bool { return strings.HasPrefix(r.File, "trustgate:") }

func newPolicyTest() *cobra.Command {
	c := &cobra.Command{
		Use:   "test [PATH...]",
		Short: "Run the tests of rules",
		Long: `Run the rules test_… in files *_test.rego, of the configuration's rules or of the
given folders and .rego files beside the shipped library. They run as the rules
judge: with the same schema, configuration and metadata, and an error of a
built-in function fails a test.

data.trustgate_test.fixtures has inputs to start from: image, one that every
shipped rule serves, and with_changes({"/image/tag": "latest"}).`,
		Example: `  trustgate policy test rules/
  trustgate policy test -r latest --coverage rules/
  trustgate policy test -o json | jq '.results[] | select(.passed | not)'`,
		ValidArgsFunction: regoPaths,
	}
	run := c.Flags().StringP("run", "r", "", "run only the tests whose package and name match this regular expression")
	coverage := c.Flags().Bool("coverage", false, "show how much of the rules the tests reach, and the lines that they do not")
	verbose := c.Flags().BoolP("verbose", "v", false, "show the tests that pass too")
	out := addOutput(c)
	watch := c.Flags().Bool("watch", false, "run them again whenever a file changes, until stopped")
	once := func(c *cobra.Command, o policy.Options) error {
		tested, err := policy.Test(c.Context(), o, policy.TestOptions{Run: *run, Coverage: *coverage})
		if err != nil {
			return manyMistakes(err)
		}
		if out.json() {
			err = writeJSON(c.OutOrStdout(), tested)
		} else {
			err = writeTests(c.OutOrStdout(), tested, *verbose)
		}
		if err != nil {
			return err
		}
		if failed := tested.Failed(); failed > 0 {
			return fmt.Errorf("%d of %d tests failed", failed, len(tested.Results))
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := loadConfig(c)
		if err != nil {
			return err
		}
		o, err := workbench(c, cfg, args)
		if err != nil {
			return err
		}
		if !*watch {
			return once(c, o)
		}
		watched := slices.Concat(o.Paths, o.Data)
		for _, set := range o.Rules {
			watched = slices.Concat(watched, set.Paths, set.Data)
		}
		return again(c, watched, func() error { return once(c, o) })
	}
	return c
}

// again repeats f whenever one of the paths changes. What f fails with is shown
// and ends nothing.
func again(c *cobra.Command, paths []string, f func() error) error {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for seen := ""; ; {
		if now := fingerprint(paths); now != seen {
			seen = now
			if err := f(); err != nil && c.Context().Err() == nil {
				fmt.Fprintf(c.ErrOrStderr(), "%s %s\n", paint(c.ErrOrStderr()).red("error:"), err)
			}
		}
		select {
		case <-c.Context().Done():
			return nil
		case <-tick.C:
		}
	}
}

// fingerprint changes when a file below the paths does.
func fingerprint(paths []string) string {
	var b strings.Builder
	for _, root := range paths {
		// What cannot be read is named by the tests that need it.
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if info, err := entry.Info(); err == nil && !entry.IsDir() {
				fmt.Fprintln(&b, path, info.Size(), info.ModTime().UnixNano())
			}
			return nil
		})
	}
	return b.String() + "."
}

func writeTests(w io.Writer, tested *policy.Tested, verbose bool) error {
	p := paint(w)
	passed, skipped := 0, 0
	for _, r := range tested.Results {
		word := p.red("FAIL")
		switch {
		case r.Skipped:
			skipped++
			word = p.yellow("skip")
		case r.Passed:
			passed++
			word = p.green("pass")
		}
		if r.Passed && !verbose {
			continue
		}
		fmt.Fprintf(w, "%s  %s.%s  %s\n", word, r.Package, r.Name, p.faint(fmt.Sprintf("%s:%d", r.File, r.Line)))
		for _, line := range strings.Split(r.Output, "\n") {
			if line != "" {
				fmt.Fprintf(w, "      %s\n", plain(line))
			}
		}
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", passed, tested.Failed(), skipped)
	if tested.Coverage == nil {
		return nil
	}
	fmt.Fprintf(w, "coverage: %.1f %%\n", tested.Coverage.Percent)
	for _, f := range tested.Coverage.Files {
		if len(f.Missed) > 0 {
			fmt.Fprintf(w, "  %s: no test reaches %s\n", f.File, lineRanges(f.Missed))
		}
	}
	return nil
}

// lineRanges writes sorted lines as people do: lines 3-5, 9.
func lineRanges(lines []int) string {
	var parts []string
	for i := 0; i < len(lines); {
		j := i
		for j+1 < len(lines) && lines[j+1] == lines[j]+1 {
			j++
		}
		if part := fmt.Sprint(lines[i]); i == j {
			parts = append(parts, part)
		} else {
			parts = append(parts, fmt.Sprintf("%s-%d", part, lines[j]))
		}
		i = j + 1
	}
	if len(lines) == 1 {
		return "line " + parts[0]
	}
	return "lines " + strings.Join(parts, ", ")
}
