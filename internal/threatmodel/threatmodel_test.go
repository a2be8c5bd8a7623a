// Package threatmodel_test holds docs/security.md to the tests that it names.
package threatmodel_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const (
	root = "../.."
	page = "docs/security.md"
)

// named is a test as the page names it: `proxy.TestBypass/a case of it`.
var named = regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)(?:/([^`]+))?`")

func TestEveryTestOfThePageExists(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]map[string]bool{}
	found := 0
	for _, match := range named.FindAllStringSubmatch(string(text), -1) {
		folder, function, name := match[1], match[2], match[3]
		if packages[folder] == nil {
			packages[folder] = tests(t, folder)
		}
		found++
		if !packages[folder][function] {
			t.Errorf("%s names %s, and there is no %s in %s", page, match[0], function, folder)
		}
		if name != "" && !packages[folder][strconv.Quote(name)] {
			t.Errorf("%s names %s, and no test of %s has a case of that name", page, match[0], folder)
		}
	}
	if found < 50 {
		t.Errorf("%s names %d tests, if it is read rightly", page, found)
	}
	if all := strings.Count(string(text), ".Test") + strings.Count(string(text), ".Fuzz"); all != found {
		t.Errorf("%s names %d tests, of which %d can be read", page, all, found)
	}
	// A threat that no test holds is a wish.
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, "|"); len(cells) == 5 && strings.Contains(section(string(text), line), "held by") &&
			!strings.Contains(line, "---") && !strings.Contains(line, "held by") && !named.MatchString(cells[3]) {
			t.Errorf("%s has a threat without a test: %s", page, strings.TrimSpace(cells[1]))
		}
	}
}

// section is the part of the page between headings in which the line stands.
func section(text, line string) string {
	at := strings.Index(text, line)
	from := strings.LastIndex(text[:at], "\n##")
	return text[max(0, from):at]
}

// tests lists the functions of a folder's tests, and, in quotes, their texts.
func tests(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				found[n.Name.Name] = n.Recv == nil
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil {
					found[strconv.Quote(text)] = true
				}
			}
			return true
		})
	}
	return found
}
