package model_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"threadhub/internal/testkit"
	"threadhub/simulator"
	"threadhub/test/rig"
)

// said is a message as clients of the API write and read it.
type said struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// stored is a message as the API shows it.
type stored struct {
	said
	Sequence int
	Status   string
}

const (
	turns     = 12
	fourTalk  = "four-clients"
	fourModel = "openai/gpt-5-mini"
)

// talker is one client that has questions of its own, and asks them one after the other in a thread it shares.
type talker struct {
	name   string
	stream bool
	own    bool // it tells the conversation itself, and not only what is new
	keeps  int  // how many messages it tells at the most; 0: all
	on     *rig.Gateway
	key    string

	copy     []said // of the thread, as it knows it
	answers  []string
	seqs     []int
	locked   int
	diverged int
}

// talk asks all questions, each until it is answered.
func (c *talker) talk(ctx context.Context) error {
	for n := range turns {
		question := fmt.Sprintf("%s asks %d [[sim text=%q chunks=3 delay=1ms]]", c.name, n, answerTo(c.name, n))
		if err := c.insist(ctx, question); err != nil {
			return fmt.Errorf("%s, question %d: %w", c.name, n, err)
		}
	}
	return nil
}

func answerTo(name string, n int) string {
	return fmt.Sprintf("the answer to %s's question %d", name, n)
}

// insist does what SDKs do, and what a client does that learns that its copy of the conversation is old.
func (c *talker) insist(ctx context.Context, question string) error {
	for try := 0; ; try++ {
		r, err := c.ask(ctx, question, try)
		if err != nil {
			return err
		}
		var e struct{ Error struct{ Code string } }
		_ = json.Unmarshal(r.Body, &e)
		switch {
		case r.Status == 200:
			return c.answered(r, question)
		case r.Status == 409 && e.Error.Code == "thread_locked", r.Status == 503 && e.Error.Code == "busy":
			c.locked++
			after, err := strconv.Atoi(r.Header.Get("Retry-After"))
			if err != nil {
				return fmt.Errorf("Retry-After is %q", r.Header.Get("Retry-After"))
			}
			select {
			case <-time.After(time.Duration(after) * time.Second):
			case <-ctx.Done():
				return ctx.Err()
			}
		case r.Status == 409 && e.Error.Code == "thread_diverged" && c.own:
			c.diverged++
			if err := c.reread(ctx); err != nil {
				return err
			}
		default:
			return fmt.Errorf("status %d: %s", r.Status, r.Body)
		}
	}
}

func (c *talker) ask(ctx context.Context, question string, try int) (*rig.Reply, error) {
	var messages []said
	if c.own {
		messages = c.copy
		if c.keeps > 0 && len(messages) > c.keeps {
			messages = messages[len(messages)-c.keeps:]
		}
	}
	header := []string{"X-Thread-Id", fourTalk}
	if try > 0 {
		header = append(header, "X-Stainless-Retry-Count", strconv.Itoa(try))
	}
	return c.on.Do(ctx, "POST", "/v1/chat/completions", c.key, map[string]any{
		"model": fourModel, "stream": c.stream, "messages": append(messages[:len(messages):len(messages)], said{"user", question}),
	}, header...)
}

// answered notes the answer, and goes on with the conversation as it was told.
func (c *talker) answered(r *rig.Reply, question string) error {
	type choice struct{ Message, Delta said }
	var text strings.Builder
	events := []string{string(r.Body)}
	if c.stream {
		body, ok := strings.CutSuffix(string(r.Body), "data: [DONE]\n\n")
		if !ok {
			return fmt.Errorf("the stream ended in %q", r.Body[max(0, len(r.Body)-200):])
		}
		events = nil
		for line := range strings.Lines(body) {
			if e, ok := strings.CutPrefix(line, "data: "); ok {
				events = append(events, e)
			}
		}
	}
	for _, e := range events {
		var chunk struct{ Choices []choice }
		if err := json.Unmarshal([]byte(e), &chunk); err != nil {
			return fmt.Errorf("%w: %s", err, e)
		}
		for _, ch := range chunk.Choices {
			text.WriteString(ch.Message.Content + ch.Delta.Content)
		}
	}
	seq, err := strconv.Atoi(r.Header.Get("X-Threadhub-Thread-Seq"))
	if err != nil {
		return err
	}
	c.seqs = append(c.seqs, seq)
	c.answers = append(c.answers, text.String())
	c.copy = append(c.copy, said{"user", question}, said{"assistant", text.String()})
	return nil
}

// reread takes the thread for its copy, without an answer that is still being made.
func (c *talker) reread(ctx context.Context) error {
	list, err := thread(ctx, c.on, c.key)
	if err != nil {
		return err
	}
	c.copy = nil
	for _, m := range list {
		if m.Status == "complete" {
			c.copy = append(c.copy, m.said)
		}
	}
	return nil
}

func thread(ctx context.Context, g *rig.Gateway, key string) ([]stored, error) {
	r, err := g.Do(ctx, "GET", "/api/threads/"+fourTalk, key, nil)
	if err != nil {
		return nil, err
	}
	var body struct{ Messages []stored }
	if r.Status != 200 {
		return nil, fmt.Errorf("reading the thread: status %d: %s", r.Status, r.Body)
	}
	return body.Messages, r.JSON(&body)
}

// Four clients of different kinds hold a conversation of twelve turns each in one thread, over real sockets, on a team's
// store through two processes. Each insists until it is answered; the thread is then 48 whole turns in one order.
func TestFourClientsInOneThread(t *testing.T) {
	for store, url := range rig.Stores {
		t.Run(store, func(t *testing.T) { fourClients(t, store, url(t)) })
	}
}

func fourClients(t *testing.T, store, url string) {
	sim := rig.Simulator(t, simulator.Options{MaxLog: 1 << 10})
	h := rig.NewHouse(t, rig.Options{Database: url, Sim: sim, Env: []string{"THREADHUB_THREADS__TURN_WAIT=100ms", "THREADHUB_TIMEOUTS__DRAIN_ACCEPT=0"}})
	admin := h.Seed("four", "ann@four.example", "admin")
	g := []*rig.Gateway{h.Serve()}
	g[0].ProviderKeys(t, admin)
	if store == "postgres" {
		g = append(g, h.Serve())
	}
	t.Cleanup(rig.CloseIdle)
	clients := []*talker{
		{name: "thin streaming", stream: true},
		{name: "thin whole"},
		{name: "full", own: true},
		{name: "trimming", own: true, keeps: 6, stream: true},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	errs := make([]error, len(clients))
	var all sync.WaitGroup
	for i, c := range clients {
		c.on, c.key = g[i%len(g)], admin.Key
		all.Go(func() { errs[i] = c.talk(ctx) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	list, err := thread(ctx, g[0], admin.Key)
	if err != nil {
		t.Fatal(err)
	}
	wholeTurns(t, list, clients)
	shownInOrder(t, sim, list)
	for _, c := range clients {
		t.Logf("%s: %d turns, told %d times that the thread is locked and %d times that it has diverged", c.name, len(c.answers), c.locked, c.diverged)
	}
}

// wholeTurns checks that every question is in the thread once, at the sequence its client was told, with its own answer
// after it, and nothing else.
func wholeTurns(t *testing.T, list []stored, clients []*talker) {
	t.Helper()
	if want := 2 * turns * len(clients); len(list) != want {
		t.Errorf("the thread has %d messages, not %d", len(list), want)
	}
	for i, m := range list {
		if m.Sequence != i || m.Status != "complete" || m.Role != []string{"user", "assistant"}[i%2] {
			t.Fatalf("message %d is %+v", i, m)
		}
	}
	for _, c := range clients {
		if !slices.IsSorted(c.seqs) || len(c.seqs) != turns {
			t.Fatalf("%s was told the sequences %v", c.name, c.seqs)
		}
		for n, seq := range c.seqs {
			want := answerTo(c.name, n)
			if c.answers[n] != want {
				t.Errorf("%s's question %d was answered %q", c.name, n, c.answers[n])
			}
			if seq%2 != 0 || seq+1 >= len(list) || !strings.HasPrefix(list[seq].Content, fmt.Sprintf("%s asks %d ", c.name, n)) || list[seq+1].Content != want {
				t.Errorf("%s's question %d was to be at %d", c.name, n, seq)
			}
		}
	}
	said := map[string]int{}
	for _, m := range list {
		if said[m.Content]++; said[m.Content] > 1 {
			t.Errorf("%q is in the thread twice", m.Content)
		}
	}
}

// shownInOrder checks that with each question its provider was shown the messages before it, or, by the client that trims,
// the last of them.
func shownInOrder(t *testing.T, sim *simulator.Simulator, list []stored) {
	t.Helper()
	var log []simulator.Attempt
	testkit.Eventually(t, 10*time.Second, func() bool {
		log = sim.Log()
		return !slices.ContainsFunc(log, func(a simulator.Attempt) bool { return a.End == "" })
	}, "every attempt to end in the provider's log")
	if len(log) != len(list)/2 {
		t.Errorf("the provider was asked %d times for %d turns", len(log), len(list)/2)
	}
	for _, a := range log {
		var body struct{ Messages []said }
		if err := json.Unmarshal(a.Body, &body); err != nil {
			t.Fatal(err)
		}
		question := body.Messages[len(body.Messages)-1]
		at := slices.IndexFunc(list, func(m stored) bool { return m.said == question })
		from := at + 1 - len(body.Messages)
		if at < 0 || from < 0 || from > 0 && !strings.HasPrefix(question.Content, "trimming") {
			t.Errorf("%q was shown with %d messages before it, and is at %d", question.Content, len(body.Messages)-1, at)
			continue
		}
		for i, m := range body.Messages {
			if m != list[from+i].said {
				t.Errorf("%q was shown after %q, where the thread has %q", question.Content, m, list[from+i].said)
			}
		}
	}
}
