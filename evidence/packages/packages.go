// Package packages checks the distribution packages inside an image, as
// `rpm -Va` and `debsums` do on a running system: it reads the databases of
// dpkg, apk and rpm and compares the digests that they record with the files.
//
// The layers are streamed once, from the bottom, and nothing is unpacked: what
// stays of a file is its digests, its mode and its place. Whiteouts, hard links
// and linked folders are followed as a runtime does.
//
// A package database is the image's own word. Whoever changed a file can have
// changed its record as well, so the files of a parent's packages are compared
// with the parent's layers too; that comparison needs no database that the
// image could have touched. A file may also be recorded without a digest that
// can be checked. It is listed as such, since nothing found is not the same as
// nothing wrong.
//
// An archive that a runtime would refuse, or that is made to exhaust its
// reader, is an error that names the layer, and so is a database that cannot
// be read. Neither is ever a report without findings.
package packages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/trustgate/trustgate/oci"
)

var (
	// ErrArchive reports a layer that no runtime would unpack, or that lies
	// about itself.
	ErrArchive = errors.New("not a layer that TrustGate reads")

	// ErrLimit reports an image that is larger than the limits allow.
	ErrLimit = errors.New("larger than the limits of the package check")

	// ErrDatabase reports a package database that is there and cannot be read.
	ErrDatabase = errors.New("a package database that cannot be read")
)

// Layer is one layer of an image.
type Layer struct {
	Digest    digest.Digest // as the manifest names it; for errors
	DiffID    digest.Digest // what the uncompressed bytes must hash to; "" skips the comparison
	MediaType string

	// Open streams the layer as it is stored. Whoever opens it answers for its
	// bytes: they have been, or are being, checked against Digest.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// Limits bounds what one image may cost. Examine puts DefaultLimits in place of
// what is zero.
type Limits struct {
	Bytes    int64         // of all layers, uncompressed
	Files    int           // names that any layer brings, folders included
	Database int64         // bytes of package databases, as held on disk
	Header   int64         // bytes of one archive member's headers
	Packages int           // packages in the report; all are counted
	List     int           // entries of each other list in the report; all are counted
	Duration time.Duration // of the whole examination

	// Spool is the folder that databases are written to while they are read;
	// the system's temporary folder when empty.
	Spool string
}

// DefaultLimits lets the largest images pass that people pull every day. At the
// limit of Files, about 200 MB of memory are in use; a Debian base image needs
// a few.
var DefaultLimits = Limits{
	Bytes:    32 << 30,
	Files:    500_000,
	Database: 256 << 20,
	Header:   1 << 20,
	Packages: 10_000,
	List:     256,
	Duration: 10 * time.Minute,
}

func (l Limits) orDefault() Limits {
	d := DefaultLimits
	return Limits{
		Bytes:    positive(l.Bytes, d.Bytes),
		Files:    positive(l.Files, d.Files),
		Database: positive(l.Database, d.Database),
		Header:   positive(l.Header, d.Header),
		Packages: positive(l.Packages, d.Packages),
		List:     positive(l.List, d.List),
		Duration: positive(l.Duration, d.Duration),
		Spool:    l.Spool,
	}
}

func positive[N ~int | ~int64](set, otherwise N) N {
	if set > 0 {
		return set
	}
	return otherwise
}

// The package managers.
const (
	ManagerDpkg = "dpkg"
	ManagerApk  = "apk"
	ManagerRPM  = "rpm"
)

// Package is one installed package, as its database describes it.
type Package struct {
	Manager       string   `json:"manager"`
	Name          string   `json:"name"`
	Version       string   `json:"version"`
	Arch          string   `json:"arch"`
	Source        string   `json:"source"`
	SourceVersion string   `json:"source_version"`
	Commit        string   `json:"commit,omitempty"` // of the distribution's build recipe; apk alone records it
	Licences      []string `json:"licences"`         // as the package spells them; empty when it does not say
	SourceURL     string   `json:"source_url"`
}

// Paths is a sorted list of absolute paths. Total counts those that did not fit
// into it as well.
type Paths struct {
	Total int      `json:"total"`
	List  []string `json:"list"`
}

// Upgrade is a package of a parent that the image has in another version, or
// not at all when To is "".
type Upgrade struct {
	Name string `json:"name"`
	From string `json:"from"`
	To   string `json:"to"`
}

// Report is what was found. Every list is sorted.
type Report struct {
	Distribution Distribution `json:"distribution"`
	Managers     []string     `json:"managers"` // those with a database, in alphabetical order
	Count        int          `json:"count"`    // of packages
	Packages     []Package    `json:"packages"`
	SourceURL    string       `json:"source_url"` // where the distribution serves its sources

	// Modified are packaged files that differ from their record: in content, as
	// a link's target, or by a setuid or setgid bit that the record lacks (dpkg
	// records no modes).
	Modified Paths `json:"modified"`
	// Missing are packaged files that are not there, except for those that the
	// package manager was told to leave out.
	Missing Paths `json:"missing"`
	// ModifiedConffiles are configuration files that were changed or removed,
	// which is what they are for.
	ModifiedConffiles Paths `json:"modified_conffiles"`
	// Unchecked are packaged files without a recorded digest to compare with.
	Unchecked Paths `json:"unchecked"`
	// Replaced are files of a parent's packages with other content than in the
	// parent, or that became setuid or setgid, unless their package was
	// upgraded and its new record fits them.
	Replaced Paths `json:"replaced"`
	// Upgraded are a parent's packages that the image has in another version.
	Upgraded      []Upgrade `json:"upgraded"`
	UpgradedTotal int       `json:"upgraded_total"`
	// UnownedExecutables are executable files, and ELF files without that bit,
	// that belong to no package.
	UnownedExecutables Paths `json:"unowned_executables"`
	// UnownedSetuid are files that belong to no package and give their user
	// more rights: setuid, setgid or with file capabilities.
	UnownedSetuid Paths `json:"unowned_setuid"`

	// Truncated says that a list of findings is shorter than its total. The
	// lists that any image can have many of, Packages, Unchecked and
	// UnownedExecutables, do not count here.
	Truncated bool `json:"truncated"`

	Files int   `json:"files"` // regular files in the image
	Bytes int64 `json:"bytes"` // of its layers, uncompressed
}

// Examine checks an image of the given layers, from the bottom, of which the
// first parents belong to its parent. An image without a package database has
// no managers, and its executables belong to nobody.
func Examine(ctx context.Context, layers []Layer, parents int, limits Limits) (*Report, error) {
	if parents < 0 || parents > len(layers) || len(layers) > oci.MaxManifestEntries {
		return nil, fmt.Errorf("checking packages: %d of %d layers are the parent's", parents, len(layers))
	}
	limits = limits.orDefault()
	slow := fmt.Errorf("%w: it took longer than %s", ErrLimit, limits.Duration)
	ctx, cancel := context.WithTimeoutCause(ctx, limits.Duration, slow)
	defer cancel()

	spool := &spool{dir: limits.Spool, limit: limits.Database}
	defer spool.close()
	image := newTree(limits.Files)
	reader := &layerReader{tree: image, spool: spool, limits: limits, buffer: make([]byte, 128<<10)}

	var base *baseline
	for i, layer := range layers {
		if err := reader.read(ctx, i, layer); err != nil {
			return nil, fmt.Errorf("reading layer %d of %d (%s): %w", i+1, len(layers), layer.Digest, err)
		}
		if i+1 == parents {
			base = newBaseline(image)
			if err := readDatabases(ctx, image, base); err != nil {
				return nil, fmt.Errorf("reading the packages of the parent, up to layer %d of %d: %w", parents, len(layers), err)
			}
		}
	}
	c := newCheck(image, limits)
	if err := readDatabases(ctx, image, c); err != nil {
		return nil, fmt.Errorf("reading the packages: %w", err)
	}
	report := c.report(base)
	report.Bytes = reader.bytes
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	return report, nil
}
