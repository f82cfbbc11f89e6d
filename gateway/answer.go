package gateway

import (
	"net/http"
	"strconv"
	"strings"

	"threadhub/internal/seedbug"
)

// answerHeaders tells what is known when the answer begins.
func (g *Gateway) answerHeaders(x *request, e *exchange) {
	g.openedHeaders(x, e)
	x.upstreamHeaders(e.answer.Header)
}

// upstreamHeaders passes on what the provider's answer, or its refusal, says of itself: its request id, its rate limits.
func (x *request) upstreamHeaders(header http.Header) {
	for name, values := range header {
		if len(values) > 0 {
			x.rc.Response.Header.Set("X-Upstream-"+http.CanonicalHeaderKey(name), values[0])
		}
	}
}

// openedHeaders tells what is known when the call is open, also of one that then fails: its input is in the thread, and a
// client that asked for a new one learns its name.
func (g *Gateway) openedHeaders(x *request, e *exchange) {
	h := &x.rc.Response.Header
	if seedbug.On("key-in-header") {
		h.Set("X-Upstream-Authorization", e.key.Reveal())
	}
	h.Set("X-Threadhub-Provider", e.target.Provider)
	h.Set("X-Threadhub-Model", e.target.Model)
	h.Set("X-Threadhub-Route", e.route.ID)
	h.Set("X-Threadhub-Attempts", strconv.Itoa(e.n()+1))
	if warnings := e.warnings(); len(warnings) > 0 {
		h.Set("X-Threadhub-Warning", strings.Join(warnings, ", "))
	}
	if e.turn != nil {
		h.Set("X-Thread-Id", string(e.thread))
		h.Set("X-Threadhub-Thread-Seq", strconv.Itoa(e.turn.NewestSeq()))
		h.Set("X-Threadhub-Thread-Mode", string(e.turn.Mode))
		h.Set("X-Threadhub-Thread-Omitted", strconv.Itoa(e.turn.Omitted))
	}
}
