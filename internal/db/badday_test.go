package db_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/testkit"
	"threadhub/migrations"
)

// road is a way to a server on which answers may be slow, or be lost.
type road struct {
	url   string
	delay atomic.Int64 // of each answer, in nanoseconds
	lose  atomic.Bool  // the next answer, and the connection with it
	lost  atomic.Int64
	dials atomic.Int64
}

func newRoad(t *testing.T, to string) *road {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &road{}
	server := u.Host
	u.Host = ln.Addr().String()
	r.url = u.String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r.dials.Add(1)
			wg.Go(func() { r.drive(c, server) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return r
}

func (r *road) drive(client net.Conn, server string) {
	defer func() { _ = client.Close() }()
	s, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	go func() {
		defer func() { _ = s.(*net.TCPConn).CloseWrite() }()
		_, _ = io.Copy(s, client)
	}()
	defer func() { _ = s.Close() }()
	b := make([]byte, 64<<10)
	for {
		n, err := s.Read(b)
		if n > 0 && r.lose.CompareAndSwap(true, false) {
			r.lost.Add(1)
			return // the server has answered, and nobody hears it
		}
		time.Sleep(time.Duration(r.delay.Load()))
		if _, werr := client.Write(b[:n]); werr != nil || err != nil {
			return
		}
	}
}

// openMarksOn is openMarks by way of a road.
func openMarksOn(t *testing.T, r *road, o db.Options, owner *pgx.Conn) *marks {
	t.Helper()
	m := &marks{exec: func(q string) {
		t.Helper()
		if _, err := owner.Exec(context.Background(), q); err != nil {
			t.Fatal(err)
		}
	}}
	m.exec(`CREATE TABLE marks (n integer PRIMARY KEY, times integer NOT NULL DEFAULT 1)`)
	m.exec(`GRANT ALL ON marks TO ` + db.AppRole)
	m.stage = db.NewStage("test.mark", func(rows []*mark) db.Statement {
		n := make([]int32, len(rows))
		for i, r := range rows {
			n[i] = int32(r.n)
		}
		return db.Statement{SQL: `INSERT INTO marks (n) SELECT unnest($1::int[]) ON CONFLICT DO NOTHING`, Args: []any{n}}
	}, nil)
	o.URL, o.Stages = r.url, []db.Stage{m.stage}
	m.Store = open(t, o)
	return m
}

func owner(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func countMarks(t *testing.T, c *pgx.Conn) (n int) {
	t.Helper()
	if err := c.QueryRow(t.Context(), `SELECT count(*) FROM marks`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// P2: the answer to a COMMIT is lost. The unit is run again, finds itself, and its caller is told what became of it.
func TestALostAnswerToACommitIsFoundOut(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	o := owner(t, url)
	r := newRoad(t, url)
	m := openMarksOn(t, r, db.Options{}, o)
	for n := range 5 {
		if err := m.Commit(t.Context(), m.unit(100+n, 0)); err != nil { // so that there is a connection
			t.Fatal(err)
		}
		r.lose.Store(true)
		if err := m.Commit(t.Context(), m.unit(n, 0)); err != nil {
			t.Errorf("unit %d was told %v", n, err)
		}
	}
	if got := countMarks(t, o); got != 10 || r.lost.Load() != 5 {
		t.Errorf("%d rows of 10 units, %d lost answers", got, r.lost.Load())
	}
	if st := m.Stats(); st.Ambiguous < 5 {
		t.Errorf("%d commits were counted as ambiguous", st.Ambiguous)
	}
}

// P4: a connection that died while it was idle is not seen by who reads next, nor is one that dies under a read.
func TestADeadConnectionIsNotSeenByReads(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	r := newRoad(t, url)
	s := open(t, db.Options{URL: r.url})
	read := func(db.Tx) error { return nil }
	for i := range 3 {
		if err := s.Query(t.Context(), "org_a", db.Query{SQL: `SELECT 1`}); err != nil {
			t.Fatal(err)
		}
		r.lose.Store(true)
		if err := s.Query(t.Context(), "org_a", db.Query{SQL: `SELECT 1`}); err != nil {
			t.Errorf("query %d: %v", i, err)
		}
		r.lose.Store(true)
		if err := s.Read(t.Context(), "org_a", read); err != nil {
			t.Errorf("read %d: %v", i, err)
		}
	}
	if st := s.Stats(); st.Resets != 6 || r.lost.Load() != 6 {
		t.Errorf("%d resets, %d lost answers", st.Resets, r.lost.Load())
	}
}

// P4: a restart ends all connections at once. Who reads next, and however many do, sees none of it.
func TestManyDeadConnectionsAreNotSeen(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	o := owner(t, url)
	s := open(t, db.Options{URL: url})
	all := func() {
		var wg, inside sync.WaitGroup
		inside.Add(16)
		for range 16 {
			wg.Go(func() {
				first := true
				err := s.Read(t.Context(), "org_a", func(db.Tx) error {
					if first {
						inside.Done()
						first = false
					}
					inside.Wait() // so that each has a connection of its own
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	all()
	if _, err := o.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
		t.Fatal(err)
	}
	all()
	if st := s.Stats(); st.BreakerOpen || st.Resets == 0 {
		t.Errorf("stats %+v", st)
	}
}

// P5: a server that takes 200 ms for each answer is slow, and nothing else.
func TestASlowServerIsOnlySlow(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	r := newRoad(t, url)
	m := openMarksOn(t, r, db.Options{}, owner(t, url))
	if err := m.Query(t.Context(), "org_a", db.Query{SQL: `SELECT 1`}); err != nil { // connects
		t.Fatal(err)
	}
	dials := r.dials.Load()
	r.delay.Store(int64(200 * time.Millisecond))
	start := time.Now()
	if err := m.Query(t.Context(), "org_a", db.Query{SQL: `SELECT 1`}); err != nil {
		t.Error(err)
	}
	if err := m.Commit(t.Context(), m.unit(1, 0)); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second { // two answers, and a look at a connection that rested: 0.6 s
		t.Errorf("it took %v", took)
	}
	if st := m.Stats(); st.Ambiguous+st.Resets+st.Retries != 0 || r.dials.Load() != dials {
		t.Errorf("something was done twice: %+v", st)
	}
}

// P6: once five tries have failed, reads and opens alike are told at once, and one a second asks again.
func TestTheBreakerIsForReadsToo(t *testing.T) {
	t.Parallel()
	pg := testkit.StartFor(t, testkit.Options{NoRedis: true}).Postgres
	if err := migrations.Up(t.Context(), pg.URL(), migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	r := newRoad(t, pg.URL())
	const timeout = 300 * time.Millisecond
	m := openMarksOn(t, r, db.Options{Timeout: timeout}, owner(t, pg.URL()))
	asks := map[string]func() error{
		"query": func() error { return m.Query(t.Context(), "org_a", db.Query{SQL: `SELECT 1`}) },
		"read":  func() error { return m.Read(t.Context(), "org_a", func(db.Tx) error { return nil }) },
		"shown": func() error { return m.Shown(t.Context(), "key", func(db.Tx) error { return nil }) },
		"write": func() error { return m.Write(t.Context(), "org_a", func(db.Tx) error { return nil }) },
		"open":  func() error { return m.Commit(t.Context(), m.unit(1, 0)) },
	}
	for name, ask := range asks {
		if err := ask(); err != nil {
			t.Fatal(name, err)
		}
	}
	if err := pg.Freeze(); err != nil {
		t.Fatal(err)
	}
	thawed := false
	defer func() {
		if !thawed {
			_ = pg.Thaw()
		}
	}()
	for range 5 {
		if err := asks["query"](); !fault.HasCode(err, "storage_unavailable") || fault.From(err).Retry == 0 {
			t.Errorf("told %v", err)
		}
	}
	if !m.Stats().BreakerOpen {
		t.Fatal("five failures did not open the breaker")
	}
	for name, ask := range asks {
		fast := 0
		for range 5 { // one of them may be the second's probe
			start := time.Now()
			if err := ask(); !fault.Is(err, fault.Unavailable) {
				t.Errorf("%s was told %v", name, err)
			}
			if time.Since(start) < timeout/2 {
				fast++
			}
		}
		if fast < 4 {
			t.Errorf("%s: %d of 5 were told at once", name, fast)
		}
	}
	// What works in the background asks all the same.
	if err := m.Common(t.Context(), func(db.Tx) error { return nil }); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a lease was told %v", err)
	}
	if err := pg.Thaw(); err != nil {
		t.Fatal(err)
	}
	thawed = true
	testkit.Eventually(t, 10*time.Second, func() bool { return asks["query"]() == nil }, "a query after the thaw")
	if m.Stats().BreakerOpen {
		t.Error("the breaker is still open")
	}
}

// Clients that leave, and a pool that is full, say nothing of the store.
func TestWhatTheBreakerDoesNotCount(t *testing.T) {
	t.Parallel()
	s := open(t, db.Options{URL: testkit.Postgres(t), MaxConns: 4})
	for range 8 {
		if err := s.Ping(t.Context()); err != nil { // so that there is a connection
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(200*time.Millisecond, cancel)
		if err := s.Query(ctx, "org_a", db.Query{SQL: `SELECT pg_sleep(10)`}); err == nil {
			t.Error("a query of ten seconds has ended")
		}
	}
	if s.Stats().BreakerOpen {
		t.Error("clients that left opened the breaker")
	}
	if err := s.Query(t.Context(), "org_a", db.Query{SQL: `SELECT 1`}); err != nil {
		t.Error(err)
	}
}

// P7: no more than a quarter of a second is waited for a connection when all are in use.
func TestAFullPoolIsToldWithinAQuarterOfASecond(t *testing.T) {
	t.Parallel()
	s := open(t, db.Options{URL: testkit.Postgres(t), MaxConns: 2})
	inside, leave := make(chan struct{}, 2), make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			_ = s.Read(context.Background(), "org_a", func(db.Tx) error { inside <- struct{}{}; <-leave; return nil })
		})
	}
	<-inside
	<-inside
	const tries = 3
	quickest := time.Hour
	for range tries { // a busy machine makes any one of them slow
		start := time.Now()
		err := s.Query(t.Context(), "org_a", db.Query{SQL: `SELECT 1`})
		quickest = min(quickest, time.Since(start))
		if !fault.HasCode(err, "busy") || fault.From(err).Retry != time.Second {
			t.Errorf("told %v", err)
		}
	}
	if quickest > 600*time.Millisecond {
		t.Errorf("told after %v", quickest)
	}
	if st := s.Stats(); st.Full != tries || st.ConnsBusy != 2 || st.BreakerOpen {
		t.Errorf("stats %+v", st)
	}
	close(leave)
	wg.Wait()
}

// P8: the server has become one that only reads, and back. What it refused is not in doubt; connections to it are not kept.
func TestAServerThatOnlyReads(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	o := owner(t, url)
	m := openMarksOn(t, newRoad(t, url), db.Options{}, o)
	name := o.Config().Database
	turn := func(mode string) {
		m.exec(`ALTER DATABASE ` + name + ` SET default_transaction_read_only = ` + mode)
		m.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '` + name + `' AND pid <> pg_backend_pid()`)
	}
	turn("on")
	if err := m.Commit(t.Context(), m.unit(1, time.Second)); !fault.Is(err, fault.Unavailable) { // its connection was ended over it
		t.Errorf("told %v", err)
	}
	time.Sleep(1100 * time.Millisecond) // until the breaker lets one through
	before := m.Stats().Ambiguous
	if err := m.Commit(t.Context(), m.unit(1, time.Second)); !fault.HasCode(err, "storage_unavailable") {
		t.Errorf("told %v", err)
	}
	if n := m.Stats().Ambiguous; n != before {
		t.Errorf("%d refusals were taken for commits that may have been", n-before)
	}
	record := m.unit(2, 20*time.Second)
	record.Record = true
	told := make(chan error, 1)
	go func() { told <- m.Commit(context.Background(), record) }()
	time.Sleep(100 * time.Millisecond)
	m.exec(`SET default_transaction_read_only = off`)
	m.exec(`ALTER DATABASE ` + name + ` SET default_transaction_read_only = off`) // and nobody ends the connections there are
	if err := <-told; err != nil {
		t.Errorf("a record across a failover: %v", err)
	}
	testkit.Eventually(t, 10*time.Second, func() bool { return m.Commit(t.Context(), m.unit(3, 0)) == nil }, "an open after the failover")
}

// P10: a full disk is told as one, and leaves nothing.
func TestAFullDataDiskIsTold(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	o := owner(t, url)
	m := openMarksOn(t, newRoad(t, url), db.Options{}, o)
	m.exec(raising("53100", "disk full"))
	if err := m.Commit(t.Context(), m.unit(1, 0)); !fault.HasCode(err, "storage_full") || !fault.Is(err, fault.Unavailable) {
		t.Errorf("told %v", err)
	}
	if got := countMarks(t, o); got != 0 {
		t.Errorf("%d rows are there", got)
	}
}

// raising makes every insert of a mark fail with code.
func raising(code, text string) string {
	return fmt.Sprintf(`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '%s' USING ERRCODE = '%s'; END $$;
		CREATE TRIGGER fail BEFORE INSERT ON marks FOR EACH ROW EXECUTE FUNCTION fail()`, text, code)
}

// P11: a deadlock or a serialization failure of a group is tried again, three times, and counted.
func TestConflictsOfUnitsAreTriedAgain(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"40001", "40P01"} {
		t.Run(code, func(t *testing.T) {
			url := testkit.Postgres(t)
			o := owner(t, url)
			m := openMarksOn(t, newRoad(t, url), db.Options{}, o)
			// A sequence counts across transactions that are undone.
			m.exec(`CREATE SEQUENCE tries; GRANT ALL ON SEQUENCE tries TO ` + db.AppRole)
			m.exec(fmt.Sprintf(`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF nextval('tries') < 4 THEN RAISE EXCEPTION 'conflict' USING ERRCODE = '%s'; END IF; RETURN NEW; END $$;
				CREATE TRIGGER fail BEFORE INSERT ON marks FOR EACH ROW EXECUTE FUNCTION fail()`, code))
			if err := m.Commit(t.Context(), m.unit(1, 0)); err != nil {
				t.Errorf("told %v", err)
			}
			if st := m.Stats(); st.Retries != 3 || st.Ambiguous != 0 {
				t.Errorf("stats %+v", st)
			}
			m.exec(`ALTER SEQUENCE tries RESTART MINVALUE -1000000 START -1000000; SELECT setval('tries', -1000000)`)
			start := time.Now()
			if err := m.Commit(t.Context(), m.unit(2, 0)); err == nil || time.Since(start) > 4*time.Second {
				t.Errorf("a conflict without end: %v after %v", err, time.Since(start))
			}
			if got := countMarks(t, o); got != 1 {
				t.Errorf("%d rows", got)
			}
		})
	}
}

// P13: while backends are ended at random, nearly all that is asked succeeds, and all that is told to be stored is, once.
func TestBackendsThatAreEndedAtRandom(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	o := owner(t, url)
	m := openMarksOn(t, newRoad(t, url), db.Options{}, o)
	stop := make(chan struct{})
	killed := make(chan int, 1)
	go func() {
		k := owner(t, url)
		n := 0
		for {
			select {
			case <-stop:
				killed <- n
				return
			case <-time.After(40 * time.Millisecond):
			}
			tag, err := k.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND usename = current_user AND application_name = 'threadhub' ORDER BY random() LIMIT 1`)
			if err == nil {
				n += int(tag.RowsAffected())
			}
		}
	}()
	const each, side = 125, 8
	var failed, done atomic.Int64
	var wg sync.WaitGroup
	for w := range side {
		wg.Go(func() {
			for i := range each {
				err := m.Query(context.Background(), "org_a", db.Query{SQL: `SELECT 1`})
				if err == nil {
					if err = m.Commit(context.Background(), m.unit(w*each+i, 0)); err == nil {
						done.Add(1)
					}
				}
				if err != nil {
					failed.Add(1)
					if !fault.Is(err, fault.Unavailable) {
						t.Errorf("told %v", err)
					}
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	close(stop)
	if n := <-killed; n < 5 {
		t.Errorf("only %d backends were ended", n)
	}
	if failed.Load() > each*side/100 {
		t.Errorf("%d of %d failed", failed.Load(), each*side)
	}
	if got := countMarks(t, o); got < int(done.Load()) || got > each*side {
		t.Errorf("%d rows of %d that were told", got, done.Load())
	}
}

// P14: a statement that is cancelled, or runs out of its time, is run again for as long as a record has patience.
func TestARecordThatIsCancelled(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	o := owner(t, url)
	m := openMarksOn(t, newRoad(t, url), db.Options{}, o)
	m.exec(`CREATE SEQUENCE tries; GRANT ALL ON SEQUENCE tries TO ` + db.AppRole)
	m.exec(`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF nextval('tries') < 4 THEN RAISE EXCEPTION 'cancelled' USING ERRCODE = '57014'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER fail BEFORE INSERT ON marks FOR EACH ROW EXECUTE FUNCTION fail()`)
	u := m.unit(1, 10*time.Second)
	u.Record = true
	if err := m.Commit(t.Context(), u); err != nil {
		t.Errorf("told %v", err)
	}
	if got := countMarks(t, o); got != 1 {
		t.Errorf("%d rows", got)
	}
}

// P15: what names no org is refused, and so is everything while row-level security does not stand.
func TestNothingIsShownWithoutTheGuard(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	o := owner(t, url)
	m := openMarksOn(t, newRoad(t, url), db.Options{
		Watch:      func(ctx context.Context, conn *pgx.Conn) error { return migrations.Stands(ctx, conn) },
		WatchEvery: 10 * time.Millisecond,
	}, o)
	read := func(db.Tx) error { return nil }
	for name, err := range map[string]error{
		"read": m.Read(t.Context(), "", read), "write": m.Write(t.Context(), "", read), "query": m.Query(t.Context(), "", db.Query{SQL: `SELECT 1`}),
		"search": m.Search(t.Context(), "", "word", read), "purge": m.Purge(t.Context(), "", read),
	} {
		if !fault.HasCode(err, "tenant_context") || !fault.Is(err, fault.Internal) {
			t.Errorf("%s without an org: %v", name, err)
		}
	}
	if st := m.Stats(); st.Guarded != 5 {
		t.Errorf("%d were counted", st.Guarded)
	}
	if err := m.Read(t.Context(), "org_a", read); err != nil {
		t.Fatal(err)
	}
	m.exec(`ALTER TABLE orgs DISABLE ROW LEVEL SECURITY`)
	var called atomic.Bool
	look := func(db.Tx) error { called.Store(true); return nil }
	testkit.Eventually(t, 10*time.Second, func() bool { return fault.HasCode(m.Read(t.Context(), "org_a", read), "tenant_context") }, "the guard to notice")
	for name, err := range map[string]error{
		"read": m.Read(t.Context(), "org_a", look), "shown": m.Shown(t.Context(), "key", look), "walk": m.Walk(t.Context(), look),
		"query": m.Query(t.Context(), "org_a", db.Query{SQL: `SELECT 1`}), "commit": m.Commit(t.Context(), m.unit(1, 0)),
	} {
		if !fault.HasCode(err, "tenant_context") {
			t.Errorf("%s without row-level security: %v", name, err)
		}
	}
	if called.Load() {
		t.Error("something was read")
	}
	if err := m.Common(t.Context(), read); err != nil {
		t.Errorf("a lease was told %v: it shows nothing of anybody", err)
	}
	m.exec(`ALTER TABLE orgs ENABLE ROW LEVEL SECURITY`)
	testkit.Eventually(t, 10*time.Second, func() bool { return m.Read(t.Context(), "org_a", read) == nil }, "the guard to stand down")
}

// A policy that is gone lets nothing be stored, and says so.
func TestAPolicyThatIsGone(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	o := owner(t, url)
	s := open(t, db.Options{URL: url})
	if _, err := o.Exec(t.Context(), `DROP POLICY own_org ON orgs`); err != nil {
		t.Fatal(err)
	}
	if err := addOrg(t.Context(), s, "org_a"); !fault.HasCode(err, "tenant_context") {
		t.Errorf("told %v", err)
	}
	if st := s.Stats(); st.Guarded != 1 {
		t.Errorf("%d were counted", st.Guarded)
	}
}
