package gateway

import (
	"runtime"
	runtimemetrics "runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"threadhub/calls"
	"threadhub/internal/chaos"
	"threadhub/internal/contain"
	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// loads are the calls under way, by org, with what each of them holds in memory. They let calls in, and end some when
// there is no other way, as overload.go decides.
type loads struct {
	most   int
	limit  int64        // of memory; 0: none
	memory func() int64 // in use
	m      *gatewayLoad
	tapes  calls.Tapes
	panics *contain.Panics

	level atomic.Int32 // the stage

	mu    sync.Mutex
	all   map[*load]struct{}
	calls map[id.Org]int
	heavy map[id.Org]bool // while the stage is tight
}

// load is one call under way. All methods may be called on nil, which is a request that is no call.
type load struct {
	of    *loads
	org   id.Org
	bytes atomic.Int64 // of request and answer that are held for it

	// Of a stream: how it is ended, and its connection broken if it does not take that; under of.mu.
	end   func(cause error)
	cut   func()
	ended time.Time // when it was told to end
}

const (
	loadLook = 100 * time.Millisecond // how often memory is looked at
	loadGC   = time.Second            // how old the count of live memory may be where it matters
	loadCut  = time.Second            // how long a stream has to end before its connection is cut
)

// errOverloaded is the cause with which a stream is ended for its memory.
var errOverloaded = fault.New(fault.Unavailable, "the gateway is short of memory and ended this answer").WithCode("overloaded").After(time.Second)

func newLoads(o *Options, m *gatewayLoad, tapes calls.Tapes) *loads {
	return &loads{
		most: o.MaxCalls, limit: o.MemoryLimit, memory: o.memory, m: m, tapes: tapes, panics: o.Panics,
		all: map[*load]struct{}{}, calls: map[id.Org]int{},
	}
}

// begin lets a call of org in, or says why not. done must be called on it.
func (l *loads) begin(org id.Org, stream bool) (*load, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := standing{
		stage: l.stage(), most: l.most, calls: len(l.all), orgs: len(l.calls), own: l.calls[org],
		heavy: l.heavy[org], stream: stream,
	}
	if err, why := s.refuse(); err != nil {
		l.m.refused.WithLabelValues(string(why)).Inc()
		return nil, err
	}
	c := &load{of: l, org: org}
	l.all[c] = struct{}{}
	l.calls[org]++
	return c, nil
}

// done ends a call; again does nothing.
func (c *load) done() {
	if c == nil {
		return
	}
	l := c.of
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, there := l.all[c]; !there {
		return
	}
	delete(l.all, c)
	if l.calls[c.org]--; l.calls[c.org] == 0 {
		delete(l.calls, c.org)
	}
}

// holds adds n bytes to what is held for the call.
func (c *load) holds(n int) {
	if c != nil {
		c.bytes.Add(int64(n))
	}
}

// streams says how the call can be ended from now on.
func (c *load) streams(end func(cause error), cut func()) {
	if c == nil {
		return
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.end, c.cut = end, cut
}

// stage is how near its limit memory is. nil has none.
func (l *loads) stage() stage {
	if l == nil {
		return calm
	}
	return stage(l.level.Load())
}

// watch looks at memory again and again until stop is closed.
func (l *loads) watch(stop <-chan struct{}) {
	if l.limit <= 0 {
		return
	}
	tick := time.NewTicker(loadLook)
	defer tick.Stop()
	var collected time.Time
	for {
		select {
		case now := <-tick.C:
			// What was let go of counts as used until it is collected; where streams are ended for it, no more of them must
			// be ended than need be.
			if s := l.stage(); s == dire || s > calm && now.Sub(collected) >= loadGC {
				runtime.GC()
				collected = now
			}
			l.panics.Run("overload", func() { l.look(now) })
		case <-stop:
			return
		}
	}
}

// look sets the stage, and does what follows from it.
func (l *loads) look(now time.Time) {
	chaos.Point("overload")
	used := l.memory()
	s := l.stage().next(used, l.limit)
	l.level.Store(int32(s))
	l.m.stage.Set(float64(s))
	if s >= tight {
		l.tapes.Clear()
	}
	end, cut := l.toEnd(s, now, used)
	for _, c := range end {
		l.m.ended.Inc()
		c.end(errOverloaded)
	}
	for _, c := range cut {
		c.cut()
	}
}

// toEnd notes who holds much, and chooses the streams that are to end and those that are to be cut.
func (l *loads) toEnd(s stage, now time.Time, used int64) (end, cut []*load) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heavy = nil
	if s >= tight {
		l.heavy = heaviest(l.held())
	}
	if s >= dire {
		end = l.chosen(now, excess(used, l.limit))
	}
	return end, l.stuck(now)
}

// held is what each org holds. l.mu is held.
func (l *loads) held() map[id.Org]int64 {
	held := map[id.Org]int64{}
	for c := range l.all {
		held[c.org] += c.bytes.Load()
	}
	return held
}

// chosen are the streams to be ended now. What was told to end already counts as if it had. l.mu is held.
func (l *loads) chosen(now time.Time, excess int64) []*load {
	var streams []holding[*load]
	for c := range l.all {
		switch {
		case c.end == nil:
		case c.ended.IsZero():
			streams = append(streams, holding[*load]{c, c.bytes.Load()})
		default:
			excess -= c.bytes.Load()
		}
	}
	if excess <= 0 {
		return nil
	}
	chosen := largest(streams, excess)
	for _, c := range chosen {
		c.ended = now
	}
	return chosen
}

// stuck are the streams that were told to end and have not: their clients do not read. l.mu is held.
func (l *loads) stuck(now time.Time) (stuck []*load) {
	for c := range l.all {
		if !c.ended.IsZero() && now.Sub(c.ended) >= loadCut {
			stuck = append(stuck, c)
		}
	}
	return stuck
}

// memoryInUse is what the process holds of the runtime's memory, but for what waits to be collected: what was alive when
// it was last looked, and all that is no heap. The runtime looks before its limit is reached.
func memoryInUse() int64 {
	s := []runtimemetrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
	}
	runtimemetrics.Read(s)
	n := int64(0)
	for i := range s {
		v := int64(s[i].Value.Uint64())
		if i > 1 {
			v = -v
		}
		n += v
	}
	return n
}
