package faults

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"threadhub/simulator"
	"threadhub/test/kills"
	"threadhub/test/rig"
)

// A way is one form of a fault of a provider, and what becomes of a call that meets it. Which provider plays it follows
// from the seed; all forms with all providers are in process in upstreams/upstreamstest.
type way struct {
	do    string // a directive for the simulator
	not   string // a provider of which it is not so
	whole bool   // no stream is asked for
	is    end
	seen  func(w *world, e *kills.Exchange) // more to look at; nil: nothing
}

// stream and body are a way with a stream, and with a whole answer.
func stream(do string, is end) way { return way{do: do, is: is} }
func body(do string, is end) way   { return way{do: do, whole: true, is: is} }

// except names the provider of which a way is not so.
func (a way) except(provider string) way {
	a.not = provider
	return a
}

func (a way) and(see func(w *world, e *kills.Exchange)) way {
	a.seen = see
	return a
}

// within adds how long it may take.
func (is end) in(d time.Duration) end {
	is.within = d
	return is
}

// but changes the line.
func (is end) but(line string) end {
	is.line = line
	return is
}

// inChunks is an answer whose first pieces are there before the fault.
const inChunks = ` text="one two three four five six" chunks=6`

// upstreamWays are the rows that a script of the simulator plays.
var upstreamWays = []struct {
	id, title string
	ways      []way
}{
	{"U2", "the provider resets the connection before its answer", []way{
		stream("fault=reset", failed(502, perhaps, "upstream_reset")), stream("fault=close", failed(502, perhaps, "upstream_reset")),
		body("fault=reset", failed(502, perhaps, "upstream_reset")),
	}},
	{"U3", "it resets in the middle of the header", []way{
		stream("fault=reset_head", failed(502, perhaps, "upstream_reset")).and(askedOnce), body("fault=reset_head", failed(502, perhaps, "upstream_reset")).and(askedOnce),
	}},
	{"U4", "it resets in the middle of a stream", []way{
		stream("fault=reset_mid after=3 flush=1"+inChunks, broken(estimated, "upstream_reset")).and(sawPieces),
		body("fault=reset_mid", failed(502, "", "upstream_reset")),
	}},
	{"U5", "a stream ends before its end", []way{
		stream("fault=cut after=3"+inChunks, broken("", "upstream_truncated")).and(sawPieces),
		stream("fault=cut_raw after=3"+inChunks, broken("", "upstream_truncated", "upstream_reset")).and(sawPieces),
		stream("fault=no_done"+inChunks, broken("", "upstream_truncated")),
		stream("fault=no_finish"+inChunks, broken("", "upstream_truncated", "upstream_protocol")).and(sawPieces),
		body("fault=cut", failed(502, "", "upstream_protocol", "upstream_reset")),
	}},
	{"U6", "a stream stalls", []way{
		stream("fault=stall after=2"+inChunks, broken(estimated, "upstream_stalled").in(idleTime+time.Second)).and(func(w *world, e *kills.Exchange) {
			if !strings.Contains(string(e.Raw), ": ping") {
				w.Errorf("no heartbeat came: %.300q", e.Raw)
			}
			if took(e) < idleTime {
				w.Errorf("it was given up after %v", took(e))
			}
		}),
		stream("fault=stall after=0"+inChunks, end{status: 200, codes: []string{"upstream_stalled"}}.in(idleTime+time.Second)),
	}},
	{"U7", "no header comes", []way{
		stream("fault=silent", failed(504, perhaps, "upstream_timeout").in(headersTime)).and(askedOnce),
		body("fault=silent", failed(504, perhaps, "upstream_timeout").in(headersTime)).and(askedOnce),
	}},
	{"U8", "a stream is slow", []way{
		stream(`fault=drip every=100us text="slow words" chunks=2 search=off`, well), stream(said(40, 200*time.Millisecond), broken(estimated, "deadline").in(streamTime)),
	}},
	{"U9", "garbage in a stream", []way{
		stream("fault=bad_json after=3"+inChunks, broken("", "upstream_protocol")).and(sawPieces),
		stream("fault=garbage after=3"+inChunks, broken("", "upstream_protocol")).and(sawPieces),
		stream("fault=garbage_head", failed(502, "", "upstream_protocol")),
		body("fault=garbage", failed(502, "", "upstream_protocol")),
	}},
	{"U10", "a line without an end, or a flood", []way{
		stream("fault=oversize size=131072 after=2"+inChunks, broken("", "upstream_oversize")),
		stream("fault=endless count=1 after=2"+inChunks, broken("", "upstream_oversize")),
	}},
	{"U13", "200 with an error", []way{
		stream("fault=error_200", end{status: 502, outcome: "failed"}), body("fault=error_200", end{status: 502, outcome: "failed"}),
		stream("fault=error_first", failed(502, free, "upstream_error")).and(anError), stream("fault=error_mid after=3"+inChunks, end{status: 200, outcome: "incomplete"}).and(anError),
	}},
	{"U14", "the length of a body is a lie", []way{
		body("fault=cl_long", failed(502, "", "upstream_protocol", "upstream_reset")), body("fault=cl_short", failed(502, "", "upstream_protocol")),
		body("fault=cl_negative", failed(502, "", "upstream_protocol")), body("fault=cl_duplicate", failed(502, "", "upstream_protocol")),
	}},
	{"U15", "HTTP/1.0, closed at the end", []way{
		stream("fault=http10"+inChunks, well), body("fault=http10", well), stream("fault=http10 after=3"+inChunks, broken("", "upstream_truncated", "upstream_reset")),
	}},
	{"U16", "an encoding that nobody asked for", []way{
		stream("fault=gzip"+inChunks, well), body("fault=gzip", well),
		stream("fault=bad_encoding", failed(502, "", "upstream_protocol")), body("fault=bad_encoding", failed(502, "", "upstream_protocol")),
	}},
	{"U17", "text that is no text", []way{
		stream("fault=split_rune", well), stream("fault=lone_surrogate", well), stream("fault=nul", well), stream("fault=bad_utf8", well), body("fault=bad_utf8", well),
	}},
	{"U18", "more after the end", []way{stream("fault=double_done"+inChunks, well), stream("fault=after_done"+inChunks, well)}},
	{"U19", "odd usage", []way{
		stream("fault=no_usage"+inChunks, well.but(estimated)), body("fault=no_usage", well.but(estimated)),
		stream("fault=zero_usage"+inChunks, well.but(free)).except("perplexity"),                                    // which charges for requests, too
		stream("fault=usage_twice"+inChunks, well), stream("fault=usage_first"+inChunks, well).except("perplexity"), // whose usage is at the end
	}},
	{"U20", "hostile usage", []way{
		stream("fault=hostile_usage kind=negative"+inChunks, well.but(estimated)), stream("fault=hostile_usage kind=huge"+inChunks, well.but(estimated)),
		stream("fault=hostile_usage kind=string"+inChunks, well.but(estimated)), body("fault=hostile_usage kind=array", well.but(estimated)),
	}},
	{"U21", "another model, another id", []way{stream("fault=wrong_model"+inChunks, end{status: 200, done: true, outcome: "complete"}), stream("fault=wrong_id"+inChunks, well).except("perplexity")}}, // where another id is another item
	{"U22", "headers that no provider sends", []way{
		stream("fault=switching", failed(502, "", "upstream_protocol")), stream("fault=interim_flood", failed(502, "", "upstream_protocol")),
		body("fault=redirect", failed(502, "", "upstream_protocol")).and(notFollowed), stream("fault=huge_header", failed(502, "", "upstream_protocol")),
		stream("fault=many_headers", failed(502, "", "upstream_protocol")), body("fault=set_cookie", well).and(noCookie),
	}},
}

// sawPieces checks that what came before the fault was seen, and is there.
func sawPieces(w *world, e *kills.Exchange) {
	if h := w.holds(e); e.Seen == "" || h.answer == nil || h.answer.Text != e.Seen {
		w.Errorf("%s: seen %q, kept %s", e.Text, e.Seen, h)
	}
}

// askedOnce checks that what may be billed is not asked again.
func askedOnce(w *world, e *kills.Exchange) {
	if n := w.asks(e); n != 1 {
		w.Errorf("%s: the provider was asked %d times", e.Text, n)
	}
}

func anError(w *world, e *kills.Exchange) {
	if e.Code == "" || e.Done {
		w.Errorf("%s: it ended with code %q, done %v", e.Text, e.Code, e.Done)
	}
}

func notFollowed(w *world, e *kills.Exchange) {
	if slices.ContainsFunc(append(w.sim.Log(), w.sim.Checks()...), func(a simulator.Attempt) bool { return strings.Contains(a.Path, "_trap") }) {
		w.Error("a redirect was followed")
	}
}

func noCookie(w *world, e *kills.Exchange) {
	if c := e.Answer.Values("Set-Cookie"); len(c) > 0 {
		w.Errorf("the client got the provider's cookies: %q", c)
	}
}

func upstreamRows() []row {
	list := append([]row{
		{id: "U1", title: "the provider cannot be reached", metric: "threadhub_attempts_total", setup: setup{apart: true, env: nowhere()}, play: func(w *world) {
			e := w.ask("", pick(w, whole, in("a")))
			w.want(e, failed(502, free, "upstream_unreachable").in(connectTime))
			w.moved("threadhub_attempts_total", `result="failed"`, w.provider())
			if n := len(w.seen()); n > 0 {
				w.Errorf("%d attempts were seen", n)
			}
		}},
		{id: "U23", title: "arguments of a tool call come in pieces", play: toolCall},
		{id: "U24", title: "the provider's address and certificate change", setup: setup{between: true}, play: func(w *world) {
			w.want(w.ask(said(2, 0)), well)
			other := rig.Simulator(w.verdict, simulator.Options{})
			old := w.streaming(w.g[0], w.question(said(10, 50*time.Millisecond)))
			w.wire[w.provider()].To(other.Addr())
			w.want(old.wait(), well)
			w.wire[w.provider()].Cut()
			e := w.ask(said(2, 0))
			if !e.Done {
				w.Errorf("after the change: status %d %s", e.Status, e.Code)
			}
			w.also = append(w.also, other)
			renewed(w)
		}},
	}, failoverRows...)
	for _, x := range upstreamWays {
		list = append(list, row{id: x.id, title: x.title, metric: "threadhub_stream_end_total", play: func(w *world) {
			for _, a := range x.ways {
				if a.not == w.provider() {
					continue
				}
				how := []option{}
				if a.whole {
					how = append(how, whole)
				}
				e := w.ask(a.do, how...)
				w.want(e, a.is)
				if a.seen != nil {
					a.seen(w, e)
				}
				if e.Done {
					w.moved("threadhub_stream_end_total", `reason="done"`)
				} else {
					w.moved("threadhub_attempts_total", w.provider(), `result="`)
				}
			}
			w.want(w.ask(said(2, 0)), well) // nothing of it is left behind
		}})
	}
	slices.SortStableFunc(list, func(a, b row) int { return number(a.id) - number(b.id) })
	return list
}

func number(id string) (n int) {
	_, _ = fmt.Sscanf(id[1:], "%d", &n)
	return n
}

// nowhere are the settings of providers at which nobody listens.
func nowhere() (env []string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	for _, p := range rig.Providers {
		env = append(env, "THREADHUB_UPSTREAMS__"+strings.ToUpper(p)+"__BASE_URL=http://"+addr)
	}
	return env
}

// toolCall plays U23.
func toolCall(w *world) {
	tool := map[string]any{"type": "function", "function": map[string]any{"name": "weather", "parameters": map[string]any{
		"type": "object", "properties": map[string]any{"city": map[string]string{"type": "string"}}, "required": []string{"city"},
	}}}
	args := func(do string, how ...option) string {
		e := w.question(do, append(how, field("tools", []any{tool}))...)
		e.Text = strings.Replace(e.Text, "question", "Please call the tool for question", 1)
		w.send(w.g[0], e)
		w.want(e, well)
		return arguments(e)
	}
	plain := args("", whole)
	if !json.Valid([]byte(plain)) || !strings.Contains(plain, "city") {
		w.Fatalf("the arguments are %q", plain)
	}
	for _, do := range []string{"fault=args_split split=1", fmt.Sprintf("fault=args_split at=%d", 1+w.rand.IntN(len(plain)-1))} {
		if got := args(do); got != plain {
			w.Errorf("%s: the arguments are %q, not %q", do, got, plain)
		}
	}
}

// arguments puts together those of the one tool call of an answer.
func arguments(e *kills.Exchange) (all string) {
	_, raw, _ := strings.Cut(string(e.Raw), "\r\n\r\n")
	for line := range strings.Lines(raw) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "data: ")
		var said struct {
			Choices []struct {
				Message, Delta struct {
					ToolCalls []struct{ Function struct{ Arguments string } } `json:"tool_calls"`
				}
			}
		}
		if json.Unmarshal([]byte(line), &said) != nil {
			continue
		}
		for _, c := range said.Choices {
			for _, t := range append(c.Message.ToolCalls, c.Delta.ToolCalls...) {
				all += t.Function.Arguments
			}
		}
	}
	return all
}
