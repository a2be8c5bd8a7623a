package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/upstream"
)

// Pushes is what the proxy asks for requests that change something.
type Pushes interface {
	Push(ctx context.Context, p gate.Push) (*gate.Pushed, error)
	Uploads(repository oci.Reference) (*upstream.Repository, error)
	Arrived(repository oci.Reference, d digest.Digest, size int64, client policy.Client)
	Delete(ctx context.Context, ref oci.Reference) error
	DeleteBlob(ctx context.Context, repository oci.Reference, d digest.Digest) error
}

// PushMode says what becomes of pushes and deletes on a route.
type PushMode string

// The modes.
const (
	PushDeny  PushMode = "deny"  // they are refused; so is what is none of these
	PushPass  PushMode = "pass"  // they go to the upstream
	PushJudge PushMode = "judge" // a manifest does only if it could be pulled
)

var (
	errReadOnly = errors.New("this gate is for pulling; push to the registry behind it")
	// errBrowser keeps web pages from pushing to a gate on the machine of whoever
	// looks at them. Browsers say where a request that changes something comes
	// from, even where the page has the gate's own name.
	errBrowser  = errors.New("a browser does not push")
	errTooLarge = errors.New("too large")
	errDiffers  = errors.New("the blob does not hash to its digest")
)

// changes says whether the request is one of those that change something.
func changes(method string, call call) bool {
	switch call.operation {
	case opUpload:
		if call.reference == "" {
			return method == http.MethodPost
		}
		return method == http.MethodPatch || method == http.MethodPut || method == http.MethodGet || method == http.MethodDelete
	case opManifest:
		return method == http.MethodPut || method == http.MethodDelete
	case opBlob:
		return method == http.MethodDelete
	}
	return false
}

// push answers a request that changes something.
func (h *Handler) push(w http.ResponseWriter, r *http.Request, repository oci.Reference, call call) error {
	switch {
	case call.operation == opManifest && r.Method == http.MethodPut:
		return h.putManifest(w, r, repository, call)
	case call.operation == opManifest:
		ref, err := pulled(repository, call.reference)
		if err != nil {
			return err
		}
		if err := h.gate.Delete(r.Context(), ref); err != nil {
			return err
		}
		h.log.Info("deleted", zap.Stringer("reference", ref), zap.String("client", call.client.Address))
		writeBody(w, r, http.StatusAccepted, nil)
		return nil
	case call.operation == opBlob:
		d, err := oci.ParseDigest(call.reference)
		if err != nil {
			return err
		}
		if err := h.gate.DeleteBlob(r.Context(), repository, d); err != nil {
			return err
		}
		writeBody(w, r, http.StatusAccepted, nil)
		return nil
	}
	up, err := h.gate.Uploads(repository)
	if err != nil {
		return err
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return fmt.Errorf("%w: the query: %v", errBadRequest, err)
	}
	u := &upload{Handler: h, up: up, repository: repository, call: call, query: query}
	if call.reference == "" {
		return u.begin(w, r)
	}
	if u.session, err = h.uploads.open(repository, call.reference, query.Get(sessionParameter), h.now()); err != nil {
		return err
	}
	switch r.Method {
	case http.MethodPatch:
		return u.chunk(w, r)
	case http.MethodPut:
		return u.finish(w, r)
	case http.MethodDelete:
		if err := up.CancelUpload(r.Context(), u.session.Location); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return u.status(w, r)
}

// maxTagParameters bounds how many tags one manifest is pushed under at once.
const maxTagParameters = 10

// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pushing-manifests
func (h *Handler) putManifest(w http.ResponseWriter, r *http.Request, repository oci.Reference, call call) error {
	ref, err := pulled(repository, call.reference)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(io.LimitReader(newSteadyBody(w, r), h.manifestLimit+1))
	switch {
	case err != nil:
		return fmt.Errorf("%w: the manifest did not arrive: %v", errBadRequest, err)
	case int64(len(raw)) > h.manifestLimit:
		return fmt.Errorf("%w: the manifest has more than the %d bytes that limits.manifest allows", errTooLarge, h.manifestLimit)
	}
	p := gate.Push{
		Reference: ref, MediaType: r.Header.Get("Content-Type"), Raw: raw, Client: call.client,
		Judge: h.routes.push[repository.Registry()] == PushJudge,
	}
	if ref.Digest() != "" {
		if p.Tags = r.URL.Query()["tag"]; len(p.Tags) > maxTagParameters {
			return fmt.Errorf("%w: more than %d tags", errBadRequest, maxTagParameters)
		}
	}
	pushed, err := h.gate.Push(r.Context(), p)
	if err != nil {
		return err
	}
	header := w.Header()
	if pushed.Admission != nil {
		tell(header, pushed.Admission)
	}
	if pushed.Subject != "" {
		header.Set("OCI-Subject", pushed.Subject.String())
	}
	for _, tag := range pushed.Tags {
		header.Add("OCI-Tag", tag)
	}
	h.log.Info("pushed", zap.Stringer("reference", ref.WithDigest(pushed.Digest)), zap.String("client", p.Client.Address))
	header.Set("Docker-Content-Digest", pushed.Digest.String())
	header.Set("Location", location(call.name, "manifests", pushed.Digest.String(), r))
	writeBody(w, r, http.StatusCreated, nil)
	return nil
}

// sessionParameter carries a sealed session in the location of an upload.
const sessionParameter = "session"

// upload is one request of a blob upload.
type upload struct {
	*Handler
	up         *upstream.Repository
	repository oci.Reference
	call       call
	query      url.Values
	session    session
}

// begin starts an upload, mounts a blob, or takes a whole one.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#post-then-put
func (u *upload) begin(w http.ResponseWriter, r *http.Request) error {
	if mount := u.query.Get("mount"); mount != "" {
		if done, err := u.mount(w, r, mount); done || err != nil {
			return err
		}
	}
	begun, err := u.up.BeginUpload(r.Context())
	if err != nil {
		return err
	}
	u.session = session{ID: rand.Text(), Location: begun.Location}
	if u.query.Get("digest") != "" {
		// Not every registry takes a blob in one request, so it takes two.
		return u.finish(w, r)
	}
	return u.goOn(w, r, begun, http.StatusAccepted)
}

// mount has the upstream link a blob of another repository, if this client
// could have pulled it from there. Otherwise the client is to upload it, which
// shows that it has it.
func (u *upload) mount(w http.ResponseWriter, r *http.Request, mount string) (done bool, err error) {
	d, err := oci.ParseDigest(mount)
	if err != nil {
		return false, err
	}
	// The source is named as the target is. Without one, registries look
	// everywhere, also where this client may not.
	from, err := u.routes.repository(r, u.query.Get("from"))
	if err != nil || from.Registry() != u.repository.Registry() {
		return false, nil
	}
	blob, err := u.gate.Blob(r.Context(), from, d, u.call.client)
	if err != nil {
		return false, nil
	}
	mounted, begun, err := u.up.Mount(r.Context(), d, from.Repository())
	switch {
	case err != nil:
		return false, nil // some registries refuse what they cannot mount
	case mounted:
		u.arrived(w, r, d, blob.Descriptor.Size)
		return true, nil
	}
	u.session = session{ID: rand.Text(), Location: begun.Location}
	return true, u.goOn(w, r, begun, http.StatusAccepted)
}

// contentRange is a chunk's place in the blob, as the distribution
// specification writes it.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pushing-a-blob-in-chunks
var contentRange = regexp.MustCompile(`^([0-9]{1,18})-([0-9]{1,18})$`)

func (u *upload) part(w http.ResponseWriter, r *http.Request, want digest.Digest) (*content, upstream.Part, error) {
	part := upstream.Part{Length: r.ContentLength, Range: r.Header.Get("Content-Range")}
	c := &content{body: newSteadyBody(w, r), hash: u.session.hashOf(want), want: want}
	if part.Range != "" {
		match := contentRange.FindStringSubmatch(part.Range)
		if match == nil {
			return nil, part, fmt.Errorf("%w: the Content-Range is not of the form 0-1023", errBadRequest)
		}
		if match[1] != strconv.FormatInt(u.session.Bytes, 10) {
			c.hash = nil // the upstream says whether it wants that
		}
	}
	if r.ContentLength != 0 {
		part.Body = c
	} else {
		c.finished.Store(true)
	}
	return c, part, nil
}

func (u *upload) chunk(w http.ResponseWriter, r *http.Request) error {
	c, part, err := u.part(w, r, "")
	if err != nil {
		return err
	}
	begun, err := u.up.SendChunk(r.Context(), u.session.Location, part)
	if err != nil {
		return u.outOfStep(w, r, err)
	}
	if !c.finished.Load() {
		return fmt.Errorf("%w: it did not take all of the chunk", upstream.ErrUnavailable)
	}
	u.session = u.session.after(c, begun.Offset)
	u.session.Location = begun.Location
	return u.goOn(w, r, begun, http.StatusAccepted)
}

// outOfStep tells a client that sent the wrong chunk where to go on.
func (u *upload) outOfStep(w http.ResponseWriter, r *http.Request, err error) error {
	if !errors.Is(err, upstream.ErrRange) {
		return err
	}
	location, sealErr := u.location(r)
	if sealErr != nil {
		return sealErr
	}
	w.Header().Set("Location", location)
	if u.session.Bytes > 0 {
		w.Header().Set("Range", "0-"+strconv.FormatInt(u.session.Bytes-1, 10))
	}
	return err
}

func (u *upload) finish(w http.ResponseWriter, r *http.Request) error {
	d, err := oci.ParseDigest(u.query.Get("digest"))
	if err != nil {
		return err
	}
	c, part, err := u.part(w, r, d)
	if err != nil {
		return err
	}
	if part.Body == nil && c.hash != nil && digest.NewDigest(d.Algorithm(), c.hash) != d {
		c.differs.Store(true)
		err = errDiffers
	} else {
		err = u.up.FinishUpload(r.Context(), u.session.Location, d, part)
	}
	switch {
	case c.differs.Load():
		// Nothing good can come of it any more.
		if err := u.up.CancelUpload(r.Context(), u.session.Location); err != nil {
			u.log.Debug("an upload was not cancelled", zap.Stringer("repository", u.repository), zap.Error(err))
		}
		return fmt.Errorf("%w %s", errDiffers, d)
	case err != nil:
		return u.outOfStep(w, r, err)
	case !c.finished.Load():
		return fmt.Errorf("%w: it did not take all of the blob", upstream.ErrUnavailable)
	}
	size := int64(-1)
	if u.session.Bytes >= 0 {
		size = u.session.Bytes + c.passed.Load()
	}
	u.arrived(w, r, d, size)
	return nil
}

// arrived answers that the upstream has a blob.
func (u *upload) arrived(w http.ResponseWriter, r *http.Request, d digest.Digest, size int64) {
	if size >= 0 {
		u.gate.Arrived(u.repository, d, size, u.call.client)
	}
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Location", location(u.call.name, "blobs", d.String(), r))
	writeBody(w, r, http.StatusCreated, nil)
}

func (u *upload) status(w http.ResponseWriter, r *http.Request) error {
	begun, err := u.up.UploadStatus(r.Context(), u.session.Location)
	if err != nil {
		return err
	}
	if begun.Offset >= 0 && begun.Offset != u.session.Bytes {
		u.session.Bytes, u.session.Hash = begun.Offset, nil // a chunk was cut short
	}
	u.session.Location = begun.Location
	return u.goOn(w, r, begun, http.StatusNoContent)
}

// goOn answers where the upload goes on: here.
func (u *upload) goOn(w http.ResponseWriter, r *http.Request, begun upstream.Upload, status int) error {
	location, err := u.location(r)
	if err != nil {
		return err
	}
	header := w.Header()
	header.Set("Location", location)
	header.Set("Docker-Upload-UUID", u.session.ID)
	header.Set("Range", "0-"+strconv.FormatInt(max(u.session.Bytes-1, 0), 10))
	if begun.MinChunk > 0 {
		header.Set("OCI-Chunk-Min-Length", strconv.FormatInt(begun.MinChunk, 10))
	}
	if status != http.StatusNoContent {
		header.Set("Content-Length", "0")
	}
	w.WriteHeader(status)
	return nil
}

func (u *upload) location(r *http.Request) (string, error) {
	sealed, err := u.uploads.seal(u.repository, u.session, u.now())
	if err != nil {
		return "", err
	}
	query := url.Values{sessionParameter: {sealed}}
	if ns := r.URL.Query().Get("ns"); ns != "" {
		query.Set("ns", ns)
	}
	return "/v2/" + u.call.name + "/blobs/uploads/" + u.session.ID + "?" + query.Encode(), nil
}

// location is where the client finds what it has pushed.
func location(name, kind, reference string, r *http.Request) string {
	location := "/v2/" + name + "/" + kind + "/" + reference
	if ns := r.URL.Query().Get("ns"); ns != "" {
		location += "?" + url.Values{"ns": {ns}}.Encode()
	}
	return location
}

// knownCodes are those of the distribution API that an upstream's refusal of a
// push may pass on.
var knownCodes = []string{
	codeBlobUnknown, codeDigestInvalid, codeManifestInvalid, codeManifestUnknown, codeNameInvalid, codeNameUnknown, codeUnsupported,
	codeUploadInvalid, codeUploadUnknown, codeManifestBlobUnknown, codeSizeInvalid,
}

// failedPush answers the errors that only pushes meet, and says whether err is
// one of them.
func (h *Handler) failedPush(w http.ResponseWriter, r *http.Request, call call, err error) bool {
	var refused *upstream.RefusedError
	message := oneLine(err.Error())
	switch {
	case errors.Is(err, errReadOnly):
		w.Header().Set("Allow", "GET, HEAD")
		writeError(w, r, http.StatusMethodNotAllowed, codeUnsupported, message, "")
	case errors.Is(err, errBrowser):
		writeError(w, r, http.StatusForbidden, codeDenied, message, "")
	case errors.Is(err, errSession):
		writeError(w, r, http.StatusNotFound, codeUploadUnknown, message, "")
	case errors.Is(err, errTooLarge):
		writeError(w, r, http.StatusRequestEntityTooLarge, codeManifestInvalid, message, "")
	case errors.Is(err, errDiffers), errors.Is(err, gate.ErrPush) && errors.Is(err, cache.ErrDigest):
		writeError(w, r, http.StatusBadRequest, codeDigestInvalid, message, "")
	case errors.Is(err, gate.ErrPush):
		writeError(w, r, http.StatusBadRequest, codeManifestInvalid, message, "")
	case errors.Is(err, gate.ErrIncomplete):
		writeError(w, r, http.StatusBadRequest, codeManifestBlobUnknown, message, "")
	case errors.As(err, &refused):
		code := refused.Code
		if !slices.Contains(knownCodes, code) {
			code = map[operation]string{opManifest: codeManifestInvalid, opBlob: codeBlobUnknown, opUpload: codeUploadInvalid}[call.operation]
			switch {
			case refused.Status == http.StatusMethodNotAllowed:
				code = codeUnsupported
			case refused.Status == http.StatusNotFound && call.operation == opManifest:
				code = codeManifestUnknown
			case refused.Status == http.StatusNotFound && call.operation == opUpload:
				code = codeUploadUnknown
			}
		}
		writeError(w, r, refused.Status, code, message, "")
	case changes(r.Method, call) && errors.Is(err, upstream.ErrUnavailable):
		w.Header().Set("Retry-After", retryAfter)
		writeError(w, r, http.StatusServiceUnavailable, codeDenied, "not done: "+message, "")
	default:
		return false
	}
	return true
}
