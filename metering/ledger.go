package metering

import (
	"context"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// Kinds of lines. A correction has a kind of its own, "fix:" and its id.
const (
	Use  = "use"  // the attempt itself, in the transaction that closes its call
	Late = "late" // what became known after the call was closed
)

// Line is what one attempt cost. It is written once and never changed.
type Line struct {
	Org         id.Org
	Call        id.Request
	N           int    // the attempt, from 0
	Kind        string // Use, Late, or a correction's; "" is Use
	Key         id.Key
	User        id.User
	Team        id.Team   // "": none
	Thread      id.Thread // "": none
	Provider    string
	Model       string // the provider's name for it
	Charge      Charge
	MaybeBilled bool      // the provider may bill what it did not tell us
	At          time.Time // when it was written, by the store's clock; read only

	written bool // by the commit, and not by an earlier one; set on SQLite alone
}

// Ledger writes the lines of all orgs, into the one store that was opened with its Stage. Safe for concurrent use.
type Ledger struct{ stage *db.StageOf[Line] }

// New returns a ledger.
func New() *Ledger {
	return &Ledger{db.NewStage("metering.lines", insertPostgres, insertSQLite)}
}

// Stage writes lines: those of kind Use only if the call they belong to is closed by the same unit, others only if it is
// closed. A line that is there already stays as it is.
func (l *Ledger) Stage() db.Stage { return l.stage }

// Put adds line to what u writes.
func (l *Ledger) Put(u *db.Unit, line *Line) {
	if line.Kind == "" {
		line.Kind = Use
	}
	l.stage.Put(u, line, lineSize)
}

const lineSize = 450 // bytes, roughly

// Lines returns the lines of one call in the order of its attempts; none if there is no such call in the org.
func Lines(ctx context.Context, store db.Store, org id.Org, call id.Request) ([]Line, error) {
	var lines []Line
	err := store.Query(ctx, org, db.Query{
		SQL: `SELECT n, kind, key_id, user_id, COALESCE(team_id, ''), COALESCE(thread_id, ''), provider, model,
			input_tokens, cached_tokens, cache_write_tokens, audio_input_tokens, tool_input_tokens,
			output_tokens, reasoning_tokens, audio_output_tokens, image_output_tokens, searches,
			cost_pico, computed_pico, provider_pico, vendor_pico, CAST(status AS text), maybe_billed, price_version, at
			FROM ledger WHERE org_id = $1 AND call_id = $2 ORDER BY n, kind`,
		Args: []any{string(org), string(call)},
		Each: func(r db.Row) error {
			line, err := scanLine(r)
			line.Org, line.Call = org, call
			lines = append(lines, line)
			return err
		},
	})
	return lines, err
}

func scanLine(r db.Row) (Line, error) {
	var (
		line                       Line
		key, user, team, thread    string
		cost                       int64
		computed, provider, vendor = new(*int64), new(*int64), new(*int64)
		status                     string
		at                         db.Time
	)
	c := &line.Charge
	err := r.Scan(&line.N, &line.Kind, &key, &user, &team, &thread, &line.Provider, &line.Model,
		&c.Input, &c.Cached, &c.CacheWrite, &c.AudioInput, &c.ToolInput,
		&c.Output, &c.Reasoning, &c.AudioOutput, &c.ImageOutput, &c.Searches,
		&cost, computed, provider, vendor, &status, &line.MaybeBilled, &c.Version, &at)
	line.Key, line.User, line.Team, line.Thread = id.Key(key), id.User(user), id.Team(team), id.Thread(thread)
	c.Cost, c.Computed, c.Provider, c.Vendor, c.Status = PicoUSD(cost), (*PicoUSD)(*computed), (*PicoUSD)(*provider), (*PicoUSD)(*vendor), Status(status)
	line.At = at.Time
	return line, err
}
