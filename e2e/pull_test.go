package e2e

import (
	"net/http"
	"os"
	"strings"
	"testing"
)

// trusted builds an image from nothing that satisfies every shipped rule: the
// release team signed it with gpg, and the build system attested where it comes
// from.
func trusted(t testing.TB, in *registry, repo string, files map[string]string) image {
	t.Helper()
	built := the.build(t, in, repo, files)
	the.signPGP(t, built)
	the.attest(t, built, the.provenance(t, built), the.bundle())
	return built
}

// TestClients pulls a trusted, a suspicious and an untrusted image with every
// client, and records what a person sees of each.
func TestClients(t *testing.T) {
	needRoot(t)
	base := trusted(t, the.bases, "clients/base", fromScratch(t))
	served := trusted(t, the.apps, "clients/served", from(base))
	annotated := the.build(t, the.apps, "observed/unsigned", from(base))
	blocked := the.build(t, the.apps, "clients/unsigned", from(base))
	g := startGate(t, gateOptions{})

	var rows []row
	for _, c := range clients(t) {
		version := c.version(t)
		t.Run(c.name+" "+version, func(t *testing.T) {
			r := row{client: c.name + " " + version}

			seen, arrived := c.pull(t, g, served)
			seen.ok(t)
			arrived(t)
			r.served = shown(g, seen, served)

			seen, arrived = c.pull(t, g, annotated)
			seen.ok(t)
			arrived(t)
			r.annotated = shown(g, seen, annotated)
			if warned := strings.Contains(seen.output, "TrustGate"); c.showsWarning && !warned {
				t.Errorf("%s shows no warning:\n%s", c.name, seen.output)
			}

			// The control: it is the gate that refuses, nothing else.
			seen, arrived = c.pull(t, nil, blocked)
			seen.ok(t)
			arrived(t)
			seen, _ = c.pull(t, g, blocked)
			if seen.err == nil {
				t.Fatalf("%s pulled an image that is blocked:\n%s", c.name, seen.output)
			}
			r.blocked = shown(g, seen, blocked)
			_, message := g.pull(t, blocked)
			// It ends in the decision's name, and there may be a new decision since.
			reason, _, _ := strings.Cut(message, " (decision ")
			if c.showsReason && !strings.Contains(seen.output, reason) {
				t.Errorf("%s does not show the reason %q:\n%s", c.name, reason, seen.output)
			}
			if !c.showsReason && !strings.Contains(seen.output, c.refused) {
				t.Errorf("%s does not show %q:\n%s", c.name, c.refused, seen.output)
			}
			rows = append(rows, r)
		})
	}
	if path := os.Getenv("TRUSTGATE_E2E_TABLE"); path != "" && !t.Failed() {
		if err := os.WriteFile(path, []byte(table(rows)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHeaders looks at what is beneath the clients: the answers of the gate.
func TestHeaders(t *testing.T) {
	needRoot(t)
	served := trusted(t, the.apps, "headers/served", fromScratch(t))
	annotated := the.build(t, the.apps, "observed/headers", fromScratch(t))
	blocked := the.build(t, the.apps, "headers/unsigned", fromScratch(t))
	g := startGate(t, gateOptions{})

	resp, body := get(t, http.MethodGet, g.url(served, "manifests", served.tag))
	if resp.StatusCode != http.StatusOK || digestOf(body) != served.digest || resp.Header.Get("Docker-Content-Digest") != served.digest {
		t.Errorf("served: %s, %s, %v", resp.Status, digestOf(body), resp.Header)
	}
	if got := resp.Header.Get("TrustGate-Verdict"); got != "serve" {
		t.Errorf("served: verdict %q", got)
	}
	if got := resp.Header.Values("Warning"); len(got) > 0 {
		t.Errorf("served: warnings %q", got)
	}

	for _, method := range []string{http.MethodGet, http.MethodHead} {
		resp, body = get(t, method, g.url(annotated, "manifests", annotated.tag))
		if resp.StatusCode != http.StatusOK || method == http.MethodGet && digestOf(body) != annotated.digest {
			t.Errorf("annotated: %s %s, %s", method, resp.Status, digestOf(body))
		}
		if got := resp.Header.Get("TrustGate-Verdict"); got != "annotate" {
			t.Errorf("annotated: %s: verdict %q", method, got)
		}
		if got := resp.Header.Get("Warning"); !strings.HasPrefix(got, `299 - "`) {
			t.Errorf("annotated: %s: warning %q", method, got)
		}
		if resp.Header.Get("TrustGate-Decision-Id") == "" {
			t.Errorf("annotated: %s: no decision id", method)
		}
	}

	for _, reference := range []string{blocked.tag, blocked.digest} {
		if resp, _ := get(t, http.MethodHead, g.url(blocked, "manifests", reference)); resp.StatusCode < 400 {
			t.Errorf("blocked: HEAD of %s is let through: %s", reference, resp.Status)
		}
		resp, body := get(t, http.MethodGet, g.url(blocked, "manifests", reference))
		if resp.StatusCode != http.StatusForbidden || !strings.Contains(string(body), `"DENIED"`) {
			t.Errorf("blocked: GET of %s: %s: %s", reference, resp.Status, body)
		}
	}
	// Nothing of a blocked image is to be had by going round its manifest.
	index, _ := blocked.registry.manifestOf(t, blocked.repo, blocked.digest)
	child, _ := blocked.registry.manifestOf(t, blocked.repo, index.Manifests[0].Digest)
	for kind, digest := range map[string]string{"manifests": index.Manifests[0].Digest, "blobs": child.Layers[0].Digest} {
		if resp, _ := get(t, http.MethodGet, g.url(blocked, kind, digest)); resp.StatusCode == http.StatusOK {
			t.Errorf("blocked: %s/%s is served", kind, digest)
		}
	}
	if resp, _ := get(t, http.MethodGet, g.url(blocked, "blobs", index.Manifests[0].Digest)); resp.StatusCode == http.StatusOK {
		t.Error("blocked: its manifest is served as a blob")
	}
}

// TestSignatureKinds pulls images that differ only in who signed them how; the
// same program verifies what each real tool wrote.
func TestSignatureKinds(t *testing.T) {
	needRoot(t)
	predicate := func(t *testing.T, of image) string { return the.provenance(t, of) }
	tests := []struct {
		name string
		make func(t *testing.T, repo string) image
	}{
		{"gpg through skopeo, cosign bundle attestation", func(t *testing.T, repo string) image {
			return trusted(t, the.apps, repo, fromScratch(t))
		}},
		{"cosign bundle", func(t *testing.T, repo string) image {
			built := the.build(t, the.apps, repo, fromScratch(t))
			the.signCosign(t, built, the.bundle())
			the.attest(t, built, predicate(t, built), the.bundle())
			return built
		}},
		{"cosign tags", func(t *testing.T, repo string) image {
			built := the.build(t, the.apps, repo, fromScratch(t))
			the.signCosign(t, built, the.legacy())
			the.attest(t, built, predicate(t, built), the.legacy())
			return built
		}},
		{"buildah, gpg through podman, cosign tag attestation", func(t *testing.T, repo string) image {
			source := the.commit(t, repo, fromScratch(t))
			built := the.pushSigned(t, the.buildah(t, the.apps, repo))
			the.attest(t, built, the.handWritten(t, source), the.legacy())
			return built
		}},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			built := test.make(t, "kinds/"+string(rune('a'+i)))
			g := startGate(t, gateOptions{})
			status, message := g.pull(t, built)
			if status != http.StatusOK {
				t.Fatalf("blocked: %s", message)
			}
			resp, _ := get(t, http.MethodGet, g.url(built, "manifests", built.tag))
			if got := resp.Header.Get("TrustGate-Verdict"); got != "serve" {
				t.Fatalf("the verdict is %q: %q", got, resp.Header.Values("Warning"))
			}
			layout := t.TempDir() + "/layout"
			the.run(t, "crane", "pull", "--format", "oci", g.name(built), layout).ok(t)
			verifyLayout(t, layout, built.digest)
		})
	}
}

// TestVerifiersWorkThroughTheGate has the signers' own tools verify what they
// signed, with nothing but the gate to fetch from.
func TestVerifiersWorkThroughTheGate(t *testing.T) {
	needRoot(t)
	g := startGate(t, gateOptions{})

	bundled := the.build(t, the.apps, "verify/bundle", fromScratch(t))
	the.signCosign(t, bundled, the.bundle())
	the.attest(t, bundled, the.provenance(t, bundled), the.bundle())
	tagged := the.build(t, the.apps, "verify/tags", fromScratch(t))
	the.signCosign(t, tagged, the.legacy())
	the.attest(t, tagged, the.provenance(t, tagged), the.legacy())

	verify := []string{"verify", "--key", the.cosign.public, "--insecure-ignore-tlog=true", "--allow-http-registry"}
	kinds := map[string]struct {
		of    image
		flags []string
	}{
		"bundle": {bundled, []string{"--trusted-root", the.cosign.root}},
		"tags":   {tagged, []string{"--new-bundle-format=false"}},
	}
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			args := append(append([]string(nil), verify...), kind.flags...)
			the.run(t, "cosign", append(args, kind.of.pinned())...).ok(t) // the control
			the.run(t, "cosign", append(args, g.pinned(kind.of))...).ok(t)
		})
	}
	t.Run("referrers", func(t *testing.T) {
		seen := the.run(t, "oras", "discover", "--plain-http", "--format", "json", g.name(bundled)).ok(t)
		if !strings.Contains(seen.output, "application/vnd.dev.sigstore.bundle.v0.3+json") {
			t.Errorf("oras discovers no sigstore bundle through the gate:\n%s", seen.output)
		}
	})
}
