package model_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/test/model"
)

// What a turn costs must not grow with its thread. All messages are equally long, and the model's window holds a few
// hundred of them.

// longThread makes a thread of n messages.
func longThread(t testing.TB, h *model.House, name string, n int) {
	t.Helper()
	if _, err := h.Do(200, "POST", "/v1/chat/completions", chatBody(conversation(0, n-1)), "X-Thread-Id", name); err != nil {
		t.Fatal(err)
	}
}

// conversation is the messages of a long thread from one on, up to another.
func conversation(from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, message([]string{"user", "assistant"}[i%2], fmt.Sprintf("message %06d", i)))
	}
	return list
}

func message(role, text string) string { return fmt.Sprintf(`{"role":%q,"content":%q}`, role, text) }

func chatBody(messages []string) string {
	return fmt.Sprintf(`{"model":%q,"messages":[%s]}`, model.SmallModel, strings.Join(messages, ","))
}

// way is a request whose cost is looked at, on a thread of n messages.
type way struct {
	name string
	ask  func(h *model.House, thread string, n int) error
}

// ways in the order in which a thread sees them: the first knows how it ends.
var ways = []way{
	{"a client that trims", func(h *model.House, thread string, n int) error {
		known := append(conversation(n-9, n-1), message("assistant", "unscripted"), message("user", "and then?"))
		_, err := h.Do(200, "POST", "/v1/chat/completions", chatBody(known), "X-Thread-Id", thread)
		return err
	}},
	{"an edit near the beginning", func(h *model.House, thread string, _ int) error {
		_, err := h.Do(409, "POST", "/v1/chat/completions", chatBody(append(conversation(0, 4), message("user", "edited"))), "X-Thread-Id", thread)
		return err
	}},
	{"an edit of the first message", func(h *model.House, thread string, n int) error {
		_, err := h.Do(409, "POST", "/v1/chat/completions", chatBody(append([]string{message("user", "edited")}, conversation(n/2+1, n/2+5)...)), "X-Thread-Id", thread)
		return err
	}},
	{"an old copy of the middle", func(h *model.House, thread string, n int) error {
		_, err := h.Do(409, "POST", "/v1/chat/completions", chatBody(append(conversation(n/2, n/2+4), message("user", "and then?"))), "X-Thread-Id", thread)
		return err
	}},
	{"a thin turn", func(h *model.House, thread string, _ int) error {
		_, err := h.Do(200, "POST", "/v1/chat/completions", chatBody([]string{message("user", "and then?")}), "X-Thread-Id", thread)
		return err
	}},
	{"a thin turn with a system message", func(h *model.House, thread string, _ int) error {
		_, err := h.Do(200, "POST", "/v1/chat/completions", chatBody([]string{message("system", "be brief"), message("user", "and then?")}), "X-Thread-Id", thread)
		return err
	}},
	{"a message that is added", func(h *model.House, thread string, _ int) error {
		_, err := h.Do(201, "POST", "/api/threads/"+thread+"/messages", message("user", "by the way"))
		return err
	}},
	{"the list of threads", func(h *model.House, _ string, _ int) error {
		_, err := h.Do(200, "GET", "/api/threads?limit=20", "")
		return err
	}},
}

func TestTheCostOfATurnDoesNotGrowWithItsThread(t *testing.T) {
	for store, url := range model.Stores {
		t.Run(store, func(t *testing.T) {
			var read [2]map[string]tally
			for i, n := range []int{1_000, 10_000} {
				meter := &meter{}
				h := model.NewHouse(t, url(t), model.Setup{Around: func(s db.Store) db.Store { meter.Store = s; return meter }})
				read[i] = map[string]tally{}
				longThread(t, h, "long", n)
				for _, w := range ways {
					meter.start()
					if err := w.ask(h, "long", n); err != nil {
						t.Errorf("%s: %v", w.name, err)
					}
					read[i][w.name] = meter.stop(t)
				}
			}
			for way, short := range read[0] {
				// Some bytes more or less are the digits of how long an answer took, which stand beside it.
				if long := read[1][way]; short.Rows != long.Rows || max(short.Bytes, long.Bytes)-min(short.Bytes, long.Bytes) > 200 {
					t.Errorf("%s reads %v of a thread of 1,000 messages, and %v of one of 10,000", way, short, long)
				}
			}
			t.Log(read[1])
		})
	}
}

// tally is what was read of a store.
type tally struct{ Rows, Bytes int }

// meter is a store that counts what is read of messages while it is started, and looks at how.
type meter struct {
	db.Store
	mu   sync.Mutex
	on   bool
	read tally
	seen map[string][]any // statements, with what they were given
}

func (m *meter) start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on, m.read, m.seen = true, tally{}, map[string][]any{}
}

// stop returns what was read. A statement that SQLite would have to go through all messages for is an error: it gives few
// rows back, and costs as if it gave all.
func (m *meter) stop(t *testing.T) tally {
	t.Helper()
	m.mu.Lock()
	read, seen := m.read, maps.Clone(m.seen)
	m.on = false
	m.mu.Unlock()
	if m.Dialect() == db.Postgres {
		return read
	}
	for sql, args := range seen {
		err := m.Store.Query(context.Background(), "org", db.Query{SQL: "EXPLAIN QUERY PLAN " + sql, Args: args, Each: func(row db.Row) error {
			var n int
			var plan string
			err := row.Scan(&n, &n, &n, &plan)
			if strings.HasPrefix(plan, "SCAN m") && !strings.Contains(plan, "VIRTUAL") {
				t.Errorf("%s: %s", plan, sql)
			}
			return err
		}})
		if err != nil {
			t.Errorf("%v: %s", err, sql)
		}
	}
	return read
}

// Query is db.Store's. What has nothing to do with messages, as the settler's and the lease's, is not counted.
func (m *meter) Query(ctx context.Context, org id.Org, qs ...db.Query) error {
	for i, q := range qs {
		if !strings.Contains(q.SQL, "messages") {
			continue
		}
		m.mu.Lock()
		if m.on {
			m.seen[q.SQL] = q.Args
		}
		m.mu.Unlock()
		qs[i].Each = func(row db.Row) error { return q.Each(countedRow{row, m}) }
	}
	return m.Store.Query(ctx, org, qs...)
}

type countedRow struct {
	db.Row
	m *meter
}

// Scan is db.Row's.
func (r countedRow) Scan(dest ...any) error {
	err := r.Row.Scan(dest...)
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if !r.m.on {
		return err
	}
	r.m.read.Rows++
	for _, d := range dest {
		switch d := d.(type) {
		case *[]byte:
			r.m.read.Bytes += len(*d)
		case *string:
			r.m.read.Bytes += len(*d)
		}
	}
	return err
}

func BenchmarkThread(b *testing.B) {
	for store, url := range map[string]func(testing.TB) string{"sqlite": testkit.SQLite, "postgres": testkit.Postgres} {
		for _, n := range []int{10, 100, 1_000, 10_000} {
			b.Run(fmt.Sprintf("%s/%d messages", store, n), func(b *testing.B) {
				h := model.NewHouse(b, url(b), model.Setup{})
				for i := range 20 {
					longThread(b, h, fmt.Sprint("other-", i), 10)
				}
				longThread(b, h, "long", n)
				for _, w := range ways[1:] { // the first is good once
					b.Run(w.name, func(b *testing.B) {
						b.ReportAllocs()
						for b.Loop() {
							if err := w.ask(h, "long", n); err != nil {
								b.Fatal(err)
							}
						}
					})
				}
			})
		}
	}
}
