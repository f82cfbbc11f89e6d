package tenancy

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/layout"
	"threadhub/internal/testkit"
	"threadhub/migrations"
	"threadhub/test/rig"
)

//go:embed testdata/injections.txt
var injectionsFile string

// injections are texts that would mean something to a database that read them as SQL.
func injections(t *testing.T) (all []string) {
	t.Helper()
	for line := range strings.Lines(injectionsFile) {
		if line = strings.TrimSuffix(line, "\n"); strings.HasPrefix(line, "#") {
			continue
		}
		var text string
		if err := json.Unmarshal([]byte(line), &text); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all = append(all, text)
	}
	if len(all) < 120 {
		t.Fatalf("only %d injections", len(all))
	}
	return all
}

// harmless texts take the same ways.
var harmless = []string{
	"plain", "two words", "x", "5", "0", "-1", "1.5", "true", "null", "a.b:c-d_e", "ünï cödé 你好", "a,b", "foo bar baz", "2026-01-31T12:00:00Z",
	"openai/sim-1", "user@example.com", "a\nb", "a\u0000b", strings.Repeat("long ", 300), strings.Repeat("9", 400), "%", "{}", "[]", "*",
}

// input is a place in a request where somebody can write what he likes.
type input struct {
	name string
	ask  func(text string) (method, path, key, body string, header []string)
}

// bodies hold more members than the table's own, of which each is written to in turn.
var bodies = map[string]string{
	"POST /v1/chat/completions": `{"model":"openai/sim-1","thread_id":"t","metadata":{"thread_id":"t","note":"n"},"user":"u","stop":["s"],"temperature":1,
		"messages":[{"role":"system","content":"be brief"},{"role":"user","name":"n","content":"hi"},
			{"role":"assistant","content":"hello","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},
			{"role":"tool","tool_call_id":"c","content":"r"},{"role":"user","content":[{"type":"text","text":"hi"}]}],
		"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}]}`,
	"POST /v1/embeddings":             `{"model":"openai/sim-1","input":["one","two"],"encoding_format":"float","user":"u","thread_id":"t","metadata":{"thread_id":"t","note":"n"}}`,
	"POST /api/threads":               `{"title":"t","description":"d","visibility":"org","org_id":"o"}`,
	"POST /api/threads/{id}/messages": `{"content":"c","role":"user","org_id":"o"}`,
}

// queries are the parameters of URLs.
var queries = []string{"org_id", "cursor", "limit", "q"}

// headers that are read, forwarded, or that others read.
var headers = []string{
	"X-Thread-Id", "X-Thread-On-Diverge", "Idempotency-Key", "X-Request-Id", "X-Client-Request-Id", "Last-Event-Id", "User-Agent", "Accept", "Cookie", "Referer",
	"X-Forwarded-For", "X-Forwarded-Host", "Openai-Organization", "X-Stainless-Retry-Count", "Content-Type", "Content-Encoding", "Authorization", "X-Api-Key", "Api-Key",
}

// inputs are all places of all routes.
func inputs(t *testing.T, o *tenant) (all []input) {
	t.Helper()
	key := o.keys["admin"]
	for _, route := range sortedRoutes() {
		method, pattern, _ := strings.Cut(route, " ")
		thing := "own"
		if !slices.Contains(routes[route].things, thing) {
			thing = "any"
		}
		a := cell{route, thing, "admin"}.ask(t, o)
		path, query, _ := strings.Cut(a.path, "?")
		for i, segment := range strings.Split(pattern, "/") {
			if strings.HasPrefix(segment, "{") {
				all = append(all, input{route + ", path " + segment, func(text string) (string, string, string, string, []string) {
					segments := strings.Split(path, "/")
					if strings.HasSuffix(segment, "...}") {
						segments = segments[:i+1]
					}
					segments[i] = url.PathEscape(text)
					return method, strings.Join(segments, "/") + "?" + query, key, a.body, a.header
				}})
			}
		}
		for _, name := range queries {
			if method == "GET" || name == "org_id" { // another would change nothing but what is done
				all = append(all, input{route + ", query " + name, func(text string) (string, string, string, string, []string) {
					return method, path + "?" + name + "=" + url.QueryEscape(text), key, a.body, a.header
				}})
			}
		}
		if method == "GET" {
			all = append(all, input{route + ", query itself", func(text string) (string, string, string, string, []string) {
				return method, path + "?" + url.QueryEscape(text) + "=" + url.QueryEscape(text), key, "", nil
			}})
		}
		body := a.body
		if more, ok := bodies[route]; ok {
			body, a.header = more, nil
		}
		if body != "" {
			for at, put := range leaves(t, body) {
				all = append(all, input{route + ", body " + at, func(text string) (string, string, string, string, []string) {
					return method, a.path, key, put(text), a.header
				}})
			}
		}
	}
	for _, name := range headers {
		for _, c := range []cell{{"POST /v1/chat/completions", "own", "admin"}, {"GET /api/threads/{id}", "own", "admin"}} {
			a := c.ask(t, o)
			method, _, _ := strings.Cut(c.route, " ")
			all = append(all, input{c.route + ", header " + name, func(text string) (string, string, string, string, []string) {
				as := key
				switch name {
				case "Authorization":
					text = "Bearer " + text
				case "X-Api-Key", "Api-Key":
					as = ""
				}
				return method, a.path, as, a.body, []string{name, text}
			}})
		}
	}
	return all
}

// leaves are the places of a JSON text, each with a function that writes to it.
func leaves(t *testing.T, body string) map[string]func(text string) string {
	t.Helper()
	all := map[string]func(string) string{}
	parse := func() (v any) {
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		return v
	}
	var walk func(at []any, v any)
	walk = func(at []any, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, inner := range v {
				walk(append(slices.Clone(at), name), inner)
			}
			all[fmt.Sprint(at)+" name"] = func(text string) string { return write(parse(), append(slices.Clone(at), text), text) }
		case []any:
			for i, inner := range v {
				walk(append(slices.Clone(at), i), inner)
			}
		default:
			all[fmt.Sprint(at)] = func(text string) string { return write(parse(), at, text) }
		}
	}
	walk(nil, parse())
	return all
}

// write is v, as JSON, with text at the place at.
func write(v any, at []any, text string) string {
	in := v
	for _, step := range at[:len(at)-1] {
		switch step := step.(type) {
		case string:
			in = in.(map[string]any)[step]
		case int:
			in = in.([]any)[step]
		}
	}
	switch last := at[len(at)-1].(type) {
	case string:
		in.(map[string]any)[last] = text
	case int:
		in.([]any)[last] = text
	}
	b, _ := json.Marshal(v)
	return string(b)
}

// writeAll writes one in every texts to each place, and each text somewhere. No answer may be a failure of ours.
func (w *world) writeAll(t *testing.T, places []input, texts []string, every int) (sent int) {
	t.Helper()
	type job struct {
		in   input
		text string
	}
	jobs := make(chan job)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for j := range jobs {
				method, path, key, body, header := j.in.ask(j.text)
				if strings.ContainsFunc(strings.Join(header, ""), func(r rune) bool { return r < ' ' || r > '~' }) {
					continue // no header may hold it
				}
				r, err := w.Do(t.Context(), method, strings.TrimSuffix(path, "?"), key, body, header...)
				switch {
				case err != nil:
					t.Errorf("%s = %.80q: %v", j.in.name, j.text, err)
				case r.Status >= 500 && r.Status != http.StatusBadGateway: // a provider may not like it
					t.Errorf("%s = %.80q: %d %s", j.in.name, j.text, r.Status, r.Body)
				case r.Status >= 400:
					errorObject(t, fmt.Sprintf("%s = %.80q", j.in.name, j.text), r)
				}
			}
		})
	}
	for p, in := range places {
		for i := p % every; i < len(texts); i += every {
			jobs <- job{in, texts[i]}
			sent++
		}
	}
	close(jobs)
	wg.Wait()
	return sent
}

// oneIn says how many injections are written to each place: one in so many, and all of them in a long run.
func oneIn() int {
	if os.Getenv("THREADHUB_SOAK") != "" {
		return 1
	}
	return 3
}

// patient is a gateway that a busy machine makes wait for its store, and not fail.
const patient = "THREADHUB_TIMEOUTS__DATABASE=1m"

// What clients write is data, wherever they write it: nothing of it fails in the store, is read as SQL, or comes back
// other than it was.
func TestWhatClientsWriteIsNeverSQL(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, rig.Stores["sqlite"](t), patient)
		w.writeAll(t, inputs(t, w.orgs[0]), injections(t), oneIn())
		w.comesBack(t, injections(t))
		w.loggedNoFailure(t)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		pg := testkit.StartFor(t, testkit.Options{NoRedis: true, Postgres: []string{"shared_preload_libraries=pg_stat_statements", "pg_stat_statements.max=10000"}}).Postgres
		if err := migrations.Up(t.Context(), pg.URL(), migrations.Options{}); err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, pg.URL(), patient)
		places := inputs(t, w.orgs[0])
		before := w.rows(t)
		w.writeAll(t, places, harmless, 1)
		w.comesBack(t, harmless)
		known := shapes(t, pg.URL())
		sent := w.writeAll(t, places, injections(t), oneIn())
		w.comesBack(t, injections(t))
		ours := source(t) // some statements come once a minute, or once in a while
		for _, query := range known {
			ours[shape(query)] = true
		}
		for id, query := range shapes(t, pg.URL()) {
			if _, ok := known[id]; !ok && !ours[shape(query)] {
				t.Errorf("after %d injections the store has seen a statement that it had not seen before, and that is not in the source: %s", sent, query)
			}
		}
		if len(known) < 20 {
			t.Errorf("only %d statements are known: the comparison sees nothing", len(known))
		}
		if changes := before[1].changes(w.rows(t)[1]); changes != "" {
			t.Errorf("injections by one org changed rows of the other:\n%s", changes)
		}
		w.loggedNoFailure(t)
		for line := range strings.Lines(pg.Log()) {
			if _, failure, found := strings.Cut(line, "ERROR:"); found && !strings.Contains(failure, "canceling statement due to") {
				t.Errorf("the store failed: %s", failure)
			}
		}
	})
}

// shapes are the statements the gateway's roles have run, by the id of their shape: the same but for constants.
func shapes(t *testing.T, url string) map[int64]string {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(t.Context()) }()
	if _, err := c.Exec(t.Context(), `CREATE EXTENSION IF NOT EXISTS pg_stat_statements`); err != nil {
		t.Fatal(err)
	}
	rows, err := c.Query(t.Context(), `SELECT queryid, query FROM pg_stat_statements JOIN pg_roles ON oid = userid WHERE rolname LIKE 'threadhub%'`)
	if err != nil {
		t.Fatal(err)
	}
	all := map[int64]string{}
	var id int64
	var query string
	if _, err := pgx.ForEachRow(rows, []any{&id, &query}, func() error { all[id] = query; return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// source are the shapes of the statements that stand in the gateway's source.
func source(t *testing.T) map[string]bool {
	t.Helper()
	found, err := layout.Statements(rig.Root(t))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, s := range found {
		if !s.Built {
			all[shape(s.Text)] = true
		}
	}
	if !all[shape("SELECT org_id, hash FROM api_keys WHERE key_id = $7")] {
		t.Fatal("the source's statements are not found")
	}
	return all
}

var (
	constants = regexp.MustCompile(`\$\d+|'[^']*'|\b\d+(\.\d+)?\b|\b(?i:true|false|null)\b`)
	several   = regexp.MustCompile(`\?(, \?)+`)                // of a list
	words     = regexp.MustCompile(`(t\.words LIKE \? AND )+`) // of a search
)

// shape is a statement without its constants and parameters, and without how many there are where there may be many.
func shape(query string) string {
	query = strings.Join(strings.Fields(constants.ReplaceAllString(query, "?")), " ")
	return words.ReplaceAllString(several.ReplaceAllString(query, "?"), "")
}

// comesBack stores each text in all ways there are, and reads it.
func (w *world) comesBack(t *testing.T, texts []string) {
	t.Helper()
	o := w.orgs[0]
	key := o.keys["admin"]
	kept := 0
	for n, text := range texts {
		r, err := w.Do(t.Context(), "POST", "/api/threads", key, map[string]string{"title": text, "description": text})
		if err != nil {
			t.Fatal(err)
		}
		titled := r.Status == 201
		if !titled { // too long for a title, or with a NUL, which neither store keeps
			r = w.Must(t, 201, "POST", "/api/threads", key, map[string]string{})
		}
		var thread struct {
			ID string `json:"thread_id"`
		}
		if err := r.JSON(&thread); err != nil {
			t.Fatal(err)
		}
		w.Must(t, 201, "POST", "/api/threads/"+thread.ID+"/messages", key, map[string]string{"content": text})
		w.Must(t, 200, "POST", "/v1/chat/completions", key, map[string]any{
			"model": "openai/sim-1", "messages": []map[string]any{{"role": "user", "content": "then: " + text, "name": text}},
		}, "X-Thread-Id", thread.ID)
		var got struct {
			Title, Description string
			Messages           []struct{ Content, Name any }
		}
		r = w.Must(t, 200, "GET", "/api/threads/"+thread.ID, key, nil)
		if err := r.JSON(&got); err != nil {
			t.Fatal(err)
		}
		if titled && (got.Title != text || got.Description != text) {
			t.Errorf("%d: title and description %.80q came back as %.80q and %.80q", n, text, got.Title, got.Description)
		}
		if len(got.Messages) != 3 || got.Messages[0].Content != any(text) || got.Messages[1].Content != any("then: "+text) || got.Messages[1].Name != any(text) {
			t.Errorf("%d: the messages %.80q came back as %.300s", n, text, r.Body)
		}
		if titled {
			kept++
		}
	}
	if kept < len(texts)*3/4 {
		t.Errorf("of %d texts only %d could be a title", len(texts), kept)
	}
}

// loggedNoFailure looks for errors in the gateway's log.
func (w *world) loggedNoFailure(t *testing.T) {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(w.house.Log.String()))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		for _, bad := range []string{`"level":"ERROR"`, "SQLSTATE", "syntax error", "SQL logic error", "unrecognized token"} {
			if strings.Contains(line, bad) {
				t.Errorf("the log tells of %s: %.500s", bad, line)
			}
		}
	}
}
