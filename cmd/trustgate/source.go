package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/api"
	"github.com/trustgate/trustgate/evidence/packages"
	"github.com/trustgate/trustgate/policy"
)

func newSource() *cobra.Command {
	c := &cobra.Command{
		Use:   "source IMAGE",
		Short: "Say where the source of an image is",
		Long: `Show the repository and the revision that an image was built from, and its
Dockerfile, with how that is known: verified when a named signer's provenance says
so, or only claimed by the image itself. A Dockerfile that the provenance does not
carry is read out of the repository at that revision, if trust.git.hosts lets it be
asked.

With --packages, show the distribution's packages inside the image instead: their
licences, and where the distribution serves the source of each. That reads all of its
layers.`,
		Example: `  trustgate source ghcr.io/acme/shop:1.4
  trustgate source --dockerfile ghcr.io/acme/shop:1.4
  trustgate source --packages ghcr.io/acme/shop:1.4`,
		Args: cobra.ExactArgs(1),
	}
	recipe := c.Flags().Bool("dockerfile", false, "write the Dockerfile alone")
	inside := c.Flags().Bool("packages", false, "show the packages inside, with licences and links to their source")
	platform := c.Flags().String("platform", "", "with --packages: which image of an index (default: the first that is configured)")
	c.Flags().BoolP("verbose", "v", false, "log what is done")
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if *inside {
			_, report, err := examine(c, args[0], *platform)
			if err != nil {
				return err
			}
			if out.json() {
				return writeJSON(c.OutOrStdout(), orEmpty(report.Packages))
			}
			return writePackageSources(c.OutOrStdout(), report)
		}
		found, err := inspect(c, args[0], false)
		if err != nil {
			return err
		}
		sources, err := new(api.API).Sources(c.Context(), found, false)
		if err != nil {
			return err
		}
		if len(sources) == 0 {
			return fmt.Errorf("%s is evidence, which has no source", args[0])
		}
		switch w := c.OutOrStdout(); {
		case *recipe:
			why := "its provenance carries none, and trust.git.hosts lets nobody ask its repository"
			for _, s := range sources {
				switch d := s.Dockerfile; {
				case d != nil && d.Error == "":
					_, err := io.WriteString(w, d.Content)
					return err
				case d != nil:
					why = d.Error
				case s.Repository == "" || s.Revision == "":
					why = "its provenance carries none, and no repository and revision to read it from are known"
				}
			}
			return fmt.Errorf("no Dockerfile is known: %s", plain(why))
		case out.json():
			return writeJSON(w, sources)
		default:
			return writeSources(w, sources)
		}
	}
	return c
}

func writeSources(w io.Writer, sources []api.Source) error {
	p := paint(w)
	for i, s := range sources {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s %s\n", p.bold(plain(s.Reference)), p.faint(plain(s.Platform)))
		if s.Repository == "" && s.Revision == "" {
			fmt.Fprintln(w, p.red("  nothing says where its source is"))
			continue
		}
		known := p.red("claimed by its " + s.Via)
		if s.Verified {
			known = p.green("verified by signed provenance")
			if !s.Trusted {
				known += p.red(", and not among the trusted sources")
			}
		}
		for _, line := range [][2]string{
			{"repository", s.Repository}, {"revision", s.Revision}, {"ref", s.Ref}, {"link", s.URL},
		} {
			if line[1] != "" {
				fmt.Fprintf(w, "  %-12s%s\n", line[0], plain(line[1]))
			}
		}
		fmt.Fprintf(w, "  %-12s%s\n", "known", known)
		if d := s.Dockerfile; d != nil {
			fmt.Fprintf(w, "  %-12s%s\n", "dockerfile", dockerfile(p, d))
		}
	}
	return nil
}

// dockerfile says which it is and where it comes from, or why it is missing.
func dockerfile(p palette, d *policy.Dockerfile) string {
	if d.Error != "" {
		return p.red("not read: " + plain(d.Error))
	}
	from := "from its " + d.Via
	if d.Via == "git" {
		from = "from git, at that revision"
		if d.Assumed {
			from += ", where one usually is"
		}
	}
	return plain(d.Path) + " " + p.faint("("+from+"; --dockerfile writes it)")
}

func writePackageSources(w io.Writer, r *packages.Report) error {
	if len(r.Packages) == 0 {
		_, err := fmt.Fprintln(w, "there is no package database in the image")
		return err
	}
	t := table(w, "PACKAGE", "VERSION", "LICENCES", "SOURCE")
	for _, p := range r.Packages {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", plain(p.Name), plain(p.Version), plain(firstOf(strings.Join(p.Licences, ", "), "-")), plain(firstOf(p.SourceURL, "-")))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if more := r.Count - len(r.Packages); more > 0 {
		_, err := fmt.Fprintf(w, "and %d more\n", more)
		return err
	}
	return nil
}
