package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/orgs"
	"threadhub/threads"
)

// newThread makes a thread as the admin, with members of the body.
func (h *house) newThread(members string) id.Thread {
	h.t.Helper()
	r := h.do("POST", "/api/threads/", "{"+members+"}").want(h.t, 201)
	return id.Thread(r.json(h.t)["thread_id"].(string))
}

// as sends as another user of the admin's org.
func (h *house) as(email string, role orgs.Role) (auth []string) {
	h.t.Helper()
	return []string{"Authorization", "Bearer " + h.seed("house", email, role).APIKey.Reveal()}
}

func (h *house) add(thread id.Thread, text string) {
	h.t.Helper()
	content, _ := json.Marshal(text)
	h.do("POST", "/api/threads/"+string(thread)+"/messages", `{"content":`+string(content)+`}`).want(h.t, 201)
}

func TestChangeThread(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		mate := h.as("mate@house.test", orgs.Member)
		thread := h.newThread(`"title":"old","description":"d"`)
		path := "/api/threads/" + string(thread)
		got := h.do("PATCH", path, `{"title":"new","window_policy":"refuse"}`, mate...).want(t, 200).json(t)
		if got["title"] != "new" || got["description"] != "d" || got["window_policy"] != "refuse" || got["forked_from"] != nil || got["id"] != string(thread) {
			t.Errorf("a mate's change: %v", got)
		}
		if _, has := got["messages"]; has {
			t.Error("the answer has messages")
		}
		if _, has := got["forked_from"]; !has {
			t.Error("the answer does not say that it is no fork")
		}
		if r := h.do("PATCH", path, `{"visibility":"private"}`, mate...).want(t, 403); r.code() != "permission_denied" {
			t.Errorf("%s", r.body)
		}
		got = h.do("PATCH", path, `{"visibility":"private","title":null,"window_policy":null}`).want(t, 200).json(t)
		if got["visibility"] != "private" || got["title"] != "" || got["window_policy"] != nil {
			t.Errorf("the user's change: %v", got)
		}
		h.do("PATCH", path, `{"title":"x"}`, mate...).want(t, 404)
		if got = h.do("GET", path, "").want(t, 200).json(t); got["title"] != "" || got["window_policy"] != nil {
			t.Errorf("read back: %v", got)
		}
		h.do("PATCH", path, "").want(t, 200) // nothing shall be different
		if got = h.do("PATCH", path, `{"title":"mine","org_id":"`+string(h.admin.Org)+`"}`).want(t, 200).json(t); got["title"] != "mine" {
			t.Errorf("with the org named: %v", got)
		}
		h.do("PATCH", path, `{"title":"theirs","org_id":"org_other"}`).want(t, 404)
		if got = h.do("GET", path, "").want(t, 200).json(t); got["title"] != "mine" {
			t.Errorf("with a foreign org named: %v", got)
		}
	})
}

// Whoever sees a thread is told whose it is, wherever a thread is shown.
func TestAThreadSaysWhoseItIs(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		bob, key := h.person("bob@house.test", orgs.Member)
		thread := h.made("/api/threads", "", as(key)...)["thread_id"].(string)
		path := "/api/threads/" + thread
		list := h.do("GET", "/api/threads", "").want(t, 200).json(t)["data"].([]any)
		for how, shown := range map[string]any{
			"read": h.do("GET", path, "").want(t, 200).json(t), "changed": h.do("PATCH", path, `{"title":"x"}`).want(t, 200).json(t), "listed": list[0],
		} {
			if got := shown.(map[string]any); got["id"] != thread || got["user_id"] != bob {
				t.Errorf("%s: %v", how, got)
			}
		}
	})
}

func TestDeletedThreadsAreGone(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		thread := h.newThread(`"title":"findme"`)
		path := "/api/threads/" + string(thread)
		call := h.chat("hello findme", "", "X-Thread-Id", string(thread)).want(t, 200).header.Get("X-Request-Id")
		h.do("GET", "/v1/requests/"+call, "").want(t, 200)
		mate := h.as("mate@house.test", orgs.Member)
		h.do("DELETE", path, "", mate...).want(t, 403)
		h.do("DELETE", path, "", h.as("viewer@house.test", orgs.Viewer)...).want(t, 403)
		if got := h.do("DELETE", path, "").want(t, 200).json(t); got["id"] != string(thread) || got["deleted"] != true {
			t.Errorf("%v", got)
		}
		gone := func() {
			t.Helper()
			absent := h.do("GET", "/api/threads/absent", "").body
			for _, ask := range []string{
				"GET " + path, "GET " + path + "?limit=5", "GET " + path + "/export", "PATCH " + path, "DELETE " + path,
				"POST " + path + "/messages", "GET /v1/requests/" + call,
			} {
				method, path, _ := strings.Cut(ask, " ")
				body := map[string]string{"POST": `{"content":"x"}`, "PATCH": `{"title":"x"}`}[method]
				if r := h.do(method, path, body).want(t, 404); !strings.HasPrefix(path, "/v1") && !bytes.Equal(r.body, absent) {
					t.Errorf("%s: %s", ask, r.body)
				}
			}
			for _, path := range []string{"/api/threads", "/api/threads?q=findme"} {
				if r := h.do("GET", path, "").want(t, 200); strings.Contains(string(r.body), string(thread)) {
					t.Errorf("%s: %s", path, r.body)
				}
			}
		}
		gone()
		h.chat("again", "", "X-Thread-Id", string(thread)).want(t, 404)
		n, err := (&threads.Janitor{Threads: h.threads, Orgs: h.orgs.All, Log: h.opts.Log}).Clear(t.Context())
		if n != 1 || err != nil {
			t.Fatalf("cleared %d: %v", n, err)
		}
		gone()
		// Its id is free, and what was its call is not the new thread's.
		h.chat("anew", "", "X-Thread-Id", string(thread)).want(t, 200)
		if got := h.messages(thread); len(got) != 2 || got[0] != "user:anew:complete" {
			t.Errorf("the new thread: %v", got)
		}
	})
}

// A thread is not deleted under the answer that is being made, and nothing is added after.
func TestDeleteWaitsForTheTurn(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		thread := h.newThread("")
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					r := h.chat(fmt.Sprint("turn ", i), `,"stream":true`, "X-Thread-Id", string(thread))
					if r.status == 404 {
						return
					}
					if r.status != 200 || !bytes.HasSuffix(r.body, []byte("data: [DONE]\n\n")) {
						t.Errorf("%d %s", r.status, r.body)
						return
					}
				}
			})
		}
		testkit.Eventually(t, 10*time.Second, func() bool { return len(h.messages(thread)) >= 4 })
		h.do("DELETE", "/api/threads/"+string(thread), "").want(t, 200)
		wg.Wait()
	})
}

func TestThreadPages(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		thread := h.newThread("")
		for i := range 5 {
			h.add(thread, fmt.Sprint("m", i))
		}
		for query, want := range map[string]string{
			"":                  "m0 m1 m2 m3 m4 -",
			"?limit=2":          "m0 m1 true",
			"?after=1&limit=2":  "m2 m3 true",
			"?after=3&limit=2":  "m4 false",
			"?after=4&limit=2":  "false",
			"?after=99&limit=2": "false",
			"?limit=5":          "m0 m1 m2 m3 m4 false",
			"?after=2":          "m3 m4 -",
			"?after=99":         "-",
		} {
			var got struct {
				Messages []struct{ Content string }
				HasMore  *bool `json:"has_more"`
			}
			r := h.do("GET", "/api/threads/"+string(thread)+query, "").want(t, 200)
			if err := json.Unmarshal(r.body, &got); err != nil {
				t.Fatal(err)
			}
			var words []string
			for _, m := range got.Messages {
				words = append(words, m.Content)
			}
			more := "-"
			if got.HasMore != nil {
				more = fmt.Sprint(*got.HasMore)
			}
			if s := strings.Join(append(words, more), " "); s != want {
				t.Errorf("%s: %s, want %s", query, s, want)
			}
		}
	})
}

func TestSearchThreads(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		mate := h.as("mate@house.test", orgs.Member)
		var all []string
		for i := range 5 {
			thread := h.newThread(fmt.Sprintf(`"title":"t%d"`, i))
			h.chat("the quick brown fox", "", "X-Thread-Id", string(thread)).want(t, 200)
			all = append([]string{string(thread)}, all...)
		}
		hidden := h.newThread(`"title":"quick","visibility":"private"`)
		type page struct {
			Data []struct{ ID string }
			Next *string `json:"next_cursor"`
		}
		search := func(query string, auth ...string) (p page) {
			t.Helper()
			if err := json.Unmarshal(h.do("GET", "/api/threads?"+query, "", auth...).want(t, 200).body, &p); err != nil {
				t.Fatal(err)
			}
			return p
		}
		var got []string
		for query := "q=BROWN+qui&limit=2"; ; {
			p := search(query, mate...)
			for _, th := range p.Data {
				got = append(got, th.ID)
			}
			if p.Next == nil {
				break
			}
			query = "q=BROWN+qui&limit=2&cursor=" + *p.Next
		}
		if fmt.Sprint(got) != fmt.Sprint(all) {
			t.Errorf("found %v, want %v", got, all)
		}
		if p := search("q=quick", mate...); len(p.Data) != 5 {
			t.Errorf("a mate finds %v", p.Data)
		}
		if p := search("q=quick"); len(p.Data) != 6 || p.Data[0].ID != string(hidden) {
			t.Errorf("its user finds %v", p.Data)
		}
		other := h.seed("elsewhere", "x@elsewhere.test", orgs.Admin)
		if p := search("q=quick", "Authorization", "Bearer "+other.APIKey.Reveal()); len(p.Data) != 0 {
			t.Errorf("another org finds %v", p.Data)
		}
		for _, q := range []string{"a'b", `a"b\`, "a:*&b|!c", "NEAR(a b) OR c", "a\x00b", "a\xff%", strings.Repeat("a", 8000), "漢字"} {
			search("q=" + url.QueryEscape(q))
		}
		if r := h.do("GET", "/api/threads?q="+strings.Repeat("a", 10<<10), ""); r.status != 431 {
			t.Errorf("a q larger than any head: %d %s", r.status, r.body)
		}
	})
}

func TestExport(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		thread := h.newThread(`"title":"A *title*"`)
		path := "/api/threads/" + string(thread)
		h.chat("hello", "", "X-Thread-Id", string(thread)).want(t, 200)
		h.do("POST", path+"/messages", `{"content": [ {"type":"text",`+"\n"+`"text":"two\nlines"} ]}`).want(t, 201)
		r := h.do("GET", path+"/export", "").want(t, 200)
		if got := r.header.Get("Content-Type"); got != "application/x-ndjson" {
			t.Errorf("its type is %q", got)
		}
		if got := r.header.Get("Content-Disposition"); got != `attachment; filename="threadhub-`+string(thread)+`.jsonl"` {
			t.Errorf("it is called %q", got)
		}
		var shown struct{ Messages []map[string]any }
		if err := json.Unmarshal(h.do("GET", path, "").want(t, 200).body, &shown); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(string(r.body), "\n"), "\n")
		if len(lines) != 3 {
			t.Fatalf("%d lines: %s", len(lines), r.body)
		}
		for i, line := range lines {
			shown.Messages[i]["thread_id"] = string(thread)
			var got map[string]any
			if err := json.Unmarshal([]byte(line), &got); err != nil || fmt.Sprint(got) != fmt.Sprint(shown.Messages[i]) {
				t.Errorf("line %d is %s (%v), want %v", i, line, err, shown.Messages[i])
			}
		}
		r = h.do("GET", path+"/export?format=markdown", "").want(t, 200)
		for _, want := range []string{`# A \*title\*`, "\n## 0. user · ", "\n> hello\n", "\n## 1. assistant · ", " · openai · ", "\n> two\n> lines\n"} {
			if !strings.Contains(string(r.body), want) {
				t.Errorf("it lacks %q:\n%s", want, r.body)
			}
		}
		if got := r.header.Get("Content-Disposition"); !strings.HasSuffix(got, `.md"`) || r.header.Get("Content-Type") != "text/markdown; charset=utf-8" {
			t.Errorf("it is called %q", got)
		}
		if r := h.do("HEAD", path+"/export", "").want(t, 200); len(r.body) != 0 {
			t.Errorf("HEAD has a body: %s", r.body)
		}
		if r := h.do("GET", "/api/threads/"+string(h.newThread(""))+"/export", "").want(t, 200); len(r.body) != 0 {
			t.Errorf("an empty thread is %q", r.body)
		}
	})
}

// A long thread is read as it is sent: a client that has taken its beginning sees what becomes of the rest.
func TestLongExport(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		const n = 2500
		thread := id.Thread("a:long.thread")
		h.fill(thread, n)
		path := "/api/threads/" + string(thread)
		r := h.do("GET", path+"/export", "").want(t, 200)
		seq := 0
		for scan := bufio.NewScanner(bytes.NewReader(r.body)); scan.Scan(); seq++ {
			var m struct{ Sequence int }
			if err := json.Unmarshal(scan.Bytes(), &m); err != nil || m.Sequence != seq {
				t.Fatalf("line %d: %v %s", seq, err, scan.Bytes())
			}
		}
		if seq != n {
			t.Errorf("%d lines", seq)
		}
		if got := r.header.Get("Content-Disposition"); !strings.Contains(got, "threadhub-a-long.thread.jsonl") {
			t.Errorf("it is called %q", got)
		}
		// What is in it beyond the buffers on the way is read only after the thread has been deleted.
		body := h.taking(path + "/export")
		defer func() { _ = body.Close() }()
		line, err := bufio.NewReaderSize(body, 1<<10).ReadBytes('\n')
		if err != nil || !bytes.Contains(line, []byte(`"sequence":0`)) {
			t.Fatalf("%s: %v", line, err)
		}
		h.do("DELETE", path, "").want(t, 200)
		if _, err := io.Copy(io.Discard, body); err == nil {
			t.Error("the export of a thread deleted meanwhile ended as if it were whole")
		}
		testkit.Eventually(t, 10*time.Second, func() bool { return strings.Contains(h.log.String(), "thread_not_found") }, "the log to tell of it")
	})
}

// fill makes a thread with n large messages.
func (h *house) fill(thread id.Thread, n int) {
	h.t.Helper()
	var head *threads.Message
	for seq := 0; seq < n; {
		in := &threads.Input{Org: h.admin.Org, Thread: thread, Call: id.NewRequest(), User: h.admin.User, Create: head == nil, PrevSeq: seq - 1, PrevChain: []byte{}}
		if head != nil {
			in.PrevChain = head.Chain
		}
		for ; seq < n && len(in.Messages) < 100; seq++ {
			m := threads.Message{Role: "user", Raw: fmt.Appendf(nil, `{"role":"user","content":"%d %s"}`, seq, strings.Repeat("long ", 2000)), Status: threads.Complete}
			m.After(head)
			in.Messages, head = append(in.Messages, m), &m
		}
		u := &db.Unit{Org: in.Org}
		h.calls.Open(u, &calls.Opening{
			Org: in.Org, ID: in.Call, Key: "k", User: in.User, Thread: thread, Owner: h.lease.Owner(),
			FirstSeq: in.PrevSeq + 1, NIn: len(in.Messages), AtOnce: true,
		})
		h.threads.Append(u, in)
		if err := h.store.Commit(h.t.Context(), u); err != nil {
			h.t.Fatal(err)
		}
	}
}

// taking begins to read an answer.
func (h *house) taking(path string) io.ReadCloser {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), "GET", h.url+path, http.NoBody)
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.admin.APIKey.Reveal())
	resp, err := houseClient.Do(req)
	if err != nil || resp.StatusCode != 200 {
		h.t.Fatal(resp, err)
	}
	return resp.Body
}

// A body of a DELETE can only say whose what is to go is: of another org, or with more in it, nothing goes.
func TestADeleteSaysWhoseItIs(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.chat("hi", "", "X-Thread-Id", "t").want(t, 200)
		for body, status := range map[string]int{`{"org_id":"org_other"}`: 404, `{"forever":true}`: 400, `{`: 400} {
			h.do("DELETE", "/api/threads/t", body).want(t, status)
		}
		h.do("GET", "/api/threads/t", "").want(t, 200)
		h.do("DELETE", "/api/threads/t", `{"org_id":"`+string(h.admin.Org)+`"}`).want(t, 200)
	})
}
