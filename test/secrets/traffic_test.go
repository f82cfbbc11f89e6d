package secrets

import (
	"fmt"
	"strings"
	"sync"

	"threadhub/simulator"
	"threadhub/test/rig"
)

// bounded keeps the faults that would take long short.
var bounded = map[string]string{
	"drip": "every=1ms", "endless": "count=2", "flood": "count=2000", "interim_flood": "count=50", "oversize": "size=1200000",
}

// statuses are those a provider refuses with.
var statuses = []int{400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 429, 500, 502, 503, 504, 529}

// directives are all ways to misbehave that the simulator has.
func directives() (list []string) {
	list = append(list, "")
	for _, f := range simulator.Faults() {
		if f.Name == "status" {
			continue
		}
		list = append(list, strings.TrimSpace("fault="+f.Name+" "+bounded[f.Name]))
	}
	for _, after := range []string{"0", "1", "3"} {
		list = append(list, "fault=echo_key after="+after, "fault=error_mid after="+after, "fault=reset_mid after="+after)
	}
	for _, s := range statuses {
		list = append(list, fmt.Sprint("status=", s), fmt.Sprint("fault=echo_key status=", s))
	}
	return list
}

// converse talks with all providers in every way there is, in threads and without.
func (w *world) converse() {
	var wg sync.WaitGroup
	jobs := make(chan func())
	for range 16 {
		wg.Go(func() {
			for job := range jobs {
				job()
			}
		})
	}
	n := 0
	for _, d := range directives() {
		for _, provider := range rig.Providers {
			jobs <- func() { w.embed(provider, d) }
			for _, stream := range []bool{false, true} {
				n++
				thread := fmt.Sprint("thread-", n)
				jobs <- func() {
					w.ask(provider, d, stream, thread)
					if stream {
						w.ask(provider, d, stream, "")
					} else {
						w.ask(provider, "", stream, thread) // goes on behind what came of it
					}
				}
			}
		}
	}
	close(jobs)
	wg.Wait()
}

// embed has words embedded, which nothing may keep: there is no thread for them.
func (w *world) embed(provider, directive string) {
	if directive != "" {
		directive = "[[sim " + directive + "]]"
	}
	w.send("POST", "/v1/embeddings", w.admin.Key, fmt.Sprintf(`{"model":"%s/sim-1","input":["%s","%s %s"]}`, provider, w.plain, w.plain, directive))
}

func (w *world) ask(provider, directive string, stream bool, thread string) {
	words := w.plain
	var header []string
	if thread != "" {
		words, header = w.thread, []string{"X-Thread-Id", thread}
	}
	if directive != "" {
		directive = "[[sim " + directive + "]]"
	}
	w.send("POST", "/v1/chat/completions", w.admin.Key, fmt.Sprintf(`{"model":"%s/sim-1","stream":%v,"messages":[{"role":"user","content":"%s %s"}]}`,
		provider, stream, words, directive), header...)
}

// administer sets, shows and removes provider keys, and gets it wrong.
func (w *world) administer() {
	base, key := "/api/orgs/"+w.admin.Org+"/providers/", w.admin.Key
	// A key put and removed: its row stays, empty.
	w.send("PUT", base+"gemini", key, map[string]string{"api_key": w.providerKeys["openai"]})
	w.send("DELETE", base+"gemini", key, nil)
	w.send("DELETE", base+"gemini", key, nil)
	for provider, secret := range w.providerKeys {
		w.send("PUT", base+provider, key, map[string]string{"api_key": secret})
		w.send("GET", base+"status", key, nil)
		w.send("PUT", base+provider, key, map[string]string{"api_key": secret, "org_id": w.admin.Org})
		for _, bad := range []string{
			`{"api_key":"` + secret, `{"api_key":` + secret + `}`, `{"` + secret + `":1}`, `{"api_key":"` + secret + `\n"}`, `{"api_key":["` + secret + `"]}`,
			`"` + secret + `"`, secret, `{"api_key":"` + secret + `","api_key":"` + secret + `"}`, `{"API_KEY":"` + secret + `"}`,
			`{"api_key":"` + strings.Repeat(secret, 200) + `"}`, `{"api_key":"` + secret + `","org_id":"` + secret + `"}`,
		} {
			w.sendMisplaced("PUT", base+provider, key, bad)
		}
		w.sendMisplaced("PUT", base+secret, key, map[string]string{"api_key": secret})
		w.sendMisplaced("PUT", "/api/orgs/"+secret+"/providers/"+provider, key, map[string]string{"api_key": secret})
		w.sendMisplaced("PUT", base+provider, "", map[string]string{"api_key": secret})
		w.sendMisplaced("PUT", base+provider+"?api_key="+secret, key, map[string]string{"api_key": secret})
		w.sendMisplaced("POST", base+provider, key, map[string]string{"api_key": secret})
		w.sendMisplaced("PUT", base+provider, key, map[string]string{"api_key": secret}, "Content-Type", "text/plain")
		w.sendMisplaced("PUT", base+provider, key, map[string]string{"api_key": secret}, "Content-Encoding", "gzip")
	}
	w.send("GET", base+"status", key, nil)
}

// tryOut tries keys of providers out, and gets it wrong. An org may do that ten times a minute, which is enough for two.
func (w *world) tryOut(providers ...string) {
	base, key := "/api/orgs/"+w.admin.Org+"/providers/", w.admin.Key
	for _, provider := range providers {
		secret := w.providerKeys[provider]
		w.send("PUT", base+provider, key, map[string]any{"api_key": secret, "name": "spare", "priority": 3})
		w.send("PUT", base+provider, key, map[string]any{"name": "spare", "priority": 4})
		w.send("POST", base+"test", key, map[string]string{"provider": provider, "api_key": secret})
		w.send("POST", base+"test", key, map[string]string{"provider": provider, "name": "spare"})
		w.send("GET", base+"status", key, nil)
		for _, bad := range []string{
			`{"provider":"` + provider + `","api_key":"` + secret, `{"provider":"` + secret + `"}`, `{"provider":"` + provider + `","api_key":["` + secret + `"]}`,
			`{"provider":"` + provider + `","name":"` + secret + `"}`, `{"provider":"` + provider + `","name":"` + secret + `","api_key":"` + secret + `"}`,
			`{"provider":"` + provider + `","` + secret + `":1}`, `{"provider":"` + provider + `","api_key":"` + secret + `","org_id":"` + secret + `"}`,
		} {
			w.sendMisplaced("POST", base+"test", key, bad)
		}
		w.sendMisplaced("POST", base+"test", "", map[string]string{"provider": provider, "api_key": secret})
		w.sendMisplaced("PUT", base+provider, key, map[string]string{"api_key": secret, "name": secret})
		w.sendMisplaced("PUT", base+provider, key, map[string]any{"name": secret, "priority": 1})
		w.sendMisplaced("DELETE", base+provider+"?name="+secret, key, nil)
		w.sendMisplaced("DELETE", base+provider+"?"+secret+"=1", key, nil)
		w.send("DELETE", base+provider+"?name=spare", key, nil)
	}
	w.send("GET", base+"status", key, nil)
}

// misplace puts the API key, and words of a prompt, where they do not belong.
func (w *world) misplace() {
	key, words := w.admin.Key, w.plain
	good := `{"model":"openai/sim-1","messages":[{"role":"user","content":"` + words + `"}]}`
	chat := func(body string, header ...string) {
		w.sendMisplaced("POST", "/v1/chat/completions", key, body, header...)
	}
	for _, path := range []string{
		"/v1/models/" + key, "/v1/requests/" + key, "/api/threads/" + key, "/api/threads?cursor=" + key, "/api/threads?org_id=" + key, "/" + key,
		"/v1/models?api_key=" + key, "/v1/models?x=" + key, "/v1/models#" + key, "/api/threads?limit=" + key, "/v1/" + key + "/models",
	} {
		w.sendMisplaced("GET", path, key, nil)
		w.sendMisplaced("GET", path, "", nil)
	}
	for _, body := range []string{
		`{"model":"` + key + `","messages":[{"role":"user","content":"` + words + `"}]}`,
		`{"model":"nosuch/` + key + `","messages":[{"role":"user","content":"` + words + `"}]}`,
		`{"model":"` + words + `","messages":[{"role":"user","content":"x"}]}`,
		`{"model":"openai/sim-1","messages":[{"role":"` + key + `","content":"` + words + `"}]}`,
		`{"model":"openai/sim-1","messages":[{"role":"` + words + `","content":"x"}]}`,
		`{"Model":"` + key + `","model":"openai/sim-1","messages":[{"role":"user","content":"` + words + `"}]}`,
		`{"model":"openai/sim-1","stream":"` + words + `","messages":[{"role":"user","content":"` + words + `"}]}`,
		`{"model":"openai/sim-1","thread_id":"` + key + `!","messages":[{"role":"user","content":"` + words + `"}]}`,
		`{"model":"openai/sim-1","n":` + words + `,"messages":[{"role":"user","content":"` + words + `"}]}`,
		`{"model":"openai/sim-1","` + words + `":1,"` + words + `":2,"messages":[{"role":"user","content":"x"}]}`,
		good[:len(good)-3], good + key, words, key, "", `["` + words + `"]`, "\x00" + words, strings.Repeat(words, 5000),
	} {
		chat(body)
	}
	chat(good, "X-Thread-Id", key+"!")
	chat(good, "X-Thread-Id", words+" "+words)
	chat(good, "X-Api-Key", key)
	chat(good, "Cookie", "session="+key)
	chat(good, "Content-Type", words)
	chat(good, "Content-Encoding", key)
	chat(strings.ReplaceAll(good, words, "what has such a key is kept for a day"), "Idempotency-Key", key)
	w.sendMisplaced("POST", "/v1/chat/completions", "", good, "Authorization", "Basic "+key)
	w.sendMisplaced("POST", "/v1/chat/completions", "", good, "Authorization", key)
	w.sendMisplaced("POST", "/v1/chat/completions", key+"x", good)
	w.sendMisplaced("POST", "/v1/chat/completions", key[:len(key)-2], good)
	for _, raw := range []string{
		"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nX: a\x01" + words + "\r\n\r\n",
		"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\nContent-Length: 3\r\n\r\n" + words,
		"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer %s\r\n\r\n",
		"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n",
		"POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nHost: %[1]s\r\n\r\n",
		"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: chunked\r\n\r\nzz" + words + "\r\n",
		"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: " + words + "\r\n\r\n",
		"GET /v1/models?%s HTTP/9.9\r\nHost: x\r\n\r\n",
		"GET %s HTTP/1.1\r\nHost: x\r\n\r\n",
		"%s\r\n\r\n",
		"%s /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
		"\x16\x03\x01%s" + words,
		"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nX-Long: " + strings.Repeat(words+key, 1000) + "\r\n\r\n",
		"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: %[1]s\r\n", 200) + "\r\n",
	} {
		r, err := w.Raw("POST", fmt.Sprintf(raw, key))
		if err != nil {
			w.t.Logf("%.60q: %v", raw, err) // cut off without a word is fine
			continue
		}
		w.misplaced = append(w.misplaced, answerSink("bytes", r))
	}
}

// look reads everything there is to be read.
func (w *world) look() {
	key := w.admin.Key
	// A provider that puts the key into its list of models, and ones that fail in other ways.
	for _, d := range []string{"fault=echo_key", "status=401", "fault=garbage_head"} {
		if err := w.sim.Play(simulator.Script{Path: "/models", Times: 1, Do: d}); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, path := range []string{"/health", "/v1/models", "/v1/models/openai/gpt-5-mini", "/api/threads", "/api/threads/thread-1", "/api/orgs/" + w.admin.Org + "/providers/status"} {
		w.send("GET", path, key, nil)
	}
	var ids []string
	w.mu.Lock()
	for _, s := range w.sinks {
		for line := range strings.Lines(string(s.data)) {
			if id, ok := strings.CutPrefix(line, "X-Request-Id: "); ok && strings.HasPrefix(s.name, "answer to POST /v1/") {
				ids = append(ids, strings.TrimSpace(id))
			}
		}
	}
	w.mu.Unlock()
	for _, id := range ids {
		w.send("GET", "/v1/requests/"+id, key, nil)
	}
}
