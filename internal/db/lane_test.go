package db_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/migrations"
)

// mark is a row of a table of the test; a negative one is a bug in its stage.
type mark struct{ n int }

type marks struct {
	db.Store
	stage *db.StageOf[mark]
	exec  func(sql string) // on a connection of the test's own

	mu    sync.Mutex
	sizes []int // rows of each statement
}

func openMarks(t *testing.T) *marks {
	t.Helper()
	url := testkit.Postgres(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	m := &marks{exec: func(q string) {
		t.Helper()
		if _, err := conn.Exec(context.Background(), q); err != nil {
			t.Fatal(err)
		}
	}}
	m.exec(`CREATE TABLE marks (n integer PRIMARY KEY)`)
	m.exec(`GRANT ALL ON marks TO ` + db.AppRole)
	m.stage = db.NewStage("test.mark", func(rows []*mark) db.Statement {
		m.mu.Lock()
		m.sizes = append(m.sizes, len(rows))
		m.mu.Unlock()
		n := make([]int32, len(rows))
		for i, r := range rows {
			if n[i] = int32(r.n); r.n < 0 {
				panic("a bug")
			}
		}
		return db.Statement{SQL: `INSERT INTO marks (n) SELECT unnest($1::int[]) ON CONFLICT DO NOTHING`, Args: []any{n}}
	}, nil)
	m.Store = open(t, db.Options{URL: url, Stages: []db.Stage{m.stage}, MaxConns: 4})
	return m
}

func (m *marks) unit(n int, patience time.Duration) *db.Unit {
	u := &db.Unit{Patience: patience}
	m.stage.Put(u, &mark{n}, 0)
	return u
}

func TestABugInAStageFailsItsUnitOnly(t *testing.T) {
	m := openMarks(t)
	errs := db.Group(m.Store, m.unit(1, time.Second), m.unit(-1, time.Second), m.unit(2, time.Second))
	for i, err := range errs {
		if (err != nil) != (i == 1) {
			t.Errorf("unit %d was told %v", i, err)
		}
	}
}

// A transaction that may still be running holds the row: that a repeat could not get past it says nothing of the outcome.
func TestARepeatThatWaitsInVainIsUnknown(t *testing.T) {
	m := openMarks(t)
	m.exec("BEGIN; INSERT INTO marks VALUES (1)")
	err := db.Alone(m.Store, m.unit(1, db.LaneLockWait+500*time.Millisecond), true)
	if !fault.HasCode(err, "outcome_unknown") {
		t.Errorf("told %v, want outcome_unknown", err)
	}
	m.exec("COMMIT")
}

// A record is worth more patience than one wait for a lock.
func TestARecordOutlastsALock(t *testing.T) {
	m := openMarks(t)
	m.exec("BEGIN; INSERT INTO marks VALUES (1)")
	u := m.unit(1, 10*time.Second)
	u.Record = true
	told := make(chan error, 1)
	go func() { told <- m.Commit(context.Background(), u) }()
	select {
	case err := <-told:
		t.Fatalf("told %v while it may still succeed", err)
	case <-time.After(db.GroupLockWait + db.LaneLockWait + time.Second):
	}
	m.exec("COMMIT")
	if err := <-told; err != nil {
		t.Errorf("told %v", err)
	}
}

// An open that waits for a lock in vain says so: whoever holds it may be done in a moment.
func TestAnOpenThatMeetsALock(t *testing.T) {
	m := openMarks(t)
	m.exec("BEGIN; INSERT INTO marks VALUES (1)")
	if err := m.Commit(t.Context(), m.unit(1, 0)); !errors.Is(err, db.ErrLocked) || !fault.HasCode(err, "busy") {
		t.Errorf("told %v", err)
	}
	m.exec("COMMIT")
}

// An open that was never sent fails within the time of one group, and not as if it might have happened.
func TestAnOpenThatWasNeverSentFailsSoon(t *testing.T) {
	m := openMarks(t)
	db.Unreachable(m.Store)
	start := time.Now()
	err := db.Alone(m.Store, m.unit(1, time.Minute), false)
	if took := time.Since(start); took > 10*time.Second || !fault.HasCode(err, "storage_unavailable") {
		t.Errorf("told %v after %v", err, took)
	}
}

func TestAFullPoolIsToldSoon(t *testing.T) {
	s := open(t, db.Options{URL: testkit.Postgres(t), MaxConns: 4, Timeout: 10 * time.Second})
	held := make(chan struct{})
	full := make(chan struct{}, 4)
	ended := make(chan error, 4)
	for range 4 {
		go func() {
			ended <- s.Read(context.Background(), id.Org("org_a"), func(db.Tx) error {
				full <- struct{}{}
				<-held
				return nil
			})
		}()
	}
	for range 4 {
		<-full
	}
	start := time.Now()
	err := s.Read(t.Context(), "org_a", func(db.Tx) error { return nil })
	if took := time.Since(start); took > 5*time.Second || !fault.HasCode(err, "busy") {
		t.Errorf("told %v after %v", err, took)
	}
	close(held)
	for range 4 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// A store that is frozen is told within the time of one read.
func TestAFrozenStoreIsToldSoon(t *testing.T) {
	pg := testkit.StartFor(t, testkit.Options{NoRedis: true}).Postgres
	if err := migrations.Up(t.Context(), pg.URL(), migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	s := open(t, db.Options{URL: pg.URL(), Timeout: time.Second})
	if err := s.Query(t.Context(), "org_a", db.Query{SQL: "SELECT 1"}); err != nil {
		t.Fatal(err)
	}
	if err := pg.Freeze(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pg.Thaw() }()
	quickest := time.Hour
	for range 3 { // a busy machine makes any one of them slow
		start := time.Now()
		err := s.Query(t.Context(), "org_a", db.Query{SQL: "SELECT 1"})
		quickest = min(quickest, time.Since(start))
		if !fault.HasCode(err, "storage_unavailable") {
			t.Errorf("told %v", err)
		}
	}
	if quickest > 1900*time.Millisecond {
		t.Errorf("told after %v", quickest)
	}
}

// A unit that is to be alone is in no statement with others, though it came with them.
func TestAUnitThatIsToBeAlone(t *testing.T) {
	m := openMarks(t)
	alone := m.unit(2, time.Second)
	alone.Alone = true
	for i, err := range db.Group(m.Store, m.unit(1, time.Second), alone, m.unit(3, time.Second)) {
		if err != nil {
			t.Errorf("unit %d was told %v", i, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	slices.Sort(m.sizes)
	if !slices.Equal(m.sizes, []int{1, 2}) {
		t.Errorf("the statements were of %v rows", m.sizes)
	}
}
