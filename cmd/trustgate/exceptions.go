package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// longestException is how far ahead an exception may end without --long.
const longestException = 366 * 24 * time.Hour

func newExceptions() *cobra.Command {
	c := &cobra.Command{
		Use:   "exceptions",
		Short: "Let a finding pass for a while, on the record",
		Long: `Exceptions let the findings of one rule pass, for a repository or for a digest, with an
owner, a reason and an end. They stand in the configuration, or in the ledger, where
these commands put them: a gate that is running takes a change up within seconds.`,
	}
	c.AddCommand(newExceptionsAdd(), newExceptionsList(), newExceptionsRemove())
	return c
}

// withRules opens the ledger and loads the rules of the configuration with the
// exceptions of both, and more.
func withRules(c *cobra.Command, more []policy.Exception, f func(context.Context, *ledger.Ledger, *policy.Engine) error) error {
	return withLedgerOf(c, func(ctx context.Context, cfg *config.Config, l *ledger.Ledger) error {
		o, err := rulesInForce(c, cfg, l)
		if err != nil {
			return err
		}
		o.Exceptions = append(o.Exceptions, more...)
		engine, err := policy.Load(ctx, o)
		if err != nil {
			return manyMistakes(err)
		}
		return f(ctx, l, engine)
	})
}

// rulesInForce are the rules of the configuration, of the server of policy.opa
// and the exceptions of the ledger.
func rulesInForce(c *cobra.Command, cfg *config.Config, l *ledger.Ledger) (o policy.Options, err error) {
	o = policyOptions(cfg)
	if o.Exceptions, err = recordedExceptions(c.Context(), l); err != nil {
		return o, err
	}
	o.Bundles, err = fetchBundles(c, cfg)
	return o, err
}

// recordedExceptions are those of the ledger that nobody has removed.
func recordedExceptions(ctx context.Context, l *ledger.Ledger) ([]policy.Exception, error) {
	all, err := l.Exceptions(ctx)
	var standing []policy.Exception
	for _, e := range all {
		if e.Removed.At.IsZero() {
			standing = append(standing, asRulesReadIt(e))
		}
	}
	return standing, err
}

func asRulesReadIt(e ledger.Exception) policy.Exception {
	return policy.Exception{
		ID: e.ID, Code: e.Code, Repository: e.Repository, Digest: e.Digest.String(), Owner: e.Owner, Reason: e.Reason, Expires: e.Expires,
	}
}

// ruleOptions are the rules of the configuration with the exceptions of the
// ledger, if there is one yet.
func ruleOptions(ctx context.Context, cfg *config.Config) (policy.Options, error) {
	o := policyOptions(cfg)
	path, isFile := strings.CutPrefix(cfg.LedgerDSN(), "sqlite:")
	if _, err := os.Stat(path); !isFile || err != nil {
		return o, nil
	}
	l, err := ledger.Open(ctx, cfg.LedgerDSN())
	if err != nil {
		return o, fmt.Errorf("opening the ledger: %w", err)
	}
	o.Exceptions, err = recordedExceptions(ctx, l)
	return o, errors.Join(err, l.Close())
}

func newExceptionsAdd() *cobra.Command {
	c := &cobra.Command{
		Use:   "add --code CODE (--repository PATTERN | --digest DIGEST) --owner OWNER --reason REASON --expires DATE",
		Short: "Add an exception to the ledger, and print its id",
		Long: `Add an exception to the ledger, and print its id. It is checked as one in the
configuration is, and its code must be that of a loaded rule.

PATTERN is of registry/repository, with * and ** as wildcards. DATE is a day, at the
end of which the exception ends (UTC), or an RFC 3339 time; more than a year ahead
needs --long.`,
		Example: `  trustgate exceptions add --code signature.missing --repository docker.io/library/redis \
    --owner ops@acme.example --reason "until we sign it" --expires 2027-01-31`,
		Args: cobra.NoArgs,
	}
	var e config.Exception
	for _, flag := range []struct {
		into        *string
		name, usage string
	}{
		{&e.Code, "code", "of the rule whose findings pass"},
		{&e.Repository, "repository", "for images of the repositories that this pattern matches"},
		{&e.Digest, "digest", "for this image, or the images of this index"},
		{&e.Owner, "owner", "who answers for it"},
		{&e.Reason, "reason", "why"},
		{&e.Expires, "expires", "when it ends: 2027-01-31 or an RFC 3339 time"},
	} {
		c.Flags().StringVar(flag.into, flag.name, "", flag.usage)
	}
	long := c.Flags().Bool("long", false, "let it end more than a year ahead")
	_ = c.RegisterFlagCompletionFunc("code", completeCodes)
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		now := time.Now()
		recorded, err := newException(e, now, *long)
		if err != nil {
			return &usageError{c.CommandPath(), err}
		}
		// The rules are loaded with it: one that they refuse would keep a gate from
		// coming up.
		return withRules(c, []policy.Exception{asRulesReadIt(recorded)}, func(ctx context.Context, l *ledger.Ledger, engine *policy.Engine) error {
			if err := engine.CheckCode(e.Code); err != nil {
				return err
			}
			if err := l.AddException(ctx, recorded); err != nil {
				return err
			}
			if out.json() {
				return writeJSON(c.OutOrStdout(), listedException(recorded, asRulesReadIt(recorded).State(now), ledger.Usage{}))
			}
			_, err := fmt.Fprintln(c.OutOrStdout(), recorded.ID)
			return err
		})
	}
	return c
}

// newException is what a person has written, checked.
func newException(e config.Exception, now time.Time, long bool) (ledger.Exception, error) {
	if mistakes := e.Mistakes(); len(mistakes) > 0 {
		first := mistakes[0]
		if first.Key != "" {
			return ledger.Exception{}, fmt.Errorf("--%s: %w", first.Key, first.Err)
		}
		return ledger.Exception{}, first.Err
	}
	ends, err := config.ParseExpiry(e.Expires)
	switch {
	case err != nil:
		return ledger.Exception{}, err
	case !ends.After(now):
		return ledger.Exception{}, fmt.Errorf("--expires: %s is in the past", e.Expires)
	case !long && ends.Sub(now) > longestException:
		return ledger.Exception{}, fmt.Errorf("--expires: %s is more than a year ahead; say --long if that is meant", e.Expires)
	}
	return ledger.Exception{
		ID: ledger.NewExceptionID(), Code: e.Code, Repository: e.Repository, Digest: digest.Digest(e.Digest), Owner: e.Owner, Reason: e.Reason,
		Expires: ends, AddedAt: now, AddedBy: whoRuns(),
	}, nil
}

// whoRuns is who the operating system says runs this program.
func whoRuns() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return firstOf(os.Getenv("USER"), fmt.Sprintf("uid %d", os.Getuid()))
}

// exception is one as it is listed.
type exception struct {
	policy.Exception
	State      string     `json:"state"`
	Origin     string     `json:"origin"` // configuration or ledger
	AddedAt    *time.Time `json:"added_at,omitempty"`
	AddedBy    string     `json:"added_by,omitempty"`
	RemovedAt  *time.Time `json:"removed_at,omitempty"`
	RemovedBy  string     `json:"removed_by,omitempty"`
	RemovedFor string     `json:"removed_reason,omitempty"`
	Judgements int64      `json:"judgements"`
	Pulls      int64      `json:"pulls"`
	LastUse    *time.Time `json:"last_use"`
}

// states of an exception beside those that the policy knows.
const removedState = "removed"

func listedException(e ledger.Exception, state string, used ledger.Usage) exception {
	return exception{
		Exception: asRulesReadIt(e), State: state, Origin: "ledger", AddedAt: orNull(e.AddedAt), AddedBy: e.AddedBy,
		RemovedAt: orNull(e.Removed.At), RemovedBy: e.Removed.By, RemovedFor: e.Removed.Reason,
		Judgements: used.Judgements, Pulls: used.Pulls, LastUse: orNull(used.Last),
	}
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func newExceptionsList() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the exceptions of the configuration and of the ledger",
		Long: `List the exceptions of the configuration and of the ledger, in the order in which they
count, with how many judgements and pulls each has let pass, as far as the ledger
remembers.`,
		Example: `  trustgate exceptions list
  trustgate exceptions list -o json | jq '.[] | select(.state != "standing")'`,
		Args: cobra.NoArgs,
	}
	all := c.Flags().Bool("all", false, "list removed ones too")
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return withRules(c, nil, func(ctx context.Context, l *ledger.Ledger, engine *policy.Engine) error {
			list, err := listExceptions(ctx, l, engine, *all, time.Now())
			if err != nil {
				return err
			}
			if out.json() {
				return writeJSON(c.OutOrStdout(), orEmpty(list))
			}
			return writeExceptions(c.OutOrStdout(), c.ErrOrStderr(), list)
		})
	}
	return c
}

func listExceptions(ctx context.Context, l *ledger.Ledger, engine *policy.Engine, removed bool, now time.Time) ([]exception, error) {
	recorded, err := l.Exceptions(ctx)
	if err != nil {
		return nil, err
	}
	uses, err := l.ExceptionUses(ctx)
	if err != nil {
		return nil, err
	}
	known := map[string]ledger.Exception{}
	for _, e := range recorded {
		known[e.ID] = e
	}
	var list []exception
	for _, x := range engine.Exceptions() {
		used := uses[x.ID]
		if e, ok := known[x.ID]; ok {
			list = append(list, listedException(e, x.State(now), used))
			continue
		}
		list = append(list, exception{
			Exception: x, State: x.State(now), Origin: "configuration", Judgements: used.Judgements, Pulls: used.Pulls, LastUse: orNull(used.Last),
		})
	}
	for _, e := range recorded {
		if removed && !e.Removed.At.IsZero() {
			list = append(list, listedException(e, removedState, uses[e.ID]))
		}
	}
	return list, nil
}

func writeExceptions(w, notes io.Writer, list []exception) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(notes, "there are no exceptions")
		return err
	}
	t := table(w, "ID", "CODE", "FOR", "OWNER", "EXPIRES", "STATE", "ORIGIN", "JUDGED", "PULLS", "LAST USE", "REASON")
	for _, x := range list {
		last, reason := "never", x.Reason
		if x.LastUse != nil {
			last = ago(*x.LastUse)
		}
		if x.State == removedState {
			reason += fmt.Sprintf(" (removed by %s %s", x.RemovedBy, ago(*x.RemovedAt))
			if x.RemovedFor != "" {
				reason += ": " + x.RemovedFor
			}
			reason += ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\n", plain(x.ID), plain(x.Code), plain(firstOf(x.Repository, x.Digest)), plain(x.Owner),
			x.Expires.UTC().Format(time.RFC3339), x.State, x.Origin, x.Judgements, x.Pulls, last, plain(reason))
	}
	return t.Flush()
}

func newExceptionsRemove() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove ID",
		Short: "Let an exception of the ledger count no more",
		Long: `Let an exception of the ledger count no more. The ledger keeps it, with who removed
it, when and why; 'trustgate exceptions list --all' shows it.`,
		Example:           `  trustgate exceptions remove ex-7qk2m4x9pd3w --reason "redis is signed now"`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeExceptions,
	}
	reason := c.Flags().String("reason", "", "why")
	c.RunE = func(c *cobra.Command, args []string) error {
		return withLedger(c, func(ctx context.Context, l *ledger.Ledger) error {
			err := l.RemoveException(ctx, args[0], ledger.Removal{At: time.Now(), By: whoRuns(), Reason: *reason})
			switch {
			case errors.Is(err, oci.ErrNotFound) && strings.HasPrefix(args[0], "cfg-"):
				return fmt.Errorf("%s stands in the configuration; remove it there", args[0])
			case errors.Is(err, oci.ErrNotFound):
				return fmt.Errorf("the ledger has no exception %q; 'trustgate exceptions list' shows what it has", args[0])
			case errors.Is(err, ledger.ErrRemoved):
				return fmt.Errorf("%w; 'trustgate exceptions list --all' says by whom", err)
			}
			return err
		})
	}
	return c
}

// completeExceptions offers those of the ledger that count.
func completeExceptions(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	if len(args) > 0 {
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
	// Nothing to offer is no error to show in the middle of a line.
	_ = withLedger(c, func(ctx context.Context, l *ledger.Ledger) error {
		list, err := recordedExceptions(ctx, l)
		for _, x := range list {
			ids = append(ids, x.ID+"\t"+plain(x.Code+" for "+firstOf(x.Repository, x.Digest)))
		}
		return err
	})
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// completeCodes offers the codes of the loaded rules.
func completeCodes(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	cfg, err := loadConfig(c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	engine, err := policy.Load(c.Context(), policyOptions(cfg))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var codes []string
	for _, r := range engine.Rules() {
		codes = append(codes, r.Code+"\t"+plain(r.Title))
	}
	return codes, cobra.ShellCompDirectiveNoFileComp
}

// reportExceptions says in the log which exceptions somebody should look at.
func reportExceptions(log *zap.Logger, engine *policy.Engine, now time.Time) {
	for _, x := range engine.Exceptions() {
		about := []zap.Field{
			zap.String("exception", x.ID), zap.String("code", x.Code), zap.String("for", firstOf(x.Repository, x.Digest)),
			zap.String("owner", x.Owner), zap.Time("expires", x.Expires),
		}
		switch x.State(now) {
		case policy.Expired:
			log.Warn("an exception has expired and does nothing; remove it", about...)
		case policy.Expiring:
			log.Warn("an exception expires within a week", about...)
		}
	}
}

// exceptionWarnings is reportExceptions for a person. The configuration names its
// own that have expired.
func exceptionWarnings(list []policy.Exception, now time.Time) []string {
	var warnings []string
	for _, x := range list {
		if x.State(now) == policy.Expired {
			warnings = append(warnings, fmt.Sprintf("the exception %s for %s expired on %s and does nothing", x.ID, x.Code, x.Expires.UTC().Format(time.RFC3339)))
		}
	}
	return warnings
}

// exceptionStates counts the exceptions of the setup that serves whenever somebody
// looks: they expire without anything happening.
type exceptionStates struct{ serving *live }

var exceptionsMetric = prometheus.NewDesc("trustgate_exceptions", "Exceptions in the configuration and the ledger, by state.", []string{"state"}, nil)

// Describe implements prometheus.Collector.
func (exceptionStates) Describe(into chan<- *prometheus.Desc) { into <- exceptionsMetric }

// Collect implements prometheus.Collector.
func (s exceptionStates) Collect(into chan<- prometheus.Metric) {
	counts := map[string]int{policy.Standing: 0, policy.Expiring: 0, policy.Expired: 0}
	now := time.Now()
	for _, x := range s.serving.current.Load().policy.Exceptions() {
		counts[x.State(now)]++
	}
	for state, n := range counts {
		into <- prometheus.MustNewConstMetric(exceptionsMetric, prometheus.GaugeValue, float64(n), state)
	}
}
