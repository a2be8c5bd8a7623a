package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
)

// The newest containers/image library and skopeo by a policy.json, and the gate by what
// 'trustgate policy import' makes of it, take the same images.
func TestImportedPolicyAgreesWithContainersImage(t *testing.T) {
	dir := t.TempDir()
	gpg := func(args ...string) { the.run(t, "gpg", append([]string{"--batch"}, args...)...).ok(t) }
	gpg("--pinentry-mode", "loopback", "--passphrase", "", "--quick-generate-key", "Other <other@trustgate.example>", "rsa3072", "sign", "never")
	other := filepath.Join(dir, "other.asc")
	gpg("--armor", "--output", other, "--export", "other@trustgate.example")

	// Single images: of an index skopeo wants the image in it signed.
	pushed := func(repo string) image { return the.pushSigned(t, the.buildah(t, the.apps, "policyjson/"+repo)) }
	build := func(repo string) image {
		of := pushed(repo)
		the.unsignPGP(t, of)
		return of
	}
	signed, unsigned, strange := pushed("pgp/signed"), build("pgp/unsigned"), pushed("other/signed")
	attached, bare, bundled := build("cosign/signed"), build("cosign/unsigned"), build("cosign/bundled")
	the.signCosign(t, attached, the.legacy())
	the.signCosign(t, bundled, the.bundle())
	open, shut, elsewhere := build("open/unsigned"), build("open/shut"), build("elsewhere")

	at := func(path string) string { return the.apps.addr + "/policyjson/" + path }
	one := func(requirement map[string]any) []any { return []any{requirement} }
	document, err := json.Marshal(map[string]any{
		"default": one(map[string]any{"type": "reject"}),
		"transports": map[string]any{"docker": map[string]any{
			at("pgp"):       one(map[string]any{"type": "signedBy", "keyType": "GPGKeys", "keyPath": the.pgp.keyring}),
			at("other"):     one(map[string]any{"type": "signedBy", "keyType": "GPGKeys", "keyPath": other}),
			at("cosign"):    one(map[string]any{"type": "sigstoreSigned", "keyPath": the.cosign.public, "signedIdentity": map[string]any{"type": "matchRepository"}}),
			at("open"):      one(map[string]any{"type": "insecureAcceptAnything"}),
			at("open/shut"): one(map[string]any{"type": "reject"}),
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	policy := write("policy.json", string(document))
	stores := filepath.Dir(write("registries.d/all.yaml", "default-docker:\n  lookaside: "+the.lookaside()+"\n  use-sigstore-attachments: true\n"))

	imported := filepath.Join(dir, "gate")
	the.run(t, the.trustgate, "policy", "import", "--write", imported, policy).ok(t)
	config, err := os.ReadFile(filepath.Join(imported, "trustgate.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.NewReplacer(
		`"https://`+the.apps.addr+`"`, `"http://`+the.apps.addr+"\"\n    insecure: true\n    hosts: ["+the.apps.host+"]",
		"# lookaside: []", `lookaside: ["`+the.lookaside()+`"]`,
		`"policyjson.rego"`, `"`+filepath.Join(imported, "policyjson.rego")+`"`,
	).Replace(string(config))
	g := launch(t, template.Must(template.New("trustgate.yaml").Parse("listen: {{.Listen}}\nadmin: {{.Admin}}\ndata: {{.Data}}\n"+edited)), map[string]any{})

	for _, tc := range []struct {
		name string
		of   image
		want bool
	}{
		{"signed with OpenPGP", signed, true},
		{"unsigned", unsigned, false},
		{"signed with a key that is not that of its scope", strange, false},
		{"signed with cosign, attached", attached, true},
		{"not signed with cosign", bare, false},
		{"signed with cosign, as a bundle that containers/image does not read", bundled, false},
		{"let in unsigned", open, true},
		{"shut out below what is let in", shut, false},
		{"in no scope", elsewhere, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			library := the.run(t, "imagecopy", "docker://"+tc.of.String(), "oci:"+t.TempDir()+":1", policy, stores)
			if took := library.err == nil; took != tc.want {
				t.Errorf("the library takes it: %t, want %t\n%s", took, tc.want, library.output)
			}
			// Debian's skopeo refuses whatever is to be signed with sigstore.
			if !strings.Contains(tc.of.repo, "/cosign/") {
				direct := the.run(t, "skopeo", "--policy", policy, "--registries.d", stores, "copy", "--remove-signatures", "--src-tls-verify=false",
					"docker://"+tc.of.String(), "dir:"+t.TempDir())
				if took := direct.err == nil; took != tc.want {
					t.Errorf("skopeo takes it: %t, want %t\n%s", took, tc.want, direct.output)
				}
			}
			through := the.run(t, "skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+g.name(tc.of), "dir:"+t.TempDir())
			if took := through.err == nil; took != tc.want {
				t.Errorf("the gate serves it: %t, want %t\n%s", took, tc.want, through.output)
			}
		})
	}
}
