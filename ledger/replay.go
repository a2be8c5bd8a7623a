package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
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

// inputsAtOnce is how many documents one query reads.
const inputsAtOnce = 64

// InputsOf returns the documents with the digests, those that are there.
func (l *Ledger) InputsOf(ctx context.Context, digests []digest.Digest) (map[digest.Digest][]byte, error) {
	found := make(map[digest.Digest][]byte, len(digests))
	for part := range slices.Chunk(digests, inputsAtOnce) {
		if err := l.someInputs(ctx, part, found); err != nil {
			return nil, fmt.Errorf("reading inputs: %w", err)
		}
	}
	return found, nil
}

func (l *Ledger) someInputs(ctx context.Context, digests []digest.Digest, into map[digest.Digest][]byte) error {
	args := make([]any, len(digests))
	for i, d := range digests {
		args[i] = d
	}
	// #nosec G202 -- placeholders alone
	rows, err := l.read.QueryContext(ctx, `SELECT digest, content FROM inputs WHERE digest IN (?`+strings.Repeat(", ?", len(digests)-1)+`)`, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var d digest.Digest
		var packed sql.RawBytes
		if err := rows.Scan(&d, &packed); err != nil {
			return err
		}
		if into[d], err = l.unpack(packed); err != nil {
			return err
		}
	}
	return rows.Err()
}

// InputOf returns the document with the digest.
func (l *Ledger) InputOf(ctx context.Context, d digest.Digest) ([]byte, error) {
	return l.input(ctx, d.String(), `?`, d)
}
