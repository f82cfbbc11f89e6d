package gateway

import (
	"encoding/json"
	"slices"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/openai"
	routing "threadhub/router"
	"threadhub/threads"
)

// chooseRoute answers POST /api/router/choose with {message, context_size?, thread_id?}: a dry run of "auto", which calls
// nobody. context_size is how many messages the conversation has; with thread_id it is the thread's, and the message.
func (g *Gateway) chooseRoute(x *request) {
	in, err := g.routeInput(x)
	if err != nil {
		x.fail(err)
		return
	}
	c, err := g.choose(x.ctx, x.caller, in)
	if err != nil {
		x.fail(err)
		return
	}
	first := inReach(x.caller, c.Targets)
	if err := inScope(x.caller, first); err != nil {
		x.fail(err)
		return
	}
	fallbacks := []map[string]string{}
	for _, t := range c.Targets[slices.Index(c.Targets, first)+1:] {
		if !reaches(x.caller, t) {
			continue
		}
		fallbacks = append(fallbacks, map[string]string{"provider": t.Provider, "model": t.Model})
	}
	skipped := c.Skipped
	if skipped == nil {
		skipped = []routing.Skipped{}
	}
	x.json(200, map[string]any{
		"provider": first.Provider, "model": first.Model, "reason": c.Route.Reason, "rule": c.Route.ID,
		"fallbacks": fallbacks, "skipped": skipped, "on_unsupported": orNull(onUnsupported(x.caller, c)),
	})
}

func (g *Gateway) routeInput(x *request) (in routing.Input, err error) {
	f := x.fields("message", "context_size", "thread_id")
	message, size, thread := f.text("message"), f.number("context_size"), id.Thread(or(f.text("thread_id")))
	if f.err != nil {
		return in, f.err
	}
	if message == nil {
		return in, fault.New(fault.Invalid, "message is missing: the text to be routed").WithCode("missing_required_parameter").WithParam("message")
	}
	in = routing.Input{Model: routing.Auto, Message: *message, Org: string(x.caller.Org), Hour: time.Now().UTC().Hour(), Messages: 1}
	content, _ := json.Marshal(in.Message)
	asked, err := openai.ParseChat(append(append([]byte(`{"model":"auto","messages":[{"role":"user","content":`), content...), "}]}"...))
	if err != nil {
		return in, err
	}
	if thread != "" {
		if err := g.inThread(x, &in, thread, asked.Messages); err != nil {
			return in, err
		}
	}
	in.Tokens += openai.EstimateTokens(asked.Messages[0].Raw)
	if size != nil {
		if *size < 0 || *size > 1<<30 {
			return in, fault.New(fault.Invalid, "context_size is how many messages the conversation has").WithCode("invalid_value").WithParam("context_size")
		}
		in.Messages = *size
	}
	return in, nil
}

// inThread counts what a thread has before a request.
func (g *Gateway) inThread(x *request, in *routing.Input, thread id.Thread, request []openai.Message) error {
	if !id.ValidThread(string(thread)) {
		return threads.Absent()
	}
	turn, t, err := g.opts.Threads.Turn(x.ctx, x.caller.Org, thread, x.viewer(), request, false)
	if err == nil && t == nil {
		err = threads.Absent()
	}
	if err != nil {
		return err
	}
	in.Messages = turn.NewestSeq() + 1
	in.Tokens, err = turn.HistoryTokens()
	return err
}

// ruleShape is a rule as the API shows it.
type ruleShape struct {
	routing.Rule
	Hits int64 `json:"hits"`
}

// getRules answers GET /api/router/rules: the rules that hold, the org's own or the default ones, and how often each fired.
func (g *Gateway) getRules(x *request) {
	policy, version, own, err := g.policies.of(x.ctx, x.caller.Org)
	hits := map[string]int64{}
	if err == nil && g.opts.Rules != nil {
		hits, err = g.opts.Rules.RouteHits(x.ctx, x.caller.Org)
	}
	if err != nil {
		x.fail(err)
		return
	}
	g.showRules(x, policy, version, own, hits)
}

func (g *Gateway) showRules(x *request, policy *routing.Policy, version int, own bool, hits map[string]int64) {
	rules := make([]ruleShape, 0, len(policy.Rules.Rules))
	for _, r := range policy.Rules.Rules {
		rules = append(rules, ruleShape{r, hits[r.ID]})
	}
	x.json(200, map[string]any{
		"version": version, "default": !own, "rules": rules, "aliases": orEmpty(policy.Rules.Aliases), "words": orEmpty(policy.Rules.Words),
	})
}

func orEmpty(m map[string][]string) map[string][]string {
	if m == nil {
		return map[string][]string{}
	}
	return m
}

// putRules answers PUT /api/router/rules with {rules, aliases?, words?}, in place of those that were. What is wrong with
// them is said with its place, and a condition's line and column; nothing is changed then.
func (g *Gateway) putRules(x *request) {
	body, policy, err := x.rules()
	if err != nil {
		x.fail(err)
		return
	}
	g.saveRules(x, body, policy, true)
}

// deleteRules answers DELETE /api/router/rules: the default rules hold again.
func (g *Gateway) deleteRules(x *request) { g.saveRules(x, nil, g.policies.fallback, false) }

func (g *Gateway) saveRules(x *request, body []byte, policy *routing.Policy, own bool) {
	if g.opts.Rules == nil {
		x.fail(fault.New(fault.Unavailable, "there is no place for rules"))
		return
	}
	version, err := g.opts.Rules.PutRouterRules(x.ctx, x.caller.Org, x.actor(), body)
	if err != nil {
		x.fail(err)
		return
	}
	g.showRules(x, policy, version, own, nil)
}

// rules reads and checks the rules of a body, and returns them as they are stored.
func (x *request) rules() ([]byte, *routing.Policy, error) {
	f := x.fields("rules", "aliases", "words")
	var r routing.Rules
	f.strict("rules", &r.Rules, "a list of rules, each with id, reason, when, targets and perhaps on_unsupported")
	f.strict("aliases", &r.Aliases, "lists of targets by name")
	f.strict("words", &r.Words, "lists of words by name")
	if f.err != nil {
		return nil, nil, f.err
	}
	if len(r.Rules) == 0 {
		return nil, nil, fault.New(fault.Invalid, "rules is missing: a list of at least one rule; DELETE brings the default rules back").
			WithCode("missing_required_parameter").WithParam("rules")
	}
	policy, err := routing.Compile(r)
	if err != nil {
		return nil, nil, err
	}
	body, err := json.Marshal(r)
	return body, policy, err
}
