package simplesigning_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/evidence/internal/simplesigning"
	"github.com/trustgate/trustgate/oci"
)

const (
	hexDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	atomic    = `{"critical":{"type":"atomic container signature","image":{"docker-manifest-digest":"` + hexDigest + `"},"identity":{"docker-reference":"example.com/app:1"}},"optional":{"creator":"test","timestamp":1700000000}}`
	cosign    = `{"critical":{"identity":{"docker-reference":"example.com/app"},"image":{"docker-manifest-digest":"` + hexDigest + `"},"type":"cosign container image signature"},"optional":null}`
)

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct{ raw, kind, reference string }{
		"atomic":                   {atomic, simplesigning.TypeAtomic, "example.com/app:1"},
		"cosign":                   {cosign, simplesigning.TypeCosign, "example.com/app"},
		"cosign with annotations":  {strings.Replace(cosign, "null", `{"a":"b"}`, 1), simplesigning.TypeCosign, "example.com/app"},
		"no reference":             {strings.Replace(cosign, "example.com/app", "", 1), simplesigning.TypeCosign, ""},
		"white space and escapes":  {" " + strings.Replace(atomic, "example.com", "ex\\u0061mple.com", 1) + "\n", simplesigning.TypeAtomic, "example.com/app:1"},
		"unknown optional members": {strings.Replace(atomic, `"creator"`, `"x":[1],"creator"`, 1), simplesigning.TypeAtomic, "example.com/app:1"},
	} {
		t.Run(name, func(t *testing.T) {
			payload, err := simplesigning.Parse([]byte(tc.raw), tc.kind)
			if err != nil {
				t.Fatal(err)
			}
			if payload.Digest != hexDigest || payload.Reference != tc.reference {
				t.Errorf("got %+v", payload)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(atomic, old) {
			t.Fatalf("%q is not in the payload", old)
		}
		return strings.Replace(atomic, old, new, 1)
	}
	for name, tc := range map[string]struct{ raw, says string }{
		"empty":                       {"", "unexpected EOF"},
		"not JSON":                    {"critical", "invalid character"},
		"an array":                    {"[]", "not a JSON object"},
		"truncated":                   {atomic[:len(atomic)-1], "unexpected EOF"},
		"two documents":               {atomic + atomic, "bytes after"},
		"cosign's type":               {cosign, "optional"},
		"another type":                {replace("atomic container", "atomic thing"), `critical.type is "atomic thing signature"`},
		"unknown critical member":     {replace(`"critical":{`, `"critical":{"until":"tomorrow",`), `the member "until" is not one`},
		"unknown top member":          {replace(`{"critical"`, `{"more":1,"critical"`), `the member "more" is not one`},
		"unknown image member":        {replace(`"image":{`, `"image":{"x":1,`), `critical.image: the member "x"`},
		"unknown identity member":     {replace(`"identity":{`, `"identity":{"x":1,`), `critical.identity: the member "x"`},
		"no optional":                 {replace(`,"optional":{"creator":"test","timestamp":1700000000}`, ""), `"optional" is missing`},
		"optional null":               {replace(`{"creator":"test","timestamp":1700000000}`, "null"), "optional"},
		"no identity":                 {replace(`,"identity":{"docker-reference":"example.com/app:1"}`, ""), `"identity" is missing`},
		"key twice":                   {replace(`"critical":{`, `"critical":{"image":{"docker-manifest-digest":"sha256:00"},`), `the key "image" appears twice`},
		"key twice in another case":   {replace(`"critical":{`, `"critical":{"Image":{},`), "appears twice"},
		"digest twice":                {replace(`"image":{`, `"image":{"docker-manifest-digest":"sha256:00",`), "appears twice"},
		"digest null":                 {replace(`"`+hexDigest+`"`, "null"), "not a JSON string"},
		"digest of another algorithm": {replace("sha256:e3b0", "md5:e3b0"), "not a digest"},
		"digest in capitals":          {replace("e3b0", "E3B0"), "not a digest"},
		"reference null":              {replace(`"example.com/app:1"`, "null"), "not a JSON string"},
		"reference a list":            {replace(`"example.com/app:1"`, `["example.com/app:1"]`), "not a JSON string"},
		"endless reference":           {replace("example.com/app:1", strings.Repeat("a", 2000)), "more than 1024"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := simplesigning.Parse([]byte(tc.raw), simplesigning.TypeAtomic)
			if !errors.Is(err, simplesigning.ErrPayload) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want an ErrPayload that says %q", err, tc.says)
			}
		})
	}
}

// FuzzPayload holds Parse to what its callers rely on: a payload that parses
// has a digest in the one accepted form.
func FuzzPayload(f *testing.F) {
	f.Add([]byte(atomic))
	f.Add([]byte(cosign))
	f.Add([]byte(`{"critical":{"type":"atomic container signature"},"optional":{}}`))
	f.Add([]byte(`{"critical":null,"optional":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, kind := range []string{simplesigning.TypeAtomic, simplesigning.TypeCosign} {
			payload, err := simplesigning.Parse(raw, kind)
			if err != nil {
				continue
			}
			if _, err := oci.ParseDigest(payload.Digest.String()); err != nil {
				t.Errorf("accepted the digest %q", payload.Digest)
			}
		}
	})
}
