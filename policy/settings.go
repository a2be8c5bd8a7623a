package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gobwas/glob"
)

// checkSettings refuses configuration that the aggregator or a shipped rule
// would misunderstand: there, a misspelt key weakens without a word. The
// packages that are loaded say whether they are shipped ones; partial says that
// others have settings too.
func checkSettings(config map[string]any, packages map[string]bool, partial bool) error {
	c := &settings{partial: partial}
	c.routes(config["routes"])
	c.exceptions(config["exceptions"])
	c.rules(config["rules"], packages)
	return errors.Join(c.failures...)
}

type settings struct {
	partial  bool
	failures []error
}

func (c *settings) fail(at, format string, args ...any) {
	c.failures = append(c.failures, fmt.Errorf("trustgate.config.%s: %s", at, fmt.Sprintf(format, args...)))
}

// object returns the members of v; nil counts as none.
func (c *settings) object(at string, v any) map[string]any {
	if v == nil {
		return nil
	}
	o, ok := v.(map[string]any)
	if !ok {
		c.fail(at, "it must be a mapping")
	}
	return o
}

func (c *settings) list(at string, v any) []any {
	if v == nil {
		return nil
	}
	l, ok := v.([]any)
	if !ok {
		c.fail(at, "it must be a list")
	}
	return l
}

func (c *settings) oneOf(at string, v any, allowed ...string) {
	if v == nil {
		return
	}
	if s, ok := v.(string); !ok || !slices.Contains(allowed, s) {
		c.fail(at, "it is %v; it must be one of %s", v, strings.Join(allowed, ", "))
	}
}

func (c *settings) known(at string, o map[string]any, keys ...string) {
	for _, key := range slices.Sorted(maps.Keys(o)) {
		if slices.Contains(keys, key) {
			continue
		}
		if near := nearest(key, keys); near != "" {
			c.fail(at, "there is no %s; did you mean %s?", key, near)
		} else {
			c.fail(at, "there is no %s; there is %s", key, strings.Join(keys, ", "))
		}
	}
}

// names demands a list of at least one non-empty text.
func (c *settings) names(at string, v any) []string {
	names, err := textList(v)
	switch {
	case err != nil:
		c.fail(at, "%v", err)
	case len(names) == 0:
		c.fail(at, "it names nothing")
	}
	return names
}

func (c *settings) patterns(at string, v any) {
	for _, p := range c.names(at, v) {
		c.pattern(at, p)
	}
}

func (c *settings) pattern(at, p string) {
	if _, err := glob.Compile(p, '/'); err != nil {
		c.fail(at, "the pattern %q: %v", p, err)
	}
}

func (c *settings) routes(v any) {
	routes := c.object("routes", v)
	for _, name := range slices.Sorted(maps.Keys(routes)) {
		at := fmt.Sprintf("routes[%q]", name)
		route := c.object(at, routes[name])
		c.behaviour(at, route)
		for i, s := range c.list(at+".scopes", route["scopes"]) {
			at := fmt.Sprintf("%s.scopes[%d]", at, i)
			scope := c.object(at, s)
			c.patterns(at+".repositories", scope["repositories"])
			c.behaviour(at, scope)
		}
	}
}

func (c *settings) behaviour(at string, o map[string]any) {
	c.oneOf(at+".mode", o["mode"], string(Enforce), string(AnnotateOnly), string(Audit))
	c.oneOf(at+".errors", o["errors"], "block", "annotate")
}

func (c *settings) exceptions(v any) {
	for i, e := range c.list("exceptions", v) {
		at := fmt.Sprintf("exceptions[%d]", i)
		x := c.object(at, e)
		c.known(at, x, "id", "code", "repository", "digest", "owner", "reason", "expires")
		text := func(key string) string {
			s, ok := x[key].(string)
			if !ok && x[key] != nil {
				c.fail(at+"."+key, "it must be a text")
			}
			return strings.TrimSpace(s)
		}
		for _, key := range []string{"id", "code", "owner", "reason"} {
			if text(key) == "" {
				c.fail(at, "it has no %s", key)
			}
		}
		if text("repository") == "" && text("digest") == "" {
			c.fail(at, "it names neither a repository (registry/repository, * and ** as wildcards) nor a digest")
		}
		c.pattern(at+".repository", text("repository"))
		if err := checkInstant(text("expires")); err != nil {
			c.fail(at+".expires", "%v", err)
		}
	}
}

// shippedSettings are those of the shipped rules, below rules: each counts where
// its package is loaded.
var shippedSettings = []struct {
	key, pkg string
	keys     []string
	check    func(c *settings, at string, o map[string]any)
}{
	{"signature", "signature", []string{"signers"}, func(c *settings, at string, o map[string]any) {
		c.signers(at+".signers", o["signers"])
	}},
	{"source_tag", "source", []string{"signers"}, func(c *settings, at string, o map[string]any) {
		if o["signers"] != nil {
			c.names(at+".signers", o["signers"])
		}
	}},
	{"reproduced", "build", []string{"at_least"}, func(c *settings, at string, o map[string]any) {
		c.count(at+".at_least", o["at_least"])
	}},
	{"packages", "packages", []string{"pending"}, func(c *settings, at string, o map[string]any) {
		c.oneOf(at+".pending", o["pending"], "block", "annotate", "ignore")
	}},
	{"vulnerability", "vulnerability", []string{"max_age", "severity"}, func(c *settings, at string, o map[string]any) {
		c.age(at+".max_age", o["max_age"])
		c.oneOf(at+".severity", o["severity"], "CRITICAL", "HIGH", "MEDIUM", "LOW", "NEGLIGIBLE", "UNKNOWN")
	}},
}

func (c *settings) rules(v any, packages map[string]bool) {
	rules := c.object("rules", v)
	keys := slices.Collect(maps.Keys(packages))
	for _, s := range shippedSettings {
		if packages[s.pkg] {
			keys = append(keys, s.key)
		}
	}
	if slices.Sort(keys); !c.partial {
		c.known("rules", rules, slices.Compact(keys)...)
	}
	for _, s := range shippedSettings {
		if !packages[s.pkg] {
			continue // a team's own package may have that name
		}
		at := "rules." + s.key
		o := c.object(at, rules[s.key])
		c.known(at, o, s.keys...)
		s.check(c, at, o)
	}
}

func (c *settings) signers(at string, v any) {
	signers := c.list(at, v)
	if v != nil && len(signers) == 0 {
		c.fail(at, "it names nobody; leave it out to accept every signer of trust.signers")
	}
	for i, s := range signers {
		at := fmt.Sprintf("%s[%d]", at, i)
		switch s := s.(type) {
		case string:
			if _, first := signers[0].(string); !first || s == "" {
				c.fail(at, "it must be a mapping of repositories and signers, as the first is")
			}
		case map[string]any:
			if i > 0 {
				if _, first := signers[0].(map[string]any); !first {
					c.fail(at, "it must be a name, as the first is")
				}
			}
			c.known(at, s, "repositories", "signers")
			c.patterns(at+".repositories", s["repositories"])
			c.names(at+".signers", s["signers"])
		default:
			c.fail(at, "it must be a name, or a mapping of repositories and signers")
		}
	}
}

// count demands a whole number of at least one.
func (c *settings) count(at string, v any) {
	if v == nil {
		return
	}
	number, _ := v.(json.Number)
	if n, err := number.Int64(); err != nil || n < 1 {
		c.fail(at, "it is %v; it must be a number of at least 1", v)
	}
}

var days = regexp.MustCompile(`^[1-9][0-9]{0,3}d$`)

// age demands a duration as Go writes it, or days.
func (c *settings) age(at string, v any) {
	if v == nil {
		return
	}
	text, _ := v.(string)
	if d, err := time.ParseDuration(text); !days.MatchString(text) && (err != nil || d <= 0) {
		c.fail(at, "it is %v; it must be a duration, such as 7d or 36h", v)
	}
}
