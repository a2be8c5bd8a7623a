// Package demo sets the scene for `trustgate demo`: a real registry in this
// process, two signers, and images that are trusted or not in every way that
// the gate tells apart.
//
// It writes an ordinary configuration and ordinary keys; the gate in front does
// not know that it is a demonstration.
package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/v1"

	"github.com/trustgate/trustgate/internal/shipyard"
	"github.com/trustgate/trustgate/policy"
)

const (
	builder  = "https://ci.acme.example/builder"
	source   = "https://github.com/acme/shop"
	revision = "5f0c6e1d0b7a4d0f9a3a5e8f2b6c7d8e9f0a1b2c"
	upstream = "registry.acme.example" // the name by which clients know the registry
)

// Pull is one image of the scene and what must become of it.
type Pull struct {
	Reference string
	Expected  policy.Action
	Story     string // what the image is, for a person
}

// Scene is everything that the demonstration needs.
type Scene struct {
	Pulls  []Pull
	Config string // path of the configuration

	registry *shipyard.Registry
	folder   string
}

// Close stops the registry and removes the folder.
func (s *Scene) Close() error {
	err := s.registry.Close()
	if removeErr := os.RemoveAll(s.folder); err == nil {
		err = removeErr
	}
	return err
}

// Set builds, signs and publishes the images, and writes keys and
// configuration into a folder of its own. listen is where the gate will be
// reached.
func Set(ctx context.Context, listen, admin string) (*Scene, error) {
	folder, err := os.MkdirTemp("", "trustgate-demo-")
	if err != nil {
		return nil, err
	}
	registry, err := shipyard.OpenRegistry(ctx, nil)
	if err != nil {
		os.RemoveAll(folder)
		return nil, err
	}
	s := &Scene{registry: registry, folder: folder, Config: filepath.Join(folder, "trustgate.yaml")}
	if err := s.set(ctx, listen, admin); err != nil {
		s.Close()
		return nil, fmt.Errorf("setting up the demonstration: %w", err)
	}
	return s, nil
}

func (s *Scene) set(ctx context.Context, listen, admin string) error {
	ci, err := shipyard.NewKey()
	if err != nil {
		return err
	}
	release, err := shipyard.NewPGP("Acme releases", "release@acme.example")
	if err != nil {
		return err
	}
	if err := s.configure(ci, release, listen, admin); err != nil {
		return err
	}
	y := yard{Scene: s, ctx: ctx, ci: ci, release: release, lookaside: shipyard.Lookaside{Folder: filepath.Join(s.folder, "signatures")}}
	y.launch()
	return y.err
}

// configure writes what a person would write for a registry of their own.
func (s *Scene) configure(ci *shipyard.Key, release *shipyard.PGP, listen, admin string) error {
	pem, err := ci.PublicPEM()
	if err != nil {
		return err
	}
	keyring, err := release.Public()
	if err != nil {
		return err
	}
	for path, content := range map[string]string{
		"ci.pub":      string(pem),
		"release.asc": string(keyring),
		"trustgate.yaml": fmt.Sprintf(`listen: %q
admin: %q
data: data
routes:
  - registry: %s
    upstream: http://%s
    insecure: true      # the registry of this demonstration speaks plain HTTP
    default: true
    mode: enforce
    credentials: {anonymous: true}
    lookaside: ["file://%s"]
    scopes:
      - repositories: ["sandbox/*"]
        mode: annotate
platforms: [linux/amd64]
trust:
  signers:
    - {name: ci, cosign: {key: ci.pub}}
    - {name: release, openpgp: {keyring: release.asc}}
  builders:
    - {id: %q, signers: [ci]}
  sources: ["https://github.com/acme/*"]
policy:
  collections: [trusted-builds]
log: {level: warn}
`, listen, admin, upstream, s.registry.Addr, filepath.Join(s.folder, "signatures"), builder),
	} {
		if err := os.WriteFile(filepath.Join(s.folder, path), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// yard builds one image after the other; the first error stops it.
type yard struct {
	*Scene
	ctx       context.Context
	ci        *shipyard.Key
	release   *shipyard.PGP
	lookaside shipyard.Lookaside
	err       error
}

func (y *yard) launch() {
	base := y.image("base/os", nil)
	y.attest(base)
	y.signPGP(base)
	y.expect(base, policy.Serve, "a base image: signed with OpenPGP, built from scratch by a trusted builder")

	runtime := y.image("base/runtime", base)
	y.attest(runtime, base)
	y.sign(runtime)
	shop := y.image("shop", runtime)
	y.attest(shop, runtime)
	y.sign(shop)
	y.expect(shop, policy.Serve, "signed, and trusted all the way down: shop, base/runtime, base/os")

	unsigned := y.image("unsigned", base)
	y.attest(unsigned, base)
	y.expect(unsigned, policy.Block, "built by the trusted builder, signed by nobody")

	stray := y.image("stray/base", nil)
	orphan := y.image("orphan", stray)
	y.attest(orphan, stray)
	y.sign(orphan)
	y.expect(orphan, policy.Block, "signed, on top of a base that nobody signed")

	tampered := y.image("tampered", runtime)
	y.attest(tampered, runtime)
	if y.err == nil {
		y.err = y.registry.Transplant(y.ctx, y.ci, y.known(shop), y.known(tampered))
	}
	y.expect(tampered, policy.Block, "changed after signing: the signature beside it is for another digest")

	sandbox := y.image("sandbox/tool", base)
	y.expect(sandbox, policy.Annotate, "unsigned, in a scope where blocks are only announced")
}

func (y *yard) image(repository string, base *shipyard.Image) *shipyard.Image {
	if y.err != nil {
		return nil
	}
	var built v1.Image
	if built, y.err = shipyard.Build(base, map[string]string{"opt/" + repository + "/README": "This is " + repository + ".\n"}); y.err != nil {
		return nil
	}
	var pushed *shipyard.Image
	if pushed, y.err = y.registry.Push(y.ctx, repository, "1", built); y.err != nil {
		return nil
	}
	return pushed
}

// known is the image by the name that clients use and that signatures carry.
func (y *yard) known(image *shipyard.Image) *shipyard.Image {
	named := *image
	named.Registry = upstream
	return &named
}

func (y *yard) sign(image *shipyard.Image) {
	if y.err == nil {
		y.err = y.registry.Sign(y.ctx, y.ci, y.known(image))
	}
}

func (y *yard) signPGP(image *shipyard.Image) {
	if y.err == nil {
		y.err = y.lookaside.Sign(y.release, y.known(image))
	}
}

func (y *yard) attest(image *shipyard.Image, materials ...*shipyard.Image) {
	if y.err != nil {
		return
	}
	named := make([]*shipyard.Image, len(materials))
	for i, m := range materials {
		named[i] = y.known(m)
	}
	y.err = y.registry.Attest(y.ctx, y.ci, y.known(image), shipyard.ProvenanceType, shipyard.Provenance(builder, source, revision, named...))
}

func (y *yard) expect(image *shipyard.Image, action policy.Action, story string) {
	if y.err == nil {
		y.Pulls = append(y.Pulls, Pull{Reference: y.known(image).Reference(), Expected: action, Story: story})
	}
}
