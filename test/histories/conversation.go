package histories

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode/utf16"

	"threadhub/simulator"
)

// Conversation is one that a target is told.
type Conversation struct {
	Seed   uint64
	To     Target
	Thread bool      // a thread holds Told, and the client sends what is new; else the client sends it all
	Told   []Message // what the thread holds
	Sent   []Message // the messages of the request
	More   string    // further members of the request, each with a comma before it

	Refusable bool   // it asks for something now that the target has no way to take
	Wrong     string // what is wrong with it: it must be refused; "": nothing

	pieces []piece
	calls  []call
	now    int // the last message of a user that says anything: what is asked now begins with it
}

// Message is one message, and where it came from.
type Message struct {
	Role   string
	Raw    string
	Answer bool
	By     Target // who gave an answer
	Cut    bool   // it did not come to its end
	Empty  bool   // its user says nothing
}

// piece is one thing that must arrive, or be named by a warning.
type piece struct {
	kind   string
	mark   string
	at     int      // the message it is in, counted over Told and Sent
	excuse []string // the names in warnings under which it may be missing, where the target has no place for its kind
	loose  bool     // its place among the others is the provider's

	by     *Target // the model that left it for its own kind; nil: it is for anybody
	back   bool    // that model's provider wants it back
	spoken bool    // it is for all but that model, which knows it by the id of its sound
	cut    bool    // the answer it is in did not come to its end
}

// call is a call of a tool and its result.
type call struct {
	id, name     string
	sent         string // the id as the client has it, which may hold the signature
	args, result string // marks
	by           Target
	signature    string // of the model that made it
	cut          bool   // in an answer that did not come to its end
	at           int    // the message it is in
	answered     int    // the message its result is in
}

// none is the result of half a call: nobody can have run it.
const none = "none"

// all are the messages in order.
func (c *Conversation) all() []Message { return append(slices.Clone(c.Told), c.Sent...) }

// Body is the request as the client sends it.
func (c *Conversation) Body() []byte {
	var list []string
	for _, m := range c.Sent {
		list = append(list, m.Raw)
	}
	return fmt.Appendf(nil, `{"model":%s,"messages":[%s]%s}`, ascii(c.To.Model), strings.Join(list, ","), c.More)
}

// maker makes a conversation.
type maker struct {
	*rand.Rand
	c     *Conversation
	mine  []Message
	marks int
	tools []string // the names of the client's tools
	used  []string // ids of calls that have their results
	ids   []string // of the answer that is made
	until int      // so many of the messages are the thread's
	plain bool     // the client keeps to what OpenAI documents
	fancy bool     // it did not, since the last answer: OpenAI cannot have given the next
	sent  bool     // what is made now the client sends, with what it asks
	short bool     // no text is long, and no user says nothing
}

// Make makes the conversation of a seed.
func Make(seed uint64) *Conversation {
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 0x7468726561646875)), c: &Conversation{Seed: seed}}
	m.c.To = pick(m, Targets...)
	m.c.Thread = m.chance(60)
	m.plain = !m.c.Thread && m.c.To.Provider == "openai"
	m.sent = !m.c.Thread
	m.offer()
	m.talk()
	if !m.c.Thread {
		m.until = 0
	}
	m.c.Told, m.c.Sent = m.mine[:m.until:m.until], m.mine[m.until:]
	m.settle()
	return m.c
}

func (m *maker) chance(percent int) bool { return m.IntN(100) < percent }

func pick[T any](m *maker, of ...T) T { return of[m.IntN(len(of))] }

// mark is a word that is nowhere else. It is good base64.
func (m *maker) mark() string {
	m.marks++
	return fmt.Sprintf("Zq%06d", m.marks)
}

// piece notes one.
func (m *maker) piece(p piece) {
	p.at = len(m.mine)
	m.c.pieces = append(m.c.pieces, p)
}

// excused notes a piece of the message under way that may be lost, if a warning names it, unless the target can be told.
func (m *maker) excused(kind, mark string, excuse ...string) {
	m.piece(piece{kind: kind, mark: mark, excuse: excuse, loose: kind == "shown by a tool"})
}

var (
	before = []string{"", "Hello, ", "größer als ", "日本語で ", "👩‍👩‍👧 ", "a\u2028b ", "\"quoted\" \\ and\ttabs ", "e\u0301 ", "\u0000 ", "{\"a\":", "<|end|> "}
	after  = []string{"", ".", " — und so weiter", "\n\n* one\n* two", " 🏳️‍🌈", " ﷽", "}", "\r\n"}
)

// text is a text with a mark in it. Now and then it is long.
func (m *maker) text(mark string) string {
	s := pick(m, before...) + mark + pick(m, after...)
	if m.IntN(400) == 0 && !m.short {
		s += strings.Repeat(pick(m, "x", "ж", "\\n", "語"), 40_000)
	}
	return s
}

// json is s as JSON. Now and then half of a surrogate pair is at its end, as of a text that was cut.
func (m *maker) json(s string) string {
	text := m.escaped(s)
	if m.chance(2) {
		return text[:len(text)-1] + `\ud83d"`
	}
	return text
}

// escaped is s as JSON, in one of the ways there are.
func (m *maker) escaped(s string) string {
	if m.chance(30) {
		return ascii(s)
	}
	return quote(s)
}

func quote(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// ascii is s as JSON in nothing but ASCII.
func ascii(s string) string {
	var b strings.Builder
	for _, r := range quote(s) {
		switch {
		case r < 0x80:
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04X`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// object writes an object of names and values, "" being a member that is not there.
func (m *maker) object(members ...string) string {
	var list []string
	space := pick(m, "", "", " ")
	for i := 0; i < len(members); i += 2 {
		if members[i+1] != "" {
			list = append(list, quote(members[i])+space+":"+space+members[i+1])
		}
	}
	return "{" + strings.Join(list, ","+space) + "}"
}

func array(list []string) string { return "[" + strings.Join(list, ",") + "]" }

// offer declares the client's tools.
func (m *maker) offer() {
	m.tools = []string{"get_weather", "look-up_2"}
	if m.chance(40) {
		m.tools = append(m.tools, pick(m, "3d_render", "-x", "_private", "A", strings.Repeat("n", 64), "9"))
	}
	if m.chance(20) || m.c.To.Older {
		return
	}
	var list []string
	for _, name := range m.tools {
		list = append(list, m.object("type", `"function"`, "function", m.object("name", quote(name), "parameters",
			pick(m, "", `{}`, `{"type":"object","properties":{"q":{"type":"string"}},"additionalProperties":false}`))))
	}
	m.c.More += `,"tools":` + array(list)
}

// talk makes the messages.
func (m *maker) talk() {
	if m.chance(50) {
		m.system()
	}
	for turns := m.IntN(6); turns > 0; turns-- {
		m.user()
		if m.chance(15) {
			m.user()
		}
		if !m.c.Thread && m.chance(10) {
			m.system()
		}
		m.answers(turns == 1)
	}
	m.until, m.sent = len(m.mine), true
	m.plain = m.c.To.Provider == "openai"
	if open := m.unanswered(); len(open) > 0 && !(m.c.Thread && m.chance(20)) { // the results are what is new
		m.results(open)
		if m.chance(70) {
			return
		}
	} else if m.c.Thread && m.chance(20) {
		m.system()
	}
	m.user()
	if m.chance(10) {
		m.user()
	}
	if !m.c.Thread && m.c.To.Provider != "openrouter" && m.chance(8) {
		m.wrong()
	}
}

func (m *maker) add(msg Message) { m.mine = append(m.mine, msg) }

func (m *maker) system() {
	role := pick(m, "system", "developer")
	mark := m.mark()
	content := m.json(m.text(mark))
	m.piece(piece{kind: "instruction", mark: mark, loose: true})
	if m.chance(30) {
		second := m.mark()
		m.piece(piece{kind: "instruction", mark: second, loose: true})
		content = array([]string{m.object("type", `"text"`, "text", content), m.object("type", `"text"`, "text", m.json(m.text(second)))})
	}
	m.add(Message{Role: role, Raw: m.object("role", quote(role), "content", content)})
}

// user says something, or shows it.
func (m *maker) user() {
	name, extra := "", ""
	if m.chance(10) {
		mark := m.mark()
		m.excused("name", mark, "messages.name")
		name = quote(mark)
	}
	if m.chance(3) && !m.plain {
		mark := m.mark()
		m.excused("member", mark, "messages.odd")
		extra, m.fancy = quote(mark), true
	}
	var content string
	empty := false
	switch n := m.IntN(100); {
	case n < 60 || m.short && n < 70:
		mark := m.mark()
		m.piece(piece{kind: "text", mark: mark})
		content = m.json(m.text(mark))
	case n < 64:
		content, empty = pick(m, `""`, `[{"type":"text","text":""}]`), true
	default:
		var parts []string
		for range 1 + m.IntN(3) {
			parts = append(parts, m.part())
		}
		content = array(parts)
	}
	m.add(Message{Role: "user", Raw: m.object("role", `"user"`, "content", content, "name", name, "odd", extra), Empty: empty})
}

// base64 is some data that begins like a PNG and holds a mark.
func base64(mark string) string { return "iVBORw0KGgoA" + mark + "AAAA" }

// part is one of a user's parts.
func (m *maker) part() string {
	mark := m.mark()
	image := func(kind, url, detail string) string {
		m.excused(kind, mark, "messages.content.image_url")
		return m.object("type", `"image_url"`, "image_url", m.object("url", quote(url), "detail", detail))
	}
	kinds := 9
	if m.plain {
		kinds = 7
	}
	switch m.IntN(kinds) {
	case 0, 1:
		m.piece(piece{kind: "text", mark: mark})
		return m.object("type", `"text"`, "text", m.json(m.text(mark)))
	case 2:
		return image("image", "data:image/"+pick(m, "png", "jpeg", "webp")+";base64,"+base64(mark), pick(m, "", "", `"low"`, `"high"`, `"auto"`))
	case 3:
		return image("image", "https://img.example.com/"+mark+pick(m, ".png", "", ".jpg?x=1"), "")
	case 4:
		m.excused("sound", mark, "messages.content.input_audio")
		return m.object("type", `"input_audio"`, "input_audio", m.object("data", quote(base64(mark)), "format", pick(m, `"wav"`, `"mp3"`)))
	case 5:
		if m.chance(30) {
			m.excused("file by its id", mark, "messages.content.file")
			return m.object("type", `"file"`, "file", m.object("file_id", quote("file-"+mark)))
		}
		name := m.mark()
		m.excused("file", mark, "messages.content.file")
		m.excused("file name", name, "messages.content.filename", "messages.content.file")
		return m.object("type", `"file"`, "file", m.object("filename", quote(name+".pdf"), "file_data", quote("data:application/pdf;base64,"+base64(mark))))
	case 6:
		if m.chance(50) {
			return image("drawing", "data:image/svg+xml;base64,"+base64(mark), "")
		}
		return image("image without TLS", "http://img.example.com/"+mark+".png", "")
	case 7:
		m.fancy = true
		m.excused("film", mark, "messages.content.video_url")
		return m.object("type", `"video_url"`, "video_url", m.object("url", quote("https://img.example.com/"+mark+".mp4")))
	default:
		m.piece(piece{kind: "text", mark: mark})
		cached := m.mark()
		m.excused("cache mark", cached, "messages.content.cache_control")
		return m.object("type", `"text"`, "text", m.json(m.text(mark)), "cache_control", m.object("type", `"ephemeral"`, "ttl", quote(cached)))
	}
}

// answers makes an answer, and while it calls tools, their results and another. The last turn may end with calls. In a
// thread any may: it was gone on with by somebody who has no such tools.
func (m *maker) answers(last bool) {
	by := pick(m, Targets...)
	for {
		for m.fancy && by.Provider == "openai" || m.chance(20) { // the turn goes on elsewhere
			by = pick(m, Targets...)
		}
		m.fancy = false
		m.answer(by)
		open := m.unanswered()
		if len(open) == 0 || last && m.chance(40) || m.c.Thread && m.chance(10) {
			return
		}
		m.results(open)
	}
}

// unanswered are the calls of the last message that may have results.
func (m *maker) unanswered() (open []*call) {
	for i := range m.c.calls {
		if c := &m.c.calls[i]; c.result == "" && c.at == len(m.mine)-1 {
			open = append(open, c)
		}
	}
	return open
}

// results answers calls, in some order. In a thread not all of them may be, and a result may answer nothing.
func (m *maker) results(open []*call) {
	open = slices.Clone(open)
	if m.chance(30) {
		m.Shuffle(len(open), func(i, k int) { open[i], open[k] = open[k], open[i] })
	}
	for i, c := range open {
		if m.c.Thread && len(open) > 1 && i > 0 && m.chance(15) {
			continue
		}
		c.answered = len(m.mine)
		c.result = m.result(c.sent, "result")
		m.used = append(m.used, c.id)
	}
	if !m.sent && m.chance(5) {
		m.result("call_nobody", "result of nothing")
	}
}

// result makes one, and returns its mark.
func (m *maker) result(id, kind string) string {
	mark := m.mark()
	var content, failed string
	m.excused(kind, mark, "messages.tool")
	if kind != "result" { // if it goes, all of it goes
		m.add(Message{Role: "tool", Raw: m.object("role", `"tool"`, "tool_call_id", quote(id), "content", quote(mark))})
		return mark
	}
	switch m.IntN(8) {
	case 0:
		content = quote(`{"found":"` + mark + `","n":[1,2.50]}`)
	case 1:
		content = quote(`["` + mark + `", null]`)
	case 2:
		content = quote(`"` + mark + `"`)
	case 3:
		second := m.mark()
		m.excused(kind, second, "messages.tool")
		content = array([]string{m.object("type", `"text"`, "text", m.json(m.text(mark))), m.object("type", `"text"`, "text", quote(second))})
	case 4:
		if m.plain {
			content = quote(mark)
			break
		}
		m.fancy = true
		shown := m.mark()
		m.excused("shown by a tool", shown, "messages.content.image_url", "messages.tool")
		content = array([]string{m.object("type", `"text"`, "text", quote(mark)), m.object("type", `"image_url"`, "image_url", m.object("url", quote("data:image/png;base64,"+base64(shown))))})
	case 5:
		if !m.plain {
			failed = pick(m, "", "true", "false")
			m.fancy = m.fancy || failed != ""
		}
		content = m.json(m.text(mark))
	default:
		content = m.json(m.text(mark))
	}
	m.add(Message{Role: "tool", Raw: m.object("role", `"tool"`, "tool_call_id", quote(id), "content", content, "is_error", failed)})
	return mark
}

// wrong makes the conversation one that the API refuses.
func (m *maker) wrong() {
	id := "call_" + m.mark()
	asked := m.object("id", quote(id), "type", `"function"`, "function", m.object("name", `"get_weather"`, "arguments", `"{}"`))
	calling := Message{Role: "assistant", Raw: m.object("role", `"assistant"`, "content", "null", "tool_calls", array([]string{asked})), Answer: true, By: m.c.To}
	result := Message{Role: "tool", Raw: m.object("role", `"tool"`, "tool_call_id", quote(id), "content", `"1"`)}
	say := Message{Role: "user", Raw: `{"role":"user","content":"well?"}`}
	switch m.c.Wrong = pick(m, "a call without a result", "a call without a result, then a user", "a result without a call", "two results of a call", "a result too late"); m.c.Wrong {
	case "a call without a result":
		m.add(calling)
	case "a call without a result, then a user":
		m.add(calling)
		m.add(say)
	case "a result without a call":
		m.add(result)
	case "two results of a call":
		m.add(calling)
		m.add(result)
		m.add(result)
	case "a result too late":
		m.add(calling)
		m.add(say)
		m.add(result)
	}
}

// settle looks at what is asked now: of what is before that may be left out what cannot be told.
func (m *maker) settle() {
	m.c.now = lastAsked(m.mine)
	m.c.Refusable = slices.ContainsFunc(m.c.pieces, m.c.wants)
}

// lastAsked is the last message of a user that says anything.
func lastAsked(list []Message) (at int) {
	for i, msg := range list {
		if msg.Role == "user" && !msg.Empty {
			at = i
		}
	}
	return at
}

// wants reports whether p is asked for now and cannot be told.
func (c *Conversation) wants(p piece) bool {
	return p.at >= c.now && !c.To.speaksChat() && media[p.kind] && !c.To.takes(p.kind)
}

// signature is what a model of Google's signs with, wherever it is.
func signature(by Target, name, args string) string {
	return simulator.Signature(by.google(), name, args)
}
