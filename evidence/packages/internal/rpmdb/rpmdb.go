// Package rpmdb reads the packages out of rpm's database: SQLite, NDB or
// Berkeley DB.
//
// The database comes out of an image, so everything in it is foreign. The
// readers that others keep start goroutines that a crafted file makes loop or
// panic, where no caller can stop or recover them; in a gate, one image would
// be the end of every pull. This one is called for each package in turn, reads
// no byte twice, holds one header at a time and stops with the context.
package rpmdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrDatabase reports a file that is no rpm database that TrustGate can read.
var ErrDatabase = errors.New("not an rpm database that TrustGate can read")

const (
	// maxHeader bounds one package's header, in bytes. rpm itself allows four
	// times as much; the header of a kernel's sources, with eighty thousand
	// files, has a fifth of it.
	maxHeader = 64 << 20

	// maxHeaders bounds the packages of one database.
	maxHeaders = 100_000
)

// Read calls visit with the header of each package, in the file's order, until
// it answers with an error. For SQLite, a write-ahead log is read with the file
// when it lies beside it.
//
// https://rpm-software-management.github.io/rpm/manual/devel_documentation.html
func Read(ctx context.Context, name string, visit func(*Header) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var magic [16]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil {
		return fmt.Errorf("%w: it has only %d bytes", ErrDatabase, info.Size())
	}
	var blobs func(context.Context, func([]byte) error) error
	switch {
	case bytes.Equal(magic[:], []byte("SQLite format 3\x00")):
		blobs = sqliteFile(name).blobs
	case bytes.Equal(magic[:8], []byte("RpmP\x00\x00\x00\x00")):
		blobs = ndbFile{f, info.Size()}.blobs
	case isBerkeley(magic[12:16]):
		blobs = berkeleyFile{f, info.Size()}.blobs
	default:
		return fmt.Errorf("%w: it is neither SQLite, NDB nor a Berkeley DB hash", ErrDatabase)
	}
	seen := 0
	return blobs(ctx, func(blob []byte) error {
		if seen++; seen > maxHeaders {
			return fmt.Errorf("%w: more than %d packages", ErrDatabase, maxHeaders)
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := parseHeader(blob)
		if err != nil {
			return fmt.Errorf("%w: package %d: %w", ErrDatabase, seen, err)
		}
		return visit(h)
	})
}
