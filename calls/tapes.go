package calls

import (
	"container/list"
	"context"
	"sync"
	"time"

	"threadhub/internal/id"
)

// Tapes are those of this process's calls that run, and of those that ended a while ago; and, where processes share them,
// those of the others. Safe for concurrent use.
type Tapes interface {
	// Begin makes the tape of a call of this process found.
	Begin(t *Tape)

	// End says that nothing more comes onto t, and whether it holds a complete answer, and keeps it for a while. The first
	// time counts. t may be nil.
	End(t *Tape, complete bool)

	// Clear lets go of this process's tapes of calls that have ended, for want of memory.
	Clear()

	// Tape returns the tape of a call of this process that who may hear; nil if there is none.
	Tape(call id.Request, who Listener) *Tape

	// Alike returns the tape of this process's newest call with the same request; nil if there is none.
	Alike(finger int64, hash string, who Listener) *Tape

	// Follow returns the tape of another process's call, with what is known of it, and goes on with it as more becomes
	// known, until the caller, who is counted as a reader, calls its Follow with -1. t is nil where processes do not share
	// their tapes. The error says that what they share cannot be heard now. It waits no longer than a command may take.
	Follow(ctx context.Context, call id.Request, who Listener, stream bool) (t *Tape, err error)

	// Left returns the events that a stream of a process that died has left; nil if nothing is known of it.
	Left(ctx context.Context, call id.Request, who Listener) ([]byte, error)

	Close() error
}

const (
	tapeFor   = 10 * time.Minute
	tapeBytes = 64 << 20 // of calls that have ended
)

// LocalTapes are the tapes of a process that shares them with nobody. Of ended calls it keeps as many as 64 MiB hold, for
// ten minutes.
type LocalTapes struct {
	keepFor   time.Duration
	keepBytes int

	mu     sync.Mutex
	byCall map[id.Request]*Tape
	byWord map[int64]*Tape // the newest of each finger
	ended  list.List       // of *Tape, in the order they ended
	size   int             // bytes of those
}

// NewLocalTapes returns no tapes yet.
func NewLocalTapes() *LocalTapes {
	return &LocalTapes{keepFor: tapeFor, keepBytes: tapeBytes, byCall: map[id.Request]*Tape{}, byWord: map[int64]*Tape{}}
}

// Begin is Tapes'.
func (l *LocalTapes) Begin(t *Tape) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byCall[t.Call] = t
	l.byWord[t.Finger] = t
}

// End is Tapes'.
func (l *LocalTapes) End(t *Tape, complete bool) {
	if t == nil || !t.end(complete) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended.PushBack(t)
	l.size += len(t.body)
	l.trim(l.keepBytes)
}

// Clear is Tapes'.
func (l *LocalTapes) Clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trim(-1)
}

// trim lets go of those that ended too long ago, and of as many others, the oldest first, that no more than so many bytes
// are left. l.mu is held.
func (l *LocalTapes) trim(bytes int) {
	for e := l.ended.Front(); e != nil; e = l.ended.Front() {
		old := e.Value.(*Tape)
		if l.size <= bytes && time.Since(old.ended) < l.keepFor {
			break
		}
		l.ended.Remove(e)
		l.size -= len(old.body)
		delete(l.byCall, old.Call)
		if l.byWord[old.Finger] == old {
			delete(l.byWord, old.Finger)
		}
	}
}

// Tape is Tapes'.
func (l *LocalTapes) Tape(call id.Request, who Listener) *Tape {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.byCall[call]; t != nil && t.For == who {
		return t
	}
	return nil
}

// Alike is Tapes'.
func (l *LocalTapes) Alike(finger int64, hash string, who Listener) *Tape {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.byWord[finger]; t != nil && t.For == who && t.Hash == hash {
		return t
	}
	return nil
}

// Follow is Tapes': nobody else's are known.
func (l *LocalTapes) Follow(context.Context, id.Request, Listener, bool) (*Tape, error) {
	return nil, nil
}

// Left is Tapes': what a process kept has died with it.
func (l *LocalTapes) Left(context.Context, id.Request, Listener) ([]byte, error) { return nil, nil }

// Close does nothing: it starts nothing.
func (l *LocalTapes) Close() error { return nil }
