package packages

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/trustgate/trustgate/evidence/packages/internal/rpmdb"
)

// Where rpm's database is, and what it is called in each of its forms. Where
// there are several, the newest is rpm's own choice.
var (
	rpmFolders = []string{"usr/lib/sysimage/rpm/", "var/lib/rpm/", "usr/share/rpm/"}
	rpmFiles   = []string{"rpmdb.sqlite", "Packages.db", "Packages"}
)

const (
	rpmLog  = "rpmdb.sqlite-wal"
	rpmLMDB = "data.mdb"
)

// readRPM reads rpm's database in each of its folders, which are mostly links
// to one.
func readRPM(ctx context.Context, t *tree, s sink) error {
	var read []*inode
	for _, dir := range rpmFolders {
		if t.find(dir+rpmLMDB, true).is(regular) {
			return fmt.Errorf("%w: /%s is in the form of LMDB; rpm reads and writes SQLite since 4.16, `rpmdb --rebuilddb` converts it", ErrDatabase, dir+rpmLMDB)
		}
		for _, file := range rpmFiles {
			n := t.find(dir+file, true)
			if !n.is(regular) {
				continue
			}
			if slices.Contains(read, n.inode) {
				break
			}
			read = append(read, n.inode)
			if err := readRPMFile(ctx, t, s, dir+file, n.inode); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

func readRPMFile(ctx context.Context, t *tree, s sink, name string, i *inode) error {
	if i.database == nil || i.database.gone {
		return fmt.Errorf("%w: /%s is a link to a file that was not kept; TrustGate reads databases in their usual place", ErrDatabase, name)
	}
	// What lies beside the database belongs to it only if the image still has
	// it, and then from the same layer's point of view.
	t.find(name, true)
	log := t.find(path.Dir(t.path())+"/"+rpmLog, false)
	switch {
	case !log.is(regular):
		os.Remove(i.database.own + "-wal")
	case log.database == nil || log.database.gone:
		return fmt.Errorf("%w: /%s-wal is a link to a file that was not kept", ErrDatabase, name)
	}
	os.Remove(i.database.own + "-shm")

	err := rpmdb.Read(ctx, i.database.own, func(h *rpmdb.Header) error {
		if h.Name == "gpg-pubkey" {
			return nil // a key that rpm keeps among the packages
		}
		s.add(rpmPackage(h))
		for f := range h.Files() {
			s.file(rpmRecord(h, f))
		}
		return nil
	})
	if errors.Is(err, rpmdb.ErrDatabase) {
		return fmt.Errorf("%w: /%s: %w", ErrDatabase, name, err)
	}
	return err
}

func rpmPackage(h *rpmdb.Header) Package {
	p := Package{Manager: ManagerRPM, Name: h.Name, Version: h.Version + "-" + h.Release, Arch: h.Arch}
	if h.Epoch != "" {
		p.Version = h.Epoch + ":" + p.Version
	}
	if h.License != "" {
		p.Licences = []string{h.License}
	}
	// name-version-release.src.rpm, in which only the name can have dashes.
	nvr := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(h.Source, ".rpm"), ".src"), ".nosrc")
	if release := strings.LastIndexByte(nvr, '-'); release > 0 {
		if version := strings.LastIndexByte(nvr[:release], '-'); version > 0 {
			p.Source, p.SourceVersion = nvr[:version], nvr[version+1:]
		}
	}
	return p
}

const (
	modeType = 0o170000
	modeFile = 0o100000
	modeLink = 0o120000
	modeElev = 0o6000
)

func rpmRecord(h *rpmdb.Header, f rpmdb.File) record {
	r := record{
		path:     f.Path,
		config:   f.Flags&rpmdb.FlagConfig != 0,
		optional: f.Flags&(rpmdb.FlagGhost|rpmdb.FlagMissingOK) != 0 || f.State == rpmdb.StateNotInstalled,
		elevates: f.Mode&modeElev != 0,
	}
	if f.Flags&rpmdb.FlagGhost != 0 || f.State != rpmdb.StateNormal {
		return r
	}
	switch f.Mode & modeType {
	case modeLink:
		if f.VerifyFlags&rpmdb.VerifyLink != 0 {
			r.link = f.Link
		}
	case modeFile:
		if sum, err := hex.DecodeString(f.Digest); err == nil && f.VerifyFlags&rpmdb.VerifyDigest != 0 && len(sum) == digestSize[h.DigestAlgorithm] {
			r.digest = sum
		}
	}
	return r
}

// digestSize has the algorithms that are computed for every file. A file with
// another digest is unchecked.
var digestSize = map[uint32]int{rpmdb.DigestMD5: 16, rpmdb.DigestSHA1: 20, rpmdb.DigestSHA256: 32}
