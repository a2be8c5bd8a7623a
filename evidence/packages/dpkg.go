package packages

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

const (
	dpkgFolder = "var/lib/dpkg/"

	// maxLine bounds one line of a text database. The longest real ones are
	// dependencies of metapackages, with some ten thousand bytes.
	maxLine = 256 << 10
	// maxExclusions bounds the patterns of files that dpkg is told to leave
	// out; each missing file is compared with all.
	maxExclusions = 256
)

// readDpkg reads the status file with the lists beside it, and the folder
// status.d that images without dpkg have in its place.
//
// https://manpages.debian.org/bookworm/dpkg-dev/deb.5.en.html
// https://manpages.debian.org/bookworm/dpkg/dpkg.1.en.html#FILES
// https://github.com/GoogleContainerTools/distroless/blob/main/PACKAGE_METADATA.md
func readDpkg(ctx context.Context, t *tree, s sink) error {
	d := &dpkg{ctx: ctx, tree: t, sink: s}
	status, err := t.content(dpkgFolder + "status")
	if err != nil {
		return err
	}
	if status != nil {
		if err := d.configuration(); err != nil {
			return err
		}
		if err := d.stanzas(status, dpkgFolder+"status", d.installed); err != nil {
			return err
		}
	}
	return d.folder()
}

type dpkg struct {
	ctx  context.Context
	tree *tree
	sink sink

	exclusions []exclusion
	diversions map[string]diversion
}

// stanza is what is read of one package's entry.
type stanza struct {
	Package
	status    string
	conffiles []record
}

// stanzas reads the format of Debian's control files.
//
// https://www.debian.org/doc/debian-policy/ch-controlfields.html
func (d *dpkg) stanzas(r io.Reader, name string, visit func(stanza) error) error {
	p := stanza{Package: Package{Manager: ManagerDpkg}}
	field := ""
	end := func() error {
		if p.Name == "" {
			return nil
		}
		if d.ctx.Err() != nil {
			return context.Cause(d.ctx)
		}
		if p.Source == "" {
			p.Source = p.Name
		}
		if p.SourceVersion == "" {
			p.SourceVersion = p.Version
		}
		err := visit(p)
		p, field = stanza{Package: Package{Manager: ManagerDpkg}}, ""
		return err
	}
	err := lines(r, name, func(line string) error {
		if strings.TrimSpace(line) == "" {
			return end()
		}
		if line[0] == ' ' || line[0] == '\t' {
			if field == "conffiles" {
				p.conffiles = append(p.conffiles, conffile(line)...)
			}
			return nil
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return fmt.Errorf("%w: %s: a line without a field", ErrDatabase, name)
		}
		field, value = strings.ToLower(key), strings.TrimSpace(value)
		switch field {
		case "package":
			p.Name = value
		case "version":
			p.Version = value
		case "architecture":
			p.Arch = value
		case "status":
			p.status = value
		case "source":
			// "name (version)" when the version is another.
			p.Source, p.SourceVersion, _ = strings.Cut(value, " ")
			p.SourceVersion = strings.Trim(p.SourceVersion, "() ")
		}
		return nil
	})
	if err != nil {
		return err
	}
	return end()
}

// conffile reads a line " /etc/file digest [obsolete]".
func conffile(line string) []record {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return nil
	}
	r := record{path: fields[0], config: true, elevates: true, optional: len(fields) > 2}
	if sum, err := hex.DecodeString(fields[1]); err == nil && len(sum) == 16 {
		r.digest = sum
	}
	return []record{r}
}

// installed reads the lists of one package of the status file.
func (d *dpkg) installed(p stanza) error {
	want := strings.Fields(p.status)
	if len(want) != 3 {
		return fmt.Errorf("%w: %s has the status %.80q", ErrDatabase, p.Name, p.status)
	}
	if !plainName(p.Name) || !plainName(p.Arch) {
		return fmt.Errorf("%w: a package of the name %.80q", ErrDatabase, p.Name)
	}
	switch want[2] {
	case "not-installed", "config-files":
		// What is left of a removed package is its configuration.
		for _, r := range p.conffiles {
			if r.optional = true; strings.HasPrefix(r.path, "/etc/") {
				d.sink.file(r)
			}
		}
		return nil
	}
	base := dpkgFolder + "info/" + p.Name
	if d.tree.find(base+".list", true) == nil && d.tree.find(base+":"+p.Arch+".list", true) != nil {
		base += ":" + p.Arch
	}
	p.Licences = licences(d.tree, p.Name)
	d.sink.add(p.Package)
	for _, r := range p.conffiles {
		d.sink.file(r)
	}
	if err := d.list(base+".conffiles", func(line string) error {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			return nil
		}
		d.sink.file(record{path: fields[len(fields)-1], config: true, elevates: true, optional: true})
		return nil
	}); err != nil {
		return err
	}
	if err := d.list(base+".md5sums", d.sum(p.Name)); err != nil {
		return err
	}
	for _, suffix := range []string{".preinst", ".postinst", ".prerm", ".postrm", ".config"} {
		d.sink.file(record{path: base + suffix, script: true})
	}
	return d.list(base+".list", func(line string) error {
		if line != "/." {
			d.sink.file(record{path: d.diverted(line, p.Name), elevates: true})
		}
		return nil
	})
}

// folder reads status.d: a file for each package, and one with its digests
// beside it.
func (d *dpkg) folder() error {
	dir := d.tree.find(dpkgFolder+"status.d", true)
	if !dir.is(folder) {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(dir.children)) {
		if strings.HasSuffix(name, ".md5sums") {
			continue
		}
		file := dpkgFolder + "status.d/" + name
		content, err := d.tree.content(file)
		if err != nil {
			return err
		}
		if content == nil {
			continue
		}
		err = d.stanzas(content, file, func(p stanza) error {
			if !plainName(p.Name) {
				return fmt.Errorf("%w: a package of the name %.80q", ErrDatabase, p.Name)
			}
			p.Licences = licences(d.tree, p.Name)
			d.sink.add(p.Package)
			for _, r := range p.conffiles {
				d.sink.file(r)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := d.list(file+".md5sums", d.sum("")); err != nil {
			return err
		}
	}
	return nil
}

// sum reads a line "digest  path", as md5sum writes it.
//
// https://manpages.debian.org/bookworm/dpkg-dev/deb-md5sums.5.en.html
func (d *dpkg) sum(owner string) func(string) error {
	return func(line string) error {
		escaped := strings.HasPrefix(line, "\\")
		digest, name, ok := strings.Cut(strings.TrimPrefix(line, "\\"), " ")
		sum, err := hex.DecodeString(digest)
		if !ok || err != nil || len(sum) != 16 || len(name) < 2 {
			return fmt.Errorf("not a line of md5sum: %.80q", line)
		}
		if name = strings.TrimLeft(name, " *"); escaped {
			name = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r").Replace(name)
		}
		name = d.diverted(strings.TrimPrefix(name, "./"), owner)
		d.sink.file(record{path: name, digest: sum, elevates: true, optional: d.excluded(name)})
		return nil
	}
}

// list reads the lines of a file that need not be there.
func (d *dpkg) list(name string, visit func(string) error) error {
	content, err := d.tree.content(name)
	if err != nil || content == nil {
		return err
	}
	return lines(content, name, func(line string) error {
		if line == "" {
			return nil
		}
		return visit(line)
	})
}

// configuration reads what makes files lie elsewhere, or not at all: the
// diversions, and the patterns that slim images are made with.
func (d *dpkg) configuration() error {
	files := []string{"etc/dpkg/dpkg.cfg"}
	if dir := d.tree.find("etc/dpkg/dpkg.cfg.d", true); dir.is(folder) {
		for _, name := range slices.Sorted(maps.Keys(dir.children)) {
			files = append(files, "etc/dpkg/dpkg.cfg.d/"+name)
		}
	}
	for _, file := range files {
		err := d.list(file, func(line string) error {
			key, pattern, _ := strings.Cut(strings.TrimSpace(line), "=")
			if k, p, ok := strings.Cut(strings.TrimSpace(key), " "); ok {
				key, pattern = k, p
			}
			if key = strings.TrimSpace(key); key != "path-exclude" && key != "path-include" {
				return nil
			}
			if len(d.exclusions) == maxExclusions {
				return fmt.Errorf("more than %d patterns", maxExclusions)
			}
			d.exclusions = append(d.exclusions, exclusion{pattern: globbed(strings.TrimSpace(pattern)), exclude: key == "path-exclude"})
			return nil
		})
		if err != nil {
			return err
		}
	}
	var three []string
	d.diversions = map[string]diversion{}
	return d.list(dpkgFolder+"diversions", func(line string) error {
		if three = append(three, line); len(three) == 3 {
			d.diversions[absolute(three[0])] = diversion{to: three[1], owner: three[2]}
			three = three[:0]
		}
		return nil
	})
}

// diversion moves a path of every package but its owner.
//
// https://manpages.debian.org/bookworm/dpkg/dpkg-divert.1.en.html
type diversion struct{ to, owner string }

// diverted says where a package's file lies. A diversion that was only
// announced leaves it where it was.
func (d *dpkg) diverted(name, owner string) string {
	div, ok := d.diversions[absolute(name)]
	if !ok || div.owner == owner || d.tree.find(div.to, false) == nil {
		return name
	}
	return div.to
}

// exclusion is a pattern for files that dpkg installs or not; the last that
// matches decides.
type exclusion struct {
	pattern string
	exclude bool
}

// globbed turns a pattern of dpkg, in which a star crosses slashes, into one of
// path.Match, in which it does not.
func globbed(pattern string) string {
	return strings.NewReplacer("/", "\x01", "[!", "[^").Replace(pattern)
}

func (d *dpkg) excluded(name string) bool {
	excluded := false
	if len(d.exclusions) > 0 {
		name = strings.ReplaceAll(absolute(name), "/", "\x01")
	}
	for _, x := range d.exclusions {
		if ok, err := path.Match(x.pattern, name); ok && err == nil {
			excluded = x.exclude
		}
	}
	return excluded
}

func absolute(name string) string { return "/" + strings.TrimLeft(name, "/") }

// plainName keeps a package's name from leading elsewhere.
func plainName(name string) bool {
	return name != "" && !strings.ContainsAny(name, "/\x00") && !strings.HasPrefix(name, ".")
}

// licences reads a copyright file in the form that machines read. Others say
// nothing here.
//
// https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
func licences(t *tree, name string) []string {
	found := map[string]bool{}
	first := true
	content, err := t.content("usr/share/doc/" + name + "/copyright")
	if err != nil || content == nil {
		return nil
	}
	lines(content, "", func(line string) error {
		if first && !strings.HasPrefix(line, "Format:") {
			return io.EOF
		}
		first = false
		if licence, ok := strings.CutPrefix(line, "License:"); ok {
			if licence = strings.TrimSpace(licence); licence != "" && len(licence) < 200 && len(found) < 64 {
				found[licence] = true
			}
		}
		return nil
	})
	return slices.Sorted(maps.Keys(found))
}

// content opens a file of a database; nil when there is no such file.
func (t *tree) content(name string) (io.Reader, error) {
	n := t.find(name, true)
	if !n.is(regular) {
		return nil, nil
	}
	if n.database == nil {
		return nil, fmt.Errorf("%w: /%s is a link to a file that was not kept; TrustGate reads databases in their usual place", ErrDatabase, name)
	}
	return n.database.read(), nil
}

// lines reads a text line by line.
func lines(r io.Reader, name string, visit func(string) error) error {
	scan := bufio.NewScanner(r)
	scan.Buffer(make([]byte, 0, 4<<10), maxLine)
	for scan.Scan() {
		if err := visit(scan.Text()); err != nil {
			if errors.Is(err, ErrDatabase) {
				return err
			}
			return fmt.Errorf("%w: /%s: %w", ErrDatabase, name, err)
		}
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("%w: /%s: %w", ErrDatabase, name, err)
	}
	return nil
}
