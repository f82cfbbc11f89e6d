package gateway

import (
	"maps"
	"slices"
	"strings"

	"threadhub/internal/fault"
	routing "threadhub/router"
	"threadhub/upstreams"
)

// Model is a name that may stand in the member "model".
type Model struct {
	ID      string
	OwnedBy string
	Target  routing.Target  // what it means; empty when the rules say so
	About   upstreams.Model // what is known of the target
}

// modelShape is a model as the OpenAI API shows it, and beside that what is known of it. What nobody tells is not there.
type modelShape struct {
	ID            string           `json:"id"`
	Object        string           `json:"object"`
	Created       int64            `json:"created"`
	OwnedBy       string           `json:"owned_by"`
	ShutdownDate  string           `json:"shutdown_date,omitempty"`
	ContextLength int64            `json:"context_length,omitempty"`
	Capabilities  *capabilityShape `json:"capabilities,omitempty"`
}

type capabilityShape struct {
	Chat             *bool    `json:"chat,omitempty"`
	Embeddings       *bool    `json:"embeddings,omitempty"`
	Tools            *bool    `json:"tools,omitempty"`
	Reasoning        *bool    `json:"reasoning,omitempty"`
	InputModalities  []string `json:"input_modalities,omitempty"`
	OutputModalities []string `json:"output_modalities,omitempty"`
	MaxOutputTokens  int64    `json:"max_output_tokens,omitempty"`
}

func (m Model) shape() modelShape {
	a := m.About
	s := modelShape{ID: m.ID, Object: "model", Created: a.Created, OwnedBy: m.OwnedBy, ShutdownDate: a.Shutdown, ContextLength: a.Window}
	if a.Chat != nil || a.Embeddings != nil || a.Tools != nil || a.Reasoning != nil || len(a.Input)+len(a.Output) > 0 || a.MaxOutput > 0 {
		s.Capabilities = &capabilityShape{a.Chat, a.Embeddings, a.Tools, a.Reasoning, a.Input, a.Output, a.MaxOutput}
	}
	return s
}

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

// callable are the names that the caller can ask for: auto, the org's aliases, and models. What each of them means is what
// a request that names it gets.
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
	about := map[routing.Target]upstreams.Model{}
	for _, m := range concrete {
		about[m.Target] = m.About
	}
	list := g.chosen(x, policy, about)
	for _, m := range concrete {
		switch {
		case m.Target.Provider == "": // it stands for a choice
			list = append(list, m)
		case policy.Rules.Aliases[m.ID] != nil: // it is there as an alias
		case policy.Aliases(m.ID): // a pattern of the org's takes it elsewhere
			list = append(list, g.choice(x, m.ID, about)...)
		case reaches(x.caller, m.Target):
			list = append(list, m)
		}
	}
	return list, nil
}

// chosen are the names that stand for a choice: auto, where some rule can be used, and the org's aliases that can.
func (g *Gateway) chosen(x *request, policy *routing.Policy, about map[routing.Target]upstreams.Model) (list []Model) {
	if g.opts.Router == nil {
		return nil
	}
	for _, m := range g.choice(x, routing.Auto, nil) {
		list = append(list, Model{ID: m.ID, OwnedBy: m.OwnedBy}) // what it means depends on what is asked
	}
	for _, name := range slices.Sorted(maps.Keys(policy.Rules.Aliases)) {
		if !strings.Contains(name, "*") {
			list = append(list, g.choice(x, name, about)...)
		}
	}
	return list
}

// choice is a name that stands for a choice, and what it comes to; nothing if that is nothing the caller can use.
func (g *Gateway) choice(x *request, name string, about map[routing.Target]upstreams.Model) []Model {
	c, err := g.choose(x.ctx, x.caller, routing.Input{Model: name, Org: string(x.caller.Org)})
	if err != nil {
		return nil
	}
	t := inReach(x.caller, c.Targets)
	if !reaches(x.caller, t) {
		return nil
	}
	return []Model{{ID: name, OwnedBy: "threadhub", Target: t, About: about[t]}}
}
