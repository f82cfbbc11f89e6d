package metering

import (
	"encoding/json"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func TestMoneyIsWrittenExactly(t *testing.T) {
	for p, want := range map[PicoUSD]string{
		0:                         "0",
		1:                         "0.000000000001",
		-1:                        "-0.000000000001",
		1_250_000_000:             "0.00125",
		12_500_000_000_000:        "12.5",
		-3_000_000_000_000:        "-3",
		math.MaxInt64:             "9223372.036854775807",
		math.MinInt64:             "-9223372.036854775808",
		100_000_000_000_000:       "100",
		1_000_000_000_001:         "1.000000000001",
		PicoUSD(19_200_000):       "0.0000192",
		PicoUSD(1_000_000) * 5000: "0.005",
	} {
		if got := p.String(); got != want {
			t.Errorf("%d: got %s, want %s", int64(p), got, want)
		}
	}
	b, err := json.Marshal(map[string]PicoUSD{"cost_usd": 1_250_000_000})
	if err != nil || string(b) != `{"cost_usd":"0.00125"}` {
		t.Errorf("JSON: %s, %v", b, err)
	}
}

func TestDollarsAreReadExactly(t *testing.T) {
	for text, want := range map[string]PicoUSD{
		"0":                                   0,
		"-0":                                  0,
		"0.00125":                             1_250_000_000,
		"1.92e-05":                            19_200_000,
		"1.92E-5":                             19_200_000,
		"12.5":                                12_500_000_000_000,
		"+2":                                  2_000_000_000_000,
		"007":                                 7_000_000_000_000,
		"1e6":                                 1_000_000_000_000_000_000,
		"0.0000000000005":                     1, // half a pico-dollar goes up
		"0.00000000000049999":                 0,
		"-0.0000000000005":                    -1,
		"0.0000000000015":                     2,
		"1e-999999999999999999999":            0,
		"0e999999999999999999999":             0,
		"9223372.036854775807":                math.MaxInt64,
		"-9223372.036854775808":               math.MinInt64,
		"9223372.0368547758074":               math.MaxInt64,
		"0.000000000000000000000000000001e30": 1_000_000_000_000,
	} {
		if got, err := ParseUSD(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "-", ".", "1.", ".5", "1e", "1e+", "e5", "1 ", " 1", "1,5", "$1", "NaN", "Infinity", "0x10", "1_000", "--1", "1.2.3", "1e1.5", "1e5x",
		"9223372.036854775808", "9223372.0368547758075", "-9223372.0368547758085", "1e7", "1e999999999999999999999", "99999999999999999999",
	} {
		if got, err := ParseUSD(text); err == nil {
			t.Errorf("%q was read as %d", text, got)
		}
	}
}

func TestMoneySurvivesAWayThroughText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := PicoUSD(rapid.Int64().Draw(t, "pico"))
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back PicoUSD
		if err := json.Unmarshal(b, &back); err != nil || back != p {
			t.Fatalf("%d became %s and then %d, %v", p, b, back, err)
		}
	})
}

func TestDollarsAgreeWithBigArithmetic(t *testing.T) {
	text := rapid.StringMatching(`-?[0-9]{1,12}(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,2})?`)
	rapid.Check(t, func(t *rapid.T) {
		s := text.Draw(t, "text")
		got, err := ParseUSD(s)
		want, fits := bigPico(s)
		if fits != (err == nil) {
			t.Fatalf("%s: error %v, but it fits: %v", s, err, fits)
		}
		if fits && int64(got) != want {
			t.Fatalf("%s: got %d, want %d", s, got, want)
		}
	})
}

// bigPico is the oracle: s × 10^12, rounded half away from zero.
func bigPico(s string) (int64, bool) {
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		panic(s)
	}
	r.Mul(r, big.NewRat(1_000_000_000_000, 1))
	negative := r.Sign() < 0
	r.Abs(r).Add(r, big.NewRat(1, 2))
	n := new(big.Int).Div(r.Num(), r.Denom())
	if negative {
		n.Neg(n)
	}
	return n.Int64(), n.IsInt64()
}

func FuzzParseUSD(f *testing.F) {
	for _, s := range []string{"1.25", "-3e-7", "1e400", "00.10", "9223372.036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseUSD(s)
		if err != nil {
			return
		}
		if back, err := ParseUSD(p.String()); err != nil || back != p {
			t.Fatalf("%q: %d printed as %s is read as %d, %v", s, p, p, back, err)
		}
	})
}
