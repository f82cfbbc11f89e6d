package histories

import (
	"fmt"
	"slices"
	"sync"

	"threadhub/openai"
	"threadhub/simulator"
	"threadhub/upstreams"
	"threadhub/upstreams/gemini"
	chat "threadhub/upstreams/openai"
	"threadhub/upstreams/openrouter"
	"threadhub/upstreams/perplexity"
)

// Outcome is what became of a conversation on its way.
type Outcome struct {
	Path     string // where it was sent, below the provider's base
	Body     []byte // what was sent
	Warnings []string
	Err      error              // it was refused before it was sent
	Refusal  *simulator.Refusal // the provider refused it
}

// Way takes a conversation to its target.
type Way func(*Conversation) Outcome

// Straight is the way of the gateway: the history, the client's bytes around it, the provider's words, the provider.
func Straight(c *Conversation) Outcome {
	return Detour{}.Go(c)
}

// Detour is that way with something done wrong: what is set is done instead.
type Detour struct {
	Kinship func(by, to Target) openai.Kinship
	History func(told []openai.Told, next []openai.Message, parts map[string][]string) ([][]byte, []string)
	Takes   func(to Target, name string, v []byte) bool
	Sent    func(c *Conversation, body []byte) []byte // puts its hand to what is sent
	Warned  func([]string) []string
}

// upstream are the upstreams by target. They are never closed: they connect to nothing.
var upstream = sync.OnceValue(func() func(Target) *upstreams.Client {
	list := map[string]*upstreams.Client{}
	for name, build := range map[string]func(upstreams.Options) (*upstreams.Client, error){
		"openai": chat.New, "openrouter": openrouter.New, "gemini": gemini.New, "perplexity": perplexity.New,
		"older": func(o upstreams.Options) (*upstreams.Client, error) {
			o.API = perplexity.Sonar
			return perplexity.New(o)
		},
	} {
		u, err := build(upstreams.Options{})
		if err != nil {
			panic(err)
		}
		list[name] = u
	}
	return func(t Target) *upstreams.Client {
		if t.Older {
			return list["older"]
		}
		return list[t.Provider]
	}
})

// kinship is the gateway's.
func kinship(by, to Target) openai.Kinship {
	u := upstream()(to)
	switch {
	case by.Provider != to.Provider:
		return openai.Foreign
	case u.Family(by.Model) != u.Family(to.Model):
		return openai.Relative
	}
	return openai.Own
}

// Go takes the conversation to its target.
func (d Detour) Go(c *Conversation) (o Outcome) {
	if d.Kinship == nil {
		d.Kinship = kinship
	}
	if d.History == nil {
		d.History = openai.History
	}
	u := upstream()(c.To)
	r, err := openai.ParseChat(c.Body())
	if err != nil {
		return Outcome{Err: fmt.Errorf("no request: %w", err)}
	}
	edits := openai.Edits{Model: c.To.Model, IncludeUsage: r.Stream}
	if c.Thread {
		edits.History, o.Warnings = d.History(d.told(c), r.Messages, u.Parts())
		for edits.At < len(r.Messages) && (r.Messages[edits.At].Role == "system" || r.Messages[edits.At].Role == "developer") {
			edits.At++
		}
	}
	if d.Takes == nil {
		d.Takes = func(to Target, name string, v []byte) bool { return u.Takes(to.Model, name, v) }
	}
	for _, name := range r.Shed(&edits, func(_ int, name string, v []byte) bool { return d.Takes(c.To, name, v) }) {
		o.Warnings = append(o.Warnings, "dropped=messages."+name+";reason=other_model")
	}
	ask := &upstreams.Request{Body: r.Splice(edits), Model: c.To.Model, Stream: r.Stream}
	if o.Err = u.Translate(ask); o.Err != nil {
		return o
	}
	o.Warnings = append(o.Warnings, ask.Warnings...)
	if d.Warned != nil {
		o.Warnings = d.Warned(o.Warnings)
	}
	o.Path, o.Body = ask.Wire()
	if d.Sent != nil {
		o.Body = d.Sent(c, slices.Clone(o.Body))
	}
	o.Refusal = simulator.Check(c.To.Provider, o.Path, o.Body)
	return o
}

// told is the thread as the gateway gives it to openai.History: a client's message is kin to who gave the next answer.
func (d Detour) told(c *Conversation) []openai.Told {
	told := make([]openai.Told, len(c.Told))
	took := openai.Foreign
	for i, m := range slices.Backward(c.Told) {
		told[i] = openai.Told{Raw: []byte(m.Raw), Role: m.Role, Kin: took, Cut: m.Cut}
		switch {
		case m.Answer:
			took = d.Kinship(m.By, c.To)
			told[i].Kin = took
		case m.Role != "user" && m.Role != "tool":
			told[i].Kin = openai.Foreign
		}
	}
	return told
}
