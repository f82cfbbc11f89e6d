package gateway

import (
	"time"

	"threadhub/calls"
	"threadhub/internal/fault"
	"threadhub/openai"
)

// whole records an answer that came in one piece and gives it to the client, byte for byte.
func (g *Gateway) whole(x *request, e *exchange) {
	a, err := g.finish(x, e)
	if err != nil {
		x.fail(err)
		return
	}
	x.rc.SetContentType("application/json")
	x.rc.SetBody(a.Raw)
}

// finish records an answer that came in one piece, and tells in headers what is known of it.
func (g *Gateway) finish(x *request, e *exchange) (*openai.Answer, error) {
	e.first = time.Now()
	end := ending{outcome: calls.Complete, state: calls.OK, status: e.answer.Status, upstreamID: e.answer.UpstreamID}
	a, err := openai.ParseAnswer(e.answer.Body)
	if a != nil {
		end.usage, end.served, end.outBytes, end.sources = a.Usage, a.Model, a.TextBytes(), a.Sources
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
	if err != nil {
		end.fail(err)
	}
	if rerr := g.record(e, end); rerr != nil && err == nil {
		err = rerr
	}
	g.answerHeaders(x, e)
	if err != nil {
		return nil, err
	}
	cost, status := priced(e.charge)
	h := &x.rc.Response.Header
	if cost != "" {
		h.Set("X-Threadhub-Cost-Usd", cost)
	}
	h.Set("X-Threadhub-Cost-Status", status)
	h.Set("X-Threadhub-Overhead-Ms", e.overhead())
	return a, nil
}
