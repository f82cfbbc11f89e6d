package gateway

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/id"
	"threadhub/openai"
	"threadhub/orgs"
	routing "threadhub/router"
)

// policies are the orgs' rules, compiled once for each version of them.
type policies struct {
	book RuleBook
	log  *slog.Logger

	mu       sync.Mutex
	fallback *routing.Policy
	compiled map[id.Org]versioned
}

type versioned struct {
	version int
	policy  *routing.Policy
}

// maxPolicies bounds how many are kept; beyond that all are compiled anew.
const maxPolicies = 4096

func newPolicies(book RuleBook, log *slog.Logger) *policies {
	p, err := routing.DefaultPolicy()
	if err != nil {
		panic(err) // they are part of the program, and a test compiles them
	}
	return &policies{book: book, log: log, fallback: p, compiled: map[id.Org]versioned{}}
}

// of returns the org's policy and the version of its rules; the default one and its own version where it has none.
func (p *policies) of(ctx context.Context, org id.Org) (policy *routing.Policy, version int, own bool, err error) {
	if p.book == nil {
		return p.fallback, 0, false, nil
	}
	rules, err := p.book.RouterRules(ctx, org)
	if err != nil {
		return nil, 0, false, err
	}
	if len(rules.Body) == 0 {
		return p.fallback, rules.Version, false, nil
	}
	p.mu.Lock()
	c, ok := p.compiled[org]
	p.mu.Unlock()
	if ok && c.version == rules.Version {
		return c.policy, rules.Version, true, nil
	}
	var written routing.Rules
	if err = json.Unmarshal(rules.Body, &written); err == nil {
		policy, err = routing.Compile(written)
	}
	if err != nil { // they were checked when they were saved, by another version of this program
		p.log.Error("an org's router rules are not understood any more; the default rules stand in", "org", org, "version", rules.Version, "error", err)
		policy = p.fallback
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.compiled) >= maxPolicies {
		clear(p.compiled)
	}
	p.compiled[org] = versioned{rules.Version, policy}
	return policy, rules.Version, true, nil
}

// choose says which targets a request is for. A provider that the caller's key is not good for counts as one without a key.
func (g *Gateway) choose(ctx context.Context, caller orgs.Caller, in routing.Input) (routing.Choice, error) {
	keys, err := g.opts.Purse.HasProviderKey(ctx, caller.Org)
	if err != nil {
		return routing.Choice{}, err
	}
	policy, _, _, err := g.policies.of(ctx, caller.Org)
	if err != nil {
		return routing.Choice{}, err
	}
	return g.opts.Router.Choose(policy, in, func(provider string) bool {
		return keys[provider] && (in.Model != routing.Auto || mayUse(caller, provider))
	})
}

// countRoute counts a rule that routed a call.
func (g *Gateway) countRoute(e *exchange) {
	if g.opts.Rules != nil && e.sent().Model == routing.Auto {
		g.opts.Rules.CountRoute(e.caller.Org, e.route.ID)
	}
}

// question is the request as rules look at it.
func (e *exchange) question(now time.Time) (in routing.Input, err error) {
	in = routing.Input{Model: e.req.Model, Org: string(e.caller.Org), Hour: now.UTC().Hour(), Tools: e.req.HasTools, Images: e.req.Images}
	if in.Model != routing.Auto {
		return in, nil
	}
	in.Headers, in.Tags = e.heads, e.tags
	if f := gjson.GetBytes(e.req.Raw, "response_format.type"); e.req.HasResponseFormat {
		in.ResponseFormat = f.Str
	}
	in.Messages = len(e.req.Messages)
	if e.turn != nil {
		in.Messages = e.turn.NewestSeq() + 1
		if in.Tokens, err = e.turn.HistoryTokens(); err != nil {
			return in, err
		}
	}
	for i := range e.req.Messages {
		in.Tokens += openai.EstimateTokens(e.req.Messages[i].Raw)
	}
	for i := len(e.req.Messages) - 1; i >= 0; i-- {
		if e.req.Messages[i].Role == "user" {
			in.Message = e.req.Messages[i].Text()
			break
		}
	}
	return in, nil
}

// credentials are headers that no rule may see.
var credentials = map[string]bool{"authorization": true, "x-api-key": true, "api-key": true, "cookie": true, "proxy-authorization": true}

const tagPrefix = "x-threadhub-tag-"

// about reads what rules may ask for beside the body: headers, and tags, which are the metadata of the body too.
func (x *request) about(e *exchange) {
	if e.req.Model != routing.Auto {
		return
	}
	e.heads, e.tags = map[string]string{}, map[string]string{}
	gjson.GetBytes(e.req.Raw, "metadata").ForEach(func(name, value gjson.Result) bool {
		if value.Type == gjson.String {
			e.tags[name.Str] = value.Str
		}
		return true
	})
	for name, value := range x.rc.Request.Header.All() {
		n := strings.ToLower(string(name))
		if tag, ok := strings.CutPrefix(n, tagPrefix); ok {
			e.tags[tag] = string(value)
		} else if !credentials[n] {
			e.heads[n] = string(value)
		}
	}
}
