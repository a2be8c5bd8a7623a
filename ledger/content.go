package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// SetTag remembers what the tag of registry/repository named at that time.
func (l *Ledger) SetTag(ctx context.Context, name, tag string, d digest.Digest, at time.Time) error {
	_, err := l.write.ExecContext(ctx, `INSERT INTO tags (name, tag, digest, resolved) VALUES (?, ?, ?, ?)
		ON CONFLICT (name, tag) DO UPDATE SET digest = excluded.digest, resolved = excluded.resolved`, name, tag, d, instant(at))
	if err != nil {
		return fmt.Errorf("recording the tag %s:%s: %w", name, tag, err)
	}
	return nil
}

// Tag returns what the tag named when it was last resolved, and when that was.
func (l *Ledger) Tag(ctx context.Context, name, tag string) (digest.Digest, time.Time, error) {
	var d digest.Digest
	var at int64
	err := l.read.QueryRowContext(ctx, `SELECT digest, resolved FROM tags WHERE name = ? AND tag = ?`, name, tag).Scan(&d, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return "", time.Time{}, fmt.Errorf("the tag %s:%s: %w", name, tag, oci.ErrNotFound)
	}
	if err != nil {
		return "", time.Time{}, fmt.Errorf("reading the tag %s:%s: %w", name, tag, err)
	}
	return d, moment(at), nil
}

// HasManifest says whether registry/repository is known to have the manifest.
func (l *Ledger) HasManifest(ctx context.Context, name string, d digest.Digest) (bool, error) {
	var has bool
	err := l.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM manifests WHERE name = ? AND digest = ?)`, name, d).Scan(&has)
	if err != nil {
		return false, fmt.Errorf("looking for %s@%s: %w", name, d, err)
	}
	return has, nil
}

// PutManifest remembers that registry/repository has a manifest, which blobs it
// refers to and which manifests it lists.
func (l *Ledger) PutManifest(ctx context.Context, name string, m *oci.Manifest) error {
	doing := "recording the contents of " + name + "@" + m.Digest.String()
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to undo
	if _, err := tx.ExecContext(ctx, `INSERT INTO manifests (name, digest) VALUES (?, ?) ON CONFLICT DO NOTHING`, name, m.Digest); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	for _, b := range m.References() {
		if _, err := tx.ExecContext(ctx, `INSERT INTO blobs (name, blob, manifest, size, media_type) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			name, b.Digest, m.Digest, b.Size, b.MediaType); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	for _, child := range m.Manifests {
		if _, err := tx.ExecContext(ctx, `INSERT INTO members (name, child, list) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
			name, child.Digest, m.Digest); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// Holder is a manifest that refers to a blob, and how it describes it.
type Holder struct {
	Manifest digest.Digest
	Blob     oci.Descriptor
}

// Holders lists the manifests of registry/repository that refer to a blob.
func (l *Ledger) Holders(ctx context.Context, name string, blob digest.Digest) ([]Holder, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT manifest, size, media_type FROM blobs WHERE name = ? AND blob = ? ORDER BY manifest LIMIT 256`, name, blob)
	if err != nil {
		return nil, fmt.Errorf("looking up what refers to %s: %w", blob, err)
	}
	defer rows.Close()
	var holders []Holder
	for rows.Next() {
		h := Holder{Blob: oci.Descriptor{Digest: blob}}
		if err := rows.Scan(&h.Manifest, &h.Blob.Size, &h.Blob.MediaType); err != nil {
			return nil, fmt.Errorf("looking up what refers to %s: %w", blob, err)
		}
		holders = append(holders, h)
	}
	return holders, rows.Err()
}

// Listing is an index that lists a manifest.
type Listing struct{ Index digest.Digest }

// Indexes lists the indexes of registry/repository that list a manifest, in a
// fixed order.
func (l *Ledger) Indexes(ctx context.Context, name string, child digest.Digest) ([]Listing, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT list FROM members WHERE name = ? AND child = ? ORDER BY list LIMIT 256`, name, child)
	if err != nil {
		return nil, fmt.Errorf("looking up what lists %s: %w", child, err)
	}
	defer rows.Close()
	var listings []Listing
	for rows.Next() {
		var listing Listing
		if err := rows.Scan(&listing.Index); err != nil {
			return nil, fmt.Errorf("looking up what lists %s: %w", child, err)
		}
		listings = append(listings, listing)
	}
	return listings, rows.Err()
}

// Chain is an image whose layers are a given stack.
type Chain struct {
	ChainID digest.Digest
	Depth   int // layers
	Name    string
	Digest  digest.Digest
}

// PutChain remembers which stack of layers an image is.
func (l *Ledger) PutChain(ctx context.Context, chain digest.Digest, depth int, name string, d digest.Digest) error {
	_, err := l.write.ExecContext(ctx, `INSERT INTO chains (chain, name, digest, depth) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`, chain, name, d, depth)
	if err != nil {
		return fmt.Errorf("recording the layers of %s@%s: %w", name, d, err)
	}
	return nil
}

// chainsAtOnce is how many stacks one query asks for.
const chainsAtOnce = 500

// Chains lists the images whose layers are one of the stacks, the deepest
// first.
func (l *Ledger) Chains(ctx context.Context, chains []digest.Digest) ([]Chain, error) {
	// The deepest stacks are the last of the list; a shallow one is looked for
	// only when none of those is known.
	for len(chains) > 0 {
		part := chains[max(0, len(chains)-chainsAtOnce):]
		chains = chains[:len(chains)-len(part)]
		found, err := l.someChains(ctx, part)
		if err != nil || len(found) > 0 {
			return found, err
		}
	}
	return nil, nil
}

func (l *Ledger) someChains(ctx context.Context, chains []digest.Digest) ([]Chain, error) {
	args := make([]any, len(chains))
	for i, c := range chains {
		args[i] = c
	}
	// #nosec G202 -- placeholders alone
	rows, err := l.read.QueryContext(ctx, `SELECT chain, depth, name, digest FROM chains
		WHERE chain IN (?`+strings.Repeat(", ?", len(chains)-1)+`) ORDER BY depth DESC, name, digest LIMIT 64`, args...)
	if err != nil {
		return nil, fmt.Errorf("looking for an image by its layers: %w", err)
	}
	defer rows.Close()
	var found []Chain
	for rows.Next() {
		var c Chain
		if err := rows.Scan(&c.ChainID, &c.Depth, &c.Name, &c.Digest); err != nil {
			return nil, fmt.Errorf("looking for an image by its layers: %w", err)
		}
		found = append(found, c)
	}
	return found, rows.Err()
}
