package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
)

// Header is what the database keeps of one package. It is good until visit
// answers.
//
// https://rpm-software-management.github.io/rpm/manual/format_header.html
type Header struct {
	Name    string
	Epoch   string // "" when there is none
	Version string
	Release string
	Arch    string
	Source  string // the file name of the source package
	License string

	DigestAlgorithm uint32 // of every file's digest

	dirs                  []string
	dirIndex              ints
	names, digests, links strs
	modes, flags, verify  ints
	states                ints
}

// The algorithms of files' digests, from RFC 4880, section 9.4.
const (
	DigestMD5    = 1
	DigestSHA1   = 2
	DigestSHA256 = 8
)

// What flags say about a file.
//
// https://github.com/rpm-software-management/rpm/blob/rpm-4.18.0-release/lib/rpmfiles.h
const (
	FlagConfig    = 1 << 0
	FlagMissingOK = 1 << 3
	FlagGhost     = 1 << 6

	VerifyDigest = 1 << 0
	VerifyMode   = 1 << 6
	VerifyLink   = 1 << 4

	StateNormal       = 0
	StateNotInstalled = 2
)

// File is one file as the package has it.
type File struct {
	Path        string
	Digest      string // hexadecimal; "" for what is no regular file
	Link        string // the target of a symbolic link
	Mode        uint16 // with the file's type
	Flags       uint32
	VerifyFlags uint32
	State       uint8
}

const (
	tagName            = 1000
	tagVersion         = 1001
	tagRelease         = 1002
	tagEpoch           = 1003
	tagLicense         = 1014
	tagArch            = 1022
	tagOldFileNames    = 1027
	tagFileStates      = 1029
	tagFileModes       = 1030
	tagFileDigests     = 1035
	tagFileLinkTos     = 1036
	tagFileFlags       = 1037
	tagSourceRPM       = 1044
	tagFileVerifyFlags = 1045
	tagDirIndexes      = 1116
	tagBaseNames       = 1117
	tagDirNames        = 1118
	tagDigestAlgorithm = 5011

	typeChar        = 1
	typeInt8        = 2
	typeInt16       = 3
	typeInt32       = 4
	typeString      = 6
	typeStringArray = 8
	typeI18NString  = 9

	// maxEntries is rpm's own bound for the entries of a header.
	maxEntries = 0xffff
	// maxDirs bounds the folders of one package, which are held in memory.
	maxDirs = 1 << 18
)

// entry is one tag's place in the data.
type entry struct {
	kind  uint32
	count uint32
	data  []byte // from the tag's offset to the end of all data
}

func parseHeader(blob []byte) (*Header, error) {
	if len(blob) < 8 {
		return nil, fmt.Errorf("its header has %d bytes", len(blob))
	}
	n, size := int64(binary.BigEndian.Uint32(blob)), int64(binary.BigEndian.Uint32(blob[4:]))
	if n == 0 || n > maxEntries || 8+16*n+size > int64(len(blob)) {
		return nil, fmt.Errorf("its header has %d entries and %d bytes of data in %d bytes", n, size, len(blob))
	}
	index, data := blob[8:8+16*n], blob[8+16*n:8+16*n+size]
	tags := map[uint32]entry{}
	for ; len(index) > 0; index = index[16:] {
		tag, offset := binary.BigEndian.Uint32(index), binary.BigEndian.Uint32(index[8:])
		if !wanted(tag) {
			continue
		}
		if int64(offset) > size {
			return nil, fmt.Errorf("tag %d lies outside of its header", tag)
		}
		if _, ok := tags[tag]; ok {
			return nil, fmt.Errorf("tag %d appears twice", tag)
		}
		tags[tag] = entry{
			kind:  binary.BigEndian.Uint32(index[4:]),
			count: binary.BigEndian.Uint32(index[12:]),
			data:  data[offset:],
		}
	}
	r := reader{tags: tags}
	h := &Header{
		Name: r.text(tagName), Version: r.text(tagVersion), Release: r.text(tagRelease),
		Arch: r.text(tagArch), Source: r.text(tagSourceRPM), License: r.text(tagLicense),
		DigestAlgorithm: DigestMD5,
	}
	if v := r.ints(tagEpoch); v.count > 0 {
		h.Epoch = strconv.FormatUint(uint64(v.at(0)), 10)
	}
	if v := r.ints(tagDigestAlgorithm); v.count > 0 {
		h.DigestAlgorithm = v.at(0)
	}
	h.names, h.digests, h.links = r.strings(tagBaseNames), r.strings(tagFileDigests), r.strings(tagFileLinkTos)
	h.dirIndex, h.modes, h.flags = r.ints(tagDirIndexes), r.ints(tagFileModes), r.ints(tagFileFlags)
	h.verify, h.states = r.ints(tagFileVerifyFlags), r.ints(tagFileStates)
	dirs := r.strings(tagDirNames)
	if r.err != nil {
		return nil, r.err
	}
	switch {
	case h.Name == "":
		return nil, errors.New("it has no name")
	case h.names.count == 0 && r.has(tagOldFileNames):
		return nil, fmt.Errorf("%s lists its files in the form of rpm 3", h.Name)
	case dirs.count > maxDirs:
		return nil, fmt.Errorf("%s has %d folders, more than %d", h.Name, dirs.count, maxDirs)
	}
	for range dirs.count {
		h.dirs = append(h.dirs, dirs.next())
	}
	files := h.names.count
	if h.dirIndex.count != files {
		return nil, fmt.Errorf("%s has %d files in %d folders", h.Name, files, h.dirIndex.count)
	}
	for i := range files {
		if int64(h.dirIndex.at(i)) >= int64(len(h.dirs)) {
			return nil, fmt.Errorf("%s has a file in a folder that it does not have", h.Name)
		}
	}
	for _, n := range []int{h.digests.count, h.links.count, h.modes.count, h.flags.count, h.verify.count, h.states.count} {
		if n != 0 && n != files {
			return nil, fmt.Errorf("%s has %d files and says something of %d", h.Name, files, n)
		}
	}
	return h, nil
}

func wanted(tag uint32) bool {
	switch tag {
	case tagName, tagVersion, tagRelease, tagEpoch, tagLicense, tagArch, tagOldFileNames, tagFileStates, tagFileModes,
		tagFileDigests, tagFileLinkTos, tagFileFlags, tagSourceRPM, tagFileVerifyFlags, tagDirIndexes, tagBaseNames,
		tagDirNames, tagDigestAlgorithm:
		return true
	}
	return false
}

// Files lists the package's files.
func (h *Header) Files() iter.Seq[File] {
	return func(yield func(File) bool) {
		names, digests, links := h.names, h.digests, h.links
		for i := range h.names.count {
			f := File{
				Path:        h.dirs[h.dirIndex.at(i)] + names.next(),
				Digest:      digests.next(),
				Link:        links.next(),
				Mode:        uint16(h.modes.or(i, 0)),
				Flags:       h.flags.or(i, 0),
				VerifyFlags: h.verify.or(i, ^uint32(0)),
				State:       uint8(h.states.or(i, StateNormal)),
			}
			if !yield(f) {
				return
			}
		}
	}
}

// reader picks values out of the data and remembers the first that is not what
// it should be.
type reader struct {
	tags map[uint32]entry
	err  error
}

func (r *reader) has(tag uint32) bool { _, ok := r.tags[tag]; return ok }

func (r *reader) fail(tag uint32) {
	if r.err == nil {
		r.err = fmt.Errorf("tag %d is not what it should be", tag)
	}
}

func (r *reader) text(tag uint32) string {
	all := r.strings(tag)
	if s := all.next(); s != "(none)" {
		return s
	}
	return ""
}

// strs is an array of strings that each end with a zero byte.
type strs struct {
	count int
	data  string
}

// next takes the first string off; "" when there is none.
func (s *strs) next() string {
	v, rest, _ := strings.Cut(s.data, "\x00")
	s.data = rest
	return v
}

func (r *reader) strings(tag uint32) strs {
	e, ok := r.tags[tag]
	if !ok {
		return strs{}
	}
	if e.kind != typeStringArray && e.kind != typeI18NString && (e.kind != typeString || e.count != 1) {
		r.fail(tag)
		return strs{}
	}
	end, ok := ends(e.data, e.count)
	if !ok {
		r.fail(tag)
		return strs{}
	}
	return strs{int(e.count), string(e.data[:end])}
}

// ends says where the count-th string ends.
func ends(data []byte, count uint32) (int, bool) {
	if count == 0 {
		return 0, true
	}
	for i, b := range data {
		if b != 0 {
			continue
		}
		if count--; count == 0 {
			return i + 1, true
		}
	}
	return 0, false
}

// ints is an array of numbers of one, two or four bytes.
type ints struct {
	count int
	width int
	data  []byte
}

func (v ints) at(i int) uint32 {
	switch v.width {
	case 1:
		return uint32(v.data[i])
	case 2:
		return uint32(binary.BigEndian.Uint16(v.data[2*i:]))
	}
	return binary.BigEndian.Uint32(v.data[4*i:])
}

func (v ints) or(i int, missing uint32) uint32 {
	if v.count == 0 {
		return missing
	}
	return v.at(i)
}

func (r *reader) ints(tag uint32) ints {
	e, ok := r.tags[tag]
	if !ok {
		return ints{}
	}
	width := 0
	switch e.kind {
	case typeChar, typeInt8:
		width = 1
	case typeInt16:
		width = 2
	case typeInt32:
		width = 4
	}
	if width == 0 || int64(e.count)*int64(width) > int64(len(e.data)) {
		r.fail(tag)
		return ints{}
	}
	return ints{int(e.count), width, e.data[:int(e.count)*width]}
}
