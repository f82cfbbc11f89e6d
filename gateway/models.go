package gateway

import (
	"maps"
	"slices"
	"strings"

	"threadhub/internal/fault"
	routing "threadhub/router"
)

// Model is a name that may stand in the member "model".
type Model struct {
	ID      string
	OwnedBy string
	Created int64          // Unix seconds
	Target  routing.Target // what it means; empty when the rules say so
}

// modelShape is a model as the OpenAI API shows it.
type modelShape struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func (m Model) shape() modelShape { return modelShape{m.ID, "model", m.Created, m.OwnedBy} }

// models answers GET /v1/models.
func (g *Gateway) models(x *request) {
	all, err := g.callable(x)
	if err != nil {
		x.fail(err)
		return
	}
	data := make([]modelShape, len(all))
	for i, m := range all {
		data[i] = m.shape()
	}
	x.json(200, map[string]any{"object": "list", "data": data})
}

// model answers GET /v1/models/{id}. Ids hold slashes.
func (g *Gateway) model(x *request) {
	all, err := g.callable(x)
	if err != nil {
		x.fail(err)
		return
	}
	for _, m := range all {
		if m.ID == x.param("id") {
			x.json(200, m.shape())
			return
		}
	}
	x.fail(fault.New(fault.NotFound, "the model does not exist, or this org has no key for its provider").
		WithCode("model_not_found").WithParam("model").NoRetry())
}

func (g *Gateway) callable(x *request) ([]Model, error) {
	if g.opts.Models == nil {
		return nil, fault.New(fault.Unavailable, "there is no catalogue")
	}
	concrete, err := g.opts.Models.Models(x.ctx, x.caller)
	if err != nil {
		return nil, err
	}
	policy, _, _, err := g.policies.of(x.ctx, x.caller.Org)
	if err != nil {
		return nil, err
	}
	concrete = slices.DeleteFunc(concrete, func(m Model) bool { return m.Target.Provider != "" && !reaches(x.caller, m.Target) })
	return append(g.chosen(x, policy), concrete...), nil
}

// chosen are the names that stand for a choice: auto, where some rule can be used, and the org's aliases that can.
func (g *Gateway) chosen(x *request, policy *routing.Policy) (list []Model) {
	if g.opts.Router == nil {
		return nil
	}
	names := append([]string{routing.Auto}, slices.Sorted(maps.Keys(policy.Rules.Aliases))...)
	for _, name := range names {
		if strings.Contains(name, "*") {
			continue
		}
		c, err := g.choose(x.ctx, x.caller, routing.Input{Model: name, Org: string(x.caller.Org)})
		if err == nil && reaches(x.caller, inReach(x.caller, c.Targets)) {
			list = append(list, Model{ID: name, OwnedBy: "threadhub"})
		}
	}
	return list
}
