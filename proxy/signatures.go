package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/trustgate/trustgate/oci"
)

// extensions is where the signatures extension is, beside /v2/.
const extensions = "/extensions/v2/"

// maxSignature bounds what a client hands in, in bytes; a signature with a large
// key has a few thousand.
const maxSignature = 64 << 10

// signature is one entry of the extension.
type signature struct {
	SchemaVersion int    `json:"schemaVersion"`
	Name          string `json:"name"`
	Type          string `json:"type"`
	Content       []byte `json:"content"`
}

// signatures serves the OpenPGP signatures of a manifest, and takes new ones:
// with them podman and skopeo verify by their own policy.json through the gate.
//
// https://github.com/containers/image/blob/main/docs/signature-protocols.md
func (h *Handler) signatures(w http.ResponseWriter, r *http.Request, repository oci.Reference, reference string) error {
	d, err := oci.ParseDigest(reference)
	if err != nil {
		return err
	}
	if r.Method == http.MethodPut {
		raw, err := readSignature(r)
		if err != nil {
			return err
		}
		if err := h.gate.AddSignature(r.Context(), repository, d, raw); err != nil {
			return err
		}
		writeBody(w, r, http.StatusCreated, nil)
		return nil
	}
	found, err := h.gate.Signatures(r.Context(), repository, d)
	if err != nil {
		return err
	}
	list := make([]signature, len(found))
	for i, raw := range found {
		// A name's second half tells signatures apart.
		list[i] = signature{SchemaVersion: 2, Name: d.String() + "@" + oci.DigestOf(raw, "").Encoded()[:32], Type: "atomic", Content: raw}
	}
	return writeJSON(w, r, "application/json", map[string][]signature{"signatures": list})
}

// readSignature reads the one entry that a client adds.
func readSignature(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 2*maxSignature+1))
	if err != nil {
		return nil, fmt.Errorf("%w: the signature did not arrive: %v", errBadRequest, err)
	}
	var s signature
	switch err := json.Unmarshal(body, &s); {
	case len(body) > 2*maxSignature || len(s.Content) > maxSignature:
		return nil, fmt.Errorf("%w: the signature has more than %d bytes", errBadRequest, maxSignature)
	case err != nil:
		return nil, fmt.Errorf("%w: not a signature entry: %v", errBadRequest, err)
	case s.SchemaVersion != 2 || s.Type != "atomic" || len(s.Content) == 0:
		return nil, fmt.Errorf("%w: not a signature entry: it has schemaVersion 2, type atomic and content", errBadRequest)
	}
	return s.Content, nil
}
