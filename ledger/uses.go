package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// RecordUses remembers when content was used last, in one transaction. A time
// before the recorded one changes nothing.
func (l *Ledger) RecordUses(ctx context.Context, at map[digest.Digest]time.Time) error {
	const doing = "recording what was used"
	return l.forEach(ctx, doing, `INSERT INTO uses (digest, used) VALUES (?, ?)
		ON CONFLICT (digest) DO UPDATE SET used = max(used, excluded.used)`, func(run func(...any) error) error {
		for d, t := range at {
			if err := run(d, instant(t)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Uses returns when each content was used last.
func (l *Ledger) Uses(ctx context.Context) (map[digest.Digest]time.Time, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT digest, used FROM uses`)
	if err != nil {
		return nil, fmt.Errorf("reading what was used: %w", err)
	}
	defer rows.Close()
	at := map[digest.Digest]time.Time{}
	for rows.Next() {
		var d digest.Digest
		var used int64
		if err := rows.Scan(&d, &used); err != nil {
			return nil, fmt.Errorf("reading what was used: %w", err)
		}
		at[d] = moment(used)
	}
	return at, rows.Err()
}

// ForgetUses forgets content that is gone.
func (l *Ledger) ForgetUses(ctx context.Context, gone []digest.Digest) error {
	const doing = "forgetting what was used"
	return l.forEach(ctx, doing, `DELETE FROM uses WHERE digest = ?`, func(run func(...any) error) error {
		for _, d := range gone {
			if err := run(d); err != nil {
				return err
			}
		}
		return nil
	})
}

// forEach runs one statement many times in one transaction.
func (l *Ledger) forEach(ctx context.Context, doing, query string, all func(run func(args ...any) error) error) error {
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to undo
	statement, err := tx.PrepareContext(ctx, query)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	defer statement.Close()
	err = all(func(args ...any) error {
		_, err := statement.ExecContext(ctx, args...)
		return err
	})
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// RecordScrub remembers how far a scrub of the cache is. A pass that is under
// way has started after the last one finished.
func (l *Ledger) RecordScrub(ctx context.Context, started, finished time.Time, at digest.Digest) error {
	_, err := l.write.ExecContext(ctx, `INSERT INTO scrub (one, started, finished, at) VALUES (1, ?, ?, ?)
		ON CONFLICT (one) DO UPDATE SET started = excluded.started, finished = excluded.finished, at = excluded.at`,
		instant(started), instant(finished), at)
	if err != nil {
		return fmt.Errorf("recording how far the scrub is: %w", err)
	}
	return nil
}

// Scrub returns what was recorded last; zero times before the first pass.
func (l *Ledger) Scrub(ctx context.Context) (started, finished time.Time, at digest.Digest, err error) {
	var began, ended int64
	err = l.read.QueryRowContext(ctx, `SELECT started, finished, at FROM scrub`).Scan(&began, &ended, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, time.Time{}, "", nil
	}
	if err != nil {
		return time.Time{}, time.Time{}, "", fmt.Errorf("reading how far the scrub is: %w", err)
	}
	return moment(began), moment(ended), at, nil
}
