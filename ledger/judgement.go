package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

// Judgement is one verdict as it was made.
type Judgement struct {
	ID             string // from NewID
	Key            string // names everything that the verdict depends on; opaque here
	Route          string
	Name           string // registry/repository
	Tag            string
	Digest         digest.Digest
	Index          digest.Digest
	PolicyRevision string
	TrustRevision  string
	EvidenceDigest digest.Digest
	InputDigest    digest.Digest
	Action         string
	BeforeMode     string
	Reasons        json.RawMessage
	Annotations    json.RawMessage
	Detail         json.RawMessage
	JudgedAt       time.Time
	ExpiresAt      time.Time
	Took           time.Duration
	Exceptions     []string // that it used, by id; written, and not read back
}

// maxInput bounds a recorded input when it is read back, in bytes.
const maxInput = 256 << 20

const columns = `id, key, route, name, tag, digest, index_digest, policy_revision, trust_revision, evidence_digest,
	input_digest, action, before_mode, reasons, annotations, detail, judged_at, expires_at, took`

// Record stores a judgement and, unless it is there already, the input that
// was judged. When it returns, both are on disk.
func (l *Ledger) Record(ctx context.Context, j Judgement, input []byte) error {
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("recording %s: %w", j.ID, err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to undo
	if len(input) > 0 {
		var known bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM inputs WHERE digest = ?)`, j.InputDigest).Scan(&known); err != nil {
			return fmt.Errorf("recording %s: %w", j.ID, err)
		}
		if !known {
			if _, err := tx.ExecContext(ctx, `INSERT INTO inputs (digest, content) VALUES (?, ?)`, j.InputDigest, l.pack.EncodeAll(input, nil)); err != nil {
				return fmt.Errorf("recording the input of %s: %w", j.ID, err)
			}
		}
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO judgements (`+columns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		j.ID, j.Key, j.Route, j.Name, j.Tag, j.Digest, j.Index, j.PolicyRevision, j.TrustRevision, j.EvidenceDigest,
		j.InputDigest, j.Action, j.BeforeMode, string(j.Reasons), string(j.Annotations), string(j.Detail),
		instant(j.JudgedAt), instant(j.ExpiresAt), int64(j.Took))
	for _, id := range j.Exceptions {
		if err == nil {
			_, err = tx.ExecContext(ctx, `INSERT INTO exception_uses (exception, judgement) VALUES (?, ?) ON CONFLICT DO NOTHING`, id, j.ID)
		}
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return fmt.Errorf("recording %s: %w", j.ID, err)
	}
	return nil
}

func (l *Ledger) judgements(ctx context.Context, where string, args ...any) ([]Judgement, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT `+columns+` FROM judgements `+where, args...) // #nosec G202 -- both are constants of this package
	if err != nil {
		return nil, fmt.Errorf("reading the ledger: %w", err)
	}
	defer rows.Close()
	var list []Judgement
	for rows.Next() {
		var j Judgement
		var reasons, annotations, detail string
		var judged, expires, took int64
		if err := rows.Scan(&j.ID, &j.Key, &j.Route, &j.Name, &j.Tag, &j.Digest, &j.Index, &j.PolicyRevision, &j.TrustRevision,
			&j.EvidenceDigest, &j.InputDigest, &j.Action, &j.BeforeMode, &reasons, &annotations, &detail, &judged, &expires, &took); err != nil {
			return nil, fmt.Errorf("reading the ledger: %w", err)
		}
		j.Reasons, j.Annotations, j.Detail = json.RawMessage(reasons), json.RawMessage(annotations), json.RawMessage(detail)
		j.JudgedAt, j.ExpiresAt, j.Took = moment(judged), moment(expires), time.Duration(took)
		list = append(list, j)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the ledger: %w", err)
	}
	return list, nil
}

func one(list []Judgement, err error) (Judgement, error) {
	if err != nil {
		return Judgement{}, err
	}
	if len(list) == 0 {
		return Judgement{}, fmt.Errorf("judgement: %w", oci.ErrNotFound)
	}
	return list[0], nil
}

// Latest returns the newest judgement under the key.
func (l *Ledger) Latest(ctx context.Context, key string) (Judgement, error) {
	return one(l.judgements(ctx, `WHERE key = ? ORDER BY seq DESC LIMIT 1`, key))
}

// LatestOf returns the newest judgement of the manifest under the tag, by whatever
// policy and for whomever it was.
func (l *Ledger) LatestOf(ctx context.Context, name, tag string, d digest.Digest) (Judgement, error) {
	return one(l.judgements(ctx, `WHERE name = ? AND digest = ? AND tag = ? ORDER BY seq DESC LIMIT 1`, name, d, tag))
}

// Get returns the judgement with the id.
func (l *Ledger) Get(ctx context.Context, id string) (Judgement, error) {
	return one(l.judgements(ctx, `WHERE id = ?`, id))
}

// Served returns the newest judgement of each key about the manifest: one for
// every tag and client under which it was pulled.
func (l *Ledger) Served(ctx context.Context, name string, d digest.Digest) ([]Judgement, error) {
	return l.judgements(ctx, `WHERE seq IN (SELECT max(seq) FROM judgements WHERE name = ? AND digest = ? GROUP BY key)
		ORDER BY seq DESC LIMIT 64`, name, d)
}

// Filter narrows a list of judgements; zero fields do not.
type Filter struct {
	Name   string
	Digest digest.Digest
	Tag    string
	Action string
	Since  time.Time
	Until  time.Time
	Before string // continue after the judgement with this id
	Limit  int    // 0 means 100
}

// List returns judgements, newest first.
func (l *Ledger) List(ctx context.Context, f Filter) ([]Judgement, error) {
	var where []string
	var args []any
	add := func(condition string, arg any) { where, args = append(where, condition), append(args, arg) }
	if f.Name != "" {
		add("name = ?", f.Name)
	}
	if f.Digest != "" {
		add("digest = ?", f.Digest)
	}
	if f.Tag != "" {
		add("tag = ?", f.Tag)
	}
	if f.Action != "" {
		add("action = ?", f.Action)
	}
	if !f.Since.IsZero() {
		add("judged_at >= ?", instant(f.Since))
	}
	if !f.Until.IsZero() {
		add("judged_at < ?", instant(f.Until))
	}
	if f.Before != "" {
		add("seq < (SELECT seq FROM judgements WHERE id = ?)", f.Before)
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	query := ""
	if len(where) > 0 {
		query = "WHERE " + strings.Join(where, " AND ")
	}
	return l.judgements(ctx, query+" ORDER BY seq DESC LIMIT ?", append(args, f.Limit)...)
}

// Input returns the document that the judgement with the id was made of.
func (l *Ledger) Input(ctx context.Context, id string) ([]byte, error) {
	return l.input(ctx, "of "+id, `(SELECT input_digest FROM judgements WHERE id = ?)`, id)
}

// input reads the document whose digest is that of the expression.
func (l *Ledger) input(ctx context.Context, which, expression string, arg any) ([]byte, error) {
	var packed []byte
	err := l.read.QueryRowContext(ctx, `SELECT content FROM inputs WHERE digest = `+expression, arg).Scan(&packed) // #nosec G202 -- both are constants of this package
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("the input %s: %w", which, oci.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the input %s: %w", which, err)
	}
	raw, err := l.unpack(packed)
	if err != nil {
		return nil, fmt.Errorf("unpacking the input %s: %w", which, err)
	}
	return raw, nil
}

func (l *Ledger) unpack(packed []byte) ([]byte, error) { return l.unzip.DecodeAll(packed, nil) }

// Prune removes judgements made before the given time, and what only they
// referred to. The newest of each key stays: it may still stand.
func (l *Ledger) Prune(ctx context.Context, before time.Time) (removed int64, err error) {
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("pruning the ledger: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to undo
	result, err := tx.ExecContext(ctx, `DELETE FROM judgements WHERE judged_at < ? AND seq NOT IN (SELECT max(seq) FROM judgements GROUP BY key)`, instant(before))
	if err != nil {
		return 0, fmt.Errorf("pruning the ledger: %w", err)
	}
	for _, orphans := range []string{
		`DELETE FROM inputs WHERE digest NOT IN (SELECT input_digest FROM judgements)`,
		`DELETE FROM pulls WHERE id NOT IN (SELECT id FROM judgements)`,
		`DELETE FROM exception_uses WHERE judgement NOT IN (SELECT id FROM judgements)`,
		`DELETE FROM trials WHERE judgement NOT IN (SELECT id FROM judgements)`,
	} {
		if _, err := tx.ExecContext(ctx, orphans); err != nil {
			return 0, fmt.Errorf("pruning the ledger: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return 0, fmt.Errorf("pruning the ledger: %w", err)
	}
	return result.RowsAffected()
}
