package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/api"
	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/proxy"
)

const (
	maxKeyFile = 4 << 20 // bytes of a keyring, a key or a CA file
	maxConfig  = 4 << 20 // bytes of an image config
	maxParents = 64      // direct parents of one image
	maxImages  = 512     // images judged for one pull
	closing    = 30 * time.Second
)

// service is the gate with everything that it needs, put together from the
// configuration.
type service struct {
	log     *zap.Logger
	cache   *cache.Cache
	ledger  *ledger.Ledger
	metrics *prometheus.Registry
	pulls   *proxy.Metrics
	remote  *remotePolicy // nil without policy.opa
	admin   net.Listener  // where it was opened before; otherwise nil
	trials  *trialMetrics
	*setup
}

// loadConfig reads the configuration that the command line names and shows its
// warnings.
func loadConfig(c *cobra.Command) (*config.Config, error) {
	path, _ := c.Flags().GetString("config")
	if path == "" {
		path = os.Getenv("TRUSTGATE_CONFIG")
	}
	cfg, err := config.Load(path, os.Environ())
	if err != nil {
		return nil, err
	}
	for _, warning := range cfg.Warnings {
		warn(c, warning)
	}
	return cfg, nil
}

func warn(c *cobra.Command, warning string) {
	fmt.Fprintf(c.ErrOrStderr(), "%s %s\n", paint(c.ErrOrStderr()).yellow("warning:"), warning)
}

// openService is assemble for a command that asks one question: it logs what
// is wrong, and nothing else.
func openService(c *cobra.Command) (*service, error) {
	cfg, err := loadConfig(c)
	if err != nil {
		return nil, err
	}
	cfg.Log.Level = "error"
	cfg.Policy.Trial = nil // which is for pulls
	if verbose, _ := c.Flags().GetBool("verbose"); verbose {
		cfg.Log.Level = "debug"
	}
	bundles, err := fetchBundles(c, cfg)
	if err != nil {
		return nil, err
	}
	return assembleWith(c.Context(), cfg, c.ErrOrStderr(), &remotePolicy{seen: bundles})
}

// assemble puts the gate together. Nothing is sent yet, but for policy that comes
// from a server: that is waited for, and followed.
func assemble(ctx context.Context, cfg *config.Config, logTo io.Writer) (*service, error) {
	return assembleWith(ctx, cfg, logTo, nil)
}

func assembleWith(ctx context.Context, cfg *config.Config, logTo io.Writer, seen *remotePolicy) (*service, error) {
	log, err := newLog(logTo, cfg.Log)
	if err != nil {
		return nil, err
	}
	s := &service{log: log, metrics: prometheus.NewRegistry(), remote: seen}
	s.pulls, s.trials = proxy.NewMetrics(s.metrics), newTrialMetrics(s.metrics)
	if err := s.open(ctx, cfg); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *service) open(ctx context.Context, cfg *config.Config) error {
	err := os.MkdirAll(string(cfg.Data), 0o700)
	if err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	if s.ledger, err = ledger.Open(ctx, cfg.LedgerDSN()); err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	if s.cache, err = openCache(ctx, cfg, s.ledger, s.log, countDamage(s.metrics)); err != nil {
		return fmt.Errorf("opening the cache: %w", err)
	}
	registerCache(s.metrics, s.cache, int64(cfg.Cache.MaxSize))
	if s.remote == nil && len(cfg.Policy.OPA) > 0 {
		if s.remote, err = followPolicy(ctx, cfg, s.log, s.metrics); err != nil {
			return err
		}
	}
	if s.setup, err = s.newSetup(ctx, cfg, nil); err == nil {
		s.remote.took(cfg, s.policy.Revision())
	}
	return err
}

func (s *service) api() *api.API { return &api.API{Gate: s.gate, Ledger: s.ledger} }

// close ends everything in the order in which it depends on each other.
func (s *service) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closing)
	defer cancel()
	var failures []error
	if s.setup != nil {
		failures = append(failures, s.setup.close(ctx))
	}
	failures = append(failures, s.remote.close(ctx))
	if s.cache != nil {
		failures = append(failures, s.cache.Close())
	}
	if s.ledger != nil {
		failures = append(failures, s.ledger.Close())
	}
	_ = s.log.Sync() // a terminal cannot be synced
	return errors.Join(failures...)
}
