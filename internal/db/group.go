package db

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/id"
)

func (s *postgresStore) Commit(ctx context.Context, u *Unit) error {
	if err := s.stands(); err != nil {
		return err
	}
	return s.writer.commit(ctx, u)
}

// group commits units together. If that fails, for whatever reason, they go to the side lane, each alone and each
// repeated by its own keys, while the writer goes on.
func (s *postgresStore) group(units []*Unit) {
	defer func() {
		if v := recover(); v != nil {
			s.disconnect() // nobody knows what is under way on it
			panic(v)
		}
	}()
	ctx := context.Background()
	start := time.Now()
	if units = s.loners(units, start); len(units) == 0 {
		return
	}
	err := s.connected(ctx)
	if err == nil {
		if err = s.run(ctx, s.conn, units, groupLockWait, s.o.Timeout); lost(err) {
			s.disconnect()
		}
		s.used = time.Now()
	}
	s.breaker.reached(!lost(err))
	if err == nil {
		for _, u := range units {
			u.finish(nil)
		}
		return
	}
	s.o.Log.Warn("a group of units failed and is run one by one", "units", len(units), "error", err)
	for _, u := range units {
		s.alones.Go(s.o.Panics.Wrap("store", func() { s.aside(u, start, err) }))
	}
}

// loners runs the units that are to be alone, and returns the others.
func (s *postgresStore) loners(units []*Unit, start time.Time) (others []*Unit) {
	if !slices.ContainsFunc(units, func(u *Unit) bool { return u.Alone }) {
		return units
	}
	for _, u := range units {
		if !u.Alone {
			others = append(others, u)
			continue
		}
		s.alones.Go(s.o.Panics.Wrap("store", func() { s.aside(u, start, errAlone) }))
	}
	return others
}

// errAlone stands for the failure of a group that was not tried.
var errAlone = errors.New("db: a unit that is to be alone")

// aside is alone, with an answer also where that panics.
func (s *postgresStore) aside(u *Unit, start time.Time, err error) {
	returned := false
	defer func() {
		if !returned {
			u.finish(errPanicked)
		}
	}()
	s.alone(u, start, err)
	returned = true
}

// rest is after how much of it a connection is asked whether it still is one: what is sent into a dead one has to be
// taken for sent. That its server has closed it is seen at any time.
const rest = time.Second

// connected sees to it that the writer has a connection.
func (s *postgresStore) connected(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	if s.conn != nil && (s.conn.IsClosed() || hungUp(s.conn.PgConn().Conn()) || time.Since(s.used) > rest && s.conn.Ping(ctx) != nil) {
		s.disconnect()
	}
	if s.conn != nil {
		return nil
	}
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	s.conn, s.used = c, time.Now()
	return nil
}

func (s *postgresStore) disconnect() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.o.Timeout)
	defer cancel()
	_ = s.conn.Close(ctx)
	s.conn = nil
}

func (s *postgresStore) connect(ctx context.Context) (*pgx.Conn, error) {
	c, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return nil, lostError{err, false}
	}
	if err := s.arrived(ctx, c); err != nil {
		_ = c.Close(ctx)
		return nil, lostError{err, false}
	}
	return c, nil
}

// run is one transaction over units in one round trip: what it set up, every stage that has rows, COMMIT.
func (s *postgresStore) run(ctx context.Context, c *pgx.Conn, units []*Unit, lockWait, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var b pgx.Batch
	settings{orgs: orgsOf(units)}.begin(&b, "BEGIN", lockWait, timeout)
	if err := s.statements(&b, units); err != nil {
		return err
	}
	b.Queue("COMMIT")
	if err := seen(c, c.SendBatch(ctx, &b).Close()); err != nil {
		s.rollback(c)
		return err
	}
	return nil
}

// statements adds each stage that has rows.
func (s *postgresStore) statements(b *pgx.Batch, units []*Unit) (err error) {
	defer caught(&err)
	for i, stage := range s.o.Stages {
		var rows []any
		for _, u := range units {
			if i < len(u.rows) {
				rows = append(rows, u.rows[i]...)
			}
		}
		if len(rows) == 0 {
			continue
		}
		st := stage.many(rows)
		if st.SQL == "" {
			continue
		}
		name, read := stage.Name(), rowsTo(st.Each)
		b.Queue(st.SQL, st.Args...).Query(func(rows pgx.Rows) (err error) {
			defer caught(&err)
			if err := read(rows); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	return nil
}

func orgsOf(units []*Unit) string {
	seen := make(map[id.Org]bool, len(units))
	var b strings.Builder
	for _, u := range units {
		if seen[u.Org] {
			continue
		}
		seen[u.Org] = true
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(string(u.Org))
	}
	return b.String()
}
