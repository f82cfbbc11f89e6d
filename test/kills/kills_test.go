package kills

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/simulator"
	"threadhub/test/rig"
)

func TestMain(m *testing.M) {
	rig.Together(5) // the houses, and what is planted
	rig.Main(m)
}

// lease is short, so that the suite need not wait for the usual one. A call of a dead process is settled within
// settling of its death, and its thread serves the next turn within nextTurn, which holds for the usual lease too.
const (
	lease    = time.Second
	settling = lease + 5*time.Second + busy
	nextTurn = 25 * time.Second

	busy = 4 * time.Second // what a busy machine may add
)

// anywhere is a kill from outside, at a random moment. The other names are points of internal/chaos.
const anywhere = "(anywhere)"

// schedules are the kills of a short run: over both stores each of the nine steps at least three times. The step
// translate has the points translate and open, the step record has record (before the commit) and recorded (after it);
// attempt is between two attempts of one call, when the second is committed and not made.
var schedules = map[string][]string{
	"sqlite": {
		"authenticate", "parse", "parse", "load", "route", "route", "admit", "translate", "open", "call",
		"attempt", "attempt", "relay", "relay", "record", "recorded", "recorded", anywhere,
	},
	"postgres": {
		"authenticate", "authenticate", "parse", "load", "load", "route", "admit", "admit", "translate", "open", "call", "call",
		"attempt", "attempt", "relay", "record", "record", "recorded", anywhere,
	},
}

// soakKills is how many kills per store a long run has.
const soakKills = 50

func schedule(store string) []string {
	s := schedules[store]
	if os.Getenv("THREADHUB_SOAK") != "" {
		s = slices.Repeat(s, soakKills/len(s)+1)[:soakKills]
	}
	return s
}

// repeatsAttach: does the gateway know an SDK's repeat of a turn that was recorded, but whose answer never arrived? While
// it does not, such a repeat adds a second turn. The table counts these; the suite fails on all other duplicates.
const repeatsAttach = false

// houses is in how many installations at a time the kills of a store are played. On Postgres each waits for the settler,
// and then does little else.
var houses = map[string]int{"sqlite": 1, "postgres": 3}

func TestKill(t *testing.T) {
	for store := range schedules {
		all := schedule(store)
		n := houses[store]
		for i := range n {
			testKill(t, fmt.Sprintf("%s/%d of %d", store, i+1, n), store, all[i*len(all)/n:(i+1)*len(all)/n])
		}
	}
}

// testKill plays kills on an installation, one after the other.
func testKill(t *testing.T, name, store string, kills []string) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		h := newHouse(t, store, "chaos")
		var table []line
		for i, point := range kills {
			next := ""
			if i+1 < len(kills) {
				next = kills[i+1]
			}
			l, wrong := h.kill(point, next)
			table = append(table, l)
			if !repeatsAttach {
				wrong = slices.DeleteFunc(wrong, func(v Violation) bool { return v.Rule == Repeat })
			}
			if len(wrong) > 0 {
				report(t, wrong)
				break // what is wrong stays wrong
			}
		}
		sum := total(table)
		t.Log("\n" + render(append(table, sum)))
		if sum.settled == 0 || sum.acknowledged < 20*len(kills) {
			t.Error("the load was too small to show anything")
		}
		ways := map[string]int{} // Gemini's path names the model and ends in the method
		for _, a := range h.sim.Log() {
			_, method, _ := strings.Cut(a.Path, ":")
			ways[a.Provider+" "+cmp.Or(method, a.Path)]++
		}
		if len(ways) != 6 {
			t.Errorf("the load did not ask all providers in all their ways: %v", ways)
		}
		meant := 0
		for _, point := range kills {
			meant += count(point == "attempt")
		}
		between, err := h.between()
		if err != nil || between < meant {
			t.Errorf("%d calls of dead gateways had made several attempts: too few to show anything; %v", between, err)
		}
	})
}

// The same suite, over a gateway whose record does not commit, must see it.
func TestKillSeesADroppedRecord(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "sqlite", "chaos", "seedbug")
	h.house.Env = append(h.house.Env, "THREADHUB_TEST_SEEDBUG=drop-record")
	_, wrong := h.kill(anywhere, "") // no turn is ever freed: counted passes of a point would take long
	rules := map[Rule]int{}
	for _, v := range wrong {
		rules[v.Rule]++
	}
	if rules[Answer] == 0 {
		t.Errorf("acknowledged answers were dropped, and the checker has not seen it: %v", rules)
	}
	t.Logf("violations seen: %v", rules)
}

// house is an installation under load, with what is needed to judge it.
type house struct {
	t     *testing.T
	house *rig.House
	store string
	db    Database
	sim   *simulator.Simulator
	crowd *crowd

	g     *rig.Gateway // the running one
	round int

	// At the end of the last round: attempts in the simulator's log, calls that were settled, and repeats of complete turns.
	seen, settled, repeated int
}

func newHouse(t *testing.T, store string, tags ...string) *house {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("THREADHUB_TEST_KILLS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("THREADHUB_TEST_KILLS_SEED=%d", seed)
	h := &house{t: t, store: store, db: Database{rig.Stores[store](t)}, sim: rig.Simulator(t, simulator.Options{})}
	env := []string{"THREADHUB_TIMEOUTS__LEASE=" + lease.String()}
	if store == "postgres" { // as teams have it
		env = append(env, "REDIS_URL="+testkit.Redis(t))
	}
	h.house = rig.NewHouse(t, rig.Options{Bin: rig.Binary(t, tags...), Database: h.db.URL, Sim: h.sim, Env: env})
	h.crowd = &crowd{rand: rand.New(rand.NewPCG(seed, 0))}
	h.g = h.house.Serve()
	for _, name := range []string{"north", "south"} {
		s := h.house.Seed(name, "ann@"+name+".example", "admin")
		h.g.ProviderKeys(t, s)
		h.crowd.tenants = append(h.crowd.tenants, tenant{org: id.Org(s.Org), key: s.Key})
		for _, b := range []map[string]string{{"scope": "org", "period": "total"}, {"scope": "user", "id": s.User, "period": "day"}} {
			b["limit_usd"], b["mode"] = "100000", "hard"
			h.g.Must(t, 200, "PUT", "/api/budgets", s.Key, b)
		}
	}
	h.severalWays()
	t.Cleanup(rig.CloseIdle)
	return h
}

// severalWays gives each org a second key at each provider, and the aliases that pairOf names: one call can take several
// attempts.
func (h *house) severalWays() {
	h.t.Helper()
	aliases := map[string][]string{}
	for i, m := range models {
		aliases[pairOf(m)] = []string{m, models[(i+1)%len(models)]}
	}
	for _, tn := range h.crowd.tenants {
		for _, p := range rig.Providers {
			h.g.Must(h.t, 200, "PUT", "/api/orgs/"+string(tn.org)+"/providers/"+p, tn.key,
				map[string]any{"api_key": "sk-" + p + "-of-" + string(tn.org) + "-too", "name": "second", "priority": 1})
		}
		h.g.Must(h.t, 200, "PUT", "/api/router/rules", tn.key, map[string]any{
			"rules": []any{map[string]any{"id": "all", "targets": models[:1]}}, "aliases": aliases,
		})
	}
}

// kill loads the house until its gateway is killed at point, starts it again, and judges what is left. next is the point
// of the kill after this one: the gateway that comes back is the one it will kill.
func (h *house) kill(point, next string) (line, []Violation) {
	h.t.Helper()
	if h.round == 0 {
		h.g.Kill() // the first has no point to die at
		h.g = h.house.Serve(h.life(point)...)
	}
	h.round++
	death := h.dieUnderLoad(point)
	if err := h.db.buried(h.t.Context(), death); err != nil {
		h.t.Fatal(err)
	}
	buried := time.Now() // a call that was on its way may be younger than its process's death
	h.g = h.house.Serve(h.life(next)...)
	if h.store == "sqlite" {
		if n := h.orphans(buried); n > 0 {
			h.t.Errorf("%s: %d calls of the past were open when the gateway was ready", point, n)
		}
	}
	settled := make(chan time.Duration, 1)
	go func() {
		for h.orphans(buried) > 0 && time.Since(death) < nextTurn {
			<-time.After(50 * time.Millisecond)
		}
		settled <- time.Since(death)
	}()
	for _, e := range h.crowd.resume(h.round, h.g, death.Add(nextTurn)) {
		h.t.Errorf("%s: no turn of %s was served within %v: status %d %s, %v", point, e.Thread, nextTurn, e.Status, e.Code, e.Err)
	}
	recovery := time.Since(death)
	if took := <-settled; took > settling {
		h.t.Errorf("%s: calls of the dead process were settled after %v, not within %v", point, took, settling)
	}
	return h.judge(point, recovery)
}

// life is the settings of a gateway that is to die at point. Perplexity has two APIs, and they take turns.
func (h *house) life(point string) []string {
	api := "agent"
	if h.round%2 == 1 {
		api = "sonar"
	}
	return append(h.chaos(point), "THREADHUB_UPSTREAMS__PERPLEXITY__API="+api)
}

// chaos is the setting that kills at point, after a number of passes that leaves room for what happens before the load.
func (h *house) chaos(point string) []string {
	passes := 50 + h.crowd.rand.IntN(60)
	switch point {
	case "", anywhere:
		return nil
	case "relay": // once an event
		passes *= 8
	}
	return []string{fmt.Sprintf("THREADHUB_TEST_CHAOS=%s:%d", point, passes)}
}

// dieUnderLoad returns when the gateway has been killed and every client has noticed, with the time of its death.
func (h *house) dieUnderLoad(point string) (death time.Time) {
	limit := 30 * time.Second
	if point == anywhere {
		limit = 300*time.Millisecond + time.Duration(h.crowd.rand.Int64N(int64(time.Second)))
	}
	g, died := h.g, make(chan time.Time, 1)
	go func() {
		select {
		case <-g.Ended():
		case <-time.After(limit):
			g.Kill()
			if point != anywhere {
				h.t.Errorf("the load never brought the gateway to the point %s", point)
			}
		}
		died <- time.Now()
	}()
	h.crowd.run(h.round, g)
	return <-died
}

func (h *house) orphans(since time.Time) int {
	n, err := h.db.Orphans(h.t.Context(), since, h.crowd.orgs()...)
	if err != nil {
		h.t.Error(err)
	}
	return n
}

// judge gathers the evidence of all rounds so far, and counts this one.
func (h *house) judge(point string, recovery time.Duration) (line, []Violation) {
	h.t.Helper()
	// A client may have its answer before the provider has written down that it gave it.
	testkit.Eventually(h.t, time.Minute, func() bool {
		return !slices.ContainsFunc(h.sim.Log(), func(a simulator.Attempt) bool { return a.End == "" })
	}, "%s: every attempt to end in the provider's log", point)
	e := Evidence{Seen: h.sim.Log(), Embedded: h.store == "sqlite"}
	e.Asked, e.Reads = h.crowd.evidence()
	var err error
	if e.Orgs, err = h.db.Read(h.t.Context(), h.crowd.orgs()...); err != nil {
		h.t.Fatal(err)
	}
	for _, a := range e.Seen[h.seen:] {
		if a.End == simulator.EndRejected {
			h.t.Errorf("%s: the provider refused a request: %s", point, a.Reason)
		}
	}
	wrong := Check(e)
	l := line{store: h.store, step: point, recovery: recovery, attempts: len(e.Seen) - h.seen, settled: -h.settled}
	for _, x := range e.Asked {
		if x.Round == h.round {
			l.acknowledged += count(x.Head && x.Thread != "") + count(x.Done)
		}
	}
	for _, v := range wrong {
		l.lost += count(v.Rule == Input || v.Rule == Answer)
		l.duplicated += count(v.Rule == Twice)
		l.repeated += count(v.Rule == Repeat)
	}
	l.found = max(0, l.acknowledged-l.lost)
	for _, r := range e.Orgs {
		for _, c := range r.Calls {
			l.settled += count(c.Reason == "gateway_lost")
		}
	}
	l.repeated -= h.repeated
	h.seen, h.settled, h.repeated = len(e.Seen), h.settled+l.settled, h.repeated+l.repeated
	return l, wrong
}

// between counts the calls that were settled for a dead process and had made more than one attempt.
func (h *house) between() (n int, err error) {
	orgs, err := h.db.Read(h.t.Context(), h.crowd.orgs()...)
	for _, r := range orgs {
		attempts := map[id.Request]int{}
		for _, a := range r.Attempts {
			attempts[a.Call]++
		}
		for _, c := range r.Calls {
			n += count(c.Reason == "gateway_lost" && attempts[c.ID] > 1)
		}
	}
	return n, err
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// report fails t with what is wrong, the first of each rule.
func report(t *testing.T, wrong []Violation) {
	t.Helper()
	shown := map[Rule]int{}
	for _, v := range wrong {
		if shown[v.Rule]++; shown[v.Rule] <= 5 {
			t.Error(v)
		}
	}
	t.Errorf("violations by rule: %v", shown)
}

// line is one kill in the table that a run prints. Acknowledged inputs and answers count one each.
type line struct {
	store, step string

	acknowledged, found, lost, duplicated, repeated, attempts, settled int

	recovery time.Duration // from the death to the last thread's next turn
}

func total(table []line) line {
	t := line{store: table[0].store, step: fmt.Sprintf("%d kills", len(table))}
	for _, l := range table {
		t.acknowledged += l.acknowledged
		t.found += l.found
		t.lost += l.lost
		t.duplicated += l.duplicated
		t.repeated += l.repeated
		t.attempts += l.attempts
		t.settled += l.settled
		t.recovery = max(t.recovery, l.recovery)
	}
	return t
}

func render(table []line) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-9s %-13s %12s %7s %5s %10s %8s %8s %8s %12s\n", "store", "step", "acknowledged", "found", "lost", "duplicated", "repeated", "attempts", "settled", "recovery ms")
	for _, l := range table {
		fmt.Fprintf(&b, "%-9s %-13s %12d %7d %5d %10d %8d %8d %8d %12d\n",
			l.store, l.step, l.acknowledged, l.found, l.lost, l.duplicated, l.repeated, l.attempts, l.settled, l.recovery.Milliseconds())
	}
	return b.String()
}
