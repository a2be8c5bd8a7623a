package gittag

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
)

const (
	maxPath     = 1024 // bytes
	maxSegments = 32
)

// errNoFile says that there is no file at a path.
var errNoFile = errors.New("there is no such file")

// filter says what the server may leave out. A file is asked for by its name
// when the folders on its way are known, where the server lets one ask so; else
// all that lies no deeper than the file comes with the revision.
//
// https://git-scm.com/docs/git-rev-list#Documentation/git-rev-list.txt---filterltfilter-specgt
func (s *search) filter(refs *packp.AdvRefs) packp.Filter {
	switch {
	case s.paths == "":
		return packp.FilterTreeDepth(0)
	case namable(refs):
		return packp.FilterTreeDepth(1)
	}
	depth := 0
	for _, p := range s.candidatePaths() {
		depth = max(depth, strings.Count(p, "/"))
	}
	return packp.FilterTreeDepth(min(uint64(depth), maxSegments) + 2)
}

// namable says whether the server hands out objects by their names alone.
func namable(refs *packp.AdvRefs) bool {
	return refs.Capabilities.Supports(capability.Filter) && refs.Capabilities.Supports(capability.AllowReachableSHA1InWant)
}

func (s *search) candidatePaths() []string { return strings.Split(s.paths, "\x00") }

// noFile says why no file was read, if one was asked for.
func (s *search) noFile(why string) File {
	if s.paths == "" {
		return File{}
	}
	return File{Path: s.candidatePaths()[0], Err: why}
}

// walk goes from the revision to a file. Each object on the way is named in the
// one before it by the hash of its content, and the first one by the revision:
// whoever hands them out cannot choose what is in the file.
type walk struct {
	*search
	talk     session
	refs     *packp.AdvRefs
	pack     *packReader // the answer that is being read
	arriving *stream
}

// file reads the first of the candidates at which there is a file.
func (w *walk) file(ctx context.Context, revision object) (found File) {
	candidates := w.candidatePaths()
	found.Path = candidates[0]
	asked := w.search
	defer func() {
		if p := recover(); p != nil {
			found.Err = w.broken("reading what it sent failed: %v", p).Error()
		}
		w.search = asked
	}()
	for _, found.Path = range candidates {
		// Its errors speak of the file.
		mine := *asked
		mine.doing = fmt.Sprintf("reading %.200q of %s at %s", found.Path, w.repository, w.revision)
		w.search = &mine
		content, err := w.follow(ctx, revision, found.Path)
		if errors.Is(err, errNoFile) {
			continue
		}
		if err != nil {
			var failed *failure
			if err = mine.failed(ctx, err); errors.As(err, &failed) {
				asked.again = failed.temporary
			}
			found.Err = err.Error()
			return found
		}
		found.Content = content
		return found
	}
	return File{Path: candidates[0], Err: fmt.Sprintf("there is no %s in %s at %s", shown(candidates), w.repository, w.revision)}
}

func shown(paths []string) string {
	var list []string
	for _, p := range paths {
		list = append(list, plain(p))
	}
	return strings.Join(list, " or ")
}

// follow reads the file at the path.
func (w *walk) follow(ctx context.Context, revision object, at string) (string, error) {
	if !plainPath(at) {
		return "", w.fail(false, nil, "that is not the plain path of a file in a repository")
	}
	if revision.kind != plumbing.CommitObject {
		return "", w.fail(false, nil, "the repository did not hand out the commit, or it is larger than %d bytes", maxObject)
	}
	id, err := treeOf(revision.raw)
	if err != nil {
		return "", w.fail(false, nil, "the commit is malformed: %v", err)
	}
	segments := strings.Split(at, "/")
	for i, name := range segments {
		tree, err := w.object(ctx, id, plumbing.TreeObject)
		if err != nil {
			return "", err
		}
		e, err := entryOf(tree, name)
		if err != nil {
			return "", w.fail(false, nil, "its folder is malformed: %v", err)
		}
		last := i == len(segments)-1
		here := path.Join(segments[:i+1]...)
		switch e.mode {
		case filemode.Empty:
			return "", errNoFile
		case filemode.Symlink:
			return "", w.fail(false, nil, "%.200q is a symbolic link, which TrustGate does not follow", here)
		case filemode.Submodule:
			return "", w.fail(false, nil, "%.200q is a submodule, which is another repository", here)
		case filemode.Dir:
			if last {
				return "", errNoFile
			}
		case filemode.Regular, filemode.Executable, filemode.Deprecated:
			if !last {
				return "", errNoFile
			}
		default:
			return "", w.fail(false, nil, "%.200q is neither a file nor a folder", here)
		}
		id = e.id
	}
	content, err := w.object(ctx, id, plumbing.BlobObject)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(content) {
		return "", w.fail(false, nil, "it is not text in UTF-8")
	}
	return string(content), nil
}

// object has the object of that name: out of the answer that is being read, or
// by asking for it.
func (w *walk) object(ctx context.Context, id plumbing.Hash, kind plumbing.ObjectType) ([]byte, error) {
	if err := w.pack.read(ctx, id); err != nil {
		return nil, err
	}
	o, found := w.pack.found[id]
	if !found && w.pack.full {
		return nil, errLarge
	}
	if !found && namable(w.refs) {
		var err error
		if o, err = w.ask(ctx, id); err != nil {
			return nil, err
		}
	}
	if o.kind != kind {
		return nil, w.fail(false, nil, "the repository did not hand out the %s %s, or it is larger than %d bytes", kind, id, maxObject)
	}
	return o.raw, nil
}

// ask asks for one more object.
func (w *walk) ask(ctx context.Context, id plumbing.Hash) (object, error) {
	w.arriving.drain()
	w.arriving.Close()
	if _, once := w.talk.(*daemon); once {
		// Over git:// a conversation ends with its first pack.
		w.talk.Close()
		talk, refs, err := w.connect(ctx)
		if err != nil {
			return object{}, err
		}
		w.talk, w.refs = talk, refs
	}
	arriving, err := fetch(ctx, w.talk, w.refs, []plumbing.Hash{id}, packp.FilterTreeDepth(0))
	if err != nil {
		if strings.Contains(err.Error(), "not our ref") {
			return object{}, nil
		}
		return object{}, err
	}
	w.arriving = arriving
	pack, err := openPack(arriving, w.maxBytes)
	if err != nil {
		return object{}, err
	}
	pack.files, pack.only = true, true
	if err := pack.read(ctx, id); err != nil {
		return object{}, err
	}
	// The folders that were read before stay at hand.
	for known, o := range w.pack.found {
		pack.found[known] = o
	}
	w.pack = pack
	return pack.found[id], nil
}

// plainPath says whether p is a path from the repository's root down.
func plainPath(p string) bool {
	segments := strings.Split(p, "/")
	return len(p) <= maxPath && len(segments) <= maxSegments && utf8.ValidString(p) && printable(p) &&
		!slices.ContainsFunc(segments, func(s string) bool { return s == "" || s == "." || s == ".." })
}

// treeOf is the name of a commit's tree, which its first line holds.
func treeOf(commit []byte) (plumbing.Hash, error) {
	line, _, _ := strings.Cut(string(commit[:min(len(commit), 64)]), "\n")
	name, ok := strings.CutPrefix(line, "tree ")
	if !ok || !sha1ID.MatchString(name) {
		return plumbing.ZeroHash, errors.New("it does not begin with its tree")
	}
	return plumbing.NewHash(name), nil
}

// entry is what a folder holds under one name; its mode is Empty when there is
// no such name.
type entry struct {
	mode filemode.FileMode
	id   plumbing.Hash
}

// entryOf looks a name up in a tree, which is any number of
//
//	<mode, octal> <name>\0<20 bytes of the object's name>
//
// It reads all of the tree: two entries of one name would be two files to two
// readers.
//
// https://git-scm.com/docs/gitformat-pack and
// https://git-scm.com/book/en/v2/Git-Internals-Git-Objects#_tree_objects
func entryOf(tree []byte, name string) (entry, error) {
	var found entry
	for rest := tree; len(rest) > 0; {
		head, after, ended := bytes.Cut(rest, []byte{0})
		octal, called, spaced := bytes.Cut(head, []byte{' '})
		if !ended || !spaced || len(called) == 0 || len(after) < len(plumbing.Hash{}) {
			return entry{}, errors.New("an entry is cut short")
		}
		rest = after[len(plumbing.Hash{}):]
		if string(called) != name {
			continue
		}
		mode, err := filemode.New(string(octal))
		if err != nil || mode == filemode.Empty || len(octal) > 6 {
			return entry{}, fmt.Errorf("the mode %.20q of %.200q cannot be read", octal, name)
		}
		if found.mode != filemode.Empty {
			return entry{}, fmt.Errorf("%.200q is there twice", name)
		}
		found.mode = mode
		copy(found.id[:], after)
	}
	return found, nil
}
