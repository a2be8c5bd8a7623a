package dockerbuild_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/policy/dockerbuild"
)

var (
	now    = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	own    = digest.FromString("the image")
	base   = digest.FromString("the base")
	commit = strings.Repeat("0123456789", 4)
)

// shop is an image of which everything is known that a pull can know.
func shop() dockerbuild.Facts {
	return dockerbuild.Facts{
		Name: "registry.acme.example/shop", Tag: "1.4", Digest: own, Platform: "linux/arm64/v8",
		Config: &dockerbuild.Config{
			Created: "2026-05-30T10:00:00Z", Env: []string{"PATH=/bin"}, Labels: map[string]string{"team": "shop"},
			User: "1000", Volumes: []string{"/data"}, WorkingDir: "/srv",
		},
		Provenance: &dockerbuild.Statement{
			PredicateType: "https://slsa.dev/provenance/v1",
			Predicate: json.RawMessage(`{
				"buildDefinition": {"buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
					"externalParameters": {
						"configSource": {"uri": "https://git.example/acme/shop.git#main", "digest": {"sha1": "` + commit + `"}, "path": "Dockerfile"},
						"request": {"frontend": "dockerfile.v0", "args": {"build-arg:VERSION": "1.4", "target": "release"}}}},
				"runDetails": {"builder": {"id": "https://ci.example/builder"},
					"metadata": {"invocationID": "7", "startedOn": "2026-05-30T09:59:00Z", "buildkit_hermetic": true,
						"buildkit_completeness": {"request": true}}}}`),
			Materials: true,
		},
		Signed: true,
	}
}

func load(t *testing.T, rego string) *dockerbuild.Policy {
	t.Helper()
	p, err := dockerbuild.Load(t.Context(), write(t, map[string]string{"Dockerfile.rego": rego}))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// write makes a folder and returns its Dockerfile.rego.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	folder := t.TempDir()
	for name, content := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(folder, "Dockerfile.rego")
}

func pulled(t *testing.T, change func(*dockerbuild.Facts)) *dockerbuild.Source {
	t.Helper()
	facts := shop()
	if change != nil {
		change(&facts)
	}
	s, err := dockerbuild.Pulled(facts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func material(t *testing.T, uri string, digests map[string]string) *dockerbuild.Source {
	t.Helper()
	s, err := dockerbuild.FromMaterial(dockerbuild.Material{URI: uri, Digest: digests}, "linux/amd64")
	if err != nil || s == nil {
		t.Fatalf("%s: got %v, %v", uri, s, err)
	}
	return s
}

// allowIf is a policy of conditions that all must hold.
func allowIf(conditions ...string) string {
	return "package docker\n\ndefault allow := false\n\nallow if {\n\t" + strings.Join(conditions, "\n\t") + "\n}\n\ndecision := {\"allow\": allow}\n"
}

func TestWhatIsKnownDecides(t *testing.T) {
	for name, tc := range map[string]struct {
		condition string
		want      bool
	}{
		"the registry":                                   {`input.image.host == "registry.acme.example"`, true},
		"another registry":                               {`input.image.host == "docker.io"`, false},
		"the reference":                                  {`input.image.ref == "registry.acme.example/shop:1.4"`, true},
		"the names":                                      {`[input.image.repo, input.image.fullRepo, input.image.tag] == ["registry.acme.example/shop", "registry.acme.example/shop", "1.4"]`, true},
		"the digest behind the tag":                      {`input.image.checksum == "` + own.String() + `"`, true},
		"a tag is not canonical":                         {`not input.image.isCanonical`, true},
		"the platform, without what is implied":          {`[input.image.platform, input.image.os, input.image.arch] == ["linux/arm64", "linux", "arm64"]; not input.image.variant`, true},
		"the labels":                                     {`input.image.labels.team == "shop"`, true},
		"a label that is not there":                      {`input.image.labels.owner`, false},
		"that a label is not there":                      {`not input.image.labels.owner`, true},
		"the rest of the config":                         {`[input.image.user, input.image.workingDir, input.image.env[0], input.image.volumes[0], input.image.createdTime] == ["1000", "/srv", "PATH=/bin", "/data", "2026-05-30T10:00:00Z"]`, true},
		"the depth":                                      {`input.env.depth == 0`, true},
		"an image under another name":                    {`img := input.image; img.host == "registry.acme.example"; img.labels.team == "shop"`, true},
		"an image that is no git repository":             {`input.image; not input.git; not input.http; not input.local`, true},
		"the provenance":                                 {`input.image.hasProvenance; p := input.image.provenance; [p.builderID, p.frontend, p.buildArgs.VERSION, p.rawArgs.target, p.invocationID, p.startedOn, p.hermetic, p.reproducible] == ["https://ci.example/builder", "dockerfile.v0", "1.4", "release", "7", "2026-05-30T09:59:00Z", true, false]`, true},
		"where the Dockerfile came from":                 {`c := input.image.provenance.configSource; [c.uri, c.path, c.digest.sha1] == ["https://git.example/acme/shop.git#main", "Dockerfile", "` + commit + `"]`, true},
		"how complete the provenance is":                 {`c := input.image.provenance.completeness; [c.parameters, c.materials] == [true, false]; not c.environment`, true},
		"nobody asks for what is unknown":                {`startswith(input.image.ref, "evil"); input.env.args.X == "1"`, false},
		"the time":                                       {`time.now_ns() == 1780315200000000000`, true},
		"a print in between":                             {`print("looking at", input.image.ref); true`, true},
		"a pin to the very digest":                       {`pin_image(input.image, "` + own.String() + `")`, true},
		"a pin to another digest":                        {`pin_image(input.image, "` + base.String() + `")`, false},
		"a git function says nothing of images":          {`verify_git_signature(input.git.commit, "key.asc")`, false},
		"a rule that fails is undefined":                 {`to_number(input.image.labels.team) > 3`, false},
		"one of two ways, of which the other is unknown": {`input.env.args.X` + "\n}\n\nallow if {\n\tinput.image.host == \"registry.acme.example\"", true},
		"functions of the policy's own":                  {`registry(input.image) == "registry.acme.example"` + "\n}\n\nregistry(image) := image.host if {\n\timage.host", true},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := load(t, allowIf(tc.condition)).Decide(t.Context(), pulled(t, nil), now)
			if err != nil {
				t.Fatal(err)
			}
			if d.Allow != tc.want || d.Unknown != nil {
				t.Errorf("it decides %+v", d)
			}
		})
	}
}

// An unknown never allows, however a policy gets at it, nor does the absence of
// what is unknown.
func TestAnUnknownNeverAllows(t *testing.T) {
	for name, tc := range map[string]struct {
		condition string
		unknown   string // one of those that the decision names
	}{
		"a build argument":                        {`input.env.args.X == "1"`, "input.env.args"},
		"the absence of a build argument":         {`not input.env.args.X`, "input.env.args"},
		"the absence of all build arguments":      {`not input.env.args`, "input.env.args"},
		"a build argument by another name":        {`e := input.env; not e.args.X`, "input.env.args"},
		"a build argument by a key":               {`some key in ["args"]; not input.env[key].X`, "input.env"},
		"a build argument by a walk over members": {`count([1 | some k, v in input.env; k == "args"]) == 0`, "input.env as a whole"},
		"a build argument by object.get":          {`object.get(input.env, ["args", "X"], "default") == "default"`, "input.env as a whole"},
		"a build argument in the whole input":     {`not contains(json.marshal(input), "args")`, "input"},
		"a build argument through a function":     {`not f(input.env)` + "\n}\n\nf(e) if {\n\te.args.X", "input.env"},
		"a build argument through a rule":         {`not asked` + "\n}\n\nasked if {\n\tinput.env.args.X", "input.env.args"},
		"a build argument in a set of messages":   {`count(messages) == 0` + "\n}\n\nmessages contains \"no\" if {\n\tnot input.env.args.X == \"\"\n\tinput.env.args.X", "input.env.args"},
		"a build argument in a comprehension":     {`x := [m | some m in messages]; x == []` + "\n}\n\nmessages contains \"no\" if {\n\tinput.env.args.X", "input.env.args"},
		"a build argument with an else":           {`strict == false` + "\n}\n\nstrict if {\n\tinput.env.args.X == \"1\"\n} else := false if {\n\ttrue", "input.env.args"},
		"a build argument with a default":         {`not strict` + "\n}\n\ndefault strict := false\n\nstrict if {\n\tinput.env.args.X == \"1\"", "input.env.args"},
		"a build argument in every":               {`every k in ["X", "Y"] { not input.env.args[k] }`, "input.env.args"},
		"the build's target":                      {`input.env.target != "debug"`, "input.env.target"},
		"the kind of a signature":                 {`some s in input.image.signatures; s.kind != "untrusted"`, "input.image.signatures"},
		"the runner of a signature":               {`every s in input.image.signatures { not s.signer.runnerEnvironment == "self-hosted" }`, "input.image.signatures"},
		"Docker's builder":                        {`docker_github_builder(input.image, "acme/shop")`, "input.image.signatures"},
		"that it is not Docker's builder":         {`not docker_github_builder(input.image, "acme/shop")`, "input.image"},
		"the labels of a material":                {`some m in input.image.provenance.materials; m.image.labels.team`, "input.image.provenance.materials"},
		"the absence of labels of a material":     {`every m in input.image.provenance.materials { not m.image.labels.bad }`, "input.image.provenance.materials"},
		"materials by another name":               {`ms := input.image.provenance.materials; not ms[0].image.signatures`, "input.image.provenance.materials"},
		"the signature of a material's commit":    {`some m in input.image.provenance.materials; verify_git_signature(m.git.commit, "key.asc")`, "input.image.provenance.materials"},
		"a function that nobody can answer":       {`not artifact_attestation({"url": "x"}, "bundle.json")`, "artifact_attestation"},
		"one in a rule":                           {`not ok` + "\n}\n\nok if {\n\tsig := github_attestation({\"url\": \"x\"}, \"acme/shop\")\n\tsig.kind", "github_attestation"},
		"a member of the input by a walk":         {`count([1 | some k, v in input; v.args.X]) == 0`, "input"},
		"a member of the input by a key":          {`count([1 | x := input[k]; not x.args]) == 1`, "input"},
		"a member of a pattern":                   {`not bad` + "\n}\n\nbad if {\n\t{\"args\": {\"X\": \"1\"}} = input[_]", "input"},
		"a member that is compared":               {`not bad` + "\n}\n\nbad if {\n\tsome k\n\tinput[k] == {\"depth\": 0, \"args\": {}}", "input"},
		"a member through a function":             {`not bad(input)` + "\n}\n\nbad(i) if {\n\tsome k, v in i\n\tv.args.X", "input"},
		"a member of what a rule returns":         {`not bad` + "\n}\n\nall_of_it := input\n\nbad if {\n\tsome k\n\tall_of_it[k].args.X", "input"},
		"a member of a set of objects":            {`not bad` + "\n}\n\nsources contains input.env\n\nbad if {\n\tsome s in sources\n\ts.args.X", "input.env"},
		"a member in a nested comprehension":      {`x := {k: y | some k in ["env"]; y := [v | some v in input[k]]}; x == {"env": [0]}`, "input"},
		"a build argument in place of the input":  {`not nothing with input as {"x": input.env.args.X}` + "\n}\n\nnothing if {\n\tinput.x", "input.env.args"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := load(t, allowIf(tc.condition)).Decide(t.Context(), pulled(t, nil), now)
			if err != nil {
				t.Fatal(err)
			}
			if d.Allow || !slices.ContainsFunc(d.Unknown, func(u string) bool { return strings.HasPrefix(u, tc.unknown) }) {
				t.Errorf("it decides %+v", d)
			}
		})
	}
}

func TestWhatCannotBeHadIsUnknown(t *testing.T) {
	for name, tc := range map[string]struct {
		change    func(*dockerbuild.Facts)
		condition string
		unknown   string
	}{
		"the config":                    {func(f *dockerbuild.Facts) { f.Config = nil }, `not input.image.labels.bad`, "input.image.labels"},
		"the user without a config":     {func(f *dockerbuild.Facts) { f.Config = nil }, `not input.image.user == "root"`, "input.image.user"},
		"the provenance after an error": {func(f *dockerbuild.Facts) { f.Provenance, f.Incomplete = nil, true }, `not input.image.hasProvenance`, "input.image.hasProvenance"},
		"signatures after an error":     {func(f *dockerbuild.Facts) { f.Signed, f.Incomplete = false, true }, `not input.image.signatures`, "input.image.signatures"},
		"an unreadable provenance":      {func(f *dockerbuild.Facts) { f.Provenance.Predicate = json.RawMessage(`[]`) }, `not input.image.provenance.builderID == "x"`, "input.image.provenance"},
		"a provenance of another form":  {func(f *dockerbuild.Facts) { f.Provenance.PredicateType = "x" }, `not input.image.provenance.builderID == "x"`, "input.image.provenance"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := load(t, allowIf(tc.condition)).Decide(t.Context(), pulled(t, tc.change), now)
			if err != nil {
				t.Fatal(err)
			}
			if d.Allow || !slices.ContainsFunc(d.Unknown, func(u string) bool { return strings.HasPrefix(u, tc.unknown) }) {
				t.Errorf("it decides %+v", d)
			}
		})
	}
	t.Run("and what was looked for is absent", func(t *testing.T) {
		s := pulled(t, func(f *dockerbuild.Facts) { f.Provenance, f.Signed = nil, false })
		d, err := load(t, allowIf("not input.image.hasProvenance", "not input.image.provenance", "not input.image.signatures")).Decide(t.Context(), s, now)
		if err != nil || !d.Allow {
			t.Errorf("it decides %+v, %v", d, err)
		}
	})
}
