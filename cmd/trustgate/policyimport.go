package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/policyjson"
)

// maxImported bounds what is read of a policy.json; the parser has a bound of its own.
const maxImported = 2 << 20

func newPolicyImport() *cobra.Command {
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Make a configuration of a policy.json",
		Long: `Read a policy.json, by which podman, skopeo, buildah and CRI-O decide which images they
take, and write the configuration that demands the same of every pull: a signer for
each key, a route for each registry, and rules for what a configuration has no words
for. Comments say which entry each line comes from. FILE can be - for standard input.

Nothing becomes weaker. What cannot be kept as strict as it was is named, nothing is
written, and the exit code is 1.`,
		Example: `  trustgate policy import /etc/containers/policy.json
  trustgate policy import --write gate /etc/containers/policy.json
  trustgate config check gate/trustgate.yaml`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: jsonFiles,
	}
	folder := c.Flags().String("write", "", "write trustgate.yaml, its rules and keys into this folder; no file is replaced")
	_ = c.MarkFlagDirname("write")
	c.RunE = func(c *cobra.Command, args []string) error {
		raw, err := readImported(c.InOrStdin(), args[0])
		if err != nil {
			return err
		}
		parsed, err := policyjson.Parse(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		converted, err := policyjson.Convert(args[0], parsed)
		if err != nil {
			return fmt.Errorf("%s cannot be kept as strict as it is:\n%w", args[0], err)
		}
		if *folder != "" {
			return writeImported(c.OutOrStdout(), *folder, converted)
		}
		if len(converted.Files) > 0 {
			return fmt.Errorf("%s holds keys that become files of their own; --write FOLDER writes them", args[0])
		}
		if _, err := c.OutOrStdout().Write(converted.Config); err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.ErrOrStderr(), "the rules in %s belong to it; --write FOLDER writes both\n", policyjson.RulesFile)
		return err
	}
	return c
}

// jsonFiles completes JSON files.
func jsonFiles(_ *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return []string{"json"}, cobra.ShellCompDirectiveFilterFileExt
}

func readImported(stdin io.Reader, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(stdin, maxImported))
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxImported))
}

// writeImported writes all files or, where one is there already, none.
func writeImported(w io.Writer, folder string, converted *policyjson.Converted) error {
	files := maps.Clone(converted.Files)
	files["trustgate.yaml"], files[policyjson.RulesFile] = converted.Config, converted.Rules
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		path := filepath.Join(folder, filepath.FromSlash(name))
		if there, err := os.ReadFile(path); err == nil && !bytes.Equal(there, files[name]) {
			return fmt.Errorf("%s is there already; move it away, or write into another folder", path)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, name := range names {
		path := filepath.Join(folder, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, files[name], 0o644); err != nil {
			return err
		}
		fmt.Fprintln(w, path)
	}
	_, err := fmt.Fprintf(w, "next: trustgate config check %s\n", filepath.Join(folder, "trustgate.yaml"))
	return err
}
