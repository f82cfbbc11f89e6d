package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"threadhub/calls"
	"threadhub/internal/chaos"
	"threadhub/internal/contain"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/metering"
	"threadhub/openai"
	"threadhub/threads"
)

// Settler closes the calls of processes that died: incomplete, with the reason gateway_lost, an estimated ledger line
// marked maybe_billed, and where the thread waits for an answer what of it is kept, or an empty one. It takes
// each call over first, under a new epoch, so that of several settlers and a late owner exactly one record counts.
type Settler struct {
	Store     db.Store
	Calls     *calls.Store
	Threads   *threads.Store
	Ledger    *metering.Ledger
	Budgets   *metering.Budgets // nil: there are none
	Fallback  metering.Fallback // of models without a price, where budgets bind
	Catalogue *metering.Catalogue
	Lease     *calls.Lease

	Checkpoints *calls.Checkpoints // nil: there are none
	Tapes       calls.Tapes        // nil: processes tell each other nothing

	Every  time.Duration // 0: 2 s
	AtOnce int           // calls settled side by side: they share the groups in which they are taken over and recorded; 0: 32
	Log    *slog.Logger
	Panics *contain.Panics // nil: they are only logged

	settled atomic.Int64

	// half are the calls this settler began to settle and could not: they may be its own by now, and as it is alive, it is
	// not an owner whose calls anybody would look for.
	half []calls.Orphan
}

// reasonLost is why such a call is incomplete.
const reasonLost = "gateway_lost"

// Run looks for orphans until ctx ends. It takes none before this process's own lease is steady.
func (s *Settler) Run(ctx context.Context) {
	every := s.Every
	if every == 0 {
		every = 2 * time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.sweep(ctx, s.Lease.Steady)
	}
}

// sweep settles until a look finds no more, as one look finds only so many. may is asked before each.
func (s *Settler) sweep(ctx context.Context, may func() bool) {
	for may() && s.round(ctx) {
	}
}

// round settles what one look finds, and reports whether there may be more.
func (s *Settler) round(ctx context.Context) (more bool) {
	before := s.settled.Load()
	found, err := s.Calls.Orphans(ctx, s.Lease.Owner())
	err = errors.Join(err, s.settleAll(ctx, append(s.half, found...)))
	if err != nil && ctx.Err() == nil {
		s.Log.Warn("orphans could not be settled", "error", err)
	}
	return err == nil && ctx.Err() == nil && s.settled.Load() > before
}

// Leftovers settles every open call of the past. For a store of which this process is the only user, before it listens.
func (s *Settler) Leftovers(ctx context.Context) error {
	for {
		found, err := s.Calls.Leftovers(ctx, s.Lease.Owner())
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return s.Checkpoints.Clear()
		}
		if err := s.settleAll(ctx, found); err != nil {
			return err
		}
	}
}

// settleAtOnce is Settler.AtOnce where that says nothing.
const settleAtOnce = 32

// settleAll settles each of found that nobody else does, many at a time. One that fails does not keep it from the others,
// and is kept for the next round.
func (s *Settler) settleAll(ctx context.Context, found []calls.Orphan) error {
	s.half = nil
	known := map[calls.Orphan]bool{}
	slots := make(chan struct{}, cmp.Or(s.AtOnce, settleAtOnce))
	var mu sync.Mutex
	var errs []error
	failed := func(o calls.Orphan, err error) {
		mu.Lock()
		defer mu.Unlock()
		s.half = append(s.half, o)
		if len(errs) < errorsTold {
			errs = append(errs, err)
		}
	}
	var wg sync.WaitGroup
	for _, o := range found {
		if known[o] { // found once more, as it is not ours yet
			continue
		}
		known[o] = true
		slots <- struct{}{}
		wg.Go(s.Panics.Wrap("settler", func() {
			defer func() { <-slots }()
			settled, err := s.settleOne(ctx, o)
			switch {
			case err != nil:
				failed(o, err)
			case settled:
				s.settled.Add(1)
				s.Log.Info("an orphaned call was settled", "org", o.Org, "request_id", o.ID)
			}
		}))
	}
	wg.Wait()
	return errors.Join(errs...)
}

// errorsTold is how many errors of one round are told.
const errorsTold = 4

func (s *Settler) settleOne(ctx context.Context, o calls.Orphan) (settled bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			s.Panics.Tell("settler", v)
			err = fmt.Errorf("settling %s: panic: %T", o.ID, v)
		}
	}()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	chaos.Point("settle")
	c, err := s.Calls.TakeOver(ctx, s.Lease.Owner(), o)
	if err != nil || c == nil { // nil: another was faster
		return false, err
	}
	return true, s.settle(ctx, c)
}

// left is what the call had brought, as far as it is known: its checkpoint, or what its process told of its tape. A call is
// not left open for want of that.
func (s *Settler) left(ctx context.Context, c *calls.Call) ([]byte, error) {
	events, err := s.Checkpoints.Read(c.ID)
	if err != nil || events != nil || s.Tapes == nil || !c.Facts.Stream {
		return events, err
	}
	if events, err = s.Tapes.Left(ctx, c.ID, calls.Listener{Org: c.Org, Key: c.Key}); err != nil {
		s.Log.Warn("what a lost call had brought could not be read, and is not in its answer", "org", c.Org, "request_id", c.ID, "error", err)
	}
	return events, nil
}

func (s *Settler) settle(ctx context.Context, c *calls.Call) error {
	events, err := s.left(ctx, c)
	if err != nil {
		return err
	}
	got := brought(events)
	charge := s.Catalogue.Charge(c.Facts.Provider, c.Facts.Model, got.Usage(), metering.Estimate{In: c.Facts.InputBytes, Out: got.TextBytes()})
	if c.HoldPico > 0 { // of a model without a price: then a budget binds the call
		charge = s.Fallback.Price(charge)
	}
	cost, status := priced(charge)
	facts := calls.Facts{
		ModelServed: clean(got.Model()), Vendor: clean(got.Vendor()), FinishReason: clean(got.FinishReason()),
		Status: answerFor(fault.New(fault.Internal, "")).status, CostUSD: cost, CostStatus: status,
		Usage: openai.AppendUsage(nil, charge.Usage()),
	}
	closing := &calls.Closing{
		Org: c.Org, ID: c.ID, Epoch: c.Epoch, RecordID: string(id.NewRequest()), Outcome: calls.Incomplete, Reason: reasonLost, Facts: facts,
	}
	u := &db.Unit{Org: c.Org, Record: true}
	var lines []*metering.Line
	for _, a := range c.Attempts {
		line := &metering.Line{
			Org: c.Org, Call: c.ID, N: a.N, Key: c.Key, User: c.User, Team: c.Team, Thread: c.Thread,
			Provider: a.Provider, Model: a.Model, Charge: charge, MaybeBilled: true,
		}
		if a.State == calls.Begun { // the last one: nobody knows what became of it
			closing.Attempts = append(closing.Attempts, calls.AttemptEnd{N: a.N, State: calls.Unknown, Code: reasonLost, MaybeBilled: true})
		} else { // it failed before its process did
			line.Charge, line.MaybeBilled = s.Catalogue.Nothing(a.Provider, a.Model, a.MaybeBilled), a.MaybeBilled
		}
		s.Ledger.Put(u, line)
		lines = append(lines, line)
	}
	if s.Budgets != nil {
		s.Budgets.Settle(u, c.Org, c.ID, lines...)
	}
	s.Calls.Close(u, closing)
	if c.Thread != "" {
		head, err := s.Threads.Head(ctx, c.Org, c.Thread)
		if err != nil {
			return err
		}
		chain := []byte{}
		if head != nil {
			chain = head.Chain
		}
		var raw []byte
		if !got.Empty() {
			raw = got.Message()
		}
		p := provenance(c.ID, c.Facts, facts, len(c.Attempts))
		from := got.Sources()
		p.Citations, p.SearchResults = from.Citations, from.SearchResults
		s.Threads.Answer(u, &threads.Answer{
			Org: c.Org, Call: c.ID, Message: answerMessage(raw, threads.Incomplete, reasonLost, chain, p),
		})
	}
	return s.Store.Commit(ctx, u)
}
