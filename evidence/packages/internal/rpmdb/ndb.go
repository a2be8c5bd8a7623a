package rpmdb

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
)

// ndbFile is a database in the form that SUSE uses.
//
// https://github.com/rpm-software-management/rpm/blob/rpm-4.18.0-release/lib/backend/ndb/rpmpkg.c
type ndbFile struct {
	r    io.ReaderAt
	size int64
}

const (
	ndbSlotPage = 4096
	ndbBlock    = 16 // also the size of a slot and of a blob's own header
)

func (f ndbFile) blobs(ctx context.Context, visit func([]byte) error) error {
	var head [ndbBlock]byte
	if _, err := f.r.ReadAt(head[:], 0); err != nil {
		return fmt.Errorf("%w: %w", ErrDatabase, err)
	}
	pages := int64(binary.LittleEndian.Uint32(head[12:]))
	if pages == 0 || pages*ndbSlotPage > f.size {
		return fmt.Errorf("%w: %d slot pages in %d bytes", ErrDatabase, pages, f.size)
	}
	left := f.size // no byte belongs to two packages
	var page [ndbSlotPage]byte
	for p := range pages {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := f.r.ReadAt(page[:], p*ndbSlotPage); err != nil {
			return fmt.Errorf("%w: %w", ErrDatabase, err)
		}
		first := 0
		if p == 0 {
			first = 2 // the file's own header is as long as two slots
		}
		for s := first; s < ndbSlotPage/ndbBlock; s++ {
			slot := page[s*ndbBlock:]
			if string(slot[:4]) != "Slot" {
				return fmt.Errorf("%w: slot %d of page %d has no magic", ErrDatabase, s, p)
			}
			id := binary.LittleEndian.Uint32(slot[4:])
			if id == 0 {
				continue
			}
			blob, err := f.blob(id, int64(binary.LittleEndian.Uint32(slot[8:]))*ndbBlock, &left)
			if err != nil {
				return fmt.Errorf("%w: package %d: %w", ErrDatabase, id, err)
			}
			if err := visit(blob); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f ndbFile) blob(id uint32, offset int64, left *int64) ([]byte, error) {
	var head [ndbBlock]byte
	if _, err := f.r.ReadAt(head[:], offset); err != nil {
		return nil, err
	}
	if string(head[:4]) != "BlbS" || binary.LittleEndian.Uint32(head[4:]) != id {
		return nil, fmt.Errorf("there is no blob at byte %d", offset)
	}
	n := int64(binary.LittleEndian.Uint32(head[12:]))
	if *left -= n; n > maxHeader || *left < 0 {
		return nil, fmt.Errorf("a header of %d bytes", n)
	}
	blob := make([]byte, n)
	if _, err := f.r.ReadAt(blob, offset+ndbBlock); err != nil {
		return nil, err
	}
	return blob, nil
}
