package upstreamstest

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Wire is how a provider speaks that does not speak the dialect of OpenAI.
type Wire struct {
	Path, StreamPath string // where it is asked, below the base URL, with the query
	Authorization    string // the header its key goes into
	Answer           func(text string) string
	Delta            func(text string) string // the payload of an event that says text
	Last             string                   // the payload of the event that ends a stream
	Endless          bool                     // the event does not end it alone: the bytes must end as well
	Marks            []string                 // one of these is in each stream that has ended well
}

// over reports whether a stream may have ended well after these bytes.
func (w Wire) over(raw string) bool {
	for _, m := range w.Marks {
		if strings.Contains(raw, m) {
			return true
		}
	}
	return false
}

// openAI is the wire of those who speak its dialect.
var openAI = Wire{Path: "chat/completions", StreamPath: "chat/completions", Authorization: "Authorization", Answer: Answer, Delta: Delta, Last: "[DONE]", Marks: []string{"[DONE]"}}

// wire is how the subject's provider speaks.
func (s Subject) wire() Wire {
	if s.Wire == nil {
		return openAI
	}
	return *s.Wire
}

// credential is what stands in the header that the key goes into.
func (w Wire) credential() string {
	if w.Authorization == "Authorization" {
		return "Bearer " + Key
	}
	return Key
}

func (s Subject) answer(text string) string { return s.wire().Answer(text) }
func (s Subject) delta(text string) string  { return s.wire().Delta(text) }
func (s Subject) done() string              { return Data(s.wire().Last) }

// heard reports whether payloads say these texts, one each, and nothing else. What a provider said in OpenAI's dialect
// must be the same to the byte.
func (s Subject) heard(payloads []string, texts ...string) bool {
	var got []string
	for _, p := range payloads {
		if t := textOf(p); t != "" {
			got = append(got, t)
			if s.Wire == nil && p != Delta(t) {
				return false
			}
		}
	}
	return strings.Join(got, "\x00") == strings.Join(texts, "\x00") && (s.Wire != nil || len(payloads) == len(texts))
}

// textOf is the text in a chunk of the OpenAI dialect; "" if it has none.
func textOf(chunk string) (text string) {
	var c struct {
		Choices []struct{ Delta struct{ Content string } }
	}
	if json.Unmarshal([]byte(chunk), &c) == nil {
		for _, choice := range c.Choices {
			text += choice.Delta.Content
		}
	}
	return text
}

// answered reports whether body, which a client is given for raw, says text.
func (s Subject) answered(body []byte, raw, text string) bool {
	if s.Wire == nil {
		return string(body) == raw
	}
	var a struct {
		Choices []struct{ Message struct{ Content string } }
	}
	return json.Unmarshal(body, &a) == nil && len(a.Choices) == 1 && a.Choices[0].Message.Content == text
}

// Pieces of raw answers.
const (
	Done = "data: [DONE]\n\n"

	// EventStream is the head of a stream that ends with its connection.
	EventStream = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n"

	// Chunked is the head of a stream in chunks, as providers send them; its end is LastChunk.
	Chunked   = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	LastChunk = "0\r\n\r\n"
)

// Chunk is text as one chunk of HTTP.
func Chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// Delta is a chunk of the OpenAI dialect that says text.
func Delta(text string) string {
	return `{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":` +
		strconv.Quote(text) + `},"finish_reason":null}]}`
}

// Data is payload as an event.
func Data(payload string) string { return "data: " + payload + "\n\n" }

// Answer is a whole answer of the OpenAI dialect that says text.
func Answer(text string) string {
	return `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":` +
		strconv.Quote(text) + `},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}`
}

// Reply is a raw answer with a Content-Length. Headers are whole lines without their ends.
func Reply(status, body string, headers ...string) string {
	var b strings.Builder
	b.WriteString("HTTP/1.1 " + status + "\r\n")
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	return b.String()
}

// JSON is the header of the usual type.
const JSON = "Content-Type: application/json"
