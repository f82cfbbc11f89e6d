package gateway

import (
	"encoding/json"
	"strconv"
	"time"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/orgs"
)

// auditShape is a line of the audit log as the API shows it. What the operator did has neither user nor key.
type auditShape struct {
	Seq    int64           `json:"seq"`
	At     time.Time       `json:"at"`
	User   *id.User        `json:"user_id"`
	Key    *id.Key         `json:"key_id"`
	Action string          `json:"action"`
	Target string          `json:"target"`
	Detail json.RawMessage `json:"detail"`
}

func shapeOfAudit(l orgs.AuditLine) auditShape {
	return auditShape{
		Seq: l.Seq, At: l.At.UTC(), User: orNull(l.User), Key: orNull(l.Key), Action: l.Action, Target: l.Target, Detail: l.Detail,
	}
}

// listAudit answers GET /api/orgs/{org}/audit?limit=&cursor=, the newest line first. A cursor is the sequence of the
// last line shown.
func (g *Gateway) listAudit(x *request) {
	limit, err := x.limit()
	if err != nil {
		x.fail(err)
		return
	}
	before := int64(0)
	if s := x.query("cursor"); s != "" {
		if before, err = strconv.ParseInt(s, 10, 64); err != nil || before < 1 {
			x.fail(fault.New(fault.Invalid, "cursor is not one this list gave").WithParam("cursor"))
			return
		}
	}
	lines, err := g.opts.People.Audit(x.ctx, x.caller.Org, before, limit)
	page := listShape[auditShape]{Data: []auditShape{}}
	for _, l := range lines {
		page.Data = append(page.Data, shapeOfAudit(l))
	}
	if n := len(lines); n == limit && lines[n-1].Seq > 1 {
		next := strconv.FormatInt(lines[n-1].Seq, 10)
		page.Next = &next
	}
	x.reply(200, page, err)
}
