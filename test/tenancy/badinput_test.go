package tenancy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"threadhub/internal/id"
	"threadhub/test/rig"
)

// bad is a request that must be refused. It is sent by the member, or by the admin where the route is his.
type bad struct {
	name   string
	method string // "": POST
	path   string // "": chat completions
	body   string
	header []string
	raw    string // the whole request instead, its %s the member's key

	status int
	code   string
	param  string // "": null
	allow  string // the header
}

const good = `"messages":[{"role":"user","content":"hi"}]`

// chat is a body with more members, in front of the messages.
func chat(members string) string { return `{"model":"openai/sim-1",` + members + `,` + good + `}` }

// say is a body with these messages.
func say(messages string) string { return `{"model":"openai/sim-1","messages":` + messages + `}` }

func model(name string) string { return `{"model":` + name + `,` + good + `}` }

// badInput is what the world's first org, which has a key for openai only, must not get through.
func badInput(o *tenant) []bad {
	fine := chatBody("openai/sim-1", "hi")
	rows := []bad{
		{name: "no body", body: "", status: 400, code: "invalid_json"},
		{name: "cut JSON", body: fine[:len(fine)-9], status: 400, code: "invalid_json"},
		{name: "not JSON", body: "model=openai/sim-1", status: 400, code: "invalid_json"},
		{name: "trailing data", body: fine + "x", status: 400, code: "invalid_json"},
		{name: "two bodies", body: fine + fine, status: 400, code: "invalid_json"},
		{name: "trailing comma", body: `{"model":"openai/sim-1",` + good + `,}`, status: 400, code: "invalid_json"},
		{name: "byte order mark", body: "\ufeff" + fine, status: 400, code: "invalid_json"},
		{name: "bytes that are not UTF-8", body: say(`[{"role":"user","content":"` + "\xff" + `"}]`), status: 400, code: "invalid_json"},
		{name: "surrogates in UTF-8", body: say(`[{"role":"user","content":"` + "\xed\xa0\x80" + `"}]`), status: 400, code: "invalid_json"},
		{name: "a control character", body: say("[{\"role\":\"user\",\"content\":\"a\nb\"}]"), status: 400, code: "invalid_json"},
		{name: "a bare NUL", body: say("[{\"role\":\"user\",\"content\":\"a\x00b\"}]"), status: 400, code: "invalid_json"},
		{name: "NaN", body: chat(`"temperature":NaN`), status: 400, code: "invalid_json"},
		{name: "a number with a leading zero", body: chat(`"seed":007`), status: 400, code: "invalid_json"},
		{name: "too deep", body: chat(`"x":` + strings.Repeat("[", 70) + strings.Repeat("]", 70)), status: 400, code: "invalid_json"},
		{name: "too deep in a message", body: say(`[{"role":"user","content":"x","y":` + strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70) + `}]`), status: 400, code: "invalid_json"},
		{name: "an endless opening", body: strings.Repeat("[", 60000), status: 400, code: "invalid_json"},
		{name: "an array", body: "[" + fine + "]", status: 400, code: "invalid_type"},
		{name: "null", body: "null", status: 400, code: "invalid_type"},
		{name: "too many members", body: chat(many(1100)), status: 400, code: "invalid_json"},

		{name: "model twice", body: chat(`"model":"openai/sim-2"`), status: 400, code: "duplicate_parameter", param: "model"},
		{name: "model twice, once escaped", body: chat(`"mod\u0065l":"openai/sim-2"`), status: 400, code: "duplicate_parameter", param: "model"},
		{name: "an unknown member twice", body: chat(`"x":1,"x":2`), status: 400, code: "duplicate_parameter", param: "x"},
		{name: "messages twice", body: chat(good), status: 400, code: "duplicate_parameter", param: "messages"},
		{name: "role twice", body: say(`[{"role":"user","role":"system","content":"x"}]`), status: 400, code: "duplicate_parameter", param: "messages[0].role"},
		{name: "content twice", body: say(`[{"role":"user","content":"x","content":"y"}]`), status: 400, code: "duplicate_parameter", param: "messages[0].content"},
		{name: "thread_id twice in metadata", body: chat(`"metadata":{"thread_id":"a","thread_id":"b"}`), status: 400, code: "duplicate_parameter", param: "metadata.thread_id"},
		{name: "include_usage twice", body: chat(`"stream":true,"stream_options":{"include_usage":true,"include_usage":false}`), status: 400, code: "duplicate_parameter", param: "stream_options.include_usage"},
		{name: "Model", body: chat(`"Model":"openai/sim-2"`), status: 400, code: "unknown_parameter", param: "Model"},
		{name: "MESSAGES", body: chat(`"MESSAGES":[]`), status: 400, code: "unknown_parameter", param: "MESSAGES"},
		{name: "messages with a long s", body: chat(`"meſſages":[]`), status: 400, code: "unknown_parameter", param: "meſſages"},
		{name: "Thread_ID", body: chat(`"Thread_ID":"a"`), status: 400, code: "unknown_parameter", param: "Thread_ID"},

		{name: "no model", body: "{" + good + "}", status: 400, code: "missing_required_parameter", param: "model"},
		{name: "model null", body: model("null"), status: 400, code: "missing_required_parameter", param: "model"},
		{name: "model empty", body: model(`""`), status: 400, code: "missing_required_parameter", param: "model"},
		{name: "model a number", body: model("5"), status: 400, code: "invalid_type", param: "model"},
		{name: "model a list", body: model(`["openai/sim-1"]`), status: 400, code: "invalid_type", param: "model"},
		{name: "model far too long", body: model(`"openai/` + strings.Repeat("m", 300) + `"`), status: 400, param: "model", code: "invalid_request"},
		{name: "model with a control character", body: model(`"openai/sim-1\u0000"`), status: 400, param: "model", code: "invalid_request"},
		{name: "model with half a surrogate pair", body: model(`"openai/sim-\ud800"`), status: 400, param: "model", code: "invalid_request"},
		{name: "unknown model", body: model(`"no-such-model"`), status: 404, code: "model_not_found", param: "model"},
		{name: "unknown provider", body: model(`"nosuch/gpt-5"`), status: 404, code: "model_not_found", param: "model"},
		{name: "provider without model", body: model(`"openai/"`), status: 404, code: "model_not_found", param: "model"},
		{name: "provider without a key", body: model(`"openrouter/sim-1"`), status: 400, code: "provider_key_missing", param: "model"},
		{name: "listed model without a key", body: model(`"claude-sonnet-5.5"`), status: 400, code: "provider_key_missing", param: "model"},

		{name: "no messages", body: `{"model":"openai/sim-1"}`, status: 400, code: "missing_required_parameter", param: "messages"},
		{name: "messages null", body: say("null"), status: 400, code: "missing_required_parameter", param: "messages"},
		{name: "messages empty", body: say("[]"), status: 400, code: "empty_array", param: "messages"},
		{name: "messages a string", body: say(`"hi"`), status: 400, code: "invalid_type", param: "messages"},
		{name: "messages an object", body: say(`{"role":"user","content":"x"}`), status: 400, code: "invalid_type", param: "messages"},
		{name: "a message a string", body: say(`["hi"]`), status: 400, code: "invalid_type", param: "messages[0]"},
		{name: "no role", body: say(`[{"content":"x"}]`), status: 400, code: "missing_required_parameter", param: "messages[0].role"},
		{name: "role a number", body: say(`[{"role":1,"content":"x"}]`), status: 400, code: "invalid_type", param: "messages[0].role"},
		{name: "role unknown", body: say(`[{"role":"user","content":"x"},{"role":"root","content":"x"}]`), status: 400, code: "invalid_value", param: "messages[1].role"},
		{name: "content a number", body: say(`[{"role":"user","content":1}]`), status: 400, code: "invalid_type", param: "messages[0].content"},
		{name: "content an object", body: say(`[{"role":"user","content":{}}]`), status: 400, code: "invalid_type", param: "messages[0].content"},

		{name: "stream a string", body: chat(`"stream":"yes"`), status: 400, code: "invalid_type", param: "stream"},
		{name: "stream a number", body: chat(`"stream":1`), status: 400, code: "invalid_type", param: "stream"},
		{name: "stream_options a list", body: chat(`"stream":true,"stream_options":[]`), status: 400, code: "invalid_type", param: "stream_options"},
		{name: "stream_options without stream", body: chat(`"stream_options":{}`), status: 400, code: "invalid_value", param: "stream_options"},
		{name: "include_usage a number", body: chat(`"stream":true,"stream_options":{"include_usage":1}`), status: 400, code: "invalid_type", param: "stream_options.include_usage"},
		{name: "n a string", body: chat(`"n":"2"`), status: 400, code: "invalid_type", param: "n"},
		{name: "n zero", body: chat(`"n":0`), status: 400, code: "invalid_value", param: "n"},
		{name: "n negative", body: chat(`"n":-1`), status: 400, code: "invalid_value", param: "n"},
		{name: "n too many", body: chat(`"n":129`), status: 400, code: "invalid_value", param: "n"},
		{name: "n a fraction", body: chat(`"n":1.5`), status: 400, code: "invalid_type", param: "n"},
		{name: "n beyond numbers", body: chat(`"n":1e400`), status: 400, code: "invalid_type", param: "n"},
		{name: "max_tokens a string", body: chat(`"max_tokens":"5"`), status: 400, code: "invalid_type", param: "max_tokens"},
		{name: "max_tokens zero", body: chat(`"max_tokens":0`), status: 400, code: "invalid_value", param: "max_tokens"},
		{name: "max_tokens huge", body: chat(`"max_tokens":99999999999`), status: 400, code: "invalid_value", param: "max_tokens"},
		{name: "max_completion_tokens beyond integers", body: chat(`"max_completion_tokens":99999999999999999999`), status: 400, code: "invalid_type", param: "max_completion_tokens"},
		{name: "metadata a string", body: chat(`"metadata":"x"`), status: 400, code: "invalid_type", param: "metadata"},

		{name: "thread_id a number", body: chat(`"thread_id":7`), status: 400, code: "invalid_type", param: "thread_id"},
		{name: "thread_id of bad bytes", body: chat(`"thread_id":"a/b"`), status: 400, code: "invalid_value", param: "thread_id"},
		{name: "thread_id ..", body: chat(`"thread_id":".."`), status: 400, code: "invalid_value", param: "thread_id"},
		{name: "thread_id with a NUL", body: chat(`"thread_id":"a\u0000"`), status: 400, code: "invalid_value", param: "thread_id"},
		{name: "metadata.thread_id too long", body: chat(`"metadata":{"thread_id":"` + strings.Repeat("t", 129) + `"}`), status: 400, code: "invalid_value", param: "metadata.thread_id"},
		{name: "two threads in the body", body: chat(`"thread_id":"a","metadata":{"thread_id":"b"}`), status: 400, code: "invalid_value", param: "thread_id"},
		{name: "two threads, header and body", body: chat(`"thread_id":"a"`), header: []string{"X-Thread-Id", "b"}, status: 400, code: "thread_id_conflict", param: "thread_id"},
		{name: "thread header of bad bytes", body: fine, header: []string{"X-Thread-Id", "a b"}, status: 400, code: "invalid_thread_id", param: "X-Thread-Id"},
		{name: "thread header too long", body: fine, header: []string{"X-Thread-Id", strings.Repeat("t", 129)}, status: 400, code: "invalid_thread_id", param: "X-Thread-Id"},
		{name: "somebody's private thread", body: fine, header: []string{"X-Thread-Id", o.private}, status: 404, code: "thread_not_found"},
		{name: "somebody's private thread, by the body", body: chat(`"thread_id":"` + o.private + `"`), status: 404, code: "thread_not_found"},

		{name: "announced too large", body: say(`[{"role":"user","content":"` + strings.Repeat("x", 70000) + `"}]`), status: 413, code: "request_too_large"},
		{name: "chunked and too large", raw: chunked(70000), status: 413, code: "request_too_large"},
		{name: "gzip", body: fine, header: []string{"Content-Encoding", "gzip"}, status: 415, code: "unsupported_content_encoding", param: "Content-Encoding"},
		{name: "a form", body: "model=x", header: []string{"Content-Type", "application/x-www-form-urlencoded"}, status: 415, code: "unsupported_media_type", param: "Content-Type"},
		{name: "multipart", body: fine, header: []string{"Content-Type", "multipart/form-data; boundary=b"}, status: 415, code: "unsupported_media_type", param: "Content-Type"},
		{name: "text", body: fine, header: []string{"Content-Type", "text/plain"}, status: 415, code: "unsupported_media_type", param: "Content-Type"},
		{name: "idempotency key of 256", body: fine, header: []string{"Idempotency-Key", strings.Repeat("k", 256)}, status: 400, code: "invalid_idempotency_key", param: "Idempotency-Key"},
		{name: "idempotency key of nothing", body: fine, header: []string{"Idempotency-Key", ""}, status: 400, code: "invalid_idempotency_key", param: "Idempotency-Key"},
		{name: "idempotency key on a thread", path: "/api/threads", body: `{}`, header: []string{"Idempotency-Key", "\u00e9"}, status: 400, code: "invalid_idempotency_key", param: "Idempotency-Key"},
		{name: "idempotency key where none is known", path: "/api/orgs", body: `{}`, header: []string{"Idempotency-Key", "abc"}, status: 400, code: "not_supported", param: "Idempotency-Key"},

		{name: "key of bad bytes", raw: rawChat("Authorization: Bearer th_\x80\x81"), status: 400, code: "malformed_api_key"},
		{name: "control byte in a header", raw: rawChat("Authorization: Bearer %s\r\nX-Thread-Id: a\x01b"), status: 400, code: "malformed_request"},
		{name: "space in a header's name", raw: rawChat("Authorization: Bearer %s\r\nX Thread: a"), status: 400, code: "malformed_request"},
		{name: "bare LF", raw: rawChat("Authorization: Bearer %s\nX-Thread-Id: a"), status: 400, code: "malformed_request"},
		{name: "two lengths", raw: rawChat("Authorization: Bearer %s\r\nContent-Length: 5"), status: 400, code: "malformed_request"},
		{name: "length and chunks", raw: rawChat("Authorization: Bearer %s\r\nTransfer-Encoding: chunked"), status: 400, code: "malformed_request"},
		{name: "two hosts", raw: rawChat("Authorization: Bearer %s\r\nHost: elsewhere"), status: 400, code: "malformed_request"},

		{name: "embeddings: no body", path: "/v1/embeddings", status: 400, code: "invalid_json"},
		{name: "embeddings: cut JSON", path: "/v1/embeddings", body: `{"model":"openai/sim-1","input":"x"`, status: 400, code: "invalid_json"},
		{name: "embeddings: a list", path: "/v1/embeddings", body: `[]`, status: 400, code: "invalid_type"},
		{name: "embeddings: bytes that are not UTF-8", path: "/v1/embeddings", body: `{"model":"openai/sim-1","input":"` + "\xff" + `"}`, status: 400, code: "invalid_json"},
		{name: "embeddings: input twice", path: "/v1/embeddings", body: `{"model":"openai/sim-1","input":"x","input":"y"}`, status: 400, code: "duplicate_parameter", param: "input"},
		{name: "embeddings: Input", path: "/v1/embeddings", body: `{"model":"openai/sim-1","input":"x","Input":"y"}`, status: 400, code: "unknown_parameter", param: "Input"},
		{name: "embeddings: no input", path: "/v1/embeddings", body: `{"model":"openai/sim-1"}`, status: 400, code: "missing_required_parameter", param: "input"},
		{name: "embeddings: an empty text", path: "/v1/embeddings", body: `{"model":"openai/sim-1","input":["x",""]}`, status: 400, code: "invalid_value", param: "input[1]"},
		{name: "embeddings: too many", path: "/v1/embeddings", body: `{"model":"openai/sim-1","input":[` + strings.Repeat(`"x",`, 2048) + `"x"]}`, status: 400, code: "array_above_max_length", param: "input"},
		{name: "embeddings: model with a control character", path: "/v1/embeddings", body: `{"model":"openai/sim-1\u0000","input":"x"}`, status: 400, code: "invalid_request", param: "model"},
		{name: "embeddings: a choice", path: "/v1/embeddings", body: `{"model":"auto","input":"x"}`, status: 400, code: "invalid_value", param: "model"},
		{name: "embeddings: provider without a key", path: "/v1/embeddings", body: `{"model":"openrouter/sim-1","input":"x"}`, status: 400, code: "provider_key_missing", param: "model"},
		{name: "embeddings: dimensions a string", path: "/v1/embeddings", body: `{"model":"openai/sim-1","input":"x","dimensions":"4"}`, status: 400, code: "invalid_type", param: "dimensions"},
		{name: "embeddings: idempotency key", path: "/v1/embeddings", body: `{"model":"openai/sim-1","input":"x"}`, header: []string{"Idempotency-Key", ""}, status: 400, code: "invalid_idempotency_key", param: "Idempotency-Key"},

		{name: "thread: cut JSON", path: "/api/threads", body: `{"title":`, status: 400, code: "invalid_json"},
		{name: "thread: a list", path: "/api/threads", body: `[]`, status: 400, code: "invalid_json"},
		{name: "thread: unknown member", path: "/api/threads", body: `{"user_id":"usr_1"}`, status: 400, code: "unknown_parameter", param: "user_id"},
		{name: "thread: member in another case", path: "/api/threads", body: `{"Title":"x"}`, status: 400, code: "unknown_parameter", param: "Title"},
		{name: "thread: title twice", path: "/api/threads", body: `{"title":"x","title":"y"}`, status: 400, code: "duplicate_parameter", param: "title"},
		{name: "thread: title a number", path: "/api/threads", body: `{"title":1}`, status: 400, code: "invalid_type", param: "title"},
		{name: "thread: title with a NUL", path: "/api/threads", body: `{"title":"a\u0000"}`, status: 400, code: "invalid_value", param: "title"},
		{name: "thread: title too long", path: "/api/threads", body: `{"title":"` + strings.Repeat("t", 600) + `"}`, status: 400, code: "invalid_request", param: "title"},
		{name: "thread: for nobody to see", path: "/api/threads", body: `{"visibility":"public"}`, status: 400, code: "invalid_request", param: "visibility"},
		{name: "thread: org a number", path: "/api/threads", body: `{"org_id":1}`, status: 400, code: "invalid_type", param: "org_id"},
		{name: "threads: cursor", method: "GET", path: "/api/threads?cursor=abc", status: 400, code: "invalid_request", param: "cursor"},
		{name: "threads: no limit", method: "GET", path: "/api/threads?limit=0", status: 400, code: "invalid_request", param: "limit"},
		{name: "threads: limit too high", method: "GET", path: "/api/threads?limit=101", status: 400, code: "invalid_request", param: "limit"},
		{name: "threads: no words", method: "GET", path: "/api/threads?q=", status: 400, code: "invalid_request", param: "q"},
		{name: "threads: nothing but signs", method: "GET", path: "/api/threads?q=%27%22%5C%3A%2A%26%7C%21%00", status: 400, code: "invalid_request", param: "q"},
		{name: "threads: too many words", method: "GET", path: "/api/threads?q=a+b+c+d+e+f+g+h+i+j+k+l+m+n+o+p+q", status: 400, code: "invalid_request", param: "q"},
		{name: "threads: limit a word", method: "GET", path: "/api/threads?limit=many", status: 400, code: "invalid_request", param: "limit"},
		{name: "change: cut JSON", method: "PATCH", path: "/api/threads/" + o.shared, body: `{"title":`, status: 400, code: "invalid_json"},
		{name: "change: unknown member", method: "PATCH", path: "/api/threads/" + o.shared, body: `{"user_id":"usr_1"}`, status: 400, code: "unknown_parameter", param: "user_id"},
		{name: "change: title twice", method: "PATCH", path: "/api/threads/" + o.shared, body: `{"title":"x","title":"y"}`, status: 400, code: "duplicate_parameter", param: "title"},
		{name: "change: title a number", method: "PATCH", path: "/api/threads/" + o.shared, body: `{"title":1}`, status: 400, code: "invalid_type", param: "title"},
		{name: "change: title with a NUL", method: "PATCH", path: "/api/threads/" + o.shared, body: `{"title":"a\u0000"}`, status: 400, code: "invalid_value", param: "title"},
		{name: "change: title too long", method: "PATCH", path: "/api/threads/" + o.shared, body: `{"title":"` + strings.Repeat("t", 600) + `"}`, status: 400, code: "invalid_request", param: "title"},
		{name: "change: description too long", method: "PATCH", path: "/api/threads/" + o.shared, body: `{"description":"` + strings.Repeat("t", 9000) + `"}`, status: 400, code: "invalid_request", param: "description"},
		{name: "change: for nobody to see", method: "PATCH", path: "/api/threads/" + o.shared, body: `{"visibility":null}`, status: 400, code: "invalid_request", param: "visibility"},
		{name: "change: window policy", method: "PATCH", path: "/api/threads/" + o.shared, body: `{"window_policy":"shrink"}`, status: 400, code: "invalid_request", param: "window_policy"},
		{name: "change: window policy empty", method: "PATCH", path: "/api/threads/" + o.shared, body: `{"window_policy":""}`, status: 400, code: "invalid_request", param: "window_policy"},
		{name: "change: a colleague's visibility", method: "PATCH", path: "/api/threads/" + o.shared, body: `{"title":"x","visibility":"private"}`, status: 403, code: "permission_denied"},
		{name: "delete: a colleague's", method: "DELETE", path: "/api/threads/" + o.shared, status: 403, code: "permission_denied"},
		{name: "export: format", method: "GET", path: "/api/threads/" + o.shared + "/export?format=pdf", status: 400, code: "invalid_request", param: "format"},
		{name: "export: for another org", method: "GET", path: "/api/threads/" + o.shared + "/export?org_id=" + o.other.id, status: 404, code: "not_found"},
		{name: "read: no limit", method: "GET", path: "/api/threads/" + o.shared + "?limit=0", status: 400, code: "invalid_request", param: "limit"},
		{name: "read: limit too high", method: "GET", path: "/api/threads/" + o.shared + "?limit=1001", status: 400, code: "invalid_request", param: "limit"},
		{name: "read: after a word", method: "GET", path: "/api/threads/" + o.shared + "?after=x", status: 400, code: "invalid_request", param: "after"},
		{name: "read: before the beginning", method: "GET", path: "/api/threads/" + o.shared + "?after=-1", status: 400, code: "invalid_request", param: "after"},
		{name: "message: no content", path: "/api/threads/" + o.shared + "/messages", body: `{}`, status: 400, code: "invalid_request", param: "content"},
		{name: "message: content a number", path: "/api/threads/" + o.shared + "/messages", body: `{"content":1}`, status: 400, code: "invalid_request", param: "content"},
		{name: "message: a tool's", path: "/api/threads/" + o.shared + "/messages", body: `{"content":"x","role":"tool"}`, status: 400, code: "invalid_request", param: "role"},
		{name: "message: of another org", path: "/api/threads/" + o.shared + "/messages", body: `{"content":"x","org_id":"` + o.other.id + `"}`, status: 404, code: "not_found"},
		{name: "message: bytes that are not UTF-8", path: "/api/threads/" + o.shared + "/messages", body: `{"content":"` + "\xff" + `"}`, status: 400, code: "invalid_json"},
		{name: "read as another org", method: "GET", path: "/api/threads/" + o.shared + "?org_id=" + o.other.id, status: 404, code: "not_found"},
		{name: "provider key: none", method: "PUT", path: "/api/orgs/" + o.id + "/providers/openai", body: `{}`, status: 400, code: "invalid_api_key_value", param: "api_key"},
		{name: "provider key: a number", method: "PUT", path: "/api/orgs/" + o.id + "/providers/openai", body: `{"api_key":1}`, status: 400, code: "invalid_type", param: "api_key"},
		{name: "provider key: a line break", method: "PUT", path: "/api/orgs/" + o.id + "/providers/openai", body: `{"api_key":"a\r\nHost: x"}`, status: 400, code: "invalid_api_key_value", param: "api_key"},
		{name: "provider key: too long", method: "PUT", path: "/api/orgs/" + o.id + "/providers/openai", body: `{"api_key":"` + strings.Repeat("k", 5000) + `"}`, status: 400, code: "invalid_api_key_value", param: "api_key"},
		{name: "provider key: for another org in the body", method: "PUT", path: "/api/orgs/" + o.id + "/providers/openai", body: `{"api_key":"sk-good-enough","org_id":"` + o.other.id + `"}`, status: 404, code: "not_found"},
		{name: "provider key: a name of two words", method: "PUT", path: "/api/orgs/" + o.id + "/providers/openai", body: `{"api_key":"sk-good-enough","name":"a b"}`, status: 400, code: "invalid_key_name", param: "name"},
		{name: "provider key: a name that is a key", method: "PUT", path: "/api/orgs/" + o.id + "/providers/openai", body: `{"api_key":"sk-good-enough","name":"sk-good-enough"}`, status: 400, code: "invalid_key_name", param: "name"},
		{name: "provider key: a priority below 0", method: "PUT", path: "/api/orgs/" + o.id + "/providers/openai", body: `{"api_key":"sk-good-enough","priority":-1}`, status: 400, code: "invalid_priority", param: "priority"},
		{name: "provider key: a priority with a fraction", method: "PUT", path: "/api/orgs/" + o.id + "/providers/openai", body: `{"api_key":"sk-good-enough","priority":1.5}`, status: 400, code: "invalid_type", param: "priority"},
		{name: "provider key: a priority for none", method: "PUT", path: "/api/orgs/" + o.id + "/providers/openai", body: `{"name":"spare","priority":1}`, status: 404, code: "provider_key_missing"},
		{name: "provider key: none of that name", method: "DELETE", path: "/api/orgs/" + o.id + "/providers/openai?name=spare", status: 404, code: "provider_key_missing"},
		{name: "provider key: a name that is empty", method: "DELETE", path: "/api/orgs/" + o.id + "/providers/openai?name=", status: 400, code: "invalid_key_name", param: "name"},
		{name: "provider key: a parameter nobody knows", method: "DELETE", path: "/api/orgs/" + o.id + "/providers/openai?key_name=spare", status: 400, code: "unknown_parameter", param: "key_name"},
		{name: "key trial: no provider", method: "POST", path: "/api/orgs/" + o.id + "/providers/test", body: `{}`, status: 400, code: "provider_not_found", param: "provider"},
		{name: "key trial: of nobody we know", method: "POST", path: "/api/orgs/" + o.id + "/providers/test", body: `{"provider":"nosuch"}`, status: 400, code: "provider_not_found", param: "provider"},
		{name: "key trial: an address", method: "POST", path: "/api/orgs/" + o.id + "/providers/test", body: `{"provider":"openai","base_url":"http://127.0.0.1/"}`, status: 400, code: "unknown_parameter", param: "base_url"},
		{name: "key trial: an empty key", method: "POST", path: "/api/orgs/" + o.id + "/providers/test", body: `{"provider":"openai","api_key":""}`, status: 400, code: "invalid_api_key_value", param: "api_key"},
		{name: "key trial: a key that is not there", method: "POST", path: "/api/orgs/" + o.id + "/providers/test", body: `{"provider":"openai","name":"spare"}`, status: 404, code: "provider_key_missing"},
		{name: "key trial: for another org in the body", method: "POST", path: "/api/orgs/" + o.id + "/providers/test", body: `{"provider":"openai","org_id":"` + o.other.id + `"}`, status: 404, code: "not_found"},
		{name: "provider key: of nobody we know", method: "PUT", path: "/api/orgs/" + o.id + "/providers/nosuch", body: `{"api_key":"sk-good-enough"}`, status: 404, code: "not_found"},
	}
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		rows = append(rows, bad{name: method + " on chat", method: method, body: fine, status: 405, code: "method_not_allowed", allow: "POST"})
	}
	for _, method := range []string{"GET", "POST"} {
		rows = append(rows, bad{name: method + " on a provider", method: method, path: "/api/orgs/" + o.id + "/providers/openai", body: `{}`, status: 405, code: "method_not_allowed", allow: "PUT, DELETE"})
	}
	for _, later := range []string{
		"POST /v1/responses", "GET /v1/responses/resp_1", "POST /v1/conversations", "GET /v1/conversations/conv_1",
		"POST /v1/completions", "POST /v1/images/generations", "POST /v1/audio/speech", "POST /v1/moderations", "GET /v1/files",
		"GET /v1/requests/req_1/streams", "PATCH /api/threads/" + o.shared + "/title",
		"GET /api/usage", "GET /api/audit",
		"GET /metrics", "GET /debug/pprof/", "GET /health/ready", "GET /v1//models", "GET /v1/../v1/models", "GET /", "POST /chat/completions",
	} {
		method, path, _ := strings.Cut(later, " ")
		body := ""
		if method != "GET" {
			body = `{}`
		}
		rows = append(rows, bad{name: later, method: method, path: path, body: body, status: 404, code: "unknown_url"})
	}
	return rows
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `%s"x%d":0`, strings.Repeat(",", min(i, 1)), i)
	}
	return b.String()
}

// rawChat is a chat request with these header lines. Its body is a good one.
func rawChat(lines string) string {
	body := chatBody("openai/sim-1", "hi")
	return fmt.Sprint("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ", len(body), "\r\n",
		lines, "\r\nConnection: close\r\n\r\n", body)
}

// chunked announces a chunk of size bytes, and sends none of them.
func chunked(size int) string {
	return fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"+
		"Authorization: Bearer %%s\r\n\r\n%x\r\n", size)
}

func TestBadInputIsRefusedAndLeavesNothing(t *testing.T) {
	eachStore(t, func(t *testing.T, w *world) {
		o := w.orgs[0]
		before := w.books.read(t, id.Org(o.id))
		sent := w.asked()
		for _, b := range badInput(o) {
			r := w.sendBad(t, o, b)
			if r == nil {
				continue
			}
			if r.Status != b.status {
				t.Errorf("%s: status %d, want %d: %s", b.name, r.Status, b.status, r.Body)
				continue
			}
			told := errorObject(t, b.name, r)
			if param, _ := told.Param.(string); told.Code != b.code || param != b.param {
				t.Errorf("%s: code %q and param %q, want %q and %q: %s", b.name, told.Code, param, b.code, b.param, r.Body)
			}
			if allow := r.Header.Get("Allow"); allow != b.allow {
				t.Errorf("%s: Allow is %q, want %q", b.name, allow, b.allow)
			}
			if after := w.books.read(t, id.Org(o.id)); before.changes(after) != "" {
				t.Errorf("%s: left\n%s", b.name, before.changes(after))
				before = after
			}
			if n := w.asked(); n != sent {
				t.Errorf("%s: asked the provider %d times", b.name, n-sent)
				sent = n
			}
		}
		// The same request without a fault leaves something: the comparison can see.
		w.Must(t, 200, "POST", "/v1/chat/completions", o.keys["member"], chatBody("openai/sim-1", "hi"))
		if before.changes(w.books.read(t, id.Org(o.id))) == "" || w.asked() == sent {
			t.Error("a good request left nothing either")
		}
	})
}

func (w *world) sendBad(t *testing.T, o *tenant, b bad) *rig.Reply {
	t.Helper()
	method, path, key := b.method, b.path, o.keys["member"]
	if method == "" {
		method = "POST"
	}
	if path == "" {
		path = "/v1/chat/completions"
	}
	if strings.Contains(path, "/providers/") {
		key = o.keys["admin"]
	}
	var r *rig.Reply
	var err error
	switch {
	case strings.Contains(b.raw, "%s"):
		r, err = w.Raw(method, fmt.Sprintf(b.raw, key))
	case b.raw != "":
		r, err = w.Raw(method, b.raw)
	default:
		r, err = w.Do(t.Context(), method, path, key, b.body, b.header...)
	}
	if err != nil {
		t.Errorf("%s: %v", b.name, err)
		return nil
	}
	return r
}

// told is an OpenAI error object.
type told struct {
	Message, Type, Code string
	Param               any
}

// errorObject reads the error object of an answer, all of whose members must be there.
func errorObject(t *testing.T, what string, r *rig.Reply) told {
	t.Helper()
	var body map[string]map[string]any
	if err := json.Unmarshal(r.Body, &body); err != nil {
		t.Errorf("%s: %d is no error object: %s", what, r.Status, r.Body)
		return told{}
	}
	e := body["error"]
	if diff := cmp.Diff(map[string]bool{"message": true, "type": true, "param": true, "code": true}, keysOf(e)); diff != "" || len(body) != 1 {
		t.Errorf("%s: the members of the error (-want +got):\n%s", what, diff)
	}
	out := told{Param: e["param"]}
	out.Message, _ = e["message"].(string)
	out.Type, _ = e["type"].(string)
	out.Code, _ = e["code"].(string)
	if _, text := e["param"].(string); !text && e["param"] != nil || out.Message == "" || out.Type == "" || out.Code == "" {
		t.Errorf("%s: an error that does not tell: %s", what, r.Body)
	}
	if got := r.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("%s: the error's type is %q", what, got)
	}
	if !strings.HasPrefix(r.Header.Get("X-Request-Id"), "req_") {
		t.Errorf("%s: the request's id is %q", what, r.Header.Get("X-Request-Id"))
	}
	return out
}
