package simulator

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Script asks for a fault, a delay or a certain answer where the prompt can not. It applies to attempts that match all
// of its members; an in-band directive of the request's own has precedence.
type Script struct {
	Provider string // "": any
	Path     string // "": where models are asked; "*": any; else exactly this, below the provider's base
	Match    string // "": any; else the raw body must hold this
	Times    int    // how many attempts it applies to before it is spent; 0: no end
	Do       string // what to do, as in a directive: "fault=reset_mid after=3"
}

// plan is a parsed directive.
type plan struct {
	fault string

	// Pace.
	head     time.Duration // before the status line
	first    time.Duration // between the head and the first piece
	delay    time.Duration // between pieces
	comments time.Duration // OpenRouter: a comment this often while waiting
	every    time.Duration // fault=drip: between bytes
	flush    bool          // each event in a write of its own
	frame    int           // HTTP chunks of this many bytes, wherever events end

	// The answer.
	text    string
	hasText bool
	size    int    // bytes of text
	chunks  int    // pieces of text, exactly
	split   int    // bytes of each piece of tool arguments
	at      int    // tool arguments in two pieces, the first of so many bytes
	finish  string // the finish_reason
	form    string // usage=choice: OpenRouter's other form of the usage chunk
	block   string // Gemini: the prompt is blocked for this reason
	search  string // search=off: Perplexity does not search, though it could

	// Usage; -1 leaves it to the simulator.
	prompt, completion, cached, reasoning int64

	// Details of faults.
	after                          int // pieces sent before it strikes; -1 is the fault's own choice
	status                         int
	count                          int
	kind                           string
	code                           string
	event                          bool // the error in the stream has an "event: error" line
	retryAfter, retryMS, retryDate string
	shouldRetry                    string
	times                          int
}

// newPlan asks for nothing.
func newPlan() *plan {
	return &plan{after: -1, prompt: -1, completion: -1, cached: -1, reasoning: -1}
}

// parsePlan reads "key=value key="quoted value" …".
func parsePlan(text string) (*plan, error) {
	p := newPlan()
	for {
		text = strings.TrimLeft(text, " \t\r\n,")
		if text == "" {
			break
		}
		key, rest, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("%q has no value", text)
		}
		var value string
		if strings.HasPrefix(rest, `"`) {
			q, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return nil, fmt.Errorf("%s: an open quote", key)
			}
			value, _ = strconv.Unquote(q)
			text = rest[len(q):]
		} else if i := strings.IndexAny(rest, " \t\r\n,"); i >= 0 {
			value, text = rest[:i], rest[i:]
		} else {
			value, text = rest, ""
		}
		if err := p.set(strings.TrimSpace(key), value); err != nil {
			return nil, err
		}
	}
	if p.fault == "" && p.status != 0 {
		p.fault = "status"
	}
	return p, nil
}

// set sets one member. Numbers are not negative, durations are Go's ("20ms").
func (p *plan) set(key, value string) error {
	var err error
	if d := p.duration(key); d != nil {
		*d, err = time.ParseDuration(value)
		if *d < 0 {
			err = errors.New("negative")
		}
	} else if n := p.number(key); n != nil {
		*n, err = strconv.Atoi(value)
		if *n < 0 || *n > 1<<30 {
			err = errors.New("out of range")
		}
	} else if n := p.tokens(key); n != nil {
		*n, err = strconv.ParseInt(value, 10, 64)
		if *n < 0 {
			err = errors.New("negative")
		}
	} else if t := p.word(key); t != nil {
		*t = value
	} else {
		switch key {
		case "fault":
			if !slices.ContainsFunc(faults, func(f Fault) bool { return f.Name == value }) {
				return fmt.Errorf("no fault is called %q", value)
			}
			p.fault = value
		case "text":
			p.text, p.hasText = value, true
		case "flush":
			p.flush, err = strconv.ParseBool(value)
		case "event":
			p.event, err = strconv.ParseBool(value)
		default:
			return fmt.Errorf("no key is called %q", key)
		}
	}
	if err != nil {
		return fmt.Errorf("%s=%s: %w", key, value, err)
	}
	return nil
}

func (p *plan) duration(key string) *time.Duration {
	switch key {
	case "head":
		return &p.head
	case "first":
		return &p.first
	case "delay":
		return &p.delay
	case "comments":
		return &p.comments
	case "every":
		return &p.every
	}
	return nil
}

func (p *plan) number(key string) *int {
	switch key {
	case "size":
		return &p.size
	case "chunks":
		return &p.chunks
	case "split":
		return &p.split
	case "at":
		return &p.at
	case "after":
		return &p.after
	case "status":
		return &p.status
	case "count":
		return &p.count
	case "times":
		return &p.times
	case "frame":
		return &p.frame
	}
	return nil
}

func (p *plan) tokens(key string) *int64 {
	switch key {
	case "prompt_tokens":
		return &p.prompt
	case "completion_tokens":
		return &p.completion
	case "cached_tokens":
		return &p.cached
	case "reasoning_tokens":
		return &p.reasoning
	}
	return nil
}

func (p *plan) word(key string) *string {
	switch key {
	case "finish":
		return &p.finish
	case "usage":
		return &p.form
	case "block":
		return &p.block
	case "search":
		return &p.search
	case "kind":
		return &p.kind
	case "code":
		return &p.code
	case "retry_after":
		return &p.retryAfter
	case "retry_after_ms":
		return &p.retryMS
	case "retry_after_date":
		return &p.retryDate
	case "should_retry":
		return &p.shouldRetry
	}
	return nil
}

const (
	directiveOpen  = "[[sim "
	directiveClose = "]]"
)

// directive cuts the first [[sim …]] out of text.
func directive(text string) (do, rest string, ok bool) {
	before, after, ok := strings.Cut(text, directiveOpen)
	if !ok {
		return "", text, false
	}
	do, after, ok = strings.Cut(after, directiveClose)
	if !ok {
		return "", text, false
	}
	return do, strings.TrimSpace(strings.TrimSpace(before) + " " + strings.TrimSpace(after)), true
}

// scripts holds the armed scripts, and how often directives with times were played.
type scripts struct {
	mu   sync.Mutex
	list []*armed
	used map[string]int
}

type armed struct {
	Script
	plan *plan
	left int
}

// Play arms scripts, after those armed before. The error names what is wrong with one; then none is armed. A script
// with fault=stale closes kept connections to its provider (all of them, if it names none), Times of them, at least one.
func (s *Simulator) Play(list ...Script) error {
	ready := make([]*armed, len(list))
	for i, sc := range list {
		p, err := parsePlan(sc.Do)
		if err != nil {
			return fmt.Errorf("simulator: script %d: %w", i, err)
		}
		if sc.Times == 0 {
			sc.Times = p.times
		}
		p.times = 0
		ready[i] = &armed{Script: sc, plan: p, left: sc.Times}
	}
	for _, a := range ready {
		if a.plan.fault == "stale" {
			for _, p := range s.providers {
				if a.Provider == "" || a.Provider == p.name() {
					s.armStale(p.name(), max(1, a.Times))
				}
			}
			continue
		}
		s.scripts.mu.Lock()
		s.scripts.list = append(s.scripts.list, a)
		s.scripts.mu.Unlock()
	}
	return nil
}

// Unplay forgets all scripts and how often directives were played.
func (s *Simulator) Unplay() {
	s.scripts.reset()
	s.mu.Lock()
	clear(s.stale)
	s.mu.Unlock()
}

func (s *scripts) reset() {
	s.mu.Lock()
	s.list = nil
	clear(s.used)
	s.mu.Unlock()
}

// take finds the first script for an attempt and uses it once; nil if there is none.
func (s *scripts) take(p provider, path string, body []byte) *plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, a := range s.list {
		here := a.Path == "*" || a.Path == path || a.Path == "" && p.asks(path)
		if a.Provider != "" && a.Provider != p.name() || !here || !bytes.Contains(body, []byte(a.Match)) {
			continue
		}
		if a.left == 1 {
			s.list = slices.Delete(s.list, i, i+1)
		} else if a.left > 1 {
			a.left--
		}
		return a.plan
	}
	return nil
}

// count says whether a directive that may be played times times is to be played now.
func (s *scripts) count(provider, key string, times int) bool {
	h := sha256.Sum256([]byte(provider + "\x00" + key))
	k := hex.EncodeToString(h[:8])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used[k] >= times {
		return false
	}
	s.used[k]++
	return true
}

// direct sets the plan: the user text's directive, else a script's. It returns the text without the directive.
func (x *exchange) direct(user string) (string, error) {
	do, rest, ok := directive(user)
	if ok {
		p, err := parsePlan(do)
		if err != nil {
			return rest, err
		}
		if p.times == 0 || x.s.scripts.count(x.p.name(), user, p.times) {
			x.plan = p
			x.named()
			return rest, nil
		}
		x.plan = p.withoutFault()
		return rest, nil
	}
	x.scripted()
	return rest, nil
}

// scripted sets the plan from the armed scripts.
func (x *exchange) scripted() {
	if p := x.s.scripts.take(x.p, x.path, x.body); p != nil {
		x.plan = p
	}
	x.named()
}

// named tells the log which fault is being played, while it is played.
func (x *exchange) named() {
	if x.plan.fault == "stale" {
		x.c.stale = true
	}
	if x.plan.fault != "" {
		x.rec.update(func(a *Attempt) { a.Fault = x.plan.fault })
	}
}

// withoutFault is the plan once its fault is spent: the answer and its pace stay.
func (p *plan) withoutFault() *plan {
	q := *p
	q.fault, q.status = "", 0
	return &q
}
