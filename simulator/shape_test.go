package simulator

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// shape lists the members of a JSON value as paths: items of an array count together.
func shape(t *testing.T, text string) []string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	paths := map[string]bool{}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		paths[at] = true
		switch v := v.(type) {
		case map[string]any:
			for k, v := range v {
				walk(at+"."+k, v)
			}
		case []any:
			for _, v := range v {
				walk(at+"[]", v)
			}
		}
	}
	walk("", v)
	return slices.Sorted(maps.Keys(paths))
}

// shapes are the different shapes of a stream's events, in the order they first come.
func shapes(t *testing.T, data []string) []string {
	t.Helper()
	var list []string
	for _, d := range data {
		s := d
		if d != "[DONE]" {
			s = strings.Join(shape(t, d), " ")
		}
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

func dataLines(sse string) []string {
	var list []string
	for _, l := range strings.Split(sse, "\n") {
		if d, ok := strings.CutPrefix(l, "data: "); ok {
			list = append(list, d)
		}
	}
	return list
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, p := range got {
		if !slices.Contains(want, p) {
			t.Errorf("%s has %q, which the provider does not", what, p)
		}
	}
	for _, p := range want {
		if !slices.Contains(got, p) {
			t.Errorf("%s lacks %q", what, p)
		}
	}
}

const weather = `{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"},` +
	`"unit":{"type":"string","enum":["c","f"]}},"required":["city","unit"]}}}`

func TestWholeAnswersHaveTheProvidersMembers(t *testing.T) {
	s := start(t, Options{})
	long := strings.Repeat("so many words ", 1500)
	for _, c := range []struct{ provider, want, request string }{
		{"openai", "plain", prompt("gpt-4.1-mini", "hi", "")},
		{"openai", "reasoning", prompt("gpt-5.4", "hi", "")},
		{"openai", "tool_single", prompt("gpt-4.1-mini", "call the tool", `,"tools":[`+weather+`]`)},
		{"openai", "tool_parallel", prompt("gpt-4.1-mini", "call both tools", `,"tools":[`+weather+`]`)},
		{"openai", "tool_custom", fixture(t, "openai/tool_custom.req.json")},
		{"openai", "refusal", prompt("gpt-4.1-mini", "please refuse", "")},
		{"openai", "n2", prompt("gpt-4.1-mini", "hi", `,"n":2`)},
		{"openai", "length", prompt("gpt-4.1-mini", long, `,"max_tokens":3`)},
		{"openai", "json_schema", fixture(t, "openai/json_schema.req.json")},
		{"openrouter", "plain", prompt("openai/gpt-4.1-mini", "hi", "")},
		{"openrouter", "reasoning_claude", prompt("anthropic/claude-sonnet-5.5", "hi", `,"reasoning":{"effort":"high"}`)},
	} {
		t.Run(c.provider+"/"+c.want, func(t *testing.T) {
			r := ask(t, s, c.provider, c.request, soon)
			if r.code != 200 {
				t.Fatalf("%d %s", r.code, r.body)
			}
			want := shape(t, fixture(t, c.provider+"/"+c.want+".resp.json"))
			if c.want == "reasoning" { // cache writes are of models newer than the one asked
				want = slices.DeleteFunc(want, func(p string) bool { return strings.HasSuffix(p, "cache_write_tokens") })
			}
			same(t, "the answer", shape(t, r.body), want)
		})
	}
}

func TestStreamsHaveTheProvidersEvents(t *testing.T) {
	s := start(t, Options{})
	const usage = `,"stream":true,"stream_options":{"include_usage":true}`
	for _, c := range []struct{ provider, want, request string }{
		{"openai", "plain", prompt("gpt-4.1-mini", "hi", `,"stream":true`)},
		{"openai", "usage", prompt("gpt-4.1-mini", "hi", usage)},
		{"openai", "usage_no_obfuscation", prompt("gpt-6-luna", "hi", `,"stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false}`)},
		{"openai", "refusal", prompt("gpt-4.1-mini", "please refuse", usage)},
		{"openai", "tool_single", prompt("gpt-4.1-mini", "call the tool", usage+`,"tools":[`+weather+`]`)},
		{"openai", "tool_parallel", prompt("gpt-4.1-mini", "call both tools", usage+`,"tools":[`+weather+`]`)},
		{"openai", "tool_custom", strings.Replace(fixture(t, "openai/tool_custom.req.json"), "{", "{"+usage[1:]+",", 1)},
		{"openai", "logprobs", prompt("gpt-4.1-mini", "hi", `,"stream":true,"logprobs":true`)},
		{"openai", "error_mid", prompt("gpt-4.1-mini", "[[sim fault=error_mid]]", usage)},
		{"openai", "error_event", prompt("gpt-4.1-mini", "[[sim fault=error_mid event=1 code=rate_limit_exceeded]]", usage)},
		{"openrouter", "plain_usage_empty_choices", prompt("openai/gpt-4.1-mini", "hi", `,"stream":true`)},
		{"openrouter", "plain_usage_with_choice", prompt("openai/gpt-4.1-mini", "[[sim usage=choice]]", `,"stream":true`)},
		{"openrouter", "reasoning", prompt("anthropic/claude-sonnet-5.5", "hi", `,"stream":true,"reasoning":{"enabled":true}`)},
		{"openrouter", "tool_call", prompt("openai/gpt-4.1-mini", "call the tool", `,"stream":true,"tools":[`+weather+`]`)},
		{"openrouter", "error_mid_numeric", prompt("openai/gpt-4.1-mini", "[[sim fault=error_mid]]", `,"stream":true`)},
	} {
		t.Run(c.provider+"/"+c.want, func(t *testing.T) {
			r := ask(t, s, c.provider, c.request, soon)
			if r.code != 200 || r.cut {
				t.Fatalf("%d cut=%v %s", r.code, r.cut, r.body)
			}
			want := fixture(t, c.provider+"/"+c.want+".sse")
			got := shapes(t, r.data)
			if w := shapes(t, dataLines(want)); !slices.Equal(got, w) {
				same(t, "the stream", got, w)
				if !t.Failed() {
					t.Errorf("events come in another order:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(w, "\n"))
				}
			}
			if strings.HasPrefix(want, ": ") != strings.HasPrefix(r.body, ": ") {
				t.Errorf("the stream begins with %.30q, the provider's with %.30q", r.body, want)
			}
			if strings.Contains(want, "event: error") != strings.Contains(r.body, "event: error") {
				t.Error("the error event's name differs")
			}
		})
	}
}

func TestModelsAndKeyCheck(t *testing.T) {
	s := start(t, Options{})
	get := func(provider, path, key string) (int, string) {
		return fetch(t, "GET", s.URL(provider)+path, key, "")
	}
	for _, c := range []struct{ provider, path, want string }{
		{"openai", "/models", "openai/list.resp.json"},
		{"openai", "/models/gpt-4.1-mini", "openai/get.resp.json"},
		{"openrouter", "/key", "openrouter/key.resp.json"},
	} {
		code, body := get(c.provider, c.path, "sk-any")
		if code != 200 {
			t.Fatalf("%s: %d %s", c.path, code, body)
		}
		same(t, c.path, shape(t, body), shape(t, fixture(t, c.want)))
	}
	if code, body := get("openrouter", "/models", ""); code != 200 || !strings.Contains(body, `"prompt":"0.000002"`) {
		t.Errorf("the public list: %d %.200s", code, body)
	}
	if code, _ := get("openrouter", "/key", "sk-invalid"); code != 401 {
		t.Errorf("a bad key's check: %d", code)
	}
	if code, body := get("openai", "/models/gpt-none", "sk-any"); code != 404 || !strings.Contains(body, "model_not_found") {
		t.Errorf("an unknown model: %d %s", code, body)
	}
}

var shownKey = regexp.MustCompile(`sk-[^.]*`)

func TestErrorsHaveTheProvidersMembers(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct{ want, provider, key, path, body string }{
		{"openai/400_empty_messages", "openai", "k", "/chat/completions", `{"model":"gpt-4.1","messages":[]}`},
		{"openai/400_unsupported_parameter", "openai", "k", "/chat/completions", prompt("gpt-5.4", "hi", `,"max_tokens":5`)},
		{"openai/400_unsupported_value", "openai", "k", "/chat/completions", prompt("gpt-5.4", "hi", `,"temperature":0.2`)},
		{"openai/401_invalid_key", "openai", "sk-invalid-123", "/chat/completions", prompt("gpt-4.1", "hi", "")},
		{"openai/401_missing_key", "openai", "", "/chat/completions", prompt("gpt-4.1", "hi", "")},
		{"openai/404_model", "openai", "k", "/chat/completions", prompt("gpt-4.1-nano-wrong", "hi", "")},
		{"openai/404_url", "openai", "k", "/chat/completion", prompt("gpt-4.1", "hi", "")},
		{"openai/429_tokens", "openai", "k", "/chat/completions", prompt("gpt-4.1", "[[sim status=429 retry_after=2 retry_after_ms=1234]]", "")},
		{"openai/429_quota", "openai", "k", "/chat/completions", prompt("gpt-4.1", "[[sim status=429 code=insufficient_quota]]", "")},
		{"openai/500", "openai", "k", "/chat/completions", prompt("gpt-4.1", "[[sim status=500]]", "")},
		{"openrouter/400", "openrouter", "k", "/chat/completions", prompt("openai/gpt-99", "hi", "")},
		{"openrouter/401", "openrouter", "sk-invalid", "/chat/completions", prompt("openai/gpt-4.1-mini", "hi", "")},
		{"openrouter/401_missing", "openrouter", "", "/chat/completions", prompt("openai/gpt-4.1-mini", "hi", "")},
		{"openrouter/402", "openrouter", "k", "/chat/completions", prompt("openai/gpt-4.1-mini", "[[sim status=402]]", "")},
		{"openrouter/429_upstream", "openrouter", "k", "/chat/completions", prompt("openai/gpt-4.1-mini", "[[sim status=429 retry_after=5]]", "")},
		{"openrouter/429_free", "openrouter", "k", "/chat/completions", prompt("openai/gpt-4.1-mini", "[[sim status=429 code=free retry_after=37]]", "")},
		{"openrouter/502", "openrouter", "k", "/chat/completions", prompt("openai/gpt-4.1-mini", "[[sim status=502]]", "")},
	} {
		t.Run(c.want, func(t *testing.T) {
			head, want, _ := strings.Cut(strings.ReplaceAll(fixture(t, c.want+".http"), "\r\n", "\n"), "\n\n")
			resp, body := exchangeHTTP(t, "POST", s.URL(c.provider)+c.path, c.key, c.body)
			if status := strings.Fields(head)[1]; !strings.HasPrefix(resp.Status, status) {
				t.Fatalf("%s, want %s: %s", resp.Status, status, body)
			}
			same(t, "the error", shape(t, body), shape(t, want))
			for _, l := range strings.Split(head, "\n")[1:] {
				name, _, _ := strings.Cut(l, ":")
				if resp.Header.Get(name) == "" {
					t.Errorf("no header %s", name)
				}
			}
			var got, need struct{ Error map[string]any }
			_ = json.Unmarshal([]byte(body), &got)
			_ = json.Unmarshal([]byte(want), &need)
			for _, m := range []string{"type", "code", "param"} {
				if got.Error[m] != need.Error[m] {
					t.Errorf("%s is %v, want %v", m, got.Error[m], need.Error[m])
				}
			}
			if strings.HasPrefix(resp.Status, "401") { // word by word, but for the key it shows
				for _, e := range []map[string]any{got.Error, need.Error} {
					e["message"] = shownKey.ReplaceAllString(fmt.Sprint(e["message"]), "sk-")
				}
				if got.Error["message"] != need.Error["message"] {
					t.Errorf("it says %q, want %q", got.Error["message"], need.Error["message"])
				}
			}
		})
	}
}

// Who asks which models there are, or whether a key is good, has no model work for it: no attempt, and yet not unseen.
func TestChecksAreNoAttempts(t *testing.T) {
	finished := make(chan Attempt, 10)
	s := start(t, Options{Finished: func(a Attempt) { finished <- a }})
	if err := s.Play(Script{Path: "/models", Provider: "openai", Do: "status=403", Times: 1}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		provider, path, key string
		code                int
	}{
		{"openai", "/models", "sk-restricted", 403},
		{"openai", "/models", "sk-good", 200},
		{"openai", "/models", "sk-invalid", 401},
		{"openai", "/models/gpt-5", "sk-good", 200},
		{"openrouter", "/key", "sk-or-v1-good", 200},
		{"openrouter", "/key", "sk-or-v1-invalid", 401},
		{"openrouter", "/models", "", 200},
	} {
		if code, b := fetch(t, "GET", s.URL(c.provider)+c.path, c.key, ""); code != c.code {
			t.Errorf("%s%s with %q: %d %s", c.provider, c.path, c.key, code, b)
		}
	}
	ask(t, s, "openai", prompt("sim-1", "hi", ""), soon)
	if a := <-finished; a.Path != "/chat/completions" {
		t.Errorf("the first attempt to end is %s", a.Path)
	}
	if log := s.Log(); len(log) != 1 || log[0].Seq != 1 {
		t.Errorf("%d attempts", len(log))
	}
	until(t, "the checks to end", func() bool { l := s.Checks(); return len(l) == 7 && l[6].End != "" })
	if a := s.Checks()[2]; a.KeyHash != KeyHash("sk-invalid") || a.Status != 401 || a.End != EndRejected || a.Path != "/models" {
		t.Errorf("%+v", a)
	}
	if code, b := fetch(t, "GET", s.URL("control")+"/checks", "", ""); code != 200 || strings.Count(b, "\n") != 7 || strings.Contains(b, "sk-good") || strings.Contains(b, "sk-invalid") {
		t.Errorf("%d %s", code, b)
	}
	s.Reset()
	if n := len(s.Checks()); n != 0 {
		t.Errorf("%d checks after Reset", n)
	}
}
