package gateway

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/orgs"
)

const key = "Idempotency-Key"

// same holds an answer against the one that it repeats.
func same(t *testing.T, first, again heard) {
	t.Helper()
	again.want(t, first.status)
	if !bytes.Equal(first.body, again.body) {
		t.Errorf("the body is %q, the first time it was %q", again.body, first.body)
	}
	if again.header.Get("Idempotent-Replayed") != "true" || first.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("replayed: first %q, again %q", first.header.Get("Idempotent-Replayed"), again.header.Get("Idempotent-Replayed"))
	}
	for _, name := range []string{
		"X-Request-Id", "Content-Type", "X-Thread-Id", "X-Threadhub-Thread-Seq", "X-Threadhub-Provider",
		"X-Threadhub-Model", "X-Threadhub-Route", "X-Threadhub-Cost-Usd", "X-Threadhub-Cost-Status",
	} {
		if got, want := again.header.Get(name), first.header.Get(name); got != want {
			t.Errorf("%s is %q, the first time it was %q", name, got, want)
		}
	}
	mode := "X-Threadhub-Thread-Mode"
	if first, again := first.header.Get(mode), again.header.Get(mode); first != "" && again != "replayed" || first == "" && again != "" {
		t.Errorf("%s is %q, the first time it was %q", mode, again, first)
	}
}

// A key is a route's own: what another route was sent under it is another request, and no repeat with another body.
func TestAnIdempotencyKeyIsOfItsRoute(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		for range 2 {
			h.chat("hello", "", key, "one").want(t, 200)
			h.do("POST", "/v1/embeddings", `{"model":"openai/sim-embed","input":"one"}`, key, "one").want(t, 200)
			h.do("POST", "/api/threads", `{"title":"one"}`, key, "one").want(t, 201)
		}
		if n := len(h.attempts()); n != 2 {
			t.Errorf("providers were asked %d times, not once for each call", n)
		}
	})
}

func TestARequestIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		for name, c := range map[string]struct {
			body   string
			header []string
			path   string
		}{
			"whole":             {body: `{"model":"openai/gpt-5-mini","messages":[{"role":"user","content":"hello"}]}`},
			"stream":            {body: `{"model":"openai/gpt-5-mini","stream":true,"messages":[{"role":"user","content":"hello"}]}`},
			"stream with usage": {body: `{"model":"openai/gpt-5-mini","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hello"}]}`},
			"in a thread":       {body: `{"model":"openai/gpt-5-mini","messages":[{"role":"user","content":"hello"}]}`, header: []string{"X-Thread-Id", "once"}},
			"in a new thread":   {body: `{"model":"openai/gpt-5-mini","stream":true,"messages":[{"role":"user","content":"hello"}]}`, header: []string{"X-Thread-Id", "new"}},
			"forward":           {path: "/api/threads/before/forward", body: `{"provider":"openrouter","content":"and you?"}`},
		} {
			if c.path == "" {
				c.path = "/v1/chat/completions"
			}
			if name == "forward" {
				h.chat("before", "", "X-Thread-Id", "before").want(t, 200)
			}
			before := len(h.attempts())
			header := append(c.header, key, "of "+name)
			first := h.do("POST", c.path, c.body, header...).want(t, 200)
			for range 2 {
				same(t, first, h.do("POST", c.path, c.body, header...))
			}
			if n := len(h.attempts()) - before; n != 1 {
				t.Errorf("%s: the provider was asked %d times", name, n)
			}
			if thread := first.header.Get("X-Thread-Id"); c.path == "/v1/chat/completions" && thread != "" {
				if m := h.messages(id.Thread(thread)); len(m) != 2 {
					t.Errorf("%s: the thread reads %q", name, m)
				}
			}
			other := strings.Replace(c.body, "hello", "hello?", 1)
			if name == "forward" {
				other = strings.Replace(c.body, "you", "I", 1)
			}
			if r := h.do("POST", c.path, other, header...); r.status != 422 || r.code() != "idempotency_key_reused" {
				t.Errorf("%s: another body: %d %s", name, r.status, r.body)
			}
			if c.path == "/v1/chat/completions" {
				if r := h.do("POST", c.path, c.body, key, "of "+name, "X-Thread-Id", "elsewhere"); r.status != 422 {
					t.Errorf("%s: another thread: %d %s", name, r.status, r.body)
				}
			}
		}
	})
}

// A claim is of one API key.
func TestAClaimIsOfOneKey(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		mine := h.chat("hello", "", key, "k").want(t, 200)
		colleague, stranger := h.seed("house", "b@house.test", orgs.Member), h.seed("other", "c@other.test", orgs.Admin)
		for name, s := range map[string]orgs.Seeded{"a colleague's": colleague, "another org's": stranger} {
			auth := []string{"Authorization", "Bearer " + s.APIKey.Reveal()}
			theirs := h.chat("hello", "", append(auth, key, "k")...).want(t, 200)
			if theirs.header.Get("Idempotent-Replayed") != "" || theirs.header.Get("X-Request-Id") == mine.header.Get("X-Request-Id") {
				t.Errorf("%s key got the answer", name)
			}
			if r := h.do("GET", "/v1/requests/"+mine.header.Get("X-Request-Id")+"/stream", "", auth...); r.status != 404 {
				t.Errorf("%s key resumes it: %d", name, r.status)
			}
		}
	})
}

func TestBadIdempotencyKeys(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	for _, bad := range []string{"", strings.Repeat("k", maxClaim+1), "k\u00e9"} {
		if r := h.chat("hello", "", key, bad); r.status != 400 || r.code() != "invalid_idempotency_key" {
			t.Errorf("%q: %d %s", bad, r.status, r.body)
		}
	}
	if r := h.do("POST", "/api/orgs", `{"name":"t","email":"t@t.test"}`, key, "k"); r.status != 400 || r.code() != "not_supported" {
		t.Errorf("where it is not known: %d %s", r.status, r.body)
	}
	h.chat("hello", "", key, strings.Repeat("k", maxClaim)).want(t, 200)
}

// Many at once are one call, whatever form they have, and all get the same answer.
func TestRepeatsInFlight(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		for _, more := range []string{"", `,"stream":true`} {
			for _, header := range [][]string{nil, {"X-Thread-Id", "at once" + fmt.Sprint(len(more))}} {
				if header != nil {
					header[1] = strings.ReplaceAll(header[1], " ", "-")
				}
				before := len(h.attempts())
				header = append(header, key, fmt.Sprint("k", more, len(header)))
				got := make([]heard, 8)
				var wg sync.WaitGroup
				for i := range got {
					wg.Go(func() { got[i] = h.chat("[[sim first=300ms delay=20ms chunks=10 size=100]] hello", more, header...) })
				}
				wg.Wait()
				firsts := 0
				for _, r := range got {
					if r.status != 200 || !bytes.Equal(r.body, got[0].body) || r.header.Get("X-Request-Id") != got[0].header.Get("X-Request-Id") {
						t.Fatalf("%d %s, another got %s", r.status, r.body, got[0].body)
					}
					if r.header.Get("Idempotent-Replayed") == "" {
						firsts++
					}
				}
				if n := len(h.attempts()) - before; n != 1 || firsts != 1 {
					t.Errorf("the provider was asked %d times, %d answers are first ones", n, firsts)
				}
			}
		}
	})
}

// What failed or was cut is no answer: its claim is free, and the repeat asks again in the same turn.
func TestAFailedCallFreesItsClaim(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		for name, c := range map[string]struct{ text, more, status string }{
			"refused": {"[[sim status=500 times=3]] hello", "", "failed"},
			"cut":     {"[[sim fault=cut after=2 times=1]] hello", `,"stream":true`, "incomplete"},
		} {
			header := []string{"X-Thread-Id", name, key, name}
			first := h.chat(c.text, c.more, header...)
			again := h.chat(c.text, c.more, header...).want(t, 200)
			if again.header.Get("Idempotent-Replayed") != "" || strings.Contains(string(again.body), `"error"`) {
				t.Errorf("%s: the repeat got %q %s", name, again.header.Get("Idempotent-Replayed"), again.body)
			}
			if got := h.call(first)["status"]; got != c.status {
				t.Errorf("%s: the first call is %v", name, got)
			}
			if m := h.messages(id.Thread(name)); len(m) != 3 || !strings.HasPrefix(m[0], "user") || !strings.HasPrefix(m[2], "assistant") || !strings.HasSuffix(m[2], ":complete") {
				t.Errorf("%s: the thread reads %q", name, m)
			}
			same(t, again, h.chat(c.text, c.more, header...))
		}
	})
}

// leaving posts one message and lets go of the connection when got has come, or at once.
func (h *house) leaving(thread, text, more, got string, header ...string) (seen string) {
	h.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	body := `{"model":"openai/gpt-5-mini"` + more + `,"messages":[{"role":"user","content":"` + text + `"}]}`
	head := "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + h.admin.APIKey.Reveal() + "\r\n"
	if thread != "" {
		head += "X-Thread-Id: " + thread + "\r\n"
	}
	for i := 0; i < len(header); i += 2 {
		head += header[i] + ": " + header[i+1] + "\r\n"
	}
	fmt.Fprintf(conn, "%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", head, len(body), body)
	b := make([]byte, 1<<16)
	for !strings.Contains(seen, got) {
		n, err := conn.Read(b)
		if seen += string(b[:n]); err != nil {
			h.t.Fatalf("after %q: %v", seen, err)
		}
	}
	return seen
}

// A client that leaves a turn may come back for its answer: it runs on meanwhile, and its rest is there.
func TestAStreamIsResumed(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{Heartbeat: 100 * time.Millisecond}, func(t *testing.T, h *house) {
		for name, header := range map[string][]string{"thread": nil, "": {key, "k"}} {
			seen := h.leaving(name, "[[sim delay=30ms chunks=40 size=400]] go on", `,"stream":true`, "id: 5\n", header...)
			_, rest, _ := strings.Cut(seen, "\r\nX-Request-Id: ")
			call, _, _ := strings.Cut(rest, "\r\n")
			all := h.do("GET", "/v1/requests/"+call+"/stream", "").want(t, 200)
			if all.header.Get("X-Request-Id") != call || all.header.Get("Content-Type") != "text/event-stream; charset=utf-8" {
				t.Errorf("the header is %v", all.header)
			}
			all.body = bytes.ReplaceAll(all.body, []byte(": ping\n\n"), nil) // that of a busy machine may fall between two events
			list := bytes.SplitAfter(all.body, []byte("\n\n"))
			list = list[:len(list)-1]
			for i, e := range list {
				if !bytes.HasPrefix(e, fmt.Appendf(nil, "id: %d\ndata: ", i+1)) {
					t.Fatalf("event %d is %q", i, e)
				}
			}
			if len(list) < 40 || !bytes.HasSuffix(all.body, []byte("data: [DONE]\n\n")) {
				t.Fatalf("%d events: %s", len(list), all.body)
			}
			for _, n := range []int{1, 5, len(list) - 1, len(list)} {
				want := bytes.Join(list[n:], nil)
				if r := h.do("GET", fmt.Sprintf("/v1/requests/%s/stream?starting_after=%d", call, n), "").want(t, 200); !bytes.Equal(r.body, want) {
					t.Errorf("after %d: %s", n, r.body)
				}
				if r := h.do("GET", "/v1/requests/"+call+"/stream", "", "Last-Event-ID", fmt.Sprint(n)).want(t, 200); !bytes.Equal(r.body, want) {
					t.Errorf("after %d, by its header: %s", n, r.body)
				}
			}
			for _, bad := range []string{"?starting_after=-1", "?starting_after=x", "?starting_after=" + fmt.Sprint(len(list)+1)} {
				if r := h.do("GET", "/v1/requests/"+call+"/stream"+bad, ""); r.status != 400 {
					t.Errorf("%s: %d %s", bad, r.status, r.body)
				}
			}
			if got := h.do("GET", "/v1/requests/"+call, "").want(t, 200).json(t); got["status"] != "complete" {
				t.Errorf("the call is %v", got)
			}
		}
		if n := len(h.attempts()); n != 2 {
			t.Errorf("the provider was asked %d times for two answers", n)
		}
		whole := h.chat("whole", "").want(t, 200)
		if r := h.do("GET", "/v1/requests/"+whole.header.Get("X-Request-Id")+"/stream", ""); r.status != 400 || r.code() != "not_a_stream" {
			t.Errorf("of a whole answer: %d %s", r.status, r.body)
		}
		if r := h.do("GET", "/v1/requests/req_none/stream", ""); r.status != 404 {
			t.Errorf("of none: %d %s", r.status, r.body)
		}
	})
}

// An SDK that was cut off from its turn asks again, and gets the answer that was on its way, once.
func TestAnSDKsRetryGetsTheTurnItRepeats(t *testing.T) {
	t.Parallel()
	retry := []string{"X-Stainless-Retry-Count", "1"}
	eachHouse(t, Options{Heartbeat: 100 * time.Millisecond}, func(t *testing.T, h *house) {
		for _, more := range []string{"", `,"stream":true`} {
			thread := "turn" + fmt.Sprint(len(more))
			text := "[[sim first=400ms delay=10ms chunks=20 size=400]] hello"
			before := len(h.attempts())
			ask := func(header ...string) heard { // with the bytes of the client that leaves
				return h.do("POST", "/v1/chat/completions", `{"model":"openai/gpt-5-mini"`+more+`,"messages":[{"role":"user","content":"`+text+`"}]}`,
					append(header, "X-Thread-Id", thread)...)
			}
			h.leaving(thread, text, more, "")
			testkit.Eventually(t, 5*time.Second, func() bool { return len(h.sim.Log()) == before+1 })
			got := ask(retry...).want(t, 200)
			if got.header.Get("Idempotent-Replayed") != "true" || len(h.attempts()) != before+1 {
				t.Errorf("the retry got %v, and the provider was asked %d times", got.header, len(h.attempts())-before)
			}
			if m := h.messages(id.Thread(thread)); len(m) != 2 || !strings.HasSuffix(m[1], ":complete") {
				t.Errorf("the thread reads %q", m)
			}
			if r := ask(retry...).want(t, 200); r.header.Get("Idempotent-Replayed") != "" {
				t.Error("the same turn was given to a second repeat")
			}
		}
		// One that is known to have had its answer means a new turn, as does who does not say that it repeats.
		h.chat("hello", `,"stream":true`, "X-Thread-Id", "had").want(t, 200)
		for _, header := range [][]string{retry, nil} {
			if r := h.chat("hello", `,"stream":true`, append(header, "X-Thread-Id", "had")...).want(t, 200); r.header.Get("Idempotent-Replayed") != "" {
				t.Errorf("%v: replayed", header)
			}
		}
		if m := h.messages("had"); len(m) != 6 {
			t.Errorf("the thread reads %q", m)
		}
	})
}

// Nobody waits for a turn whose client has left: the next request in the thread ends it.
func TestADepartedTurnMakesWay(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{Heartbeat: 100 * time.Millisecond}, func(t *testing.T, h *house) {
		for name, more := range map[string]string{"whole": "", "stream": `,"stream":true`} {
			directive := "[[sim first=1m]]"
			got := ""
			if name == "stream" {
				directive, got = "[[sim fault=stall after=3 chunks=8 size=400]]", "id: 2\n"
			}
			before := len(h.sim.Log())
			h.leaving(name, directive+" hello", more, got)
			testkit.Eventually(t, 5*time.Second, func() bool { return len(h.sim.Log()) == before+1 })
			time.Sleep(700 * time.Millisecond) // it has been noticed, and goes on
			if m := h.messages(id.Thread(name)); len(m) != 2 || !strings.HasSuffix(m[1], ":pending") {
				t.Errorf("%s: while somebody may come back the thread reads %q", name, m)
			}
			start := time.Now()
			h.chat("next", "", "X-Thread-Id", name).want(t, 200)
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("%s: the next request waited %v", name, took)
			}
			if m := h.messages(id.Thread(name)); len(m) != 4 || !strings.HasSuffix(m[1], ":incomplete:client_closed") {
				t.Errorf("%s: the thread reads %q", name, m)
			}
		}
	})
}

// A call that nobody can come back to ends with its client.
func TestAPlainCallEndsWithItsClient(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{Heartbeat: 100 * time.Millisecond})
	h.leaving("", "[[sim fault=stall after=3 chunks=8 size=400]] hello", `,"stream":true`, "id: 2\n")
	left := time.Now()
	log := h.attempts()
	if took := time.Since(left); log[0].End != "client_gone" || took > 4*time.Second {
		t.Errorf("after %v it ended with %s", took, log[0].End)
	}
}

func TestMessagesAndThreadsAreMadeOnce(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		made := h.do("POST", "/api/threads/", `{"title":"once"}`, key, "t").want(t, 201)
		same(t, made, h.do("POST", "/api/threads/", `{"title":"once"}`, key, "t"))
		if r := h.do("POST", "/api/threads/", `{"title":"twice"}`, key, "t"); r.status != 422 {
			t.Errorf("another body: %d %s", r.status, r.body)
		}
		thread := made.json(t)["thread_id"].(string)
		added := h.do("POST", "/api/threads/"+thread+"/messages", `{"content":"hello"}`, key, "m").want(t, 201)
		h.do("POST", "/api/threads/"+thread+"/messages", `{"content":"more"}`).want(t, 201)
		same(t, added, h.do("POST", "/api/threads/"+thread+"/messages", `{"content":"hello"}`, key, "m"))
		if m := h.messages(id.Thread(thread)); len(m) != 2 {
			t.Errorf("the thread reads %q", m)
		}
		if list := h.do("GET", "/api/threads", "").want(t, 200); bytes.Count(list.body, []byte("once")) != 1 {
			t.Errorf("the threads are %s", list.body)
		}
		h.do("DELETE", "/api/threads/"+thread, "").want(t, 200)
		if r := h.do("POST", "/api/threads/"+thread+"/messages", `{"content":"hello"}`, key, "m"); r.status != 404 {
			t.Errorf("a message of a deleted thread: %d %s", r.status, r.body)
		}
	})
}

// A fork is made once, whoever asks for it how often, and is told of in the same words when its source has gone on or is
// gone.
func TestAForkIsMadeOnce(t *testing.T) {
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.chat("one", "", "X-Thread-Id", "src").want(t, 200)
		there := h.replica(nil)
		const body = `{"sequence":1,"title":"once","visibility":"private"}`
		got := make([]heard, 8)
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() { got[i] = []*house{h, there}[i%2].do("POST", "/api/threads/src/fork", body, key, "f") })
		}
		wg.Wait()
		var first heard
		for _, r := range got {
			if r.want(t, 201).header.Get("Idempotent-Replayed") == "" {
				if first.status != 0 {
					t.Errorf("two forks were made: %s and %s", first.body, r.body)
				}
				first = r
			}
		}
		fork := first.json(t)["thread_id"].(string)
		for _, r := range got {
			if r.header.Get("Idempotent-Replayed") != "" {
				same(t, first, r)
			}
		}
		if list := h.do("GET", "/api/threads", "").want(t, 200); bytes.Count(list.body, []byte(`"title":"once"`)) != 1 {
			t.Errorf("the threads are %s", list.body)
		}
		if call := h.call(first); call["kind"] != "fork" || call["status"] != "complete" || call["thread_id"] != fork {
			t.Errorf("the call is %v", call)
		}
		if f := h.do("GET", "/api/threads/"+fork, "").want(t, 200).json(t); f["title"] != "once" || f["visibility"] != "private" || len(f["messages"].([]any)) != 2 {
			t.Errorf("the fork is %v", f)
		}

		for name, r := range map[string]heard{
			"another body":   h.do("POST", "/api/threads/src/fork", `{"sequence":0,"title":"once"}`, key, "f"),
			"another thread": h.do("POST", "/api/threads/"+fork+"/fork", body, key, "f"),
		} {
			if r.status != 422 || r.code() != "idempotency_key_reused" {
				t.Errorf("%s: %d %s", name, r.status, r.body)
			}
		}
		colleague := []string{"Authorization", "Bearer " + h.seed("house", "b@house.test", orgs.Member).APIKey.Reveal(), key, "f"}
		theirs := h.do("POST", "/api/threads/src/fork", body, colleague...).want(t, 201)
		if theirs.header.Get("Idempotent-Replayed") != "" || theirs.json(t)["thread_id"] == fork {
			t.Errorf("a colleague's key got the fork: %s", theirs.body)
		}
		stranger := []string{"Authorization", "Bearer " + h.seed("other", "c@other.test", orgs.Admin).APIKey.Reveal(), key, "f"}
		h.do("POST", "/api/threads/src/fork", body, stranger...).want(t, 404)

		h.chat("two", "", "X-Thread-Id", "src").want(t, 200)
		h.do("DELETE", "/api/threads/src", "").want(t, 200)
		same(t, first, there.do("POST", "/api/threads/src/fork", body, key, "f"))
		h.do("POST", "/api/threads/src/fork", body, key, "g").want(t, 404)
		h.do("DELETE", "/api/threads/"+fork, "").want(t, 200)
		h.do("POST", "/api/threads/src/fork", body, key, "f").want(t, 404)
	})
}

// What is refused is no answer: its claim is free.
func TestARefusedForkFreesItsClaim(t *testing.T) {
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.do("POST", "/api/threads/src/fork", `{}`, key, "f").want(t, 404)
		h.chat("one", "", "X-Thread-Id", "src").want(t, 200)
		h.do("POST", "/api/threads/src/fork", `{"sequence":9}`, key, "f").want(t, 400)
		first := h.do("POST", "/api/threads/src/fork", `{}`, key, "f").want(t, 201)
		same(t, first, h.do("POST", "/api/threads/src/fork", `{}`, key, "f"))
	})
}

// A fork and its claim are one transaction: of one that was cut off half-way nothing is there, and it is made when it is
// asked for again, also by another process.
func TestAForkThatWasCutOffIsMadeWhenAskedAgain(t *testing.T) {
	url := testkit.Postgres(t)
	h, exec := newHouse(t, url, Options{}), onPostgres(t, url)
	h.chat("one", "", "X-Thread-Id", "src").want(t, 200)
	exec(raise("messages", "P0001"))
	h.do("POST", "/api/threads/src/fork", `{"title":"once"}`, key, "f").want(t, 500)
	exec(`DROP TRIGGER fail ON messages`)
	if list := h.do("GET", "/api/threads", "").want(t, 200); bytes.Contains(list.body, []byte("once")) {
		t.Errorf("half of a fork is there: %s", list.body)
	}
	first := h.replica(nil).do("POST", "/api/threads/src/fork", `{"title":"once"}`, key, "f").want(t, 201)
	same(t, first, h.do("POST", "/api/threads/src/fork", `{"title":"once"}`, key, "f"))
}

// A stream of which too much came is not kept, and says so.
func TestALargeStreamIsNotResumed(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	r := h.chat(fmt.Sprintf("[[sim chunks=64 size=%d]] hello", calls.TapeLimit), `,"stream":true`, "X-Thread-Id", "large").want(t, 200)
	if got := h.do("GET", "/v1/requests/"+r.header.Get("X-Request-Id")+"/stream", ""); got.status != 410 || got.code() != "stream_expired" {
		t.Errorf("%d %s", got.status, got.body[:min(200, len(got.body))])
	}
	r = h.chat(fmt.Sprintf("[[sim chunks=64 size=%d]] hello", calls.TapeLimit), `,"stream":true`, key, "large").want(t, 200)
	same(t, r, h.chat(fmt.Sprintf("[[sim chunks=64 size=%d]] hello", calls.TapeLimit), `,"stream":true`, key, "large"))
}

// Another process that has the same store answers a repeat as the first one did, once that is through.
func TestARepeatAtAnotherProcess(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		there := h.replica(nil)
		for _, more := range []string{"", `,"stream":true`} {
			for _, text := range []string{"[[sim first=500ms]] hello", "[[sim first=500ms status=500 times=1]] hello"} {
				before := len(h.attempts())
				header := []string{"X-Thread-Id", "far", key, text + more}
				first := make(chan heard)
				go func() { first <- h.chat(text, more, header...) }()
				testkit.Eventually(t, 5*time.Second, func() bool { return len(h.sim.Log()) == before+1 })
				again := there.chat(text, more, header...).want(t, 200)
				if f := <-first; f.status == 200 {
					same(t, f, again)
				} else if again.header.Get("Idempotent-Replayed") != "" || len(h.attempts()) != before+2 {
					t.Errorf("after a failure: replayed %q, asked %d times", again.header.Get("Idempotent-Replayed"), len(h.attempts())-before)
				}
				same(t, again, func() heard { r := h.chat(text, more, header...); again.header.Del("Idempotent-Replayed"); return r }())
			}
		}
	})
}
