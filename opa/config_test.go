package opa_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/opa"
)

func TestOptionsThatOPADoesNotKnow(t *testing.T) {
	section := map[string]any{
		"services": map[string]any{"acme": map[string]any{"url": "https://acme.example", "hedaers": map[string]any{}}},
		"bundles":  map[string]any{"acme": map[string]any{"service": "acme", "poling": map[string]any{}}},
		"labels":   map[string]any{"what": "ever"},
	}
	found, err := opa.Check(section)
	if err != nil || len(found) != 2 || found[0].Path != "bundles.acme.poling" || found[1].Path != "services.acme.hedaers" {
		t.Errorf("it finds %v, %v", found, err)
	}
	if got := opa.Unsigned(section); len(got) != 1 || got[0] != "bundles.acme" {
		t.Errorf("unsigned are %v", got)
	}
}

func TestConfigurationIsRefused(t *testing.T) {
	services := map[string]any{"acme": map[string]any{"url": "https://acme.example"}}
	for _, tc := range []struct {
		name, want string
		section    map[string]any
	}{
		{"a service that is not there", `service name "other" not found`, map[string]any{"services": services, "bundles": map[string]any{"a": map[string]any{"service": "other"}}}},
		{"a key that is not there", "key id k not found", map[string]any{"services": services, "bundles": map[string]any{"a": map[string]any{"signing": map[string]any{"keyid": "k"}}}}},
		{"a key that is no key", "neither a public key in PEM nor a file", map[string]any{"keys": map[string]any{"k": map[string]any{"key": "k.pem"}}}},
		{"a bundle that would lie elsewhere", "is no name of a bundle", map[string]any{"services": services, "bundles": map[string]any{"../../x": map[string]any{}}}},
		{"a form of old", "write bundles", map[string]any{"services": services, "bundle": map[string]any{"name": "a"}}},
		{"a log to nowhere", `service name "other"`, map[string]any{"services": services, "decision_logs": map[string]any{"service": "other"}}},
		{"two kinds of polling", "trigger", map[string]any{"services": services, "bundles": map[string]any{"a": map[string]any{"trigger": "sometimes"}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := opa.Read(tc.section, t.TempDir(), t.TempDir())
			if err == nil {
				err = c.Validate()
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("it says %v, want %q", err, tc.want)
			}
		})
	}
}

// TestFilesAndEnvironment: a token and a key lie beside the configuration, and the
// server's address comes from outside.
func TestFilesAndEnvironment(t *testing.T) {
	shelf, folder, acme := newShelf(t), t.TempDir(), newKey(t)
	shelf.put("acme.tar.gz", build(t, "one", map[string]string{"acme/rule.rego": rule("acme.one")}, acme.sign))
	shelf.token = "Bearer not for everybody"
	t.Setenv("OPA_TEST_SHELF", shelf.URL)
	for name, content := range map[string]string{"token": "not for everybody", "acme.pub": acme.public} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	section := signed(shelf.section(nil), key{public: "acme.pub"})
	section["services"] = map[string]any{"shelf": map[string]any{
		"url":         "${OPA_TEST_SHELF}",
		"credentials": map[string]any{"bearer": map[string]any{"token_path": "token"}},
	}}
	fetched, err := opa.Fetch(t.Context(), options(t, section, folder))
	if err != nil {
		t.Fatal(err)
	}
	if got := codes(t, fetched.Bundles); got != "acme.one" {
		t.Errorf("it has the rules %s", got)
	}
}
