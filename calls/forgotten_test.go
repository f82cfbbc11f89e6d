package calls

import (
	"fmt"
	"testing"

	"threadhub/internal/id"
)

func TestTapesAreForgotten(t *testing.T) {
	ts := NewLocalTapes()
	ts.keepBytes = 100
	who := Listener{"org", "key"}
	for i := range 5 {
		tp := NewTape(TapeOf{Call: id.Request(fmt.Sprint(i)), For: who, Finger: int64(i), Limit: 1000})
		ts.Begin(tp)
		tp.Whole(make([]byte, 40))
		ts.End(tp, true)
		ts.End(tp, true)
	}
	for i := range 5 {
		if got, want := ts.Tape(id.Request(fmt.Sprint(i)), who) != nil, i >= 3; got != want {
			t.Errorf("tape %d is there: %v", i, got)
		}
	}
	if ts.Tape("4", Listener{"org", "other"}) != nil || ts.Alike(4, "hash", who) != nil {
		t.Error("a tape is found by who may not, or for another request")
	}
	ts.keepFor = 0
	ts.End(NewTape(TapeOf{Call: "5", For: who, Limit: 10}), true)
	if len(ts.byCall) != 0 || ts.size != 0 {
		t.Errorf("%d tapes with %d bytes are left after their time", len(ts.byCall), ts.size)
	}
}
