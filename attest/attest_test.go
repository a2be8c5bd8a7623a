package attest_test

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/trustgate/trustgate/attest"
	"github.com/trustgate/trustgate/oci"
)

var subject = oci.Descriptor{MediaType: oci.MediaTypeImageManifest, Digest: digest.FromString("the manifest"), Size: 12}

func summary() attest.Summary {
	return attest.Summary{
		Subject: subject, Resource: "registry.example/app:1@" + subject.Digest.String(), Verifier: "https://gate.example", Version: "1",
		Time: time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC), Policy: digest.FromString("rules"), Decision: "tg-1", Input: digest.FromString("input"),
		Passed: true, Level: attest.Level2, Parents: map[string]int{attest.Level1: 2},
	}
}

// TestAttest has sigstore-go, which is not what wrote the bundle, check it.
func TestAttest(t *testing.T) {
	key, err := attest.OpenKey(filepath.Join(t.TempDir(), "gate.key"))
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := key.Attest(t.Context(), summary().Statement())
	if err != nil {
		t.Fatal(err)
	}
	m := artifact.Manifest
	if m.Kind != oci.KindEvidence || m.Subject == nil || m.Subject.Digest != subject.Digest || m.Subject.Size != subject.Size ||
		m.ArtifactType != "application/vnd.dev.sigstore.bundle.v0.3+json" ||
		m.Layers[0].Digest != digest.FromBytes(artifact.Bundle) || m.Config.Digest != digest.FromBytes(artifact.Config) {
		t.Errorf("the manifest is %s", m.Raw)
	}

	statement := verified(t, key, artifact.Bundle, subject.Digest)
	var got struct {
		PredicateType string
		Predicate     map[string]any
	}
	if err := json.Unmarshal(statement, &got); err != nil {
		t.Fatal(err)
	}
	if got.PredicateType != attest.SummaryType || got.Predicate["verificationResult"] != "PASSED" ||
		got.Predicate["timeVerified"] != "2026-11-02T03:04:05Z" || got.Predicate["resourceUri"] != summary().Resource {
		t.Errorf("the statement is %s", statement)
	}

	again, err := key.Attest(t.Context(), summary().Statement())
	if err != nil || !bytes.Equal(again.Manifest.Raw, m.Raw) || !bytes.Equal(again.Bundle, artifact.Bundle) {
		t.Errorf("the same verdict gave other bytes: %v", err)
	}

	failed := summary()
	failed.Passed = false
	artifact, err = key.Attest(t.Context(), failed.Statement())
	if err != nil {
		t.Fatal(err)
	}
	if statement := string(verified(t, key, artifact.Bundle, subject.Digest)); !strings.Contains(statement, `"FAILED"`) || strings.Contains(statement, attest.Level2) {
		t.Errorf("a block claims %s", statement)
	}
}

func verified(t *testing.T, key *attest.Key, raw []byte, d digest.Digest) []byte {
	t.Helper()
	b := new(bundle.Bundle)
	if err := b.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(key.PublicPEM())
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
		return root.NewExpiringKey(verifier, time.Time{}, time.Time{}), nil
	})
	v, err := verify.NewVerifier(material, verify.WithNoObserverTimestamps())
	if err != nil {
		t.Fatal(err)
	}
	sum, err := hex.DecodeString(d.Encoded())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(b, verify.NewPolicy(verify.WithArtifactDigest("sha256", sum), verify.WithKey())); err != nil {
		t.Fatal(err)
	}
	return b.GetDsseEnvelope().GetPayload()
}

func TestOpenKey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "data", "gate.key")

	// Gates that start at once on one folder come to have one key.
	keys := make([]*attest.Key, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			key, err := attest.OpenKey(path)
			if err != nil {
				t.Error(err)
				return
			}
			keys[i] = key
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, key := range keys[1:] {
		if !bytes.Equal(key.PublicPEM(), keys[0].PublicPEM()) {
			t.Fatal("they have different keys")
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the private key is %v, %v", info.Mode(), err)
	}
	if public, err := os.ReadFile(path + ".pub"); err != nil || !bytes.Equal(public, keys[0].PublicPEM()) {
		t.Errorf("the public key beside it: %v\n%s", err, public)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 2 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}

	for name, content := range map[string]string{
		"not a key":    "hello",
		"a public key": string(keys[0].PublicPEM()),
		"empty":        "",
		"too long":     strings.Repeat("x", 1<<17),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "gate.key")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := attest.OpenKey(path); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v", err)
			}
			if raw, _ := os.ReadFile(path); string(raw) != content {
				t.Error("the file was written over")
			}
		})
	}
}
