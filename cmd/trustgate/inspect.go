package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
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

// report is what is known about one image.
type report struct {
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	Kind      oci.Kind      `json:"kind"`
	Platform  string        `json:"platform,omitempty"`
	Verdict   verdict       `json:"verdict"`
	Input     *policy.Input `json:"input"`
	Images    []*report     `json:"images,omitempty"` // of an index
}

// verdict is one as it is shown.
type verdict struct {
	Decision    string            `json:"decision"`
	Action      policy.Action     `json:"action"`
	BeforeMode  policy.Action     `json:"before_mode"`
	Reasons     []policy.Reason   `json:"reasons"`
	Annotations map[string]string `json:"annotations"`
	JudgedAt    time.Time         `json:"judged_at"`
	ExpiresAt   time.Time         `json:"expires_at"`
	Stale       bool              `json:"stale,omitempty"`
}

// inspect admits an image as a pull would; fresh is for what has just changed.
func inspect(c *cobra.Command, image string, fresh bool) (found *report, err error) {
	ref, err := imageReference(image)
	if err != nil {
		return nil, &usageError{c.CommandPath(), err}
	}
	s, err := openService(c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return s.inspect(c.Context(), ref, fresh)
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

func (s *service) inspect(ctx context.Context, ref oci.Reference, fresh bool) (*report, error) {
	a, err := s.gate.Admit(ctx, gate.Request{Reference: ref, Fresh: fresh})
	if err != nil {
		return nil, err
	}
	r := &report{
		Reference: a.Reference.String(), Digest: a.Reference.Digest(), Kind: a.Manifest.Kind, Platform: a.Platform,
		Verdict: verdict{
			Decision: a.Verdict.ID, Action: a.Verdict.Action, BeforeMode: a.Verdict.BeforeMode,
			Reasons: orEmpty(a.Verdict.Reasons), Annotations: a.Verdict.Annotations,
			JudgedAt: a.Verdict.JudgedAt, ExpiresAt: a.Verdict.ExpiresAt, Stale: a.Verdict.Stale,
		},
	}
	if a.Verdict.ID != "" {
		if r.Input, err = readInput(ctx, s.ledger, a.Verdict.ID); err != nil {
			return nil, err
		}
	}
	for _, child := range a.Children {
		image := &report{
			Reference: a.Reference.WithDigest(child.Digest).String(), Digest: child.Digest, Kind: oci.KindImage, Platform: child.Platform,
			Verdict: verdict{Decision: child.Decision, Action: child.Action, Reasons: orEmpty(child.Reasons)},
		}
		if j, err := s.ledger.Get(ctx, child.Decision); err == nil {
			image.Verdict.BeforeMode = policy.Action(j.BeforeMode)
			image.Verdict.JudgedAt, image.Verdict.ExpiresAt = j.JudgedAt, j.ExpiresAt
			if image.Input, err = readInput(ctx, s.ledger, child.Decision); err != nil {
				return nil, err
			}
		}
		r.Images = append(r.Images, image)
	}
	return r, nil
}

func readInput(ctx context.Context, from *ledger.Ledger, id string) (*policy.Input, error) {
	raw, err := from.Input(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("reading what decision %s was made of: %w", id, err)
	}
	var input policy.Input
	if err := json.Unmarshal(raw, &input); err != nil {
		return nil, fmt.Errorf("reading what decision %s was made of: %w", id, err)
	}
	return &input, nil
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// writeTree shows a report as the tree that trust is.
func writeTree(w io.Writer, r *report) error {
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
