package model_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/test/model"
)

// busy is a store in which a thread grows between two looks at it: all of it is said once more.
type busy struct {
	db.Store
	grow atomic.Bool
}

// Query is db.Store's.
func (b *busy) Query(ctx context.Context, org id.Org, qs ...db.Query) error {
	err := b.Store.Query(ctx, org, qs...)
	if err != nil || !strings.Contains(qs[len(qs)-1].SQL, "messages") || !b.grow.CompareAndSwap(true, false) {
		return err
	}
	return b.Write(ctx, org, func(tx db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO messages (org_id, thread_id, seq, call_id, role, raw, own, chain, status)
SELECT org_id, thread_id, seq + 6, call_id, role, raw, own, chain, status FROM messages`)
		return err
	})
}

// A decision that takes several looks at a thread is about the thread as it was at the first.
func TestAThreadThatMovesWhileItIsLookedAt(t *testing.T) {
	for store, url := range model.Stores {
		t.Run(store, func(t *testing.T) {
			b := &busy{}
			h := model.NewHouse(t, url(t), model.Setup{Around: func(s db.Store) db.Store { b.Store = s; return b }})
			longThread(t, h, "moves", 6)
			b.grow.Store(true)
			body, err := h.Do(409, "POST", "/v1/chat/completions", chatBody(append(conversation(2, 4), message("user", "old"))), "X-Thread-Id", "moves")
			if err != nil {
				t.Fatal(err)
			}
			if b.grow.Load() || !strings.Contains(string(body), "at sequence 4;") {
				t.Errorf("%s", body)
			}
		})
	}
}
