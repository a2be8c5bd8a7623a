package sigstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata/fetcher"
)

// targetTrustedRoot is what a sigstore keeps its trusted root as.
const targetTrustedRoot = "trusted_root.json"

// Mirror is a TUF repository that a sigstore publishes its trusted root in. The
// zero Mirror, but for its folder, is that of the public instance.
type Mirror struct {
	URL    string       // such as https://tuf-repo-cdn.sigstore.dev
	Root   []byte       // root.json, of any age and had from elsewhere: all else is checked against it
	Folder string       // keeps what was fetched, so that the mirror cannot go back to an older state
	Client *http.Client // nil is http.DefaultClient
}

// RefreshTrustedRoot fetches the trusted root that is current, for LoadKeyless.
// It goes to the network each time; who has one keeps it when this fails.
//
// https://theupdateframework.github.io/specification/v1.0.33/
func RefreshTrustedRoot(ctx context.Context, m Mirror) ([]byte, error) {
	if m.URL == "" && len(m.Root) == 0 {
		m.URL, m.Root = tuf.DefaultMirror, tuf.DefaultRoot()
	}
	switch {
	case m.URL == "" || len(m.Root) == 0:
		return nil, errors.New("refreshing the trusted root: a mirror needs both its URL and the root.json to check it against")
	case m.Folder == "":
		return nil, fmt.Errorf("refreshing the trusted root from %s: name a folder to keep it in", m.URL)
	}
	client := m.Client
	if client == nil {
		client = http.DefaultClient
	}
	f := fetcher.NewDefaultFetcher()
	f.SetHTTPClient(during{ctx, client})
	repository, err := tuf.New(&tuf.Options{Root: m.Root, RepositoryBaseURL: m.URL, CachePath: m.Folder, Fetcher: f})
	if err != nil {
		return nil, fmt.Errorf("refreshing the trusted root from %s: %w", m.URL, err)
	}
	raw, err := repository.GetTarget(targetTrustedRoot)
	if err != nil {
		return nil, fmt.Errorf("refreshing the trusted root from %s: %w", m.URL, err)
	}
	if _, err := parseTrustedRoot(raw); err != nil {
		return nil, fmt.Errorf("refreshing the trusted root from %s: %w", m.URL, err)
	}
	return raw, nil
}

// during makes requests end with a context.
type during struct {
	ctx    context.Context
	client *http.Client
}

func (d during) Do(req *http.Request) (*http.Response, error) {
	return d.client.Do(req.WithContext(d.ctx))
}
