// Package jsonkey tells which keys of a JSON object encoding/json takes for the
// same one, for those who must not let two readers see two documents.
//
// It compares. What becomes of a key that stands twice is for the caller.
package jsonkey

import (
	"strings"
	"unicode"
)

// Fold makes equal what encoding/json takes for the same key: all spellings that
// Unicode's simple folding joins, which are more than upper and lower case
// ("layers" and "subject" may be written with a long s).
func Fold(key string) string {
	return strings.Map(func(r rune) rune {
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				return next
			}
			r = next
		}
	}, key)
}
