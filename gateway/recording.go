package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seedbug"
	"threadhub/internal/spool"
	"threadhub/metering"
	"threadhub/threads"
)

// recording is how a call ended, as a value. The unit that writes it down can be made of it as often as need be, by this
// process or, from the spool, by another: it changes something once.
type recording struct {
	Closing calls.Closing
	Vain    []metering.Line // of the attempts before the last one, and of Further: they brought nothing
	Further *calls.Further  // an attempt that was not made, as nobody knows whether it is written down; nil: there is none
	Line    metering.Line   // of the attempt that ended the call
	Answer  *threads.Answer // nil: the call is in no thread
	Replay  *calls.Replay   // nil: nothing is kept for whoever repeats the request
}

// recordingVersion grows whenever a recording is written in another way than before, be it with one member more: a
// process reads those of earlier versions and leaves those of later ones where they are.
const recordingVersion = 1

// spooled is a recording as the spool has it.
type spooled struct {
	Version int
	recording
}

func (rec *recording) encode() ([]byte, error) {
	return json.Marshal(spooled{recordingVersion, *rec})
}

// decodeRecording reads what encode wrote. Errors: spool.ErrForeign for a later version's; spool.ErrDamaged for what is
// no recording of one call.
func decodeRecording(text []byte) (*recording, error) {
	var v struct{ Version int }
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, fmt.Errorf("%w: %w", spool.ErrDamaged, err)
	}
	if v.Version < 1 || v.Version > recordingVersion {
		return nil, fmt.Errorf("%w: it is a recording of version %d", spool.ErrForeign, v.Version)
	}
	var all spooled
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&all); err != nil {
		return nil, fmt.Errorf("%w: %w", spool.ErrDamaged, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows it", spool.ErrDamaged)
	}
	rec := &all.recording
	if !rec.whole() {
		return nil, fmt.Errorf("%w: its parts are not of one call", spool.ErrDamaged)
	}
	return rec, nil
}

// whole reports whether all parts are of the same call of the same org.
func (rec *recording) whole() bool {
	org, call := rec.Closing.Org, rec.Closing.ID
	for _, l := range rec.Vain {
		if l.Org != org || l.Call != call {
			return false
		}
	}
	return org != "" && call != "" && rec.Closing.RecordID != "" &&
		rec.Line.Org == org && rec.Line.Call == call &&
		(rec.Further == nil || rec.Further.Org == org && rec.Further.ID == call) &&
		(rec.Answer == nil || rec.Answer.Org == org && rec.Answer.Call == call) &&
		(rec.Replay == nil || rec.Replay.Org == org && rec.Replay.Call == call)
}

// recorder writes recordings down.
type recorder struct {
	store   db.Store
	calls   *calls.Store
	threads *threads.Store
	ledger  *metering.Ledger
	budgets *metering.Budgets // nil: there are none
	book    BudgetBook

	fenced atomic.Int64 // records refused because another process had closed the call
}

func (r *recorder) unit(rec *recording, patience time.Duration) *db.Unit {
	u := &db.Unit{Org: rec.Closing.Org, Record: true, Patience: patience}
	if rec.Further != nil {
		r.calls.Further(u, rec.Further)
	}
	r.calls.Close(u, &rec.Closing)
	for i := range rec.Vain {
		r.ledger.Put(u, &rec.Vain[i])
	}
	if !seedbug.On("free-failures") || rec.Closing.Outcome != calls.Failed {
		r.ledger.Put(u, &rec.Line)
	}
	if seedbug.On("settle-twice") {
		twice := rec.Line
		twice.N++
		r.ledger.Put(u, &twice)
	}
	lines := []*metering.Line{&rec.Line}
	for i := range rec.Vain {
		lines = append(lines, &rec.Vain[i])
	}
	r.settles(u, rec.Closing.Org, rec.Closing.ID, lines...)
	if rec.Replay != nil {
		r.calls.Keep(u, rec.Replay)
	}
	if rec.Answer != nil {
		r.threads.Answer(u, rec.Answer)
	}
	return u
}

// commit writes rec down, and is durable when it returns. recorded is false if another process has closed the call.
func (r *recorder) commit(rec *recording, patience time.Duration) (recorded bool, err error) {
	if err := r.store.Commit(context.Background(), r.unit(rec, patience)); err != nil {
		return false, err
	}
	if !rec.Closing.Recorded {
		r.fenced.Add(1)
	}
	return rec.Closing.Recorded, nil
}

// mayPass reports whether the store may take later what it refused with err.
func mayPass(err error) bool {
	return fault.Is(err, fault.Unavailable) || fault.HasCode(err, "tenant_context")
}

// errNoCall is a recording of a call that the store does not have.
var errNoCall = fault.New(fault.NotFound, "the store has no line of this call")

// errNotClosed is a late line that comes before the first: another process has taken the call over, and has yet to close it.
var errNotClosed = fault.New(fault.Unavailable, "another process has taken this call over and has not closed it yet")

// late writes down what a call really cost that another process has closed meanwhile, by an estimate: a second line, the
// difference. It is written once, whoever repeats it. Errors: errNotClosed when the first line is still to come, errNoCall
// when there will be none.
func (r *recorder) late(actual metering.Line) error {
	if seedbug.On("no-late-line") {
		return nil
	}
	ctx := context.Background()
	switch end, err := r.calls.Ended(ctx, actual.Org, actual.Call); { // before its lines, which come with its end
	case fault.Is(err, fault.NotFound):
		return errNoCall
	case err != nil:
		return err
	case !end.Closed:
		return errNotClosed
	}
	lines, err := metering.Lines(ctx, r.store, actual.Org, actual.Call)
	if err != nil {
		return err
	}
	for _, l := range lines {
		if l.N != actual.N || l.Kind != metering.Use {
			continue
		}
		l.Kind, l.MaybeBilled = metering.Late, false
		if seedbug.On("late-twice") {
			l.Kind += string(id.NewRequest())
		}
		l.Charge = difference(actual.Charge, l.Charge)
		if l.Charge.Tokens == (metering.Tokens{}) && l.Charge.Cost == 0 {
			return nil
		}
		u := &db.Unit{Org: l.Org, Record: true}
		r.ledger.Put(u, &l)
		r.settles(u, l.Org, l.Call, &l)
		return r.store.Commit(ctx, u)
	}
	return errNoCall
}

// difference is what must be added to estimated to make it actual.
func difference(actual, estimated metering.Charge) metering.Charge {
	d := actual
	d.Tokens = actual.Tokens.Minus(estimated.Tokens)
	d.Cost -= estimated.Cost
	if actual.Computed != nil && estimated.Computed != nil {
		c := *actual.Computed - *estimated.Computed
		d.Computed = &c
	}
	return d
}
