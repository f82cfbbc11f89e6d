package gateway

import (
	"context"
	"sync"
	"time"

	"threadhub/internal/id"
	"threadhub/internal/seedbug"
)

// turnstile lets this process's requests into a thread one after the other, in the order they came. It decides nothing:
// the turn itself is taken in the store, where other processes want it too. It saves them from asking while one of
// their own is inside.
type turnstile struct {
	mu    sync.Mutex
	lines map[turnKey][]chan struct{} // the first is inside; a channel is closed when its turn has come
}

type turnKey struct {
	org    id.Org
	thread id.Thread
}

func newTurnstile() *turnstile { return &turnstile{lines: map[turnKey][]chan struct{}{}} }

// enter waits until the caller is first in line, and returns how to leave. ok is false, and nothing is held, when wait or
// ctx has ended before. leave may be called more than once.
func (t *turnstile) enter(ctx context.Context, org id.Org, thread id.Thread, wait time.Duration) (leave func(), ok bool) {
	k := turnKey{org, thread}
	me := make(chan struct{})
	t.mu.Lock()
	t.lines[k] = append(t.lines[k], me)
	if len(t.lines[k]) == 1 {
		close(me)
	}
	t.mu.Unlock()
	leave = sync.OnceFunc(func() { t.leave(k, me) })
	if seedbug.On("keep-turn") {
		leave = func() {}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-me:
		return leave, true
	case <-timer.C:
	case <-ctx.Done():
	}
	leave()
	return nil, false
}

// wanted reports whether anybody waits to get into the thread.
func (t *turnstile) wanted(org id.Org, thread id.Thread) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.lines[turnKey{org, thread}]) > 1
}

func (t *turnstile) leave(k turnKey, me chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := t.lines[k]
	for i, c := range line {
		if c != me {
			continue
		}
		line = append(line[:i:i], line[i+1:]...)
		if i == 0 && len(line) > 0 {
			close(line[0])
		}
		break
	}
	if len(line) == 0 {
		delete(t.lines, k)
		return
	}
	t.lines[k] = line
}
