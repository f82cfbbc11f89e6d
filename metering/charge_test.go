package metering

import (
	"fmt"
	"math"
	"testing"

	"threadhub/openai"
)

func TestCharge(t *testing.T) {
	c := catalogue(t)
	seen := Estimate{In: 401, Out: 40}
	show := func(p *PicoUSD) string {
		if p == nil {
			return "-"
		}
		return p.String()
	}
	vendors := func(c Charge) string {
		if c.Vendor == nil {
			return ""
		}
		return " " + c.Vendor.String()
	}
	for _, x := range []struct {
		about, provider, model string
		usage                  *openai.Usage
		want                   string // status, cost, computed, provider's; the vendor's, if there is one
		tokens                 Tokens
	}{
		{"usage and a price", "openai", "gpt-5-mini", &openai.Usage{Input: 1000, Output: 100}, "computed 0.00045 0.00045 -", Tokens{Input: 1000, Output: 100}},
		{"zero stays zero", "openai", "gpt-5-mini", &openai.Usage{}, "computed 0 0 -", Tokens{}},
		{"no usage", "openai", "gpt-5-mini", nil, "estimated 0.00004525 0.00004525 -", Tokens{Input: 101, Output: 10}},
		{"usage that cannot be", "openai", "gpt-5-mini", &openai.Usage{Input: -1, Output: 100}, "estimated 0.00004525 0.00004525 -", Tokens{Input: 101, Output: 10}},
		{"usage that is absurd", "openai", "gpt-5-mini", &openai.Usage{Input: math.MaxInt64}, "estimated 0.00004525 0.00004525 -", Tokens{Input: 101, Output: 10}},
		{"usage without a price", "openai", "gpt-99", &openai.Usage{Input: 1000}, "unpriced 0 - -", Tokens{Input: 1000}},
		{"neither", "openai", "gpt-99", nil, "unpriced 0 - -", Tokens{Input: 101, Output: 10}},
		{"the provider's own figure", "openrouter", "openai/gpt-6-luna", &openai.Usage{Input: 1000, Cost: "0.0002"}, "reported 0.0002 0.0001 0.0002", Tokens{Input: 1000}},
		{"also where we have no price", "openrouter", "openrouter/auto", &openai.Usage{Input: 1000, Cost: "1.92e-05"}, "reported 0.0000192 - 0.0000192", Tokens{Input: 1000}},
		{"also when it is zero", "openrouter", "meta/free", &openai.Usage{Input: 1000, Cost: "0"}, "reported 0 - 0", Tokens{Input: 1000}},
		{"also beside usage that cannot be", "openrouter", "openai/gpt-6-luna", &openai.Usage{Input: -1, Cost: "0.5"}, "reported 0.5 0.0000151 0.5", Tokens{Input: 101, Output: 10}},
		{"with a key of the vendor, its bill too", "openrouter", "openai/gpt-6-luna", &openai.Usage{Input: 1000, Cost: "0.00001", UpstreamCost: "0.0002"}, "reported 0.00021 0.0001 0.00021 0.0002", Tokens{Input: 1000}},
		{"whatever the fee is", "openrouter", "openai/gpt-6-luna", &openai.Usage{Input: 1000, Cost: "0.0003", UpstreamCost: "0.0002", BYOK: true}, "reported 0.0005 0.0001 0.0005 0.0002", Tokens{Input: 1000}},
		{"with a key of the vendor that charged nothing", "openrouter", "openai/gpt-6-luna", &openai.Usage{Input: 1000, Cost: "0", UpstreamCost: "0", BYOK: true}, "reported 0 0.0001 0", Tokens{Input: 1000}},
		{
			"every class", "gemini", "gemini-2.5-flash", &openai.Usage{Input: 1, Cached: 2, CacheWrite: 3, AudioInput: 4, ToolInput: 5, Output: 6, Reasoning: 7, AudioOutput: 8, ImageOutput: 9, Searches: 2},
			"computed 0.03508176 0.03508176 -",
			Tokens{1, 2, 3, 4, 5, 6, 7, 8, 9, 2},
		},
		{"without one the vendor's part is inside", "openrouter", "openai/gpt-6-luna", &openai.Usage{Input: 1000, Cost: "0.0002", UpstreamCost: "0.0002"}, "reported 0.0002 0.0001 0.0002", Tokens{Input: 1000}},
		{"a figure below zero", "openrouter", "openai/gpt-6-luna", &openai.Usage{Input: 1000, Cost: "-1"}, "computed 0.0001 0.0001 -", Tokens{Input: 1000}},
		{"a figure beyond belief", "openrouter", "openai/gpt-6-luna", &openai.Usage{Input: 1000, Cost: "1e30"}, "computed 0.0001 0.0001 -", Tokens{Input: 1000}},
		{"a figure that is none", "openrouter", "openai/gpt-6-luna", &openai.Usage{Input: 1000, Cost: "NaN"}, "computed 0.0001 0.0001 -", Tokens{Input: 1000}},
		{"a vendor's figure beyond belief", "openrouter", "openai/gpt-6-luna", &openai.Usage{Input: 1000, Cost: "0.1", UpstreamCost: "9e99"}, "reported 0.1 0.0001 0.1", Tokens{Input: 1000}},
	} {
		got := c.Charge(x.provider, x.model, x.usage, seen)
		if s := fmt.Sprintf("%s %s %s %s", got.Status, got.Cost, show(got.Computed), show(got.Provider)) + vendors(got); s != x.want {
			t.Errorf("%s: got %q, want %q", x.about, s, x.want)
		}
		if got.Tokens != x.tokens || got.Version != c.Version() {
			t.Errorf("%s: tokens %+v of version %q", x.about, got.Tokens, got.Version)
		}
	}
}

func TestEstimate(t *testing.T) {
	for in, want := range map[int64]int64{-5: 0, 0: 0, 1: 1, 4: 1, 5: 2, 400: 100, math.MaxInt64: MaxTokens} {
		if got := (Estimate{In: in, Out: in}).tokens(); got != (Tokens{Input: want, Output: want}) {
			t.Errorf("%d bytes are %+v", in, got)
		}
	}
}

func TestNothing(t *testing.T) {
	c := catalogue(t)
	for _, x := range []struct {
		model string
		sent  bool
		want  Status
	}{
		{"sonar", false, Computed}, // a fee for each call is not due either
		{"sonar", true, Estimated},
		{"unheard-of", false, Unpriced},
		{"unheard-of", true, Unpriced},
	} {
		got := c.Nothing("perplexity", x.model, x.sent)
		if got.Status != x.want || got.Cost != 0 || got.Tokens != (Tokens{}) || (got.Computed == nil) != (x.want == Unpriced) || got.Version != c.Version() {
			t.Errorf("%s, sent %v: %+v", x.model, x.sent, got)
		}
	}
}
