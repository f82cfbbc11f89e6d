package db

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"threadhub/internal/fault"
	"threadhub/internal/id"
)

// The roles the gateway works as. Connections log in as whoever the URL names and put on AppRole at once; only Walk
// changes it, for one transaction.
const (
	AppRole     = "threadhub_app"
	SettlerRole = "threadhub_settler"
)

const (
	connectTimeout = 2 * time.Second
	acquireTimeout = 250 * time.Millisecond // a full pool is told to the client, not waited out
	laneWidth      = 4                      // connections of the side lane
	groupLockWait  = 100 * time.Millisecond // what a group waits for a row somebody holds
	laneLockWait   = 2 * time.Second        // what a unit alone waits
	conflictTries  = 3                      // of a transaction that lost a deadlock or a serialisation
)

// postgresStore is a pool that reads, one connection that writes groups, and a side lane that runs units one by one
// when their group failed.
type postgresStore struct {
	o      Options
	pool   *pgxpool.Pool
	writer *writer
	lane   chan struct{}
	alones sync.WaitGroup // units that run by themselves
	conn   *pgx.Conn      // the writer's; nil: connect first
	used   time.Time      // when the writer's connection last answered
}

func openPostgres(ctx context.Context, o Options) (Store, error) {
	c, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, errors.New("db: the database URL is not a valid postgres:// URL") // pgx's own text may quote the password
	}
	c.MaxConns = int32(o.MaxConns)
	c.ConnConfig.ConnectTimeout = connectTimeout
	c.ConnConfig.RuntimeParams["application_name"] = "threadhub"
	c.AfterConnect = putOnRole
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("db: %w", err)
	}
	s := &postgresStore{o: o, pool: pool, lane: make(chan struct{}, laneWidth)}
	if s.conn, err = s.connect(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("db: connecting to Postgres: %w", err)
	}
	s.used = time.Now()
	s.writer = newWriter(s)
	return s, nil
}

func putOnRole(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, "SET ROLE "+AppRole)
	return err
}

func (s *postgresStore) Dialect() Dialect { return Postgres }

func (s *postgresStore) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout+connectTimeout)
	defer cancel()
	if err := s.pool.Ping(ctx); err != nil {
		return unavailable(err)
	}
	return nil
}

// settings are transaction-local: they end with the transaction, so that a pooled connection carries none to the next.
type settings struct{ orgs, key, role string }

// begin opens a transaction and binds it, in one round trip.
func (s settings) begin(b *pgx.Batch, mode string, lockWait, timeout time.Duration) {
	b.Queue(mode)
	b.Queue("SELECT set_config('app.orgs', $1, true), set_config('app.key_id', $2, true), set_config('lock_timeout', $3, true), set_config('statement_timeout', $4, true)",
		s.orgs, s.key, millis(lockWait), millis(timeout))
	if s.role != "" {
		b.Queue("SELECT set_config('role', $1, true)", s.role)
	}
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func (s *postgresStore) Read(ctx context.Context, org id.Org, f func(Tx) error) error {
	return s.tx(ctx, settings{orgs: string(org)}, "BEGIN READ ONLY", f)
}

func (s *postgresStore) Shown(ctx context.Context, key id.Key, f func(Tx) error) error {
	return s.tx(ctx, settings{key: string(key)}, "BEGIN READ ONLY", f)
}

func (s *postgresStore) Walk(ctx context.Context, f func(Tx) error) error {
	return s.tx(ctx, settings{role: SettlerRole}, "BEGIN READ ONLY", f)
}

func (s *postgresStore) Write(ctx context.Context, org id.Org, f func(Tx) error) error {
	return s.tx(ctx, settings{orgs: string(org)}, "BEGIN", f)
}

func (s *postgresStore) Common(ctx context.Context, f func(Tx) error) error {
	return s.tx(ctx, settings{}, "BEGIN", f)
}

// tx runs f in a transaction. What fails before COMMIT was sent has not happened, so a lost connection or a conflict is
// tried again; a COMMIT that was not answered is told as outcome_unknown.
func (s *postgresStore) tx(ctx context.Context, set settings, mode string, f func(Tx) error) error {
	start := time.Now()
	for try := 1; ; try++ {
		committing, err := s.tryTx(ctx, set, mode, f)
		switch {
		case err == nil:
			return nil
		case committing && lost(err):
			return unknown(err)
		case ctx.Err() != nil:
			return ended(ctx, err)
		case try < conflictTries && conflict(err):
			pause(ctx, try)
		case try == 1 && s.stale(err, start):
			s.pool.Reset()
		default:
			return postgresFault(err)
		}
	}
}

func (s *postgresStore) tryTx(ctx context.Context, set settings, mode string, f func(Tx) error) (committing bool, err error) {
	conn, err := s.acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release() // closes a connection whose transaction is not over
	err = s.send(ctx, conn.Conn(), func(b *pgx.Batch) { set.begin(b, mode, laneLockWait, 10*s.o.Timeout) })
	if err == nil {
		err = f(pgTx{conn.Conn(), s.o.Timeout})
	}
	if err != nil {
		s.rollback(conn.Conn())
		return false, err
	}
	return true, s.send(ctx, conn.Conn(), func(b *pgx.Batch) { b.Queue("COMMIT") })
}

// stale reports whether err is a connection that was found dead at once, as after a restart of the server: one dead idle
// connection rarely is alone, and a fresh one is worth a try. A server that is silent has had its time.
func (s *postgresStore) stale(err error, start time.Time) bool {
	return lost(err) && time.Since(start) < s.o.Timeout/2
}

// acquire takes a connection. A pool whose connections are all in use is waited for acquireTimeout; one that can make
// another, for as long as one read may take.
func (s *postgresStore) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	var err error
	for _, d := range []time.Duration{acquireTimeout, s.o.Timeout} {
		wait, cancel := context.WithTimeout(ctx, d)
		var conn *pgxpool.Conn
		conn, err = s.pool.Acquire(wait)
		timedOut := wait.Err() != nil
		cancel()
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case s.pool.Stat().AcquiredConns() >= s.pool.Config().MaxConns:
			return nil, busy(err)
		case !timedOut:
			return nil, lostError{err, false}
		}
	}
	return nil, lostError{err, false}
}

// send runs a batch whose results nobody reads.
func (s *postgresStore) send(ctx context.Context, c *pgx.Conn, fill func(*pgx.Batch)) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	var b pgx.Batch
	fill(&b)
	return seen(c, c.SendBatch(ctx, &b).Close())
}

func (s *postgresStore) rollback(c *pgx.Conn) {
	if c.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.o.Timeout)
	defer cancel()
	if _, err := c.Exec(ctx, "ROLLBACK"); err != nil {
		_ = c.Close(ctx)
	}
}

func (s *postgresStore) Query(ctx context.Context, org id.Org, qs ...Query) error {
	start := time.Now()
	err := s.tryQuery(ctx, org, qs)
	if s.stale(err, start) && ctx.Err() == nil {
		s.pool.Reset()
		err = s.tryQuery(ctx, org, qs)
	}
	if err != nil && ctx.Err() != nil {
		return ended(ctx, err)
	}
	return postgresFault(err)
}

func (s *postgresStore) tryQuery(ctx context.Context, org id.Org, qs []Query) error {
	conn, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	limit, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	var b pgx.Batch
	settings{orgs: string(org)}.begin(&b, "BEGIN READ ONLY", laneLockWait, s.o.Timeout)
	for _, q := range qs {
		b.Queue(q.SQL, q.Args...).Query(rowsTo(q.Each))
	}
	b.Queue("COMMIT")
	if err := seen(conn.Conn(), conn.SendBatch(limit, &b).Close()); err != nil {
		s.rollback(conn.Conn())
		return err
	}
	return nil
}

func rowsTo(each func(Row) error) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		for rows.Next() {
			if each == nil {
				continue
			}
			if err := each(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}

func (s *postgresStore) Commit(ctx context.Context, u *Unit) error { return s.writer.commit(ctx, u) }

// group commits units together. If that fails, for whatever reason, they go to the side lane, each alone and each
// repeated by its own keys, while the writer goes on.
func (s *postgresStore) group(units []*Unit) {
	ctx := context.Background()
	start := time.Now()
	err := s.connected(ctx)
	if err == nil {
		if err = s.run(ctx, s.conn, units, groupLockWait, s.o.Timeout); lost(err) {
			s.disconnect()
		}
		s.used = time.Now()
	}
	s.writer.reached(err == nil || !lost(err))
	if err == nil {
		for _, u := range units {
			u.finish(nil)
		}
		return
	}
	s.o.Log.Warn("a group of units failed and is run one by one", "units", len(units), "error", err)
	for _, u := range units {
		s.alones.Go(func() { s.alone(u, start, err) })
	}
}

// rest is after how much of it a connection is asked whether it still is one: what is sent into a dead one has to be
// taken for sent.
const rest = time.Second

// connected sees to it that the writer has a connection.
func (s *postgresStore) connected(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	if s.conn != nil && (s.conn.IsClosed() || time.Since(s.used) > rest && s.conn.Ping(ctx) != nil) {
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
	if err := putOnRole(ctx, c); err != nil {
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

// alone runs u by itself until it is done, refused, or its patience is over. After a lost connection the first
// transaction may still be running: running u again waits behind it, and finds it or happens. From then on no failure
// says that u has not happened, whatever it is.
func (s *postgresStore) alone(u *Unit, start time.Time, err error) {
	ctx, cancel := context.WithDeadline(context.Background(), start.Add(u.Patience))
	defer cancel()
	sent := lost(err) && !dialing(err)
	for try, conflicts := 0, 0; ; {
		switch {
		case err == nil:
			u.finish(nil)
			return
		case ctx.Err() != nil, try > 0 && !lost(err) && !conflict(err) && !waited(err):
			u.finish(verdict(u, sent, err))
			return
		case lost(err) && !sent && !u.Record && time.Since(start) >= s.o.Timeout, // nothing is in doubt
			waited(err) && try > 0 && !sent && !u.Record:
			u.finish(postgresFault(err))
			return
		case conflict(err):
			if conflicts++; conflicts > conflictTries {
				u.finish(verdict(u, sent, err))
				return
			}
		}
		if try > 0 {
			pause(ctx, try)
		}
		try++
		select {
		case s.lane <- struct{}{}:
			err = s.aloneOnce(ctx, u)
			<-s.lane
			sent = sent || lost(err) && !dialing(err)
		case <-ctx.Done():
		}
	}
}

// verdict is what u's caller is told of its last failure.
func verdict(u *Unit, sent bool, err error) error {
	if sent && !u.Record { // a record's caller repeats it, and need not know
		return unknown(err)
	}
	return postgresFault(err)
}

func (s *postgresStore) aloneOnce(ctx context.Context, u *Unit) error {
	wait, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	conn, err := s.pool.Acquire(wait)
	if err != nil {
		return lostError{err, false}
	}
	defer conn.Release()
	err = s.run(ctx, conn.Conn(), []*Unit{u}, laneLockWait, laneLockWait+s.o.Timeout)
	s.writer.reached(err == nil || !lost(err))
	return err
}

func (s *postgresStore) Close() error {
	s.writer.close()
	s.alones.Wait()
	s.disconnect()
	s.pool.Close()
	return nil
}

// pause waits a little longer after each try, with jitter, so that those who collided do not meet again.
func pause(ctx context.Context, try int) {
	d := min(50*time.Millisecond<<min(try-1, 4), 500*time.Millisecond)
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// lostError is a connection that ended, or never was: what it was asked is unknown, or was never sent.
type lostError struct {
	error
	sent bool
}

func (e lostError) Unwrap() error { return e.error }

// seen marks err as lost if c did not survive it. pgx closes a connection it can no longer trust, and only then.
func seen(c *pgx.Conn, err error) error {
	if err != nil && c.IsClosed() {
		return lostError{err, true}
	}
	return err
}

func dialing(err error) bool {
	var l lostError
	return errors.As(err, &l) && !l.sent
}

// lost reports whether err is of the connection, or of a server going away, and not an answer to a statement.
func lost(err error) bool {
	var l lostError
	if errors.As(err, &l) {
		return true
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case "57P01", "57P02", "57P03", "25006": // shut down, crashed, starting; a standby that was promoted elsewhere
		return true
	}
	return strings.HasPrefix(e.Code, "08")
}

func conflict(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "40001" || e.Code == "40P01")
}

// waited reports whether err is a wait that came to nothing: for a lock, or for the statement itself.
func waited(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "55P03" || e.Code == "57014")
}

// ErrLocked is in the chain of an error that says that somebody else held what was to be written.
var ErrLocked = errors.New("db: locked by another transaction")

// ended is the error of what the end of ctx has ended: its cause, if that is one for clients.
func ended(ctx context.Context, err error) error {
	var f *fault.Error
	if cause := context.Cause(ctx); errors.As(cause, &f) {
		return cause
	}
	return postgresFault(err)
}

func unknown(cause error) *fault.Error {
	return fault.Wrap(fault.Unavailable, cause, "the gateway's storage did not say whether it stored this; repeating the request is safe").
		WithCode("outcome_unknown").After(time.Second)
}

// postgresFault gives the database's own troubles a kind; what a room said stays as it is.
func postgresFault(err error) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) || errors.Is(err, ErrNoRows) {
		return err
	}
	var e *pgconn.PgError
	switch {
	case lost(err):
		return unavailable(err)
	case !errors.As(err, &e):
		return err
	case e.Code == "53100":
		return full(err)
	case e.Code == "55P03":
		return busy(fmt.Errorf("%w: %w", ErrLocked, err))
	case e.Code == "57014":
		return busy(err)
	case e.Code == "42501": // row-level security stands between the statement and the row
		return fault.Wrap(fault.Internal, err, "the gateway lost track of whose data this is, and stored and showed nothing").WithCode("tenant_context")
	}
	return err
}

// pgTx is a Tx over pgx.
type pgTx struct {
	conn    *pgx.Conn
	timeout time.Duration
}

func (t pgTx) Dialect() Dialect { return Postgres }

func (t pgTx) Exec(ctx context.Context, q string, args ...any) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*t.timeout)
	defer cancel()
	tag, err := t.conn.Exec(ctx, q, args...)
	return tag.RowsAffected(), seen(t.conn, err)
}

func (t pgTx) Query(ctx context.Context, q string, args []any, each func(Row) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*t.timeout)
	defer cancel()
	rows, err := t.conn.Query(ctx, q, args...)
	if err != nil {
		return seen(t.conn, err)
	}
	defer rows.Close()
	return seen(t.conn, rowsTo(each)(rows))
}

func (t pgTx) QueryRow(ctx context.Context, q string, args []any, dest ...any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*t.timeout)
	defer cancel()
	err := t.conn.QueryRow(ctx, q, args...).Scan(dest...)
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNoRows
	}
	return seen(t.conn, err)
}
