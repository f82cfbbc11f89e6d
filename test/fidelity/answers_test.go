package fidelity

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/test/rig"
)

// The simulator writes as OpenAI does. Here answers are written in every way JSON allows, with members nobody knows, and
// come to the client as they are.
func TestAnswersComeAsTheyAre(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(rig.Stores)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlayed(t, rig.Stores[name](t))
			t.Run("whole", func(t *testing.T) { rapid.Check(t, p.whole) })
			t.Run("streamed", func(t *testing.T) { rapid.Check(t, p.streamed) })
		})
	}
}

// played is a gateway between us and providers that say what the test wrote.
type played struct {
	*world
	replay *rig.Replay
	n      atomic.Int64
}

func newPlayed(t *testing.T, url string) *played {
	t.Helper()
	p := &played{world: &world{t: t}, replay: rig.NewReplay(t)}
	h := rig.NewHouse(t, rig.Options{Database: url, Env: append(p.replay.Env(), "THREADHUB_TIMEOUTS__DRAIN_ACCEPT=0")})
	admin := h.Seed("Fidelity", "admin@example.com", "admin")
	p.key, p.org = admin.Key, id.Org(admin.Org)
	p.Gateway = h.Serve()
	p.ProviderKeys(t, admin)
	store, err := db.Open(t.Context(), db.Options{URL: url, MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	p.store = store
	return p
}

// ask makes one call, which the provider answers with record. more is further members of the request. It is a plain call
// or the first turn of a thread, whose name is returned.
func (p *played) ask(t *rapid.T, record rig.Record, more string) (r *rig.Reply, thread string) {
	name := fmt.Sprint("record-", p.n.Add(1))
	p.replay.Put(name, record)
	var header []string
	if chance(t, 50) {
		thread = name
		header = []string{"X-Thread-Id", thread}
	}
	model := pick(t, "openai/m", "openrouter/m")
	r, err := p.Do(p.t.Context(), "POST", "/v1/chat/completions", p.key,
		`{"model":"`+model+`","messages":[{"role":"user","content":"`+rig.Play(name)+`"}]`+more+`}`, header...)
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != 200 {
		t.Fatalf("status %d: %s\nof the answer\n%s", r.Status, r.Body, record.Body)
	}
	return r, thread
}

// unknown adds members that nobody knows to an object under way.
func unknown(t *rapid.T, members map[string]string) {
	for i := range rapid.IntRange(0, 3).Draw(t, "unknown") {
		name := fmt.Sprint(pick(t, "x", "ключ", "Usage", "obfuscation", "native_finish_reason", "a b", "😀"), i)
		members[name] = value(t, 2)
	}
}

// written is an object with its members in any order.
func written(t *rapid.T, members map[string]string) string {
	return object(t, members, slices.Sorted(maps.Keys(members)))
}

// message is what an answer or a piece of one says.
func (p *played) message(t *rapid.T) map[string]string {
	m := map[string]string{"role": `"assistant"`, "content": str(t)}
	switch rapid.IntRange(0, 4).Draw(t, "message") {
	case 0:
		m["content"], m["refusal"] = "null", str(t)
	case 1:
		m["content"] = pick(t, "null", `""`)
		m["tool_calls"] = "[" + written(t, map[string]string{
			"index": "0", "id": `"call_1"`, "type": `"function"`, "function": written(t, map[string]string{"name": `"f"`, "arguments": `"{ \"b\" : 1e2,\"a\":-0 }"`}),
		}) + "]"
	case 2:
		m["refusal"], m["annotations"] = "null", "[]"
	}
	unknown(t, m)
	return m
}

func usageText(t *rapid.T) string {
	m := map[string]string{"prompt_tokens": "11", "completion_tokens": "2", "total_tokens": "13"}
	if chance(t, 50) {
		m["prompt_tokens_details"] = `{"cached_tokens" : 0, "x":-0}`
	}
	unknown(t, m)
	return written(t, m)
}

// top are the members that answers and chunks have in common.
func top(t *rapid.T, kind string) map[string]string {
	m := map[string]string{
		"id": pick(t, `"chatcmpl-1"`, `"gen-1794700800-x"`, `"\u0063hatcmpl-1"`), "object": `"` + kind + `"`,
		"created": pick(t, "1794700800", "1.7947008E9"), "model": pick(t, `"m-2025"`, `"vendor\/m"`),
	}
	if chance(t, 50) {
		m["service_tier"], m["system_fingerprint"] = `"default"`, pick(t, `""`, "null", `"fp_1"`)
	}
	unknown(t, m)
	return m
}

// whole: the body is the provider's to the byte, and so is the message that the thread keeps of it.
func (p *played) whole(t *rapid.T) {
	var first string
	var choices []string
	for i := range rapid.IntRange(1, 2).Draw(t, "choices") {
		text := written(t, p.message(t))
		if i == 0 {
			first = text
		}
		c := map[string]string{"index": strconv.Itoa(i), "message": text, "finish_reason": pick(t, `"stop"`, `"length"`, `"content_filter"`, `"eos"`)}
		if chance(t, 50) {
			c["logprobs"] = pick(t, "null", `{"content":[{"token":"a","logprob":-1e-7,"bytes":[97],"top_logprobs":[]}],"refusal":null}`)
		}
		unknown(t, c)
		choices = append(choices, written(t, c))
	}
	m := top(t, "chat.completion")
	m["choices"] = "[" + space(t) + strings.Join(choices, ","+space(t)) + "]"
	if chance(t, 70) {
		m["usage"] = usageText(t)
	}
	body := space(t) + written(t, m) + space(t)
	r, thread := p.ask(t, rig.Whole(body), "")
	if string(r.Body) != body {
		t.Fatalf("the client got\n%q\nof\n%q", r.Body, body)
	}
	if thread == "" {
		return
	}
	if stored := p.stored(t, thread); len(stored) != 2 || stored[1] != first {
		t.Fatalf("the thread keeps\n%q\nof\n%q", stored, first)
	}
}

// streamed: each payload is the provider's to the byte, however it was framed; the usage chunk comes to who asked.
func (p *played) streamed(t *rapid.T) {
	var payloads []string
	add := func(delta map[string]string, finish string) {
		m := top(t, "chat.completion.chunk")
		c := map[string]string{"index": "0", "delta": written(t, delta), "finish_reason": finish}
		unknown(t, c)
		m["choices"] = "[" + written(t, c) + "]"
		if chance(t, 50) {
			m["obfuscation"] = pick(t, `""`, `"PUkgjgt"`, str(t))
		}
		if chance(t, 30) {
			m["usage"] = "null"
		}
		payloads = append(payloads, written(t, m))
	}
	empty := func() {
		if chance(t, 20) {
			m := top(t, "chat.completion.chunk")
			m["choices"] = pick(t, "[]", "[ ]")
			m[pick(t, "moderation", "prompt_filter_results")] = value(t, 2)
			payloads = append(payloads, written(t, m))
		}
	}
	empty()
	add(map[string]string{"role": `"assistant"`, "content": `""`, "refusal": "null"}, "null")
	for range rapid.IntRange(1, 4).Draw(t, "chunks") {
		delta := p.message(t)
		delete(delta, "role")
		add(delta, "null")
		empty()
	}
	add(map[string]string{}, pick(t, `"stop"`, `"length"`, `"eos"`))
	usage := ""
	if chance(t, 80) {
		m := top(t, "chat.completion.chunk")
		m["choices"], m["usage"] = "[]", usageText(t)
		if chance(t, 50) {
			m["obfuscation"] = str(t)
		}
		usage = written(t, m)
	}
	raw := ""
	for _, payload := range append(payloads, usage) {
		if payload != "" {
			raw += framed(t, payload)
		}
	}
	more, asked := `,"stream":true`, chance(t, 50)
	if asked {
		more += `,"stream_options":{"include_usage":true}`
	}
	r, _ := p.ask(t, rig.Streamed(raw+"data: [DONE]\n\n"), more)
	want := append(slices.Clone(payloads), "[DONE]")
	if asked && usage != "" {
		want = append(slices.Clone(payloads), usage, "[DONE]")
	}
	got := dataOf(t, r.Body)
	for i, payload := range got {
		if asked && i == len(got)-2 && usage != "" {
			got[i] = cost.ReplaceAllString(payload, "")
			if got[i] == payload || !json.Valid([]byte(payload)) {
				t.Fatalf("the usage does not say what it cost: %s", payload)
			}
		}
	}
	for i := range want { // an event has one kind of line end
		want[i] = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(want[i])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("the payloads the provider sent (-) and the client got (+):\n%s\nof %q", diff, raw)
	}
}

// framed is a payload as an event of a provider, with what may stand beside it.
func framed(t *rapid.T, payload string) string {
	end := pick(t, "\n", "\n", "\r\n")
	out := pick(t, "", "", ": keep-alive"+end+end, "event: message"+end, "id: 7"+end)
	field := pick(t, "data: ", "data: ", "data:")
	for line := range strings.SplitSeq(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(payload), "\n") {
		if field == "data:" && strings.HasPrefix(line, " ") {
			line = " " + line
		}
		out += field + line + end
	}
	return out + end
}

// dataOf are the payloads of a stream, whose events are an id that is a number, lines of data, and comments.
func dataOf(t *rapid.T, stream []byte) (list []string) {
	for event := range strings.SplitSeq(strings.TrimSuffix(string(stream), "\n\n"), "\n\n") {
		if strings.HasPrefix(event, ":") {
			continue
		}
		id, event, _ := strings.Cut(event, "\n")
		if n, ok := strings.CutPrefix(id, "id: "); !ok || strings.Trim(n, "0123456789") != "" {
			t.Fatalf("an event without a number: %q", id)
		}
		var lines []string
		for line := range strings.SplitSeq(event, "\n") {
			text, ok := strings.CutPrefix(line, "data: ")
			if !ok {
				t.Fatalf("a line that is no data: %q", event)
			}
			lines = append(lines, text)
		}
		list = append(list, strings.Join(lines, "\n"))
	}
	return list
}
