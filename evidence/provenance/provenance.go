// Package provenance reads what a builder says about a build: who built, from
// which source and from which materials.
//
// It must never turn a claim into a fact: whether the words of a provenance
// count is said by the evidence.Voucher of the attestation that carries them
// and by the builders that the configuration names, never by the words.
package provenance

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/trustgate/trustgate/evidence/internal/giturl"
)

// The predicate types that Parse reads.
//
// https://slsa.dev/spec/v1.0/provenance and https://slsa.dev/spec/v0.2/provenance
const (
	TypeV1  = "https://slsa.dev/provenance/v1"
	TypeV02 = "https://slsa.dev/provenance/v0.2"
)

// ErrProvenance reports a predicate that is not the provenance its type
// promises, or one beyond the bounds of this package.
var ErrProvenance = errors.New("not a readable SLSA provenance")

// Bounds on what one provenance may carry.
const (
	maxPredicate  = 16 << 20 // bytes
	maxParameters = 1 << 20  // bytes of JSON
	maxDockerfile = 1 << 20  // bytes
	maxText       = 4096     // bytes of a URI, an ID or a path
	maxMaterials  = 4096
	maxInfos      = 256 // files in BuildKit's source map
	maxDigests    = 16  // of one material
)

// Provenance is what one predicate says, whoever wrote it.
type Provenance struct {
	BuilderID  string // "" when the builder does not name itself, as BuildKit by default
	BuildType  string
	StartedOn  time.Time // zero when unknown
	FinishedOn time.Time // zero when unknown

	// Parameters are what the build was asked for: externalParameters in
	// version 1, invocation.parameters in 0.2.
	Parameters json.RawMessage
	Materials  []Material

	// Repository is the URL of the source in its plainest form; text that
	// names no git repository stands as it is.
	Repository string
	Revision   string // the commit that was built
	Ref        string // the branch or tag that was asked for
	// SourceStated says that the builder did not fetch the source itself: it
	// repeats what the one who asked for the build told it, as BuildKit does
	// for a build from a local folder.
	SourceStated bool

	Dockerfile *Dockerfile // nil unless the provenance carries it
	Recipe     Recipe
}

// Recipe is where in the source the Dockerfile is, as far as the provenance says
// it.
type Recipe struct {
	Folder string // from the root of the repository; "" is the root, or is not said
	Name   string // in the folder, or ""
	Stated bool   // both are known, not only likely
}

// Dockerfile is the text that BuildKit built from.
type Dockerfile struct{ Path, Content string }

// IsProvenance says whether Parse reads predicates of the type.
func IsProvenance(predicateType string) bool {
	return predicateType == TypeV1 || predicateType == TypeV02
}

// Parse reads a predicate. Every error matches ErrProvenance.
func Parse(predicateType string, predicate []byte) (*Provenance, error) {
	if !IsProvenance(predicateType) {
		return nil, fmt.Errorf("%w: the predicate type %.80q is neither %s nor %s", ErrProvenance, predicateType, TypeV1, TypeV02)
	}
	if len(predicate) > maxPredicate {
		return nil, fmt.Errorf("%w: it has %d bytes, more than %d", ErrProvenance, len(predicate), maxPredicate)
	}
	var failed error
	top := openObject(predicate, "predicate", &failed)
	var p *Provenance
	if failed == nil {
		if predicateType == TypeV1 {
			p = parseV1(top)
		} else {
			p = parseV02(top)
		}
	}
	if failed != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvenance, failed)
	}
	return p, nil
}

// parseV1 reads SLSA 1 with the externalParameters of BuildKit, GitHub Actions,
// Cloud Build and GitLab.
//
// https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md
// https://actions.github.io/buildtypes/workflow/v1
func parseV1(top object) *Provenance {
	definition, run := top.object("buildDefinition"), top.object("runDetails")
	metadata := run.object("metadata")
	p := &Provenance{
		BuilderID:  run.object("builder").text("id"),
		BuildType:  definition.text("buildType"),
		StartedOn:  metadata.time("startedOn"),
		FinishedOn: metadata.time("finishedOn"),
		Parameters: definition.raw("externalParameters", maxParameters),
		Materials:  definition.materials("resolvedDependencies"),
	}
	asked := definition.object("externalParameters")
	config := asked.perhaps("configSource")
	p.setSource(config.text("uri"), "", config.digests("digest"))
	request := asked.perhaps("request")
	for _, name := range []string{"workflow", "buildConfigSource"} {
		named := asked.perhaps(name)
		p.setSource(named.perhapsText("repository"), named.perhapsText("ref"), nil)
	}
	p.setSource(asked.perhapsText("source"), "", nil)
	named := asked.perhaps("source")
	p.setSource(named.perhapsText("uri"), named.perhapsText("ref"), named.perhaps("digest").texts())

	p.readBuildKit(metadata.perhaps("buildkit_metadata"), config.text("path"))
	p.setRecipe(config, config.text("path"), request, metadata.perhaps("buildkit_metadata").perhaps("vcs"))
	return p
}

// parseV02 reads SLSA 0.2, as slsa-github-generator and BuildKit write it.
func parseV02(top object) *Provenance {
	invocation, metadata := top.object("invocation"), top.object("metadata")
	p := &Provenance{
		BuilderID:  top.object("builder").text("id"),
		BuildType:  top.text("buildType"),
		StartedOn:  metadata.time("buildStartedOn"),
		FinishedOn: metadata.time("buildFinishedOn"),
		Parameters: invocation.raw("parameters", maxParameters),
		Materials:  top.materials("materials"),
	}
	config := invocation.object("configSource")
	p.setSource(config.text("uri"), "", config.digests("digest"))
	buildKit := metadata.perhaps("https://mobyproject.org/buildkit@v1#metadata")
	p.readBuildKit(buildKit, config.text("entryPoint"))
	p.setRecipe(config, config.text("entryPoint"), invocation.perhaps("parameters"), buildKit.perhaps("vcs"))
	return p
}

// setSource notes where the source came from, unless that is known already. A
// revision that is not given beside it is looked for among the materials: the
// one of the same repository and, where both name one, the same ref.
func (p *Provenance) setSource(uri, ref string, digests map[string]string) {
	if p.Repository != "" || uri == "" {
		return
	}
	p.Repository, p.Ref, p.Revision = uri, ref, revision(digests)
	source, err := giturl.Parse(uri)
	if err != nil {
		return
	}
	p.Repository = source.Repository
	if p.Ref == "" {
		p.Ref = source.Ref
	}
	if p.Revision != "" {
		return
	}
	for _, m := range p.Materials {
		of, err := giturl.Parse(m.URI)
		if err != nil || of.Repository != p.Repository || (of.Ref != "" && p.Ref != "" && of.Ref != p.Ref) {
			continue
		}
		if p.Revision = revision(m.Digest); p.Revision != "" {
			return
		}
	}
}

// readBuildKit takes the Dockerfile and, for a build from a local folder, the
// source that the client named.
func (p *Provenance) readBuildKit(metadata object, path string) {
	if vcs := metadata.perhaps("vcs"); p.Repository == "" && vcs.text("source") != "" {
		p.setSource(vcs.text("source"), "", nil)
		p.Revision, p.SourceStated = vcs.text("revision"), true
	}
	var first *Dockerfile
	for _, info := range metadata.perhaps("source").objects("infos", maxInfos) {
		content := info.base64("data", maxDockerfile)
		if len(content) == 0 || !utf8.Valid(content) {
			continue
		}
		file := &Dockerfile{Path: info.text("filename"), Content: string(content)}
		if path != "" && file.Path == path {
			p.Dockerfile = file
			return
		}
		if first == nil {
			first = file
		}
	}
	p.Dockerfile = first
}

// setRecipe notes where the Dockerfile is, which only BuildKit says: below the
// folder of the source that it fetched, or below the folder that the client
// named where it sent its own.
//
// https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md
func (p *Provenance) setRecipe(config object, name string, request, vcs object) {
	if !strings.Contains(p.BuildType, "buildkit") {
		return
	}
	if name == "" {
		name = request.perhaps("args").perhapsText("filename")
	}
	p.Recipe.Name = strings.TrimPrefix(path.Clean(name), "/")
	if name == "" {
		p.Recipe.Name = "Dockerfile"
	}
	if sent := request.locals(); !slices.Contains(sent, "dockerfile") {
		source, err := giturl.Parse(config.text("uri"))
		p.Recipe.Folder, p.Recipe.Stated = path.Clean("/" + source.Dir)[1:], err == nil
	} else if folder := vcs.perhapsText("localdir:dockerfile"); folder != "" {
		p.Recipe.Folder, p.Recipe.Stated = path.Clean("/" + folder)[1:], true
	}
}

// locals are the names of the folders that the client sent.
func (o object) locals() []string {
	var list []map[string]any
	if raw := o.member("locals"); raw == nil || len(raw) > maxParameters || json.Unmarshal(raw, &list) != nil {
		return nil
	}
	var names []string
	for _, local := range list {
		if name, ok := local["name"].(string); ok {
			names = append(names, name)
		}
	}
	return names
}

var commit = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// revision is the commit in a set of digests, or "".
func revision(digests map[string]string) string {
	for _, algorithm := range []string{"gitCommit", "sha1", "sha256"} {
		if d := digests[algorithm]; commit.MatchString(d) {
			return d
		}
	}
	return ""
}

// materials reads a list of resource descriptors.
func (o object) materials(key string) []Material {
	var materials []Material
	for _, item := range o.objects(key, maxMaterials) {
		m := Material{URI: item.text("uri"), Digest: item.digests("digest")}
		if *o.failed == nil {
			if err := m.readImage(); err != nil {
				*o.failed = fmt.Errorf("%s: %w", item.at, err)
			}
		}
		materials = append(materials, m)
	}
	return materials
}
