package gittag

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/trustgate/trustgate/evidence/openpgp"
)

// The fuzz targets start from what the real git made with keys that are
// trusted. A mutation that still verifies must say exactly what was signed.

func stored(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// trusting believes the keys in testdata, which do not expire.
func trusting(t testing.TB) *Verifier {
	t.Helper()
	pgp, err := openpgp.LoadSigner("release", stored(t, "release.asc"))
	if err != nil {
		t.Fatal(err)
	}
	ssh, err := LoadSSHSigner("release-ssh", stored(t, "allowed_signers"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := New(Options{OpenPGP: []openpgp.Signer{pgp}, SSH: []SSHSigner{ssh}, Now: func() time.Time { return time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) }})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// verified checks an object and reports whether a signer stands behind it.
func (v *Verifier) verified(t testing.TB, o signedObject) bool {
	t.Helper()
	by, _, err := v.by(o)
	if by.Verified() != (err == nil) {
		t.Fatalf("verified %v and says %v", by.Verified(), err)
	}
	return by.Verified()
}

func FuzzTag(f *testing.F) {
	v := trusting(f)
	signed := map[string]bool{}
	for _, name := range []string{"tag.pgp", "tag.ssh"} {
		raw := stored(f, name)
		tag, err := parseTag(raw)
		if err != nil || !v.verified(f, tag.signedObject) || tag.name != "v1.0" || tag.kind != "commit" || tag.claimedAt.IsZero() {
			f.Fatalf("%s: %+v, %v", name, tag, err)
		}
		signed[string(tag.signed)] = true
		f.Add(raw)
	}
	f.Add([]byte("object 0000000000000000000000000000000000000000\ntype commit\ntag v1\ntagger A <a@b> 1 +0000\n\n" + beginX509 + "\n"))
	f.Add([]byte("object 0000000000000000000000000000000000000000\ntype commit\ntag v1\ntagger A <a@b> 1 +0000\n\nx" + beginSSH + "\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tag, err := parseTag(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(slices.Concat(tag.signed, tag.signature), raw) {
			t.Fatal("some of its bytes are neither signed nor signature")
		}
		if !sha1ID.MatchString(tag.target) || tag.kind == "" || tag.name == "" || !bytes.HasPrefix(raw, []byte("object "+tag.target+"\ntype "+tag.kind+"\ntag "+tag.name+"\n")) {
			t.Fatalf("got %+v", tag)
		}
		if tag.signature != nil && v.verified(t, tag.signedObject) && !signed[string(tag.signed)] {
			t.Fatalf("verified %q, which was never signed", tag.signed)
		}
	})
}

func FuzzCommit(f *testing.F) {
	v := trusting(f)
	signed := map[string]bool{}
	for _, name := range []string{"commit.pgp", "commit.ssh"} {
		raw := stored(f, name)
		commit, err := parseCommit(raw)
		if err != nil || !v.verified(f, commit) || commit.claimedAt.IsZero() || bytes.Contains(commit.signed, []byte("gpgsig")) {
			f.Fatalf("%s: %+v, %v", name, commit, err)
		}
		signed[string(commit.signed)] = true
		f.Add(raw)
	}
	f.Add([]byte("tree 0000000000000000000000000000000000000000\ngpgsig " + beginSSH + "\n \n\n\n"))
	f.Add([]byte("tree 0000000000000000000000000000000000000000\nmergetag object x\n gpgsig x\n\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		commit, err := parseCommit(raw)
		if err != nil {
			return
		}
		if commit.signature == nil {
			if !bytes.Equal(commit.signed, raw) {
				t.Fatal("it has no signature, and yet not all of it is signed")
			}
			return
		}
		// What was taken out is the signature, a space for each of its lines, and
		// the name of the header.
		lines := bytes.Count(commit.signature, []byte("\n"))
		if len(commit.signed)+len(commit.signature)+lines+len("gpgsig") != len(raw) {
			t.Fatal("some of its bytes are neither signed nor signature")
		}
		if v.verified(t, commit) && !signed[string(commit.signed)] {
			t.Fatalf("verified %q, which was never signed", commit.signed)
		}
	})
}

func FuzzSSHSignature(f *testing.F) {
	v := trusting(f)
	tag, err := parseTag(stored(f, "tag.ssh"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tag.signature)
	f.Add([]byte(beginSSH + "\nU1NIU0lHAAAAAQ==\n" + endSSH))
	f.Add([]byte(beginSSH + "\n" + endSSH))
	f.Fuzz(func(t *testing.T, armored []byte) {
		s, err := parseSSHSignature(armored)
		if (err == nil) != (s != nil && s.public != nil) {
			t.Fatalf("%+v and %v", s, err)
		}
		for _, signed := range [][]byte{tag.signed, append(slices.Clone(tag.signed), '\n')} {
			by, err := verifySSH(signedObject{signed: signed, signature: armored, claimedAt: tag.claimedAt}, v.ssh, v.now())
			if by.Verified() != (err == nil) {
				t.Fatalf("verified %v and says %v", by.Verified(), err)
			}
			if by.Verified() && len(signed) != len(tag.signed) {
				t.Fatal("verified what was never signed")
			}
		}
	})
}

func FuzzAllowedSigners(f *testing.F) {
	good := stored(f, "allowed_signers")
	f.Add(good)
	f.Add(append([]byte(`a,"b" namespaces="git,f*",valid-after="20200101Z" `), good[bytes.IndexByte(good, ' ')+1:]...))
	f.Add(append([]byte(`"a b" cert-authority `), good[bytes.IndexByte(good, ' ')+1:]...))
	f.Add([]byte(`" `))
	f.Fuzz(func(t *testing.T, raw []byte) {
		signer, err := LoadSSHSigner("release", raw)
		if (err == nil) != (len(signer.keys) > 0) {
			t.Fatalf("%d keys and %v", len(signer.keys), err)
		}
		for _, k := range signer.keys {
			if strongSSH(k.public) != nil || !strings.HasPrefix(k.fingerprint, "SHA256:") {
				t.Fatalf("took the key %s", k.fingerprint)
			}
		}
	})
}

func size(found map[plumbing.Hash]object) (total int) {
	for _, o := range found {
		total += len(o.raw)
	}
	return total
}

func FuzzPack(f *testing.F) {
	// Five tags and a commit, some of them deltas, before a tree and a blob.
	good := stored(f, "objects.pack")
	revision := plumbing.NewHash(strings.TrimSpace(string(stored(f, "revision"))))
	found, err := readPack(f.Context(), bytes.NewReader(good), []plumbing.Hash{revision}, 1<<20)
	if err != nil || found[revision].kind != plumbing.CommitObject {
		f.Fatalf("%v, %v", found, err)
	}
	f.Add(good)
	f.Add([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01\x95\x0ax\x9c"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		// Nothing is ever enough, so that all of it is read.
		found, _ := readPack(t.Context(), bytes.NewReader(raw), []plumbing.Hash{{}}, 64<<10)
		pack, err := openPack(bytes.NewReader(raw), 64<<10)
		if err == nil {
			pack.files = true
			_ = pack.read(t.Context(), plumbing.Hash{}) // what it holds is looked at, as far as it goes
			for id, o := range pack.found {
				if computed, err := o.id(); err != nil || computed != id || len(o.raw) > maxObject {
					t.Fatalf("%s is %s, %v", id, computed, err)
				}
			}
			if kept := size(pack.found); kept > 2*64<<10 {
				t.Fatalf("kept %d bytes", kept)
			}
		}
		for id, o := range found {
			if computed, err := o.id(); err != nil || computed != id || len(o.raw) > maxObject {
				t.Fatalf("%s is %s, %v", id, computed, err)
			}
		}
		if kept := size(found); kept > 64<<10 {
			t.Fatalf("kept %d bytes", kept)
		}
	})
}

// someTree is a folder as git stores it.
const (
	someID   = "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x00 "
	someTree = "100644 Dockerfile\x00" + someID + "40000 a\x00" + someID + "120000 link\x00" + someID
)

func FuzzTree(f *testing.F) {
	f.Add([]byte(someTree), "Dockerfile")
	f.Add([]byte(someTree), "a")
	f.Add([]byte(someTree+someTree), "link")
	f.Add([]byte(someTree[:30]), "Dockerfile")
	f.Fuzz(func(t *testing.T, raw []byte, name string) {
		e, err := entryOf(raw, name)
		if err != nil {
			if e != (entry{}) {
				t.Fatalf("%+v and %v", e, err)
			}
			return
		}
		if isThere := e.mode != filemode.Empty; isThere && !bytes.Contains(raw, []byte(" "+name+"\x00"+string(e.id[:]))) {
			t.Fatalf("found %+v", e)
		}
	})
}

// What git itself would not serve is refused here, and below.

func TestEntryOf(t *testing.T) {
	for name, want := range map[string]filemode.FileMode{"Dockerfile": filemode.Regular, "a": filemode.Dir, "link": filemode.Symlink, "Docker": filemode.Empty, "": filemode.Empty} {
		e, err := entryOf([]byte(someTree), name)
		if err != nil || e.mode != want || (string(e.id[:]) == someID) != (want != filemode.Empty) {
			t.Errorf("%q: %+v, %v", name, e, err)
		}
	}
	for name, tc := range map[string]struct{ raw, says string }{
		"an entry twice":         {someTree + someTree, "is there twice"},
		"a short name":           {someTree[:len("100644 Dockerfile")+20], "cut short"},
		"a mode behind":          {someTree + "100644", "cut short"},
		"no name":                {someTree + "100644 \x00" + someID, "cut short"},
		"no mode":                {" Dockerfile\x00" + someID, "cannot be read"},
		"a mode of no digits":    {"10064x Dockerfile\x00" + someID, "cannot be read"},
		"a mode of zeros":        {"000000 Dockerfile\x00" + someID, "cannot be read"},
		"a mode of many digits":  {"0000100644 Dockerfile\x00" + someID, "cannot be read"},
		"no space before a zero": {"100644Dockerfile\x00" + someID, "cut short"},
	} {
		if e, err := entryOf([]byte(tc.raw), "Dockerfile"); err == nil || e != (entry{}) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}

func TestTreeOf(t *testing.T) {
	const name = "0123456789abcdef0123456789abcdef01234567"
	if id, err := treeOf([]byte("tree " + name + "\nauthor A")); err != nil || id.String() != name {
		t.Errorf("%s, %v", id, err)
	}
	for _, raw := range []string{"", "tree ", "tree " + name[1:] + "\n", "tree " + name + "0\n", "parent " + name + "\n", "\ntree " + name + "\n", "tree " + strings.ToUpper(name) + "\n"} {
		if id, err := treeOf([]byte(raw)); err == nil {
			t.Errorf("%q: %s", raw, id)
		}
	}
}

// TestPack reads every object of a pack in which git made deltas of tags.
func TestPack(t *testing.T) {
	good := stored(t, "objects.pack")
	all, err := readPack(t.Context(), bytes.NewReader(good), []plumbing.Hash{{}}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	tags := 0
	for _, o := range all {
		if o.kind != plumbing.TagObject {
			continue
		}
		if tag, err := parseTag(o.raw); err != nil || tag.signature != nil {
			t.Errorf("%+v, %v", tag, err)
		}
		tags++
	}
	if tags != 5 {
		t.Errorf("found %d tags, want 5", tags)
	}
	if !bytes.Contains(stored(t, "objects.verbose"), []byte("chain length = 1")) {
		t.Error("there are no deltas in it; make the pack anew with -update")
	}
	for _, limit := range []int64{1, 500} {
		if _, err := readPack(t.Context(), bytes.NewReader(good), []plumbing.Hash{{}}, limit); err != errLarge {
			t.Errorf("with a bound of %d: %v", limit, err)
		}
	}
}

// TestPatchRefusesLargeResults asks a few bytes to grow beyond the bound.
func TestPatchRefusesLargeResults(t *testing.T) {
	base := bytes.Repeat([]byte("x"), 1<<16)
	delta := []byte{0x80, 0x80, 0x04, 0x80, 0x80, 0x80, 0x01} // from 64 KiB to 2 MiB
	for range 32 {
		delta = append(delta, 0x80|0x40, 0x01) // copy 64 KiB
	}
	if raw, err := patch(base, delta); raw != nil || err != nil {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
}

func TestParseTagRefuses(t *testing.T) {
	const head = "object 0000000000000000000000000000000000000000\ntype commit\ntag v1\ntagger A <a@b> 1 +0000\n"
	for name, raw := range map[string]string{
		"nothing":               "",
		"no object":             strings.TrimPrefix(head, "object 0000000000000000000000000000000000000000\n") + "\n",
		"a short object":        strings.Replace(head, "00\n", "\n", 1) + "\n",
		"capitals":              strings.Replace(head, "00\n", "AA\n", 1) + "\n",
		"no type":               strings.Replace(head, "type commit\n", "", 1) + "\n",
		"no tag":                strings.Replace(head, "tag v1\n", "", 1) + "\n",
		"an empty tag":          strings.Replace(head, "tag v1\n", "tag \n", 1) + "\n",
		"another order":         "type commit\n" + strings.Replace(head, "type commit\n", "", 1) + "\n",
		"a zero byte":           strings.Replace(head, "v1", "v1\x00", 1) + "\n",
		"a carriage return":     strings.Replace(head, "v1", "v1\r", 1) + "\n",
		"cut in the header":     head[:len(head)-1],
		"the signature at once": head + beginSSH + "\n",
		"two taggers":           head + "tagger A <a@b> 1 +0000\n\n",
	} {
		if tag, err := parseTag([]byte(raw)); err == nil {
			t.Errorf("%s: %+v", name, tag)
		}
	}
}

func TestParseCommitRefuses(t *testing.T) {
	const tree = "tree 0000000000000000000000000000000000000000\n"
	for name, raw := range map[string]string{
		"nothing":                    "",
		"no tree":                    "author A <a@b> 1 +0000\n\n",
		"the signature first":        "gpgsig x\n" + tree + "\n",
		"two trees":                  tree + tree + "\n",
		"a continuation first":       " x\n" + tree + "\n",
		"a zero byte":                tree + "author A\x00 <a@b> 1 +0000\n\n",
		"a zero byte in a signature": tree + "gpgsig x\n \x00\n\n",
		"no end":                     tree + "author A <a@b> 1 +0000\n",
		"a word":                     tree + "gpgsig\n\n",
	} {
		if commit, err := parseCommit([]byte(raw)); err == nil {
			t.Errorf("%s: %+v", name, commit)
		}
	}
}
