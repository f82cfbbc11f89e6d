// Package calls keeps what became of each request: the call, its attempts, the turn it holds in a thread, and the lease
// of the process it belongs to.
//
// It promises that a thread has at most one open call, that an Idempotency-Key has at most one call that is open or
// complete, that a call is closed exactly once and never changes after, and that the open calls of a process that died can
// be found and taken over by exactly one other. It decides nothing about content or money: threads and metering write
// their own rows in the same unit.
package calls

import (
	"encoding/json"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// Outcome is how a call ended.
type Outcome string

const (
	Complete   Outcome = "complete"
	Incomplete Outcome = "incomplete" // something came, not all of it
	Failed     Outcome = "failed"     // nothing came
)

// AttemptState is where one upstream request stands.
type AttemptState string

const (
	Begun     AttemptState = "begun"
	OK        AttemptState = "ok"
	FailedTry AttemptState = "failed"
	Cut       AttemptState = "cut"
	Unknown   AttemptState = "unknown" // its process died: it may never have reached the provider
)

// Result is what became of an Opening.
type Result uint8

const (
	Stale   Result = iota // the thread moved on since it was read: read it again
	Won                   // the call is open, or was opened by an earlier run of the same unit
	Busy                  // another call holds the thread's turn
	Repeats               // another call has its claim: see Claimed
)

// Facts is what is known of a call beside its columns. It is written in two parts, at open and at record, and merged by
// the store member by member. Members of the second part are absent until then.
type Facts struct {
	Kind           string   `json:"kind,omitempty"` // chat, embeddings, message, create, fork, admin, delete, import
	ModelRequested string   `json:"model_requested,omitempty"`
	Provider       string   `json:"provider,omitempty"`
	Model          string   `json:"model,omitempty"` // asked of the provider
	Route          string   `json:"route,omitempty"`
	Why            string   `json:"why,omitempty"` // the route's reason
	Stream         bool     `json:"stream,omitempty"`
	InputBytes     int64    `json:"input_bytes,omitempty"` // of what the model reads, for the estimate where usage is missing
	ThreadMode     string   `json:"thread_mode,omitempty"`
	ThreadOmitted  int      `json:"thread_omitted,omitempty"` // messages left out to fit the model's window
	Warnings       []string `json:"warnings,omitempty"`       // the second part has those of the first, too

	ModelServed  string          `json:"model_served,omitempty"`
	Vendor       string          `json:"vendor,omitempty"` // whom an aggregator (OpenRouter) asked
	Status       int             `json:"status,omitempty"` // the HTTP status the client was given
	FinishReason string          `json:"finish_reason,omitempty"`
	Usage        json.RawMessage `json:"usage,omitempty"`
	CostUSD      string          `json:"cost_usd,omitempty"` // "" when unpriced
	CostStatus   string          `json:"cost_status,omitempty"`
	LatencyMS    int64           `json:"latency_ms,omitempty"`
	FirstTokenMS int64           `json:"first_token_ms,omitempty"`
	OverheadMS   string          `json:"overhead_ms,omitempty"` // decimal

	Retry int `json:"retry,omitempty"` // the last repeat without an Idempotency-Key that was given its answer: see Adopt
}

// Opening is the call's row of an OPEN unit.
type Opening struct {
	Org      id.Org
	ID       id.Request
	Key      id.Key
	User     id.User
	Team     id.Team   // "": none
	Thread   id.Thread // "": a plain call, which holds no turn
	Owner    id.Owner
	FirstSeq int    // of its input messages
	NIn      int    // how many there are
	Claim    string // stands for its Idempotency-Key; "": none
	Finger   int64  // of what makes two requests the same, for a first look
	BodyHash []byte // of the same, whole
	HoldPico int64
	Facts    Facts

	// Provider and Model of attempt 0, and the key by its name; "" if no upstream is asked.
	Provider, Model, KeyName string

	// AtOnce closes the call, complete, in the unit that opens it: a message is added, no model is called.
	AtOnce bool

	Result Result // set by the commit
}

// Closing is the call's row of a RECORD unit.
type Closing struct {
	Org      id.Org
	ID       id.Request
	Epoch    int
	RecordID string // the same for every run of this unit
	Outcome  Outcome
	Reason   string // why it is not complete
	Facts    Facts
	Attempts []AttemptEnd

	Recorded bool // set by the commit: false means another closed the call, the lease is lost
}

// AttemptEnd is how one attempt ended.
type AttemptEnd struct {
	N           int
	State       AttemptState
	Status      int    // the provider's HTTP status; 0: none
	Code        string // ours, for what went wrong
	UpstreamID  string
	MaybeBilled bool
	FirstMS     int64 // to the first byte; 0: none came
	TotalMS     int64
}

// Call is a call as it is read back.
type Call struct {
	Org      id.Org
	ID       id.Request
	Key      id.Key
	User     id.User
	Team     id.Team
	Thread   id.Thread
	Epoch    int
	State    string // open, closed
	Outcome  Outcome
	Reason   string
	FirstSeq int
	NIn      int
	HoldPico int64 // what it holds while it is open
	Facts    Facts
	OpenedAt time.Time
	ClosedAt time.Time // zero while open
	Attempts []Attempt
}

// Attempt is one upstream request as it is read back.
type Attempt struct {
	N           int
	Provider    string
	Model       string
	KeyName     string // which of the org's keys; "": from before keys were told apart
	State       AttemptState
	Status      int
	Code        string
	UpstreamID  string
	MaybeBilled bool
	FirstMS     int64
	TotalMS     int64
	StartedAt   time.Time
	EndedAt     time.Time // zero while begun
}

// Store keeps calls. Its stages stand between those of other rooms: see Stages.
type Store struct {
	db      db.Store
	open    *db.StageOf[Opening]
	begin   *db.StageOf[Opening]
	pass    *db.StageOf[Opening]
	found   *db.StageOf[Opening]
	further *db.StageOf[Further]
	close   *db.StageOf[Closing]
	keep    *db.StageOf[Replay]
	end     *db.StageOf[Closing]
	done    *db.StageOf[Closing]
	take    *db.StageOf[Taking]
}

// New builds a Store. Give its stages to db.Open and the result to Use.
func New() *Store {
	return &Store{
		open:    db.NewStage("calls.open", openPostgres, openSQLite),
		begin:   db.NewStage("calls.begin", beginPostgres, beginSQLite),
		pass:    db.NewStage("calls.pass", passPostgres, passSQLite),
		found:   db.NewStage("calls.opened", openedPostgres, openedSQLite),
		further: db.NewStage("calls.further", furtherPostgres, furtherSQLite),
		close:   db.NewStage("calls.close", closePostgres, closeSQLite),
		keep:    db.NewStage("calls.keep", keepPostgres, keepSQLite),
		end:     db.NewStage("calls.end", endPostgres, endSQLite),
		done:    db.NewStage("calls.recorded", recordedPostgres, recordedSQLite),
		take:    db.NewStage("calls.take", takePostgres, takeSQLite),
	}
}

// Use gives the Store the database it reads from.
func (s *Store) Use(store db.Store) { s.db = store }

// RecordStages returns what runs before and after the rooms that write what a call brought.
func (s *Store) RecordStages() (before, after []db.Stage) {
	return []db.Stage{s.further, s.close, s.keep}, []db.Stage{s.end, s.done, s.take}
}

// OpenStages returns what runs before and after the rooms that write what a call brings in.
func (s *Store) OpenStages() (before, after []db.Stage) {
	return []db.Stage{s.open}, []db.Stage{s.begin, s.pass, s.found}
}

// Open adds o to u.
func (s *Store) Open(u *db.Unit, o *Opening) {
	s.open.Put(u, o, 512)
	if o.Provider != "" {
		s.begin.Put(u, o, 0)
	}
	if o.AtOnce {
		s.pass.Put(u, o, 0)
	}
	s.found.Put(u, o, 0)
}

// Close adds c to u.
func (s *Store) Close(u *db.Unit, c *Closing) {
	s.close.Put(u, c, 512)
	if len(c.Attempts) > 0 {
		s.end.Put(u, c, 0)
	}
	s.done.Put(u, c, 0)
}

func (f Facts) json() string {
	b, err := json.Marshal(f)
	if err != nil {
		return "{}" // only Usage could fail, and it is copied from valid JSON
	}
	return string(b)
}
