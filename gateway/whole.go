package gateway

import (
	"time"

	"threadhub/calls"
	"threadhub/internal/fault"
	"threadhub/openai"
)

// whole records an answer that came in one piece and gives it to the client, byte for byte.
func (g *Gateway) whole(x *request, e *exchange) {
	a, err := g.finish(x, e, e.answer.Body)
	if err != nil {
		x.fail(err)
		return
	}
	x.rc.SetContentType("application/json")
	x.rc.SetBody(a.Raw)
	g.given(e, a.Raw)
}

// given ends the tape of an answer in one piece.
func (g *Gateway) given(e *exchange, body []byte) {
	if e.tape == nil {
		return
	}
	e.tape.Begin(append(e.told, e.price()...))
	e.tape.Whole(body)
	g.tapes.End(e.tape, true)
}

// finish records an answer that came in one piece, and tells in headers what is known of it. given is what is kept for
// whoever repeats the request; nil if that is the message in the thread.
func (g *Gateway) finish(x *request, e *exchange, given []byte) (*openai.Answer, error) {
	end := g.arrivedWhole(x, e)
	end.given = given
	a, err := openai.ParseAnswer(e.answer.Body)
	if a != nil {
		end.usage, end.served, end.vendor, end.outBytes, end.sources = a.Usage, a.Model, a.Vendor, a.TextBytes(), a.Sources
		for i, c := range a.Choices {
			if i == 0 {
				end.message, end.finish = c.Message, c.FinishReason
				continue
			}
			end.others = append(end.others, c.Message)
		}
	}
	if err == nil && end.message == nil {
		err = fault.New(fault.Upstream, "the provider's answer holds no choice").WithCode("upstream_protocol")
	}
	return a, g.conclude(x, e, end, err)
}

// arrivedWhole is the ending of a call whose answer is there, as long as nothing is found wrong with it.
func (g *Gateway) arrivedWhole(x *request, e *exchange) ending {
	g.answerHeaders(x, e)
	e.told = x.told()
	e.first = time.Now()
	return ending{
		outcome: calls.Complete, state: calls.OK, status: e.answer.Status, upstreamID: e.answer.UpstreamID, maybeBilled: e.answer.MaybeBilled,
	}
}

// conclude records a whole answer, of which err says what is wrong, and tells in headers what it cost. It returns what the
// client is to be told instead of the answer.
func (g *Gateway) conclude(x *request, e *exchange, end ending, err error) error {
	if err != nil {
		end.fail(err)
	}
	if rerr := g.record(e, end); rerr != nil && err == nil {
		err = rerr
	}
	if err != nil {
		g.tapes.End(e.tape, false)
		return err
	}
	for _, pair := range e.price() {
		x.rc.Response.Header.Set(pair[0], pair[1])
	}
	x.rc.Response.Header.Set("X-Threadhub-Overhead-Ms", e.overhead())
	return nil
}

// price is what the header of an answer in one piece tells of its cost.
func (e *exchange) price() (pairs [][2]string) {
	cost, status := priced(e.charge)
	if cost != "" {
		pairs = append(pairs, [2]string{"X-Threadhub-Cost-Usd", cost})
	}
	return append(pairs, [2]string{"X-Threadhub-Cost-Status", status})
}
