package metering

import (
	"math"
	"strings"
)

// Ask is what of a request bounds its cost.
type Ask struct {
	Bytes     int64 // of all that is sent
	MaxTokens int64 // of the answer; 0: the model's own limit
	N         int   // answers
	Requests  int   // of the model, for one answer
	Inputs    int   // of embeddings; 0: it is a chat
	Images    int   // it shows, or points to
	Fills     bool  // it may read as much as fits: files, or what a search finds
	Searches  bool  // the provider may search the web for it
}

const (
	// mostSearches is how many searches of the web one answer is taken to make at most. No provider says how many it makes.
	mostSearches = 30

	// imageTokens is more than any picture takes: 48,169 tokens, of the model that counts highest (OpenAI, images and vision:
	// 2,833 tokens and 5,667 for each of eight tiles).
	imageTokens = 50_000

	// usualWindow is that of models of which nobody says how large it is.
	usualWindow = 128_000
)

// Worst is the most that m can cost for what is asked, as far as its provider states a bound: never nothing, and the
// largest amount there is where it cannot be reckoned. m must have prices.
func Worst(m Model, a Ask) PicoUSD {
	if m.Window <= 0 && (m.MaxOutput <= 0 && a.MaxTokens <= 0 || a.Fills) {
		m.Window = usualWindow
	}
	bytes := a.Bytes + int64(a.Images)*imageTokens
	if a.Fills {
		bytes = m.Window
	}
	var cost PicoUSD
	var ok bool
	if a.Inputs > 0 {
		cost, ok = HoldEmbeddings(m, bytes, a.Inputs)
	} else {
		cost, ok = Hold(m, bytes, a.MaxTokens, a.N, a.Requests)
	}
	if !ok {
		return math.MaxInt64
	}
	cost, ok = total(cost, item{m.dearestGrade() - m.Request, 1})
	if ok && a.Searches {
		cost, ok = total(cost, item{m.dearestSearch(), mostSearches}, item{m.Searched, 1})
	}
	if ok && m.Provider == "openrouter" { // its own fee, of 5 %, where the vendor's key is the org's
		cost, ok = total(cost, item{cost/20 + 1, 1})
	}
	if !ok {
		return math.MaxInt64
	}
	return max(1, cost)
}

// dearestGrade is the highest fee of a request: usage does not tell a higher grade, but the provider charges it.
func (m Model) dearestGrade() PicoUSD {
	fee := m.Request
	for name, f := range m.Fees {
		if strings.HasPrefix(name, "request_") {
			fee = max(fee, f)
		}
	}
	return fee
}

func (m Model) dearestSearch() PicoUSD {
	fee := m.Search
	for name, f := range m.Fees {
		if !strings.HasPrefix(name, "request_") {
			fee = max(fee, f)
		}
	}
	return fee
}

// Fallback is what models cost that have no price, as far as hard budgets go: pico-dollars per token.
type Fallback struct{ Input, Output PicoUSD }

// Unpriced is a model without a price as Fallback has it, with a window as the operator gives it; 0: a usual one.
func (f Fallback) Unpriced(provider, id string, window int64) Model {
	p := Prices{
		known: true, output: true, Input: f.Input, Cached: f.Input, CacheWrite: f.Input, AudioInput: f.Input,
		Output: f.Output, Reasoning: f.Output, AudioOutput: f.Output, ImageOutput: f.Output,
	}
	return Model{Provider: provider, ID: id, Window: window, Prices: p}
}

// Price puts a price on a charge for which nobody has one: an estimate, which budgets can count.
func (f Fallback) Price(c Charge) Charge {
	if c.Status != Unpriced {
		return c
	}
	cost, ok := Cost(f.Unpriced("", "", 0), c.Tokens)
	if !ok {
		return c
	}
	c.Cost, c.Computed, c.Status = cost, &cost, Estimated
	c.Version += ".fallback"
	return c
}
