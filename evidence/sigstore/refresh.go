package sigstore

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/sigstore/sigstore-go/pkg/root"
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

// RootChange is how one trusted root differs from an earlier one. Keys are
// described for people.
type RootChange struct {
	Added, Removed []string
	Kept           int // keys that are in both
}

// ErrOtherInstance reports a trusted root that cannot follow another: they are
// of two sigstores, or it lacks all keys of a kind.
var ErrOtherInstance = errors.New("it is not a later state of the same trusted root")

// CompareTrustedRoots says what current has and lacks beside earlier. A key that
// is gone is no error, since keys are revoked so.
func CompareTrustedRoots(earlier, current []byte) (RootChange, error) {
	var change RootChange
	before, err := parseTrustedRoot(earlier)
	if err != nil {
		return change, fmt.Errorf("reading what is there: %w", err)
	}
	after, err := parseTrustedRoot(current)
	if err != nil {
		return change, fmt.Errorf("reading what is new: %w", err)
	}
	had, has := keysOf(before), keysOf(after)
	for _, kind := range kinds {
		if len(had[kind]) > 0 && len(has[kind]) == 0 {
			return change, fmt.Errorf("%w: it lists no %s", ErrOtherInstance, kind)
		}
		for id, shown := range has[kind] {
			if _, known := had[kind][id]; known {
				change.Kept++
				continue
			}
			change.Added = append(change.Added, kind+" "+shown)
		}
		for id, shown := range had[kind] {
			if _, stays := has[kind][id]; !stays {
				change.Removed = append(change.Removed, kind+" "+shown)
			}
		}
	}
	if change.Kept == 0 {
		return change, fmt.Errorf("%w: they have no key in common", ErrOtherInstance)
	}
	slices.Sort(change.Added)
	slices.Sort(change.Removed)
	return change, nil
}

// kinds are the keys that a trusted root lists.
var kinds = []string{"certificate authority", "transparency log", "certificate transparency log", "time stamp authority"}

// keysOf lists what is in a trusted root by kind and by name.
func keysOf(r *root.TrustedRoot) map[string]map[string]string {
	keys := map[string]map[string]string{}
	put := func(kind int, id, shown string) {
		if keys[kinds[kind]] == nil {
			keys[kinds[kind]] = map[string]string{}
		}
		keys[kinds[kind]][id] = fmt.Sprintf("%.200q (%.16s)", shown, id)
	}
	certificate := func(kind int, c *x509.Certificate) {
		if c != nil {
			sum := sha256.Sum256(c.Raw)
			put(kind, hex.EncodeToString(sum[:]), c.Subject.String())
		}
	}
	for _, a := range r.FulcioCertificateAuthorities() {
		if ca, ok := a.(*root.FulcioCertificateAuthority); ok {
			certificate(0, ca.Root)
			for _, c := range ca.Intermediates {
				certificate(0, c)
			}
		}
	}
	for id, log := range r.RekorLogs() {
		put(1, id, log.BaseURL)
	}
	for id, log := range r.CTLogs() {
		put(2, id, log.BaseURL)
	}
	for _, a := range r.TimestampingAuthorities() {
		if tsa, ok := a.(*root.SigstoreTimestampingAuthority); ok {
			certificate(3, tsa.Root)
			certificate(3, tsa.Leaf)
		}
	}
	return keys
}

// during makes requests end with a context.
type during struct {
	ctx    context.Context
	client *http.Client
}

func (d during) Do(req *http.Request) (*http.Response, error) {
	return d.client.Do(req.WithContext(d.ctx))
}
