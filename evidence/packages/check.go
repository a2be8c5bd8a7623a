package packages

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1" // #nosec G505 -- what apk records of files
	"crypto/sha256"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// record is what a database says of one path.
type record struct {
	path   string // from the root
	digest []byte // of the content, or nil; its length tells the algorithm
	link   string // the target of a symbolic link, or ""
	either bool   // digest is of the content or, for a link, of its target

	config   bool // a configuration file
	optional bool // its absence is no finding
	elevates bool // it may be setuid or setgid, as far as is recorded
	script   bool // the package manager's own, which nobody but it runs
}

// comparable says whether there is something to compare.
func (r record) comparable() bool { return r.digest != nil || r.link != "" }

// fits compares the record with what the path leads to.
func (r record) fits(t *tree, n *node) bool {
	if r.link != "" {
		return n.is(symlink) && n.link == r.link
	}
	if r.either && n.is(symlink) {
		target := sums{sha256: sha256.Sum256([]byte(n.link)), sha1: sha1.Sum([]byte(n.link))} // #nosec G401 -- as apk records a link
		if target.have(r.digest) {
			return true
		}
	}
	n = t.find(r.path, true)
	return n.is(regular) && n.sums.have(r.digest)
}

func (s *sums) have(digest []byte) bool {
	switch len(digest) {
	case len(s.sha256):
		return bytes.Equal(s.sha256[:], digest)
	case len(s.sha1):
		return bytes.Equal(s.sha1[:], digest)
	case len(s.md5):
		return bytes.Equal(s.md5[:], digest)
	}
	return false
}

// isConfig believes in a configuration file that runs only where such files
// belong; elsewhere the word would excuse any change.
func (r record) isConfig(n *node) bool {
	return r.config && (strings.HasPrefix(strings.TrimPrefix(r.path, "/"), "etc/") || n == nil || !n.runs())
}

func (n *node) runs() bool { return n.is(regular) && (n.executable || n.elf) }

// sink takes what a database says: a package, then its files. A configuration
// file that has several records comes as one first.
type sink interface {
	add(Package)
	file(record)
}

// readDatabases reads every package database that the tree has at this point.
func readDatabases(ctx context.Context, t *tree, s sink) error {
	for _, read := range []func(context.Context, *tree, sink) error{readDpkg, readApk, readRPM} {
		if err := read(ctx, t, s); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
	return nil
}

// marks are what records have said about a name.
type marks uint8

const (
	marked   marks = 1 << iota // the parent's list has it
	owned                      // a package has it
	fits                       // a record fits it
	differs                    // a record does not
	config                     // it is a configuration file
	elevates                   // a record lets it be setuid
	script                     // the package manager runs it, and nobody else
)

// versions are the versions of each package by manager, name and architecture;
// some, such as kernels, are installed more than once.
type versions map[string][]string

func (p Package) key() string { return p.Manager + "\x00" + p.Name + "\x00" + p.Arch }

func (v versions) add(p Package) {
	v[p.key()] = slices.Sorted(slices.Values(append(v[p.key()], p.Version)))
}

func (v versions) of(key string) string { return strings.Join(v[key], ", ") }

// baseline is what the parent's packages brought with them.
type baseline struct {
	tree     *tree
	versions versions
	keys     []string // of packages, in the order in which they came
	files    []baseFile
}

type baseFile struct {
	path   string
	sums   *sums
	setuid bool
	owner  int // among keys
}

func newBaseline(t *tree) *baseline { return &baseline{tree: t, versions: versions{}} }

func (b *baseline) add(p Package) {
	b.versions.add(p)
	b.keys = append(b.keys, p.key())
}

func (b *baseline) file(r record) {
	n := b.tree.find(r.path, false)
	if n == nil || n.marks&marked != 0 || len(b.keys) == 0 {
		return
	}
	n.marks |= marked
	if r.isConfig(n) {
		return
	}
	if n.is(regular) {
		b.files = append(b.files, baseFile{path: b.tree.path(), sums: n.sums, setuid: n.setuid, owner: len(b.keys) - 1})
	}
}

// check compares records with the tree.
type check struct {
	tree      *tree
	limits    Limits
	count     int
	packages  []Package
	managers  []string
	versions  versions
	missing   listing
	conffiles listing // changed or removed
}

func newCheck(t *tree, limits Limits) *check {
	return &check{
		tree: t, limits: limits, managers: []string{}, packages: []Package{}, versions: versions{},
		missing: listing{limit: limits.List}, conffiles: listing{limit: limits.List},
	}
}

func (c *check) add(p Package) {
	c.count++
	c.versions.add(p)
	if !slices.Contains(c.managers, p.Manager) {
		c.managers = append(c.managers, p.Manager)
	}
	if p.Licences == nil {
		p.Licences = []string{}
	}
	if len(c.packages) < c.limits.Packages {
		c.packages = append(c.packages, p)
	}
}

func (c *check) file(r record) {
	n := c.tree.find(r.path, false)
	if n == nil {
		switch {
		case r.optional || !r.comparable():
		case r.config:
			c.conffiles.add(r.path)
		default:
			c.missing.add(r.path)
		}
		return
	}
	if r.script {
		n.marks |= script
		return
	}
	n.marks |= owned
	if r.isConfig(n) {
		n.marks |= config
	}
	if r.elevates {
		n.marks |= elevates
	}
	switch {
	case !r.comparable():
	case r.fits(c.tree, n):
		n.marks |= fits
	default:
		n.marks |= differs
	}
}

// report goes through the tree once all records have been seen.
func (c *check) report(base *baseline) *Report {
	d := distribution(c.tree)
	r := &Report{Distribution: d, Managers: c.managers, Count: c.count, Packages: c.packages, SourceURL: SourceURL(d, Package{})}
	slices.Sort(r.Managers)
	slices.SortFunc(r.Packages, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Manager, b.Manager))
	})
	for i := range r.Packages {
		r.Packages[i].SourceURL = SourceURL(d, r.Packages[i])
	}

	modified, unchecked := listing{limit: c.limits.List}, listing{limit: c.limits.List}
	executables, setuid := listing{limit: c.limits.List}, listing{limit: c.limits.List}
	c.tree.each(func(path func() string, n *node) {
		has := func(m marks) bool { return n.marks&m != 0 }
		changed := has(differs) && !has(fits)
		elevated := n.is(regular) && n.setuid && !has(elevates)
		if n.is(regular) {
			r.Files++
		}
		switch {
		case !has(owned):
			if n.runs() && !has(script) {
				executables.add(path())
			}
			if n.is(regular) && (n.setuid || n.capabilities) {
				setuid.add(path())
			}
		case elevated, changed && !has(config):
			modified.add(path())
		case changed:
			c.conffiles.add(path())
		case n.is(regular) && !has(fits) && !has(config):
			unchecked.add(path())
		}
	})
	replaced := listing{limit: c.limits.List}
	r.Upgraded = []Upgrade{}
	if base != nil {
		c.compare(base, &replaced, r)
	}
	r.Modified, r.Missing, r.ModifiedConffiles = modified.paths(), c.missing.paths(), c.conffiles.paths()
	r.Replaced, r.UnownedSetuid = replaced.paths(), setuid.paths()
	r.Unchecked, r.UnownedExecutables = unchecked.paths(), executables.paths()
	for _, findings := range []Paths{r.Modified, r.Missing, r.ModifiedConffiles, r.Replaced, r.UnownedSetuid} {
		r.Truncated = r.Truncated || findings.Total > len(findings.List)
	}
	return r
}

// compare finds what became of the parent's packages.
func (c *check) compare(base *baseline, replaced *listing, r *Report) {
	for key, was := range base.versions {
		if is := c.versions[key]; !slices.Equal(was, is) {
			name := strings.Split(key, "\x00")[1]
			r.Upgraded = append(r.Upgraded, Upgrade{Name: name, From: base.versions.of(key), To: c.versions.of(key)})
		}
	}
	slices.SortFunc(r.Upgraded, func(a, b Upgrade) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	if r.UpgradedTotal = len(r.Upgraded); r.UpgradedTotal > c.limits.List {
		r.Upgraded, r.Truncated = r.Upgraded[:c.limits.List], true
	}
	for _, f := range base.files {
		is := c.tree.find(f.path, true)
		if is == nil || is.is(regular) && is.sums.sha256 == f.sums.sha256 && (f.setuid || !is.setuid) {
			continue
		}
		key := base.keys[f.owner]
		name := c.tree.find(f.path, false)
		if name.marks&fits != 0 && !slices.Equal(base.versions[key], c.versions[key]) {
			continue
		}
		replaced.add(f.path)
	}
}

// each goes through all names that there are. The path is made when it is asked
// for.
func (t *tree) each(visit func(path func() string, n *node)) {
	var names []string
	var below func(*node)
	path := func() string { return strings.Join(names, "/") }
	below = func(n *node) {
		for name, child := range n.children {
			names = append(names, name)
			visit(path, child)
			below(child)
			names = names[:len(names)-1]
		}
	}
	below(t.root)
}

// listing keeps the paths that come first in the alphabet and counts all.
type listing struct {
	limit int
	total int
	kept  []string
}

func (l *listing) add(path string) {
	l.total++
	l.kept = append(l.kept, printable(path))
	if len(l.kept) >= 2*l.limit+64 {
		l.cut()
	}
}

func (l *listing) cut() {
	slices.Sort(l.kept)
	l.kept = l.kept[:min(len(l.kept), l.limit)]
}

func (l *listing) paths() Paths {
	l.cut()
	return Paths{Total: l.total, List: append([]string{}, l.kept...)}
}

// printable makes a path absolute, and quotes one that could play tricks on
// whoever reads it.
func printable(path string) string {
	path = "/" + strings.TrimLeft(path, "/")
	if strings.ContainsFunc(path, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
		return strconv.Quote(path)
	}
	return path
}
