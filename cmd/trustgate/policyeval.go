package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trustgate/trustgate/api"
	"github.com/trustgate/trustgate/ledger"
	"github.com/trustgate/trustgate/policy"
)

// subject is what a command judges: an image that is looked at now, a past
// decision, or a document.
type subject struct {
	document *string // a file, or - for standard input
	platform *string
}

func addSubject(c *cobra.Command, documents bool) *subject {
	s := &subject{}
	if documents {
		s.document = c.Flags().String("input", "", "judge this input document, as 'trustgate policy input' writes it; - reads standard input")
		_ = c.MarkFlagFilename("input", "json")
	}
	s.platform = c.Flags().String("platform", "", "of an index, take this image, such as linux/arm64 (default its first)")
	c.Flags().BoolP("verbose", "v", false, "log what is done")
	c.Args = func(c *cobra.Command, args []string) error {
		if given := documents && *s.document != ""; given == (len(args) == 1) || len(args) > 1 {
			if documents {
				return errors.New("it needs either one IMAGE or DECISION, or --input FILE")
			}
			return errors.New("it needs one IMAGE or DECISION")
		}
		return nil
	}
	c.ValidArgsFunction = completeDecisions
	return s
}

var decisionIDs = regexp.MustCompile(`^tg-[a-z2-9]{12}$`)

// input is the document to judge. What is recorded leaves out the time, which the
// decision has; what is looked at now is judged as of now.
func (s *subject) input(c *cobra.Command, args []string) (*policy.Input, error) {
	input, judged, err := s.look(c, args)
	if err == nil && input.Request.Time.IsZero() {
		input.Request.Time = judged
	}
	return input, err
}

func (s *subject) look(c *cobra.Command, args []string) (*policy.Input, time.Time, error) {
	now := time.Now().UTC().Truncate(time.Second)
	if len(args) == 0 {
		input, err := readDocument(c.InOrStdin(), *s.document)
		return input, now, err
	}
	if !decisionIDs.MatchString(args[0]) {
		found, err := inspect(c, args[0], false)
		if err != nil {
			return nil, now, err
		}
		input, err := s.pick(c.ErrOrStderr(), found)
		return input, now, err
	}
	var input *policy.Input
	var judged time.Time
	err := withLedger(c, func(ctx context.Context, l *ledger.Ledger) error {
		r, err := lookUp(ctx, l, args[0])
		if err != nil {
			return err
		}
		judged = r.JudgedAt
		input, err = policy.ReadInput(bytes.NewReader(r.Input))
		return err
	})
	return input, judged, err
}

func readDocument(stdin io.Reader, name string) (*policy.Input, error) {
	if name == "-" {
		return policy.ReadInput(stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	input, err := policy.ReadInput(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return input, nil
}

// pick chooses one image: rules judge images, and an index through those.
func (s *subject) pick(notes io.Writer, found *api.Image) (*policy.Input, error) {
	images := found.Images
	if len(images) == 0 {
		images = []*api.Image{found}
	}
	var platforms []string
	var chosen *api.Image
	for _, image := range images {
		platforms = append(platforms, image.Platform)
		if chosen == nil && image.Input != nil && (*s.platform == "" || image.Platform == *s.platform) {
			chosen = image
		}
	}
	switch {
	case chosen == nil && *s.platform != "":
		return nil, fmt.Errorf("%s has no image for %s; it has %s", found.Reference, *s.platform, strings.Join(platforms, ", "))
	case chosen == nil:
		return nil, fmt.Errorf("%s is evidence about an image, which rules do not judge", found.Reference)
	case len(images) > 1 && *s.platform == "":
		fmt.Fprintf(notes, "the image for %s; --platform chooses another (%s)\n", chosen.Platform, strings.Join(platforms, ", "))
	}
	return chosen.Input, nil
}

// completeDecisions offers the latest decisions.
func completeDecisions(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	if len(args) > 0 {
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
	// Nothing to offer is no error to show in the middle of a line.
	_ = withLedger(c, func(ctx context.Context, l *ledger.Ledger) error {
		list, err := (&api.API{Ledger: l}).Verdicts(ctx, ledger.Filter{Limit: 20})
		for _, r := range list {
			ids = append(ids, r.Decision+"\t"+string(r.Action)+" "+plain(r.Reference))
		}
		return err
	})
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// rules are those to judge by.
type rules struct {
	paths *[]string
	only  *bool
}

func addRules(c *cobra.Command) *rules {
	r := &rules{
		paths: c.Flags().StringArray("policy", nil, "judge by the rules of this folder, .rego file or bundle too (may be repeated)"),
		only:  c.Flags().Bool("only", false, "judge by --policy alone, without the configured rules and the shipped ones"),
	}
	_ = c.RegisterFlagCompletionFunc("policy", regoPaths)
	return r
}

func (r *rules) load(c *cobra.Command) (*policy.Engine, error) {
	if *r.only && len(*r.paths) == 0 {
		return nil, &usageError{c.CommandPath(), errors.New("--only needs --policy PATH")}
	}
	cfg, err := loadConfig(c)
	if err != nil {
		return nil, err
	}
	o, err := ruleOptions(c.Context(), cfg)
	if err != nil {
		return nil, err
	}
	if *r.only {
		o.Builtin, o.Paths, o.Rules, o.Collections, o.DockerBuild, o.Partial = false, nil, nil, nil, nil, true
	} else if o.Bundles, err = fetchBundles(c, cfg); err != nil {
		return nil, err
	}
	o.Paths = append(o.Paths, cleaned(*r.paths)...)
	engine, err := policy.Load(c.Context(), o)
	if err != nil {
		return nil, manyMistakes(err)
	}
	return engine, nil
}

func newPolicyInput() *cobra.Command {
	c := &cobra.Command{
		Use:   "input IMAGE|DECISION",
		Short: "Write the document that rules see",
		Long: `Write the input document of an image as a pull would gather it now, or the one that a
past decision was made of. Rules read exactly this. Edited, it is a case to judge with
'trustgate policy eval --input FILE', or to paste into a test.`,
		Example: `  trustgate policy input ghcr.io/acme/shop:1.4 | jq .signatures
  trustgate policy input tg-7qk2m4x9pd3w -f case.json`,
	}
	file := c.Flags().StringP("file", "f", "", "write into this file")
	s := addSubject(c, false)
	c.RunE = func(c *cobra.Command, args []string) error {
		input, err := s.input(c, args)
		if err != nil {
			return err
		}
		if *file == "" {
			return writeJSON(c.OutOrStdout(), input)
		}
		var document strings.Builder
		if err := writeJSON(&document, input); err != nil {
			return err
		}
		return os.WriteFile(*file, []byte(document.String()), 0o600)
	}
	return c
}

func newPolicyEval() *cobra.Command {
	c := &cobra.Command{
		Use:   "eval IMAGE|DECISION | --input FILE",
		Short: "Judge an image, a past decision or a document by rules",
		Long: `Judge by the rules of the configuration, and by those of --policy beside them. Nothing
that is judged here is recorded or counts for a pull: it shows what would become of
one. IMAGE is looked at now, as a pull would; of a DECISION the evidence is that of
then, and so is the time.`,
		Example: `  trustgate policy eval --policy rules/ ghcr.io/acme/shop:1.4
  trustgate policy eval --policy rules/ tg-7qk2m4x9pd3w
  trustgate policy input ghcr.io/acme/shop:1.4 | trustgate policy eval --input - -o json`,
	}
	strict := c.Flags().Bool("strict", false, "exit with 4 when it is annotated")
	s, r := addSubject(c, true), addRules(c)
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		engine, err := r.load(c)
		if err != nil {
			return err
		}
		input, err := s.input(c, args)
		if err != nil {
			return err
		}
		// With an error comes a decision that blocks, which is what a pull would get.
		decision, failure := engine.Decide(c.Context(), input)
		if out.json() {
			err = writeJSON(c.OutOrStdout(), decision)
		} else {
			err = writeDecision(c.OutOrStdout(), input, decision)
		}
		if err = errors.Join(failure, err); err != nil {
			return err
		}
		return exitWith(decision.Action, *strict)
	}
	return c
}

func writeDecision(w io.Writer, input *policy.Input, d policy.Decision) error {
	t := &tree{palette: paint(w)}
	t.reasons(d.Reasons)
	_, err := fmt.Fprintf(w, "%s\n%s%s\n%s", t.bold(plain(input.Image.Reference)), t.action(d.Action, 0), t.beforeMode(d), t)
	return err
}

func (p palette) beforeMode(d policy.Decision) string {
	if d.BeforeMode == d.Action {
		return ""
	}
	return p.faint(" (without its mode: " + p.action(d.BeforeMode, 0) + ")")
}

func newPolicyExplain() *cobra.Command {
	c := &cobra.Command{
		Use:   "explain IMAGE|DECISION | --input FILE",
		Short: "Show which rules decided, and which facts made them",
		Long: `Judge as 'trustgate policy eval' does, and show for each finding the rule that made it,
where that stands, the parts of the input and of the configuration that it read on
the way, with their values, and what would have to change. Of each rule that found
nothing it shows the condition that did not hold.

The facts are those that OPA's evaluator reports while it runs each rule by itself.`,
		Example: `  trustgate policy explain ghcr.io/acme/shop:1.4
  trustgate policy explain --code acme.age --policy rules/ tg-7qk2m4x9pd3w
  trustgate policy explain --code acme.age --trace --input case.json`,
	}
	strict := c.Flags().Bool("strict", false, "exit with 4 when it is annotated")
	code := c.Flags().String("code", "", "explain the rules of this code only")
	trace := c.Flags().Bool("trace", false, "add OPA's trace of each rule that is explained")
	s, r := addSubject(c, true), addRules(c)
	out := addOutput(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		engine, err := r.load(c)
		if err != nil {
			return err
		}
		input, err := s.input(c, args)
		if err != nil {
			return err
		}
		explained, err := engine.Explain(c.Context(), input, policy.ExplainOptions{Code: *code, Trace: *trace})
		if err != nil {
			return err
		}
		if *code != "" && len(explained.Findings)+len(explained.Silent) == 0 {
			return fmt.Errorf("no rule has the code %q; 'trustgate policy check' lists the codes", *code)
		}
		if out.json() {
			err = writeJSON(c.OutOrStdout(), explained)
		} else {
			err = writeExplanation(c.OutOrStdout(), input, explained)
		}
		if err != nil {
			return err
		}
		return exitWith(explained.Decision.Action, *strict)
	}
	return c
}

const (
	shownFacts = 16 // of one finding
	shownValue = 72 // characters of one fact
)

func writeExplanation(w io.Writer, input *policy.Input, x *policy.Explanation) error {
	t := &tree{palette: paint(w)}
	for _, f := range x.Findings {
		t.open(t.reason(f.Reason))
		if f.Title != "" {
			t.leaf("demands: " + plain(f.Title))
		}
		for _, r := range f.Rules {
			t.open(fmt.Sprintf("rule: %s %s", r.Package, t.faint(fmt.Sprintf("%s:%d", r.File, r.Line))))
			for i, fact := range r.Facts {
				if i == shownFacts {
					t.leaf(t.faint(fmt.Sprintf("and %d more, with -o json", len(r.Facts)-i)))
					break
				}
				t.leaf(plain(fact.Path) + " = " + shown(fact))
			}
			t.close()
		}
		if f.Solution != "" {
			t.leaf("to do: " + plain(f.Solution))
		}
		t.close()
	}
	if len(x.Silent) > 0 {
		t.open("rules that found nothing")
		for _, s := range x.Silent {
			text := s.Code + ": " + s.Why
			if s.Condition != "" {
				text += ": " + s.Condition + t.faint(fmt.Sprintf(" (line %d)", s.At))
			}
			t.leaf(plain(text))
		}
		t.close()
	}
	d := x.Decision
	_, err := fmt.Fprintf(w, "%s\n%s%s\n%s", t.bold(plain(input.Image.Reference)), t.action(d.Action, 0), t.beforeMode(d), t)
	if x.Trace != "" {
		_, err = fmt.Fprintf(w, "\n%s", x.Trace)
	}
	return err
}

// shown is the value of a fact in one short line.
func shown(f policy.Fact) string {
	if f.Missing {
		return "(nothing there)"
	}
	text := plain(string(f.Value))
	letters := []rune(text)
	if len(letters) <= shownValue {
		return text
	}
	var list []json.RawMessage
	if json.Unmarshal(f.Value, &list) == nil {
		return fmt.Sprintf("a list of %d", len(list))
	}
	return string(letters[:shownValue]) + "…"
}
