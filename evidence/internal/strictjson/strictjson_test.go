package strictjson_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/evidence/internal/strictjson"
)

func TestObject(t *testing.T) {
	for name, tc := range map[string]struct {
		raw  string
		want map[string]string
	}{
		"an empty object":              {` {} `, map[string]string{}},
		"members of every type":        {`{"a":1,"b":[1, 2],"c":"x","d":null,"e":{"f":true}}`, map[string]string{"a": "1", "b": "[1, 2]", "c": `"x"`, "d": "null", "e": `{"f":true}`}},
		"an escaped key":               {`{"\u0061":1}`, map[string]string{"a": "1"}},
		"an empty key":                 {`{"":1}`, map[string]string{"": "1"}},
		"a number beyond any float":    {`{"a":1e9999}`, map[string]string{"a": "1e9999"}},
		"equal keys of inner objects":  {`{"a":{"x":1},"b":{"x":2}}`, map[string]string{"a": `{"x":1}`, "b": `{"x":2}`}},
		"a key that is a prefix":       {`{"subject":1,"subjects":2}`, map[string]string{"subject": "1", "subjects": "2"}},
		"a duplicate one level deeper": {`{"a":{"x":1,"x":2}}`, map[string]string{"a": `{"x":1,"x":2}`}}, // whoever opens that object refuses it
	} {
		t.Run(name, func(t *testing.T) {
			members, err := strictjson.Object([]byte(tc.raw))
			if err != nil {
				t.Fatal(err)
			}
			if len(members) != len(tc.want) {
				t.Fatalf("got %s", members)
			}
			for key, want := range tc.want {
				if got, ok := members[key]; !ok || string(got) != want {
					t.Errorf("%q is %s, want %s", key, got, want)
				}
			}
		})
	}
}

func TestObjectRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ raw, says string }{
		"nothing":                        {``, "unexpected EOF"},
		"white space":                    {"\n", "unexpected EOF"},
		"null":                           {`null`, "not a JSON object"},
		"a list":                         {`[{}]`, "not a JSON object"},
		"a string":                       {`"{}"`, "not a JSON object"},
		"an object that does not end":    {`{"a":1`, "unexpected EOF"},
		"a key that does not end":        {`{"a`, "unexpected EOF"},
		"a value that does not end":      {`{"a":[1`, "unexpected EOF"},
		"a member without a value":       {`{"a"}`, "colon"},
		"a comma at the end":             {`{"a":1,}`, "invalid character"},
		"a key without quotes":           {`{a:1}`, "invalid character"},
		"a comment":                      {`{/* */}`, "invalid character"},
		"a byte order mark":              {"\ufeff{}", "invalid character"},
		"a key twice":                    {`{"a":1,"a":1}`, `the key "a" appears twice`},
		"a key twice, once escaped":      {`{"a":1,"\u0061":2}`, `the key "a" appears twice`},
		"a key in another case":          {`{"subject":1,"Subject":2}`, `the key "Subject" appears twice`},
		"a key with a long s":            {`{"subject":1,"` + "\u017f" + `ubject":2}`, "appears twice"},
		"a key with an escaped long s":   {`{"subject":1,"\u017fubject":2}`, "appears twice"},
		"a key with the sign of Kelvin":  {`{"key":1,"` + "\u212a" + `ey":2}`, "appears twice"},
		"two keys of broken UTF-8":       {"{\"\xff\":1,\"\xfe\":2}", "appears twice"},
		"a second object":                {`{}{}`, "bytes after the JSON object"},
		"a bracket behind it":            {`{}}`, "bytes after the JSON object"},
		"text behind it":                 {`{} x`, "bytes after the JSON object"},
		"a NUL behind it":                {"{}\x00", "bytes after the JSON object"},
		"ten thousand brackets too many": {`{"a":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, "exceeded max depth"},
	} {
		t.Run(name, func(t *testing.T) {
			members, err := strictjson.Object([]byte(tc.raw))
			if err == nil || members != nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %s, %v; want it to say %q", members, err, tc.says)
			}
		})
	}
}

func TestExactly(t *testing.T) {
	for name, tc := range map[string]struct{ raw, says string }{
		"the members and no others":   {`{"type":1,"image":2}`, ""},
		"in another order":            {`{"image":2,"type":1}`, ""},
		"a member that is null":       {`{"type":null,"image":2}`, ""}, // it is there; what it may be is not asked here
		"one is missing":              {`{"type":1}`, `the member "image" is missing`},
		"one is in another case":      {`{"type":1,"Image":2}`, `the member "image" is missing`},
		"one too many":                {`{"type":1,"image":2,"identity":3}`, `the member "identity" is not one that TrustGate knows`},
		"one twice":                   {`{"type":1,"image":2,"image":3}`, "appears twice"},
		"no object":                   {`[]`, "not a JSON object"},
		"one too many in place of it": {`{"type":1,"identity":3}`, `the member "image" is missing`},
	} {
		t.Run(name, func(t *testing.T) {
			members, err := strictjson.Exactly([]byte(tc.raw), "type", "image")
			if tc.says == "" {
				if err != nil || len(members) != 2 || string(members["image"]) != "2" {
					t.Errorf("got %s, %v", members, err)
				}
				return
			}
			if err == nil || members != nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %s, %v; want it to say %q", members, err, tc.says)
			}
		})
	}
}

func TestString(t *testing.T) {
	for raw, want := range map[string]string{`""`: "", `"a"`: "a", `"\u0061\n"`: "a\n"} {
		if got, err := strictjson.String(json.RawMessage(raw)); err != nil || got != want {
			t.Errorf("%s: %q, %v", raw, got, err)
		}
	}
	for _, raw := range []string{``, `null`, `1`, `true`, `["a"]`, `{"a":"b"}`, `"a`, ` "a"`, `"a" "b"`, `'a'`} {
		if got, err := strictjson.String(json.RawMessage(raw)); err == nil {
			t.Errorf("%s is read as %q", raw, got)
		}
	}
}

// FuzzObject: what Object accepts, encoding/json reads in the same way, as a
// map and as a struct whose keys it looks for without regard to case.
func FuzzObject(f *testing.F) {
	f.Add([]byte(`{"subject":1,"predicate":{"a":[1,2.5e3,null]},"key":"x"}`))
	f.Add([]byte(`{"subject":1,"Subject":2}`))
	f.Add([]byte("{\"\u017fubject\":1,\"subject\":2}"))
	f.Add([]byte("{\"key\":1,\"\u212aey\":2}"))
	f.Add([]byte(`{"\u0061":1,"":2} `))
	f.Add([]byte(`{"a":1}{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		members, err := strictjson.Object(raw)
		if err != nil {
			if members != nil {
				t.Fatalf("got %s beside %v", members, err)
			}
			return
		}
		var all map[string]json.RawMessage
		if err := json.Unmarshal(raw, &all); err != nil {
			t.Fatal(err)
		}
		if len(all) != len(members) {
			t.Fatalf("got %s, want %s", members, all)
		}
		for key, value := range members {
			if !bytes.Equal(all[key], value) {
				t.Fatalf("%q is %s, want %s", key, value, all[key])
			}
			for other := range members {
				if key != other && strings.EqualFold(key, other) {
					t.Fatalf("%q and %q were both let in", key, other)
				}
			}
		}
		var loose struct {
			Subject json.RawMessage `json:"subject"`
			Key     json.RawMessage `json:"key"`
		}
		if err := json.Unmarshal(raw, &loose); err != nil {
			t.Fatal(err)
		}
		for key, read := range map[string]json.RawMessage{"subject": loose.Subject, "key": loose.Key} {
			if exact, ok := members[key]; ok && !bytes.Equal(exact, read) {
				t.Fatalf("%s is %s to one reader and %s to another", key, exact, read)
			}
		}
	})
}
