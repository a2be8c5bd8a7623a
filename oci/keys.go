package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/trustgate/trustgate/internal/jsonkey"
)

// freeKeys are the members whose own keys people choose. encoding/json reads
// them into maps, which tell "a" from "A".
var freeKeys = []string{"annotations", "labels", "exposedports", "volumes"}

// refuseDuplicateKeys keeps two parsers from reading two documents out of the
// same bytes: Go takes the last of two equal keys, at any depth, and compares
// them without regard to case, others do not.
//
// raw is JSON that encoding/json accepts, which bounds how deep it is nested.
func refuseDuplicateKeys(raw []byte) error {
	if trimmed := bytes.TrimLeft(raw, " \t\r\n"); !bytes.HasPrefix(trimmed, []byte("{")) {
		return errors.New("not a JSON object")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return uniqueKeys(dec, false)
}

// uniqueKeys reads one value; free says that it is the value of a free key.
func uniqueKeys(dec *json.Decoder, free bool) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	if tok != json.Delim('{') && tok != json.Delim('[') {
		return nil
	}
	seen := map[string]bool{}
	for dec.More() {
		key := ""
		if tok == json.Delim('{') {
			next, err := dec.Token()
			if err != nil {
				return err
			}
			key, _ = next.(string)
			spelled := key
			if !free {
				spelled = jsonkey.Fold(key)
			}
			if seen[spelled] {
				return fmt.Errorf("the key %q appears twice", clip(key, 80))
			}
			seen[spelled] = true
		}
		if err := uniqueKeys(dec, slices.Contains(freeKeys, strings.ToLower(key))); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}
