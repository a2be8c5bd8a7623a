package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

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
		Subject       []json.RawMessage
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
	for i, raw := range doc.Subject {
		subject, err := parseSubject(raw)
		if err != nil {
			return nil, fmt.Errorf("%w: subject[%d]: %v", ErrStatement, i, err)
		}
		st.Subjects = append(st.Subjects, subject)
	}
	if err := checkNumbers(st.Predicate); err != nil {
		return nil, fmt.Errorf("%w: predicate: %v", ErrStatement, err)
	}
	return st, nil
}

// parseSubject reads one subject, in which no two readers may see two digests.
//
// https://github.com/in-toto/attestation/blob/v1.1.1/spec/v1/resource_descriptor.md
func parseSubject(raw json.RawMessage) (StatementSubject, error) {
	var s StatementSubject
	members, err := strictjson.Object(raw)
	if err != nil {
		return s, err
	}
	if name, ok := members["name"]; ok {
		if err := json.Unmarshal(name, &s.Name); err != nil {
			return s, fmt.Errorf("name: %w", err)
		}
	}
	digests, ok := members["digest"]
	if !ok || bytes.Equal(digests, []byte("null")) {
		return s, nil
	}
	set, err := strictjson.Object(digests)
	if err != nil {
		return s, fmt.Errorf("digest: %w", err)
	}
	s.Digests = make(map[string]string, len(set))
	for algorithm, value := range set {
		if s.Digests[algorithm], err = strictjson.String(value); err != nil {
			return s, fmt.Errorf("digest.%.40q: %w", algorithm, err)
		}
	}
	return s, nil
}

// checkNumbers refuses a number that no reader can hold: rules could not be
// evaluated over it, and whoever can attach a statement could block an image.
func checkNumbers(raw json.RawMessage) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n, ok := tok.(json.Number); ok {
			if _, err := n.Float64(); err != nil {
				return fmt.Errorf("the number %.40s is out of range", n)
			}
		}
	}
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
