package ledger

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"
)

// ErrUnusable reports a ledger whose file cannot be read or written. What is
// wrapped in it names the file and the way out.
var ErrUnusable = errors.New("the ledger cannot be used")

// trouble says what is wrong with the file, in place of SQLite's own words. Any
// other error stays what it is.
func trouble(path string, err error) error {
	var known *sqlite.Error
	if !errors.As(err, &known) || errors.Is(err, ErrUnusable) {
		return err
	}
	var what, todo string
	switch known.Code() & 0xff { // the rest tells variants apart
	case codes.SQLITE_CORRUPT, codes.SQLITE_NOTADB:
		what = "is damaged"
		todo = "stop the gate, move it away with its -wal and -shm, put a backup in its place or none, and start the gate: " +
			"without one it makes a new ledger and judges again. What you moved is the history of verdicts; sqlite3's .recover may read it"
	case codes.SQLITE_FULL:
		what, todo = "does not fit on its disk", "free some space; the gate goes on by itself"
	case codes.SQLITE_READONLY:
		what, todo = "cannot be written", "make its disk and folder writable for the gate"
	case codes.SQLITE_IOERR, codes.SQLITE_CANTOPEN, codes.SQLITE_PERM:
		what, todo = "cannot be read or written", "look at its disk, its space and its permissions"
	case codes.SQLITE_BUSY:
		what, todo = "is held by another program", "end whatever else has it open"
	default:
		return err
	}
	return fmt.Errorf("%w: %s %s (%w); %s", ErrUnusable, path, what, err, todo)
}

// file opens connections whose errors say what is wrong with the file. Every
// query of the ledger, and the migrations, go through it.
type file struct {
	name string // as the driver reads it
	path string // as a person does
}

var theDriver = &sqlite.Driver{}

// Connect implements driver.Connector.
func (f *file) Connect(context.Context) (driver.Conn, error) {
	conn, err := theDriver.Open(f.name)
	if err != nil {
		return nil, trouble(f.path, err)
	}
	able, ok := conn.(connection)
	if !ok {
		return nil, errors.Join(errors.New("the SQLite driver has changed"), conn.Close())
	}
	return &watchedConn{able, f.path}, nil
}

// Driver implements driver.Connector.
func (*file) Driver() driver.Driver { return theDriver }

// connection is what database/sql uses of a connection.
type connection interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.Pinger
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

type watchedConn struct {
	connection
	path string
}

func (c *watchedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	result, err := c.connection.ExecContext(ctx, query, args)
	return result, trouble(c.path, err)
}

func (c *watchedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.connection.QueryContext(ctx, query, args)
	if err != nil {
		return nil, trouble(c.path, err)
	}
	return &watchedRows{rows, c.path}, nil
}

func (c *watchedConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	stmt, err := c.connection.PrepareContext(ctx, query)
	if err != nil {
		return nil, trouble(c.path, err)
	}
	able, ok := stmt.(statement)
	if !ok {
		return nil, errors.Join(errors.New("the SQLite driver has changed"), stmt.Close())
	}
	return &watchedStmt{able, c.path}, nil
}

func (c *watchedConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	tx, err := c.connection.BeginTx(ctx, opts)
	if err != nil {
		return nil, trouble(c.path, err)
	}
	return &watchedTx{tx, c.path}, nil
}

func (c *watchedConn) Ping(ctx context.Context) error {
	return trouble(c.path, c.connection.Ping(ctx))
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type watchedStmt struct {
	statement
	path string
}

func (s *watchedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	result, err := s.statement.ExecContext(ctx, args)
	return result, trouble(s.path, err)
}

func (s *watchedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := s.statement.QueryContext(ctx, args)
	if err != nil {
		return nil, trouble(s.path, err)
	}
	return &watchedRows{rows, s.path}, nil
}

type watchedRows struct {
	driver.Rows
	path string
}

func (r *watchedRows) Next(row []driver.Value) error {
	if err := r.Rows.Next(row); err == io.EOF {
		return err // which database/sql compares
	} else {
		return trouble(r.path, err)
	}
}

type watchedTx struct {
	driver.Tx
	path string
}

func (t *watchedTx) Commit() error { return trouble(t.path, t.Tx.Commit()) }
