package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"pgregory.net/rapid"
)

// Saying is what a message says, apart from how it is written. Two messages are equal when their Sayings are.
type Saying struct {
	Role    string
	Parts   []string // texts, and pictures as "image:" and their address
	Calls   []Call
	Answers string // of a tool message: the id of the call it answers
}

// Call is a tool call. Args is JSON in the one form this package writes: members by name, no white space.
type Call struct{ ID, Name, Args string }

const image = "image:"

func (s Saying) equal(o Saying) bool {
	return s.Role == o.Role && s.Answers == o.Answers && slices.Equal(s.Parts, o.Parts) && slices.Equal(s.Calls, o.Calls)
}

func (s Saying) system() bool { return s.Role == "system" || s.Role == "developer" }

// empty reports whether there is nothing in it.
func (s Saying) empty() bool { return len(s.Parts) == 0 && len(s.Calls) == 0 }

// String is short: u:hi, a:hello, a{f c1}, t(c1):42.
func (s Saying) String() string {
	var b strings.Builder
	b.WriteString(s.Role[:1])
	if s.Answers != "" {
		fmt.Fprintf(&b, "(%s)", s.Answers)
	}
	b.WriteString(":" + strings.Join(s.Parts, "+"))
	for _, c := range s.Calls {
		fmt.Fprintf(&b, "{%s %s %s}", c.ID, c.Name, c.Args)
	}
	return b.String()
}

// Written is a message as a client wrote it down.
type Written struct {
	Saying
	Raw string // JSON
}

// write spells s in one of the ways that are the same.
func write(t *rapid.T, s Saying) Written {
	members := []string{`"role":` + quote(s.Role)}
	if c, ok := spellContent(t, s); ok {
		members = append(members, `"content":`+c)
	}
	if len(s.Calls) > 0 {
		var calls []string
		for _, c := range s.Calls {
			calls = append(calls, fmt.Sprintf(`{"id":%s,"type":"function","function":{"name":%s,"arguments":%s}}`,
				quote(c.ID), quote(c.Name), quote(spellArguments(t, c.Args))))
		}
		members = append(members, `"tool_calls":[`+strings.Join(calls, ",")+`]`)
	}
	if s.Answers != "" {
		members = append(members, `"tool_call_id":`+quote(s.Answers))
	}
	if s.Role == "assistant" {
		for _, m := range additions {
			if chance(t, 15) {
				members = append(members, m)
			}
		}
	}
	if chance(t, 20) {
		slices.Reverse(members)
	}
	return Written{s, "{" + strings.Join(members, ",") + "}"}
}

// additions are members that providers and gateways add to what a model says.
var additions = []string{
	`"refusal":null`, `"annotations":[]`, `"reasoning_content":"hm"`, `"extra_content":{"google":{"thought_signature":"x"}}`,
	`"message_id":"msg_1","sequence":7,"status":"complete"`,
}

func spellContent(t *rapid.T, s Saying) (text string, ok bool) {
	switch {
	case len(s.Parts) == 0 && s.Role == "assistant":
		text = pick(t, `""`, "null", "")
		return text, text != ""
	case len(s.Parts) == 0:
		return `""`, true
	case len(s.Parts) == 1 && !strings.HasPrefix(s.Parts[0], image) && !chance(t, 30):
		return quote(s.Parts[0]), true
	}
	var parts []string
	for _, p := range s.Parts {
		part := []string{`"type":"text"`, `"text":` + quote(p)}
		if url, ok := strings.CutPrefix(p, image); ok {
			part = []string{`"type":"image_url"`, `"image_url":{"url":` + quote(url) + `}`}
		}
		if chance(t, 30) {
			slices.Reverse(part)
		}
		parts = append(parts, "{"+strings.Join(part, ",")+"}")
	}
	return "[" + strings.Join(parts, ", ") + "]", true
}

// spellArguments writes arguments of up to two members in another order, with white space.
func spellArguments(t *rapid.T, args string) string {
	if !chance(t, 30) {
		return args
	}
	var m map[string]json.RawMessage
	if json.Unmarshal([]byte(args), &m) != nil {
		return args
	}
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	slices.Reverse(names)
	for i, n := range names {
		names[i] = quote(n) + ": " + string(m[n])
	}
	return "{ " + strings.Join(names, " , ") + " }"
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// read is the way back from JSON: of what the provider was shown, and of what the API shows.
func read(raw []byte) (Saying, error) {
	var m struct {
		Role      string
		Content   json.RawMessage
		ToolCalls []struct {
			ID       string
			Function struct{ Name, Arguments string }
		} `json:"tool_calls"`
		ToolCallID string `json:"tool_call_id"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return Saying{}, fmt.Errorf("%w in %s", err, raw)
	}
	s := Saying{Role: m.Role, Answers: m.ToolCallID}
	var text string
	var parts []struct {
		Type, Text string
		Image      struct{ URL string } `json:"image_url"`
	}
	switch c := bytes.TrimSpace(m.Content); {
	case len(c) == 0 || string(c) == "null":
	case c[0] == '"':
		if err := json.Unmarshal(c, &text); err != nil {
			return s, err
		}
		if text != "" {
			s.Parts = []string{text}
		}
	default:
		if err := json.Unmarshal(c, &parts); err != nil {
			return s, err
		}
		for _, p := range parts {
			if p.Type == "image_url" {
				p.Text = image + p.Image.URL
			}
			s.Parts = append(s.Parts, p.Text)
		}
	}
	for _, c := range m.ToolCalls {
		var v any
		args := c.Function.Arguments
		if json.Unmarshal([]byte(args), &v) == nil {
			b, _ := json.Marshal(v)
			args = string(b)
		}
		s.Calls = append(s.Calls, Call{c.ID, c.Function.Name, args})
	}
	return s, nil
}

func pick[T any](t *rapid.T, of ...T) T { return rapid.SampledFrom(of).Draw(t, "pick") }

func chance(t *rapid.T, percent int) bool { return rapid.IntRange(0, 99).Draw(t, "chance") < percent }
