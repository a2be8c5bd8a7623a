package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"
)

// value is the document as the evaluator reads it: what MarshalJSON writes, read
// back, without a text in between.
func (in *Input) value() (ast.Value, error) {
	d := &documentWriter{}
	t, err := d.term(reflect.ValueOf(in).Elem())
	if err != nil {
		return nil, err
	}
	return t.Value, nil
}

type documentWriter struct {
	bytes int // of the names and texts so far
}

func (d *documentWriter) count(n int) error {
	if d.bytes += n; d.bytes > maxInput {
		return fmt.Errorf("the input has more than %d bytes", maxInput)
	}
	return nil
}

func (d *documentWriter) term(v reflect.Value) (*ast.Term, error) {
	switch v.Type() {
	case rawMessage:
		return d.raw(v.Bytes())
	case instant:
		text, err := v.Interface().(time.Time).MarshalText()
		if err != nil {
			return nil, err
		}
		return d.text(string(text))
	}
	switch v.Kind() {
	case reflect.Bool:
		return ast.InternedTerm(v.Bool()), nil
	case reflect.Int, reflect.Int64:
		return ast.InternedTerm(int(v.Int())), nil
	case reflect.String:
		return d.text(v.String())
	case reflect.Pointer:
		if v.IsNil() {
			return ast.InternedNullTerm, nil
		}
		return d.term(v.Elem())
	case reflect.Slice:
		return d.list(v)
	case reflect.Map:
		return d.texts(v)
	case reflect.Struct:
		return d.object(v)
	}
	return nil, fmt.Errorf("an input cannot hold a %s", v.Type())
}

func (d *documentWriter) text(s string) (*ast.Term, error) {
	if !utf8.ValidString(s) {
		// A rune for each byte that is none, as in JSON: what is recorded is judged alike.
		s = string([]rune(s))
	}
	return ast.InternedTerm(s), d.count(len(s))
}

func (d *documentWriter) list(v reflect.Value) (*ast.Term, error) {
	elements := make([]*ast.Term, v.Len())
	for i := range elements {
		var err error
		if elements[i], err = d.term(v.Index(i)); err != nil {
			return nil, err
		}
	}
	return ast.ArrayTerm(elements...), d.count(v.Len())
}

func (d *documentWriter) texts(v reflect.Value) (*ast.Term, error) {
	members := make([][2]*ast.Term, 0, v.Len())
	for entries := v.MapRange(); entries.Next(); {
		key, err := d.text(entries.Key().String())
		if err != nil {
			return nil, err
		}
		value, err := d.term(entries.Value())
		if err != nil {
			return nil, err
		}
		members = append(members, [2]*ast.Term{key, value})
	}
	return ast.ObjectTerm(members...), nil
}

func (d *documentWriter) object(v reflect.Value) (*ast.Term, error) {
	members := membersOf(v.Type())
	pairs := make([][2]*ast.Term, 0, len(members))
	for _, m := range members {
		field := v.Field(m.field)
		if m.omitEmpty && (field.IsZero() || field.Kind() == reflect.Slice && field.Len() == 0) {
			continue
		}
		value, err := d.term(field)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		if err := d.count(len(m.name)); err != nil {
			return nil, err
		}
		pairs = append(pairs, [2]*ast.Term{m.key, value})
	}
	return ast.ObjectTerm(pairs...), nil
}

// raw reads what somebody else wrote in JSON.
func (d *documentWriter) raw(text json.RawMessage) (*ast.Term, error) {
	if text == nil {
		return ast.InternedNullTerm, nil
	}
	if err := d.count(len(text)); err != nil {
		return nil, err
	}
	var document any
	if err := util.UnmarshalJSON(text, &document); err != nil {
		return nil, err
	}
	value, err := ast.InterfaceToValue(document)
	if err != nil {
		return nil, err
	}
	return ast.NewTerm(value), nil
}

// member is a field of a struct of the input.
type member struct {
	name      string
	key       *ast.Term
	field     int
	omitEmpty bool
}

var members sync.Map // of each type: []member

func membersOf(t reflect.Type) []member {
	if known, ok := members.Load(t); ok {
		return known.([]member)
	}
	var of []member
	for i := range t.NumField() {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		of = append(of, member{name, ast.StringTerm(name), i, options == "omitempty"})
	}
	members.Store(t, of)
	return of
}

var instant = reflect.TypeFor[time.Time]()
