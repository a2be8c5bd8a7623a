package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/trustgate/trustgate/evidence"
	"github.com/trustgate/trustgate/evidence/openpgp"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/signing"
	"github.com/trustgate/trustgate/upstream"
)

func newSign() *cobra.Command {
	c := &cobra.Command{
		Use:   "sign IMAGE:TAG",
		Short: "Sign an image with OpenPGP, as git tag -s signs a tag",
		Long: `Sign what a tag names now, and attach the signature to the image. It binds registry,
repository, tag and digest: copied to another tag or repository, or beside another
digest, it does not verify. podman, skopeo and CRI-O verify it too.

Your own gpg signs, with its default key or the one of --key, and its agent asks for
the passphrase. --key-file signs with an exported secret key instead; a locked one is
opened with the passphrase in --passphrase-file, or one that you type.

The signature goes to the registry: into its signatures extension if it has one, else
as a referrer. With --attach it goes where you say, a lookaside folder for example.

IMAGE is written as for docker pull, and reached by the route of its registry in the
configuration. With a digest (IMAGE:TAG@sha256:…) nothing else is signed.`,
		Example: `  trustgate sign ghcr.io/acme/shop:1.4
  trustgate sign --key releases@acme.example ghcr.io/acme/shop:1.4
  trustgate sign --key-file release.asc --passphrase-file pass --attach ./signatures ghcr.io/acme/shop:1.4`,
		Args: cobra.ExactArgs(1),
	}
	var o signOptions
	c.Flags().StringVarP(&o.key, "key", "k", "", "the gpg key to sign with: a fingerprint, ID or address (default gpg's own choice)")
	c.Flags().StringVar(&o.program, "gpg", "gpg", "the gpg program")
	c.Flags().StringVar(&o.keyFile, "key-file", "", "sign with this exported secret key instead of gpg")
	c.Flags().StringVar(&o.passphraseFile, "passphrase-file", "", "the passphrase of --key-file; - reads standard input")
	c.Flags().StringVar(&o.attach, "attach", attachAuto, "where the signature goes: auto, referrer, extension, or a lookaside folder")
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		ref, err := imageReference(args[0])
		if err != nil {
			return &usageError{c.CommandPath(), err}
		}
		if ref.Tag() == "" {
			return &usageError{c.CommandPath(), fmt.Errorf("%s names no tag; a signature names one, so write IMAGE:TAG", args[0])}
		}
		if o.keyFile != "" && o.key != "" {
			return &usageError{c.CommandPath(), errors.New("--key is for gpg, --key-file for an exported key; give one of them")}
		}
		made, err := sign(c, ref, o)
		if err != nil {
			return err
		}
		if out.json() {
			return writeJSON(c.OutOrStdout(), made)
		}
		return made.write(c.OutOrStdout())
	}
	return c
}

// Where a signature is attached.
const (
	attachAuto      = "auto"
	attachReferrer  = "referrer"
	attachExtension = "extension"
)

type signOptions struct{ key, program, keyFile, passphraseFile, attach string }

// signed is a signature that was made and attached.
type signed struct {
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	Attached  string        `json:"attached"`
	Signer    string        `json:"signer"` // of trust.signers, or ""
	Problem   string        `json:"problem,omitempty"`
}

func (s signed) write(w io.Writer) error {
	p := paint(w)
	fmt.Fprintf(w, "%s %s\n  digest    %s\n  attached  %s\n", p.green("signed"), p.bold(s.Reference), s.Digest, s.Attached)
	if s.Signer != "" {
		_, err := fmt.Fprintf(w, "  signer    %s\n", s.Signer)
		return err
	}
	_, err := fmt.Fprintf(w, "  %s %s\n", p.yellow("but the gate will not count it:"), plain(s.Problem))
	return err
}

func sign(c *cobra.Command, ref oci.Reference, o signOptions) (*signed, error) {
	ctx := c.Context()
	cfg, err := loadConfig(c)
	if err != nil {
		return nil, err
	}
	trusted, err := readTrust(cfg)
	if err != nil {
		return nil, err
	}
	repository, err := openRepository(cfg, ref)
	if err != nil {
		return nil, err
	}
	named, err := repository.Manifest(ctx, ref.Tag())
	if err != nil {
		return nil, err
	}
	if d := ref.Digest(); d != "" && d != named.Digest {
		return nil, fmt.Errorf("%s names %s now, not the digest that you gave; nothing was signed", ref.WithDigest(""), named.Digest)
	}
	ref = ref.WithDigest(named.Digest)

	signer, err := o.signer(c)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	signature, err := signing.Image(ctx, signer, ref, "trustgate "+readBuildInfo().Version, now)
	if err != nil {
		return nil, err
	}
	made := &signed{Reference: ref.WithDigest("").String(), Digest: ref.Digest()}
	// Before it leaves: would the gate of this configuration count it?
	checked := openpgp.Verify(signature, ref.Digest(), trusted.openpgp, time.Now())
	if checked.By.Verified() {
		made.Signer = checked.By.Signer().Name
	} else {
		made.Problem = checked.Err
	}
	made.Attached, err = o.attachTo(ctx, repository, ref, named, signature, now)
	return made, err
}

func (o signOptions) signer(c *cobra.Command) (signing.Signer, error) {
	if o.keyFile == "" {
		return signing.GnuPG{Program: o.program, Key: o.key}, nil
	}
	raw, err := readKeyFile(o.keyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	return signing.OpenExported(raw, func() ([]byte, error) { return o.passphrase(c) })
}

func (o signOptions) passphrase(c *cobra.Command) ([]byte, error) {
	switch {
	case o.passphraseFile == "-":
		raw, err := io.ReadAll(io.LimitReader(c.InOrStdin(), 64<<10))
		return []byte(strings.TrimRight(string(raw), "\r\n")), err
	case o.passphraseFile != "":
		raw, err := readKeyFile(o.passphraseFile)
		if err != nil {
			return nil, fmt.Errorf("reading the passphrase: %w", err)
		}
		return []byte(strings.TrimRight(string(raw), "\r\n")), nil
	case term.IsTerminal(int(os.Stdin.Fd())):
		fmt.Fprintf(c.ErrOrStderr(), "Passphrase of %s: ", o.keyFile)
		secret, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(c.ErrOrStderr())
		return secret, err
	}
	return nil, errors.New("the key is locked; give --passphrase-file, or sign from a terminal")
}

func (o signOptions) attachTo(ctx context.Context, repository *upstream.Repository, ref oci.Reference, named *oci.Manifest, signature []byte, now time.Time) (string, error) {
	switch o.attach {
	case attachAuto, attachExtension:
		entry, err := signing.ExtensionEntry(signature, ref)
		if err != nil {
			return "", err
		}
		err = repository.PutSignature(ctx, ref.Digest(), entry)
		if err == nil {
			return "the registry's signatures extension", nil
		}
		if o.attach == attachExtension || !errors.Is(err, upstream.ErrNoExtension) {
			return "", err
		}
		fallthrough
	case attachReferrer:
		artifact, blobs, err := signing.Referrer(signature, named.Descriptor(), now)
		if err != nil {
			return "", err
		}
		if err := repository.Attach(ctx, artifact, blobs...); err != nil {
			return "", err
		}
		return "the referrer " + artifact.Digest.String(), nil
	default:
		folder, err := filepath.Abs(o.attach)
		if err != nil {
			return "", err
		}
		store, err := openpgp.NewLookaside(fileURL(folder), nil, evidence.DefaultLimits)
		if err != nil {
			return "", err
		}
		return "the lookaside folder " + folder, store.Add(ref, ref.Digest(), signature)
	}
}
