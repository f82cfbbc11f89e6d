package threads_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/threads"
)

// house is a store with threads, and the calls that write them.
type house struct {
	*threads.Store
	t     testing.TB
	url   string
	db    db.Store
	calls *calls.Store
}

// eachStore runs f in a house on each store.
func eachStore(t *testing.T, f func(t *testing.T, h *house)) {
	for name, url := range map[string]func(testing.TB) string{"sqlite": testkit.SQLite, "postgres": testkit.Postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, open(t, url(t)))
		})
	}
}

func open(t testing.TB, url string) *house {
	t.Helper()
	h := &house{t: t, url: url, Store: threads.New(), calls: calls.New()}
	shut, ended := h.calls.RecordStages()
	opened, begun := h.calls.OpenStages()
	store, err := db.Open(t.Context(), db.Options{URL: url, Timeout: 10 * time.Second, MaxConns: 8, Stages: slices.Concat(
		shut, h.RecordStages(), ended, opened, h.OpenStages(), begun)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	h.db = store
	h.calls.Use(store)
	h.Use(store)
	return h
}

const org = id.Org("org_a")

// everybody sees all there is.
var everybody = threads.Viewer{Admin: true}

// seed makes an org with a user, for the rows that hang on one.
func (h *house) seed(org id.Org) {
	h.t.Helper()
	h.write(org, `INSERT INTO orgs (org_id, name, tier, seats) VALUES ($1, 'Acme', 'trial', 10)`)
}

// write runs a statement as org, its first argument.
func (h *house) write(org id.Org, sql string, args ...any) {
	h.t.Helper()
	err := h.db.Write(h.t.Context(), org, func(tx db.Tx) error {
		_, err := tx.Exec(context.Background(), sql, append([]any{org}, args...)...)
		return err
	})
	if err != nil {
		h.t.Fatalf("%s: %v", sql, err)
	}
}

// create makes a thread of usr_1's.
func (h *house) create(org id.Org, spec threads.Spec) *threads.Thread {
	h.t.Helper()
	if spec.User == "" {
		spec.User = "usr_1"
	}
	t, err := h.Create(h.t.Context(), org, spec)
	if err != nil {
		h.t.Fatal(err)
	}
	return t
}

// unit is a call that is over at once, of a thread as it stands, and adds messages.
func (h *house) unit(org id.Org, thread id.Thread, create bool, messages ...threads.Message) (*calls.Opening, *db.Unit) {
	h.t.Helper()
	head, err := h.Head(h.t.Context(), org, thread)
	if err != nil {
		h.t.Fatal(err)
	}
	in := &threads.Input{Org: org, Thread: thread, Call: id.NewRequest(), User: "usr_1", Create: create, PrevSeq: -1, PrevChain: []byte{}, Messages: messages}
	if head != nil {
		in.PrevSeq, in.PrevChain = head.Seq, head.Chain
	}
	for i := range messages {
		messages[i].After(head)
		head = &messages[i]
	}
	o := &calls.Opening{Org: org, ID: in.Call, Key: "key", User: "usr_1", Thread: thread, Owner: "own_1", FirstSeq: in.PrevSeq + 1, NIn: len(messages), AtOnce: true}
	u := &db.Unit{Org: org}
	h.calls.Open(u, o)
	h.Append(u, in)
	return o, u
}

// fork makes a thread of another one.
func (h *house) fork(org id.Org, source id.Thread, spec threads.ForkSpec) *threads.Thread {
	h.t.Helper()
	f, err := h.ForkOf(h.t.Context(), org, source, everybody, spec)
	if err != nil {
		h.t.Fatal(err)
	}
	in := &threads.Input{Org: org, Thread: id.NewThread(), Call: id.NewRequest(), User: "usr_1", PrevSeq: -1, PrevChain: []byte{}, Fork: f}
	o := &calls.Opening{Org: org, ID: in.Call, Key: "key", User: "usr_1", Thread: in.Thread, Owner: "own_1", AtOnce: true}
	u := &db.Unit{Org: org}
	h.calls.Open(u, o)
	h.Append(u, in)
	if h.commit(u); o.Result != calls.Won {
		h.t.Fatalf("forking %s: %v", source, o.Result)
	}
	t, err := h.Thread(h.t.Context(), org, in.Thread, everybody)
	if err != nil {
		h.t.Fatal(err)
	}
	return t
}

func (h *house) commit(u *db.Unit) {
	h.t.Helper()
	if err := h.db.Commit(h.t.Context(), u); err != nil {
		h.t.Fatal(err)
	}
}

func said(role, text string) threads.Message {
	raw, err := json.Marshal(map[string]string{"role": role, "content": text})
	if err != nil {
		panic(err) // strings only
	}
	return threads.Message{Role: role, Raw: raw, Status: threads.Complete}
}

// say adds user messages to a thread that is there.
func (h *house) say(org id.Org, thread id.Thread, texts ...string) {
	h.t.Helper()
	var messages []threads.Message
	for _, text := range texts {
		messages = append(messages, said("user", text))
	}
	o, u := h.unit(org, thread, false, messages...)
	if h.commit(u); o.Result != calls.Won {
		h.t.Fatalf("adding to %s: %v", thread, o.Result)
	}
}

// remove deletes a thread.
func (h *house) remove(org id.Org, thread id.Thread) calls.Result {
	h.t.Helper()
	o, u := h.unit(org, thread, false)
	h.Remove(u, &threads.Removal{Org: org, Thread: thread, Call: o.ID})
	h.commit(u)
	return o.Result
}

// found is the titles of what a search finds.
func (h *house) found(org id.Org, who threads.Viewer, q string) string {
	h.t.Helper()
	words, err := threads.SearchWords(q)
	if err != nil {
		h.t.Fatal(err)
	}
	list, err := h.Search(h.t.Context(), org, who, words, threads.Cursor{}, 100)
	if err != nil {
		h.t.Fatalf("%q: %v", q, err)
	}
	var titles []string
	for _, t := range list {
		titles = append(titles, t.Title)
	}
	return strings.Join(titles, " ")
}

// all returns all orgs.
func (h *house) all(ctx context.Context) (list []id.Org, err error) {
	err = h.db.Walk(ctx, func(tx db.Tx) error {
		return tx.Query(ctx, `SELECT org_id FROM orgs`, nil, func(row db.Row) error {
			var o id.Org
			err := row.Scan(&o)
			list = append(list, o)
			return err
		})
	})
	return list, err
}
