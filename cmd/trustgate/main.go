// Command trustgate is a gate in front of OCI registries: it lets through the
// images whose signatures, provenance, source and parents satisfy the rules of
// a security team.
//
// This package reads flags and configuration, puts the parts together and
// writes results down. It decides nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/policy"
)

// Exit codes, for scripts.
const (
	exitServed    = 0
	exitError     = 1
	exitUsage     = 2
	exitBlocked   = 3
	exitAnnotated = 4 // with --strict only
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for an orderly end; a second one ends at once.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitServed
	}
	var verdict *verdictError
	if errors.As(err, &verdict) {
		return verdict.code()
	}
	fmt.Fprintf(stderr, "%s %s\n", paint(stderr).red("error:"), err)
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "Run '%s --help' for how it is used.\n", usage.command)
		return exitUsage
	}
	return exitError
}

// usageError is a command line that makes no sense.
type usageError struct {
	command string
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// verdictError ends a command with the exit code of a verdict. The verdict has
// been shown already.
type verdictError struct{ action policy.Action }

func (e *verdictError) Error() string { return string(e.action) }

func (e *verdictError) code() int {
	if e.action == policy.Annotate {
		return exitAnnotated
	}
	return exitBlocked
}

// exitWith turns a verdict into the end of a command.
func exitWith(action policy.Action, strict bool) error {
	switch {
	case policy.Stricter(action, policy.Annotate) == policy.Block:
		return &verdictError{policy.Block}
	case action == policy.Annotate && strict:
		return &verdictError{policy.Annotate}
	}
	return nil
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "trustgate",
		Short: "A gate in front of container registries",
		Long: `TrustGate stands between container clients and a registry. It looks at every
image that is pulled: who signed it, how and from which source it was built, and
what it was built from, all the way down. A security team's rules, in Rego, say
whether the pull is served, served with a warning, or blocked.

  trustgate demo              see it work, with images made on the spot
  trustgate serve             run the gate
  trustgate inspect IMAGE     why an image is served or blocked
  trustgate sign IMAGE:TAG    sign an image, as one signs a git tag
  trustgate policy            write, test and explain rules of your own

Exit codes: 0 served or done, 1 error, 2 wrong usage, 3 blocked, 4 annotated
(with --strict).`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
	}
	root.PersistentFlags().StringP("config", "c", "", "configuration file (default $TRUSTGATE_CONFIG, or else built-in defaults)")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &usageError{c.CommandPath(), err} })
	root.AddCommand(
		newServe(), newDemo(), newInspect(), newSource(), newPackages(),
		newSign(), newVerify(), newReproduce(), newVerdicts(), newExceptions(), newPolicy(), newCache(), newConfig(), newTrust(), newVersion(),
	)
	misuse(root)
	return root
}

// misuse makes a wrong number of arguments, or a command that does not exist, a
// usageError, for every command below.
func misuse(c *cobra.Command) {
	check := c.Args
	c.Args = func(c *cobra.Command, args []string) error {
		if c.HasSubCommands() && len(args) > 0 {
			err := fmt.Errorf("there is no command %q", strings.Join([]string{c.CommandPath(), args[0]}, " "))
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				err = fmt.Errorf("%w; did you mean %s?", err, strings.Join(near, " or "))
			}
			return &usageError{c.CommandPath(), err}
		}
		if check == nil {
			return nil
		}
		if err := check(c, args); err != nil {
			return &usageError{c.CommandPath(), err}
		}
		return nil
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	c.SuggestionsMinimumDistance = 2
	for _, sub := range c.Commands() {
		misuse(sub)
	}
}
