package fidelity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/packages/respjson"
	"github.com/openai/openai-go/v3/shared"
)

// OpenAI's published schema, as its Go SDK has it: types whose tags say which members must be there, which may be null,
// and which have one value, and whose comments list the words that others may have. A body fits it if the SDK reads it,
// each member is of its kind, and none is there that the schema does not know.

// schema finds what in a body does not fit.
type schema struct {
	words map[string][]string // by "Type.Field": what the comment allows
}

var theSchema = sync.OnceValues(readSchema)

// readSchema reads the words from the SDK's source.
func readSchema() (*schema, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/openai/openai-go/v3").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	s := &schema{words: map[string][]string{}}
	root := strings.TrimSpace(string(out))
	for _, dir := range []string{root, filepath.Join(root, "shared")} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, name := range files {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
			if err != nil {
				return nil, err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if t, ok := n.(*ast.TypeSpec); ok {
					s.typ(t)
				}
				return true
			})
		}
	}
	if len(s.words["ChatCompletionChoice.FinishReason"]) != 5 {
		return nil, fmt.Errorf("the SDK's comments are not read: %v", s.words["ChatCompletionChoice.FinishReason"])
	}
	return s, nil
}

var (
	anyOf = regexp.MustCompile(`(?s)Any of ("[^.]*)\.`)
	word  = regexp.MustCompile(`"([^"]*)"`)

	integer = regexp.MustCompile(`^-?[0-9]+$`)
)

func (s *schema) typ(t *ast.TypeSpec) {
	fields, ok := t.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range fields.Fields.List {
		list := anyOf.FindStringSubmatch(f.Doc.Text())
		if list == nil {
			continue
		}
		for _, name := range f.Names {
			for _, w := range word.FindAllStringSubmatch(list[1], -1) {
				s.words[t.Name.Name+"."+name.Name] = append(s.words[t.Name.Name+"."+name.Name], w[1])
			}
		}
	}
}

// nullable are members that must be there and may be null: the SDK does not tell these from others.
var nullable = map[string]bool{
	"ChatCompletionMessage.content": true, "ChatCompletionMessage.refusal": true, "ChatCompletionChoice.logprobs": true,
	"ChatCompletionChoiceLogprobs.content": true, "ChatCompletionChoiceLogprobs.refusal": true,
	"ChatCompletionChunkChoiceLogprobs.content": true, "ChatCompletionChunkChoiceLogprobs.refusal": true,
	"ChatCompletionTokenLogprob.bytes": true, "ChatCompletionTokenLogprobTopLogprob.bytes": true,
	"ErrorObject.code": true, "ErrorObject.param": true,
}

// unions are one of several types, by the member type.
var unions = map[reflect.Type]map[string]func() reflect.Value{
	reflect.TypeFor[openai.ChatCompletionMessageToolCallUnion](): {
		"function": fresh[openai.ChatCompletionMessageFunctionToolCall], "custom": fresh[openai.ChatCompletionMessageCustomToolCall],
	},
	reflect.TypeFor[openai.ChatCompletionModerationInputUnion](): {
		"moderation_results": fresh[openai.ChatCompletionModerationInputModerationResults], "error": fresh[openai.ChatCompletionModerationInputError],
	},
	reflect.TypeFor[openai.ChatCompletionModerationOutputUnion](): {
		"moderation_results": fresh[openai.ChatCompletionModerationOutputModerationResults], "error": fresh[openai.ChatCompletionModerationOutputError],
	},
	reflect.TypeFor[openai.ChatCompletionChunkModerationInputUnion](): {
		"moderation_results": fresh[openai.ChatCompletionChunkModerationInputModerationResults], "error": fresh[openai.ChatCompletionChunkModerationInputError],
	},
	reflect.TypeFor[openai.ChatCompletionChunkModerationOutputUnion](): {
		"moderation_results": fresh[openai.ChatCompletionChunkModerationOutputModerationResults], "error": fresh[openai.ChatCompletionChunkModerationOutputError],
	},
}

func fresh[T any]() reflect.Value { return reflect.ValueOf(new(T)) }

// wrong is what does not fit, each in a few words, without what is there only once.
func (s *schema) wrong(body []byte, of reflect.Value) (list []string) {
	if err := json.Unmarshal(body, of.Interface()); err != nil {
		return []string{fmt.Sprintf("%s is not read: %v", of.Type().Elem().Name(), err)}
	}
	s.object(of.Elem(), &list)
	slices.Sort(list)
	return slices.Compact(list)
}

func (s *schema) object(v reflect.Value, list *[]string) {
	t, meta := v.Type(), v.FieldByName("JSON")
	note := func(what, name string) { *list = append(*list, what+" "+t.Name()+"."+name) }
	if variants, ok := unions[t]; ok {
		variant, ok := variants[v.FieldByName("Type").String()]
		if !ok {
			note("another word for", "type")
			return
		}
		*list = append(*list, s.wrong([]byte(v.MethodByName("RawJSON").Call(nil)[0].String()), variant())...)
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Name == "JSON" || name == "" || !f.IsExported() {
			continue
		}
		was := meta.FieldByName(f.Name).Interface().(respjson.Field)
		only := f.Tag.Get("default")
		switch raw := was.Raw(); {
		case raw == respjson.Omitted:
			if f.Tag.Get("api") == "required" || only != "" {
				note("no", name)
			}
		case raw == respjson.Null:
			if f.Tag.Get("api") != "nullable" && !nullable[t.Name()+"."+name] {
				note("null for", name)
			}
		case !was.Valid() || !ofKind(v.Field(i).Type(), []byte(raw)):
			note("another type for", name)
		case only != "" && raw != strconv.Quote(only):
			note("another word for", name)
		case s.words[t.Name()+"."+f.Name] != nil && !slices.Contains(s.words[t.Name()+"."+f.Name], v.Field(i).String()):
			note("another word for", name)
		default:
			s.inner(v.Field(i), list)
		}
	}
	for name := range meta.FieldByName("ExtraFields").Interface().(map[string]respjson.Field) {
		note("more:", name)
	}
}

func (s *schema) inner(v reflect.Value, list *[]string) {
	switch v.Kind() {
	case reflect.Struct:
		if v.FieldByName("JSON").IsValid() {
			s.object(v, list)
		}
	case reflect.Slice:
		for i := range v.Len() {
			s.inner(v.Index(i), list)
		}
	}
}

// ofKind reports whether JSON is of the kind a type is written as. The SDK would make a text of a number.
func ofKind(t reflect.Type, raw []byte) bool {
	switch t.Kind() {
	case reflect.String:
		return raw[0] == '"'
	case reflect.Int64:
		return integer.Match(raw)
	case reflect.Float64:
		return raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9'
	case reflect.Bool:
		return raw[0] == 't' || raw[0] == 'f'
	case reflect.Slice:
		var elements []json.RawMessage
		if json.Unmarshal(raw, &elements) != nil {
			return false
		}
		return !slices.ContainsFunc(elements, func(e json.RawMessage) bool { return !ofKind(t.Elem(), bytes.TrimSpace(e)) })
	case reflect.Struct, reflect.Map:
		return raw[0] == '{'
	}
	return true
}

// answer, chunk and failure are what does not fit of each.
func (s *schema) answer(body []byte) []string { return s.wrong(body, fresh[openai.ChatCompletion]()) }

func (s *schema) chunk(body []byte) []string {
	return s.wrong(body, fresh[openai.ChatCompletionChunk]())
}

// embeddings is what does not fit of embeddings, as numbers.
func (s *schema) embeddings(body []byte) []string {
	return s.wrong(body, fresh[openai.CreateEmbeddingResponse]())
}

// models is what does not fit of a list of models.
func (s *schema) models(body []byte) (list []string) {
	var page struct {
		Object string            `json:"object"`
		Data   []json.RawMessage `json:"data"`
	}
	if json.Unmarshal(body, &page) != nil || page.Object != "list" || page.Data == nil {
		return []string{"no list"}
	}
	for _, m := range page.Data {
		list = append(list, s.model(m)...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (s *schema) model(body []byte) []string { return s.wrong(body, fresh[openai.Model]()) }

func (s *schema) failure(body []byte) []string {
	var top map[string]json.RawMessage
	if json.Unmarshal(body, &top) != nil || len(top) != 1 || top["error"] == nil {
		return []string{"no error object"}
	}
	return s.wrong(top["error"], fresh[shared.ErrorObject]())
}

// stream is what does not fit of a stream: in its chunks, and in how they follow each other. A stream ends in [DONE] or in
// an error, and nothing follows either.
func (s *schema) stream(events []string) (list []string) {
	note := func(format string, args ...any) { list = append(list, "stream: "+fmt.Sprintf(format, args...)) }
	var id string
	roles, ends := map[int64]bool{}, map[int64]bool{}
	usages, ended := 0, false
	for _, payload := range events {
		if ended {
			note("something after its end")
		}
		if payload == "[DONE]" {
			ended = true
			for index := range roles {
				if !ends[index] {
					note("a choice without an end")
				}
			}
			continue
		}
		if strings.HasPrefix(payload, `{"error"`) {
			ended = true
			list = append(list, s.failure([]byte(payload))...)
			continue
		}
		list = append(list, s.chunk([]byte(payload))...)
		var c openai.ChatCompletionChunk
		if err := json.Unmarshal([]byte(payload), &c); err != nil {
			continue
		}
		if id != "" && c.ID != id {
			note("another id")
		}
		id = c.ID
		if c.JSON.Usage.Valid() {
			usages++
			if len(c.Choices) > 0 {
				note("usage beside choices")
			}
		}
		for _, choice := range c.Choices {
			if role := choice.Delta.Role != ""; role == roles[choice.Index] {
				note("a role in the wrong place")
			}
			roles[choice.Index] = true
			if ends[choice.Index] {
				note("a choice after its end")
			}
			ends[choice.Index] = ends[choice.Index] || choice.FinishReason != ""
		}
	}
	if !ended {
		note("no end")
	}
	if usages > 1 {
		note("more than one usage")
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// exceptions are what is known not to fit: the lines "who | what" of the blocks that documentation marks as extensions. *
// is any text.
type exceptions struct {
	lines []string
	globs []*regexp.Regexp // of each line
	used  map[string]bool
}

func readExceptions(t *testing.T, file string) *exceptions {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	e := &exceptions{used: map[string]bool{}}
	for i, part := range strings.Split(string(raw), "\n```") {
		lines, ok := strings.CutPrefix(part, "extensions\n")
		if i%2 == 0 || !ok {
			continue
		}
		for line := range strings.SplitSeq(lines, "\n") {
			if strings.Count(line, " | ") != 1 {
				t.Errorf("%s: a line without two parts: %q", file, line)
			}
			e.lines = append(e.lines, line)
			e.globs = append(e.globs, regexp.MustCompile(`^`+strings.ReplaceAll(regexp.QuoteMeta(line), `\*`, `.*`)+`$`))
		}
	}
	return e
}

// check fails for what does not fit and is not known.
func (e *exceptions) check(t *testing.T, who, about string, wrong []string, shown []byte) {
	t.Helper()
	for _, w := range wrong {
		known := false
		for i, glob := range e.globs {
			if glob.MatchString(who + " | " + w) {
				known, e.used[e.lines[i]] = true, true
			}
		}
		if !known {
			t.Errorf("%s | %s\nin %s: %.1500s", who, w, about, shown)
		}
	}
}

// unused fails for lines that nothing needs any more.
func (e *exceptions) unused(t *testing.T) {
	t.Helper()
	for _, line := range e.lines {
		if !e.used[line] {
			t.Errorf("not needed any more: %s", line)
		}
	}
}

// The schema sees what it should see.
func TestSchema(t *testing.T) {
	s, err := theSchema()
	if err != nil {
		t.Fatal(err)
	}
	const good = `{"id":"a","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":null,"refusal":null,` +
		`"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},"logprobs":null,"finish_reason":"tool_calls"}],` +
		`"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`
	if wrong := s.answer([]byte(good)); len(wrong) > 0 {
		t.Errorf("a good answer: %v", wrong)
	}
	for change, want := range map[string]string{
		`"id":"a", => `:                                       "no ChatCompletion.id",
		`"a" => null`:                                         "null for ChatCompletion.id",
		`"a" => 7`:                                            "another type for ChatCompletion.id",
		`"created":1 => "created":1.5`:                        "another type for ChatCompletion.created",
		`"created":1 => "created":"1"`:                        "another type for ChatCompletion.created",
		`chat.completion" => chat"`:                           "another word for ChatCompletion.object",
		`"m" => "m","x":1`:                                    "more: ChatCompletion.x",
		`"refusal":null, => `:                                 "no ChatCompletionMessage.refusal",
		`"assistant" => "model"`:                              "another word for ChatCompletionMessage.role",
		`"tool_calls"} => "STOP"}`:                            "another word for ChatCompletionChoice.finish_reason",
		`"tool_calls"} => null}`:                              "null for ChatCompletionChoice.finish_reason",
		`"logprobs":null, => `:                                "no ChatCompletionChoice.logprobs",
		`"type":"function" => "type":"tool"`:                  "another word for ChatCompletionMessageToolCallUnion.type",
		`"arguments":"{}" => "arguments":{}`:                  "another type for ChatCompletionMessageFunctionToolCallFunction.arguments",
		`"id":"c" => "index":0`:                               "more: ChatCompletionMessageFunctionToolCall.index, no ChatCompletionMessageFunctionToolCall.id",
		`"total_tokens":2 => "total_tokens":null`:             "null for CompletionUsage.total_tokens",
		`"refusal":null => "refusal":null,"annotations":null`: "null for ChatCompletionMessage.annotations",
	} {
		from, to, _ := strings.Cut(change, " => ")
		if got := strings.Join(s.answer([]byte(strings.Replace(good, from, to, 1))), ", "); got != want {
			t.Errorf("%s: %q, want %q", change, got, want)
		}
	}
	for body, want := range map[string]string{
		`{"error":{"message":"m","type":"t","param":null,"code":null}}`:   "",
		`{"error":{"message":"m","type":"t","code":7}}`:                   "another type for ErrorObject.code, no ErrorObject.param",
		`{"error":{"message":"m","type":"t","param":null},"user_id":"u"}`: "no error object",
		`[]`: "no error object",
	} {
		if got := strings.Join(s.failure([]byte(body)), ", "); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
	chunk := func(id, choice string) string {
		return `{"id":"` + id + `","object":"chat.completion.chunk","created":1,"model":"m","choices":[` + choice + `]}`
	}
	const role, text, end = `{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}`, `{"index":0,"delta":{"content":"a"},"finish_reason":null}`, `{"index":0,"delta":{},"finish_reason":"stop"}`
	for _, c := range []struct {
		want   string
		events []string
	}{
		{"", []string{chunk("a", role), chunk("a", text), chunk("a", end), "[DONE]"}},
		{"", []string{chunk("a", role), `{"error":{"message":"m","type":"t","param":null,"code":null}}`}},
		{"stream: no end", []string{chunk("a", role)}},
		{"stream: a choice without an end", []string{chunk("a", role), "[DONE]"}},
		{"stream: another id", []string{chunk("a", role), chunk("b", end), "[DONE]"}},
		{"stream: a role in the wrong place", []string{chunk("a", text), chunk("a", end), "[DONE]"}},
		{"stream: a role in the wrong place", []string{chunk("a", role), chunk("a", role), chunk("a", end), "[DONE]"}},
		{"stream: a choice after its end", []string{chunk("a", role), chunk("a", end), chunk("a", text), "[DONE]"}},
		{"stream: something after its end", []string{chunk("a", role), chunk("a", end), "[DONE]", "[DONE]"}},
		{"another word for ChatCompletionChunkChoice.finish_reason", []string{chunk("a", role), chunk("a", strings.Replace(end, "stop", "eos", 1)), "[DONE]"}},
	} {
		if got := strings.Join(s.stream(c.events), ", "); got != c.want {
			t.Errorf("%v: %q, want %q", c.events, got, c.want)
		}
	}
	if n := len(slices.Collect(maps.Keys(s.words))); n < 100 {
		t.Errorf("only %d members have their words", n)
	}
}
