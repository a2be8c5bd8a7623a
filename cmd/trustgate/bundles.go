package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/opa"
	"github.com/trustgate/trustgate/policy"
)

const (
	firstPolicy = time.Minute      // that a gate waits for its first policy
	oneLook     = 20 * time.Second // that a command waits for it
)

// remotePolicy is policy that comes from a server, as policy.opa says; nil is none.
type remotePolicy struct {
	follows *opa.Remote                   // nil in a command that has looked once
	seen    *policy.Bundles               // what it saw
	config  atomic.Pointer[config.Config] // that judges with what comes
}

// followPolicy waits for the first policy of the configuration's servers, which
// goes through the checks that files do, and keeps it up to date from then on.
func followPolicy(ctx context.Context, cfg *config.Config, log *zap.Logger, metrics prometheus.Registerer) (*remotePolicy, error) {
	r := &remotePolicy{}
	r.config.Store(cfg)
	o, err := remoteOptions(cfg)
	if err != nil {
		return nil, err
	}
	o.Log, o.Metrics = log, metrics
	o.Accept = func(ctx context.Context, b *policy.Bundles) error { return loads(ctx, r.config.Load(), b) }
	if r.follows, err = opa.Start(ctx, o); err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, firstPolicy)
	defer cancel()
	if err := r.follows.Await(waiting); err != nil {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
		defer cancel()
		return nil, errors.Join(err, r.follows.Close(ending))
	}
	select {
	case <-r.follows.Changed(): // which the first setup is made of
	default:
	}
	return r, nil
}

func remoteOptions(cfg *config.Config) (opa.Options, error) {
	read, err := opa.Read(cfg.Policy.OPA, cfg.Folder(), cfg.Persisted())
	return opa.Options{Config: read}, err
}

// withBundles are the options of the configured policy with what a server has sent.
func withBundles(cfg *config.Config, b *policy.Bundles) policy.Options {
	o := policyOptions(cfg)
	o.Bundles = b
	return o
}

func loads(ctx context.Context, cfg *config.Config, b *policy.Bundles) error {
	_, err := policy.Load(ctx, withBundles(cfg, b))
	return err
}

func (r *remotePolicy) current() *policy.Bundles {
	switch {
	case r == nil:
		return nil
	case r.follows == nil:
		return r.seen
	}
	return r.follows.Current()
}

// changed gets a value when there is something to take up.
func (r *remotePolicy) changed() <-chan struct{} {
	if r == nil || r.follows == nil {
		return nil
	}
	return r.follows.Changed()
}

// took says which configuration judges now, with the current bundles.
func (r *remotePolicy) took(cfg *config.Config, revision string) {
	if r != nil && r.follows != nil {
		r.config.Store(cfg)
		r.follows.InForce(revision, nil)
	}
}

func (r *remotePolicy) trouble() string {
	if r == nil || r.follows == nil {
		return ""
	}
	return r.follows.Trouble()
}

func (r *remotePolicy) decisions(revision string, b *policy.Bundles) gate.DecisionLog {
	if r == nil || r.follows == nil {
		return nil
	}
	return r.follows.Decisions(revision, b)
}

func (r *remotePolicy) close(ctx context.Context) error {
	if r == nil || r.follows == nil {
		return nil
	}
	return r.follows.Close(ctx)
}

// takeUp has the bundles that came judge, with the configuration that is in force:
// the files on disk may be under way to something else.
func (s *service) takeUp(ctx context.Context, l *live) {
	s.log.Info("reloading, since a bundle of the policy has changed")
	inForce := l.current.Load().config
	if err := s.reload(ctx, l, func() (*config.Config, error) { return inForce, nil }); err != nil {
		s.log.Error("the bundles of the policy were not taken up; those before stay in force", zap.Error(err))
		s.remote.follows.InForce("", err)
	}
}

// fetchBundles has one look at the configuration's servers, for a command, and
// says on standard error where the policy is from.
func fetchBundles(c *cobra.Command, cfg *config.Config) (*policy.Bundles, error) {
	if !opa.Judges(cfg.Policy.OPA) {
		return nil, nil
	}
	o, err := remoteOptions(cfg)
	if err != nil {
		return nil, err
	}
	o.Accept = func(ctx context.Context, b *policy.Bundles) error { return loads(ctx, cfg, b) }
	ctx, cancel := context.WithTimeout(c.Context(), oneLook)
	defer cancel()
	fetched, err := opa.Fetch(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("policy.opa: %w", err)
	}
	var from []string
	if fetched.Bundles != nil {
		for _, name := range slices.Sorted(maps.Keys(fetched.Bundles.Revisions)) {
			from = append(from, strings.TrimSpace(name+" "+fetched.Bundles.Revisions[name]))
		}
	}
	to := c.ErrOrStderr()
	fmt.Fprintf(to, "policy of the bundles %s\n", plain(firstOf(strings.Join(from, ", "), "(none)")))
	if fetched.Persisted != nil {
		fmt.Fprintf(to, "%s as they were persisted earlier: %s\n", paint(to).yellow("warning:"), plain(fetched.Persisted.Error()))
	}
	return fetched.Bundles, nil
}

// before is the listener for administration while the policy is waited for: alive,
// and not ready.
type before struct {
	listener *net.TCPListener
	server   *http.Server
	served   chan struct{} // closed when it no longer accepts
}

// listenBefore opens it; nil where there is nothing to wait for.
func listenBefore(ctx context.Context, cfg *config.Config) (*before, error) {
	if !opa.Judges(cfg.Policy.OPA) || cfg.Admin == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", cfg.Admin)
	if err != nil {
		return nil, fmt.Errorf("listening for administration: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "waiting for the policy's bundles", http.StatusServiceUnavailable)
	})
	b := &before{listener.(*net.TCPListener), &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}, make(chan struct{})}
	go func() {
		defer close(b.served)
		_ = b.server.Serve(borrowed{b.listener})
	}()
	return b, nil
}

// borrowed is a listener that somebody else goes on with after it is closed.
type borrowed struct{ *net.TCPListener }

func (b borrowed) Close() error { return b.SetDeadline(time.Unix(1, 0)) }

// handOver ends it and returns the listener, which stays open all the while.
func (b *before) handOver() net.Listener {
	if b == nil {
		return nil
	}
	b.server.Close()
	<-b.served
	_ = b.listener.SetDeadline(time.Time{})
	return b.listener
}

func (b *before) close() error {
	if b == nil {
		return nil
	}
	b.server.Close()
	return b.listener.Close()
}
