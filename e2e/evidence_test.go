package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// trustgateRun runs a command of the program with a gate's configuration.
func (g *gate) trustgateRun(t testing.TB, args ...string) outcome {
	t.Helper()
	return the.run(t, the.trustgate, append(args, "--config", g.config)...)
}

// TestSummaryByCosign has the stock cosign check the gate's own verdict, which it
// finds among the referrers that the gate serves.
func TestSummaryByCosign(t *testing.T) {
	needRoot(t)
	served := trusted(t, the.apps, "summary/served", fromScratch(t))
	blocked := the.build(t, the.apps, "summary/unsigned", fromScratch(t))
	g := startGate(t, gateOptions{})
	if status, said := g.pull(t, served); status != http.StatusOK {
		t.Fatalf("%d: %s", status, said)
	}
	if status, _ := g.pull(t, blocked); status != http.StatusForbidden {
		t.Fatalf("an unsigned image: %d", status)
	}
	key := filepath.Join(g.data, "verdicts.key.pub")
	verify := func(of image, key string) outcome {
		return the.run(t, "cosign", "verify-attestation", "--type", "https://slsa.dev/verification_summary/v1", "--key", key,
			"--insecure-ignore-tlog=true", "--trusted-root", the.cosign.root, "--allow-http-registry", g.pinned(of))
	}
	for of, result := range map[image]string{served: "PASSED", blocked: "FAILED"} {
		seen := verify(of, key).ok(t)
		var envelope struct{ Payload []byte }
		for line := range strings.Lines(string(seen.stdout)) {
			if json.Unmarshal([]byte(line), &envelope) == nil && len(envelope.Payload) > 0 {
				break
			}
		}
		if payload := string(envelope.Payload); !strings.Contains(payload, `"verificationResult":"`+result+`"`) || !strings.Contains(payload, strings.TrimPrefix(of.digest, "sha256:")) {
			t.Errorf("%s: cosign accepts\n%s\nwant %s", of, payload, result)
		}
	}
	if seen := verify(served, the.cosign.public); seen.err == nil {
		t.Errorf("cosign accepts the summary by another key:\n%s", seen.output)
	}
}

// TestPolicyJSONThroughTheGate: skopeo and podman verify OpenPGP signatures by
// their own policy, with the signatures that the gate serves.
func TestPolicyJSONThroughTheGate(t *testing.T) {
	needRoot(t)
	// They want the signature over the image itself, not over an index of it.
	signed := the.pushSigned(t, the.buildah(t, the.apps, "observed/signed"))
	unsigned := the.build(t, the.apps, "observed/plain", fromScratch(t))
	g := startGate(t, gateOptions{})
	policy := filepath.Join(t.TempDir(), "policy.json")
	err := os.WriteFile(policy, fmt.Appendf(nil, `{"default": [{"type": "reject"}], "transports": {"docker": {%q: [{
		"type": "signedBy", "keyType": "GPGKeys", "keyPath": %q,
		"signedIdentity": {"type": "remapIdentity", "prefix": %q, "signedPrefix": %q}}]}}}`,
		g.addr, the.pgp.keyring, g.addr+"/"+signed.registry.host, signed.registry.addr), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	storage, err := os.MkdirTemp(the.dir, "p-")
	if err != nil {
		t.Fatal(err)
	}
	clients := map[string]func(of image) outcome{
		"skopeo": func(of image) outcome {
			return the.run(t, "skopeo", "--policy", policy, "copy", "--src-tls-verify=false", "docker://"+g.name(of), "dir:"+filepath.Join(t.TempDir(), "copy"))
		},
		"podman": func(of image) outcome {
			return the.run(t, "podman", "--root", filepath.Join(storage, "root"), "--runroot", filepath.Join(storage, "run"), "--storage-driver", "vfs",
				"pull", "--tls-verify=false", "--signature-policy", policy, g.name(of))
		},
	}
	for name, pull := range clients {
		t.Run(name, func(t *testing.T) {
			pull(signed).ok(t)
			if seen := pull(unsigned); seen.err == nil || !strings.Contains(seen.output, "signature") {
				t.Errorf("its policy lets an unsigned image through:\n%s", seen.output)
			}
		})
	}
}

// TestSignLikeGit: what trustgate signs skopeo verifies, and what skopeo and
// podman sign trustgate does; a signature counts for its own tag alone.
func TestSignLikeGit(t *testing.T) {
	needRoot(t)
	app := the.build(t, the.apps, "signing/app", fromScratch(t))
	g := startGate(t, gateOptions{})
	if seen := g.trustgateRun(t, "verify", app.String()); seen.code != 1 || !strings.Contains(seen.output, "there is no signature") {
		t.Errorf("before: %d\n%s", seen.code, seen.output)
	}
	seen := g.trustgateRun(t, "sign", "--key", the.pgp.fingerprint, app.String()).ok(t)
	if !strings.Contains(seen.output, "the referrer sha256:") || !strings.Contains(seen.output, "release") {
		t.Errorf("signing says\n%s", seen.output)
	}
	if seen := g.trustgateRun(t, "verify", app.String()).ok(t); !strings.Contains(seen.output, "✓ openpgp by release for "+app.String()) {
		t.Errorf("after: %s", seen.output)
	}

	t.Run("skopeo accepts it", func(t *testing.T) {
		_, body := get(t, http.MethodGet, "http://"+g.addr+"/extensions/v2/"+app.registry.host+"/"+app.repo+"/signatures/"+app.digest)
		var answer struct {
			Signatures []struct{ Content []byte }
		}
		if err := json.Unmarshal(body, &answer); err != nil || len(answer.Signatures) != 1 {
			t.Fatalf("%v: %s", err, body)
		}
		_, raw := app.registry.manifestOf(t, app.repo, app.digest)
		manifest, signature := filepath.Join(t.TempDir(), "manifest"), filepath.Join(t.TempDir(), "signature")
		for path, content := range map[string][]byte{manifest: raw, signature: answer.Signatures[0].Content} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		the.run(t, "skopeo", "standalone-verify", manifest, app.String(), the.pgp.fingerprint, signature).ok(t)
	})
	t.Run("not under another tag", func(t *testing.T) {
		the.run(t, "crane", "tag", "--insecure", app.String(), "2").ok(t)
		other := app
		other.tag = "2"
		seen := g.trustgateRun(t, "verify", other.String())
		if seen.code != 1 || !strings.Contains(seen.output, app.String()) || !strings.Contains(seen.output, "which is another image") {
			t.Errorf("%d\n%s", seen.code, seen.output)
		}
	})
	t.Run("by skopeo", func(t *testing.T) {
		bySkopeo := the.build(t, the.apps, "signing/skopeo", fromScratch(t))
		the.signPGP(t, bySkopeo)
		g.trustgateRun(t, "verify", "--signer", "release", bySkopeo.String()).ok(t)
	})
	t.Run("by podman", func(t *testing.T) {
		byPodman := the.pushSigned(t, the.buildah(t, the.apps, "signing/podman"))
		g.trustgateRun(t, "verify", "--signer", "release", byPodman.String()).ok(t)
	})
}

// TestSignedGitTag: the revision that a build came from is released by a tag
// that gpg signed, and the input says so.
func TestSignedGitTag(t *testing.T) {
	needRoot(t)
	released := trusted(t, the.apps, "gittag/released", fromScratch(t))
	repository := filepath.Join(the.gitRoot, "gittag/released.git")
	the.run(t, "git", "-C", repository, "-c", "user.signingKey="+the.pgp.fingerprint, "tag", "-s", "-m", "Release", "v1").ok(t)
	unreleased := trusted(t, the.apps, "gittag/unreleased", fromScratch(t))
	g := startGate(t, gateOptions{Git: true})
	for of, want := range map[image]bool{released: true, unreleased: false} {
		var report struct {
			Images []struct {
				Input struct {
					Source struct {
						Tag *struct {
							Name     string
							Verified bool
							Error    string
						}
					}
				}
			}
		}
		seen := g.trustgateRun(t, "inspect", "-o", "json", of.String()).ok(t)
		if err := json.Unmarshal(seen.stdout, &report); err != nil || len(report.Images) != 1 || report.Images[0].Input.Source.Tag == nil {
			t.Fatalf("%v: %s", err, seen.output)
		}
		tag := report.Images[0].Input.Source.Tag
		if tag.Verified != want || want && tag.Name != "v1" || !want && tag.Error == "" {
			t.Errorf("%s: the tag is %+v", of, *tag)
		}
	}
}

// TestDockerfileOutOfGit: provenance that carries no Dockerfile says at which
// revision it is.
func TestDockerfileOutOfGit(t *testing.T) {
	needRoot(t)
	source := the.commit(t, "gittag/buildah", fromScratch(t))
	built := the.pushSigned(t, the.buildah(t, the.apps, "gittag/buildah"))
	the.attest(t, built, the.handWritten(t, source), the.bundle())
	g := startGate(t, gateOptions{Git: true})
	if got, want := string(g.trustgateRun(t, "source", "--dockerfile", built.String()).ok(t).stdout), fromScratch(t)["Dockerfile"]; got != want {
		t.Errorf("the Dockerfile is %q, want %q", got, want)
	}
	var sources []struct {
		Verified   bool
		Dockerfile struct{ Path, Via string }
	}
	_, body := get(t, http.MethodGet, "http://"+g.addr+"/api/v1/source?image="+built.String())
	if err := json.Unmarshal(body, &sources); err != nil || len(sources) != 1 {
		t.Fatalf("%v: %s", err, body)
	}
	if s := sources[0]; !s.Verified || s.Dockerfile.Path != "Dockerfile" || s.Dockerfile.Via != "git" {
		t.Errorf("the source is %s", body)
	}
}

// TestReproduce has BuildKit build two images again: one that is the same bit for
// bit, and one into which somebody put the date.
func TestReproduce(t *testing.T) {
	needRoot(t)
	base := trusted(t, the.bases, "reproduce/base", fromScratch(t))
	build := func(name, step string) image {
		repo := "reproduce/" + name
		source := the.commit(t, repo, map[string]string{
			"Dockerfile": fmt.Sprintf("FROM %s\n%s\nCOPY Dockerfile /Dockerfile\n", base, step),
		})
		built := the.buildFrom(t, the.apps, repo, source, ",rewrite-timestamp=true", "build-arg:SOURCE_DATE_EPOCH=1700000000")
		the.attest(t, built, the.provenance(t, built), the.bundle())
		the.signPGP(t, built)
		return built
	}
	same := build("same", `RUN ["/bin/busybox", "touch", "/built"]`)
	dated := build("dated", `RUN ["/bin/busybox", "sh", "-c", "/bin/busybox date > /when"]`)
	second := filepath.Join(t.TempDir(), "second")
	the.run(t, "cosign", "generate-key-pair", "--output-key-prefix", second).ok(t)
	g := startGate(t, gateOptions{Second: second + ".pub"})
	reproduce := func(of image, more ...string) (outcome, reproduction) {
		t.Helper()
		seen := g.trustgateRun(t, append([]string{"reproduce", "--buildkit", the.bkSocket, "--buildctl", the.path("buildctl"), "-o", "json", of.String()}, more...)...)
		var r reproduction
		if err := json.Unmarshal(seen.stdout, &r); err != nil {
			t.Fatalf("%s: %v\n%s", seen.command, err, seen.output)
		}
		return seen, r
	}

	seen, r := reproduce(same, "--attest", "--key", second+".key", "--builder", "https://second.example/")
	if seen.code != 0 || !r.Identical || r.Digest != r.Rebuilt || len(r.Differences) != 0 {
		t.Errorf("%d: %s", seen.code, seen.output)
	}
	seen, r = reproduce(dated)
	where := fmt.Sprint(r.Differences)
	if seen.code != 3 || r.Identical || !strings.Contains(where, "/when") || strings.Contains(where, "Dockerfile") {
		t.Errorf("%d: %s", seen.code, seen.output)
	}

	// The attached word of the second builder is counted.
	inspected := g.trustgateRun(t, "inspect", "--fresh", "-o", "json", same.String())
	if !strings.Contains(string(inspected.stdout), `"agree": 2`) || !strings.Contains(string(inspected.stdout), "https://second.example/") {
		t.Errorf("two builders agree, and the input says\n%s", inspected.output)
	}
}

type reproduction struct {
	Digest, Rebuilt string
	Identical       bool
	Differences     []struct{ Where, Path string }
}
