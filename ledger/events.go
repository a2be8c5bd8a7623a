package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// Event is something that happened to the gate itself, such as damage in its
// cache.
type Event struct {
	At     time.Time
	Kind   string
	Digest digest.Digest // what it happened to
	Detail string
}

// RecordEvent stores an event. When it returns, the event is on disk.
func (l *Ledger) RecordEvent(ctx context.Context, e Event) error {
	_, err := l.write.ExecContext(ctx, `INSERT INTO events (happened, kind, digest, detail) VALUES (?, ?, ?, ?)`, instant(e.At), e.Kind, e.Digest, e.Detail)
	if err != nil {
		return fmt.Errorf("recording the event %s on %s: %w", e.Kind, e.Digest, err)
	}
	return nil
}

// Events lists events whose kind begins with the prefix, newest first, and
// counts all of them.
func (l *Ledger) Events(ctx context.Context, prefix string, limit int) (list []Event, count int64, err error) {
	fail := func(err error) ([]Event, int64, error) { return nil, 0, fmt.Errorf("reading the events: %w", err) }
	const which = `FROM events WHERE substr(kind, 1, length(?1)) = ?1`
	if err := l.read.QueryRowContext(ctx, `SELECT count(*) `+which, prefix).Scan(&count); err != nil {
		return fail(err)
	}
	rows, err := l.read.QueryContext(ctx, `SELECT happened, kind, digest, detail `+which+` ORDER BY seq DESC LIMIT ?2`, prefix, limit)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	for rows.Next() {
		var e Event
		var at int64
		if err := rows.Scan(&at, &e.Kind, &e.Digest, &e.Detail); err != nil {
			return fail(err)
		}
		e.At = moment(at)
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return list, count, nil
}
