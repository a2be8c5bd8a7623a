package policy

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// What is judged is what is recorded and judged again later.
func TestValueIsWhatIsWritten(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]*Input{
		"empty":     {},
		"full":      filled(t, "a\"<b>&\u2028ü", json.RawMessage(` {"b": [1, 1.50, -0, 1e400, 12345678901234567890], "a": {"": null}, "c": "\ud800\u0000"}`)),
		"not UTF-8": filled(t, "a\xff\xfe\xc3", json.RawMessage("\"a\xff\xfe\"")),
		"instants":  {Image: Image{Created: at(time.Date(2026, 11, 24, 1, 2, 3, 4000, time.FixedZone("", 3600)))}},
	} {
		t.Run(name, func(t *testing.T) { sameValue(t, in) })
	}
	for name, in := range map[string]*Input{
		"no JSON":            {Attestations: []Attestation{{Predicate: json.RawMessage(`{"a":`)}}},
		"two documents":      {Attestations: []Attestation{{Predicate: json.RawMessage(`{} {}`)}}},
		"a year of 5 digits": {Image: Image{Created: at(time.Date(20261, 1, 1, 0, 0, 0, 0, time.UTC))}},
	} {
		t.Run(name, func(t *testing.T) {
			if v, err := in.value(); err == nil {
				t.Errorf("it is read as %v", v)
			}
			if _, err := json.Marshal(in); err == nil {
				t.Error("it is written")
			}
		})
	}
}

func FuzzValueIsWhatIsWritten(f *testing.F) {
	f.Add("", []byte(`{}`))
	f.Add("\xff", []byte(`{"a": [1e999, {"b": "\udfff"}], "a": null}`))
	f.Fuzz(func(t *testing.T, text string, raw []byte) {
		in := filled(t, text, raw)
		if _, err := json.Marshal(in); err != nil {
			if v, err := in.value(); err == nil {
				t.Fatalf("what cannot be written is read as %v", v)
			}
			return
		}
		sameValue(t, in)
	})
}

func sameValue(t *testing.T, in *Input) {
	t.Helper()
	raw, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	want, err := ast.ValueFromReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	got, err := in.value()
	if err != nil {
		t.Fatal(err)
	}
	if got.Compare(want) != 0 {
		t.Errorf("read as\n%v\nwritten as\n%v", got, want)
	}
}

func at(moment time.Time) *time.Time { return &moment }

// filled has something in every field.
func filled(t *testing.T, text string, raw json.RawMessage) *Input {
	t.Helper()
	in := &Input{}
	var fill func(reflect.Value)
	fill = func(v reflect.Value) {
		switch v.Type() {
		case rawMessage:
			v.SetBytes(raw)
			return
		case instant:
			v.Set(reflect.ValueOf(time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)))
			return
		}
		switch v.Kind() {
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Int, reflect.Int64:
			v.SetInt(1 << 40)
		case reflect.String:
			v.SetString(text)
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem())
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
			fill(v.Index(0)) // and one with nothing in it
		case reflect.Map:
			v.Set(reflect.MakeMap(v.Type()))
			value := reflect.New(v.Type().Elem()).Elem()
			fill(value)
			v.SetMapIndex(reflect.ValueOf(text).Convert(v.Type().Key()), value)
		case reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i))
			}
		default:
			t.Fatalf("what is a %s to the rules?", v.Type())
		}
	}
	fill(reflect.ValueOf(in).Elem())
	return in
}
