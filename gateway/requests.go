package gateway

import (
	"encoding/json"
	"time"

	"threadhub/calls"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/metering"
)

// getRequest answers GET /v1/requests/{id}: what became of a call.
func (g *Gateway) getRequest(x *request) {
	c, err := g.seenCall(x, id.Request(x.param("id")))
	if err != nil {
		x.fail(err)
		return
	}
	lines, err := metering.Lines(x.ctx, g.opts.Store, x.caller.Org, c.ID)
	if err != nil {
		x.fail(err)
		return
	}
	x.json(200, shapeOfCall(c, lines))
}

// seenCall is a call of the caller's org that the caller may know of: a private thread's calls are as private as it, a
// deleted one's gone, whoever has its name now.
func (g *Gateway) seenCall(x *request, call id.Request) (*calls.Call, error) {
	c, err := g.opts.Calls.Call(x.ctx, x.caller.Org, call)
	if err != nil || c.Thread == "" {
		return c, err
	}
	t, err := g.opts.Threads.Thread(x.ctx, x.caller.Org, c.Thread, x.viewer())
	if fault.Is(err, fault.NotFound) || err == nil && c.OpenedAt.Before(t.CreatedAt.Add(-sameUnit)) {
		err = calls.Absent()
	}
	return c, err
}

// sameUnit is more than lies between a call and the thread it makes, by the store's clock.
const sameUnit = time.Minute

type callShape struct {
	ID             id.Request      `json:"id"`
	Object         string          `json:"object"`
	Kind           string          `json:"kind"`
	Status         string          `json:"status"` // open, complete, incomplete, failed
	Reason         *string         `json:"status_reason"`
	Thread         *id.Thread      `json:"thread_id"`
	ThreadSeq      *int            `json:"thread_seq"`
	ThreadMode     *string         `json:"thread_mode"`
	ThreadOmitted  *int            `json:"thread_omitted"` // null without a thread
	Stream         bool            `json:"stream"`
	ModelRequested *string         `json:"model_requested"`
	ModelServed    *string         `json:"model_served"`
	Vendor         string          `json:"vendor,omitempty"` // whom OpenRouter asked
	Provider       *string         `json:"provider"`
	Model          *string         `json:"model"`
	Route          routeShape      `json:"route"`
	HTTPStatus     *int            `json:"http_status"` // null while it is open, and where no provider is asked
	FinishReason   *string         `json:"finish_reason"`
	Attempts       []attemptShape  `json:"attempts"`
	Usage          json.RawMessage `json:"usage"`
	CostUSD        *string         `json:"cost_usd"`
	CostStatus     *string         `json:"cost_status"`
	LatencyMS      *int64          `json:"latency_ms"`
	FirstTokenMS   *int64          `json:"first_token_ms"`
	OverheadMS     json.RawMessage `json:"overhead_ms"`
	Warnings       []string        `json:"warnings"`
	CreatedAt      time.Time       `json:"created_at"`
	EndedAt        *time.Time      `json:"ended_at"`
}

type routeShape struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

type attemptShape struct {
	N           int        `json:"n"`
	Provider    string     `json:"provider"`
	Model       string     `json:"model"`
	KeyName     *string    `json:"key_name"` // which of the org's keys at the provider
	State       string     `json:"state"`
	HTTPStatus  *int       `json:"http_status"`
	Code        *string    `json:"code"`
	UpstreamID  *string    `json:"upstream_request_id"`
	MaybeBilled bool       `json:"maybe_billed"`
	FirstMS     int64      `json:"first_ms"`
	TotalMS     int64      `json:"total_ms"`
	CostUSD     *string    `json:"cost_usd"`
	CostStatus  *string    `json:"cost_status"`
	VendorUSD   *string    `json:"vendor_cost_usd,omitempty"` // of it, what the vendor behind OpenRouter bills to the org itself
	StartedAt   time.Time  `json:"started_at"`
	EndedAt     *time.Time `json:"ended_at"`
}

func shapeOfCall(c *calls.Call, lines []metering.Line) callShape {
	f := c.Facts
	s := callShape{
		ID: c.ID, Object: "request", Kind: f.Kind, Status: c.State, Reason: orNull(c.Reason), Thread: orNull(c.Thread), ThreadMode: orNull(f.ThreadMode),
		Stream: f.Stream, ModelRequested: orNull(f.ModelRequested), ModelServed: orNull(f.ModelServed), Vendor: f.Vendor, Provider: orNull(f.Provider), Model: orNull(f.Model),
		Route: routeShape{f.Route, f.Why}, HTTPStatus: orNull(f.Status), FinishReason: orNull(f.FinishReason), Attempts: []attemptShape{}, Usage: f.Usage,
		CostUSD: orNull(f.CostUSD), CostStatus: orNull(f.CostStatus), LatencyMS: orNull(f.LatencyMS), FirstTokenMS: orNull(f.FirstTokenMS),
		OverheadMS: json.RawMessage(f.OverheadMS), Warnings: f.Warnings, CreatedAt: c.OpenedAt, EndedAt: timeOrNull(c.ClosedAt),
	}
	if c.State == "closed" {
		s.Status = string(c.Outcome)
	}
	if c.Thread != "" {
		if seq := c.FirstSeq + c.NIn - 1; seq >= 0 {
			s.ThreadSeq = &seq
		}
		s.ThreadOmitted = &f.ThreadOmitted
	}
	if s.Warnings == nil {
		s.Warnings = []string{}
	}
	for _, raw := range []*json.RawMessage{&s.Usage, &s.OverheadMS} {
		if len(*raw) == 0 {
			*raw = json.RawMessage("null")
		}
	}
	for _, a := range c.Attempts {
		s.Attempts = append(s.Attempts, shapeOfAttempt(a, lines))
	}
	return s
}

func shapeOfAttempt(a calls.Attempt, lines []metering.Line) attemptShape {
	s := attemptShape{
		N: a.N, Provider: a.Provider, Model: a.Model, KeyName: orNull(a.KeyName), State: string(a.State), HTTPStatus: orNull(a.Status), Code: orNull(a.Code),
		UpstreamID: orNull(a.UpstreamID), MaybeBilled: a.MaybeBilled, FirstMS: a.FirstMS, TotalMS: a.TotalMS,
		StartedAt: a.StartedAt, EndedAt: timeOrNull(a.EndedAt),
	}
	for _, l := range lines {
		if l.N == a.N && l.Kind == metering.Use {
			cost, status := priced(l.Charge)
			s.CostUSD, s.CostStatus = orNull(cost), &status
			if v := l.Charge.Vendor; v != nil {
				s.VendorUSD = orNull(v.String())
			}
		}
	}
	return s
}

// orNull is null in JSON for a zero value.
func orNull[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
