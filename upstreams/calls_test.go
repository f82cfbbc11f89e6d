package upstreams

import (
	"testing"

	"threadhub/internal/fault"
)

func TestCalls(t *testing.T) {
	// Each step is what a message does: "a" calls a, "=a" answers it, "." is somebody who speaks, or the end.
	f := func(param string, steps ...string) {
		t.Helper()
		var c Calls
		var err error
		for n, s := range steps {
			switch {
			case err != nil:
			case s == ".":
				err = c.Closed()
			case s != "" && s[0] == '=':
				err = c.Answered(n, s[1:])
			default:
				err = c.Called(n, s)
			}
		}
		if e := fault.From(err); (err == nil) != (param == "") || err != nil && (e.Kind != fault.Invalid || e.Code != "invalid_value" || e.Param != param) {
			t.Errorf("%q: %v, want %q", steps, err, param)
		}
	}
	f("", ".", "a", "=a", ".", "a", "b", "=b", "=a", ".")
	f("", "a", "a", "=a", "=a", ".")
	f("messages[1].tool_calls", "a", "b", "=a", ".")
	f("messages[0].tool_calls", "a", ".", "=a")
	f("messages[0].tool_calls", "")
	f("messages[1].tool_call_id", ".", "=a")
	f("messages[2].tool_call_id", "a", "=a", "=a")
	f("messages[1].tool_call_id", "a", "=b")
}
