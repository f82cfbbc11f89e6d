package simulator

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestDirectivesThatAreWrongAreRefused(t *testing.T) {
	s := start(t, Options{})
	for _, do := range []string{"fault=nonsense", "colour=red", "after=x", "after=-1", "delay=5", "delay=-1s", "word", `text="open`, "status=abc", "flush=maybe", "prompt_tokens=-4"} {
		for _, provider := range []string{"openai", "openrouter"} {
			r := ask(t, s, provider, prompt("sim-1", "[[sim "+do+"]]", ""), soon)
			if r.code != 400 || !strings.Contains(r.body, "does not understand the directive") {
				t.Errorf("%s: %d %s", do, r.code, r.body)
			}
		}
	}
	for _, text := range []string{"[[sim fault=reset", "[[ sim fault=reset]]", "[[simfault=reset]]"} { // not directives
		if r := ask(t, s, "openai", prompt("sim-1", text, ""), soon); r.code != 200 {
			t.Errorf("%q: %d %s", text, r.code, r.body)
		}
	}
}

func TestOnlyTheLastUserMessageDirects(t *testing.T) {
	s := start(t, Options{})
	body := `{"model":"sim-1","messages":[{"role":"user","content":"[[sim status=500]]"},{"role":"assistant","content":"[[sim status=500]]"},{"role":"user","content":"hi"}]}`
	if r := ask(t, s, "openai", body, soon); r.code != 200 {
		t.Errorf("%d %s", r.code, r.body)
	}
}

func TestTimesCountsEachPromptByItself(t *testing.T) {
	s := start(t, Options{})
	try := func(provider, text string) int {
		return ask(t, s, provider, prompt("sim-1", text, ""), soon).code
	}
	const a, b = "first [[sim status=503 times=2 text=fine]]", "second [[sim status=503 times=2 text=fine]]"
	got := []int{try("openai", a), try("openai", b), try("openai", a), try("openai", a), try("openai", b), try("openrouter", a), try("openai", b)}
	want := []int{503, 503, 503, 200, 503, 503, 200}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%v, want %v", got, want)
		}
	}
	if x := last(t, s); x.Text != "fine" || x.Fault != "" {
		t.Errorf("after its fault is spent: %q, %s", x.Text, x.Fault)
	}
	s.Reset()
	if code := try("openai", a); code != 503 {
		t.Errorf("after Reset: %d", code)
	}
}

func TestScriptsMatch(t *testing.T) {
	s := start(t, Options{})
	err := s.Play(Script{Provider: "openai", Match: "apple", Times: 1, Do: "status=500"}, Script{Match: "pear", Do: "text=pears"},
		Script{Provider: "openrouter", Path: "/key", Do: "status=502"}, Script{Path: "*", Provider: "openrouter", Match: "plum", Do: "fault=html"})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		provider, text string
		code           int
		says           string
	}{
		{"openrouter", "apple", 200, "You said: apple"},
		{"openai", "none", 200, "You said: none"},
		{"openai", "an apple", 500, "server_error"},
		{"openai", "an apple", 200, "You said"},
		{"openai", "a pear", 200, "pears"},
		{"openrouter", "a pear", 200, "pears"},
		{"openai", "a pear [[sim text=own]]", 200, "own"},
		{"openrouter", "plum", 502, "<html>"},
		{"openai", "plum", 200, "You said"},
	} {
		r := ask(t, s, c.provider, prompt("sim-1", c.text, ""), soon)
		if r.code != c.code || !strings.Contains(r.body, c.says) {
			t.Errorf("%d: %d %s", i, r.code, r.body)
		}
	}
	if code, _ := fetch(t, "GET", s.URL("openrouter")+"/key", "k", ""); code != 502 {
		t.Errorf("the key check: %d", code)
	}
	s.Unplay()
	if r := ask(t, s, "openai", prompt("sim-1", "pear", ""), soon); !strings.Contains(r.body, "You said: pear") {
		t.Errorf("after Unplay: %s", r.body)
	}
	if err := s.Play(Script{Do: "fault=none"}); err == nil {
		t.Error("a bad script was taken")
	}
}

func TestStaleByScript(t *testing.T) {
	s := start(t, Options{})
	if err := s.Play(Script{Provider: "openai", Do: "fault=stale", Times: 1}); err != nil {
		t.Fatal(err)
	}
	body := prompt("sim-1", "hi", "")
	c := dial(t, s)
	post(t, s, c, "openai", body, "")
	if got := readWhole(t, c); !strings.Contains(got, "200 OK") { // a fresh connection is never stale
		t.Errorf("%q", got)
	}
	post(t, s, c, "openai", body, "")
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("the kept connection answered")
	}
	if a := last(t, s); a.End != "stale" {
		t.Errorf("%+v", a)
	}
	c = dial(t, s)
	for range 2 { // it was armed once
		post(t, s, c, "openai", body, "")
		readWhole(t, c)
	}
}

func TestControl(t *testing.T) {
	s := start(t, Options{})
	url := s.URL("control")
	do := func(method, path, body string) (int, string) { return fetch(t, method, url+path, "", body) }
	if code, b := do("PUT", "/script", `{"provider":"openai","match":"x1","status":429,"retry_after":7,"times":1}`); code != 200 {
		t.Fatalf("%d %s", code, b)
	}
	if code, b := do("POST", "/script", `[{"match":"x2","fault":"cut","after":1},{"match":"x3","do":"text=\"from afar\"","delay":"1ms"}]`); code != 200 {
		t.Fatalf("%d %s", code, b)
	}
	if r := ask(t, s, "openai", prompt("sim-1", "x1", ""), soon); r.code != 429 || r.head.Get("Retry-After") != "7" {
		t.Errorf("%d %v", r.code, r.head)
	}
	if r := ask(t, s, "openai", prompt("sim-1", "x2", `,"stream":true`), soon); len(r.texts) != 1 || r.done() {
		t.Errorf("%q", r.body)
	}
	if r := ask(t, s, "openai", prompt("sim-1", "x3", ""), soon); content(r) != "from afar" {
		t.Errorf("%q", r.body)
	}
	for _, bad := range []string{`{"fault":"nope"}`, `{"times":-1}`, `nonsense`, `{"x":1}`} {
		if code, b := do("POST", "/script", bad); code != 400 || !json.Valid([]byte(b)) {
			t.Errorf("%s: %d %s", bad, code, b)
		}
	}
	until(t, "three attempts to end", func() bool { l := s.Log(); return len(l) == 3 && l[2].End != "" })
	code, b := do("GET", "/log", "")
	lines := strings.Split(strings.TrimSpace(b), "\n")
	if code != 200 || len(lines) != 3 {
		t.Fatalf("%d %d lines", code, len(lines))
	}
	var a Attempt
	if err := json.Unmarshal([]byte(lines[1]), &a); err != nil || a.Fault != "cut" || a.End != "cut" || !strings.Contains(string(a.Body), "x2") {
		t.Errorf("%v %+v", err, a)
	}
	if code, _ := do("DELETE", "/log", ""); code != 200 || len(s.Log()) != 0 {
		t.Errorf("%d, %d left", code, len(s.Log()))
	}
	if code, _ := do("DELETE", "/script", ""); code != 200 {
		t.Error(code)
	}
	if r := ask(t, s, "openai", prompt("sim-1", "x3", ""), soon); content(r) == "from afar" {
		t.Error("scripts live on")
	}
	if code, _ := do("GET", "/nothing", ""); code != 404 {
		t.Error(code)
	}
	if code, b := do("GET", "/faults", ""); code != 200 || !strings.Contains(b, `"reset_mid"`) {
		t.Errorf("%d %s", code, b)
	}
}

func TestURLs(t *testing.T) {
	s := New(Options{})
	if s.URL("openai") != "" {
		t.Error("a URL before Start")
	}
	s = start(t, Options{})
	for name, path := range map[string]string{"openai": "/openai/v1", "gemini": "/gemini/v1beta", "perplexity": "/perplexity", "openrouter": "/openrouter/api/v1"} {
		if s.URL(name) != "http://"+s.Addr()+path || !slices.Contains(s.Providers(), name) {
			t.Error(name, s.URL(name), s.Providers())
		}
	}
	if s.URL("none") != "" {
		t.Error(s.URL("none"))
	}
}

func BenchmarkAnswer(b *testing.B) {
	for name, body := range map[string]string{
		"small":    prompt("sim-1", "hi", ""),
		"20KB":     prompt("sim-1", strings.Repeat("some words of a long history ", 690), ""),
		"stream64": prompt("sim-1", "[[sim chunks=64]]", `,"stream":true,"stream_options":{"include_usage":true}`),
	} {
		b.Run(name, func(b *testing.B) {
			s := New(Options{SizesOnly: true})
			if err := s.Start(); err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			benchmarkClient(b, s, body)
		})
	}
}

func TestTheReadmeListsEveryFault(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range Faults() {
		if !strings.Contains(string(b), "| `"+f.Name+"` | "+f.Row+" | "+f.What+" |") {
			t.Errorf("the line of %s is not as in Faults", f.Name)
		}
	}
}
