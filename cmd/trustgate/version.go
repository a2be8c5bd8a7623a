package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by release builds.
var version string

type buildInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Time     string `json:"time,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func readBuildInfo() buildInfo {
	b := buildInfo{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func newVersion() *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "Say which version this is", Args: cobra.NoArgs}
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		b := readBuildInfo()
		if out.json() {
			return writeJSON(c.OutOrStdout(), b)
		}
		line := "trustgate " + b.Version
		if b.Revision != "" {
			line += " (" + b.Revision[:min(12, len(b.Revision))]
			if b.Modified {
				line += ", modified"
			}
			line += ")"
		}
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s %s %s\n", line, b.Go, b.Platform)
		return err
	}
	return c
}
