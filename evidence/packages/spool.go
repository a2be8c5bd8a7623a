package packages

import (
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// spool keeps the files that belong to package databases on disk until they are
// read. Small ones go into one file, one behind the other; an rpm database gets
// its own, because its reader needs one.
type spool struct {
	dir   string
	limit int64

	temp  string // made when it is needed
	file  *os.File
	end   int64
	held  int64 // bytes that are still wanted
	files map[string]*captured
}

// captured is a file in the spool.
type captured struct {
	spool  *spool
	offset int64
	size   int64
	own    string // path of its own file, or ""
	gone   bool   // another layer has written over its own file
}

// spoolFactor bounds the spool as a multiple of one database, since layers
// leave the small files of lower ones behind in it.
const spoolFactor = 4

// wanted says whether a file belongs to a package database, or says which
// distribution this is. place is its path without links.
func wanted(place string) bool {
	dir, base := path.Split(place)
	switch dir {
	case "var/lib/dpkg/":
		return base == "status" || base == "diversions"
	case "var/lib/dpkg/info/":
		switch path.Ext(base) {
		case ".list", ".md5sums", ".conffiles":
			return true
		}
	case "var/lib/dpkg/status.d/", "etc/dpkg/dpkg.cfg.d/":
		return true
	case "etc/dpkg/":
		return base == "dpkg.cfg"
	case "lib/apk/db/", "usr/lib/apk/db/":
		return base == "installed"
	case "etc/", "usr/lib/":
		return base == "os-release"
	case "usr/lib/os.release.d/":
		return true
	}
	return isRPM(place) || isCopyright(dir, base)
}

// isCopyright is where Debian's policy has the licences of a package.
func isCopyright(dir, base string) bool {
	return base == "copyright" && strings.HasPrefix(dir, "usr/share/doc/") && strings.Count(dir, "/") == 4
}

func isRPM(place string) bool {
	dir, base := path.Split(place)
	return slices.Contains(rpmFolders, dir) && (slices.Contains(rpmFiles, base) || base == rpmLog)
}

// create makes room for a file, in place of one that a lower layer had there.
func (s *spool) create(place string) (*capture, error) {
	if s.temp == "" {
		var err error
		if s.temp, err = os.MkdirTemp(s.dir, "packages-"); err != nil {
			return nil, err
		}
		if s.file, err = os.CreateTemp(s.temp, "spool-"); err != nil {
			return nil, err
		}
		s.files = map[string]*captured{}
	}
	if old := s.files[place]; old != nil {
		old.gone = old.own != ""
		s.held -= old.size
	}
	c := &captured{spool: s, offset: s.end}
	s.files[place] = c
	if !isRPM(place) {
		return &capture{c, s.file}, nil
	}
	c.own, c.offset = filepath.Join(s.temp, strings.ReplaceAll(path.Dir(place), "/", "-"), path.Base(place)), 0
	if err := os.MkdirAll(filepath.Dir(c.own), 0o700); err != nil {
		return nil, err
	}
	f, err := os.Create(c.own)
	if err != nil {
		return nil, err
	}
	return &capture{c, f}, nil
}

// capture writes one file into the spool.
type capture struct {
	*captured
	file *os.File
}

func (c *capture) Write(p []byte) (int, error) {
	s, n := c.spool, int64(len(p))
	if s.held+n > s.limit || s.end+n > spoolFactor*s.limit {
		return 0, fmt.Errorf("%w: package databases of more than %d bytes", ErrLimit, s.limit)
	}
	written, err := c.file.WriteAt(p, c.offset+c.size)
	c.size, s.held = c.size+n, s.held+n
	if c.own == "" {
		s.end += n
	}
	return written, err
}

// Close ends the file.
func (c *capture) Close() error {
	if c.own == "" {
		return nil
	}
	return c.file.Close()
}

// read gives the content of a small file.
func (c *captured) read() io.Reader {
	return io.NewSectionReader(c.spool.file, c.offset, c.size)
}

func (s *spool) close() {
	if s.temp == "" {
		return
	}
	if s.file != nil {
		s.file.Close()
	}
	os.RemoveAll(s.temp)
}
