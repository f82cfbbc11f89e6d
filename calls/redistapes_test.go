package calls_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"threadhub/calls"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
)

func place(of calls.TapeOf) string {
	return "threadhub:tape:{" + string(of.For.Org) + "}:" + string(of.For.Key) + ":" + string(of.Call)
}

// begin makes a tape of a stream with some events on it.
func begin(tapes calls.Tapes, of calls.TapeOf, n int) *calls.Tape {
	tape := calls.NewTape(of)
	tapes.Begin(tape)
	tape.Begin(header)
	for range n {
		tape.Event(nil, []byte("some of it"))
	}
	return tape
}

// Redis is told of each stream once a second, or when 4 KiB wait, however many events there are; what it is told ends by
// itself, and stands where all of an org's does in a cluster.
func TestRedisIsToldLittle(t *testing.T) {
	client := connect(t, testkit.Redis(t))
	s := shareWith(t, client, calls.RedisTapesOptions{Timeout: 2 * time.Second, Every: 100 * time.Millisecond})
	of := tapeOf(true)
	tape := begin(s, of, 0)
	start := time.Now()
	for range 100 {
		tape.Event(nil, bytes.Repeat([]byte("x"), 100))
		time.Sleep(2 * time.Millisecond)
	}
	took := time.Since(start)
	s.End(tape, true)
	testkit.Eventually(t, soon, func() bool {
		last, err := client.XRevRangeN(t.Context(), place(of), "+", "-", 1).Result()
		return err == nil && len(last) == 1 && last[0].Values["end"] == "complete"
	}, "the end to be told")
	list, err := client.XRange(t.Context(), place(of), "-", "+").Result()
	if most := 100*120/4096 + int(took/(100*time.Millisecond)) + 3; err != nil || len(list) > most {
		t.Errorf("told in %d records, not %d: %v", len(list), most, err)
	}
	if left := client.PTTL(t.Context(), place(of)).Val(); left < 9*time.Minute || left > 10*time.Minute {
		t.Errorf("it ends in %v", left)
	}
}

// What is an answer to somebody else's question is not used, whatever it looks like.
func TestForeignRecordsAreNotHeard(t *testing.T) {
	client := connect(t, testkit.Redis(t))
	of := tapeOf(true)
	there := share(t, client)
	for name, change := range map[string][]any{
		"another org's":  {"org", "org_b"},
		"another key's":  {"key", "other"},
		"another call's": {"call", "req_other"},
		"no number":      {"n", "x"},
		"no record":      {"call", ""},
	} {
		fields := map[string]any{"org": "org_a", "key": "key", "call": string(of.Call), "after": 0, "n": 1, "data": "id: 1\ndata: CANARY\n\n", "end": "complete"}
		fields[change[0].(string)] = change[1]
		client.Del(t.Context(), place(of))
		if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: place(of), Values: fields}).Err(); err != nil {
			t.Fatal(err)
		}
		left, err := there.Left(t.Context(), of.Call, who)
		if len(left) > 0 || err == nil {
			t.Errorf("%s: %q, %v", name, left, err)
		}
	}
	short := shareWith(t, client, calls.RedisTapesOptions{Timeout: 200 * time.Millisecond, Poll: 10 * time.Millisecond})
	if far, err := short.Follow(t.Context(), of.Call, who, true); err == nil {
		t.Errorf("followed: %+v", far.After(0))
	}
	// Once the true ones are there, they are heard.
	client.Del(t.Context(), place(of))
	begin(share(t, client), of, 3)
	testkit.Eventually(t, soon, func() bool {
		left, err := there.Left(t.Context(), of.Call, who)
		return err == nil && bytes.HasPrefix(left, []byte("id: 1\n")) && bytes.Contains(left, []byte("id: 3\n"))
	}, "what is true to be heard")
}

// A record that Redis took though it was not heard to is told again, and heard once; a hole is not heard over.
func TestRecordsToldTwiceAndLost(t *testing.T) {
	client := connect(t, testkit.Redis(t))
	there := share(t, client)
	event := func(n int) string { return string(calls.AppendEvent(nil, n, []byte("x"))) }
	for name, c := range map[string]struct {
		told    [][3]any // after, n, data
		want    string
		spilled bool
	}{
		"twice":       {[][3]any{{0, 2, event(1) + event(2)}, {0, 2, event(1) + event(2)}, {2, 3, event(3)}}, event(1) + event(2) + event(3), false},
		"overlapping": {[][3]any{{0, 2, event(1) + event(2)}, {1, 4, event(2) + event(3) + event(4)}}, event(1) + event(2) + event(3) + event(4), false},
		"a hole":      {[][3]any{{0, 1, event(1)}, {2, 3, event(3)}}, "", true},
	} {
		of := tapeOf(true)
		for _, r := range c.told {
			if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: place(of), Values: []any{
				"org", "org_a", "key", "key", "call", string(of.Call), "after", r[0], "n", r[1], "data", r[2],
			}}).Err(); err != nil {
				t.Fatal(err)
			}
		}
		far, err := there.Follow(t.Context(), of.Call, who, true)
		if err != nil {
			t.Fatal(err)
		}
		if h := far.After(0); string(h.Body) != c.want || h.Spilled != c.spilled {
			t.Errorf("%s: %q, %+v", name, h.Body, h)
		}
		far.Follow(-1)
	}
}

// Redis that forgot what it had is told from the beginning.
func TestRedisForgets(t *testing.T) {
	client := connect(t, testkit.Redis(t))
	here, there := share(t, client), share(t, client)
	of := tapeOf(true)
	tape := begin(here, of, 3)
	left := func() []byte {
		b, err := there.Left(t.Context(), of.Call, who)
		if err != nil {
			t.Error(err)
		}
		return b
	}
	testkit.Eventually(t, soon, func() bool { return len(left()) > 0 }, "the tape to be told")
	client.FlushDB(t.Context())
	tape.Event(nil, []byte("more"))
	here.End(tape, true)
	got, end := hear(t, (&stand{there: there}).listen(t, of), 0)
	if end.N != 4 || !end.Complete || len(end.Header) == 0 || !bytes.HasPrefix(got, []byte("id: 1\n")) {
		t.Errorf("%q, %+v", got, end)
	}
}

// What was told of a call whose process died is there for who settles it; nothing of it was told that was not given.
func TestWhatADeadProcessLeft(t *testing.T) {
	client := connect(t, testkit.Redis(t))
	here, there := share(t, client), share(t, client)
	of := tapeOf(true)
	tape := calls.NewTape(of)
	here.Begin(tape)
	tape.Begin(header)
	var given []byte
	for i := range 2000 { // more than are read at once
		given = tape.Event(given, fmt.Append(nil, "event ", i))
		if i%20 == 0 {
			time.Sleep(time.Millisecond)
		}
		if i%200 == 0 {
			left, err := there.Left(t.Context(), of.Call, who)
			if err != nil || !bytes.HasPrefix(given, left) {
				t.Fatalf("%d bytes that are no beginning of %d: %v", len(left), len(given), err)
			}
		}
	}
	testkit.Eventually(t, soon, func() bool {
		left, err := there.Left(t.Context(), of.Call, who)
		return err == nil && bytes.Equal(left, given)
	}, "all of it to be told")
}

// Who follows a tape elsewhere keeps its call going.
func TestAFollowedTapeIsWanted(t *testing.T) {
	client := connect(t, testkit.Redis(t))
	here, there := share(t, client), share(t, client)
	of := tapeOf(true)
	tape := begin(here, of, 1)
	time.Sleep(200 * time.Millisecond)
	if tape.Wanted() {
		t.Error("it is wanted, and nobody follows it")
	}
	far, err := there.Follow(t.Context(), of.Call, who, true)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, soon, tape.Wanted, "it to be wanted")
	far.Follow(-1)
	testkit.Eventually(t, 2*soon, func() bool { return !tape.Wanted() }, "nobody to want it any more")
}

// A frozen Redis holds nobody up: not who writes, and who would follow a few times for no longer than the timeout. What
// was given meanwhile is heard when it is back.
func TestRedisFrozen(t *testing.T) {
	server := testkit.StartFor(t, testkit.Options{NoPostgres: true}).Redis
	client := connect(t, server.URL())
	const timeout = 30 * time.Millisecond
	o := calls.RedisTapesOptions{Timeout: timeout, Every: 50 * time.Millisecond, Poll: 10 * time.Millisecond}
	here, there := shareWith(t, client, o), shareWith(t, client, o)
	of, ended := tapeOf(true), tapeOf(true)
	tape := begin(here, of, 3)
	(&stand{there: there}).listen(t, of)
	if err := server.Freeze(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Thaw() }()
	// A busy machine makes any one of them slow, a Redis that is waited for all, or each that hands something on: one in
	// four.
	held := 0
	for range 500 {
		start := time.Now()
		tape.Event(nil, bytes.Repeat([]byte("x"), 1000))
		if time.Since(start) >= timeout {
			held++
		}
		time.Sleep(time.Millisecond)
	}
	if held > 50 {
		t.Errorf("%d of 500 events were held up", held)
	}
	tries, waited, long := 0, 0, 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); tries++ {
		start := time.Now()
		far, err := there.Follow(t.Context(), ended.Call, who, true)
		if err == nil {
			far.Follow(-1)
			t.Fatal("a frozen Redis was heard")
		}
		took := time.Since(start)
		if took > timeout/2 {
			waited++
		}
		if took > 2*timeout {
			long++
		}
		time.Sleep(5 * time.Millisecond)
	}
	if waited > tries/4 || long > tries/10 {
		t.Errorf("of %d tries %d waited, and %d longer than the timeout", tries, waited, long)
	}
	if err := server.Thaw(); err != nil {
		t.Fatal(err)
	}
	here.End(tape, true)
	testkit.Eventually(t, soon, func() bool {
		far, err := there.Follow(context.Background(), of.Call, who, true)
		if err != nil {
			return false
		}
		defer far.Follow(-1)
		h := far.After(0)
		return h.Complete && h.N == 503 && len(h.Body) > 500*1000
	}, "what was given meanwhile to be heard")
}

// Where Redis is away the tapes of this process are heard as ever, and what cannot be told is let go.
func TestRedisAway(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", DialerRetries: 1, MaxRetries: -1})
	defer func() { _ = client.Close() }()
	s := calls.NewRedisTapes(client, calls.RedisTapesOptions{Every: 10 * time.Millisecond})
	for range 20 {
		of := tapeOf(true)
		tape := begin(s, of, 10)
		s.End(tape, true)
		if got, end := hear(t, s.Tape(of.Call, of.For), 0); !end.Complete || len(got) == 0 {
			t.Errorf("%q, %+v", got, end)
		}
	}
	testkit.Eventually(t, soon, func() bool {
		far, err := s.Follow(t.Context(), id.NewRequest(), who, true)
		return far == nil && err != nil
	})
	start := time.Now()
	if err := s.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		t.Error(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("closing took %v", took)
	}
}

// What lost streams have left is asked for until Redis is known to be away, and not after: a thousand of them must not wait
// for it one after the other.
func TestWhatIsLeftIsNotAskedOfRedisThatIsAway(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel answers for it, and nobody else does
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	s := shareWith(t, connect(t, "redis://"+silent.Addr().String()), calls.RedisTapesOptions{Timeout: 10 * time.Millisecond})
	asked := 0
	for range 1000 {
		events, err := s.Left(t.Context(), id.NewRequest(), who)
		if err == nil || events != nil {
			t.Fatalf("it has left %q", events)
		}
		if !fault.HasCode(err, "streams_unavailable") {
			asked++
		}
	}
	if asked == 0 || asked > 5 {
		t.Errorf("of 1000 lost streams %d were asked for", asked)
	}
}
