package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/trustgate/trustgate/oci"
)

// Object is what somebody wants of a repository.
type Object struct {
	Kind string // manifests, blobs or tags
	Name string // a tag, a digest, or "list"
}

// Permits asks whether the registry would hand the object out to whoever these
// credentials belong to. The error matches ErrUnauthorized or oci.ErrNotFound
// where it would not: some registries do not tell one from the other.
func (p *Repository) Permits(ctx context.Context, o Object) error {
	// The name comes from whoever asks: it must not lead anywhere else below the
	// registry, which may let them read that.
	if err := p.checkObject(o); err != nil {
		return err
	}
	ctx, done, err := p.registry.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	method, path, header := http.MethodHead, p.path(o.Kind, o.Name), http.Header{}
	switch o.Kind {
	case "manifests":
		header = acceptManifests
	case "tags":
		method, path = http.MethodGet, path+"?n=1" // HEAD is not part of the API here
	}
	c := p.call("asking whether the client may read", "")
	resp, err := p.registry.send(p.scoped(ctx), c, method, path, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.answered(ctx, resp)
	}
	return nil
}

func (p *Repository) checkObject(o Object) (err error) {
	switch o.Kind {
	case "manifests":
		_, _, err = p.parse(o.Name)
	case "blobs":
		_, err = oci.ParseDigest(o.Name)
	default:
		if o != (Object{Kind: "tags", Name: "list"}) {
			err = fmt.Errorf("%w: %q is nothing to read of a repository", oci.ErrReference, o)
		}
	}
	return err
}

// ChecksLogins says whether these credentials were asked for and found good: the
// registry turns those away who have none, and not these.
func (r *Registry) ChecksLogins(ctx context.Context) (bool, error) {
	ctx, done, err := r.begin(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	resp, err := r.anonymously(ctx, call{r, "asking for /v2/"})
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		return false, nil
	}
	err = r.Ping(ctx)
	if errors.Is(err, ErrUnauthorized) {
		return false, nil
	}
	return err == nil, err
}
