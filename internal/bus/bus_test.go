package bus_test

import (
	"context"
	"crypto/rand"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"threadhub/internal/bus"
	"threadhub/internal/contain"
	"threadhub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

const soon = 10 * time.Second

type closing interface {
	bus.Bus
	Close() error
}

// inbox collects what a subscriber is told.
type inbox struct {
	mu  sync.Mutex
	got []string
}

func (i *inbox) put(payload string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, payload)
}

func (i *inbox) list() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.got)
}

func (i *inbox) has(payload string) bool { return slices.Contains(i.list(), payload) }

// join is a process on a fresh channel of a Redis; it returns when its subscription stands.
func join(t *testing.T, url, channel string, o bus.Options) *bus.Redis {
	t.Helper()
	b := start(t, url, channel, o)
	stands(t, b)
	return b
}

func start(t *testing.T, url, channel string, o bus.Options) *bus.Redis {
	t.Helper()
	client := testkit.RedisClient(t, url, time.Second)
	o.Channel = channel
	if o.Timeout == 0 {
		o.Timeout = time.Second // a busy machine is not what most of these tests are about
	}
	b := bus.NewRedis(client, o)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := client.Close(); err != nil {
			t.Errorf("the caller's own client is closed already: %v", err)
		}
	})
	return b
}

func stands(t *testing.T, b *bus.Redis) {
	t.Helper()
	testkit.Eventually(t, soon, b.Standing, "the subscription does not stand")
}

func TestBus(t *testing.T) {
	for name, open := range map[string]func(*testing.T) (here, there closing){
		"local": func(*testing.T) (closing, closing) { b := bus.NewLocal(); return b, b },
		"redis": func(t *testing.T) (closing, closing) {
			url, channel := testkit.Redis(t), rand.Text()
			return join(t, url, channel, bus.Options{}), join(t, url, channel, bus.Options{})
		},
		"cluster": func(t *testing.T) (closing, closing) {
			url, channel := testkit.RedisCluster(t), rand.Text()
			return join(t, url, channel, bus.Options{}), join(t, url, channel, bus.Options{})
		},
	} {
		t.Run(name+"/a message arrives there", func(t *testing.T) { testArrives(t, open) })
		t.Run(name+"/own subscribers have run, once, when Publish returns", func(t *testing.T) { testOwn(t, open) })
		t.Run(name+"/topics are apart", func(t *testing.T) { testTopics(t, open) })
		t.Run(name+"/cancel ends it", func(t *testing.T) { testCancel(t, open) })
	}
}

func publish(t *testing.T, b bus.Bus, topic, payload string) {
	t.Helper()
	if err := b.Publish(t.Context(), topic, payload); err != nil {
		t.Fatalf("publish: %v", err)
	}
}

func testArrives(t *testing.T, open func(*testing.T) (closing, closing)) {
	here, there := open(t)
	var in inbox
	there.Subscribe("keys", in.put)
	for _, payload := range []string{"key1", "", "two\nlines\n", "\x00\xff"} {
		publish(t, here, "keys", payload)
		testkit.Eventually(t, soon, func() bool { return in.has(payload) }, "%q did not arrive", payload)
	}
}

func testOwn(t *testing.T, open func(*testing.T) (closing, closing)) {
	here, there := open(t)
	var own, last inbox
	here.Subscribe("keys", own.put)
	publish(t, here, "keys", "a")
	if got := own.list(); !slices.Equal(got, []string{"a"}) {
		t.Fatalf("own subscribers got %q when Publish had returned", got)
	}
	// What comes back after the echo of "a" could have come says that the echo was not told.
	here.Subscribe("end", last.put)
	publish(t, there, "end", "z")
	testkit.Eventually(t, soon, func() bool { return last.has("z") })
	if got := own.list(); !slices.Equal(got, []string{"a"}) {
		t.Fatalf("own subscribers got %q", got)
	}
}

func testTopics(t *testing.T, open func(*testing.T) (closing, closing)) {
	here, there := open(t)
	var keys, orgs inbox
	there.Subscribe("keys", keys.put)
	there.Subscribe("orgs", orgs.put)
	publish(t, here, "keys", "k")
	publish(t, here, "nobody", "n")
	publish(t, here, "orgs", "o")
	testkit.Eventually(t, soon, func() bool { return orgs.has("o") })
	if got := append(keys.list(), orgs.list()...); !slices.Equal(got, []string{"k", "o"}) {
		t.Fatalf("got %q", got)
	}
}

func testCancel(t *testing.T, open func(*testing.T) (closing, closing)) {
	here, there := open(t)
	var gone, stays inbox
	cancel := there.Subscribe("keys", gone.put)
	there.Subscribe("keys", stays.put)
	cancel()
	cancel()
	publish(t, here, "keys", "k")
	testkit.Eventually(t, soon, func() bool { return stays.has("k") })
	if got := gone.list(); len(got) != 0 {
		t.Fatalf("a cancelled subscriber got %q", got)
	}
}

func TestRedisResetsWhenJoinedAgain(t *testing.T) {
	s := testkit.StartFor(t, testkit.Options{NoPostgres: true})
	b := start(t, s.Redis.URL(), "c", bus.Options{Beat: 50 * time.Millisecond})
	stands(t, b)
	var resets atomic.Int64
	b.OnReset(func() { resets.Add(1) })
	if err := s.Redis.Kill(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, soon, func() bool { return !b.Standing() }, "the lost subscription is not noticed")
	if n := resets.Load(); n != 0 {
		t.Fatalf("%d resets while Redis is away: caches may be all there is", n)
	}
	if err := b.Publish(t.Context(), "keys", "k"); err == nil {
		t.Fatal("a message to nobody is not told as a failure")
	}
	if err := s.Redis.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, soon, func() bool { return resets.Load() > 0 }, "no reset after Redis came back")

	var in inbox
	other := join(t, s.Redis.URL(), "c", bus.Options{})
	b.Subscribe("keys", in.put)
	publish(t, other, "keys", "again")
	testkit.Eventually(t, soon, func() bool { return in.has("again") }, "no message after Redis came back")
}

func TestRedisFrozenNeverHoldsAnybodyUp(t *testing.T) {
	s := testkit.StartFor(t, testkit.Options{NoPostgres: true})
	const timeout = 30 * time.Millisecond
	b := start(t, s.Redis.URL(), "c", bus.Options{Beat: 50 * time.Millisecond, Timeout: timeout})
	stands(t, b)
	var in inbox
	b.Subscribe("keys", in.put)
	var resets atomic.Int64
	b.OnReset(func() { resets.Add(1) })
	if err := s.Redis.Freeze(); err != nil {
		t.Fatal(err)
	}
	// More than are ever under way: those who stand behind the others must not wait for them.
	const many = 200
	var wg sync.WaitGroup
	for range many {
		wg.Go(func() {
			begin := time.Now()
			err := b.Publish(context.Background(), "keys", "k")
			// Below go-redis' own 5 and 10 seconds, and half of what they would take one after the other; the rest is room
			// for a busy machine.
			if took := time.Since(begin); err == nil || took > many*timeout/2 {
				t.Errorf("publish to a frozen Redis took %v and said %v", took, err)
			}
		})
	}
	wg.Wait()
	if n := len(in.list()); n != many {
		t.Fatalf("own subscribers were told %d of %d times", n, many)
	}
	testkit.Eventually(t, soon, func() bool { return !b.Standing() }, "a frozen Redis is not noticed")
	if err := s.Redis.Thaw(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, soon, func() bool { return resets.Load() > 0 && b.Standing() }, "no reset after the thaw")
}

func TestRedisClosesWhileFrozenOrAway(t *testing.T) {
	s := testkit.StartFor(t, testkit.Options{NoPostgres: true})
	closesSoon := func(b *bus.Redis) {
		t.Helper()
		begin := time.Now()
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("close took %v", took)
		}
		if err := b.Publish(t.Context(), "keys", "k"); err == nil {
			t.Error("a closed bus says it has published")
		}
	}
	opt, err := redis.ParseURL(s.Redis.URL())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opt)
	defer func() { _ = client.Close() }()

	b := bus.NewRedis(client, bus.Options{})
	stands(t, b)
	if err := s.Redis.Freeze(); err != nil {
		t.Fatal(err)
	}
	closesSoon(b)
	b = bus.NewRedis(client, bus.Options{}) // joins what is frozen
	closesSoon(b)
	if err := s.Redis.Kill(); err != nil {
		t.Fatal(err)
	}
	b = bus.NewRedis(client, bus.Options{})
	closesSoon(b)
}

// Whatever is on the channel, and whatever a subscriber does, the bus goes on.
func TestRedisSurvivesJunkAndPanics(t *testing.T) {
	url, channel := testkit.Redis(t), rand.Text()
	var log testkit.Log
	panics := contain.New(slog.New(slog.NewTextHandler(&log, nil)))
	b := join(t, url, channel, bus.Options{Panics: panics})
	opt, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	raw := redis.NewClient(opt)
	defer func() { _ = raw.Close() }()

	var in inbox
	b.Subscribe("keys", func(payload string) {
		if payload == "bang" {
			panic("bang")
		}
		in.put(payload)
	})
	for _, junk := range []string{"", "x", "a\nb", "\n\n", strings.Repeat("z", 1<<20), "somebody\nkeys\nbang"} {
		if err := raw.Publish(t.Context(), channel, junk).Err(); err != nil {
			t.Fatal(err)
		}
	}
	other := join(t, url, channel, bus.Options{})
	publish(t, other, "keys", "fine")
	testkit.Eventually(t, soon, func() bool { return in.has("fine") })
	if got := in.list(); !slices.Equal(got, []string{"fine"}) {
		t.Fatalf("got %q", got)
	}
	if panics.Caught() != 1 || !strings.Contains(log.String(), "panic") || strings.Contains(log.String(), "bang") {
		t.Fatalf("%d panics, and the log is %s", panics.Caught(), log.String())
	}
}
