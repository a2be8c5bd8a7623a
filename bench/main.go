// Command bench measures TrustGate beside others that serve the same bytes: a
// distribution registry as a pull-through cache, nginx with static files, a bare
// net/http handler, and cosign where signatures are checked.
//
// All of it runs on one machine, the client too, so that only ratios within one
// run mean something. What is compared is measured in turns, several rounds of
// it, and the medians are shown. It must never serve as a test: it judges
// nothing.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "handler" {
		exit(serveBare(os.Args[2], os.Args[3]))
	}
	o := options{}
	flag.IntVar(&o.rounds, "rounds", 9, "how often everything is measured, in turns")
	flag.DurationVar(&o.time, "time", 2*time.Second, "how long one measurement of throughput takes")
	flag.IntVar(&o.verdicts, "verdicts", 1_000_000, "verdicts in the large ledger")
	flag.IntVar(&o.images, "images", 10_000, "images in the large cache")
	flag.StringVar(&o.out, "out", ".", "folder for RESULTS.md and the plots; empty writes none")
	only := flag.String("only", "", "measure only the rows whose names match this regular expression")
	flag.Usage = func() {
		fmt.Fprint(os.Stderr, "Usage: make bench, or go run . in bench/ once install.sh and ../e2e/tools.sh have run.\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		exit(fmt.Errorf("-only: %w", err))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(o.run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type options struct {
	rounds           int
	time             time.Duration
	verdicts, images int
	out              string
	only             *regexp.Regexp
}

func (o options) run(ctx context.Context) (err error) {
	w, err := newWorld(ctx)
	if w != nil {
		defer w.close()
	}
	if err != nil {
		return err
	}
	r := &report{machine: thisMachine(w), options: o}
	defer func() {
		if err != nil { // what there is may still tell something
			fmt.Print(r.markdown())
		}
	}()
	for _, part := range []struct {
		rows    string // what -only looks at
		measure func(context.Context, *world, *report) error
	}{
		{"warm", warm}, {"warm large blob", largeBlobs}, {"head", heads}, {"connections", connections}, {"cold blob", coldBlobs}, {"cold admission", coldAdmissions},
		{"memory", memory}, {"ledger", largeLedger}, {"start", largeCache},
	} {
		if !o.only.MatchString(part.rows) {
			continue
		}
		if err := part.measure(ctx, w, r); err != nil {
			return fmt.Errorf("measuring %s: %w", part.rows, err)
		}
	}
	fmt.Print(r.markdown())
	if o.out == "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(o.out, "RESULTS.md"), []byte(r.markdown()), 0o644); err != nil {
		return err
	}
	for name, svg := range r.plots() {
		if err := os.WriteFile(filepath.Join(o.out, name), []byte(svg), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// progress tells whoever waits what is being done.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
