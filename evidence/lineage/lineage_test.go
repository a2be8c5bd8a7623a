package lineage_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/seal"
	"github.com/trustgate/trustgate/evidence/lineage"
	"github.com/trustgate/trustgate/evidence/provenance"
	"github.com/trustgate/trustgate/oci"
)

var (
	d1, d2 = digest.FromString("one"), digest.FromString("two")
	signed = evidence.Vouch(seal.Key{}, evidence.Signer{Name: "ci"})
	nobody = evidence.Voucher{}
)

func ref(t testing.TB, s string) oci.Reference {
	t.Helper()
	if s == "" {
		return oci.Reference{}
	}
	r, err := oci.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// material is an image that went into a build.
func material(t testing.TB, name string, d digest.Digest, platform string) provenance.Material {
	t.Helper()
	m := provenance.Material{Image: ref(t, name), Platform: platform, Digest: map[string]string{}}
	if d != "" {
		m.Digest[d.Algorithm().String()] = d.Encoded()
	}
	return m
}

func build(by evidence.Voucher, materials ...provenance.Material) *provenance.Build {
	return &provenance.Build{By: by, Provenance: provenance.Provenance{Materials: materials}}
}

func base(name string, d digest.Digest) map[string]string {
	claims := map[string]string{}
	if name != "" {
		claims[ocispec.AnnotationBaseImageName] = name
	}
	if d != "" {
		claims[ocispec.AnnotationBaseImageDigest] = d.String()
	}
	return claims
}

// describe writes a candidate down as "name@digest platform known via".
func describe(c lineage.Candidate) string {
	short := map[digest.Digest]string{"": "", d1: "@1", d2: "@2"}
	return strings.Join(strings.Fields(fmt.Sprintf("%s%s %s %s %s", c.Reference.Familiar(), short[c.Digest], c.Platform, c.Known, c.Via)), " ")
}

func TestCandidates(t *testing.T) {
	debian := func(d digest.Digest) provenance.Material { return material(t, "debian:12", d, "linux/amd64") }
	golang := material(t, "golang:1.26", d2, "linux/amd64")
	source := provenance.Material{URI: "git+https://github.com/acme/app", Digest: map[string]string{"sha256": d1.Encoded()}}
	list := func(claims ...map[string]string) []map[string]string { return claims }
	for name, tc := range map[string]struct {
		build       *provenance.Build
		labels      map[string]string
		annotations []map[string]string
		want        []string
	}{
		"none of none":                          {nil, nil, nil, nil},
		"none where only the source is known":   {build(signed, source), nil, nil, nil},
		"signed materials are attested":         {build(signed, golang, source, debian(d1)), nil, nil, []string{"golang:1.26@2 linux/amd64 attested material", "debian:12@1 linux/amd64 attested material"}},
		"unsigned materials are claimed":        {build(nobody, debian(d1)), nil, nil, []string{"debian:12@1 linux/amd64 claimed material"}},
		"a material without a digest":           {build(signed, debian("")), nil, nil, []string{"debian:12 linux/amd64 attested material"}},
		"a material twice":                      {build(signed, debian(d1), debian(d1)), nil, nil, []string{"debian:12@1 linux/amd64 attested material"}},
		"a material by two names":               {build(signed, debian(d1), material(t, "mirror.example/debian:12", d1, "linux/amd64")), nil, nil, []string{"debian:12@1 linux/amd64 attested material"}},
		"a material of two digests":             {build(signed, debian(d1), debian(d2)), nil, nil, []string{"debian:12@1 linux/amd64 attested material", "debian:12@2 linux/amd64 attested material"}},
		"a material for two platforms":          {build(signed, debian(d1), material(t, "debian:12", d1, "linux/arm64")), nil, nil, []string{"debian:12@1 linux/amd64 attested material", "debian:12@1 linux/arm64 attested material"}},
		"a material that learns its digest":     {build(signed, debian(""), material(t, "debian:12", d1, "")), nil, nil, []string{"debian:12@1 linux/amd64 attested material"}},
		"an annotation":                         {nil, nil, list(base("debian:12", d1)), []string{"debian:12@1 claimed annotation"}},
		"a label":                               {nil, base("debian:12", d1), nil, []string{"debian:12@1 claimed annotation"}},
		"a name alone":                          {nil, base("debian:12", ""), nil, []string{"debian:12 claimed annotation"}},
		"a digest alone":                        {nil, base("", d1), nil, []string{"@1 claimed annotation"}},
		"a name with its digest":                {nil, base("debian:12@"+d1.String(), ""), nil, []string{"debian:12@1 claimed annotation"}},
		"a name with another digest than its":   {nil, base("debian:12@"+d1.String(), d2), nil, []string{"debian:12@2 claimed annotation"}},
		"a name that cannot be read":            {nil, base("Not An Image", d1), nil, []string{"@1 claimed annotation"}},
		"a name that cannot be read, alone":     {nil, base("Not An Image", ""), nil, nil},
		"a name that is too long":               {nil, base("a/"+strings.Repeat("b/", 600)+"c", d1), nil, []string{"@1 claimed annotation"}},
		"a digest that cannot be read":          {nil, base("debian:12", "sha256:1234"), nil, []string{"debian:12 claimed annotation"}},
		"a digest in capitals":                  {nil, base("debian:12", digest.Digest(strings.ToUpper(d1.String()))), nil, []string{"debian:12 claimed annotation"}},
		"scratch is no image":                   {nil, base("scratch", ""), nil, nil},
		"scratch with a digest is one":          {nil, base("scratch", d1), nil, []string{"scratch@1 claimed annotation"}},
		"the annotation before the label":       {nil, base("debian:12", d1), list(base("alpine:3", d2)), []string{"alpine:3@2 claimed annotation", "debian:12@1 claimed annotation"}},
		"the same in annotation and label":      {nil, base("debian:12", d1), list(base("debian:12", d1)), []string{"debian:12@1 claimed annotation"}},
		"the label knows the digest":            {nil, base("debian:12", d1), list(base("debian:12", "")), []string{"debian:12@1 claimed annotation"}},
		"the label knows the name":              {nil, base("debian:12", d1), list(base("", d1)), []string{"debian:12@1 claimed annotation"}},
		"the label joins two halves":            {nil, base("debian:12", d1), list(base("debian:12", ""), base("", d1)), []string{"debian:12@1 claimed annotation"}},
		"the label joins a material and a half": {build(nobody, material(t, "debian:12", "", "")), base("debian:12", d1), list(base("", d1)), []string{"debian:12@1 claimed material"}},
		"an annotation names a material":        {build(signed, golang, debian(d1)), nil, list(base("debian:12", d1)), []string{"golang:1.26@2 linux/amd64 attested material", "debian:12@1 linux/amd64 attested material"}},
		"an annotation names it by digest":      {build(signed, debian(d1)), nil, list(base("", d1)), []string{"debian:12@1 linux/amd64 attested material"}},
		"an annotation names it otherwise":      {build(signed, debian(d1)), nil, list(base("evil.example/debian:12", d1)), []string{"debian:12@1 linux/amd64 attested material"}},
		"an annotation of another digest":       {build(signed, debian(d1)), nil, list(base("debian:12", d2)), []string{"debian:12@1 linux/amd64 attested material", "debian:12@2 claimed annotation"}},
		"a claim chooses no attested digest":    {build(signed, debian("")), nil, list(base("debian:12", d1)), []string{"debian:12 linux/amd64 attested material", "debian:12@1 claimed annotation"}},
		"a claim may choose a claimed digest":   {build(nobody, debian("")), nil, list(base("debian:12", d1)), []string{"debian:12@1 linux/amd64 claimed material"}},
		"two spellings of one name":             {build(signed, debian(d1)), base("docker.io/library/debian:12", ""), list(base("index.docker.io/library/debian:12", "")), []string{"debian:12@1 linux/amd64 attested material"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, c := range lineage.Candidates(tc.build, tc.labels, tc.annotations...) {
				got = append(got, describe(c))
				if c.Reference.Digest() != "" {
					t.Errorf("%s has a digest", c.Reference)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// layers makes a stack of diff IDs, one for each letter.
func layers(letters string) []digest.Digest {
	var stack []digest.Digest
	for _, l := range letters {
		stack = append(stack, digest.FromString(string(l)))
	}
	return stack
}

func TestEdges(t *testing.T) {
	const child = "abcd"
	debian, golang := material(t, "debian:12", d1, ""), material(t, "golang:1.26", d2, "")
	unreachable := errors.New("its registry does not answer")
	byLayers := lineage.Candidate{Reference: ref(t, "debian:12"), Digest: d1, Known: lineage.Claimed, Via: lineage.ViaLayers}
	type parent struct {
		layers string
		err    error
	}
	type edge struct {
		known lineage.Known
		stage string
		says  string
	}
	const final, inBuild = lineage.StageFinal, lineage.StageBuild
	for name, tc := range map[string]struct {
		candidates []lineage.Candidate
		parents    []parent
		want       []edge
	}{
		"no parents": {nil, nil, nil},

		"an attested parent whose layers are the first": {lineage.Candidates(build(signed, debian), nil), []parent{{"ab", nil}}, []edge{{lineage.Proven, final, ""}}},
		"a claimed parent whose layers are the first":   {lineage.Candidates(build(nobody, debian), nil), []parent{{"ab", nil}}, []edge{{lineage.Proven, final, ""}}},
		"a labelled parent whose layers are the first":  {lineage.Candidates(nil, base("debian:12", d1)), []parent{{"abc", nil}}, []edge{{lineage.Proven, final, ""}}},
		"a found parent whose layers are the first":     {[]lineage.Candidate{byLayers}, []parent{{"a", nil}}, []edge{{lineage.Proven, final, ""}}},
		"a parent with all of the layers":               {lineage.Candidates(build(signed, debian), nil), []parent{{child, nil}}, []edge{{lineage.Proven, final, ""}}},

		"an attested parent of a build stage":    {lineage.Candidates(build(signed, golang, debian), nil), []parent{{"xyz", nil}, {"ab", nil}}, []edge{{lineage.Attested, inBuild, ""}, {lineage.Proven, final, ""}}},
		"a claimed parent of a build stage":      {lineage.Candidates(build(nobody, golang, debian), nil), []parent{{"xyz", nil}, {"ab", nil}}, []edge{{lineage.Claimed, inBuild, ""}, {lineage.Proven, final, ""}}},
		"the longer of two stacks is the base":   {lineage.Candidates(build(signed, debian, golang), nil), []parent{{"ab", nil}, {"abc", nil}}, []edge{{lineage.Proven, inBuild, ""}, {lineage.Proven, final, ""}}},
		"the same stack twice is the base twice": {lineage.Candidates(build(signed, debian, golang), nil), []parent{{"ab", nil}, {"ab", nil}}, []edge{{lineage.Proven, final, ""}, {lineage.Proven, final, ""}}},
		"nothing but build stages, on scratch":   {lineage.Candidates(build(signed, golang), nil), []parent{{"xyz", nil}}, []edge{{lineage.Attested, inBuild, ""}}},

		"layers in another order":              {lineage.Candidates(build(signed, debian), nil), []parent{{"ba", nil}}, []edge{{lineage.Attested, inBuild, ""}}},
		"layers that are not at the bottom":    {lineage.Candidates(build(signed, debian), nil), []parent{{"bc", nil}}, []edge{{lineage.Attested, inBuild, ""}}},
		"more layers than the child has":       {lineage.Candidates(build(signed, debian), nil), []parent{{"abcde", nil}}, []edge{{lineage.Attested, inBuild, ""}}},
		"no layers are no proof":               {lineage.Candidates(build(signed, debian), nil), []parent{{"", nil}}, []edge{{lineage.Attested, inBuild, ""}}},
		"a base of no layers is a wrong claim": {lineage.Candidates(nil, base("debian:12", d1)), []parent{{"", nil}}, []edge{{lineage.Claimed, final, "it has no layers to compare"}}},

		"a labelled base that the layers contradict":  {lineage.Candidates(nil, base("debian:12", d1)), []parent{{"xy", nil}}, []edge{{lineage.Claimed, final, "the annotation names docker.io/library/debian:12@" + d1.String() + " as the base"}}},
		"a base by digest that they contradict":       {lineage.Candidates(nil, base("", d1)), []parent{{"xy", nil}}, []edge{{lineage.Claimed, final, "the annotation names " + d1.String() + " as the base"}}},
		"a found base that they contradict":           {[]lineage.Candidate{byLayers}, []parent{{"xy", nil}}, []edge{{lineage.Claimed, final, "was taken for the base"}}},
		"an attested base that they contradict":       {lineage.Candidates(build(signed, debian), base("debian:12", d1)), []parent{{"xy", nil}}, []edge{{lineage.Attested, final, "the annotation names"}}},
		"the wrong material is named as the base":     {lineage.Candidates(build(signed, golang, debian), base("golang:1.26", "")), []parent{{"xyz", nil}, {"ab", nil}}, []edge{{lineage.Attested, final, "the annotation names"}, {lineage.Proven, final, ""}}},
		"another base than the material is named":     {lineage.Candidates(build(signed, debian), base("alpine:3", d2)), []parent{{"ab", nil}, {"xy", nil}}, []edge{{lineage.Proven, final, ""}, {lineage.Claimed, final, "the annotation names docker.io/library/alpine:3"}}},
		"the base of the base is named, and is proof": {lineage.Candidates(build(signed, golang), base("debian:12", d1)), []parent{{"abc", nil}, {"ab", nil}}, []edge{{lineage.Proven, final, ""}, {lineage.Proven, inBuild, ""}}},

		"a labelled base that cannot be had":      {lineage.Candidates(nil, base("debian:12", d1)), []parent{{"", unreachable}}, []edge{{lineage.Claimed, final, "does not answer"}}},
		"a found base that cannot be had":         {[]lineage.Candidate{byLayers}, []parent{{"", unreachable}}, []edge{{lineage.Claimed, final, "does not answer"}}},
		"the only material cannot be had":         {lineage.Candidates(build(signed, debian), nil), []parent{{"", unreachable}}, []edge{{lineage.Attested, final, "does not answer"}}},
		"one of two materials cannot be had":      {lineage.Candidates(build(signed, golang, debian), nil), []parent{{"", unreachable}, {"ab", nil}}, []edge{{lineage.Attested, inBuild, "does not answer"}, {lineage.Proven, final, ""}}},
		"layers beside an error are no proof":     {lineage.Candidates(build(signed, debian), nil), []parent{{"ab", unreachable}}, []edge{{lineage.Attested, final, "does not answer"}}},
		"an error beside a proof is in the build": {lineage.Candidates(build(signed, golang), base("debian:12", d1)), []parent{{"", unreachable}, {"ab", nil}}, []edge{{lineage.Attested, inBuild, "does not answer"}, {lineage.Proven, final, ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			if len(tc.candidates) != len(tc.parents) {
				t.Fatalf("the candidates are %+v", tc.candidates)
			}
			var resolved []lineage.Resolved
			for i, c := range tc.candidates {
				resolved = append(resolved, lineage.Resolved{Candidate: c, DiffIDs: layers(tc.parents[i].layers), Err: tc.parents[i].err})
			}
			edges := lineage.Edges(layers(child), resolved)
			if len(edges) != len(tc.want) {
				t.Fatalf("got %+v", edges)
			}
			for i, want := range tc.want {
				e := edges[i]
				if e.Known != want.known || e.Stage != want.stage || (e.Err == "") != (want.says == "") || !strings.Contains(e.Err, want.says) {
					t.Errorf("edge %d is %s, in the %s stage, %q", i, e.Known, e.Stage, e.Err)
				}
				if e.Reference != tc.candidates[i].Reference || e.Digest != tc.candidates[i].Digest || e.Via != tc.candidates[i].Via {
					t.Errorf("edge %d is about %+v", i, e.Candidate)
				}
			}
		})
	}
}

func TestEdgesOfUnknownLayers(t *testing.T) {
	parent := []lineage.Resolved{{Candidate: lineage.Candidate{Known: lineage.Attested, Via: lineage.ViaMaterial}, DiffIDs: []digest.Digest{"", ""}}}
	for name, child := range map[string][]digest.Digest{"no layers": nil, "layers that are not known either": {"", "", ""}} {
		if edges := lineage.Edges(child, parent); len(edges) != 1 || edges[0].Known != lineage.Attested {
			t.Errorf("a child of %s: %+v", name, edges)
		}
	}
	if edges := lineage.Edges(nil, []lineage.Resolved{{Candidate: parent[0].Candidate}}); edges[0].Known != lineage.Attested {
		t.Errorf("nothing on nothing: %+v", edges)
	}
}

// FuzzCandidates: nobody's claim becomes more than one, no parent that can be
// named is lost, and none is listed twice.
func FuzzCandidates(f *testing.F) {
	f.Add("debian:12", d1.String(), "debian:12", "", "", d1.String(), true)
	f.Add("debian:12", d1.String(), "alpine:3@"+d2.String(), "", "debian:12", "", false)
	f.Add("scratch", "", "", d1.String(), "debian:12", d2.String(), true)
	f.Add("docker.io/library/debian:12", d2.String(), "index.docker.io/library/debian:12", "", "debian:12", "", true)
	f.Add("Not An Image", strings.ToUpper(d1.String()), "a:b:c", "sha256:1234", "", "", false)
	f.Add("a@"+d1.String(), d2.String(), "a", d1.String(), "a", "", true)
	f.Fuzz(func(t *testing.T, labelName, labelDigest, annotationName, annotationDigest, materialName, materialDigest string, vouched bool) {
		by, known := nobody, lineage.Claimed
		if vouched {
			by, known = signed, lineage.Attested
		}
		b := build(by)
		if image, err := oci.ParseReference(materialName); err == nil && image.Digest() == "" {
			_, encoded, _ := strings.Cut(materialDigest, ":")
			b.Materials = append(b.Materials, provenance.Material{Image: image, Digest: map[string]string{"sha256": encoded}}, provenance.Material{Image: image, Platform: "linux/amd64"})
		}
		label := base(labelName, digest.Digest(labelDigest))
		annotation := base(annotationName, digest.Digest(annotationDigest))
		list := lineage.Candidates(b, label, annotation, nil, map[string]string{"org.opencontainers.image.base": labelName})

		var resolved []lineage.Resolved
		for i, c := range list {
			if c.Reference.Digest() != "" || (c.Reference.IsZero() && c.Digest == "") {
				t.Fatalf("candidate %d is %+v", i, c)
			}
			if _, err := oci.ParseDigest(c.Digest.String()); c.Digest != "" && err != nil {
				t.Fatal(err)
			}
			if c.Known != lineage.Claimed && (c.Via != lineage.ViaMaterial || c.Known != known) {
				t.Fatalf("candidate %d is %+v", i, c)
			}
			for _, other := range list[:i] {
				if c.Reference == other.Reference && c.Digest == other.Digest && c.Platform == other.Platform {
					t.Fatalf("twice: %+v and %+v", c, other)
				}
			}
			resolved = append(resolved, lineage.Resolved{Candidate: c})
		}
		has := func(name oci.Reference, d digest.Digest) bool {
			return slices.ContainsFunc(list, func(c lineage.Candidate) bool {
				return (d != "" && c.Digest == d) || (d == "" && c.Reference == name.WithDigest(""))
			})
		}
		for _, m := range b.Materials {
			if !has(m.Image, m.ImageDigest()) {
				t.Fatalf("the material %+v is not among %+v", m, list)
			}
		}
		for _, claims := range []map[string]string{label, annotation} {
			if d, err := oci.ParseDigest(claims[ocispec.AnnotationBaseImageDigest]); err == nil {
				if !has(oci.Reference{}, d) {
					t.Fatalf("the base %s is not among %+v", d, list)
				}
				continue
			}
			name := claims[ocispec.AnnotationBaseImageName]
			if named, err := oci.ParseReference(name); err == nil && name != "scratch" && len(name) <= 1024 && !has(named, named.Digest()) {
				t.Fatalf("the base %q is not among %+v", name, list)
			}
		}
		for _, e := range lineage.Edges([]digest.Digest{d1}, resolved) {
			if e.Known == lineage.Proven {
				t.Fatalf("proven without layers: %+v", e)
			}
		}
	})
}
