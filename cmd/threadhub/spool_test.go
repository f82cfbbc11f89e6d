package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/config"
	"threadhub/internal/db"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/internal/spool"
	"threadhub/internal/testkit"
	"threadhub/metering"
	"threadhub/threads"
)

// What a process left in the spool is recorded at the next start, before its calls are settled as lost: on SQLite that
// happens before anybody is served.
func TestTheSpoolComesBeforeTheSettler(t *testing.T) {
	for name, url := range map[string]func(*testing.T, *config.Config){
		"sqlite":   func(*testing.T, *config.Config) {},
		"postgres": func(t *testing.T, c *config.Config) { c.DatabaseURL = seal.NewSecret(testkit.Postgres(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config.Default()
			cfg.DataDir = t.TempDir()
			cfg.EncryptionKey = seal.NewSecret(seal.NewKey())
			url(t, cfg)
			var log testkit.Log
			s, err := openServer(t.Context(), cfg, &log)
			if err != nil {
				t.Fatal(err)
			}
			call, org := leaveInSpool(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}

			s, err = openServer(t.Context(), cfg, &log)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			c, err := s.storage.calls.Call(t.Context(), org, call)
			if err != nil || c.State != "closed" || c.Outcome != calls.Complete {
				t.Errorf("the call is %+v, %v\n%s", c, err, &log)
			}
			lines, err := metering.Lines(t.Context(), s.storage.store, org, call)
			if err != nil || len(lines) != 1 || lines[0].Charge.Input != 7 {
				t.Errorf("the ledger has %+v, %v", lines, err)
			}
			p, err := s.storage.threads.Page(t.Context(), org, "t", threads.Viewer{Admin: true}, -1, 0)
			if err != nil || len(p.Messages) != 1 || string(p.Messages[0].Raw) != `{"role":"assistant","content":"whole"}` {
				t.Errorf("the thread has %+v, %v", p, err)
			}
			if left, err := filepath.Glob(filepath.Join(cfg.DataDir, "spool", "*.record")); err != nil || len(left) != 0 {
				t.Errorf("the spool still has %q, %v", left, err)
			}
		})
	}
}

// leaveInSpool opens a call and puts what would close it into the spool, as a process does that dies then.
func leaveInSpool(t *testing.T, s *server) (id.Request, id.Org) {
	t.Helper()
	const org = "org_a"
	call := id.NewRequest()
	err := s.storage.store.Write(t.Context(), org, func(tx db.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO orgs (org_id, name, tier, seats) VALUES ($1, 'a', 'trial', 1)`, org)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	u := &db.Unit{Org: org}
	s.storage.calls.Open(u, &calls.Opening{
		Org: org, ID: call, Key: "key", User: "usr_a", Thread: "t", Owner: s.lease.Owner(), Provider: "openai", Model: "m",
		Facts: calls.Facts{Kind: "chat", Provider: "openai", Model: "m"},
	})
	s.storage.threads.Append(u, &threads.Input{Org: org, Thread: "t", Call: call, User: "usr_a", Create: true, PrevSeq: -1})
	if err := s.storage.store.Commit(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	sp, err := spool.Open(filepath.Join(s.cfg.DataDir, "spool"), s.storage.keys, spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sp.Close() }()
	record := fmt.Sprintf(`{"Version":1,
		"Closing":{"Org":"org_a","ID":"%[1]s","RecordID":"%[1]s","Outcome":"complete","Attempts":[{"N":0,"State":"ok","Status":200}]},
		"Line":{"Org":"org_a","Call":"%[1]s","Kind":"use","Key":"key","User":"usr_a","Thread":"t","Provider":"openai","Model":"m","Charge":{"Input":7,"Status":"unpriced","Version":"v"}},
		"Answer":{"Org":"org_a","Call":"%[1]s","Message":{"Role":"assistant","Raw":"eyJyb2xlIjoiYXNzaXN0YW50IiwiY29udGVudCI6Indob2xlIn0=","Own":"","Chain":"","Status":"complete"}}}`, call)
	if err := sp.Put(string(call), []byte(record)); err != nil {
		t.Fatal(err)
	}
	return call, org
}

// The operator's listener tells what waits, and whether other processes are heard.
func TestWhatWaitsIsToldInMetrics(t *testing.T) {
	r := start(t, append(stores["sqlite"](t), "REDIS_URL="+testkit.Redis(t)), "serve")
	want := []string{"threadhub_ledger_pending 0", "threadhub_spool_bytes 0", "threadhub_spool_full 0", "threadhub_store_breaker_open 0", "threadhub_bus_up 1"}
	testkit.Eventually(t, 10*time.Second, func() bool {
		_, body := ask(t, "GET", r.ready["operator_url"]+"/metrics", "", "", "")
		return !slices.ContainsFunc(want, func(line string) bool { return !strings.Contains(body, line+"\n") })
	}, "the metrics do not tell %q", want)
}
