package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/trustgate/trustgate/internal/shipyard"
)

// A gate by an imported policy.json lets in of real images what the policy.json lets in.
func TestImportedPolicyJudgesAsPolicyJSONDoes(t *testing.T) {
	folder := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	registry, err := shipyard.OpenRegistry(t.Context(), nil)
	must(err)
	defer registry.Close()
	release, err := shipyard.NewPGP("Release", "release@acme.example")
	must(err)
	stranger, err := shipyard.NewPGP("Stranger", "stranger@evil.example")
	must(err)
	ci, err := shipyard.NewKey()
	must(err)
	other, err := shipyard.NewKey()
	must(err)
	keyring, err := release.Public()
	must(err)
	public, err := ci.PublicPEM()
	must(err)
	write := func(name string, content []byte) string {
		path := filepath.Join(folder, name)
		must(os.WriteFile(path, content, 0o600))
		return path
	}
	image := func(repository string) *shipyard.Image {
		built, err := shipyard.Build(nil, map[string]string{"about": repository})
		must(err)
		pushed, err := registry.Push(t.Context(), repository, "1", built)
		must(err)
		return pushed
	}
	lookaside := shipyard.Lookaside{Folder: filepath.Join(folder, "lookaside")}

	good, strange, elsewhere := image("pgp/good"), image("pgp/strange"), image("pgp/elsewhere")
	must(lookaside.Sign(release, good))
	must(lookaside.Sign(stranger, strange))
	must(lookaside.SignAs(release, elsewhere, registry.Addr+"/pgp/good:1"))
	mapped := image("mirror/app")
	must(lookaside.SignAs(release, mapped, "vendor.example/app:1"))
	attached, foreign := image("cosign/good"), image("cosign/strange")
	must(registry.Sign(t.Context(), ci, attached))
	must(registry.Sign(t.Context(), other, foreign))
	held := image("held/good")
	must(registry.Sign(t.Context(), ci, held))
	for _, repository := range []string{"pgp/none", "cosign/none", "free/none", "free/shut", "elsewhere/none"} {
		image(repository)
	}
	at := func(path string) string { return registry.Addr + "/" + path }
	document, err := json.Marshal(map[string]any{
		"default": []any{map[string]any{"type": "reject"}},
		"transports": map[string]any{
			"containers-storage": map[string]any{"": []any{map[string]any{"type": "insecureAcceptAnything"}}},
			"docker": map[string]any{
				at("pgp"): []any{map[string]any{"type": "signedBy", "keyType": "GPGKeys", "keyPath": write("release.asc", keyring)}},
				at("mirror"): []any{map[string]any{
					"type": "signedBy", "keyType": "GPGKeys", "keyPath": filepath.Join(folder, "release.asc"),
					"signedIdentity": map[string]any{"type": "remapIdentity", "prefix": at("mirror"), "signedPrefix": "vendor.example"},
				}},
				at("cosign"): []any{map[string]any{
					"type": "sigstoreSigned", "keyPath": write("ci.pub", public), "signedIdentity": map[string]any{"type": "matchRepository"},
				}},
				at("held"): []any{map[string]any{
					"type": "sigstoreSigned", "keyData": base64.StdEncoding.EncodeToString(public), "signedIdentity": map[string]any{"type": "matchRepository"},
				}},
				at("free"):      []any{map[string]any{"type": "insecureAcceptAnything"}},
				at("free/shut"): []any{map[string]any{"type": "reject"}},
			},
		},
	})
	must(err)
	t.Setenv("TRUSTGATE_CONFIG", "")
	gate := filepath.Join(folder, "gate")
	trustgate := func(args ...string) (code int, output string) {
		var b bytes.Buffer
		code = run(t.Context(), args, strings.NewReader(""), &b, &b)
		return code, b.String()
	}
	if code, output := trustgate("policy", "import", "--write", gate, write("policy.json", document)); code != exitServed {
		t.Fatalf("importing ends with %d:\n%s", code, output)
	}
	config := filepath.Join(gate, "trustgate.yaml")
	yaml, err := os.ReadFile(config)
	must(err)
	// What no policy.json knows: that this registry has no TLS, and where signatures lie.
	edited := strings.NewReplacer(
		`"https://`+registry.Addr+`"`, `"http://`+registry.Addr+"\"\n    insecure: true",
		"# lookaside: []", "lookaside: [\"file://"+lookaside.Folder+"\"]",
	).Replace(string(yaml))
	must(os.WriteFile(config, []byte("data: "+filepath.Join(folder, "data")+"\n"+edited), 0o600))
	if code, output := trustgate("config", "check", config); code != exitServed || !regexp.MustCompile(`ok .*: 1 routes, 2 signers, 2 rules`).MatchString(output) {
		t.Fatalf("checking what was imported ends with %d:\n%s\n%s", code, output, edited)
	}
	for repository, want := range map[string]int{
		"pgp/good": exitServed, "pgp/strange": exitBlocked, "pgp/elsewhere": exitBlocked, "pgp/none": exitBlocked,
		"mirror/app":  exitServed,
		"cosign/good": exitServed, "cosign/strange": exitBlocked, "cosign/none": exitBlocked,
		"held/good": exitServed,
		"free/none": exitServed, "free/shut": exitBlocked, "elsewhere/none": exitBlocked,
	} {
		if code, output := trustgate("-c", config, "policy", "eval", at(repository)+":1"); code != want {
			t.Errorf("%s ends with %d, want %d:\n%s", repository, code, want, output)
		}
	}
	if code, output := trustgate("policy", "import", "--write", gate, filepath.Join(folder, "policy.json")); code != exitError || !strings.Contains(output, "is there already") {
		t.Errorf("importing over an edited configuration ends with %d:\n%s", code, output)
	}
	if _, err := os.Stat(filepath.Join(gate, "keys")); err == nil {
		t.Error("a key that a file has is written once more")
	}
	if code, output := trustgate("policy", "import", filepath.Join(folder, "policy.json")); code != exitServed || !strings.Contains(output, "--write FOLDER") {
		t.Errorf("printing it ends with %d:\n%s", code, output)
	}
	ownKey := write("own.json", []byte(`{"default": [{"type": "sigstoreSigned", "keyData": "`+base64.StdEncoding.EncodeToString(public)+`"}]}`))
	if code, output := trustgate("policy", "import", ownKey); code != exitError || !strings.Contains(output, "--write FOLDER") {
		t.Errorf("printing where a key has to be written ends with %d:\n%s", code, output)
	}
	if code, output := trustgate("policy", "import", "--write", filepath.Join(folder, "own"), ownKey); code != exitServed {
		t.Errorf("writing a key ends with %d:\n%s", code, output)
	}
	if code, output := trustgate("config", "check", filepath.Join(folder, "own", "trustgate.yaml")); code != exitServed {
		t.Errorf("checking what has a key of its own ends with %d:\n%s", code, output)
	}
}

// Certificates and logs that policy.json names become signers that load.
func TestImportedCertificatesLoad(t *testing.T) {
	folder := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Acme CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, self, self, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	log, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"ca.pem":    {Type: "CERTIFICATE", Bytes: certificate},
		"rekor.pub": {Type: "PUBLIC KEY", Bytes: log},
	} {
		if err := os.WriteFile(filepath.Join(folder, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	document := `{"default": [
		{"type": "sigstoreSigned", "rekorPublicKeyPath": "` + folder + `/rekor.pub",
		 "fulcio": {"caPath": "` + folder + `/ca.pem", "oidcIssuer": "https://login.acme.example/", "subjectEmail": "build@acme.example"}},
		{"type": "sigstoreSigned", "pki": {"caRootsPath": "` + folder + `/ca.pem", "subjectEmail": "build@acme.example"}}
	]}`
	if err := os.WriteFile(filepath.Join(folder, "policy.json"), []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TRUSTGATE_CONFIG", "")
	var output bytes.Buffer
	gate := filepath.Join(folder, "gate")
	for _, args := range [][]string{
		{"policy", "import", "--write", gate, filepath.Join(folder, "policy.json")},
		{"config", "check", filepath.Join(gate, "trustgate.yaml")},
	} {
		if code := run(t.Context(), args, strings.NewReader(""), &output, &output); code != exitServed {
			t.Fatalf("%v ends with %d:\n%s", args, code, &output)
		}
	}
	if !strings.Contains(output.String(), "6 routes, 2 signers, 2 rules") {
		t.Errorf("it says\n%s", &output)
	}
}
