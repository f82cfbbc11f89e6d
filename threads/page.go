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
// they are large, but one at least; a limit of 0 is none. Errors: fault.NotFound where who sees no such thread.
func (s *Store) Page(ctx context.Context, org id.Org, thread id.Thread, who Viewer, after, limit int) (*Part, error) {
	p := &Part{Next: after + 1}
	size, most := 0, limit+1
	if limit == 0 {
		most = endless
	}
	err := s.db.Query(ctx, org,
		threadQuery(&p.Thread, org, thread),
		db.Query{
			SQL:  `SELECT ` + messageColumns + ` FROM messages WHERE org_id = $1 AND thread_id = $2 AND seq > $3 ORDER BY seq LIMIT $4`,
			Args: []any{org, thread, after, most},
			Each: func(row db.Row) error {
				if limit > 0 && (len(p.Messages) == limit || size > maxPageBytes) {
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
	if !who.sees(p.Thread) {
		return nil, Absent()
	}
	return p, nil
}
