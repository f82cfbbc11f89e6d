package sdk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/respjson"
	"github.com/openai/openai-go/v3/packages/ssestream"

	"threadhub/test/rig"
)

// A recorded answer, stream or refusal is asked for twice with each SDK: of whoever plays it, and through the gateway.
// What the SDK makes of it must be the same, field by field, but for what differences.txt lists with its reason. A line
// there that nothing answers to any more fails the test, too.
func TestTypedResults(t *testing.T) {
	t.Parallel()
	replay := rig.NewReplay(t)
	house := rig.NewHouse(t, rig.Options{Database: rig.Stores["sqlite"](t), Env: append(replay.Env(), rig.AskedOnce...)})
	admin := house.Seed("typed", "typed@example.com", "admin")
	gw := house.Serve()
	gw.ProviderKeys(t, admin)
	t.Cleanup(http.DefaultClient.CloseIdleConnections) // of the Go SDK

	var jobs []typedJob
	for _, provider := range []string{"openai", "openrouter"} { // whose dialect the SDKs speak
		for _, folder := range []string{"chat", "stream", "errors"} {
			records := rig.Recorded(t, provider, folder)
			for _, name := range slices.Sorted(maps.Keys(records)) {
				record := records[name]
				replay.Put(name, record)
				whole, stream := folder != "stream", folder != "chat"
				for _, streams := range []bool{false, true} {
					if streams && !stream || !streams && !whole {
						continue
					}
					j := typedJob{record: name, Body: typedBody(name, streams, strings.Contains(record.Body, `"usage":{`))}
					if folder == "errors" && streams {
						j.record += " streamed"
					}
					direct, via := j, j
					direct.BaseURL, direct.Key, direct.Body.Model = replay.URL(provider), "sk-direct", dialects[provider].model
					via.BaseURL, via.Key, via.Body.Model = gw.URL+"/v1", admin.Key, provider+"/"+dialects[provider].model
					jobs = append(jobs, direct, via)
				}
			}
		}
	}
	jobs = append(jobs, typedOthers(t, replay, gw.URL+"/v1", admin.Key)...)
	if len(jobs) < 200 {
		t.Fatalf("only %d jobs", len(jobs))
	}
	for i := range jobs {
		jobs[i].N = i
	}
	list := readDifferences(t, "differences.txt")
	for _, lib := range []struct {
		name string
		do   func(*testing.T, []typedJob) []map[string]string
	}{{"go", goTyped}, {"node", nodeTyped}} {
		results := lib.do(t, jobs)
		for i := 0; i < len(jobs); i += 2 {
			direct, via := results[i], results[i+1]
			if len(direct) == 0 || len(via) == 0 {
				t.Errorf("%s: %s: nothing came of it: %v %v", lib.name, jobs[i].record, direct, via)
			}
			for _, path := range slices.Sorted(maps.Keys(union(direct, via))) {
				if d, v := orAbsent(direct, path), orAbsent(via, path); d != v {
					list.found(t, difference{jobs[i].record, lib.name, path, d, v})
				}
			}
		}
	}
	list.unused(t)
}

type typedJob struct {
	N       int       `json:"n"`
	Kind    string    `json:"kind"` // "": chat; embeddings, models
	BaseURL string    `json:"base_url"`
	Key     string    `json:"key"`
	Body    typedAsks `json:"body"`
	record  string
}

type typedAsks struct {
	Model    string          `json:"model"`
	Messages []message       `json:"messages"`
	Stream   bool            `json:"stream,omitempty"`
	Options  json.RawMessage `json:"stream_options,omitempty"`

	Input    []string `json:"input,omitempty"` // of embeddings
	Encoding string   `json:"encoding_format,omitempty"`
	User     string   `json:"user,omitempty"`

	Prefix string   `json:"prefix,omitempty"` // of models: what the gateway puts before the name of one that it does not know
	Names  []string `json:"names,omitempty"`
}

func typedBody(name string, stream, usage bool) typedAsks {
	b := typedAsks{Messages: []message{{"user", rig.Play(name)}}, Stream: stream}
	if stream && usage { // nobody sends it to who does not ask
		b.Options = json.RawMessage(`{"include_usage":true}`)
	}
	return b
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

const absent = "(absent)"

func orAbsent(m map[string]string, path string) string {
	if v, ok := m[path]; ok {
		return v
	}
	return absent
}

// goTyped does the jobs with the Go SDK.
func goTyped(t *testing.T, jobs []typedJob) (results []map[string]string) {
	for _, j := range jobs {
		out := flat{}
		client := openai.NewClient(option.WithBaseURL(j.BaseURL), option.WithAPIKey(j.Key), option.WithMaxRetries(0))
		if j.Kind != "" {
			goTypedOther(t, client, j, out)
			results = append(results, out)
			continue
		}
		p := openai.ChatCompletionNewParams{Model: j.Body.Model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(j.Body.Messages[0].Content)}}
		if j.Body.Stream {
			if j.Body.Options != nil {
				p.StreamOptions.IncludeUsage = openai.Bool(true)
			}
			s := client.Chat.Completions.NewStreaming(t.Context(), p)
			var acc openai.ChatCompletionAccumulator
			for n := 0; s.Next(); n++ {
				chunk := s.Current()
				out.add(fmt.Sprintf("chunks[%d]", n), reflect.ValueOf(chunk))
				out[fmt.Sprintf("chunks[%d] accumulated", n)] = strconv.FormatBool(acc.AddChunk(chunk))
			}
			_ = s.Close()
			out.add("final", reflect.ValueOf(acc.ChatCompletion))
			out.err(s.Err())
		} else {
			c, err := client.Chat.Completions.New(t.Context(), p)
			if err == nil {
				out.add("completion", reflect.ValueOf(*c))
			}
			out.err(err)
		}
		results = append(results, out)
	}
	return results
}

// flat are the fields of a value of the SDK by their paths: what was there, null, or of another type than it should be.
// What the SDK has no field for stands there as it came.
type flat map[string]string

func (f flat) add(path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		f.object(path, v)
	case reflect.Slice:
		f[path+" length"] = strconv.Itoa(v.Len())
		for i := range v.Len() {
			f.add(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			f.add(fmt.Sprintf("%s.%v", path, k), v.MapIndex(k))
		}
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			f.add(path, v.Elem())
		}
	default:
		f[path] = fmt.Sprintf("%v", v.Interface())
	}
}

// object adds the fields of a struct. One that the SDK read from JSON tells which of them were there.
func (f flat) object(path string, v reflect.Value) {
	meta := v.FieldByName("JSON")
	read := meta.IsValid() && meta.FieldByName("raw").String() != ""
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() || field.Name == "JSON" {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		at := path + "." + name
		switch {
		case name != "":
		case field.Anonymous:
			at = path
		default: // not of the API
			continue
		}
		if read {
			if was := meta.FieldByName(field.Name); was.IsValid() {
				f.field(at, v.Field(i), was.Interface().(respjson.Field))
				continue
			}
		}
		f.add(at, v.Field(i))
	}
	if !read {
		return
	}
	if extra := meta.FieldByName("ExtraFields"); extra.IsValid() { // a union has none
		for name, e := range extra.Interface().(map[string]respjson.Field) {
			f[path+"."+name] = e.Raw()
		}
	}
}

func (f flat) field(path string, v reflect.Value, was respjson.Field) {
	switch {
	case was.Valid():
		f.add(path, v)
	case was.Raw() == respjson.Null:
		f[path] = respjson.Null
	case was.Raw() != respjson.Omitted:
		f[path] = "of another type: " + was.Raw()
	}
}

// err adds what a program sees of an error of the SDK.
func (f flat) err(err error) {
	var answer *openai.Error
	var event *ssestream.StreamError
	switch {
	case err == nil:
	case errors.As(err, &answer):
		f.add("error", reflect.ValueOf(*answer))
		f["error.class"], f["error.status"] = "openai.Error", strconv.Itoa(answer.StatusCode)
		for name, header := range map[string]string{
			"retry_after": "Retry-After", "retry_after_ms": "Retry-After-Ms", "should_retry": "X-Should-Retry", "request_id": "X-Request-Id",
		} {
			if v := answer.Response.Header.Get(header); v != "" {
				f["error."+name] = v
			}
		}
	case errors.As(err, &event):
		f["error.class"] = "ssestream.StreamError"
		var data any
		if json.Unmarshal(event.Event.Data, &data) == nil {
			f.json("event", data)
		}
		for path, v := range f {
			if name, ok := strings.CutPrefix(path, "event.error."); ok {
				f["error."+name] = v
				delete(f, path)
			}
		}
	default:
		f["error.class"] = fmt.Sprintf("%T: %v", err, err)
	}
}

// nodeTyped does the jobs with the Node SDK.
func nodeTyped(t *testing.T, jobs []typedJob) []map[string]string {
	t.Helper()
	var in bytes.Buffer
	for _, j := range jobs {
		line, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		in.Write(append(line, '\n'))
	}
	cmd := exec.CommandContext(t.Context(), "node", filepath.Join(nodeFolder(t, "typed.mjs"), "typed.mjs"))
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = &in, &stderr
	stdout, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("node: %v\n%s", err, &stderr)
	}
	results := make([]map[string]string, len(jobs))
	for line := range bytes.Lines(stdout) {
		var r struct {
			N      int
			Result any
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		out := flat{}
		out.json("", r.Result)
		results[r.N] = out
	}
	return results
}

// json adds the fields of a value that came as JSON.
func (f flat) json(path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			f.json(strings.TrimPrefix(path+"."+name, "."), member)
		}
	case []any:
		f[path+" length"] = strconv.Itoa(len(v))
		for i, element := range v {
			f.json(fmt.Sprintf("%s[%d]", path, i), element)
		}
	case string:
		f[path] = v
	case nil:
		f[path] = "null"
	default:
		f[path] = fmt.Sprintf("%v", v)
	}
}

// difference is one field of one record that one SDK sees differently.
type difference struct{ record, sdk, path, direct, via string }

func (d difference) String() string {
	return strings.Join([]string{d.record, d.sdk, d.path, d.direct, d.via}, " | ")
}

// is reports whether a line is about d.
func (d difference) is(line string) bool {
	line = strings.ReplaceAll(line, "{direct}", d.direct)
	have, want := []string{d.record, d.sdk, d.path, d.direct, d.via}, strings.SplitN(line, " | ", 5)
	for i := range have {
		if glob := `(?s)^` + strings.ReplaceAll(regexp.QuoteMeta(want[i]), `\*`, `.*`) + `$`; !regexp.MustCompile(glob).MatchString(have[i]) {
			return false
		}
	}
	return true
}

// differences are those that are known, a line each: record | sdk | path | straight from the provider | through the
// gateway. * is any text; of the SDK it means both. {direct} is what comes straight from the provider. Lines above, that
// begin with #, say why.
type differences struct {
	lines []string
	by    []map[string]bool // the SDKs each line was found with
}

func readDifferences(t *testing.T, file string) *differences {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	l, reasoned := &differences{}, false
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			reasoned = false
		}
		if strings.HasPrefix(line, "#") {
			reasoned = true
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if !reasoned || strings.Count(line, " | ") < 4 {
			t.Errorf("%s: a line without a reason above it, or without five parts: %s", file, line)
		}
		l.lines = append(l.lines, line)
		l.by = append(l.by, map[string]bool{})
	}
	return l
}

func (l *differences) found(t *testing.T, d difference) {
	t.Helper()
	known := false
	for i, line := range l.lines {
		if d.is(line) {
			l.by[i][d.sdk] = true
			known = true
		}
	}
	if !known {
		t.Errorf("not in the list: %s", d)
	}
}

// unused fails for lines that are true no more.
func (l *differences) unused(t *testing.T) {
	t.Helper()
	for i, line := range l.lines {
		want := 1
		if strings.Split(line, " | ")[1] == "*" {
			want = 2
		}
		if len(l.by[i]) < want {
			t.Errorf("found with %d SDKs, of %d: %s", len(l.by[i]), want, line)
		}
	}
}
