package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// Exception is one that somebody added. What it means is for the policy.
type Exception struct {
	ID         string // from NewExceptionID
	Code       string
	Repository string // a pattern, or "" for one of a digest
	Digest     digest.Digest
	Owner      string
	Reason     string
	Expires    time.Time
	AddedAt    time.Time
	AddedBy    string
	Removed    Removal
}

// Removal says when and why an exception was taken back; zero while it is not.
type Removal struct {
	At     time.Time
	By     string
	Reason string
}

// ErrRemoved reports an exception that somebody has removed before.
var ErrRemoved = errors.New("it has been removed already")

// NewExceptionID makes the name of an exception.
func NewExceptionID() string { return "ex-" + strings.TrimPrefix(NewID(), "tg-") }

// AddException stores an exception. When it returns, the exception is on disk.
func (l *Ledger) AddException(ctx context.Context, e Exception) error {
	_, err := l.write.ExecContext(ctx, `INSERT INTO exceptions (id, code, repository, digest, owner, reason, expires, added, added_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		e.ID, e.Code, e.Repository, e.Digest, e.Owner, e.Reason, instant(e.Expires), instant(e.AddedAt), e.AddedBy)
	if err != nil {
		return fmt.Errorf("recording the exception %s: %w", e.ID, err)
	}
	return nil
}

// RemoveException notes that an exception does not count any more.
func (l *Ledger) RemoveException(ctx context.Context, id string, r Removal) error {
	result, err := l.write.ExecContext(ctx, `UPDATE exceptions SET removed = ?, removed_by = ?, removed_reason = ? WHERE id = ? AND removed = 0`,
		instant(r.At), r.By, r.Reason, id)
	if err != nil {
		return fmt.Errorf("removing the exception %s: %w", id, err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return err
	}
	var known bool
	if err := l.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM exceptions WHERE id = ?)`, id).Scan(&known); err != nil {
		return fmt.Errorf("removing the exception %s: %w", id, err)
	}
	if known {
		return fmt.Errorf("the exception %s: %w", id, ErrRemoved)
	}
	return fmt.Errorf("the exception %s: %w", id, oci.ErrNotFound)
}

// Exceptions lists every exception that was ever added, in the order of their
// coming, and those that were removed with them.
func (l *Ledger) Exceptions(ctx context.Context) ([]Exception, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT id, code, repository, digest, owner, reason, expires, added, added_by, removed, removed_by, removed_reason
		FROM exceptions ORDER BY seq`)
	if err != nil {
		return nil, fmt.Errorf("reading the exceptions: %w", err)
	}
	defer rows.Close()
	var list []Exception
	for rows.Next() {
		var e Exception
		var expires, added, removed int64
		if err := rows.Scan(&e.ID, &e.Code, &e.Repository, &e.Digest, &e.Owner, &e.Reason, &expires, &added, &e.AddedBy, &removed, &e.Removed.By, &e.Removed.Reason); err != nil {
			return nil, fmt.Errorf("reading the exceptions: %w", err)
		}
		e.Expires, e.AddedAt, e.Removed.At = moment(expires), moment(added), moment(removed)
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the exceptions: %w", err)
	}
	return list, nil
}

// ExceptionsRevision changes whenever an exception is added or removed.
func (l *Ledger) ExceptionsRevision(ctx context.Context) (string, error) {
	var added, removed int64
	err := l.read.QueryRowContext(ctx, `SELECT count(*), count(nullif(removed, 0)) FROM exceptions`).Scan(&added, &removed)
	if err != nil {
		return "", fmt.Errorf("reading the exceptions: %w", err)
	}
	return fmt.Sprintf("%d-%d", added, removed), nil
}

// Usage is how often an exception settled something, as far as the ledger
// remembers.
type Usage struct {
	Judgements int64
	Pulls      int64 // under those judgements
	Last       time.Time
}

// ExceptionUses says by id how each exception was used. The pulls of the last few
// seconds may be missing.
func (l *Ledger) ExceptionUses(ctx context.Context) (map[string]Usage, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT u.exception, count(*), coalesce(sum(p.count), 0), max(max(j.judged_at, coalesce(p.last, 0)))
		FROM exception_uses u JOIN judgements j ON j.id = u.judgement
		LEFT JOIN (SELECT id, sum(count) AS count, max(last) AS last FROM pulls WHERE id IN (SELECT judgement FROM exception_uses) GROUP BY id) p ON p.id = u.judgement
		GROUP BY u.exception`)
	if err != nil {
		return nil, fmt.Errorf("reading how exceptions were used: %w", err)
	}
	defer rows.Close()
	uses := map[string]Usage{}
	for rows.Next() {
		var id string
		var u Usage
		var last int64
		if err := rows.Scan(&id, &u.Judgements, &u.Pulls, &last); err != nil {
			return nil, fmt.Errorf("reading how exceptions were used: %w", err)
		}
		u.Last = moment(last)
		uses[id] = u
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading how exceptions were used: %w", err)
	}
	return uses, nil
}
