package simulator

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// sample is a request as clients or this gateway send it to a provider: one of the fixtures of this module.
type sample struct {
	file, provider, path, body string
}

// unplayed are the folders of requests to what the simulator does not play.
var unplayed = []string{"responses", "conversations"}

// samples are all requests among the fixtures of the module, its own and those of the rooms that talk to providers.
func samples(t *testing.T) (list []sample) {
	t.Helper()
	err := filepath.WalkDir("..", func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() && (slices.Contains(unplayed, e.Name()) || e.Name() == "node_modules" || strings.HasPrefix(e.Name(), ".") && file != "..") {
			if err == nil {
				err = fs.SkipDir
			}
			return err
		}
		request := strings.HasSuffix(e.Name(), ".req.json") || strings.HasSuffix(e.Name(), ".out.gemini.json") || strings.HasSuffix(e.Name(), ".out.agent.json")
		if !request || !strings.Contains(file, "testdata") {
			return nil
		}
		body, err := os.ReadFile(file)
		s := sample{file: strings.TrimPrefix(file, "../"), body: string(body), path: "/chat/completions"}
		for _, step := range strings.Split(file, "/") {
			if slices.Contains([]string{"openai", "gemini", "perplexity", "openrouter"}, step) {
				s.provider = step // the last that names one
			}
		}
		switch embeds := strings.Contains(file, "/embed"); {
		case s.provider == "gemini" && embeds:
			s.path = "/models/gemini-embedding-2:batchEmbedContents"
		case s.provider == "gemini":
			s.path = "/models/" + sampleModel(e.Name()) + ":generateContent"
		case embeds && s.provider == "perplexity":
			s.path = "/v1/embeddings"
		case embeds:
			s.path = "/embeddings"
		case s.provider == "perplexity" && !strings.Contains(file, "sonar"):
			s.path = "/v1/responses"
		}
		list = append(list, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// sampleModel is the model a request to Gemini is for, which its body does not say.
func sampleModel(name string) string {
	switch {
	case strings.HasPrefix(name, "continuation"):
		return "gemini-4-argon"
	case strings.HasPrefix(name, "plain"):
		return "gemini-2.5-flash"
	case strings.HasPrefix(name, "thinking_budget"):
		return "gemini-2.5-pro"
	}
	return "gemini-3.8-flash"
}

// form names the form it is in.
func (q sample) form() string {
	switch {
	case q.provider != "perplexity":
		return q.provider
	case q.path == "/chat/completions":
		return "sonar"
	}
	return "agent"
}

func (q sample) ask(t *testing.T, s *Simulator, path, body string) *reply {
	t.Helper()
	i := slices.IndexFunc(forms, func(f form) bool { return f.name == q.form() })
	return forms[i].ask(t, s, path, body, soon)
}

func TestEveryFixtureIsTaken(t *testing.T) {
	s := start(t, Options{})
	taken := map[string]int{}
	for _, q := range samples(t) {
		ways := []string{q.path}
		if asked, chats := strings.CutSuffix(q.path, "generateContent"); chats {
			ways = append(ways, asked+"streamGenerateContent", asked+"streamGenerateContent?alt=sse")
		}
		for _, path := range ways {
			if r := q.ask(t, s, path, q.body); r.code != 200 || r.cut {
				t.Errorf("%s: %s does not take it: %d %s", q.file, q.provider, r.code, r.body)
			}
		}
		taken[q.form()]++
	}
	for _, f := range forms {
		if taken[f.name] == 0 {
			t.Errorf("no fixture is a request of %s", f.name)
		}
	}
}

// inItsWords reports whether a refusal has the form of the provider's errors.
func inItsWords(provider string, code int, body string) bool {
	e := gjson.Get(body, "error")
	has := func(v gjson.Result, names ...string) bool {
		return v.IsObject() && slices.Equal(slices.Sorted(maps.Keys(v.Map())), names)
	}
	said := e.Get("message").Str != ""
	switch provider {
	case "openai":
		return said && has(e, "code", "message", "param", "type") && e.Get("type").Str == "invalid_request_error"
	case "openrouter":
		return said && e.Get("code").Int() == int64(code) && e.Get("code").Type == gjson.Number
	case "gemini":
		words := map[int]string{400: "INVALID_ARGUMENT", 404: "NOT_FOUND"}[code]
		return said && e.Get("code").Int() == int64(code) && e.Get("status").Str == words
	}
	if code != 422 {
		return said && has(e, "code", "message", "type")
	}
	list := gjson.Get(body, "detail").Array()
	return len(list) > 0 && !slices.ContainsFunc(list, func(v gjson.Result) bool { return !has(v, "loc", "msg", "type") || !v.Get("loc").IsArray() })
}

// free are the places of a request where anything may stand: arguments and results of functions, JSON schemas (whose words
// Gemini knows, not their values), and names of the caller's own. At OpenAI the simulator looks at the members of the
// request and of its messages, and not deeper.
var free = map[string]*regexp.Regexp{
	"openai": regexp.MustCompile(`^\.(\w+[.\[].*|name|refusal|function_call|tool_choice|response_format|prediction|moderation|audio|` +
		`prompt_cache_options|web_search_options|logit_bias)$`),
	"gemini": regexp.MustCompile(`\.(labels|speechConfig|args|response)\b|[jJ]sonSchema\b.*\.(type|required|enum|propertyOrdering|\$ref)(\[\])?$`),
	"agent":  regexp.MustCompile(`\.(parameters|schema)\b`),
}

// A fixture to which a member was added that nobody knows, or of which one value is of another type, is refused wherever
// in it that is, in the provider's own words.
func TestMutatedFixturesAreRefused(t *testing.T) {
	s := start(t, Options{})
	refused := map[string]int{}
	for _, q := range samples(t) {
		form := q.form()
		if free[form] == nil { // OpenRouter and Sonar ignore what they do not know
			continue
		}
		var root any
		if err := json.Unmarshal([]byte(q.body), &root); err != nil {
			t.Fatal(err)
		}
		try := func(at, what string) {
			if free[form].MatchString(strings.TrimPrefix(at, ".messages[]")) {
				return
			}
			body, err := json.Marshal(root)
			if err != nil {
				t.Fatal(err)
			}
			refused[form+", "+what]++
			if r := q.ask(t, s, q.path, string(body)); r.code != 400 && r.code != 422 || !inItsWords(q.provider, r.code, r.body) {
				t.Errorf("%s, %s at %s: %d %s", q.file, what, at, r.code, r.body)
			}
		}
		mutate(root, "", func(any) {}, try)
	}
	for form := range free {
		if refused[form+", an unknown member"] < 20 || refused[form+", another type"] < 20 {
			t.Errorf("%s: too few to show anything: %v", form, refused)
		}
	}
}

// mutate changes each value below v in turn, has it tried, and changes it back. set replaces v itself.
func mutate(v any, at string, set func(any), try func(at, what string)) {
	switch v := v.(type) {
	case nil:
	case map[string]any:
		v["x_unknown"] = 1
		try(at, "an unknown member")
		delete(v, "x_unknown")
		for name, one := range v {
			mutate(one, at+"."+name, func(to any) { v[name] = to }, try)
		}
	case []any:
		for i, one := range v {
			mutate(one, at+"[]", func(to any) { v[i] = to }, try)
		}
	default:
		set(map[string]any{"a": 1})
		try(at, "another type")
		set(v)
	}
}
