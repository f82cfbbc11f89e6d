package gateway

import (
	"context"
	"io"
	"strings"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/threads"
)

// exportFormat is how a thread is written down.
type exportFormat interface {
	mime() (contentType, extension string)
	begin(dst []byte, t *threads.Thread) []byte
	message(dst []byte, t *threads.Thread, m *threads.Message) []byte
}

// export is a thread on its way into a file, pulled as a relay is: each page is read when the client has taken the one
// before it. Nothing tells a client that a file is whole but its end: when a page cannot be read, the connection breaks.
type export struct {
	g       *Gateway
	x       *request
	org     id.Org
	who     threads.Viewer
	thread  id.Thread
	format  exportFormat
	release func()

	started bool
	next    int  // the sequence that comes next
	over    bool // that was the last page
	out     []byte
	read    int
}

const exportPage = 200 // messages that are read together

// send hands the export to fasthttp, which pulls it after the handler has returned.
func (e *export) send() {
	contentType, extension := e.format.mime()
	h := &e.x.rc.Response.Header
	e.x.rc.SetContentType(contentType)
	h.Set("Content-Disposition", `attachment; filename="`+exportName(e.thread)+extension+`"`)
	h.Set("Cache-Control", "no-store")
	e.x.rc.SetBodyStream(e, -1)
}

// exportName is the thread's id as a file may be called anywhere. Ids hold nothing that ends a quotation.
func exportName(thread id.Thread) string {
	return "threadhub-" + strings.ReplaceAll(string(thread), ":", "-")
}

// page reads the next messages into out. Somebody may delete the thread meanwhile, or hide it.
func (e *export) page() error {
	p, err := e.g.opts.Threads.Page(e.x.ctx, e.org, e.thread, e.who, e.next-1, exportPage)
	if err != nil {
		return err
	}
	e.out, e.read = e.out[:0], 0
	if !e.started {
		e.out = e.format.begin(e.out, p.Thread)
		e.started = true
	}
	for _, m := range p.Messages {
		e.out = e.format.message(e.out, p.Thread, m)
	}
	e.next, e.over = p.Next, !p.More
	return nil
}

// Read gives fasthttp the next piece.
func (e *export) Read(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			e.g.opts.Panics.Tell("export", v)
			n, err = 0, errPanicked
			e.x.ended(fault.From(err).Code, err)
		}
	}()
	if err := context.Cause(e.x.ctx); err != nil { // the caller may read on no longer
		e.x.ended(fault.From(err).Code, err)
		return 0, err
	}
	for e.read == len(e.out) {
		if e.over {
			e.x.ended("done", nil)
			return 0, io.EOF
		}
		if err := e.page(); err != nil {
			e.x.ended(fault.From(err).Code, err)
			return 0, err
		}
	}
	n = copy(p, e.out[e.read:])
	e.read += n
	e.x.sent(n)
	return n, nil
}

// Close is called by fasthttp once, when the body is through or the client could not be written to.
func (e *export) Close() error {
	e.release()
	return nil
}

// jsonLines is one message a line, as GET /api/threads/{id} shows it, with the thread's id.
type jsonLines struct{}

func (jsonLines) mime() (string, string) { return "application/x-ndjson", ".jsonl" }

func (jsonLines) begin(dst []byte, _ *threads.Thread) []byte { return dst }

func (jsonLines) message(dst []byte, t *threads.Thread, m *threads.Message) []byte {
	return append(append(dst, oneLine(messageShape(m, t.ID))...), '\n')
}

// oneLine takes the line breaks out of a JSON text: between its tokens, as inside a string there are none.
func oneLine(b []byte) []byte {
	out := b[:0]
	for _, c := range b {
		if c != '\n' && c != '\r' {
			out = append(out, c)
		}
	}
	return out
}
