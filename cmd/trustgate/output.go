package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/fatih/color"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/trustgate/trustgate/policy"
)

// addOutput gives a command the flag -o.
func addOutput(c *cobra.Command) *format {
	f := format("table")
	c.Flags().VarP(&f, "output", "o", "how to write the result: table or json")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return &f
}

type format string

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }
func (f *format) Set(s string) error {
	if s != "table" && s != "json" {
		return fmt.Errorf("it is table or json")
	}
	*f = format(s)
	return nil
}

func (f *format) json() bool { return *f == "json" }

// orEmpty keeps null out of JSON lists.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// palette colours text for a terminal, and leaves it alone for anything else.
type palette struct{ on bool }

func paint(w io.Writer) palette {
	return palette{isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (p palette) in(s string, attributes ...color.Attribute) string {
	c := color.New(attributes...)
	if p.on {
		c.EnableColor()
	} else {
		c.DisableColor()
	}
	return c.Sprint(s)
}

func (p palette) red(s string) string    { return p.in(s, color.FgRed, color.Bold) }
func (p palette) green(s string) string  { return p.in(s, color.FgGreen, color.Bold) }
func (p palette) yellow(s string) string { return p.in(s, color.FgYellow, color.Bold) }
func (p palette) faint(s string) string  { return p.in(s, color.Faint) }
func (p palette) bold(s string) string   { return p.in(s, color.Bold) }

// action writes a verdict as a person says it, at least width letters wide.
func (p palette) action(a policy.Action, width int) string {
	paint, word := p.red, "blocked"
	switch a {
	case policy.Serve:
		paint, word = p.green, "served"
	case policy.Annotate:
		paint, word = p.yellow, "annotated"
	}
	return paint(word) + strings.Repeat(" ", max(0, width-len(word)))
}

// mark shows whether something holds.
func (p palette) mark(holds bool) string {
	if holds {
		return p.green("✓")
	}
	return p.red("✗")
}

// table writes columns. It must be flushed.
func table(w io.Writer, head ...string) *tabwriter.Writer {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(head, "\t"))
	return t
}

func ago(t time.Time) string { return humanize.Time(t) }

// plain makes foreign text safe to show on a terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || r == '\n' {
			return ' '
		}
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == 0x2028 || r == 0x2029 || (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) {
			return '�'
		}
		return r
	}, s)
}

// firstOf is the first text that is not empty.
func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// progress says on a terminal that something long is under way, and for how
// long it has been; done ends it.
func progress(w io.Writer, doing string) (done func()) {
	return progressOf(w, func() string { return doing })
}

// progressOf is progress for something whose progress can be told.
func progressOf(w io.Writer, doing func() string) (done func()) {
	if !isTerminal(w) {
		return func() {}
	}
	started, stop := time.Now(), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			fmt.Fprintf(w, "\r%s, %s … ", plain(doing()), time.Since(started).Truncate(time.Second))
			select {
			case <-tick.C:
			case <-stop:
				fmt.Fprint(w, "\r\x1b[K")
				return
			}
		}
	})
	return func() { close(stop); wg.Wait() }
}
