// Package sse reads and writes event streams (WHATWG HTML, section 9.2, "Server-sent events").
//
// The reader is incremental: however the bytes are cut on their way, the events are the same. It takes all the socket
// has in one read, allocates nothing per event, keeps no more than its cap in memory, and never turns a line that is too
// long into an end of the stream. It leaves to others what an event means, when a stream is complete (`[DONE]` is only
// data here) and how long silence may last.
package sse

import (
	"bytes"
	"errors"
	"io"
)

// ErrTooLong means that a line, or the data of one event with the line after it, is longer than the reader's cap. The
// reader is spent: every later call of Next says the same.
var ErrTooLong = errors.New("sse: event longer than allowed")

// DefaultMax is the cap of a reader made with a maximum of 0, in bytes.
const DefaultMax = 1 << 20

const (
	firstBuffer = 4 << 10  // one event, usually; most streams are slow and never need more
	burstBuffer = 16 << 10 // for streams that fill the first
	slack       = 64 << 10 // room to read ahead beyond the cap
	maxStray    = 16 << 10 // of what is no event, enough to see what it is
)

// Event is one event that has data. Events without data are skipped, as the standard says.
type Event struct {
	Name string // the `event` field; "" if there was none, which the standard calls "message"
	ID   string // the last `id` field seen in the stream, of this event or an earlier one
	Data []byte // the `data` fields, joined by "\n"; good until the next call of Next

	// Unterminated says that the stream ended before the event's blank line. The standard drops such an event, since
	// it may be cut anywhere, but there are servers that end with a bare `data: [DONE]`: take it only if the data is
	// complete in itself. io.EOF follows.
	Unterminated bool
}

// Reader reads events. Not safe for concurrent use.
type Reader struct {
	r   io.Reader
	max int
	buf []byte

	pos, end int // unread bytes are buf[pos:end]
	scanned  int // no line end in buf[pos:scanned]
	lf       int // the next LF at or after pos, if lf >= pos

	dataFrom, dataTo int  // the data of the event under way, buf[dataFrom:dataTo]; lines are joined in place
	hasData          bool // a data field was seen, though perhaps empty
	name, id         string
	hasName          bool

	began    bool // a byte order mark can no longer come
	skipLF   bool // the last line ended in CR: an LF right after belongs to it
	full     bool // the last read filled the buffer: the socket may have more
	comments int64
	noise    bool
	stray    []byte // the lines without a known field since the first that was noise

	next    Event // found by Ready
	ready   bool
	tooLong bool
	err     error
}

// NewReader returns a reader of r whose events and lines hold at most maxLine bytes each; 0 means DefaultMax. It reads
// ahead, so r belongs to it from now on.
func NewReader(r io.Reader, maxLine int) *Reader {
	if maxLine <= 0 {
		maxLine = DefaultMax
	}
	return &Reader{r: r, max: maxLine, lf: -1}
}

// Comments returns how many comment lines were skipped so far: servers send them as a sign of life.
func (r *Reader) Comments() int64 { return r.comments }

// Noise reports whether a line came, up to the last event that was read or looked for, that no server writes: one whose
// field's name has other bytes than letters, digits, "-" and "_". The standard skips such lines like any unknown field,
// and so does Next; to who expects a stream from a program they say that something else got into it.
func (r *Reader) Noise() bool { return r.noise }

// Stray returns what Noise speaks of: the lines without a field that is known, from the first that no server writes, up to
// maxStray bytes. A server that breaks down may put its error between events as it is.
func (r *Reader) Stray() []byte { return r.stray }

// Next returns the next event. io.EOF is a clean end of the bytes, which need not be an end of the answer; ErrTooLong is
// said above; any other error is the underlying reader's own. Complete events that came before an error are returned
// before it.
func (r *Reader) Next() (Event, error) {
	if r.ready {
		r.ready = false
		return r.next, nil
	}
	for {
		if e, ok := r.parse(); ok {
			return e, nil
		}
		if r.err != nil {
			if r.err == io.EOF { //nolint:errorlint // an EOF that somebody wrapped is no clean end
				if e, ok := r.last(); ok {
					return e, nil
				}
			}
			return Event{}, r.err
		}
		r.fill()
	}
}

// Ready reports whether Next would return an event without reading: a relay that has not flushed yet asks this before it
// may have to wait. It leaves the data of the last event alone.
func (r *Reader) Ready() bool {
	if !r.ready {
		r.next, r.ready = r.parse()
	}
	return r.ready
}

// parse takes lines from the buffer until they complete an event.
func (r *Reader) parse() (Event, bool) {
	for {
		from, to, ok := r.line()
		if !ok {
			return Event{}, false
		}
		if from < to {
			r.field(from, to)
			continue
		}
		if e, ok := r.dispatch(); ok {
			return e, true
		}
	}
}

// dispatch ends the event under way; false means it had no data.
func (r *Reader) dispatch() (Event, bool) {
	e, ok := Event{ID: r.id, Data: r.buf[r.dataFrom:r.dataTo:r.dataTo]}, r.hasData
	if r.hasName {
		e.Name = r.name
	}
	r.hasData, r.hasName = false, false
	r.dataFrom, r.dataTo = 0, 0
	return e, ok
}

// last makes an event of what the stream ended with, if there is data in it.
func (r *Reader) last() (Event, bool) {
	if r.pos < r.end {
		from := r.pos
		r.pos = r.end
		r.field(from, r.end)
	}
	e, ok := r.dispatch()
	e.Unterminated = true
	return e, ok
}

// line takes the next whole line, buf[from:to] without its end. The memory stays where it is until fill.
func (r *Reader) line() (from, to int, ok bool) {
	if r.tooLong || !r.begin() {
		return 0, 0, false
	}
	if r.skipLF && r.pos < r.end {
		r.skipLF = false
		if r.buf[r.pos] == '\n' {
			r.pos++
		}
	}
	unseen := max(r.scanned, r.pos)
	// The next LF is remembered: in a stream of CR lines it would be looked for again and again.
	if r.lf < unseen {
		r.lf = r.end
		if i := bytes.IndexByte(r.buf[unseen:r.end], '\n'); i >= 0 {
			r.lf = unseen + i
		}
	}
	to = r.lf
	if i := bytes.IndexByte(r.buf[unseen:to], '\r'); i >= 0 {
		to = unseen + i
	}
	from = r.pos
	if to-from > r.max-(r.dataTo-r.dataFrom) {
		r.err, r.tooLong = ErrTooLong, true
		return 0, 0, false
	}
	if to == r.end {
		r.scanned = r.end
		return 0, 0, false
	}
	r.skipLF = r.buf[to] == '\r'
	r.pos = to + 1
	r.scanned = r.pos
	return from, to, true
}

// begin skips a byte order mark at the very start; false means that more bytes must come to tell.
func (r *Reader) begin() bool {
	if r.began {
		return true
	}
	const bom = "\xEF\xBB\xBF"
	have := r.buf[r.pos:r.end]
	if len(have) < len(bom) && r.err == nil && string(have) == bom[:len(have)] {
		return false
	}
	r.began = true
	if bytes.HasPrefix(have, []byte(bom)) {
		r.pos += len(bom)
	}
	return true
}

// field takes the line buf[from:to], which is not blank.
func (r *Reader) field(from, to int) {
	name, value := r.buf[from:to], to // value is where the field's value begins
	if i := bytes.IndexByte(name, ':'); i >= 0 {
		name, value = name[:i], from+i+1
		if value < to && r.buf[value] == ' ' {
			value++
		}
	}
	switch string(name) {
	case "":
		r.comments++
	case "data":
		if !r.hasData {
			r.hasData = true
			r.dataFrom, r.dataTo = value, to
			return
		}
		// Joined in place: the field's name and the last line's end make room for the newline.
		r.buf[r.dataTo] = '\n'
		r.dataTo += 1 + copy(r.buf[r.dataTo+1:], r.buf[value:to])
	case "event":
		r.hasName = value < to
		if v := r.buf[value:to]; r.name != string(v) {
			r.name = string(v)
		}
	case "id":
		if v := r.buf[value:to]; r.id != string(v) && bytes.IndexByte(v, 0) < 0 {
			r.id = string(v)
		}
	default:
		r.noise = r.noise || bytes.ContainsFunc(name, func(c rune) bool {
			return c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
		})
		if r.noise && len(r.stray)+to-from < maxStray {
			r.stray = append(append(r.stray, r.buf[from:to]...), '\n')
		}
	}
}

// fill reads once, whatever there is, and makes room for it first.
func (r *Reader) fill() {
	if r.lf >= r.end {
		r.lf = -1 // it said that there was none
	}
	switch {
	case r.end == r.pos && !r.hasData:
		if size := burstBuffer; r.full && len(r.buf) < size {
			r.buf = make([]byte, size)
		} else if r.buf == nil {
			r.buf = make([]byte, firstBuffer)
		}
		r.move(r.buf)
	case r.end == len(r.buf):
		// What is kept is at most the cap (line made sure), so a buffer of full size always has room after a move.
		if kept := r.end - r.pos + r.dataTo - r.dataFrom; kept <= len(r.buf)/2 || len(r.buf) >= r.max+slack {
			r.move(r.buf)
		} else {
			r.move(make([]byte, min(2*len(r.buf), r.max+slack)))
		}
	}
	for range 100 {
		n, err := r.r.Read(r.buf[r.end:])
		if n < 0 || n > len(r.buf)-r.end {
			n, err = 0, errors.New("sse: reader returned an impossible count")
		}
		r.end += n
		r.full = r.end == len(r.buf)
		r.err = err
		if n > 0 || err != nil {
			return
		}
	}
	r.err = io.ErrNoProgress
}

// move takes what is kept, the data under way and the unread bytes, to the front of buf, which may be r.buf itself.
func (r *Reader) move(buf []byte) {
	data := copy(buf, r.buf[r.dataFrom:r.dataTo])
	unread := copy(buf[data:], r.buf[r.pos:r.end])
	shift := r.pos - data
	r.buf = buf
	r.dataFrom, r.dataTo = 0, data
	r.pos, r.end = data, data+unread
	r.scanned = max(r.scanned-shift, 0)
	r.lf -= shift
}
