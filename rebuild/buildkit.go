package rebuild

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// BuildKit is a BuildKit daemon and the program that speaks to it.
type BuildKit struct {
	Program  string    // buildctl; found on the path when empty
	Address  string    // such as unix:///run/buildkit/buildkitd.sock or tcp://host:1234
	Progress io.Writer // what the build prints; nil discards it
}

// Build builds the recipe from scratch and writes the result into folder as an
// OCI image layout.
//
// https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
func (b BuildKit) Build(ctx context.Context, r *Recipe, folder string, rewriteTimestamps bool) error {
	program := b.Program
	if program == "" {
		program = "buildctl"
	}
	rules, err := json.Marshal(sourcePolicy(r.Pins))
	if err != nil {
		return err
	}
	policy := filepath.Join(folder, "source-policy.json")
	if err := os.WriteFile(policy, rules, 0o600); err != nil {
		return err
	}
	defer os.Remove(policy)

	args := []string{}
	if b.Address != "" {
		args = append(args, "--addr", b.Address)
	}
	args = append(args, "build", "--progress", "plain", "--no-cache", "--source-policy-file", policy,
		"--frontend", r.Frontend, "--opt", "context="+r.Context)
	for _, key := range slices.Sorted(maps.Keys(r.Args)) {
		args = append(args, "--opt", key+"="+r.Args[key])
	}
	// The defaults of an image that is pushed, without provenance, which would
	// add an index.
	args = append(args, "--output", fmt.Sprintf("type=oci,tar=false,dest=%s,oci-mediatypes=true,rewrite-timestamp=%t", folder, rewriteTimestamps))
	cmd := exec.CommandContext(ctx, program, args...) // #nosec G204 -- the operator names the program; no shell reads the arguments
	cmd.WaitDelay = 5 * time.Second
	var said tail
	cmd.Stdout, cmd.Stderr = &said, &said
	if b.Progress != nil {
		cmd.Stdout, cmd.Stderr = io.MultiWriter(&said, b.Progress), io.MultiWriter(&said, b.Progress)
	}
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%s is not installed: it comes with BuildKit; --buildctl names another place", program)
		}
		return fmt.Errorf("building again: %w: %s", err, said.String())
	}
	return nil
}

type policyRule struct {
	Action   string            `json:"action"`
	Selector map[string]string `json:"selector"`
	Updates  map[string]string `json:"updates"`
}

// sourcePolicy makes BuildKit take each image by the digest that was used.
//
// https://github.com/moby/buildkit/blob/v0.34.2/docs/build-repro.md
func sourcePolicy(pins map[string]string) map[string][]policyRule {
	rules := []policyRule{}
	for _, image := range slices.Sorted(maps.Keys(pins)) {
		rules = append(rules, policyRule{
			Action:   "CONVERT",
			Selector: map[string]string{"identifier": "docker-image://" + image},
			Updates:  map[string]string{"identifier": "docker-image://" + pins[image]},
		})
	}
	return map[string][]policyRule{"rules": rules}
}

// tail keeps the end of what a program writes.
type tail struct{ buf bytes.Buffer }

const maxTail = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if extra := t.buf.Len() - maxTail; extra > 0 {
		t.buf.Next(extra)
	}
	return len(p), nil
}

func (t *tail) String() string {
	lines := strings.Split(strings.TrimSpace(t.buf.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-4):], " / ")
}
