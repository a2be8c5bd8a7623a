package proxy

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// manifest answers a pull by tag or digest.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests
func (h *Handler) manifest(w http.ResponseWriter, r *http.Request, repository oci.Reference, call call) error {
	ref, err := pulled(repository, call.reference)
	if err != nil {
		return err
	}
	admission, err := h.gate.Admit(r.Context(), gate.Request{Reference: ref, Client: call.client})
	if err != nil {
		return err
	}
	h.metrics.pulled(repository.Registry(), admission.Verdict.Action)
	if admission.Verdict.Blocked() {
		refuse(w, r, admission)
		return nil
	}
	m := admission.Manifest
	if !accepts(r.Header["Accept"], m.MediaType) {
		return fmt.Errorf("%s is an %s: %w", ref, m.MediaType, errNotAccepted)
	}
	header := w.Header()
	tell(header, admission)
	values := []string{m.MediaType, m.Digest.String(), `"` + m.Digest.String() + `"`}
	header["Content-Type"], header["Docker-Content-Digest"], header["Etag"] = values[:1:1], values[1:2:2], values[2:]
	if matchesETag(r.Header["If-None-Match"], m.Digest) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	writeBody(w, r, http.StatusOK, m.Raw)
	return nil
}

// pulled is the repository at the tag or digest of the path.
func pulled(repository oci.Reference, reference string) (oci.Reference, error) {
	if strings.Contains(reference, ":") {
		d, err := oci.ParseDigest(reference)
		if err != nil {
			return oci.Reference{}, err
		}
		return repository.WithDigest(d), nil
	}
	return repository.WithTag(reference)
}

// accepts says whether the client takes the media type. A client that does not
// say takes anything.
//
// https://www.rfc-editor.org/rfc/rfc9110#name-accept
func accepts(accept []string, mediaType string) bool {
	if len(accept) == 0 {
		return true
	}
	for _, value := range accept {
		for one := range strings.SplitSeq(value, ",") {
			if one = strings.TrimSpace(one); one == mediaType {
				return true
			}
			t, params, err := mime.ParseMediaType(one)
			if err != nil {
				continue
			}
			if q, err := strconv.ParseFloat(params["q"], 64); err == nil && q == 0 {
				continue
			}
			if t == mediaType || t == "*/*" || t == "application/*" {
				return true
			}
		}
	}
	return false
}

func matchesETag(ifNoneMatch []string, d digest.Digest) bool {
	for _, value := range ifNoneMatch {
		for one := range strings.SplitSeq(value, ",") {
			one = strings.TrimPrefix(strings.TrimSpace(one), "W/")
			if one == "*" || strings.Trim(one, `"`) == d.String() {
				return true
			}
		}
	}
	return false
}

// tell attaches the verdict to an answer that serves.
func tell(header http.Header, a *gate.Admission) {
	if a.Verdict.ID == "" {
		return // evidence is not judged
	}
	values := []string{string(a.Verdict.Action), a.Verdict.ID}
	header["Trustgate-Verdict"], header["Trustgate-Decision-Id"] = values[:1:1], values[1:]
	if a.Source != nil && a.Source.URL != "" {
		header["Link"] = []string{"<" + headerText(a.Source.URL) + `>; rel="source"`}
	}
	if a.Verdict.Action == policy.Annotate {
		for _, warning := range warnings(a) {
			header.Add("Warning", warning)
		}
	}
}

// maxWarnings is the distribution specification's bound, in bytes, on all
// warnings of an answer together.
const maxWarnings = 4096

// warnings writes the findings as Warning headers.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#warnings
func warnings(a *gate.Admission) []string {
	var list []string
	size := 0
	for _, r := range a.Verdict.Reasons {
		if r.Effect == policy.Serve {
			continue
		}
		about := fmt.Sprintf(" (%s, %s)", r.Code, a.Verdict.ID)
		text := fmt.Sprintf("TrustGate: %s: %s", a.Reference.WithDigest("").Familiar(), r.Msg)
		value := warning(clip(text, max(0, 1000-len(about))) + about)
		if size += len(value); size > maxWarnings {
			break
		}
		list = append(list, value)
	}
	return list
}

// warning is the value of a Warning header: a code, an agent and a quoted text.
//
// https://www.rfc-editor.org/rfc/rfc7234#section-5.5
func warning(text string) string {
	return `299 - "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(headerText(text)) + `"`
}

// headerText makes text fit for a header: printable ASCII in one line.
func headerText(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0 {
		return s
	}
	s = strings.ReplaceAll(strings.ReplaceAll(s, "→", "->"), "…", "...")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, s)
}

// refuse answers a blocked pull with everything that a person needs in the one
// line that clients show.
//
// A HEAD has no body. Most clients follow a refused HEAD with a GET, which is
// answered with the reason: containerd from 2.4 on, Docker, crane. They do that
// for 403; for 405 containerd asks again too, but then drops what it is told.
// For the others the reason stands in a Warning.
func refuse(w http.ResponseWriter, r *http.Request, a *gate.Admission) {
	header := w.Header()
	header.Set("TrustGate-Verdict", string(policy.Block))
	header.Set("TrustGate-Decision-Id", a.Verdict.ID)
	message, detail := blockMessage(a)
	if r.Method == http.MethodHead {
		header.Add("Warning", warning(message))
	}
	writeError(w, r, http.StatusForbidden, codeDenied, message, detail)
}

// maxMessage bounds the message of a block, in bytes.
const maxMessage = 1500

// blockMessage says what is blocked, why, and what to do.
func blockMessage(a *gate.Admission) (message, detail string) {
	var whys, todos, codes []string
	for _, r := range a.Verdict.Reasons {
		if r.Effect != policy.Block {
			continue
		}
		if why := oneLine(r.Msg); !slices.Contains(whys, why) {
			whys = append(whys, why)
		}
		if todo := strings.TrimSuffix(oneLine(r.Solution), "."); todo != "" && !slices.Contains(todos, todo) {
			todos = append(todos, todo)
		}
		if !slices.Contains(codes, r.Code) {
			codes = append(codes, r.Code)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "TrustGate blocked %s: %s.", a.Reference.WithDigest("").Familiar(), strings.Join(whys, "; "))
	if len(todos) > 0 {
		fmt.Fprintf(&b, " To do: %s.", strings.Join(todos, "; "))
	}
	id := fmt.Sprintf(" (decision %s)", a.Verdict.ID)
	return clip(b.String(), maxMessage-len(id)) + id, a.Verdict.ID + ": " + clip(strings.Join(codes, ", "), 200)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
