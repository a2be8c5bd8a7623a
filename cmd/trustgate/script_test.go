package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/trustgate/trustgate/cmd/trustgate/demo"
	"github.com/trustgate/trustgate/internal/loopback"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"trustgate": main})
}

// TestScripts runs the program as a person does. The scripts have the scene of
// the demonstration: $SCENE is the configuration of its gate, which is not
// running, and $GATE and $ADMIN are free addresses.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "script"),
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			scene, err := demo.Set(context.Background(), "127.0.0.1:0", "")
			if err != nil {
				return err
			}
			env.Defer(func() { scene.Close() })
			for _, name := range []string{"GATE", "ADMIN"} {
				address, err := loopback.Address()
				if err != nil {
					return err
				}
				env.Setenv(name, address)
			}
			env.Setenv("SCENE", scene.Config)
			env.Setenv("SCENE_DIR", filepath.Dir(scene.Config))
			env.Setenv("XDG_DATA_HOME", filepath.Join(env.WorkDir, "share"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"answers": answers,
			"capture": capture,
			"hangup":  hangup,
			"says":    says,
			"pull":    pull,
			"damage":  damageLargest,
		},
	})
}

// answers STATUS URL waits until a server that is starting gives the status.
func answers(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: answers STATUS URL")
	}
	await(ts, args[1], args[0], func(resp *http.Response) (string, bool) {
		status := fmt.Sprint(resp.StatusCode)
		return status, status == args[0]
	})
}

// says TEXT URL waits until the answer has the text in it.
func says(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: says TEXT URL")
	}
	await(ts, args[1], args[0], func(resp *http.Response) (string, bool) {
		body, err := io.ReadAll(resp.Body)
		return string(body), err == nil && strings.Contains(string(body), args[0])
	})
}

// await asks until the answer is as it must be.
func await(ts *testscript.TestScript, url, want string, look func(*http.Response) (seen string, ok bool)) {
	last := ""
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(url)
		if err != nil {
			last = err.Error()
			continue
		}
		seen, ok := look(resp)
		resp.Body.Close()
		if last = seen; ok {
			return
		}
	}
	ts.Fatalf("%s: %s, want %q", url, last, want)
}

// hangup sends SIGHUP to what runs in the background.
func hangup(ts *testscript.TestScript, _ bool, _ []string) {
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(syscall.SIGHUP))
	}
}

// capture VAR PREFIX sets VAR to the first word with the prefix in the last
// standard output.
func capture(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: capture VAR PREFIX")
	}
	for _, word := range strings.FieldsFunc(ts.ReadFile("stdout"), func(r rune) bool { return strings.ContainsRune(" \n\t\",()", r) }) {
		if strings.HasPrefix(word, args[1]) {
			ts.Setenv(args[0], strings.TrimSuffix(word, ":"))
			return
		}
	}
	ts.Fatalf("nothing begins with %q", args[1])
}

// pull REFERENCE pulls a whole image from a registry without TLS.
func pull(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: pull REFERENCE")
	}
	ref, err := name.ParseReference(args[0], name.Insecure)
	ts.Check(err)
	image, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
	ts.Check(err)
	layers, err := image.Layers()
	ts.Check(err)
	for _, layer := range layers {
		content, err := layer.Compressed()
		ts.Check(err)
		_, err = io.Copy(io.Discard, content) // which hashes it
		ts.Check(errors.Join(err, content.Close()))
	}
	_, err = image.RawConfigFile()
	ts.Check(err)
}

// damage FOLDER changes one byte of the largest file below it.
func damageLargest(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: damage FOLDER")
	}
	var largest string
	var size int64
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	}))
	raw, err := os.ReadFile(largest)
	ts.Check(err)
	raw[len(raw)/2] ^= 1
	ts.Check(os.WriteFile(largest, raw, 0o644))
}

// TestDemoStaysUp: without --once the gate can be tried out, and ends cleanly.
func TestDemoStaysUp(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	address, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	var stdout strings.Builder
	invitation, stderr := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"demo", "--listen", address}, strings.NewReader(""), &stdout, stderr)
		stderr.Close()
	}()
	var said strings.Builder
	for lines := bufio.NewScanner(invitation); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if !strings.Contains(lines.Text(), "Ctrl-C") {
			continue
		}
		for path, want := range map[string]int{"/v2/shop/manifests/1": 200, "/v2/orphan/manifests/1": 403} {
			resp, err := http.Get("http://" + address + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s: %s", path, resp.Status)
			}
		}
		stop()
	}
	if got := <-code; got != exitServed {
		t.Errorf("it ended with %d:\n%s%s", got, &stdout, &said)
	}
	if !strings.Contains(said.String(), "crane pull --insecure "+address) {
		t.Errorf("it does not say what to try:\n%s", &said)
	}
}
