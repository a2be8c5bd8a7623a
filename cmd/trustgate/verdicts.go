package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
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

// recorded is a judgement as it is shown.
type recorded struct {
	Decision    string            `json:"decision"`
	Reference   string            `json:"reference"`
	Digest      digest.Digest     `json:"digest"`
	Action      policy.Action     `json:"action"`
	BeforeMode  policy.Action     `json:"before_mode"`
	Reasons     []policy.Reason   `json:"reasons"`
	Annotations map[string]string `json:"annotations,omitempty"`
	JudgedAt    time.Time         `json:"judged_at"`
	ExpiresAt   time.Time         `json:"expires_at"`
	Took        float64           `json:"took_seconds"`
	Policy      string            `json:"policy_revision"`
	Trust       string            `json:"trust_revision"`
	InputDigest digest.Digest     `json:"input_digest"`
	Pulls       []pulls           `json:"pulls,omitempty"`
	Input       json.RawMessage   `json:"input,omitempty"`
}

type pulls struct {
	Client string    `json:"client"`
	Count  int64     `json:"count"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
}

func record(j ledger.Judgement) (recorded, error) {
	reference := j.Name
	if j.Tag != "" {
		reference += ":" + j.Tag
	}
	r := recorded{
		Decision: j.ID, Reference: reference, Digest: j.Digest,
		Action: policy.Action(j.Action), BeforeMode: policy.Action(j.BeforeMode), Reasons: []policy.Reason{},
		JudgedAt: j.JudgedAt, ExpiresAt: j.ExpiresAt, Took: j.Took.Seconds(),
		Policy: j.PolicyRevision, Trust: j.TrustRevision, InputDigest: j.InputDigest,
	}
	for _, part := range []struct {
		raw  json.RawMessage
		into any
	}{{j.Reasons, &r.Reasons}, {j.Annotations, &r.Annotations}} {
		if err := json.Unmarshal(part.raw, part.into); err != nil {
			return r, fmt.Errorf("reading decision %s: %w", j.ID, err)
		}
	}
	r.Reasons = orEmpty(r.Reasons)
	return r, nil
}

// withLedger opens the ledger of the configuration for the time of f.
func withLedger(c *cobra.Command, f func(context.Context, *ledger.Ledger) error) error {
	cfg, err := loadConfig(c)
	if err != nil {
		return err
	}
	l, err := ledger.Open(c.Context(), cfg.LedgerDSN())
	if err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	return errors.Join(f(c.Context(), l), l.Close())
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
		filter, err := verdictFilter(*image, *action, *since)
		if err != nil {
			return &usageError{c.CommandPath(), err}
		}
		if filter.Limit, filter.Before = *limit, *before; *limit < 1 {
			return &usageError{c.CommandPath(), errors.New("--limit must be 1 or more")}
		}
		return withLedger(c, func(ctx context.Context, l *ledger.Ledger) error {
			judgements, err := l.List(ctx, filter)
			if err != nil {
				return err
			}
			list := []recorded{}
			for _, j := range judgements {
				r, err := record(j)
				if err != nil {
					return err
				}
				list = append(list, r)
			}
			if out.json() {
				return writeJSON(c.OutOrStdout(), list)
			}
			return writeVerdicts(c.OutOrStdout(), c.ErrOrStderr(), list, *limit)
		})
	}
	return c
}

func verdictFilter(image, action, since string) (ledger.Filter, error) {
	f := ledger.Filter{Action: action}
	if action != "" && action != string(policy.Serve) && action != string(policy.Annotate) && action != string(policy.Block) {
		return f, fmt.Errorf("--action is %q; it must be serve, annotate or block", action)
	}
	if image != "" {
		ref, err := oci.ParseReference(image)
		if err != nil {
			return f, err
		}
		f.Name, f.Tag, f.Digest = ref.Name(), ref.Tag(), ref.Digest()
	}
	if since == "" {
		return f, nil
	}
	if d, err := time.ParseDuration(since); err == nil {
		f.Since = time.Now().Add(-d)
		return f, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.ParseInLocation(layout, since, time.Local); err == nil {
			f.Since = t
			return f, nil
		}
	}
	return f, fmt.Errorf("--since is %q; write it as 24h, 2027-01-31 or 2027-01-31T12:00:00Z", since)
}

func writeVerdicts(w, notes io.Writer, list []recorded, limit int) error {
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

func lookUp(ctx context.Context, l *ledger.Ledger, id string) (recorded, error) {
	j, err := l.Get(ctx, id)
	if errors.Is(err, oci.ErrNotFound) {
		return recorded{}, fmt.Errorf("the ledger has no decision %q; 'trustgate verdicts list' shows what it has", id)
	}
	if err != nil {
		return recorded{}, err
	}
	r, err := record(j)
	if err != nil {
		return r, err
	}
	if r.Input, err = l.Input(ctx, id); err != nil {
		return r, err
	}
	counted, err := l.Pulls(ctx, id)
	for _, p := range counted {
		r.Pulls = append(r.Pulls, pulls(p))
	}
	return r, err
}

func writeVerdict(w io.Writer, r recorded) error {
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
