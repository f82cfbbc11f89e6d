package limits

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"threadhub/internal/fault"
	"threadhub/internal/testkit"
)

// wire is what lies between a process and Redis.
type wire struct {
	mu   sync.Mutex
	do   func(c []*command, run func([]*command)) // nil: run
	sent int
}

var errCut = errors.New("the wire is cut")

func (w *wire) set(do func(c []*command, run func([]*command))) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.do = do
}

func tap(r *Redis) *wire {
	w := &wire{}
	run := r.exec
	r.exec = func(c []*command) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.sent++
		if w.do != nil {
			w.do(c, run)
			return
		}
		run(c)
	}
	return w
}

// lost loses commands before Redis has seen them, unheard their replies.
func lost(c []*command, _ func([]*command)) {
	for _, c := range c {
		c.err = errCut
	}
}

func unheard(c []*command, run func([]*command)) {
	run(c)
	lost(c, nil)
}

// sharing is a world of processes at a Redis, with their wires.
func sharing(t *testing.T, processes int) (*world, []*Redis, []*wire, *redis.Client) {
	t.Helper()
	client := connect(t, testkit.Redis(t))
	w := newWorld(t, client, processes)
	var all []*Redis
	var wires []*wire
	for _, l := range w.all {
		all = append(all, l.(*Redis))
		wires = append(wires, tap(l.(*Redis)))
	}
	return w, all, wires, client
}

// at is how many of want a process gives out.
func (w *world) at(t *testing.T, r *Redis, want Want) int64 {
	t.Helper()
	was := w.all
	defer func() { w.all = was }()
	w.all = []Limiter{r}
	return w.fill(t, want)
}

func TestMostCallsAskNobody(t *testing.T) {
	w, _, wires, _ := sharing(t, 1)
	org, user, key, tk := requests(100_000).of(Org, "o"), requests(50_000).of(User, "u"), requests(10_000), tokens(10_000_000)
	for range 2000 {
		w.take(t, org.want(1), user.want(1), key.want(1), tk.want(1000)).Settle(900)
	}
	if n := wires[0].sent; n > 2000/50 {
		t.Errorf("2000 calls took %d commands", n)
	}
	w.tell()
	if n := w.fill(t, key.want(1)); n != 8000 {
		t.Errorf("%d were left", n)
	}
	before := wires[0].sent
	for range 1000 {
		w.refused(t, key.want(1))
	}
	if n := wires[0].sent - before; n > 0 {
		t.Errorf("1000 refusals that were known beforehand took %d commands", n)
	}
}

// What a process leases and does not use others can have a second later, and it cannot use it itself then.
func TestLeasesEnd(t *testing.T) {
	w, all, wires, _ := sharing(t, 2)
	level := requests(1000)
	w.take(t, level.want(1)) // of the second
	if n := w.at(t, all[0], level.want(1)); n != 1000-11 {
		t.Errorf("beside a lease of 10, %d could be had", n)
	}
	w.ms.Add(leaseFor)
	wires[1].set(lost)
	if _, err := all[1].Take(t.Context(), w.org, []Want{level.want(1)}); err != nil || !all[1].orgs[w.org].buckets[level.name()].alone {
		t.Errorf("of the lease that is over one was used: %v", err)
	}
	wires[1].set(nil)
	w.tell()
	w.ms.Add(60_000)
	w.take(t, level.want(1)) // of one of them
	w.ms.Add(leaseFor)
	all[0].tick()
	all[1].tick()
	for _, r := range all {
		if n := w.at(t, r, level.want(1)); n != 999 && n != 0 {
			t.Errorf("after the lease that nobody used %d could be had", n)
		}
	}
}

func TestWhatADeadProcessHeldFallsOut(t *testing.T) {
	w, all, _, _ := sharing(t, 2)
	level := streams(10)
	w.at(t, all[1], level.want(1)) // and it is heard of no more
	w.ms.Add(holdsFor - 1)
	if n := w.at(t, all[0], level.want(1)); n != 0 {
		t.Errorf("%d could be had before it can be dead", n)
	}
	w.ms.Add(1)
	if n := w.at(t, all[0], level.want(1)); n != 10 {
		t.Errorf("%d could be had after its death", n)
	}
}

// What a process holds it says again and again, for as long as it lives.
func TestLongStreamsStayHeld(t *testing.T) {
	w, all, _, client := sharing(t, 2)
	level := streams(10)
	w.at(t, all[1], level.want(1))
	for range 12 {
		w.ms.Add(saidAgain)
		all[1].tick()
		if n := w.at(t, all[0], level.want(1)); n != 0 {
			t.Fatalf("%d could be had", n)
		}
	}
	if ttl := client.PTTL(t.Context(), place(w.org, level)).Val(); ttl < holdsFor*time.Millisecond {
		t.Errorf("Redis forgets the level in %v", ttl)
	}
}

func TestACommandCountsOnce(t *testing.T) {
	for name, lose := range map[string]func([]*command, func([]*command)){"lost": lost, "carried out, and the reply lost": unheard} {
		t.Run(name, func(t *testing.T) {
			w, all, wires, _ := sharing(t, 2)
			r, tk := requests(20), tokens(200)
			g := NewGrant(all[0], w.org)
			if _, err := g.Take(t.Context(), []Want{r.want(1), tk.want(30)}); err != nil {
				t.Fatal(err)
			}
			g.Settle(20)
			wires[0].set(lose)
			for range failures - 1 {
				all[0].tick() // which tells what was used
			}
			wires[0].set(nil)
			w.tell()
			if n := w.fill(t, tk.want(1)); n != 180 {
				t.Errorf("%d tokens were left", n)
			}
			if n := w.fill(t, r.want(1)); n != 19 {
				t.Errorf("%d requests were left", n)
			}
		})
	}
}

// A command that Redis carries out long after it was sent, when its process has sent others, does nothing.
func TestALateCommandDoesNothing(t *testing.T) {
	w, all, wires, _ := sharing(t, 2)
	level := requests(20)
	var late *command
	wires[0].set(func(c []*command, run func([]*command)) {
		late = &command{keys: c[0].keys, args: c[0].args, levels: c[0].levels, waiters: c[0].waiters}
		run(c)
	})
	w.at(t, all[0], level.want(5))
	w.tell()
	again := late
	wires[0].set(nil)
	w.pass(30 * time.Second)
	if n := w.at(t, all[0], level.want(1)); n != 10 {
		t.Fatalf("%d could be had", n)
	}
	w.tell()
	w.pass(30 * time.Second)
	all[0].run([]*command{again})
	if again.err == nil {
		t.Error("a late command was carried out")
	}
	if n := w.at(t, all[1], level.want(1)); n != 10 {
		t.Errorf("after a late command %d could be had", n)
	}
}

// Without Redis each process gives out its share, nobody is refused for that alone, and what was given out counts when it is
// back.
func TestShares(t *testing.T) {
	w, all, wires, _ := sharing(t, 4)
	for _, wire := range wires {
		wire.set(lost)
	}
	r, s, tk, one := requests(40), streams(10), tokens(10_000), requests(1).of(User, "u")
	for i, l := range all {
		if n := w.at(t, l, r.want(1)); n != 10 {
			t.Errorf("process %d gave out %d of 40", i, n)
		}
		if n := w.at(t, l, s.want(1)); n != 2 {
			t.Errorf("process %d gave out %d of 10 streams", i, n)
		}
		if n := w.at(t, l, one.want(1)); n != 1 {
			t.Errorf("process %d gave out %d of 1", i, n)
		}
		if n := w.at(t, l, tk.want(5000)); n != 5000 {
			t.Errorf("process %d let in %d tokens of calls that are larger than its share", i, n)
		}
		if !l.isAway() {
			t.Errorf("process %d thinks that Redis is there", i)
		}
	}
	w.ms.Add(15_000)
	if n := w.at(t, all[0], r.want(1)); n != 2 { // of 10 in all
		t.Errorf("a quarter of a minute later it gave out %d", n)
	}
	for _, wire := range wires {
		wire.set(nil)
	}
	w.tell()
	w.tell()
	// 40 were given out at first and 2 later, and 10 have been forgiven; what a process still owes is rounded up.
	if n := w.fill(t, r.want(1)); n < 40-32-2 || n > 40-32 {
		t.Errorf("%d were left when Redis was back", n)
	}
	if all[0].isAway() {
		t.Error("Redis is back and nobody notices")
	}
}

// What Redis was not told of when it went counts too.
func TestWhatWasNotToldIsOwed(t *testing.T) {
	w, all, wires, _ := sharing(t, 1)
	level := requests(40)
	w.take(t, level.want(30))
	wires[0].set(lost)
	if n := w.at(t, all[0], level.want(1)); n != 10 {
		t.Errorf("%d were given out", n)
	}
}

// What was given out long ago has been paid, also without Redis.
func TestALongOutageIsNotPaidTwice(t *testing.T) {
	w, all, wires, _ := sharing(t, 2)
	r, tk := requests(60), tokens(6000)
	wires[0].set(lost)
	for range 600 {
		g := NewGrant(all[0], w.org)
		if _, err := g.Take(t.Context(), []Want{r.want(1), tk.want(50)}); err != nil {
			t.Fatalf("refused within its share: %v", err)
		}
		g.Settle(40)
		w.ms.Add(2000)
		all[0].tick()
	}
	wires[0].set(nil)
	w.tell()
	w.tell()
	if n := w.fill(t, r.want(1)); n < 59 {
		t.Errorf("%d of 60 were left", n)
	}
}

// What was known to be owed is owed on when Redis goes, and when it comes back with nothing.
func TestWhatIsOwedOutlivesRedis(t *testing.T) {
	w, all, wires, client := sharing(t, 2)
	level := requests(60)
	if n := w.fill(t, level.want(1)); n != 60 {
		t.Fatal(n)
	}
	w.tell()
	wires[0].set(lost)
	for range failures {
		w.at(t, all[0], level.want(1))
	}
	if n := w.at(t, all[0], level.want(1)); n != 0 {
		t.Errorf("without Redis %d more were given out", n)
	}
	wires[0].set(nil)
	if err := client.FlushDB(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	w.tell()
	w.tell()
	if n := w.fill(t, level.want(1)); n > 1 { // what may be forgiven while a command is under way
		t.Errorf("%d more after FLUSHDB", n)
	}
}

// A failover that lost the last writes: what they told is told again by whoever lives, once.
func TestLostWrites(t *testing.T) {
	w, all, _, client := sharing(t, 2)
	level := requests(60)
	once := func(r *Redis, n int64) {
		t.Helper()
		if _, err := r.Take(t.Context(), w.org, []Want{level.want(n)}); err != nil {
			t.Fatal(err)
		}
		w.tell()
	}
	once(all[0], 20)
	once(all[1], 5)
	key := place(w.org, level)
	before := client.Dump(t.Context(), key).Val()
	once(all[1], 25)
	if err := client.RestoreReplace(t.Context(), key, time.Hour, before).Err(); err != nil {
		t.Fatal(err)
	}
	if n := w.at(t, all[1], level.want(1)); n != 10 {
		t.Errorf("%d were left, and 10 should be", n)
	}
	w.pass(30 * time.Second)
	if n := w.fill(t, level.want(1)); n != 30 {
		t.Errorf("%d half a minute later", n)
	}
}

// Where the clock of Redis jumps by an hour, nobody gets more for it, or waits for an hour.
func TestTheClockOfRedisJumps(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			w, all, _, _ := sharing(t, 2)
			var off int64
			for _, r := range all {
				r.o.redisTime = func() int64 { return w.ms.Load() + off }
			}
			level, s := requests(60), streams(4)
			w.fill(t, level.want(1))
			w.fill(t, s.want(1))
			w.tell()
			for _, off = range []int64{by.Milliseconds(), 0} { // and back
				if n := w.fill(t, level.want(1)); n > 1 {
					t.Errorf("%d more", n)
				}
				w.tell()
				w.pass(30 * time.Second)
				if n := w.fill(t, level.want(1)); n < 29 || n > 31 {
					t.Errorf("%d half a minute later", n)
				}
				if n := w.fill(t, s.want(1)); n != 0 {
					t.Errorf("%d streams more", n)
				}
				w.tell()
			}
			off = by.Milliseconds()
			if n := w.at(t, all[1], s.want(1)); n > 2 { // the other one, which has died
				t.Errorf("%d streams more", n)
			}
			w.ms.Add(holdsFor)
			w.at(t, all[1], s.want(1))
			if n := all[1].orgs[w.org].buckets[s.name()].held; n != 4 {
				t.Errorf("half a minute later %d of 4 can be had by the one that lives", n)
			}
		})
	}
}

func TestTheClockOfRedisLeapsForOne(t *testing.T) {
	w, all, _, _ := sharing(t, 1)
	level := requests(60)
	w.fill(t, level.want(1))
	w.pass(2 * time.Second)
	all[0].o.redisTime = func() int64 { return w.ms.Load() + time.Hour.Milliseconds() }
	if n := w.fill(t, level.want(1)); n != 2 {
		t.Errorf("%d two seconds later", n)
	}
}

func TestScriptsThatRedisForgot(t *testing.T) {
	reg := prometheus.NewRegistry()
	client := connect(t, testkit.Redis(t))
	r := NewRedis(client, Options{Timeout: patience, Registry: reg})
	defer func() { _ = r.Close() }()
	for range 3 {
		if err := client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Take(t.Context(), "org_a", []Want{requests(5).want(1)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := metric(t, reg, "threadhub_limits_taken_total", byRedis); n != 3 {
		t.Errorf("%v were let in by Redis", n)
	}
}

// Whoever leaves while Redis is asked has taken nothing.
func TestWhoeverLeavesTakesNothing(t *testing.T) {
	w, all, wires, _ := sharing(t, 1)
	level := requests(5)
	asked, answer := make(chan struct{}), make(chan struct{})
	wires[0].set(func(c []*command, run func([]*command)) {
		close(asked)
		<-answer
		run(c)
	})
	ctx, leave := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := all[0].Take(ctx, w.org, []Want{level.want(5)}); !errors.Is(err, gone) {
			t.Errorf("%v", err)
		}
	})
	<-asked
	leave(gone)
	wg.Wait()
	close(answer)
	wires[0].set(nil)
	testkit.Eventually(t, 10*time.Second, func() bool {
		w.tell()
		g := NewGrant(all[0], w.org)
		_, err := g.Take(t.Context(), []Want{level.want(5)})
		g.Return()
		return err == nil
	})
}

// A Redis that is frozen holds nobody up for longer than the timeout, and after a few not at all. When it thaws it is asked
// again.
func TestRedisFrozen(t *testing.T) {
	s := testkit.StartFor(t, testkit.Options{NoPostgres: true})
	reg := prometheus.NewRegistry()
	r := NewRedis(connect(t, s.Redis.URL()), Options{Timeout: 30 * time.Millisecond, Replicas: func() int { return 2 }, Registry: reg})
	defer func() { _ = r.Close() }()
	level := requests(1000)
	take := func() (time.Duration, error) {
		began := time.Now()
		_, err := r.Take(t.Context(), "org_a", []Want{level.want(11)}) // more than is leased
		return time.Since(began), err
	}
	testkit.Eventually(t, 10*time.Second, func() bool {
		_, err := take()
		return err == nil && metric(t, reg, "threadhub_limits_taken_total", byRedis) > 0
	}, "Redis is not asked")
	if err := s.Redis.Freeze(); err != nil {
		t.Fatal(err)
	}
	var all time.Duration
	for i := range 30 {
		took, err := take()
		if err != nil {
			t.Errorf("call %d: %v", i, err)
		}
		all += took
	}
	if all > 30*30*time.Millisecond { // each of them would have waited
		t.Errorf("30 calls waited for %v", all)
	}
	degraded := func() string { return fmt.Sprint(metric(t, reg, "threadhub_limits_degraded", "")) }
	if degraded() != "1" {
		t.Error("limits are not said to be degraded")
	}
	if err := s.Redis.Thaw(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, func() bool { return degraded() == "0" }, "Redis is not asked again")
	if _, err := take(); err != nil && !fault.Is(err, fault.RateLimited) {
		t.Error(err)
	}
}

// metric is the value of a metric with a label's value; 0 if it was never counted.
func metric(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// What is not used is forgotten, here and in Redis, and begins anew.
func TestIdleLevelsAreForgotten(t *testing.T) {
	w, all, _, client := sharing(t, 1)
	for i := range 50 {
		w.take(t, requests(10).of(User, fmt.Sprint(i)).want(3))
	}
	w.pass(0)
	w.pass(idleFor * time.Millisecond)
	w.pass(0)
	all[0].mu.Lock()
	if n := len(all[0].orgs); n != 0 {
		t.Errorf("%d orgs are remembered", n)
	}
	all[0].mu.Unlock()
	keys := client.Keys(t.Context(), "*").Val()
	for _, key := range keys {
		if ttl := client.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > time.Minute {
			t.Errorf("%s is forgotten in %v", key, ttl)
		}
	}
	// What is counted from nothing again counts all the same, though Redis remembers the process.
	level := requests(10).of(User, "0")
	w.take(t, level.want(2))
	w.tell()
	if n := w.fill(t, level.want(1)); n != 8 {
		t.Errorf("%d of 10 were left", n)
	}
}
