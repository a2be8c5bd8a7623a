package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/api"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/replay"
)

func newPolicyReplay() *cobra.Command {
	c := &cobra.Command{
		Use:   "replay",
		Short: "Say what other rules would have decided about past pulls",
		Long: `Judge again, by the rules of the configuration and those of --policy beside them,
what the ledger remembers, and show what would be different: which images would be
newly blocked or newly served, by which rule, in which repositories, for whom, and
how often they were pulled. Nothing is changed, and nothing is asked of a registry:
the evidence is that of then. Parents are judged first, by the same rules.

Rules judge as of now, or as of --at, so that one which takes effect later can be
tried before. It exits with 4 when anything would be newly blocked.`,
		Example: `  trustgate policy replay --policy rules/ --since 720h
  trustgate policy replay --at 2027-02-01 -o json | jq .changes.newly_blocked.by_rule`,
		Args: cobra.NoArgs,
	}
	since := c.Flags().String("since", "", "only what was judged since then: 24h, 2027-01-31 or an RFC 3339 time (default: everything)")
	at := c.Flags().String("at", "", "judge as of then: 2027-01-31 or an RFC 3339 time (default: now)")
	examples := addExamples(c)
	r := addRules(c)
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *examples < 0 {
			return &usageError{c.CommandPath(), errNegativeExamples}
		}
		now := time.Now()
		o := replay.Options{At: now}
		for _, given := range []struct {
			name, text string
			into       *time.Time
		}{{"since", *since, &o.Since}, {"at", *at, &o.At}} {
			if given.text == "" {
				continue
			}
			var err error
			if *given.into, err = api.ParseTime(given.name, given.text, now); err != nil {
				return &usageError{c.CommandPath(), err}
			}
		}
		engine, err := r.load(c)
		if err != nil {
			return err
		}
		return withLedger(c, func(ctx context.Context, l *ledger.Ledger) error {
			var judged, all atomic.Int64
			o.Progress = func(n, of int) { judged.Store(int64(n)); all.Store(int64(of)) }
			done := progressOf(c.ErrOrStderr(), func() string {
				return fmt.Sprintf("judged %d of %d different inputs", judged.Load(), all.Load())
			})
			report, err := replay.Run(ctx, l, engine, o)
			done()
			if err != nil {
				return err
			}
			if out.json() {
				err = writeJSON(c.OutOrStdout(), report)
			} else {
				err = writeReplay(c.OutOrStdout(), report, *examples)
			}
			if err == nil && len(report.Changes.Blocked.Images) > 0 {
				err = &verdictError{policy.Annotate}
			}
			return err
		})
	}
	return c
}

var errNegativeExamples = errors.New("--examples cannot be negative")

func addExamples(c *cobra.Command) *int {
	return c.Flags().Int("examples", 10, "how many images to show of each kind")
}

func writeReplay(w io.Writer, r *replay.Report, examples int) error {
	p := paint(w)
	fmt.Fprintf(w, "%d decisions over %d different inputs, %d pulls\n", r.Judgements, r.Inputs, r.Pulls)
	if r.NotJudged > 0 {
		fmt.Fprintln(w, p.red(fmt.Sprintf("the rules fail on %d inputs, which blocks", r.NotJudged)))
	}
	if r.Unreadable > 0 {
		fmt.Fprintln(w, p.yellow(fmt.Sprintf("%d inputs cannot be read back and are left out", r.Unreadable)))
	}
	return writeChanges(w, r.Changes, examples)
}

// writeChanges shows what would be decided otherwise, the worst first.
func writeChanges(w io.Writer, changes replay.Groups, examples int) error {
	p := paint(w)
	changed := false
	var failed error
	for _, group := range []struct {
		title string
		of    replay.Group
	}{
		{p.red("newly blocked"), changes.Blocked}, {p.yellow("newly annotated"), changes.Annotated}, {p.green("newly served"), changes.Served},
	} {
		if len(group.of.Images) == 0 {
			continue
		}
		changed = true
		fmt.Fprintf(w, "\n%s: %d images, %d pulls\n", group.title, len(group.of.Images), group.of.Pulls)
		for _, by := range []struct {
			title string
			list  []replay.Count
		}{{"RULE", group.of.ByRule}, {"REPOSITORY", group.of.ByRepository}, {"CLIENT", group.of.ByClient}} {
			if len(by.list) == 0 {
				continue
			}
			t := table(w, "  "+by.title, "IMAGES", "PULLS")
			for _, one := range by.list[:min(len(by.list), examples)] {
				fmt.Fprintf(t, "  %s\t%d\t%d\n", plain(one.Name), one.Images, one.Pulls)
			}
			failed = errors.Join(failed, t.Flush())
		}
		for _, c := range group.of.Images[:min(len(group.of.Images), examples)] {
			fmt.Fprintf(w, "  %s %s\n", p.bold(plain(c.Reference)), p.faint(fmt.Sprintf("%s, %d pulls", c.Decision, c.Pulls)))
			for _, reason := range c.Reasons {
				fmt.Fprintf(w, "    %s: %s\n", reason.Code, plain(reason.Msg))
			}
		}
		if more := len(group.of.Images) - examples; more > 0 {
			fmt.Fprintf(w, "  and %d more\n", more)
		}
	}
	if !changed {
		fmt.Fprintln(w, p.green("nothing would be decided otherwise"))
	}
	return failed
}
