package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/api"
	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
)

func newVerdicts() *cobra.Command {
	c := &cobra.Command{
		Use:   "verdicts",
		Short: "Look up what was decided",
		Long:  "Look up verdicts in the ledger, also while the gate is running.",
	}
	c.AddCommand(newVerdictsList(), newVerdictsShow())
	return c
}

// withLedger opens the ledger of the configuration for the time of f.
func withLedger(c *cobra.Command, f func(context.Context, *ledger.Ledger) error) error {
	return withLedgerOf(c, func(ctx context.Context, _ *config.Config, l *ledger.Ledger) error { return f(ctx, l) })
}

// withLedgerOf is withLedger for what needs the configuration too.
func withLedgerOf(c *cobra.Command, f func(context.Context, *config.Config, *ledger.Ledger) error) error {
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	l, err := ledger.Open(c.Context(), cfg.LedgerDSN())
	if err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	return errors.Join(f(c.Context(), cfg, l), l.Close())
}

func newVerdictsList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List verdicts, newest first",
		Example: `  trustgate verdicts list --action block --since 24h
  trustgate verdicts list --image ghcr.io/acme/shop:1.4 -o json`,
		Args: cobra.NoArgs,
	}
	image := c.Flags().String("image", "", "only this image or, without tag and digest, this repository")
	action := c.Flags().String("action", "", "only serve, annotate or block")
	since := c.Flags().String("since", "", "only those made since then: 24h, 2027-01-31 or an RFC 3339 time")
	limit := c.Flags().Int("limit", 50, "how many at most")
	before := c.Flags().String("before", "", "continue after the decision with this id")
	_ = c.RegisterFlagCompletionFunc("action", cobra.FixedCompletions([]string{"serve", "annotate", "block"}, cobra.ShellCompDirectiveNoFileComp))
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		filter, err := api.ParseFilter(*image, *action, *since, time.Now())
		if err != nil {
			return &usageError{c.CommandPath(), err}
		}
		if filter.Limit, filter.Before = *limit, *before; *limit < 1 {
			return &usageError{c.CommandPath(), errors.New("--limit must be 1 or more")}
		}
		return withLedger(c, func(ctx context.Context, l *ledger.Ledger) error {
			list, err := (&api.API{Ledger: l}).Verdicts(ctx, filter)
			if err != nil {
				return err
			}
			if out.json() {
				return writeJSON(c.OutOrStdout(), list)
			}
			return writeVerdicts(c.OutOrStdout(), c.ErrOrStderr(), list, *limit)
		})
	}
	return c
}

func writeVerdicts(w, notes io.Writer, list []api.Recorded, limit int) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(notes, "no verdict fits")
		return err
	}
	t := table(w, "JUDGED", "ACTION", "DECISION", "IMAGE", "DIGEST", "CODES")
	for _, r := range list {
		var codes []string
		for _, reason := range r.Reasons {
			codes = append(codes, reason.Code)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.JudgedAt.Local().Format(time.DateTime), r.Action, r.Decision,
			r.Reference, r.Digest.Encoded()[:12], strings.Join(codes, ","))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(list) == limit {
		_, err := fmt.Fprintf(notes, "there may be more: --before %s\n", list[len(list)-1].Decision)
		return err
	}
	return nil
}

func newVerdictsShow() *cobra.Command {
	c := &cobra.Command{
		Use:   "show DECISION",
		Short: "Show one verdict with its reasons and who pulled",
		Long: `Show one verdict. DECISION is the id that a client sees when a pull is blocked,
such as tg-7qk2m4x9pd3ws.`,
		Args: cobra.ExactArgs(1),
	}
	withInput := c.Flags().Bool("input", false, "write the document that the rules saw, alone")
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return withLedger(c, func(ctx context.Context, l *ledger.Ledger) error {
			r, err := lookUp(ctx, l, args[0])
			if err != nil {
				return err
			}
			switch w := c.OutOrStdout(); {
			case *withInput:
				return writeJSON(w, r.Input)
			case out.json():
				return writeJSON(w, r)
			default:
				return writeVerdict(w, r)
			}
		})
	}
	return c
}

func lookUp(ctx context.Context, l *ledger.Ledger, id string) (api.Recorded, error) {
	r, err := (&api.API{Ledger: l}).Verdict(ctx, id)
	if errors.Is(err, oci.ErrNotFound) {
		return r, fmt.Errorf("the ledger has no decision %q; 'trustgate verdicts list' shows what it has", id)
	}
	return r, err
}

func writeVerdict(w io.Writer, r api.Recorded) error {
	p := paint(w)
	fmt.Fprintf(w, "%s\n%s by decision %s\n", p.bold(plain(r.Reference+"@"+r.Digest.String())), p.action(r.Action, 0), r.Decision)
	fmt.Fprintf(w, "  judged   %s (%s), in %.3f s\n", r.JudgedAt.Local().Format(time.DateTime), ago(r.JudgedAt), r.Took)
	fmt.Fprintf(w, "  stood    until %s\n", r.ExpiresAt.Local().Format(time.DateTime))
	fmt.Fprintf(w, "  policy   %s\n  trust    %s\n", r.Policy, r.Trust)
	t := &tree{palette: p}
	t.reasons(r.Reasons)
	if len(r.Pulls) > 0 {
		t.open("pulled")
		for _, one := range r.Pulls {
			t.leaf(fmt.Sprintf("%d times by %s, last %s", one.Count, plain(one.Client), ago(one.Last)))
		}
		t.close()
	}
	_, err := io.WriteString(w, t.String())
	return err
}
