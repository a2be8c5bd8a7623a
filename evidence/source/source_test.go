package source_test

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/internal/seal"
	"github.com/trustgate/trustgate/evidence/provenance"
	"github.com/trustgate/trustgate/evidence/source"
)

const (
	app      = "https://github.com/acme/app"
	revision = "0f052c24a1541157f4d0249e982d56a84dad2a53"
)

var (
	signed = evidence.Vouch(seal.Key{}, evidence.Signer{Name: "ci"})
	nobody = evidence.Voucher{}
	acme   = []string{"https://github.com/acme/*"}
)

// build is one whose provenance names the repository.
func build(repository string, by evidence.Voucher) *provenance.Build {
	return &provenance.Build{By: by, Provenance: provenance.Provenance{
		Repository: repository, Revision: revision, Ref: "refs/heads/main",
		Dockerfile: &provenance.Dockerfile{Path: "Dockerfile", Content: "FROM scratch"},
	}}
}

// told is one whose builder repeats what it was told about the source.
func told(repository string, by evidence.Voucher) *provenance.Build {
	b := build(repository, by)
	b.SourceStated = true
	return b
}

func claims(repository string) map[string]string {
	return map[string]string{ocispec.AnnotationSource: repository}
}

func TestFindPrefers(t *testing.T) {
	const annotated, indexed, labelled = "https://git.example/annotated", "https://git.example/indexed", "https://git.example/labelled"
	for name, tc := range map[string]struct {
		build           *provenance.Build
		labels          map[string]string
		annotations     []map[string]string
		via, repository string
		verified        bool
	}{
		"a verified provenance to all claims":      {build(app, signed), claims(labelled), []map[string]string{claims(annotated)}, source.ViaProvenance, app, true},
		"an unsigned provenance to annotations":    {build(app, nobody), claims(labelled), []map[string]string{claims(annotated)}, source.ViaProvenance, app, false},
		"what a builder was told to annotations":   {told(app, signed), claims(labelled), []map[string]string{claims(annotated)}, source.ViaProvenance, app, false},
		"annotations to labels":                    {nil, claims(labelled), []map[string]string{claims(annotated)}, source.ViaAnnotation, annotated, false},
		"the image's annotations to its index's":   {nil, claims(labelled), []map[string]string{claims(annotated), claims(indexed)}, source.ViaAnnotation, annotated, false},
		"its index's annotations to labels":        {nil, claims(labelled), []map[string]string{nil, claims(indexed)}, source.ViaAnnotation, indexed, false},
		"labels to annotations of something else":  {nil, claims(labelled), []map[string]string{{"other": "x"}}, source.ViaLabel, labelled, false},
		"labels to a provenance without a source":  {build("", signed), claims(labelled), nil, source.ViaLabel, labelled, false},
		"nothing where there is nothing":           {nil, nil, nil, "", "", false},
		"nothing to claims that are empty":         {nil, claims(""), []map[string]string{claims("")}, "", "", false},
		"nothing to a provenance without a source": {build("", signed), nil, nil, "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			found := source.Find(tc.build, tc.labels, acme, tc.annotations...)
			if found.Via != tc.via || found.Repository != tc.repository || found.Verified != tc.verified || found.Trusted != tc.verified {
				t.Errorf("got %+v", found)
			}
			if (found.Dockerfile != nil) != (tc.build != nil) {
				t.Errorf("the Dockerfile is %+v", found.Dockerfile)
			}
		})
	}
}

func TestFindTrusts(t *testing.T) {
	for name, tc := range map[string]struct {
		build    *provenance.Build
		patterns []string
		want     bool
	}{
		"what a pattern covers":                       {build(app, signed), acme, true},
		"what one of the patterns covers":             {build(app, signed), []string{"https://git.example/*", "https://github.com/acme/*"}, true},
		"behind a pattern that cannot be read":        {build(app, signed), []string{"https://[", "", "https://github.com/acme/*"}, true},
		"a pattern in pip's form":                     {build(app, signed), []string{"git+https://github.com/acme/app.git"}, true},
		"a pattern with a slash at the end":           {build(app, signed), []string{"https://github.com/acme/app/"}, true},
		"another spelling of the host":                {build("https://GitHub.com:443/acme/app.git", signed), acme, true},
		"a pattern with another spelling of the host": {build(app, signed), []string{"https://GITHUB.com/acme/*"}, true},
		"a repository over SSH":                       {build("git@github.com:acme/app.git", signed), acme, true},
		"a repository with a password":                {build("https://user:secret@github.com/acme/app", signed), acme, true},
		"a repository below, by two stars":            {build("https://gitlab.com/acme/team/app", signed), []string{"https://gitlab.com/acme/**"}, true},

		"not without patterns":                        {build(app, signed), nil, false},
		"not by an empty pattern":                     {build(app, signed), []string{""}, false},
		"not by a pattern that cannot be read":        {build("https://[", signed), []string{"https://["}, false},
		"not where nobody signed":                     {build(app, nobody), acme, false},
		"not what the builder was told":               {told(app, signed), acme, false},
		"not a repository below, by one star":         {build("https://github.com/acme/team/app", signed), acme, false},
		"not another owner":                           {build("https://github.com/evil/app", signed), acme, false},
		"not another owner in capitals":               {build("https://github.com/ACME/app", signed), acme, false},
		"not the owner alone":                         {build("https://github.com/acme", signed), acme, false},
		"not another host":                            {build("https://github.com.evil.example/acme/app", signed), acme, false},
		"not another host behind user info":           {build("https://github.com@evil.example/acme/app", signed), acme, false},
		"not another port":                            {build("https://github.com:8443/acme/app", signed), acme, false},
		"not without TLS":                             {build("http://github.com/acme/app", signed), acme, false},
		"not another user over SSH":                   {build("ssh://alice@github.com/acme/app", signed), acme, false},
		"not a way out by dots":                       {build("https://github.com/acme/../evil", signed), []string{"https://github.com/**"}, false},
		"not a way out by encoded dots":               {build("https://github.com/acme/%2e%2e/evil", signed), []string{"https://github.com/**"}, false},
		"not text, whatever the pattern":              {build("acme/app", signed), []string{"acme/app", "**"}, false},
		"not a URL that git cannot fetch":             {build("file:///srv/git/app", signed), []string{"file:///srv/git/app", "**"}, false},
		"not the repository in a query":               {build("https://evil.example/?https://github.com/acme/app", signed), append(acme, "**"), false},
		"not the repository in another's ref":         {build("https://evil.example/app@https://github.com/acme/app", signed), acme, false},
		"not where the provenance has none, by label": {build("", signed), append(acme, "**"), false},
		"not without a provenance, by label":          {nil, append(acme, "**"), false},
	} {
		t.Run(name, func(t *testing.T) {
			found := source.Find(tc.build, claims(app), tc.patterns, claims(app))
			if found.Trusted != tc.want {
				t.Errorf("got %+v", found)
			}
			if found.Trusted && !found.Verified {
				t.Error("trusted and not verified")
			}
		})
	}
}

func TestFindReads(t *testing.T) {
	const (
		keySource, keyRevision, keyURL = ocispec.AnnotationSource, ocispec.AnnotationRevision, ocispec.AnnotationURL
	)
	for name, tc := range map[string]struct {
		claims                         map[string]string
		repository, revision, ref, url string
	}{
		"a repository":                           {map[string]string{keySource: app + ".git"}, app, "", "", app},
		"a repository and its revision":          {map[string]string{keySource: app, keyRevision: revision}, app, revision, "", app + "/tree/" + revision},
		"a revision behind the repository":       {map[string]string{keySource: app + ".git#" + revision}, app, revision, revision, app + "/tree/" + revision},
		"a branch behind the repository":         {map[string]string{keySource: app + ".git#main"}, app, "", "main", app},
		"a revision that is no commit":           {map[string]string{keySource: app, keyRevision: "v1.2.3"}, app, "v1.2.3", "", app},
		"a revision alone":                       {map[string]string{keyRevision: revision}, "", revision, "", ""},
		"a page alone":                           {map[string]string{keyURL: "https://acme.example/app"}, "", "", "", "https://acme.example/app"},
		"a repository before a page":             {map[string]string{keySource: app, keyURL: "https://acme.example/app"}, app, "", "", app},
		"a page where the repository has none":   {map[string]string{keySource: "ssh://alice@git.example/app", keyURL: "https://acme.example/app"}, "ssh://git.example/app", "", "", "https://acme.example/app"},
		"a repository that is text":              {map[string]string{keySource: "see our wiki"}, "see our wiki", "", "", ""},
		"a repository that is a script":          {map[string]string{keySource: "javascript://x/%0aalert(1)"}, "javascript://x/%0aalert(1)", "", "", ""},
		"a page that is a script is nothing":     {map[string]string{keyURL: "javascript:alert(1)"}, "", "", "", ""},
		"a repository without its password":      {map[string]string{keySource: "https://user:secret@github.com/acme/app"}, app, "", "", app},
		"text that is cut to its bound":          {map[string]string{keySource: strings.Repeat("x", 3000)}, strings.Repeat("x", 2048), "", "", ""},
		"text that is not cut within a letter":   {map[string]string{keyRevision: strings.Repeat("x", 2047) + "\u00e9"}, "", strings.Repeat("x", 2047), "", ""},
		"a revision that is a header of its own": {map[string]string{keySource: app, keyRevision: "0f052c2\r\nSet-Cookie: x"}, app, "0f052c2\r\nSet-Cookie: x", "", app},
	} {
		t.Run(name, func(t *testing.T) {
			for via, found := range map[string]source.Source{
				source.ViaAnnotation: source.Find(nil, nil, acme, tc.claims),
				source.ViaLabel:      source.Find(nil, tc.claims, acme),
			} {
				if found.Repository == "" && found.Revision == "" && found.URL == "" {
					via = ""
				}
				if found.Via != via || found.Repository != tc.repository || found.Revision != tc.revision || found.Ref != tc.ref || found.URL != tc.url {
					t.Errorf("got %+v", found)
				}
			}
		})
	}
	found := source.Find(build("git+https://github.com/acme/app@refs/heads/x", signed), nil, acme)
	if found.Repository != app || found.Ref != "refs/heads/main" || found.Revision != revision || found.URL != app+"/tree/"+revision {
		t.Errorf("a provenance: %+v", found)
	}
	bare := build("git+https://github.com/acme/app@refs/heads/x", signed)
	bare.Ref = ""
	if found := source.Find(bare, nil, acme); found.Ref != "refs/heads/x" {
		t.Errorf("a provenance with its ref in the URI: %+v", found)
	}
}

// TestFindLocatesTheDockerfile is about where in the repository it is looked for.
func TestFindLocatesTheDockerfile(t *testing.T) {
	at := func(repository string, r provenance.Recipe) *provenance.Build {
		b := build(repository, signed)
		b.Recipe = r
		return b
	}
	for name, tc := range map[string]struct {
		build   *provenance.Build
		claimed string
		want    []string
		assumed bool
	}{
		"where the provenance says":                    {at(app, provenance.Recipe{Folder: "api", Name: "x/Dockerfile", Stated: true}), "", []string{"api/x/Dockerfile"}, false},
		"by the name that the provenance has":          {at(app, provenance.Recipe{Name: "api.Dockerfile"}), "", []string{"api.Dockerfile"}, true},
		"at the usual names":                           {at(app, provenance.Recipe{}), "", []string{"Dockerfile", "Containerfile"}, true},
		"at the usual names, of a claim":               {nil, app, []string{"Dockerfile", "Containerfile"}, true},
		"in the folder of a claim":                     {nil, app + ".git#main:/services/api/", []string{"services/api/Dockerfile", "services/api/Containerfile"}, true},
		"where a build says that does not say of what": {at("", provenance.Recipe{Folder: "docker", Name: "api.Dockerfile", Stated: true}), app + "#main:services", []string{"docker/api.Dockerfile"}, false},
		"nowhere without a source":                     {at("", provenance.Recipe{Name: "Dockerfile", Stated: true}), "", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, found := range []source.Source{source.Find(tc.build, claims(tc.claimed), nil), source.Find(tc.build, nil, nil, claims(tc.claimed))} {
				if !slices.Equal(found.Recipes, tc.want) || found.Assumed != tc.assumed {
					t.Errorf("got %q, assumed %v", found.Recipes, found.Assumed)
				}
			}
		})
	}
}

// TestPage is about the address that ends up in a Link header and on a page.
func TestPage(t *testing.T) {
	for name, tc := range map[string]struct{ repository, revision, want string }{
		"GitHub":                         {"https://github.com/acme/app", revision, "https://github.com/acme/app/tree/" + revision},
		"GitHub of an enterprise":        {"https://github.acme.example/x/app", revision, "https://github.acme.example/x/app/tree/" + revision},
		"GitLab":                         {"https://gitlab.com/acme/team/app", revision, "https://gitlab.com/acme/team/app/-/tree/" + revision},
		"GitLab with a port":             {"https://gitlab.acme.example:8443/app", revision, "https://gitlab.acme.example:8443/app/-/tree/" + revision},
		"Bitbucket":                      {"https://bitbucket.org/acme/app", revision, "https://bitbucket.org/acme/app/src/" + revision},
		"Codeberg":                       {"https://codeberg.org/acme/app", revision, "https://codeberg.org/acme/app/src/commit/" + revision},
		"Forgejo":                        {"https://forgejo.acme.example/app", revision, "https://forgejo.acme.example/app/src/commit/" + revision},
		"sourcehut":                      {"https://git.sr.ht/~acme/app", revision, "https://git.sr.ht/~acme/app/tree/" + revision},
		"a forge that is not known":      {"https://git.example/app", revision, "https://git.example/app"},
		"a short revision":               {"https://github.com/acme/app", "0f052c2", "https://github.com/acme/app/tree/0f052c2"},
		"a revision that is too short":   {"https://github.com/acme/app", "0f052c", "https://github.com/acme/app"},
		"a revision in capitals":         {"https://github.com/acme/app", strings.ToUpper(revision), "https://github.com/acme/app"},
		"a revision with a path":         {"https://github.com/acme/app", revision + "/../../x", "https://github.com/acme/app"},
		"a revision with a newline":      {"https://github.com/acme/app", revision + "\n", "https://github.com/acme/app"},
		"a repository over SSH":          {"git@github.com:acme/app.git", revision, "https://github.com/acme/app/tree/" + revision},
		"another user over SSH":          {"ssh://alice@github.com/acme/app", revision, ""},
		"a repository without TLS":       {"http://github.com/acme/app", revision, ""},
		"the git protocol":               {"git://github.com/acme/app", revision, ""},
		"an address in brackets":         {"https://[::1]/app", revision, ""},
		"a path with an escaped space":   {"https://github.com/acme/a%20b", revision, ""},
		"a path with a semicolon":        {"https://github.com/acme/a;b", revision, ""},
		"a path with an angle":           {"https://github.com/acme/app>;rel=x", revision, ""},
		"a path with a comma":            {"https://github.com/acme/app,https://evil.example", revision, ""},
		"a path with a quote":            {"https://github.com/acme/a'b", revision, ""},
		"text":                           {"acme/app", revision, ""},
		"a page that is no repository":   {"https://github.com/acme/app?tab=readme", revision, ""},
		"a host of two ports":            {"https://github.com:1:2/app", revision, ""},
		"a newline":                      {"https://github.com/acme/app\nhttps://evil.example/x", revision, ""},
		"a host of another script":       {"https://g\u0456thub.com/acme/app", revision, ""},
		"a password is never part of it": {"https://user:secret@github.com/acme/app", "", "https://github.com/acme/app"},
	} {
		t.Run(name, func(t *testing.T) {
			b := build(tc.repository, signed)
			b.Revision = tc.revision
			if found := source.Find(b, nil, nil); found.URL != tc.want {
				t.Errorf("by provenance: %q, want %q", found.URL, tc.want)
			}
			label := map[string]string{ocispec.AnnotationSource: tc.repository, ocispec.AnnotationRevision: tc.revision}
			if found := source.Find(nil, label, nil); found.URL != tc.want {
				t.Errorf("by label: %q, want %q", found.URL, tc.want)
			}
		})
	}
}

func TestPageThatIsClaimed(t *testing.T) {
	for _, tc := range []struct{ claimed, want string }{
		{"https://acme.example", "https://acme.example"},
		{"https://acme.example/", "https://acme.example/"},
		{"https://acme.example:8443/a/b.html", "https://acme.example:8443/a/b.html"},
		{"HTTPS://acme.example/a", "https://acme.example/a"},
		{"https://acme.example/a#", "https://acme.example/a"},
		{"http://acme.example/", ""},
		{"//acme.example/", ""},
		{"acme.example", ""},
		{"javascript:alert(1)", ""},
		{"data:text/html,x", ""},
		{"https:acme.example", ""},
		{"https:///a", ""},
		{"https://user@acme.example/", ""},
		{"https://user:secret@acme.example/", ""},
		{"https://acme.example/?a", ""},
		{"https://acme.example/?", ""},
		{"https://acme.example/#a", ""},
		{"https://acme.example/a b", ""},
		{"https://acme.example/%0d%0aSet-Cookie:x", ""},
		{"https://acme.example/\r\nSet-Cookie:x", ""},
		{"https://acme.example/<script>", ""},
		{"https://acme.example/>;rel=x", ""},
		{`https://acme.example/"onload="x`, ""},
		{"https://acme.example/\u202egnp.exe", ""},
		{"https://acm\u0435.example/", ""},
		{"https://acme.example\\@evil.example/", ""},
		{"https://acme..example/", ""},
		{"https://acme.example./", ""},
		{"https://acme.example:/", ""},
		{"https://[::1]/", ""},
		{"https://acme.example/" + strings.Repeat("a", 2048), ""},
	} {
		if found := source.Find(nil, map[string]string{ocispec.AnnotationURL: tc.claimed}, nil); found.URL != tc.want {
			t.Errorf("%.80q is shown as %q, want %q", tc.claimed, found.URL, tc.want)
		}
	}
}

func TestCheckPattern(t *testing.T) {
	for _, s := range []string{"https://github.com/acme/*", "git+https://github.com/acme/app.git", "https://github.com/{acme,widgets}/**"} {
		if err := source.CheckPattern(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"", "git+", "/", ".git", "https://github.com/[acme", strings.Repeat("x", 10000)} {
		if err := source.CheckPattern(s); err == nil || len(err.Error()) > 1000 {
			t.Errorf("%.80q: %v", s, err)
		}
	}
}

var harmless = regexp.MustCompile(`^https://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~+@/-]*)?$`)

// FuzzFind: a claim is never more than one, what is trusted is below the
// pattern to every reader, and a page is safe to link to.
func FuzzFind(f *testing.F) {
	for _, s := range []string{
		app, "git@github.com:acme/app.git#main", "git+https://github.com/acme/app@v1", "https://github.com/acme/../evil/app", "https://github.com@evil/acme/app",
		"https://github.com/acme/app?x", "javascript:alert(1)", "https://acme.example/a#b", "https://github.com/acme/%2e%2e", "ssh://git@github.com:22/acme/a", "",
	} {
		f.Add(s, revision, s)
		f.Add(s, "v1\r\nx", "https://acme.example/")
	}
	f.Fuzz(func(t *testing.T, repository, revision, page string) {
		claimed := map[string]string{ocispec.AnnotationSource: repository, ocispec.AnnotationRevision: revision, ocispec.AnnotationURL: page}
		b := build(repository, signed)
		b.Revision = revision
		proven := source.Find(b, claimed, acme, claimed)
		asLabel, asAnnotation := source.Find(nil, claimed, acme), source.Find(nil, nil, acme, claimed)
		for _, found := range []source.Source{proven, asLabel, asAnnotation} {
			if found.URL != "" && !harmless.MatchString(found.URL) {
				t.Fatalf("links to %q", found.URL)
			}
			if found.Via != source.ViaProvenance && (found.Verified || found.Trusted || len(found.Repository) > 2048 || len(found.Revision) > 2048) {
				t.Fatalf("a claim became %+v", found)
			}
		}
		if utf8.ValidString(repository) && utf8.ValidString(revision) && !(utf8.ValidString(asLabel.Repository) && utf8.ValidString(asLabel.Revision)) {
			t.Fatalf("cut within a letter: %+v", asLabel)
		}
		if !proven.Trusted {
			return
		}
		u, err := url.Parse(proven.Repository)
		if err != nil || u.Scheme != "https" || u.Host != "github.com" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			t.Fatalf("trusts %q", proven.Repository)
		}
		if owner, name, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/"); owner != "acme" || name == "" || name == ".." || strings.Contains(name, "/") {
			t.Fatalf("trusts %q", proven.Repository)
		}
	})
}
