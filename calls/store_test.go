package calls_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/testkit"
	"threadhub/threads"
)

func TestMain(m *testing.M) { testkit.Leaks(m) }

// house is a store with the rooms whose rows a turn is made of.
type house struct {
	db      db.Store
	calls   *calls.Store
	threads *threads.Store
}

// poison is a stage of the tests: a row of it fails the statement it is in, as a text no store takes would.
type poison struct{ bad bool }

func open(t *testing.T, url string, stages ...db.Stage) *house {
	t.Helper()
	h := &house{calls: calls.New(), threads: threads.New()}
	shut, ended := h.calls.RecordStages()
	opened, begun := h.calls.OpenStages()
	var all []db.Stage
	for _, s := range [][]db.Stage{shut, h.threads.RecordStages(), ended, opened, h.threads.OpenStages(), begun, stages} {
		all = append(all, s...)
	}
	store, err := db.Open(t.Context(), db.Options{URL: url, Stages: all, MaxConns: 8})
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
	h.threads.Use(store)
	return h
}

// eachStore runs f on both stores; url is that of a fresh one.
func eachStore(t *testing.T, f func(t *testing.T, url string)) {
	t.Run("sqlite", func(t *testing.T) { f(t, testkit.SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { f(t, testkit.Postgres(t)) })
}

const org = id.Org("org_a")

// turn decides and opens a turn that adds one user message.
func (h *house) turn(t testing.TB, org id.Org, owner id.Owner, thread id.Thread, text string) *calls.Opening {
	for {
		o, u := h.plan(t, org, owner, thread, text)
		err := h.db.Commit(context.Background(), u)
		if fault.HasCode(err, "busy") { // a loaded machine; the client would come back
			continue
		}
		if err != nil {
			t.Error(err)
		}
		return o
	}
}

func (h *house) plan(t testing.TB, org id.Org, owner id.Owner, thread id.Thread, text string) (*calls.Opening, *db.Unit) {
	t.Helper()
	head, err := h.threads.Head(context.Background(), org, thread)
	if err != nil {
		t.Fatal(err)
	}
	m := threads.Message{Role: "user", Raw: fmt.Appendf(nil, `{"role":"user","content":%q}`, text), Status: threads.Complete}
	m.After(head)
	call := id.NewRequest()
	in := &threads.Input{Org: org, Thread: thread, Call: call, User: "usr_1", Create: head == nil, PrevSeq: m.Seq - 1, PrevChain: []byte{}, Messages: []threads.Message{m}}
	if head != nil {
		in.PrevChain = head.Chain
	}
	o := &calls.Opening{
		Org: org, ID: call, Key: "key", User: "usr_1", Thread: thread, Owner: owner, FirstSeq: m.Seq, NIn: 1,
		Provider: "openai", Model: "gpt-5-mini", KeyName: "first", Facts: calls.Facts{Kind: "chat", Model: "gpt-5-mini", ThreadOmitted: 3, Warnings: []string{"dropped=seed"}},
	}
	u := &db.Unit{Org: org}
	h.calls.Open(u, o)
	h.threads.Append(u, in)
	return o, u
}

func (h *house) record(o *calls.Opening, epoch int, text string) (*calls.Closing, *db.Unit) {
	c := &calls.Closing{
		Org: o.Org, ID: o.ID, Epoch: epoch, RecordID: string(o.ID) + "/" + fmt.Sprint(epoch), Outcome: calls.Complete,
		Facts:    calls.Facts{ModelServed: "gpt-5-mini-2025"},
		Attempts: []calls.AttemptEnd{{State: calls.OK, Status: 200, UpstreamID: "up_1", FirstMS: 3, TotalMS: 9}},
	}
	u := &db.Unit{Org: o.Org, Record: true}
	h.calls.Close(u, c)
	h.threads.Answer(u, &threads.Answer{Org: o.Org, Call: o.ID, Message: threads.NewAnswer(
		fmt.Appendf(nil, `{"role":"assistant","content":%q}`, text), threads.Complete, "", []byte{}, threads.Provenance{RequestID: o.ID})})
	return c, u
}

func (h *house) commit(t testing.TB, u *db.Unit) {
	t.Helper()
	if err := h.db.Commit(context.Background(), u); err != nil {
		t.Fatal(err)
	}
}

func (h *house) messages(t testing.TB, org id.Org, thread id.Thread) []*threads.Message {
	t.Helper()
	p, err := h.threads.Page(context.Background(), org, thread, threads.Viewer{Admin: true}, -1, 0)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return p.Messages
}

func TestTurn(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		o := h.turn(t, org, "own_1", "th", "hello")
		if o.Result != calls.Won {
			t.Fatalf("the first turn: %v", o.Result)
		}
		if other := h.turn(t, org, "own_1", "th", "me too"); other.Result != calls.Busy {
			t.Errorf("a second turn while the first is open: %v, want busy", other.Result)
		}
		if plain := h.turn(t, org, "own_1", "elsewhere", "x"); plain.Result != calls.Won {
			t.Errorf("a turn of another thread: %v", plain.Result)
		}
		c, u := h.record(o, 0, "hi")
		h.commit(t, u)
		if !c.Recorded {
			t.Fatal("the record did not close the call")
		}
		got, err := h.calls.Call(t.Context(), org, o.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got.State != "closed" || got.Outcome != calls.Complete || got.Facts.Model != "gpt-5-mini" || got.Facts.ModelServed != "gpt-5-mini-2025" {
			t.Errorf("the call reads %+v", got)
		}
		if len(got.Attempts) != 1 || got.Attempts[0].State != calls.OK || got.Attempts[0].UpstreamID != "up_1" || got.Attempts[0].EndedAt.IsZero() {
			t.Errorf("its attempts read %+v", got.Attempts)
		}
		if m := h.messages(t, org, "th"); len(m) != 2 || m[0].Role != "user" || m[1].Role != "assistant" || m[1].Seq != 1 {
			t.Errorf("the thread reads %+v", m)
		}
	})
}

// A unit whose commit was not answered is run again. What it did is found, not done twice.
func TestUnitsRunAgainChangeNothing(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		o, u := h.plan(t, org, "own_1", "th", "hello")
		h.commit(t, u)
		if h.db.Dialect() == db.Postgres { // SQLite's commits are never in doubt
			h.commit(t, u)
			if o.Result != calls.Won {
				t.Errorf("open run again: %v, want won", o.Result)
			}
		}
		c, ru := h.record(o, 0, "hi")
		h.commit(t, ru)
		h.commit(t, ru)
		if !c.Recorded {
			t.Error("record run again does not find itself")
		}
		if m := h.messages(t, org, "th"); len(m) != 2 {
			t.Errorf("%d messages after everything ran twice, want 2", len(m))
		}
	})
}

func TestStaleDecisionIsRefused(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		late, lateUnit := h.plan(t, org, "own_1", "th", "decided on an empty thread")
		first := h.turn(t, org, "own_1", "th", "was faster")
		_, u := h.record(first, 0, "hi")
		h.commit(t, u)
		h.commit(t, lateUnit)
		if late.Result != calls.Stale {
			t.Errorf("a decision on an old head: %v, want stale", late.Result)
		}
		if m := h.messages(t, org, "th"); len(m) != 2 {
			t.Errorf("%d messages, want the 2 of the faster turn", len(m))
		}
		if _, err := h.calls.Call(t.Context(), org, late.ID); !fault.Is(err, fault.NotFound) {
			t.Errorf("the refused call left a row: %v", err)
		}
	})
}

// Many clients on few threads, from two processes: every turn is whole, every sequence gapless, none interleaved.
func TestTurnsNeverInterleave(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		houses := []*house{open(t, url)}
		if houses[0].db.Dialect() == db.Postgres {
			houses = append(houses, open(t, url))
		}
		const clients, turns, nThreads = 12, 8, 3
		var won atomic.Int64
		var wg sync.WaitGroup
		for c := range clients {
			wg.Go(func() {
				h := houses[c%len(houses)]
				thread := id.Thread(fmt.Sprint("th", c%nThreads))
				for i := 0; i < turns; {
					o := h.turn(t, org, id.Owner(fmt.Sprint("own_", c%len(houses))), thread, fmt.Sprintf("%d/%d", c, i))
					if t.Failed() {
						return
					}
					if o.Result != calls.Won {
						continue
					}
					won.Add(1)
					i++
					cl, u := h.record(o, 0, fmt.Sprintf("answer to %d", o.FirstSeq))
					if err := h.db.Commit(context.Background(), u); err != nil || !cl.Recorded {
						t.Errorf("a record: %v, recorded %v", err, cl.Recorded)
						return
					}
				}
			})
		}
		wg.Wait()
		total := 0
		for i := range nThreads {
			m := houses[0].messages(t, org, id.Thread(fmt.Sprint("th", i)))
			total += len(m)
			for seq, m := range m {
				want := "user"
				if seq%2 == 1 {
					want = "assistant"
				}
				if m.Seq != seq || m.Role != want {
					t.Fatalf("thread %d: message %d has sequence %d and role %s", i, seq, m.Seq, m.Role)
				}
			}
		}
		if total != 2*clients*turns || won.Load() != clients*turns {
			t.Errorf("%d messages of %d turns, want %d of %d", total, won.Load(), 2*clients*turns, clients*turns)
		}
	})
}

func TestAnotherOrgSeesNothing(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		o := h.turn(t, org, "own_1", "th", "hello")
		if _, err := h.calls.Call(t.Context(), "org_b", o.ID); !fault.Is(err, fault.NotFound) {
			t.Errorf("another org's call: %v", err)
		}
		if c, err := h.calls.Holder(t.Context(), "org_b", "th"); err != nil || c != nil {
			t.Errorf("another org's turn: %v, %v", c, err)
		}
		if p, err := h.threads.Page(t.Context(), "org_b", "th", threads.Viewer{Admin: true}, -1, 0); !fault.Is(err, fault.NotFound) {
			t.Errorf("another org's thread: %v, %v", p, err)
		}
		if list, err := h.threads.List(t.Context(), "org_b", threads.Viewer{Admin: true}, threads.Cursor{}, 10); err != nil || len(list) != 0 {
			t.Errorf("another org's list: %v, %v", list, err)
		}
		// The same names in both orgs are two things.
		if mine := h.turn(t, "org_b", "own_1", "th", "other"); mine.Result != calls.Won {
			t.Errorf("the same thread id in another org: %v", mine.Result)
		}
		forged, u := h.record(o, 0, "x")
		forged.Org = "org_b"
		u.Org = "org_b"
		if err := h.db.Commit(t.Context(), u); err == nil && forged.Recorded {
			t.Error("a call was closed under another org's name")
		}
	})
}

// One unit that fails must not take its group along.
func TestABadUnitFailsAlone(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		bad := errors.New("poisoned")
		st := db.NewStage("test.poison",
			func(rows []*poison) db.Statement {
				return db.Statement{SQL: `SELECT 1 / (CASE WHEN true = ANY($1::boolean[]) THEN 0 ELSE 1 END)`, Args: []any{flags(rows)}}
			},
			func(_ context.Context, _ *sql.Tx, p *poison) error {
				if p.bad {
					return bad
				}
				return nil
			})
		h := open(t, url, st)
		var wg sync.WaitGroup
		var mu sync.Mutex
		failed := map[int]error{}
		won := 0
		for i := range 20 {
			o, u := h.plan(t, org, "own_1", id.Thread(fmt.Sprint("th", i)), "hello")
			st.Put(u, &poison{bad: i%5 == 0}, 0)
			wg.Go(func() {
				err := h.db.Commit(context.Background(), u)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed[i] = err
				} else if o.Result == calls.Won {
					won++
				}
			})
		}
		wg.Wait()
		if len(failed) != 4 || won != 16 {
			t.Errorf("%d units failed and %d won, want 4 and 16: %v", len(failed), won, failed)
		}
		for i := range failed {
			if i%5 != 0 {
				t.Errorf("unit %d failed though it was good", i)
			}
		}
	})
}

func flags(rows []*poison) []bool {
	f := make([]bool, len(rows))
	for i, r := range rows {
		f[i] = r.bad
	}
	return f
}

func TestLateOwnerIsRefused(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		o := h.turn(t, org, "own_dead", "th", "hello")
		found, err := h.calls.Orphans(t.Context(), "own_me")
		if err != nil || len(found) != 1 || found[0].ID != o.ID {
			t.Fatalf("orphans: %v, %v", found, err)
		}
		c, err := h.calls.TakeOver(t.Context(), "own_me", found[0])
		if err != nil || c == nil || c.Epoch != 1 {
			t.Fatalf("take over: %+v, %v", c, err)
		}
		if again, err := h.calls.TakeOver(t.Context(), "own_other", found[0]); err != nil || again != nil {
			t.Errorf("a second settler got it too: %+v, %v", again, err)
		}
		late, u := h.record(o, 0, "late")
		h.commit(t, u)
		if late.Recorded {
			t.Error("the late owner's record counted")
		}
		settled, u := h.record(o, 1, "settled")
		h.commit(t, u)
		if !settled.Recorded {
			t.Error("the settler's record did not count")
		}
		if m := h.messages(t, org, "th"); len(m) != 2 || string(m[1].Raw) != `{"role":"assistant","content":"settled"}` {
			t.Errorf("the thread reads %d messages", len(m))
		}
	})
}

func TestLiveOwnersKeepTheirCalls(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		l, err := h.calls.TakeLease(t.Context(), calls.LeaseOptions{TTL: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		o := h.turn(t, org, l.Owner(), "th", "hello")
		if found, err := h.calls.Orphans(t.Context(), "own_other"); err != nil || len(found) != 0 {
			t.Errorf("a live owner's call was taken for an orphan: %v, %v", found, err)
		}
		if l.Steady() {
			t.Error("a lease just taken is steady")
		}
		testkit.Eventually(t, 5*time.Second, l.Steady)
		if found, err := h.calls.Orphans(t.Context(), "own_other"); err != nil || len(found) != 0 {
			t.Errorf("after a TTL its lease had ended: %v, %v", found, err)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		found, err := h.calls.Orphans(t.Context(), "own_other")
		if err != nil || len(found) != 1 || found[0].ID != o.ID {
			t.Errorf("after its lease ended: %v, %v", found, err)
		}
	})
}

func TestAtOnceClosesInTheSameUnit(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		o, u := h.plan(t, org, "own_1", "th", "note")
		_ = u
		o.AtOnce, o.Provider = true, ""
		u = &db.Unit{Org: org}
		m := threads.Message{Role: "user", Raw: []byte(`{"role":"user","content":"note"}`), Status: threads.Complete}
		m.After(nil)
		h.calls.Open(u, o)
		h.threads.Append(u, &threads.Input{Org: org, Thread: "th", Call: o.ID, User: "usr_1", Create: true, PrevSeq: -1, PrevChain: []byte{}, Messages: []threads.Message{m}})
		h.commit(t, u)
		c, err := h.calls.Call(t.Context(), org, o.ID)
		if err != nil || c.State != "closed" || c.Outcome != calls.Complete || o.Result != calls.Won {
			t.Fatalf("the call reads %+v, %v", c, err)
		}
		if next := h.turn(t, org, "own_1", "th", "next"); next.Result != calls.Won || next.FirstSeq != 1 {
			t.Errorf("the turn after it: %+v", next)
		}
	})
}

// claimed opens a plain call with an Idempotency-Key.
func (h *house) claimed(t testing.TB, org id.Org, key id.Key, claim string) *calls.Opening {
	t.Helper()
	o := &calls.Opening{Org: org, ID: id.NewRequest(), Key: key, User: "usr", Owner: "own", Claim: claim, BodyHash: []byte("hash"), Facts: calls.Facts{Kind: "chat"}}
	u := &db.Unit{Org: org}
	h.calls.Open(u, o)
	if err := h.db.Commit(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	return o
}

// closed ends a call with what its client was given.
func (h *house) closed(t testing.TB, o *calls.Opening, outcome calls.Outcome, body string) {
	t.Helper()
	u := &db.Unit{Org: o.Org, Record: true}
	h.calls.Close(u, &calls.Closing{Org: o.Org, ID: o.ID, RecordID: string(o.ID), Outcome: outcome})
	h.calls.Keep(u, &calls.Replay{Org: o.Org, Call: o.ID, Header: [][2]string{{"X-Thread-Id", "th"}}, Stream: true, Body: []byte(body)})
	for range 2 { // a record that is run again changes nothing
		if err := h.db.Commit(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClaims(t *testing.T) {
	eachStore(t, func(t *testing.T, url string) {
		h := open(t, url)
		first := h.claimed(t, org, "key", "one")
		if first.Result != calls.Won {
			t.Fatalf("the first call: %v", first.Result)
		}
		c, err := h.calls.Claimed(t.Context(), org, "key", "one")
		if err != nil || c == nil || c.Call != first.ID || !c.Open || c.Owner != "own" || string(c.BodyHash) != "hash" || c.Kind != "chat" {
			t.Fatalf("the claim is %+v, %v", c, err)
		}
		if again := h.claimed(t, org, "key", "one"); again.Result != calls.Repeats {
			t.Errorf("the same claim while it is open: %v", again.Result)
		}
		for name, other := range map[string]*calls.Opening{
			"another claim": h.claimed(t, org, "key", "two"), "another key's": h.claimed(t, org, "key2", "one"),
			"another org's": h.claimed(t, "org_b", "key", "one"), "none": h.claimed(t, org, "key", ""), "none, again": h.claimed(t, org, "key", ""),
		} {
			if other.Result != calls.Won {
				t.Errorf("%s: %v", name, other.Result)
			}
		}

		h.closed(t, first, calls.Complete, "said")
		if again := h.claimed(t, org, "key", "one"); again.Result != calls.Repeats {
			t.Errorf("the same claim when it is complete: %v", again.Result)
		}
		r, err := h.calls.Replay(t.Context(), org, first.ID)
		if err != nil || r == nil || string(r.Body) != "said" || !r.Stream || len(r.Header) != 1 || r.Header[0] != [2]string{"X-Thread-Id", "th"} {
			t.Errorf("the replay is %+v, %v", r, err)
		}
		if r, err := h.calls.Replay(t.Context(), "org_b", first.ID); err != nil || r != nil {
			t.Errorf("another org's replay: %+v, %v", r, err)
		}

		for _, outcome := range []calls.Outcome{calls.Failed, calls.Incomplete} { // gives the claim back
			o := h.claimed(t, org, "key", "three")
			h.closed(t, o, outcome, "half")
			if c, err := h.calls.Claimed(t.Context(), org, "key", "three"); o.Result != calls.Won || err != nil || c != nil {
				t.Errorf("%s: %v, then the claim is %+v, %v", outcome, o.Result, c, err)
			}
			if r, err := h.calls.Replay(t.Context(), org, o.ID); err != nil || r != nil {
				t.Errorf("%s: the replay is %+v, %v", outcome, r, err)
			}
		}
		plain := h.claimed(t, org, "key", "")
		h.closed(t, plain, calls.Complete, "said")
		if r, err := h.calls.Replay(t.Context(), org, plain.ID); err != nil || r != nil {
			t.Errorf("a call without a claim is kept: %+v, %v", r, err)
		}

		// A day later.
		err = h.db.Write(t.Context(), org, func(tx db.Tx) error {
			_, err := tx.Exec(t.Context(), `UPDATE calls SET claim_until = claim_until - CAST($1 AS interval) WHERE org_id = $2`, calls.ClaimFor, org)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		late := h.claimed(t, org, "key", "four")
		h.closed(t, late, calls.Complete, "later")
		if c, err := h.calls.Claimed(t.Context(), org, "key", "one"); err != nil || c != nil {
			t.Errorf("after its time the claim is %+v, %v", c, err)
		}
		if c, err := h.calls.Claimed(t.Context(), org, "key", "two"); err != nil || c == nil || !c.Open {
			t.Errorf("an open call has lost its claim: %+v, %v", c, err)
		}
		if anew := h.claimed(t, org, "key", "one"); anew.Result != calls.Won {
			t.Errorf("after its time: %v", anew.Result)
		}
		if r, err := h.calls.Replay(t.Context(), org, late.ID); err != nil || r == nil {
			t.Errorf("one whose time is not over is gone: %v", err)
		}
	})
}
