// Package layout holds the rule which way imports point, as two tables, and checks it. It reads the import clauses of
// all Go files, whatever their build tags; it leaves to the compiler whether they are any good.
package layout

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Rules say which imports there may be. Folders are relative to the module's root; a rule for a folder, and a leave to
// import it, hold for all below it but what has a rule of its own.
type Rules struct {
	// MayImport: which folders of this module each folder may import, besides itself. A folder without a rule may not
	// be there.
	MayImport map[string][]string

	// OnlyIn: which folders may import a foreign package or what is below it. Packages that are not named are free.
	OnlyIn map[string][]string

	// Exempt folders import what they like, as do tests.
	Exempt []string
}

// Check returns every import under root that breaks the rules, one sentence each, sorted. root holds go.mod.
func Check(root string, r Rules) ([]string, error) {
	module, err := moduleOf(root)
	if err != nil {
		return nil, err
	}
	var wrong []string
	unknown := make(map[string]bool)
	err = sources(root, func(file, name string) error {
		dir := path.Dir(name)
		if _, exempt := longest(r.Exempt, dir); exempt {
			return nil
		}
		room, known := longest(keys(r.MayImport), dir)
		if !known && !unknown[dir] {
			unknown[dir] = true
			wrong = append(wrong, fmt.Sprintf("%s has no rule: say in internal/layout what it may import", dir))
		}
		imports, err := importsOf(file)
		if err != nil {
			return err
		}
		for _, imp := range imports {
			if own, is := strings.CutPrefix(imp+"/", module+"/"); is {
				own = strings.TrimSuffix(own, "/")
				if known && !r.allows(room, own) {
					wrong = append(wrong, fmt.Sprintf("%s imports %s: %s may not", name, own, room))
				}
				continue
			}
			if owner, is := longest(keys(r.OnlyIn), imp); is {
				if _, in := longest(r.OnlyIn[owner], dir); !in {
					wrong = append(wrong, fmt.Sprintf("%s imports %s, which stays in %s", name, imp, home(r.OnlyIn[owner])))
				}
			}
		}
		return nil
	})
	slices.Sort(wrong)
	return wrong, err
}

// allows reports whether room may import the folder own of this module.
func (r Rules) allows(room, own string) bool {
	target, known := longest(keys(r.MayImport), own)
	return known && (target == room || slices.Contains(r.MayImport[room], target))
}

func home(dirs []string) string {
	if len(dirs) == 0 {
		return "tests"
	}
	return strings.Join(dirs, ", ")
}

// sources calls visit for every Go file under root that is ours and no test: with its path, and its name below root.
func sources(root string, visit func(file, name string) error) error {
	return filepath.WalkDir(root, func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if e.IsDir() {
			if name != "." && skipped(file, e.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		return visit(file, name)
	})
}

// skipped folders hold no code of ours.
func skipped(dir, name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "node_modules" || name == "vendor" {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod")) // another module
	return err == nil
}

func importsOf(file string) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, i := range f.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func moduleOf(root string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if m, is := strings.CutPrefix(strings.TrimSpace(line), "module "); is {
			return strings.TrimSpace(m), nil
		}
	}
	return "", fmt.Errorf("%s/go.mod names no module", root)
}

// within reports whether p is dir or below it.
func within(dir, p string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// longest returns the longest of dirs that p is within.
func longest(dirs []string, p string) (found string, ok bool) {
	for _, d := range dirs {
		if within(d, p) && (!ok || len(d) > len(found)) {
			found, ok = d, true
		}
	}
	return found, ok
}

func keys(m map[string][]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	return out
}
