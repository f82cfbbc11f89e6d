package threads

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"threadhub/internal/id"
)

// maxExport bounds an export of the Assistants API, which is read as a whole.
const maxExport = 1 << 30

// ReadAssistants reads threads of OpenAI's Assistants API: lists of thread.message objects as it answers them, newest
// first; such objects line by line; or {"thread": …, "messages": …}. These are JSON texts one after the other, or at least
// one a line, where some are none. The error is the reader's.
func ReadAssistants(r io.Reader) ([]*Transcript, []BadLine, error) {
	all, err := io.ReadAll(io.LimitReader(r, maxExport+1))
	if err != nil {
		return nil, nil, err
	}
	if len(all) > maxExport {
		return nil, nil, fmt.Errorf("it is larger than %d MiB", maxExport>>20)
	}
	a := &assistants{}
	all = bytes.TrimPrefix(all, []byte("\ufeff"))
	if whole, ok := jsonTexts(all); ok {
		line, seen := 1, 0
		for _, raw := range whole {
			line += bytes.Count(all[seen:raw[0]], []byte("\n"))
			seen = raw[0]
			a.text(line, all[raw[0]:raw[1]])
		}
	} else {
		n := 0
		for raw := range bytes.Lines(all) {
			n++
			a.line(n, bytes.TrimSpace(raw))
		}
	}
	list, bad := a.finish()
	return list, bad, nil
}

// jsonTexts finds the texts that b is made of, from where to where each is.
func jsonTexts(b []byte) (all [][2]int, ok bool) {
	dec := json.NewDecoder(bytes.NewReader(b))
	for {
		var text json.RawMessage
		switch err := dec.Decode(&text); {
		case errors.Is(err, io.EOF):
			return all, true
		case err != nil:
			return nil, false
		}
		end := int(dec.InputOffset())
		all = append(all, [2]int{end - len(text), end})
	}
}

// assistants collects what an export says, in the order of the export.
type assistants struct {
	transcripts
	listed map[*Transcript]bool // its messages came in lists
}

// line reads a line that is hoped to be JSON.
func (a *assistants) line(n int, raw []byte) {
	switch {
	case len(raw) == 0:
	case len(raw) > MaxLine:
		a.blame(n, nil, errLongLine)
	case !json.Valid(raw):
		a.blame(n, nil, errors.New("is not JSON"))
	default:
		a.text(n, raw)
	}
}

// text reads one JSON text that begins at a line.
func (a *assistants) text(line int, raw []byte) {
	v := gjson.ParseBytes(raw)
	switch {
	case v.Get("messages").Exists():
		t := a.thread(line, v.Get("thread.id").Str)
		t.about(v.Get("thread"))
		a.messages(line, v.Get("messages"), t)
	case v.Get("data").IsArray(), v.IsArray():
		a.messages(line, v, nil)
	case v.Get("object").Str == "thread":
		a.thread(line, v.Get("id").Str).about(v)
	default:
		a.message(line, v, nil, false)
	}
}

// messages reads messages in a list of the API's, or in a bare array. t is the thread of those that name none.
func (a *assistants) messages(line int, v gjson.Result, t *Transcript) {
	if data := v.Get("data"); data.IsArray() {
		v = data
	}
	if !v.IsArray() {
		a.blame(line, t, errors.New("has messages that are not in a list"))
		return
	}
	whole, seen := v.Raw, 0
	v.ForEach(func(_, m gjson.Result) bool {
		if i := strings.Index(whole[seen:], m.Raw); i >= 0 { // they come in their order
			line += strings.Count(whole[seen:seen+i], "\n")
			seen += i
		}
		a.message(line, m, t, true)
		return true
	})
}

// thread returns the transcript of the thread of this name.
func (a *assistants) thread(line int, name string) *Transcript {
	t := a.of(id.Thread(name))
	if name != "" && !id.ValidThread(name) {
		a.blame(line, t, errThreadID)
	}
	return t
}

// about takes over what the export says of the thread itself.
func (t *Transcript) about(thread gjson.Result) {
	if title := titleIn(thread); title != "" {
		t.Title = title
	}
	if made, err := parseTime(json.RawMessage(thread.Get("created_at").Raw)); err == nil && !made.IsZero() {
		t.Made = made
	}
}

// titleIn is the title that people keep in the metadata of a thread, or of its messages.
func titleIn(v gjson.Result) string {
	if title := v.Get("metadata.title"); title.Type == gjson.String {
		return cleanTitle(title.Str)
	}
	return ""
}

func (a *assistants) message(line int, v gjson.Result, t *Transcript, listed bool) {
	if !v.IsObject() || !v.Get("role").Exists() {
		a.blame(line, t, errors.New("is no message, list or thread of the Assistants API"))
		return
	}
	if name := v.Get("thread_id").Str; t == nil || name != "" {
		t = a.thread(line, name)
	}
	m, warnings, err := assistantsMessage(v)
	if err != nil {
		a.blame(line, t, err)
		return
	}
	if t.Title == "" {
		t.Title = titleIn(v)
	}
	t.Messages = append(t.Messages, m)
	t.Warnings += warnings
	if listed {
		if a.listed == nil {
			a.listed = map[*Transcript]bool{}
		}
		a.listed[t] = true
	}
}

// finish puts the messages into the order in which they were said.
func (a *assistants) finish() ([]*Transcript, []BadLine) {
	for _, t := range a.list {
		m := t.Messages
		if n := len(m); n > 1 {
			first, last := m[0].CreatedAt, m[n-1].CreatedAt
			if first.After(last) || a.listed[t] && !first.Before(last) {
				slices.Reverse(m)
			}
		}
		slices.SortStableFunc(m, func(a, b Message) int { return a.CreatedAt.Compare(b.CreatedAt) })
		if len(m) > 0 && t.Made.IsZero() {
			t.Made = m[0].CreatedAt
		}
	}
	return a.done()
}

// assistantsMessage turns a thread.message into a message of ours.
func assistantsMessage(v gjson.Result) (m Message, warnings int, err error) {
	m.Role = v.Get("role").Str
	if m.CreatedAt, err = parseTime(json.RawMessage(v.Get("created_at").Raw)); err != nil {
		return m, 0, err
	}
	content, warnings, err := assistantsContent(v.Get("content"))
	if err != nil {
		return m, 0, err
	}
	warnings += len(v.Get("attachments").Array())
	raw, err := marshal(struct {
		Role    string `json:"role"`
		Content any    `json:"content"`
	}{m.Role, content})
	if err != nil {
		return m, 0, err
	}
	status := v.Get("status").Str
	reason := v.Get("incomplete_details.reason").Str
	switch status {
	case "completed":
		status = string(Complete)
	case "in_progress":
		status, reason = string(Incomplete), "in_progress"
	}
	return m, warnings, m.judge(raw, status, reason)
}

// assistantsContent returns the content as the chat API has it: one text as it is, more as parts.
func assistantsContent(v gjson.Result) (content any, warnings int, err error) {
	if v.Type == gjson.String {
		return v.Str, 0, nil
	}
	if !v.IsArray() {
		return nil, 0, errors.New("has a content that is neither text nor a list of parts")
	}
	var parts []any
	text := func(s string) { parts = append(parts, textPart{"text", s}) }
	v.ForEach(func(_, p gjson.Result) bool {
		switch kind := p.Get("type").Str; {
		case kind == "text" && p.Get("text.value").Type == gjson.String:
			text(p.Get("text.value").Str)
			warnings += min(len(p.Get("text.annotations").Array()), 1)
		case kind == "text" && p.Get("text").Type == gjson.String:
			text(p.Get("text").Str)
		case kind == "refusal", kind == "image_url":
			parts = append(parts, json.RawMessage(p.Raw))
		case kind == "image_file":
			text("[image_file " + cleanTitle(p.Get("image_file.file_id").Str) + "]")
			warnings++
		default:
			text("[a part of the type " + cleanTitle(kind) + "]")
			warnings++
		}
		return true
	})
	if len(parts) == 0 {
		return "", warnings, nil
	}
	if one, is := parts[0].(textPart); is && len(parts) == 1 {
		return one.Text, warnings, nil
	}
	return parts, warnings, nil
}

type textPart struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// marshal is json.Marshal without care for HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}
