package pattern_test

import (
	"strings"
	"testing"

	"github.com/trustgate/trustgate/evidence/internal/pattern"
)

func TestMatch(t *testing.T) {
	const github = "https://github.com/acme/*"
	for _, tc := range []struct {
		pattern, subject string
		want             bool
	}{
		{github, "https://github.com/acme/x", true},
		{github, "https://GitHub.COM/acme/x", true},
		{github, "HTTPS://github.com/acme/x", true},
		{"https://GitHub.com/acme/*", "https://github.com/acme/x", true},
		{github, "https://github.com/acme/a%20b", true},
		{github, "https://github.com/Acme/x", false},
		{github, "https://github.com/acme/x/y", false},
		{github, "https://github.com/acme", false},
		{github, "http://github.com/acme/x", false},
		{github, "https://github.com.evil/acme/x", false},
		{github, "https://evil.github.com/acme/x", false},
		{github, "https://github.com./acme/x", false},
		{github, "https://github.com:444/acme/x", false},
		{github, "https://github.com@evil/acme/x", false},
		{github, "https://user:secret@github.com/acme/x", false},
		{github, "https://github.com/acme/..", false},
		{github, "https://github.com/acme/%2e%2e", false},
		{github, "https://github.com/acme/x%2Fy", false},
		{github, "https://github.com/acme/x%5cy", false},
		{github, "https://github.com/acme/x\\y", false},
		{github, "https://github.com/acme/x\ny", false},
		{github, "https://github.com/acme/x y", false},
		{github, "https://github.com/acme/\u0445", false},
		{github, "https://evil/https://github.com/acme/x", false},
		{github, "", false},
		{github, "https://github.com/acme/" + strings.Repeat("x", 5000), false},
		{"https://github.com/acme/**", "https://github.com/acme/x/y", true},
		{"https://github.com/acme/**", "https://github.com/acme/../evil", false},
		{"https://github.com/acme/**", "https://github.com/acme//x", false},
		{"https://github.com/acme/**", "https://github.com/acme/x/./y", false},
		{"https://github.com/{acme,widgets}/*", "https://github.com/widgets/x", true},
		{"https://*.example/x", "https://a.b.example/x", true},
		{"https://*.example/x", "https://evil/.example/x", false},
		{"**", "https://github.com/acme/x", true},
		{"**", "https://github.com/acme/../x", false},
		{"git://127.0.0.1:9418/**", "git://127.0.0.1:9418/app", true},
		{"https://[::1]:8443/*", "https://[::1]:8443/app", false}, // brackets are a class: escape them
		{`https://\[::1\]:8443/*`, "https://[::1]:8443/app", true},
	} {
		p, err := pattern.Compile(tc.pattern)
		if err != nil {
			t.Fatalf("%s: %v", tc.pattern, err)
		}
		if got := p.Match(tc.subject); got != tc.want {
			t.Errorf("%s matches %q: %v, want %v", tc.pattern, tc.subject, got, tc.want)
		}
	}
}

func TestMatchPrefix(t *testing.T) {
	const ci = "https://github.com/acme/ci*"
	for _, tc := range []struct {
		pattern, subject string
		want             bool
	}{
		{ci, "https://github.com/acme/ci/.github/workflows/build.yml@refs/heads/main", true},
		{ci, "https://github.com/acme/ci", true},
		{ci, "https://github.com/acme/ci-tools", true},
		{ci, "https://github.com/acme/ci/../../evil/x", false},
		{ci, "https://github.com/acme/ci%2F..%2Fevil", false},
		{ci, "https://github.com/acme", false},
		{ci, "https://github.com.evil/acme/ci", false},
		{"https://ci.example/**", "https://ci.example/a/b", true},
		{"https://ci.example/*/x", "https://ci.example/a/b/x", false},
		{"https://github.com*", "https://github.com.evil/acme", false},
		{"https://ci.example/buildkit", "https://ci.example/buildkit", true},
		{"https://ci.example/buildkit", "https://ci.example/buildkit/x", false},
		{"acme-ci*", "acme-ci/7", true},
		{`acme\*`, "acme*", true},
		{`acme\*`, "acme*x", false},
	} {
		p, err := pattern.CompilePrefix(tc.pattern)
		if err != nil {
			t.Fatalf("%s: %v", tc.pattern, err)
		}
		if got := p.Match(tc.subject); got != tc.want {
			t.Errorf("%s matches %q: %v, want %v", tc.pattern, tc.subject, got, tc.want)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, s := range []string{"", "https://github.com/{acme", "https://github.com/[acme", strings.Repeat("x", 5000)} {
		if p, err := pattern.Compile(s); err == nil || p.Match("https://github.com/acme") {
			t.Errorf("%.80q: %v", s, err)
		}
	}
	if (pattern.Pattern{}).Match("x") {
		t.Error("the zero Pattern matches")
	}
}
