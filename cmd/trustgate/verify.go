package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/api"
	"github.com/trustgate/trustgate/policy"
)

func newVerify() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify IMAGE",
		Short: "Check an image's signatures, as git tag -v checks a tag",
		Long: `Show every signature of an image, of whatever kind and wherever it is kept, with who
made it or why it does not count, and succeed if at least one was made by a signer of
trust.signers for this very reference.

It looks at signatures alone. Whether a pull is served is for the rules:
'trustgate inspect'.`,
		Example: `  trustgate verify ghcr.io/acme/shop:1.4
  trustgate verify --signer release ghcr.io/acme/shop:1.4 && deploy`,
		Args: cobra.ExactArgs(1),
	}
	signer := c.Flags().String("signer", "", "count the signatures of this signer only")
	c.Flags().BoolP("verbose", "v", false, "log what is done")
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		found, err := inspect(c, args[0], true)
		if err != nil {
			return err
		}
		images := verifications(found, *signer)
		if len(images) == 0 {
			return fmt.Errorf("%s is evidence, which is not signed itself", args[0])
		}
		if out.json() {
			err = writeJSON(c.OutOrStdout(), images)
		} else {
			err = writeVerifications(c.OutOrStdout(), images)
		}
		if err != nil {
			return err
		}
		for _, image := range images {
			if !image.Verified {
				return errors.New("no signature counts for " + image.Reference)
			}
		}
		return nil
	}
	return c
}

// verification is what the signatures of one image come to; an index has one
// for each platform.
type verification struct {
	Reference  string             `json:"reference"`
	Digest     digest.Digest      `json:"digest"`
	Platform   string             `json:"platform"`
	Verified   bool               `json:"verified"`
	Signatures []policy.Signature `json:"signatures"`
	Errors     []policy.Problem   `json:"errors"`
}

func verifications(r *api.Image, signer string) []verification {
	images := r.Images
	if len(images) == 0 {
		images = []*api.Image{r}
	}
	var list []verification
	for _, image := range images {
		if image.Input == nil {
			continue
		}
		v := verification{
			Reference: image.Reference, Digest: image.Digest, Platform: image.Platform,
			Signatures: orEmpty(image.Input.Signatures), Errors: orEmpty(image.Input.Errors),
		}
		for _, s := range v.Signatures {
			v.Verified = v.Verified || counts(s, signer)
		}
		list = append(list, v)
	}
	return list
}

// counts says whether a named signer made the signature for this reference.
func counts(s policy.Signature, signer string) bool {
	return s.Verified && s.Signer != nil && (signer == "" || s.Signer.Name == signer) &&
		(s.ReferenceMatches == nil || *s.ReferenceMatches)
}

func writeVerifications(w io.Writer, images []verification) error {
	p := paint(w)
	for _, image := range images {
		fmt.Fprintf(w, "%s %s\n", p.bold(plain(image.Reference)), p.faint(plain(image.Platform)))
		if len(image.Signatures) == 0 {
			fmt.Fprintln(w, p.red("  there is no signature"))
		}
		for _, s := range image.Signatures {
			fmt.Fprintln(w, "  "+p.signature(s))
		}
		for _, problem := range image.Errors {
			fmt.Fprintf(w, "  %s %s\n", p.yellow("not everything could be looked at:"), plain(problem.Message))
		}
	}
	return nil
}
