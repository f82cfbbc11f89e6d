package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/metering"
	"threadhub/router/failover"
	"threadhub/simulator"
	"threadhub/upstreams"
	"threadhub/upstreams/openai"
)

// once asks nothing again, and everything for as long as it fails.
var once = failover.Options{Retries: -1, NoBreaker: true}

// aliases sets the org's aliases, each a list of targets.
func (h *house) aliases(list string) {
	h.t.Helper()
	h.do("PUT", "/api/router/rules", `{"rules":[{"id":"all","targets":["openai"]}],"aliases":`+list+`}`).want(h.t, 200)
}

// play arms the simulator.
func (h *house) play(scripts ...simulator.Script) {
	h.t.Helper()
	if err := h.sim.Play(scripts...); err != nil {
		h.t.Fatal(err)
	}
}

// attemptsOf is what became of a call, as one line an attempt: target, key, state, code, whether it may be billed, and what its
// line of the ledger says.
func (h *house) attemptsOf(r heard) (list []string) {
	h.t.Helper()
	var call struct {
		Attempts []attemptShape
	}
	if err := json.Unmarshal(h.do("GET", "/v1/requests/"+r.header.Get("X-Request-Id"), "").want(h.t, 200).body, &call); err != nil {
		h.t.Fatal(err)
	}
	lines, err := metering.Lines(h.t.Context(), h.store, h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
	if err != nil || len(lines) != len(call.Attempts) {
		h.t.Fatalf("%d lines for %d attempts, %v", len(lines), len(call.Attempts), err)
	}
	if got := r.header.Get("X-Threadhub-Attempts"); got != fmt.Sprint(len(lines)) {
		h.t.Errorf("the client was told of %q attempts, there are %d", got, len(lines))
	}
	for i, a := range call.Attempts {
		l := lines[i]
		if a.N != i || l.N != i || l.Kind != metering.Use || l.Provider != a.Provider || l.Model != a.Model || l.MaybeBilled != a.MaybeBilled || a.EndedAt == nil {
			h.t.Errorf("attempt %d is %+v, its line %+v", i, a, l)
		}
		text := a.Provider + "/" + a.Model + " " + *a.KeyName + " " + a.State
		if a.Code != nil {
			text += " " + *a.Code
		}
		if a.MaybeBilled {
			text += " maybe"
		}
		if free := l.Charge.Cost == 0; free != (a.State == "failed") {
			h.t.Errorf("attempt %d (%s) cost %v", i, text, l.Charge.Cost)
		}
		list = append(list, text)
	}
	return list
}

const (
	gpt  = "openai/gpt-5-mini default "
	luma = "openrouter/openai/gpt-6-luna default "
)

// The rows of the fault matrix that speak of further attempts: what the client gets, what the thread and the ledger hold,
// and what the providers saw.
func TestFurtherAttempts(t *testing.T) {
	const answered = "200"
	for name, tt := range map[string]struct {
		model    string // "both": the alias of two targets
		warm     bool   // there is a kept connection
		whole    bool   // no stream is asked for: in one, the fault comes after the beginning
		stream   bool   // nothing but a stream is
		scripts  []simulator.Script
		safe     bool // openai is marked safe
		down     bool // openai is not there
		status   string
		retry    string // Retry-After
		attempts []string
	}{
		"U1: out of reach, the next target":   {model: "both", down: true, status: answered, attempts: []string{gpt + "failed upstream_unreachable", luma + "ok"}},
		"U1: out of reach, and no other":      {model: "openai/gpt-5-mini", down: true, status: "502 upstream_unreachable", attempts: slices.Repeat([]string{gpt + "failed upstream_unreachable"}, 3)},
		"U2: reset, it may be billed":         {model: "both", scripts: faults("fault=reset", 0), status: "502 upstream_reset", attempts: []string{gpt + "failed upstream_reset maybe"}},
		"U2: closed, it may be billed":        {model: "both", scripts: faults("fault=close", 0), status: "502 upstream_reset", attempts: []string{gpt + "failed upstream_reset maybe"}},
		"U2: reset, where that is safe":       {model: "both", safe: true, scripts: faults("fault=reset", 0), status: answered, attempts: []string{gpt + "failed upstream_reset maybe", luma + "ok"}},
		"U2: safe, but once":                  {model: "openai/gpt-5-mini", safe: true, scripts: faults("fault=reset", 0), status: "502 upstream_reset", attempts: slices.Repeat([]string{gpt + "failed upstream_reset maybe"}, 2)},
		"U3: reset in the header":             {model: "both", warm: true, scripts: faults("fault=reset_head", 0), status: "502 upstream_reset", attempts: []string{gpt + "failed upstream_reset maybe"}},
		"U3: where that is safe":              {model: "both", safe: true, scripts: faults("fault=reset_head", 0), status: answered, attempts: []string{gpt + "failed upstream_reset maybe", luma + "ok"}},
		"U7: silence is not asked again":      {model: "both", safe: true, scripts: faults("fault=silent", 0), status: "504 upstream_timeout", attempts: []string{gpt + "failed upstream_timeout maybe"}},
		"U11: a limit, the next target":       {model: "both", scripts: faults("status=429 retry_after=20", 0), status: answered, attempts: []string{gpt + "failed rate_limit_exceeded", luma + "ok"}},
		"U11: a limit, and no other":          {model: "openai/gpt-5-mini", scripts: faults("status=429 retry_after=20", 0), status: "429 rate_limit_exceeded", retry: "20", attempts: []string{gpt + "failed rate_limit_exceeded"}},
		"U11: a limit of many hours":          {model: "openai/gpt-5-mini", scripts: faults("status=429 retry_after=90000", 0), status: "429 rate_limit_exceeded", retry: "3600", attempts: []string{gpt + "failed rate_limit_exceeded"}},
		"U12: failed, the next target":        {model: "both", scripts: faults("status=503", 0), status: answered, attempts: []string{gpt + "failed upstream_error", luma + "ok"}},
		"U12: failed once":                    {model: "openai/gpt-5-mini", scripts: faults("status=500", 1), status: answered, attempts: []string{gpt + "failed upstream_error", gpt + "ok"}},
		"U12: failed again and again":         {model: "openai/gpt-5-mini", scripts: faults("status=529", 0), status: "502 upstream_error", attempts: slices.Repeat([]string{gpt + "failed upstream_error"}, 3)},
		"U12: to be asked later than one may": {model: "openai/gpt-5-mini", scripts: faults("status=503 retry_after=30", 0), status: "502 upstream_error", retry: "30", attempts: []string{gpt + "failed upstream_error"}},
		"U13: an error for an answer":         {whole: true, model: "openai/gpt-5-mini", scripts: faults("fault=error_200", 1), status: answered, attempts: []string{gpt + "failed upstream_error", gpt + "ok"}},
		"U13: an error for a stream":          {stream: true, model: "openai/gpt-5-mini", scripts: faults("fault=error_200", 1), status: answered, attempts: []string{gpt + "failed upstream_error", gpt + "ok"}},
		"U13: first of all an error":          {stream: true, model: "both", scripts: faults("fault=error_first", 0), status: answered, attempts: []string{gpt + "failed upstream_error", luma + "ok"}},
		"U13: the same once more":             {stream: true, model: "openai/gpt-5-mini", scripts: faults("fault=error_first", 1), status: answered, attempts: []string{gpt + "failed upstream_error", gpt + "ok"}},
		"U13: again and again":                {stream: true, model: "openai/gpt-5-mini", scripts: faults("fault=error_first event=1", 0), status: "502 upstream_error", attempts: slices.Repeat([]string{gpt + "failed upstream_error"}, 3)},
		"U13: first of all a limit":           {stream: true, model: "both", scripts: faults("fault=error_first code=rate_limit_exceeded", 0), status: answered, attempts: []string{gpt + "failed rate_limit_exceeded", luma + "ok"}},
		"U13: a limit, and no other":          {stream: true, model: "openai/gpt-5-mini", scripts: faults("fault=error_first code=rate_limit_exceeded", 0), status: "429 rate_limit_exceeded", attempts: []string{gpt + "failed rate_limit_exceeded"}},
		"U13: first of all a bad key":         {stream: true, model: "both", scripts: faults("fault=error_first code=invalid_api_key", 0), status: answered, attempts: []string{gpt + "failed upstream_auth", luma + "ok"}},
		"U13: what the key may not do":        {stream: true, model: "both", scripts: faults("fault=error_first code=permission_denied", 0), status: answered, attempts: []string{gpt + "failed permission_denied", luma + "ok"}},
		"U13: what the client has to mend":    {stream: true, model: "both", scripts: faults("fault=error_first code=context_length_exceeded", 0), status: "400 context_length_exceeded", attempts: []string{gpt + "failed context_length_exceeded"}},
		"U14: half an answer was worked for":  {whole: true, model: "both", scripts: faults("fault=cut", 0), status: "502 upstream_protocol", attempts: []string{gpt + "failed upstream_protocol maybe"}},
		"U25: a stale connection":             {model: "both", warm: true, scripts: faults("fault=stale", 1), status: answered, attempts: []string{gpt + "failed upstream_reset maybe", gpt + "ok"}},
		"no credit, the next target":          {model: "both", scripts: faults("status=402", 0), status: answered, attempts: []string{gpt + "failed insufficient_quota", luma + "ok"}},
		"a bad key, the next target":          {model: "both", scripts: faults("status=401", 0), status: answered, attempts: []string{gpt + "failed upstream_auth", luma + "ok"}},
		"a bad key, and no other":             {model: "openai/gpt-5-mini", scripts: faults("status=401", 0), status: "502 upstream_auth", attempts: []string{gpt + "failed upstream_auth"}},
		"what a key may not do":               {model: "both", scripts: faults("status=403", 0), status: answered, attempts: []string{gpt + "failed permission_denied", luma + "ok"}},
		"what the client has to mend":         {model: "both", scripts: faults("status=400", 0), status: "400", attempts: []string{gpt + "failed"}},
		"all fail: the last one's error":      {model: "both", scripts: append(faults("status=503", 0), simulator.Script{Provider: "openrouter", Do: "status=429 retry_after=7"}), status: "429 rate_limit_exceeded", retry: "7", attempts: []string{gpt + "failed upstream_error", luma + "failed rate_limit_exceeded"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachHouse(t, Options{Failover: failover.Options{RetrySafe: map[string]bool{"openai": tt.safe}}}, func(t *testing.T, h *house) {
				h.aliases(bothTargets)
				if tt.down {
					h.opts.Upstreams["openai"] = absent(t)
				}
				if tt.warm {
					h.chat("warm", "").want(t, 200)
				}
				for _, more := range []string{"", `,"stream":true`} {
					if (tt.warm || tt.whole) && more != "" || tt.stream && more == "" {
						continue
					}
					h.sim.Unplay()
					h.play(tt.scripts...)
					h.failover = failover.New(h.opts.Failover)
					seen := len(h.attempts())
					thread := fmt.Sprint("t", len(more))
					r := h.do("POST", "/v1/chat/completions", `{"model":"`+tt.model+`","messages":[{"role":"user","content":"hello"}]`+more+`}`, "X-Thread-Id", thread)
					status := strings.TrimSpace(fmt.Sprint(r.status, " ", r.code()))
					if !strings.HasPrefix(status, tt.status) || r.header.Get("Retry-After") != tt.retry && tt.retry != "" {
						t.Fatalf("%s: %s, to be asked again after %q", more, r.body, r.header.Get("Retry-After"))
					}
					if got := h.attemptsOf(r); !slices.EqualFunc(got, tt.attempts, strings.HasPrefix) {
						t.Errorf("%s: the attempts were\n%s", more, strings.Join(got, "\n"))
					}
					ok := r.status == 200
					if m := h.messages(id.Thread(thread)); len(m) != 2 || strings.HasSuffix(m[1], ":complete") != ok {
						t.Errorf("%s: the thread reads %q", more, m)
					}
					var last []string
					for _, a := range h.attempts()[seen:] {
						last = append(last, a.Provider)
					}
					if want := len(tt.attempts); !tt.down && len(last) != want {
						t.Errorf("%s: the providers saw %v", more, last)
					}
					if !h.free(id.Thread(thread)) {
						t.Errorf("%s: the turn is held", more)
					}
				}
			})
		})
	}
}

func faults(do string, times int) []simulator.Script {
	return []simulator.Script{{Provider: "openai", Do: do, Times: times}}
}

// absent is openai where nobody listens.
func absent(t *testing.T) upstreams.Upstream {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + ln.Addr().String()
	_ = ln.Close()
	u, err := openai.New(upstreams.Options{BaseURL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	return u
}

// witness looks at each attempt as it is made, before its provider does.
type witness struct {
	upstreams.Upstream
	see func(r *upstreams.Request)
}

func (w witness) Chat(ctx context.Context, r *upstreams.Request) (*upstreams.Answer, error) {
	w.see(r)
	return w.Upstream.Chat(ctx, r)
}

// see shows every attempt at the two providers of "both" to f: the call as it is stored by then, and its hold.
func (h *house) see(f func(n int, c *calls.Call, hold int64)) {
	for _, p := range []string{"openai", "openrouter"} {
		h.opts.Upstreams[p] = witness{h.opts.Upstreams[p], func(r *upstreams.Request) {
			call, n, _ := strings.Cut(r.Attempt, "-")
			c, err := h.calls.Call(h.t.Context(), h.admin.Org, id.Request(call))
			if err != nil {
				h.t.Errorf("attempt %s is made, and its call is not stored: %v", r.Attempt, err)
				return
			}
			var hold int64
			err = h.store.Query(h.t.Context(), h.admin.Org, db.Query{
				SQL: `SELECT hold_pico FROM calls WHERE org_id = $1 AND call_id = $2`, Args: []any{h.admin.Org, c.ID},
				Each: func(r db.Row) error { return r.Scan(&hold) },
			})
			if err != nil {
				h.t.Error(err)
			}
			at, _ := strconv.Atoi(n)
			f(at, c, hold)
		}}
	}
}

const bothTargets = `{"both":["openai/gpt-5-mini","openrouter/openai/gpt-6-luna"]}`

// both asks the alias of two targets.
func (h *house) both(more string, header ...string) heard {
	h.t.Helper()
	return h.do("POST", "/v1/chat/completions", `{"model":"both","messages":[{"role":"user","content":"hello"}]`+more+`}`, header...)
}

// Every attempt is durable before it is made, the one before it has ended by then, and what may be billed stays reserved.
func TestAttemptsAreDurableBeforeTheyAreMade(t *testing.T) {
	t.Parallel()
	safe := failover.Options{RetrySafe: map[string]bool{"openai": true}}
	eachHouse(t, Options{Failover: safe}, func(t *testing.T, h *house) {
		h.aliases(bothTargets)
		var holds []int64
		h.see(func(n int, c *calls.Call, hold int64) {
			holds = append(holds, hold)
			if len(c.Attempts) != n+1 || c.State != "open" {
				t.Errorf("attempt %d is made, and stored are %+v", n, c.Attempts)
				return
			}
			for i, a := range c.Attempts {
				if last := i == n; last != (a.State == calls.Begun) || last != a.EndedAt.IsZero() {
					t.Errorf("as attempt %d is made, %d is %+v", n, i, a)
				}
			}
			if last := c.Attempts[n]; c.Facts.Provider != last.Provider || c.Facts.Model != last.Model {
				t.Errorf("as %s is asked, the facts are %+v", last.Provider, c.Facts)
			}
		})
		h.both("").want(t, 200)
		h.play(faults("status=503", 1)...)
		h.both("").want(t, 200)
		h.play(faults("fault=reset", 1)...)
		h.opts.Upstreams["openai"] = fresh{h.opts.Upstreams["openai"]}
		h.both("", "X-Thread-Id", "held").want(t, 200)
		if len(holds) != 5 || holds[0] == 0 || holds[1] != holds[0] || holds[2] == 0 || holds[2] == holds[0] || holds[4] != holds[3]+holds[2] {
			t.Errorf("the holds were %v", holds)
		}
	})
}

// fresh takes no kept connection, so that a broken one is not a stale one.
type fresh struct{ upstreams.Upstream }

func (f fresh) Chat(ctx context.Context, r *upstreams.Request) (*upstreams.Answer, error) {
	r.Fresh = true
	return f.Upstream.Chat(ctx, r)
}

// An attempt that cannot be recorded is not made, and the client gets what the last one brought.
func TestAnAttemptThatIsNotRecordedIsNotMade(t *testing.T) {
	t.Parallel()
	for name, unknown := range map[string]bool{"refused": false, "nobody knows": true} {
		t.Run(name, func(t *testing.T) {
			eachHouse(t, Options{}, func(t *testing.T, h *house) {
				h.aliases(bothTargets)
				h.play(faults("status=503", 0)...)
				m := &moody{Store: h.store}
				h.use(m)
				units := 0
				m.set(func(u *db.Unit) (bool, error) {
					if units++; units != 2 || u.Record { // OPEN, ATTEMPT, RECORD
						return false, nil
					}
					err := fault.New(fault.Unavailable, "away").WithCode("storage_unavailable")
					if unknown {
						err = fault.New(fault.Unavailable, "away").WithCode("outcome_unknown")
					}
					return true, err
				})
				r := h.both("", "X-Thread-Id", "lost").want(t, 502)
				if n := len(h.attempts()); n != 1 || r.code() != "upstream_error" || r.header.Get("X-Threadhub-Provider") != "openai" {
					t.Errorf("%d attempts, then %s to %v", n, r.body, r.header)
				}
				c, err := h.calls.Call(t.Context(), h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
				if err != nil || c.Facts.Provider != "openai" || !h.free("lost") {
					t.Errorf("%+v, %v", c, err)
				}
				lines, err := metering.Lines(t.Context(), h.store, h.admin.Org, c.ID)
				if err != nil || len(lines) != len(c.Attempts) || len(lines) != 1 && !unknown {
					t.Errorf("%+v for %+v, %v", lines, c.Attempts, err)
				}
				if last := c.Attempts[len(c.Attempts)-1]; unknown && (len(c.Attempts) != 2 || last.Code != "outcome_unknown" || last.State != calls.FailedTry || last.MaybeBilled) {
					t.Errorf("%+v", c.Attempts)
				}
			})
		})
	}
}

// A process dies in its second attempt. Each attempt is settled with a line of its own; and should its owner live after
// all, the true cost comes to that of the attempt that answered.
func TestEveryAttemptOfAnOrphanIsSettled(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.aliases(bothTargets)
		h.play(faults("status=503", 1)...)
		s := h.settler(h.store)
		h.see(func(n int, c *calls.Call, _ int64) {
			if n == 0 {
				return
			}
			if _, err := s.settleOne(t.Context(), calls.Orphan{Org: c.Org, ID: c.ID}); err != nil {
				t.Error(err)
			}
		})
		r := h.both("", "X-Thread-Id", "orphan").want(t, 503)
		if r.code() != "lost_lease" {
			t.Errorf("%s", r.body)
		}
		c, err := h.calls.Call(t.Context(), h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
		if err != nil || c.Reason != reasonLost || len(c.Attempts) != 2 || c.Attempts[0].State != calls.FailedTry || c.Attempts[0].Status != 503 || c.Attempts[1].State != calls.Unknown || !c.Attempts[1].MaybeBilled {
			t.Errorf("%+v, %v", c, err)
		}
		lines, err := metering.Lines(t.Context(), h.store, h.admin.Org, c.ID)
		if err != nil || len(lines) != 3 {
			t.Fatalf("%+v, %v", lines, err)
		}
		first, late, use := lines[0], lines[1], lines[2]
		if first.N != 0 || first.Provider != "openai" || first.Charge.Cost != 0 || first.MaybeBilled {
			t.Errorf("the first attempt's line is %+v", first)
		}
		if use.N != 1 || use.Provider != "openrouter" || use.Charge.Status != metering.Estimated || !use.MaybeBilled || late.N != 1 || late.Kind != metering.Late {
			t.Errorf("the second's lines are %+v, %+v", use, late)
		}
		if m := h.messages("orphan"); len(m) != 2 || m[1] != "assistant::incomplete:gateway_lost" {
			t.Errorf("the thread reads %q", m)
		}
	})
}

// Each of the org's keys is tried, and one that was refused rests.
func TestTheNextKey(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"401", "402", "403", "429 retry_after=30"} {
		t.Run(status, func(t *testing.T) {
			eachHouse(t, Options{}, func(t *testing.T, h *house) {
				for i, name := range []string{"second", "third"} {
					h.do("PUT", h.providers("openai"), fmt.Sprintf(`{"api_key":"sk-%s-0123456789abcdef","name":%q,"priority":%d}`, name, name, i+1)).want(t, 200)
				}
				h.play(faults("status="+status, 2)...)
				r := h.chat("hello", "").want(t, 200)
				got := h.attemptsOf(r)
				if len(got) != 3 || !strings.HasPrefix(got[1], "openai/gpt-5-mini second failed") || got[2] != "openai/gpt-5-mini third ok" {
					t.Errorf("%q", got)
				}
				var keys []string
				for _, a := range h.attempts() {
					keys = append(keys, a.KeyHash)
				}
				third := simulator.KeyHash("sk-third-0123456789abcdef")
				if want := []string{simulator.KeyHash("sk-test-key-of-" + string(h.admin.Org)), simulator.KeyHash("sk-second-0123456789abcdef"), third}; !slices.Equal(keys, want) {
					t.Errorf("asked with %v, want %v", keys, want)
				}
				if got := h.attemptsOf(h.chat("again", "").want(t, 200)); len(got) != 1 || got[0] != "openai/gpt-5-mini third ok" {
					t.Errorf("keys that were refused do not rest: %q", got)
				}
				h.do("PUT", h.providers("openai"), `{"api_key":"sk-new-0123456789abcdef"}`).want(t, 200)
				if got := h.attemptsOf(h.chat("once more", "").want(t, 200)); len(got) != 1 || got[0] != gpt+"ok" {
					t.Errorf("a new key under the old name is not used: %q", got)
				}
				if c, f := metric(t, h.opts.Registry, "threadhub_cooldowns_total"), metric(t, h.opts.Registry, "threadhub_further_attempts_total"); c != 2 || f != 2 {
					t.Errorf("%v cool-downs and %v further attempts were counted", c, f)
				}
			})
		})
	}
}

// Another target has another window, another dialect, and what it is not told; all that is told of the call is of the one
// that answered.
func TestAnotherTargetIsAskedInItsOwnWay(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{Windows: map[string]int64{"openai": 1000, "openrouter": 100_000}}, func(t *testing.T, h *house) {
		h.everyKey()
		h.aliases(`{"list":["openai/sim-small","perplexity/sonar","openrouter/sim-large","gemini/gemini-3.8-flash"]}`)
		for range 6 {
			h.chat(strings.Repeat("much was said. ", 40), "", "X-Thread-Id", "long").want(t, 200)
		}
		h.play(simulator.Script{Provider: "openai", Do: "status=503"}, simulator.Script{Provider: "openrouter", Do: "status=503", Times: 1})
		ask := func(more string) heard {
			return h.do("POST", "/v1/chat/completions", `{"model":"list","messages":[{"role":"user","content":"and now?"}]`+more+`}`, "X-Thread-Id", "long").want(t, 200)
		}
		// Perplexity has no n, and is passed over; OpenRouter fails; Gemini is told, and has no seed penalties.
		r := ask(`,"n":1,"logprobs":true,"user":"somebody"`)
		got := h.attemptsOf(r)
		if len(got) != 3 || !strings.HasPrefix(got[0], "openai/sim-small ") || !strings.HasPrefix(got[1], "openrouter/sim-large ") || !strings.HasPrefix(got[2], "gemini/gemini-3.8-flash ") {
			t.Fatalf("%q", got)
		}
		c := h.call(r)
		reason := c["route"].(map[string]any)["reason"].(string)
		if c["provider"] != "gemini" || c["model"] != "gemini-3.8-flash" || !strings.Contains(reason, "openai sim-small was tried and failed: upstream_error; openrouter sim-large was tried and failed: upstream_error") {
			t.Errorf("the call is %v", c)
		}
		if c["thread_omitted"] != 0.0 || r.header.Get("X-Threadhub-Thread-Omitted") != "0" || r.header.Get("X-Threadhub-Provider") != "gemini" || r.header.Get("X-Threadhub-Model") != "gemini-3.8-flash" {
			t.Errorf("%v left out, %v", c["thread_omitted"], r.header)
		}
		if w := fmt.Sprint(c["warnings"]); !strings.Contains(w, "dropped=user") || !strings.Contains(r.header.Get("X-Threadhub-Warning"), "dropped=user") {
			t.Errorf("warned of %s, and the client of %q", w, r.header.Get("X-Threadhub-Warning"))
		}
		log := h.attempts()
		small, large := string(log[len(log)-3].Body), string(log[len(log)-2].Body)
		if n, m := strings.Count(small, `"role":"user"`), strings.Count(large, `"role":"user"`); n >= 7 || m != 7 {
			t.Errorf("the small model was shown %d messages of users, the large one %d", n, m)
		}
		answers, err := h.stored("long")
		if err != nil {
			t.Fatal(err)
		}
		last := string(answers[len(answers)-1].Meta)
		if !strings.Contains(last, `"provider":"gemini"`) || !strings.Contains(last, `"attempts":3`) {
			t.Errorf("the thread says %s", last)
		}
	})
}

// Nothing is asked again once an answer has begun, and nobody is asked for whom the caller's key is no good.
func TestWhatIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.aliases(bothTargets)
		for _, do := range []string{"fault=cut after=1", "fault=reset_mid after=1", "fault=error_mid after=1", "fault=error_mid after=0", "fault=bad_json after=0"} {
			h.sim.Unplay()
			h.play(faults(do, 0)...)
			before := len(h.attempts())
			r := h.both(`,"stream":true`).want(t, 200)
			if n := len(h.attempts()) - before; n != 1 || strings.Contains(string(r.body), "[DONE]") {
				t.Errorf("%s: %d attempts, %s", do, n, r.body)
			}
		}
		h.sim.Unplay()
		h.play(faults("status=503 retry_after=1", 0)...)
		narrow := h.made("/api/keys", `{"providers":["openai"]}`)["api_key"].(string)
		r := h.both("", "Authorization", "Bearer "+narrow).want(t, 502)
		for _, a := range h.attemptsOf(r) {
			if !strings.HasPrefix(a, gpt) {
				t.Errorf("a key for openai alone: %s", a)
			}
		}

		h.aliases(`{"vectors":["openai/text-embedding-3-small","openrouter/openai/text-embedding-3-large"]}`)
		for _, a := range h.attemptsOf(h.embed("vectors", `"hello"`, "").want(t, 502)) {
			if !strings.HasPrefix(a, "openai/text-embedding-3-small ") {
				t.Errorf("embeddings of another model: %s", a)
			}
		}
	})
}

// A client that leaves while there is a pause has no further attempt made.
func TestNobodyIsAskedForAClientThatLeft(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.play(faults("status=503 retry_after=2", 1)...)
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "POST", h.url+"/v1/chat/completions", strings.NewReader(`{"model":"openai/gpt-5-mini","messages":[{"role":"user","content":"hello"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+h.admin.APIKey.Reveal())
		left := make(chan struct{})
		go func() {
			defer close(left)
			if resp, err := houseClient.Do(req); err == nil {
				t.Errorf("it got %d", resp.StatusCode)
				_ = resp.Body.Close()
			}
		}()
		testkit.Eventually(t, 10*time.Second, func() bool { return len(h.attempts()) == 1 }, "the first attempt")
		cancel()
		<-left
		time.Sleep(3 * time.Second)
		if n := len(h.attempts()); n != 1 {
			t.Errorf("%d attempts", n)
		}
	})
}

// In a burst of failures at most a tenth is asked again, and then nothing at all, until a probe has been answered.
func TestABurstOfFailures(t *testing.T) {
	burst := func(h *house, n int) {
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() { h.chat("hello", "") })
		}
		wg.Wait()
	}
	t.Run("budget", func(t *testing.T) {
		h := newHouse(t, testkit.SQLite(t), Options{Failover: failover.Options{NoBreaker: true}})
		h.play(faults("status=503", 0)...)
		burst(h, 60)
		if n := len(h.attempts()); n > 66 || n < 61 {
			t.Errorf("60 calls made %d attempts", n)
		}
		if metric(t, h.opts.Registry, "threadhub_retries_refused_total") == 0 {
			t.Error("no retry was refused")
		}
	})
	t.Run("breaker", func(t *testing.T) {
		h := newHouse(t, testkit.SQLite(t), Options{})
		h.aliases(bothTargets)
		h.play(faults("status=503", 0)...)
		burst(h, 40)
		asked := len(h.attempts())
		r := h.chat("hello", "", "X-Thread-Id", "shut").want(t, 502)
		if r.code() != codeShut || r.header.Get("Retry-After") == "" || len(h.attempts()) != asked {
			t.Errorf("%s, %v, asked %d times", r.body, r.header, len(h.attempts())-asked)
		}
		r = h.both("").want(t, 200)
		if got := h.attemptsOf(r); len(got) != 1 || got[0] != luma+"ok" {
			t.Errorf("%q", got)
		}
		if reason := h.call(r)["route"].(map[string]any)["reason"]; !strings.Contains(reason.(string), "openai gpt-5-mini is left alone for a while") {
			t.Errorf("the reason is %s", reason)
		}
		if metric(t, h.opts.Registry, "threadhub_breaker_opened_total") != 1 {
			t.Error("its opening was not counted")
		}
	})
}
