package upstreams

import (
	"slices"

	"threadhub/internal/fault"
)

// Policy is what becomes of a member of a request that its provider cannot be told. A hint is one without which the
// answer is still right (user, seed); a contract is one without which the client gets something else than it asked for
// (n, a response format).
type Policy string

// The policies there are. Whatever they say, a request that is nothing without the member is refused.
const (
	ByClass Policy = ""       // hints are left out with a warning, contracts are refused
	Drop    Policy = "drop"   // contracts are left out too, with a warning
	Reject  Policy = "reject" // hints are refused too
)

// maxWarnings bounds a header: who writes hundreds of unknown members does not read as many warnings.
const maxWarnings = 24

// Losses are what of one request its provider is not told. This is the one place that decides what becomes of it.
type Losses struct {
	Policy   Policy
	Warnings []string // see Request
}

// Hint loses the hint field, for a reason of one word: with a warning, or with an error that names it.
func (l *Losses) Hint(field, reason string) error {
	if l.Policy == Reject {
		return fault.New(fault.Invalid, "this provider cannot be told %s (%s), and nothing may be left out of this request", field, reason).
			WithCode("unsupported_parameter").WithParam(field)
	}
	l.lost(field, reason)
	return nil
}

// Contract loses what err is about, which names it as its parameter: with err, or with a warning. After nil the
// translation goes on without it.
func (l *Losses) Contract(err error) error {
	if l.Policy != Drop {
		return err
	}
	l.lost(fault.From(err).Param, "unsupported")
	return nil
}

func (l *Losses) lost(field, reason string) { l.Warn("dropped=" + field + ";reason=" + reason) }

// Warn adds a warning, unless it is there, or there are too many.
func (l *Losses) Warn(text string) {
	switch n := len(l.Warnings); {
	case slices.Contains(l.Warnings, text) || n > maxWarnings:
	case n == maxWarnings:
		l.Warnings = append(l.Warnings, "dropped=more;reason=unsupported")
	default:
		l.Warnings = append(l.Warnings, text)
	}
}

// idle are values of members of the API that ask for nothing: without the member the same holds.
var idle = map[string][]string{
	"frequency_penalty":   {"0", "0.0"},
	"logit_bias":          {"{}"},
	"logprobs":            {"false"},
	"metadata":            {"{}"},
	"modalities":          {`["text"]`},
	"n":                   {"1", "1.0"},
	"parallel_tool_calls": {"true"},
	"presence_penalty":    {"0", "0.0"},
	"service_tier":        {`"auto"`, `"default"`},
	"stop":                {"[]"},
	"store":               {"false"},
	"top_logprobs":        {"0"},
	"user":                {`""`},
}

// Idle reports whether a top-level member with this value, which is JSON, asks for nothing: it is no loss.
func Idle(name, value string) bool { return value == "null" || slices.Contains(idle[name], value) }
