// Package proxy speaks the OCI distribution API to container clients.
//
// It finds out which image a request means, asks the gate, and writes the
// answer down in the way that lets most clients show it to a person. It holds
// no trust logic, and it never writes a byte of content that the gate did not
// hand to it.
package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/access"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/upstream"
)

// Gate is what the proxy asks.
type Gate interface {
	Admit(ctx context.Context, req gate.Request) (*gate.Admission, error)
	Blob(ctx context.Context, repository oci.Reference, d digest.Digest, client policy.Client) (*gate.Blob, error)
	Tags(ctx context.Context, repository oci.Reference, n int, last string) ([]string, error)
	Referrers(ctx context.Context, repository oci.Reference, d digest.Digest, artifactType string) ([]oci.Descriptor, error)
	Signatures(ctx context.Context, repository oci.Reference, d digest.Digest) ([][]byte, error)
	AddSignature(ctx context.Context, repository oci.Reference, d digest.Digest, signature []byte) error
	Pushes
}

// Options are a proxy's parts.
type Options struct {
	Gate    Gate
	Routes  []Route
	Access  *access.Access // nil lets everybody
	Metrics *Metrics       // nil counts nothing
	Log     *zap.Logger

	Key           []byte           // seals uploads that are under way; nil makes one
	ManifestLimit int64            // bytes of a manifest that is pushed; upstream.DefaultManifestLimit when zero
	Now           func() time.Time // nil means time.Now
}

// Handler answers the registry API below /v2/.
type Handler struct {
	gate    Gate
	routes  routes
	access  *access.Access
	metrics *Metrics
	log     *zap.Logger

	uploads       *sealer
	manifestLimit int64
	now           func() time.Time
}

// New makes a handler.
func New(options Options) (*Handler, error) {
	routes, err := newRoutes(options.Routes)
	if err != nil {
		return nil, err
	}
	if options.Log == nil {
		options.Log = zap.NewNop()
	}
	uploads, err := newSealer(options.Key)
	if err != nil {
		return nil, err
	}
	if options.ManifestLimit <= 0 {
		options.ManifestLimit = upstream.DefaultManifestLimit
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	return &Handler{
		gate: options.Gate, routes: routes, access: options.Access, metrics: options.Metrics, log: options.Log,
		uploads: uploads, manifestLimit: options.ManifestLimit, now: options.Now,
	}, nil
}

// ServeHTTP implements http.Handler: parse, admit, answer.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	answer := &answer{ResponseWriter: w}
	call, err := parse(r.URL)
	if err == nil {
		err = h.access.Limit(r)
	}
	defer func() { // also of an answer that is cut short by a panic
		h.metrics.observe(call.operation, answer.status, time.Since(started))
		if said := h.log.Check(zap.DebugLevel, "request"); said != nil {
			said.Write(zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Int("status", answer.status),
				zap.String("client", r.RemoteAddr), zap.Duration("took", time.Since(started)))
		}
	}()
	switch {
	case err != nil:
		h.fail(answer, r, call, err)
	case call.operation == opBase:
		h.base(answer, r)
	default:
		h.serve(answer, r, call)
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, call call) {
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	adds := r.Method == http.MethodPut && call.operation == opSignatures
	writes := changes(r.Method, call)
	if reads = reads && call.operation != opUpload; !(reads || adds || writes) || (writes && !h.routes.takesPushes) {
		h.fail(w, r, call, errReadOnly)
		return
	}
	repository, err := h.routes.repository(r, call.name)
	if err != nil {
		h.fail(w, r, call, err)
		return
	}
	if r.URL.RawQuery != "" && r.URL.Query().Get("ns") != "" {
		// https://github.com/opencontainers/distribution-spec/blob/main/spec.md#registry-proxying
		w.Header().Set("OCI-Namespace", repository.Registry())
	}
	if call.client, err = h.client(r, repository, call); err != nil {
		h.fail(w, r, call, err)
		return
	}
	switch {
	case writes:
		err = h.push(w, r, repository, call)
	case call.operation == opManifest:
		err = h.manifest(w, r, repository, call)
	case call.operation == opBlob:
		err = h.blob(w, r, repository, call)
	case call.operation == opTags:
		err = h.tags(w, r, repository, call.name)
	case call.operation == opReferrers:
		err = h.referrers(w, r, repository, call.reference)
	case call.operation == opSignatures:
		err = h.signatures(w, r, repository, call.reference)
	}
	if err != nil {
		h.fail(w, r, call, err)
	}
}

// base is the API version check that every client starts with.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#determining-support
func (h *Handler) base(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeError(w, r, http.StatusMethodNotAllowed, codeUnsupported, "only GET and HEAD", "")
		return
	}
	if err := h.access.Enter(r); err != nil {
		h.fail(w, r, call{operation: opBase}, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Registry-Supports-Signatures", "1")
	writeBody(w, r, http.StatusOK, []byte("{}"))
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// answer remembers the status for the metrics.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(p)
}

// ReadFrom hands a file on as one, which the connection sends by itself.
func (a *answer) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(a.ResponseWriter, src)
	if a.status == 0 && (n > 0 || err == nil) { // else it can still become another answer
		a.status = http.StatusOK
	}
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

var errNotAccepted = errors.New("the client accepts no such media type")
