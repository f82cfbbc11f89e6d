package simulator

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault is something the simulator can do wrong.
type Fault struct {
	Name string `json:"name"` // as in fault=NAME
	Row  string `json:"row"`  // of the project's fault matrix: "U4"; "" for what it does not list
	What string `json:"what"`
}

// Faults lists all faults by name. "after" counts pieces of content; where it is not given, 2.
func Faults() []Fault { return slices.Clone(faults) }

var faults = []Fault{
	{"reset", "U2", "RST before any byte of the answer"},
	{"close", "U2", "FIN before any byte of the answer"},
	{"reset_head", "U3", "RST in the middle of the header"},
	{"reset_mid", "U4", "RST after `after` pieces; a whole answer: after half of the body"},
	{"cut", "U5", "a clean end after `after` pieces, without finish and [DONE]; a whole answer: half of the JSON, its length true"},
	{"cut_raw", "U5", "as cut, by FIN, the body's own end missing"},
	{"no_done", "U5", "all but [DONE]"},
	{"no_finish", "U5", "no finish_reason and no usage, yet [DONE]"},
	{"stall", "U6", "says nothing more after `after` pieces; OpenRouter: comments go on if `comments` is set"},
	{"silent", "U7", "never sends a byte"},
	{"drip", "U8", "every byte by itself, `every` (1s) apart"},
	{"bad_json", "U9", "a data event that is not JSON after `after` pieces; then it goes on"},
	{"garbage", "U9", "binary noise in place of the answer's body, or after `after` pieces"},
	{"garbage_head", "U9", "what comes is not HTTP"},
	{"oversize", "U10", "one event with `size` (2 MiB) bytes of text after `after` pieces"},
	{"endless", "U10", "a line without an end, up to `count` (64) MiB"},
	{"flood", "U10", "`count` (1000000) tiny events after `after` pieces"},
	{"status", "U11 U12", "the provider's own error with `status`; also retry_after (seconds), retry_after_ms, retry_after_date (in seconds), should_retry, code"},
	{"error_200", "U13", "200 with an error as its JSON body, whatever was asked"},
	{"error_first", "U13", "a stream whose first event is an error; `event=1`: named so"},
	{"error_mid", "U13", "an error event after `after` pieces, then the end"},
	{"cl_long", "U14", "Content-Length 100 more than the body, then FIN"},
	{"cl_short", "U14", "Content-Length 10 less than the body; the connection stays open"},
	{"cl_negative", "U14", "Content-Length: -1"},
	{"cl_duplicate", "U14", "two Content-Length lines that differ"},
	{"http10", "U15", "HTTP/1.0, the body ends with the connection; with `after`: it ends there"},
	{"gzip", "U16", "gzip, though nobody asked"},
	{"bad_encoding", "U16", "Content-Encoding: x-sim, which nobody knows"},
	{"bad_utf8", "U17", "text with bytes that are not UTF-8"},
	{"split_rune", "U17", "runes cut over writes and HTTP chunks"},
	{"lone_surrogate", "U17", "text with half of a surrogate pair, escaped"},
	{"nul", "U17", "text with an escaped NUL"},
	{"double_done", "U18", "[DONE] twice"},
	{"after_done", "U18", "one more piece of text after [DONE]"},
	{"no_usage", "U19", "no usage"},
	{"zero_usage", "U19", "usage, all zero"},
	{"usage_twice", "U19", "a smaller usage chunk before the true one"},
	{"usage_first", "U19", "the usage chunk before the first piece"},
	{"hostile_usage", "U20", "usage whose numbers are `kind`: negative (default), huge, string, fraction, null, array"},
	{"wrong_model", "U21", "another model's name in the answer"},
	{"wrong_id", "U21", "each event with another id"},
	{"fewer", "", "embeddings: one fewer than there are inputs"},
	{"switching", "U22", "101 Switching Protocols"},
	{"interim_flood", "U22", "`count` (1000) times 103, then the answer"},
	{"redirect", "U22", "302 to /_trap below the provider's base; who follows it is in the log"},
	{"set_cookie", "U22", "the answer, with Set-Cookie"},
	{"huge_header", "U22", "the answer, with a header line of `size` (1 MiB)"},
	{"many_headers", "U22", "the answer, with `count` (5000) header lines"},
	{"args_split", "U23", "tool arguments in pieces of `split` (1) bytes, or cut once `at` a byte; runes stay whole"},
	{"stale", "U25", "this answer is good; its connection is reset as the next request arrives"},
	{"echo_key", "", "401 (Gemini: 400) that quotes the whole key; with `after`: an error event that does"},
	{"html", "", "an HTML page with `status` (502)"},
	{"wrong_type", "", "the answer, with Content-Type text/plain"},
	{"json_instead", "", "a whole JSON answer where a stream was asked for"},
	{"empty", "", "200 with an empty body"},
	{"comments_only", "", "a stream of comments and nothing else"},
	{"bom", "", "a UTF-8 byte order mark before the body"},
	{"cr_only", "", "bare CR as line end"},
	{"crlf", "", "CRLF as line end"},
	{"lf", "", "LF as line end, for those that use CRLF"},
	{"no_space", "", "no space after data:"},
	{"multi_line", "", "each JSON over two data lines"},
	{"no_final_blank", "", "the end comes right after [DONE], without a line end"},
}

// failure is an error as a provider would tell it.
type failure struct {
	status  int
	message string
	kind    string // OpenAI's type; "" follows from the status
	param   string
	code    string
	meta    string // OpenRouter's metadata, as JSON
	fields  string // header lines
}

// early plays the faults that come before, or instead of, an answer. It reports whether it did.
func (x *exchange) early() (bool, error) {
	p := x.plan
	var err error
	switch p.fault {
	case "reset", "close", "reset_head", "garbage_head", "switching", "silent":
		x.keep = false
		if err := x.wait(p.head); err != nil {
			return true, err
		}
		err = x.rude()
	case "status":
		err = x.p.refuse(x, failure{status: p.status, code: p.code, fields: p.retry()})
		x.rejected = ""
	case "echo_key":
		if p.after >= 0 {
			return false, nil
		}
		status := 401
		if p.status != 0 {
			status = p.status
		}
		err = x.p.refuse(x, failure{status: status, message: "Incorrect API key provided: " + x.key, code: "invalid_api_key"})
		x.rejected = ""
	case "html":
		status := 502
		if p.status != 0 {
			status = p.status
		}
		err = x.whole(head{status: status, fields: field("Content-Type", "text/html; charset=UTF-8") + field("Server", "cloudflare")},
			"<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center><hr><center>cloudflare</center></body></html>\n", nil)
	case "redirect":
		err = x.whole(head{status: 302, fields: field("Location", "http://"+x.s.addr+x.p.base()+"/_trap")}, "", nil)
	case "empty":
		err = x.whole(head{status: 200, fields: field("Content-Type", "text/event-stream; charset=utf-8")}, "", nil)
	default:
		return false, nil
	}
	return true, err
}

// rude does what no HTTP server would.
func (x *exchange) rude() error {
	s := x.sender(nil)
	switch x.plan.fault {
	case "reset":
		return x.reset()
	case "close":
		return x.cut()
	case "silent":
		return s.pause(-1)
	case "reset_head":
		s.out = append(s.out, "HTTP/1.1 200 OK\r\nContent-Type: text/ev"...)
		return s.one(&event{kind: evReset})
	case "garbage_head":
		s.out = append(s.out, "\x15\x03\x01\x00\x02\x02\x16 not HTTP at all\r\n\r\n"...)
	case "switching":
		s.out = append(s.out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"...)
		x.rec.update(func(a *Attempt) { a.Status = 101 })
	}
	return s.one(&event{kind: evCut})
}

// retry is the header lines that tell a client when to come back.
func (p *plan) retry() string {
	var b strings.Builder
	if p.retryAfter != "" {
		b.WriteString(field("retry-after", p.retryAfter))
	}
	if p.retryMS != "" {
		b.WriteString(field("retry-after-ms", p.retryMS))
	}
	if n, err := strconv.Atoi(p.retryDate); err == nil {
		b.WriteString(field("retry-after", time.Now().UTC().Add(time.Duration(n)*time.Second).Format(http.TimeFormat)))
	}
	if p.shouldRetry != "" {
		b.WriteString(field("x-should-retry", p.shouldRetry))
	}
	return b.String()
}

// spoil puts the faults of the header into h.
func (x *exchange) spoil(h *head) {
	p := x.plan
	switch p.fault {
	case "http10":
		h.proto, h.length, x.keep = "HTTP/1.0", lengthClose, false
	case "interim_flood":
		h.before = strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n", or(p.count, 1000))
	case "set_cookie":
		h.fields += field("Set-Cookie", "__cf_bm=simulated; path=/; HttpOnly; Secure")
	case "huge_header":
		h.fields += field("X-Sim-Huge", strings.Repeat("h", or(p.size, 1<<20)))
	case "many_headers":
		var b strings.Builder
		for i := range or(p.count, 5000) {
			b.WriteString(field(fmt.Sprintf("X-Sim-%d", i), "v"))
		}
		h.fields += b.String()
	case "gzip":
		h.fields += field("Content-Encoding", "gzip")
	case "bad_encoding":
		h.fields += field("Content-Encoding", "x-sim")
	case "wrong_type":
		h.fields = retype(h.fields, "text/plain; charset=utf-8")
	}
}

// retype replaces the content type among header lines.
func retype(fields, to string) string {
	lines := strings.SplitAfter(fields, "\r\n")
	for i, l := range lines {
		if len(l) > 13 && strings.EqualFold(l[:13], "content-type:") {
			lines[i] = field("Content-Type", to)
		}
	}
	return strings.Join(lines, "")
}

// lie gives h a wrong length for a body of n bytes, if that is the fault, and reports whether it did.
func (x *exchange) lie(h *head, n int) bool {
	length := func(n int) string { return field("Content-Length", strconv.Itoa(n)) }
	switch x.plan.fault {
	case "cl_long":
		h.fields += length(n + 100)
	case "cl_short":
		h.fields += length(max(0, n-10))
	case "cl_negative":
		h.fields += length(-1)
	case "cl_duplicate":
		h.fields += length(n) + length(n+5)
	default:
		return false
	}
	h.length = lengthGiven
	if x.plan.fault == "cl_long" || x.plan.fault == "cl_negative" {
		x.keep = false
	}
	return true
}

// whole answers with one body. done, which may be nil, notes for the log what the body says; it is not called where the
// body does not get there whole.
func (x *exchange) whole(h head, body string, done func(*sender)) error {
	p, s := x.plan, x.sender(nil)
	if p.fault == "bom" {
		body = "\ufeff" + body
	}
	if p.fault == "garbage" {
		body = noise
	}
	list := []event{{kind: evBody, text: body}}
	half := body[:len(body)/2]
	if p.after >= 0 && p.after < len(body) {
		half = body[:p.after]
	}
	h.length = int64(len(body))
	x.spoil(&h)
	switch p.fault {
	case "cut", "bad_json":
		body, done = half, nil
		h.length = int64(len(body))
		list[0].text = body
	case "cut_raw":
		list, done = []event{{kind: evRaw, text: half}, {kind: evCut}}, nil
	case "reset_mid":
		list, done = []event{{kind: evRaw, text: half}, {kind: evReset}}, nil
	case "stall":
		list, done = []event{{kind: evRaw, text: half}, {kind: evStall}}, nil
	case "gzip":
		s.compress()
		s.write([]byte(body))
		_ = s.gz.Close()
		packed := string(s.out) + s.packed.String()
		s.gz, s.out = nil, s.out[:0]
		s.packed.Reset()
		list[0] = event{kind: evRaw, text: packed}
		h.length = int64(len(packed))
		s.note(body)
	case "http10":
		if p.after >= 0 {
			list, done = []event{{kind: evRaw, text: half}}, nil
		}
	}
	x.lie(&h, len(body))
	if done != nil {
		done(s)
	}
	if err := x.wait(p.first + p.delay); err != nil { // a whole answer's head comes with its body
		return err
	}
	return s.send(h, list)
}

// noise is neither text nor JSON nor an event stream.
const noise = "\x00\x01\xfe\xff\x1b[31m{{{]]>\r\x80\x81 event data id \n\n\x7f<xml"

// stream answers with events.
func (x *exchange) stream(h head, list []event, r renderer) error {
	p, s := x.plan, x.sender(r)
	h.length = lengthChunked
	x.spoil(&h)
	list = x.edit(list, r)
	switch p.fault {
	case "gzip":
		s.compress()
	case "http10":
		if p.after >= 0 {
			list = list[:place(list, p.after)]
		}
	case "cl_long", "cl_short", "cl_negative", "cl_duplicate": // the body must be there before its length is
		for i := range list {
			if err := s.one(&list[i]); err != nil {
				return err
			}
		}
		body := string(s.out)
		s.out = s.out[:0]
		x.lie(&h, len(body))
		list = []event{{kind: evRaw, text: body}}
	}
	return s.send(h, list)
}

// edit makes the fault of the plan out of a good stream.
func (x *exchange) edit(list []event, r renderer) []event {
	p := x.plan
	after := p.after
	if after < 0 {
		after = 2
	}
	at := place(list, after)
	insert := func(i int, e ...event) []event { return slices.Insert(list, i, e...) }
	end := func(e ...event) []event { return append(list[:at:at], e...) }
	find := func(k kind) int { return slices.IndexFunc(list, func(e event) bool { return e.kind == k }) }
	done := find(evDone)
	switch p.fault {
	case "reset_mid":
		return end(event{kind: evReset})
	case "cut":
		return end()
	case "cut_raw":
		return end(event{kind: evCut})
	case "stall":
		return end(event{kind: evStall})
	case "no_done", "no_usage", "no_finish":
		return slices.DeleteFunc(list, func(e event) bool {
			return e.kind == evDone && p.fault == "no_done" || e.kind == evUsage && p.fault != "no_done" ||
				e.kind == evFinish && p.fault == "no_finish"
		})
	case "bad_json":
		return insert(at, event{kind: evLines, text: "data: " + r.broken() + "\n\n"})
	case "garbage":
		return insert(at, event{kind: evRaw, text: noise + "\n\n"})
	case "oversize":
		return insert(at, event{kind: evText, text: strings.Repeat("a", or(p.size, 2<<20))})
	case "endless":
		return end(event{kind: evRaw, text: `data: {"id":"`}, event{kind: evFlood, text: strings.Repeat("a", 1<<14), count: or(p.count, 64) << 6})
	case "flood":
		return insert(at, event{kind: evFlood, text: "data: " + r.tiny() + "\n\n", count: or(p.count, 1_000_000)})
	case "error_first":
		i := slices.IndexFunc(list, func(e event) bool { return e.kind != evLines })
		return append(list[:i:i], event{kind: evError, first: true})
	case "error_mid", "echo_key":
		return end(event{kind: evError})
	case "double_done":
		return insert(done+1, event{kind: evDone})
	case "after_done":
		return append(list, event{kind: evText, text: "after the end"})
	case "zero_usage", "hostile_usage":
		if i := find(evUsage); i >= 0 {
			list[i].text = p.fake()
		}
	case "usage_twice":
		if i := find(evUsage); i >= 0 {
			return insert(i, event{kind: evUsage, text: `{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}`})
		}
	case "usage_first":
		if i := find(evUsage); i >= 0 {
			u := list[i]
			list = slices.Delete(list, i, i+1)
			return slices.Insert(list, place(list, 0), u)
		}
	case "comments_only":
		return []event{{kind: evLines, text: strings.Repeat(processing, 3)}}
	case "bom":
		return insert(0, event{kind: evRaw, text: "\ufeff"})
	}
	return list
}

// fakeUsage is a usage object nobody should believe, with these members; zero_usage's is to be believed.
func (p *plan) fakeUsage(prompt, completion, total string) string {
	v := "0"
	if p.fault == "hostile_usage" {
		switch p.kind {
		case "", "negative":
			v = "-1"
		case "huge":
			v = "1e30"
		case "string":
			v = `"12"`
		case "fraction":
			v = "1.5"
		case "array":
			v = "[1]"
		default:
			v = "null"
		}
	}
	return `{"` + prompt + `":` + v + `,"` + completion + `":` + v + `,"` + total + `":` + v + `}`
}

// place is the index right after n pieces of content, or after the last piece there is.
func place(list []event, n int) int {
	last := -1
	for i := range list {
		if !list[i].content() {
			continue
		}
		if n == 0 {
			return i
		}
		n--
		last = i
		if n == 0 {
			return i + 1
		}
	}
	if last >= 0 {
		return last + 1
	}
	for i := range list { // no content at all: before the finish
		if list[i].kind == evFinish || list[i].kind == evDone {
			return i
		}
	}
	return len(list)
}

func or(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}
