package threads

import (
	"cmp"
	"encoding/hex"
	"slices"
	"strconv"
	"time"

	"threadhub/internal/db"
	"threadhub/internal/seedbug"
	"threadhub/openai"
)

// The Postgres forms: one statement over all threads of a group. Each joins the call's own row by the transaction that
// put it in (open_xid) or closed it (close_xid), so that only winners write, and each only once.

// fencePostgres takes back calls whose thread is no longer at the head they decided on. It runs after the call has taken
// the turn: whoever else wants it waits on the index, so a fresh look shows the true head. Looking before that would not:
// the snapshot of the inserting statement may be older than the last record. A thread that was there when it was read must
// be there still, and not be deleted, as must the source of a fork; one that was not must not have come.
func fencePostgres(rows []*Input) db.Statement {
	if seedbug.On("no-fence") {
		return db.Statement{}
	}
	n := len(rows)
	org, call, thread, head := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	create, source := make([]bool, n), make([]string, n)
	for i, r := range rows {
		org[i], call[i], thread[i], head[i] = string(r.Org), string(r.Call), string(r.Thread), r.head()
		create[i] = r.makes()
		if r.Fork != nil {
			source[i] = string(r.Fork.From)
		}
	}
	return db.Statement{
		SQL: `DELETE FROM calls c USING unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::boolean[], $6::text[]) AS u (org_id, call_id, thread_id, head, made, source)
WHERE c.org_id = u.org_id AND c.call_id = u.call_id AND c.open_xid = pg_current_xact_id()
  AND (u.head <> coalesce((SELECT m.seq || ':' || encode(m.chain, 'hex') FROM messages m
    WHERE m.org_id = u.org_id AND m.thread_id = u.thread_id ORDER BY m.seq DESC LIMIT 1), '-1:')
  OR u.made = EXISTS (SELECT FROM threads t WHERE t.org_id = u.org_id AND t.thread_id = u.thread_id AND (u.made OR t.deleted_at IS NULL))
  OR u.source <> '' AND NOT EXISTS (SELECT FROM threads s WHERE s.org_id = u.org_id AND s.thread_id = u.source AND s.deleted_at IS NULL))`,
		Args: []any{org, call, thread, head, create, source},
	}
}

// head is what the thread's newest message must be. A fork's thread has none yet.
func (in *Input) head() string {
	if in.Fork != nil {
		return headText(-1, nil)
	}
	return headText(in.PrevSeq, in.PrevChain)
}

// makes reports whether the unit makes the thread.
func (in *Input) makes() bool { return in.Create || in.Fork != nil }

func headText(seq int, chain []byte) string {
	return strconv.Itoa(seq) + ":" + hex.EncodeToString(chain)
}

func createPostgres(rows []*Input) db.Statement {
	slices.SortFunc(rows, func(a, b *Input) int { return cmp.Or(cmp.Compare(a.Org, b.Org), cmp.Compare(a.Thread, b.Thread)) })
	n := len(rows)
	org, call, thread, user := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	title, description, words := make([]string, n), make([]string, n), make([]string, n)
	visibility, created := make([]string, n), make([]*time.Time, n)
	for i, r := range rows {
		org[i], call[i], thread[i], user[i] = string(r.Org), string(r.Call), string(r.Thread), string(r.User)
		title[i], description[i], words[i] = r.Title, r.Description, titleWords(r.Title, r.Description)
		visibility[i], created[i] = cmp.Or(r.Visibility, "org"), given(r.CreatedAt)
	}
	return db.Statement{
		SQL: `INSERT INTO threads (org_id, thread_id, user_id, title, description, words, visibility, created_at, canon)
SELECT u.org_id, u.thread_id, u.user_id, u.title, u.description, u.words, u.visibility, coalesce(u.created_at, now()), $10
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[])
  AS u (org_id, call_id, thread_id, user_id, title, description, words, visibility, created_at)
JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id AND c.open_xid = pg_current_xact_id()
ON CONFLICT DO NOTHING`,
		Args: []any{org, call, thread, user, title, description, words, visibility, created, openai.CanonVersion},
	}
}

func appendPostgres(rows []*Input) db.Statement {
	var org, call, thread, role, raw, status, reason, meta, words []string
	var seq []int32
	var own, chain [][]byte
	var created []*time.Time
	for _, r := range rows {
		for _, m := range r.Messages {
			org, call, thread = append(org, string(r.Org)), append(call, string(r.Call)), append(thread, string(r.Thread))
			seq, role, raw = append(seq, int32(m.Seq)), append(role, m.Role), append(raw, string(m.Raw))
			own, chain, words = append(own, m.Own), append(chain, m.Chain), append(words, m.words)
			status, reason, meta = append(status, string(m.Status)), append(reason, m.Reason), append(meta, string(m.Meta))
			created = append(created, given(m.CreatedAt))
		}
	}
	return db.Statement{
		SQL: `INSERT INTO messages (org_id, thread_id, seq, call_id, role, raw, own, chain, status, reason, meta, created_at, words)
SELECT u.org_id, u.thread_id, u.seq, u.call_id, u.role, u.raw, u.own, u.chain, u.status::message_status, nullif(u.reason, ''), nullif(u.meta, '')::json,
  coalesce(u.created_at, now()), ` + lexemes + `
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::bytea[], $8::bytea[], $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::text[])
  AS u (org_id, call_id, thread_id, seq, role, raw, own, chain, status, reason, meta, created_at, words)
JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id AND c.open_xid = pg_current_xact_id()`,
		Args: []any{org, call, thread, seq, role, raw, own, chain, status, reason, meta, created, words},
	}
}

// lexemes makes u.words, with spaces between, what the index takes. Words hold no space, and no parser looks at them.
const lexemes = `array_to_tsvector(string_to_array(nullif(u.words, ''), ' '))`

// given is t, or null for the store to say now.
func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func answerPostgres(rows []*Answer) db.Statement {
	n := len(rows)
	org, call, role, raw := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	status, reason, meta, words := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	own, chain := make([][]byte, n), make([][]byte, n)
	for i, r := range rows {
		m := &r.Message
		org[i], call[i], role[i], raw[i] = string(r.Org), string(r.Call), m.Role, string(m.Raw)
		status[i], reason[i], meta[i], own[i], chain[i] = string(m.Status), m.Reason, string(m.Meta), m.Own, m.Chain
		words[i] = m.words
	}
	return db.Statement{
		SQL: `INSERT INTO messages (org_id, thread_id, seq, call_id, role, raw, own, chain, status, reason, meta, words)
SELECT u.org_id, c.thread_id, c.first_seq + c.n_in, u.call_id, u.role, u.raw, u.own, u.chain, u.status::message_status, nullif(u.reason, ''), nullif(u.meta, '')::json, ` + lexemes + `
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::text[], $8::text[], $9::text[], $10::text[])
  AS u (org_id, call_id, role, raw, own, chain, status, reason, meta, words)
JOIN calls c ON c.org_id = u.org_id AND c.call_id = u.call_id AND c.close_xid = pg_current_xact_id() AND c.thread_id IS NOT NULL`,
		Args: []any{org, call, role, raw, own, chain, status, reason, meta, words},
	}
}
