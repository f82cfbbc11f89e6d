package openai

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strconv"

	"threadhub/internal/fault"
)

// CanonVersion is stored with each thread: hashes of different versions cannot be compared.
const CanonVersion = 1

// Canon returns the hash of what a message says, by which messages are known again, and whether the message takes part
// in its thread's chain: system and developer messages do not. Two messages are equal if they agree in
//
//   - role;
//   - content: a string is the same as one text part, and absent, null, "" and [] are the same; of text parts the text
//     counts, of other parts every member by its value, whatever the order. Cache marks on parts (cache_control,
//     prompt_cache_breakpoint), which clients move from turn to turn, do not count;
//   - refusal, as a member or as a part of the content;
//   - tool_calls by id, name and arguments, and the older function_call: arguments count by their value if they are
//     JSON, as text if not; no arguments are the same as {}. Custom tools by id, name and input;
//   - tool_call_id, the id of audio, and the name of a function message.
//
// All other members are the provider's or the gateway's own and are ignored. Numbers count exactly: 1.0 is 1, and
// integers of any length differ. raw must be a JSON object with a role; else the error is fault.Invalid.
func Canon(raw []byte) (own [32]byte, chained bool, err error) {
	s := scanner{b: raw}
	s.space()
	if s.peek() != '{' {
		s.value()
		s.finish()
		if err := s.fault(); err != nil {
			return own, false, err
		}
		return own, false, fault.New(fault.Invalid, "a message must be an object").WithCode("invalid_type")
	}
	// Of members given twice the last counts, as with most decoders; ParseChat lets none that matter through twice.
	var role, content, refusal, calls, call, callID, audio, name []byte
	s.enter()
	for n := 0; ; n++ {
		_, key, ok := s.key(n)
		if !ok {
			break
		}
		at := s.value()
		v := at.of(raw)
		switch string(key) {
		case "role":
			role = v
		case "content":
			content = v
		case "refusal":
			refusal = v
		case "tool_calls":
			calls = v
		case "function_call":
			call = v
		case "tool_call_id":
			callID = v
		case "audio":
			audio = v
		case "name":
			name = v
		}
	}
	s.finish()
	if err := s.fault(); err != nil {
		return own, false, err
	}
	if !isString(role) {
		return own, false, fault.New(fault.Invalid, "a message must have a role").WithCode("missing_required_parameter").WithParam("role")
	}
	var room [1024]byte
	c := canon{out: append(room[:0], "threadhub message "+strconv.Itoa(CanonVersion)+"\n"...)}
	r := unquote(role)
	c.bytes('R', r)
	c.content(content, refusal)
	each(calls, func(_ int, v []byte) { c.call('C', v) })
	if isObject(call) {
		c.call('G', call)
	}
	if id := unquote(callID); len(id) > 0 {
		c.bytes('I', id)
	}
	if isObject(audio) {
		if id, _ := find(audio, "id"); !id.Value.empty() {
			c.bytes('A', unquote(id.Value.of(audio)))
		}
	}
	if string(r) == "function" {
		c.bytes('N', unquote(name))
	}
	return sha256.Sum256(c.out), string(r) != "system" && string(r) != "developer", nil
}

// Chain returns the chain value of a message: of the chain before it (empty for the first) and the message's own hash.
func Chain(prev []byte, own [32]byte) [32]byte {
	return sha256.Sum256(append(append(make([]byte, 0, 64), prev...), own[:]...))
}

// canon writes values so that different ones are never the same bytes: each begins with its tag, and what can be long
// with its length.
type canon struct{ out []byte }

func (c *canon) bytes(tag byte, b []byte) {
	c.out = append(c.out, tag)
	c.out = binary.AppendUvarint(c.out, uint64(len(b)))
	c.out = append(c.out, b...)
}

// content writes the content and the refusal, which may be in it.
func (c *canon) content(v, refusal []byte) {
	refused := unquote(refusal)
	switch {
	case len(v) == 0 || isNull(v):
	case isString(v):
		if t := unquote(v); len(t) > 0 {
			c.bytes('T', t)
		}
	case isArray(v):
		each(v, func(_ int, part []byte) {
			if r, ok := partText(part, "refusal"); ok {
				if len(refused) == 0 {
					refused = r
				}
				return
			}
			if t, ok := partText(part, "text"); !ok {
				c.part(part)
			} else if len(t) > 0 {
				c.bytes('T', t)
			}
		})
	default:
		c.value(v, 'P')
	}
	if len(refused) > 0 {
		c.bytes('F', refused)
	}
}

// partText returns the text of a part of this type, which is in the member of the same name.
func partText(part []byte, typ string) ([]byte, bool) {
	var kind, t []byte
	walk(part, func(m Member) {
		if string(m.Name) == "type" {
			kind = m.Value.of(part)
		} else if string(m.Name) == typ {
			t = m.Value.of(part)
		}
	})
	return unquote(t), string(unquote(kind)) == typ && isString(t)
}

// call writes one tool call, or the function call of older clients.
func (c *canon) call(tag byte, v []byte) {
	var id, name, args, input []byte
	fields := func(o []byte) {
		walk(o, func(m Member) {
			switch string(m.Name) {
			case "name":
				name = m.Value.of(o)
			case "arguments":
				args = m.Value.of(o)
			case "input":
				input = m.Value.of(o)
			}
		})
	}
	if tag == 'G' {
		fields(v)
	} else {
		walk(v, func(m Member) {
			switch string(m.Name) {
			case "id":
				id = m.Value.of(v)
			case "function", "custom":
				fields(m.Value.of(v))
			}
		})
	}
	c.bytes(tag, unquote(id))
	c.bytes('n', unquote(name))
	if input != nil {
		c.bytes('i', unquote(input))
		return
	}
	c.arguments(args)
}

// arguments are JSON within a string; some clients send the JSON itself.
func (c *canon) arguments(v []byte) {
	if len(v) == 0 || isNull(v) {
		v = []byte("{}")
	}
	if !isString(v) {
		c.value(v, 'J')
		return
	}
	inner := bytes.Trim(unquote(v), " \t\r\n")
	if len(inner) == 0 {
		inner = []byte("{}")
	}
	s := scanner{b: inner}
	s.value()
	s.finish()
	if s.failed() {
		c.bytes('X', inner)
		return
	}
	c.value(inner, 'J')
}

// value writes a JSON value with the members of objects in the order of their names.
func (c *canon) value(v []byte, tag byte) {
	c.out = append(c.out, tag)
	switch v[0] {
	case '"':
		c.bytes('s', unquote(v))
	case '{':
		c.object(v, false)
	case '[':
		c.out = append(c.out, '[')
		each(v, func(_ int, e []byte) { c.value(e, 'v') })
		c.out = append(c.out, ']')
	case 't', 'f', 'n':
		c.out = append(c.out, v[0])
	default:
		c.number(v)
	}
}

// part writes a content part that is not text.
func (c *canon) part(v []byte) {
	if !isObject(v) {
		c.value(v, 'P')
		return
	}
	c.out = append(c.out, 'P')
	c.object(v, true)
}

func (c *canon) object(v []byte, isPart bool) {
	var members []Member
	walk(v, func(m Member) {
		if n := string(m.Name); !isPart || n != "cache_control" && n != "prompt_cache_breakpoint" {
			members = append(members, m)
		}
	})
	slices.SortStableFunc(members, func(a, b Member) int { return bytes.Compare(a.Name, b.Name) })
	last := members[:0] // of members given twice
	for i, m := range members {
		if i+1 == len(members) || !bytes.Equal(m.Name, members[i+1].Name) {
			last = append(last, m)
		}
	}
	c.out = append(c.out, '{')
	for _, m := range last {
		c.bytes('k', m.Name)
		c.value(m.Value.of(v), 'v')
	}
	c.out = append(c.out, '}')
}

// number writes a number as sign, digits without zeros at either end, and exponent: 1, 1.0, 10e-1 are one number.
func (c *canon) number(v []byte) {
	mantissa, exponent := v, int64(0)
	if i := bytes.IndexAny(v, "eE"); i >= 0 {
		e, err := strconv.ParseInt(string(v[i+1:]), 10, 32)
		if err != nil { // absurd, but a number all the same: only its own spelling equals it
			c.bytes('e', v)
			return
		}
		mantissa, exponent = v[:i], e
	}
	neg := mantissa[0] == '-'
	if neg {
		mantissa = mantissa[1:]
	}
	digits := make([]byte, 0, len(mantissa))
	for i, d := range mantissa {
		if d == '.' {
			exponent -= int64(len(mantissa) - i - 1)
			continue
		}
		digits = append(digits, d)
	}
	digits = bytes.TrimLeft(digits, "0")
	trimmed := bytes.TrimRight(digits, "0")
	exponent += int64(len(digits) - len(trimmed))
	if len(trimmed) == 0 {
		neg, exponent = false, 0
	}
	if neg {
		c.out = append(c.out, '-')
	}
	c.bytes('d', trimmed)
	c.out = binary.AppendVarint(c.out, exponent)
}
