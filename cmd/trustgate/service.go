package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/access"
	"github.com/trustgate/trustgate/api"
	"github.com/trustgate/trustgate/attest"
	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/buildkit"
	"github.com/trustgate/trustgate/evidence/notation"
	"github.com/trustgate/trustgate/evidence/openpgp"
	"github.com/trustgate/trustgate/evidence/packages"
	"github.com/trustgate/trustgate/evidence/sigstore"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/proxy"
	"github.com/trustgate/trustgate/upstream"
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
	config    *config.Config
	log       *zap.Logger
	upstreams []*upstream.Registry
	cache     *cache.Cache
	ledger    *ledger.Ledger
	policy    *policy.Engine
	gate      *gate.Gate
	metrics   *prometheus.Registry
	access    *access.Access
	handler   *proxy.Handler
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
		fmt.Fprintf(c.ErrOrStderr(), "%s %s\n", paint(c.ErrOrStderr()).yellow("warning:"), warning)
	}
	return cfg, nil
}

// openService is assemble for a command that asks one question: it logs what
// is wrong, and nothing else.
func openService(c *cobra.Command) (*service, error) {
	cfg, err := loadConfig(c)
	if err != nil {
		return nil, err
	}
	cfg.Log.Level = "error"
	if verbose, _ := c.Flags().GetBool("verbose"); verbose {
		cfg.Log.Level = "debug"
	}
	return assemble(c.Context(), cfg, c.ErrOrStderr())
}

// assemble puts the gate together. Nothing is sent yet.
func assemble(ctx context.Context, cfg *config.Config, logTo io.Writer) (*service, error) {
	log, err := newLog(logTo, cfg.Log)
	if err != nil {
		return nil, err
	}
	s := &service{config: cfg, log: log, metrics: prometheus.NewRegistry()}
	if err := s.open(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *service) open(ctx context.Context) error {
	cfg := s.config
	trusted, err := readTrust(cfg)
	if err != nil {
		return err
	}
	if s.policy, err = policy.Load(ctx, policyOptions(cfg)); err != nil {
		return fmt.Errorf("loading the policy: %w", err)
	}
	var routes []gate.Route
	for _, r := range cfg.Routes {
		route, err := s.openRoute(r, trusted)
		if err != nil {
			return err
		}
		routes = append(routes, route)
	}
	if err := os.MkdirAll(string(cfg.Data), 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	if s.ledger, err = ledger.Open(ctx, cfg.LedgerDSN()); err != nil {
		return fmt.Errorf("opening the ledger: %w", err)
	}
	if s.cache, err = openCache(ctx, cfg, s.ledger, s.log, countDamage(s.metrics)); err != nil {
		return fmt.Errorf("opening the cache: %w", err)
	}
	registerCache(s.metrics, s.cache, int64(cfg.Cache.MaxSize))
	key, err := attest.OpenKey(cfg.SummaryKey())
	if err != nil {
		return err
	}
	options := s.gateOptions(routes, trusted)
	if trusted.tags != nil {
		options.Source = trusted.tags
	}
	options.Packages = gate.Packages{Examine: cfg.Packages.Examine, Limits: packages.Limits{
		Bytes: int64(cfg.Packages.MaxSize), Duration: time.Duration(cfg.Packages.Timeout), Spool: cfg.Spool(),
	}}
	options.Summaries = gate.Summaries{Key: key, Verifier: cfg.Summaries.Verifier, Version: readBuildInfo().Version}
	if s.gate, err = gate.New(options); err != nil {
		return err
	}
	clientKey, err := access.OpenKey(cfg.ClientKey())
	if err != nil {
		return err
	}
	if s.access, err = s.openAccess(clientKey); err != nil {
		return err
	}
	s.handler, err = proxy.New(proxy.Options{
		Gate: s.gate, Routes: proxyRoutes(cfg), Access: s.access, Metrics: proxy.NewMetrics(s.metrics), Log: s.log,
		Key: clientKey, ManifestLimit: int64(cfg.Limits.Manifest),
	})
	return err
}

func (s *service) openAccess(key []byte) (*access.Access, error) {
	c := s.config.Clients
	o := access.Options{
		Htpasswd: string(c.Htpasswd), Anonymous: c.Anonymous, Writers: c.Push,
		Rate:    access.Rate{PerSecond: c.Rate.PerSecond, Burst: c.Rate.Burst},
		Recheck: time.Duration(c.Recheck), Stale: time.Duration(s.config.Verdicts.Stale),
		Key: key, URL: c.URL, Upstreams: map[string]*upstream.Registry{},
	}
	for _, i := range c.Issuers {
		issuer := access.Issuer{Name: i.Name, URL: i.URL, Audience: i.Audience, Identity: i.Identity, Claims: i.Claims}
		if i.CA != "" {
			raw, err := readKeyFile(string(i.CA))
			if err != nil {
				return nil, fmt.Errorf("reading the CA of the issuer %s: %w", i.Name, err)
			}
			roots := x509.NewCertPool()
			if !roots.AppendCertsFromPEM(raw) {
				return nil, fmt.Errorf("there is no certificate in %s", i.CA)
			}
			transport := http.DefaultTransport.(*http.Transport).Clone()
			transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
			issuer.Client = &http.Client{Transport: transport}
		}
		o.Issuers = append(o.Issuers, issuer)
	}
	for i, r := range s.config.Routes {
		if r.Clients == "upstream" {
			o.Upstreams[r.Registry] = s.upstreams[i]
		}
	}
	var err error
	if o.Repository, err = proxy.Repositories(proxyRoutes(s.config)); err != nil {
		return nil, err
	}
	return access.New(o)
}

func (s *service) gateOptions(routes []gate.Route, t *trust) gate.Options {
	cfg := s.config
	o := gate.Options{
		Routes: routes, Judge: s.policy, Cache: s.cache, Ledger: s.ledger, Log: s.log,
		Trust: gate.Trust{Builders: t.builders, Sources: cfg.Trust.Sources, Roots: t.roots, Revision: t.revision},
		Lifetimes: gate.Lifetimes{
			Serve: time.Duration(cfg.Verdicts.Serve), Block: time.Duration(cfg.Verdicts.Block),
			Tag: time.Duration(cfg.Verdicts.Tag), Stale: time.Duration(cfg.Verdicts.Stale),
			Deadline: time.Duration(cfg.Verdicts.Deadline), Depth: cfg.Verdicts.Depth,
		},
		Limits: gate.Limits{Evidence: evidenceLimits(cfg), Config: maxConfig, Parents: maxParents, Nodes: maxImages, Judgements: cfg.Limits.Judgements},
	}
	for _, p := range cfg.Platforms {
		// The configuration has been checked.
		if platform, err := config.ParsePlatform(p); err == nil {
			o.Platforms = append(o.Platforms, platform)
		}
	}
	return o
}

func (s *service) api() *api.API { return &api.API{Gate: s.gate, Ledger: s.ledger} }

// close ends everything in the order in which it depends on each other.
func (s *service) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closing)
	defer cancel()
	var failures []error
	if s.gate != nil {
		if err := s.gate.Close(ctx); err != nil {
			failures = append(failures, fmt.Errorf("some judgements were still under way: %w", err))
		}
	}
	if s.cache != nil {
		failures = append(failures, s.cache.Close())
	}
	if s.ledger != nil {
		failures = append(failures, s.ledger.Close())
	}
	for _, u := range s.upstreams {
		u.Close()
	}
	_ = s.log.Sync() // a terminal cannot be synced
	return errors.Join(failures...)
}

func fileURL(folder string) string { return (&url.URL{Scheme: "file", Path: folder}).String() }

// openUpstream makes the client of a route's registry.
func openUpstream(cfg *config.Config, r config.Route) (*upstream.Registry, error) {
	options := upstream.Options{
		Registry: r.Registry, URL: r.Upstream, Insecure: r.Insecure,
		Credentials: upstream.Credentials{
			DockerConfig: string(r.Credentials.DockerConfig),
			Username:     r.Credentials.Username, PasswordFile: string(r.Credentials.PasswordFile),
			Anonymous: r.Credentials.Anonymous,
		},
		ManifestLimit: int64(cfg.Limits.Manifest),
		UserAgent:     "trustgate/" + readBuildInfo().Version,
	}
	if r.CA != "" {
		ca, err := readKeyFile(string(r.CA))
		if err != nil {
			return nil, fmt.Errorf("reading the CA of the route %s: %w", r.Registry, err)
		}
		options.CA = ca
	}
	return upstream.New(options)
}

// openRepository opens the repository of ref at its registry, past the gate.
func openRepository(cfg *config.Config, ref oci.Reference) (*upstream.Repository, error) {
	for _, r := range cfg.Routes {
		if r.Registry == ref.Registry() {
			u, err := openUpstream(cfg, r)
			if err != nil {
				return nil, err
			}
			return u.Repository(ref.Repository())
		}
	}
	return nil, fmt.Errorf("%s: %w; add it under routes", ref.Registry(), gate.ErrUnknownRegistry)
}

func (s *service) openRoute(r config.Route, t *trust) (gate.Route, error) {
	u, err := openUpstream(s.config, r)
	if err != nil {
		return gate.Route{}, err
	}
	s.upstreams = append(s.upstreams, u)

	limits := evidenceLimits(s.config)
	stores := []openpgp.Store{openpgp.Extension(func(ctx context.Context, repository oci.Reference, d digest.Digest) ([]byte, error) {
		from, err := u.Repository(repository.Repository())
		if err != nil {
			return nil, err
		}
		return from.SignatureExtension(ctx, d)
	})}
	for _, base := range r.Lookaside {
		store, err := openpgp.NewLookaside(base, &http.Client{Timeout: time.Duration(s.config.Verdicts.Deadline)}, limits)
		if err != nil {
			return gate.Route{}, fmt.Errorf("the route %s: %w", r.Registry, err)
		}
		stores = append(stores, store)
	}
	// What clients hand to the gate lies beside the cache, a folder a registry.
	folder := filepath.Join(string(s.config.Data), "signatures", r.Registry)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return gate.Route{}, fmt.Errorf("making the folder of signatures: %w", err)
	}
	kept, err := openpgp.NewLookaside(fileURL(folder), nil, limits)
	if err != nil {
		return gate.Route{}, fmt.Errorf("the route %s: %w", r.Registry, err)
	}
	signatures := openpgp.New(t.openpgp, append(stores, kept), nil)
	return gate.Route{
		Registry: r.Registry, Upstream: u,
		Collectors: []evidence.Collector{sigstore.New(t.sigstore), notation.New(t.notation), signatures, buildkit.New()},
		Signatures: gate.Signatures{Collector: signatures, Kept: kept},
	}, nil
}

func evidenceLimits(cfg *config.Config) evidence.Limits {
	return evidence.Limits{
		Attestation: int64(cfg.Limits.Attestation), Signatures: cfg.Limits.Signatures, Referrers: cfg.Limits.Referrers,
	}
}

func proxyRoutes(cfg *config.Config) []proxy.Route {
	var routes []proxy.Route
	for _, r := range cfg.Routes {
		routes = append(routes, proxy.Route{Registry: r.Registry, Hosts: r.Hosts, Default: r.Default, Push: proxy.PushMode(r.Push)})
	}
	return routes
}

func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(raw) > maxKeyFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxKeyFile)
	}
	return raw, err
}

// policyOptions writes the configuration down as rules read it, below
// data.trustgate.config.
func policyOptions(cfg *config.Config) policy.Options {
	o := policy.Options{Builtin: cfg.Policy.Builtin, Collections: cfg.Policy.Collections}
	for _, p := range cfg.Policy.Paths {
		o.Paths = append(o.Paths, string(p))
	}
	for _, p := range cfg.Policy.Data {
		o.Data = append(o.Data, string(p))
	}
	routes := map[string]any{}
	for _, r := range cfg.Routes {
		route := behaviour(r.Mode, r.Errors)
		var scopes []any
		for _, s := range r.Scopes {
			scope := behaviour(s.Mode, s.Errors)
			scope["repositories"] = anyList(s.Repositories)
			scopes = append(scopes, scope)
		}
		if scopes != nil {
			route["scopes"] = scopes
		}
		routes[r.Registry] = route
	}
	var exceptions []any
	for _, e := range cfg.Policy.Exceptions {
		x := map[string]any{"code": e.Code, "owner": e.Owner, "reason": e.Reason}
		if ends, err := config.ParseExpiry(e.Expires); err == nil {
			x["expires"] = ends.UTC().Format(time.RFC3339)
		}
		if e.Repository != "" {
			x["repository"] = e.Repository
		}
		if e.Digest != "" {
			x["digest"] = e.Digest
		}
		exceptions = append(exceptions, x)
	}
	o.Config = map[string]any{"routes": routes}
	if exceptions != nil {
		o.Config["exceptions"] = exceptions
	}
	return o
}

func behaviour(mode, onErrors string) map[string]any {
	o := map[string]any{}
	if mode != "" {
		o["mode"] = mode
	}
	if onErrors != "" {
		o["errors"] = onErrors
	}
	return o
}

func anyList(texts []string) []any {
	list := make([]any, len(texts))
	for i, s := range texts {
		list[i] = s
	}
	return list
}
