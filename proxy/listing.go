package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/oci"
)

// maxTags bounds one page of tags.
const maxTags = 10000

// tags lists what the upstream has; a tag in the list is not yet one that may
// be pulled.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-tags
func (h *Handler) tags(w http.ResponseWriter, r *http.Request, repository oci.Reference, name string) error {
	query := r.URL.Query()
	n, asked := maxTags, query.Get("n")
	if asked != "" {
		var err error
		if n, err = strconv.Atoi(asked); err != nil || n < 0 {
			return fmt.Errorf("%w: n must be a number that is not negative", errBadRequest)
		}
		n = min(n, maxTags)
	}
	list := []string{}
	if n > 0 {
		found, err := h.gate.Tags(r.Context(), repository, n, query.Get("last"))
		if err != nil {
			return err
		}
		list = append(list, found[:min(len(found), n)]...)
	}
	if n > 0 && len(list) == n {
		next := url.Values{"n": {strconv.Itoa(n)}, "last": {list[n-1]}}
		if ns := query.Get("ns"); ns != "" {
			next.Set("ns", ns)
		}
		w.Header().Set("Link", "</v2/"+name+"/tags/list?"+next.Encode()+`>; rel="next"`)
	}
	return writeJSON(w, r, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{name, list})
}

// referrers lists what the upstream says refers to a manifest.
//
// https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers
func (h *Handler) referrers(w http.ResponseWriter, r *http.Request, repository oci.Reference, reference string) error {
	d, err := oci.ParseDigest(reference)
	if err != nil {
		return err
	}
	artifactType := r.URL.Query().Get("artifactType")
	found, err := h.gate.Referrers(r.Context(), repository, d, artifactType)
	if err != nil {
		return err
	}
	if artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if found == nil {
		found = []oci.Descriptor{}
	}
	return writeJSON(w, r, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: found,
	})
}

func writeJSON(w http.ResponseWriter, r *http.Request, contentType string, document any) error {
	raw, err := json.Marshal(document)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	writeBody(w, r, http.StatusOK, raw)
	return nil
}
