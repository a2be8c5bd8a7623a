// Package ledger is the durable record: every verdict with what it was based
// on, what manifests contain, what tags named, and who pulled.
//
// It stores and finds; it does not know what a verdict means and never makes or
// changes one.
package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewer reports a ledger that a newer program has written.
var ErrNewer = errors.New("the ledger was written by a newer version; use that version, or another ledger")

// Ledger is an open ledger. It is safe for concurrent use.
type Ledger struct {
	write *sql.DB // one connection: SQLite has one writer
	read  *sql.DB
	pack  *zstd.Encoder
	unzip *zstd.Decoder
	pulls *pullCounter
}

// Open opens the ledger that dsn names and brings its tables up to date.
// "sqlite:PATH" is a file, whose folder is made if it is missing;
// "sqlite::memory:" is gone when it is closed.
func Open(ctx context.Context, dsn string) (*Ledger, error) {
	path, ok := strings.CutPrefix(dsn, "sqlite:")
	if !ok || path == "" {
		return nil, fmt.Errorf("the ledger %q: only sqlite:PATH is known", redact(dsn))
	}
	l := &Ledger{}
	if err := l.connect(path); err != nil {
		return nil, fmt.Errorf("opening the ledger %s: %w", path, err)
	}
	if err := l.migrate(ctx); err != nil {
		l.disconnect()
		return nil, fmt.Errorf("opening the ledger %s: %w", path, err)
	}
	var err error
	if l.pack, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)); err != nil {
		l.disconnect()
		return nil, err
	}
	// DecodeAll is safe for concurrent use, with as many decoders as there are
	// processors.
	if l.unzip, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxInput)); err != nil {
		l.disconnect()
		return nil, err
	}
	l.pulls = newPullCounter(l)
	return l, nil
}

func redact(dsn string) string {
	scheme, _, _ := strings.Cut(dsn, ":")
	return scheme + ":…"
}

var memories atomic.Int64

func (l *Ledger) connect(path string) error {
	shown := path
	pragmas := url.Values{"_pragma": {
		"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)",
	}, "_txlock": {"immediate"}}
	if path == ":memory:" {
		pragmas.Set("mode", "memory")
		pragmas.Set("cache", "shared")
		path = fmt.Sprintf("memory-%d", memories.Add(1))
	} else if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	name := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: pragmas.Encode()}).String()
	database := &file{name: name, path: shown}
	l.write = sql.OpenDB(database)
	l.write.SetMaxOpenConns(1)
	l.read = sql.OpenDB(database)
	l.read.SetMaxOpenConns(8)
	l.read.SetMaxIdleConns(8)
	return nil
}

func (l *Ledger) migrate(ctx context.Context) error {
	if err := l.write.PingContext(ctx); err != nil {
		return err
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, l.write, files, goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	at, newest, err := provider.GetVersions(ctx)
	if err != nil {
		return err
	}
	if at > newest {
		return fmt.Errorf("%w (it is at %d, this program knows %d)", ErrNewer, at, newest)
	}
	_, err = provider.Up(ctx)
	return err
}

func (l *Ledger) disconnect() {
	if l.read != nil {
		l.read.Close()
	}
	if l.write != nil {
		l.write.Close()
	}
}

// Close writes what is still counted in memory and closes the ledger.
func (l *Ledger) Close() error {
	err := l.pulls.close()
	l.unzip.Close()
	return errors.Join(err, l.read.Close(), l.write.Close())
}

// encoding leaves out the letters that are misread aloud or on paper.
var encoding = base32.NewEncoding("abcdefghijkmnpqrstuvwxyz23456789").WithPadding(base32.NoPadding)

// NewID makes the name of a judgement: short enough to be read over the
// telephone, random enough not to be guessed or met twice.
func NewID() string {
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails
	return "tg-" + encoding.EncodeToString(raw[:])[:12]
}

func instant(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func moment(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
