package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
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
	d := &documentWriter{signers: map[Signer]*ast.Term{}}
	t, err := d.term(reflect.ValueOf(in).Elem())
	if err != nil {
		return nil, err
	}
	return t.Value, nil
}

type documentWriter struct {
	bytes int // of the names and texts so far

	// An image, its build, its source and its parents are mostly signed by the same.
	signers map[Signer]*ast.Term
	// pairs are the members of the objects that are being written, innermost last.
	pairs [][2]*ast.Term
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
		if signer, ok := v.Addr().Interface().(*Signer); ok {
			return d.signer(signer, v)
		}
		return d.object(v)
	}
	return nil, fmt.Errorf("an input cannot hold a %s", v.Type())
}

func (d *documentWriter) signer(signer *Signer, v reflect.Value) (*ast.Term, error) {
	if known := d.signers[*signer]; known != nil {
		return known, nil
	}
	t, err := d.object(v)
	d.signers[*signer] = t
	return t, err
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
	outer := len(d.pairs)
	for entries := v.MapRange(); entries.Next(); {
		key, err := d.text(entries.Key().String())
		if err != nil {
			return nil, err
		}
		value, err := d.term(entries.Value())
		if err != nil {
			return nil, err
		}
		d.pairs = append(d.pairs, [2]*ast.Term{key, value})
	}
	return d.close(outer), nil
}

// close makes an object of the pairs after the first outer ones.
func (d *documentWriter) close(outer int) *ast.Term {
	t := ast.ObjectTerm(d.pairs[outer:]...)
	d.pairs = d.pairs[:outer]
	return t
}

func (d *documentWriter) object(v reflect.Value) (*ast.Term, error) {
	members := membersOf(v.Type())
	outer := len(d.pairs)
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
		d.pairs = append(d.pairs, [2]*ast.Term{m.key, value})
	}
	return d.close(outer), nil
}

// raw reads what somebody else wrote in JSON.
func (d *documentWriter) raw(text json.RawMessage) (*ast.Term, error) {
	if text == nil {
		return ast.InternedNullTerm, nil
	}
	if err := d.count(len(text)); err != nil {
		return nil, err
	}
	document, err := readJSON(text)
	if err != nil {
		return nil, err
	}
	value, err := ast.InterfaceToValue(document)
	if err != nil {
		return nil, err
	}
	return ast.NewTerm(value), nil
}

// readers are kept for their buffers, which are most of what reading a statement
// of some kilobytes takes.
var readers = sync.Pool{New: func() any {
	r := &jsonReader{}
	r.decoder = util.NewJSONDecoder(&r.text)
	return r
}}

// largestKept is the size in bytes of the texts above which a buffer is not worth
// keeping.
const largestKept = 64 << 10

// jsonReader reads one text after another.
type jsonReader struct {
	text    bytes.Reader
	decoder *json.Decoder
}

// readJSON returns what the text, which is one value and nothing else, says.
func readJSON(text []byte) (any, error) {
	r := readers.Get().(*jsonReader)
	r.text.Reset(text)
	var document any
	if err := r.decoder.Decode(&document); err != nil {
		return nil, err
	}
	switch token, err := r.decoder.Token(); {
	case err == nil:
		return nil, fmt.Errorf("there is %v after the JSON value", token)
	case err != io.EOF:
		return nil, fmt.Errorf("after the JSON value: %w", err)
	}
	// Only here is nothing of the text left for the next one to be mixed with.
	if len(text) <= largestKept {
		r.text.Reset(nil)
		readers.Put(r)
	}
	return document, nil
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
