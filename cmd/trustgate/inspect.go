package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/api"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/oci"
)

func newInspect() *cobra.Command {
	c := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show an image's signatures, build, source, parents and verdict",
		Long: `Judge an image as a pull through the gate would, and show everything that was
found about it: who signed it, how it was built, from which source, and what it
was built from, all the way down.

IMAGE is written as for docker pull. It goes to the route of its registry, with
the cache and the ledger of the configuration, beside a gate that may be running.
With -o json, "input" is the document that the rules saw.`,
		Example: `  trustgate inspect ghcr.io/acme/shop:1.4
  trustgate inspect -o json nginx | jq .input.signatures
  trustgate inspect --strict ghcr.io/acme/shop:1.4 || echo "not clean"`,
		Args: cobra.ExactArgs(1),
	}
	strict := c.Flags().Bool("strict", false, "exit with 4 when the image is annotated")
	fresh := c.Flags().Bool("fresh", false, "judge anew, though a verdict stands")
	c.Flags().BoolP("verbose", "v", false, "log what is done")
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		found, err := inspect(c, args[0], *fresh)
		if err != nil {
			return err
		}
		if out.json() {
			err = writeJSON(c.OutOrStdout(), found)
		} else {
			err = writeTree(c.OutOrStdout(), found)
		}
		if err != nil {
			return err
		}
		return exitWith(found.Verdict.Action, *strict)
	}
	return c
}

// inspect admits an image as a pull would; fresh is for what has just changed.
func inspect(c *cobra.Command, image string, fresh bool) (found *api.Image, err error) {
	ref, err := imageReference(image)
	if err != nil {
		return nil, &usageError{c.CommandPath(), err}
	}
	s, err := openService(c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return s.api().Image(c.Context(), gate.Request{Reference: ref, Fresh: fresh})
}

// imageReference reads an image as people write it.
func imageReference(image string) (oci.Reference, error) {
	ref, err := oci.ParseReference(image)
	if err != nil {
		return ref, err
	}
	if ref.Tag() == "" && ref.Digest() == "" {
		return ref.WithTag("latest")
	}
	return ref, nil
}

// writeTree shows a report as the tree that trust is.
func writeTree(w io.Writer, r *api.Image) error {
	p := paint(w)
	t := &tree{palette: p}
	title := p.bold(plain(r.Reference))
	if r.Verdict.Decision == "" {
		title += "\n" + p.green("evidence") + p.faint(", which is served as it is and not judged")
	} else {
		title += "\n" + p.action(r.Verdict.Action, 0) + p.faint(fmt.Sprintf(" by decision %s, judged %s, stands until %s",
			r.Verdict.Decision, ago(r.Verdict.JudgedAt), r.Verdict.ExpiresAt.Local().Format(time.DateTime)))
		if r.Verdict.Stale {
			title += p.yellow(" (the upstream does not answer; an earlier verdict stands)")
		}
		if r.Verdict.BeforeMode != "" && r.Verdict.BeforeMode != r.Verdict.Action {
			title += p.faint(fmt.Sprintf(" (without its mode: %s)", p.action(r.Verdict.BeforeMode, 0)))
		}
	}
	if len(r.Images) == 0 {
		t.image(r)
	}
	for _, image := range r.Images {
		t.open(fmt.Sprintf("%s  %s  %s", p.bold(plain(image.Platform)), p.action(image.Verdict.Action, 0), p.faint(string(image.Digest))))
		t.image(image)
		t.close()
	}
	_, err := io.WriteString(w, title+"\n"+t.String())
	return err
}
