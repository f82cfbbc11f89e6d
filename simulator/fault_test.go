package simulator

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// play asks for a fault, as a stream (with usage) or whole.
func play(t *testing.T, s *Simulator, do string, stream bool, wait time.Duration) *reply {
	t.Helper()
	more := ""
	if stream {
		more = `,"stream":true,"stream_options":{"include_usage":true}`
	}
	return ask(t, s, "openai", prompt("gpt-4.1-mini", "tell me a story [[sim "+do+"]]", more), wait)
}

// soon is as long as a busy machine may take for what takes no time.
const soon = time.Minute

// faultTests has one test for each fault: what its name says is what happens on the socket.
var faultTests = map[string]func(t *testing.T, s *Simulator){
	"reset": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=reset", true, soon); len(r.raw) > 0 || !r.reset() {
			t.Errorf("%q %v", r.raw, r.err)
		}
	},
	"close": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=close", true, soon); len(r.raw) > 0 || r.err != nil {
			t.Errorf("%q %v", r.raw, r.err)
		}
	},
	"reset_head": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=reset_head", true, soon)
		if !r.reset() || !bytes.HasPrefix(r.raw, []byte("HTTP/1.1 200 OK\r\n")) || bytes.Contains(r.raw, []byte("\r\n\r\n")) {
			t.Errorf("%q %v", r.raw, r.err)
		}
	},
	"reset_mid": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=reset_mid after=3", true, soon); !r.reset() || len(r.texts) != 3 || r.done() {
			t.Errorf("%q %v", r.texts, r.err)
		}
		if r := play(t, s, "fault=reset_mid", false, soon); !r.reset() || !r.cut || len(r.body) == 0 {
			t.Errorf("whole: %q %v", r.body, r.err)
		}
	},
	"cut": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=cut after=0", true, soon); r.err != nil || r.cut || len(r.texts) != 0 || len(r.data) != 1 {
			t.Errorf("%q %v", r.data, r.err)
		}
		if r := play(t, s, "fault=cut", false, soon); r.err != nil || r.cut || json.Valid([]byte(r.body)) || r.body == "" {
			t.Errorf("whole: %q %v", r.body, r.err)
		}
	},
	"cut_raw": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=cut_raw", true, soon); r.err != nil || !r.cut || len(r.texts) != 2 {
			t.Errorf("%q %v", r.texts, r.err)
		}
		if r := play(t, s, "fault=cut_raw", false, soon); r.err != nil || !r.cut {
			t.Errorf("whole: %q %v", r.body, r.err)
		}
	},
	"no_done": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=no_done", true, soon)
		if r.cut || r.done() || !strings.Contains(r.body, `"finish_reason":"stop"`) || !strings.Contains(r.body, `"usage":{`) {
			t.Errorf("%q", r.body)
		}
	},
	"no_finish": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=no_finish", true, soon)
		if r.cut || !r.done() || strings.Contains(r.body, `"finish_reason":"`) || strings.Contains(r.body, `"usage":{`) {
			t.Errorf("%q", r.body)
		}
	},
	"stall": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=stall after=4", true, time.Second); !r.timeout() || len(r.texts) != 4 {
			t.Errorf("%q %v", r.texts, r.err)
		}
		if a := last(t, s); a.End != EndClientGone || a.Fault != "stall" {
			t.Errorf("logged as %s, %s", a.End, a.Fault)
		}
		body := prompt("openai/gpt-4.1-mini", "[[sim fault=stall comments=5ms]]", `,"stream":true`)
		if r := ask(t, s, "openrouter", body, time.Second); strings.Count(r.body, processing) < 5 {
			t.Errorf("few comments in %q", r.body)
		}
	},
	"silent": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=silent", true, 100*time.Millisecond); !r.timeout() || len(r.raw) > 0 {
			t.Errorf("%q %v", r.raw, r.err)
		}
	},
	"drip": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=drip every=100us", false, soon)
		if r.cut || !json.Valid([]byte(r.body)) || r.took < time.Duration(len(r.raw))*100*time.Microsecond {
			t.Errorf("%d bytes in %v", len(r.raw), r.took)
		}
	},
	"bad_json": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=bad_json", true, soon)
		broken := 0
		for _, d := range r.data {
			if d != "[DONE]" && !json.Valid([]byte(d)) {
				broken++
			}
		}
		if broken != 1 || !r.done() {
			t.Errorf("%d broken events in %q", broken, r.body)
		}
		if r := play(t, s, "fault=bad_json", false, soon); r.cut || json.Valid([]byte(r.body)) {
			t.Errorf("whole: %q", r.body)
		}
	},
	"garbage": func(t *testing.T, s *Simulator) {
		for _, stream := range []bool{true, false} {
			if r := play(t, s, "fault=garbage", stream, soon); r.code != 200 || !strings.Contains(r.body, noise[:12]) {
				t.Errorf("%q", r.body)
			}
		}
	},
	"garbage_head": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=garbage_head", true, soon); r.code != 0 || len(r.raw) == 0 {
			t.Errorf("%q", r.raw)
		}
	},
	"oversize": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=oversize size=300000 after=1", true, soon)
		if len(r.texts) < 3 || len(r.texts[1]) != 300000 || !r.done() {
			t.Errorf("%d pieces, %d bytes", len(r.texts), len(r.raw))
		}
	},
	"endless": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=endless count=1", true, soon)
		if len(r.body) < 1<<20 || strings.Count(r.body[len(r.body)-(1<<20):], "\n") != 0 {
			t.Errorf("%d bytes", len(r.body))
		}
	},
	"flood": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=flood count=20000", true, soon); len(r.data) < 20000 || !r.done() {
			t.Errorf("%d events", len(r.data))
		}
	},
	"status": func(t *testing.T, s *Simulator) {
		for _, status := range []int{400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 524, 529} {
			for _, stream := range []bool{true, false} {
				r := play(t, s, fmt.Sprintf("status=%d retry_after=2 should_retry=false", status), stream, soon)
				if r.code != status || r.head.Get("Retry-After") != "2" || r.head.Get("X-Should-Retry") != "false" || !strings.Contains(r.body, `"error":`) {
					t.Errorf("%d %v %s", r.code, r.head, r.body)
				}
			}
		}
		r := play(t, s, "status=503 retry_after_date=60", true, soon)
		when, err := time.Parse(time.RFC1123, r.head.Get("Retry-After"))
		if left := time.Until(when); err != nil || left < 50*time.Second || left > 61*time.Second {
			t.Errorf("%v %v", r.head, err)
		}
	},
	"error_200": func(t *testing.T, s *Simulator) {
		for _, stream := range []bool{true, false} {
			r := play(t, s, "fault=error_200", stream, soon)
			if r.code != 200 || !strings.HasPrefix(r.body, `{"error":`) || r.head.Get("Content-Type") != "application/json" {
				t.Errorf("%d %q", r.code, r.body)
			}
		}
	},
	"error_first": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=error_first", true, soon); len(r.data) != 1 || !strings.HasPrefix(r.data[0], `{"error":`) || r.code != 200 {
			t.Errorf("%q", r.body)
		}
		r := ask(t, s, "openrouter", prompt("openai/gpt-4.1-mini", "[[sim fault=error_first code=server_error]]", `,"stream":true`), soon)
		if !strings.HasPrefix(r.body, processing) || len(r.data) != 1 || !strings.HasPrefix(r.data[0], `{"error":{"code":"server_error"`) {
			t.Errorf("%q", r.body)
		}
	},
	"error_mid": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=error_mid after=2", true, soon)
		if len(r.texts) != 2 || r.done() || r.cut || !strings.HasPrefix(r.data[len(r.data)-1], `{"error":`) {
			t.Errorf("%q", r.data)
		}
	},
	"cl_long":      func(t *testing.T, s *Simulator) { wrongLength(t, s, "cl_long", 100) },
	"cl_short":     func(t *testing.T, s *Simulator) { wrongLength(t, s, "cl_short", -10) },
	"cl_negative":  func(t *testing.T, s *Simulator) { badLength(t, s, "cl_negative", "\r\nContent-Length: -1\r\n", 1) },
	"cl_duplicate": func(t *testing.T, s *Simulator) { badLength(t, s, "cl_duplicate", "\r\nContent-Length: ", 2) },
	"http10": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=http10", true, soon)
		if !bytes.HasPrefix(r.raw, []byte("HTTP/1.0 200 OK\r\n")) || !r.done() || r.head.Get("Content-Length") != "" || len(r.head["Transfer-Encoding"]) > 0 {
			t.Errorf("%q", r.raw)
		}
		if r := play(t, s, "fault=http10 after=3", true, soon); r.done() || len(r.texts) != 3 || r.err != nil {
			t.Errorf("cut: %q", r.raw)
		}
		if r := play(t, s, "fault=http10", false, soon); !json.Valid([]byte(r.body)) || bytes.Contains(r.raw, []byte("Content-Length")) {
			t.Errorf("whole: %q", r.raw)
		}
	},
	"gzip": func(t *testing.T, s *Simulator) {
		for _, stream := range []bool{true, false} {
			r := play(t, s, "fault=gzip", stream, soon)
			z, err := gzip.NewReader(strings.NewReader(r.body))
			if err != nil || r.head.Get("Content-Encoding") != "gzip" || r.cut {
				t.Fatalf("%v %v", err, r.head)
			}
			plain, err := io.ReadAll(z)
			if err != nil || !strings.Contains(string(plain), `"object":"chat.completion`) {
				t.Errorf("%v %q", err, plain)
			}
		}
	},
	"bad_encoding": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=bad_encoding", true, soon); r.head.Get("Content-Encoding") != "x-sim" {
			t.Errorf("%v", r.head)
		}
	},
	"bad_utf8": func(t *testing.T, s *Simulator) {
		for _, stream := range []bool{true, false} {
			if r := play(t, s, "fault=bad_utf8", stream, soon); utf8.ValidString(r.body) || r.cut {
				t.Errorf("%q", r.body)
			}
		}
	},
	"split_rune": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=split_rune", true, soon)
		if !strings.Contains(strings.Join(r.texts, ""), "👩‍👧 õ 你好 ∑") || !r.done() {
			t.Errorf("%q", r.texts)
		}
		split := false
		for _, chunk := range bytes.Split(r.raw, []byte("\r\n")) {
			split = split || !utf8.Valid(chunk)
		}
		if !split {
			t.Error("no HTTP chunk ends within a rune")
		}
	},
	"lone_surrogate": func(t *testing.T, s *Simulator) {
		for _, stream := range []bool{true, false} {
			if r := play(t, s, "fault=lone_surrogate chunks=4", stream, soon); !strings.Contains(r.body, `\ud83d `) || !utf8.ValidString(r.body) {
				t.Errorf("%q", r.body)
			}
		}
	},
	"nul": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=nul", true, soon); !strings.Contains(strings.Join(r.texts, ""), "nul \x00 here") || strings.Contains(r.body, "\x00") {
			t.Errorf("%q", r.body)
		}
	},
	"double_done": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=double_done", true, soon); strings.Count(r.body, "data: [DONE]\n\n") != 2 {
			t.Errorf("%q", r.body)
		}
	},
	"after_done": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=after_done", true, soon); r.done() || r.data[len(r.data)-2] != "[DONE]" || r.texts[len(r.texts)-1] != "after the end" {
			t.Errorf("%q", r.body)
		}
	},
	"no_usage": func(t *testing.T, s *Simulator) {
		for _, stream := range []bool{true, false} {
			if r := play(t, s, "fault=no_usage", stream, soon); strings.Contains(r.body, `"usage":{`) || !strings.Contains(r.body, `"finish_reason":"stop"`) {
				t.Errorf("%q", r.body)
			}
			if a := last(t, s); a.Usage != nil || a.UsageRaw != "" {
				t.Errorf("logged %v %q", a.Usage, a.UsageRaw)
			}
		}
	},
	"zero_usage": func(t *testing.T, s *Simulator) {
		for _, stream := range []bool{true, false} {
			r := play(t, s, "fault=zero_usage", stream, soon)
			if a := last(t, s); !strings.Contains(r.body, `"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}`) || a.Usage == nil || *a.Usage != (Usage{}) {
				t.Errorf("%q, logged %v", r.body, a.Usage)
			}
		}
	},
	"usage_twice": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=usage_twice", true, soon)
		if a := last(t, s); strings.Count(r.body, `"usage":{`) != 2 || a.Usage == nil || a.Usage.Prompt < 10 {
			t.Errorf("%q, logged %v", r.body, a.Usage)
		}
	},
	"usage_first": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=usage_first", true, soon)
		if i, j := strings.Index(r.body, `"usage":{`), strings.Index(r.body, `"content":"You`); i < 0 || j < i {
			t.Errorf("%q", r.body)
		}
	},
	"hostile_usage": func(t *testing.T, s *Simulator) {
		for kind, want := range map[string]string{"negative": "-1", "huge": "1e30", "string": `"12"`, "fraction": "1.5", "null": "null", "array": "[1]"} {
			for _, stream := range []bool{true, false} {
				r := play(t, s, "fault=hostile_usage kind="+kind, stream, soon)
				if a := last(t, s); !strings.Contains(r.body, `"usage":{"prompt_tokens":`+want+`,`) || a.Usage != nil || a.UsageRaw == "" {
					t.Errorf("%s: %q, logged %v", kind, r.body, a.Usage)
				}
			}
		}
	},
	"wrong_model": func(t *testing.T, s *Simulator) {
		for _, stream := range []bool{true, false} {
			if r := play(t, s, "fault=wrong_model", stream, soon); !strings.Contains(r.body, `"model":"sim-other"`) || strings.Contains(r.body, "gpt") {
				t.Errorf("%q", r.body)
			}
		}
	},
	"wrong_id": func(t *testing.T, s *Simulator) {
		ids := map[string]bool{}
		r := play(t, s, "fault=wrong_id", true, soon)
		for _, d := range r.data[:len(r.data)-1] {
			ids[strings.SplitN(d, `"`, 5)[3]] = true
		}
		if len(ids) != len(r.data)-1 {
			t.Errorf("%d ids in %d events", len(ids), len(r.data)-1)
		}
	},
	"fewer": func(t *testing.T, s *Simulator) {
		_, body := fetch(t, "POST", s.URL("openai")+"/embeddings", "k", `{"model":"sim-1","input":["one","[[sim fault=fewer]] two"]}`)
		if strings.Count(body, `"index"`) != 1 {
			t.Errorf("%q", body)
		}
	},
	"switching": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=switching", true, soon); !bytes.HasPrefix(r.raw, []byte("HTTP/1.1 101 ")) {
			t.Errorf("%q", r.raw)
		}
	},
	"interim_flood": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=interim_flood count=50", true, soon)
		if bytes.Count(r.raw, []byte("HTTP/1.1 103 ")) != 50 || bytes.Count(r.raw, []byte("HTTP/1.1 200 OK\r\n")) != 1 || !bytes.Contains(r.raw, []byte("[DONE]")) {
			t.Errorf("%q", r.raw)
		}
	},
	"redirect": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=redirect", true, soon)
		if r.code != 302 || r.head.Get("Location") != s.URL("openai")+"/_trap" {
			t.Errorf("%d %v", r.code, r.head)
		}
		fetch(t, "POST", r.head.Get("Location"), "k", "{}")
		if a := last(t, s); a.Path != "/_trap" || a.Status != 404 {
			t.Errorf("the trap is not in the log: %+v", a)
		}
	},
	"set_cookie": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=set_cookie", true, soon); r.head.Get("Set-Cookie") == "" || !r.done() {
			t.Errorf("%v", r.head)
		}
	},
	"huge_header": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=huge_header size=100000", false, soon); len(r.head.Get("X-Sim-Huge")) != 100000 || !json.Valid([]byte(r.body)) {
			t.Errorf("%d bytes", len(r.raw))
		}
	},
	"many_headers": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=many_headers count=700", false, soon); len(r.head) < 700 {
			t.Errorf("%d headers", len(r.head))
		}
	},
	"args_split": func(t *testing.T, s *Simulator) {
		const want = `{"city":"Tartu","unit":"c"}`
		for at := range len(want) {
			do := fmt.Sprintf("fault=args_split at=%d", at)
			if at == 0 {
				do = "fault=args_split"
			}
			r := ask(t, s, "openai", prompt("gpt-4.1-mini", "call the tool [[sim "+do+"]]", `,"stream":true,"tools":[`+weather+`]`), soon)
			var pieces []string
			for _, d := range r.data {
				var c struct {
					Choices []struct {
						Delta struct {
							ToolCalls []struct {
								ID       string
								Function struct{ Arguments string }
							} `json:"tool_calls"`
						}
					}
				}
				_ = json.Unmarshal([]byte(d), &c)
				if len(c.Choices) == 1 && len(c.Choices[0].Delta.ToolCalls) == 1 && c.Choices[0].Delta.ToolCalls[0].ID == "" {
					pieces = append(pieces, c.Choices[0].Delta.ToolCalls[0].Function.Arguments)
				}
			}
			n := 2
			if at == 0 {
				n = len(want)
			}
			if strings.Join(pieces, "") != want || len(pieces) != n || at > 0 && len(pieces[0]) != at {
				t.Errorf("%s: %q", do, pieces)
			}
		}
	},
	"stale": func(t *testing.T, s *Simulator) {
		c := dial(t, s)
		first := prompt("gpt-4.1-mini", "[[sim fault=stale]]", "")
		post(t, s, c, "openai", first, "")
		if got := readWhole(t, c); !strings.Contains(got, "200 OK") {
			t.Fatalf("%q", got)
		}
		before := len(s.Log())
		post(t, s, c, "openai", prompt("gpt-4.1-mini", "again", ""), "X-Client-Request-Id: second\r\n")
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%d bytes came", n)
		}
		if a := last(t, s); a.End != "stale" || a.Name != "second" || a.Body != nil || len(s.Log()) != before+1 {
			t.Errorf("%+v", a)
		}
	},
	"echo_key": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=echo_key", true, soon)
		if r.code != 401 || !strings.Contains(r.body, "sk-canary-0123456789") {
			t.Errorf("%d %q", r.code, r.body)
		}
		r = play(t, s, "fault=echo_key after=1", true, soon)
		if r.code != 200 || len(r.texts) != 1 || !strings.Contains(r.data[len(r.data)-1], "sk-canary-0123456789") {
			t.Errorf("%d %q", r.code, r.body)
		}
		last(t, s)
		if lines := logLines(s.Log()); bytes.Contains(lines, []byte("sk-canary")) || bytes.Contains(s.Log()[0].Sent, []byte("sk-canary")) {
			t.Errorf("the key is in the log: %s", lines)
		}
	},
	"html": func(t *testing.T, s *Simulator) {
		for do, code := range map[string]int{"fault=html": 502, "fault=html status=200": 200} {
			if r := play(t, s, do, true, soon); r.code != code || !strings.HasPrefix(r.head.Get("Content-Type"), "text/html") || !strings.HasPrefix(r.body, "<html>") {
				t.Errorf("%d %q", r.code, r.body)
			}
		}
	},
	"wrong_type": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=wrong_type", true, soon); !strings.HasPrefix(r.head.Get("Content-Type"), "text/plain") || !strings.Contains(r.body, "[DONE]") {
			t.Errorf("%v", r.head)
		}
	},
	"json_instead": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=json_instead", true, soon); r.head.Get("Content-Type") != "application/json" || !json.Valid([]byte(r.body)) {
			t.Errorf("%v %q", r.head, r.body)
		}
	},
	"empty": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=empty", true, soon); r.code != 200 || r.body != "" || r.cut {
			t.Errorf("%d %q", r.code, r.body)
		}
	},
	"comments_only": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=comments_only", true, soon); len(r.data) != 0 || !strings.HasPrefix(r.body, ":") {
			t.Errorf("%q", r.body)
		}
	},
	"bom": func(t *testing.T, s *Simulator) {
		for _, stream := range []bool{true, false} {
			if r := play(t, s, "fault=bom", stream, soon); !strings.HasPrefix(r.body, "\xef\xbb\xbf") || r.cut {
				t.Errorf("%q", r.body)
			}
		}
	},
	"cr_only": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=cr_only", true, soon); strings.Contains(r.body, "\n") || !strings.HasSuffix(r.body, "data: [DONE]\r\r") {
			t.Errorf("%q", r.body)
		}
	},
	"crlf": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=crlf", true, soon); !strings.HasSuffix(r.body, "data: [DONE]\r\n\r\n") {
			t.Errorf("%q", r.body)
		}
	},
	"lf": func(t *testing.T, s *Simulator) { // as it is
		if r := play(t, s, "fault=lf", true, soon); strings.Contains(r.body, "\r") || !r.done() {
			t.Errorf("%q", r.body)
		}
	},
	"no_space": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=no_space", true, soon); strings.Contains(r.body, "data: ") || !r.done() {
			t.Errorf("%q", r.body)
		}
	},
	"multi_line": func(t *testing.T, s *Simulator) {
		r := play(t, s, "fault=multi_line", true, soon)
		joined := strings.ReplaceAll(r.body, "\ndata: \"object\"", "\n\"object\"")
		for _, f := range strings.Split(strings.TrimSuffix(joined, "data: [DONE]\n\n"), "\n\n") {
			if f != "" && (!json.Valid([]byte(strings.TrimPrefix(f, "data: "))) || !strings.Contains(f, "\n")) {
				t.Errorf("%q", f)
			}
		}
	},
	"no_final_blank": func(t *testing.T, s *Simulator) {
		if r := play(t, s, "fault=no_final_blank", true, soon); !strings.HasSuffix(r.body, "\n\ndata: [DONE]") || r.cut {
			t.Errorf("%q", r.body)
		}
	},
}

func TestEachFaultDoesWhatItsNameSays(t *testing.T) {
	for _, f := range Faults() {
		test := faultTests[f.Name]
		if test == nil {
			t.Errorf("no test for %s", f.Name)
			continue
		}
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			s := start(t, Options{})
			test(t, s)
			for _, a := range s.Log() {
				if a.Path == "/chat/completions" && a.Fault != f.Name {
					t.Errorf("logged as fault %q", a.Fault)
				}
			}
		})
	}
	if len(faultTests) != len(Faults()) {
		t.Errorf("%d tests for %d faults", len(faultTests), len(Faults()))
	}
}

// bodyBytes is what came after the head.
func bodyBytes(r *reply) int {
	_, body, _ := bytes.Cut(r.raw, []byte("\r\n\r\n"))
	return len(body)
}

func wrongLength(t *testing.T, s *Simulator, fault string, off int) {
	t.Helper()
	for _, stream := range []bool{true, false} {
		r := play(t, s, "fault="+fault, stream, soon)
		n := -1
		_, _ = fmt.Sscan(r.head.Get("Content-Length"), &n)
		if n != bodyBytes(r)+off {
			t.Errorf("length %d for %d bytes", n, bodyBytes(r))
		}
	}
}

func badLength(t *testing.T, s *Simulator, fault, line string, times int) {
	t.Helper()
	for _, stream := range []bool{true, false} {
		r := play(t, s, "fault="+fault, stream, soon)
		head, _, _ := bytes.Cut(r.raw, []byte("\r\n\r\n"))
		if bytes.Count(append(head, "\r\n"...), []byte(line)) != times || bodyBytes(r) == 0 {
			t.Errorf("%q", head)
		}
	}
}

// readWhole reads one whole answer off a connection that stays open.
func readWhole(t *testing.T, c net.Conn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for buf := make([]byte, 4096); ; {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			t.Fatalf("%q %v", got, err)
		}
		head, body, ok := bytes.Cut(got, []byte("\r\n\r\n"))
		if !ok {
			continue
		}
		_, after, _ := strings.Cut(string(head), "Content-Length: ")
		length := -1
		_, _ = fmt.Sscan(after, &length)
		if len(body) >= length {
			return string(got)
		}
	}
}
