package openai

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"threadhub/internal/fault"
)

// AppendError appends the error object clients know. An empty param or code is null.
func AppendError(dst []byte, message, typ, param, code string) []byte {
	orNull := func(name, s string) {
		dst = append(dst, name...)
		if s == "" {
			dst = append(dst, "null"...)
		} else {
			dst = appendString(dst, s)
		}
	}
	dst = appendString(append(dst, `{"error":{"message":`...), message)
	dst = appendString(append(dst, `,"type":`...), typ)
	orNull(`,"param":`, param)
	orNull(`,"code":`, code)
	return append(dst, `}}`...)
}

// keys matches what looks like a key of ours, of a provider, or of another service a message may quote. Providers mask
// keys themselves, but show both ends: hence the stars. pplx-embed-… is the name of a model.
var keys = regexp.MustCompile(`(?i)\bBearer\s+[^\s"',]+` +
	`|\b(?:sk|pk|rk|th|gsk|xai|ghp|hf)[-_][\w*.-]{6,}` +
	`|\bpplx[-_][A-Za-z0-9*]{6,}[\w*.-]*` +
	`|\bAIza[\w*-]{6,}` +
	`|\bya29\.[\w*.-]{6,}` +
	`|\beyJ[\w-]{8,}\.[\w.-]+` +
	`|\b(?:api[-_]?key|key|token)=[^&\s"']+`)

// maxScrubbed is how long a message of a provider may be, in runes.
const maxScrubbed = 512

// Scrub makes what a provider wrote fit to be shown: what looks like a key is masked, control characters become
// spaces, what is not UTF-8 becomes U+FFFD, and it is no longer than 512 runes.
func Scrub(s string) string {
	const enough = 8 << 10 // no more is looked at; far more than can be shown
	if len(s) > enough {
		s = s[:enough]
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	s = strings.TrimSpace(keys.ReplaceAllString(s, "[masked]"))
	if utf8.RuneCountInString(s) <= maxScrubbed {
		return s
	}
	n := 0
	for i := range s {
		if n++; n == maxScrubbed {
			return s[:i] + "…"
		}
	}
	return s
}

// reported makes a fault of the error a provider put into an answer: an object as in the API, or a bare string. The
// provider's own code is kept where it is a word; numbers are HTTP statuses.
func reported(v []byte) *fault.Error {
	var message, code, typ, status string
	if isString(v) {
		message = text(v)
	}
	walk(v, func(m Member) {
		w := m.Value.of(v)
		switch string(m.Name) {
		case "message":
			message = text(w)
		case "type":
			typ = text(w)
		case "code", "status":
			if isString(w) {
				code = text(w)
			} else {
				status = string(w)
			}
		case "metadata":
			kind, _ := find(w, "error_type")
			if k := text(kind.Value.of(w)); k == "rate_limit_exceeded" {
				typ = k
			}
		}
	})
	if code == "429" {
		status = code
	}
	if !isCode(code) {
		code = "upstream_error"
	}
	kind := fault.Upstream
	if status == "429" || code == "rate_limit_exceeded" || typ == "rate_limit_exceeded" || code == "insufficient_quota" {
		kind = fault.RateLimited
		if code == "upstream_error" {
			code = "rate_limit_exceeded"
		}
	}
	f := fault.New(kind, "the provider failed without saying why").WithCode(code)
	if m := Scrub(message); m != "" {
		f.Message = "the provider failed: " + m
	}
	if code == "insufficient_quota" {
		f.Final = true // the provider's account is out of money: asking again changes nothing
	}
	return f
}

// isCode reports whether s is a word that may be shown as a code: it cannot hold a key.
func isCode(s string) bool {
	if s == "" || len(s) > 48 {
		return false
	}
	letters := false
	for i := range len(s) {
		c := s[i]
		if !(c == '_' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9') {
			return false
		}
		letters = letters || c >= 'a'
	}
	return letters && !keys.MatchString(s)
}

// protocol is the fault for an answer that is not what the API says.
func protocol(format string, args ...any) *fault.Error {
	return fault.New(fault.Upstream, format, args...).WithCode("upstream_protocol")
}
