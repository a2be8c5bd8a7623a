package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/gobwas/glob"
	"github.com/goccy/go-yaml/token"

	"github.com/trustgate/trustgate/access"
	"github.com/trustgate/trustgate/cache"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/opa"
	"github.com/trustgate/trustgate/policy"
)

// Collections are the shipped sets of rules; signed is the first name of minimal.
var Collections = []string{"minimal", "signed", "trusted-builds", "slsa3", "release-signed", "reproducible", "packages", "vulnerabilities"}

// drivers are the storage drivers that are built in.
var drivers = []string{"filesystem", "inmemory"}

// checker reports problems by the path of the value.
type checker struct {
	*reader
	config *Config
}

func (c *Config) check(r *reader) {
	k := checker{r, c}
	k.listeners()
	k.clients()
	k.routes()
	k.trust()
	k.policy()
	k.numbers()
	k.storage()
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "auto", "json", "console")
}

// wrong reports a problem with the value at path: by the variable that set it,
// or at the place where it stands, or else where the key above it does.
func (k checker) wrong(path, format string, args ...any) {
	if name := variable(path); k.set[name] {
		k.problems = append(k.problems, Problem{Message: name + ": " + fmt.Sprintf(format, args...)})
		return
	}
	message := path + ": " + fmt.Sprintf(format, args...)
	for p := path; p != ""; p = p[:max(0, strings.LastIndexAny(p, ".["))] {
		for _, at := range []*token.Token{k.at[p], k.at[p+"#key"]} {
			if at != nil {
				k.problem(at, "%s", message)
				return
			}
		}
	}
	k.problem(nil, "%s", message)
}

func (k checker) oneOf(path, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	if near := nearest(value, allowed); near != "" && value != "" {
		k.wrong(path, "%q is not one of %s; did you mean %q?", value, strings.Join(allowed, ", "), near)
		return
	}
	k.wrong(path, "%q is not one of %s", value, strings.Join(allowed, ", "))
}

func (k checker) readable(path string, file Path, required bool) {
	if file == "" {
		if required {
			k.wrong(path, "a file must be named")
		}
		return
	}
	f, err := os.Open(string(file))
	if err != nil {
		k.wrong(path, "%v", err)
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		k.wrong(path, "%s is a folder", file)
	}
}

func (k checker) listeners() {
	c := k.config
	for path, address := range map[string]string{"listen": c.Listen, "admin": c.Admin} {
		if address == "" && path == "admin" {
			continue
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil || port == "" {
			k.wrong(path, "%q is not an address; write it as 127.0.0.1:5000 or :5000", address)
			continue
		}
		if local := isLoopback(host); !local && (path == "admin" || c.TLS == nil) {
			what := "without TLS"
			if path == "admin" {
				what = "with profiles and metrics"
			}
			c.Warnings = append(c.Warnings, fmt.Sprintf("%s: %s is open to the network %s", path, address, what))
		}
	}
	if c.TLS != nil {
		k.readable("tls.cert", c.TLS.Cert, true)
		k.readable("tls.key", c.TLS.Key, true)
		k.readable("tls.client_ca", c.TLS.ClientCA, false)
		if c.TLS.ClientCert != "" {
			k.oneOf("tls.client_cert", c.TLS.ClientCert, "required", "optional")
		}
	}
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.IsLoopback())
}

func (k checker) clients() {
	c := &k.config.Clients
	k.readable("clients.htpasswd", c.Htpasswd, false)
	if c.Key != "" {
		k.readable("clients.key", c.Key, true)
	}
	names := map[string]bool{}
	for i, issuer := range c.Issuers {
		path := fmt.Sprintf("clients.issuers[%d]", i)
		u, err := url.Parse(issuer.URL)
		switch {
		case issuer.Name == "" || strings.ContainsAny(issuer.Name, ": "):
			k.wrong(path+".name", "%q is no name; identities begin with it: ci makes ci:repo:acme/app", issuer.Name)
		case names[issuer.Name]:
			k.wrong(path+".name", "%q is there already", issuer.Name)
		case err != nil || u.Host == "" || (u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname()))):
			k.wrong(path+".url", "%q is not an https URL, as it stands in the tokens' iss", issuer.URL)
		case issuer.Audience == "":
			k.wrong(path+".audience", "any token of the issuer would do without one; say what the tokens' aud must be, such as trustgate")
		}
		names[issuer.Name] = true
		k.readable(path+".ca", issuer.CA, false)
	}
	if u, err := url.Parse(c.URL); c.URL != "" && (err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http")) {
		k.wrong("clients.url", "%q is not the http or https URL of the gate", c.URL)
	}
	for i, pattern := range c.Push {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			k.wrong(fmt.Sprintf("clients.push[%d]", i), "%q is no pattern of identities, such as ci:repo:acme/*", pattern)
		}
	}
	if c.Rate.PerSecond < 0 || c.Rate.Burst < 0 {
		k.wrong("clients.rate", "it cannot be negative")
	}
	own := c.Htpasswd != "" || len(c.Issuers) > 0
	certificates := k.config.TLS != nil && k.config.TLS.ClientCA != ""
	if c.Anonymous && !own {
		k.wrong("clients.anonymous", "everybody may pull already: nobody is asked who they are without htpasswd or issuers")
	}
	if slices.ContainsFunc(c.Push, func(pattern string) bool { return pattern != access.Anybody }) && !own && !certificates {
		k.wrong("clients.push", "nobody can prove who they are; add htpasswd, issuers or tls.client_ca")
	}
	host, _, err := net.SplitHostPort(k.config.Listen)
	if err != nil || isLoopback(host) {
		return
	}
	if slices.Contains(c.Push, access.Anybody) {
		k.config.Warnings = append(k.config.Warnings, fmt.Sprintf("clients.push: anybody who reaches %s can push and delete where routes let", k.config.Listen))
	}
	if i := slices.IndexFunc(k.config.Routes, func(r Route) bool { return r.Clients == "upstream" }); own && i >= 0 {
		k.config.Warnings = append(k.config.Warnings, fmt.Sprintf("routes[%d].clients: clients may show %s the password that they have for this gate; give its own users another gate or another Host", i, k.config.Routes[i].Registry))
	}
	asks := own || slices.ContainsFunc(k.config.Routes, func(r Route) bool { return r.Clients == "upstream" })
	if asks && k.config.TLS == nil && !strings.HasPrefix(c.URL, "https:") {
		k.config.Warnings = append(k.config.Warnings, "clients: passwords and tokens cross the network unencrypted; add tls, or say by url that TLS ends before the gate")
	}
}

// push sees to it that nobody opens a registry by accident: the gate pushes with
// its own credentials.
func (k checker) push(path string, r Route) {
	if r.Push != "pass" && r.Push != "judge" {
		return
	}
	switch {
	case r.Clients == "upstream":
		k.wrong(path+".push", "clients of %s push to it directly: the gate would with its own credentials", r.Registry)
	case len(k.config.Clients.Push) == 0:
		k.wrong(path+".push", "say who may push: clients.push has patterns of identities, %q is everybody who proves to be somebody, %q anybody at all", "*", access.Anybody)
	}
}

func (k checker) routes() {
	names := map[string]string{}
	fallback := ""
	if len(k.config.Routes) == 0 {
		k.wrong("routes", "there must be at least one")
	}
	for i, r := range k.config.Routes {
		path := fmt.Sprintf("routes[%d]", i)
		if _, err := oci.NewReference(r.Registry, "repository/name"); err != nil {
			k.wrong(path+".registry", "%q is not the name of a registry, such as docker.io or registry.example:5000", r.Registry)
		}
		for j, name := range append([]string{r.Registry}, r.Hosts...) {
			where := path + ".registry"
			if j > 0 {
				where = fmt.Sprintf("%s.hosts[%d]", path, j-1)
			}
			name = strings.ToLower(name)
			if other, taken := names[name]; taken {
				k.wrong(where, "%q is the name of %s already", name, other)
			}
			names[name] = path
		}
		if r.Default && fallback != "" {
			k.wrong(path+".default", "%s is the default already", fallback)
		} else if r.Default {
			fallback = path
		}
		k.oneOf(path+".mode", r.Mode, "enforce", "annotate", "audit")
		k.oneOf(path+".errors", r.Errors, "block", "annotate")
		k.oneOf(path+".clients", r.Clients, "gate", "upstream")
		k.oneOf(path+".push", r.Push, "deny", "pass", "judge")
		k.push(path, r)
		k.upstream(path, r)
		for j, s := range r.Scopes {
			scope := fmt.Sprintf("%s.scopes[%d]", path, j)
			if len(s.Repositories) == 0 {
				k.wrong(scope, "it names no repositories")
			}
			k.globs(scope+".repositories", s.Repositories)
			if s.Mode != "" {
				k.oneOf(scope+".mode", s.Mode, "enforce", "annotate", "audit")
			}
			if s.Errors != "" {
				k.oneOf(scope+".errors", s.Errors, "block", "annotate")
			}
		}
	}
}

func (k checker) upstream(path string, r Route) {
	u, err := url.Parse(r.Upstream)
	switch {
	case r.Upstream == "":
		k.wrong(path+".upstream", "the URL of the registry is missing")
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		k.wrong(path+".upstream", "%q is not an http or https URL", r.Upstream)
	case u.User != nil:
		k.wrong(path+".upstream", "credentials do not belong into a URL; use credentials")
	case u.Scheme == "http" && !r.Insecure:
		k.wrong(path+".upstream", "%q is plain HTTP; say insecure: true if that is meant", r.Upstream)
	case strings.Trim(u.Path, "/") != "":
		k.wrong(path+".upstream", "%q has a path; a registry is at the root of its host", r.Upstream)
	}
	k.readable(path+".ca", r.CA, false)
	cr := r.Credentials
	kinds := 0
	for _, given := range []bool{cr.DockerConfig != "", cr.Username != "" || cr.PasswordFile != "", cr.Anonymous} {
		if given {
			kinds++
		}
	}
	if kinds > 1 {
		k.wrong(path+".credentials", "docker_config, username with password_file and anonymous exclude each other")
	}
	if (cr.Username == "") != (cr.PasswordFile == "") {
		k.wrong(path+".credentials", "username and password_file belong together")
	}
	k.readable(path+".credentials.docker_config", cr.DockerConfig, false)
	k.readable(path+".credentials.password_file", cr.PasswordFile, false)
	for i, base := range r.Lookaside {
		u, err := url.Parse(base)
		if err != nil || !slices.Contains([]string{"file", "http", "https"}, u.Scheme) {
			k.wrong(fmt.Sprintf("%s.lookaside[%d]", path, i), "%q is not a file, http or https URL", base)
		}
	}
}

func (k checker) globs(path string, patterns []string) {
	for i, p := range patterns {
		if _, err := glob.Compile(p, '/'); err != nil || p == "" {
			k.wrong(fmt.Sprintf("%s[%d]", path, i), "%q is not a pattern", p)
		}
	}
}

func (k checker) trust() {
	t := k.config.Trust
	var names []string
	for i, s := range t.Signers {
		path := fmt.Sprintf("trust.signers[%d]", i)
		switch {
		case s.Name == "":
			k.wrong(path, "a signer needs a name")
		case slices.Contains(names, s.Name):
			k.wrong(path+".name", "there are two signers %q", s.Name)
		}
		names = append(names, s.Name)
		k.signer(path, s)
	}
	k.globs("trust.git.hosts", t.Git.Hosts)
	if t.Git.CA != "" {
		k.readable("trust.git.ca", t.Git.CA, true)
	}
	known := func(path string, signers []string) {
		if len(signers) == 0 {
			k.wrong(path, "at least one signer must be named")
		}
		k.knownSigners(path, signers)
	}
	for i, b := range t.Builders {
		path := fmt.Sprintf("trust.builders[%d]", i)
		k.globs(path+".id", []string{b.ID})
		known(path+".signers", b.Signers)
	}
	k.globs("trust.sources", t.Sources)
	for i, root := range t.Roots {
		path := fmt.Sprintf("trust.roots[%d]", i)
		switch {
		case (root.Digest == "") == (root.Repository == ""):
			k.wrong(path, "a root is a digest, or a repository with its signers")
		case root.Digest != "":
			if _, err := oci.ParseDigest(root.Digest); err != nil {
				k.wrong(path+".digest", "%v", err)
			}
		default:
			if ref, err := oci.ParseReference(root.Repository); err != nil || ref.Name() != root.Repository {
				k.wrong(path+".repository", "%q is not a repository with its registry, such as docker.io/library/debian", root.Repository)
			}
			known(path+".signers", root.Signers)
		}
	}
}

// knownSigners wants each name to be one of trust.signers.
func (k checker) knownSigners(path string, signers []string) {
	var names []string
	for _, s := range k.config.Trust.Signers {
		names = append(names, s.Name)
	}
	for i, name := range signers {
		if slices.Contains(names, name) {
			continue
		}
		hint := "trust.signers has none"
		if near := nearest(name, names); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		} else if len(names) > 0 {
			hint = "known: " + strings.Join(names, ", ")
		}
		k.wrong(fmt.Sprintf("%s[%d]", path, i), "there is no signer %q; %s", name, hint)
	}
}

// signer checks that there is one kind of key and that its files are there;
// what is in them is for those who load it.
func (k checker) signer(path string, s Signer) {
	kinds := 0
	file := func(key string, p Path, needed bool) {
		if needed || p != "" {
			k.readable(path+"."+key, p, true)
		}
	}
	if s.OpenPGP != nil {
		kinds++
		file("openpgp.keyring", s.OpenPGP.Keyring, true)
	}
	if s.Cosign != nil {
		kinds++
		file("cosign.key", s.Cosign.Key, true)
	}
	if s.Keyless != nil {
		kinds++
		file("keyless.root", s.Keyless.Root, true)
	}
	if s.Certificate != nil {
		kinds++
		file("certificate.ca", s.Certificate.CA, true)
		file("certificate.root", s.Certificate.Root, false)
	}
	if s.Notation != nil {
		kinds++
		file("notation.ca", s.Notation.CA, true)
		file("notation.tsa", s.Notation.TSA, false)
		if r := s.Notation.Revocation; r != "" {
			k.oneOf(path+".notation.revocation", r, "soft-fail", "enforce", "skip")
		}
	}
	if s.SSH != nil {
		kinds++
		file("ssh.keys", s.SSH.Keys, true)
	}
	if kinds != 1 {
		k.wrong(path, "a signer has exactly one of openpgp, cosign, keyless, certificate, notation and ssh")
	}
}

// opa checks the keys of OPA's own configuration, which OPA itself only warns of.
func (k checker) opa(section map[string]any) {
	if len(section) == 0 {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(section)) {
		if slices.Contains(opa.Sections, key) {
			continue
		}
		if near := nearest(key, opa.Sections); near != "" {
			k.wrong("policy.opa."+key, "unknown key %q; did you mean %q?", key, near)
		} else {
			k.wrong("policy.opa."+key, "unknown key %q; of OPA's configuration there is %s", key, strings.Join(opa.Sections, ", "))
		}
	}
	mistakes, err := opa.Check(section)
	if err != nil {
		k.wrong("policy.opa", "%v", err)
	}
	for _, m := range mistakes {
		k.wrong("policy.opa."+m.Path, "%s", m.Message)
	}
	for _, key := range opa.Unsigned(section) {
		k.config.Warnings = append(k.config.Warnings, fmt.Sprintf("policy.opa.%s: whoever controls the server, or the way to it, decides what is served; demand signatures with keys and signing", key))
	}
}

func (k checker) policy() {
	p := k.config.Policy
	for i, path := range p.Paths {
		if _, err := os.Stat(string(path)); err != nil {
			k.wrong(fmt.Sprintf("policy.paths[%d]", i), "%v", err)
		}
	}
	for i, path := range p.Data {
		k.readable(fmt.Sprintf("policy.data[%d]", i), path, true)
	}
	for i, path := range p.DockerBuild {
		k.readable(fmt.Sprintf("policy.docker_build[%d]", i), path, true)
	}
	for i, name := range p.Collections {
		if len(p.Paths) > 0 || opa.Judges(p.OPA) {
			break // a team's rules can have collections of their own, which loading them tells
		}
		k.oneOf(fmt.Sprintf("policy.collections[%d]", i), name, Collections...)
	}
	k.ruleSets()
	if !p.Builtin && len(p.Paths)+len(p.Rules)+len(p.DockerBuild) == 0 && !opa.Judges(p.OPA) {
		k.wrong("policy.builtin", "without the shipped library there must be policy.paths, policy.rules, policy.docker_build, or bundles in policy.opa: nothing would be judged")
	}
	k.opa(p.OPA)
	if p.Trial != nil {
		// A candidate that is broken keeps nothing from working.
		for key, paths := range map[string][]Path{"paths": p.Trial.Paths, "data": p.Trial.Data} {
			for i, path := range paths {
				if _, err := os.Stat(string(path)); err != nil {
					k.config.Warnings = append(k.config.Warnings, fmt.Sprintf("policy.trial.%s[%d]: %v", key, i, err))
				}
			}
		}
	}
	for i, e := range p.Exceptions {
		path := fmt.Sprintf("policy.exceptions[%d]", i)
		for _, mistake := range e.Mistakes() {
			k.wrong(strings.TrimSuffix(path+"."+mistake.Key, "."), "%v", mistake.Err)
		}
		if ends, err := ParseExpiry(e.Expires); err == nil && ends.Before(time.Now()) {
			k.config.Warnings = append(k.config.Warnings, fmt.Sprintf("%s for %s expired on %s and does nothing", path, e.Code, e.Expires))
		}
	}
}

// Set is the entry as the rules are loaded by it.
func (r RuleSet) Set() policy.RuleSet {
	return policy.RuleSet{
		Style: r.Style, Paths: PathNames(r.Paths), Data: PathNames(r.Data), Repositories: r.Repositories, RegoVersion: r.RegoVersion,
		Collections: r.Collections, PredicateType: r.PredicateType, Signers: r.Signers,
	}
}

// PathNames are the paths as what reads them takes them.
func PathNames(paths []Path) []string {
	var names []string
	for _, p := range paths {
		names = append(names, string(p))
	}
	return names
}

func (k checker) ruleSets() {
	for i, r := range k.config.Policy.Rules {
		path := fmt.Sprintf("policy.rules[%d]", i)
		if err := r.Set().Check(); err != nil {
			k.wrong(path, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		for j, p := range r.Paths {
			if _, err := os.Stat(string(p)); err != nil {
				k.wrong(fmt.Sprintf("%s.paths[%d]", path, j), "%v", err)
			}
		}
		for j, p := range r.Data {
			k.readable(fmt.Sprintf("%s.data[%d]", path, j), p, true)
		}
		k.globs(path+".repositories", r.Repositories)
		for j, pattern := range r.Repositories {
			if !k.onARoute(pattern) {
				k.config.Warnings = append(k.config.Warnings, fmt.Sprintf("%s.repositories[%d]: %q matches no image of any route, and the rules judge none by it; begin with the registry, as in registry.example/acme/*, or with **", path, j, pattern))
			}
		}
		k.knownSigners(path+".signers", r.Signers)
	}
}

// onARoute says whether the pattern of registry/repository could match on one of the
// routes: as far as its first slash, it matches a registry. One whose first part goes
// beyond a slash could.
func (k checker) onARoute(pattern string) bool {
	first, _, below := strings.Cut(pattern, "/")
	if strings.Contains(first, "**") || strings.ContainsAny(first, "{[") {
		return true
	}
	registry, err := glob.Compile(first, '/')
	if err != nil {
		return true // said already
	}
	return below && slices.ContainsFunc(k.config.Routes, func(r Route) bool { return registry.Match(r.Registry) })
}

func (k checker) numbers() {
	c := k.config
	for path, d := range map[string]Duration{
		"verdicts.serve": c.Verdicts.Serve, "verdicts.block": c.Verdicts.Block, "verdicts.tag": c.Verdicts.Tag, "verdicts.deadline": c.Verdicts.Deadline,
	} {
		if d <= 0 {
			k.wrong(path, "it must be more than nothing")
		}
	}
	if c.Verdicts.Stale < 0 {
		k.wrong("verdicts.stale", "it cannot be negative; 0 turns it off")
	}
	for path, n := range map[string]int64{
		"verdicts.depth": int64(c.Verdicts.Depth), "limits.manifest": int64(c.Limits.Manifest), "limits.attestation": int64(c.Limits.Attestation),
		"limits.signatures": int64(c.Limits.Signatures), "limits.referrers": int64(c.Limits.Referrers), "limits.connections": int64(c.Limits.Connections), "limits.judgements": int64(c.Limits.Judgements),
	} {
		if n <= 0 {
			k.wrong(path, "it must be more than nothing")
		}
	}
	if c.Limits.Manifest > 16<<20 {
		k.wrong("limits.manifest", "more than 16MiB; registries refuse manifests above 4MiB")
	}
	if len(c.Platforms) == 0 {
		k.wrong("platforms", "at least one platform is judged")
	}
	for i, p := range c.Platforms {
		if _, err := ParsePlatform(p); err != nil {
			k.wrong(fmt.Sprintf("platforms[%d]", i), "%v", err)
		}
	}
}

// ParsePlatform reads os/architecture[/variant].
func ParsePlatform(s string) (oci.Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return oci.Platform{}, fmt.Errorf("%q is not a platform; write it as linux/amd64 or linux/arm/v7", s)
	}
	p := oci.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

func (k checker) storage() {
	c := k.config
	if len(c.Cache.Driver) > 1 {
		k.wrong("cache.driver", "there is one driver")
	}
	for name := range c.Cache.Driver {
		k.oneOf("cache.driver", name, drivers...)
	}
	for i, p := range c.Cache.Pinned {
		if _, err := cache.ParsePin(p); err != nil {
			k.wrong(fmt.Sprintf("cache.pinned[%d]", i), "%v", err)
		}
	}
	if c.Cache.Scrub.Every < 0 {
		k.wrong("cache.scrub.every", "it cannot be negative; 0 turns it off")
	}
	if dsn := c.Ledger.DSN; dsn != "" && !strings.HasPrefix(dsn, "sqlite:") {
		scheme, _, _ := strings.Cut(dsn, ":")
		k.wrong("ledger.dsn", "%s: not supported by this version; use sqlite:PATH", scheme)
	}
}
