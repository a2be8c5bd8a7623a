package e2e

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"testing"
)

// TestDemo runs the first thing that a person runs.
func TestDemo(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), the.trustgate, "demo", "--once", "-o", "json")
	cmd.Dir, cmd.Env = t.TempDir(), the.env
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		t.Fatalf("trustgate demo: %v\n%s\n%s", err, out.String(), log.String())
	}
	var pulls []struct {
		Reference string `json:"reference"`
		Expected  string `json:"expected"`
		Action    string `json:"action"`
		Digest    string `json:"digest"`
		Reasons   []struct {
			Code string `json:"code"`
			Msg  string `json:"msg"`
		} `json:"reasons"`
	}
	if err := json.Unmarshal(out.Bytes(), &pulls); err != nil {
		t.Fatalf("standard output is not the one JSON document: %v\n%s", err, out.String())
	}
	actions := map[string]int{}
	for _, p := range pulls {
		actions[p.Action]++
		if p.Reference == "" || p.Action != p.Expected {
			t.Errorf("unexpected: %+v", p)
		}
		if p.Action == "block" && (len(p.Reasons) == 0 || p.Reasons[0].Code == "" || p.Reasons[0].Msg == "") {
			t.Errorf("blocked without a reason: %+v", p)
		}
	}
	for _, action := range []string{"serve", "annotate", "block"} {
		if actions[action] == 0 {
			t.Errorf("the demo shows no %s: %v", action, actions)
		}
	}
}
