// Package threads keeps conversations: what is new in a request, what went before it, and the answer that came.
//
// It promises that the messages of a thread are numbered from 0 without a gap, that a message once stored never changes,
// that what a client says twice is stored once, and that nobody sees a thread of another org or a private one of
// somebody else. Who may append at a given moment is decided by the open call that holds the turn (calls): the stages
// here write only where such a call stands.
package threads

import (
	"encoding/json"
	"slices"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// Status is whether a message is all of what it was to be.
type Status string

const (
	Complete   Status = "complete"
	Incomplete Status = "incomplete"
)

// Thread is a conversation without its messages.
type Thread struct {
	ID          id.Thread
	Org         id.Org
	User        id.User // who made it
	Title       string
	Description string
	Visibility  string // org, private

	WindowPolicy Policy    // ""; the org's
	ForkedFrom   id.Thread // "": it began by itself
	ForkedSeq    int       // the last message it took over from there; -1: none

	CreatedAt time.Time
	UpdatedAt time.Time // of its last message; CreatedAt if there is none

	deleted bool
}

// Message is one stored message.
type Message struct {
	Seq       int
	Call      id.Request
	Role      string
	Raw       []byte // its JSON, as sent or received
	Own       []byte // hash of its canonical form
	Chain     []byte // hash over all chained messages up to it; empty before the first
	Status    Status
	Reason    string // why it is incomplete
	Meta      []byte // answers: a Provenance; else nil
	CreatedAt time.Time

	words string // what searches find it by; made when it is written
}

// chained reports whether the message takes part in the comparison of a client's copy with ours.
func (m *Message) chained() bool { return m.Status == Complete && !isSystem(m.Role) }

func isSystem(role string) bool { return role == "system" || role == "developer" }

// Provenance is where an answer came from.
type Provenance struct {
	RequestID      id.Request        `json:"request_id,omitempty"`
	Provider       string            `json:"provider,omitempty"`
	Model          string            `json:"model,omitempty"` // asked of the provider
	ModelRequested string            `json:"model_requested,omitempty"`
	ModelServed    string            `json:"model_served,omitempty"`
	Vendor         string            `json:"vendor,omitempty"` // whom an aggregator (OpenRouter) asked
	Route          string            `json:"route,omitempty"`
	Reason         string            `json:"reason,omitempty"`
	Attempts       int               `json:"attempts,omitempty"`
	LatencyMS      int64             `json:"latency_ms,omitempty"`
	FirstTokenMS   int64             `json:"first_token_ms,omitempty"`
	FinishReason   string            `json:"finish_reason,omitempty"`
	Usage          json.RawMessage   `json:"usage,omitempty"`
	CostUSD        *string           `json:"cost_usd"` // null when unpriced
	CostStatus     string            `json:"cost_status,omitempty"`
	Choices        []json.RawMessage `json:"choices,omitempty"`        // of n > 1, but the first
	Citations      json.RawMessage   `json:"citations,omitempty"`      // addresses of what the answer rests on
	SearchResults  json.RawMessage   `json:"search_results,omitempty"` // as the provider gave them
}

// Input is a thread's row of an OPEN unit: what it must still look like, and what is added.
type Input struct {
	Org    id.Org
	Thread id.Thread
	Call   id.Request
	User   id.User
	Create bool  // none was found: it is made here
	Fork   *Fork // it is made here of another one; nil: it is not

	// Of a thread that is made here, and is no fork.
	Title       string
	Description string
	Visibility  string    // org, private; "": org
	CreatedAt   time.Time // zero: now

	// The head the decision was made on. The unit is refused if it is no longer there.
	PrevSeq   int // -1: no message yet
	PrevChain []byte

	Messages []Message // a CreatedAt of zero is now
}

// Answer is a thread's row of a RECORD unit. Its sequence follows from the call's row.
type Answer struct {
	Org     id.Org
	Call    id.Request
	Message Message
}

// Store keeps threads. Build with New, give its stages to db.Open and the result to Use.
type Store struct {
	db     db.Store
	answer *db.StageOf[Answer]
	fence  *db.StageOf[Input]
	create *db.StageOf[Input]
	fork   *db.StageOf[Input]
	append *db.StageOf[Input]
	remove *db.StageOf[Removal]
}

// New builds a Store.
func New() *Store {
	return &Store{
		answer: db.NewStage("threads.answer", answerPostgres, answerSQLite),
		fence:  db.NewStage("threads.fence", fencePostgres, fenceSQLite),
		create: db.NewStage("threads.create", createPostgres, createSQLite),
		fork:   db.NewStage("threads.fork", forkPostgres, forkSQLite),
		append: db.NewStage("threads.append", appendPostgres, appendSQLite),
		remove: db.NewStage("threads.remove", removePostgres, removeSQLite),
	}
}

// Use gives the Store the database it reads from.
func (s *Store) Use(store db.Store) { s.db = store }

// RecordStages runs after calls.close, OpenStages after calls.open.
func (s *Store) RecordStages() []db.Stage { return []db.Stage{s.answer} }

// OpenStages has between run when it is known which calls may stay, and nothing is written for them yet: stages that may
// take some of them back, too.
func (s *Store) OpenStages(between ...db.Stage) []db.Stage {
	return slices.Concat([]db.Stage{s.fence}, between, []db.Stage{s.create, s.fork, s.append, s.remove})
}

// Append adds in to u.
func (s *Store) Append(u *db.Unit, in *Input) {
	s.fence.Put(u, in, 256)
	if in.Create {
		s.create.Put(u, in, 0)
	}
	if in.Fork != nil {
		s.fork.Put(u, in, 0)
	}
	if len(in.Messages) > 0 {
		size := 0
		for i := range in.Messages {
			m := &in.Messages[i]
			m.words = messageWords(in.Org, m.Raw)
			size += len(m.Raw) + len(m.words)
		}
		s.append.Put(u, in, size)
	}
}

// Answer adds a to u.
func (s *Store) Answer(u *db.Unit, a *Answer) {
	a.Message.words = messageWords(a.Org, a.Message.Raw)
	s.answer.Put(u, a, len(a.Message.Raw)+len(a.Message.words))
}
