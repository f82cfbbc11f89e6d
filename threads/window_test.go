package threads_test

import (
	"fmt"
	"strings"
	"testing"

	"threadhub/internal/fault"
	"threadhub/openai"
	"threadhub/threads"
)

// cost is what a message of the short texts below counts for, about; an assistant's exactly.
var cost = openai.EstimateTokens(raw("a", "1"))

func TestFitHistory(t *testing.T) {
	long := strings.Repeat("3", 400)
	for _, tt := range []struct {
		name, thread, request string
		room                  int64 // messages that the window holds
		history               string
		omitted               int
	}{
		{"all of it", "u:1 a:2 / u:3 a:4 /", "u:5", 5, "u:1 a:2 u:3 a:4", 0},
		{"the oldest go first", "u:1 a:2 / u:3 a:4 /", "u:5", 3, "u:3 a:4", 2},
		{"what is shown begins with a user", "u:1 a:2 / u:3 a:4 /", "u:5", 4, "u:3 a:4", 2},
		{"nothing but the newest turn", "u:1 a:2 /", "u:5", 1, "", 2},
		{"the newest turn stays, whatever its size", "u:1 a:2 /", "u:5 u:6 u:7", 1, "", 2},
		{"the system stays", "s:9 u:1 a:2 / u:3 a:4 /", "u:5", 4, "s:9 u:3 a:4", 2},
		{"the request's own system counts", "s:9 u:1 a:2 / u:3 a:4 /", "s:8 u:5", 4, "u:3 a:4", 2},
		{"system messages are not counted as left out", "s:9 u:1 a:2 / s:8 u:3 a:4 / u:5 a:6 /", "u:7", 4, "s:8 u:5 a:6", 4},
		{"a call stays with its results", "u:1 c:1 t:1 t:2 a:2 / u:3 a:4 /", "u:5", 6, "u:3 a:4", 5},
		{"all of a call and its results", "u:1 c:1 t:1 t:2 a:2 / u:3 a:4 /", "u:5", 8, "u:1 c:1 t:1 t:2 a:2 u:3 a:4", 0},
		{"a result keeps its call and its question", "u:1 a:2 / u:3 c:1 /", "t:1", 1, "u:3 c:1", 2},
		{"what a result keeps takes the room of what is older", "u:1 a:2 / u:" + long + " c:1 /", "t:1", 5, "u:" + long + " c:1", 2},
		{"an empty answer takes no room", "u:1 a:2 / u:3 x: /", "u:4", 4, "u:1 a:2 u:3", 0},
		{"a cut answer is a message", "u:1 x:2 / u:3 a:4 /", "u:5", 3, "u:3 a:4", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := threads.Window{Tokens: tt.room * cost}
			turn, err := threads.DecideWithin(stored(t, tt.thread), request(tt.request), false, w)
			if err != nil {
				t.Fatal(err)
			}
			if got := words(turn.History); got != tt.history {
				t.Errorf("history %q, want %q", got, tt.history)
			}
			if turn.Omitted != tt.omitted {
				t.Errorf("left out %d, want %d", turn.Omitted, tt.omitted)
			}
			w.Policy = threads.Refuse
			_, err = threads.DecideWithin(stored(t, tt.thread), request(tt.request), false, w)
			if refused := fault.HasCode(err, "context_length_exceeded"); refused != (tt.omitted > 0) {
				t.Errorf("under refuse: %v", err)
			}
		})
	}
}

func TestFitRequest(t *testing.T) {
	for _, tt := range []struct {
		name, thread, request string
		room                  int64
		shown                 string
	}{
		{"all of it", "u:1 a:2 /", "u:1 a:2 u:3", 3, "u:1 a:2 u:3"},
		{"the oldest go first", "u:1 a:2 / u:3 a:4 /", "u:1 a:2 u:3 a:4 u:5", 3, "u:3 a:4 u:5"},
		{"what is shown begins with a user", "u:1 a:2 / u:3 a:4 /", "u:1 a:2 u:3 a:4 u:5", 4, "u:3 a:4 u:5"},
		{"the newest turn stays", "u:1 a:2 /", "u:1 a:2 u:3 u:4", 1, "u:3 u:4"},
		{"the system stays", "s:9 u:1 a:2 /", "s:9 u:1 a:2 u:3", 2, "s:9 u:3"},
		{"a call stays with its results", "u:1 c:1 t:1 a:2 / u:3 a:4 /", "u:1 c:1 t:1 a:2 u:3 a:4 u:5", 6, "u:3 a:4 u:5"},
		{"a result of the newest turn keeps its call and its question", "u:1 a:2 / u:3 c:1 /", "u:1 a:2 u:3 c:1 t:1", 1, "u:3 c:1 t:1"},
		{"a turn that is tried again", "u:1 a:2 / u:3 x: /", "u:1 a:2 u:3", 1, "u:3"},
		{"another conversation", "u:8 a:9 /", "u:1 a:2 u:3", 1, "u:3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := request(tt.request)
			w := threads.Window{Tokens: tt.room * cost}
			turn, err := threads.DecideWithin(stored(t, tt.thread), in, false, w)
			if err != nil {
				t.Fatal(err)
			}
			drop := map[int]bool{}
			for _, i := range turn.Drop {
				drop[i] = true
			}
			var shown []*threads.Message
			for i, m := range in {
				if !drop[i] {
					shown = append(shown, &threads.Message{Role: m.Role, Raw: m.Raw})
				}
			}
			if got := words(shown); got != tt.shown {
				t.Errorf("shown %q, want %q", got, tt.shown)
			}
			if turn.Omitted != len(turn.Drop) {
				t.Errorf("left out %d, dropped %d", turn.Omitted, len(turn.Drop))
			}
			w.Policy = threads.Refuse
			_, err = threads.DecideWithin(stored(t, tt.thread), in, false, w)
			if refused := fault.HasCode(err, "context_length_exceeded"); refused != (len(turn.Drop) > 0) {
				t.Errorf("under refuse: %v", err)
			}
		})
	}
}

// What did not fit into one model's window may fit into the next one's.
func TestFitAgain(t *testing.T) {
	for _, tt := range []struct {
		said, history string // all of it
		never         []int
	}{
		{"u:5", "u:1 u:2 a:3 u:3 a:4", nil},
		{"u:1 a: u:2 a:3 u:3 a:4 u:5", "", []int{1}},
	} {
		req := request(tt.said)
		w := threads.Window{Tokens: 3 * cost}
		turn, err := threads.DecideWithin(stored(t, "u:1 x: / u:2 a:3 / u:3 a:4 /"), req, false, w)
		if err != nil {
			t.Fatal(err)
		}
		seen := func() string { return fmt.Sprint(words(turn.History), turn.Drop, turn.Omitted) }
		narrow := seen()
		if turn.Omitted == 0 {
			t.Fatalf("%s: nothing was left out", tt.said)
		}
		for range 2 {
			if err := turn.Fit(req, threads.Window{}); err != nil || seen() != fmt.Sprint(tt.history, tt.never, 0) {
				t.Errorf("%s: %v, %s", tt.said, err, seen())
			}
			if err := turn.Fit(req, w); err != nil || seen() != narrow {
				t.Errorf("%s: %v, %s, not as before: %s", tt.said, err, seen(), narrow)
			}
		}
	}
}

// Texts that repeat themselves must not make a decision the square of their number.
func TestRepetitionIsCheap(t *testing.T) {
	const n = 20_000
	thread := stored(t, strings.Repeat("u:k ", n)+"u:end")
	in := request(strings.Repeat("u:k ", n) + "a:k u:k")
	turn, err := threads.Decide(thread, in, true)
	if err != nil {
		t.Fatal(err)
	}
	if turn.Fork == nil || turn.Fork.Upto != n {
		t.Errorf("%+v", turn.Fork)
	}
}

// However long the thread is, what a request reads of it is about as long as the request.
func TestDecisionsReadLittle(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "u:q%d a:a%d / ", i, i)
	}
	list := stored(t, b.String())
	for text, mode := range map[string]threads.Mode{
		"u:new": threads.Appended, "u:q4999 a:a4999 u:new": threads.Deduplicated, "a:a4999 u:new": threads.Deduplicated,
		"u:q0 a:a0 u:edit": threads.Forked, "u:x a:y u:z": threads.Appended, "u:x a:a2500 u:z": threads.Forked,
	} {
		turn, read, err := threads.DecideCounting(list, request(text), threads.Window{Tokens: 40 * cost})
		if err != nil {
			t.Fatal(err)
		}
		if turn.Mode != mode || read > 400 {
			t.Errorf("%s: %s after reading %d messages", text, turn.Mode, read)
		}
	}
}
