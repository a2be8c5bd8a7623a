package openpgp_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence/openpgp"
)

// home is a GnuPG home of its own.
type home struct {
	t   *testing.T
	dir string
}

func newHome(t *testing.T) home {
	t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Skip("gpg is not installed")
	}
	// The agent's socket must fit into 108 bytes, which t.TempDir may not.
	dir, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	h := home{t, dir}
	t.Cleanup(func() {
		kill := exec.Command("gpgconf", "--kill", "all")
		kill.Env = h.env()
		kill.Run()
		os.RemoveAll(dir)
	})
	return h
}

func (h home) env() []string { return append(os.Environ(), "GNUPGHOME="+h.dir, "LC_ALL=C") }

// gpg runs gpg with input on stdin and returns its stdout.
func (h home) gpg(input string, args ...string) []byte {
	h.t.Helper()
	cmd := exec.Command("gpg", append([]string{"--batch", "--yes", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""}, args...)...)
	cmd.Env, cmd.Stdin = h.env(), strings.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("gpg %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return out
}

// newKey makes a key and returns its fingerprint.
func (h home) newKey(who, algorithm, usage, expires string, more ...string) string {
	h.t.Helper()
	h.gpg("", append(more, "--quick-generate-key", who, algorithm, usage, expires)...)
	for line := range strings.Lines(string(h.gpg("", "--with-colons", "--list-keys", who))) {
		if fields := strings.Split(line, ":"); fields[0] == "fpr" {
			return fields[9]
		}
	}
	h.t.Fatalf("no key of %s", who)
	return ""
}

func (h home) signer(who ...string) openpgp.Signer {
	h.t.Helper()
	signer, err := openpgp.LoadSigner("release", h.gpg("", append([]string{"--armor", "--export"}, who...)...))
	if err != nil {
		h.t.Fatal(err)
	}
	return signer
}

// TestGPG verifies what the real program signs, in the ways that it signs.
func TestGPG(t *testing.T) {
	h := newHome(t)
	h.newKey("ed25519@example.com", "ed25519", "sign", "never")
	h.newKey("rsa@example.com", "rsa2048", "sign", "1y")
	h.newKey("nist@example.com", "nistp384", "sign", "never")
	subkeys := h.newKey("sub@example.com", "ed25519", "cert", "never")
	h.gpg("", "--quick-add-key", subkeys, "ed25519", "sign", "1y")
	fpr := h.newKey("encrypts@example.com", "ed25519", "sign", "never")
	h.gpg("", "--quick-add-key", fpr, "cv25519", "encr")
	weak := h.newKey("dsa@example.com", "dsa2048", "sign", "never")
	signer := h.signer()
	body := payload(image, "example.com/app:1")

	for name, tc := range map[string]struct {
		args []string
		says string // "" when it verifies
	}{
		"Ed25519":            {args: []string{"--local-user", "ed25519@example.com", "--sign"}},
		"RSA":                {args: []string{"--local-user", "rsa@example.com", "--sign"}},
		"P-384":              {args: []string{"--local-user", "nist@example.com", "--sign"}},
		"signing subkey":     {args: []string{"--local-user", "sub@example.com", "--sign"}},
		"SHA-512":            {args: []string{"--local-user", "rsa@example.com", "--digest-algo", "SHA512", "--sign"}},
		"uncompressed":       {args: []string{"--local-user", "rsa@example.com", "-z", "0", "--sign"}},
		"ZIP":                {args: []string{"--local-user", "rsa@example.com", "--compress-algo", "zip", "--sign"}},
		"ZLIB":               {args: []string{"--local-user", "rsa@example.com", "--compress-algo", "zlib", "--sign"}},
		"BZIP2":              {args: []string{"--local-user", "rsa@example.com", "--compress-algo", "bzip2", "--sign"}},
		"that expires":       {args: []string{"--local-user", "rsa@example.com", "--default-sig-expire", "1d", "--sign"}},
		"SHA-1":              {args: []string{"--local-user", "rsa@example.com", "--digest-algo", "SHA1", "--sign"}, says: "made with SHA-1"},
		"RIPEMD-160":         {args: []string{"--local-user", "rsa@example.com", "--digest-algo", "RIPEMD160", "--sign"}, says: "made with RIPEMD-160"},
		"DSA":                {args: []string{"--local-user", weak, "--sign"}, says: "the key is a DSA key, which is too weak"},
		"armored":            {args: []string{"--local-user", "rsa@example.com", "--armor", "--sign"}, says: "image signatures are binary"},
		"clear-signed":       {args: []string{"--local-user", "rsa@example.com", "--clear-sign"}, says: "a clear-signed text"},
		"detached":           {args: []string{"--local-user", "rsa@example.com", "--detach-sign"}, says: "a detached signature"},
		"text mode":          {args: []string{"--local-user", "rsa@example.com", "--textmode", "--sign"}, says: "type 0x01"},
		"two keys":           {args: []string{"--local-user", "rsa@example.com", "--local-user", "ed25519@example.com", "--sign"}, says: "more than one signature"},
		"signed, encrypted":  {args: []string{"--local-user", fpr, "--trust-model", "always", "--recipient", fpr, "--sign", "--encrypt"}, says: "it is encrypted"},
		"stored, not signed": {args: []string{"--store"}, says: "it is not signed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openpgp.Verify(h.gpg(body, tc.args...), image, []openpgp.Signer{signer}, time.Now().Add(time.Minute))
			if tc.says == "" {
				if !s.By.Verified() || s.Reference != "example.com/app:1" || time.Since(s.SignedAt).Abs() > time.Hour {
					t.Errorf("got %+v", s)
				}
				if (name == "that expires") == s.ExpiresAt.IsZero() {
					t.Errorf("expires at %s", s.ExpiresAt)
				}
				return
			}
			if s.By.Verified() || !strings.Contains(s.Err, tc.says) {
				t.Errorf("verified %v, says %q, want it to say %q", s.By.Verified(), s.Err, tc.says)
			}
		})
	}
}

// TestGPGExtended follows one key through its life: what it signed stops
// counting when it expires, and counts again when its owner extends it, which
// gpg writes down in a self-signature that is newer than what was signed.
func TestGPGExtended(t *testing.T) {
	h := newHome(t)
	then := []string{"--faked-system-time", "20240101T120000!"}
	fpr := h.newKey("release@example.com", "ed25519", "sign", "1y", then...)
	raw := h.gpg(payload(image, "example.com/app:1"), append(then, "--local-user", fpr, "--sign")...)
	soon, late := time.Date(2024, 6, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

	signer := h.signer(fpr)
	if s := openpgp.Verify(raw, image, []openpgp.Signer{signer}, soon); !s.By.Verified() {
		t.Errorf("while the key lives: %s", s.Err)
	}
	if s := openpgp.Verify(raw, image, []openpgp.Signer{signer}, late); s.By.Verified() || !strings.Contains(s.Err, "expired on 2024-12-31") {
		t.Errorf("after it expired: %+v", s)
	}
	// What was asked last must not change what is answered next.
	if s := openpgp.Verify(raw, image, []openpgp.Signer{signer}, soon); !s.By.Verified() {
		t.Errorf("asked again: %s", s.Err)
	}

	h.gpg("", "--faked-system-time", "20260101T120000!", "--quick-set-expire", fpr, "2y")
	signer = h.signer(fpr)
	if s := openpgp.Verify(raw, image, []openpgp.Signer{signer}, late); !s.By.Verified() {
		t.Errorf("after its owner extended it: %s", s.Err)
	}

	revocation, err := os.ReadFile(filepath.Join(h.dir, "openpgp-revocs.d", fpr+".rev"))
	if err != nil {
		t.Fatal(err)
	}
	// gpg puts a colon before the armor, so that nobody imports it by accident.
	h.gpg(strings.Replace(string(revocation), ":-----BEGIN", "-----BEGIN", 1), "--import")
	if s := openpgp.Verify(raw, image, []openpgp.Signer{h.signer(fpr)}, late); s.By.Verified() || !strings.Contains(s.Err, "was revoked") {
		t.Errorf("after it was revoked: %+v", s)
	}
}

// TestSkopeo verifies what skopeo signs.
func TestSkopeo(t *testing.T) {
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is not installed")
	}
	h := newHome(t)
	fpr := h.newKey("release@example.com", "rsa2048", "sign", "never")
	manifest := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`)
	file := filepath.Join(h.dir, "manifest.json")
	if err := os.WriteFile(file, manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(h.dir, "signature-1")
	cmd := exec.Command("skopeo", "standalone-sign", file, "docker.io/library/app:1", fpr, "-o", out)
	cmd.Env = h.env()
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	s := openpgp.Verify(raw, digest.FromBytes(manifest), []openpgp.Signer{h.signer(fpr)}, time.Now().Add(time.Minute))
	if !s.By.Verified() || s.By.Signer().Fingerprint != fpr || s.Reference != "docker.io/library/app:1" {
		t.Errorf("got %+v", s)
	}
	if fits := s.Matches(repository(t, "app:1").WithDigest(digest.FromBytes(manifest))); fits == nil || !*fits {
		t.Error("it does not match the name that it was signed for")
	}
	if fits := s.Matches(repository(t, "app:2")); fits == nil || *fits {
		t.Error("it matches another tag")
	}
}
