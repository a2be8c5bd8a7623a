package proxy

import (
	"errors"
	"net/http"

	"github.com/trustgate/trustgate/access"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/upstream"
)

// client says who asks, and whether they may at all. It comes before every
// question about the image itself.
func (h *Handler) client(r *http.Request, repository oci.Reference, call call) (policy.Client, error) {
	if changes(r.Method, call) {
		return h.mayWrite(r, repository)
	}
	wanted := upstream.Object{Kind: "manifests", Name: call.reference}
	switch call.operation {
	case opBlob:
		wanted.Kind = "blobs"
	case opTags, opReferrers, opSignatures:
		// What is said of a manifest is for whoever may list the repository: an
		// evidence's subject need not be there.
		wanted = upstream.Object{Kind: "tags", Name: "list"}
	}
	return h.access.MayPull(r, repository, wanted)
}

// mayWrite decides whether this request may change the repository, and is the
// only place that does.
func (h *Handler) mayWrite(r *http.Request, repository oci.Reference) (policy.Client, error) {
	if r.Header.Get("Origin") != "" {
		return policy.Client{}, errBrowser
	}
	switch h.routes.push[repository.Registry()] {
	case PushPass, PushJudge:
		return h.access.MayPush(r, repository)
	}
	return policy.Client{}, errReadOnly
}

// turnedAway answers a client that may not ask, or not now, whatever it asks
// for.
func turnedAway(w http.ResponseWriter, r *http.Request, err error) bool {
	var (
		challenge *access.Challenge
		many      *access.TooManyError
	)
	switch message := oneLine(err.Error()); {
	case errors.As(err, &challenge):
		w.Header().Set("WWW-Authenticate", challenge.Header)
		writeError(w, r, http.StatusUnauthorized, codeUnauthorized, message, "")
	case errors.As(err, &many):
		w.Header().Set("Retry-After", many.RetryAfter())
		writeError(w, r, http.StatusTooManyRequests, codeTooManyRequests, message, "")
	case errors.Is(err, gate.ErrBusy):
		w.Header().Set("Retry-After", retryAfter)
		writeError(w, r, http.StatusTooManyRequests, codeTooManyRequests, message+"; try again", "")
	case errors.Is(err, access.ErrDenied):
		writeError(w, r, http.StatusForbidden, codeDenied, message, "")
	default:
		return false
	}
	return true
}
