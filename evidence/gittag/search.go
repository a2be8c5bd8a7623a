package gittag

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/transport"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/openpgp"
)

// maxTags bounds the tags at one revision that are looked at. A repository of
// many modules has one for each that it releases.
const maxTags = 64

const tagPrefix = "refs/tags/"

// search is one look-up.
type search struct {
	*Verifier
	question
	meter *meter
	doing string // what errors begin with
	again bool   // something failed that may not fail again
}

func (s *search) run(ctx context.Context) (Result, error) {
	result := Result{Revision: s.revision}
	talk, refs, err := s.connect(ctx)
	if errors.Is(err, transport.ErrEmptyRemoteRepository) {
		result.Tag.Err, result.Commit.Err = "the repository is empty", "the repository is empty"
		result.File = s.noFile(result.Commit.Err)
		return result, nil
	}
	if err != nil {
		return Result{}, s.failed(ctx, err)
	}
	defer func() { talk.Close() }()

	revision := plumbing.NewHash(s.revision)
	tags := s.candidates(refs)
	looked := tags[:min(len(tags), maxTags)]
	var wants []plumbing.Hash
	for _, t := range looked {
		if t.annotated {
			wants = append(wants, t.id)
		}
	}
	wanted := append(slices.Clone(wants), revision)
	if len(wants) == 0 {
		// A tag brings the commit that it points at; without one, the commit
		// itself must be on offer.
		wants = wanted
	}
	var pack *packReader
	var arriving *stream
	if len(wanted) > 1 || offered(refs, revision) {
		if arriving, err = fetch(ctx, talk, refs, wants, s.filter(refs)); err == nil {
			defer func() { arriving.Close() }()
			if pack, err = openPack(arriving, s.maxBytes); err == nil {
				pack.files = s.paths != ""
				err = pack.read(ctx, wanted...)
			}
		}
	} else {
		result.Commit.Err = "no ref of the repository is at the revision, and its server hands out no other commits"
	}
	switch {
	case err == nil:
	case strings.Contains(err.Error(), "not our ref"):
		// The library passes the server's word on as text.
		if len(wanted) > 1 {
			return Result{}, s.fail(true, nil, "its tags changed while they were read; try again")
		}
		result.Commit.Err = "the repository has no such commit"
	default:
		return Result{}, s.failed(ctx, err)
	}
	objects := map[plumbing.Hash]object{}
	if pack != nil {
		objects = pack.found
	}
	missing := result.Commit.Err
	if missing == "" {
		result.Commit = s.commit(objects[revision])
	}
	result.Tag = s.choose(refs, looked, objects)
	if n := len(tags) - len(looked); n > 0 && !result.Tag.By.Verified() {
		result.Tag.Err += fmt.Sprintf(" (%d more tags point at the revision, and were not looked at)", n)
	}
	switch {
	case s.paths == "":
	case missing != "":
		result.File = s.noFile(missing)
	default:
		w := &walk{search: s, talk: talk, refs: refs, pack: pack, arriving: arriving}
		result.File = w.file(ctx, objects[revision])
		talk, arriving = w.talk, w.arriving
	}
	return result, nil
}

// connect asks for the refs.
func (s *search) connect(ctx context.Context) (session, *packp.AdvRefs, error) {
	// Servers that are plain about paths want the ending that most URLs leave
	// out.
	var first error
	for _, u := range []string{s.repository, s.repository + ".git"} {
		talk, err := s.open(u)
		if err != nil {
			return nil, nil, err
		}
		refs, err := talk.AdvertisedReferencesContext(ctx)
		if err == nil {
			return talk, refs, nil
		}
		talk.Close()
		if first == nil {
			first = err
		}
		if !errors.Is(err, transport.ErrRepositoryNotFound) {
			break
		}
	}
	return nil, nil, first
}

// candidate is a tag at the revision.
type candidate struct {
	name      string // without refs/tags/
	id        plumbing.Hash
	annotated bool // there is a tag object, whose name id is
}

// candidates lists the tags at the revision, the one that was asked for first
// and lightweight ones last.
func (s *search) candidates(refs *packp.AdvRefs) []candidate {
	var list []candidate
	revision := plumbing.NewHash(s.revision)
	for ref, id := range refs.References {
		name, isTag := strings.CutPrefix(ref, tagPrefix)
		if !isTag || plainRef(ref) == "" || !printable(name) {
			continue
		}
		peeled, annotated := refs.Peeled[ref]
		if (annotated && peeled == revision) || (!annotated && id == revision) {
			list = append(list, candidate{name, id, annotated})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		for _, before := range []func(candidate) bool{
			func(c candidate) bool { return c.name == s.asked() },
			func(c candidate) bool { return c.annotated },
		} {
			if before(a) != before(b) {
				return map[bool]int{true: -1, false: 1}[before(a)]
			}
		}
		return strings.Compare(a.name, b.name)
	})
	return list
}

// asked is the name of the tag that was asked for, or that of a branch or
// nothing, which no tag need have.
func (s *search) asked() string {
	if name, isTag := strings.CutPrefix(s.ref, tagPrefix); isTag || !strings.HasPrefix(s.ref, "refs/") {
		return name
	}
	return ""
}

// offered says whether the server may be asked for the commit by its name.
func offered(refs *packp.AdvRefs, revision plumbing.Hash) bool {
	if refs.Capabilities.Supports(capability.AllowReachableSHA1InWant) || (refs.Head != nil && *refs.Head == revision) {
		return true
	}
	for _, id := range refs.References {
		if id == revision {
			return true
		}
	}
	return false
}

// choose returns the first verified tag, or the refusal of the first tag.
func (s *search) choose(refs *packp.AdvRefs, list []candidate, objects map[plumbing.Hash]object) Tag {
	var refused *Tag
	for _, c := range list {
		t := s.tag(c, objects)
		if t.By.Verified() {
			return t
		}
		if refused == nil {
			refused = &t
		}
	}
	if asked := s.asked(); asked != "" && (refused == nil || refused.Name != asked) {
		at, annotated := refs.Peeled[tagPrefix+asked]
		if !annotated {
			at = refs.References[tagPrefix+asked]
		}
		if !at.IsZero() {
			return Tag{Name: asked, Err: fmt.Sprintf("it points at %s now, not at the revision", at)}
		}
	}
	if refused != nil {
		return *refused
	}
	return Tag{Err: "no tag points at the revision; sign one with 'git tag --sign' and push it"}
}

// tag verifies one tag.
func (s *search) tag(c candidate, objects map[plumbing.Hash]object) Tag {
	found := Tag{Name: c.name}
	err := func() error {
		if !c.annotated {
			return errors.New("it is a lightweight tag, a bare name that cannot be signed; make one with 'git tag --sign'")
		}
		o := objects[c.id]
		if o.kind != plumbing.TagObject {
			return fmt.Errorf("the repository did not hand out the tag object, or it is larger than %d bytes", maxObject)
		}
		t, err := parseTag(o.raw)
		if err != nil {
			return fmt.Errorf("it is malformed: %w", err)
		}
		found.SignedAt = t.claimedAt
		switch {
		case t.name != c.name:
			return fmt.Errorf("its tag object was made for the tag %.200q and put under this name", t.name)
		case t.kind == plumbing.TagObject.String():
			return errors.New("it points at another tag, not at the commit; sign a tag of the commit itself")
		case t.kind != plumbing.CommitObject.String() || t.target != s.revision:
			return fmt.Errorf("its tag object points at the %.20s %s, not at the revision", t.kind, t.target)
		case t.signature == nil:
			return errors.New("it is not signed; make one with 'git tag --sign'")
		}
		by, at, err := s.by(t.signedObject)
		if !at.IsZero() {
			found.SignedAt = at
		}
		if err != nil {
			return fmt.Errorf("its signature: %w", err)
		}
		found.By = by
		return nil
	}()
	if err != nil {
		found.Err = err.Error()
	}
	return found
}

// commit verifies the revision's own signature.
func (s *search) commit(o object) Commit {
	var found Commit
	err := func() error {
		if o.kind != plumbing.CommitObject {
			return fmt.Errorf("the repository did not hand out the commit, or it is larger than %d bytes", maxObject)
		}
		c, err := parseCommit(o.raw)
		if err != nil {
			return fmt.Errorf("it is malformed: %w", err)
		}
		if c.signature == nil {
			return errors.New("it is not signed; commit with 'git commit --gpg-sign'")
		}
		if found.By, _, err = s.by(c); err != nil {
			return fmt.Errorf("its signature: %w", err)
		}
		return nil
	}()
	if err != nil {
		found.Err = err.Error()
	}
	return found
}

// by says who made the signature of an object, and when it says it was made.
//
// https://git-scm.com/docs/gitformat-signature
func (v *Verifier) by(o signedObject) (evidence.Voucher, time.Time, error) {
	begins := func(s string) bool { return bytes.HasPrefix(o.signature, []byte(s)) }
	now := v.now()
	switch {
	case begins(beginPGP):
		return openpgp.VerifyDetached(o.signed, o.signature, v.openPGP, now)
	case begins(beginSSH):
		by, err := verifySSH(o, v.ssh, now)
		return by, time.Time{}, err
	case begins(beginX509):
		return evidence.Voucher{}, time.Time{}, errors.New("made with an X.509 certificate, as gitsign and S/MIME do, which TrustGate does not verify; sign with OpenPGP or SSH besides, in another tag")
	case begins(beginPGPMessage):
		return evidence.Voucher{}, time.Time{}, errors.New("an OpenPGP message where a detached signature belongs; sign again with a current git")
	}
	return evidence.Voucher{}, time.Time{}, errors.New("of no kind that git makes")
}
