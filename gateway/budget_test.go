package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/metering"
	"threadhub/router/failover"
	"threadhub/simulator"
)

// budget puts a budget and returns it.
func (h *house) budget(scope, of, period, limit, mode string) budgetShape {
	h.t.Helper()
	body := fmt.Sprintf(`{"scope":%q,"id":%q,"period":%q,"limit_usd":%q,"mode":%q}`, scope, of, period, limit, mode)
	var b budgetShape
	if err := json.Unmarshal(h.do("PUT", "/api/budgets", body).want(h.t, 200).body, &b); err != nil {
		h.t.Fatal(err)
	}
	return b
}

func (h *house) standingOf(b budgetShape) budgetShape {
	h.t.Helper()
	var now budgetShape
	if err := json.Unmarshal(h.do("GET", "/api/budgets/"+string(b.Budget), "").want(h.t, 200).body, &now); err != nil {
		h.t.Fatal(err)
	}
	return now
}

// settled fails if anything is held that no call under way holds, or if a budget does not stand where it should.
func (h *house) settled() {
	h.t.Helper()
	testkit.Eventually(h.t, 20*time.Second, func() bool {
		open := 0
		err := h.store.Query(h.t.Context(), h.admin.Org, db.Query{
			SQL: `SELECT count(*) FROM calls WHERE org_id = $1 AND state = 'open'`, Args: []any{h.admin.Org},
			Each: func(r db.Row) error { return r.Scan(&open) },
		})
		return err == nil && open == 0
	}, "every call to end")
	found, err := h.opts.Budgets.Check(h.t.Context(), h.admin.Org, time.Now())
	if err != nil || len(found) > 0 {
		h.t.Errorf("the check of budgets found %+v, %v", found, err)
	}
}

// used is what hard budgets of the org have used, all of them together.
func (h *house) used() (sum metering.Sum) {
	h.t.Helper()
	err := h.store.Query(h.t.Context(), h.admin.Org, db.Query{
		SQL: `SELECT CAST(used_pico AS text) FROM used WHERE org_id = $1`, Args: []any{h.admin.Org},
		Each: func(r db.Row) error {
			var s metering.Sum
			err := r.Scan(&s)
			sum = sum.Plus(s)
			return err
		},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return sum
}

// A call for which a budget has no room is refused with all there is to know, before anything is stored and anybody is
// asked; on every level; and is served when there is room.
func TestOverBudget(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		of := map[string]string{"org": string(h.admin.Org), "user": string(h.admin.User), "key": strings.Split(h.admin.APIKey.Reveal(), "_")[1], "thread": "mine"}
		h.chat("hello", "", "X-Thread-Id", "mine").want(t, 200)
		for scope, id := range of {
			asked, before := len(h.attempts()), h.rows()
			b := h.budget(scope, id, "month", "0.00001", "hard")
			for i, more := range []string{"", `,"stream":true`} { // the second time it is remembered
				r := h.chat("hello", more, "X-Thread-Id", "mine", "Idempotency-Key", fmt.Sprint(scope, i)).want(t, 402)
				var told struct {
					Error struct {
						Message, Type, Code string
						Details             struct{ Budget map[string]any }
					}
				}
				if err := json.Unmarshal(r.body, &told); err != nil {
					t.Fatal(err)
				}
				d := told.Error.Details.Budget
				if told.Error.Code != "budget_exceeded" || r.header.Get("X-Should-Retry") != "false" || r.header.Get("Retry-After") != "" ||
					d["scope"] != scope || d["id"] != id || d["limit_usd"] != "0.00001" || d["budget_id"] != string(b.Budget) || d["used_usd"] == nil ||
					d["renews_at"] != metering.Month.End(time.Now()).Format(time.RFC3339) || !strings.Contains(told.Error.Message, scope) {
					t.Errorf("%s: %v %s", scope, r.header, r.body)
				}
			}
			if len(h.attempts()) != asked || h.rows() != before {
				t.Errorf("%s: what was refused left something", scope)
			}
			h.budget(scope, id, "month", "10", "hard")
			h.chat("hello", "", "X-Thread-Id", "mine").want(t, 200)
			h.settled()
			h.do("DELETE", "/api/budgets/"+string(b.Budget), "").want(t, 200)
		}
		h.do("POST", "/v1/embeddings", `{"model":"openai/text-embedding-3-small","input":"one"}`).want(t, 200)
		h.budget("org", "", "day", "0", "hard")
		h.do("POST", "/v1/embeddings", `{"model":"openai/text-embedding-3-small","input":"one"}`).want(t, 402)
		h.do("POST", "/api/threads/mine/forward", `{"provider":"openai"}`).want(t, 402)
	})
}

// However a call ends, it gives back what it held, in the transaction that says what it cost.
func TestHoldsEndWithTheirCalls(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{Failover: once, ResumeGrace: -1}, func(t *testing.T, h *house) {
		b := h.budget("org", "", "total", "1000", "hard")
		h.aliases(bothTargets)
		for _, directive := range []string{"", "status=500", "status=429", "fault=reset", "fault=cut after=2", "fault=reset_mid after=2", "fault=error_mid after=2"} {
			for _, more := range []string{"", `,"stream":true`} {
				h.chat("[[sim "+directive+"]] hello", more, "X-Thread-Id", "ends")
				h.settled()
			}
		}
		h.both("").want(t, 200)
		h.settled()
		body, c := h.stream("delay=20ms chunks=100 size=4000", "left") // a client that leaves
		buf := make([]byte, 100)
		_, _ = body.Read(buf)
		_ = c.Close()
		h.settled()
		if now := h.standingOf(b); now.Held.Cmp(metering.Sum{}) != 0 || now.Spent.Cmp(metering.Sum{}) <= 0 || now.Spent.Cmp(h.used()) != 0 {
			t.Errorf("at the end %s are spent, %s held, and %s used", now.Spent, now.Held, h.used())
		}
	})
}

// So does a call whose process died, and one whose record had to wait.
func TestHoldsEndWithoutTheirProcess(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.budget("org", "", "day", "10", "hard")
		for _, model := range []string{"gpt-5-mini", "nobody-knows-it"} {
			call := id.NewRequest()
			u := &db.Unit{Org: h.admin.Org}
			h.calls.Open(u, &calls.Opening{
				Org: h.admin.Org, ID: call, Key: "key", User: h.admin.User, Owner: "own_dead", HoldPico: 1_000_000_000, Provider: "openai", Model: model,
				Facts: calls.Facts{Kind: "chat", Provider: "openai", Model: model, InputBytes: 4000},
			})
			h.opts.Budgets.Hold(u, &metering.Booking{Org: h.admin.Org, Call: call})
			if err := h.store.Commit(t.Context(), u); err != nil {
				t.Fatal(err)
			}
			if h.used().Cmp(metering.SumOf(1_000_000_000)) < 0 {
				t.Errorf("%s are used", h.used())
			}
			s := &Settler{
				Store: h.store, Calls: h.calls, Threads: h.threads, Ledger: h.opts.Ledger, Budgets: h.opts.Budgets, Fallback: h.opts.Fallback, Catalogue: h.opts.Catalogue, Lease: h.lease,
				Log: slog.New(slog.DiscardHandler),
			}
			if ok, err := s.settleOne(t.Context(), calls.Orphan{Org: h.admin.Org, ID: call}); !ok || err != nil {
				t.Fatal(ok, err)
			}
			h.settled()
			lines, err := metering.Lines(t.Context(), h.store, h.admin.Org, call)
			if err != nil || len(lines) != 1 || lines[0].Charge.Cost <= 0 || lines[0].Charge.Status != metering.Estimated {
				t.Errorf("its lines are %+v, %v", lines, err)
			}
		}
	})
}

func TestHoldsOfRecordsThatWait(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	h := newHouse(t, url, Options{})
	exec := onPostgres(t, url)
	b := h.budget("org", "", "day", "10", "hard")
	exec(raise("ledger", "53100"))
	h.chat("hello", "", "X-Thread-Id", "full").want(t, 503)
	if now := h.standingOf(b); now.Held.Cmp(metering.Sum{}) <= 0 {
		t.Errorf("%s are held for a call that is not recorded", now.Held)
	}
	exec(`DROP TRIGGER fail ON ledger`)
	h.settled()
	if now := h.standingOf(b); now.Held.Cmp(metering.Sum{}) != 0 || now.Spent.Cmp(metering.Sum{}) <= 0 {
		t.Errorf("%s are spent, %s held", now.Spent, now.Held)
	}
}

// Many clients at once spend no more than there is, and what is not spent is not lost to them.
func TestManyClientsOnOneBudget(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		h.chat("hello", `,"max_completion_tokens":40`).want(t, 200)
		hold := metering.PicoUSD(0)
		h.see(func(_ int, _ *calls.Call, held int64) { atomic.StoreInt64((*int64)(&hold), held) })
		b := h.budget("org", "", "day", "1", "hard")
		h.chat("hello", `,"max_completion_tokens":40`).want(t, 200)
		spent := h.standingOf(b).Spent.Pico()
		limit := spent + 10*hold + hold/2
		h.see(func(int, *calls.Call, int64) {})
		h.budget("org", "", "day", limit.String(), "hard")
		var served, refused atomic.Int64
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				switch r := h.chat("[[sim first=500ms]] hello", `,"max_completion_tokens":40`); r.status {
				case 200:
					served.Add(1)
				case 402:
					refused.Add(1)
				default:
					t.Errorf("%d: %s", r.status, r.body)
				}
			})
		}
		wg.Wait()
		h.settled()
		now := h.standingOf(b)
		if now.Spent.Cmp(metering.SumOf(limit)) > 0 || served.Load() < 10 || served.Load()+refused.Load() != 100 || refused.Load() == 0 {
			t.Errorf("%d were served, %d refused, %s spent of %s", served.Load(), refused.Load(), now.Spent, limit)
		}
	})
}

// A client that says so gets a shorter answer rather than none.
func TestAnswersAreLoweredToABudget(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		b := h.budget("org", "", "day", "0.01", "hard") // gpt-5-mini may write 128,000 tokens at 2 dollars a million
		h.chat("hello", "").want(t, 402)
		h.chat("hello", "", "X-Threadhub-On-Budget", "sometimes").want(t, 400)
		for _, more := range []string{"", `,"max_completion_tokens":50000`, `,"max_tokens":null,"max_completion_tokens":50000,"stream":true`} {
			r := h.chat("hello", more, "X-Threadhub-On-Budget", "lower").want(t, 200)
			if w := r.header.Get("X-Threadhub-Warning"); !strings.Contains(w, loweredWarning) {
				t.Errorf("%s: the warnings are %q", more, w)
			}
			seen := h.attempts()
			var asked map[string]any
			if err := json.Unmarshal([]byte(seen[len(seen)-1].Body), &asked); err != nil {
				t.Fatal(err)
			}
			n, ok := asked["max_completion_tokens"].(float64)
			if !ok {
				n, _ = asked["max_tokens"].(float64)
			}
			if n < 4000 || n > 5000 {
				t.Errorf("%s: the provider was asked for %v", more, asked)
			}
		}
		h.settled()
		if now := h.standingOf(b); now.Left.Cmp(metering.Sum{}) < 0 {
			t.Errorf("%s are left", now.Left)
		}
		h.budget("org", "", "day", h.standingOf(b).Spent.Plus(metering.SumOf(20_000_000)).String(), "hard")
		h.chat("hello", "", "X-Threadhub-On-Budget", "lower").want(t, 402) // less than 16 tokens
	})
}

// A further attempt that no budget has room for is not made, and one that there is room for is held before it is made.
func TestFurtherAttemptsAreHeld(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{Failover: failover.Options{RetrySafe: map[string]bool{"openai": true}, Retries: -1}}, func(t *testing.T, h *house) {
		h.aliases(`{"both":["openai/gpt-5-mini","openrouter/openai/gpt-6-luna"],"dearer":["openrouter/openai/gpt-6-luna","openai/gpt-5.5"]}`)
		b := h.budget("org", "", "day", "100", "hard")
		var used []metering.Sum
		h.see(func(int, *calls.Call, int64) { used = append(used, h.used()) })
		h.opts.Upstreams["openai"] = fresh{h.opts.Upstreams["openai"]}
		h.play(faults("fault=reset", 1)...)
		h.both(`,"max_tokens":100`).want(t, 200)
		if len(used) != 2 || used[1].Cmp(used[0]) <= 0 {
			t.Errorf("as the attempts were made, %v were used", used)
		}
		h.settled()
		h.budget("org", "", "day", h.standingOf(b).Spent.Plus(metering.SumOf(300_000_000)).String(), "hard")
		asked := len(h.attempts())
		h.play(simulator.Script{Provider: "openrouter", Do: "status=500", Times: 1})
		h.do("POST", "/v1/chat/completions", `{"model":"dearer","messages":[{"role":"user","content":"hello"}],"max_tokens":100}`).want(t, 502)
		if n := len(h.attempts()); n != asked+1 {
			t.Errorf("%d attempts were made", n-asked)
		}
		h.settled()
	})
}

// What nobody has a price for is held and counted at the fallback's, where a hard budget binds it, and nowhere else.
func TestUnpricedModelsCount(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		ask := func() heard {
			return h.do("POST", "/v1/chat/completions", `{"model":"openai/sim-1","messages":[{"role":"user","content":"hello"}],"max_completion_tokens":1000}`)
		}
		if r := ask().want(t, 200); r.header.Get("X-Threadhub-Cost-Status") != "unpriced" {
			t.Errorf("the cost is %v", r.header)
		}
		b := h.budget("org", "", "day", "0.06", "hard") // 1,000 tokens at 50 dollars a million, and what is read
		if r := ask().want(t, 200); r.header.Get("X-Threadhub-Cost-Status") != "estimated" || r.header.Get("X-Threadhub-Cost-Usd") == "" {
			t.Errorf("the cost is %v", r.header)
		}
		if now := h.standingOf(b); now.Spent.Cmp(metering.Sum{}) <= 0 {
			t.Errorf("%s are spent", now.Spent)
		}
		for range 60 {
			if ask().status == 402 {
				return
			}
		}
		t.Error("a model without a price is never too dear")
	})
}

// Clients are warned of budgets that are nearly used up: of hard ones at once, of soft ones, which refuse nothing, as soon as
// they were counted.
func TestBudgetsWarn(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		soft := h.budget("org", "", "day", "0", "soft")
		h.chat("hello", "").want(t, 200)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			metering.Checker{Budgets: h.opts.Budgets, Every: 10 * time.Millisecond, Log: h.opts.Log, Panics: h.opts.Panics}.Run(ctx)
		})
		defer wg.Wait()
		defer stop()
		testkit.Eventually(t, 20*time.Second, func() bool {
			return strings.Contains(h.chat("hello", "").want(t, 200).header.Get("X-Threadhub-Warning"), "budget=org/day;soft=100%")
		}, "a warning")
		h.do("DELETE", "/api/budgets/"+string(soft.Budget), "").want(t, 200)
		h.budget("user", string(h.admin.User), "week", "0.3", "hard") // one call holds 0.256
		r := h.chat("hello", "").want(t, 200)
		if w := r.header.Get("X-Threadhub-Warning"); w != "budget=user/week;hard=80%" {
			t.Errorf("the warnings are %q", w)
		}
		if n := metric(t, h.opts.Registry, "threadhub_budget_near_total"); n < 2 {
			t.Errorf("%v warnings were counted", n)
		}
	})
}
