package opa_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/open-policy-agent/opa/v1/compile"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/opa"
	"github.com/trustgate/trustgate/policies"
)

func TestBundleOverHTTPIsFollowed(t *testing.T) {
	t.Parallel()
	shelf := newShelf(t)
	shelf.put("acme.tar.gz", build(t, "one", map[string]string{
		"acme/rule.rego": rule("acme.one"),
		"data.json":      `{"trustgate": {"config": {"rules": {"acme": {"since": 2020}}}}, "teams": {"a": ["x"]}}`,
	}))
	r := start(t, options(t, shelf.section(nil), t.TempDir()))
	await(t, r)
	b := r.Current()
	if got := codes(t, b); got != "acme.one" || b.Revisions["acme"] != "one" {
		t.Errorf("it has the rules %s and the revisions %v", got, b.Revisions)
	}
	if _, ok := b.Data["teams"]; !ok || b.Data["system"] != nil {
		t.Errorf("its data are %v", b.Data)
	}
	until(t, "the server says that nothing has changed", func() bool { return shelf.unchanged() > 0 })

	shelf.put("acme.tar.gz", build(t, "two", map[string]string{"acme/rule.rego": rule("acme.two")}))
	until(t, "the next bundle comes", func() bool { return r.Current() != b })
	if got := codes(t, r.Current()); got != "acme.two" || r.Current().Revisions["acme"] != "two" {
		t.Errorf("then it has the rules %s and the revisions %v", got, r.Current().Revisions)
	}
	if trouble := r.Trouble(); trouble != "" {
		t.Errorf("something is wrong: %s", trouble)
	}
}

func TestBrokenBundleIsRefusedAndTheOneBeforeStays(t *testing.T) {
	t.Parallel()
	good := build(t, "good", map[string]string{"acme/rule.rego": rule("acme.one")})
	for _, tc := range []struct {
		name, want string
		bundle     func(t *testing.T) []byte
	}{
		{"masking that reaches the network", "http.send in package system.log", func(t *testing.T) []byte {
			return build(t, "bad", map[string]string{
				"acme/rule.rego": rule("acme.two"),
				"log/mask.rego":  "package system.log\n\nmask contains \"/input\" if http.send({\"method\": \"GET\", \"url\": \"http://evil.example\"}).status_code == 200\n",
			})
		}},
		{"the decision itself", "belongs to TrustGate", func(t *testing.T) []byte {
			return build(t, "bad", map[string]string{"acme/rule.rego": rule("acme.two"), "x.rego": "package trustgate\n\ndecision := {\"action\": \"serve\"}\n"})
		}},
		{"WebAssembly", "only Rego can be checked", func(t *testing.T) []byte {
			return build(t, "bad", map[string]string{"acme/rule.rego": rule("acme.two")}, func(c *compile.Compiler) *compile.Compiler {
				return c.WithTarget("wasm").WithEntrypoints("trustgate/policies/acme/deny")
			})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			shelf := newShelf(t)
			shelf.put("acme.tar.gz", good)
			o := options(t, shelf.section(map[string]any{"status": map[string]any{"service": "shelf"}}), t.TempDir())
			r := start(t, o)
			await(t, r)
			r.InForce("sha256:one", nil)
			before := r.Current()
			shelf.put("acme.tar.gz", tc.bundle(t))
			until(t, "it is refused", func() bool { return strings.Contains(r.Trouble(), tc.want) })
			if r.Current() != before {
				t.Error("another policy took its place")
			}
			until(t, "OPA's status says so", func() bool {
				var body string
				select {
				case got := <-shelf.posted:
					body = string(got.body)
				case <-time.After(time.Second):
				}
				return strings.Contains(body, "what the server has is not in force") && strings.Contains(body, `"code":"bundle_error"`)
			})
			if got := metric(t, o, "trustgate_policy_bundles_in_force"); got != 0 {
				t.Errorf("the gauge is %v", got)
			}

			shelf.put("acme.tar.gz", build(t, "better", map[string]string{"acme/rule.rego": rule("acme.three")}))
			until(t, "a better one is taken", func() bool { return r.Current() != before })
			until(t, "all is well again", func() bool { return r.Trouble() == "" && metric(t, o, "trustgate_policy_bundles_in_force") == 1 })
		})
	}
}

// TestBundleCallsTheShippedLibrary: opa build wants the functions, the gate has its
// own.
func TestBundleCallsTheShippedLibrary(t *testing.T) {
	t.Parallel()
	files := map[string]string{"acme/rule.rego": strings.Replace(rule("acme.one"), `not startswith(input.image.repository, "acme/")`, "count(data.trustgate.lib.vouched(input.attestations)) == 0", 1)}
	names, err := fs.Glob(policies.Files, "lib/*.rego")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.rego") {
			continue
		}
		raw, err := fs.ReadFile(policies.Files, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(raw)
	}
	shelf := newShelf(t)
	shelf.put("acme.tar.gz", build(t, "one", files))
	fetched, err := opa.Fetch(t.Context(), options(t, shelf.section(nil), t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if got := codes(t, fetched.Bundles); got != "acme.one" {
		t.Errorf("it has the rules %s", got)
	}
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	acme, stranger := newKey(t), newKey(t)
	files := map[string]string{"acme/rule.rego": rule("acme.one"), "data.json": `{"teams": ["a"]}`}
	for _, tc := range []struct {
		name   string
		bundle []byte
		good   bool
	}{
		{"a bundle that the key has signed is taken", build(t, "", files, acme.sign), true},
		{"a bundle without a signature is not", build(t, "", files), false},
		{"a bundle of another key is not", build(t, "", files, stranger.sign), false},
		{"a bundle that was changed after it was signed is not", replaced(t, build(t, "", files, acme.sign), "/acme/rule.rego", rule("acme.two")), false},
		{"a bundle with a file more than was signed is not", added(t, build(t, "", files, acme.sign), "/acme/more.rego", "package acme.more\n"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			shelf := newShelf(t)
			shelf.put("acme.tar.gz", tc.bundle)
			fetched, err := opa.Fetch(t.Context(), options(t, signed(shelf.section(nil), acme), t.TempDir()))
			switch {
			case tc.good && err != nil:
				t.Error(err)
			case tc.good && codes(t, fetched.Bundles) != "acme.one":
				t.Errorf("it brings the rules %s", codes(t, fetched.Bundles))
			case !tc.good && err == nil:
				t.Error("it is taken")
			}
		})
	}
}

// rewritten passes each file of a bundle through f.
func rewritten(t testing.TB, raw []byte, f func(name string, content []byte) []byte, more ...[2]string) []byte {
	t.Helper()
	unpacked, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	packed := gzip.NewWriter(&out)
	to := tar.NewWriter(packed)
	write := func(name string, content []byte) {
		if err := to.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := to.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	for from := tar.NewReader(unpacked); ; {
		header, err := from.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(from)
		if err != nil {
			t.Fatal(err)
		}
		write(header.Name, f(header.Name, content))
	}
	for _, file := range more {
		write(file[0], []byte(file[1]))
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if err := packed.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func replaced(t testing.TB, raw []byte, file, content string) []byte {
	t.Helper()
	found := false
	out := rewritten(t, raw, func(name string, was []byte) []byte {
		if strings.HasSuffix(name, strings.TrimPrefix(file, "/")) {
			found = true
			return []byte(content)
		}
		return was
	})
	if !found {
		t.Fatalf("there is no %s in the bundle", file)
	}
	return out
}

func added(t testing.TB, raw []byte, file, content string) []byte {
	t.Helper()
	return rewritten(t, raw, func(_ string, was []byte) []byte { return was }, [2]string{file, content})
}

func TestBundleFromARegistry(t *testing.T) {
	t.Parallel()
	registry, err := shipyard.OpenRegistry(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	acme := newKey(t)
	push(t, registry.Addr+"/acme/policy:1", build(t, "one", map[string]string{"acme/rule.rego": rule("acme.one")}, acme.sign))
	section := signed(map[string]any{
		"services": map[string]any{"registry": map[string]any{"url": "http://" + registry.Addr, "type": "oci"}},
		"bundles": map[string]any{"acme": map[string]any{
			"service": "registry", "resource": registry.Addr + "/acme/policy:1",
			"polling": map[string]any{"min_delay_seconds": 1, "max_delay_seconds": 1},
		}},
	}, acme)
	r := start(t, options(t, section, t.TempDir()))
	await(t, r)
	b := r.Current()
	if got := codes(t, b); got != "acme.one" || b.Revisions["acme"] != "one" {
		t.Errorf("it has the rules %s and the revisions %v", got, b.Revisions)
	}
	push(t, registry.Addr+"/acme/policy:1", build(t, "two", map[string]string{"acme/rule.rego": rule("acme.two")}))
	until(t, "one without a signature is refused", func() bool { return strings.Contains(r.Trouble(), "signature") })
	push(t, registry.Addr+"/acme/policy:1", build(t, "two", map[string]string{"acme/rule.rego": rule("acme.two")}, acme.sign))
	until(t, "the tag is moved", func() bool { return r.Current() != b })
	if got := codes(t, r.Current()); got != "acme.two" {
		t.Errorf("then it has the rules %s", got)
	}
}

// push stores a bundle as opa and oras do: one layer.
func push(t testing.TB, reference string, raw []byte) {
	t.Helper()
	ref, err := name.ParseReference(reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{Layer: static.NewLayer(raw, types.OCILayer)})
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	shelf := newShelf(t)
	shelf.put("acme.tar.gz", build(t, "one", map[string]string{"acme/rule.rego": rule("acme.one")}))
	shelf.put("more.tar.gz", build(t, "one", map[string]string{"rule.rego": "package more\n\nx := 1\n", ".manifest": `{"roots": ["more"]}`}, func(c *compile.Compiler) *compile.Compiler { return c.WithRoots("more") }))
	configuration := func(bundles string) []byte {
		return build(t, "", map[string]string{"data.json": `{"labels": {"from": "discovery"}, "bundles": ` + bundles + `}`})
	}
	polling := `"polling": {"min_delay_seconds": 1, "max_delay_seconds": 1}`
	shelf.put("gate.tar.gz", configuration(`{"acme": {"service": "shelf", "resource": "acme.tar.gz", `+polling+`}}`))
	o := options(t, map[string]any{
		"services":  map[string]any{"shelf": map[string]any{"url": shelf.URL}},
		"discovery": map[string]any{"service": "shelf", "resource": "gate.tar.gz", "polling": map[string]any{"min_delay_seconds": 1, "max_delay_seconds": 1}},
	}, t.TempDir())
	o.Accept = acceptBeside // which judge when no bundle is left
	r := start(t, o)
	await(t, r)
	if got := codes(t, r.Current()); got != "acme.one" {
		t.Errorf("it has the rules %s", got)
	}
	shelf.put("acme.tar.gz", []byte("no bundle"))
	until(t, "what becomes of a discovered bundle shows", func() bool { return strings.Contains(r.Trouble(), "bundle acme: ") })
	shelf.put("gate.tar.gz", configuration(`{"../../x": {"service": "shelf", "resource": "acme.tar.gz"}}`))
	until(t, "a bundle that would be written elsewhere is refused", func() bool { return strings.Contains(r.Trouble(), "is no name of a bundle") })
	shelf.put("gate.tar.gz", configuration(`{}`))
	until(t, "a bundle that is no longer named is given up", func() bool { return len(r.Current().Modules) == 0 })
}

func TestDiscoveredBundleThatCannotBeGivenUpStays(t *testing.T) {
	t.Parallel()
	shelf := newShelf(t)
	shelf.put("acme.tar.gz", build(t, "one", map[string]string{"acme/rule.rego": rule("acme.one")}))
	shelf.put("gate.tar.gz", build(t, "", map[string]string{"data.json": `{"bundles": {"acme": {"service": "shelf", "resource": "acme.tar.gz"}}}`}))
	o := options(t, map[string]any{
		"services":  map[string]any{"shelf": map[string]any{"url": shelf.URL}},
		"discovery": map[string]any{"service": "shelf", "resource": "gate.tar.gz", "polling": map[string]any{"min_delay_seconds": 1, "max_delay_seconds": 1}},
	}, t.TempDir())
	r := start(t, o)
	await(t, r)
	b := r.Current()
	shelf.put("gate.tar.gz", build(t, "", map[string]string{"data.json": `{"bundles": {}}`}))
	until(t, "it is refused", func() bool { return strings.Contains(r.Trouble(), "the policy has no rules") })
	if r.Current() != b {
		t.Error("another policy took its place")
	}
}

func TestPersistedBundleIsTakenWhenTheServerIsAway(t *testing.T) {
	t.Parallel()
	shelf, folder := newShelf(t), t.TempDir()
	shelf.put("acme.tar.gz", build(t, "one", map[string]string{"acme/rule.rego": rule("acme.one")}))
	section := func() map[string]any {
		s := shelf.section(nil)
		s["bundles"].(map[string]any)["acme"].(map[string]any)["persist"] = true
		return s
	}
	fetched, err := opa.Fetch(t.Context(), options(t, section(), folder))
	if err != nil || fetched.Persisted != nil {
		t.Fatalf("%+v, %v", fetched, err)
	}
	shelf.put("acme.tar.gz", build(t, "two", map[string]string{"acme/rule.rego": "package trustgate.lib\n\nx := 1\n"}))
	if fetched, err = opa.Fetch(t.Context(), options(t, section(), folder)); err != nil || fetched.Persisted == nil || fetched.Bundles.Revisions["acme"] != "one" {
		t.Fatalf("with a broken one on the server: %+v, %v", fetched, err)
	}
	shelf.Close()
	if fetched, err = opa.Fetch(t.Context(), options(t, section(), folder)); err != nil || fetched.Persisted == nil || codes(t, fetched.Bundles) != "acme.one" {
		t.Fatalf("without the server: %+v, %v", fetched, err)
	}
	r := start(t, options(t, section(), folder))
	await(t, r)
	if got := codes(t, r.Current()); got != "acme.one" {
		t.Errorf("it has the rules %s", got)
	}
	until(t, "it says that the server does not answer", func() bool { return r.Trouble() != "" })
}

func TestNothingComes(t *testing.T) {
	t.Parallel()
	shelf := newShelf(t) // empty
	if _, err := opa.Fetch(t.Context(), options(t, shelf.section(nil), t.TempDir())); err == nil || !strings.Contains(err.Error(), "the bundle acme") || !strings.Contains(err.Error(), "Not Found") {
		t.Errorf("a look brings %v", err)
	}
	r := start(t, options(t, shelf.section(nil), t.TempDir()))
	until(t, "it says why", func() bool { return strings.Contains(r.Trouble(), "Not Found") })
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Await(over); err == nil || !strings.Contains(err.Error(), "Not Found") {
		t.Errorf("waiting ends with %v", err)
	}
	if r.Current() != nil {
		t.Error("there is something")
	}
}
