package orgs

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"threadhub/internal/fault"
)

var errDown = fault.New(fault.Unavailable, "down").WithCode("storage_unavailable")

// always answers with v and counts.
func always(v string, n *atomic.Int64) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { n.Add(1); return v, nil }
}

func fails(err error) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return "", err }
}

func TestCacheAsksOnceForManyAndAgainAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[int, string](30*time.Second, time.Minute, 100, time.Now)
		var asked atomic.Int64
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				v, err := c.load(t.Context(), 1, func(context.Context) (string, error) {
					asked.Add(1)
					time.Sleep(time.Second) // virtual
					return "a", nil
				})
				if v != "a" || err != nil {
					t.Errorf("got %q, %v", v, err)
				}
			})
		}
		wg.Wait()
		if asked.Load() != 1 {
			t.Fatalf("asked %d times for one answer", asked.Load())
		}
		time.Sleep(18 * time.Second)
		if _, ok := c.hit(1); !ok {
			t.Fatal("forgotten within the first two thirds")
		}
		time.Sleep(11 * time.Second) // 30 s after the question was put, 29 after it was answered
		if _, ok := c.hit(1); ok {
			t.Fatal("trusted for longer than its ttl, counted from the question")
		}
	})
}

func TestCacheSpreadsTheEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[int, string](30*time.Second, time.Minute, 10_000, time.Now)
		var n atomic.Int64
		for k := range 3000 {
			if _, err := c.load(t.Context(), k, always("a", &n)); err != nil {
				t.Fatal(err)
			}
		}
		left := 3000
		for second := 20; second < 30; second++ {
			now := time.Now().Add(time.Duration(second+1) * time.Second) // none has passed in this bubble
			still := 0
			for _, half := range []map[int]entry[string]{c.young, c.old} {
				for _, e := range half {
					if now.Before(e.fresh) {
						still++
					}
				}
			}
			if ended := left - still; ended > 600 {
				t.Fatalf("%d of 3000 answers end in second %d", ended, second)
			}
			left = still
		}
		if left != 0 {
			t.Fatalf("%d answers outlive the ttl", left)
		}
	})
}

func TestCacheServesWhatItHasWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[int, string](30*time.Second, time.Minute, 100, time.Now)
		var n atomic.Int64
		if _, err := c.load(t.Context(), 1, always("a", &n)); err != nil {
			t.Fatal(err)
		}
		var asked int
		down := func(context.Context) (string, error) { asked++; return "", errDown }
		for range 29 {
			time.Sleep(time.Second)
			for range 100 {
				if v, err := c.load(t.Context(), 1, down); v != "a" || err != nil {
					t.Fatalf("got %q, %v", v, err)
				}
			}
		}
		if asked > 12 { // none, if this answer was to stay fresh for nearly all of it
			t.Fatalf("asked a store that is away %d times", asked)
		}
		time.Sleep(time.Second)
		if _, err := c.load(t.Context(), 1, down); !fault.Is(err, fault.Unavailable) {
			t.Fatalf("30 s later: %v", err)
		}
		if _, err := c.load(t.Context(), 2, down); !fault.Is(err, fault.Unavailable) {
			t.Fatalf("never seen: %v", err)
		}
	})
}

func TestCacheForgetsWhatTheStoreDenies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[int, string](30*time.Second, time.Minute, 100, time.Now)
		var n atomic.Int64
		if _, err := c.load(t.Context(), 1, always("a", &n)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(29 * time.Second)
		for c.young[1].fresh.After(time.Now()) {
			time.Sleep(100 * time.Millisecond)
		}
		if _, err := c.load(t.Context(), 1, fails(refused())); !fault.Is(err, fault.Unauthorized) {
			t.Fatalf("got %v", err)
		}
		if v, err := c.load(t.Context(), 1, fails(errDown)); err == nil {
			t.Fatalf("a denied answer %q came back when the store went away", v)
		}
	})
}

// An answer read before an invalidation must not be there after it, and who comes after must not get it either.
func TestInvalidationOvertakesALookUp(t *testing.T) {
	for name, invalidate := range map[string]func(*cache[int, string]){
		"forget": func(c *cache[int, string]) { c.forget(1) },
		"drop":   func(c *cache[int, string]) { c.drop(func(int, string) bool { return false }) },
		"clear":  func(c *cache[int, string]) { c.clear() },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache[int, string](time.Hour, time.Minute, 100, time.Now)
			reading, proceed := make(chan struct{}), make(chan struct{})
			first := make(chan string)
			go func() {
				v, _ := c.load(context.Background(), 1, func(context.Context) (string, error) {
					close(reading)
					<-proceed
					return "old", nil
				})
				first <- v
			}()
			<-reading
			invalidate(c)
			var n atomic.Int64
			if v, err := c.load(t.Context(), 1, always("new", &n)); v != "new" || err != nil {
				t.Fatalf("after the invalidation: %q, %v", v, err)
			}
			close(proceed)
			if v := <-first; v != "old" {
				t.Fatalf("the first caller got %q", v)
			}
			if v, ok := c.hit(1); !ok || v != "new" {
				t.Fatalf("the cache holds %q, %v", v, ok)
			}
		})
	}
}

func TestCacheIsBoundedAndKeepsWhatIsUsed(t *testing.T) {
	c := newCache[int, int](time.Hour, time.Minute, 100, time.Now)
	c.put(-1, 1)
	for k := range 10_000 {
		c.put(k, k)
		if n := len(c.young) + len(c.old); n > 100 {
			t.Fatalf("%d entries", n)
		}
		if _, ok := c.hit(-1); !ok {
			t.Fatalf("what is used all the time is gone after %d others", k)
		}
	}
	if _, ok := c.hit(9_999); !ok {
		t.Fatal("the newest is gone")
	}
}

func TestAWaiterMayLeaveAndTheLeaderMayNotSpoilIt(t *testing.T) {
	c := newCache[int, string](time.Hour, time.Minute, 100, time.Now)
	reading, proceed := make(chan struct{}), make(chan struct{})
	leader, leave := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := c.load(leader, 1, func(ctx context.Context) (string, error) {
			close(reading)
			<-proceed
			return "a", ctx.Err() // the leader's own leaving must not show here
		})
		done <- err
	}()
	<-reading
	leave()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.load(gone, 1, fails(errors.New("not asked"))); !fault.Is(err, fault.Unavailable) {
		t.Fatalf("a waiter that left got %v", err)
	}
	close(proceed)
	if err := <-done; err != nil {
		t.Fatalf("the look-up died with its first caller: %v", err)
	}
	if v, ok := c.hit(1); !ok || v != "a" {
		t.Fatalf("the cache holds %q, %v", v, ok)
	}
}

func TestAPanickingLookUpLeavesNothingBehind(t *testing.T) {
	c := newCache[int, string](time.Hour, time.Minute, 100, time.Now)
	func() {
		defer func() { _ = recover() }()
		_, _ = c.load(t.Context(), 1, func(context.Context) (string, error) { panic("bang") })
	}()
	var n atomic.Int64
	if v, err := c.load(t.Context(), 1, always("a", &n)); v != "a" || err != nil {
		t.Fatalf("got %q, %v", v, err)
	}
}

func BenchmarkCacheHit(b *testing.B) {
	c := newCache[int, string](time.Hour, time.Minute, 100, time.Now)
	c.put(1, "a")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, ok := c.hit(1); !ok {
				b.Error("missed")
			}
		}
	})
}
