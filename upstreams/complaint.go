package upstreams

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// complaint is what a provider says is wrong, in any of the shapes in use.
type complaint struct {
	message   string
	code      string        // a word; numbers go to status
	reason    string        // OpenRouter's error_type, the same over all its vendors
	kind      string        // OpenAI's type
	param     string        //
	status    int           // the HTTP status it would have, 0 if it does not tell
	wait      time.Duration // how long to leave the provider alone
	moderated bool          // the content is what was refused, not the key
	rejected  bool          // the key is what was refused, whatever the status
	placed    bool          // the place the request came from is, whatever the status and the key
}

var errorMember = []byte(`"error"`)

// embedded finds the error in an answer with a good status: a top-level member, or a choice that ended in one. A chunk
// that holds neither costs one search for the word: in JSON text it is always escaped where it is quoted.
func embedded(body []byte) (said complaint, ok bool) {
	if !bytes.Contains(body, errorMember) {
		return said, false
	}
	body = unlisted(body)
	var answer struct {
		Error   json.RawMessage `json:"error"`
		Choices []struct {
			Error        json.RawMessage `json:"error"`
			FinishReason any             `json:"finish_reason"`
		} `json:"choices"`
	}
	if json.Unmarshal(body, &answer) != nil {
		// Not of that shape, or not JSON: its top level may still say.
		var top map[string]json.RawMessage
		if json.Unmarshal(body, &top) != nil {
			return said, false
		}
		answer.Error = top["error"]
	}
	found := answer.Error
	for _, choice := range answer.Choices {
		if !isNull(found) {
			break
		}
		if found = choice.Error; isNull(found) && choice.FinishReason == "error" {
			return complaint{}, true
		}
	}
	if isNull(found) {
		return said, false
	}
	return parseError(found), true
}

// unlisted is the first element of an array, into which Google's compatible endpoint puts its errors; anything else is
// itself.
func unlisted(body []byte) []byte {
	var list []json.RawMessage
	if text := bytes.TrimLeft(body, " \t\r\n"); len(text) == 0 || text[0] != '[' || json.Unmarshal(text, &list) != nil || len(list) == 0 {
		return body
	}
	return list[0]
}

func isNull(v json.RawMessage) bool { return len(v) == 0 || string(v) == "null" }

// parseComplaint reads an error's body. What is not JSON says nothing.
func parseComplaint(body []byte) complaint {
	body = unlisted(body)
	var top struct {
		Error  json.RawMessage `json:"error"`
		Detail json.RawMessage `json:"detail"`
	}
	if json.Unmarshal(body, &top) == nil {
		if !isNull(top.Error) {
			return parseError(top.Error)
		}
		if !isNull(top.Detail) {
			return parseDetail(top.Detail)
		}
	}
	return parseError(body)
}

// parseDetail reads what FastAPI puts in the place of an error (Perplexity): a text, or a list of what is wrong and where.
// The first of the list is told.
func parseDetail(data []byte) (said complaint) {
	var list []struct {
		Loc []any  `json:"loc"`
		Msg string `json:"msg"`
	}
	if json.Unmarshal(data, &list) != nil || len(list) == 0 {
		return parseError(data)
	}
	said.message = list[0].Msg
	for _, at := range list[0].Loc {
		switch at := at.(type) {
		case float64:
			said.param += "[" + strconv.Itoa(int(at)) + "]"
		case string:
			if at != "body" {
				said.param = strings.TrimPrefix(said.param+"."+at, ".")
			}
		}
	}
	return said
}

// parseError reads the error itself: a text, or an object whose members may be of any type.
func parseError(data []byte) (said complaint) {
	var text string
	if json.Unmarshal(data, &text) == nil {
		said.message = text
		return said
	}
	var e map[string]any
	if json.Unmarshal(data, &e) != nil {
		return said
	}
	metadata, _ := e["metadata"].(map[string]any)
	availability, _ := e["availability"].(map[string]any)
	said.message = word(e["message"])
	said.kind = word(e["type"])
	said.param = word(e["param"])
	said.reason = word(e["error_type"])
	if said.reason == "" {
		said.reason = word(metadata["error_type"])
	}
	said.code = word(e["code"])
	said.placed = said.code == "unsupported_country_region_territory"
	for _, v := range []any{e["code"], e["http_status"]} {
		if n, ok := status(v); ok {
			said.status = n
		}
	}
	if _, err := strconv.Atoi(said.code); err == nil {
		said.code = ""
	}
	said.moderated = metadata["reasons"] != nil || metadata["flagged_input"] != nil || metadata["patterns"] != nil
	if s, ok := availability["retry_after"].(float64); ok {
		said.wait = patience(s)
	}
	if headers, ok := metadata["headers"].(map[string]any); ok {
		said.wait = max(said.wait, headersWait(headers))
	}
	if raw := word(metadata["raw"]); raw != "" {
		said.vendor(raw, word(metadata["provider_name"]))
	}
	if canonical := word(e["status"]); canonical != "" {
		details, _ := e["details"].([]any)
		said.google(canonical, details)
	}
	return said
}

// vendor adds what the vendor behind an aggregator said, which its own message does not repeat: its words, and how long it
// wants to be left alone.
func (said *complaint) vendor(raw, name string) {
	inner := parseComplaintText(raw)
	said.wait = max(said.wait, inner.wait)
	text := inner.message
	if text == "" {
		return
	}
	if name != "" {
		text = name + ": " + text
	}
	said.message = strings.TrimSpace(said.message + " (" + text + ")")
}

func parseComplaintText(raw string) complaint {
	trimmed := strings.TrimSpace(raw)
	switch {
	case strings.HasPrefix(trimmed, "<"): // a page for people
		return complaint{}
	case strings.HasPrefix(trimmed, "{"), strings.HasPrefix(trimmed, "[") && json.Valid([]byte(trimmed)):
		return parseComplaint([]byte(trimmed))
	}
	return complaint{message: trimmed}
}

func headersWait(headers map[string]any) time.Duration {
	h := http.Header{}
	for name, v := range headers {
		if v := word(v); v != "" {
			h.Set(name, v)
		}
	}
	return retryAfter(h, time.Now())
}

// word returns v if it is a text.
func word(v any) string {
	s, _ := v.(string)
	return s
}

// status reads a number, or a text of digits, that is the status of an error.
func status(v any) (int, bool) {
	var n int
	switch v := v.(type) {
	case float64:
		n = int(v)
	case string:
		n, _ = strconv.Atoi(v)
	}
	return n, n >= 400 && n <= 599
}
