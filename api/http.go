package api

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/trustgate/trustgate/access"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policies"
	"github.com/trustgate/trustgate/upstream"
)

// Prefix is what the paths of this API begin with.
const Prefix = "/api/v1/"

const (
	defaultList = 50   // verdicts
	longestList = 1000 // verdicts
)

//go:embed openapi.json
var openAPI []byte

// HTTP says who is to be answered.
type HTTP struct {
	API
	// Access says who may ask: judging an image for somebody is like a pull. nil
	// lets everybody.
	Access *access.Access
	// Operator adds what is not for those who pull: past verdicts with who
	// pulled under them, and judging anew.
	Operator bool
	Log      *zap.Logger
}

// Handler answers GET and HEAD of what is below Prefix.
func (h HTTP) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, allowed []string, answer func(context.Context, *http.Request) (any, error)) {
		mux.HandleFunc("GET "+Prefix+path, func(w http.ResponseWriter, r *http.Request) {
			query, err := url.ParseQuery(r.URL.RawQuery)
			if tooMany := h.Access.Limit(r); tooMany != nil {
				h.fail(w, r, tooMany)
				return
			}
			for name := range query {
				if !slices.Contains(allowed, name) {
					err = fmt.Errorf("there is no parameter %q here (known: %s)", name, strings.Join(allowed, ", "))
				}
			}
			if err != nil {
				h.fail(w, r, fmt.Errorf("%w: %w", errQuestion, err))
				return
			}
			document, err := answer(r.Context(), r)
			if err != nil {
				h.fail(w, r, err)
				return
			}
			write(w, http.StatusOK, document)
		})
	}
	one := []string{"image"}
	if h.Operator {
		one = append(one, "fresh")
		handle("verdicts", []string{"image", "action", "since", "before", "limit"}, h.verdicts)
		handle("verdicts/{decision}", nil, func(ctx context.Context, r *http.Request) (any, error) {
			return h.Verdict(ctx, r.PathValue("decision"))
		})
	}
	handle("image", one, func(ctx context.Context, r *http.Request) (any, error) { return h.image(ctx, r) })
	handle("source", append(one, "packages"), h.source)
	for name, document := range map[string][]byte{"openapi.json": openAPI, "input.schema.json": policies.InputSchema} {
		mux.HandleFunc("GET "+Prefix+name, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(document) // a client that hangs up is no error of ours
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			write(w, http.StatusMethodNotAllowed, failure{"only GET and HEAD"})
			return
		}
		h.fail(w, r, fmt.Errorf("%s: %w; %sopenapi.json says what there is", clip(r.URL.Path), oci.ErrNotFound, Prefix))
	})
	return mux
}

var errQuestion = errors.New("bad request")

func (h HTTP) image(ctx context.Context, r *http.Request) (*Image, error) {
	query := r.URL.Query()
	ref, err := oci.ParseReference(query.Get("image"))
	if err != nil {
		return nil, err
	}
	if ref.Tag() == "" && ref.Digest() == "" {
		if ref, err = ref.WithTag("latest"); err != nil {
			return nil, err
		}
	}
	fresh, err := flag(query, "fresh")
	if err != nil {
		return nil, err
	}
	client, err := h.Access.MayPull(r, ref, upstream.Object{Kind: "manifests", Name: cmp.Or(string(ref.Digest()), ref.Tag())})
	if err != nil {
		return nil, err
	}
	// The input shows no other client: what the rules read of one is part of
	// the verdict's key, and the rest is never recorded.
	image, err := h.Image(ctx, gate.Request{Reference: ref, Client: client, Fresh: fresh})
	if err == nil && !h.Operator {
		h.withhold(r, ref, image)
	}
	return image, err
}

func (h HTTP) source(ctx context.Context, r *http.Request) (any, error) {
	inside, err := flag(r.URL.Query(), "packages")
	if err != nil {
		return nil, err
	}
	image, err := h.image(ctx, r)
	if err != nil {
		return nil, err
	}
	return h.Sources(ctx, image, inside)
}

func (h HTTP) verdicts(ctx context.Context, r *http.Request) (any, error) {
	query := r.URL.Query()
	filter, err := ParseFilter(query.Get("image"), query.Get("action"), query.Get("since"), time.Now())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errQuestion, err)
	}
	filter.Before, filter.Limit = query.Get("before"), defaultList
	if limit := query.Get("limit"); limit != "" {
		if filter.Limit, err = strconv.Atoi(limit); err != nil || filter.Limit < 1 || filter.Limit > longestList {
			return nil, fmt.Errorf("%w: limit is %q; it must be a number from 1 to %d", errQuestion, clip(limit), longestList)
		}
	}
	return h.Verdicts(ctx, filter)
}

func flag(query url.Values, name string) (bool, error) {
	switch text := query.Get(name); text {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, fmt.Errorf("%w: %s is %q; it must be true or false", errQuestion, name, clip(text))
	}
}

// failure is the document of an answer that is no success.
type failure struct {
	Error string `json:"error"` // one line for a person
}

func (h HTTP) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	var (
		challenge *access.Challenge
		many      *access.TooManyError
	)
	switch {
	case errors.As(err, &challenge):
		w.Header().Set("WWW-Authenticate", challenge.Header)
		status = http.StatusUnauthorized
	case errors.As(err, &many):
		w.Header().Set("Retry-After", many.RetryAfter())
		status = http.StatusTooManyRequests
	case errors.Is(err, gate.ErrBusy):
		w.Header().Set("Retry-After", "5")
		status = http.StatusTooManyRequests
	case errors.Is(err, errQuestion), errors.Is(err, oci.ErrReference), errors.Is(err, oci.ErrDigest):
		status = http.StatusBadRequest
	case errors.Is(err, gate.ErrUnknownRegistry), errors.Is(err, oci.ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, upstream.ErrUnauthorized), errors.Is(err, access.ErrDenied):
		status = http.StatusForbidden
	case errors.Is(err, oci.ErrManifest), errors.Is(err, oci.ErrSchema1):
		status = http.StatusBadGateway
	case errors.Is(err, upstream.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, gate.ErrClosed), r.Context().Err() != nil:
		w.Header().Set("Retry-After", "5")
		status = http.StatusServiceUnavailable
	}
	message := strings.Join(strings.Fields(err.Error()), " ")
	if status == http.StatusInternalServerError {
		h.Log.Error("request failed", zap.String("path", r.URL.Path), zap.Error(err))
		message = "the gate failed; its log says why"
	}
	write(w, status, failure{message})
}

func write(w http.ResponseWriter, status int, document any) {
	raw, err := json.Marshal(document)
	if err != nil {
		status, raw = http.StatusInternalServerError, []byte(`{"error":"the gate failed"}`)
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(status)
	_, _ = w.Write(raw) // a client that hangs up is no error of ours; net/http drops it for HEAD
}

func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}
