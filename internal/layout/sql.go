package layout

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// SQL is a text in the source that a store would read as a statement or a piece of one.
type SQL struct {
	File  string // relative to the module's root
	Line  int
	Text  string // constants in their places, and … for what is not constant
	Built bool   // something is not
}

// Statements returns all SQL in the Go files under root, but for tests, in the order of files and lines. It reads the
// source only: it knows a constant by its name, within a folder and, as pkg.Name, in the folder of that name.
func Statements(root string) ([]SQL, error) {
	s := &statements{constants: map[string]map[string]ast.Expr{}, files: token.NewFileSet()}
	parsed := map[string]*ast.File{}
	err := sources(root, func(file, name string) error {
		f, err := parser.ParseFile(s.files, file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		parsed[name] = f
		s.declare(path.Dir(name), f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for name, f := range parsed {
		s.file, s.dir = name, path.Dir(name)
		ast.Inspect(f, s.visit)
	}
	slices.SortFunc(s.found, func(a, b SQL) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return s.found, nil
}

// statements is a walk in progress.
type statements struct {
	files     *token.FileSet
	constants map[string]map[string]ast.Expr // by folder and name
	file, dir string
	found     []SQL
}

func (s *statements) declare(dir string, f *ast.File) {
	if s.constants[dir] == nil {
		s.constants[dir] = map[string]ast.Expr{}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if d, ok := n.(*ast.GenDecl); ok && d.Tok == token.CONST {
			for _, spec := range d.Specs {
				v := spec.(*ast.ValueSpec)
				for i, name := range v.Names {
					if i < len(v.Values) {
						s.constants[dir][name.Name] = v.Values[i]
					}
				}
			}
		}
		return true
	})
}

// words only SQL has in capitals.
var words = regexp.MustCompile(`\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|FROM|WHERE|AND|VALUES|JOIN|ORDER BY|LIMIT|RETURNING|ON CONFLICT|CREATE|ALTER|DROP|GRANT|REVOKE|SET ROLE|UNION)\b`)

// visit looks at each expression that makes a text, the outermost first, and not again at its parts.
func (s *statements) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.ImportSpec:
		return false
	case *ast.AssignStmt:
		if n.Tok == token.ADD_ASSIGN && len(n.Rhs) == 1 {
			return !s.take(n.Rhs[0])
		}
	case *ast.BinaryExpr:
		return n.Op != token.ADD || !s.take(n)
	case *ast.CallExpr:
		return !formats(n) || !s.take(n)
	case *ast.BasicLit:
		s.take(n)
	}
	return true
}

// take notes e if it is SQL.
func (s *statements) take(e ast.Expr) bool {
	text, constant := s.text(s.dir, e, 0)
	if !words.MatchString(text) {
		return false
	}
	s.found = append(s.found, SQL{File: s.file, Line: s.files.Position(e.Pos()).Line, Text: text, Built: !constant})
	return true
}

// formats reports whether a call makes a text of its arguments.
func formats(c *ast.CallExpr) bool {
	f, ok := c.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := f.X.(*ast.Ident)
	return ok && (pkg.Name == "fmt" && strings.Contains(f.Sel.Name, "print") || pkg.Name == "fmt" && strings.Contains(f.Sel.Name, "Append") ||
		pkg.Name == "strings" && (f.Sel.Name == "Replace" || f.Sel.Name == "ReplaceAll" || f.Sel.Name == "Join" || f.Sel.Name == "Repeat"))
}

const unknown = "…"

// text is what e evaluates to, as far as that is known, and whether all of it is.
func (s *statements) text(dir string, e ast.Expr, depth int) (string, bool) {
	if depth > 20 {
		return unknown, false
	}
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			v, err := strconv.Unquote(e.Value)
			return v, err == nil
		}
		return e.Value, true
	case *ast.ParenExpr:
		return s.text(dir, e.X, depth+1)
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			left, l := s.text(dir, e.X, depth+1)
			right, r := s.text(dir, e.Y, depth+1)
			return left + right, l && r
		}
	case *ast.Ident:
		if v, ok := s.constants[dir][e.Name]; ok {
			return s.text(dir, v, depth+1)
		}
	case *ast.SelectorExpr:
		if pkg, ok := e.X.(*ast.Ident); ok {
			for other, names := range s.constants {
				if v, ok := names[e.Sel.Name]; ok && path.Base(other) == pkg.Name {
					return s.text(other, v, depth+1)
				}
			}
		}
	case *ast.CallExpr:
		return s.called(dir, e, depth)
	}
	return unknown, false
}

// called is the text a call makes: a conversion's, or a format's with its arguments in their places.
func (s *statements) called(dir string, c *ast.CallExpr, depth int) (string, bool) {
	if f, ok := c.Fun.(*ast.Ident); ok && f.Name == "string" && len(c.Args) == 1 {
		return s.text(dir, c.Args[0], depth+1)
	}
	if !formats(c) {
		return unknown, false
	}
	constant := true
	texts := make([]string, len(c.Args))
	for i, a := range c.Args {
		text, known := s.text(dir, a, depth+1)
		texts[i], constant = text, constant && known
	}
	if f := c.Fun.(*ast.SelectorExpr); f.Sel.Name == "Sprintf" && constant {
		args := make([]any, len(texts)-1)
		for i, a := range texts[1:] {
			args[i] = a
		}
		return fmt.Sprintf(texts[0], args...), true
	}
	return strings.Join(texts, " "), constant
}
