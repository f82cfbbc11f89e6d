package calls

import (
	"cmp"
	"slices"

	"threadhub/internal/db"
	"threadhub/internal/seedbug"
)

// The Postgres forms: one statement over all calls of a group. What a later statement joins to is named by
// transaction: open_xid or close_xid = pg_current_xact_id() means put in, or closed, by this very group, so that a unit
// that is run again after an unknown commit finds nothing left to do.

// openPostgres tries the id, the turn and the claim in one insert; whoever loses any of them leaves nothing. Rows go in
// in one order everywhere, so that two processes never wait for each other in a circle.
func openPostgres(rows []*Opening) db.Statement {
	slices.SortFunc(rows, func(a, b *Opening) int {
		return cmp.Or(cmp.Compare(a.Org, b.Org), cmp.Compare(a.Thread, b.Thread), cmp.Compare(a.ID, b.ID))
	})
	n := len(rows)
	org, call, key, user, team := texts(n), texts(n), texts(n), texts(n), texts(n)
	thread, owner, facts, claim := texts(n), texts(n), texts(n), texts(n)
	first, nIn := make([]int32, n), make([]int32, n)
	finger, hold := make([]int64, n), make([]int64, n)
	hash := make([][]byte, n)
	for i, r := range rows {
		org[i], call[i], key[i], user[i], team[i] = string(r.Org), string(r.ID), string(r.Key), string(r.User), string(r.Team)
		thread[i], owner[i], facts[i], claim[i] = string(r.Thread), string(r.Owner), r.Facts.json(), r.Claim
		if seedbug.On("no-turn") {
			thread[i] = ""
		}
		first[i], nIn[i], finger[i], hold[i], hash[i] = int32(r.FirstSeq), int32(r.NIn), r.Finger, r.HoldPico, r.BodyHash
	}
	return db.Statement{
		SQL: `INSERT INTO calls (org_id, call_id, key_id, user_id, team_id, thread_id, owner, first_seq, n_in, fp, body_hash, hold_pico, facts, claim, claim_until)
SELECT org_id, call_id, key_id, user_id, nullif(team_id, ''), nullif(thread_id, ''), owner, first_seq, n_in, fp, body_hash, hold_pico, facts::jsonb,
  nullif(claim, ''), CASE WHEN claim <> '' THEN now() + CAST($15 AS interval) END
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[], $9::int[], $10::bigint[], $11::bytea[], $12::bigint[], $13::text[], $14::text[])
  AS u (org_id, call_id, key_id, user_id, team_id, thread_id, owner, first_seq, n_in, fp, body_hash, hold_pico, facts, claim)
ON CONFLICT DO NOTHING`,
		Args: []any{org, call, key, user, team, thread, owner, first, nIn, finger, hash, hold, facts, claim, ClaimFor},
	}
}

func beginPostgres(rows []*Opening) db.Statement {
	n := len(rows)
	org, call, provider, model, key := texts(n), texts(n), texts(n), texts(n), texts(n)
	for i, r := range rows {
		org[i], call[i], provider[i], model[i], key[i] = string(r.Org), string(r.ID), r.Provider, r.Model, r.KeyName
	}
	return db.Statement{
		SQL: `INSERT INTO attempts (org_id, call_id, n, provider, model, key_name)
SELECT u.org_id, u.call_id, 0, u.provider, u.model, u.key_name
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS u (org_id, call_id, provider, model, key_name)
JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id AND c.open_xid = pg_current_xact_id()
ON CONFLICT DO NOTHING`,
		Args: []any{org, call, provider, model, key},
	}
}

func passPostgres(rows []*Opening) db.Statement {
	org, call := openingKeys(rows)
	return db.Statement{
		SQL: `UPDATE calls c SET state = 'closed', outcome = 'complete', closed_at = now()
FROM unnest($1::text[], $2::text[]) AS u (org_id, call_id)
WHERE c.org_id = u.org_id AND c.call_id = u.call_id AND c.open_xid = pg_current_xact_id()`,
		Args: []any{org, call},
	}
}

func openedPostgres(rows []*Opening) db.Statement {
	at := make(map[string]*Opening, len(rows))
	for _, r := range rows {
		r.Result = Stale
		at[string(r.Org)+"/"+string(r.ID)] = r
	}
	org, call := openingKeys(rows)
	thread, key, claim := texts(len(rows)), texts(len(rows)), texts(len(rows))
	for i, r := range rows {
		thread[i], key[i], claim[i] = string(r.Thread), string(r.Key), r.Claim
	}
	return db.Statement{
		SQL: `SELECT u.org_id, u.call_id,
  EXISTS (SELECT FROM calls c WHERE c.org_id = u.org_id AND c.call_id = u.call_id),
  EXISTS (SELECT FROM calls c WHERE c.org_id = u.org_id AND c.thread_id = u.thread_id AND c.state = 'open' AND c.thread_id IS NOT NULL),
  EXISTS (SELECT FROM calls c WHERE c.org_id = u.org_id AND c.key_id = u.key_id AND c.claim = u.claim)
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS u (org_id, call_id, thread_id, key_id, claim)`,
		Args: []any{org, call, thread, key, claim},
		Each: func(row db.Row) error {
			var org, call string
			var own, taken, claimed bool
			if err := row.Scan(&org, &call, &own, &taken, &claimed); err != nil {
				return err
			}
			switch r := at[org+"/"+call]; {
			case own:
				r.Result = Won
			case claimed: // before the turn: what has both is waited for as a repeat
				r.Result = Repeats
			case taken:
				r.Result = Busy
			}
			return nil
		},
	}
}

// closePostgres is the fence: only the owner of the call's present epoch closes it, and only once.
func closePostgres(rows []*Closing) db.Statement {
	slices.SortFunc(rows, func(a, b *Closing) int { return cmp.Or(cmp.Compare(a.Org, b.Org), cmp.Compare(a.ID, b.ID)) })
	n := len(rows)
	org, call, record, outcome, reason, facts := texts(n), texts(n), texts(n), texts(n), texts(n), texts(n)
	epoch, fence := make([]int32, n), `c.epoch = u.epoch`
	if seedbug.On("no-epoch") {
		fence = `c.epoch >= u.epoch`
	}
	for i, r := range rows {
		org[i], call[i], record[i], epoch[i] = string(r.Org), string(r.ID), r.RecordID, int32(r.Epoch)
		outcome[i], reason[i], facts[i] = string(r.Outcome), r.Reason, r.Facts.json()
	}
	return db.Statement{
		SQL: `UPDATE calls c SET state = 'closed', outcome = u.outcome::call_outcome, reason = nullif(u.reason, ''), record_id = u.record_id,
  facts = c.facts || u.facts::jsonb, claim = CASE WHEN u.outcome = 'complete' THEN c.claim END, closed_at = now(), close_xid = pg_current_xact_id()
FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[])
  AS u (org_id, call_id, epoch, record_id, outcome, reason, facts)
WHERE c.org_id = u.org_id AND c.call_id = u.call_id AND ` + fence + ` AND c.state = 'open'`,
		Args: []any{org, call, epoch, record, outcome, reason, facts},
	}
}

func endPostgres(rows []*Closing) db.Statement {
	var org, call, state, code, upstream []string
	var n, status []int32
	var first, total []int64
	var billed []bool
	for _, r := range rows {
		for _, a := range r.Attempts {
			org, call, n = append(org, string(r.Org)), append(call, string(r.ID)), append(n, int32(a.N))
			state, status, code = append(state, string(a.State)), append(status, int32(a.Status)), append(code, a.Code)
			upstream, billed = append(upstream, a.UpstreamID), append(billed, a.MaybeBilled)
			first, total = append(first, a.FirstMS), append(total, a.TotalMS)
		}
	}
	return db.Statement{
		SQL: `UPDATE attempts a SET state = u.state::attempt_state, status = nullif(u.status, 0), code = nullif(u.code, ''), upstream_id = nullif(u.upstream_id, ''),
  maybe_billed = u.maybe_billed, first_ms = nullif(u.first_ms, 0), total_ms = u.total_ms, ended_at = now()
FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::int[], $6::text[], $7::text[], $8::boolean[], $9::bigint[], $10::bigint[])
  AS u (org_id, call_id, n, state, status, code, upstream_id, maybe_billed, first_ms, total_ms)
JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id AND c.close_xid = pg_current_xact_id()
WHERE a.org_id = u.org_id AND a.call_id = u.call_id AND a.n = u.n`,
		Args: []any{org, call, n, state, status, code, upstream, billed, first, total},
	}
}

func recordedPostgres(rows []*Closing) db.Statement {
	at := make(map[string]*Closing, len(rows))
	n := len(rows)
	org, call, record := texts(n), texts(n), texts(n)
	for i, r := range rows {
		r.Recorded = seedbug.On("refusal-unseen")
		at[r.RecordID] = r
		org[i], call[i], record[i] = string(r.Org), string(r.ID), r.RecordID
	}
	return db.Statement{
		SQL: `SELECT c.record_id FROM unnest($1::text[], $2::text[], $3::text[]) AS u (org_id, call_id, record_id)
JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id AND c.record_id = u.record_id`,
		Args: []any{org, call, record},
		Each: func(row db.Row) error {
			var id string
			if err := row.Scan(&id); err != nil {
				return err
			}
			at[id].Recorded = true
			return nil
		},
	}
}

func openingKeys(rows []*Opening) (org, call []string) {
	org, call = texts(len(rows)), texts(len(rows))
	for i, r := range rows {
		org[i], call[i] = string(r.Org), string(r.ID)
	}
	return org, call
}

func texts(n int) []string { return make([]string, n) }
