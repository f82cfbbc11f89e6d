package calls_test

import (
	"fmt"
	"slices"
	"testing"

	"threadhub/calls"
	"threadhub/internal/db"
)

// A further attempt is there, and the one before it has ended, once it is committed, however often that is; of a call that
// somebody else has taken or closed nothing changes.
func TestFurtherAttempts(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		o := h.turn(t, org, "own_1", "th", "hello")
		other := h.turn(t, "org_b", "own_1", "th", "hello")
		further := func(n, epoch int) *calls.Further {
			t.Helper()
			f := &calls.Further{
				Org: org, ID: o.ID, Epoch: epoch, N: n, Provider: "gemini", Model: fmt.Sprint("flash-", n), KeyName: "spare", HoldPico: int64(100 * n),
				Before: calls.AttemptEnd{N: n - 1, State: calls.FailedTry, Status: 503, Code: "upstream_error", UpstreamID: "up_0", MaybeBilled: n == 2, TotalMS: 7},
				Aim:    calls.Aim{Provider: "gemini", Model: fmt.Sprint("flash-", n), Why: "it was there", InputBytes: 9},
			}
			u := &db.Unit{Org: org}
			h.calls.Further(u, f)
			h.commit(t, u)
			return f
		}
		for range 2 { // as if the first commit's outcome were unknown
			if f := further(1, 0); !f.Begun {
				t.Fatal("it has not begun")
			}
		}
		if f := further(2, 0); !f.Begun {
			t.Fatal("a third attempt has not begun")
		}
		c, err := h.calls.Call(t.Context(), org, o.ID)
		if err != nil || len(c.Attempts) != 3 {
			t.Fatalf("%+v, %v", c, err)
		}
		for i, a := range c.Attempts {
			want := calls.Attempt{N: i, Provider: "gemini", Model: fmt.Sprint("flash-", i), KeyName: "spare", State: calls.FailedTry, Status: 503, Code: "upstream_error", UpstreamID: "up_0", MaybeBilled: i == 1, TotalMS: 7}
			switch i {
			case 0:
				want.Provider, want.Model, want.KeyName = "openai", "gpt-5-mini", "first"
			case 2:
				want = calls.Attempt{N: 2, Provider: "gemini", Model: "flash-2", KeyName: "spare", State: calls.Begun}
			}
			if a.StartedAt.IsZero() || a.EndedAt.IsZero() != (i == 2) {
				t.Errorf("%d: from %v to %v", i, a.StartedAt, a.EndedAt)
			}
			a.StartedAt, a.EndedAt = want.StartedAt, want.EndedAt
			if a != want {
				t.Errorf("attempt %d is %+v, want %+v", i, a, want)
			}
		}
		if f := c.Facts; f.Provider != "gemini" || f.Model != "flash-2" || f.Why != "it was there" || f.InputBytes != 9 || f.Kind != "chat" || f.ThreadOmitted != 0 || len(f.Warnings) != 0 {
			t.Errorf("the facts are %+v", f)
		}
		if n := h.hold(t, o); n != 200 {
			t.Errorf("the hold is %d", n)
		}
		if c, err := h.calls.Call(t.Context(), "org_b", other.ID); err != nil || len(c.Attempts) != 1 || c.Facts.Provider != "" {
			t.Errorf("another org's call: %+v, %v", c, err)
		}

		if f := further(3, 1); f.Begun {
			t.Error("an attempt under another epoch has begun")
		}
		_, u := h.record(o, 0, "hi")
		h.commit(t, u)
		if f := further(3, 0); f.Begun {
			t.Error("an attempt of a closed call has begun")
		}
		foreign := &calls.Further{Org: "org_b", ID: o.ID, N: 3, Provider: "x", Before: calls.AttemptEnd{N: 2, State: calls.Cut}}
		u = &db.Unit{Org: "org_b"}
		h.calls.Further(u, foreign)
		h.commit(t, u)
		if foreign.Begun {
			t.Error("an attempt of another org's call has begun")
		}
		if c, err = h.calls.Call(t.Context(), org, o.ID); err != nil || len(c.Attempts) != 3 {
			t.Errorf("%+v, %v", c, err)
		}
	})
}

// Several calls in one group, each with its own row.
func TestFurtherAttemptsInOneGroup(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		u := &db.Unit{Org: org}
		var all []*calls.Further
		for i := range 5 {
			o := h.turn(t, org, "own_1", "", fmt.Sprint(i))
			f := &calls.Further{Org: org, ID: o.ID, N: 1, Provider: "gemini", Model: fmt.Sprint(i), Before: calls.AttemptEnd{State: calls.FailedTry}}
			h.calls.Further(u, f)
			all = append(all, f)
		}
		h.commit(t, u)
		for _, f := range all {
			c, err := h.calls.Call(t.Context(), org, f.ID)
			if err != nil || !f.Begun || len(c.Attempts) != 2 || c.Attempts[1].Model != f.Model || c.Attempts[0].State != calls.FailedTry {
				t.Errorf("%+v: %+v, %v", f, c, err)
			}
		}
		if !slices.ContainsFunc(all, func(f *calls.Further) bool { return f.Begun }) {
			t.Error("none has begun")
		}
	})
}

func (h *house) hold(t *testing.T, o *calls.Opening) (n int64) {
	t.Helper()
	err := h.db.Query(t.Context(), o.Org, db.Query{
		SQL: `SELECT hold_pico FROM calls WHERE org_id = $1 AND call_id = $2`, Args: []any{o.Org, o.ID},
		Each: func(r db.Row) error { return r.Scan(&n) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
