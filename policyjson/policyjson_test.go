package policyjson_test

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/policyjson"
)

const (
	here  = `"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/pki/release.asc"`
	one   = "registry.example/acme/app:1"
	empty = `"default": [{"type": "reject"}]`
)

var image = digest.FromString("an image")

// engine loads what becomes of a policy.json.
func engine(t *testing.T, document string) *policy.Engine {
	t.Helper()
	parsed, err := policyjson.Parse([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	converted, err := policyjson.Convert("policy.json", parsed)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), policyjson.RulesFile)
	if err := os.WriteFile(file, converted.Rules, 0o600); err != nil {
		t.Fatal(err)
	}
	if rules, err := policy.Check(t.Context(), policy.Options{Paths: []string{file}}); err != nil || len(rules) != 2 {
		t.Fatalf("the rules are not complete: %v %v", rules, err)
	}
	e, err := policy.Load(t.Context(), policy.Options{Paths: []string{file}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// pulled is the image by a reference without a host port, with one signature.
func pulled(reference string, s policy.Signature) *policy.Input {
	in := &policy.Input{Image: policy.Image{Kind: "image", Reference: reference, Digest: image}}
	name, byDigest := strings.CutSuffix(reference, "@"+image.String())
	if !byDigest {
		i := strings.LastIndex(name, ":")
		in.Image.Tag, name = name[i+1:], name[:i]
	}
	in.Image.Registry, in.Image.Repository, _ = strings.Cut(name, "/")
	if s.Kind != "" {
		in.Signatures = []policy.Signature{s}
	}
	return in
}

func signed(reference string) policy.Signature {
	return policy.Signature{Kind: "openpgp", Verified: true, Signer: &policy.Signer{Name: "release"}, Reference: reference}
}

func action(t *testing.T, e *policy.Engine, in *policy.Input) policy.Action {
	t.Helper()
	d, err := e.Decide(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return d.Action
}

func TestTheNarrowestScopeCounts(t *testing.T) {
	const accept, reject = `[{"type": "insecureAcceptAnything"}]`, `[{"type": "reject"}]`
	e := engine(t, `{"default": `+reject+`, "transports": {"docker-daemon": {"": `+accept+`}, "docker": {
		"registry.example": `+reject+`,
		"registry.example/acme": `+accept+`,
		"registry.example/acme/app": `+reject+`,
		"registry.example/acme/app:1": `+accept+`,
		"registry.example/acme/old@`+image.String()+`": `+reject+`,
		"registry.example:5000": `+accept+`,
		"*.corp.example": `+accept+`,
		"*.b.corp.example": `+reject+`
	}}}`)
	for reference, want := range map[string]policy.Action{
		"registry.example/other:1":                    policy.Block,
		"registry.example/acme/tool:1":                policy.Serve,
		"registry.example/acme/deep/tool:1":           policy.Serve,
		"registry.example/acmes/tool:1":               policy.Block,
		one:                                           policy.Serve,
		"registry.example/acme/app:2":                 policy.Block,
		"registry.example/acme/app@" + image.String(): policy.Block,
		"registry.example/acme/old@" + image.String(): policy.Block,
		"registry.example/acme/old:1":                 policy.Serve,
		"registry.example:5000/acme/app:1":            policy.Serve,
		"a.corp.example/app:1":                        policy.Serve,
		"b.corp.example/app:1":                        policy.Serve,
		"a.b.corp.example/app:1":                      policy.Block,
		"a.corp.example:5000/app:1":                   policy.Serve,
		"corp.example/app:1":                          policy.Block,
		"docker.io/library/debian:12":                 policy.Block,
		"localhost/acme/app:1":                        policy.Block,
	} {
		if got := action(t, e, pulled(reference, policy.Signature{})); got != want {
			t.Errorf("%s: %s, want %s", reference, got, want)
		}
	}
}

func TestScopesOfDigests(t *testing.T) {
	const accept, reject = `[{"type": "insecureAcceptAnything"}]`, `[{"type": "reject"}]`
	index := digest.FromString("an index")
	of := func(name string, d digest.Digest) string { return "registry.example/acme/" + name + "@" + d.String() }
	e := engine(t, `{"default": `+reject+`, "transports": {"docker": {
		"registry.example/acme": `+accept+`,
		"`+of("rejected-index", index)+`": `+reject+`,
		"`+of("rejected-image", image)+`": `+reject+`,
		"`+of("both", index)+`": `+accept+`,
		"`+of("both", image)+`": `+reject+`,
		"registry.example/acme/only": `+reject+`,
		"`+of("only", index)+`": `+accept+`
	}}}`)
	for _, tc := range []struct {
		name, reference string
		index           digest.Digest
		want            policy.Action
	}{
		{"the image of a rejected index", of("rejected-index", image), index, policy.Block},
		{"the image of another index", of("rejected-index", image), digest.FromString("another index"), policy.Serve},
		{"an image in no index", of("rejected-index", image), "", policy.Serve},
		{"the image of a rejected index by a tag, which is another scope", "registry.example/acme/rejected-index:1", index, policy.Serve},
		{"a rejected image of an index", of("rejected-image", image), index, policy.Block},
		{"a rejected image of an index that is let in", of("both", image), index, policy.Block},
		{"the image of an index that is let in where nothing else is", of("only", image), index, policy.Serve},
		{"an image where only an index is let in", of("only", image), "", policy.Block},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := pulled(tc.reference, policy.Signature{})
			if tc.index != "" {
				in.Image.Index = &policy.Index{Digest: tc.index}
			}
			if got := action(t, e, in); got != tc.want {
				t.Errorf("it is %s, want %s", got, tc.want)
			}
		})
	}
}

// The answers are those of containers/image's own tests of policy_reference_match.go.
func TestSignedIdentities(t *testing.T) {
	byDigest := "registry.example/acme/app@" + image.String()
	type identified struct {
		identity, pulled, signed string
		want                     policy.Action
	}
	scopes := map[string]string{}
	var all []identified
	for _, tc := range []identified{
		{``, one, one, policy.Serve},
		{``, one, "registry.example/acme/app:2", policy.Block},
		{``, one, "registry.example/acme/app", policy.Block},
		{``, one, byDigest, policy.Block},
		{``, byDigest, "registry.example/acme/app:2", policy.Serve},
		{``, byDigest, byDigest, policy.Serve},
		{``, byDigest, "registry.example/acme/app", policy.Block},
		{``, byDigest, "registry.example/acme/apps:1", policy.Block},
		{`{"type": "matchExact"}`, one, one, policy.Serve},
		{`{"type": "matchExact"}`, byDigest, one, policy.Block},
		{`{"type": "matchExact"}`, byDigest, byDigest, policy.Serve},
		{`{"type": "matchRepository"}`, one, "registry.example/acme/app", policy.Serve},
		{`{"type": "matchRepository"}`, one, "registry.example/acme/app:9", policy.Serve},
		{`{"type": "matchRepository"}`, one, "registry.example/acme/application:1", policy.Block},
		{`{"type": "matchRepository"}`, "docker.io/library/debian:12", "debian", policy.Serve},
		{`{"type": "matchRepository"}`, "docker.io/acme/app:12", "acme/app:1", policy.Serve},
		{`{"type": "matchRepository"}`, "docker.io/library/debian:12", "index.docker.io/debian:1", policy.Serve},
		{`{"type": "matchRepository"}`, "docker.io/library/debian:12", "debian.example/debian", policy.Block},
		{`{"type": "matchRepository"}`, one, "", policy.Block},
		{`{"type": "exactReference", "dockerReference": "debian:12"}`, one, "docker.io/library/debian:12", policy.Serve},
		{`{"type": "exactReference", "dockerReference": "debian:12"}`, one, "docker.io/library/debian:13", policy.Block},
		{`{"type": "exactRepository", "dockerRepository": "debian"}`, one, "docker.io/library/debian:13", policy.Serve},
		{`{"type": "exactRepository", "dockerRepository": "debian"}`, one, one, policy.Block},
		{`{"type": "remapIdentity", "prefix": "registry.example/acme", "signedPrefix": "vendor.example/x"}`, one, "vendor.example/x/app:1", policy.Serve},
		{`{"type": "remapIdentity", "prefix": "registry.example/acme", "signedPrefix": "vendor.example/x"}`, one, one, policy.Block},
		{`{"type": "remapIdentity", "prefix": "registry.example/acme", "signedPrefix": "vendor.example/x"}`, byDigest, "vendor.example/x/app:7", policy.Serve},
		{`{"type": "remapIdentity", "prefix": "registry.example/ac", "signedPrefix": "vendor.example"}`, one, one, policy.Serve},
		{`{"type": "remapIdentity", "prefix": "registry.example/acme/app", "signedPrefix": "vendor.example/y"}`, one, "vendor.example/y:1", policy.Serve},
	} {
		identity := tc.identity
		if identity != "" {
			identity = `, "signedIdentity": ` + identity
		}
		scope, own := scopeOf(tc.pulled), "acme"+strconv.Itoa(len(scopes))
		if _, there := scopes[scope]; !there || scope != "docker.io" {
			// One policy.json for all of them, so each has a namespace of its own.
			scope, identity = strings.ReplaceAll(scope, "acme", own), strings.ReplaceAll(identity, "acme", own)
			tc.pulled, tc.signed = strings.ReplaceAll(tc.pulled, "/acme/", "/"+own+"/"), strings.ReplaceAll(tc.signed, "example/acme/", "example/"+own+"/")
		}
		scopes[scope] = `"` + scope + `": [{` + here + identity + `}]`
		all = append(all, tc)
	}
	e := engine(t, `{`+empty+`, "transports": {"docker": {`+strings.Join(slices.Sorted(maps.Values(scopes)), ",")+`}}}`)
	for _, tc := range all {
		if got := action(t, e, pulled(tc.pulled, signed(tc.signed))); got != tc.want {
			t.Errorf("%s pulled, %s signed, %s: %s, want %s", tc.pulled, tc.signed, tc.identity, got, tc.want)
		}
	}
}

// scopeOf is the namespace of a reference, or Docker Hub.
func scopeOf(reference string) string {
	if strings.HasPrefix(reference, "docker.io/") {
		return "docker.io"
	}
	return path.Dir(reference)
}

func TestWhichSignaturesCount(t *testing.T) {
	other, cosign, inherited, unverified := signed(one), signed(one), signed(one), signed(one)
	other.Signer = &policy.Signer{Name: "other"}
	cosign.Kind, inherited.Inherited = "cosign", true
	unverified.Verified, unverified.Signer = false, nil
	attached := cosign // by the very key, were that possible
	cosign.Signer = &policy.Signer{Name: "ci"}
	bundle := cosign
	bundle.Kind = "sigstore"
	const key = `"type": "sigstoreSigned", "keyPath": "/etc/pki/ci.pub"`
	var scopes, names []string // one policy.json for all of them
	cases := map[string]func(*testing.T, *policy.Engine, string){}
	for _, tc := range []struct {
		name, demands string
		with          policy.Signature
		want          policy.Action
	}{
		{"a signature by the key", `{` + here + `}`, signed(one), policy.Serve},
		{"none", `{` + here + `}`, policy.Signature{}, policy.Block},
		{"one by another signer", `{` + here + `}`, other, policy.Block},
		{"one that does not verify", `{` + here + `}`, unverified, policy.Block},
		{"one over the index", `{` + here + `}`, inherited, policy.Block},
		{"one of another kind", `{` + here + `}`, attached, policy.Block},
		{"cosign's attachment", `{` + key + `}`, cosign, policy.Serve},
		{"a bundle, which containers/image does not read", `{` + key + `}`, bundle, policy.Block},
		{"one of two demanded", `{` + here + `}, {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/pki/other.asc"}`, signed(one), policy.Block},
		{"one of two keys of which one is enough", `{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": ["/etc/pki/other.asc", "/etc/pki/release.asc"]}`, signed(one), policy.Serve},
		{"signed and rejected", `{` + here + `}, {"type": "reject"}`, signed(one), policy.Block},
		{"signed and anything", `{"type": "insecureAcceptAnything"}, {` + here + `}`, signed(one), policy.Serve},
		{"anything and a signature that is not there", `{"type": "insecureAcceptAnything"}, {` + here + `}`, policy.Signature{}, policy.Block},
	} {
		cases[tc.name] = func(t *testing.T, e *policy.Engine, reference string) {
			tc.with.Reference = reference
			if got := action(t, e, pulled(reference, tc.with)); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		}
		scopes = append(scopes, fmt.Sprintf(`"registry.example/%d": [%s]`, len(scopes), tc.demands))
		names = append(names, tc.name)
	}
	e := engine(t, `{"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": {`+strings.Join(scopes, ",")+`}}}`)
	for i, name := range names {
		t.Run(name, func(t *testing.T) { cases[name](t, e, fmt.Sprintf("registry.example/%d/app:1", i)) })
	}
}

// writeKey puts a file where a policy.json can name it.
func writeKey(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhatCannotBeKeptIsRefused(t *testing.T) {
	docker := func(requirement string) string {
		return `{` + empty + `, "transports": {"docker": {"registry.example": [` + requirement + `]}}}`
	}
	for _, tc := range []struct{ name, document, want string }{
		{"nothing", ``, "it is no policy.json: EOF"},
		{"a list", `[]`, "policy.json: "},
		{"no default", `{"transports": {}}`, "it has no default"},
		{"two documents", `{` + empty + `}{}`, "followed by something else"},
		{"an unknown key", `{` + empty + `, "defaults": []}`, `there is no key "defaults"`},
		{"a key in other letters", `{"Default": [{"type": "reject"}]}`, `there is no key "Default"`},
		{"a key that stands twice", `{` + empty + `, ` + empty + `}`, `the key "default" stands twice`},
		{"a key that stands twice, in other letters", docker(`{"type": "reject", "Type": "insecureAcceptAnything"}`), `the key "Type" stands twice`},
		{"no requirement", docker(``), `transports.docker["registry.example"]: it lists no requirement`},
		{"an unknown type", docker(`{"type": "signedBaseLayer"}`), `transports.docker["registry.example"][0]: the type "signedBaseLayer" cannot be kept`},
		{"a member of another type", docker(`{"type": "reject", "keyPath": "/a"}`), `[0]: there is no key "keyPath"`},
		{"a member that is null", docker(`{"type": "sigstoreSigned", "keyPath": "/a", "fulcio": null}`), `[0].fulcio: it is null`},
		{"a kind of key that nobody checks", docker(`{"type": "signedBy", "keyType": "X509Certificates", "keyPath": "/a"}`), `keyType: it is "X509Certificates"`},
		{"two keys", docker(`{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/a", "keyData": "YQ=="}`), `exactly one of keyPath`},
		{"no key", docker(`{"type": "sigstoreSigned"}`), `exactly one of keyPath`},
		{"an empty list of keys", docker(`{"type": "sigstoreSigned", "keyPaths": []}`), `it names no key`},
		{"a key at a relative path", docker(`{"type": "sigstoreSigned", "keyPath": "keys/a"}`), `keyPath: "keys/a" is relative`},
		{"a key and a Rekor", docker(`{"type": "sigstoreSigned", "keyPath": "/a", "rekorPublicKeyPath": "/b"}`), `transports.docker["registry.example"][0]: a key whose signatures must be in a Rekor cannot be kept`},
		{"a Fulcio without a Rekor", docker(`{"type": "sigstoreSigned", "fulcio": {"caPath": "/a", "oidcIssuer": "i", "subjectEmail": "s"}}`), `fulcio needs`},
		{"a Fulcio without an issuer", docker(`{"type": "sigstoreSigned", "rekorPublicKeyPath": "/b", "fulcio": {"caPath": "/a", "subjectEmail": "s"}}`), `fulcio needs`},
		{"a Fulcio with a name more", docker(`{"type": "sigstoreSigned", "rekorPublicKeyPath": "/b", "fulcio": {"caPath": "/a", "oidcIssuer": "i", "subjectEmail": "s", "subject": "x"}}`), `fulcio: there is no key "subject"`},
		{"a host in certificates", docker(`{"type": "sigstoreSigned", "pki": {"caRootsPath": "/a", "subjectHostname": "h"}}`), `pki.subjectHostname`},
		{"certificates of nobody", docker(`{"type": "sigstoreSigned", "pki": {"caRootsPath": "/a"}}`), `pki needs`},
		{"certificates that are none", docker(`{"type": "sigstoreSigned", "pki": {"caRootsPath": "` + writeKey(t, "x") + `", "subjectEmail": "s"}}`), `pki.caRootsPath: error during PEM decoding`},
		{"an unknown identity", docker(`{` + here + `, "signedIdentity": {"type": "any"}}`), `signedIdentity: the type "any" cannot be kept`},
		{"an exact reference to a repository", docker(`{` + here + `, "signedIdentity": {"type": "exactReference", "dockerReference": "debian"}}`), `"debian" is no reference with a tag`},
		{"an exact repository with a tag", docker(`{` + here + `, "signedIdentity": {"type": "exactRepository", "dockerRepository": "debian:12"}}`), `"debian:12" is no repository`},
		{"a prefix that ends in a slash", docker(`{` + here + `, "signedIdentity": {"type": "remapIdentity", "prefix": "a.example/", "signedPrefix": "b.example"}}`), `"a.example/" is no prefix`},
		{"the registry of OpenShift", `{` + empty + `, "transports": {"atomic": {"": [{"type": "reject"}]}}}`, `transports.atomic`},
		{"a scope where nothing is", `{` + empty + `, "transports": {"docker": {"https://registry.example": [{"type": "reject"}]}}}`, `transports.docker["https://registry.example"]: no image of a registry is there`},
		{"nothing that is let in", `{` + empty + `}`, `it lets no image of any registry in`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parsed, err := policyjson.Parse([]byte(tc.document))
			if err == nil {
				_, err = policyjson.Convert("policy.json", parsed)
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("it says %v", err)
			}
		})
	}
}

// FuzzParse wants of what is read that it converts or is refused, and that a text that
// is put into comments stays there.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"default": [{"type": "reject"}], "transports": {"docker": {"registry.example": [{` + here + `}]}}}`))
	f.Add([]byte(`{"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker-daemon": {"": [{"type": "insecureAcceptAnything"}]}}}`))
	f.Add([]byte(`{"default": [{"type": "sigstoreSigned", "keyData": "YQ==", "signedIdentity": {"type": "remapIdentity", "prefix": "a.example", "signedPrefix": "b.example/c"}}]}`))
	f.Add([]byte(`{"default": [{"type": "sigstoreSigned", "fulcio": {"caData": "YQ==", "oidcIssuer": "i", "subjectEmail": "s"}, "rekorPublicKeyData": "YQ=="}]}`))
	f.Add([]byte("{\"default\": [{\"type\": \"reject\"}], \"transports\": {\"a\\nlisten: b\": {}, \"docker\": {\"*.example\": [{\"type\": \"insecureAcceptAnything\"}]}}}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		parsed, err := policyjson.Parse(raw)
		if err != nil {
			return
		}
		converted, err := policyjson.Convert("policy.json", parsed)
		if err != nil {
			return
		}
		for _, line := range strings.Split(string(converted.Config), "\n") {
			switch key, _, _ := strings.Cut(strings.TrimLeft(line, " -"), ":"); {
			case strings.HasPrefix(strings.TrimSpace(key), "#"), line == "":
			case strings.HasPrefix(strings.TrimLeft(line, " "), "- {name"):
			default:
				switch key {
				case "routes", "registry", "upstream", "mode", "trust", "signers", "policy", "builtin", "collections", "paths":
				default:
					t.Errorf("the configuration has a line of its own: %q", line)
				}
			}
		}
	})
}
