package config_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
)

// TestStamp: what a running gate has to read again changes the stamp, and what it
// writes itself does not.
func TestStamp(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		// Two writes within the clock's grain must differ.
		at := time.Now().Add(time.Duration(len(content)) * time.Second)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write("t.yaml", "data: data\nroutes: [{registry: a.example, upstream: https://a.example}]\npolicy: {paths: [rules], data: [data.yaml]}\nclients: {htpasswd: users}\n")
	write("rules/a/a.rego", "package trustgate.policies.a\n")
	write("data.yaml", "a: 1\n")
	write("users", "")
	cfg, err := config.Load(filepath.Join(dir, "t.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	last := cfg.Stamp()
	for _, name := range []string{"t.yaml", "rules/a/a.rego", "rules/b.rego", "data.yaml", "users"} {
		write(name, name+" has changed")
		if now := cfg.Stamp(); now == last {
			t.Errorf("%s has changed, and the stamp has not", name)
		} else {
			last = now
		}
	}
	write("data/ledger.db", "grows")
	write("data/clients.key", "grows")
	if cfg.Stamp() != last {
		t.Error("what the gate writes changes the stamp")
	}
	if err := os.Remove(filepath.Join(dir, "rules/b.rego")); err != nil {
		t.Fatal(err)
	}
	if cfg.Stamp() == last {
		t.Error("a file that is gone does not change the stamp")
	}
}
