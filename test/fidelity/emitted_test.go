package fidelity

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"threadhub/simulator"
	"threadhub/test/rig"
)

// Everything that clients are given fits OpenAI's schema, whoever answered, but for what docs/fidelity.md lists with its
// reason: members beside those of the schema, and what providers whose bytes pass through do otherwise.
func TestWhatIsEmittedFitsTheSchema(t *testing.T) {
	t.Parallel()
	s, err := theSchema()
	if err != nil {
		t.Fatal(err)
	}
	e := readExceptions(t, filepath.Join(rig.Root(t), "docs", "fidelity.md"))
	t.Run("what upstreams are to give", func(t *testing.T) { wanted(t, s, e) })
	t.Run("what providers said", func(t *testing.T) { recorded(t, s, e) })
	t.Run("what the simulator says", func(t *testing.T) { live(t, s, e) })
	if !t.Failed() {
		e.unused(t)
	}
}

// wanted checks the files that the upstreams' tests expect.
func wanted(t *testing.T, s *schema, e *exceptions) {
	n := 0
	for _, provider := range []string{"gemini", "perplexity"} {
		files, err := filepath.Glob(filepath.Join(rig.Root(t), "upstreams", provider, "testdata", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			raw, err := os.ReadFile(file)
			if err != nil || strings.TrimSpace(string(raw)) == "" {
				continue // a folder, or a stream of which nothing comes
			}
			switch name := filepath.Base(file); {
			case strings.HasSuffix(name, ".base64.want.json"):
				continue // embeddings, packed: the schema has numbers
			case strings.HasPrefix(filepath.Base(filepath.Dir(file)), "embed") && strings.HasSuffix(name, ".want.json"):
				// What a provider does not count is the gateway's to say.
				wrong := slices.DeleteFunc(s.embeddings(raw), func(w string) bool { return w == "null for CreateEmbeddingResponse.usage" })
				e.check(t, provider, file, wrong, raw)
			case strings.HasSuffix(name, ".want.json"), strings.HasSuffix(name, ".expect.openai.json"):
				e.check(t, provider, file, s.answer(raw), raw)
			case strings.HasSuffix(name, ".chunks"), strings.HasSuffix(name, ".want.jsonl"):
				// The end is the relay's.
				wrong := slices.DeleteFunc(s.stream(strings.Split(strings.TrimSpace(string(raw)), "\n")), func(w string) bool { return w == "stream: no end" })
				e.check(t, provider, file, wrong, raw)
			case strings.HasSuffix(name, ".expect.openai.sse"):
				e.check(t, provider, file, s.stream(events(t, raw)), raw)
			default:
				continue
			}
			n++
		}
	}
	if n < 40 {
		t.Errorf("only %d files", n)
	}
}

// events are the payloads of a stream.
func events(t *testing.T, stream []byte) (list []string) {
	t.Helper()
	for event := range strings.SplitSeq(strings.TrimSpace(string(stream)), "\n\n") {
		if strings.HasPrefix(event, ":") {
			continue
		}
		if id, rest, found := strings.Cut(event, "\n"); found && strings.HasPrefix(id, "id: ") {
			event = rest
		}
		payload, ok := strings.CutPrefix(event, "data: ")
		if !ok {
			t.Errorf("an event that is no data: %q", event)
		}
		list = append(list, payload)
	}
	return list
}

// emitted is a gateway whose answers are held against the schema.
type emitted struct {
	*testing.T
	*schema
	*exceptions
	gw  *rig.Gateway
	key string
	n   int
}

func (c *emitted) start(o rig.Options) {
	c.Helper()
	o.Database = rig.Stores["sqlite"](c)
	h := rig.NewHouse(c, o)
	admin := h.Seed("schema", "schema@example.com", "admin")
	c.gw, c.key = h.Serve(), admin.Key
	c.gw.ProviderKeys(c, admin)
}

// ask posts a chat request and checks the answer, whatever it is.
func (c *emitted) ask(provider, about, body string, header ...string) {
	c.Helper()
	c.call(provider, about, "POST", "/v1/chat/completions", c.key, body, header...)
}

func (c *emitted) call(provider, about, method, path, key, body string, header ...string) {
	c.Helper()
	r, err := c.gw.Do(c.Context(), method, path, key, body, header...)
	if err != nil {
		c.Error(err)
		return
	}
	c.n++
	switch media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); {
	case r.Status >= 400 && media == "application/json":
		c.check(c.T, provider, about, c.failure(r.Body), r.Body)
	case r.Status == 200 && media == "application/json":
		fits := c.answer
		switch {
		case path == "/v1/embeddings":
			fits = c.embeddings
		case path == "/v1/models":
			fits = c.models
		case strings.HasPrefix(path, "/v1/models/"):
			fits = c.model
		}
		c.check(c.T, provider, about, fits(r.Body), r.Body)
	case r.Status == 200 && media == "text/event-stream":
		c.check(c.T, provider, about, c.stream(events(c.T, r.Body)), r.Body)
	default:
		c.Errorf("%s: status %d, %s", about, r.Status, r.Header.Get("Content-Type"))
	}
}

const weather = `"tools":[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}}},` +
	`{"type":"function","function":{"name":"get_time"}}]`

// asked are models to ask for where the provider is played from records.
var asked = map[string]string{
	"openai": "openai/gpt-4.1-mini", "openrouter": "openrouter/openai/gpt-4.1-mini", "gemini": "gemini/gemini-3.8-flash", "perplexity": "perplexity/sonar",
}

// recorded plays each record to the gateway and checks what it makes of it.
func recorded(t *testing.T, s *schema, e *exceptions) {
	for _, part := range []struct {
		env     []string
		folders map[string][]string
	}{
		{nil, map[string][]string{
			"openai": {"chat", "stream", "errors"}, "openrouter": {"chat", "stream", "errors"}, "gemini": {"generate", "stream", "errors"}, "perplexity": {"agent", "errors"},
		}},
		{[]string{"THREADHUB_UPSTREAMS__PERPLEXITY__API=sonar"}, map[string][]string{"perplexity": {"sonar", "errors"}}},
	} {
		replay := rig.NewReplay(t)
		c := &emitted{T: t, schema: s, exceptions: e}
		c.start(rig.Options{Env: append(replay.Env(), part.env...)})
		for _, provider := range slices.Sorted(maps.Keys(part.folders)) {
			for _, folder := range part.folders[provider] {
				records := rig.Recorded(t, provider, folder)
				for _, name := range slices.Sorted(maps.Keys(records)) {
					replay.Put(name, records[name])
					body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":%q}],%s`, asked[provider], rig.Play(name), weather)
					if strings.Contains(name, "logprobs") {
						body += `,"logprobs":true`
					}
					if strings.Contains(name, "grounding") {
						body += `,"web_search_options":{}`
					}
					if !strings.HasSuffix(name, ".sse") {
						c.ask(provider, name, body+"}")
					}
					if !strings.HasSuffix(name, ".resp.json") {
						c.ask(provider, name, body+`,"stream":true}`)
						c.ask(provider, name, body+`,"stream":true,"stream_options":{"include_usage":true}}`)
					}
				}
			}
		}
		if len(part.folders) == 4 && c.n < 300 {
			t.Errorf("only %d answers", c.n)
		}
	}
}

// live asks the simulator in many ways, and for what we refuse.
func live(t *testing.T, s *schema, e *exceptions) {
	c := &emitted{T: t, schema: s, exceptions: e}
	sim := rig.Simulator(t, simulator.Options{})
	c.start(rig.Options{Sim: sim})
	const formats = `"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}}}`
	models := map[string][]string{
		"openai": {"openai/gpt-4.1-mini", "openai/gpt-5-mini"}, "openrouter": {"openrouter/openai/gpt-4.1-mini"},
		"gemini": {"gemini/gemini-3.8-flash", "gemini/gemini-2.5-flash"}, "perplexity": {"perplexity/sonar", "perplexity/openai/gpt-6-luna"},
	}
	type ask struct{ text, members string }
	all := []ask{
		{"hello", ""},
		{"hello", `"n":2`},
		{"please refuse", ""},
		{"call both tools", weather},
		{"call the tool", weather + `,"tool_choice":"required"`},
		{"hello", formats},
		{"hello", `"reasoning_effort":"low"`},
		{"hello", `"web_search_options":{}`},
		{"hello", `"logprobs":true,"top_logprobs":2`},
		{"hello", `"max_completion_tokens":2`},
		{`[[sim text="" finish=length]]`, ""},
		{"[[sim search=off]]", ""},
		{"[[sim finish=content_filter]]", ""},
	}
	for _, fault := range []string{
		"fault=lone_surrogate", "fault=error_mid", "fault=error_first", "fault=error_200", "fault=cut", "fault=no_done", "fault=reset_mid flush=1",
		"fault=bad_json flush=1", "status=400", "status=401", "status=402", "status=403", "status=404", "status=429 retry_after=1", "status=500", "status=503",
	} {
		all = append(all, ask{"[[sim " + fault + "]]", ""})
	}
	own := slices.Clone(all) // with words that only an API of its own has
	for _, end := range []string{"block=SAFETY", "finish=SAFETY", "finish=OTHER", "finish=MALFORMED_FUNCTION_CALL", "finish=failed"} {
		own = append(own, ask{"[[sim " + end + "]]", ""})
	}
	asks := map[string][]ask{"openai": all, "openrouter": all, "gemini": own, "perplexity": own}
	for provider, list := range models {
		for _, model := range list {
			for _, ask := range asks[provider] {
				text, _ := json.Marshal(ask.text)
				members := ask.members
				if members != "" {
					members = "," + members
				}
				body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":%s}]%s`, model, text, members)
				about := model + " " + ask.text + " " + ask.members
				c.ask(provider, about, body+"}")
				c.ask(provider, about+" streamed", body+`,"stream":true,"stream_options":{"include_usage":true}}`)
				c.ask(provider, about+" streamed in a thread", body+`,"stream":true}`, "X-Thread-Id", "new")
			}
		}
	}
	if c.n < 500 {
		t.Errorf("only %d answers", c.n)
	}
	for provider, model := range map[string]string{
		"openai": "openai/text-embedding-3-small", "openrouter": "openrouter/openai/text-embedding-3-small", "gemini": "gemini/gemini-embedding-2",
		"perplexity": "perplexity/pplx-embed-v1-0.6b",
	} {
		for _, text := range []string{"hello", "[[sim status=400]]", "[[sim status=500]]", "[[sim fault=error_200]]", "[[sim fault=fewer]]"} {
			c.call(provider, model+" "+text, "POST", "/v1/embeddings", c.key, fmt.Sprintf(`{"model":%q,"input":["one",%q]}`, model, text))
			c.call(provider, model+" as numbers "+text, "POST", "/v1/embeddings", c.key, fmt.Sprintf(`{"model":%q,"input":%q,"encoding_format":"float","dimensions":128}`, model, text))
		}
		c.call("*", model, "GET", "/v1/models/"+model, c.key, "")
	}
	c.call("*", "all models", "GET", "/v1/models", c.key, "")
	const hello = `{"model":"openai/gpt-4.1-mini","messages":[{"role":"user","content":"hi"}]}`
	for _, r := range []struct{ method, path, key, body string }{
		{"POST", "/v1/chat/completions", "", hello},
		{"POST", "/v1/chat/completions", "th_wrong", hello},
		{"POST", "/v1/chat/completions", c.key, `{`},
		{"POST", "/v1/chat/completions", c.key, `{"model":"openai/gpt-4.1-mini"}`},
		{"POST", "/v1/chat/completions", c.key, `{"messages":[{"role":"user","content":"hi"}]}`},
		{"POST", "/v1/chat/completions", c.key, `{"model":"no-such-model","messages":[{"role":"user","content":"hi"}]}`},
		{"POST", "/v1/chat/completions", c.key, `{"model":"gemini/gemini-3.8-flash","messages":[{"role":"user","content":"hi"}],"audio":{}}`},
		{"POST", "/v1/chat/completions?key=x", c.key, hello},
		{"DELETE", "/v1/chat/completions", c.key, ""},
		{"POST", "/v1/embeddings", c.key, `{"model":"openai/text-embedding-3-small","input":[]}`},
		{"POST", "/v1/embeddings", c.key, `{"model":"auto","input":"x"}`},
		{"POST", "/v1/embeddings", c.key, `{"model":"gemini/gemini-embedding-2","input":[1]}`},
		{"GET", "/v1/nothing", c.key, ""},
		{"GET", "/v1/models/no-such-model", c.key, ""},
		{"GET", "/v1/requests/req_0", c.key, ""},
		{"GET", "/api/threads/none", c.key, ""},
		{"POST", "/api/keys", c.key, `{"on_unsupported":7}`},
		{"PUT", "/api/router/rules", c.key, `{"rules":[{"id":"a","when":"x >","targets":["openai"]}]}`},
	} {
		before := c.n
		c.call("ours", r.method+" "+r.path+" "+r.body, r.method, r.path, r.key, r.body)
		if c.n == before {
			t.Errorf("%s %s was not checked", r.method, r.path)
		}
	}
}
