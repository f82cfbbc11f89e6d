package threads_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/threads"
)

func TestRemove(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		th := h.create(org, threads.Spec{Title: "t"})
		h.say(org, th.ID, "hello")
		holder, _ := h.unit(org, th.ID, false, said("user", "more"))
		holder.AtOnce = false
		u := &db.Unit{Org: org}
		h.calls.Open(u, holder)
		h.commit(u)
		if got := h.remove(org, th.ID); got != calls.Busy {
			t.Errorf("while its turn is held: %v, want busy", got)
		}
		u = &db.Unit{Org: org, Record: true}
		h.calls.Close(u, &calls.Closing{Org: org, ID: holder.ID, RecordID: "r", Outcome: calls.Failed})
		h.Answer(u, &threads.Answer{Org: org, Call: holder.ID, Message: threads.NewAnswer([]byte(threads.EmptyAnswer), threads.Incomplete, "x", []byte{}, threads.Provenance{})})
		h.commit(u)
		// What was decided before it was deleted must not be written after.
		late, lateUnit := h.unit(org, th.ID, false, said("user", "late"))
		if got := h.remove(org, th.ID); got != calls.Won {
			t.Fatalf("with the turn free: %v", got)
		}
		if h.commit(lateUnit); late.Result != calls.Stale {
			t.Errorf("a message to a deleted thread: %v, want stale", late.Result)
		}
		if again := h.remove(org, th.ID); again != calls.Stale {
			t.Errorf("deleted twice: %v", again)
		}
		if made, u := h.unit(org, th.ID, true, said("user", "anew")); true {
			if h.commit(u); made.Result != calls.Stale {
				t.Errorf("its id is taken by another thread: %v", made.Result)
			}
		}
		if _, err := h.Page(t.Context(), org, th.ID, everybody, -1, 0); !fault.Is(err, fault.NotFound) {
			t.Errorf("it is read: %v", err)
		}
		if list, err := h.List(t.Context(), org, everybody, threads.Cursor{}, 10); err != nil || len(list) != 0 {
			t.Errorf("it is listed: %v, %v", list, err)
		}
	})
}

func janitor(h *house, keep time.Duration) *threads.Janitor {
	return &threads.Janitor{Threads: h.Store, Orgs: h.all, Keep: keep, Log: slog.New(slog.DiscardHandler)}
}

func (h *house) clear(keep time.Duration) int {
	h.t.Helper()
	n, err := janitor(h, keep).Clear(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

const month = 30 * 24 * time.Hour

func TestJanitor(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		h.seed(org)
		h.seed("org_b")
		kept := h.create(org, threads.Spec{Title: "kept"})
		h.say(org, kept.ID, "staysforever one", "two")
		young := h.create(org, threads.Spec{Title: "young"})
		h.say(org, young.ID, "staysawhile")
		old := h.create(org, threads.Spec{Title: "canaryzebra title", Description: "canaryzebra description"})
		for range 3 {
			h.say(org, old.ID, "canaryzebra", "canaryzebra again", "-- !!")
		}
		foreign := h.create("org_b", threads.Spec{Title: "canaryzebra"})
		h.say("org_b", foreign.ID, "canaryzebra")
		for _, th := range []*threads.Thread{young, old, foreign} {
			h.remove(th.Org, th.ID)
		}
		age := h.db.Dialect() == db.Postgres
		for _, th := range []*threads.Thread{old, foreign} {
			sql := `UPDATE threads SET deleted_at = deleted_at - ` + map[bool]string{true: `interval '30 days'`, false: fmt.Sprint(int64(month))}[age] + ` WHERE org_id = $1 AND thread_id = $2`
			h.write(th.Org, sql, th.ID)
		}
		if n := h.clear(month + time.Minute); n != 0 {
			t.Errorf("%d threads were cleared before their time", n)
		}
		if !strings.Contains(h.dump(), "canaryzebra") {
			t.Fatal("the dump does not show what is there")
		}
		var call id.Request
		if err := h.db.Query(t.Context(), org, db.Query{SQL: `SELECT call_id FROM calls WHERE org_id = $1 AND thread_id = $2`, Args: []any{org, old.ID}, Each: func(r db.Row) error { return r.Scan(&call) }}); err != nil {
			t.Fatal(err)
		}
		if n := h.clear(month); n != 2 {
			t.Errorf("%d threads were cleared, want 2", n)
		}
		if dump := h.dump(); strings.Contains(dump, "canaryzebra") || strings.Contains(dump, "zebra") {
			at := strings.Index(dump, "zebra")
			t.Errorf("text is left: %q", dump[max(0, at-200):min(len(dump), at+100)])
		}
		if _, err := h.calls.Call(t.Context(), org, call); err != nil {
			t.Errorf("its call is gone: %v", err)
		}
		if got := h.found(org, everybody, "staysf"); got != "kept" {
			t.Errorf("what stays is found as %q", got)
		}
		if n := h.clear(month); n != 0 {
			t.Errorf("%d threads were cleared again", n)
		}
		if n := h.clear(0); n != 1 {
			t.Errorf("%d threads were cleared without keeping any, want 1", n)
		}
		// Its id is free.
		if made, u := h.unit(org, old.ID, true, said("user", "anew")); true {
			if h.commit(u); made.Result != calls.Won {
				t.Errorf("another thread of its name: %v", made.Result)
			}
		}
	})
}

// A fork is found by what it took over, also when its source is gone; and when it goes too, nothing is left.
func TestJanitorLeavesForks(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		h.seed(org)
		source := h.create(org, threads.Spec{Title: "source"})
		h.say(org, source.ID, "canaryzebra one", "canaryzebra two")
		fork := h.fork(org, source.ID, threads.ForkSpec{Title: new("fork")})
		if got := h.found(org, everybody, "canaryz"); got != "fork source" {
			t.Errorf("both are found as %q", got)
		}
		if got := h.found(org, everybody, "source") + "/" + h.found(org, everybody, "fork"); got != "source/fork" {
			t.Errorf("by their titles they are found as %q", got)
		}
		h.remove(org, source.ID)
		if n := h.clear(0); n != 1 {
			t.Errorf("%d threads were cleared, want 1", n)
		}
		if got := h.found(org, everybody, "canaryz two"); got != "fork" {
			t.Errorf("the fork is found as %q", got)
		}
		h.remove(org, fork.ID)
		h.clear(0)
		if strings.Contains(h.dump(), "zebra") {
			t.Error("text is left")
		}
	})
}

// Many threads, large ones, and several janitors at once: all is cleared, once.
func TestJanitorsTogether(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		h.seed(org)
		const n = 66
		for i := range n {
			th := h.create(org, threads.Spec{Title: "t"})
			texts := make([]string, 3)
			if i == 0 {
				texts = make([]string, 1100)
			}
			for i := range texts {
				texts[i] = "some words"
			}
			h.say(org, th.ID, texts...)
			h.remove(org, th.ID)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		total := 0
		for range 3 {
			other := h
			if h.db.Dialect() == db.Postgres {
				other = open(t, h.url)
			}
			wg.Go(func() {
				cleared, err := janitor(other, 0).Clear(context.Background())
				mu.Lock()
				defer mu.Unlock()
				if total += cleared; err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if total != n {
			t.Errorf("%d threads were cleared, want %d", total, n)
		}
		left := 0
		for _, table := range []string{"threads", "messages"} {
			if err := h.db.Query(t.Context(), org, db.Query{SQL: `SELECT count(*) FROM ` + table, Each: func(r db.Row) error { return r.Scan(&left) }}); err != nil || left != 0 {
				t.Errorf("%d %s are left: %v", left, table, err)
			}
		}
	})
}

// Run clears, goes on when that fails, and ends with its context.
func TestJanitorRuns(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		h.seed(org)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		j := janitor(h, 0)
		j.Every = time.Millisecond
		go func() { defer close(ended); j.Run(ctx) }()
		th := h.create(org, threads.Spec{Title: "t"})
		h.say(org, th.ID, "hello")
		h.remove(org, th.ID)
		for taken := true; taken; {
			made, u := h.unit(org, th.ID, true, said("user", "anew"))
			h.commit(u)
			taken = made.Result != calls.Won
		}
		stop()
		<-ended
	})
}

// dump is all the store keeps, index and all.
func (h *house) dump() string {
	h.t.Helper()
	var all strings.Builder
	if h.db.Dialect() == db.SQLite {
		return h.dumpSQLite()
	}
	conn, err := pgx.Connect(h.t.Context(), h.url)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = conn.Close(h.t.Context()) }()
	rows, err := conn.Query(h.t.Context(), `SELECT c.relname FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace`)
	if err != nil {
		h.t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		h.t.Fatal(err)
	}
	for _, table := range tables {
		rows, err := conn.Query(h.t.Context(), `SELECT t::text FROM `+table+` t`)
		if err != nil {
			h.t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			h.t.Fatal(err)
		}
		all.WriteString(strings.ToLower(strings.Join(lines, "\n")))
	}
	return all.String()
}

// dumpSQLite reads the index's own tables too, whose blobs hold words in part: one that begins as the word before it is kept
// without what they share.
func (h *house) dumpSQLite() string {
	h.t.Helper()
	var out strings.Builder
	err := h.db.Read(h.t.Context(), org, func(tx db.Tx) error {
		var tables []string
		err := tx.Query(h.t.Context(), `SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'message_words'`, nil, func(r db.Row) error {
			var name string
			err := r.Scan(&name)
			tables = append(tables, name)
			return err
		})
		if err != nil {
			return err
		}
		for _, table := range tables {
			var columns []string
			err := tx.Query(h.t.Context(), `SELECT name FROM pragma_table_info('`+table+`')`, nil, func(r db.Row) error {
				var name string
				err := r.Scan(&name)
				columns = append(columns, `coalesce(hex("`+name+`"), '')`)
				return err
			})
			if err == nil {
				err = tx.Query(h.t.Context(), `SELECT `+strings.Join(columns, ` || ' | ' || `)+` FROM "`+table+`"`, nil, func(r db.Row) error {
					var line string
					err := r.Scan(&line)
					for field := range strings.SplitSeq(line, " | ") {
						text, _ := hex.DecodeString(field)
						out.Write(append(text, '\n'))
					}
					return err
				})
			}
			if err != nil {
				return fmt.Errorf("%s: %w", table, err)
			}
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.ToLower(out.String())
}

// A fork takes what it is given, and the rest from its source; it is found by what it then has.
func TestForkTakesTheRestFromItsSource(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		h.seed(org)
		source := h.create(org, threads.Spec{Title: "apple", Description: "pear", Visibility: "private"})
		h.say(org, source.ID, "one", "two", "three")
		for name, c := range map[string]struct {
			spec threads.ForkSpec
			want string
		}{
			"as it is":    {threads.ForkSpec{}, "apple/pear/private/2"},
			"title":       {threads.ForkSpec{Title: new("cherry"), Last: new(1)}, "cherry/pear/private/1"},
			"description": {threads.ForkSpec{Description: new("grape"), Last: new(0)}, "apple/grape/private/0"},
			"visibility":  {threads.ForkSpec{Visibility: new("org")}, "apple/pear/org/2"},
			"all":         {threads.ForkSpec{Title: new(""), Description: new("plum"), Visibility: new("org")}, "/plum/org/2"},
		} {
			f := h.fork(org, source.ID, c.spec)
			if got := fmt.Sprintf("%s/%s/%s/%d", f.Title, f.Description, f.Visibility, f.ForkedSeq); got != c.want || f.ForkedFrom != source.ID {
				t.Errorf("%s: %s of %s, want %s", name, got, f.ForkedFrom, c.want)
			}
			if p, err := h.Page(t.Context(), org, f.ID, everybody, -1, 0); err != nil || len(p.Messages) != f.ForkedSeq+1 {
				t.Errorf("%s: %d messages, %v", name, len(p.Messages), err)
			}
		}
		for word, want := range map[string]int{"apple": 4, "pear": 4, "cherry": 1, "grape": 1, "plum": 1} {
			words, err := threads.SearchWords(word)
			if err != nil {
				t.Fatal(err)
			}
			if found, err := h.Search(t.Context(), org, everybody, words, threads.Cursor{}, 100); err != nil || len(found) != want {
				t.Errorf("%s finds %d threads, want %d: %v", word, len(found), want, err)
			}
		}
	})
}

// A fork that was decided on before its source was deleted is not made: it would be a copy that outlives it.
func TestNoForkOfWhatWasDeleted(t *testing.T) {
	eachStore(t, func(t *testing.T, h *house) {
		h.seed(org)
		source := h.create(org, threads.Spec{Title: "source"})
		h.say(org, source.ID, "one", "two")
		fork := func(into id.Thread) (*calls.Opening, *db.Unit) {
			in := &threads.Input{
				Org: org, Thread: into, Call: id.NewRequest(), User: "usr_1", PrevSeq: 0, PrevChain: []byte{}, Fork: &threads.Fork{From: source.ID, Upto: 1},
				Messages: []threads.Message{said("user", "another two")},
			}
			in.Messages[0].Seq, in.Messages[0].Own, in.Messages[0].Chain = 1, []byte("x"), []byte("x")
			o := &calls.Opening{Org: org, ID: in.Call, Key: "key", User: "usr_1", Thread: into, Owner: "own_1", FirstSeq: 1, NIn: 1, AtOnce: true}
			u := &db.Unit{Org: org}
			h.calls.Open(u, o)
			h.Append(u, in)
			return o, u
		}
		o, u := fork("thread_before")
		if h.commit(u); o.Result != calls.Won {
			t.Fatalf("a fork of what is there: %v", o.Result)
		}
		o, u = fork("thread_after")
		h.remove(org, source.ID)
		if h.commit(u); o.Result != calls.Stale {
			t.Errorf("a fork of what was deleted: %v", o.Result)
		}
		if left, err := h.Page(t.Context(), org, "thread_after", everybody, -1, 0); !fault.Is(err, fault.NotFound) {
			t.Errorf("it left %+v, %v", left, err)
		}
		if head, err := h.Head(t.Context(), org, "thread_after"); head != nil || err != nil {
			t.Errorf("it left the message %+v, %v", head, err)
		}
	})
}
