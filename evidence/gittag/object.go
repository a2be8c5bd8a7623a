package gittag

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The first line of each kind of signature.
//
// https://git-scm.com/docs/gitformat-signature
const (
	beginPGP        = "-----BEGIN PGP SIGNATURE-----"
	beginPGPMessage = "-----BEGIN PGP MESSAGE-----"
	beginSSH        = "-----BEGIN SSH SIGNATURE-----"
	beginX509       = "-----BEGIN SIGNED MESSAGE-----"
)

// signedObject is a tag or a commit taken apart: the bytes that its signature
// covers, which are all others, and the signature, nil when there is none.
type signedObject struct {
	signed, signature []byte
	claimedAt         time.Time // the tagger's or committer's, zero when unreadable
}

type tagObject struct {
	signedObject
	target, kind, name string
}

// parseTag reads a tag object:
//
//	object <name>
//	type <kind>
//	tag <tag>
//	tagger <who> <when>
//
//	<message, with the signature at its end>
//
// https://git-scm.com/docs/git-mktag
func parseTag(raw []byte) (tagObject, error) {
	var t tagObject
	rest := raw
	field := func(key string) (string, error) {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		value, ok := strings.CutPrefix(string(line), key+" ")
		if !ended || !ok || value == "" || !printable(value) {
			return "", fmt.Errorf("its header has no proper line %q where one belongs", key)
		}
		rest = after
		return value, nil
	}
	var err error
	if t.target, err = field("object"); err != nil {
		return tagObject{}, err
	}
	if !sha1ID.MatchString(t.target) {
		return tagObject{}, errors.New("its header does not name an object")
	}
	if t.kind, err = field("type"); err != nil {
		return tagObject{}, err
	}
	if t.name, err = field("tag"); err != nil {
		return tagObject{}, err
	}
	// Tags of 2005 have none, and git does not verify those either.
	tagger, err := field("tagger")
	if err != nil {
		return tagObject{}, err
	}
	t.claimedAt = identityTime(tagger)
	t.signed = raw
	if len(rest) == 0 {
		return t, nil
	}
	if rest[0] != '\n' {
		return tagObject{}, errors.New("its header has lines that TrustGate does not know")
	}
	// As git does, the last line that begins a signature begins it. The header
	// ends in a newline, so that a message may begin with it too.
	body := len(raw) - len(rest)
	at := -1
	for _, begin := range []string{beginPGP, beginPGPMessage, beginSSH, beginX509} {
		if i := bytes.LastIndex(raw[body:], []byte("\n"+begin)); i >= 0 {
			at = max(at, body+i+1)
		}
	}
	if at >= 0 {
		t.signed, t.signature = raw[:at], raw[at:]
	}
	return t, nil
}

// parseCommit reads a commit object, whose signature is the value of one of its
// header lines:
//
//	tree <name>
//	parent <name>           (any number)
//	author <who> <when>
//	committer <who> <when>
//	gpgsig <first line>
//	 <each further line>
//
//	<message>
//
// https://git-scm.com/docs/gitformat-signature
func parseCommit(raw []byte) (signedObject, error) {
	var c signedObject
	signed := make([]byte, 0, len(raw))
	key := ""
	for rest, first := raw, true; ; first = false {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		if !ended {
			return signedObject{}, errors.New("its header has no end")
		}
		if len(line) == 0 {
			// The empty line and the message are signed as they are.
			c.signed = append(signed, rest...)
			return c, nil
		}
		rest = after
		if bytes.IndexByte(line, 0) >= 0 {
			return signedObject{}, errors.New("its header holds a zero byte")
		}
		if line[0] != ' ' {
			name, value, hasValue := strings.Cut(string(line), " ")
			if !hasValue || (name == "tree") != first {
				return signedObject{}, errors.New("its header is not that of a commit")
			}
			switch key = name; key {
			case "gpgsig":
				if c.signature != nil {
					return signedObject{}, errors.New("it carries two signatures")
				}
			case "gpgsig-sha256":
				return signedObject{}, errors.New("it is signed for a repository with SHA-256 object names, which TrustGate does not read")
			case "committer":
				c.claimedAt = identityTime(value)
			}
		} else if first {
			return signedObject{}, errors.New("its header is not that of a commit")
		}
		if key != "gpgsig" {
			signed = append(append(signed, line...), '\n')
			continue
		}
		value := bytes.TrimPrefix(line, []byte("gpgsig"))[1:]
		c.signature = append(append(c.signature, value...), '\n')
	}
}

// printable says whether a header's value can be shown and compared.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// identityTime is the time in "Name <address> 1136214245 -0700".
func identityTime(identity string) time.Time {
	_, when, _ := cutLast(identity, "> ")
	seconds, _, _ := strings.Cut(when, " ")
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || n <= 0 || n > 1<<40 {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
