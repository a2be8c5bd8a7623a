package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// Examination is what the check of an image's packages came to: a report, or
// why there is none.
type Examination struct {
	Digest  digest.Digest
	Below   int    // layers that were taken for the parent's
	Failure string // "" when there is a report
	Report  []byte // JSON
	At      time.Time
}

// PutExamination remembers an examination in place of an older one.
func (l *Ledger) PutExamination(ctx context.Context, e Examination) error {
	_, err := l.write.ExecContext(ctx, `INSERT INTO examinations (digest, below, failure, report, examined) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (digest, below) DO UPDATE SET failure = excluded.failure, report = excluded.report, examined = excluded.examined`,
		e.Digest, e.Below, e.Failure, l.pack.EncodeAll(e.Report, nil), instant(e.At))
	if err != nil {
		return fmt.Errorf("recording the examination of %s: %w", e.Digest, err)
	}
	return nil
}

// Examination returns the newest examination of an image of which so many layers
// are its parent's.
func (l *Ledger) Examination(ctx context.Context, d digest.Digest, below int) (Examination, error) {
	e := Examination{Digest: d, Below: below}
	var packed []byte
	var at int64
	err := l.read.QueryRowContext(ctx, `SELECT failure, report, examined FROM examinations WHERE digest = ? AND below = ?`, d, below).
		Scan(&e.Failure, &packed, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return Examination{}, fmt.Errorf("the examination of %s: %w", d, oci.ErrNotFound)
	}
	if err == nil {
		e.Report, err = l.unpack(packed)
	}
	if err != nil {
		return Examination{}, fmt.Errorf("reading the examination of %s: %w", d, err)
	}
	e.At = moment(at)
	return e, nil
}
