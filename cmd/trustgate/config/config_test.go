package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
)

func TestDefaultFileIsTheDefault(t *testing.T) {
	got, err := config.Parse("default.yaml", config.DefaultYAML(), nil)
	if err != nil {
		t.Fatal(err)
	}
	got.File = ""
	want, err := config.Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*config.Config{got, want} { // an empty list is no list
		c.Trust = config.Trust{}
		c.Cache.Pinned = nil
		c.Policy.Paths, c.Policy.Rules, c.Policy.Data, c.Policy.DockerBuild, c.Policy.Exceptions = nil, nil, nil, nil, nil
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

const minimal = `routes:
  - {registry: registry.example, upstream: "https://registry.example"}
`

func TestMistakes(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "ci.pub"), []byte("key"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "t.yaml")
	for _, tc := range []struct{ name, yaml, want string }{
		{"unknown key", "lissten: :5000\n", `t.yaml:1:1: unknown key "lissten"; did you mean "listen"?`},
		{"unknown key deep down", minimal + "verdicts:\n  serv: 1m\n", `t.yaml:4:3: unknown key "serv"; did you mean "serve"?`},
		{"unknown key far from any", minimal + "log: {zzzzzzzz: 1}\n", `t.yaml:3:7: unknown key "zzzzzzzz"; known here: level, format`},
		{"bad duration", minimal + "verdicts: {serve: ten minutes}\n", `t.yaml:3:19: "ten minutes" is not a duration`},
		{"bad size", minimal + "limits: {manifest: 4 apples}\n", `t.yaml:3:20: "4 apples" is not a size`},
		{"bad number", minimal + "verdicts: {depth: deep}\n", `t.yaml:3:19: expected a whole number, not "deep"`},
		{"bad bool", "routes:\n  - {registry: a.example, upstream: https://a.example, default: maybe}\n", "t.yaml:2:65: expected true or false"},
		{"bad mode", "routes:\n  - {registry: a.example, upstream: https://a.example, mode: enforc}\n", `t.yaml:2:62: routes[0].mode: "enforc" is not one of enforce, annotate, audit; did you mean "enforce"?`},
		{"plain HTTP", "routes:\n  - registry: a.example\n    upstream: http://a.example\n", "t.yaml:3:15: routes[0].upstream:"},
		{"no upstream", "routes:\n  - registry: a.example\n", "routes[0].upstream: the URL of the registry is missing"},
		{"credentials in a URL", "routes:\n  - {registry: a.example, upstream: \"https://u:p@a.example\"}\n", "do not belong into a URL"},
		{"duplicate registry", minimal + "  - {registry: registry.example, upstream: \"https://b.example\"}\n", `t.yaml:3:16: routes[1].registry: "registry.example" is the name of routes[0] already`},
		{"two defaults", "routes:\n  - {registry: a.example, upstream: https://a.example, default: true}\n  - {registry: b.example, upstream: https://b.example, default: true}\n", "routes[1].default: routes[0] is the default already"},
		{"duplicate key", "listen: :1\nlisten: :2\n", "t.yaml:2:1: mapping key \"listen\" already defined"},
		{"two documents", minimal + "---\nlisten: :1\n", "a second document"},
		{"anchor", "listen: &a :1\n", "anchors, aliases and tags are not used"},
		{"list for a value", "listen: [a, b]\n", "t.yaml:1:9: expected one value"},
		{"value for a list", "platforms: linux/amd64\n", "expected a list"},
		{"bad platform", minimal + "platforms: [linux]\n", `platforms[0]: "linux" is not a platform`},
		{"signer without a kind", minimal + "trust: {signers: [{name: x}]}\n", "exactly one of openpgp"},
		{"missing key file", minimal + "trust: {signers: [{name: x, cosign: {key: nowhere.pub}}]}\n", "nowhere.pub: no such file"},
		{"unknown signer", minimal + "trust:\n  signers: [{name: ci, cosign: {key: ci.pub}}]\n  builders: [{id: \"https://b\", signers: [cj]}]\n", `t.yaml:5:42: trust.builders[0].signers[0]: there is no signer "cj"; did you mean "ci"?`},
		{"keyless without a root", minimal + "trust: {signers: [{name: k, keyless: {issuer: x, subject: y}}]}\n", "trust.signers[0].keyless.root: a file must be named"},
		{"notation revocation", minimal + "trust: {signers: [{name: k, notation: {ca: ci.pub, revocation: strict}}]}\n", "\"strict\" is not one of soft-fail"},
		{"push", "routes:\n  - {registry: a.example, upstream: https://a.example, push: pass}\n", "routes[0].push: say who may push"},
		{"push by those who prove nothing", minimal + "clients: {push: [\"*\"]}\n", "clients.push: nobody can prove who they are"},
		{"push past the registry's clients", "routes:\n  - {registry: a.example, upstream: https://a.example, push: judge, clients: upstream}\nclients: {push: [anonymous]}\n", "clients of a.example push to it directly"},
		{"clients", minimal + "clients: {issuers: [{name: a, url: https://i.example}]}\n", "clients.issuers[0].audience: any token"},
		{"clients over plain HTTP", minimal + "clients: {issuers: [{name: a, url: http://i.example, audience: b}]}\n", "is not an https URL"},
		{"clients that nobody asks", minimal + "clients: {anonymous: true}\n", "nobody is asked who they are"},
		{"unknown push", "routes:\n  - {registry: a.example, upstream: https://a.example, push: passs}\n", `routes[0].push: "passs" is not one of deny, pass, judge; did you mean "pass"?`},
		{"bad root", minimal + "trust: {roots: [{digest: sha256:abc}]}\n", "trust.roots[0].digest"},
		{"unknown collection", minimal + "policy: {collections: [trusted-build]}\n", `did you mean "trusted-builds"?`},
		{"nothing judges", minimal + "policy: {builtin: false}\n", "nothing would be judged"},
		{"rules of an unknown style", minimal + "policy: {rules: [{style: kyverno, paths: [ci.pub]}]}\n", `policy.rules[0]: style: "kyverno" is not one of conftest, conforma, cosign`},
		{"rules that are not there", minimal + "policy: {rules: [{style: conftest, paths: [nowhere]}]}\n", "policy.rules[0].paths[0]: stat"},
		{"rules by an unknown signer", minimal + "policy: {rules: [{style: cosign, paths: [ci.pub], predicate_type: vuln, signers: [ci]}]}\n", `policy.rules[0].signers[0]: there is no signer "ci"`},
		{"half an exception", minimal + "policy: {exceptions: [{code: x}]}\n", "needs code, owner, reason and expires"},
		{"an exception for a broken pattern", minimal + "policy:\n  exceptions:\n    - {code: x, owner: o, reason: r, expires: 2090-01-01, repository: \"a/[b\"}\n", "policy.exceptions[0].repository: \"a/[b\" is not a pattern"},
		{"an exception for both", minimal + "policy: {exceptions: [{code: x, owner: o, reason: r, expires: 2090-01-01, repository: a, digest: b}]}\n", "for a repository or for a digest"},
		{"a misspelt candidate", minimal + "policy: {trial: {path: [rules]}}\n", `unknown key "path"; did you mean "paths"?`},
		{"bad address", "listen: nowhere\n", `t.yaml:1:9: listen: "nowhere" is not an address`},
		{"not YAML", "listen: [\n", "t.yaml:"},
		{"a list at the top", "- a\n", "expected keys and values"},
		{"pinned without a registry", minimal + "cache:\n  pinned: [debian]\n", `t.yaml:4:12: cache.pinned[0]: "debian" is not a repository with its registry`},
		{"pinned by digest", minimal + "cache: {pinned: [\"a.example/b@sha256:abc\"]}\n", "cache.pinned[0]: "},
		{"scrub in the past", minimal + "cache: {scrub: {every: -1h}}\n", "cache.scrub.every: it cannot be negative"},
		{"unknown key of OPA's", minimal + "policy:\n  opa:\n    servces: {acme: {url: \"https://acme.example\"}}\n", `t.yaml:5:5: policy.opa.servces: unknown key "servces"; did you mean "services"?`},
		{"a key for OPA's server", minimal + "policy:\n  opa:\n    plugins: {}\n", `t.yaml:5:5: policy.opa.plugins: unknown key "plugins"; of OPA's configuration there is services, `},
		{"unknown key deep in OPA's", minimal + "policy:\n  opa:\n    services:\n      acme: {url: \"https://acme.example\"}\n    bundles:\n      acme:\n        service: acme\n        poling: {}\n", `t.yaml:10:9: policy.opa.bundles.acme.poling: OPA has no such option`},
		{"only a log of decisions judges", minimal + "policy: {builtin: false, opa: {services: {acme: {url: \"https://acme.example\"}}, decision_logs: {service: acme}}}\n", "nothing would be judged"},
		{"postgres", minimal + "ledger: {dsn: \"postgres://u:hunter2@h/d\"}\n", "postgres: not supported by this version"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := config.Parse(file, []byte(tc.yaml), nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v\nwant %s", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Error("a password is in the message")
			}
		})
	}
}

func TestPushesAreNeverOpenByAccident(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"gate.crt", "gate.key", "clients.crt"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("pem"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(folder, "t.yaml")
	route := "routes:\n  - {registry: a.example, upstream: https://a.example, push: pass}\n"
	for _, tc := range []struct {
		name, yaml  string
		warns, errs bool
	}{
		{"nobody is named", "listen: 127.0.0.1:5000\n" + route, false, true},
		{"somebody who cannot prove it", "clients: {push: [alice]}\n" + route, false, true},
		{"anybody, on loopback", "listen: \"[::1]:5000\"\nclients: {push: [anonymous]}\n" + route, false, false},
		{"anybody, on every address", "listen: :5000\nclients: {push: [anonymous]}\n" + route, true, false},
		{"everybody, with TLS alone", "listen: :5000\ntls: {cert: gate.crt, key: gate.key}\nclients: {push: [\"*\"]}\n" + route, false, true},
		{"everybody with a certificate", "listen: :5000\ntls: {cert: gate.crt, key: gate.key, client_ca: clients.crt}\nclients: {push: [\"*\"]}\n" + route, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := config.Parse(file, []byte(tc.yaml), nil)
			if (err != nil) != tc.errs {
				t.Fatalf("got %v", err)
			}
			if err != nil {
				return
			}
			if warned := strings.Contains(strings.Join(c.Warnings, "\n"), "clients.push: anybody"); warned != tc.warns {
				t.Errorf("the warnings are %q", c.Warnings)
			}
		})
	}
}

func TestEveryMistakeAtOnceInOrder(t *testing.T) {
	_, err := config.Parse("t.yaml", []byte("lissten: 1\nlog: {levl: x}\nverdicts: {serve: y}\n"), []string{"TRUSTGATE_LISTN=:1"})
	var all *config.Error
	if !errors.As(err, &all) || len(all.Problems) != 4 {
		t.Fatalf("got %v", err)
	}
	for i, line := range []int{0, 1, 2, 3} {
		if all.Problems[i].Line != line {
			t.Errorf("problem %d is at line %d, want %d", i, all.Problems[i].Line, line)
		}
	}
}

func TestEnvironment(t *testing.T) {
	c, err := config.Parse("", nil, []string{
		"TRUSTGATE_LISTEN=127.0.0.1:7000", "TRUSTGATE_VERDICTS_SERVE=5m", "TRUSTGATE_ROUTES_0_MODE=enforce",
		"TRUSTGATE_PLATFORMS=linux/amd64, linux/s390x", "TRUSTGATE_CACHE_MAX_SIZE=1GB", "TRUSTGATE_CONFIG=x", "HOME=/x",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:7000" || time.Duration(c.Verdicts.Serve) != 5*time.Minute || c.Routes[0].Mode != "enforce" ||
		len(c.Platforms) != 2 || c.Platforms[1] != "linux/s390x" || c.Cache.MaxSize != 1e9 {
		t.Errorf("got %+v", c)
	}
	for variable, want := range map[string]string{
		"TRUSTGATE_LISTN=:1":             "did you mean TRUSTGATE_LISTEN?",
		"TRUSTGATE_VERDICTS_SERVE=never": "is not a duration",
		"TRUSTGATE_ROUTES_9_MODE=audit":  "is not the name of a setting",
		"TRUSTGATE_TRUST=x":              "name the part",
	} {
		if _, err := config.Parse("", nil, []string{variable}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", variable, err, want)
		}
	}
}

func TestPathsAreRelativeToTheFile(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "ci.pub"), []byte("key"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse(filepath.Join(folder, "t.yaml"), []byte(minimal+"data: d\ntrust: {signers: [{name: ci, cosign: {key: ci.pub}}]}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(c.Trust.Signers[0].Cosign.Key); got != filepath.Join(folder, "ci.pub") {
		t.Errorf("the key is %s", got)
	}
	if c.CacheRoot() != filepath.Join(folder, "d", "cache") || c.LedgerDSN() != "sqlite:"+filepath.Join(folder, "d", "ledger.db") {
		t.Errorf("cache %s, ledger %s", c.CacheRoot(), c.LedgerDSN())
	}
}

func TestOpenListenerIsWarnedOf(t *testing.T) {
	c, err := config.Parse("", nil, []string{"TRUSTGATE_LISTEN=0.0.0.0:5000"})
	if err != nil || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "without TLS") {
		t.Errorf("%v, %v", c, err)
	}
}

func TestBundlesWithoutSignaturesAreWarnedOf(t *testing.T) {
	c, err := config.Parse("", []byte(minimal+`policy:
  builtin: false
  opa:
    services: {acme: {url: "https://acme.example"}}
    keys: {acme: {key: acme.pub}}
    discovery: {service: acme}
    bundles: {a: {service: acme}, b: {service: acme, signing: {keyid: acme}}}
`), nil)
	if err != nil || len(c.Warnings) != 2 || !strings.HasPrefix(c.Warnings[0], "policy.opa.bundles.a: ") || !strings.HasPrefix(c.Warnings[1], "policy.opa.discovery: ") {
		t.Errorf("%v, %v", c, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(config.DefaultYAML())
	for _, seed := range []string{minimal, "lissten: 1", "- a", "a: &x [*x]", "routes: [{", "? a\n: b", "!!map {a: b}", "listen: |\n  x", "\xff", "a: {b: {c: {d: 1}}}", "policy: {opa: {services: [{a: 1}], bundles: {a: {b: [1]}}}}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := config.Parse("fuzz.yaml", raw, nil)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", c, err)
		}
		var all *config.Error
		if err != nil && (!errors.As(err, &all) || len(all.Problems) == 0) {
			t.Fatalf("an error without a problem: %v", err)
		}
	})
}

// A set of rules for images that no route has would judge none without a word.
func TestRepositoriesOfRulesThatNothingMatchesAreWarnedOf(t *testing.T) {
	rules := filepath.Join(t.TempDir(), "a.rego")
	if err := os.WriteFile(rules, []byte("package main\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for pattern, warns := range map[string]bool{
		"acme/*":                                 true,
		"acme":                                   true,
		"*":                                      true,
		"registry.exampel/**":                    true,
		"registry.example":                       true,
		"registry.example/acme/*":                false,
		"*/acme/*":                               false,
		"registry.*/acme":                        false,
		"**":                                     false,
		"**/acme":                                false,
		"{registry.example/a,other.example/b}/*": false,
	} {
		t.Run(pattern, func(t *testing.T) {
			c, err := config.Parse("t.yaml", []byte(minimal+"policy: {rules: [{style: conftest, paths: ["+rules+`], repositories: ["`+pattern+"\"]}]}\n"), nil)
			if err != nil {
				t.Fatal(err)
			}
			if warned := strings.Contains(strings.Join(c.Warnings, "\n"), "policy.rules[0].repositories[0]: "); warned != warns {
				t.Errorf("the warnings are %q", c.Warnings)
			}
		})
	}
}

// A candidate that is not there is worth a warning: it decides nothing.
func TestTrial(t *testing.T) {
	c, err := config.Parse(filepath.Join(t.TempDir(), "t.yaml"), []byte("policy: {trial: {paths: [next], builtin: false, collections: []}}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "policy.trial.paths[0]") {
		t.Errorf("the warnings are %q", c.Warnings)
	}
	trial := c.Policy.Trial
	if !filepath.IsAbs(string(trial.Paths[0])) || *trial.Builtin || trial.Collections == nil || trial.Data != nil {
		t.Errorf("it is %+v", trial)
	}
	if c, err = config.Parse("", nil, []string{"TRUSTGATE_POLICY_TRIAL_PATHS=/next", "TRUSTGATE_POLICY_TRIAL_BUILTIN=true"}); err != nil || !*c.Policy.Trial.Builtin || c.Policy.Trial.Paths[0] != "/next" {
		t.Errorf("from the environment it is %+v, %v", c, err)
	}
}
