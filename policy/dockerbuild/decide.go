package dockerbuild

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

// Decision is what a policy says about one source.
type Decision struct {
	Allow    bool
	Messages []string // the policy's own, for people
	// Unknown is what the decision rests on and nobody knows when an image is
	// pulled: fields of the input, and functions. There is no Allow with it.
	Unknown []string
}

// Decide asks about one source, as of now. With an error there is no decision.
func (p *Policy) Decide(ctx context.Context, s *Source, now time.Time) (Decision, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return Decision{}, fmt.Errorf("writing the source down: %w", err)
	}
	input, err := ast.ValueFromReader(bytes.NewReader(raw))
	if err != nil {
		return Decision{}, fmt.Errorf("reading the source back: %w", err)
	}
	unknown := make([]*ast.Term, 0, len(s.unknown))
	d := &dependence{compiler: p.rewritten, input: input}
	for _, field := range s.unknown {
		ref, err := ast.ParseRef("input." + field)
		if err != nil {
			return Decision{}, fmt.Errorf("naming what is unknown: %w", err)
		}
		d.unknown = append(d.unknown, ref)
		unknown = append(unknown, ast.NewTerm(ref))
	}
	a := &asked{}
	if s.Image != nil {
		if a.image, err = input.Find(wholeImage[1:]); err != nil {
			return Decision{}, err
		}
	}
	d.unknown = append(d.unknown, answers)
	unknown = append(unknown, ast.NewTerm(answers))
	ctx = withAsked(ctx, a)
	options := []rego.EvalOption{rego.EvalParsedInput(input)}
	if !now.IsZero() {
		options = append(options, rego.EvalTime(now))
	}
	rests, err := p.rests(ctx, d, append(options, rego.EvalParsedUnknowns(unknown)))
	if err != nil {
		return Decision{}, fmt.Errorf("asking %s what it needs to know: %w", p.name, err)
	}
	if len(rests) > 0 {
		return Decision{Unknown: rests}, nil
	}
	a.pins = nil
	results, err := p.full.Eval(ctx, options...)
	if err != nil {
		return Decision{}, fmt.Errorf("asking %s: %w", p.name, err)
	}
	if len(results) != 1 || len(results[0].Expressions) != 1 {
		return Decision{Messages: []string{"the policy decides nothing about it: data.docker.decision is undefined"}}, nil
	}
	decision, err := readDecision(results[0].Expressions[0].Value)
	if err != nil {
		return Decision{}, fmt.Errorf("asking %s: %w", p.name, err)
	}
	if decision.Allow {
		for _, pinned := range a.pins {
			if pinned.String() != s.Image.Checksum {
				return Decision{Messages: []string{fmt.Sprintf("the policy puts %s in its place", pinned)}}, nil
			}
		}
		return Decision{Allow: true}, nil
	}
	return decision, nil
}

// rests lists what the decision rests on of what is unknown. OPA writes into the
// terms of the rules while it evaluates partially, so that one evaluation has to
// wait for the other.
func (p *Policy) rests(ctx context.Context, d *dependence, options []rego.EvalOption) ([]string, error) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.turn }()
	left, err := p.partial.Partial(ctx, options...)
	if err != nil {
		return nil, err
	}
	return d.of(left), nil
}

// readDecision reads what buildx reads, and is as strict about it.
func readDecision(value any) (Decision, error) {
	said, ok := value.(map[string]any)
	if !ok {
		return Decision{}, errors.New("its decision is no object")
	}
	var d Decision
	if allow, there := said["allow"]; there {
		if d.Allow, ok = allow.(bool); !ok {
			return Decision{}, errors.New("its decision.allow is neither true nor false")
		}
	}
	messages, _ := said["deny_msg"].([]any)
	for _, m := range messages {
		if text, ok := m.(string); ok && text != "" {
			d.Messages = append(d.Messages, text)
		}
	}
	if caps, there := said["caps"]; there {
		members, ok := caps.(map[string]any)
		if !ok {
			return Decision{}, errors.New("its decision.caps is no object")
		}
		for name, value := range members {
			if _, ok := value.(bool); !ok || name != "exec.proxy" {
				return Decision{}, fmt.Errorf("its decision.caps has %.40q, of which buildx knows only exec.proxy, true or false", name)
			}
		}
	}
	return d, nil
}
