// Package config reads TrustGate's configuration: one strict YAML file and the
// environment.
//
// Every mistake is reported at once, with file, line and column, and with what
// was probably meant. A configuration with a mistake is never used, not even in
// part. The package reads files to see that they are there; it holds no secret,
// only the paths of secrets, but for those that a person writes into policy.opa.
package config

import (
	"os"
	"path/filepath"
	"time"
)

// Config is the whole configuration. Paths in it are absolute once it is
// loaded.
type Config struct {
	Listen    string    `yaml:"listen"`
	TLS       *TLS      `yaml:"tls"`
	Admin     string    `yaml:"admin"`
	Data      Path      `yaml:"data"`
	Clients   Clients   `yaml:"clients"`
	Routes    []Route   `yaml:"routes"`
	Platforms []string  `yaml:"platforms"`
	Trust     Trust     `yaml:"trust"`
	Policy    Policy    `yaml:"policy"`
	Verdicts  Verdicts  `yaml:"verdicts"`
	Cache     Cache     `yaml:"cache"`
	Ledger    Ledger    `yaml:"ledger"`
	Summaries Summaries `yaml:"summaries"`
	Packages  Packages  `yaml:"packages"`
	Limits    Limits    `yaml:"limits"`
	Log       Log       `yaml:"log"`

	// Warnings are things that work and that a person should know of.
	Warnings []string `yaml:"-"`
	// File is where the configuration came from, "" for the defaults.
	File string `yaml:"-"`
}

// TLS makes the registry listener speak TLS. With ClientCA, clients must show a
// certificate, or may where it is optional; its subject reaches the rules as
// input.request.client.identity.
type TLS struct {
	Cert       Path   `yaml:"cert"`
	Key        Path   `yaml:"key"`
	ClientCA   Path   `yaml:"client_ca"`
	ClientCert string `yaml:"client_cert"` // required or optional
}

// Clients says how those who pull prove who they are. Without htpasswd and
// issuers nobody has to, beyond what tls and routes ask for.
type Clients struct {
	Htpasswd  Path     `yaml:"htpasswd"`
	Issuers   []Issuer `yaml:"issuers"`
	Anonymous bool     `yaml:"anonymous"` // also those who prove nothing may pull
	Push      []string `yaml:"push"`      // patterns of identities that may push
	Rate      Rate     `yaml:"rate"`
	Recheck   Duration `yaml:"recheck"` // of what a route's registry lets a client
	URL       string   `yaml:"url"`
	Key       Path     `yaml:"key"` // "" is a key in the data folder, made at the first start
}

// Issuer is an OpenID provider whose tokens clients show.
type Issuer struct {
	Name     string              `yaml:"name"`
	URL      string              `yaml:"url"`
	Audience string              `yaml:"audience"`
	Identity string              `yaml:"identity"`
	Claims   map[string][]string `yaml:"claims"`
	CA       Path                `yaml:"ca"`
}

// Rate bounds what one client may ask.
type Rate struct {
	PerSecond float64 `yaml:"per_second"`
	Burst     int     `yaml:"burst"`
}

// Route is one registry behind the gate.
type Route struct {
	Registry    string      `yaml:"registry"`
	Upstream    string      `yaml:"upstream"`
	Hosts       []string    `yaml:"hosts"`
	Default     bool        `yaml:"default"`
	Mode        string      `yaml:"mode"`
	Errors      string      `yaml:"errors"`
	Insecure    bool        `yaml:"insecure"`
	CA          Path        `yaml:"ca"`
	Credentials Credentials `yaml:"credentials"`
	Lookaside   []string    `yaml:"lookaside"`
	Clients     string      `yaml:"clients"` // gate, or upstream: the registry decides by their own credentials
	Push        string      `yaml:"push"`
	Scopes      []Scope     `yaml:"scopes"`
}

// Credentials say how the gate presents itself to an upstream.
type Credentials struct {
	DockerConfig Path   `yaml:"docker_config"`
	Username     string `yaml:"username"`
	PasswordFile Path   `yaml:"password_file"`
	Anonymous    bool   `yaml:"anonymous"`
}

// Scope changes a route's mode for some repositories.
type Scope struct {
	Repositories []string `yaml:"repositories"`
	Mode         string   `yaml:"mode"`
	Errors       string   `yaml:"errors"`
}

// Trust names whom and what the gate trusts.
type Trust struct {
	Signers  []Signer  `yaml:"signers"`
	Builders []Builder `yaml:"builders"`
	Sources  []string  `yaml:"sources"`
	Roots    []Root    `yaml:"roots"`
	Git      Git       `yaml:"git"`
}

// Git says which git hosts are asked for the signed tag of a revision, and for
// the Dockerfile at it. Without hosts nobody is.
type Git struct {
	Hosts    []string `yaml:"hosts"`
	Private  bool     `yaml:"private"`
	Insecure bool     `yaml:"insecure"`
	CA       Path     `yaml:"ca"`
	MaxSize  Size     `yaml:"max_size"`
	Timeout  Duration `yaml:"timeout"`
}

// Signer is a party that signs; exactly one kind of key is given.
type Signer struct {
	Name        string             `yaml:"name"`
	OpenPGP     *OpenPGPSigner     `yaml:"openpgp"`
	Cosign      *CosignSigner      `yaml:"cosign"`
	Keyless     *KeylessSigner     `yaml:"keyless"`
	Certificate *CertificateSigner `yaml:"certificate"`
	Notation    *NotationSigner    `yaml:"notation"`
	SSH         *SSHSigner         `yaml:"ssh"`
}

// OpenPGPSigner is a keyring.
type OpenPGPSigner struct {
	Keyring Path `yaml:"keyring"`
}

// CosignSigner is a public key.
type CosignSigner struct {
	Key Path `yaml:"key"`
}

// KeylessSigner is an identity that a public or private sigstore vouches for.
type KeylessSigner struct {
	Issuer           string `yaml:"issuer"`
	IssuerRegexp     string `yaml:"issuer_regexp"`
	Subject          string `yaml:"subject"`
	SubjectRegexp    string `yaml:"subject_regexp"`
	SourceRepository string `yaml:"source_repository"`
	SourceRef        string `yaml:"source_ref"`
	Root             Path   `yaml:"root"`
	WithoutSCT       bool   `yaml:"without_sct"`
	WithoutLog       bool   `yaml:"without_log"`
	Timestamps       int    `yaml:"timestamps"`
}

// CertificateSigner is an identity in certificates of a private authority.
type CertificateSigner struct {
	CA            Path   `yaml:"ca"`
	Subject       string `yaml:"subject"`
	SubjectRegexp string `yaml:"subject_regexp"`
	Root          Path   `yaml:"root"` // the logs and time stamp authorities
	Log           bool   `yaml:"log"`
	Timestamps    int    `yaml:"timestamps"`
}

// NotationSigner is a certificate authority with the identities it may name.
type NotationSigner struct {
	CA         Path     `yaml:"ca"`
	Identities []string `yaml:"identities"`
	TSA        Path     `yaml:"tsa"`
	Revocation string   `yaml:"revocation"`
}

// SSHSigner is the keys of an allowed_signers file; they sign git tags.
type SSHSigner struct {
	Keys Path `yaml:"keys"`
}

// Builder is a builder and the signers who may speak for it.
type Builder struct {
	ID      string   `yaml:"id"`
	Signers []string `yaml:"signers"`
}

// Root is where trust may end.
type Root struct {
	Digest     string   `yaml:"digest"`
	Repository string   `yaml:"repository"`
	Signers    []string `yaml:"signers"`
}

// Policy says which rules judge.
type Policy struct {
	Paths       []Path         `yaml:"paths"`
	Rules       []RuleSet      `yaml:"rules"`
	Builtin     bool           `yaml:"builtin"`
	Collections []string       `yaml:"collections"`
	Data        []Path         `yaml:"data"`
	DockerBuild []Path         `yaml:"docker_build"`
	Exceptions  []Exception    `yaml:"exceptions"`
	Trial       *Trial         `yaml:"trial"`
	OPA         map[string]any `yaml:"opa"` // OPA's own configuration, as OPA reads it
}

// RuleSet is rules that were written for another tool.
type RuleSet struct {
	Style         string   `yaml:"style"` // conftest, conforma or cosign
	Paths         []Path   `yaml:"paths"`
	Data          []Path   `yaml:"data"`           // below data, as the rules expect it
	Repositories  []string `yaml:"repositories"`   // patterns of registry/repository
	RegoVersion   string   `yaml:"rego_version"`   // of conftest rules: v0 or v1
	Collections   []string `yaml:"collections"`    // of Conforma rules
	PredicateType string   `yaml:"predicate_type"` // of a cosign policy
	Signers       []string `yaml:"signers"`        // of a cosign policy
}

// Trial is a candidate policy, which judges beside the one in force and decides
// nothing. What it leaves out is as in the policy in force.
type Trial struct {
	Paths       []Path   `yaml:"paths"`
	Builtin     *bool    `yaml:"builtin"`
	Collections []string `yaml:"collections"`
	Data        []Path   `yaml:"data"`
}

// Verdicts bounds verdicts in time and depth.
type Verdicts struct {
	Serve    Duration `yaml:"serve"`
	Block    Duration `yaml:"block"`
	Tag      Duration `yaml:"tag"`
	Stale    Duration `yaml:"stale"`
	Deadline Duration `yaml:"deadline"`
	Depth    int      `yaml:"depth"`
}

// Cache says where verified content is kept, how much of it, and how often it
// is hashed again.
type Cache struct {
	Driver  map[string]map[string]any `yaml:"driver"`
	MaxSize Size                      `yaml:"max_size"`
	Pinned  []string                  `yaml:"pinned"`
	Scrub   Scrub                     `yaml:"scrub"`
}

// Scrub says when everything in the cache is hashed again.
type Scrub struct {
	Every Duration `yaml:"every"`
	Rate  Size     `yaml:"rate"` // a second
}

// Ledger says where verdicts are kept.
type Ledger struct {
	DSN string `yaml:"dsn"`
}

// Summaries says how verdicts are signed for verifiers that do not know the
// gate.
type Summaries struct {
	Key      Path   `yaml:"key"`      // "" is a key in the data folder, made at the first start
	Verifier string `yaml:"verifier"` // a URI
}

// Packages says whether the packages inside images are checked, in the
// background, after their first pull.
type Packages struct {
	Examine bool     `yaml:"examine"`
	MaxSize Size     `yaml:"max_size"` // of an image, uncompressed
	Timeout Duration `yaml:"timeout"`
}

// Limits bounds what strangers can make the gate do.
type Limits struct {
	Manifest    Size `yaml:"manifest"`
	Attestation Size `yaml:"attestation"`
	Signatures  int  `yaml:"signatures"`
	Referrers   int  `yaml:"referrers"`
	Connections int  `yaml:"connections"`
	Judgements  int  `yaml:"judgements"`
}

// Log says what is logged and how.
type Log struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// Default is what TrustGate does without a file: it knows the public
// registries, keeps its data in the user's data folder, and annotates.
func Default() *Config {
	c := &Config{
		Listen:    "127.0.0.1:5000",
		Admin:     "127.0.0.1:5001",
		Data:      Path(dataFolder()),
		Platforms: []string{"linux/amd64", "linux/arm64"},
		Trust:     Trust{Git: Git{MaxSize: 32 << 20, Timeout: Duration(20 * time.Second)}},
		Policy:    Policy{Builtin: true, Collections: []string{"trusted-builds"}},
		Verdicts: Verdicts{
			Serve: Duration(10 * time.Minute), Block: Duration(30 * time.Second), Tag: Duration(30 * time.Second),
			Stale: Duration(24 * time.Hour), Deadline: Duration(30 * time.Second), Depth: 16,
		},
		Clients:   Clients{Recheck: Duration(time.Minute)},
		Cache:     Cache{MaxSize: 50 << 30, Scrub: Scrub{Every: Duration(7 * 24 * time.Hour), Rate: 20 << 20}},
		Summaries: Summaries{Verifier: "https://github.com/trustgate/trustgate"},
		Packages:  Packages{MaxSize: 32 << 30, Timeout: Duration(10 * time.Minute)},
		Limits:    Limits{Manifest: 4 << 20, Attestation: 16 << 20, Signatures: 64, Referrers: 256, Connections: 4096, Judgements: 128},
		Log:       Log{Level: "info", Format: "auto"},
	}
	for _, r := range []struct{ registry, upstream string }{
		{"docker.io", "https://registry-1.docker.io"},
		{"ghcr.io", "https://ghcr.io"},
		{"quay.io", "https://quay.io"},
		{"registry.k8s.io", "https://registry.k8s.io"},
		{"mcr.microsoft.com", "https://mcr.microsoft.com"},
		{"gcr.io", "https://gcr.io"},
	} {
		route := defaultRoute()
		route.Registry, route.Upstream, route.Mode = r.registry, r.upstream, "annotate"
		route.Default = r.registry == "docker.io"
		c.Routes = append(c.Routes, route)
	}
	return c
}

// defaultRoute is what a route that a person wrote starts from.
func defaultRoute() Route {
	return Route{Mode: "enforce", Errors: "block", Clients: "gate", Push: "deny"}
}

func dataFolder() string {
	if home := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, "trustgate")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "share", "trustgate")
	}
	return filepath.Join(os.TempDir(), "trustgate")
}

// CacheRoot is the folder of the filesystem cache.
func (c *Config) CacheRoot() string {
	if root, ok := c.Cache.Driver["filesystem"]["rootdirectory"].(string); ok {
		return root
	}
	return filepath.Join(string(c.Data), "cache")
}

// CacheDriver is the storage driver and its parameters.
func (c *Config) CacheDriver() (name string, parameters map[string]any) {
	for name, parameters := range c.Cache.Driver {
		if name != "filesystem" {
			return name, parameters
		}
	}
	return "filesystem", map[string]any{"rootdirectory": c.CacheRoot()}
}

// Spool is where content lies until it is verified.
func (c *Config) Spool() string { return filepath.Join(string(c.Data), "spool") }

// SummaryKey is the key that verdicts are signed with.
func (c *Config) SummaryKey() string {
	if c.Summaries.Key != "" {
		return string(c.Summaries.Key)
	}
	return filepath.Join(string(c.Data), "verdicts.key")
}

// Persisted is where OPA keeps what it is to persist, unless its configuration
// says it.
func (c *Config) Persisted() string { return filepath.Join(string(c.Data), "opa") }

// Folder is what relative paths are relative to.
func (c *Config) Folder() string {
	if c.File == "" {
		return "."
	}
	return filepath.Dir(c.File)
}

// ClientKey is the key that what clients carry is sealed with: tokens, and
// uploads under way. Gates that serve the same clients share it.
func (c *Config) ClientKey() string {
	if c.Clients.Key != "" {
		return string(c.Clients.Key)
	}
	return filepath.Join(string(c.Data), "clients.key")
}

// LedgerDSN names the ledger.
func (c *Config) LedgerDSN() string {
	if c.Ledger.DSN != "" {
		return c.Ledger.DSN
	}
	return "sqlite:" + filepath.Join(string(c.Data), "ledger.db")
}
