package simulator

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// chat is one chat request and what is answered, before it takes a provider's form.
type chat struct {
	x       *exchange
	q       *chatRequest
	created int64
	model   string // as the answer names it
	answers []answer
	usage   Usage
}

// answer is one choice.
type answer struct {
	text    string
	refusal string
	thought string
	calls   []call
	finish  string
	pieces  []string // text or refusal, as a stream sends it
}

type call struct {
	id, name, args string
	custom         bool
}

// compose decides what to answer. said is the last user message without its directive; hidden is how many tokens the
// model thinks unseen.
func (x *exchange) compose(q *chatRequest, said string, hidden int64) *chat {
	c := &chat{x: x, q: q, created: time.Now().Unix(), model: q.model}
	p := x.plan
	if p.reasoning >= 0 {
		hidden = p.reasoning
	}
	if q.maxTokens > 0 {
		hidden = min(hidden, int64(q.maxTokens))
	}
	c.answers = make([]answer, q.n)
	u := Usage{Prompt: 3 + int64(q.size)/4}
	for i := range c.answers {
		a := &c.answers[i]
		c.decide(a, said, i)
		if q.reasoning {
			a.thought = "The conversation has " + strconv.Itoa(q.messages) + " messages. A short answer will do."
		}
		thinking := max(hidden, tokens(a.thought))
		if p.reasoning >= 0 {
			thinking = p.reasoning
		}
		room := q.maxTokens*4 - int(thinking)*4
		if q.maxTokens > 0 && len(a.calls) == 0 && len(a.text) > room {
			a.text, a.finish = clip(a.text, max(0, room)), "length"
		}
		if p.finish != "" {
			a.finish = p.finish
		}
		a.pieces = pieces(a.text+a.refusal, p.chunks)
		u.Reasoning += thinking
		u.Completion += thinking + tokens(a.text) + tokens(a.refusal)
		for _, cl := range a.calls {
			u.Completion += 4 + tokens(cl.name+cl.args)
		}
	}
	if u.Prompt >= 1024 {
		u.Cached = u.Prompt / 2 / 128 * 128
	}
	for _, o := range []struct{ want, have *int64 }{{&p.prompt, &u.Prompt}, {&p.completion, &u.Completion}, {&p.cached, &u.Cached}} {
		if *o.want >= 0 {
			*o.have = *o.want
		}
	}
	u.Cached, u.Reasoning = min(u.Cached, u.Prompt), min(u.Reasoning, u.Completion)
	u.Total = u.Prompt + u.Completion
	c.usage = u
	return c
}

// tokens counts as simply as can be: four bytes are one.
func tokens(s string) int64 { return int64(len(s)+3) / 4 }

// decide writes one choice.
func (c *chat) decide(a *answer, said string, i int) {
	q, p := c.q, c.x.plan
	a.finish = "stop"
	low := strings.ToLower(clip(said, 4096))
	switch {
	case p.hasText:
		a.text = p.text
	case p.size > 0 && p.fault != "oversize" && p.fault != "huge_header":
		a.text = filler(p.size)
	case strings.Contains(low, "please refuse"):
		a.refusal = "I'm sorry, I can't help with that."
		return
	case len(q.tools) > 0 && len(q.results) == 0 && q.toolChoice != "none" &&
		(q.toolChoice != "auto" || strings.Contains(low, "call the tool") || strings.Contains(low, "call both tools")):
		c.callTools(a, low)
		return
	case len(q.results) > 0:
		a.text = "The tool said: " + clip(strings.Join(q.results, "; "), 2000) + "." + c.note() + q.marks
	case q.format == "json_schema":
		a.text = string(example(nil, q.schema, q.schema, "sample", 0))
	case q.format == "json_object":
		a.text = string(append(quote([]byte(`{"answer":`), "You said: "+clip(said, 200)), '}'))
	case p.chunks > 0:
		a.text = filler(p.chunks * 6)
	default:
		a.text = "You said: " + clip(said, 200) + ". I can see " + strconv.Itoa(q.messages) + " messages." + c.note() + q.marks
	}
	if i > 0 && q.format == "" {
		a.text += " Choice " + strconv.Itoa(i+1) + "."
	}
	switch p.fault {
	case "bad_utf8":
		a.text += " bad \xff\xfe\xc3( bytes"
	case "split_rune":
		a.text += " 👩‍👧 õ 你好 ∑"
	case "lone_surrogate":
		a.text += " half \ufffd pair" // chat.quote writes the replacement character as half a pair
	case "nul":
		a.text += " nul \x00 here"
	}
	for utf8.RuneCountInString(a.text) < p.chunks {
		a.text += " more"
	}
}

func (c *chat) note() string {
	if n := c.x.s.opt.Note; n != "" {
		return " " + n
	}
	return ""
}

// callTools calls the named tool, else the first; "call both tools" calls the first two, or the only one twice.
func (c *chat) callTools(a *answer, low string) {
	q := c.q
	pick := []tool{q.tools[0]}
	if name, ok := strings.CutPrefix(q.toolChoice, "="); ok {
		for _, t := range q.tools {
			if t.name == name {
				pick = []tool{t}
			}
		}
	} else if q.parallel && strings.Contains(low, "call both tools") {
		pick = append(pick, q.tools[min(1, len(q.tools)-1)])
	}
	for i, t := range pick {
		cl := call{id: "call_" + random(24), name: t.name, custom: t.custom, args: "2+3"}
		if !t.custom {
			cl.args = string(example(nil, t.schema, t.schema, []string{"Tartu", "Riga"}[i], 0))
			if !strings.HasPrefix(cl.args, "{") { // no parameters
				cl.args = "{}"
			}
		}
		a.calls = append(a.calls, cl)
	}
	a.finish = "tool_calls"
}

// clip cuts s to at most n bytes, at a rune.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// filler is n bytes of text.
func filler(n int) string {
	const words = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna "
	return strings.Repeat(words, n/len(words)+1)[:n]
}

// pieces cuts text at runes: into n pieces, or, for n = 0, into pieces of odd lengths, at most some 250 of them.
func pieces(text string, n int) []string {
	if text == "" {
		return nil
	}
	var list []string
	if n > 0 {
		total := utf8.RuneCountInString(text)
		n = min(n, total)
		list = make([]string, 0, n)
		runes, from := 0, 0
		for at := range text {
			if at > 0 && runes >= (len(list)+1)*total/n {
				list = append(list, text[from:at])
				from = at
			}
			runes++
		}
		return append(list, text[from:])
	}
	lengths := [...]int{3, 1, 5, 2, 7, 4}
	scale := 1 + len(text)/1000
	from, left := 0, lengths[0]*scale
	for at := range text {
		if left == 0 {
			list = append(list, text[from:at])
			from, left = at, lengths[len(list)%len(lengths)]*scale
		}
		left--
	}
	return append(list, text[from:])
}

// argPieces cuts tool arguments as the plan says: in pieces of split bytes, or once at a byte; runes stay whole, as a
// piece of JSON text can not hold half of one.
func (p *plan) argPieces(args string) []string {
	size := 9
	if p.fault == "args_split" {
		size = or(p.split, 1)
		if p.at > 0 && p.at < len(args) {
			first := clip(args, p.at)
			return []string{first, args[len(first):]}
		}
	}
	var list []string
	for args != "" {
		piece := clip(args, size)
		if piece == "" { // a rune longer than size
			_, n := utf8.DecodeRuneInString(args)
			piece = args[:n]
		}
		list, args = append(list, piece), args[len(piece):]
	}
	return list
}

// events is the stream that says the answers, without what stands before and after them. The family's providers differ
// in how they open a choice.
func (c *chat) events(roles bool) []event {
	p := c.x.plan
	n := 4
	for i := range c.answers {
		n += len(c.answers[i].pieces) + 2
	}
	list := make([]event, 0, n)
	for i := range c.answers {
		a := &c.answers[i]
		if roles && len(a.calls) != 1 {
			list = append(list, event{kind: evRole, choice: i})
		}
		if a.thought != "" {
			for _, t := range pieces(a.thought, 3) {
				list = append(list, event{kind: evThought, choice: i, text: t})
			}
			list = append(list, event{kind: evSignature, choice: i})
		}
	}
	for k := 0; ; k++ { // choices take turns
		more := false
		for i := range c.answers {
			a := &c.answers[i]
			if k >= len(a.pieces) {
				continue
			}
			more = true
			kind := evText
			if a.refusal != "" {
				kind = evRefusal
			}
			list = append(list, event{kind: kind, choice: i, text: a.pieces[k]})
		}
		if !more {
			break
		}
	}
	for i := range c.answers {
		a := &c.answers[i]
		for k, cl := range a.calls {
			list = append(list, event{kind: evCall, choice: i, call: k, first: roles && len(a.calls) == 1})
			for _, t := range p.argPieces(cl.args) {
				list = append(list, event{kind: evArgs, choice: i, call: k, text: t})
			}
		}
		list = append(list, event{kind: evFinish, choice: i})
	}
	return list
}

// said notes a whole answer's texts and usage for the log.
func (c *chat) said(s *sender) {
	for i := range c.answers {
		s.texts = append(s.texts, said{i, c.answers[i].text})
	}
}

// name, tiny and broken are the renderer's part in what the OpenAI family sends.
func (c *chat) name(e *event) string {
	if e.kind == evError && c.x.plan.event {
		return "error"
	}
	return ""
}

func (*chat) tiny() string   { return `{"choices":[]}` }
func (*chat) broken() string { return `{"id":"chatcmpl-broken","choices":[{"delta":{"content":` }

// quote appends text as a JSON string, spoilt if the plan says so.
func (c *chat) quote(b []byte, text string) []byte {
	if c.x.plan.fault == "lone_surrogate" {
		return append(b, bytes.ReplaceAll(quote(nil, text), []byte("\ufffd"), []byte(`\ud83d`))...)
	}
	return quote(b, text)
}

// random is n letters and digits.
func random(n int) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz__"
	b := make([]byte, n)
	for i := 0; i < n; {
		for v, k := rand.Uint64(), 0; k < 10 && i < n; k, v = k+1, v>>6 {
			if d := v & 63; d < 62 {
				b[i] = digits[d]
				i++
			}
		}
	}
	return string(b)
}

// hexes is n hex digits.
func hexes(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = hexDigits[rand.IntN(16)]
	}
	return string(b)
}
