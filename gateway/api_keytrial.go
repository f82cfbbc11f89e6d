package gateway

import (
	"context"
	"slices"
	"strings"
	"time"

	"threadhub/internal/fault"
	"threadhub/orgs"
	"threadhub/upstreams"
)

// trialsPerMinute is how often an org may try out provider keys: enough for a person, too few to guess keys by.
const trialsPerMinute = 10

// trialShape is what came of trying out a provider key.
type trialShape struct {
	Success bool         `json:"success"`
	Message string       `json:"message"`
	Details trialDetails `json:"details"`
}

type trialDetails struct {
	Provider string  `json:"provider"`
	Name     *string `json:"name"`       // null: the key is not kept
	Status   *int    `json:"status"`     // the provider's; null: it did not answer
	Latency  *int64  `json:"latency_ms"` // null: it was not asked
	Models   *int    `json:"models"`     // null: it does not tell
}

// tryProvider answers POST /api/orgs/{org}/providers/test with {"provider", "name"?, "api_key"?}: it shows the provider
// the given key, or the one that is kept. A key that is no good is no error of the request.
func (g *Gateway) tryProvider(x *request) {
	shape, err := g.trial(x)
	x.reply(200, shape, err)
}

func (g *Gateway) trial(x *request) (*trialShape, error) {
	spec, err := g.trialSpec(x)
	if err != nil {
		return nil, err
	}
	tester, ok := g.opts.Upstreams[spec.Provider].(upstreams.Tester)
	if !ok {
		return &trialShape{
			Message: "this gateway cannot ask " + spec.Provider + " yet", Details: trialDetails{Provider: spec.Provider, Name: orNull(spec.Name)},
		}, nil
	}
	if wait, ok := g.trials.take(x.caller.Org); !ok {
		return nil, fault.New(fault.RateLimited, "keys may be tried out %d times a minute", trialsPerMinute).WithCode("rate_limit_exceeded").After(wait)
	}
	key, err := g.opts.ProviderKeys.TryProviderKey(x.ctx, x.caller.Org, x.actor(), spec.Provider, spec.Name, spec.Key)
	if err != nil {
		return nil, err
	}
	shape, err := try(x.ctx, tester, key)
	if err != nil {
		return nil, err
	}
	x.note("provider", key.Provider)
	x.note("success", shape.Success)
	if shape.Success {
		err = g.opts.ProviderKeys.ProviderKeyPassed(x.ctx, x.caller.Org, key)
	}
	return shape, err
}

// trialSpec reads what is to be tried. It has no key if that is to be the org's own.
func (g *Gateway) trialSpec(x *request) (spec orgs.ProviderKeySpec, err error) {
	if _, err := g.providerKeys(x); err != nil { // before the body: see setProvider
		return spec, err
	}
	f := x.fields("provider", "name", "api_key")
	spec.Provider = or(f.text("provider"))
	if !slices.Contains(providers, spec.Provider) {
		f.fail(fault.New(fault.Invalid, "provider is one of %s", strings.Join(providers, ", ")).WithCode("provider_not_found").WithParam("provider"))
	}
	spec.Name = f.keyName()
	if f.given("api_key") {
		spec.Key = f.key()
	}
	return spec, f.err
}

// try shows the provider a key. Errors: what is not the provider's word on the key.
func try(ctx context.Context, tester upstreams.Tester, key orgs.KeyOnTrial) (*trialShape, error) {
	began := time.Now()
	proof, err := tester.Test(ctx, key.Key)
	took := time.Since(began).Milliseconds()
	shape := &trialShape{Details: trialDetails{Provider: key.Provider, Name: orNull(key.Name), Latency: &took}}
	if err != nil {
		f := fault.From(err)
		if f.Kind == fault.Internal || ctx.Err() != nil {
			return nil, err
		}
		shape.Message = scrub(f.Message)
		shape.Details.Status = orNull(upstreams.FailureOf(err).Status)
		return shape, nil
	}
	shape.Success, shape.Message, shape.Details.Status = true, key.Provider+" takes the key", orNull(proof.Status)
	if proof.Narrow {
		shape.Message += ", which may not do all: the models are kept from it"
	}
	if proof.Models >= 0 {
		shape.Details.Models = &proof.Models
	}
	return shape, nil
}
