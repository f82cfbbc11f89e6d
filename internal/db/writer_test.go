package db

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"threadhub/internal/fault"
)

// gate is a backend that holds each group until it is let through.
type gate struct {
	pass   chan error
	groups chan []*Unit
}

func newGate() *gate { return &gate{make(chan error), make(chan []*Unit, 1<<16)} }

func (g *gate) group(units []*Unit) {
	g.groups <- units
	err := <-g.pass
	for _, u := range units {
		u.finish(err)
	}
}

// submit commits n units in the background and returns what collects their errors.
func submit(w *writer, n int, record bool) (wait func() []error) {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = w.commit(context.Background(), &Unit{Record: record}) })
	}
	return func() []error { wg.Wait(); return errs }
}

func waiting(w *writer) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain for " + what)
		}
	}
}

func TestWhatWaitsIsOneGroupRecordsFirst(t *testing.T) {
	g := newGate()
	w := newWriter(g, newBreaker(), nil)
	first := submit(w, 1, false)
	until(t, "the first unit to be taken", func() bool { return len(g.groups) == 1 })
	opens := submit(w, 5, false)
	until(t, "the opens to wait", func() bool { return waiting(w) == 5 })
	records := submit(w, 5, true)
	until(t, "the records to wait", func() bool { return waiting(w) == 10 })
	g.pass <- nil
	first()
	<-g.groups
	group := <-g.groups
	if len(group) != 10 {
		t.Fatalf("%d units in the second group, want all 10 that waited", len(group))
	}
	for i, u := range group {
		if u.Record != (i < 5) {
			t.Errorf("unit %d: record %v; records come first, so that a freed turn can be taken", i, u.Record)
		}
	}
	g.pass <- nil
	opens()
	records()
	w.close()
}

func TestAFullQueueRefusesOpensAndTakesRecords(t *testing.T) {
	g := newGate()
	w := newWriter(g, newBreaker(), nil)
	w.now = func() time.Time { return time.Unix(0, 0) } // nobody gets old
	first := submit(w, 1, false)
	until(t, "the first unit to be taken", func() bool { return len(g.groups) == 1 })
	many := submit(w, maxQueueUnits, false)
	until(t, "the queue to fill", func() bool { return waiting(w) == maxQueueUnits })
	if err := w.commit(context.Background(), &Unit{}); !fault.HasCode(err, "busy") {
		t.Errorf("one more open: %v, want busy", err)
	}
	record := submit(w, 1, true)
	until(t, "the record to wait", func() bool { return waiting(w) == maxQueueUnits+1 })
	go func() {
		for range cap(g.groups) {
			select {
			case g.pass <- nil:
			case <-w.done:
				return
			}
		}
	}()
	for _, errs := range [][]error{first(), many(), record()} {
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	w.close()
}

func TestAnOldQueueRefuses(t *testing.T) {
	g := newGate()
	w := newWriter(g, newBreaker(), nil)
	var mu sync.Mutex
	now := time.Unix(0, 0)
	w.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	first := submit(w, 1, false)
	until(t, "the first unit to be taken", func() bool { return len(g.groups) == 1 })
	second := submit(w, 1, false)
	until(t, "the second to wait", func() bool { return waiting(w) == 1 })
	mu.Lock()
	now = now.Add(maxQueueAge + time.Millisecond)
	mu.Unlock()
	if err := w.commit(context.Background(), &Unit{}); !fault.HasCode(err, "busy") {
		t.Errorf("behind a unit that waits too long: %v, want busy", err)
	}
	g.pass <- nil
	g.pass <- nil
	first()
	second()
	w.close()
}

func TestTheBreakerLetsOneProbeThroughASecond(t *testing.T) {
	g := newGate()
	w := newWriter(g, newBreaker(), nil)
	var mu sync.Mutex
	now := time.Unix(0, 0)
	w.breaker.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	for range breakAfter {
		w.breaker.reached(false)
	}
	if err := w.commit(context.Background(), &Unit{}); !fault.HasCode(err, "storage_unavailable") {
		t.Fatalf("after %d failures: %v, want storage_unavailable at once", breakAfter, err)
	}
	mu.Lock()
	now = now.Add(probeEach)
	mu.Unlock()
	probe := submit(w, 1, false)
	until(t, "the probe to be taken", func() bool { return len(g.groups) == 1 })
	if err := w.commit(context.Background(), &Unit{}); !fault.HasCode(err, "storage_unavailable") {
		t.Errorf("beside the probe: %v, want storage_unavailable", err)
	}
	w.breaker.reached(true)
	g.pass <- nil
	probe()
	after := submit(w, 1, false)
	g.pass <- nil
	if errs := after(); errs[0] != nil {
		t.Errorf("after the store was reached: %v", errs[0])
	}
	w.close()
}

func TestCloseCommitsWhatWaits(t *testing.T) {
	g := newGate()
	w := newWriter(g, newBreaker(), nil)
	units := submit(w, 3, true)
	until(t, "all to be there", func() bool { return waiting(w)+len(g.groups) > 0 })
	go func() {
		for {
			select {
			case g.pass <- nil:
			case <-w.done:
				return
			}
		}
	}()
	for _, err := range units() {
		if err != nil {
			t.Error(err)
		}
	}
	w.close()
	if err := w.commit(context.Background(), &Unit{}); !fault.HasCode(err, "draining") {
		t.Errorf("after close: %v, want draining", err)
	}
}

func BenchmarkWriter(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			w := newWriter(instant{}, newBreaker(), nil)
			b.SetParallelism(callers)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_ = w.commit(context.Background(), &Unit{Record: true})
				}
			})
			w.close()
		})
	}
}

type instant struct{}

func (instant) group(units []*Unit) {
	for _, u := range units {
		u.finish(nil)
	}
}
