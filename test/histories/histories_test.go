package histories

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

var seed = flag.Uint64("seed", 0, "play this conversation alone, and show it")

// conversations are the first and the last that are played: always the same ones, in the long form others each time.
func conversations() (from, to uint64) {
	if os.Getenv("THREADHUB_SOAK") != "" {
		from = uint64(time.Now().UnixNano())
		return from, from + 300_000
	}
	return 1, 6000
}

// Each conversation is taken by the provider it is told to, and nothing of it is lost but by a warning's name.
func TestConversations(t *testing.T) {
	if *seed != 0 {
		c := Make(*seed)
		o := Straight(c)
		t.Log(show(c, o))
		if err := errors.Join(Judge(c, o), googleKnows(c, o)); err != nil {
			t.Error(err)
		}
		return
	}
	failed, seen := 0, counts{}
	from, to := conversations()
	t.Logf("conversations %d to %d", from, to)
	for n := from; n <= to && failed < 10; n++ {
		c := Make(n)
		o := Straight(c)
		seen.look(c, o)
		if err := errors.Join(Judge(c, o), googleKnows(c, o)); err != nil {
			failed++
			t.Errorf("-seed=%d: to %s: %v", n, c.To, err)
		}
	}
	// What is looked for was there, told to everybody, and all became of it that may.
	for _, what := range all() {
		if seen[what] == 0 {
			t.Errorf("in no conversation: %s", what)
		}
	}
}

// counts are how often things happened, by what they are called in all.
type counts map[string]int

func (seen counts) look(c *Conversation, o Outcome) {
	seen["to "+c.To.String()]++
	seen[fmt.Sprintf("of a thread: %v", c.Thread)]++
	switch {
	case o.Err != nil && c.Wrong != "":
		seen["refused: "+c.Wrong]++
	case o.Err != nil:
		seen["refused for what it asks"]++
	case o.Refusal != nil:
		seen["refused by the provider"]++
	}
	for _, m := range c.all() {
		if m.Answer {
			seen["by "+m.By.Provider+" to "+c.To.Provider]++
		}
		if m.Cut {
			seen["cut"]++
		}
	}
	for _, call := range c.calls {
		if call.result == "" && !call.cut {
			seen["a call nobody answered"]++
		}
		if call.result == none {
			seen["half a call"]++
		}
	}
	for _, p := range c.pieces {
		switch {
		case o.Err != nil:
		case bytes.Contains(o.Body, []byte(p.mark)):
			seen[p.kind+" is told"]++
		default:
			seen[p.kind+" is left out"]++
		}
	}
}

// all is what must happen.
func all() []string {
	list := []string{
		"of a thread: true", "of a thread: false", "refused for what it asks", "refused by the provider", "cut", "half a call", "a call nobody answered",
		"refused: a call without a result", "refused: a call without a result, then a user", "refused: a result without a call",
		"refused: two results of a call", "refused: a result too late", "result of nothing is left out", "image is told",
	}
	for _, kind := range []string{"instruction", "text", "answer", "refusal", "result", "transcript", "sound's id"} {
		list = append(list, kind+" is told")
	}
	for _, kind := range []string{
		"name", "member", "drawing", "image without TLS", "sound", "file", "file by its id", "file name", "film", "cache mark", "shown by a tool", "call",
		"arguments", "called name", "thought", "citation", "drawn by the model", "signature of a thought", "signature of a text",
		"signature of an image", "signature of a call",
	} {
		list = append(list, kind+" is told", kind+" is left out")
	}
	for _, to := range Targets {
		list = append(list, "to "+to.String())
		for _, by := range Targets {
			list = append(list, "by "+by.Provider+" to "+to.Provider)
		}
	}
	return list
}

// show is a conversation and what became of it.
func show(c *Conversation, o Outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "to %s, thread %v, wrong %q, refusable %v\n", c.To, c.Thread, c.Wrong, c.Refusable)
	for i, m := range c.all() {
		where := "sent"
		if i < len(c.Told) {
			where = "told"
		}
		by := ""
		if m.Answer {
			by = " by " + m.By.String()
		}
		if m.Cut {
			by += ", cut"
		}
		fmt.Fprintf(&b, "%d %s%s: %.2000s\n", i, where, by, m.Raw)
	}
	fmt.Fprintf(&b, "%s\n%.6000s\nwarnings %q\nerror %v, refusal %+v\n", o.Path, o.Body, o.Warnings, o.Err, o.Refusal)
	return b.String()
}
