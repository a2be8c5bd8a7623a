package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"syscall"

	"go.uber.org/zap"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/upstream"
)

// Error codes; there are no others.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes
const (
	codeBlobUnknown         = "BLOB_UNKNOWN"
	codeUploadInvalid       = "BLOB_UPLOAD_INVALID"
	codeUploadUnknown       = "BLOB_UPLOAD_UNKNOWN"
	codeDenied              = "DENIED"
	codeDigestInvalid       = "DIGEST_INVALID"
	codeManifestInvalid     = "MANIFEST_INVALID"
	codeManifestUnknown     = "MANIFEST_UNKNOWN"
	codeManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	codeNameInvalid         = "NAME_INVALID"
	codeNameUnknown         = "NAME_UNKNOWN"
	codeSizeInvalid         = "SIZE_INVALID"
	codeTooManyRequests     = "TOOMANYREQUESTS"
	codeUnauthorized        = "UNAUTHORIZED"
	codeUnsupported         = "UNSUPPORTED"
)

// retryAfter is how many seconds a client is asked to wait for an upstream.
const retryAfter = "5"

// fail turns an error of the gate into the answer that keeps a client from
// looking elsewhere where it should not, and that tells a person what to do.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, call call, err error) {
	var blocked *gate.BlockedError
	unknown := codeManifestUnknown
	switch call.operation {
	case opBlob:
		unknown = codeBlobUnknown
	case opTags:
		unknown = codeNameUnknown
	case opUpload:
		unknown = codeUploadUnknown
	}
	if turnedAway(w, r, err) || h.failedPush(w, r, call, err) {
		return
	}
	switch message := oneLine(err.Error()); {
	case errors.As(err, &blocked):
		refuse(w, r, blocked.Admission)
	case errors.Is(err, errNoSuchCall):
		writeError(w, r, http.StatusNotFound, codeUnsupported, message, "")
	case errors.Is(err, errBadRequest):
		writeError(w, r, http.StatusBadRequest, codeNameInvalid, message, "")
	case errors.Is(err, oci.ErrDigest):
		writeError(w, r, http.StatusBadRequest, codeDigestInvalid, message, "")
	case errors.Is(err, oci.ErrReference):
		writeError(w, r, http.StatusBadRequest, codeNameInvalid, message, "")
	case errors.Is(err, gate.ErrUnknownRegistry):
		writeError(w, r, http.StatusNotFound, codeNameUnknown, message, "")
	case errors.Is(err, oci.ErrSchema1), errors.Is(err, gate.ErrSignature):
		writeError(w, r, http.StatusForbidden, codeDenied, message, "")
	case errors.Is(err, errNotAccepted):
		writeError(w, r, http.StatusNotFound, codeManifestUnknown, message+"; send it in Accept", "")
	case errors.Is(err, oci.ErrManifest), errors.Is(err, cache.ErrDigest), errors.Is(err, cache.ErrLength):
		writeError(w, r, http.StatusBadGateway, codeManifestInvalid, message, "")
	case errors.Is(err, oci.ErrNotFound):
		writeError(w, r, http.StatusNotFound, unknown, message, "")
	case errors.Is(err, upstream.ErrUnauthorized):
		writeError(w, r, http.StatusForbidden, codeDenied, message, "")
	case errors.Is(err, upstream.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, cache.ErrStalled),
		errors.Is(err, gate.ErrClosed), errors.Is(err, cache.ErrClosed), r.Context().Err() != nil:
		// A client that has hung up gets an answer too: without one, net/http
		// would say 200 to whoever has closed only its sending half.
		w.Header().Set("Retry-After", retryAfter)
		writeError(w, r, http.StatusServiceUnavailable, codeDenied, "not served, because it cannot be judged now: "+message, "")
	case errors.Is(err, ledger.ErrUnusable):
		h.log.Error("the ledger cannot be used; what needs a new verdict is refused", zap.String("path", r.URL.Path), zap.Error(err))
		w.Header().Set("Retry-After", retryAfter)
		writeError(w, r, http.StatusServiceUnavailable, codeDenied, "not served, because the gate cannot use its ledger; its log says what to do", "")
	case isDiskTrouble(err):
		h.log.Error("the gate's disk cannot be used; what is not in the cache is refused", zap.String("path", r.URL.Path), zap.Error(err))
		w.Header().Set("Retry-After", retryAfter)
		writeError(w, r, http.StatusServiceUnavailable, codeDenied, "not served, because the gate's disk is full or cannot be written; its log says more", "")
	default:
		h.log.Error("request failed", zap.String("path", r.URL.Path), zap.Error(err))
		writeError(w, r, http.StatusInternalServerError, codeDenied, "not served, because the gate failed; its log says why", "")
	}
}

// isDiskTrouble says whether the disk of the cache is full, read-only or
// failing: an operator mends that, and the same pull works then.
func isDiskTrouble(err error) bool {
	for _, trouble := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO} {
		if errors.Is(err, trouble) {
			return true
		}
	}
	return false
}

// writeError writes the error document of the distribution API. detail is a
// short string or empty: clients drop anything else.
func writeError(w http.ResponseWriter, r *http.Request, status int, code, message, detail string) {
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  string `json:"detail,omitempty"`
	}
	raw, err := json.Marshal(struct {
		Errors []one `json:"errors"`
	}{[]one{{code, message, detail}}})
	if err != nil {
		status, raw = http.StatusInternalServerError, nil
	}
	header := w.Header()
	for _, stale := range []string{"Etag", "Docker-Content-Digest", "Accept-Ranges"} {
		header.Del(stale)
	}
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	writeBody(w, r, status, raw)
}

func writeBody(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that hangs up is no error of ours
	}
}
