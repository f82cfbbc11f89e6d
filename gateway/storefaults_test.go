package gateway

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/internal/testkit"
	"threadhub/metering"
	"threadhub/migrations"
	"threadhub/orgs"
)

// onPostgres is a connection of the database's owner, for what goes wrong in it.
func onPostgres(t *testing.T, url string) (exec func(string)) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return func(q string) {
		t.Helper()
		if _, err := c.Exec(context.Background(), q); err != nil {
			t.Fatal(err)
		}
	}
}

// raise makes every insert into table fail.
func raise(table, code string) string {
	return fmt.Sprintf(`CREATE FUNCTION fail_%[1]s() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '%[2]s'; END $$;
		CREATE TRIGGER fail BEFORE INSERT ON %[1]s FOR EACH ROW EXECUTE FUNCTION fail_%[1]s()`, table, code)
}

// P1, P6: Postgres is dead before a call begins. Everybody is told so within the time of one statement, with when to come
// back; nobody is told that a key is bad, and no provider is asked. After five failures it takes no time at all.
func TestPostgresIsDeadBeforeACall(t *testing.T) {
	pg := testkit.StartFor(t, testkit.Options{NoRedis: true, Durable: true}).Postgres
	if err := migrations.Up(t.Context(), pg.URL(), migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, pg.URL(), Options{})
	stranger := h.seed("other", "other@house.test", orgs.Member) // whose key this process has not seen yet
	h.chat("hello", "", "X-Thread-Id", "kept").want(t, 200)
	asked := len(h.attempts())
	if err := pg.Kill(); err != nil {
		t.Fatal(err)
	}
	tell := func(key seal.Secret) time.Duration {
		t.Helper()
		start := time.Now()
		r := h.chat("hello", "", "Authorization", "Bearer "+key.Reveal(), "X-Thread-Id", "kept")
		took := time.Since(start)
		if r.status != 503 || r.header.Get("Retry-After") != "1" || r.code() != "storage_unavailable" && r.code() != "outcome_unknown" {
			t.Errorf("told %d %v: %s", r.status, r.header, r.body)
		}
		return took
	}
	for _, key := range []seal.Secret{h.admin.APIKey, stranger.APIKey, h.admin.APIKey, stranger.APIKey, h.admin.APIKey} {
		if took := tell(key); took > 4*time.Second {
			t.Errorf("it took %v", took)
		}
	}
	if n := metric(t, h.opts.Registry, "threadhub_store_breaker_open"); n != 1 {
		t.Error("the breaker is not told to be open")
	}
	fast := 0
	for range 20 {
		if tell(h.admin.APIKey) < 100*time.Millisecond {
			fast++
		}
	}
	if fast < 15 {
		t.Errorf("%d of 20 were told at once", fast)
	}
	if got := len(h.attempts()); got != asked {
		t.Error("the provider was asked")
	}
	if err := pg.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, func() bool { return h.chat("hello", "").status == 200 }, "a call after the restart")
	if got := h.messages("kept"); len(got) != 2 {
		t.Errorf("the thread reads %q", got)
	}
	if n := metric(t, h.opts.Registry, "threadhub_store_breaker_open"); n != 0 {
		t.Error("the breaker is still told to be open")
	}
}

// P10: the disk of the database is full when a call begins: nothing of it is there, and no provider is asked. When it ends:
// its record waits.
func TestTheDatabasesDiskIsFull(t *testing.T) {
	url := testkit.Postgres(t)
	h := newHouse(t, url, Options{})
	exec := onPostgres(t, url)
	exec(raise("messages", "53100"))
	r := h.chat("hello", "", "X-Thread-Id", "full").want(t, 503)
	if r.code() != "storage_full" || r.header.Get("Retry-After") == "" {
		t.Errorf("told %s with %v", r.body, r.header)
	}
	if h.rows() != "" || len(h.attempts()) != 0 {
		t.Errorf("something is there: %s", h.rows())
	}
	exec(`DROP TRIGGER fail ON messages`)
	exec(raise("ledger", "53100"))
	h.chat("hello", "", "X-Thread-Id", "full").want(t, 503)
	if n := metric(t, h.opts.Registry, "threadhub_spool_records"); n != 1 {
		t.Errorf("%v records are in the spool", n)
	}
	exec(`DROP TRIGGER fail ON ledger`)
	testkit.Eventually(t, 10*time.Second, func() bool { return h.free("full") }, "the record to be made")
	if got := h.messages("full"); len(got) != 2 || !strings.HasSuffix(got[1], ":complete") {
		t.Errorf("the thread reads %q", got)
	}
	testkit.Eventually(t, 5*time.Second, func() bool { return metric(t, h.opts.Registry, "threadhub_ledger_pending") == 0 }, "the backlog to be empty")
}

// P15: row-level security is switched off, or a policy dropped, while calls run. Nobody is shown anything, no key is told
// to be bad, and what ends meanwhile is recorded when it is put right.
func TestRowLevelSecurityIsLost(t *testing.T) {
	url := testkit.Postgres(t)
	exec := onPostgres(t, url)
	h := newHouse(t, url, Options{}, func(o *db.Options) {
		o.WatchEvery = 10 * time.Millisecond
		o.Watch = func(ctx context.Context, conn *pgx.Conn) error { return migrations.Stands(ctx, conn) }
	})
	h.chat("hello", "", "X-Thread-Id", "mine").want(t, 200)
	var fresh []orgs.Seeded // whose keys this process has not looked up yet
	for i := range 3 {
		fresh = append(fresh, h.seed(fmt.Sprint("other", i), "a@other.test", orgs.Member))
	}
	for i, tc := range []struct{ lose, back string }{
		{`ALTER TABLE messages DISABLE ROW LEVEL SECURITY`, `ALTER TABLE messages ENABLE ROW LEVEL SECURITY`},
		{`ALTER POLICY own_org ON messages RENAME TO x`, `ALTER POLICY x ON messages RENAME TO own_org`},
		{`ALTER POLICY shown_key ON api_keys RENAME TO x`, `ALTER POLICY x ON api_keys RENAME TO shown_key`},
	} {
		body, c := h.stream("delay=20ms chunks=30 size=400", "running")
		exec(tc.lose)
		testkit.Eventually(t, 5*time.Second, func() bool { return h.do("GET", "/api/threads/mine", "").status == 500 }, "the guard to notice")
		for _, r := range []heard{
			h.do("GET", "/api/threads/mine", ""), h.do("GET", "/api/threads", ""), h.chat("more", "", "X-Thread-Id", "mine"),
			h.do("GET", "/api/threads/mine", "", "Authorization", "Bearer "+fresh[i].APIKey.Reveal()),
		} {
			if r.status != 500 || r.code() != "tenant_context" {
				t.Errorf("%s: told %d: %s", tc.lose, r.status, r.body)
			}
		}
		rest, err := io.ReadAll(body)
		_ = c.Close()
		if err != nil || !strings.Contains(string(rest), `"code":"tenant_context"`) {
			t.Errorf("the stream ended with %v: %.300s", err, rest[max(0, len(rest)-300):])
		}
		if n := metric(t, h.opts.Registry, "threadhub_rls_guard_total"); n == 0 {
			t.Error("the guard counted nothing")
		}
		exec(tc.back)
		testkit.Eventually(t, 10*time.Second, func() bool { return h.do("GET", "/api/threads/mine", "").status == 200 }, "the guard to stand down")
		testkit.Eventually(t, 10*time.Second, func() bool { return h.free("running") }, "the record to be made")
		if got := h.messages("running"); !strings.HasSuffix(got[len(got)-1], ":complete") {
			t.Errorf("the thread reads %q", got)
		}
	}
}

// G16: several settlers find the same orphans. Each is settled once, and its owner, when it comes back, is refused and
// counted.
func TestSettlersShareTheOrphans(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		const orphans, settlers = 12, 3
		var list []calls.Orphan
		for i := range orphans {
			thread := id.Thread(fmt.Sprint("t", i))
			h.orphan(thread)
			c, err := h.calls.Holder(t.Context(), h.admin.Org, thread)
			if err != nil || c == nil {
				t.Fatal(c, err)
			}
			list = append(list, calls.Orphan{Org: c.Org, ID: c.ID})
		}
		all := make([]*Settler, settlers)
		for i := range all {
			all[i] = h.settler(h.store)
		}
		var wg sync.WaitGroup
		for _, s := range all {
			wg.Go(func() {
				if err := s.settleAll(t.Context(), list); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		total := int64(0)
		for _, s := range all {
			total += s.settled.Load()
		}
		if total != orphans {
			t.Errorf("%d were settled, of %d", total, orphans)
		}
		for _, o := range list {
			lines, err := metering.Lines(t.Context(), h.store, o.Org, o.ID)
			if err != nil || len(lines) != 1 {
				t.Errorf("%d lines, %v", len(lines), err)
			}
			rec := &recording{Closing: calls.Closing{Org: o.Org, ID: o.ID, RecordID: string(o.ID), Outcome: calls.Complete}, Line: metering.Line{Org: o.Org, Call: o.ID, Provider: "openai", Model: "gpt-5-mini"}}
			rec.Line.Charge.Status = metering.Computed
			if recorded, err := h.recorder.commit(rec, 0); recorded || err != nil {
				t.Errorf("a late owner was told %v, %v", recorded, err)
			}
		}
		if n := metric(t, h.opts.Registry, "threadhub_fence_total"); n != orphans {
			t.Errorf("%v records were fenced", n)
		}
	})
}
