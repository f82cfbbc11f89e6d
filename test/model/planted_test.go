package model_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/test/model"
	"threadhub/threads"
)

// within is how many steps a planted mistake may go unnoticed.
const within = 3000

// found plays until gateway and model disagree, and returns after how many steps that was; false if they never did.
func found(h *model.House, r model.Rules, within int) (steps int, how error, ok bool) {
	played := &model.Steps{}
	for seed := 1; played.Total() < within; seed++ {
		how = rapid.Custom(func(t *rapid.T) error {
			return (&model.Game{House: h, Rules: r, Steps: played, Until: within}).Play(t)
		}).Example(seed)
		if how != nil {
			return played.Total(), how, true
		}
	}
	return played.Total(), nil, false
}

// A model with one rule broken must disagree with the gateway: else nothing is known about that rule.
func TestABrokenRuleIsNoticed(t *testing.T) {
	h := model.NewHouse(t, testkit.SQLite(t), model.Setup{})
	if steps, how, ok := found(h, model.Rules{}, 200); ok { // the same games, and no rule broken
		t.Fatalf("at step %d: %v", steps, how)
	}
	for _, rule := range model.Breakable {
		t.Run(rule, func(t *testing.T) {
			steps, how, ok := found(h, model.Rules{Broken: []string{rule}}, within)
			if !ok {
				t.Fatalf("nobody noticed in %d steps", steps)
			}
			t.Logf("noticed at step %d: %.300s", steps, how)
		})
	}
}

// So must the right model with a gateway whose store has a fault.
func TestABrokenGatewayIsNoticed(t *testing.T) {
	for name, around := range map[string]func(db.Store) db.Store{
		"it takes cut answers for whole ones": func(s db.Store) db.Store { return &mistaken{Store: s} },
		"it lets two turns into a thread":     crowded,
		"it loses a record now and then":      func(s db.Store) db.Store { return &forgetful{Store: s} },
	} {
		t.Run(name, func(t *testing.T) {
			steps, how, ok := found(model.NewHouse(t, testkit.SQLite(t), model.Setup{Around: around, Patience: 3 * time.Second}), model.Rules{}, within)
			if !ok {
				t.Fatalf("nobody noticed in %d steps", steps)
			}
			t.Logf("noticed at step %d: %.300s", steps, how)
		})
	}
}

// mistaken is a store that says of an incomplete message that it is complete.
type mistaken struct{ db.Store }

func (m *mistaken) Query(ctx context.Context, org id.Org, qs ...db.Query) error {
	for i := range qs {
		each := qs[i].Each
		qs[i].Each = func(row db.Row) error { return each(rosy{row}) }
	}
	return m.Store.Query(ctx, org, qs...)
}

type rosy struct{ db.Row }

func (r rosy) Scan(dest ...any) error {
	err := r.Row.Scan(dest...)
	for _, d := range dest {
		if s, ok := d.(*threads.Status); ok {
			*s = threads.Complete
		}
	}
	return err
}

// forgetful is a store that refuses each twentieth record.
type forgetful struct {
	db.Store
	n atomic.Int64
}

func (f *forgetful) Commit(ctx context.Context, u *db.Unit) error {
	if u.Record && f.n.Add(1)%20 == 0 {
		return fault.New(fault.Internal, "lost")
	}
	return f.Store.Commit(ctx, u)
}

// crowded is a store in which a thread may have several turns at once.
func crowded(s db.Store) db.Store {
	err := s.Common(context.Background(), func(tx db.Tx) error {
		_, err := tx.Exec(context.Background(), `DROP INDEX calls_turn`)
		return err
	})
	if err != nil {
		panic(err)
	}
	return s
}
