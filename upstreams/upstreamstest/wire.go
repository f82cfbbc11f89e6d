package upstreamstest

import (
	"fmt"
	"strconv"
	"strings"
)

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
