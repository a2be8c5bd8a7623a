package provenance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/trustgate/trustgate/evidence/internal/strictjson"
)

// object is a JSON object of a predicate. The first thing that is wrong with
// any part of the document ends up in failed, and everything reads as absent
// from then on; a member that is absent or null is no error.
type object struct {
	members map[string]json.RawMessage
	at      string // where in the document it stands
	failed  *error
}

func openObject(raw json.RawMessage, at string, failed *error) object {
	o := object{at: at, failed: failed}
	if *failed != nil {
		return o
	}
	members, err := strictjson.Object(raw)
	if err != nil {
		*failed = fmt.Errorf("%s: %w", at, err)
		return o
	}
	o.members = members
	return o
}

// member is nil when there is none.
func (o object) member(key string) json.RawMessage {
	raw := o.members[key]
	if *o.failed != nil || bytes.Equal(raw, []byte("null")) {
		return nil
	}
	return raw
}

func (o object) fail(key, format string, args ...any) {
	if *o.failed == nil {
		*o.failed = fmt.Errorf("%s.%.80s: %w", o.at, key, fmt.Errorf(format, args...))
	}
}

func (o object) decode(key string, into any) bool {
	raw := o.member(key)
	if raw == nil {
		return false
	}
	if err := json.Unmarshal(raw, into); err != nil {
		o.fail(key, "%.200s", err) // it may repeat a number of any length
		return false
	}
	return true
}

// object opens a member that must be an object where it exists.
func (o object) object(key string) object {
	at := o.at + "." + key
	if raw := o.member(key); raw != nil {
		return openObject(raw, at, o.failed)
	}
	return object{at: at, failed: o.failed}
}

// perhaps opens a member whose shape its build type decides: what is not an
// object reads as absent.
func (o object) perhaps(key string) object {
	if raw := o.member(key); len(raw) > 0 && raw[0] == '{' {
		return o.object(key)
	}
	return object{at: o.at + "." + key, failed: o.failed}
}

// objects reads a list of at most limit objects.
func (o object) objects(key string, limit int) []object {
	var list []json.RawMessage
	if !o.decode(key, &list) {
		return nil
	}
	if len(list) > limit {
		o.fail(key, "%d entries, more than %d", len(list), limit)
		return nil
	}
	objects := make([]object, 0, len(list))
	for i, raw := range list {
		objects = append(objects, openObject(raw, fmt.Sprintf("%s.%s[%d]", o.at, key, i), o.failed))
	}
	return objects
}

// text reads a string of at most maxText bytes.
func (o object) text(key string) string {
	var s string
	if !o.decode(key, &s) {
		return ""
	}
	if len(s) > maxText {
		o.fail(key, "%d bytes, more than %d", len(s), maxText)
		return ""
	}
	return s
}

// perhapsText reads a string as perhaps does an object.
func (o object) perhapsText(key string) string {
	if raw := o.member(key); len(raw) > 0 && raw[0] == '"' {
		return o.text(key)
	}
	return ""
}

// texts are those members that are strings.
func (o object) texts() map[string]string {
	texts := map[string]string{}
	for key := range o.members {
		if s := o.perhapsText(key); s != "" {
			texts[key] = s
		}
	}
	return texts
}

// digests reads a set of digests: algorithm to encoded value.
//
// https://github.com/in-toto/attestation/blob/v1.1.1/spec/v1/digest_set.md
func (o object) digests(key string) map[string]string {
	set := o.object(key)
	if len(set.members) > maxDigests {
		o.fail(key, "%d digests, more than %d", len(set.members), maxDigests)
		return nil
	}
	digests := map[string]string{}
	for algorithm := range set.members {
		digests[algorithm] = set.text(algorithm)
		if len(algorithm) > maxText {
			o.fail(key, "an algorithm's name of %d bytes", len(algorithm))
		}
	}
	return digests
}

// time reads an RFC 3339 timestamp.
func (o object) time(key string) time.Time {
	s := o.text(key)
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		o.fail(key, "%.80q is not a time as in RFC 3339", s)
		return time.Time{}
	}
	return t
}

// raw copies a member as it stands.
func (o object) raw(key string, limit int) json.RawMessage {
	raw := o.member(key)
	if len(raw) > limit {
		o.fail(key, "%d bytes, more than %d", len(raw), limit)
		return nil
	}
	return bytes.Clone(raw)
}

// base64 reads bytes that were written in standard base64.
func (o object) base64(key string, limit int) []byte {
	var b []byte
	if !o.decode(key, &b) {
		return nil
	}
	if len(b) > limit {
		o.fail(key, "%d bytes, more than %d", len(b), limit)
		return nil
	}
	return b
}
