package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestBuildPoliciesJudgeAlike: buildx and trustgate are asked by the same files
// about the same images, and say the same.
func TestBuildPoliciesJudgeAlike(t *testing.T) {
	needRoot(t)
	files := fromScratch(t)
	files["Dockerfile"] += "LABEL team=shop\nUSER 1000\nWORKDIR /srv\nVOLUME /data\nARG VERSION=1.4\n"
	labelled := the.build(t, the.apps, "policies/labelled", files)
	bare := the.build(t, the.apps, "policies/bare", fromScratch(t))

	if r := the.run(t, "buildx", "create", "--name", "policies", "--driver", "remote", the.bkSocket); r.err != nil {
		t.Fatal(r.output)
	}
	t.Cleanup(func() { the.run(t, "buildx", "rm", "policies") })

	const (
		header  = "package docker\n\ndefault allow := false\n\ndecision := {\"allow\": allow, \"deny_msg\": deny_msg}\n\nallow if not input.image\n\n"
		allowed = header + "deny_msg := []\n\n"
		denied  = header + "deny_msg contains \"%s\" if not allow\n\n"
	)
	deny := func(message, rest string) string { return fmt.Sprintf(denied, message) + rest }
	tag, digest := labelled.String(), labelled.pinned()
	for name, tc := range map[string]struct {
		policy string
		image  string
		says   string // the message of a denial, "" for an allowance
	}{
		"the registry is on the list":         {deny("registry", `allow if input.image.host in {"docker.io", "`+the.apps.addr+`"}`), tag, ""},
		"the registry is not on the list":     {header + "deny_msg contains msg if {\n\tnot allow\n\tmsg := sprintf(\"%s is not from docker.io\", [input.image.repo])\n}\n\nallow if input.image.host == \"docker.io\"", tag, the.apps.addr + "/policies/labelled is not from docker.io"},
		"a denial without words":              {"package docker\n\ndecision := {\"allow\": false}\n", tag, "not allow|policy denied"},
		"a tag where a digest is demanded":    {deny("pin it", "allow if input.image.isCanonical"), tag, "pin it"},
		"a digest where a digest is demanded": {deny("pin it", "allow if input.image.isCanonical"), digest, ""},
		"the tag fits":                        {deny("tag", `allow if regex.match("^[0-9]+$", input.image.tag)`), tag, ""},
		"the digest behind the tag":           {deny("digest", `allow if input.image.checksum == "`+labelled.digest+`"`), tag, ""},
		"a pin to what the tag is":            {deny("pin", `allow if pin_image(input.image, "`+labelled.digest+`")`), tag, ""},
		"a label":                             {deny("label", `allow if input.image.labels.team == "shop"`), tag, ""},
		"a label that is missing":             {deny("no team", "allow if input.image.labels.team"), bare.String(), "no team"},
		"user, folder and volumes":            {deny("config", `allow if [input.image.user, input.image.workingDir, input.image.volumes] == ["1000", "/srv", ["/data"]]`), tag, ""},
		"an image that runs as root":          {deny("root", "allow if input.image.user"), bare.String(), "root"},
		"the environment":                     {deny("env", `allow if "PATH=/bin" in input.image.env`), tag, ""},
		"the platform":                        {deny("platform", `allow if [input.image.platform, input.image.os, input.image.arch] == ["linux/`+runtime.GOARCH+`", "linux", "`+runtime.GOARCH+`"]`), tag, ""},
		"a provenance":                        {deny("provenance", "allow if input.image.hasProvenance"), tag, ""},
		"its builder":                         {deny("builder", `allow if input.image.provenance.builderID == "`+builderID+`"`), tag, ""},
		"another builder":                     {deny("builder", `allow if input.image.provenance.builderID == "https://evil.example"`), tag, "builder"},
		"the frontend and the predicate":      {deny("frontend", `allow if [input.image.provenance.frontend, input.image.provenance.predicateType, input.image.provenance.completeness.parameters] == ["dockerfile.v0", "https://slsa.dev/provenance/v1", true]`), tag, ""},
		"where the Dockerfile came from":      {deny("source", `allow if startswith(input.image.provenance.configSource.uri, "git://")`), tag, ""},
		"no signature":                        {deny("unsigned", "allow if some signature in input.image.signatures"), tag, "unsigned"},
		"no signature by Docker's builder":    {deny("not by Docker", `allow if docker_github_builder(input.image, "moby/buildkit")`), tag, "not by Docker"},
		"the depth":                           {deny("depth", "allow if input.env.depth == 0"), tag, ""},
		"a list in a file":                    {deny("list", `allow if input.image.repo in load_json("allowed.json").repositories`), tag, ""},
		"a rule in an import":                 {strings.Replace(deny("import", "allow if lib.team"), "package docker\n", "package docker\n\nimport data.lib\n", 1), tag, ""},
		"an image that a rule has no word on": {deny("nothing", "allow if input.git"), tag, "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range map[string]string{
				"Dockerfile.rego": tc.policy,
				"lib.rego":        "package lib\n\nteam if input.image.labels.team == \"shop\"\n",
				"allowed.json":    `{"repositories": ["` + labelled.registry.addr + "/" + labelled.repo + `"]}`,
				"trustgate.yaml": fmt.Sprintf(`data: %s
routes:
  - {registry: %q, upstream: "http://%s", insecure: true, mode: enforce}
platforms: [linux/%s]
policy: {builtin: false, collections: [], docker_build: [Dockerfile.rego]}
`, t.TempDir(), the.apps.addr, the.apps.addr, runtime.GOARCH),
			} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			theirs := run(t.Context(), dir, the.env, the.path("buildx"), "--builder", "policies", "policy", "eval", "docker-image://"+tc.image)
			ours := run(t.Context(), dir, the.env, the.trustgate, "--config", "trustgate.yaml", "policy", "eval", "-o", "json", tc.image)
			wordsOurs, wordsTheirs, both := strings.Cut(tc.says, "|")
			if !both {
				wordsTheirs = "policy denied: " + wordsOurs
			}
			if tc.says == "" {
				if theirs.err != nil {
					t.Errorf("buildx says %s", theirs.output)
				}
				if ours.err != nil {
					t.Errorf("trustgate says %s", ours.output)
				}
				return
			}
			if theirs.err == nil || !strings.Contains(theirs.output, wordsTheirs) {
				t.Errorf("buildx says %v %s", theirs.err, theirs.output)
			}
			var said struct {
				Action  string `json:"action"`
				Reasons []struct{ Code, Msg string }
			}
			if err := json.Unmarshal(ours.stdout, &said); err != nil {
				t.Fatalf("%v: %s", err, ours.output)
			}
			if said.Action != "block" || len(said.Reasons) == 0 || said.Reasons[0].Code != "docker_build.denied" || !strings.Contains(said.Reasons[0].Msg, wordsOurs) {
				t.Errorf("trustgate says %s", ours.output)
			}
		})
	}
}
