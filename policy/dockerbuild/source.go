package dockerbuild

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Source is one thing that goes into a build, as a policy reads it: an image, a
// git repository or a download. Names, and which members are absent when they
// are empty, are those of buildx.
type Source struct {
	Env   Env    `json:"env"`
	Image *Image `json:"image,omitempty"`
	Git   *Git   `json:"git,omitempty"`
	HTTP  *HTTP  `json:"http,omitempty"`

	unknown []string // paths below input
}

// Env is the build. Its arguments, labels, file name and target belong to
// whoever runs it.
type Env struct {
	Depth int `json:"depth"`
}

// Image is a container image.
type Image struct {
	Ref          string `json:"ref,omitempty"`
	Host         string `json:"host,omitempty"`
	Repo         string `json:"repo,omitempty"`     // as people write it: alpine
	FullRepo     string `json:"fullRepo,omitempty"` // docker.io/library/alpine
	Tag          string `json:"tag,omitempty"`
	Platform     string `json:"platform,omitempty"`
	OS           string `json:"os,omitempty"`
	Architecture string `json:"arch,omitempty"`
	Variant      string `json:"variant,omitempty"`
	IsCanonical  bool   `json:"isCanonical,omitempty"`
	Checksum     string `json:"checksum,omitempty"`

	// The image's own word.
	CreatedTime string            `json:"createdTime,omitempty"`
	Env         []string          `json:"env,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	User        string            `json:"user,omitempty"`
	Volumes     []string          `json:"volumes,omitempty"`
	WorkingDir  string            `json:"workingDir,omitempty"`

	HasProvenance bool        `json:"hasProvenance,omitempty"`
	Provenance    *Provenance `json:"provenance,omitempty"`
}

// Git is a git repository at a revision.
type Git struct {
	Schema         string `json:"schema,omitempty"`
	Host           string `json:"host,omitempty"`
	Remote         string `json:"remote,omitempty"`
	FullURL        string `json:"fullURL,omitempty"`
	TagName        string `json:"tagName,omitempty"`
	Branch         string `json:"branch,omitempty"`
	Ref            string `json:"ref,omitempty"`
	Subdir         string `json:"subDir,omitempty"`
	IsCommitRef    bool   `json:"isCommitRef,omitempty"`
	IsSHA256       bool   `json:"isSHA256,omitempty"`
	Checksum       string `json:"checksum,omitempty"`
	CommitChecksum string `json:"commitChecksum,omitempty"`
	IsAnnotatedTag bool   `json:"isAnnotatedTag,omitempty"`
}

// HTTP is a download.
type HTTP struct {
	URL      string              `json:"url,omitempty"`
	Schema   string              `json:"schema,omitempty"`
	Host     string              `json:"host,omitempty"`
	Path     string              `json:"path,omitempty"`
	Query    map[string][]string `json:"query,omitempty"`
	Checksum string              `json:"checksum,omitempty"`
}

// What cannot be known when an image is pulled. The first four are those of
// every source, for nobody builds.
var (
	envUnknown      = []string{"env.args", "env.labels", "env.filename", "env.target"}
	configUnknown   = []string{"image.labels", "image.user", "image.volumes", "image.workingDir", "image.env", "image.createdTime"}
	evidenceUnknown = []string{"image.hasProvenance", "image.provenance", "image.signatures"}
	gitUnknown      = []string{"git.tag", "git.commit"}
	httpUnknown     = []string{"http.hasAuth"}
)

// UnknownFields lists every path of which a source can lack the knowledge, for
// the documentation.
func UnknownFields() []string {
	all := slices.Concat(envUnknown, configUnknown, []string{"image.checksum", "image.provenance.materials"}, evidenceUnknown,
		gitUnknown, []string{"git.tagName", "git.branch", "git.ref", "git.checksum", "git.commitChecksum", "git.isSHA256", "git.isAnnotatedTag"},
		httpUnknown, []string{"http.checksum"})
	for i := range all {
		all[i] = "input." + all[i]
	}
	slices.Sort(all)
	return all
}

// Facts are what the gate knows of the image that is pulled.
type Facts struct {
	Name       string        // registry/repository
	Tag        string        // "" for a pull by digest
	Digest     digest.Digest // of the index, where the image lies in one
	Platform   string
	Config     *Config // nil when it could not be read
	Incomplete bool    // some evidence could not be had
	Provenance *Statement
	Signed     bool // perhaps keyless, by whomever
}

// Config is what the image says of itself.
type Config struct {
	Created    string // RFC 3339, or ""
	Env        []string
	Labels     map[string]string
	User       string
	Volumes    []string
	WorkingDir string
}

// Statement is a provenance.
type Statement struct {
	PredicateType string
	Predicate     json.RawMessage
	Materials     bool // it lists some
}

// Pulled describes the image that is pulled.
func Pulled(f Facts) (*Source, error) {
	ref := f.Name + ":" + f.Tag
	if f.Tag == "" {
		ref = f.Name + "@" + f.Digest.String()
	}
	s, err := imageSource(ref, f.Platform)
	if err != nil {
		return nil, err
	}
	image := s.Image
	image.Checksum = f.Digest.String()
	if c := f.Config; c != nil {
		image.CreatedTime, image.Env, image.Labels = c.Created, c.Env, c.Labels
		image.User, image.Volumes, image.WorkingDir = c.User, c.Volumes, c.WorkingDir
	} else {
		s.unknown = append(s.unknown, configUnknown...)
	}
	switch p, ok := readProvenance(f.Provenance); {
	case f.Provenance != nil && ok:
		image.HasProvenance, image.Provenance = true, p
		if f.Provenance.Materials {
			// Each of them is a source of its own.
			s.unknown = append(s.unknown, "image.provenance.materials")
		}
	case f.Provenance != nil:
		image.HasProvenance = true
		s.unknown = append(s.unknown, "image.provenance")
	case f.Incomplete:
		s.unknown = append(s.unknown, "image.hasProvenance", "image.provenance")
	}
	if f.Incomplete || f.Signed {
		s.unknown = append(s.unknown, "image.signatures")
	}
	s.unknown = append(s.unknown, envUnknown...)
	return s, nil
}

// imageSource describes an image by its reference alone.
func imageSource(ref, platform string) (*Source, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, fmt.Errorf("reading the image %.300q as Docker does: %w", ref, err)
	}
	image := &Image{
		Ref: named.String(), Host: reference.Domain(named),
		Repo: reference.FamiliarName(named), FullRepo: named.Name(),
	}
	if digested, ok := named.(reference.Canonical); ok {
		image.Checksum, image.IsCanonical = digested.Digest().String(), true
	}
	if tagged, ok := named.(reference.Tagged); ok {
		image.Tag = tagged.Tag()
	}
	image.setPlatform(platform)
	return &Source{Image: image}, nil
}

// setPlatform writes os/arch/variant as Docker does, which leaves out the
// variant that an architecture has anyway.
func (i *Image) setPlatform(platform string) {
	parts := strings.SplitN(platform, "/", 3)
	if len(parts) < 2 {
		return
	}
	i.OS, i.Architecture = parts[0], parts[1]
	if len(parts) == 3 {
		i.Variant = parts[2]
	}
	switch i.Architecture + "/" + i.Variant {
	case "arm64/v8", "arm64/8", "amd64/v1":
		i.Variant = ""
	case "arm/", "arm/7":
		i.Variant = "v7"
	}
	i.Platform = i.OS + "/" + i.Architecture
	if i.Variant != "" {
		i.Platform += "/" + i.Variant
	}
}

// Name is how people call the source.
func (s *Source) Name() string {
	switch {
	case s.Image != nil:
		return s.Image.Ref
	case s.Git != nil:
		return s.Git.FullURL
	default:
		return s.HTTP.URL
	}
}
