// Package simulator plays the providers in their own wire formats, for tests, benchmarks and the demo: OpenAI, Gemini,
// Perplexity and OpenRouter, each in files of its name.
//
// It promises to answer as the provider does, byte shapes and headers included; to be as strict about what it is sent
// as the provider is; to misbehave exactly as a script says (README.md lists the scripts); and to keep a log of every
// attempt, with the bytes that came and the bytes that went, so that a test can compare it with what the gateway
// recorded. It speaks HTTP/1.1 on plain sockets rather than through net/http's server, because half of its faults are
// things a good server would never send. It shares no code with the rooms that talk to providers, or both would err
// alike. It leaves TLS, HTTP/2 and a refused connection (close the listener) to the test.
package simulator

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// DefaultAddr is where the simulator listens unless told otherwise: a free port of the loopback.
const DefaultAddr = "127.0.0.1:0"

// Defaults of Options.
const (
	DefaultMaxLog      = 100_000
	DefaultMaxLogBytes = 512 << 20
	maxBody            = 64 << 20 // a larger request is refused with 413
)

// Options say how to play. The zero value works.
type Options struct {
	Addr        string                          // where to listen; "" is DefaultAddr
	Note        string                          // a sentence put at the end of each answer's text, such as "(simulated)"
	Log         *slog.Logger                    // what goes wrong in the simulator itself; nil: nothing
	AcceptKey   func(provider, key string) bool // nil: any key but those that contain "invalid"
	MaxLog      int                             // attempts kept; 0 is DefaultMaxLog
	MaxLogBytes int64                           // bytes kept in them; 0 is DefaultMaxLogBytes
	SizesOnly   bool                            // keep no bodies, sent bytes or events, for long load tests
	Finished    func(Attempt)                   // called as each attempt ends, by many goroutines at a time; may be nil
	NoSonar     bool                            // Perplexity refuses its older chat completions, as it does accounts by now
}

// Simulator is the providers, played. Safe for concurrent use.
type Simulator struct {
	opt       Options
	providers []provider
	log       attempts
	checks    attempts // of models and keys
	scripts   scripts

	ln     net.Listener
	addr   string
	done   chan struct{}
	closed atomic.Bool
	wg     sync.WaitGroup
	mu     sync.Mutex
	conns  map[*conn]struct{}
	stale  map[string]int // by provider: how many kept connections to close under a request; see fault "stale"
}

// provider is one provider's part: one file each.
type provider interface {
	name() string             // "openai": the first part of the path
	base() string             // "/openai/v1": what URL ends with
	key(h http.Header) string // the caller's key; "" if there is none
	asks(path string) bool    // a model answers at that path: scripts that name no path mean it
	serve(x *exchange) error  // answers the request in x; the error says how the exchange ended early
	// refuse answers with the provider's own form of an error.
	refuse(x *exchange, f failure) error
}

// New builds a simulator that is not listening yet.
func New(opt Options) *Simulator {
	if opt.Addr == "" {
		opt.Addr = DefaultAddr
	}
	if opt.MaxLog <= 0 {
		opt.MaxLog = DefaultMaxLog
	}
	if opt.MaxLogBytes <= 0 {
		opt.MaxLogBytes = DefaultMaxLogBytes
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.AcceptKey == nil {
		opt.AcceptKey = func(_, key string) bool { return !strings.Contains(key, "invalid") }
	}
	s := &Simulator{
		opt:       opt,
		providers: []provider{openAI{}, gemini{}, perplexity{}, openRouter{}},
		done:      make(chan struct{}),
		conns:     make(map[*conn]struct{}),
		stale:     make(map[string]int),
	}
	for _, l := range []*attempts{&s.log, &s.checks} {
		l.max, l.maxBytes = opt.MaxLog, opt.MaxLogBytes
	}
	s.scripts.used = make(map[string]int)
	return s
}

// Start opens the listener and serves until Close.
func (s *Simulator) Start() error {
	ln, err := net.Listen("tcp", s.opt.Addr)
	if err != nil {
		return fmt.Errorf("simulator: listen on %s: %w", s.opt.Addr, err)
	}
	s.ln, s.addr = ln, ln.Addr().String()
	s.wg.Add(1)
	go s.accept()
	return nil
}

// Addr is the address it listens on, once started.
func (s *Simulator) Addr() string { return s.addr }

// URL is the base URL of a provider ("openai", "gemini"), as an operator would configure it, or of the control API
// ("control"). It is "" for a name that is not played, and before Start.
func (s *Simulator) URL(name string) string {
	if s.addr == "" {
		return ""
	}
	if name == "control" {
		return "http://" + s.addr + controlBase
	}
	for _, p := range s.providers {
		if p.name() == name {
			return "http://" + s.addr + p.base()
		}
	}
	return ""
}

// Providers are the names of those played.
func (s *Simulator) Providers() []string {
	names := make([]string, len(s.providers))
	for i, p := range s.providers {
		names[i] = p.name()
	}
	return names
}

// Close stops listening, cuts every connection and waits for all of it. Attempts still running end as "closed".
func (s *Simulator) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	close(s.done)
	var err error
	if s.ln != nil {
		err = s.ln.Close()
	}
	s.mu.Lock()
	for c := range s.conns {
		_ = c.tcp.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}

// Log returns the attempts seen, oldest first, running ones as they stand. The bytes in them are shared: do not change
// them.
func (s *Simulator) Log() []Attempt { return s.log.all() }

// Checks returns the requests for lists of models and for what there is to say of a key, as Log does, and apart from it:
// no model worked for them, and nothing is billed.
func (s *Simulator) Checks() []Attempt { return s.checks.all() }

// Reset forgets the logs, all scripts, and how often each was played.
func (s *Simulator) Reset() {
	s.log.reset()
	s.checks.reset()
	s.scripts.reset()
	s.mu.Lock()
	clear(s.stale)
	s.mu.Unlock()
}

// KeyHash is how the log names a provider key: the hex SHA-256 of it.
func KeyHash(key string) string {
	h := sha256.Sum256([]byte(key))
	return hex.EncodeToString(h[:])
}

func (s *Simulator) accept() {
	defer s.wg.Done()
	for {
		nc, err := s.ln.Accept()
		if err != nil {
			if !s.closed.Load() {
				s.opt.Log.Error("simulator stopped accepting", "error", err)
			}
			return
		}
		c := newConn(s, nc.(*net.TCPConn))
		s.mu.Lock()
		if s.closed.Load() {
			s.mu.Unlock()
			_ = nc.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.wg.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.wg.Done()
			c.serve()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		}()
	}
}

// armStale has n kept connections to the provider closed, each as its next request arrives.
func (s *Simulator) armStale(provider string, n int) {
	s.mu.Lock()
	s.stale[provider] += n
	s.mu.Unlock()
}

func (s *Simulator) takeStale(provider string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stale[provider] == 0 {
		return false
	}
	s.stale[provider]--
	return true
}
