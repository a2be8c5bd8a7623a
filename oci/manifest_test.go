package oci_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/oci"
)

func descriptor(mediaType string, more ...string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":3%s}`, mediaType, emptySHA256, strings.Join(append([]string{""}, more...), ","))
}

// document writes a manifest or index with these members.
func document(mediaType string, members ...string) string {
	if mediaType != "" {
		members = append([]string{fmt.Sprintf(`"mediaType":%q`, mediaType)}, members...)
	}
	return `{"schemaVersion":2,` + strings.Join(members, ",") + `}`
}

func list(member string, entries ...string) string {
	return fmt.Sprintf(`%q:[%s]`, member, strings.Join(entries, ","))
}

var (
	config     = `"config":` + descriptor(ocispec.MediaTypeImageConfig)
	layer      = descriptor(ocispec.MediaTypeImageLayerGzip)
	layers     = list("layers", layer)
	manifests  = list("manifests", descriptor(oci.MediaTypeImageManifest, `"platform":{"os":"linux","architecture":"amd64"}`))
	image      = document(oci.MediaTypeImageManifest, config, layers)
	index      = document(oci.MediaTypeImageIndex, manifests)
	dockerList = document(oci.MediaTypeDockerList, manifests)
	docker     = document(oci.MediaTypeDockerManifest, `"config":`+descriptor(oci.MediaTypeDockerConfig), layers)
	schema1    = `{"schemaVersion":1,"name":"app","tag":"1","architecture":"amd64","fsLayers":[{"blobSum":"` + emptySHA256 + `"}],"history":[{"v1Compatibility":"{}"}],"signatures":[]}`
)

func TestParseManifest(t *testing.T) {
	for name, tc := range map[string]struct {
		raw, contentType string
		mediaType        string
		kind             oci.Kind
	}{
		"an OCI image":                           {image, oci.MediaTypeImageManifest, oci.MediaTypeImageManifest, oci.KindImage},
		"an OCI index":                           {index, oci.MediaTypeImageIndex, oci.MediaTypeImageIndex, oci.KindIndex},
		"a Docker image":                         {docker, oci.MediaTypeDockerManifest, oci.MediaTypeDockerManifest, oci.KindImage},
		"a Docker list":                          {dockerList, oci.MediaTypeDockerList, oci.MediaTypeDockerList, oci.KindIndex},
		"an image without a header":              {image, "", oci.MediaTypeImageManifest, oci.KindImage},
		"an image served as JSON":                {image, "application/json", oci.MediaTypeImageManifest, oci.KindImage},
		"an image served as text":                {docker, "text/plain; charset=utf-8", oci.MediaTypeDockerManifest, oci.KindImage},
		"a header with a parameter":              {index, oci.MediaTypeImageIndex + "; charset=utf-8", oci.MediaTypeImageIndex, oci.KindIndex},
		"a header in capitals":                   {index, strings.ToUpper(oci.MediaTypeImageIndex), oci.MediaTypeImageIndex, oci.KindIndex},
		"an image that does not say so":          {document("", config, layers), "", oci.MediaTypeImageManifest, oci.KindImage},
		"an index that does not say so":          {document("", manifests), "", oci.MediaTypeImageIndex, oci.KindIndex},
		"an index that neither says so":          {document("", manifests), "application/json", oci.MediaTypeImageIndex, oci.KindIndex},
		"an index that the header says is":       {document("", manifests), oci.MediaTypeImageIndex, oci.MediaTypeImageIndex, oci.KindIndex},
		"a Docker image that only the header is": {document("", config, layers), oci.MediaTypeDockerManifest, oci.MediaTypeDockerManifest, oci.KindImage},
		"an index of nothing":                    {document(oci.MediaTypeImageIndex, `"manifests":[]`), "", oci.MediaTypeImageIndex, oci.KindIndex},
		"an image of no layers":                  {document(oci.MediaTypeImageManifest, config, `"layers":[]`), "", oci.MediaTypeImageManifest, oci.KindImage},
		"members that nobody knows":              {document(oci.MediaTypeImageManifest, config, layers, `"x":{"y":[1e999]}`), "", oci.MediaTypeImageManifest, oci.KindImage},
		"null where the other kind has a list":   {document(oci.MediaTypeImageManifest, config, layers, `"manifests":null`), "", oci.MediaTypeImageManifest, oci.KindImage},
		"annotations that differ in case":        {document(oci.MediaTypeImageManifest, config, layers, `"annotations":{"a":"1","A":"2"}`), "", oci.MediaTypeImageManifest, oci.KindImage},
		"white space around it":                  {"\n " + image + "\n", "", oci.MediaTypeImageManifest, oci.KindImage},
		"as many layers as there may be":         {document(oci.MediaTypeImageManifest, config, list("layers", slices.Repeat([]string{layer}, oci.MaxManifestEntries)...)), "", oci.MediaTypeImageManifest, oci.KindImage},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := oci.ParseManifest([]byte(tc.raw), tc.contentType, "")
			if err != nil {
				t.Fatal(err)
			}
			if m.MediaType != tc.mediaType || m.Kind != tc.kind || m.Digest != digest.FromString(tc.raw) || string(m.Raw) != tc.raw {
				t.Errorf("got a %s, %s, %s", m.Kind, m.MediaType, m.Digest)
			}
			if (m.Config == nil) != (tc.kind == oci.KindIndex) {
				t.Errorf("its config is %+v", m.Config)
			}
			if d := m.Descriptor(); d.Digest != m.Digest || d.Size != int64(len(tc.raw)) || d.MediaType != m.MediaType {
				t.Errorf("described as %+v", d)
			}
		})
	}
}

func TestParseManifestRefuses(t *testing.T) {
	const image1, list1 = oci.MediaTypeImageManifest, oci.MediaTypeImageIndex
	insert := func(raw, member string) string { return strings.Replace(raw, "{", "{"+member+",", 1) }
	broken := func(old, replacement string) string {
		return document(image1, config, list("layers", strings.Replace(layer, old, replacement, 1)))
	}
	many := slices.Repeat([]string{layer}, oci.MaxManifestEntries+1)
	for name, tc := range map[string]struct{ raw, contentType, says string }{
		// One document that is an image to one client and an index to another.
		"an image that has manifests":          {document(image1, config, layers, manifests), "", "config and layers and no manifests"},
		"an index that has layers":             {document(list1, config, layers, manifests), "", "neither config nor layers"},
		"an index that has a config":           {document(list1, config, manifests), "", "neither config nor layers"},
		"an index that has empty layers":       {document(list1, `"layers":[]`, manifests), "", "neither config nor layers"},
		"an image that has no manifests in it": {document(image1, config, layers, `"manifests":[]`), "", "no manifests"},
		"both, and it does not say which":      {document("", config, layers, manifests), "", "neither config nor layers"},
		"both, and the header says an image":   {document("", config, layers, manifests), image1, "no manifests"},
		"both, and the header says an index":   {document("", config, layers, manifests), list1, "neither config nor layers"},
		"both, in other capitals":              {document(image1, config, layers, strings.Replace(manifests, "m", "M", 1)), "", "no manifests"},
		"an image that the header calls index": {image, list1, "the header says " + list1},
		"an index that the header calls image": {index, image1, "the header says " + image1},
		"an index that says it is an image":    {document(image1, manifests), "", "config and layers"},
		"an image that says it is an index":    {document(list1, config, layers), "", "neither config nor layers"},
		"an unnamed index, an image by header": {document("", manifests), image1, "config and layers"},
		"an unnamed image, an index by header": {document("", config, layers), list1, "neither config nor layers"},
		"OCI by header and Docker by itself":   {docker, image1, "the header says"},
		"Docker by header and OCI by itself":   {image, oci.MediaTypeDockerManifest, "the header says"},
		"an unknown media type":                {document("application/vnd.example+json", config, layers), "", `media type "application/vnd.example+json"`},
		"the media type in capitals":           {document(strings.ToUpper(image1), config, layers), "", "media type"},
		"a header that cannot be read":         {image, "a/b/c", "content type"},
		"a withdrawn artifact manifest":        {document("application/vnd.oci.artifact.manifest.v1+json", list("blobs", layer)), "", "withdrawn artifact manifest"},
		"an image that has blobs":              {document(image1, config, layers, list("blobs", layer)), "", "withdrawn artifact manifest"},
		"neither an image nor an index":        {document("", `"x":1`), "", "config and layers"},
		"an image without a config":            {document(image1, layers), "", "config and layers"},
		"an image whose config is null":        {document(image1, `"config":null`, layers), "", "config and layers"},
		"an image without layers":              {document(image1, config), "", "config and layers"},
		"an index whose manifests are null":    {document(list1, `"manifests":null`), "", "an index has manifests"},
		"no schema version":                    {strings.Replace(image, `"schemaVersion":2,`, "", 1), "", "schemaVersion is 0"},
		"a later schema version":               {strings.Replace(image, `"schemaVersion":2`, `"schemaVersion":3`, 1), "", "schemaVersion is 3"},
		"a schema version that is a string":    {strings.Replace(image, `"schemaVersion":2`, `"schemaVersion":"2"`, 1), "", "cannot unmarshal string"},
		"nothing":                              {"", "", "unexpected end"},
		"null":                                 {"null", "", "not a JSON object"},
		"a list":                               {"[" + image + "]", "", "cannot unmarshal array"},
		"a document that does not end":         {image[:len(image)-1], "", "unexpected end"},
		"a document behind it":                 {image + image, "", "after top-level value"},
		"a bracket behind it":                  {image + "}", "", "after top-level value"},
		"a byte order mark":                    {"\ufeff" + image, "", "invalid character"},
		"ten thousand brackets too many":       {document(image1, config, layers, `"x":`+strings.Repeat("[", 20000)+strings.Repeat("]", 20000)), "", "exceeded max depth"},
		"a page in place of it":                {"<html>", "text/html", "invalid character"},
		"layers twice":                         {insert(image, layers), "", `the key "layers" appears twice`},
		"layers in other capitals":             {insert(image, strings.Replace(layers, "l", "L", 1)), "", `the key "layers" appears twice`},
		"layers with a long s":                 {insert(image, list("layer\u017f", layer)), "", `the key "layers" appears twice`},
		"layers with an escape":                {insert(image, `"\u006cayers":[]`), "", `the key "layers" appears twice`},
		"the media type twice":                 {insert(image, `"mediaType":"`+list1+`"`), "", `the key "mediaType" appears twice`},
		"the config twice":                     {insert(image, config), "", `the key "config" appears twice`},
		"annotations twice":                    {insert(image, `"annotations":{"a":"1"},"annotations":{}`), "", `the key "annotations" appears twice`},
		"an annotation twice":                  {insert(image, `"annotations":{"a":"1","a":"2"}`), "", `the key "a" appears twice`},
		"a layer's digest twice":               {broken(`"digest"`, `"digest":"`+digest.FromString("x").String()+`","digest"`), "", `the key "digest" appears twice`},
		"a layer's Digest beside its digest":   {broken(`"digest"`, `"Digest":"`+digest.FromString("x").String()+`","digest"`), "", `the key "digest" appears twice`},
		"a platform's OS beside its os":        {document(list1, strings.Replace(manifests, `"os"`, `"OS":"windows","os"`, 1)), "", `the key "os" appears twice`},
		"a duplicate that nobody reads":        {insert(image, `"x":[{"y":1,"y":2}]`), "", `the key "y" appears twice`},
		"a negative size":                      {broken(`"size":3`, `"size":-1`), "", "layers[0]: size -1 is negative"},
		"a size beyond all numbers":            {broken(`"size":3`, `"size":9223372036854775808`), "", "cannot unmarshal number"},
		"a size that is a fraction":            {broken(`"size":3`, `"size":1.5`), "", "cannot unmarshal number"},
		"a digest in capitals":                 {broken(emptySHA256, "sha256:"+strings.ToUpper(emptySHA256[7:])), "", "layers[0]: not a digest"},
		"a short digest":                       {broken(emptySHA256, emptySHA256[:19]), "", "layers[0]: not a digest"},
		"a digest that nobody computes":        {broken(emptySHA256, "md5:d41d8cd98f00b204e9800998ecf8427e"), "", "layers[0]: not a digest"},
		"no digest":                            {broken(`"digest"`, `"x"`), "", "layers[0]: not a digest"},
		"no media type":                        {broken(`"mediaType"`, `"x"`), "", "layers[0]: no media type"},
		"a layer that is null":                 {document(image1, config, `"layers":[null]`), "", "layers[0]: not a digest"},
		"a config with a short digest":         {strings.Replace(image, emptySHA256, "sha256:1234", 1), "", "config: not a digest"},
		"an entry with a negative size":        {document(list1, strings.Replace(manifests, `"size":3`, `"size":-3`, 1)), "", "manifests[0]: size -3 is negative"},
		"a subject with a digest in capitals":  {document(image1, config, layers, `"subject":`+strings.Replace(layer, "sha256:e3", "sha256:E3", 1)), "", "subject: not a digest"},
		"more layers than there may be":        {document(image1, config, list("layers", many...)), "", "2049 entries, more than 2048"},
		"more manifests than there may be":     {document(list1, list("manifests", many...)), "", "2049 entries, more than 2048"},
		"annotations that are no strings":      {insert(image, `"annotations":{"a":1}`), "", "cannot unmarshal number"},
		"a media type that fills the error":    {document("x/"+strings.Repeat("y", 10000), config, layers), "", "media type"},
		"a number that fills the error":        {broken(`"size":3`, `"size":`+strings.Repeat("9", 10000)), "", "cannot unmarshal number"},
		"a header that fills the error":        {image, strings.Repeat("y", 10000) + "/a/b", "content type"},
		"a key that fills the error":           {insert(image, fmt.Sprintf("%q:1,%[1]q:2", strings.Repeat("y", 10000))), "", "appears twice"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := oci.ParseManifest([]byte(tc.raw), tc.contentType, "")
			if !errors.Is(err, oci.ErrManifest) || m != nil {
				t.Fatalf("got %+v, %v", m, err)
			}
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("says %q, not %q", err, tc.says)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestParseManifestRefusesSchema1(t *testing.T) {
	const type1 = "application/vnd.docker.distribution.manifest.v1+json"
	for name, tc := range map[string]struct{ raw, contentType string }{
		"by its version":               {schema1, ""},
		"by the header":                {image, type1},
		"by the header, signed":        {schema1, "application/vnd.docker.distribution.manifest.v1+prettyjws"},
		"by the header of another":     {schema1, oci.MediaTypeImageManifest},
		"by its media type":            {document(type1, config, layers), ""},
		"by its layers":                {document("", config, layers, `"fsLayers":[]`), ""},
		"by its layers, in capitals":   {document("", config, layers, `"FSLayers":[]`), ""},
		"by its layers, null":          {document("", config, layers, `"fsLayers":null`), ""},
		"by the header, of any length": {"not even JSON", type1},
	} {
		t.Run(name, func(t *testing.T) {
			if m, err := oci.ParseManifest([]byte(tc.raw), tc.contentType, ""); !errors.Is(err, oci.ErrSchema1) || m != nil {
				t.Errorf("got %+v, %v", m, err)
			}
		})
	}
}

func TestParseManifestHashes(t *testing.T) {
	raw := []byte(image)
	for _, d := range []digest.Digest{digest.FromBytes(raw), digest.SHA512.FromBytes(raw)} {
		if m, err := oci.ParseManifest(raw, "", d); err != nil || m.Digest != d {
			t.Errorf("%s: %+v, %v", d, m, err)
		}
	}
	for name, tc := range map[string]struct {
		raw  string
		d    digest.Digest
		says string
	}{
		"other bytes":              {image + "\n", digest.FromBytes(raw), "not to " + digest.FromBytes(raw).String()},
		"other bytes of sha512":    {image + "\n", digest.SHA512.FromBytes(raw), "not to sha512:"},
		"a digest in capitals":     {image, "sha256:" + digest.Digest(strings.ToUpper(digest.FromBytes(raw).Encoded())), "not a digest"},
		"a short digest":           {image, digest.FromBytes(raw)[:19], "not a digest"},
		"what is no digest":        {image, "latest", "not a digest"},
		"one that nobody computes": {image, "md5:d41d8cd98f00b204e9800998ecf8427e", "not a digest"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := oci.ParseManifest([]byte(tc.raw), "", tc.d)
			if !errors.Is(err, oci.ErrManifest) || m != nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %+v, %v", m, err)
			}
		})
	}
}

func TestReferences(t *testing.T) {
	m, err := oci.ParseManifest([]byte(image), "", "")
	if err != nil {
		t.Fatal(err)
	}
	refs := m.References()
	if len(refs) != 2 || refs[0].MediaType != ocispec.MediaTypeImageConfig || refs[1].MediaType != ocispec.MediaTypeImageLayerGzip {
		t.Errorf("an image: %+v", refs)
	}
	if m, err = oci.ParseManifest([]byte(index), "", ""); err != nil || len(m.References()) != 0 {
		t.Errorf("an index: %+v, %v", m, err)
	}
}

// FuzzParseManifest: what is accepted is one kind of thing to every reader, and
// all of it has been checked.
func FuzzParseManifest(f *testing.F) {
	for _, raw := range []string{
		image, index, docker, dockerList, schema1,
		document("", config, layers, manifests),
		document(oci.MediaTypeImageManifest, config, list("layers", descriptor("application/vnd.in-toto+json")), `"subject":`+layer, `"artifactType":"x/y"`),
		document(oci.MediaTypeImageManifest, config, layers, list("layer\u017f", layer)),
		document(oci.MediaTypeImageManifest, config, layers, `"annotations":{"a":"1","A":"2"}`),
	} {
		f.Add([]byte(raw), "")
		f.Add([]byte(raw), oci.MediaTypeImageManifest)
		f.Add([]byte(raw), "application/json; charset=utf-8")
	}
	f.Fuzz(func(t *testing.T, raw []byte, contentType string) {
		m, err := oci.ParseManifest(raw, contentType, "")
		if err != nil {
			if m != nil || (!errors.Is(err, oci.ErrManifest) && !errors.Is(err, oci.ErrSchema1)) || len(err.Error()) > 2000 {
				t.Fatalf("got %+v, %v", m, err)
			}
			return
		}
		if !bytes.Equal(m.Raw, raw) || m.Digest != digest.FromBytes(raw) || !slices.Contains(oci.ManifestMediaTypes, m.MediaType) {
			t.Fatalf("got %s, %s", m.Digest, m.MediaType)
		}
		isIndex := m.MediaType == oci.MediaTypeImageIndex || m.MediaType == oci.MediaTypeDockerList
		if isIndex != (m.Kind == oci.KindIndex) || isIndex != (m.Config == nil) || (isIndex && m.Layers != nil) || (!isIndex && m.Manifests != nil) {
			t.Fatalf("a %s of type %s has config %v, %d layers, %d manifests", m.Kind, m.MediaType, m.Config, len(m.Layers), len(m.Manifests))
		}
		every := append(m.References(), m.Manifests...)
		if m.Subject != nil {
			every = append(every, *m.Subject)
		}
		for _, d := range every {
			if _, err := oci.ParseDigest(d.Digest.String()); err != nil || d.Size < 0 || d.MediaType == "" {
				t.Fatalf("let in %+v", d)
			}
		}
		// A reader that tells capitals apart and takes the first of two keys.
		var plain map[string]json.RawMessage
		if err := json.Unmarshal(raw, &plain); err != nil {
			t.Fatal(err)
		}
		for key := range plain {
			for other := range plain {
				if key != other && strings.EqualFold(key, other) {
					t.Fatalf("%q and %q were both let in", key, other)
				}
			}
		}
		again, err := oci.ParseManifest(raw, m.MediaType, m.Digest)
		if err != nil || again.Kind != m.Kind || again.MediaType != m.MediaType {
			t.Fatalf("read again it is %+v, %v", again, err)
		}
	})
}
