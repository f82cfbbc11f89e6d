package db

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seedbug"
)

// The roles the gateway works as. Connections log in as whoever the URL names and put on AppRole at once; Walk, Search and
// Purge change it, each for one transaction.
const (
	AppRole     = "threadhub_app"
	SettlerRole = "threadhub_settler"
	SearchRole  = "threadhub_search"
	JanitorRole = "threadhub_janitor"
)

// Roles returns all of them.
func Roles() []string { return []string{AppRole, SettlerRole, SearchRole, JanitorRole} }

const (
	connectTimeout = 2 * time.Second
	acquireTimeout = 250 * time.Millisecond // a full pool is told to the client, not waited out
	laneWidth      = 4                      // connections of the side lane
	groupLockWait  = 100 * time.Millisecond // what a group waits for a row somebody holds
	laneLockWait   = 2 * time.Second        // what a unit alone waits
	conflictTries  = 3                      // repeats of a transaction that lost a deadlock or a serialisation
	staleTries     = 3                      // of what met dead connections
)

// postgresStore is a pool that reads, one connection that writes groups, a side lane that runs units one by one when
// their group failed, and two connections that clients cannot keep busy: one that Common has alone, so that a process's
// lease is renewed however full the pool is, and one for what else works in the background.
type postgresStore struct {
	o          Options
	pool       *conns
	common     *conns
	background *conns
	writer     *writer
	breaker    *breaker
	n          counters
	lane       chan struct{}
	alones     sync.WaitGroup // units that run by themselves
	conn       *pgx.Conn      // the writer's; nil: connect first
	used       time.Time      // when the writer's connection last answered

	servers int                    // that the URL names
	server  atomic.Pointer[string] // which of them the last connection leads to; of several

	broken  atomic.Pointer[error] // why row-level security does not stand; nil: it does
	stop    chan struct{}
	watched chan struct{}
}

func openPostgres(ctx context.Context, o Options) (Store, error) {
	c, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, errors.New("db: the database URL is not a valid postgres:// URL") // pgx's own text may quote the password
	}
	c.MaxConns = int32(o.MaxConns)
	c.ConnConfig.RuntimeParams["application_name"] = "threadhub"
	s := &postgresStore{o: o, lane: make(chan struct{}, laneWidth), breaker: newBreaker(), stop: make(chan struct{}), watched: make(chan struct{})}
	s.servers = findsWriter(c.ConnConfig, o.Timeout)
	c.AfterConnect = s.arrived
	if err := s.openConns(ctx, c); err != nil {
		return nil, fmt.Errorf("db: %w", err)
	}
	if s.conn, err = s.connect(ctx); err != nil {
		s.closeConns()
		return nil, fmt.Errorf("db: connecting to Postgres: %w", err)
	}
	s.used = time.Now()
	if o.Bound != nil {
		if err := o.Bound(ctx, s.conn); err != nil {
			_ = s.conn.Close(ctx)
			s.closeConns()
			return nil, err
		}
	}
	s.writer = newWriter(s, s.breaker, o.Panics)
	if o.Watch == nil {
		close(s.watched)
		return s, nil
	}
	go o.Panics.Run("store guard", func() { s.watch(o.WatchEvery) })
	return s, nil
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
type settings struct{ orgs, key, role, words string }

// begin opens a transaction and binds it, in one round trip.
func (s settings) begin(b *pgx.Batch, mode string, lockWait, timeout time.Duration) {
	b.Queue(mode)
	if seedbug.On("session-org") {
		b.Queue("SELECT set_config('app.orgs', $1, false)", s.orgs)
	}
	b.Queue("SELECT set_config('app.orgs', $1, true), set_config('app.key_id', $2, true), set_config('lock_timeout', $3, true), set_config('statement_timeout', $4, true)",
		s.orgs, s.key, millis(lockWait), millis(timeout))
	if s.words != "" {
		b.Queue("SELECT set_config('app.words', $1, true)", s.words)
	}
	if s.role != "" {
		b.Queue("SELECT set_config('role', $1, true)", s.role)
	}
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func (s *postgresStore) Read(ctx context.Context, org id.Org, f func(Tx) error) error {
	return s.of(ctx, org, settings{orgs: string(org)}, readOnly, f)
}

func (s *postgresStore) Shown(ctx context.Context, key id.Key, f func(Tx) error) error {
	if err := s.stands(); err != nil {
		return err
	}
	return s.asked(ctx, settings{key: string(key)}, readOnly, f)
}

func (s *postgresStore) Walk(ctx context.Context, f func(Tx) error) error {
	if err := s.stands(); err != nil {
		return err
	}
	return s.tx(ctx, s.background, settings{role: SettlerRole}, readOnly, f)
}

func (s *postgresStore) Search(ctx context.Context, org id.Org, words string, f func(Tx) error) error {
	return s.of(ctx, org, settings{orgs: string(org), words: words, role: SearchRole}, readOnly, f)
}

func (s *postgresStore) Purge(ctx context.Context, org id.Org, f func(Tx) error) error {
	return s.of(ctx, org, settings{orgs: string(org), role: JanitorRole}, readWrite, f)
}

func (s *postgresStore) Write(ctx context.Context, org id.Org, f func(Tx) error) error {
	return s.of(ctx, org, settings{orgs: string(org)}, readWrite, f)
}

func (s *postgresStore) Common(ctx context.Context, f func(Tx) error) error {
	return s.tx(ctx, s.common, settings{}, readWrite, f)
}

// How a transaction begins.
const (
	readOnly  = "BEGIN READ ONLY"
	readWrite = "BEGIN"
)

// of runs f in a transaction of one org.
func (s *postgresStore) of(ctx context.Context, org id.Org, set settings, mode string, f func(Tx) error) error {
	if err := s.bound(org); err != nil {
		return err
	}
	return s.asked(ctx, set, mode, f)
}

// asked runs f in a transaction that somebody waits for: at once no, while the store does not answer. What works in the
// background (leases above all) asks all the same.
func (s *postgresStore) asked(ctx context.Context, set settings, mode string, f func(Tx) error) error {
	if !s.breaker.allow() {
		return unavailable(nil)
	}
	return s.tx(ctx, s.pool, set, mode, f)
}

// tx runs f in a transaction on one of on's connections. What fails before COMMIT was sent has not happened, so a lost connection or a conflict is
// tried again; a COMMIT that was not answered is told as outcome_unknown, but where nothing could be written.
func (s *postgresStore) tx(ctx context.Context, on *conns, set settings, mode string, f func(Tx) error) error {
	start := time.Now()
	for try := 1; ; try++ {
		committing, err := s.tryTx(ctx, on, set, mode, f)
		switch {
		case err == nil:
			s.breaker.reached(true)
			return nil
		case committing && lost(err) && mode == readOnly:
			return nil // all was read
		case committing && lost(err):
			s.n.ambiguous.Add(1)
			return unknown(err)
		case ctx.Err() != nil:
			s.failed(ctx, err)
			return s.ended(ctx, err)
		case try <= conflictTries && conflict(err):
			s.n.retries.Add(1)
			pause(ctx, try)
		case try < staleTries && s.stale(err, start):
			s.replace(on)
		default:
			s.failed(ctx, err)
			return s.fault(err)
		}
	}
}

func (s *postgresStore) tryTx(ctx context.Context, on *conns, set settings, mode string, f func(Tx) error) (committing bool, err error) {
	conn, err := s.acquire(ctx, on)
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

// failed counts for the breaker what could not be done, unless whoever asked has ended it, or it was never tried: that says
// nothing of the store. What was tried again with success is no failure.
func (s *postgresStore) failed(ctx context.Context, err error) {
	ended := ctx.Err() != nil && !lost(err) // before anything was sent
	if ended || errors.Is(ctx.Err(), context.Canceled) || fault.HasCode(err, "busy") {
		return
	}
	s.breaker.reached(!lost(err))
}

// stale reports whether err is a connection that was found dead, as after a restart of the server: a fresh one is worth a
// try. A server that is silent has had its time.
func (s *postgresStore) stale(err error, start time.Time) bool {
	silent := errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err)
	return lost(err) && !silent && time.Since(start) < s.o.Timeout
}

// replace gives up the connections that nobody uses: one that is dead rarely is alone.
func (s *postgresStore) replace(on *conns) {
	s.n.resets.Add(1)
	on.Reset()
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
	if err := s.bound(org); err != nil {
		return err
	}
	if !s.breaker.allow() {
		return unavailable(nil)
	}
	start := time.Now()
	for try := 1; ; try++ {
		err := s.tryQuery(ctx, org, qs)
		switch {
		case err == nil:
			s.breaker.reached(true)
			return nil
		case ctx.Err() != nil:
			s.failed(ctx, err)
			return s.ended(ctx, err)
		case try < staleTries && s.stale(err, start):
			s.replace(s.pool)
		default:
			s.failed(ctx, err)
			return s.fault(err)
		}
	}
}

func (s *postgresStore) tryQuery(ctx context.Context, org id.Org, qs []Query) error {
	conn, err := s.acquire(ctx, s.pool)
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

func (s *postgresStore) Close() error {
	close(s.stop)
	<-s.watched
	s.writer.close()
	s.alones.Wait()
	s.disconnect()
	s.closeConns()
	return nil
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
