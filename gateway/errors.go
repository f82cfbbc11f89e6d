package gateway

import (
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"threadhub/internal/fault"
	"threadhub/openai"
)

// answer is what a kind of fault looks like to a client. The types are those OpenAI itself uses where it has one, and
// name the hop that failed where it has not: SDKs decide by status, people by type, programs by code.
type answer struct {
	status int
	typ    string // the OpenAI error object's type
	code   string // its code when the fault names none
}

const invalidRequest = "invalid_request_error"

var answers = map[fault.Kind]answer{
	fault.Internal:     {500, "server_error", "internal_error"},
	fault.Invalid:      {400, invalidRequest, "invalid_request"},
	fault.Unauthorized: {401, invalidRequest, "invalid_api_key"},
	fault.Payment:      {402, "insufficient_quota", "budget_exceeded"},
	fault.Denied:       {403, "permission_denied", "permission_denied"},
	fault.NotFound:     {404, invalidRequest, "not_found"},
	fault.Method:       {405, invalidRequest, "method_not_allowed"},
	fault.Slow:         {408, invalidRequest, "request_timeout"},
	fault.Conflict:     {409, invalidRequest, "conflict"},
	fault.Gone:         {410, invalidRequest, "gone"},
	fault.TooLarge:     {413, invalidRequest, "request_too_large"},
	fault.MediaType:    {415, invalidRequest, "unsupported_media_type"},
	fault.Reused:       {422, invalidRequest, "idempotency_key_reused"},
	fault.RateLimited:  {429, "rate_limit_error", "rate_limit_exceeded"},
	fault.Upstream:     {502, "upstream_error", "upstream_error"},
	fault.Unavailable:  {503, "server_error", "unavailable"},
	fault.Timeout:      {504, "upstream_error", "upstream_timeout"},
}

// codeHeadTooLarge is the one code with a status of its own: 431, where its kind has 413.
const codeHeadTooLarge = "request_header_too_large"

func answerFor(f *fault.Error) answer {
	a, ok := answers[f.Kind]
	if !ok {
		a = answers[fault.Internal]
	}
	if f.Code == codeHeadTooLarge {
		a.status = 431
	}
	if f.Code != "" {
		a.code = f.Code
	}
	return a
}

// notFound is the answer for what is not there and for what belongs to somebody else.
func notFound() *fault.Error {
	return fault.New(fault.NotFound, "there is no such thing here").WithCode("not_found")
}

// errorBody is the OpenAI error object for err. An error without a kind shows nothing of its text. What an error quotes of
// the request may be a key in the wrong place, and people paste errors into tickets: it is scrubbed.
func errorBody(err error) []byte {
	f := fault.From(err)
	a := answerFor(f)
	b := openai.AppendError(nil, scrub(f.Message), a.typ, scrub(f.Param), a.code)
	if f.Details == nil {
		return b
	}
	details, err := encoded(f.Details)
	if err != nil {
		return b
	}
	b = append(b[:len(b)-len("}}")], `,"details":`...)
	return append(append(b, details...), "}}"...)
}

// errorEvent is err as an event of a stream: the last one, as [DONE] never follows an error.
func errorEvent(err error) []byte {
	b := append([]byte("data: "), errorBody(err)...)
	return append(b, "\n\n"...)
}

// fail answers with err. The cause goes to the log line, never to the client.
func (x *request) fail(err error) {
	f := fault.From(err)
	a := answerFor(f)
	x.line.fault = f
	rc := x.rc
	rc.Response.ResetBody()
	rc.SetStatusCode(a.status)
	rc.SetContentType("application/json")
	rc.SetBody(errorBody(f))
	h := &rc.Response.Header
	switch f.Kind {
	case fault.Unauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="threadhub"`)
	case fault.Unavailable, fault.RateLimited, fault.Upstream, fault.Timeout: // it may pass, but not at once
		if f.Final {
			break
		}
		setRetry(rc, max(f.Retry, time.Second))
	default:
		setRetry(rc, f.Retry)
	}
	if f.Final {
		h.Set("X-Should-Retry", "false")
	}
}

// setRetry says when to come back: in whole seconds, rounded up, and for the SDKs that know it in milliseconds.
func setRetry(rc *fasthttp.RequestCtx, d time.Duration) {
	if d <= 0 {
		return
	}
	rc.Response.Header.Set("Retry-After", strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10))
	rc.Response.Header.Set("Retry-After-Ms", strconv.FormatInt(max(1, d.Milliseconds()), 10))
}

// cause is what the log line says about a failure, and whether its reason is not the client's: the error's text,
// shortened, with whatever looks like a key cut out. Where the message may be the provider's, which may quote the prompt,
// only what lies below it is told; for the client's own failures the code tells enough.
func cause(f *fault.Error) (text string, ours bool) {
	switch f.Kind {
	case fault.Internal, fault.Unavailable:
		return scrub(f.Error()), true
	case fault.Upstream, fault.Timeout:
		if below := f.Unwrap(); below != nil {
			text = scrub(below.Error())
		}
		return text, true
	default:
		return "", false
	}
}

const maxCause = 512 // bytes of an error's text in the log

// keyPrefixes begin the keys of this gateway and of the providers.
var keyPrefixes = []string{"th_", "sk-", "pplx-", "AIza", "Bearer "}

// scrub shortens s and replaces what looks like a key: a word that begins with a known prefix and has eight or more bytes
// of key after it.
func scrub(s string) string {
	for _, prefix := range keyPrefixes {
		for from := 0; ; {
			i := strings.Index(s[from:], prefix)
			if i < 0 {
				break
			}
			start := from + i + len(prefix)
			model := prefix == "pplx-" && strings.HasPrefix(s[start:], "embed-v")
			if at := from + i; model || at > 0 && wordByte(s[at-1]) { // no keys: pplx-embed-v1-4b, a desk-assistant
				from = start
				continue
			}
			end := start
			for end < len(s) && keyByte(s[end]) {
				end++
			}
			if from = start; end-start >= 8 {
				s = s[:start] + "****" + s[end:]
				from = start + 4
			}
		}
	}
	if len(s) > maxCause {
		s = strings.ToValidUTF8(s[:maxCause], "") + "…"
	}
	return s
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func keyByte(c byte) bool {
	return wordByte(c) || c == '-' || c == '_' || c == '.' || c == '~' || c == '+' || c == '/'
}
