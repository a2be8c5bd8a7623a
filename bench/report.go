package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report is what was measured.
type report struct {
	machine   []string
	options   options
	rows      []*row
	latencies latencies
	growth    series
}

// row is one quantity, measured of several servers.
type row struct {
	name, unit string
	goals      []goal
	most       float64 // for a quantity with a bound of its own; 0 is none
	names      []string
	values     map[string][]float64
}

// goal is a ratio that TrustGate should have to another.
type goal struct {
	to    string
	bound bound
	ratio float64
}

type bound string

const (
	atLeast bound = "≥"
	atMost  bound = "≤"
)

func (b bound) met(value, limit float64) bool {
	if b == atLeast {
		return value >= limit
	}
	return value <= limit
}

func (r *report) row(name, unit string) *row {
	one := &row{name: name, unit: unit, values: map[string][]float64{}}
	r.rows = append(r.rows, one)
	return one
}

func (r *row) add(name string, value float64) {
	if !slices.Contains(r.names, name) {
		r.names = append(r.names, name)
	}
	r.values[name] = append(r.values[name], value)
}

// compare adds to a row the ratio of its TrustGate to that of another row.
func (r *report) compare(name, with string, b bound, ratio float64) {
	var one, other *row
	for _, row := range r.rows {
		switch row.name {
		case name:
			one = row
		case with:
			other = row
		}
	}
	one.values[with] = other.values["trustgate"]
	one.goals = append(one.goals, goal{with, b, ratio})
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// medianRatio is the median of the ratios within one round each: the machine is not
// equally fast in all of them.
func medianRatio(of, to []float64) float64 {
	ratios := make([]float64, min(len(of), len(to)))
	for i := range ratios {
		ratios[i] = of[i] / to[i]
	}
	return median(ratios)
}

// own is the server that a row is about.
func (r *row) own() string {
	if slices.Contains(r.names, "trustgate") && len(r.goals) > 0 && r.goals[0].to == "trustgate" {
		return r.names[slices.IndexFunc(r.names, func(n string) bool { return n != "trustgate" })]
	}
	return "trustgate"
}

func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("# Results\n\nWritten by `make bench`. Everything ran on one machine, the clients on the same cores as the servers, so that a\n" +
		"figure by itself says little: compare the ratios. Medians, with the lowest and the highest of the rounds; the servers took\n" +
		"turns, and a ratio is the median of those within a round. CPU is that of the server alone where nothing else is said.\n\n")
	for _, line := range r.machine {
		b.WriteString("- " + line + "\n")
	}
	fmt.Fprintf(&b, "- rounds: %d, of %s each where throughput is measured (wrk, one thread; blobs of 50 MiB by four processes of curl); more and shorter ones of HEAD and of cold blobs\n", r.options.rounds, r.options.time)
	servers := []string{"trustgate", "distribution", "net/http", "nginx"}
	b.WriteString("\n| what | unit | trustgate | distribution | bare net/http | nginx | others |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, row := range r.rows {
		fmt.Fprintf(&b, "| %s | %s |", row.name, row.unit)
		for _, s := range servers {
			fmt.Fprintf(&b, " %s |", spread(row.values[s]))
		}
		var others []string
		for _, name := range row.names {
			if !slices.Contains(servers, name) {
				others = append(others, name+": "+spread(row.values[name]))
			}
		}
		b.WriteString(" " + strings.Join(others, ", ") + " |\n")
	}
	b.WriteString("\n| goal | ratio or figure | wanted | met |\n| --- | --- | --- | --- |\n")
	for _, row := range r.rows {
		of := row.values[row.own()]
		for _, g := range row.goals {
			ratio := medianRatio(of, row.values[g.to])
			fmt.Fprintf(&b, "| %s, to %s | %.2f | %s %g | %s |\n", row.name, g.to, ratio, g.bound, g.ratio, yes(g.bound.met(ratio, g.ratio)))
		}
		if row.most > 0 {
			fmt.Fprintf(&b, "| %s | %.1f %s | %s %g | %s |\n", row.name, median(of), row.unit, atMost, row.most, yes(median(of) <= row.most))
		}
	}
	if len(r.latencies.names) > 0 {
		b.WriteString("\n![throughput against connections](throughput.svg)\n![latency percentiles](latency.svg)\n")
	}
	return b.String()
}

func yes(met bool) string {
	if met {
		return "yes"
	}
	return "**no**"
}

func spread(values []float64) string {
	if len(values) == 0 {
		return ""
	}
	return fmt.Sprintf("%s (%s to %s)", figure(median(values)), figure(slices.Min(values)), figure(slices.Max(values)))
}

func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// thisMachine says what the figures were measured on and with.
func thisMachine(w *world) []string {
	lines := []string{
		"date: " + time.Now().UTC().Format(time.DateOnly),
		fmt.Sprintf("machine: %s, %d cores, %s of memory", proc("/proc/cpuinfo", "model name"), runtime.NumCPU(), proc("/proc/meminfo", "MemTotal")),
		"kernel: " + said("uname", "-sr"),
		"TrustGate: " + strings.Join(strings.Fields(said(w.trustgate, "version")), " ") + ", " + runtime.Version(),
		"distribution: " + version(filepath.Join(w.tools, "registry"), "github.com/distribution/distribution/v3") + ", pull-through",
		"cosign: " + version(filepath.Join(w.tools, "cosign"), "github.com/sigstore/cosign/v3"),
		"nginx: " + strings.TrimPrefix(said("nginx", "-v"), "nginx version: ") + ", sendfile, as many workers as cores",
		"wrk: " + strings.TrimPrefix(strings.SplitN(said("wrk", "-v"), " [", 2)[0], "wrk "),
		"TrustGate enforces minimal, trusted-builds and slsa3, with the whole shipped library loaded",
	}
	return lines
}

func proc(file, key string) string {
	raw, _ := os.ReadFile(file)
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// said is the first line that a program prints; some exit with an error after their version.
func said(program string, args ...string) string {
	out, _ := exec.Command(program, args...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// version is that of a module which a Go program was built from.
func version(program, module string) string {
	for line := range strings.Lines(allSaid("go", "version", "-m", program)) {
		fields := strings.Fields(line)
		if len(fields) > 2 && (fields[0] == "dep" || fields[0] == "mod") && fields[1] == module {
			return fields[2]
		}
	}
	return "unknown"
}

func allSaid(program string, args ...string) string {
	out, _ := exec.Command(program, args...).CombinedOutput()
	return string(out)
}
