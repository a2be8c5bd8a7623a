package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// diagnose makes of OPA's errors, of compiling or of running, one each with file, line, column and, where
// one can be guessed, what was meant.
func diagnose(err error) error {
	var running *topdown.Error
	if errors.As(err, &running) {
		return problem(running.Location, "%s: %s", running.Code, running.Message)
	}
	var found ast.Errors
	if !errors.As(err, &found) {
		var one *ast.Error
		if !errors.As(err, &one) {
			return err
		}
		found = ast.Errors{one}
	}
	var all []error
	for _, e := range found {
		all = append(all, problem(e.Location, "%s: %s", e.Code, explain(e)))
	}
	return errors.Join(all...)
}

func explain(e *ast.Error) string {
	if detail, ok := e.Details.(*ast.RefErrInvalidDetail); ok && detail.Pos < len(detail.Ref) {
		return explainRef(detail)
	}
	text := e.Message
	if name, ok := strings.CutPrefix(e.Message, "undefined function "); ok && offNetwork(name) {
		return text + ": rules have no access to the network or the process unless the configuration allows it"
	}
	if e.Details != nil {
		text += ": " + strings.Join(strings.Fields(strings.Join(e.Details.Lines(), "; ")), " ")
	}
	return text
}

func explainRef(d *ast.RefErrInvalidDetail) string {
	text := fmt.Sprintf("%s: there is no %s", d.Ref, d.Ref[:d.Pos+1])
	var known []string
	for _, v := range d.OneOf {
		if s, ok := v.(ast.String); ok {
			known = append(known, string(s))
		}
	}
	slices.Sort(known)
	if key, ok := d.Ref[d.Pos].Value.(ast.String); ok {
		if near := nearest(string(key), known); near != "" {
			return fmt.Sprintf("%s; did you mean %s?", text, near)
		}
	}
	if len(known) > 0 {
		text += "; there is " + strings.Join(known, ", ")
	}
	return text
}

// nearest returns the known name that was probably meant, or "".
func nearest(name string, known []string) string {
	best, distance := "", max(2, len(name)/3)+1
	for _, k := range known {
		if d := levenshtein.ComputeDistance(name, k); d < distance {
			best, distance = k, d
		}
	}
	return best
}
