package ledger

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// ForgetTag forgets what the tag of registry/repository named, so that it is
// resolved anew.
func (l *Ledger) ForgetTag(ctx context.Context, name, tag string) error {
	if _, err := l.write.ExecContext(ctx, `DELETE FROM tags WHERE name = ? AND tag = ?`, name, tag); err != nil {
		return fmt.Errorf("forgetting the tag %s:%s: %w", name, tag, err)
	}
	return nil
}

// ForgetManifest forgets that registry/repository has the manifest: its tags,
// which blobs it refers to and which manifests it lists. What was judged stays.
func (l *Ledger) ForgetManifest(ctx context.Context, name string, d digest.Digest) error {
	doing := "forgetting " + name + "@" + d.String()
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to undo
	for _, statement := range []string{
		`DELETE FROM manifests WHERE name = ? AND digest = ?`,
		`DELETE FROM blobs WHERE name = ? AND manifest = ?`,
		`DELETE FROM members WHERE name = ? AND list = ?`,
		`DELETE FROM tags WHERE name = ? AND digest = ?`,
	} {
		if _, err := tx.ExecContext(ctx, statement, name, d); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
