package gateway

import (
	"errors"
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
