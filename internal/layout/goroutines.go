package layout

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"strings"
)

// Goroutine is a place in the source at which one is started.
type Goroutine struct {
	File      string // relative to the module's root
	Line      int
	Text      string // the first line of what is run
	Contained bool   // a panic on it ends it alone: internal/contain sees to that
}

// Goroutines returns all places under root, but for tests, where a goroutine is started: a go statement, a Go of a
// sync.WaitGroup, an AfterFunc of time or context. It knows them by these names.
func Goroutines(root string) (all []Goroutine, err error) {
	files := token.NewFileSet()
	err = sources(root, func(file, name string) error {
		f, err := parser.ParseFile(files, file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			var run ast.Expr
			var contained bool
			switch n := n.(type) {
			case *ast.GoStmt:
				run, contained = n.Call, contains(n.Call, "Run", "Keep")
			case *ast.CallExpr:
				f, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || len(n.Args) == 0 || f.Sel.Name != "Go" && f.Sel.Name != "AfterFunc" {
					return true
				}
				run = n.Args[len(n.Args)-1]
				contained = contains(run, "Wrap") || containedBody(run)
			default:
				return true
			}
			all = append(all, Goroutine{File: name, Line: files.Position(n.Pos()).Line, Text: firstLine(files, run), Contained: contained})
			return true
		})
		return nil
	})
	return all, err
}

// contains reports whether e calls one of these methods of a Panics.
func contains(e ast.Expr, methods ...string) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	of := ""
	switch x := f.X.(type) {
	case *ast.SelectorExpr:
		of = x.Sel.Name
	case *ast.Ident:
		of = x.Name
	}
	for _, m := range methods {
		if f.Sel.Name == m && strings.EqualFold(of, "panics") {
			return true
		}
	}
	return false
}

// containedBody reports whether e is a function that does nothing but run another under a Panics.
func containedBody(e ast.Expr) bool {
	f, ok := e.(*ast.FuncLit)
	if !ok || len(f.Body.List) != 1 {
		return false
	}
	s, ok := f.Body.List[0].(*ast.ExprStmt)
	return ok && contains(s.X, "Run", "Keep")
}

func firstLine(files *token.FileSet, e ast.Expr) string {
	var b bytes.Buffer
	_ = printer.Fprint(&b, files, e)
	line, _, _ := strings.Cut(b.String(), "\n")
	return line
}
