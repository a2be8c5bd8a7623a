package oci_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

func diffIDs(list ...string) string {
	raw, err := json.Marshal(append([]string{}, list...))
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`"rootfs":{"type":"layers","diff_ids":%s}`, raw)
}

// dockerConfig has the members of Docker's older configs too.
var dockerConfig = `{"architecture":"arm64","variant":"v8","os":"linux","created":"2024-05-06T07:08:09.123Z",
	"config":{"Env":["PATH=/bin"],"ExposedPorts":{"80/tcp":{}},"Labels":{"a":"1","A":"2"}},
	"container_config":{"Labels":{"a":"3"}},"docker_version":"20.10","history":[{"created_by":"x"}],` + diffIDs(emptySHA256, emptySHA512) + `}`

func TestParseImageConfig(t *testing.T) {
	c, err := oci.ParseImageConfig([]byte(dockerConfig))
	if err != nil {
		t.Fatal(err)
	}
	if oci.FormatPlatform(&c.Platform) != "linux/arm64/v8" || !c.Created.Equal(time.Date(2024, 5, 6, 7, 8, 9, 123e6, time.UTC)) {
		t.Errorf("got %+v", c)
	}
	if len(c.Labels) != 2 || c.Labels["a"] != "1" || c.Labels["A"] != "2" {
		t.Errorf("got labels %v", c.Labels)
	}
	if !slices.Equal(c.DiffIDs, []digest.Digest{emptySHA256, emptySHA512}) {
		t.Errorf("got %v", c.DiffIDs)
	}
	for name, raw := range map[string]string{
		"says nothing":           `{}`,
		"has nulls":              `{"created":null,"config":null,"rootfs":null,"os":null}`,
		"has members of others":  `{"x":{"y":[1e999]},"moby.buildkit.cache.v0":"e30="}`,
		"has no labels":          `{"config":{"Labels":null},"rootfs":{"diff_ids":null}}`,
		"is cosign's, of no era": `{"architecture":"","created":"0001-01-01T00:00:00Z","history":[],"os":"","rootfs":{"type":"layers","diff_ids":[]},"config":{}}`,
	} {
		c, err := oci.ParseImageConfig([]byte(raw))
		if err != nil || !c.Created.IsZero() || len(c.Labels) != 0 || len(c.DiffIDs) != 0 || oci.FormatPlatform(&c.Platform) != "" {
			t.Errorf("one that %s: %+v, %v", name, c, err)
		}
	}
	full := "{" + diffIDs(slices.Repeat([]string{emptySHA256}, oci.MaxManifestEntries)...) + "}"
	if c, err := oci.ParseImageConfig([]byte(full)); err != nil || len(c.DiffIDs) != oci.MaxManifestEntries {
		t.Errorf("as many layers as there may be: %v", err)
	}
}

func TestParseImageConfigRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ raw, says string }{
		"nothing":                           {``, "unexpected end"},
		"null":                              {`null`, "not a JSON object"},
		"a list":                            {`[]`, "cannot unmarshal array"},
		"one that does not end":             {`{"os":"linux"`, "unexpected end"},
		"one with another behind it":        {`{}{}`, "after top-level value"},
		"labels that are no strings":        {`{"config":{"Labels":{"a":1}}}`, "cannot unmarshal number"},
		"a time that is none":               {`{"created":"yesterday"}`, "parsing time"},
		"a short diff ID":                   {"{" + diffIDs(emptySHA256, "sha256:e3b0c442") + "}", "diff_ids[1]: not a digest"},
		"a diff ID in capitals":             {"{" + diffIDs("sha256:"+strings.ToUpper(emptySHA256[7:])) + "}", "diff_ids[0]: not a digest"},
		"an empty diff ID":                  {"{" + diffIDs("") + "}", "diff_ids[0]: not a digest"},
		"a diff ID that is null":            {`{"rootfs":{"diff_ids":[null]}}`, "diff_ids[0]: not a digest"},
		"a diff ID that nobody computes":    {"{" + diffIDs("md5:d41d8cd98f00b204e9800998ecf8427e") + "}", "diff_ids[0]: not a digest"},
		"more layers than there may be":     {"{" + diffIDs(slices.Repeat([]string{emptySHA256}, oci.MaxManifestEntries+1)...) + "}", "2049 diff_ids, more than 2048"},
		"a second list of layers":           {`{` + diffIDs(emptySHA256) + `,` + diffIDs() + `}`, `the key "rootfs" appears twice`},
		"a second list in other capitals":   {`{` + diffIDs(emptySHA256) + `,"RootFS":{"diff_ids":[]}}`, `the key "RootFS" appears twice`},
		"a second list with a long s":       {`{` + diffIDs(emptySHA256) + `,"rootf` + "\u017f" + `":{"diff_ids":[]}}`, "appears twice"},
		"a second list in the same one":     {`{"rootfs":{"diff_ids":[],"Diff_IDs":["` + emptySHA256 + `"]}}`, `the key "Diff_IDs" appears twice`},
		"labels that would be joined":       {`{"config":{"Labels":{"a":"1"}},"config":{"Labels":{"b":"2"}}}`, `the key "config" appears twice`},
		"labels beside labels":              {`{"config":{"Labels":{"a":"1"},"labels":{"b":"2"}}}`, `the key "labels" appears twice`},
		"a label twice":                     {`{"config":{"Labels":{"a":"1","a":"2"}}}`, `the key "a" appears twice`},
		"a label twice, once with escapes":  {`{"config":{"Labels":{"a":"1","\u0061":"2"}}}`, `the key "a" appears twice`},
		"an operating system of two names":  {`{"os":"linux","OS":"windows"}`, `the key "OS" appears twice`},
		"ten thousand brackets too many":    {`{"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, "exceeded max depth"},
		"a time that fills the error":       {`{"created":"` + strings.Repeat("9", 10000) + `"}`, "parsing time"},
		"layers in a member that is a list": {`{"rootfs":[{"diff_ids":[]}]}`, "cannot unmarshal array"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := oci.ParseImageConfig([]byte(tc.raw))
			if !errors.Is(err, oci.ErrConfig) || c != nil {
				t.Fatalf("got %+v, %v", c, err)
			}
			if !strings.Contains(err.Error(), tc.says) || len(err.Error()) > 1000 {
				t.Errorf("says %q, not %q", err, tc.says)
			}
		})
	}
}

func TestChainID(t *testing.T) {
	a, b, c := digest.FromString("a"), digest.FromString("b"), digest.FromString("c")
	ab := digest.FromString(a.String() + " " + b.String())
	abc := digest.FromString(ab.String() + " " + c.String())
	for name, tc := range map[string]struct {
		layers []digest.Digest
		want   digest.Digest
	}{
		"no layers":    {nil, ""},
		"one layer":    {[]digest.Digest{a}, a},
		"two layers":   {[]digest.Digest{a, b}, ab},
		"three layers": {[]digest.Digest{a, b, c}, abc},
	} {
		if got := oci.ChainID(tc.layers); got != tc.want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if oci.ChainID([]digest.Digest{b, a}) == ab {
		t.Error("the order of the layers makes no difference")
	}
}

// FuzzParseImageConfig: every layer of an accepted config has a digest that can
// be computed, and a reader that minds capitals finds the same ones.
func FuzzParseImageConfig(f *testing.F) {
	f.Add([]byte(dockerConfig))
	f.Add([]byte(`{"rootfs":{"diff_ids":[]},"RootFS":{}}`))
	f.Add([]byte(`{"rootf` + "\u017f" + `":{},"rootfs":{"diff_ids":["` + emptySHA256 + `"]}}`))
	f.Add([]byte(`{"created":"0001-01-01T00:00:00Z","config":{"Labels":{"":""}}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := oci.ParseImageConfig(raw)
		if err != nil {
			if c != nil || !errors.Is(err, oci.ErrConfig) || len(err.Error()) > 2000 {
				t.Fatalf("got %+v, %v", c, err)
			}
			return
		}
		for _, d := range c.DiffIDs {
			if _, err := oci.ParseDigest(d.String()); err != nil {
				t.Fatal(err)
			}
		}
		var top, rootfs map[string]json.RawMessage
		if err := json.Unmarshal(raw, &top); err != nil {
			t.Fatal(err)
		}
		if _, ok := top["rootfs"]; !ok {
			return
		}
		if err := json.Unmarshal(top["rootfs"], &rootfs); err != nil {
			t.Fatal(err)
		}
		if list, ok := rootfs["diff_ids"]; ok {
			var exact []digest.Digest
			if err := json.Unmarshal(list, &exact); err != nil || !slices.Equal(exact, c.DiffIDs) {
				t.Fatalf("got %v, and another reader %v, %v", c.DiffIDs, exact, err)
			}
		}
	})
}
