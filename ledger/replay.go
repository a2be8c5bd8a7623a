package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// Past is a judgement as it counts when it is looked back at.
type Past struct {
	ID       string
	Name     string
	Tag      string
	Digest   digest.Digest
	Input    digest.Digest
	Action   string
	Reasons  []byte // JSON
	Detail   []byte // JSON
	JudgedAt time.Time
	Pulls    int64 // under this judgement
}

// Since visits the judgements that were made since then, oldest first.
func (l *Ledger) Since(ctx context.Context, since time.Time, visit func(Past) error) error {
	rows, err := l.read.QueryContext(ctx, `SELECT j.id, j.name, j.tag, j.digest, j.input_digest, j.action, j.reasons, j.detail, j.judged_at,
		coalesce((SELECT sum(p.count) FROM pulls p WHERE p.id = j.id), 0)
		FROM judgements j WHERE j.judged_at >= ? ORDER BY j.seq`, instant(since))
	if err != nil {
		return fmt.Errorf("reading the ledger: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var p Past
		var reasons, detail string
		var judged int64
		if err := rows.Scan(&p.ID, &p.Name, &p.Tag, &p.Digest, &p.Input, &p.Action, &reasons, &detail, &judged, &p.Pulls); err != nil {
			return fmt.Errorf("reading the ledger: %w", err)
		}
		p.Reasons, p.Detail, p.JudgedAt = []byte(reasons), []byte(detail), moment(judged)
		if err := visit(p); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading the ledger: %w", err)
	}
	return nil
}

// InputOf returns the document with the digest.
func (l *Ledger) InputOf(ctx context.Context, d digest.Digest) ([]byte, error) {
	return l.input(ctx, d.String(), `?`, d)
}
