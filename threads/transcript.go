package threads

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/openai"
)

const (
	MaxTitle = 512      // bytes of a thread's title
	MaxLine  = 20 << 20 // bytes of a line of what is imported

	maxReason = 256 // bytes of the reason why an answer is incomplete
)

// Transcript is a conversation from elsewhere.
type Transcript struct {
	ID       id.Thread // where nothing named it, one made of what it says: the same each time
	Title    string
	Made     time.Time // zero: not told
	Messages []Message // numbered and hashed
	Warnings int       // parts that could not be taken over as they were
	Bad      bool      // it had a line that is none: what there is of it is not whole
}

// BadLine is a line that is not what it should be. Text continues a sentence that began with the line, and holds nothing
// that is said in it.
type BadLine struct {
	Line int // from 1
	Text string
}

// transcripts collects messages by their threads.
type transcripts struct {
	list  []*Transcript
	named map[id.Thread]*Transcript // "": the one that has no name
	last  *Transcript
	bad   []BadLine
	early bool // bad lines came before any message
}

// of returns the transcript of a thread, a new one if it is the first time.
func (c *transcripts) of(thread id.Thread) *Transcript {
	t := c.named[thread]
	if t == nil {
		t = &Transcript{ID: thread, Bad: c.early}
		c.early = false
		if c.named == nil {
			c.named = map[id.Thread]*Transcript{}
		}
		c.named[thread] = t
		c.list = append(c.list, t)
	}
	c.last = t
	return t
}

// blame notes a bad line. Whose it is, if it does not say so itself, is the thread of the line before it, or of the one
// after it if it is the first.
func (c *transcripts) blame(line int, t *Transcript, err error) {
	c.bad = append(c.bad, BadLine{line, err.Error()})
	switch {
	case t != nil:
		t.Bad = true
	case c.last != nil:
		c.last.Bad = true
	default:
		c.early = true
	}
}

func (c *transcripts) done() ([]*Transcript, []BadLine) {
	if c.early { // nothing but bad lines
		c.list = append(c.list, &Transcript{Bad: true})
	}
	for _, t := range c.list {
		number(t.Messages)
		if t.ID == "" {
			t.ID = t.name()
		}
	}
	return c.list, c.bad
}

// number numbers and hashes the messages of a whole thread.
func number(messages []Message) {
	var head *Message
	chain := []byte{}
	for i := range messages {
		m := &messages[i]
		m.After(head)
		if m.Status != Complete {
			m.Chain = chain // as NewAnswer has it
		}
		head, chain = m, m.Chain
	}
}

// name is an id made of what the transcript says: importing it twice makes one thread.
func (t *Transcript) name() id.Thread {
	h := sha256.New()
	fmt.Fprintf(h, "%q", t.Title)
	for _, m := range t.Messages {
		fmt.Fprintf(h, " %s %s %x", m.Role, m.Status, m.Own)
	}
	return id.Thread("import-" + hex.EncodeToString(h.Sum(nil)[:16]))
}

// cleanTitle is a title as it may be stored.
func cleanTitle(s string) string { return cleaned(s, MaxTitle) }

// cleaned is text that both stores keep, and no more than most bytes of it.
func cleaned(s string, most int) string {
	s = strings.ReplaceAll(s, "\x00", "")
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

// ReadJSONLines reads conversations of which each line is a message, as GET /api/threads/{id}/export writes them and most
// others do: an object with role and content, and with what else the API knows of messages. Members of ours are thread_id
// (lines without one are one conversation), title, created_at, status, and an answer's provenance. Lines of several
// threads may be mixed. All is in memory when it returns. The error is the reader's.
func ReadJSONLines(r io.Reader) ([]*Transcript, []BadLine, error) {
	var c transcripts
	in := bufio.NewReaderSize(r, 1<<16)
	for n := 1; ; n++ {
		line, err := readLine(in, MaxLine)
		if errors.Is(err, io.EOF) {
			list, bad := c.done()
			return list, bad, nil
		}
		switch {
		case errors.Is(err, errLongLine):
			c.blame(n, nil, err)
		case err != nil:
			return nil, nil, err
		default:
			if n == 1 {
				line = bytes.TrimPrefix(line, []byte("\ufeff"))
			}
			if line = bytes.TrimSpace(line); len(line) > 0 {
				c.line(n, line)
			}
		}
	}
}

var errLongLine = fmt.Errorf("is longer than %d MiB", MaxLine>>20)

// readLine returns the next line, its break included. It is the caller's. io.EOF: there is none.
func readLine(in *bufio.Reader, most int) (line []byte, err error) {
	tooLong := false
	for {
		piece, err := in.ReadSlice('\n')
		if len(line)+len(piece) > most {
			tooLong, line = true, nil
		}
		if !tooLong {
			line = append(line, piece...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && (!errors.Is(err, io.EOF) || len(line) == 0 && !tooLong):
			return nil, err
		case tooLong:
			return nil, errLongLine
		}
		return line, nil
	}
}

func (c *transcripts) line(n int, raw []byte) {
	l, err := parseLine(raw)
	if l.thread == nil {
		c.blame(n, nil, err)
		return
	}
	t := c.of(*l.thread)
	if err != nil {
		c.blame(n, t, err)
		return
	}
	t.take(l)
}

func (t *Transcript) take(l line) {
	if t.Title == "" {
		t.Title = cleanTitle(l.title)
	}
	if t.Made.IsZero() {
		t.Made = l.message.CreatedAt
	}
	t.Messages = append(t.Messages, l.message)
	t.Warnings += l.warnings
}

// line is what one line says.
type line struct {
	thread   *id.Thread // "": it names none; nil: it cannot be read
	title    string
	message  Message
	warnings int
}

// provenanceNames are the members of an answer that are where it came from, and not the answer.
var provenanceNames = map[string]bool{
	"request_id": true, "provider": true, "model_requested": true, "model_served": true, "vendor": true, "route": true, "reason": true, "attempts": true,
	"latency_ms": true, "first_token_ms": true, "finish_reason": true, "usage": true, "cost_usd": true, "cost_status": true, "choices": true,
}

// parseLine reads a message.
func parseLine(raw []byte) (l line, err error) {
	members, err := openai.Scan(raw, nil)
	if err != nil || raw[0] != '{' {
		return l, errors.New("is not a JSON object")
	}
	value := func(m openai.Member) []byte { return raw[m.Value[0]:m.Value[1]] }
	ours := map[string]json.RawMessage{}
	for _, m := range members {
		ours[string(m.Name)] = value(m)
	}
	var named string
	err = texts(ours, said{"thread_id", &named})
	thread := id.Thread(named)
	l.thread = &thread
	if err == nil && named != "" && !id.ValidThread(named) {
		err = errThreadID
	}
	if err != nil {
		return l, err
	}
	var status, reason string
	m := &l.message
	if err := texts(ours, said{"title", &l.title}, said{"role", &m.Role}, said{"status", &status}, said{"incomplete_reason", &reason}); err != nil {
		return l, err
	}
	if m.CreatedAt, err = parseTime(ours["created_at"]); err != nil {
		return l, err
	}
	object, from := []byte{'{'}, []byte{'{'}
	for _, member := range members {
		to := &object
		switch name := string(member.Name); {
		case name == "thread_id", name == "message_id", name == "sequence", name == "title", name == "created_at", name == "status", name == "incomplete_reason":
			continue
		case m.Role == "assistant" && provenanceNames[name]:
			to = &from
		}
		if len(*to) > 1 {
			*to = append(*to, ',')
		}
		*to = append(append(append(*to, raw[member.Key[0]:member.Key[1]]...), ':'), value(member)...)
	}
	if err := m.judge(append(object, '}'), status, reason); err != nil {
		return l, err
	}
	if len(from) > 1 {
		var p Provenance
		if json.Unmarshal(append(from, '}'), &p) != nil {
			return l, errors.New("says in a way of its own where the answer came from (provider, usage, cost_usd, …)")
		}
		m.Meta, err = json.Marshal(p)
	}
	return l, err
}

var errThreadID = errors.New("has a thread_id that is none: 1 to 128 of A-Z a-z 0-9 . _ : -")

// judge takes raw as what m says, if it is a message.
func (m *Message) judge(raw []byte, status, reason string) error {
	switch m.Role {
	case "user", "assistant", "system", "developer", "tool", "function":
	default:
		return errors.New("has a role that is none of user, assistant, system, developer, tool and function")
	}
	var said struct{ Content json.RawMessage }
	if _, _, err := openai.Canon(raw); err != nil || json.Unmarshal(raw, &said) != nil {
		return errors.New("is not a message")
	}
	if c := said.Content; len(c) > 0 && c[0] != '"' && c[0] != '[' && string(c) != "null" {
		return errors.New("has a content that is neither text nor a list of parts")
	}
	m.Raw, m.Status = raw, Complete
	switch {
	case status == "" || status == string(Complete):
	case status == string(Incomplete) && m.Role == "assistant":
		m.Status, m.Reason = Incomplete, cmp.Or(cleaned(reason, maxReason), "unknown")
	default:
		return errors.New("has a status that is neither complete nor, of an answer, incomplete")
	}
	return nil
}

// said is a member and where it goes.
type said struct {
	name string
	to   *string
}

// texts reads members that are strings, if they are there and not null.
func texts(members map[string]json.RawMessage, into ...said) error {
	for _, s := range into {
		if v := members[s.name]; len(v) > 0 && json.Unmarshal(v, s.to) != nil {
			return fmt.Errorf("has a %s that is not text", s.name)
		}
	}
	return nil
}

// parseTime reads a time as RFC 3339 or in seconds since 1970; nothing and null are no time.
func parseTime(v json.RawMessage) (t time.Time, err error) {
	var seconds float64
	switch {
	case len(v) == 0 || string(v) == "null":
		return t, nil
	case v[0] == '"':
		err = json.Unmarshal(v, &t)
	default:
		err = json.Unmarshal(v, &seconds)
		whole, part := math.Modf(seconds)
		t = time.Unix(int64(whole), int64(part*1e9))
	}
	if err != nil || t.Before(time.Unix(0, 0)) || t.After(time.Now().AddDate(0, 0, 1)) {
		return time.Time{}, errors.New("has a created_at that is no time in the past")
	}
	return t.UTC(), nil
}

// Taken reports whether the org has a thread of this name, be it a deleted one.
func (s *Store) Taken(ctx context.Context, org id.Org, thread id.Thread) (taken bool, err error) {
	err = s.db.Query(ctx, org, db.Query{
		SQL: `SELECT 1 FROM threads WHERE org_id = $1 AND thread_id = $2`, Args: []any{org, thread},
		Each: func(db.Row) error { taken = true; return nil },
	})
	return taken, err
}
