package limits

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

// clock is the time of a test, which is an input.
type clock struct{ ms atomic.Int64 }

func (c *clock) now() time.Time { return time.UnixMilli(c.ms.Load()) }

// world is some processes with the same limits.
type world struct {
	*clock
	all []Limiter
	org id.Org
}

// process is the one that is asked next: where there are several, each in its turn.
func (w *world) process() Limiter {
	w.all = append(w.all[1:], w.all[0])
	return w.all[0]
}

// tell has the processes that share limits tell each other what they know, and give back what they have leased.
func (w *world) tell() {
	for _, l := range w.all {
		if r, ok := l.(*Redis); ok {
			r.unlease()
			r.tick()
		}
	}
}

func (r *Redis) unlease() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.orgs {
		for _, b := range s.buckets {
			b.leased = 0
		}
	}
}

// pass lets time pass, in which nothing is left untold.
func (w *world) pass(d time.Duration) {
	w.tell()
	w.ms.Add(d.Milliseconds())
	w.tell()
}

// patience is what tests wait for Redis, on however busy a machine.
const patience = time.Second

// backends are what the suite runs on.
var backends = map[string]func(t testing.TB) *world{
	"in process": func(testing.TB) *world {
		w := &world{clock: newClock(), org: newOrg()}
		w.all = []Limiter{NewLocal(Options{Now: w.now})}
		return w
	},
	"redis": func(t testing.TB) *world { return newWorld(t, connect(t, testkit.Redis(t)), 1) },
	"redis, two processes": func(t testing.TB) *world {
		return newWorld(t, connect(t, testkit.Redis(t)), 2)
	},
}

func newClock() *clock {
	c := &clock{}
	c.ms.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli())
	return c
}

func newOrg() id.Org { return id.Org("org_" + strings.ToLower(rand.Text())) }

// connect is a client of a Redis until the test is over.
func connect(t testing.TB, url string) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled} // or it logs by itself
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// newWorld is some processes at a Redis whose clock is the test's.
func newWorld(t testing.TB, client *redis.Client, processes int) *world {
	w := &world{clock: newClock(), org: newOrg()}
	for range processes {
		w.all = append(w.all, w.join(t, client, processes))
	}
	return w
}

func (w *world) join(t testing.TB, client *redis.Client, replicas int) *Redis {
	r := NewRedis(client, Options{
		Now: w.now, Timeout: patience, Replicas: func() int { return replicas }, redisTime: w.ms.Load, noTicks: true,
	})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func requests(limit int64) Level { return Level{Scope: Key, ID: "k", Kind: Requests, Limit: limit} }
func tokens(limit int64) Level   { return Level{Scope: Key, ID: "k", Kind: Tokens, Limit: limit} }
func streams(limit int64) Level  { return Level{Scope: Key, ID: "k", Kind: Streams, Limit: limit} }

func (l Level) of(scope Scope, id string) Level { l.Scope, l.ID = scope, id; return l }
func (l Level) at(model string) Level           { l.Model = model; return l }
func (l Level) want(n int64) Want               { return Want{Level: l, N: n} }

// take takes wants and fails the test unless that is well.
func (w *world) take(t testing.TB, wants ...Want) *Grant {
	t.Helper()
	g := NewGrant(w.process(), w.org)
	if _, err := g.Take(t.Context(), wants); err != nil {
		t.Fatalf("refused: %v", err)
	}
	return g
}

// refused takes wants and fails the test unless they are refused. It returns how long there is to wait.
func (w *world) refused(t testing.TB, wants ...Want) time.Duration {
	t.Helper()
	rooms, err := NewGrant(w.process(), w.org).Take(t.Context(), wants)
	if !fault.HasCode(err, "rate_limit_exceeded") {
		t.Fatalf("not refused: %v, %v", rooms, err)
	}
	return fault.From(err).Retry
}

// fill takes of a level until it is refused, and returns how much that was.
func (w *world) fill(t testing.TB, want Want) (n int64) {
	t.Helper()
	for {
		_, err := NewGrant(w.process(), w.org).Take(t.Context(), []Want{want})
		if err != nil {
			if !fault.Is(err, fault.RateLimited) {
				t.Fatal(err)
			}
			return n
		}
		n += want.N
	}
}

func TestLimiter(t *testing.T) {
	for name, test := range map[string]func(*testing.T, *world){
		"a minute's worth at once, then as time passes":   testBurst,
		"whoever waits as told is let in":                 testWait,
		"all levels or none":                              testAllOrNone,
		"tokens are held, and counted by what was used":   testTokens,
		"more tokens than were thought are owed":          testOverdraft,
		"streams make room when they end":                 testStreams,
		"a call that was not made takes nothing":          testReturn,
		"a call whose use is unknown used what it took":   testLose,
		"a model that is left used nothing but requests":  testLeave,
		"what a call takes later is beside what it had":   testMore,
		"orgs, subjects and models are apart":             testApart,
		"more than there ever is is refused for good":     testTooLarge,
		"what is left, and when all of it is there again": testRoom,
		"a limit that changes counts what was taken":      testChange,
		"many at once get no more than there is":          testMany,
		"large limits too":                                testLarge,
	} {
		for backend, open := range backends {
			t.Run(backend+"/"+name, func(t *testing.T) { test(t, open(t)) })
		}
	}
}

func testBurst(t *testing.T, w *world) {
	level := requests(6)
	if n := w.fill(t, level.want(1)); n != 6 {
		t.Fatalf("%d at once", n)
	}
	w.pass(9999 * time.Millisecond)
	w.refused(t, level.want(1))
	w.pass(time.Millisecond)
	w.take(t, level.want(1))
	w.refused(t, level.want(1))
	w.pass(25 * time.Second)
	if n := w.fill(t, level.want(1)); n != 2 {
		t.Fatalf("%d after 25 seconds", n)
	}
	w.pass(time.Hour)
	if n := w.fill(t, level.want(1)); n != 6 {
		t.Fatalf("%d at once after an hour", n)
	}
}

func testWait(t *testing.T, w *world) {
	for _, limit := range []int64{1, 7, 61, 6000} {
		level := requests(limit).of(User, fmt.Sprint(limit))
		w.take(t, level.want(limit))
		for range 3 {
			wait := w.refused(t, level.want(1))
			w.pass(wait - time.Millisecond)
			w.refused(t, level.want(1))
			w.pass(time.Millisecond)
			w.take(t, level.want(1))
		}
	}
}

func testAllOrNone(t *testing.T, w *world) {
	org, key, few := requests(5).of(Org, "o"), requests(3), streams(2)
	for range 2 {
		w.take(t, org.want(1), key.want(1), few.want(1))
	}
	for range 5 {
		w.refused(t, org.want(1), key.want(1), few.want(1)) // for want of streams
	}
	w.tell()
	if n := w.fill(t, key.want(1)); n != 1 {
		t.Errorf("of the key's %d were left", n)
	}
	if n := w.fill(t, org.want(1)); n != 3 {
		t.Errorf("of the org's %d were left", n)
	}
}

func testTokens(t *testing.T, w *world) {
	level := tokens(60)
	a, b := w.take(t, level.want(30)), w.take(t, level.want(30))
	w.refused(t, level.want(1))
	w.pass(time.Minute)
	w.refused(t, level.want(1)) // they run, and may yet use it
	a.Settle(10)
	b.Settle(0)
	w.tell()
	if n := w.fill(t, level.want(1)); n != 50 {
		t.Errorf("%d were left", n)
	}
}

func testOverdraft(t *testing.T, w *world) {
	level := tokens(60)
	w.take(t, level.want(1)).Settle(180)
	w.tell()
	w.pass(2 * time.Minute) // of three
	if wait := w.refused(t, level.want(1)); wait != time.Second {
		t.Errorf("%v to wait", wait)
	}
	w.pass(time.Minute)
	if n := w.fill(t, level.want(1)); n != 60 {
		t.Errorf("%d were left", n)
	}
}

func testStreams(t *testing.T, w *world) {
	level := streams(2)
	first := w.take(t, level.want(1))
	w.take(t, level.want(1))
	if wait := w.refused(t, level.want(1)); wait != time.Second {
		t.Errorf("%v to wait", wait)
	}
	w.pass(time.Hour)
	w.refused(t, level.want(1))
	first.Settle(5)
	first.Settle(5) // once
	first.Return()
	w.tell()
	w.take(t, level.want(1))
	w.refused(t, level.want(1))
}

func testReturn(t *testing.T, w *world) {
	r, tk, s := requests(3), tokens(30), streams(3)
	for range 10 {
		w.take(t, r.want(3), tk.want(30), s.want(3)).Return()
		w.tell()
	}
	g := w.take(t, r.want(3), tk.want(30), s.want(3))
	w.refused(t, r.want(1))
	g.Settle(0)
}

func testLose(t *testing.T, w *world) {
	r, tk, s := requests(3), tokens(30), streams(3)
	w.take(t, r.want(1), tk.want(10), s.want(1)).Lose()
	w.tell()
	if n := w.fill(t, tk.want(1)); n != 20 {
		t.Errorf("%d tokens were left", n)
	}
	if n := w.fill(t, s.want(1)); n != 3 {
		t.Errorf("%d streams were left", n)
	}
	if n := w.fill(t, r.want(1)); n != 2 {
		t.Errorf("%d requests were left", n)
	}
}

func testLeave(t *testing.T, w *world) {
	all, one, other := tokens(90), tokens(90).at("one"), tokens(90).at("other")
	r := requests(2).at("one")
	g := w.take(t, all.want(40))
	for _, wants := range [][]Want{{one.want(40), r.want(1)}, {other.want(40)}} {
		if _, err := g.Take(t.Context(), wants); err != nil {
			t.Fatal(err)
		}
	}
	g.Leave(func(model string) bool { return model == "one" })
	g.Settle(50)
	w.tell()
	for level, left := range map[Level]int64{all: 40, one: 90, other: 40, r: 1} {
		if n := w.fill(t, level.want(1)); n != left {
			t.Errorf("of %+v %d were left", level, n)
		}
	}
}

func testMore(t *testing.T, w *world) {
	level := tokens(60)
	g := w.take(t, level.want(10))
	for range 2 { // the same again is nothing more
		if _, err := g.Take(t.Context(), []Want{level.want(60)}); err != nil {
			t.Fatal(err)
		}
		w.tell()
		w.refused(t, level.want(1))
	}
	if _, err := g.Take(t.Context(), []Want{level.want(61)}); !fault.HasCode(err, "tokens_exceed_limit") {
		t.Fatalf("more than there ever is: %v", err)
	}
	g.Settle(20) // once, not for each time it took
	w.tell()
	if n := w.fill(t, level.want(1)); n != 40 {
		t.Errorf("%d were left", n)
	}
}

func testApart(t *testing.T, w *world) {
	levels := []Level{
		requests(2), requests(2).of(User, "k"), requests(2).of(Org, "k"), requests(2).of(Key, "l"), requests(2).at("m"), requests(2).at("n"), tokens(2), streams(2),
	}
	for _, org := range []id.Org{w.org, newOrg()} {
		w.org = org
		for _, l := range levels {
			if n := w.fill(t, l.want(1)); n != 2 {
				t.Errorf("of %+v %d could be had", l, n)
			}
		}
	}
}

func testTooLarge(t *testing.T, w *world) {
	r, tk := requests(3), tokens(30)
	_, err := NewGrant(w.process(), w.org).Take(t.Context(), []Want{r.want(1), tk.want(31)})
	f := fault.From(err)
	if !fault.HasCode(err, "tokens_exceed_limit") || !f.Final || f.Kind != fault.RateLimited {
		t.Fatalf("%+v", f)
	}
	if n := w.fill(t, r.want(1)); n != 3 {
		t.Errorf("it took %d requests", 3-n)
	}
	w.take(t, tk.want(30))
}

func testRoom(t *testing.T, w *world) {
	r, tk := requests(6), tokens(600)
	g := NewGrant(w.process(), w.org)
	rooms, err := g.Take(t.Context(), []Want{r.want(1), tk.want(100)})
	if err != nil {
		t.Fatal(err)
	}
	want := []Room{{r, 5, 10 * time.Second}, {tk, 500, 10 * time.Second}}
	if fmt.Sprint(rooms) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", rooms, want)
	}
	g.Settle(30)
	w.pass(5 * time.Second)
	rooms, err = NewGrant(w.process(), w.org).Take(t.Context(), []Want{r.want(1), tk.want(10)})
	if err != nil {
		t.Fatal(err)
	}
	want = []Room{{r, 4, 15 * time.Second}, {tk, 590, time.Second}}
	if fmt.Sprint(rooms) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", rooms, want)
	}
	w.fill(t, r.want(1))
	rooms, err = NewGrant(w.process(), w.org).Take(t.Context(), []Want{tk.want(10), r.want(1)})
	if err == nil || len(rooms) != 2 || rooms[1].Left != 0 || rooms[0].Left < 590 {
		t.Errorf("refused: %v %v", rooms, err)
	}
}

func testChange(t *testing.T, w *world) {
	if n := w.fill(t, requests(4).want(1)); n != 4 {
		t.Fatal(n)
	}
	w.tell()
	if n := w.fill(t, requests(10).want(1)); n != 6 {
		t.Errorf("%d more when it was raised to 10", n)
	}
	w.tell()
	w.pass(30 * time.Second) // at 10 a minute
	w.refused(t, requests(5).want(1))
	w.pass(12 * time.Second) // at 5
	w.take(t, requests(5).want(1))
}

func testMany(t *testing.T, w *world) {
	level, other := requests(50), tokens(100_000).of(Org, "o")
	var let atomic.Int64
	var wg sync.WaitGroup
	for i := range 200 {
		l := w.all[i%len(w.all)]
		wg.Go(func() {
			switch _, err := l.Take(context.Background(), w.org, []Want{level.want(1), other.want(10)}); {
			case err == nil:
				let.Add(1)
			case !fault.Is(err, fault.RateLimited):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := let.Load(); n != 50 {
		t.Errorf("%d were let in", n)
	}
}

func testLarge(t *testing.T, w *world) {
	level := tokens(Most)
	for _, n := range []int64{Most / 2, Most/2 - 7} {
		w.take(t, level.want(n)).Settle(n)
		w.tell()
	}
	w.refused(t, level.want(8))
	w.take(t, level.want(7))
	w.pass(time.Millisecond)
	w.refused(t, level.want(Most/60_000+1))
	w.take(t, level.want(Most/60_000))
}

func TestRefusalsSayWhoseAndWhat(t *testing.T) {
	l := NewLocal(Options{})
	for want, level := range map[string]Level{
		"the API key is limited to 1 requests per minute; try again in 1m0s":                         requests(1),
		"the organisation is limited to 1 streams at a time of openai/gpt-5.4-mini; try again in 1s": streams(1).of(Org, "o").at("openai/gpt-5.4-mini"),
		"the user is limited to 1 tokens per minute; try again in 1m0s":                              tokens(1).of(User, "u"),
	} {
		_, err := l.Take(t.Context(), "org_a", []Want{level.want(1)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.Take(t.Context(), "org_a", []Want{level.want(1)})
		var f *fault.Error
		if !errors.As(err, &f) || f.Message != want {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
