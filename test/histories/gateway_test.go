package histories

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/fault"
	"threadhub/internal/testkit"
	"threadhub/simulator"
	"threadhub/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

var alone = flag.Uint64("thread", 0, "play this thread alone through the gateway")

// threads are the first and the last that are played on each store, as conversations are.
func threads() (from, to uint64) {
	if os.Getenv("THREADHUB_SOAK") != "" {
		from = uint64(time.Now().UnixNano())
		return from, from + 2000
	}
	return 1, 30
}

// Threads whose turns are answered by any of the providers in any order, in the real program: what each next provider is
// sent is judged as in TestConversations, but that the answers are the providers' own.
func TestThreadsThroughTheGateway(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(rig.Stores)) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rig.Stores[name](t))
			from, to := threads()
			if *alone != 0 {
				from, to = *alone, *alone
			}
			for n := from; n <= to; n++ {
				if w.play(t, n); t.Failed() {
					t.Fatalf("-thread=%d", n)
				}
			}
			if *alone != 0 {
				return
			}
			want := []string{"cut", "half a call", "a call nobody answered", "refused for what it asks"}
			for _, by := range rig.Providers {
				for _, to := range rig.Providers {
					want = append(want, "by "+by+" to "+to)
				}
			}
			for _, what := range want {
				if w.seen[what] == 0 {
					t.Errorf("in no thread: %s", what)
				}
			}
		})
	}
}

// world is the program, between us and the providers.
type world struct {
	*rig.Gateway
	key  string
	sim  *simulator.Simulator
	seen counts

	mu    sync.Mutex
	ended map[string]simulator.Attempt
}

func newWorld(t *testing.T, url string) *world {
	t.Helper()
	w := &world{seen: counts{}, ended: map[string]simulator.Attempt{}}
	w.sim = rig.Simulator(t, simulator.Options{MaxLog: 16, Finished: func(a simulator.Attempt) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ended[a.Name] = a
	}})
	h := rig.NewHouse(t, rig.Options{Database: url, Sim: w.sim, Env: []string{
		"THREADHUB_TIMEOUTS__DRAIN_ACCEPT=0",
		"THREADHUB_UPSTREAMS__GEMINI__FETCH=false", // the addresses in conversations lead nowhere
	}})
	admin := h.Seed("Histories", "admin@example.com", "admin")
	w.key = admin.Key
	w.Gateway = h.Serve()
	w.ProviderKeys(t, admin)
	return w
}

// attempt is what the provider saw of a request; false if it saw none.
func (w *world) attempt(t *testing.T, request string) (a simulator.Attempt) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, func() (ok bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		a, ok = w.ended[request+"-0"]
		delete(w.ended, request+"-0")
		return ok
	}, "the provider has not seen %s", request)
	return a
}

// player plays one thread.
type player struct {
	*maker
	w      *world
	t      *testing.T
	thread string
}

// play plays a thread of some turns.
func (w *world) play(t *testing.T, n uint64) {
	t.Helper()
	m := &maker{Rand: rand.New(rand.NewPCG(n, 0x67617465)), c: &Conversation{Seed: n, Thread: true}, short: true, sent: true}
	p := &player{m, w, t, fmt.Sprint("thread-", n)}
	m.tools = []string{"get_weather", "look-up_2", "3d_render"}
	for range 3 + m.IntN(6) {
		if !p.turn() {
			return
		}
	}
}

// turn asks somebody, and hears the answer. It reports whether the thread goes on.
func (p *player) turn() bool {
	c := p.c
	for {
		if c.To = pick(p.maker, Targets...); !c.To.Older {
			break
		}
	}
	p.plain = c.To.Provider == "openai"
	before, pieces := len(p.mine), len(c.pieces)
	if before == 0 && p.chance(50) {
		p.system()
	}
	if open := p.unanswered(); len(open) > 0 && p.chance(80) {
		p.results(open)
	}
	if len(p.mine) == before || p.mine[len(p.mine)-1].Role == "system" || p.mine[len(p.mine)-1].Role == "developer" || p.chance(20) {
		p.user()
	}
	c.Told, c.Sent = p.mine[:before:before], p.mine[before:]
	stream := p.chance(50)
	said := p.script(stream)
	c.More = fmt.Sprintf(`,"stream":%v`, stream) + said.more
	c.now = lastAsked(p.mine)
	c.Refusable = slices.ContainsFunc(c.pieces, c.wants)
	body := strings.Replace(string(c.Body()), quote(c.To.Model), quote(c.To.Provider+"/"+c.To.Model), 1)
	r, err := p.w.Do(p.t.Context(), "POST", "/v1/chat/completions", p.w.key, body, "X-Thread-Id", p.thread)
	if err != nil {
		p.t.Fatal(err)
	}
	o := Outcome{}
	if w := r.Header.Get("X-Threadhub-Warning"); w != "" {
		o.Warnings = strings.Split(w, ", ")
	}
	refused := gjson.GetBytes(r.Body, "error")
	switch {
	case r.Status == 400 && r.Header.Get("X-Threadhub-Attempts") == "": // before anything was stored
		o.Err = fault.New(fault.Invalid, "%s", refused.Get("message").Str).WithParam(refused.Get("param").Str)
		p.mine, c.pieces = p.mine[:before], c.pieces[:pieces]
		p.forget(before)
	default:
		a := p.w.attempt(p.t, r.Header.Get("X-Request-Id"))
		o.Path, o.Body = a.Path, a.Body
		if r.Status != 200 {
			o.Refusal = &simulator.Refusal{Status: a.Status, Message: a.Reason}
		}
	}
	p.w.seen.look(c, o)
	if err := Judge(c, o); err != nil {
		p.t.Errorf("%v\n%s", err, show(c, o))
		return false
	}
	if o.Err == nil {
		p.hear(said)
	}
	return true
}

// forget takes back results that were given in messages which nobody took.
func (p *player) forget(from int) {
	for i := range p.c.calls {
		if one := &p.c.calls[i]; one.answered >= from {
			one.result, one.answered = "", 0
		}
	}
}

// script is what the next answer is to be.
type script struct {
	more string // members that ask for it
	mark string // in its text; "": it calls tools
	cut  bool
}

// script has the simulator answer in some way.
func (p *player) script(stream bool) (s script) {
	p.w.sim.Reset() // of what the gateway refused, the script is still there
	do := ""
	if p.chance(45) {
		s.more = `,"tool_choice":"required"`
	} else {
		s.mark = p.mark()
		do = "text=" + s.mark + "-" + strings.Repeat("x", 40)
	}
	if s.more == "" && p.chance(40) {
		s.more = map[string]string{"openrouter": `,"reasoning":{"effort":"low"}`, "gemini": `,"reasoning_effort":"low"`}[p.c.To.Provider]
	}
	var tools []string
	for _, name := range p.tools {
		tools = append(tools, `{"type":"function","function":{"name":`+quote(name)+`,"parameters":{"type":"object","properties":{"q":{"type":"string"}},"required":["q"]}}}`)
	}
	s.more += `,"tools":` + array(tools)
	if s.cut = stream && p.chance(30); s.cut {
		do += " fault=cut after=" + fmt.Sprint(1+p.IntN(3))
	}
	if do != "" {
		if err := p.w.sim.Play(simulator.Script{Do: strings.TrimSpace(do), Times: 1}); err != nil {
			p.t.Fatal(err)
		}
	}
	return s
}

// hear takes in the answer as the thread has it.
func (p *player) hear(s script) {
	r := p.w.Must(p.t, 200, "GET", "/api/threads/"+p.thread, p.w.key, nil)
	list := gjson.GetBytes(r.Body, "messages").Array()
	if len(list) != len(p.mine)+1 {
		p.t.Fatalf("the thread has %d messages, want %d", len(list), len(p.mine)+1)
	}
	m := list[len(list)-1]
	by := p.c.To
	k := kept{by: by, cut: m.Get("status").Str == "incomplete"}
	if k.cut && !s.cut {
		p.t.Fatalf("the answer is %s", m.Raw)
	}
	if s.mark != "" && strings.Contains(m.Get("content").Str, s.mark) {
		p.piece(piece{kind: "answer", mark: s.mark})
	}
	for _, v := range m.Get("tool_calls").Array() {
		one := call{
			id: v.Get("id").Str, sent: v.Get("id").Str, name: v.Get("function.name").Str, args: v.Get("id").Str, by: by, cut: k.cut, at: len(p.mine),
			signature: v.Get("extra_content.google.thought_signature").Str,
		}
		if k.cut && !gjson.Valid(v.Get("function.arguments").Str) {
			one.result = none
		}
		p.piece(piece{kind: "call", mark: one.id, excuse: []string{"messages.tool_calls"}, cut: k.cut})
		p.c.calls = append(p.c.calls, one)
	}
	p.add(Message{Role: "assistant", Raw: m.Raw, Answer: true, By: by, Cut: k.cut})
}
