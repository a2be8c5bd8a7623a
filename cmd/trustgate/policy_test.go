package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/trustgate/trustgate/cmd/trustgate/config"
	"github.com/trustgate/trustgate/cmd/trustgate/demo"
	"github.com/trustgate/trustgate/policy"
)

// TestPolicyGuide does what docs/policy.md says, from the first line to the last: it
// writes the files, runs the commands and wants the answers that the page shows.
func TestPolicyGuide(t *testing.T) {
	if commands := followPage(t, "policy.md", false); commands < 9 {
		t.Errorf("the page has %d commands", commands)
	}
}

// TestMigratingGuide does the same with docs/migrating.md.
func TestMigratingGuide(t *testing.T) {
	if commands := followPage(t, "migrating.md", true); commands < 11 {
		t.Errorf("the page has %d commands", commands)
	}
}

// followPage writes the files of a page of docs, whole or, of the configuration, the parts that
// it shows, and runs its commands. Unless they are new, its files are there to be edited.
func followPage(t *testing.T, name string, fresh bool) (commands int) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join("..", "..", "evidence", "sigstore", "testdata", "public-good", "trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	scene, err := demo.Set(t.Context(), "127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	defer scene.Close()
	t.Chdir(filepath.Dir(scene.Config))
	t.Setenv("TRUSTGATE_CONFIG", "trustgate.yaml")
	if err := os.WriteFile("trusted_root.json", root, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, fence := range regexp.MustCompile("(?ms)^```(\\w+) ?(\\S*)\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		language, file, text := fence[1], fence[2], fence[3]
		switch {
		case language == "console":
			commands += follow(t, text)
		case file == "trustgate.yaml":
			before, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			changed := string(before)
			for _, part := range regexp.MustCompile(`(?m)^(\w+:)\n( .*\n)+`).FindAllStringSubmatch(text, -1) {
				changed = regexp.MustCompile(`(?m)^`+part[1]+`\n( .*\n)+`).ReplaceAllLiteralString(changed, part[0])
			}
			if changed == string(before) {
				t.Fatal("the scene has nothing to replace")
			}
			if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
				t.Fatal(err)
			}
		case file != "":
			if _, err := os.Stat(file); (err != nil) != fresh {
				t.Errorf("%s is there to be edited: %v", file, err)
			}
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		default:
			t.Errorf("nobody knows what to do with a block of %s", language)
		}
	}
	return commands
}

// follow runs the commands of a block and compares what they write with what
// follows them there. A line … stands for any lines, and … in a line for any text.
func follow(t *testing.T, block string) (commands int) {
	t.Helper()
	code := 0
	for _, part := range strings.Split("\n"+block, "\n$ ")[1:] {
		command, want, _ := strings.Cut(part, "\n")
		var output bytes.Buffer
		words := strings.Fields(command)
		switch {
		case command == "echo $?":
			fmt.Fprintln(&output, code)
		case words[0] == "trustgate":
			code = run(t.Context(), words[1:], strings.NewReader(""), &output, &output)
			commands++
		default:
			t.Fatalf("the page runs %q", command)
		}
		pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSuffix(want, "\n")+"\n"), "\n…\n", "\n(?:.*\n)*?")
		pattern = strings.ReplaceAll(pattern, "…", ".*")
		if !regexp.MustCompile("^" + pattern + "$").MatchString(output.String()) {
			t.Errorf("$ %s\nanswers\n%s\nand the page shows\n%s", command, &output, want)
		}
	}
	return commands
}

// The configuration knows the collections that the shipped rules belong to.
func TestCollectionsOfTheConfiguration(t *testing.T) {
	engine, err := policy.Load(t.Context(), policy.Options{Builtin: true})
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, r := range engine.Rules() {
		known = append(known, r.Collections...)
	}
	slices.Sort(known)
	known = slices.Compact(known)
	listed := slices.Sorted(slices.Values(config.Collections))
	if !slices.Equal(known, listed) {
		t.Errorf("the rules belong to %v, the configuration knows %v", known, listed)
	}
}

func TestLineRanges(t *testing.T) {
	for want, lines := range map[string][]int{
		"line 3": {3}, "lines 3-5": {3, 4, 5}, "lines 1, 3-4, 9": {1, 3, 4, 9},
	} {
		if got := lineRanges(lines); got != want {
			t.Errorf("%v: %s", lines, got)
		}
	}
}

// A test is run again when its file changes, and what fails does not end that.
func TestPolicyTestWatch(t *testing.T) {
	t.Chdir(t.TempDir())
	_, test, err := policy.NewRule("rules", "acme")
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(test)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	output, stdout := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"policy", "test", "--watch", "rules"}, strings.NewReader(""), stdout, io.Discard)
		stdout.Close()
	}()
	lines := bufio.NewScanner(output)
	for _, step := range []struct {
		want string
		next []byte // what the file becomes when the line has come
	}{
		{"2 passed, 0 failed, 0 skipped", append(slices.Clone(good), "\ntest_wrong if false\n"...)},
		{"2 passed, 1 failed, 0 skipped", good},
		{"2 passed, 0 failed, 0 skipped", nil},
	} {
		for lines.Scan() && lines.Text() != step.want {
		}
		if lines.Text() != step.want {
			t.Fatalf("it never says %q", step.want)
		}
		if step.next == nil {
			break
		}
		// Written whole or not at all: a half file would be another run.
		if err := os.WriteFile("next", step.next, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename("next", test); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	output.Close()
	if got := <-code; got != exitServed {
		t.Errorf("it ends with %d", got)
	}
}
