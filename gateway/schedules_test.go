package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"threadhub/calls"
	"threadhub/internal/contain"
	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/spool"
	"threadhub/metering"
	"threadhub/threads"
)

// A schedule is what happens to two whole processes on one store: in which order whatever waits goes on, what time it is,
// what the store, the provider and the clients do, and when a process dies. All of that is chosen by one seeded generator;
// nothing else decides. The processes are real gateways with their settlers, leases, backlogs and spools, entered where
// fasthttp enters them. They run in a bubble of testing/synctest, whose clock stands still until the schedule says so, and
// everything they ask of the store or the provider, and everything a client reads, waits at a gate until it is chosen.
type play struct {
	r      *rand.Rand
	faults odds
	base   db.Store // behind the gates
	spools [2]*spool.Spool
	truth  *calls.Store // reads from there
	seed   uint64
	log    *slog.Logger

	procs   [2]*proc
	clients []*client
	limbo   []limbo
	away    bool // the store is
	nth     int  // the schedule

	mu    sync.Mutex // of what goroutines of processes use, too
	gates []*halt
	calls map[id.Request]*seenCall
	order []id.Request   // of the schedule's calls, as their OPENs came
	wrong []string       // what must not be
	seen  map[string]int // how often what happened

	trace  []string // what was chosen; nil: it is not kept
	played int      // schedules
}

// odds are what may happen in a schedule, each in so many of a thousand choices.
type odds struct {
	crash  int
	lease  int // is over, of a process that lives
	outage int
	lost   int // of the store's answers to what was carried out, and to what will be, or never is
	leave  int // of a client
	ends   int // of an attempt, before its answer began or in its middle
}

// proc is one process, from its start to its death.
type proc struct {
	p       *play
	slot    int
	g       *Gateway
	lease   *calls.Lease
	settler *Settler
	ctx     context.Context
	cancel  context.CancelFunc
	ready   bool
	dead    bool
	panics  *contain.Panics
	seed    uint64
}

// halt is where something waits until it is chosen.
type halt struct {
	pr     *proc
	what   string
	n      int // of those at the same gate, in their order
	stores bool
	goes   chan verdict
	gone   bool // nobody waits any more
}

// verdict is what the schedule makes of something that waits.
type verdict int

const (
	granted verdict = iota
	refused         // the store does not answer, and nothing happens
	silent          // it happens, and nobody is told
	late            // it may happen later, and nobody is told
	died            // its process is no more
	other           // of a provider or a client: see there
)

func (v verdict) String() string {
	return [...]string{"granted", "refused", "silent", "late", "died", "other"}[v]
}

// limbo is a commit that may still come.
type limbo struct {
	what string
	do   func()
}

// seenCall is what the schedule knows of a call beside the store.
type seenCall struct {
	n       int // in the order of OPENs
	pr      *proc
	asked   map[int]bool
	tokens  map[int][2]int64 // what an attempt cost, where the provider said it
	relayed bool             // the client has been given something of it
	unsafe  bool             // an attempt of it may be billed
	broke   bool             // its answer broke off
	stored  *calls.Call      // what became of it, once that is judged
}

func (p *play) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wrong = append(p.wrong, fmt.Sprintf(format, args...))
}

func (p *play) note(format string, args ...any) {
	if p.trace != nil {
		p.trace = append(p.trace, fmt.Sprintf(format, args...))
	}
}

// wait is at a gate until the schedule lets it go on. A process that has died goes nowhere from there.
func (p *play) wait(pr *proc, what string, stores bool, done <-chan struct{}) (verdict, bool) {
	g := &halt{pr: pr, what: what, stores: stores, goes: make(chan verdict, 1)}
	p.mu.Lock()
	if pr.dead {
		p.mu.Unlock()
		runtime.Goexit()
	}
	for _, o := range p.gates {
		if o.pr == pr && o.what == what && o.n >= g.n {
			g.n = o.n + 1
		}
	}
	p.gates = append(p.gates, g)
	p.mu.Unlock()
	select {
	case v := <-g.goes:
		if v == died {
			runtime.Goexit()
		}
		return v, true
	case <-done:
		p.mu.Lock()
		defer p.mu.Unlock()
		g.gone = true
		return 0, false
	}
}

// pending are those that wait, in an order that does not depend on who came first.
func (p *play) pending() []*halt {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gates = slices.DeleteFunc(p.gates, func(g *halt) bool { return g.gone })
	slices.SortFunc(p.gates, func(a, b *halt) int {
		if a.pr.slot != b.pr.slot {
			return a.pr.slot - b.pr.slot
		}
		if c := strings.Compare(a.what, b.what); c != 0 {
			return c
		}
		return a.n - b.n
	})
	return slices.Clone(p.gates)
}

// let decides on what waits at g, and waits until all that follows from it has happened.
func (p *play) let(g *halt, v verdict) {
	p.mu.Lock()
	p.gates = slices.DeleteFunc(p.gates, func(o *halt) bool { return o == g })
	p.mu.Unlock()
	p.note("%d %s: %v", g.pr.slot, g.what, v)
	g.goes <- v
	synctest.Wait()
}

// schedule plays one: some clients, who may ask for the same under the same key, and what befalls them.
func (p *play) schedule() {
	p.plan()
	for range 20 + p.r.IntN(50) {
		synctest.Wait()
		p.step()
		if len(p.wrong) > 0 {
			return
		}
	}
	p.rest()
	p.judge()
}

// plan says who will ask for what.
func (p *play) plan() {
	p.clients, p.order, p.nth = nil, nil, p.nth+1
	thread := fmt.Sprintf("t%d.%d", p.seed, p.nth)
	for i := range 2 + p.r.IntN(2) {
		c := &client{p: p, n: i, text: fmt.Sprintf("question %d.%d.%d", p.seed, p.nth, i), stream: p.r.IntN(3) > 0}
		if p.r.IntN(5) > 0 {
			c.thread = thread
		}
		if p.r.IntN(2) > 0 {
			c.key = fmt.Sprintf("key %d.%d.%d", p.seed, p.nth, i)
		}
		if i > 0 && p.r.IntN(2) > 0 { // the same as the one before, under its key or as an SDK repeats it
			before := p.clients[i-1]
			c.text, c.thread, c.key, c.stream = before.text, before.thread, before.key, before.stream
			c.retry = c.key == ""
		}
		p.clients = append(p.clients, c)
	}
}

// sleeps are how long nothing may happen.
var sleeps = []time.Duration{
	10 * time.Millisecond, 10 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second, 6 * time.Second, 25 * time.Second,
}

// step makes one choice.
func (p *play) step() {
	gates := p.pending()
	x, f := p.r.IntN(1000), p.faults
	under := func(n int) bool { x -= n; return x < 0 }
	live := p.living()
	switch {
	case under(f.crash):
		if len(live) > 0 {
			p.crash(live[p.r.IntN(len(live))])
		}
		return
	case under(f.outage):
		p.away = !p.away
		p.note("away: %v", p.away)
		return
	case under(f.lease):
		if len(live) > 0 {
			p.expire(live[p.r.IntN(len(live))])
		}
		return
	case under(40):
		for slot, pr := range p.procs {
			if pr.dead {
				p.start(slot)
				return
			}
		}
	case under(120):
		if p.begin(live) {
			return
		}
	case under(60):
		d := sleeps[p.r.IntN(len(sleeps))]
		p.note("%v pass", d)
		time.Sleep(d)
		return
	case under(40):
		if n := len(p.limbo); n > 0 {
			p.note("%s comes late", p.limbo[p.r.IntN(n)].what)
			p.land(p.limbo[p.r.IntN(n)].what)
			return
		}
	}
	switch {
	case len(gates) > 0:
		g := gates[p.r.IntN(len(gates))]
		p.let(g, p.verdict(g))
	case !p.begin(live):
		time.Sleep(sleeps[p.r.IntN(len(sleeps))])
	}
}

// living are the processes that take requests.
func (p *play) living() (live []*proc) {
	for _, pr := range p.procs {
		if pr.ready && !pr.dead {
			live = append(live, pr)
		}
	}
	return live
}

// begin has the next client ask.
func (p *play) begin(live []*proc) bool {
	for _, c := range p.clients {
		if c.began || len(live) == 0 {
			continue
		}
		c.began, c.pr = true, live[p.r.IntN(len(live))]
		p.note("client %d asks %d: %q in %q, key %q, stream %v, retry %v", c.n, c.pr.slot, c.text, c.thread, c.key, c.stream, c.retry)
		go c.run()
		return true
	}
	return false
}

// verdict chooses what becomes of what waits at g.
func (p *play) verdict(g *halt) verdict {
	bad := func(n int, of ...verdict) verdict {
		if p.r.IntN(1000) < n {
			p.seen[fmt.Sprint(strings.Fields(g.what)[0], " ", of[0])]++
			return of[p.r.IntN(len(of))]
		}
		return granted
	}
	switch {
	case g.stores && p.away && p.faults.lost == 0:
		return refused
	case g.stores && p.away:
		return bad(1000, refused, late)
	case strings.HasPrefix(g.what, "LATE"): // there are few
		return bad(8*p.faults.lost, silent, late, refused)
	case g.stores:
		return bad(p.faults.lost, silent, late, refused)
	case strings.HasPrefix(g.what, "ask"):
		return bad(2*p.faults.ends, bounds, fails, resets, unreachable)
	case strings.HasPrefix(g.what, "next"):
		return bad(p.faults.ends/2, other)
	}
	return bad(p.faults.leave, leaves)
}

// crash ends a process where it stands.
func (p *play) crash(pr *proc) {
	p.note("%d dies", pr.slot)
	p.seen["crash"]++
	p.mu.Lock()
	pr.dead = true
	gates := p.gates
	p.gates = nil
	for _, g := range gates {
		if g.pr != pr {
			p.gates = append(p.gates, g)
		} else if !g.gone {
			g.goes <- died
		}
	}
	p.mu.Unlock()
	for _, c := range p.clients {
		if c.pr == pr {
			c.cut = true
		}
	}
	pr.cancel()
	if pr.g != nil {
		pr.g.flights.cancel(errDraining)
		go pr.g.backlog.close()
	}
	if pr.lease != nil {
		go func() { _ = pr.lease.Close(context.Background()) }()
	}
	synctest.Wait()
}

// expire ends a process's lease, as if its renewals had taken too long on their way.
func (p *play) expire(pr *proc) {
	p.note("the lease of %d is over", pr.slot)
	err := p.base.Common(context.Background(), func(tx db.Tx) error {
		_, err := tx.Exec(context.Background(), `UPDATE incarnations SET lease_until = now() WHERE owner = $1`, pr.lease.Owner())
		return err
	})
	if err != nil {
		p.say("a lease cannot be ended: %v", err)
	}
}

// rest lets everything come to its end: the store is there, and nobody dies any more.
func (p *play) rest() {
	p.away = false
	p.note("all may come to rest")
	for rounds := 0; ; rounds++ {
		synctest.Wait()
		for len(p.limbo) > 0 {
			p.land(p.limbo[0].what)
		}
		for slot, pr := range p.procs { // what waits on a disk is made by whoever finds it there
			if pr.dead && (slot == 0 && p.procs[1].dead || len(p.spools[slot].Names()) > 0) {
				p.start(slot)
				synctest.Wait()
			}
		}
		for p.begin(p.living()) {
			synctest.Wait()
		}
		gates := p.pending()
		for _, g := range gates {
			if !g.gone && !g.pr.dead {
				p.let(g, granted)
			}
		}
		if len(gates) > 0 {
			continue
		}
		if p.settled() {
			return
		}
		if rounds > 2000 {
			p.say("it does not come to rest")
			return
		}
		time.Sleep(4 * time.Second)
	}
}

// settled reports whether nothing is left to be done.
func (p *play) settled() bool {
	for _, c := range p.clients {
		if !c.done {
			return false
		}
	}
	for _, pr := range p.procs {
		if !pr.dead && (!pr.ready || pr.g.backlog.pending() > 0) {
			return false
		}
	}
	return p.open() == 0
}

// end kills what still lives, so that the bubble can end.
func (p *play) end() {
	synctest.Wait()
	for _, pr := range p.procs {
		if !pr.dead {
			p.crash(pr)
		}
	}
	synctest.Wait()
}

// seedOf reads a seed from the environment, for one batch to be played alone.
func seedOf(t testing.TB, name string) (seed uint64, alone bool) {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return 0, false
	}
	seed, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return seed, true
}

// ground makes the store that a batch stands on, and ends it with the batch.
type ground func(t testing.TB, stages []db.Stage) (store db.Store, end func())

func onMemory(_ testing.TB, stages []db.Stage) (db.Store, func()) {
	return newMemory(stages), func() {}
}

// playBatch plays so many schedules one after the other on the same two processes, in a bubble, until something is wrong.
func playBatch(t *testing.T, seed uint64, schedules int, on ground, f func(*play)) *play {
	t.Helper()
	p := &play{r: rand.New(rand.NewPCG(seed, 1)), seed: seed, log: slog.New(slog.DiscardHandler), calls: map[id.Request]*seenCall{}, seen: map[string]int{}}
	f(p)
	synctest.Test(t, func(t *testing.T) {
		var end func()
		stages := stagesOf(calls.New(), threads.New(), metering.New())
		p.base, end = on(t, stages)
		p.truth = calls.New()
		p.truth.Use(p.base)
		if p.faults == (odds{}) {
			p.faults = p.luck()
		}
		p.start(0)
		p.start(1)
		for range schedules {
			p.schedule()
			if len(p.wrong) > 0 {
				break
			}
			p.played++
		}
		p.end()
		end()
	})
	return p
}

// luck is how much goes wrong in a batch: in some nothing, in others a lot.
func (p *play) luck() odds {
	some := func(most int) int {
		if p.r.IntN(3) == 0 {
			return 0
		}
		return p.r.IntN(most + 1)
	}
	return odds{crash: some(12), lease: some(12), outage: some(10), lost: some(120), leave: some(120), ends: some(300)}
}
