package threads

import (
	"cmp"
	"context"
	"database/sql"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/openai"
)

// EmptyAnswer is stored where a provider never answered: incomplete, with its reason. It is never sent upstream.
const EmptyAnswer = `{"role":"assistant","content":""}`

func emptyAnswer(m *Message) bool { return string(m.Raw) == EmptyAnswer }

// Viewer is who looks: a private thread is seen by the user who made it and by admins.
type Viewer struct {
	User  id.User
	Admin bool
}

// sees reports whether t is there for v. A nil t and a deleted one are for nobody.
func (v Viewer) sees(t *Thread) bool {
	return t != nil && !t.deleted && (t.Visibility == "org" || v.Admin || t.User == v.User)
}

// Absent is the answer for a thread that is not there, or not for this caller to know of: the same bytes whatever the id.
func Absent() error {
	return fault.New(fault.NotFound, "there is no such thread").WithCode("thread_not_found")
}

const threadColumns = `t.org_id, t.thread_id, t.user_id, t.title, t.description, t.visibility, t.window_policy, t.forked_from, t.forked_seq,
  t.created_at, t.deleted_at,
  coalesce((SELECT m.created_at FROM messages m WHERE m.org_id = t.org_id AND m.thread_id = t.thread_id ORDER BY m.seq DESC LIMIT 1), t.created_at)`

const messageColumns = `seq, call_id, role, raw, own, chain, status, reason, meta, created_at`

// Turn says what a request adds to a thread, which it may make, and what of the thread goes before it (see decide). fork
// lets a request that differs inside the thread go on in a new one. Call Fit before History is used. Errors: fault.Conflict
// thread_diverged; fault.NotFound for a private thread of somebody else, or a deleted one.
func (s *Store) Turn(ctx context.Context, org id.Org, thread id.Thread, who Viewer, request []openai.Message, fork bool) (*Turn, *Thread, error) {
	in, bad := hashed(request)
	v, err := s.look(ctx, org, thread, who, in)
	if err == nil {
		err = bad // of a thread that is not there for the caller nothing else is told
	}
	if err != nil {
		return nil, nil, err
	}
	t, err := decide(v, in, fork)
	if err != nil {
		return nil, nil, err
	}
	t.Create = v.thread == nil
	if t.Fork != nil {
		t.Fork.From = thread
	}
	return t, v.thread, nil
}

// Again is a turn that asks once more what was said last in a thread: the newest message that is no answer, which is
// returned as the request's, with what stands before it as history. What answers to it there are already are not shown.
// Call Fit before History is used. Errors: fault.NotFound as for Thread; fault.Conflict nothing_to_answer when nobody has
// said anything.
func (s *Store) Again(ctx context.Context, org id.Org, thread id.Thread, who Viewer) (*Turn, *Thread, *Message, error) {
	v, err := s.look(ctx, org, thread, who, nil)
	if err == nil && v.thread == nil {
		err = Absent()
	}
	if err != nil {
		return nil, nil, nil, err
	}
	for seq := endless; ; {
		page, err := v.before(seq)
		if err != nil {
			return nil, nil, nil, err
		}
		for i := len(page) - 1; i >= 0; i-- {
			if m := page[i]; !isSystem(m.Role) && m.Role != "assistant" {
				head := v.head()
				return &Turn{th: v, thin: true, before: m.Seq, Mode: Deduplicated, PrevSeq: head.Seq, PrevChain: head.Chain, Chain: head.Chain}, v.thread, m, nil
			}
		}
		if startsThread(page) {
			return nil, nil, nil, fault.New(fault.Conflict, "nobody has said anything in this thread yet that could be answered; send content").
				WithCode("nothing_to_answer").NoRetry()
		}
		seq = page[0].Seq
	}
}

// Thread returns a thread without its messages. Errors: fault.NotFound, also for a private thread of somebody else, or a
// deleted one.
func (s *Store) Thread(ctx context.Context, org id.Org, thread id.Thread, who Viewer) (*Thread, error) {
	var t *Thread
	if err := s.db.Query(ctx, org, threadQuery(&t, org, thread)); err != nil {
		return nil, err
	}
	if !who.sees(t) {
		return nil, Absent()
	}
	return t, nil
}

// threadQuery reads one thread into t, which stays nil if there is none.
func threadQuery(t **Thread, org id.Org, thread id.Thread) db.Query {
	return db.Query{
		SQL:  `SELECT ` + threadColumns + ` FROM threads t WHERE t.org_id = $1 AND t.thread_id = $2`,
		Args: []any{org, thread},
		Each: func(row db.Row) (err error) { *t, err = scanThread(row); return err },
	}
}

// threadIn reads one thread in a transaction; nil if there is none.
func threadIn(ctx context.Context, tx db.Tx, org id.Org, thread id.Thread) (t *Thread, err error) {
	q := threadQuery(&t, org, thread)
	err = tx.Query(ctx, q.SQL, q.Args, q.Each)
	return t, err
}

// Head returns the newest message of a thread, or nil.
func (s *Store) Head(ctx context.Context, org id.Org, thread id.Thread) (*Message, error) {
	var head *Message
	err := s.db.Query(ctx, org, db.Query{
		SQL:  `SELECT ` + messageColumns + ` FROM messages WHERE org_id = $1 AND thread_id = $2 ORDER BY seq DESC LIMIT 1`,
		Args: []any{org, thread},
		Each: func(row db.Row) (err error) { head, err = scanMessage(row); return err },
	})
	return head, err
}

// Spec is a thread to be made.
type Spec struct {
	User        id.User
	Title       string
	Description string
	Visibility  string // "": org
}

// Create makes a thread with an id of ours.
func (s *Store) Create(ctx context.Context, org id.Org, spec Spec) (*Thread, error) {
	t := &Thread{ID: id.NewThread(), Org: org}
	words := titleWords(spec.Title, spec.Description)
	err := s.db.Write(ctx, org, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO threads (org_id, thread_id, user_id, title, description, words, visibility, canon) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			org, t.ID, spec.User, spec.Title, spec.Description, words, cmp.Or(spec.Visibility, "org"), openai.CanonVersion)
		if err != nil {
			return err
		}
		t, err = threadIn(ctx, tx, org, t.ID)
		return err
	})
	return t, err
}

// Cursor is where a list goes on: after this thread. The zero Cursor is the beginning.
type Cursor struct {
	CreatedAt time.Time
	Thread    id.Thread
}

// List returns up to limit threads that who may see, newest made first, from after cursor on.
func (s *Store) List(ctx context.Context, org id.Org, who Viewer, after Cursor, limit int) ([]*Thread, error) {
	d := s.db.Dialect()
	q := `SELECT ` + threadColumns + ` FROM threads t WHERE t.org_id = $1 AND t.deleted_at IS NULL AND (t.visibility = 'org' OR t.user_id = $2 OR $3)`
	args := []any{org, who.User, who.Admin, limit}
	if after.Thread != "" {
		q += ` AND (t.created_at, t.thread_id) < ($5, $6)`
		args = append(args, db.At(d, after.CreatedAt), after.Thread)
	}
	var list []*Thread
	err := s.db.Query(ctx, org, db.Query{
		SQL: q + ` ORDER BY t.created_at DESC, t.thread_id DESC LIMIT $4`, Args: args,
		Each: func(row db.Row) error {
			t, err := scanThread(row)
			list = append(list, t)
			return err
		},
	})
	return list, err
}

func scanThread(row db.Row) (*Thread, error) {
	t := &Thread{}
	var created, gone, updated db.Time
	var policy, from sql.NullString
	var upto sql.NullInt32
	err := row.Scan(&t.Org, &t.ID, &t.User, &t.Title, &t.Description, &t.Visibility, &policy, &from, &upto, &created, &gone, &updated)
	t.WindowPolicy, t.ForkedFrom, t.ForkedSeq = Policy(policy.String), id.Thread(from.String), int(upto.Int32)
	t.CreatedAt, t.UpdatedAt, t.deleted = created.Time, updated.Time, !gone.IsZero()
	return t, err
}

func scanMessage(row db.Row) (*Message, error) {
	m := &Message{}
	var reason sql.NullString
	var created db.Time
	err := row.Scan(&m.Seq, &m.Call, &m.Role, &m.Raw, &m.Own, &m.Chain, &m.Status, &reason, &m.Meta, &created)
	m.Reason, m.CreatedAt = reason.String, created.Time
	if m.Chain == nil { // as SQLite's driver reads an empty one
		m.Chain = []byte{}
	}
	return m, err
}
