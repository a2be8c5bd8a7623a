package rpmdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"

	sqlite "modernc.org/sqlite"
)

// sqliteLimitLength is SQLITE_LIMIT_LENGTH, the most bytes of one value.
const sqliteLimitLength = 0

// sqliteFile is the path of a database in rpm's form since 4.16.
//
// https://github.com/rpm-software-management/rpm/blob/rpm-4.18.0-release/lib/backend/sqlite.c
type sqliteFile string

// blobs trusts nothing that the file defines: only a real table is read, since
// a view could compute rows without end, and no value may exceed a header.
func (name sqliteFile) blobs(ctx context.Context, visit func([]byte) error) error {
	info, err := os.Stat(string(name))
	if err != nil {
		return err
	}
	left := info.Size() // no byte belongs to two packages
	query := url.Values{"mode": {"ro"}, "_pragma": {"query_only(1)", "trusted_schema(0)", "cell_size_check(1)"}}
	if log, err := os.Stat(string(name) + "-wal"); err == nil && log.Size() > 0 {
		left += log.Size()
	} else {
		query.Set("immutable", "1")
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: string(name), RawQuery: query.Encode()}).String())
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDatabase, err)
	}
	defer conn.Close()
	if _, err := sqlite.Limit(conn, sqliteLimitLength, maxHeader); err != nil {
		return err
	}

	var kind string
	var root int64
	err = conn.QueryRowContext(ctx, `SELECT type, rootpage FROM sqlite_schema WHERE name = 'Packages'`).Scan(&kind, &root)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("%w: it has no table Packages", ErrDatabase)
	case err != nil:
		return broken(ctx, err)
	case kind != "table" || root <= 0:
		return fmt.Errorf("%w: its Packages is no plain table", ErrDatabase)
	}
	rows, err := conn.QueryContext(ctx, `SELECT blob FROM Packages`)
	if err != nil {
		return broken(ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		var blob sql.RawBytes
		if err := rows.Scan(&blob); err != nil {
			return broken(ctx, err)
		}
		if left -= int64(len(blob)); left < 0 {
			return fmt.Errorf("%w: its packages have more bytes than the file", ErrDatabase)
		}
		if err := visit(blob); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return broken(ctx, err)
	}
	return nil
}

// broken tells a file that cannot be read from time that ran out.
func broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w", ErrDatabase, err)
}
