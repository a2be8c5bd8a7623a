package opa

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/server"
	"github.com/open-policy-agent/opa/v1/util"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/policy"
)

const (
	queued  = 256             // decisions that wait for OPA's log
	masking = 5 * time.Second // masking and dropping one decision
	path    = "trustgate/decision"
)

// Decisions hands decisions of one policy to OPA's decision log.
type Decisions struct {
	remote    *Remote
	revision  string
	revisions map[string]string
}

// Decisions is the log for what the policy decides whose revision is given, and
// the revisions of the bundles in it.
func (r *Remote) Decisions(revision string, of *policy.Bundles) *Decisions {
	d := &Decisions{remote: r, revision: revision}
	if of != nil {
		d.revisions = of.Revisions
	}
	return d
}

type decision struct {
	*Decisions
	id    string
	at    time.Time
	input *policy.Input
	made  policy.Decision
}

// Decided hands one over and does not wait: where the log is too slow it is
// counted as dropped. Nobody may change the input afterwards.
func (d *Decisions) Decided(id string, at time.Time, input *policy.Input, made policy.Decision) {
	select {
	case d.remote.decisions <- decision{d, id, at, input, made}:
	default:
		d.remote.dropped.Inc()
	}
}

func (r *Remote) logDecisions() {
	for {
		select {
		case d := <-r.decisions:
			r.logDecision(d)
		case <-r.ending:
			for r.over.Err() == nil {
				select {
				case d := <-r.decisions:
					r.logDecision(d)
				default:
					return
				}
			}
			return
		}
	}
}

// logDecision lets OPA's plugin drop or mask the decision by the rules of the
// bundles and queue it for upload.
func (r *Remote) logDecision(d decision) {
	plugin := logs.Lookup(r.manager)
	if plugin == nil {
		return // it is not configured
	}
	if err := r.push(plugin, d); err != nil {
		r.Log.Error("a decision did not reach OPA's decision log", zap.String("decision", d.id), zap.Error(err))
	}
}

// push makes an event of the decision.
//
// https://www.openpolicyagent.org/docs/management-decision-logs
func (r *Remote) push(plugin *logs.Plugin, d decision) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("OPA's decision log panicked: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(r.over, masking)
	defer cancel()
	event := &server.Info{DecisionID: d.id, Path: path, Timestamp: d.at, Custom: map[string]any{"policy_revision": d.revision}}
	if event.Input, err = document(d.input); err != nil {
		return fmt.Errorf("writing the input: %w", err)
	}
	if event.Results, err = document(d.made); err != nil {
		return fmt.Errorf("writing the decision: %w", err)
	}
	event.Bundles = map[string]server.BundleInfo{}
	for name, revision := range d.revisions {
		event.Bundles[name] = server.BundleInfo{Revision: revision}
	}
	if event.Txn, err = r.store.NewTransaction(ctx); err != nil {
		return err
	}
	defer r.store.Abort(ctx, event.Txn)
	return plugin.Log(ctx, event)
}

// document is v as OPA's own server would have read it.
func document(v any) (*any, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var doc any
	return &doc, util.UnmarshalJSON(raw, &doc)
}
