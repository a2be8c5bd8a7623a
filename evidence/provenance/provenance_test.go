package provenance_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/package-url/packageurl-go"

	"github.com/trustgate/trustgate/evidence/provenance"
	"github.com/trustgate/trustgate/oci"
)

const (
	revision = "0f052c24a1541157f4d0249e982d56a84dad2a53"
	base1    = digest.Digest("sha256:b68879c865fcd7795eb43562fd852f2772d3fd26ad28c017536ac922fc643d39")
	base2    = digest.Digest("sha256:be0d7ef04deb9e0f84b3ad68d1cb6f702656a2bd3637b3fe20c1ccc932b01306")
)

// vector reads what buildkitd wrote: a Dockerfile of two stages, built from a
// git repository with mode=max and a builder's ID (v1 and v0.2), with mode=min
// and without one, and from a local folder.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestParseBuildKit(t *testing.T) {
	const buildType = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"
	git := provenance.Provenance{BuildType: buildType, Repository: "git://127.0.0.1:5918/acme/app", Ref: "main", Revision: revision}
	for name, tc := range map[string]struct {
		file, predicateType string
		want                provenance.Provenance
		dockerfile          bool
		parameter           string
	}{
		"version 1":                   {"buildkit-v1.json", provenance.TypeV1, with(git, func(p *provenance.Provenance) { p.BuilderID = "https://ci.example/buildkit" }), true, "build-arg:GREETING"},
		"version 1 with mode=min":     {"buildkit-v1-min.json", provenance.TypeV1, git, false, "dockerfile.v0"},
		"version 1 of a local folder": {"buildkit-v1-local.json", provenance.TypeV1, provenance.Provenance{BuildType: buildType, Repository: "https://github.com/acme/app", Revision: "abcabcabcabcabcabcabcabcabcabcabcabcabca", SourceStated: true}, true, "vcs:source"},
		"version 0.2": {"buildkit-v0.2.json", provenance.TypeV02, with(git, func(p *provenance.Provenance) {
			p.BuilderID, p.BuildType = "https://ci.example/buildkit", "https://mobyproject.org/buildkit@v1"
		}), true, "GIT_AUTH_TOKEN"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := provenance.Parse(tc.predicateType, vector(t, tc.file))
			if err != nil {
				t.Fatal(err)
			}
			if p.BuilderID != tc.want.BuilderID || p.BuildType != tc.want.BuildType || p.Repository != tc.want.Repository ||
				p.Ref != tc.want.Ref || p.Revision != tc.want.Revision || p.SourceStated != tc.want.SourceStated {
				t.Errorf("got %+v", p)
			}
			if p.StartedOn.Year() != 2026 || !p.FinishedOn.After(p.StartedOn) {
				t.Errorf("built from %s to %s", p.StartedOn, p.FinishedOn)
			}
			if !json.Valid(p.Parameters) || !strings.Contains(string(p.Parameters), tc.parameter) {
				t.Errorf("asked for with %s", p.Parameters)
			}
			if (p.Dockerfile != nil) != tc.dockerfile {
				t.Errorf("the Dockerfile is %+v", p.Dockerfile)
			}
			if d := p.Dockerfile; d != nil && (d.Path != "Dockerfile" || !strings.HasPrefix(d.Content, "FROM 127.0.0.1:5917/base:1 AS build\n")) {
				t.Errorf("the Dockerfile is %+v", d)
			}
			if len(p.Materials) < 2 {
				t.Fatalf("its materials are %+v", p.Materials)
			}
			for i, want := range []struct {
				image string
				d     digest.Digest
			}{{"127.0.0.1:5917/acme/base:2", base2}, {"127.0.0.1:5917/base:1", base1}} {
				if m := p.Materials[i]; m.Image.String() != want.image || m.ImageDigest() != want.d || m.Platform != "linux/amd64" {
					t.Errorf("material %d is %+v", i, m)
				}
			}
			for _, m := range p.Materials[2:] {
				if !m.Image.IsZero() || m.ImageDigest() != "" || m.Digest["sha1"] != revision {
					t.Errorf("the source is the material %+v", m)
				}
			}
		})
	}
}

func with(p provenance.Provenance, change func(*provenance.Provenance)) provenance.Provenance {
	change(&p)
	return p
}

func TestParseOtherBuilders(t *testing.T) {
	const sha256Revision = "0f052c24a1541157f4d0249e982d56a84dad2a530f052c24a1541157f4d0249e"
	dependency := func(uri, algorithm, d string) string {
		return fmt.Sprintf(`"resolvedDependencies":[{"uri":%q,"digest":{%q:%q}}]`, uri, algorithm, d)
	}
	v1 := func(members ...string) string {
		return `{"buildDefinition":{` + strings.Join(members, ",") + `},"runDetails":{"builder":{"id":"https://ci.example/x"}}}`
	}
	actions := `"externalParameters":{"workflow":{"ref":"refs/heads/main","repository":"https://github.com/acme/app","path":".github/workflows/build.yml"}}`
	for name, tc := range map[string]struct {
		predicateType, raw        string
		repository, ref, revision string
	}{
		"GitHub Actions": {provenance.TypeV1, v1(actions, dependency("git+https://github.com/acme/app@refs/heads/main", "gitCommit", revision)),
			"https://github.com/acme/app", "refs/heads/main", revision},
		"GitHub Actions, of another ref": {provenance.TypeV1, v1(actions, dependency("git+https://github.com/acme/app@refs/heads/evil", "gitCommit", revision)),
			"https://github.com/acme/app", "refs/heads/main", ""},
		"GitHub Actions, of another repository": {provenance.TypeV1, v1(actions, dependency("git+https://github.com/evil/app@refs/heads/main", "gitCommit", revision)),
			"https://github.com/acme/app", "refs/heads/main", ""},
		"GitHub Actions, a ref on one side": {provenance.TypeV1, v1(actions, dependency("https://github.com/acme/app.git", "sha1", revision)),
			"https://github.com/acme/app", "refs/heads/main", revision},
		"Cloud Build": {provenance.TypeV1, v1(`"externalParameters":{"buildConfigSource":{"ref":"refs/heads/main","repository":"git+https://github.com/acme/app","path":"cloudbuild.yaml"}}`,
			dependency("git+https://github.com/acme/app@refs/heads/main", "gitCommit", revision)),
			"https://github.com/acme/app", "refs/heads/main", revision},
		"GitLab, which calls a commit a sha256": {provenance.TypeV1, v1(`"externalParameters":{"entryPoint":"build","source":"https://gitlab.com/acme/app","variables":{}}`,
			dependency("https://gitlab.com/acme/app", "sha256", revision)),
			"https://gitlab.com/acme/app", "", revision},
		"a source with all of it": {provenance.TypeV1, v1(`"externalParameters":{"source":{"uri":"git+https://git.example/app","ref":"v1","digest":{"gitCommit":"` + sha256Revision + `"}}}`),
			"https://git.example/app", "v1", sha256Revision},
		"slsa-github-generator": {provenance.TypeV02, `{"builder":{"id":"https://ci.example/x"},"invocation":{"configSource":{"uri":"git+https://github.com/acme/app@refs/tags/v1","digest":{"sha1":"` + revision + `"},"entryPoint":"build.yml"}},
			"materials":[{"uri":"git+https://github.com/acme/app@refs/tags/v1","digest":{"sha1":"` + revision + `"}}]}`,
			"https://github.com/acme/app", "refs/tags/v1", revision},
		"a source that is no git repository": {provenance.TypeV02, `{"invocation":{"configSource":{"uri":"https://example.com/app.tgz?x=1","digest":{"sha256":"` + sha256Revision + `"}}}}`,
			"https://example.com/app.tgz?x=1", "", sha256Revision},
		"a revision in capitals": {provenance.TypeV02, `{"invocation":{"configSource":{"uri":"https://git.example/app","digest":{"sha1":"` + strings.ToUpper(revision) + `"}}}}`,
			"https://git.example/app", "", ""},
		"a short revision": {provenance.TypeV02, `{"invocation":{"configSource":{"uri":"https://git.example/app","digest":{"sha1":"0f052c2"}}}}`,
			"https://git.example/app", "", ""},
		"parameters of another shape": {provenance.TypeV1, v1(`"externalParameters":{"configSource":"x","workflow":["x"],"buildConfigSource":1,"source":{"uri":1,"ref":[],"digest":"x"}}`),
			"", "", ""},
		"the source that the builder fetched before the one it was told": {provenance.TypeV1, `{"buildDefinition":{"externalParameters":{"configSource":{"uri":"https://git.example/real","digest":{"sha1":"` + revision + `"}}}},
			"runDetails":{"metadata":{"buildkit_metadata":{"vcs":{"source":"https://git.example/told","revision":"x"}}}}}`,
			"https://git.example/real", "", revision},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := provenance.Parse(tc.predicateType, []byte(tc.raw))
			if err != nil {
				t.Fatal(err)
			}
			if p.Repository != tc.repository || p.Ref != tc.ref || p.Revision != tc.revision || p.SourceStated {
				t.Errorf("got %+v", p)
			}
		})
	}
}

func TestParseDockerfile(t *testing.T) {
	info := func(name, content string) string {
		return fmt.Sprintf(`{"filename":%q,"data":%q}`, name, base64.StdEncoding.EncodeToString([]byte(content)))
	}
	raw := func(path string, infos ...string) string {
		return fmt.Sprintf(`{"buildDefinition":{"externalParameters":{"configSource":{"path":%q}}},"runDetails":{"metadata":{"buildkit_metadata":{"source":{"infos":[%s]}}}}}`, path, strings.Join(infos, ","))
	}
	for name, tc := range map[string]struct {
		raw  string
		want *provenance.Dockerfile
	}{
		"the first without a path":        {raw("", info("a", "FROM a"), info("b", "FROM b")), &provenance.Dockerfile{Path: "a", Content: "FROM a"}},
		"the one at the path":             {raw("b", info("a", "FROM a"), info("b", "FROM b")), &provenance.Dockerfile{Path: "b", Content: "FROM b"}},
		"the first where none is there":   {raw("c", info("a", "FROM a"), info("b", "FROM b")), &provenance.Dockerfile{Path: "a", Content: "FROM a"}},
		"none where it is no text":        {raw("", info("a", "\xff\xfe")), nil},
		"the text behind one that is not": {raw("", info("a", "\xff\xfe"), info("b", "FROM b")), &provenance.Dockerfile{Path: "b", Content: "FROM b"}},
		"none where it is empty":          {raw("", info("a", "")), nil},
		"none of none":                    {raw("a"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := provenance.Parse(provenance.TypeV1, []byte(tc.raw))
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Dockerfile; (got == nil) != (tc.want == nil) || (got != nil && *got != *tc.want) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestParseRecipe is about where in the source the Dockerfile is.
func TestParseRecipe(t *testing.T) {
	v1 := func(external, vcs string) (string, string) {
		return provenance.TypeV1, fmt.Sprintf(`{"buildDefinition":{"buildType":"https://mobyproject.org/buildkit@v1","externalParameters":{%s}},"runDetails":{"metadata":{"buildkit_metadata":{"vcs":{%s}}}}}`, external, vcs)
	}
	v02 := func(invocation, vcs string) (string, string) {
		return provenance.TypeV02, fmt.Sprintf(`{"buildType":"https://mobyproject.org/buildkit@v1","invocation":{%s},"metadata":{"https://mobyproject.org/buildkit@v1#metadata":{"vcs":{%s}}}}`, invocation, vcs)
	}
	const locals = `"locals":[{"name":"context"},{"name":"dockerfile"}]`
	for name, tc := range map[string]struct {
		version      func(string, string) (string, string)
		asked, vcs   string
		folder, file string
		stated       bool
	}{
		"a revision alone":                        {v1, `"configSource":{"uri":"https://git.example/app.git#main"}`, "", "", "Dockerfile", true},
		"a file in a folder":                      {v1, `"configSource":{"uri":"https://git.example/app.git#main","path":"docker/api.Dockerfile"}`, "", "", "docker/api.Dockerfile", true},
		"a folder of the repository":              {v1, `"configSource":{"uri":"https://git.example/app.git#main:services/api/","path":"./Dockerfile"}`, "", "services/api", "Dockerfile", true},
		"a folder that leads out":                 {v1, `"configSource":{"uri":"https://git.example/app.git#main:../../x","path":"../Dockerfile"}`, "", "x", "../Dockerfile", true},
		"a file by the frontend's option":         {v1, `"configSource":{"uri":"https://git.example/app.git"},"request":{"args":{"filename":"Containerfile"}}`, "", "", "Containerfile", true},
		"the client's own Dockerfile":             {v1, `"configSource":{"uri":"https://git.example/app.git"},"request":{"locals":[{"name":"dockerfile"}]}`, "", "", "Dockerfile", false},
		"a local folder":                          {v1, `"configSource":{"path":"api.Dockerfile"},"request":{` + locals + `}`, "", "", "api.Dockerfile", false},
		"a local folder that the client named":    {v1, `"configSource":{"path":"api.Dockerfile"},"request":{` + locals + `}`, `"localdir:dockerfile":"docker/"`, "docker", "api.Dockerfile", true},
		"a local folder at the repository's root": {v1, `"configSource":{},"request":{` + locals + `}`, `"localdir:dockerfile":"."`, "", "Dockerfile", true},
		"no source at all":                        {v1, `"configSource":{}`, "", "", "Dockerfile", false},
		"parameters of another shape":             {v1, `"configSource":"x","request":{"locals":{"name":1},"args":[]}`, `"localdir:dockerfile":7`, "", "Dockerfile", false},
		"version 0.2":                             {v02, `"configSource":{"uri":"https://git.example/app.git#main:api","entryPoint":"x.Dockerfile"}`, "", "api", "x.Dockerfile", true},
		"a local folder in version 0.2":           {v02, `"configSource":{},"parameters":{"args":{"filename":"x"},` + locals + `}`, `"localdir:dockerfile":"/a/b"`, "a/b", "x", true},
	} {
		t.Run(name, func(t *testing.T) {
			predicateType, raw := tc.version(tc.asked, tc.vcs)
			p, err := provenance.Parse(predicateType, []byte(raw))
			if err != nil {
				t.Fatal(err)
			}
			if want := (provenance.Recipe{Folder: tc.folder, Name: tc.file, Stated: tc.stated}); p.Recipe != want {
				t.Errorf("got %+v, want %+v", p.Recipe, want)
			}
		})
	}
	t.Run("other builders do not say", func(t *testing.T) {
		p, err := provenance.Parse(provenance.TypeV1, []byte(`{"buildDefinition":{"buildType":"https://actions.github.io/buildtypes/workflow/v1","externalParameters":{"workflow":{"repository":"https://github.com/acme/app","path":".github/workflows/build.yml"}}}}`))
		if err != nil || p.Recipe != (provenance.Recipe{}) {
			t.Errorf("got %+v, %v", p, err)
		}
	})
	for file, stated := range map[string]bool{"buildkit-v1.json": true, "buildkit-v1-min.json": true, "buildkit-v1-local.json": false} {
		p, err := provenance.Parse(provenance.TypeV1, vector(t, file))
		if want := (provenance.Recipe{Name: "Dockerfile", Stated: stated}); err != nil || p.Recipe != want {
			t.Errorf("%s: got %+v, %v", file, p.Recipe, err)
		}
	}
}

func TestParseWhatIsNotThere(t *testing.T) {
	for name, tc := range map[string]struct{ predicateType, raw string }{
		"an empty predicate":          {provenance.TypeV1, `{}`},
		"an empty predicate of 0.2":   {provenance.TypeV02, `{}`},
		"nulls":                       {provenance.TypeV1, `{"buildDefinition":null,"runDetails":{"builder":{"id":null},"metadata":null}}`},
		"nulls of 0.2":                {provenance.TypeV02, `{"builder":null,"materials":null,"metadata":null,"invocation":{"configSource":null,"parameters":null}}`},
		"members in other capitals":   {provenance.TypeV1, `{"RunDetails":{"builder":{"id":"https://ci.example"}},"builddefinition":{"resolvedDependencies":[{"uri":"docker-image://nginx"}]}}`},
		"a builder in other capitals": {provenance.TypeV02, `{"builder":{"ID":"https://ci.example"}}`},
		"the other version's members": {provenance.TypeV1, `{"builder":{"id":"https://ci.example"},"materials":[{"uri":"docker-image://nginx"}]}`},
		"version 1's members":         {provenance.TypeV02, `{"runDetails":{"builder":{"id":"https://ci.example"}},"buildDefinition":{"buildType":"x"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := provenance.Parse(tc.predicateType, []byte(tc.raw))
			if err != nil {
				t.Fatal(err)
			}
			if p.BuilderID != "" || p.BuildType != "" || len(p.Materials) != 0 || p.Parameters != nil || p.Repository != "" || p.Dockerfile != nil || !p.StartedOn.Equal(time.Time{}) {
				t.Errorf("got %+v", p)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	definition := func(members ...string) string { return `{"buildDefinition":{` + strings.Join(members, ",") + `}}` }
	run := func(members ...string) string { return `{"runDetails":{` + strings.Join(members, ",") + `}}` }
	entries := func(entry string, n int) string { return strings.Join(slices.Repeat([]string{entry}, n), ",") }
	digests := func(n int) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf(`"a%d":"x"`, i)
		}
		return strings.Join(list, ",")
	}
	infos := func(list string) string {
		return run(`"metadata":{"buildkit_metadata":{"source":{"infos":[` + list + `]}}}`)
	}
	file := base64.StdEncoding.EncodeToString(make([]byte, 1<<20+1))
	const v1, v02 = provenance.TypeV1, provenance.TypeV02
	for name, tc := range map[string]struct{ predicateType, raw, says string }{
		"another predicate type":              {"https://spdx.dev/Document", `{}`, "neither"},
		"no predicate type":                   {"", `{}`, "neither"},
		"a version that nobody knows":         {"https://slsa.dev/provenance/v2", `{}`, "neither"},
		"a version with more behind it":       {v1 + "/", `{}`, "neither"},
		"nothing":                             {v1, ``, "unexpected EOF"},
		"null":                                {v1, `null`, "not a JSON object"},
		"a list":                              {v1, `[]`, "not a JSON object"},
		"a predicate that does not end":       {v1, `{"buildDefinition":{`, "unexpected EOF"},
		"a predicate behind it":               {v1, `{}{}`, "bytes after the JSON object"},
		"more bytes than there may be":        {v1, `{"x":"` + strings.Repeat("x", 16<<20) + `"}`, "more than 16777216"},
		"the run twice":                       {v1, `{"runDetails":{"builder":{"id":"a"}},"runDetails":{"builder":{"id":"b"}}}`, `the key "runDetails" appears twice`},
		"the run beside another in capitals":  {v1, `{"runDetails":{"builder":{"id":"a"}},"RunDetails":{"builder":{"id":"b"}}}`, `the key "RunDetails" appears twice`},
		"the run beside one with a long s":    {v1, `{"runDetails":{},"runDetail` + "\u017f" + `":{}}`, "appears twice"},
		"the builder twice":                   {v1, run(`"builder":{"id":"a"},"builder":{"id":"b"}`), `predicate.runDetails: the key "builder" appears twice`},
		"the builder's ID twice":              {v1, run(`"builder":{"id":"a","ID":"b"}`), `predicate.runDetails.builder: the key "ID" appears twice`},
		"the builder's ID twice in 0.2":       {v02, `{"builder":{"id":"a","id":"b"}}`, `predicate.builder: the key "id" appears twice`},
		"the materials twice":                 {v02, `{"materials":[],"materials":[{"uri":"docker-image://nginx"}]}`, `the key "materials" appears twice`},
		"a material's URI twice":              {v02, `{"materials":[{"uri":"a","uri":"b"}]}`, `predicate.materials[0]: the key "uri" appears twice`},
		"a digest twice":                      {v02, `{"materials":[{"uri":"a","digest":{"sha256":"a","SHA256":"b"}}]}`, `predicate.materials[0].digest: the key "SHA256" appears twice`},
		"the source twice":                    {v1, definition(`"externalParameters":{"configSource":{"uri":"a","Uri":"b"}}`), `the key "Uri" appears twice`},
		"a workflow's repository twice":       {v1, definition(`"externalParameters":{"workflow":{"repository":"a","repository":"b"}}`), `the key "repository" appears twice`},
		"a builder that is a string":          {v1, run(`"builder":"x"`), "predicate.runDetails.builder: not a JSON object"},
		"a builder's ID that is a list":       {v1, run(`"builder":{"id":["x"]}`), "predicate.runDetails.builder.id: "},
		"a builder's ID that is a number":     {v02, `{"builder":{"id":1}}`, "predicate.builder.id: "},
		"materials that are an object":        {v02, `{"materials":{"uri":"x"}}`, "predicate.materials: "},
		"a material that is a string":         {v02, `{"materials":["docker-image://nginx"]}`, "predicate.materials[0]: not a JSON object"},
		"a material that is null":             {v02, `{"materials":[null]}`, "predicate.materials[0]: not a JSON object"},
		"a URI that is a number":              {v02, `{"materials":[{"uri":1}]}`, "predicate.materials[0].uri: "},
		"a digest that is a string":           {v02, `{"materials":[{"uri":"x","digest":"sha256:x"}]}`, "predicate.materials[0].digest: not a JSON object"},
		"a digest that is a number":           {v02, `{"materials":[{"uri":"x","digest":{"sha256":1}}]}`, "predicate.materials[0].digest.sha256: "},
		"parameters that are a list":          {v1, definition(`"externalParameters":[]`), "predicate.buildDefinition.externalParameters: not a JSON object"},
		"a time that is none":                 {v1, run(`"metadata":{"startedOn":"yesterday"}`), "predicate.runDetails.metadata.startedOn: "},
		"a time without its zone":             {v1, run(`"metadata":{"finishedOn":"2026-11-24T02:58:54"}`), "not a time as in RFC 3339"},
		"a time that is a number":             {v02, `{"metadata":{"buildStartedOn":1}}`, "predicate.metadata.buildStartedOn: "},
		"a Dockerfile that is no base64":      {v1, infos(`{"filename":"a","data":"*"}`), "infos[0].data: "},
		"a Dockerfile that is too long":       {v1, infos(`{"filename":"a","data":"` + file + `"}`), "1048577 bytes, more than 1048576"},
		"more files than there may be":        {v1, infos(entries(`{}`, 257)), "257 entries, more than 256"},
		"more materials than there may be":    {v02, `{"materials":[` + entries(`{}`, 4097) + `]}`, "4097 entries, more than 4096"},
		"more dependencies than there may be": {v1, definition(`"resolvedDependencies":[` + entries(`{}`, 4097) + `]`), "4097 entries, more than 4096"},
		"more digests than there may be":      {v02, `{"materials":[{"uri":"x","digest":{` + digests(17) + `}}]}`, "17 digests, more than 16"},
		"a digest that is too long":           {v02, `{"materials":[{"uri":"x","digest":{"sha256":"` + strings.Repeat("x", 4097) + `"}}]}`, "4097 bytes, more than 4096"},
		"an algorithm that is too long":       {v02, `{"materials":[{"uri":"x","digest":{"` + strings.Repeat("x", 4097) + `":"x"}}]}`, "an algorithm's name of 4097 bytes"},
		"a URI that is too long":              {v02, `{"materials":[{"uri":"` + strings.Repeat("x", 4097) + `"}]}`, "4097 bytes, more than 4096"},
		"a builder's ID that is too long":     {v02, `{"builder":{"id":"` + strings.Repeat("x", 4097) + `"}}`, "4097 bytes, more than 4096"},
		"parameters that are too long":        {v1, definition(`"externalParameters":{"x":"` + strings.Repeat("x", 1<<20) + `"}`), "more than 1048576"},
		"a number that fills the error":       {v02, `{"builder":{"id":` + strings.Repeat("9", 10000) + `}}`, "predicate.builder.id: "},
		"a key that fills the error":          {v02, fmt.Sprintf(`{"materials":[{"digest":{%q:1}}]}`, strings.Repeat("y", 4000)), "predicate.materials[0].digest.yyy"},
		"an image that cannot be read":        {v1, definition(`"resolvedDependencies":[{"uri":"https://git.example/app"},{"uri":"docker-image://Not/An/Image"}]`), "predicate.buildDefinition.resolvedDependencies[1]: not an image reference"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := provenance.Parse(tc.predicateType, []byte(tc.raw))
			if !errors.Is(err, provenance.ErrProvenance) || p != nil {
				t.Fatalf("got %+v, %v", p, err)
			}
			if !strings.Contains(err.Error(), tc.says) || len(err.Error()) > 1000 {
				t.Errorf("says %q, not %q", err, tc.says)
			}
		})
	}
}

// FuzzParse: whatever is read is within bounds, every material that names an
// image has one, and no other reader sees another builder.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"buildkit-v1.json", "buildkit-v1-min.json", "buildkit-v1-local.json"} {
		f.Add(vector(f, name), true)
	}
	f.Add(vector(f, "buildkit-v0.2.json"), false)
	f.Add([]byte(`{"runDetails":{"builder":{"id":"a"}},"RunDetails":{"builder":{"id":"b"}}}`), true)
	f.Add([]byte(`{"buildDefinition":{"externalParameters":{"workflow":{"ref":"main","repository":"https://github.com/a/b"},"source":{"uri":"x","digest":{"sha1":"x"}}},"resolvedDependencies":[{"uri":"git+https://github.com/a/b@main","digest":{"gitCommit":"`+revision+`"}}]}}`), true)
	f.Add([]byte(`{"builder":{"id":"a"},"materials":[{"uri":"docker-image://nginx:1@`+base1.String()+`"},{"uri":"pkg:oci/a@`+base1.String()+`?repository_url=ghcr.io/a/a&tag=1","digest":{"sha256":"`+base1.Encoded()+`"}}]}`), false)
	f.Add([]byte(`{"materials":[{"uri":"pkg:docker/127.0.0.1%3A5000/a/b@1?platform=linux%2Farm64&digest=`+base1.String()+`"},{"uri":"pkg:docker/a?ref_type=blob"}]}`), false)
	f.Fuzz(func(t *testing.T, raw []byte, v1 bool) {
		predicateType := provenance.TypeV02
		if v1 {
			predicateType = provenance.TypeV1
		}
		p, err := provenance.Parse(predicateType, raw)
		if err != nil {
			if p != nil || !errors.Is(err, provenance.ErrProvenance) || len(err.Error()) > 20000 {
				t.Fatalf("got %+v, %v", p, err)
			}
			return
		}
		for _, s := range []string{p.BuilderID, p.BuildType, p.Repository, p.Ref, p.Revision} {
			if len(s) > 4096 {
				t.Fatalf("text of %d bytes", len(s))
			}
		}
		if p.Parameters != nil && !json.Valid(p.Parameters) {
			t.Fatalf("the parameters are %s", p.Parameters)
		}
		for _, m := range p.Materials {
			checkMaterial(t, m)
		}
		var loose struct {
			Builder    struct{ ID string }
			RunDetails struct{ Builder struct{ ID string } }
		}
		if err := json.Unmarshal(raw, &loose); err != nil {
			return // members that are of no interest to Parse
		}
		if other := map[bool]string{false: loose.Builder.ID, true: loose.RunDetails.Builder.ID}[v1]; p.BuilderID != "" && p.BuilderID != other {
			t.Fatalf("the builder is %q, and %q to another reader", p.BuilderID, other)
		}
	})
}

func checkMaterial(t *testing.T, m provenance.Material) {
	t.Helper()
	scheme, rest, _ := strings.Cut(strings.ToLower(m.URI), ":")
	rest = strings.TrimLeft(rest, "/")
	named := scheme == "docker-image" || (scheme == "pkg" && (strings.HasPrefix(rest, "docker/") || strings.HasPrefix(rest, "oci/")))
	if m.Image.IsZero() {
		if purl, _ := packageurl.FromString(m.URI); named && purl.Qualifiers.Map()["ref_type"] != "blob" {
			t.Fatalf("the image %q is lost", m.URI)
		}
		if m.ImageDigest() != "" {
			t.Fatalf("%q is no image and has the digest %s", m.URI, m.ImageDigest())
		}
		return
	}
	if !named {
		t.Fatalf("%q is taken for the image %s", m.URI, m.Image)
	}
	if again, err := oci.ParseReference(m.Image.String()); err != nil || again != m.Image || m.Image.Digest() != "" {
		t.Fatalf("%q is the image %q, %v", m.URI, m.Image, err)
	}
	if d := m.ImageDigest(); d != "" {
		if _, err := oci.ParseDigest(d.String()); err != nil || m.Digest[d.Algorithm().String()] != d.Encoded() {
			t.Fatalf("%q has the digest %q, %v", m.URI, d, err)
		}
	} else if m.Digest["sha256"] != "" || m.Digest["sha512"] != "" {
		t.Fatalf("the digest of %q is lost: %v", m.URI, m.Digest)
	}
}
