package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server that is measured. Its output goes to a file.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
}

// start runs a server until it answers at url, and says how long that took.
func start(ctx context.Context, dir, name, url, program string, args ...string) (*process, time.Duration, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, 0, err
	}
	defer log.Close()
	p := &process{name: name, cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, log, log
	p.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, 0, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	for time.Since(began) < time.Minute {
		if resp, err := http.Get(url); err == nil {
			resp.Body.Close()
			if resp.StatusCode < 500 {
				return p, time.Since(began), nil
			}
		}
		select {
		case <-ctx.Done():
			p.stop()
			return nil, 0, ctx.Err()
		case <-p.done:
			raw, _ := os.ReadFile(log.Name())
			return nil, 0, fmt.Errorf("%s ended before it was ready:\n%s", name, raw)
		case <-time.After(2 * time.Millisecond):
		}
	}
	p.stop()
	return nil, 0, fmt.Errorf("%s was not ready within a minute", name)
}

func (p *process) stop() {
	if p == nil {
		return
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	}
}

// cpu is what the server and its children have used so far.
func (p *process) cpu() time.Duration {
	var ticks int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		raw, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended
		}
		// The name in brackets may hold anything: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		if len(fields) > 12 && fields[2] == strconv.Itoa(p.cmd.Process.Pid) { // its process group
			user, _ := strconv.Atoi(fields[11])
			system, _ := strconv.Atoi(fields[12])
			ticks += user + system
		}
	}
	return time.Duration(ticks) * tick
}

const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that matters here

// busy is what all cores have worked so far, for the kernel too: what it does for
// one side of a connection within the machine, it does on the account of whoever runs
// at that moment.
func busy() time.Duration {
	raw, _ := os.ReadFile("/proc/stat")
	fields := strings.Fields(string(raw[:max(0, bytes.IndexByte(raw, '\n'))]))
	var ticks int
	for i, field := range fields {
		if idle := i == 4 || i == 5; i > 0 && i < 8 && !idle { // then come what other machines took and what guests used
			n, _ := strconv.Atoi(field)
			ticks += n
		}
	}
	return time.Duration(ticks) * tick
}

// resident is the memory that the server occupies, in bytes.
func (p *process) resident() (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if size, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(size)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no VmRSS in " + string(raw))
}
