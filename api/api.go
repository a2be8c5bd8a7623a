// Package api tells programs what TrustGate knows: about one image, its source,
// and past verdicts, as JSON documents. The command line writes the same
// documents with -o json.
//
// It reads the gate and the ledger. It must never decide, and never show those
// who pull what others have pulled.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/evidence/packages"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

// Gate judges images.
type Gate interface {
	Admit(ctx context.Context, req gate.Request) (*gate.Admission, error)
}

// Ledger remembers what was judged.
type Ledger interface {
	Get(ctx context.Context, id string) (ledger.Judgement, error)
	List(ctx context.Context, f ledger.Filter) ([]ledger.Judgement, error)
	Input(ctx context.Context, id string) ([]byte, error)
	Pulls(ctx context.Context, id string) ([]ledger.Pulls, error)
	Examination(ctx context.Context, d digest.Digest, below int) (ledger.Examination, error)
}

// API makes the documents.
type API struct {
	Gate   Gate
	Ledger Ledger
}

// Image is what is known about one image.
type Image struct {
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	Kind      oci.Kind      `json:"kind"`
	Platform  string        `json:"platform,omitempty"`
	Verdict   Verdict       `json:"verdict"`
	Input     *policy.Input `json:"input"`            // null for evidence, which is not judged
	Images    []*Image      `json:"images,omitempty"` // of an index
}

// Verdict is one about an image as it stands.
type Verdict struct {
	Decision    string            `json:"decision"`
	Action      policy.Action     `json:"action"`
	BeforeMode  policy.Action     `json:"before_mode"`
	Reasons     []policy.Reason   `json:"reasons"`
	Annotations map[string]string `json:"annotations"`
	JudgedAt    time.Time         `json:"judged_at"`
	ExpiresAt   time.Time         `json:"expires_at"`
	Stale       bool              `json:"stale,omitempty"`
}

// Image judges an image as a pull would and gathers what the verdict was made
// of. A block is no error.
func (a *API) Image(ctx context.Context, req gate.Request) (*Image, error) {
	admitted, err := a.Gate.Admit(ctx, req)
	if err != nil {
		return nil, err
	}
	v := admitted.Verdict
	image := &Image{
		Reference: admitted.Reference.String(), Digest: admitted.Reference.Digest(), Kind: admitted.Manifest.Kind, Platform: admitted.Platform,
		Verdict: Verdict{
			Decision: v.ID, Action: v.Action, BeforeMode: v.BeforeMode, Reasons: orEmpty(v.Reasons), Annotations: v.Annotations,
			JudgedAt: v.JudgedAt, ExpiresAt: v.ExpiresAt, Stale: v.Stale,
		},
	}
	if v.ID != "" {
		if image.Input, err = a.Input(ctx, v.ID); err != nil {
			return nil, err
		}
	}
	for _, c := range admitted.Children {
		child := &Image{
			Reference: admitted.Reference.WithDigest(c.Digest).String(), Digest: c.Digest, Kind: oci.KindImage, Platform: c.Platform,
			Verdict: Verdict{Decision: c.Decision, Action: c.Action, Reasons: orEmpty(c.Reasons)},
		}
		j, err := a.Ledger.Get(ctx, c.Decision)
		if err == nil {
			child.Verdict.BeforeMode = policy.Action(j.BeforeMode)
			child.Verdict.JudgedAt, child.Verdict.ExpiresAt = j.JudgedAt, j.ExpiresAt
			child.Input, err = a.Input(ctx, c.Decision)
		}
		if err != nil && !errors.Is(err, oci.ErrNotFound) {
			return nil, err
		}
		image.Images = append(image.Images, child)
	}
	return image, nil
}

// Input is the document that a verdict was made of.
func (a *API) Input(ctx context.Context, decision string) (*policy.Input, error) {
	raw, err := a.Ledger.Input(ctx, decision)
	if err != nil {
		return nil, fmt.Errorf("reading what decision %s was made of: %w", decision, err)
	}
	var input policy.Input
	if err := json.Unmarshal(raw, &input); err != nil {
		return nil, fmt.Errorf("reading what decision %s was made of: %w", decision, err)
	}
	return &input, nil
}

// Source is where the source of one image is; an index has one for each of its
// images.
type Source struct {
	Reference string `json:"reference"`
	Platform  string `json:"platform"`
	policy.Source
	Packages *PackageSources `json:"packages,omitempty"` // where they were asked for
}

// PackageSources is where the distribution serves the source of the packages
// inside an image.
type PackageSources struct {
	State string `json:"state"` // done, failed, or none while nobody has examined the image
	Error string `json:"error"`
	Count int    `json:"count"`
	// List has the packages with their licences and links; it is bounded, Count
	// is not.
	List []packages.Package `json:"list"`
}

// Sources picks what an image's report says of sources, with the packages if
// they are asked for and known.
func (a *API) Sources(ctx context.Context, image *Image, inside bool) ([]Source, error) {
	images := image.Images
	if len(images) == 0 {
		images = []*Image{image}
	}
	list := []Source{}
	for _, one := range images {
		if one.Input == nil {
			continue
		}
		s := Source{Reference: one.Reference, Platform: one.Platform, Source: one.Input.Source}
		if inside {
			var err error
			if s.Packages, err = a.packageSources(ctx, one); err != nil {
				return nil, err
			}
		}
		list = append(list, s)
	}
	return list, nil
}

func (a *API) packageSources(ctx context.Context, image *Image) (*PackageSources, error) {
	p := &PackageSources{State: "none", List: []packages.Package{}}
	j, err := a.Ledger.Get(ctx, image.Verdict.Decision)
	if err != nil {
		return nil, err
	}
	var known gate.Detail
	if err := json.Unmarshal(j.Detail, &known); err != nil {
		return nil, fmt.Errorf("reading decision %s: %w", j.ID, err)
	}
	e, err := a.Ledger.Examination(ctx, image.Digest, known.Below)
	switch {
	case errors.Is(err, oci.ErrNotFound):
		return p, nil
	case err != nil:
		return nil, err
	case e.Failure != "":
		p.State, p.Error = "failed", e.Failure
		return p, nil
	}
	var report packages.Report
	if err := json.Unmarshal(e.Report, &report); err != nil {
		return nil, fmt.Errorf("reading the examination of %s: %w", image.Digest, err)
	}
	p.State, p.Count, p.List = "done", report.Count, orEmpty(report.Packages)
	return p, nil
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
