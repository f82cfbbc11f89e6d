package metering

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// No usage within what was asked costs more than the worst case.
func TestWorstIsNeverLessThanTheCost(t *testing.T) {
	c, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	var models []Model
	for provider, of := range c.models {
		for _, m := range of {
			if m.Priced() && !m.Embeds() {
				models = append(models, m)
			}
		}
		models = append(models, Fallback{Input: 10, Output: 50}.Unpriced(provider, "unknown", 0))
	}
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom(models).Draw(t, "model")
		a := Ask{
			Bytes: rapid.Int64Range(0, 1<<21).Draw(t, "bytes"), MaxTokens: rapid.Int64Range(0, 1<<18).Draw(t, "max"), N: rapid.IntRange(1, 4).Draw(t, "n"), Requests: 1,
			Images: rapid.IntRange(0, 3).Draw(t, "images"), Fills: rapid.Bool().Draw(t, "fills"), Searches: rapid.Bool().Draw(t, "searches"),
		}
		window := m.Window
		if window == 0 {
			window = math.MaxInt64
			if a.Fills || m.MaxOutput == 0 && a.MaxTokens == 0 {
				window = usualWindow
			}
		}
		read := a.Bytes + int64(a.Images)*imageTokens
		if a.Fills {
			read = window
		}
		read = min(read, window, MaxTokens)
		written := a.MaxTokens
		if written == 0 {
			if written = m.MaxOutput; written == 0 {
				written = window
			}
		}
		u := Tokens{Input: rapid.Int64Range(0, read).Draw(t, "read")}
		u.Cached = read - u.Input
		u.Reasoning = rapid.Int64Range(0, written).Draw(t, "thought")
		u.Output = (written - u.Reasoning) * int64(a.N)
		if a.Searches {
			u.Searches = rapid.Int64Range(0, mostSearches).Draw(t, "searched")
		}
		cost, ok := Cost(m, u)
		if worst := Worst(m, a); !ok || worst < cost || worst <= 0 {
			t.Fatalf("%s %s may cost %s, and cost %s (%v)", m.Provider, m.ID, worst, cost, ok)
		}
	})
}

func TestWorst(t *testing.T) {
	mini := model(t, "openai", "gpt-5-mini")
	for _, c := range []struct {
		about string
		m     Model
		a     Ask
		want  string
	}{
		{"a chat", mini, Ask{Bytes: 1000, MaxTokens: 100, N: 1}, "0.00045"},
		{"two answers", mini, Ask{Bytes: 1000, MaxTokens: 100, N: 2}, "0.00065"},
		{"as long as it likes", mini, Ask{Bytes: 1000, N: 1}, "0.25625"},
		{"with a picture", mini, Ask{Bytes: 1000, MaxTokens: 100, N: 1, Images: 1}, "0.01295"},
		{"with a file", mini, Ask{Bytes: 1000, MaxTokens: 100, N: 1, Fills: true}, "0.1002"},
		{"nothing at all", mini, Ask{MaxTokens: 0, N: 1, Inputs: 1}, "0.000000000001"},
		{"no size", Model{Prices: mini.Prices}, Ask{Bytes: 1000, N: 1}, "0.25625"},
		{"beyond all measure", Model{Prices: Prices{known: true, output: true, Input: maxPrice, Output: maxPrice}, Request: math.MaxInt64}, Ask{Bytes: 1, MaxTokens: 1, N: 1}, "9223372.036854775807"},
		{"the dearest grade", model(t, "perplexity", "sonar"), Ask{Bytes: 1000, MaxTokens: 100, N: 1}, "0.0131"},
		{"the vendor's key", model(t, "openrouter", "openai/gpt-6-luna"), Ask{Bytes: 1000, MaxTokens: 1000, N: 1}, "0.000656250001"},
	} {
		if got := Worst(c.m, c.a).String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.about, got, c.want)
		}
	}
}

func TestFallbackPricesWhatHasNone(t *testing.T) {
	f := Fallback{Input: 10, Output: 50}
	c := f.Price(Charge{Tokens: Tokens{Input: 3, Output: 2}, Status: Unpriced, Version: "v"})
	if c.Cost != 130 || *c.Computed != 130 || c.Status != Estimated || c.Version != "v.fallback" {
		t.Errorf("it has become %+v", c)
	}
	if c := f.Price(Charge{Tokens: Tokens{Input: 3}, Cost: 1, Status: Reported}); c.Cost != 1 || c.Status != Reported {
		t.Errorf("what is known has become %+v", c)
	}
}

// Both stores find the beginning of a period where metering does.
func TestPeriods(t *testing.T) {
	for at, want := range map[string][3]string{ // day, week, month
		"2026-11-27T20:30:00Z":      {"2026-11-27", "2026-11-23", "2026-11-01"},
		"2026-11-23T00:00:00Z":      {"2026-11-23", "2026-11-23", "2026-11-01"},
		"2026-11-22T23:59:59.9Z":    {"2026-11-22", "2026-11-16", "2026-11-01"},
		"2027-01-01T01:00:00+02:00": {"2026-12-31", "2026-12-28", "2026-12-01"},
		"2028-02-29T12:00:00Z":      {"2028-02-29", "2028-02-28", "2028-02-01"},
	} {
		moment, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range []Period{Day, Week, Month} {
			if got := p.Start(moment); got.Format("2006-01-02T15:04:05.999Z07:00") != want[i]+"T00:00:00Z" {
				t.Errorf("the %s of %s began at %s", p, at, got)
			}
			if end := p.End(moment); !end.After(moment) || !p.Start(end).Equal(end) || !p.Start(end.Add(-1)).Equal(p.Start(moment)) {
				t.Errorf("the %s of %s ends at %s", p, at, end)
			}
		}
	}
	if !Total.End(time.Now()).IsZero() || !Total.Start(time.Now()).Equal(time.Unix(0, 0)) {
		t.Error("total is not for good")
	}
	eachTill(t, func(t *testing.T, l *till) {
		if l.store.Dialect() == db.SQLite {
			return // which asks Start
		}
		err := l.store.Read(t.Context(), "org_none", func(tx db.Tx) error {
			for range 200 {
				moment := time.Unix(rapid.Int64Range(0, 1<<32).Example(), 0)
				for _, p := range []Period{Day, Week, Month, Total} {
					var at db.Time
					err := tx.QueryRow(t.Context(), `SELECT `+periodStart+` FROM (SELECT $1::text AS period) b, (SELECT $2::timestamptz AS opened_at) c`,
						[]any{string(p), moment}, &at)
					if err != nil {
						return err
					}
					if !at.Equal(p.Start(moment)) {
						t.Errorf("the %s of %s began at %s, and in Postgres at %s", p, moment, p.Start(moment), at)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestSums(t *testing.T) {
	large := SumOf(math.MaxInt64).Plus(SumOf(1))
	for want, s := range map[string]Sum{
		"0": {}, "-0.5": SumOf(-usd / 2), "9223372.036854775807": SumOf(math.MaxInt64), "9223372.036854775808": large, "18446744.073709551616": large.Plus(large),
	} {
		if got := s.String(); got != want {
			t.Errorf("%s is written %s", want, got)
		}
		var back Sum
		if err := back.Scan(s.digits()); err != nil || back.Cmp(s) != 0 {
			t.Errorf("%s is read as %s, %v", want, back, err)
		}
	}
	if large.Pico() != math.MaxInt64 || (Sum{}).Minus(large).Minus(large).Pico() != math.MinInt64 || large.Minus(large).Pico() != 0 {
		t.Error("what does not fit is not held at its bounds")
	}
	if SumOf(999).Percent(1000) != 99 || SumOf(0).Percent(0) != 100 || SumOf(-1).Percent(10) != 0 || large.Percent(1) != math.MaxInt64 {
		t.Error("percents are wrong")
	}
}

// A refusal is remembered for a second, for as much as was refused, until a call has ended or the budget is another.
func TestRefusalsAreRemembered(t *testing.T) {
	b, now := NewBudgets(), time.Now()
	of := Budget{ID: "bud_1", Scope: "org", Of: "org_a", Period: Day, Limit: 100, Hard: true}
	over := []Level{{Budget: of, Start: Day.Start(now), Used: SumOf(90), Needs: 20}}
	full := func(b *Budgets, org id.Org, of Budget, hold PicoUSD, at time.Time) bool {
		return len(b.Full(org, []Budget{of}, hold, at)) > 0
	}
	b.Refused("org_a", over, now)
	raised := of
	raised.Limit = 200
	for about, is := range map[string]bool{
		"as much again": full(b, "org_a", of, 20, now), "less, and too much": full(b, "org_a", of, 11, now), "what fits": !full(b, "org_a", of, 10, now),
		"another org": !full(b, "org_b", of, 20, now), "a raised limit": !full(b, "org_a", raised, 20, now), "a second later": !full(b, "org_a", of, 20, now.Add(fullFor)),
		"another day": !full(b, "org_a", of, 20, Day.Start(now).Add(-1)),
	} {
		if !is {
			t.Error(about)
		}
	}
	b.full.forget("org_a") // a call has ended
	if full(b, "org_a", of, 20, now) {
		t.Error("it is remembered though a call has ended")
	}
}

// Check finds what somebody has written into a budget's row, and puts it right.
func TestCheckPutsRight(t *testing.T) {
	eachTill(t, func(t *testing.T, l *till) {
		org := l.org(t)
		b := l.budget(t, org, Budget{Scope: "org", Of: string(org), Period: Total, Limit: 1000, Hard: true})
		o, _, _ := l.open(t, org, customer{user: "usr", key: "key"}, 70)
		l.do(t, org, `UPDATE used SET used_pico = '5' WHERE org_id = $1`, string(org))
		found, err := l.budgets.Check(t.Context(), org, time.Now())
		if err != nil || len(found) != 1 || !found[0].Young || found[0].Off.Pico() != -65 || l.budgets.Drifts() != 0 {
			t.Errorf("of a new budget it found %+v, %v", found, err)
		}
		l.balanced(t, org)
		l.record(t, o, 30)
		l.do(t, org, `UPDATE used SET used_pico = '31' WHERE org_id = $1`, string(org))
		later := time.Now().Add(2 * heard)
		if found, err = l.budgets.Check(t.Context(), org, later); err != nil || len(found) != 1 || found[0].Young || found[0].Off.Pico() != 1 || l.budgets.Drifts() != 1 {
			t.Errorf("it found %+v, %v", found, err)
		}
		l.balanced(t, org)
		if found, err = l.budgets.Check(t.Context(), org, later); err != nil || len(found) != 0 {
			t.Errorf("then it found %+v, %v", found, err)
		}
		if list := l.budgets.due(time.Now()); len(list) != 1 || list[0] != org {
			t.Errorf("due are %v", list)
		}
		s, err := l.budgets.Standings(t.Context(), org, []Budget{b}, time.Now())
		if err != nil || s[0].Spent.Pico() != 30 || s[0].Held.Pico() != 0 {
			t.Errorf("it stands at %+v, %v", s, err)
		}
	})
}
