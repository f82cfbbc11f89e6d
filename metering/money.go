package metering

import (
	"fmt"
	"math"
	"strconv"
)

// PicoUSD is money: integer millionths of a millionth of a dollar. A price in micro-dollars per million tokens, times
// tokens, is exactly that many pico-dollars, so no line is ever rounded. The range is ±9.2 million dollars, enough for
// any one line; sums over many lines belong in the database's wider types.
//
// It prints, and is written in JSON, as an exact decimal of dollars: "0.00125".
type PicoUSD int64

const (
	picoDigits = 12 // decimal places of a dollar
	picoMicro  = PicoUSD(1_000_000)
)

// String returns p in dollars, exact, without trailing zeros: "0.00125", "0", "12.5".
func (p PicoUSD) String() string {
	text, _ := p.MarshalText()
	return string(text)
}

// MarshalText returns what String does; in JSON it becomes a string.
func (p PicoUSD) MarshalText() ([]byte, error) {
	var b []byte
	abs := uint64(p)
	if p < 0 {
		b = append(b, '-')
		abs = -abs // right for the smallest int64 too
	}
	const one = 1_000_000_000_000
	b = strconv.AppendUint(b, abs/one, 10)
	frac := abs % one
	if frac == 0 {
		return b, nil
	}
	digits := fmt.Sprintf("%0*d", picoDigits, frac)
	end := len(digits)
	for digits[end-1] == '0' {
		end--
	}
	b = append(b, '.')
	return append(b, digits[:end]...), nil
}

// UnmarshalText reads what ParseUSD does.
func (p *PicoUSD) UnmarshalText(text []byte) error {
	v, err := ParseUSD(string(text))
	if err == nil {
		*p = v
	}
	return err
}

// ParseUSD reads dollars written as a decimal, with or without an exponent: "1.25", "-0.5", "3.2e-05". What is finer
// than a pico-dollar is rounded to the nearest, halves away from zero. It fails on other text and on amounts a PicoUSD
// cannot hold. No floating point is involved.
func ParseUSD(text string) (PicoUSD, error) {
	d, ok := scanDecimal(text)
	if !ok {
		return 0, fmt.Errorf("metering: %.40q is no amount of dollars", text)
	}
	p, ok := d.pico()
	if !ok {
		return 0, fmt.Errorf("metering: %.40q dollars are out of range", text)
	}
	return p, nil
}

// decimal is ±0.digits × 10^point. digits begins with no zero; empty digits are zero.
type decimal struct {
	negative bool
	digits   []byte
	point    int64
}

func scanDecimal(s string) (d decimal, ok bool) {
	i := 0
	if i < len(s) && (s[i] == '-' || s[i] == '+') {
		d.negative = s[i] == '-'
		i++
	}
	digits := func(fraction bool) (some bool) {
		for ; i < len(s) && '0' <= s[i] && s[i] <= '9'; i++ {
			some = true
			switch {
			case len(d.digits) == 0 && s[i] == '0':
				if fraction {
					d.point--
				}
			default:
				d.digits = append(d.digits, s[i])
				if !fraction {
					d.point++
				}
			}
		}
		return some
	}
	if !digits(false) {
		return d, false
	}
	if i < len(s) && s[i] == '.' {
		i++
		if !digits(true) {
			return d, false
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		exp, ok := scanExponent(s[i+1:])
		if !ok {
			return d, false
		}
		d.point += exp
		i = len(s)
	}
	return d, i == len(s)
}

// scanExponent reads a whole exponent, held at ±10^9: beyond that no text short enough to be held in memory differs.
func scanExponent(s string) (int64, bool) {
	const limit = 1_000_000_000
	sign := int64(1)
	if s != "" && (s[0] == '-' || s[0] == '+') {
		if s[0] == '-' {
			sign = -1
		}
		s = s[1:]
	}
	if s == "" {
		return 0, false
	}
	var v int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		v = min(v*10+int64(s[i]-'0'), limit)
	}
	return sign * v, true
}

// pico returns d in pico-dollars; not ok when it does not fit.
func (d decimal) pico() (p PicoUSD, ok bool) {
	if len(d.digits) == 0 {
		return 0, true
	}
	whole := d.point + picoDigits // how many of the digits make whole pico-dollars
	switch {
	case whole < 0:
		return 0, true
	case whole > 19:
		return 0, false
	}
	var abs uint64 // 19 digits and a carry always fit in a uint64
	for i := range whole {
		abs *= 10
		if i < int64(len(d.digits)) {
			abs += uint64(d.digits[i] - '0')
		}
	}
	if whole < int64(len(d.digits)) && d.digits[whole] >= '5' {
		abs++
	}
	switch {
	case d.negative && abs <= 1<<63:
		return PicoUSD(-abs), true
	case !d.negative && abs <= math.MaxInt64:
		return PicoUSD(abs), true
	}
	return 0, false
}
