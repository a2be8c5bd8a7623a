package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/evidence/packages"
	"github.com/trustgate/trustgate/gate"
	"github.com/trustgate/trustgate/oci"
	"github.com/trustgate/trustgate/policy"
)

func newPackages() *cobra.Command {
	c := &cobra.Command{
		Use:   "packages IMAGE",
		Short: "Check the packages inside an image, as rpm -Va and debsums do",
		Long: `Read all layers of an image, compare each file with what the databases of dpkg, apk
and rpm record of it, and list what was modified, what is missing, what a later layer
replaced in a package of the parent image, and which executables and setuid files
belong to no package.

A package database is the image's own word; the parent's layers are not. Changed
configuration files are counted and are no finding.

It exits with 3 when there is a finding: a modified, missing or replaced file, or a
setuid file that no package owns.`,
		Example: `  trustgate packages debian:12
  trustgate packages --platform linux/arm64 -o json ghcr.io/acme/shop:1.4 | jq .modified`,
		Args: cobra.ExactArgs(1),
	}
	platform := c.Flags().String("platform", "", "which image of an index (default: the first that is configured)")
	c.Flags().BoolP("verbose", "v", false, "log what is done")
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		ref, report, err := examine(c, args[0], *platform)
		if err != nil {
			return err
		}
		if out.json() {
			err = writeJSON(c.OutOrStdout(), report)
		} else {
			err = writePackages(c.OutOrStdout(), ref, report)
		}
		if err == nil && report.Modified.Total+report.Missing.Total+report.Replaced.Total+report.UnownedSetuid.Total > 0 {
			err = &verdictError{policy.Block}
		}
		return err
	}
	return c
}

// examine reads the packages inside an image, now.
func examine(c *cobra.Command, image, platform string) (ref oci.Reference, report *packages.Report, err error) {
	if ref, err = imageReference(image); err != nil {
		return ref, nil, &usageError{c.CommandPath(), err}
	}
	s, err := openService(c)
	if err != nil {
		return ref, nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	a, err := s.admitImage(c.Context(), ref, platform)
	if err != nil {
		return ref, nil, err
	}
	done := progress(c.ErrOrStderr(), "reading the layers of "+a.Reference.Familiar())
	defer done()
	report, err = s.gate.Examine(c.Context(), a)
	return a.Reference, report, err
}

// admitImage judges ref and, when it is an index, picks the image for the
// platform.
func (s *service) admitImage(ctx context.Context, ref oci.Reference, platform string) (*gate.Admission, error) {
	a, err := s.gate.Admit(ctx, gate.Request{Reference: ref})
	switch {
	case err != nil:
		return nil, err
	case a.Manifest.Kind == oci.KindImage:
		return a, nil
	case a.Manifest.Kind != oci.KindIndex:
		return nil, fmt.Errorf("%s is no image but an %s", ref, a.Manifest.Kind)
	}
	wanted := platform
	if wanted != "" {
		p, err := config.ParsePlatform(wanted)
		if err != nil {
			return nil, err
		}
		wanted = oci.FormatPlatform(&p)
	}
	for _, child := range a.Children {
		if wanted == "" || child.Platform == wanted {
			image, err := s.gate.Admit(ctx, gate.Request{Reference: a.Reference.WithoutTag().WithDigest(child.Digest)})
			if err == nil && image.Manifest.Kind != oci.KindImage {
				err = fmt.Errorf("%s lists an %s in place of an image", ref, image.Manifest.Kind)
			}
			return image, err
		}
	}
	if wanted == "" {
		return nil, fmt.Errorf("%s lists no image that was judged", ref)
	}
	return nil, fmt.Errorf("%s has no image for %s among the configured platforms", ref, wanted)
}

func writePackages(w io.Writer, ref oci.Reference, r *packages.Report) error {
	p := paint(w)
	fmt.Fprintf(w, "%s\n", p.bold(plain(ref.String())))
	switch {
	case len(r.Managers) == 0:
		fmt.Fprintln(w, "  no package database; "+p.faint("its executables belong to nobody"))
	default:
		fmt.Fprintf(w, "  %d packages of %s (%s)\n", r.Count, plain(firstOf(r.Distribution.PrettyName, r.Distribution.String(), "an unknown distribution")), plain(r.Managers[0]))
	}
	if r.SourceURL != "" {
		fmt.Fprintf(w, "  sources: %s\n", plain(r.SourceURL))
	}
	clean := true
	for _, list := range []struct {
		name    string
		paths   packages.Paths
		finding bool
	}{
		{"modified", r.Modified, true}, {"missing", r.Missing, true}, {"replaced by a later layer", r.Replaced, true},
		{"setuid without a package", r.UnownedSetuid, true},
		{"changed configuration", r.ModifiedConffiles, false}, {"executables without a package", r.UnownedExecutables, false},
		{"recorded without a digest", r.Unchecked, false},
	} {
		if list.paths.Total == 0 {
			continue
		}
		title := fmt.Sprintf("%s: %d", list.name, list.paths.Total)
		if !list.finding {
			fmt.Fprintln(w, "  "+p.faint(title))
			continue
		}
		clean = false
		fmt.Fprintln(w, "  "+p.red(title))
		for _, path := range list.paths.List {
			fmt.Fprintln(w, "    "+plain(path))
		}
		if more := list.paths.Total - len(list.paths.List); more > 0 {
			fmt.Fprintf(w, "    and %d more\n", more)
		}
	}
	if clean {
		fmt.Fprintln(w, "  "+p.green("every packaged file is as its package brought it"))
	}
	return nil
}
