package metering

import "threadhub/internal/db"

// insertPostgres writes the lines of a group. The join lets through only what belongs to a call closed by this very
// transaction, or for lines that come later by an earlier one: a record that came too late, after another process had
// settled its call, leaves no second line.
func insertPostgres(lines []*Line) db.Statement {
	var c columns
	for _, l := range lines {
		c.add(l)
	}
	return db.Statement{
		SQL: `INSERT INTO ledger (org_id, call_id, n, kind, key_id, user_id, team_id, thread_id, provider, model,
				input_tokens, cached_tokens, cache_write_tokens, audio_input_tokens, tool_input_tokens,
				output_tokens, reasoning_tokens, audio_output_tokens, image_output_tokens, searches,
				cost_pico, computed_pico, provider_pico, vendor_pico, status, maybe_billed, price_version)
			SELECT u.org_id, u.call_id, u.n, u.kind, u.key_id, u.user_id, u.team_id, u.thread_id, u.provider, u.model,
				u.input_tokens, u.cached_tokens, u.cache_write_tokens, u.audio_input_tokens, u.tool_input_tokens,
				u.output_tokens, u.reasoning_tokens, u.audio_output_tokens, u.image_output_tokens, u.searches,
				u.cost_pico, u.computed_pico, u.provider_pico, u.vendor_pico, u.status::cost_status, u.maybe_billed, u.price_version
			FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
				$11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[],
				$16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[],
				$21::bigint[], $22::bigint[], $23::bigint[], $24::bigint[], $25::text[], $26::boolean[], $27::text[])
			AS u (org_id, call_id, n, kind, key_id, user_id, team_id, thread_id, provider, model,
				input_tokens, cached_tokens, cache_write_tokens, audio_input_tokens, tool_input_tokens,
				output_tokens, reasoning_tokens, audio_output_tokens, image_output_tokens, searches,
				cost_pico, computed_pico, provider_pico, vendor_pico, status, maybe_billed, price_version)
			JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id
			WHERE c.close_xid = pg_current_xact_id() OR u.kind <> '` + Use + `' AND c.state = 'closed'
			ON CONFLICT DO NOTHING`,
		Args: c.args(),
	}
}

// columns are lines turned on their side, for unnest.
type columns struct {
	org, call, kind, key, user, provider, model, status, version []string
	team, thread                                                 []*string
	n                                                            []int32
	input, cached, write, audioIn, toolIn                        []int64
	output, reasoning, audioOut, imageOut, searches, cost        []int64
	computed, reported, vendor                                   []*int64
	maybe                                                        []bool
}

func (c *columns) add(l *Line) {
	ch := &l.Charge
	c.org = append(c.org, string(l.Org))
	c.call = append(c.call, string(l.Call))
	c.n = append(c.n, int32(l.N))
	c.kind = append(c.kind, l.Kind)
	c.key = append(c.key, string(l.Key))
	c.user = append(c.user, string(l.User))
	c.team = append(c.team, orNull(string(l.Team)))
	c.thread = append(c.thread, orNull(string(l.Thread)))
	c.provider = append(c.provider, l.Provider)
	c.model = append(c.model, l.Model)
	c.input = append(c.input, ch.Input)
	c.cached = append(c.cached, ch.Cached)
	c.write = append(c.write, ch.CacheWrite)
	c.audioIn = append(c.audioIn, ch.AudioInput)
	c.toolIn = append(c.toolIn, ch.ToolInput)
	c.output = append(c.output, ch.Output)
	c.reasoning = append(c.reasoning, ch.Reasoning)
	c.audioOut = append(c.audioOut, ch.AudioOutput)
	c.imageOut = append(c.imageOut, ch.ImageOutput)
	c.searches = append(c.searches, ch.Searches)
	c.cost = append(c.cost, int64(ch.Cost))
	c.computed = append(c.computed, (*int64)(ch.Computed))
	c.reported = append(c.reported, (*int64)(ch.Provider))
	c.vendor = append(c.vendor, (*int64)(ch.Vendor))
	c.status = append(c.status, string(ch.Status))
	c.maybe = append(c.maybe, l.MaybeBilled)
	c.version = append(c.version, ch.Version)
}

func (c *columns) args() []any {
	return []any{
		c.org, c.call, c.n, c.kind, c.key, c.user, c.team, c.thread, c.provider, c.model,
		c.input, c.cached, c.write, c.audioIn, c.toolIn, c.output, c.reasoning, c.audioOut, c.imageOut, c.searches,
		c.cost, c.computed, c.reported, c.vendor, c.status, c.maybe, c.version,
	}
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
