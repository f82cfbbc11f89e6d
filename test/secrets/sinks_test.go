package secrets

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/db"
	"threadhub/test/rig"
)

// answerSink is all of an answer that the client sees.
func answerSink(name string, r *rig.Reply) sink {
	var b strings.Builder
	_ = r.Header.Write(&b)
	return sink{"answer to " + name, append([]byte(b.String()+"\n"), r.Body...)}
}

// pageSinks are the pages of the operator's listener.
func pageSinks(t *testing.T, operator string) (sinks []sink) {
	t.Helper()
	for _, page := range []string{"/metrics", "/health/live", "/health/ready", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/cmdline"} {
		resp, err := http.Get(operator + page)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		var head strings.Builder
		_ = resp.Header.Write(&head)
		sinks = append(sinks, sink{"operator " + page, append([]byte(head.String()), body...)})
	}
	http.DefaultClient.CloseIdleConnections()
	return sinks
}

// fileSinks are all files below a folder.
func fileSinks(t *testing.T, dir string) (sinks []sink) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		sinks = append(sinks, sink{"file " + filepath.Base(path), b})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sinks
}

// processSinks are what the kernel shows of a process to others. Its environment holds the encryption key, as the
// operator wanted.
func processSinks(t *testing.T, pid int) (sinks []sink) {
	t.Helper()
	for _, file := range []string{"cmdline", "environ", "comm", "status"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			t.Fatal(err)
		}
		sinks = append(sinks, sink{"process " + file, b})
	}
	return sinks
}

// tableSinks are all rows of all tables of the store, whoever's they are, one sink a table.
func tableSinks(t *testing.T, url string) []sink {
	t.Helper()
	tables := map[string]string{}
	put := func(table, row string) { tables[table] += row + "\n" + decoded(row) }
	var err error
	if path, embedded := strings.CutPrefix(url, "sqlite://"); embedded {
		err = readSQLite(t.Context(), path, put)
	} else {
		err = readPostgres(t.Context(), url, put)
	}
	if err != nil {
		t.Fatal(err)
	}
	var sinks []sink
	for name, rows := range tables {
		sinks = append(sinks, sink{"table " + name, []byte(rows)})
	}
	if len(sinks) < 8 {
		t.Fatalf("only %d tables have rows", len(sinks))
	}
	return sinks
}

// readPostgres gives put every row as text, its columns one a line.
func readPostgres(ctx context.Context, url string, put func(table, row string)) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	columns := map[string][]string{}
	rows, err := conn.Query(ctx, `SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()`)
	if err != nil {
		return err
	}
	var table, column string
	_, err = pgx.ForEachRow(rows, []any{&table, &column}, func() error {
		columns[table] = append(columns[table], pgx.Identifier{column}.Sanitize()+"::text")
		return nil
	})
	if err != nil {
		return err
	}
	for table, list := range columns {
		rows, err := conn.Query(ctx, `SELECT concat_ws(E'\n', `+strings.Join(list, ", ")+`) FROM `+pgx.Identifier{table}.Sanitize())
		if err != nil {
			return err
		}
		var text string
		if _, err = pgx.ForEachRow(rows, []any{&text}, func() error { put(table, text); return nil }); err != nil {
			return fmt.Errorf("%s: %w", table, err)
		}
	}
	return nil
}

// readSQLite does the same.
func readSQLite(ctx context.Context, path string, put func(table, row string)) error {
	db.RegisterFunctions()
	file, err := sql.Open("sqlite", db.SQLiteDSN(path, true))
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	columns := map[string][]string{}
	var table, column, text string
	err = each(ctx, file, `SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'`, func() {
		columns[table] = append(columns[table], `quote("`+column+`")`)
	}, &table, &column)
	if err != nil {
		return err
	}
	for table, list := range columns {
		err := each(ctx, file, `SELECT `+strings.Join(list, " || char(10) || ")+` FROM "`+table+`"`, func() { put(table, text) }, &text)
		if err != nil {
			return fmt.Errorf("%s: %w", table, err)
		}
	}
	return nil
}

// each runs f after every row of a query has been scanned into to.
func each(ctx context.Context, file *sql.DB, query string, f func(), to ...any) error {
	rows, err := file.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := rows.Scan(to...); err != nil {
			return err
		}
		f()
	}
	return rows.Err()
}

// bytesAsText are columns of bytes as the stores print them: \xcafe, X'CAFE'.
var bytesAsText = regexp.MustCompile(`(?:\\x|X')([0-9a-fA-F]+)`)

// decoded returns what is in the columns of bytes of a row.
func decoded(row string) (out string) {
	for _, m := range bytesAsText.FindAllStringSubmatch(row, -1) {
		if b, err := hex.DecodeString(m[1]); err == nil {
			out += string(b) + "\n"
		}
	}
	return out
}
