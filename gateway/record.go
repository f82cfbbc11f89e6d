package gateway

import (
	"encoding/json"
	"strconv"
	"time"

	"threadhub/calls"
	"threadhub/internal/chaos"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seedbug"
	"threadhub/metering"
	"threadhub/openai"
	"threadhub/threads"
)

// ending is how a call ended, as record writes it down.
type ending struct {
	outcome     calls.Outcome
	code        string       // why it is not complete; "" if it is
	err         *fault.Error // what the client is told; nil if it is complete
	state       calls.AttemptState
	status      int // the provider's
	upstreamID  string
	maybeBilled bool

	given    []byte   // what the client is given, if that is complete and in one piece
	message  []byte   // the answer's JSON, exact; nil if none came
	others   [][]byte // choices after the first
	usage    *openai.Usage
	outBytes int64 // generated, for the estimate where usage is missing
	sources  openai.Sources
	served   string
	vendor   string
	finish   string
}

// fail makes end that of a call that err ended: incomplete if something came before, else failed.
func (end *ending) fail(err error) {
	end.err = fault.From(err)
	end.code = answerFor(end.err).code
	end.outcome, end.state = calls.Incomplete, calls.Cut
	if end.message == nil && end.outBytes == 0 {
		end.outcome, end.state = calls.Failed, calls.FailedTry
	}
	end.maybeBilled = end.usage == nil
}

// recordPatience is how long a record waits for a store that is away before the client is told. After that it is put into
// the spool, and made when the store is back, by this process or the next one on this disk.
const recordPatience = 10 * time.Second

// errLostLease ends an answer whose call another process has closed meanwhile.
var errLostLease = fault.New(fault.Unavailable, "the gateway lost this request while storage was away; the thread shows it as incomplete").
	WithCode("lost_lease").After(time.Second)

// record is the second transaction: the answer, the attempt's end, the ledger line, turn and hold freed. It runs whatever
// happened to the client, and the client gets the end of its answer only after it.
func (g *Gateway) record(e *exchange, end ending) error {
	if seedbug.On("drop-record") {
		return nil
	}
	if u := end.usage; u != nil && u.Total != u.Sum() {
		g.opts.Log.Warn("the provider's usage does not add up; its parts are believed", "request_id", e.id, "provider", e.target.Provider, "total", u.Total, "sum", u.Sum())
	}
	g.remember(e, end) // the client may come back with it as soon as it has the end
	rec := g.recording(e, end)
	e.grant.Settle(e.charge.Tokens.Usage().Total)
	chaos.Point("record")
	recorded, err := g.recorder.commit(rec, recordPatience)
	chaos.Point("recorded")
	g.metrics.ended(e.target.Provider, end)
	e.leave()
	switch {
	case err != nil && !mayPass(err):
		// The store is there and does not take this, and would not later. What it does take is better than a call that
		// stays open, and a turn that stays held.
		g.opts.Log.Error("a call could not be recorded as it was", "request_id", e.id, "error", err)
		bare := ending{status: end.status, usage: end.usage, outBytes: end.outBytes}
		bare.fail(err)
		g.backlog.keep(g.recording(e, bare), false)
		return err
	case err != nil:
		g.backlog.keep(rec, false)
		return err
	case !recorded:
		if err := g.recorder.late(rec.Line); err != nil {
			g.opts.Log.Warn("the true cost of a call that was settled as lost is not in the ledger yet", "request_id", e.id, "error", err)
			g.backlog.keep(rec, true)
		}
		return errLostLease
	}
	return nil
}

// recording is end as a value that can be written down.
func (g *Gateway) recording(e *exchange, end ending) *recording {
	now := time.Now()
	e.charge = g.charge(e, end.usage, end.outBytes)
	if end.outcome == calls.Failed && end.usage == nil {
		e.charge = g.opts.Catalogue.Nothing(e.target.Provider, e.target.Model, end.maybeBilled)
	}
	cost, status := priced(e.charge)
	facts := calls.Facts{
		ModelServed: clean(end.served), Vendor: clean(end.vendor), Status: statusOf(end.err), FinishReason: clean(end.finish),
		Usage: openai.AppendUsage(nil, e.charge.Usage()), CostUSD: cost, CostStatus: status,
		Provider: e.target.Provider, Model: e.target.Model, Why: e.route.Reason,
		LatencyMS: now.Sub(e.arrived).Milliseconds(), FirstTokenMS: sinceMS(e.arrived, e.first), OverheadMS: e.overhead(),
		Warnings: e.warnings(),
	}
	line := metering.Line{Org: e.caller.Org, Call: e.id, Key: e.caller.Key, User: e.caller.User, Team: e.caller.Team, Thread: e.thread}
	rec := &recording{Closing: calls.Closing{
		Org: e.caller.Org, ID: e.id, RecordID: string(e.id), Outcome: end.outcome, Reason: end.code, Facts: facts,
		Attempts: []calls.AttemptEnd{{
			N: e.n(), State: end.state, Status: end.status, Code: end.code, UpstreamID: clean(end.upstreamID), MaybeBilled: end.maybeBilled,
			FirstMS: sinceMS(e.asked, e.began), TotalMS: sinceMS(e.asked, now),
		}},
	}}
	for _, t := range e.tried { // they ended when the next one began
		rec.Vain = append(rec.Vain, g.nothing(line, t.end.N, t.target.Provider, t.target.Model, t.end.MaybeBilled))
	}
	if f := e.unsure; f != nil { // now it is recorded in any case
		rec.Further = f
		rec.Closing.Attempts = append(rec.Closing.Attempts, calls.AttemptEnd{N: f.N, State: calls.FailedTry, Code: "outcome_unknown"})
		rec.Vain = append(rec.Vain, g.nothing(line, f.N, f.Provider, f.Model, false))
	}
	line.N, line.Provider, line.Model, line.Charge, line.MaybeBilled = e.n(), e.target.Provider, e.target.Model, e.charge, end.maybeBilled && !seedbug.On("surely-unbilled")
	rec.Line = line
	if e.claim != "" && end.outcome == calls.Complete && len(end.given) <= g.keepMost {
		rec.Replay = e.replay(end)
	}
	if e.thread != "" {
		status := threads.Complete
		if end.outcome != calls.Complete {
			status = threads.Incomplete
		}
		p := provenance(e.id, e.opening.Facts, facts, e.n()+1)
		p.Citations, p.SearchResults = end.sources.Citations, end.sources.SearchResults
		for _, c := range end.others {
			p.Choices = append(p.Choices, json.RawMessage(c))
		}
		e.said = answerMessage(end.message, status, end.code, e.turn.Chain, p)
		rec.Answer = &threads.Answer{Org: e.caller.Org, Call: e.id, Message: e.said}
	}
	return rec
}

// nothing is the line of attempt n, which brought nothing. The rest is as in line.
func (g *Gateway) nothing(line metering.Line, n int, provider, model string, maybeBilled bool) metering.Line {
	line.N, line.Provider, line.Model, line.MaybeBilled = n, provider, model, maybeBilled
	line.Charge = g.opts.Catalogue.Nothing(provider, model, maybeBilled)
	return line
}

// replay is what is kept of a complete answer for whoever repeats its request.
func (e *exchange) replay(end ending) *calls.Replay {
	r := &calls.Replay{Org: e.caller.Org, Call: e.id, Header: e.told, Stream: e.streams(), Body: end.given}
	if r.Stream {
		r.Body = e.tape.With(done)
	} else {
		r.Header = append(r.Header, e.price()...)
	}
	return r
}

// done is the data of the last event of a complete stream.
var done = []byte("[DONE]")

// provenance is where an answer came from: what was known when its call was opened, and when it was closed.
func provenance(call id.Request, opened, closed calls.Facts, attempts int) threads.Provenance {
	return threads.Provenance{
		RequestID: call, Provider: opened.Provider, Model: opened.Model, ModelRequested: opened.ModelRequested, ModelServed: closed.ModelServed, Vendor: closed.Vendor,
		Route: opened.Route, Reason: opened.Why, Attempts: attempts, LatencyMS: closed.LatencyMS, FirstTokenMS: closed.FirstTokenMS,
		FinishReason: closed.FinishReason, Usage: closed.Usage, CostUSD: orNull(closed.CostUSD), CostStatus: closed.CostStatus,
	}
}

// answerMessage is an answer as the thread keeps it: its own bytes, or the empty answer if none came, and beside them
// where it came from. before is the thread's chain up to it.
func answerMessage(raw []byte, status threads.Status, reason string, before []byte, p threads.Provenance) threads.Message {
	if raw == nil {
		raw = []byte(threads.EmptyAnswer)
	}
	return threads.NewAnswer(raw, status, reason, before, p)
}

// charge is what e has cost so far: by the provider's word, by its usage and our prices, or by an estimate.
func (g *Gateway) charge(e *exchange, usage *openai.Usage, outBytes int64) metering.Charge {
	c := g.opts.Catalogue.Charge(e.target.Provider, e.target.Model, usage, metering.Estimate{In: e.size, Out: outBytes})
	return g.priceAnyway(c, e.bound())
}

// priced is a charge as clients see it: decimal dollars, "" when nobody knows the price.
func priced(c metering.Charge) (usd, status string) {
	if c.Status != metering.Unpriced {
		usd = c.Cost.String()
	}
	return usd, string(c.Status)
}

// overhead is what of the time since arrival was not spent waiting for the provider, in milliseconds.
func (e *exchange) overhead() string {
	all := time.Since(e.arrived) - e.waited
	if !e.asked.IsZero() && !e.began.IsZero() {
		all -= e.began.Sub(e.asked)
	}
	return strconv.FormatFloat(float64(all.Microseconds())/1000, 'f', 3, 64)
}

func sinceMS(from, to time.Time) int64 {
	if from.IsZero() || to.IsZero() {
		return 0
	}
	return to.Sub(from).Milliseconds()
}

func statusOf(err *fault.Error) int {
	if err == nil {
		return 200
	}
	return answerFor(err).status
}

// clean makes a provider's short text fit to be stored and shown.
func clean(s string) string { return openai.Scrub(s) }
