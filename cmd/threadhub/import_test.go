package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"threadhub/internal/testkit"
)

// settled is a running server with an org that has a key at a provider nobody will ask.
type settled struct {
	*running
	env       []string
	root, org string
	key       string
}

func settle(t *testing.T, env []string) *settled {
	t.Helper()
	s := &settled{running: start(t, env, "serve"), env: env}
	code, out, errs := run(t, env, "seed", "--org", "acme", "--user", "ann@example.com", "--role", "admin", "--json")
	if code != exitOK {
		t.Fatalf("seed: %d %s", code, errs)
	}
	var seeded map[string]string
	if err := json.Unmarshal([]byte(out), &seeded); err != nil {
		t.Fatal(err)
	}
	s.root, s.org, s.key = strings.TrimSuffix(s.ready["base_url"], "/v1"), seeded["org_id"], seeded["api_key"]
	return s
}

func (s *settled) ask(method, path, body string) (int, string) {
	s.t.Helper()
	return ask(s.t, method, s.root+path, s.key, "", body)
}

// takes imports text and returns the line of JSON.
func (s *settled) takes(text string, more ...string) (code int, line, errs string) {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "in")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	args := append([]string{"import", "--org", s.org, "--user", "ann@example.com", "--file", file, "--json"}, more...)
	code, line, errs = run(s.t, s.env, args...)
	return code, strings.TrimSpace(line), errs
}

func eachServer(t *testing.T, f func(t *testing.T, s *settled), more ...string) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) { f(t, settle(t, append(open(t), more...))) })
	}
}

// What a thread's export says makes an equal thread elsewhere, beside a running server, and only once.
func TestImportOfAnExport(t *testing.T) {
	eachServer(t, func(t *testing.T, s *settled) {
		const text = `{"thread_id":"one","title":"Weather","role":"system","content":"be kind"}
{"thread_id":"one","role":"user","content":[{"type":"text","text":"Is it raining?"},{"type":"image_url","image_url":{"url":"https://x.test/sky.png"}}],"created_at":"2026-01-02T03:04:05Z"}
{"thread_id":"one","role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"look","arguments":"{\"at\": \"sky\"}"}}],"provider":"openai","model_served":"gpt-x","cost_usd":"0.5"}
{"thread_id":"two","role":"user","content":"unicorn"}
{"thread_id":"one","role":"tool","tool_call_id":"call_1","content":"rain"}
{"thread_id":"one","role":"assistant","content":"Ye","status":"incomplete","incomplete_reason":"client_closed"}
`
		code, line, errs := s.takes(text)
		if code != exitOK || line != `{"threads":2,"messages":6,"skipped":0,"warnings":0,"failed":0}` {
			t.Fatalf("%d %s %s", code, line, errs)
		}
		if code, line, errs = s.takes(text); code != exitOK || line != `{"threads":0,"messages":0,"skipped":2,"warnings":0,"failed":0}` {
			t.Errorf("once more: %d %s %s", code, line, errs)
		}
		_, body := s.ask("GET", "/api/threads/one", "")
		for _, want := range []string{`"title":"Weather"`, `"created_at":"2026-01-02T03:04:05Z"`, `"cost_usd":"0.5"`, `"incomplete_reason":"client_closed"`, `"visibility":"org"`} {
			if !strings.Contains(body, want) {
				t.Errorf("the thread lacks %s: %s", want, body)
			}
		}
		if status, body := s.ask("GET", "/api/threads?q=UNI", ""); status != 200 || !strings.Contains(body, `"id":"two"`) || strings.Contains(body, `"one"`) {
			t.Errorf("a search: %d %s", status, body)
		}
		// It goes on like any other.
		if status, body := s.ask("POST", "/api/threads/one/messages", `{"content":"and now?"}`); status != 201 || !strings.Contains(body, `"sequence":5`) {
			t.Errorf("a further message: %d %s", status, body)
		}

		_, exported := s.ask("GET", "/api/threads/one/export", "")
		code, line, errs = s.takes(strings.ReplaceAll(exported, `"thread_id":"one"`, `"thread_id":"copy"`))
		if code != exitOK || line != `{"threads":1,"messages":6,"skipped":0,"warnings":0,"failed":0}` {
			t.Fatalf("the export: %d %s %s", code, line, errs)
		}
		_, copied := s.ask("GET", "/api/threads/copy/export", "")
		if want, got := comparable(t, exported), comparable(t, copied); want != got {
			t.Errorf("the copy of\n%s\nis\n%s", want, got)
		}
	})
}

// comparable is an export without what names its thread and its messages.
func comparable(t *testing.T, export string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(export) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		delete(m, "thread_id")
		delete(m, "message_id")
		fmt.Fprintln(&b, m)
	}
	return b.String()
}

func TestImportOfAssistants(t *testing.T) {
	eachServer(t, func(t *testing.T, s *settled) {
		code, line, errs := s.takes(`{"object":"list","data":[
 {"object":"thread.message","thread_id":"thread_a","created_at":1767323050,"role":"assistant","content":[{"type":"text","text":{"value":"Hello.","annotations":[]}},{"type":"image_file","image_file":{"file_id":"file-1"}}]},
 {"object":"thread.message","thread_id":"thread_a","created_at":1767323045,"role":"user","content":[{"type":"text","text":{"value":"Hi","annotations":[]}}],"metadata":{"title":"Greeting"}}
]}`, "--format", "assistants")
		if code != exitOK || line != `{"threads":1,"messages":2,"skipped":0,"warnings":1,"failed":0}` {
			t.Fatalf("%d %s %s", code, line, errs)
		}
		_, body := s.ask("GET", "/api/threads/thread_a", "")
		if !strings.Contains(body, `"title":"Greeting"`) || strings.Index(body, `"Hi"`) > strings.Index(body, `"Hello."`) || !strings.Contains(body, "[image_file file-1]") {
			t.Errorf("%s", body)
		}
	})
}

// A bad line is named, and stops its thread only. What is said in it is not repeated.
func TestImportOfBadLines(t *testing.T) {
	eachServer(t, func(t *testing.T, s *settled) {
		code, line, errs := s.takes(`{"thread_id":"bad","role":"user","content":"fine"}
{"thread_id":"good","role":"user","content":"fine"}
{"thread_id":"bad","role":"secret-role","content":"secret-text"}
{"thread_id":"nul","title":"a\u0000b","role":"user","content":"x\u0000y"}`)
		if code != exitError || line != `{"threads":2,"messages":2,"skipped":0,"warnings":0,"failed":1}` || !strings.Contains(errs, "line 3 has a role") || strings.Contains(errs, "secret") {
			t.Errorf("%d %s %s", code, line, errs)
		}
		for thread, want := range map[string]int{"bad": 404, "good": 200, "nul": 200} {
			if status, body := s.ask("GET", "/api/threads/"+thread, ""); status != want {
				t.Errorf("%s: %d %s", thread, status, body)
			}
		}
		// A deleted thread's name is taken.
		s.ask("DELETE", "/api/threads/good", "")
		if code, line, errs := s.takes(`{"thread_id":"good","role":"user","content":"fine"}`); code != exitOK || !strings.Contains(line, `"skipped":1`) {
			t.Errorf("a deleted thread: %d %s %s", code, line, errs)
		}
		for _, args := range [][]string{{"--org", "org_other", "--json"}, {"--user", "bob@example.com"}, {"--file", "missing"}, {"--format", "csv"}, {"--visibility", "public"}} {
			if code, _, errs := s.takes("", args...); code == exitOK || errs == "" {
				t.Errorf("%v: %d %s", args, code, errs)
			}
		}
	})
}

// Who sees the threads is said for all of a file: the org, or their user and the admins.
func TestImportOfPrivateThreads(t *testing.T) {
	eachServer(t, func(t *testing.T, s *settled) {
		_, out, _ := run(t, s.env, "seed", "--org", "acme", "--user", "bob@example.com", "--role", "member", "--json")
		var bob map[string]string
		if err := json.Unmarshal([]byte(out), &bob); err != nil {
			t.Fatal(err)
		}
		for visibility, status := range map[string]int{"private": 404, "org": 200, "": 200} {
			thread := "for-" + visibility
			args := []string{"--visibility", visibility}
			if visibility == "" {
				args = nil
			}
			if code, line, errs := s.takes(`{"thread_id":"`+thread+`","role":"user","content":"x"}`, args...); code != exitOK || !strings.Contains(line, `"threads":1`) {
				t.Fatalf("%s: %d %s %s", thread, code, line, errs)
			}
			if got, body := s.ask("GET", "/api/threads/"+thread, ""); got != 200 || !strings.Contains(body, `"visibility":"`+cmp.Or(visibility, "org")+`"`) {
				t.Errorf("%s, to its user: %d %s", thread, got, body)
			}
			if got, body := ask(t, "GET", s.root+"/api/threads/"+thread, bob["api_key"], "", ""); got != status {
				t.Errorf("%s, to somebody else: %d %s", thread, got, body)
			}
		}
	})
}

// The standard input is read, and people are given a table.
func TestImportOfTheStandardInput(t *testing.T) {
	eachServer(t, func(t *testing.T, s *settled) {
		var out, errs bytes.Buffer
		p := &program{stdin: strings.NewReader(`{"role":"user","content":"x"}`), stdout: &out, stderr: &errs, environ: s.env}
		code := p.run(t.Context(), []string{"import", "--org", s.org, "--user", "ann@example.com", "--file", "-"})
		if code != exitOK || !strings.Contains(out.String(), "threads   1\nmessages  1\n") {
			t.Errorf("%d %s%s", code, &out, &errs)
		}
	})
}

// What is deleted is cleared away while the server runs, and its name is free.
func TestDeletedThreadsAreClearedAway(t *testing.T) {
	eachServer(t, func(t *testing.T, s *settled) {
		s.takes(`{"thread_id":"gone","role":"user","content":"x"}`)
		if status, body := s.ask("DELETE", "/api/threads/gone", ""); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		testkit.Eventually(t, time.Minute, func() bool { return strings.Contains(s.log.String(), "deleted threads were cleared away") }, "the janitor to come")
		if _, line, errs := s.takes(`{"thread_id":"gone","role":"user","content":"x"}`); !strings.Contains(line, `"threads":1`) {
			t.Errorf("%s %s", line, errs)
		}
		if code := s.stop(); code != exitOK {
			t.Errorf("exit status %d:\n%s", code, s.log)
		}
	}, "THREADHUB_THREADS__KEEP_DELETED=1ms")
}
