package openpgp

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/oci"
)

// Lookaside is a folder tree of signatures beside a registry, on disk or on a
// web server:
//
//	<base>/<repository>@sha256=<hex>/signature-1, -2, … until the first that is missing
//
// The repository is the path below the registry ("library/nginx"); the base is
// what tells registries apart.
//
// https://github.com/containers/image/blob/main/docs/signature-protocols.md
type Lookaside struct {
	base   *url.URL
	client *http.Client
	limits evidence.Limits
}

// NewLookaside reads signatures below base, a file:, http: or https: URL.
// client may be nil for a folder on disk.
func NewLookaside(base string, client *http.Client, limits evidence.Limits) (*Lookaside, error) {
	u, err := url.Parse(base)
	if err != nil {
		// The URL's own error would quote it, password and all.
		return nil, errors.New("a lookaside is not a URL; write file:///folder or https://host/path")
	}
	switch {
	case u.Scheme == "file" && (u.Host != "" || !path.IsAbs(u.Path)):
		err = errors.New("a folder is written as file:///folder")
	case u.Scheme == "file":
	case u.Scheme != "http" && u.Scheme != "https":
		err = errors.New("its scheme is not file, http or https")
	case u.Host == "":
		err = errors.New("it names no host")
	case client == nil:
		err = errors.New("it needs an HTTP client")
	}
	if err == nil && (u.RawQuery != "" || u.Fragment != "") {
		err = errors.New("it has a query or a fragment")
	}
	if err != nil {
		return nil, fmt.Errorf("the lookaside %s: %w", u.Redacted(), err)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	return &Lookaside{base: u, client: client, limits: limits}, nil
}

// Signatures implements Store.
func (l *Lookaside) Signatures(ctx context.Context, repository oci.Reference, d digest.Digest) ([]Found, error) {
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return nil, err
	}
	read := l.get
	if l.base.Scheme == "file" {
		root, err := os.OpenRoot(l.base.Path)
		if err != nil {
			return nil, fmt.Errorf("opening the lookaside %s: %w", l.base.Redacted(), err)
		}
		defer root.Close()
		read = func(_ context.Context, name string) ([]byte, error) { return l.open(root, name) }
	}
	var found []Found
	for i := 1; ; i++ {
		name := folderOf(repository, d) + fmt.Sprintf("/signature-%d", i)
		raw, err := read(ctx, name)
		if errors.Is(err, oci.ErrNotFound) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		if len(found) == l.limits.Signatures {
			return found, fmt.Errorf("the lookaside %s has more signatures of %s than limits.signatures (%d)", l.base.Redacted(), d, l.limits.Signatures)
		}
		found = append(found, Found{Location: l.at(name).Redacted(), Raw: raw})
	}
}

func folderOf(repository oci.Reference, d digest.Digest) string {
	return fmt.Sprintf("%s@%s=%s", repository.Repository(), d.Algorithm(), d.Encoded())
}

// Add writes a signature into the folder, under the first number that is free,
// as skopeo and podman do. One that is there already is not written again. A
// lookaside on a web server cannot be added to.
func (l *Lookaside) Add(repository oci.Reference, d digest.Digest, signature []byte) error {
	if l.base.Scheme != "file" {
		return fmt.Errorf("adding a signature to %s: it is not a folder; write to the folder that it serves", l.base.Redacted())
	}
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return err
	}
	if int64(len(signature)) > l.limits.Attestation {
		return fmt.Errorf("the signature has more bytes than limits.attestation (%d)", l.limits.Attestation)
	}
	if err := os.MkdirAll(l.base.Path, 0o755); err != nil {
		return fmt.Errorf("adding a signature to %s: %w", l.base.Redacted(), err)
	}
	root, err := os.OpenRoot(l.base.Path)
	if err != nil {
		return fmt.Errorf("adding a signature to %s: %w", l.base.Redacted(), err)
	}
	defer root.Close()
	folder := folderOf(repository, d)
	if err := root.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("adding a signature to %s: %w", l.base.Redacted(), err)
	}
	for i := 1; i <= l.limits.Signatures; i++ {
		name := fmt.Sprintf("%s/signature-%d", folder, i)
		err := writeNew(root, folder, name, signature)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("adding a signature to %s: %w", l.base.Redacted(), err)
		}
		if present, err := l.open(root, name); err == nil && bytes.Equal(present, signature) {
			return nil
		}
	}
	return fmt.Errorf("the lookaside %s has %d signatures of %s already, as many as limits.signatures allows", l.base.Redacted(), l.limits.Signatures, d)
}

// writeNew makes a file that is whole from the moment that it has its name, or
// fails with fs.ErrExist.
func writeNew(root *os.Root, folder, name string, content []byte) error {
	temporary := fmt.Sprintf("%s/.new-%s", folder, rand.Text())
	if err := root.WriteFile(temporary, content, 0o644); err != nil {
		return err
	}
	defer root.Remove(temporary)
	return root.Link(temporary, name)
}

func (l *Lookaside) at(name string) *url.URL {
	u := *l.base
	u.Path += "/" + name
	return &u
}

func (l *Lookaside) open(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, oci.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", l.at(name).Redacted(), err)
	}
	defer f.Close()
	return l.bounded(f, name)
}

func (l *Lookaside) get(ctx context.Context, name string) ([]byte, error) {
	where := l.at(name)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("asking %s for a signature: %w", where.Redacted(), err)
	}
	response, err := l.client.Do(request)
	if err != nil {
		// The client's error repeats the URL; its cause is enough.
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return nil, passing{fmt.Errorf("asking %s for a signature: %w", where.Redacted(), err)}
	}
	defer response.Body.Close()
	switch s := response.StatusCode; {
	case s == http.StatusNotFound:
		return nil, oci.ErrNotFound
	case s == http.StatusTooManyRequests || s == http.StatusRequestTimeout || s >= 500:
		return nil, passing{fmt.Errorf("asking %s for a signature: it answers %d %s", where.Redacted(), s, http.StatusText(s))}
	case s != http.StatusOK:
		return nil, fmt.Errorf("asking %s for a signature: it answers %d %s, where 404 would say that there is none", where.Redacted(), s, http.StatusText(s))
	}
	return l.bounded(response.Body, name)
}

func (l *Lookaside) bounded(r io.Reader, name string) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, l.limits.Attestation+1))
	if err != nil {
		return nil, passing{fmt.Errorf("reading %s: %w", l.at(name).Redacted(), err)}
	}
	if int64(len(raw)) > l.limits.Attestation {
		return nil, fmt.Errorf("%s has more bytes than limits.attestation (%d)", l.at(name).Redacted(), l.limits.Attestation)
	}
	return raw, nil
}

// passing is an error after which asking again may help.
type passing struct{ error }

func (p passing) Unwrap() error   { return p.error }
func (p passing) Temporary() bool { return true }
