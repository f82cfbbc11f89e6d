package calls_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"threadhub/calls"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
)

const soon = 10 * time.Second

// stand is the tapes of an installation as the process that has a call sees them, and as another does.
type stand struct {
	here, there calls.Tapes
	redis       redis.UniversalClient // nil: here and there are the same process
}

var stands = map[string]func(*testing.T) *stand{
	"local": func(*testing.T) *stand {
		tapes := calls.NewLocalTapes()
		return &stand{here: tapes, there: tapes}
	},
	"redis": func(t *testing.T) *stand {
		client := connect(t, testkit.Redis(t))
		return &stand{here: share(t, client), there: share(t, client), redis: client}
	},
	"cluster": func(t *testing.T) *stand {
		client := connect(t, testkit.RedisCluster(t))
		return &stand{here: share(t, client), there: share(t, client), redis: client}
	},
}

func connect(t *testing.T, url string) redis.UniversalClient {
	t.Helper()
	return testkit.RedisClient(t, url, 5*time.Second)
}

// share is one more process. It is patient: that the machine is busy is not what these tests are about.
func share(t *testing.T, client redis.UniversalClient) *calls.RedisTapes {
	t.Helper()
	return shareWith(t, client, calls.RedisTapesOptions{Timeout: 2 * time.Second, Every: 50 * time.Millisecond, Poll: 10 * time.Millisecond})
}

func shareWith(t *testing.T, client redis.UniversalClient, o calls.RedisTapesOptions) *calls.RedisTapes {
	t.Helper()
	r := calls.NewRedisTapes(client, o)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

var who = calls.Listener{Org: "org_a", Key: "key"}

func tapeOf(stream bool) calls.TapeOf {
	return calls.TapeOf{Call: id.NewRequest(), For: who, Finger: 1, Hash: "hash", Stream: stream, Limit: calls.TapeLimit}
}

// listen is what the other process makes of a call's tape.
func (s *stand) listen(t *testing.T, of calls.TapeOf) *calls.Tape {
	t.Helper()
	if tape := s.there.Tape(of.Call, of.For); tape != nil {
		return tape
	}
	tape, err := s.there.Follow(t.Context(), of.Call, of.For, of.Stream)
	if err != nil || tape == nil {
		t.Fatalf("following: %v, %v", tape, err)
	}
	t.Cleanup(func() { tape.Follow(-1) })
	return tape
}

// hear reads a tape from after event n to its end.
func hear(t *testing.T, tape *calls.Tape, n int) (all []byte, end calls.Heard) {
	t.Helper()
	timeout := time.After(soon)
	for {
		end = tape.After(n)
		switch {
		case end.Spilled:
			return all, end
		case len(end.Body) > 0:
			all, n = append(all, end.Body...), end.N
			if !tape.Stream {
				return all, end
			}
			continue
		case end.Over:
			return all, end
		}
		select {
		case <-end.More:
		case <-timeout:
			t.Fatalf("the tape has %d events and no end", end.N)
		}
	}
}

var header = [][2]string{{"Content-Type", "text/event-stream"}, {"X-Thread-Id", "t"}}

// What is heard from any event on, at any time and place, is what the client was given from there on, byte for byte.
func TestTapesAreHeardFromAnyEventOn(t *testing.T) {
	for name, open := range stands {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			for round := range 20 {
				of := tapeOf(true)
				tape := calls.NewTape(of)
				s.here.Begin(tape)
				tape.Begin(header)
				var given []byte
				ends := []int{0}
				event := func() {
					data := strings.Repeat("x", rand.IntN(1+rand.IntN(3000))) + "\nä"
					given = tape.Event(given, []byte(data))
					ends = append(ends, len(given))
				}
				total := 1 + rand.IntN(60)
				early := make(chan string, 4)
				for range cap(early) {
					for range rand.IntN(total) {
						event()
					}
					if rand.IntN(2) == 0 {
						time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
					}
					n := rand.IntN(len(ends))
					far := s.listen(t, of)
					go func() {
						got, end := hear(t, far, n)
						if !end.Complete || !bytes.Equal(got, given[ends[n]:]) {
							early <- fmt.Sprintf("after %d: %d bytes, complete %v", n, len(got), end.Complete)
							return
						}
						early <- ""
					}()
				}
				s.here.End(tape, true)
				for range cap(early) {
					if wrong := <-early; wrong != "" {
						t.Errorf("round %d, heard as it came: %s", round, wrong)
					}
				}
				for range 4 {
					n := rand.IntN(len(ends))
					got, end := hear(t, s.listen(t, of), n)
					if !end.Complete || !bytes.Equal(got, given[ends[n]:]) || end.N != len(ends)-1 || fmt.Sprint(end.Header) != fmt.Sprint(header) {
						t.Errorf("round %d, after %d of %d: %d of %d bytes, complete %v, header %v", round, n, end.N, len(got), len(given)-ends[n], end.Complete, end.Header)
					}
				}
			}
		})
	}
}

func TestTapesOfWholeAnswersAndFailures(t *testing.T) {
	for name, open := range stands {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			of := tapeOf(false)
			tape := calls.NewTape(of)
			s.here.Begin(tape)
			far := s.listen(t, of)
			if h := far.After(0); h.Known() {
				t.Errorf("before anything: %+v", h)
			}
			tape.Begin(header)
			tape.Whole([]byte(`{"answer":1}`))
			s.here.End(tape, true)
			got, end := hear(t, far, 0)
			if string(got) != `{"answer":1}` || !end.Complete || !far.Repeatable() {
				t.Errorf("%q, %+v", got, end)
			}

			broken := tapeOf(true)
			tape = calls.NewTape(broken)
			s.here.Begin(tape)
			s.here.End(tape, false)
			if _, end := hear(t, s.listen(t, broken), 0); !end.Over || end.Complete {
				t.Errorf("a call that failed: %+v", end)
			}

			had := tapeOf(true)
			tape = calls.NewTape(had)
			s.here.Begin(tape)
			tape.Begin(header)
			tape.Event(nil, []byte("x"))
			s.here.End(tape, true)
			tape.Reached()
			far = s.listen(t, had)
			hear(t, far, 0)
			if far.Repeatable() {
				t.Error("what its client has is given to a repeat")
			}
		})
	}
}

// A tape is heard by the API key whose call it is of, and by nobody else.
func TestTapesAreOfOneKey(t *testing.T) {
	for name, open := range stands {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			of := tapeOf(true)
			tape := calls.NewTape(of)
			s.here.Begin(tape)
			tape.Begin(header)
			tape.Event(nil, []byte("CANARY"))
			s.here.End(tape, true)
			hear(t, s.listen(t, of), 0)
			for _, other := range []calls.Listener{{Org: "org_a", Key: "other"}, {Org: "org_b", Key: "key"}} {
				if s.there.Tape(of.Call, other) != nil || s.there.Alike(of.Finger, of.Hash, other) != nil {
					t.Errorf("%v has it", other)
				}
				far, err := s.there.Follow(t.Context(), of.Call, other, true)
				if far != nil {
					if h := far.After(0); h.Known() {
						t.Errorf("%v hears %+v, %v", other, h, err)
					}
					far.Follow(-1)
				}
				if left, _ := s.there.Left(t.Context(), of.Call, other); len(left) > 0 {
					t.Errorf("%v reads %q", other, left)
				}
			}
		})
	}
}

// Too much is not kept, and does not look like an end.
func TestTapesOfTooMuch(t *testing.T) {
	for name, open := range stands {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			for _, limit := range []int{calls.TapeLimit, 8 * calls.TapeLimit} {
				of := tapeOf(true)
				of.Limit = limit
				tape := calls.NewTape(of)
				s.here.Begin(tape)
				tape.Begin(header)
				far := s.listen(t, of)
				for range 20 {
					tape.Event(nil, bytes.Repeat([]byte("x"), 64<<10))
				}
				s.here.End(tape, true)
				_, end := hear(t, far, 0)
				if here := far == tape; end.Spilled != (limit == calls.TapeLimit || !here) {
					t.Errorf("of %d bytes: spilled %v, over %v", limit, end.Spilled, end.Over)
				}
			}
		})
	}
}
