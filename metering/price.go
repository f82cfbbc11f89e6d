package metering

import (
	"math"
	"math/bits"

	"threadhub/openai"
)

// MaxTokens is the most tokens of one class we believe in one attempt. A provider that says more, or less than none, is
// not taken at its word.
const MaxTokens = openai.MaxUsage

// Tokens are the tokens of one attempt in classes that do not overlap; together they are all that was used. Beside them
// stands what else is counted and paid for.
type Tokens struct {
	Input       int64 // read, and of none of the next classes
	Cached      int64 // read from the provider's cache
	CacheWrite  int64 // read, and written to the provider's cache
	AudioInput  int64 // heard
	ToolInput   int64 // read of what the provider's own tools found
	Output      int64 // written, and of none of the next classes
	Reasoning   int64 // thought, and not shown
	AudioOutput int64 // spoken
	ImageOutput int64 // drawn

	Searches int64 // of the web: no tokens
}

// TokensOf are those that a provider reported.
func TokensOf(u *openai.Usage) Tokens {
	return Tokens{
		Input: u.Input, Cached: u.Cached, CacheWrite: u.CacheWrite, AudioInput: u.AudioInput, ToolInput: u.ToolInput,
		Output: u.Output, Reasoning: u.Reasoning, AudioOutput: u.AudioOutput, ImageOutput: u.ImageOutput, Searches: u.Searches,
	}
}

// Usage is t as the API shows it.
func (t Tokens) Usage() *openai.Usage {
	u := &openai.Usage{
		Input: t.Input, Cached: t.Cached, CacheWrite: t.CacheWrite, AudioInput: t.AudioInput, ToolInput: t.ToolInput,
		Output: t.Output, Reasoning: t.Reasoning, AudioOutput: t.AudioOutput, ImageOutput: t.ImageOutput, Searches: t.Searches,
	}
	u.Total = u.Sum()
	return u
}

// Minus is what is left of t without o, class by class; it may be less than nothing.
func (t Tokens) Minus(o Tokens) Tokens {
	return Tokens{
		Input: t.Input - o.Input, Cached: t.Cached - o.Cached, CacheWrite: t.CacheWrite - o.CacheWrite,
		AudioInput: t.AudioInput - o.AudioInput, ToolInput: t.ToolInput - o.ToolInput,
		Output: t.Output - o.Output, Reasoning: t.Reasoning - o.Reasoning,
		AudioOutput: t.AudioOutput - o.AudioOutput, ImageOutput: t.ImageOutput - o.ImageOutput, Searches: t.Searches - o.Searches,
	}
}

// Prompt is all that was read: what a long-context price looks at.
func (t Tokens) Prompt() int64 { return t.Input + t.Cached + t.CacheWrite + t.AudioInput + t.ToolInput }

// wrote reports whether there is anything that only a price for output can price.
func (t Tokens) wrote() bool {
	return t.Output > 0 || t.Reasoning > 0 || t.AudioOutput > 0 || t.ImageOutput > 0
}

// Credible reports whether every class is between 0 and MaxTokens.
func (t Tokens) Credible() bool {
	for _, n := range [...]int64{
		t.Input, t.Cached, t.CacheWrite, t.AudioInput, t.ToolInput, t.Output, t.Reasoning, t.AudioOutput, t.ImageOutput, t.Searches,
	} {
		if n < 0 || n > MaxTokens {
			return false
		}
	}
	return true
}

// Cost returns what one attempt at m costs, exactly: each class at its price, and the fees of a call and of its searches.
// Not ok when m has no price for a class that was used, or when t is not credible.
func Cost(m Model, t Tokens) (cost PicoUSD, ok bool) {
	if !t.Credible() {
		return 0, false
	}
	p := m.Prices
	if m.LongAbove > 0 && t.Prompt() > m.LongAbove {
		p = m.Long
	}
	if !p.known || !p.output && t.wrote() {
		return 0, false
	}
	searched := min(t.Searches, 1)
	return total(m.Request,
		item{p.Input, t.Input}, item{p.Cached, t.Cached}, item{p.CacheWrite, t.CacheWrite}, item{p.AudioInput, t.AudioInput}, item{p.Input, t.ToolInput},
		item{p.Output, t.Output}, item{p.Reasoning, t.Reasoning}, item{p.AudioOutput, t.AudioOutput}, item{p.ImageOutput, t.ImageOutput},
		item{m.Search, t.Searches}, item{m.Searched, searched})
}

// Hold returns the most a call of m can cost: no more input tokens than bytes, and for each of n choices maxTokens, or
// without a limit (0) the model's own. Fees of searches are not in it: nobody says how many there will be. What a caller
// asks beyond MaxTokens or n beyond 128 counts as that much. One choice may take up to requests of the model, if that is
// more than one: the model's own limit is each one's, and each reads again what was read and written before it. Not ok,
// and nothing, when m has no price or no known size.
func Hold(m Model, inputBytes, maxTokens int64, n, requests int) (PicoUSD, bool) {
	if !m.Priced() {
		return 0, false
	}
	in := min(max(inputBytes, 0), MaxTokens)
	if m.Window > 0 {
		in = min(in, m.Window)
	}
	p := m.Prices
	if m.LongAbove > 0 && in > m.LongAbove {
		p = m.Long
	}
	more := int64(min(max(requests, 1), 128)) - 1 // requests after the first
	if n > 1 || m.MaxOutput <= 0 || !p.output {
		more = 0
	}
	var out int64
	if p.output {
		switch {
		case maxTokens > 0:
			out = min(maxTokens, MaxTokens)
		case m.MaxOutput > 0:
			out = m.MaxOutput * (more + 1)
		case m.Window > 0:
			out = m.Window
		default:
			return 0, false
		}
		out *= int64(min(max(n, 1), 128)) // 128 is the API's own bound
	}
	read := in
	if more > 0 {
		more = min(more, (out-1)/m.MaxOutput)
		read += more*in + m.MaxOutput*more*(more+1)/2
	}
	return total(m.Request, item{max(p.Input, p.Cached, p.CacheWrite, p.AudioInput), read},
		item{max(p.Output, p.Reasoning, p.AudioOutput, p.ImageOutput), out})
}

// HoldEmbeddings is Hold for a call that embeds: each of its inputs may fill the window, and nothing is written.
func HoldEmbeddings(m Model, inputBytes int64, inputs int) (PicoUSD, bool) {
	m.Window = min(m.Window, MaxTokens) * int64(min(max(inputs, 1), openai.MaxInputs))
	m.Prices.output, m.Long.output = false, false
	return Hold(m, inputBytes, 1, 1, 1)
}

type item struct {
	price  PicoUSD
	tokens int64
}

// total adds fee and each price × tokens; not ok if that leaves the range of a PicoUSD. Nothing in it is negative.
func total(fee PicoUSD, items ...item) (PicoUSD, bool) {
	sum := uint64(fee)
	for _, it := range items {
		high, low := bits.Mul64(uint64(it.price), uint64(it.tokens))
		var carry uint64
		sum, carry = bits.Add64(sum, low, 0)
		if high != 0 || carry != 0 {
			return 0, false
		}
	}
	if sum > math.MaxInt64 {
		return 0, false
	}
	return PicoUSD(sum), true
}
