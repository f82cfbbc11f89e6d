package sdk

import (
	"encoding/json"
	"strings"

	"threadhub/simulator"
)

// audit holds what the gateway has kept against what was wanted: one call and one ledger line for each of the provider's
// attempts, and in thread mode exactly these messages.
func (k *talk) audit() {
	k.Helper()
	if n := len(k.attempts()); n != k.seen {
		k.Errorf("the provider was asked %d times, want %d", n, k.seen)
	}
	for i := range k.want {
		if k.want[i].from != nil {
			k.auditCall(&k.want[i])
		}
	}
	if k.thread != "" {
		k.auditThread()
	}
}

// auditCall looks at the call an answer came from.
func (k *talk) auditCall(m *want) {
	k.Helper()
	a := *m.from
	if key := simulator.KeyHash("sk-" + k.provider + "-of-" + k.w.writer.Org); a.Provider != k.provider || a.KeyHash != key {
		k.Errorf("%s was asked, not %s with the org's key", a.Provider, k.provider)
	}
	c := k.w.readCall(k.T, callID(a))
	if c.Status != m.status || c.Reason != m.reason {
		k.Errorf("call %s is %s (%s), want %s (%s)", c.ID, c.Status, c.Reason, m.status, m.reason)
	}
	if (c.Thread == nil) != (k.thread == "") || c.Thread != nil && *c.Thread != k.thread {
		k.Errorf("call %s has the thread %v, want %q", c.ID, c.Thread, k.thread)
	}
	if c.Provider != k.provider || c.ModelRequested != k.model() || c.Model != k.dialect.model || c.Stream != m.stream {
		k.Errorf("call %s is %+v, which is not what was asked", c.ID, c)
	}
	if len(c.Attempts) != 1 {
		k.Errorf("call %s has %d attempts, want 1", c.ID, len(c.Attempts))
		return
	}
	one := c.Attempts[0]
	if one.CostStatus == nil || c.CostStatus == nil || *one.CostStatus != *c.CostStatus || one.CostUSD == nil || c.CostUSD == nil || *one.CostUSD != *c.CostUSD {
		k.Errorf("call %s has no ledger line, or not that of its attempt: %+v", c.ID, c)
		return
	}
	if one.HTTPStatus != a.Status {
		k.Errorf("call %s: the provider's status is %d, want %d", c.ID, one.HTTPStatus, a.Status)
	}
	k.auditCost(m, c.Usage, *c.CostUSD, *c.CostStatus)
}

// auditCost holds tokens and money against the provider's word.
func (k *talk) auditCost(m *want, u usage, usd, status string) {
	k.Helper()
	a := *m.from
	switch {
	case m.status == "complete":
		if pico, how := k.dialect.cost(a); !isDollars(usd, pico) || status != how {
			k.Errorf("%s cost %s (%s), want %d pico-dollars (%s)", callID(a), usd, status, pico, how)
		}
		k.sameUsage(&u, a)
	case a.Status >= 400:
		if !isDollars(usd, 0) {
			k.Errorf("%s was refused by the provider, and cost %s", callID(a), usd)
		}
	case m.stream && dialects[k.provider].counts && status == "computed": // by the last count that came
	case status != "estimated":
		k.Errorf("%s was cut short, and its cost is %s, want estimated", callID(a), status)
	}
}

func (k *talk) sameUsage(u *usage, a simulator.Attempt) {
	k.Helper()
	if u == nil || a.Usage == nil || u.Prompt != a.Usage.Prompt || u.Completion != a.Usage.Completion || u.Total != a.Usage.Total {
		k.Errorf("usage is %+v, the provider said %+v", u, a.Usage)
	}
}

// auditThread reads the thread back.
func (k *talk) auditThread() {
	k.Helper()
	th := k.w.readThread(k.T, k.thread)
	if len(th.Messages) != len(k.want) {
		raw, _ := json.MarshalIndent(th.Messages, "", " ")
		k.Errorf("thread %s holds %d messages, want %d: %s", k.thread, len(th.Messages), len(k.want), raw)
		return
	}
	for i, m := range th.Messages {
		w := &k.want[i]
		if m.Sequence != i || m.ID == "" || m.CreatedAt.IsZero() {
			k.Errorf("message %d is %q, sequence %d, of %v", i, m.ID, m.Sequence, m.CreatedAt)
		}
		if m.Role != w.role || m.ToolCallID != w.callID || !k.sameText(m, w) || !sameCalls(m.ToolCalls, w.calls) {
			k.Errorf("message %d is %s %s %q %+v, want %s %s %q %+v", i, m.Role, m.ToolCallID, m.Content, m.ToolCalls, w.role, w.callID, w.text, w.calls)
		}
		if w.from != nil {
			k.auditAnswer(m, w)
		} else if m.Status != "complete" || m.RequestID != "" {
			k.Errorf("message %d, an input, is %s, from request %q", i, m.Status, m.RequestID)
		}
	}
}

func (k *talk) sameText(m kept, w *want) bool {
	have := text(k.T, m.Content)
	if w.partOfText {
		return strings.HasPrefix(have, w.text)
	}
	return have == w.text
}

func sameCalls(have []keptCall, want []toolCall) bool {
	if len(have) != len(want) {
		return false
	}
	for i, c := range have {
		if c.ID != want[i].ID || c.Function.Name != want[i].Name || !sameJSON([]byte(c.Function.Arguments), want[i].Args) {
			return false
		}
	}
	return true
}

func sameJSON(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	ra, _ := json.Marshal(x)
	rb, _ := json.Marshal(y)
	return string(ra) == string(rb)
}

// auditAnswer looks at where an answer says it came from.
func (k *talk) auditAnswer(m kept, w *want) {
	k.Helper()
	a := *w.from
	if m.RequestID != callID(a) || m.Provider != k.provider || m.ModelRequested != k.model() || m.Route == "" || m.Reason == "" || m.Attempts != 1 {
		k.Errorf("message %d says it came from %+v", m.Sequence, m)
	}
	if w.status == "complete" {
		if m.Status != "complete" || m.Incomplete != "" || m.ModelServed == "" || m.Finish == "" {
			k.Errorf("message %d, an answer, is %+v", m.Sequence, m)
		}
	} else if m.Status != "incomplete" || m.Incomplete != w.reason {
		k.Errorf("message %d, an answer cut short, is %s (%s), want incomplete (%s)", m.Sequence, m.Status, m.Incomplete, w.reason)
	}
	k.auditCost(w, m.Usage, m.CostUSD, m.CostStatus)
}
