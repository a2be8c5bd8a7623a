package rpmdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// berkeleyFile is a database in the form that rpm used up to 4.15: a Berkeley
// DB hash from a number to a package's header.
//
// https://github.com/berkeleydb/libdb/blob/v5.3.28/src/dbinc/db_page.h
type berkeleyFile struct {
	r    io.ReaderAt
	size int64
}

const (
	berkeleyMagic      = 0x00061561
	berkeleyPageHeader = 26

	pageHashUnsorted = 2
	pageOverflow     = 7
	pageHashMeta     = 8
	pageHash         = 13

	itemKeyData = 1 // the value lies in the page
	itemOffPage = 3 // the value lies in a chain of overflow pages
)

func isBerkeley(magic []byte) bool {
	return binary.LittleEndian.Uint32(magic) == berkeleyMagic || binary.BigEndian.Uint32(magic) == berkeleyMagic
}

func (f berkeleyFile) blobs(ctx context.Context, visit func([]byte) error) error {
	var meta [72]byte
	if _, err := f.r.ReadAt(meta[:], 0); err != nil {
		return fmt.Errorf("%w: %w", ErrDatabase, err)
	}
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint32(meta[12:]) != berkeleyMagic {
		order = binary.BigEndian
	}
	size, last := int64(order.Uint32(meta[20:])), int64(order.Uint32(meta[32:]))
	switch {
	case meta[24] != 0:
		return fmt.Errorf("%w: it is encrypted", ErrDatabase)
	case meta[25] != pageHashMeta:
		return fmt.Errorf("%w: a Berkeley DB, but not a hash", ErrDatabase)
	case size < 512 || size > 64<<10 || size&(size-1) != 0:
		return fmt.Errorf("%w: pages of %d bytes", ErrDatabase, size)
	case (last+1)*size > f.size:
		return fmt.Errorf("%w: %d pages of %d bytes in %d", ErrDatabase, last+1, size, f.size)
	}

	pages := berkeleyPages{f.r, order, size, last, make([]byte, size), f.size}
	page := make([]byte, size)
	for n := int64(1); n <= last; n++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := f.r.ReadAt(page, n*size); err != nil {
			return fmt.Errorf("%w: page %d: %w", ErrDatabase, n, err)
		}
		if kind := page[25]; kind != pageHash && kind != pageHashUnsorted {
			continue
		}
		if err := pages.hash(page, visit); err != nil {
			if errors.Is(err, errPage) {
				return fmt.Errorf("%w: page %d: %w", ErrDatabase, n, err)
			}
			return err
		}
	}
	return nil
}

var errPage = errors.New("it contradicts itself")

type berkeleyPages struct {
	r     io.ReaderAt
	order binary.ByteOrder
	size  int64
	last  int64
	page  []byte // the overflow page at hand
	left  int64  // bytes that no value has claimed; no page belongs to two
}

// hash goes through the pairs of one page. Items grow from its end towards its
// head, the offsets of keys and values alternate.
func (p *berkeleyPages) hash(page []byte, visit func([]byte) error) error {
	items := int(p.order.Uint16(page[20:]))
	if items%2 != 0 || berkeleyPageHeader+2*items > len(page) {
		return fmt.Errorf("%w: %d items", errPage, items)
	}
	offset := func(i int) int { return int(p.order.Uint16(page[berkeleyPageHeader+2*i:])) }
	for i := 1; i < items; i += 2 {
		at, end := offset(i), offset(i-1)
		if at < berkeleyPageHeader+2*items || at >= end || end > len(page) {
			return fmt.Errorf("%w: item %d lies at %d", errPage, i, at)
		}
		var value []byte
		switch item := page[at:end]; item[0] {
		case itemOffPage:
			if len(item) < 12 {
				return fmt.Errorf("%w: item %d has %d bytes", errPage, i, len(item))
			}
			var err error
			if value, err = p.chain(int64(p.order.Uint32(item[4:])), int64(p.order.Uint32(item[8:]))); err != nil {
				return err
			}
		case itemKeyData:
			// The one value without a header is the highest number so far.
			if value = bytes.Clone(item[1:]); len(value) <= 4 {
				continue
			}
		default:
			return fmt.Errorf("%w: item %d is of kind %d", errPage, i, item[0])
		}
		if err := visit(value); err != nil {
			return err
		}
	}
	return nil
}

// chain joins the overflow pages from the given one on.
func (p *berkeleyPages) chain(page, length int64) ([]byte, error) {
	if length > maxHeader || length > p.left {
		return nil, fmt.Errorf("%w: a header of %d bytes", errPage, length)
	}
	p.left -= length
	value := make([]byte, 0, length)
	for page != 0 {
		if page > p.last {
			return nil, fmt.Errorf("%w: there is no page %d", errPage, page)
		}
		if _, err := p.r.ReadAt(p.page, page*p.size); err != nil {
			return nil, fmt.Errorf("%w: page %d: %w", errPage, page, err)
		}
		n := int64(p.order.Uint16(p.page[22:]))
		if p.page[25] != pageOverflow || n == 0 || berkeleyPageHeader+n > p.size || int64(len(value))+n > length {
			return nil, fmt.Errorf("%w: page %d is no part of a header of %d bytes", errPage, page, length)
		}
		value = append(value, p.page[berkeleyPageHeader:berkeleyPageHeader+n]...)
		page = int64(p.order.Uint32(p.page[16:]))
	}
	if int64(len(value)) != length {
		return nil, fmt.Errorf("%w: a header of %d bytes ends after %d", errPage, length, len(value))
	}
	return value, nil
}
