package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/api"
	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/replay"
)

// candidateOptions is the policy of policy.trial: what it leaves out is as in the
// policy in force, whose routes and exceptions are its own too.
func candidateOptions(cfg *config.Config, inForce policy.Options) policy.Options {
	o, t := inForce, cfg.Policy.Trial
	if t.Builtin != nil {
		o.Builtin = *t.Builtin
	}
	if t.Collections != nil {
		o.Collections = t.Collections
	}
	if t.Paths != nil {
		o.Paths = config.PathNames(t.Paths)
	}
	if t.Data != nil {
		o.Data = config.PathNames(t.Data)
	}
	return o
}

// trialMetrics is what became of candidates.
type trialMetrics struct {
	total  *prometheus.CounterVec
	broken prometheus.Gauge
}

func newTrialMetrics(registerer prometheus.Registerer) *trialMetrics {
	m := &trialMetrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trustgate_trial_total", Help: "Judgements by the candidate policy of policy.trial, by how they compare with the policy in force.",
		}, []string{"result"}),
		broken: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trustgate_trial_broken", Help: "Whether policy.trial names a candidate that cannot be loaded (1).",
		}),
	}
	for _, result := range []string{"same", "stricter", "weaker", "failed", "missed"} {
		m.total.WithLabelValues(result)
	}
	registerer.MustRegister(m.total, m.broken)
	return m
}

// openTrial loads the candidate, if there is one. One that is broken is reported,
// and keeps nothing else from working.
func (s *service) openTrial(ctx context.Context, cfg *config.Config, inForce policy.Options, judge *policy.Engine) *gate.Trial {
	if cfg.Policy.Trial == nil {
		s.trials.broken.Set(0)
		return nil
	}
	candidate, err := policy.Load(ctx, candidateOptions(cfg, inForce))
	if err != nil {
		s.trials.broken.Set(1)
		s.log.Error("the candidate policy is broken and is not tried; 'trustgate policy trial' says more", zap.Error(err))
		return nil
	}
	s.trials.broken.Set(0)
	if blind := unseen(candidate, judge); len(blind) > 0 {
		s.log.Warn("the candidate policy reads what the policy in force does not, so that it is not on record: it is tried as if that were empty", zap.Strings("fields", blind))
	}
	s.log.Info("trying a candidate policy", zap.String("candidate", candidate.Revision()))
	return &gate.Trial{Judge: candidate, Count: func(result string) { s.trials.total.WithLabelValues(result).Inc() }}
}

// unseen are the members of input.request that the candidate reads and that
// judgements do not record.
func unseen(candidate, inForce *policy.Engine) []string {
	recorded := inForce.RequestFields()
	return slices.DeleteFunc(candidate.RequestFields(), func(field string) bool {
		return slices.Contains(recorded, field) || !strings.HasPrefix(field, "client")
	})
}

func newPolicyTrial() *cobra.Command {
	c := &cobra.Command{
		Use:   "trial",
		Short: "Say what the candidate policy would have decided about live pulls",
		Long: `Show where the candidate policy, policy.trial in the configuration, would have decided
otherwise than the policy in force. A gate that is running tries it beside each
judgement and each pull, serves none the other for it, and records the differences.

They are those of the candidate as it is now: a change to its rules, its data or an
exception makes another one, which begins anew. It exits with 4 when anything would
be newly blocked.`,
		Example: `  trustgate policy trial --since 24h
  trustgate policy trial -o json | jq .changes.newly_blocked.by_rule`,
		Args: cobra.NoArgs,
	}
	since := c.Flags().String("since", "", "only of what was judged since then: 24h, 2027-01-31 or an RFC 3339 time (default: everything)")
	examples := addExamples(c)
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		var from time.Time
		if *since != "" {
			var err error
			if from, err = api.ParseTime("since", *since, time.Now()); err != nil {
				return &usageError{c.CommandPath(), err}
			}
		}
		if *examples < 0 {
			return &usageError{c.CommandPath(), errNegativeExamples}
		}
		return withLedgerOf(c, func(ctx context.Context, cfg *config.Config, l *ledger.Ledger) error {
			if cfg.Policy.Trial == nil {
				return errors.New("there is no candidate; name its rules under policy.trial of the configuration")
			}
			o, err := rulesInForce(c, cfg, l)
			if err != nil {
				return err
			}
			candidate, err := policy.Load(ctx, candidateOptions(cfg, o))
			if err != nil {
				return fmt.Errorf("the candidate is broken, and no gate tries it: %w", manyMistakes(err))
			}
			report, err := replay.Tried(ctx, l, candidate.Revision(), from)
			if err != nil {
				return err
			}
			if out.json() {
				err = writeJSON(c.OutOrStdout(), report)
			} else {
				err = writeTrial(c.OutOrStdout(), report, *examples)
			}
			if err == nil && len(report.Changes.Blocked.Images) > 0 {
				err = &verdictError{policy.Annotate}
			}
			return err
		})
	}
	return c
}

func writeTrial(w io.Writer, r *replay.Trial, examples int) error {
	p := paint(w)
	if r.Tried == 0 && r.Missed == 0 {
		_, err := fmt.Fprintln(w, p.yellow("the candidate has not been tried yet: nothing was pulled since a gate took it up"))
		return err
	}
	fmt.Fprintf(w, "%d decisions tried since %s\n", r.Tried, r.First.Local().Format(time.DateTime))
	if r.Failed > 0 {
		fmt.Fprintln(w, p.red(fmt.Sprintf("the candidate fails on %d of them, which blocks", r.Failed)))
	}
	if r.Missed > 0 {
		fmt.Fprintln(w, p.yellow(fmt.Sprintf("%d times there was no room for one more; what was missed is tried at a later pull", r.Missed)))
	}
	return writeChanges(w, r.Changes, examples)
}
