package config

import (
	"encoding"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// Problem is one mistake and where it is.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
}

func (p Problem) String() string {
	switch {
	case p.Line > 0:
		return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
	case p.File != "":
		return p.File + ": " + p.Message
	}
	return p.Message
}

// Error is every mistake in a configuration, in the order of the file.
type Error struct{ Problems []Problem }

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads the file at path, or starts from the defaults when path is "", and
// applies the environment, given as KEY=VALUE.
func Load(path string, environ []string) (*Config, error) {
	if path == "" {
		return Parse("", nil, environ)
	}
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes; no configuration has more than %d", path, info.Size(), maxFile)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return Parse(path, raw, environ)
}

// Parse reads a configuration that is in memory; name stands for it in
// messages, and relative paths are relative to its folder.
func Parse(name string, raw []byte, environ []string) (*Config, error) {
	c := Default()
	c.File = name
	r := &reader{file: name, at: map[string]*token.Token{}, set: map[string]bool{}}
	if len(raw) > maxFile {
		r.problem(nil, "no configuration has more than %d bytes", maxFile)
	} else if len(raw) > 0 {
		r.read(raw, c)
	}
	r.environment(c, environ)
	c.resolvePaths(name)
	unread := r.problems
	c.check(r)
	// What could not be read has kept its default, so a line that has a problem
	// already may have others only because of it.
	r.problems = append(unread, slices.DeleteFunc(r.problems[len(unread):], func(p Problem) bool {
		return slices.ContainsFunc(unread, func(u Problem) bool { return u.Line == 0 || u.Line == p.Line })
	})...)
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b Problem) int {
			if a.Line != b.Line {
				return a.Line - b.Line
			}
			return a.Column - b.Column
		})
		return nil, &Error{r.problems}
	}
	return c, nil
}

// reader walks the document beside the struct that it fills, and remembers
// where each value stands.
type reader struct {
	file     string
	problems []Problem
	at       map[string]*token.Token // path to the value's token
	set      map[string]bool         // the variables of the environment that were used
}

func (r *reader) problem(at *token.Token, format string, args ...any) {
	p := Problem{File: r.file, Message: fmt.Sprintf(format, args...)}
	if at != nil && at.Position != nil {
		p.Line, p.Column = at.Position.Line, at.Position.Column
	}
	r.problems = append(r.problems, p)
}

func (r *reader) read(raw []byte, c *Config) {
	file, err := parser.ParseBytes(raw, 0)
	if err != nil {
		r.syntax(err)
		return
	}
	var documents []ast.Node
	for _, d := range file.Docs {
		if d.Body != nil && d.Body.Type() != ast.NullType && d.Body.Type() != ast.CommentType {
			documents = append(documents, d.Body)
		}
	}
	switch len(documents) {
	case 0:
	case 1:
		r.value(documents[0], reflect.ValueOf(c).Elem(), "")
	default:
		r.problem(documents[1].GetToken(), "a second document; a configuration is one")
	}
}

func (r *reader) syntax(err error) {
	var positioned interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if errors.As(err, &positioned) {
		r.problem(positioned.GetToken(), "%s", positioned.GetMessage())
		return
	}
	r.problem(nil, "%v", err)
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

func (r *reader) value(node ast.Node, into reflect.Value, path string) {
	if _, scalar := node.(ast.ScalarNode); scalar || r.at[path+"#key"] == nil {
		r.at[path] = node.GetToken() // of a mapping or a list the key says more
	}
	switch node.Type() {
	case ast.AnchorType, ast.AliasType, ast.MergeKeyType, ast.TagType:
		r.problem(node.GetToken(), "anchors, aliases and tags are not used here; write the value out")
		return
	case ast.NullType:
		return // as if the key were not there
	}
	if into.Kind() == reflect.Pointer {
		if into.IsNil() {
			into.Set(reflect.New(into.Type().Elem()))
		}
		into = into.Elem()
	}
	switch {
	case into.Kind() == reflect.Struct:
		r.mapping(node, into, path)
	case into.Kind() == reflect.Slice:
		r.sequence(node, into, path)
	default:
		r.scalar(node, into)
		if into.Kind() == reflect.Map {
			r.places(node, path)
		}
	}
}

// places remembers where the keys of a mapping stand whose form is not known here.
func (r *reader) places(node ast.Node, path string) {
	if entries, ok := entriesOf(node); ok {
		for _, entry := range entries {
			key := join(path, entry.Key.GetToken().Value)
			r.at[key+"#key"] = entry.Key.GetToken()
			r.places(entry.Value, key)
		}
	}
	if list, ok := node.(*ast.SequenceNode); ok {
		for i, item := range list.Values {
			r.places(item, fmt.Sprintf("%s[%d]", path, i))
		}
	}
}

func (r *reader) mapping(node ast.Node, into reflect.Value, path string) {
	entries, ok := entriesOf(node)
	if !ok {
		r.problem(node.GetToken(), "expected keys and values: %s", strings.Join(keysOf(into.Type()), ", "))
		return
	}
	for _, entry := range entries {
		key := entry.Key.GetToken().Value
		field, known := fieldOf(into, key)
		if !known {
			r.unknown(entry.Key.GetToken(), key, keysOf(into.Type()))
			continue
		}
		r.at[join(path, key)+"#key"] = entry.Key.GetToken()
		r.value(entry.Value, field, join(path, key))
	}
}

func (r *reader) sequence(node ast.Node, into reflect.Value, path string) {
	list, ok := node.(*ast.SequenceNode)
	if !ok {
		r.problem(node.GetToken(), "expected a list")
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(list.Values), len(list.Values)))
	for i, item := range list.Values {
		if route, is := into.Index(i).Addr().Interface().(*Route); is {
			*route = defaultRoute()
		}
		r.value(item, into.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

func (r *reader) scalar(node ast.Node, into reflect.Value) {
	if into.CanAddr() && into.Addr().Type().Implements(textUnmarshaler) {
		if scalar, ok := node.(ast.ScalarNode); ok {
			if err := into.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(fmt.Sprint(scalar.GetValue()))); err != nil {
				r.problem(node.GetToken(), "%v", err)
			}
			return
		}
		r.problem(node.GetToken(), "expected one value")
		return
	}
	if into.Kind() == reflect.String {
		scalar, ok := node.(ast.ScalarNode)
		if !ok {
			r.problem(node.GetToken(), "expected one value, not a list or keys")
			return
		}
		if text, ok := scalar.GetValue().(string); ok {
			into.SetString(text)
		} else {
			into.SetString(node.GetToken().Value) // 1.10 is a name here, not a number
		}
		return
	}
	if err := yaml.NodeToValue(node, into.Addr().Interface(), yaml.Strict()); err != nil {
		r.problem(node.GetToken(), "expected %s, not %q", kindName(into.Kind()), node.GetToken().Value)
	}
}

func kindName(k reflect.Kind) string {
	switch k {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Map:
		return "keys and values"
	}
	return "a " + k.String()
}

func (r *reader) unknown(at *token.Token, key string, known []string) {
	if near := nearest(key, known); near != "" {
		r.problem(at, "unknown key %q; did you mean %q?", key, near)
		return
	}
	r.problem(at, "unknown key %q; known here: %s", key, strings.Join(known, ", "))
}

// nearest is the known word that was probably meant, or "".
func nearest(word string, known []string) string {
	best, distance := "", 1+max(2, len(word)/3)
	for _, k := range known {
		if d := levenshtein.ComputeDistance(strings.ToLower(word), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	return best
}

func entriesOf(node ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := node.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("yaml"); key != "" && key != "-" {
			keys = append(keys, key)
		}
	}
	return keys
}

func fieldOf(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("yaml"); tag == key && tag != "-" && tag != "" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

const prefix = "TRUSTGATE_"

// documented are variables that are no keys.
var documented = []string{"TRUSTGATE_CONFIG"}

// environment applies TRUSTGATE_… variables: a key's path in capitals, its
// parts joined by _, lists by index, lists of words with commas.
func (r *reader) environment(c *Config, environ []string) {
	environ = slices.Clone(environ)
	slices.Sort(environ)
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		path, ok := strings.CutPrefix(name, prefix)
		if !ok || slices.Contains(documented, name) || strings.HasPrefix(name, "TRUSTGATE_E2E_") {
			continue
		}
		found, err := setFromEnvironment(reflect.ValueOf(c).Elem(), path, value)
		r.set[name] = found
		switch {
		case err != nil:
			r.problems = append(r.problems, Problem{Message: fmt.Sprintf("%s: %v", name, err)})
		case !found:
			message := name + " is not the name of a setting"
			if near := nearest(name, variables(reflect.TypeFor[Config](), "TRUSTGATE")); near != "" {
				message += "; did you mean " + near + "?"
			}
			r.problems = append(r.problems, Problem{Message: message})
		}
	}
}

// variable is the name that sets the value at path.
func variable(path string) string {
	return prefix + strings.ToUpper(strings.NewReplacer("[", "_", "]", "", ".", "_").Replace(path))
}

func setFromEnvironment(v reflect.Value, path, value string) (bool, error) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			fresh := reflect.New(v.Type().Elem())
			found, err := setFromEnvironment(fresh.Elem(), path, value)
			if found && err == nil {
				v.Set(fresh)
			}
			return found, err
		}
		v = v.Elem()
	}
	if path == "" {
		return true, setText(v, value)
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			key := strings.ToUpper(v.Type().Field(i).Tag.Get("yaml"))
			if key == "" || key == "-" {
				continue
			}
			if rest, ok := strings.CutPrefix(path, key); ok && (rest == "" || rest[0] == '_') {
				if found, err := setFromEnvironment(v.Field(i), strings.TrimPrefix(rest, "_"), value); found || err != nil {
					return found, err
				}
			}
		}
	case reflect.Slice:
		index, rest, _ := strings.Cut(path, "_")
		i, err := strconv.Atoi(index)
		if err != nil || i < 0 || i >= v.Len() {
			return false, nil
		}
		return setFromEnvironment(v.Index(i), rest, value)
	}
	return false, nil
}

func setText(v reflect.Value, value string) error {
	if v.Addr().Type().Implements(textUnmarshaler) {
		return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(value))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(value)
	case reflect.Bool:
		b, err := strconv.ParseBool(value)
		if err != nil {
			return errors.New("expected true or false")
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return errors.New("expected a whole number")
		}
		v.SetInt(n)
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.String {
			return errors.New("this list is set by index")
		}
		words := strings.Split(value, ",")
		v.Set(reflect.MakeSlice(v.Type(), len(words), len(words)))
		for i, word := range words {
			v.Index(i).SetString(strings.TrimSpace(word))
		}
	default:
		return errors.New("this key has parts; name the part")
	}
	return nil
}

// variables lists the names of every setting, with 0 for an index.
func variables(t reflect.Type, name string) []string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(textUnmarshaler) {
		return []string{name}
	}
	switch t.Kind() {
	case reflect.Struct:
		var names []string
		for i := range t.NumField() {
			if key := t.Field(i).Tag.Get("yaml"); key != "" && key != "-" {
				names = append(names, variables(t.Field(i).Type, name+"_"+strings.ToUpper(key))...)
			}
		}
		return names
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			return variables(t.Elem(), name+"_0")
		}
	}
	return []string{name}
}

// resolvePaths makes every Path absolute: below the file's folder, or the
// user's.
func (c *Config) resolvePaths(file string) {
	folder := "."
	if file != "" {
		folder = filepath.Dir(file)
	}
	resolvePaths(reflect.ValueOf(c).Elem(), folder)
	if root, ok := c.Cache.Driver["filesystem"]["rootdirectory"].(string); ok {
		c.Cache.Driver["filesystem"]["rootdirectory"] = absolute(root, folder)
	}
	if path, ok := strings.CutPrefix(c.Ledger.DSN, "sqlite:"); ok && path != ":memory:" && path != "" {
		c.Ledger.DSN = "sqlite:" + absolute(path, folder)
	}
	for i := range c.Routes {
		for j, base := range c.Routes[i].Lookaside {
			if path, ok := strings.CutPrefix(base, "file://"); ok {
				c.Routes[i].Lookaside[j] = "file://" + absolute(path, folder)
			}
		}
	}
}

func resolvePaths(v reflect.Value, folder string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			resolvePaths(v.Elem(), folder)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			resolvePaths(v.Field(i), folder)
		}
	case reflect.Slice:
		for i := range v.Len() {
			resolvePaths(v.Index(i), folder)
		}
	case reflect.String:
		if v.Type() == reflect.TypeFor[Path]() && v.String() != "" {
			v.SetString(absolute(v.String(), folder))
		}
	}
}

func absolute(path, folder string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			path = filepath.Join(home, rest)
		}
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(folder, path)
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
