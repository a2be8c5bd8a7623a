package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/oci"
)

// blob answers a pull of a config or a layer.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-blobs
func (h *Handler) blob(w http.ResponseWriter, r *http.Request, repository oci.Reference, call call) error {
	d, err := oci.ParseDigest(call.reference)
	if err != nil {
		return err
	}
	granted, err := h.gate.Blob(r.Context(), repository, d, call.client)
	if errors.As(err, new(*gate.BlockedError)) && r.Method == http.MethodHead {
		if _, refused := h.mayWrite(r, repository); refused == nil {
			// Clients that push look first, and give up on any answer but yes and no.
			return fmt.Errorf("%s is withheld: %w", d, oci.ErrNotFound)
		}
	}
	if err != nil {
		return err
	}
	header := w.Header()
	header["Content-Type"] = []string{"application/octet-stream"}
	header["Docker-Content-Digest"] = []string{d.String()}
	header["Etag"] = []string{`"` + d.String() + `"`}
	header["Accept-Ranges"] = []string{"bytes"}
	if matchesETag(r.Header.Values("If-None-Match"), d) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if r.Method == http.MethodHead {
		header["Content-Length"] = []string{strconv.FormatInt(granted.Descriptor.Size, 10)}
		w.WriteHeader(http.StatusOK)
		return nil
	}

	blob, err := granted.Open(r.Context())
	if err != nil {
		return err
	}
	defer blob.Close()
	if !blob.Complete() && r.Header.Get("Range") != "" {
		// A part is served only of a whole that has been hashed.
		if err := blob.Wait(r.Context()); err != nil {
			return err
		}
	}
	if content := blob.Content(); content != nil && r.Header["Range"] == nil && r.Header["If-Match"] == nil {
		writeBody(w, r, http.StatusOK, content)
		return nil
	}
	if blob.Complete() {
		http.ServeContent(w, r, "", time.Time{}, blob)
		return nil
	}
	return h.stream(w, r, blob)
}

// stream writes a blob while it is being filled. The cache holds the end back
// until the digest has been checked, so an answer that must fail is cut short
// and never looks whole. Before anything was sent it can still be told why.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, blob *cache.Blob) error {
	w.Header()["Content-Length"] = []string{strconv.FormatInt(blob.Size(), 10)}
	if n, err := blob.SendTo(w); err != nil {
		if n == 0 && r.Context().Err() == nil && !started(w) {
			return err
		}
		if r.Context().Err() == nil && !errors.Is(err, io.ErrClosedPipe) {
			h.log.Warn("a blob was cut short", zap.String("path", r.URL.Path), zap.Error(err))
		}
		panic(http.ErrAbortHandler)
	}
	return nil
}

// started says whether an answer has begun, on this side at least.
func started(w http.ResponseWriter) bool {
	a, ok := w.(*answer)
	return !ok || a.status != 0
}
