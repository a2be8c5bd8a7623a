package evidence_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence"
)

var image = digest.FromString("the image")

func subject(d digest.Digest) string {
	return fmt.Sprintf(`{"name":"app","digest":{%q:%q}}`, d.Algorithm(), d.Encoded())
}

func statement(subjects ...string) string {
	return `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://slsa.dev/provenance/v1","subject":[` +
		strings.Join(subjects, ",") + `],"predicate":{"builder":"b"}}`
}

func TestParseStatement(t *testing.T) {
	long := digest.SHA512.FromString("the image")
	for name, tc := range map[string]struct {
		raw    string
		covers bool
	}{
		"one subject":         {statement(subject(image)), true},
		"version 0.1":         {strings.Replace(statement(subject(image)), "Statement/v1", "Statement/v0.1", 1), true},
		"the second subject":  {statement(subject(digest.FromString("x")), subject(image)), true},
		"beside no digest":    {statement(subject(image), `{"annotations":{}}`), true},
		"another image":       {statement(subject(digest.FromString("x"))), false},
		"no subject":          {statement(), false},
		"another algorithm":   {statement(subject(long)), false},
		"wrong algorithm":     {statement(fmt.Sprintf(`{"digest":{"sha512":%q}}`, image.Encoded())), false},
		"in capitals":         {statement(fmt.Sprintf(`{"digest":{"sha256":%q}}`, strings.ToUpper(image.Encoded()))), false},
		"a prefix":            {statement(fmt.Sprintf(`{"digest":{"sha256":%q}}`, image.Encoded()[:12])), false},
		"Subject for subject": {strings.Replace(statement(subject(image)), `"subject"`, `"Subject"`, 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := evidence.ParseStatement([]byte(tc.raw))
			if err != nil {
				t.Fatal(err)
			}
			if s.PredicateType != "https://slsa.dev/provenance/v1" || string(s.Predicate) != `{"builder":"b"}` {
				t.Errorf("got %+v", s)
			}
			if s.Covers(image) != tc.covers {
				t.Errorf("covers the image: %v", !tc.covers)
			}
		})
	}
	s, err := evidence.ParseStatement([]byte(statement(subject(long))))
	if err != nil || !s.Covers(long) {
		t.Errorf("sha512: %+v, %v", s, err)
	}
}

func TestParseStatementRefuses(t *testing.T) {
	good := statement(subject(image))
	for name, raw := range map[string]string{
		"empty":                "",
		"not an object":        "[]",
		"null":                 "null",
		"truncated":            good[:len(good)-1],
		"two documents":        good + good,
		"no type":              strings.Replace(good, `"_type"`, `"type"`, 1),
		"another type":         strings.Replace(good, "Statement/v1", "Statement/v2", 1),
		"no predicate type":    strings.Replace(good, `"predicateType"`, `"x"`, 1),
		"subject twice":        strings.Replace(good, "{", `{"subject":[],`, 1),
		"Subject beside":       strings.Replace(good, "{", `{"Subject":[],`, 1),
		"predicate twice":      strings.Replace(good, "{", `{"predicate":{},`, 1),
		"subject an object":    strings.Replace(good, "["+subject(image)+"]", subject(image), 1),
		"digest a string":      statement(`{"digest":"` + image.String() + `"}`),
		"too many subjects":    statement(strings.Split(strings.Repeat("{},", 1024)+"{}", ",")...),
		"digest beside Digest": statement(`{"digest":{"sha256":"00"},"Digest":{"sha256":"` + image.Encoded() + `"}}`),
		"a digest twice":       statement(`{"digest":{"sha256":"00","sha256":"` + image.Encoded() + `"}}`),
		"a number for no one":  strings.Replace(good, `{"builder":"b"}`, `{"n":[1,{"m":1e99999999999}]}`, 1),
		"predicate is empty":   strings.Replace(good, `{"builder":"b"}`, "", 1),
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := evidence.ParseStatement([]byte(raw)); !errors.Is(err, evidence.ErrStatement) {
				t.Errorf("got %+v, %v", s, err)
			}
		})
	}
}

func FuzzParseStatement(f *testing.F) {
	f.Add([]byte(statement(subject(image))))
	f.Add([]byte(statement(`{"digest":{"sha256":""}}`, `{"digest":null}`, `{}`)))
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"x","subject":null,"predicate":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := evidence.ParseStatement(raw)
		if err != nil {
			if s != nil || !errors.Is(err, evidence.ErrStatement) {
				t.Fatalf("got %+v, %v", s, err)
			}
			return
		}
		if s.PredicateType == "" {
			t.Fatal("a statement of nothing")
		}
		var plain struct {
			Subject []struct{ Digest map[string]string }
		}
		if err := json.Unmarshal(raw, &plain); err != nil {
			t.Fatal(err)
		}
		named := false
		for _, subject := range plain.Subject {
			named = named || subject.Digest["sha256"] == image.Encoded()
		}
		if s.Covers(image) && !named {
			t.Fatal("covers a digest that is not in it")
		}
	})
}
