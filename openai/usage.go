package openai

import (
	"strconv"

	"threadhub/internal/fault"
)

// MaxUsage is the largest believable count of tokens. A provider that reports more is estimated instead.
const MaxUsage = 100_000_000

// Usage is what an answer took, in tokens. The five classes are disjoint: together they are what the provider called
// prompt plus completion tokens.
type Usage struct {
	Input      int64 // prompt tokens neither read from nor written to a cache
	Cached     int64 // prompt tokens read from a cache
	CacheWrite int64 // prompt tokens written to a cache
	Output     int64 // completion tokens that are no reasoning
	Reasoning  int64
	Total      int64 // the provider's own total, which may differ from the sum; the sum if it gave none

	Cost         string // what the provider says it charged, a decimal number of dollars as sent; "" if it did not say
	UpstreamCost string // OpenRouter: what the vendor behind it charges, likewise
}

// Sum returns the tokens of all classes.
func (u *Usage) Sum() int64 { return u.Input + u.Cached + u.CacheWrite + u.Output + u.Reasoning }

// ParseUsage reads a usage object, valid JSON. It returns nil for what is absent: null, and an object that counts neither
// prompt nor completion. A count of 0 is 0. Details that exceed what they are details of are cut to it. Errors are
// fault.Upstream, code upstream_protocol: a count that is not an integer from 0 to MaxUsage, or a cost that is none; the
// caller estimates then.
func ParseUsage(raw []byte) (*Usage, error) {
	s := scanner{b: raw}
	s.space()
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	at := s.value()
	s.finish()
	if s.failed() || !isObject(at.of(raw)) {
		return nil, badUsage("usage")
	}
	var r usageReader
	walk(raw, func(m Member) {
		v := m.Value.of(raw)
		switch string(m.Name) {
		case "prompt_tokens":
			r.count(&r.prompt, v)
		case "completion_tokens":
			r.count(&r.completion, v)
		case "total_tokens":
			r.count(&r.total, v)
		case "prompt_tokens_details":
			walk(v, func(m Member) {
				switch string(m.Name) {
				case "cached_tokens":
					r.count(&r.cached, m.Value.of(v))
				case "cache_write_tokens":
					r.count(&r.write, m.Value.of(v))
				}
			})
		case "completion_tokens_details":
			walk(v, func(m Member) {
				if string(m.Name) == "reasoning_tokens" {
					r.count(&r.reasoning, m.Value.of(v))
				}
			})
		case "cost":
			r.cost(&r.u.Cost, v)
		case "cost_details":
			walk(v, func(m Member) {
				if string(m.Name) == "upstream_inference_cost" {
					r.cost(&r.u.UpstreamCost, m.Value.of(v))
				}
			})
		}
	})
	if r.bad != "" {
		return nil, badUsage(r.bad)
	}
	if !r.prompt.given && !r.completion.given {
		return nil, nil
	}
	u := r.u
	u.Cached = min(r.cached.n, r.prompt.n)
	u.CacheWrite = min(r.write.n, r.prompt.n-u.Cached)
	u.Input = r.prompt.n - u.Cached - u.CacheWrite
	u.Reasoning = min(r.reasoning.n, r.completion.n)
	u.Output = r.completion.n - u.Reasoning
	if u.Total = r.total.n; !r.total.given {
		u.Total = u.Sum()
	}
	return &u, nil
}

func badUsage(what string) error {
	return fault.New(fault.Upstream, "the provider reported a usage that cannot be: %s", what).WithCode("upstream_protocol")
}

// count is a number that may not be there.
type count struct {
	n     int64
	given bool
}

type usageReader struct {
	prompt, completion, total, cached, write, reasoning count
	u                                                   Usage
	bad                                                 string // the value that cannot be
}

func (r *usageReader) count(c *count, v []byte) {
	if isNull(v) {
		return
	}
	n, ok := whole(v)
	if !ok || n < 0 || n > MaxUsage {
		r.bad = Scrub(clip(string(v)))
		return
	}
	*c = count{n, true}
}

// cost takes a number, or a string that holds one. Perplexity gives an object, with the total in it.
func (r *usageReader) cost(to *string, v []byte) {
	const limit, believable = 64, 1e6
	if isObject(v) {
		total, _ := find(v, "total_cost")
		v = total.Value.of(v)
	}
	if len(v) == 0 || isNull(v) {
		return
	}
	if isString(v) {
		v = body(v)
	}
	s := scanner{b: v}
	s.number()
	s.finish()
	f, err := strconv.ParseFloat(string(v), 64)
	if s.failed() || err != nil || f < 0 || f > believable || len(v) > limit {
		r.bad = Scrub(clip(string(v)))
		return
	}
	*to = string(v)
}

// AppendUsage appends u as the API shows it.
func AppendUsage(dst []byte, u *Usage) []byte {
	n := func(name string, n int64) {
		dst = strconv.AppendInt(append(dst, name...), n, 10)
	}
	n(`{"prompt_tokens":`, u.Input+u.Cached+u.CacheWrite)
	n(`,"completion_tokens":`, u.Output+u.Reasoning)
	n(`,"total_tokens":`, u.Total)
	n(`,"prompt_tokens_details":{"cached_tokens":`, u.Cached)
	n(`,"cache_write_tokens":`, u.CacheWrite)
	n(`},"completion_tokens_details":{"reasoning_tokens":`, u.Reasoning)
	return append(dst, `}}`...)
}

// AppendUsageCost returns payload with what the answer cost put into its usage object, which is at span: `cost_usd`, a
// string of dollars, or null if costUSD is "", and `cost_status`. Members of these names that were there are replaced.
// An empty span changes nothing. The result is always new memory.
func AppendUsageCost(payload []byte, span [2]int, costUSD, status string) []byte {
	at := Span(span)
	if at.empty() || at[0] < 0 || at[0] > at[1] || at[1] > len(payload) {
		return append([]byte(nil), payload...)
	}
	usage := at.of(payload)
	var items []Span
	var gone []bool
	kept := 0
	walk(usage, func(m Member) {
		drop := string(m.Name) == "cost_usd" || string(m.Name) == "cost_status"
		items = append(items, Span{m.Key[0], m.Value[1]})
		gone = append(gone, drop)
		if !drop {
			kept++
		}
	})
	var room [2]edit
	edits := removeItems(room[:0], len(items), func(i int) (Span, bool) { return items[i], gone[i] })

	out := make([]byte, 0, len(payload)+len(costUSD)+len(status)+40)
	out = append(out, payload[:at[0]]...)
	from := 0
	end := len(usage) - 1 // before the closing brace
	for _, e := range edits {
		out = append(out, usage[from:e.at[0]]...)
		from = e.at[1]
	}
	out = append(out, usage[from:end]...)
	if kept > 0 {
		out = append(out, ',')
	}
	out = append(out, `"cost_usd":`...)
	if costUSD == "" {
		out = append(out, "null"...)
	} else {
		out = appendString(out, costUSD)
	}
	out = appendString(append(out, `,"cost_status":`...), status)
	out = append(out, '}')
	return append(out, payload[at[1]:]...)
}
