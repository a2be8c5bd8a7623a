package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/evidence/sigstore"
)

// refreshing bounds one conversation with a mirror.
const refreshing = 2 * time.Minute

func newTrust() *cobra.Command {
	c := &cobra.Command{Use: "trust", Short: "Keep up to date what is trusted"}
	c.AddCommand(newTrustRefresh())
	return c
}

func newTrustRefresh() *cobra.Command {
	c := &cobra.Command{
		Use:   "refresh [FILE...]",
		Short: "Fetch the current trusted root of a sigstore",
		Long: `Fetch the trusted root of a sigstore as its TUF repository publishes it now, and
write it to the files: those named, or else those that the keyless and certificate
signers of the configuration name. Without --mirror it is that of the public
instance; a private one needs its URL and the root.json that it was set up with.

A file is replaced in one step, and only by a trusted root that the mirror's keys
vouch for, that is not older than the last one seen, and that continues what is in
the file. What fails leaves it as it is. A gate that is running reads the new file
within seconds.`,
		Example: `  trustgate trust refresh
  trustgate trust refresh trusted_root.json
  trustgate trust refresh --mirror https://tuf.acme.example --root root.json acme_root.json`,
	}
	mirror := c.Flags().String("mirror", "", "URL of the TUF repository (default: the public sigstore's)")
	anchor := c.Flags().String("root", "", "root.json of the TUF repository, had from elsewhere; with --mirror")
	state := c.Flags().String("state", "", "folder that remembers what was seen of the mirror (default: tuf in the data folder)")
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, files []string) error {
		if (*mirror == "") != (*anchor == "") {
			return &usageError{c.CommandPath(), errors.New("--mirror and --root belong together: the one is checked against the other")}
		}
		if len(files) == 0 || *state == "" {
			cfg, err := loadConfig(c)
			if err != nil {
				return err
			}
			if *state == "" {
				*state = filepath.Join(string(cfg.Data), "tuf")
			}
			if len(files) == 0 {
				files = trustedRoots(cfg)
			}
		}
		if len(files) == 0 {
			return errors.New("no signer has a trusted root; name the file to write")
		}
		m := sigstore.Mirror{URL: *mirror, Folder: *state, Client: &http.Client{Timeout: refreshing}}
		if *anchor != "" {
			var err error
			if m.Root, err = readKeyFile(*anchor); err != nil {
				return fmt.Errorf("reading the root of the mirror: %w", err)
			}
		}
		done, err := refreshFiles(c.Context(), m, files)
		if done == nil {
			return err
		}
		if out.json() {
			return errors.Join(writeJSON(c.OutOrStdout(), done), err)
		}
		return errors.Join(writeRefreshed(c.OutOrStdout(), done), err)
	}
	return c
}

// trustedRoots are the files that signers name, each once.
func trustedRoots(cfg *config.Config) []string {
	var files []string
	add := func(p config.Path) {
		if p != "" && !slices.Contains(files, string(p)) {
			files = append(files, string(p))
		}
	}
	for _, s := range cfg.Trust.Signers {
		if s.Keyless != nil {
			add(s.Keyless.Root)
		}
		if s.Certificate != nil {
			add(s.Certificate.Root)
		}
	}
	return files
}

// What became of a file.
const (
	rootCreated   = "created"
	rootReplaced  = "replaced"
	rootUnchanged = "unchanged"
	rootKept      = "kept" // it could not be replaced
)

// refreshed is what became of one file.
type refreshed struct {
	File    string   `json:"file"`
	Result  string   `json:"result"`
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
	Error   string   `json:"error,omitempty"`
}

// refreshFiles fetches once and then does what it can for each file. Without a
// list, nothing was fetched.
func refreshFiles(ctx context.Context, m sigstore.Mirror, files []string) ([]refreshed, error) {
	ctx, cancel := context.WithTimeout(ctx, refreshing)
	defer cancel()
	current, err := sigstore.RefreshTrustedRoot(ctx, m)
	if err != nil {
		return nil, err
	}
	var done []refreshed
	var failures []error
	for _, file := range files {
		r := refreshed{File: file, Result: rootKept, Added: []string{}, Removed: []string{}}
		if err := r.refresh(current); err != nil {
			r.Error = err.Error()
			failures = append(failures, fmt.Errorf("%s is as it was: %w", file, err))
		}
		done = append(done, r)
	}
	return done, errors.Join(failures...)
}

func (r *refreshed) refresh(current []byte) error {
	// The file may be a link into a folder that is mounted as a whole.
	file, err := filepath.EvalSymlinks(r.File)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(r.File); err == nil {
			return errors.New("it is a link to a file that is not there")
		}
		if err := replaceFile(r.File, current, 0o644); err != nil {
			return err
		}
		r.Result = rootCreated
		return nil
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	earlier, err := readKeyFile(file)
	if err != nil {
		return err
	}
	if bytes.Equal(earlier, current) {
		r.Result = rootUnchanged
		return nil
	}
	change, err := sigstore.CompareTrustedRoots(earlier, current)
	if err != nil {
		return fmt.Errorf("%w; name the mirror that it comes from, or remove the file if it is to be replaced", err)
	}
	if err := replaceFile(file, current, info.Mode().Perm()); err != nil {
		return err
	}
	r.Result, r.Added, r.Removed = rootReplaced, orEmpty(change.Added), orEmpty(change.Removed)
	return nil
}

// replaceFile writes a file in one step: who reads it sees the old content or
// the new, and so does who starts after a crash.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	folder := filepath.Dir(path)
	file, err := os.CreateTemp(folder, "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(file.Name())
	_, err = file.Write(content)
	if err := errors.Join(err, file.Chmod(mode), file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func writeRefreshed(w io.Writer, done []refreshed) error {
	p := paint(w)
	for _, r := range done {
		word := p.green(r.Result)
		if r.Result == rootKept {
			word = p.red("kept as it was")
		}
		if _, err := fmt.Fprintf(w, "%s %s\n", plain(r.File), word); err != nil {
			return err
		}
		for _, key := range r.Added {
			fmt.Fprintf(w, "  %s %s\n", p.green("+"), plain(key))
		}
		for _, key := range r.Removed {
			fmt.Fprintf(w, "  %s %s\n", p.red("-"), plain(key))
		}
	}
	return nil
}
