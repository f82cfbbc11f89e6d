package kills

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"threadhub/internal/id"
	"threadhub/test/rig"
)

// tenant is one org with a key.
type tenant struct {
	org id.Org
	key string
}

// crowd is the clients of one installation, and what they saw. It outlives gateways.
type crowd struct {
	tenants []tenant
	rand    *rand.Rand // of whoever starts rounds; clients take a seed from it

	mu     sync.Mutex
	asked  []*Exchange
	reads  []Read
	texts  int
	broken []*Exchange // of repeaters: to be sent again
}

// How many there are. Repeaters have a thread of their own, and send what broke again, as SDKs do; the others go on with
// their next question. Half of the org's other clients share its threads, which have the same names in each org.
const (
	clients   = 16
	repeaters = 4
	shared    = 3 // threads of each org
)

func (c *crowd) add(e *Exchange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, e)
}

// evidence returns what the clients know so far.
func (c *crowd) evidence() (asked []*Exchange, reads []Read) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[:len(c.asked):len(c.asked)], c.reads[:len(c.reads):len(c.reads)]
}

func (c *crowd) orgs() (orgs []id.Org) {
	for _, t := range c.tenants {
		orgs = append(orgs, t.org)
	}
	return orgs
}

func (c *crowd) keyOf(org id.Org) string {
	for _, t := range c.tenants {
		if t.org == org {
			return t.key
		}
	}
	return ""
}

func sharedThread(round, n int) id.Thread {
	return id.Thread(fmt.Sprintf("round-%d.shared-%d", round, n))
}

// run keeps all clients asking g until it has ended, and returns when each has seen what became of its last question.
func (c *crowd) run(round int, g *rig.Gateway) {
	var wg sync.WaitGroup
	for n := range clients {
		r := rand.New(rand.NewPCG(c.rand.Uint64(), uint64(n)))
		wg.Go(func() { c.client(round, n, g, r) })
	}
	r := rand.New(rand.NewPCG(c.rand.Uint64(), clients))
	wg.Go(func() { c.reader(round, g, r) })
	wg.Wait()
}

func (c *crowd) client(round, n int, g *rig.Gateway, r *rand.Rand) {
	t := c.tenants[n%len(c.tenants)]
	cl := &Client{Addr: addrOf(g), Key: t.key}
	defer cl.Close()
	for !ended(g) {
		e := c.question(round, t.org, r)
		switch {
		case n < repeaters:
			e.Thread = id.Thread(fmt.Sprintf("round-%d.own-%d", round, n))
		case r.IntN(4) > 0:
			e.Thread = sharedThread(round, r.IntN(shared))
		}
		cl.Ask(e)
		c.add(e)
		if e.Err == nil {
			continue
		}
		if n < repeaters && !e.Done {
			c.mu.Lock()
			c.broken = append(c.broken, e)
			c.mu.Unlock()
		}
		if died(g) {
			return
		}
	}
}

// died waits for the end of g, of which a broken connection is the first sign; false if it lives.
func died(g *rig.Gateway) bool {
	select {
	case <-g.Ended():
		return true
	case <-time.After(100 * time.Millisecond):
		return false
	}
}

func ended(g *rig.Gateway) bool {
	select {
	case <-g.Ended():
		return true
	default:
		return false
	}
}

func addrOf(g *rig.Gateway) string {
	u, err := url.Parse(g.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

// models are asked in turn by chance, within a thread too: one of each provider.
var models = []string{"openai/gpt-4.1-mini", "gemini/gemini-3.5-flash", "perplexity/sonar-pro", "openrouter/openai/gpt-4.1-mini"}

// pairOf is the alias of a model with another provider's behind it.
func pairOf(model string) string {
	provider, _, _ := strings.Cut(model, "/")
	return "pair-" + provider
}

// question makes one that nobody has asked before, with a directive that says how it is answered.
func (c *crowd) question(round int, org id.Org, r *rand.Rand) *Exchange {
	c.mu.Lock()
	c.texts++
	n := c.texts
	c.mu.Unlock()
	e := &Exchange{Round: round, Org: org, Stream: r.IntN(3) > 0, Model: models[r.IntN(len(models))]}
	answer := fmt.Sprintf("answer %d%s", n, strings.Repeat(" and more", r.IntN(40)))
	how := fmt.Sprintf("head=%dms", 20+r.IntN(60))
	if e.Stream {
		how = fmt.Sprintf("chunks=%d delay=%dms", 4+r.IntN(6), 4+r.IntN(8))
	}
	switch r.IntN(6) {
	case 0, 1: // the first key asked is told to wait, the other one is answered
		how += " status=429 times=1"
	case 2: // each provider fails once: the first leads to the second, and that is asked again
		e.Model = pairOf(e.Model)
		how += " status=503 times=1"
	}
	e.Text = fmt.Sprintf("question %d %s [[sim text=%q %s]]", n, org, answer, how)
	return e
}

// reader reads the shared threads over and over.
func (c *crowd) reader(round int, g *rig.Gateway, r *rand.Rand) {
	for !ended(g) {
		t := c.tenants[r.IntN(len(c.tenants))]
		c.read(g, t.org, sharedThread(round, r.IntN(shared)))
		select {
		case <-g.Ended():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// read notes what a thread holds; nothing where the answer does not come, or the thread is not there yet.
func (c *crowd) read(g *rig.Gateway, org id.Org, thread id.Thread) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	reply, err := g.Do(ctx, "GET", "/api/threads/"+string(thread), c.keyOf(org), nil)
	if err != nil || reply.Status != 200 {
		return
	}
	var body struct {
		Messages []struct {
			Sequence              int
			Role, Status, Content string
		}
	}
	read := Read{Org: org, Thread: thread}
	if err := reply.JSON(&body); err != nil {
		read.Messages = []Message{{Seq: -1, Text: err.Error()}} // the checker will ask what this is
	}
	for _, m := range body.Messages {
		if m.Status != "pending" {
			read.Messages = append(read.Messages, Message{Seq: m.Sequence, Role: m.Role, Text: m.Content, Status: m.Status})
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads = append(c.reads, read)
}

// resume is what happens once a gateway is back: what broke is repeated by those who repeat, and every thread somebody
// else added to is added to again. It returns when all of that is answered, or with what was not by the deadline.
func (c *crowd) resume(round int, g *rig.Gateway, deadline time.Time) []*Exchange {
	c.mu.Lock()
	todo := c.broken
	c.broken = nil
	c.mu.Unlock()
	for i, e := range todo {
		todo[i] = &Exchange{Round: round, Org: e.Org, Thread: e.Thread, Text: e.Text, Model: e.Model, Stream: e.Stream, Try: e.Try + 1}
	}
	for _, t := range c.tenants {
		for n := range shared {
			e := c.question(round, t.org, c.rand)
			e.Thread = sharedThread(round, n)
			todo = append(todo, e)
		}
	}
	late := make([]*Exchange, len(todo))
	var wg sync.WaitGroup
	for i, e := range todo {
		wg.Go(func() { late[i] = c.insist(g, e, deadline) })
	}
	wg.Wait()
	var missed []*Exchange
	for _, e := range late {
		if e != nil {
			missed = append(missed, e)
		}
	}
	return missed
}

// insist asks until there is an answer, each time as a repeat of the first. It returns nil, or the last try if the
// deadline was over before.
func (c *crowd) insist(g *rig.Gateway, first *Exchange, deadline time.Time) *Exchange {
	cl := &Client{Addr: addrOf(g), Key: c.keyOf(first.Org)}
	defer cl.Close()
	for try := first.Try; ; try++ {
		e := &Exchange{Round: first.Round, Org: first.Org, Thread: first.Thread, Text: first.Text, Model: first.Model, Stream: first.Stream, Try: try}
		cl.Ask(e)
		c.add(e)
		switch {
		case e.Done:
			return nil
		case ended(g), time.Now().After(deadline):
			return e
		}
		select {
		case <-g.Ended():
		case <-time.After(100 * time.Millisecond):
		}
	}
}
