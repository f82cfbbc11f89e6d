package threads

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// view is a thread as one request looks at it: its newest messages, read with the thread itself in one round trip, and
// more of it where that does not suffice. What is read grows with the request and with the window, not with the thread.
// All of it ends at the head that was found at first: what has come since is not of this view.
type view struct {
	s      *Store
	ctx    context.Context
	org    id.Org
	thread *Thread // nil: there is none
	id     id.Thread

	tail   []*Message       // the newest, in sequence
	bytes  bool             // the tail has the messages' bytes
	system []*Message       // the newest system messages; only where the request has none and needs them
	stored map[[32]byte]int // the request's system messages that are there already, and where
}

const (
	tailRows     = 64      // read at first
	pageRows     = 256     // read at a time after that, where bytes are wanted
	pageBytes    = 4 << 20 // and no more than this many bytes, but for the first message
	systemRows   = 64      // one call stores no more system messages that count
	placesAtMost = 64      // of a message that stands in a thread many times
	hashesOnce   = 500     // looked for in one statement
)

// lightColumns are messageColumns without what only a provider or a reader needs.
const lightColumns = `seq, call_id, role, '' AS raw, own, chain, status, reason, NULL AS meta, created_at`

// tailSQL is the newest $3 messages below $4, in falling sequence, as far back as $5 bytes go.
const tailSQL = `SELECT ` + messageColumns + ` FROM (SELECT *, sum(octet_length(raw)) OVER (ORDER BY seq DESC) - octet_length(raw) AS before
  FROM (SELECT * FROM messages WHERE org_id = $1 AND thread_id = $2 AND seq < $4 ORDER BY seq DESC LIMIT $3) AS newest) AS page
WHERE before < $5 ORDER BY seq DESC`

const lightTailSQL = `SELECT ` + lightColumns + ` FROM messages WHERE org_id = $1 AND thread_id = $2 AND seq <= $4 ORDER BY seq DESC LIMIT $3`

const isSystemSQL = `(role = 'system' OR role = 'developer')`

// endless is a sequence no message has.
const endless = 1<<31 - 1

// look opens a view of a thread for a request. Errors: as Store.Thread, but for a thread that is not there, which is no
// error.
func (s *Store) look(ctx context.Context, org id.Org, thread id.Thread, who Viewer, in []incoming) (*view, error) {
	v := &view{s: s, ctx: ctx, org: org, id: thread, bytes: !hasAssistant(in), stored: map[[32]byte]int{}}
	tail := db.Query{SQL: lightTailSQL, Args: []any{org, thread, tailRows, endless}, Each: v.add(&v.tail)}
	if v.bytes {
		tail.SQL, tail.Args = tailSQL, []any{org, thread, tailRows, endless, pageBytes}
	}
	queries := []db.Query{threadQuery(&v.thread, org, thread), tail}
	if own := systemHashes(in); len(own) > 0 {
		queries = append(queries, v.systemsQueries(own)...)
	} else if v.bytes {
		queries = append(queries, db.Query{
			SQL:  `SELECT ` + messageColumns + ` FROM messages WHERE org_id = $1 AND thread_id = $2 AND ` + isSystemSQL + ` ORDER BY seq DESC LIMIT $3`,
			Args: []any{org, thread, systemRows}, Each: v.add(&v.system),
		})
	}
	if err := s.db.Query(ctx, org, queries...); err != nil {
		return nil, err
	}
	if v.thread != nil && !who.sees(v.thread) {
		return nil, Absent()
	}
	slices.Reverse(v.tail)
	slices.Reverse(v.system)
	return v, nil
}

func systemHashes(in []incoming) (own [][]byte) {
	for i := range in {
		if isSystem(in[i].role) {
			own = append(own, in[i].own[:])
		}
	}
	return own
}

func (v *view) add(to *[]*Message) func(db.Row) error {
	return func(row db.Row) error {
		m, err := scanMessage(row)
		*to = append(*to, m)
		return err
	}
}

func (v *view) head() *Message {
	if len(v.tail) == 0 {
		return nil
	}
	return v.tail[len(v.tail)-1]
}

func (v *view) newest(n int) ([]*Message, error) {
	if n <= len(v.tail) || startsThread(v.tail) {
		return v.tail, nil
	}
	var tail []*Message
	err := v.s.db.Query(v.ctx, v.org, db.Query{SQL: lightTailSQL, Args: []any{v.org, v.id, n, v.head().Seq}, Each: v.add(&tail)})
	slices.Reverse(tail)
	return tail, err
}

func (v *view) from(seq, n int) ([]*Message, error) {
	if len(v.tail) > 0 && v.tail[0].Seq <= seq {
		return v.tail[seq-v.tail[0].Seq:], nil
	}
	var some []*Message
	err := v.s.db.Query(v.ctx, v.org, db.Query{
		SQL:  `SELECT ` + lightColumns + ` FROM messages WHERE org_id = $1 AND thread_id = $2 AND seq BETWEEN $3 AND $4 ORDER BY seq LIMIT $5`,
		Args: []any{v.org, v.id, seq, v.head().Seq, n}, Each: v.add(&some),
	})
	return some, err
}

func (v *view) places(own [32]byte) (list []int, err error) {
	err = v.s.db.Query(v.ctx, v.org, db.Query{
		SQL:  `SELECT seq FROM messages WHERE org_id = $1 AND thread_id = $2 AND own = $3 AND seq <= $4 ORDER BY seq DESC LIMIT $5`,
		Args: []any{v.org, v.id, own[:], v.head().Seq, placesAtMost},
		Each: func(row db.Row) error {
			var seq int
			err := row.Scan(&seq)
			list = append(list, seq)
			return err
		},
	})
	return list, err
}

// before returns the last messages below seq, with their bytes: about pageRows of them, and at least one if there is any.
func (v *view) before(seq int) ([]*Message, error) {
	if v.bytes && len(v.tail) > 0 && v.tail[0].Seq < seq {
		end := len(v.tail)
		for end > 0 && v.tail[end-1].Seq >= seq {
			end--
		}
		return v.tail[:end], nil
	}
	var page []*Message
	err := v.s.db.Query(v.ctx, v.org, db.Query{SQL: tailSQL, Args: []any{v.org, v.id, pageRows, seq, pageBytes}, Each: v.add(&page)})
	slices.Reverse(page)
	return page, err
}

func (v *view) known(own [32]byte) (seq int, ok bool) {
	seq, ok = v.stored[own]
	return seq, ok
}

// systemsQueries fill stored.
func (v *view) systemsQueries(own [][]byte) (queries []db.Query) {
	for some := range slices.Chunk(own, hashesOnce) {
		list, args := placeholders(some, v.org, v.id)
		queries = append(queries, db.Query{
			SQL:  `SELECT own, min(seq) FROM messages WHERE org_id = $1 AND thread_id = $2 AND own IN (` + list + `) GROUP BY own`,
			Args: args,
			Each: func(row db.Row) error {
				var own []byte
				var seq int
				if err := row.Scan(&own, &seq); err != nil {
					return err
				}
				v.stored[[32]byte(own)] = seq
				return nil
			},
		})
	}
	return queries
}

// answered looks for the first of some hashes that there is: one is enough.
func (v *view) answered(own [][]byte) (found bool, err error) {
	var queries []db.Query
	for some := range slices.Chunk(own, hashesOnce) {
		list, args := placeholders(some, v.org, v.id, v.head().Seq)
		queries = append(queries, db.Query{
			SQL: `SELECT seq FROM messages WHERE org_id = $1 AND thread_id = $2 AND seq <= $3 AND own IN (` + list +
				`) AND role = 'assistant' AND status = 'complete' LIMIT 1`,
			Args: args,
			Each: func(row db.Row) error {
				var seq int
				found = true
				return row.Scan(&seq)
			},
		})
	}
	if len(queries) > 0 {
		err = v.s.db.Query(v.ctx, v.org, queries...)
	}
	return found, err
}

// placeholders are those of hashes, after others in args.
func placeholders(own [][]byte, args ...any) (list string, _ []any) {
	places := make([]string, len(own))
	for i, h := range own {
		args = append(args, h)
		places[i] = fmt.Sprintf("$%d", len(args))
	}
	return strings.Join(places, ", "), args
}

func (v *view) lastSystem() ([]*Message, error) { return ofLastCall(v.system), nil }

// ofLastCall are the system messages of the last call that stored any: they stand for the older ones.
func ofLastCall(system []*Message) []*Message {
	for i := len(system) - 1; i >= 0; i-- {
		if system[i].Call != system[len(system)-1].Call {
			return system[i+1:]
		}
	}
	return system
}

// systemsBelow counts the system messages below seq.
func (v *view) systemsBelow(seq int) (n int, err error) {
	err = v.s.db.Query(v.ctx, v.org, db.Query{
		SQL:  `SELECT count(*) FROM messages WHERE org_id = $1 AND thread_id = $2 AND ` + isSystemSQL + ` AND seq < $3`,
		Args: []any{v.org, v.id, seq}, Each: func(row db.Row) error { return row.Scan(&n) },
	})
	return n, err
}
