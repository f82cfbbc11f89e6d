// Package signatures remembers for a while with what models signed their calls of functions. Such a model wants its
// signature back with the call, in an extra member of the message; most clients drop what they do not know.
//
// It promises that a signature is found only for the org and the family of models it was given to, that memory is
// bounded, that nobody waits for long whatever becomes of Redis, and that Redis is shown neither signatures nor whose
// they are. It does not promise to find anything: a call without a signature is answered less well, not wrongly.
package signatures

import (
	"container/list"
	"context"
	"log/slog"
	"sync"
	"time"

	"threadhub/internal/contain"
	"threadhub/internal/id"
)

// Store is a memory of signatures. Safe for concurrent use.
type Store interface {
	// Keep remembers signatures by the names of their calls. maker names who understands them: a provider and a family of
	// its models. It does not wait. What is too large to be one is left.
	Keep(org id.Org, maker string, signed map[string]string)

	// Find returns those of ids that are remembered, and remembers them for longer where it found them.
	Find(ctx context.Context, org id.Org, maker string, ids []string) map[string]string

	Close() error
}

// Options of a Store. The zero value works, but for a Redis, which needs a Secret.
type Options struct {
	TTL      time.Duration    // how long a signature is remembered after it was last seen; 0: an hour
	MaxBytes int64            // what this process may hold; 0: 32 MiB
	Now      func() time.Time // nil: time.Now

	// Of a Redis alone.
	Secret  []byte        // what it is given is sealed with this, at least 32 bytes, the same for all processes of an installation
	Timeout time.Duration // the longest Find waits for it; 0: 30 ms
	Log     *slog.Logger
	Panics  *contain.Panics // nil: of its own
}

func (o Options) withDefaults() Options {
	if o.TTL == 0 {
		o.TTL = time.Hour
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 32 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Panics == nil {
		o.Panics = contain.New(o.Log)
	}
	return o
}

// What is larger is nobody's id or signature.
const (
	maxID        = 512
	maxSignature = 128 << 10
)

// call is one call of a function.
type call struct {
	org   id.Org
	maker string
	id    string
}

// Local remembers within this process.
type Local struct {
	o Options

	mu    sync.Mutex
	known map[call]*list.Element
	order list.List // of *entry, the one seen longest ago in front: it ends first, and goes first where room is short
	bytes int64
}

type entry struct {
	call
	signature string
	ends      time.Time
}

// size is about what an entry takes, with what the map and the list need for it.
func (e *entry) size() int64 {
	return int64(len(e.org)+len(e.maker)+len(e.id)+len(e.signature)) + 256
}

// NewLocal returns an empty memory within this process.
func NewLocal(o Options) *Local { return &Local{o: o.withDefaults(), known: map[call]*list.Element{}} }

// Keep is Store's.
func (l *Local) Keep(org id.Org, maker string, signed map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, s := range signed {
		if fits(id, s) {
			l.put(call{org, maker, id}, s)
		}
	}
}

func fits(id, signature string) bool {
	return id != "" && len(id) <= maxID && signature != "" && len(signature) <= maxSignature
}

func (l *Local) put(c call, signature string) {
	if at := l.known[c]; at != nil {
		l.drop(at)
	}
	e := &entry{c, signature, l.o.Now().Add(l.o.TTL)}
	l.known[c] = l.order.PushBack(e)
	l.bytes += e.size()
	now := l.o.Now()
	for at := l.order.Front(); at != nil; at = l.order.Front() {
		if l.bytes <= l.o.MaxBytes && now.Before(at.Value.(*entry).ends) {
			break
		}
		l.drop(at)
	}
}

func (l *Local) drop(at *list.Element) {
	e := l.order.Remove(at).(*entry)
	l.bytes -= e.size()
	delete(l.known, e.call)
}

// Find is Store's. It does not wait.
func (l *Local) Find(_ context.Context, org id.Org, maker string, ids []string) map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := make(map[string]string, len(ids))
	now := l.o.Now()
	for _, id := range ids {
		at := l.known[call{org, maker, id}]
		if at == nil {
			continue
		}
		e := at.Value.(*entry)
		if !now.Before(e.ends) {
			l.drop(at)
			continue
		}
		found[id] = e.signature
		e.ends = now.Add(l.o.TTL)
		l.order.MoveToBack(at)
	}
	return found
}

// Close does nothing: a Local starts nothing.
func (l *Local) Close() error { return nil }
