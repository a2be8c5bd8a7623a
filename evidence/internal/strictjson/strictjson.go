// Package strictjson reads the JSON objects that signatures cover, in which no
// two readers may see two documents: a key that appears twice, or that another
// reader would take for another key because it ignores case, is refused.
//
// It never decodes into maps of foreign keys and never guesses a type.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/trustgate/trustgate/internal/jsonkey"
)

// Object reads the members of one JSON object, in no order, and nothing after
// it. The caller bounds the length of raw.
func Object(raw []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.Token(); err != nil {
		return nil, ended(err)
	} else if tok != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	members, folded := map[string]json.RawMessage{}, map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, ended(err)
		}
		key, _ := tok.(string)
		same := jsonkey.Fold(key)
		if folded[same] {
			return nil, fmt.Errorf("the key %.80q appears twice", key)
		}
		folded[same] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, ended(err)
		}
		members[key] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, ended(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("bytes after the JSON object")
	}
	return members, nil
}

// Exactly reads an object that has these members and no others.
func Exactly(raw []byte, keys ...string) (map[string]json.RawMessage, error) {
	members, err := Object(raw)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if _, ok := members[key]; !ok {
			return nil, fmt.Errorf("the member %q is missing", key)
		}
	}
	if len(members) > len(keys) {
		known := map[string]bool{}
		for _, key := range keys {
			known[key] = true
		}
		for key := range members {
			if !known[key] {
				return nil, fmt.Errorf("the member %.80q is not one that TrustGate knows", key)
			}
		}
	}
	return members, nil
}

// String reads a JSON string; null is none.
func String(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", errors.New("not a JSON string")
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err
}

// ended makes a truncated document read like one.
func ended(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
