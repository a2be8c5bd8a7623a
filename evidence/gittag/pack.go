package gittag

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/pjbgf/sha1cd"
)

const (
	// maxObject bounds a tag, a commit, a tree or a file, in bytes. A release's
	// notes may be long; git's own limit is the memory.
	maxObject = 1 << 20
	// inflation is how much more than its own bytes a pack may unpack to: what
	// is not needed is unpacked too, to find its end.
	inflation = 16
)

// errLarge reports a pack that unpacks to more than it may.
var errLarge = errors.New("the pack unpacks to too much")

// errLongObject reports an object above maxObject where no other was asked for.
var errLongObject = errors.New("the object is too long")

// errCollision reports an object that was made to share its name with another.
var errCollision = errors.New("it sent an object that was made for a SHA-1 collision: somebody attacks this repository; tell its owners")

// object is a tag, a commit, a tree or a blob as git stores it.
type object struct {
	kind plumbing.ObjectType
	raw  []byte
}

// readPack finds the wanted tags and commits in a pack.
func readPack(ctx context.Context, r io.Reader, wanted []plumbing.Hash, limit int64) (map[plumbing.Hash]object, error) {
	pack, err := openPack(r, limit)
	if err != nil {
		return nil, err
	}
	if err := pack.read(ctx, wanted...); err != nil {
		return nil, err
	}
	return pack.found, nil
}

// packReader reads a pack from front to end, as far as somebody wants. Objects
// above maxObject are passed over, so that one that is wanted may be missing.
//
// https://git-scm.com/docs/gitformat-pack
type packReader struct {
	scanner *packfile.Scanner
	left    uint32 // objects that are still to come
	// limit bounds what is kept of tags and commits, and as much again of trees
	// and blobs; inflation times as much is unpacked.
	limit int64

	files bool // trees and blobs are kept too
	full  bool // there were too many of them, and no more are kept
	only  bool // nothing but what is wanted should be there: an object above maxObject is an error

	found          map[plumbing.Hash]object
	byOffset       map[int64]object
	unpacked       int64
	kept, keptFile int64
}

func openPack(r io.Reader, limit int64) (*packReader, error) {
	p := &packReader{
		scanner: packfile.NewScanner(onlyReader{r}), limit: limit,
		found: map[plumbing.Hash]object{}, byOffset: map[int64]object{},
	}
	var err error
	_, p.left, err = p.scanner.Header()
	return p, err
}

// read reads on until it has the wanted objects, or to the end of the pack.
func (p *packReader) read(ctx context.Context, wanted ...plumbing.Hash) error {
	missing := map[plumbing.Hash]bool{}
	for _, id := range wanted {
		if p.found[id].raw == nil {
			missing[id] = true
		}
	}
	for p.left > 0 && len(missing) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		id, err := p.next(ctx)
		if err != nil {
			return err
		}
		delete(missing, id)
	}
	return nil
}

// next reads one object and returns its name, if it was kept.
func (p *packReader) next(ctx context.Context) (none plumbing.Hash, err error) {
	header, err := p.scanner.NextObjectHeader()
	if err != nil {
		return none, err
	}
	p.left--
	if header.Length < 0 || header.Length > inflation*p.limit-p.unpacked {
		return none, errLarge
	}
	p.unpacked += header.Length

	var base object
	ok := header.Length <= maxObject
	if !ok && p.only {
		return none, errLongObject
	}
	switch header.Type {
	case plumbing.CommitObject, plumbing.TagObject:
	case plumbing.TreeObject, plumbing.BlobObject:
		ok = ok && p.files
	case plumbing.OFSDeltaObject:
		base, ok = p.byOffset[header.OffsetReference], ok && p.byOffset[header.OffsetReference].raw != nil
	case plumbing.REFDeltaObject:
		base, ok = p.found[header.Reference], ok && p.found[header.Reference].raw != nil
	default:
		ok = false
	}
	if !ok {
		_, _, err := p.scanner.NextObject(patient{ctx})
		return none, err
	}
	var content strings.Builder
	if n, _, err := p.scanner.NextObject(&content); err != nil {
		return none, err
	} else if n != header.Length {
		return none, packfile.ErrMalformedPackFile
	}
	o := object{kind: header.Type, raw: []byte(content.String())}
	if header.Type.IsDelta() {
		o.kind = base.kind
		if o.raw, err = patch(base.raw, o.raw); err != nil || o.raw == nil {
			return none, err
		}
	}
	switch o.kind {
	case plumbing.TreeObject, plumbing.BlobObject:
		// An empty one counts too.
		if p.keptFile += int64(len(o.raw)) + 1; p.keptFile > p.limit {
			p.files, p.full = false, true
			return none, nil
		}
	default:
		if p.kept += int64(len(o.raw)); p.kept > p.limit {
			return none, errLarge
		}
	}
	id, err := o.id()
	if err != nil {
		return none, err
	}
	p.found[id], p.byOffset[header.Offset] = o, o
	return id, nil
}

// patch applies a delta, or returns nil when the result would be too long.
func patch(base, delta []byte) ([]byte, error) {
	// The library applies a delta whatever the length of what comes out, which
	// is the second of the two numbers at its head.
	_, n := binary.Uvarint(delta)
	if n <= 0 {
		return nil, packfile.ErrInvalidDelta
	}
	size, m := binary.Uvarint(delta[n:])
	if m <= 0 {
		return nil, packfile.ErrInvalidDelta
	}
	if size > maxObject {
		return nil, nil
	}
	raw, err := packfile.PatchDelta(base, delta)
	if err == nil && len(raw) == 0 {
		return nil, packfile.ErrInvalidDelta
	}
	return raw, err
}

// id is the object's name. go-git computes it too, but does not look at what
// its hash says of collisions.
func (o object) id() (plumbing.Hash, error) {
	sum, collides := sha1cd.Sum(fmt.Appendf(nil, "%s %d\x00%s", o.kind, len(o.raw), o.raw))
	if collides {
		return plumbing.ZeroHash, errCollision
	}
	return sum, nil
}

// patient drops what is written while somebody waits.
type patient struct{ ctx context.Context }

func (p patient) Write(b []byte) (int, error) { return len(b), p.ctx.Err() }

// onlyReader hides that r can seek: packs are read from front to end.
type onlyReader struct{ io.Reader }
