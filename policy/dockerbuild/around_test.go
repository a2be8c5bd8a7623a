package dockerbuild_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
)

// TestNoWayAroundAnUnknown combines ways to get at a build argument with ways to
// allow for lack of it. Each policy allows without the argument and denies with
// it, so while nobody knows it must not allow.
func TestNoWayAroundAnUnknown(t *testing.T) {
	t.Parallel()
	const shared = `
whole := input

env := input.env

everything contains input.env

members["k"] := input.env

arguments(e) if e.args.X

named(e, k) := e[k].X

nested[k].of := v if some k, v in input
`
	ways := []string{
		`input.env.args.X`,
		`e := input.env; e.args.X`,
		`some k, v in input; v.args.X`,
		`some k; input[k].args.X`,
		`some k; input.env[k].X`,
		`k := concat("", ["ar", "gs"]); input.env[k].X`,
		`object.get(input.env, "args", {}).X`,
		`object.get(input, ["env", "args", "X"], false)`,
		`some e in [input.env]; e.args.X`,
		`some e in {input.env}; e.args.X`,
		`some e in {"k": input.env}; e.args.X`,
		`{"args": a, "depth": _} = input.env; a.X`,
		`[{"args": a, "depth": 0}] = [input.env]; a.X`,
		`whole.env.args.X`,
		`some k; whole[k].args.X`,
		`some k; env[k].X`,
		`arguments(input.env)`,
		`some k, _ in input; arguments(input[k])`,
		`some k, _ in input.env; named(input.env, k)`,
		`some e in everything; e.args.X`,
		`everything[e]; e.args.X`,
		`some k; members[k].args.X`,
		`some k; nested[k].of.args.X`,
		`input.env == {"depth": 0, "args": {"X": "1"}}`,
		`some k; input[k] == {"depth": 0, "args": {"X": "1"}}`,
		`{"depth": 0, "args": {"X": "1"}} in everything`,
		`walk(input, [path, v]); path[count(path) - 1] == "X"`,
		`walk(input.env, [["args", "X"], _])`,
		`json.filter(input, ["env/args"]).env.args.X`,
		`contains(json.marshal(input.env), "args")`,
		`[x | x := input.env.args.X][0]`,
		`{k: v | some k, v in input.env}.args.X`,
		`"args" in object.keys(input.env)`,
		`count(input.env) > 1`,
		`object.union(input.env, {"x": 1}).args.X`,
		`x := [v | some v in input.env]; count(x) == 2`,
		`sprintf("%v", [input.env]) != "{\"depth\": 0}"`,
		`every v in [1] { input.env.args.X == sprintf("%d", [v]) }`,
		`not no`,
		`data.docker.env.args.X`,
		`arguments(input.env) with data.x as 1`,
		`whole.env.args.X with input.image as {}`,
	}
	lacks := map[string]string{
		"a negation":            "allow if not bad\n\nbad if { %s }",
		"a count":               "allow if count([1 | %s]) == 0",
		"an empty set":          "allow if {1 | %s} == set()",
		"a set of messages":     "allow if count(deny_msg) == 0\n\ndeny_msg contains \"no\" if { %s }",
		"every":                 "allow if { every x in [1] { x == 1; not bad } }\n\nbad if { %s }",
		"an else":               "verdict := false if { %s } else := true\n\nallow := verdict",
		"a default":             "default bad := false\n\nbad if { %s }\n\nallow if bad == false",
		"a function":            "bad(_) if { %s }\n\nallow if not bad(input.image)",
		"a function's default":  "default good(_) := true\n\ngood(_) := false if { %s }\n\nallow if good(1)",
		"an object":             "found[key] := 1 if { key := \"a\"; %s }\n\nallow if not found.a",
		"a negated replacement": "bad if { %s }\n\nallow if { not bad with data.y as 1 }",
		"two negations":         "bad if { %s }\n\ngood if not bad\n\nallow if { x := {1 | not good}; x == set() }",
	}
	const no = "\n\nno if not input.env.args.X\n"
	argument := map[string]any{"args": map[string]any{"X": "1"}}
	for turn, lack := range slices.Sorted(maps.Keys(lacks)) {
		rule := lacks[lack]
		t.Run(lack, func(t *testing.T) {
			s := pulled(t, nil)
			for i, way := range ways {
				if (i+turn)%3 != 0 {
					continue // a third of the pairs, and each way with several
				}
				text := "package docker\n\ndecision := {\"allow\": allow}\n\n" + fmt.Sprintf(rule, way) + no + shared
				if lack != "an else" {
					text += "\ndefault allow := false\n"
				}
				p := load(t, text)
				without, err := p.AllowsWith(t.Context(), s, nil, nil)
				with, err2 := p.AllowsWith(t.Context(), s, argument, nil)
				if !without || with || err != nil || err2 != nil {
					t.Errorf("%s does not rest on the argument: %t without, %t with (%v, %v)", way, without, with, err, err2)
				}
				before := p.Rewritten()
				d, err := p.Decide(t.Context(), s, now)
				if again, err := p.Decide(t.Context(), s, now); err != nil || !slices.Equal(again.Unknown, d.Unknown) || p.Rewritten() != before {
					t.Errorf("%s: asked twice, it decides %+v, %v", way, again, err)
				}
				if err != nil || d.Allow || len(d.Unknown) == 0 {
					t.Errorf("%s: it decides %+v, %v", way, d, err)
				}
			}
		})
	}
}
