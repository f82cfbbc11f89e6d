package db

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
)

type mark struct {
	n    int
	fail func(ctx context.Context, tx *sql.Tx) error
}

func marks() *StageOf[mark] {
	return NewStage("test.mark", func(rows []*mark) Statement { return Statement{} },
		func(ctx context.Context, tx *sql.Tx, m *mark) error {
			if m.fail != nil {
				return m.fail(ctx, tx)
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO marks (n) VALUES ($1)`, m.n)
			return err
		})
}

// SQLite ends the whole transaction by itself when the disk is full or broken. What the group's other units are told
// must still be what became of them.
func TestAGroupThatSQLiteAborts(t *testing.T) {
	stage := marks()
	opened, err := Open(t.Context(), Options{URL: "sqlite://" + filepath.Join(t.TempDir(), "db"), Stages: []Stage{stage}})
	if err != nil {
		t.Fatal(err)
	}
	s := opened.(*sqliteStore)
	defer func() { _ = s.Close() }()
	if _, err := s.writes.Exec(`CREATE TABLE marks (n integer)`); err != nil {
		t.Fatal(err)
	}
	units := make([]*Unit, 5)
	for i := range units {
		m := &mark{n: i}
		switch i {
		case 2:
			m.fail = func(ctx context.Context, tx *sql.Tx) error {
				_, _ = tx.ExecContext(ctx, "ROLLBACK")
				return errors.New("disk full")
			}
		case 4:
			m.fail = func(context.Context, *sql.Tx) error { panic("a bug") }
		}
		units[i] = &Unit{done: make(chan error, 1)}
		stage.Put(units[i], m, 0)
	}
	s.group(units)
	for i, u := range units {
		err := <-u.done
		var there bool
		if e := s.reads.QueryRow(`SELECT count(*) > 0 FROM marks WHERE n = $1`, i).Scan(&there); e != nil {
			t.Fatal(e)
		}
		if there != (err == nil) {
			t.Errorf("unit %d was told %v, and is there: %v", i, err, there)
		}
		if (i == 2 || i == 4) != (err != nil) {
			t.Errorf("unit %d was told %v", i, err)
		}
	}
	if err := s.Common(t.Context(), func(tx Tx) error { _, err := tx.Exec(t.Context(), `DELETE FROM marks`); return err }); err != nil {
		t.Errorf("after it: %v", err)
	}
}
