package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"threadhub/internal/testkit"
	"threadhub/orgs"
)

// another makes one more key of the house's admin, and returns it as a header.
func (h *house) another() []string {
	h.t.Helper()
	key, _, err := h.orgs.CreateKey(h.t.Context(), h.admin.Org, orgs.Actor{}, orgs.KeySpec{User: h.admin.User, Name: "another"})
	if err != nil {
		h.t.Fatal(err)
	}
	return []string{"Authorization", "Bearer " + key.Reveal()}
}

// changed is a change of the admin's key.
func changed(c orgs.KeyChange) func(h *house) error {
	return func(h *house) error {
		_, err := h.orgs.UpdateKey(h.t.Context(), h.admin.Org, orgs.Actor{}, h.admin.Key, c)
		return err
	}
}

// What took the caller's right to it away ends a stream: with an error that says so and no good end, kept as incomplete,
// and charged.
func TestAStreamEndsWithItsCallersRight(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct {
		do   func(h *house) error
		code string
	}{
		"revoked": {func(h *house) error { return h.orgs.RevokeKey(h.t.Context(), h.admin.Org, orgs.Actor{}, h.admin.Key) }, "key_revoked"},
		"now a viewer": {func(h *house) error {
			_, err := h.orgs.Seed(h.t.Context(), orgs.SeedSpec{Org: "house", Email: "admin@house.test", Role: orgs.Viewer})
			return err
		}, "permission_denied"},
		"disabled": {changed(orgs.KeyChange{Disabled: new(true)}), "key_revoked"},
		"expired": {func(h *house) error {
			return changed(orgs.KeyChange{Expires: new(time.Now().Add(time.Second))})(h)
		}, "key_revoked"},
		"good for reading alone":         {changed(orgs.KeyChange{ReadOnly: new(true)}), "permission_denied"},
		"good for other models":          {changed(orgs.KeyChange{Models: &[]string{"other-*"}}), "model_not_allowed"},
		"good for other providers alone": {changed(orgs.KeyChange{Providers: &[]string{"openrouter"}}), "model_not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			eachHouse(t, Options{}, func(t *testing.T, h *house) {
				another := h.another()
				body, c := h.stream("delay=50ms chunks=2000 size=40000", "revoked")
				defer func() { _ = c.Close() }()
				start := time.Now()
				if err := end.do(h); err != nil {
					t.Fatal(err)
				}
				rest, err := io.ReadAll(body)
				if err != nil || !strings.Contains(string(rest), `"code":"`+end.code+`"`) || strings.Contains(string(rest), "[DONE]") {
					t.Errorf("the stream ended with %v: %.300s", err, rest[max(0, len(rest)-300):])
				}
				if took := time.Since(start); took > 10*time.Second { // a second is promised, to a machine that has it
					t.Errorf("it ended after %v", took)
				}
				m, err := h.stored("revoked")
				if err != nil || len(m) != 2 || m[1].Status != "incomplete" || m[1].Reason != end.code {
					t.Fatalf("the thread reads %+v, %v", m, err)
				}
				call := h.do("GET", "/v1/requests/"+gjson.GetBytes(m[1].Meta, "request_id").Str, "", another...).want(t, 200).json(t)
				if call["status"] != "incomplete" || call["status_reason"] != end.code || call["cost_usd"] == nil || call["cost_usd"] == "0" {
					t.Errorf("the call reads %v", call)
				}
				if holder, err := h.calls.Holder(t.Context(), h.admin.Org, "revoked"); err != nil || holder != nil {
					t.Errorf("the turn is still held: %+v, %v", holder, err)
				}
				for _, a := range h.attempts() { // and the provider's stream is ended
					if a.End == "complete" {
						t.Errorf("the provider was heard out: %+v", a)
					}
				}
			})
		})
	}
}

// The same for an answer in one piece, while the provider is waited for.
// A file is a stream too: whoever may read no longer gets no more of it.
func TestAnExportEndsWithItsCallersRight(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		thread := h.newThread("")
		long := strings.Repeat("word ", 50_000)
		for range 60 {
			h.add(thread, long)
		}
		req, err := http.NewRequestWithContext(t.Context(), "GET", h.url+"/api/threads/"+string(thread)+"/export", nil)
		if err != nil {
			t.Fatal(err)
		}
		key := h.made("/api/keys", `{}`)
		req.Header.Set("Authorization", "Bearer "+key["api_key"].(string))
		resp, err := houseClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		h.do("DELETE", "/api/keys/"+key["id"].(string), "").want(t, 200)
		piece := make([]byte, 16<<10) // so little at a time that all of it would take longer than the end
		got := 0
		testkit.Eventually(t, 20*time.Second, func() bool {
			n, err := io.ReadFull(resp.Body, piece)
			got += n
			return err != nil
		}, "an end of the file")
		if got >= 60*len(long)-1000 {
			t.Error("the whole file came")
		}
	})
}

func TestAWholeCallEndsWithItsKey(t *testing.T) {
	t.Parallel()
	eachHouse(t, Options{}, func(t *testing.T, h *house) {
		another := h.another()
		answered := make(chan heard, 1)
		go func() { answered <- h.chat(`[[sim head=2500ms]]`, "", "X-Thread-Id", "whole") }()
		testkit.Eventually(t, 10*time.Second, func() bool { return len(h.sim.Log()) == 1 }, "the provider to be asked")
		if err := h.orgs.RevokeKey(t.Context(), h.admin.Org, orgs.Actor{}, h.admin.Key); err != nil {
			t.Fatal(err)
		}
		r := <-answered
		if r.status != 401 || r.code() != "key_revoked" || r.header.Get("X-Should-Retry") != "false" {
			t.Errorf("answered %d: %s", r.status, r.body)
		}
		call := h.do("GET", "/v1/requests/"+r.header.Get("X-Request-Id"), "", another...).want(t, 200).json(t)
		if call["status"] != "failed" || call["status_reason"] != "key_revoked" {
			t.Errorf("the call reads %v", call)
		}
	})
}

// A call that ends well leaves nothing that is watched.
func TestNothingIsWatchedAfterACall(t *testing.T) {
	w := &counting{}
	h := newHouse(t, testkit.SQLite(t), Options{})
	h.opts.Watcher = w
	h.chat("hi", "").want(t, 200)
	h.chat("hi", `,"stream":true`).want(t, 200)
	h.chat("[[sim status=400]]", "")
	testkit.Eventually(t, 10*time.Second, func() bool { return w.stopped.Load() == 3 }, "three watches to end")
	if n := w.begun.Load(); n != 3 {
		t.Errorf("%d watches for three calls", n)
	}
}

// counting counts watches.
type counting struct{ begun, stopped atomic.Int64 }

func (c *counting) Watch(orgs.Caller, func(orgs.Caller) error, func(error)) func() {
	c.begun.Add(1)
	return func() { c.stopped.Add(1) }
}
