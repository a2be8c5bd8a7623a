// Package shipyard builds small images, signs them and publishes them in a
// real registry that runs in this process. The demonstration sails from it, and
// so do the tests.
//
// It makes evidence and never checks any: a mistake here must show as a
// verdict, not hide behind one.
package shipyard

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // by name in the configuration
	"github.com/sirupsen/logrus"
)

// Registry is a distribution registry on a loopback port, with its content in
// memory.
type Registry struct {
	Addr   string // host:port
	server *http.Server
}

// OpenRegistry starts a registry. wrap, when not nil, stands in front of its
// handler: to count, to slow down, to tamper.
func OpenRegistry(ctx context.Context, wrap func(http.Handler) http.Handler) (*Registry, error) {
	config := &configuration.Configuration{
		Storage: configuration.Storage{
			"inmemory": configuration.Parameters{},
			"delete":   configuration.Parameters{"enabled": true},
			"maintenance": configuration.Parameters{
				"uploadpurging": map[any]any{"enabled": false},
			},
		},
	}
	config.Log.Level = "panic"
	config.Log.AccessLog.Disabled = true
	config.HTTP.Secret = "not a secret: one process, one registry"
	// distribution logs through logrus' standard logger.
	logrus.SetOutput(io.Discard)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("opening a port for the registry: %w", err)
	}
	var handler http.Handler = handlers.NewApp(ctx, config)
	if wrap != nil {
		handler = wrap(handler)
	}
	r := &Registry{
		Addr: listener.Addr().String(),
		server: &http.Server{
			Handler: handler, ReadHeaderTimeout: 10 * time.Second,
			ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		},
	}
	go func() { _ = r.server.Serve(listener) }()
	return r, nil
}

// Close stops the registry at once, as a crash or an unplugged cable would.
func (r *Registry) Close() error { return r.server.Close() }
