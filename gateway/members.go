package gateway

import (
	"bytes"
	"encoding/json"
	"slices"

	"threadhub/internal/fault"
)

// members reads the body as a JSON object with no other members than those named, each at most once, spelt exactly so.
// An empty body is an empty object.
func (x *request) members(names ...string) (map[string]json.RawMessage, error) {
	return members(x.body(), names)
}

func members(body []byte, names []string) (map[string]json.RawMessage, error) {
	m := map[string]json.RawMessage{}
	if len(bytes.TrimSpace(body)) == 0 {
		return m, nil
	}
	// The parser's own errors quote the body, which may hold a key: they are not passed on.
	bad := func(format string, args ...any) error {
		return fault.New(fault.Invalid, format, args...).WithCode("invalid_json")
	}
	if deep(body, maxDepth) {
		return nil, bad("the body is nested deeper than %d", maxDepth)
	}
	if !json.Valid(body) {
		return nil, bad("the body is not valid JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, bad("the body must be a JSON object")
	}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, bad("the body is not valid JSON")
		}
		if !slices.Contains(names, name) {
			return nil, fault.New(fault.Invalid, "the body has a member that is not known here").
				WithCode("unknown_parameter").WithParam(shown(name))
		}
		if _, twice := m[name]; twice {
			return nil, fault.New(fault.Invalid, "the body has the member %q twice", name).
				WithCode("duplicate_parameter").WithParam(name)
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, bad("the body is not valid JSON")
		}
		m[name] = v
	}
	return m, nil
}

const maxDepth = 64

// deep reports whether b nests deeper than limit, without recursion, before any parser sees it.
func deep(b []byte, limit int) bool {
	depth, inText := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '{' || c == '[':
			if depth++; depth > limit {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// shown is a member's name as it may be shown to whoever sent it: short.
func shown(name string) string {
	if len(name) > 64 {
		return "…"
	}
	return name
}
