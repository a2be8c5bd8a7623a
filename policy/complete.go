package policy

import (
	"encoding/json"
	"reflect"
)

// MarshalJSON writes the document as rules may rely on it: a list or a map
// that nobody filled is empty, never null.
func (in Input) MarshalJSON() ([]byte, error) {
	return json.Marshal(in.document())
}

// document is an Input without methods, completed.
type document Input

func (in *Input) document() document {
	return document(complete(reflect.ValueOf(*in)).Interface().(Input))
}

var (
	rawMessage  = reflect.TypeFor[json.RawMessage]()
	thisPackage = reflect.TypeFor[Input]().PkgPath()
)

// complete returns a copy of v in which no slice and no map is nil. Raw JSON
// and the types of other packages stay as they are.
func complete(v reflect.Value) reflect.Value {
	switch t := v.Type(); {
	case t == rawMessage:
		return v
	case t.Kind() == reflect.Struct && t.PkgPath() == thisPackage:
		filled := reflect.New(t).Elem()
		for i := range t.NumField() {
			filled.Field(i).Set(complete(v.Field(i)))
		}
		return filled
	case t.Kind() == reflect.Pointer && !v.IsNil() && t.Elem().PkgPath() == thisPackage:
		filled := reflect.New(t.Elem())
		filled.Elem().Set(complete(v.Elem()))
		return filled
	case t.Kind() == reflect.Slice:
		filled := reflect.MakeSlice(t, v.Len(), v.Len())
		for i := range v.Len() {
			filled.Index(i).Set(complete(v.Index(i)))
		}
		return filled
	case t.Kind() == reflect.Map && v.IsNil():
		return reflect.MakeMap(t)
	}
	return v
}
