package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
)

// maxStamped bounds how many files are looked at below one folder.
const maxStamped = 10_000

// Stamp changes when one of the files that the configuration consists of or
// names does, folders of rules and data included. It reads none of them.
func (c *Config) Stamp() string {
	files := []string{c.File}
	walkPaths(reflect.ValueOf(*c), func(p string) { files = append(files, p) })
	files = slices.DeleteFunc(files, func(p string) bool { return p == "" || p == string(c.Data) })
	slices.Sort(files)
	h := sha256.New()
	for _, file := range slices.Compact(files) {
		seen := 0
		_ = filepath.WalkDir(resolved(file), func(path string, _ fs.DirEntry, err error) error {
			if seen++; seen > maxStamped {
				return fs.SkipAll
			}
			info, statErr := os.Stat(path) // of what a link leads to
			if err != nil || statErr != nil {
				fmt.Fprintf(h, "%s is not there\n", path)
				return nil
			}
			if !info.IsDir() {
				fmt.Fprintf(h, "%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
			}
			return nil
		})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// resolved follows links to a folder, which a walk would not.
func resolved(path string) string {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		return to
	}
	return path
}

// walkPaths calls f with every Path below v.
func walkPaths(v reflect.Value, f func(string)) {
	switch v.Kind() {
	case reflect.String:
		if v.Type() == reflect.TypeFor[Path]() {
			f(v.String())
		}
	case reflect.Pointer:
		if !v.IsNil() {
			walkPaths(v.Elem(), f)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			walkPaths(v.Field(i), f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walkPaths(v.Index(i), f)
		}
	}
}
