package fidelity

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// conversation is a thread as this test knows it.
type conversation struct {
	w    *world
	id   string
	turn int
	all  []said
}

// said is one message that must be in the thread.
type said struct {
	turn int
	role string
	raw  string // "": an answer put together from a stream; see text
	text string // what its content says
}

func (s said) system() bool { return s.role == "system" || s.role == "developer" }

// conversations numbers threads, so that each has a name of its own, also while a failure is shrunk.
var conversations atomic.Int64

func newConversation(w *world) *conversation {
	return &conversation{w: w, id: fmt.Sprint("thread-", conversations.Add(1))}
}

// thinThread sends only what is new in each turn.
func (w *world) thinThread(t *rapid.T) {
	c := newConversation(w)
	to := rapid.SampledFrom(targets).Draw(t, "target")
	for range rapid.IntRange(1, 3).Draw(t, "turns") {
		var roles []string
		if chance(t, 40) {
			roles = append(roles, pick(t, "system", "developer"))
		}
		if roles = append(roles, "user"); chance(t, 20) {
			roles = append(roles, pick(t, "system", "user"))
		}
		c.next(t, to, c.written(t, to, roles...), c.history(roles[0] != "user" || roles[len(roles)-1] == "system"))
	}
	c.mustBeStored(t)
	c.mustBeShown(t)
}

// fullThread resends everything in each turn, as it was written.
func (w *world) fullThread(t *rapid.T) {
	c := newConversation(w)
	to := rapid.SampledFrom(targets).Draw(t, "target")
	for range rapid.IntRange(1, 3).Draw(t, "turns") {
		if c.turn > 0 && c.all[len(c.all)-1].raw == "" {
			break // a client that streams writes the answer in its own words: this one would not know the bytes
		}
		known := len(c.all)
		var messages []string
		for _, m := range c.all {
			messages = append(messages, m.raw)
		}
		messages = append(messages, c.written(t, to, "user")...)
		x := c.ask(t, to, messages, "")
		if mode := x.Header.Get("X-Threadhub-Thread-Mode"); known > 0 && mode != "deduplicated" {
			t.Fatalf("the thread's own messages were taken for new ones: %s", mode)
		}
	}
	c.mustBeStored(t)
	c.mustBeShown(t)
}

// written writes new messages and notes them.
func (c *conversation) written(t *rapid.T, to target, roles ...string) (messages []string) {
	for i, role := range roles {
		mark := fmt.Sprintf("turn %d.%d", c.turn, i)
		if i == len(roles)-1 {
			mark += scripted(t)
		}
		raw := message(t, role, mark, to.provider == "openai")
		messages = append(messages, raw)
		c.all = append(c.all, said{turn: c.turn, role: role, raw: raw})
	}
	return messages
}

// history is what must go before the new messages of the turn under way: the thread without its system messages, or,
// where the request has none of its own, with its newest ones in front.
func (c *conversation) history(ownSystem bool) func(stored []string) string {
	return func(stored []string) string {
		var systems, rest []string
		newest := -1
		for i, m := range c.all[:len(stored)] {
			switch {
			case !m.system():
				rest = append(rest, stored[i])
			case m.turn != newest:
				newest, systems = m.turn, nil
				fallthrough
			default:
				systems = append(systems, stored[i])
			}
		}
		if ownSystem {
			systems = nil
		}
		return strings.Join(append(systems, rest...), ",")
	}
}

// next asks as a thin client: what is stored so far goes before the new messages.
func (c *conversation) next(t *rapid.T, to target, messages []string, history func(stored []string) string) {
	stored := c.w.stored(t, c.id)
	c.ask(t, to, messages, history(stored))
}

// ask makes one turn, naming the thread in one of the three ways, and checks both directions.
func (c *conversation) ask(t *rapid.T, to target, messages []string, history string) exchange {
	var header []string
	var more []member
	name, quoted := pick(t, "header", "body", "metadata", "metadata among others", "all"), `"`+c.id+`"`
	meta := c.metadata(t, quoted)
	switch name {
	case "body":
		more = append(more, member{name: "thread_id", value: quoted})
	case "metadata":
		more = append(more, member{name: "metadata", value: "{" + space(t) + `"thread_id"` + space(t) + ":" + quoted + space(t) + "}"})
	case "metadata among others":
		more = append(more, member{name: "metadata", value: meta.text()})
	case "all":
		header = []string{"X-Thread-Id", c.id}
		more = append(more, member{name: "thread_id", value: quoted}, member{name: "metadata", value: meta.text()})
	default:
		header = []string{"X-Thread-Id", c.id}
	}
	r := newRequest(t, to, messages, more...)
	x := c.w.call(t, r.text(), header...)
	edited := r.body.without("thread_id")
	switch name {
	case "metadata":
		edited = edited.without("metadata")
	case "metadata among others", "all":
		edited = edited.with("metadata", meta.without("thread_id").text())
	}
	r.mustBecome(t, string(x.seen.Body), edited, history)
	r.mustBringBack(t, x)
	if got := x.Header.Get("X-Thread-Id"); got != c.id {
		t.Fatalf("X-Thread-Id is %q, want %q", got, c.id)
	}
	c.answered(t, r, x)
	c.turn++
	return x
}

// metadata names the thread among other members.
func (c *conversation) metadata(t *rapid.T, quoted string) *body {
	items := []member{{name: "thread_id", value: quoted}, {name: "ticket", value: str(t)}}
	if chance(t, 50) {
		items = append(items, member{name: "Thread_Id", value: str(t)})
	}
	b := &body{items: rapid.Permutation(items).Draw(t, "metadata"), first: space(t), last: space(t)}
	for i := range b.items {
		b.items[i].key, b.items[i].colon = `"`+b.items[i].name+`"`, space(t)+":"
		if i > 0 {
			b.seps = append(b.seps, space(t)+","+space(t))
		}
	}
	return b
}

// answered notes the answer: its message as it came, or, of a stream, what its pieces say.
func (c *conversation) answered(t *rapid.T, r *request, x exchange) {
	if !r.stream {
		var answer struct {
			Choices []struct{ Message json.RawMessage }
		}
		if err := json.Unmarshal(x.Body, &answer); err != nil {
			t.Fatal(err)
		}
		c.all = append(c.all, said{turn: c.turn, role: "assistant", raw: string(answer.Choices[0].Message)})
		return
	}
	text := ""
	for _, payload := range payloads(t, x.Body) {
		var chunk struct {
			Choices []struct {
				Index int
				Delta struct{ Content string }
			}
		}
		if payload == "[DONE]" {
			continue
		}
		if err := json.Unmarshal([]byte(payload), &chunk); err != nil {
			t.Fatalf("%v: %s", err, payload)
		}
		for _, choice := range chunk.Choices {
			if choice.Index == 0 {
				text += choice.Delta.Content
			}
		}
	}
	c.all = append(c.all, said{turn: c.turn, role: "assistant", text: text})
}

// mustBeStored checks the rows: what was written, byte for byte.
func (c *conversation) mustBeStored(t *rapid.T) {
	stored := c.w.stored(t, c.id)
	if len(stored) != len(c.all) {
		t.Fatalf("%d messages are stored of %d", len(stored), len(c.all))
	}
	for i, m := range c.all {
		if m.raw != "" && stored[i] != m.raw {
			t.Fatalf("message %d is stored as\n%q\nand was\n%q", i, stored[i], m.raw)
		}
		if m.raw == "" {
			var got struct{ Content string }
			if err := json.Unmarshal([]byte(stored[i]), &got); err != nil || got.Content != m.text {
				t.Fatalf("the streamed answer %d is stored as\n%q\nand said\n%q (%v)", i, stored[i], m.text, err)
			}
			c.all[i].raw = stored[i]
		}
	}
}

// mustBeShown checks what the API shows of the thread: the members of each message as they were written, white space
// between them apart.
func (c *conversation) mustBeShown(t *rapid.T) {
	r, err := c.w.Do(c.w.t.Context(), "GET", "/api/threads/"+c.id, c.w.key, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Messages []map[string]json.RawMessage
	}
	if err := r.JSON(&got); err != nil {
		t.Fatal(err)
	}
	if len(got.Messages) != len(c.all) {
		t.Fatalf("%d messages are shown of %d", len(got.Messages), len(c.all))
	}
	for i, m := range c.all {
		var want map[string]json.RawMessage
		if err := json.Unmarshal([]byte(m.raw), &want); err != nil {
			t.Fatal(err)
		}
		for name, v := range want {
			if diff := cmp.Diff(compact(t, string(v)), string(got.Messages[i][name])); diff != "" {
				t.Fatalf("member %q of message %d, as written (-) and shown (+):\n%s", name, i, diff)
			}
		}
	}
}
