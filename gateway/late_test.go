package gateway

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/metering"
)

// Another process takes the call for an orphan and settles it while it is being answered. Nothing is settled twice, and
// the ledger still says in the end what the call really cost.
func TestALateOwnerIsToldAndItsCostIsKept(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]bool{"at once": false, "after the store was away": true} {
		t.Run(name, func(t *testing.T) {
			eachHouse(t, Options{}, func(t *testing.T, h *house) {
				spent := func(r heard) (sum metering.PicoUSD, lines []metering.Line) {
					lines, err := metering.Lines(t.Context(), h.store, h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
					if err != nil {
						t.Fatal(err)
					}
					for _, l := range lines {
						sum += l.Charge.Cost
					}
					return sum, lines
				}
				want, _ := spent(h.chat("hello", "", "X-Thread-Id", "kept").want(t, 200))
				m := &moody{Store: h.store}
				s := h.settler(h.store)
				first := true
				m.set(func(u *db.Unit) (bool, error) {
					if !u.Record || !first {
						return false, nil
					}
					first = false
					c, err := h.calls.Holder(t.Context(), h.admin.Org, "lost")
					if err != nil || c == nil {
						return true, errors.Join(err, errors.New("nobody holds the turn"))
					}
					if _, err := s.settleOne(t.Context(), calls.Orphan{Org: c.Org, ID: c.ID}); err != nil {
						t.Error(err)
					}
					if away {
						return true, fault.New(fault.Unavailable, "away")
					}
					return false, nil
				})
				h.use(m)
				r := h.chat("hello", "", "X-Thread-Id", "lost").want(t, 503)
				if !away && r.code() != "lost_lease" {
					t.Errorf("the client was told %s", r.body)
				}
				var got metering.PicoUSD
				var lines []metering.Line
				testkit.Eventually(t, 5*time.Second, func() bool {
					got, lines = spent(r)
					return len(lines) == 2
				}, "there are not two lines")
				if got != want || lines[0].Kind != metering.Late || lines[1].Kind != metering.Use {
					t.Errorf("spent %v, want %v: %+v", got, want, lines)
				}
				if got := h.messages("lost"); len(got) != 2 || got[1] != "assistant::incomplete:gateway_lost" {
					t.Errorf("the thread reads %q", got)
				}
			})
		})
	}
}

// The late line comes too early, as another process has the call and has not closed it yet, or the store does not take it at
// once: it is written all the same, and its record is not put aside.
func TestALateLineIsNotLost(t *testing.T) {
	t.Parallel()
	away := fault.New(fault.Unavailable, "away")
	for name, tc := range map[string]struct {
		settled bool          // before the owner's record; else it is only taken over by then
		refuse  map[int]error // what the store says to the owner's units of this number, from 1
	}{
		"before the first line":                 {false, nil},
		"before the first line, from the spool": {false, map[int]error{1: away}},
		"refused":                               {true, map[int]error{2: away}},
		"refused, from the spool":               {true, map[int]error{1: away, 3: away}},
	} {
		t.Run(name, func(t *testing.T) {
			eachHouse(t, Options{}, func(t *testing.T, h *house) {
				want := h.spent(h.chat("hello", "", "X-Thread-Id", "kept").want(t, 200))
				m := &moody{Store: h.store}
				s := h.settler(h.store)
				var n atomic.Int64
				var taken *calls.Call
				m.set(func(u *db.Unit) (bool, error) {
					if !u.Record {
						return false, nil
					}
					n := int(n.Add(1))
					if n == 1 {
						c, err := h.calls.Holder(t.Context(), h.admin.Org, "lost")
						if err != nil || c == nil {
							return true, errors.Join(err, errors.New("nobody holds the turn"))
						}
						if taken, err = h.calls.TakeOver(t.Context(), s.Lease.Owner(), calls.Orphan{Org: c.Org, ID: c.ID}); err != nil || taken == nil {
							t.Errorf("not taken over: %v, %v", taken, err)
						}
						if tc.settled {
							if err := s.settle(t.Context(), taken); err != nil {
								t.Error(err)
							}
						}
					}
					return tc.refuse[n] != nil, tc.refuse[n]
				})
				h.use(m)
				r := h.chat("hello", "", "X-Thread-Id", "lost").want(t, 503)
				testkit.Eventually(t, 10*time.Second, func() bool { return h.recorder.fenced.Load() == 1 }, "the record to be refused")
				if !tc.settled {
					if err := New(h.opts.next()).Recover(); err != nil {
						t.Errorf("that the call is not closed keeps a process from its start: %v", err)
					}
					if err := s.settle(t.Context(), taken); err != nil {
						t.Fatal(err)
					}
				}
				lines := func() (list []metering.Line) {
					list, err := metering.Lines(t.Context(), h.store, h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
					if err != nil {
						t.Fatal(err)
					}
					return list
				}
				testkit.Eventually(t, 10*time.Second, func() bool { return len(lines()) == 2 }, "there are not two lines")
				if got := h.spent(r); got != want || lines()[0].Kind != metering.Late {
					t.Errorf("spent %v, want %v", got, want)
				}
				testkit.Eventually(t, 10*time.Second, func() bool { return h.backlog.pending() == 0 }, "the backlog to be empty")
				if st := h.opts.Spool.Stats(); st.Records != 0 || st.Quarantined != 0 {
					t.Errorf("the spool has %+v", st)
				}
			})
		})
	}
}
