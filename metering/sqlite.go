package metering

import (
	"context"
	"database/sql"
)

// insertSQLite writes one line. Here the call was closed by a statement before, in the same transaction, which would
// have undone the unit had it found the call closed already; only for later lines there is still something to ask.
func insertSQLite(ctx context.Context, tx *sql.Tx, l *Line) error {
	c := &l.Charge
	res, err := tx.ExecContext(ctx, `INSERT INTO ledger (org_id, call_id, n, kind, key_id, user_id, team_id, thread_id, provider, model,
			input_tokens, cached_tokens, cache_write_tokens, audio_input_tokens, tool_input_tokens,
			output_tokens, reasoning_tokens, audio_output_tokens, image_output_tokens, searches,
			cost_pico, computed_pico, provider_pico, vendor_pico, status, maybe_billed, price_version)
		SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
		WHERE EXISTS (SELECT 1 FROM calls WHERE org_id = ? AND call_id = ? AND state = 'closed')
		ON CONFLICT DO NOTHING`,
		string(l.Org), string(l.Call), l.N, l.Kind, string(l.Key), string(l.User), orNull(string(l.Team)), orNull(string(l.Thread)), l.Provider, l.Model,
		c.Input, c.Cached, c.CacheWrite, c.AudioInput, c.ToolInput, c.Output, c.Reasoning, c.AudioOutput, c.ImageOutput, c.Searches,
		int64(c.Cost), (*int64)(c.Computed), (*int64)(c.Provider), (*int64)(c.Vendor), string(c.Status), l.MaybeBilled, c.Version,
		string(l.Org), string(l.Call))
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	l.written = n == 1
	return err
}
