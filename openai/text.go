package openai

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Small readings of values the scanner has proved valid.

func isNull(v []byte) bool   { return string(v) == "null" }
func isString(v []byte) bool { return len(v) > 0 && v[0] == '"' }
func isObject(v []byte) bool { return len(v) > 0 && v[0] == '{' }
func isArray(v []byte) bool  { return len(v) > 0 && v[0] == '[' }

// body returns what is between the quotes of the string v, still escaped; nil if v is not a string.
func body(v []byte) []byte {
	if !isString(v) {
		return nil
	}
	return v[1 : len(v)-1]
}

// unquote returns the text of the string v, sharing its memory if nothing is escaped; nil if v is not a string. Half a
// surrogate pair becomes U+FFFD.
func unquote(v []byte) []byte {
	raw := body(v)
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw
	}
	return appendUnescaped(make([]byte, 0, len(raw)), raw)
}

// text is unquote as a string: "" if v is not one.
func text(v []byte) string { return string(unquote(v)) }

// appendUnescaped appends the text of raw, the body of a valid JSON string.
func appendUnescaped(dst, raw []byte) []byte {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return append(dst, raw...)
		}
		dst = append(dst, raw[:i]...)
		var r rune
		r, raw = unescape(raw[i:])
		dst = utf8.AppendRune(dst, r)
	}
}

// unescape reads the escape raw begins with, both halves of a surrogate pair together.
func unescape(raw []byte) (rune, []byte) {
	switch c := raw[1]; c {
	case 'b':
		return '\b', raw[2:]
	case 'f':
		return '\f', raw[2:]
	case 'n':
		return '\n', raw[2:]
	case 'r':
		return '\r', raw[2:]
	case 't':
		return '\t', raw[2:]
	case 'u':
		r, _ := hex4(raw[2:])
		raw = raw[6:]
		if !utf16.IsSurrogate(r) {
			return r, raw
		}
		if len(raw) >= 6 && raw[0] == '\\' && raw[1] == 'u' {
			low, _ := hex4(raw[2:])
			if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
				return pair, raw[6:]
			}
		}
		return utf8.RuneError, raw
	default:
		return rune(c), raw[2:]
	}
}

// textLen returns how long the text of raw, the body of a valid JSON string, is in bytes.
func textLen(raw []byte) int64 {
	n := 0
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return int64(n + len(raw))
		}
		var r rune
		r, raw = unescape(raw[i:])
		n += i + utf8.RuneLen(r)
	}
}

// whole reads v as an integer: plain digits, or another way to write one (12.0, 1e3). False if it is none, or beyond
// what every JSON decoder holds exactly (2^53).
func whole(v []byte) (int64, bool) {
	const exact = 1 << 53
	if len(v) == 0 || !(v[0] == '-' || v[0]-'0' <= 9) {
		return 0, false
	}
	digits, neg := v, false
	if v[0] == '-' {
		digits, neg = v[1:], true
	}
	var n int64
	for _, c := range digits {
		if c-'0' > 9 {
			f, err := strconv.ParseFloat(string(v), 64)
			if err != nil || f > exact || f < -exact || f != float64(int64(f)) {
				return 0, false
			}
			return int64(f), true
		}
		if n = n*10 + int64(c-'0'); n > exact {
			return 0, false
		}
	}
	if neg {
		n = -n
	}
	return n, true
}

// appendString appends s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, s[from:i]...), "\uFFFD"...)
				from = i + 1
			}
			i += size
			continue
		}
		if c < 0x20 || c == '"' || c == '\\' {
			dst = append(dst, s[from:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, `\n`...)
			case '\r':
				dst = append(dst, `\r`...)
			case '\t':
				dst = append(dst, `\t`...)
			default:
				dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			from = i + 1
		}
		i++
	}
	return append(append(dst, s[from:]...), '"')
}

// clip shortens what a stranger wrote, for a message.
func clip(s string) string {
	const limit = 64
	if len(s) <= limit {
		return s
	}
	return string(bytes.ToValidUTF8([]byte(s[:limit]), nil)) + "…"
}

// repair returns b with each run of bytes that is not UTF-8 replaced by U+FFFD: b itself, usually.
func repair(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	return bytes.ToValidUTF8(b, []byte("\uFFFD"))
}
