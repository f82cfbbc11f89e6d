package openai

import (
	"strconv"

	"threadhub/internal/fault"
)

// MaxUsage is the largest believable count of tokens. A provider that reports more is estimated instead.
const MaxUsage = 100_000_000

// Usage is what an answer took, in tokens. The classes are disjoint: together they are what the provider called prompt
// plus completion tokens.
type Usage struct {
	Input       int64 // prompt tokens of none of the next classes: text, and what is counted as text
	Cached      int64 // prompt tokens read from a cache
	CacheWrite  int64 // prompt tokens written to a cache
	AudioInput  int64 // prompt tokens of sound, not from a cache
	ToolInput   int64 // what the provider's own tools found and the model read (Gemini, Sonar)
	Output      int64 // completion tokens of none of the next classes
	Reasoning   int64
	AudioOutput int64
	ImageOutput int64 // of pictures the model drew
	Total       int64 // the provider's own total, which may differ from the sum; the sum if it gave none

	Searches int64 // of the web: no tokens, but paid for

	Cost         string // what the provider says it charged, a decimal number of dollars as sent; "" if it did not say
	UpstreamCost string // OpenRouter: what the vendor behind it charges, likewise
	BYOK         bool   // OpenRouter: the vendor charges the org itself, and Cost is without that
}

// Sum returns the tokens of all classes.
func (u *Usage) Sum() int64 { return u.prompt() + u.completion() }

func (u *Usage) prompt() int64 { return u.Input + u.Cached + u.CacheWrite + u.AudioInput + u.ToolInput }

func (u *Usage) completion() int64 { return u.Output + u.Reasoning + u.AudioOutput + u.ImageOutput }

// ParseUsage reads a usage object, valid JSON. It returns nil for what is absent: null, and an object that counts neither
// prompt nor completion. A count of 0 is 0. Details that exceed what they are details of are cut to it. Reasoning that a
// provider counts beside the completion (xAI; Gemini's compatible endpoint, which shows it in the total alone) is added to
// it. Errors are fault.Upstream, code upstream_protocol: a count that is not an integer from 0 to MaxUsage, or a cost that
// is none; the caller estimates then.
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
	walk(raw, func(m Member) { r.member(string(m.Name), m.Value.of(raw)) })
	if r.bad != "" {
		return nil, badUsage(r.bad)
	}
	if !r.prompt.given && !r.completion.given {
		return nil, nil
	}
	return r.usage(), nil
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
	prompt, completion, total                      count
	cached, write, audioIn, audioCached, toolInput count // of the prompt
	reasoning, audioOut, imageOut                  count // of the completion
	searches                                       count
	notBYOK                                        bool
	u                                              Usage
	bad                                            string // the value that cannot be
}

// member reads a member of the usage.
func (r *usageReader) member(name string, v []byte) {
	switch name {
	case "prompt_tokens":
		r.count(&r.prompt, v)
	case "completion_tokens":
		r.count(&r.completion, v)
	case "total_tokens":
		r.count(&r.total, v)
	case "prompt_tokens_details":
		walk(v, func(m Member) { r.promptDetail(string(m.Name), m.Value.of(v)) })
	case "completion_tokens_details":
		walk(v, func(m Member) {
			switch string(m.Name) {
			case "reasoning_tokens":
				r.count(&r.reasoning, m.Value.of(v))
			case "audio_tokens":
				r.count(&r.audioOut, m.Value.of(v))
			case "image_tokens":
				r.count(&r.imageOut, m.Value.of(v))
			}
		})
	case "num_search_queries": // Perplexity's name, and ours
		r.count(&r.searches, v)
	case "server_tool_use", "server_tool_use_details": // OpenRouter
		n, _ := find(v, "web_search_requests")
		if w := n.Value.of(v); len(w) > 0 {
			r.count(&r.searches, w)
		}
	case "cost":
		r.cost(&r.u.Cost, v)
	case "cost_details":
		walk(v, func(m Member) {
			if string(m.Name) == "upstream_inference_cost" {
				r.cost(&r.u.UpstreamCost, m.Value.of(v))
			}
		})
	case "is_byok":
		r.u.BYOK, r.notBYOK = string(v) == "true", string(v) == "false"
	}
}

func (r *usageReader) promptDetail(name string, v []byte) {
	switch name {
	case "cached_tokens":
		r.count(&r.cached, v)
	case "cache_write_tokens":
		r.count(&r.write, v)
	case "audio_tokens":
		r.count(&r.audioIn, v)
	case "tool_tokens": // our name for it
		r.count(&r.toolInput, v)
	case "cached_tokens_details":
		audio, _ := find(v, "audio_tokens")
		if w := audio.Value.of(v); len(w) > 0 {
			r.count(&r.audioCached, w)
		}
	}
}

// usage puts what was read into classes.
func (r *usageReader) usage() *Usage {
	u := r.u
	if r.notBYOK {
		u.UpstreamCost = "" // it is a part of the cost
	}
	prompt, completion := r.prompt.n, r.completion.n
	if beside := r.total.n - prompt - completion; beside > 0 && (!r.reasoning.given || r.reasoning.n == beside) {
		completion += beside
		r.reasoning.n = beside
	}
	take := func(of *int64, n int64) int64 {
		n = max(0, min(n, *of))
		*of -= n
		return n
	}
	u.Cached = take(&prompt, r.cached.n)
	u.CacheWrite = take(&prompt, r.write.n)
	u.AudioInput = take(&prompt, r.audioIn.n-r.audioCached.n)
	u.ToolInput = take(&prompt, r.toolInput.n)
	u.Input = prompt
	u.Reasoning = take(&completion, r.reasoning.n)
	u.AudioOutput = take(&completion, r.audioOut.n)
	u.ImageOutput = take(&completion, r.imageOut.n)
	u.Output = completion
	u.Searches = r.searches.n
	if u.Total = r.total.n; !r.total.given {
		u.Total = u.Sum()
	}
	return &u
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

// AppendUsage appends u as the API shows it. Classes that few answers have are shown only where they are used.
func AppendUsage(dst []byte, u *Usage) []byte {
	n := func(name string, n int64) {
		dst = strconv.AppendInt(append(dst, name...), n, 10)
	}
	some := func(name string, v int64) {
		if v > 0 {
			n(name, v)
		}
	}
	n(`{"prompt_tokens":`, u.prompt())
	n(`,"completion_tokens":`, u.completion())
	n(`,"total_tokens":`, u.Total)
	n(`,"prompt_tokens_details":{"cached_tokens":`, u.Cached)
	n(`,"cache_write_tokens":`, u.CacheWrite)
	some(`,"audio_tokens":`, u.AudioInput)
	some(`,"tool_tokens":`, u.ToolInput)
	n(`},"completion_tokens_details":{"reasoning_tokens":`, u.Reasoning)
	some(`,"audio_tokens":`, u.AudioOutput)
	some(`,"image_tokens":`, u.ImageOutput)
	dst = append(dst, '}')
	some(`,"num_search_queries":`, u.Searches)
	return append(dst, '}')
}

// AppendUsageCost returns payload with what the answer cost put into its usage object, which is at span: `cost_usd`, a
// string of dollars, or null if costUSD is "", and `cost_status`; and `warnings`, if there are any. Members of these names
// that were there are replaced. An empty span changes nothing. The result is always new memory.
func AppendUsageCost(payload []byte, span [2]int, costUSD, status string, warnings []string) []byte {
	at := Span(span)
	if at.empty() || at[0] < 0 || at[0] > at[1] || at[1] > len(payload) {
		return append([]byte(nil), payload...)
	}
	usage := at.of(payload)
	var items []Span
	var gone []bool
	kept := 0
	walk(usage, func(m Member) {
		name := string(m.Name)
		drop := name == "cost_usd" || name == "cost_status" || name == "warnings" && len(warnings) > 0
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
	if len(warnings) > 0 {
		out = append(out, `,"warnings":[`...)
		for i, w := range warnings {
			out = appendString(comma(out, i), w)
		}
		out = append(out, ']')
	}
	out = append(out, '}')
	return append(out, payload[at[1]:]...)
}
