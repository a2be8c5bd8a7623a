package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

//go:embed wrk.lua
var script string

// percentiles of the latency that wrk.lua reports.
var percentiles = []float64{50, 75, 90, 95, 99, 99.9}

// load is what one run of wrk saw.
type load struct {
	perSecond float64 // answers
	bytes     float64 // a second
	cpu       float64 // seconds of the server's, an answer
	cpuPerGB  float64 // seconds
	latency   []time.Duration
}

// put runs wrk against a server with so many connections.
func (w *world) put(ctx context.Context, on *server, connections int, during time.Duration, method string, paths ...string) (load, error) {
	args := []string{
		"-t1", fmt.Sprintf("-c%d", connections), fmt.Sprintf("-d%dms", during.Milliseconds()), "--timeout", "30s",
		"-s", w.file("wrk.lua"), on.url(paths[0]), "--", method,
	}
	if len(paths) > 1 {
		args = append(args, paths...)
	}
	before := on.process.cpu()
	cmd := exec.CommandContext(ctx, "wrk", args...)
	cmd.Stderr = os.Stderr
	said, err := cmd.Output()
	if err != nil {
		return load{}, fmt.Errorf("wrk: %w\n%s", err, said)
	}
	used := on.process.cpu() - before
	_, line, found := strings.Cut(string(said), "measured ")
	if !found {
		return load{}, fmt.Errorf("wrk says nothing that can be read:\n%s", said)
	}
	var requests, micros, bytes, errors float64
	var at [6]int64
	if _, err := fmt.Sscan(line, &requests, &micros, &bytes, &errors, &at[0], &at[1], &at[2], &at[3], &at[4], &at[5]); err != nil {
		return load{}, fmt.Errorf("reading %q: %w", line, err)
	}
	if errors > 0 || requests == 0 {
		return load{}, fmt.Errorf("%s: %.0f of %.0f requests for %s failed", on.name, errors, requests, paths[0])
	}
	l := load{
		perSecond: requests / micros * 1e6, bytes: bytes / micros * 1e6,
		cpu: used.Seconds() / requests, cpuPerGB: used.Seconds() / bytes * 1e9,
	}
	for _, micros := range at {
		l.latency = append(l.latency, time.Duration(micros)*time.Microsecond)
	}
	return l, nil
}
