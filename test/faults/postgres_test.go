package faults

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"threadhub/internal/id"
	"threadhub/test/kills"
	"threadhub/test/rig"
)

var postgresRows = []row{
	{id: "P1", title: "kill -9 of Postgres before OPEN", metric: "threadhub_store_up", setup: setup{own: true}, play: func(w *world) {
		w.want(w.ask(said(2, 0)), well)
		w.must(w.pg.Kill())
		all := []*kills.Exchange{w.ask(said(2, 0), in("other")), w.ask(said(2, 0), plain)}
		e := all[0]
		back := w.back()
		is := refused(503, "storage_unavailable")
		is.within = databaseTime
		w.wants(all, is)
		if e.Answer.Get("Retry-After") != "1" {
			w.Errorf("Retry-After is %q", e.Answer.Get("Retry-After"))
		}
		w.moved("threadhub_requests_total", `outcome="unavailable"`)
		w.recovers(back)
		w.want(w.send(w.g[0], again(e)), well)
	}},
	{id: "P2", title: "OPEN's COMMIT happens, and nobody is told", metric: "threadhub_store_ambiguous_commits_total", setup: setup{between: true}, play: func(w *world) {
		w.want(w.ask(said(2, 0)), well)
		e := w.question(said(2, 0))
		dropped := w.wire["postgres"].DropCommit(fmt.Sprintf("question 2 of %s", w.row.id))
		w.send(w.g[0], e)
		select {
		case <-dropped:
		default:
			w.Fatal("no commit was dropped")
		}
		w.want(e, well)
		w.moved("threadhub_store_ambiguous_commits_total")

		// And now Postgres stays away.
		e = w.question(said(2, 0))
		dropped = w.wire["postgres"].DropCommit(fmt.Sprintf("question 3 of %s", w.row.id))
		l := w.start(w.g[0], e)
		<-dropped
		w.wire["postgres"].Refuse(true)
		w.wire["postgres"].Cut()
		l.wait()
		if e.Status != 503 || e.Code != "outcome_unknown" || took(e) > 5*time.Second+slack {
			w.Errorf("status %d %s after %v", e.Status, e.Code, took(e))
		}
		w.wire["postgres"].Refuse(false)
		w.want(e, end{status: 503, outcome: "failed", reason: []string{"outcome_unknown"}, line: free})
		w.eventually(10*time.Second, func() bool { return w.send(w.g[0], again(e)).Done }, "the repeat to be answered")
		w.once(e)
	}},
	{id: "P3", title: "kill -9 of Postgres between OPEN and RECORD", setup: setup{own: true}, play: func(w *world) {
		l := w.streaming(w.g[0], w.question(said(20, 50*time.Millisecond)))
		w.must(w.pg.Kill())
		w.sleep(time.Duration(w.rand.IntN(1500)) * time.Millisecond)
		w.must(w.pg.Restart(context.Background()))
		w.want(l.wait(), well)
	}},
	longAway,
	{id: "P4", title: "restart of Postgres under idle connections", metric: "threadhub_store_resets_total", setup: setup{own: true, env: patientStore()}, play: func(w *world) {
		w.wants(w.many(12, 6, func(int) *kills.Exchange { return w.ask(said(2, 0), pick(w, whole, plain)) }), well)
		w.must(w.pg.Signal(pick(w, syscall.SIGINT, syscall.SIGQUIT)))
		w.must(w.pg.Restart(context.Background()))
		w.eventually(10*time.Second, func() bool { return w.metrics(w.g[0])["threadhub_store_breaker_open"] == 0 }, "what works in the background to have noticed nothing, or the end of it")
		w.wants(w.many(12, 6, func(int) *kills.Exchange { return w.ask(said(2, 0)) }), well)
		w.moved("threadhub_store_resets_total")
	}},
	{id: "P5", title: "Postgres is slow: 200 ms more for each round trip", setup: setup{between: true}, play: func(w *world) {
		w.want(w.ask(said(1, 0), whole), well)
		quickest := func() time.Duration { // a busy machine makes any one of them slow
			best := time.Hour
			for range 3 {
				e := w.ask(said(1, 0), whole)
				w.want(e, well)
				best = min(best, took(e))
			}
			return best
		}
		usual := quickest()
		w.wire["postgres"].Delay(200 * time.Millisecond)
		if extra := quickest() - usual; extra < 2*200*time.Millisecond || extra > 3*200*time.Millisecond+750*time.Millisecond {
			w.Errorf("it took %v more", extra)
		}
		w.wire["postgres"].Delay(0)
	}},
	{id: "P6", title: "Postgres is frozen", metric: "threadhub_store_breaker_open", setup: setup{own: true}, play: func(w *world) {
		w.want(w.ask(said(1, 0)), well)
		running := w.streaming(w.g[0], w.question(said(60, 50*time.Millisecond)))
		w.must(w.pg.Freeze())
		var late []*kills.Exchange
		for range 5 {
			late = append(late, w.ask(said(1, 0), plain))
		}
		quick := w.ask(said(1, 0), plain)
		threaded := w.ask(said(1, 0))
		w.eventually(5*time.Second, func() bool { return w.status(w.g[0].Operator+"/health/ready") == 503 }, "the gateway not to be ready")
		if now := w.metrics(w.g[0]); now["threadhub_store_up"] != 0 || now["threadhub_store_breaker_open"] != 1 {
			w.Errorf("store_up is %v, store_breaker_open %v", now["threadhub_store_up"], now["threadhub_store_breaker_open"])
		}
		w.must(w.pg.Thaw())
		for _, e := range append(late, quick, threaded) {
			if e.Status != 503 || e.Code != "storage_unavailable" && e.Code != "outcome_unknown" || took(e) > 5*time.Second+slack {
				w.Errorf("%s: status %d %s after %v", e.Text, e.Status, e.Code, took(e))
			}
		}
		if took(quick) > databaseTime/2 {
			w.Errorf("after five failures one more took %v", took(quick))
		}
		w.want(running.wait(), well)
		w.recovers(time.Now())
		if n := w.metrics(w.g[0])["threadhub_store_breaker_open"]; n != 0 {
			w.Errorf("afterwards store_breaker_open is %v", n)
		}
	}},
	{id: "P7", title: "the pool of connections is exhausted", metric: "threadhub_store_pool_full_total", setup: setup{apart: true}, play: func(w *world) {
		w.want(w.ask(said(1, 0), in("known")), well)
		w.many(400, 60, func(int) *kills.Exchange { // until the pool is as large as it gets
			w.read(w.g[0], "known")
			return nil
		})
		tx, err := w.connect().Begin(context.Background())
		w.must(err)
		defer func() { _ = tx.Conn().Close(context.Background()) }()
		_, err = tx.Exec(context.Background(), "LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
		w.must(err)
		replies := make([]*rig.Reply, 40)
		times := make([]time.Duration, len(replies))
		w.many(len(replies), len(replies), func(i int) *kills.Exchange {
			began := time.Now()
			replies[i], _ = w.g[0].Do(context.Background(), "GET", "/api/threads/known", w.who.Key, nil)
			times[i] = time.Since(began)
			return nil
		})
		w.must(tx.Rollback(context.Background()))
		quick := 0
		for i, r := range replies {
			if r == nil || r.Status != 503 || r.Header.Get("Retry-After") != "1" {
				w.Errorf("a reader got %+v", r)
				continue
			}
			if times[i] < databaseTime {
				quick++
			}
		}
		if quick < len(replies)-16 {
			w.Errorf("only %d of those that found no connection were told at once: %v", quick, times)
		}
		w.moved("threadhub_store_pool_full_total")
		time.Sleep(1100 * time.Millisecond) // readers that waited in vain may have opened the breaker, which asks once a second
		w.want(w.ask(said(1, 0), in("known")), well)
	}},
	failover, lostPrimary,
	walFull, dataFull,
	{id: "P11", title: "a serialisation failure, or a deadlock", metric: "threadhub_store_retries_total", setup: setup{apart: true}, play: func(w *world) {
		for _, state := range []string{"40001", "40P01"} {
			w.sql("CREATE SEQUENCE tries", "GRANT USAGE ON SEQUENCE tries TO threadhub_app")
			w.trigger("lost", pick(w, "calls", "messages", "ledger"), "IF nextval('tries') <= 2 THEN RAISE EXCEPTION USING ERRCODE = '"+state+"'; END IF")
			w.want(w.ask(said(2, 0)), well)
			w.untrigger("lost")
			w.sql("DROP SEQUENCE tries")
		}
		w.moved("threadhub_store_retries_total")
	}},
	{id: "P12", title: "a transaction that is stuck holds the thread's turn", setup: setup{apart: true}, play: func(w *world) {
		w.want(w.ask(said(1, 0), in("stuck")), well)
		tx, err := w.connect().Begin(context.Background())
		w.must(err)
		defer func() { _ = tx.Conn().Close(context.Background()) }()
		_, err = tx.Exec(context.Background(), `INSERT INTO calls SELECT (jsonb_populate_record(c, jsonb_build_object(
'call_id', 'req_stuck', 'state', 'open', 'outcome', null, 'closed_at', null, 'close_xid', null, 'claim', null))).* FROM calls c WHERE org_id = $1 AND thread_id = 'stuck'`, w.who.Org)
		w.must(err)
		l := w.start(w.g[0], w.question(said(1, 0), in("stuck")))
		w.want(w.ask(said(1, 0)), well) // others go on
		w.want(l.wait(), refused(409, "thread_locked"))
		w.must(tx.Rollback(context.Background()))
		w.want(w.send(w.g[0], again(l.Exchange)), well)
	}},
	{id: "P13", title: "backends are killed at random", setup: setup{apart: true}, play: func(w *world) {
		stop, ended := make(chan struct{}), make(chan struct{})
		conn := w.connect()
		go func() {
			defer close(ended)
			defer func() { _ = conn.Close(context.Background()) }()
			for {
				select {
				case <-stop:
					return
				case <-time.After(300 * time.Millisecond):
				}
				_, err := conn.Exec(context.Background(), `SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'threadhub' ORDER BY random() LIMIT 1) x`)
				if err != nil {
					w.Error(err)
					return
				}
			}
		}()
		n, lost := 250, 0
		all := w.many(n, 8, func(i int) *kills.Exchange {
			return w.ask(said(2, 5*time.Millisecond), []option{whole, in(id.Thread(fmt.Sprint("shared-", i%16))), plain}[i%3])
		})
		close(stop)
		<-ended
		for _, e := range all {
			if !e.Done {
				lost++
				if e.Status != 503 {
					w.want(e, well)
				}
			}
		}
		if lost*100 > n {
			w.Errorf("%d of %d were not answered", lost, n)
		}
	}},
	{id: "P14", title: "RECORD runs into its statement timeout", setup: setup{apart: true}, play: func(w *world) {
		w.sql("CREATE SEQUENCE tries", "GRANT USAGE ON SEQUENCE tries TO threadhub_app")
		w.trigger("slow", "ledger", "IF nextval('tries') <= 1 THEN PERFORM pg_sleep(5); END IF")
		w.want(w.ask(said(2, 0), pick(w, whole, plain)), well)
		w.untrigger("slow")
		w.sql("DROP SEQUENCE tries")
	}},
	{id: "P15", title: "a policy is dropped by mistake", metric: "threadhub_rls_guard_total", setup: setup{apart: true}, play: func(w *world) {
		w.want(w.ask(said(1, 0), in("bound")), well)
		restore := w.dropPolicies(pick(w, "messages", "calls", "attempts"))
		e := w.ask(said(1, 0))
		r, err := w.g[0].Do(context.Background(), "GET", "/api/threads/bound", w.who.Key, nil)
		w.must(err)
		w.foreign(&kills.Exchange{Raw: r.Body})
		restore()
		w.want(e, refused(500, "tenant_context"))
		w.moved("threadhub_rls_guard_total")
		w.want(w.ask(said(1, 0), in("bound")), well)
	}},
	{id: "P16", title: "the schema changes during traffic", setup: setup{apart: true}, play: func(w *world) {
		done := make(chan []*kills.Exchange)
		go func() {
			done <- w.many(80, 4, func(int) *kills.Exchange { return w.ask(said(2, 10*time.Millisecond)) })
		}()
		if out, err := w.house.Run("migrate", "up"); err != nil {
			w.Errorf("migrate: %v %s", err, out)
		}
		for _, table := range []string{"calls", "messages", "ledger", "attempts"} {
			for _, change := range []string{"ADD COLUMN extra text", "DROP COLUMN extra"} {
				w.eventually(20*time.Second, func() bool {
					conn := w.connect()
					defer func() { _ = conn.Close(context.Background()) }()
					_, err := conn.Exec(context.Background(), "SET lock_timeout = '50ms'; ALTER TABLE "+table+" "+change)
					return err == nil
				}, "%s: %s", table, change)
			}
		}
		w.wants(<-done, well)
	}},
}

// back starts Postgres again and returns when it answers.
func (w *world) back() time.Time {
	w.Helper()
	w.must(w.pg.Restart(context.Background()))
	return time.Now()
}

// recovers checks that calls are served again soon after Postgres is.
func (w *world) recovers(since time.Time) {
	w.Helper()
	w.eventually(10*time.Second, func() bool { return w.ask(said(1, 0), plain).Done }, "calls to be served again")
	if d := time.Since(since); d > 2*time.Second+slack {
		w.Errorf("calls are served again %v after Postgres is", d)
	}
	w.eventually(5*time.Second, func() bool { return w.status(w.g[0].Operator+"/health/ready") == 200 }, "the gateway to be ready again")
}

// trigger has Postgres do something before each row that is put into a table.
func (w *world) trigger(name, table, do string) {
	w.Helper()
	w.sql(fmt.Sprintf("CREATE FUNCTION %q() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN %s; RETURN NEW; END $f$", name, do),
		fmt.Sprintf("CREATE TRIGGER %q BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION %q()", name, table, name))
}

func (w *world) untrigger(name string) {
	w.Helper()
	w.sql(fmt.Sprintf("DROP FUNCTION %q() CASCADE", name))
}

// dropPolicies takes a table's policies away and returns what puts them back.
func (w *world) dropPolicies(table string) (restore func()) {
	w.Helper()
	conn := w.connect()
	defer func() { _ = conn.Close(context.Background()) }()
	rows, err := conn.Query(context.Background(), `SELECT policyname, format('CREATE POLICY %I ON %I AS %s FOR %s TO %s', policyname, tablename, permissive, cmd, array_to_string(roles, ','))
|| coalesce(' USING (' || qual || ')', '') || coalesce(' WITH CHECK (' || with_check || ')', '') FROM pg_policies WHERE tablename = $1`, table)
	w.must(err)
	var drop, create []string
	for rows.Next() {
		var name, text string
		w.must(rows.Scan(&name, &text))
		drop, create = append(drop, fmt.Sprintf("DROP POLICY %q ON %s", name, table)), append(create, text)
	}
	w.must(rows.Err())
	w.sql(drop...)
	return func() { w.Helper(); w.sql(create...) }
}
