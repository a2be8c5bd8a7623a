package policy

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/trustgate/trustgate/policies"
)

var (
	//go:embed scaffold/rule.rego.txt
	ruleTemplate string
	//go:embed scaffold/rule_test.rego.txt
	testTemplate string
)

var ruleNames = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

// NewRule writes a rule with its test into a folder, which it makes, and returns their
// paths. Both pass Check and Test as they are. Files that exist stay as they are.
func NewRule(folder, name string) (rule, test string, err error) {
	switch {
	case !ruleNames.MatchString(name) || strings.HasSuffix(name, "_test") || ast.IsKeyword(name):
		return "", "", fmt.Errorf("%q cannot be the name of a package of rules: small letters, digits and _, a letter first", name)
	case shippedPackage(name):
		return "", "", fmt.Errorf("a shipped package has the name %s; choose another, such as the name of your team", name)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", "", err
	}
	rule, test = filepath.Join(folder, name+".rego"), filepath.Join(folder, name+"_test.rego")
	for _, path := range []string{rule, test} {
		if _, err := os.Lstat(path); err == nil {
			return "", "", fmt.Errorf("%s exists already; choose another name or folder", path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", "", err
		}
	}
	for path, template := range map[string]string{rule: ruleTemplate, test: testTemplate} {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return "", "", err
		}
		_, err = f.WriteString(strings.ReplaceAll(template, "NAME", name))
		if err := errors.Join(err, f.Close()); err != nil {
			return "", "", fmt.Errorf("writing %s: %w", path, err)
		}
	}
	return rule, test, nil
}

func shippedPackage(name string) bool {
	_, err := fs.Stat(policies.Files, "trustgate/"+name+".rego")
	return err == nil
}
