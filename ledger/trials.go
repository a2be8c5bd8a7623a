package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Trial is what a candidate policy would have decided otherwise about one
// judgement.
type Trial struct {
	Judgement string
	Action    string
	Reasons   []byte // JSON
	Failed    bool   // the candidate could not be evaluated, which blocks
	At        time.Time
}

// TrialCounts says how often a candidate was asked.
type TrialCounts struct {
	Tried  int64 // judgements that it judged, those where it agreed among them
	Failed int64 // of which it could not
	Missed int64 // judgements that it did not get to
	First  time.Time
	Last   time.Time
}

// RecordTrials stores, in one transaction, where a candidate would have decided
// otherwise, and adds to its counts.
func (l *Ledger) RecordTrials(ctx context.Context, revision string, differences []Trial, counts TrialCounts) error {
	const doing = "recording what the candidate policy would decide"
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to undo
	for _, t := range differences {
		if _, err := tx.ExecContext(ctx, `INSERT INTO trials (revision, judgement, action, reasons, failed, tried) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (revision, judgement) DO UPDATE SET action = excluded.action, reasons = excluded.reasons, failed = excluded.failed, tried = excluded.tried`,
			revision, t.Judgement, t.Action, string(t.Reasons), t.Failed, instant(t.At)); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO trial_counts (revision, tried, failed, missed, first, last) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (revision) DO UPDATE SET tried = tried + excluded.tried, failed = failed + excluded.failed, missed = missed + excluded.missed,
			last = max(last, excluded.last)`,
		revision, counts.Tried, counts.Failed, counts.Missed, instant(counts.First), instant(counts.Last)); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// Trials returns what a candidate would have decided otherwise about the
// judgements that were made since then, by their ids.
func (l *Ledger) Trials(ctx context.Context, revision string, since time.Time) (map[string]Trial, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT t.judgement, t.action, t.reasons, t.failed, t.tried
		FROM trials t JOIN judgements j ON j.id = t.judgement WHERE t.revision = ? AND j.judged_at >= ?`, revision, instant(since))
	if err != nil {
		return nil, fmt.Errorf("reading what the candidate policy would decide: %w", err)
	}
	defer rows.Close()
	found := map[string]Trial{}
	for rows.Next() {
		var t Trial
		var reasons string
		var at int64
		if err := rows.Scan(&t.Judgement, &t.Action, &reasons, &t.Failed, &at); err != nil {
			return nil, fmt.Errorf("reading what the candidate policy would decide: %w", err)
		}
		t.Reasons, t.At = []byte(reasons), moment(at)
		found[t.Judgement] = t
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading what the candidate policy would decide: %w", err)
	}
	return found, nil
}

// TrialCounts returns how often a candidate was asked; zero for one that never
// was.
func (l *Ledger) TrialCounts(ctx context.Context, revision string) (TrialCounts, error) {
	var c TrialCounts
	var first, last int64
	err := l.read.QueryRowContext(ctx, `SELECT tried, failed, missed, first, last FROM trial_counts WHERE revision = ?`, revision).
		Scan(&c.Tried, &c.Failed, &c.Missed, &first, &last)
	if errors.Is(err, sql.ErrNoRows) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("reading how often the candidate policy was asked: %w", err)
	}
	c.First, c.Last = moment(first), moment(last)
	return c, nil
}
