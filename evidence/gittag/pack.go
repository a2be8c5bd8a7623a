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
	// maxObject bounds a tag or a commit, in bytes. A release's notes may be
	// long; git's own limit is the memory.
	maxObject = 1 << 20
	// inflation is how much more than its own bytes a pack may unpack to: what
	// is not needed is unpacked too, to find its end.
	inflation = 16
)

// errLarge reports a pack that unpacks to more than it may.
var errLarge = errors.New("the pack unpacks to too much")

// errCollision reports an object that was made to share its name with another.
var errCollision = errors.New("it sent an object that was made for a SHA-1 collision: somebody attacks this repository; tell its owners")

// object is a tag or a commit as git stores it.
type object struct {
	kind plumbing.ObjectType
	raw  []byte
}

// readPack finds the wanted objects in a pack and stops when it has them. Trees
// and blobs are passed over, and objects above maxObject too, so that one that
// is wanted may be missing from the result. limit bounds what is kept, and
// inflation times as much what is unpacked.
//
// https://git-scm.com/docs/gitformat-pack
func readPack(ctx context.Context, r io.Reader, wanted []plumbing.Hash, limit int64) (map[plumbing.Hash]object, error) {
	pack := packfile.NewScanner(onlyReader{r})
	_, count, err := pack.Header()
	if err != nil {
		return nil, err
	}
	missing := map[plumbing.Hash]bool{}
	for _, id := range wanted {
		missing[id] = true
	}
	found := map[plumbing.Hash]object{}
	byOffset := map[int64]object{}
	var kept, unpacked int64
	for ; count > 0 && len(missing) > 0; count-- {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		header, err := pack.NextObjectHeader()
		if err != nil {
			return nil, err
		}
		if header.Length < 0 || header.Length > inflation*limit-unpacked {
			return nil, errLarge
		}
		unpacked += header.Length

		var base object
		ok := header.Length <= maxObject
		switch header.Type {
		case plumbing.CommitObject, plumbing.TagObject:
		case plumbing.OFSDeltaObject:
			base, ok = byOffset[header.OffsetReference], ok && byOffset[header.OffsetReference].raw != nil
		case plumbing.REFDeltaObject:
			base, ok = found[header.Reference], ok && found[header.Reference].raw != nil
		default:
			ok = false
		}
		if !ok {
			if _, _, err := pack.NextObject(patient{ctx}); err != nil {
				return nil, err
			}
			continue
		}
		var content strings.Builder
		if n, _, err := pack.NextObject(&content); err != nil {
			return nil, err
		} else if n != header.Length {
			return nil, packfile.ErrMalformedPackFile
		}
		o := object{kind: header.Type, raw: []byte(content.String())}
		if header.Type.IsDelta() {
			o.kind = base.kind
			if o.raw, err = patch(base.raw, o.raw); err != nil {
				return nil, err
			}
			if o.raw == nil {
				continue
			}
		}
		if kept += int64(len(o.raw)); kept > limit {
			return nil, errLarge
		}
		id, err := o.id()
		if err != nil {
			return nil, err
		}
		found[id], byOffset[header.Offset] = o, o
		delete(missing, id)
	}
	return found, nil
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
