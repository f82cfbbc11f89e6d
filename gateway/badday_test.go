package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"threadhub/internal/testkit"
	"threadhub/migrations"
)

// stream begins a streamed chat and returns its body once the first text has come.
func (h *house) stream(directive, thread string) (*bufio.Reader, io.Closer) {
	h.t.Helper()
	body := fmt.Sprintf(`{"model":"openai/gpt-5-mini","stream":true,"messages":[{"role":"user","content":"[[sim %s]]"}]}`, directive)
	req, err := http.NewRequestWithContext(h.t.Context(), "POST", h.url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.admin.APIKey.Reveal())
	req.Header.Set("X-Thread-Id", thread)
	resp, err := houseClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		h.t.Fatalf("status %d", resp.StatusCode)
	}
	r := bufio.NewReader(resp.Body)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			h.t.Fatal(err)
		}
		if strings.Contains(line, `"content":"`) && !strings.Contains(line, `"content":""`) {
			return r, resp.Body
		}
	}
}

func TestDrainEndsStreamsTruthfully(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{Drain: 200 * time.Millisecond}, func(t *testing.T, h *house) {
		body, c := h.stream("delay=50ms chunks=200 size=4000", "drained")
		defer func() { _ = c.Close() }()
		stopped := make(chan error, 1)
		go func() { stopped <- h.Shutdown(context.Background()) }()
		rest, err := io.ReadAll(body)
		if err != nil || !strings.Contains(string(rest), `"code":"draining"`) || strings.Contains(string(rest), "[DONE]") {
			t.Errorf("the stream ended with %v: %.300s", err, rest[max(0, len(rest)-300):])
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		m, err := h.stored("drained")
		if err != nil || len(m) != 2 || m[1].Reason != "draining" {
			t.Errorf("the thread reads %+v, %v", m, err)
		}
		if holder, err := h.calls.Holder(t.Context(), h.admin.Org, "drained"); err != nil || holder != nil {
			t.Errorf("the turn is still held: %+v, %v", holder, err)
		}
	})
}

// The store freezes while an answer comes, and is back before the record's patience ends: the client sees heartbeats and
// then a clean end.
func TestAStoreThatIsAwayDelaysTheEnd(t *testing.T) {
	pg := testkit.StartFor(t, testkit.Options{NoRedis: true, Durable: true}).Postgres
	if err := migrations.Up(t.Context(), pg.URL(), migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, pg.URL(), Options{Heartbeat: 200 * time.Millisecond})
	body, c := h.stream("delay=20ms chunks=20 size=400", "away")
	defer func() { _ = c.Close() }()
	if err := pg.Freeze(); err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	for !strings.Contains(seen.String(), ": ping") { // the provider has ended, and the record waits
		line, err := body.ReadString('\n')
		if err != nil || strings.Contains(line, "[DONE]") || strings.Contains(line, `"error"`) {
			t.Fatalf("before the store was back: %q, %v", line, err)
		}
		seen.WriteString(line)
	}
	if err := pg.Thaw(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(body)
	if err != nil || !strings.HasSuffix(string(rest), "data: [DONE]\n\n") {
		t.Errorf("after the store was back: %v, %q", err, rest)
	}
	if m := h.messages("away"); len(m) != 2 || !strings.HasSuffix(m[1], ":complete") {
		t.Errorf("the thread reads %q", m)
	}
}

// A store that dies and comes back later than anybody waits for: the client is told, the record lies on
// the disk, and it is made when it can be.
func TestARecordIsMadeWhenTheStoreIsBack(t *testing.T) {
	pg := testkit.StartFor(t, testkit.Options{NoRedis: true, Durable: true}).Postgres
	if err := migrations.Up(t.Context(), pg.URL(), migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, pg.URL(), Options{Heartbeat: 200 * time.Millisecond})
	body, c := h.stream("delay=20ms chunks=20 size=400", "dead")
	defer func() { _ = c.Close() }()
	if err := pg.Kill(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(body)
	if err != nil || !strings.Contains(string(rest), `"code":"storage_unavailable"`) && !strings.Contains(string(rest), `"code":"outcome_unknown"`) {
		t.Errorf("the stream ended with %v: %.300s", err, rest[max(0, len(rest)-300):])
	}
	if st := h.opts.Spool.Stats(); st.Records != 1 {
		t.Errorf("the spool has %+v", st)
	}
	if r := h.chat("while it is dead", ""); r.status != 503 || r.header.Get("Retry-After") == "" {
		t.Errorf("a call meanwhile: status %d, %s", r.status, r.body)
	}
	if err := pg.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, func() bool {
		m, err := h.stored("dead")
		return err == nil && len(m) == 2 && m[1].Status == "complete"
	}, "the answer to be recorded after all")
	testkit.Eventually(t, 5*time.Second, func() bool { return h.opts.Spool.Stats().Records == 0 }, "the spool to be empty")
}
