package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"context"
)

// pgpKey is the release team's OpenPGP key.
type pgpKey struct {
	fingerprint string
	keyring     string // the public key, armored
}

// cosignKey is the build system's cosign key pair, and what cosign needs to
// work without a network.
type cosignKey struct {
	private, public string
	signing, root   string // a signing configuration and a trusted root without services
}

// makeKeys has gpg and cosign generate a key each.
func (w *world) makeKeys() error {
	ctx := context.Background()
	steps := func(program string, args ...string) (string, error) {
		o := run(ctx, w.dir, w.env, w.path(program), args...)
		if o.err != nil {
			return "", fmt.Errorf("%s: %w\n%s", o.command, o.err, o.output)
		}
		return o.output, nil
	}
	if _, err := steps("gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", "",
		"--quick-generate-key", "Release <release@trustgate.example>", "rsa3072", "sign", "never"); err != nil {
		return err
	}
	listing, err := steps("gpg", "--batch", "--with-colons", "--list-keys")
	if err != nil {
		return err
	}
	found := regexp.MustCompile(`(?m)^fpr:+([0-9A-F]{40}):`).FindStringSubmatch(listing)
	if found == nil {
		return fmt.Errorf("gpg lists no fingerprint:\n%s", listing)
	}
	w.pgp = pgpKey{fingerprint: found[1], keyring: filepath.Join(w.dir, "release.asc")}
	if _, err := steps("gpg", "--batch", "--armor", "--output", w.pgp.keyring, "--export", w.pgp.fingerprint); err != nil {
		return err
	}

	w.cosign = cosignKey{
		private: filepath.Join(w.dir, "ci.key"), public: filepath.Join(w.dir, "ci.pub"),
		signing: filepath.Join(w.dir, "signing-config.json"), root: filepath.Join(w.dir, "trusted-root.json"),
	}
	for _, args := range [][]string{
		{"generate-key-pair", "--output-key-prefix", filepath.Join(w.dir, "ci")},
		{"signing-config", "create", "--out", w.cosign.signing},
		{"trusted-root", "create", "--out", w.cosign.root},
	} {
		if _, err := steps("cosign", args...); err != nil {
			return err
		}
	}
	return nil
}

// containersConfig tells podman, buildah and skopeo where signatures go and
// that they need none themselves: it is the gate that is to refuse.
func (w *world) containersConfig() error {
	config := filepath.Join(w.dir, "home", ".config", "containers")
	lookaside := w.lookaside()
	for name, content := range map[string]string{
		"policy.json":           `{"default": [{"type": "insecureAcceptAnything"}]}`,
		"registries.conf":       "unqualified-search-registries = []\n",
		"registries.d/e2e.yaml": fmt.Sprintf("default-docker:\n  lookaside: %s\n  lookaside-staging: %s\n", lookaside, lookaside),
		"containers.conf":       "[engine]\nevents_logger = \"none\"\ncgroup_manager = \"cgroupfs\"\n",
	} {
		if err := os.WriteFile(filepath.Join(config, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// lookaside is the URL of the OpenPGP signature store.
func (w *world) lookaside() string { return "file://" + filepath.Join(w.dir, "lookaside") }

// signatureFile is where a lookaside store keeps the first signature of an
// image: the host is no part of the path.
func (w *world) signatureFile(of image) string {
	return filepath.Join(w.dir, "lookaside", of.repo+"@"+strings.Replace(of.digest, ":", "=", 1), "signature-1")
}

// signPGP signs the image's tag with gpg, through skopeo.
func (w *world) signPGP(t testing.TB, of image) {
	t.Helper()
	_, raw := of.registry.manifestOf(t, of.repo, of.digest)
	manifest := filepath.Join(t.TempDir(), "manifest.json")
	if err := os.WriteFile(manifest, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	signature := w.signatureFile(of)
	if err := os.MkdirAll(filepath.Dir(signature), 0o755); err != nil {
		t.Fatal(err)
	}
	w.run(t, "skopeo", "standalone-sign", manifest, of.String(), w.pgp.fingerprint, "--output", signature).ok(t)
}

// unsignPGP takes the image's OpenPGP signatures away.
func (w *world) unsignPGP(t testing.TB, of image) {
	t.Helper()
	if err := os.RemoveAll(filepath.Dir(w.signatureFile(of))); err != nil {
		t.Fatal(err)
	}
}

// pushSigned has podman push a local image and sign it with gpg as it goes.
func (w *world) pushSigned(t testing.TB, built image) image {
	t.Helper()
	digest := filepath.Join(t.TempDir(), "digest")
	w.run(t, "podman", append(w.storage(), "push", "--tls-verify=false", "--sign-by", w.pgp.fingerprint,
		"--digestfile", digest, built.String())...).ok(t)
	raw, err := os.ReadFile(digest)
	if err != nil {
		t.Fatal(err)
	}
	built.digest = strings.TrimSpace(string(raw))
	return built
}

// bundle are cosign's flags for sigstore bundles, which is what it writes today.
func (w *world) bundle() []string {
	return []string{"--yes", "--key", w.cosign.private, "--allow-http-registry", "--signing-config", w.cosign.signing, "--trusted-root", w.cosign.root}
}

// legacy are cosign's flags for the .sig and .att tags that it wrote before.
func (w *world) legacy() []string {
	return []string{"--yes", "--key", w.cosign.private, "--allow-http-registry", "--tlog-upload=false", "--use-signing-config=false", "--new-bundle-format=false"}
}

// signCosign signs the image with the build system's key.
func (w *world) signCosign(t testing.TB, of image, format []string) {
	t.Helper()
	w.run(t, "cosign", append(append([]string{"sign"}, format...), of.pinned())...).ok(t)
}

// attest repeats a provenance predicate under the build system's signature.
func (w *world) attest(t testing.TB, of image, predicate string, format []string) {
	t.Helper()
	args := append([]string{"attest", "--type", "slsaprovenance1", "--predicate", predicate}, format...)
	w.run(t, "cosign", append(args, of.pinned())...).ok(t)
}
