package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/trustgate/trustgate/access"
	"github.com/trustgate/trustgate/api"
	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/internal/headroom"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/proxy"
)

func newServe() *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the gate",
		Long: `Run the gate until it is stopped with SIGINT or SIGTERM. Pulls that are under way
then have 30 seconds to finish. On SIGHUP, and when a file of the configuration
changes, it reads the configuration, keys and rules again: pulls that are under way
end as they began, and what is broken never replaces what works.

Without a configuration it listens on 127.0.0.1:5000, knows the large public
registries, keeps its data below the user's data folder, and annotates. Write
'trustgate config default' to a file to start a configuration of your own.`,
		Example: `  trustgate serve
  trustgate serve --config /etc/trustgate/trustgate.yaml
  TRUSTGATE_LISTEN=:5000 trustgate serve`,
		Args: cobra.NoArgs,
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		headroom.Keep()
		cfg, err := loadConfig(c)
		if err != nil {
			return err
		}
		admin, err := listenBefore(c.Context(), cfg)
		if err != nil {
			return err
		}
		s, err := assemble(c.Context(), cfg, c.ErrOrStderr())
		if err != nil {
			return errors.Join(err, admin.close())
		}
		s.admin = admin.handOver()
		served := s.listenAndServe(c.Context(), func() (*config.Config, error) { return config.Load(cfg.File, os.Environ()) })
		return errors.Join(served, s.close())
	}
	return c
}

func (s *service) listenAndServe(ctx context.Context, load func() (*config.Config, error)) error {
	public, err := net.Listen("tcp", s.config.Listen)
	if err != nil {
		return fmt.Errorf("listening for pulls: %w", err)
	}
	admin := s.admin
	if s.config.Admin != "" && admin == nil {
		if admin, err = net.Listen("tcp", s.config.Admin); err != nil {
			public.Close()
			return fmt.Errorf("listening for administration: %w", err)
		}
	}
	return s.serve(ctx, public, admin, load)
}

// serve answers on the listeners until ctx ends, and then lets requests that
// are under way finish. admin may be nil; without load the configuration stays as
// it is.
func (s *service) serve(ctx context.Context, public, admin net.Listener, load func() (*config.Config, error)) error {
	var ready atomic.Bool
	serving, changes := new(live), newReloads(s.metrics)
	serving.current.Store(s.use(s.setup))
	s.metrics.MustRegister(exceptionStates{serving})
	servers := []*http.Server{s.publicServer(ctx, serving)}
	connections := &proxy.Connections{Limit: s.config.Limits.Connections}
	listeners := []net.Listener{connections.Attach(servers[0], public)}
	if admin != nil {
		servers = append(servers, s.adminServer(serving, &ready, changes))
		listeners = append(listeners, admin)
	}

	var running errgroup.Group
	stopped, stop := context.WithCancel(ctx)
	defer stop()
	for i, server := range servers {
		running.Go(func() error {
			defer stop() // one that fails takes the other with it
			var err error
			if server.TLSConfig != nil {
				err = server.ServeTLS(listeners[i], "", "")
			} else {
				err = server.Serve(listeners[i])
			}
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			return err
		})
	}
	running.Go(func() error {
		s.cache.Maintain(stopped)
		return nil
	})
	if load != nil {
		running.Go(func() error {
			s.keepUp(stopped, serving, changes, load)
			return nil
		})
	}
	ready.Store(true)
	fields := []zap.Field{
		zap.Stringer("listen", public.Addr()), zap.Bool("tls", s.config.TLS != nil), zap.String("policy", s.policy.Revision()),
		zap.Int("routes", len(s.config.Routes)), zap.String("version", readBuildInfo().Version),
	}
	if admin != nil {
		fields = append(fields, zap.Stringer("admin", admin.Addr()))
	}
	s.log.Info("serving", fields...)

	<-stopped.Done()
	ready.Store(false)
	s.log.Info("stopping")
	finishing, cancel := context.WithTimeout(context.Background(), closing)
	defer cancel()
	for _, server := range servers {
		if err := server.Shutdown(finishing); err != nil {
			s.log.Warn("some requests did not finish in time", zap.Error(err))
			server.Close()
		}
	}
	err := running.Wait()
	if !serving.end(closing) {
		s.log.Warn("a setup from before a reload did not end in time")
	}
	s.setup = serving.current.Load().setup // which s.close ends
	return err
}

func (s *service) publicServer(ctx context.Context, serving *live) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		// The handler sees the path as it was sent; a mux would clean it and
		// redirect.
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			one := serving.borrow()
			defer one.giveBack()
			one.public.ServeHTTP(w, r)
		}),
		Protocols:         protocols,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute, // pushes extend it for as long as they come steadily
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          zap.NewStdLog(s.log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))),
		BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	if s.tls != nil {
		server.TLSConfig = s.tls.Clone()
		server.TLSConfig.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return serving.current.Load().tls, nil
		}
	}
	return server
}

// publicHandler answers those who pull.
func (s *service) publicHandler(u *setup) http.Handler {
	documents := api.HTTP{API: api.API{Gate: u.gate, Ledger: s.ledger}, Access: u.access, Log: s.log}.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, api.Prefix):
			documents.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, access.TokenPath):
			u.access.ServeHTTP(w, r)
		default:
			u.handler.ServeHTTP(w, r)
		}
	})
}

// operatorHandler is the JSON API for operators.
func (s *service) operatorHandler(u *setup) http.Handler {
	return api.HTTP{API: api.API{Gate: u.gate, Ledger: s.ledger}, Operator: true, Log: s.log}.Handler()
}

// serverTLS loads the certificate anew for each handshake that comes later than
// a minute after the last load, so that a renewed one needs no restart.
func serverTLS(c *config.TLS) (*tls.Config, error) {
	certificate := &renewing{cert: string(c.Cert), key: string(c.Key)}
	if _, err := certificate.get(nil); err != nil {
		return nil, fmt.Errorf("loading the TLS certificate: %w", err)
	}
	setup := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate.get, NextProtos: []string{"h2", "http/1.1"}}
	if c.ClientCA != "" {
		raw, err := readKeyFile(string(c.ClientCA))
		if err != nil {
			return nil, fmt.Errorf("reading the CA of clients: %w", err)
		}
		setup.ClientCAs = x509.NewCertPool()
		if !setup.ClientCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("there is no certificate in %s", c.ClientCA)
		}
		setup.ClientAuth = tls.RequireAndVerifyClientCert
		if c.ClientCert == "optional" {
			setup.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	return setup, nil
}

type renewing struct {
	cert, key string
	held      atomic.Pointer[loaded]
}

type loaded struct {
	certificate tls.Certificate
	at          time.Time
}

func (r *renewing) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	held := r.held.Load()
	if held != nil && time.Since(held.at) < time.Minute {
		return &held.certificate, nil
	}
	certificate, err := tls.LoadX509KeyPair(r.cert, r.key)
	if err != nil {
		if held == nil {
			return nil, err
		}
		// Half-written files of a renewal: the old one is good until it expires.
		certificate = held.certificate
	}
	held = &loaded{certificate, time.Now()}
	r.held.Store(held)
	return &held.certificate, nil
}

// adminServer is for operators: it must not be reachable by those who pull.
func (s *service) adminServer(serving *live, ready *atomic.Bool, changes *reloads) *http.Server {
	s.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{Registry: s.metrics}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.ready(r.Context(), ready); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		if trouble := s.remote.trouble(); trouble != "" {
			fmt.Fprintln(w, "ok, but what the policy's server has is not in force:", trouble)
			return
		}
		if broken := changes.broken.Load(); broken != nil {
			// What works goes on working: no reason to send pulls elsewhere.
			fmt.Fprintln(w, "ok, but the configuration on disk is not in force:", *broken)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc(api.Prefix, func(w http.ResponseWriter, r *http.Request) {
		one := serving.borrow()
		defer one.giveBack()
		one.operators.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: zap.NewStdLog(s.log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))),
	}
}

// ready says whether pulls can be judged now. Upstreams do not count: what was
// judged before stays pullable without them.
func (s *service) ready(ctx context.Context, ready *atomic.Bool) error {
	if !ready.Load() {
		return errStopping
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := s.ledger.Get(ctx, "readyz"); err != nil && !errors.Is(err, oci.ErrNotFound) {
		return fmt.Errorf("the ledger: %w", err)
	}
	return nil
}
