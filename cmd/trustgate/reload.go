package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
)

// watchEvery is how often the files of the configuration, and the exceptions of
// the ledger, are looked at. A file that has changed is read when it has stayed the
// same for as long.
const watchEvery = 5 * time.Second

// live is the setup that serves, until another takes its place.
type live struct {
	current atomic.Pointer[inUse]
	retired sync.WaitGroup
}

// inUse counts who uses a setup, so that it ends after the last of them.
type inUse struct {
	*setup
	public, operators http.Handler

	users atomic.Int64 // requests, and one while it is current
	idle  chan struct{}
}

func (s *service) use(u *setup) *inUse {
	one := &inUse{setup: u, idle: make(chan struct{})}
	one.public, one.operators = s.publicHandler(u), s.operatorHandler(u)
	one.users.Store(1)
	return one
}

// borrow is the current setup; giveBack must follow.
func (l *live) borrow() *inUse {
	for {
		one := l.current.Load()
		if n := one.users.Load(); n > 0 && one.users.CompareAndSwap(n, n+1) {
			return one
		}
	}
}

func (o *inUse) giveBack() {
	if o.users.Add(-1) == 0 {
		close(o.idle)
	}
}

// replace lets the next setup serve. The one before ends when the requests that
// it is answering have, however long that takes.
func (l *live) replace(next *inUse, log *zap.Logger) {
	before := l.current.Swap(next)
	before.giveBack()
	l.retired.Go(func() {
		<-before.idle
		ctx, cancel := context.WithTimeout(context.Background(), closing)
		defer cancel()
		if err := before.close(ctx); err != nil {
			log.Warn("the setup before the reload did not end cleanly", zap.Error(err))
		}
	})
}

// end waits for the setups that were replaced.
func (l *live) end(patience time.Duration) bool {
	done := make(chan struct{})
	go func() {
		l.retired.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(patience):
		return false
	}
}

// reloads is what became of them.
type reloads struct {
	done, failed prometheus.Counter
	good         prometheus.Gauge
	broken       atomic.Pointer[string] // why what is on disk is not in force
}

func newReloads(registerer prometheus.Registerer) *reloads {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "trustgate_config_reloads_total", Help: "Reloads of the configuration, by result.",
	}, []string{"result"})
	r := &reloads{
		done: total.WithLabelValues("done"), failed: total.WithLabelValues("failed"),
		good: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trustgate_config_in_force", Help: "Whether the configuration on disk is the one in force (1), or a reload of it failed (0).",
		}),
	}
	registerer.MustRegister(total, r.good)
	r.good.Set(1)
	return r
}

// keepUp reloads when the process gets SIGHUP, and when a file of the
// configuration or an exception in the ledger changes, until ctx ends. What is broken
// never replaces what works, and does not keep an exception in force that is gone.
func (s *service) keepUp(ctx context.Context, l *live, r *reloads, load func() (*config.Config, error)) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	// tried is how the files were that the last reload read, before what was there
	// a moment ago.
	before := stampOf(l.current.Load())
	tried := before.files
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			s.log.Info("reloading, on SIGHUP")
		case <-s.remote.changed():
			s.takeUp(ctx, l)
			continue
		case <-tick.C:
			current := l.current.Load()
			now := s.stampNow(ctx, current, before)
			settled := now.files == before.files
			before = now
			if now.files == tried {
				// Exceptions are there as a whole or not at all.
				if now.exceptions != current.excepted {
					s.takeUpExceptions(ctx, l, r)
				}
				continue
			}
			if !settled {
				continue
			}
			s.log.Info("reloading, since a file of the configuration has changed")
		}
		before = s.stampNow(ctx, l.current.Load(), before)
		tried = before.files
		if err := s.reload(ctx, l, load); err != nil {
			said := strings.Join(strings.Fields(err.Error()), " ")
			r.broken.Store(&said)
			r.failed.Inc()
			r.good.Set(0)
			s.log.Error("the configuration was not reloaded; the one before stays in force", zap.Error(err))
			continue
		}
		r.broken.Store(nil)
		r.done.Inc()
		r.good.Set(1)
		before = stampOf(l.current.Load())
		tried = before.files
	}
}

// takeUpExceptions has the ledger's exceptions judge, with the configuration that is
// in force: who removes one is obeyed, whatever has become of the files. What fails
// is tried again with the next look.
func (s *service) takeUpExceptions(ctx context.Context, l *live, r *reloads) {
	s.log.Info("reloading, since the ledger's exceptions have changed")
	inForce := l.current.Load().config
	if err := s.reload(ctx, l, func() (*config.Config, error) { return inForce, nil }); err != nil {
		r.failed.Inc()
		s.log.Error("the ledger's exceptions were not taken up; those before stay in force", zap.Error(err))
		return
	}
	r.done.Inc()
}

// stamp changes whenever there is something new to read.
type stamp struct{ files, exceptions string }

// stampOf is what the setup has read.
func stampOf(u *inUse) stamp { return stamp{u.files, u.excepted} }

// stampNow is what there is to read. A ledger that does not answer has not changed.
func (s *service) stampNow(ctx context.Context, u *inUse, before stamp) stamp {
	revision, err := s.ledger.ExceptionsRevision(ctx)
	if err != nil {
		revision = before.exceptions
	}
	return stamp{u.config.Stamp(), revision}
}

func (s *service) reload(ctx context.Context, l *live, load func() (*config.Config, error)) error {
	next, err := load()
	if err != nil {
		return err
	}
	current := l.current.Load()
	if changed := needRestart(current.config, next); len(changed) > 0 {
		return fmt.Errorf("a change of %s needs a restart", strings.Join(changed, ", "))
	}
	for _, warning := range next.Warnings {
		s.log.Warn("configuration", zap.String("warning", warning))
	}
	made, err := s.newSetup(ctx, next, current.setup)
	if err != nil {
		return err
	}
	l.replace(s.use(made), s.log)
	s.remote.took(next, made.policy.Revision())
	s.log.Info("reloaded", zap.String("policy", made.policy.Revision()), zap.Int("routes", len(next.Routes)))
	return nil
}

// needRestart are the keys whose change a running process cannot follow.
func needRestart(was, is *config.Config) []string {
	var changed []string
	for _, part := range []struct {
		key     string
		was, is any
	}{
		{"listen", was.Listen, is.Listen}, {"admin", was.Admin, is.Admin}, {"data", was.Data, is.Data},
		{"tls", was.TLS != nil, is.TLS != nil}, {"cache", was.Cache, is.Cache}, {"ledger", was.Ledger, is.Ledger},
		{"log", was.Log, is.Log}, {"policy.opa", was.Policy.OPA, is.Policy.OPA},
		{"limits.connections", was.Limits.Connections, is.Limits.Connections},
	} {
		if !reflect.DeepEqual(part.was, part.is) {
			changed = append(changed, part.key)
		}
	}
	return changed
}

var errStopping = errors.New("stopping")
