// Package rebuild builds an image again from what its provenance says, and
// says where the result differs: a build that reproduces bit for bit needs
// trust nobody.
//
// BuildKit builds, through its own client program. The package never decides
// whether a build is trusted and never runs anything of the image itself
// outside of BuildKit.
package rebuild

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trustgate/trustgate/evidence/provenance"
)

// ErrRecipe reports a provenance that does not say enough to build from.
var ErrRecipe = errors.New("the provenance does not say how to build this image again")

// Recipe is what BuildKit is asked for.
type Recipe struct {
	Frontend string            // "dockerfile.v0"
	Context  string            // a git URL, pinned to the commit
	Args     map[string]string // of the frontend
	Pins     map[string]string // image reference to the same with its digest
	Epoch    int64             // SOURCE_DATE_EPOCH, in seconds; 0 when the build had none
}

// request is how BuildKit writes down what it was asked for.
//
// https://github.com/moby/buildkit/blob/v0.34.2/docs/attestations/slsa-definitions.md
type request struct {
	Frontend string            `json:"frontend"`
	Args     map[string]string `json:"args"`
	Secrets  []struct {
		ID       string `json:"id"`
		Optional bool   `json:"optional"`
	} `json:"secrets"`
	SSH []struct {
		ID       string `json:"id"`
		Optional bool   `json:"optional"`
	} `json:"ssh"`
	Locals []struct {
		Name string `json:"name"`
	} `json:"locals"`
}

var (
	commit = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	// argument is a frontend option that a rebuild repeats: nothing that makes
	// BuildKit read from elsewhere, such as another context.
	argument = regexp.MustCompile(`^(build-arg:[A-Za-z_][A-Za-z0-9_]*|label:.*|target|filename|platform|no-cache|add-hosts|ulimit|shm-size|hostname)$`)
	// steering is a build argument that speaks to BuildKit itself: it could have
	// another image do the whole build.
	steering = regexp.MustCompile(`^build-arg:BUILDKIT_`)
)

// maxArgs bounds the arguments of a build.
const maxArgs = 256

// ReadRecipe takes a build apart. platform is the image's, as os/architecture.
// Every error matches ErrRecipe and says what is missing.
func ReadRecipe(p *provenance.Provenance, platform string, created time.Time) (*Recipe, error) {
	fail := func(format string, args ...any) (*Recipe, error) {
		return nil, fmt.Errorf("%w: %w", ErrRecipe, fmt.Errorf(format, args...))
	}
	if !strings.Contains(p.BuildType, "buildkit") {
		return fail("its build type is %.120q, not BuildKit's", p.BuildType)
	}
	if p.SourceStated || p.Repository == "" || !commit.MatchString(p.Revision) {
		return fail("it was not built from a revision of a git repository that BuildKit fetched itself")
	}
	context, err := gitContext(p.Repository, p.Revision)
	if err != nil {
		return fail("%w", err)
	}
	asked, err := readRequest(p.Parameters)
	if err != nil {
		return fail("what was asked for cannot be read: %w", err)
	}
	if len(asked.Locals) > 0 {
		return fail("it was built with the local folder %.80q, which nobody else has", asked.Locals[0].Name)
	}
	for _, s := range append(asked.Secrets, asked.SSH...) {
		if !s.Optional {
			return fail("it was built with the secret %.80q; rebuild it where that secret is", s.ID)
		}
	}
	if len(asked.Args) > maxArgs {
		return fail("it has %d arguments, more than %d", len(asked.Args), maxArgs)
	}
	r := &Recipe{
		Frontend: asked.Frontend, Context: context,
		Args: map[string]string{}, Pins: map[string]string{},
	}
	if r.Frontend == "" {
		r.Frontend = "dockerfile.v0"
	}
	if r.Frontend != "dockerfile.v0" {
		return fail("its frontend is %.80q; only Dockerfiles are built again", r.Frontend)
	}
	for _, key := range slices.Sorted(maps.Keys(asked.Args)) {
		switch {
		case steering.MatchString(key):
			return fail("it was built with %.80q, which changes who builds", key)
		case argument.MatchString(key):
			r.Args[key] = asked.Args[key]
		case key == "context", strings.HasPrefix(key, "vcs:"), strings.HasPrefix(key, "attest:"), key == "source", key == "cmdline":
			// Where the source is, is known better; the rest changes no layer.
		default:
			return fail("it was built with %.80q, which a rebuild does not repeat", key)
		}
	}
	if _, said := r.Args["platform"]; !said && platform != "" {
		r.Args["platform"] = platform
	}
	if err := r.pin(p.Materials); err != nil {
		return fail("%w", err)
	}
	if err := r.setEpoch(created); err != nil {
		return fail("%w", err)
	}
	return r, nil
}

// gitContext writes the source as BuildKit knows it for git's: over http, by its
// ending alone. Anything else it would download and unpack.
//
// https://docs.docker.com/build/concepts/context/#git-repositories
func gitContext(repository, revision string) (string, error) {
	u, err := url.Parse(repository)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", fmt.Errorf("its source %.200q is not the URL of a git repository", repository)
	}
	switch u.Scheme {
	case "https", "http":
		if !strings.HasSuffix(u.Path, ".git") {
			u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/")+".git", ""
		}
	case "git", "ssh":
	default:
		return "", fmt.Errorf("its source %.200q is not the URL of a git repository", repository)
	}
	return u.String() + "#" + revision, nil
}

func readRequest(parameters json.RawMessage) (*request, error) {
	var v1 struct {
		Request *request `json:"request"`
	}
	if err := json.Unmarshal(parameters, &v1); err != nil {
		return nil, err
	}
	if v1.Request != nil {
		return v1.Request, nil
	}
	// Version 0.2 has the same members one level up.
	var v02 request
	err := json.Unmarshal(parameters, &v02)
	return &v02, err
}

// pin holds every image to the digest that the build used.
func (r *Recipe) pin(materials []provenance.Material) error {
	for _, m := range materials {
		if m.Image.IsZero() {
			continue
		}
		d := m.ImageDigest()
		if d == "" {
			return fmt.Errorf("it used %s, of which it does not tell the digest", m.Image)
		}
		tagged := m.Image
		if tagged.Tag() == "" {
			var err error
			if tagged, err = tagged.WithTag("latest"); err != nil {
				return err
			}
		}
		r.Pins[tagged.String()] = tagged.WithDigest(d).String()
	}
	return nil
}

const epochArgument = "build-arg:SOURCE_DATE_EPOCH"

// setEpoch repeats the build's clock. A build that had none bears the time at
// which it ran; its image says when that was, and a rebuild says the same, so
// that the dates alone do not differ.
func (r *Recipe) setEpoch(created time.Time) error {
	text, said := r.Args[epochArgument]
	if !said {
		if !created.IsZero() {
			r.Epoch = created.Unix()
			r.Args[epochArgument] = strconv.FormatInt(r.Epoch, 10)
		}
		return nil
	}
	epoch, err := strconv.ParseInt(text, 10, 64)
	if err != nil || epoch < 0 {
		return fmt.Errorf("its SOURCE_DATE_EPOCH is %.40q, which is no time in seconds", text)
	}
	r.Epoch = epoch
	return nil
}
