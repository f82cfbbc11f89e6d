// Package bus tells the processes of one installation that something changed, so that their caches forget it.
//
// It promises that subscribers of the publishing process have run when Publish returns, whatever became of the rest, and
// that Publish never takes longer than its timeout. It does not promise that a message arrives elsewhere: whoever misses
// some is told by OnReset when it is joined again, and what is cached must end by itself in any case. So a message may
// only ever make a cache forget: one that is lost, foreign or forged costs a look-up and nothing else.
package bus

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// Bus carries short messages by topic. Safe for concurrent use.
type Bus interface {
	// Publish calls this process's subscribers of topic, then hands the message to the other processes. An error says
	// that they may not get it: log it, and go on.
	Publish(ctx context.Context, topic, payload string) error

	// Subscribe calls f with each message of topic until cancel is called. f runs on the publisher's or the bus's own
	// goroutine: it must be quick, and must not call the bus.
	Subscribe(topic string, f func(payload string)) (cancel func())

	// OnReset calls f whenever messages may have been missed: everything cached is to be dropped. As for Subscribe.
	OnReset(f func()) (cancel func())
}

// Local is the bus of a process that is alone. The zero Local is ready.
type Local struct{ hub }

// NewLocal returns a bus within this process.
func NewLocal() *Local { return &Local{} }

// Publish calls the subscribers. It does not fail.
func (l *Local) Publish(_ context.Context, topic, payload string) error {
	l.tell(topic, payload)
	return nil
}

// Close does nothing: a Local starts nothing.
func (l *Local) Close() error { return nil }

// hub is who listens in this process.
type hub struct {
	mu     sync.Mutex
	next   int
	topics map[string]map[int]func(string)
	resets map[int]func()
}

func (h *hub) Subscribe(topic string, f func(payload string)) (cancel func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.topics == nil {
		h.topics = map[string]map[int]func(string){}
	}
	if h.topics[topic] == nil {
		h.topics[topic] = map[int]func(string){}
	}
	h.next++
	n := h.next
	h.topics[topic][n] = f
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.topics[topic], n)
	}
}

func (h *hub) OnReset(f func()) (cancel func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.resets == nil {
		h.resets = map[int]func(){}
	}
	h.next++
	n := h.next
	h.resets[n] = f
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.resets, n)
	}
}

// tell and reset call out without the lock, so that a subscriber may cancel.
func (h *hub) tell(topic, payload string) {
	h.mu.Lock()
	fs := slices.Collect(maps.Values(h.topics[topic]))
	h.mu.Unlock()
	for _, f := range fs {
		f(payload)
	}
}

func (h *hub) reset() {
	h.mu.Lock()
	fs := slices.Collect(maps.Values(h.resets))
	h.mu.Unlock()
	for _, f := range fs {
		f()
	}
}
