package layout

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// built are the places where something that is no constant is put into SQL, by file, with what it is. None of it comes
// from outside: values are parameters.
var built = map[string]map[string]string{
	"internal/testkit/postgres.go": {
		"CREATE DATABASE …": "names of databases the tests make", "TEMPLATE …": "the same",
		"DATABASE IF EXISTS …": "the same", "ALTER DATABASE …": "the same",
	},
	"calls/postgres.go": {"u.call_id AND … AND c.state = 'open'": "one of two constants: the other is a planted bug"},
	"calls/sqlite.go":   {"call_id = $6 AND … AND state = 'open'": "the same"},
	"migrations/bound.go": {
		"SELECT '%s' WHERE EXISTS (SELECT FROM %s.%s) … ' '' public …": "names of tables from the catalog, quoted",
		"… UNION ALL": "the same, joined",
	},
	"migrations/roles.go": {"CREATE ROLE …": "names of our roles, quoted", "GRANT … TO …": "the same", "SCHEMA … TO …": "the same"},
	"orgs/list.go": {
		"AND (created_at, …) < (…, …)":             "a column, by its name in the code, and placeholders",
		"ORDER BY created_at DESC, … DESC LIMIT …": "the same",
	},
	"threads/store.go": {"… ORDER BY t.created_at": "a condition that is there or not, of constants"},
	"threads/view.go":  {"AND own IN (…)": "placeholders"},
	"threads/search.go": {
		"m.org_id = …": "placeholders, made by arg", "message_words MATCH …": "the same", "t.user_id = … OR …)": "the same",
		"AND (… AND OR t.thread_id IN (…))": "the same, and a statement made there", "t.thread_id IN (… , )": "placeholders",
		"AND (t.created_at, t.thread_id) < (…, …)": "the same", "… ORDER BY t.created_at DESC, t.thread_id DESC LIMIT …": "the statement so far, and a placeholder",
	},
	"threads/words.go": {`"… "* AND ""*`: "words, of letters and digits alone: a parameter, which the index reads"},
}

func TestNoSQLIsBuiltFromValues(t *testing.T) {
	all, err := Statements(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	statements := 0
	for _, s := range all {
		if !s.Built {
			statements++
			continue
		}
		text := strings.Join(strings.Fields(s.Text), " ")
		rest := text
		for place := range built[s.File] {
			if strings.Contains(text, place) {
				used[s.File+place] = true
				rest = strings.ReplaceAll(rest, place, "")
			}
		}
		if strings.Contains(rest, unknown) {
			t.Errorf("%s:%d puts something into SQL that is no constant; make it a parameter, or say here why not: %s", s.File, s.Line, text)
		}
	}
	for file, places := range built {
		for place := range places {
			if !used[file+place] {
				t.Errorf("%s: %s is not there any more", file, place)
			}
		}
	}
	if statements < 100 {
		t.Errorf("only %d constant statements were found: the search sees little", statements)
	}
}

// The search sees what is planted.
func TestStatements(t *testing.T) {
	for code, want := range map[string]bool{
		"const q = `SELECT x FROM t WHERE id = $1`":                                 true,
		"const cols = `a, b`\nconst q = `SELECT ` + cols + ` FROM t`":               true,
		"var q = `SELECT ` + id.Columns + ` FROM t`":                                true,
		"var q = fmt.Sprintf(`SELECT x FROM %s`, table)\nconst table = `t`":         true,
		"var q = `SET ROLE ` + id.Role":                                             true,
		"func f(v string) { q(`SELECT x FROM t WHERE id = '` + v + `'`) }":          false,
		"func f(v string) { q(fmt.Sprintf(`SELECT x FROM t WHERE id = '%s'`, v)) }": false,
		"func f(v string) { q(fmt.Sprint(`DELETE FROM t WHERE id = `, v)) }":        false,
		"func f(v int) { q(fmt.Sprintf(`SELECT x FROM t LIMIT %d`, v)) }":           false,
		"func f(v string) { s := `SELECT x`; s += ` WHERE id = ` + v; q(s) }":       false,
		"func f(b []byte, v string) { fmt.Appendf(b, `UPDATE t SET x = %q`, v) }":   false,
		"func f(v string) { q(strings.ReplaceAll(`SELECT x FROM t`, `t`, v)) }":     false,
		"func f(v []string) { q(strings.Join(v, ` UNION ALL `)) }":                  false,
		"func f(w io.Writer, v string) { fmt.Fprintf(w, `SELECT x FROM %s`, v) }":   false,
		"func f(v string) { q(`SELECT x FROM t WHERE id = ` + string(v)) }":         false,
		"func f(v T) { q(`SELECT x FROM t WHERE id = ` + v.ID) }":                   false,
	} {
		root := t.TempDir()
		write := func(name, text string) {
			t.Helper()
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("room/a.go", "package room\n"+code+"\n")
		write("room/a_test.go", "package room\nvar q = `DELETE FROM t WHERE id = ` + v\n")
		write("id/a.go", "package id\nconst (\nColumns = `a`\nRole string = `r`\n)\n")
		all, err := Statements(root)
		if err != nil {
			t.Fatal(err)
		}
		constant := true
		for _, s := range all {
			constant = constant && !s.Built
			if s.File != "room/a.go" {
				t.Errorf("%s: found in %s", code, s.File)
			}
		}
		if len(all) == 0 || constant != want {
			t.Errorf("%s: constant is %v, want %v: %+v", code, constant, want, all)
		}
	}
}
