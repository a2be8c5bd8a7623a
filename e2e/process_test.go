package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// startTimeout bounds how long a server may take to answer for the first time;
// a loaded two-core machine needs seconds.
const startTimeout = 60 * time.Second

// commandTimeout bounds one run of a client.
const commandTimeout = 2 * time.Minute

// process is a server that a test started. Its output goes to a file.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended, once done is closed
}

// start runs a server and waits until ready says nil. It stays in its own
// process group and dies with the tests.
func start(dir, name string, env []string, ready func(context.Context) error, program string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd = exec.Command(program, args...)
	p.cmd.Dir = dir
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()

	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		last := ready(ctx)
		if last == nil {
			return p, nil
		}
		select {
		case <-p.done:
			return nil, fmt.Errorf("%s ended before it was ready (%v):\n%s", name, p.err, p.tail(60))
		case <-ctx.Done():
			p.stop()
			return nil, fmt.Errorf("%s was not ready within %s (%v):\n%s", name, startTimeout, last, p.tail(60))
		case <-tick.C:
		}
	}
}

// stop ends the server as a service manager would, and reports how it ended.
func (p *process) stop() error {
	if p == nil {
		return nil // it never started
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.kill()
		return fmt.Errorf("%s did not end within 20 s of SIGTERM", p.name)
	}
	return p.err
}

// kill is kill -9: the server gets no chance to tidy up.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// tail returns the last lines of what the server wrote.
func (p *process) tail(lines int) string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// freeAddress is a loopback address that nobody listens on, and a different one
// each time. The kernel takes ports for outgoing connections above those.
func freeAddress() (string, error) {
	for {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(10_000+int(lastPort.Add(1)%20_000)))
		l, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return "", err
		}
		return address, l.Close()
	}
}

// lastPort begins elsewhere in every run, of which there may be two.
var lastPort = func() *atomic.Uint32 {
	var at atomic.Uint32
	at.Store(rand.Uint32N(20_000))
	return &at
}()

// answers is ready once url gives one of the statuses.
func answers(url string, statuses ...int) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		for _, status := range statuses {
			if resp.StatusCode == status {
				return nil
			}
		}
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
}

// listens is ready once something accepts connections at the address.
func listens(network, address string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// outcome is what a person sees of one command: its output, standard and error
// together, and its exit status.
type outcome struct {
	command string
	output  string
	stdout  []byte
	code    int   // -1 when it could not run or was killed
	err     error // nil when it exited 0
}

// ok fails the test unless the command succeeded.
func (o outcome) ok(t testing.TB) outcome {
	t.Helper()
	if o.err != nil {
		t.Fatalf("%s: %v\n%s", o.command, o.err, o.output)
	}
	return o
}

// run runs a client to its end.
func run(ctx context.Context, dir string, env []string, program string, args ...string) outcome {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = dir, env
	cmd.WaitDelay = 5 * time.Second
	var stdout bytes.Buffer
	var both sharedBuffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&stdout, &both), &both
	err := cmd.Run()
	o := outcome{
		command: filepath.Base(program) + " " + strings.Join(args, " "),
		output:  both.String(), stdout: stdout.Bytes(), err: err,
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		o.code = exit.ExitCode()
	case err != nil:
		o.code = -1
	}
	return o
}

// sharedBuffer takes both outputs of a command as they come.
type sharedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *sharedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *sharedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// eventually asks again and again until ok, or fails the test with the last
// answer. It is for states that are reached by the passing of a lifetime.
func eventually(t *testing.T, within time.Duration, what string, ok func() (bool, string)) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		done, last := ok()
		if done {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("not within %s: %s\nlast answer:\n%s", within, what, last)
		case <-tick.C:
		}
	}
}
