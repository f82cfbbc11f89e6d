package upstreams

import (
	"strconv"
	"strings"
	"testing"

	"threadhub/internal/fault"
)

func TestLosses(t *testing.T) {
	contract := fault.New(fault.Invalid, "one at a time").WithCode("unsupported_parameter").WithParam("n")
	for policy, want := range map[Policy]struct{ hint, contract string }{
		ByClass: {"", "n"},
		Drop:    {"", ""},
		Reject:  {"seed", "n"},
	} {
		l := Losses{Policy: policy}
		param := func(err error) string {
			if err == nil {
				return ""
			}
			if f := fault.From(err); f.Kind != fault.Invalid || f.Code != "unsupported_parameter" {
				t.Errorf("%q: %+v", policy, f)
			}
			return fault.From(err).Param
		}
		if got := param(l.Hint("seed", "unsupported")); got != want.hint {
			t.Errorf("%q: a hint is refused as %q, want %q", policy, got, want.hint)
		}
		if got := param(l.Contract(contract)); got != want.contract {
			t.Errorf("%q: a contract is refused as %q, want %q", policy, got, want.contract)
		}
		var warnings []string
		for name, refused := range map[string]string{"seed": want.hint, "n": want.contract} {
			if refused == "" {
				warnings = append(warnings, "dropped="+name+";reason=unsupported")
			}
		}
		for _, w := range warnings {
			if !strings.Contains(strings.Join(l.Warnings, ", "), w) {
				t.Errorf("%q: warned of %q, and not of %s", policy, l.Warnings, w)
			}
		}
		if len(l.Warnings) != len(warnings) {
			t.Errorf("%q: warned of %q", policy, l.Warnings)
		}
	}
}

func TestWarningsAreFewAndOnce(t *testing.T) {
	var l Losses
	for i := range 100 {
		l.Warn("dropped=a;reason=unknown")
		l.Warn("dropped=a" + strconv.Itoa(i) + ";reason=unknown")
	}
	if n := len(l.Warnings); n != maxWarnings+1 || l.Warnings[0] != "dropped=a;reason=unknown" || l.Warnings[1] != "dropped=a0;reason=unknown" ||
		l.Warnings[maxWarnings] != "dropped=more;reason=unsupported" {
		t.Errorf("%d warnings: %s", n, l.Warnings)
	}
}

func TestIdle(t *testing.T) {
	for value, want := range map[string]bool{
		"n:1": true, "n:2": false, "n:null": true, "store:false": true, "store:true": false, "metadata:{}": true, `metadata:{"a":"b"}`: false,
		"x:null": true, "x:false": false, `service_tier:"auto"`: true, `service_tier:"flex"`: false,
	} {
		name, v, _ := strings.Cut(value, ":")
		if got := Idle(name, v); got != want {
			t.Errorf("%s is idle: %v, want %v", value, got, want)
		}
	}
}
