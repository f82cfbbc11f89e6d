package gateway

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"threadhub/internal/chaos"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// logLine becomes the one line a request leaves. It never holds content, keys, or a path as the client wrote it.
type logLine struct {
	id     id.Request
	method string
	route  string // the template
	status int
	org    id.Org
	key    id.Key
	bytes  int64 // of the answer's body
	fault  *fault.Error
	reason string // how a stream ended; empty for a whole answer
	more   []slog.Attr
}

func (l *logLine) write(log *slog.Logger, took time.Duration) {
	attrs := make([]slog.Attr, 0, 12+len(l.more))
	attrs = append(attrs,
		slog.String("request_id", string(l.id)), slog.String("method", l.method), slog.String("route", l.route),
		slog.Int("status", l.status), slog.Float64("ms", float64(took.Microseconds())/1000), slog.Int64("bytes", l.bytes))
	if l.org != "" {
		attrs = append(attrs, slog.String("org", string(l.org)), slog.String("key", string(l.key)))
	}
	if l.reason != "" {
		attrs = append(attrs, slog.String("end", l.reason))
	}
	level := slog.LevelInfo
	if l.fault != nil {
		attrs = append(attrs, slog.String("code", answerFor(l.fault).code))
		text, ours := cause(l.fault)
		if ours {
			level = slog.LevelWarn
		}
		if text != "" {
			attrs = append(attrs, slog.String("cause", text))
		}
		if l.fault.Kind == fault.Internal {
			level = slog.LevelError
		}
	}
	log.LogAttrs(context.Background(), level, "request", append(attrs, l.more...)...)
}

// LogSink hands lines to a writer from a goroutine of its own, so that a log that blocks holds up no request: what does
// not fit into its queue is dropped and counted. Give it to a slog handler; Close it last.
type LogSink struct {
	w       io.Writer
	lines   chan []byte
	dropped atomic.Uint64
	done    chan struct{}

	mu     sync.RWMutex
	closed bool
}

const defaultLogQueue = 4096 // lines

// NewLogSink starts a sink with room for queue lines; 0 means 4096.
func NewLogSink(w io.Writer, queue int) *LogSink {
	if queue <= 0 {
		queue = defaultLogQueue
	}
	s := &LogSink{w: w, lines: make(chan []byte, queue), done: make(chan struct{})}
	go s.run()
	return s
}

func (s *LogSink) run() {
	defer close(s.done)
	for line := range s.lines {
		if !s.put(line) {
			s.dropped.Add(1)
		}
	}
}

// put writes one line. A full disk is a lost line; a panicking writer must not end the process.
func (s *LogSink) put(line []byte) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	chaos.Point("log")
	_, err := s.w.Write(line)
	return err == nil
}

// Write takes one line. It never blocks and never fails.
func (s *LogSink) Write(line []byte) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		s.dropped.Add(1)
		return len(line), nil
	}
	select {
	case s.lines <- append([]byte(nil), line...):
	default:
		s.dropped.Add(1)
	}
	return len(line), nil
}

// Dropped returns how many lines were lost.
func (s *LogSink) Dropped() uint64 { return s.dropped.Load() }

// Close writes what is queued and waits for it, but no longer than ctx: a writer that blocks for ever is left behind.
func (s *LogSink) Close(ctx context.Context) error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.lines)
	}
	s.mu.Unlock()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// quietLogger is fasthttp's logger. Its arguments quote what clients sent, keys and prompts among it, so only the format
// string, a constant of fasthttp's source, is logged.
type quietLogger struct{ log *slog.Logger }

func (q quietLogger) Printf(format string, _ ...any) {
	q.log.Warn("http server", slog.String("what", format))
}
