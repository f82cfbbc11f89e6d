package simulator

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// flushAt is how many bytes may wait when nothing asks for them to be written: a burst of events is few writes.
const flushAt = 16 << 10

// maxSent is how many of an attempt's bytes the log keeps: floods are long.
const maxSent = 8 << 20

// kind is what an event of an answer is.
type kind uint8

const (
	evRole      kind = iota // the first delta of a choice
	evText                  // a piece of content
	evRefusal               // a piece of a refusal
	evThought               // a piece of reasoning
	evSignature             // what follows reasoning
	evCall                  // the head of a tool call; the first of a choice may carry the role
	evArgs                  // a piece of its arguments
	evStep                  // something of the provider's own; text says what
	evFinish                // a choice's finish_reason
	evUsage                 // the usage chunk
	evDone                  // [DONE], or what else says that this is all; Gemini's may hold the last piece of text
	evError                 // an error, as data
	evJSON                  // text is the payload itself
	evBody                  // text is the whole body: not a stream
	evRaw                   // text goes into the body as it is
	evLines                 // text is lines of an event stream, each with LF: they end as the stream's lines do
	evFlush                 // what waits is written now
	evWait                  // for wait
	evStall                 // say nothing until the client leaves
	evReset                 // RST
	evCut                   // FIN, without the end of the body
	evFlood                 // evLines, over and over: count times
)

// event is one thing to send. A stream is a list of them, and a fault is an edit of that list (fault.go); they are
// rendered one by one as they are sent, so that a slow stream holds little memory.
type event struct {
	kind   kind
	first  bool // evCall: the delta that opens the choice
	choice int
	call   int    // evCall, evArgs: which of the choice's calls
	count  int    // evFlood: how often
	text   string // what the kind says; evUsage: the usage as JSON, "" for the honest one
	wait   time.Duration
}

// content reports whether the event carries a piece of the answer, which is what "after" counts.
func (e *event) content() bool {
	return e.kind == evText || e.kind == evRefusal || e.kind == evArgs || e.kind == evThought
}

// renderer writes a stream in a provider's form.
type renderer interface {
	render(b []byte, e *event) []byte             // the payload of an event
	usageOf(e *event) (raw string, honest *Usage) // what the event just rendered says of usage; "": nothing
	name(e *event) string                         // of the event just rendered; "": its frame has none
	tiny() string                                 // a payload that says nothing
	broken() string                               // the beginning of a payload
}

// head is the beginning of an answer.
type head struct {
	status int
	reason string // "" is the usual one
	proto  string // "" is HTTP/1.1
	fields string // header lines, each with its CRLF
	length int64  // of the body; lengthChunked, lengthClose
	before string // bytes in front of the status line: interim answers
}

const (
	lengthChunked = -1 // Transfer-Encoding: chunked
	lengthClose   = -2 // no length: the end of the connection is the end
	lengthGiven   = -3 // fields say it, truly or not
)

// sender writes one answer to the socket and into the log.
type sender struct {
	x       *exchange
	r       renderer
	out     []byte
	chunked bool
	eol     string // of event streams
	prefix  string // "data: "
	opened  bool   // the array of a stream that is one
	gz      *gzip.Writer
	packed  bytes.Buffer // what gz wrote
	scratch []byte       // the payload
	framed  []byte       // the payload as a frame

	// Log entries that become true with the next flush.
	events []string
	nEv    int
	texts  []said
	usage  *Usage
	raw    string
}

type said struct {
	choice int
	text   string
}

func (x *exchange) sender(r renderer) *sender {
	s := &sender{x: x, r: r, out: x.c.out[:0], eol: otherwise(x.eol, "\n"), prefix: "data: "}
	switch x.plan.fault {
	case "lf":
		s.eol = "\n"
	case "cr_only":
		s.eol = "\r"
	case "crlf":
		s.eol = "\r\n"
	case "no_space":
		s.prefix = "data:"
	}
	return s
}

// send writes the whole answer: the head, then the events in order, then the end of the body.
func (s *sender) send(h head, list []event) error {
	err := s.all(h, list)
	if cap(s.out) <= 8*flushAt { // a huge answer's buffer is not kept
		s.x.c.out = s.out[:0]
	}
	return err
}

func (s *sender) all(h head, list []event) error {
	x, p := s.x, s.x.plan
	if err := x.wait(p.head); err != nil {
		return err
	}
	s.head(h)
	paced, begun := p.first > 0 || p.delay > 0, false
	for i := range list {
		e := &list[i]
		if e.content() && paced {
			d := p.delay
			if !begun {
				d = p.first
			}
			begun = true
			if err := s.pause(d); err != nil {
				return err
			}
		}
		if err := s.one(e); err != nil {
			return err
		}
		if len(s.out) >= flushAt || p.flush {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	if x.array && s.opened {
		s.write([]byte("\n]"))
	}
	if s.gz != nil {
		_ = s.gz.Close()
		s.unpack()
	}
	if s.chunked {
		s.out = append(s.out, "0\r\n\r\n"...)
	}
	if err := s.flush(); err != nil {
		return err
	}
	if h.length == lengthClose || h.length == lengthGiven && p.fault != "cl_short" {
		x.keep = false
	}
	return nil
}

// pause writes what waits, then waits; providers that send comments meanwhile do so.
func (s *sender) pause(d time.Duration) error {
	if d == 0 {
		return nil
	}
	if err := s.flush(); err != nil {
		return err
	}
	every := s.x.plan.comments
	for every > 0 && (d < 0 || d > every) {
		if err := s.x.wait(every); err != nil {
			return err
		}
		s.write(s.lines(processing))
		if err := s.flush(); err != nil {
			return err
		}
		if d > 0 {
			d -= every
		}
	}
	return s.x.wait(d)
}

func (s *sender) one(e *event) error {
	switch e.kind {
	case evRaw:
		s.write([]byte(e.text))
	case evLines:
		s.write(s.lines(e.text))
	case evBody:
		s.write([]byte(e.text))
		s.note(e.text)
	case evFlush:
		return s.flush()
	case evWait:
		return s.pause(e.wait)
	case evStall:
		return s.pause(-1)
	case evFlood:
		lines := s.lines(e.text)
		for range e.count {
			s.write(lines)
			if len(s.out) >= flushAt {
				if err := s.flush(); err != nil {
					return err
				}
			}
		}
	case evReset:
		if err := s.flush(); err != nil {
			return err
		}
		return s.x.reset()
	case evCut:
		if err := s.flush(); err != nil {
			return err
		}
		return s.x.cut()
	default:
		return s.data(e)
	}
	return nil
}

// lines gives lines the stream's line end.
func (s *sender) lines(text string) []byte { return []byte(strings.ReplaceAll(text, "\n", s.eol)) }

// data writes an event as a frame of the stream.
func (s *sender) data(e *event) error {
	b := s.r.render(s.scratch[:0], e)
	s.scratch = b
	if s.nEv++; !s.x.s.opt.SizesOnly {
		s.events = append(s.events, string(s.mask(b)))
	}
	if e.kind == evText || e.kind == evDone && e.text != "" {
		s.texts = append(s.texts, said{e.choice, e.text})
	}
	if raw, u := s.r.usageOf(e); raw != "" {
		s.raw, s.usage = raw, u
	}
	if s.x.array {
		s.item(b)
		return nil
	}
	frame := s.framed[:0]
	if name := s.r.name(e); name != "" {
		frame = append(append(append(frame, "event: "...), name...), s.eol...)
	}
	frame = append(frame, s.prefix...)
	if i := seam(b); i > 0 && s.x.plan.fault == "multi_line" {
		frame = append(append(append(append(frame, b[:i]...), s.eol...), s.prefix...), b[i:]...)
	} else {
		frame = append(frame, b...)
	}
	if e.kind == evDone && s.x.plan.fault == "no_final_blank" {
		s.write(frame)
		return nil
	}
	if e.kind != evError || !bytes.HasPrefix(b, []byte("{\n")) { // an error may come bare
		frame = append(append(frame, s.eol...), s.eol...)
	} else {
		frame = append(append(frame[:0], b...), s.eol...)
	}
	s.framed = frame
	if from, to := arguments(frame, e); to > 0 && s.x.plan.fault == "args_split" {
		return s.split(frame, from, to)
	}
	if i := middle(frame); i > 0 && s.x.plan.fault == "split_rune" {
		s.write(frame[:i])
		if err := s.pause(2 * time.Millisecond); err != nil {
			return err
		}
		frame = frame[i:]
	}
	s.write(frame)
	return nil
}

// seam is where a payload may go on in another data line, between two members; 0 if that is not known.
func seam(b []byte) int {
	for _, member := range []string{`"object":`, `"modelVersion":`, `"sequence_number":`} {
		if i := bytes.Index(b, []byte(member)); i > 0 {
			return i
		}
	}
	return 0
}

// item writes an event as an item of the array that the stream is.
func (s *sender) item(b []byte) {
	open := ",\r\n"
	if !s.opened {
		open, s.opened = "[", true
	}
	s.write(append([]byte(open), b...))
}

// arguments is where the frame of a whole tool call holds its arguments; to is 0 if it is none. Providers that send
// calls in pieces need no help of the transport to split them.
func arguments(frame []byte, e *event) (from, to int) {
	if e.kind != evArgs {
		return 0, 0
	}
	member := `"args":`
	if bytes.Contains(frame, []byte(`"type":"function_call"`)) {
		member = `"arguments":`
	}
	i := bytes.Index(frame, []byte(member))
	if i < 0 {
		return 0, 0
	}
	from = i + len(member)
	return from, from + len(e.text)
}

// split writes a frame with a whole tool call so that its arguments come in pieces, each in a write of its own.
func (s *sender) split(frame []byte, from, to int) error {
	size, at := or(s.x.plan.split, 1), s.x.plan.at
	for done := 0; done < len(frame); {
		end := len(frame)
		switch {
		case at > 0 && done == 0:
			end = min(end, from+at)
		case at == 0 && done < to:
			end = min(end, max(done, from)+size)
		}
		s.write(frame[done:end])
		if err := s.flush(); err != nil {
			return err
		}
		done = end
	}
	return nil
}

// middle is the offset of the first byte that continues a rune; 0 if there is none.
func middle(b []byte) int {
	for i, c := range b {
		if c >= utf8.RuneSelf && !utf8.RuneStart(c) {
			return i
		}
	}
	return 0
}

// note keeps a payload for the log.
func (s *sender) note(payload string) {
	s.nEv++
	if !s.x.s.opt.SizesOnly {
		s.events = append(s.events, string(s.mask([]byte(payload))))
	}
}

// head writes the status line and the header.
func (s *sender) head(h head) {
	b := append(s.out, h.before...)
	if h.proto == "" {
		h.proto = "HTTP/1.1"
	}
	if h.reason == "" {
		h.reason = reason(h.status)
	}
	b = append(append(b, h.proto...), ' ')
	b = strconv.AppendInt(b, int64(h.status), 10)
	b = append(append(append(b, ' '), h.reason...), "\r\nDate: "...)
	b = time.Now().UTC().AppendFormat(b, "Mon, 02 Jan 2006 15:04:05 GMT")
	b = append(append(b, "\r\n"...), h.fields...)
	switch h.length {
	case lengthChunked:
		s.chunked = true
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case lengthClose, lengthGiven:
	default:
		b = strconv.AppendInt(append(b, "Content-Length: "...), h.length, 10)
		b = append(b, "\r\n"...)
	}
	if !s.x.keep {
		b = append(b, "Connection: close\r\n"...)
	}
	s.out = append(b, "\r\n"...)
	s.x.rec.update(func(a *Attempt) { a.Status, a.RequestID = h.status, s.x.id })
}

// write puts bytes of the body into what waits, coded and framed.
func (s *sender) write(b []byte) {
	if s.gz != nil {
		_, _ = s.gz.Write(b)
		_ = s.gz.Flush()
		s.unpack()
		return
	}
	s.frame(b)
}

func (s *sender) unpack() {
	s.frame(s.packed.Bytes())
	s.packed.Reset()
}

func (s *sender) frame(b []byte) {
	if !s.chunked {
		s.out = append(s.out, b...)
		return
	}
	for len(b) > 0 {
		n := len(b)
		if f := s.x.plan.frame; f > 0 && f < n {
			n = f
		}
		s.out = strconv.AppendInt(s.out, int64(n), 16)
		s.out = append(s.out, "\r\n"...)
		s.out = append(append(s.out, b[:n]...), "\r\n"...)
		b = b[n:]
	}
}

// compress has the body sent as gzip from here on.
func (s *sender) compress() { s.gz = gzip.NewWriter(&s.packed) }

// flush writes what waits to the socket and the log.
func (s *sender) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	if s.x.plan.fault == "drip" {
		if err := s.drip(); err != nil {
			return err
		}
	} else if n, err := s.x.c.tcp.Write(s.out); err != nil {
		s.sent(n)
		return s.x.gone(err)
	}
	s.sent(len(s.out))
	s.said()
	s.out = s.out[:0]
	return nil
}

func (s *sender) drip() error {
	every := s.x.plan.every
	if every == 0 {
		every = time.Second
	}
	for i := range s.out {
		if _, err := s.x.c.tcp.Write(s.out[i : i+1]); err != nil {
			s.sent(i)
			return s.x.gone(err)
		}
		if err := s.x.wait(every); err != nil {
			s.sent(i + 1)
			return err
		}
	}
	return nil
}

// sent logs the first n bytes of what waited.
func (s *sender) sent(n int) {
	s.x.rec.update(func(a *Attempt) {
		a.SentSize += int64(n)
		if room := maxSent - len(a.Sent); !s.x.s.opt.SizesOnly && room > 0 {
			a.Sent = append(a.Sent, s.mask(s.out[:min(n, room)])...)
		}
	})
}

// mask takes the caller's key out of what is logged, where it was sent back: the log never holds a key.
func (s *sender) mask(b []byte) []byte {
	if s.x.plan.fault != "echo_key" || s.x.key == "" {
		return b
	}
	return bytes.ReplaceAll(b, []byte(s.x.key), bytes.Repeat([]byte("*"), len(s.x.key)))
}

// said logs what the bytes written meant.
func (s *sender) said() {
	if s.nEv == 0 && len(s.texts) == 0 && s.raw == "" {
		return
	}
	r := s.x.rec
	r.mu.Lock()
	r.a.Events = append(r.a.Events, s.events...)
	r.a.NEvents += s.nEv
	for _, t := range s.texts {
		for len(r.texts) <= t.choice {
			r.texts = append(r.texts, nil)
		}
		r.texts[t.choice] = append(r.texts[t.choice], t.text...)
	}
	if s.raw != "" {
		r.a.Usage, r.a.UsageRaw = s.usage, s.raw
	}
	r.mu.Unlock()
	s.events, s.texts, s.nEv, s.raw = s.events[:0], s.texts[:0], 0, ""
}

// field is one header line.
func field(name, value string) string { return name + ": " + value + "\r\n" }

func reason(status int) string {
	switch status {
	case 524:
		return "A Timeout Occurred"
	case 529:
		return "Site is Overloaded"
	}
	if t := http.StatusText(status); t != "" {
		return t
	}
	return "Unknown"
}

// quote appends s as a JSON string. Bytes that are not UTF-8 go through as they are: some faults need that.
func quote(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(b, s[from:]...), '"')
}

const hexDigits = "0123456789abcdef"
