package policy

import (
	"encoding/json"
	"strings"
	"testing"
)

const goodReason = `{"code":"a.b","msg":"m","severity":"deny","effect":"block"}`

func TestParseDecision(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, raw string
		want      Action // "" when it must not parse
		before    Action
	}{
		{"serve", `{"action":"serve","before_mode":"serve","reasons":[],"annotations":{}}`, Serve, Serve},
		{"annotate", `{"action":"annotate","before_mode":"block","reasons":[],"annotations":{"a":"b"}}`, Annotate, Block},
		{"block", `{"action":"block","before_mode":"block","reasons":[` + goodReason + `],"annotations":{}}`, Block, Block},
		{"weaker than its reasons", `{"action":"serve","before_mode":"serve","reasons":[` + goodReason + `],"annotations":{}}`, Block, Block},
		{"weaker before the mode", `{"action":"block","before_mode":"serve","reasons":[],"annotations":{}}`, Block, Block},
		{"no lists", `{"action":"serve","before_mode":"serve"}`, Serve, Serve},
		{"unknown action", `{"action":"allow","before_mode":"serve","reasons":[],"annotations":{}}`, "", ""},
		{"no action", `{"before_mode":"serve","reasons":[],"annotations":{}}`, "", ""},
		{"other case", `{"action":"Serve","before_mode":"serve"}`, "", ""},
		{"no action before the mode", `{"action":"serve","reasons":[],"annotations":{}}`, "", ""},
		{"unknown member", `{"action":"serve","before_mode":"serve","mode":"audit"}`, "", ""},
		{"unknown member of a reason", `{"action":"serve","before_mode":"serve","reasons":[{"code":"a","msg":"m","severity":"warn","effect":"serve","x":1}]}`, "", ""},
		{"unknown effect", `{"action":"serve","before_mode":"serve","reasons":[{"code":"a","msg":"m","severity":"warn","effect":""}]}`, "", ""},
		{"unknown severity", `{"action":"serve","before_mode":"serve","reasons":[{"code":"a","msg":"m","severity":"low","effect":"serve"}]}`, "", ""},
		{"no code", `{"action":"serve","before_mode":"serve","reasons":[{"msg":"m","severity":"warn","effect":"serve"}]}`, "", ""},
		{"a msg of nothing that prints", `{"action":"serve","before_mode":"serve","reasons":[{"code":"a","msg":"\n\t","severity":"warn","effect":"serve"}]}`, "", ""},
		{"two decisions", `{"action":"serve","before_mode":"serve"}{"action":"serve","before_mode":"serve"}`, "", ""},
		{"null", `null`, "", ""},
		{"a text", `"serve"`, "", ""},
		{"nothing", ``, "", ""},
		{"too long", `{"action":"serve","before_mode":"serve","annotations":{"a":"` + strings.Repeat("x", maxDecision) + `"}}`, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := parseDecision([]byte(tc.raw))
			if (err != nil) != (tc.want == "") {
				t.Fatalf("the error is %v", err)
			}
			if d.Action != tc.want || d.BeforeMode != tc.before {
				t.Errorf("got %q and %q, want %q and %q", d.Action, d.BeforeMode, tc.want, tc.before)
			}
			if err == nil && (d.Reasons == nil || d.Annotations == nil) {
				t.Error("a list is nil")
			}
		})
	}
}

func TestReasonsAreOneLine(t *testing.T) {
	t.Parallel()
	raw, err := json.Marshal(map[string]any{
		"action": "annotate", "before_mode": "annotate",
		"reasons": []any{map[string]any{
			"code": "a", "msg": " one\r\nX-Header: two\x1b[31m\u202e  " + strings.Repeat("ü", 3000), "severity": "warn", "effect": "annotate",
			"path": []string{"a\nb"},
		}},
		"annotations": map[string]any{"k\n": "v\nw"},
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := parseDecision(raw)
	if err != nil {
		t.Fatal(err)
	}
	r := d.Reasons[0]
	if !strings.HasPrefix(r.Msg, "one X-Header: two [31m ü") || len([]rune(r.Msg)) != maxMessage || !strings.HasSuffix(r.Msg, "…") {
		t.Errorf("msg is %.60q…, %d characters", r.Msg, len([]rune(r.Msg)))
	}
	if r.Path[0] != "a b" || d.Annotations["k"] != "v w" {
		t.Errorf("path %q, annotations %q", r.Path, d.Annotations)
	}
}

func TestStricter(t *testing.T) {
	t.Parallel()
	order := []Action{Serve, Annotate, Block}
	for i, a := range order {
		for j, b := range order {
			if got := Stricter(a, b); got != order[max(i, j)] {
				t.Errorf("Stricter(%s, %s) is %s", a, b, got)
			}
		}
		if Stricter(a, "allow") != Block || Stricter("", a) != Block {
			t.Errorf("something that is no action is not taken for a block beside %s", a)
		}
	}
}

func FuzzParseDecision(f *testing.F) {
	f.Add([]byte(`{"action":"serve","before_mode":"serve","reasons":[],"annotations":{}}`))
	f.Add([]byte(`{"action":"serve","before_mode":"block","reasons":[` + goodReason + `],"annotations":{"a":"b"}}`))
	f.Add([]byte(`{"action":"allow"}`))
	f.Add([]byte(`{"action":"block","ACTION":"serve","before_mode":"serve"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := parseDecision(raw)
		if err != nil {
			if d.Action != "" {
				t.Errorf("an unreadable decision says %q", d.Action)
			}
			return
		}
		if !d.Action.valid() || !d.BeforeMode.valid() || Stricter(d.BeforeMode, d.Action) != d.BeforeMode {
			t.Errorf("%q after %q", d.Action, d.BeforeMode)
		}
		for _, r := range d.Reasons {
			if Stricter(d.Action, r.Effect) != d.Action {
				t.Errorf("%q is weaker than the effect %q", d.Action, r.Effect)
			}
			for _, s := range []string{r.Code, r.Msg, r.Solution, r.Because} {
				if strings.ContainsAny(s, "\r\n\x00\x1b") {
					t.Errorf("%q is more than a line", s)
				}
			}
		}
	})
}
