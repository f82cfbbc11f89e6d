package threads_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/openai"
	"threadhub/threads"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

// A conversation is written as words: "u:hi" is a user message, "a:" an assistant's, "s:" a system's, "x:" an assistant's
// that is incomplete ("x:" alone is an empty one), "c:" an assistant's call of a tool, "t:" its result. A slash ends a turn.
func stored(t *testing.T, words string) (list []*threads.Message) {
	t.Helper()
	call := 0
	for _, w := range strings.Fields(words) {
		if w == "/" {
			call++
			continue
		}
		role, text, _ := strings.Cut(w, ":")
		m := &threads.Message{Role: roles[role], Raw: raw(role, text), Status: threads.Complete}
		var head *threads.Message
		if len(list) > 0 {
			head = list[len(list)-1]
		}
		m.After(head)
		if role == "x" {
			m.Status, m.Chain = threads.Incomplete, []byte{}
			if head != nil {
				m.Chain = head.Chain
			}
		}
		m.Call = id.Request(fmt.Sprint("req_", call))
		list = append(list, m)
	}
	return list
}

var roles = map[string]string{"u": "user", "a": "assistant", "x": "assistant", "s": "system", "d": "developer", "c": "assistant", "t": "tool"}

func raw(role, text string) []byte {
	switch role {
	case "c":
		return fmt.Appendf(nil, `{"role":"assistant","tool_calls":[{"id":%q}]}`, text)
	case "t":
		return fmt.Appendf(nil, `{"role":"tool","tool_call_id":%q}`, text)
	}
	return fmt.Appendf(nil, `{"role":%q,"content":%q}`, roles[role], text)
}

func request(words string) (list []openai.Message) {
	for _, w := range strings.Fields(words) {
		role, text, _ := strings.Cut(w, ":")
		list = append(list, openai.Message{Role: roles[role], Raw: raw(role, text)})
	}
	return list
}

func words(list []*threads.Message) string {
	var b strings.Builder
	for _, m := range list {
		role, text := short(m.Role), openai.ContentText(m.Raw)
		if id := gjson.GetBytes(m.Raw, "tool_calls.0.id"); id.Exists() {
			role, text = "c", id.Str
		} else if m.Role == "tool" {
			text = gjson.GetBytes(m.Raw, "tool_call_id").Str
		}
		fmt.Fprintf(&b, " %s:%s", role, text)
	}
	return strings.TrimSpace(b.String())
}

func short(role string) string { return role[:1] }

func TestDecide(t *testing.T) {
	tests := []struct{ name, thread, request, added, history, mode string }{
		{"first message", "", "u:hi", "u:hi", "", "appended"},
		{"thin", "u:hi a:hello /", "u:more", "u:more", "u:hi a:hello", "appended"},
		{"thin, the same words as before", "u:hi a:hello /", "u:hi", "u:hi", "u:hi a:hello", "appended"},
		{"full", "u:hi a:hello /", "u:hi a:hello u:more", "u:more", "", "deduplicated"},
		{"full, again and again", "u:1 a:2 / u:3 a:4 /", "u:1 a:2 u:3 a:4 u:5", "u:5", "", "deduplicated"},
		{"trimmed", "u:1 a:2 / u:3 a:4 /", "u:3 a:4 u:5", "u:5", "", "deduplicated"},
		{"trimmed to the answer", "u:1 a:2 / u:3 a:4 /", "a:4 u:5", "u:5", "", "deduplicated"},
		{"another conversation", "u:1 a:2 /", "u:8 a:9 u:5", "u:8 a:9 u:5", "", "appended"},
		{"another conversation with an equal question", "u:1 a:2 / u:3 a:4 /", "u:8 a:9 u:3 a:7 u:5", "u:8 a:9 u:3 a:7 u:5", "", "appended"},
		{"another one with a cut answer's words", "u:1 x:ha / u:3 a:4 /", "u:8 a:ha u:5", "u:8 a:ha u:5", "", "appended"},
		{"another one with an answer that says nothing", "u:1 a: / u:3 a:4 /", "u:8 a: u:5", "u:8 a: u:5", "", "appended"},
		{"another one in which a user says what the model said", "u:1 a:2 /", "u:8 a:9 u:2", "u:8 a:9 u:2", "", "appended"},
		{"another one after which nothing is left", "", "u:1 a:2 u:3", "u:1 a:2 u:3", "", "appended"},
		{"first system", "", "s:be-kind u:hi", "s:be-kind u:hi", "", "appended"},
		{"equal system is not stored again", "s:be-kind u:hi a:hello /", "s:be-kind u:more", "u:more", "u:hi a:hello", "appended"},
		{"without one the stored system stands", "s:be-kind u:hi a:hello /", "u:more", "u:more", "s:be-kind u:hi a:hello", "appended"},
		{"a new system stands for the older", "s:old u:hi a:hello /", "s:new u:more", "s:new u:more", "u:hi a:hello", "appended"},
		{"the newest system stands", "s:old u:1 a:2 / s:new u:3 a:4 /", "u:5", "u:5", "s:new u:1 a:2 u:3 a:4", "appended"},
		{"a system does not make a full client diverge", "s:old u:1 a:2 /", "s:new u:1 a:2 u:3", "s:new u:3", "", "deduplicated"},
		{"a turn without an answer is tried again", "u:1 a:2 / u:3 x: /", "u:3", "", "u:1 a:2", "deduplicated"},
		{"a first turn without an answer is tried again", "u:3 x: /", "u:3", "", "", "deduplicated"},
		{"tried again by a full client", "u:1 a:2 / u:3 x: /", "u:1 a:2 u:3", "", "", "deduplicated"},
		{"tried again twice", "u:1 x: / x: /", "u:1", "", "", "deduplicated"},
		{"another question after one that failed", "u:1 a:2 / u:3 x: /", "u:4", "u:4", "u:1 a:2 u:3", "appended"},
		{"a cut answer is shown upstream", "u:1 x:hal /", "u:go-on", "u:go-on", "u:1 a:hal", "appended"},
		{"a cut answer that was tried again is not", "u:1 x:hal / a:half /", "u:go-on", "u:go-on", "u:1 a:half", "appended"},
		{"a cut answer resent is ours already", "u:1 x:hal /", "u:1 a:hal u:go-on", "u:go-on", "", "deduplicated"},
		{"and in every later request", "u:1 x:hal / u:go-on a:f /", "u:1 a:hal u:go-on a:f u:2", "u:2", "", "deduplicated"},
		{"also where some are not resent", "u:1 x:hal / u:2 x:ha / u:3 a:f /", "u:1 u:2 a:ha u:3 a:f u:4", "u:4", "", "deduplicated"},
		{"also by a client that trims", "u:0 a:0 / u:1 x:hal / u:2 a:f /", "u:1 a:hal u:2 a:f u:3", "u:3", "", "deduplicated"},
		{"a cut answer that is also a whole one", "u:1 x:yes / u:2 a:yes /", "u:1 a:yes u:2 a:yes u:3", "u:3", "", "deduplicated"},
		{"a cut answer resent, the turn to be tried again", "u:1 x:hal /", "u:1 a:hal", "", "", "deduplicated"},
		{"a cut answer that two whole ones repeat, not resent", "u:0 a:0 / u:1 x:yes / a:yes / a:yes /", "u:1 a:yes a:yes u:2", "u:2", "", "deduplicated"},
		{"a cut answer, an empty and a whole one, all resent", "u:1 x:yes / x: / a:yes /", "u:1 a:yes a: a:yes u:2", "u:2", "", "deduplicated"},
		{"the same, the empty one not resent", "u:1 x:yes / x: / a:yes /", "u:1 a:yes a:yes u:2", "u:2", "", "deduplicated"},
		{"the same, the whole one alone resent", "u:1 x:yes / x: / a:yes /", "u:1 a:yes u:2", "u:2", "", "deduplicated"},
		{"cut again and resent", "u:1 x:hal / u:2 x:ha /", "u:1 a:hal u:2 a:ha u:3", "u:3", "", "deduplicated"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list := stored(t, tt.thread)
			turn, err := threads.Decide(list, request(tt.request), false)
			if err != nil {
				t.Fatal(err)
			}
			added := make([]*threads.Message, len(turn.New))
			for i := range turn.New {
				added[i] = &turn.New[i]
				if want := len(list) + i; turn.New[i].Seq != want {
					t.Errorf("new message %d has sequence %d, want %d", i, turn.New[i].Seq, want)
				}
			}
			if words(added) != tt.added {
				t.Errorf("added %q, want %q", words(added), tt.added)
			}
			if words(turn.History) != tt.history {
				t.Errorf("history %q, want %q", words(turn.History), tt.history)
			}
			if string(turn.Mode) != tt.mode {
				t.Errorf("mode %q, want %q", turn.Mode, tt.mode)
			}
		})
	}
}

// An answer that never came is not shown to a provider, also not by a client that sends it back.
func TestAnEmptyAnswerSentBackIsDropped(t *testing.T) {
	for _, tt := range []struct {
		thread, request string
		drop            []int
	}{
		{"u:1 x: / u:2 a:3 /", "u:1 a: u:2 a:3 u:4", []int{1}},
		{"u:1 x: / u:2 a:3 /", "s:x u:1 a: u:2 a:3 u:4", []int{2}},
		{"u:1 x: /", "u:1 a: u:2", []int{1}},
		{"u:1 x:hal /", "u:1 a:hal u:2", nil},
		{"u:1 a:2 /", "u:1 a:2 u:3 a: u:4", nil}, // not the thread's: the client's own affair
	} {
		turn, err := threads.Decide(stored(t, tt.thread), request(tt.request), false)
		if err != nil || !slices.Equal(turn.Drop, tt.drop) || turn.Omitted != 0 {
			t.Errorf("%s, then %s: %v, dropped %v, omitted %d", tt.thread, tt.request, err, turn.Drop, turn.Omitted)
		}
	}
}

// The thread knows its own answers again where a client repeats them, and reads no more for it than the client repeats.
func TestStored(t *testing.T) {
	const long = "u:0 a:0 / u:0 a:0 / u:0 a:0 / u:0 a:0 / u:0 a:0 / u:0 a:0 /"
	for _, tt := range []struct {
		name, thread, request string
		stored                map[int]int // sequences, by places in the request
		read                  int         // at most
	}{
		{"a thin client repeats none", "u:1 a:2 /", "u:3", nil, 0},
		{"all of it", "u:1 a:2 / u:3 a:4 /", "u:1 a:2 u:3 a:4 u:5", map[int]int{1: 1, 3: 3}, 4},
		{"a call", "u:1 c:1 /", "u:1 c:1 t:1", map[int]int{1: 1}, 2},
		{"system messages are passed over", "s:9 u:1 a:2 /", "s:8 u:1 a:2 u:3", map[int]int{2: 2}, 3},
		{"a stretch", long + " u:1 a:2 /", "u:1 a:2 u:3", map[int]int{1: 13}, 2},
		{"of equals the last", long, "u:0 a:0 u:0 a:0 u:3", map[int]int{1: 9, 3: 11}, 4},
		{"an answer that is the client's own", "u:1 a:2 /", "u:1 a:2 u:3 a:2 u:5", map[int]int{1: 1}, 2},
		{"a cut answer", long + " u:1 x:hal / u:2 a:3 /", "u:1 a:hal u:2 a:3 u:4", map[int]int{1: 13, 3: 15}, 4},
		{"an empty answer is not shown", long + " u:1 x: / u:2 a:3 /", "u:1 a: u:2 a:3 u:4", map[int]int{3: 15}, 2},
		{"another conversation", long, "u:8 a:9 u:7", nil, 0},
		{"a fork", "u:1 a:2 / u:3 a:2 / u:5 a:6 /", "u:1 a:2 u:3 a:2 u:7", map[int]int{1: 1, 3: 3}, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, read, err := threads.StoredCounting(stored(t, tt.thread), request(tt.request), true)
			if err != nil {
				t.Fatal(err)
			}
			seqs := map[int]int{}
			for at, m := range got {
				seqs[at] = m.Seq
			}
			if !maps.Equal(seqs, tt.stored) || read > tt.read {
				t.Errorf("stored %v after reading %d messages, want %v and %d", seqs, read, tt.stored, tt.read)
			}
		})
	}
}

func TestDiverged(t *testing.T) {
	for name, tt := range map[string]struct {
		thread, request string
		at              string
	}{
		"an edit":      {"u:1 a:2 / u:3 a:4 /", "u:1 a:2 u:edited a:4 u:5", "sequence 2"},
		"a regenerate": {"u:1 a:2 / u:3 a:4 /", "u:1 a:2 u:3", "sequence 3"},
		"a shorter":    {"u:1 a:2 / u:3 a:4 /", "u:1 a:2", "sequence 2"},

		"a trimmed copy that is old":           {"u:1 a:2 / u:3 a:4 / u:5 a:6 /", "u:3 a:4 u:7", "sequence 4"},
		"trimmed to an answer":                 {"u:1 a:2 / u:3 a:4 / u:5 a:6 /", "a:4 u:7", "sequence 4"},
		"an edit in a trimmed copy":            {"u:1 a:2 / u:3 a:4 / u:5 a:6 /", "u:3 a:other u:7", "sequence 3"},
		"trimmed to a cut answer":              {"u:1 x:ha / u:3 a:4 / u:5 a:6 /", "a:ha u:3 a:4 u:7", "sequence 4"},
		"the longest of several places counts": {"u:1 a:2 / u:3 a:4 / u:1 a:2 / u:5 a:6 / u:1 a:8 /", "u:1 a:2 u:5 a:6 u:7", "sequence 8"},
		"of equals the newest":                 {"u:1 a:2 / u:3 a:4 / u:1 a:2 / u:5 a:6 /", "u:1 a:2 u:7", "sequence 6"},

		"an edit of the first message":           {"u:1 a:2 /", "u:edited a:2 u:3", "sequence 0;"},
		"of a longer thread":                     {"u:1 a:2 / u:3 a:4 / u:5 a:6 /", "u:edited a:2 u:3 a:4 u:5 a:6 u:7", "sequence 0;"},
		"of a trimmed copy":                      {"u:1 a:2 / u:3 a:4 /", "u:edited a:4 u:5", "sequence 0;"},
		"one message more in front":              {"u:1 a:2 /", "u:0 u:1 a:2 u:3", "sequence 0;"},
		"an answer and no question":              {"u:1 a:2 / u:3 a:4 /", "a:9 u:0 a:2 u:5", "sequence 0;"},
		"a call of a tool":                       {"u:1 c:2 / t:2 a:3 /", "u:edited c:2 t:2 a:8 u:5", "sequence 0;"},
		"an edit of the first after a system":    {"s:x u:1 a:2 /", "s:x u:edited a:2 u:3", "sequence 1"},
		"an edit after a cut answer":             {"x:ha / u:1 a:2 /", "a:ha u:edited a:2 u:3", "sequence 1"},
		"an edit after a cut answer, not resent": {"x:ha / u:1 a:2 /", "u:edited a:2 u:3", "sequence 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := threads.Decide(stored(t, tt.thread), request(tt.request), false)
			if !fault.HasCode(err, "thread_diverged") || !strings.Contains(err.Error(), tt.at) {
				t.Errorf("got %v, want thread_diverged at %s", err, tt.at)
			}
		})
	}
}

func TestFork(t *testing.T) {
	for _, tt := range []struct {
		name, thread, request, kept, added string
	}{
		{"an edit of the first message", "u:1 a:2 / u:3 a:4 /", "u:edited a:2 u:3 a:4 u:5", "", "u:edited a:2 u:3 a:4 u:5"},
		{"an edit of the first after a system", "s:x u:1 a:2 /", "s:x u:edited a:2 u:3", "s:x", "u:edited a:2 u:3"},
		{"one message more in front", "u:1 a:2 /", "s:x u:0 u:1 a:2 u:3", "", "s:x u:0 u:1 a:2 u:3"},
		{"an edit after a cut answer", "x:ha / u:1 a:2 /", "a:ha u:edited a:2 u:3", "a:ha", "u:edited a:2 u:3"},
		{"an edit", "u:1 a:2 / u:3 a:4 /", "u:1 a:2 u:edited", "u:1 a:2", "u:edited"},
		{"an edit in the middle of what is resent", "u:1 a:2 / u:3 a:4 / u:5 a:6 /", "u:1 a:2 u:3 a:other u:7", "u:1 a:2 u:3", "a:other u:7"},
		{"a regenerate", "u:1 a:2 / u:3 a:4 /", "u:1 a:2 u:3", "u:1 a:2 u:3", ""},
		{"system messages before it are there", "s:x u:1 a:2 / u:3 a:4 /", "s:x u:1 a:2 u:5", "s:x u:1 a:2", "u:5"},
		{"system messages after it are not", "u:1 a:2 / u:3 a:4 / s:x u:5 a:6 /", "s:x u:1 a:2 u:7", "u:1 a:2", "s:x u:7"},
		{"with a cut answer", "u:1 x:ha / u:2 a:3 / u:4 a:5 /", "u:1 a:ha u:2 a:3 u:6", "u:1 a:ha u:2 a:3", "u:6"},
		{"a trimmed copy that is old", "u:1 a:2 / u:3 a:4 / u:5 a:6 /", "u:3 a:4 u:7", "u:1 a:2 u:3 a:4", "u:7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list := stored(t, tt.thread)
			turn, err := threads.Decide(list, request(tt.request), true)
			if err != nil {
				t.Fatal(err)
			}
			if turn.Mode != threads.Forked {
				t.Fatalf("mode %q", turn.Mode)
			}
			kept := list[:turn.Fork.Upto]
			if words(kept) != tt.kept {
				t.Errorf("kept %q, want %q", words(kept), tt.kept)
			}
			if got := words(pointers(turn.New)); got != tt.added {
				t.Errorf("added %q, want %q", got, tt.added)
			}
			for i, m := range turn.New {
				if m.Seq != turn.Fork.Upto+i {
					t.Errorf("new message %d has sequence %d after %d that are kept", i, m.Seq, turn.Fork.Upto)
				}
			}
			// The fork's chain is that of the conversation it is.
			again, err := threads.Decide(append(slices.Clone(kept), pointers(turn.New)...), request("u:more"), false)
			if err != nil {
				t.Fatal(err)
			}
			if want := turn.Chain; string(again.PrevChain) != string(want) {
				t.Errorf("the fork ends in the chain %x, its answer goes on from %x", again.PrevChain, want)
			}
		})
	}
}

func TestWhatHasNotDivergedIsNotForked(t *testing.T) {
	for _, text := range []string{"u:1 a:2 u:3", "u:3", "u:8 a:9 u:1"} {
		turn, err := threads.Decide(stored(t, "u:1 a:2 /"), request(text), true)
		if err != nil || turn.Fork != nil {
			t.Errorf("%s: %+v, %v", text, turn.Fork, err)
		}
	}
}

func pointers(list []threads.Message) []*threads.Message {
	out := make([]*threads.Message, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// What a turn adds must hash to the same chain as the whole conversation said at once.
func TestChainIsOfTheConversation(t *testing.T) {
	thin, err := threads.Decide(stored(t, "u:1 a:2 /"), request("s:x u:3"), false)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := threads.Decide(nil, request("u:1 a:2 u:3"), false)
	if err != nil {
		t.Fatal(err)
	}
	if string(thin.Chain) != string(whole.Chain) {
		t.Error("the same conversation has two chains")
	}
}
