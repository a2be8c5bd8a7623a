package evidence

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence/internal/strictjson"
	"github.com/trustgate/trustgate/oci"
)

// ErrStatement reports bytes that are no in-toto statement.
var ErrStatement = errors.New("not an in-toto statement")

// maxSubjects bounds the subjects of one statement.
const maxSubjects = 1024

// Statement is an in-toto statement of version 0.1 or 1; the version of the
// statement and that of its predicate vary independently in practice.
//
// https://github.com/in-toto/attestation/blob/v1.1.1/spec/v1/statement.md
type Statement struct {
	PredicateType string
	Predicate     json.RawMessage
	Subjects      []StatementSubject
}

// StatementSubject is one thing that a statement is about.
type StatementSubject struct {
	Name    string
	Digests map[string]string // algorithm to hex
}

// ParseStatement reads a statement, in which no key of its own may appear
// twice. The caller bounds the length of raw.
func ParseStatement(raw []byte) (*Statement, error) {
	members, err := strictjson.Object(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrStatement, err)
	}
	var doc struct {
		Type          string
		PredicateType string
		Subject       []struct {
			Name   string            `json:"name"`
			Digest map[string]string `json:"digest"`
		}
	}
	for key, into := range map[string]any{"_type": &doc.Type, "predicateType": &doc.PredicateType, "subject": &doc.Subject} {
		if raw, ok := members[key]; ok {
			if err := json.Unmarshal(raw, into); err != nil {
				return nil, fmt.Errorf("%w: %s: %v", ErrStatement, key, err)
			}
		}
	}
	switch doc.Type {
	case "https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1":
	default:
		return nil, fmt.Errorf("%w: _type %.80q", ErrStatement, doc.Type)
	}
	if doc.PredicateType == "" {
		return nil, fmt.Errorf("%w: no predicateType", ErrStatement)
	}
	if len(doc.Subject) > maxSubjects {
		return nil, fmt.Errorf("%w: %d subjects, more than %d", ErrStatement, len(doc.Subject), maxSubjects)
	}
	st := &Statement{PredicateType: doc.PredicateType, Predicate: members["predicate"]}
	for _, s := range doc.Subject {
		st.Subjects = append(st.Subjects, StatementSubject{Name: s.Name, Digests: s.Digest})
	}
	return st, nil
}

// Covers says whether d is among the statement's subjects.
func (s *Statement) Covers(d digest.Digest) bool {
	for _, subject := range s.Subjects {
		if hex, ok := subject.Digests[d.Algorithm().String()]; ok {
			if named, err := oci.ParseDigest(d.Algorithm().String() + ":" + hex); err == nil && named == d {
				return true
			}
		}
	}
	return false
}
