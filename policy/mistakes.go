package policy

import (
	"errors"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Mistake is one thing wrong with a policy. Without a place it is about the
// policy as a whole or its configuration.
type Mistake struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

func (m *Mistake) Error() string {
	if m.File == "" {
		return m.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", m.File, m.Line, m.Column, m.Message)
}

// Mistakes takes apart what Load, Check and Test return as one error.
func Mistakes(err error) []*Mistake {
	var all []*Mistake
	if err == nil {
		return all
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			all = append(all, Mistakes(one)...)
		}
		return all
	}
	var inner interface{ Unwrap() []error }
	if errors.As(err, &inner) {
		for _, one := range inner.Unwrap() {
			all = append(all, Mistakes(one)...)
		}
		return all
	}
	var m *Mistake
	if errors.As(err, &m) {
		return append(all, m)
	}
	return append(all, &Mistake{Message: err.Error()})
}

// problem is something wrong with a module, where it is.
func problem(at *ast.Location, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	if at == nil {
		return &Mistake{Message: message}
	}
	return &Mistake{File: at.File, Line: max(at.Row, 1), Column: max(at.Col, 1), Message: message}
}
