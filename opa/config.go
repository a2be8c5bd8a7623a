package opa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/config"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/bundle"
	"github.com/open-policy-agent/opa/v1/plugins/discovery"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/plugins/status"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/util"
	"go.uber.org/zap"
)

// Sections are the members of OPA's configuration that mean something here: its
// machinery for policy from elsewhere. The rest configures OPA's own server.
//
// https://www.openpolicyagent.org/docs/configuration
var Sections = []string{"services", "keys", "labels", "bundles", "discovery", "decision_logs", "status", "persistence_directory"}

const (
	maxFile = 64 << 20 // bytes of one file of a bundle, unless size_limit_bytes says otherwise
	maxKey  = 64 << 10 // bytes of a file with a key
)

// Config is OPA's own configuration, with its files found and its environment
// filled in. It can hold secrets and is never logged.
type Config struct {
	section map[string]any
}

// Mistake is something in the configuration that OPA would pass over.
type Mistake struct {
	Path    string // of the key, with dots, below the section
	Message string
}

var unknownOption = regexp.MustCompile(`^unknown configuration option "(.*)" encountered$`)

// Check names the options below the sections that OPA does not know.
func Check(section map[string]any) ([]Mistake, error) {
	raw, err := json.Marshal(section)
	if err != nil {
		return nil, err
	}
	parsed, err := config.ParseConfig(raw, "")
	if err != nil {
		return nil, err
	}
	var mistakes []Mistake
	for _, warning := range parsed.Warnings {
		if option := unknownOption.FindStringSubmatch(warning); option != nil && strings.Contains(option[1], ".") {
			mistakes = append(mistakes, Mistake{option[1], "OPA has no such option"})
		}
	}
	slices.SortFunc(mistakes, func(a, b Mistake) int { return strings.Compare(a.Path, b.Path) })
	return mistakes, nil
}

// Unsigned are the keys of the bundles that are taken without a signature: of
// whoever controls the server, or the way to it.
func Unsigned(section map[string]any) []string {
	var keys []string
	bundles, _ := section["bundles"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(bundles)) {
		if source, ok := bundles[name].(map[string]any); ok && source["signing"] == nil {
			keys = append(keys, "bundles."+name)
		}
	}
	if found, ok := section["discovery"].(map[string]any); ok && found["signing"] == nil {
		keys = append(keys, "discovery")
	}
	return keys
}

// Judges says whether rules come of the section, and not only a log of decisions.
func Judges(section map[string]any) bool {
	return section["bundles"] != nil || section["discovery"] != nil
}

// Read makes a section of the configuration ready. Files in it are relative to the
// folder, ${NAME} stands for a variable of the environment, and a public key may be
// the name of its file. persist is where OPA keeps what it is to persist, unless
// the section says it.
func Read(section map[string]any, folder, persist string) (*Config, error) {
	raw, err := json.Marshal(section)
	if err != nil {
		return nil, fmt.Errorf("reading policy.opa: %w", err)
	}
	c := &Config{}
	if err := util.UnmarshalJSON(raw, &c.section); err != nil {
		return nil, fmt.Errorf("reading policy.opa: %w", err)
	}
	c.section, _ = substitute(c.section).(map[string]any)
	if kept, _ := c.section["persistence_directory"].(string); kept != "" {
		c.section["persistence_directory"] = absolute(kept, folder)
	} else {
		c.section["persistence_directory"] = persist
	}
	services(c.section["services"], func(service map[string]any) { rebase(service, folder) })
	if err := readKeys(c.section["keys"], folder); err != nil {
		return nil, fmt.Errorf("policy.opa.keys: %w", err)
	}
	if c.section["bundle"] != nil {
		return nil, errors.New("policy.opa.bundle is a form that OPA has given up; write bundles")
	}
	bundles, _ := c.section["bundles"].(map[string]any)
	if err := bound(bundles, false); err != nil {
		return nil, fmt.Errorf("policy.opa.bundles: %w", err)
	}
	return c, nil
}

// Validate says whether OPA's plugins would take it. Nothing is sent.
func (c *Config) Validate() error {
	raw, err := json.Marshal(c.section)
	if err != nil {
		return err
	}
	log := zapped{log: zap.NewNop()}
	m, err := plugins.New(raw, "", inmem.New(), plugins.Logger(log), plugins.ConsoleLogger(log))
	if err != nil {
		return fmt.Errorf("policy.opa: %w", err)
	}
	defer m.Stop(context.Background())
	read, services, keys := m.GetConfig(), m.Services(), m.PublicKeys()
	_, ofBundles := bundle.NewConfigBuilder().WithBytes(read.Bundles).WithServices(services).WithKeyConfigs(keys).Parse()
	_, ofDiscovery := discovery.NewConfigBuilder().WithBytes(read.Discovery).WithServices(services).WithKeyConfigs(keys).Parse()
	_, ofLogs := logs.NewConfigBuilder().WithBytes(read.DecisionLogs).WithServices(services).WithLogger(log).Parse()
	_, ofStatus := status.NewConfigBuilder().WithBytes(read.Status).WithServices(services).Parse()
	if err := errors.Join(ofBundles, ofDiscovery, ofLogs, ofStatus); err != nil {
		return fmt.Errorf("policy.opa: %w", err)
	}
	return nil
}

// once is the configuration for a look that asks each server one time and tells
// nobody.
func (c *Config) once() (*Config, error) {
	copied := map[string]any{}
	if raw, err := json.Marshal(c.section); err != nil {
		return nil, err
	} else if err := util.UnmarshalJSON(raw, &copied); err != nil {
		return nil, err
	}
	delete(copied, "decision_logs")
	delete(copied, "status")
	if found, ok := copied["discovery"].(map[string]any); ok {
		found["trigger"] = "manual"
	}
	bundles, _ := copied["bundles"].(map[string]any)
	return &Config{section: copied}, bound(bundles, true)
}

// bound limits what a bundle can do to the gate before its signature is checked,
// and refuses a name that would be written outside of the folder for bundles.
func bound(bundles map[string]any, once bool) error {
	for name, source := range bundles {
		if !filepath.IsLocal(name) {
			return fmt.Errorf("%q is no name of a bundle: it is a folder's too", name)
		}
		settings, ok := source.(map[string]any)
		if !ok {
			continue
		}
		if settings["size_limit_bytes"] == nil {
			settings["size_limit_bytes"] = maxFile
		}
		if once {
			settings["trigger"] = "manual"
		}
	}
	return nil
}

// discovered holds a configuration that comes from a server to the same bounds.
type discovered struct{ once bool }

// OnConfigDiscovery implements OPA's hooks.ConfigDiscoveryHook.
func (d *discovered) OnConfigDiscovery(_ context.Context, c *config.Config) (*config.Config, error) {
	if c.Bundle != nil {
		return nil, errors.New("the discovered configuration has bundle, which OPA has given up; it must say bundles")
	}
	if d.once {
		c.DecisionLogs, c.Status = nil, nil
	}
	if c.Bundles == nil {
		return c, nil
	}
	var bundles map[string]any
	if err := util.UnmarshalJSON(c.Bundles, &bundles); err != nil {
		return nil, fmt.Errorf("reading the discovered bundles: %w", err)
	}
	err := bound(bundles, d.once)
	if err == nil {
		c.Bundles, err = json.Marshal(bundles)
	}
	if err != nil {
		return nil, fmt.Errorf("the discovered bundles: %w", err)
	}
	return c, nil
}

var variable = regexp.MustCompile(`\$\{[^}]+\}`)

// substitute fills variables of the environment in, as OPA does with its own
// file: one that is not set stays as it is.
func substitute(v any) any {
	switch v := v.(type) {
	case string:
		return variable.ReplaceAllStringFunc(v, func(name string) string {
			if value, ok := os.LookupEnv(name[2 : len(name)-1]); ok {
				return value
			}
			return name
		})
	case map[string]any:
		for key := range v {
			v[key] = substitute(v[key])
		}
	case []any:
		for i := range v {
			v[i] = substitute(v[i])
		}
	}
	return v
}

// services calls f with each of them; OPA takes a mapping or a list.
func services(v any, f func(map[string]any)) {
	visit := func(one any) {
		if service, ok := one.(map[string]any); ok {
			f(service)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		for _, one := range v {
			visit(one)
		}
	case []any:
		for _, one := range v {
			visit(one)
		}
	}
}

// files are the options of a service that name files: tls and every kind of
// credentials.
var files = []string{"ca_cert", "token_path", "cert", "private_key", "client_assertion_path", "cache_path", "web_identity_token_file"}

func rebase(options map[string]any, folder string) {
	for key, value := range options {
		switch value := value.(type) {
		case map[string]any:
			if name, ok := value["path"].(string); ok && key == "profile_credentials" {
				value["path"] = absolute(name, folder)
			}
			rebase(value, folder)
		case string:
			if slices.Contains(files, key) {
				options[key] = absolute(value, folder)
			}
		}
	}
}

func absolute(name, folder string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(folder, name)
}

// readKeys puts the content in the place of a file's name. What is no PEM can only
// be the secret of an HMAC.
func readKeys(v any, folder string) error {
	keys, _ := v.(map[string]any)
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		settings, _ := keys[id].(map[string]any)
		text, _ := settings["key"].(string)
		algorithm, _ := settings["algorithm"].(string)
		if text == "" || strings.HasPrefix(algorithm, "HS") || strings.Contains(text, "-----BEGIN") {
			continue
		}
		f, err := os.Open(absolute(text, folder))
		if err != nil {
			return fmt.Errorf("%s is neither a public key in PEM nor a file with one: %w", id, err)
		}
		raw, err := io.ReadAll(io.LimitReader(f, maxKey+1))
		if f.Close(); err != nil || len(raw) > maxKey {
			return fmt.Errorf("%s: its file cannot be read, or has more than %d bytes", id, maxKey)
		}
		settings["key"] = string(raw)
	}
	return nil
}
