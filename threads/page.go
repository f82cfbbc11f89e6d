package threads

import (
	"context"

	"threadhub/internal/db"
	"threadhub/internal/id"
)

// maxPageBytes is about how much of messages one Page holds.
const maxPageBytes = 4 << 20

// Part is some of a thread's messages.
type Part struct {
	Thread   *Thread
	Messages []*Message
	Next     int  // the sequence that comes after them
	More     bool // there are messages from Next on
}

// Page returns up to limit of a thread's messages after the sequence after, -1 being the beginning, in sequence; fewer where
// they are large, but one at least. Errors: fault.NotFound where who sees no such thread.
func (s *Store) Page(ctx context.Context, org id.Org, thread id.Thread, who Viewer, after, limit int) (*Part, error) {
	p := &Part{Next: after + 1}
	var gone bool
	size := 0
	err := s.db.Query(ctx, org,
		db.Query{
			SQL:  `SELECT ` + threadColumns + ` FROM threads t WHERE t.org_id = $1 AND t.thread_id = $2`,
			Args: []any{org, thread},
			Each: func(row db.Row) (err error) { p.Thread, gone, err = scanThread(row); return err },
		},
		db.Query{
			SQL:  `SELECT ` + messageColumns + ` FROM messages WHERE org_id = $1 AND thread_id = $2 AND seq > $3 ORDER BY seq LIMIT $4`,
			Args: []any{org, thread, after, limit + 1},
			Each: func(row db.Row) error {
				if len(p.Messages) == limit || size > maxPageBytes {
					p.More = true
					return nil
				}
				m, err := scanMessage(row)
				p.Messages, p.Next = append(p.Messages, m), m.Seq+1
				size += len(m.Raw) + len(m.Meta)
				return err
			},
		})
	if err != nil {
		return nil, err
	}
	if p.Thread == nil || gone || !who.sees(p.Thread) {
		return nil, Absent()
	}
	return p, nil
}
