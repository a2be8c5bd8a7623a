package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/attest"
	"github.com/trustgate/trustgate/evidence/provenance"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
	"github.com/trustgate/trustgate/rebuild"
)

func newReproduce() *cobra.Command {
	c := &cobra.Command{
		Use:   "reproduce IMAGE",
		Short: "Build an image again and say where the result differs",
		Long: `Build an image again with BuildKit from what its provenance says: the source at the
very revision, each base image by its digest, the same arguments, the same
SOURCE_DATE_EPOCH. Then compare bit for bit. A build that reproduces needs trust
nobody; one that does not is shown where: in the manifest, a field of the config, a
layer, a file, or a file's metadata.

BuildKit's client, buildctl, does the building, on the daemon of --buildkit.

With --attest the result, either way, is signed with --key (a cosign.key, or a PKCS #8
key) in the name of --builder and attached to the image. Rules count such statements:
build.reproduced wants several independent builders to agree.

It exits with 3 when the image does not reproduce.`,
		Example: `  trustgate reproduce --buildkit tcp://127.0.0.1:1234 ghcr.io/acme/shop:1.4
  COSIGN_PASSWORD=… trustgate reproduce --attest --key cosign.key --builder https://rebuilder.example/ ghcr.io/acme/shop:1.4`,
		Args: cobra.ExactArgs(1),
	}
	var o reproduceOptions
	c.Flags().StringVar(&o.buildkit.Address, "buildkit", "", "address of the BuildKit daemon (default buildctl's own)")
	c.Flags().StringVar(&o.buildkit.Program, "buildctl", "buildctl", "the BuildKit client")
	c.Flags().StringVar(&o.platform, "platform", "", "which image of an index (default: the first that is configured)")
	c.Flags().StringVar(&o.rewrite, "rewrite-timestamps", "auto", "whether file times are clamped to SOURCE_DATE_EPOCH: yes, no, or auto, which tries both")
	c.Flags().BoolVar(&o.attest, "attest", false, "sign the result and attach it to the image")
	c.Flags().StringVar(&o.key, "key", "", "the key that signs it; $COSIGN_PASSWORD opens an encrypted one")
	c.Flags().StringVar(&o.builder, "builder", "", "who rebuilt it: a builder ID as in trust.builders")
	c.Flags().BoolP("verbose", "v", false, "log what is done, and what BuildKit prints")
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		ref, err := imageReference(args[0])
		if err != nil {
			return &usageError{c.CommandPath(), err}
		}
		switch {
		case o.attest && (o.key == "" || o.builder == ""):
			return &usageError{c.CommandPath(), errors.New("--attest needs --key and --builder: whoever says so must have a name")}
		case o.rewrite != "auto" && o.rewrite != "yes" && o.rewrite != "no":
			return &usageError{c.CommandPath(), fmt.Errorf("--rewrite-timestamps is %q; it is auto, yes or no", o.rewrite)}
		}
		if verbose, _ := c.Flags().GetBool("verbose"); verbose {
			o.buildkit.Progress = c.ErrOrStderr()
		}
		s, err := openService(c)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.close()) }()
		r, err := s.reproduce(c.Context(), ref, o, c.ErrOrStderr())
		if err != nil {
			return err
		}
		if out.json() {
			err = writeJSON(c.OutOrStdout(), r)
		} else {
			err = r.write(c.OutOrStdout())
		}
		if err == nil && !r.Identical {
			err = &verdictError{policy.Block}
		}
		return err
	}
	return c
}

type reproduceOptions struct {
	buildkit     rebuild.BuildKit
	platform     string
	rewrite      string
	attest       bool
	key, builder string
}

// reproduction is what came of building an image again.
type reproduction struct {
	Reference   string               `json:"reference"`
	Digest      digest.Digest        `json:"digest"`
	Rebuilt     digest.Digest        `json:"rebuilt"`
	Identical   bool                 `json:"identical"`
	Repository  string               `json:"repository"`
	Revision    string               `json:"revision"`
	Verified    bool                 `json:"provenance_verified"`
	Differences []rebuild.Difference `json:"differences"`
	Attached    digest.Digest        `json:"attached,omitempty"`
}

func (s *service) reproduce(ctx context.Context, ref oci.Reference, o reproduceOptions, progressTo io.Writer) (*reproduction, error) {
	var key *attest.Key
	if o.attest {
		raw, err := readKeyFile(o.key)
		if err != nil {
			return nil, fmt.Errorf("reading the key: %w", err)
		}
		if key, err = attest.LoadKey(raw, func() ([]byte, error) { return []byte(os.Getenv("COSIGN_PASSWORD")), nil }); err != nil {
			return nil, fmt.Errorf("reading the key %s: %w", o.key, err)
		}
	}
	a, err := s.admitImage(ctx, ref, o.platform)
	if err != nil {
		return nil, err
	}
	input, err := s.api().Input(ctx, a.Verdict.ID)
	if err != nil {
		return nil, err
	}
	p, verified, err := bestProvenance(input)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Reference, err)
	}
	if o.attest && !verified {
		return nil, fmt.Errorf("%s: no named signer vouches for its provenance, so what is built again may not be its source; nothing is signed for that", a.Reference)
	}
	var created time.Time
	if input.Image.Created != nil {
		created = *input.Image.Created
	}
	recipe, err := rebuild.ReadRecipe(p, a.Platform, created)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Reference, err)
	}
	original, err := s.taken(ctx, a)
	if err != nil {
		return nil, err
	}
	r := &reproduction{
		Reference: a.Reference.String(), Digest: a.Reference.Digest(),
		Repository: p.Repository, Revision: p.Revision, Verified: verified,
	}
	done := progress(progressTo, fmt.Sprintf("building %s at %.12s again", p.Repository, p.Revision))
	err = r.build(ctx, o, recipe, original)
	done()
	if err != nil {
		return nil, err
	}
	if key != nil {
		err = s.attachReproduction(ctx, a, r, key, o.builder)
	}
	return r, err
}

// bestProvenance prefers one that a named signer vouches for. A claim will do:
// whether the build reproduces does not depend on who says how it was made.
func bestProvenance(input *policy.Input) (p *provenance.Provenance, verified bool, err error) {
	err = errors.New("it has no provenance, so nothing says how to build it")
	for _, wantVerified := range []bool{true, false} {
		for _, a := range input.Attestations {
			if a.Verified != wantVerified || a.Error != "" || !provenance.IsProvenance(a.PredicateType) {
				continue
			}
			if p, parseErr := provenance.Parse(a.PredicateType, a.Predicate); parseErr == nil {
				return p, a.Verified, nil
			} else {
				err = parseErr
			}
		}
	}
	return nil, false, err
}

// taken is the image as the comparison reads it: every byte through the cache,
// which hashes it.
func (s *service) taken(ctx context.Context, a *gate.Admission) (rebuild.Image, error) {
	from, err := openRepository(s.config, a.Reference)
	if err != nil {
		return rebuild.Image{}, err
	}
	open := func(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error) {
		return s.cache.Blob(ctx, d, func(ctx context.Context) (io.ReadCloser, int64, error) { return from.Blob(ctx, d.Digest, 0) })
	}
	config, err := open(ctx, *a.Manifest.Config)
	if err != nil {
		return rebuild.Image{}, err
	}
	defer config.Close()
	raw, err := io.ReadAll(io.LimitReader(config, maxConfig))
	return rebuild.Image{Manifest: a.Manifest, Config: raw, Layer: open}, err
}

// build tries the ways in which timestamps can have been treated, which no
// provenance tells, and keeps the one that comes closest.
func (r *reproduction) build(ctx context.Context, o reproduceOptions, recipe *rebuild.Recipe, original rebuild.Image) error {
	ways := map[string][]bool{"yes": {true}, "no": {false}, "auto": {true, false}}[o.rewrite]
	for i, rewrite := range ways {
		found, rebuilt, err := try(ctx, o.buildkit, recipe, original, rewrite)
		if err != nil {
			return err
		}
		if i == 0 || len(found) < len(r.Differences) {
			r.Differences, r.Rebuilt = orEmpty(found), rebuilt
		}
		if len(found) == 0 {
			r.Identical = true
			return nil
		}
	}
	return nil
}

func try(ctx context.Context, b rebuild.BuildKit, recipe *rebuild.Recipe, original rebuild.Image, rewrite bool) ([]rebuild.Difference, digest.Digest, error) {
	folder, err := os.MkdirTemp("", "trustgate-rebuild-")
	if err != nil {
		return nil, "", err
	}
	defer os.RemoveAll(folder)
	if err := b.Build(ctx, recipe, folder, rewrite); err != nil {
		return nil, "", err
	}
	rebuilt, err := rebuild.OpenLayout(folder)
	if err != nil {
		return nil, "", err
	}
	found, err := rebuild.Compare(ctx, original, *rebuilt)
	return found, rebuilt.Manifest.Digest, err
}

func (s *service) attachReproduction(ctx context.Context, a *gate.Admission, r *reproduction, key *attest.Key, builder string) error {
	now := time.Now()
	var differences []string
	for _, d := range r.Differences {
		differences = append(differences, d.Where+" "+d.Path)
	}
	artifact, err := key.Attest(ctx, attest.Statement{
		Subject: a.Manifest.Descriptor(), Name: a.Reference.InRepository().Name(),
		PredicateType: provenance.TypeReproduction, Time: now,
		Predicate: provenance.ReproductionPredicate(provenance.Reproduction{
			BuilderID: builder, Repository: r.Repository, Revision: r.Revision, Identical: r.Identical,
		}, r.Rebuilt, differences, now),
	})
	if err != nil {
		return err
	}
	to, err := openRepository(s.config, a.Reference)
	if err != nil {
		return err
	}
	r.Attached = artifact.Manifest.Digest
	return to.Attach(ctx, artifact.Manifest, artifact.Config, artifact.Bundle)
}

func (r *reproduction) write(w io.Writer) error {
	p := paint(w)
	verdict := p.red("does not reproduce")
	if r.Identical {
		verdict = p.green("reproduces bit for bit")
	}
	known := p.yellow("by its own claim")
	if r.Verified {
		known = "by verified provenance"
	}
	fmt.Fprintf(w, "%s %s\n  source    %s at %s, %s\n", p.bold(plain(r.Reference)), verdict, plain(r.Repository), plain(r.Revision), known)
	for _, d := range r.Differences {
		fmt.Fprintf(w, "  %-9s %s\n            %s\n            %s\n", d.Where, plain(d.Path),
			p.faint("original: ")+plain(d.Original), p.faint("rebuilt:  ")+plain(d.Rebuilt))
	}
	if r.Attached != "" {
		_, err := fmt.Fprintf(w, "  attached  the referrer %s\n", r.Attached)
		return err
	}
	return nil
}
