package main

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

//go:embed wrk.lua
var script string

// percentiles of the latency that wrk.lua reports.
var percentiles = []float64{50, 75, 90, 95, 99, 99.9}

// load is what one run of wrk saw.
type load struct {
	perSecond float64 // answers
	cpu       float64 // seconds of the server's, an answer
	latency   []time.Duration
}

// put runs wrk against a server with so many connections.
func (w *world) put(ctx context.Context, on *server, connections int, during time.Duration, paths ...string) (load, error) {
	args := []string{
		"-t1", fmt.Sprintf("-c%d", connections), fmt.Sprintf("-d%ds", max(1, int(during.Seconds()))), "--timeout", "30s",
		"-s", w.file("wrk.lua"), on.url(paths[0]), "--",
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
	var requests, micros, errors float64
	var at [6]int64
	if _, err := fmt.Sscan(line, &requests, &micros, &errors, &at[0], &at[1], &at[2], &at[3], &at[4], &at[5]); err != nil {
		return load{}, fmt.Errorf("reading %q: %w", line, err)
	}
	if errors > 0 || requests == 0 {
		return load{}, fmt.Errorf("%s: %.0f of %.0f requests for %s failed", on.name, errors, requests, paths[0])
	}
	l := load{perSecond: requests / micros * 1e6, cpu: used.Seconds() / requests}
	for _, micros := range at {
		l.latency = append(l.latency, time.Duration(micros)*time.Microsecond)
	}
	return l, nil
}

// pulls are what clients of a large blob saw.
type pulls struct {
	perSecond float64 // bytes
	cpu       float64 // seconds of the server's, a GB
	all       float64 // seconds of everything on the machine, a GB
}

// pull lets so many clients read a blob of the size again and again, each a process of
// its own: one thread of wrk is slower than what it asks.
func (w *world) pull(ctx context.Context, on *server, clients int, during time.Duration, path string, size int64) (pulls, error) {
	before, all, began := on.process.cpu(), busy(), time.Now()
	var pulled atomic.Int64
	var running errgroup.Group
	for range clients {
		running.Go(func() error {
			for time.Since(began) < during {
				const times = 16
				out, err := exec.CommandContext(ctx, "curl", "-sS", "--fail", "-o", os.DevNull, "-w", "%{size_download}\n",
					on.url(path)+fmt.Sprintf("#[1-%d]", times)).CombinedOutput()
				if err == nil && string(out) != strings.Repeat(fmt.Sprintln(size), times) {
					err = fmt.Errorf("not %d times %d bytes", times, size)
				}
				if err != nil {
					return fmt.Errorf("pulling %s from %s: %w\n%s", path, on.name, err, out)
				}
				pulled.Add(times * size)
			}
			return nil
		})
	}
	err := running.Wait()
	bytes := float64(pulled.Load())
	return pulls{
		perSecond: bytes / time.Since(began).Seconds(),
		cpu:       (on.process.cpu() - before).Seconds() / bytes * 1e9,
		all:       (busy() - all).Seconds() / bytes * 1e9,
	}, err
}

// ask is put with a client of its own, which is slower: wrk waits for the body of
// an answer to HEAD.
func (w *world) ask(ctx context.Context, on *server, connections int, during time.Duration, method, path string) (load, error) {
	ctx, cancel := context.WithTimeout(ctx, during)
	defer cancel()
	before, began := on.process.cpu(), time.Now()
	var answers atomic.Int64
	var clients errgroup.Group
	for range connections {
		clients.Go(func() error {
			conn, err := net.Dial("tcp", on.address)
			if err != nil {
				return err
			}
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			asked := &http.Request{Method: method}
			line := []byte(method + " " + path + " HTTP/1.1\r\nHost: " + on.address + "\r\nAccept: application/vnd.oci.image.manifest.v1+json\r\n\r\n")
			for reader := bufio.NewReader(conn); ; answers.Add(1) {
				if _, err := conn.Write(line); err != nil {
					return outOfTime(ctx, err)
				}
				resp, err := http.ReadResponse(reader, asked)
				if err != nil {
					return outOfTime(ctx, err)
				}
				_, err = io.Copy(io.Discard, resp.Body)
				if resp.StatusCode != http.StatusOK {
					return fmt.Errorf("%s answers %s to %s %s", on.name, resp.Status, method, path)
				}
				if err != nil {
					return outOfTime(ctx, err)
				}
			}
		})
	}
	err := clients.Wait()
	n := float64(answers.Load())
	return load{perSecond: n / time.Since(began).Seconds(), cpu: (on.process.cpu() - before).Seconds() / n}, err
}

func outOfTime(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
