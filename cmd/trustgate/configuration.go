package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/opa"
	"github.com/trustgate/trustgate/policy"
)

func newConfig() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check a configuration, or write the default one"}
	c.AddCommand(newConfigCheck(), newConfigDefault())
	return c
}

func newConfigCheck() *cobra.Command {
	c := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration with its keys and rules",
		Long: `Check a configuration as 'trustgate serve' would before it starts: its keys and
values, the signers' keys, and that the rules compile. Every mistake is named with
file, line and column. Nothing is sent; of the ledger, if there is one, the exceptions
are read.`,
		Args: cobra.MaximumNArgs(1),
	}
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 1 {
			if err := c.Flags().Set("config", args[0]); err != nil {
				return err
			}
		}
		cfg, err := loadConfig(c)
		var mistakes *config.Error
		if errors.As(err, &mistakes) && out.json() {
			if err := writeJSON(c.OutOrStdout(), checked{Problems: mistakes.Problems}); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		if _, err := readTrust(cfg); err != nil {
			return err
		}
		o, err := ruleOptions(c.Context(), cfg)
		if err != nil {
			return err
		}
		rules, err := checkPolicy(c, cfg, &o)
		if err != nil {
			return err
		}
		found := exceptionWarnings(o.Exceptions, time.Now())
		if cfg.Policy.Trial != nil {
			if _, err := policy.Load(c.Context(), candidateOptions(cfg, o)); err != nil {
				found = append(found, fmt.Sprintf("policy.trial: the candidate is broken and will not be tried: %v", manyMistakes(err)))
			}
		}
		for _, warning := range found {
			warn(c, warning)
		}
		cfg.Warnings = append(cfg.Warnings, found...)
		done := checked{
			OK: true, File: cfg.File, Routes: len(cfg.Routes), Signers: len(cfg.Trust.Signers), Rules: rules,
			Problems: []config.Problem{}, Warnings: orEmpty(cfg.Warnings),
		}
		if out.json() {
			return writeJSON(c.OutOrStdout(), done)
		}
		if done.File == "" {
			done.File = "the default configuration"
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s %s: %d routes, %d signers, %d rules\n",
			paint(c.OutOrStdout()).green("ok"), done.File, done.Routes, done.Signers, done.Rules)
		return err
	}
	return c
}

// checkPolicy counts the rules that the configuration has by itself. Those of
// bundles are not fetched, so what only they could explain is no mistake.
func checkPolicy(c *cobra.Command, cfg *config.Config, o *policy.Options) (rules int, err error) {
	if len(cfg.Policy.OPA) > 0 {
		read, err := opa.Read(cfg.Policy.OPA, cfg.Folder(), cfg.Persisted())
		if err == nil {
			err = read.Validate()
		}
		if err != nil {
			return 0, err
		}
		if o.Partial = opa.Judges(cfg.Policy.OPA); o.Partial {
			fmt.Fprintln(c.ErrOrStderr(), "the bundles of policy.opa are not fetched; 'trustgate policy check' does")
			if !o.Builtin && len(o.Paths)+len(o.Rules)+len(o.DockerBuild) == 0 {
				return 0, nil
			}
		}
	}
	loaded, err := policy.Load(c.Context(), *o)
	if err != nil {
		return 0, fmt.Errorf("loading the policy: %w", err)
	}
	return len(loaded.Rules()), nil
}

type checked struct {
	OK       bool             `json:"ok"`
	File     string           `json:"file,omitempty"`
	Routes   int              `json:"routes,omitempty"`
	Signers  int              `json:"signers,omitempty"`
	Rules    int              `json:"rules,omitempty"`
	Problems []config.Problem `json:"problems"`
	Warnings []string         `json:"warnings,omitempty"`
}

func newConfigDefault() *cobra.Command {
	return &cobra.Command{
		Use:     "default",
		Short:   "Write the default configuration, with comments",
		Example: "  trustgate config default > trustgate.yaml",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(config.DefaultYAML())
			return err
		},
	}
}
