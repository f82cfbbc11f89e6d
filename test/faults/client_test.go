package faults

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"threadhub/internal/id"
	"threadhub/simulator"
	"threadhub/test/kills"
)

// bodyGrace is how long a body may be on its way of which next to nothing comes.
const bodyGrace = 5 * time.Second

// errLeft is why an exchange ended whose client has left.
var errLeft = errors.New("the client has left")

// leaveAt has the client leave when it has seen so many bytes of text.
func leaveAt(n int) option {
	return func(e *kills.Exchange) {
		e.Watch = func(seen string) error {
			if len(seen) >= n {
				return errLeft
			}
			return nil
		}
	}
}

// slowly has the client take its time after each event.
func slowly(d time.Duration) option {
	return func(e *kills.Exchange) {
		e.Watch = func(string) error {
			<-time.After(d)
			return nil
		}
	}
}

// inPieces asks another provider than one that says its whole answer once more at the end, in one line.
func (w *world) inPieces(e *kills.Exchange) {
	if w.provider() == "perplexity" {
		e.Model = models["openrouter"]
	}
}

var clientRows = []row{
	{id: "C1", title: "the client closes in the middle of a stream", metric: "threadhub_stream_end_total", play: func(w *world) {
		e := w.ask(said(40, 50*time.Millisecond), leaveAt(10+w.rand.IntN(60)))
		left := time.Now()
		w.want(e, end{status: 200, outcome: "incomplete", reason: []string{"client_closed"}, line: estimated})
		sawPieces(w, &kills.Exchange{Text: e.Text, Request: e.Request, Seen: w.holds(e).answer.Text})
		w.moved("threadhub_stream_end_total", `reason="client_closed"`)
		if a := w.attempt(e); a.End != simulator.EndClientGone || a.Ended.Sub(left) > heartbeatTime+time.Second+slack {
			w.Errorf("the provider was let go after %v: %s", a.Ended.Sub(left), a.End)
		}
		// And in the middle of a provider's silence.
		e = w.ask("fault=stall after=1"+inChunks, leaveAt(1))
		left = time.Now()
		w.want(e, end{status: 200, outcome: "incomplete", reason: []string{"client_closed"}, line: estimated})
		if a := w.attempt(e); a.Ended.Sub(left) > heartbeatTime+time.Second+slack/2 {
			w.Errorf("the silent provider was let go after %v", a.Ended.Sub(left))
		}
	}},
	vanishes,
	{id: "C3", title: "the client reads slowly", setup: setup{env: longStreams()}, play: func(w *world) {
		e := w.ask("size=9000000 chunks=450", slowly(9*time.Millisecond), w.inPieces)
		w.want(e, well)
		a := w.attempt(e)
		if all, sending := took(e), a.Ended.Sub(a.Begun); sending < all/4 {
			w.Errorf("the client took %v, and the provider was through in %v: somebody held it all", all, sending)
		}
	}},
	{id: "C4", title: "the client never reads", metric: "threadhub_stream_end_total", play: func(w *world) {
		var stopped time.Time
		e := w.question("size=8000000 chunks=1000", w.inPieces)
		e.Watch = func(string) error {
			stopped = time.Now()
			w.settled(e)
			return errLeft
		}
		w.send(w.g[0], e)
		w.want(e, end{status: 200, outcome: "incomplete", reason: []string{"client_slow"}, line: estimated})
		if d := time.Since(stopped); d < writeTime/2 || d > writeTime+2*time.Second+slack {
			w.Errorf("it was cut after %v", d)
		}
		w.moved("threadhub_stream_end_total", `reason="client_slow"`)
	}},
	{id: "C5", title: "a body that stops, or comes one byte a second", metric: "threadhub_refused_total", play: func(w *world) {
		var both sync.WaitGroup
		for _, drips := range []bool{false, true} {
			both.Go(func() {
				e := w.question("")
				began := time.Now()
				answer := w.raw(fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{\"model\":%q,\"messages\":[{\"role\":\"user\",\"content\":%q}",
					w.who.Key, e.Model, e.Text), func(c net.Conn) {
					for drips && time.Since(began) < 15*time.Second {
						if _, err := io.WriteString(c, " "); err != nil {
							return
						}
						w.sleep(time.Second)
					}
				})
				if took := time.Since(began); !strings.HasPrefix(answer, "HTTP/1.1 408 ") || took > bodyGrace+time.Second+slack {
					w.Errorf("after %v: %.200q", took, answer)
				}
				w.want(e, nothing)
			})
		}
		both.Wait()
		w.moved("threadhub_refused_total", "request_timeout")
	}},
	{id: "C6", title: "ten requests in one go on one connection", play: func(w *world) {
		c := w.client(w.g[0])
		var all []*kills.Exchange
		for i := range 10 {
			e := w.question(said(1+i, 0), whole)
			e.Seq, e.Began = -1, time.Now()
			w.must(c.Send(e))
			all = append(all, e)
		}
		for _, e := range all {
			e.Err = c.Receive(e)
			e.Ended = time.Now()
			w.note(e)
		}
		w.wants(all, well)
	}},
	{id: "C7", title: "the client says that it has said all", play: func(w *world) {
		for _, how := range [][]option{{}, {whole}} {
			c := w.client(w.g[0])
			e := w.question(said(10, 100*time.Millisecond)+" head=700ms", how...)
			e.Seq, e.Began = -1, time.Now()
			w.must(c.Send(e))
			w.must(c.CloseWrite())
			e.Err = c.Receive(e)
			e.Ended = time.Now()
			w.note(e)
			w.want(e, well)
		}
	}},
	{id: "C8", title: "more, or less, of a body than its length", play: func(w *world) {
		for _, more := range []bool{true, false} {
			e := w.question("", whole)
			body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":%q}]}`, e.Model, e.Text)
			length := len(body) + 100
			if more {
				length = len(body) - 20
			}
			answer := w.raw(fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
				w.who.Key, length, body), closeWrite)
			for line := range strings.Lines(answer) {
				if strings.HasPrefix(line, "HTTP/1.1 ") && !strings.HasPrefix(line, "HTTP/1.1 400 ") {
					w.Errorf("it was answered %q", line)
				}
			}
			w.want(e, nothing)
		}
	}},
	{id: "C9", title: "the client goes during OPEN, or before the header", play: func(w *world) {
		for _, do := range []string{"head=1500ms", "first=1500ms"} {
			e := w.question(do+" text=late", pick(w, whole, keyed(w.name())))
			e.Wait = time.Duration(1+w.rand.IntN(60)) * time.Millisecond
			w.send(w.g[0], e)
			h := w.settled(e)
			switch {
			case e.Err == nil:
				w.Errorf("it was answered: %d", e.Status)
			case h.call == nil: // it had not begun
			case h.call.Reason != "client_closed" || len(h.inputs) != 1 || len(h.lines) != 1:
				w.Errorf("%s: kept %s", e.Text, h)
			}
		}
	}},
	{id: "C10", title: "one Idempotency-Key, several times", setup: setup{replicas: 2, redis: true}, play: func(w *world) {
		first := w.question(said(10, 50*time.Millisecond), keyed(w.name()), pick(w, whole, func(*kills.Exchange) {}))
		l := w.start(w.g[0], first)
		w.eventually(5*time.Second, func() bool { return len(w.seen()) > 0 }, "the provider to be asked")
		elsewhere := w.start(w.g[1], again(first))
		while := w.send(w.g[0], again(first)) // while it runs
		elsewhere.wait()
		l.wait()
		after := w.send(w.g[0], again(first))
		other := w.send(w.g[1], again(first))
		for _, e := range []*kills.Exchange{while, elsewhere.Exchange, after, other} {
			if e.Answer.Get("Idempotent-Replayed") != "true" || e.Request != first.Request {
				w.Errorf("a repeat is not one: %v %s", e.Answer, e.Request)
			}
			if !slices.Equal(events(e), events(first)) {
				w.Errorf("a repeat got %q, the first %q", events(e), events(first))
			}
		}
		w.wants([]*kills.Exchange{first, while, elsewhere.Exchange, after, other}, well)
		changed := again(first)
		changed.Fields = map[string]any{"temperature": 0.5}
		w.send(w.g[1], changed)
		if changed.Status != 422 || changed.Code != "idempotency_key_reused" {
			w.Errorf("another body: %d %s", changed.Status, changed.Code)
		}
		if n := len(w.seen()); n != 1 {
			w.Errorf("the provider was asked %d times", n)
		}
	}},
	{id: "C11", title: "two clients in one thread at once", setup: setup{replicas: 2, apart: true}, play: func(w *world) {
		thread := id.Thread(w.name())
		all := w.many(6, 6, func(i int) *kills.Exchange {
			return w.send(w.g[i%2], w.question(said(3, 20*time.Millisecond), in(thread), pick(w, whole, func(*kills.Exchange) {})))
		})
		for _, e := range all {
			if e.Status == 409 && e.Code == "thread_locked" {
				continue
			}
			w.want(e, well)
		}
		w.read(w.g[0], thread)
		w.read(w.g[1], thread)
	}},
}

// attempt is what the provider says of the one attempt of e.
func (w *world) attempt(e *kills.Exchange) (a simulator.Attempt) {
	w.Helper()
	w.eventually(15*time.Second, func() bool {
		for _, a = range w.seen() {
			if a.Name == string(e.Request)+"-0" && a.End != "" {
				return true
			}
		}
		return false
	}, "the attempt of %s to end", e.Request)
	return a
}

// name is one that nobody else has.
func (w *world) name() string { return fmt.Sprintf("name-%d-%d", w.seed, w.rand.Uint64()) }

// events are the data of an answer, without what differs from one time to the next.
func events(e *kills.Exchange) (list []string) {
	_, body, _ := strings.Cut(string(e.Raw), "\r\n\r\n")
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "data: ") || strings.HasPrefix(line, "id: ") || strings.HasPrefix(line, "{") {
			list = append(list, line)
		}
	}
	return list
}

// raw sends bytes over a connection of its own, does something more with it while it reads, and returns all that comes
// back.
func (w *world) raw(bytes string, then func(c net.Conn)) string {
	w.Helper()
	c, err := net.Dial("tcp", w.g[0].Host())
	w.must(err)
	defer func() { _ = c.Close() }()
	w.must(c.SetDeadline(time.Now().Add(20 * time.Second)))
	_, err = io.WriteString(c, bytes)
	w.must(err)
	go then(c)
	answer, _ := io.ReadAll(c)
	return string(answer)
}

// closeWrite says that nothing more will be sent.
func closeWrite(c net.Conn) { _ = c.(*net.TCPConn).CloseWrite() }
