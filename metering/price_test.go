package metering

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func catalogue(t testing.TB) *Catalogue {
	t.Helper()
	c, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func model(t testing.TB, provider, id string) Model {
	t.Helper()
	m, ok := catalogue(t).Lookup(provider, id)
	if !ok {
		t.Fatalf("%s does not list %s", provider, id)
	}
	return m
}

func TestCost(t *testing.T) {
	for _, c := range []struct {
		about, provider, id string
		tokens              Tokens
		want                string // dollars; "": no price
	}{
		{"nothing", "openai", "gpt-5-mini", Tokens{}, "0"},
		{"a million tokens in", "openai", "gpt-5-mini", Tokens{Input: 1_000_000}, "0.25"},
		{"each class at its price", "openai", "gpt-5-mini", Tokens{Input: 1000, Cached: 2000, Output: 300, Reasoning: 200}, "0.0013"},
		{"one token", "openai", "gpt-5-nano", Tokens{Input: 1}, "0.00000005"},
		{"cache writes have a price", "openai", "gpt-6-astra", Tokens{CacheWrite: 1000}, "0.0125"},
		{"or cost as input", "openai", "gpt-5-mini", Tokens{CacheWrite: 1000}, "0.00025"},
		{"cache reads without a price cost as input", "openai", "gpt-audio-mini", Tokens{Cached: 1000}, "0.0006"},
		{"reasoning costs as output", "openai", "o3", Tokens{Reasoning: 1000}, "0.008"},
		{"or its own price", "perplexity", "sonar-deep-research", Tokens{Output: 1000, Reasoning: 1000}, "0.011"},
		{"a call has a fee", "perplexity", "sonar", Tokens{Input: 1000, Output: 1000}, "0.007"},
		{"also through another seller", "openrouter", "perplexity/sonar", Tokens{Input: 1000, Output: 1000}, "0.007"},
		{"at the edge of the long context", "openai", "gpt-6.1-sol", Tokens{Input: 272_000, Output: 1000}, "0.554"},
		{"one token beyond it all cost more", "openai", "gpt-6.1-sol", Tokens{Input: 272_001, Output: 1000}, "1.103004"},
		{"cached tokens are prompt too", "openai", "gpt-6.1-sol", Tokens{Cached: 200_000, CacheWrite: 72_001, Output: 1000}, "0.415005"},
		{"output is not", "openai", "gpt-6.1-sol", Tokens{Input: 1000, Output: 300_000}, "3.002"},
		{"long cache writes without a price cost as long input", "openai", "gpt-5.5", Tokens{Input: 272_000, CacheWrite: 1}, "2.72001"},
		{"sound has a price of its own", "openai", "gpt-audio-mini", Tokens{Input: 29, AudioInput: 12, Output: 6, AudioOutput: 12}, "0.0003918"},
		{"or costs as text", "openai", "gpt-5-mini", Tokens{AudioInput: 1000, AudioOutput: 1000}, "0.00225"},
		{"pictures cost as what is written", "gemini", "gemini-3.8-flash", Tokens{ImageOutput: 1290}, "0.0048375"},
		{"what tools found costs as input", "gemini", "gemini-2.5-flash", Tokens{Input: 8, ToolInput: 60, AudioInput: 32}, "0.0000524"},
		{"each search has a fee", "gemini", "gemini-3.8-flash", Tokens{Input: 8, Searches: 2}, "0.028006"},
		{"or the first one", "gemini", "gemini-2.5-flash", Tokens{Input: 10, Searches: 2}, "0.035003"},
		{"what tools found is prompt too", "openai", "gpt-6.1-sol", Tokens{Input: 272_000, ToolInput: 1}, "1.088004"},
		{"pictures without a price", "openai", "text-embedding-3-small", Tokens{ImageOutput: 1}, ""},
		{"searches below none", "gemini", "gemini-3.8-flash", Tokens{Searches: -1}, ""},
		{"embeddings", "openai", "text-embedding-3-small", Tokens{Input: 1000}, "0.00002"},
		{"embeddings that write", "openai", "text-embedding-3-small", Tokens{Input: 1000, Output: 1}, ""},
		{"no price", "openrouter", "openrouter/auto", Tokens{Input: 1}, ""},
		{"not even for nothing", "openrouter", "openrouter/auto", Tokens{}, ""},
		{"less than no tokens", "openai", "gpt-5-mini", Tokens{Input: -1}, ""},
		{"too many tokens", "openai", "gpt-5-mini", Tokens{Output: MaxTokens + 1}, ""},
		{"tokens that overflow", "openai", "gpt-5-mini", Tokens{Input: math.MaxInt64, Cached: math.MaxInt64}, ""},
	} {
		got, ok := Cost(model(t, c.provider, c.id), c.tokens)
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("%s: got %s, %v; want %q", c.about, got, ok, c.want)
		}
	}
	if _, ok := Cost(Model{}, Tokens{}); ok {
		t.Error("an unknown model has a price")
	}
}

func TestCostAgreesWithBigArithmetic(t *testing.T) {
	price := rapid.OneOf(rapid.Int64Range(0, maxPrice), rapid.Int64Range(0, math.MaxInt64))
	tokens := rapid.Int64Range(0, MaxTokens)
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) PicoUSD { return PicoUSD(price.Draw(t, name)) }
		prices := func(kind string, draw func(string) PicoUSD) Prices {
			return Prices{
				known: true, output: true, Input: draw(kind + " input"), Cached: draw(kind + " cached"), CacheWrite: draw(kind + " write"),
				Output: draw(kind + " output"), Reasoning: draw(kind + " reasoning"),
				AudioInput: draw(kind + " heard"), AudioOutput: draw(kind + " spoken"), ImageOutput: draw(kind + " drawn"),
			}
		}
		m := Model{
			Prices:  prices("usual", draw),
			Long:    prices("long", draw),
			Request: draw("request"), Search: draw("search"), Searched: draw("searched"),
		}
		m.LongAbove = rapid.Int64Range(0, 2*MaxTokens).Draw(t, "above")
		var n [10]int64
		for i := range n {
			n[i] = tokens.Draw(t, "tokens")
		}
		u := Tokens{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9]}
		p := m.Prices
		if m.LongAbove > 0 && u.Input+u.Cached+u.CacheWrite+u.AudioInput+u.ToolInput > m.LongAbove {
			p = m.Long
		}
		want := big.NewInt(int64(m.Request))
		for _, x := range [][2]int64{
			{int64(p.Input), u.Input},
			{int64(p.Cached), u.Cached},
			{int64(p.CacheWrite), u.CacheWrite},
			{int64(p.AudioInput), u.AudioInput},
			{int64(p.Input), u.ToolInput},
			{int64(p.Output), u.Output},
			{int64(p.Reasoning), u.Reasoning},
			{int64(p.AudioOutput), u.AudioOutput},
			{int64(p.ImageOutput), u.ImageOutput},
			{int64(m.Search), u.Searches},
			{int64(m.Searched), min(u.Searches, 1)},
		} {
			want.Add(want, new(big.Int).Mul(big.NewInt(x[0]), big.NewInt(x[1])))
		}
		got, ok := Cost(m, u)
		if ok != want.IsInt64() || ok && int64(got) != want.Int64() {
			t.Fatalf("got %d, %v; want %s", got, ok, want)
		}
	})
}

func TestHoldIsNeverLessThanTheCost(t *testing.T) {
	c := catalogue(t)
	var priced []Model
	for provider, ids := range c.ids {
		for _, id := range ids {
			if m, _ := c.Lookup(provider, id); m.Priced() && m.Window > 0 {
				priced = append(priced, m)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom(priced).Draw(t, "model")
		size := rapid.Int64Range(0, 20<<20).Draw(t, "bytes")
		limit := rapid.SampledFrom([]int64{0, 1, 100, 100_000}).Draw(t, "max tokens")
		n := rapid.IntRange(1, 4).Draw(t, "n")
		hold, ok := Hold(m, size, limit, n, 1)
		if !ok {
			t.Fatal("a priced model has no hold")
		}
		in := rapid.Int64Range(0, min(size, m.Window)).Draw(t, "in")
		cached := rapid.Int64Range(0, in).Draw(t, "cached")
		write := rapid.Int64Range(0, in-cached).Draw(t, "write")
		most := limit
		if most == 0 {
			most = m.MaxOutput
		}
		if most == 0 {
			most = m.Window
		}
		heard := rapid.Int64Range(0, in-cached-write).Draw(t, "heard")
		u := Tokens{Input: in - cached - write - heard, Cached: cached, CacheWrite: write, AudioInput: heard}
		if m.Prices.output {
			out := rapid.Int64Range(0, most*int64(n)).Draw(t, "out")
			u.Reasoning = rapid.Int64Range(0, out).Draw(t, "reasoning")
			u.Output = out - u.Reasoning
		}
		if cost, ok := Cost(m, u); !ok || cost > hold {
			t.Fatalf("%s %s: %+v costs %s (%v), held were %s", m.Provider, m.ID, u, cost, ok, hold)
		}
	})
}

func TestHold(t *testing.T) {
	mini := model(t, "openai", "gpt-5-mini")
	for _, c := range []struct {
		about      string
		m          Model
		bytes, max int64
		n          int
		want       string
	}{
		{"bytes and the limit", mini, 1000, 500, 1, "0.00125"},
		{"each choice", mini, 1000, 500, 3, "0.00325"},
		{"no choice is one", mini, 1000, 500, 0, "0.00125"},
		{"without a limit the model's own", mini, 0, 0, 1, "0.256"},
		{"no more input than the window", mini, 1 << 40, 1, 1, "0.100002"},
		{"a limit below zero is none", mini, 0, -5, 1, "0.256"},
		{"a limit nobody can mean", mini, 0, math.MaxInt64, math.MaxInt, "25600"},
		{"an embedding writes nothing", model(t, "openai", "text-embedding-3-small"), 1000, 0, 1, "0.00002"},
		{"the window where no maximum is known", model(t, "perplexity", "sonar"), 0, 0, 1, "0.132072"},
		{"no price", model(t, "openrouter", "openrouter/auto"), 1000, 10, 1, ""},
		{"no size", model(t, "perplexity", "perplexity/sonar"), 1000, 0, 1, ""},
		{"no size but a limit", model(t, "perplexity", "perplexity/sonar"), 1000, 100, 1, "0.0005"},
		{"nothing known", Model{}, 1000, 100, 1, ""},
	} {
		got, ok := Hold(c.m, c.bytes, c.max, c.n, 1)
		if ok != (c.want != "") || ok && got.String() != c.want || !ok && got != 0 {
			t.Errorf("%s: got %s, %v; want %q", c.about, got, ok, c.want)
		}
	}
}

func TestHoldEmbeddings(t *testing.T) {
	small := model(t, "openai", "text-embedding-3-small") // 8,192 tokens at 20,000 pico-dollars
	for _, c := range []struct {
		about  string
		m      Model
		bytes  int64
		inputs int
		want   string
	}{
		{"no more tokens than bytes", small, 1000, 1, "0.00002"},
		{"nor than fit the window", small, 1 << 30, 1, "0.00016384"},
		{"which each input may fill", small, 1 << 30, 3, "0.00049152"},
		{"though all of them have the bytes", small, 10_000, 3, "0.0002"},
		{"no input is one", small, 1 << 30, 0, "0.00016384"},
		{"inputs that nobody can ask for", small, math.MaxInt64, math.MaxInt, "0.33554432"},
		{"a model that writes writes nothing here", model(t, "openai", "gpt-5-mini"), 1000, 1, "0.00025"},
		{"no window", Model{Prices: Prices{known: true, Input: 20_000}}, 1000, 5, "0.00002"},
		{"a window that nobody can mean", Model{Window: 1<<62 + 1, Prices: Prices{known: true, Input: 20_000}}, 1000, 4, "0.00002"},
		{"no price", model(t, "openrouter", "openrouter/auto"), 1000, 1, ""},
	} {
		got, ok := HoldEmbeddings(c.m, c.bytes, c.inputs)
		if ok != (c.want != "") || ok && got.String() != c.want || !ok && got != 0 {
			t.Errorf("%s: got %s, %v; want %q", c.about, got, ok, c.want)
		}
	}
}

// An answer that may come in several is held for all of them: each reads what was read and written before it.
func TestHoldOfLongAnswers(t *testing.T) {
	argon := model(t, "gemini", "gemini-4-argon") // 2 and 10 dollars a million, 32,768 tokens a request
	for _, c := range []struct {
		about      string
		bytes, max int64
		n          int
		want       string
	}{
		{"one is enough", 1000, 32768, 1, "0.32968"},
		{"two", 1000, 32769, 1, "0.397226"},                     // 2 × 1000 + 32768 in, 32769 out
		{"three", 1000, 3 * 32768, 1, "1.185648"},               // 3 × 1000 + 3 × 32768 in
		{"no limit is eight", 1000, 0, 1, "4.472448"},           // 8 × 1000 + 28 × 32768 in, 8 × 32768 out
		{"no more than eight", 1000, 1_000_000, 1, "11.851008"}, // the rest cannot come, but was asked for
		{"of several choices none goes on", 1000, 60000, 2, "1.202"},
	} {
		got, ok := Hold(argon, c.bytes, c.max, c.n, 8)
		if !ok || got.String() != c.want {
			t.Errorf("%s: got %s, %v; want %s", c.about, got, ok, c.want)
		}
	}
	mini := model(t, "perplexity", "sonar") // a size and no maximum
	one, _ := Hold(mini, 1000, 10, 1, 1)
	if eight, ok := Hold(mini, 1000, 10, 1, 8); !ok || eight != one {
		t.Errorf("without a maximum of a request: %s, want %s", eight, one)
	}
}
