package signatures_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/upstreams/signatures"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

const (
	org   = id.Org("org_a")
	maker = "gemini/gemini-3"
	soon  = 10 * time.Second
)

var secret = bytes.Repeat([]byte("s"), 32)

// stand is a store as two requests meet it, perhaps in two processes, and a way to let time pass.
type stand struct {
	here, there signatures.Store
	another     func() signatures.Store // a process that was not there before
	advance     func(time.Duration)
}

var stands = map[string]func(*testing.T) stand{
	"local":   standLocal,
	"redis":   func(t *testing.T) stand { return standRedis(t, testkit.Redis(t)) },
	"cluster": func(t *testing.T) stand { return standRedis(t, testkit.RedisCluster(t)) },
}

func standLocal(t *testing.T) stand {
	now := time.Now()
	s := signatures.NewLocal(signatures.Options{Now: func() time.Time { return now }})
	t.Cleanup(func() { _ = s.Close() })
	return stand{s, s, func() signatures.Store { return s }, func(d time.Duration) { now = now.Add(d) }}
}

// standRedis is two processes on one Redis. What they know themselves ends with the test's clock, and Redis' own keys are
// made to end sooner.
func standRedis(t *testing.T, url string) stand {
	client := connect(t, url)
	now := time.Now()
	open := func() signatures.Store {
		return start(t, client, signatures.Options{Now: func() time.Time { return now }})
	}
	return stand{open(), open(), open, func(d time.Duration) {
		now = now.Add(d)
		for _, name := range names(t, client) {
			left := client.PTTL(t.Context(), name).Val() - d
			if err := client.PExpire(t.Context(), name, max(left, time.Millisecond)).Err(); err != nil {
				t.Fatal(err)
			}
			if left <= 0 {
				client.Del(t.Context(), name)
			}
		}
	}}
}

func connect(t *testing.T, url string) redis.UniversalClient {
	t.Helper()
	return testkit.RedisClient(t, url, time.Second)
}

func start(t *testing.T, client redis.UniversalClient, o signatures.Options) *signatures.Redis {
	t.Helper()
	o.Secret = secret
	if o.Timeout == 0 {
		o.Timeout = time.Second // a busy machine is not what most of these tests are about
	}
	s, err := signatures.NewRedis(client, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func names(t *testing.T, client redis.UniversalClient) []string {
	t.Helper()
	list, err := client.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// arrives waits until s finds these.
func arrives(t *testing.T, s signatures.Store, want map[string]string) {
	t.Helper()
	var ids []string
	for id := range want {
		ids = append(ids, id)
	}
	testkit.Eventually(t, soon, func() bool {
		return maps.Equal(s.Find(context.Background(), org, maker, ids), want)
	}, "%v to be found", want)
}

// Where Redis is away a process has its own memory, and closes in time.
func TestRedisAway(t *testing.T) {
	// After as many failures as its pool has places go-redis goes on trying by itself, for a while after its end.
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", DialTimeout: time.Second, DialerRetries: 1, MaxRetries: -1, PoolSize: 1 << 12})
	defer func() { _ = client.Close() }()
	s, err := signatures.NewRedis(client, signatures.Options{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 { // more than ever wait
		s.Keep(org, maker, map[string]string{fmt.Sprint(i): "QQ=="})
	}
	if got := s.Find(t.Context(), org, maker, []string{"1", "999", "unknown"}); len(got) != 2 {
		t.Errorf("found %v", got)
	}
	begin := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("close took %v", took)
	}
	if got := s.Find(t.Context(), org, maker, []string{"1", "unknown"}); len(got) != 1 { // and is of use after it
		t.Errorf("found %v", got)
	}
}

// Nobody waits until a connection stands either.
func TestRedisOutOfReach(t *testing.T) {
	dialled, over := make(chan bool, 100), make(chan bool)
	client := redis.NewClient(&redis.Options{DialTimeout: time.Second, DialerRetries: 1, MaxRetries: -1, PoolSize: 1 << 12, Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialled <- true
		select {
		case <-ctx.Done():
		case <-over:
		}
		return nil, net.ErrClosed
	}})
	defer func() { _ = client.Close() }()
	s, err := signatures.NewRedis(client, signatures.Options{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	defer close(over)
	for range 3 {
		begin := time.Now()
		s.Find(t.Context(), org, maker, []string{"unknown"})
		if took := time.Since(begin); took > 500*time.Millisecond {
			t.Errorf("waited %v for a connection", took)
		}
	}
	<-dialled
}

func TestStore(t *testing.T) {
	for name, open := range stands {
		t.Run(name+"/what was kept is found", func(t *testing.T) { testFound(t, open(t)) })
		t.Run(name+"/another org, maker or call finds nothing", func(t *testing.T) { testApart(t, open(t)) })
		t.Run(name+"/it ends", func(t *testing.T) { testEnds(t, open(t)) })
		t.Run(name+"/what is asked for lasts", func(t *testing.T) { testLasts(t, open(t)) })
		t.Run(name+"/what is no signature is left", func(t *testing.T) { testLarge(t, open(t)) })
	}
}

func testFound(t *testing.T, s stand) {
	s.here.Keep(org, maker, map[string]string{"a": "QQ==", "b": "Qg=="})
	arrives(t, s.there, map[string]string{"a": "QQ==", "b": "Qg=="})
	got := s.there.Find(t.Context(), org, maker, []string{"a", "c", ""})
	if !maps.Equal(got, map[string]string{"a": "QQ=="}) {
		t.Errorf("found %v", got)
	}
	s.here.Keep(org, maker, map[string]string{"a": "Qw=="})
	if got := s.here.Find(t.Context(), org, maker, []string{"a"}); got["a"] != "Qw==" {
		t.Errorf("the newer signature is %q", got["a"])
	}
	if got := s.here.Find(t.Context(), org, maker, nil); len(got) != 0 {
		t.Errorf("found %v without asking", got)
	}
}

func testApart(t *testing.T, s stand) {
	s.here.Keep(org, maker, map[string]string{"a": "QQ==", "b": "Qg=="})
	arrives(t, s.there, map[string]string{"a": "QQ==", "b": "Qg=="})
	for _, of := range []struct {
		org       id.Org
		maker, id string
	}{
		{"org_b", maker, "a"},
		{org, "gemini/gemini-4", "a"},
		{org, "perplexity/google/gemini-3", "a"},
		{org, maker, "ab"},
		{"org_", "a" + maker, "a"},
		{org, maker + "a", ""},
		{org + "g", "emini/gemini-3", "a"},
	} {
		for _, at := range []signatures.Store{s.here, s.there} {
			if got := at.Find(t.Context(), of.org, of.maker, []string{of.id}); len(got) != 0 {
				t.Errorf("%+v found %v", of, got)
			}
		}
	}
}

func testEnds(t *testing.T, s stand) {
	s.here.Keep(org, maker, map[string]string{"a": "QQ=="})
	arrives(t, s.there, map[string]string{"a": "QQ=="})
	s.advance(59 * time.Minute)
	if got := s.there.Find(t.Context(), org, maker, []string{"a"}); len(got) != 1 {
		t.Error("nothing is found within the hour")
	}
	s.advance(61 * time.Minute)
	for _, at := range []signatures.Store{s.here, s.there} {
		if got := at.Find(t.Context(), org, maker, []string{"a"}); len(got) != 0 {
			t.Errorf("found %v after the hour", got)
		}
	}
}

// The calls of a long turn are sent back again and again.
func testLasts(t *testing.T, s stand) {
	s.here.Keep(org, maker, map[string]string{"a": "QQ=="})
	arrives(t, s.there, map[string]string{"a": "QQ=="})
	for range 4 {
		s.advance(45 * time.Minute)
		for _, at := range []signatures.Store{s.here, s.another()} {
			if got := at.Find(t.Context(), org, maker, []string{"a"}); len(got) != 1 {
				t.Fatal("it ended while it was in use")
			}
		}
	}
}

func testLarge(t *testing.T, s stand) {
	s.here.Keep(org, maker, map[string]string{
		strings.Repeat("i", 1000): "QQ==", "large": strings.Repeat("Q", 1<<20), "": "QQ==", "none": "", "a": "QQ==",
	})
	arrives(t, s.there, map[string]string{"a": "QQ=="})
	for _, at := range []signatures.Store{s.here, s.there} {
		if got := at.Find(t.Context(), org, maker, []string{strings.Repeat("i", 1000), "large", "", "none"}); len(got) != 0 {
			t.Errorf("found %d of what is no signature", len(got))
		}
	}
}

// What a process remembers is bounded: the signature that was seen longest ago goes first.
func TestMemoryIsBounded(t *testing.T) {
	s := signatures.NewLocal(signatures.Options{MaxBytes: 100 << 10})
	signature := strings.Repeat("Q", 1<<10)
	name := func(i int) string { return fmt.Sprint("call_", i) }
	for i := range 1000 {
		s.Keep(org, maker, map[string]string{name(i): signature})
		s.Find(t.Context(), org, maker, []string{name(0)}) // in use
	}
	held := 0
	for i := range 1000 {
		held += len(s.Find(t.Context(), org, maker, []string{name(i)}))
	}
	if held < 50 || held > 100 {
		t.Errorf("%d signatures of 1 KiB in 100 KiB", held)
	}
	if got := s.Find(t.Context(), org, maker, []string{name(0), name(1), name(999)}); len(got) != 2 || got[name(1)] != "" {
		t.Errorf("the wrong ones were let go: %d are left", len(got))
	}
}

// Redis is shown nothing of what is remembered, and a value that stands in another's place is none.
func TestRedisKnowsNothing(t *testing.T) {
	client := connect(t, testkit.Redis(t))
	here, there := start(t, client, signatures.Options{}), start(t, client, signatures.Options{})
	kept := map[string]string{"call_canary1": "c2lnbmF0dXJlMQ==", "call_canary2": "c2lnbmF0dXJlMg=="}
	here.Keep("org_canary", maker, kept)
	testkit.Eventually(t, soon, func() bool { return len(names(t, client)) == 2 }, "both to be written")
	var values []string
	for _, name := range names(t, client) {
		value := client.Get(t.Context(), name).Val()
		values = append(values, value)
		for _, word := range []string{"org_canary", "gemini", "canary", "c2lnbmF0dXJl", "signature1"} {
			if strings.Contains(strings.TrimPrefix(name, "threadhub:signature:"), word) || strings.Contains(value, word) {
				t.Errorf("Redis holds %q in %q: %q", word, name, value)
			}
		}
	}
	for i, name := range names(t, client) {
		client.Set(t.Context(), name, values[1-i], time.Hour)
	}
	if got := there.Find(t.Context(), "org_canary", maker, []string{"call_canary1", "call_canary2"}); len(got) != 0 {
		t.Errorf("what stands in another's place is taken: %v", got)
	}
	for i, name := range names(t, client) {
		client.Set(t.Context(), name, values[i], time.Hour)
	}
	if got := there.Find(t.Context(), "org_canary", maker, []string{"call_canary1", "call_canary2"}); !maps.Equal(got, kept) {
		t.Errorf("in their own places they are %v", got)
	}
}

func TestRedisNeedsASecret(t *testing.T) {
	client := redis.NewClient(&redis.Options{})
	defer func() { _ = client.Close() }()
	if _, err := signatures.NewRedis(client, signatures.Options{Secret: []byte("short")}); err == nil {
		t.Error("a short secret is taken")
	}
}

// A Redis that is frozen makes nobody wait for longer than the timeout, and after a few times nobody at all. What a
// process saw itself it knows all the time.
func TestRedisFrozenHoldsNobodyUp(t *testing.T) {
	s := testkit.StartFor(t, testkit.Options{NoPostgres: true})
	const timeout = 30 * time.Millisecond
	here := start(t, testkit.RedisClient(t, s.Redis.URL(), timeout), signatures.Options{Timeout: timeout})
	there := start(t, connect(t, s.Redis.URL()), signatures.Options{})
	there.Keep(org, maker, map[string]string{"theirs": "QQ=="})
	arrives(t, here, map[string]string{"theirs": "QQ=="})
	if err := s.Redis.Freeze(); err != nil {
		t.Fatal(err)
	}
	waited := func() time.Duration {
		begin := time.Now()
		here.Keep(org, maker, map[string]string{"ours": "Qg=="})
		got := here.Find(t.Context(), org, maker, []string{"ours", "theirs", "unknown"})
		if got["ours"] != "Qg==" || got["theirs"] != "QQ==" {
			t.Fatalf("what this process saw is forgotten: %v", got)
		}
		return time.Since(begin)
	}
	for range 5 {
		if d := waited(); d > timeout+time.Second {
			t.Errorf("waited %v for a frozen Redis", d)
		}
	}
	testkit.Eventually(t, soon, func() bool { return waited() < timeout/2 }, "Redis to be left alone")
	begin := time.Now()
	for range 100 {
		waited()
	}
	if took := time.Since(begin); took > 20*timeout {
		t.Errorf("a hundred looks took %v while Redis was left alone", took)
	}
	if err := s.Redis.Thaw(); err != nil {
		t.Fatal(err)
	}
	there.Keep(org, maker, map[string]string{"later": "Qw=="})
	arrives(t, here, map[string]string{"later": "Qw=="})
}
