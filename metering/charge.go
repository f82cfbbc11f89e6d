package metering

import (
	"threadhub/internal/seedbug"
	"threadhub/openai"
)

// Status says where a line's charge comes from.
type Status string

const (
	Reported  Status = "reported"  // the provider said what it charged
	Computed  Status = "computed"  // the provider said what was used, and the catalogue knows the price
	Estimated Status = "estimated" // the provider did not say, or said what cannot be: from bytes
	Unpriced  Status = "unpriced"  // nobody knows the price: nothing is charged
)

// Charge is what one attempt costs, and why.
type Charge struct {
	Tokens
	Cost     PicoUSD  // what is charged
	Computed *PicoUSD // by our catalogue; nil when it has no price
	Provider *PicoUSD // what the provider said; nil when it said nothing credible
	Vendor   *PicoUSD // what of that the vendor behind the provider sends its own bill for; nil when nothing
	Status   Status
	Version  string // of the catalogue
}

// Estimate is what the gateway itself has seen of an attempt: bytes of the text sent, and of the text that came back.
type Estimate struct{ In, Out int64 }

// tokens counts a token for each four bytes, rounded up.
func (e Estimate) tokens() Tokens {
	return Tokens{Input: perFour(e.In), Output: perFour(e.Out)}
}

func perFour(bytes int64) int64 {
	if bytes <= 0 {
		return 0
	}
	return min((bytes-1)/4+1, MaxTokens)
}

// maxReported is the most a provider may say one attempt cost, a million dollars: more is not believed.
const maxReported = PicoUSD(1_000_000 * 1_000_000_000_000)

// Charge says what an attempt costs for which the provider reported u; nil if it reported nothing, or nothing that can
// be, and e stands in.
//
// What the provider says it charged goes before what we compute. OpenRouter, asked with a key of the vendor that the
// org keeps there, charges only its fee, and the vendor sends its bill to the org: that is added to it, and also where
// OpenRouter does not say whose key it was and the vendor's cost is above its own. Zero tokens that a provider reports
// stay zero.
func (c *Catalogue) Charge(provider, model string, u *openai.Usage, e Estimate) Charge {
	charge := Charge{Tokens: e.tokens(), Version: c.version}
	known := false
	if u != nil {
		if t := TokensOf(u); t.Credible() && !seedbug.On("always-estimate") {
			charge.Tokens, known = t, true
		}
		charge.Provider, charge.Vendor = reported(u)
	}
	m, _ := c.Lookup(provider, model)
	if cost, ok := Cost(m, charge.Tokens); ok {
		if seedbug.On("price-off") {
			cost++
		}
		charge.Computed = &cost
	}
	switch {
	case charge.Provider != nil:
		charge.Cost, charge.Status = *charge.Provider, Reported
	case charge.Computed == nil:
		charge.Status = Unpriced
	case known:
		charge.Cost, charge.Status = *charge.Computed, Computed
	default:
		charge.Cost, charge.Status = *charge.Computed, Estimated
	}
	return charge
}

// reported returns what the provider says it charged, and what of that the vendor behind it charges; nil if it did not
// say, or what cannot be.
func reported(u *openai.Usage) (all, vendors *PicoUSD) {
	cost, ok := dollars(u.Cost)
	if !ok {
		return nil, nil
	}
	if vendor, ok := dollars(u.UpstreamCost); ok && vendor > 0 && (u.BYOK || vendor > cost) {
		cost += vendor
		vendors = &vendor
	}
	return &cost, vendors
}

func dollars(text string) (PicoUSD, bool) {
	p, err := ParseUSD(text)
	return p, err == nil && p >= 0 && p <= maxReported
}

// Nothing is the charge of an attempt that produced nothing: refused, or broken off before a byte of an answer. If sent,
// the provider may have worked all the same, and the zero is an estimate.
func (c *Catalogue) Nothing(provider, model string, sent bool) Charge {
	charge := Charge{Status: Computed, Version: c.version}
	m, _ := c.Lookup(provider, model)
	switch {
	case !m.Priced():
		charge.Status = Unpriced
	case sent:
		charge.Status = Estimated
		fallthrough
	default:
		charge.Computed = new(PicoUSD)
	}
	return charge
}
