package dockerbuild

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/rego"
)

// AllowsWith says whether the policy allows the source when these members of the
// input and of the image are known as well.
func (p *Policy) AllowsWith(ctx context.Context, s *Source, env, image map[string]any) (bool, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return false, err
	}
	var input map[string]map[string]any
	if err := json.Unmarshal(raw, &input); err != nil {
		return false, err
	}
	maps.Copy(input["env"], env)
	maps.Copy(input["image"], image)
	results, err := p.full.Eval(withAsked(ctx, &asked{}), rego.EvalInput(input))
	if err != nil || len(results) != 1 {
		return false, err
	}
	d, err := readDecision(results[0].Expressions[0].Value)
	return d.Allow, err
}

// Rewritten is the text of what is evaluated partially.
func (p *Policy) Rewritten() string {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(p.rewritten.Modules)) {
		text.WriteString(p.rewritten.Modules[name].String())
	}
	return text.String()
}
