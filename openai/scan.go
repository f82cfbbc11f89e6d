package openai

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"

	"threadhub/internal/fault"
)

// MaxDepth is how deep JSON may nest. Real requests stay under 20; decoders further on fail at depths of their own.
const MaxDepth = 64

// MaxMembers is how many members the top-level object may have: the API knows about 40.
const MaxMembers = 1024

// Span is a range of bytes, [0] to [1] exclusive. The zero Span is "not there".
type Span [2]int

// of returns the bytes of b in s.
func (s Span) of(b []byte) []byte { return b[s[0]:s[1]] }

func (s Span) empty() bool { return s[0] == s[1] }

// Member is one member of an object.
type Member struct {
	Name  []byte // unescaped; shares the scanned text's memory if nothing was escaped
	Key   Span   // the name as written, with its quotes
	Value Span
}

// Scan proves that b is one JSON text and nothing else (RFC 8259, valid UTF-8, no byte order mark, at most MaxDepth
// deep) and appends the members of its top-level object to dst, in the order of the text. A top-level value that is not
// an object has no members. Linear in time. Errors are fault.Invalid with the code invalid_json, which name what is wrong
// and the byte where it is, or, for a name that comes twice, duplicate_parameter.
func Scan(b []byte, dst []Member) ([]Member, error) {
	s := scanner{b: b}
	var names nameSet
	s.space()
	if s.peek() == '{' {
		s.enter()
		for n := 0; ; n++ {
			key, name, ok := s.key(n)
			if !ok {
				break
			}
			m := Member{Name: name, Key: key}
			if names.add(dst[len(dst)-n:], m.Name) {
				return dst, duplicate(string(m.Name))
			}
			m.Value = s.value()
			dst = append(dst, m)
			if n == MaxMembers {
				s.failAt(key[0], "more than %d members", MaxMembers)
			}
		}
	} else {
		s.value()
	}
	s.finish()
	return dst, s.fault()
}

func duplicate(name string) *fault.Error {
	return fault.New(fault.Invalid, "the member %q comes twice: servers would not agree which one counts", clip(name)).
		WithCode("duplicate_parameter").WithParam(clip(name))
}

// nameSet finds names that come twice: by comparing, and with a map where there are many.
type nameSet struct{ seen map[string]struct{} }

// add reports whether name is among the members so far.
func (s *nameSet) add(so []Member, name []byte) bool {
	const few = 32
	if len(so) < few {
		for i := range so {
			if string(so[i].Name) == string(name) {
				return true
			}
		}
		return false
	}
	if s.seen == nil {
		s.seen = make(map[string]struct{}, 4*few)
		for i := range so {
			s.seen[string(so[i].Name)] = struct{}{}
		}
	}
	if _, twice := s.seen[string(name)]; twice {
		return true
	}
	s.seen[string(name)] = struct{}{}
	return false
}

// scanner walks a JSON text once. Its errors stick: after one, every method does nothing and every loop over key or
// element ends, so that callers look once, at the end.
type scanner struct {
	b     []byte
	i     int // the next byte
	depth int
	esc   bool   // the string last read has escapes
	name  Span   // the name of the member last read
	at    int    // where the error is
	wrong string // what it is; "" while all is well
}

func (s *scanner) failed() bool { return s.wrong != "" }

func (s *scanner) failAt(at int, format string, args ...any) {
	if s.wrong == "" {
		s.wrong, s.at = fmt.Sprintf(format, args...), at
	}
	s.i = len(s.b)
}

// fault returns what went wrong as a client's error, or nil.
func (s *scanner) fault() error {
	if s.wrong == "" {
		return nil
	}
	return fault.New(fault.Invalid, "the body is not valid JSON: %s at byte %d", s.wrong, s.at).WithCode("invalid_json")
}

// unexpected fails at the next byte.
func (s *scanner) unexpected(want string) {
	if s.wrong != "" {
		return
	}
	if s.i >= len(s.b) {
		s.failAt(len(s.b), "the text ends where %s should be", want)
		return
	}
	if s.i == 0 && s.b[0] == 0xEF {
		s.failAt(0, "byte order mark")
		return
	}
	if c := s.b[s.i]; c > ' ' && c < 0x7F {
		s.failAt(s.i, "%q where %s should be", c, want)
	} else {
		s.failAt(s.i, "byte 0x%02x where %s should be", c, want)
	}
}

// peek returns the next byte, or 0 at the end.
func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\n', '\t', '\r':
			s.i++
		default:
			return
		}
	}
}

// finish makes sure that nothing follows.
func (s *scanner) finish() {
	s.space()
	if s.wrong == "" && s.i < len(s.b) {
		s.unexpected("the end")
	}
}

// enter steps into the object or array that begins at the next byte, which the caller has looked at.
func (s *scanner) enter() {
	if s.depth++; s.depth > MaxDepth {
		s.failAt(s.i, "nesting deeper than %d", MaxDepth)
		return
	}
	s.i++
}

// key moves to the value of the next member of the object it is in and returns its name, as written with quotes and
// unescaped. n is how many came before. False means that the object is over, and left, or that the scan has failed.
func (s *scanner) key(n int) (at Span, name []byte, ok bool) {
	if !s.skipKey(n) {
		return Span{}, nil, false
	}
	if name = s.name.of(s.b); s.esc {
		return s.name, unquote(name), true
	}
	return s.name, name[1 : len(name)-1], true
}

// skipKey is key for those who do not ask for the name.
func (s *scanner) skipKey(n int) bool {
	if !s.item(n, '}') {
		return false
	}
	if s.peek() != '"' {
		s.unexpected("a member's name")
		return false
	}
	s.name[0] = s.i
	s.str()
	s.name[1] = s.i
	s.space()
	if s.peek() != ':' {
		s.unexpected("a colon")
		return false
	}
	s.i++
	s.space()
	return true
}

// element moves to the next element of the array it is in; as key.
func (s *scanner) element(n int) bool { return s.item(n, ']') }

func (s *scanner) item(n int, end byte) bool {
	if s.wrong != "" {
		return false
	}
	s.space()
	switch c := s.peek(); {
	case c == end:
		s.i++
		s.depth--
		return false
	case n == 0:
		return true
	case c == ',':
		s.i++
		s.space()
		if s.peek() == end {
			s.unexpected("a value after the comma")
			return false
		}
		return s.wrong == ""
	default:
		s.unexpected("a comma or the end of the " + map[byte]string{'}': "object", ']': "array"}[end])
		return false
	}
}

// value moves past the value that begins at the next byte and returns where it is.
func (s *scanner) value() Span {
	from := s.i
	switch c := s.peek(); c {
	case '"':
		s.str()
	case '{':
		s.enter()
		for n := 0; ; n++ {
			if !s.skipKey(n) {
				break
			}
			s.value()
		}
	case '[':
		s.enter()
		for n := 0; s.element(n); n++ {
			s.value()
		}
	case 't':
		s.word("true")
	case 'f':
		s.word("false")
	case 'n':
		s.word("null")
	default:
		if c == '-' || c >= '0' && c <= '9' {
			s.number()
		} else {
			s.unexpected("a value")
		}
	}
	return Span{from, s.i}
}

func (s *scanner) word(w string) {
	if s.i+len(w) > len(s.b) || string(s.b[s.i:s.i+len(w)]) != w {
		s.failAt(s.i, "an unknown word")
		return
	}
	s.i += len(w)
}

func (s *scanner) number() {
	if s.peek() == '-' {
		s.i++
	}
	if s.peek() == '0' {
		s.i++
	} else {
		s.digits()
	}
	if s.peek() == '.' {
		s.i++
		s.digits()
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.i++
		if c := s.peek(); c == '+' || c == '-' {
			s.i++
		}
		s.digits()
	}
}

func (s *scanner) digits() {
	from := s.i
	for s.i < len(s.b) && s.b[s.i]-'0' <= 9 {
		s.i++
	}
	if s.i == from {
		s.unexpected("a digit")
	}
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special has the high bit of the first byte of w set that is a quote, a backslash, a control character or not ASCII.
// Later bytes may be wrong (a subtraction borrows), but never the first.
func special(w uint64) uint64 {
	quote, slash := w^(ones*'"'), w^(ones*'\\')
	return ((quote-ones)&^quote | (slash-ones)&^slash | (w-ones*0x20)&^w | w) & highs
}

// str moves past the string that begins at the next byte.
func (s *scanner) str() {
	b, i := s.b, s.i+1
	s.esc = false
	for {
		// Eight bytes at a time: text is nearly all of a request.
		for i+8 <= len(b) {
			m := special(binary.LittleEndian.Uint64(b[i:]))
			if m != 0 {
				i += bits.TrailingZeros64(m) / 8
				break
			}
			i += 8
		}
		for {
			if i >= len(b) {
				s.failAt(len(b), "the text ends within a string")
				return
			}
			c := b[i]
			if c >= utf8.RuneSelf {
				r, size := utf8.DecodeRune(b[i:])
				if r == utf8.RuneError && size == 1 {
					s.failAt(i, "invalid UTF-8")
					return
				}
				i += size
				continue // text in other scripts comes in runs
			}
			if c == '"' {
				s.i = i + 1
				return
			}
			if c == '\\' {
				s.esc = true
				if i = s.escape(i); i < 0 {
					return
				}
				continue
			}
			if c < 0x20 {
				s.failAt(i, "control character 0x%02x within a string", c)
				return
			}
			i++
			break
		}
	}
}

// escape returns the byte after the escape at i, or -1 if it is none.
func (s *scanner) escape(i int) int {
	if i+1 >= len(s.b) {
		s.failAt(len(s.b), "the text ends within a string")
		return -1
	}
	switch s.b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		if _, ok := hex4(s.b[i+2:]); ok {
			return i + 6
		}
	}
	s.failAt(i, "invalid escape within a string")
	return -1
}

// hex4 reads four hexadecimal digits.
func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}
