// Package opa takes policy from a server with OPA's own machinery: bundles over
// HTTP and from OCI registries, signatures on them, discovery, status, and a log of
// decisions.
//
// OPA's plugins do the work, with the configuration that is written for OPA. What
// they download becomes rules only after the gate has accepted it; until then, and
// when it is refused, what judged before goes on judging. OPA's server is not
// started, and OPA evaluates nothing but what discovery and its log ask for.
//
// https://www.openpolicyagent.org/docs/management-introduction
package opa

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/hooks"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/bundle"
	"github.com/open-policy-agent/opa/v1/plugins/discovery"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/policy"
)

// name is the gate's own among the plugins whose status OPA reports.
const name = "trustgate"

// Options are what a Remote is made of.
type Options struct {
	Config *Config
	// Accept says whether the rules that the bundles make may judge. What it
	// refuses is not activated.
	Accept  func(context.Context, *policy.Bundles) error
	Log     *zap.Logger           // nil logs nowhere
	Metrics prometheus.Registerer // nil counts for nobody
}

// Remote follows the policy of a server until it is closed. It is safe for
// concurrent use.
type Remote struct {
	Options
	manager   *plugins.Manager
	discovery *discovery.Discovery
	store     *checked
	current   atomic.Pointer[policy.Bundles]

	changed   chan struct{} // has a value when current has changed
	plugged   chan struct{} // has a value when a plugin's status has changed
	news      chan struct{} // has a value when what status reports has changed
	decisions chan decision
	ending    chan struct{}
	over      context.Context // ends when what could not be done in time is left
	leave     context.CancelFunc
	working   sync.WaitGroup

	activations *prometheus.CounterVec
	dropped     prometheus.Counter

	mu       sync.Mutex
	refused  error             // by Accept, of the bundles that came last
	inForce  string            // the revision of the policy that judges
	unused   error             // why the accepted bundles do not judge
	failures map[string]string // of bundles that could not be had or activated, by name
}

// Start has OPA download what is configured, now and from then on.
func Start(ctx context.Context, o Options) (*Remote, error) {
	r, err := newRemote(o, false)
	if err != nil {
		return nil, err
	}
	// OPA's plugins work until they are stopped.
	if err := r.start(context.WithoutCancel(ctx)); err != nil {
		return nil, err
	}
	r.working.Go(r.logDecisions)
	r.working.Go(r.report)
	return r, nil
}

func newRemote(o Options, once bool) (*Remote, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	r := &Remote{
		Options: o, store: newStore(), failures: map[string]string{},
		changed: make(chan struct{}, 1), plugged: make(chan struct{}, 1), news: make(chan struct{}, 1),
		decisions: make(chan decision, queued), ending: make(chan struct{}),
	}
	r.over, r.leave = context.WithCancel(context.Background())
	r.count()
	r.store.accept, r.store.accepted, r.store.refused = o.Accept, r.take, r.refuse
	folder, _ := o.Config.section["persistence_directory"].(string)
	// OPA panics where it cannot write.
	if err := os.MkdirAll(filepath.Join(folder, "oci"), 0o700); err != nil {
		return nil, fmt.Errorf("making the folder for what OPA persists: %w", err)
	}
	raw, err := json.Marshal(o.Config.section)
	if err != nil {
		return nil, fmt.Errorf("reading policy.opa: %w", err)
	}
	log := zapped{log: o.Log.Named("opa")}
	r.manager, err = plugins.New(raw, strings.ToLower(rand.Text()), r.store,
		plugins.Logger(log), plugins.ConsoleLogger(log),
		plugins.WithPrometheusRegister(o.Metrics),
		plugins.WithParserOptions(ast.ParserOptions{RegoVersion: ast.RegoV1}),
		plugins.WithMinTLSVersion(tls.VersionTLS12),
	)
	if err != nil {
		return nil, fmt.Errorf("policy.opa: %w", err)
	}
	r.discovery, err = discovery.New(r.manager,
		discovery.Metrics(metrics.New()),
		discovery.BootConfig(o.Config.section),
		discovery.Hooks(hooks.New(&discovered{once})),
	)
	if err != nil {
		return nil, fmt.Errorf("policy.opa: %w", err)
	}
	r.manager.Register(discovery.Name, r.discovery)
	return r, nil
}

// count registers what is counted.
func (r *Remote) count() {
	r.activations = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "trustgate_policy_bundle_activations_total", Help: "Bundles of the policy that came from a server, by what the gate's checks made of them.",
	}, []string{"result"})
	r.dropped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "trustgate_decision_log_dropped_total", Help: "Decisions that did not reach OPA's decision log because it was too slow.",
	})
	inForce := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "trustgate_policy_bundles_in_force", Help: "Whether the bundles that their servers have are those in force (1), or could not be had or were refused (0).",
	}, func() float64 {
		if r.Trouble() != "" {
			return 0
		}
		return 1
	})
	for _, result := range []string{"accepted", "refused"} {
		r.activations.WithLabelValues(result)
	}
	r.Metrics.MustRegister(r.activations, r.dropped, inForce)
}

func (r *Remote) start(ctx context.Context) error {
	if err := r.manager.Init(ctx); err != nil {
		return fmt.Errorf("starting OPA's plugins: %w", err)
	}
	r.store.watching.Store(true)
	r.manager.RegisterPluginStatusListener(name, func(map[string]*plugins.Status) { poke(r.plugged) })
	r.discovery.RegisterListener(name, func(s bundle.Status) {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.failures, discovery.Name)
		if text := saying(&s); text != "" {
			r.failures[discovery.Name] = text
		}
		poke(r.news)
	})
	r.listen()
	if err := r.manager.Start(ctx); err != nil {
		return fmt.Errorf("starting OPA's plugins: %w", err)
	}
	return nil
}

// listen has the plugin for bundles say what becomes of them; discovery may have
// started it only now. It must not be called by one of OPA's own listeners.
func (r *Remote) listen() {
	plugin := bundle.Lookup(r.manager)
	if plugin == nil {
		return
	}
	plugin.RegisterBulkListener(name, func(all map[string]*bundle.Status) {
		r.mu.Lock()
		defer r.mu.Unlock()
		maps.DeleteFunc(r.failures, func(name, _ string) bool { return name != discovery.Name })
		for name, status := range all {
			if text := saying(status); text != "" {
				r.failures["bundle "+name] = text
			}
		}
		poke(r.news)
	})
}

// saying is what is wrong with a bundle, or "".
func saying(s *bundle.Status) string {
	text := s.Message
	if s.Code == "" {
		return "" // of discovery, a message can be a remark
	}
	for _, err := range s.Errors {
		text += "; " + err.Error()
	}
	if strings.Contains(text, "wasm") {
		text += "; only Rego can be checked and is loaded: build the bundle without --target wasm"
	}
	return redacted(strings.Join(strings.Fields(text), " "))
}

// take makes bundles that were accepted the current ones.
func (r *Remote) take(b *policy.Bundles) {
	r.activations.WithLabelValues("accepted").Inc()
	r.mu.Lock()
	r.refused = nil
	r.mu.Unlock()
	r.current.Store(b)
	poke(r.changed)
}

func (r *Remote) refuse(err error) {
	r.activations.WithLabelValues("refused").Inc()
	r.mu.Lock()
	r.refused = err
	r.mu.Unlock()
	poke(r.news)
	r.Log.Error("a bundle of the policy was refused; what judged before stays in force", zap.Error(err))
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Current are the bundles that were accepted last, or nil.
func (r *Remote) Current() *policy.Bundles { return r.current.Load() }

// Changed gets a value after Current has changed.
func (r *Remote) Changed() <-chan struct{} { return r.changed }

// Await waits until every bundle that is configured or discovered was accepted,
// downloaded or as it was persisted.
func (r *Remote) Await(ctx context.Context) error {
	turn := make(chan struct{}, 1)
	r.manager.RegisterPluginStatusListener(name+" start", func(map[string]*plugins.Status) { poke(turn) })
	defer r.manager.UnregisterPluginStatusListener(name + " start")
	for !r.complete() {
		select {
		case <-turn:
		case <-ctx.Done():
			trouble := r.Trouble()
			if trouble == "" {
				trouble = errNoAnswer.Error()
			}
			return fmt.Errorf("no policy has come from its server: %s", trouble)
		}
	}
	return nil
}

func (r *Remote) complete() bool {
	status := r.manager.PluginStatus()
	for _, plugin := range []string{discovery.Name, bundle.Name} {
		if s, there := status[plugin]; there && (s == nil || s.State != plugins.StateOK) {
			return false
		}
	}
	return true
}

// InForce tells what became of the current bundles: the revision of the policy
// that judges, or why it is still another.
func (r *Remote) InForce(revision string, err error) {
	r.mu.Lock()
	if r.unused = err; err == nil {
		r.inForce = revision
	}
	r.mu.Unlock()
	poke(r.news)
}

// Trouble is why the policy in force is not the one that the server has now, in one
// line, or "".
func (r *Remote) Trouble() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, name := range slices.Sorted(maps.Keys(r.failures)) {
		all = append(all, name+": "+r.failures[name])
	}
	if r.refused != nil && len(all) == 0 {
		all = append(all, r.refused.Error())
	}
	if r.unused != nil {
		all = append(all, r.unused.Error())
	}
	return strings.Join(strings.Fields(strings.Join(all, "; ")), " ")
}

// report keeps the gate's own part of OPA's status up to date.
func (r *Remote) report() {
	var last plugins.Status
	for {
		select {
		case <-r.ending:
			return
		case <-r.plugged:
			r.listen()
		case <-r.news:
			if now := r.status(); now != last {
				last = now
				r.manager.UpdatePluginStatus(name, &now)
			}
		}
	}
}

func (r *Remote) status() plugins.Status {
	trouble := r.Trouble()
	r.mu.Lock()
	defer r.mu.Unlock()
	if trouble != "" {
		return plugins.Status{State: plugins.StateErr, Message: "what the server has is not in force: " + trouble}
	}
	if r.inForce == "" {
		return plugins.Status{State: plugins.StateNotReady}
	}
	return plugins.Status{State: plugins.StateOK, Message: "these bundles are in force, in the policy " + r.inForce}
}

// Close sends what waits in OPA's decision log, and ends.
func (r *Remote) Close(ctx context.Context) error {
	close(r.ending)
	defer r.leave()
	return errors.Join(within(ctx, r.working.Wait), r.stop(ctx))
}

func (r *Remote) stop(ctx context.Context) error {
	r.store.watching.Store(false)
	return within(ctx, func() { r.manager.Stop(ctx) })
}

// within waits for f, which may not know of ctx.
func within(ctx context.Context, f func()) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("ending OPA's plugins: %w", ctx.Err())
	}
}

// Fetched is what one look at the servers has brought.
type Fetched struct {
	Bundles *policy.Bundles
	// Persisted says why it is what was persisted earlier, in whole or in part;
	// nil where all of it was downloaded.
	Persisted error
}

// Fetch downloads each bundle once. It reports nothing to the servers.
func Fetch(ctx context.Context, o Options) (_ *Fetched, err error) {
	if o.Config, err = o.Config.once(); err != nil {
		return nil, err
	}
	r, err := newRemote(o, true)
	if err != nil {
		return nil, err
	}
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopping)
		defer cancel()
		err = errors.Join(err, r.stop(ctx))
	}()
	failed := r.discovery.Trigger(ctx)
	r.listen()
	plugin := bundle.Lookup(r.manager)
	if plugin == nil {
		if failed != nil {
			return nil, fmt.Errorf("asking for the configuration of the policy: %w", r.told(failed))
		}
		return &Fetched{}, nil
	}
	named := slices.Sorted(maps.Keys(plugin.Config().Bundles))
	var failure error
	for range named { // one can need another, which comes after it
		if failure = plugin.Trigger(ctx); failure == nil || ctx.Err() != nil {
			break
		}
	}
	failed = r.told(errors.Join(failed, failure))
	var have map[string]string
	if b := r.Current(); b != nil {
		have = b.Revisions
	}
	for _, bundle := range named {
		if _, ok := have[bundle]; !ok {
			return nil, fmt.Errorf("the bundle %s of the policy: %w", bundle, cmp.Or(failed, errNoAnswer))
		}
	}
	return &Fetched{Bundles: r.Current(), Persisted: failed}, nil
}

// told is an error in the words of the bundle's status, which says each thing once.
func (r *Remote) told(err error) error {
	if trouble := r.Trouble(); err != nil && trouble != "" {
		return errors.New(trouble)
	}
	return err
}

var errNoAnswer = errors.New("nothing was answered")

// stopping is how long OPA's plugins have to end after one look.
const stopping = 5 * time.Second
