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
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/access"
	"github.com/trustgate/trustgate/attest"
	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/buildkit"
	"github.com/trustgate/trustgate/evidence/notation"
	"github.com/trustgate/trustgate/evidence/openpgp"
	"github.com/trustgate/trustgate/evidence/packages"
	"github.com/trustgate/trustgate/evidence/sigstore"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/proxy"
	"github.com/trustgate/trustgate/upstream"
)

// setup is what the configuration makes of the program and another one makes
// anew while it serves.
type setup struct {
	config    *config.Config
	files     string // how the files that it was made from were before they were read
	upstreams []*upstream.Registry
	policy    *policy.Engine
	excepted  string // the revision of the ledger's exceptions among its rules
	gate      *gate.Gate
	access    *access.Access
	handler   *proxy.Handler
	tls       *tls.Config // nil serves without
}

// newSetup makes a setup beside the one that serves, if there is one; what they
// share stays open.
func (s *service) newSetup(ctx context.Context, cfg *config.Config, before *setup) (made *setup, err error) {
	u := &setup{config: cfg, files: cfg.Stamp()}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.close(ctx))
		}
	}()
	trusted, err := readTrust(cfg)
	if err != nil {
		return nil, err
	}
	bundles := s.remote.current()
	rules := withBundles(cfg, bundles)
	// The revision first: what comes in between is read now and once more.
	if u.excepted, err = s.ledger.ExceptionsRevision(ctx); err != nil {
		return nil, err
	}
	if rules.Exceptions, err = recordedExceptions(ctx, s.ledger); err != nil {
		return nil, err
	}
	if u.policy, err = policy.Load(ctx, rules); err != nil {
		return nil, fmt.Errorf("loading the policy: %w", err)
	}
	reportExceptions(s.log, u.policy, time.Now())
	var routes []gate.Route
	for _, r := range cfg.Routes {
		route, err := u.openRoute(r, trusted)
		if err != nil {
			return nil, err
		}
		routes = append(routes, route)
	}
	key, err := attest.OpenKey(cfg.SummaryKey())
	if err != nil {
		return nil, err
	}
	options := u.gateOptions(routes, trusted)
	options.Cache, options.Ledger, options.Log = s.cache, s.ledger, s.log
	options.Summaries = gate.Summaries{Key: key, Verifier: cfg.Summaries.Verifier, Version: readBuildInfo().Version}
	options.Decisions = s.remote.decisions(u.policy.Revision(), bundles)
	options.Trial = s.openTrial(ctx, cfg, rules, u.policy)
	if before != nil {
		options.Succeeds = before.gate
	}
	if u.gate, err = gate.New(options); err != nil {
		return nil, err
	}
	clientKey, err := access.OpenKey(cfg.ClientKey())
	if err != nil {
		return nil, err
	}
	if u.access, err = u.openAccess(clientKey); err != nil {
		return nil, err
	}
	if cfg.TLS != nil {
		if u.tls, err = serverTLS(cfg.TLS); err != nil {
			return nil, err
		}
	}
	u.handler, err = proxy.New(proxy.Options{
		Gate: u.gate, Routes: proxyRoutes(cfg), Access: u.access, Metrics: s.pulls, Log: s.log,
		Key: clientKey, ManifestLimit: int64(cfg.Limits.Manifest),
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// close ends what is under way. Requests are over before.
func (u *setup) close(ctx context.Context) error {
	var err error
	if u.gate != nil {
		if err = u.gate.Close(ctx); err != nil {
			err = fmt.Errorf("some judgements were still under way: %w", err)
		}
	}
	for _, registry := range u.upstreams {
		registry.Close()
	}
	return err
}

func (u *setup) openRoute(r config.Route, t *trust) (gate.Route, error) {
	registry, err := openUpstream(u.config, r)
	if err != nil {
		return gate.Route{}, err
	}
	u.upstreams = append(u.upstreams, registry)

	limits := evidenceLimits(u.config)
	stores := []openpgp.Store{openpgp.Extension(func(ctx context.Context, repository oci.Reference, d digest.Digest) ([]byte, error) {
		from, err := registry.Repository(repository.Repository())
		if err != nil {
			return nil, err
		}
		return from.SignatureExtension(ctx, d)
	})}
	for _, base := range r.Lookaside {
		store, err := openpgp.NewLookaside(base, &http.Client{Timeout: time.Duration(u.config.Verdicts.Deadline)}, limits)
		if err != nil {
			return gate.Route{}, fmt.Errorf("the route %s: %w", r.Registry, err)
		}
		stores = append(stores, store)
	}
	// What clients hand to the gate lies beside the cache, a folder a registry.
	folder := filepath.Join(string(u.config.Data), "signatures", r.Registry)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return gate.Route{}, fmt.Errorf("making the folder of signatures: %w", err)
	}
	kept, err := openpgp.NewLookaside(fileURL(folder), nil, limits)
	if err != nil {
		return gate.Route{}, fmt.Errorf("the route %s: %w", r.Registry, err)
	}
	signatures := openpgp.New(t.openpgp, append(stores, kept), nil)
	return gate.Route{
		Registry: r.Registry, Upstream: registry,
		Collectors: []evidence.Collector{sigstore.New(t.sigstore), notation.New(t.notation), signatures, buildkit.New()},
		Signatures: gate.Signatures{Collector: signatures, Kept: kept},
	}, nil
}

func (u *setup) gateOptions(routes []gate.Route, t *trust) gate.Options {
	cfg := u.config
	o := gate.Options{
		Routes: routes, Judge: u.policy, Gathering: gathering(cfg),
		Trust: gate.Trust{Builders: t.builders, Sources: cfg.Trust.Sources, Roots: t.roots, Revision: t.revision},
		Lifetimes: gate.Lifetimes{
			Serve: time.Duration(cfg.Verdicts.Serve), Block: time.Duration(cfg.Verdicts.Block),
			Tag: time.Duration(cfg.Verdicts.Tag), Stale: time.Duration(cfg.Verdicts.Stale),
			Deadline: time.Duration(cfg.Verdicts.Deadline), Depth: cfg.Verdicts.Depth,
		},
		Limits: gate.Limits{Evidence: evidenceLimits(cfg), Config: maxConfig, Parents: maxParents, Nodes: maxImages, Judgements: cfg.Limits.Judgements},
	}
	if t.tags != nil {
		o.Source = t.tags
	}
	o.Packages = gate.Packages{Examine: cfg.Packages.Examine, Limits: packages.Limits{
		Bytes: int64(cfg.Packages.MaxSize), Duration: time.Duration(cfg.Packages.Timeout), Spool: cfg.Spool(),
	}}
	for _, p := range cfg.Platforms {
		// The configuration has been checked.
		if platform, err := config.ParsePlatform(p); err == nil {
			o.Platforms = append(o.Platforms, platform)
		}
	}
	return o
}

// gathering is what of the configuration decides, beside trust and what the gate is
// told anyway, which evidence is found.
func gathering(cfg *config.Config) string {
	var b strings.Builder
	for _, r := range cfg.Routes {
		fmt.Fprintf(&b, "%q %q %t %q %q %+v\n", r.Registry, r.Upstream, r.Insecure, r.CA, r.Lookaside, r.Credentials)
	}
	fmt.Fprintf(&b, "%+v %+v", cfg.Limits, cfg.Packages)
	return b.String()
}

func (u *setup) openAccess(key []byte) (*access.Access, error) {
	c := u.config.Clients
	o := access.Options{
		Htpasswd: string(c.Htpasswd), Anonymous: c.Anonymous, Writers: c.Push,
		Rate:    access.Rate{PerSecond: c.Rate.PerSecond, Burst: c.Rate.Burst},
		Recheck: time.Duration(c.Recheck), Stale: time.Duration(u.config.Verdicts.Stale),
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
	for i, r := range u.config.Routes {
		if r.Clients == "upstream" {
			o.Upstreams[r.Registry] = u.upstreams[i]
		}
	}
	var err error
	if o.Repository, err = proxy.Repositories(proxyRoutes(u.config)); err != nil {
		return nil, err
	}
	return access.New(o)
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
	o := policy.Options{
		Builtin: cfg.Policy.Builtin, Collections: cfg.Policy.Collections, Paths: config.PathNames(cfg.Policy.Paths),
		Data: config.PathNames(cfg.Policy.Data), DockerBuild: config.PathNames(cfg.Policy.DockerBuild),
	}
	for _, r := range cfg.Policy.Rules {
		o.Rules = append(o.Rules, r.Set())
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
