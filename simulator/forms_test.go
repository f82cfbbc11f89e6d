package simulator

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// form is a way to ask a provider.
type form struct {
	name, provider, key string
	path                func(stream bool) string
	body                func(text string, stream, tools bool) string
	piece               func(event gjson.Result) string // of text, in an event of a stream
	ended               func(event gjson.Result) bool   // the event that says that this is all
	text                string                          // path of the text in a whole answer
	usage               string                          // of the usage, anywhere in an event or an answer
	count               string                          // the first of its numbers
}

func asked(text string) string { return string(quote(nil, text)) }

var forms = []form{
	{
		name: "gemini", provider: "gemini", key: "X-Goog-Api-Key: sk-canary-0123456789",
		path: func(stream bool) string {
			if stream {
				return "/models/gemini-3.8-flash:streamGenerateContent?alt=sse"
			}
			return "/models/gemini-3.8-flash:generateContent"
		},
		body: func(text string, _, tools bool) string {
			more := ""
			if tools {
				more = `,"tools":[{"functionDeclarations":[{"name":"get_weather","parametersJsonSchema":` + weatherSchema + `}]}]`
			}
			return `{"contents":[{"role":"user","parts":[{"text":` + asked(text) + `}]}]` + more + `}`
		},
		piece: func(e gjson.Result) string { return e.Get("candidates.0.content.parts.0.text").Str },
		ended: func(e gjson.Result) bool { return e.Get("candidates.0.finishReason").Exists() },
		text:  "candidates.0.content.parts.0.text", usage: "usageMetadata", count: "promptTokenCount",
	},
	{
		name: "agent", provider: "perplexity", key: "Authorization: Bearer sk-canary-0123456789",
		path: func(bool) string { return "/v1/responses" },
		body: func(text string, stream, tools bool) string {
			more := ""
			if tools {
				more = `,"tools":[{"type":"function","name":"get_weather","parameters":` + weatherSchema + `}]`
			}
			return fmt.Sprintf(`{"model":"openai/gpt-6-luna","input":%s,"stream":%v%s}`, asked(text), stream, more)
		},
		piece: func(e gjson.Result) string {
			if e.Get("type").Str == "response.output_text.delta" {
				return e.Get("delta").Str
			}
			return ""
		},
		ended: func(e gjson.Result) bool { return e.Get("type").Str == "response.completed" },
		text:  "output.0.content.0.text", usage: "usage", count: "input_tokens",
	},
	{
		name: "sonar", provider: "perplexity", key: "Authorization: Bearer sk-canary-0123456789",
		path: func(bool) string { return "/chat/completions" },
		body: func(text string, stream, _ bool) string {
			return fmt.Sprintf(`{"model":"sonar","messages":[{"role":"user","content":%s}],"stream":%v}`, asked(text), stream)
		},
		piece: func(e gjson.Result) string { return e.Get("choices.0.delta.content").Str },
		ended: func(e gjson.Result) bool { return e.Get("object").Str == "chat.completion.done" },
		text:  "choices.0.message.content", usage: "usage", count: "prompt_tokens",
	},
	familyForm("openai", "gpt-4.1-mini"),
	familyForm("openrouter", "openai/gpt-4.1-mini"),
}

// familyForm is the OpenAI family's.
func familyForm(provider, model string) form {
	return form{
		name: provider, provider: provider, key: "Authorization: Bearer sk-canary-0123456789",
		path: func(bool) string { return "/chat/completions" },
		body: func(text string, stream, tools bool) string {
			more := ""
			if stream {
				more = `,"stream":true`
				if provider == "openai" {
					more += `,"stream_options":{"include_usage":true}`
				}
			}
			if tools {
				more += `,"tools":[` + weather + `]`
			}
			return prompt(model, text, more)
		},
		piece: func(e gjson.Result) string { return e.Get("choices.0.delta.content").Str },
		ended: func(e gjson.Result) bool {
			return e.Get("choices.0.finish_reason").Type == gjson.String && !e.Get("error").Exists()
		},
		text: "choices.0.message.content", usage: "usage", count: "prompt_tokens",
	}
}

const weatherSchema = `{"type":"object","properties":{"city":{"type":"string"},"unit":{"type":"string","enum":["c","f"]}},"required":["city","unit"]}`

// write sends a request of the form on a connection of the caller's.
func (f *form) write(t *testing.T, s *Simulator, c io.Writer, path, body, extra string) {
	t.Helper()
	_, base, _ := strings.Cut(strings.TrimPrefix(s.URL(f.provider), "http://"), "/")
	_, err := fmt.Fprintf(c, "POST /%s%s HTTP/1.1\r\nHost: sim\r\n%s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s",
		base, path, f.key, len(body), extra, body)
	if err != nil {
		t.Fatal(err)
	}
}

// ask sends one request on a connection of its own and reads until that ends, or for at most wait.
func (f *form) ask(t *testing.T, s *Simulator, path, body string, wait time.Duration) *reply {
	t.Helper()
	c := dial(t, s)
	defer c.Close()
	begun := time.Now()
	f.write(t, s, c, path, body, "Connection: close\r\n")
	if err := c.SetReadDeadline(begun.Add(wait)); err != nil {
		t.Fatal(err)
	}
	r := &reply{}
	r.raw, r.err = io.ReadAll(c)
	r.took = time.Since(begun)
	r.parse()
	r.texts = nil
	for _, d := range r.data {
		if p := f.piece(gjson.Parse(d)); p != "" && gjson.Valid(d) {
			r.texts = append(r.texts, p)
		}
	}
	return r
}

func (f *form) finished(r *reply) int {
	n := 0
	for _, d := range r.data {
		if f.ended(gjson.Parse(d)) {
			n++
		}
	}
	return n
}

// usages are those in the events of a stream or in a whole answer.
func (f *form) usages(r *reply) (list []gjson.Result) {
	all := r.data
	if len(all) == 0 {
		all = []string{r.body}
	}
	for _, d := range all {
		for _, path := range []string{f.usage, "response." + f.usage} {
			if v := gjson.Get(d, path); v.IsObject() {
				list = append(list, v)
			}
		}
	}
	return list
}

// player asks for a fault in one form.
type player struct {
	*form
	t *testing.T
	s *Simulator
}

func (p player) play(do string, stream bool, wait time.Duration) *reply {
	p.t.Helper()
	return p.ask(p.t, p.s, p.path(stream), p.body("tell me a story [[sim "+do+"]]", stream, false), wait)
}

func (p player) check(ok bool, r *reply) {
	p.t.Helper()
	if !ok {
		p.t.Errorf("%d %v\n%q", r.code, r.err, clip(string(r.raw), 3000))
	}
}

// marked reports whether the form's streams end in [DONE].
func (f *form) marked() bool { return f.name != "gemini" && f.name != "agent" }

// formTests is what every fault looks like, whoever is played.
var formTests = map[string]func(p player){
	"reset": func(p player) {
		r := p.play("fault=reset", true, soon)
		p.check(len(r.raw) == 0 && r.reset(), r)
	},
	"close": func(p player) {
		r := p.play("fault=close", true, soon)
		p.check(len(r.raw) == 0 && r.err == nil, r)
	},
	"reset_head": func(p player) {
		r := p.play("fault=reset_head", true, soon)
		p.check(r.reset() && len(r.raw) > 0 && r.code == 0, r)
	},
	"reset_mid": func(p player) {
		r := p.play("fault=reset_mid after=3", true, soon)
		p.check(r.reset() && len(r.texts) == 3 && p.finished(r) == 0, r)
		r = p.play("fault=reset_mid", false, soon)
		p.check(r.reset() && r.cut && r.body != "", r)
	},
	"cut": func(p player) {
		r := p.play("fault=cut", true, soon)
		p.check(r.err == nil && !r.cut && len(r.texts) == 2 && p.finished(r) == 0, r)
		r = p.play("fault=cut", false, soon)
		p.check(r.err == nil && !r.cut && !json.Valid([]byte(r.body)), r)
	},
	"cut_raw": func(p player) {
		for _, stream := range []bool{true, false} {
			r := p.play("fault=cut_raw", stream, soon)
			p.check(r.err == nil && r.cut, r)
		}
	},
	"no_done": func(p player) {
		r := p.play("fault=no_done", true, soon)
		ends := 0
		if p.marked() { // it finishes before that
			ends = 1
		}
		p.check(!r.cut && len(r.texts) > 5 && p.finished(r) == ends && !r.done(), r)
	},
	"no_finish": func(p player) {
		r := p.play("fault=no_finish", true, soon)
		p.check(!r.cut && len(p.usages(r)) == 0 && !strings.Contains(r.body, `"status":"completed","background"`) && !strings.Contains(r.body, `"finishReason"`) &&
			!strings.Contains(r.body, `"finish_reason":"`), r)
		p.check(p.name != "agent" || p.finished(r) == 1, r)
	},
	"stall": func(p player) {
		r := p.play("fault=stall after=4", true, 300*time.Millisecond)
		p.check(r.timeout() && len(r.texts) == 4, r)
	},
	"silent": func(p player) {
		r := p.play("fault=silent", true, 100*time.Millisecond)
		p.check(r.timeout() && len(r.raw) == 0, r)
	},
	"drip": func(p player) {
		r := p.play("fault=drip every=20us", false, soon)
		p.check(!r.cut && json.Valid([]byte(r.body)), r)
	},
	"bad_json": func(p player) {
		r := p.play("fault=bad_json", true, soon)
		p.check(strings.Count(r.body, "\r\n") == strings.Count(r.body, "\n") || !strings.Contains(r.body, "\r"), r)
		broken := 0
		for _, d := range r.data {
			if d != "[DONE]" && !json.Valid([]byte(d)) {
				broken++
			}
		}
		p.check(broken == 1 && p.finished(r) == 1, r)
		r = p.play("fault=bad_json", false, soon)
		p.check(!r.cut && !json.Valid([]byte(r.body)), r)
	},
	"garbage": func(p player) {
		for _, stream := range []bool{true, false} {
			r := p.play("fault=garbage", stream, soon)
			p.check(r.code == 200 && strings.Contains(r.body, noise[:12]), r)
		}
	},
	"garbage_head": func(p player) {
		r := p.play("fault=garbage_head", true, soon)
		p.check(r.code == 0 && len(r.raw) > 0, r)
	},
	"oversize": func(p player) {
		r := p.play("fault=oversize size=300000 after=1", true, soon)
		p.check(len(r.texts) > 2 && len(r.texts[1]) == 300000, r)
	},
	"endless": func(p player) {
		r := p.play("fault=endless count=1", true, soon)
		p.check(len(r.raw) > 1<<20 && p.finished(r) == 0, r)
	},
	"flood": func(p player) {
		r := p.play("fault=flood count=2000", true, soon)
		p.check(len(r.data) > 2000 && p.finished(r) == 1, r)
	},
	"status": func(p player) {
		for _, code := range []int{400, 401, 403, 404, 409, 429, 500, 502, 503, 504, 529} {
			for _, stream := range []bool{true, false} {
				r := p.play(fmt.Sprintf("status=%d retry_after=7", code), stream, soon)
				p.check(r.code == code && json.Valid([]byte(r.body)) && gjson.Get(r.body, "error.message").Str != "", r)
				if p.name == "gemini" { // its header never says when to come back
					p.check(r.head.Get("Retry-After") == "" && strings.Contains(r.body, `"retryDelay": "7s"`) && gjson.Get(r.body, "error.status").Str != "", r)
				} else {
					p.check(r.head.Get("Retry-After") == "7" && (p.name == "openai" || gjson.Get(r.body, "error.code").Int() == int64(code)), r)
				}
			}
		}
	},
	"error_200": func(p player) {
		for _, stream := range []bool{true, false} {
			r := p.play("fault=error_200", stream, soon)
			p.check(r.code == 200 && gjson.Get(r.body, "error.message").Str != "" && strings.HasPrefix(r.head.Get("Content-Type"), "application/json"), r)
		}
	},
	"error_first": func(p player) {
		r := p.play("fault=error_first", true, soon)
		p.check(r.code == 200 && len(r.data) == 1 && gjson.Get(r.data[0], "error.message").Str != "", r)
	},
	"error_mid": func(p player) {
		r := p.play("fault=error_mid", true, soon)
		p.check(len(r.texts) == 2 && !r.cut && gjson.Get(r.data[len(r.data)-1], "error.message").Str != "" && p.finished(r) == 0, r)
	},
	"cl_long":      func(p player) { p.length("cl_long", 100) },
	"cl_short":     func(p player) { p.length("cl_short", -10) },
	"cl_negative":  func(p player) { p.lengths("cl_negative", "\r\nContent-Length: -1\r\n", 1) },
	"cl_duplicate": func(p player) { p.lengths("cl_duplicate", "\r\nContent-Length: ", 2) },
	"http10": func(p player) {
		r := p.play("fault=http10", true, soon)
		p.check(bytes.HasPrefix(r.raw, []byte("HTTP/1.0 200 OK\r\n")) && p.finished(r) == 1, r)
		r = p.play("fault=http10 after=3", true, soon)
		p.check(len(r.texts) == 3 && p.finished(r) == 0, r)
	},
	"gzip": func(p player) {
		for _, stream := range []bool{true, false} {
			r := p.play("fault=gzip", stream, soon)
			z, err := gzip.NewReader(strings.NewReader(r.body))
			if err != nil {
				p.t.Fatal(err)
			}
			plain, err := io.ReadAll(z)
			p.check(err == nil && bytes.Contains(plain, []byte(`"`+p.count+`":`)), r)
		}
	},
	"bad_encoding": func(p player) {
		r := p.play("fault=bad_encoding", true, soon)
		p.check(r.head.Get("Content-Encoding") == "x-sim", r)
	},
	"bad_utf8": func(p player) {
		for _, stream := range []bool{true, false} {
			r := p.play("fault=bad_utf8", stream, soon)
			p.check(!utf8.ValidString(r.body) && !r.cut, r)
		}
	},
	"split_rune": func(p player) {
		r := p.play("fault=split_rune", true, soon)
		split := false
		for _, chunk := range bytes.Split(r.raw, []byte("\r\n")) {
			split = split || !utf8.Valid(chunk)
		}
		p.check(split && strings.Contains(strings.Join(r.texts, ""), "👩‍👧 õ 你好 ∑"), r)
	},
	"lone_surrogate": func(p player) {
		for _, stream := range []bool{true, false} {
			r := p.play("fault=lone_surrogate chunks=4", stream, soon)
			p.check(strings.Contains(r.body, `\ud83d `) && utf8.ValidString(r.body), r)
		}
	},
	"nul": func(p player) {
		r := p.play("fault=nul", true, soon)
		p.check(strings.Contains(strings.Join(r.texts, ""), "nul \x00 here") && !strings.Contains(r.body, "\x00"), r)
	},
	"double_done": func(p player) {
		r := p.play("fault=double_done", true, soon)
		p.check(p.marked() && strings.Count(r.body, "[DONE]") == 2 || !p.marked() && p.finished(r) == 2, r)
	},
	"after_done": func(p player) {
		r := p.play("fault=after_done", true, soon)
		p.check(!r.done() && r.texts[len(r.texts)-1] == "after the end" && p.finished(r) == 1, r)
	},
	"no_usage": func(p player) {
		for _, stream := range []bool{true, false} {
			r := p.play("fault=no_usage", stream, soon)
			p.check(len(p.usages(r)) == 0 && (p.finished(r) == 1 || !stream), r)
			if a := last(p.t, p.s); a.Usage != nil || a.UsageRaw != "" {
				p.t.Errorf("logged %v %q", a.Usage, a.UsageRaw)
			}
		}
	},
	"zero_usage": func(p player) {
		for _, stream := range []bool{true, false} {
			r := p.play("fault=zero_usage", stream, soon)
			all := p.usages(r)
			a := last(p.t, p.s)
			p.check(len(all) > 0 && all[len(all)-1].Get(p.count).Raw == "0" && a.Usage != nil && *a.Usage == Usage{}, r)
		}
	},
	"usage_twice": func(p player) {
		r := p.play("fault=usage_twice", true, soon)
		all := p.usages(r)
		a := last(p.t, p.s)
		p.check(len(all) > 1 && all[0].Get(p.count).Int() == 1 && a.Usage != nil && all[len(all)-1].Get(p.count).Int() == a.Usage.Prompt, r)
	},
	"usage_first": func(p player) {
		r := p.play("fault=usage_first", true, soon)
		all := p.usages(r)
		a := last(p.t, p.s)
		said := slices.IndexFunc(r.data, func(d string) bool { return p.piece(gjson.Parse(d)) != "" })
		told := slices.IndexFunc(r.data, func(d string) bool { return strings.Contains(d, p.count) })
		p.check(len(all) == 1 && a.Usage != nil && a.Usage.Prompt == all[0].Get(p.count).Int() && told <= said, r)
	},
	"hostile_usage": func(p player) {
		for kind, want := range map[string]string{"negative": "-1", "huge": "1e30", "string": `"12"`, "fraction": "1.5", "null": "null", "array": "[1]"} {
			for _, stream := range []bool{true, false} {
				r := p.play("fault=hostile_usage kind="+kind, stream, soon)
				all := p.usages(r)
				a := last(p.t, p.s)
				got := ""
				if len(all) > 0 {
					got = strings.Join(strings.Fields(all[len(all)-1].Get(p.count).Raw), "")
				}
				p.check(got == want && a.Usage == nil && a.UsageRaw != "", r)
			}
		}
	},
	"wrong_model": func(p player) {
		for _, stream := range []bool{true, false} {
			r := p.play("fault=wrong_model", stream, soon)
			p.check(strings.Contains(r.body, `"sim-other"`), r)
		}
	},
	"wrong_id": func(p player) {
		ids, n := map[string]bool{}, 0
		r := p.play("fault=wrong_id", true, soon)
		for _, d := range r.data {
			for _, path := range []string{"responseId", "id", "item_id"} {
				if v := gjson.Get(d, path); v.Exists() {
					ids[v.Str] = true
					n++
				}
			}
		}
		p.check(n > 5 && len(ids) == n, r)
	},
	"fewer": func(p player) { // of embeddings: see TestEmbeddingsFaults
		r := p.play("fault=fewer", false, soon)
		p.check(r.code == 200, r)
	},
	"switching": func(p player) {
		r := p.play("fault=switching", true, soon)
		p.check(bytes.HasPrefix(r.raw, []byte("HTTP/1.1 101 ")), r)
	},
	"interim_flood": func(p player) {
		r := p.play("fault=interim_flood count=50", true, soon)
		p.check(bytes.Count(r.raw, []byte("HTTP/1.1 103 ")) == 50 && bytes.Count(r.raw, []byte("HTTP/1.1 200 OK\r\n")) == 1, r)
	},
	"redirect": func(p player) {
		r := p.play("fault=redirect", true, soon)
		p.check(r.code == 302 && r.head.Get("Location") == p.s.URL(p.provider)+"/_trap", r)
		p.ask(p.t, p.s, "/_trap", "{}", soon)
		if a := last(p.t, p.s); a.Path != "/_trap" || a.Status != 404 {
			p.t.Errorf("the trap is not in the log: %+v", a)
		}
	},
	"set_cookie": func(p player) {
		r := p.play("fault=set_cookie", true, soon)
		p.check(r.head.Get("Set-Cookie") != "" && p.finished(r) == 1, r)
	},
	"huge_header": func(p player) {
		r := p.play("fault=huge_header size=100000", false, soon)
		p.check(len(r.head.Get("X-Sim-Huge")) == 100000, r)
	},
	"many_headers": func(p player) {
		r := p.play("fault=many_headers count=700", false, soon)
		p.check(len(r.head) >= 700, r)
	},
	"args_split": func(p player) {
		if p.name == "sonar" { // its models call nothing
			r := p.play("fault=args_split", true, soon)
			p.check(p.finished(r) == 1, r)
			return
		}
		if p.provider == "openai" || p.provider == "openrouter" { // they send them in pieces, each an event
			r := p.ask(p.t, p.s, p.path(true), p.body("call the tool [[sim fault=args_split]]", true, true), soon)
			args, pieces := "", 0
			for _, d := range r.data {
				if v := gjson.Get(d, "choices.0.delta.tool_calls.0.function.arguments").Str; v != "" {
					args += v
					pieces++
				}
			}
			p.check(args == `{"city":"Tartu","unit":"c"}` && pieces == len(args), r)
			return
		}
		for _, do := range []string{"fault=args_split", "fault=args_split at=7"} {
			r := p.ask(p.t, p.s, p.path(true), p.body("call the tool [[sim "+do+"]]", true, true), soon)
			small := 0
			for _, chunk := range bytes.Split(r.raw, []byte("\r\n")) {
				if string(chunk) == "1" { // the size of a chunk of one byte
					small++
				}
			}
			first := map[string]string{"gemini": `{"city"`, "agent": `"{\"cit`}[p.name] // seven bytes of them
			p.check(p.finished(r) == 1 && strings.Contains(r.body, "Tartu") && (small > 10) == (do == "fault=args_split") &&
				bytes.Contains(r.raw, []byte(first+"\r\n")) == strings.HasSuffix(do, "at=7"), r)
		}
	},
	"stale": func(p player) {
		c := dial(p.t, p.s)
		p.write(p.t, p.s, c, p.path(false), p.body("[[sim fault=stale]]", false, false), "")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != 200 {
			p.t.Fatalf("%v", err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		p.write(p.t, p.s, c, p.path(false), p.body("again", false, false), "X-Client-Request-Id: second\r\n")
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			p.t.Errorf("%d bytes came", n)
		}
		if a := last(p.t, p.s); a.End != "stale" || a.Name != "second" {
			p.t.Errorf("%+v", a)
		}
	},
	"echo_key": func(p player) {
		code := 401
		if p.name == "gemini" {
			code = 400
		}
		r := p.play("fault=echo_key", true, soon)
		p.check(r.code == code && strings.Contains(r.body, "sk-canary-0123456789"), r)
		r = p.play("fault=echo_key after=1", true, soon)
		p.check(r.code == 200 && len(r.texts) == 1 && strings.Contains(r.data[len(r.data)-1], "sk-canary-0123456789"), r)
		last(p.t, p.s)
		if bytes.Contains(logLines(p.s.Log()), []byte("sk-canary")) {
			p.t.Error("the key is in the log")
		}
	},
	"html": func(p player) {
		r := p.play("fault=html", true, soon)
		p.check(r.code == 502 && strings.HasPrefix(r.body, "<html>"), r)
	},
	"wrong_type": func(p player) {
		r := p.play("fault=wrong_type", true, soon)
		p.check(strings.HasPrefix(r.head.Get("Content-Type"), "text/plain"), r)
	},
	"json_instead": func(p player) {
		r := p.play("fault=json_instead", true, soon)
		p.check(strings.HasPrefix(r.head.Get("Content-Type"), "application/json") && strings.HasPrefix(gjson.Get(r.body, p.text).Str, "You said"), r)
	},
	"empty": func(p player) {
		r := p.play("fault=empty", true, soon)
		p.check(r.code == 200 && r.body == "", r)
	},
	"comments_only": func(p player) {
		r := p.play("fault=comments_only", true, soon)
		p.check(len(r.data) == 0 && strings.HasPrefix(r.body, ":"), r)
	},
	"bom": func(p player) {
		for _, stream := range []bool{true, false} {
			r := p.play("fault=bom", stream, soon)
			p.check(strings.HasPrefix(r.body, "\xef\xbb\xbf"), r)
		}
	},
	"cr_only": func(p player) {
		r := p.play("fault=cr_only", true, soon)
		p.check(!strings.Contains(r.body, "\n") && strings.HasSuffix(r.body, "\r\r"), r)
	},
	"crlf": func(p player) {
		r := p.play("fault=crlf", true, soon)
		p.check(strings.HasSuffix(r.body, "\r\n\r\n") && strings.Count(r.body, "\r\n") == strings.Count(r.body, "\n"), r)
	},
	"lf": func(p player) {
		r := p.play("fault=lf", true, soon)
		p.check(!strings.Contains(r.body, "\r") && p.finished(r) == 1, r)
	},
	"no_space": func(p player) {
		r := p.play("fault=no_space", true, soon)
		p.check(!strings.Contains(r.body, "data: ") && p.finished(r) == 1, r)
	},
	"multi_line": func(p player) {
		r := p.play("fault=multi_line", true, soon)
		body := strings.ReplaceAll(r.body, "\r\n", "\n")
		for _, frame := range strings.Split(strings.TrimSpace(body), "\n\n") {
			var payload []string
			for _, line := range strings.Split(frame, "\n") {
				if d, ok := strings.CutPrefix(line, "data: "); ok {
					payload = append(payload, d)
				}
			}
			if len(payload) > 0 && payload[0] != "[DONE]" { // else a comment
				p.check(len(payload) == 2 && json.Valid([]byte(strings.Join(payload, "\n"))), r)
			}
		}
	},
	"no_final_blank": func(p player) {
		r := p.play("fault=no_final_blank", true, soon)
		p.check(!strings.HasSuffix(r.body, "\n") && !r.cut, r)
	},
}

func (p player) length(fault string, off int) {
	p.t.Helper()
	for _, stream := range []bool{true, false} {
		r := p.play("fault="+fault, stream, soon)
		n := -1
		_, _ = fmt.Sscan(r.head.Get("Content-Length"), &n)
		p.check(n == bodyBytes(r)+off, r)
	}
}

func (p player) lengths(fault, line string, times int) {
	p.t.Helper()
	for _, stream := range []bool{true, false} {
		r := p.play("fault="+fault, stream, soon)
		head, _, _ := bytes.Cut(r.raw, []byte("\r\n\r\n"))
		p.check(bytes.Count(append(head, "\r\n"...), []byte(line)) == times && bodyBytes(r) > 0, r)
	}
}

func TestEachFaultIsPlayedInEachForm(t *testing.T) {
	for i := range forms {
		f := &forms[i]
		for _, fault := range Faults() {
			test := formTests[fault.Name]
			if test == nil {
				t.Fatalf("no test for %s", fault.Name)
			}
			t.Run(f.name+"/"+fault.Name, func(t *testing.T) {
				t.Parallel()
				s := start(t, Options{})
				test(player{f, t, s})
				for _, a := range s.Log() {
					if a.Path != "/_trap" && a.Fault != fault.Name {
						t.Errorf("logged as fault %q", a.Fault)
					}
				}
			})
		}
	}
}

// Each row of the fault matrix that is about providers has a fault, which the test above plays in each form; but two,
// which are no matter of an answer's bytes: nobody listens (U1, see below), and another certificate or address (U24),
// which is left to those who put TLS in front.
func TestEachRowHasAFault(t *testing.T) {
	rows := map[string]bool{"U1": true, "U24": true}
	for _, f := range Faults() {
		for _, row := range strings.Fields(f.Row) {
			rows[row] = true
		}
	}
	for n := range 25 {
		if row := fmt.Sprintf("U%d", n+1); !rows[row] {
			t.Errorf("nothing plays %s", row)
		}
	}
	if len(rows) != 25 {
		t.Errorf("there are more rows than in the matrix: %v", rows)
	}
}

// U1: whoever asks a provider that is closed is refused.
func TestNobodyListensOnceClosed(t *testing.T) {
	s := New(Options{})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", s.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v %v", c, err)
	}
}

// What is true of good answers is true in each form: the stream says what the whole answer says, the usage is the same,
// and the log holds both.
func TestFormsAgreeWithThemselves(t *testing.T) {
	s := start(t, Options{Note: "(simulated)"})
	for i := range forms {
		f := &forms[i]
		for _, text := range []string{
			"hi", "👩‍👩‍👧‍👦 你好 é \x00\"\\\n\u2028 end", "[[sim size=20000]]", "[[sim chunks=3 text=ab]]", "please refuse",
			"[[sim prompt_tokens=2000 completion_tokens=30 cached_tokens=128 reasoning_tokens=4]]",
		} {
			if text == "please refuse" && (f.provider == "openai" || f.provider == "openrouter") { // they do, which is no text
				continue
			}
			whole := f.ask(t, s, f.path(false), f.body(text, false, false), soon)
			a := last(t, s)
			r := f.ask(t, s, f.path(true), f.body(text, true, false), soon)
			b := last(t, s)
			said := gjson.Get(whole.body, f.text).Str
			if r.cut || said == "" || said != strings.Join(r.texts, "") || a.Text != said || b.Text != said || f.finished(r) != 1 {
				t.Errorf("%s %q: %q and %q, logged %q and %q", f.name, text, said, r.texts, a.Text, b.Text)
			}
			if a.Usage == nil || b.Usage == nil || *a.Usage != *b.Usage || a.Usage.Total != a.Usage.Prompt+a.Usage.Completion ||
				a.End != EndComplete || b.End != EndComplete || !b.Stream || a.Stream || a.Model == "" || a.KeyHash != KeyHash("sk-canary-0123456789") {
				t.Errorf("%s %q: %+v and %+v", f.name, text, a.Usage, b.Usage)
			}
			if (f.provider == "perplexity" || f.provider == "openrouter") != (a.Usage.CostPico > 0) {
				t.Errorf("%s costs %d", f.name, a.Usage.CostPico)
			}
			for _, d := range r.data {
				if d != "[DONE]" && (!json.Valid([]byte(d)) || !utf8.ValidString(d)) {
					t.Errorf("%s: %q is not JSON", f.name, d)
				}
			}
			if !json.Valid([]byte(whole.body)) {
				t.Errorf("%s: %q is not JSON", f.name, whole.body)
			}
		}
		if a := last(t, s); a.Usage.Prompt != 2000 || a.Usage.Completion != 30 {
			t.Errorf("%s: %+v", f.name, a.Usage)
		}
	}
	for _, a := range s.Log() {
		if a.Header.Get("Authorization") != "" || a.Header.Get("X-Goog-Api-Key") != "" {
			t.Error("the log holds a key")
		}
	}
}

func TestScriptsMatchWhereModelsAreAsked(t *testing.T) {
	s := start(t, Options{})
	for i := range forms {
		f := &forms[i]
		if err := s.Play(Script{Provider: f.provider, Match: "apple", Times: 1, Do: "status=503"}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{503, 200} {
			if r := f.ask(t, s, f.path(false), f.body("an apple", false, false), soon); r.code != want {
				t.Errorf("%s: %d, want %d", f.name, r.code, want)
			}
		}
		if r := f.ask(t, s, f.path(false), f.body("[[sim fault=nonsense]]", false, false), soon); r.code != 400 || !strings.Contains(r.body, "does not understand the directive") {
			t.Errorf("%s: %d %s", f.name, r.code, r.body)
		}
		for _, want := range []int{503, 503, 200} {
			if r := f.ask(t, s, f.path(false), f.body("x [[sim status=503 times=2]] "+f.name, false, false), soon); r.code != want {
				t.Errorf("%s: %d, want %d", f.name, r.code, want)
			}
		}
	}
}
