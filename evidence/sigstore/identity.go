package sigstore

import (
	"fmt"
	"regexp"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"

	"github.com/trustgate/trustgate/evidence/internal/pattern"
)

// Identity says whose certificates are meant. The globs are those of builders
// and sources: `*` stays within a path segment, `**` crosses them. A regular
// expression (RE2) must match the whole text. Each part is spelled in one way
// only, and all that are given must match.
type Identity struct {
	Subject       string // the first URI, e-mail address or other name of the certificate
	SubjectRegexp string
	Issuer        string // the OpenID Connect issuer that vouched for the subject
	IssuerRegexp  string

	// A workflow that many repositories share signs as itself for each of them;
	// these say which repository it must have worked for.
	SourceRepository string // a glob, such as https://github.com/acme/*
	SourceRef        string // a glob, such as refs/tags/v*
}

// identity is an Identity that was read.
type identity struct {
	checks []check
	text   string // how it was written, for people
}

// check compares one part of what a certificate says.
type check struct {
	says    func(certificate.Summary) string
	pattern interface{ Match(string) bool }
}

// whole is a regular expression for the whole of a text.
type whole struct{ re *regexp.Regexp }

// Match says whether the expression covers all of s.
func (w whole) Match(s string) bool { return w.re.MatchString(s) }

func (id Identity) compile(needIssuer bool) (identity, error) {
	var read identity
	for _, part := range []struct {
		name         string
		glob, regexp string
		needed       bool
		lead         string // to it in the text
		says         func(certificate.Summary) string
	}{
		{"subject", id.Subject, id.SubjectRegexp, true, "", func(s certificate.Summary) string { return s.SubjectAlternativeName }},
		{"issuer", id.Issuer, id.IssuerRegexp, needIssuer, " via ", func(s certificate.Summary) string { return s.Issuer }},
		{"source repository", id.SourceRepository, "", false, " for ", func(s certificate.Summary) string { return s.SourceRepositoryURI }},
		{"source ref", id.SourceRef, "", false, " at ", func(s certificate.Summary) string { return s.SourceRepositoryRef }},
	} {
		written := part.glob + part.regexp
		switch {
		case part.glob != "" && part.regexp != "":
			return identity{}, fmt.Errorf("its %s is both a glob and a regular expression; leave one of them out", part.name)
		case written == "" && part.needed:
			return identity{}, fmt.Errorf("it has no %s, so anybody with a certificate would be meant; write which one", part.name)
		case written == "":
			continue
		}
		c := check{says: part.says}
		if part.glob != "" {
			glob, err := pattern.Compile(part.glob)
			if err != nil {
				return identity{}, fmt.Errorf("its %s: %w", part.name, err)
			}
			c.pattern = glob
		} else {
			re, err := compileWhole(part.regexp)
			if err != nil {
				return identity{}, fmt.Errorf("its %s: %w", part.name, err)
			}
			c.pattern = whole{re}
		}
		read.checks = append(read.checks, c)
		read.text += part.lead + fmt.Sprintf("%.200q", written)
	}
	return read, nil
}

// compileWhole anchors an expression, since one that matches a part would let
// https://evil.example/?https://github.com/acme in.
func compileWhole(s string) (*regexp.Regexp, error) {
	if len(s) > maxExpression {
		return nil, fmt.Errorf("a regular expression of %d bytes is longer than %d", len(s), maxExpression)
	}
	// By itself first: "a)|(b" is one only between the parentheses below.
	if _, err := regexp.Compile(s); err != nil {
		return nil, err
	}
	return regexp.Compile(`\A(?:` + s + `)\z`)
}

const maxExpression = 4096 // bytes

func (id identity) matches(s certificate.Summary) bool {
	for _, c := range id.checks {
		if !c.pattern.Match(c.says(s)) {
			return false
		}
	}
	return len(id.checks) > 0
}

// described is whom a certificate names; foreign text until it has verified.
func described(s certificate.Summary) string {
	text := fmt.Sprintf("%.200q", s.SubjectAlternativeName)
	if s.Issuer != "" {
		text += fmt.Sprintf(" via issuer %.200q", s.Issuer)
	}
	if s.SourceRepositoryURI != "" {
		text += fmt.Sprintf(" for %.200q", s.SourceRepositoryURI)
	}
	if s.SourceRepositoryRef != "" {
		text += fmt.Sprintf(" at %.200q", s.SourceRepositoryRef)
	}
	return text
}
