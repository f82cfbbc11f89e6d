package sdk

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"threadhub/internal/testkit"
	"threadhub/simulator"
)

// cell is one place in the table: a library, a provider, a mode and a store, in one case.
type cell struct {
	*testing.T
	w        *world
	sdk      sdk
	provider string
	dialect  dialect // of the provider
	threaded bool
	name     string // unique in its world
}

// talk is a conversation in a cell: with a thread or, in plain mode, without.
type talk struct {
	*cell
	mark   string // stands in every user message of it, and so in every request the provider gets
	thread string // "" in plain mode
	stream bool   // the newest job is one
	want   []want // what the thread must hold in the end; in plain mode only the answers count
	seen   int    // how many of the provider's attempts have been answered for
}

// want is a message a thread must hold. An answer has the attempt it came from.
type want struct {
	role       string
	text       string
	calls      []toolCall // an assistant's
	callID     string     // a tool's
	from       *simulator.Attempt
	status     string // of the call: complete, incomplete, failed
	reason     string
	stream     bool
	partOfText bool // the text is what the client saw of an answer cut short: the thread may hold more
}

func (c *cell) talk(name string) *talk {
	k := &talk{cell: c, mark: "mark-" + c.name + "-" + name + "-end"}
	if c.threaded {
		k.thread = "t:" + c.name + "." + name
	}
	return k
}

// model is what clients call the model of this cell.
func (c *cell) model() string { return c.provider + "/" + c.dialect.model }

// says is the user's text with the talk's mark in it.
func (k *talk) says(text string) string { return k.mark + ": " + text }

// job asks with one new user message.
func (k *talk) job(do, text string) job {
	j := job{Do: do, BaseURL: k.w.gw.URL + "/v1", Key: k.w.writer.Key, Model: k.model(), Messages: []message{{"user", k.says(text)}}}
	if k.thread != "" {
		j.Header = map[string]string{"X-Thread-Id": k.thread}
	}
	return j
}

// run does a job.
func (k *talk) run(j job) result {
	k.Helper()
	r, err := k.sdk.do(j)
	if err != nil {
		k.Fatal(err)
	}
	return r
}

// ok does a job that must go well, and notes its input as the thread's.
func (k *talk) ok(j job) result {
	k.Helper()
	r := k.run(j)
	if r.Err != nil {
		k.Fatalf("the SDK raised %+v after %q", *r.Err, r.Text)
	}
	k.asked(j)
	return r
}

// raises does a job that must raise an error of this class, and notes its input as the thread's.
func (k *talk) raises(class string, j job) result {
	k.Helper()
	r := k.run(j)
	if r.Err == nil {
		k.Fatalf("the SDK raised no %s; it gave %q, finish %q", class, r.Text, r.Finish)
	}
	if r.Err.Class != class {
		k.Fatalf("the SDK raised %+v, not a %s", *r.Err, class)
	}
	k.asked(j)
	return r
}

func (k *talk) asked(j job) {
	k.want = append(k.want, want{role: "user", text: j.Messages[len(j.Messages)-1].Content})
	k.stream = j.Do == doStream || j.Do == doToolsStream
}

// attempts are what the provider got of this talk, once all of it has ended.
func (k *talk) attempts() (list []simulator.Attempt) {
	k.Helper()
	testkit.Eventually(k.T, settled, func() bool {
		list = nil
		for _, a := range k.w.sim.Log() {
			if bytes.Contains(a.Body, []byte(k.mark)) {
				if a.End == "" {
					return false
				}
				list = append(list, a)
			}
		}
		return true
	}, "the provider still works on an attempt")
	return list
}

// answered takes the next attempt out of the provider's log: the one whose call came to this end.
func (k *talk) answered(status, reason string) simulator.Attempt {
	k.Helper()
	all := k.attempts()
	if len(all) <= k.seen {
		k.Fatalf("the provider was asked %d times, and not once more", k.seen)
	}
	a := all[k.seen]
	k.seen++
	k.want = append(k.want, want{role: "assistant", text: a.Text, from: &a, status: status, reason: reason, stream: k.stream})
	return a
}

// last is the newest wanted message.
func (k *talk) last() *want { return &k.want[len(k.want)-1] }

// callID is the gateway's id of the call an attempt belongs to: its name, without the attempt's number.
func callID(a simulator.Attempt) string { return strings.TrimSuffix(a.Name, "-0") }

// text is content where it is text; null and what is absent are "".
func text(t *testing.T, content json.RawMessage) string {
	t.Helper()
	if len(content) == 0 || string(content) == "null" {
		return ""
	}
	var s string
	if err := json.Unmarshal(content, &s); err != nil {
		t.Fatalf("content is %s", content)
	}
	return s
}

// user, assistant and tool are messages as a provider is to be shown them.
func user(text string) shown      { return shown{Role: "user", Text: text} }
func assistant(text string) shown { return shown{Role: "assistant", Text: text} }
func tool(c toolCall) shown       { return shown{Role: "tool", Text: c.Result, CallID: c.ID} }

func calling(calls []toolCall) shown {
	s := shown{Role: "assistant"}
	for _, c := range calls {
		s.Calls = append(s.Calls, toolCall{ID: c.ID, Name: c.Name, Args: c.Args})
	}
	return s
}

// got fails the cell unless the provider was shown exactly these messages.
func (k *talk) got(a simulator.Attempt, want ...shown) {
	k.Helper()
	have, err := k.dialect.conversation(a.Body)
	if err != nil {
		k.Fatalf("the provider got %q: %v", a.Body, err)
	}
	w, errWant := json.Marshal(want)
	h, errHave := json.Marshal(have)
	if errWant != nil || errHave != nil || !sameJSON(h, w) {
		k.Errorf("the provider was shown %s (%v), want %s (%v)", h, errHave, w, errWant)
	}
}

// keptSigned fails the cell unless a request gives back what the provider signed an earlier answer with, if it did. That
// is the thread's to do: in plain mode it is up to the client.
func (k *talk) keptSigned(answer, request simulator.Attempt) {
	k.Helper()
	signatures := k.dialect.signatures(answer)
	if (len(signatures) > 0) != (k.dialect.signature != nil) {
		k.Errorf("the provider signed %d times: %q", len(signatures), answer.Events)
	}
	for _, s := range signatures {
		if k.threaded && !bytes.Contains(request.Body, []byte(s)) {
			k.Errorf("the provider signed with %s, and did not get that back: %s", s, request.Body)
		}
	}
}
