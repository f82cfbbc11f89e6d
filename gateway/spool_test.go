package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"threadhub/calls"
	"threadhub/internal/db"
	"threadhub/internal/fault"
	"threadhub/internal/id"
	"threadhub/internal/seal"
	"threadhub/internal/spool"
	"threadhub/internal/testkit"
	"threadhub/metering"
	"threadhub/openai"
	"threadhub/threads"
)

// spoolOf opens a spool in a folder of its own.
func spoolOf(t testing.TB, o spool.Options) (s *spool.Spool, dir string) {
	t.Helper()
	ring, err := seal.ParseKeyring(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	if o.MinFree == 0 {
		o.MinFree = 1
	}
	dir = filepath.Join(t.TempDir(), "spool")
	if s, err = spool.Open(dir, ring, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, dir
}

// rows is everything the store holds of the org's calls, as text.
func (h *house) rows() string {
	h.t.Helper()
	var lines []string
	for _, q := range []string{
		`SELECT call_id || ' ' || CAST(state AS text) || ' ' || coalesce(record_id, '') || CAST(facts AS text) || CAST(closed_at AS text) FROM calls`,
		`SELECT call_id || ' ' || CAST(state AS text) || ' ' || CAST(ended_at AS text) FROM attempts`,
		`SELECT call_id || ' ' || CAST(seq AS text) || ' ' || raw || coalesce(CAST(meta AS text), '') FROM messages`,
		`SELECT call_id || ' ' || kind || ' ' || CAST(cost_pico AS text) || ' ' || CAST(at AS text) FROM ledger`,
		`SELECT call_id || ' ' || CAST(head AS text) || ' ' || CAST(expires_at AS text) FROM replays`,
	} {
		err := h.store.Query(h.t.Context(), h.admin.Org, db.Query{
			SQL: q + ` WHERE org_id = $1 ORDER BY 1`, Args: []any{h.admin.Org},
			Each: func(r db.Row) error {
				var line string
				err := r.Scan(&line)
				lines = append(lines, line)
				return err
			},
		})
		if err != nil {
			h.t.Fatal(err)
		}
	}
	return strings.Join(lines, "\n")
}

// away makes the store refuse records, as one that is away does, and returns how to end that.
func (h *house) away() (back func()) {
	m := &moody{Store: h.store}
	m.set(func(u *db.Unit) (bool, error) {
		if !u.Record {
			return false, nil
		}
		return true, fault.New(fault.Unavailable, "away").WithCode("storage_unavailable")
	})
	h.use(m)
	return func() { m.set(nil) }
}

// A record waits on the disk for a store that is away, and is made by its own process: the answer is whole, and what is
// kept for repeats is there.
func TestARecordWaitsInTheSpool(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		back := h.away()
		header := []string{"X-Thread-Id", "spooled", "Idempotency-Key", "once"}
		r := h.chat("hello", "", header...).want(t, 503)
		if r.code() != "storage_unavailable" {
			t.Errorf("the client was told %s", r.body)
		}
		if st := h.opts.Spool.Stats(); st.Records != 1 || st.Bytes == 0 || st.Written != 1 {
			t.Errorf("the spool has %+v", st)
		}
		back()
		testkit.Eventually(t, 5*time.Second, func() bool { return h.opts.Spool.Stats().Records == 0 }, "the spool to be empty")
		got := h.messages("spooled")
		if len(got) != 2 || !strings.HasSuffix(got[1], ":complete") || len(got[1]) < len("assistant::complete")+5 {
			t.Errorf("the thread reads %q", got)
		}
		again := h.chat("hello", "", header...).want(t, 200)
		if again.header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("the repeat was answered with %v", again.header)
		}
	})
}

// The process dies with a record in the spool, and the next one on that disk makes it, once.
func TestTheNextProcessAppliesTheSpool(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		back := h.away()
		h.chat("hello", "", "X-Thread-Id", "spooled", "Idempotency-Key", "once").want(t, 503)
		names := h.opts.Spool.Names()
		if len(names) != 1 {
			t.Fatalf("the spool has %q", names)
		}
		text, err := h.opts.Spool.Get(names[0])
		if err != nil {
			t.Fatal(err)
		}
		h.backlog.close() // it dies
		h.backlog = newBacklog(h.recorder, h.opts.Spool, h.opts.Log, nil)
		if h.free("spooled") {
			t.Fatal("the turn is free already")
		}
		back()
		next := New(h.opts.next())
		if err := next.Recover(); err != nil {
			t.Fatal(err)
		}
		if got := h.messages("spooled"); len(got) != 2 || !strings.HasSuffix(got[1], ":complete") {
			t.Errorf("the thread reads %q", got)
		}
		if st := h.opts.Spool.Stats(); st.Records != 0 {
			t.Errorf("the spool still has %+v", st)
		}
		once := h.rows()
		for range 2 { // the file was not removed in time, or another process found it too
			if err := h.opts.Spool.Put(names[0], text); err != nil {
				t.Fatal(err)
			}
			if err := next.Recover(); err != nil {
				t.Fatal(err)
			}
		}
		if twice := h.rows(); twice != once {
			t.Errorf("applied again, it changed\n%s\nto\n%s", once, twice)
		}
	})
}

// next is what the next process is made of.
func (o Options) next() Options {
	o.Registry = nil
	return o
}

// The settler of another process was faster: what the call really cost becomes a second line, once.
func TestASpooledRecordOfASettledCall(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		want := h.spent(h.chat("hello", "", "X-Thread-Id", "kept").want(t, 200))
		back := h.away()
		r := h.chat("hello", "", "X-Thread-Id", "lost").want(t, 503)
		h.backlog.close()
		h.backlog = newBacklog(h.recorder, h.opts.Spool, h.opts.Log, nil)
		names := h.opts.Spool.Names()
		text, err := h.opts.Spool.Get(names[0])
		if err != nil {
			t.Fatal(err)
		}
		back()
		c, err := h.calls.Holder(t.Context(), h.admin.Org, "lost")
		if err != nil || c == nil {
			t.Fatal(c, err)
		}
		if _, err := h.settler(h.store).settleOne(t.Context(), calls.Orphan{Org: c.Org, ID: c.ID}); err != nil {
			t.Fatal(err)
		}
		next := New(h.opts.next())
		for range 2 {
			if err := next.Recover(); err != nil {
				t.Fatal(err)
			}
			if err := h.opts.Spool.Put(names[0], text); err != nil {
				t.Fatal(err)
			}
		}
		if got := h.spent(r); got != want {
			t.Errorf("spent %v, want %v", got, want)
		}
		if got := h.messages("lost"); len(got) != 2 || got[1] != "assistant::incomplete:gateway_lost" {
			t.Errorf("the thread reads %q", got)
		}
	})
}

func (h *house) spent(r heard) (sum metering.PicoUSD) {
	h.t.Helper()
	lines, err := metering.Lines(h.t.Context(), h.store, h.admin.Org, id.Request(r.header.Get("X-Request-Id")))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, l := range lines {
		sum += l.Charge.Cost
	}
	return sum
}

// One damaged record, and one that the store will never take, cost no other.
func TestBadRecordsArePutAside(t *testing.T) {
	sp, dir := spoolOf(t, spool.Options{})
	h := newHouse(t, testkit.SQLite(t), Options{Spool: sp})
	back := h.away()
	for _, thread := range []string{"a", "b", "c", "d"} {
		h.chat("hello", "", "X-Thread-Id", thread).want(t, 503)
	}
	h.backlog.close()
	h.backlog = newBacklog(h.recorder, sp, h.opts.Log, nil)
	names := sp.Names()
	path := filepath.Join(dir, names[0]+".record")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sp.Put(names[1], []byte(`{"Version":1}`)); err != nil { // whole, and no recording
		t.Fatal(err)
	}
	stray := recordingSample()
	stray.Closing.Org, stray.Line.Org, stray.Answer.Org, stray.Replay.Org = h.admin.Org, h.admin.Org, h.admin.Org, h.admin.Org
	text, err = stray.encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := sp.Put(string(stray.Closing.ID), text); err != nil { // of a call that is not there
		t.Fatal(err)
	}
	if err := sp.Put("req_newer", []byte(`{"Version":2,"What":"nobody knows yet"}`)); err != nil {
		t.Fatal(err)
	}
	back()
	if err := New(h.opts.next()).Recover(); err != nil {
		t.Error(err)
	}
	if st := sp.Stats(); st.Records != 1 || st.Quarantined != 3 { // the newer one waits for a newer process
		t.Errorf("the spool has %+v", st)
	}
	bad, err := filepath.Glob(filepath.Join(dir, "*.bad"))
	if err != nil || len(bad) != 3 {
		t.Errorf("put aside: %q, %v", bad, err)
	}
	complete := 0
	for _, thread := range []id.Thread{"a", "b", "c", "d"} {
		if got := h.messages(thread); len(got) == 2 && strings.HasSuffix(got[1], ":complete") {
			complete++
		}
	}
	if complete != 2 {
		t.Errorf("%d good records were made, want 2", complete)
	}
	if !strings.Contains(h.log.String(), names[0]) {
		t.Error("the log does not name the record that was put aside")
	}
}

// A process that lives on finds that the store no longer has the call (it was put back to an earlier state): it does not try
// for ever.
func TestARecordOfACallThatIsGone(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	stray := recordingSample()
	stray.Closing.Org, stray.Line.Org, stray.Answer.Org, stray.Replay.Org = h.admin.Org, h.admin.Org, h.admin.Org, h.admin.Org
	h.backlog.keep(stray, false)
	testkit.Eventually(t, 5*time.Second, func() bool { return h.backlog.pending() == 0 }, "the backlog to be empty")
	if st := h.opts.Spool.Stats(); st.Records != 0 || st.Quarantined != 1 {
		t.Errorf("the spool has %+v", st)
	}
}

// A spool that has too much in it, or that takes nothing, refuses calls before they begin; records are never refused.
func TestAFullSpoolRefusesCalls(t *testing.T) {
	sp, dir := spoolOf(t, spool.Options{MaxBytes: 1, Every: 5 * time.Millisecond})
	h := newHouse(t, testkit.SQLite(t), Options{Spool: sp})
	back := h.away()
	h.chat("hello", "", "X-Thread-Id", "first").want(t, 503)
	asked := len(h.attempts())
	r := h.chat("hello", "", "X-Thread-Id", "second").want(t, 503)
	if r.code() != "ledger_backlog" || r.header.Get("Retry-After") == "" {
		t.Errorf("told %s with %v", r.body, r.header)
	}
	if got := len(h.attempts()); got != asked {
		t.Errorf("the provider was asked all the same")
	}
	back()
	testkit.Eventually(t, 5*time.Second, func() bool { return sp.Room() == nil }, "room to be back")
	h.chat("hello", "", "X-Thread-Id", "second").want(t, 200)

	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 5*time.Second, func() bool { return sp.Room() != nil }, "the disk to be found out")
	if r := h.chat("hello", "", "X-Thread-Id", "third").want(t, 503); r.code() != "storage_full" {
		t.Errorf("told %s", r.body)
	}
	if err := os.Rename(dir+".gone", dir); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 5*time.Second, func() bool { return sp.Room() == nil }, "the disk to be well")
	h.chat("hello", "", "X-Thread-Id", "third").want(t, 200)
}

// A record that the spool cannot take either is kept in memory, and put into the spool when that is possible.
func TestARecordThatTheSpoolCannotTake(t *testing.T) {
	sp, dir := spoolOf(t, spool.Options{Every: time.Hour})
	h := newHouse(t, testkit.SQLite(t), Options{Spool: sp})
	back := h.away()
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	h.chat("hello", "", "X-Thread-Id", "memory").want(t, 503)
	if st := sp.Stats(); st.Failures == 0 || h.backlog.pending() != 1 {
		t.Errorf("the spool has %+v, the backlog %d", st, h.backlog.pending())
	}
	if err := sp.Room(); !fault.HasCode(err, "storage_full") {
		t.Errorf("there is room: %v", err)
	}
	if err := os.Rename(dir+".gone", dir); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 5*time.Second, func() bool { return sp.Stats().Records == 1 }, "the record to be in the spool")
	back()
	testkit.Eventually(t, 5*time.Second, func() bool { return sp.Stats().Records == 0 && h.free("memory") }, "the record to be made")
	if got := h.messages("memory"); len(got) != 2 || !strings.HasSuffix(got[1], ":complete") {
		t.Errorf("the thread reads %q", got)
	}
}

// recordingSample has a value in every field that is written.
func recordingSample() *recording {
	picos := func(p metering.PicoUSD) *metering.PicoUSD { return &p }
	return &recording{
		Closing: calls.Closing{
			Org: "org_a", ID: "req_a", Epoch: 2, RecordID: "req_a", Outcome: calls.Incomplete, Reason: "upstream_reset",
			Facts: calls.Facts{
				ModelServed: "m", Vendor: "v", Status: 200, FinishReason: "stop", Usage: json.RawMessage(`{"prompt_tokens":1}`),
				CostUSD: "0.5", CostStatus: "computed", LatencyMS: 5, FirstTokenMS: 2, OverheadMS: "0.125", Warnings: []string{"w <&>"},
			},
			Attempts: []calls.AttemptEnd{{N: 0, State: calls.Cut, Status: 200, Code: "c", UpstreamID: "u", MaybeBilled: true, FirstMS: 1, TotalMS: 2}},
		},
		Vain: []metering.Line{{
			Org: "org_a", Call: "req_a", Kind: metering.Use, Key: "key", User: "usr_a", Team: "team_a", Thread: "t", Provider: "gemini", Model: "n",
			Charge: metering.Charge{Status: metering.Estimated, Version: "v1"}, MaybeBilled: true,
		}},
		Further: &calls.Further{
			Org: "org_a", ID: "req_a", Epoch: 2, Before: calls.AttemptEnd{N: 1, State: calls.FailedTry, Status: 503, Code: "c", MaybeBilled: true, TotalMS: 1},
			N: 2, Provider: "gemini", Model: "n", KeyName: "k", HoldPico: 5,
			Aim: calls.Aim{Provider: "gemini", Model: "n", Why: "y", InputBytes: 7, ThreadOmitted: 1, Warnings: []string{"w"}},
		},
		Line: metering.Line{
			Org: "org_a", Call: "req_a", Kind: metering.Use, Key: "key", User: "usr_a", Team: "team_a", Thread: "t", Provider: "openai", Model: "m",
			MaybeBilled: true,
			Charge: metering.Charge{
				Tokens: metering.Tokens{Input: 1, Cached: 2, Output: 3}, Cost: 1, Computed: picos(2), Provider: picos(3), Vendor: picos(4),
				Status: metering.Computed, Version: "v1",
			},
		},
		Answer: &threads.Answer{Org: "org_a", Call: "req_a", Message: threads.Message{
			Role: "assistant", Raw: []byte("{\"content\":\"\u00e9\\u0000\"}"), Own: []byte{}, Chain: []byte{1, 2}, Status: threads.Incomplete,
			Reason: "upstream_reset", Meta: []byte(`{"provider":"openai"}`),
		}},
		Replay: &calls.Replay{Org: "org_a", Call: "req_a", Header: [][2]string{{"X-A", "b"}}, Stream: true, Body: []byte("data: {}\n\n")},
	}
}

// sampleV1 is recordingSample as version 1 wrote it. It stays readable. When what is written changes, recordingVersion grows,
// and another sample is added.
func sampleV1(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "recording-v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRecordingsOfVersion1AreRead(t *testing.T) {
	rec, err := decodeRecording([]byte(sampleV1(t)))
	if err != nil {
		t.Fatal(err)
	}
	got, want := asText(t, rec), asText(t, recordingSample())
	if got != want {
		t.Errorf("read\n%s\nwant\n%s", got, want)
	}
	if text, err := recordingSample().encode(); err != nil || string(text) != sampleV1(t) {
		t.Errorf("written now, it is\n%s\n%v", text, err)
	}
	if rec.Answer.Message.Own == nil {
		t.Error("a hash that is empty has become none, which the store refuses")
	}
}

func asText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWhatIsNoRecording(t *testing.T) {
	other := func(change func(*recording)) string {
		rec := recordingSample()
		change(rec)
		text, err := rec.encode()
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, text := range map[string]string{
		"nothing": "", "no JSON": "{", "a list": "[]", "null": "null", "empty": `{"Version":1}`,
		"more after it": sampleV1(t) + "{}", "an unknown member": strings.Replace(sampleV1(t), `{`, `{"More":1,`, 1),
		"no org":             other(func(r *recording) { r.Closing.Org = "" }),
		"no record id":       other(func(r *recording) { r.Closing.RecordID = "" }),
		"another org's line": other(func(r *recording) { r.Line.Org = "org_b" }),
		"another's vain one": other(func(r *recording) { r.Vain[0].Call = "req_b" }),
		"another's attempt":  other(func(r *recording) { r.Further.Org = "org_b" }),
		"another's answer":   other(func(r *recording) { r.Answer.Call = "req_b" }),
		"another's replay":   other(func(r *recording) { r.Replay.Org = "org_b" }),
	} {
		if rec, err := decodeRecording([]byte(text)); err == nil {
			t.Errorf("%s was read as %+v", name, rec)
		}
	}
	if _, err := decodeRecording([]byte(`{"Version":2}`)); !errors.Is(err, spool.ErrForeign) {
		t.Errorf("another version: %v", err)
	}
}

// FuzzRecording: whatever is read as a recording is whole, is written and read again as the same, and makes a unit.
func FuzzRecording(f *testing.F) {
	f.Add([]byte(sampleV1(f)))
	f.Add([]byte(`{"Version":1,"Closing":{"Org":"o","ID":"r","RecordID":"r"},"Line":{"Org":"o","Call":"r"}}`))
	f.Add([]byte(`{"Version":2}`))
	to := &recorder{calls: calls.New(), threads: threads.New(), ledger: metering.New()}
	shut, ended := to.calls.RecordStages()
	stages := append(append(append(shut, to.threads.RecordStages()...), to.ledger.Stage()), ended...)
	store, err := db.Open(context.Background(), db.Options{URL: "sqlite://" + filepath.Join(f.TempDir(), "db"), Stages: stages})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = store.Close() })
	f.Fuzz(func(t *testing.T, text []byte) {
		rec, err := decodeRecording(text)
		if err != nil {
			if !errors.Is(err, spool.ErrDamaged) && !errors.Is(err, spool.ErrForeign) {
				t.Errorf("told %v", err)
			}
			return
		}
		once, err := rec.encode()
		if err != nil {
			t.Fatalf("read, and not written: %v", err)
		}
		again, err := decodeRecording(once)
		if err != nil {
			t.Fatalf("written, and not read: %v\n%s", err, once)
		}
		if twice, err := again.encode(); err != nil || string(twice) != string(once) {
			t.Errorf("%s became %s, %v", once, twice, err)
		}
		_ = to.unit(rec, time.Second)
	})
}

// The hash of an answer survives, so that clients that send it back are understood.
func TestAnAnswerFromTheSpoolIsTheSame(t *testing.T) {
	h := newHouse(t, testkit.SQLite(t), Options{})
	back := h.away()
	h.chat("hello", "", "X-Thread-Id", "spooled").want(t, 503)
	back()
	testkit.Eventually(t, 5*time.Second, func() bool { return h.free("spooled") }, "the record to be made")
	m, err := h.stored("spooled")
	if err != nil || len(m) != 2 {
		t.Fatal(m, err)
	}
	own, _, err := openai.Canon(m[1].Raw)
	if err != nil || string(own[:]) != string(m[1].Own) {
		t.Errorf("its hash is %x, want %x, %v", m[1].Own, own, err)
	}
	content := json.RawMessage(m[1].Raw)
	r := h.do("POST", "/v1/chat/completions", `{"model":"openai/gpt-5-mini","messages":[{"role":"user","content":"hello"},`+string(content)+`,{"role":"user","content":"more"}]}`, "X-Thread-Id", "spooled")
	r.want(t, 200)
	if got := h.messages("spooled"); len(got) != 4 {
		t.Errorf("the thread reads %q", got)
	}
}
