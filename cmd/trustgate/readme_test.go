package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/internal/shipyard"
)

// TestReadme holds the README to what the program does: its configuration and
// its rule pass the check that it tells people to run.
func TestReadme(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, content []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ci, err := shipyard.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := ci.PublicPEM()
	if err != nil {
		t.Fatal(err)
	}
	release, err := shipyard.NewPGP("Release", "release@acme.example")
	if err != nil {
		t.Fatal(err)
	}
	keyring, err := release.Public()
	if err != nil {
		t.Fatal(err)
	}
	write("keys/ci.pub", public)
	write("keys/release.asc", keyring)
	write("rules/acme.rego", block(t, raw, "rego"))

	// The certificate and the credentials are the reader's own.
	config := regexp.MustCompile(`(?m)^(tls| +credentials): .*\n`).ReplaceAll(block(t, raw, "yaml"), nil)
	write("trustgate.yaml", append(config, "policy: {paths: [rules/]}\n"...))
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"config", "check", filepath.Join(dir, "trustgate.yaml")}, strings.NewReader(""), &stdout, &stderr); code != exitServed {
		t.Fatalf("the README's configuration does not pass the check:\n%s%s", &stdout, &stderr)
	}
	if !strings.Contains(stdout.String(), "2 routes, 2 signers") {
		t.Errorf("got %s", &stdout)
	}
}

// block is the first fenced block of a language.
func block(t *testing.T, markdown []byte, language string) []byte {
	t.Helper()
	found := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindSubmatch(markdown)
	if found == nil {
		t.Fatalf("the README has no %s block", language)
	}
	return found[1]
}
