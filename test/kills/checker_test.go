package kills

import (
	"errors"
	"slices"
	"testing"

	"threadhub/internal/id"
	"threadhub/simulator"
)

// history is two turns of one thread and a plain call, all well; the second turn's gateway died.
func history() *Evidence {
	usage := &simulator.Usage{Prompt: 30, Completion: 12, Total: 42, Cached: 10, Reasoning: 2}
	line := Line{Kind: "use", Input: 20, Cached: 10, Output: 10, Reasoning: 2, CostPico: 28_200_000, Status: "computed"}
	used := func(call id.Request) Line { l := line; l.Call = call; return l }
	return &Evidence{
		Orgs: []*Rows{{
			Org:     "org_a",
			Threads: []id.Thread{"t"},
			Messages: []Message{
				{Thread: "t", Seq: 0, Call: "req_1", Role: "user", Text: "one", Status: "complete"},
				{Thread: "t", Seq: 1, Call: "req_1", Role: "assistant", Text: "first", Status: "complete"},
				{Thread: "t", Seq: 2, Call: "req_2", Role: "user", Text: "two", Status: "complete"},
				{Thread: "t", Seq: 3, Call: "req_2", Role: "assistant", Status: "incomplete", Reason: "gateway_lost"},
			},
			Calls: []Call{
				{ID: "req_1", Thread: "t", State: "closed", Outcome: "complete", FirstSeq: 0, NIn: 1},
				{ID: "req_2", Thread: "t", State: "closed", Outcome: "incomplete", Reason: "gateway_lost", FirstSeq: 2, NIn: 1},
				{ID: "req_3", State: "closed", Outcome: "complete"},
			},
			Attempts: []Attempt{
				{Call: "req_1", Provider: "openai", State: "ok"},
				{Call: "req_2", Provider: "openai", State: "unknown", MaybeBilled: true},
				{Call: "req_3", Provider: "openai", State: "ok"},
			},
			Lines: []Line{used("req_1"), {Call: "req_2", Kind: "use", Input: 8, CostPico: 3, Status: "estimated", MaybeBilled: true}, used("req_3")},
		}, {Org: "org_b", Threads: []id.Thread{"t"}}},
		Seen: []simulator.Attempt{
			{Name: "req_1-0", Provider: "openai", Model: "gpt-4.1-mini", Text: "first", Usage: usage, End: simulator.EndComplete},
			{Name: "req_2-0", Provider: "openai", Text: "second", End: simulator.EndClientGone},
			{Name: "req_3-0", Provider: "openai", Model: "gpt-4.1-mini", Text: "third", Usage: usage, End: simulator.EndComplete},
		},
		Asked: []*Exchange{
			{Org: "org_a", Thread: "t", Text: "one", Head: true, Done: true, Status: 200, Request: "req_1", Seq: 0, Seen: "first"},
			{Org: "org_a", Thread: "t", Text: "two", Head: true, Status: 200, Request: "req_2", Seq: 2, Seen: "sec", Err: errors.New("reset")},
			{Org: "org_a", Text: "three", Head: true, Done: true, Status: 200, Request: "req_3", Seq: -1, Seen: "third"},
			{Org: "org_a", Thread: "t", Text: "four", Seq: -1, Err: errors.New("refused")},
		},
		Reads: []Read{
			{Org: "org_a", Thread: "t", Messages: []Message{{Seq: 0, Role: "user", Text: "one", Status: "complete"}}},
			{Org: "org_a", Thread: "t", Messages: []Message{
				{Seq: 0, Role: "user", Text: "one", Status: "complete"}, {Seq: 1, Role: "assistant", Text: "first", Status: "complete"},
			}},
		},
	}
}

func TestCheckerIsContent(t *testing.T) {
	if wrong := Check(*history()); len(wrong) > 0 {
		t.Error(wrong)
	}
}

// byAnother has the first turn answered by a provider that says what it charges.
func byAnother(e *Evidence, provider string) {
	usage := *e.Seen[0].Usage
	usage.CostPico = 31_000_000
	e.Seen[0].Provider, e.Seen[0].Model, e.Seen[0].Usage = provider, "sonar", &usage
	e.Orgs[0].Attempts[0].Provider = provider
	e.Orgs[0].Lines[0].CostPico, e.Orgs[0].Lines[0].Status = usage.CostPico, "reported"
}

func TestCheckerIsContentWithAReportedCost(t *testing.T) {
	for _, provider := range []string{"openrouter", "perplexity"} {
		e := history()
		byAnother(e, provider)
		if wrong := Check(*e); len(wrong) > 0 {
			t.Error(wrong)
		}
	}
}

// repeated is history after a repeat of its broken turn.
func repeated() *Evidence {
	e := history()
	a := e.Orgs[0]
	a.Messages = append(a.Messages, Message{Thread: "t", Seq: 4, Call: "req_4", Role: "assistant", Text: "second", Status: "complete"})
	a.Calls = append(a.Calls, Call{ID: "req_4", Thread: "t", State: "closed", Outcome: "complete", FirstSeq: 4})
	a.Attempts = append(a.Attempts, Attempt{Call: "req_4", Provider: "openai", State: "ok"})
	line := a.Lines[0]
	line.Call = "req_4"
	a.Lines = append(a.Lines, line)
	e.Seen = append(e.Seen, simulator.Attempt{Name: "req_4-0", Provider: "openai", Model: "gpt-4.1-mini", Text: "second", Usage: e.Seen[0].Usage, End: simulator.EndComplete})
	e.Asked = append(e.Asked, &Exchange{
		Org: "org_a", Thread: "t", Text: "two", Try: 1, Head: true, Done: true, Status: 200, Request: "req_4", Seq: 3, Seen: "second",
	})
	return e
}

// budgeted is history in an org whose budget has used pico.
func budgeted(e *Evidence, pico int64) {
	a := e.Orgs[0]
	a.Calls[1].HoldPico = 1000 // as long as it was open
	a.Budgets = []Budget{{ID: "bud", Scope: "org", Of: "org_a", Period: "total", LimitPico: 100_000_000}}
	a.Used = []Used{{Budget: "bud", Pico: pico}}
}

func TestCheckerIsContentWithABudget(t *testing.T) {
	e := history()
	budgeted(e, 56_400_003)
	if wrong := Check(*e); len(wrong) > 0 {
		t.Error(wrong)
	}
}

func TestCheckerIsContentWithARepeat(t *testing.T) {
	if wrong := Check(*repeated()); len(wrong) > 0 {
		t.Error(wrong)
	}
}

// Each fault planted in a history that is well must be seen, as what it is.
func TestCheckerSees(t *testing.T) {
	f := func(name string, want Rule, plant func(e *Evidence, a *Rows)) {
		t.Run(name, func(t *testing.T) {
			e := history()
			plant(e, e.Orgs[0])
			wrong := Check(*e)
			if !slices.ContainsFunc(wrong, func(v Violation) bool { return v.Rule == want }) {
				t.Errorf("no %q among %v", want, wrong)
			}
		})
	}
	f("a hold that was kept", Spending, func(e *Evidence, _ *Rows) { budgeted(e, 56_401_003) })
	f("a cost that no budget counts", Spending, func(e *Evidence, _ *Rows) { budgeted(e, 28_200_003) })
	f("a budget overspent", Spending, func(e *Evidence, a *Rows) {
		budgeted(e, 56_400_003)
		a.Budgets[0].LimitPico = 50_000_000
	})
	f("a lost input", Input, func(_ *Evidence, a *Rows) { a.Messages = a.Messages[:2] })
	f("a lost answer", Turn, func(_ *Evidence, a *Rows) { a.Messages = append(a.Messages[:1:1], a.Messages[2:]...) })
	f("an answer acknowledged, and settled as lost", Answer, func(e *Evidence, a *Rows) { e.Asked[1].Done = true })
	f("a plain answer acknowledged, and settled as lost", Answer, func(_ *Evidence, a *Rows) {
		a.Calls[2].Outcome, a.Calls[2].Reason = "incomplete", "gateway_lost"
	})
	f("an acknowledged call that is not there", Input, func(_ *Evidence, a *Rows) { a.Calls = a.Calls[:2] })
	f("another answer stored than seen", Answer, func(_ *Evidence, a *Rows) { a.Messages[1].Text = "First" })
	f("another answer stored than sent", Answer, func(e *Evidence, _ *Rows) { e.Seen[0].Text = "First" })
	f("a plain answer other than sent", Answer, func(e *Evidence, _ *Rows) { e.Seen[2].Text = "Third" })
	f("a cut answer that was never sent", Prefix, func(_ *Evidence, a *Rows) { a.Messages[3].Text = "other" })
	f("seen more than an embedded store kept", Prefix, func(e *Evidence, a *Rows) { e.Embedded, a.Messages[3].Text = true, "s" })
	f("seen what is not stored", Prefix, func(_ *Evidence, a *Rows) {
		a.Messages[3].Text, a.Messages[3].Reason, a.Calls[1].Reason = "s", "upstream_reset", "upstream_reset"
	})
	f("a message twice", Twice, func(_ *Evidence, a *Rows) { a.Messages[2].Text = "one" })
	f("a message nobody sent", Twice, func(_ *Evidence, a *Rows) { a.Messages[2].Text = "zwei" })
	f("a message in a foreign org", Twice, func(e *Evidence, _ *Rows) {
		e.Orgs[1].Messages = []Message{{Thread: "t", Call: "req_1", Role: "user", Text: "four", Status: "complete"}}
	})
	f("an input at another place", Input, func(e *Evidence, _ *Rows) { e.Asked[0].Seq = 2 })
	f("a first try that stored nothing", Input, func(_ *Evidence, a *Rows) { a.Calls[0].NIn, a.Calls[0].FirstSeq = 0, 1 })
	f("a gap", Gap, func(_ *Evidence, a *Rows) {
		a.Messages[2].Seq, a.Messages[3].Seq, a.Calls[1].FirstSeq = 3, 4, 3
	})
	f("a sequence twice", Gap, func(_ *Evidence, a *Rows) { a.Messages[2].Seq = 1 })
	f("an open call", Open, func(_ *Evidence, a *Rows) { a.Calls[1].State = "open" })
	f("an incomplete answer without a reason", Turn, func(_ *Evidence, a *Rows) { a.Messages[3].Reason = "" })
	f("an incomplete call without a reason", Turn, func(_ *Evidence, a *Rows) { a.Calls[1].Reason = "" })
	f("an answer of another call", Turn, func(_ *Evidence, a *Rows) { a.Messages[3].Call = "req_1" })
	f("two inputs in a row", Roles, func(_ *Evidence, a *Rows) { a.Messages[1].Role = "user" })
	f("two answers in a row", Roles, func(_ *Evidence, a *Rows) { a.Messages[2].Role = "assistant" })
	f("an answer first", Roles, func(_ *Evidence, a *Rows) { a.Messages[0].Role = "assistant" })
	f("a message without its thread", Parent, func(_ *Evidence, a *Rows) { a.Threads = nil })
	f("a call's rows in a foreign org", Parent, func(e *Evidence, a *Rows) { e.Orgs[1].Attempts = a.Attempts[2:] })
	f("an attempt the store does not know", Attempts, func(_ *Evidence, a *Rows) { a.Attempts = a.Attempts[:2] })
	f("a provider asked twice", Attempts, func(e *Evidence, _ *Rows) { e.Seen = append(e.Seen, e.Seen[0]) })
	f("an attempt nobody saw", Attempts, func(e *Evidence, _ *Rows) { e.Seen = e.Seen[1:] })
	f("an attempt without an end", Attempts, func(_ *Evidence, a *Rows) { a.Attempts[1].State = "begun" })
	f("an attempt that is better than it was", Attempts, func(_ *Evidence, a *Rows) { a.Attempts[1].State = "ok" })
	f("a missing line", Ledger, func(_ *Evidence, a *Rows) { a.Lines = a.Lines[1:] })
	f("a line twice", Ledger, func(_ *Evidence, a *Rows) { a.Lines = append(a.Lines, a.Lines[0]) })
	f("a line without its attempt", Parent, func(_ *Evidence, a *Rows) { a.Lines[0].N = 1 })
	f("other usage than told", Usage, func(_ *Evidence, a *Rows) { a.Lines[0].Output++ })
	f("a pico-dollar too much", Usage, func(_ *Evidence, a *Rows) { a.Lines[0].CostPico++ })
	f("a model without a price", Usage, func(e *Evidence, _ *Rows) { e.Seen[0].Model = "gpt-5" })
	f("another cost than the provider told", Usage, func(e *Evidence, a *Rows) {
		byAnother(e, "perplexity")
		a.Lines[0].CostPico++
	})
	f("a cost that the provider told, computed", Usage, func(e *Evidence, a *Rows) {
		byAnother(e, "openrouter")
		a.Lines[0].Status = "computed"
	})
	f("free of charge", Usage, func(_ *Evidence, a *Rows) { a.Lines[0].CostPico = 0 })
	f("an estimate that is not marked", Usage, func(_ *Evidence, a *Rows) { a.Lines[1].Status = "computed" })
	f("an unknown end that is not marked", Usage, func(_ *Evidence, a *Rows) { a.Attempts[1].MaybeBilled = false })
	f("a stream with an untrue end", End, func(e *Evidence, _ *Rows) { e.Asked[1].Err = errUntrue })
	f("a read of what is not there", Reading, func(e *Evidence, _ *Rows) { e.Reads[1].Messages[1].Text = "firs" })
	f("a read that goes back", Reading, func(e *Evidence, _ *Rows) { e.Reads = []Read{e.Reads[1], e.Reads[0]} })
	f("a repeat of a complete turn stored again", Repeat, func(e *Evidence, a *Rows) {
		e.Asked[1].Text, e.Asked[1].Try, a.Messages[2].Text = "one", 1, "one"
	})
	f("a repeat of a broken turn stored again", Twice, func(e *Evidence, _ *Rows) {
		*e = *repeated()
		m := &e.Orgs[0].Messages[4]
		m.Role, m.Text = "user", "two"
	})
}

// A short run kills in each of the nine steps at least three times, and each store ten times.
func TestSchedules(t *testing.T) {
	steps := map[string]string{"open": "translate", "recorded": "record", "attempt": "call"} // by their points
	for _, s := range []string{"authenticate", "parse", "load", "route", "admit", "translate", "call", "relay", "record"} {
		steps[s] = s
	}
	kills := map[string]int{}
	for store, points := range schedules {
		if len(points) < 10 {
			t.Errorf("%s has %d kills", store, len(points))
		}
		for _, p := range points {
			if p != anywhere && steps[p] == "" {
				t.Errorf("there is no step with the point %s", p)
			}
			kills[steps[p]]++
		}
	}
	for _, step := range steps {
		if kills[step] < 3 {
			t.Errorf("the step %s has %d kills", step, kills[step])
		}
	}
}
