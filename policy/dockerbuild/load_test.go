package dockerbuild_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/trustgate/trustgate/policy/dockerbuild"
)

func TestMistakesAreFoundWhenAPolicyIsLoaded(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		says  string
	}{
		"no file":                          {nil, "no such file"},
		"no Rego":                          {map[string]string{"Dockerfile.rego": "allow"}, "rego_parse_error"},
		"nothing at all":                   {map[string]string{"Dockerfile.rego": "\n"}, "empty module"},
		"another package":                  {map[string]string{"Dockerfile.rego": "package acme\n\ndecision := {}"}, "a build policy is the package docker"},
		"no decision":                      {map[string]string{"Dockerfile.rego": "package docker\n\nallow := true"}, "it makes no decision"},
		"a function that nobody has":       {map[string]string{"Dockerfile.rego": "package docker\n\ndecision := magic(input)"}, "undefined function magic"},
		"the network":                      {map[string]string{"Dockerfile.rego": "package docker\n\ndecision := http.send({})"}, "undefined function http.send"},
		"the process":                      {map[string]string{"Dockerfile.rego": "package docker\n\ndecision := opa.runtime()"}, "undefined function opa.runtime"},
		"a function of the machinery":      {map[string]string{"Dockerfile.rego": "package docker\n\ndecision := trustgate.known(input)"}, "undefined function trustgate.known"},
		"an import that is not there":      {map[string]string{"Dockerfile.rego": "package docker\n\nimport data.lib.base\n\ndecision := base.x"}, "reading the import data.lib.base: "},
		"an import from above":             {map[string]string{"Dockerfile.rego": "package docker\n\nimport data[\"../x\"]\n\ndecision := {\"allow\": data[\"../x\"].y}"}, "reading the import"},
		"a JSON file that is not there":    {map[string]string{"Dockerfile.rego": "package docker\n\ndecision := load_json(\"x.json\")"}, `load_json("x.json"): `},
		"a JSON file above the folder":     {map[string]string{"Dockerfile.rego": "package docker\n\ndecision := load_json(\"../../etc/passwd\")"}, `load_json("../../etc/passwd"): `},
		"a JSON file that is none":         {map[string]string{"Dockerfile.rego": "package docker\n\ndecision := load_json(\"x.json\")", "x.json": "{"}, `load_json("x.json"): `},
		"a helper of another arity":        {map[string]string{"Dockerfile.rego": "package docker\n\ndecision := {\"allow\": docker_github_builder(input.image)}"}, "has arity 2, got 1"},
		"a policy that is larger than any": {map[string]string{"Dockerfile.rego": "package docker\n\ndecision := {}\n" + strings.Repeat("# x\n", 1<<20+1)}, "more than 4194304 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dockerbuild.Load(t.Context(), write(t, tc.files))
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("says %v", err)
			}
		})
	}
}

func TestTheSumCoversEveryFile(t *testing.T) {
	files := map[string]string{
		"Dockerfile.rego": "package docker\n\nimport data.lib\n\ndecision := {\"allow\": lib.ok}\n",
		"lib.rego":        "package other\n\nok if load_json(\"x.json\").ok\n",
		"x.json":          `{"ok": true}`,
	}
	sum := func(change string) string {
		changed := map[string]string{}
		for name, content := range files {
			if name == change {
				content += "\n"
			}
			changed[name] = content
		}
		p, err := dockerbuild.Load(t.Context(), write(t, changed))
		if err != nil {
			t.Fatal(err)
		}
		d, err := p.Decide(t.Context(), pulled(t, nil), now)
		if err != nil || !d.Allow {
			t.Errorf("it decides %+v, %v", d, err)
		}
		return p.Sum()
	}
	seen := []string{sum("")}
	if sum("") != seen[0] {
		t.Error("the same files in another folder have another sum")
	}
	for name := range files {
		if s := sum(name); slices.Contains(seen, s) {
			t.Errorf("the sum does not cover %s", name)
		} else {
			seen = append(seen, s)
		}
	}
}

func TestALoadedFileStaysAsItWas(t *testing.T) {
	file := write(t, map[string]string{"Dockerfile.rego": "package docker\n\ndecision := {\"allow\": load_json(\"x.json\").ok}\n", "x.json": `{"ok": false}`})
	p, err := dockerbuild.Load(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "x.json"), []byte(`{"ok": true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := p.Decide(t.Context(), pulled(t, nil), now); err != nil || d.Allow {
		t.Errorf("it decides %+v, %v", d, err)
	}
}

func TestWhatIsNoDecisionIsNoAllowance(t *testing.T) {
	for name, tc := range map[string]struct {
		decision string
		says     string // in the message, or in the error
		fails    bool
	}{
		"undefined":                      {`decision := {"allow": true} if input.git`, "data.docker.decision is undefined", false},
		"a text for allow":               {`decision := {"allow": "true"}`, "neither true nor false", true},
		"not even an object":             {`decision := true`, "no object", true},
		"no allow":                       {`decision := {"deny_msg": ["because"]}`, "because", false},
		"messages in a set":              {`decision := {"allow": false, "deny_msg": {"because"}}`, "because", false},
		"an unknown capability":          {`decision := {"allow": true, "caps": {"everything": true}}`, "everything", true},
		"two values":                     {"decision := {\"allow\": true}\n\ndecision := {\"allow\": false}", "eval_conflict_error", true},
		"a file that is named by a rule": {`decision := {"allow": load_json(sprintf("%s.json", ["x"])).ok}`, "in so many words", true},
		"a pin to another digest":        {`decision := {"allow": pin_image(input.image, "` + base.String() + `")}`, base.String(), false},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := load(t, "package docker\n\n"+tc.decision+"\n").Decide(t.Context(), pulled(t, nil), now)
			text := strings.Join(d.Messages, " ")
			if err != nil {
				text = err.Error()
			}
			if d.Allow || tc.fails != (err != nil) || !strings.Contains(text, tc.says) {
				t.Errorf("it decides %+v, %v", d, err)
			}
		})
	}
	t.Run("but the capability that buildx has is one", func(t *testing.T) {
		d, err := load(t, "package docker\n\ndecision := {\"allow\": true, \"deny_msg\": [\"unread\"], \"caps\": {\"exec.proxy\": true}}\n").Decide(t.Context(), pulled(t, nil), now)
		if err != nil || !d.Allow {
			t.Errorf("it decides %+v, %v", d, err)
		}
	})
}

func TestOnePolicyServesManyAtOnce(t *testing.T) {
	p := load(t, allowIf(`input.image.labels.team == "shop"`, `some x in ["a", "b"]`, `x == "b"`))
	s := pulled(t, nil)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if d, err := p.Decide(t.Context(), s, now); err != nil || !d.Allow {
				t.Errorf("it decides %+v, %v", d, err)
			}
		})
	}
	all.Wait()
}

func TestMaterials(t *testing.T) {
	sha, revision := base.Encoded(), commit
	for name, tc := range map[string]struct {
		uri       string
		digests   map[string]string
		condition string
	}{
		"an image of BuildKit's":       {"pkg:docker/alpine@3.20?platform=linux%2Farm64", map[string]string{"sha256": sha}, `input.image.ref == "docker.io/library/alpine:3.20@sha256:` + sha + `"; [input.image.repo, input.image.host, input.image.tag, input.image.isCanonical, input.image.arch] == ["alpine", "docker.io", "3.20", true, "arm64"]`},
		"an image by its digest":       {"pkg:docker/ghcr.io/acme/base?digest=sha256:" + sha, nil, `input.image.fullRepo == "ghcr.io/acme/base"; input.image.checksum == "sha256:` + sha + `"; not input.image.tag`},
		"an image by its name":         {"docker-image://quay.io/acme/base:1", map[string]string{"sha256": sha}, `input.image.host == "quay.io"; input.image.isCanonical`},
		"an image of the type oci":     {"pkg:oci/base?repository_url=ghcr.io/acme/base&tag=2", nil, `input.image.fullRepo == "ghcr.io/acme/base"; input.image.tag == "2"; not input.image.isCanonical`},
		"a branch":                     {"https://git.example/acme/app.git#refs/heads/main:docker", map[string]string{"sha1": revision}, `[input.git.host, input.git.remote, input.git.branch, input.git.ref, input.git.subDir, input.git.checksum, input.git.schema] == ["git.example", "https://git.example/acme/app.git", "main", "refs/heads/main", "docker", "` + revision + `", "https"]`},
		"a tag":                        {"https://git.example/acme/app.git#refs/tags/v1", map[string]string{"sha1": revision}, `[input.git.tagName, input.git.commitChecksum] == ["v1", "` + revision + `"]; not input.git.branch`},
		"a commit":                     {"git://git.example/acme/app.git#" + revision, nil, `input.git.isCommitRef; input.git.checksum == "` + revision + `"; not input.git.isSHA256`},
		"a repository of in-toto's":    {"git+https://git.example/acme/app@refs/heads/main", map[string]string{"gitCommit": revision}, `[input.git.remote, input.git.branch] == ["https://git.example/acme/app", "main"]`},
		"git's own short form":         {"git@git.example:acme/app.git#refs/heads/main", map[string]string{"sha1": revision}, `[input.git.schema, input.git.host, input.git.branch] == ["ssh", "git.example", "main"]`},
		"a repository with its commit": {"https://git.example/acme/app", map[string]string{"gitCommit": revision}, `input.git.host == "git.example"`},
		"a download":                   {"https://Files.Example.:443/a.tar?x=1", map[string]string{"sha256": sha}, `[input.http.host, input.http.path, input.http.schema, input.http.query.x[0], input.http.checksum] == ["files.example", "/a.tar", "https", "1", "sha256:` + sha + `"]`},
		"a download from an address":   {"http://[::1]:8080/a", nil, `input.http.host == "[::1]:8080"`},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := load(t, allowIf(tc.condition)).Decide(t.Context(), material(t, tc.uri, tc.digests), now)
			if err != nil || !d.Allow {
				t.Errorf("it decides %+v, %v", d, err)
			}
		})
	}
	for name, tc := range map[string]struct {
		uri       string
		digests   map[string]string
		condition string
		unknown   string
	}{
		"an image's labels":           {"pkg:docker/alpine@3.20", nil, `not input.image.labels.bad`, "input.image.labels"},
		"an image's digest":           {"pkg:docker/alpine@3.20", nil, `input.image.checksum != "sha256:bad"`, "input.image.checksum"},
		"what a short ref is":         {"https://git.example/acme/app.git#v1", map[string]string{"sha1": revision}, `not input.git.branch`, "input.git.branch"},
		"a commit that nobody says":   {"https://git.example/acme/app.git#refs/heads/main", nil, `not input.git.checksum == "bad"`, "input.git.checksum"},
		"the digest of a tag":         {"https://git.example/acme/app.git#refs/tags/v1", map[string]string{"sha1": revision}, `not input.git.isAnnotatedTag`, "input.git.isAnnotatedTag"},
		"the signature of a commit":   {"https://git.example/acme/app.git#refs/heads/main", map[string]string{"sha1": revision}, `verify_git_signature(input.git.commit, "key.asc")`, "input.git.commit"},
		"the checksum of a download":  {"https://files.example/a", nil, `not input.http.checksum`, "input.http.checksum"},
		"the password for a download": {"https://files.example/a", nil, `not input.http.hasAuth`, "input.http.hasAuth"},
		"the attestation of one":      {"https://files.example/a", map[string]string{"sha256": sha}, `artifact_attestation(input.http, "x").kind`, "artifact_attestation"},
		"a bundle by Docker's helper": {"https://files.example/a", map[string]string{"sha256": sha}, `docker_github_builder_bundle(input.http, "x", "acme/app")`, "artifact_attestation"},
		"a release on GitHub":         {"https://github.com/acme/app/releases/download/v1/a", map[string]string{"sha256": sha}, `github_release_attestation(input.http).kind`, "github_attestation"},
	} {
		t.Run(name+" is unknown", func(t *testing.T) {
			d, err := load(t, allowIf(tc.condition)).Decide(t.Context(), material(t, tc.uri, tc.digests), now)
			if err != nil || d.Allow || !slices.ContainsFunc(d.Unknown, func(u string) bool {
				return strings.HasPrefix(u, tc.unknown) || strings.HasPrefix(tc.unknown, strings.TrimSuffix(u, " as a whole"))
			}) {
				t.Errorf("it decides %+v, %v", d, err)
			}
		})
	}
	t.Run("a verified tag says what a short ref is", func(t *testing.T) {
		p := load(t, allowIf(`input.git.tagName == "v1"`, `input.git.ref == "refs/tags/v1"`))
		s := material(t, "https://git.example/acme/app.git#v1", map[string]string{"sha1": revision})
		s.Tagged("v1", strings.Repeat("f", 40))
		if d, err := p.Decide(t.Context(), s, now); err != nil || d.Allow {
			t.Errorf("a tag of another revision: it decides %+v, %v", d, err)
		}
		s.Tagged("v1", revision)
		if d, err := p.Decide(t.Context(), s, now); err != nil || !d.Allow {
			t.Errorf("it decides %+v, %v", d, err)
		}
	})
	for _, uri := range []string{"pkg:npm/left-pad@1", "file:///x", "left-pad", "urn:x:y"} {
		if s, err := dockerbuild.FromMaterial(dockerbuild.Material{URI: uri}, ""); s != nil || err != nil {
			t.Errorf("%s is %v, %v", uri, s, err)
		}
	}
	for _, m := range []dockerbuild.Material{
		{URI: "pkg:docker/%zz"}, {URI: "docker-image://acme/UPPER"}, {URI: "https:///nowhere"}, {URI: "https://exämple.org/x"}, {URI: "git+file:///x"}, {URI: "git://"},
		{URI: "pkg:docker/alpine?digest=sha256:" + sha, Digest: map[string]string{"sha256": own.Encoded()}}, {URI: "docker-image://alpine", Digest: map[string]string{"sha256": "short"}},
		{URI: "https://files.example/" + strings.Repeat("x", 5000)},
	} {
		if s, err := dockerbuild.FromMaterial(m, ""); s != nil || err == nil {
			t.Errorf("%.80s is %v", m.URI, s)
		}
	}
}

// TestThePageListsWhatIsUnknown holds docs/policy.md to the code.
func TestThePageListsWhatIsUnknown(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(raw), "\n## Docker build policies\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var listed []string
	for line := range strings.Lines(section) {
		fields, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
		if strings.HasPrefix(line, "| `") {
			for _, found := range regexp.MustCompile("`(input[^`]+)`").FindAllStringSubmatch(fields, -1) {
				listed = append(listed, found[1])
			}
		}
	}
	slices.Sort(listed)
	if want := dockerbuild.UnknownFields(); !slices.Equal(listed, want) {
		t.Errorf("the page lists\n%q\nand unknown are\n%q", listed, want)
	}
	for _, name := range dockerbuild.UnknownFunctions() {
		if !strings.Contains(section, "`"+name+"`") {
			t.Errorf("the page does not name %s", name)
		}
	}
}

// FuzzMaterial: what a stranger calls a material is described, passed over or an
// error, and never known better than it was written.
func FuzzMaterial(f *testing.F) {
	for _, uri := range []string{"pkg:docker/alpine@3.20?platform=linux%2Farm64", "https://git.example/a.git#refs/heads/main:x", "git+https://h/a@v1", "git@h:a#b", "https://h/a", "pkg:oci/a?repository_url=h/a", "docker-image://a@sha256:00", "git+ssh://a@b@c"} {
		f.Add(uri, base.Encoded(), "sha256")
		f.Add(uri, commit, "gitCommit")
	}
	f.Fuzz(func(t *testing.T, uri, encoded, algorithm string) {
		s, err := dockerbuild.FromMaterial(dockerbuild.Material{URI: uri, Digest: map[string]string{algorithm: encoded}}, "linux/amd64")
		if (s == nil) != (err != nil) && err != nil {
			t.Fatalf("got %v and %v", s, err)
		}
		if s != nil && s.Name() == "" {
			t.Errorf("%q has no name", uri)
		}
	})
}

// FuzzUnknown: a policy that allows although something is unknown allows whatever
// that is.
func FuzzUnknown(f *testing.F) {
	for _, seed := range []string{
		`input.env.args.X == "1"`, `not input.env.args.X`, `some k, v in input.env; k != "args"`, `e := input.env; not e.args`, `x := input[k]; not x.args`,
		`every k in ["X"] { not input.env.args[k] }`, `count([1 | input.env[k]]) < 3`, `{"depth": d} = input.env; d == 0`, `input.env == {"depth": 0}`,
		`some s in [input.env, input.image]; not s.args`, `not input.image.signatures`, `count(input.image.provenance.materials) == 0`, `p := input.image.provenance; not p.materials[_].git`, `object.get(input, ["env", "target"], "x") == "x"`, `not f(input.env)`, `all[k].args`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, condition string) {
		if len(condition) > 300 || strings.Contains(condition, "rand") || strings.Contains(condition, "uuid") || strings.Contains(condition, "now_ns") {
			return
		}
		rego := allowIf(condition) + "\nf(e) if e.args.X\n\nall := input\n"
		p, err := dockerbuild.Load(t.Context(), write(t, map[string]string{"Dockerfile.rego": rego}))
		if err != nil {
			return
		}
		d, err := p.Decide(t.Context(), pulled(t, nil), now)
		if err != nil || !d.Allow {
			return
		}
		for i, world := range worlds {
			if allowed, err := p.AllowsWith(t.Context(), pulled(t, nil), world.env, world.image); err == nil && !allowed {
				t.Fatalf("%s\nallows while it does not know the build, and not in world %d", rego, i)
			}
		}
	})
}

// worlds are what could turn out to be the case.
var worlds = []struct{ env, image map[string]any }{
	{},
	{env: map[string]any{"args": map[string]any{}, "labels": map[string]any{}}},
	{env: map[string]any{"args": map[string]any{"X": "1", "Y": ""}, "target": "debug"}},
	{env: map[string]any{"args": map[string]any{"X": "0"}, "labels": map[string]any{"X": "1", "args": "2"}, "filename": "x"}},
	{image: map[string]any{"signatures": []any{map[string]any{"kind": "untrusted"}}}},
	{image: map[string]any{"signatures": []any{}, "provenance": map[string]any{"materials": []any{map[string]any{"git": map[string]any{"host": "x"}}}}}},
}
